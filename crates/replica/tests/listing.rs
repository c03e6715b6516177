//! Rows by what their columns hold: nothing that a person types is SQL, and pages leave nothing out.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use isle::{Comparison, Error, Filter, Grouping, Per, Replica, Row, Value};

fn jobs() -> (tempfile::TempDir, Replica) {
    let folder = tempfile::tempdir().unwrap();
    let replica = Replica::builder(folder.path().join("a.db")).home(folder.path().join("a")).init().unwrap();
    replica
        .write(|tx| {
            tx.execute_batch(
                "CREATE TABLE jobs(id INTEGER PRIMARY KEY, name TEXT, product TEXT, size INT, at TEXT, unix INT);
                 CREATE VIEW large AS SELECT id, name FROM jobs WHERE size > 3;
                 WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 60)
                 INSERT INTO jobs SELECT i, iif(i % 7 = 0, NULL, 'job 100%_' || i), 'p' || (i % 3), i % 5,
                   '2026-01-' || printf('%02d', 1 + i % 4) || 'T23:30:00Z', 1767225600 + i * 86400 FROM n",
            )
        })
        .unwrap();
    replica.track(&["jobs"]).unwrap();
    (folder, replica)
}

fn ids(rows: &[Row]) -> Vec<i64> {
    rows.iter().map(|row| if let Value::Integer(id) = row.values()[0] { id } else { panic!("no id") }).collect()
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

#[test]
fn pages_neither_overlap_nor_leave_a_row_out() {
    let (_folder, replica) = jobs();
    for (column, descending) in [("size", false), ("product", true), ("NAME", false)] {
        let filter = Filter::new().order_by(column, descending);
        let all = ids(&replica.list("jobs", &filter).unwrap());
        let pages: Vec<i64> = (0..9)
            .flat_map(|page| ids(&replica.list("jobs", &filter.clone().limit(7).offset(page * 7)).unwrap()))
            .collect();
        assert_eq!((pages.len(), &pages), (60, &all), "{column}");
    }
}

#[test]
fn each_comparison_finds_what_it_says() {
    let (_folder, replica) = jobs();
    let found = |comparison, column: &str, value: Value| {
        replica.count("jobs", &Filter::new().with(column, comparison, value)).unwrap()
    };
    assert_eq!(found(Comparison::Equal, "product", text("p1")), 20);
    assert_eq!(found(Comparison::Equal, "name", Value::Null), 8);
    assert_eq!(found(Comparison::NotEqual, "name", Value::Null), 52);
    assert_eq!(found(Comparison::NotEqual, "name", text("x")), 60, "NULL is not x");
    assert_eq!(found(Comparison::Less, "size", Value::Integer(1)), 12);
    assert_eq!(found(Comparison::AtMost, "size", Value::Integer(1)), 24);
    assert_eq!(found(Comparison::Greater, "size", Value::Integer(3)), 12);
    assert_eq!(found(Comparison::AtLeast, "size", text("3")), 24, "a number that was typed as a text");
    // What LIKE takes for a pattern is looked for as it is.
    assert_eq!(found(Comparison::Contains, "name", text("100%_1")), 10);
    assert_eq!(found(Comparison::Contains, "name", text("JOB 1__")), 0);
    let both =
        Filter::new().with("product", Comparison::Equal, text("p1")).with("size", Comparison::Equal, Value::Integer(0));
    assert_eq!(replica.count("jobs", &both).unwrap(), 4);
    assert_eq!(replica.count("large", &Filter::new()).unwrap(), 12, "a view can be asked as well");
}

#[test]
fn no_name_that_somebody_types_becomes_sql() {
    let (_folder, replica) = jobs();
    let odd = "id; DROP TABLE jobs; --";
    let filters = [Filter::new().order_by(odd, false), Filter::new().with(odd, Comparison::Equal, Value::Null)];
    for filter in &filters {
        let error = replica.list("jobs", filter).unwrap_err();
        assert!(matches!(error, Error::NoSuchColumn { .. }) && error.to_string().contains("id, name"), "{error}");
    }
    let grouping = |column: &str, sum: Option<&str>| Grouping {
        column: column.to_owned(),
        per: None,
        sum: sum.map(str::to_owned),
    };
    assert!(replica.groups("jobs", &grouping(odd, None), &Filter::new()).is_err());
    assert!(replica.groups("jobs", &grouping("id", Some(odd)), &Filter::new()).is_err());
    assert!(replica.list("jobs\" WHERE 0 --", &Filter::new()).is_err());
    let quote = Filter::new().with("name", Comparison::Equal, text("' OR 1 = 1 --"));
    assert_eq!(replica.count("jobs", &quote).unwrap(), 0);
    assert_eq!(replica.count("jobs", &Filter::new()).unwrap(), 60);
}

#[test]
fn groups_are_counted_by_value_and_by_spans_of_time() {
    let (_folder, replica) = jobs();
    let groups = |column: &str, per, sum: Option<&str>| {
        let grouping = Grouping { column: column.to_owned(), per, sum: sum.map(str::to_owned) };
        let groups = replica.groups("jobs", &grouping, &Filter::new()).unwrap();
        groups.into_iter().map(|group| (group.value.to_string(), group.rows, group.sum.to_string())).collect::<Vec<_>>()
    };
    let p = |n: u64, sum: &str| (format!("p{n}"), 20, sum.to_owned());
    assert_eq!(groups("product", None, Some("size")), [p(0, "40"), p(1, "40"), p(2, "40")]);
    let days: Vec<_> = groups("at", Some(Per::Day), None);
    assert_eq!(days.first().unwrap(), &("2026-01-01".to_owned(), 15, "NULL".to_owned()));
    assert_eq!(groups("at", Some(Per::Hour), None)[0].0, "2026-01-01T23:00");
    // Seconds since 1970 count as well.
    let months: Vec<_> =
        groups("unix", Some(Per::Month), None).into_iter().map(|(month, rows, _)| (month, rows)).collect();
    assert_eq!(months, [("2026-01".to_owned(), 30), ("2026-02".to_owned(), 28), ("2026-03".to_owned(), 2)]);
    let facts = replica.column_facts("jobs", &Filter::new()).unwrap();
    let name = facts.iter().find(|fact| fact.name == "name").unwrap();
    assert_eq!((name.filled, name.distinct), (52, 52));
    assert_eq!(facts[3].greatest, Value::Integer(4));
}
