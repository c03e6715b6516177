-- A schema grows and changes while others write the old way.
--: schema a
CREATE TABLE t(id INTEGER PRIMARY KEY, title TEXT, n INT);
--: sync
--: a
INSERT INTO t VALUES(1, 'one', 1);
--: sync
--: b
INSERT INTO t VALUES(2, 'two', NULL);
--: schema a
-- @rename t.title -> name
CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT, n INT NOT NULL DEFAULT 7 CHECK(n > 0), colour TEXT DEFAULT 'red');
CREATE VIEW names AS SELECT name FROM t;
--: c
UPDATE t SET title = 'first' WHERE id = 1;
--: sync
--: show
SELECT id, name, n, colour FROM t ORDER BY id;
SELECT count(*) FROM names;
--: other b
UPDATE t SET n = n + 1, colour = 'blue' WHERE id = 2;
--: sync
--: show
SELECT id, name, n, colour FROM t ORDER BY id;
