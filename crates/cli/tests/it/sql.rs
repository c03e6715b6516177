//! exec and query.

use serde_json::json;

use crate::support::{Place, sqlite3};

#[test]
fn statements_change_rows_and_say_how_many() {
    let place = Place::new();
    let device = place.laptop();
    assert_eq!(device.ok(["exec", "UPDATE notes SET stars = 3"]), "2 rows changed\n");
    assert_eq!(device.ok(["exec", "CREATE INDEX i ON notes(title)"]), "0 rows changed\n");
    let script = "INSERT INTO notes VALUES(3, 'a;b', 1); DELETE FROM notes WHERE id = 2; CREATE TABLE x(y);";
    assert_eq!(device.json(["exec", script]), json!({ "statements": 3, "rows_changed": 2 }));
    let returning = "UPDATE notes SET stars = ?1 WHERE id = ?2 RETURNING id, stars";
    let json = device.json(["exec", returning, "--param", "9", "--param", "3"]);
    assert_eq!(json["rows"], json!([{ "id": 3, "stars": 9 }]));
    assert_eq!(device.rows("SELECT id, title, stars FROM notes"), ["1,Dune,3", "3,a;b,9"]);
}

#[test]
fn scripts_come_from_files_and_pipes_dumps_included() {
    let place = Place::new();
    let device = place.device("laptop");
    let dump = "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\nCREATE TABLE t(id INTEGER PRIMARY KEY, v);\n\
                INSERT INTO t VALUES(1,'it''s; fine');\nINSERT INTO t VALUES(2,NULL);\n\
                CREATE TRIGGER r AFTER INSERT ON t BEGIN UPDATE t SET v = 0 WHERE id = new.id; END;\nCOMMIT;\n";
    let gave = device.feed(["exec", "-"], dump);
    assert_eq!((gave.code, gave.out.as_str(), gave.err.as_str()), (0, "2 rows changed\n", ""));
    std::fs::write(device.folder.join("more.sql"), "INSERT INTO t VALUES(3, 'x'), (4, 'y')").expect("written");
    assert_eq!(device.ok(["exec", "--file", "more.sql"]), "2 rows changed\n");
    assert_eq!(device.rows("SELECT id, v FROM t"), ["1,it's; fine", "2,", "3,0", "4,0"]);
    assert!(device.fails(2, ["exec", "--file", "none.sql"]).contains("there is no file none.sql"));
    device.fails(2, ["exec"]);
}

#[test]
fn a_script_that_fails_changes_nothing() {
    let place = Place::new();
    let device = place.laptop();
    let text = device.fails(1, ["exec", "DELETE FROM notes; INSERT INTO nowhere VALUES(1)"]);
    assert!(text.starts_with("error: ") && text.contains("no such table: nowhere"), "{text}");
    assert_eq!(text.lines().count(), 1, "a cause is said once: {text}");
    assert_eq!(device.rows("SELECT count(*) FROM notes"), ["2"]);
    let text = device.fails(4, ["exec", "DROP TABLE notes"]);
    assert!(text.contains("untrack it before"), "{text}");
    let text = device.fails(4, ["exec", "--json", "DROP TABLE notes"]);
    let error = &serde_json::from_str::<serde_json::Value>(&text).expect("JSON")["error"];
    assert_eq!((&error["operation"], &error["kind"], &error["code"]), (&json!("exec"), &json!("blocked"), &json!(4)));
    device.fails(2, ["exec", "SELECT 1; SELECT ?1", "--param", "1"]);
}

#[test]
fn a_text_that_is_not_one_statement_is_a_wrong_request() {
    let place = Place::new();
    let device = place.laptop();
    for (args, why) in [
        (&["exec", " "][..], "there is no statement in the text"),
        (&["query", ""], "there is no statement in the text"),
        (&["query", "SELECT 1; SELECT 2"], "several statements where one is expected"),
        (&["query", "SELECT ?1, ?2", "--param", "1"], "takes 2 parameters, 1 were given"),
        (&["exec", "UPDATE notes SET stars = ?1"], "takes 1 parameters, 0 were given"),
    ] {
        assert!(device.fails(2, args).contains(why), "{args:?}");
    }
    assert!(device.fails(1, ["query", "SELECT * FROM nope"]).starts_with("error: cannot run the query: no such table"));
}

#[test]
fn queries_are_tables_objects_and_csv() {
    let place = Place::new();
    let device = place.laptop();
    let sql = "SELECT id, title, stars FROM notes ORDER BY id";
    assert_eq!(
        device.ok(["query", sql]),
        "id  title  stars\n 1  Dune       5\n 2  Emma   NULL \n".replace("NULL \n", "NULL\n")
    );
    assert_eq!(
        device.json(["query", sql]),
        json!([{ "id": 1, "title": "Dune", "stars": 5 }, { "id": 2, "title": "Emma", "stars": null }])
    );
    assert_eq!(device.ok(["query", sql, "--csv"]), "id,title,stars\n1,Dune,5\n2,Emma,\n");
    assert_eq!(device.json(["query", "SELECT 1 WHERE 0"]), json!([]));
    device.ok(["exec", "CREATE TABLE loans(note INTEGER, who TEXT); INSERT INTO loans VALUES(2, 'Ann'), (2, 'Bob')"]);
    let joined = "SELECT title, count(*) AS loans FROM notes JOIN loans ON loans.note = notes.id GROUP BY title";
    assert_eq!(device.json(["query", joined]), json!([{ "title": "Emma", "loans": 2 }]));
    let odd = "SELECT x'00ff' AS b, 1 AS a, 2 AS a, 9e999 AS inf, 'line' || char(10) || 'two' AS t";
    assert_eq!(
        device.json(["query", odd]),
        json!([{ "b": { "hex": "00ff" }, "a": 1, "a_2": 2, "inf": "Infinity", "t": "line\ntwo" }])
    );
    assert!(device.ok(["query", odd]).contains("line\\ntwo"));
    let params =
        ["query", "SELECT ?1 AS a, ?2 AS b, ?3 AS c, ?4 AS d", "--param", "-7", "--param", "0.5", "--param", "NULL"];
    let params: Vec<&str> = params.into_iter().chain(["--param", "'7'"]).collect();
    assert_eq!(device.json(params), json!([{ "a": -7, "b": 0.5, "c": null, "d": "7" }]));
}

#[test]
fn queries_only_read() {
    let place = Place::new();
    let device = place.laptop();
    let text = device.fails(2, ["query", "DELETE FROM notes"]);
    assert!(text.contains("only reads") && text.contains("isle exec"), "{text}");
    assert_eq!(device.rows("SELECT count(*) FROM notes"), ["2"]);
    assert!(device.fails(1, ["query", "SELECT nope FROM notes"]).contains("no such column: nope"));
    device.fails(2, ["query", "SELECT 1", "--csv", "--json"]);
}

#[test]
fn large_results_stay_whole_beyond_the_rows_that_decide_the_layout() {
    let place = Place::new();
    let device = place.device("laptop");
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500) SELECT i FROM n";
    assert_eq!(device.ok(["query", sql]).lines().count(), 2501);
    assert_eq!(device.json(["query", sql]).as_array().expect("rows").len(), 2500);
    assert_eq!(device.rows(sql).last().map(String::as_str), Some("2500"));
}

#[test]
fn what_sqlite3_writes_waits_and_is_recorded() {
    let place = Place::new();
    let device = place.laptop();
    sqlite3(&device.db(), "UPDATE notes SET stars = 1 WHERE id = 2");
    assert_eq!(device.json(["status"])["queued"], json!(1));
    assert!(device.ok(["status"]).contains("waiting    1 row of other programs"));
    device.ok(["exec", "UPDATE notes SET stars = 2 WHERE id = 1"]);
    assert_eq!(device.json(["status"])["queued"], json!(0));
}
