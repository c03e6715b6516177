//! Which versions of which site are known: contiguous ones in a vector, the rest as ranges.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::SiteId;

/// For each site the number `n` such that all its versions `1..=n` are included. Absent means 0.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VersionVector(BTreeMap<SiteId, u64>);

impl VersionVector {
    /// The vector that includes nothing.
    pub const fn new() -> VersionVector {
        VersionVector(BTreeMap::new())
    }

    /// The last version of `site` that is included; 0 when there is none.
    pub fn get(&self, site: SiteId) -> u64 {
        self.0.get(&site).copied().unwrap_or(0)
    }

    /// Whether version `version` of `site` is included.
    pub fn contains(&self, site: SiteId, version: u64) -> bool {
        version <= self.get(site)
    }

    /// Raises `site` to at least `version`.
    pub fn advance(&mut self, site: SiteId, version: u64) {
        if version > 0 {
            let known = self.0.entry(site).or_insert(0);
            *known = version.max(*known);
        }
    }

    /// The least vector that includes both.
    pub fn merge(&mut self, other: &VersionVector) {
        for (site, version) in other.iter() {
            self.advance(site, version);
        }
    }

    /// Whether everything in `other` is included here.
    pub fn includes(&self, other: &VersionVector) -> bool {
        other.iter().all(|(site, version)| self.contains(site, version))
    }

    /// The greatest vector that both include.
    pub fn meet(&self, other: &VersionVector) -> VersionVector {
        let common = self.iter().map(|(site, version)| (site, version.min(other.get(site))));
        common.collect()
    }

    /// Sites with at least one version, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (SiteId, u64)> + '_ {
        self.0.iter().map(|(site, version)| (*site, *version))
    }

    /// The number of sites with at least one version.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is included.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(SiteId, u64)> for VersionVector {
    fn from_iter<I: IntoIterator<Item = (SiteId, u64)>>(versions: I) -> Self {
        let mut vector = VersionVector::new();
        for (site, version) in versions {
            vector.advance(site, version);
        }
        vector
    }
}

/// Any set of versions: a contiguous start per site and ranges beyond gaps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VersionSet {
    base: VersionVector,
    /// Per site: first version of a range to its last, disjoint, not touching, all beyond the base.
    beyond: BTreeMap<SiteId, BTreeMap<u64, u64>>,
}

impl VersionSet {
    /// The set of everything that `base` includes.
    pub fn from_vector(base: VersionVector) -> VersionSet {
        VersionSet { base, beyond: BTreeMap::new() }
    }

    /// What is known without a gap.
    pub fn contiguous(&self) -> &VersionVector {
        &self.base
    }

    /// Adds one version; returns whether it was new. Version 0 does not exist and is never new.
    pub fn insert(&mut self, site: SiteId, version: u64) -> bool {
        if self.contains(site, version) {
            return false;
        }
        let ranges = self.beyond.entry(site).or_default();
        let mut first = version;
        let mut last = version;
        if let Some((&start, &end)) = ranges.range(..version).next_back()
            && end + 1 == version
        {
            ranges.remove(&start);
            first = start;
        }
        if let Some(end) = version.checked_add(1).and_then(|next| ranges.remove(&next)) {
            last = end;
        }
        if first == self.base.get(site) + 1 {
            self.base.advance(site, last);
        } else {
            ranges.insert(first, last);
        }
        if ranges.is_empty() {
            self.beyond.remove(&site);
        }
        true
    }

    /// Whether the version is in the set (version 0 always counts as known).
    pub fn contains(&self, site: SiteId, version: u64) -> bool {
        if self.base.contains(site, version) {
            return true;
        }
        let range = self.beyond.get(&site).and_then(|ranges| ranges.range(..=version).next_back());
        range.is_some_and(|(_, &end)| version <= end)
    }

    /// The gaps of `site` up to and including `last`, as ranges of missing versions.
    pub fn gaps(&self, site: SiteId, last: u64) -> Vec<(u64, u64)> {
        let mut gaps = Vec::new();
        let mut next = self.base.get(site) + 1;
        let empty = BTreeMap::new();
        for (&start, &end) in self.beyond.get(&site).unwrap_or(&empty) {
            if start > last {
                break;
            }
            gaps.push((next, start - 1));
            next = end + 1;
        }
        if next <= last {
            gaps.push((next, last));
        }
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn site(n: u8) -> SiteId {
        SiteId::from_bytes([n; 16])
    }

    proptest! {
        #[test]
        fn a_version_set_agrees_with_a_plain_set(inserts in prop::collection::vec((0u8..3, 1u64..40), 0..120)) {
            let mut set = VersionSet::default();
            let mut model = BTreeSet::new();
            for (s, version) in inserts {
                prop_assert_eq!(set.insert(site(s), version), model.insert((s, version)));
            }
            for s in 0..3 {
                for version in 1..42 {
                    prop_assert_eq!(set.contains(site(s), version), model.contains(&(s, version)));
                }
                let contiguous = (1..).take_while(|v| model.contains(&(s, *v))).count() as u64;
                prop_assert_eq!(set.contiguous().get(site(s)), contiguous);
                let missing: Vec<u64> = set.gaps(site(s), 41).into_iter().flat_map(|(a, b)| a..=b).collect();
                let expected: Vec<u64> = (1..42).filter(|v| !model.contains(&(s, *v))).collect();
                prop_assert_eq!(missing, expected);
            }
        }

        #[test]
        fn merge_is_the_least_upper_bound_and_meet_the_greatest_lower(
            a in prop::collection::vec((0u8..4, 0u64..9), 0..6), b in prop::collection::vec((0u8..4, 0u64..9), 0..6)
        ) {
            let vector = |v: &[(u8, u64)]| v.iter().map(|(s, n)| (site(*s), *n)).collect::<VersionVector>();
            let (a, b) = (vector(&a), vector(&b));
            let mut join = a.clone();
            join.merge(&b);
            prop_assert!(join.includes(&a) && join.includes(&b));
            let meet = a.meet(&b);
            prop_assert!(a.includes(&meet) && b.includes(&meet));
            for s in 0..4 {
                prop_assert_eq!(join.get(site(s)), a.get(site(s)).max(b.get(site(s))));
                prop_assert_eq!(meet.get(site(s)), a.get(site(s)).min(b.get(site(s))));
            }
        }
    }

    #[test]
    fn version_zero_is_no_version() {
        let mut set = VersionSet::default();
        assert!(!set.insert(site(1), 0));
        assert!(set.contiguous().is_empty());
    }
}
