-- Also for a database from before the migrations had numbers: it has these tables already.
CREATE TABLE IF NOT EXISTS findings (
    device_id TEXT NOT NULL, finding_id TEXT PRIMARY KEY, seq BIGINT NOT NULL, epoch TEXT NOT NULL,
    exam_id TEXT NOT NULL, created_at TEXT NOT NULL, received_at TEXT NOT NULL, body TEXT NOT NULL
);

CREATE TABLE IF NOT EXISTS events (
    device_id TEXT NOT NULL, event_id TEXT PRIMARY KEY, seq BIGINT NOT NULL, epoch TEXT NOT NULL,
    exam_id TEXT NOT NULL, created_at TEXT NOT NULL, received_at TEXT NOT NULL, body TEXT NOT NULL
);

-- What could not be read, as it came: somebody must look at it, and it must not come again and again.
CREATE TABLE IF NOT EXISTS quarantine (
    digest TEXT PRIMARY KEY, topic TEXT NOT NULL, reason TEXT NOT NULL, received_at TEXT NOT NULL,
    payload BLOB NOT NULL
);
