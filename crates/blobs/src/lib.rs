//! Remotes: a bucket or a folder through which replicas exchange heads, segments and snapshots.
//!
//! # Promise
//! This is the only room that knows `object_store`, and no type of it shows here. Content is opaque: this
//! crate moves, bounds and verifies bytes, it does not interpret changesets, schemas or rows. No credential
//! reaches an error, a log line or `Debug` output.
//!
//! # Invariants
//! * Correctness never rests on conditional puts, on the order of a LIST or on anyone's clock. Conditional
//!   puts only save work.
//! * `head/<site>` is the only mutable object and has one writer. All others are immutable; segments and
//!   snapshot parts carry the BLAKE3 hash of their bytes in their name and are refused when it disagrees.
//! * Nothing is read beyond a named bound and nothing is allocated from a claimed length: [`HEAD_BYTES_READ_MAX`],
//!   [`GROUP_BYTES_MAX`], [`SEGMENT_BYTES_MAX`], [`SEGMENT_RAW_BYTES_MAX`], [`FRAME_BYTES_MAX`],
//!   [`SCHEMA_BYTES_MAX`], [`PART_BYTES_MAX`], [`HEADS_MAX`].
//! * When a put returns `Ok`, the object stands (in a folder: it is fsynced). When it returns an error, the
//!   object may stand or not; the same put may always be repeated.
//!
//! # Layout
//! Under the prefix, with ids as 32 and numbers as 16 lower-case hexadecimal digits:
//!
//! ```text
//! group                                     format, group id, app, chunker seed, key check; put once
//! head/<site>                               what a site has published; overwritten by that site alone
//! log/<site>/<epoch>/<last>-<hash>          segments, immutable
//! schema/<operation>                        schema operations, immutable
//! member/<operation>                        membership operations, immutable
//! key/<epoch>-<id>-<hash>                   rotations of the group's key, immutable
//! chunk/<kind>/<2 hex>/<hash>               pieces of files, immutable: a zstd frame each
//! trash/<kind>/<2 hex>/<hash>               says since when a chunk is needed by no file, as far as is known
//! snap/<site>/<version>-<tag>/<index>-<hash>     snapshot parts (index of 8 digits), immutable
//! snap/<site>/<version>-<tag>/manifest-<hash>    put last: the commit point of a snapshot
//! backup/<time>-<id>                        manifest of a copy of a database, put last; signed by its maker
//! backup-part/<time>-<id>/<index>-<hash>    its parts (index of 8 digits), immutable
//! ```
//!
//! # Sealed remotes
//! A remote that was given the group's keys ([`Remote::sealed`]) seals every object that it puts and takes no other: format and
//! cryptography are `isle-identity`'s. Each is bound to its place, so that none can stand for another; hashes in names are of the sealed bytes. What its
//! holder still sees: the id of the group, how many sites there are, sizes and times. Ids of operations are hashes of their
//! content, which somebody might guess: the names of such objects are keyed hashes of the ids, and so are those of chunks and of their kinds. `group` is not sealed as a whole, for it says
//! with which key to begin; the app's name and what follows it in the body are, in its last field.
//!
//! # Envelope
//! `group`, `head`, operations and segments begin alike (sealed ones inside the seal). Integers are big-endian.
//!
//! ```text
//!  0  4  "isle"
//!  4  1  kind: 'b' bundle, 'c' backup manifest, 'g' group, 'h' head, 'k' key rotation, 'm' membership operation, 'o' schema operation, 's' segment
//!  5  1  flags: bit 0 of a segment = the frames are compressed with zstd, of a bundle = it is sealed; all others are 0
//!  6  2  format version, 1
//!  8 32  BLAKE3 of bytes 0..8 and 40..end
//! 40  …  body
//! ```
//!
//! A head is signed by the device whose site it is: whoever may write to the remote, and other members, can put no head in its name. The signature covers
//! the group and the whole head, and so, by the hashes of names, segments and snapshots too.
//!
//! The bodies of `group` and `head` are postcard encodings of [`GroupObject`] and [`Head`] (field by field in
//! the order of declaration) and are accepted only in their one canonical form. The body of a schema operation
//! is opaque. The body of a segment is described at [`SegmentWriter`].

mod address;
mod backup;
mod bundle;
mod chunks;
mod codec;
mod error;
mod group;
mod head;
mod http;
mod keys;
mod operations;
mod options;
mod profile;
mod remote;
mod request;
mod sealing;
mod segment;
mod snapshot;
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub mod testing;

pub use backup::{BACKUP_MANIFEST_BYTES_MAX, BACKUP_PART_BYTES, BackupManifest, BackupName, StoredPart};
pub use bundle::{BUNDLE_BYTES_MAX, BUNDLE_FORMAT, Bundle};
pub use chunks::{CHUNK_BYTES_MAX, ChunkName, StoredChunk};
pub use codec::FormatError;
pub use error::{Cause, RemoteError};
pub use group::{GROUP_BYTES_MAX, GROUP_FORMAT, GroupObject};
pub use head::{Author, HEAD_BYTES_MAX, HEAD_BYTES_READ_MAX, HEAD_FORMAT, Head, SegmentRef, VersionRange};
pub use keys::{NAME_BYTES_MAX, SchemaId};
pub use operations::{MEMBER_BYTES_MAX, OperationKind, ROTATIONS_MAX, RotationRef, SCHEMA_BYTES_MAX};
pub use options::{Credentials, RemoteOptions, Secret};
pub use remote::{HEADS_MAX, HeadRead, HeadRef, Remote};
pub use request::{PutTags, SLOWEST_UPLOAD_BYTES_PER_S, Traffic};
pub use sealing::Random;
pub use segment::{
    COMPRESSION_LEVEL, FRAME_BYTES_MAX, Frame, FrameKind, SEGMENT_BYTES_MAX, SEGMENT_FORMAT, SEGMENT_RAW_BYTES_MAX,
    Segment, SegmentReader, SegmentWriter, read_segment,
};
pub use snapshot::{PART_BYTES_MAX, PartRef, SnapshotName, SnapshotRef};
