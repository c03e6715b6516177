-- What a device did, for its user to read; each device has its own log.
CREATE TABLE database_sync_log( -- @scope local
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  sync_type INTEGER NOT NULL CHECK(sync_type IN (0, 1)),
  sync_time TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
  device_id TEXT NOT NULL,
  cloud_version TEXT,
  local_version TEXT,
  conflict_detected INTEGER NOT NULL DEFAULT 0,
  conflict_resolution INTEGER,
  message TEXT NOT NULL DEFAULT ''
);
CREATE INDEX idx_database_sync_log_device ON database_sync_log(device_id, sync_time DESC);
-- The devices of the group, for their users to read.
CREATE TABLE device(
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  created_at TEXT,
  last_seen TEXT                                        -- @merge max
);
