//! The shadow of a table with constraints: merged rows that differ from the visible ones.
//!
//! `isle_s<no>` has the columns of its table, without constraints, and `isle_hidden`: 1 for a row that is not in the table at all, 0
//! for one that stands there with other values. A row is merged as its shadow says where it has one, and as the table says
//! elsewhere. What puts rows into a shadow and takes them out again is `repair`.

use isle_changeset::ValueRef;
use isle_schema::Affinity;
use rusqlite::{Connection, OptionalExtension as _};

use crate::StoreError;
use crate::clocks::{bind, to_sql};
use crate::error::Doing as _;
use crate::layout::{literal, quoted};
use crate::seal::bits;
use crate::tracked::{self, Tracked, collation_name, join};

/// The shadow's name.
pub(crate) fn name(tracked: &Tracked) -> String {
    format!("isle_s{}", tracked.no)
}

/// The statement that creates a shadow. Affinities, collations and defaults are the table's: values convert and compare alike, and
/// columns that an insert does not name begin alike.
fn create_sql(conn: &Connection, tracked: &Tracked) -> Result<String, StoreError> {
    let physical = tracked::columns(conn, &tracked.table.name)?;
    let columns = tracked.physical.iter().map(|column| {
        let declared = match column.affinity {
            // Not INTEGER, which would make the key a rowid.
            Affinity::Integer => " INT",
            Affinity::Real => " REAL",
            Affinity::Numeric => " NUMERIC",
            Affinity::Text => " TEXT",
            Affinity::Blob => "",
        };
        let there = physical.iter().find(|known| known.name.eq_ignore_ascii_case(&column.name));
        let default = there.and_then(|known| known.default.as_deref()).map(default_sql).unwrap_or_default();
        format!("{}{declared}{default} COLLATE {}", quoted(&column.name), collation_name(column.collation))
    });
    let columns = join(columns, ", ");
    let key = tracked
        .table
        .key
        .iter()
        .map(|column| format!("{} COLLATE {}", quoted(&column.name), collation_name(column.collation)));
    let key = join(key, ", ");
    Ok(format!("CREATE TABLE {}({columns}, isle_hidden INT, PRIMARY KEY({key}))", name(tracked)))
}

/// A default as a column definition takes it, from the text that SQLite gives of it: without the parentheses that it may have had.
fn default_sql(text: &str) -> String {
    let bare = !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || c == '_');
    let names_a_string = bare && text.starts_with(|c: char| c.is_alphabetic() || c == '_');
    let keyword = ["NULL", "TRUE", "FALSE", "CURRENT_TIME", "CURRENT_DATE", "CURRENT_TIMESTAMP"];
    let known = keyword.iter().any(|keyword| keyword.eq_ignore_ascii_case(text));
    let in_quotes = text.len() > 1 && text.starts_with('"') && text.ends_with('"');
    match () {
        // SQLite takes a name for a string here, but not within parentheses.
        () if names_a_string && !known => format!(" DEFAULT {}", literal(text)),
        () if in_quotes => format!(" DEFAULT {}", literal(&text[1..text.len() - 1].replace("\"\"", "\""))),
        // The text may end in a comment.
        () => format!(" DEFAULT ({text}\n)"),
    }
}

/// Makes the shadow of a table, or makes it anew with what it holds where the table has other columns, or other names for them.
pub(crate) fn make(conn: &Connection, before: &Tracked, after: &Tracked) -> Result<(), StoreError> {
    let shadow = name(after);
    let run = |sql: &str| conn.execute_batch(sql).doing("make the shadow of a table");
    let create = create_sql(conn, after)?;
    let old = tracked::columns(conn, &shadow)?;
    if old.is_empty() {
        return run(&create);
    }
    let is_old = |name: &String| old.iter().any(|old| old.name.eq_ignore_ascii_case(name));
    let pairs = after.physical.iter().filter_map(|column| {
        let replicated = after.table.columns.iter().find(|known| known.name.eq_ignore_ascii_case(&column.name));
        let was = replicated.and_then(|now| before.table.columns.iter().find(|was| was.id == now.id));
        let was = was.map_or(&column.name, |was| &was.name);
        is_old(was).then(|| (quoted(&column.name), quoted(was)))
    });
    let (new, was): (Vec<String>, Vec<String>) = pairs.unzip();
    // Not by a rename, which fails where any view of the file is broken.
    run(&format!(
        "CREATE TEMP TABLE isle_s_old AS SELECT * FROM {shadow}; DROP TABLE {shadow}; {create};
         INSERT INTO {shadow}({}, isle_hidden) SELECT {}, isle_hidden FROM temp.isle_s_old; DROP TABLE temp.isle_s_old;",
        new.join(", "),
        was.join(", ")
    ))
}

/// The table has other columns, or other names for them: so has its shadow, if there is one.
pub(crate) fn follow(conn: &Connection, before: &Tracked, after: &Tracked) -> Result<(), StoreError> {
    if before.has_shadow { make(conn, before, after) } else { Ok(()) }
}

/// All columns that a row has in the table and in the shadow.
fn all_columns(tracked: &Tracked) -> String {
    join(tracked.physical.iter().map(|column| quoted(&column.name)), ", ")
}

/// Whether the shadow holds anything.
pub(crate) fn any(conn: &Connection, tracked: &Tracked) -> Result<bool, StoreError> {
    let sql = format!("SELECT 1 FROM {} LIMIT 1", name(tracked));
    match crate::clocks::one::<i64>(conn, &sql, []) {
        Ok(found) => Ok(found.is_some()),
        // A shadow is made by the first connection that merges.
        Err(error) if error.to_string().contains("no such table") => Ok(false),
        Err(error) => Err(error),
    }
}

/// How many rows do not show as they are merged, in all tables.
pub(crate) fn count(conn: &Connection) -> Result<u64, StoreError> {
    let sql =
        "SELECT s.name FROM isle_table AS t JOIN sqlite_schema AS s ON s.type = 'table' AND s.name = 'isle_s' || t.no";
    let mut statement = conn.prepare_cached(sql).doing("count hidden rows")?;
    let names = statement.query_map([], |row| row.get::<_, String>(0)).doing("count hidden rows")?;
    let mut rows = 0;
    for name in names {
        let sql = format!("SELECT count(*) FROM {} WHERE isle_hidden", name.doing("count hidden rows")?);
        rows += crate::clocks::one::<i64>(conn, &sql, [])?.unwrap_or(0);
    }
    // Those that show otherwise are known by their claims; a NULL that shows as a default is no clash.
    let sql = "SELECT count(*) FROM (SELECT DISTINCT t, k FROM isle_claim WHERE behind IS NOT NULL)";
    let rows = rows.max(crate::clocks::one::<i64>(conn, sql, [])?.unwrap_or(0));
    Ok(rows as u64)
}

/// The merged rows, in the place of the table.
pub(crate) fn merged_rows(tracked: &Tracked) -> String {
    let (table, shadow) = (quoted(&tracked.table.name), name(tracked));
    let columns = format!("{}{}", tracked.key_list(""), tracked.column_list(""));
    let same = tracked.table.key.iter().map(|column| {
        let name = quoted(&column.name);
        if tracked.table.rowid_key {
            return format!("s.{name} = t.{name}");
        }
        format!("s.{name} = t.{name} COLLATE {}", collation_name(column.collation))
    });
    let same = join(same, " AND ");
    format!(
        "(SELECT {columns} FROM {table} AS t WHERE NOT EXISTS (SELECT 1 FROM {shadow} AS s WHERE {same})
          UNION ALL SELECT {columns} FROM {shadow})"
    )
}

/// Whether a row of the shadow is hidden; `None` if it has no shadow.
pub(crate) fn state(conn: &Connection, tracked: &Tracked, key: &[ValueRef<'_>]) -> Result<Option<bool>, StoreError> {
    let sql = format!("SELECT isle_hidden FROM {} WHERE {}", name(tracked), tracked.key_match(1));
    let mut statement = conn.prepare_cached(&sql).doing("look for a hidden row")?;
    bind(&mut statement, key, 1)?;
    let mut rows = statement.raw_query();
    let row = rows.next().doing("look for a hidden row")?;
    row.map(|row| row.get(0)).transpose().doing("look for a hidden row")
}

/// Copies a row of the table into the shadow.
pub(crate) fn copy(conn: &Connection, tracked: &Tracked, key: &[ValueRef<'_>], hidden: bool) -> Result<(), StoreError> {
    let columns = all_columns(tracked);
    let (shadow, table, matches) = (name(tracked), quoted(&tracked.table.name), tracked.key_match(1));
    let hidden = i64::from(hidden);
    run(
        conn,
        &format!(
            "INSERT INTO {shadow}({columns}, isle_hidden) SELECT {columns}, {hidden} FROM {table} WHERE {matches}"
        ),
        key,
    )
    .map(|_| ())
}

/// Copies a row of the shadow into the table, with other values in some cells.
pub(crate) fn restore(
    conn: &Connection,
    tracked: &Tracked,
    key: &[ValueRef<'_>],
    instead: &[(usize, isle_changeset::Value)],
) -> Result<usize, StoreError> {
    let columns = all_columns(tracked);
    let (shadow, table, matches) = (name(tracked), quoted(&tracked.table.name), tracked.key_match(1));
    let mut values = key.to_vec();
    let shown = tracked.physical.iter().map(|column| {
        let is = |(cell, _): &&(usize, _)| tracked.table.columns[cell - 1].name.eq_ignore_ascii_case(&column.name);
        let Some((_, value)) = instead.iter().find(is) else { return quoted(&column.name) };
        values.push(value.as_ref());
        format!("?{}", values.len())
    });
    let shown = join(shown, ", ");
    run(conn, &format!("INSERT INTO {table}({columns}) SELECT {shown} FROM {shadow} WHERE {matches}"), &values)
}

/// Says whether a row is in the table, with other values.
pub(crate) fn mark(conn: &Connection, tracked: &Tracked, key: &[ValueRef<'_>], hidden: bool) -> Result<(), StoreError> {
    let hidden = i64::from(hidden);
    let sql = format!("UPDATE {} SET isle_hidden = {hidden} WHERE {}", name(tracked), tracked.key_match(1));
    run(conn, &sql, key).map(|_| ())
}

/// Takes a row out of the shadow.
pub(crate) fn forget(conn: &Connection, tracked: &Tracked, key: &[ValueRef<'_>]) -> Result<(), StoreError> {
    run(conn, &format!("DELETE FROM {} WHERE {}", name(tracked), tracked.key_match(1)), key).map(|_| ())
}

/// Puts a new merged row into the shadow; `exact` is its key as it is spelled.
pub(crate) fn insert(
    conn: &Connection,
    tracked: &Tracked,
    exact: &[ValueRef<'_>],
    mask: &[u64],
    cells: &[ValueRef<'_>],
) -> Result<(), StoreError> {
    let named: Vec<usize> = bits(mask).filter(|cell| *cell > 0).collect();
    let columns: String =
        named.iter().map(|cell| format!(", {}", quoted(&tracked.table.columns[cell - 1].name))).collect();
    let parameters = join((1..=exact.len() + named.len()).map(|n| format!("?{n}")), ", ");
    let (shadow, key) = (name(tracked), tracked.key_list(""));
    let sql = format!("INSERT INTO {shadow}({key}{columns}, isle_hidden) VALUES({parameters}, 1)");
    let values: Vec<ValueRef<'_>> = exact.iter().copied().chain(named.iter().map(|cell| cells[*cell])).collect();
    run(conn, &sql, &values).map(|_| ())
}

/// Writes cells of a row in the shadow, and its key as it is spelled now.
pub(crate) fn update(
    conn: &Connection,
    tracked: &Tracked,
    key: &[ValueRef<'_>],
    exact: Option<&[ValueRef<'_>]>,
    mask: &[u64],
    cells: &[ValueRef<'_>],
) -> Result<(), StoreError> {
    let mut values = key.to_vec();
    let mut sets = Vec::new();
    for (column, value) in tracked.table.key.iter().zip(exact.unwrap_or_default()) {
        values.push(*value);
        sets.push(format!("{} = ?{}", quoted(&column.name), values.len()));
    }
    for cell in bits(mask).filter(|cell| *cell > 0) {
        values.push(cells[cell]);
        sets.push(format!("{} = ?{}", quoted(&tracked.table.columns[cell - 1].name), values.len()));
    }
    if sets.is_empty() {
        return Ok(());
    }
    run(conn, &format!("UPDATE {} SET {} WHERE {}", name(tracked), sets.join(", "), tracked.key_match(1)), &values)
        .map(|_| ())
}

/// The values of some columns of a row as it is merged: from the shadow or from the table. `None` if there is no such row, or the
/// condition does not hold of it.
pub(crate) fn values(
    conn: &Connection,
    tracked: &Tracked,
    (shadowed, columns, condition): (bool, &str, &str),
    key: &[ValueRef<'_>],
) -> Result<Option<Vec<isle_changeset::Value>>, StoreError> {
    let from = if shadowed { name(tracked) } else { quoted(&tracked.table.name) };
    let sql = format!("SELECT {columns} FROM {from} WHERE {}{condition}", tracked.key_match(1));
    first(conn, &sql, key)
}

/// The first row of a query, as values.
pub(crate) fn first(
    conn: &Connection,
    sql: &str,
    values: &[ValueRef<'_>],
) -> Result<Option<Vec<isle_changeset::Value>>, StoreError> {
    let mut statement = conn.prepare_cached(sql).doing("look at a row")?;
    let count = statement.column_count();
    let found = statement.query_row(rusqlite::params_from_iter(values.iter().map(|value| to_sql(*value))), |row| {
        (0..count).map(|at| Ok(crate::clocks::from_sql(row.get_ref(at)?).to_value())).collect()
    });
    found.optional().doing("look at a row")
}

/// Runs a statement with values; gives the number of rows written.
pub(crate) fn run(conn: &Connection, sql: &str, values: &[ValueRef<'_>]) -> Result<usize, StoreError> {
    let mut statement = conn.prepare_cached(sql).doing("repair a row")?;
    bind(&mut statement, values, 1)?;
    statement.raw_execute().doing("repair a row")
}
