-- @version 1.1.0
CREATE TABLE job_templates(
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  data TEXT NOT NULL DEFAULT '{}'
);
CREATE TABLE jobs(
  id TEXT PRIMARY KEY,
  job_name TEXT NOT NULL,
  product TEXT,
  persona TEXT,
  setting TEXT,
  emotion TEXT,
  hook TEXT,
  elevenlabs_voice_id TEXT,
  language TEXT DEFAULT 'English',
  brand_name TEXT,
  enabled INTEGER NOT NULL DEFAULT 1 CHECK(enabled IN (0, 1)),
  runs INTEGER NOT NULL DEFAULT 0,
  created_at TEXT,
  updated_at TEXT,
  data TEXT NOT NULL DEFAULT '{}'
);
CREATE INDEX idx_jobs_created_at ON jobs(created_at);
CREATE INDEX idx_jobs_enabled ON jobs(enabled);
CREATE INDEX idx_jobs_job_name ON jobs(job_name);
CREATE INDEX idx_jobs_language ON jobs(language);
CREATE INDEX idx_jobs_persona ON jobs(persona);
CREATE INDEX idx_jobs_product ON jobs(product);
-- @merge "jobs"."runs" counter
-- @merge "jobs"."data" json
CREATE TABLE settings(key TEXT PRIMARY KEY, value TEXT NOT NULL, updated_at TEXT);
CREATE VIRTUAL TABLE jobs_fts USING fts5(job_name, product, hook, content='jobs', tokenize='unicode61 remove_diacritics 2');
CREATE TRIGGER jobs_fts_delete AFTER DELETE ON jobs BEGIN
  INSERT INTO jobs_fts(jobs_fts, rowid, job_name, product, hook) VALUES('delete', old.rowid, old.job_name, old.product, old.hook);
END;
CREATE TRIGGER jobs_fts_insert AFTER INSERT ON jobs BEGIN
  INSERT INTO jobs_fts(rowid, job_name, product, hook) VALUES(new.rowid, new.job_name, new.product, new.hook);
END;
CREATE TRIGGER jobs_fts_update AFTER UPDATE ON jobs BEGIN
  INSERT INTO jobs_fts(jobs_fts, rowid, job_name, product, hook) VALUES('delete', old.rowid, old.job_name, old.product, old.hook);
  INSERT INTO jobs_fts(rowid, job_name, product, hook) VALUES(new.rowid, new.job_name, new.product, new.hook);
END;
