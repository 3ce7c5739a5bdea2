-- One row for each hole instead of all that is known of a stream in one value: that was written anew with each record, and
-- a device that scattered its numbers made it as large as it liked.
CREATE TABLE holes (
    device_id TEXT NOT NULL, epoch TEXT NOT NULL, first BIGINT NOT NULL, last BIGINT NOT NULL,
    PRIMARY KEY (device_id, epoch, first)
);

INSERT INTO holes SELECT device_id, epoch, first, last FROM missing;

-- Refused numbers above the highest that was stored: no holes once it is above them.
CREATE TABLE refused_ahead (
    device_id TEXT NOT NULL, epoch TEXT NOT NULL, seq BIGINT NOT NULL, PRIMARY KEY (device_id, epoch, seq)
);

INSERT INTO refused_ahead
SELECT device_id, epoch, generate_series(lower(part), upper(part) - 1)
FROM streams, unnest(known - int8multirange(int8range(1, highest + 1))) AS part;

-- What a person asks for: numbers that are late or lost, and nobody said why. Replaced, not dropped: views of their own
-- may stand on it.
CREATE OR REPLACE VIEW missing AS
SELECT device_id, epoch, first, last, last - first + 1 AS numbers, updated_at
FROM holes JOIN streams USING (device_id, epoch);

ALTER TABLE streams DROP COLUMN holes, DROP COLUMN known, ADD COLUMN missing BIGINT NOT NULL DEFAULT 0;

UPDATE streams SET missing = sums.numbers
FROM (SELECT device_id, epoch, sum(last - first + 1) AS numbers FROM holes GROUP BY device_id, epoch) AS sums
WHERE streams.device_id = sums.device_id AND streams.epoch = sums.epoch;

CREATE INDEX streams_with_holes ON streams (missing) WHERE missing > 0;
