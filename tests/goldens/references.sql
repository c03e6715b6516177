-- A child whose parent went elsewhere is hidden, follows it, or loses the reference, as its foreign key says.
--: schema a
CREATE TABLE albums(id INTEGER PRIMARY KEY, title TEXT);
CREATE TABLE tracks(id INTEGER PRIMARY KEY, album INT REFERENCES albums(id), name TEXT);
CREATE TABLE covers(id INTEGER PRIMARY KEY, album INT REFERENCES albums(id) ON DELETE CASCADE);
CREATE TABLE notes(id INTEGER PRIMARY KEY, album INT REFERENCES albums(id) ON DELETE SET NULL, text TEXT);
--: a
INSERT INTO albums VALUES(1, 'One'), (2, 'Two');
--: sync
--: other a
DELETE FROM albums WHERE id = 1;
--: b
INSERT INTO tracks VALUES(1, 1, 'hidden'), (2, 2, 'shown');
INSERT INTO covers VALUES(1, 1), (2, 2);
INSERT INTO notes VALUES(1, 1, 'without'), (2, 2, 'with');
--: sync
--: show
SELECT id, name FROM tracks;
SELECT id FROM covers;
SELECT id, album, text FROM notes ORDER BY id;
--: hidden
--: a
INSERT INTO albums VALUES(1, 'One again');
--: sync
--: show
SELECT id, name FROM tracks;
SELECT id FROM covers;
SELECT id, album, text FROM notes ORDER BY id;
--: hidden
