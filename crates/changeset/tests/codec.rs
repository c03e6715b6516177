//! The codec: what goes in comes out, the bytes are pinned, and no input breaks the reader.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use isle_changeset::snapshot::{SnapshotHeader, SnapshotTable};
use isle_changeset::{
    BLOCK_BYTES, Block, BlockInfo, BodyWriter, Cause, DecodeError, Header, Row, RowKind, SealedBlock, Value, ValueRef,
};
use isle_clock::{GroupId, Hlc, SiteId};
use isle_schema::{ColumnId, MigrationId, TableId};
use proptest::prelude::*;

#[derive(Debug, Clone, PartialEq)]
struct PlainRow {
    kind: RowKind,
    length: u64,
    key: Vec<Value>,
    cells: Vec<Option<Value>>,
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::Integer),
        (-20i64..20).prop_map(Value::Integer),
        any::<u64>().prop_map(|bits| Value::Real(f64::from_bits(bits))),
        prop::collection::vec(any::<u8>(), 0..12).prop_map(Value::Text),
        prop::collection::vec(any::<u8>(), 0..12).prop_map(Value::Blob),
    ]
}

fn row(columns: usize, keys: usize) -> impl Strategy<Value = PlainRow> {
    let not_null = value().prop_map(|v| if v == Value::Null { Value::Integer(0) } else { v });
    let cells = prop::collection::vec(prop::option::of(value()), columns);
    (0..3u8, 0u64..40, prop::collection::vec(not_null, keys), cells).prop_map(|(kind, length, key, cells)| match kind {
        0 => PlainRow { kind: RowKind::Insert, length: length * 2 + 1, key, cells },
        1 => PlainRow { kind: RowKind::Update, length: length * 2 + 1, key, cells },
        _ => PlainRow { kind: RowKind::Delete, length: length * 2, key, cells: vec![None; cells.len()] },
    })
}

fn table() -> impl Strategy<Value = (usize, usize, Vec<PlainRow>)> {
    (0usize..70, 1usize..3)
        .prop_flat_map(|(columns, keys)| (Just(columns), Just(keys), prop::collection::vec(row(columns, keys), 0..40)))
}

fn ids(columns: usize) -> Vec<ColumnId> {
    (0..columns).map(|n| ColumnId::from_bytes([n as u8 + 1; 16])).collect()
}

fn encode(tables: &[(usize, usize, Vec<PlainRow>)]) -> Vec<SealedBlock> {
    let mut writer = BodyWriter::new();
    let mut blocks = Vec::new();
    for (n, (columns, keys, rows)) in tables.iter().enumerate() {
        writer.table(TableId::from_bytes([n as u8; 16]), &ids(*columns), *keys);
        for row in rows {
            let mut mask = vec![0u64; columns.div_ceil(64)];
            let mut values = Vec::new();
            for (column, cell) in row.cells.iter().enumerate() {
                if let Some(cell) = cell {
                    mask[column / 64] |= 1 << (column % 64);
                    values.push(cell.as_ref());
                }
            }
            let key: Vec<_> = row.key.iter().map(Value::as_ref).collect();
            blocks.extend(writer.row(row.kind, row.length, &mask, &key, &values).expect("small"));
        }
    }
    blocks.extend(writer.finish());
    blocks
}

fn decode(blocks: &[SealedBlock], columns_of: &[usize]) -> Vec<(TableId, PlainRow)> {
    let mut rows = Vec::new();
    for sealed in blocks {
        let block = Block::open(&sealed.bytes, &sealed.info).expect("opens");
        block.check(&sealed.info).expect("sound");
        for section in block.sections() {
            let mut section = section.expect("sound");
            let table = section.table();
            let all = ids(columns_of[table.as_bytes()[0] as usize]);
            let mut row = Row::default();
            while section.next(&mut row).expect("sound") {
                let mut cells = vec![None; all.len()];
                let mut values = row.values.iter();
                for (n, id) in section.columns().iter().enumerate() {
                    if row.mask[n / 64] >> (n % 64) & 1 == 1 {
                        let at = all.iter().position(|other| other == id).expect("known");
                        cells[at] = values.next().map(|value| value.to_value());
                    }
                }
                let key = row.key.iter().map(|value| value.to_value()).collect();
                rows.push((table, PlainRow { kind: row.kind, length: row.length, key, cells }));
            }
        }
    }
    rows
}

/// Compares values by their bits, so that a NaN equals itself.
fn same(a: &[(TableId, PlainRow)], b: &[(TableId, PlainRow)]) -> bool {
    let value = |a: &Value, b: &Value| a.as_ref() == b.as_ref();
    let cell = |a: &Option<Value>, b: &Option<Value>| match (a, b) {
        (Some(a), Some(b)) => value(a, b),
        (None, None) => true,
        _ => false,
    };
    a.len() == b.len()
        && a.iter().zip(b).all(|((ta, a), (tb, b))| {
            (ta, a.kind, a.length) == (tb, b.kind, b.length)
                && a.key.iter().zip(&b.key).all(|(a, b)| value(a, b))
                && a.cells.iter().zip(&b.cells).all(|(a, b)| cell(a, b))
        })
}

proptest! {
    #[test]
    fn rows_come_back_exactly(tables in prop::collection::vec(table(), 1..4)) {
        let columns: Vec<_> = tables.iter().map(|table| table.0).collect();
        let expected: Vec<_> = tables.iter().enumerate()
            .flat_map(|(n, table)| table.2.iter().map(move |row| (TableId::from_bytes([n as u8; 16]), row.clone())))
            .collect();
        let blocks = encode(&tables);
        prop_assert!(same(&decode(&blocks, &columns), &expected));
        prop_assert_eq!(encode(&tables), blocks);
    }

    #[test]
    fn a_damaged_block_never_opens_and_a_hostile_one_never_panics(
        tables in prop::collection::vec(table(), 1..3), at: usize, bit in 0u8..8, cut: usize
    ) {
        for sealed in encode(&tables) {
            let mut damaged = sealed.bytes.clone();
            let at = at % damaged.len();
            damaged[at] ^= 1 << bit;
            prop_assert_eq!(Block::open(&damaged, &sealed.info).err(), Some(DecodeError::Hash { what: "block" }));
            // The same with a header that vouches for the damage, as a hostile author would write it.
            damaged.truncate(1 + cut % damaged.len());
            for raw_bytes in [sealed.info.raw_bytes, damaged.len() as u32 - 1, 1 << 28] {
                let hash = *blake3::hash(&damaged).as_bytes();
                let info = BlockInfo { stored_bytes: damaged.len() as u32, raw_bytes, hash, ..sealed.info };
                if let Ok(block) = Block::open(&damaged, &info) {
                    let _ = block.check(&info);
                }
            }
        }
    }

    #[test]
    fn a_header_has_one_encoding_and_survives_noise(
        header in header(), at: usize, bit in 0u8..8, noise in prop::collection::vec(any::<u8>(), 0..200)
    ) {
        let bytes = header.encode();
        prop_assert_eq!(Header::decode(&bytes).expect("decodes"), header.clone());
        let mut damaged = bytes.clone();
        damaged[at % bytes.len()] ^= 1 << bit;
        if let Ok(other) = Header::decode(&damaged) {
            prop_assert_eq!(other.encode(), damaged.clone());
            prop_assert_ne!(other, header);
        }
        prop_assert!(Header::decode(&bytes[..at % bytes.len()]).is_err());
        let mut hostile = bytes[..86].to_vec();
        hostile.extend(noise);
        if let Ok(other) = Header::decode(&hostile) {
            prop_assert_eq!(other.encode(), hostile);
        }
    }
}

/// Causes are older than the header.
fn header() -> impl Strategy<Value = Header> {
    let sites = prop::collection::btree_map(2u8..200, (1u64..1 << 40, 0u64..1 << 62), 0..4);
    let heads = prop::collection::btree_set(any::<[u8; 16]>(), 0..3);
    let blocks = prop::collection::vec((1u32..1 << 20, 1u32..1 << 20, 1u32..1 << 10, any::<[u8; 32]>()), 0..4);
    (sites.clone(), sites, heads, blocks, 1u64..1 << 40, 1u64 << 62..1 << 63, any::<bool>()).prop_map(
        |(causes, floor, heads, blocks, version, hlc, baseline)| Header {
            group: GroupId::from_bytes([9; 16]),
            site: SiteId::from_bytes([1; 16]),
            version,
            hlc: Hlc::from_bits(hlc).expect("in range"),
            baseline,
            previous: if version == 1 { [0; 32] } else { [3; 32] },
            causes: causes.into_iter().map(cause).collect(),
            floor: floor.into_iter().map(cause).collect(),
            heads: heads.into_iter().map(MigrationId::from_bytes).collect(),
            blocks: blocks
                .into_iter()
                .map(|(stored_bytes, raw_bytes, rows, hash)| BlockInfo { stored_bytes, raw_bytes, rows, hash })
                .collect(),
        },
    )
}

fn cause((site, (version, hlc)): (u8, (u64, u64))) -> Cause {
    Cause { site: SiteId::from_bytes([site; 16]), version, hlc: Hlc::from_bits(hlc).expect("in range") }
}

fn snapshot_header() -> impl Strategy<Value = SnapshotHeader> {
    let baselines = prop::collection::btree_map(0u64..9, 1u64..300, 0..3);
    let table = (prop::collection::btree_set(any::<[u8; 16]>(), 0..4), baselines);
    let tables = prop::collection::btree_map(any::<[u8; 16]>(), table, 0..4);
    let blocks = prop::collection::vec((1u32..1 << 20, 1u32..1 << 20, 1u32..1 << 10, any::<[u8; 32]>()), 0..4);
    (tables, blocks, prop::collection::btree_set(any::<[u8; 16]>(), 0..3)).prop_map(|(tables, blocks, heads)| {
        let table = |(id, (columns, baselines)): ([u8; 16], (std::collections::BTreeSet<[u8; 16]>, _))| SnapshotTable {
            id: TableId::from_bytes(id),
            columns: columns.into_iter().map(ColumnId::from_bytes).collect(),
            baselines: std::collections::BTreeMap::into_iter(baselines).collect(),
        };
        let block = |(stored_bytes, raw_bytes, rows, hash)| BlockInfo { stored_bytes, raw_bytes, rows, hash };
        SnapshotHeader {
            group: GroupId::from_bytes([9; 16]),
            site: SiteId::from_bytes([1; 16]),
            heads: heads.into_iter().map(MigrationId::from_bytes).collect(),
            tables: tables.into_iter().map(table).collect(),
            blocks: blocks.into_iter().map(block).collect(),
        }
    })
}

proptest! {
    #[test]
    fn a_snapshot_header_has_one_encoding_and_survives_noise(
        header in snapshot_header(), at: usize, bit in 0u8..8, noise in prop::collection::vec(any::<u8>(), 0..200)
    ) {
        let encoded = header.encode();
        let decoded = SnapshotHeader::decode(&encoded);
        prop_assert_eq!(decoded.as_ref(), Ok(&header));
        let mut hostile = encoded;
        let at = at % hostile.len();
        hostile[at] ^= 1 << bit;
        if let Ok(other) = SnapshotHeader::decode(&hostile) {
            prop_assert_ne!(&other, &header);
            prop_assert_eq!(other.encode(), hostile.clone());
        }
        hostile.truncate(at);
        hostile.extend(noise);
        if let Ok(other) = SnapshotHeader::decode(&hostile) {
            prop_assert_eq!(other.encode(), hostile);
        }
    }
}

#[test]
fn snapshot_header_bytes_are_pinned() {
    let header = SnapshotHeader {
        group: GroupId::from_bytes([0xaa; 16]),
        site: SiteId::from_bytes([1; 16]),
        heads: vec![MigrationId::from_bytes([0xcc; 16])],
        tables: vec![SnapshotTable {
            id: TableId::from_bytes([0xee; 16]),
            columns: vec![ColumnId::from_bytes([0xff; 16])],
            baselines: vec![(0, 300)],
        }],
        blocks: vec![BlockInfo { stored_bytes: 10, raw_bytes: 9, rows: 1, hash: [0xdd; 32] }],
    };
    assert_eq!(hex(&header.encode()), GOLDEN_SNAPSHOT);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn block_bytes_are_pinned() {
    let insert = |id, name: &str| PlainRow {
        kind: RowKind::Insert,
        length: 1,
        key: vec![Value::Integer(id)],
        cells: vec![Some(Value::Text(name.into())), None, Some(Value::Real(0.99))],
    };
    let delete = PlainRow { kind: RowKind::Delete, length: 2, key: vec![Value::Integer(9)], cells: vec![None; 3] };
    let blocks = encode(&[(3, 1, vec![insert(7, "Queen"), insert(8, "Kiss"), delete])]);
    assert_eq!(blocks.len(), 1);
    assert_eq!(hex(&blocks[0].bytes), GOLDEN_BLOCK);
}

#[test]
fn header_bytes_are_pinned() {
    let site = |n| SiteId::from_bytes([n; 16]);
    let header = Header {
        group: GroupId::from_bytes([0xaa; 16]),
        site: site(1),
        version: 2,
        hlc: Hlc::new(1_763_640_000_000, 5).expect("valid"),
        baseline: false,
        previous: [0xbb; 32],
        causes: vec![Cause { site: site(2), version: 300, hlc: Hlc::new(1, 0).expect("valid") }],
        floor: vec![Cause { site: site(1), version: 1, hlc: Hlc::new(2, 0).expect("valid") }],
        heads: vec![MigrationId::from_bytes([0xcc; 16])],
        blocks: vec![BlockInfo { stored_bytes: 10, raw_bytes: 9, rows: 1, hash: [0xdd; 32] }],
    };
    assert_eq!(hex(&header.encode()), GOLDEN_HEADER);
}

const GOLDEN_BLOCK: &str = concat!(
    "000000000000000000000000000000000002010101010101010101010101010101010303030303030303030303030303",
    "030301020403020a0101010300030e10120000010302000002050409517565656e4b6973730102020000ae47e17a14ae",
    "ef3fae47e17a14aeef3f0000",
);
const GOLDEN_HEADER: &str = concat!(
    "49534c430100aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa0101010101010101010101010101010102000000000000000500",
    "00be22a19a01bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb01020202020202020202",
    "02020202020202ac020000010000000000010101010101010101010101010101010101000002000000000001cccccccc",
    "cccccccccccccccccccccccc010a0901dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd",
);
const GOLDEN_SNAPSHOT: &str = concat!(
    "49534c530100aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa0101010101010101010101010101010101cccccccccccccccccc",
    "cccccccccccccc01eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee01ffffffffffffffffffffffffffffffff0100ac02010a09",
    "01dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd",
);

#[test]
fn a_million_rows_come_out_in_blocks_within_the_limit() {
    let mut writer = BodyWriter::new();
    writer.table(TableId::from_bytes([1; 16]), &ids(1), 1);
    let mut blocks = Vec::new();
    let text = [b'x'; 40];
    for n in 0..1_000_000 {
        let row = writer.row(RowKind::Insert, 1, &[1], &[ValueRef::Integer(n)], &[ValueRef::Text(&text)]);
        blocks.extend(row.expect("small"));
    }
    blocks.extend(writer.finish());
    assert!(blocks.iter().all(|block| block.info.raw_bytes as usize <= BLOCK_BYTES));
    assert_eq!(blocks.iter().map(|block| u64::from(block.info.rows)).sum::<u64>(), 1_000_000);
}

#[test]
fn one_large_row_has_a_block_of_its_own_and_an_oversized_one_is_refused() {
    let mut writer = BodyWriter::new();
    writer.table(TableId::from_bytes([1; 16]), &ids(1), 1);
    let large = vec![7u8; 5 << 20];
    let push = |writer: &mut BodyWriter, n, value: &[u8]| {
        writer.row(RowKind::Insert, 1, &[1], &[ValueRef::Integer(n)], &[ValueRef::Blob(value)])
    };
    assert!(push(&mut writer, 1, b"small").expect("fits").is_none());
    let first = push(&mut writer, 2, &large).expect("fits").expect("the small row's block is closed");
    assert_eq!(first.info.rows, 1);
    let second = push(&mut writer, 3, b"small").expect("fits").expect("the large row's block is closed");
    let block = Block::open(&second.bytes, &second.info).expect("opens");
    block.check(&second.info).expect("sound");
    let huge = vec![0u8; isle_changeset::ROW_BYTES_MAX];
    assert!(matches!(push(&mut writer, 4, &huge), Err(DecodeError::Limit { what: "size of a row", .. })));
}

#[test]
fn a_compression_bomb_stops_at_the_promised_size() {
    let packed = zstd::bulk::compress(&vec![0u8; 64 << 20], 3).expect("packs");
    let mut stored = vec![1u8];
    stored.extend(packed);
    let hash = *blake3::hash(&stored).as_bytes();
    for raw_bytes in [1000, 5 << 20] {
        let info = BlockInfo { stored_bytes: stored.len() as u32, raw_bytes, rows: 1, hash };
        assert!(Block::open(&stored, &info).is_err());
    }
}

#[test]
fn rows_of_very_many_nulls_go_into_blocks_that_others_take() {
    let mut writer = BodyWriter::new();
    let columns: Vec<ColumnId> = (0..4_096u32)
        .map(|n| {
            let mut id = [0; 16];
            id[..4].copy_from_slice(&n.to_be_bytes());
            ColumnId::from_bytes(id)
        })
        .collect();
    writer.table(TableId::from_bytes([1; 16]), &columns, 1);
    let (mask, values) = (vec![u64::MAX; 64], vec![ValueRef::Null; 4_096]);
    let mut blocks = Vec::new();
    for n in 0..200i64 {
        blocks.extend(writer.row(RowKind::Insert, 1, &mask, &[ValueRef::Integer(n)], &values).unwrap());
    }
    blocks.extend(writer.finish());
    assert!(blocks.len() > 2, "the writer closes its blocks long before");
    for sealed in &blocks {
        Block::open(&sealed.bytes, &sealed.info).unwrap().check(&sealed.info).unwrap();
    }
}
