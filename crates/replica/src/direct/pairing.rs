//! Inviting a device, and joining.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isle_identity::{Action, DeviceKey, InviteSecret, KeyRing, MemberOp, Membership, Ticket};
use isle_protocol::pairing::{self, REPLY_BYTES_MAX, REQUEST_BYTES_MAX, Reply, Request};
use isle_transport::{Connection, Endpoint, Stream, TransportError};

use super::hub::Hub;
use super::once::{Target, converse, dial, heal};
use super::peers::{self, PeerState};
use super::session::{Ended, Purpose};
use crate::Error;
use crate::keystore::Invite;
use crate::replica::{Inner, Replica};
use crate::sync::{SyncReport, blocking};

/// How a stream begins that carries a request to be let in.
pub(super) const PAIRING: u8 = b'p';
/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(10);
/// Whoever guesses waits this long for each answer.
const WRONG_GUESS: Duration = Duration::from_secs(1);

/// What an invitation is like.
#[derive(Debug, Clone)]
pub struct InviteOptions {
    /// How long it holds. Default: 15 minutes.
    pub expires: Duration,
    /// Where this device can be reached, `host:port` each. Default: where a [`Live`](crate::Live) of this process listens, as given by
    /// [`Live::addresses`](crate::Live::addresses).
    pub addresses: Vec<String>,
}

impl Default for InviteOptions {
    fn default() -> InviteOptions {
        InviteOptions { expires: Duration::from_secs(15 * 60), addresses: Vec::new() }
    }
}

impl Replica {
    /// A ticket with which one device can join the group, once, while somebody listens at one of its addresses who knows of it: any
    /// [`Live`](crate::Live) of this device on this file.
    ///
    /// # Errors
    /// [`Error::NotMember`] if this device does not belong to the group itself; [`Error::InvalidName`] for too many addresses or none.
    pub fn invite(&self, options: &InviteOptions) -> Result<Ticket, Error> {
        let inner = &self.inner;
        let refuse = |reason: &str| Err(Error::InvalidName { what: "the ticket", reason: reason.to_owned() });
        if options.addresses.is_empty() {
            return refuse("needs an address at which this device can be reached");
        }
        if options.addresses.len() > isle_identity::ADDRESSES_MAX {
            return refuse("has too many addresses");
        }
        peers::membership_of_member(inner)?;
        let group = inner.store.status()?.group;
        let now = inner.runtime.now_ms();
        let lasts = u64::try_from(options.expires.as_millis()).unwrap_or(u64::MAX);
        let secret = InviteSecret::from_random(inner.runtime.random());
        let expires_ms = now.saturating_add(lasts);
        inner.key_store()?.put_invite(&Invite { group, secret, expires_ms, used: false }, now)?;
        let inviter = inner.device()?.key;
        Ok(Ticket { group, inviter, secret, expires_ms, addresses: options.addresses.clone() })
    }

    /// Joins the group of a ticket with this file, which is empty or holds data that was never exchanged with another group, and syncs with
    /// the device that gave the ticket.
    ///
    /// # Errors
    /// [`Error::JoinsOtherGroup`] for a file that belongs to another group; [`Error::Invitation`] when the ticket is not taken;
    /// [`Error::Peer`] when nobody answers. If it fails after the device was let in, `sync` goes on from there.
    pub async fn join(&self, ticket: &Ticket) -> Result<SyncReport, Error> {
        let inner = &self.inner;
        let (secret, device, own_group) = blocking(inner, |inner| {
            let status = inner.store.status()?;
            let bound = status.published > 0 || status.sites.iter().any(|site| !site.own && site.version > 0);
            let group = bound.then_some(status.group);
            Ok((Hub::secret(inner)?, inner.device()?, group))
        })
        .await?;
        if own_group.is_some_and(|group| group != ticket.group) {
            return Err(Error::JoinsOtherGroup { group: ticket.group });
        }
        if device.key == ticket.inviter {
            return Err(Error::Invitation {
                reason: "the ticket was made by this very device; use it on another one".to_owned(),
            });
        }
        let endpoint = Endpoint::dial_only(&secret).map_err(|source| Error::Transport { source })?;
        let name = ticket.inviter.short();
        let target = Target { key: ticket.inviter, name, addresses: ticket.addresses.clone() };
        let joined = async {
            let connection = dial(&endpoint, &target).await?;
            let proof = ticket.secret.proof(ticket.group, &ticket.inviter, &device.key);
            let request = Request { group: ticket.group, proof, name: device.name.clone() };
            let reply = tokio::time::timeout(PATIENCE, ask(&connection, &request)).await;
            let reply = reply.unwrap_or_else(|_| Err(TransportError::Closed { reason: "no answer came".to_owned() }));
            let reply = reply.map_err(|source| Error::Peer { name: target.name.clone(), source })?;
            let (app, members, keys) = match reply {
                Reply::Welcome { app, members, keys } => (app, members, keys),
                Reply::Refused { reason } => {
                    return Err(Error::Invitation { reason: crate::names::tame_line(&reason) });
                }
            };
            let (group, inviter, addresses) = (ticket.group, ticket.inviter, ticket.addresses.clone());
            blocking(inner, move |inner| {
                take_up(inner, group, &app, &members, inviter, addresses)?;
                take_keys(inner, group, keys.as_deref())
            })
            .await?;
            let hub = Hub::start(inner, Vec::new()).await?;
            let Ended { mut report, result } = converse(&hub, connection, Purpose::Once).await;
            let result = match result {
                // A new site id, on one side or the other: the sync begins anew.
                Err(error) if heal(inner, &error).await?.is_some() => {
                    let again = converse(&hub, dial(&endpoint, &target).await?, Purpose::Once).await;
                    report = again.report;
                    again.result
                }
                other => other,
            };
            result.map(|()| report)
        };
        let joined = joined.await;
        endpoint.close().await;
        joined
    }
}

impl Replica {
    /// Lets another replica's device into the group as if it had shown a ticket, in one process and without a network: for simulations.
    #[doc(hidden)]
    pub fn let_in(&self, newcomer: &Replica) -> Result<(), Error> {
        let (inner, own, device) = (&self.inner, self.inner.device()?.key, newcomer.inner.device()?);
        let Reply::Welcome { app, members, keys } = welcome(inner, device.key, &device.name)? else { return Ok(()) };
        let group = inner.store.status()?.group;
        take_up(&newcomer.inner, group, &app, &members, own, Vec::new())?;
        take_keys(&newcomer.inner, group, keys.as_deref())
    }
}

/// Becomes one of the group. Blocks.
fn take_up(
    inner: &Inner,
    group: isle_clock::GroupId,
    app: &str,
    members: &[Vec<u8>],
    inviter: DeviceKey,
    addresses: Vec<String>,
) -> Result<(), Error> {
    let status = inner.store.status()?;
    let refused = |source| Error::Store(isle_store::StoreError::Member { source });
    let ops = members.iter().map(|op| MemberOp::decode(op, group)).collect::<Result<Vec<_>, _>>().map_err(refused)?;
    let told = Membership::fold(&ops);
    if !told.is_member(&inviter) || !told.is_member(&inner.device()?.key) {
        let reason =
            "the device that gave the ticket does not belong to the group, or did not let this one in".to_owned();
        return Err(Error::Invitation { reason });
    }
    if !inner.store.join_group(group, Some(app))? {
        return Err(Error::OtherApp { name: inviter.short(), found: app.to_owned(), app: status.app });
    }
    let members: Vec<&[u8]> = members.iter().map(Vec::as_slice).collect();
    inner.store.put_member_ops(&members)?;
    PeerState::update(&inner.store, inviter, |state| state.learn_addresses(addresses))
}

/// Takes over the group's keys, if the device that gave the ticket has any. Blocks.
fn take_keys(inner: &Inner, group: isle_clock::GroupId, keys: Option<&str>) -> Result<(), Error> {
    let Some(text) = keys else { return Ok(()) };
    let ring = KeyRing::from_text(text)?;
    if ring.group() != group {
        return Err(Error::Key { reason: "the device that gave the ticket sent those of another group".to_owned() });
    }
    let store = inner.key_store()?;
    if store.group_keys(group)?.is_some() {
        // Another file of this device has synced with the group: new keys come by the way on which it can check whose they are.
        return Ok(());
    }
    inner.add_keys(group, ring.keys().cloned().collect())?;
    Ok(())
}

async fn ask(connection: &Connection, request: &Request) -> Result<Reply, TransportError> {
    let odd = |_| TransportError::Closed { reason: "the other end does not speak the pairing protocol".to_owned() };
    let mut stream = connection.open().await?;
    stream.send(Bytes::from_static(&[PAIRING])).await?;
    let (mut send, mut receive) = stream.split();
    send.send(pairing::encode(request).map_err(odd)?.into()).await?;
    let mut prelude = [0; 4];
    receive.receive_exactly(&mut prelude).await?;
    let body = receive.receive_body(pairing::length(prelude, REPLY_BYTES_MAX).map_err(odd)?).await?;
    pairing::decode(&body).map_err(odd)
}

/// Hears a caller out who wants to be let in; gives its name if it was.
pub(super) async fn hear(hub: &Arc<Hub>, connection: &Connection, stream: Stream) -> Result<Option<String>, Error> {
    let failed = |source| Error::Peer { name: connection.key().short(), source };
    let odd = |_| failed(TransportError::Closed { reason: "it does not speak the pairing protocol".to_owned() });
    let (mut send, mut receive) = stream.split();
    let request = async {
        let mut prelude = [0; 4];
        receive.receive_exactly(&mut prelude).await.map_err(failed)?;
        let length = pairing::length(prelude, REQUEST_BYTES_MAX).map_err(odd)?;
        let body = receive.receive_body(length).await.map_err(failed)?;
        pairing::decode::<Request>(&body).map_err(odd)
    };
    let request = tokio::time::timeout(PATIENCE, request).await.map_err(|_| Error::Cancelled)??;
    let key = connection.key();
    let name = crate::names::tame(&request.name);
    let name = if name.is_empty() { key.short() } else { name };
    let asked = name.clone();
    let reply = blocking(&hub.inner, move |inner| decide(inner, &request, key, &asked)).await?;
    let welcome = matches!(reply, Reply::Welcome { .. });
    if welcome {
        let work = Arc::clone(hub);
        blocking(&hub.inner, move |_| work.refresh_operations()).await?;
    } else {
        tokio::time::sleep(WRONG_GUESS).await;
    }
    send.send(pairing::encode(&reply).map_err(odd)?.into()).await.map_err(failed)?;
    // The reply has to be there before a connection that is refused goes.
    let _ = tokio::time::timeout(PATIENCE, send.finish()).await;
    Ok(welcome.then_some(name))
}

/// Whether a caller is let in. Blocks.
fn decide(inner: &Inner, request: &Request, key: DeviceKey, name: &str) -> Result<Reply, Error> {
    let refused = |reason: &str| Ok(Reply::Refused { reason: reason.to_owned() });
    let (own, status, now) = (inner.device()?.key, inner.store.status()?, inner.runtime.now_ms());
    if request.group != status.group {
        return refused("the ticket is for another group than this file's");
    }
    let keys = inner.key_store()?;
    let invites = keys.invites()?.into_iter();
    let invite = invites.filter(|invite| invite.group == status.group);
    let Some(invite) = { invite }.find(|it| it.secret.is_proved(&request.proof, status.group, &own, &key)) else {
        return refused("the ticket is not known here: it was made on another device, or long ago");
    };
    if invite.used {
        return refused("the ticket was used already: a ticket lets one device in; ask for a new one");
    }
    if invite.expires_ms <= now {
        return refused("the ticket has expired: ask for a new one");
    }
    if !keys.use_invite(&invite)? {
        return refused("the ticket was used already: a ticket lets one device in; ask for a new one");
    }
    welcome(inner, key, name)
}

/// Lets a device in. Blocks.
fn welcome(inner: &Inner, key: DeviceKey, name: &str) -> Result<Reply, Error> {
    let (membership, status) = (peers::membership_of_member(inner)?, inner.store.status()?);
    if !membership.is_member(&key) {
        peers::put_op(inner, membership.heads, Action::Enrol { device: key, name: name.to_owned() })?;
    }
    PeerState::update(&inner.store, key, |_| {})?;
    tracing::info!(device = %key.short(), name, "a device has joined the group");
    let members = inner.store.member_ops()?.into_iter().map(|(_, op)| op).collect();
    let keys = inner.group_keys(status.group)?.map(|ring| ring.to_text()).transpose()?;
    let keys = keys.map(|text| text.to_string());
    Ok(Reply::Welcome { app: status.app, members, keys })
}
