//! Who changed what, and taking it back.

use isle::{HistoryCell, HistoryEntry, SiteId, Value};
use serde_json::json;

use super::Names;
use crate::args::Args;
use crate::db;
use crate::failure::{Failure, Kind};
use crate::output::{Cell, Out, count, write_time};
use crate::{spinner, values};

/// `isle history TABLE [KEY…]`.
pub(crate) fn run(args: &Args, table: &str, key: &[String], limit: usize, out: &mut Out) -> anyhow::Result<u8> {
    let replica = db::open(args)?;
    let names = Names::new(&replica.status()?);
    let key: Vec<Value> = key.iter().map(|value| values::parse(value)).collect();
    let entries = spinner::beside("reading the log", || match key.is_empty() {
        true => replica.table_history(table, limit),
        false => replica.row_history(table, &key).map(|mut entries| {
            entries.reverse();
            entries.truncate(limit);
            entries
        }),
    })?;
    if out.json(&entries.iter().map(|entry| to_json(entry, &names)).collect::<Vec<_>>())? {
        return Ok(0);
    }
    if entries.is_empty() {
        out.note("the log has no change of it: nothing was written, or `isle compact` dropped it")?;
        return Ok(0);
    }
    let row = |entry: &HistoryEntry| {
        let shown: Vec<String> = entry.key.iter().map(values::quote).collect();
        let what = match entry.kind {
            isle::RowChangeKind::Deleted => "deleted".to_owned(),
            kind => {
                let cells = entry.cells.iter().filter(|cell| cell.column.is_some()).map(told);
                let cells: Vec<String> = cells.collect();
                format!("{}: {}", kind.as_str(), cells.join(", "))
            }
        };
        let when = match entry.baseline {
            true => Cell::dim("was there"),
            false => write_time(entry.hlc).map_or_else(|| Cell::dim("-"), Cell::text),
        };
        vec![
            when,
            Cell::text(format!("{}:{}", names.of(entry.site), entry.version)),
            Cell::text(shown.join(", ")),
            Cell::text(what),
        ]
    };
    out.table(&["TIME", "CHANGE", "ROW", ""], entries.iter().map(row).collect())?;
    out.note("`isle undo CHANGE` takes one back")?;
    Ok(0)
}

/// `title 'a' → 'b'`, or what was added.
fn told(cell: &HistoryCell) -> String {
    let column = cell.column.as_deref().unwrap_or("key");
    let after = values::quote(&cell.after);
    match (&cell.kind, &cell.before) {
        (Some(isle::Kind::Counter), _) if !after.starts_with('-') => format!("{column} +{after}"),
        (Some(kind), _) => format!("{column} {after} ({kind})"),
        (None, Some(before)) => format!("{column} {} → {after}", values::quote(before)),
        (None, None) => format!("{column} {after}"),
    }
}

fn to_json(entry: &HistoryEntry, names: &Names) -> serde_json::Value {
    let cell = |cell: &HistoryCell| {
        json!({
            "column": cell.column, "before": cell.before.as_ref().map(values::to_json), "after": values::to_json(&cell.after),
            "kind": cell.kind.map(|kind| kind.to_string()),
        })
    };
    json!({
        "site": entry.site.to_string(), "device": names.of(entry.site), "version": entry.version, "time": write_time(entry.hlc),
        "baseline": entry.baseline, "what": entry.kind.as_str(), "key": entry.key.iter().map(values::to_json).collect::<Vec<_>>(),
        "cells": entry.cells.iter().map(cell).collect::<Vec<_>>(),
    })
}

/// `isle undo [DEVICE:]VERSION`.
pub(crate) fn undo(args: &Args, change: &str, out: &mut Out) -> anyhow::Result<u8> {
    let replica = db::open(args)?;
    let status = replica.status()?;
    let names = Names::new(&status);
    let (device, version) = change.rsplit_once(':').map_or((None, change), |(device, version)| (Some(device), version));
    let version: u64 = version.parse().map_err(|_| {
        Failure::new(Kind::Invalid, format!("{change:?} is no change: write a version, or DEVICE:VERSION"))
            .hint("`isle log` and `isle history TABLE` show them")
    })?;
    let site = match device {
        None => status.site,
        Some(device) => site_of(device, &status, &names)?,
    };
    let undone = spinner::beside("reading the log", || replica.undo(site, version))?;
    if out.json(
        &json!({ "site": site.to_string(), "version": version, "written": undone.written, "skipped": undone.skipped }),
    )? {
        return Ok(0);
    }
    for skipped in &undone.skipped {
        let line = out.style.yellow(format!("left as it is: {skipped}"));
        out.line(line)?;
    }
    let rows = count(undone.written, "row");
    match undone.written {
        0 => out.note("nothing of it is left to take back")?,
        _ => out.note(format!("{} {rows} written; it travels with the next sync", out.style.green("✓")))?,
    }
    Ok(0)
}

fn site_of(device: &str, status: &isle::Status, names: &Names) -> anyhow::Result<SiteId> {
    let is = |id: &SiteId| {
        let id_text = id.to_string();
        names.of(*id) == device || (device.len() >= 4 && id_text.starts_with(device))
    };
    let mut all: Vec<SiteId> = status.sites.iter().map(|site| site.id).collect();
    if !all.contains(&status.site) {
        all.push(status.site);
    }
    all.retain(is);
    match all[..] {
        [site] => Ok(site),
        _ => Err(isle::Error::NoSuchSite { site: device.to_owned(), found: all.len() }.into()),
    }
}
