-- An app's own definition stands beside this one.
-- @partial
-- The tables of a file library. Every replica of the group has them; what is marked as local has rows of this device alone.
-- A table never loses a column: others may be of an earlier version.
CREATE TABLE library_settings(
  name TEXT NOT NULL PRIMARY KEY,
  value TEXT
);
CREATE TABLE library_kinds(
  name TEXT NOT NULL PRIMARY KEY,
  definition TEXT NOT NULL
);
CREATE TABLE library_files(
  id TEXT NOT NULL PRIMARY KEY,
  path TEXT NOT NULL,
  kind TEXT NOT NULL,
  name TEXT NOT NULL,
  bytes INTEGER NOT NULL,
  content TEXT NOT NULL,
  chunks BLOB,
  sha1 TEXT,
  sha256 TEXT,
  metadata TEXT,
  added_ms INTEGER NOT NULL,
  replaced_by TEXT,
  trashed_ms INTEGER
);
CREATE INDEX library_files_path ON library_files(path);
CREATE INDEX library_files_content ON library_files(content);
CREATE TABLE library_presence(
  file TEXT NOT NULL,
  device TEXT NOT NULL,
  root TEXT NOT NULL,
  path TEXT NOT NULL,
  state TEXT NOT NULL,
  since_ms INTEGER NOT NULL,
  PRIMARY KEY(file, device, root, path)
);
CREATE INDEX library_presence_place ON library_presence(device, root, path);
CREATE TABLE library_sets(
  name TEXT NOT NULL,
  file TEXT NOT NULL,
  PRIMARY KEY(name, file)
);
CREATE TABLE library_roots( -- @scope local
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  device TEXT NOT NULL,
  name TEXT NOT NULL UNIQUE,
  folder TEXT NOT NULL,
  kinds TEXT,
  mark TEXT,
  kinds_seen TEXT,
  flag TEXT,
  scanned_ms INTEGER
);
CREATE TABLE library_scan( -- @scope local
  id INTEGER PRIMARY KEY,
  root INTEGER NOT NULL,
  path TEXT NOT NULL,
  bytes INTEGER NOT NULL,
  modified_ns INTEGER NOT NULL,
  changed_ns INTEGER NOT NULL,
  inode INTEGER NOT NULL,
  file TEXT,
  content TEXT,
  state TEXT NOT NULL,
  why TEXT,
  change TEXT,
  op INTEGER,
  UNIQUE(root, path)
);
CREATE INDEX library_scan_file ON library_scan(file);
CREATE INDEX library_scan_content ON library_scan(root, content);
CREATE INDEX library_scan_op ON library_scan(op);
CREATE TABLE library_stored( -- @scope local
  remote TEXT NOT NULL,
  file TEXT NOT NULL,
  PRIMARY KEY(remote, file)
);
CREATE INDEX library_stored_file ON library_stored(file);
CREATE TABLE library_chunks( -- @scope local
  remote TEXT NOT NULL,
  name TEXT NOT NULL,
  listing INTEGER NOT NULL,
  trust INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY(remote, name)
) WITHOUT ROWID;
CREATE TABLE library_listings( -- @scope local
  remote TEXT NOT NULL PRIMARY KEY,
  number INTEGER NOT NULL,
  at_ms INTEGER NOT NULL
);
CREATE TABLE library_transfers( -- @scope local
  file TEXT NOT NULL,
  remote TEXT NOT NULL,
  what TEXT NOT NULL,
  state TEXT NOT NULL,
  done_bytes INTEGER NOT NULL DEFAULT 0,
  total_bytes INTEGER NOT NULL DEFAULT 0,
  error TEXT,
  updated_ms INTEGER NOT NULL,
  PRIMARY KEY(file, remote, what)
);
CREATE TABLE library_pins( -- @scope local
  file TEXT NOT NULL PRIMARY KEY
);
CREATE TABLE library_trash( -- @scope local
  file TEXT NOT NULL,
  root INTEGER NOT NULL,
  name TEXT NOT NULL,
  path TEXT NOT NULL,
  since_ms INTEGER NOT NULL,
  why TEXT NOT NULL,
  PRIMARY KEY(file, root, name)
);
