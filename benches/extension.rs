//! What the loadable extension costs an app when it starts: loading it, and the first call, which opens the file with its 20 tracked tables. Each is measured
//! in a process of its own, for a library is loaded once.
//!
//! `scripts/package-extension && cargo bench --workspace --bench extension`

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use rusqlite::{Connection, LoadExtensionGuard};

const RUNS: usize = 31;
const TABLES: usize = 20;

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().collect();
    // `cargo test` builds benches and runs them with --test: nothing to do then.
    if words.iter().any(|word| word == "--test") {
        return Ok(());
    }
    if let [_, child, library, file] = &words[..]
        && child == "--child"
    {
        return measure(library, file);
    }
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/extension/isle.so");
    ensure!(library.exists(), "{} is not there: scripts/package-extension builds it", library.display());
    let folder = tempfile::tempdir()?;
    let file = made(folder.path())?;
    let mut times: [Vec<f64>; 3] = Default::default();
    for _ in 0..RUNS {
        let mut child = Command::new(std::env::current_exe()?);
        child
            .args(["--child".as_ref(), library.as_os_str(), file.as_os_str()])
            .env("ISLE_HOME", folder.path().join("home"));
        let output = child.output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8(output.stdout)?;
        for (times, word) in times.iter_mut().zip(said.split_whitespace()) {
            times.push(word.parse()?);
        }
    }
    let names = ["opening the file without it", "loading the extension", "the first call, isle_version()"];
    let mut out = std::io::stdout().lock();
    use std::io::Write as _;
    writeln!(out, "a file with {TABLES} tracked tables, medians of {RUNS} processes, in ms (p90)")?;
    for (name, mut times) in names.into_iter().zip(times) {
        times.sort_by(f64::total_cmp);
        writeln!(out, "{name:<32} {:>7.2} ({:.2})", times[times.len() / 2], times[times.len() * 9 / 10])?;
    }
    Ok(())
}

/// A replica with as many tables, and some rows in each.
fn made(folder: &Path) -> anyhow::Result<PathBuf> {
    let file = folder.join("app.db");
    let replica = isle::Replica::builder(&file).home(folder.join("home")).init()?;
    let names: Vec<String> = (0..TABLES).map(|n| format!("table_{n}")).collect();
    replica.write(|tx| {
        for name in &names {
            tx.execute_batch(&format!("CREATE TABLE {name}(id INTEGER PRIMARY KEY, a TEXT, b INTEGER, c REAL); INSERT INTO {name} VALUES(1, 'x', 2, 3.5)"))?;
        }
        Ok(())
    })?;
    replica.track(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
    replica.close()?;
    Ok(file)
}

fn measure(library: &str, file: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    let ms = |begun: Instant| begun.elapsed().as_secs_f64() * 1e3;
    let begun = Instant::now();
    let conn = Connection::open(file)?;
    conn.query_row("SELECT count(*) FROM table_0", [], |row| row.get::<_, i64>(0))?;
    let opened = ms(begun);
    let begun = Instant::now();
    // SAFETY: it is the library that this repository builds.
    unsafe {
        let _guard = LoadExtensionGuard::new(&conn)?;
        conn.load_extension(library, None::<&str>).context("the extension is not loaded")?;
    }
    let loaded = ms(begun);
    let begun = Instant::now();
    conn.query_row("SELECT isle_version()", [], |row| row.get::<_, i64>(0))?;
    writeln!(std::io::stdout(), "{opened} {loaded} {}", ms(begun))?;
    Ok(())
}
