//! The one message each way of a device that joins and the one that lets it in.
//!
//! Input: what it is read as, then the four bytes of a length, then a body.

use isle_clock::GroupId;
use isle_protocol::pairing::{REPLY_BYTES_MAX, REQUEST_BYTES_MAX, Reply, Request, decode, encode, length};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::script::Script;
use crate::{Seed, memory};

/// The target.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let (form, prelude, body) = (script.byte(), script.array(), script.rest());
    let claimed = u32::from_be_bytes(prelude) as usize;
    for max in [REQUEST_BYTES_MAX, REPLY_BYTES_MAX] {
        assert_eq!(length(prelude, max).ok(), Some(claimed).filter(|claimed| *claimed <= max));
    }
    match form & 1 {
        0 => check::<Request>(body),
        _ => check::<Reply>(body),
    }
}

/// What is read reads back, and its length is that of its body.
fn check<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(body: &[u8]) {
    // An empty operation in a welcome is a byte of it, and 24 of memory in a list that grows by doubling.
    let bound = (2 << 20) + 64 * body.len();
    let Ok(value) = memory::bounded("reading a pairing message", bound, || decode::<T>(body)) else { return };
    let written = encode(&value).expect("small");
    let (prelude, again) = written.split_first_chunk().expect("a length");
    assert!(again.len() <= body.len(), "{} bytes came, {} are written", body.len(), again.len());
    assert_eq!(length(*prelude, body.len()), Ok(again.len()));
    assert_eq!(decode::<T>(again), Ok(value));
}

/// Small inputs.
pub fn seeds() -> Vec<Seed> {
    let request = Request { group: GroupId::from_bytes([9; 16]), proof: [7; 32], name: "phone".to_owned() };
    let welcome = Reply::Welcome {
        app: "notes".to_owned(),
        members: vec![b"operation".to_vec(), Vec::new()],
        keys: Some("islekey1aaaa".to_owned()),
    };
    let refused = Reply::Refused { reason: "the ticket has expired".to_owned() };
    let seed = |form: u8, message: Vec<u8>| [vec![form], message].concat();
    vec![
        ("request", seed(0, encode(&request).expect("small"))),
        ("welcome", seed(1, encode(&welcome).expect("small"))),
        ("refused", seed(1, encode(&refused).expect("small"))),
    ]
}
