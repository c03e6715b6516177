-- What the JSON files of before hold, and the first version has no room for.
-- @merge model_catalog.extra json
ALTER TABLE model_catalog ADD COLUMN extra TEXT NOT NULL DEFAULT '{}';
-- @merge usage_cache.workflows set
ALTER TABLE usage_cache ADD COLUMN workflows TEXT NOT NULL DEFAULT '[]';
-- A list as others publish it: one file may be at several places in it, so a row's key is made of all of it.
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
-- Patterns by which a file's name leads to another one's.
CREATE TABLE alias_patterns(
  id TEXT PRIMARY KEY,
  position INTEGER,
  pattern TEXT NOT NULL,
  base TEXT NOT NULL,
  description TEXT
);
-- Two sources may have an answer to one question.
DROP TABLE search_cache;
CREATE TABLE search_cache( -- @scope local
  query TEXT NOT NULL,
  source TEXT NOT NULL,
  result TEXT NOT NULL,
  cached_at TEXT,
  expires_at TEXT,                                      -- @expires
  PRIMARY KEY(query, source)
);
CREATE INDEX idx_search_cache_source ON search_cache(source);
CREATE INDEX idx_search_cache_expires ON search_cache(expires_at);
