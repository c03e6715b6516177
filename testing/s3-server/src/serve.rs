//! Connections, counting and faults.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::CONTENT_LENGTH;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::sync::oneshot;

use crate::bucket::Bucket;
use crate::{Control, S3Server, locked};

type Error = Box<dyn std::error::Error + Send + Sync>;
type Answer = Response<BoxBody<Bytes, Error>>;

const SLOW_DOWN: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>SlowDown</Code>\
    <Message>Please reduce your request rate.</Message></Error>";

/// What happens to one request.
enum Fate {
    Answer,
    Cut,
    Unavailable,
    Hang,
}

/// Accepts connections until the sender of `stopped` is gone.
pub(crate) async fn serve(
    listener: std::net::TcpListener,
    bucket: Bucket,
    control: Arc<Mutex<Control>>,
    stopped: oneshot::Receiver<()>,
) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let mut builder = S3ServiceBuilder::new(bucket);
    builder.set_auth(SimpleAuth::from_single(S3Server::ACCESS_KEY, S3Server::SECRET_KEY));
    let service = builder.build();
    let accept = async {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let (service, control) = (service.clone(), Arc::clone(&control));
            let handler = hyper::service::service_fn(move |request| {
                let (service, control) = (service.clone(), Arc::clone(&control));
                async move { answer(&service, &control, request).await }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), handler));
        }
    };
    tokio::select! {
        () = accept => {}
        _ = stopped => {}
    }
}

async fn answer(service: &S3Service, control: &Mutex<Control>, request: Request<Incoming>) -> Result<Answer, Error> {
    let fate = count(control, &request);
    match fate {
        Fate::Hang => std::future::pending().await,
        Fate::Unavailable => {
            let mut response = Response::new(Full::from(SLOW_DOWN).map_err(|never: Infallible| match never {}).boxed());
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            return Ok(response);
        }
        Fate::Answer | Fate::Cut => {}
    }
    let response = hyper::service::Service::call(service, request).await.map_err(|error| format!("{error:?}"))?;
    let length = response.body().size_hint().exact();
    locked(control).seen.sent_bytes += length.unwrap_or(0);
    match (fate, length) {
        (Fate::Cut, Some(length)) if length > 1 => {
            let (mut parts, body) = response.into_parts();
            parts.headers.insert(CONTENT_LENGTH, length.into());
            let body = Half { body: body.boxed(), left: length / 2 };
            Ok(Response::from_parts(parts, BodyExt::boxed(body)))
        }
        (Fate::Cut, _) => Err("cut".into()),
        _ => Ok(response.map(BodyExt::boxed)),
    }
}

fn count(control: &Mutex<Control>, request: &Request<Incoming>) -> Fate {
    let mut control = locked(control);
    control.turn += 1;
    let seen = &mut control.seen;
    seen.requests += 1;
    seen.received_bytes += request.body().size_hint().exact().unwrap_or(0);
    let is_list = request.uri().query().is_some_and(|query| query.contains("list-type=2"));
    match *request.method() {
        Method::GET if is_list => seen.lists += 1,
        Method::GET | Method::HEAD => seen.gets += 1,
        Method::PUT => seen.puts += 1,
        Method::DELETE => seen.deletes += 1,
        _ => {}
    }
    let turn = control.turn;
    let is_due = |every: Option<u64>| every.is_some_and(|every| turn.is_multiple_of(every.max(1)));
    match &control.behaviour {
        behaviour if is_due(behaviour.hang_every) => Fate::Hang,
        behaviour if is_due(behaviour.unavailable_every) => Fate::Unavailable,
        behaviour if is_due(behaviour.cut_every) => Fate::Cut,
        _ => Fate::Answer,
    }
}

/// The first half of a body, then a broken connection.
struct Half {
    body: BoxBody<Bytes, Error>,
    left: u64,
}

impl Body for Half {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.left == 0 {
            return Poll::Ready(Some(Err("cut".into())));
        }
        let mut next = self.body.frame();
        let frame = match Pin::new(&mut next).poll(context) {
            Poll::Ready(Some(Ok(frame))) => frame,
            other => return other,
        };
        let Ok(mut data) = frame.into_data() else { return Poll::Ready(Some(Err("cut".into()))) };
        data.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= data.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
