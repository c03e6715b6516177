//! Tickets, as people copy them.
//!
//! Input: form, then the text (0), content whose checksum is made to hold (1), the same with capitals, blanks and line ends as they come from
//! copying or a QR code (2), or the parts of a ticket that is written and read back (3).

use isle_clock::GroupId;
use isle_identity::{ADDRESSES_MAX, DeviceKey, InviteSecret, Ticket};

use crate::script::{Script, piece};
use crate::sums::{code, content};
use crate::{Seed, memory};

const START: &str = "isle1";
/// A longer text is refused before anything else.
const TEXT_BYTES_MAX: usize = 4096;

/// The target.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    match script.byte() % 4 {
        0 => {
            check(&String::from_utf8_lossy(script.rest()));
        }
        1 => {
            check(&code(START, script.rest()));
        }
        2 => {
            let every = usize::from(script.byte()) + 1;
            let text = code(START, script.rest());
            let copied = blurred(&text, every);
            if copied.len() <= TEXT_BYTES_MAX {
                assert_eq!(check(&text), check(&copied), "blanks and capitals matter");
            }
        }
        _ => write(&mut script),
    }
}

/// Reads a text. A ticket reads back from what it is printed as, and from its QR code.
fn check(text: &str) -> Option<Ticket> {
    // However long a text: one that is too long is not looked at.
    let bound = 64 * TEXT_BYTES_MAX + text.len();
    let ticket: Ticket = memory::bounded("reading a ticket", bound, || text.parse()).ok()?;
    assert!(text.len() <= TEXT_BYTES_MAX && ticket.addresses.len() <= ADDRESSES_MAX);
    let printed = ticket.to_string();
    assert!(printed.len() <= text.len(), "{} bytes were read, {} are printed", text.len(), printed.len());
    assert_eq!(printed.parse().as_ref(), Ok(&ticket));
    assert_eq!(ticket.to_qr_text().parse().as_ref(), Ok(&ticket));
    Some(ticket)
}

/// Every so many characters a line end, a blank or a capital.
fn blurred(text: &str, every: usize) -> String {
    let odd = |(n, c): (usize, char)| match n % every {
        0 if n % 3 == 0 => vec!['\r', '\n', c],
        0 if n % 3 == 1 => vec![' ', c],
        0 => vec![c.to_ascii_uppercase()],
        _ => vec![c],
    };
    text.chars().enumerate().flat_map(odd).collect()
}

fn write(script: &mut Script<'_>) {
    let mut ticket = Ticket {
        group: GroupId::from_bytes(script.array()),
        inviter: DeviceKey::from_bytes(script.array()),
        secret: InviteSecret::from_random(script.array()),
        expires_ms: u64::from_be_bytes(script.array()),
        addresses: Vec::new(),
    };
    while !script.is_over() && ticket.addresses.len() < ADDRESSES_MAX {
        let address = String::from_utf8_lossy(script.piece()).into_owned();
        ticket.addresses.push(address[..address.floor_char_boundary(255)].to_owned());
    }
    let printed = ticket.to_string();
    if printed.len() <= TEXT_BYTES_MAX {
        assert_eq!(printed.parse(), Ok(ticket));
    }
}

/// Small inputs.
pub fn seeds() -> Vec<Seed> {
    let ticket = Ticket {
        group: GroupId::from_bytes([1; 16]),
        inviter: DeviceKey::from_bytes([2; 32]),
        secret: InviteSecret::from_random([3; 16]),
        expires_ms: 1_795_000_000_000,
        addresses: vec!["192.0.2.1:4753".to_owned(), "[2001:db8::1]:4753".to_owned()],
    };
    let text = ticket.to_string();
    let inside = content(START, &text);
    let parts = [[1; 16].as_slice(), &[2; 32], &[3; 16], &[0, 0, 1, 0x9a, 0, 0, 0, 0], &piece(b"192.0.2.1:4753")];
    vec![
        ("text", [&[0], text.as_bytes()].concat()),
        ("content", [&[1], inside.as_slice()].concat()),
        ("copied", [&[2, 39], inside.as_slice()].concat()),
        ("parts", [vec![3], parts.concat()].concat()),
    ]
}
