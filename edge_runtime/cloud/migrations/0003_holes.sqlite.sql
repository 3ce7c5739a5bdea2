-- One row for each hole instead of all that is known of a stream in one value: that was written anew with each record, and
-- a device that scattered its numbers made it as large as it liked.
CREATE TABLE holes (
    device_id TEXT NOT NULL, epoch TEXT NOT NULL, first BIGINT NOT NULL, last BIGINT NOT NULL,
    PRIMARY KEY (device_id, epoch, first)
) WITHOUT ROWID;

INSERT INTO holes SELECT device_id, epoch, first, last FROM missing;

-- Refused numbers above the highest that was stored: no holes once it is above them.
CREATE TABLE refused_ahead (
    device_id TEXT NOT NULL, epoch TEXT NOT NULL, seq BIGINT NOT NULL, PRIMARY KEY (device_id, epoch, seq)
) WITHOUT ROWID;

INSERT INTO refused_ahead
WITH RECURSIVE ahead (device_id, epoch, seq, last) AS (
    SELECT device_id, epoch, json_extract(value, '$[0]'), json_extract(value, '$[1]')
    FROM streams, json_each(known) WHERE json_extract(value, '$[0]') > highest
    UNION ALL SELECT device_id, epoch, seq + 1, last FROM ahead WHERE seq < last
)
SELECT device_id, epoch, seq FROM ahead;

-- Copied, not renamed: to rename SQLite wants every view to be whole, and somebody's own may stand on this one.
CREATE TABLE streams_before AS SELECT device_id, epoch, highest, updated_at FROM streams;
DROP VIEW missing;
DROP TABLE streams;

CREATE TABLE streams (
    device_id TEXT NOT NULL, epoch TEXT NOT NULL, highest BIGINT NOT NULL, updated_at TEXT NOT NULL,
    missing BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (device_id, epoch)
);

INSERT INTO streams
SELECT device_id, epoch, highest, updated_at,
       (SELECT coalesce(sum(last - first + 1), 0) FROM holes
        WHERE holes.device_id = streams_before.device_id AND holes.epoch = streams_before.epoch)
FROM streams_before;

DROP TABLE streams_before;
CREATE INDEX streams_with_holes ON streams (missing) WHERE missing > 0;

-- What a person asks for: numbers that are late or lost, and nobody said why.
CREATE VIEW missing AS
SELECT device_id, epoch, first, last, last - first + 1 AS numbers, updated_at
FROM holes JOIN streams USING (device_id, epoch);
