//! From an address and options to a store.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{ClientOptions, ObjectStore, RetryConfig};
use url::Url;

use crate::error::{Cause, RemoteError};
use crate::http::Connector;
use crate::keys::Prefix;
use crate::options::{Credentials, RemoteOptions};
use crate::profile::{self, Profile, Surroundings};
use crate::request::{Counters, Secrets};

/// What the key of an error is when it is about the whole folder.
const FOLDER: &str = "its folder";
const REGION_DEFAULT: &str = "us-east-1";
/// Ways to credentials that `object_store` follows on its own.
const AMBIENT: [&str; 6] = [
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
];

/// An address, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Folder(PathBuf),
    Memory,
    Bucket { bucket: String, prefix: Prefix, endpoint: Option<String>, region: Option<String> },
}

impl Address {
    pub(crate) fn parse(text: &str) -> Result<Address, RemoteError> {
        let refuse = |problem: &str| RemoteError::Address { url: harmless(text), problem: problem.to_owned() };
        let Some((scheme, _)) = text.split_once(':').filter(|(scheme, _)| is_scheme(scheme)) else {
            if text.is_empty() {
                return Err(refuse("it is empty; give a folder or s3://bucket/prefix"));
            }
            return Ok(Address::Folder(PathBuf::from(text)));
        };
        if scheme == "memory" {
            return Ok(Address::Memory);
        }
        let url = Url::parse(text).map_err(|error| refuse(&error.to_string()))?;
        match scheme {
            "file" => url.to_file_path().map(Address::Folder).map_err(|()| refuse("write file:///folder")),
            "s3" => bucket(&url).map_err(|problem| refuse(&problem)),
            _ => Err(refuse("only folders, file:// and s3:// are known")),
        }
    }
}

fn bucket(url: &Url) -> Result<Address, String> {
    if !url.username().is_empty() || url.password().is_some() {
        return Err("credentials do not belong into it; use the options, AWS_* variables or the AWS files".to_owned());
    }
    let bucket = url.host_str().unwrap_or_default().to_owned();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if bucket.is_empty() || !bucket.bytes().all(plain) || url.port().is_some() {
        return Err("write s3://bucket/prefix, and the endpoint as ?endpoint=https://host:port".to_owned());
    }
    let prefix = Prefix::parse(url.path())
        .ok_or("the prefix may hold letters, digits, '.', '_' and '-' between slashes".to_owned())?;
    let (mut endpoint, mut region) = (None, None);
    for (key, value) in url.query_pairs() {
        match key.as_ref() {
            "endpoint" => endpoint = Some(value.into_owned()),
            "region" => region = Some(value.into_owned()),
            _ => return Err("only ?endpoint= and ?region= are known".to_owned()),
        }
    }
    Ok(Address::Bucket { bucket, prefix, endpoint, region })
}

/// A drive letter is no scheme.
fn is_scheme(text: &str) -> bool {
    text.len() > 1 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
}

/// The address without user, password and query, for messages.
pub(crate) fn harmless(text: &str) -> String {
    let text = text.split(['?', '#']).next().unwrap_or_default();
    match text.split_once("://") {
        Some((scheme, rest)) => format!("{scheme}://{}", rest.rsplit('@').next().unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// A bucket that is ready for requests.
pub(crate) struct Bucket {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) place: String,
    pub(crate) secrets: Secrets,
}

/// Puts together what options, address, variables and files say, in this order, and builds the client.
pub(crate) fn open_bucket(
    bucket: &str,
    prefix: &Prefix,
    asked: (Option<String>, Option<String>),
    options: &RemoteOptions,
    around: &Surroundings,
    traffic: &Arc<Counters>,
) -> Result<Bucket, RemoteError> {
    let mut place = prefix.place(bucket);
    let config = |place: &str, problem: String| RemoteError::Config { place: place.to_owned(), problem };
    let profile = profile::read(around, options.profile.as_deref()).map_err(|problem| config(&place, problem))?;
    let variable = |names: [&str; 2]| names.into_iter().find_map(|name| around.variable(name));
    let endpoint = options.endpoint.clone().or(asked.0);
    let endpoint = endpoint.or_else(|| variable(["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]));
    let endpoint = endpoint.or_else(|| profile.endpoint.clone());
    let region = options.region.clone().or(asked.1).or_else(|| variable(["AWS_REGION", "AWS_DEFAULT_REGION"]));
    let region = region.or_else(|| profile.region.clone()).unwrap_or_else(|| REGION_DEFAULT.to_owned());

    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(region)
        .with_virtual_hosted_style_request(!options.path_style)
        .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
        .with_disable_bulk_delete(true)
        .with_http_connector(Connector::new(Arc::clone(traffic)))
        .with_client_options(
            ClientOptions::new()
                .with_allow_http(options.insecure_http)
                .with_connect_timeout(options.connect_timeout)
                .with_timeout_disabled(),
        );
    if let Some(endpoint) = endpoint {
        let url = check_endpoint(&endpoint, &place, options)?;
        let shown = url.as_str().trim_end_matches('/').to_owned();
        builder = builder.with_endpoint(if options.path_style { shown.clone() } else { with_bucket(url, bucket) });
        place = format!("{place} at {shown}");
    }
    let mut secrets = Secrets::default();
    match credentials(options, around, &profile, &place)? {
        Some(found) => {
            builder =
                builder.with_access_key_id(found.access_key.expose()).with_secret_access_key(found.secret_key.expose());
            if let Some(token) = &found.session_token {
                builder = builder.with_token(token.expose());
            }
            secrets = Secrets::of(&found);
        }
        None => {
            for name in AMBIENT {
                let key = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>();
                if let (Some(value), Ok(key)) = (around.variable(name), key) {
                    builder = builder.with_config(key, value);
                }
            }
        }
    }
    let built = builder.build().map_err(|error| config(&place, secrets.redact(&error.to_string())))?;
    Ok(Bucket { store: Arc::new(built), place, secrets })
}

fn check_endpoint(endpoint: &str, place: &str, options: &RemoteOptions) -> Result<Url, RemoteError> {
    let refuse = |problem: &str| RemoteError::Config { place: place.to_owned(), problem: problem.to_owned() };
    let url = Url::parse(endpoint).map_err(|error| refuse(&format!("the endpoint is no URL: {error}")))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refuse("credentials do not belong into the endpoint"));
    }
    if url.query().is_some() || url.fragment().is_some() || url.host_str().is_none() {
        return Err(refuse("write the endpoint as https://host:port"));
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if options.insecure_http => Ok(url),
        "http" => Err(RemoteError::InsecureHttp { place: place.to_owned(), endpoint: url.to_string() }),
        _ => Err(refuse("the endpoint must begin with https://")),
    }
}

/// The endpoint of a bucket whose name is part of the host.
fn with_bucket(mut url: Url, bucket: &str) -> String {
    let host = format!("{bucket}.{}", url.host_str().unwrap_or_default());
    if url.set_host(Some(&host)).is_err() {
        tracing::warn!(bucket, "the bucket cannot be part of the host name, the endpoint is used as it is");
    }
    url.as_str().trim_end_matches('/').to_owned()
}

/// `None` leaves the way to credentials to the client: the environment names one.
fn credentials(
    options: &RemoteOptions,
    around: &Surroundings,
    profile: &Profile,
    place: &str,
) -> Result<Option<Credentials>, RemoteError> {
    if let Some(given) = &options.credentials {
        return Ok(Some(given.clone()));
    }
    // A profile that was named in the options is meant, whatever the variables say.
    if options.profile.is_none() {
        match (around.variable("AWS_ACCESS_KEY_ID"), around.variable("AWS_SECRET_ACCESS_KEY")) {
            (Some(access_key), Some(secret_key)) => {
                let session_token = around.variable("AWS_SESSION_TOKEN").map(Into::into);
                let (access_key, secret_key) = (access_key.into(), secret_key.into());
                return Ok(Some(Credentials { access_key, secret_key, session_token }));
            }
            (None, None) => {}
            _ => {
                let problem = "only one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is set: set both".to_owned();
                return Err(RemoteError::Config { place: place.to_owned(), problem });
            }
        }
    }
    if let Some(found) = &profile.credentials {
        return Ok(Some(found.clone()));
    }
    if let Some(way) = &profile.unsupported {
        let problem = format!(
            "profile {:?} gets its credentials by {way}, which is not followed here: export them as AWS_* variables",
            profile.name
        );
        return Err(RemoteError::Config { place: place.to_owned(), problem });
    }
    if options.instance_credentials || AMBIENT.iter().any(|name| around.variable(name).is_some()) {
        return Ok(None);
    }
    let looked = format!("the options, AWS_* variables, {}", profile::listed(&profile.looked));
    Err(RemoteError::NoCredentials { place: place.to_owned(), looked })
}

/// The folder, which must be there.
pub(crate) fn find_folder(path: &Path) -> Result<PathBuf, RemoteError> {
    let place = path.display().to_string();
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => {}
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return Err(RemoteError::Denied { place, key: FOLDER.to_owned(), source: Cause(error.to_string()) });
        }
        Ok(_) => return Err(RemoteError::NoFolder { place, problem: "is a file, not a folder" }),
        Err(_) => return Err(RemoteError::NoFolder { place, problem: "is not there" }),
    }
    let failed = |error: std::io::Error| RemoteError::Config { place, problem: error.to_string() };
    std::path::absolute(path).map_err(failed)
}

/// Makes the folder, durably: a new directory is nothing before its parent is on disk.
pub(crate) fn create_folder(path: &Path) -> Result<PathBuf, RemoteError> {
    let place = path.display().to_string();
    let failed = |error: std::io::Error| {
        let (key, source) = (FOLDER.to_owned(), Cause(error.to_string()));
        match error.kind() {
            std::io::ErrorKind::PermissionDenied => RemoteError::Denied { place: place.clone(), key, source },
            _ => RemoteError::Storage { place: place.clone(), key, source },
        }
    };
    let path = std::path::absolute(path).map_err(failed)?;
    if let Some(file) = path.ancestors().find(|above| above.exists()).filter(|above| !above.is_dir()) {
        let problem = match file == path {
            true => "it is a file; name a folder".to_owned(),
            false => format!("{} is a file; name a folder", file.display()),
        };
        return Err(RemoteError::Address { url: place, problem });
    }
    let missing: Vec<&Path> = path.ancestors().take_while(|folder| !folder.exists()).collect();
    std::fs::create_dir_all(&path).map_err(failed)?;
    for folder in missing {
        if let (true, Some(parent)) = (cfg!(unix), folder.parent()) {
            std::fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)?;
        }
    }
    Ok(path)
}

#[cfg(test)]
#[path = "address_tests.rs"]
mod tests;
