//! Heads that somebody else than isle puts.
#![allow(
    dead_code,
    clippy::expect_used,
    reason = "not every test binary needs all of it; helpers of tests fail by panicking"
)]

use std::path::Path;

use isle::{DeviceKey, GroupId};
use isle_blobs::Head;
use isle_identity::{DeviceSecret, site_id};

/// The head of a device that speaks the protocol and is up to no good; sign it with [`sign_as_stranger`].
pub(crate) fn strangers_head() -> Head {
    let secret = DeviceSecret::from_seed([9; 32]).expect("a key");
    Head::new(site_id(&secret.key(), &[9; 16]), "evil")
}

pub(crate) fn sign_as_stranger(head: &mut Head, group: GroupId) {
    let secret = DeviceSecret::from_seed([9; 32]).expect("a key");
    head.sign(group, &secret, [9; 16], 1, Vec::new()).expect("signed");
}

/// Signs an altered head anew, as the device whose folder this is.
pub(crate) fn sign_as(home: &Path, head: &mut Head, group: GroupId) {
    let seed = std::fs::read_to_string(home.join("device.key")).expect("a key");
    let seed: DeviceKey = seed.trim().parse().expect("32 bytes in hexadecimal digits");
    let secret = DeviceSecret::from_seed(*seed.as_bytes()).expect("a key");
    let author = head.author.clone().expect("it was signed before");
    head.sign(group, &secret, author.nonce, author.sequence + 1, author.members).expect("signed");
}
