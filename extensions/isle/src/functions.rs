//! The functions.

use std::path::PathBuf;
use std::sync::Arc;

use isle::{BackedUp, ConflictBase, Have, Replica, Resolution, SchemaPlan, SchemaReport, SiteId, Value};
use rusqlite::functions::{ConnectionRef, Context, FunctionFlags};
use rusqlite::types::{Null, ToSqlOutput, ValueRef};
use rusqlite::{Connection, Error, Result};
use serde_json::json;

use crate::host;
use crate::replica::{Access, Failure, Session};
use crate::sync;

/// One of them: its name, how many arguments it takes, and what it does.
type Function = (&'static str, std::ops::RangeInclusive<usize>, fn(&Call<'_>) -> Outcome);

pub(crate) type Outcome = std::result::Result<Value, Failure>;

const FUNCTIONS: &[Function] = &[
    ("isle_init", 0..=2, init),
    ("isle_home", 1..=1, home),
    ("isle_track", 1..=100, track),
    ("isle_untrack", 1..=1, untrack),
    ("isle_detach", 0..=0, detach),
    ("isle_version", 0..=0, version),
    ("isle_site_id", 0..=0, |call| Ok(text(call.replica(Access::Read)?.status()?.site))),
    ("isle_group_id", 0..=0, |call| Ok(text(call.replica(Access::Read)?.status()?.group))),
    ("isle_hash", 0..=0, hash),
    ("isle_status", 0..=0, status),
    ("isle_check", 0..=0, check),
    ("isle_sync", 0..=2, sync::sync),
    ("isle_forget_remote", 1..=1, forget_remote),
    ("isle_key_create", 0..=0, |call| Ok(text(call.replica(Access::Write)?.create_key()?))),
    ("isle_key_export", 0..=0, |call| Ok(Value::Text(call.replica(Access::Read)?.export_keys()?))),
    ("isle_key_import", 1..=1, import_keys),
    ("isle_join", 1..=1, sync::join),
    ("isle_vector", 0..=0, |call| Ok(text(call.replica(Access::Write)?.have()?))),
    ("isle_export", 0..=2, export),
    ("isle_apply", 1..=1, apply),
    ("isle_schema_plan", 1..=1, schema_plan),
    ("isle_schema_apply", 1..=2, schema_apply),
    ("isle_resolve", 2..=3, resolve),
    ("isle_conflict_base", 1..=1, conflict_base),
    ("isle_device_name", 0..=1, device_name),
    ("isle_undo", 1..=2, undo),
    ("isle_backup", 0..=1, backup),
    ("isle_build", 0..=0, |call| Ok(text(json!({ "isle": env!("CARGO_PKG_VERSION"), "sqlite": call.sqlite()? })))),
];

/// Makes them known to a connection.
pub(crate) fn register(conn: &Connection, session: &Arc<Session>) -> Result<()> {
    for (name, takes, work) in FUNCTIONS {
        let session = Arc::clone(session);
        // One of a file that came from elsewhere must not be able to call them, through a view say.
        let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DIRECTONLY;
        conn.create_scalar_function(*name, -1, flags, move |context| {
            let call = Call { name, context, session: &session };
            let given = context.len();
            let result = match takes.contains(&given) {
                true => work(&call),
                false if takes.start() == takes.end() => {
                    Err(format!("{name} takes {} arguments, {given} were given", takes.end()).into())
                }
                false => {
                    let (least, most) = (takes.start(), takes.end());
                    Err(format!("{name} takes {least} to {most} arguments, {given} were given").into())
                }
            };
            result.map(Answer).map_err(|error| Error::UserFunctionError(printable(error)))
        })?;
    }
    Ok(())
}

/// What errors name from the command line, and what it is here.
const SPOKEN: &[(&str, &str)] = &[
    (
        "`isle key export FILE` on a device that has it, then `isle key import FILE` here",
        "isle_key_export() on a device that has it, then isle_key_import(text) here",
    ),
    ("`isle key create`", "isle_key_create()"),
    ("`isle key import FILE`", "isle_key_import(text)"),
    ("and add it again with `--plain`", "and isle_sync(url, '{\"plain\": true}')"),
    ("and add it again without `--plain`", "and isle_sync(url)"),
    ("add one with `isle remote add NAME URL`", "isle_sync(url) adds one"),
    ("`isle remote list`", "isle_status()"),
    ("`isle remote remove ", "`isle_forget_remote "),
    ("`isle conflicts list`", "isle_conflicts"),
    ("`isle conflicts resolve", "`isle_resolve"),
    ("`isle schema apply`", "isle_schema_apply(sql)"),
    ("`isle schema status`", "isle_status()"),
    ("`isle status`", "isle_status()"),
    ("`isle doctor`", "isle_check()"),
    ("`isle devices`", "isle_devices"),
    ("`isle undo`", "isle_undo(version, site)"),
    ("`isle untrack`", "isle_untrack(table)"),
    ("`isle track`", "isle_track(table)"),
    ("`isle sync`", "isle_sync()"),
];

/// An error in the words of SQL, as C takes it: its text ends at the first zero.
pub(crate) fn printable(error: Failure) -> Failure {
    SPOKEN.iter().fold(error.to_string().replace('\0', "\\0"), |text, (from, to)| text.replace(from, to)).into()
}

/// What a function gives, as SQLite takes it.
pub(crate) struct Answer(pub(crate) Value);

impl rusqlite::ToSql for Answer {
    fn to_sql(&self) -> Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match &self.0 {
            Value::Null => return Null.to_sql(),
            Value::Integer(value) => ValueRef::Integer(*value),
            Value::Real(value) => ValueRef::Real(*value),
            Value::Text(value) => ValueRef::Text(value.as_bytes()),
            Value::Blob(value) => ValueRef::Blob(value),
        }))
    }
}

/// A value as SQLite hands it in.
pub(crate) fn value_of(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(value) => Value::Integer(value),
        ValueRef::Real(value) => Value::Real(value),
        ValueRef::Text(value) => Value::Text(String::from_utf8_lossy(value).into_owned()),
        ValueRef::Blob(value) => Value::Blob(value.to_vec()),
    }
}

/// The integer that a real number is: Node.js knows no other numbers.
pub(crate) fn whole(value: f64) -> Option<i64> {
    (value.fract() == 0.0 && value.abs() < 9e15).then_some(value as i64)
}

/// A call of a function.
pub(crate) struct Call<'a> {
    name: &'a str,
    context: &'a Context<'a>,
    session: &'a Session,
}

impl Call<'_> {
    fn host(&self) -> std::result::Result<ConnectionRef<'_>, Failure> {
        // SAFETY: it is used within this call alone, and not closed.
        Ok(unsafe { self.context.get_connection()? })
    }

    /// The replica that the connection's file is.
    pub(crate) fn replica(&self, access: Access) -> std::result::Result<Replica, Failure> {
        self.session.replica(&*self.host()?, access)
    }

    fn sqlite(&self) -> std::result::Result<String, Failure> {
        Ok(host::dotted(rusqlite::version_number()))
    }

    fn given(&self, n: usize) -> ValueRef<'_> {
        if n < self.context.len() { self.context.get_raw(n) } else { ValueRef::Null }
    }

    fn wrong(&self, n: usize, wanted: &str) -> Failure {
        let found = match self.given(n) {
            ValueRef::Null => "NULL",
            ValueRef::Integer(_) => "an integer",
            ValueRef::Real(_) => "a real number",
            ValueRef::Text(_) => "a text",
            ValueRef::Blob(_) => "a blob",
        };
        format!("{}: argument {} has to be {wanted}, and {found} was given", self.name, n + 1).into()
    }

    /// An argument that may be left out.
    pub(crate) fn optional_text(&self, n: usize) -> std::result::Result<Option<&str>, Failure> {
        match self.given(n) {
            ValueRef::Null => Ok(None),
            ValueRef::Text(text) => std::str::from_utf8(text).map(Some).map_err(|_| self.wrong(n, "valid UTF-8")),
            _ => Err(self.wrong(n, "a text")),
        }
    }

    pub(crate) fn text(&self, n: usize) -> std::result::Result<&str, Failure> {
        self.optional_text(n)?.ok_or_else(|| self.wrong(n, "a text"))
    }

    fn optional_count(&self, n: usize) -> std::result::Result<Option<u64>, Failure> {
        match self.given(n) {
            ValueRef::Null => Ok(None),
            ValueRef::Integer(value) if value >= 0 => Ok(Some(value as u64)),
            ValueRef::Real(value) => match whole(value) {
                Some(value) if value >= 0 => Ok(Some(value as u64)),
                _ => Err(self.wrong(n, "an integer of 0 or more")),
            },
            _ => Err(self.wrong(n, "an integer of 0 or more")),
        }
    }

    fn count(&self, n: usize) -> std::result::Result<u64, Failure> {
        self.optional_count(n)?.ok_or_else(|| self.wrong(n, "an integer of 0 or more"))
    }
}

pub(crate) fn text(value: impl ToString) -> Value {
    Value::Text(value.to_string())
}

fn init(call: &Call<'_>) -> Outcome {
    if let Some(home) = call.optional_text(1)? {
        call.session.set_home(home)?;
    }
    let replica = call.session.init(&*call.host()?, call.optional_text(0)?)?;
    Ok(text(replica.status()?.site))
}

fn home(call: &Call<'_>) -> Outcome {
    call.session.set_home(call.text(0)?)?;
    Ok(text(call.text(0)?))
}

fn track(call: &Call<'_>) -> Outcome {
    let tables = (0..call.context.len()).map(|n| call.text(n)).collect::<std::result::Result<Vec<_>, _>>()?;
    call.replica(Access::Write)?.track(&tables)?;
    Ok(Value::Integer(tables.len() as i64))
}

fn untrack(call: &Call<'_>) -> Outcome {
    call.replica(Access::Write)?.untrack(call.text(0)?)?;
    Ok(Value::Null)
}

fn detach(call: &Call<'_>) -> Outcome {
    let replica = call.replica(Access::Write)?;
    call.session.close();
    replica.detach()?;
    Ok(Value::Null)
}

fn version(call: &Call<'_>) -> Outcome {
    let replica = call.replica(Access::Write)?;
    replica.seal()?;
    Ok(Value::Integer(replica.status()?.version as i64))
}

fn hash(call: &Call<'_>) -> Outcome {
    let merged = call.replica(Access::Write)?.state_hash()?.merged;
    Ok(Value::Text(merged.iter().map(|byte| format!("{byte:02x}")).collect()))
}

fn status(call: &Call<'_>) -> Outcome {
    let status = call.replica(Access::Read)?.status()?;
    let remote = |remote: &isle::RemoteInfo| {
        json!({
            "name": remote.name, "url": remote.url, "encrypted": remote.encrypted, "last_sync_ms": remote.last_sync_ms,
            "last_error": remote.last_error.as_ref().map(|(reason, at)| json!({ "reason": reason, "time_ms": at })),
        })
    };
    Ok(text(json!({
        "file": status.path.to_string_lossy(),
        "app": status.app,
        "group": status.group.to_string(),
        "site": status.site.to_string(),
        "device": status.device.name,
        "version": status.version,
        "published": status.published,
        "tables": status.tables,
        "untracked": status.untracked,
        "standing_still": status.standing_still,
        "queued": status.queued,
        "waiting": status.waiting,
        "pending_operations": status.pending_operations,
        "conflicts": status.conflicts,
        "hidden": status.repaired,
        "clock_ahead_ms": status.clock_ahead_ms,
        "forks": status.forks.iter().map(|fork| fork.site.to_string()).collect::<Vec<_>>(),
        "remotes": status.remotes.iter().map(remote).collect::<Vec<_>>(),
    })))
}

fn check(call: &Call<'_>) -> Outcome {
    let report = call.replica(Access::Read)?.check()?;
    let finding = |found: &isle::Finding| json!({ "check": found.check, "message": found.message });
    let findings: Vec<_> = report.findings.iter().map(finding).collect();
    Ok(text(json!({ "rows": report.rows, "changesets": report.changesets, "findings": findings })))
}

fn forget_remote(call: &Call<'_>) -> Outcome {
    call.replica(Access::Write)?.remove_remote(call.text(0)?)?;
    Ok(Value::Null)
}

fn import_keys(call: &Call<'_>) -> Outcome {
    let (group, new) = isle::import_keys(call.session.home(), call.text(0)?)?;
    Ok(text(json!({ "group": group.to_string(), "new": new })))
}

fn export(call: &Call<'_>) -> Outcome {
    let have = call.optional_text(0)?.map_or_else(|| Ok(Have::default()), str::parse::<Have>)?;
    let bytes =
        call.optional_count(1)?.map_or(Replica::BUNDLE_BYTES, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    let bundle = call.replica(Access::Write)?.export_bundle(&have, bytes)?;
    Ok(bundle.map_or(Value::Null, |bundle| Value::Blob(bundle.into())))
}

fn apply(call: &Call<'_>) -> Outcome {
    let ValueRef::Blob(bundle) = call.given(0) else { return Err(call.wrong(0, "a blob of isle_export")) };
    let report = call.replica(Access::Write)?.apply_bundle(bundle)?;
    Ok(text(json!(report)))
}

fn plan_json(plan: &SchemaPlan) -> serde_json::Value {
    let change =
        |change: &isle::SchemaChange| json!({ "kind": change.kind, "table": change.table, "detail": change.detail });
    json!({
        "changes": plan.changes.iter().map(change).collect::<Vec<_>>(), "refused": plan.refused,
        "from": plan.versions.0, "to": plan.versions.1, "class": plan.class().map(isle::Class::as_str), "copies_rows": plan.rewrites(),
    })
}

fn schema_plan(call: &Call<'_>) -> Outcome {
    Ok(text(plan_json(&call.replica(Access::Read)?.plan_schema(call.text(0)?)?)))
}

fn schema_apply(call: &Call<'_>) -> Outcome {
    let replica = call.replica(Access::Write)?;
    let backups = match call.optional_text(1)? {
        Some(folder) => PathBuf::from(folder),
        None => replica.backup_folder()?,
    };
    let SchemaReport { plan, backup } = replica.sync_schema(call.text(0)?, &backups)?;
    let mut object = plan_json(&plan);
    object["backup"] = json!(backup);
    Ok(text(object))
}

fn resolve(call: &Call<'_>) -> Outcome {
    let resolution = match (call.text(1)?, call.context.len()) {
        ("keep", 2) => Resolution::Keep,
        ("put-back", 2) => Resolution::PutBack,
        ("base", 2) => Resolution::Base,
        ("ours", 2) => Resolution::Ours,
        ("theirs", 2) => Resolution::Theirs,
        ("value", 3) => Resolution::Value(value_of(call.given(2))),
        _ => {
            return Err(
                "isle_resolve: take 'keep', 'put-back', 'base', 'ours' or 'theirs'; or 'value' and the value".into()
            );
        }
    };
    let (replica, id) = (call.replica(Access::Write)?, call.count(0)? as i64);
    replica.resolve(id, &resolution)?;
    Ok(replica.conflict(id)?.current.unwrap_or(Value::Null))
}

fn conflict_base(call: &Call<'_>) -> Outcome {
    Ok(match call.replica(Access::Write)?.conflict_base(call.count(0)? as i64)? {
        ConflictBase::Value(value) => value,
        ConflictBase::Absent | ConflictBase::Unknown => Value::Null,
    })
}

fn device_name(call: &Call<'_>) -> Outcome {
    Ok(Value::Text(match call.optional_text(0)? {
        Some(name) => call.replica(Access::Write)?.rename_device(name)?.name,
        None => call.replica(Access::Read)?.device()?.name,
    }))
}

fn undo(call: &Call<'_>) -> Outcome {
    let replica = call.replica(Access::Write)?;
    let site = match call.optional_text(1)? {
        Some(site) => site.parse::<SiteId>().map_err(|_| call.wrong(1, "a site id, as isle_devices has them"))?,
        None => replica.status()?.site,
    };
    let undone = replica.undo(site, call.count(0)?)?;
    Ok(text(json!({ "written": undone.written, "skipped": undone.skipped })))
}

fn backup(call: &Call<'_>) -> Outcome {
    // It writes down that it did.
    let replica = call.replica(Access::Write)?;
    let folder = match call.optional_text(0)? {
        Some(folder) => PathBuf::from(folder),
        None => replica.backup_folder()?,
    };
    Ok(match replica.back_up(&folder, "by the app", None)? {
        BackedUp::Done(backup) => text(json!(backup)),
        BackedUp::SkippedEmpty => Value::Null,
    })
}
