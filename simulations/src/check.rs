//! What must hold: whenever a device starts after a crash, and at quiet points, when everything was mended and everybody has heard of
//! everything.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashSet};

use isle_changeset::{Header, Value};
use isle_clock::SiteId;
use isle_test_reference::{Sealed, writes};

use crate::device::{Ack, BUCKET, Device, Logged};
use crate::workload::quoted;
use crate::world::{Checked, World, chain};

/// Rounds of syncs after which everybody has heard of everything.
const ROUNDS_MAX: usize = 12;

/// Rounds of syncs without news after which nobody writes to the bucket any more.
const STILL_ROUNDS_MAX: usize = 6;

/// Changesets that somebody has seen of somebody else, or that were published: these are for ever.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(crate) sealed: BTreeMap<(SiteId, u64), Sealed>,
    /// Those that were looked at before they were published: they may have been sealed anew until then.
    supposed: BTreeSet<(SiteId, u64)>,
    /// What devices that are gone have acknowledged, and others had by then.
    pub(crate) acks: Vec<Ack>,
}

impl World {
    /// Looks what a device has acknowledged.
    pub(crate) fn collect(&mut self, n: usize) -> Checked<()> {
        let Some(replica) = self.devices[n].up().cloned() else { return Ok(()) };
        if self.devices[n].damaged {
            return Ok(());
        }
        let status = match replica.store().status() {
            Ok(status) => status,
            Err(_) if self.devices[n].disk.is_troubled() => return Ok(()),
            Err(error) => return Err(self.broken("status", format!("d{n}: {}", chain(&error)))),
        };
        let device = &mut self.devices[n];
        device.seen = Some((status.site, status.version));
        let published = device.published.entry(status.site).or_default();
        *published = (*published).max(status.published);
        let published = *published;
        if status.queued == 0 {
            let (site, version) = (status.site, device.ack_version(status.site, status.version));
            let sealed = std::mem::take(&mut device.unsealed);
            device.acks.extend(sealed.into_iter().map(|token| Ack { token, site, version }));
        }
        // What is not published may be sealed anew, under fewer versions.
        let known = device.went_back != Some(status.site);
        if known && status.version < published {
            let text = format!("d{n} had handed version {published} over, and has {}", status.version);
            return Err(self.broken("durability", text));
        }
        if !self.devices[n].drops_at_once {
            self.remember_put_by(n);
        }
        Ok(())
    }

    /// After a crash a file is sound, and what was acknowledged is there: after a kill all of it, after a power cut what was handed over.
    pub(crate) fn check_after_crash(&mut self, n: usize, power: bool) -> Checked<()> {
        let conn = self.devices[n].plain().map_err(|error| self.broken("crash", format!("d{n}: {error}")))?;
        let sound: String = conn
            .query_row("PRAGMA quick_check", [], |row| row.get(0))
            .map_err(|error| self.broken("crash", format!("d{n}: {error}")))?;
        if sound != "ok" {
            return Err(self.broken("crash", format!("d{n} after a crash: {sound}")));
        }
        let replica = self.replica(n)?;
        let status =
            replica.store().status().map_err(|error| self.broken("crash", format!("d{n}: {}", chain(&error))))?;
        let device = &mut self.devices[n];
        let published = device.published.get(&status.site).copied().unwrap_or(0);
        let (site, version) = (status.site, status.version);
        if power {
            let all = std::mem::take(&mut device.published);
            device.acks.retain(|ack| {
                (ack.site == site && ack.version <= version)
                    || all.get(&ack.site).is_some_and(|last| ack.version <= *last)
            });
            device.published = all;
            device.unsealed.retain(|token| !Device::is_gone(&conn, token));
        }
        if version < published && self.devices[n].went_back != Some(site) {
            let text = format!("d{n} had handed version {published} over, and has {version} after a crash");
            return Err(self.broken("durability", text));
        }
        drop(conn);
        self.collect(n)?;
        self.check_held(n)
    }

    /// What a device has: of others, and of its own what is published; or else the rest.
    pub(crate) fn read_log(&mut self, n: usize, published: bool) -> Checked<Vec<Logged>> {
        let Some(replica) = self.devices[n].up().cloned().filter(|_| !self.devices[n].damaged) else {
            return Ok(Vec::new());
        };
        let read = || -> Result<Vec<Logged>, isle::StoreError> {
            let store = replica.store();
            let (status, vector) = (store.status()?, store.vector()?);
            let mut found = Vec::new();
            for (site, last) in vector.iter() {
                let versions = match (site == status.site, published) {
                    (true, true) => 1..=status.published.min(last),
                    (true, false) => status.published + 1..=last,
                    (false, true) => 1..=last,
                    (false, false) => continue,
                };
                for version in versions {
                    if let Some(sealed) = sealed(store, site, version)? {
                        found.push(((site, version), sealed));
                    }
                }
            }
            Ok(found)
        };
        match read() {
            Ok(found) => Ok(found),
            Err(_) if self.devices[n].disk.is_troubled() => Ok(Vec::new()),
            Err(error) => Err(self.broken("log", format!("d{n}: {}", chain(&error)))),
        }
    }

    /// Puts by what is not published.
    pub(crate) fn put_by(&mut self, n: usize) -> Checked<()> {
        self.devices[n].put_by = self.read_log(n, false)?;
        Ok(())
    }

    /// Remembers of what was put by what is published now.
    fn remember_put_by(&mut self, n: usize) {
        let device = &mut self.devices[n];
        for ((site, version), sealed) in std::mem::take(&mut device.put_by) {
            if device.published.get(&site).is_some_and(|last| version <= *last)
                && let Entry::Vacant(free) = self.memory.sealed.entry((site, version))
            {
                free.insert(sealed);
                self.memory.supposed.insert((site, version));
            }
        }
    }

    /// Remembers what a device has of others, and of its own what is published.
    pub(crate) fn remember(&mut self, n: usize) -> Checked<()> {
        let found = self.read_log(n, true)?;
        for ((site, version), sealed) in found {
            if self.memory.supposed.remove(&(site, version)) {
                self.memory.sealed.remove(&(site, version));
            }
            match self.memory.sealed.get(&(site, version)) {
                Some(known) if *known != sealed => {
                    let text = format!("version {version} of {} is another on d{n} than elsewhere", site.short());
                    return Err(self.broken("identity", text));
                }
                Some(_) => {}
                None => drop(self.memory.sealed.insert((site, version), sealed)),
            }
        }
        Ok(())
    }

    /// Mends everything, lets everybody hear of everything, and looks whether all promises are kept.
    pub(crate) async fn quiet(&mut self) -> Checked<()> {
        self.log(None, "quiet");
        self.mend().await?;
        // What is from the future is of the past by then, and who was away has come back.
        let furthest = 40 * 3_600_000;
        tokio::time::sleep(tokio::time::Duration::from_millis(furthest)).await;
        for n in self.alive() {
            if self.devices[n].app_version < 2 && crate::schemas::changes(&self.scenario.schema) {
                self.devices[n].replica = None;
                self.devices[n].app_version = 2;
                let opened = self.devices[n].open();
                opened.map_err(|error| self.broken("version", format!("d{n}: {}", chain(&error))))?;
            }
        }
        self.converge().await?;
        self.check_files().await?;
        for n in self.alive() {
            self.check_file(n)?;
            self.remember(n)?;
        }
        for n in self.alive() {
            self.check_held(n)?;
            self.check_upkeep(n)?;
        }
        self.check_acks()?;
        self.check_still().await?;
        self.check_newcomer().await?;
        for device in &mut self.devices {
            device.disk.crash_after(None);
        }
        // The checks are over: nothing was to crash meanwhile.
        for n in self.alive() {
            self.devices[n].replica = None;
            let restarted = self.devices[n].disk.restart(false);
            restarted.map_err(|error| self.broken("setup", error.to_string()))?;
            let opened = self.devices[n].open();
            opened.map_err(|error| self.broken("crash", format!("d{n} cannot be opened: {}", chain(&error))))?;
            self.collect(n)?;
        }
        Ok(())
    }

    /// Syncs until nothing moves any more.
    pub(crate) async fn converge(&mut self) -> Checked<()> {
        let mut last = String::new();
        for round in 0..ROUNDS_MAX {
            let (mut moved, mut refused) = (false, None);
            for n in self.alive() {
                let replica = self.replica(n)?;
                let report = match replica.sync().await {
                    Ok(mut reports) => reports.pop().unwrap_or_default(),
                    // Somebody has put an older copy of the bucket back, maybe an empty one.
                    Err(error) => {
                        last = format!("d{n} cannot sync: {}", chain(&error));
                        self.log(Some(n), last.clone());
                        moved = true;
                        continue;
                    }
                };
                moved |= report.pulled_versions + report.pushed_versions + report.pulled_operations > 0;
                moved |= report.new_site.is_some() || report.snapshot_joined || report.held_back;
                for (site, version, reason) in &report.waiting {
                    last = format!("d{n} waits for version {version} of {site}: {reason}");
                    // Of a site that nobody speaks as any more, because its file went back to an older state, a part may have come and the rest never will.
                    let speaks = |of: &usize| self.devices[*of].seen.is_some_and(|(now, _)| now.to_string() == *site);
                    moved |= self.alive().iter().any(speaks);
                }
                if let Some(reason) = report.refused.iter().chain(&report.turned_away).next() {
                    last = format!("d{n} refuses: {reason}");
                    refused = Some(last.clone());
                }
                self.collect(n)?;
            }
            let hashes = self.hashes()?;
            let same = hashes.windows(2).all(|two| two[0] == two[1]);
            if let Some(refused) = refused.filter(|_| same && !moved) {
                return Err(self.broken("convergence", refused));
            }
            if same && !moved {
                self.log(None, format!("everybody has everything after {} rounds: {}", round + 1, hashes[0]));
                self.coverage.note("quiet");
                return Ok(());
            }
            tokio::time::sleep(tokio::time::Duration::from_secs(90)).await;
        }
        let hashes = self.hashes()?.join(" ");
        Err(self.broken("convergence", format!("after {ROUNDS_MAX} rounds of syncs: {hashes}; {last}")))
    }

    fn hashes(&mut self) -> Checked<Vec<String>> {
        let mut hashes = Vec::new();
        for n in self.alive() {
            let hash = self.replica(n)?.state_hash();
            let hash = hash.map_err(|error| self.broken("hash", format!("d{n}: {}", chain(&error))))?;
            hashes.push(format!("{}/{}", short(&hash.merged), short(&hash.visible)));
        }
        Ok(hashes)
    }

    /// A file is sound by SQLite's word and by isle's, and search finds what is there.
    fn check_file(&mut self, n: usize) -> Checked<()> {
        let replica = self.replica(n)?;
        let report = replica.check().map_err(|error| self.broken("doctor", format!("d{n}: {}", chain(&error))))?;
        if let Some(finding) = report.findings.first() {
            return Err(self.broken("doctor", format!("d{n}: {}: {}", finding.check, finding.message)));
        }
        let conn = self.devices[n].plain().map_err(|error| self.broken("doctor", error.to_string()))?;
        let broken =
            conn.query_row("SELECT \"table\" FROM pragma_foreign_key_check", [], |row| row.get::<_, String>(0));
        match broken {
            Err(rusqlite::Error::QueryReturnedNoRows) => {}
            Ok(table) => return Err(self.broken("foreign keys", format!("d{n}: table {table}"))),
            Err(error) => return Err(self.broken("foreign keys", format!("d{n}: {error}"))),
        }
        let tables = replica.store().full_text_tables();
        for table in tables.map_err(|error| self.broken("doctor", format!("d{n}: {}", chain(&error))))? {
            let name = quoted(&table.name);
            let sound = conn.execute(&format!("INSERT INTO {name}({name}, rank) VALUES('integrity-check', 1)"), []);
            sound.map_err(|error| self.broken("search", format!("d{n}: {}: {error}", table.name)))?;
        }
        Ok(())
    }

    /// Every acknowledged value is in some changeset, or in the journal of whoever sealed its rows anew (after having been declared gone, say) and
    /// found that they had lost. What was sealed anew while a compaction dropped changesets at once was in none that anybody saw: then it shows.
    fn check_acks(&mut self) -> Checked<()> {
        let first = self.alive().first().copied().unwrap_or(0);
        let replica = self.replica(first)?;
        let (vector, retired) = match (replica.store().vector(), replica.store().retired()) {
            (Ok(vector), Ok(retired)) => (vector, retired),
            (Err(error), _) | (_, Err(error)) => return Err(self.broken("log", chain(&error))),
        };
        // What a site wrote beyond its end counts for nothing.
        let cut = |site: SiteId| retired.iter().find(|(of, _)| *of == site).map_or(u64::MAX, |(_, last)| *last);
        let mut texts: HashSet<String> = HashSet::new();
        for ((site, version), sealed) in &self.memory.sealed {
            if *version > vector.get(*site).min(cut(*site)) {
                continue;
            }
            for write in writes(sealed) {
                texts.extend(write.cells.into_iter().filter_map(|(_, value)| match value {
                    Value::Text(bytes) => String::from_utf8(bytes).ok(),
                    _ => None,
                }));
            }
        }
        for n in self.alive() {
            let entries = self.replica(n)?.store().conflicts(true, usize::MAX);
            for entry in entries.map_err(|error| self.broken("journal", chain(&error)))? {
                if let Value::Text(bytes) = entry.value {
                    texts.extend(String::from_utf8(bytes));
                }
            }
        }
        let of_the_lost = (usize::MAX, &self.memory.acks);
        let all = self.alive().into_iter().map(|n| (n, &self.devices[n].acks)).chain([of_the_lost]);
        // A file is opened only for what is missing: each read moves the faults of its disk.
        let shows = |ack: &Ack| self.devices[first].plain().is_ok_and(|conn| Device::shows(&conn, &ack.token));
        let mut checked = 0;
        for (n, acks) in all {
            checked += 1;
            let is_lost = |ack: &&Ack| !texts.contains(&ack.token.text) && !shows(ack);
            let lost = acks.iter().find(is_lost).cloned();
            if let Some(Ack { token, site, version }) = lost {
                let who = if n == usize::MAX { "a device that is gone".to_owned() } else { format!("d{n}") };
                let text = format!(
                    "{:?} in {}.{}, which {who} acknowledged as version {version} of {}, is in no changeset that anybody has",
                    token.text,
                    token.table,
                    token.column,
                    site.short()
                );
                return Err(self.broken("nothing is lost", text));
            }
        }
        (0..checked).for_each(|_| self.coverage.note("acknowledged values checked"));
        Ok(())
    }

    /// Syncs without news change no state, and soon nothing in the bucket either: what everybody has is told there once in an hour at most.
    async fn check_still(&mut self) -> Checked<()> {
        let hashes = self.hashes()?;
        let mut news = String::new();
        for _ in 0..STILL_ROUNDS_MAX {
            let before = self.bucket.objects.contents().await.map_err(|error| self.broken("setup", error))?;
            for n in self.alive() {
                let synced = self.replica(n)?.sync().await;
                synced.map_err(|error| self.broken("quiescence", format!("d{n}: {}", chain(&error))))?;
            }
            if hashes != self.hashes()? {
                return Err(self.broken("quiescence", "a sync without news changed a state".to_owned()));
            }
            let after = self.bucket.objects.contents().await.map_err(|error| self.broken("setup", error))?;
            if before == after {
                return Ok(());
            }
            news = after.keys().find(|key| before.get(*key) != after.get(*key)).cloned().unwrap_or_default();
            tokio::time::sleep(tokio::time::Duration::from_secs(2 * 3600)).await;
        }
        Err(self.broken("quiescence", format!("syncs without news go on writing to the bucket: {news}")))
    }

    /// Whoever comes now and has nothing but the bucket gets the same.
    async fn check_newcomer(&mut self) -> Checked<()> {
        let n = self.devices.len() + 100 + self.coverage.events.get("newcomer").copied().unwrap_or(0) as usize;
        let device = Device::new(&self.root, n, &self.scenario, self.time, &self.bucket);
        let mut device = device.map_err(|error| self.broken("setup", error.to_string()))?;
        device.app_version = 2;
        device.open().map_err(|error| self.broken("newcomer", chain(&error)))?;
        let Some(replica) = device.replica.clone() else { return Ok(()) };
        let first = self.alive().first().copied().unwrap_or(0);
        let key = device.take_key_of(&self.replica(first)?);
        key.map_err(|error| self.broken("newcomer", chain(&error)))?;
        for _ in 0..3 {
            let options = isle::SyncOptions { direction: isle::Direction::Pull, ..Default::default() };
            replica.sync_with(&options).await.map_err(|error| self.broken("newcomer", chain(&error)))?;
        }
        let hash = replica.state_hash().map_err(|error| self.broken("newcomer", chain(&error)))?;
        let hash = format!("{}/{}", short(&hash.merged), short(&hash.visible));
        let others = self.hashes()?;
        self.coverage.note("newcomer");
        if hash != others[0] {
            let text = format!("a newcomer has {hash} from the {BUCKET}, the others have {}", others[0]);
            return Err(self.broken("newcomer", text));
        }
        let report = replica.check().map_err(|error| self.broken("newcomer", chain(&error)))?;
        match report.findings.first() {
            Some(finding) => Err(self.broken("newcomer", format!("{}: {}", finding.check, finding.message))),
            None => Ok(()),
        }
    }
}

fn short(hash: &[u8; 32]) -> String {
    hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// A changeset as it travels, if the log has it.
fn sealed(store: &isle_store::Store, site: SiteId, version: u64) -> Result<Option<Sealed>, isle::StoreError> {
    let Some(header) = store.header(site, version)? else { return Ok(None) };
    let count = Header::decode(&header).map_err(|source| isle::StoreError::BadHeader { source })?.blocks.len();
    let mut blocks = Vec::new();
    for n in 0..count {
        match store.block(site, version, n)? {
            Some(block) => blocks.push(block),
            None => return Ok(None),
        }
    }
    Ok(Some((header, blocks)))
}
