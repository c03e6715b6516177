//! Syncing with remotes while a replica is live: at the start if asked, soon after local changes, and now and then; less often while one fails. Contents of
//! files go beside: rows do not wait for them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use isle_clock::VersionVector;
use tokio::task::JoinSet;

use super::hub::Hub;
use super::live::LiveEvent;
use crate::sync::{self, Outcome, SyncOptions, blocking};
use crate::{Error, MoveOptions, Replica};

/// Changes that come in quick succession are sent at once.
const DEBOUNCE: Duration = Duration::from_millis(500);
/// The longest pause after failures.
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// How often it is looked whether remotes were added.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Runs until the hub stops: one task for each remote, so that one that fails holds up no other.
pub(super) async fn run(hub: Arc<Hub>, interval: Duration, mut since: Option<VersionVector>) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    let (mut tasks, mut kept) = (JoinSet::new(), HashMap::new());
    loop {
        tokio::select! {
            () = hub.stopped() => break,
            Some(ended) = tasks.join_next_with_id() => {
                // However it ended, it begins anew if the remote is still there.
                let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                kept.retain(|_, task| *task != id);
            }
            _ = ticks.tick() => {
                let rows = blocking(&hub.inner, |inner| Ok(inner.store.remotes()?)).await.unwrap_or_else(|error| {
                    tracing::warn!(%error, "cannot look for remotes");
                    Vec::new()
                });
                for row in rows {
                    kept.entry(row.name).or_insert_with_key(|name| {
                        tasks.spawn(keep_up(Arc::clone(&hub), name.clone(), interval, since.clone())).id()
                    });
                }
                // One that is added while this runs is news.
                since = None;
            }
        }
    }
    while tasks.join_next().await.is_some() {}
}

/// Syncs with one remote until the hub stops or the remote is removed; not at once if there is nothing here but `since`.
async fn keep_up(hub: Arc<Hub>, name: String, interval: Duration, mut since: Option<VersionVector>) {
    let mut failures = 0u32;
    let mut news = hub.news.subscribe();
    let (mut contents, mut begun) = (JoinSet::new(), false);
    loop {
        let mut known = since.take();
        if known.is_none() {
            // What comes up while the round is under way may not be in it.
            known = vector(&hub).await;
            failures = match round(&hub, &name).await {
                Round::Well { moved } => {
                    while contents.try_join_next().is_some() {}
                    if (moved || !begun) && contents.is_empty() {
                        contents.spawn(put_contents(Arc::clone(&hub), name.clone()));
                    }
                    begun = true;
                    0
                }
                Round::Failed => failures.saturating_add(1),
                Round::Over => return,
            };
        }
        let pause = pause(interval, failures, hub.inner.runtime.random()[0]);
        let written = async {
            loop {
                // A sync notes what it did in the file: that is no change to send.
                if vector(&hub).await != known {
                    return tokio::time::sleep(DEBOUNCE).await;
                }
                if news.changed().await.is_err() {
                    return std::future::pending().await;
                }
            }
        };
        tokio::select! {
            () = hub.stopped() => return,
            () = tokio::time::sleep(pause) => {}
            () = written, if failures == 0 => {}
        }
    }
}

/// What is applied here; `None` if that cannot be read now.
async fn vector(hub: &Arc<Hub>) -> Option<VersionVector> {
    blocking(&hub.inner, |inner| Ok(inner.store.vector()?)).await.ok()
}

enum Round {
    Well {
        /// Whether changes came or went.
        moved: bool,
    },
    Failed,
    /// The hub stops, or the remote was removed.
    Over,
}

async fn round(hub: &Arc<Hub>, name: &str) -> Round {
    let options = SyncOptions { remote: Some(name.to_owned()), ..SyncOptions::default() };
    let synced = tokio::select! {
        () = hub.stopped() => return Round::Over,
        synced = sync::run(&hub.inner, &options) => synced,
    };
    let result = match synced {
        Err(Error::NoSuchRemote { .. }) => return Round::Over,
        Err(error) => Err(error),
        Ok(outcomes) => outcomes.into_iter().try_fold(None, |_, Outcome { result, .. }| result.map(Some)),
    };
    match result {
        Ok(report) => {
            let mut moved = false;
            if let Some(report) = report {
                moved = report.pulled_versions + report.pushed_versions > 0 || report.snapshot_joined;
                if report.pulled_versions > 0 || report.snapshot_joined {
                    // It may be news to the peers.
                    hub.bump();
                }
                hub.tell(LiveEvent::Synced { report: Box::new(report) });
            }
            Round::Well { moved }
        }
        Err(error) => {
            hub.tell(LiveEvent::SyncFailed { remote: name.to_owned(), reason: error.to_string() });
            Round::Failed
        }
    }
}

/// Puts contents of the library that a remote lacks there. What fails is tried again after the next change.
async fn put_contents(hub: Arc<Hub>, name: String) {
    let library = Replica { inner: Arc::clone(&hub.inner), auto: None }.library();
    let exists = library.clone();
    if !blocking(&hub.inner, move |_| exists.exists()).await.unwrap_or(false) {
        return;
    }
    let options = MoveOptions { remote: Some(name.clone()), ..MoveOptions::default() };
    let pushed = tokio::select! {
        () = hub.stopped() => return,
        pushed = library.push(&options) => pushed,
    };
    match pushed {
        Ok(pushed) if pushed.files > 0 => hub.tell(LiveEvent::FilesPushed { remote: name, pushed: Box::new(pushed) }),
        Ok(_) => {}
        Err(error) => {
            let reason = format!("contents of files: {error}");
            hub.tell(LiveEvent::SyncFailed { remote: name, reason });
        }
    }
}

/// The interval, or more after failures; a little more or less, so that devices do not all come at once.
fn pause(interval: Duration, failures: u32, random: u8) -> Duration {
    // A year is for ever, and within what can be reckoned with.
    let interval = interval.min(Duration::from_secs(365 * 86_400));
    let longer = interval.saturating_mul(1 << failures.min(16)).min(PAUSE_MAX.max(interval));
    longer.mul_f32(0.9 + f32::from(random) / 1280.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_make_the_pause_longer_up_to_a_bound() {
        let interval = Duration::from_secs(30);
        assert!(pause(interval, 0, 0) >= Duration::from_secs(27) && pause(interval, 0, 255) <= Duration::from_secs(33));
        assert!(pause(interval, 2, 128) > Duration::from_secs(100));
        assert!(pause(interval, 60, 255) <= PAUSE_MAX.mul_f32(1.1));
        assert!(pause(Duration::MAX, 3, 255) > Duration::from_secs(86_400));
        assert!(pause(Duration::from_secs(3600), 9, 128) >= Duration::from_secs(3500));
    }
}
