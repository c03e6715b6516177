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

/// Looks after which it is looked for new keys of the group too, which are in no database.
const KEYS_EVERY: u64 = 10;

/// Wakes the sessions until the hub stops.
pub(super) async fn run(hub: Arc<Hub>) {
    let mut changes = hub.inner.subscribe();
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut counter: Option<CommitCounter> = None;
    let mut ticked = 0u64;
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
                let (taken, work) = (counter.take(), hub.clone());
                let keys = ticked.is_multiple_of(KEYS_EVERY);
                ticked += 1;
                let looked = blocking(&hub.inner, move |_| {
                    let counter = look(&work, taken)?;
                    if keys {
                        work.refresh_keys()?;
                    }
                    Ok(counter)
                });
                let looked = looked.await;
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
