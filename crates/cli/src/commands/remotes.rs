//! Remotes come and go.

use std::io::Write as _;

use isle::{RemoteInfo, RemoteOptions, Replica};
use serde_json::json;
use url::Url;

use crate::args::{Args, Patience, Remote, RemoteAdd, Switch};
use crate::db;
use crate::failure::{Failure, Kind};
use crate::output::{Cell, Out, time};

pub(crate) fn run(args: &Args, remote: &Remote, out: &mut Out) -> anyhow::Result<u8> {
    match remote {
        Remote::Add(add) => {
            let (name, url) = (&add.name, address(add)?);
            let replica = open(args, add.insecure_http, &Patience::default())?;
            if add.plain {
                replica.add_plain_remote(name, &url)?;
            } else {
                replica.add_remote(name, &url)?;
            }
            if !out.json(&json!({ "name": name, "url": url, "encrypted": !add.plain }))? {
                let mark = out.style.green("✓");
                out.note(format!("{mark} remote {name} is {url}; `isle sync` exchanges changes with it"))?;
                out.note(match add.plain {
                    true => "  not encrypted: whoever can read it can read the data",
                    false => "  encrypted: other devices get the key with `isle invite`, or by `isle key export` and `isle key import`",
                })?;
            }
        }
        Remote::List => list(&db::open(args)?.remotes()?, out)?,
        Remote::SyncAtOpen { state } => {
            let replica = db::open(args)?;
            if let Some(state) = state {
                replica.set_sync_at_open(*state == Switch::On)?;
            }
            let on = replica.sync_at_open()?;
            if !out.json(&json!({ "sync_at_open": on }))? {
                out.line(if on { "on: `isle query` and `isle exec` sync first" } else { "off" })?;
            }
        }
        Remote::Remove { name } => {
            db::open(args)?.remove_remote(name)?;
            if !out.json(&json!({ "removed": name }))? {
                let mark = out.style.green("✓");
                out.note(format!("{mark} remote {name} is forgotten; what it holds stays there"))?;
            }
        }
    }
    Ok(0)
}

/// Opens the replica; `insecure_http` says whether endpoints without TLS are allowed.
pub(crate) fn open(args: &Args, insecure_http: bool, patience: &Patience) -> anyhow::Result<Replica> {
    let mut options = RemoteOptions::default();
    options.insecure_http = insecure_http;
    if let Some(timeout) = patience.timeout {
        (options.request_timeout, options.connect_timeout) = (timeout, timeout.min(options.connect_timeout));
    }
    options.retries = patience.retries.unwrap_or(options.retries);
    Ok(Replica::builder(db::path(args)?).remote_options(options).open()?)
}

/// Opens the replica for data; where the device is set to, it syncs first. What fails then is a warning: the data here is
/// good without.
pub(crate) fn open_synced(args: &Args) -> anyhow::Result<Replica> {
    let replica = db::open(args)?;
    if !replica.sync_at_open()? {
        return Ok(replica);
    }
    let insecure = replica.remotes()?.iter().any(|remote| allows_http(&remote.url));
    drop(replica);
    let mut options = RemoteOptions::default();
    options.insecure_http = insecure;
    let runtime = super::sync::runtime()?;
    let opened = Replica::builder(db::path(args)?).remote_options(options).open_synced();
    let (replica, outcomes) = runtime.block_on(opened)?;
    for outcome in outcomes {
        if let Err(error) = outcome.result {
            // Nobody reads stderr: the work goes on.
            let _ = writeln!(std::io::stderr(), "warning: {}", super::sync::message(&error));
        }
    }
    Ok(replica)
}

/// Whether an endpoint without TLS was allowed when the remote was added: only then it is part of the address.
pub(crate) fn allows_http(url: &str) -> bool {
    let url = Url::parse(url).ok();
    url.is_some_and(|url| url.query_pairs().any(|(key, value)| key == "endpoint" && value.starts_with("http://")))
}

/// The address with everything that later syncs must know, and nothing secret.
fn address(add: &RemoteAdd) -> anyhow::Result<String> {
    let refuse = |message: &str| anyhow::Error::new(Failure::new(Kind::Invalid, message));
    if !add.url.starts_with("s3:") {
        if add.endpoint.is_some() || add.region.is_some() || add.insecure_http {
            return Err(refuse("--endpoint, --region and --insecure-http are for s3://bucket/prefix"));
        }
        // A scheme, or a drive letter with the rest of its path.
        if add.url.is_empty() || add.url.split_once(':').is_some_and(|(scheme, _)| scheme.len() > 1) {
            return Ok(add.url.clone());
        }
        let path = match (add.url.strip_prefix("~/"), etcetera::home_dir()) {
            (Some(rest), Ok(home)) => home.join(rest),
            _ => std::path::absolute(&add.url)?,
        };
        // `..` goes where the file system says; the folder itself need not be there yet.
        let path = match (path.parent().map(std::path::Path::canonicalize), path.file_name()) {
            (Some(Ok(parent)), Some(name)) => parent.join(name),
            _ => path,
        };
        let text = path.into_os_string().into_string();
        return text.map_err(|_| refuse("the folder's path must be UTF-8, because it is stored in the file"));
    }
    let mut url = Url::parse(&add.url).map_err(|error| refuse(&format!("the address is no URL: {error}")))?;
    let named = |key: &str| url.query_pairs().any(|(known, _)| known == key);
    let variable = || ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"].iter().find_map(|name| std::env::var(name).ok());
    let endpoint = match &add.endpoint {
        Some(_) if named("endpoint") => return Err(refuse("the endpoint is given twice")),
        Some(endpoint) => Some(endpoint.clone()),
        // The permission is for one endpoint; another one in the variables later has none.
        None if add.insecure_http && !named("endpoint") => variable(),
        None => None,
    };
    if add.region.is_some() && named("region") {
        return Err(refuse("the region is given twice"));
    }
    for (key, value) in [("endpoint", endpoint), ("region", add.region.clone())] {
        if let Some(value) = value {
            url.query_pairs_mut().append_pair(key, &value);
        }
    }
    Ok(url.into())
}

fn list(remotes: &[RemoteInfo], out: &mut Out) -> anyhow::Result<()> {
    let objects: Vec<_> = remotes.iter().map(to_json).collect();
    if out.json(&objects)? {
        return Ok(());
    }
    if remotes.is_empty() {
        return out.note("no remote yet: `isle remote add NAME URL`");
    }
    out.table(&["REMOTE", "ADDRESS", "ENCRYPTED", "LAST SYNC"], remotes.iter().map(cells).collect())
}

pub(crate) fn to_json(remote: &RemoteInfo) -> serde_json::Value {
    let last_sync = remote.last_sync_ms.map(time);
    let last_error = remote.last_error.as_ref().map(|(reason, ms)| json!({ "reason": reason, "time": time(*ms) }));
    json!({
        "name": remote.name,
        "url": remote.url,
        "encrypted": remote.encrypted,
        "last_sync": last_sync,
        "last_error": last_error,
        "head_version_id": remote.head_version_id,
    })
}

fn cells(remote: &RemoteInfo) -> Vec<Cell> {
    let last = remote.last_sync_ms.map_or_else(|| Cell::dim("never"), |ms| Cell::text(time(ms)));
    let encrypted = if remote.encrypted { "yes" } else { "no" };
    vec![Cell::text(&remote.name), Cell::text(&remote.url), Cell::text(encrypted), last]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(url: &str) -> RemoteAdd {
        RemoteAdd {
            name: "r".into(),
            url: url.into(),
            endpoint: None,
            region: None,
            insecure_http: false,
            plain: false,
        }
    }

    #[test]
    fn endpoint_and_region_become_part_of_the_address() {
        let mut add = add("s3://bucket/prefix");
        add.endpoint = Some("http://127.0.0.1:9000".into());
        add.region = Some("eu-north-1".into());
        let url = address(&add).expect("fits");
        assert_eq!(url, "s3://bucket/prefix?endpoint=http%3A%2F%2F127.0.0.1%3A9000&region=eu-north-1");
        assert!(allows_http(&url));
        assert!(!allows_http("s3://bucket?endpoint=https://host") && !allows_http("/folder"));
    }

    #[test]
    fn folders_become_absolute() {
        let url = address(&add("bucket")).expect("fits");
        assert!(std::path::Path::new(&url).is_absolute(), "{url}");
        let above = address(&add("src/../bucket")).expect("fits");
        assert_eq!(above, url, "`..` is gone");
        assert_eq!(address(&add("file:///x")).expect("fits"), "file:///x");
    }
}
