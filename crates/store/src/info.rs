//! What a file holds, and how much room each part of it takes.

use rusqlite::Connection;

use crate::error::Doing as _;
use crate::layout::{literal, quoted};
use crate::{Store, StoreError};

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Info {
    /// The size of the file, without its write-ahead log.
    pub bytes: u64,
    /// Of that, room that is free and used again.
    pub free_bytes: u64,
    /// The app's tables, by name.
    pub tables: Vec<TableInfo>,
    /// The app's views, triggers and whatever else has no rows of its own but takes room: FTS5 tables, SQLite's own.
    pub other_bytes: u64,
    /// Changesets that are kept.
    pub log_bytes: u64,
    /// Row clocks, and what columns of kinds go by.
    pub clock_bytes: u64,
    /// The rest of isle's tables.
    pub isle_bytes: u64,
    /// Changesets in the log.
    pub changesets: u64,
}

/// A table of the app.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct TableInfo {
    /// Its name.
    pub name: String,
    /// Whether its changes travel.
    pub tracked: bool,
    /// Its rows.
    pub rows: u64,
    /// The room that it and its indexes take.
    pub bytes: u64,
    /// What its rows would take as JSON, an object with every column's name for each.
    pub json_bytes: u64,
}

impl Info {
    /// The share of the used room that isle's own tables take, from 0 to 1.
    pub fn isle_share(&self) -> f64 {
        let used = self.bytes.saturating_sub(self.free_bytes).max(1);
        (self.log_bytes + self.clock_bytes + self.isle_bytes) as f64 / used as f64
    }
}

impl Store {
    /// What the file holds. Reads every row.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn info(&self) -> Result<Info, StoreError> {
        self.snapshot(info)
    }
}

const LOOK: &str = "look what the file holds";

fn info(conn: &Connection) -> Result<Info, StoreError> {
    let number = |sql: &str| -> Result<u64, StoreError> {
        conn.query_row(sql, [], |row| row.get::<_, i64>(0)).doing(LOOK).map(|n| n as u64)
    };
    let page = number("PRAGMA page_size")?;
    // Each part by the table that it belongs to: an index is its table's.
    let sql = "SELECT coalesce(s.tbl_name, d.name), sum(d.pgsize) FROM dbstat AS d
               LEFT JOIN sqlite_schema AS s ON s.name = d.name WHERE d.aggregate = TRUE GROUP BY 1";
    let mut statement = conn.prepare(sql).doing(LOOK)?;
    let parts = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)? as u64)));
    let parts: Vec<(String, u64)> = parts.doing(LOOK)?.collect::<Result<_, _>>().doing(LOOK)?;
    let mut statement = conn
        .prepare(concat!(
            "SELECT l.name, EXISTS (SELECT 1 FROM isle_table AS t WHERE t.name = l.name) FROM pragma_table_list AS l
             WHERE l.schema = 'main' AND l.type = 'table' AND l.name NOT LIKE 'isle\\_%' ESCAPE '\\'
             AND l.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND ",
            crate::companion::not_of_cr_sqlite!(table "l.name"),
            " ORDER BY l.name"
        ))
        .doing(LOOK)?;
    let names = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, bool>(1)?))).doing(LOOK)?;
    let names: Vec<(String, bool)> = names.collect::<Result<_, _>>().doing(LOOK)?;
    let mut found = Info {
        bytes: page * number("PRAGMA page_count")?,
        free_bytes: page * number("PRAGMA freelist_count")?,
        tables: Vec::new(),
        other_bytes: 0,
        log_bytes: 0,
        clock_bytes: 0,
        isle_bytes: 0,
        changesets: number("SELECT count(*) FROM isle_log")?,
    };
    for (name, tracked) in names {
        let of = |part: &&(String, u64)| part.0.eq_ignore_ascii_case(&name);
        let bytes = parts.iter().filter(of).map(|(_, bytes)| bytes).sum();
        let (rows, json_bytes) = rows(conn, &name)?;
        found.tables.push(TableInfo { name, tracked, rows, bytes, json_bytes });
    }
    for (name, bytes) in parts {
        let numbered = |prefix: &str| {
            let number = name.strip_prefix(prefix).unwrap_or_default();
            !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
        };
        match name.as_str() {
            "isle_log" | "isle_block" | "isle_proof" => found.log_bytes += bytes,
            _ if numbered("isle_c") => found.clock_bytes += bytes,
            isle if isle.starts_with("isle_") => found.isle_bytes += bytes,
            other if found.tables.iter().any(|table| table.name.eq_ignore_ascii_case(other)) => {}
            _ => found.other_bytes += bytes,
        }
    }
    Ok(found)
}

/// How many rows a table has, and what they would take as JSON.
fn rows(conn: &Connection, table: &str) -> Result<(u64, u64), StoreError> {
    let columns = crate::tracked::columns(conn, table)?;
    let pairs: Vec<String> = columns
        .iter()
        .map(|column| {
            let (name, value) = (literal(&column.name), quoted(&column.name));
            format!("length({name}) + 4 + length(CAST(iif(typeof({value}) = 'blob', json_quote(hex({value})), json_quote({value})) AS BLOB))")
        })
        .collect();
    // Two braces and a comma.
    let row = if pairs.is_empty() { "0".to_owned() } else { pairs.join(" + ") };
    let sql = format!("SELECT count(*), coalesce(sum(3 + {row}), 0) FROM {}", quoted(table));
    let found = conn.query_row(&sql, [], |row| Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64)));
    found.doing(LOOK)
}
