//! Pieces of files, each once under the hash of its content.
//!
//! A chunk is one zstd frame, sealed where the remote is. Whoever reads one checks it against its hash. In a remote that is not sealed both
//! folder and name are for people and other programs to see: `chunk/<kind of file>/<2 hex>/<BLAKE3 of the content>`. In a sealed one they are keyed hashes.

use bytes::Bytes;
use object_store::ObjectMeta;
use object_store::path::Path;

use crate::codec::FormatError;
use crate::error::RemoteError;
use crate::remote::Remote;
use crate::request::Placed;

/// The largest chunk, before compression.
pub const CHUNK_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Fast, and enough where anything can be gained; most large files are compressed already.
const COMPRESSION_LEVEL: i32 = 1;
/// What zstd may add to what it cannot compress.
const FRAME_BYTES_EXTRA: usize = 128 * 1024;
const OBJECT: &str = "chunk";

/// What a chunk is called in one remote. Another remote may call it otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkName(String);

impl ChunkName {
    /// As it is kept: folder, slash, name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The inverse of [`ChunkName::as_str`]; `None` for what is none.
    pub fn parse(text: &str) -> Option<ChunkName> {
        let (folder, name) = text.split_once('/')?;
        let hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let named = matches!(name.len(), 32 | 64) && hex(name);
        (is_folder(folder) && named).then(|| ChunkName(text.to_owned()))
    }

    /// The key below the prefix.
    fn place(&self) -> String {
        let (folder, name) = self.0.split_once('/').unwrap_or(("", &self.0));
        format!("chunk/{folder}/{}/{name}", name.get(..2).unwrap_or("00"))
    }

    fn mark(&self) -> String {
        self.place().replacen("chunk/", "trash/", 1)
    }

    fn of_mark(place: &str) -> Option<ChunkName> {
        ChunkName::of(&format!("chunk/{}", place.strip_prefix("trash/")?))
    }

    /// Of a key below the prefix; `None` for a stranger there.
    fn of(place: &str) -> Option<ChunkName> {
        let mut parts = place.strip_prefix("chunk/")?.split('/');
        let (folder, _, name, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next()) else { return None };
        ChunkName::parse(&format!("{folder}/{name}")).filter(|found| found.place() == place)
    }
}

/// A chunk that stands in a remote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredChunk {
    /// Its name.
    pub name: ChunkName,
    /// Its size there.
    pub bytes: u64,
    /// When it was put, in milliseconds since 1970 by the remote's clock.
    pub modified_ms: u64,
}

fn is_folder(folder: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    !folder.is_empty() && folder.len() <= 32 && folder.bytes().all(plain)
}

impl Remote {
    /// What a chunk of a kind of file is called here.
    pub fn chunk_name(&self, kind: &str, hash: &[u8; 32]) -> ChunkName {
        let Some(sealing) = &self.sealing else {
            let folder = if is_folder(kind) { kind } else { "other" };
            return ChunkName(format!("{folder}/{}", blake3::Hash::from_bytes(*hash).to_hex()));
        };
        let folder = u128::from_be_bytes(sealing.base.name("chunk folder", kind.as_bytes()));
        let name = u128::from_be_bytes(sealing.base.name("chunk", hash));
        ChunkName(format!("{:08x}/{name:032x}", folder >> 96))
    }

    /// Puts a chunk unless it stands there; one of another size than this device makes of it is read, and replaced if it is damaged. `replace` puts it in any
    /// case, for one that turned out to be. Gives the bytes sent; 0 if it stood there.
    ///
    /// # Errors
    /// [`RemoteError::TooLarge`] beyond [`CHUNK_BYTES_MAX`], [`RemoteError::NoFolder`], and those of any request.
    pub async fn put_chunk(&self, name: &ChunkName, content: &[u8], replace: bool) -> Result<u64, RemoteError> {
        let place = name.place();
        let key = self.inner.prefix.key(&place);
        self.check_size(&key, content.len(), CHUNK_BYTES_MAX)?;
        self.check_folder()?;
        let failed = |_| FormatError::Malformed { object: OBJECT, problem: "it cannot be compressed" };
        let frame = zstd::bulk::compress(content, COMPRESSION_LEVEL).map_err(failed);
        let frame = frame.map_err(|source| self.unwritable(&key, source))?;
        let sealed = self.sealed_bytes(OBJECT, &place, frame.into());
        let sealed = sealed.map_err(|source| self.unwritable(&key, source))?;
        let sent = sealed.len() as u64;
        let requests = &self.inner.requests;
        let placed = match replace {
            true => requests.put(&key, &sealed).await.map(|_| Placed::Ours),
            false => requests.put_new(&key, &sealed, false).await,
        };
        match placed.map_err(|failure| self.failed(failure, &key))? {
            Placed::Ours => return Ok(sent),
            Placed::Existed => {}
        }
        // A put that was cut off once may have left a part, which nobody would ever replace.
        let hash = blake3::hash(content);
        let same_size = match requests.stat(&key).await.map_err(|failure| self.failed(failure, &key)) {
            Ok(meta) => meta.size == sent,
            // Somebody has removed it meanwhile.
            Err(RemoteError::Missing { .. }) => false,
            Err(error) => return Err(error),
        };
        let sound = same_size
            || match self.get_chunk(name, hash.as_bytes(), content.len()).await {
                Ok(_) => true,
                Err(RemoteError::Missing { .. } | RemoteError::Corrupt { .. } | RemoteError::TooLarge { .. }) => false,
                Err(error) => return Err(error),
            };
        if sound {
            return Ok(0);
        }
        tracing::warn!(place = self.place(), %key, "a damaged chunk is replaced");
        requests.put(&key, &sealed).await.map(|_| sent).map_err(|failure| self.failed(failure, &key))
    }

    /// A chunk of `bytes` bytes with this hash.
    ///
    /// # Errors
    /// [`RemoteError::Missing`], [`RemoteError::Corrupt`] for what is another or damaged, [`RemoteError::TooLarge`], and those of any request.
    pub async fn get_chunk(&self, name: &ChunkName, hash: &[u8; 32], bytes: usize) -> Result<Bytes, RemoteError> {
        let place = name.place();
        let key = self.inner.prefix.key(&place);
        self.check_size(&key, bytes, CHUNK_BYTES_MAX)?;
        let decode = |sealed: &[u8]| {
            let frame = self.opened(OBJECT, &place, sealed)?;
            let malformed = |_| FormatError::Malformed { object: OBJECT, problem: "it cannot be decompressed" };
            // Never more than was asked for, whatever the frame says of itself.
            let content = zstd::bulk::decompress(&frame, bytes).map_err(malformed)?;
            if content.len() != bytes {
                let (found, expected) = (content.len() as u64, bytes as u64);
                return Err(FormatError::Size { object: OBJECT, found, expected });
            }
            if blake3::hash(&content) != blake3::Hash::from_bytes(*hash) {
                return Err(FormatError::Checksum { object: OBJECT });
            }
            Ok(Bytes::from(content))
        };
        let most = self.with_seal(bytes + FRAME_BYTES_EXTRA);
        self.read(&key, most, None, decode).await.map(|(content, _)| content)
    }

    /// Whether a chunk stands here: one HEAD.
    ///
    /// # Errors
    /// Those of any request.
    pub async fn has_chunk(&self, name: &ChunkName) -> Result<bool, RemoteError> {
        self.stands(&self.inner.prefix.key(&name.place())).await
    }

    async fn stands(&self, key: &Path) -> Result<bool, RemoteError> {
        match self.inner.requests.stat(key).await {
            Ok(_) => Ok(true),
            Err(failure) => match self.failed(failure, key) {
                RemoteError::Missing { .. } => self.check_folder().map(|()| false),
                error => Err(error),
            },
        }
    }

    /// Removes a chunk; one that is not there is fine.
    ///
    /// # Errors
    /// Those of any request.
    pub async fn delete_chunk(&self, name: &ChunkName) -> Result<(), RemoteError> {
        let key = self.inner.prefix.key(&name.place());
        self.inner.requests.delete(&key).await.map_err(|failure| self.failed(failure, &key))
    }

    /// Tells all chunks that stand here, in no order, some perhaps twice: one LIST and its further pages. Nothing is held of them here.
    ///
    /// # Errors
    /// [`RemoteError::NoFolder`], and those of any request; what was told until then stands.
    pub async fn list_chunks(&self, mut tell: impl FnMut(StoredChunk) + Send) -> Result<(), RemoteError> {
        self.check_folder()?;
        let folder = self.inner.prefix.key("chunk");
        let mut each = |meta: ObjectMeta| {
            if let Some(name) = self.below_prefix(&meta.location).as_deref().and_then(ChunkName::of) {
                let modified_ms = u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(0);
                tell(StoredChunk { name, bytes: meta.size, modified_ms });
            } else {
                tracing::debug!(place = self.place(), key = %meta.location, "an object that is no chunk is ignored");
            }
        };
        self.inner.requests.list_each(&folder, &mut each).await.map_err(|failure| self.failed(failure, &folder))
    }

    /// Marks a chunk as one that nothing seems to need, with an object that says since when.
    ///
    /// # Errors
    /// Those of any request.
    pub async fn mark_chunk(&self, name: &ChunkName) -> Result<(), RemoteError> {
        let key = self.inner.prefix.key(&name.mark());
        self.check_folder()?;
        let placed = self.inner.requests.put_new(&key, &Bytes::from_static(b"1"), false).await;
        placed.map(|_| ()).map_err(|failure| self.failed(failure, &key))
    }

    /// Takes the mark away; none is fine.
    ///
    /// # Errors
    /// Those of any request.
    pub async fn unmark_chunk(&self, name: &ChunkName) -> Result<(), RemoteError> {
        let key = self.inner.prefix.key(&name.mark());
        self.inner.requests.delete(&key).await.map_err(|failure| self.failed(failure, &key))
    }

    /// Whether a chunk is marked: one HEAD.
    ///
    /// # Errors
    /// Those of any request.
    pub async fn is_marked(&self, name: &ChunkName) -> Result<bool, RemoteError> {
        self.stands(&self.inner.prefix.key(&name.mark())).await
    }

    /// The chunks that are marked, and since when.
    ///
    /// # Errors
    /// [`RemoteError::NoFolder`], and those of any request.
    pub async fn list_marks(&self) -> Result<Vec<StoredChunk>, RemoteError> {
        self.check_folder()?;
        let folder = self.inner.prefix.key("trash");
        let mut marks = Vec::new();
        let mut each = |meta: ObjectMeta| {
            let name = self.below_prefix(&meta.location).as_deref().and_then(ChunkName::of_mark);
            let modified_ms = u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(0);
            marks.extend(name.map(|name| StoredChunk { name, bytes: meta.size, modified_ms }));
        };
        let listed = self.inner.requests.list_each(&folder, &mut each).await;
        listed.map_err(|failure| self.failed(failure, &folder))?;
        Ok(marks)
    }

    fn below_prefix(&self, key: &Path) -> Option<String> {
        let prefix = self.inner.prefix.key("chunk");
        let parts = prefix.parts_count().checked_sub(1)?;
        let below: Vec<String> = key.parts().skip(parts).map(|part| part.as_ref().to_owned()).collect();
        Some(below.join("/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_none_leads_nowhere() {
        let hash = "0".repeat(64);
        let name = ChunkName::parse(&format!("gguf/{hash}")).unwrap();
        assert_eq!(name.place(), format!("chunk/gguf/00/{hash}"));
        assert_eq!(ChunkName::of(&name.place()), Some(name));
        for text in [
            "gguf",
            "../x",
            "a/../b",
            &format!("../{hash}"),
            &format!("GGUF/{hash}"),
            "a/0",
            &format!("a/{}", "G".repeat(64)),
        ] {
            assert_eq!(ChunkName::parse(text), None, "{text}");
        }
        for place in [format!("chunk/gguf/01/{hash}"), format!("chunk/gguf/{hash}"), format!("head/gguf/00/{hash}")] {
            assert_eq!(ChunkName::of(&place), None, "{place}");
        }
    }
}
