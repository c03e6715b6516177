//! Fingerprints of a replica's state, on demand.

use std::sync::Arc;

use isle_changeset::{Hash, Value, canonical_key, pack_key};
use isle_clock::SiteId;
use isle_schema::ColumnId;
use rusqlite::Connection;

use crate::StoreError;
use crate::clocks::{CLOCK_FIELDS, RowClock, alive, from_sql};
use crate::error::Doing as _;
use crate::kinds;
use crate::layout::quoted;
use crate::settle::Settled;
use crate::tracked::Tracked;

/// Two hashes of what a replica holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateHash {
    /// Merged live cells with their stamps, in logical form: equal on replicas that have merged the same changesets.
    pub merged: Hash,
    /// The rows as a query sees them.
    pub visible: Hash,
    /// Rows that show.
    pub rows: u64,
}

/// Hashes every live row of the tracked tables, by table id and canonical key.
pub(crate) fn state(conn: &Connection, tables: &[Arc<Tracked>], _: &Settled) -> Result<StateHash, StoreError> {
    let mut sites: Vec<Option<SiteId>> = Vec::new();
    let mut statement = conn.prepare("SELECT no, id FROM isle_site ORDER BY no").doing("read the sites")?;
    let mut rows = statement.query([]).doing("read the sites")?;
    while let Some(row) = rows.next().doing("read the sites")? {
        let (no, id): (i64, [u8; 16]) = (row.get(0).doing("read the sites")?, row.get(1).doing("read the sites")?);
        let no = usize::try_from(no).unwrap_or(0);
        sites.resize(sites.len().max(no + 1), None);
        sites[no] = Some(SiteId::from_bytes(id));
    }
    let mut order: Vec<&Arc<Tracked>> = tables.iter().collect();
    order.sort_by_key(|tracked| tracked.table.id);
    let into = Into { merged: true, visible: true };
    let mut hasher = Hasher { merged: blake3::Hasher::new(), visible: blake3::Hasher::new(), rows: 0, sites, into };
    for tracked in order {
        hasher.table(conn, tracked)?;
    }
    let (merged, visible) = (*hasher.merged.finalize().as_bytes(), *hasher.visible.finalize().as_bytes());
    Ok(StateHash { merged, visible, rows: hasher.rows })
}

struct Hasher {
    merged: blake3::Hasher,
    visible: blake3::Hasher,
    rows: u64,
    sites: Vec<Option<SiteId>>,
    /// Which hashes a pass over the rows goes into: one pass fills both where all rows show as they are merged.
    into: Into,
}

struct Into {
    merged: bool,
    visible: bool,
}

impl Hasher {
    fn table(&mut self, conn: &Connection, tracked: &Tracked) -> Result<(), StoreError> {
        self.into = Into { merged: true, visible: true };
        self.merged.update(tracked.table.id.as_bytes());
        self.visible.update(tracked.table.id.as_bytes());
        if !tracked.has_shadow || !crate::shadow::any(conn, tracked)? {
            return self.rows(conn, tracked, &tracked.clocks_beside(&quoted(&tracked.table.name), "JOIN"));
        }
        self.into = Into { merged: true, visible: false };
        self.rows(conn, tracked, &tracked.clocks_and_rows(conn, "JOIN")?)?;
        self.into = Into { merged: false, visible: true };
        self.rows(conn, tracked, &tracked.clocks_beside(&quoted(&tracked.table.name), "JOIN"))
    }

    fn rows(&mut self, conn: &Connection, tracked: &Tracked, scan: &str) -> Result<(), StoreError> {
        let keys = tracked.table.key.len();
        let order = tracked.clock_order();
        let sql = format!("SELECT {scan} WHERE {} ORDER BY {order}", alive("c."));
        let mut statement = conn.prepare(&sql).doing("hash the rows")?;
        let mut rows = statement.raw_query();
        let mut by_id: Vec<usize> = (0..tracked.table.columns.len()).collect();
        by_id.sort_by_key(|column| tracked.table.columns[*column].id);
        while let Some(row) = rows.next().doing("hash the rows")? {
            let Some(clock) = RowClock::read(row, 0, tracked)? else { continue };
            let exact: Vec<_> = (0..keys)
                .map(|n| row.get_ref(CLOCK_FIELDS + keys + n).map(from_sql).doing("hash the rows"))
                .collect::<Result<_, _>>()?;
            let (canonical, packed) = canonical_key(&exact, &tracked.table.key);
            let canonical: Vec<_> = canonical.iter().map(Value::as_ref).collect();
            self.both(&pack_key(&canonical));
            if self.into.merged {
                self.merged.update(&clock.length.to_le_bytes());
            }
            if let Some(packed) = packed {
                self.cell(&clock, 0, ColumnId::KEY, &packed);
            }
            let state = tracked.state_in(row)?;
            for &column in &by_id {
                let value = from_sql(row.get_ref(CLOCK_FIELDS + 2 * keys + column).doing("hash the rows")?);
                let id = tracked.table.columns[column].id;
                self.cell(&clock, column + 1, id, &pack_key(&[value]));
                if let Some(kind) = tracked.kinds.iter().find(|kind| self.into.merged && kind.cell == column + 1) {
                    self.merged.update(&self.logical(&state, kind));
                }
            }
            self.rows += u64::from(self.into.visible);
        }
        Ok(())
    }

    fn cell(&mut self, clock: &RowClock, cell: usize, id: ColumnId, packed: &[u8]) {
        let stamp = clock.cell(cell);
        let site = usize::try_from(stamp.site).ok().and_then(|no| self.sites.get(no).copied().flatten());
        self.both(id.as_bytes());
        self.both(packed);
        if self.into.merged {
            self.merged.update(&stamp.hlc.to_le_bytes());
            self.merged.update(site.as_ref().map_or(&[0; 16], SiteId::as_bytes).as_slice());
        }
    }

    /// What a cell of a kind goes by, as every device tells it.
    fn logical(&self, state: &kinds::Row, column: &kinds::KindColumn) -> Vec<u8> {
        let mut lines = vec![pack_key(&[state.base(column)])];
        for entry in state.state().filter(|entry| entry.cell == column.cell) {
            if let (kinds::What::Document, Some(name)) = (entry.what, entry.document_name()) {
                // Edits of what another value has replaced wait on one device and have their place on another.
                if state.root_edited(column).is_some_and(|root| name.starts_with(&root)) {
                    lines.push([&[entry.what as u8], name.as_slice()].concat());
                }
                continue;
            }
            let site = usize::try_from(entry.stamp.site).ok().and_then(|no| self.sites.get(no).copied().flatten());
            let mut line = vec![entry.what as u8];
            line.extend(pack_key(&[entry.value.as_ref()]));
            match entry.what {
                // Of two equal extremes either may stand; a total of nothing is as good as none.
                kinds::What::Max | kinds::What::Min | kinds::What::Gone => {}
                kinds::What::Document | kinds::What::Edited => continue,
                kinds::What::Total if entry.value == Value::Integer(0) => continue,
                _ => line.extend(site.as_ref().map_or(&[0; 16], SiteId::as_bytes)),
            }
            if entry.what == kinds::What::Member {
                line.extend(entry.stamp.hlc.to_le_bytes());
            }
            lines.push(line);
        }
        lines[1..].sort_unstable();
        lines
            .iter()
            .flat_map(|line| (line.len() as u64).to_le_bytes().into_iter().chain(line.iter().copied()))
            .collect()
    }

    fn both(&mut self, bytes: &[u8]) {
        let hashers = [(self.into.merged, &mut self.merged), (self.into.visible, &mut self.visible)];
        for (_, hasher) in hashers.into_iter().filter(|(wanted, _)| *wanted) {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        }
    }
}
