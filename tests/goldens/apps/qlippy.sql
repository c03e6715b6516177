-- @version 1.1.0
CREATE TABLE conversations(
  id TEXT PRIMARY KEY DEFAULT (lower(hex(randomblob(16)))),
  title TEXT NOT NULL DEFAULT '',
  folder TEXT,
  is_pinned INTEGER NOT NULL DEFAULT 0 CHECK(is_pinned IN (0, 1)),
  tags TEXT NOT NULL DEFAULT '[]',
  created_at TEXT,
  updated_at TEXT
);
-- @merge "conversations"."tags" set
-- @merge "conversations"."updated_at" max
CREATE TABLE messages(
  id TEXT PRIMARY KEY DEFAULT (lower(hex(randomblob(16)))),
  conversation_id TEXT NOT NULL REFERENCES conversations(id) ON DELETE CASCADE,
  role TEXT NOT NULL CHECK(role IN ('user', 'assistant', 'system')),
  content TEXT NOT NULL,
  model_id TEXT REFERENCES models(id) ON DELETE SET NULL,
  created_at TEXT
);
CREATE INDEX messages_by_conversation ON messages(conversation_id, created_at);
CREATE TABLE model_behavior(
  model_id TEXT PRIMARY KEY REFERENCES models(id) ON DELETE CASCADE,
  temperature REAL NOT NULL DEFAULT 0.7,
  top_p REAL NOT NULL DEFAULT 0.9,
  top_k INTEGER NOT NULL DEFAULT 40,
  max_tokens INTEGER NOT NULL DEFAULT 1024,
  system_prompt TEXT NOT NULL DEFAULT '',
  is_active INTEGER NOT NULL DEFAULT 0 CHECK(is_active IN (0, 1))
);
-- @merge "model_behavior"."system_prompt" text
CREATE TABLE models(
  id TEXT PRIMARY KEY DEFAULT (lower(hex(randomblob(16)))),
  name TEXT NOT NULL,
  content_hash TEXT,
  file_size INTEGER,
  model_type TEXT NOT NULL DEFAULT 'GGUF',
  architecture TEXT,
  quantization TEXT,
  context_length INTEGER,
  metadata TEXT NOT NULL DEFAULT '{}',
  is_active INTEGER NOT NULL DEFAULT 1 CHECK(is_active IN (0, 1)),
  uses INTEGER NOT NULL DEFAULT 0,
  created_at TEXT, "vocab_size" INTEGER, "parameters_count" INTEGER, "updated_at" TEXT, "checksum" TEXT, "last_validated" TEXT, "validation_status" TEXT NOT NULL DEFAULT 'pending',
  UNIQUE(name)
);
CREATE INDEX idx_models_checksum ON "models"("checksum");
CREATE INDEX idx_models_validation_status ON "models"("validation_status");
-- @duplicates "models"."name" rename
-- @merge "models"."metadata" json
-- @merge "models"."uses" counter
CREATE TABLE settings(key TEXT PRIMARY KEY, value TEXT NOT NULL, updated_at TEXT, "data_type" TEXT NOT NULL DEFAULT 'string', "category" TEXT NOT NULL DEFAULT 'general');
CREATE TABLE voice_detection(
  id TEXT PRIMARY KEY DEFAULT (lower(hex(randomblob(16)))),
  wake_word_name TEXT NOT NULL,
  file_name TEXT NOT NULL,
  content_hash TEXT,
  is_default INTEGER NOT NULL DEFAULT 0 CHECK(is_default IN (0, 1)),
  is_enabled INTEGER NOT NULL DEFAULT 1 CHECK(is_enabled IN (0, 1)),
  created_at TEXT
);
CREATE TABLE model_paths( -- @scope local
  model_id TEXT NOT NULL REFERENCES models(id) ON DELETE CASCADE,
  file_path TEXT NOT NULL,
  seen_at TEXT,
  PRIMARY KEY(model_id, file_path)
);
-- @scope "model_paths" local
CREATE TABLE sync_status( -- @scope local
  id INTEGER PRIMARY KEY,
  operation_type TEXT NOT NULL,
  status TEXT NOT NULL CHECK(status IN ('pending', 'running', 'completed', 'failed')),
  progress_percent INTEGER DEFAULT 0,
  message TEXT,
  files_processed INTEGER DEFAULT 0,
  files_total INTEGER DEFAULT 0,
  started_at TEXT,
  completed_at TEXT,
  error_details TEXT
);
-- @scope "sync_status" local
CREATE TABLE voice_paths( -- @scope local
  voice_id TEXT NOT NULL REFERENCES voice_detection(id) ON DELETE CASCADE,
  file_path TEXT NOT NULL,
  seen_at TEXT,
  PRIMARY KEY(voice_id, file_path)
);
-- @scope "voice_paths" local
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
