//! What is particular to buckets: signatures, pages, time, broken connections, races.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use bytes::Bytes;
use isle_blobs::{Credentials, Frame, Head, OperationKind, Remote, RemoteError};
use isle_test_s3::{Behaviour, S3Server};

use crate::support::{full_head, group, open, s3_options, segment, site, start};

#[tokio::test]
async fn a_small_push_is_one_put_and_an_idle_poll_one_list() {
    let server = start(Behaviour::default());
    let remote = open(&server, &s3_options());
    remote.put_head(&full_head(1)).await.expect("put");
    let seen = server.seen();
    assert_eq!((seen.requests, seen.puts), (1, 1));
    remote.list_heads().await.expect("listed");
    let seen = server.seen();
    assert_eq!((seen.requests, seen.lists), (2, 1));
    assert_eq!(server.keys(), [format!("team/app/head/{}", site(1))]);
    let traffic = remote.traffic();
    assert_eq!(traffic.requests, 2);
    assert_eq!(traffic.uploaded_bytes, seen.received_bytes);
}

#[tokio::test]
async fn the_version_that_a_store_gives_a_head_is_told() {
    let versioned = start(Behaviour { versioned: true, ..Behaviour::default() });
    let remote = open(&versioned, &s3_options());
    let first = remote.put_head(&full_head(1)).await.expect("put");
    let second = remote.put_head(&full_head(1)).await.expect("put");
    assert!(first.version_id.is_some() && first.version_id != second.version_id, "{first:?} {second:?}");
    let plain = start(Behaviour::default());
    let put = open(&plain, &s3_options()).put_head(&full_head(1)).await.expect("put");
    assert_eq!(put.version_id, None);
}

#[tokio::test]
async fn listings_go_on_over_pages() {
    let server = start(Behaviour { page_entries: Some(3), ..Behaviour::default() });
    let remote = open(&server, &s3_options());
    for n in 0..10 {
        remote.put_head(&Head::new(site(n), "")).await.expect("put");
    }
    let before = remote.traffic().requests;
    assert_eq!(remote.list_heads().await.expect("listed").len(), 10);
    assert_eq!(server.seen().lists, 4);
    assert_eq!(remote.traffic().requests - before, 4);
}

#[tokio::test]
async fn wrong_keys_are_denied_and_not_shown() {
    let server = start(Behaviour::default());
    let secret = "not-the-secret-of-that-key-9876";
    for access_key in [S3Server::ACCESS_KEY, "SOMEBODYELSE"] {
        let mut options = s3_options();
        options.credentials = Some(Credentials::new(access_key, secret));
        let remote = open(&server, &options);
        let errors = [
            remote.group().await.expect_err("denied"),
            remote.list_heads().await.expect_err("denied"),
            remote.put_head(&Head::new(site(1), "")).await.expect_err("denied"),
            remote.create_group(&group(1)).await.expect_err("denied"),
        ];
        for error in errors {
            assert!(matches!(error, RemoteError::Denied { .. }), "{error:?}");
            let source = std::error::Error::source(&error).expect("a source").to_string();
            let text = format!("{error} {error:?} {source} {remote:?}");
            assert!(!text.contains(secret) && !text.contains(access_key), "{text}");
            assert!(error.to_string().contains("check the credentials"), "{error}");
        }
        // A refusal is not tried again.
        assert!(remote.traffic().requests <= 5, "{:?}", remote.traffic());
    }
    assert_eq!(server.keys(), Vec::<String>::new());
}

/// A server that says back what it was told, and more.
#[tokio::test]
async fn credentials_that_a_server_echoes_are_not_shown() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let body = format!("<Code>Odd</Code>{}/{}/TOKEN-123", S3Server::ACCESS_KEY, S3Server::SECRET_KEY);
    let answer = format!("HTTP/1.1 400 Bad\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let read = stream.read(&mut [0; 8192]).expect("a request");
        assert!(read > 0);
        stream.write_all(answer.as_bytes()).expect("answered");
    });
    let mut options = s3_options();
    options.endpoint = Some(endpoint);
    if let Some(credentials) = &mut options.credentials {
        credentials.session_token = Some("TOKEN-123".into());
    }
    let remote = Remote::open("s3://bucket/x", &options).expect("a remote");
    let error = remote.get_head(site(1)).await.expect_err("rejected");
    server.join().expect("answered");
    assert!(matches!(error, RemoteError::Rejected { status: 400, .. }), "{error:?}");
    let text = format!("{error} {error:?}");
    assert!(text.contains("Odd") && text.contains("(redacted)/(redacted)/(redacted)"), "{text}");
    assert!(!text.contains(S3Server::ACCESS_KEY) && !text.contains(S3Server::SECRET_KEY), "{text}");
    assert!(!text.contains("TOKEN-123"), "{text}");
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_named() {
    let server = start(Behaviour::default());
    let url = format!("s3://elsewhere/x?endpoint={}", server.endpoint());
    let remote = Remote::open(&url, &s3_options()).expect("a remote");
    for error in [
        remote.list_heads().await.expect_err("no bucket"),
        remote.group().await.expect_err("no bucket"),
        remote.put_head(&Head::new(site(1), "")).await.expect_err("no bucket"),
    ] {
        assert!(matches!(error, RemoteError::NoBucket { .. }), "{error:?}");
        assert!(error.to_string().contains("s3://elsewhere/x at http://127.0.0.1"), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_hangs_fails_at_the_configured_time() {
    let server = start(Behaviour { hang_every: Some(1), ..Behaviour::default() });
    let mut options = s3_options();
    options.request_timeout = Duration::from_millis(300);
    options.retries = 0;
    let remote = open(&server, &options);
    let began = Instant::now();
    let error = remote.list_heads().await.expect_err("hangs");
    assert!(matches!(error, RemoteError::Timeout { limit_ms: 300, .. }), "{error:?}");
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(300) && took < Duration::from_millis(2000), "{took:?}");

    let began = Instant::now();
    let error = remote.get_head(site(1)).await.expect_err("hangs");
    assert!(matches!(error, RemoteError::Timeout { limit_ms: 300, .. }), "{error:?}");
    // A put whose outcome is unknown asks once more.
    let error = remote.put_segment(site(1), 0, 1, &segment(&[])).await.expect_err("hangs");
    assert!(matches!(error, RemoteError::Timeout { .. }) && error.is_transient(), "{error:?}");
    assert!(error.to_string().contains("request_timeout"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_unreachable() {
    let server = start(Behaviour::default());
    let mut options = s3_options();
    options.retries = 1;
    let remote = open(&server, &options);
    let endpoint = server.endpoint();
    drop(server);
    let error = remote.list_heads().await.expect_err("refused");
    assert!(matches!(error, RemoteError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains(&endpoint), "{error}");
    assert_eq!(remote.traffic().requests, 2);
}

/// A session's worth of operations, checked against the server's own view.
async fn session(server: &S3Server, remote: &Remote) {
    assert_eq!(remote.create_group(&group(1)).await.expect("created"), group(1));
    for version in 1..=12u64 {
        let payload: Vec<u8> = (0..20_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let made = segment(&[Frame::block(site(1), version, 0, payload)]);
        let put = remote.put_segment(site(1), 0, version, &made).await.expect("put");
        let key = format!("team/app/log/{}/{:016x}/{}", site(1), 0, put.name);
        assert_eq!(server.object(&key).as_deref(), Some(&made.bytes()[..]));
        assert_eq!(&remote.get_segment(site(1), &put).await.expect("read"), made.bytes());
        let mut head = full_head(1);
        head.last_version = version;
        remote.put_head(&head).await.expect("put");
        assert_eq!(remote.get_head(site(1)).await.expect("read").expect("present").0, head);
        assert_eq!(remote.list_heads().await.expect("listed").len(), 1);
        remote
            .put_operation(OperationKind::Schema, [version as u8; 16], &Bytes::from_static(b"ddl"))
            .await
            .expect("put");
        remote.delete_segment(site(1), &put).await.expect("deleted");
    }
}

#[tokio::test]
async fn cut_connections_are_survived() {
    let server = start(Behaviour { cut_every: Some(3), ..Behaviour::default() });
    session(&server, &open(&server, &s3_options())).await;
}

#[tokio::test]
async fn throttling_is_survived_and_named_when_it_lasts() {
    let server = start(Behaviour { unavailable_every: Some(3), ..Behaviour::default() });
    let mut options = s3_options();
    session(&server, &open(&server, &options)).await;
    server.behave(Behaviour { unavailable_every: Some(1), ..Behaviour::default() });
    options.retries = 1;
    let remote = open(&server, &options);
    for error in [
        remote.list_heads().await.expect_err("throttled"),
        remote.get_head(site(1)).await.expect_err("throttled"),
        remote.put_head(&full_head(1)).await.expect_err("throttled"),
        remote.put_segment(site(1), 0, 1, &segment(&[])).await.expect_err("throttled"),
    ] {
        assert!(matches!(error, RemoteError::Throttled { .. }) && error.is_transient(), "{error:?}");
    }
}

#[tokio::test]
async fn a_large_segment_that_stands_already_is_no_error() {
    // The server answers 412 while the body still streams: a status, or a broken pipe.
    let server = start(Behaviour::default());
    let remote = open(&server, &s3_options());
    let noise: Vec<u8> = (0..500_000u64).flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()).collect();
    let made = segment(&[Frame::block(site(1), 1, 0, noise)]).with_bytes(Bytes::from(vec![5; 20 << 20]));
    let put = remote.put_segment(site(1), 0, 1, &made).await.expect("put");
    for _ in 0..3 {
        assert_eq!(remote.put_segment(site(1), 0, 1, &made).await.expect("stands"), put);
    }
}

#[tokio::test]
async fn a_large_segment_reaches_a_store_that_refuses_conditions() {
    // The refusal comes while the body streams and shows as a broken pipe, each time.
    let server = start(Behaviour { refuses_conditions: true, ..Behaviour::default() });
    let mut options = s3_options();
    options.retries = 1;
    let remote = open(&server, &options);
    for version in 0..4 {
        let made = segment(&[]).with_bytes(Bytes::from(vec![version; 20 << 20]));
        remote.put_segment(site(1), 0, u64::from(version), &made).await.expect("put");
    }
    assert_eq!(server.keys().len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_group_wins_a_race_and_all_learn_which() {
    for _ in 0..10 {
        let server = start(Behaviour::default());
        let creators = (0..8).map(|n| {
            let remote = open(&server, &s3_options());
            tokio::spawn(async move { remote.create_group(&group(n)).await.expect("created") })
        });
        let mut stood = Vec::new();
        for creator in creators.collect::<Vec<_>>() {
            stood.push(creator.await.expect("finished"));
        }
        let standing = open(&server, &s3_options()).group().await.expect("readable").expect("created");
        assert!(stood.iter().all(|object| *object == standing), "{stood:?}");
    }
}

#[tokio::test]
async fn a_read_of_many_bytes_beyond_the_bound_is_not_begun() {
    let server = start(Behaviour::default());
    let remote = open(&server, &s3_options());
    server.plant(&format!("team/app/head/{}", site(1)), vec![0; 8 << 20]);
    let error = remote.get_head(site(1)).await.expect_err("too large");
    assert!(matches!(error, RemoteError::TooLarge { bytes: 8_388_608, .. }), "{error:?}");
    assert_eq!(remote.traffic().downloaded_bytes, 0);
}
