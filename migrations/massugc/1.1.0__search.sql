-- Jobs are found by the words of their names, products and hooks.
CREATE VIRTUAL TABLE jobs_fts USING fts5(job_name, product, hook, content='jobs', tokenize='unicode61 remove_diacritics 2');
CREATE TRIGGER jobs_fts_insert AFTER INSERT ON jobs BEGIN
  INSERT INTO jobs_fts(rowid, job_name, product, hook) VALUES(new.rowid, new.job_name, new.product, new.hook);
END;
CREATE TRIGGER jobs_fts_delete AFTER DELETE ON jobs BEGIN
  INSERT INTO jobs_fts(jobs_fts, rowid, job_name, product, hook) VALUES('delete', old.rowid, old.job_name, old.product, old.hook);
END;
CREATE TRIGGER jobs_fts_update AFTER UPDATE ON jobs BEGIN
  INSERT INTO jobs_fts(jobs_fts, rowid, job_name, product, hook) VALUES('delete', old.rowid, old.job_name, old.product, old.hook);
  INSERT INTO jobs_fts(rowid, job_name, product, hook) VALUES(new.rowid, new.job_name, new.product, new.hook);
END;
