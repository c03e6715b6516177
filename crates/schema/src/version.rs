//! Versions of an app's schema.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A version of an app's schema: a semantic version, of which the last numbers may be left out (`2`, `1.10`, `1.10.0-rc.1`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(semver::Version);

impl Version {
    /// Reads a version, with or without a `v` before it; `None` for what is none.
    pub fn parse(text: &str) -> Option<Version> {
        let text = text.strip_prefix(['v', 'V']).unwrap_or(text);
        let (numbers, pre) = text.split_once('-').map_or((text, None), |(numbers, pre)| (numbers, Some(pre)));
        let mut parts = numbers.split('.').map(|number| {
            let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
            number.parse::<u64>().ok().filter(|_| digits)
        });
        let mut next = || parts.next().unwrap_or(Some(0));
        let mut version = semver::Version::new(next()?, next()?, next()?);
        if parts.next().is_some() {
            return None;
        }
        if let Some(pre) = pre {
            version.pre = semver::Prerelease::new(pre).ok().filter(|_| !pre.is_empty())?;
        }
        Some(Version(version))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Version {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Version, D::Error> {
        let text = String::deserialize(deserializer)?;
        Version::parse(&text).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no version")))
    }
}

#[cfg(test)]
mod tests {
    use super::Version;

    #[test]
    fn versions_are_ordered_number_by_number_and_a_pre_release_comes_first() {
        let texts = ["0", "v1", "1.9.0", "1.10.0-rc.1", "1.10.0-rc.2", "1.10.0-rc.10", "1.10", "0002"];
        let versions: Vec<Version> = texts.iter().filter_map(|text| Version::parse(text)).collect();
        assert_eq!(versions.len(), texts.len());
        assert!(versions.is_sorted());
        assert_eq!(versions[6].to_string(), "1.10.0");
        for text in ["", "x", "1.", "1.2.3.4", "1.2.3-", "-1", "1.+2", "1e3"] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
    }
}
