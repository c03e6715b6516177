//! The folders of a file library: what lies in them, whether it is sound, and how something is put there.
//!
//! This room knows files and nothing of SQLite, remotes or peers: the rows of the library and the movement of contents are the
//! `replica` crate's. What can be decided without a disk (names, kinds, chunk lists) takes all it needs as arguments.
//!
//! # Promises
//! * Nothing outside a root is read or written: every access goes through an open handle of the root ([`Folder`]) that resolves beneath
//!   it, and what a row of another device calls a path is checked first ([`LogicalPath`]).
//! * A file that somebody sees at its place is whole: it was written under another name, flushed and then renamed. A file that stands there already is
//!   never written over.
//! * A file that changes while it is read is not taken ([`IngestError::Changed`]).
//! * Memory: a walk holds the names of one folder; reading a file of any size holds at most [`WINDOW_BYTES_MAX`] and [`READ_AHEAD`] blocks of [`BLOCK_BYTES`].
//!
//! # Formats
//! Chunks are cut by FastCDC (Xia et al., USENIX ATC 2016 and 2020, normalisation level 1) at sizes that depend on the size of
//! the file alone ([`chunk_sizes`]), with a seed of the library's. A list of chunks is, per chunk, the 32 bytes of its BLAKE3 hash and its length in
//! 4 bytes, big-endian. A file of at most [`WHOLE_BYTES_MAX`] is one chunk and has no list.
//!
//! Below each root, the folder `.isle` is this crate's: `partial/<id>` for what is on its way, `trash/<id>/<name>` for what was put out.
//!
//! # Dead ends
//! A memory map of the file is no faster here than reading, and another program that truncates the file would end the process with SIGBUS.

mod chunk;
mod folder;
pub mod gguf;
mod ingest;
mod kind;
mod logical;
pub mod ppn;
mod validate;
mod walk;
mod watch;

pub use chunk::{CHUNK_BYTES_MAX, ChunkListError, ChunkRef, Chunker, FILE_BYTES_MAX, WHOLE_BYTES_MAX, chunk_sizes};
pub use folder::{Folder, FolderError, Partial, Stat, read_at, write_at};
pub use ingest::{BLOCK_BYTES, Digests, IngestError, Ingested, READ_AHEAD, WINDOW_BYTES_MAX, ingest};
pub use kind::{Identity, Kind, KindError, Kinds};
pub use logical::{LogicalPath, NamingRules, PathError, conflict_name, relative_of};
pub use validate::{Facts, Invalid, Validator, Validators};
pub use walk::{Found, PRIVATE_FOLDER, Walk};
pub use watch::{Noticed, Watch, WatchError};
