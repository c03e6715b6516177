//! Entries of the queue table that isle makes itself, as a trigger would.

use isle_changeset::ValueRef;
use rusqlite::{CachedStatement, Connection};

use crate::StoreError;
use crate::clocks::bind;
use crate::error::Doing as _;
use crate::tracked::{Tracked, join};

/// Appends entries about the rows of one table.
pub(crate) struct Queue<'c> {
    no: i64,
    words: usize,
    statement: CachedStatement<'c>,
}

impl<'c> Queue<'c> {
    pub(crate) fn open(conn: &'c Connection, tracked: &Tracked) -> Result<Queue<'c>, StoreError> {
        let (words, keys) = (tracked.queue_words(), tracked.table.key.len());
        let columns = join((0..words).map(|n| format!("m{n}")).chain(tracked.clock_key()), ", ");
        let parameters = join((3..3 + words + keys).map(|n| format!("?{n}")), ", ");
        let sql = format!("INSERT INTO isle_queue(t, w, {columns}) VALUES(?1, ?2, {parameters})");
        let statement = conn.prepare_cached(&sql).doing("queue a change")?;
        Ok(Queue { no: tracked.no, words, statement })
    }

    /// Appends one; without masks it is about all cells.
    pub(crate) fn add(&mut self, masks: Option<&[i64]>, key: &[ValueRef<'_>], now_ms: u64) -> Result<(), StoreError> {
        let Queue { no, words, statement } = self;
        statement.raw_bind_parameter(1, *no).doing("queue a change")?;
        statement.raw_bind_parameter(2, crate::triggers::julian_day_of_ms(now_ms)).doing("queue a change")?;
        for word in 0..*words {
            statement.raw_bind_parameter(3 + word, masks.and_then(|masks| masks.get(word))).doing("queue a change")?;
        }
        bind(statement, key, 3 + *words)?;
        statement.raw_execute().doing("queue a change")?;
        Ok(())
    }
}
