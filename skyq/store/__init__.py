"""SQLite and the lock: the only importer of sqlite3 and filelock."""
