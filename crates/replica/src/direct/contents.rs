//! Contents of files go from device to device.
//!
//! A device that wants chunks dials one that says it has the file, and asks on streams of their own, several at once. Who is asked looks
//! the file up by its id: the asker names no path, and gets nothing but chunks of files of the library that lie here, after they were checked against their hash.
//!
//! ```text
//! stream   'f', then questions and answers in turn until the asker ends it
//! question 32  id of the file, in lower-case hexadecimal digits
//!           4  which of its chunks, from 0, big-endian
//!          32  BLAKE3 hash of that chunk
//! answer    4  length of what follows, big-endian; 0: it is not here
//!           …  the chunk as a zstd frame
//! ```

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use isle_blobs::CHUNK_BYTES_MAX;
use isle_files::{ChunkRef, read_at};
use isle_identity::{DeviceKey, device_id};
use isle_transport::{CloseCode, Connection, Endpoint, Receiver, Sender, Stream, TransportError};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::hub::Hub;
use super::once::{Target, dial, targets};
use super::{PeerState, credentials};
use crate::replica::Inner;
use crate::sync::blocking;
use crate::{Error, Replica};

/// How a stream begins that carries contents.
pub(super) const CONTENTS: u8 = b'f';
/// Questions of one device that are on their way at the same time; a connection has one stream more.
const AT_ONCE: usize = 3;
/// How long the asker may think about its next question: it may be served by a remote meanwhile. A connection whose other end is gone ends by itself.
const IDLE: Duration = Duration::from_secs(1800);
/// How long an answer may take that has begun or not.
const PATIENCE: Duration = Duration::from_secs(60);
const LEVEL: i32 = 1;
const QUESTION_BYTES: usize = 68;
/// What zstd may add to what it cannot compress.
const FRAME_BYTES_EXTRA: usize = 128 * 1024;

/// Answers the questions of a member until it hangs up.
pub(super) async fn serve(hub: &Arc<Hub>, connection: &Connection, first: Stream) {
    let key = connection.key();
    let mut streams = JoinSet::new();
    streams.spawn(answer_all(Arc::clone(hub), key, first));
    loop {
        tokio::select! {
            () = hub.stopped() => break,
            more = connection.accept(), if streams.len() < AT_ONCE => match more {
                Ok(Some(mut stream)) => match tokio::time::timeout(IDLE, stream.receive_byte()).await {
                    Ok(Ok(CONTENTS)) => _ = streams.spawn(answer_all(Arc::clone(hub), key, stream)),
                    _ => break,
                },
                Ok(None) | Err(_) => break,
            },
            ended = streams.join_next() => if ended.is_none() { break },
        }
    }
}

/// A file that was asked for.
struct Asked {
    id: String,
    file: File,
    pieces: Vec<(ChunkRef, u64)>,
}

async fn answer_all(hub: Arc<Hub>, key: DeviceKey, stream: Stream) {
    let (mut send, mut receive) = stream.split();
    let mut asked: Option<Arc<Asked>> = None;
    loop {
        let mut question = [0; QUESTION_BYTES];
        match tokio::time::timeout(IDLE, receive.receive_exactly(&mut question)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => break,
        }
        let answer = match answer(&hub, key, &mut asked, &question).await {
            Ok(answer) => answer.unwrap_or_default(),
            Err(error) => {
                tracing::warn!(device = %key.short(), %error, "a question for a file cannot be answered");
                Vec::new()
            }
        };
        let length = u32::try_from(answer.len()).unwrap_or(0).to_be_bytes();
        let sent = async {
            send.send(Bytes::copy_from_slice(&length)).await?;
            if answer.is_empty() { Ok(()) } else { send.send(answer.into()).await }
        };
        if !matches!(tokio::time::timeout(PATIENCE, sent).await, Ok(Ok(()))) {
            break;
        }
    }
    send.finish().await;
}

/// A chunk as it is sent; `None` if it is not here.
async fn answer(
    hub: &Arc<Hub>,
    key: DeviceKey,
    asked: &mut Option<Arc<Asked>>,
    question: &[u8; QUESTION_BYTES],
) -> Result<Option<Vec<u8>>, Error> {
    let (id, rest) = question.split_at(32);
    let (index, hash) = rest.split_at(4);
    let Ok(id) = std::str::from_utf8(id).map(str::to_owned) else { return Ok(None) };
    let index = u32::from_be_bytes(index.try_into().unwrap_or_default()) as usize;
    let hash: [u8; 32] = hash.try_into().unwrap_or_default();
    let known = asked.clone().filter(|asked| asked.id == id);
    let (inner, keeper) = (Arc::clone(&hub.inner), Arc::clone(hub));
    let (found, chunk) = blocking(&hub.inner, move |_| {
        // One that was put out meanwhile, by whichever process, gets nothing more.
        if !keeper.may_have(&key)? {
            return Ok((None, None));
        }
        let known = known.map_or_else(|| open(&inner, &id), |known| Ok(Some(known)))?;
        let Some(asked) = known else { return Ok((None, None)) };
        let chunk = asked.pieces.get(index).filter(|(piece, _)| piece.hash == hash).and_then(|(piece, at)| {
            let mut bytes = vec![0; piece.bytes as usize];
            read_at(&asked.file, *at, &mut bytes).ok()?;
            (*blake3::hash(&bytes).as_bytes() == hash).then_some(bytes)
        });
        let frame = chunk.and_then(|bytes| zstd::bulk::compress(&bytes, LEVEL).ok());
        Ok((Some(asked), frame))
    })
    .await?;
    *asked = found;
    Ok(chunk)
}

fn open(inner: &Arc<Inner>, id: &str) -> Result<Option<Arc<Asked>>, Error> {
    let library = Replica { inner: Arc::clone(inner), auto: None }.library();
    let Some((file, pieces)) = library.open_pieces(id)? else { return Ok(None) };
    let mut at = 0;
    let pieces = pieces.into_iter().map(|piece| {
        let place = at;
        at += u64::from(piece.bytes);
        (piece, place)
    });
    Ok(Some(Arc::new(Asked { id: id.to_owned(), file, pieces: pieces.collect() })))
}

/// A device that is asked for contents.
pub(crate) struct Holder {
    pub(crate) name: String,
    connection: Connection,
    /// Streams on which nobody waits for an answer.
    idle: Mutex<Vec<(Sender, Receiver)>>,
    /// For a question each.
    seats: Semaphore,
}

impl std::fmt::Debug for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Holder").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Devices that were reached, and what reached them.
#[derive(Debug, Default)]
pub(crate) struct Holders {
    pub(crate) reached: Vec<Arc<Holder>>,
    endpoint: Option<Endpoint>,
}

impl Holders {
    /// Dials those of these devices whose addresses are known. One that does not answer is left out.
    pub(crate) async fn dial(inner: &Arc<Inner>, devices: Vec<String>) -> Result<Holders, Error> {
        let known = blocking(inner, move |inner| match targets(inner, &HashMap::new()) {
            Ok(mut targets) => {
                targets.retain(|target| devices.contains(&device_id(&target.key).to_string()));
                Ok(targets)
            }
            // A device that is in no group of devices has none to ask.
            Err(Error::NotMember { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        });
        let known = known.await?;
        if known.is_empty() {
            return Ok(Holders::default());
        }
        let secret = blocking(inner, Hub::secret).await?;
        let endpoint = Endpoint::dial_only(&secret).map_err(|source| Error::Transport { source })?;
        let mut dialed = JoinSet::new();
        for target in known {
            let (inner, endpoint) = (Arc::clone(inner), endpoint.clone());
            dialed.spawn(async move {
                let reached = reach(&inner, &endpoint, &target).await;
                if let Err(error) = &reached {
                    let (key, reason) = (target.key, error.to_string());
                    blocking(&inner, move |inner| PeerState::update(&inner.store, key, |state| state.failed(reason)))
                        .await?;
                }
                reached
            });
        }
        let mut reached = Vec::new();
        while let Some(holder) = dialed.join_next().await {
            match holder {
                Ok(Ok(holder)) => reached.push(Arc::new(holder)),
                Ok(Err(error)) => tracing::debug!(%error, "a device that has a file cannot be reached"),
                Err(_) => {}
            }
        }
        reached.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Holders { reached, endpoint: Some(endpoint) })
    }

    /// Hangs up.
    pub(crate) async fn close(self) {
        for holder in &self.reached {
            holder.connection.close(CloseCode::Done, "");
        }
        if let Some(endpoint) = self.endpoint {
            endpoint.close().await;
        }
    }
}

async fn reach(inner: &Arc<Inner>, endpoint: &Endpoint, target: &Target) -> Result<Holder, Error> {
    let connection = dial(endpoint, target).await?;
    let (key, name) = (connection.key(), &target.name);
    let shown = blocking(inner, move |inner| credentials::for_peer(inner, key)).await?;
    if let Some(shown) = shown {
        let failed = |source| Error::Peer { name: name.to_owned(), source };
        credentials::show(&connection, shown).await.map_err(failed)?;
    }
    Ok(Holder { name: name.clone(), connection, idle: Mutex::default(), seats: Semaphore::new(AT_ONCE) })
}

impl Holder {
    /// Asks for a chunk of a file; `None` if it is not there.
    pub(crate) async fn get(&self, id: &str, index: usize, piece: &ChunkRef) -> Result<Option<Bytes>, Error> {
        let failed = |source| Error::Peer { name: self.name.clone(), source };
        // It is never closed.
        let _seat = self.seats.acquire().await;
        let late = |_| TransportError::Closed { reason: "it does not answer".to_owned() };
        let asked = tokio::time::timeout(PATIENCE, self.ask(id, index, piece)).await.map_err(late);
        asked.and_then(|answer| answer).map_err(failed)
    }

    async fn ask(&self, id: &str, index: usize, piece: &ChunkRef) -> Result<Option<Bytes>, TransportError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let (mut send, mut receive) = match idle {
            Some(stream) => stream,
            None => {
                let mut stream = self.connection.open().await?;
                stream.send(Bytes::from_static(&[CONTENTS])).await?;
                stream.split()
            }
        };
        let Ok(index) = u32::try_from(index) else { return Ok(None) };
        if id.len() != 32 {
            return Ok(None);
        }
        let question = [id.as_bytes(), &index.to_be_bytes(), &piece.hash].concat();
        send.send(question.into()).await?;
        let mut length = [0; 4];
        receive.receive_exactly(&mut length).await?;
        let length = u32::from_be_bytes(length) as usize;
        if length > CHUNK_BYTES_MAX + FRAME_BYTES_EXTRA {
            return Err(TransportError::Closed { reason: "its answer is too long".to_owned() });
        }
        let frame = receive.receive_body(length).await?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push((send, receive));
        if frame.is_empty() {
            return Ok(None);
        }
        // Never more than was asked for, whatever the frame says of itself.
        let content = zstd::bulk::decompress(&frame, piece.bytes as usize).ok();
        let right = content.filter(|content| *blake3::hash(content).as_bytes() == piece.hash);
        let wrong = || TransportError::Closed { reason: "what it sent is not what it was asked for".to_owned() };
        right.map(|content| Some(content.into())).ok_or_else(wrong)
    }
}
