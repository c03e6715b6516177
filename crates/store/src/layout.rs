//! isle's own tables in the user's file, and the few facts in `isle_meta`.

use std::collections::HashMap;

use isle_clock::{GroupId, SiteId};
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::StoreError;
use crate::error::Doing as _;

/// The format of isle's tables that this version writes.
pub(crate) const FORMAT: i64 = 1;

/// The fact that holds the nonce of the site's id.
pub(crate) const SITE_NONCE: &str = "site nonce";
/// The fact that holds the nonce of the group's id.
pub(crate) const GROUP_NONCE: &str = "group nonce";

/// Bits of a log id below the site's number: a version.
const VERSION_BITS: u32 = 44;

/// Everything but the clock tables, which come with their tracked table.
const TABLES: &str = "
CREATE TABLE isle_meta(k TEXT PRIMARY KEY, v) WITHOUT ROWID;
CREATE TABLE isle_site(no INTEGER PRIMARY KEY, id BLOB UNIQUE, version INT, hlc INT, chain BLOB, name TEXT,
  proven INT NOT NULL DEFAULT 0);
CREATE TABLE isle_proof(site INT, version INT, body BLOB, PRIMARY KEY(site, version)) WITHOUT ROWID;
CREATE TABLE isle_seen(author INT, site INT, version INT, hlc INT, PRIMARY KEY(author, site)) WITHOUT ROWID;
CREATE TABLE isle_migration(id BLOB PRIMARY KEY, body BLOB, state TEXT, at INT, why) WITHOUT ROWID;
CREATE TABLE isle_parked(t BLOB, id INT, columns BLOB, seq INT, PRIMARY KEY(t, id)) WITHOUT ROWID;
CREATE TABLE isle_gone(t BLOB, k BLOB, seq INT, PRIMARY KEY(t, k)) WITHOUT ROWID;
CREATE TABLE isle_table(no INTEGER PRIMARY KEY, id BLOB UNIQUE, name TEXT, def TEXT);
CREATE TABLE isle_queue(t, w DEFAULT (julianday('now')), m0, k0, o0);
CREATE TABLE isle_log(id INTEGER PRIMARY KEY, hlc INT, header BLOB, body BLOB);
CREATE TABLE isle_block(id INT, n INT, body BLOB, PRIMARY KEY(id, n)) WITHOUT ROWID;
CREATE TABLE isle_conflict(id INTEGER PRIMARY KEY, t INT, k BLOB, col INT, value, h INT, s INT, wh INT, ws INT,
  reason TEXT, state TEXT);
CREATE TABLE isle_floor(site INTEGER PRIMARY KEY, version INT, hlc INT);
CREATE TABLE isle_retired(site INTEGER PRIMARY KEY, version INT);
CREATE TABLE isle_snapshot(n INTEGER PRIMARY KEY, body BLOB);
CREATE TABLE isle_claim(t INT, k BLOB, c TEXT, v BLOB, behind BLOB, PRIMARY KEY(t, k, c, v)) WITHOUT ROWID;
CREATE INDEX isle_claim_v ON isle_claim(t, c, v, behind);
CREATE INDEX isle_claim_behind ON isle_claim(t, behind);
CREATE TABLE isle_owed(t INT, k BLOB, PRIMARY KEY(t, k)) WITHOUT ROWID;
CREATE TABLE isle_remote(name TEXT PRIMARY KEY, url TEXT, plain INT, state TEXT) WITHOUT ROWID;
CREATE TABLE isle_remote_head(remote TEXT, site BLOB, etag TEXT, head BLOB, PRIMARY KEY(remote, site)) WITHOUT ROWID;
CREATE TABLE isle_member(id BLOB PRIMARY KEY, body BLOB) WITHOUT ROWID;
CREATE TABLE isle_peer(key BLOB PRIMARY KEY, state TEXT) WITHOUT ROWID;
CREATE TABLE isle_ops(id INTEGER PRIMARY KEY, kind TEXT, target TEXT, started INT, ended INT, error TEXT, facts TEXT,
  times INT NOT NULL DEFAULT 1, state TEXT, done INT NOT NULL DEFAULT 0, total INT NOT NULL DEFAULT 0, message TEXT);
CREATE TABLE isle_fork(site INTEGER PRIMARY KEY, version INT, told_by TEXT, seen_ms INT, device BLOB);
";

/// Creates isle's tables in an open write transaction.
pub(crate) fn create(conn: &Connection, site: SiteId, group: GroupId, app: &str) -> Result<(), StoreError> {
    conn.execute_batch(TABLES).doing("create isle's tables")?;
    set_meta(conn, "format", FORMAT)?;
    set_meta(conn, "group", group.as_bytes())?;
    set_meta(conn, "app", app)?;
    set_meta(conn, "site", 0)?;
    set_meta(conn, "published", 0)?;
    conn.execute("INSERT INTO isle_site(no, id, version, hlc) VALUES(0, ?1, 0, 0)", [site.as_bytes()])
        .doing("record the site id")?;
    Ok(())
}

/// The names of all of isle's own tables, clock tables included.
pub(crate) fn own_tables(conn: &Connection) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 'isle\\_%' ESCAPE '\\'";
    let mut statement = conn.prepare(sql).doing("list isle's tables")?;
    let names = statement.query_map([], |row| row.get(0)).doing("list isle's tables")?;
    names.collect::<Result<_, _>>().doing("list isle's tables")
}

/// The format of the file; `None` when isle's tables are not there.
pub(crate) fn format(conn: &Connection) -> Result<Option<i64>, StoreError> {
    let found = conn.query_row("SELECT v FROM isle_meta WHERE k = 'format'", [], |row| row.get(0)).optional();
    match found {
        Err(error) if is_missing_table(&error) => Ok(None),
        other => other.doing("open the database"),
    }
}

fn is_missing_table(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::Unknown) && error.to_string().contains("no such table")
}

/// Reads one of isle's facts.
pub(crate) fn meta<T: rusqlite::types::FromSql>(conn: &Connection, key: &str) -> Result<Option<T>, StoreError> {
    let mut statement = conn.prepare_cached("SELECT v FROM isle_meta WHERE k = ?1").doing("read isle_meta")?;
    statement.query_row([key], |row| row.get(0)).optional().doing("read isle_meta")
}

/// Reads a fact that every replica has.
pub(crate) fn require_meta<T: rusqlite::types::FromSql>(conn: &Connection, key: &str) -> Result<T, StoreError> {
    meta(conn, key)?.ok_or_else(|| StoreError::Internal { table: "isle_meta", detail: format!("no {key:?}") })
}

/// Writes one of isle's facts.
pub(crate) fn set_meta(conn: &Connection, key: &str, value: impl rusqlite::ToSql) -> Result<(), StoreError> {
    let sql = "INSERT OR REPLACE INTO isle_meta(k, v) VALUES(?1, ?2)";
    let mut statement = conn.prepare_cached(sql).doing("write isle_meta")?;
    statement.execute(params![key, value]).doing("write isle_meta")?;
    Ok(())
}

/// Notes which version of a site holds its baseline of a table.
pub(crate) fn set_baseline(conn: &Connection, table_no: i64, site_no: i64, version: u64) -> Result<(), StoreError> {
    set_meta(conn, &format!("base {table_no} {site_no}"), version as i64)
}

/// The versions that hold the baselines of a table, by the local number of the site.
pub(crate) fn baselines(conn: &Connection, table_no: i64) -> Result<HashMap<i64, u64>, StoreError> {
    let (from, to) = (format!("base {table_no} "), format!("base {table_no}!"));
    let mut statement =
        conn.prepare_cached("SELECT k, v FROM isle_meta WHERE k > ?1 AND k < ?2").doing("read isle_meta")?;
    let rows = statement.query_map([&from, &to], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)));
    let mut baselines = HashMap::new();
    for row in rows.doing("read isle_meta")? {
        let (key, version) = row.doing("read isle_meta")?;
        if let Some(site) = key.strip_prefix(&from).and_then(|site| site.parse().ok()) {
            baselines.insert(site, version as u64);
        }
    }
    Ok(baselines)
}

/// The row of the log that holds a version of the site with this local number.
pub(crate) fn log_id(site_no: i64, version: u64) -> i64 {
    site_no << VERSION_BITS | (version as i64 & ((1 << VERSION_BITS) - 1))
}

/// The version in a log id.
pub(crate) fn version_of(log_id: i64) -> u64 {
    (log_id & ((1 << VERSION_BITS) - 1)) as u64
}

/// The local number of the site in a log id.
pub(crate) fn site_no_of(log_id: i64) -> i64 {
    log_id >> VERSION_BITS
}

/// An identifier quoted for SQL.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text literal for SQL.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
