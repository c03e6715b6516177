//! The schemas that devices have, and how one of them changes.

use std::collections::BTreeSet;

use isle_store::Store;
use rusqlite::Connection;

const KINDS: &str = include_str!("../schemas/kinds.sql");
const APPS: [(&str, &str); 5] = [
    ("qlippy", include_str!("../../migrations/qlippy/1.0.0__start.sql")),
    ("wmd", include_str!("../../migrations/wmd/1.0.0__start.sql")),
    ("codedb", include_str!("../../migrations/codedb/1.0.0__start.sql")),
    ("collection", include_str!("../../migrations/collection/1.0.0__start.sql")),
    ("massugc", include_str!("../../migrations/massugc/1.0.0__start.sql")),
];

/// Whether the schema is the one that changes.
pub(crate) fn changes(name: &str) -> bool {
    name == "kinds" || name == "keyed"
}

/// The definition of a schema, with these changes if it is `kinds`, or `keyed`: the same with keys that say that they are not NULL, as cr-sqlite wants it.
pub(crate) fn definition(name: &str, changes: &BTreeSet<u32>) -> Option<String> {
    match APPS.iter().find(|(app, _)| *app == name) {
        Some((_, sql)) => Some((*sql).to_owned()),
        None if name == "kinds" => Some(KINDS.lines().filter_map(|line| kept(line, changes)).collect()),
        None if name == "keyed" => {
            let not_null = |sql: String, key: &str| {
                sql.replace(&format!("{key} PRIMARY KEY"), &format!("{key} PRIMARY KEY NOT NULL"))
            };
            let sql = not_null(not_null(definition("kinds", changes)?, "INTEGER"), "TEXT");
            Some(sql.replace("pairs(a INT, b TEXT,", "pairs(a INT NOT NULL, b TEXT NOT NULL,"))
        }
        None => None,
    }
}

/// A line, if it belongs to the schema with these changes.
fn kept(line: &str, changes: &BTreeSet<u32>) -> Option<String> {
    let (text, mark) = match line.rsplit_once(" --") {
        Some((text, mark)) => (text, mark),
        None => return Some(format!("{line}\n")),
    };
    let wanted = match mark.strip_prefix('!') {
        Some(number) => number.parse().map(|number: u32| !changes.contains(&number)),
        None => mark.parse().map(|number: u32| changes.contains(&number)),
    };
    match wanted {
        Ok(true) => Some(format!("{text}\n")),
        Ok(false) => None,
        Err(_) => Some(format!("{line}\n")),
    }
}

/// What a column is called after the change that renames it.
pub(crate) fn renamed(table: &str, column: &str) -> Option<&'static str> {
    (table == "words" && column == "meaning").then_some("sense")
}

/// The changes that a file has.
pub(crate) fn changes_in(conn: &Connection, store: &Store) -> BTreeSet<u32> {
    let looks = [
        (0, "SELECT 1 FROM pragma_table_info('items') WHERE name = 'mood'"),
        (1, "SELECT 1 FROM pragma_table_info('items') WHERE name = 'weight'"),
        (2, "SELECT 1 FROM sqlite_schema WHERE name = 'items_by_title'"),
        (3, "SELECT 1 FROM sqlite_schema WHERE name = 'extras'"),
        (4, "SELECT 1 FROM pragma_table_info('words') WHERE name = 'sense'"),
        (5, "SELECT 1 FROM sqlite_schema WHERE name = 'item_titles'"),
        (7, "SELECT 1 FROM sqlite_schema WHERE name = 'items' AND sql LIKE '%CHECK%'"),
    ];
    let mut changes: BTreeSet<u32> = looks
        .into_iter()
        .filter(|(_, sql)| conn.query_row(sql, [], |_| Ok(())).is_ok())
        .map(|(number, _)| number)
        .collect();
    if store.schema().is_ok_and(|(schema, _)| schema.requires.is_some()) {
        changes.insert(6);
    }
    changes
}

/// The names of all schemas.
pub(crate) fn names() -> Vec<&'static str> {
    ["kinds", "keyed"].into_iter().chain(APPS.iter().map(|(name, _)| *name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_is_sql_whatever_has_changed() {
        for changes in [vec![], vec![0, 3, 6], vec![0, 1, 2, 3, 4, 5, 6, 7]] {
            let changes = changes.into_iter().collect();
            for name in ["kinds", "keyed"] {
                let sql = definition(name, &changes).unwrap();
                Connection::open_in_memory().unwrap().execute_batch(&sql).unwrap();
            }
        }
        for (name, _) in APPS {
            let sql = definition(name, &BTreeSet::new()).unwrap();
            Connection::open_in_memory().unwrap().execute_batch(&sql).unwrap();
        }
    }
}
