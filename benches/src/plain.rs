//! Plain SQLite: the baseline of every ratio.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rusqlite::Connection;

use crate::data::{Dataset, Keys, Row};
use crate::engine::{ChangeTable, Conflict, Counter, Cx, Engine, FileSize, ForeignInsert, OneRow, Scratch, median};
use crate::text::{self, TextEdit};
use crate::{sql, wire};

const NAME: &str = "plain";
const DATABASE: &str = "plain.db";

/// SQLite without anything on top.
#[derive(Debug)]
pub struct Plain;

impl Plain {
    /// A copy of the database with all rows.
    fn full(cx: &Cx<'_>, scratch: &Scratch, keys: Keys) -> Result<PathBuf> {
        let template = cx.template(NAME, &format!("full-{}", keys.name()), |dir| {
            let path = dir.join(DATABASE);
            let conn = create(&path, keys)?;
            sql::insert(&conn, cx.data.rows(keys))?;
            drop(conn);
            sql::check_closed(&path)
        })?;
        scratch.copy(&template.join(DATABASE), DATABASE)
    }

    fn open_full(cx: &Cx<'_>, scratch: &Scratch, keys: Keys) -> Result<Connection> {
        sql::open(&Self::full(cx, scratch, keys)?)
    }

    fn timed_insert(cx: &Cx<'_>, keys: Keys) -> Result<Duration> {
        let scratch = cx.scratch()?;
        let conn = create(&scratch.path(DATABASE), keys)?;
        let elapsed = sql::insert(&conn, cx.data.rows(keys))?;
        sql::check(&conn, Dataset::digest(cx.data.rows(keys)))?;
        Ok(elapsed)
    }
}

fn create(path: &Path, keys: Keys) -> Result<Connection> {
    let conn = sql::open(path)?;
    conn.execute_batch(sql::schema(keys))?;
    Ok(conn)
}

impl Engine for Plain {
    fn name(&self) -> &'static str {
        NAME
    }

    fn describe(&self) -> Result<String> {
        Ok(format!("SQLite {}", rusqlite::version()))
    }

    fn insert(&mut self, cx: &Cx<'_>, keys: Keys) -> Result<Option<Duration>> {
        Self::timed_insert(cx, keys).map(Some)
    }

    fn foreign_insert(&mut self, cx: &Cx<'_>) -> Result<Option<ForeignInsert>> {
        Ok(Some(ForeignInsert { write: Self::timed_insert(cx, Keys::Int)?, capture: None }))
    }

    fn update_column(&mut self, cx: &Cx<'_>) -> Result<Option<Duration>> {
        let scratch = cx.scratch()?;
        let conn = Self::open_full(cx, &scratch, Keys::Int)?;
        let elapsed = sql::update(&conn, &cx.data.updates)?;
        sql::check(&conn, cx.data.digest_after(&cx.data.updates, &[]))?;
        Ok(Some(elapsed))
    }

    fn counter(&mut self, cx: &Cx<'_>) -> Result<Option<Counter>> {
        let scratch = cx.scratch()?;
        let conn = create(&scratch.path(DATABASE), Keys::Int)?;
        let insert = sql::insert(&conn, cx.data.rows(Keys::Int))?;
        let update = sql::update(&conn, &cx.data.updates)?;
        sql::check(&conn, cx.data.digest_after(&cx.data.updates, &[]))?;
        Ok(Some(Counter { insert, update, apply: insert + update }))
    }

    fn change_table(&mut self, cx: &Cx<'_>) -> Result<Option<ChangeTable>> {
        let scratch = cx.scratch()?;
        let conn = Self::open_full(cx, &scratch, Keys::Int)?;
        let start = Instant::now();
        conn.execute_batch("ALTER TABLE items ADD COLUMN note TEXT DEFAULT 'none'")?;
        let add = start.elapsed();
        let anew = sql::changed_schema(true).replace("items", "items_anew");
        let start = Instant::now();
        conn.execute_batch(&format!(
            "BEGIN IMMEDIATE; {anew}; INSERT INTO items_anew SELECT * FROM items; DROP TABLE items;
             ALTER TABLE items_anew RENAME TO items; PRAGMA foreign_key_check; COMMIT"
        ))?;
        let rebuild = start.elapsed();
        sql::check(&conn, Dataset::digest(cx.data.rows(Keys::Int)))?;
        Ok(Some(ChangeTable { add, rebuild }))
    }

    fn edit_text(&mut self, cx: &Cx<'_>, length: usize) -> Result<Option<TextEdit>> {
        text::plain(&cx.scratch()?, length).map(Some)
    }

    fn delete_half(&mut self, cx: &Cx<'_>) -> Result<Option<Duration>> {
        let scratch = cx.scratch()?;
        let conn = Self::open_full(cx, &scratch, Keys::Int)?;
        let elapsed = sql::delete(&conn, &cx.data.half)?;
        sql::check(&conn, cx.data.digest_after(&[], &cx.data.half))?;
        Ok(Some(elapsed))
    }

    fn small_transactions(&mut self, cx: &Cx<'_>) -> Result<Option<Duration>> {
        let scratch = cx.scratch()?;
        let conn = Self::open_full(cx, &scratch, Keys::Int)?;
        let elapsed = sql::small_transactions(&conn, &cx.data.small)?;
        sql::check(&conn, cx.data.digest_after(cx.data.small.iter().flatten(), &[]))?;
        Ok(Some(elapsed))
    }

    fn extract(&mut self, cx: &Cx<'_>, keys: Keys) -> Result<Option<Duration>> {
        let scratch = cx.scratch()?;
        let conn = Self::open_full(cx, &scratch, keys)?;
        sql::full_scan(&conn, cx.data.rows(keys).len()).map(Some)
    }

    fn apply(&mut self, cx: &Cx<'_>, keys: Keys) -> Result<Option<Duration>> {
        Self::timed_insert(cx, keys).map(Some)
    }

    fn apply_conflicts(&mut self, cx: &Cx<'_>, kind: Conflict) -> Result<Option<Duration>> {
        let scratch = cx.scratch()?;
        let conn = Self::open_full(cx, &scratch, Keys::Int)?;
        let contended = cx.data.contended();
        let (elapsed, expected) = match kind {
            Conflict::Update => (sql::update(&conn, &cx.data.theirs)?, cx.data.digest_after(&cx.data.theirs, &[])),
            Conflict::Delete => (sql::delete(&conn, &contended)?, cx.data.digest_after(&[], &contended)),
        };
        sql::check(&conn, expected)?;
        Ok(Some(elapsed))
    }

    fn bytes_sent(&mut self, cx: &Cx<'_>, keys: Keys) -> Result<Option<u64>> {
        wire::compressed_size(&wire::plain_values(cx.data.rows(keys))).map(Some)
    }

    fn file_size(&mut self, cx: &Cx<'_>) -> Result<Option<FileSize>> {
        let scratch = cx.scratch()?;
        let path = Self::full(cx, &scratch, Keys::Int)?;
        let conn = sql::open(&path)?;
        let with_log = sql::truncated_size(&conn, &path)?;
        conn.execute_batch("VACUUM")?;
        let compacted = sql::truncated_size(&conn, &path)?;
        Ok(Some(FileSize { with_log, compacted: Some(compacted) }))
    }

    fn one_row(&mut self, cx: &Cx<'_>) -> Result<Option<OneRow>> {
        let (here, there) = (cx.scratch()?, cx.scratch()?);
        let source = Self::open_full(cx, &here, Keys::Int)?;
        let target = Self::open_full(cx, &there, Keys::Int)?;
        let (mut write, mut extract, mut apply) = (Vec::new(), Vec::new(), Vec::new());
        for row in &cx.data.extra {
            write.push(sql::insert(&source, std::slice::from_ref(row))?);
            let start = Instant::now();
            let sent = select_one(&source, row)?;
            extract.push(start.elapsed());
            apply.push(sql::insert(&target, &[sent])?);
        }
        let expected = Dataset::digest(cx.data.rows(Keys::Int).iter().chain(&cx.data.extra));
        sql::check(&source, expected)?;
        sql::check(&target, expected)?;
        Ok(Some(OneRow { write: median(write), extract: median(extract), apply: median(apply) }))
    }

    fn open(&mut self, cx: &Cx<'_>) -> Result<Option<Duration>> {
        let template = cx.template(NAME, "many-tables", |dir| {
            let path = dir.join(DATABASE);
            let conn = sql::open(&path)?;
            for (create, fill) in sql::MANY_TABLES.map(sql::many_tables) {
                conn.execute_batch(&create)?;
                conn.execute_batch(&fill)?;
            }
            drop(conn);
            sql::check_closed(&path)
        })?;
        let scratch = cx.scratch()?;
        let path = scratch.copy(&template.join(DATABASE), DATABASE)?;
        let mut times = Vec::new();
        for _ in 0..sql::OPENINGS {
            let start = Instant::now();
            let conn = sql::open(&path)?;
            sql::first_read(&conn)?;
            times.push(start.elapsed());
        }
        Ok(Some(median(times)))
    }

    fn point_reads(&mut self, cx: &Cx<'_>) -> Result<Option<Duration>> {
        let scratch = cx.scratch()?;
        let conn = Self::open_full(cx, &scratch, Keys::Int)?;
        sql::point_reads(&conn, &cx.data.points).map(Some)
    }

    fn full_scan(&mut self, cx: &Cx<'_>) -> Result<Option<Duration>> {
        let scratch = cx.scratch()?;
        let conn = Self::open_full(cx, &scratch, Keys::Int)?;
        sql::full_scan(&conn, cx.data.rows(Keys::Int).len()).map(Some)
    }
}

fn select_one(conn: &Connection, expected: &Row) -> Result<Row> {
    let mut statement = conn.prepare_cached(sql::SELECT_ONE)?;
    let (title, stock, score) =
        statement.query_row([expected.key], |row| Ok((row.get(1)?, row.get(2)?, row.get(3)?)))?;
    ensure!(stock == expected.stock, "read the wrong row");
    Ok(Row { key: expected.key, title, stock, score })
}
