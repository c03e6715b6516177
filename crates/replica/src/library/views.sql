-- Views of the library that every device makes for itself: a schema of the app's has not to name them.
-- Files whose rows make sense: any member of the group can write any value.
CREATE VIEW library_sound AS
SELECT * FROM library_files
WHERE typeof(id) = 'text' AND length(id) = 32 AND id NOT GLOB '*[^0-9a-f]*' AND typeof(path) = 'text' AND typeof(kind) = 'text' AND typeof(name) = 'text'
  AND typeof(bytes) = 'integer' AND bytes BETWEEN 0 AND 2199023255552 AND typeof(content) = 'text' AND length(content) = 64
  AND typeof(chunks) IN ('blob', 'null') AND coalesce(length(chunks), 0) <= 36 * (bytes / 65536 + 1) AND typeof(metadata) IN ('text', 'null')
  AND typeof(added_ms) = 'integer' AND typeof(replaced_by) IN ('text', 'null')
  AND (trashed_ms IS NULL OR typeof(trashed_ms) = 'integer' AND trashed_ms >= 0);
CREATE VIEW fs_scan AS
SELECT r.name AS root, s.path, r.folder || '/' || s.path AS full_path, s.bytes, s.state, s.file, s.why, s.change, s.op
FROM library_scan AS s JOIN library_roots AS r ON r.id = s.root
WHERE s.state <> 'missing';
CREATE VIEW library_models AS
SELECT id, name, path, bytes, content,
  json_extract(metadata, '$.architecture') AS architecture,
  json_extract(metadata, '$.quantization') AS quantization,
  json_extract(metadata, '$.context_length') AS context_length,
  json_extract(metadata, '$.vocab_size') AS vocab_size,
  json_extract(metadata, '$.parameters_count') AS parameters_count,
  json_extract(metadata, '$.model_config') AS model_config
FROM library_sound
WHERE kind = 'gguf' AND trashed_ms IS NULL AND (metadata IS NULL OR json_valid(metadata));
