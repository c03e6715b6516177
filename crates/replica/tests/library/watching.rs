//! Roots that are watched.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use isle::{Library, WatchOptions};

use crate::Device;

/// Watches until the test ends with it.
struct Watching {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watching {
    fn start(library: &Library, options: WatchOptions) -> Watching {
        let (library, stop) = (library.clone(), Arc::clone(&options.stop));
        let thread = Some(std::thread::spawn(move || library.watch(&options, |_| {}).unwrap()));
        Watching { stop, thread }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::yield_now();
    }
}

fn quick() -> WatchOptions {
    WatchOptions { settle: Duration::from_millis(300), ..WatchOptions::default() }
}

#[test]
fn what_comes_changes_moves_and_goes_is_taken_up_once() {
    let folder = tempfile::tempdir().unwrap();
    let a = Device::with_root(folder.path(), "a");
    a.put("before.txt", "before");
    let _watching = Watching::start(&a.library, quick());
    until("what was there before", || a.paths() == ["docs/before.txt"]);
    a.put("new/deep/x.txt", "x");
    until("a new folder with a file", || a.paths().contains(&"docs/new/deep/x.txt".to_owned()));
    let first = a.file("docs/new/deep/x.txt");
    a.put("new/deep/x.txt", "another");
    until("a change", || a.file("docs/new/deep/x.txt").id != first.id);
    let second = a.file("docs/new/deep/x.txt");
    fs::rename(a.root.join("new/deep/x.txt"), a.root.join("y.txt")).unwrap();
    until("a move", || a.paths() == ["docs/before.txt", "docs/y.txt"]);
    assert_eq!(a.file("docs/y.txt").id, second.id);
    fs::remove_file(a.root.join("y.txt")).unwrap();
    until("that it went", || a.presences(&second.id).iter().all(|(.., state)| state == "missing"));
    assert_eq!(a.paths(), ["docs/before.txt", "docs/y.txt"], "its row stays");
    // A scan by hand beside it sees nothing twice.
    a.put("both.txt", "both");
    a.scan();
    until("the same file", || a.paths().len() == 3);
    assert_eq!(a.one::<u64>("SELECT count(*) FROM library_files WHERE path = 'docs/both.txt'"), 1);
}

#[test]
fn a_file_that_is_still_written_is_not_taken_half() {
    use std::io::Write as _;
    let folder = tempfile::tempdir().unwrap();
    let a = Device::with_root(folder.path(), "a");
    let options = WatchOptions { settle: Duration::from_millis(700), ..WatchOptions::default() };
    let _watching = Watching::start(&a.library, options);
    let mut file = fs::File::create(a.root.join("grows.txt")).unwrap();
    let began = Instant::now();
    let mut written = 0;
    // It grows for longer than a file has to stand still, and never stands still for so long.
    while began.elapsed() < Duration::from_secs(2) {
        file.write_all(b"more ").unwrap();
        written += 5;
        assert_eq!(a.paths(), Vec::<String>::new(), "after {written} bytes");
        std::thread::yield_now();
    }
    drop(file);
    until("the whole file", || a.paths() == ["docs/grows.txt"]);
    assert_eq!(a.file("docs/grows.txt").bytes, written);
    assert_eq!(a.one::<u64>("SELECT count(*) FROM library_files"), 1, "one version");
}

#[test]
fn without_notices_the_period_finds_it() {
    let folder = tempfile::tempdir().unwrap();
    let a = Device::with_root(folder.path(), "a");
    let options = WatchOptions { notices: false, period: Duration::from_millis(300), ..quick() };
    let _watching = Watching::start(&a.library, options);
    a.put("x.txt", "x");
    until("by the period", || a.paths() == ["docs/x.txt"]);
}

#[test]
fn an_app_that_syncs_by_itself_puts_contents_too() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = folder.path().join("bucket");
    let replica = isle::Replica::builder(folder.path().join("app.db"))
        .home(folder.path().join("home"))
        .remote("hub", bucket.to_str().unwrap())
        .auto_sync(isle::AutoSync::default().interval(Duration::from_secs(3600)))
        .init()
        .unwrap();
    let mut events = replica.events().unwrap();
    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("n.txt"), "words").unwrap();
    let library = replica.library();
    library.add_root("docs", &root, &[]).unwrap();
    library.scan_now(&isle::ScanOptions::default()).unwrap();
    until("that the contents are there", || match events.try_recv() {
        Ok(isle::LiveEvent::FilesPushed { remote, pushed }) => remote == "hub" && pushed.files == 1,
        _ => false,
    });
    assert_eq!(library.file("docs/n.txt").unwrap().availability, isle::Availability::Synchronized);
}

#[test]
fn a_root_that_is_added_or_comes_back_is_watched() {
    let folder = tempfile::tempdir().unwrap();
    let a = Device::with_root(folder.path(), "a");
    let _watching = Watching::start(&a.library, quick());
    let other = folder.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("1.txt"), "1").unwrap();
    a.library.add_root("other", &other, &[]).unwrap();
    until("the new root", || a.paths() == ["other/1.txt"]);
    fs::rename(&other, folder.path().join("away")).unwrap();
    until("that it is gone", || a.library.roots().unwrap().iter().any(|root| root.flag.is_some()) || !other.exists());
    fs::write(folder.path().join("away/2.txt"), "2").unwrap();
    fs::rename(folder.path().join("away"), &other).unwrap();
    until("that it is back", || a.paths() == ["other/1.txt", "other/2.txt"]);
}
