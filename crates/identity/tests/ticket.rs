//! Tickets as they are copied, photographed, mistyped and forged.

use isle_clock::GroupId;
use isle_identity::{DeviceKey, InviteSecret, Ticket, TicketError};
use proptest::prelude::*;

fn ticket() -> Ticket {
    Ticket {
        group: GroupId::from_bytes([1; 16]),
        inviter: DeviceKey::from_bytes([2; 32]),
        secret: InviteSecret::from_random([3; 16]),
        expires_ms: 1_795_000_000_000,
        addresses: vec!["192.168.1.7:4753".to_owned(), "[fe80::1]:4753".to_owned()],
    }
}

#[test]
fn a_ticket_reads_back_from_text_from_a_qr_code_and_from_broken_lines() {
    let text = ticket().to_string();
    assert!(text.starts_with("isle1") && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()), "{text}");
    assert_eq!(text.parse(), Ok(ticket()));
    assert_eq!(ticket().to_qr_text().parse(), Ok(ticket()));
    let broken = format!(" {}\n  {}\n", &text[..40], &text[40..]);
    assert_eq!(broken.parse(), Ok(ticket()));
}

#[test]
fn what_is_no_ticket_says_so() {
    assert_eq!("hello".parse::<Ticket>(), Err(TicketError::Foreign));
    assert_eq!("isle1".parse::<Ticket>(), Err(TicketError::Damaged));
    let text = ticket().to_string();
    assert_eq!(text[..text.len() - 3].parse::<Ticket>(), Err(TicketError::Damaged));
    assert!(matches!("isle1a".repeat(4096).parse::<Ticket>(), Err(TicketError::Malformed { .. })));
}

#[test]
fn a_proof_is_of_use_to_one_device_of_one_group() {
    let (secret, group) = (InviteSecret::from_random([3; 16]), GroupId::from_bytes([1; 16]));
    let (a, b) = (DeviceKey::from_bytes([1; 32]), DeviceKey::from_bytes([2; 32]));
    let proof = secret.proof(group, &a, &b);
    assert!(secret.is_proved(&proof, group, &a, &b));
    assert!(!secret.is_proved(&proof, group, &b, &a));
    assert!(!secret.is_proved(&proof, GroupId::from_bytes([2; 16]), &a, &b));
    assert!(!InviteSecret::from_random([4; 16]).is_proved(&proof, group, &a, &b));
    assert!(!format!("{:?}", ticket()).contains("3, 3"), "the secret does not show");
}

proptest! {
    #[test]
    fn any_mistyped_character_is_noticed(at in 5usize..150, by in 1u8..31) {
        let mut text = ticket().to_string().into_bytes();
        let at = 5 + at % (text.len() - 5);
        let alphabet = b"abcdefghijklmnopqrstuvwxyz234567";
        let old = alphabet.iter().position(|c| *c == text[at]).expect("base32");
        text[at] = alphabet[(old + usize::from(by)) % 32];
        let text = String::from_utf8(text).expect("text");
        prop_assert!(text.parse::<Ticket>() != Ok(ticket()));
        prop_assert!(text.parse::<Ticket>().is_err());
    }

    #[test]
    fn no_text_is_too_odd(text in "(isle1)?[a-z2-7 \\PC]{0,300}") {
        if let Ok(ticket) = text.parse::<Ticket>() {
            prop_assert_eq!(ticket.to_string().parse(), Ok(ticket));
        }
    }
}
