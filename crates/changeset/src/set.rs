//! What one write did to a set: the value of a cell whose column is one.
//!
//! ```text
//!  v  members added: count, then (v length, text) each
//!  v  members removed: count, then each:
//!       v length, text
//!       1  whether it was one of those that the row began with
//!       v  additions that it ends: count, then (site 16, hlc 8 little-endian) each
//! ```
//! A member is a JSON value as it stands in the array. An addition is known by who made it and when: its removal names those
//! additions that its author had seen, so that one made meanwhile elsewhere stays (an observed-remove set; Shapiro et al., "A
//! comprehensive study of Convergent and Commutative Replicated Data Types", 2011, §3.3.5).

use isle_clock::{Hlc, SiteId};

use crate::wire::{DecodeError, Reader, put_varint};

/// What one write did to a set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetChange {
    /// Members that came.
    pub added: Vec<Vec<u8>>,
    /// Members that went.
    pub removed: Vec<RemovedMember>,
}

/// A member that went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemovedMember {
    /// The member.
    pub member: Vec<u8>,
    /// Whether the row began with it.
    pub first: bool,
    /// The additions that are at an end.
    pub additions: Vec<(SiteId, Hlc)>,
}

impl SetChange {
    /// The one encoding of the change.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let text = |out: &mut Vec<u8>, text: &[u8]| {
            put_varint(out, text.len() as u64);
            out.extend(text);
        };
        put_varint(&mut out, self.added.len() as u64);
        self.added.iter().for_each(|member| text(&mut out, member));
        put_varint(&mut out, self.removed.len() as u64);
        for removed in &self.removed {
            text(&mut out, &removed.member);
            out.push(u8::from(removed.first));
            put_varint(&mut out, removed.additions.len() as u64);
            for (site, hlc) in &removed.additions {
                out.extend(site.as_bytes());
                out.extend(hlc.bits().to_le_bytes());
            }
        }
        out
    }

    /// Reads a change. Memory stays within a small multiple of the input's length.
    ///
    /// # Errors
    /// [`DecodeError`] for anything that [`SetChange::encode`] would not have written.
    pub fn decode(bytes: &[u8]) -> Result<SetChange, DecodeError> {
        let mut reader = Reader::new(bytes);
        let count = reader.count("members", reader.remaining())?;
        let added = (0..count).map(|_| reader.prefixed().map(<[u8]>::to_vec)).collect::<Result<_, _>>()?;
        let count = reader.count("members", reader.remaining() / 3)?;
        let removed = (0..count).map(|_| removed(&mut reader)).collect::<Result<_, _>>()?;
        reader.end("change of a set")?;
        let change = SetChange { added, removed };
        if change.encode() == bytes { Ok(change) } else { Err(DecodeError::Inconsistent { what: "change of a set" }) }
    }
}

fn removed(reader: &mut Reader<'_>) -> Result<RemovedMember, DecodeError> {
    let member = reader.prefixed()?.to_vec();
    let first = match reader.byte()? {
        0 => false,
        1 => true,
        tag => return Err(DecodeError::Tag { what: "member of a set", tag }),
    };
    let count = reader.count("additions", reader.remaining() / 24)?;
    let addition = |reader: &mut Reader<'_>| {
        let site = SiteId::from_bytes(reader.array()?);
        let hlc = Hlc::from_bits(u64::from_le_bytes(reader.array()?));
        hlc.map(|hlc| (site, hlc)).ok_or(DecodeError::Inconsistent { what: "time of an addition" })
    };
    let additions = (0..count).map(|_| addition(reader)).collect::<Result<_, _>>()?;
    Ok(RemovedMember { member, first, additions })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn change() -> impl Strategy<Value = SetChange> {
        let text = || prop::collection::vec(any::<u8>(), 0..20);
        let addition = (any::<[u8; 16]>(), 0..1u64 << 60)
            .prop_map(|(site, hlc)| (SiteId::from_bytes(site), Hlc::from_bits(hlc).unwrap_or(Hlc::ZERO)));
        let removed = (text(), any::<bool>(), prop::collection::vec(addition, 0..3))
            .prop_map(|(member, first, additions)| RemovedMember { member, first, additions });
        (prop::collection::vec(text(), 0..5), prop::collection::vec(removed, 0..4))
            .prop_map(|(added, removed)| SetChange { added, removed })
    }

    proptest! {
        #[test]
        fn a_change_reads_back_and_bytes_that_differ_do_not(change in change(), at: prop::sample::Index, flip in 1..=255u8) {
            let bytes = change.encode();
            prop_assert_eq!(SetChange::decode(&bytes), Ok(change.clone()));
            let mut damaged = bytes.clone();
            let at = at.index(damaged.len());
            damaged[at] ^= flip;
            prop_assert_ne!(SetChange::decode(&damaged), Ok(change));
        }

        #[test]
        fn no_input_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(change) = SetChange::decode(&bytes) {
                prop_assert_eq!(change.encode(), bytes);
            }
        }
    }

    #[test]
    fn the_layout_is_the_one_that_the_docs_draw() {
        let hlc = Hlc::from_bits(0x0102_0304).unwrap_or(Hlc::ZERO);
        let removed = RemovedMember {
            member: b"\"b\"".to_vec(),
            first: true,
            additions: vec![(SiteId::from_bytes([7; 16]), hlc)],
        };
        let change = SetChange { added: vec![b"1".to_vec()], removed: vec![removed] };
        let mut expected = vec![1, 1, b'1', 1, 3, b'"', b'b', b'"', 1, 1];
        expected.extend([7; 16]);
        expected.extend([4, 3, 2, 1, 0, 0, 0, 0]);
        assert_eq!(change.encode(), expected);
    }
}
