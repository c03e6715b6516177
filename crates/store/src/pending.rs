//! Schema operations that cannot be applied here yet. They stop nobody.
//!
//! An operation may not fit this file: a table of the app's own stands in its way, rows here do not fit it, a newer isle made it, or it
//! asks for a later version of the app than the one that uses the file (`-- @requires`). It is kept all the same, passed on to others as any other, and tried again at each sync. Those that follow it wait with it, so the
//! operations that are applied are at all times closed under parents, and the schema here is one that the group had.
//!
//! Changesets that were written under it are merged as far as their tables and columns are known here; see `parked` for the rest.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use isle_schema::{Migration, MigrationError, MigrationId, Schema, Version};
use rusqlite::types::Value;
use rusqlite::{Connection, params};

use crate::engine::Engine;
use crate::error::Doing as _;
use crate::{Store, StoreError, layout, own, track};

/// Operations of a newer isle that a file keeps: they cannot be looked into, so whoever makes them up must not fill the file.
const NEWER_MAX: i64 = 256;
/// Operations that are tried with those that they follow, each time, and how many those may be.
const TOGETHER_MAX: usize = 32;
const CHAIN_MAX: usize = 1_000;
/// Operations that may wait: whoever makes up more is not heard.
const WAITING_MAX: i64 = 10_000;

/// Why a schema operation is not applied here.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hindrance {
    /// It does not fit this file.
    Blocked {
        /// What stands in its way, and what to do.
        reason: String,
    },
    /// An operation that it follows is not applied, or not here.
    Follows(MigrationId),
    /// A newer isle made it.
    NewerIsle,
    /// It asks for a later version of the app than the one here.
    NewerApp(Version),
}

impl Hindrance {
    /// The word for it: `blocked`, `follows`, `newer` or `app`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Hindrance::Blocked { .. } => "blocked",
            Hindrance::Follows(_) => "follows",
            Hindrance::NewerIsle => "newer",
            Hindrance::NewerApp(_) => "app",
        }
    }

    /// What is kept beside the word.
    fn detail(&self) -> Value {
        match self {
            Hindrance::Blocked { reason } => Value::Text(reason.clone()),
            Hindrance::Follows(id) => Value::Blob(id.as_bytes().to_vec()),
            Hindrance::NewerIsle => Value::Null,
            Hindrance::NewerApp(version) => Value::Text(version.to_string()),
        }
    }

    fn of(state: &str, detail: Value) -> Hindrance {
        match (state, detail) {
            ("newer", _) => Hindrance::NewerIsle,
            (_, Value::Blob(id)) => Hindrance::Follows(MigrationId::from_bytes(id.try_into().unwrap_or_default())),
            (state, Value::Text(text)) => match Version::parse(&text).filter(|_| state == "app") {
                Some(version) => Hindrance::NewerApp(version),
                None => Hindrance::Blocked { reason: text },
            },
            _ => Hindrance::Blocked { reason: "it could not be applied".to_owned() },
        }
    }
}

impl fmt::Display for Hindrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hindrance::Blocked { reason } => f.write_str(reason),
            Hindrance::Follows(id) => write!(f, "it follows schema operation {id}, which is not applied here"),
            Hindrance::NewerIsle => f.write_str("a newer isle made it: update isle here"),
            Hindrance::NewerApp(version) => {
                write!(f, "it is for version {version} of the app and later ones: update the app here")
            }
        }
    }
}

/// A schema operation that is here and not applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingOperation {
    /// Its id.
    pub id: MigrationId,
    /// Why it is not applied.
    pub hindrance: Hindrance,
    /// What it would do, step by step, for people; empty for one of a newer isle.
    pub steps: Vec<String>,
    /// Since when it is here, in milliseconds since 1970.
    pub since_ms: u64,
}

impl Store {
    /// Takes in a schema operation of another device: applies it, or keeps it until it can be applied, and then gives what hinders it.
    ///
    /// # Errors
    /// [`StoreError::Migration`] when it is broken, [`StoreError::OperationRefused`]; [`StoreError::is_local`] ones.
    pub fn take_migration(&self, body: &[u8]) -> Result<(MigrationId, Option<Hindrance>), StoreError> {
        let (id, migration) = match Migration::decode(body) {
            Ok(found) => found,
            // One that is too many is not kept: nothing that needs it is merged, and nobody else is held up.
            Err(MigrationError::Newer { id }) => {
                self.merge(|engine, now_ms| keep_newer(engine, id, body, now_ms))?;
                return Ok((id, Some(Hindrance::NewerIsle)));
            }
            Err(error) => return Err(error.into()),
        };
        let taken = self.try_migration(id, &migration, body)?;
        if taken.is_none() {
            // What waited for it may be applied now.
            self.retry_operations()?;
        }
        Ok((id, taken))
    }

    /// Tries the schema operations again that could not be applied so far; gives how many could now.
    ///
    /// # Errors
    /// [`StoreError::is_local`] ones.
    pub fn retry_operations(&self) -> Result<u64, StoreError> {
        let mut applied = 0;
        loop {
            let before = applied;
            let mut hindered = BTreeSet::new();
            for (id, body) in self.snapshot(waiting)? {
                // One of a newer isle may be readable by now.
                let Ok((_, migration)) = Migration::decode(&body) else {
                    hindered.insert(id);
                    continue;
                };
                if migration.parents.iter().any(|parent| hindered.contains(parent)) {
                    hindered.insert(id);
                    continue;
                }
                match self.try_migration(id, &migration, &body) {
                    Ok(None) => applied += 1,
                    Ok(Some(_)) => drop(hindered.insert(id)),
                    // Until now it could not be looked at closely.
                    Err(error @ StoreError::OperationRefused { .. }) => {
                        tracing::warn!(%error, "it stays unapplied");
                        hindered.insert(id);
                    }
                    Err(error) => return Err(error),
                }
            }
            if applied == before && !hindered.is_empty() {
                applied += self.retry_together()?;
            }
            if applied == before {
                return Ok(applied);
            }
        }
    }

    /// Tries operations with those that they follow as one step: a later one may have renamed what stands in an earlier one's way.
    fn retry_together(&self) -> Result<u64, StoreError> {
        let waiting = self.snapshot(waiting)?;
        let decoded: HashMap<MigrationId, Migration> =
            waiting.iter().filter_map(|(_, body)| Migration::decode(body).ok()).collect();
        // The last one first: it takes the most along.
        for (id, _) in waiting.iter().rev().take(TOGETHER_MAX) {
            let chain = chain(&decoded, *id);
            if chain.len() < 2 || chain.len() > CHAIN_MAX {
                continue;
            }
            let bodies: Vec<&[u8]> =
                waiting.iter().filter(|(id, _)| chain.contains(id)).map(|(_, body)| body.as_slice()).collect();
            let tried = self.merge(|engine, now_ms| {
                let app = app_version(&engine.conn)?;
                for operation in chain.iter().filter_map(|id| decoded.get(id)) {
                    if operation.requires().is_some_and(|needs| app.as_ref().is_some_and(|app| app < needs)) {
                        return Ok(false);
                    }
                    for parent in operation.parents.iter().filter(|parent| !chain.contains(parent)) {
                        if !track::is_applied(&engine.conn, *parent)? {
                            return Ok(false);
                        }
                    }
                }
                track::apply_together(engine, &bodies, now_ms, false).map(|()| true)
            });
            match tried {
                Ok(true) => return Ok(chain.len() as u64),
                Err(error) if error.is_local() => return Err(error),
                Ok(false) | Err(_) => {}
            }
        }
        Ok(0)
    }

    /// Gives up an operation that is not applied, and those that follow it: they are tried no more, and what came for tables and columns that
    /// they alone would make is dropped here, for good. For one that somebody has made up; gives how many were given up.
    ///
    /// # Errors
    /// [`StoreError::Statement`] for one that is applied or not here.
    pub fn forget_operation(&self, id: MigrationId) -> Result<u64, StoreError> {
        self.merge(|engine, _| {
            let conn = &engine.conn;
            if track::standing(conn, id)? != Some(false) {
                let reason = format!("no schema operation {id} waits here: `isle schema status` lists those that do");
                return Err(StoreError::Statement { reason });
            }
            let mut given_up = BTreeSet::from([id]);
            for (other, body) in waiting(conn)? {
                let Ok((_, migration)) = Migration::decode(&body) else { continue };
                if migration.parents.iter().any(|parent| given_up.contains(parent)) {
                    given_up.insert(other);
                }
            }
            for id in &given_up {
                let sql = "UPDATE isle_migration SET state = 'forgotten', why = NULL WHERE id = ?1";
                conn.execute(sql, [id.as_bytes()]).doing("give up a schema operation")?;
            }
            crate::parked::drop_unneeded(conn)?;
            Ok(given_up.len() as u64)
        })
    }

    /// How many schema operations are applied.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn applied_operations(&self) -> Result<u64, StoreError> {
        let sql = "SELECT count(*) FROM isle_migration WHERE state = 'applied'";
        self.read(|conn| Ok(crate::clocks::one::<i64>(conn, sql, [])?.unwrap_or(0) as u64))
    }

    /// The schema operations that are here and not applied, and why; parents first.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn pending_operations(&self) -> Result<Vec<PendingOperation>, StoreError> {
        self.snapshot(pending)
    }

    /// Operations that others follow and that are not here: they have to be fetched.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn missing_operations(&self) -> Result<Vec<MigrationId>, StoreError> {
        self.snapshot(|conn| {
            let mut missing = BTreeSet::new();
            for (_, body) in waiting(conn)? {
                let Ok((_, migration)) = Migration::decode(&body) else { continue };
                for parent in migration.parents {
                    if track::standing(conn, parent)?.is_none() {
                        missing.insert(parent);
                    }
                }
            }
            Ok(missing.into_iter().collect())
        })
    }

    /// Says of which version the app is that uses the file: operations that ask for a later one wait from now on, and those that waited
    /// for this one are applied. Until somebody says so, no operation waits.
    ///
    /// # Errors
    /// [`StoreError::is_local`] ones.
    pub fn set_app_version(&self, version: &Version) -> Result<(), StoreError> {
        if self.read(app_version)?.as_ref() == Some(version) {
            return Ok(());
        }
        self.merge(|engine, _| layout::set_meta(&engine.conn, APP_VERSION, version.to_string()))?;
        self.retry_operations().map(drop)
    }

    /// The version of the app that uses the file, if it was ever said.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn app_version(&self) -> Result<Option<Version>, StoreError> {
        self.read(app_version)
    }

    /// Applies an operation, or notes why it cannot be.
    fn try_migration(
        &self,
        id: MigrationId,
        migration: &Migration,
        body: &[u8],
    ) -> Result<Option<Hindrance>, StoreError> {
        track::refuse_odd(id, migration)?;
        let tried = self.merge(|engine, now_ms| {
            if track::is_applied(&engine.conn, id)? {
                return Ok(None);
            }
            if is_forgotten(&engine.conn, id)? {
                return Ok(Some(Hindrance::Blocked { reason: "it was given up here".to_owned() }));
            }
            let app = app_version(&engine.conn)?;
            if let Some(needs) = migration.requires().filter(|needs| app.as_ref().is_some_and(|app| app < needs)) {
                let hindrance = Hindrance::NewerApp(needs.clone());
                note(&engine.conn, id, body, &hindrance, now_ms)?;
                return Ok(Some(hindrance));
            }
            for parent in &migration.parents {
                if !track::is_applied(&engine.conn, *parent)? {
                    let hindrance = Hindrance::Follows(*parent);
                    note(&engine.conn, id, body, &hindrance, now_ms)?;
                    return Ok(Some(hindrance));
                }
            }
            track::apply_migration(engine, body, now_ms, false).map(|_| None)
        });
        match tried {
            Err(error) if !error.is_local() && !matches!(error, StoreError::OperationRefused { .. }) => {
                let hindrance = Hindrance::Blocked { reason: told(&error) };
                tracing::warn!(%id, %hindrance, "a schema operation cannot be applied; what needs it is kept until it can");
                self.merge(|engine, now_ms| note(&engine.conn, id, body, &hindrance, now_ms))?;
                Ok(Some(hindrance))
            }
            other => other,
        }
    }
}

/// The fact that says of which version the app is.
const APP_VERSION: &str = "app version";
/// The fact that says which version of the app the applied operations ask for.
const REQUIRED: &str = "app required";

pub(crate) fn app_version(conn: &Connection) -> Result<Option<Version>, StoreError> {
    Ok(layout::meta::<String>(conn, APP_VERSION)?.and_then(|version| Version::parse(&version)))
}

/// Notes which version of the app the applied operations ask for.
pub(crate) fn note_required(conn: &Connection, schema: &Schema) -> Result<(), StoreError> {
    match &schema.requires {
        Some(version) => layout::set_meta(conn, REQUIRED, version.to_string()),
        None => Ok(()),
    }
}

/// The version that the app must have to write here and its own, if that is earlier.
pub(crate) fn too_new(conn: &Connection) -> Result<Option<(Version, Version)>, StoreError> {
    let Some(required) = layout::meta::<String>(conn, REQUIRED)? else { return Ok(None) };
    Ok(Version::parse(&required).zip(app_version(conn)?).filter(|(required, app)| app < required))
}

/// An operation with all that wait and that it follows.
fn chain(waiting: &HashMap<MigrationId, Migration>, id: MigrationId) -> BTreeSet<MigrationId> {
    let mut chain = BTreeSet::new();
    let mut open = vec![id];
    while let Some(id) = open.pop() {
        let Some(operation) = waiting.get(&id) else { continue };
        if chain.insert(id) {
            open.extend(&operation.parents);
        }
    }
    chain
}

/// What stands in an operation's way, with what caused it.
fn told(error: &StoreError) -> String {
    // Beside the operation's id, which is told anyway.
    if let StoreError::SchemaConflict { table, reason, .. } = error {
        return format!("table {table:?}: {reason}");
    }
    let error: &dyn std::error::Error = error;
    let causes = std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string);
    causes.fold(String::new(), |told, cause| match told.is_empty() {
        true => cause,
        // Many a message ends with its cause.
        false if told.contains(&cause) => told,
        false => format!("{told}: {cause}"),
    })
}

/// Keeps an operation that cannot be read here, unless there are too many of them.
fn keep_newer(engine: &mut Engine, id: MigrationId, body: &[u8], now_ms: u64) -> Result<(), StoreError> {
    let sql = "SELECT count(*) FROM isle_migration WHERE state = 'newer' AND id <> ?1";
    if crate::clocks::one::<i64>(&engine.conn, sql, [id.as_bytes()])?.unwrap_or(0) >= NEWER_MAX {
        tracing::warn!(%id, "too many operations of a newer isle: one is not kept");
        return Ok(());
    }
    note(&engine.conn, id, body, &Hindrance::NewerIsle, now_ms)
}

/// Notes why an operation is not applied.
fn note(conn: &Connection, id: MigrationId, body: &[u8], hindrance: &Hindrance, now_ms: u64) -> Result<(), StoreError> {
    let sql = "INSERT INTO isle_migration(id, body, state, at, why) VALUES(?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE
               SET state = excluded.state, why = excluded.why
               WHERE state NOT IN ('applied', 'forgotten') AND (state, why) IS NOT (excluded.state, excluded.why)";
    let others = "SELECT count(*) FROM isle_migration WHERE state <> 'applied' AND id <> ?1";
    if crate::clocks::one::<i64>(conn, others, [id.as_bytes()])?.unwrap_or(0) >= WAITING_MAX {
        tracing::warn!(%id, "too many schema operations wait: one is not kept");
        return Ok(());
    }
    let values = params![id.as_bytes(), body, hindrance.as_str(), now_ms as i64, hindrance.detail()];
    conn.execute(sql, values).doing("keep a schema operation").map(|_| ())
}

/// The operations that are not applied, parents first.
fn waiting(conn: &Connection) -> Result<Vec<(MigrationId, Vec<u8>)>, StoreError> {
    if !any(conn)? {
        return Ok(Vec::new());
    }
    let sql = "SELECT id FROM isle_migration WHERE state IN ('applied', 'forgotten')";
    let mut statement = conn.prepare_cached(sql).doing(READ)?;
    let applied = statement.query_map([], |row| row.get(0)).doing(READ)?;
    let applied: BTreeSet<[u8; 16]> = applied.collect::<Result<_, _>>().doing(READ)?;
    own::operations_beyond(conn, &applied)
}

const READ: &str = "read schema operations";

/// Whether some operation is here and waits.
pub(crate) fn any(conn: &Connection) -> Result<bool, StoreError> {
    let sql = "SELECT 1 FROM isle_migration WHERE state NOT IN ('applied', 'forgotten') LIMIT 1";
    Ok(crate::clocks::one::<i64>(conn, sql, [])?.is_some())
}

fn is_forgotten(conn: &Connection, id: MigrationId) -> Result<bool, StoreError> {
    let sql = "SELECT 1 FROM isle_migration WHERE id = ?1 AND state = 'forgotten'";
    Ok(crate::clocks::one::<i64>(conn, sql, [id.as_bytes()])?.is_some())
}

pub(crate) fn pending(conn: &Connection) -> Result<Vec<PendingOperation>, StoreError> {
    let mut schema = None;
    let mut found = Vec::new();
    for (id, body) in waiting(conn)? {
        let mut statement =
            conn.prepare_cached("SELECT state, why, at FROM isle_migration WHERE id = ?1").doing(READ)?;
        let row = statement.query_row([id.as_bytes()], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, Value>(1)?, row.get::<_, i64>(2)? as u64))
        });
        let (state, why, since_ms) = row.doing(READ)?;
        let hindrance = Hindrance::of(&state, why);
        let steps = match Migration::decode(&body) {
            Err(_) => Vec::new(),
            Ok((_, migration)) => {
                let schema = match &schema {
                    Some(schema) => schema,
                    None => schema.insert(all(conn)?),
                };
                migration.steps.iter().map(|step| crate::dump::describe(step, schema)).collect()
            }
        };
        found.push(PendingOperation { id, hindrance, steps, since_ms });
    }
    Ok(found)
}

/// The schema as it will be once everything that is here is applied: for names.
pub(crate) fn all(conn: &Connection) -> Result<Schema, StoreError> {
    let bodies = own::operations_beyond(conn, &BTreeSet::new())?;
    let operations: BTreeMap<MigrationId, Migration> =
        bodies.iter().filter_map(|(_, body)| Migration::decode(body).ok()).collect();
    Ok(Schema::fold(operations.iter().map(|(id, migration)| (*id, migration))))
}
