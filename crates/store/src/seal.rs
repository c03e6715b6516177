//! Seal: what was captured becomes one changeset, and the clocks of its rows.
//!
//! Both ways of capture end in [`Sealer::touch`], which alone decides what a touched row means: it looks whether the row is there
//! now and what its clock says. Rows come in canonical key order, tables in id order, so the same changes give the same body.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use isle_changeset::{
    BlockInfo, BodyWriter, Header, Key, RowKind, SealedBlock, Value, ValueRef, canonical_value, has_forms, pack_key,
    unpack_key,
};
use isle_clock::Hlc;
use isle_schema::ColumnId;
use rusqlite::{Connection, params};

use crate::StoreError;
use crate::capture::{Capture, Event, EventKind, Values, pack};
use crate::clocks::{ClockTable, LocalStamp, RowClock, bind, from_sql};
use crate::error::Doing as _;
use crate::journal::{Journal, Loss, Reason};
use crate::layout::log_id;
use crate::own::{Own, take_causes};
use crate::queue::Queue;
use crate::shadow;
use crate::tracked::{Tracked, WORD_BITS, collation_name, join};

/// Builds the site's next version, block by block.
pub(crate) struct Sealer<'c> {
    conn: &'c Connection,
    id: i64,
    hlc: Hlc,
    baseline: bool,
    stamp: LocalStamp,
    writer: BodyWriter,
    infos: Vec<BlockInfo>,
    /// The first block stays in memory: most changesets have no other and keep it beside the header.
    first: Option<Vec<u8>>,
    tables: Vec<i64>,
    /// There are updates that the row clocks do not show.
    owes: bool,
    /// Other clients made these changes, perhaps without foreign keys.
    foreign: bool,
    /// Of the table that is being sealed: whether some merged rows stand in its shadow, and whether touched rows have to be
    /// looked at by `repair`.
    shadowed: bool,
    repair: bool,
}

/// With which stamp a changeset is sealed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamping {
    /// The time.
    pub(crate) now_ms: u64,
    /// Its cells carry time 0, so that any real write beats them; only new rows can.
    pub(crate) baseline: bool,
}

impl Stamping {
    /// The time as it is.
    pub(crate) fn now(now_ms: u64) -> Stamping {
        Stamping { now_ms, baseline: false }
    }
}

/// A row that was touched.
pub(crate) struct Touch<'a> {
    pub(crate) key: &'a [ValueRef<'a>],
    /// Whether the row is there now.
    pub(crate) present: bool,
    /// Whether it most likely had no clock before.
    pub(crate) fresh: bool,
    /// Changed cells.
    pub(crate) mask: &'a [u64],
    /// All cells: the packed exact key or NULL, then the columns. Cells outside the mask are read for a new life only.
    pub(crate) cells: &'a [ValueRef<'a>],
    /// Whether cells outside the mask hold the row's values.
    pub(crate) complete: bool,
}

impl<'c> Sealer<'c> {
    /// Starts the next version, stamped as of `now_ms`.
    pub(crate) fn begin(conn: &'c Connection, own: &mut Own, now_ms: u64, baseline: bool) -> Result<Self, StoreError> {
        let hlc = own.clock.tick(now_ms)?;
        let mut sealer = Sealer::at(conn, own, hlc);
        if baseline {
            sealer.baseline = true;
            sealer.stamp.hlc = Hlc::ZERO.bits();
        }
        Ok(sealer)
    }

    /// Starts the next version with a time that is long past, which the site's clock does not know of.
    pub(crate) fn at(conn: &'c Connection, own: &Own, hlc: Hlc) -> Self {
        Sealer {
            conn,
            id: log_id(own.no, own.version + 1),
            hlc,
            baseline: false,
            stamp: LocalStamp { hlc: hlc.bits(), site: own.no },
            writer: BodyWriter::new(),
            infos: Vec::new(),
            first: None,
            tables: Vec::new(),
            owes: false,
            foreign: false,
            shadowed: false,
            repair: false,
        }
    }

    /// What the cells of this version carry.
    pub(crate) fn stamp(&self) -> LocalStamp {
        self.stamp
    }

    /// Notes that cells were written whose clocks do not show it.
    pub(crate) fn owes_stamps(&mut self) {
        self.owes = true;
    }

    pub(crate) fn conn(&self) -> &'c Connection {
        self.conn
    }

    /// Starts the rows of a table.
    pub(crate) fn table(&mut self, tracked: &Tracked) -> Result<(), StoreError> {
        self.shadowed = tracked.constrained && shadow::any(self.conn, tracked)?;
        // Where an orphan shows, SQLite counts a parent that comes against another one that is missing.
        self.repair = tracked.constrained
            && (self.foreign || crate::repair::concerns(self.conn, tracked)? || crate::repair::is_owed(self.conn)?);
        let mut columns = vec![ColumnId::KEY];
        columns.extend(tracked.table.columns.iter().map(|column| column.id));
        columns.extend(tracked.kinds.iter().map(crate::kinds::KindColumn::id));
        self.writer.table(tracked.table.id, &columns, tracked.table.key.len());
        self.tables.push(tracked.no);
        Ok(())
    }

    /// Takes a touched row. Gives false if it has no clock and its cells are incomplete: the caller must
    /// look at the table.
    pub(crate) fn touch(
        &mut self,
        tracked: &Tracked,
        clocks: &mut ClockTable<'_>,
        touch: &Touch<'_>,
    ) -> Result<bool, StoreError> {
        let Touch { key, present, mask, .. } = *touch;
        if self.shadowed && !self.meets_shadow(tracked, touch)? {
            return Ok(true);
        }
        if self.repair {
            crate::repair::owe(self.conn, tracked.no, &pack_key(key))?;
        }
        if !tracked.kinds.is_empty() {
            return self.touch_kinds(tracked, clocks, touch);
        }
        if present && touch.fresh && clocks.insert(key, 1, self.stamp)? {
            self.insert_row(tracked, 1, touch)?;
            return Ok(true);
        }
        if !present && clocks.bury_first_life(key, self.stamp)? {
            self.row(tracked, RowKind::Delete, 2, &[], key, &[])?;
            return Ok(true);
        }
        let length = clocks.length(key)?;
        let next = RowClock { length: length + 1, stamp: self.stamp, exceptions: Vec::new() };
        match (length % 2 == 1, present) {
            (true, true) => {
                self.update_row(tracked, length, mask, touch)?;
            }
            (true, false) => {
                clocks.update(key, &next)?;
                self.row(tracked, RowKind::Delete, next.length, &[], key, &[])?;
            }
            (false, true) => {
                if !touch.complete {
                    return Ok(false);
                }
                clocks.put(key, length > 0, &next)?;
                self.insert_row(tracked, next.length, touch)?;
            }
            (false, false) => {}
        }
        Ok(true)
    }

    /// Brings the shadow of a touched row up to what the table shows; false if nothing happened to the row as it is merged.
    fn meets_shadow(&self, tracked: &Tracked, touch: &Touch<'_>) -> Result<bool, StoreError> {
        let Some(hidden) = shadow::state(self.conn, tracked, touch.key)? else { return Ok(true) };
        match (touch.present, hidden) {
            // It came over the hidden row and went again.
            (false, true) => return Ok(false),
            (true, false) => {
                let exact = match touch.cells[0] {
                    ValueRef::Blob(packed) if touch.mask[0] & 1 == 1 => unpack_key(packed, touch.key.len()).ok(),
                    _ => None,
                };
                let exact: Option<Vec<_>> = exact.as_ref().map(|key| key.iter().map(Value::as_ref).collect());
                shadow::update(self.conn, tracked, touch.key, exact.as_deref(), touch.mask, touch.cells)?;
            }
            (true, true) => {
                self.journal_hidden(tracked, touch)?;
                shadow::forget(self.conn, tracked, touch.key)?;
            }
            (false, false) => shadow::forget(self.conn, tracked, touch.key)?,
        }
        Ok(true)
    }

    /// Journals the values of a hidden row over which another was inserted, by somebody who could not see it. Stamps may still be owed
    /// here: the entry may name an older one, for people alone.
    fn journal_hidden(&self, tracked: &Tracked, touch: &Touch<'_>) -> Result<(), StoreError> {
        let columns = format!("NULL{}", tracked.column_list(""));
        let hidden = shadow::values(self.conn, tracked, (true, &columns, ""), touch.key)?.unwrap_or_default();
        let Some(clock) = crate::clocks::clock(self.conn, tracked, touch.key)? else { return Ok(()) };
        let mut journal = Journal::open(self.conn)?;
        for (cell, value) in hidden.iter().enumerate().skip(1) {
            if value.as_ref() != touch.cells[cell] {
                let (loser, winner) = (clock.cell(cell), Some(self.stamp));
                let loss = Loss { cell, value: value.as_ref(), loser, winner, reason: Reason::Older };
                journal.add(tracked, touch.key, loss)?;
            }
        }
        Ok(())
    }

    /// Writes changed cells, if there are any.
    pub(crate) fn update_row(
        &mut self,
        tracked: &Tracked,
        length: u64,
        mask: &[u64],
        touch: &Touch<'_>,
    ) -> Result<(), StoreError> {
        if mask.iter().all(|word| *word == 0) {
            return Ok(());
        }
        // The clock stays as it is: the log has the stamps until somebody needs them.
        self.owes = true;
        self.row(tracked, RowKind::Update, length, mask, touch.key, &masked(mask, touch.cells))
    }

    /// Writes a row that names every column, and the exact key where it differs.
    pub(crate) fn insert_row(&mut self, tracked: &Tracked, length: u64, touch: &Touch<'_>) -> Result<(), StoreError> {
        let exact = !matches!(touch.cells[0], ValueRef::Null);
        let cells = tracked.cells();
        let mut mask = [0u64; 1];
        if cells <= 64 {
            mask[0] = (u64::MAX >> (64 - cells)) & !u64::from(!exact);
            let from = usize::from(!exact);
            return self.row(tracked, RowKind::Insert, length, &mask, touch.key, &touch.cells[from..]);
        }
        let mask = all_cells(cells, exact);
        self.row(tracked, RowKind::Insert, length, &mask, touch.key, &masked(&mask, touch.cells))
    }

    /// Adds a row as it stands; its clock is the caller's.
    pub(crate) fn row(
        &mut self,
        tracked: &Tracked,
        kind: RowKind,
        length: u64,
        mask: &[u64],
        key: &[ValueRef<'_>],
        values: &[ValueRef<'_>],
    ) -> Result<(), StoreError> {
        let full = self.writer.row(kind, length, mask, key, values);
        let full = full.map_err(|source| StoreError::RowTooLarge { table: tracked.table.name.clone(), source })?;
        full.map_or(Ok(()), |block| self.store(block))
    }

    fn store(&mut self, block: SealedBlock) -> Result<(), StoreError> {
        let n = self.infos.len();
        self.infos.push(block.info);
        if n == 0 {
            self.first = Some(block.bytes);
            return Ok(());
        }
        if let Some(first) = self.first.take() {
            put_block(self.conn, self.id, 0, &first)?;
        }
        put_block(self.conn, self.id, n, &block.bytes)
    }

    /// Closes the version and appends it to the log; `None` when nothing changed after all.
    pub(crate) fn finish(mut self, own: &mut Own) -> Result<Option<Sealed>, StoreError> {
        if let Some(block) = std::mem::take(&mut self.writer).finish() {
            self.store(block)?;
        }
        if self.infos.is_empty() {
            return Ok(None);
        }
        let header = Header {
            group: own.group,
            site: own.site,
            version: own.version + 1,
            hlc: self.hlc,
            baseline: self.baseline,
            previous: own.chain,
            causes: take_causes(self.conn, own)?,
            floor: crate::compact::take_floor(self.conn, own)?,
            heads: own.heads.clone(),
            blocks: self.infos,
        };
        let encoded = header.encode();
        let sql = "INSERT INTO isle_log(id, hlc, header, body) VALUES(?1, ?2, ?3, ?4)";
        let mut statement = self.conn.prepare_cached(sql).doing("append to the log")?;
        statement.execute(params![self.id, self.hlc.bits() as i64, encoded, self.first]).doing("append to the log")?;
        own.version += 1;
        if self.owes {
            crate::settle::owe(self.conn, &own.unsettled, own.version)?;
        }
        own.chain = Header::hash(&encoded);
        Ok(Some(Sealed { version: header.version, rows: header.rows(), tables: self.tables }))
    }
}

/// What a seal put into the log.
#[derive(Debug, Clone)]
pub(crate) struct Sealed {
    pub(crate) version: u64,
    pub(crate) rows: u64,
    /// Local numbers of the tables that changed.
    pub(crate) tables: Vec<i64>,
}

/// Stores one block of a changeset that has several.
pub(crate) fn put_block(conn: &Connection, id: i64, n: usize, bytes: &[u8]) -> Result<(), StoreError> {
    let sql = "INSERT OR REPLACE INTO isle_block(id, n, body) VALUES(?1, ?2, ?3)";
    let mut statement = conn.prepare_cached(sql).doing("store a block")?;
    statement.execute(params![id, n as i64, bytes]).doing("store a block")?;
    Ok(())
}

/// A mask of every cell, with the exact key or without.
pub(crate) fn all_cells(cells: usize, exact: bool) -> Vec<u64> {
    let mut mask = vec![u64::MAX; cells.div_ceil(64)];
    if let Some(last) = mask.last_mut() {
        *last >>= (64 - cells % 64) % 64;
    }
    mask[0] &= !u64::from(!exact);
    mask
}

/// Whether a mask has every column, with or without the exact key.
pub(crate) fn covers_all_columns(tracked: &Tracked, mask: &[u64]) -> bool {
    mask.iter().map(|word| word.count_ones() as usize).sum::<usize>() - (mask.first().map_or(0, |m| m & 1) as usize)
        == tracked.table.columns.len()
}

/// Stamps the masked cells; if those are all columns, the row itself, and the exact key keeps its stamp.
pub(crate) fn stamp_cells(tracked: &Tracked, clock: &mut RowClock, mask: &[u64], whole: bool, stamp: LocalStamp) {
    if whole {
        let key = if mask[0] & 1 == 1 { stamp } else { clock.cell(0) };
        *clock = RowClock { length: clock.length, stamp, exceptions: Vec::new() };
        if !tracked.table.rowid_key {
            clock.stamp_cell(0, key);
        }
        return;
    }
    for cell in bits(mask) {
        clock.stamp_cell(cell, stamp);
    }
}

/// The numbers of the set bits.
pub(crate) fn bits(mask: &[u64]) -> impl Iterator<Item = usize> + '_ {
    mask.iter().enumerate().flat_map(|(word, bits)| {
        let mut bits = *bits;
        std::iter::from_fn(move || {
            (bits != 0).then(|| {
                let bit = bits.trailing_zeros() as usize;
                bits &= bits - 1;
                word * 64 + bit
            })
        })
    })
}

/// The masked cells; mostly they are one, or stand side by side, and need no copy.
pub(crate) fn masked<'t, 'a>(mask: &[u64], cells: &'t [ValueRef<'a>]) -> Cow<'t, [ValueRef<'a>]> {
    if let [word] = *mask {
        let (first, count) = (word.trailing_zeros(), word.count_ones());
        if count > 0 && (word >> first).trailing_ones() == count {
            return Cow::Borrowed(&cells[first as usize..(first + count) as usize]);
        }
    }
    Cow::Owned(bits(mask).map(|cell| cells[cell]).collect())
}

/// Fewer new rows with consecutive keys are sealed one by one.
const RUN_MIN: usize = 16;
/// More of them are sealed in parts: what the one statement has read is still at hand for the other.
const RUN_MAX: usize = 4096;

/// Seals what was captured in passing; false beside it if some of it went to the queue, for the next touch. Tables that need the
/// queue's path have been moved there before.
pub(crate) fn seal_events(
    conn: &Connection,
    own: &mut Own,
    capture: &mut Capture,
    Stamping { now_ms, baseline }: Stamping,
    wanted: impl Fn(&Tracked) -> bool,
) -> Result<(Option<Sealed>, bool), StoreError> {
    let has_news = |n: &usize| !capture.tables[*n].events.is_empty() && wanted(&capture.tables[*n].tracked);
    let mut order: Vec<usize> = (0..capture.tables.len()).filter(has_news).collect();
    order.sort_by_key(|n| capture.tables[*n].tracked.table.id);
    let mut sealer = Sealer::begin(conn, own, now_ms, baseline)?;
    let mut strays = Vec::new();
    for n in order {
        capture.sort(n);
        let tracked = Arc::clone(&capture.tables[n].tracked);
        if baseline {
            crate::layout::set_baseline(conn, tracked.no, own.no, own.version + 1)?;
        }
        sealer.table(&tracked)?;
        let mut clocks = ClockTable::open(conn, &tracked);
        seal_table_events(&mut sealer, &mut clocks, &tracked, capture, n, &mut strays)?;
    }
    let sealed = sealer.finish(own)?;
    let complete = strays.is_empty();
    for (tracked, key) in strays {
        // A row without a clock: its insert was never captured. The next seal reads it whole.
        let key: Vec<_> = key.iter().map(isle_changeset::Value::as_ref).collect();
        Queue::open(conn, &tracked)?.add(None, &key, now_ms)?;
    }
    Ok((sealed, complete))
}

type Stray = (Arc<Tracked>, Key);

fn seal_table_events(
    sealer: &mut Sealer<'_>,
    clocks: &mut ClockTable<'_>,
    tracked: &Arc<Tracked>,
    capture: &Capture,
    n: usize,
    strays: &mut Vec<Stray>,
) -> Result<(), StoreError> {
    let keys = tracked.table.key.len();
    let events = &capture.tables[n].events;
    let (mut key, mut next_key, mut row) = (Vec::new(), Vec::new(), Vec::new());
    let mut cells = vec![ValueRef::Null; tracked.cells()];
    let (mut at, mut no_run_before) = (0, 0);
    while at < events.len() {
        if at >= no_run_before && !sealer.repair && !sealer.shadowed {
            let count = run_length(capture, &events[at..]);
            if count >= RUN_MIN && seal_run(sealer, clocks, tracked, capture.first_key(&events[at]), count)? {
                at += count;
                continue;
            }
            no_run_before = at + count;
        }
        let fresh = matches!(events[at].kind, EventKind::Insert | EventKind::New);
        let mut present;
        let (mut mask, mut in_table) = (0u64, false);
        let mut values = capture.key(&events[at], keys, &mut key);
        loop {
            let event = &events[at];
            present = event.kind != EventKind::Delete;
            mask |= event.mask;
            if event.kind == EventKind::New {
                in_table = true;
            } else {
                bits(&[event.mask]).for_each(|cell| cells[cell] = values.take());
            }
            at += 1;
            let Some(next) = events.get(at) else { break };
            values = capture.key(next, keys, &mut next_key);
            if next_key != key {
                break;
            }
        }
        if in_table && present {
            present = read_row(sealer.conn, tracked, &key, &mut row)?;
        }
        let mut stored = Values::new(&row);
        let read: Vec<ValueRef<'_>>;
        let cells = if in_table && present {
            read = (0..tracked.cells()).map(|_| stored.take()).collect();
            &read
        } else {
            &cells
        };
        let complete = mask.count_ones() as usize == tracked.table.columns.len();
        let touch = Touch { key: &key, present, fresh, mask: &[mask], cells, complete };
        if !sealer.touch(tracked, clocks, &touch)? {
            strays.push((Arc::clone(tracked), key.iter().map(|value| value.to_value()).collect()));
        }
    }
    Ok(())
}

/// How many of the first events are new rows, nothing else, whose integer keys follow one another.
fn run_length(capture: &Capture, events: &[Event]) -> usize {
    let number = |event: &Event| match (event.kind, capture.first_key(event)) {
        (EventKind::New, ValueRef::Integer(number)) => Some(number),
        _ => None,
    };
    let Some(first) = events.first().and_then(number) else { return 0 };
    let follows =
        |(n, event): &(usize, &Event)| number(event).is_some_and(|key| key.checked_sub(first) == Some(*n as i64));
    let count = events.iter().take(RUN_MAX).enumerate().take_while(follows).count();
    // Something else happened to the last one too.
    let again = |next: &Event| capture.first_key(next) == ValueRef::Integer(first + count as i64 - 1);
    count - usize::from(events.get(count).is_some_and(again))
}

/// Seals new rows with consecutive keys: one statement writes their clocks, one reads them. False, and nothing is done, if one of
/// them has a clock.
fn seal_run(
    sealer: &mut Sealer<'_>,
    clocks: &mut ClockTable<'_>,
    tracked: &Tracked,
    first: ValueRef<'_>,
    count: usize,
) -> Result<bool, StoreError> {
    let ValueRef::Integer(first) = first else { return Ok(false) };
    let last = first + count as i64 - 1;
    // States differ from row to row; there the rows are read in one go alone.
    let clocked = tracked.kinds.is_empty();
    if clocked && !clocks.insert_run(first, last, sealer.stamp)? {
        return Ok(false);
    }
    let all = all_cells(tracked.cells(), false);
    let (key, table) = (crate::layout::quoted(&tracked.table.key[0].name), crate::layout::quoted(&tracked.table.name));
    let columns = tracked.column_list("");
    let sql = format!("SELECT {key}{columns} FROM {table} WHERE {key} BETWEEN ?1 AND ?2 ORDER BY {key}");
    let mut statement = sealer.conn.prepare_cached(&sql).doing("read new rows")?;
    let mut rows = statement.query((first, last)).doing("read new rows")?;
    while let Some(row) = rows.next().doing("read new rows")? {
        let value = |at: usize| row.get_ref(at).map(from_sql).doing("read new rows");
        let cells = (0..tracked.cells()).map(|cell| if cell == 0 { Ok(ValueRef::Null) } else { value(cell) });
        let cells: Vec<_> = cells.collect::<Result<_, _>>()?;
        let touch = Touch { key: &[value(0)?], present: true, fresh: true, mask: &all, cells: &cells, complete: true };
        if clocked {
            sealer.insert_row(tracked, 1, &touch)?;
        } else {
            sealer.touch(tracked, clocks, &touch)?;
        }
    }
    Ok(true)
}

/// Reads the cells of a row into `packed`; false if it is not there.
pub(crate) fn read_row(
    conn: &Connection,
    tracked: &Tracked,
    key: &[ValueRef<'_>],
    packed: &mut Vec<u8>,
) -> Result<bool, StoreError> {
    packed.clear();
    let columns = tracked.column_list("");
    let sql = format!(
        "SELECT NULL{columns} FROM {} WHERE {}",
        crate::layout::quoted(&tracked.table.name),
        tracked.key_match(1)
    );
    let mut statement = conn.prepare_cached(&sql).doing("read a new row")?;
    bind(&mut statement, key, 1)?;
    let mut rows = statement.raw_query();
    let Some(row) = rows.next().doing("read a new row")? else { return Ok(false) };
    for cell in 0..tracked.cells() {
        pack(packed, from_sql(row.get_ref(cell).doing("read a new row")?));
    }
    Ok(true)
}

/// Whether foreign clients left something in the queue.
pub(crate) fn queue_waits(conn: &Connection) -> Result<bool, StoreError> {
    let queued = crate::clocks::one::<i64>(conn, "SELECT 1 FROM isle_queue LIMIT 1", [])?.is_some();
    Ok(queued || crate::companion::waits(conn)?)
}

/// Seals the queue as one version and empties it.
pub(crate) fn seal_queue(
    conn: &Connection,
    own: &mut Own,
    tables: &[Arc<Tracked>],
    Stamping { now_ms, baseline }: Stamping,
) -> Result<Option<Sealed>, StoreError> {
    let sql = "SELECT CAST(max(coalesce(w, ?1)) AS REAL) FROM isle_queue";
    let now = crate::triggers::julian_day_of_ms(now_ms);
    let noted = crate::clocks::one::<Option<f64>>(conn, sql, [now])?.flatten().unwrap_or(0.0);
    let noted = crate::triggers::ms_of_julian_day(noted).min(now_ms);
    let sql = "SELECT t, count(o0) > 0 FROM isle_queue GROUP BY t";
    let mut statement = conn.prepare_cached(sql).doing("read the queue")?;
    let queued = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).doing("read the queue")?;
    let queued: HashMap<i64, bool> = queued.collect::<Result<_, _>>().doing("read the queue")?;
    let mut order: Vec<&Arc<Tracked>> = tables.iter().filter(|tracked| queued.contains_key(&tracked.no)).collect();
    order.sort_by_key(|tracked| tracked.table.id);
    let mut sealer = Sealer::begin(conn, own, noted, baseline)?;
    sealer.foreign = !baseline;
    for tracked in order {
        if baseline {
            crate::layout::set_baseline(conn, tracked.no, own.no, own.version + 1)?;
        }
        seal_table_queue(&mut sealer, conn, tracked, queued.get(&tracked.no).is_some_and(|updates| *updates))?;
    }
    let stamp = sealer.stamp();
    let sealed = sealer.finish(own)?;
    crate::companion::stamp(conn, tables, stamp)?;
    let listed = crate::clocks::one::<i64>(conn, "SELECT count(*) FROM isle_table", [])?.unwrap_or(0);
    if listed == tables.len() as i64 {
        conn.execute("DELETE FROM isle_queue", []).doing("empty the queue")?;
    } else {
        // What waits for a table that stands still is kept for its return.
        let numbers = join(tables.iter().map(|tracked| tracked.no.to_string()), ", ");
        conn.execute(&format!("DELETE FROM isle_queue WHERE t IN ({numbers})"), []).doing("empty the queue")?;
    }
    Ok(sealed)
}

fn seal_table_queue(
    sealer: &mut Sealer<'_>,
    conn: &Connection,
    tracked: &Arc<Tracked>,
    updates: bool,
) -> Result<(), StoreError> {
    let (words, keys) = (tracked.queue_words(), tracked.table.key.len());
    let masks = join((0..words).map(|n| format!("q.m{n}")), ", ");
    let queue_key = join((0..keys).map(|n| format!("q.k{n}")), ", ");
    let order =
        join((0..keys).map(|n| format!("k{n} COLLATE {}", collation_name(tracked.table.key[n].collation))), ", ");
    let on = join(tracked.table.key.iter().enumerate().map(|(n, column)| key_equals(tracked, column, n)), " AND ");
    let row_key = tracked.key_list("d.");
    let columns = tracked.column_list("d.");
    let table = crate::layout::quoted(&tracked.table.name);
    // LIMIT keeps SQLite from merging the two levels: keys are sorted alone, then rows are read in key order.
    let sql = format!(
        "SELECT {masks}, {queue_key}, {row_key}{columns}
         FROM ({} ORDER BY {order} LIMIT -1) AS q LEFT JOIN {table} AS d ON {on}",
        entries_sql(tracked, updates)
    );
    let mut statement = conn.prepare(&sql).doing("read the queue")?;
    let mut rows = statement.raw_query();
    let mut clocks = ClockTable::open(conn, tracked);
    sealer.table(tracked)?;
    let mut pending = QueuedRow::new(tracked);
    while let Some(row) = rows.next().doing("read the queue")? {
        if !pending.is_same(row, tracked)? {
            pending.seal(sealer, tracked, &mut clocks)?;
            pending.read(row, tracked)?;
        }
        pending.add_mask(row, tracked)?;
    }
    pending.seal(sealer, tracked, &mut clocks)
}

/// Masks and keys of a table's entries; where an update has moved a row to another key, both keys.
fn entries_sql(tracked: &Tracked, updates: bool) -> String {
    let (words, keys, no) = (tracked.queue_words(), tracked.table.key.len(), tracked.no);
    let key = join((0..keys).map(|n| format!("k{n}")), ", ");
    if !updates {
        let masks = join((0..words).map(|n| format!("m{n}")), ", ");
        return format!("SELECT {masks}, {key} FROM isle_queue WHERE t = {no}");
    }
    let moved = crate::triggers::moved(tracked);
    let masks = join((0..words).map(|n| format!("CASE WHEN {moved} THEN NULL ELSE m{n} END AS m{n}")), ", ");
    let (all, left) = (join((0..words).map(|_| "NULL".into()), ", "), join((0..keys).map(|n| format!("o{n}")), ", "));
    format!(
        "SELECT {masks}, {key} FROM isle_queue WHERE t = {no}
         UNION ALL SELECT {all}, {left} FROM isle_queue WHERE t = {no} AND {moved}"
    )
}

fn key_equals(tracked: &Tracked, column: &isle_schema::KeyColumn, n: usize) -> String {
    let name = crate::layout::quoted(&column.name);
    let collation = collation_name(column.collation);
    if tracked.table.rowid_key {
        format!("d.{name} = q.k{n}")
    } else {
        format!("d.{name} = q.k{n} COLLATE {collation}")
    }
}

/// A key from the queue with the row that it has now; its room is used again for the next.
struct QueuedRow {
    /// The canonical key and then the cells, packed; empty before the first row.
    packed: Vec<u8>,
    mask: Vec<u64>,
    present: bool,
    /// Whether the row's key has other forms, so that cell 0 means something.
    forms: bool,
}

impl QueuedRow {
    fn new(tracked: &Tracked) -> QueuedRow {
        let mask = vec![0; tracked.cells().div_ceil(64)];
        QueuedRow { packed: Vec::new(), mask, present: false, forms: false }
    }

    /// Whether an entry is about the row that is held.
    fn is_same(&self, row: &rusqlite::Row<'_>, tracked: &Tracked) -> Result<bool, StoreError> {
        if self.packed.is_empty() {
            return Ok(false);
        }
        let words = tracked.queue_words();
        let mut held = Values::new(&self.packed);
        for (n, column) in tracked.table.key.iter().enumerate() {
            let value = from_sql(row.get_ref(words + n).doing("read the queue")?);
            let same = match canonical_value(value, column) {
                Some(canonical) => held.take() == canonical.as_ref(),
                None => held.take() == value,
            };
            if !same {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes the row of a new key.
    fn read(&mut self, row: &rusqlite::Row<'_>, tracked: &Tracked) -> Result<(), StoreError> {
        let (words, keys, cells) = (tracked.queue_words(), tracked.table.key.len(), tracked.cells());
        let value = |at: usize| row.get_ref(at).map(from_sql).doing("read the queue");
        self.packed.clear();
        self.mask.fill(0);
        (self.present, self.forms) = (true, false);
        for (n, column) in tracked.table.key.iter().enumerate() {
            let queued = value(words + n)?;
            match canonical_value(queued, column) {
                Some(canonical) => pack(&mut self.packed, canonical.as_ref()),
                None => pack(&mut self.packed, queued),
            }
            let exact = value(words + keys + n)?;
            self.present &= !matches!(exact, ValueRef::Null);
            self.forms |= !tracked.table.rowid_key && has_forms(exact, column);
        }
        self.forms &= self.present;
        if self.forms {
            let exact: Vec<_> = (0..keys).map(|n| value(words + keys + n)).collect::<Result<_, _>>()?;
            pack(&mut self.packed, ValueRef::Blob(&pack_key(&exact)));
        } else {
            pack(&mut self.packed, ValueRef::Null);
        }
        for column in 1..cells {
            pack(&mut self.packed, value(words + 2 * keys + column - 1)?);
        }
        Ok(())
    }

    fn add_mask(&mut self, row: &rusqlite::Row<'_>, tracked: &Tracked) -> Result<(), StoreError> {
        let cells = tracked.cells();
        let all = row.get::<_, Option<i64>>(0).doing("read the queue")?.is_none();
        for word in 0..tracked.queue_words() {
            let changed: Option<i64> = row.get(word).doing("read the queue")?;
            let changed = if all { -1 } else { changed.unwrap_or(0) };
            let width = WORD_BITS.min(cells - word * WORD_BITS);
            let changed = changed as u64 & ((1 << width) - 1);
            // A queue word has 62 bits, a word of the mask 64.
            let (at, shift) = (word * WORD_BITS / 64, word * WORD_BITS % 64);
            self.mask[at] |= changed << shift;
            if let Some(next) = self.mask.get_mut(at + 1).filter(|_| shift > 64 - WORD_BITS) {
                *next |= changed >> (64 - shift);
            }
        }
        self.mask[0] &= !u64::from(!self.forms);
        tracked.widen(&mut self.mask);
        Ok(())
    }

    fn seal(&self, sealer: &mut Sealer<'_>, tracked: &Tracked, clocks: &mut ClockTable<'_>) -> Result<(), StoreError> {
        if self.packed.is_empty() {
            return Ok(());
        }
        let mut values = Values::new(&self.packed);
        let key: Vec<_> = (0..tracked.table.key.len()).map(|_| values.take()).collect();
        let cells: Vec<_> = (0..tracked.cells()).map(|_| values.take()).collect();
        // Hints of an update need the old clock, those of an insert most often find none.
        let fresh = bits(&self.mask).count() >= tracked.table.columns.len();
        let touch = Touch { key: &key, present: self.present, fresh, mask: &self.mask, cells: &cells, complete: true };
        sealer.touch(tracked, clocks, &touch).map(|_| ())
    }
}
