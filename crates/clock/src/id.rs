//! Identifiers: a newtype for each, 16 bytes wide.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A text that is not 32 hexadecimal digits (with or without hyphens).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {kind} id: expected a UUID of 32 hexadecimal digits")]
pub struct ParseIdError {
    kind: &'static str,
    text: String,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        const _: () = assert!(size_of::<$name>() == 16);

        impl $name {
            /// The id with exactly these bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// A version 4 UUID made from 16 random bytes that the caller drew.
            pub fn from_random(bytes: [u8; 16]) -> Self {
                Self(uuid::Builder::from_random_bytes(bytes).into_uuid())
            }

            /// The 16 bytes of the id, in the order in which ids sort.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }

            /// The first eight hexadecimal digits, for people to read; not unique.
            pub fn short(&self) -> String {
                self.0.simple().to_string()[..8].to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.simple().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                Uuid::from_str(text)
                    .map(Self)
                    .map_err(|_| ParseIdError { kind: $kind, text: text.to_owned() })
            }
        }
    };
}

id! {
    /// One SQLite file on one device: the author of a chain of versions.
    SiteId, "site"
}
id! {
    /// One device: it has a key store outside any database file.
    DeviceId, "device"
}
id! {
    /// The replicas that share their data.
    GroupId, "group"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_their_bytes_and_read_back_from_text() {
        let low = SiteId::from_bytes([1; 16]);
        let high = SiteId::from_bytes([0xfe; 16]);
        assert!(low < high);
        assert_eq!(high.to_string().parse::<SiteId>(), Ok(high));
        assert_eq!(high.short(), "fefefefe");
    }

    #[test]
    fn a_garbled_id_is_refused_with_its_text() {
        let error = "not-an-id".parse::<GroupId>().expect_err("refused");
        assert!(error.to_string().contains("\"not-an-id\" is not a group id"));
    }

    #[test]
    fn random_ids_are_version_4_uuids() {
        let id = DeviceId::from_random([0xff; 16]);
        assert_eq!(id.as_bytes()[6] >> 4, 4);
    }
}
