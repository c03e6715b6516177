//! Texts and JSON values whose concurrent edits merge. Pure.
//!
//! A document starts from a plain value, its *base*, and takes in *changes*, which name what they build on; what it shows is a
//! function of base and set of changes, whatever the order of their arrival. The work is Automerge's; this room says how a
//! plain value becomes a document, how one that somebody wrote over another becomes a change, and what of foreign bytes is let
//! near the decoder.
//!
//! # Invariants
//! * The root of a document is a pure function of form and base: devices that begin from one value share it, and need not send
//!   it. A golden pins its hash, as an edit names it: another encoding of the same root would part the devices of two releases.
//! * No two changes have one actor and number, unless they are one change: the actor of an edit is drawn from who makes it, when, on
//!   what and into what ([`Writer`]), and is used again only by the very value in memory that drew it. So a copied file needs no repair.
//!   Should somebody forge such a pair, the change with the smaller hash counts, on every device.
//! * What a change does is what its author's isle does: marks on texts, increments and the like are refused, and a change that does not come out of the
//!   document as it went in counts nowhere (it is kept, so that every order of arrival ends alike).
//! * What comes from elsewhere is measured before it is decoded ([`check`]): compressed parts are refused, and so are
//!   columns that say more rows than [`OPS_MAX`]. A decoder that panics nevertheless is an error.
//!
//! # What an edit becomes
//! A text is compared word by word and only what differs is replaced. JSON is compared member by member and element by element;
//! a string in it is replaced whole. Numbers are 64-bit integers or doubles. JSON that was edited is shown without blanks and with members in the
//! order of their names. Of two that write one member at once the larger operation's value shows (Automerge's order, not that of time); [`Lost`] tells.
//!
//! # Costs
//! Automerge keeps every change for ever, and indexes every character of a document when it is read: about 0.6 µs each, so a
//! document is kept in memory where it is edited again. Changes that arrive cost a pass over it too (0.2 µs a character). Measured
//! against it, `yrs` reads in a hundredth of that, but finds a place by walking the text; it was not taken, as changes there have no hashes, and two
//! devices with one number for a client would differ for ever without a sign.
//!
//! # Format of a document
//! ```text
//! 1  whether it has its root
//! v  heads: count, then 32 each, rising
//! v  length, what Automerge saves (columns not compressed)
//! v  changes that another with the same actor and number displaces: count, then (v length, change) each
//! ```

mod check;
mod json;
mod text;

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use automerge::transaction::{CommitOptions, Transactable};
use automerge::{ActorId, AutoCommit, AutomergeError, Change, ChangeHash, ROOT, ReadDoc, TextEncoding, hydrate};

pub use check::{CHANGE_OPS_MAX, OPS_MAX, check};

/// The longest text and the longest JSON that becomes a document, in bytes. Longer ones are plain values.
pub const LENGTH_MAX: usize = 2 << 20;

/// The most operations of an edit. A change of so many says more rows where it ends what several had written, and must be taken elsewhere
/// ([`CHANGE_OPS_MAX`]).
pub const EDIT_OPS_MAX: usize = CHANGE_OPS_MAX / 2;

/// The one member of every document.
const VALUE: &str = "v";

/// Who makes roots.
const ROOT_ACTOR: [u8; 16] = [0; 16];

/// What a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A text, merged word by word.
    Text,
    /// A JSON object or array, merged by members and elements.
    Json,
}

/// Why bytes are no document or no change.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// The bytes are not laid out as a document or a change.
    #[error("{what} of a document is malformed")]
    Malformed {
        /// The part.
        what: &'static str,
    },
    /// A part says that it is larger than anything isle writes.
    #[error("{what} of a document is larger than {max}")]
    TooLarge {
        /// The part.
        what: &'static str,
        /// The most it may be.
        max: usize,
    },
    /// The library refused it.
    #[error("a document cannot be read or changed")]
    Refused(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The library gave up on it.
    #[error("a document cannot be decoded: its reader gave up")]
    Panicked,
}

fn refused(source: AutomergeError) -> DocumentError {
    DocumentError::Refused(Box::new(source))
}

/// Who edits, and when: what an actor is drawn from.
#[derive(Debug, Clone, Copy)]
pub struct Writer {
    /// The site.
    pub site: [u8; 16],
    /// The time of the edit, which is the site's own.
    pub time: u64,
}

/// Which base a document begins from.
pub type RootId = [u8; 16];

/// Names the root of a document.
pub fn root_id(form: Form, base: &str) -> RootId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(match form {
        Form::Text => b"isle text\0",
        Form::Json => b"isle json\0",
    });
    hasher.update(base.as_bytes());
    let mut id = [0; 16];
    id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    id
}

/// Whether a value can become a document of this form.
pub fn fits(form: Form, value: &str) -> bool {
    value.len() <= LENGTH_MAX && (form == Form::Text || json::parse(value).is_some())
}

/// What two that wrote at once had put into a JSON value and does not show: the value as either had it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lost {
    /// As the author of the change had it.
    pub theirs: Option<String>,
    /// As it was before the change came.
    pub ours: Option<String>,
}

/// A text or a JSON value with its changes.
#[derive(Debug, Clone)]
pub struct Document {
    form: Form,
    rooted: bool,
    doc: AutoCommit,
    /// The actor was drawn by this value.
    drawn: bool,
    /// Changes that others displace.
    displaced: Vec<Vec<u8>>,
    shown: Option<String>,
}

impl Document {
    /// A document that nobody has edited. The base has to fit ([`fits`]).
    ///
    /// # Errors
    /// [`DocumentError`] if it does not.
    pub fn begin(form: Form, base: &str) -> Result<Document, DocumentError> {
        let mut document = Document::without_root(form);
        document.put_root(base)?;
        Ok(document)
    }

    /// Holds changes to a base that is not here.
    pub fn without_root(form: Form) -> Document {
        let doc = AutoCommit::new().with_actor(ActorId::from(ROOT_ACTOR.as_slice()));
        Document { form, rooted: false, doc, drawn: false, displaced: Vec::new(), shown: None }
    }

    /// Gives a document without root its base.
    ///
    /// # Errors
    /// [`DocumentError`] if the base does not fit.
    pub fn put_root(&mut self, base: &str) -> Result<(), DocumentError> {
        if self.rooted {
            return Ok(());
        }
        let mut root = AutoCommit::new().with_actor(ActorId::from(ROOT_ACTOR.as_slice()));
        match self.form {
            Form::Text => {
                let text = hydrate::Text::new(TextEncoding::platform_default(), base);
                root.batch_create_object(ROOT, VALUE, &text.into(), false).map_err(refused)?;
            }
            Form::Json => {
                let value = json::parse(base).ok_or(DocumentError::Malformed { what: "base" })?;
                json::put(&mut root, &ROOT, VALUE.into(), &value, false)?;
            }
        }
        root.commit_with(CommitOptions::default().with_time(0));
        let waiting = check::changes(&self.doc.save_nocompress())?;
        self.doc = root;
        self.rooted = true;
        self.shown = None;
        self.take_all(waiting)
    }

    /// Reads a document.
    ///
    /// # Errors
    /// [`DocumentError`] if the bytes are none.
    pub fn load(form: Form, saved: &[u8]) -> Result<Document, DocumentError> {
        let parts = Parts::of(saved)?;
        check(parts.document)?;
        let mut doc = guarded(|| AutoCommit::load(parts.document).map_err(refused))??;
        doc.set_actor(ActorId::from(ROOT_ACTOR.as_slice()));
        let displaced = parts.displaced.iter().map(|change| change.to_vec()).collect();
        Ok(Document { form, rooted: parts.rooted, doc, drawn: false, displaced, shown: None })
    }

    /// The document as it is kept.
    pub fn save(&mut self) -> Vec<u8> {
        let heads = self.heads();
        let document = self.doc.save_nocompress();
        let mut out = Vec::with_capacity(document.len() + 64);
        out.push(u8::from(self.rooted));
        check::put_varint(&mut out, heads.len() as u64);
        heads.iter().for_each(|head| out.extend(head));
        check::put_varint(&mut out, document.len() as u64);
        out.extend(document);
        check::put_varint(&mut out, self.displaced.len() as u64);
        for change in &self.displaced {
            check::put_varint(&mut out, change.len() as u64);
            out.extend(change);
        }
        out
    }

    /// The changes that no other builds on, rising.
    fn heads(&mut self) -> Vec<[u8; 32]> {
        let mut heads: Vec<[u8; 32]> = self.doc.get_heads().into_iter().map(|head| head.0).collect();
        heads.sort_unstable();
        heads
    }

    /// What base and changes amount to.
    pub fn shown(&mut self) -> &str {
        let (form, doc) = (self.form, &self.doc);
        self.shown.get_or_insert_with(|| match form {
            Form::Text => text::shown(doc),
            Form::Json => json::shown(doc),
        })
    }

    /// Changes what the document shows, and gives the change; `None` if it shows that already. The value has to fit.
    ///
    /// # Errors
    /// [`DocumentError::TooLarge`] if the change would be larger than [`EDIT_OPS_MAX`], or the document has grown to half of [`OPS_MAX`]: the
    /// value has to begin a document of its own. [`DocumentError`] if it does not fit. The document is of no use then.
    pub fn edit(&mut self, new: &str, writer: Writer) -> Result<Option<Vec<u8>>, DocumentError> {
        if self.doc.stats().num_ops > OPS_MAX as u64 / 2 {
            return Err(DocumentError::TooLarge { what: "history", max: OPS_MAX / 2 });
        }
        if !self.drawn {
            let mut hasher = blake3::Hasher::new();
            hasher.update(&writer.site).update(&writer.time.to_le_bytes());
            for head in self.heads() {
                hasher.update(&head);
            }
            hasher.update(new.as_bytes());
            self.doc.set_actor(ActorId::from(&hasher.finalize().as_bytes()[..16]));
        }
        match self.form {
            Form::Text => text::edit(&mut self.doc, new)?,
            Form::Json => json::edit(&mut self.doc, new)?,
        }
        if self.doc.pending_ops() == 0 {
            return Ok(None);
        }
        if self.doc.pending_ops() > EDIT_OPS_MAX {
            return Err(DocumentError::TooLarge { what: "change", max: EDIT_OPS_MAX });
        }
        self.doc.commit_with(CommitOptions::default().with_time(0));
        self.drawn = true;
        self.shown = None;
        Ok(self.doc.get_last_local_change().map(|change| change.raw_bytes().to_vec()))
    }

    /// Takes in a change; those that are here already change nothing. Tells what of it, or of what was here, does not show then.
    ///
    /// # Errors
    /// [`DocumentError`] if the bytes are no change.
    pub fn apply(&mut self, change: &[u8]) -> Result<Lost, DocumentError> {
        let read = read_change(change)?;
        let before = self.doc.get_heads();
        let new = self.doc.get_change_meta_by_hash(&read.hash()).is_none();
        self.take_all(vec![change.to_vec()])?;
        let follows = read.deps().iter().collect::<HashSet<_>>() == before.iter().collect::<HashSet<_>>();
        let counts = self.doc.get_change_meta_by_hash(&read.hash()).is_some();
        if self.form == Form::Text || !new || follows || !counts {
            return Ok(Lost::default());
        }
        Ok(json::lost(&self.doc, read.deps(), &[read.hash()], &before))
    }

    /// Takes in the changes of another document of the same root.
    ///
    /// # Errors
    /// [`DocumentError`] if a change cannot be decoded.
    pub fn join(&mut self, other: &mut Document) -> Result<(), DocumentError> {
        if other.rooted && !self.rooted {
            let (waiting, displaced) =
                (check::changes(&self.doc.save_nocompress())?, std::mem::take(&mut self.displaced));
            let form = self.form;
            *self = Document { form, drawn: false, ..other.clone() };
            return self.take_all(waiting.into_iter().chain(displaced).collect());
        }
        let changes = other.doc.get_changes(&[]);
        let no_root = changes.iter().filter(|change| change.actor_id().to_bytes() != ROOT_ACTOR);
        let mut news: Vec<Vec<u8>> = no_root.map(|change| change.raw_bytes().to_vec()).collect();
        news.extend(check::changes(&other.doc.save_nocompress())?);
        news.extend(other.displaced.iter().cloned());
        self.take_all(news)
    }

    fn take_all(&mut self, changes: Vec<Vec<u8>>) -> Result<(), DocumentError> {
        let mut news = Vec::with_capacity(changes.len());
        for bytes in &changes {
            let change = read_change(bytes)?;
            if self.doc.get_change_meta_by_hash(&change.hash()).is_none() && !self.displaced.contains(bytes) {
                news.push(change);
            }
        }
        if news.is_empty() {
            return Ok(());
        }
        self.shown = None;
        match taken(&self.doc, news.clone()) {
            Some(doc) => self.doc = doc,
            None => self.settle(news)?,
        }
        Ok(())
    }

    /// Something that came is no honest change. Of those with one actor and number the one with the smallest hash counts, and what the
    /// library refuses, or would not save as it came, counts nowhere; all of it is kept, so that every order of arrival ends here.
    fn settle(&mut self, news: Vec<Change>) -> Result<(), DocumentError> {
        let proven = self.doc.get_changes(&[]);
        let mut doubtful = news;
        for bytes in check::changes(&self.doc.save_nocompress())?.iter().chain(&self.displaced) {
            doubtful.push(read_change(bytes)?);
        }
        doubtful.sort_by_key(Change::hash);
        doubtful.dedup_by_key(|change| change.hash());
        let mut first: HashMap<(ActorId, u64), ChangeHash> = HashMap::new();
        for change in proven.iter().chain(&doubtful) {
            let known = first.entry((change.actor_id().clone(), change.seq())).or_insert(change.hash());
            *known = change.hash().min(*known);
        }
        let counts = |change: &Change| first.get(&(change.actor_id().clone(), change.seq())) == Some(&change.hash());
        let mut displaced: Vec<Change> =
            proven.iter().chain(&doubtful).filter(|change| !counts(change)).cloned().collect();
        let mut doc = AutoCommit::new().with_actor(ActorId::from(ROOT_ACTOR.as_slice()));
        let honest: Vec<Change> = proven.into_iter().filter(counts).collect();
        doc = guarded(|| doc.apply_changes(honest).map(|()| doc).map_err(refused))??;
        doubtful.retain(counts);
        // What something new builds on may have become proven just now.
        while let Some(at) = doubtful.iter().position(|change| doc.get_missing_deps(change.deps()).is_empty()) {
            let change = doubtful.remove(at);
            match taken(&doc, vec![change.clone()]) {
                Some(with) => doc = with,
                None => displaced.push(change),
            }
        }
        self.doc = guarded(|| doc.apply_changes(doubtful).map(|()| doc).map_err(refused))??;
        displaced.sort_by_key(Change::hash);
        self.displaced = displaced.iter().map(|change| change.raw_bytes().to_vec()).collect();
        self.drawn = false;
        Ok(())
    }
}

/// A document with changes, if each comes out of it as it went in.
fn taken(doc: &AutoCommit, changes: Vec<Change>) -> Option<AutoCommit> {
    let mut doc = doc.clone();
    guarded(|| {
        let before = doc.get_heads();
        doc.apply_changes(changes).ok()?;
        let listed: Vec<ChangeHash> = doc.get_changes_meta(&before).iter().map(|meta| meta.hash).collect();
        let known: Vec<ChangeHash> = doc.get_changes(&before).iter().map(Change::hash).collect();
        (listed == known).then_some(doc)
    })
    .ok()
    .flatten()
}

/// What a change inserted, for people to read: texts in their order, one behind the other, and other values as JSON.
///
/// # Errors
/// [`DocumentError`] if the bytes are no change.
pub fn inserted(change: &[u8]) -> Result<String, DocumentError> {
    let change = read_change(change)?;
    guarded(|| {
        let mut out = String::new();
        for operation in change.decode().operations {
            if let Some(value) = operation.primitive_value() {
                match value {
                    automerge::ScalarValue::Str(text) => out.push_str(&text),
                    automerge::ScalarValue::Null => {}
                    other => out.push_str(&other.to_string()),
                }
            }
        }
        out
    })
}

/// What two documents that show the same have in common, and others have not: root and heads of a saved one.
///
/// # Errors
/// [`DocumentError`] if the bytes are no document.
pub fn heads(saved: &[u8]) -> Result<&[u8], DocumentError> {
    Parts::of(saved).map(|parts| parts.heads)
}

/// Whether a saved document has its root.
///
/// # Errors
/// [`DocumentError`] if the bytes are no document.
pub fn has_root(saved: &[u8]) -> Result<bool, DocumentError> {
    Parts::of(saved).map(|parts| parts.rooted)
}

/// Whether bytes are one change that a document can take.
///
/// # Errors
/// [`DocumentError`] if they are not.
pub fn check_change(change: &[u8]) -> Result<(), DocumentError> {
    read_change(change).map(drop)
}

/// A change that its reader understands, and that is no root.
fn read_change(bytes: &[u8]) -> Result<Change, DocumentError> {
    if check::changes(bytes)?.len() != 1 {
        return Err(DocumentError::Malformed { what: "change" });
    }
    check(bytes)?;
    let change =
        guarded(|| Change::from_bytes(bytes.to_vec()).map_err(|error| DocumentError::Refused(Box::new(error))))??;
    let actor = change.actor_id().to_bytes();
    let sound = actor.len() == 16 && actor != ROOT_ACTOR && change.raw_bytes() == bytes;
    if sound { Ok(change) } else { Err(DocumentError::Malformed { what: "change" }) }
}

/// Runs the library on bytes of others: what makes it panic is an error. What it was working on is thrown away then.
fn guarded<T>(f: impl FnOnce() -> T) -> Result<T, DocumentError> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|_| DocumentError::Panicked)
}

/// A saved document, taken apart.
struct Parts<'a> {
    rooted: bool,
    heads: &'a [u8],
    document: &'a [u8],
    displaced: Vec<&'a [u8]>,
}

impl Parts<'_> {
    fn of(saved: &[u8]) -> Result<Parts<'_>, DocumentError> {
        let mut reader = check::Reader(saved);
        let rooted = match reader.take(1)? {
            [0] => false,
            [1] => true,
            _ => return Err(DocumentError::Malformed { what: "mark" }),
        };
        let count = reader.count(32)?;
        let heads = reader.take(count * 32)?;
        let document = reader.prefixed()?;
        let displaced = (0..reader.count(1)?).map(|_| reader.prefixed()).collect::<Result<_, _>>()?;
        if !reader.0.is_empty() {
            return Err(DocumentError::Malformed { what: "end" });
        }
        Ok(Parts { rooted, heads, document, displaced })
    }
}
