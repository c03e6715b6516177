//! How a remote is reached.

use std::fmt;
use std::time::Duration;

/// A text that shows itself to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Secret {
        Secret(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Secret {
        Secret(text.to_owned())
    }
}

/// Credentials of an S3-compatible store. None of them shows in `Debug` output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The access key id.
    pub access_key: Secret,
    /// The secret access key.
    pub secret_key: Secret,
    /// The session token of temporary credentials.
    pub session_token: Option<Secret>,
}

impl Credentials {
    /// Lasting credentials.
    pub fn new(access_key: impl Into<Secret>, secret_key: impl Into<Secret>) -> Credentials {
        Credentials { access_key: access_key.into(), secret_key: secret_key.into(), session_token: None }
    }
}

/// How a remote is reached. What is `None` is taken from the address, else from `AWS_*` variables, else from the
/// usual AWS files. Times and retries concern buckets; a folder is as fast as its disk.
#[derive(Clone)]
#[non_exhaustive]
pub struct RemoteOptions {
    /// The endpoint of an S3-compatible store; AWS when absent everywhere.
    pub endpoint: Option<String>,
    /// The region; `us-east-1` when absent everywhere.
    pub region: Option<String>,
    /// The credentials.
    pub credentials: Option<Credentials>,
    /// The profile in the AWS files; `AWS_PROFILE` and then `default` when absent.
    pub profile: Option<String>,
    /// Whether the bucket is part of the path (the default) and not of the host name.
    pub path_style: bool,
    /// Allows an endpoint without TLS.
    pub insecure_http: bool,
    /// Asks the machine it runs on (EC2 metadata service) when no credentials are found. Off by default: elsewhere
    /// that address answers late or never.
    pub instance_credentials: bool,
    /// How long a connection may take to come about: 5 s.
    pub connect_timeout: Duration,
    /// How long an attempt may go without progress: 30 s until the answer begins and between its pieces. An upload gets
    /// the time on top that it takes at [`SLOWEST_UPLOAD_BYTES_PER_S`](crate::SLOWEST_UPLOAD_BYTES_PER_S).
    pub request_timeout: Duration,
    /// How often a request is tried again after a broken connection, a timeout, throttling or a server error: 4 times.
    pub retries: u32,
    /// After how long no further attempt begins: 60 s.
    pub retry_elapsed_max: Duration,
    /// By what the pauses between attempts differ from those of other devices: any number, another one for each.
    pub jitter: u64,
}

impl Default for RemoteOptions {
    fn default() -> RemoteOptions {
        RemoteOptions {
            endpoint: None,
            region: None,
            credentials: None,
            profile: None,
            path_style: true,
            insecure_http: false,
            instance_credentials: false,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            retries: 4,
            retry_elapsed_max: Duration::from_secs(60),
            jitter: 0,
        }
    }
}

impl fmt::Debug for RemoteOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Somebody may have written credentials into the endpoint, which is refused only when it is opened.
        f.debug_struct("RemoteOptions")
            .field("endpoint", &self.endpoint.as_deref().map(crate::address::harmless))
            .field("region", &self.region)
            .field("credentials", &self.credentials)
            .field("profile", &self.profile)
            .field("path_style", &self.path_style)
            .field("insecure_http", &self.insecure_http)
            .field("instance_credentials", &self.instance_credentials)
            .field("connect_timeout", &self.connect_timeout)
            .field("request_timeout", &self.request_timeout)
            .field("retries", &self.retries)
            .field("retry_elapsed_max", &self.retry_elapsed_max)
            .field("jitter", &self.jitter)
            .finish()
    }
}
