//! Which sites a merge looks at: those whose next version may be ready.
//!
//! A site that waits for another one is looked at again when that one has come far enough, one that is ahead of time when
//! its time has come, and any when something new of it arrives. So a merge costs what became ready, not what waits. The plan is kept
//! between the merges of a connection, and made anew once another connection has written.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use isle_changeset::Hash;
use isle_clock::{Clock, ClockError, Hlc, SiteId};
use rusqlite::{Connection, OptionalExtension as _};

use crate::engine::Engine;
use crate::error::Doing as _;
use crate::layout::log_id;
use crate::{Options, StoreError, Waiting};

/// The next waiting version of a site.
pub(crate) struct Next {
    pub(crate) no: i64,
    pub(crate) site: SiteId,
    pub(crate) version: u64,
    pub(crate) chain: Hash,
    /// The time of the version before.
    pub(crate) hlc: u64,
    /// Where to begin with its causes: those before have been met. They are looked at as well, but last.
    pub(crate) met: usize,
}

/// Sites that wait, and what for.
pub(crate) struct Plan {
    /// What the engine had seen of other connections' writes.
    epoch: u64,
    /// Sites to look at: the local number, and [`Next::met`].
    queue: VecDeque<(i64, usize)>,
    /// Sites that are in the queue because something new came: each once, whatever order frames come in.
    asked: HashSet<i64>,
    /// By the site and the version that is waited for: who waits, with [`Next::met`].
    held: HashMap<SiteId, BTreeMap<u64, HashMap<i64, usize>>>,
    /// Sites whose next version is ahead of time.
    later: BTreeSet<(Hlc, i64)>,
    waiting: BTreeMap<SiteId, (u64, Waiting)>,
}

impl Plan {
    /// The plan of the merge before, if nobody else has written since; else one that looks at every site of which something waits.
    pub(crate) fn of(
        engine: &mut Engine,
        plan: Option<Plan>,
        options: &Options,
        now_ms: u64,
    ) -> Result<Plan, StoreError> {
        let own = engine.own()?;
        let mut plan = match plan.or_else(|| engine.plan.take()).filter(|plan| plan.epoch == engine.epoch) {
            Some(plan) => plan,
            None => Plan {
                epoch: engine.epoch,
                queue: waiting_sites(&engine.conn, own.no)?,
                asked: HashSet::new(),
                held: HashMap::new(),
                later: BTreeSet::new(),
                waiting: BTreeMap::new(),
            },
        };
        plan.advanced(own.site, own.version);
        let due = |hlc: Hlc| Clock::check_drift(hlc, now_ms, options.unset_before_ms, options.drift).is_ok();
        while let Some((_, no)) = plan.later.first().copied().filter(|(hlc, _)| due(*hlc)) {
            plan.later.pop_first();
            plan.look_at(no);
        }
        Ok(plan)
    }

    /// Something new of a site is in the log.
    pub(crate) fn look_at(&mut self, no: i64) {
        if self.asked.insert(no) {
            self.queue.push_back((no, 0));
        }
    }

    /// A site has come up to a version: whoever waited for it is looked at.
    pub(crate) fn advanced(&mut self, site: SiteId, version: u64) {
        let Some(held) = self.held.get_mut(&site) else { return };
        while let Some(first) = held.first_entry().filter(|first| *first.key() <= version) {
            self.queue.extend(first.remove());
        }
        if held.is_empty() {
            self.held.remove(&site);
        }
    }

    /// The next site to look at.
    pub(crate) fn next(&mut self, conn: &Connection) -> Result<Option<Next>, StoreError> {
        let Some((no, met)) = self.queue.pop_front() else { return Ok(None) };
        self.asked.remove(&no);
        let mut statement = conn
            .prepare_cached("SELECT id, version, chain, hlc FROM isle_site WHERE no = ?1")
            .doing("look for waiting changesets")?;
        let next = statement.query_row([no], |row| {
            let chain: Option<[u8; 32]> = row.get(2)?;
            Ok(Next {
                no,
                site: SiteId::from_bytes(row.get(0)?),
                version: row.get::<_, i64>(1)? as u64 + 1,
                chain: chain.unwrap_or_default(),
                hlc: row.get::<_, i64>(3)? as u64,
                met,
            })
        });
        let next = next.optional().doing("look for waiting changesets")?;
        let next = next.ok_or_else(|| StoreError::Internal { table: "isle_site", detail: format!("no site {no}") })?;
        self.waiting.remove(&next.site);
        Ok(Some(next))
    }

    /// The site goes on in the next transaction.
    pub(crate) fn again(&mut self, next: &Next) {
        self.queue.push_front((next.no, next.met));
    }

    /// The site's next version is not ready.
    pub(crate) fn hold(&mut self, next: &Next, why: Waiting) {
        match &why {
            Waiting::Cause { site, version } => {
                self.held.entry(*site).or_default().entry(*version).or_default().insert(next.no, next.met);
            }
            Waiting::Future(ClockError::Drift { hlc, .. }) => {
                self.later.insert((*hlc, next.no));
            }
            // Frames of the site itself or a schema operation change that; the latter makes the plan anew.
            _ => {}
        }
        self.waiting.insert(next.site, (next.version, why));
    }

    /// Whether sites are left to look at.
    pub(crate) fn is_done(&self) -> bool {
        self.queue.is_empty()
    }

    /// What waits, by site.
    pub(crate) fn waiting(&self) -> Vec<(SiteId, u64, Waiting)> {
        self.waiting.iter().map(|(site, (version, why))| (*site, *version, why.clone())).collect()
    }

    /// Stored bytes of what the sites in the queue have in the log and is not merged.
    pub(crate) fn bytes(&self, conn: &Connection) -> Result<u64, StoreError> {
        let sql = "SELECT (SELECT coalesce(sum(length(body)), 0) FROM isle_log WHERE id > ?1 AND id < ?2)
                        + (SELECT coalesce(sum(length(body)), 0) FROM isle_block WHERE id > ?1 AND id < ?2)";
        let numbers: BTreeSet<i64> = self.queue.iter().map(|(no, _)| *no).collect();
        let mut bytes = 0;
        for no in numbers {
            let version = "SELECT version FROM isle_site WHERE no = ?1";
            let version = crate::clocks::one::<i64>(conn, version, [no])?.unwrap_or(0) as u64;
            let range = [log_id(no, version), log_id(no + 1, 0)];
            bytes += crate::clocks::one::<i64>(conn, sql, range)?.unwrap_or(0) as u64;
        }
        Ok(bytes)
    }
}

/// Sites of which something waits in the log, in the order of their ids.
fn waiting_sites(conn: &Connection, own: i64) -> Result<VecDeque<(i64, usize)>, StoreError> {
    let sql = "SELECT no FROM isle_site AS s WHERE no <> ?1 AND EXISTS
               (SELECT 1 FROM isle_log WHERE id > (s.no << 44 | s.version) AND id < (s.no + 1) << 44) ORDER BY id";
    let mut statement = conn.prepare_cached(sql).doing("look for waiting changesets")?;
    let rows = statement.query_map([own], |row| Ok((row.get(0)?, 0)));
    rows.doing("look for waiting changesets")?.collect::<Result<_, _>>().doing("look for waiting changesets")
}
