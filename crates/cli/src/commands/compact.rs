//! Throwing away what no replica needs.

use std::sync::Arc;
use std::time::Duration;

use isle::{CompactOptions, SyncOptions};
use serde_json::json;

use super::{Names, remotes, sync};
use crate::args::{Args, Compact};
use crate::bar::Bar;
use crate::db;
use crate::output::{Out, bytes, count};

pub(crate) fn run(args: &Args, compact: &Compact, out: &mut Out) -> anyhow::Result<u8> {
    let insecure = db::open(args)?.remotes()?.iter().any(|remote| remotes::allows_http(&remote.url));
    let replica = remotes::open(args, insecure, &compact.patience)?;
    let bar = Arc::new(Bar::new());
    let options = CompactOptions {
        keep: compact.keep,
        grace: compact.grace,
        vacuum: compact.vacuum,
        sync: SyncOptions { progress: Some(sync::callback(&bar)), ..SyncOptions::default() },
    };
    let runtime = sync::runtime()?;
    let report = runtime.block_on(bar.beside(replica.compact(&options)));
    runtime.shutdown_timeout(Duration::from_secs(2));
    let report = report?;
    if out.json(&json!(report))? {
        return Ok(0);
    }
    let names = Names::new(&replica.status()?);
    for report in &report.remotes {
        for line in sync::details(report, &names) {
            let line = out.style.yellow(line);
            out.note(format!("  {line}"))?;
        }
    }
    out.note(format!(
        "dropped {} ({}) and {} · the file has {}, had {}",
        count(report.versions, "change"),
        bytes(report.bytes),
        count(report.tombstones, "tombstone"),
        bytes(report.file_bytes_after),
        bytes(report.file_bytes_before)
    ))?;
    if report.waiting {
        let line = out
            .style
            .dim("  tombstones stay until every replica has synced since the delete, and a while longer (--grace)");
        out.note(line)?;
        if !report.waiting_for.is_empty() {
            let names: Vec<String> = report.waiting_for.iter().map(|site| names.of_text(site)).collect();
            out.note(out.style.dim(format!("  not there yet: {}", names.join(", "))).to_string())?;
        }
    }
    if report.versions > 0 && !compact.vacuum {
        out.note(out.style.dim("  free room in the file is used again; --vacuum gives it back").to_string())?;
    }
    Ok(0)
}
