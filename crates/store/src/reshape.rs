//! A table gets another definition: other defaults, CHECKs, UNIQUE constraints, foreign keys, generated columns, collations.
//!
//! SQLite changes little of a table in place, so it is made anew under its name and its rows are copied (lang_altertable.html §7,
//! with the order of its steps turned: the old table steps aside, so that nothing that names the table is rewritten). What travels is the
//! author's CREATE TABLE statement with the ids of its columns; each device brings it to the names of today in a scratch database
//! first, adds the columns that its author did not know or name, and checks that the key is still the key.
//!
//! No value and no clock changes. A row whose author did not know a column has what the column began with, whenever it comes: defaults that
//! change are pinned in `isle_table`. Rows that clash in a new UNIQUE index, and rows without a parent, are refused where the definition is
//! written; what other devices have of them is hidden as `repair` says. CHECKs too are tried by the author alone.
//!
//! # Limits
//! Keys, STRICT and WITHOUT ROWID stay as they are, and so does what a column converts its values to: '007' that became 7 on a device and
//! text again by a later definition would differ from a '007' that came by the log. A column becomes NOT NULL with a constant default alone
//! (see `required`). A table's statistics (ANALYZE) go.

use isle_schema::{Column, IndexDefinition, Schema, Shape, Table, TableDefinition, TableState};
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

use crate::StoreError;
use crate::constraints::{Unique, list};
use crate::define::{clauses, column_sql, scratch};
use crate::engine::Engine;
use crate::error::Doing as _;
use crate::layout::quoted;
use crate::shadow;
use crate::tracked::{self, LocalTable, Tracked, collation_name, join};

/// Keys that an error names.
const NAMED_MAX: usize = 5;

/// A table as it is to be, tried in a scratch database.
pub(crate) struct Wanted {
    /// The statement that creates it.
    sql: String,
    /// Where it was tried.
    pub(crate) scratch: Connection,
}

impl Wanted {
    /// A table as it stands in a scratch database.
    pub(crate) fn of(scratch: Connection, name: &str) -> Result<Wanted, StoreError> {
        let sql = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE";
        let sql = crate::clocks::one::<String>(&scratch, sql, [name])?.unwrap_or_default();
        Ok(Wanted { sql, scratch })
    }
}

/// Tells one shape from another.
pub(crate) fn fingerprint(shape: &Shape) -> String {
    let mut hash = blake3::Hasher::new();
    hash.update(shape.create_sql.as_bytes());
    for column in &shape.columns {
        hash.update(column.id.as_bytes());
    }
    hash.finalize().to_hex()[..32].to_owned()
}

/// Brings a shape to the table's names of today; or says why it does not fit the table `model` in this file.
pub(crate) fn wanted(
    conn: &Connection,
    shape: &Shape,
    model: &LocalTable,
    columns: &[Column],
    schema: &Schema,
) -> Result<Result<Wanted, String>, StoreError> {
    let mut scratch = scratch()?;
    if let Err(reason) = create_alone(&mut scratch, &shape.create_sql)? {
        return Ok(Err(reason));
    }
    let tried = rename(&scratch, shape, &model.table.name, columns, schema).and_then(|()| keep(conn, &scratch, model));
    if let Err(error) = tried {
        return Ok(Err(error.to_string()));
    }
    let name = &model.table.name;
    let made = match tracked::introspect(&scratch, "", name) {
        Ok(made) => made.table,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let of = |what: &str, conn: &Connection| {
        let sql = format!("SELECT {what} FROM pragma_table_list(?1) WHERE schema = 'main'");
        crate::clocks::one::<bool>(conn, &sql, [name])
    };
    if made.key != model.table.key || made.rowid_key != model.table.rowid_key || of("wr", &scratch)? != of("wr", conn)?
    {
        return Ok(Err("its key differs; a key cannot be changed".to_owned()));
    }
    if of("strict", &scratch)? != of("strict", conn)? {
        return Ok(Err("STRICT differs; it cannot be changed".to_owned()));
    }
    if let Err(error) = tracked::load(&scratch, 0, model.clone()) {
        return Ok(Err(error.to_string()));
    }
    Ok(Ok(Wanted::of(scratch, name)?))
}

/// A table's birth under another name, which it has by now; or why that is not to be had.
pub(crate) fn under_name(
    definition: &TableDefinition,
    name: &str,
) -> Result<Result<TableDefinition, String>, StoreError> {
    let mut scratch = scratch()?;
    for sql in std::iter::once(&definition.create_sql).chain(&definition.index_sql) {
        if let Err(reason) = create_alone(&mut scratch, sql)? {
            return Ok(Err(reason));
        }
    }
    let rename = format!("ALTER TABLE {} RENAME TO {}", quoted(&definition.table.name), quoted(name));
    if let Err(error) = scratch.execute_batch(&rename) {
        return Ok(Err(error.to_string()));
    }
    let sql = "SELECT sql FROM sqlite_schema WHERE tbl_name = ?1 COLLATE NOCASE AND sql IS NOT NULL
               AND type IN ('table', 'index') ORDER BY type DESC, name";
    let mut statement = scratch.prepare(sql).doing("name a table")?;
    let sql = statement.query_map([name], |row| row.get(0)).doing("name a table")?;
    let mut sql: Vec<String> = sql.collect::<Result<_, _>>().doing("name a table")?;
    if sql.is_empty() {
        return Ok(Err("its SQL makes another table".to_owned()));
    }
    let create_sql = sql.remove(0);
    let table = Table { name: name.to_owned(), ..definition.table.clone() };
    Ok(Ok(TableDefinition { table, create_sql, index_sql: sql }))
}

/// Runs another device's CREATE TABLE where it can do no harm: it makes one table and computes nothing.
fn create_alone(scratch: &mut Connection, sql: &str) -> Result<Result<(), String>, StoreError> {
    let decide = |context: AuthContext<'_>| match context.action {
        AuthAction::CreateTable { .. }
        | AuthAction::CreateIndex { .. }
        | AuthAction::Reindex { .. }
        | AuthAction::Read { .. } => Authorization::Allow,
        AuthAction::Function { function_name } if !function_name.eq_ignore_ascii_case("load_extension") => {
            Authorization::Allow
        }
        AuthAction::Insert { table_name } | AuthAction::Update { table_name, .. }
            if table_name.starts_with("sqlite_") =>
        {
            Authorization::Allow
        }
        _ => Authorization::Deny,
    };
    scratch.authorizer(Some(decide)).doing("open a scratch database")?;
    let created = scratch.execute(sql, []).map(drop).map_err(|error| error.to_string());
    scratch.authorizer(None::<fn(AuthContext<'_>) -> Authorization>).doing("open a scratch database")?;
    Ok(created)
}

/// Gives the table in the scratch database, its columns and its parents the names of today.
fn rename(
    scratch: &Connection,
    shape: &Shape,
    name: &str,
    columns: &[Column],
    schema: &Schema,
) -> Result<(), StoreError> {
    let run = |sql: String| scratch.execute_batch(&sql).doing("name the columns of a table");
    let made = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";
    let made = crate::clocks::one::<String>(scratch, made, [])?.unwrap_or_default();
    // Tables of the parents' names, so that SQLite carries their renames into the definition. Several keys may refer to one.
    for (n, parent) in shape.parents.iter().enumerate() {
        let columns = join(parent.columns.iter().map(|column| format!(", {}", quoted(&column.name))), "");
        run(format!(
            "CREATE TABLE {0}(isle_key{columns}); ALTER TABLE {0} RENAME TO isle_parent{n}",
            quoted(&parent.name)
        ))?;
    }
    if made != name {
        // By way of a name that nobody has: another spelling of one name is no rename to SQLite.
        run(format!(
            "ALTER TABLE {} RENAME TO isle_shape; ALTER TABLE isle_shape RENAME TO {}",
            quoted(&made),
            quoted(name)
        ))?;
    }
    let table = quoted(name);
    let now = |column: &Column| columns.iter().find(|now| now.id == column.id).map(|now| now.name.as_str());
    let renamed: Vec<(usize, &Column, &str)> = shape
        .columns
        .iter()
        .enumerate()
        .filter_map(|(n, column)| Some((n, column, now(column)?)))
        .filter(|(_, column, now)| column.name != *now)
        .collect();
    for (n, column, _) in &renamed {
        run(format!("ALTER TABLE {table} RENAME COLUMN {} TO isle_column{n}", quoted(&column.name)))?;
    }
    for (n, _, now) in &renamed {
        run(format!("ALTER TABLE {table} RENAME COLUMN isle_column{n} TO {}", quoted(now)))?;
    }
    for (n, parent) in shape.parents.iter().enumerate() {
        let now = schema.tables.get(&parent.table);
        let stub = format!("isle_parent{n}");
        for (m, column) in parent.columns.iter().enumerate() {
            let now = now.and_then(|now| now.columns.iter().find(|now| now.id == column.id));
            let now = now.map_or(&column.name, |now| &now.name);
            run(format!("ALTER TABLE {stub} RENAME COLUMN {} TO isle_column{m}", quoted(&column.name)))?;
            run(format!("ALTER TABLE {stub} RENAME COLUMN isle_column{m} TO {}", quoted(now)))?;
        }
        let now = now.map_or(&parent.name, |now| &now.name);
        run(format!("ALTER TABLE {stub} RENAME TO {}", quoted(now)))?;
    }
    Ok(())
}

/// Adds the columns that the table has here and the shape does not name: hidden ones, those of other authors, and the app's own.
fn keep(conn: &Connection, scratch: &Connection, model: &LocalTable) -> Result<(), StoreError> {
    let name = &model.table.name;
    let there = tracked::columns(scratch, name)?;
    let has =
        |column: &tracked::PhysicalColumn| there.iter().any(|known| known.name.eq_ignore_ascii_case(&column.name));
    for column in tracked::columns(conn, name)?.iter().filter(|column| column.hidden == 0 && !has(column)) {
        let definition = column_sql(conn, name, column)?;
        let sql = format!("ALTER TABLE {} ADD COLUMN {definition}", quoted(name));
        scratch.execute_batch(&sql).doing("keep the columns of a table")?;
    }
    Ok(())
}

/// An index's statement with the names of today; or why it fits no more.
pub(crate) fn index_sql(index: &IndexDefinition, target: &TableState) -> Result<String, String> {
    let mut scratch = scratch().map_err(|error| error.to_string())?;
    let now = |column: &Column| target.columns.iter().find(|now| now.id == column.id);
    let columns = target.key.iter().cloned().chain(index.columns.iter().map(|column| column.name.clone()));
    let columns = join(columns.map(|name| quoted(&name)), ", ");
    let made = format!("CREATE TABLE {}({columns})", quoted(&index.table_name));
    scratch.execute_batch(&made).map_err(|error| error.to_string())?;
    create_alone(&mut scratch, &index.sql).map_err(|error| error.to_string())??;
    let run = |sql: String| scratch.execute_batch(&sql).map_err(|error| error.to_string());
    run(format!("ALTER TABLE {} RENAME TO isle_shape", quoted(&index.table_name)))?;
    for (n, column) in index.columns.iter().enumerate() {
        run(format!("ALTER TABLE isle_shape RENAME COLUMN {} TO isle_column{n}", quoted(&column.name)))?;
    }
    for (n, column) in index.columns.iter().enumerate() {
        let name = now(column).map_or(&column.name, |now| &now.name);
        run(format!("ALTER TABLE isle_shape RENAME COLUMN isle_column{n} TO {}", quoted(name)))?;
    }
    run(format!("ALTER TABLE isle_shape RENAME TO {}", quoted(&target.name)))?;
    let sql = "SELECT sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL";
    let sql = crate::clocks::one::<String>(&scratch, sql, []).map_err(|error| error.to_string())?;
    sql.ok_or_else(|| "its SQL makes no index".to_owned())
}

/// Makes the table of `now` what is wanted, with its rows. `own` says that this device is the author. Gives the reason where that is
/// refused.
pub(crate) fn make(engine: &Engine, now: &Tracked, wanted: &Wanted, own: bool) -> Result<Option<String>, StoreError> {
    let conn = &engine.conn;
    let name = &now.table.name;
    let sql = "SELECT sql FROM sqlite_schema WHERE tbl_name = ?1 COLLATE NOCASE AND type IN ('index', 'trigger')
               AND sql IS NOT NULL ORDER BY type, name";
    let mut statement = conn.prepare(sql).doing("read the indexes")?;
    let kept = statement.query_map([name], |row| row.get::<_, String>(0)).doing("read the indexes")?;
    let kept: Vec<String> = kept.collect::<Result<_, _>>().doing("read the indexes")?;
    drop(statement);
    // Indexes of their own may compare otherwise than before.
    for sql in kept.iter().filter(|sql| !tracked::contains_word(sql, "TRIGGER")) {
        if let Err(error) = wanted.scratch.execute_batch(sql)
            && own
        {
            return Ok(Some(format!("an index does not fit the table any more ({error}); drop it first")));
        }
    }
    drop_triggers(conn, name)?;
    lift_guard(conn, now)?;
    null_rows_step_aside(engine, now, &wanted.scratch)?;
    for index in tracked::unique(&wanted.scratch, &now.table)?.unwrap_or_default() {
        if let Some(reason) = give_way(engine, now, &index, own)? {
            return Ok(Some(reason));
        }
    }
    if let Some(reason) = swap(engine, now, wanted, own)? {
        return Ok(Some(reason));
    }
    for sql in kept {
        // What does not fit the new definition was the app's own.
        if let Err(error) = conn.execute_batch(&sql) {
            tracing::warn!(%error, table = name, "an index or trigger does not fit the table any more");
        }
    }
    crate::objects::fill_again(conn, name)?;
    Ok(None)
}

/// Takes off the temporary trigger that keeps the app's own from deleting rows; it comes again when the tables are read anew.
fn lift_guard(conn: &Connection, now: &Tracked) -> Result<(), StoreError> {
    conn.execute_batch(&format!("DROP TRIGGER IF EXISTS temp.isle_guard{}", now.no)).doing("make a table anew")
}

fn drop_triggers(conn: &Connection, table: &str) -> Result<(), StoreError> {
    let sql = "SELECT name FROM sqlite_schema WHERE tbl_name = ?1 COLLATE NOCASE AND type = 'trigger'";
    let mut statement = conn.prepare(sql).doing("read the triggers")?;
    let triggers = statement.query_map([table], |row| row.get::<_, String>(0)).doing("read the triggers")?;
    let triggers: Vec<String> = triggers.collect::<Result<_, _>>().doing("read the triggers")?;
    drop(statement);
    for trigger in triggers {
        conn.execute_batch(&format!("DROP TRIGGER {}", quoted(&trigger))).doing("set a trigger aside")?;
    }
    Ok(())
}

/// Gives a table another name, without a word to whatever names it, and takes its triggers off; gives their statements.
pub(crate) fn set_aside(conn: &Connection, table: &str, old: &str) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT sql FROM sqlite_schema WHERE tbl_name = ?1 COLLATE NOCASE AND type = 'trigger' ORDER BY name";
    let mut statement = conn.prepare(sql).doing("read the triggers")?;
    let triggers = statement.query_map([table], |row| row.get::<_, String>(0)).doing("read the triggers")?;
    let triggers = triggers.collect::<Result<_, _>>().doing("read the triggers")?;
    drop(statement);
    drop_triggers(conn, table)?;
    // Modern renames would rewrite views, triggers and foreign keys that name the table.
    let legacy = |on| conn.execute_batch(&format!("PRAGMA legacy_alter_table = {on}")).doing("make a table anew");
    legacy("ON")?;
    let moved = conn.execute_batch(&format!("ALTER TABLE {} RENAME TO {old}", quoted(table)));
    legacy("OFF")?;
    moved.doing("make a table anew")?;
    Ok(triggers)
}

/// Puts a table of the new definition in the place of the old one, with its rows.
fn swap(engine: &Engine, now: &Tracked, wanted: &Wanted, own: bool) -> Result<Option<String>, StoreError> {
    let conn = &engine.conn;
    let old = format!("isle_old{}", now.no);
    let before = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE";
    let before = crate::clocks::one::<String>(conn, before, [&now.table.name])?.unwrap_or_default();
    set_aside(conn, &now.table.name, &old)?;
    crate::objects::flush(conn)?;
    let created = engine.guard.creating(&now.table.name, || conn.execute(&wanted.sql, []));
    if let Some(reason) = engine.guard.take_refusal() {
        return Ok(Some(reason));
    }
    created.doing("make a table anew")?;
    let copy = copy_sql(conn, &now.table.name, &old, now.table.rowid_key)?;
    // A CHECK that is new is tried by its author; elsewhere, and of rows that others wrote before, it binds writes alone.
    let is_new = clauses(&before, "check") != clauses(&wanted.sql, "check");
    let checks =
        |on: &str| conn.execute_batch(&format!("PRAGMA ignore_check_constraints = {on}")).doing("copy the rows");
    checks(if own && is_new { "OFF" } else { "ON" })?;
    let copied = conn.execute(&copy, []);
    checks("ON")?;
    let copied = match copied {
        Ok(copied) => copied as i64,
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) => {
            return Ok(Some(format!("its rows do not fit: {error}")));
        }
        Err(error) => return Err(error).doing("copy the rows"),
    };
    let rows = conn.query_row(&format!("SELECT count(*) FROM {old}"), [], |row| row.get::<_, i64>(0));
    if rows.doing("copy the rows")? != copied {
        return Ok(Some("not all of its rows could be copied".to_owned()));
    }
    conn.execute_batch(&format!("DROP TABLE {old}")).doing("make a table anew")?;
    Ok(None)
}

/// The statement that copies the rows, with their rowids where search may know them by those; `numbered` says that they have those as a
/// column.
pub(crate) fn copy_sql(conn: &Connection, name: &str, old: &str, numbered: bool) -> Result<String, StoreError> {
    let (there, here) = (tracked::columns(conn, old)?, tracked::columns(conn, name)?);
    let mut columns = Vec::new();
    for column in here.iter().filter(|column| column.hidden == 0) {
        if !there.iter().any(|known| known.hidden == 0 && known.name.eq_ignore_ascii_case(&column.name)) {
            continue;
        }
        columns.push(quoted(&column.name));
    }
    let without = "SELECT wr FROM pragma_table_list(?1) WHERE schema = 'main'";
    let without = crate::clocks::one::<bool>(conn, without, [name])?.unwrap_or(false);
    let is_column = |alias: &&str| here.iter().chain(&there).any(|column| column.name.eq_ignore_ascii_case(alias));
    if !without
        && !numbered
        && let Some(alias) = ["rowid", "_rowid_", "oid"].into_iter().find(|alias| !is_column(alias))
    {
        columns.push(alias.to_owned());
    }
    let columns = columns.join(", ");
    Ok(format!("INSERT INTO {}({columns}) SELECT {columns} FROM {old}", quoted(name)))
}

/// The UNIQUE index that a statement makes on a table; `None` if it makes another one.
pub(crate) fn unique_index(
    now: &Tracked,
    table: &str,
    name: &str,
    sql: &str,
) -> Result<Result<Option<Unique>, String>, StoreError> {
    let mut scratch = scratch()?;
    scratch.execute_batch(table).doing("try an index")?;
    if let Err(reason) = create_alone(&mut scratch, sql)? {
        return Ok(Err(reason));
    }
    let found = tracked::unique(&scratch, &now.table)?;
    Ok(found.map(|found| found.into_iter().find(|index| index.name.eq_ignore_ascii_case(name))))
}

/// Rows that a new UNIQUE index cannot hold together: the author is told; elsewhere all of them step aside into the shadow, and `repair`
/// shows the first.
pub(crate) fn give_way(
    engine: &Engine,
    now: &Tracked,
    index: &Unique,
    own: bool,
) -> Result<Option<String>, StoreError> {
    let conn = &engine.conn;
    let table = quoted(&now.table.name);
    let compared = |n: usize| {
        let part = &index.parts[n];
        format!("{} COLLATE {}", quoted(&part.column.name), collation_name(part.column.collation))
    };
    let count = index.parts.len();
    let groups = join((0..count).map(compared), ", ");
    let named = join((0..count).map(|n| format!("{} AS v{n}", quoted(&index.parts[n].column.name))), ", ");
    let set = join(index.parts.iter().map(|part| format!("{} IS NOT NULL", quoted(&part.column.name))), " AND ");
    let same = join((0..count).map(|n| format!("o.{} = d.v{n}", compared(n))), " AND ");
    let (condition, keys) = (index.condition(), now.key_list("o."));
    let sql = format!(
        "SELECT {keys} FROM (SELECT {named} FROM {table} WHERE {set}{condition} GROUP BY {groups} HAVING count(*) > 1) AS d
         JOIN (SELECT * FROM {table} WHERE {set}{condition}) AS o ON {same}"
    );
    let mut statement = conn.prepare(&sql).doing("look for rows that clash")?;
    let rows = statement.query_map([], |row| {
        let value = |at: usize| Ok(crate::clocks::from_sql(row.get_ref(at)?).to_value());
        (0..now.table.key.len()).map(value).collect::<rusqlite::Result<Vec<_>>>()
    });
    let clash: Vec<Vec<isle_changeset::Value>> =
        rows.doing("look for rows that clash")?.collect::<Result<_, _>>().doing("look for rows that clash")?;
    if clash.is_empty() {
        return Ok(None);
    }
    if own {
        let shown = clash.iter().take(NAMED_MAX).map(|key| {
            let values = key.iter().map(isle_changeset::Value::as_ref).map(readable);
            join(values, " ")
        });
        let (rows, columns, first) = (clash.len(), list(&index.parts), join(shown, ", "));
        return Ok(Some(format!(
            "{rows} of its rows share values in UNIQUE ({columns}): {first}; change or delete them first"
        )));
    }
    all_step_aside(engine, now, clash).map(|()| None)
}

/// Rows with a NULL where the new definition allows none go to the shadow; `repair` shows them with the default.
fn null_rows_step_aside(engine: &Engine, now: &Tracked, wanted: &Connection) -> Result<(), StoreError> {
    let mut cells = Vec::new();
    for column in tracked::columns(wanted, &now.table.name)?.iter().filter(|column| column.not_null) {
        let at = now.table.columns.iter().position(|known| known.name.eq_ignore_ascii_case(&column.name));
        if crate::required::default_of(column)?.is_ok() {
            cells.extend(at.map(|at| at + 1));
        }
    }
    let rows = if cells.is_empty() { Vec::new() } else { crate::required::rows_with_null(&engine.conn, now, &cells)? };
    if rows.is_empty() { Ok(()) } else { all_step_aside(engine, now, rows) }
}

/// Takes rows into the shadow, past the triggers of the app.
fn all_step_aside(engine: &Engine, now: &Tracked, rows: Vec<isle_changeset::Key>) -> Result<(), StoreError> {
    let conn = &engine.conn;
    shadow::make(conn, now, now)?;
    lift_guard(conn, now)?;
    // They are not deleted: no trigger of the app has to hear of it. Search does.
    let triggers = |on| conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, on).doing("let rows step aside");
    triggers(false)?;
    let aside = step_aside(conn, now, rows);
    triggers(engine.triggers_needed)?;
    aside?;
    crate::objects::fill_again(conn, &now.table.name)
}

/// A value of a key as people read it.
fn readable(value: isle_changeset::ValueRef<'_>) -> String {
    match value {
        isle_changeset::ValueRef::Null => "NULL".to_owned(),
        isle_changeset::ValueRef::Integer(number) => number.to_string(),
        isle_changeset::ValueRef::Real(number) => number.to_string(),
        isle_changeset::ValueRef::Text(text) => format!("'{}'", String::from_utf8_lossy(text)),
        isle_changeset::ValueRef::Blob(bytes) => format!("a blob of {} bytes", bytes.len()),
    }
}

fn step_aside(conn: &Connection, now: &Tracked, rows: Vec<Vec<isle_changeset::Value>>) -> Result<(), StoreError> {
    let table = quoted(&now.table.name);
    for exact in rows {
        let key = isle_changeset::canonical_key(
            &exact.iter().map(isle_changeset::Value::as_ref).collect::<Vec<_>>(),
            &now.table.key,
        )
        .0;
        let key: Vec<_> = key.iter().map(isle_changeset::Value::as_ref).collect();
        match shadow::state(conn, now, &key)? {
            None => shadow::copy(conn, now, &key, true)?,
            Some(_) => shadow::mark(conn, now, &key, true)?,
        }
        shadow::run(conn, &format!("DELETE FROM {table} WHERE {}", now.key_match(1)), &key)?;
    }
    Ok(())
}
