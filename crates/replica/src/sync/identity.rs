//! What a file that turns out to be a copy, or an older state, has in common with what was published under its site id.
//!
//! Those versions are the old id's. Were they sealed again under the new one, they would come twice; to a counter that matters.

use std::sync::Arc;

use isle_blobs::{Frame, FrameKind, Head, Remote, RemoteError, read_segment};
use isle_clock::SiteId;

use super::blocking;
use crate::Error;
use crate::replica::Inner;

/// The last version of the site that the remote has just as this file wrote it; 0 if there is none.
pub(super) async fn common(inner: &Arc<Inner>, remote: &Remote, name: &str, site: SiteId) -> Result<u64, Error> {
    match remote.get_head(site).await {
        Ok(Some((head, _))) => common_with(inner, remote, name, &head).await,
        Ok(None) => Ok(0),
        Err(error) => damage(name, error).map(|()| 0),
    }
}

/// The same, by the head of the site.
pub(super) async fn common_with(inner: &Arc<Inner>, remote: &Remote, name: &str, head: &Head) -> Result<u64, Error> {
    let (site, last, chain) = (head.site, head.last_version, head.chain);
    let status = blocking(inner, move |inner| Ok((inner.store.status()?, inner.store.wrote(last, chain)?)));
    let (status, wrote) = status.await?;
    if last <= status.version && wrote {
        return Ok(last);
    }
    let missing = status.published + 1..=status.version;
    let mut found = newest(inner, site, head.tail.clone()).await?;
    for segment in head.segments.iter().rev() {
        let holds = |range: &isle_blobs::VersionRange| {
            range.site == site && range.first <= *missing.end() && range.last >= *missing.start()
        };
        if found > 0 || !segment.contents.iter().any(holds) {
            continue;
        }
        let bytes = match remote.get_segment(site, segment).await {
            Ok(bytes) => bytes,
            Err(error) => {
                damage(name, error)?;
                continue;
            }
        };
        // One that is damaged says nothing.
        let frames = read_segment(&bytes).and_then(Iterator::collect::<Result<Vec<Frame>, _>>).unwrap_or_default();
        found = newest(inner, site, frames).await?;
    }
    Ok(found)
}

/// The newest version among frames that this file wrote.
async fn newest(inner: &Arc<Inner>, site: SiteId, frames: Vec<Frame>) -> Result<u64, Error> {
    blocking(inner, move |inner| {
        let mut found = 0;
        for frame in frames.iter().filter(|frame| frame.kind == FrameKind::Header && frame.site == site) {
            if frame.version > found && inner.store.wrote_header(frame.version, &frame.payload)? {
                found = frame.version;
            }
        }
        Ok(found)
    })
    .await
}

/// An object that is broken is one that says nothing; an outage ends the sync, before anything was changed.
fn damage(name: &str, error: RemoteError) -> Result<(), Error> {
    match error {
        RemoteError::Corrupt { .. } | RemoteError::NewerFormat { .. } | RemoteError::TooLarge { .. } => {
            tracing::warn!(%error, "what was published under the old site id cannot be read");
            Ok(())
        }
        source => Err(Error::Remote { name: name.to_owned(), source }),
    }
}
