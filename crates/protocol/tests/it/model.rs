//! A replica as small as a session can be run with: a log, what is applied, and the rule that causes come first.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use isle_changeset::{BlockInfo, Cause, Hash, Header};
use isle_clock::{GroupId, Hlc, SiteId, VersionVector};
use isle_protocol::{
    Action, Answer, Blocks, Changeset, Config, Frame, Have, Hello, OpKind, Operation, Partial, Session, Started,
};

pub(crate) fn site(n: u8) -> SiteId {
    SiteId::from_bytes([n; 16])
}

pub(crate) fn group() -> GroupId {
    GroupId::from_bytes([9; 16])
}

#[derive(Debug, Clone)]
pub(crate) struct Logged {
    header: Bytes,
    blocks: Vec<Option<Bytes>>,
}

/// A replica.
#[derive(Debug, Clone, Default)]
pub(crate) struct Replica {
    pub(crate) n: u8,
    pub(crate) applied: VersionVector,
    /// In the order in which they were applied: a version always stands behind its causes.
    pub(crate) order: Vec<(SiteId, u64)>,
    log: BTreeMap<(SiteId, u64), Logged>,
    hlcs: BTreeMap<(SiteId, u64), (Hlc, Hash)>,
    time: u64,
    pub(crate) operations: BTreeMap<(OpKind, [u8; 16]), Bytes>,
    pub(crate) retired: BTreeMap<SiteId, u64>,
    pub(crate) floor: VersionVector,
    /// Sites that were found to have two histories.
    pub(crate) forked: BTreeSet<SiteId>,
    /// What was applied when it was asked to write anew what it wrote in ignorance.
    pub(crate) restated: Option<VersionVector>,
    /// How often each changeset's header and each block came.
    pub(crate) came: BTreeMap<(SiteId, u64, Option<u32>), u32>,
    /// Sites of which nothing is taken.
    pub(crate) refuses: BTreeSet<SiteId>,
    staged: Option<(Vec<Bytes>, BTreeMap<u32, Bytes>)>,
    /// Which session brings a snapshot.
    staging: Option<usize>,
    pub(crate) snapshots: u32,
    /// Bytes given in one write.
    pub(crate) largest_put: usize,
}

impl Replica {
    pub(crate) fn new(n: u8) -> Replica {
        Replica { n, ..Replica::default() }
    }

    pub(crate) fn site(&self) -> SiteId {
        site(self.n)
    }

    pub(crate) fn hello(&self) -> Hello {
        let ids = |kind| self.operations.keys().filter(move |(of, _)| *of == kind).map(|(_, id)| *id).collect();
        Hello {
            version: 0,
            oldest: 0,
            group: group(),
            site: self.site(),
            nonce: [0; 16],
            app: "test".to_owned(),
            device: format!("device {}", self.n),
            addresses: Vec::new(),
            schema: ids(OpKind::Schema),
            members: ids(OpKind::Member),
            keys: ids(OpKind::Key),
            others: Vec::new(),
        }
    }

    pub(crate) fn session(&self, now_ms: u64) -> Session {
        Session::new(Config { hello: self.hello() }, now_ms)
    }

    /// Writes a changeset of these blocks.
    pub(crate) fn write(&mut self, blocks: &[Bytes]) {
        let version = self.applied.get(self.site()) + 1;
        self.time += 1;
        let seen = self.applied.iter().filter(|(of, _)| *of != self.site());
        let causes: Vec<Cause> =
            seen.map(|(site, version)| Cause { site, version, hlc: self.hlcs[&(site, version)].0 }).collect();
        let newest = causes.iter().map(|cause| cause.hlc.ms()).max().unwrap_or(0).max(self.time) + 1;
        self.time = newest;
        let previous = self.hlcs.get(&(self.site(), version - 1)).map_or(Hash::default(), |(_, hash)| *hash);
        let info = |bytes: &Bytes| BlockInfo {
            stored_bytes: bytes.len() as u32,
            raw_bytes: bytes.len() as u32,
            rows: 1,
            hash: *blake3::hash(bytes).as_bytes(),
        };
        let header = Header {
            group: group(),
            site: self.site(),
            version,
            hlc: Hlc::new(newest, 0).expect("a time"),
            baseline: false,
            previous,
            causes,
            floor: Vec::new(),
            heads: Vec::new(),
            blocks: blocks.iter().map(info).collect(),
        };
        let header = Bytes::from(header.encode());
        let blocks = blocks.iter().cloned().map(Some).collect();
        self.log.insert((self.site(), version), Logged { header, blocks });
        self.apply();
    }

    /// Takes versions out of the log that are applied.
    pub(crate) fn prune(&mut self) {
        let applied = self.applied.clone();
        self.log.retain(|(site, version), _| !applied.contains(*site, *version));
    }

    fn apply(&mut self) {
        while let Some((key, header)) = self.ready() {
            let hash = Header::hash(&self.log[&key].header);
            self.applied.advance(key.0, key.1);
            self.hlcs.insert(key, (header.hlc, hash));
            self.time = self.time.max(header.hlc.ms());
            self.order.push(key);
        }
    }

    fn ready(&self) -> Option<((SiteId, u64), Header)> {
        self.log.iter().find_map(|(key, logged)| {
            let header = Header::decode(&logged.header).expect("a header");
            let next = self.applied.get(key.0) + 1 == key.1;
            let whole = logged.blocks.iter().all(Option::is_some);
            let causes = header.causes.iter().all(|cause| self.applied.contains(cause.site, cause.version));
            (next && whole && causes).then_some((*key, header))
        })
    }

    fn started(&self, peer: &Hello) -> Started {
        let mut have = Have { applied: self.applied.clone(), floor: self.floor.clone(), ..Have::default() };
        for ((site, version), logged) in &self.log {
            let whole = logged.blocks.iter().all(Option::is_some);
            let reached = have.applied.get(*site).max(have.held.get(*site));
            if whole && reached + 1 == *version {
                have.held.advance(*site, *version);
            }
            let blocks = logged.blocks.iter().take_while(|block| block.is_some()).count() as u32;
            if !whole && blocks > 0 {
                have.partial.push(Partial { site: *site, version: *version, blocks });
            }
        }
        have.chains = self.applied.iter().map(|(site, last)| (site, last, self.hlcs[&(site, last)].1)).collect();
        let last = self.applied.get(peer.site);
        have.yours = (last > 0).then(|| (last, self.hlcs[&(peer.site, last)].1));
        let lacks = |(kind, id): &(OpKind, [u8; 16])| match kind {
            OpKind::Schema => !peer.schema.contains(id),
            OpKind::Member => !peer.members.contains(id),
            OpKind::Key => !peer.keys.contains(id),
        };
        let operations = self.operations.iter().filter(|(key, _)| lacks(key));
        let operations =
            operations.map(|((kind, id), bytes)| (*id, Operation { kind: *kind, bytes: bytes.clone() })).collect();
        Started { have, operations, retired: self.retired.iter().map(|(site, last)| (*site, *last)).collect() }
    }

    fn read(&self, have: &VersionVector, declined: &BTreeSet<SiteId>, bytes: usize) -> Answer {
        let (mut changesets, mut held, mut gap, mut more) = (Vec::new(), 0, false, false);
        let mut blocked = BTreeSet::new();
        for (site, version) in &self.order {
            if have.contains(*site, *version) || declined.contains(site) || blocked.contains(site) {
                continue;
            }
            let Some(logged) = self.log.get(&(*site, *version)) else {
                gap = true;
                blocked.insert(*site);
                continue;
            };
            if held >= bytes {
                more = true;
                break;
            }
            let blocks = match logged.blocks.as_slice() {
                [Some(only)] => Blocks::Only(only.clone()),
                many => Blocks::Many(many.len() as u32),
            };
            held += logged.header.len() + logged.blocks[0].as_ref().map_or(0, Bytes::len);
            let (site, version, header) = (*site, *version, logged.header.clone());
            changesets.push(Changeset { site, version, header, blocks, proof: None });
        }
        Answer::Changesets { changesets, more, gap, applied: self.applied.clone() }
    }

    fn put(&mut self, frames: Vec<Frame>) -> Answer {
        let mut declined = Vec::new();
        let mut bytes = 0;
        for frame in frames {
            match frame {
                Frame::Header(encoded) => {
                    bytes += encoded.len();
                    let header = Header::decode(&encoded).expect("a header");
                    let key = (header.site, header.version);
                    if self.refuses.contains(&header.site) {
                        declined.push(header.site);
                        continue;
                    }
                    *self.came.entry((key.0, key.1, None)).or_default() += 1;
                    if !self.applied.contains(key.0, key.1) {
                        let blocks = vec![None; header.blocks.len()];
                        self.log.entry(key).or_insert(Logged { header: encoded, blocks });
                    }
                }
                Frame::Block { site, version, index, bytes: block } => {
                    bytes += block.len();
                    if self.refuses.contains(&site) {
                        continue;
                    }
                    *self.came.entry((site, version, Some(index))).or_default() += 1;
                    if let Some(logged) = self.log.get_mut(&(site, version)) {
                        logged.blocks[index as usize] = Some(block);
                    }
                }
                Frame::Proof { .. } => {}
            }
        }
        self.largest_put = self.largest_put.max(bytes);
        self.apply();
        Answer::Put { applied: self.applied.clone(), declined }
    }

    /// A snapshot here is the order of application in blocks of four, with times and hashes.
    fn parts(&self) -> Vec<Bytes> {
        let line = |key: &(SiteId, u64)| {
            let (hlc, hash) = self.hlcs[key];
            [key.0.as_bytes().as_slice(), &key.1.to_be_bytes(), &hlc.bits().to_be_bytes(), &hash].concat()
        };
        self.order.chunks(4).map(|keys| Bytes::from(keys.iter().flat_map(line).collect::<Vec<u8>>())).collect()
    }

    fn join(&mut self) {
        let (parts, here) = self.staged.take().expect("staged");
        assert_eq!(parts.len(), here.len(), "joined only when whole");
        self.snapshots += 1;
        for entry in here.values().flat_map(|part| part.chunks(64)) {
            let site = SiteId::from_bytes(entry[..16].try_into().expect("16"));
            let version = u64::from_be_bytes(entry[16..24].try_into().expect("8"));
            let hlc = Hlc::from_bits(u64::from_be_bytes(entry[24..32].try_into().expect("8"))).expect("a time");
            if !self.applied.contains(site, version) {
                self.applied.advance(site, version);
                self.hlcs.insert((site, version), (hlc, entry[32..].try_into().expect("32")));
                self.time = self.time.max(hlc.ms());
                self.order.push((site, version));
            }
        }
        // Of what came as a part only, the rest is not needed any more.
        let applied = self.applied.clone();
        self.log.retain(|key, logged| !applied.contains(key.0, key.1) || logged.blocks.iter().all(Option::is_some));
        self.apply();
    }

    /// Does what a session asks for; `None` if it has to wait. `exported` is the snapshot that this session serves.
    pub(crate) fn act(&mut self, who: usize, exported: &mut Vec<Bytes>, action: &Action) -> Option<Answer> {
        self.may_act(who, action).then(|| self.act_now(who, exported, action.clone()))
    }

    /// Whether it need not wait: one snapshot at a time is taken in.
    pub(crate) fn may_act(&self, who: usize, action: &Action) -> bool {
        !matches!(action, Action::Consider(_)) || self.staging.is_none_or(|other| other == who)
    }

    /// A session has ended: another one may bring its snapshot.
    pub(crate) fn ended(&mut self, who: usize) {
        self.staging = self.staging.filter(|other| *other != who);
    }

    fn act_now(&mut self, who: usize, exported: &mut Vec<Bytes>, action: Action) -> Answer {
        match action {
            Action::Begin(peer) => Answer::Started(Box::new(self.started(&peer))),
            Action::Compare(chains) => {
                let other = |(site, version, hash): &(SiteId, u64, Hash)| {
                    *site != self.site() && self.hlcs.get(&(*site, *version)).is_some_and(|(_, known)| known != hash)
                };
                let forked: Vec<SiteId> = chains.iter().filter(|chain| other(chain)).map(|(site, ..)| *site).collect();
                self.forked.extend(&forked);
                Answer::Compared(forked)
            }
            Action::Confirm { version, chain } => {
                Answer::Confirmed(self.hlcs.get(&(self.site(), version)).is_some_and(|(_, hash)| *hash == chain))
            }
            Action::Restate { floor } => {
                assert!(self.applied.includes(&floor), "asked only when it knows everything");
                self.restated = Some(self.applied.clone());
                Answer::Knowing
            }
            Action::Read { have, declined, bytes } => self.read(&have, &declined, bytes),
            Action::ReadBlocks { site, version, first, end, .. } => {
                let logged = self.log.get(&(site, version));
                let blocks = logged.map_or(&[][..], |logged| &logged.blocks[first as usize..end as usize]);
                Answer::Blocks(blocks.iter().take(2).flatten().cloned().collect())
            }
            Action::Export => {
                *exported = self.parts();
                let parts = &*exported;
                let hashes = parts.iter().flat_map(|part| *blake3::hash(part).as_bytes()).collect::<Vec<u8>>();
                Answer::Exported { header: hashes.into(), blocks: parts.len() as u32 }
            }
            Action::ReadParts { first, last, .. } => {
                Answer::Parts(exported[first as usize..=last as usize].iter().take(3).cloned().collect())
            }
            Action::PutOperations(operations) => {
                let mut ids = Vec::new();
                for Operation { kind, bytes } in operations {
                    let id: [u8; 16] = bytes[..16].try_into().expect("an id");
                    self.operations.insert((kind, id), bytes);
                    ids.push((kind, id));
                }
                Answer::OperationsPut(ids)
            }
            Action::Put(frames) => self.put(frames),
            Action::Retire(sites) => {
                self.retired.extend(sites.iter().copied());
                Answer::Retired(sites.iter().any(|(site, _)| *site == self.site()))
            }
            Action::Consider(vector) => {
                let wanted = !self.applied.includes(&vector);
                self.staging = wanted.then_some(who);
                Answer::Considered(wanted)
            }
            Action::Stage(header) => {
                let parts: Vec<Bytes> = header.chunks(32).map(Bytes::copy_from_slice).collect();
                if self.staged.as_ref().is_none_or(|(known, _)| *known != parts) {
                    self.staged = Some((parts.clone(), BTreeMap::new()));
                }
                let here = &self.staged.as_ref().expect("staged").1;
                let missing = (0..parts.len() as u32).filter(|n| !here.contains_key(n)).map(|n| (n, n)).collect();
                Answer::Staged(missing)
            }
            Action::StageParts(parts) => {
                let (hashes, here) = self.staged.as_mut().expect("staged");
                for (n, bytes) in parts {
                    assert_eq!(blake3::hash(&bytes).as_bytes().as_slice(), hashes[n as usize].as_ref());
                    here.insert(n, bytes);
                }
                Answer::PartsStaged
            }
            Action::Join => {
                self.join();
                self.staging = None;
                Answer::Joined(self.applied.clone())
            }
        }
    }
}
