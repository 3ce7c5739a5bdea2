CREATE TABLE records (
    device_id TEXT NOT NULL, record_id TEXT PRIMARY KEY, kind TEXT NOT NULL, seq BIGINT NOT NULL,
    epoch TEXT NOT NULL, exam_id TEXT, created_at TEXT NOT NULL, received_at TEXT NOT NULL, body TEXT NOT NULL
);

-- One row for each device and epoch. known: the numbers that came, were refused, or that the device itself
-- declared lost; highest: of those that were stored; holes: below it and not known.
CREATE TABLE streams (
    device_id TEXT NOT NULL, epoch TEXT NOT NULL, highest BIGINT NOT NULL, known INT8MULTIRANGE NOT NULL,
    updated_at TEXT NOT NULL,
    holes INT8MULTIRANGE NOT NULL
        GENERATED ALWAYS AS (int8multirange(int8range(1, highest + 1)) - known) STORED,
    PRIMARY KEY (device_id, epoch)
) WITH (fillfactor = 70);

CREATE INDEX streams_with_holes ON streams (updated_at) WHERE NOT isempty(holes);

INSERT INTO streams (device_id, epoch, highest, known, updated_at)
SELECT device_id, epoch, max(seq), range_agg(int8range(seq, seq + 1)), max(received_at)
FROM (SELECT device_id, epoch, seq, received_at FROM findings
      UNION ALL SELECT device_id, epoch, seq, received_at FROM events) AS came
GROUP BY device_id, epoch;

-- What a person asks for: numbers that are late or lost, and nobody said why.
CREATE VIEW missing AS
SELECT device_id, epoch, lower(hole) AS first, upper(hole) - 1 AS last, upper(hole) - lower(hole) AS numbers,
       updated_at
FROM streams, unnest(holes) AS hole
WHERE NOT isempty(holes);
