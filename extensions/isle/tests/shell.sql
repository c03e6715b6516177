.load ./isle
CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT);
SELECT length(isle_init());
SELECT isle_track('notes');
INSERT INTO notes VALUES(1, 'Dune');
SELECT isle_version();
UPDATE notes SET title = 'Dune!';
SELECT change, table_name, row_key, cells FROM isle_changes;
SELECT change, column_name, before, after FROM isle_history('notes', 1);
SELECT json_extract(isle_sync('bucket'), '$[0].pushed_versions');
SELECT length(isle_export()) > 100, isle_export(isle_vector()) IS NULL;
SELECT json_extract(isle_schema_apply('CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT, stars INTEGER)'), '$.changes[0].kind');
SELECT json_extract(isle_check(), '$.findings');
SELECT count(*) FROM isle_devices;
SELECT isle_text_splice(title, 4, 1, ''), isle_json_insert('[]', '$[0]', id) FROM notes;
