-- What devices add to a counter adds up; a delete ends it.
--: schema a
CREATE TABLE items(id TEXT PRIMARY KEY, stock INTEGER NOT NULL DEFAULT 0 -- @merge counter
);
--: a
INSERT INTO items VALUES('apple', 10), ('pear', 5);
--: sync
--: b
UPDATE items SET stock = stock - 3;
--: other c
UPDATE items SET stock = stock + 4 WHERE id = 'apple';
--: a
UPDATE items SET stock = 0 WHERE id = 'pear';
--: sync
--: show
SELECT id, stock FROM items ORDER BY id;
--: a
DELETE FROM items WHERE id = 'apple';
--: b
UPDATE items SET stock = stock + 1 WHERE id = 'apple';
--: sync
--: show
SELECT count(*) FROM items WHERE id = 'apple';
--: journal a
