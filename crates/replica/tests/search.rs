//! Full-text search: what a person types, after writes, merges and deletes.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use isle::{Error, Replica};
use proptest::prelude::*;

const SCHEMA: &str = "CREATE TABLE notes(id INTEGER PRIMARY KEY, snippet TEXT, body TEXT);
    CREATE VIRTUAL TABLE notes_text USING fts5(snippet, body, content='notes', content_rowid='id');
    CREATE TRIGGER notes_in AFTER INSERT ON notes BEGIN
      INSERT INTO notes_text(rowid, snippet, body) VALUES(new.id, new.snippet, new.body);
    END;
    CREATE TRIGGER notes_out AFTER DELETE ON notes BEGIN
      INSERT INTO notes_text(notes_text, rowid, snippet, body) VALUES('delete', old.id, old.snippet, old.body);
    END;
    CREATE TRIGGER notes_over AFTER UPDATE ON notes BEGIN
      INSERT INTO notes_text(notes_text, rowid, snippet, body) VALUES('delete', old.id, old.snippet, old.body);
      INSERT INTO notes_text(rowid, snippet, body) VALUES(new.id, new.snippet, new.body);
    END;
    CREATE TABLE plain(id INTEGER PRIMARY KEY, body TEXT);";

fn device(folder: &Path, name: &str) -> Replica {
    let replica = Replica::builder(folder.join(format!("{name}.db"))).home(folder.join(name)).init().unwrap();
    replica.add_plain_remote("all", folder.join("bucket").to_str().unwrap()).unwrap();
    replica
}

fn run(replica: &Replica, sql: &str) {
    replica.write(|tx| tx.execute_batch(sql)).unwrap();
}

/// The keys of what a search finds, in order.
fn found(replica: &Replica, table: &str, text: &str) -> Vec<i64> {
    let hits = replica.search(table, text, 10, 0).unwrap();
    hits.iter().map(|hit| hit.row.to::<(i64,)>().unwrap().0).collect()
}

#[tokio::test]
async fn rows_are_found_as_merges_leave_them() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (device(folder.path(), "a"), device(folder.path(), "b"));
    a.apply_schema(SCHEMA).unwrap();
    run(
        &a,
        "INSERT INTO notes VALUES(1, 'first', 'sand and spice'), (2, 'second', 'spice, spice'), (3, 'third', 'rain')",
    );
    a.sync().await.unwrap();
    b.sync().await.unwrap();
    assert_eq!(found(&b, "notes", "spice"), [2, 1], "the better one first");
    run(
        &b,
        "UPDATE notes SET body = 'worms' WHERE id = 1; DELETE FROM notes WHERE id = 2; INSERT INTO notes VALUES(9, 'x', 'a worm of spice')",
    );
    b.sync().await.unwrap();
    a.sync().await.unwrap();
    for device in [&a, &b] {
        assert_eq!(found(device, "notes", "spice"), [9]);
        assert_eq!(found(device, "NOTES_TEXT", "worm*"), [1, 9], "by the name of the full-text table too");
        assert_eq!(found(device, "notes", "snippet:x"), [9], "a column that is called like a function of FTS5");
        assert_eq!(found(device, "notes", "body:x"), [] as [i64; 0]);
        let hits = device.search("notes", "spice", 1, 0).unwrap();
        assert_eq!(hits[0].snippet, "a worm of [spice]");
        assert_eq!(hits[0].row.columns(), ["id", "snippet", "body"]);
    }
    let refused = a.search("plain", "spice", 1, 0).unwrap_err();
    assert!(matches!(&refused, Error::NotSearchable { table } if table == "plain"), "{refused}");
}

#[test]
fn tables_with_texts_of_their_own_or_none_are_searched() {
    let folder = tempfile::tempdir().unwrap();
    let a = device(folder.path(), "a");
    run(
        &a,
        "CREATE VIRTUAL TABLE own USING fts5(word); INSERT INTO own VALUES('sand'), ('rain');
        CREATE VIRTUAL TABLE bare USING fts5(word, content=''); INSERT INTO bare(rowid, word) VALUES(5, 'sand')",
    );
    let hits = a.search("own", "sand", 10, 0).unwrap();
    assert_eq!((hits.len(), hits[0].snippet.as_str(), hits[0].row.columns().len()), (1, "[sand]", 1));
    let hits = a.search("bare", "sand", 10, 0).unwrap();
    assert_eq!((hits.len(), hits[0].snippet.as_str()), (1, ""));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A text that reaches FTS5 as an operator would be a syntax error, or find something else.
    #[test]
    fn no_text_is_an_error(texts in prop::collection::vec("([a-c]|[\"*:^+(){}-]|OR|NOT|NEAR| |,|body:|\\PC|\0){0,12}", 16)) {
        let folder = tempfile::tempdir().unwrap();
        let a = device(folder.path(), "a");
        a.apply_schema(SCHEMA).unwrap();
        run(&a, "INSERT INTO notes VALUES(1, 'a', 'b c')");
        for text in texts {
            let result = a.search("notes", &text, 5, 0);
            prop_assert!(result.is_ok(), "{text:?}: {result:?}");
        }
    }
}
