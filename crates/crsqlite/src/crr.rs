//! Tables that become CRRs, and plain tables again.

use rusqlite::{Connection, OptionalExtension as _};

use crate::{CrSqliteError, Doing as _};

/// Whether a name in the file is one of cr-sqlite's own tables, indexes or triggers.
pub fn is_internal(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let ends = ["clock", "pks", "clock_dbv_idx", "pks_pks", "itrig", "utrig", "dtrig"];
    name.starts_with("crsql_") || name.rsplit_once("__crsql_").is_some_and(|(_, end)| ends.contains(&end))
}

/// Whether a table is a CRR.
///
/// # Errors
/// SQLite's reason.
pub fn is_crr(conn: &Connection, table: &str) -> Result<bool, CrSqliteError> {
    let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND name = ?1 || '__crsql_itrig' AND tbl_name = ?1";
    let mut statement = conn.prepare_cached(sql).doing("look for CRRs")?;
    Ok(statement.query_row([table], |_| Ok(())).optional().doing("look for CRRs")?.is_some())
}

/// The names of all CRRs.
///
/// # Errors
/// SQLite's reason.
pub fn crrs(conn: &Connection) -> Result<Vec<String>, CrSqliteError> {
    let sql = "SELECT tbl_name FROM sqlite_schema WHERE type = 'trigger' AND name = tbl_name || '__crsql_itrig' ORDER BY tbl_name";
    let mut statement = conn.prepare(sql).doing("look for CRRs")?;
    let names = statement.query_map([], |row| row.get(0)).doing("look for CRRs")?;
    names.collect::<Result<_, _>>().doing("look for CRRs")
}

/// Why cr-sqlite cannot hold a table; `None` if it can.
///
/// # Errors
/// SQLite's reason.
pub fn cannot_hold(conn: &Connection, table: &str) -> Result<Option<String>, CrSqliteError> {
    let doing = "look at a table";
    let odd = |name: &str| name.contains(['"', '\'', '\0']);
    if odd(table) {
        return Ok(Some("a name with quotes".to_owned()));
    }
    let sql = "SELECT name, \"notnull\", dflt_value IS NOT NULL, pk FROM pragma_table_info(?1)";
    let mut statement = conn.prepare_cached(sql).doing(doing)?;
    let columns = statement.query_map([table], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, bool>(1)?, row.get::<_, bool>(2)?, row.get::<_, i64>(3)? > 0))
    });
    let mut keyed = false;
    for column in columns.doing(doing)? {
        let (name, not_null, has_default, is_key) = column.doing(doing)?;
        keyed |= is_key;
        if odd(&name) {
            return Ok(Some(format!("column {name:?} has quotes in its name")));
        }
        match (is_key, not_null) {
            (true, false) => return Ok(Some(format!("key column {name:?} is not declared NOT NULL"))),
            (false, true) if !has_default => {
                return Ok(Some(format!("column {name:?} is NOT NULL and has no DEFAULT")));
            }
            _ => {}
        }
    }
    if !keyed {
        return Ok(Some("it has no PRIMARY KEY".to_owned()));
    }
    let has = |sql: &str| conn.query_row(sql, [table], |row| row.get::<_, bool>(0)).doing(doing);
    if has("SELECT count(*) > 0 FROM pragma_index_list(?1) WHERE \"unique\" = 1 AND origin <> 'pk'")? {
        return Ok(Some("it has a UNIQUE index beside its key".to_owned()));
    }
    if has("SELECT count(*) > 0 FROM pragma_foreign_key_list(?1)")? {
        return Ok(Some("it has a FOREIGN KEY".to_owned()));
    }
    let sql = "SELECT count(*) > 0 FROM pragma_index_list(?1) AS l JOIN pragma_index_xinfo(l.name) AS x
               WHERE l.origin = 'pk' AND x.key = 1 AND x.coll <> 'BINARY' COLLATE NOCASE";
    if has(sql)? {
        return Ok(Some("its key compares with another collation than BINARY".to_owned()));
    }
    Ok(None)
}

/// Makes a table a CRR; rows that are there get version 1. Only after [`cannot_hold`] had nothing against it: where cr-sqlite refuses, it rolls
/// the caller's whole transaction back.
///
/// # Errors
/// [`CrSqliteError::Table`].
pub fn make_crr(conn: &Connection, table: &str) -> Result<(), CrSqliteError> {
    let made = conn.query_row("SELECT crsql_as_crr(?1)", [table], |_| Ok(()));
    made.map_err(|source| CrSqliteError::Table { table: table.to_owned(), source })
}

/// Makes a CRR a plain table: cr-sqlite's triggers and clocks go, the rows stay.
///
/// # Errors
/// [`CrSqliteError::Table`].
pub fn make_table(conn: &Connection, table: &str) -> Result<(), CrSqliteError> {
    let made = conn.query_row("SELECT crsql_as_table(?1)", [table], |_| Ok(()));
    made.map_err(|source| CrSqliteError::Table { table: table.to_owned(), source })
}
