//! One exchange with each peer whose address is known.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use isle_clock::SiteId;
use isle_identity::DeviceKey;
use isle_protocol::{ByeCode, SessionError};
use isle_transport::{Connection, Endpoint, TransportError, resolve};
use tokio::task::JoinSet;

use super::credentials;
use super::hub::Hub;
use super::peers::PeerState;
use super::session::{self, Ended, ONCE, Purpose, SESSION};
use crate::Error;
use crate::operations::note_operation;
use crate::replica::Inner;
use crate::sync::{Outcome, SyncReport, blocking};

/// How often a session is begun anew because this side or the other has taken a new site id.
const TRIES_MAX: usize = 3;

/// How often, at most, this file takes a new site id because of what a peer says, in milliseconds.
const RENEW_EVERY_MS: u64 = 60_000;

/// A peer that can be dialed.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) key: DeviceKey,
    pub(super) name: String,
    pub(super) addresses: Vec<String>,
}

/// Peers that belong to the group and whose addresses are known, from before or from what was `found`. Blocks.
pub(super) fn targets(inner: &Inner, found: &HashMap<DeviceKey, Vec<String>>) -> Result<Vec<Target>, Error> {
    let (membership, own) = (inner.store.membership()?, inner.device()?.key);
    if !membership.is_member(&own) {
        let revoked = membership.is_revoked(&own);
        // Whoever was never told of members has nobody to talk to; a device that was given the key of a remote talks through that.
        let alone = membership.members.is_empty() || (!revoked && !inner.store.remotes()?.is_empty());
        return if alone { Ok(Vec::new()) } else { Err(Error::NotMember { revoked }) };
    }
    let mut targets = Vec::new();
    let mut states = PeerState::all(&inner.store)?;
    for (key, member) in membership.members.iter().filter(|(key, member)| **key != own && !member.revoked) {
        let PeerState { mut addresses, heard, .. } = states.remove(key).unwrap_or_default();
        let new =
            found.get(key).into_iter().flatten().chain(&heard).filter(|address| !addresses.contains(address)).cloned();
        addresses.extend(new.collect::<Vec<_>>());
        if !addresses.is_empty() {
            targets.push(Target { key: *key, name: member.name.clone(), addresses });
        }
    }
    Ok(targets)
}

/// Dials all addresses at once; the first that answers as the device counts.
pub(super) async fn dial(endpoint: &Endpoint, target: &Target) -> Result<Connection, Error> {
    let failed = |source| Error::Peer { name: target.name.clone(), source };
    let mut tries = JoinSet::new();
    let mut last = None;
    for address in &target.addresses {
        match resolve(address).await {
            Ok(found) => {
                for address in found {
                    let (endpoint, key): (Endpoint, DeviceKey) = (endpoint.clone(), target.key);
                    tries.spawn(async move { endpoint.dial(address, key).await });
                }
            }
            Err(error) => last = Some(error),
        }
    }
    while let Some(tried) = tries.join_next().await {
        match tried {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => last = Some(error),
            Err(_) => {}
        }
    }
    let nowhere = || TransportError::Unreachable {
        key: target.key,
        address: SocketAddr::from(([0, 0, 0, 0], 0)),
        reason: "no address of it is known".to_owned(),
    };
    Err(failed(last.unwrap_or_else(nowhere)))
}

/// Opens a session on a connection and runs it.
pub(super) async fn converse(hub: &Arc<Hub>, connection: Connection, purpose: Purpose) -> Ended {
    let start: &'static [u8] = if purpose == Purpose::Once { &[ONCE] } else { &[SESSION] };
    let key = connection.key();
    let shown = blocking(&hub.inner, move |inner| credentials::for_peer(inner, key)).await;
    let opened = async {
        if let Ok(Some(shown)) = shown {
            credentials::show(&connection, shown).await?;
        }
        let mut stream = connection.open().await?;
        stream.send(bytes::Bytes::from_static(start)).await?;
        Ok::<_, TransportError>(stream)
    };
    match opened.await {
        Ok(stream) => session::run(hub, connection, stream, true, purpose).await,
        Err(source) => {
            let error = Error::Peer { name: connection.key().short(), source };
            Ended { report: SyncReport::default(), result: Err(error) }
        }
    }
}

/// Whether a session that ended so should be begun anew, after what it takes has been done here.
pub(super) async fn heal(inner: &Arc<Inner>, error: &Error) -> Result<Option<String>, Error> {
    match error {
        Error::Session { source: SessionError::Fork { .. }, .. } => {}
        Error::Session { source: SessionError::Retired | SessionError::Gone { .. }, .. } | Error::SiteChanged => {
            return Ok(Some(String::new()));
        }
        Error::Session { source: SessionError::Closed { code: ByeCode::Restart, .. }, .. } => {
            return Ok(Some(String::new()));
        }
        _ => return Ok(None),
    }
    let _one_at_a_time = inner.syncing.lock().await;
    let site = blocking(inner, renew).await?;
    Ok(site.map(|site| site.to_string()))
}

/// Takes a new site id because a peer knows versions of the present one that this file never wrote; nothing if that has happened just now.
/// Blocks; a sync with a remote must not be under way.
pub(super) fn renew(inner: &Inner) -> Result<Option<SiteId>, Error> {
    let now = inner.runtime.now_ms();
    let last = inner.renewed_ms.swap(now, Ordering::Relaxed);
    if now.saturating_sub(last) < RENEW_EVERY_MS {
        // A peer may say what it likes of this site: it does not make this file change its id again and again.
        inner.renewed_ms.store(last, Ordering::Relaxed);
        return Ok(None);
    }
    tracing::warn!(path = %inner.path.display(), "this file is a copy or an older state: taking a new site id");
    inner.new_site(0).map(Some)
}

/// Exchanges changes with one peer.
async fn sync_one(hub: &Arc<Hub>, endpoint: &Endpoint, target: &Target) -> Result<SyncReport, Error> {
    let mut new_site = None;
    for _ in 0..TRIES_MAX {
        let connection = dial(endpoint, target).await?;
        let Ended { mut report, result } = converse(hub, connection, Purpose::Once).await;
        report.remote.clone_from(&target.name);
        let Err(error) = result else {
            report.new_site = new_site;
            return Ok(report);
        };
        match heal(&hub.inner, &error).await? {
            Some(site) => new_site = Some(site).filter(|site| !site.is_empty()).or(new_site),
            None => return Err(error),
        }
    }
    let reason = "the site id changes again and again; is another copy of the file in use?".to_owned();
    Err(Error::Session { name: target.name.clone(), source: SessionError::Closed { code: ByeCode::Restart, reason } })
}

/// Exchanges changes with every peer whose address is known, at the same time; tells what came of each.
pub(crate) async fn sync_known(inner: &Arc<Inner>, only: Option<&str>) -> Result<Vec<Outcome>, Error> {
    let mut targets = blocking(inner, |inner| targets(inner, &HashMap::new())).await?;
    targets.retain(|target| only.is_none_or(|only| target.name == only));
    if targets.is_empty() {
        return Ok(Vec::new());
    }
    let secret = blocking(inner, Hub::secret).await?;
    let endpoint = Endpoint::dial_only(&secret).map_err(|source| Error::Transport { source })?;
    let hub = Hub::start(inner, Vec::new()).await?;
    let mut running = JoinSet::new();
    for target in targets {
        let (hub, endpoint) = (Arc::clone(&hub), endpoint.clone());
        running.spawn(async move {
            let started = hub.inner.runtime.now_ms();
            let result = sync_one(&hub, &endpoint, &target).await;
            note_operation(&hub.inner, &target.name, started, result.as_ref().map_err(ToString::to_string)).await;
            if let Err(error) = &result {
                let (key, reason) = (target.key, error.to_string());
                let noted = blocking(&hub.inner, move |inner| {
                    PeerState::update(&inner.store, key, |state| state.failed(reason))
                });
                if let Err(error) = noted.await {
                    tracing::warn!(%error, "what came of a sync cannot be noted");
                }
            }
            Outcome { remote: target.name, result }
        });
    }
    let mut outcomes = Vec::new();
    while let Some(outcome) = running.join_next().await {
        outcomes.push(outcome.map_err(|_| Error::Cancelled)?);
    }
    outcomes.sort_by(|a, b| a.remote.cmp(&b.remote));
    endpoint.close().await;
    Ok(outcomes)
}
