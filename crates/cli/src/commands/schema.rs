//! What the tables should be.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use isle::{
    Class, Definition, Lint, MigrationId, Parked, PendingOperation, Replica, SchemaConflict, SchemaOperation,
    SchemaPlan, SchemaReport,
};
use serde_json::json;

use super::Names;
use crate::args::{Args, SchemaAction};
use crate::confirm;
use crate::db;
use crate::failure::{Failure, Kind};
use crate::output::{Cell, Out, count, time};
use crate::spinner;

/// There is something to do.
const CHANGES: u8 = 3;
/// Something cannot be done.
const REFUSED: u8 = 4;

pub(crate) fn run(args: &Args, action: &SchemaAction, out: &mut Out) -> anyhow::Result<u8> {
    if let SchemaAction::Lint { file } = action {
        return lint(file, out);
    }
    let replica = db::open(args)?;
    match action {
        SchemaAction::Lint { .. } => Ok(0),
        SchemaAction::Status => status(&replica, out),
        SchemaAction::Drift => {
            let drift = replica.schema_state()?.drift;
            show(&drift, None, out)?;
            Ok(code(&drift))
        }
        SchemaAction::Adopt => {
            show(&replica.adopt_schema()?, None, out)?;
            Ok(0)
        }
        SchemaAction::Undo { operation, backups, no_backup } => {
            let backups = (!no_backup).then(|| backups_of(&replica, backups.as_ref())).transpose()?;
            undo(&replica, operation, backups.as_deref(), out)
        }
        SchemaAction::Parked => parked(&replica, out),
        SchemaAction::Forget { operation, yes } => forget(&replica, operation, *yes, out),
        SchemaAction::Conflicts => conflicts(&replica, out),
        SchemaAction::Plan { file } => {
            let plan = replica.plan_schema(read(file)?)?;
            show(&plan, None, out)?;
            Ok(code(&plan))
        }
        SchemaAction::Apply { file, dry_run: true, .. } => {
            let definition = read(file)?;
            let plan = spinner::beside("trying it on the rows", || replica.try_schema(definition))?;
            show(&plan, None, out)?;
            Ok(code(&plan))
        }
        SchemaAction::Apply { file, backups, no_backup, .. } => {
            let definition = read(file)?;
            let backups = backups_of(&replica, backups.as_ref())?;
            let report = spinner::beside("changing the tables", || match no_backup {
                true => replica.apply_schema(definition).map(|plan| SchemaReport { plan, backup: None }),
                false => replica.sync_schema(definition, &backups),
            });
            let SchemaReport { plan, backup } = report?;
            show(&plan, backup.as_deref(), out)?;
            if !out.json && !plan.changes.is_empty() {
                let mark = out.style.green("✓");
                out.note(format!("{mark} done here; other replicas follow when they sync"))?;
            }
            Ok(0)
        }
        SchemaAction::Dump => {
            if out.json {
                out.json(&replica.dump_schema_document()?)?;
            } else {
                out.line(replica.dump_schema()?.trim_end())?;
            }
            Ok(0)
        }
        SchemaAction::History => history(&replica, out),
        SchemaAction::Show => show_schema(&replica, out),
    }
}

fn history(replica: &Replica, out: &mut Out) -> anyhow::Result<u8> {
    let operations = replica.schema_history()?;
    let object = |operation: &SchemaOperation| {
        let parents: Vec<String> = operation.parents.iter().map(ToString::to_string).collect();
        json!({
            "id": operation.id.to_string(), "parents": parents, "steps": operation.steps,
            "version": operation.version, "applied_at": time(operation.applied_at_ms),
        })
    };
    if out.json(&operations.iter().map(object).collect::<Vec<_>>())? {
        return Ok(0);
    }
    for operation in &operations {
        let id = operation.id.to_string();
        let version = operation.version.as_ref().map(|version| format!(" {version}")).unwrap_or_default();
        let (id, at) = (out.style.bold(id.get(..8).unwrap_or(&id)), out.style.dim(time(operation.applied_at_ms)));
        out.line(format!("{id}{version} {at}"))?;
        for step in &operation.steps {
            out.line(format!("  {step}"))?;
        }
    }
    Ok(0)
}

fn show_schema(replica: &Replica, out: &mut Out) -> anyhow::Result<u8> {
    let schema = replica.schema()?;
    if out.json(&schema)? {
        return Ok(0);
    }
    let row = |table: &isle::SchemaTable| {
        let column = |name: &String| match table.kinds.get(name) {
            Some(kind) => format!("{name} ({kind})"),
            None => name.clone(),
        };
        let mut columns = table.columns.iter().map(column).collect::<Vec<_>>().join(", ");
        if !table.hidden.is_empty() {
            columns += &format!(" (hidden: {})", table.hidden.join(", "));
        }
        vec![Cell::text(&table.name), Cell::text(table.key.join(", ")), Cell::text(columns)]
    };
    out.table(&["TABLE", "KEY", "COLUMNS"], schema.tables.iter().map(row).collect())?;
    for object in &schema.objects {
        out.line(format!("{} {}", object.kind, out.style.bold(&object.name)))?;
    }
    for name in &schema.local {
        out.line(format!("local table {}", out.style.bold(name)))?;
    }
    for reason in &schema.left_out {
        let line = out.style.yellow(reason);
        out.line(line)?;
    }
    Ok(0)
}

fn code(plan: &SchemaPlan) -> u8 {
    match (plan.refused.is_empty(), plan.changes.is_empty()) {
        (false, _) => REFUSED,
        (true, false) => CHANGES,
        (true, true) => 0,
    }
}

fn status(replica: &Replica, out: &mut Out) -> anyhow::Result<u8> {
    let mut state = replica.schema_state()?;
    let status = replica.status()?;
    let names = Names::new(&status);
    // Of this device the lines above say how it stands; its last write says less.
    state.behind.retain(|(site, _)| *site != status.site);
    let drift = state.drift.changes.iter().map(|change| format!("{} {}: {}", change.kind, change.table, change.detail));
    let drift: Vec<String> = drift.chain(state.drift.refused.iter().cloned()).collect();
    let settled =
        state.standing_still.is_empty() && state.left_out.is_empty() && drift.is_empty() && state.pending.is_empty();
    let code = if settled { 0 } else { CHANGES };
    let heads: Vec<String> = state.heads.iter().map(ToString::to_string).collect();
    let still = state.standing_still.iter().map(|(table, why)| json!({ "table": table, "reason": why }));
    let devices = state
        .behind
        .iter()
        .map(|(site, behind)| json!({ "site": site.to_string(), "device": names.of(*site), "behind": behind }));
    let object = json!({
        "version": state.version, "heads": heads, "operations": state.operations, "standing_still": still.collect::<Vec<_>>(), "left_out": state.left_out,
        "pending": state.pending.iter().map(pending_json).collect::<Vec<_>>(), "parked": state.parked, "drift": drift, "devices": devices.collect::<Vec<_>>(),
    });
    if out.json(&object)? {
        return Ok(code);
    }
    let heads: Vec<&str> = heads.iter().map(|head| head.get(..8).unwrap_or(head)).collect();
    out.line(format!("version  {}", state.version.as_ref().map_or("none".to_owned(), ToString::to_string)))?;
    out.line(format!("schema   {}, at {}", count(state.operations as u64, "operation"), heads.join(", ")))?;
    for operation in &state.pending {
        let line = out.style.yellow(format!("waits    {}: {}", short(operation.id), operation.hindrance));
        out.line(line)?;
        for step in &operation.steps {
            out.line(format!("  {step}"))?;
        }
    }
    if state.parked > 0 {
        let changes = count(state.parked, "change");
        out.note(format!("{changes} of others need what is not applied here, and are kept: `isle schema parked`"))?;
    }
    for (table, why) in &state.standing_still {
        let line = out.style.yellow(format!("table {table} stands still: {why}"));
        out.line(line)?;
    }
    for line in state.left_out.iter().chain(&drift) {
        let line = out.style.yellow(line);
        out.line(line)?;
    }
    if !drift.is_empty() {
        out.note("`isle schema adopt` makes what was changed here by hand part of the schema")?;
    }
    if !state.behind.is_empty() {
        let row = |(site, behind): &(isle::SiteId, usize)| {
            let what = match behind {
                0 => "has all of it".to_owned(),
                n => format!("wrote its last change before {}", count(*n as u64, "operation")),
            };
            vec![Cell::text(names.of(*site)), Cell::text(what)]
        };
        out.line("")?;
        out.table(&["DEVICE", "SCHEMA"], state.behind.iter().map(row).collect())?;
    }
    Ok(code)
}

fn pending_json(operation: &PendingOperation) -> serde_json::Value {
    json!({
        "id": operation.id.to_string(), "state": operation.hindrance.as_str(), "reason": operation.hindrance.to_string(),
        "steps": operation.steps, "since": time(operation.since_ms),
    })
}

fn forget(replica: &Replica, operation: &str, yes: bool, out: &mut Out) -> anyhow::Result<u8> {
    let pending = replica.schema_state()?.pending;
    let wanted = operation.to_ascii_lowercase();
    let mut ids = pending.iter().map(|waits| waits.id).filter(|id| id.to_string().starts_with(&wanted));
    let (Some(id), None) = (ids.next(), ids.next()) else {
        let failure = Failure::new(Kind::Invalid, format!("{operation:?} names no one operation that waits here"));
        return Err(failure.hint("`isle schema status` lists those that do").into());
    };
    if !yes {
        confirm::ask(format!("operation {} is given up, and what needs it is dropped here for good", short(id)), out)?;
    }
    let given_up = replica.forget_operation(id)?;
    if !out.json(&json!({ "given_up": given_up }))? {
        out.note(format!("{} {} given up", out.style.green("✓"), count(given_up, "operation")))?;
    }
    Ok(0)
}

/// The beginning of an operation's id, by which people name it.
fn short(id: MigrationId) -> String {
    id.to_string().get(..8).unwrap_or_default().to_owned()
}

fn parked(replica: &Replica, out: &mut Out) -> anyhow::Result<u8> {
    let parked = replica.parked()?;
    let object = |parked: &Parked| {
        json!({
            "table": parked.table, "id": parked.id.to_string(), "columns": parked.columns, "changesets": parked.changesets,
            "needs": parked.needs.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
    };
    if out.json(&parked.iter().map(object).collect::<Vec<_>>())? {
        return Ok(0);
    }
    let row = |parked: &Parked| {
        let table = parked.table.clone().unwrap_or_else(|| parked.id.to_string());
        let columns = if parked.columns.is_empty() { "all".to_owned() } else { parked.columns.join(", ") };
        let needs = parked.needs.iter().map(|id| short(*id)).collect::<Vec<_>>().join(", ");
        vec![Cell::text(table), Cell::text(columns), Cell::number(parked.changesets), Cell::text(needs)]
    };
    match parked.is_empty() {
        true => out.note("nothing waits for the schema")?,
        false => out.table(&["TABLE", "COLUMNS", "CHANGES", "NEEDS"], parked.iter().map(row).collect())?,
    }
    Ok(0)
}

/// Where copies of the database go.
fn backups_of(replica: &Replica, named: Option<&PathBuf>) -> anyhow::Result<PathBuf> {
    Ok(named.map_or_else(|| replica.backup_folder(), |named| Ok(named.clone()))?)
}

fn undo(replica: &Replica, operation: &str, backups: Option<&Path>, out: &mut Out) -> anyhow::Result<u8> {
    let wanted = operation.to_ascii_lowercase();
    let history = replica.schema_history()?;
    let mut ids = history.iter().map(|known| known.id).filter(|id| id.to_string().starts_with(&wanted));
    let id = match (ids.next(), ids.next()) {
        (Some(id), None) => id,
        (None, _) => {
            let failure = Failure::new(Kind::Invalid, format!("there is no schema operation {operation:?} here"));
            return Err(failure.hint("`isle schema history` lists them").into());
        }
        (Some(_), Some(_)) => {
            return Err(Failure::new(Kind::Invalid, format!("several operations begin with {operation:?}")).into());
        }
    };
    let (done, backup) = spinner::beside("changing the tables", || replica.undo_schema(id, backups))?;
    if out.json(&json!({ "undone": id.to_string(), "steps": done, "backup": backup }))? {
        return Ok(0);
    }
    if let Some(backup) = backup {
        out.note(format!("the database as it was: {}", backup.display()))?;
    }
    for step in &done {
        out.line(step)?;
    }
    match done.is_empty() {
        true => out.note("others have come over it since: nothing is left to take back")?,
        false => out.note("done here; other replicas follow when they sync")?,
    }
    Ok(0)
}

fn conflicts(replica: &Replica, out: &mut Out) -> anyhow::Result<u8> {
    let conflicts = replica.schema_conflicts()?;
    let object = |(conflict, lost, stands): &(SchemaConflict, String, String)| {
        json!({
            "lost": { "operation": conflict.lost.0.to_string(), "step": lost },
            "stands": { "operation": conflict.stands.0.to_string(), "step": stands },
        })
    };
    if out.json(&conflicts.iter().map(object).collect::<Vec<_>>())? {
        return Ok(0);
    }
    for (conflict, lost, stands) in &conflicts {
        out.line(format!("{} {lost}: does not stand", out.style.bold(short(conflict.lost.0))))?;
        out.line(format!("{} {stands}: stands instead", out.style.bold(short(conflict.stands.0))))?;
    }
    if conflicts.is_empty() {
        out.note("no two devices changed the schema at once and differently")?;
    }
    Ok(0)
}

fn lint(file: &Path, out: &mut Out) -> anyhow::Result<u8> {
    let found = Replica::lint_schema(read(file)?)?;
    let code = if found.is_empty() { 0 } else { CHANGES };
    let object = |lint: &Lint| json!({ "code": lint.code, "subject": lint.subject, "message": lint.message });
    if out.json(&found.iter().map(object).collect::<Vec<_>>())? {
        return Ok(code);
    }
    for lint in &found {
        out.line(format!("{} {}: {}", out.style.bold(&lint.subject), out.style.dim(lint.code), lint.message))?;
    }
    if found.is_empty() {
        out.note("nothing to say")?;
    }
    Ok(code)
}

fn read(file: &Path) -> anyhow::Result<Definition> {
    if file.as_os_str() != "-" {
        return Definition::from_path(file).with_context(|| format!("cannot take the schema from {}", file.display()));
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
    Ok(if text.trim_start().starts_with('{') { Definition::from_json(&text)? } else { Definition::from(text) })
}

fn show(plan: &SchemaPlan, backup: Option<&Path>, out: &mut Out) -> anyhow::Result<()> {
    let changes = plan
        .changes
        .iter()
        .map(|change| json!({ "kind": change.kind, "table": change.table, "detail": change.detail }));
    let class = plan.class().map(Class::as_str);
    if out.json(&json!({
        "changes": changes.collect::<Vec<_>>(), "refused": plan.refused, "backup": backup, "from": plan.versions.0, "to": plan.versions.1,
        "class": class, "copies_rows": plan.rewrites(),
    }))? {
        return Ok(());
    }
    for change in &plan.changes {
        out.line(format!("{:<14} {}: {}", change.kind, out.style.bold(&change.table), change.detail))?;
    }
    if let Some(backup) = backup {
        out.note(format!("the database as it was: {}", backup.display()))?;
    }
    for reason in &plan.refused {
        let line = out.style.yellow(format!("cannot be done: {reason}"));
        out.line(line)?;
    }
    if let (true, (Some(here), Some(wanted))) = (plan.is_older(), &plan.versions) {
        return out.note(format!("the schema is of version {here}, the file of {wanted}: nothing is done"));
    }
    match (plan.changes.len() as u64, plan.refused.is_empty()) {
        (0, true) => out.note("the tables are what the file says")?,
        (changes, true) => {
            let what = match plan.class() {
                Some(Class::Additive) => ", all additive",
                Some(Class::Compatible) => ", no row is touched",
                _ if plan.rewrites() => ", rows are copied: a backup is made first",
                _ => ", rows have to fit",
            };
            let class = class.map(|class| format!(" (class {class}{what})")).unwrap_or_default();
            out.note(format!("{}{class}", count(changes, "change")))?;
        }
        (_, false) => out.note("nothing of it is done as long as a part cannot be")?,
    }
    Ok(())
}
