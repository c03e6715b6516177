//! Keys of the group over direct sessions: who rotates a key and has no remote still reaches everybody.
//!
//! Each side says in its hello which keys it has, and is given those that it lacks, wrapped for it alone (`isle_identity::Rotation`), each with the
//! signature of the device that made it. So the maker is known whatever way a key comes, and one by a device that is put out later is not encrypted
//! with. Keys without such a signature, which came in a file, with a ticket or through a remote, are not handed on here.
//!
//! A device that was put out gets none: a key is handed on only by a file that knows of every revocation which any file of this device knew when
//! the key came, and looks who is a member after it has read the keys.
//!
//! ```text
//! 32 the maker
//! 64 its signature
//! …  the rotation
//! ```

use bytes::Bytes;
use isle_identity::{DeviceKey, KEYS_MAX, Rotation};
use isle_protocol::{OpKind, Operation};

use crate::Error;
use crate::replica::Inner;

/// Keys of one maker that are taken: nobody rotates so often, and nobody is to fill the ring.
const KEYS_OF_ONE_MAX: usize = 64;

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
    if !inner.knows_revocations(group)? || !inner.store.membership()?.is_member(&peer) {
        return Ok(Vec::new());
    }
    let secret = inner.key_store()?.secret(inner.runtime.as_ref())?;
    let mut operations = Vec::new();
    for key in ring.keys().filter(|key| !known.contains(key.id().as_bytes())) {
        let (Some(maker), Some(word)) = (key.author(), key.word()) else { continue };
        let wrapped = Rotation::wrap(&secret, group, key, &[peer], inner.random_32());
        let wrapped = wrapped.and_then(|rotation| rotation.encode());
        let wrapped = wrapped.map_err(|error| Error::Key { reason: error.to_string() })?;
        let bytes = Bytes::from([maker.as_bytes().as_slice(), word, &wrapped].concat());
        operations.push((*key.id().as_bytes(), Operation { kind: OpKind::Key, bytes }));
    }
    Ok(operations)
}

/// Takes a key that a peer sent; gives its id, or why it is refused.
pub(super) fn take(inner: &Inner, peer: DeviceKey, bytes: &[u8]) -> Result<Result<[u8; 16], String>, Error> {
    let refused = |reason: &str| Ok(Err(format!("a key of the group is refused: {reason}")));
    let group = inner.store.status()?.group;
    let split =
        bytes.split_first_chunk::<32>().and_then(|(maker, rest)| Some((maker, rest.split_first_chunk::<64>()?)));
    let Some((maker, (word, wrapped))) = split else { return refused("it is too short") };
    let maker = DeviceKey::from_bytes(*maker);
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
    let Some(key) = key.vouched(maker, group, *word) else {
        return refused("it is not signed by the device that is said to have made it");
    };
    let membership = inner.store.membership()?;
    if !membership.is_member(&maker) || membership.is_revoked(&maker) {
        return refused("the device that made it does not belong to the group");
    }
    if !inner.is_near(group, key.epoch())? {
        return refused("its epoch is far beyond all others");
    }
    let id = *key.id().as_bytes();
    let ring = keys.group_keys(group)?;
    let of_maker = ring.iter().flat_map(|ring| ring.keys()).filter(|known| known.author() == Some(maker)).count();
    if of_maker >= KEYS_OF_ONE_MAX && ring.as_ref().is_some_and(|ring| ring.get(key.id()).is_none()) {
        return refused("the device that made it has made very many");
    }
    tracing::info!(id = %key.id(), maker = %maker.short(), peer = %peer.short(), "a key of the group has come");
    match inner.add_keys(group, vec![key]) {
        // There are too many already.
        Err(Error::Key { reason }) => refused(&reason),
        other => other.map(|_| Ok(id)),
    }
}
