//! What the tables should be.

use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;
use isle::SchemaPlan;
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
            let plan = replica.plan_schema(&read(file)?)?;
            show(&plan, out)?;
            Ok(match (plan.refused.is_empty(), plan.changes.is_empty()) {
                (false, _) => REFUSED,
                (true, false) => CHANGES,
                (true, true) => 0,
            })
        }
        SchemaAction::Apply { file } => {
            let plan = replica.apply_schema(&read(file)?)?;
            show(&plan, out)?;
            if !out.json && !plan.changes.is_empty() {
                let mark = out.style.green("✓");
                out.note(format!("{mark} done here; other replicas follow when they sync"))?;
            }
            Ok(0)
        }
        SchemaAction::Show => {
            let schema = replica.schema()?;
            if out.json(&schema)? {
                return Ok(0);
            }
            let row = |table: &isle::SchemaTable| {
                let columns = table.columns.join(", ");
                vec![Cell::text(&table.name), Cell::text(table.key.join(", ")), Cell::text(columns)]
            };
            out.table(&["TABLE", "KEY", "COLUMNS"], schema.tables.iter().map(row).collect())?;
            for object in &schema.objects {
                out.line(format!("{} {}", object.kind, out.style.bold(&object.name)))?;
            }
            Ok(0)
        }
    }
}

fn read(file: &Path) -> anyhow::Result<String> {
    if file.as_os_str() == "-" {
        let mut sql = String::new();
        std::io::stdin().read_to_string(&mut sql).context("cannot read standard input")?;
        return Ok(sql);
    }
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

fn show(plan: &SchemaPlan, out: &mut Out) -> anyhow::Result<()> {
    let changes = plan
        .changes
        .iter()
        .map(|change| json!({ "kind": change.kind, "table": change.table, "detail": change.detail }));
    if out.json(&json!({ "changes": changes.collect::<Vec<_>>(), "refused": plan.refused }))? {
        return Ok(());
    }
    for change in &plan.changes {
        out.line(format!("{:<14} {}: {}", change.kind, out.style.bold(&change.table), change.detail))?;
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
