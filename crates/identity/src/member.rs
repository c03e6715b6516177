//! Who belongs to a group: signed operations and their fold.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use isle_clock::{GroupId, SiteId};
use serde::{Deserialize, Serialize};

use crate::{DeviceKey, DeviceSecret, ids};

const FORMAT: u8 = 1;
const SIGNED: &[u8] = b"isle member operation 1";
const SIGNATURE_BYTES: usize = 64;
/// The longest name of a device.
pub const NAME_BYTES_MAX: usize = 256;
/// The most parents of an operation.
pub const PARENTS_MAX: usize = 64;
/// The largest operation.
pub const OP_BYTES_MAX: usize = 64 << 10;
/// The most operations of a group that are looked at.
pub const OPS_MAX: usize = 4096;

/// The most operations of one author that are looked at; as many revocations beside them, so that nobody can keep others from putting it out.
pub const OPS_OF_ONE_MAX: usize = 256;

/// The id of an operation: a hash of what it says.
pub type OpId = [u8; 16];

/// Why an operation is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MemberError {
    /// It is no operation, or of a later format.
    #[error("the membership operation is malformed: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
    /// A later release wrote it.
    #[error("the membership operation has format {found}, this isle reads {FORMAT}: update isle on this device")]
    Newer {
        /// Its format.
        found: u8,
    },
    /// It is another group's.
    #[error("the membership operation is of group {found}, not of {group}")]
    ForeignGroup {
        /// Its group.
        found: GroupId,
        /// The group that was expected.
        group: GroupId,
    },
    /// Its signature is not that of its author.
    #[error("the membership operation is not signed by device {}, which it names as its author", author.short())]
    Signature {
        /// The device that it names.
        author: DeviceKey,
    },
    /// Nothing is taken in any more, of this device or at all.
    #[error("device {} or the group has too many membership operations already, and no more are taken", author.short())]
    Full {
        /// The author of the one that is refused.
        author: DeviceKey,
    },
    /// Nobody ever let its author in.
    #[error("the membership operation is by device {}, which was never let into the group", author.short())]
    Stranger {
        /// Its author.
        author: DeviceKey,
    },
}

/// Up to where a site of a revoked device counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cut {
    /// The site.
    pub site: SiteId,
    /// Its last version that counts.
    pub version: u64,
}

/// What an operation does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Begins the group.
    Found {
        /// Makes the group's id with the author's key.
        nonce: [u8; 16],
        /// The name of the author's device.
        name: String,
    },
    /// Lets a device in.
    Enrol {
        /// Its key.
        device: DeviceKey,
        /// Its name.
        name: String,
    },
    /// Gives the author's device another name.
    Rename {
        /// The name.
        name: String,
    },
    /// Puts a device out.
    Revoke {
        /// Its key.
        device: DeviceKey,
        /// What of its sites the author had applied, rising by site.
        cuts: Vec<Cut>,
    },
}

/// An operation, signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberOp {
    /// The group.
    pub group: GroupId,
    /// The last operations that the author knew, rising.
    pub parents: Vec<OpId>,
    /// The device that signed it.
    pub author: DeviceKey,
    /// What it does.
    pub action: Action,
    encoded: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Content {
    group: GroupId,
    parents: Vec<OpId>,
    author: DeviceKey,
    action: Action,
}

impl Content {
    fn encode(&self) -> Result<Vec<u8>, MemberError> {
        let mut bytes = vec![FORMAT];
        let body = postcard::to_stdvec(self).map_err(|_| MemberError::Malformed { what: "it cannot be encoded" })?;
        bytes.extend(body);
        Ok(bytes)
    }

    fn check(&self) -> Result<(), MemberError> {
        let malformed = |what| Err(MemberError::Malformed { what });
        let (name, cuts): (&str, &[Cut]) = match &self.action {
            Action::Found { name, .. } | Action::Enrol { name, .. } | Action::Rename { name } => (name, &[]),
            Action::Revoke { cuts, .. } => ("", cuts),
        };
        if self.parents.len() > PARENTS_MAX || !self.parents.is_sorted_by(|a, b| a < b) {
            return malformed("its parents are too many, or not in order");
        }
        if matches!(self.action, Action::Found { .. }) != self.parents.is_empty() {
            return malformed("the first operation alone has no parents");
        }
        if name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            return malformed("the name of the device is too long, or has control characters");
        }
        if !cuts.is_sorted_by(|a, b| a.site < b.site) || cuts.iter().any(|cut| cut.version > i64::MAX as u64) {
            return malformed("its cuts are not in order, or out of bounds");
        }
        Ok(())
    }
}

fn signed(content: &[u8]) -> Vec<u8> {
    [SIGNED, content].concat()
}

impl MemberOp {
    /// Writes and signs an operation that follows `parents`, in any order.
    ///
    /// # Errors
    /// [`MemberError::Malformed`] for a name or parents beyond their bounds.
    pub fn sign(
        secret: &DeviceSecret,
        group: GroupId,
        mut parents: Vec<OpId>,
        action: Action,
    ) -> Result<MemberOp, MemberError> {
        parents.sort_unstable();
        let content = Content { group, parents, author: secret.key(), action };
        content.check()?;
        let mut encoded = content.encode()?;
        encoded.extend(secret.sign(&signed(&encoded)));
        if encoded.len() > OP_BYTES_MAX {
            return Err(MemberError::Malformed { what: "it is too large" });
        }
        let Content { group, parents, author, action } = content;
        Ok(MemberOp { group, parents, author, action, encoded })
    }

    /// The first operation of a group.
    ///
    /// # Errors
    /// [`MemberError::Malformed`] for a name beyond its bounds.
    pub fn found(secret: &DeviceSecret, nonce: [u8; 16], name: &str) -> Result<MemberOp, MemberError> {
        let group = ids::group_id(&secret.key(), &nonce);
        MemberOp::sign(secret, group, Vec::new(), Action::Found { nonce, name: name.to_owned() })
    }

    /// Reads an operation and checks its signature.
    ///
    /// # Errors
    /// [`MemberError`] for anything but an operation of the group that its author signed.
    pub fn decode(bytes: &[u8], group: GroupId) -> Result<MemberOp, MemberError> {
        let op = MemberOp::decode_known(bytes, group)?;
        let (content, signature) = op.encoded.split_at(op.encoded.len() - SIGNATURE_BYTES);
        if !op.author.verifies(&signed(content), signature) {
            return Err(MemberError::Signature { author: op.author });
        }
        Ok(op)
    }

    /// Reads an operation whose signature was checked when it was taken.
    ///
    /// # Errors
    /// [`MemberError`] for anything but an operation of the group.
    pub fn decode_known(bytes: &[u8], group: GroupId) -> Result<MemberOp, MemberError> {
        let malformed = |what| MemberError::Malformed { what };
        if bytes.len() > OP_BYTES_MAX {
            return Err(malformed("it is too large"));
        }
        let (content, _) = bytes.split_last_chunk::<SIGNATURE_BYTES>().ok_or(malformed("it has no signature"))?;
        let (format, body) = content.split_first().ok_or(malformed("it is empty"))?;
        match *format {
            FORMAT => {}
            0 => return Err(malformed("it has format 0")),
            found => return Err(MemberError::Newer { found }),
        }
        let (decoded, rest) =
            postcard::take_from_bytes::<Content>(body).map_err(|_| malformed("it cannot be decoded"))?;
        if !rest.is_empty() || decoded.encode()? != content {
            return Err(malformed("it is not in canonical form"));
        }
        decoded.check()?;
        if decoded.group != group {
            return Err(MemberError::ForeignGroup { found: decoded.group, group });
        }
        let Content { group, parents, author, action } = decoded;
        Ok(MemberOp { group, parents, author, action, encoded: bytes.to_vec() })
    }

    /// The bytes that travel.
    pub fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    /// The id by which others name it.
    pub fn id(&self) -> OpId {
        let mut id = [0; 16];
        let content = &self.encoded[..self.encoded.len() - SIGNATURE_BYTES];
        id.copy_from_slice(&blake3::hash(content).as_bytes()[..16]);
        id
    }
}

/// A device that belongs, or belonged, to a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Who let it in; itself, if it founded the group.
    pub enrolled_by: DeviceKey,
    /// Whether it was put out.
    pub revoked: bool,
}

/// What the operations of a group come to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Membership {
    /// The devices, revoked ones included.
    pub members: BTreeMap<DeviceKey, Member>,
    /// Up to where sites of revoked devices count: the largest cut of each.
    pub cuts: BTreeMap<SiteId, u64>,
    /// The last operations: what the next one names as its parents.
    pub heads: Vec<OpId>,
    /// Parents that are not here.
    pub missing: BTreeSet<OpId>,
}

impl Membership {
    /// Whether a device belongs to the group now.
    pub fn is_member(&self, device: &DeviceKey) -> bool {
        self.members.get(device).is_some_and(|member| !member.revoked)
    }

    /// Whether a device was put out of the group.
    pub fn is_revoked(&self, device: &DeviceKey) -> bool {
        self.members.get(device).is_some_and(|member| member.revoked)
    }

    /// Which of `new` can be taken beside `known`: none of devices that nobody ever let in, and of no author more than [`OPS_OF_ONE_MAX`].
    ///
    /// # Errors
    /// [`MemberError::Stranger`], [`MemberError::Full`].
    pub fn admit(known: &[MemberOp], new: &[MemberOp]) -> Result<(), MemberError> {
        let mut counts: HashMap<(DeviceKey, bool), usize> = HashMap::new();
        let mut let_in: BTreeSet<DeviceKey> = BTreeSet::new();
        for op in known.iter().chain(new) {
            *counts.entry((op.author, matches!(op.action, Action::Revoke { .. }))).or_insert(0) += 1;
            let device = match &op.action {
                Action::Found { nonce, .. } if ids::group_id(&op.author, nonce) == op.group => op.author,
                Action::Enrol { device, .. } => *device,
                _ => continue,
            };
            let_in.insert(device);
        }
        for op in new {
            let author = op.author;
            if !let_in.contains(&author) {
                return Err(MemberError::Stranger { author });
            }
            let count = counts.get(&(author, matches!(op.action, Action::Revoke { .. }))).copied().unwrap_or(0);
            if count > OPS_OF_ONE_MAX || known.len() + new.len() > OPS_MAX {
                return Err(MemberError::Full { author });
            }
        }
        Ok(())
    }

    /// What a set of operations of one group comes to; the order does not matter.
    pub fn fold(ops: &[MemberOp]) -> Membership {
        Fold::of(ops).run()
    }
}

/// Operations whose past is all here, parents before children, each with its past.
struct Fold<'o> {
    ops: Vec<&'o MemberOp>,
    ids: Vec<OpId>,
    past: Vec<Past>,
    missing: BTreeSet<OpId>,
}

/// A set of places in the order.
#[derive(Clone, Default)]
struct Past(Vec<u64>);

impl Past {
    fn contains(&self, n: usize) -> bool {
        self.0.get(n / 64).is_some_and(|word| word >> (n % 64) & 1 == 1)
    }

    fn insert(&mut self, n: usize) {
        if self.0.len() <= n / 64 {
            self.0.resize(n / 64 + 1, 0);
        }
        self.0[n / 64] |= 1 << (n % 64);
    }

    fn merge(&mut self, other: &Past) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (word, more) in self.0.iter_mut().zip(&other.0) {
            *word |= more;
        }
    }
}

impl<'o> Fold<'o> {
    fn of(ops: &'o [MemberOp]) -> Fold<'o> {
        let by_id: BTreeMap<OpId, &MemberOp> = ops.iter().map(|op| (op.id(), op)).collect();
        let mut children: HashMap<OpId, Vec<OpId>> = HashMap::new();
        let (mut waits, mut missing, mut ready) = (HashMap::new(), BTreeSet::new(), BTreeSet::new());
        for (id, op) in &by_id {
            missing.extend(op.parents.iter().filter(|parent| !by_id.contains_key(*parent)));
            op.parents.iter().for_each(|parent| children.entry(*parent).or_default().push(*id));
            waits.insert(*id, op.parents.len());
            if op.parents.is_empty() {
                ready.insert(*id);
            }
        }
        let mut fold = Fold { ops: Vec::new(), ids: Vec::new(), past: Vec::new(), missing };
        let mut places: HashMap<OpId, usize> = HashMap::new();
        while let Some(id) = ready.pop_first() {
            let Some(op) = by_id.get(&id) else { continue };
            let mut past = Past::default();
            for place in op.parents.iter().filter_map(|parent| places.get(parent)) {
                past.merge(&fold.past[*place]);
                past.insert(*place);
            }
            places.insert(id, fold.ops.len());
            fold.ops.push(op);
            fold.ids.push(id);
            fold.past.push(past);
            for child in children.get(&id).into_iter().flatten() {
                if let Some(left) = waits.get_mut(child) {
                    *left -= 1;
                    if *left == 0 {
                        ready.insert(*child);
                    }
                }
            }
        }
        fold
    }

    /// The device that an operation lets in.
    fn enrolled(&self, n: usize) -> Option<DeviceKey> {
        let op = self.ops[n];
        match &op.action {
            Action::Found { nonce, .. } => (ids::group_id(&op.author, nonce) == op.group).then_some(op.author),
            Action::Enrol { device, .. } => Some(*device),
            _ => None,
        }
    }

    fn revoked(&self, n: usize) -> Option<DeviceKey> {
        match &self.ops[n].action {
            Action::Revoke { device, .. } => Some(*device),
            _ => None,
        }
    }

    /// Operations whose author belonged to the group as far as it could know.
    fn allowed(&self) -> Vec<bool> {
        let mut allowed = vec![false; self.ops.len()];
        for n in 0..self.ops.len() {
            if matches!(self.ops[n].action, Action::Found { .. }) {
                allowed[n] = self.enrolled(n).is_some();
                continue;
            }
            let (author, past) = (self.ops[n].author, &self.past[n]);
            let before = |m: &usize| past.contains(*m) && allowed[*m];
            let revokes: Vec<usize> = (0..n).filter(before).filter(|m| self.revoked(*m) == Some(author)).collect();
            let stands = |m: usize| revokes.iter().all(|revoke| self.past[m].contains(*revoke));
            allowed[n] = (0..n).filter(before).any(|m| self.enrolled(m) == Some(author) && stands(m));
        }
        allowed
    }

    fn run(&self) -> Membership {
        let allowed = self.allowed();
        let revokes: Vec<(usize, DeviceKey)> = (0..self.ops.len())
            .filter(|n| allowed[*n])
            .filter_map(|n| self.revoked(n).map(|device| (n, device)))
            .collect();
        // What a revoked device did meanwhile does not stand, nor what was let in by it.
        let mut stands = vec![false; self.ops.len()];
        for n in (0..self.ops.len()).filter(|n| allowed[*n]) {
            let author = self.ops[n].author;
            let concurrent = revokes.iter().any(|(revoke, device)| {
                *device == author && !self.past[*revoke].contains(n) && !self.past[n].contains(*revoke)
            });
            let founds = matches!(self.ops[n].action, Action::Found { .. });
            let let_in =
                founds || (0..n).any(|m| stands[m] && self.past[n].contains(m) && self.enrolled(m) == Some(author));
            stands[n] = let_in && (founds || !concurrent);
        }
        let mut membership = Membership { missing: self.missing.clone(), ..Membership::default() };
        for n in (0..self.ops.len()).filter(|n| stands[*n]) {
            let Some(device) = self.enrolled(n) else { continue };
            let mut of = revokes.iter().filter(|(_, revoked)| *revoked == device);
            let revoked = of.any(|(revoke, _)| !self.past[n].contains(*revoke));
            let name = match &self.ops[n].action {
                Action::Found { name, .. } | Action::Enrol { name, .. } => name.clone(),
                _ => continue,
            };
            let member = Member { name, enrolled_by: self.ops[n].author, revoked };
            let known = membership.members.entry(device).or_insert_with(|| member.clone());
            if known.revoked && !revoked {
                *known = member;
            }
        }
        for n in (0..self.ops.len()).filter(|n| stands[*n]) {
            let Action::Rename { name } = &self.ops[n].action else { continue };
            if let Some(member) = membership.members.get_mut(&self.ops[n].author) {
                member.name.clone_from(name);
            }
        }
        for (revoke, _) in &revokes {
            let Action::Revoke { cuts, .. } = &self.ops[*revoke].action else { continue };
            for cut in cuts {
                let known = membership.cuts.entry(cut.site).or_insert(0);
                *known = cut.version.max(*known);
            }
        }
        let parents: BTreeSet<OpId> = self.ops.iter().flat_map(|op| op.parents.iter().copied()).collect();
        membership.heads = self.ids.iter().filter(|id| !parents.contains(*id)).copied().collect();
        membership.heads.sort_unstable();
        membership
    }
}
