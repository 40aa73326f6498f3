-- One database per cluster. Changes are additive; user_version counts them.
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE nodes (
    name     TEXT PRIMARY KEY,
    idx      INTEGER NOT NULL UNIQUE,  -- cluster order, 0: the head
    ip       TEXT NOT NULL,
    cpus     INTEGER NOT NULL,         -- milli-CPUs
    memory   INTEGER NOT NULL,         -- MB
    devices  TEXT NOT NULL,            -- JSON: [[index, accelerator, uuid], ...]
    unusable TEXT NOT NULL DEFAULT '',
    reach    TEXT NOT NULL DEFAULT '', -- JSON: [host, port, user] for ssh; '': the head itself
    removed  INTEGER NOT NULL DEFAULT 0 -- 1: no longer of the cluster; its index stays taken, old logs bear it
) WITHOUT ROWID;

CREATE TABLE jobs (
    id                  INTEGER PRIMARY KEY AUTOINCREMENT,
    uuid                TEXT NOT NULL UNIQUE,  -- the client's: a repeated submit finds its row
    name                TEXT,
    user                TEXT NOT NULL,
    state               TEXT NOT NULL DEFAULT 'PENDING' CHECK (state IN (
        'PENDING',        -- -> SETTING_UP | RUNNING | CANCELLED | FAILED
        'SETTING_UP',     -- -> RUNNING | any final one | PENDING (requeue)
        'RUNNING',        -- -> any final one | PENDING (requeue)
        'SUCCEEDED', 'FAILED', 'FAILED_SETUP', 'FAILED_DRIVER', 'CANCELLED'  -- final: never left
    )),
    submitted_at        REAL NOT NULL,
    started_at          REAL,
    ended_at            REAL,
    num_nodes           INTEGER NOT NULL CHECK (num_nodes > 0),
    alternatives        TEXT NOT NULL,         -- JSON: [[accelerator, amount, cpus, memory], ...]
    priority            INTEGER NOT NULL DEFAULT 0,
    attempt             INTEGER NOT NULL DEFAULT 1,
    alternative         INTEGER,
    cancel_requested_at REAL,                  -- an intent; the state follows when the processes are dead
    reason              TEXT NOT NULL DEFAULT '',
    exit_codes          TEXT NOT NULL DEFAULT '[]',
    has_setup           INTEGER NOT NULL DEFAULT 0,
    cpus_shown          TEXT NOT NULL DEFAULT '',
    task_id             TEXT NOT NULL DEFAULT '',
    pids                TEXT NOT NULL DEFAULT '{}',
    grants              TEXT NOT NULL DEFAULT '[]',  -- JSON: [[node, rank, [[device, amount], ...], cpus, memory], ...]
    setup_on            TEXT NOT NULL DEFAULT '[]',  -- JSON: the nodes that the current attempt's setup runs on
    recovery            TEXT NOT NULL DEFAULT '[0,[],false]',  -- JSON: [retries, exit codes, requeue]
    failures            INTEGER NOT NULL DEFAULT 0,  -- earlier attempts that count as retries
    losses              INTEGER NOT NULL DEFAULT 0,  -- earlier attempts that don't
    awaits              TEXT NOT NULL DEFAULT '[]',  -- JSON: nodes that a lost attempt may still run on
    after               TEXT NOT NULL DEFAULT '[]',  -- JSON: [[job id, "ok" | "any" | "failed"], ...]
    held                TEXT NOT NULL DEFAULT '',    -- by whom, since when
    array               TEXT NOT NULL DEFAULT '',    -- JSON: [first id, count, how many at once]; '': it came alone
    time_limit          TEXT NOT NULL DEFAULT '[0,"",0,0]',  -- JSON: [seconds, signal, seconds before, grace]
    overtaken           REAL,                  -- seconds since a later job first started where this might have
    rev                 INTEGER NOT NULL,      -- grows with every change of any row
    spec                TEXT NOT NULL,         -- JSON; last, so that reading the rest skips it
    CHECK (state NOT IN ('SUCCEEDED', 'FAILED', 'FAILED_SETUP', 'FAILED_DRIVER', 'CANCELLED')
           OR (ended_at IS NOT NULL AND reason <> ''))
);

CREATE UNIQUE INDEX jobs_by_rev ON jobs (rev);
CREATE INDEX jobs_unfinished ON jobs (id) WHERE state IN ('PENDING', 'SETTING_UP', 'RUNNING');

CREATE TRIGGER final_is_final BEFORE UPDATE OF state ON jobs
WHEN OLD.state IN ('SUCCEEDED', 'FAILED', 'FAILED_SETUP', 'FAILED_DRIVER', 'CANCELLED')
BEGIN
    SELECT RAISE(ABORT, 'a final state is never left');
END;

-- What is given out now; the trigger is the last guard against giving a device twice.
CREATE TABLE device_use (
    node   TEXT NOT NULL,
    device INTEGER NOT NULL,
    job_id INTEGER NOT NULL REFERENCES jobs (id),
    amount INTEGER NOT NULL CHECK (amount BETWEEN 1 AND 10000),  -- 1/10000 of a device
    PRIMARY KEY (node, device, job_id)
) WITHOUT ROWID;
CREATE INDEX device_use_by_job ON device_use (job_id);

CREATE TRIGGER never_oversubscribed BEFORE INSERT ON device_use
WHEN (SELECT coalesce(sum(amount), 0) FROM device_use
      WHERE node = NEW.node AND device = NEW.device) + NEW.amount > 10000
BEGIN
    SELECT RAISE(ABORT, 'a device would be given beyond 1');
END;

CREATE TABLE events (
    id         INTEGER PRIMARY KEY,
    job_id     INTEGER NOT NULL REFERENCES jobs (id),
    at         REAL NOT NULL,
    from_state TEXT NOT NULL,
    to_state   TEXT NOT NULL,
    reason     TEXT NOT NULL
);
CREATE INDEX events_by_job ON events (job_id);

-- How attempts ended whose jobs were run again.
CREATE TABLE attempts (
    job_id INTEGER NOT NULL REFERENCES jobs (id),
    number INTEGER NOT NULL,  -- 1, 2, ...: as people count them
    record TEXT NOT NULL,     -- JSON: what the row in jobs said of it
    PRIMARY KEY (job_id, number)
) WITHOUT ROWID;

-- Logs on workers whose last bytes the head lacks although the attempt has ended.
CREATE TABLE owed_logs (
    job_id  INTEGER NOT NULL REFERENCES jobs (id),
    step    TEXT NOT NULL,
    node    TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    PRIMARY KEY (job_id, step, attempt)
) WITHOUT ROWID;

-- Devices that nobody may get: processes of an ended job use them, and can't be killed.
CREATE TABLE quarantine (
    node    TEXT NOT NULL,
    device  INTEGER NOT NULL,
    job_id  INTEGER NOT NULL REFERENCES jobs (id),
    attempt INTEGER NOT NULL,
    step    TEXT NOT NULL,
    since   REAL NOT NULL,
    who     TEXT NOT NULL,
    PRIMARY KEY (node, device, job_id, attempt, step)
) WITHOUT ROWID;

CREATE TRIGGER never_quarantined BEFORE INSERT ON device_use
WHEN EXISTS (SELECT 1 FROM quarantine WHERE node = NEW.node AND device = NEW.device)
BEGIN
    SELECT RAISE(ABORT, 'a device is quarantined');
END;

PRAGMA user_version = 5;
