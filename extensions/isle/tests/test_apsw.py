"""The extension in the newest SQLite, and two copies of SQLite in one process. Run by scripts/test-extension."""

import json
import sqlite3
import sys
from pathlib import Path

import apsw
import isle_sqlite

folder = Path(sys.argv[1])


def one(db, sql, *args):
    return db.execute(sql, args).fetchone()[0]


def device(name):
    db = apsw.Connection(str(folder / f"{name}.db"))
    isle_sqlite.load(db)
    one(db, "SELECT isle_init(NULL, ?)", str(folder / f"{name}-home"))
    return db


a, b = device("apsw-a"), device("apsw-b")
assert json.loads(one(a, "SELECT isle_build()"))["sqlite"] == apsw.sqlite_lib_version()
one(a, "SELECT isle_schema_apply('CREATE TABLE notes(id INTEGER PRIMARY KEY, body TEXT -- @merge text\n)')")
a.execute("INSERT INTO notes VALUES(1, 'one two')")
one(b, "SELECT isle_apply(?)", one(a, "SELECT isle_export()"))
a.execute("UPDATE notes SET body = isle_text_splice(body, 0, 3, '1')")
b.execute("UPDATE notes SET body = isle_text_splice(body, 4, 3, '2')")
for source, sink in [(a, b), (b, a)]:
    one(sink, "SELECT isle_apply(?)", one(source, "SELECT isle_export(?)", one(sink, "SELECT isle_vector()")))
assert one(a, "SELECT body FROM notes") == one(b, "SELECT body FROM notes") == "1 2", one(a, "SELECT body FROM notes")
assert one(a, "SELECT isle_hash()") == one(b, "SELECT isle_hash()")

# Debian's SQLite in the same process: both at one file would not see each other's locks.
other = sqlite3.connect(folder / "apsw-a.db")
try:
    isle_sqlite.load(other)
except sqlite3.OperationalError as error:
    assert "another copy of SQLite" in str(error), error
else:
    raise AssertionError("it was loaded into two copies")
assert other.execute("SELECT 7").fetchone() == (7,)
print("ok")
