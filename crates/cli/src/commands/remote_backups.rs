//! Backups in remotes.

use std::path::Path;
use std::sync::Arc;

use isle::{Backup, RemoteBackup, RemoteBackups, Replica};
use serde_json::json;

use super::backups::{short, to_json};
use crate::bar::Bar;
use crate::commands::sync;
use crate::confirm;
use crate::output::{Cell, Out, bytes, count, printable, time};

/// Puts a backup into a remote; gives how much it takes there.
pub(super) fn put(replica: &Replica, backup: &Backup, remote: &str) -> anyhow::Result<u64> {
    let bar = Arc::new(Bar::new());
    let told = Arc::clone(&bar);
    let progress: isle::BackupProgress = Arc::new(move |done, total| told.set("sending", done, total));
    Ok(sync::runtime()?.block_on(bar.beside(replica.push_backup(backup, remote, Some(progress))))?)
}

/// Whether backups can be put into a remote: before one is made for it.
pub(super) fn check(replica: &Replica, remote: &str) -> anyhow::Result<()> {
    Ok(sync::runtime()?.block_on(replica.can_push_backups(remote))?)
}

/// Puts one that is in the folder already.
pub(super) fn push(replica: &Replica, backup: &Backup, remote: &str, out: &mut Out) -> anyhow::Result<u8> {
    let sent = put(replica, backup, remote)?;
    if !out.json(&json!({ "backup": to_json(backup), "remote": remote, "stored_bytes": sent }))? {
        let mark = out.style.green("✓");
        out.note(format!("{mark} backup {} stands in {remote} ({})", short(backup), bytes(sent)))?;
    }
    Ok(0)
}

fn listed(replica: &Replica, remote: &str) -> anyhow::Result<RemoteBackups> {
    Ok(sync::runtime()?.block_on(replica.remote_backups(remote))?)
}

fn object(found: &RemoteBackup) -> serde_json::Value {
    let mut object = json!(found);
    if let Some(fields) = object.as_object_mut() {
        fields.insert("created".to_owned(), time(found.backup.created_ms).into());
    }
    object
}

pub(super) fn list(replica: &Replica, remote: &str, out: &mut Out) -> anyhow::Result<u8> {
    let found = listed(replica, remote)?;
    let refused: Vec<_> = found.refused.iter().map(|(name, why)| json!({ "name": name, "why": why })).collect();
    let backups: Vec<_> = found.backups.iter().map(object).collect();
    if out.json(&json!({ "backups": backups, "refused": refused }))? {
        return Ok(0);
    }
    for (name, why) in &found.refused {
        out.line(out.style.yellow(format!("! {}: {why}", printable(name))))?;
    }
    if found.backups.is_empty() && found.refused.is_empty() {
        out.note(format!("no backup in {remote}: `isle backup create --remote {remote}` puts one there"))?;
        return Ok(0);
    }
    let row = |found: &RemoteBackup| {
        let backup = &found.backup;
        let why = match backup.reason.as_str() {
            _ if !found.whole => format!("incomplete: `isle backup push {}` there", short(backup)),
            "manual" => backup.comment.clone().unwrap_or_default(),
            before => format!("before: {before}"),
        };
        let of = if found.own { "this device".to_owned() } else { format!("{} ({})", found.device, found.key) };
        vec![
            Cell::text(short(backup)),
            Cell::text(time(backup.created_ms)),
            Cell::text(bytes(backup.bytes)),
            Cell::text(bytes(found.stored_bytes)),
            Cell::text(backup.schema_version.as_deref().map(printable).unwrap_or_default()),
            Cell::text(printable(&of)),
            Cell::text(printable(&why)),
        ]
    };
    out.table(&["ID", "MADE", "SIZE", "THERE", "SCHEMA", "BY", ""], found.backups.iter().map(row).collect())?;
    Ok(0)
}

/// Brings one into the folder.
pub(super) fn fetch(replica: &Replica, remote: &str, id: &str, folder: &Path, out: &mut Out) -> anyhow::Result<u8> {
    let wanted = sync::runtime()?.block_on(replica.remote_backup(remote, id))?;
    let bar = Arc::new(Bar::new());
    let told = Arc::clone(&bar);
    let progress: isle::BackupProgress = Arc::new(move |done, total| told.set("fetching", done, total));
    let fetching = replica.fetch_backup(&wanted, folder, Some(progress));
    let backup = sync::runtime()?.block_on(bar.beside(fetching))?;
    if !out.json(&json!({ "backup": to_json(&backup), "remote": remote }))? {
        let (mark, id) = (out.style.green("✓"), out.style.bold(short(&backup)));
        out.note(format!("{mark} backup {id} is {} ({})", backup.path.display(), bytes(backup.bytes)))?;
    }
    Ok(0)
}

/// Removes old ones of this device and this database; what others have put there stays.
pub(super) fn prune(
    replica: &Replica,
    remote: &str,
    (keep, older_than_ms): (usize, Option<u64>),
    (dry_run, yes): (bool, bool),
    out: &mut Out,
) -> anyhow::Result<u8> {
    let here = replica.path().to_owned();
    let mut own = listed(replica, remote)?.backups;
    own.retain(|found| found.own && found.backup.database == here);
    let all = own.len();
    let old = |found: &RemoteBackup| older_than_ms.is_none_or(|limit| found.backup.created_ms < limit);
    // One of which parts are missing does not count as kept.
    let mut kept = 0;
    let mut goes = |found: &RemoteBackup| {
        if kept < keep {
            kept += usize::from(found.whole);
            return false;
        }
        old(found)
    };
    let expired: Vec<RemoteBackup> = own.into_iter().filter(|found| goes(found)).collect();
    if !dry_run && !yes && !expired.is_empty() && expired.len() == all {
        confirm::ask(format!("{} would be removed, and none would be left", count(all as u64, "backup")), out)?;
    }
    let mut swept = 0;
    if !dry_run {
        let runtime = sync::runtime()?;
        for found in &expired {
            runtime.block_on(replica.remove_remote_backup(found))?;
        }
        swept = runtime.block_on(replica.sweep_remote_backups(remote))?;
    }
    let backups: Vec<_> = expired.iter().map(object).collect();
    if out.json(&json!({ "remote": remote, "removed": !dry_run, "backups": backups, "swept_objects": swept }))? {
        return Ok(0);
    }
    for found in &expired {
        let backup = &found.backup;
        out.line(format!("{} {} {}", printable(short(backup)), time(backup.created_ms), bytes(found.stored_bytes)))?;
    }
    let what = if dry_run { "would go" } else { "removed" };
    out.note(format!("{} {what}", count(expired.len() as u64, "backup")))?;
    Ok(0)
}
