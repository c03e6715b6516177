-- @version 1.0.0
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
