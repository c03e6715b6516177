//! Connections over loopback: who gets one and who does not.

#![allow(clippy::expect_used, clippy::panic, reason = "helpers of tests fail by panicking, as tests do")]

use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use isle_identity::DeviceSecret;
use isle_transport::{CloseCode, Connection, Endpoint, TransportError, own_addresses, resolve};

fn secret(n: u8) -> DeviceSecret {
    DeviceSecret::from_seed([n; 32]).expect("a key")
}

fn loopback() -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0)
}

/// An endpoint that others may call, and one that dials.
fn pair() -> (Endpoint, Endpoint, SocketAddr) {
    let server = Endpoint::listen(&secret(1), loopback()).expect("listens");
    let address = server.local_address().expect("an address");
    (server, Endpoint::dial_only(&secret(2)).expect("dials"), address)
}

async fn connected() -> (Connection, Connection, Endpoint, Endpoint) {
    let (server, client, address) = pair();
    let accepting = async { server.accept().await.expect("a caller").connection().await };
    let (there, here) = tokio::join!(accepting, client.dial(address, secret(1).key()));
    (there.expect("let in"), here.expect("connects"), server, client)
}

#[tokio::test]
async fn both_ends_know_the_key_of_the_other() {
    let (there, here, ..) = connected().await;
    assert_eq!((there.key(), here.key()), (secret(2).key(), secret(1).key()));
    assert!(there.address().ip().is_loopback() && there.address().is_ipv4());
}

#[tokio::test]
async fn bytes_go_both_ways_and_an_end_is_seen() {
    let (there, here, ..) = connected().await;
    let mine = async {
        let (mut send, mut receive) = here.open().await.expect("opens").split();
        send.send(Bytes::from_static(b"ping")).await.expect("sends");
        let mut back = [0; 4];
        receive.receive_exactly(&mut back).await.expect("receives");
        send.finish().await;
        back
    };
    let theirs = async {
        let (mut send, mut receive) = there.accept().await.expect("open").expect("a stream").split();
        let mut ping = [0; 4];
        receive.receive_exactly(&mut ping).await.expect("receives");
        send.send(Bytes::from_static(b"pong")).await.expect("sends");
        (ping, receive.receive(10).await.expect("the end"))
    };
    let (back, (ping, end)) = tokio::join!(mine, theirs);
    assert_eq!((&back, &ping, end), (b"pong", b"ping", None));
}

#[tokio::test]
async fn another_device_at_the_address_is_not_talked_to() {
    let (server, client, address) = pair();
    let accepting = async { server.accept().await.expect("a caller").connection().await };
    let (there, here) = tokio::join!(accepting, client.dial(address, secret(3).key()));
    assert!(matches!(there, Err(TransportError::Handshake { .. })));
    match here {
        Err(error @ TransportError::Unreachable { .. }) => {
            assert!(error.to_string().contains(&secret(1).key().short()), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_closed_connection_says_why() {
    let (there, here, ..) = connected().await;
    there.close(CloseCode::Unknown, "this device does not belong to the group");
    assert!(here.accept().await.is_err(), "that is no hanging up");
    let reason = here.closed().await.to_string();
    assert!(reason.contains("does not belong"), "{reason}");
    assert!(here.open().await.is_err());
}

#[tokio::test]
async fn what_is_no_handshake_leaves_others_alone() {
    let (server, client, address) = pair();
    let noise = tokio::net::UdpSocket::bind(loopback()).await.expect("a socket");
    for n in 0..200u32 {
        let bytes: Vec<u8> = (0..(n * 7 % 1400)).map(|i| (i * n) as u8 ^ 0xc3).collect();
        noise.send_to(&bytes, address).await.expect("sends");
    }
    let accepting = async { server.accept().await.expect("a caller").connection().await };
    let (there, here) = tokio::join!(accepting, client.dial(address, secret(1).key()));
    assert!(there.is_ok() && here.is_ok());
}

#[tokio::test]
async fn addresses_are_read_as_people_write_them() {
    assert_eq!(resolve("10.0.0.7").await.expect("v4"), ["10.0.0.7:4753".parse().expect("an address")]);
    assert_eq!(resolve("[::1]").await.expect("v6"), ["[::1]:4753".parse().expect("an address")]);
    assert_eq!(resolve("[::1]:9").await.expect("v6"), ["[::1]:9".parse().expect("an address")]);
    assert!(resolve("localhost:80").await.expect("a name").iter().all(|address| address.ip().is_loopback()));
    assert!(matches!(resolve("no such name").await, Err(TransportError::Address { .. })));
    assert!(own_addresses(7).iter().all(|address| address.port() == 7) && !own_addresses(7).is_empty());
}
