//! Fuzz targets for what reads the bytes of peers, buckets and users.
//!
//! # Promise
//! Each module is a target: `run` takes an input and panics if a property does not hold, `seeds` gives small inputs that reach the depth of what is
//! under test. Properties are those that the crates promise: what is read is what is written again, one value has one encoding where that is said,
//! memory stays within a multiple of what came, and whatever comes, an error is all that it leads to.
//!
//! Where a checksum or a signature would refuse nearly every input, the target makes it hold, as somebody who means ill would. Nothing here
//! reads a clock or draws random numbers: an input does the same every time.
//!
//! # Running
//! `scripts/fuzz` builds and runs all targets; `scripts/fuzz 600 frames` one of them for ten minutes. What a format's change makes of the
//! seeds is written with `scripts/fuzz seeds`.

pub mod changeset;
pub mod files;
pub mod frames;
pub mod membership;
pub mod memory;
pub mod pairing;
pub mod remote;
pub mod schema;
pub mod script;
pub mod session;
pub mod sums;
pub mod ticket;

/// A seed: its file's name and its bytes.
pub type Seed = (&'static str, Vec<u8>);
