//! Tables that become CRRs, and plain tables again.

use rusqlite::{Connection, OptionalExtension as _};

use crate::clocks::SENTINEL;
use crate::{CrSqliteError, Doing as _, Library, release};

/// The triggers of a CRR behind `<table>__crsql_`.
pub const TRIGGERS: [&str; 3] = ["itrig", "utrig", "dtrig"];

/// Arguments that SQLite passes to a function at most, unless it was built for more: the trigger of updates passes the table's name and two rows.
const ARGUMENTS_MAX: usize = 127;

/// Whether a name in the file is one of cr-sqlite's own tables, indexes or triggers.
pub fn is_internal(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let tables = ["crsql_master", "crsql_site_id", "crsql_site_id_site_id", "crsql_tracked_peers", "crsql_db_versions"];
    let ends = ["clock", "pks", "clock_dbv_idx", "pks_pks", "itrig", "utrig", "dtrig"];
    tables.contains(&name.as_str()) || name.rsplit_once("__crsql_").is_some_and(|(_, end)| ends.contains(&end))
}

/// The name under which cr-sqlite knows a table, if it is a CRR: that may have other letters in upper case.
///
/// # Errors
/// SQLite's reason.
pub fn name_of(conn: &Connection, table: &str) -> Result<Option<String>, CrSqliteError> {
    let sql = "SELECT substr(name, 1, length(name) - 13) FROM sqlite_schema
               WHERE type = 'trigger' AND name = ?1 || '__crsql_itrig' COLLATE NOCASE AND tbl_name = ?1 COLLATE NOCASE";
    let mut statement = conn.prepare_cached(sql).doing("look for CRRs")?;
    statement.query_row([table], |row| row.get(0)).optional().doing("look for CRRs")
}

/// The names of all CRRs, as cr-sqlite knows them.
///
/// # Errors
/// SQLite's reason.
pub fn crrs(conn: &Connection) -> Result<Vec<String>, CrSqliteError> {
    let sql = "SELECT substr(name, 1, length(name) - 13) FROM sqlite_schema
               WHERE type = 'trigger' AND name = tbl_name || '__crsql_itrig' COLLATE NOCASE ORDER BY tbl_name";
    let mut statement = conn.prepare(sql).doing("look for CRRs")?;
    let names = statement.query_map([], |row| row.get(0)).doing("look for CRRs")?;
    names.collect::<Result<_, _>>().doing("look for CRRs")
}

/// Why cr-sqlite cannot hold a table; `None` if it seems to be able to.
///
/// # Errors
/// SQLite's reason.
pub fn cannot_hold(conn: &Connection, table: &str) -> Result<Option<String>, CrSqliteError> {
    let doing = "look at a table";
    let odd = |name: &str| name.contains(['"', '\'', '\0']) || name == SENTINEL || name.starts_with("__crsql");
    if odd(table) {
        return Ok(Some("a name that cr-sqlite cannot have".to_owned()));
    }
    let sql = "SELECT name, \"notnull\", dflt_value IS NOT NULL, pk FROM pragma_table_info(?1)";
    let mut statement = conn.prepare_cached(sql).doing(doing)?;
    let columns = statement.query_map([table], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, bool>(1)?, row.get::<_, bool>(2)?, row.get::<_, i64>(3)? > 0))
    });
    let (mut keyed, mut count) = (false, 0);
    for column in columns.doing(doing)? {
        let (name, not_null, has_default, is_key) = column.doing(doing)?;
        keyed |= is_key;
        count += 1;
        if odd(&name) {
            return Ok(Some(format!("column {name:?} has a name that cr-sqlite cannot have")));
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
    if 2 * count + 1 > ARGUMENTS_MAX {
        return Ok(Some(format!(
            "it has {count} columns, and its triggers could pass {} to a function",
            ARGUMENTS_MAX / 2
        )));
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

/// Makes an empty table of this statement a CRR in a database of its own, in memory: where cr-sqlite refuses there, nothing is lost. Gives why it
/// does, if so.
///
/// # Errors
/// SQLite's reason.
pub fn try_on(library: &Library, table: &str, create_sql: &str) -> Result<Option<String>, CrSqliteError> {
    let scratch = Connection::open_in_memory().doing("try a table")?;
    library.load(&scratch)?;
    let made = scratch.execute_batch(create_sql).and_then(|()| as_crr(&scratch, table));
    release(&scratch);
    Ok(made.err().map(|error| format!("cr-sqlite refuses it ({error})")))
}

fn as_crr(conn: &Connection, table: &str) -> rusqlite::Result<()> {
    conn.query_row("SELECT crsql_as_crr(?1)", [table], |_| Ok(()))
}

/// Makes a table a CRR; rows that are there get version 1. Only after [`cannot_hold`] and [`try_on`] had nothing against it: where cr-sqlite refuses, it
/// rolls the caller's whole transaction back.
///
/// # Errors
/// [`CrSqliteError::Table`].
pub fn make_crr(conn: &Connection, table: &str) -> Result<(), CrSqliteError> {
    as_crr(conn, table).map_err(|source| CrSqliteError::Table { table: table.to_owned(), source })
}

/// Makes a CRR a plain table: cr-sqlite's triggers and clocks go, the rows stay. The name is that of [`name_of`].
///
/// # Errors
/// [`CrSqliteError::Table`].
pub fn make_table(conn: &Connection, table: &str) -> Result<(), CrSqliteError> {
    let made = conn.query_row("SELECT crsql_as_table(?1)", [table], |_| Ok(()));
    made.map_err(|source| CrSqliteError::Table { table: table.to_owned(), source })
}
