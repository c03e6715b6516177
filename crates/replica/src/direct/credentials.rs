//! Showing who one is to a member that has not heard of it yet: two devices that were let in by different members meet before the news of both
//! have come around.
//!
//! A device that calls another one for the first time hands it the membership operations it knows, on a stream of its own, before the
//! session. They are signed, so nothing is believed of the caller; and nothing of a stranger's is kept unless they show that it is a member, let in by one that
//! was not put out.
//!
//! ```text
//! 1  'm'
//! 4  length of what follows, big-endian
//! …  postcard: the operations
//! ```

use isle_identity::{DeviceKey, MemberOp, Membership};
use isle_protocol::pairing;
use isle_transport::{Connection, Receiver, TransportError};

use super::peers::PeerState;
use crate::Error;
use crate::replica::Inner;

/// How a stream begins that carries them.
pub(super) const CREDENTIALS: u8 = b'm';
/// The largest ones: a stranger may send them.
const BYTES_MAX: usize = 1 << 20;

/// What a peer is shown that may not know this device; nothing for one that was talked to before. Blocks.
pub(super) fn for_peer(inner: &Inner, peer: DeviceKey) -> Result<Option<Vec<u8>>, Error> {
    if PeerState::load(&inner.store, &peer)?.last_seen_ms.is_some() {
        return Ok(None);
    }
    let ops: Vec<Vec<u8>> = inner.store.member_ops()?.into_iter().map(|(_, op)| op).collect();
    let encoded = pairing::encode(&ops).ok().filter(|encoded| encoded.len() <= BYTES_MAX);
    // Of a group so large that they do not fit, the peer hears in time.
    Ok(encoded.map(|encoded| [&[CREDENTIALS], encoded.as_slice()].concat()))
}

/// Hands them over.
pub(super) async fn show(connection: &Connection, credentials: Vec<u8>) -> Result<(), TransportError> {
    let (mut send, _) = connection.open().await?.split();
    send.send(credentials.into()).await?;
    send.finish().await;
    Ok(())
}

/// Reads them, behind their first byte.
pub(super) async fn read(receive: &mut Receiver) -> Result<Vec<Vec<u8>>, TransportError> {
    let odd = |_| TransportError::Closed { reason: "what it shows of itself cannot be read".to_owned() };
    let mut prelude = [0; 4];
    receive.receive_exactly(&mut prelude).await?;
    let body = receive.receive_body(pairing::length(prelude, BYTES_MAX).map_err(odd)?).await?;
    pairing::decode(&body).map_err(odd)
}

/// Takes them if they show that the device is a member. Blocks.
pub(super) fn take(inner: &Inner, key: DeviceKey, shown: &[Vec<u8>]) -> Result<bool, Error> {
    let membership = inner.store.membership()?;
    if membership.is_member(&key) || membership.is_revoked(&key) {
        return Ok(membership.is_member(&key));
    }
    let group = inner.store.group()?;
    let known = inner.store.member_ops()?;
    let known = known.iter().map(|(_, op)| op).chain(shown).map(|op| MemberOp::decode(op, group));
    let Ok(all) = known.collect::<Result<Vec<_>, _>>() else { return Ok(false) };
    let now = Membership::fold(&all);
    let let_in = |device: &DeviceKey| now.members.get(device).map(|member| member.enrolled_by);
    if !now.is_member(&key) || let_in(&key).is_none_or(|by| membership.is_revoked(&by)) {
        return Ok(false);
    }
    let shown: Vec<&[u8]> = shown.iter().map(Vec::as_slice).collect();
    match inner.store.put_member_ops(&shown) {
        Ok(_) => Ok(inner.store.membership()?.is_member(&key)),
        Err(error) if error.is_local() => Err(error.into()),
        Err(_) => Ok(false),
    }
}
