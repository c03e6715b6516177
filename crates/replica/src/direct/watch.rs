//! Noticing what is committed here: by this process at once, by others soon.

use std::sync::Arc;
use std::time::Duration;

use isle_store::CommitCounter;
use tokio::sync::broadcast::error::RecvError;

use super::hub::Hub;
use crate::Error;
use crate::sync::blocking;

/// How often commits of other processes are looked for.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Wakes the sessions until the hub stops.
pub(super) async fn run(hub: Arc<Hub>) {
    let mut changes = hub.inner.subscribe();
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut counter: Option<CommitCounter> = None;
    loop {
        tokio::select! {
            () = hub.stopped() => return,
            changed = changes.recv() => match changed {
                // What comes from a peer, its session tells the others.
                Ok(changed) if changed.remote => {}
                Ok(_) | Err(RecvError::Lagged(_)) => hub.bump(),
                Err(RecvError::Closed) => return,
            },
            _ = ticks.tick() => {
                let taken = counter.take();
                let work = hub.clone();
                let looked = blocking(&hub.inner, move |_| look(&work, taken)).await;
                match looked {
                    Ok(used) => counter = Some(used),
                    Err(error) => tracing::warn!(%error, "cannot look for changes of other programs"),
                }
            }
        }
    }
}

fn look(hub: &Hub, counter: Option<CommitCounter>) -> Result<CommitCounter, Error> {
    let mut counter = match counter {
        Some(counter) => counter,
        None => hub.inner.store.watch_commits()?,
    };
    if counter.has_changed()? {
        hub.inner.store.seal()?;
        hub.refresh_operations()?;
        hub.bump();
    }
    hub.flush()?;
    Ok(counter)
}
