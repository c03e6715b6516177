-- @version 1.0.0
CREATE TABLE code_content(
  id INTEGER PRIMARY KEY,
  file_id TEXT NOT NULL REFERENCES files(id) ON DELETE CASCADE,
  entity_type TEXT NOT NULL,
  entity_name TEXT,
  content TEXT,
  docstring TEXT
);
CREATE INDEX idx_code_content_file ON code_content(file_id);
CREATE TABLE datasets(
  id TEXT PRIMARY KEY,
  project_id TEXT NOT NULL REFERENCES projects(id) ON DELETE CASCADE,
  root_path TEXT NOT NULL,
  name TEXT,
  created_at REAL,
  updated_at REAL,
  UNIQUE(project_id, root_path)
);
CREATE TABLE db_settings(key TEXT PRIMARY KEY, value TEXT NOT NULL, updated_at REAL);
CREATE TABLE files(
  id TEXT PRIMARY KEY,
  project_id TEXT NOT NULL REFERENCES projects(id) ON DELETE CASCADE,
  dataset_id TEXT NOT NULL REFERENCES datasets(id) ON DELETE CASCADE,
  path TEXT NOT NULL,
  lines INTEGER,
  last_modified REAL,
  has_docstring INTEGER CHECK(has_docstring IN (0, 1)),
  deleted INTEGER NOT NULL DEFAULT 0 CHECK(deleted IN (0, 1)),
  original_path TEXT,
  version_dir TEXT,
  created_at REAL,
  updated_at REAL,
  UNIQUE(project_id, dataset_id, path)
);
CREATE INDEX idx_files_deleted ON files(deleted) WHERE deleted = 1;
CREATE TABLE issues(
  id TEXT PRIMARY KEY,
  file_id TEXT REFERENCES files(id) ON DELETE SET NULL,
  line INTEGER,
  issue_type TEXT NOT NULL,
  description TEXT NOT NULL DEFAULT ''
);
-- @merge "issues"."description" text
CREATE TABLE projects(
  id TEXT PRIMARY KEY,
  root_path TEXT NOT NULL UNIQUE,
  name TEXT,
  comment TEXT,
  created_at REAL,
  updated_at REAL
);
CREATE VIRTUAL TABLE code_content_fts USING fts5(
  entity_type, entity_name, content, docstring, content='code_content', content_rowid='id'
);
CREATE TRIGGER code_content_in AFTER INSERT ON code_content BEGIN
  INSERT INTO code_content_fts(rowid, entity_type, entity_name, content, docstring)
    VALUES(new.id, new.entity_type, new.entity_name, new.content, new.docstring);
END;
CREATE TRIGGER code_content_out AFTER DELETE ON code_content BEGIN
  INSERT INTO code_content_fts(code_content_fts, rowid, entity_type, entity_name, content, docstring)
    VALUES('delete', old.id, old.entity_type, old.entity_name, old.content, old.docstring);
END;
CREATE TRIGGER code_content_over AFTER UPDATE ON code_content BEGIN
  INSERT INTO code_content_fts(code_content_fts, rowid, entity_type, entity_name, content, docstring)
    VALUES('delete', old.id, old.entity_type, old.entity_name, old.content, old.docstring);
  INSERT INTO code_content_fts(rowid, entity_type, entity_name, content, docstring)
    VALUES(new.id, new.entity_type, new.entity_name, new.content, new.docstring);
END;
