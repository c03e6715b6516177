"""Two devices of a Python app that sync their notes through a folder: python3 two_devices.py [folder]."""

import sqlite3
import sys
import tempfile
from pathlib import Path

import isle_sqlite


def device(folder: Path, name: str) -> sqlite3.Connection:
    """A device has a file, and a folder of its own that tells it apart; an app has one such folder, and need not name it."""
    db = sqlite3.connect(folder / f"{name}.db")
    isle_sqlite.load(db)
    db.execute("SELECT isle_init('notes', ?)", [str(folder / f"{name}-home")])
    return db


folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
bucket = str(folder / "bucket")

laptop = device(folder, "laptop")
laptop.execute("CREATE TABLE notes(id TEXT PRIMARY KEY DEFAULT (lower(hex(randomblob(16)))), title TEXT, stars INTEGER)")
laptop.execute("SELECT isle_track('notes')")
laptop.execute("INSERT INTO notes(title, stars) VALUES('Dune', 3)")
laptop.commit()
laptop.execute("SELECT isle_sync(?)", [bucket])

phone = device(folder, "phone")
phone.execute("SELECT isle_key_import(?)", laptop.execute("SELECT isle_key_export()").fetchone())
phone.execute("SELECT isle_sync(?)", [bucket])

# Offline, both write to the same row.
laptop.execute("UPDATE notes SET stars = 5 WHERE title = 'Dune'")
laptop.commit()
phone.execute("UPDATE notes SET title = 'Dune, again' WHERE title = 'Dune'")
phone.execute("INSERT INTO notes(title, stars) VALUES('Solaris', 4)")
phone.commit()

for db in (laptop, phone, laptop):
    db.execute("SELECT isle_sync()")

for db in (laptop, phone):
    for row in db.execute("SELECT title, stars FROM notes ORDER BY title"):
        print(*row, sep=" | ")
same = laptop.execute("SELECT isle_hash()").fetchone() == phone.execute("SELECT isle_hash()").fetchone()
print("the same" if same else "not the same")
