//! Images built by hand from the specification, and hostile ones.

use proptest::prelude::*;
use uuid::Uuid;

use super::header::{Header, ImageType};
use super::*;
use crate::engine::error::ErrorKind;
use crate::engine::io::memory::Memory;
use crate::engine::model::Kind;

const BLOCK: u64 = 4096;

fn header(blocks: u64) -> Header {
    Header {
        image_type: ImageType::Dynamic,
        flags: 0,
        comment: b"a comment\x1b[31m".to_vec(),
        map_at: 512,
        data_at: 1024,
        disk_size: blocks * BLOCK,
        block_size: BLOCK,
        block_extra: 0,
        blocks,
        allocated: 0,
        geometry: (0, 0, 0),
        uuid: Uuid::from_u128(1),
        modification: Uuid::from_u128(2),
        link: Uuid::nil(),
        parent_modification: Uuid::nil(),
    }
}

/// The image with this map; stored block `n` is filled with the byte `n + 1`.
fn image(h: &Header, map: &[u32]) -> Vec<u8> {
    let mut b = h.encode();
    b.extend(map.iter().flat_map(|e| e.to_le_bytes()));
    b.resize(h.data_at as usize, 0);
    let stored = map.iter().filter(|e| **e < ZERO).max().map_or(0, |m| m + 1);
    for n in 0..stored.min(64) {
        b.resize(h.block_at(n.into()) as usize, 0xee);
        b.resize(b.len() + h.block_size as usize, n as u8 + 1);
    }
    b
}

fn open_bytes(b: Vec<u8>) -> Result<Vdi> {
    Vdi::open(Arc::new(Memory::new(b)))
}

#[test]
fn blocks_are_found_through_the_map() {
    let mut h = header(6);
    h.allocated = 3;
    let vdi = open_bytes(image(&h, &[1, 2, FREE, ZERO, 0, FREE])).unwrap();
    assert_eq!(vdi.map(10, 1 << 20).unwrap(), Mapping::data(0, 1024 + BLOCK + 10, 2 * BLOCK - 10));
    assert_eq!(vdi.map(2 * BLOCK, 1 << 20).unwrap(), Mapping::zero(2 * BLOCK));
    let mut all = vec![9; 6 * BLOCK as usize];
    vdi.read(0, &mut all).unwrap();
    for (i, want) in [2, 3, 0, 0, 1, 0].into_iter().enumerate() {
        assert!(all[i * BLOCK as usize..][..BLOCK as usize].iter().all(|b| *b == want), "block {i}");
    }
    let d = vdi.describe();
    assert!(d.warnings.is_empty() && d.facts.iter().any(|f| f.value == "a comment\\x1b[31m"));
}

#[test]
fn extra_data_lies_before_each_block() {
    let mut h = header(2);
    h.block_extra = 512;
    let vdi = open_bytes(image(&h, &[1, 0])).unwrap();
    let mut b = [0; 2];
    vdi.read(BLOCK - 1, &mut b).unwrap();
    assert_eq!(b, [2, 1]);
}

#[test]
fn a_differencing_image_names_its_parent_by_uuid_and_hides_it_with_zeros() {
    let mut h = header(3);
    h.image_type = ImageType::Differencing;
    assert_eq!(open_bytes(image(&h, &[FREE; 3])).err().unwrap().kind(), ErrorKind::Corrupt);
    // Microsoft's layout: the first three fields little-endian.
    let mut b = image(&h, &[FREE, ZERO, 0]);
    b[0x1a8..0x1b8]
        .copy_from_slice(&[0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]);
    b[0x1b8] = 7;
    let vdi = open_bytes(b).unwrap();
    let reference = vdi.backing().unwrap();
    assert!(reference.names.is_empty());
    assert_eq!(
        reference.identity,
        ParentIdentity::VdiUuids {
            image: "00112233-4455-6677-8899-aabbccddeeff".into(),
            modification: "00000007-0000-0000-0000-000000000000".into()
        }
    );
    let kinds: Vec<_> = (0..3).map(|i| vdi.map(i * BLOCK, 1).unwrap().kind).collect();
    assert_eq!(kinds, [Kind::Unallocated, Kind::Zero, Kind::Data]);
}

#[test]
fn damage_is_named() {
    let vdi = open_bytes(image(&header(4), &[0, 0, 70_000, FREE])).unwrap();
    assert!(vdi.describe().corrupt);
    assert_eq!(vdi.describe().warnings.len(), 2);
    assert_eq!(vdi.map(2 * BLOCK, 1).unwrap_err().kind(), ErrorKind::Corrupt);
    // A bad block does not hide the good ones before it.
    assert_eq!(vdi.map(BLOCK, 1 << 20).unwrap().len, BLOCK);
    for (at, value) in [
        (0x4c, 9u32),
        (0x154, 0),
        (0x158, 512),
        (0x168, 4096),
        (0x178, 3000),
        (0x178, 0),
        (0x17c, 1 << 20),
        (0x180, u32::MAX),
        (0x174, 1),
    ] {
        let mut b = image(&header(4), &[0, FREE, FREE, FREE]);
        b[at..at + 4].copy_from_slice(&value.to_le_bytes());
        assert_eq!(open_bytes(b).err().map(|e| e.kind()), Some(ErrorKind::Corrupt), "{at:#x}");
    }
    let mut b = image(&header(4), &[FREE; 4]);
    b[0x44] = 0;
    assert_eq!(open_bytes(b).err().unwrap().kind(), ErrorKind::Unsupported);
}

#[test]
fn cut_short_anywhere_it_is_an_error_or_its_blocks_are() {
    let full = image(&header(4), &[0, 1, FREE, FREE]);
    for len in 0..full.len() {
        match open_bytes(full[..len].to_vec()) {
            Err(e) => assert!(matches!(e.kind(), ErrorKind::Truncated | ErrorKind::Format) && len < 528, "{len}: {e}"),
            Ok(vdi) => assert_eq!(vdi.map(BLOCK, 1).unwrap_err().kind(), ErrorKind::Truncated, "{len}"),
        }
    }
}

proptest! {
    #[test]
    fn flipped_bytes_never_panic(flips in prop::collection::vec((0usize..540, any::<u8>()), 1..8)) {
        let mut b = image(&header(4), &[0, 1, ZERO, FREE]);
        for (at, v) in flips {
            if let Some(x) = b.get_mut(at) { *x = v; }
        }
        if let Ok(vdi) = open_bytes(b) {
            let size = vdi.size();
            for at in [0, size / 2, size.saturating_sub(1)] {
                if at < size {
                    if let Ok(m) = vdi.map(at, size) {
                        prop_assert!(m.len > 0 && m.len <= size - at);
                    }
                    let mut buf = vec![0; (size - at).min(5000) as usize];
                    let _ = vdi.read(at, &mut buf);
                }
            }
        }
    }
}

mod writing {
    use super::super::create::{new_header, write_new};
    use super::super::write::Writer;
    use super::*;
    use crate::engine::format::blocks::BlockWriter;
    use crate::engine::format::testing::{Op, Opened, agrees_with_model, ops, survives_power_cuts};
    use crate::engine::io::WriteDevice;

    const OPENED: Opened = Opened { writer: BlockWriter::<Writer>::open, reader: |dev| Ok(Arc::new(Vdi::open(dev)?)) };

    /// A new image of `blocks` blocks of 4 KiB; the map has no room to grow when `tight`.
    fn new(blocks: u64, kind: ImageType, tight: bool) -> Vec<u8> {
        let dev = Arc::new(Memory::default());
        let mut h = new_header(blocks * BLOCK - 512, BLOCK).unwrap();
        if tight {
            h.data_at = (512 + blocks * 4).next_multiple_of(512);
        }
        h.image_type = kind;
        match kind {
            ImageType::Differencing => h.link = Uuid::from_u128(5),
            ImageType::Static => h.allocated = h.blocks,
            ImageType::Dynamic => {}
        }
        write_new(&(dev.clone() as WriteDevice), &h).unwrap();
        dev.to_vec()
    }

    fn below(kind: ImageType, len: u64) -> Option<Vec<u8>> {
        (kind == ImageType::Differencing).then(|| (0..len).map(|i| 0x80 | (i / 512) as u8).collect())
    }

    const KINDS: [ImageType; 3] = [ImageType::Dynamic, ImageType::Static, ImageType::Differencing];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn any_changes_agree_with_a_model(kind in prop::sample::select(&KINDS[..]), longer: bool, ops in ops(14, 14_000, vec![1024, 30_000 / 512 * 512, 9 * BLOCK, 20 * BLOCK + 512])) {
            let bytes = agrees_with_model(new(10, kind, false), below(kind, if longer { 30 * BLOCK } else { 5 * BLOCK + 512 }), &OPENED, &ops);
            // No block is stored twice, none lies outside, and the count is right.
            prop_assert_eq!(&open_bytes(bytes).unwrap().describe().warnings, &Vec::<String>::new());
        }
    }

    #[test]
    fn a_map_without_room_moves() {
        for kind in [ImageType::Dynamic, ImageType::Differencing] {
            // 128 entries fill the sector after the header; growing to 1200 needs two blocks of map.
            let ops = [
                Op::Write(0, 20_000, 1),
                Op::Write(500, 9000, 2),
                Op::Resize(1200 * BLOCK),
                Op::Write(990, 9000, 3),
                Op::Resize(60 * BLOCK),
                Op::Resize(1300 * BLOCK),
            ];
            let bytes = agrees_with_model(new(128, kind, true), below(kind, 200 * BLOCK), &OPENED, &ops);
            let vdi = open_bytes(bytes).unwrap();
            assert!(vdi.header().map_at > 512 && vdi.describe().warnings.is_empty());
        }
        // A static image that is full to the brim cannot.
        let dev = Arc::new(Memory::new(new(128, ImageType::Static, true)));
        let writer = BlockWriter::<Writer>::open(dev, None).unwrap();
        assert_eq!(writer.resize(4000 * BLOCK).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn a_power_cut_anywhere_leaves_old_or_new() {
        for kind in KINDS {
            let ops = [
                Op::Write(100, 9000, 1),
                Op::Write(900, 3000, 2),
                Op::Flush,
                Op::Write(120, 5000, 3),
                Op::Zero(600, 9000),
                Op::Write(500, 100, 4),
                Op::Flush,
                Op::Resize(14 * BLOCK),
                Op::Write(950, 3000, 5),
                Op::Flush,
                Op::Resize(3 * BLOCK + 1024),
                Op::Write(0, 13_000, 6),
            ];
            survives_power_cuts(new(10, kind, false), below(kind, 20 * BLOCK), &OPENED, &ops, &|name, image| {
                assert!(!image.describe().corrupt, "{name}: {:?}", image.describe().warnings);
            });
        }
        let ops = [Op::Write(0, 20_000, 1), Op::Flush, Op::Resize(300 * BLOCK), Op::Write(900, 100, 2), Op::Flush];
        survives_power_cuts(new(128, ImageType::Dynamic, true), None, &OPENED, &ops, &|_, _| {});
    }

    #[test]
    fn a_damaged_map_is_not_written_to() {
        let b = image(&header(4), &[0, 0, FREE, FREE]);
        let e = BlockWriter::<Writer>::open(Arc::new(Memory::new(b)), None).err().unwrap();
        assert_eq!(e.kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn a_session_changes_the_modification_uuid_once() {
        let dev = Arc::new(Memory::new(new(4, ImageType::Dynamic, false)));
        let id = || Header::read(dev.as_ref()).unwrap().modification;
        let before = id();
        let writer = BlockWriter::<Writer>::open(dev.clone(), None).unwrap();
        assert_eq!(id(), before);
        writer.write(0, &[1]).unwrap();
        let first = id();
        writer.write(9000, &[1]).unwrap();
        writer.flush().unwrap();
        assert!(first != before && id() == first);
    }
}
