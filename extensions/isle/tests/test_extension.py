"""The extension in Debian's SQLite, as an app has it: installed from the wheel. Run by scripts/test-extension."""

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

import isle_sqlite

ISLE = os.environ["ISLE_TEST_CLI"]
SEED = int(os.environ.get("ISLE_TEST_SEED", "1"))


class Case(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="isle-extension-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.bucket = str(self.folder / "bucket")

    def connect(self, name, **options):
        db = sqlite3.connect(self.folder / f"{name}.db", isolation_level=None, **options)
        self.addCleanup(db.close)
        isle_sqlite.load(db)
        one(db, "SELECT isle_home(?)", str(self.folder / f"{name}-home"))
        return db

    def device(self, name, schema=""):
        db = self.connect(name)
        one(db, "SELECT isle_init()")
        db.executescript(schema)
        return db

    def notes(self, name):
        db = self.device(name, "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT); INSERT INTO notes VALUES(1, 'Dune');")
        one(db, "SELECT isle_track('notes')")
        return db

    def assert_same(self, *devices):
        self.assertEqual(len({one(db, "SELECT isle_hash()") for db in devices}), 1)

    def refused(self, db, sql, *args, says=""):
        with self.assertRaises(sqlite3.Error) as raised:
            db.execute(sql, args).fetchall()
        self.assertIn(says, str(raised.exception))
        self.assertEqual(one(db, "SELECT 7"), 7, "the connection can be used")


def one(db, sql, *args):
    return db.execute(sql, args).fetchone()[0]


def rows(db, sql, *args):
    return db.execute(sql, args).fetchall()


class Syncs(Case):
    def test_two_devices_sync_through_a_bucket(self):
        laptop, phone = self.notes("laptop"), self.device("phone")
        one(laptop, "SELECT isle_device_name('the laptop')")
        report = json.loads(one(laptop, "SELECT isle_sync(?)", self.bucket))
        self.assertEqual((report[0]["remote"], report[0]["pushed_versions"]), ("main", 1))
        self.refused(phone, "SELECT isle_sync(?)", self.bucket, says="isle_key_import(text)")
        self.assertEqual(json.loads(one(phone, "SELECT isle_status()"))["remotes"], [], "one that failed at first is not kept")
        one(phone, "SELECT isle_key_import(?)", one(laptop, "SELECT isle_key_export()"))
        one(phone, "SELECT isle_sync(?)", self.bucket)
        phone.execute("UPDATE notes SET title = 'Solaris'")
        one(phone, "SELECT isle_sync()")
        one(laptop, "SELECT isle_sync(?, '{\"direction\": \"pull\"}')", self.bucket)
        self.assertEqual(rows(laptop, "SELECT * FROM notes"), [(1, "Solaris")])
        self.assert_same(laptop, phone)
        self.assertEqual(len(json.loads(one(phone, "SELECT isle_status()"))["remotes"]), 1, "the same address is the same remote")
        names = rows(phone, "SELECT this, version, name FROM isle_devices ORDER BY this")
        self.assertEqual((names[0], names[1][:2]), ((0, 1, "the laptop"), (1, 1)))
        one(phone, "SELECT isle_forget_remote('main')")
        self.refused(phone, "SELECT isle_sync()", says="no remote")

    def test_options_are_read_strictly(self):
        db = self.notes("a")
        for options, says in [("[]", "JSON object"), ('{"plane": true}', "plane"), ('{"direction": "up"}', "up"), ('{"timeout_ms": -1}', "timeout_ms")]:
            self.refused(db, "SELECT isle_sync(?, ?)", self.bucket, options, says=says)
        one(db, "SELECT isle_sync(?, '{\"plain\": true, \"name\": \"open\"}')", self.bucket)
        remote = json.loads(one(db, "SELECT isle_status()"))["remotes"][0]
        self.assertEqual((remote["name"], remote["encrypted"]), ("open", False))

    def test_blobs_carry_changes_where_the_app_brings_its_own_transport(self):
        a, b = self.notes("a"), self.device("b")
        self.assertEqual(json.loads(one(b, "SELECT isle_apply(?)", one(a, "SELECT isle_export()")))["pulled_versions"], 1)
        b.execute("INSERT INTO notes VALUES(2, 'Ubik')")
        one(a, "SELECT isle_apply(?)", one(b, "SELECT isle_export(?)", one(a, "SELECT isle_vector()")))
        self.assert_same(a, b)
        self.assertIsNone(one(b, "SELECT isle_export(?)", one(a, "SELECT isle_vector()")), "there is nothing more")
        # In pieces: of many small changes no piece is larger than was asked for, by much.
        for n in range(3, 103):
            a.execute("INSERT INTO notes VALUES(?, hex(randomblob(5000)))", [n])
            one(a, "SELECT isle_version()")
        sizes = []
        while (blob := one(a, "SELECT isle_export(?, 100000)", one(b, "SELECT isle_vector()"))) is not None:
            one(b, "SELECT isle_apply(?)", blob)
            sizes.append(len(blob))
        self.assertGreater(len(sizes), 3)
        self.assertLess(max(sizes), 200_000)
        self.assertEqual(rows(b, "SELECT count(*) FROM isle_devices WHERE name IS NULL"), [(0,)])
        self.assert_same(a, b)

    def test_damaged_and_foreign_blobs_are_refused_and_nothing_of_them_is_taken(self):
        a, b, c = self.notes("a"), self.device("b"), self.notes("c")
        blob = one(a, "SELECT isle_export()")
        dice = random.Random(SEED)
        for _ in range(300):
            bad = bytearray(blob)
            at = dice.randrange(len(bad))
            match dice.randrange(3):
                case 0:
                    bad[at] ^= 1 << dice.randrange(8)
                case 1:
                    del bad[at:]
                case _:
                    bad[at:at] = dice.randbytes(dice.randrange(1, 50))
            self.refused(b, "SELECT isle_apply(?)", bytes(bad), says="bundle")
        self.refused(b, "SELECT isle_apply(zeroblob(100000000))", says="bundle")
        self.refused(b, "SELECT isle_apply('text')", says="blob")
        self.assertEqual(json.loads(one(b, "SELECT isle_status()"))["tables"], [])
        one(c, "SELECT isle_export()")
        self.refused(c, "SELECT isle_apply(?)", blob, says="group")
        one(b, "SELECT isle_apply(?)", blob)
        self.assert_same(a, b)

    def test_the_cli_and_other_processes_share_the_file(self):
        a = self.notes("a")
        one(a, "SELECT isle_sync(?)", self.bucket)
        writer = (
            "import sqlite3, sys\n"
            "db = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)\n"
            "for n in range(1000, 1300): db.execute('INSERT INTO notes VALUES(?, ?)', [n, 'by another'])\n"
        )
        other = subprocess.Popen([sys.executable, "-c", writer, str(self.folder / "a.db")])
        while other.poll() is None:
            one(a, "SELECT isle_sync()")
        self.assertEqual(other.returncode, 0)
        one(a, "SELECT isle_sync()")
        environment = {**os.environ, "ISLE_HOME": str(self.folder / "a-home")}
        run = lambda *args: subprocess.run([ISLE, "--db", str(self.folder / "a.db"), *args], env=environment, check=True, capture_output=True, text=True)
        status = json.loads(run("--json", "status").stdout)
        self.assertEqual((status["queued"], status["version"]), (0, one(a, "SELECT isle_version()")))
        self.assertEqual(one(a, "SELECT count(*) FROM notes"), 301)
        self.assertEqual(json.loads(one(a, "SELECT isle_check()"))["findings"], [])
        # Beside a process that syncs by itself.
        serve = subprocess.Popen([ISLE, "--db", str(self.folder / "a.db"), "serve", "--port", "0"], env=environment, stdout=subprocess.PIPE, text=True)
        try:
            while "listening" not in (line := serve.stdout.readline()):
                self.assertTrue(line, "it listens")
            a.execute("INSERT INTO notes VALUES(5000, 'beside it')")
            one(a, "SELECT isle_sync()")
            self.assertEqual(json.loads(one(a, "SELECT isle_check()"))["findings"], [])
        finally:
            serve.kill()
            serve.wait()
            serve.stdout.close()


class Connections(Case):
    def test_what_cannot_be_done_says_so(self):
        db = self.connect("plain")
        db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY)")
        self.refused(db, "SELECT isle_track('t')", says="isle_init()")
        self.refused(db, "SELECT * FROM isle_devices", says="isle_init()")
        memory = sqlite3.connect(":memory:")
        isle_sqlite.load(memory)
        self.refused(memory, "SELECT isle_init()", says="in memory")
        memory.close()
        one(db, "SELECT isle_init()")
        self.refused(db, "SELECT isle_track('nosuch')", says="nosuch")
        self.refused(db, "SELECT isle_track()", says="1 to 100")
        self.refused(db, "SELECT isle_track(7)", says="an integer was given")
        self.refused(db, "SELECT isle_home('/elsewhere')", says="before")
        self.refused(db, "SELECT isle_version(1)", says="0 arguments")
        self.refused(db, "SELECT * FROM isle_history", says="the table")
        self.refused(db, "SELECT * FROM isle_history('t')", says="t")

    def test_an_open_transaction_is_no_deadlock(self):
        db = self.notes("a")
        db.execute("BEGIN")
        db.execute("INSERT INTO notes VALUES(2, 'Ubik')")
        for sql in ["isle_sync()", "isle_version()", "isle_track('notes')", "isle_export()", "isle_apply(x'00')", "isle_hash()"]:
            self.refused(db, f"SELECT {sql}", says="COMMIT or ROLLBACK")
        self.assertEqual(json.loads(one(db, "SELECT isle_status()"))["version"], 1, "what only looks sees what is committed")
        self.assertEqual(len(rows(db, "SELECT * FROM isle_devices")), 1)
        db.execute("COMMIT")
        self.assertEqual(one(db, "SELECT isle_version()"), 2)
        # A reader is none.
        db.execute("BEGIN")
        rows(db, "SELECT * FROM notes")
        self.assertEqual(one(db, "SELECT isle_version()"), 2)
        db.execute("COMMIT")

    def test_it_works_on_the_file_that_the_connection_has_and_on_no_other(self):
        old = self.notes("a")
        path = self.folder / "a.db"
        for name in path.parent.glob("a.db*"):
            name.unlink() if name.is_file() else None
        # Another one at its place, while a connection on the old one is open yet.
        new = self.connect("a")
        new.execute("CREATE TABLE other(id INTEGER PRIMARY KEY)")
        self.refused(new, "SELECT isle_version()", says="isle_init()")
        one(new, "SELECT isle_init()")
        one(new, "SELECT isle_track('other')")
        self.assertEqual(rows(new, "SELECT * FROM isle_changes"), [])
        self.assertEqual(json.loads(one(new, "SELECT isle_status()"))["tables"], ["other"])
        self.refused(old, "SELECT isle_version()", says="moved or deleted")
        for uri in [f"file:{self.folder}/memory.db?vfs=memdb", "file:shared?mode=memory&cache=shared", f"file:{self.folder}/dot.db?vfs=unix-dotfile"]:
            db = sqlite3.connect(uri, uri=True, isolation_level=None)
            isle_sqlite.load(db)
            self.refused(db, "SELECT isle_init()", says="in memory")
            db.close()
        self.assertFalse((self.folder / "memory.db").exists())

    def test_whoever_may_only_read_cannot_write_through_isle(self):
        self.notes("a").close()
        reader = sqlite3.connect(f"file:{self.folder}/a.db?mode=ro", uri=True, isolation_level=None)
        isle_sqlite.load(reader)
        one(reader, "SELECT isle_home(?)", str(self.folder / "a-home"))
        self.refused(reader, "SELECT isle_detach()", says="only read")
        self.assertEqual(json.loads(one(reader, "SELECT isle_status()"))["version"], 1)
        reader.close()
        db = self.connect("a")
        db.execute("PRAGMA query_only = ON")
        self.refused(db, "SELECT isle_untrack('notes')", says="only read")

    def test_no_call_waits_for_its_own_connection(self):
        db = self.notes("a")
        db.execute("ATTACH ? AS again", [str(self.folder / "a.db")])
        db.execute("BEGIN")
        db.execute("INSERT INTO again.notes VALUES(2, 'x')")
        self.refused(db, "SELECT isle_version()", says="COMMIT or ROLLBACK")
        db.execute("ROLLBACK")
        db.execute("DETACH again")
        db.execute("BEGIN IMMEDIATE")
        self.refused(db, "SELECT isle_backup()", says="COMMIT or ROLLBACK")
        db.execute("ROLLBACK")
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self.refused(db, "SELECT isle_version()", says="locking_mode")
        db.execute("PRAGMA locking_mode = NORMAL")
        rows(db, "SELECT * FROM notes")
        self.assertEqual(one(db, "SELECT isle_version()"), 1)

    def test_a_shared_cache_of_the_app_is_no_deadlock(self):
        script = (
            "import sqlite3, sys, isle_sqlite\n"
            "sqlite3.enable_shared_cache(True)\n"
            "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
            "isle_sqlite.load(db)\n"
            "db.execute('SELECT isle_home(?)', [sys.argv[2]]).fetchone()\n"
            "print(len(db.execute('SELECT * FROM isle_changes').fetchall()))\n"
        )
        self.notes("a").close()
        said = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script, str(self.folder / "a.db"), str(self.folder / "a-home")],
            timeout=60, check=True, capture_output=True, text=True,
        )
        self.assertEqual(said.stdout, "1\n")

    def test_a_forked_child_has_connections_of_its_own(self):
        db = self.notes("a")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                own = sqlite3.connect(self.folder / "a.db", timeout=60, isolation_level=None)
                isle_sqlite.load(own)
                one(own, "SELECT isle_home(?)", str(self.folder / "a-home"))
                own.execute("INSERT INTO notes VALUES(2, 'of the child')")
                code = 0 if one(own, "SELECT isle_version()") == 2 else 2
                own.close()
            finally:
                os._exit(code)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0)
        self.assertEqual(one(db, "SELECT isle_version()"), 2)
        self.assertEqual(json.loads(one(db, "SELECT isle_check()"))["findings"], [])

    def test_one_file_has_one_home(self):
        db = self.notes("a")
        other = sqlite3.connect(self.folder / "a.db", isolation_level=None)
        isle_sqlite.load(other)
        one(other, "SELECT isle_home(?)", str(self.folder / "elsewhere"))
        self.refused(other, "SELECT isle_key_create()", says="another home")
        other.close()
        self.assertEqual(one(db, "SELECT isle_version()"), 1)
        self.refused(db, "SELECT isle_sync('/tmp/a' || char(0) || 'b')", says="\\0")

    def test_a_rolled_back_transaction_leaves_no_trace(self):
        db = self.notes("a")
        before = one(db, "SELECT isle_hash()")
        db.execute("BEGIN")
        db.execute("INSERT INTO notes VALUES(2, 'Ubik')")
        db.execute("ROLLBACK")
        self.assertEqual((one(db, "SELECT isle_version()"), one(db, "SELECT isle_hash()")), (1, before))

    def test_a_view_of_a_file_from_elsewhere_cannot_call_what_does_something(self):
        db = self.notes("a")
        db.execute("CREATE VIEW v AS SELECT isle_untrack('notes')")
        self.refused(db, "SELECT * FROM v", says="unsafe use")
        db.execute("CREATE VIEW w AS SELECT * FROM isle_devices")
        self.refused(db, "SELECT * FROM w", says="unsafe use")
        db.execute("CREATE VIEW x AS SELECT isle_text_splice(title, 0, 1, 'J') AS t FROM notes")
        self.assertEqual(one(db, "SELECT t FROM x"), "June")

    def test_threads_and_connections_share_one_replica(self):
        self.notes("a").close()
        errors = []

        def work(n):
            try:
                db = sqlite3.connect(self.folder / "a.db", timeout=60, isolation_level=None)
                isle_sqlite.load(db)
                one(db, "SELECT isle_home(?)", str(self.folder / "a-home"))
                for k in range(20):
                    db.execute("INSERT INTO notes VALUES(?, 'x')", [100 * n + k])
                    one(db, "SELECT isle_version()")
                db.close()
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=[n]) for n in range(1, 5)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        self.assertEqual(errors, [])
        self.assertEqual(sorted(p.name for p in self.folder.iterdir() if p.name.startswith("a.db")), ["a.db"], "the last one closed it")
        db = self.connect("a")
        self.assertEqual(one(db, "SELECT count(*) FROM notes"), 81)
        self.assertEqual(json.loads(one(db, "SELECT isle_check()"))["findings"], [])

    def test_detach_gives_a_plain_database_back(self):
        db = self.notes("a")
        one(db, "SELECT isle_detach()")
        self.assertEqual(rows(db, "SELECT name FROM sqlite_schema WHERE name LIKE 'isle%'"), [])
        self.assertEqual(rows(db, "SELECT * FROM notes"), [(1, "Dune")])
        self.refused(db, "SELECT isle_version()", says="isle_init()")


class Tables(Case):
    def test_history_and_changes_tell_who_wrote_what(self):
        db = self.device("a", "CREATE TABLE pages(book TEXT, page INTEGER, body TEXT, PRIMARY KEY(book, page)) WITHOUT ROWID;")
        one(db, "SELECT isle_track('pages')")
        db.execute("INSERT INTO pages VALUES('Dune', 1, 'A beginning')")
        one(db, "SELECT isle_version()")
        db.execute("UPDATE pages SET body = 'The beginning'")
        found = rows(db, "SELECT change, column_name, before, after FROM isle_history('pages', json_array('Dune', 1)) WHERE column_name = 'body'")
        self.assertEqual(found, [("updated", "body", "A beginning", "The beginning"), ("inserted", "body", None, "A beginning")])
        self.assertEqual(rows(db, "SELECT count(*) FROM isle_history('pages', json_array('Dune', 2))"), [(0,)])
        self.refused(db, "SELECT * FROM isle_history('pages', '[1')", says="JSON array")
        found = rows(db, "SELECT version, change, row_key, cells ->> 'body' FROM isle_changes WHERE table_name = 'pages' ORDER BY version")
        self.assertEqual(found, [(1, "inserted", '["Dune",1]', "A beginning"), (2, "updated", '["Dune",1]', "The beginning")])
        joined = one(db, "SELECT count(*) FROM pages JOIN isle_history('pages', json_array(book, page)) WHERE column_name = 'body'")
        self.assertEqual(joined, 2, "the arguments may come from another table")
        undone = json.loads(one(db, "SELECT isle_undo(2)"))
        self.assertEqual((undone["written"], one(db, "SELECT body FROM pages")), (1, "A beginning"))

    def test_conflicts_are_listed_and_resolved(self):
        a, b = self.notes("a"), self.device("b")
        one(b, "SELECT isle_apply(?)", one(a, "SELECT isle_export()"))
        a.execute("UPDATE notes SET title = 'of a'")
        one(a, "SELECT isle_version()")
        # Of two writes in one millisecond the ids of the devices decide.
        written = time.time_ns() // 1_000_000
        while time.time_ns() // 1_000_000 <= written:
            pass
        b.execute("UPDATE notes SET title = 'of b'")
        one(a, "SELECT isle_apply(?)", one(b, "SELECT isle_export(?)", one(a, "SELECT isle_vector()")))
        [(number, table, key, column, lost, current, resolved)] = rows(
            a, "SELECT id, table_name, row_key, column_name, lost, current, resolved FROM isle_conflicts"
        )
        self.assertEqual((table, key, column, lost, current, resolved), ("notes", 1, "title", "of a", "of b", 0))
        self.refused(a, "SELECT isle_resolve(?, 'perhaps')", number, says="put-back")
        # As Node.js gives numbers.
        self.assertEqual(one(a, "SELECT isle_conflict_base(?)", float(number)), "Dune")
        self.assertEqual(one(a, "SELECT isle_resolve(?, 'value', 'of both')", float(number)), "of both")
        self.refused(a, "SELECT isle_resolve(1.5, 'keep')", says="a real number was given")
        self.assertEqual((one(a, "SELECT title FROM notes"), one(a, "SELECT resolved FROM isle_conflicts")), ("of both", 1))
        one(b, "SELECT isle_apply(?)", one(a, "SELECT isle_export(?)", one(b, "SELECT isle_vector()")))
        self.assert_same(a, b)

    def test_schemas_are_planned_and_applied_and_travel(self):
        a, b = self.device("a"), self.device("b")
        first = "CREATE TABLE tags(id INTEGER PRIMARY KEY, name TEXT, uses INTEGER DEFAULT 0 -- @merge counter\n);"
        self.assertEqual(len(json.loads(one(a, "SELECT isle_schema_plan(?)", first))["changes"]), 2)
        one(a, "SELECT isle_schema_apply(?)", first)
        a.execute("INSERT INTO tags VALUES(7, 'space', 1)")
        one(b, "SELECT isle_apply(?)", one(a, "SELECT isle_export()"))
        for db in (a, b):
            db.execute("UPDATE tags SET uses = uses + 1")
        second = first.replace("uses INTEGER", "note TEXT, uses INTEGER") + " CREATE VIRTUAL TABLE found USING fts5(name, content='tags', content_rowid='id');"
        one(b, "SELECT isle_schema_apply(?)", second)
        for source, sink in [(a, b), (b, a)]:
            one(sink, "SELECT isle_apply(?)", one(source, "SELECT isle_export(?)", one(sink, "SELECT isle_vector()")))
        self.assertEqual(rows(a, "SELECT id, uses, note FROM tags"), [(7, 3, None)])
        self.assertEqual(rows(a, "SELECT rowid FROM found('space')"), [(7,)])
        self.assert_same(a, b)
        self.refused(a, "SELECT isle_schema_apply('CREATE TABLE')")
        self.refused(a, "SELECT isle_schema_plan(NULL)", says="text")
        self.assertEqual(rows(a, "SELECT * FROM isle_parked"), [])

    def test_backups_are_made_and_verified(self):
        db = self.notes("a")
        backup = json.loads(one(db, "SELECT isle_backup(?)", str(self.folder / "backups")))
        copy = sqlite3.connect(backup["path"])
        self.assertEqual(rows(copy, "SELECT * FROM notes"), [(1, "Dune")])
        copy.close()

    def test_text_and_json_are_spliced(self):
        db = self.connect("a")
        splice = lambda *args: one(db, "SELECT isle_text_splice(?, ?, ?, ?)", *args)
        self.assertEqual([splice("héllo", 1, 1, "e"), splice("", 0, 0, "x"), splice("abc", 3, 0, "d"), splice("a😀c", 1, 1, "")], ["hello", "x", "abcd", "ac"])
        self.assertIsNone(splice(None, 0, 0, "x"))
        self.assertEqual(one(db, "SELECT isle_text_splice('abc', 1.0, 1.0, 'x')"), "axc")
        self.assertEqual(one(db, "SELECT isle_json_insert('[1]', '$[#]', 5.0)"), "[1,5]")
        for args in [("abc", 2, 2, ""), ("abc", -1, 0, ""), ("abc", 4, 0, ""), ("abc", 0, 2**63 - 1, ""), (7, 0, 0, ""), ("abc", "0", 0, "")]:
            self.refused(db, "SELECT isle_text_splice(?, ?, ?, ?)", *args, says="isle_text_splice")
        insert = lambda *args: one(db, "SELECT isle_json_insert(?, ?, ?)", *args)
        self.assertEqual(insert('{"z":1,"l":[1.50,2]}', "$.l[1]", "x"), '{"z":1,"l":[1.50,"x",2]}')
        self.assertEqual([insert("[1,2]", "$[#]", 3), insert("[1,2]", "$[#-1]", None), insert("[]", "$[0]", 1.5)], ["[1,2,3]", "[1,null,2]", "[1.5]"])
        self.assertEqual(one(db, """SELECT isle_json_insert('{"a":[[]]}', '$.a[0][#]', json('{"b":1}'))"""), '{"a":[[{"b":1}]]}')
        for args in [("[1]", "$[3]", 0), ("[1]", "$", 0), ("{}", "$.l[0]", 0), ('{"l":1}', "$.l[0]", 0), ("nonsense", "$[0]", 0), ("[1]", "$[#-2]", 0), ("[1]", "$[x]", 0), ("[]", "$[0]", b"x")]:
            self.refused(db, "SELECT isle_json_insert(?, ?, ?)", *args)


class AnyValues(Case):
    def test_every_function_bears_every_value(self):
        db = self.notes("a")
        bucket = self.bucket
        dice = random.Random(SEED)
        values = [None, 0, 1, -1, 2**63 - 1, -(2**63), 0.5, float("inf"), "", "x", "notes", "id", "{}", "[]", "$[0]", "keep", "value", "é\0y", "'" * 50, "x" * 100_000, b"", b"isle", bytes(range(256)), bytes(50_000), bucket]
        functions = [name for (name,) in rows(db, "SELECT DISTINCT name FROM pragma_function_list WHERE name LIKE 'isle\\_%' ESCAPE '\\'")]
        self.assertGreater(len(functions), 25)
        # It would be the same file no more.
        functions.remove("isle_detach")
        calls = 0
        for function in functions:
            for _ in range(40):
                args = [dice.choice(values) for _ in range(dice.randrange(5))]
                # Folders that it makes stand where the test can clear them away.
                if function in ("isle_backup", "isle_sync", "isle_schema_apply") and any(isinstance(arg, str) for arg in args):
                    args = [bucket if isinstance(arg, str) else arg for arg in args]
                try:
                    db.execute(f"SELECT {function}({','.join('?' * len(args))})", args).fetchall()
                except (sqlite3.Error, UnicodeDecodeError):
                    pass
                calls += 1
                self.assertEqual(one(db, "SELECT 7"), 7, f"after {function}{args!r}")
        for relation in ["isle_history", "isle_changes", "isle_conflicts", "isle_repaired", "isle_devices", "isle_parked"]:
            for _ in range(40):
                args = [dice.choice(values) for _ in range(dice.randrange(3) if relation == "isle_history" else 0)]
                try:
                    db.execute(f"SELECT * FROM {relation}({','.join('?' * len(args))})" if args else f"SELECT * FROM {relation}", args).fetchall()
                except sqlite3.Error:
                    pass
        self.assertGreater(calls, 900)
        self.assertEqual(one(db, "PRAGMA integrity_check"), "ok")
        self.assertEqual(json.loads(one(db, "SELECT isle_check()"))["findings"], [])
        db.execute("INSERT INTO notes VALUES(900, 'still captured')")
        self.assertEqual(one(db, "SELECT count(*) FROM isle_changes WHERE row_key = 900"), 1)


if __name__ == "__main__":
    unittest.main()
