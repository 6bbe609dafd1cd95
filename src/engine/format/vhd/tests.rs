//! Images built by hand from the specification, and hostile ones.

use proptest::prelude::*;
use uuid::Uuid;

use super::header::Locator;
use super::*;
use crate::engine::format::probe::{best, probe};
use crate::engine::format::windows::to_utf16;
use crate::engine::io::memory::Memory;

const BLOCK: u64 = 4096;

fn footer(kind: DiskType, size: u64) -> Footer {
    Footer {
        features: 2,
        version: 0x1_0000,
        data_offset: if kind == DiskType::Fixed { u64::MAX } else { 512 },
        timestamp: 0,
        creator: *b"win ",
        creator_version: 0xa_0000,
        creator_os: *b"Wi2k",
        original_size: size,
        current_size: size,
        geometry: footer::geometry(size / SECTOR),
        kind,
        uuid: Uuid::from_u128(1),
        saved_state: false,
    }
}

/// An image of 4 KiB blocks: per block its bitmap byte and the byte it is filled with, or none.
fn image(kind: DiskType, blocks: &[Option<(u8, u8)>]) -> Vec<u8> {
    let f = footer(kind, blocks.len() as u64 * BLOCK).encode();
    let mut h = Header {
        table_at: 1536,
        version: 0x1_0000,
        entries: blocks.len() as u32,
        block_size: BLOCK,
        parent: Uuid::nil(),
        parent_timestamp: 0,
        parent_name: Vec::new(),
        locators: [Locator::default(); 8],
    };
    let name = to_utf16("..\\bases\\p.vhd", false);
    let absolute = to_utf16("C:\\vm\\q.vhd", false);
    if kind == DiskType::Differencing {
        h.parent = Uuid::from_u128(0x77);
        h.parent_name = to_utf16("r.vhd", true);
        h.locators[1] = Locator { code: *b"W2ku", space: 1, len: absolute.len() as u32, at: 2048 };
        h.locators[0] = Locator { code: *b"W2ru", space: 512, len: name.len() as u32, at: 2560 };
    }
    let mut b = [f.clone(), h.encode()].concat();
    let mut data = Vec::new();
    for block in blocks {
        let entry = match block {
            None => FREE,
            Some((bits, fill)) => {
                let at = 3072 + data.len() as u32;
                data.extend([*bits; 1]);
                data.resize(data.len() + 511, 0);
                data.resize(data.len() + BLOCK as usize, *fill);
                at / 512
            }
        };
        b.extend(entry.to_be_bytes());
    }
    b.resize(2048, 0);
    b.extend(&absolute);
    b.resize(2560, 0);
    b.extend(&name);
    b.resize(3072, 0);
    [b, data, f].concat()
}

fn open_bytes(b: Vec<u8>) -> Result<Vhd> {
    Vhd::open(Arc::new(Memory::new(b)))
}

#[test]
fn bits_within_a_byte_decide_sector_by_sector() {
    let b = image(DiskType::Differencing, &[Some((0b1011_0001, 7)), None]);
    let vhd = open_bytes(b).unwrap();
    let mut seen = Vec::new();
    let mut at = 0;
    while at < 2 * BLOCK {
        let m = vhd.map(at, u64::MAX).unwrap();
        seen.push((m.kind, m.len / 512));
        at += m.len;
    }
    use Kind::{Data, Unallocated};
    assert_eq!(seen, [(Data, 1), (Unallocated, 1), (Data, 2), (Unallocated, 3), (Data, 1), (Unallocated, 8)]);
    assert_eq!(vhd.map(1024 + 100, 1000).unwrap(), Mapping::data(0, 3072 + 512 + 1024 + 100, 924));
}

#[test]
fn a_dynamic_disk_has_zeros_where_bits_are_clear() {
    let vhd = open_bytes(image(DiskType::Dynamic, &[None, Some((0xf0, 7))])).unwrap();
    let mut all = vec![1; 2 * BLOCK as usize];
    vhd.read(0, &mut all).unwrap();
    assert!(
        all[..4096].iter().all(|b| *b == 0) && all[4096..6144].iter().all(|b| *b == 7) && all[6144..].iter().all(|b| *b == 0)
    );
    assert_eq!(vhd.map(0, 1).unwrap().kind, Kind::Zero);
    assert!(vhd.backing().is_none() && vhd.describe().warnings.is_empty());
}

#[test]
fn the_parent_is_named_in_local_words() {
    let vhd = open_bytes(image(DiskType::Differencing, &[None])).unwrap();
    let reference = vhd.backing().unwrap();
    assert_eq!(reference.names, ["../bases/p.vhd", "p.vhd", "q.vhd", "r.vhd"]);
    assert_eq!(reference.identity, ParentIdentity::Uuid(Uuid::from_u128(0x77).to_string()));
}

#[test]
fn a_footer_at_the_end_makes_a_fixed_disk() {
    for size in [512usize, 511] {
        let mut b = vec![3u8; 8192];
        // The guest's own first bytes look like a dynamic disk.
        b[..512].copy_from_slice(&footer(DiskType::Dynamic, 1 << 30).encode());
        b.extend(&footer(DiskType::Fixed, 8192).encode()[..size]);
        let dev = Memory::new(b.clone());
        assert_eq!(best(&probe(&dev).unwrap()), Format::Vhd);
        let vhd = open_bytes(b).unwrap();
        assert_eq!((vhd.size(), vhd.map(100, u64::MAX).unwrap()), (8192, Mapping::data(0, 100, 8092)));
        assert_eq!(vhd.describe().cluster_size, None);
    }
    let mut short = vec![0u8; 4096];
    short.extend(footer(DiskType::Fixed, 8192).encode());
    assert_eq!(open_bytes(short).err().unwrap().kind(), ErrorKind::Truncated);
}

#[test]
fn sizes_follow_the_creator() {
    let size = 100 << 20;
    for (creator, kind, by_geometry) in [
        (b"win ", DiskType::Dynamic, false),
        (b"qem2", DiskType::Dynamic, false),
        (b"vbox", DiskType::Dynamic, false),
        (b"qemu", DiskType::Dynamic, true),
        (b"vpc ", DiskType::Fixed, true),
        (b"vpc ", DiskType::Differencing, false),
    ] {
        let mut f = footer(kind, size);
        f.creator = *creator;
        let (c, h, s) = f.geometry;
        let chs = u64::from(c) * u64::from(h) * u64::from(s) * 512;
        assert_ne!(chs, size);
        assert_eq!(f.size(), if by_geometry { chs } else { size }, "{creator:?}");
        f.geometry = (65535, 16, 255);
        assert_eq!(f.size(), size);
    }
}

#[test]
fn the_intact_copy_counts() {
    let good = image(DiskType::Dynamic, &[Some((0xff, 7))]);
    let end = good.len() - 512;
    for (at, warned) in [(0, true), (40, true), (end, true), (end + 40, true)] {
        let mut b = good.clone();
        b[at] ^= 1;
        let vhd = open_bytes(b.clone()).unwrap();
        assert_eq!((vhd.size(), !vhd.describe().warnings.is_empty()), (BLOCK, warned), "{at}");
        assert_eq!(best(&probe(&Memory::new(b)).unwrap()), Format::Vhd);
    }
    // Both intact and different: the end counts.
    let mut other = footer(DiskType::Dynamic, BLOCK);
    other.uuid = Uuid::from_u128(9);
    let mut b = good.clone();
    b[..512].copy_from_slice(&other.encode());
    let vhd = open_bytes(b).unwrap();
    assert_eq!((vhd.describe().identity.uuid.clone(), vhd.describe().warnings.len()), (Some(Uuid::from_u128(1).to_string()), 1));
    // Both damaged.
    let mut b = good.clone();
    b[40] ^= 1;
    b[end + 40] ^= 1;
    assert_eq!(open_bytes(b).err().unwrap().kind(), ErrorKind::Corrupt);
    // The dynamic header has one copy only.
    let mut b = good;
    b[512 + 100] ^= 1;
    assert_eq!(open_bytes(b).err().unwrap().kind(), ErrorKind::Corrupt);
}

#[test]
fn damage_is_named() {
    let good = image(DiskType::Dynamic, &[Some((0xff, 7)), Some((0xff, 8))]);
    for (entry, kind) in
        [(0u32, ErrorKind::Corrupt), (1, ErrorKind::Corrupt), (3, ErrorKind::Corrupt), (0x00ff_ffff, ErrorKind::Truncated)]
    {
        let mut b = good.clone();
        b[1540..1544].copy_from_slice(&entry.to_be_bytes());
        let vhd = open_bytes(b).unwrap();
        assert_eq!(vhd.map(BLOCK, 1).unwrap_err().kind(), kind, "{entry}");
        assert!(vhd.map(0, 2 * BLOCK).is_ok());
    }
    for len in 0..good.len() - 512 {
        match open_bytes(good[..len].to_vec()) {
            Err(e) => assert!(matches!(e.kind(), ErrorKind::Truncated | ErrorKind::Format | ErrorKind::Corrupt), "{len}: {e}"),
            Ok(vhd) => {
                assert!(len < 12_288 && !vhd.describe().warnings.is_empty(), "{len}");
                let readable = (0..2).filter(|i| vhd.read(i * BLOCK, &mut [0; BLOCK as usize]).is_ok()).count();
                assert!(readable < 2 || len >= good.len() - 512, "{len}");
            }
        }
    }
}

proptest! {
    #[test]
    fn flipped_bytes_never_panic(flips in prop::collection::vec((0usize..3600, any::<u8>()), 1..8), mend: bool) {
        let mut b = image(DiskType::Differencing, &[Some((0x55, 7)), None, Some((0xff, 8))]);
        for (at, v) in flips {
            if let Some(x) = b.get_mut(at) { *x = v; }
        }
        if mend {
            // With right checksums the fields themselves are looked at.
            for (at, len, field) in [(0, 512, 64), (512, 1024, 36)] {
                let sum = footer::checksum(&b[at..at + len], field);
                b[at + field..at + field + 4].copy_from_slice(&sum.to_be_bytes());
            }
            let end = b.len() - 512;
            b.copy_within(0..512, end);
        }
        if let Ok(vhd) = open_bytes(b) {
            let size = vhd.size();
            for at in [0, size / 2, size.saturating_sub(1)] {
                if at < size {
                    if let Ok(m) = vhd.map(at, size) {
                        prop_assert!(m.len > 0 && m.len <= size - at);
                    }
                    let _ = vhd.read(at, &mut vec![0; (size - at).min(5000) as usize]);
                }
            }
        }
    }
}

mod writing {
    use super::super::create::write_dynamic;
    use super::super::write::Writer;
    use super::*;
    use crate::engine::format::blocks::BlockWriter;
    use crate::engine::format::testing::{Op, Opened, agrees_with_model, ops, survives_power_cuts};
    use crate::engine::format::write::NewBacking;
    use crate::engine::io::WriteDevice;

    const OPENED: Opened = Opened { writer: BlockWriter::<Writer>::open, reader: |dev| Ok(Arc::new(Vhd::open(dev)?)) };
    const KINDS: [DiskType; 3] = [DiskType::Fixed, DiskType::Dynamic, DiskType::Differencing];

    /// A new image of blocks of 4 KiB.
    fn new(kind: DiskType, size: u64) -> Vec<u8> {
        let f = footer(kind, size);
        if kind == DiskType::Fixed {
            return [vec![0; size as usize], f.encode()].concat();
        }
        let parent = NewBacking {
            name: "sub/p.vhd".into(),
            path: "/x/sub/p.vhd".into(),
            format: Format::Vhd,
            size,
            identity: Identity { uuid: Some(Uuid::from_u128(3).to_string()), ..Identity::default() },
            disk: None,
        };
        let dev = Arc::new(Memory::default());
        write_dynamic(&(dev.clone() as WriteDevice), &f, BLOCK, (kind == DiskType::Differencing).then_some(&parent)).unwrap();
        dev.to_vec()
    }

    fn below(kind: DiskType, len: u64) -> Option<Vec<u8>> {
        (kind == DiskType::Differencing).then(|| (0..len).map(|i| 0x80 | (i / 512) as u8).collect())
    }

    /// Like [`image`], a child with partly present blocks.
    fn partial() -> Vec<u8> {
        image(DiskType::Differencing, &[Some((0b1011_0001, 7)), None, Some((0b0000_1111, 9)), None, Some((0, 1))])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn any_changes_agree_with_a_model(kind in prop::sample::select(&KINDS[..]), longer: bool, ops in ops(14, 14_000, vec![1024, 30_208, 9 * BLOCK, 20 * BLOCK + 512, 700 * BLOCK])) {
            let bytes = agrees_with_model(new(kind, 10 * BLOCK - 512), below(kind, if longer { 30 * BLOCK } else { 5 * BLOCK + 512 }), &OPENED, &ops);
            let vhd = open_bytes(bytes).unwrap();
            prop_assert_eq!(&vhd.describe().warnings, &Vec::<String>::new());
        }

        #[test]
        fn partly_present_blocks_are_filled_up(ops in ops(8, 6000, vec![BLOCK, 7 * BLOCK])) {
            agrees_with_model(partial(), below(DiskType::Differencing, 9 * BLOCK), &OPENED, &ops);
            let dynamic = image(DiskType::Dynamic, &[Some((0b1011_0001, 7)), None, Some((0, 1))]);
            agrees_with_model(dynamic, None, &OPENED, &ops);
        }
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
            survives_power_cuts(new(kind, 10 * BLOCK - 512), below(kind, 20 * BLOCK), &OPENED, &ops, &|_, _| {});
        }
        // A table that has to move.
        let ops = [Op::Write(0, 20_000, 1), Op::Flush, Op::Resize(700 * BLOCK), Op::Write(900, 100, 2), Op::Flush];
        survives_power_cuts(new(DiskType::Dynamic, 10 * BLOCK), None, &OPENED, &ops, &|_, _| {});
        let ops = [Op::Write(100, 600, 1), Op::Flush, Op::Write(600, 2000, 2)];
        survives_power_cuts(partial(), below(DiskType::Differencing, 9 * BLOCK), &OPENED, &ops, &|_, _| {});
    }

    #[test]
    fn a_new_child_names_its_parent() {
        let vhd = open_bytes(new(DiskType::Differencing, 10 * BLOCK)).unwrap();
        let reference = vhd.backing().unwrap();
        assert_eq!(reference.names, ["sub/p.vhd", "p.vhd"]);
        assert_eq!(reference.identity, ParentIdentity::Uuid(Uuid::from_u128(3).to_string()));
        // By the specification: the second locator field is W2ru, its text UTF-16LE.
        let b = new(DiskType::Differencing, 10 * BLOCK);
        let at = u64::from_be_bytes(b[512 + 576 + 16..][..8].try_into().unwrap()) as usize;
        assert_eq!((&b[512 + 576..][..4], &b[at..at + 4]), (&b"W2ru"[..], &b".\0\\\0"[..]));
    }
}
