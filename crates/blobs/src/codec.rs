//! The envelope that groups, heads, schema operations and segments share.

use bytes::Bytes;
use isle_identity::SealError;
use serde::Serialize;
use serde::de::DeserializeOwned;

const MAGIC: [u8; 4] = *b"isle";
const CHECKED_FROM: usize = 40;
/// Bytes before the body.
pub(crate) const ENVELOPE_BYTES: usize = CHECKED_FROM;

/// Why bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The bytes do not begin like an object of this kind.
    #[error("the bytes are no isle {expected}")]
    Foreign {
        /// What was expected.
        expected: &'static str,
    },
    /// A later release wrote this.
    #[error("the {object} has format {found}, this release reads up to {supported}: update isle on this device")]
    Newer {
        /// What was read.
        object: &'static str,
        /// Its format version.
        found: u16,
        /// The newest format version that can be read.
        supported: u16,
    },
    /// The checksum, or the hash in the name, is not that of the bytes.
    #[error("the checksum of the {object} does not match its bytes")]
    Checksum {
        /// What was read.
        object: &'static str,
    },
    /// Something is larger than its bound.
    #[error("the {what} has {bytes} bytes, at most {max} are allowed")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size; when reading stopped at the bound, the size at which it stopped.
        bytes: u64,
        /// The bound.
        max: u64,
    },
    /// The size is not the one that was published.
    #[error("the {object} has {found} bytes instead of {expected}")]
    Size {
        /// What was read.
        object: &'static str,
        /// Bytes read.
        found: u64,
        /// Bytes that the reference or the store promised.
        expected: u64,
    },
    /// It is not encrypted as it has to be, or cannot be opened.
    #[error("the {object} cannot be opened")]
    Sealed {
        /// What was read.
        object: &'static str,
        /// Why.
        source: SealError,
    },
    /// The checksum holds and yet the content breaks a rule of the format.
    #[error("the {object} is malformed: {problem}")]
    Malformed {
        /// What was read.
        object: &'static str,
        /// The broken rule.
        problem: &'static str,
    },
}

impl FormatError {
    /// Whether reading the same bytes once more is of no use.
    pub(crate) fn is_lasting(&self) -> bool {
        let sealed = |source: &SealError| matches!(source, SealError::UnknownKey { .. } | SealError::Newer { .. });
        matches!(self, FormatError::Sealed { source, .. } if sealed(source))
    }
}

/// One kind of enveloped object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) letter: u8,
    pub(crate) name: &'static str,
    pub(crate) format: u16,
    /// The flags that this format defines.
    pub(crate) flags: u8,
}

/// What an envelope holds.
pub(crate) struct Opened<'a> {
    pub(crate) flags: u8,
    pub(crate) format: u16,
    pub(crate) body: &'a [u8],
}

/// Puts a body, given in pieces, into an envelope.
pub(crate) fn wrap(kind: Kind, flags: u8, body: &[&[u8]]) -> Bytes {
    let length: usize = body.iter().map(|piece| piece.len()).sum();
    let mut bytes = Vec::with_capacity(ENVELOPE_BYTES + length);
    bytes.extend_from_slice(&MAGIC);
    bytes.push(kind.letter);
    bytes.push(flags);
    bytes.extend_from_slice(&kind.format.to_be_bytes());
    let sum = checksum(&bytes, body);
    bytes.extend_from_slice(sum.as_bytes());
    for piece in body {
        bytes.extend_from_slice(piece);
    }
    bytes.into()
}

/// Checks kind, format and checksum and gives out the body.
pub(crate) fn unwrap(kind: Kind, bytes: &[u8]) -> Result<Opened<'_>, FormatError> {
    let foreign = FormatError::Foreign { expected: kind.name };
    let Some((prelude, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(foreign);
    };
    let [m0, m1, m2, m3, letter, flags, f0, f1] = *prelude;
    if [m0, m1, m2, m3] != MAGIC || letter != kind.letter {
        return Err(foreign);
    }
    let format = u16::from_be_bytes([f0, f1]);
    if format > kind.format {
        return Err(FormatError::Newer { object: kind.name, found: format, supported: kind.format });
    }
    let Some((sum, body)) = rest.split_first_chunk::<32>() else {
        return Err(FormatError::Malformed { object: kind.name, problem: "it ends within its checksum" });
    };
    if checksum(prelude, &[body]) != blake3::Hash::from_bytes(*sum) {
        return Err(FormatError::Checksum { object: kind.name });
    }
    if format == 0 || flags & !kind.flags != 0 {
        return Err(FormatError::Malformed { object: kind.name, problem: "it has an unknown flag or format 0" });
    }
    Ok(Opened { flags, format, body })
}

/// Encodes a small structure.
pub(crate) fn encode<T: Serialize>(kind: Kind, value: &T) -> Result<Bytes, FormatError> {
    let body = postcard::to_stdvec(value)
        .map_err(|_| FormatError::Malformed { object: kind.name, problem: "it cannot be encoded" })?;
    Ok(wrap(kind, 0, &[&body]))
}

/// Decodes a small structure and insists on its canonical form: encoding it again gives the same bytes.
///
/// The caller has bounded `bytes`; serde's collections cap what they reserve from a claimed length, and postcard
/// takes byte strings only from bytes that are there.
pub(crate) fn decode<T: Serialize + DeserializeOwned>(kind: Kind, bytes: &[u8]) -> Result<T, FormatError> {
    let opened = unwrap(kind, bytes)?;
    let malformed = |problem| FormatError::Malformed { object: kind.name, problem };
    let (value, rest) =
        postcard::take_from_bytes::<T>(opened.body).map_err(|_| malformed("its body cannot be decoded"))?;
    let again = postcard::to_stdvec(&value).map_err(|_| malformed("its body cannot be encoded again"))?;
    if !rest.is_empty() || again != opened.body {
        return Err(malformed("its body is not in canonical form"));
    }
    Ok(value)
}

fn checksum(prelude: &[u8], body: &[&[u8]]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(prelude);
    for piece in body {
        hasher.update(piece);
    }
    hasher.finalize()
}
