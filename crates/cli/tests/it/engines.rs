//! `isle engine`, as far as it goes without cr-sqlite; `tests/tests/cr_sqlite.rs` has the rest.

use crate::support::Place;

#[test]
fn a_file_is_not_touched_where_cr_sqlite_is_not_there() {
    let place = Place::new();
    let laptop = place.bare("laptop");
    let said = laptop.fails(1, ["init", "new.db", "--engine", "cr-sqlite"]);
    assert!(said.contains("ISLE_CR_SQLITE") && !laptop.folder.join("new.db").exists(), "{said}");
    let mut command = laptop.command(["init", "new.db", "--engine", "cr-sqlite"]);
    let said = command.env("ISLE_CR_SQLITE", laptop.folder.join("no.so")).output().expect("isle runs");
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("there is no file") && !laptop.folder.join("new.db").exists(), "{said}");
}

#[test]
fn a_native_file_says_so_and_goes_on() {
    let place = Place::new();
    let laptop = place.laptop();
    assert_eq!(laptop.json(["engine"])["engine"], "native");
    let said = laptop.fails(1, ["engine", "cr-sqlite"]);
    assert!(said.contains("ISLE_CR_SQLITE"), "{said}");
    assert_eq!(laptop.json(["engine", "native"])["tables"][0]["engine"], "native");
    laptop.ok(["doctor"]);
}
