//! Endpoints, connections and streams.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use isle_identity::{DeviceKey, DeviceSecret};
use quinn::{ConnectionError, TransportConfig, VarInt};

use crate::TransportError;
use crate::tls::{TlsIdentity, from_der};

/// A connection that is silent for so long ends.
pub const IDLE: Duration = Duration::from_secs(60);
/// How often the end that dialed sends a packet when there is nothing else to send.
pub const KEEP_ALIVE: Duration = Duration::from_secs(27);
/// Handshakes of callers that may be under way.
pub const HANDSHAKES_MAX: usize = 64;
/// From so many on a caller has to show that it can be reached at its address.
pub const RETRY_FROM: usize = 8;
const RESET_KEY: &str = "isle 2026 key of stateless resets of a device";
const IDS_KEY: &str = "isle 2026 key of connection ids of a device";
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Streams that a peer may have open.
const STREAMS_MAX: u32 = 4;
/// What may be on its way to this end, of a stream and of a connection, in bytes.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

/// Why this end closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseCode {
    /// All is said.
    Done,
    /// The other end does not belong here.
    Unknown,
    /// Something is wrong.
    Failed,
}

/// A UDP socket, from which this device dials and at which others may call.
#[derive(Debug, Clone)]
pub struct Endpoint {
    inner: quinn::Endpoint,
    identity: TlsIdentity,
    transport: Arc<TransportConfig>,
    handshakes: Arc<AtomicUsize>,
}

fn config(keep_alive: Option<Duration>) -> TransportConfig {
    let mut config = TransportConfig::default();
    config.max_idle_timeout(VarInt::from_u64(IDLE.as_millis() as u64).ok().map(quinn::IdleTimeout::from));
    config.keep_alive_interval(keep_alive);
    config.max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX));
    config.max_concurrent_uni_streams(VarInt::from_u32(0));
    config.datagram_receive_buffer_size(None);
    config.stream_receive_window(VarInt::from_u32(STREAM_WINDOW));
    config.receive_window(VarInt::from_u32(CONNECTION_WINDOW));
    config.send_window(u64::from(CONNECTION_WINDOW));
    config
}

/// A socket; one for all addresses of this machine serves both kinds.
fn bind(address: SocketAddr) -> std::io::Result<std::net::UdpSocket> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

impl Endpoint {
    /// An endpoint at an address at which others may call; port 0 takes any that is free.
    ///
    /// # Errors
    /// [`TransportError::Bind`], [`TransportError::Key`].
    pub fn listen(secret: &DeviceSecret, address: SocketAddr) -> Result<Endpoint, TransportError> {
        let identity = TlsIdentity::new(secret)?;
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(identity.server()?));
        server.transport_config(Arc::new(config(None)));
        server.max_incoming(HANDSHAKES_MAX);
        Endpoint::open(secret, identity, address, Some(server))
    }

    /// As [`Endpoint::listen`], at all addresses of this machine.
    ///
    /// # Errors
    /// As [`Endpoint::listen`].
    pub fn listen_everywhere(secret: &DeviceSecret, port: u16) -> Result<Endpoint, TransportError> {
        Endpoint::listen(secret, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)).or_else(|error| match error {
            // A machine without IPv6.
            TransportError::Bind { .. } => {
                Endpoint::listen(secret, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))
            }
            other => Err(other),
        })
    }

    /// An endpoint that only dials.
    ///
    /// # Errors
    /// As [`Endpoint::listen`].
    pub fn dial_only(secret: &DeviceSecret) -> Result<Endpoint, TransportError> {
        let identity = TlsIdentity::new(secret)?;
        let client = |ip: IpAddr| Endpoint::open(secret, identity.clone(), SocketAddr::new(ip, 0), None);
        client(Ipv6Addr::UNSPECIFIED.into()).or_else(|_| client(Ipv4Addr::UNSPECIFIED.into()))
    }

    fn open(
        secret: &DeviceSecret,
        identity: TlsIdentity,
        address: SocketAddr,
        server: Option<quinn::ServerConfig>,
    ) -> Result<Endpoint, TransportError> {
        let failed = |source| TransportError::Bind { address, source };
        // The same key after a restart: a device that was killed tells its peers so as soon as they say something, rather than by silence.
        let reset = blake3::derive_key(RESET_KEY, secret.seed());
        let reset = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &reset);
        let mut endpoint = quinn::EndpointConfig::new(Arc::new(reset));
        // Packets for the connections of before are known by their ids, and answered.
        let ids = blake3::derive_key(IDS_KEY, secret.seed());
        let ids = u64::from_le_bytes(ids[..8].try_into().unwrap_or_default());
        endpoint.cid_generator(move || Box::new(quinn_proto::HashedConnectionIdGenerator::from_key(ids)));
        let runtime = Arc::new(quinn::TokioRuntime);
        let socket = bind(address).map_err(failed)?;
        let inner = quinn::Endpoint::new(endpoint, server, socket, runtime).map_err(failed)?;
        let transport = Arc::new(config(Some(KEEP_ALIVE)));
        Ok(Endpoint { inner, identity, transport, handshakes: Arc::default() })
    }

    /// The address of the socket.
    ///
    /// # Errors
    /// [`TransportError::Closed`] when it has none.
    pub fn local_address(&self) -> Result<SocketAddr, TransportError> {
        self.inner.local_addr().map_err(|error| TransportError::Closed { reason: error.to_string() })
    }

    /// Dials the device with this key.
    ///
    /// # Errors
    /// [`TransportError::Unreachable`] when nobody answers there, or another device does.
    pub async fn dial(&self, address: SocketAddr, key: DeviceKey) -> Result<Connection, TransportError> {
        let failed = |reason: String| TransportError::Unreachable { key, address, reason };
        let mut client = quinn::ClientConfig::new(Arc::new(self.identity.client(key)?));
        client.transport_config(Arc::clone(&self.transport));
        let connecting = self.inner.connect_with(client, address, "isle").map_err(|error| failed(error.to_string()))?;
        let connected = tokio::time::timeout(HANDSHAKE, connecting).await;
        let connected = connected.map_err(|_| failed("nobody answers".to_owned()))?;
        let inner = connected.map_err(|error| failed(words(&error)))?;
        Connection::of(inner).ok_or_else(|| failed("it shows no key".to_owned()))
    }

    /// The next caller; `None` once the endpoint is closed.
    pub async fn accept(&self) -> Option<Arrival> {
        loop {
            let incoming = self.inner.accept().await?;
            let under_way = self.handshakes.load(Ordering::Relaxed);
            if under_way >= HANDSHAKES_MAX {
                incoming.ignore();
            } else if under_way >= RETRY_FROM && !incoming.remote_address_validated() {
                // What cannot be sent costs the caller a try.
                let _ = incoming.retry();
            } else {
                self.handshakes.fetch_add(1, Ordering::Relaxed);
                return Some(Arrival { incoming: Some(incoming), handshakes: Arc::clone(&self.handshakes) });
            }
        }
    }

    /// Ends all connections, and waits until the other ends were told or are known not to hear it.
    pub async fn close(&self) {
        self.inner.close(VarInt::from_u32(0), b"done");
        self.inner.wait_idle().await;
    }
}

/// A caller whose handshake has not begun yet.
#[derive(Debug)]
pub struct Arrival {
    incoming: Option<quinn::Incoming>,
    handshakes: Arc<AtomicUsize>,
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.handshakes.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Arrival {
    /// Finishes the handshake.
    ///
    /// # Errors
    /// [`TransportError::Handshake`] when the caller proves no key in time.
    pub async fn connection(mut self) -> Result<Connection, TransportError> {
        let ended = || TransportError::Closed { reason: "it was taken already".to_owned() };
        let incoming = self.incoming.take().ok_or_else(ended)?;
        let address = incoming.remote_address();
        let failed = |reason: String| TransportError::Handshake { address, reason };
        let connecting = incoming.accept().map_err(|error| failed(words(&error)))?;
        let connected = tokio::time::timeout(HANDSHAKE, connecting).await;
        let inner = connected.map_err(|_| failed("it took too long".to_owned()))?;
        let inner = inner.map_err(|error| failed(words(&error)))?;
        Connection::of(inner).ok_or_else(|| failed("it shows no key".to_owned()))
    }
}

/// Bytes and packets of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Bytes of UDP content sent.
    pub sent_bytes: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Datagrams sent.
    pub sent_packets: u64,
    /// Datagrams received.
    pub received_packets: u64,
}

/// A connection with a device that has proved its key.
#[derive(Debug, Clone)]
pub struct Connection {
    inner: quinn::Connection,
    key: DeviceKey,
}

impl Connection {
    fn of(inner: quinn::Connection) -> Option<Connection> {
        let identity = inner.peer_identity()?.downcast::<Vec<rustls::pki_types::CertificateDer<'static>>>().ok()?;
        let key = from_der(identity.first()?)?;
        Some(Connection { inner, key })
    }

    /// The key of the device at the other end.
    pub fn key(&self) -> DeviceKey {
        self.key
    }

    /// Where the other end is now.
    pub fn address(&self) -> SocketAddr {
        let address = self.inner.remote_address();
        SocketAddr::new(address.ip().to_canonical(), address.port())
    }

    /// What went over it.
    pub fn traffic(&self) -> Traffic {
        let stats = self.inner.stats();
        Traffic {
            sent_bytes: stats.udp_tx.bytes,
            received_bytes: stats.udp_rx.bytes,
            sent_packets: stats.udp_tx.datagrams,
            received_packets: stats.udp_rx.datagrams,
        }
    }

    /// Opens a stream; the other end sees it with the first bytes.
    ///
    /// # Errors
    /// [`TransportError::Closed`].
    pub async fn open(&self) -> Result<Stream, TransportError> {
        let (send, receive) = self.inner.open_bi().await.map_err(closed)?;
        Ok(Stream { send, receive })
    }

    /// The next stream that the other end opens; `None` if it hangs up, as one does that has reached this end at several addresses.
    ///
    /// # Errors
    /// [`TransportError::Closed`].
    pub async fn accept(&self) -> Result<Option<Stream>, TransportError> {
        match self.inner.accept_bi().await {
            Ok((send, receive)) => Ok(Some(Stream { send, receive })),
            Err(ConnectionError::ApplicationClosed(close)) if close.error_code == VarInt::from_u32(0) => Ok(None),
            Err(error) => Err(closed(error)),
        }
    }

    /// Ends the connection at once; what was not delivered yet may be lost.
    pub fn close(&self, code: CloseCode, reason: &str) {
        let code = match code {
            CloseCode::Done => 0u32,
            CloseCode::Unknown => 1,
            CloseCode::Failed => 2,
        };
        self.inner.close(VarInt::from_u32(code), reason.as_bytes());
    }

    /// Waits until the connection has ended, and says why.
    pub async fn closed(&self) -> TransportError {
        closed(self.inner.closed().await)
    }
}

/// An ordered stream of bytes each way.
#[derive(Debug)]
pub struct Stream {
    send: quinn::SendStream,
    receive: quinn::RecvStream,
}

impl Stream {
    /// Sends bytes.
    ///
    /// # Errors
    /// [`TransportError::Closed`].
    pub async fn send(&mut self, bytes: Bytes) -> Result<(), TransportError> {
        self.send.write_chunk(bytes).await.map_err(not_written)
    }

    /// The next byte.
    ///
    /// # Errors
    /// [`TransportError::Closed`], also at the end.
    pub async fn receive_byte(&mut self) -> Result<u8, TransportError> {
        let mut byte = [0];
        let read = self.receive.read_exact(&mut byte).await;
        read.map(|()| byte[0]).map_err(not_whole)
    }

    /// The two directions, to be used at the same time.
    pub fn split(self) -> (Sender, Receiver) {
        (Sender(self.send), Receiver(self.receive))
    }
}

/// The outgoing half of a [`Stream`].
#[derive(Debug)]
pub struct Sender(quinn::SendStream);

impl Sender {
    /// Sends bytes; waits while the other end does not take them.
    ///
    /// # Errors
    /// [`TransportError::Closed`].
    pub async fn send(&mut self, bytes: Bytes) -> Result<(), TransportError> {
        self.0.write_chunk(bytes).await.map_err(not_written)
    }

    /// Ends this direction, and waits until the other end has all of it, or is gone.
    pub async fn finish(&mut self) {
        if self.0.finish().is_ok() {
            // Whatever comes of it, there is nothing more to do here.
            let _ = self.0.stopped().await;
        }
    }
}

/// The incoming half of a [`Stream`].
#[derive(Debug)]
pub struct Receiver(quinn::RecvStream);

impl Receiver {
    /// The next bytes, at most `most`; `None` at the end.
    ///
    /// # Errors
    /// [`TransportError::Closed`].
    pub async fn receive(&mut self, most: usize) -> Result<Option<Bytes>, TransportError> {
        let chunk = self.0.read_chunk(most, true).await;
        let chunk = chunk.map_err(not_read)?;
        Ok(chunk.map(|chunk| chunk.bytes))
    }

    /// Exactly so many bytes; takes no more memory than comes.
    ///
    /// # Errors
    /// [`TransportError::Closed`], also when fewer come.
    pub async fn receive_body(&mut self, length: usize) -> Result<Vec<u8>, TransportError> {
        let mut body = Vec::new();
        while body.len() < length {
            let more = self.receive(length - body.len()).await?;
            let more = more.ok_or_else(|| TransportError::Closed { reason: "it ended too early".to_owned() })?;
            body.extend_from_slice(&more);
        }
        Ok(body)
    }

    /// Exactly so many bytes.
    ///
    /// # Errors
    /// [`TransportError::Closed`], also when fewer come.
    pub async fn receive_exactly(&mut self, bytes: &mut [u8]) -> Result<(), TransportError> {
        self.0.read_exact(bytes).await.map_err(not_whole)
    }
}

fn not_written(error: quinn::WriteError) -> TransportError {
    match error {
        quinn::WriteError::ConnectionLost(error) => closed(error),
        other => TransportError::Closed { reason: other.to_string() },
    }
}

fn not_read(error: quinn::ReadError) -> TransportError {
    match error {
        quinn::ReadError::ConnectionLost(error) => closed(error),
        other => TransportError::Closed { reason: other.to_string() },
    }
}

fn not_whole(error: quinn::ReadExactError) -> TransportError {
    match error {
        quinn::ReadExactError::ReadError(error) => not_read(error),
        other => TransportError::Closed { reason: other.to_string() },
    }
}

fn closed(error: ConnectionError) -> TransportError {
    TransportError::Closed { reason: words(&error) }
}

/// What an end of a connection comes down to, for people.
fn words(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ApplicationClosed(close) if !close.reason.is_empty() => {
            String::from_utf8_lossy(&close.reason).into_owned()
        }
        ConnectionError::TimedOut => "nobody answers".to_owned(),
        ConnectionError::Reset => "the other end was restarted".to_owned(),
        ConnectionError::ConnectionClosed(close) if !close.reason.is_empty() => {
            String::from_utf8_lossy(&close.reason).into_owned()
        }
        ConnectionError::TransportError(error) if !error.reason.is_empty() => error.reason.clone(),
        other => other.to_string(),
    }
}
