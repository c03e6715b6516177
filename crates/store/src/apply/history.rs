//! What an author had seen at an earlier time: `isle_seen` has only what it has seen by now.
//!
//! Each changeset names what its author has seen since the one before, so the log tells. Where the log was pruned, what the rest of
//! it does not tell of a site counts as it stands now if nothing later names that site, and as unseen otherwise: a value may then be
//! journaled that was not lost to a concurrent write, but none is lost without a word.

use std::collections::HashMap;

use isle_changeset::Header;
use rusqlite::{Connection, params};

use super::Seen;
use crate::StoreError;
use crate::error::Doing as _;
use crate::layout::log_id;
use crate::own::known_site_no;

/// What authors had seen, each as of the time that was asked for last.
pub(crate) struct Histories<'c> {
    conn: &'c Connection,
    authors: HashMap<i64, History>,
}

struct History {
    /// Up to where its headers are read.
    hlc: u64,
    base: HashMap<i64, Seen>,
    seen: HashMap<i64, Seen>,
}

impl<'c> Histories<'c> {
    pub(crate) fn new(conn: &'c Connection) -> Histories<'c> {
        Histories { conn, authors: HashMap::new() }
    }

    /// What an author had seen when it wrote what carries this time.
    pub(crate) fn at(&mut self, author: i64, hlc: u64) -> Result<&HashMap<i64, Seen>, StoreError> {
        let conn = self.conn;
        let history = match self.authors.entry(author) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(slot) => {
                let base = base(conn, author)?;
                slot.insert(History { hlc: 0, seen: base.clone(), base })
            }
        };
        if hlc < history.hlc {
            (history.hlc, history.seen) = (0, history.base.clone());
        }
        if hlc > history.hlc {
            let seen = &mut history.seen;
            each_cause(conn, author, history.hlc, hlc, |site, version, hlc| {
                let known = seen.entry(site).or_insert(Seen { version: 0, hlc: 0 });
                (known.version, known.hlc) = (known.version.max(version), known.hlc.max(hlc));
            })?;
            history.hlc = hlc;
        }
        Ok(&history.seen)
    }
}

/// What an author has seen of sites that none of its changesets in the log names.
fn base(conn: &Connection, author: i64) -> Result<HashMap<i64, Seen>, StoreError> {
    let mut base = super::seen_by(conn, author)?;
    each_cause(conn, author, 0, u64::MAX >> 1, |site, _, _| {
        base.remove(&site);
    })?;
    Ok(base)
}

/// Calls back for each cause in an author's headers with a time after `after`, up to `until`.
fn each_cause(
    conn: &Connection,
    author: i64,
    after: u64,
    until: u64,
    mut take: impl FnMut(i64, u64, u64),
) -> Result<(), StoreError> {
    let sql = "SELECT header FROM isle_log WHERE id > ?1 AND id < ?2 AND hlc > ?3 AND hlc <= ?4 ORDER BY id";
    let mut statement = conn.prepare_cached(sql).doing("read causes")?;
    let range = params![log_id(author, 0), log_id(author + 1, 0), after as i64, until as i64];
    let mut rows = statement.query(range).doing("read causes")?;
    while let Some(row) = rows.next().doing("read causes")? {
        let encoded: Vec<u8> = row.get(0).doing("read causes")?;
        let header = Header::decode(&encoded).map_err(|source| StoreError::BadHeader { source })?;
        for cause in header.causes {
            if let Some(site) = known_site_no(conn, cause.site)? {
                take(site, cause.version, cause.hlc.bits());
            }
        }
    }
    Ok(())
}
