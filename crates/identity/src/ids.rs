//! Ids that are hashes of the key they belong to.

use isle_clock::{DeviceId, GroupId, SiteId};

use crate::DeviceKey;

const SITE: &str = "isle 2026 site id of a device key and a nonce";
const GROUP: &str = "isle 2026 group id of a device key and a nonce";
const BEACON: &str = "isle 2026 beacon of a device key in a group";
const DEVICE: &str = "isle 2026 device id of a device key";

fn derive(context: &str, key: &DeviceKey, nonce: &[u8]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    hasher.update(key.as_bytes()).update(nonce);
    let mut id = [0; 16];
    hasher.finalize_xof().fill(&mut id);
    id
}

/// The id of a site that a device made with this nonce.
pub fn site_id(key: &DeviceKey, nonce: &[u8; 16]) -> SiteId {
    SiteId::from_bytes(derive(SITE, key, nonce))
}

/// The id of a group that a device founded with this nonce.
pub fn group_id(key: &DeviceKey, nonce: &[u8; 16]) -> GroupId {
    GroupId::from_bytes(derive(GROUP, key, nonce))
}

/// By what a device of a group is known in announcements on a local network: those who know the group and the key recognise it, and to
/// others it says nothing.
pub fn beacon(group: GroupId, key: &DeviceKey) -> String {
    data_encoding::HEXLOWER.encode(&derive(BEACON, key, group.as_bytes())[..12])
}

/// The id of a device, in the form of a version 4 UUID.
pub fn device_id(key: &DeviceKey) -> DeviceId {
    DeviceId::from_random(derive(DEVICE, key, &[]))
}
