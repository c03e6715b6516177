//! What it costs that cr-sqlite keeps a file's tables (`isle init --engine cr-sqlite`), beside isle alone and plain SQLite, which take turns.
//!
//! `scripts/fetch-cr-sqlite && cargo bench --workspace --bench engines`; another number of rows is an argument.

use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use isle::{Param, Replica, TableEngine, params};
use isle_benches::data::{Dataset, Key, Keys, Row};
use isle_benches::{crsqlite, sql};

const RUNS: usize = 5;
const ENGINES: [(&str, Option<TableEngine>); 3] = [
    ("plain SQLite", None),
    ("isle", Some(TableEngine::Native)),
    ("isle, kept by cr-sqlite", Some(TableEngine::CrSqlite)),
];
const FIGURES: [&str; 5] = [
    "insert in one transaction, ms",
    "update one column of each row, ms",
    "1,000 transactions of 10 updates, ms",
    "an empty device takes it all from a folder, ms",
    "database file, MB",
];

type Sample = [Option<f64>; FIGURES.len()];

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    // `cargo test` builds benches and runs them with --test: nothing to do then.
    if words.iter().any(|word| word == "--test") {
        return Ok(());
    }
    let rows = words.first().map_or(Ok(200_000), |word| word.parse()).context("the number of rows")?;
    let library = crsqlite::find_extension().context("cr-sqlite is not installed: run scripts/fetch-cr-sqlite")?;
    let data = Dataset::generate(rows);
    let mut samples: [Vec<Sample>; ENGINES.len()] = Default::default();
    for _ in 0..RUNS {
        for ((_, engine), samples) in ENGINES.iter().zip(&mut samples) {
            let folder = tempfile::tempdir()?;
            samples.push(match engine {
                None => plain(folder.path(), &data)?,
                Some(engine) => kept(folder.path(), &data, *engine, &library)?,
            });
        }
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{rows} rows, medians of {RUNS} runs (times plain SQLite)")?;
    for (n, figure) in FIGURES.iter().enumerate() {
        let medians = samples.iter().map(|samples| median(samples.iter().filter_map(|sample| sample[n]).collect()));
        let medians: Vec<Option<f64>> = medians.collect();
        // What a device takes in is compared with an insert.
        let base = medians[0].or_else(|| median(samples[0].iter().filter_map(|sample| sample[0]).collect()));
        writeln!(out, "{figure}")?;
        for ((name, _), value) in ENGINES.iter().zip(&medians) {
            if let Some((value, base)) = value.zip(base) {
                writeln!(out, "  {name:<24} {value:>9.1} ({:.1})", value / base)?;
            }
        }
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn plain(folder: &Path, data: &Dataset) -> anyhow::Result<Sample> {
    let path = folder.join("plain.db");
    let conn = sql::open(&path)?;
    conn.execute_batch(sql::schema(Keys::Int))?;
    let ms = |elapsed: std::time::Duration| Some(elapsed.as_secs_f64() * 1e3);
    let inserted = ms(sql::insert(&conn, data.rows(Keys::Int))?);
    let updated = ms(sql::update(&conn, &data.updates)?);
    let small = ms(sql::small_transactions(&conn, &data.small)?);
    Ok([inserted, updated, small, None, Some(sql::truncated_size(&conn, &path)? as f64 / 1e6)])
}

fn kept(folder: &Path, data: &Dataset, engine: TableEngine, library: &Path) -> anyhow::Result<Sample> {
    let device = |name: &str| -> anyhow::Result<Replica> {
        let builder = Replica::builder(folder.join(name)).home(folder.join(name).with_extension("home"));
        Ok(builder
            .page_cache_bytes(sql::tuning().page_cache_bytes)
            .checkpoint_pages(sql::tuning().checkpoint_pages)
            .cr_sqlite(library)
            .engine(engine)
            .init()?)
    };
    let source = device("source.db")?;
    source.write(|tx| tx.execute_batch(sql::schema(Keys::Int)))?;
    source.track(&["items"])?;
    source.write(|_| Ok(()))?;
    let ms = |begun: Instant| Some(begun.elapsed().as_secs_f64() * 1e3);
    let begun = Instant::now();
    insert(&source, data.rows(Keys::Int))?;
    let inserted = ms(begun);
    let begun = Instant::now();
    update(&source, &data.updates)?;
    let updated = ms(begun);
    let begun = Instant::now();
    data.small.iter().try_for_each(|updates| update(&source, updates))?;
    let small = ms(begun);
    let runtime = tokio::runtime::Runtime::new()?;
    let target = device("target.db")?;
    for replica in [&source, &target] {
        replica.add_plain_remote("folder", folder.join("remote").to_str().context("a name")?)?;
    }
    runtime.block_on(source.sync())?;
    let begun = Instant::now();
    runtime.block_on(target.sync())?;
    let taken = ms(begun);
    ensure!(source.state_hash()? == target.state_hash()?, "the two devices differ");
    let path = source.path().to_owned();
    source.close()?;
    Ok([inserted, updated, small, taken, Some(std::fs::metadata(path)?.len() as f64 / 1e6)])
}

fn insert(replica: &Replica, rows: &[Row]) -> anyhow::Result<()> {
    replica.write(|tx| {
        let mut statement = tx.prepare(sql::INSERT)?;
        for row in rows {
            let key = match &row.key {
                Key::Int(key) => Param::Integer(*key),
                Key::Uuid(key) => Param::Blob(key),
            };
            statement.execute(params![key, &row.title, row.stock, row.score])?;
        }
        Ok(())
    })?;
    Ok(())
}

fn update(replica: &Replica, updates: &[(i64, i64)]) -> anyhow::Result<()> {
    replica.write(|tx| {
        let mut statement = tx.prepare(sql::UPDATE)?;
        for &(key, stock) in updates {
            statement.execute(params![key, stock])?;
        }
        Ok(())
    })?;
    Ok(())
}
