//! Sessions over connections of the app's own: in whatever pieces bytes come, and wherever they stop coming.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use isle::{Error, PeerSession, Replica, Runtime, SystemRuntime};

/// A clock that the test sets forward.
#[derive(Debug, Default)]
struct Clock(AtomicU64);

impl Runtime for Clock {
    fn now_ms(&self) -> u64 {
        SystemRuntime.now_ms() + self.0.load(Ordering::Relaxed)
    }
    fn random(&self) -> [u8; 16] {
        SystemRuntime.random()
    }
}

struct Pair {
    a: Replica,
    b: Replica,
    clock: Arc<Clock>,
    folder: tempfile::TempDir,
}

fn pair() -> Pair {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(Clock::default());
    let device = |name: &str| device(folder.path(), name, &clock);
    let (a, b) = (device("a"), device("b"));
    a.apply_schema("CREATE TABLE notes(id INTEGER PRIMARY KEY, body TEXT)").unwrap();
    a.let_in(&b).unwrap();
    Pair { a, b, clock, folder }
}

fn device(folder: &Path, name: &str, clock: &Arc<Clock>) -> Replica {
    let builder = Replica::builder(folder.join(format!("{name}.db"))).home(folder.join(name));
    builder.runtime(Arc::clone(clock) as _).init().unwrap()
}

fn write(replica: &Replica, id: i64, bytes: usize) {
    let sql = format!("INSERT INTO notes VALUES({id}, hex(randomblob({})))", bytes / 2);
    replica.write(|tx| tx.execute_batch(&sql)).unwrap();
}

impl Pair {
    fn sessions(&self) -> [PeerSession; 2] {
        let of = |replica: &Replica, other: &Replica| replica.peer_session(other.device().unwrap().key).unwrap();
        [of(&self.a, &self.b), of(&self.b, &self.a)]
    }

    fn agree(&self) -> bool {
        self.a.state_hash().unwrap() == self.b.state_hash().unwrap()
    }
}

/// Carries bytes to and fro, in pieces, until nothing more is said or so many have been carried; gives how many were.
fn carry(ends: &mut [PeerSession; 2], piece: usize, limit: usize) -> Result<usize, Error> {
    let mut carried = 0;
    loop {
        let mut quiet = true;
        for from in 0..2 {
            while let Some(bytes) = ends[from].poll_output()? {
                quiet = false;
                for bytes in bytes.chunks(piece) {
                    let bytes = &bytes[..bytes.len().min(limit - carried)];
                    ends[1 - from].handle_input(bytes)?;
                    carried += bytes.len();
                    if carried == limit {
                        return Ok(carried);
                    }
                }
            }
        }
        if quiet {
            return Ok(carried);
        }
    }
}

#[test]
fn both_get_what_the_other_had_and_what_it_writes_meanwhile() {
    for piece in [1, 1_000, usize::MAX] {
        let pair = pair();
        (0..5).for_each(|n| write(&pair.a, n, 100));
        let mut ends = pair.sessions();
        carry(&mut ends, piece, usize::MAX).unwrap();
        assert!(ends.iter().all(PeerSession::is_caught_up) && pair.agree());
        // Each tells the other of what comes up, in the same session.
        write(&pair.b, 100, 100_000);
        ends[1].handle_local().unwrap();
        carry(&mut ends, piece, usize::MAX).unwrap();
        assert!(pair.agree());
        ends[0].close();
        carry(&mut ends, piece, usize::MAX).unwrap();
        assert!(ends.iter().all(PeerSession::is_over), "one hangs up, and the other knows");
        let [a, b] = ends.map(|end| end.finish().unwrap());
        assert_eq!((a.pushed_versions, a.pulled_versions), (5, 1));
        assert_eq!((b.pushed_versions, b.pulled_versions), (1, 5));
        assert!(a.uploaded_bytes > 500 && a.uploaded_bytes == b.downloaded_bytes);
        let seen = pair.a.peers().unwrap();
        assert!(seen.iter().any(|peer| peer.last_seen_ms.is_some() && peer.last_error.is_none()), "{seen:?}");
    }
}

#[test]
fn a_connection_that_ends_anywhere_costs_nothing_but_another_one() {
    let written = || {
        let pair = pair();
        carry(&mut pair.sessions(), usize::MAX, usize::MAX).unwrap();
        (0..3).for_each(|n| write(&pair.a, n, 300));
        write(&pair.b, 9, 10_000);
        pair
    };
    let whole = carry(&mut written().sessions(), usize::MAX, usize::MAX).unwrap();
    // What is random packs into some bytes more or less in each pair.
    for limit in (1..whole - 200).step_by(whole / 23) {
        let pair = written();
        let mut ends = pair.sessions();
        assert_eq!(carry(&mut ends, usize::MAX, limit).unwrap(), limit);
        for end in ends {
            end.finish().unwrap();
        }
        assert!(pair.a.check().unwrap().findings.is_empty() && pair.b.check().unwrap().findings.is_empty());
        let mut ends = pair.sessions();
        carry(&mut ends, usize::MAX, usize::MAX).unwrap();
        assert!(ends.iter().all(PeerSession::is_caught_up) && pair.agree(), "after a cut at {limit} of {whole}");
    }
}

#[test]
fn an_end_that_hears_nothing_gives_up_when_it_says_and_can_begin_anew() {
    let pair = pair();
    write(&pair.a, 1, 100);
    let [mut a, _] = pair.sessions();
    while a.poll_output().unwrap().is_some() {}
    let until = a.poll_timeout().expect("it waits for a hello");
    a.handle_timeout().expect("not yet");
    let wait = until - pair.clock.now_ms();
    assert!((1_000..120_000).contains(&wait), "{wait} ms");
    pair.clock.0.store(wait + 1, Ordering::Relaxed);
    let error = a.handle_timeout().expect_err("nobody is there");
    assert!(matches!(error, Error::Session { .. }), "{error}");
    assert!(a.is_over() && a.poll_timeout().is_none());
    assert!(a.handle_input(b"too late").is_ok(), "what comes afterwards is nobody's");
    a.finish().unwrap();
    let told = pair.a.peers().unwrap();
    assert!(told.iter().any(|peer| peer.last_error.is_some()), "the failure is noted: {told:?}");
    let mut ends = pair.sessions();
    carry(&mut ends, usize::MAX, usize::MAX).unwrap();
    assert!(pair.agree());
}

#[test]
fn bytes_that_are_no_session_end_it_and_change_nothing() {
    let pair = pair();
    write(&pair.a, 1, 100);
    let before = pair.b.state_hash().unwrap();
    let [mut a, mut b] = pair.sessions();
    let mut bytes = a.poll_output().unwrap().expect("a hello");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    let error = b.handle_input(&bytes).expect_err("one bit is another");
    assert!(matches!(error, Error::Session { .. }), "{error}");
    assert!(b.is_over());
    // The other end is told, and gives up as well.
    let goodbye = b.poll_output().unwrap().expect("a goodbye");
    while let Some(bytes) = b.poll_output().unwrap() {
        drop(bytes);
    }
    a.handle_input(&goodbye).expect_err("the session is over");
    assert!(a.is_over());
    assert_eq!(pair.b.state_hash().unwrap(), before);
}

#[test]
fn a_device_that_does_not_belong_is_not_spoken_to() {
    let pair = pair();
    let stranger = device(pair.folder.path(), "stranger", &pair.clock);
    let error = pair.a.peer_session(stranger.device().unwrap().key).expect_err("it does not belong");
    assert!(matches!(error, Error::NotEnrolled { .. }), "{error}");
    let error = stranger.peer_session(pair.a.device().unwrap().key).expect_err("it does not belong");
    assert!(matches!(error, Error::NotEnrolled { .. } | Error::NotMember { .. }), "{error}");
}
