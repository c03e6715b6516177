//! An S3 server in the test's own process: one bucket in memory, signatures checked, faults on demand.
//!
//! It speaks HTTP on a free port of 127.0.0.1 from a thread of its own, so it serves tests of other processes (a command
//! line) as well as tests without a runtime. It stops when it is dropped. Conditional puts and gets are honoured unless
//! [`Behaviour::ignores_conditions`] is set; a put whose condition fails is answered before its body is read, as real
//! servers do.

mod bucket;
mod serve;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use bucket::Bucket;
use tokio::sync::oneshot;

/// What the server does besides answering. All counts are of requests since the last [`S3Server::behave`]; 1 is every
/// request.
#[derive(Debug, Clone, Default)]
pub struct Behaviour {
    /// Performs every n-th request and then breaks the connection, in the middle of the body if there is one.
    pub cut_every: Option<u64>,
    /// Answers every n-th request with 503 `SlowDown`, without performing it.
    pub unavailable_every: Option<u64>,
    /// Never answers every n-th request.
    pub hang_every: Option<u64>,
    /// Entries on one page of a listing; 1000 when absent.
    pub page_entries: Option<usize>,
    /// Acts as if `If-Match` and `If-None-Match` of a put were not there.
    pub ignores_conditions: bool,
    /// Answers puts with `If-Match` or `If-None-Match` with 501.
    pub refuses_conditions: bool,
    /// Gives each put a version id, as a bucket with versioning does.
    pub versioned: bool,
}

/// What the server has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// Requests of any kind.
    pub requests: u64,
    /// GET and HEAD of objects.
    pub gets: u64,
    /// Pages of listings.
    pub lists: u64,
    /// PUT.
    pub puts: u64,
    /// DELETE.
    pub deletes: u64,
    /// Bytes of request bodies, as announced.
    pub received_bytes: u64,
    /// Bytes of response bodies, as announced.
    pub sent_bytes: u64,
}

#[derive(Debug, Default)]
struct Control {
    behaviour: Behaviour,
    /// Requests since the behaviour was set.
    turn: u64,
    seen: Seen,
}

/// A running server.
#[derive(Debug)]
pub struct S3Server {
    address: SocketAddr,
    bucket: Bucket,
    control: Arc<Mutex<Control>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl S3Server {
    /// The name of the one bucket.
    pub const BUCKET: &'static str = "isle-test";
    /// The access key id that is accepted.
    pub const ACCESS_KEY: &'static str = "ISLETESTACCESSKEY";
    /// The secret of that key.
    pub const SECRET_KEY: &'static str = "isle-test-secret-key-0123456789";

    /// Starts a server with an empty bucket.
    ///
    /// # Errors
    /// When no port or no thread can be had.
    pub fn start(behaviour: Behaviour) -> std::io::Result<S3Server> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let control = Arc::new(Mutex::new(Control { behaviour, ..Control::default() }));
        let bucket = Bucket::new(Arc::clone(&control));
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let (served, watched) = (bucket.clone(), Arc::clone(&control));
        let thread = std::thread::Builder::new().name("isle-test-s3".to_owned()).spawn(move || {
            runtime.block_on(serve::serve(listener, served, watched, stopped));
            runtime.shutdown_background();
        })?;
        Ok(S3Server { address, bucket, control, stop: Some(stop), thread: Some(thread) })
    }

    /// `http://127.0.0.1:port`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `s3://bucket/prefix?endpoint=…`.
    pub fn url(&self, prefix: &str) -> String {
        format!("s3://{}/{prefix}?endpoint={}", Self::BUCKET, self.endpoint())
    }

    /// Changes what the server does from the next request on.
    pub fn behave(&self, behaviour: Behaviour) {
        let mut control = locked(&self.control);
        control.behaviour = behaviour;
        control.turn = 0;
    }

    /// What the server has seen so far.
    pub fn seen(&self) -> Seen {
        locked(&self.control).seen
    }

    /// All keys, sorted.
    pub fn keys(&self) -> Vec<String> {
        self.bucket.keys()
    }

    /// The bytes of an object.
    pub fn object(&self, key: &str) -> Option<Vec<u8>> {
        self.bucket.object(key)
    }

    /// Puts an object past all requests: a bucket operator's hand.
    pub fn plant(&self, key: &str, bytes: impl Into<Vec<u8>>) {
        self.bucket.plant(key, bytes.into());
    }

    /// Removes an object past all requests; returns whether it was there.
    pub fn remove(&self, key: &str) -> bool {
        self.bucket.remove(key)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A test that panicked while it held the lock has failed anyway.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
