//! What statements on isle's own connections may do, decided when SQLite compiles them.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

use crate::StoreError;
use crate::capture::FUNCTION;
use crate::error::Doing as _;
use crate::tracked::Tracked;

/// Whose statement is being compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mode {
    /// isle's own.
    Engine = 0,
    /// The app's, through `Replica`.
    App = 1,
    /// A schema operation's, which came from another device.
    Schema = 2,
    /// One that shows what a trigger of a schema operation does.
    Trigger = 3,
}

#[derive(Debug, Default)]
struct Names {
    /// Tracked tables, in lower case.
    replicated: HashSet<String>,
    /// Tables that stand still, in lower case.
    still: HashSet<String>,
    /// Capture triggers that must not stand aside.
    queued: HashSet<String>,
    /// Replicated tables from which a trigger of the app deletes.
    deleted_by_triggers: HashSet<String>,
    refusal: Option<String>,
    /// The table that a schema operation declares.
    creating: Option<String>,
}

/// The authorizer's state, shared with the connection that it guards.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    mode: Arc<AtomicU8>,
    /// A statement of the app that makes or drops a schema object was compiled.
    schema: Arc<AtomicBool>,
    names: Arc<Mutex<Names>>,
}

impl Guard {
    /// Installs the authorizer. On a connection that merges, triggers of the app write nothing replicated: their
    /// effects travelled with their author's changeset.
    pub(crate) fn install(conn: &mut Connection, merges: bool) -> Result<Guard, StoreError> {
        let guard = Guard { mode: Arc::default(), schema: Arc::default(), names: Arc::default() };
        let inner = guard.clone();
        let authorizer = move |context: AuthContext<'_>| inner.decide(&context, merges);
        conn.authorizer(Some(authorizer)).doing("guard the connection")?;
        Ok(guard)
    }

    /// Runs `f` with statements compiled as `mode` says.
    pub(crate) fn with<T>(&self, mode: Mode, f: impl FnOnce() -> T) -> T {
        // The authorizer reads it on this thread: the connection is used by one at a time.
        let before = self.mode.load(Ordering::Relaxed);
        self.mode.store(mode as u8, Ordering::Relaxed);
        let result = f();
        self.mode.store(before, Ordering::Relaxed);
        result
    }

    /// Learns which tables are tracked.
    /// `still` are those that stand still: what was written to them here would not be recorded.
    pub(crate) fn watch(&self, tables: &[Arc<Tracked>], still: HashSet<String>) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.replicated = tables.iter().map(|tracked| tracked.table.name.to_ascii_lowercase()).collect();
        names.still = still;
        let queued = tables.iter().filter(|tracked| !tracked.hookable());
        names.queued = queued.flat_map(|tracked| crate::triggers::names(tracked.no)).collect();
    }

    /// Runs `f` with statements compiled as those of a schema operation that declares this table.
    pub(crate) fn creating<T>(&self, table: &str, f: impl FnOnce() -> T) -> T {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).creating = Some(table.to_owned());
        let result = self.with(Mode::Schema, f);
        self.names.lock().unwrap_or_else(PoisonError::into_inner).creating = None;
        result
    }

    /// Why the last statement was refused, if it was.
    pub(crate) fn take_refusal(&self) -> Option<String> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).refusal.take()
    }

    /// Whether a statement of the app that changes the schema was compiled since the last call.
    pub(crate) fn take_schema_change(&self) -> bool {
        self.schema.load(Ordering::Relaxed) && self.schema.swap(false, Ordering::Relaxed)
    }

    /// Replicated tables from which triggers of the app delete, as far as compiled statements showed.
    pub(crate) fn deleted_by_triggers(&self) -> Vec<String> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.deleted_by_triggers.iter().cloned().collect()
    }

    fn decide(&self, context: &AuthContext<'_>, merges: bool) -> Authorization {
        let mode = self.mode.load(Ordering::Relaxed);
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let own_trigger = context.accessor.is_some_and(|name| name.starts_with("isle_"));
        if let (AuthAction::Insert { table_name: "isle_queue" }, Some(trigger)) = (context.action, context.accessor) {
            let stands_aside = merges || !names.queued.contains(trigger);
            return if stands_aside && own_trigger { Authorization::Ignore } else { Authorization::Allow };
        }
        if mode == Mode::Trigger as u8 && !own_trigger {
            return names.judge_trigger(context);
        }
        if merges && context.accessor.is_some() && !own_trigger {
            return names.decide_trigger(context);
        }
        let refusal = if mode == Mode::App as u8 {
            let changes_schema = matches!(
                context.action,
                AuthAction::CreateTrigger { .. }
                    | AuthAction::DropTrigger { .. }
                    | AuthAction::CreateTable { .. }
                    | AuthAction::DropTable { .. }
                    | AuthAction::AlterTable { .. }
                    | AuthAction::CreateIndex { .. }
            );
            if changes_schema {
                self.schema.store(true, Ordering::Relaxed);
            }
            names.refuse_app(context, own_trigger)
        } else if mode == Mode::Schema as u8 {
            names.refuse_schema(context)
        } else {
            None
        };
        match refusal {
            None => Authorization::Allow,
            Some(reason) => {
                names.refusal.get_or_insert(reason);
                Authorization::Deny
            }
        }
    }
}

impl Names {
    /// A trigger of the app, fired by a merge: local and derived tables only.
    fn decide_trigger(&mut self, context: &AuthContext<'_>) -> Authorization {
        let replicated = |names: &Names, table: &str| names.replicated.contains(&table.to_ascii_lowercase());
        match context.action {
            AuthAction::Insert { table_name } | AuthAction::Update { table_name, .. }
                if replicated(self, table_name) =>
            {
                Authorization::Ignore
            }
            // SQLite does not skip a DELETE that is ignored here; a temporary trigger does (see `engine`).
            AuthAction::Delete { table_name } if replicated(self, table_name) => {
                self.deleted_by_triggers.insert(table_name.to_ascii_lowercase());
                Authorization::Allow
            }
            _ => Authorization::Allow,
        }
    }

    /// What the body of another device's trigger may do: nothing to isle's tables or SQLite's, and nothing outside the database.
    fn judge_trigger(&mut self, context: &AuthContext<'_>) -> Authorization {
        let internal = |name: &str| {
            let name = name.to_ascii_lowercase();
            name.starts_with("isle_") || name.starts_with("sqlite_")
        };
        let refused = match context.action {
            _ if context.accessor.is_none() => false,
            AuthAction::Insert { table_name }
            | AuthAction::Update { table_name, .. }
            | AuthAction::Delete { table_name } => internal(table_name),
            AuthAction::Read { table_name, .. } => table_name.to_ascii_lowercase().starts_with("isle_"),
            AuthAction::Function { function_name } => reaches_outside(function_name),
            AuthAction::Select | AuthAction::Recursive => false,
            _ => true,
        };
        if refused {
            let action = format!("{:?}", context.action);
            self.refusal.get_or_insert(format!("its body may not do that: {action}"));
            return Authorization::Deny;
        }
        Authorization::Allow
    }

    fn refuse_app(&self, context: &AuthContext<'_>, own_trigger: bool) -> Option<String> {
        let own = |name: &str| name.len() >= 5 && name[..5].eq_ignore_ascii_case("isle_");
        let tracked = |name: &str| self.replicated.contains(&name.to_ascii_lowercase());
        match context.action {
            _ if own_trigger => None,
            AuthAction::Insert { table_name }
            | AuthAction::Update { table_name, .. }
            | AuthAction::Delete { table_name }
                if own(table_name) =>
            {
                Some(format!("{table_name} belongs to isle; use its own functions and commands"))
            }
            AuthAction::Insert { table_name }
            | AuthAction::Update { table_name, .. }
            | AuthAction::Delete { table_name }
                if self.still.contains(&table_name.to_ascii_lowercase()) =>
            {
                Some(format!(
                    "table {table_name} stands still, because it was changed past isle: what is written would not be recorded; `isle schema status` \
                     says what was changed, and once it is undone `isle schema apply` makes it everywhere"
                ))
            }
            AuthAction::DropTable { table_name } | AuthAction::AlterTable { table_name, .. }
                if own(table_name) || tracked(table_name) =>
            {
                Some(format!("table {table_name} is replicated; untrack it before you alter or drop it"))
            }
            AuthAction::DropTrigger { trigger_name, .. } | AuthAction::DropTable { table_name: trigger_name }
                if isle_crsqlite::is_internal(trigger_name) =>
            {
                Some(format!(
                    "{trigger_name} is cr-sqlite's, which keeps tables of this file; `isle engine native` takes it off"
                ))
            }
            AuthAction::DropTrigger { trigger_name, .. } if own(trigger_name) => {
                Some(format!("trigger {trigger_name} records changes for isle; untrack the table instead"))
            }
            AuthAction::Function { function_name } if function_name.eq_ignore_ascii_case(FUNCTION) => {
                Some(format!("{FUNCTION} is isle's own function"))
            }
            AuthAction::Transaction { .. } | AuthAction::Savepoint { .. } => Some(
                "BEGIN, COMMIT, ROLLBACK and SAVEPOINT are isle's: return an error to roll back, or use `savepoint`"
                    .into(),
            ),
            AuthAction::Pragma { pragma_name, pragma_value: Some(_) }
                if matches!(pragma_name.to_ascii_lowercase().as_str(), "writable_schema" | "recursive_triggers") =>
            {
                Some(format!("PRAGMA {pragma_name} would break the recording of changes"))
            }
            _ => None,
        }
    }
}

impl Names {
    /// What the SQL of a received schema operation may do: create the table that it declares and indexes on it, nothing else.
    /// A plain CREATE never compiles a SELECT, so that CREATE TABLE … AS is refused too.
    fn refuse_schema(&self, context: &AuthContext<'_>) -> Option<String> {
        let declared = |name: &str| self.creating.as_deref().is_some_and(|table| table.eq_ignore_ascii_case(name));
        match context.action {
            // The latter comes with AUTOINCREMENT, which local tables may have.
            AuthAction::CreateTable { table_name } if declared(table_name) || table_name == "sqlite_sequence" => None,
            AuthAction::CreateIndex { table_name, .. } if declared(table_name) => None,
            AuthAction::CreateTrigger { trigger_name, table_name } if declared(trigger_name) => table_name
                .to_ascii_lowercase()
                .starts_with("isle_")
                .then(|| format!("it may put no trigger on {table_name}, which belongs to isle")),
            AuthAction::Reindex { .. } | AuthAction::Read { .. } => None,
            AuthAction::Insert { table_name: "sqlite_master" | "sqlite_schema" } => None,
            AuthAction::Update { table_name: "sqlite_master" | "sqlite_schema", .. } => None,
            AuthAction::Function { function_name } if !reaches_outside(function_name) => None,
            other => {
                Some(format!("it may only create the table that it declares and its indexes, and wants {other:?}"))
            }
        }
    }
}

/// Functions that reach outside the database.
fn reaches_outside(function: &str) -> bool {
    matches!(function.to_ascii_lowercase().as_str(), "load_extension" | "readfile" | "writefile" | "edit")
}
