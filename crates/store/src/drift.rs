//! Where a file and the group's schema stand: what was changed in the file past isle, what is left out, what waits.

use std::collections::BTreeSet;

use isle_changeset::Header;
use isle_clock::SiteId;
use isle_schema::{IndexDefinition, Migration, MigrationId, Schema, SchemaConflict, Step, Version};
use rusqlite::Connection;

use crate::engine::Engine;
use crate::error::Doing as _;
use crate::layout::log_id;
use crate::{PendingOperation, SchemaPlan, Store, StoreError};

/// How a file stands to the schema of its group.
#[derive(Debug, Clone, Default)]
pub struct SchemaState {
    /// The applied operations that no other follows.
    pub heads: Vec<MigrationId>,
    /// The version of the app that it is the schema of.
    pub version: Option<Version>,
    /// How many operations are applied here.
    pub operations: usize,
    /// Tables that stand still, because they were changed past isle, and why.
    pub standing_still: Vec<(String, String)>,
    /// What of the schema is not here, and why.
    pub left_out: Vec<String>,
    /// What the file has and the schema has not.
    pub drift: SchemaPlan,
    /// Operations that are here and cannot be applied yet, parents first.
    pub pending: Vec<PendingOperation>,
    /// How many changesets have something that needs them.
    pub parked: u64,
    /// Of each site, how many operations its last changeset here did not know; by site id.
    pub behind: Vec<(SiteId, usize)>,
}

impl Store {
    /// How the file stands to the schema of its group.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn schema_state(&self) -> Result<SchemaState, StoreError> {
        self.snapshot(|conn| {
            let operations = crate::alter::operations(conn)?;
            let heads = heads(&operations.iter().map(|(id, operation)| (*id, operation)).collect::<Vec<_>>());
            Ok(SchemaState {
                heads,
                version: crate::alter::schema(conn)?.version().cloned(),
                standing_still: standing_still(conn)?,
                left_out: crate::objects::left_out(conn)?,
                drift: drift(conn)?,
                pending: crate::pending::pending(conn)?,
                parked: crate::parked::count(conn)?,
                behind: behind(conn, &operations)?,
                operations: operations.len(),
            })
        })
    }

    /// Makes what the file has and the schema has not part of the schema, here and on the other replicas; gives what that was.
    ///
    /// # Errors
    /// Those of [`Store::apply_schema`].
    pub fn adopt_schema(&self) -> Result<SchemaPlan, StoreError> {
        self.merge(adopt)
    }

    /// What of operations that were made at once does not stand, for people: what lost, and what stands instead.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn schema_conflicts(&self) -> Result<Vec<(SchemaConflict, String, String)>, StoreError> {
        self.snapshot(|conn| {
            let operations = crate::alter::operations(conn)?;
            let all = || operations.iter().map(|(id, operation)| (*id, operation));
            let schema = Schema::fold(all());
            let told = |conflict: SchemaConflict| {
                let told = |step| crate::dump::describe(step, &schema);
                let (lost, stands) = (told(&conflict.lost.1), told(&conflict.stands.1));
                (conflict, lost, stands)
            };
            Ok(Schema::conflicts(all()).into_iter().map(told).collect())
        })
    }
}

/// Tables that were changed past isle so that it cannot work with them, and why.
pub(crate) fn standing_still(conn: &Connection) -> Result<Vec<(String, String)>, StoreError> {
    let mut found = Vec::new();
    for loaded in crate::engine::load_each(conn)? {
        match loaded {
            Err(StoreError::Drifted { table, reason }) => found.push((table, reason)),
            other => drop(other?),
        }
    }
    Ok(found)
}

fn heads(operations: &[(MigrationId, &Migration)]) -> Vec<MigrationId> {
    let parents: BTreeSet<MigrationId> =
        operations.iter().flat_map(|(_, operation)| operation.parents.iter().copied()).collect();
    operations.iter().map(|(id, _)| *id).filter(|id| !parents.contains(id)).collect()
}

/// What it takes to make the schema what the file is.
fn drift(conn: &Connection) -> Result<SchemaPlan, StoreError> {
    let app: String = crate::layout::require_meta(conn, "app")?;
    let mut plan = crate::define::plan(conn, &app, &crate::dump::sql(conn)?)?;
    plan.refused.extend(standing_still(conn)?.into_iter().map(|(table, reason)| {
        format!(
            "table {table} stands still: {reason}; undo that change of the file, or take the table as it is: `isle untrack {table}`, `isle track {table}`"
        )
    }));
    let (schema, operations) = (crate::alter::schema(conn)?, crate::alter::operations(conn)?);
    for tracked in crate::engine::load_tables(conn)? {
        let (id, table) = (tracked.table.id, &tracked.table.name);
        let Some(state) = schema.tables.get(&id) else { continue };
        let born = operations.values().flat_map(Migration::tables).filter(|definition| definition.table.id == id);
        let born: Vec<String> = born.flat_map(|definition| definition.index_sql.clone()).collect();
        let sql = "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND tbl_name = ?1 COLLATE NOCASE
                   AND sql IS NOT NULL ORDER BY name";
        let mut statement = conn.prepare_cached(sql).doing("read the indexes")?;
        let indexes = statement.query_map([table], |row| Ok((row.get(0)?, row.get(1)?))).doing("read the indexes")?;
        let indexes: Vec<(String, String)> = indexes.collect::<Result<_, _>>().doing("read the indexes")?;
        for (name, sql) in indexes {
            let of_birth = born.iter().any(|born| crate::tracked::words(born).contains(&name.to_ascii_lowercase()));
            if of_birth || state.indexes.get(&name).is_some_and(Option::is_some) {
                continue;
            }
            let index = IndexDefinition { sql, table_name: table.clone(), columns: tracked.table.columns.clone() };
            let step = Step::CreateIndex { table: id, name: name.clone(), index };
            plan.add("create index", table, format!("{name} (it is there already)"), step);
        }
    }
    Ok(plan)
}

fn adopt(engine: &mut Engine, now_ms: u64) -> Result<SchemaPlan, StoreError> {
    let plan = drift(&engine.conn)?;
    crate::track::apply_plan(engine, plan, now_ms)
}

/// What the last changeset of each site did not know of the schema.
fn behind(
    conn: &Connection,
    operations: &std::collections::BTreeMap<MigrationId, Migration>,
) -> Result<Vec<(SiteId, usize)>, StoreError> {
    let mut statement = conn.prepare("SELECT no, id FROM isle_site ORDER BY id").doing("read the sites")?;
    let sites = statement.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get(1)?))).doing("read the sites")?;
    let sites: Vec<(i64, [u8; 16])> = sites.collect::<Result<_, _>>().doing("read the sites")?;
    let mut behind = Vec::new();
    for (no, id) in sites {
        let sql = "SELECT header FROM isle_log WHERE id BETWEEN ?1 AND ?2 ORDER BY id DESC LIMIT 1";
        let range = [log_id(no, 0), log_id(no + 1, 0) - 1];
        let Some(header) = crate::clocks::one::<Vec<u8>>(conn, sql, range)? else { continue };
        let header = Header::decode(&header).map_err(|source| StoreError::BadHeader { source })?;
        let mut known = BTreeSet::new();
        let mut open = header.heads;
        while let Some(id) = open.pop() {
            if known.insert(id) {
                open.extend(operations.get(&id).into_iter().flat_map(|operation| operation.parents.iter().copied()));
            }
        }
        behind.push((SiteId::from_bytes(id), operations.keys().filter(|id| !known.contains(id)).count()));
    }
    Ok(behind)
}
