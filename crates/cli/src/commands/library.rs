//! The file library.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use isle::{
    FileFilter, FileInfo, FileKind, GroupedBy, Identity, Library, LibraryStatus, MoveOptions, PruneOptions, PrunePlan,
    ScanOptions, ScanReport, Selection, Storage, WatchEvent, WatchOptions,
};
use serde_json::json;

use super::{remotes, sync, watch};
use crate::args::{Args, By, FilesAction, IdentityBy, KindAdd, Moving, SetAction, TrashAction};
use crate::bar::Bar;
use crate::confirm;
use crate::failure::{Failure, Kind};
use crate::output::{Cell, Out, bytes, count, printable, thousands, time};
use crate::spinner;

/// Problems that are shown to people.
const PROBLEMS_MAX: usize = 20;

/// The library, with remotes as they were added.
fn library(args: &Args) -> anyhow::Result<Library> {
    let insecure = crate::db::open(args)?.remotes()?.iter().any(|remote| remotes::allows_http(&remote.url));
    Ok(remotes::open(args, insecure, &crate::args::Patience::default())?.library())
}

pub(crate) fn run(args: &Args, action: &FilesAction, out: &mut Out) -> anyhow::Result<u8> {
    let library = library(args)?;
    match action {
        FilesAction::AddRoot { name, folder, kinds } => add_root(&library, name, folder, kinds, out),
        FilesAction::RemoveRoot { name, yes } => {
            library.remove_root(name, *yes)?;
            done(out, format!("root {name} is forgotten; its files stay where they are"))
        }
        FilesAction::Roots => roots(&library, out),
        FilesAction::Kinds => kinds(&library, out),
        FilesAction::AddKind(add) => add_kind(&library, add, out),
        FilesAction::RemoveKind { name } => {
            library.remove_kind(name)?;
            done(out, format!("kind {name} is forgotten; its files stay in the library"))
        }
        FilesAction::Scan { root, kind, emptied } => {
            let options =
                ScanOptions { root: root.clone(), kind: kind.clone(), emptied: *emptied, ..ScanOptions::default() };
            scan(&library, options, out)
        }
        FilesAction::Watch { settle, every, no_notices } => {
            let options =
                WatchOptions { settle: *settle, period: *every, notices: !no_notices, ..WatchOptions::default() };
            watch_roots(&library, options, out)
        }
        FilesAction::Status { by: None, limit } => status(&library, *limit, out),
        FilesAction::Status { by: Some(by), .. } => groups(&library, *by, out),
        FilesAction::List { kind, set, below, all, limit } => {
            let (kind, set, below) = (kind.clone(), set.clone(), below.clone());
            list(&library, &FileFilter { kind, set, below, all: *all, trashed: false, limit: *limit }, out)
        }
        FilesAction::Push { moving, refresh, again } => push(&library, moving, (*refresh, *again), out),
        FilesAction::Pull { files, all, set, kind, pinned, moving } => {
            let selection = match (all, set, kind, pinned) {
                (true, ..) => Selection::All,
                (_, Some(set), ..) => Selection::Set(set.clone()),
                (_, _, Some(kind), _) => Selection::Kind(kind.clone()),
                (.., true) => Selection::Pinned,
                _ => Selection::Files(ids(&library, files)?),
            };
            pull(&library, &selection, moving, out)
        }
        FilesAction::Open { file, no_fetch, moving } => open(&library, file, !no_fetch, moving, out),
        FilesAction::Pin { files } => pin(&library, files, true, out),
        FilesAction::Unpin { files } => pin(&library, files, false, out),
        FilesAction::Evict { files } => evict(&library, files, out),
        FilesAction::Set(action) => set(&library, action, out),
        FilesAction::Trash(action) => trash(&library, action, out),
        FilesAction::Prune { keep, grace, dry_run, yes } => {
            let options = PruneOptions { keep: *keep, grace: *grace, remote: None };
            prune(&library, &options, (*dry_run, *yes), out)
        }
        FilesAction::Verify => verify(&library, out),
    }
}

/// What was done, for people and for programs.
fn done(out: &mut Out, what: impl std::fmt::Display) -> anyhow::Result<u8> {
    if !out.json(&json!({ "result": "done" }))? {
        out.note(format!("{} {what}", out.style.green("✓")))?;
    }
    Ok(0)
}

fn add_root(library: &Library, name: &str, folder: &Path, kinds: &[String], out: &mut Out) -> anyhow::Result<u8> {
    let root = library.add_root(name, folder, kinds)?;
    if !out.json(&root)? {
        let of = if kinds.is_empty() { String::new() } else { format!(", for {}", kinds.join(", ")) };
        out.note(format!(
            "{} root {name} is {}{of}; `isle files scan` looks into it",
            out.style.green("✓"),
            root.folder.display()
        ))?;
    }
    Ok(0)
}

fn roots(library: &Library, out: &mut Out) -> anyhow::Result<u8> {
    let roots = library.roots()?;
    if out.json(&roots)? {
        return Ok(0);
    }
    if roots.is_empty() {
        out.note("no folder of this device is in the library: `isle files add-root NAME FOLDER`")?;
        return Ok(0);
    }
    let row = |root: &isle::Root| {
        let flag = match root.flag.as_deref() {
            Some("gone") => out.style.yellow("gone"),
            Some("emptied") => out.style.yellow("lost all of its files"),
            Some(other) => other.to_owned(),
            None => String::new(),
        };
        vec![
            Cell::text(&root.name),
            Cell::text(printable(&root.folder.display().to_string())),
            Cell::text(if root.kinds.is_empty() { "all".to_owned() } else { root.kinds.join(", ") }),
            Cell::text(root.scanned_ms.map_or_else(|| "never".to_owned(), time)),
            Cell::text(flag),
        ]
    };
    let rows = roots.iter().map(row).collect();
    out.table(&["NAME", "FOLDER", "KINDS", "SCANNED", ""], rows)?;
    Ok(0)
}

fn kinds(library: &Library, out: &mut Out) -> anyhow::Result<u8> {
    let kinds = library.kinds()?;
    if out.json(&kinds)? {
        return Ok(0);
    }
    let row = |kind: &FileKind| {
        let sizes = match (kind.bytes_min, kind.bytes_max) {
            (None, None) => String::new(),
            (least, most) => {
                format!("{} to {}", bytes(least.unwrap_or(0)), most.map_or_else(|| "any".to_owned(), bytes))
            }
        };
        vec![
            Cell::text(&kind.name),
            Cell::text(kind.patterns.join(" ")),
            Cell::text(&kind.validator),
            Cell::text(kind.identity.as_str()),
            Cell::text(sizes),
            Cell::text(kind.destination.as_deref().unwrap_or("")),
        ]
    };
    out.table(&["NAME", "PATTERNS", "VALIDATOR", "BY", "SIZES", "DESTINATION"], kinds.iter().map(row).collect())?;
    Ok(0)
}

fn add_kind(library: &Library, add: &KindAdd, out: &mut Out) -> anyhow::Result<u8> {
    let kind = FileKind {
        name: add.name.clone(),
        patterns: add.patterns.clone(),
        validator: add.validator.clone(),
        bytes_min: add.min,
        bytes_max: add.max,
        identity: match add.by {
            IdentityBy::Content => Identity::Content,
            IdentityBy::Path => Identity::Path,
        },
        destination: add.destination.clone(),
        sha1: add.sha1,
        sha256: add.sha256,
        rank: add.rank,
    };
    library.put_kind(&kind)?;
    if !out.json(&kind)? {
        out.note(format!("{} kind {}; the next scan looks for it", out.style.green("✓"), kind.name))?;
    }
    Ok(0)
}

fn scan(library: &Library, options: ScanOptions, out: &mut Out) -> anyhow::Result<u8> {
    let bar = Arc::new(Bar::new());
    let told = Arc::clone(&bar);
    let progress: isle::ScanProgress = Arc::new(move |root, files, read| {
        told.set(format!("{root}: {} files, {} read", thousands(files), bytes(read)), 0, 0)
    });
    let report =
        sync::runtime()?.block_on(bar.beside(library.scan(&ScanOptions { progress: Some(progress), ..options })))?;
    if !out.json(&report)? {
        show_scan(&report, out)?;
    }
    Ok(if report.flagged.is_empty() { 0 } else { Kind::Blocked.code() })
}

/// What a scan changed, in words.
fn changes(report: &ScanReport) -> String {
    let parts = [
        (report.added, "new"),
        (report.modified, "changed"),
        (report.moved, "moved"),
        (report.back, "back"),
        (report.missing, "missing"),
        (report.invalid, "invalid"),
        (report.unreadable, "unreadable"),
    ];
    let parts: Vec<String> =
        parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{} {what}", thousands(*n))).collect();
    if parts.is_empty() { "nothing changed".to_owned() } else { parts.join(", ") }
}

fn show_scan(report: &ScanReport, out: &mut Out) -> anyhow::Result<()> {
    let (mark, read) = (out.style.green("✓"), bytes(report.hashed_bytes));
    out.note(format!(
        "{mark} {}: {}; {} read ({read})",
        count(report.seen, "file"),
        changes(report),
        thousands(report.hashed)
    ))?;
    for problem in report.problems.iter().take(PROBLEMS_MAX) {
        out.note(format!("  {} {}: {}", out.style.yellow("!"), printable(&problem.path), printable(&problem.why)))?;
    }
    for root in &report.flagged {
        let mark = out.style.yellow("!");
        out.note(format!("  {mark} root {root} is gone or lost all of its files: nothing of it was changed (`--emptied` if that was meant)"))?;
    }
    Ok(())
}

fn watch_roots(library: &Library, options: WatchOptions, out: &mut Out) -> anyhow::Result<u8> {
    let (stop, json) = (Arc::clone(&options.stop), out.json);
    let runtime = sync::runtime()?;
    let (send, receive) = std::sync::mpsc::channel();
    let (library, watched) = (library.clone(), Arc::clone(&stop));
    let watcher = std::thread::spawn(move || {
        let result = library.watch(&options, |event| _ = send.send(event));
        watched.store(true, Ordering::Relaxed);
        result
    });
    let ended = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&ended);
    let waiter = std::thread::spawn(move || {
        let result = runtime.block_on(async {
            tokio::select! {
                stopped = watch::stopped() => stopped,
                () = async { while !told.load(Ordering::Relaxed) { tokio::time::sleep(std::time::Duration::from_millis(100)).await } } => Ok(()),
            }
        });
        stop.store(true, Ordering::Relaxed);
        result
    });
    for event in &receive {
        match event {
            WatchEvent::Watching(roots) if json => out.json_line(&json!({ "event": "watching", "roots": roots }))?,
            WatchEvent::Scanned(report) if json => out.json_line(&json!({ "event": "scanned", "report": report }))?,
            WatchEvent::Watching(roots) => {
                let names: Vec<&str> = roots.iter().map(|root| root.name.as_str()).collect();
                out.note(format!(
                    "watching {}; Ctrl-C ends it",
                    if names.is_empty() { "for roots".to_owned() } else { names.join(", ") }
                ))?;
            }
            WatchEvent::Scanned(report) => {
                out.note(format!("{} {}", time(now_ms()), changes(&report)))?;
                for root in &report.flagged {
                    out.note(format!("  {} root {root} is gone or lost all of its files", out.style.yellow("!")))?;
                }
                for problem in report.problems.iter().take(PROBLEMS_MAX) {
                    out.note(format!(
                        "  {} {}: {}",
                        out.style.yellow("!"),
                        printable(&problem.path),
                        printable(&problem.why)
                    ))?;
                }
            }
            WatchEvent::NoNotices(why) => {
                eprint_line(&format!("warning: {why}; everything is compared every so often instead"))
            }
            WatchEvent::Failed(error) => eprint_line(&format!("error: {}", sync::message(&error))),
        }
        out.flush()?;
    }
    ended.store(true, Ordering::Relaxed);
    // A thread that panicked has said so.
    let result = watcher.join().map_err(|_| Failure::new(Kind::Failed, "the watch broke down"))?;
    waiter.join().map_err(|_| Failure::new(Kind::Failed, "the watch broke down"))??;
    result.map(|()| 0).map_err(Into::into)
}

fn eprint_line(text: &str) {
    use std::io::Write as _;
    // Nobody reads stderr: the work goes on.
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn now_ms() -> u64 {
    jiff::Timestamp::now().as_millisecond().unsigned_abs()
}

fn status(library: &Library, limit: usize, out: &mut Out) -> anyhow::Result<u8> {
    let status = library.status(limit)?;
    if out.json(&status)? {
        return Ok(0);
    }
    let LibraryStatus { roots, storage, changes, problems, trashed_here, to_push, conflicts } = status;
    for root in &roots {
        let flag = match root.flag.as_deref() {
            Some("gone") => out.style.yellow("  gone: its files keep their places"),
            Some(_) => out.style.yellow("  lost all of its files: `isle files scan --emptied` if that was meant"),
            None => String::new(),
        };
        out.line(format!("root         {} = {}{flag}", root.name, printable(&root.folder.display().to_string())))?;
    }
    show_storage(&storage, out)?;
    if to_push > 0 {
        out.line(format!("to push      {}: `isle files push`", count(to_push, "file")))?;
    }
    if conflicts > 0 {
        let what = count(conflicts, "file");
        out.line(format!("conflicts    {what} with a path that another has too: `isle files list`, then `trash put` what is not wanted"))?;
    }
    if trashed_here > 0 {
        out.line(format!(
            "trash        {} put out elsewhere: `isle files prune`",
            count(trashed_here, "copy here").replace("copy heres", "copies here")
        ))?;
    }
    if !changes.is_empty() {
        out.line("last scan")?;
    }
    for (what, path) in changes {
        out.line(format!("  {what:<10} {}", printable(&path)))?;
    }
    if !problems.is_empty() {
        out.line("not taken")?;
    }
    for problem in problems {
        out.line(format!("  {}: {}", printable(&problem.path), printable(&problem.why)))?;
    }
    Ok(0)
}

fn show_storage(storage: &Storage, out: &mut Out) -> anyhow::Result<()> {
    out.line(format!("files        {} ({})", thousands(storage.files), bytes(storage.bytes)))?;
    out.line(format!(
        "here         {}, of which {} in no remote",
        bytes(storage.local_bytes),
        bytes(storage.local_only_bytes)
    ))?;
    out.line(format!(
        "in remotes   {}, of which {} not here",
        bytes(storage.stored_bytes),
        bytes(storage.missing_bytes)
    ))?;
    if storage.unavailable_bytes > 0 {
        out.line(format!("neither      {}", bytes(storage.unavailable_bytes)))?;
    }
    match storage.free_bytes {
        Some(free) => out.line(format!("free         {}", bytes(free))),
        None => Ok(()),
    }
}

fn groups(library: &Library, by: By, out: &mut Out) -> anyhow::Result<u8> {
    let groups = library.groups(match by {
        By::Kind => GroupedBy::Kind,
        By::Set => GroupedBy::Set,
        By::Root => GroupedBy::Root,
    })?;
    if out.json(&groups)? {
        return Ok(0);
    }
    let row = |group: &isle::LibraryGroup| {
        let s = &group.storage;
        let amounts = [s.bytes, s.local_bytes, s.stored_bytes, s.missing_bytes, s.local_only_bytes]
            .map(|n| Cell::number(bytes(n)));
        [Cell::text(printable(&group.name)), Cell::number(thousands(s.files))].into_iter().chain(amounts).collect()
    };
    let rows = groups.iter().map(row).collect();
    out.table(&["NAME", "FILES", "REQUIRED", "DOWNLOADED", "IN CLOUD", "TO FETCH", "LOCAL ONLY"], rows)?;
    Ok(0)
}

fn list(library: &Library, filter: &FileFilter, out: &mut Out) -> anyhow::Result<u8> {
    let files = library.files(filter)?;
    if out.json(&files)? {
        return Ok(0);
    }
    let row = |file: &FileInfo| {
        let mut notes = Vec::new();
        if file.pinned {
            notes.push("pinned".to_owned());
        }
        if file.conflict {
            notes.push(out.style.yellow("conflict"));
        }
        if file.trashed_ms.is_some() {
            notes.push("in the trash".to_owned());
        } else if file.replaced_by.is_some() {
            notes.push("older version".to_owned());
        }
        if file.elsewhere > 0 {
            notes.push(format!("{} elsewhere", file.elsewhere));
        }
        vec![
            Cell::text(file.id.get(..8).unwrap_or(&file.id)),
            Cell::text(printable(&file.path)),
            Cell::text(&file.kind),
            Cell::number(bytes(file.bytes)),
            Cell::text(file.availability.as_str()),
            Cell::text(notes.join(", ")),
        ]
    };
    let rows = files.iter().map(row).collect();
    out.table(&["ID", "PATH", "KIND", "SIZE", "WHERE", ""], rows)?;
    Ok(0)
}

fn moving(moving: &Moving, what: &'static str, bar: &Arc<Bar>) -> MoveOptions {
    let bar = Arc::clone(bar);
    MoveOptions {
        remote: moving.remote.clone(),
        bytes_per_s: moving.limit_rate,
        progress: Some(Arc::new(move |done, total| bar.set(what, done, total))),
        ..MoveOptions::default()
    }
}

fn push(library: &Library, how: &Moving, (refresh, again): (bool, bool), out: &mut Out) -> anyhow::Result<u8> {
    let bar = Arc::new(Bar::new());
    let options = MoveOptions { refresh, again, ..moving(how, "sending", &bar) };
    let pushed = sync::runtime()?.block_on(bar.beside(library.push(&options)))?;
    if !out.json(&pushed)? {
        let what = match pushed.files {
            0 => "the remotes have all contents that are here".to_owned(),
            files => format!(
                "{} in the remotes; {} sent, {}",
                count(files, "file"),
                count(pushed.chunks, "part"),
                bytes(pushed.sent_bytes)
            ),
        };
        out.note(format!("{} {what}", out.style.green("✓")))?;
    }
    Ok(0)
}

fn pull(library: &Library, selection: &Selection, how: &Moving, out: &mut Out) -> anyhow::Result<u8> {
    let bar = Arc::new(Bar::new());
    let options = moving(how, "receiving", &bar);
    let pulled = sync::runtime()?.block_on(bar.beside(library.pull(selection, &options)))?;
    if !out.json(&pulled)? {
        let what = match pulled.files {
            0 => "all of it is here".to_owned(),
            files => format!("{} fetched, {}", count(files, "file"), bytes(pulled.fetched_bytes)),
        };
        out.note(format!("{} {what}", out.style.green("✓")))?;
        for path in &pulled.beside {
            let path = printable(&path.display().to_string());
            out.note(format!("  {} something else stood at its place: {path}", out.style.yellow("!")))?;
        }
    }
    Ok(0)
}

fn open(library: &Library, file: &str, may_fetch: bool, how: &Moving, out: &mut Out) -> anyhow::Result<u8> {
    let bar = Arc::new(Bar::new());
    let options = moving(how, "receiving", &bar);
    let path = sync::runtime()?.block_on(bar.beside(library.open(file, may_fetch, &options)))?;
    if !out.json(&json!({ "path": path }))? {
        out.line(path.display())?;
    }
    Ok(0)
}

fn found(library: &Library, wanted: &[String]) -> anyhow::Result<Vec<FileInfo>> {
    Ok(wanted.iter().map(|wanted| library.file(wanted)).collect::<Result<_, _>>()?)
}

fn ids(library: &Library, wanted: &[String]) -> anyhow::Result<Vec<String>> {
    Ok(found(library, wanted)?.into_iter().map(|file| file.id).collect())
}

fn pin(library: &Library, files: &[String], pinned: bool, out: &mut Out) -> anyhow::Result<u8> {
    let ids = ids(library, files)?;
    for id in &ids {
        library.pin(id, pinned)?;
    }
    let what =
        if pinned { "pinned; `isle files pull --pinned` brings what is not here" } else { "not pinned any more" };
    done(out, format!("{} {what}", count(ids.len() as u64, "file")))
}

fn evict(library: &Library, files: &[String], out: &mut Out) -> anyhow::Result<u8> {
    let runtime = sync::runtime()?;
    let mut freed = 0;
    for file in found(library, files)? {
        freed += runtime.block_on(library.evict(&file, &MoveOptions::default()))?;
    }
    if !out.json(&json!({ "result": "done", "freed_bytes": freed }))? {
        out.note(format!("{} {} freed", out.style.green("✓"), bytes(freed)))?;
    }
    Ok(0)
}

fn set(library: &Library, action: &SetAction, out: &mut Out) -> anyhow::Result<u8> {
    match action {
        SetAction::Add { set, files } => {
            library.add_to_set(set, &ids(library, files)?)?;
            done(out, format!("{} in set {set}", count(files.len() as u64, "file")))
        }
        SetAction::Remove { set, files } => {
            library.remove_from_set(set, &ids(library, files)?)?;
            done(out, format!("{} out of set {set}", count(files.len() as u64, "file")))
        }
    }
}

fn trash(library: &Library, action: &TrashAction, out: &mut Out) -> anyhow::Result<u8> {
    match action {
        TrashAction::Put { files } => {
            for file in found(library, files)? {
                library.trash(&file)?;
            }
            done(
                out,
                format!("{} in the trash; `isle files trash restore` takes it back", count(files.len() as u64, "file")),
            )
        }
        TrashAction::List => {
            let trashed = library.trash_list()?;
            if out.json(&trashed)? {
                return Ok(0);
            }
            let row = |item: &isle::Trashed| {
                vec![
                    Cell::text(item.id.get(..8).unwrap_or(&item.id)),
                    Cell::text(printable(&item.path)),
                    Cell::text(&item.why),
                    Cell::text(time(item.since_ms)),
                ]
            };
            out.table(&["ID", "PATH", "WHY", "SINCE"], trashed.iter().map(row).collect())?;
            Ok(0)
        }
        TrashAction::Restore { files } => {
            let mut placed = Vec::new();
            for wanted in files {
                placed.extend(library.restore(&in_trash(library, wanted)?)?);
            }
            if !out.json(&json!({ "result": "done", "paths": placed }))? {
                for path in &placed {
                    out.line(path.display())?;
                }
                if placed.is_empty() {
                    out.note("back in the library; no copy was in the trash of this device")?;
                }
            }
            Ok(0)
        }
    }
}

/// The id of what is in the trash under a name, a path or the beginning of an id; its row may be gone.
fn in_trash(library: &Library, wanted: &str) -> anyhow::Result<String> {
    let is_meant = |item: &&isle::Trashed| {
        let file = item.original_path.file_name().is_some_and(|name| name == wanted);
        let id = wanted.len() >= 4 && item.id.starts_with(wanted);
        item.path == wanted || item.original_path.as_path() == Path::new(wanted) || file || id
    };
    let trashed = library.trash_list()?;
    let mut ids: Vec<&String> = trashed.iter().filter(is_meant).map(|item| &item.id).collect();
    ids.dedup();
    match ids[..] {
        [id] => Ok(id.clone()),
        _ => Ok(library.file(wanted)?.id),
    }
}

fn prune(library: &Library, options: &PruneOptions, (dry, yes): (bool, bool), out: &mut Out) -> anyhow::Result<u8> {
    let runtime = sync::runtime()?;
    let plan = spinner::beside("looking", || runtime.block_on(library.plan_prune(options)))?;
    if dry || plan.is_empty() {
        if !out.json(&plan)? {
            show_prune(&plan, out)?;
        }
        return Ok(0);
    }
    if !yes {
        show_prune(&plan, out)?;
        out.flush()?;
        confirm::ask("this is removed for good".to_owned(), out)?;
    }
    let pruned = spinner::beside("removing", || runtime.block_on(library.prune(options)))?;
    if !out.json(&pruned)? {
        show_prune(&pruned, out)?;
    }
    Ok(0)
}

fn show_prune(plan: &PrunePlan, out: &mut Out) -> anyhow::Result<()> {
    if out.json {
        return Ok(());
    }
    if plan.is_empty() {
        return out.note("nothing to remove");
    }
    let paths = |paths: &[std::path::PathBuf]| paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
    let parts = [
        ("copies here of files in the trash, put into the trash here", paths(&plan.set_aside)),
        ("old trash of this device, removed", paths(&plan.emptied)),
        ("files that nobody has any more, taken off the list", plan.gone.clone()),
        ("old versions and files in the trash, taken off the list", plan.expired.clone()),
        ("left alone", plan.left_alone.clone()),
    ];
    for (what, paths) in parts.iter().filter(|(_, paths)| !paths.is_empty()) {
        out.line(format!("{what}: {}", thousands(paths.len() as u64)))?;
        for path in paths.iter().take(PROBLEMS_MAX) {
            out.line(format!("  {}", printable(path)))?;
        }
    }
    if plan.marked_chunks > 0 {
        out.line(format!("{} in remotes marked", count(plan.marked_chunks, "part")))?;
    }
    if plan.removed_chunks > 0 {
        out.line(format!("{} in remotes removed", count(plan.removed_chunks, "part")))?;
    }
    Ok(())
}

fn verify(library: &Library, out: &mut Out) -> anyhow::Result<u8> {
    let bar = Arc::new(Bar::new());
    let options = moving(&Moving { remote: None, limit_rate: None }, "reading", &bar);
    let verified = sync::runtime()?.block_on(bar.beside(library.verify(&options)))?;
    let is_sound = verified.damaged.is_empty() && verified.lost.is_empty() && verified.unreachable.is_empty();
    if !out.json(&verified)? {
        out.note(format!("{} read, {}", count(verified.files, "file"), bytes(verified.bytes)))?;
        for (what, problems) in [
            ("damaged", &verified.damaged),
            ("changed", &verified.changed),
            ("lost", &verified.lost),
            ("away", &verified.unreachable),
        ] {
            for problem in problems {
                out.line(format!("  {what:<8} {}: {}", printable(&problem.path), printable(&problem.why)))?;
            }
        }
    }
    Ok(if is_sound { 0 } else { Kind::Failed.code() })
}

/// What came of the contents of files after a sync.
pub(crate) enum Contents {
    /// Nothing was to be done.
    Nothing,
    /// Some were put into remotes.
    Pushed(isle::Pushed),
    /// They could not be; the sync stands.
    Failed(isle::Error),
}

impl Contents {
    /// Adds it to what a sync says in JSON.
    pub(crate) fn add_to(&self, object: &mut serde_json::Value) {
        let Some(fields) = object.as_object_mut() else { return };
        match self {
            Contents::Nothing => None,
            Contents::Pushed(pushed) => fields.insert("files".to_owned(), json!(pushed)),
            Contents::Failed(error) => fields.insert("files_failed".to_owned(), sync::message(error).into()),
        };
    }

    /// Tells people of it.
    pub(crate) fn show(&self, out: &mut Out) -> anyhow::Result<()> {
        match self {
            Contents::Nothing => Ok(()),
            Contents::Pushed(pushed) => {
                let (files, sent) = (count(pushed.files, "file"), bytes(pushed.sent_bytes));
                out.note(format!("  {files} of the library put into the remotes ({sent} sent)"))
            }
            Contents::Failed(_) if out.json => Ok(()),
            Contents::Failed(error) => {
                out.flush()?;
                eprint_line(&format!("warning: contents of files: {}", sync::message(error)));
                Ok(())
            }
        }
    }
}

/// After a sync: contents that the remotes lack are put there, unless it was to pull alone, and what the remotes have is looked at.
pub(crate) async fn push_after_sync(args: &Args, pulls: bool) -> anyhow::Result<Contents> {
    let library = library(args)?;
    if !library.exists()? {
        return Ok(Contents::Nothing);
    }
    let bar = Arc::new(Bar::new());
    let options = moving(&Moving { remote: None, limit_rate: None }, "files", &bar);
    let moved = async {
        match pulls {
            true => library.refresh(&options).await.map(|()| isle::Pushed::default()),
            false => library.push(&options).await,
        }
    };
    Ok(match bar.beside(moved).await {
        Ok(pushed) if pushed.files > 0 => Contents::Pushed(pushed),
        Ok(_) | Err(isle::Error::NoRemote | isle::Error::NeverSynced { .. }) => Contents::Nothing,
        Err(error) => Contents::Failed(error),
    })
}
