//! A store that fails on purpose: what was acknowledged stands, what is read is right or an error.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use isle_blobs::testing::{FaultPlan, Faults};
use isle_blobs::{Frame, Head, OperationKind, Remote, RemoteError, RemoteOptions, SegmentRef};
use proptest::prelude::*;

use crate::support::{group, segment, site};

fn patient() -> RemoteOptions {
    let mut options = RemoteOptions::default();
    options.retries = 12;
    options
}

fn hasty() -> RemoteOptions {
    let mut options = RemoteOptions::default();
    options.retries = 0;
    options
}

/// A clean handle, and a faulty one on the same objects.
fn faulty(seed: u64, plan: FaultPlan, options: &RemoteOptions) -> (Remote, Remote, Faults) {
    let clean = Remote::in_memory();
    let (remote, faults) = clean.with_faults(seed, plan, Some(options));
    (clean, remote, faults)
}

/// A part that a put has left would be believed for ever: nobody puts again what stands there.
#[tokio::test(start_paused = true)]
async fn what_a_torn_put_has_left_is_written_over() {
    let content = b"a chunk of some length ".repeat(1_000);
    let hash = *blake3::hash(&content).as_bytes();
    let operation = Bytes::from(vec![7; 500]);
    let mut torn = 0;
    for seed in 0..20 {
        let (clean, remote, faults) = faulty(seed, FaultPlan { torn: 400, ..FaultPlan::NONE }, &patient());
        let name = remote.chunk_name("gguf", &hash);
        for step in 0..2 {
            // In the second step all that was tried before has failed for good, and somebody comes again.
            faults.plan(FaultPlan { torn: if step == 0 { 1_000 } else { 400 }, ..FaultPlan::NONE });
            let chunk = remote.put_chunk(&name, &content, false).await;
            let put = remote.put_operation(OperationKind::Schema, [9; 16], &operation).await;
            let made = remote.put_segment(site(1), 0, 1, &segment(&[Frame::header(site(1), 1, vec![1; 500])])).await;
            if step == 0 {
                assert!(chunk.is_err() && put.is_err() && made.is_err(), "{chunk:?} {put:?} {made:?}");
                continue;
            }
            assert!(chunk.expect("put") > 0, "it stood there in part only");
            assert_eq!(clean.get_chunk(&name, &hash, content.len()).await.expect("read"), content);
            assert_eq!(put.expect("put"), operation);
            assert_eq!(clean.get_operation(OperationKind::Schema, [9; 16]).await.expect("read"), operation);
            clean.get_segment(site(1), &made.expect("put")).await.expect("read");
        }
        torn += faults.count().torn;
    }
    assert!(torn > 100, "{torn}");
}

#[tokio::test(start_paused = true)]
async fn retries_carry_all_operations_through_a_troubled_store() {
    let mut truncated = 0;
    for seed in 0..20 {
        let (clean, remote, faults) = faulty(seed, FaultPlan::troubled(150), &patient());
        assert_eq!(remote.create_group(&group(1)).await.expect("created"), group(1));
        for version in 1..20 {
            let made = segment(&[Frame::header(site(1), version, vec![version as u8; 50])]);
            let put = remote.put_segment(site(1), 0, version, &made).await.expect("put");
            assert_eq!(&remote.get_segment(site(1), &put).await.expect("read"), made.bytes());
            let mut head = Head::new(site(1), "");
            head.last_version = version;
            remote.put_head(&head).await.expect("put");
            assert_eq!(clean.get_head(site(1)).await.expect("read").expect("present").0, head);
            let schema = remote
                .put_operation(OperationKind::Schema, [version as u8; 16], &Bytes::from(vec![1; 9]))
                .await
                .expect("put");
            assert_eq!(schema, vec![1; 9]);
            remote.delete_segment(site(1), &put).await.expect("deleted");
        }
        let count = faults.count();
        truncated += count.truncated;
        assert!(count.errors_before > 0 && count.errors_after > 0 && count.throttled > 0, "{count:?}");
    }
    assert!(truncated > 0);
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_meets_the_same_faults() {
    let run = async |seed| {
        let (_, remote, faults) = faulty(seed, FaultPlan { bit_flip: 100, ..FaultPlan::troubled(200) }, &hasty());
        let mut outcomes = Vec::new();
        for version in 0..60 {
            let mut head = Head::new(site(version % 3), "");
            head.last_version = u64::from(version);
            outcomes.push(remote.put_head(&head).await.map_err(|error| error.to_string()).is_ok());
            outcomes.push(remote.get_head(site(1)).await.is_ok());
            outcomes.push(remote.list_heads().await.is_ok());
        }
        (outcomes, faults.count())
    };
    assert_eq!(run(7).await, run(7).await);
    assert_ne!(run(7).await, run(8).await);
}

#[tokio::test]
async fn a_put_that_took_effect_and_failed_is_found_standing() {
    let plan = FaultPlan { error_after: 1000, ..FaultPlan::NONE };
    let (clean, remote, faults) = faulty(1, plan, &hasty());
    let made = segment(&[Frame::header(site(1), 1, &b"x"[..])]);
    let put = remote.put_segment(site(1), 0, 1, &made).await.expect("found by a HEAD");
    assert_eq!(faults.count().errors_after, 1);
    assert_eq!(&clean.get_segment(site(1), &put).await.expect("read"), made.bytes());
    assert_eq!(remote.traffic().requests, 2);
    assert_eq!(remote.create_group(&group(1)).await.expect("found"), group(1));
}

#[tokio::test]
async fn a_failed_head_put_is_an_error_and_leaves_the_old_or_the_new_head() {
    let (clean, remote, faults) = faulty(1, FaultPlan::NONE, &hasty());
    let old = Head::new(site(1), "");
    remote.put_head(&old).await.expect("put");
    let mut new = old.clone();
    new.last_version = 1;
    faults.plan(FaultPlan { error_before: 1000, ..FaultPlan::NONE });
    let error = remote.put_head(&new).await.expect_err("fails");
    assert!(matches!(error, RemoteError::Unreachable { .. }) && error.is_transient(), "{error:?}");
    assert_eq!(clean.get_head(site(1)).await.expect("read").expect("present").0, old);
    faults.plan(FaultPlan { error_after: 1000, ..FaultPlan::NONE });
    remote.put_head(&new).await.expect_err("fails");
    assert_eq!(clean.get_head(site(1)).await.expect("read").expect("present").0, new);
    faults.plan(FaultPlan { throttle: 1000, ..FaultPlan::NONE });
    let error = remote.put_head(&new).await.expect_err("fails");
    assert!(matches!(error, RemoteError::Throttled { .. }) && error.is_transient(), "{error:?}");
}

#[tokio::test]
async fn spoiled_reads_are_read_again_and_then_called_damaged() {
    let (_, remote, faults) = faulty(3, FaultPlan::NONE, &hasty());
    let made = segment(&[Frame::header(site(1), 1, vec![7; 99])]);
    let put = remote.put_segment(site(1), 0, 1, &made).await.expect("put");
    remote.put_head(&Head::new(site(1), "")).await.expect("put");
    remote.put_operation(OperationKind::Schema, [1; 16], &Bytes::from_static(b"ddl")).await.expect("put");
    faults.plan(FaultPlan { bit_flip: 1000, ..FaultPlan::NONE });
    let error = remote.get_segment(site(1), &put).await.expect_err("flipped");
    assert!(matches!(error, RemoteError::Corrupt { .. }) && !error.is_transient(), "{error:?}");
    assert!(error.key().is_some_and(|key| key.ends_with(&put.name)));
    assert_eq!(faults.count().bit_flips, 2);
    remote.get_operation(OperationKind::Schema, [1; 16]).await.expect_err("flipped");
    remote.get_head(site(1)).await.expect_err("flipped");
    faults.plan(FaultPlan { truncate: 1000, ..FaultPlan::NONE });
    let error = remote.get_segment(site(1), &put).await.expect_err("cut");
    assert!(matches!(error, RemoteError::Corrupt { .. }), "{error:?}");
    faults.plan(FaultPlan::NONE);
    remote.get_segment(site(1), &put).await.expect("whole");
}

#[tokio::test]
async fn rolled_back_heads_and_late_listings_can_be_staged() {
    let (_, remote, faults) = faulty(4, FaultPlan::NONE, &hasty());
    let mut head = Head::new(site(1), "");
    remote.put_head(&head).await.expect("put");
    head.last_version = 9;
    remote.put_head(&head).await.expect("put");
    remote.put_head(&Head::new(site(2), "")).await.expect("put");
    assert!(faults.roll_back(&site(1).to_string()));
    assert_eq!(remote.get_head(site(1)).await.expect("read").expect("present").0.last_version, 0);
    faults.roll_forward();
    assert_eq!(remote.get_head(site(1)).await.expect("read").expect("present").0.last_version, 9);
    faults.plan(FaultPlan { late_listing: 1000, late_entries: 1, ..FaultPlan::NONE });
    let listed = remote.list_heads().await.expect("listed");
    assert_eq!(listed.iter().map(|head| head.site).collect::<Vec<_>>(), [site(1)]);
}

#[tokio::test(start_paused = true)]
async fn retries_end_with_their_time() {
    let mut options = patient();
    options.retries = 1_000_000;
    options.retry_elapsed_max = Duration::ZERO;
    let (_, remote, _) = faulty(5, FaultPlan { throttle: 1000, ..FaultPlan::NONE }, &options);
    remote.list_heads().await.expect_err("throttled");
    assert_eq!(remote.traffic().requests, 1);
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8),
    Get(u8),
    Delete(u8),
}

fn step() -> impl Strategy<Value = Step> {
    (0u8..3, 0u8..6).prop_map(|(kind, n)| match kind {
        0 => Step::Put(n),
        1 => Step::Get(n),
        _ => Step::Delete(n),
    })
}

/// What may be true of a segment.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Belief {
    There,
    Gone,
    Unknown,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_acknowledged_holds_under_any_faults(
        seed: u64, permille in 0u32..400, steps in prop::collection::vec(step(), 1..40)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let plan = FaultPlan { bit_flip: permille, ..FaultPlan::troubled(permille) };
            let (_, remote, _) = faulty(seed, plan, &hasty());
            let mut model: BTreeMap<u8, Belief> = BTreeMap::new();
            for step in steps {
                let (Step::Put(n) | Step::Get(n) | Step::Delete(n)) = step;
                let made = segment(&[Frame::header(site(n), 1, vec![n; 40])]);
                let name = format!("{:016x}-{}", 1, blake3::hash(made.bytes()).to_hex());
                let (bytes, contents) = (made.bytes().len() as u64, made.contents().to_vec());
                let reference = SegmentRef { epoch: 0, name, bytes, contents };
                let belief = model.entry(n).or_insert(Belief::Gone);
                match step {
                    Step::Put(_) => match remote.put_segment(site(n), 0, 1, &made).await {
                        Ok(put) => {
                            assert_eq!(put, reference);
                            *belief = Belief::There;
                        }
                        Err(_) if *belief == Belief::There => {}
                        Err(_) => *belief = Belief::Unknown,
                    },
                    Step::Delete(_) => match remote.delete_segment(site(n), &reference).await {
                        Ok(()) => *belief = Belief::Gone,
                        Err(_) if *belief == Belief::Gone => {}
                        Err(_) => *belief = Belief::Unknown,
                    },
                    Step::Get(_) => match remote.get_segment(site(n), &reference).await {
                        Ok(read) => {
                            assert_eq!(&read, made.bytes());
                            assert_ne!(*belief, Belief::Gone);
                        }
                        Err(RemoteError::Missing { .. }) => assert_ne!(*belief, Belief::There),
                        Err(_) => {}
                    },
                }
            }
        });
    }
}
