//! Looking at a replica: status, log, hash and doctor.

use isle::{Finding, LogEntry, Status};
use serde_json::json;

use super::{Names, devices, engines, files, remotes};
use crate::args::Args;
use crate::db;
use crate::output::{Cell, Out, bytes, count, printable, span, thousands, time, write_time};
use crate::spinner;
use crate::values::hex;

pub(crate) fn status(args: &Args, out: &mut Out) -> anyhow::Result<u8> {
    let replica = db::open(args)?;
    let status = replica.status()?;
    let done = out.json(&json!({
        "file": status.path.to_string_lossy(),
        "app": status.app,
        "group": status.group.to_string(),
        "site": status.site.to_string(),
        "device": { "id": status.device.id.to_string(), "name": status.device.name, "created": (status.device.created_ms > 0).then(|| time(status.device.created_ms)) },
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
        "state": state(&replica, &status)?,
        "forks": status.forks.iter().map(|fork| json!({ "site": fork.site.to_string(), "version": fork.version, "told_by": fork.told_by, "seen": time(fork.seen_ms) })).collect::<Vec<_>>(),
        "remotes": status.remotes.iter().map(remotes::to_json).collect::<Vec<_>>(),
        "peers": replica.peers()?,
        "devices": devices::to_json(&status),
    }))?;
    if done {
        return Ok(0);
    }
    show_facts(&replica, &status, out)?;
    if !status.tables.is_empty() {
        out.line("")?;
        let mut rows = files::table_cells(&replica, &status.tables)?;
        for (row, table) in rows.iter_mut().zip(&status.tables) {
            row.push(match status.standing_still.contains(table) {
                true => Cell::text(out.style.yellow("stands still: `isle schema status` says why")),
                false => Cell::text("travels"),
            });
        }
        let mut local = files::table_cells(&replica, &status.untracked)?;
        local.iter_mut().for_each(|row| row.push(Cell::dim("stays here")));
        rows.extend(local);
        out.table(&["TABLE", "ROWS", ""], rows)?;
    }
    out.line("")?;
    devices::list(&status, out)?;
    Ok(0)
}

/// In a few words: what a user wants to know first.
fn state(replica: &isle::Replica, status: &Status) -> anyhow::Result<String> {
    let peers = replica.peers()?;
    if peers.iter().any(|peer| peer.own && peer.revoked) {
        return Ok("put out of the group".to_owned());
    }
    let alone = status.remotes.is_empty() && peers.iter().all(|peer| peer.own || peer.revoked);
    let mut words = Vec::new();
    if alone {
        words.push("on its own: nothing to sync with".to_owned());
    }
    for remote in status.remotes.iter().filter(|remote| remote.last_sync_ms.is_none() && remote.last_error.is_none()) {
        words.push(format!("never synced with {}", printable(&remote.name)));
    }
    if status.remotes.iter().any(|remote| remote.last_error.is_some()) {
        words.push("the last sync failed".to_owned());
    }
    let unsent = status.version.saturating_sub(status.published);
    if unsent + status.queued > 0 && !alone {
        words.push(format!("{} to send", count(unsent + u64::from(status.queued > 0), "change")));
    }
    if status.waiting > 0 {
        words.push(format!("{} held", count(status.waiting, "change")));
    }
    if status.pending_operations > 0 {
        words.push(format!("{} not applied", count(status.pending_operations, "schema operation")));
    }
    if status.conflicts > 0 {
        words.push(count(status.conflicts, "conflict"));
    }
    if words.is_empty() {
        let last = status.remotes.iter().filter_map(|remote| remote.last_sync_ms).max();
        words.push(last.map_or_else(|| "up to date".to_owned(), |ms| format!("up to date as of {}", time(ms))));
    }
    Ok(words.join(", "))
}

fn show_facts(replica: &isle::Replica, status: &Status, out: &mut Out) -> anyhow::Result<()> {
    let style = out.style;
    let size = std::fs::metadata(&status.path).map(|file| format!(" ({})", bytes(file.len()))).unwrap_or_default();
    out.line(format!("file       {}{}", style.bold(status.path.display()), style.dim(size)))?;
    out.line(format!("state      {}", style.bold(state(replica, status)?)))?;
    out.line(format!("app        {}, group {}", status.app, status.group.short()))?;
    out.line(format!("device     {}, site {}", style.bold(&status.device.name), status.site.short()))?;
    let unsent = status.version.saturating_sub(status.published);
    let sent = if unsent == 0 { String::new() } else { format!(", {} not synced yet", count(unsent, "change")) };
    out.line(format!("version    {}{sent}", status.version))?;
    if status.tables.is_empty() {
        out.line("tables     none tracked: `isle track TABLE…`, or sync to get some")?;
    }
    if status.waiting > 0 {
        let waiting = count(status.waiting, "change");
        out.line(format!("held       {waiting} of others cannot be merged yet: `isle sync` says why"))?;
    }
    if status.pending_operations > 0 {
        let operations = count(status.pending_operations, "operation");
        let line = format!("{operations} cannot be applied here yet: `isle schema status`");
        out.line(format!("schema     {}", style.yellow(line)))?;
    }
    if status.queued > 0 {
        out.line(format!("waiting    {} of other programs, recorded by the next sync", count(status.queued, "row")))?;
    }
    match status.conflicts {
        0 => out.line("conflicts  none")?,
        n => {
            out.line(format!("conflicts  {}", style.yellow(format!("{}: `isle conflicts`", count(n, "open value")))))?
        }
    }
    if status.repaired > 0 {
        let rows = format!("{} not shown as merged: `isle conflicts hidden`", count(status.repaired, "row"));
        out.line(format!("repaired   {}", style.yellow(rows)))?;
    }
    if let Some(warning) = clock_warning(status) {
        out.line(format!("clock      {}", style.yellow(warning)))?;
    }
    for fork in &status.forks {
        let words = format!(
            "site {} has two histories, here and at {}: `isle doctor`",
            fork.site.short(),
            printable(&fork.told_by)
        );
        out.line(format!("forked     {}", style.yellow(words)))?;
    }
    show_peers(replica, out)?;
    if status.remotes.is_empty() {
        return out.line("remotes    none: `isle remote add NAME URL`");
    }
    for (n, remote) in status.remotes.iter().enumerate() {
        let label = if n == 0 { "remotes" } else { "" };
        let last = remote.last_sync_ms.map_or_else(|| "never synced".to_owned(), |ms| format!("synced {}", time(ms)));
        let (name, url) = (&remote.name, &remote.url);
        let open = if remote.encrypted { "" } else { " not encrypted" };
        out.line(format!("{label:<10} {name} {url}{} {}", style.yellow(open), style.dim(last)))?;
        if let Some((reason, ms)) = &remote.last_error {
            out.line(format!("{:<10} {}", "", style.yellow(format!("failed {}: {}", time(*ms), printable(reason)))))?;
        }
    }
    Ok(())
}

/// The devices that this one syncs with directly, in a line.
fn show_peers(replica: &isle::Replica, out: &mut Out) -> anyhow::Result<()> {
    let peers = replica.peers()?;
    let Some(own) = peers.iter().find(|peer| peer.own) else { return Ok(()) };
    if own.revoked {
        let words = "this device was put out of the group: a member has to invite it again";
        return out.line(format!("peers      {}", out.style.yellow(words)));
    }
    let others = peers.iter().filter(|peer| !peer.own && !peer.revoked).count() as u64;
    out.line(format!("peers      {}: `isle peers`", count(others, "device")))
}

/// What to know and to do when this replica's time is far ahead of the device's clock.
pub(crate) fn clock_warning(status: &Status) -> Option<String> {
    let ahead = status.clock_ahead_ms;
    let now = jiff::Timestamp::now().as_millisecond().unsigned_abs();
    (ahead > 0).then(|| {
        format!(
            "the newest change here is {} ahead of this device's clock ({} by it): if the clock is right, other devices hold back what \
             is written here until about then; if it is wrong, set it right",
            span(ahead),
            time(now.saturating_add(ahead))
        )
    })
}

pub(crate) fn log(args: &Args, limit: usize, out: &mut Out) -> anyhow::Result<u8> {
    let replica = db::open(args)?;
    let names = Names::new(&replica.status()?);
    let entries = replica.log(limit)?;
    let object = |entry: &LogEntry| {
        json!({
            "site": entry.site.to_string(),
            "device": names.of(entry.site),
            "version": entry.version,
            "time": write_time(entry.hlc),
            "rows": entry.rows,
            "bytes": entry.bytes,
            "baseline": entry.baseline,
            "applied": entry.applied,
        })
    };
    if out.json(&entries.iter().map(object).collect::<Vec<_>>())? {
        return Ok(0);
    }
    if entries.is_empty() {
        out.note("nothing was written to tracked tables yet")?;
        return Ok(0);
    }
    let row = |entry: &LogEntry| {
        let what = match (entry.applied, entry.baseline) {
            (false, _) => "waits",
            (true, true) => "rows that were there",
            (true, false) => "",
        };
        vec![
            write_time(entry.hlc).map_or_else(|| Cell::dim("-"), Cell::text),
            Cell::text(names.of(entry.site)),
            Cell::number(entry.version),
            Cell::number(thousands(entry.rows)),
            Cell::number(bytes(entry.bytes)),
            Cell::dim(what),
        ]
    };
    out.table(&["TIME", "DEVICE", "VERSION", "ROWS", "SIZE", ""], entries.iter().map(row).collect())?;
    Ok(0)
}

pub(crate) fn hash(args: &Args, out: &mut Out) -> anyhow::Result<u8> {
    let replica = db::open(args)?;
    let hash = spinner::beside("reading every row", || replica.state_hash())?;
    let (merged, visible) = (hex(&hash.merged), hex(&hash.visible));
    if !out.json(&json!({ "merged": merged, "visible": visible, "rows": hash.rows }))? {
        out.line(format!("merged   {merged}"))?;
        out.line(format!("visible  {visible}"))?;
        out.note(out.style.dim(format!("of {}", count(hash.rows, "row"))))?;
    }
    Ok(0)
}

pub(crate) fn info(args: &Args, out: &mut Out) -> anyhow::Result<u8> {
    let replica = db::open(args)?;
    let info = spinner::beside("reading every row", || replica.info())?;
    let json_bytes: u64 = info.tables.iter().map(|table| table.json_bytes).sum();
    let rows: u64 = info.tables.iter().map(|table| table.rows).sum();
    let used = info.bytes.saturating_sub(info.free_bytes);
    let factor = (json_bytes > 0).then(|| used as f64 / json_bytes as f64);
    let mut object = json!(info);
    if let Some(fields) = object.as_object_mut() {
        fields.insert("file".to_owned(), replica.path().to_string_lossy().into());
        fields.insert("size_mb".to_owned(), json!(info.bytes as f64 / 1e6));
        fields.insert("rows".to_owned(), rows.into());
        fields.insert("json_bytes".to_owned(), json_bytes.into());
        fields.insert("times_json".to_owned(), json!(factor));
        fields.insert("isle_share".to_owned(), json!(info.isle_share()));
    }
    if out.json(&object)? {
        return Ok(0);
    }
    let style = out.style;
    out.line(format!(
        "file       {} ({}, {} free)",
        style.bold(replica.path().display()),
        bytes(info.bytes),
        bytes(info.free_bytes)
    ))?;
    let percent = (100.0 * info.isle_share()).round();
    let (log, clocks, isle) = (bytes(info.log_bytes), bytes(info.clock_bytes), bytes(info.isle_bytes));
    out.line(format!(
        "isle's     {percent} %: log {log} of {}, row clocks {clocks}, other {isle}",
        count(info.changesets, "change")
    ))?;
    if let Some(factor) = factor {
        out.line(format!("as JSON    {}: the file takes {factor:.1} times as much", bytes(json_bytes)))?;
    }
    out.line("")?;
    let row = |table: &isle::TableInfo| {
        let travels = if table.tracked { Cell::text("travels") } else { Cell::dim("stays here") };
        vec![Cell::text(&table.name), Cell::number(thousands(table.rows)), Cell::number(bytes(table.bytes)), travels]
    };
    out.table(&["TABLE", "ROWS", "SIZE", ""], info.tables.iter().map(row).collect())?;
    Ok(0)
}

pub(crate) fn vacuum(args: &Args, out: &mut Out) -> anyhow::Result<u8> {
    let replica = db::open(args)?;
    let size = || std::fs::metadata(replica.path()).map_or(0, |file| file.len());
    let before = size();
    spinner::beside("making the file compact", || replica.vacuum())?;
    let after = size();
    if !out.json(&json!({ "bytes_before": before, "bytes_after": after }))? {
        out.note(format!("{} the file has {}, had {}", out.style.green("✓"), bytes(after), bytes(before)))?;
    }
    Ok(0)
}

pub(crate) fn doctor(args: &Args, out: &mut Out) -> anyhow::Result<u8> {
    let replica = db::open(args)?;
    let status = replica.status()?;
    let sqlite = replica.read(|q| q.one::<String>("SELECT sqlite_version()", &[]))?.unwrap_or_default();
    let mode = replica.read(|q| q.one::<String>("PRAGMA journal_mode", &[]))?.unwrap_or_default();
    let home = home();
    let mut report = spinner::beside("looking for damage", || replica.check())?;
    let clock = clock_warning(&status).map(|message| Finding { check: "clock", message });
    report.findings.extend(clock);
    let findings: Vec<_> =
        report.findings.iter().map(|found| json!({ "check": found.check, "message": found.message })).collect();
    let code = u8::from(!report.findings.is_empty());
    let done = out.json(&json!({
        "file": status.path.to_string_lossy(),
        "home": home,
        "backups": replica.backup_folder().ok().map(|folder| folder.display().to_string()),
        "config": crate::config::path().map(|path| path.display().to_string()),
        "device": status.device.name,
        "sqlite": sqlite,
        "journal_mode": mode,
        "engine": engines::name(replica.engine()?),
        "cr_sqlite": replica.cr_sqlite().map(|path| path.display().to_string()),
        "isle": env!("CARGO_PKG_VERSION"),
        "rows": report.rows,
        "changesets": report.changesets,
        "clock_ahead_ms": status.clock_ahead_ms,
        "findings": findings,
    }))?;
    if done {
        return Ok(code);
    }
    let style = out.style;
    out.note(format!("file    {}", status.path.display()))?;
    out.note(format!("home    {home} (device {})", status.device.name))?;
    if let Ok(folder) = replica.backup_folder() {
        out.note(format!("backups {}", folder.display()))?;
    }
    if let Some(path) = crate::config::path() {
        out.note(format!("config  {}", path.display()))?;
    }
    out.note(format!("isle    {}, SQLite {sqlite}, journal mode {mode}", env!("CARGO_PKG_VERSION")))?;
    if replica.engine()? == isle::TableEngine::CrSqlite {
        let path =
            replica.cr_sqlite().map_or_else(|| "which nobody named".to_owned(), |path| path.display().to_string());
        out.note(format!("engine  cr-sqlite, {path}"))?;
    }
    for found in &report.findings {
        out.line(format!("{} {}: {}", style.yellow("!"), found.check, found.message))?;
    }
    let looked = format!("{} and {} looked at", count(report.rows, "row"), count(report.changesets, "change"));
    match report.findings.len() as u64 {
        0 => out.note(format!("{} no damage; {looked}", style.green("✓")))?,
        n => out.line(format!("{}; {looked}", count(n, "finding")))?,
    }
    Ok(code)
}

/// Where this user's isle keeps the device, as crate `isle` finds it.
fn home() -> String {
    if let Some(home) = std::env::var_os("ISLE_HOME").filter(|home| !home.is_empty()) {
        return home.to_string_lossy().into_owned();
    }
    let data = etcetera::choose_base_strategy();
    let data = data.map(|strategy| etcetera::BaseStrategy::data_dir(&strategy).join("isle"));
    data.map_or_else(|error| format!("unknown: {error}"), |path| path.display().to_string())
}
