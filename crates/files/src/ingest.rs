//! A file is read once: its hash, its chunks, and whatever digests are wanted.
//!
//! Two threads share the work: one reads and hashes the whole, the other cuts and hashes the pieces. What passes between them is bounded.

use std::fs::File;
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::chunk::{CHUNK_BYTES_MAX, ChunkRef, Chunker, FILE_BYTES_MAX, WHOLE_BYTES_MAX, chunk_sizes};
use crate::folder::Stat;

/// What is read at once.
pub const BLOCK_BYTES: usize = 1024 * 1024;
/// Blocks that may wait to be cut.
pub const READ_AHEAD: usize = 8;
/// What is held of a file to find its next cut.
pub const WINDOW_BYTES_MAX: usize = 2 * CHUNK_BYTES_MAX;

/// Digests that are wanted beside BLAKE3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Digests {
    /// SHA-1, as old catalogues have it.
    pub sha1: bool,
    /// SHA-256.
    pub sha256: bool,
}

/// What a file turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ingested {
    /// The BLAKE3 hash of all of it.
    pub content: [u8; 32],
    /// Its pieces, in order.
    pub chunks: Vec<ChunkRef>,
    /// If it was wanted.
    pub sha1: Option<[u8; 20]>,
    /// The same.
    pub sha256: Option<[u8; 32]>,
}

/// Why a file was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IngestError {
    /// Somebody writes to it; it is taken when it stands still.
    #[error("it changed while it was read")]
    Changed,
    /// It is larger than isle takes.
    #[error("it has {0} bytes, more than isle takes ({FILE_BYTES_MAX})")]
    TooLarge(u64),
    /// The reader does not want it any more.
    #[error("reading it was broken off")]
    Stopped,
    /// The system's reason.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// The hashes of the whole.
struct Whole {
    content: blake3::Hasher,
    sha1: Option<Sha1>,
    sha256: Option<Sha256>,
}

impl Whole {
    fn new(digests: Digests) -> Whole {
        let (sha1, sha256) = (digests.sha1.then(Sha1::new), digests.sha256.then(Sha256::new));
        Whole { content: blake3::Hasher::new(), sha1, sha256 }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.content.update(bytes);
        if let Some(sha1) = &mut self.sha1 {
            sha1.update(bytes);
        }
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
    }

    fn finish(self, chunks: Vec<ChunkRef>) -> Ingested {
        Ingested {
            content: *self.content.finalize().as_bytes(),
            chunks,
            sha1: self.sha1.map(|sha1| sha1.finalize().into()),
            sha256: self.sha256.map(|sha256| sha256.finalize().into()),
        }
    }
}

/// Reads a file that stands at its beginning. `more` is told how many bytes were read since it was last, and ends the reading by giving false.
///
/// # Errors
/// [`IngestError::Changed`] if it is not at its end what `stat` said of it.
pub fn ingest(
    mut file: &File,
    stat: &Stat,
    chunker: &Chunker,
    digests: Digests,
    more: &mut dyn FnMut(u64) -> bool,
) -> Result<Ingested, IngestError> {
    if stat.bytes > FILE_BYTES_MAX {
        return Err(IngestError::TooLarge(stat.bytes));
    }
    let mut whole = Whole::new(digests);
    let chunks = if stat.bytes <= WHOLE_BYTES_MAX {
        let mut content = Vec::with_capacity(stat.bytes as usize);
        file.take(WHOLE_BYTES_MAX + 1).read_to_end(&mut content)?;
        if content.len() as u64 != stat.bytes {
            return Err(IngestError::Changed);
        }
        whole.update(&content);
        if !more(stat.bytes) {
            return Err(IngestError::Stopped);
        }
        let hash = *whole.content.finalize().as_bytes();
        let bytes = stat.bytes as u32;
        (bytes > 0).then_some(ChunkRef { hash, bytes }).into_iter().collect()
    } else {
        in_two_threads(&mut file, stat.bytes, chunker, &mut whole, more)?
    };
    // Whoever wrote meanwhile without making it longer moved its time.
    if Stat::of(&file.metadata()?) != *stat {
        return Err(IngestError::Changed);
    }
    Ok(whole.finish(chunks))
}

fn in_two_threads(
    file: &mut impl Read,
    bytes: u64,
    chunker: &Chunker,
    whole: &mut Whole,
    more: &mut dyn FnMut(u64) -> bool,
) -> Result<Vec<ChunkRef>, IngestError> {
    let (send, receive) = sync_channel::<Vec<u8>>(READ_AHEAD);
    let (give_back, spare) = sync_channel::<Vec<u8>>(READ_AHEAD + 2);
    std::thread::scope(|scope| {
        let cutter = scope.spawn(move || cut_all(&receive, &give_back, bytes, chunker));
        let read = read_all(file, bytes, whole, more, &send, &spare);
        drop(send);
        // A panic in there is one of this program's: it goes on here.
        let chunks = cutter.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        read.map(|()| chunks)
    })
}

fn read_all(
    file: &mut impl Read,
    bytes: u64,
    whole: &mut Whole,
    more: &mut dyn FnMut(u64) -> bool,
    send: &SyncSender<Vec<u8>>,
    spare: &Receiver<Vec<u8>>,
) -> Result<(), IngestError> {
    let mut left = bytes;
    loop {
        let mut block = spare.try_recv().unwrap_or_else(|_| Vec::with_capacity(BLOCK_BYTES));
        block.clear();
        let read = file.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut block)? as u64;
        if read > left || (read == 0 && left > 0) {
            return Err(IngestError::Changed);
        }
        if read == 0 {
            return Ok(());
        }
        left -= read;
        whole.update(&block);
        if !more(read) {
            return Err(IngestError::Stopped);
        }
        if send.send(block).is_err() {
            return Err(IngestError::Stopped);
        }
    }
}

fn cut_all(
    blocks: &Receiver<Vec<u8>>,
    give_back: &SyncSender<Vec<u8>>,
    bytes: u64,
    chunker: &Chunker,
) -> Vec<ChunkRef> {
    let sizes = chunk_sizes(bytes);
    let (mut window, mut from, mut chunks) = (Vec::<u8>::with_capacity(2 * sizes.2), 0, Vec::new());
    let mut cut = |window: &[u8], last: bool| {
        let mut at = 0;
        while window.len() - at >= sizes.2 || (last && at < window.len()) {
            let rest = &window[at..window.len().min(at + sizes.2)];
            let piece = &rest[..chunker.cut(rest, sizes)];
            chunks.push(ChunkRef { hash: *blake3::hash(piece).as_bytes(), bytes: piece.len() as u32 });
            at += piece.len();
        }
        at
    };
    for block in blocks {
        if window.len() + block.len() > window.capacity() {
            window.drain(..from);
            from = 0;
        }
        window.extend_from_slice(&block);
        from += cut(&window[from..], false);
        // Nobody may want it back any more.
        let _ = give_back.try_send(block);
    }
    cut(&window[from..], true);
    chunks
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, Write as _};

    use super::*;

    const MIB: usize = 1024 * 1024;

    fn file_of(content: &[u8]) -> (File, Stat) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file.rewind().unwrap();
        let stat = Stat::of(&file.metadata().unwrap());
        (file, stat)
    }

    fn noise(bytes: usize) -> Vec<u8> {
        let mut out = vec![0; bytes];
        blake3::Hasher::new().finalize_xof().fill(&mut out);
        out
    }

    fn take(content: &[u8]) -> Ingested {
        let (file, stat) = file_of(content);
        ingest(&file, &stat, &Chunker::new(3), Digests { sha1: true, sha256: true }, &mut |_| true).unwrap()
    }

    #[test]
    fn hashes_are_those_of_the_content_at_every_size_around_a_bound() {
        for bytes in [0, 1, MIB - 1, MIB, MIB + 1, 2 * MIB, 9 * MIB + 17] {
            let content = noise(bytes);
            let taken = take(&content);
            assert_eq!(taken.content, *blake3::hash(&content).as_bytes(), "{bytes}");
            let sha1: [u8; 20] = Sha1::digest(&content).into();
            let sha256: [u8; 32] = Sha256::digest(&content).into();
            assert_eq!((taken.sha1, taken.sha256), (Some(sha1), Some(sha256)), "{bytes}");
            let mut at = 0;
            for chunk in &taken.chunks {
                let piece = &content[at..at + chunk.bytes as usize];
                assert_eq!(chunk.hash, *blake3::hash(piece).as_bytes(), "{bytes}");
                at += piece.len();
            }
            assert_eq!(at, bytes);
        }
    }

    #[test]
    fn chunks_are_those_that_cutting_the_whole_gives() {
        let content = noise(23 * MIB + 5);
        let (chunker, sizes) = (Chunker::new(3), chunk_sizes(content.len() as u64));
        let (mut at, mut lengths) = (0, Vec::new());
        while at < content.len() {
            let length = chunker.cut(&content[at..content.len().min(at + sizes.2)], sizes);
            lengths.push(length as u32);
            at += length;
        }
        let taken: Vec<u32> = take(&content).chunks.iter().map(|chunk| chunk.bytes).collect();
        assert_eq!(taken, lengths);
    }

    #[test]
    fn a_file_that_grows_shrinks_or_is_written_while_it_is_read_is_not_taken() {
        for size in [1000, 3 * MIB] {
            for change in ["grow", "shrink", "write"] {
                let (file, stat) = file_of(&noise(size));
                let mut writer = file.try_clone().unwrap();
                let mut changed = false;
                let taken = ingest(&file, &stat, &Chunker::new(0), Digests::default(), &mut |_| {
                    if !std::mem::replace(&mut changed, true) {
                        let at = writer.stream_position().unwrap();
                        match change {
                            "grow" => file.set_len(size as u64 + 1).unwrap(),
                            "shrink" => file.set_len(size as u64 - 1).unwrap(),
                            _ => {
                                writer.rewind().unwrap();
                                writer.write_all(b"x").unwrap();
                                let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
                                file.set_modified(later).unwrap();
                            }
                        }
                        writer.seek(io::SeekFrom::Start(at)).unwrap();
                    }
                    true
                });
                assert!(matches!(taken, Err(IngestError::Changed)), "{size} {change}: {taken:?}");
            }
        }
    }

    #[test]
    fn reading_ends_when_nobody_wants_it() {
        for size in [1000, 3 * MIB] {
            let (file, stat) = file_of(&noise(size));
            let stopped = ingest(&file, &stat, &Chunker::new(0), Digests::default(), &mut |_| false);
            assert!(matches!(stopped, Err(IngestError::Stopped)), "{stopped:?}");
        }
    }
}
