CREATE TABLE records (
    device_id TEXT NOT NULL, record_id TEXT PRIMARY KEY, kind TEXT NOT NULL, seq BIGINT NOT NULL,
    epoch TEXT NOT NULL, exam_id TEXT, created_at TEXT NOT NULL, received_at TEXT NOT NULL, body TEXT NOT NULL
);

-- One row for each device and epoch. known: the numbers that came, were refused, or that the device itself
-- declared lost, as JSON [[first, last], ...] ascending; highest: of those that were stored.
CREATE TABLE streams (
    device_id TEXT NOT NULL, epoch TEXT NOT NULL, highest BIGINT NOT NULL, known TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    PRIMARY KEY (device_id, epoch)
);

INSERT INTO streams (device_id, epoch, highest, known, updated_at)
WITH came AS (
    SELECT device_id, epoch, seq, max(received_at) AS received_at
    FROM (SELECT device_id, epoch, seq, received_at FROM findings
          UNION ALL SELECT device_id, epoch, seq, received_at FROM events)
    GROUP BY device_id, epoch, seq
), numbered AS (
    SELECT *, seq - row_number() OVER (PARTITION BY device_id, epoch ORDER BY seq) AS island FROM came
), islands AS (
    SELECT device_id, epoch, min(seq) AS first, max(seq) AS last, max(received_at) AS received_at
    FROM numbered GROUP BY device_id, epoch, island ORDER BY 1, 2, 3
)
SELECT device_id, epoch, max(last), json_group_array(json_array(first, last)), max(received_at)
FROM islands GROUP BY device_id, epoch;

-- What a person asks for: numbers that are late or lost, and nobody said why.
CREATE VIEW missing AS
SELECT device_id, epoch, before + 1 AS first, first - 1 AS last, first - 1 - before AS numbers, updated_at
FROM (
    SELECT device_id, epoch, highest, updated_at, json_extract(value, '$[0]') AS first,
           lag(json_extract(value, '$[1]'), 1, 0) OVER (PARTITION BY device_id, epoch ORDER BY key) AS before
    FROM streams, json_each(known)
)
WHERE first > before + 1 AND before < highest;
