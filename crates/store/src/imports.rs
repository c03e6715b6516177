//! What an import needs of the file: rows that count as older than any write, what is known of a key, and a ledger.

use std::sync::Arc;

use isle_changeset::{Value, ValueRef, canonical_key};
use rusqlite::Connection;

use crate::StoreError;
use crate::capture::Capture;
use crate::clocks::{ClockTable, LocalStamp, RowClock, SITE_MASK, from_sql};
use crate::error::Doing as _;
use crate::guard::Mode;
use crate::layout;
use crate::own::Own;
use crate::seal::{Sealed, Stamping, seal_events, seal_queue};
use crate::store::Store;
use crate::tracked::{Tracked, join};
use crate::transaction::Transaction;

/// What the ledger's entries are called among isle's facts.
const PREFIX: &str = "import ";

/// What is known of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Nothing: its table is not tracked, or nobody ever wrote it.
    Unknown,
    /// It is there, though it may be hidden from the table.
    Alive,
    /// It was deleted.
    Deleted,
}

/// Seals what an import wrote: tables with new rows alone as a baseline, in a version of its own, and the others as early as can be. A site has one
/// baseline of a table: which rows are of which of two could not be told.
pub(crate) fn seal(
    (conn, own): (&Connection, &mut Own),
    tables: &[Arc<Tracked>],
    capture: Option<&mut Capture>,
    stamp: Stamping,
) -> Result<(Option<Sealed>, bool), StoreError> {
    let early = Stamping::now(1);
    let Some(capture) = capture else {
        let (mut new, mut others) = (Vec::new(), Vec::new());
        for tracked in tables {
            let keys = queued_keys(conn, tracked)?;
            let is_new = are_new(conn, own, tracked, keys.iter().map(Vec::as_slice))?;
            if is_new { &mut new } else { &mut others }.push(Arc::clone(tracked));
        }
        let first = seal_queue(conn, own, &new, stamp)?;
        let second = seal_queue(conn, own, &others, early)?;
        return Ok((both(first, second), true));
    };
    let mut new = Vec::new();
    for n in 0..capture.tables.len() {
        let tracked = Arc::clone(&capture.tables[n].tracked);
        let (mut keys, mut key) = (Vec::new(), Vec::new());
        for event in &capture.tables[n].events {
            capture.key(event, tracked.table.key.len(), &mut key);
            keys.push(key.iter().map(|value| value.to_value()).collect::<Vec<Value>>());
        }
        if are_new(conn, own, &tracked, keys.iter().map(Vec::as_slice))? {
            new.push(tracked.no);
        }
    }
    let (first, whole) = seal_events(conn, own, capture, stamp, |tracked| new.contains(&tracked.no))?;
    let (second, also) = seal_events(conn, own, capture, early, |tracked| !new.contains(&tracked.no))?;
    Ok((both(first, second), whole && also))
}

/// What two versions in a row sealed.
fn both(first: Option<Sealed>, second: Option<Sealed>) -> Option<Sealed> {
    let (Some(first), Some(mut second)) = (&first, second.clone()) else { return first.or(second) };
    second.rows += first.rows;
    second.tables.extend(&first.tables);
    Some(second)
}

/// The canonical keys of a table's entries in the queue.
fn queued_keys(conn: &Connection, tracked: &Tracked) -> Result<Vec<Vec<Value>>, StoreError> {
    let count = tracked.table.key.len();
    let columns = join((0..count).map(|n| format!("k{n}")), ", ");
    let sql = format!("SELECT {columns} FROM isle_queue WHERE t = ?1");
    let mut statement = conn.prepare(&sql).doing("read the queue")?;
    let mut rows = statement.query([tracked.no]).doing("read the queue")?;
    let mut keys = Vec::new();
    while let Some(row) = rows.next().doing("read the queue")? {
        let exact = (0..count).map(|n| row.get_ref(n).map(from_sql).doing("read the queue"));
        keys.push(canonical_key(&exact.collect::<Result<Vec<_>, _>>()?, &tracked.table.key).0.to_vec());
    }
    Ok(keys)
}

/// Whether nobody has heard of rows with these keys, and no other row of the table carries this site's time 0.
fn are_new<'k>(
    conn: &Connection,
    own: &Own,
    tracked: &Arc<Tracked>,
    keys: impl Iterator<Item = &'k [Value]>,
) -> Result<bool, StoreError> {
    if has_baseline(conn, tracked, own)? {
        return Ok(false);
    }
    let mut clocks = ClockTable::open(conn, tracked);
    for key in keys {
        let key: Vec<_> = key.iter().map(Value::as_ref).collect();
        if clocks.length(&key)? > 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a cell of the table carries this site's time 0. What is owed to the clocks only takes such stamps away.
fn has_baseline(conn: &Connection, tracked: &Tracked, own: &Own) -> Result<bool, StoreError> {
    if layout::baselines(conn, tracked.no)?.get(&own.no).is_none_or(|version| *version > own.version) {
        return Ok(false);
    }
    let sql =
        format!("SELECT h, w, x FROM {} WHERE (h = 0 AND w & {SITE_MASK} = ?1) OR x IS NOT NULL", tracked.clock());
    let mut statement = conn.prepare(&sql).doing("read row clocks")?;
    let mut rows = statement.query([own.no]).doing("read row clocks")?;
    while let Some(row) = rows.next().doing("read row clocks")? {
        let Some(clock) = RowClock::read(row, 0, tracked)? else { continue };
        let is_ours = |stamp: &LocalStamp| stamp.hlc == 0 && stamp.site == own.no;
        if is_ours(&clock.stamp) || clock.exceptions.iter().any(|(_, stamp)| is_ours(stamp)) {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Transaction<'_> {
    /// What is known of the row with this key, as of before this transaction. The values are those of the primary key's columns in their order.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn life(&self, table: &str, key: &[ValueRef<'_>]) -> Result<Life, StoreError> {
        let engine = self.engine();
        let tracked = engine.tables.iter().find(|tracked| tracked.table.name.eq_ignore_ascii_case(table));
        let Some(tracked) = tracked.filter(|tracked| tracked.table.key.len() == key.len()) else {
            return Ok(Life::Unknown);
        };
        let (key, _) = canonical_key(key, &tracked.table.key);
        let key: Vec<_> = key.iter().map(isle_changeset::Value::as_ref).collect();
        let length = engine.guard.with(Mode::Engine, || ClockTable::open(&engine.conn, tracked).length(&key))?;
        Ok(match (length, length % 2) {
            (0, _) => Life::Unknown,
            (_, 1) => Life::Alive,
            _ => Life::Deleted,
        })
    }

    /// Looks at foreign keys when the transaction ends, and not after each statement.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn defer_foreign_keys(&self) -> Result<(), StoreError> {
        let engine = self.engine();
        let defer = || engine.conn.execute_batch("PRAGMA defer_foreign_keys = ON");
        engine.guard.with(Mode::Engine, defer).doing("look at foreign keys at the end")
    }

    /// The rows of a table whose foreign keys lead nowhere, by their rowids, with the table where the parent is missing.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn orphans(&self, table: &str) -> Result<Vec<(Option<i64>, String)>, StoreError> {
        let engine = self.engine();
        engine.guard.with(Mode::Engine, || {
            let sql = "SELECT rowid, parent FROM pragma_foreign_key_check(?1)";
            let mut statement = engine.conn.prepare(sql).doing("look at foreign keys")?;
            let rows = statement.query_map([table], |row| Ok((row.get(0)?, row.get(1)?)));
            rows.doing("look at foreign keys")?.collect::<Result<_, _>>().doing("look at foreign keys")
        })
    }

    /// Notes an import in this file's ledger, with the commit of this transaction. The ledger does not travel.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn note_import(&self, id: &str, record: &str) -> Result<(), StoreError> {
        let engine = self.engine();
        engine.guard.with(Mode::Engine, || layout::set_meta(&engine.conn, &format!("{PREFIX}{id}"), record))
    }
}

impl Store {
    /// The ledger of imports: what was noted under each id.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn imports(&self) -> Result<Vec<(String, String)>, StoreError> {
        self.internal(|conn| {
            let sql = "SELECT substr(k, length(?1) + 1), CAST(v AS TEXT) FROM isle_meta WHERE k > ?1 AND k < 'import!' ORDER BY k";
            let mut statement = conn.prepare(sql).doing("read the ledger of imports")?;
            let rows = statement.query_map([PREFIX], |row| Ok((row.get(0)?, row.get(1)?)));
            rows.doing("read the ledger of imports")?.collect::<Result<_, _>>().doing("read the ledger of imports")
        })
    }

    /// Whether rows of a table are there that count as older than any write, of this site's: new ones of an import cannot count so any more.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn has_baseline(&self, table: &str) -> Result<bool, StoreError> {
        self.note(|engine| {
            let named = |tracked: &&Arc<Tracked>| tracked.table.name.eq_ignore_ascii_case(table);
            let Some(tracked) = engine.tables.iter().find(named) else { return Ok(false) };
            has_baseline(&engine.conn, tracked, &engine.own()?)
        })
    }

    /// Notes something else under an id of the ledger.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn note_import(&self, id: &str, record: &str) -> Result<(), StoreError> {
        self.note(|engine| layout::set_meta(&engine.conn, &format!("{PREFIX}{id}"), record))
    }
}
