//! Where a file is cut, and the list of its pieces.

use std::borrow::Cow;

use fastcdc::v2020::{Normalization, cut_gear, get_gear_with_seed, select_masks};

const MIB: usize = 1024 * 1024;

/// The largest file that is one chunk.
pub const WHOLE_BYTES_MAX: u64 = MIB as u64;
/// The largest chunk.
pub const CHUNK_BYTES_MAX: usize = 16 * MIB;
/// The largest file: its list of chunks still fits into a row.
pub const FILE_BYTES_MAX: u64 = 2 << 40;
/// From here on chunks of 1 MiB.
const LARGE_BYTES: u64 = 2 << 30;
/// From here on chunks of 4 MiB.
const HUGE_BYTES: u64 = 16 << 30;
/// Of a list: hash and length.
const ENTRY_BYTES: usize = 36;

/// The least, the average and the largest size of chunks of a file of so many bytes. Depends on nothing else, so that a file that grew a little
/// keeps its cuts.
///
/// What a change of 1 MB in the middle sends, the median and the most of 40 places in 64 MiB: with chunks of 256 KiB on average 1.5 and 2.4 MB, of 512 KiB
/// 2.1 and 4.8 MB, of 1 MiB 2.7 and 8.2 MB. It takes some chunks until cuts are again where they were, and a least size near the average takes more.
pub const fn chunk_sizes(file_bytes: u64) -> (usize, usize, usize) {
    let average = match file_bytes {
        0..LARGE_BYTES => MIB / 4,
        LARGE_BYTES..HUGE_BYTES => MIB,
        HUGE_BYTES.. => 4 * MIB,
    };
    (average / 4, average, average * 4)
}

/// A piece of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkRef {
    /// The BLAKE3 hash of its bytes.
    pub hash: [u8; 32],
    /// How many they are; at most [`CHUNK_BYTES_MAX`].
    pub bytes: u32,
}

/// A list of chunks that cannot be that of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChunkListError {
    /// It is cut off.
    #[error("the list of chunks has {0} bytes, which is no multiple of {ENTRY_BYTES}")]
    Length(usize),
    /// A chunk is empty or too large.
    #[error("chunk {index} of the list has {bytes} bytes; 1 to {CHUNK_BYTES_MAX} are allowed")]
    Chunk {
        /// Which one, from 0.
        index: usize,
        /// Its claimed size.
        bytes: u32,
    },
    /// The chunks do not make up the file.
    #[error("the chunks of the list have {listed} bytes in all, and the file has {file}")]
    Sum {
        /// Of the list.
        listed: u64,
        /// Of the row.
        file: u64,
    },
    /// A file beyond [`WHOLE_BYTES_MAX`] without a list, or one of fewer bytes than none.
    #[error("a file of {0} bytes needs a list of chunks")]
    Missing(u64),
    /// A file of no bytes whose content is something.
    #[error("a file of 0 bytes has another content than nothing")]
    NotEmpty,
    /// A file of at most [`WHOLE_BYTES_MAX`] with a list.
    #[error("a file of {0} bytes is one chunk and has no list")]
    Needless(u64),
    /// A file that is too large.
    #[error("a file of {0} bytes is larger than isle takes ({FILE_BYTES_MAX})")]
    TooLarge(u64),
}

impl ChunkRef {
    /// The list of a file's chunks as it is kept; `None` for one that is whole.
    pub fn encode(chunks: &[ChunkRef], file_bytes: u64) -> Option<Vec<u8>> {
        if file_bytes <= WHOLE_BYTES_MAX {
            return None;
        }
        let mut list = Vec::with_capacity(chunks.len() * ENTRY_BYTES);
        for chunk in chunks {
            list.extend_from_slice(&chunk.hash);
            list.extend_from_slice(&chunk.bytes.to_be_bytes());
        }
        Some(list)
    }

    /// The chunks of a file with these bytes and this content, of the list in its row. An empty file has none.
    ///
    /// # Errors
    /// When they cannot make up the file.
    pub fn decode(list: Option<&[u8]>, content: [u8; 32], file_bytes: u64) -> Result<Vec<ChunkRef>, ChunkListError> {
        if file_bytes > FILE_BYTES_MAX {
            return Err(ChunkListError::TooLarge(file_bytes));
        }
        let Some(list) = list else {
            return match u32::try_from(file_bytes) {
                Ok(0) if content != *blake3::hash(b"").as_bytes() => Err(ChunkListError::NotEmpty),
                Ok(0) => Ok(Vec::new()),
                Ok(bytes) if file_bytes <= WHOLE_BYTES_MAX => Ok(vec![ChunkRef { hash: content, bytes }]),
                _ => Err(ChunkListError::Missing(file_bytes)),
            };
        };
        if file_bytes <= WHOLE_BYTES_MAX {
            return Err(ChunkListError::Needless(file_bytes));
        }
        let (entries, rest) = list.as_chunks::<ENTRY_BYTES>();
        if !rest.is_empty() {
            return Err(ChunkListError::Length(list.len()));
        }
        let mut chunks = Vec::with_capacity(entries.len());
        let mut listed = 0;
        for (index, entry) in entries.iter().enumerate() {
            let (mut hash, mut bytes) = ([0; 32], [0; 4]);
            hash.copy_from_slice(&entry[..32]);
            bytes.copy_from_slice(&entry[32..]);
            let bytes = u32::from_be_bytes(bytes);
            if bytes == 0 || bytes as usize > CHUNK_BYTES_MAX {
                return Err(ChunkListError::Chunk { index, bytes });
            }
            listed += u64::from(bytes);
            chunks.push(ChunkRef { hash, bytes });
        }
        if listed != file_bytes {
            return Err(ChunkListError::Sum { listed, file: file_bytes });
        }
        Ok(chunks)
    }
}

/// Finds the cuts of one library's files.
#[derive(Debug, Clone)]
pub struct Chunker {
    gear: Cow<'static, [u64]>,
    gear_shifted: Cow<'static, [u64]>,
}

impl Chunker {
    /// With the library's seed: another one cuts elsewhere, so that who knows a file cannot tell from the sizes of chunks that it is there.
    pub fn new(seed: u64) -> Chunker {
        let (gear, gear_shifted) = get_gear_with_seed(seed);
        Chunker { gear, gear_shifted }
    }

    /// The length of the first chunk of `window`, which holds the rest of the file or at least the largest chunk's size of it.
    pub fn cut(&self, window: &[u8], (least, average, most): (usize, usize, usize)) -> usize {
        let (short, long) = select_masks(average, Normalization::Level1);
        let (gear, shifted) = (&self.gear, &self.gear_shifted);
        let (_, cut) = cut_gear(window, least, average, most, short, long, short << 1, long << 1, gear, shifted);
        cut.clamp(1, window.len().max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that repeat for no chunk's length.
    fn noise(bytes: usize, seed: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes + 64);
        let mut reader = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
        out.resize(bytes, 0);
        reader.fill(&mut out);
        out
    }

    fn cuts(bytes: &[u8], chunker: &Chunker) -> Vec<usize> {
        let sizes = chunk_sizes(bytes.len() as u64);
        let (mut at, mut found) = (0, Vec::new());
        while at < bytes.len() {
            at += chunker.cut(&bytes[at..bytes.len().min(at + sizes.2)], sizes);
            found.push(at);
        }
        found
    }

    #[test]
    fn cuts_lie_within_their_bounds_and_near_their_average() {
        let bytes = noise(64 * MIB, 1);
        let found = cuts(&bytes, &Chunker::new(7));
        let (least, average, most) = chunk_sizes(bytes.len() as u64);
        let sizes: Vec<usize> = found.iter().scan(0, |last, at| Some(at - std::mem::replace(last, *at))).collect();
        assert_eq!(sizes.iter().sum::<usize>(), bytes.len());
        assert!(sizes[..sizes.len() - 1].iter().all(|size| (least..=most).contains(size)), "{sizes:?}");
        let mean = bytes.len() / sizes.len();
        assert!((average * 3 / 4..=average * 3 / 2).contains(&mean), "{mean}");
    }

    #[test]
    fn an_inserted_byte_moves_few_cuts() {
        let mut bytes = noise(32 * MIB, 2);
        let chunker = Chunker::new(7);
        let hashes = |bytes: &[u8]| {
            let mut from = 0;
            let hash = |to: usize| *blake3::hash(&bytes[std::mem::replace(&mut from, to)..to]).as_bytes();
            cuts(bytes, &chunker).into_iter().map(hash).collect::<std::collections::HashSet<_>>()
        };
        let before = hashes(&bytes);
        bytes.insert(16 * MIB, 0);
        let new = hashes(&bytes).difference(&before).count();
        assert!((1..=3).contains(&new), "{new}");
    }

    #[test]
    fn another_seed_cuts_elsewhere() {
        let bytes = noise(16 * MIB, 3);
        assert_ne!(cuts(&bytes, &Chunker::new(1)), cuts(&bytes, &Chunker::new(2)));
    }

    #[test]
    fn a_list_that_does_not_make_up_its_file_is_refused() {
        let chunk = |bytes| ChunkRef { hash: [7; 32], bytes };
        let content = [1; 32];
        let file = 3 * MIB as u64;
        let chunks = vec![chunk(2 * MIB as u32), chunk(MIB as u32)];
        let list = ChunkRef::encode(&chunks, file).unwrap();
        assert_eq!(ChunkRef::decode(Some(&list), content, file), Ok(chunks));
        assert_eq!(ChunkRef::decode(Some(&list[1..]), content, file), Err(ChunkListError::Length(71)));
        let sum = ChunkListError::Sum { listed: file, file: file + 1 };
        assert_eq!(ChunkRef::decode(Some(&list), content, file + 1), Err(sum));
        assert_eq!(ChunkRef::decode(None, content, file), Err(ChunkListError::Missing(file)));
        let large = ChunkRef::encode(&[chunk(CHUNK_BYTES_MAX as u32 + 1)], file).unwrap();
        let refused = ChunkListError::Chunk { index: 0, bytes: CHUNK_BYTES_MAX as u32 + 1 };
        assert_eq!(ChunkRef::decode(Some(&large), content, CHUNK_BYTES_MAX as u64 + 1), Err(refused));
        let empty = ChunkRef::encode(&[chunk(0)], file).unwrap();
        assert_eq!(ChunkRef::decode(Some(&empty), content, file), Err(ChunkListError::Chunk { index: 0, bytes: 0 }));
        assert_eq!(ChunkRef::decode(Some(&list), content, 9), Err(ChunkListError::Needless(9)));
        assert_eq!(ChunkRef::decode(None, content, 0), Err(ChunkListError::NotEmpty), "what would be whole anywhere");
        assert_eq!(ChunkRef::decode(None, content, u64::MAX), Err(ChunkListError::TooLarge(u64::MAX)));
    }

    #[test]
    fn a_small_file_is_its_own_chunk_and_an_empty_one_has_none() {
        assert_eq!(ChunkRef::encode(&[ChunkRef { hash: [1; 32], bytes: 9 }], 9), None);
        assert_eq!(ChunkRef::decode(None, [1; 32], 9), Ok(vec![ChunkRef { hash: [1; 32], bytes: 9 }]));
        assert_eq!(ChunkRef::decode(None, *blake3::hash(b"").as_bytes(), 0), Ok(vec![]));
    }
}
