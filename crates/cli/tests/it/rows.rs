//! Rows by what their columns hold, as commands.

use serde_json::json;

use crate::support::Place;

#[test]
fn rows_are_listed_and_counted_as_they_are_asked_for() {
    let place = Place::new();
    let laptop = place.laptop();
    laptop.ok(["exec", "INSERT INTO notes VALUES(3, 'Dune Messiah', 4), (4, 'Solaris', 5)"]);
    let titles = |args: &[&str]| -> Vec<String> {
        let rows = laptop.json(["list", "notes"].iter().chain(args));
        rows.as_array().expect("rows").iter().map(|row| row["title"].as_str().expect("a title").to_owned()).collect()
    };
    assert_eq!(
        titles(&["--where", "stars>=4", "--order", "stars", "--order", "title", "--desc"]),
        ["Solaris", "Dune", "Dune Messiah"]
    );
    assert_eq!(titles(&["--where", "title~dune", "-n", "1", "--offset", "1"]), ["Dune Messiah"]);
    assert_eq!(titles(&["--where", "stars=NULL"]), ["Emma"]);
    assert_eq!(titles(&["--where", "title!=Emma", "--where", "stars<5"]), ["Dune Messiah"]);
    assert!(laptop.ok(["list", "notes", "-n", "2"]).contains("2 rows of 4"));
    let stats = laptop.json(["stats", "notes", "--by", "stars", "--sum", "id"]);
    assert_eq!(stats["groups"][0], json!({ "value": 5, "rows": 2, "sum": 5 }));
    assert_eq!(stats["rows"], 4);
    assert!(laptop.ok(["stats", "notes"]).contains("Solaris"));
    assert!(
        laptop
            .fails(2, ["list", "notes", "--order", "id; DROP TABLE notes"])
            .contains("its columns are id, title, stars")
    );
    assert!(laptop.fails(2, ["list", "notes", "--where", "stars"]).contains("is no condition"));
    laptop.fails(2, ["stats", "nope"]);
    laptop.fails(2, ["stats", "notes", "--per", "day"]);
}
