//! Following the replicated schema: tables of this file become what the fold of all operations says.
//!
//! The file is driven by the difference between the two, never by running operations in their order of arrival. No
//! row clock moves: a rename changes names, and of a new column nobody has written anything yet (see `clocks`). A column that is
//! there already, because the app added it itself, is taken over; what stands in it becomes a baseline.

use std::collections::BTreeMap;
use std::sync::Arc;

use isle_changeset::{RowKind, Value, canonical_key};
use isle_schema::{AddedColumn, ColumnId, Migration, MigrationId, Schema, Step, TableDefinition, TableState};
use rusqlite::{Connection, params};

use crate::clocks::{CLOCK_FIELDS, ClockTable, LocalStamp, RowClock, SETS_MAX, alive, from_sql};
use crate::engine::Engine;
use crate::error::Doing as _;
use crate::layout::{self, quoted};
use crate::seal::Sealer;
use crate::tracked::{self, Tracked};
use crate::{StoreError, triggers};

/// The operations that are applied here.
pub(crate) fn operations(conn: &Connection) -> Result<BTreeMap<MigrationId, Migration>, StoreError> {
    let mut statement =
        conn.prepare("SELECT body FROM isle_migration WHERE state = 'applied'").doing("read schema operations")?;
    let mut rows = statement.query([]).doing("read schema operations")?;
    let mut operations = BTreeMap::new();
    while let Some(row) = rows.next().doing("read schema operations")? {
        let body: Vec<u8> = row.get(0).doing("read schema operations")?;
        let (id, migration) = Migration::decode(&body)?;
        operations.insert(id, migration);
    }
    Ok(operations)
}

/// The schema of the group, as far as its operations are here.
pub(crate) fn schema(conn: &Connection) -> Result<Schema, StoreError> {
    let operations = operations(conn)?;
    Ok(Schema::fold(operations.iter().map(|(id, migration)| (*id, migration))))
}

/// Brings every tracked table to what the operations say; `id` is the one that came last.
/// `own` says that it was made here.
pub(crate) fn follow(engine: &mut Engine, id: MigrationId, now_ms: u64, own: bool) -> Result<(), StoreError> {
    let operations = operations(&engine.conn)?;
    let schema = Schema::fold(operations.iter().map(|(id, migration)| (*id, migration)));
    crate::pending::note_required(&engine.conn, &schema)?;
    // A table that stands still follows when it returns.
    for table in crate::engine::still_ids(&engine.conn, &engine.tables)? {
        layout::set_meta(&engine.conn, &format!("missed {table}"), 1)?;
    }
    let (mut adopted, mut reshaped) = (Vec::new(), Vec::new());
    let contested =
        |(id, target): (&isle_schema::TableId, &TableState)| crate::standing::is_contested(&operations, target, *id);
    if schema.tables.iter().any(contested) {
        // Which rows nobody has written a column of is a matter of stamps.
        engine.settle()?;
    }
    for tracked in engine.tables.clone() {
        let Some(target) = schema.tables.get(&tracked.table.id) else { continue };
        let born = born_elsewhere(&operations, &tracked, target)?;
        let change = Change {
            engine,
            id,
            tracked: &tracked,
            target,
            born: &born,
            schema: &schema,
            operations: &operations,
            own,
        };
        if change.is_reshaped() {
            reshaped.push(tracked.no);
        }
        adopted.extend(change.make()?.into_iter().map(|column| (tracked.no, column)));
    }
    crate::local::follow(engine, &schema, own)?;
    crate::objects::follow(engine, &schema)?;
    engine.forget_guards();
    engine.load_tables()?;
    if own {
        let takes = |step: &Step| matches!(step, Step::Redefine { .. } | Step::DropIndex { .. });
        if operations.get(&id).is_some_and(|operation| operation.steps.iter().any(takes)) {
            refuse_lost_targets(&engine.conn, &engine.tables)?;
        }
        let is = |tracked: &&Arc<Tracked>| reshaped.contains(&tracked.no);
        let reshaped: Vec<Arc<Tracked>> = engine.tables.iter().filter(is).cloned().collect();
        crate::track::refuse_orphans(engine, &reshaped).map_err(|error| match error {
            StoreError::Untrackable { table, reason } => {
                StoreError::DefinitionRefused { reasons: vec![format!("table {table}: {reason}")] }
            }
            other => other,
        })?;
    }
    crate::duplicates::follow(engine, &schema)?;
    if let Some((table, reason)) = crate::kinds::follow(engine, &schema, own)? {
        return Err(StoreError::SchemaConflict { id: id.to_string(), table, reason });
    }
    if !adopted.is_empty() {
        seal_adopted(engine, &adopted, now_ms)?;
    }
    Ok(())
}

/// Refuses what takes away the UNIQUE index that a foreign key needs: no row of either table could be written any more.
fn refuse_lost_targets(conn: &Connection, tables: &[Arc<Tracked>]) -> Result<(), StoreError> {
    for child in tables.iter().filter(|child| !child.references.is_empty()) {
        // On no row of it: what SQLite looks for first is the index.
        let sql = format!("PRAGMA foreign_key_check({})", quoted(&child.table.name));
        let looked = conn.prepare(&sql).and_then(|mut statement| statement.raw_query().next().map(drop));
        if let Err(error) = looked.map_err(|error| error.to_string())
            && error.contains("mismatch")
        {
            let reason =
                format!("table {}: a foreign key of it needs a UNIQUE index that goes ({error})", child.table.name);
            return Err(StoreError::DefinitionRefused { reasons: vec![reason] });
        }
    }
    Ok(())
}

/// Columns that the table was born with on another device, and lacks here: two devices may declare one table with different columns.
fn born_elsewhere(
    operations: &BTreeMap<MigrationId, Migration>,
    tracked: &Tracked,
    target: &TableState,
) -> Result<Vec<AddedColumn>, StoreError> {
    let added = |id| target.added.iter().any(|added| added.id == id);
    let missing = target.columns.iter().filter(|column| tracked.cell_of(column.id).is_none() && !added(column.id));
    let mut born = Vec::new();
    for column in missing {
        let definitions = operations.values().flat_map(|operation| operation.tables());
        let mut there = definitions.filter(|definition| definition.table.id == tracked.table.id);
        let has = |definition: &&TableDefinition| definition.table.columns.iter().any(|known| known.id == column.id);
        if let Some(definition) = there.find(has) {
            born.extend(crate::define::definition_of(definition, column.id)?);
        }
    }
    Ok(born)
}

/// How the columns of a table stand to the definitions of them.
#[derive(Default)]
struct Stands {
    /// There is more than one definition of something.
    contested: bool,
    /// Something of it is not as it should be.
    differs: bool,
    /// What columns begin with, and what they began with here so far.
    began: Vec<(ColumnId, Value)>,
    before: Vec<(ColumnId, Value)>,
}

/// What one table lacks of its target.
struct Change<'a> {
    engine: &'a Engine,
    id: MigrationId,
    tracked: &'a Arc<Tracked>,
    target: &'a TableState,
    born: &'a [AddedColumn],
    schema: &'a Schema,
    operations: &'a BTreeMap<MigrationId, Migration>,
    /// The operation was made here: what the rows do not fit is refused rather than hidden.
    own: bool,
}

impl Change<'_> {
    fn refuse(&self, reason: String) -> StoreError {
        StoreError::SchemaConflict { id: self.id.to_string(), table: self.tracked.table.name.clone(), reason }
    }

    /// What no isle would have made.
    fn refuse_for_good(&self, reason: String) -> StoreError {
        StoreError::OperationRefused { id: self.id.to_string(), table: self.tracked.table.name.clone(), reason }
    }

    /// Whether the table has another definition than it should.
    fn is_reshaped(&self) -> bool {
        let wanted = self.target.shape.as_ref().map(crate::reshape::fingerprint);
        wanted.is_some() && wanted != self.tracked.shape
    }

    /// Makes the table anew.
    fn reshape(&self, model: &mut tracked::LocalTable) -> Result<(), StoreError> {
        let Some(shape) = &self.target.shape else { return Ok(()) };
        let conn = &self.engine.conn;
        let wanted = crate::reshape::wanted(conn, shape, model, &self.target.columns, self.schema)?;
        let wanted = wanted.map_err(|reason| self.refuse(reason))?;
        let now = tracked::load(conn, self.tracked.no, model.clone())?;
        crate::required::note(&wanted.scratch, model)?;
        if let Some(reason) = crate::reshape::make(self.engine, &now, &wanted, self.own)? {
            return Err(self.refuse_rows(reason));
        }
        model.shape = Some(crate::reshape::fingerprint(shape));
        Ok(())
    }

    /// An operation that the rows here do not fit: where it is made, nobody else has heard of it.
    fn refuse_rows(&self, reason: String) -> StoreError {
        match self.own {
            true => {
                StoreError::DefinitionRefused { reasons: vec![format!("table {}: {reason}", self.tracked.table.name)] }
            }
            false => self.refuse(reason),
        }
    }

    /// Runs isle's own SQL; what SQLite has against it is the operation's fault, unless the disk or a lock is.
    fn run(&self, sql: &str) -> Result<(), StoreError> {
        self.engine.conn.execute_batch(sql).map_err(|error| self.blame(error))
    }

    fn blame(&self, error: rusqlite::Error) -> StoreError {
        match StoreError::sqlite("change the table", error) {
            StoreError::Sqlite { source, .. } => self.refuse(source.to_string()),
            other => other,
        }
    }

    /// Changes the table; gives the ids of columns that were there already.
    fn make(&self) -> Result<Vec<ColumnId>, StoreError> {
        let conn = &self.engine.conn;
        let mut model = self.tracked.model();
        let known = |added: &&AddedColumn| self.tracked.cell_of(added.id).is_none();
        let missing: Vec<&AddedColumn> = self.target.added.iter().chain(self.born).filter(known).collect();
        let renamed = model.table.name != self.target.name
            || self.target.columns.iter().any(|c| model.table.columns.iter().any(|k| k.id == c.id && k.name != c.name));
        let mut adopted = Vec::new();
        let stands = self.stands(&model)?;
        if !missing.is_empty()
            || renamed
            || stands.differs
            || self.is_reshaped()
            || self.requires(&mut model.clone())?
        {
            crate::companion::release(conn, self.tracked)?;
            crate::objects::set_aside(conn)?;
            triggers::remove(conn, self.tracked.no)?;
            self.rename(&mut model)?;
            for added in &missing {
                let Some(column) = self.target.columns.iter().find(|column| column.id == added.id) else { continue };
                if self.add(&model.table.name, &column.name, &added.definition)? {
                    adopted.push(column.id);
                }
                model.table.columns.push(column.clone());
            }
            if !missing.is_empty() {
                if model.sets.is_empty() {
                    model.sets.push(self.tracked.cells());
                }
                model.sets.push(model.table.columns.len() + 1);
                if model.sets.len() > SETS_MAX {
                    return Err(self.refuse(format!("columns came {SETS_MAX} times: make a new table")));
                }
            }
            if stands.contested || !adopted.is_empty() {
                let standing = crate::standing::differing(conn, self.operations, self.target, &model)?;
                self.make_standing(&mut model, &standing)?;
            }
            if self.is_reshaped() {
                self.reshape(&mut model)?;
            }
            self.requires(&mut model)?;
            if stands.contested {
                model.defaults = crate::standing::pins(conn, &stands.began, &model)?;
            }
            let sql = "UPDATE isle_table SET name = ?2, def = ?3 WHERE no = ?1";
            conn.execute(sql, params![self.tracked.no, model.table.name, model.to_json()?]).doing("list the table")?;
            let changed = tracked::load(conn, self.tracked.no, model)?;
            crate::track::widen_queue(conn, &changed)?;
            crate::shadow::follow(conn, self.tracked, &changed)?;
            let changed = Arc::new(changed);
            let is_news = |(id, value): &(ColumnId, Value)| match stands.before.iter().find(|(known, _)| known == id) {
                Some((_, before)) => before != value,
                None => changed.defaults.iter().any(|(cell, _)| changed.cell_of(*id) == Some(*cell)),
            };
            let news: Vec<_> =
                stands.began.iter().filter(|news| is_news(news) && !adopted.contains(&news.0)).cloned().collect();
            if !news.is_empty() {
                crate::standing::show_began(conn, &changed, &news)?;
            }
            triggers::install(conn, &changed)?;
        }
        self.indexes()?;
        Ok(adopted)
    }

    /// How the columns stand to the definitions of them.
    fn stands(&self, model: &tracked::LocalTable) -> Result<Stands, StoreError> {
        let (conn, table) = (&self.engine.conn, self.tracked.table.id);
        if !crate::standing::is_contested(self.operations, self.target, table) {
            return Ok(Stands::default());
        }
        let began = crate::standing::began(self.operations, self.target, table)?;
        let differing = crate::standing::differing(conn, self.operations, self.target, model)?;
        let pins = crate::standing::pins(conn, &began, model)?;
        let before = crate::standing::begin_here(conn, model)?;
        let differs = !differing.is_empty() || pins != model.defaults;
        Ok(Stands { contested: true, differs, began, before })
    }

    /// Notes the columns that are NOT NULL where other devices may write NULL; true if they are others than before.
    fn requires(&self, model: &mut tracked::LocalTable) -> Result<bool, StoreError> {
        let births = self.operations.values().flat_map(Migration::tables);
        let births = births.filter(|definition| definition.table.id == self.tracked.table.id).count();
        if self.target.shape.is_none() && self.target.added.is_empty() && births < 2 {
            return Ok(false);
        }
        let before = model.required.clone();
        crate::required::note(&self.engine.conn, model)?;
        Ok(model.required != before)
    }

    /// Makes the table anew where columns of it are defined otherwise than they should be.
    fn make_standing(
        &self,
        model: &mut tracked::LocalTable,
        standing: &[crate::standing::Standing],
    ) -> Result<(), StoreError> {
        if standing.is_empty() {
            return Ok(());
        }
        let (conn, name) = (&self.engine.conn, model.table.name.clone());
        match crate::standing::wanted(conn, model, standing)? {
            Ok(scratch) => {
                let wanted = crate::reshape::Wanted::of(scratch, &name)?;
                let now = tracked::load(conn, self.tracked.no, model.clone())?;
                if let Some(reason) = crate::reshape::make(self.engine, &now, &wanted, false)? {
                    return Err(self.refuse(reason));
                }
                crate::objects::note_left_out(conn, "definition of", &name, None)
            }
            Err(reason) => crate::objects::note_left_out(conn, "definition of", &name, Some(&reason)),
        }
    }

    fn rename(&self, model: &mut tracked::LocalTable) -> Result<(), StoreError> {
        if model.table.name != self.target.name {
            let (old, new) = (quoted(&model.table.name), quoted(&self.target.name));
            self.run(&format!("ALTER TABLE {old} RENAME TO {new}"))?;
            model.table.name.clone_from(&self.target.name);
        }
        let table = quoted(&model.table.name);
        let targets = &self.target.columns;
        let renamed: Vec<(usize, &String)> = model
            .table
            .columns
            .iter()
            .enumerate()
            .filter_map(|(n, column)| {
                let target = targets.iter().find(|target| target.id == column.id)?;
                (column.name != target.name).then_some((n, &target.name))
            })
            .collect();
        // By way of names that nobody has: one may take the name that another gives up.
        if renamed.len() > 1 {
            for (n, _) in &renamed {
                let column = &mut model.table.columns[*n];
                let passing = format!("isle_column{n}");
                self.run(&format!("ALTER TABLE {table} RENAME COLUMN {} TO {passing}", quoted(&column.name)))?;
                column.name = passing;
            }
        }
        for (n, name) in renamed {
            let column = &mut model.table.columns[n];
            let (old, new) = (quoted(&column.name), quoted(name));
            self.run(&format!("ALTER TABLE {table} RENAME COLUMN {old} TO {new}"))?;
            column.name.clone_from(name);
        }
        Ok(())
    }

    /// Adds a column; true if the table has it already.
    fn add(&self, table: &str, name: &str, definition: &str) -> Result<bool, StoreError> {
        let conn = &self.engine.conn;
        let probed = crate::define::probe(definition).map_err(|reason| self.refuse_for_good(reason))?;
        let physical = tracked::columns(conn, table)?;
        if let Some(there) = physical.iter().find(|column| column.name.eq_ignore_ascii_case(name)) {
            // Another definition is brought to the one that stands.
            if there.hidden == 0 {
                return Ok(true);
            }
            return Err(
                self.refuse(format!("its column {name:?} is a generated one here; rename or drop one of the two"))
            );
        }
        // The definition is another device's text: one statement and no more.
        conn.execute(&format!("ALTER TABLE {} ADD COLUMN {definition}", quoted(table)), [])
            .map_err(|error| self.blame(error))?;
        if !probed.name.eq_ignore_ascii_case(name) {
            let (table, old, new) = (quoted(table), quoted(&probed.name), quoted(name));
            self.run(&format!("ALTER TABLE {table} RENAME COLUMN {old} TO {new}"))?;
        }
        Ok(false)
    }

    fn indexes(&self) -> Result<(), StoreError> {
        let conn = &self.engine.conn;
        for (name, index) in &self.target.indexes {
            let sql = match index.as_ref().filter(|_| self.owns(name)) {
                Some(index) => {
                    Some(crate::reshape::index_sql(index, self.target).map_err(|reason| self.refuse(reason))?)
                }
                None => None,
            };
            let there =
                "SELECT sql FROM sqlite_schema WHERE type = 'index' AND name = ?1 AND tbl_name = ?2 COLLATE NOCASE";
            let there = crate::clocks::one::<Option<String>>(conn, there, params![name, self.target.name])?;
            let words = |sql: &Option<String>| sql.as_ref().map(|sql| tracked::words(sql));
            if there.as_ref().is_some_and(|there| words(there) == words(&sql)) || (there.is_none() && sql.is_none()) {
                continue;
            }
            if there.is_some() {
                self.run(&format!("DROP INDEX {}", quoted(name)))?;
            }
            let Some(sql) = &sql else { continue };
            self.clear_the_way(name, sql)?;
            crate::objects::flush(conn)?;
            let made = self.engine.guard.creating(&self.target.name, || conn.execute(sql, []));
            if let Some(reason) = self.engine.guard.take_refusal() {
                return Err(self.refuse_for_good(reason));
            }
            made.map_err(|error| self.blame(error))?;
        }
        Ok(())
    }

    /// Whether an index of this name is this table's: of several tables that have one the first keeps it.
    fn owns(&self, name: &str) -> bool {
        let has = |table: &&TableState| {
            table.indexes.iter().any(|(known, index)| index.is_some() && known.eq_ignore_ascii_case(name))
        };
        self.schema.tables.values().find(has).is_none_or(|owner| owner.name == self.target.name)
    }

    /// Before a UNIQUE index is made: rows that it cannot hold together step aside.
    fn clear_the_way(&self, name: &str, sql: &str) -> Result<(), StoreError> {
        let conn = &self.engine.conn;
        let def = "SELECT def FROM isle_table WHERE no = ?1";
        let def = crate::clocks::one::<String>(conn, def, [self.tracked.no])?.unwrap_or_default();
        let now = tracked::load(conn, self.tracked.no, tracked::LocalTable::of_json(&def)?)?;
        let table = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE";
        let table = crate::clocks::one::<String>(conn, table, [&self.target.name])?.unwrap_or_default();
        let index = crate::reshape::unique_index(&now, &table, name, sql)?.map_err(|reason| self.refuse(reason))?;
        let Some(index) = index else { return Ok(()) };
        match crate::reshape::give_way(self.engine, &now, &index, self.own)? {
            Some(reason) => Err(self.refuse_rows(reason)),
            None => Ok(()),
        }
    }
}

/// Seals what stands in columns that were there before their operation as one baseline version.
fn seal_adopted(engine: &mut Engine, adopted: &[(i64, isle_schema::ColumnId)], now_ms: u64) -> Result<(), StoreError> {
    let conn = &engine.conn;
    let mut own = engine.own()?;
    let mut sealer = Sealer::begin(conn, &mut own, now_ms, true)?;
    let mut order: Vec<Arc<Tracked>> = engine.tables.clone();
    order.sort_by_key(|tracked| tracked.table.id);
    for tracked in order {
        let cells: Vec<usize> =
            adopted.iter().filter(|(no, _)| *no == tracked.no).filter_map(|(_, id)| tracked.cell_of(*id)).collect();
        if cells.is_empty() {
            continue;
        }
        layout::set_baseline(conn, tracked.no, own.no, own.version + 1)?;
        sealer.table(&tracked)?;
        for (key, clock, mask, values) in written(conn, &tracked, &cells, sealer.stamp())? {
            let key: Vec<_> = key.iter().map(Value::as_ref).collect();
            let values: Vec<_> = values.iter().map(Value::as_ref).collect();
            sealer.row(&tracked, RowKind::Update, clock.length, &mask, &key, &values)?;
            ClockTable::open(conn, &tracked).update(&key, &clock)?;
        }
    }
    sealer.finish(&mut own)?;
    engine.own = Some(own);
    Ok(())
}

type Written = (Vec<Value>, RowClock, Vec<u64>, Vec<Value>);

/// Live rows with a value other than the default in one of the cells, and their clocks with those cells stamped.
fn written(
    conn: &Connection,
    tracked: &Arc<Tracked>,
    cells: &[usize],
    stamp: LocalStamp,
) -> Result<Vec<Written>, StoreError> {
    let keys = tracked.table.key.len();
    let physical = tracked::columns(conn, &tracked.table.name)?;
    let mut tests = Vec::new();
    for cell in cells {
        let column = &tracked.table.columns[cell - 1].name;
        let default = physical.iter().find(|known| known.name.eq_ignore_ascii_case(column));
        let default = default.and_then(|known| known.default.as_deref()).unwrap_or("NULL");
        let value = format!("d.{}", quoted(column));
        tests.push(format!("({value} IS NOT ({default}) COLLATE BINARY OR typeof({value}) <> typeof(({default})))"));
    }
    let (scan, order, any) = (tracked.clocks_and_rows(conn, "JOIN")?, tracked.clock_order(), tests.join(", "));
    let alive = alive("c.");
    let sql = format!("SELECT {scan} WHERE {alive} AND max({any}, 0) ORDER BY {order}");
    let mut statement = conn.prepare(&sql).doing("adopt a column")?;
    let mut rows = statement.raw_query();
    let mut written = Vec::new();
    while let Some(row) = rows.next().doing("adopt a column")? {
        let Some(mut clock) = RowClock::read(row, 0, tracked)? else { continue };
        let value = |at: usize| row.get_ref(at).map(from_sql).doing("adopt a column");
        let exact: Vec<_> = (0..keys).map(|n| value(CLOCK_FIELDS + keys + n)).collect::<Result<_, _>>()?;
        let (mut mask, mut values) = (vec![0u64; tracked.cells().div_ceil(64)], Vec::new());
        for cell in cells {
            let found = value(CLOCK_FIELDS + 2 * keys + cell - 1)?;
            mask[cell / 64] |= 1 << (cell % 64);
            values.push(found.to_value());
            clock.stamp_cell(*cell, stamp);
        }
        written.push((canonical_key(&exact, &tracked.table.key).0, clock, mask, values));
    }
    Ok(written)
}
