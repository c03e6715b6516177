-- A delete beats what was written at the same time; a row that comes back begins anew.
--: schema a
CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT DEFAULT 'none', b TEXT);
--: a
INSERT INTO t VALUES(1, 'x', 'y'), (2, 'x', 'y'), (3, 'x', 'y');
--: sync
--: a
DELETE FROM t WHERE id IN (1, 2);
--: b
UPDATE t SET a = 'late' WHERE id = 1;
UPDATE t SET b = 'first' WHERE id = 3;
--: other c
UPDATE t SET b = 'second', a = 'z' WHERE id = 3;
--: sync
--: show
SELECT * FROM t ORDER BY id;
--: journal b
--: journal c
--: c
INSERT INTO t(id, b) VALUES(1, 'again');
--: b
UPDATE t SET a = 'mine' WHERE id = 3;
--: sync
--: show
SELECT * FROM t ORDER BY id;
