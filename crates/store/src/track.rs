//! Tables join and leave the replicated schema.

use std::collections::BTreeSet;
use std::sync::Arc;

use isle_changeset::{Value, ValueRef, canonical_key};
use isle_schema::{ColumnId, Migration, MigrationId, Schema, Step, Table, TableDefinition};
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::clocks::{ClockTable, from_sql};
use crate::engine::Engine;
use crate::error::Doing as _;
use crate::layout::{self, quoted};
use crate::own::Own;
use crate::seal::{Sealed, Sealer, Touch};
use crate::tracked::{self, LocalTable, Tracked, collation_name, join};
use crate::{SchemaPlan, StoreError, companion, triggers};

/// Tables of one schema operation that are taken from another device.
const TABLES_MAX: usize = 1_000;

/// Tracks tables by name: one schema operation, one baseline version with the rows that are there.
pub(crate) fn track(engine: &mut Engine, names: &[&str], now_ms: u64) -> Result<Option<Sealed>, StoreError> {
    let app: String = layout::require_meta(&engine.conn, "app")?;
    let schema = crate::alter::schema(&engine.conn)?;
    let mut definitions: Vec<TableDefinition> = Vec::new();
    for name in names {
        let mut definition = tracked::introspect(&engine.conn, &app, name)?;
        if schema.locals.contains_key(&definition.table.name.to_ascii_lowercase()) {
            let reason = "the schema of the group says that its rows stay on each device".to_owned();
            return Err(StoreError::Untrackable { table: definition.table.name, reason });
        }
        keep_ids(&mut definition.table, &schema);
        let known = engine.by_id.contains_key(&definition.table.id);
        if !known && definitions.iter().all(|other| other.table.id != definition.table.id) {
            definitions.push(definition);
        }
    }
    if definitions.is_empty() {
        return Ok(None);
    }
    definitions.sort_by_key(|definition| definition.table.id);
    let settled = engine.settle()?;
    let mut own = engine.own()?;
    let mut steps = Vec::new();
    for definition in &definitions {
        match schema.tables.get(&definition.table.id) {
            None => steps.push(Step::CreateTable(definition.clone())),
            // It returns, perhaps with columns that the group does not know.
            Some(known) => steps.extend(crate::define::new_columns(definition, known)?),
        }
    }
    let added = adopt(engine, &definitions)?;
    refuse_orphans(engine, &added)?;
    crate::duplicates::follow(engine, &schema)?;
    if let Some((table, reason)) = crate::kinds::follow(engine, &schema, false)? {
        return Err(StoreError::Untrackable { table, reason });
    }
    let added: Vec<Arc<Tracked>> =
        engine.tables.iter().filter(|now| added.iter().any(|added| added.no == now.no)).cloned().collect();
    if !steps.is_empty() {
        let migration = Migration { app, parents: own.heads.clone(), steps };
        let (id, body) = migration.encode()?;
        record(&engine.conn, id, &body, now_ms)?;
    }
    own.heads = crate::own::note_heads(&engine.conn)?;
    // A table that returns may have another definition by now.
    if let Some(head) =
        own.heads.first().filter(|_| definitions.iter().any(|d| schema.tables.contains_key(&d.table.id)))
    {
        crate::alter::follow(engine, *head, now_ms, false)?;
    }
    let is_added = |tracked: &&Arc<Tracked>| added.iter().any(|added| added.no == tracked.no);
    let added: Vec<Arc<Tracked>> = engine.tables.iter().filter(is_added).cloned().collect();
    let before = own.version;
    let sealed = seal_rows(engine, &mut own, &added, now_ms)?;
    engine.own = Some(own);
    for tracked in &added {
        crate::log::replay(engine, tracked.table.id, before, &settled)?;
    }
    crate::parked::replay(engine)?;
    engine.repair()?;
    companion::review(engine)?;
    Ok(sealed)
}

/// Refuses tables whose rows refer to parents that are not there: they would be hidden at once.
pub(crate) fn refuse_orphans(engine: &Engine, added: &[Arc<Tracked>]) -> Result<(), StoreError> {
    let is_new = |no: i64| added.iter().any(|tracked| tracked.no == no);
    for child in &engine.tables {
        if let Some(reason) = child.unrepairable.first().filter(|_| is_new(child.no)) {
            return Err(StoreError::Untrackable { table: child.table.name.clone(), reason: reason.clone() });
        }
        for foreign in child.foreign.iter().filter(|foreign| is_new(child.no) || is_new(foreign.parent)) {
            let sql = crate::repair::orphans_sql(child, foreign, &engine.tables)?;
            let orphans: i64 = engine
                .conn
                .query_row(&format!("SELECT count(*) FROM ({sql})"), [], |row| row.get(0))
                .doing("look for rows without a parent")?;
            if orphans > 0 {
                let reason = format!(
                    "{orphans} of its rows have no parent for its foreign key {}, and would be hidden; add the parents, \
                     delete the rows, or drop the foreign key",
                    foreign.name
                );
                return Err(StoreError::Untrackable { table: child.table.name.clone(), reason });
            }
        }
    }
    Ok(())
}

/// A table that was renamed, or whose columns were, goes by the ids of its birth.
fn keep_ids(table: &mut Table, schema: &Schema) {
    let known = schema.tables.iter().find(|(_, known)| known.name.eq_ignore_ascii_case(&table.name));
    let Some((id, known)) = known else { return };
    for column in &mut table.columns {
        let same = known.columns.iter().find(|other| other.name.eq_ignore_ascii_case(&column.name));
        let new = || ColumnId::derive(*id, &column.name, known.births(&column.name));
        column.id = same.map_or_else(new, |same| same.id);
    }
    table.id = *id;
}

/// Applies a schema operation: creates its tables, or adopts those that are here with their rows.
///
/// `own` says that it was made here.
pub(crate) fn apply_migration(
    engine: &mut Engine,
    body: &[u8],
    now_ms: u64,
    own: bool,
) -> Result<MigrationId, StoreError> {
    let (id, _) = Migration::decode(body)?;
    if !is_applied(&engine.conn, id)? {
        apply_together(engine, &[body], now_ms, own)?;
    }
    Ok(id)
}

/// Applies operations that are not applied yet as one step, parents first: what a later one renames is created under its new name.
pub(crate) fn apply_together(engine: &mut Engine, bodies: &[&[u8]], now_ms: u64, own: bool) -> Result<(), StoreError> {
    let app: String = layout::require_meta(&engine.conn, "app")?;
    let operations: Vec<(MigrationId, Migration)> =
        bodies.iter().map(|body| Migration::decode(body)).collect::<Result<_, _>>()?;
    let Some((last, _)) = operations.last() else { return Ok(()) };
    let mut all = crate::alter::operations(&engine.conn)?;
    all.extend(operations.iter().cloned());
    let schema = Schema::fold(all.iter().map(|(id, operation)| (*id, operation)));
    let mut definitions: Vec<TableDefinition> = Vec::new();
    for (id, operation) in &operations {
        refuse_odd(*id, operation)?;
        for definition in operation.tables() {
            let table = &definition.table;
            // Columns that it has there and not here are added below.
            let is_new = !definitions.iter().any(|known| known.table.id == table.id);
            if is_new && !engine.by_id.contains_key(&table.id) {
                let name = schema.tables.get(&table.id).map_or(&table.name, |table| &table.name);
                definitions.push(found_or_made(engine, &app, (*id, definition), name)?);
            }
        }
    }
    definitions.sort_by_key(|definition| definition.table.id);
    let added = adopt(engine, &definitions)?;
    for ((id, _), body) in operations.iter().zip(bodies) {
        record(&engine.conn, *id, body, now_ms)?;
    }
    let mut site = engine.own()?;
    site.heads = crate::own::note_heads(&engine.conn)?;
    seal_rows(engine, &mut site, &added, now_ms)?;
    engine.own = Some(site);
    crate::alter::follow(engine, *last, now_ms, own)?;
    if let Some(site) = &mut engine.own {
        site.too_new = crate::pending::too_new(&engine.conn)?;
    }
    crate::parked::replay(engine)?;
    engine.repair()?;
    companion::review(engine)
}

/// Refuses what no isle would have made, as far as that can be told of the operation alone.
pub(crate) fn refuse_odd(id: MigrationId, operation: &Migration) -> Result<(), StoreError> {
    let refused =
        |table: &str, reason| StoreError::OperationRefused { id: id.to_string(), table: table.to_owned(), reason };
    if operation.steps.len() > TABLES_MAX {
        let reason = format!("it has {} steps, at most {TABLES_MAX} are taken at once", operation.steps.len());
        return Err(refused("", reason));
    }
    let mut declared = BTreeSet::new();
    for definition in operation.tables() {
        let table = &definition.table;
        if isle_schema::is_reserved(&table.name) {
            return Err(refused(&table.name, "no table of an app can have this name".to_owned()));
        }
        if !declared.insert(table.id) {
            return Err(refused(&table.name, "it is declared twice".to_owned()));
        }
    }
    Ok(())
}

/// A table of the group that is not tracked here: the one that is there, or a new one.
fn found_or_made(
    engine: &Engine,
    app: &str,
    (id, definition): (MigrationId, &TableDefinition),
    name: &str,
) -> Result<TableDefinition, StoreError> {
    let table = &definition.table;
    let conflict = |reason: String| StoreError::SchemaConflict { id: id.to_string(), table: name.to_owned(), reason };
    if engine.tables.iter().any(|known| known.table.name.eq_ignore_ascii_case(name)) {
        // One of the two was renamed, or has another key: their rows are not each other's.
        return Err(conflict(format!(
            "another table of the group is called so here; rename one of the two (`-- @rename {name} -> …`), here or where the other one was made"
        )));
    }
    match tracked::introspect(&engine.conn, app, name) {
        Err(StoreError::NoSuchTable { .. }) if name == table.name => create(engine, app, definition, id)?,
        Err(StoreError::NoSuchTable { .. }) => {
            let renamed = crate::reshape::under_name(definition, name)?.map_err(conflict)?;
            create(engine, app, &renamed, id)?;
            return Ok(renamed);
        }
        Err(StoreError::Untrackable { reason, .. }) => return Err(conflict(reason)),
        Err(error) => return Err(error),
        Ok(local) if local.table.id != table.id => {
            return Err(conflict(format!(
                "a table of this name has another key here ({}); rename it (`isle exec \"ALTER TABLE {name} RENAME TO …\"`), or the other one where it was \
                 made (`-- @rename {name} -> …`)",
                join(local.table.key.iter().map(|c| c.name.clone()), ", "),
            )));
        }
        Ok(_) => {}
    }
    tracked::introspect(&engine.conn, app, &table.name)
}

/// Makes the tables what a definition says, as one operation; gives what was done.
pub(crate) fn apply_definition(engine: &mut Engine, sql: &str, now_ms: u64) -> Result<SchemaPlan, StoreError> {
    let app: String = layout::require_meta(&engine.conn, "app")?;
    let plan = crate::define::plan(&engine.conn, &app, sql)?;
    apply_plan(engine, plan, now_ms)
}

/// Makes the changes of a plan as one operation; gives what was done.
pub(crate) fn apply_plan(engine: &mut Engine, plan: SchemaPlan, now_ms: u64) -> Result<SchemaPlan, StoreError> {
    let app: String = layout::require_meta(&engine.conn, "app")?;
    if !plan.refused.is_empty() {
        return Err(StoreError::DefinitionRefused { reasons: plan.refused });
    }
    if plan.steps.is_empty() {
        // What was left out may fit by now, and what somebody has dropped is made again.
        if !crate::objects::left_out(&engine.conn)?.is_empty() || !crate::objects::gone(&engine.conn)?.is_empty() {
            let schema = crate::alter::schema(&engine.conn)?;
            crate::local::follow(engine, &schema, false)?;
            crate::objects::follow(engine, &schema)?;
            engine.load_tables()?;
        }
        return Ok(plan);
    }
    crate::required::fill(engine, &plan.fills, now_ms)?;
    let migration = Migration { app, parents: engine.own()?.heads, steps: plan.steps.clone() };
    let (_, body) = migration.encode()?;
    apply_migration(engine, &body, now_ms, true)?;
    Ok(plan)
}

/// Whether a schema operation is done with, as applied or given up, rather than waiting; `None` if it is not here.
pub(crate) fn standing(conn: &Connection, id: MigrationId) -> Result<Option<bool>, StoreError> {
    let sql = "SELECT state IN ('applied', 'forgotten') FROM isle_migration WHERE id = ?1";
    crate::clocks::one(conn, sql, [id.as_bytes()])
}

/// Whether a schema operation has been applied.
pub(crate) fn is_applied(conn: &Connection, id: MigrationId) -> Result<bool, StoreError> {
    let sql = "SELECT 1 FROM isle_migration WHERE id = ?1 AND state = 'applied'";
    Ok(crate::clocks::one::<i64>(conn, sql, [id.as_bytes()])?.is_some())
}

fn record(conn: &Connection, id: MigrationId, body: &[u8], now_ms: u64) -> Result<(), StoreError> {
    let sql = "INSERT INTO isle_migration(id, body, state, at) VALUES(?1, ?2, 'applied', ?3)
               ON CONFLICT DO UPDATE SET state = 'applied', at = excluded.at, why = NULL WHERE state <> 'applied'";
    conn.execute(sql, params![id.as_bytes(), body, now_ms as i64]).doing("record the schema operation")?;
    Ok(())
}

/// Runs the author's CREATE statements under a guard, and checks that they made what the model says.
fn create(engine: &Engine, app: &str, definition: &TableDefinition, id: MigrationId) -> Result<(), StoreError> {
    let model = &definition.table;
    let conflict =
        |reason: String| StoreError::SchemaConflict { id: id.to_string(), table: model.name.clone(), reason };
    let refused =
        |reason: String| StoreError::OperationRefused { id: id.to_string(), table: model.name.clone(), reason };
    crate::objects::flush(&engine.conn)?;
    for sql in std::iter::once(&definition.create_sql).chain(&definition.index_sql) {
        let result = engine.guard.creating(&model.name, || engine.conn.execute(sql, []));
        if let Some(reason) = engine.guard.take_refusal() {
            return Err(refused(reason));
        }
        result.map_err(|error| match StoreError::sqlite("create the table", error) {
            // Another SQLite may take it, or it may fit another file; a full disk is neither's fault.
            StoreError::Sqlite { source, .. } => conflict(source.to_string()),
            other => other,
        })?;
    }
    let made = match tracked::introspect(&engine.conn, app, &model.name) {
        Ok(made) => made.table,
        Err(StoreError::NoSuchTable { .. }) => return Err(refused("its SQL makes another table".to_owned())),
        Err(StoreError::Untrackable { reason, .. }) => return Err(refused(reason)),
        Err(other) => return Err(other),
    };
    // Under another name than that of its birth it has another id.
    let names = |table: &Table| table.columns.iter().map(|column| column.name.clone()).collect::<Vec<_>>();
    if made.key != model.key || made.rowid_key != model.rowid_key || names(&made) != names(model) {
        return Err(refused("its SQL does not make the table that it declares".to_owned()));
    }
    Ok(())
}

/// Creates clock tables and triggers, and lists the tables as tracked.
fn adopt(engine: &mut Engine, definitions: &[TableDefinition]) -> Result<Vec<Arc<Tracked>>, StoreError> {
    let conn = &engine.conn;
    let mut numbers = Vec::new();
    for definition in definitions {
        let table = &definition.table;
        let model = LocalTable::of(table.clone());
        let json = model.to_json()?;
        // A table that was untracked and returns takes its old number, under which the journal knows it.
        let old = crate::clocks::one::<i64>(
            conn,
            "SELECT v FROM isle_meta WHERE k = 'table ' || ?1",
            [table.id.to_string()],
        )?;
        let no = match old {
            Some(no) => no,
            None => layout::meta::<i64>(conn, "tables")?.unwrap_or(0) + 1,
        };
        layout::set_meta(conn, "tables", no.max(layout::meta::<i64>(conn, "tables")?.unwrap_or(0)))?;
        layout::set_meta(conn, &format!("table {}", table.id), no)?;
        conn.execute(
            "INSERT INTO isle_table(no, id, name, def) VALUES(?1, ?2, ?3, ?4)",
            params![no, table.id.as_bytes(), table.name, json],
        )
        .doing("list the table")?;
        let tracked = tracked::load(conn, no, model)?;
        refuse_null_keys(conn, &tracked)?;
        widen_queue(conn, &tracked)?;
        conn.execute_batch(&tracked.create_clock_sql()).doing(&format!("track table {}", table.name))?;
        triggers::install(conn, &tracked)?;
        numbers.push(no);
    }
    engine.load_tables()?;
    Ok(engine.tables.iter().filter(|tracked| numbers.contains(&tracked.no)).cloned().collect())
}

fn refuse_null_keys(conn: &Connection, tracked: &Tracked) -> Result<(), StoreError> {
    let nullable = tracked.table.key.iter().zip(&tracked.nullable_key).filter(|(_, nullable)| **nullable);
    let condition = join(nullable.map(|(column, _)| format!("{} IS NULL", quoted(&column.name))), " OR ");
    if condition.is_empty() {
        return Ok(());
    }
    let sql = format!("SELECT count(*) FROM {} WHERE {condition}", quoted(&tracked.table.name));
    let nulls: i64 = conn.query_row(&sql, [], |row| row.get(0)).doing("look for NULL keys")?;
    if nulls == 0 {
        return Ok(());
    }
    let reason = format!("{nulls} rows have NULL in their key and so no identity; give them a key or delete them");
    Err(StoreError::Untrackable { table: tracked.table.name.clone(), reason })
}

/// The queue has as many mask words and key columns as the widest table needs.
pub(crate) fn widen_queue(conn: &Connection, tracked: &Tracked) -> Result<(), StoreError> {
    let mut statement = conn.prepare("SELECT name FROM pragma_table_info('isle_queue')").doing("read the queue")?;
    let names = statement.query_map([], |row| row.get(0)).doing("read the queue")?;
    let names: Vec<String> = names.collect::<Result<_, _>>().doing("read the queue")?;
    let words = (0..tracked.queue_words()).map(|n| format!("m{n}"));
    let old = (0..tracked.table.key.len()).map(|n| format!("o{n}"));
    for column in words.chain(tracked.clock_key()).chain(old).filter(|column| !names.contains(column)) {
        conn.execute_batch(&format!("ALTER TABLE isle_queue ADD COLUMN {column}")).doing("widen the queue")?;
    }
    Ok(())
}

/// Seals the rows that are there: with their past, where cr-sqlite has that, and as a baseline otherwise.
fn seal_rows(
    engine: &Engine,
    own: &mut Own,
    tables: &[Arc<Tracked>],
    now_ms: u64,
) -> Result<Option<Sealed>, StoreError> {
    let past = companion::adopt::with_past(engine, own, tables, now_ms)?;
    companion::adopt::seal(engine, own, &past)?;
    let has_past = |tracked: &Tracked| past.iter().any(|(past, _)| past.no == tracked.no);
    let rest: Vec<_> = tables.iter().filter(|tracked| !has_past(tracked)).cloned().collect();
    seal_baseline(&engine.conn, own, &rest, now_ms)
}

/// Seals the rows that are there as one baseline version: their cells carry time 0, so that any real write beats them.
fn seal_baseline(
    conn: &Connection,
    own: &mut Own,
    tables: &[Arc<Tracked>],
    now_ms: u64,
) -> Result<Option<Sealed>, StoreError> {
    let mut order: Vec<&Arc<Tracked>> = tables.iter().collect();
    order.sort_by_key(|tracked| tracked.table.id);
    let mut sealer = Sealer::begin(conn, own, now_ms, true)?;
    for tracked in order {
        layout::set_baseline(conn, tracked.no, own.no, own.version + 1)?;
        sealer.table(tracked)?;
        let mut clocks = ClockTable::open(conn, tracked);
        let keys = tracked.table.key.len();
        let order = tracked.table.key.iter().map(|column| {
            let collate = if tracked.table.rowid_key {
                String::new()
            } else {
                format!(" COLLATE {}", collation_name(column.collation))
            };
            format!("{}{collate}", quoted(&column.name))
        });
        let (list, columns, table) = (tracked.key_list(""), tracked.column_list(""), quoted(&tracked.table.name));
        let sql = format!("SELECT {list}{columns} FROM {table} ORDER BY {}", join(order, ", "));
        let mut statement = conn.prepare(&sql).doing("read the rows")?;
        let mut rows = statement.raw_query();
        let mask = vec![u64::MAX; tracked.cells().div_ceil(64)];
        while let Some(row) = rows.next().doing("read the rows")? {
            let value = |at: usize| row.get_ref(at).map(from_sql).doing("read the rows");
            let exact: Vec<_> = (0..keys).map(value).collect::<Result<_, _>>()?;
            let (key, packed) = canonical_key(&exact, &tracked.table.key);
            let key: Vec<_> = key.iter().map(Value::as_ref).collect();
            let mut cells = vec![packed.as_ref().map_or(ValueRef::Null, |packed| ValueRef::Blob(packed))];
            for column in 0..tracked.table.columns.len() {
                cells.push(value(keys + column)?);
            }
            let touch = Touch { key: &key, present: true, fresh: true, mask: &mask, cells: &cells, complete: true };
            sealer.touch(tracked, &mut clocks, &touch)?;
        }
    }
    sealer.finish(own)
}

/// Stops tracking a table; its rows stay. Works on a table that was altered or dropped, too.
pub(crate) fn untrack(engine: &mut Engine, name: &str) -> Result<(), StoreError> {
    refuse_short_log(&engine.conn)?;
    take_off(engine, name)
}

/// Takes isle's triggers and clocks off a table.
fn take_off(engine: &mut Engine, name: &str) -> Result<(), StoreError> {
    let sql = "SELECT no FROM isle_table WHERE name = ?1 COLLATE NOCASE";
    let no = crate::clocks::one::<i64>(&engine.conn, sql, [name])?;
    let no = no.ok_or_else(|| StoreError::NotTracked { table: name.to_owned() })?;
    let id = crate::clocks::one::<Vec<u8>>(&engine.conn, "SELECT id FROM isle_table WHERE no = ?1", [no])?;
    // Stamps that are owed go with the clocks; those that a replay will write must not be stamped again.
    engine.settle()?;
    if let Some(tracked) = engine.tables.iter().find(|tracked| tracked.no == no) {
        companion::let_go(&engine.conn, tracked)?;
    }
    triggers::remove(&engine.conn, no)?;
    let mut sql = format!("DROP TABLE IF EXISTS isle_c{no}; DROP TABLE IF EXISTS isle_s{no};");
    sql += &format!("DELETE FROM isle_claim WHERE t = {no}; DELETE FROM isle_owed WHERE t = {no};");
    sql += &format!("DELETE FROM isle_meta WHERE k = 'constraints {no}';");
    engine.conn.execute_batch(&sql).doing("untrack the table")?;
    engine.conn.execute("DELETE FROM isle_table WHERE no = ?1", [no]).doing("untrack the table")?;
    engine.conn.execute("DELETE FROM isle_queue WHERE t = ?1", [no]).doing("untrack the table")?;
    // Its return merges the whole log.
    engine.conn.execute("DELETE FROM isle_parked WHERE t = ?1", [&id]).doing("untrack the table")?;
    engine
        .conn
        .execute("DELETE FROM isle_meta WHERE k = 'missed ' || lower(hex(?1))", [&id])
        .doing("untrack the table")?;
    engine.load_tables()
}

/// Refuses where the log does not reach back to the first version of every site: a table that returns is made from it.
pub(crate) fn refuse_short_log(conn: &Connection) -> Result<(), StoreError> {
    let sql = "SELECT count(*) FROM isle_site AS s WHERE s.version > 0 AND NOT EXISTS
               (SELECT 1 FROM isle_log WHERE id = s.no << 44 | 1)";
    let short = crate::clocks::one::<i64>(conn, sql, [])?.unwrap_or(0);
    if short == 0 { Ok(()) } else { Err(StoreError::LogCompacted) }
}

/// Removes everything of isle's from the file.
pub(crate) fn detach(engine: &mut Engine) -> Result<(), StoreError> {
    let mut statement = engine.conn.prepare("SELECT name FROM isle_table").doing("list the tables")?;
    let names = statement.query_map([], |row| row.get(0)).doing("list the tables")?;
    let names: Vec<String> = names.collect::<Result<_, _>>().doing("list the tables")?;
    drop(statement);
    for name in names {
        take_off(engine, &name)?;
    }
    for table in layout::own_tables(&engine.conn)? {
        engine.conn.execute_batch(&format!("DROP TABLE {}", quoted(&table))).doing("remove isle's tables")?;
    }
    Ok(())
}

/// The tables of the file that could be tracked and are not.
pub(crate) fn untracked(conn: &Connection) -> Result<Vec<String>, StoreError> {
    let sql = concat!(
        "SELECT l.name FROM pragma_table_list AS l WHERE l.schema = 'main' AND l.type = 'table'
         AND l.name NOT LIKE 'isle\\_%' ESCAPE '\\' AND l.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND ",
        companion::not_of_cr_sqlite!(table "l.name"),
        " AND l.name NOT IN (SELECT name FROM isle_table)
         AND NOT EXISTS (SELECT 1 FROM isle_meta WHERE k = 'local ' || lower(l.name)) ORDER BY l.name"
    );
    let mut statement = conn.prepare(sql).doing("list the tables")?;
    let names = statement.query_map([], |row| row.get(0)).doing("list the tables")?;
    names.collect::<Result<_, _>>().doing("list the tables")
}

/// The encoding of a schema operation.
pub(crate) fn migration(conn: &Connection, id: MigrationId) -> Result<Option<Vec<u8>>, StoreError> {
    let found = conn.query_row("SELECT body FROM isle_migration WHERE id = ?1", [id.as_bytes()], |row| row.get(0));
    found.optional().doing("read the schema operation")
}
