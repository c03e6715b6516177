//! Syncing with remotes while a replica is live: at the start, soon after local changes, and now and then; less often while one fails.

use std::sync::Arc;
use std::time::Duration;

use isle_clock::VersionVector;

use super::hub::Hub;
use super::live::LiveEvent;
use crate::sync::{self, Outcome, SyncOptions, blocking};

/// Changes that come in quick succession are sent at once.
const DEBOUNCE: Duration = Duration::from_millis(500);
/// The longest pause after failures.
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// Runs until the hub stops.
pub(super) async fn run(hub: Arc<Hub>, interval: Duration) {
    let mut failures = 0u32;
    let mut news = hub.news.subscribe();
    loop {
        // What comes up while the round is under way may not be in it.
        let known = vector(&hub).await;
        failures = if round(&hub).await { 0 } else { failures.saturating_add(1) };
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

/// Syncs with every remote; false if one failed.
async fn round(hub: &Arc<Hub>) -> bool {
    let has = blocking(&hub.inner, |inner| Ok(!inner.store.remotes()?.is_empty())).await;
    if !has.unwrap_or(false) {
        return true;
    }
    let options = SyncOptions::default();
    let synced = tokio::select! {
        () = hub.stopped() => return true,
        synced = sync::run(&hub.inner, &options) => synced,
    };
    let outcomes = match synced {
        Ok(outcomes) => outcomes,
        Err(error) => {
            tracing::warn!(%error, "remotes are not synced with");
            return false;
        }
    };
    let mut well = true;
    for Outcome { remote, result } in outcomes {
        match result {
            Ok(report) => {
                if report.pulled_versions > 0 || report.snapshot_joined {
                    // It may be news to the peers.
                    hub.bump();
                }
                hub.tell(LiveEvent::Synced { report: Box::new(report) });
            }
            Err(error) => {
                well = false;
                hub.tell(LiveEvent::SyncFailed { remote, reason: error.to_string() });
            }
        }
    }
    well
}

/// The interval, or more after failures; a little more or less, so that devices do not all come at once.
fn pause(interval: Duration, failures: u32, random: u8) -> Duration {
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
        assert!(pause(Duration::from_secs(3600), 9, 128) >= Duration::from_secs(3500));
    }
}
