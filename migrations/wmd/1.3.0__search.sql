-- Models are found by the words of their names, of what they are, and of all else that is known of them.
CREATE VIRTUAL TABLE model_metadata_fts USING fts5(filename, model_name, model_type, base_model, extra, content='model_metadata', tokenize='unicode61 remove_diacritics 2');
CREATE TRIGGER model_metadata_fts_insert AFTER INSERT ON model_metadata BEGIN
  INSERT INTO model_metadata_fts(rowid, filename, model_name, model_type, base_model, extra) VALUES(new.rowid, new.filename, new.model_name, new.model_type, new.base_model, new.extra);
END;
CREATE TRIGGER model_metadata_fts_delete AFTER DELETE ON model_metadata BEGIN
  INSERT INTO model_metadata_fts(model_metadata_fts, rowid, filename, model_name, model_type, base_model, extra) VALUES('delete', old.rowid, old.filename, old.model_name, old.model_type, old.base_model, old.extra);
END;
CREATE TRIGGER model_metadata_fts_update AFTER UPDATE ON model_metadata BEGIN
  INSERT INTO model_metadata_fts(model_metadata_fts, rowid, filename, model_name, model_type, base_model, extra) VALUES('delete', old.rowid, old.filename, old.model_name, old.model_type, old.base_model, old.extra);
  INSERT INTO model_metadata_fts(rowid, filename, model_name, model_type, base_model, extra) VALUES(new.rowid, new.filename, new.model_name, new.model_type, new.base_model, new.extra);
END;
