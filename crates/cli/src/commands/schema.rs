//! What the tables should be.

use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;
use isle::{Definition, SchemaOperation, SchemaPlan, SchemaReport};
use serde_json::json;

use crate::args::{Args, SchemaAction};
use crate::db;
use crate::output::{Cell, Out, count};

/// There is something to do.
const CHANGES: u8 = 3;
/// Something cannot be done.
const REFUSED: u8 = 4;

pub(crate) fn run(args: &Args, action: &SchemaAction, out: &mut Out) -> anyhow::Result<u8> {
    let replica = db::open(args)?;
    match action {
        SchemaAction::Plan { file } => {
            let plan = replica.plan_schema(read(file)?)?;
            show(&plan, None, out)?;
            Ok(match (plan.refused.is_empty(), plan.changes.is_empty()) {
                (false, _) => REFUSED,
                (true, false) => CHANGES,
                (true, true) => 0,
            })
        }
        SchemaAction::Apply { file, backups, no_backup } => {
            let definition = read(file)?;
            let report = match no_backup {
                true => SchemaReport { plan: replica.apply_schema(definition)?, backup: None },
                false => {
                    let beside = || replica.path().with_extension("backups");
                    replica.sync_schema(definition, &backups.clone().unwrap_or_else(beside))?
                }
            };
            let SchemaReport { plan, backup } = report;
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
        SchemaAction::History => {
            let operations = replica.schema_history()?;
            let object = |operation: &SchemaOperation| {
                let parents: Vec<String> = operation.parents.iter().map(ToString::to_string).collect();
                json!({ "id": operation.id.to_string(), "parents": parents, "steps": operation.steps })
            };
            if out.json(&operations.iter().map(object).collect::<Vec<_>>())? {
                return Ok(0);
            }
            for operation in &operations {
                let id = operation.id.to_string();
                out.line(out.style.bold(id.get(..8).unwrap_or(&id)))?;
                for step in &operation.steps {
                    out.line(format!("  {step}"))?;
                }
            }
            Ok(0)
        }
        SchemaAction::Show => {
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
    }
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
    if out.json(&json!({ "changes": changes.collect::<Vec<_>>(), "refused": plan.refused, "backup": backup }))? {
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
    match (plan.changes.len() as u64, plan.refused.is_empty()) {
        (0, true) => out.note("the tables are what the file says")?,
        (changes, true) => out.note(count(changes, "change"))?,
        (_, false) => out.note("nothing of it is done as long as a part cannot be")?,
    }
    Ok(())
}
