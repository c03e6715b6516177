//! Columns whose values are documents: texts and JSON values that devices edit at once. Pure but for the memo.
//!
//! The base of a cell is the root of its document, and the document is made when the first change comes. Changes name their root: those to
//! another base than today's count for nothing, but are kept, for it may come back and must be the same for all.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use isle_changeset::{DecodeError, DocumentChange, Value, ValueRef};
use isle_clock::SiteId;
use isle_document::{Document, DocumentError, Form, RootId, Writer};
use isle_schema::Kind;

use super::KindColumn;
use super::state::{Entry, Local, Row, Taken, What};
use crate::StoreError;
use crate::clocks::LocalStamp;

/// What the values of a kind are, if they are documents.
pub(crate) fn form(kind: Kind) -> Option<Form> {
    match kind {
        Kind::Text => Some(Form::Text),
        Kind::Json => Some(Form::Json),
        _ => None,
    }
}

/// More documents, or more bytes of them, are not kept at hand.
const MEMO_DOCUMENTS: usize = 16;
const MEMO_BYTES: usize = 8 << 20;

/// Documents of a column that were read or edited last, by the hash of how they are kept: reading one costs much more than
/// editing it. It belongs to one open file, so that the actor which a document drew stays with it.
#[derive(Debug, Default)]
pub(crate) struct Memo(Mutex<VecDeque<Held>>);

#[derive(Debug)]
struct Held {
    hash: blake3::Hash,
    bytes: usize,
    document: Document,
}

impl Memo {
    fn take(&self, saved: &[u8]) -> Option<Document> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_empty() {
            return None;
        }
        let hash = blake3::hash(saved);
        let at = held.iter().position(|known| known.hash == hash)?;
        held.remove(at).map(|known| known.document)
    }

    fn put(&self, saved: &[u8], document: Document) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.push_back(Held { hash: blake3::hash(saved), bytes: saved.len(), document });
        while held.len() > MEMO_DOCUMENTS || held.iter().map(|known| known.bytes).sum::<usize>() > MEMO_BYTES {
            held.pop_front();
        }
    }
}

/// A document as an entry has it: 1 form, 16 root, the document.
struct Kept<'a> {
    form: Form,
    root: RootId,
    saved: &'a [u8],
}

impl Kept<'_> {
    fn of(entry: &Entry) -> Option<Kept<'_>> {
        let Value::Blob(bytes) = &entry.value else { return None };
        let (form, rest) = bytes.split_first()?;
        let (root, saved) = rest.split_first_chunk::<16>()?;
        let form = match form {
            1 => Form::Text,
            2 => Form::Json,
            _ => return None,
        };
        Some(Kept { form, root: *root, saved })
    }

    fn value(form: Form, root: RootId, saved: &[u8]) -> Value {
        let mut bytes = vec![if form == Form::Text { 1 } else { 2 }];
        bytes.extend(root);
        bytes.extend(saved);
        Value::Blob(bytes)
    }
}

fn damaged(error: DocumentError) -> StoreError {
    let reason = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
    StoreError::Internal { table: "isle_c", detail: format!("{error}{reason}") }
}

impl Entry {
    /// What all devices tell of a document alike: root and heads.
    pub(crate) fn document_name(&self) -> Option<Vec<u8>> {
        let kept = Kept::of(self)?;
        Some([kept.root.as_slice(), isle_document::heads(kept.saved).ok()?].concat())
    }

    /// Whether the value is a document that can be read. It is at hand from then on.
    pub(super) fn is_document(&self, column: &KindColumn) -> bool {
        let read = |kept: &Kept<'_>| Document::load(kept.form, kept.saved).ok();
        let Some((kept, document)) = Kept::of(self).and_then(|kept| read(&kept).map(|document| (kept, document)))
        else {
            return false;
        };
        column.documents.put(kept.saved, document);
        true
    }
}

impl Row {
    /// The base of a cell as the root of a document, if it can be one.
    fn root<'a>(&'a self, column: &'a KindColumn, form: Form) -> Option<(RootId, &'a str)> {
        let ValueRef::Text(text) = self.base(column) else { return None };
        let base = std::str::from_utf8(text).ok().filter(|base| isle_document::fits(form, base))?;
        Some((isle_document::root_id(form, base), base))
    }

    /// Whether there is any document of a cell. Most have none, and no base has to be looked at for that.
    fn is_edited(&self, column: &KindColumn) -> bool {
        self.of(column.cell, What::Document).next().is_some()
    }

    fn kept(&self, column: &KindColumn, form: Form, root: RootId) -> Option<Kept<'_>> {
        let mut kept = self.of(column.cell, What::Document).filter_map(Kept::of);
        kept.find(|kept| (kept.form, kept.root) == (form, root))
    }

    /// The document of a root, as far as there is one; `base` is what the root stands for, if that is known.
    fn open(
        &self,
        column: &KindColumn,
        (form, root): (Form, RootId),
        base: Option<&str>,
    ) -> Result<Document, StoreError> {
        let mut document = match self.kept(column, form, root) {
            Some(kept) => match column.documents.take(kept.saved) {
                Some(document) => document,
                None => Document::load(form, kept.saved).map_err(damaged)?,
            },
            None => Document::without_root(form),
        };
        if let Some(base) = base {
            document.put_root(base).map_err(damaged)?;
        }
        Ok(document)
    }

    fn keep(&mut self, column: &KindColumn, (form, root): (Form, RootId), mut document: Document) {
        let saved = document.save();
        self.change(|entry| {
            let same = entry.cell == column.cell
                && Kept::of(&entry)
                    .is_some_and(|kept| entry.what == What::Document && (kept.form, kept.root) == (form, root));
            (!same).then_some(entry)
        });
        let value = Kept::value(form, root, &saved);
        self.add(vec![Entry { cell: column.cell, what: What::Document, stamp: LocalStamp::NEVER, value }]);
        column.documents.put(&saved, document);
    }

    /// Notes that a site edited a cell.
    pub(super) fn note_edit(&mut self, cell: usize, stamp: LocalStamp) {
        let mut known = false;
        self.change(|mut entry| {
            if (entry.cell, entry.what, entry.stamp.site) == (cell, What::Edited, stamp.site) {
                entry.stamp.hlc = entry.stamp.hlc.max(stamp.hlc);
                known = true;
            }
            Some(entry)
        });
        if !known {
            self.add(vec![Entry { cell, what: What::Edited, stamp, value: Value::Null }]);
        }
    }

    /// What the base and its changes amount to.
    pub(super) fn shown_document(&self, column: &KindColumn, form: Form) -> Result<Value, StoreError> {
        let plain = || Ok(self.base(column).to_value());
        if !self.is_edited(column) {
            return plain();
        }
        let Some((root, base)) = self.root(column, form) else { return plain() };
        let Some(kept) = self.kept(column, form, root) else { return plain() };
        let mut document = self.open(column, (form, root), Some(base))?;
        let shown = Value::Text(document.shown().as_bytes().to_vec());
        column.documents.put(kept.saved, document);
        Ok(shown)
    }

    /// Whether a cell's base, in this row, is the root of a document that somebody edited.
    pub(crate) fn root_edited(&self, column: &KindColumn) -> Option<RootId> {
        let form = form(column.kind).filter(|_| self.is_edited(column))?;
        let (root, _) = self.root(column, form)?;
        self.kept(column, form, root).map(|_| root)
    }

    /// Whether a cell has the same base and the same document as in another state of the row.
    pub(super) fn has_same_document(&self, other: &Row, column: &KindColumn) -> bool {
        let (ours, theirs) = (self.of(column.cell, What::Document), other.of(column.cell, What::Document));
        self.base(column) == other.base(column) && ours.eq(theirs)
    }

    /// Takes what a local update leaves in a cell.
    pub(super) fn edit_document(
        &mut self,
        column: &KindColumn,
        form: Form,
        new: ValueRef<'_>,
        stamp: LocalStamp,
        site: SiteId,
    ) -> Result<Local, StoreError> {
        let text = match new {
            ValueRef::Text(text) => std::str::from_utf8(text).ok().filter(|text| isle_document::fits(form, text)),
            _ => None,
        };
        let Some(((root, base), text)) = self.root(column, form).zip(text) else {
            self.set_base(column, new);
            self.root_waiting(column)?;
            return Ok(Local::Plain);
        };
        let mut document = self.open(column, (form, root), Some(base))?;
        let writer = Writer { site: *site.as_bytes(), time: stamp.hlc };
        let change = match document.edit(text, writer) {
            Ok(Some(change)) => change,
            Ok(None) => return Ok(Local::Nothing),
            // The text is another one from now on.
            Err(DocumentError::TooLarge { .. }) => {
                self.set_base(column, new);
                self.root_waiting(column)?;
                return Ok(Local::Plain);
            }
            Err(error) => return Err(damaged(error)),
        };
        self.keep(column, (form, root), document);
        self.note_edit(column.cell, stamp);
        Ok(Local::Sent(Value::Blob(DocumentChange { changes: vec![(root, change)] }.encode())))
    }

    /// Takes changes that were made elsewhere.
    pub(super) fn take_changes(
        &mut self,
        column: &KindColumn,
        form: Form,
        changes: &DocumentChange,
        stamp: LocalStamp,
    ) -> Result<Taken, StoreError> {
        let mut taken = Taken::default();
        for (root, change) in &changes.changes {
            let base = self.root(column, form).filter(|(known, _)| known == root).map(|(_, base)| base);
            let counts = base.is_some() && form_counts(column, form);
            let mut document = self.open(column, (form, *root), base)?;
            let lost = document.apply(change).map_err(damaged)?;
            if counts {
                let text = |text: String| Value::Text(text.into_bytes());
                taken.theirs = lost.theirs.map(text).or(taken.theirs);
                taken.ours = taken.ours.or(lost.ours.map(text));
            }
            taken.stale |= !counts;
            self.keep(column, (form, *root), document);
        }
        self.note_edit(column.cell, stamp);
        Ok(taken)
    }

    /// Takes in a document that the same life has elsewhere.
    pub(super) fn join_document(&mut self, column: &KindColumn, theirs: &Entry) -> Result<(), StoreError> {
        let Some(kept) = Kept::of(theirs) else { return Ok(()) };
        let at = (kept.form, kept.root);
        let mut other = match column.documents.take(kept.saved) {
            Some(document) => document,
            None => Document::load(kept.form, kept.saved).map_err(damaged)?,
        };
        if self.kept(column, kept.form, kept.root).is_some() {
            let mut document = self.open(column, at, None)?;
            document.join(&mut other).map_err(damaged)?;
            other = document;
        }
        self.keep(column, at, other);
        Ok(())
    }

    /// Changes that waited for today's base have it now.
    pub(super) fn root_waiting(&mut self, column: &KindColumn) -> Result<(), StoreError> {
        let Some(form) = form(column.kind).filter(|_| self.is_edited(column)) else { return Ok(()) };
        let Some((root, base)) = self.root(column, form) else { return Ok(()) };
        let Some(kept) = self.kept(column, form, root) else { return Ok(()) };
        if isle_document::has_root(kept.saved).map_err(damaged)? {
            return Ok(());
        }
        let document = self.open(column, (form, root), Some(base))?;
        self.keep(column, (form, root), document);
        Ok(())
    }
}

fn form_counts(column: &KindColumn, of: Form) -> bool {
    form(column.kind) == Some(of)
}

/// Whether bytes are changes that documents can take.
pub(super) fn check(bytes: &[u8]) -> Result<(), DecodeError> {
    let changes = DocumentChange::decode(bytes)?.changes;
    let bad = changes.is_empty() || changes.iter().any(|(_, change)| isle_document::check_change(change).is_err());
    if bad { Err(DecodeError::Inconsistent { what: "change of a document" }) } else { Ok(()) }
}

/// What changes inserted, for people.
pub(super) fn inserted(bytes: &[u8]) -> Option<Value> {
    let changes = DocumentChange::decode(bytes).ok()?.changes;
    let texts = changes.iter().filter_map(|(_, change)| isle_document::inserted(change).ok());
    Some(Value::Text(texts.collect::<String>().into_bytes()))
}
