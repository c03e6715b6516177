//! The way of each HTTP request: counted, and its failures kept in a form that can be told apart.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
    ReqwestConnector,
};

use crate::request::Counters;

/// How much of an error's body is read.
const ERROR_BODY_BYTES_MAX: usize = 8 * 1024;
/// The largest page of a listing: 1000 keys of 1024 bytes with what S3 says about each, and room.
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Answers that `object_store` itself tells apart, for requests on one object.
const KNOWN: [u16; 3] = [304, 404, 412];

/// An answer that is no success. `object_store` hides the status of most of them.
#[derive(Debug, thiserror::Error)]
#[error("the server answered with status {status}: {body}")]
pub(crate) struct StatusError {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl StatusError {
    /// Whether the body carries this error code of S3.
    pub(crate) fn has_code(&self, code: &str) -> bool {
        self.body.contains(&format!("<Code>{code}</Code>"))
    }
}

/// Makes clients that count.
#[derive(Debug)]
pub(crate) struct Connector {
    traffic: Arc<Counters>,
}

impl Connector {
    pub(crate) fn new(traffic: Arc<Counters>) -> Connector {
        Connector { traffic }
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Counting { client, traffic: Arc::clone(&self.traffic) }))
    }
}

#[derive(Debug)]
struct Counting {
    client: HttpClient,
    traffic: Arc<Counters>,
}

#[async_trait::async_trait]
impl HttpService for Counting {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.traffic.count_request();
        let is_list = request.uri().query().is_some_and(|query| query.contains("list-type=2"));
        let response = self.client.execute(request).await?;
        let status = response.status();
        if (status.is_success() && !is_list) || status.is_informational() || status.as_u16() == 304 {
            return Ok(response);
        }
        let (is_success, status) = (status.is_success(), status.as_u16());
        let (parts, body) = response.into_parts();
        if is_success {
            // The client would read whatever is sent.
            let page = read(body, PAGE_BYTES_MAX + 1).await?;
            if page.len() > PAGE_BYTES_MAX {
                let body = format!("a page of a listing is larger than {PAGE_BYTES_MAX} bytes");
                return Err(HttpError::new(HttpErrorKind::Unknown, StatusError { status, body }));
            }
            return Ok(HttpResponse::from_parts(parts, page.into()));
        }
        let read = read(body, ERROR_BODY_BYTES_MAX).await.unwrap_or_default();
        let error = StatusError { status, body: String::from_utf8_lossy(&read).into_owned() };
        if KNOWN.contains(&status) && !error.has_code("NoSuchBucket") {
            return Ok(HttpResponse::from_parts(parts, error.body.into()));
        }
        Err(HttpError::new(HttpErrorKind::Unknown, error))
    }
}

/// The first `most` bytes of a body.
async fn read(body: HttpResponseBody, most: usize) -> Result<Bytes, HttpError> {
    let mut read = Vec::new();
    let mut pieces = body.bytes_stream();
    while read.len() < most
        && let Some(piece) = pieces.try_next().await?
    {
        let room = most - read.len();
        read.extend_from_slice(piece.get(..room).unwrap_or(&piece));
    }
    Ok(read.into())
}
