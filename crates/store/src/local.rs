//! Local tables: their definition travels, their rows stay where they are written.
//!
//! They are plain tables: nothing of theirs is captured, and everything that SQLite knows is theirs, AUTOINCREMENT too. isle makes them, and
//! makes them anew when their definition changes: columns that both have keep their values. Rows that say when they expire go with
//! the next write or sync through isle after that moment: a number counts seconds since 1970, text is a date and time in UTC as SQLite's
//! functions give it.
//!
//! # Limits
//! A table that the app made itself under the name of another's local table stays as it is.

use isle_schema::{LocalDefinition, Schema, Step};
use rusqlite::{Connection, params};

use crate::define::SchemaPlan;
use crate::directives::Directives;
use crate::engine::Engine;
use crate::error::Doing as _;
use crate::layout::{self, quoted};
use crate::tracked::{self, join};
use crate::{StoreError, reshape};

/// The fact that holds what isle made of a local table: its definition as JSON.
fn fact(name: &str) -> String {
    format!("local {}", name.to_ascii_lowercase())
}

/// The local tables that a definition in `wanted` has.
pub(crate) fn wanted(
    wanted: &Connection,
    directives: &Directives,
    plan: &mut SchemaPlan,
) -> Result<Vec<LocalDefinition>, StoreError> {
    let mut found = Vec::new();
    for name in &directives.locals {
        let sql = "SELECT s.name, s.sql FROM sqlite_schema AS s JOIN pragma_table_list AS l ON l.name = s.name
                   WHERE s.type = 'table' AND l.type = 'table' AND s.name = ?1 COLLATE NOCASE";
        let table = wanted.query_row(sql, [name], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)));
        let Ok((name, create_sql)) = table else {
            plan.refused.push(format!("@scope {name} local: the definition has no table {name}"));
            continue;
        };
        let sql =
            "SELECT sql FROM sqlite_schema WHERE type = 'index' AND tbl_name = ?1 AND sql IS NOT NULL ORDER BY name";
        let mut statement = wanted.prepare(sql).doing("read the definition")?;
        let index_sql = statement.query_map([&name], |row| row.get(0)).doing("read the definition")?;
        let index_sql = index_sql.collect::<Result<_, _>>().doing("read the definition")?;
        let expires = directives.expires.iter().find(|(table, _)| table.eq_ignore_ascii_case(&name));
        let expires = expires.map(|(_, column)| column.clone());
        let columns = tracked::columns(wanted, &name)?;
        if let Some(column) = expires.as_ref().filter(|e| !columns.iter().any(|c| c.name.eq_ignore_ascii_case(e))) {
            plan.refused.push(format!("@expires {name}.{column}: the table has no such column"));
        }
        found.push(LocalDefinition { name, create_sql, index_sql, expires });
    }
    for (table, column) in &directives.expires {
        if !found.iter().any(|local| local.name.eq_ignore_ascii_case(table)) {
            plan.refused
                .push(format!("@expires {table}.{column}: only rows of a local table expire; write `-- @scope local`"));
        }
    }
    Ok(found)
}

/// Adds what the definition asks of a local table.
pub(crate) fn plan(
    conn: &Connection,
    (wanted, local): (&Connection, &LocalDefinition),
    drops: &[(String, String)],
    schema: &Schema,
    plan: &mut SchemaPlan,
) -> Result<(), StoreError> {
    let name = &local.name;
    let known = schema.locals.get(&name.to_ascii_lowercase());
    if known.is_some_and(|known| is_same(known, local)) {
        return Ok(());
    }
    if schema.tables.values().any(|table| table.name.eq_ignore_ascii_case(name)) {
        plan.refused.push(format!("table {name}: it is replicated here; a table cannot become a local one"));
        return Ok(());
    }
    let rows = match tracked::columns(conn, name)?.is_empty() {
        true => None,
        false => crate::clocks::one::<i64>(conn, &format!("SELECT count(*) FROM {}", quoted(name)), [])?,
    };
    if rows.is_some() {
        let wanted = tracked::columns(wanted, name)?;
        let is = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
        for column in tracked::columns(conn, name)? {
            let stays = wanted.iter().any(|known| is(&known.name, &column.name));
            if !stays && !drops.iter().any(|(table, gone)| is(table, name) && is(gone, &column.name)) {
                plan.refused.push(format!(
                    "table {name}: column {0:?} is not in the definition, and its values would go; write `-- @drop {name}.{0}`",
                    column.name
                ));
            }
        }
    }
    let (kind, detail) = match (known, rows) {
        (_, Some(rows)) => ("change table", format!("a local one; {rows} rows are copied")),
        _ => ("create table", "a local one: its rows stay on each device".to_owned()),
    };
    plan.add(kind, name, detail, Step::PutLocal(local.clone()));
    Ok(())
}

fn is_same(a: &LocalDefinition, b: &LocalDefinition) -> bool {
    let words = |local: &LocalDefinition| {
        let mut indexes: Vec<_> = local.index_sql.iter().map(|sql| tracked::words(sql)).collect();
        indexes.sort();
        (tracked::words(&local.create_sql), indexes, local.expires.as_ref().map(|column| column.to_ascii_lowercase()))
    };
    words(a) == words(b)
}

/// Brings the file's local tables to what the operations say. `own` says that the last one was made here: a table that the app has made
/// before becomes the group's then.
pub(crate) fn follow(engine: &Engine, schema: &Schema, own: bool) -> Result<(), StoreError> {
    for local in schema.locals.values() {
        let (conn, name) = (&engine.conn, &local.name);
        let made: Option<String> = layout::meta(conn, &fact(name))?;
        let text = serde_json::to_string(local)
            .map_err(|error| StoreError::Internal { table: "isle_migration", detail: error.to_string() })?;
        if made.as_ref() == Some(&text) {
            continue;
        }
        let there = !tracked::columns(conn, name)?.is_empty();
        let replicated = schema.tables.values().any(|table| table.name.eq_ignore_ascii_case(name));
        if replicated || (there && made.is_none() && !own) {
            let reason = "there is another table of this name; rename it, and apply the schema again";
            crate::objects::note_left_out(conn, "local table", name, Some(reason))?;
            continue;
        }
        let run = |sql: &str| conn.execute_batch(sql).doing("make a local table");
        run("SAVEPOINT isle_local")?;
        match make(engine, local, there, own) {
            Ok(None) => {
                run("RELEASE isle_local")?;
                crate::objects::note_left_out(conn, "local table", name, None)?;
                layout::set_meta(conn, &fact(name), text)?;
            }
            Ok(Some(reason)) => {
                run("ROLLBACK TO isle_local; RELEASE isle_local")?;
                if own {
                    return Err(StoreError::DefinitionRefused { reasons: vec![format!("table {name}: {reason}")] });
                }
                crate::objects::note_left_out(conn, "local table", name, Some(&reason))?;
            }
            Err(error) => {
                run("ROLLBACK TO isle_local; RELEASE isle_local")?;
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Makes a local table, with the rows of the one that is there; gives the reason where it cannot be made.
fn make(engine: &Engine, local: &LocalDefinition, there: bool, own: bool) -> Result<Option<String>, StoreError> {
    let (conn, name) = (&engine.conn, &local.name);
    let triggers = if there { reshape::set_aside(conn, name, "isle_old_local")? } else { Vec::new() };
    let create = |sql: &str| -> Result<Option<String>, StoreError> {
        let created = engine.guard.creating(name, || conn.execute(sql, []));
        if let Some(reason) = engine.guard.take_refusal() {
            return Ok(Some(reason));
        }
        match created.map_err(|error| StoreError::sqlite("make a local table", error)) {
            Ok(_) => Ok(None),
            Err(StoreError::Sqlite { source, .. }) => Ok(Some(source.to_string())),
            Err(other) => Err(other),
        }
    };
    crate::objects::flush(conn)?;
    if let Some(reason) = create(&local.create_sql)? {
        return Ok(Some(reason));
    }
    if tracked::columns(conn, name)?.is_empty() {
        return Ok(Some("its SQL makes another table".to_owned()));
    }
    if there {
        let copy = reshape::copy_sql(conn, name, "isle_old_local", true)?;
        // Rows that do not fit are refused where the definition is written; elsewhere they were that device's alone.
        let copy = if own { copy } else { copy.replacen("INSERT", "INSERT OR IGNORE", 1) };
        let rows = conn.query_row("SELECT count(*) FROM isle_old_local", [], |row| row.get::<_, i64>(0));
        let rows = rows.doing("copy the rows of a local table")?;
        match conn.execute(&copy, []) {
            Ok(copied) if copied as i64 == rows => {}
            Ok(copied) => {
                tracing::warn!(
                    table = name,
                    lost = rows - copied as i64,
                    "rows of a local table do not fit its new definition"
                );
            }
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) => {
                return Ok(Some(format!("its rows do not fit: {error}")));
            }
            Err(error) => return Err(error).doing("copy the rows of a local table"),
        }
        conn.execute_batch("DROP TABLE isle_old_local").doing("make a local table anew")?;
    }
    for sql in &local.index_sql {
        if let Some(reason) = create(sql)? {
            return Ok(Some(reason));
        }
    }
    for sql in triggers {
        if let Err(error) = conn.execute_batch(&sql) {
            tracing::warn!(%error, table = name, "a trigger does not fit its local table any more");
        }
    }
    crate::objects::fill_again(conn, name)?;
    Ok(None)
}

/// A foreign key of a table that is not tracked: what a merge deletes, its rows follow as they would after a DELETE in SQL.
struct Child {
    table: String,
    columns: Vec<(String, Option<String>)>,
    parent: String,
    set_null: bool,
}

/// Rows of tables that are not tracked follow the parents that a merge has deleted: ON DELETE CASCADE and SET NULL hold for them as well. With
/// another action they stay without a parent, which `check` reports.
pub(crate) fn follow_parents(engine: &Engine, deleted: &[i64]) -> Result<(), StoreError> {
    let named = engine.tables.iter().filter(|tracked| deleted.contains(&tracked.no));
    let mut parents: Vec<String> = named.map(|tracked| tracked.table.name.to_ascii_lowercase()).collect();
    if parents.is_empty() {
        return Ok(());
    }
    let conn = &engine.conn;
    let children = children(conn)?;
    while let Some(parent) = parents.pop() {
        for child in children.iter().filter(|child| child.parent.eq_ignore_ascii_case(&parent)) {
            let keys = tracked::columns(conn, &child.parent)?;
            let mut keys: Vec<_> = keys.iter().filter(|column| column.key_position > 0).collect();
            keys.sort_by_key(|column| column.key_position);
            let terms = child.columns.iter().enumerate().map(|(n, (from, to))| {
                let to = to.as_ref().or(keys.get(n).map(|key| &key.name)).map_or("rowid".to_owned(), |to| quoted(to));
                format!("p.{to} = c.{}", quoted(from))
            });
            let (table, of) = (quoted(&child.table), quoted(&child.parent));
            let set = join(child.columns.iter().map(|(from, _)| format!("c.{} IS NOT NULL", quoted(from))), " AND ");
            let orphans = format!("{set} AND NOT EXISTS (SELECT 1 FROM {of} AS p WHERE {})", join(terms, " AND "));
            let sql = match child.set_null {
                true => {
                    let sets = join(child.columns.iter().map(|(from, _)| format!("{} = NULL", quoted(from))), ", ");
                    format!("UPDATE {table} AS c SET {sets} WHERE {orphans}")
                }
                false => format!("DELETE FROM {table} AS c WHERE {orphans}"),
            };
            match conn.execute(&sql, []) {
                Ok(0) => {}
                Ok(_) if child.set_null => {}
                Ok(_) => parents.push(child.table.to_ascii_lowercase()),
                // A constraint or a trigger of the app's: its rows stay without a parent.
                Err(error) => {
                    tracing::warn!(%error, table = child.table, "rows cannot follow a parent that was deleted")
                }
            }
        }
    }
    Ok(())
}

/// Foreign keys with ON DELETE CASCADE or SET NULL of tables that are not tracked.
fn children(conn: &Connection) -> Result<Vec<Child>, StoreError> {
    let sql = "SELECT m.name, f.id, f.\"table\", f.\"from\", f.\"to\", f.on_delete FROM sqlite_schema AS m
               JOIN pragma_foreign_key_list(m.name) AS f
               WHERE m.type = 'table' AND m.name NOT LIKE 'isle\\_%' ESCAPE '\\' AND m.name NOT IN (SELECT name FROM isle_table)
               AND f.on_delete IN ('CASCADE', 'SET NULL') ORDER BY m.name, f.id, f.seq";
    let mut statement = conn.prepare_cached(sql).doing("look for local children")?;
    let mut rows = statement.query([]).doing("look for local children")?;
    let mut children: Vec<(i64, Child)> = Vec::new();
    while let Some(row) = rows.next().doing("look for local children")? {
        let (table, id, column): (String, i64, _) = (row.get(0)?, row.get(1)?, (row.get(3)?, row.get(4)?));
        match children.last_mut().filter(|(last, child)| *last == id && child.table == table) {
            Some((_, child)) => child.columns.push(column),
            None => {
                let set_null = row.get::<_, String>(5)? == "SET NULL";
                children.push((id, Child { table, columns: vec![column], parent: row.get(2)?, set_null }));
            }
        }
    }
    Ok(children.into_iter().map(|(_, child)| child).collect())
}

/// Whether the group has local tables here.
pub(crate) fn any(conn: &Connection) -> Result<bool, StoreError> {
    let sql = "SELECT 1 FROM isle_meta WHERE k > 'local ' AND k < 'local!' LIMIT 1";
    Ok(crate::clocks::one::<i64>(conn, sql, [])?.is_some())
}

/// Deletes the rows of local tables whose time has come.
pub(crate) fn expire(conn: &Connection, now_ms: u64) -> Result<(), StoreError> {
    let sql = "SELECT v FROM isle_meta WHERE k > 'local ' AND k < 'local!'";
    let mut statement = conn.prepare_cached(sql).doing("look for local tables")?;
    let texts = statement.query_map([], |row| row.get::<_, String>(0)).doing("look for local tables")?;
    let texts: Vec<String> = texts.collect::<Result<_, _>>().doing("look for local tables")?;
    drop(statement);
    for text in texts {
        let Ok(local) = serde_json::from_str::<LocalDefinition>(&text) else { continue };
        let Some(column) = local.expires else { continue };
        let (table, column) = (quoted(&local.name), quoted(&column));
        let sql = format!(
            "DELETE FROM {table} WHERE CASE typeof({column}) WHEN 'text' THEN julianday({column}) <= ?2
               WHEN 'integer' THEN {column} <= ?1 WHEN 'real' THEN {column} <= ?1 ELSE 0 END"
        );
        let (seconds, day) = (now_ms as f64 / 1000.0, crate::triggers::julian_day_of_ms(now_ms));
        let gone = conn.prepare_cached(&sql).and_then(|mut statement| statement.execute(params![seconds, day]));
        // The app has changed its table: that is its own affair.
        if let Err(error) = gone {
            tracing::warn!(%error, table = local.name, "rows of a local table cannot expire");
        }
    }
    Ok(())
}
