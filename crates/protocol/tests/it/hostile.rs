//! Peers that break the rules.

use bytes::Bytes;
use isle_clock::{GroupId, SiteId, VersionVector};
use isle_protocol::{
    ByeCode, Decoder, Frame, Have, Message, MessageError, STALL_MS, Session, SessionError, WINDOW_BYTES, pairing,
};
use proptest::prelude::*;

use crate::model::Replica;

/// A session of an honest replica that has begun, and its store.
fn begun() -> (Session, Replica) {
    let mut replica = Replica::new(1);
    replica.write(&[Bytes::from_static(b"x")]);
    let mut session = replica.session(0);
    let mut hello = Replica::new(2).hello();
    (hello.version, hello.oldest) = (1, 1);
    say(&mut session, &Message::Hello(Box::new(hello))).expect("greets");
    drive(&mut session, &mut replica).expect("begins");
    (session, replica)
}

fn say(session: &mut Session, message: &Message) -> Result<(), SessionError> {
    session.handle_input(0, &message.encode())
}

fn drive(session: &mut Session, replica: &mut Replica) -> Result<(), SessionError> {
    while let Some(action) = session.poll_action() {
        let answer = replica.act(0, &mut Vec::new(), &action).expect("answers");
        session.handle_answer(answer)?;
    }
    while session.poll_output(0).is_some() {}
    Ok(())
}

#[test]
fn lengths_that_may_not_be_are_refused_before_anything_is_kept() {
    for (bytes, kind) in
        [([0xff, 0xff, 0xff, 0xff, 5], 5), ([0x00, 0x00, 0x01, 0x00, 9], 9), ([0x7f, 0xff, 0xff, 0xff, 1], 1)]
    {
        let mut decoder = Decoder::default();
        decoder.push(&bytes);
        assert!(matches!(decoder.take(), Err(MessageError::TooLarge { kind: of, .. }) if of == kind), "{bytes:?}");
    }
    let mut decoder = Decoder::default();
    decoder.push(&[0, 0, 0, 0, 9]);
    assert!(matches!(decoder.take(), Err(MessageError::Malformed { .. })));
    let mut decoder = Decoder::default();
    decoder.push(&[0, 0, 0, 1, 99]);
    assert_eq!(decoder.take(), Err(MessageError::Kind { kind: 99 }));
}

#[test]
fn who_does_not_fit_is_told_so() {
    let mut hello = Replica::new(2).hello();
    (hello.version, hello.oldest) = (1, 1);
    let ends = |change: &dyn Fn(&mut isle_protocol::Hello)| {
        let mut session = Replica::new(1).session(0);
        let mut hello = hello.clone();
        change(&mut hello);
        say(&mut session, &Message::Hello(Box::new(hello))).expect_err("refused")
    };
    assert!(matches!(ends(&|h| h.group = GroupId::from_bytes([1; 16])), SessionError::OtherGroup { .. }));
    assert!(matches!(ends(&|h| h.app = "other".into()), SessionError::OtherApp { .. }));
    assert!(matches!(ends(&|h| h.site = SiteId::from_bytes([1; 16])), SessionError::SameSite));
    assert!(matches!(ends(&|h| (h.version, h.oldest) = (9, 7)), SessionError::Version { theirs: 9 }));
    // A later isle that still speaks this version is talked to.
    let mut session = Replica::new(1).session(0);
    (hello.version, hello.oldest) = (9, 1);
    assert_eq!(say(&mut session, &Message::Hello(Box::new(hello))), Ok(()));
}

#[test]
fn messages_out_of_turn_end_the_session() {
    let mut fresh = Replica::new(1).session(0);
    assert!(matches!(say(&mut fresh, &Message::Done), Err(SessionError::OutOfTurn { .. })));
    let part = Message::Part { index: 0, bytes: Bytes::new() };
    let lie = Message::Progress { taken: 1 << 40, applied: VersionVector::new() };
    let want = Message::Want(vec![(0, 3)]);
    let broken = Message::Frame(Frame::Header(Bytes::from_static(b"ISLCxxxx")));
    let messages = [part, lie, want, broken, Message::Answer(true), Message::Snapshot(Bytes::new()), Message::Joined];
    for message in messages {
        let (mut session, _) = begun();
        let ended = say(&mut session, &message);
        assert!(matches!(ended, Err(SessionError::OutOfTurn { .. })), "{message:?}: {ended:?}");
    }
    let (mut session, mut replica) = begun();
    let have = Message::Have(Box::default());
    say(&mut session, &have).expect("once");
    drive(&mut session, &mut replica).expect("goes on");
    assert!(say(&mut session, &have).is_err());
    let (mut session, _) = begun();
    let floods = (0..100).find_map(|_| say(&mut session, &Message::Retired(Vec::new())).err());
    assert!(matches!(floods, Some(SessionError::OutOfTurn { .. })));
}

#[test]
fn a_flood_is_cut_off_at_the_window() {
    let (mut session, _) = begun();
    let block = Message::Frame(Frame::Block {
        site: SiteId::from_bytes([2; 16]),
        version: 1,
        index: 0,
        bytes: Bytes::from(vec![0; 1 << 20]),
    });
    // The store here never answers.
    let sent = (0..100u64).find(|_| say(&mut session, &block).is_err()).expect("cut off");
    assert!(sent <= (WINDOW_BYTES >> 20) + 1, "{sent} MiB were taken");
}

#[test]
fn a_peer_that_stalls_is_cut_off() {
    let mut session = Replica::new(1).session(1_000);
    let hello_by = session.poll_timeout().expect("a hello is due");
    assert_eq!(session.handle_timeout(hello_by - 1), Ok(()));
    assert!(matches!(session.handle_timeout(hello_by), Err(SessionError::Stalled { .. })));
    let (mut session, _) = begun();
    assert_eq!(session.poll_timeout(), None);
    session.handle_input(5_000, &[0, 0, 1, 0, 4, 1]).expect("a part");
    assert_eq!(session.poll_timeout(), Some(5_000 + STALL_MS));
    // Sent what it lacks, and says nothing.
    let (mut session, mut replica) = begun();
    say(&mut session, &Message::Have(Box::default())).expect("has nothing");
    drive(&mut session, &mut replica).expect("sends");
    let by = session.poll_timeout().expect("an acknowledgement is due");
    assert!(matches!(session.handle_timeout(by), Err(SessionError::Stalled { .. })));
}

#[test]
fn a_snapshot_that_is_promised_and_does_not_come_is_not_waited_for() {
    let (mut session, mut replica) = begun();
    say(&mut session, &Message::Have(Box::default())).expect("heard");
    let unknown = [(SiteId::from_bytes([77; 16]), 5)].into_iter().collect();
    say(&mut session, &Message::Offer(unknown)).expect("heard");
    drive(&mut session, &mut replica).expect("wants it");
    // Whatever else it says does not count.
    for now_ms in [20_000, 40_000] {
        let said = Message::Retired(Vec::new()).encode();
        session.handle_input(now_ms, &said).expect("heard");
        drive(&mut session, &mut replica).expect("goes on");
    }
    assert_eq!(session.poll_timeout(), Some(STALL_MS));
    assert!(matches!(session.handle_timeout(STALL_MS), Err(SessionError::Stalled { what: "a snapshot" })));
}

#[test]
fn a_part_of_a_snapshot_does_not_come_in_the_place_of_another() {
    let (mut session, mut replica) = begun();
    say(&mut session, &Message::Have(Box::default())).expect("heard");
    let unknown = [(SiteId::from_bytes([77; 16]), 5)].into_iter().collect();
    say(&mut session, &Message::Offer(unknown)).expect("heard");
    drive(&mut session, &mut replica).expect("wants it");
    // Two blocks, by their hashes.
    let block = Bytes::from_static(b"block");
    let hash = *blake3::hash(&block).as_bytes();
    say(&mut session, &Message::Snapshot([hash, hash].concat().into())).expect("heard");
    drive(&mut session, &mut replica).expect("asks for both");
    let part = |index| Message::Part { index, bytes: block.clone() };
    say(&mut session, &part(0)).expect("the first");
    assert!(matches!(say(&mut session, &part(0)), Err(SessionError::OutOfTurn { .. })), "not the first again");
}

#[test]
fn acknowledging_nothing_again_and_again_puts_nothing_off() {
    let (mut session, mut replica) = begun();
    say(&mut session, &Message::Have(Box::default())).expect("has nothing");
    drive(&mut session, &mut replica).expect("sends");
    let by = session.poll_timeout().expect("an acknowledgement is due");
    let nothing = Message::Progress { taken: 0, applied: VersionVector::new() }.encode();
    session.handle_input(by - 1, &nothing).expect("heard");
    assert_eq!(session.poll_timeout(), Some(by));
}

#[test]
fn a_peer_cannot_fill_the_memory_with_names() {
    let (mut session, _) = begun();
    let ended = (0..70_000u32).find_map(|n| {
        let mut site = [0; 16];
        site[..4].copy_from_slice(&n.to_be_bytes());
        say(&mut session, &Message::Decline(SiteId::from_bytes(site))).err()
    });
    assert!(matches!(ended, Some(SessionError::OutOfTurn { .. })));
}

#[test]
fn a_lie_about_what_it_has_costs_the_liar_only() {
    let (mut session, mut replica) = begun();
    let everything = (0..200u8).map(|n| (SiteId::from_bytes([n; 16]), i64::MAX as u64)).collect();
    let have = Have { applied: everything, yours: None, ..Have::default() };
    say(&mut session, &Message::Have(Box::new(have))).expect("heard");
    drive(&mut session, &mut replica).expect("goes on");
    assert_eq!(replica.applied.len(), 1, "nothing is taken for granted here");
    let wrong = Have { yours: Some((7, [1; 32])), ..Have::default() };
    let (mut session, mut replica) = begun();
    say(&mut session, &Message::Have(Box::new(wrong))).expect("heard");
    assert!(matches!(drive(&mut session, &mut replica), Err(SessionError::Fork { .. })));
}

#[test]
fn a_goodbye_says_why_in_bounded_words() {
    let bye = Message::Bye { code: ByeCode::Failed, reason: "ü".repeat(10_000) };
    let (mut session, _) = begun();
    match say(&mut session, &bye) {
        Err(SessionError::Closed { code: ByeCode::Failed, reason }) => assert!(reason.len() <= 1024),
        other => panic!("{other:?}"),
    }
}

fn message() -> impl Strategy<Value = Message> {
    let bytes = prop::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
    let vector = prop::collection::vec((0u8..4, 1u64..9), 0..4)
        .prop_map(|v| v.into_iter().map(|(s, n)| (SiteId::from_bytes([s; 16]), n)).collect::<VersionVector>());
    prop_oneof![
        bytes.clone().prop_map(|b| Message::Frame(Frame::Header(b))),
        (0u8..4, 1u64..9, 0u32..9, bytes.clone()).prop_map(|(s, version, index, bytes)| {
            Message::Frame(Frame::Block { site: SiteId::from_bytes([s; 16]), version, index, bytes })
        }),
        (0u8..4, 1u64..9, bytes.clone()).prop_map(|(s, version, bytes)| {
            Message::Frame(Frame::Proof { site: SiteId::from_bytes([s; 16]), version, bytes })
        }),
        (0u64..99, vector.clone()).prop_map(|(taken, applied)| Message::Progress { taken, applied }),
        vector.clone().prop_map(Message::Offer),
        vector.prop_map(|applied| Message::Have(Box::new(Have { applied, ..Have::default() }))),
        prop::collection::vec((0u32..9, 0u32..9), 0..4)
            .prop_map(|r| { Message::Want(r.into_iter().map(|(a, b)| (a.min(b), a.max(b))).collect()) }),
        (any::<u32>(), bytes.clone()).prop_map(|(index, bytes)| Message::Part { index, bytes }),
        bytes.prop_map(Message::Snapshot),
        any::<bool>().prop_map(Message::Answer),
        Just(Message::Done),
        Just(Message::Joined),
        (0u8..4).prop_map(|s| Message::Decline(SiteId::from_bytes([s; 16]))),
        prop::collection::vec((0u8..4, 0u64..9), 0..3)
            .prop_map(|v| Message::Retired(v.into_iter().map(|(s, n)| (SiteId::from_bytes([s; 16]), n)).collect())),
    ]
}

proptest! {
    #[test]
    fn messages_read_back(messages in prop::collection::vec(message(), 1..8), pieces in 1usize..40) {
        let bytes: Vec<u8> = messages.iter().flat_map(|message| message.encode()).collect();
        let mut decoder = Decoder::default();
        let mut read = Vec::new();
        for piece in bytes.chunks(pieces) {
            decoder.push(piece);
            while let Some((message, _)) = decoder.take().expect("reads") {
                read.push(message);
            }
        }
        prop_assert!(!decoder.is_within());
        prop_assert_eq!(read, messages);
    }

    /// Whatever comes, the session ends with an error or goes on; what it holds stays within its bounds.
    #[test]
    fn no_sequence_of_messages_is_too_odd(messages in prop::collection::vec(message(), 1..40), answers in any::<u64>()) {
        let (mut session, _) = begun();
        let mut bits = answers;
        for message in &messages {
            // The store is one that knows nothing and refuses nothing, now and then late.
            bits = bits.rotate_left(1);
            if say(&mut session, message).is_err() {
                return Ok(());
            }
            while bits & 1 == 1 && let Some(action) = session.poll_action() {
                use isle_protocol::{Action, Answer};
                let nothing = VersionVector::new();
                let answer = match action {
                    Action::Begin(_) => Answer::Started(Box::default()),
                    Action::Compare(_) => Answer::Compared(Vec::new()),
                    Action::Confirm { .. } => Answer::Confirmed(true),
                    Action::Restate { .. } => Answer::Knowing,
                    Action::Read { .. } => Answer::Changesets { changesets: Vec::new(), more: false, gap: bits & 2 == 2, applied: nothing },
                    Action::ReadBlocks { .. } => Answer::Blocks(Vec::new()),
                    Action::Export => Answer::Exported { header: Bytes::new(), blocks: 5 },
                    Action::ReadParts { .. } => Answer::Parts(vec![Bytes::from_static(b"p")]),
                    Action::PutOperations(_) => Answer::OperationsPut(Vec::new()),
                    Action::Put(_) => Answer::Put { applied: nothing, declined: Vec::new() },
                    Action::Retire(_) => Answer::Retired(false),
                    Action::Consider(_) => Answer::Considered(true),
                    Action::Stage(_) => Answer::Staged(vec![(0, 3)]),
                    Action::StageParts(_) => Answer::PartsStaged,
                    Action::Join => Answer::Joined(nothing),
                };
                if session.handle_answer(answer).is_err() {
                    return Ok(());
                }
            }
            for _ in 0..100 {
                if session.poll_output(0).is_none() {
                    break;
                }
            }
            prop_assert!(session.poll_output(0).is_none(), "a message does not set off a hundred");
        }
    }

    #[test]
    fn no_bytes_are_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0u8..20, body in prop::collection::vec(any::<u8>(), 0..120)) {
        let (mut session, _) = begun();
        let _ = session.handle_input(0, &bytes);
        let (mut session, _) = begun();
        let framed = [((body.len() + 1) as u32).to_be_bytes().as_slice(), &[kind], &body].concat();
        let outcome = session.handle_input(0, &framed);
        prop_assert!(outcome.is_err() || (2..18).contains(&kind), "kind {} is none", kind);
        let reply = pairing::decode::<pairing::Reply>(&body);
        if let Ok(reply) = reply {
            prop_assert_eq!(pairing::decode(&pairing::encode(&reply).expect("writes")[4..]), Ok(reply));
        }
    }
}
