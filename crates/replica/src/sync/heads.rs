//! Whether a head counts, and what heads say of the group's devices.

use std::collections::BTreeSet;

use bytes::Bytes;
use isle_blobs::{Author, FormatError, Head, OperationKind, RemoteError};
use isle_clock::{GroupId, SiteId};
use isle_identity::{MemberOp, OPS_MAX, OpId};

use super::pull::{News, is_outage};
use super::{Session, blocking};
use crate::Error;
use crate::direct::{PeerState, heed_cuts};

/// Membership operations that one head brings take at most this many bytes, as they do when a device joins.
const OPS_BYTES_MAX: usize = 16 << 20;

impl Session<'_> {
    /// The group of this remote.
    pub(super) async fn group(&self) -> Result<GroupId, Error> {
        match self.state.group {
            Some(group) => Ok(group),
            None => blocking(self.inner, |inner| Ok(inner.store.status()?.group)).await,
        }
    }

    /// Refuses a head that its site did not sign.
    pub(super) async fn authenticate(&self, head: &Head) -> Result<(), Error> {
        match head.verified(self.group().await?) {
            Ok(_) => Ok(()),
            Err(error) => Err(self.refusal("head", head.site, &error)),
        }
    }

    /// Signs the own head as it is put.
    pub(super) async fn sign(&mut self, head: &mut Head) -> Result<(), Error> {
        let group = self.group().await?;
        let (secret, nonce, members) = blocking(self.inner, |inner| {
            let secret = inner.key_store()?.secret(inner.runtime.as_ref())?;
            let mut members = inner.store.membership()?.heads;
            members.truncate(isle_identity::PARENTS_MAX);
            Ok((secret, inner.store.site_nonce()?.unwrap_or_default(), members))
        })
        .await?;
        let before = head.author.as_ref().map_or(0, |author| author.sequence).max(self.state.sequence);
        // Should all memory of those before be lost, time goes on all the same.
        let sequence = before.saturating_add(1).max(self.inner.runtime.now_ms());
        let signed = match head.sign(group, &secret, nonce, sequence, members.clone()) {
            Err(FormatError::TooLarge { .. }) => {
                // Too many sites for one object: what was acknowledged is of use only when garbage is collected.
                (head.acknowledged, head.floor) = Default::default();
                head.sign(group, &secret, nonce, sequence, members)
            }
            other => other,
        };
        signed.map_err(|error| self.refusal("head", head.site, &error))?;
        self.state.sequence = sequence;
        Ok(())
    }

    /// Membership operations that a head names, those before them included, come before what it says; tells whether there were new ones.
    async fn pull_members(&mut self, head: &Head) -> Result<bool, Error> {
        let Some(author) = &head.author else { return Ok(false) };
        let group = self.group().await?;
        let known = blocking(self.inner, |inner| Ok(inner.store.member_ops()?));
        let known: BTreeSet<OpId> = known.await?.into_iter().map(|(id, _)| id).collect();
        let mut wanted = author.members.clone();
        let (mut fetched, mut bytes_held) = (Vec::<(OpId, Bytes)>::new(), 0);
        while let Some(id) = wanted.pop() {
            if known.contains(&id) || fetched.iter().any(|(other, _)| *other == id) {
                continue;
            }
            bytes_held += fetched.last().map_or(0, |(_, bytes): &(OpId, Bytes)| bytes.len());
            if fetched.len() == OPS_MAX || bytes_held > OPS_BYTES_MAX {
                return Err(self.refusal("membership", head.site, &"too many membership operations"));
            }
            let bytes = match self.remote.get_operation(OperationKind::Member, id).await {
                Ok(bytes) => bytes,
                Err(source @ (RemoteError::Corrupt { .. } | RemoteError::Missing { .. })) => {
                    return Err(self.refused("membership", head.site, &source));
                }
                Err(source) => return Err(self.failed(source)),
            };
            let op = MemberOp::decode(&bytes, group).map_err(|error| self.refusal("membership", head.site, &error))?;
            if op.id() != id {
                return Err(self.refusal("membership", head.site, &"its content is not what its name says"));
            }
            wanted.extend(&op.parents);
            fetched.push((id, bytes));
        }
        if fetched.is_empty() {
            return Ok(false);
        }
        let put = blocking(self.inner, move |inner| {
            let ops: Vec<&[u8]> = fetched.iter().map(|(_, bytes)| bytes.as_ref()).collect();
            let taken = inner.store.put_member_ops(&ops)?;
            heed_cuts(&inner.store)?;
            Ok(taken.len())
        });
        let site = head.site;
        match put.await {
            Ok(taken) => {
                tracing::info!(%site, taken, "took over membership operations");
                Ok(true)
            }
            Err(error) if is_outage(&error) => Err(error),
            Err(error) => Err(self.refusal("membership", site, &error)),
        }
    }

    /// Puts the membership operations that this remote lacks.
    pub(super) async fn put_members(&mut self) -> Result<(), Error> {
        let known: BTreeSet<OpId> = self.state.members.iter().copied().collect();
        let ops = blocking(self.inner, |inner| Ok(inner.store.member_ops()?)).await?;
        for (id, bytes) in ops.into_iter().filter(|(id, _)| !known.contains(id)) {
            let put = self.remote.put_operation(OperationKind::Member, id, &Bytes::from(bytes)).await;
            put.map_err(|source| self.failed(source))?;
            self.state.members.push(id);
        }
        Ok(())
    }

    /// What the heads that were read say of devices: which site is whose, and who was put out. Nothing more is taken of the sites of
    /// a device that was put out than somebody has applied; and if it is this one, the sync ends.
    pub(super) async fn heed_devices(&mut self, news: &[News]) -> Result<(), Error> {
        let authors: Vec<(SiteId, Author)> =
            news.iter().filter_map(|news| Some((news.head.site, news.head.author.clone()?))).collect();
        blocking(self.inner, move |inner| {
            let (membership, own) = (inner.store.membership()?, inner.device()?.key);
            if membership.is_revoked(&own) {
                return Err(Error::NotMember { revoked: true });
            }
            let retired: BTreeSet<SiteId> = inner.store.retired()?.into_iter().map(|(site, _)| site).collect();
            let vector = inner.store.vector()?;
            let mut out = Vec::new();
            for (site, author) in authors {
                if membership.is_member(&author.device) {
                    PeerState::update(&inner.store, author.device, |state| state.learn_site(site))?;
                } else if membership.is_revoked(&author.device) && !retired.contains(&site) {
                    tracing::warn!(%site, device = %author.device.short(), "a site of a device that was put out");
                    out.push((site, vector.get(site)));
                }
            }
            if !out.is_empty() {
                inner.store.retire(&out)?;
            }
            Ok(())
        })
        .await
    }

    /// Turns away sites that nobody knows and whose heads are encrypted with an old key: a device that was put out still has it, and could
    /// come back under another name. A member is known, and so is a site that somebody acknowledges who has the present key and was not put out.
    pub(super) async fn turn_away(&mut self, news: &mut Vec<News>) -> Result<(), Error> {
        self.note_keys(news.iter().map(|news| &news.head)).await?;
        let Some(current) = self.present else { return Ok(()) };
        let (membership, retired, vector) = blocking(self.inner, |inner| {
            Ok((inner.store.membership()?, inner.store.retired()?, inner.store.vector()?))
        })
        .await?;
        let device = |head: &Head| head.author.as_ref().map(|author| author.device);
        let out = |head: &Head| {
            let revoked = device(head).is_some_and(|device| membership.is_revoked(&device));
            revoked || retired.iter().any(|(site, _)| *site == head.site)
        };
        let current_here = |head: &&Head| self.state.sealed.get(&head.site.to_string()) == Some(&current);
        let all = news.iter().map(|news| &news.head).chain(&self.heads);
        let vouched: BTreeSet<SiteId> = all
            .filter(current_here)
            .filter(|head| !out(head))
            .flat_map(|head| head.acknowledged.iter().map(|(site, _)| site))
            .collect();
        let stays = |news: &News| {
            let site = news.head.site;
            let member = device(&news.head).is_some_and(|device| membership.is_member(&device));
            let known = news.last.is_some() || vector.get(site) > 0 || vouched.contains(&site);
            current_here(&&news.head) || member || known
        };
        let (kept, away): (Vec<News>, Vec<News>) = std::mem::take(news).into_iter().partition(stays);
        *news = kept;
        for News { head, .. } in away {
            tracing::warn!(site = %head.site, "turned away: it is new and has an old key");
            self.report.turned_away.push(head.site.to_string());
        }
        Ok(())
    }

    /// Takes the membership operations that heads name, and from heads of devices or sites that were put out nothing but their own changes up to
    /// the cut: they could put out others in revenge. Heads of the present key come first, for they tell who was put out.
    pub(super) async fn admit(
        &mut self,
        mut news: Vec<News>,
        failed: &mut Vec<(SiteId, Error, Option<Head>)>,
    ) -> Result<Vec<News>, Error> {
        let present = self.present;
        news.sort_by_key(|news| news.head.sealed_with != present);
        let known = blocking(self.inner, |inner| Ok((inner.store.membership()?, inner.store.retired()?)));
        let (mut membership, retired) = known.await?;
        let mut retired: BTreeSet<SiteId> = retired.into_iter().map(|(site, _)| site).collect();
        let mut admitted = Vec::with_capacity(news.len());
        for mut news in news {
            let head = &mut news.head;
            let revoked = head.author.as_ref().is_some_and(|author| membership.is_revoked(&author.device));
            if revoked || retired.contains(&head.site) {
                take_own_alone(head);
                // A site that was only declared gone may still say so of others: two that did it to each other have to hear of it. One that was given
                // no key since was put out.
                if revoked || (present.is_some() && head.sealed_with != present) {
                    head.retired.clear();
                }
                if let Some(author) = &mut head.author {
                    author.members.clear();
                }
            }
            match self.pull_members(&news.head).await {
                Err(error) if is_outage(&error) => return Err(error),
                Err(error) => {
                    failed.push((news.head.site, error, news.last));
                    continue;
                }
                Ok(false) => {}
                Ok(true) => membership = blocking(self.inner, |inner| Ok(inner.store.membership()?)).await?,
            }
            retired.extend(news.head.retired.iter().map(|(site, _)| *site));
            admitted.push(news);
        }
        // Whom one declares gone that nobody declares gone counts as gone whatever the order of the heads: or a newcomer would take of it what the others
        // never did.
        let told: BTreeSet<SiteId> = retirements(&admitted).collect();
        let standing = admitted.iter().filter(|news| !told.contains(&news.head.site));
        let gone: BTreeSet<SiteId> = retirements(standing).collect();
        admitted
            .iter_mut()
            .filter(|news| gone.contains(&news.head.site))
            .for_each(|news| take_own_alone(&mut news.head));
        Ok(admitted)
    }
}

fn retirements<'n>(news: impl IntoIterator<Item = &'n News>) -> impl Iterator<Item = SiteId> {
    news.into_iter().flat_map(|news| &news.head.retired).map(|(site, _)| *site)
}

/// Of a head nothing counts but its site's own changes.
fn take_own_alone(head: &mut Head) {
    let site = head.site;
    (head.schema_heads, head.snapshot) = Default::default();
    head.tail.retain(|frame| frame.site == site);
}

/// Whether a head is older than the last one that was seen of its site.
pub(super) fn went_back(head: &Head, last: &Head) -> bool {
    let sequence = |head: &Head| head.author.as_ref().map_or(0, |author| author.sequence);
    head.last_version < last.last_version || sequence(head) < sequence(last)
}
