-- Of rows that clash the first claim shows, and the others are hidden until it goes; or they have a number.
--: schema a
CREATE TABLE users(id TEXT PRIMARY KEY, mail TEXT UNIQUE COLLATE NOCASE);
CREATE TABLE sets(id TEXT PRIMARY KEY, owner INT, name TEXT, -- @duplicates rename
  UNIQUE(owner, name));
--: sync
--: a
INSERT INTO users VALUES('u1', 'ann@example.org');
INSERT INTO sets VALUES('s1', 1, 'Music'), ('s2', 2, 'Music');
--: b
INSERT INTO users VALUES('u2', 'Ann@example.org');
INSERT INTO sets VALUES('s3', 1, 'Music');
--: other c
INSERT INTO users VALUES('u3', 'bob@example.org');
INSERT INTO sets VALUES('s4', 1, 'Music'), ('s5', 1, 'Music (2)');
--: sync
--: show
SELECT id, mail FROM users ORDER BY id;
SELECT id, owner, name FROM sets ORDER BY id;
--: hidden
--: b
UPDATE users SET mail = 'ann@example.com' WHERE id = 'u1';
DELETE FROM sets WHERE id = 's1';
--: sync
--: show
SELECT id, mail FROM users ORDER BY id;
SELECT id, owner, name FROM sets ORDER BY id;
--: hidden
