//! What goes over the network. It blocks the connection that calls it until it is done.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use isle::{Direction, Replica, SyncOptions, Ticket, Value};
use serde_json::json;

use crate::functions::{Call, Outcome, text};
use crate::replica::{Access, Failure};

/// What `isle_sync` was told beside the address.
#[derive(Default)]
struct Wanted {
    name: Option<String>,
    plain: bool,
    direction: Direction,
    timeout: Option<Duration>,
}

impl Wanted {
    fn read(options: &str) -> Result<Wanted, Failure> {
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(options)
            .map_err(|error| format!("isle_sync: the options have to be a JSON object: {error}"))?;
        let mut wanted = Wanted::default();
        for (option, value) in object {
            match (option.as_str(), &value) {
                ("name", serde_json::Value::String(name)) => wanted.name = Some(name.clone()),
                ("plain", serde_json::Value::Bool(plain)) => wanted.plain = *plain,
                ("direction", serde_json::Value::String(way)) => {
                    wanted.direction = match way.as_str() {
                        "both" => Direction::Both,
                        "pull" => Direction::Pull,
                        "push" => Direction::Push,
                        _ => {
                            return Err(format!("isle_sync: direction is 'both', 'pull' or 'push', not {way:?}").into());
                        }
                    }
                }
                ("timeout_ms", value) if value.as_u64().is_some() => {
                    wanted.timeout = value.as_u64().map(Duration::from_millis);
                }
                _ => {
                    let known = "name (a text), plain (true or false), direction (a text), timeout_ms (a number)";
                    return Err(format!("isle_sync: {option:?}: {value} is no option; there are {known}").into());
                }
            }
        }
        Ok(wanted)
    }
}

/// Runs what is asynchronous on this thread.
fn wait<T>(timeout: Option<Duration>, work: impl Future<Output = Result<T, isle::Error>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        match timeout {
            Some(limit) => tokio::time::timeout(limit, work).await.map_err(|_| {
                Failure::from(format!(
                    "isle_sync was not done after {} ms; what arrived stays, and the next one goes on",
                    limit.as_millis()
                ))
            })?,
            None => work.await,
        }
        .map_err(Failure::from)
    });
    // A thread that is still at the file ends by itself.
    runtime.shutdown_background();
    result
}

/// `isle_sync([url [, options]])`.
pub(crate) fn sync(call: &Call<'_>) -> Outcome {
    let wanted = call.optional_text(1)?.map_or_else(|| Ok(Wanted::default()), Wanted::read)?;
    let replica = call.replica(Access::Write)?;
    let (remote, is_new) = match call.optional_text(0)? {
        Some(url) => {
            let (name, is_new) = remote_for(&replica, url, &wanted)?;
            (Some(name), is_new)
        }
        None => (None, false),
    };
    let options = SyncOptions { remote: remote.clone(), direction: wanted.direction, ..SyncOptions::default() };
    match wait(wanted.timeout, replica.sync_with(&options)) {
        Ok(reports) => Ok(text(json!(reports))),
        Err(error) => {
            if let (Some(name), true) = (remote, is_new) {
                // Whoever mistyped an address does not have it for ever.
                replica.remove_remote(&name)?;
            }
            Err(error)
        }
    }
}

/// The remote at an address; it is added if there is none.
fn remote_for(replica: &Replica, url: &str, wanted: &Wanted) -> Result<(String, bool), Failure> {
    // A folder that is relative today is another one when the app is started elsewhere.
    let url = match url.contains("://") {
        true => url.to_owned(),
        false => std::path::absolute(Path::new(url))?.to_string_lossy().into_owned(),
    };
    let remotes = replica.remotes()?;
    if let Some(known) = remotes.iter().find(|remote| remote.url == url) {
        return Ok((known.name.clone(), false));
    }
    let is_free = |name: &String| remotes.iter().all(|remote| remote.name != *name);
    let generated = || (1..).map(|n| if n == 1 { "main".to_owned() } else { format!("main-{n}") }).find(is_free);
    let name = wanted.name.clone().or_else(generated).unwrap_or_default();
    match wanted.plain {
        true => replica.add_plain_remote(&name, &url)?,
        false => replica.add_remote(&name, &url)?,
    }
    Ok((name, true))
}

/// `isle_join(ticket)`.
pub(crate) fn join(call: &Call<'_>) -> Outcome {
    let ticket: Ticket = call.text(0)?.parse::<Ticket>()?;
    let replica = call.replica(Access::Write)?;
    let report = wait(None, replica.join(&ticket))?;
    Ok(Value::Text(json!(report).to_string()))
}
