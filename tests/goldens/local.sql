-- Rows of a local table stay, and follow parents that go.
--: schema a
CREATE TABLE files(id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE seen( -- @scope local
  file INT PRIMARY KEY REFERENCES files(id) ON DELETE CASCADE, at TEXT);
--: a
INSERT INTO files VALUES(1, 'a'), (2, 'b');
--: sync
--: a
INSERT INTO seen VALUES(1, 'here'), (2, 'here');
--: other b
DELETE FROM files WHERE id = 1;
DELETE FROM seen;
--: sync
--: show
SELECT id FROM files;
SELECT count(*) FROM seen WHERE file = 1;
