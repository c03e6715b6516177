//! Whole fleets under one seed: devices with real files, the real store, protocol and bucket code, in one process and under virtual time, with
//! everything going wrong that may go wrong; and what must hold all the same.

#![allow(clippy::missing_errors_doc, reason = "what fails here is said in the type")]

mod check;
mod clock;
mod device;
mod disk;
mod network;
mod random;
mod run;
mod scenario;
mod schemas;
mod shrink;
mod trace;
mod workload;
mod world;

pub use disk::DiskCount;
pub use network::NetworkCount;
pub use run::{run, run_in};
pub use scenario::{BucketFault, Profile, Scenario, Step, Way, What};
pub use shrink::shrink;
pub use trace::{Coverage, Event, Outcome, Violation};
