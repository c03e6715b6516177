//! What can go wrong with a remote, in words of the remote.

use isle_identity::KeyId;

use crate::codec::FormatError;

/// What the store or the network said, for the log: credentials removed, cut at a thousand characters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Cause(pub(crate) String);

/// Why an operation on a remote failed.
///
/// `place` is the bucket with its endpoint, or the folder; `key` is the object.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// The address of the remote cannot be understood.
    #[error("remote address {url:?} cannot be used: {problem}")]
    Address {
        /// The address, without what might be a credential.
        url: String,
        /// What is wrong and what to write instead.
        problem: String,
    },
    /// The settings of a remote contradict each other or cannot be read.
    #[error("the settings of remote {place} cannot be used: {problem}")]
    Config {
        /// The remote.
        place: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The endpoint is not encrypted and that was not asked for.
    #[error(
        "endpoint {endpoint} of remote {place} is plain http: use https, or set `insecure_http` if the network between is trusted"
    )]
    InsecureHttp {
        /// The remote.
        place: String,
        /// The endpoint.
        endpoint: String,
    },
    /// No credentials were given and none were found.
    #[error("no credentials for remote {place}: looked in {looked}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")]
    NoCredentials {
        /// The remote.
        place: String,
        /// Where they were looked for.
        looked: String,
    },
    /// No answer, a broken connection, or a server in trouble, also after retries.
    #[error("remote {place} cannot be reached for {key}: check the network and the endpoint, then try again")]
    Unreachable {
        /// The remote.
        place: String,
        /// The object.
        key: String,
        /// What was seen.
        #[source]
        source: Cause,
    },
    /// No answer in time, also after retries.
    #[error(
        "remote {place} did not answer for {key} within {limit_ms} ms: try again, or raise `request_timeout` on a slow network"
    )]
    Timeout {
        /// The remote.
        place: String,
        /// The object.
        key: String,
        /// The limit of the attempt that failed last, in milliseconds.
        limit_ms: u64,
        /// What was seen.
        #[source]
        source: Cause,
    },
    /// The remote refuses the credentials, or the folder its permissions.
    #[error(
        "remote {place} denies access to {key}: check the credentials, their rights on this prefix, and this device's clock"
    )]
    Denied {
        /// The remote.
        place: String,
        /// The object.
        key: String,
        /// What was seen.
        #[source]
        source: Cause,
    },
    /// The remote asks for fewer requests, also after retries.
    #[error("remote {place} is throttling requests for {key}: wait a minute and sync less often")]
    Throttled {
        /// The remote.
        place: String,
        /// The object.
        key: String,
        /// What was seen.
        #[source]
        source: Cause,
    },
    /// The folder is gone or never was. Nothing is made in its place: a disk that is not mounted must not be written to.
    #[error(
        "folder {place} {problem}: mount the disk that it is on, or forget the remote with `isle remote remove` and add it where it is now"
    )]
    NoFolder {
        /// The folder.
        place: String,
        /// What stands there instead.
        problem: &'static str,
    },
    /// The bucket is gone or never was.
    #[error("remote {place} does not exist: create the bucket, or correct the address")]
    NoBucket {
        /// The remote.
        place: String,
        /// What was seen.
        #[source]
        source: Cause,
    },
    /// The remote refuses the request as such.
    #[error("remote {place} rejects the request for {key} with status {status}: check region, endpoint and path style")]
    Rejected {
        /// The remote.
        place: String,
        /// The object.
        key: String,
        /// The HTTP status.
        status: u16,
        /// What was seen.
        #[source]
        source: Cause,
    },
    /// The folder's file system fails.
    #[error("remote {place} cannot store or read {key}: check the disk and its free space, then try again")]
    Storage {
        /// The remote.
        place: String,
        /// The object.
        key: String,
        /// What was seen.
        #[source]
        source: Cause,
    },
    /// An object that something refers to is not there.
    #[error("object {key} is missing from remote {place}: if a collection ran meanwhile, read the heads again")]
    Missing {
        /// The remote.
        place: String,
        /// The object.
        key: String,
    },
    /// An object is there and is damaged, after reading it twice.
    #[error("object {key} of remote {place} is damaged: put it again from a device that still has its content")]
    Corrupt {
        /// The remote.
        place: String,
        /// The object.
        key: String,
        /// What is wrong with it.
        #[source]
        source: FormatError,
    },
    /// An object exceeds its bound and is not read, or not written.
    #[error("object {key} of remote {place} has {bytes} bytes, at most {max} are allowed: it is left alone")]
    TooLarge {
        /// The remote.
        place: String,
        /// The object.
        key: String,
        /// Its size.
        bytes: u64,
        /// The bound.
        max: u64,
    },
    /// Something cannot be written because it breaks a rule of the format.
    #[error("{key} cannot be written to remote {place}: correct what is handed over")]
    Unwritable {
        /// The remote.
        place: String,
        /// The object.
        key: String,
        /// The rule.
        #[source]
        source: FormatError,
    },
    /// The prefix holds something else.
    #[error("{place} is no isle remote: its object {key} is something else; choose another prefix")]
    NotARemote {
        /// The remote.
        place: String,
        /// The object.
        key: String,
    },
    /// An object was sealed with a key of the group's that this device does not have.
    #[error(
        "object {key} of remote {place} is encrypted with key {id}, which this device does not have and was not given: `isle key export FILE` on a device that encrypts with it, and `isle key import FILE` here"
    )]
    KeyMissing {
        /// The remote.
        place: String,
        /// The object.
        key: String,
        /// The key.
        id: KeyId,
    },
    /// A later release wrote the object.
    #[error(
        "object {key} of remote {place} has format {found}, this release reads up to {supported}: update isle on this device"
    )]
    NewerFormat {
        /// The remote.
        place: String,
        /// The object.
        key: String,
        /// The format found.
        found: u16,
        /// The newest format that can be read.
        supported: u16,
    },
}

impl RemoteError {
    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Timeout { .. } | Self::Throttled { .. })
    }

    /// The object that the error is about, if it is about one.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::Unreachable { key, .. }
            | Self::Timeout { key, .. }
            | Self::Denied { key, .. }
            | Self::Throttled { key, .. }
            | Self::Rejected { key, .. }
            | Self::Storage { key, .. }
            | Self::Missing { key, .. }
            | Self::Corrupt { key, .. }
            | Self::TooLarge { key, .. }
            | Self::Unwritable { key, .. }
            | Self::NotARemote { key, .. }
            | Self::KeyMissing { key, .. }
            | Self::NewerFormat { key, .. } => Some(key),
            Self::Address { .. }
            | Self::Config { .. }
            | Self::InsecureHttp { .. }
            | Self::NoCredentials { .. }
            | Self::NoFolder { .. }
            | Self::NoBucket { .. } => None,
        }
    }
}
