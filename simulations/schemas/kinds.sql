-- A table for every way in which rows merge. Lines that end with a number are there from that change of the schema on.
-- @requires 2.0.0 --6
CREATE TABLE items(
  id INTEGER PRIMARY KEY,
  title TEXT,
  body TEXT,
  mood TEXT, --0
  weight INT DEFAULT 3, --1
  stars INT CHECK(stars IS NOT 13) --7
  stars INT --!7
);
CREATE INDEX items_by_title ON items(title); --2
CREATE TABLE words(
  word TEXT PRIMARY KEY COLLATE NOCASE,
  sense TEXT, -- @rename words.meaning -> sense --4
  meaning TEXT, --!4
  seen NUMERIC
);
CREATE TABLE pairs(a INT, b TEXT, v BLOB, w REAL, PRIMARY KEY(b, a)) WITHOUT ROWID;
CREATE TABLE flags(a INT NOT NULL, b TEXT NOT NULL, PRIMARY KEY(a, b));
CREATE TABLE extras(id TEXT PRIMARY KEY, note TEXT); --3
CREATE TABLE places(id TEXT PRIMARY KEY, street TEXT, city TEXT, phone TEXT); -- @group places(street, city)
CREATE TABLE tallies(
  name TEXT PRIMARY KEY,
  hits INT NOT NULL DEFAULT 0, -- @merge counter
  best INT, -- @merge max
  least INT, -- @merge min
  tags TEXT NOT NULL DEFAULT '[]' -- @merge set
);
CREATE TABLE docs(
  id INTEGER PRIMARY KEY,
  body TEXT NOT NULL DEFAULT '', -- @merge text
  meta TEXT NOT NULL DEFAULT '{}' -- @merge json
);
CREATE TABLE owners(
  id TEXT PRIMARY KEY,
  mail TEXT UNIQUE COLLATE NOCASE,
  nick TEXT -- @duplicates rename
);
CREATE UNIQUE INDEX owners_by_nick ON owners(nick);
CREATE TABLE things(
  id INTEGER PRIMARY KEY,
  owner TEXT REFERENCES owners(id) ON DELETE CASCADE,
  keeper TEXT REFERENCES owners(id) ON DELETE SET NULL,
  inside INT REFERENCES things(id),
  label TEXT
);
CREATE TABLE seen( -- @scope local
  item INTEGER PRIMARY KEY REFERENCES items(id) ON DELETE CASCADE,
  times INT
);
CREATE VIRTUAL TABLE items_text USING fts5(title, body, content='items', content_rowid='id');
CREATE TRIGGER items_in AFTER INSERT ON items BEGIN
  INSERT INTO items_text(rowid, title, body) VALUES(new.id, new.title, new.body);
END;
CREATE TRIGGER items_out AFTER DELETE ON items BEGIN
  INSERT INTO items_text(items_text, rowid, title, body) VALUES('delete', old.id, old.title, old.body);
END;
CREATE TRIGGER items_over AFTER UPDATE ON items BEGIN
  INSERT INTO items_text(items_text, rowid, title, body) VALUES('delete', old.id, old.title, old.body);
  INSERT INTO items_text(rowid, title, body) VALUES(new.id, new.title, new.body);
END;
CREATE VIEW item_titles AS SELECT id, title FROM items; --5
