-- @version 1.1.0
CREATE TABLE device(
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  created_at TEXT,
  last_seen TEXT
);
-- @merge "device"."last_seen" max
CREATE TABLE emulator(
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  executable TEXT NOT NULL,
  arguments TEXT NOT NULL DEFAULT '[]',
  system_id TEXT REFERENCES system(id) ON DELETE SET NULL
);
-- @group "emulator"("executable", "arguments")
CREATE TABLE file_info(
  sha1 TEXT PRIMARY KEY,
  file_size INTEGER NOT NULL,
  archive_name TEXT,
  is_available INTEGER NOT NULL DEFAULT 1 CHECK(is_available IN (0, 1))
);
CREATE TABLE file_set(
  id TEXT PRIMARY KEY,
  release_id TEXT REFERENCES release(id) ON DELETE SET NULL,
  file_type TEXT NOT NULL CHECK(file_type IN ('rom', 'disk_image', 'manual', 'screenshot', 'cover')),
  name TEXT NOT NULL,
  source TEXT,
  tags TEXT NOT NULL DEFAULT '[]'
);
-- @merge "file_set"."tags" set
CREATE TABLE file_set_file_info(
  file_set_id TEXT NOT NULL REFERENCES file_set(id) ON DELETE CASCADE,
  file_sha1 TEXT NOT NULL REFERENCES file_info(sha1) ON DELETE CASCADE,
  file_name TEXT NOT NULL,
  sort_order INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY(file_set_id, file_sha1)
);
CREATE TABLE release(
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  year INTEGER,
  publisher TEXT
);
CREATE TABLE release_software_title(
  release_id TEXT NOT NULL REFERENCES release(id) ON DELETE CASCADE,
  software_title_id TEXT NOT NULL REFERENCES software_title(id) ON DELETE CASCADE,
  PRIMARY KEY(release_id, software_title_id)
);
CREATE TABLE release_system(
  release_id TEXT NOT NULL REFERENCES release(id) ON DELETE CASCADE,
  system_id TEXT NOT NULL REFERENCES system(id),
  PRIMARY KEY(release_id, system_id)
) WITHOUT ROWID;
CREATE TABLE setting(key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE software_title(
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  franchise TEXT,
  notes TEXT NOT NULL DEFAULT ''
);
-- @merge "software_title"."notes" text
CREATE TABLE system(
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL UNIQUE
);
-- @duplicates "system"."name" rename
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
-- @scope "database_sync_log" local
CREATE TABLE file_sync_log( -- @scope local
  id INTEGER PRIMARY KEY,
  file_sha1 TEXT REFERENCES file_info(sha1) ON DELETE CASCADE,
  status INTEGER NOT NULL,
  sync_time TEXT,
  message TEXT NOT NULL DEFAULT ''
);
-- @scope "file_sync_log" local
