//! Keys of the group over direct sessions: who rotates a key and has no remote still reaches everybody.
//!
//! Each side says in its hello which keys it has, and is given those that it lacks, wrapped for it alone (`isle_identity::Rotation`), with the
//! device that made each: a key of one that is put out later is not encrypted with, by whatever way it came. Only members get here.

use bytes::Bytes;
use isle_identity::{DeviceKey, KEYS_MAX, Rotation};
use isle_protocol::{OpKind, Operation};

use crate::Error;
use crate::replica::Inner;

/// The maker of a key that nobody knows: it came in a file, or with a ticket.
const UNKNOWN: [u8; 32] = [0; 32];

/// What the keys that are here are known by.
pub(super) fn ids(inner: &Inner) -> Result<Vec<[u8; 16]>, Error> {
    let ring = inner.group_keys(inner.store.status()?.group)?;
    Ok(ring.iter().flat_map(|ring| ring.keys()).map(|key| *key.id().as_bytes()).take(KEYS_MAX).collect())
}

/// The keys that a peer does not know, wrapped for it; none for one that has been put out by now.
pub(super) fn wrapped(inner: &Inner, peer: DeviceKey, known: &[[u8; 16]]) -> Result<Vec<([u8; 16], Operation)>, Error> {
    let group = inner.store.status()?.group;
    let Some(ring) = inner.group_keys(group)? else { return Ok(Vec::new()) };
    // After the keys were read: whoever puts a device out makes that known before it makes a new one.
    if !inner.store.membership()?.is_member(&peer) {
        return Ok(Vec::new());
    }
    let secret = inner.key_store()?.secret(inner.runtime.as_ref())?;
    let mut operations = Vec::new();
    for key in ring.keys().filter(|key| !known.contains(key.id().as_bytes())) {
        let wrapped = Rotation::wrap(&secret, group, key, &[peer], inner.random_32());
        let wrapped = wrapped.and_then(|rotation| rotation.encode());
        let wrapped = wrapped.map_err(|error| Error::Key { reason: error.to_string() })?;
        let maker = key.author().map_or(UNKNOWN, |author| *author.as_bytes());
        let bytes = Bytes::from([maker.as_slice(), &wrapped].concat());
        operations.push((*key.id().as_bytes(), Operation { kind: OpKind::Key, bytes }));
    }
    Ok(operations)
}

/// Takes a key that a peer sent; gives its id, or why it is refused.
pub(super) fn take(inner: &Inner, peer: DeviceKey, bytes: &[u8]) -> Result<Result<[u8; 16], String>, Error> {
    let refused = |reason: &str| Ok(Err(format!("a key of the group is refused: {reason}")));
    let group = inner.store.status()?.group;
    let Some((maker, wrapped)) = bytes.split_first_chunk::<32>() else { return refused("it is too short") };
    let rotation = match Rotation::decode(wrapped) {
        Ok(rotation) if rotation.group() == group => rotation,
        Ok(_) => return refused("it is of another group"),
        Err(error) => return refused(&error.to_string()),
    };
    let keys = inner.key_store()?;
    let key = match rotation.open(&keys.secret(inner.runtime.as_ref())?) {
        Ok(Some((key, author))) if author == peer => key,
        Ok(Some(_)) => return refused("it was wrapped by another device than the one that sends it"),
        Ok(None) => return refused("it is not wrapped for this device"),
        Err(error) => return refused(&error.to_string()),
    };
    if !inner.is_near(group, key.epoch())? {
        return refused("its epoch is far beyond all others");
    }
    let id = *key.id().as_bytes();
    tracing::info!(id = %key.id(), peer = %peer.short(), "a key of the group has come");
    let key = if *maker == UNKNOWN { key } else { key.by(DeviceKey::from_bytes(*maker)) };
    match keys.add_group_keys(group, vec![key]) {
        // There are too many already.
        Err(Error::Key { reason }) => refused(&reason),
        other => other.map(|_| Ok(id)),
    }
}
