-- Members come and go one by one; an addition beats a removal at the same time.
--: schema a
CREATE TABLE files(id INTEGER PRIMARY KEY, tags TEXT NOT NULL DEFAULT '[]' -- @merge set
);
--: a
INSERT INTO files VALUES(1, '["red","blue"]'), (2, '[]');
--: sync
--: b
UPDATE files SET tags = '["red"]' WHERE id = 1;
UPDATE files SET tags = '["x"]' WHERE id = 2;
--: other c
UPDATE files SET tags = json_insert(tags, '$[#]', 'green') WHERE id = 1;
UPDATE files SET tags = '["y"]' WHERE id = 2;
--: sync
--: show
SELECT id, tags FROM files ORDER BY id;
