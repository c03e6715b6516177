//! Whole fleets under one seed: devices with real files, the real store, protocol and bucket code, in one process and under virtual time, with
//! everything going wrong that may go wrong; and what must hold all the same. FoundationDB and TigerBeetle test like this.
//!
//! `isle sim run --seed N --profile chaos` makes a [`Scenario`] of a seed, runs it and tells what it found; `isle sim replay FILE` runs one of a
//! file. A scenario that breaks a promise is made small ([`shrink`]) and, once what broke it is mended, kept in `simulations/traces/`, which
//! every run of the tests replays.
//!
//! # What is real and what is not
//! * Devices are replicas as apps open them, on SQLite files, most of them in memory (`/dev/shm`). Their clocks ([`What::Jump`], skew, drift) and
//!   random numbers come from a `Runtime`; nothing of what runs here asks the system for either, which a test of the repository checks. Time
//!   is tokio's and passes when nobody has anything to do. All runs on one thread.
//! * The disk is a VFS below SQLite that writes through to the file and remembers what was not synced: a power cut takes any part of that back,
//!   down to half a sector write. It can also be full, fail, or read wrong bits. Other files (keys, the record of what was published)
//!   are on the disk at once, as they are written by rename.
//! * The bucket is one in memory behind the real client, which each device sees through faults of its own: lost, torn and unheard calls, 503, reads
//!   cut short or with other bits, older versions, late listings, delays; and somebody may put an older copy of all of it back.
//! * Every fourth fleet has a library of files: real ones in a folder of each device, which somebody writes, copies, moves and removes, and which isle
//!   scans, pushes, pulls, evicts, trashes and prunes.
//! * Connections carry real sessions ([`isle::PeerSession`]) with delay, loss, reordering and one-way cuts. They keep bytes whole and in order, as
//!   QUIC does: a lost packet is a late one. The QUIC library itself is tested elsewhere (`tests/network.rs`, `tests/namespaces.rs`).
//!
//! # What must hold
//! Whenever a device starts after a crash: it opens, `quick_check` finds nothing, and what was acknowledged is there (after a power cut what was
//! handed over). Then, and after each sync and session: it has every version whole, none without its causes, and shows what the model makes of them. At each [`What::Quiet`], when everything was mended and everybody has synced: all have one state hash; the file is sound by
//! `integrity_check`, `foreign_key_check`, the integrity check of full text and `isle doctor`; what shows is what a model of the merge
//! (`isle-test-reference`) makes of the changesets, and each concurrent value that lost is in the journal; every acknowledged value is in a
//! changeset or in the journal; no version of a site was ever another one; a sync more writes nothing to the bucket; and a newcomer who has the
//! bucket alone has the same. Of a library, what lies in the folders is what isle says that lies there, and a pull brings every file whose content is on some
//! device, or was evicted on the bucket's word. A panic anywhere breaks a promise as well.
//!
//! # How much that is
//! A device-hour is an hour of virtual time for one device, most of which it is idle, as devices are; the README says how many of them a minute
//! has. More telling are the counts of [`Coverage`], which `isle sim run --count N` prints: how often each fault point fired, and how often each
//! check was made.
//!
//! # Limits
//! * A trace belongs to the code that made it: a scenario names seeds of writes, and what they write depends on `workload.rs`. A kept scenario that
//!   does not show any more what it once showed has only lost its worth, it does not fail.
//! * Columns of kinds are checked by comparing devices with each other, not with the model, as are rows that constraints hide.
//!
//! * Not simulated: packets that come twice (a connection has none), damage that stays in a bucket, snapshots of several parts, new keys,
//!   revocations, a device whose home folder goes back together with its file, and contents of files that go from device to device without a bucket. Files
//!   themselves lie on the machine's disk: a power cut takes nothing of them back.
//!
//! Planted bugs (`simulations/planted/`, `scripts/planted-bugs`) show that the checks find something; those in `planted/missed/` they do not find.

#![allow(clippy::missing_errors_doc, reason = "what fails here is said in the type")]

mod check;
mod clock;
mod device;
mod disk;
mod network;
mod oracle;
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
pub use scenario::{BucketFault, Contents, Profile, Scenario, Step, Way, What};
pub use shrink::shrink;
pub use trace::{Coverage, Event, Outcome, Violation};
