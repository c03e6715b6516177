-- Edits of one text and of one JSON value stay, whoever makes them; a plain value over them is told.
--: schema a
CREATE TABLE notes(id INTEGER PRIMARY KEY, body TEXT NOT NULL DEFAULT '', -- @merge text
  settings TEXT NOT NULL DEFAULT '{}' -- @merge json
);
--: a
INSERT INTO notes VALUES(1, 'Buy milk.', '{"colour":"red","open":["a","b"]}'), (2, 'x', '{}');
--: sync
--: b
UPDATE notes SET body = 'Buy milk and bread.', settings = json_set(settings, '$.colour', 'blue') WHERE id = 1;
--: other c
UPDATE notes SET body = 'Today: ' || body, settings = json_insert(settings, '$.open[#]', 'c') WHERE id = 1;
--: sync
--: show
SELECT id, body, settings FROM notes ORDER BY id;
--: a
UPDATE notes SET body = body || ' Now!' WHERE id = 1;
--: b
UPDATE notes SET body = x'00' WHERE id = 1;
--: sync
--: show
SELECT id, typeof(body) FROM notes ORDER BY id;
--: journal a
--: journal b
