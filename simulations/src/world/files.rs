//! Files of a library: what users do with them, where isle moves their contents, and what must hold.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use isle::{FileFilter, FileInfo, Library, MoveOptions, PruneOptions, ScanOptions, ScanReport, Selection};

use super::*;
use crate::clock::START_MS;
use crate::scenario::Contents;

/// The name of the folder for all devices.
const ROOT: &str = "docs";
/// Few, so that devices meet in the same.
const PATHS: [&str; 5] = ["a.txt", "b c.txt", "sub/d.txt", "sub/deep/e.bin", "F.txt"];
/// More than one chunk.
const LARGE_BYTES: u64 = 300_000;

/// What is known of files, whatever isle says.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// How many were written: each has another content, and another time.
    written: u64,
    /// Contents that isle took from a device, because the bucket has them.
    evicted: Arc<Mutex<BTreeSet<(usize, String)>>>,
}

impl World {
    /// Somebody is at the files of a device, and isle looks.
    pub(super) fn change_files(&mut self, n: usize, seed: u64) -> Checked<()> {
        let Some(replica) = self.devices[n].up().cloned().filter(|_| !self.devices[n].drops_at_once) else {
            return Ok(());
        };
        let mut written = self.files.written;
        let folder = self.devices[n].files();
        let changed =
            change(&folder, Rng(seed), n, &mut written).map_err(|error| self.broken("setup", error.to_string()));
        self.files.written = written;
        let scanned = self.at(n, |_| look(&replica.library(), &folder));
        match scanned {
            Ok(report) => {
                let ScanReport { added, modified, moved, back, missing, .. } = report;
                let found = format!("{added} new, {modified} changed, {moved} moved, {back} back, {missing} missing");
                self.note(n, "files changed", format!("{}; isle finds {found}", changed?));
            }
            Err(error) => {
                self.coverage.note("scan failed");
                self.log(Some(n), format!("{}; the scan fails: {}", changed?, chain(&error)));
                if !self.devices[n].disk.is_troubled() && !self.devices[n].damaged {
                    return Err(self.broken("files", format!("d{n}: a scan fails: {}", chain(&error))));
                }
            }
        }
        self.collect_if_up(n)?;
        self.wake_links(n);
        Ok(())
    }

    /// Contents begin to go somewhere.
    pub(super) fn move_contents(&mut self, n: usize, way: Contents, seed: u64) -> Checked<()> {
        let device = &self.devices[n];
        let idle = !device.moves && !device.drops_at_once;
        let Some(replica) = device.up().cloned().filter(|_| idle) else { return Ok(()) };
        let library = replica.library();
        if !library.roots().is_ok_and(|roots| !roots.is_empty()) {
            return Ok(());
        }
        self.devices[n].moves = true;
        let what = match way {
            Contents::Push => "push of files",
            Contents::Pull => "pull of files",
            Contents::Evict => "evict",
            Contents::Trash => "trash",
            Contents::Prune => "prune",
        };
        self.note(n, what, format!("begins: {what}"));
        let evicted = Arc::clone(&self.files.evicted);
        self.work(n, what, async move {
            match movement(&library, way, Rng(seed)).await {
                Ok(content) => {
                    let content = content.map(|content| (n, content));
                    evicted.lock().unwrap_or_else(PoisonError::into_inner).extend(content);
                    Ok(SyncReport::default())
                }
                // Not all contents are to be had, and some files are not what they were: the check at the end says whether that may be.
                Err(Error::Library(_) | Error::NeverSynced { .. }) => Ok(SyncReport::default()),
                Err(error) => Err(error),
            }
        });
        Ok(())
    }

    /// When all is well, every file is on every device that wants it if its content is anywhere, and is what the library says.
    pub(crate) async fn check_files(&mut self) -> Checked<()> {
        let mut libraries = Vec::new();
        for n in self.alive() {
            let library = self.replica(n)?.library();
            if library.exists().map_err(|error| self.lost(n, chain(&error)))? {
                libraries.push((n, library));
            }
        }
        if libraries.is_empty() {
            return Ok(());
        }
        let mut there = BTreeSet::new();
        for (n, library) in &libraries {
            self.settle_files(*n, library)?;
            there.extend(self.contents_of(*n, library)?.into_iter().map(|(_, content)| content));
        }
        self.converge().await?;
        // What was taken from a device, on the bucket's word; but what one understood whose disk flips bits counts for nothing.
        if !self.coverage.events.contains_key("bucket rolled back") {
            let evicted = self.files.evicted.lock().unwrap_or_else(PoisonError::into_inner);
            there.extend(evicted.iter().filter(|(n, _)| !self.devices[*n].gone).map(|(_, content)| content.clone()));
        }
        let options = MoveOptions { refresh: true, ..MoveOptions::default() };
        for (n, library) in &libraries {
            library.push(&options).await.map_err(|error| self.lost(*n, format!("push: {}", chain(&error))))?;
        }
        self.converge().await?;
        for (n, library) in &libraries {
            // Some may be nowhere any more.
            if let Err(error) = library.pull(&Selection::All, &options).await
                && !matches!(error, Error::Library(_))
            {
                return Err(self.lost(*n, format!("pull: {}", chain(&error))));
            }
            let here: BTreeSet<String> =
                self.contents_of(*n, library)?.into_iter().map(|(_, content)| content).collect();
            let files = self.files_of(*n, library)?;
            if let Some(file) = files.iter().find(|file| there.contains(&file.content) && !here.contains(&file.content))
            {
                return Err(
                    self.lost(*n, format!("{} ({}) is elsewhere and does not come", file.path, &file.content[..8]))
                );
            }
            let report = self.settle_files(*n, library)?;
            if report.added + report.modified + report.moved + report.missing > 0 {
                return Err(self.lost(*n, format!("a scan after a pull finds news: {report:?}")));
            }
        }
        self.coverage.note("files checked");
        self.converge().await
    }

    fn lost(&self, n: usize, text: String) -> Violation {
        self.broken("files", format!("d{n}: {text}"))
    }

    fn settle_files(&mut self, n: usize, library: &Library) -> Checked<ScanReport> {
        let folder = self.devices[n].files();
        let scanned = self.at(n, |_| look(library, &folder));
        scanned.map_err(|error| self.lost(n, format!("scan: {}", chain(&error))))
    }

    fn files_of(&self, n: usize, library: &Library) -> Checked<Vec<FileInfo>> {
        library.files(&FileFilter::default()).map_err(|error| self.lost(n, chain(&error)))
    }

    /// What lies on a device, by path, as the library knows it: all of it, and nothing else.
    fn contents_of(&self, n: usize, library: &Library) -> Checked<Vec<(PathBuf, String)>> {
        let all = FileFilter { all: true, ..FileFilter::default() };
        let files = library.files(&all).map_err(|error| self.lost(n, chain(&error)))?;
        let mut said: BTreeMap<&Path, &str> = BTreeMap::new();
        for file in &files {
            said.extend(file.here.iter().map(|path| (path.as_path(), file.content.as_str())));
        }
        let found = found_in(&self.devices[n].files()).map_err(|error| self.broken("setup", error.to_string()))?;
        for (path, content) in &found {
            if said.remove(path.as_path()) != Some(content.as_str()) {
                let text = format!("{} has content {}, and the library says another", path.display(), &content[..8]);
                return Err(self.lost(n, text));
            }
        }
        match said.first_key_value() {
            Some((path, _)) => Err(self.lost(n, format!("the library says that {} is there", path.display()))),
            None => Ok(found),
        }
    }
}

/// Writes, copies, moves and removes files; tells what.
fn change(folder: &Path, mut rng: Rng, n: usize, written: &mut u64) -> std::io::Result<String> {
    let mut told = Vec::new();
    for _ in 0..rng.between(1, 3) {
        let name = *rng.pick(&PATHS);
        let (path, other) = (folder.join(name), folder.join(rng.pick(&PATHS)));
        for place in [&path, &other] {
            std::fs::create_dir_all(place.parent().unwrap_or(folder))?;
        }
        *written += 1;
        match rng.below(10) {
            0..=5 => {
                let bytes = if rng.chance(10) { LARGE_BYTES } else { rng.below(4_000) };
                let mut content = format!("d{n}.{written} ").into_bytes();
                content.extend((0..bytes / 8).flat_map(|_| rng.next().to_be_bytes()));
                std::fs::write(&path, content)?;
                told.push(format!("writes {name}"));
            }
            6 if path.exists() && path != other => {
                std::fs::copy(&path, &other)?;
                stamp(&other, *written)?;
                told.push(format!("copies {name}"));
            }
            7 if path.exists() => {
                std::fs::rename(&path, &other)?;
                told.push(format!("moves {name}"));
            }
            _ if path.exists() => {
                std::fs::remove_file(&path)?;
                told.push(format!("removes {name}"));
            }
            _ => {}
        }
        if path.exists() {
            stamp(&path, *written)?;
        }
    }
    Ok(if told.is_empty() { "nothing happens to files".to_owned() } else { told.join(", ") })
}

/// Gives a file a time of its own: the system's is not that of the simulation.
fn stamp(path: &Path, written: u64) -> std::io::Result<()> {
    let mut file = std::fs::File::options().append(true).open(path)?;
    file.flush()?;
    file.set_modified(std::time::UNIX_EPOCH + Duration::from_millis(START_MS + written))
}

/// The root is there, and scanned.
fn look(library: &Library, folder: &Path) -> Result<ScanReport, Error> {
    std::fs::create_dir_all(folder).map_err(|source| Error::Read { path: folder.to_owned(), source })?;
    library.add_root(ROOT, folder, &[])?;
    library.scan_now(&ScanOptions { emptied: true, ..ScanOptions::default() })
}

/// Moves contents; gives the content that left this device.
async fn movement(library: &Library, way: Contents, mut rng: Rng) -> Result<Option<String>, Error> {
    let options = MoveOptions::default();
    let one = |rng: &mut Rng| -> Result<Option<FileInfo>, Error> {
        let mut files = library.files(&FileFilter::default())?;
        files.retain(|file| !file.here.is_empty());
        Ok((!files.is_empty()).then(|| rng.pick(&files).clone()))
    };
    match way {
        Contents::Push => library.push(&options).await.map(|_| None),
        Contents::Pull => library.pull(&Selection::All, &options).await.map(|_| None),
        Contents::Evict => match one(&mut rng)? {
            Some(file) => library.evict(&file, &options).await.map(|_| Some(file.content)),
            None => Ok(None),
        },
        Contents::Trash => match one(&mut rng)? {
            Some(file) => library.trash(&file).map(|()| None),
            None => Ok(None),
        },
        Contents::Prune => {
            let hours = |hours: u64| Duration::from_secs(hours * 3600);
            let (keep, grace) = (hours(rng.below(48)), hours(rng.between(1, 24)));
            library.prune(&PruneOptions { keep, grace, remote: None }).await.map(|_| None)
        }
    }
}

/// Files below a folder, with the hashes of their contents; isle's own left out.
fn found_in(folder: &Path) -> std::io::Result<Vec<(PathBuf, String)>> {
    let (mut found, mut left) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = left.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".isle")) {
                continue;
            }
            if path.is_dir() {
                left.push(path);
            } else {
                let content = blake3::hash(&std::fs::read(&path)?).to_hex().to_string();
                found.push((path, content));
            }
        }
    }
    found.sort();
    Ok(found)
}
