//! Copies of the database.

use std::path::{Path, PathBuf};

use isle::{BackedUp, Backup, Replica};
use serde_json::json;

use super::remote_backups;
use crate::args::{Args, BackupAction, BackupPlace};
use crate::confirm;
use crate::db;
use crate::failure::Kind;
use crate::output::{Cell, Out, bytes, count, printable, time};
use crate::spinner;

pub(crate) fn run(args: &Args, action: &BackupAction, out: &mut Out) -> anyhow::Result<u8> {
    match action {
        BackupAction::Create { comment, remote, place } => {
            create(args, comment.as_deref(), remote.as_deref(), place, out)
        }
        BackupAction::List { remote: Some(remote), .. } => remote_backups::list(&db::open(args)?, remote, out),
        BackupAction::List { all, place, .. } => list(args, *all, place, out),
        BackupAction::Push { id, remote, place } => {
            let (_, folder) = place_of(args, place)?;
            remote_backups::push(&db::open(args)?, &Backup::find(&folder, id)?, remote, out)
        }
        BackupAction::Fetch { id, remote, place } => {
            let (_, folder) = place_of(args, place)?;
            remote_backups::fetch(&db::open(args)?, remote, id, &folder, out)
        }
        BackupAction::Verify { id, place } => verify(args, id.as_deref(), place, out),
        BackupAction::Restore { id, yes, place } => restore(args, id, *yes, place, out),
        BackupAction::Prune { keep, older_than, dry_run, yes, remote, place } => {
            let (database, folder) = place_of(args, place)?;
            let now = jiff::Timestamp::now().as_millisecond().unsigned_abs();
            let limit = older_than.map(|age| now.saturating_sub(age.as_millis() as u64));
            let (which, how) = ((*keep, limit), (*dry_run, *yes));
            match remote {
                Some(remote) => remote_backups::prune(&db::open(args)?, remote, which, how, out),
                None => prune(&folder, &database, which, how, out),
            }
        }
    }
}

/// The database and the folder of its backups. The database need not be there any more.
fn place_of(args: &Args, place: &BackupPlace) -> anyhow::Result<(PathBuf, PathBuf)> {
    let database = match db::path_of_lost(args) {
        Ok(database) => database,
        // Only the backups know by now which database was here.
        Err(error) => {
            let folder = place.folder.clone().unwrap_or_else(|| PathBuf::from("backups"));
            let newest = Backup::list(&folder, None)?.into_iter().next().ok_or(error)?;
            let name = newest.database.file_name().map_or_else(|| newest.database.clone(), PathBuf::from);
            if newest.database.exists() { newest.database } else { name }
        }
    };
    let folder = match &place.folder {
        Some(folder) => folder.clone(),
        None => isle::backup_folder(&database)?,
    };
    Ok((database, folder))
}

pub(super) fn to_json(backup: &Backup) -> serde_json::Value {
    let mut object = json!(backup);
    if let Some(fields) = object.as_object_mut() {
        fields.insert("created".to_owned(), time(backup.created_ms).into());
    }
    object
}

pub(super) fn short(backup: &Backup) -> &str {
    backup.id.get(..8).unwrap_or(&backup.id)
}

fn create(
    args: &Args,
    comment: Option<&str>,
    remote: Option<&str>,
    place: &BackupPlace,
    out: &mut Out,
) -> anyhow::Result<u8> {
    let (_, folder) = place_of(args, place)?;
    let replica = db::open(args)?;
    if let Some(remote) = remote {
        remote_backups::check(&replica, remote)?;
    }
    match spinner::beside("copying", || replica.back_up(&folder, "manual", comment))? {
        BackedUp::SkippedEmpty => {
            if !out.json(&json!({ "result": "skipped", "why": "empty" }))? {
                out.note("skipped: the database has no tables")?;
            }
        }
        BackedUp::Done(backup) => {
            let sent = remote.map(|remote| remote_backups::put(&replica, &backup, remote));
            if let Some(Err(_)) = &sent {
                // It is there all the same, and can be put later.
                out.note(format!("backup {} is {}", short(&backup), backup.path.display()))?;
            }
            let sent = sent.transpose()?;
            let there = json!({ "result": "done", "backup": to_json(&backup), "remote": remote, "stored_bytes": sent });
            if !out.json(&there)? {
                let (mark, id) = (out.style.green("✓"), out.style.bold(short(&backup)));
                out.note(format!("{mark} backup {id} is {} ({})", backup.path.display(), bytes(backup.bytes)))?;
                if let (Some(remote), Some(sent)) = (remote, sent) {
                    out.note(format!("  and stands in {remote} ({})", bytes(sent)))?;
                }
            }
        }
    }
    Ok(0)
}

fn list(args: &Args, all: bool, place: &BackupPlace, out: &mut Out) -> anyhow::Result<u8> {
    let (database, folder) = place_of(args, place)?;
    let backups = Backup::list(&folder, (!all).then_some(database.as_path()))?;
    if out.json(&backups.iter().map(to_json).collect::<Vec<_>>())? {
        return Ok(0);
    }
    if backups.is_empty() {
        out.note(format!("no backup in {}: `isle backup create` makes one", folder.display()))?;
        return Ok(0);
    }
    let row = |backup: &Backup| {
        let why = match backup.reason.as_str() {
            _ if !backup.is_there() => out.style.yellow("damaged or gone"),
            "manual" => backup.comment.clone().unwrap_or_default(),
            before => format!("before: {before}"),
        };
        let of = if all { backup.database.display().to_string() } else { String::new() };
        vec![
            Cell::text(short(backup)),
            Cell::text(time(backup.created_ms)),
            Cell::text(bytes(backup.bytes)),
            Cell::text(backup.schema_version.clone().unwrap_or_default()),
            Cell::text(why),
            Cell::dim(of),
        ]
    };
    out.table(&["ID", "MADE", "SIZE", "SCHEMA", "", ""], backups.iter().map(row).collect())?;
    Ok(0)
}

fn verify(args: &Args, id: Option<&str>, place: &BackupPlace, out: &mut Out) -> anyhow::Result<u8> {
    let (database, folder) = place_of(args, place)?;
    let backups = match id {
        Some(id) => vec![Backup::find(&folder, id)?],
        None => Backup::list(&folder, Some(&database))?,
    };
    let check = |backup: &Backup| spinner::beside("reading", || backup.verify()).err().map(|error| error.to_string());
    let checked: Vec<(&Backup, Option<String>)> = backups.iter().map(|backup| (backup, check(backup))).collect();
    let damaged = checked.iter().filter(|(_, error)| error.is_some()).count();
    let object = |(backup, error): &(&Backup, Option<String>)| json!({ "id": backup.id, "sound": error.is_none(), "error": error });
    if !out.json(&checked.iter().map(object).collect::<Vec<_>>())? {
        for (backup, error) in &checked {
            let line = match error {
                None => format!("{} {}", out.style.green("✓"), short(backup)),
                Some(error) => out.style.yellow(format!("! {}: {error}", short(backup))),
            };
            out.line(line)?;
        }
        out.note(format!("{}, {damaged} damaged", count(checked.len() as u64, "backup")))?;
    }
    Ok(if damaged > 0 { Kind::Failed.code() } else { 0 })
}

fn restore(args: &Args, id: &str, yes: bool, place: &BackupPlace, out: &mut Out) -> anyhow::Result<u8> {
    let (database, folder) = place_of(args, place)?;
    let backup = Backup::find(&folder, id)?;
    if !yes {
        let made = time(backup.created_ms);
        let unsent = Replica::open(&database).and_then(|replica| replica.status());
        let unsent = unsent.map_or(0, |status| status.version.saturating_sub(status.published) + status.queued);
        let lost = match unsent {
            0 => String::new(),
            n => format!(", without {} that nobody else has", count(n, "change")),
        };
        confirm::ask(format!("{} becomes what it was at {made}{lost}", database.display()), out)?;
    }
    let restored = spinner::beside("restoring", || Replica::builder(&database).restore(&backup, &folder))?;
    if out.json(&restored)? {
        return Ok(0);
    }
    let mark = out.style.green("✓");
    out.note(format!("{mark} {} has what it had at {}", database.display(), time(backup.created_ms)))?;
    if let Some(kept) = &restored.kept {
        out.note(format!("as it was before, it is backup {}", short(kept)))?;
    }
    if let Some(aside) = &restored.aside {
        out.note(format!("what stood there is {} now", aside.display()))?;
    }
    out.note("`isle sync` brings what the group has written since")?;
    Ok(0)
}

fn prune(
    folder: &Path,
    database: &Path,
    (keep, older_than_ms): (usize, Option<u64>),
    (dry_run, yes): (bool, bool),
    out: &mut Out,
) -> anyhow::Result<u8> {
    // Those of this very database: others may have its name.
    let group = Replica::open(database)?.status()?.group.to_string();
    let here = database.canonicalize().unwrap_or_else(|_| database.to_owned());
    let mut all = Backup::list(folder, Some(database))?;
    all.retain(|backup| backup.group == group && backup.database == here);
    let count_before = all.len();
    let expired = spinner::beside("reading", || Backup::expired(all, keep, older_than_ms));
    if !dry_run && !yes && !expired.is_empty() && expired.len() == count_before {
        confirm::ask(
            format!("{} would be removed, and none would be left", count(count_before as u64, "backup")),
            out,
        )?;
    }
    if !dry_run {
        expired.iter().try_for_each(Backup::remove)?;
    }
    if out.json(&json!({ "removed": !dry_run, "backups": expired.iter().map(to_json).collect::<Vec<_>>() }))? {
        return Ok(0);
    }
    for backup in &expired {
        out.line(format!("{} {} {}", printable(short(backup)), time(backup.created_ms), bytes(backup.bytes)))?;
    }
    let what = if dry_run { "would go" } else { "removed" };
    out.note(format!("{} {what}", count(expired.len() as u64, "backup")))?;
    Ok(0)
}
