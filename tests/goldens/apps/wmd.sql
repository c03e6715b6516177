-- @version 1.3.0
CREATE TABLE alias_patterns(
  id TEXT PRIMARY KEY,
  position INTEGER,
  pattern TEXT NOT NULL,
  base TEXT NOT NULL,
  description TEXT
);
CREATE TABLE download_history(
  id TEXT PRIMARY KEY,
  filename TEXT NOT NULL,
  directory TEXT,
  url TEXT,
  source TEXT,
  status TEXT NOT NULL,
  error TEXT,
  total_size INTEGER DEFAULT 0,
  downloaded_at TEXT,
  UNIQUE(filename, directory)
);
CREATE INDEX idx_download_history_filename ON download_history(filename);
CREATE INDEX idx_download_history_status ON download_history(status);
CREATE TABLE listed_models(
  id TEXT PRIMARY KEY,
  position INTEGER,
  filename TEXT NOT NULL,
  name TEXT,
  type TEXT,
  base TEXT,
  save_path TEXT,
  description TEXT,
  reference TEXT,
  url TEXT,
  size TEXT
);
CREATE INDEX idx_listed_models_filename ON listed_models(filename);
CREATE TABLE model_aliases(alias TEXT PRIMARY KEY COLLATE NOCASE, canonical_name TEXT NOT NULL, source TEXT);
CREATE INDEX idx_aliases_canonical ON model_aliases(canonical_name);
CREATE TABLE model_catalog(
  filename TEXT PRIMARY KEY,
  source TEXT NOT NULL,
  repo_id TEXT,
  hf_path TEXT,
  civitai_model_id TEXT,
  civitai_version_id TEXT,
  model_type TEXT,
  base_model TEXT,
  protected INTEGER NOT NULL DEFAULT 0 CHECK(protected IN (0, 1)),
  tags TEXT NOT NULL DEFAULT '[]',
  created_at TEXT
, "extra" TEXT NOT NULL DEFAULT '{}');
CREATE INDEX idx_catalog_model_type ON model_catalog(model_type);
CREATE INDEX idx_catalog_source ON model_catalog(source);
-- @merge "model_catalog"."tags" set
-- @merge "model_catalog"."extra" json
CREATE TABLE model_metadata(
  filename TEXT PRIMARY KEY,
  url TEXT,
  source TEXT,
  hf_repo TEXT,
  hf_path TEXT,
  civitai_url TEXT,
  civitai_model_id TEXT,
  civitai_version_id TEXT,
  model_name TEXT,
  model_type TEXT,
  base_model TEXT,
  sha256_hash TEXT,
  file_size INTEGER,
  user_url TEXT,
  extra TEXT NOT NULL DEFAULT '{}',
  cached_at TEXT,
  updated_at TEXT
);
CREATE INDEX idx_model_metadata_hash ON model_metadata(sha256_hash);
CREATE INDEX idx_model_metadata_source ON model_metadata(source);
-- @merge "model_metadata"."extra" json
CREATE TABLE node_metadata(
  node_type TEXT PRIMARY KEY,
  input_fields TEXT,
  output_fields TEXT,
  category TEXT,
  cached_at TEXT
);
CREATE TABLE settings(key TEXT PRIMARY KEY, value TEXT NOT NULL, updated_at TEXT);
CREATE TABLE usage_cache(
  filename TEXT PRIMARY KEY,
  directory TEXT,
  use_count INTEGER NOT NULL DEFAULT 0,
  last_used TEXT,
  first_used TEXT
, "workflows" TEXT NOT NULL DEFAULT '[]');
CREATE INDEX idx_usage_last_used ON usage_cache(last_used);
-- @merge "usage_cache"."use_count" counter
-- @merge "usage_cache"."last_used" max
-- @merge "usage_cache"."first_used" min
-- @merge "usage_cache"."workflows" set
CREATE TABLE search_cache( -- @scope local
  query TEXT NOT NULL,
  source TEXT NOT NULL,
  result TEXT NOT NULL,
  cached_at TEXT,
  expires_at TEXT,                                      -- @expires
  PRIMARY KEY(query, source)
);
CREATE INDEX idx_search_cache_expires ON search_cache(expires_at);
CREATE INDEX idx_search_cache_source ON search_cache(source);
-- @scope "search_cache" local
-- @expires "search_cache"."expires_at"
CREATE TABLE secrets(key TEXT PRIMARY KEY, value TEXT NOT NULL, updated_at TEXT);
-- @scope "secrets" local
CREATE VIRTUAL TABLE model_metadata_fts USING fts5(filename, model_name, model_type, base_model, extra, content='model_metadata', tokenize='unicode61 remove_diacritics 2');
CREATE TRIGGER model_metadata_fts_delete AFTER DELETE ON model_metadata BEGIN
  INSERT INTO model_metadata_fts(model_metadata_fts, rowid, filename, model_name, model_type, base_model, extra) VALUES('delete', old.rowid, old.filename, old.model_name, old.model_type, old.base_model, old.extra);
END;
CREATE TRIGGER model_metadata_fts_insert AFTER INSERT ON model_metadata BEGIN
  INSERT INTO model_metadata_fts(rowid, filename, model_name, model_type, base_model, extra) VALUES(new.rowid, new.filename, new.model_name, new.model_type, new.base_model, new.extra);
END;
CREATE TRIGGER model_metadata_fts_update AFTER UPDATE ON model_metadata BEGIN
  INSERT INTO model_metadata_fts(model_metadata_fts, rowid, filename, model_name, model_type, base_model, extra) VALUES('delete', old.rowid, old.filename, old.model_name, old.model_type, old.base_model, old.extra);
  INSERT INTO model_metadata_fts(rowid, filename, model_name, model_type, base_model, extra) VALUES(new.rowid, new.filename, new.model_name, new.model_type, new.base_model, new.extra);
END;
