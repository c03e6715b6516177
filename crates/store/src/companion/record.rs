//! From cr-sqlite's clocks to the queue, and the seal's stamp back.

use std::sync::Arc;

use isle_changeset::{Value, ValueRef, canonical_key};
use isle_crsqlite::Crr;
use rusqlite::Connection;

use crate::StoreError;
use crate::clocks::{ClockTable, LocalStamp, from_sql};
use crate::error::Doing as _;
use crate::layout;
use crate::queue::Queue;
use crate::seal::bits;
use crate::tracked::{Tracked, WORD_BITS, join};

/// Queues what cr-sqlite recorded since the last seal, as triggers would have.
pub(crate) fn collect(conn: &Connection, tables: &[Arc<Tracked>], now_ms: u64) -> Result<(), StoreError> {
    for tracked in tables {
        let Some(crr) = &tracked.crr else { continue };
        record_zeros(conn, tracked, crr)?;
        let any = format!("SELECT 1 FROM {} LIMIT 1", tracked.clock());
        if crr.is_foreign(conn)? && crate::clocks::one::<i64>(conn, &any, [])?.is_some() {
            // cr-sqlite was put on it anew past isle, and knows nothing of what went before.
            reconcile(conn, tracked, now_ms)?;
        }
        let mut queue = Queue::open(conn, tracked)?;
        crr.written(conn, |key, columns| {
            let key: Vec<ValueRef<'_>> = key.iter().map(Value::as_ref).collect();
            // A REPLACE, of which cr-sqlite records the insert alone, may have given the key another form.
            let masks = columns.filter(|columns| columns.len() < tracked.table.columns.len()).map(|columns| {
                let mut masks = vec![0; tracked.queue_words()];
                columns
                    .iter()
                    .map(|column| column + 1)
                    .for_each(|cell| masks[cell / WORD_BITS] |= 1 << (cell % WORD_BITS));
                masks
            });
            queue.add(masks.as_deref(), &key, now_ms)
        })?;
    }
    Ok(())
}

/// Queues rows that came or went while nobody recorded the table: those that are there without a clock, or the other way round.
pub(super) fn reconcile(conn: &Connection, tracked: &Tracked, now_ms: u64) -> Result<(), StoreError> {
    let on = join(
        tracked.table.key.iter().enumerate().map(|(n, column)| format!("d.{} = c.k{n}", layout::quoted(&column.name))),
        " AND ",
    );
    let (clock, table, alive) = (tracked.clock(), layout::quoted(&tracked.table.name), crate::clocks::alive("c."));
    let clock_key = join(tracked.clock_key().into_iter().map(|key| format!("c.{key}")), ", ");
    let row_key = tracked.key_list("d.");
    let mut queue = Queue::open(conn, tracked)?;
    for sql in [
        format!(
            "SELECT {clock_key} FROM {clock} AS c WHERE {alive} AND NOT EXISTS (SELECT 1 FROM {table} AS d WHERE {on})"
        ),
        format!(
            "SELECT {row_key} FROM {table} AS d WHERE NOT EXISTS (SELECT 1 FROM {clock} AS c WHERE {on} AND {alive})"
        ),
    ] {
        let mut statement = conn.prepare(&sql).doing("look for what was not recorded")?;
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next().doing("look for what was not recorded")? {
            let key = (0..tracked.table.key.len()).map(|n| row.get_ref(n).map(from_sql));
            let key: Vec<_> = key.collect::<Result<_, _>>().doing("look for what was not recorded")?;
            queue.add(None, &key, now_ms)?;
        }
    }
    Ok(())
}

/// Lets cr-sqlite record what it takes for no change, a zero that changed its sign: the one trigger of isle's on a CRR queued it.
fn record_zeros(conn: &Connection, tracked: &Tracked, crr: &Crr) -> Result<(), StoreError> {
    let (words, keys) = (tracked.queue_words(), tracked.table.key.len());
    let columns = join((0..words).map(|n| format!("m{n}")).chain(tracked.clock_key()), ", ");
    let sql = format!("SELECT {columns} FROM isle_queue WHERE t = ?1");
    let mut statement = conn.prepare_cached(&sql).doing("read the queue")?;
    let mut rows = statement.query([tracked.no]).doing("read the queue")?;
    while let Some(row) = rows.next().doing("read the queue")? {
        let mut changed = Vec::new();
        for word in 0..words {
            let mask = row.get::<_, Option<i64>>(word).doing("read the queue")?.unwrap_or(0) as u64;
            changed
                .extend(bits(&[mask]).map(|bit| word * WORD_BITS + bit).filter(|cell| *cell > 0).map(|cell| cell - 1));
        }
        let key = (0..keys).map(|n| row.get_ref(words + n).map(from_sql));
        let key: Vec<_> = key.collect::<Result<_, _>>().doing("read the queue")?;
        crr.record(conn, &key, &changed)?;
    }
    Ok(())
}

/// Gives what was just sealed of these tables its stamp in cr-sqlite's clocks.
pub(crate) fn stamp(conn: &Connection, tables: &[Arc<Tracked>], stamp: LocalStamp) -> Result<(), StoreError> {
    for tracked in tables {
        let Some(crr) = &tracked.crr else { continue };
        if !isle_crsqlite::is_written(conn, crr.table())? {
            continue;
        }
        let site = *crate::own::site_id(conn, stamp.site)?.as_bytes();
        let mut clocks = ClockTable::open(conn, tracked);
        crr.stamp(conn, stamp.hlc as i64, site, |key| {
            let key: Vec<ValueRef<'_>> = key.iter().map(Value::as_ref).collect();
            let (key, _) = canonical_key(&key, &tracked.table.key);
            let key: Vec<ValueRef<'_>> = key.iter().map(Value::as_ref).collect();
            clocks.length(&key)
        })?;
    }
    Ok(())
}
