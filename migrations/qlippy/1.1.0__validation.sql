-- What a check of a model's file found, and how a model shall behave.
ALTER TABLE models ADD COLUMN vocab_size INTEGER;
ALTER TABLE models ADD COLUMN parameters_count INTEGER;
ALTER TABLE models ADD COLUMN updated_at TEXT;
ALTER TABLE models ADD COLUMN checksum TEXT;
ALTER TABLE models ADD COLUMN last_validated TEXT;
ALTER TABLE models ADD COLUMN validation_status TEXT NOT NULL DEFAULT 'pending';
CREATE INDEX idx_models_checksum ON models(checksum);
CREATE INDEX idx_models_validation_status ON models(validation_status);
CREATE TABLE model_behavior(
  model_id TEXT PRIMARY KEY REFERENCES models(id) ON DELETE CASCADE,
  temperature REAL NOT NULL DEFAULT 0.7,
  top_p REAL NOT NULL DEFAULT 0.9,
  top_k INTEGER NOT NULL DEFAULT 40,
  max_tokens INTEGER NOT NULL DEFAULT 1024,
  system_prompt TEXT NOT NULL DEFAULT '',               -- @merge text
  is_active INTEGER NOT NULL DEFAULT 0 CHECK(is_active IN (0, 1))
);
ALTER TABLE settings ADD COLUMN data_type TEXT NOT NULL DEFAULT 'string';
ALTER TABLE settings ADD COLUMN category TEXT NOT NULL DEFAULT 'general';
-- Where a wake word lies is each device's own, as it is for models.
CREATE TABLE voice_paths( -- @scope local
  voice_id TEXT NOT NULL REFERENCES voice_detection(id) ON DELETE CASCADE,
  file_path TEXT NOT NULL,
  seen_at TEXT,
  PRIMARY KEY(voice_id, file_path)
);
-- A model as the app shows it: with the place where it lies on this device, and its size in words.
CREATE VIEW models_here AS
  SELECT m.id, m.name, (SELECT file_path FROM model_paths WHERE model_id = m.id ORDER BY seen_at DESC LIMIT 1) AS file_path, m.file_size,
    CASE
      WHEN m.file_size >= 1073741824 THEN printf('%.1f GB', m.file_size / 1073741824.0)
      WHEN m.file_size >= 1048576 THEN printf('%.1f MB', m.file_size / 1048576.0)
      WHEN m.file_size >= 1024 THEN printf('%.1f KB', m.file_size / 1024.0)
      ELSE printf('%d B', m.file_size)
    END AS file_size_display,
    m.model_type, m.architecture, m.quantization, m.context_length, m.vocab_size, m.parameters_count, m.is_active, m.metadata AS model_config,
    m.created_at, m.updated_at
  FROM models AS m;
