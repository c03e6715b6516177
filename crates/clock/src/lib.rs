//! Time and identity for replicas: hybrid logical timestamps, identifiers and version vectors.
//!
//! # Promise
//! This crate is pure. It never reads a wall clock, never draws random numbers and does no I/O: the
//! current time and random bytes are arguments. The same calls give the same answers on every machine.
//!
//! # Invariants
//! * [`Clock::tick`] returns strictly rising timestamps, whatever the wall clock does and across
//!   restarts, as long as the clock is rebuilt from the largest timestamp it ever handed out or saw.
//! * [`Hlc`] sorts by time, [`Stamp`] by time and then by site, so a set of stamps has one largest
//!   member everywhere.
//! * A [`VersionVector`] names *all* versions `1..=n` of a site; versions received beyond a gap live
//!   in a [`VersionSet`], which keeps ranges and folds them as gaps close.

mod hlc;
mod id;
mod vector;

pub use hlc::{Clock, ClockError, Hlc, Stamp};
pub use id::{DeviceId, GroupId, ParseIdError, SiteId};
pub use vector::{VersionSet, VersionVector};
