//! Changesets: headers, blocks, and the values of columns of a kind.
//!
//! Input: form, then the bytes. A block's hash is made to hold, and so is the number of its rows in the header.

use isle_changeset::snapshot::{SnapshotHeader, SnapshotTable};
use isle_changeset::{
    BLOCK_BYTES, Block, BlockInfo, BodyWriter, Cause, DecodeError, DocumentChange, Header, RemovedMember, Row, RowKind,
    SealedBlock, SetChange, Value, ValueRef, canonical_key, canonical_value, pack_key, unpack_key,
};
use isle_clock::{GroupId, Hlc, SiteId};
use isle_schema::{Affinity, Collation, ColumnId, KeyColumn, MigrationId, TableId};

use crate::script::Script;
use crate::sums::vouched;
use crate::{Seed, memory};

/// The most values of a block that are looked at. A NULL takes no byte of a block, so it may hold a billion of them.
const VALUES_MAX: usize = 1 << 16;

/// Memory for bytes: an empty member of a set is a byte of them, and 24 of memory in a list that grows by doubling.
const fn bound(bytes: usize) -> usize {
    (64 << 10) + 96 * bytes
}

/// The target.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    match script.byte() % 9 {
        0 => one_encoding(script.rest(), Header::decode, Header::encode),
        1 => one_encoding(script.rest(), SnapshotHeader::decode, SnapshotHeader::encode),
        2 => one_encoding(script.rest(), SetChange::decode, SetChange::encode),
        3 => one_encoding(script.rest(), DocumentChange::decode, DocumentChange::encode),
        4 => key(&mut script),
        5 => block(&[&[0], script.rest()].concat(), None),
        6 => {
            let content = script.rest();
            let packed = zstd::bulk::compress(content, 1).expect("packed");
            block(&[&[1], packed.as_slice()].concat(), Some(content.len() as u32));
        }
        7 => {
            let claimed = u32::from_be_bytes(script.array());
            block(&[&[1], script.rest()].concat(), Some(claimed));
        }
        _ => block(script.rest(), None),
    }
}

/// What is read is what would be written, to the byte.
fn one_encoding<T>(bytes: &[u8], decode: impl Fn(&[u8]) -> Result<T, DecodeError>, encode: impl Fn(&T) -> Vec<u8>) {
    if let Ok(value) = memory::bounded("decoding", bound(bytes.len()), || decode(bytes)) {
        assert_eq!(encode(&value), bytes, "two encodings of one value");
    }
}

/// A key is packed so that it reads back, and its canonical form is one.
fn key(script: &mut Script<'_>) {
    let [count, kinds] = script.array();
    let (count, bytes) = (usize::from(count), script.rest());
    let Ok(key) = memory::bounded("unpacking a key", bound(bytes.len()), || unpack_key(bytes, count)) else { return };
    let values: Vec<ValueRef<'_>> = key.iter().map(Value::as_ref).collect();
    let packed = pack_key(&values);
    assert!(packed.len() <= bytes.len());
    let again = unpack_key(&packed, count).expect("just packed");
    assert_eq!(again.iter().map(Value::as_ref).collect::<Vec<_>>(), values);
    let affinities = [Affinity::Blob, Affinity::Text, Affinity::Numeric, Affinity::Integer, Affinity::Real];
    let collations = [Collation::Binary, Collation::NoCase, Collation::RTrim];
    let column = |n: usize| KeyColumn {
        name: String::new(),
        affinity: affinities[(n + usize::from(kinds)) % affinities.len()],
        collation: collations[(n + usize::from(kinds)) % collations.len()],
    };
    let columns: Vec<KeyColumn> = (0..count).map(column).collect();
    let (canonical, exact) = canonical_key(&values, &columns);
    assert_eq!(canonical.len(), count);
    for (value, column) in canonical.iter().zip(&columns) {
        assert_eq!(canonical_value(value.as_ref(), column), None, "{value:?} is not canonical");
    }
    if let Some(exact) = exact {
        assert_eq!(exact, packed);
    }
}

/// A row by the ids of its columns.
#[derive(Debug)]
struct Line {
    table: TableId,
    kind: RowKind,
    length: u64,
    key: Vec<Value>,
    cells: Vec<(ColumnId, Value)>,
}

/// Same types and same bits: NaN equals itself.
impl PartialEq for Line {
    fn eq(&self, other: &Line) -> bool {
        let same = |a: &Value, b: &Value| a.as_ref() == b.as_ref();
        (self.table, self.kind, self.length) == (other.table, other.kind, other.length)
            && (self.key.len(), self.cells.len()) == (other.key.len(), other.cells.len())
            && self.key.iter().zip(&other.key).all(|(a, b)| same(a, b))
            && self.cells.iter().zip(&other.cells).all(|((a, x), (b, y))| a == b && same(x, y))
    }
}

/// Opens a stored block that its header vouches for. What it holds is written again to blocks that hold the same.
fn block(stored: &[u8], raw_bytes: Option<u32>) {
    let raw_bytes = raw_bytes.unwrap_or(stored.len().saturating_sub(1) as u32);
    let mut info = vouched(stored, raw_bytes, 1);
    // "No more than the larger of the block's real size and twice BLOCK_BYTES"; a row whose size is not believed is read into a buffer that doubles.
    let real = if raw_bytes as usize <= 2 * BLOCK_BYTES { 2 * BLOCK_BYTES } else { 3 * raw_bytes as usize };
    let most = real.max(stored.len()) + (1 << 20);
    let Ok(block) = memory::bounded("opening a block", most, || Block::open(stored, &info)) else { return };
    let altered = BlockInfo { hash: [0; 32], ..info };
    assert!(Block::open(stored, &altered).is_err());
    let mut left = VALUES_MAX;
    let read = lines(&block, &mut left);
    if left == 0 {
        return;
    }
    match read {
        Ok(read) => {
            info.rows = read.len() as u32;
            assert_eq!(block.check(&info), Ok(()));
            info.rows += 1;
            assert!(block.check(&info).is_err(), "a header may promise more rows than there are");
            rewrite(&block, &read);
        }
        Err(_) => assert!(block.check(&info).is_err()),
    }
}

/// The rows of a block, as far as `left` values go.
fn lines(block: &Block, left: &mut usize) -> Result<Vec<Line>, DecodeError> {
    let mut lines = Vec::new();
    for section in block.sections() {
        let mut section = section?;
        let columns = section.columns().to_vec();
        let mut row = Row::default();
        while *left > 0 && section.next(&mut row)? {
            *left = left.saturating_sub(row.key.len() + row.values.len());
            let has = |n: &usize| row.mask[n / 64] >> (n % 64) & 1 == 1;
            let named: Vec<ColumnId> = (0..columns.len()).filter(has).map(|n| columns[n]).collect();
            assert_eq!(named.len(), row.values.len(), "a value for each bit of the mask");
            let values = row.values.iter().map(|value| value.to_value());
            lines.push(Line {
                table: section.table(),
                kind: row.kind,
                length: row.length,
                key: row.key.iter().map(|value| value.to_value()).collect(),
                cells: named.into_iter().zip(values).collect(),
            });
        }
    }
    Ok(lines)
}

fn rewrite(block: &Block, read: &[Line]) {
    let (mut writer, mut blocks): (_, Vec<SealedBlock>) = (BodyWriter::new(), Vec::new());
    for section in block.sections() {
        let mut section = section.expect("read before");
        writer.table(section.table(), &section.columns().to_vec(), section.key_columns());
        let mut row = Row::default();
        while section.next(&mut row).expect("read before") {
            match writer.row(row.kind, row.length, &row.mask, &row.key, &row.values) {
                Ok(full) => blocks.extend(full),
                // Read is a little more than is written.
                Err(DecodeError::Limit { what: "size of a row", .. }) => return,
                Err(error) => panic!("{error}"),
            }
        }
    }
    blocks.extend(writer.finish());
    let mut again = Vec::new();
    for sealed in &blocks {
        assert!(sealed.info.rows == 1 || sealed.info.raw_bytes as usize <= BLOCK_BYTES);
        let block = Block::open(&sealed.bytes, &sealed.info).expect("just written");
        assert_eq!(block.check(&sealed.info), Ok(()));
        again.extend(lines(&block, &mut { usize::MAX }).expect("just written"));
    }
    assert_eq!(again, read, "other rows are read than were written");
}

/// A header of version `version` of a site.
pub(crate) fn header(site: u8, version: u64) -> Header {
    let hlc = |ms| Hlc::new(ms, 5).expect("valid");
    let cause = |n, version, ms| Cause { site: SiteId::from_bytes([n; 16]), version, hlc: hlc(ms) };
    Header {
        group: GroupId::from_bytes([9; 16]),
        site: SiteId::from_bytes([site; 16]),
        version,
        hlc: hlc(1_763_640_000_000),
        baseline: false,
        previous: if version == 1 { [0; 32] } else { [3; 32] },
        causes: vec![cause(40, 300, 1)],
        floor: vec![cause(41, 1, 2)],
        heads: vec![MigrationId::from_bytes([0xcc; 16])],
        blocks: vec![BlockInfo { stored_bytes: 10, raw_bytes: 9, rows: 1, hash: [0xdd; 32] }],
    }
}

/// Two tables: values of every type, an update, a delete, and a third column that no row names.
fn rows() -> SealedBlock {
    let ids: Vec<ColumnId> = (1..=3).map(|n| ColumnId::from_bytes([n; 16])).collect();
    let mut writer = BodyWriter::new();
    let row = |writer: &mut BodyWriter, kind, length, mask: u64, key: ValueRef<'_>, values: &[ValueRef<'_>]| {
        writer.row(kind, length, &[mask], &[key], values).expect("small");
    };
    writer.table(TableId::from_bytes([7; 16]), &ids, 1);
    for n in 0..3 {
        let values = [ValueRef::Text(b"Queen"), ValueRef::Real(0.99)];
        row(&mut writer, RowKind::Insert, 1, 3, ValueRef::Integer(n), &values);
    }
    row(&mut writer, RowKind::Update, 3, 1, ValueRef::Integer(3), &[ValueRef::Null]);
    row(&mut writer, RowKind::Delete, 2, 0, ValueRef::Integer(9), &[]);
    writer.table(TableId::from_bytes([8; 16]), &ids, 1);
    row(&mut writer, RowKind::Insert, 1, 2, ValueRef::Text(b"key"), &[ValueRef::Blob(&[0; 40])]);
    row(&mut writer, RowKind::Insert, 1, 2, ValueRef::Blob(b"key"), &[ValueRef::Integer(i64::MIN)]);
    writer.finish().expect("rows")
}

/// Small inputs.
pub fn seeds() -> Vec<Seed> {
    let site = |n| SiteId::from_bytes([n; 16]);
    let table = SnapshotTable {
        id: TableId::from_bytes([0xee; 16]),
        columns: vec![ColumnId::from_bytes([0xff; 16])],
        baselines: vec![(0, 300)],
    };
    let plain = header(1, 2);
    let snapshot = SnapshotHeader {
        group: plain.group,
        site: plain.site,
        heads: plain.heads.clone(),
        tables: vec![table],
        blocks: plain.blocks.clone(),
    };
    let additions = vec![(site(7), plain.hlc)];
    let removed = vec![RemovedMember { member: b"\"b\"".to_vec(), first: true, additions }];
    let set = SetChange { added: vec![b"1".to_vec(), Vec::new()], removed };
    let document = DocumentChange { changes: vec![([7; 16], b"ab".to_vec()), ([8; 16], Vec::new())] };
    let exact = [ValueRef::Text(b"Queen  "), ValueRef::Integer(1), ValueRef::Real(-0.0), ValueRef::Blob(b"b")];
    let block = rows().bytes;
    let packed = zstd::bulk::compress(&block[1..], 1).expect("packed");
    let length = (block.len() as u32 - 1).to_be_bytes();
    let seed = |form: u8, parts: &[&[u8]]| [&[form], parts.concat().as_slice()].concat();
    vec![
        ("header", seed(0, &[&plain.encode()])),
        ("header-first", seed(0, &[&header(2, 1).encode()])),
        ("snapshot-header", seed(1, &[&snapshot.encode()])),
        ("set", seed(2, &[&set.encode()])),
        ("document", seed(3, &[&document.encode()])),
        ("key", seed(4, &[&[4, 1], &pack_key(&exact)])),
        ("block", seed(5, &[&block[1..]])),
        ("block-packed", seed(6, &[&block[1..]])),
        ("block-zstd", seed(7, &[&length, &packed])),
        ("block-stored", seed(8, &[&block])),
    ]
}
