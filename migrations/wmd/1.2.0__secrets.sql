-- Tokens of services stay on the device on which they were typed.
CREATE TABLE secrets(key TEXT PRIMARY KEY, value TEXT NOT NULL, updated_at TEXT); -- @scope local
