//! What sessions bring about.

use bytes::Bytes;
use isle_protocol::{OpKind, SessionError};
use proptest::prelude::*;

use crate::link::World;
use crate::model::site;

fn block(n: usize) -> Bytes {
    Bytes::from(vec![7; n])
}

/// Whether all replicas have applied the same, each in an order in which causes come first (the model panics otherwise).
fn agree(world: &World) -> bool {
    world.replicas.windows(2).all(|pair| pair[0].applied == pair[1].applied && pair[0].operations == pair[1].operations)
}

#[test]
fn two_replicas_exchange_what_each_lacks_and_fall_silent() {
    let mut world = World::new(2, &[(0, 1)], 1);
    (0..5).for_each(|_| world.write(0, &[block(100)]));
    (0..3).for_each(|_| world.write(1, &[block(100), block(50), block(20)]));
    world.connect();
    world.settle();
    assert!(agree(&world) && world.is_caught_up(0), "{:?}", world.replicas);
    let all = world.replicas[0].applied.clone();
    for side in 0..2 {
        assert_eq!(*world.session(0, side).peer_applied(), all, "each knows what the other has");
    }
    let before = world.bytes[0];
    world.settle();
    assert_eq!(world.bytes[0], before);
    for side in 0..2 {
        assert_eq!(world.session(0, side).poll_timeout(), None, "an idle session waits for nothing");
    }
    world.write(0, &[block(10)]);
    world.settle();
    assert!(agree(&world));
}

#[test]
fn a_change_goes_down_a_line_once_per_link() {
    let links: Vec<(usize, usize)> = (0..19).map(|n| (n, n + 1)).collect();
    let mut world = World::new(20, &links, 3);
    world.connect();
    world.settle();
    let before: u64 = world.bytes.iter().sum();
    for _ in 0..20 {
        world.write(0, &[block(1_000)]);
        world.settle();
    }
    assert!(agree(&world));
    assert!(world.replicas.iter().all(|replica| replica.came.values().all(|times| *times == 1)));
    // Nor does it come back while much is under way.
    for _ in 0..30 {
        world.write(0, &[block(1_000)]);
        world.write(19, &[block(1_000)]);
        world.run(40);
    }
    world.settle();
    assert!(agree(&world));
    assert!(world.replicas.iter().all(|replica| replica.came.values().all(|times| *times == 1)));
    let sent: u64 = world.bytes.iter().sum::<u64>() - before;
    let least = 19 * 80 * 1_000;
    assert!(sent * 10 < least * 13, "{sent} bytes for {least}");
}

#[test]
fn in_a_ring_a_change_meets_itself_once() {
    let links: Vec<(usize, usize)> = (0..20).map(|n| (n, (n + 1) % 20)).collect();
    for seed in 0..5 {
        let mut world = World::new(20, &links, seed);
        world.connect();
        world.settle();
        world.write(4, &[block(1_000)]);
        world.settle();
        assert!(agree(&world));
        let twice: u32 = world
            .replicas
            .iter()
            .flat_map(|replica| replica.came.iter())
            .filter(|((.., n), _)| n.is_none())
            .map(|(_, n)| n - 1)
            .sum();
        assert!(twice <= 2, "{twice} of 20 came twice");
    }
}

#[test]
fn a_cut_within_a_large_changeset_costs_no_block_twice() {
    let mut world = World::new(2, &[(0, 1)], 5);
    let blocks: Vec<Bytes> = (0..60).map(|n| Bytes::from(vec![n; 300_000])).collect();
    world.write(0, &blocks);
    let mut cuts = 0;
    world.connect();
    while !agree(&world) {
        world.run(120);
        if cuts < 4 {
            world.cut(0);
            cuts += 1;
        }
        world.connect();
    }
    assert_eq!(cuts, 4);
    // Blocks that were on their way when the link broke are sent again, others are not.
    let came: u32 = world.replicas[1].came.iter().filter(|((.., n), _)| n.is_some()).map(|(_, n)| n).sum();
    assert_eq!(came, 60);
    assert!(world.replicas[1].largest_put <= 10 << 20, "memory is bounded by the window");
}

#[test]
fn what_the_log_has_no_more_comes_as_a_snapshot() {
    for seed in 0..20 {
        let mut world = World::new(2, &[(0, 1)], seed);
        (0..30).for_each(|_| world.write(0, &[block(10)]));
        world.replicas[0].prune();
        (0..3).for_each(|_| world.write(0, &[block(10)]));
        world.write(1, &[block(10)]);
        world.connect();
        if seed % 2 == 1 {
            // Cut off somewhere, and begun again.
            world.run(40 + 5 * seed);
            world.cut(0);
            world.connect();
        }
        world.settle();
        assert!(agree(&world) && world.is_caught_up(0), "seed {seed}: {:?}", world.replicas);
        assert_eq!((world.replicas[0].snapshots, world.replicas[1].snapshots), (0, 1));
    }
}

#[test]
fn operations_come_before_and_later() {
    let mut world = World::new(3, &[(0, 1), (1, 2)], 9);
    let operation = |n: u8| (OpKind::Schema, [n; 16]);
    world.replicas[0].operations.insert(operation(1), Bytes::from(vec![1; 40]));
    world.replicas[2].operations.insert((OpKind::Member, [2; 16]), Bytes::from(vec![2; 40]));
    world.connect();
    world.settle();
    assert!(world.replicas[1].operations.len() == 2);
    // A session tells what comes up later when it is told.
    let new = isle_protocol::Operation { kind: OpKind::Schema, bytes: Bytes::from(vec![3; 40]) };
    world.replicas[0].operations.insert(operation(3), new.bytes.clone());
    world.session(0, 0).handle_operations(vec![([3; 16], new)]);
    world.settle();
    assert!(world.replicas[1].operations.contains_key(&operation(3)));
}

#[test]
fn a_site_that_is_refused_costs_the_others_nothing() {
    let mut world = World::new(3, &[(0, 1), (1, 2)], 11);
    (0..10).for_each(|_| world.write(0, &[block(10)]));
    (0..10).for_each(|_| world.write(1, &[block(10)]));
    world.replicas[2].refuses.insert(site(1));
    world.connect();
    world.settle();
    // What 2 wrote after it had seen what 1 wrote waits; what it wrote before is there.
    assert_eq!(world.replicas[2].applied.get(site(2)), 10);
    assert_eq!(world.replicas[2].applied.get(site(1)), 0);
    assert!(world.outcome(1, 0).is_none() && world.is_caught_up(1));
    let before = world.bytes[1];
    world.write(0, &[block(100_000)]);
    world.settle();
    assert!(world.bytes[1] - before < 1_000, "nothing of that site is sent any more");
}

#[test]
fn a_copy_and_an_older_state_are_noticed_before_they_send() {
    let mut world = World::new(2, &[(0, 1)], 13);
    (0..3).for_each(|_| world.write(0, &[block(10)]));
    let old = world.replicas[0].clone();
    world.write(0, &[block(10)]);
    world.connect();
    world.settle();
    world.cut(0);
    // The file is put back to what it was, and written to.
    world.replicas[0] = old;
    world.replicas[0].write(&[block(11)]);
    world.connect();
    world.settle();
    assert!(matches!(world.outcome(0, 0), Some(SessionError::Fork { version: 4 })), "{:?}", world.outcome(0, 0));
    assert!(matches!(world.outcome(0, 1), Some(SessionError::Closed { .. })));
    let mut twins = World::new(2, &[(0, 1)], 14);
    twins.replicas[1].n = 1;
    twins.connect();
    twins.settle();
    assert!(matches!(twins.outcome(0, 0), Some(SessionError::SameSite | SessionError::Closed { .. })));
}

#[test]
fn two_histories_of_one_site_are_noticed_by_those_who_have_them() {
    // 0 is put back to an old state with all its records, and tells each of its peers another second version.
    let mut world = World::new(3, &[(0, 1), (0, 2), (1, 2)], 19);
    world.write(0, &[block(10)]);
    let old = world.replicas[0].clone();
    world.write(0, &[block(20)]);
    world.connect();
    [1, 2].into_iter().for_each(|link| world.cut(link));
    world.settle();
    world.cut(0);
    world.replicas[0] = old;
    world.write(0, &[block(30)]);
    world.connect();
    [0, 2].into_iter().for_each(|link| world.cut(link));
    world.settle();
    world.cut(1);
    world.write(1, &[block(5)]);
    world.connect();
    [0, 1].into_iter().for_each(|link| world.cut(link));
    world.settle();
    assert!(world.replicas[1].forked.contains(&site(1)) || world.replicas[2].forked.contains(&site(1)));
    assert!(world.outcomes(2).iter().all(Option::is_none), "the session goes on for the others");
}

#[test]
fn who_comes_from_below_the_floor_listens_before_it_speaks() {
    let mut world = World::new(2, &[(0, 1)], 17);
    (0..40).for_each(|_| world.write(0, &[block(50_000)]));
    world.replicas[0].floor = [(site(1), 30)].into_iter().collect();
    world.write(1, &[block(10)]);
    world.connect();
    world.settle();
    assert!(agree(&world) && world.is_caught_up(0));
    let restated = world.replicas[1].restated.as_ref().expect("asked");
    assert!(restated.get(site(1)) >= 30 && world.replicas[0].restated.is_none());
}

#[test]
fn a_retired_replica_is_told() {
    let mut world = World::new(2, &[(0, 1)], 15);
    world.replicas[0].retired.insert(site(2), 0);
    world.connect();
    world.settle();
    assert_eq!(world.outcome(0, 1), Some(&SessionError::Retired));
    assert!(matches!(world.outcome(0, 0), Some(SessionError::Closed { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Whatever is written where and when, whichever links break: when all links hold, all agree, and no session failed.
    #[test]
    fn all_agree_in_the_end(seed in any::<u64>(), shape in 0usize..4, writes in prop::collection::vec((0usize..5, 0usize..5, 0u64..60, 0u8..8), 1..30)) {
        let links: Vec<(usize, usize)> = match shape {
            0 => (0..4).map(|n| (n, n + 1)).collect(),
            1 => (1..5).map(|n| (0, n)).collect(),
            2 => (0..5).map(|n| (n, (n + 1) % 5)).collect(),
            _ => (0..5).flat_map(|a| (0..a).map(move |b| (a, b))).collect(),
        };
        let mut world = World::new(5, &links, seed);
        world.connect();
        for (replica, blocks, steps, then) in writes {
            let blocks: Vec<Bytes> = (0..=blocks).map(|n| block(n * 700 + 1)).collect();
            world.write(replica, &blocks);
            world.run(steps);
            match then {
                0 => world.cut(steps as usize % links.len()),
                1 => { let n = steps as usize % 5; world.replicas[n].prune(); }
                2 => world.connect(),
                _ => {}
            }
        }
        world.connect();
        world.settle();
        // A changeset that leaves the log while it is sent ends a session; the next one knows.
        for _ in 0..links.len() {
            for link in 0..links.len() {
                if world.outcomes(link).iter().any(|outcome| matches!(outcome, Some(SessionError::Gone { .. }))) {
                    world.cut(link);
                }
            }
            world.connect();
            world.settle();
        }
        for link in 0..links.len() {
            prop_assert_eq!(world.outcomes(link), [None, None]);
            let ends = world.show(link);
            prop_assert!(world.is_caught_up(link), "{}", ends);
        }
        prop_assert!(agree(&world), "{:#?}", world.replicas.iter().map(|r| &r.applied).collect::<Vec<_>>());
    }
}
