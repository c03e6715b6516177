//! How two files, or a file and a remote, differ.

use std::path::{Path, PathBuf};

use isle::{Diff, Direction, Replica, RowDiff, SyncOptions};

use super::{remotes, sync};
use crate::args::{Args, DiffArgs};
use crate::db;
use crate::failure::{Failure, Kind};
use crate::output::{Out, count};
use crate::{spinner, values};

/// They differ.
const DIFFERS: u8 = 3;

pub(crate) fn run(args: &Args, wanted: &DiffArgs, out: &mut Out) -> anyhow::Result<u8> {
    let (first, second, _folder) = match (&wanted.files[..], &wanted.remote) {
        ([first, second], None) => (first.clone(), second.clone(), None),
        ([], None) => {
            let failure = Failure::new(Kind::Invalid, "nothing to compare with");
            return Err(failure.hint("name another file, two files, or --remote NAME").into());
        }
        ([second], None) => (db::path(args)?, second.clone(), None),
        ([], Some(remote)) => {
            let (copy, folder) = fetch(args, remote)?;
            (db::path(args)?, copy, Some(folder))
        }
        _ => {
            let failure = Failure::new(Kind::Invalid, "too much to compare");
            return Err(failure.hint("name one file, two files, or --remote NAME").into());
        }
    };
    let mut found = spinner::beside("comparing", || isle::diff(&first, &second, wanted.limit as u64))?;
    if wanted.remote.is_some() {
        // Rows of local tables are this device's alone: no remote has any.
        let local = db::open(args)?.schema()?.local;
        found.tables.retain(|table| !local.contains(&table.table));
    }
    let code = if found.is_empty() { 0 } else { DIFFERS };
    if !out.json(&found)? {
        show(&found, &first, &second, out)?;
    }
    Ok(code)
}

/// What a remote holds, as a file of its own: a new replica that takes everything in and says nothing.
fn fetch(args: &Args, name: &str) -> anyhow::Result<(PathBuf, tempfile::TempDir)> {
    let replica = db::open(args)?;
    let remote = replica.remotes()?.into_iter().find(|remote| remote.name == name);
    let remote = remote.ok_or_else(|| isle::Error::NoSuchRemote { name: name.to_owned() })?;
    let folder = tempfile::tempdir()?;
    let (home, path) = (folder.path().join("home"), folder.path().join("remote.db"));
    if remote.encrypted {
        isle::import_keys(Some(home.clone()), &replica.export_keys()?)?;
    }
    let app = replica.status()?.app;
    let mut options = isle::RemoteOptions::default();
    options.insecure_http = remotes::allows_http(&remote.url);
    let copy = Replica::builder(&path).home(&home).app(app).remote_options(options).init()?;
    match remote.encrypted {
        true => copy.add_remote(name, &remote.url)?,
        false => copy.add_plain_remote(name, &remote.url)?,
    };
    let bar = std::sync::Arc::new(crate::bar::Bar::new());
    let progress = Some(sync::callback(&bar));
    let options =
        SyncOptions { remote: Some(name.to_owned()), direction: Direction::Pull, progress, ..SyncOptions::default() };
    let runtime = sync::runtime()?;
    runtime.block_on(bar.beside(copy.sync_with(&options)))?;
    copy.close()?;
    Ok((path, folder))
}

fn show(found: &Diff, first: &Path, second: &Path, out: &mut Out) -> anyhow::Result<()> {
    if found.is_empty() {
        return out.note("no difference: the same tables with the same rows");
    }
    for (names, file) in [(&found.only_in_first, first), (&found.only_in_second, second)] {
        for name in names {
            out.line(format!("table {} is in {} alone", out.style.bold(name), file.display()))?;
        }
    }
    for table in &found.tables {
        let (added, modified, deleted) = (table.added, table.modified, table.deleted);
        out.line(format!("{}  +{added} ~{modified} -{deleted}", out.style.bold(&table.table)))?;
        if !table.other_columns.is_empty() {
            out.line(format!("  only one has {}", table.other_columns.join(", ")))?;
        }
        for row in &table.rows {
            let line = line_of(row);
            let line = match row.what {
                "added" => out.style.green(line),
                "deleted" => out.style.dim(line),
                _ => out.style.yellow(line),
            };
            out.line(line)?;
        }
        let left = added + modified + deleted - table.rows.len() as u64;
        if left > 0 {
            out.note(format!("  and {} more: `-n N` shows them", count(left, "row")))?;
        }
    }
    Ok(())
}

/// `~ 7  title 'a' → 'b'`.
fn line_of(row: &RowDiff) -> String {
    let key: Vec<String> = row.key.iter().map(|(_, value)| values::quote(value)).collect();
    let cell = |cell: &isle::CellDiff| match (&cell.old, &cell.new) {
        (Some(old), Some(new)) => format!("{} {} → {}", cell.column, values::quote(old), values::quote(new)),
        (Some(value), None) | (None, Some(value)) => format!("{} {}", cell.column, values::quote(value)),
        (None, None) => String::new(),
    };
    let cells: Vec<String> = row.cells.iter().map(cell).collect();
    let mark = match row.what {
        "added" => '+',
        "deleted" => '-',
        _ => '~',
    };
    format!("  {mark} {}  {}", key.join(", "), cells.join(", "))
}
