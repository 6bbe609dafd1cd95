//! Images built by hand from the specification (nothing here uses the module's own encoders), and hostile ones.

use proptest::prelude::*;

use super::*;
use crate::engine::error::ErrorKind;
use crate::engine::format::probe::{best, probe};
use crate::engine::io::memory::Memory;
use crate::engine::model::Kind;

const M: usize = 1 << 20;
const BAT_AT: usize = 2 * M;
const META_AT: usize = 3 * M;

fn put(b: &mut [u8], at: usize, bytes: &[u8]) {
    b[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Writes the CRC-32C of the structure at `at` into its bytes 4 to 8.
fn seal(b: &mut [u8], at: usize, len: usize) {
    put(b, at + 4, &[0; 4]);
    let sum = crc32c::crc32c(&b[at..at + len]);
    put(b, at + 4, &sum.to_le_bytes());
}

/// A GUID as text, in the layout of the file.
fn id(text: &str) -> [u8; 16] {
    let h: Vec<u8> = text
        .replace('-', "")
        .as_bytes()
        .chunks(2)
        .map(|c| u8::from_str_radix(std::str::from_utf8(c).unwrap(), 16).unwrap())
        .collect();
    [h[3], h[2], h[1], h[0], h[5], h[4], h[7], h[6], h[8], h[9], h[10], h[11], h[12], h[13], h[14], h[15]]
}

const PARENT_ID: &str = "00112233-4455-6677-8899-aabbccddeeff";

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// Blocks of 1 MiB: their states, stored block `n` filled with the byte `n + 1`, at MiB `4 + n`. A sector bitmap, if any, comes
/// after them.
fn image(sector: u32, parent: bool, states: &[u64], bitmap: Option<&[u8]>) -> Vec<u8> {
    let mut b = vec![0u8; 4 * M];
    put(&mut b, 0, b"vhdxfile");
    put(&mut b, 8, &utf16("by hand"));
    for (at, sequence) in [(64 << 10, 1u64), (128 << 10, 2)] {
        put(&mut b, at, b"head");
        put(&mut b, at + 8, &sequence.to_le_bytes());
        put(&mut b, at + 32, &id("0a0b0c0d-0000-0000-0000-000000000001"));
        put(&mut b, at + 66, &1u16.to_le_bytes());
        put(&mut b, at + 68, &(M as u32).to_le_bytes());
        put(&mut b, at + 72, &(M as u64).to_le_bytes());
        seal(&mut b, at, 4096);
    }
    for at in [192 << 10, 256 << 10] {
        put(&mut b, at, b"regi");
        put(&mut b, at + 8, &2u32.to_le_bytes());
        for (n, (guid, place)) in
            [("2dc27766-f623-4200-9d64-115e9bfd4a08", BAT_AT), ("8b7ca206-4790-4b9a-b8fe-575f050f886e", META_AT)]
                .into_iter()
                .enumerate()
        {
            put(&mut b, at + 16 + n * 32, &id(guid));
            put(&mut b, at + 32 + n * 32, &(place as u64).to_le_bytes());
            put(&mut b, at + 40 + n * 32, &(M as u32).to_le_bytes());
            put(&mut b, at + 44 + n * 32, &1u32.to_le_bytes());
        }
        seal(&mut b, at, 64 << 10);
    }
    put(&mut b, META_AT, b"metadata");
    let mut locator = [id("b04aefb7-d19e-4a81-b789-25b8e9445913").to_vec(), vec![0, 0, 3, 0]].concat();
    let pairs = [
        ("parent_linkage", format!("{{{PARENT_ID}}}")),
        ("relative_path", ".\\sub\\p.vhdx".into()),
        ("absolute_win32_path", "\\\\?\\C:\\q.vhdx".into()),
    ];
    let mut texts = Vec::new();
    for (key, value) in &pairs {
        let (k, v) = (utf16(key), utf16(value));
        let at = 20 + 36 + texts.len();
        locator.extend((at as u32).to_le_bytes());
        locator.extend(((at + k.len()) as u32).to_le_bytes());
        locator.extend((k.len() as u16).to_le_bytes());
        locator.extend((v.len() as u16).to_le_bytes());
        texts.extend([k, v].concat());
    }
    locator.extend(texts);
    let flags = if parent { 2u32 } else { 0 };
    let mut items = vec![
        ("caa16737-fa36-4d43-b3b6-33f0aa44e76b", [(M as u32).to_le_bytes(), flags.to_le_bytes()].concat()),
        ("2fa54224-cd1b-4876-b211-5dbed83bf4b8", ((states.len() * M) as u64).to_le_bytes().to_vec()),
        ("8141bf1d-a96f-4709-ba47-f233a8faab5f", sector.to_le_bytes().to_vec()),
        ("cda348c7-445d-4471-9cc9-e9885251c556", 4096u32.to_le_bytes().to_vec()),
    ];
    if parent {
        items.push(("a8d35f2d-b30b-454d-abf7-d3d84834ab0c", locator));
    }
    put(&mut b, META_AT + 10, &(items.len() as u16).to_le_bytes());
    let mut at = 64 << 10;
    for (n, (guid, bytes)) in items.iter().enumerate() {
        let o = META_AT + 32 + n * 32;
        put(&mut b, o, &id(guid));
        put(&mut b, o + 16, &(at as u32).to_le_bytes());
        put(&mut b, o + 20, &(bytes.len() as u32).to_le_bytes());
        put(&mut b, o + 24, &4u32.to_le_bytes());
        put(&mut b, META_AT + at, bytes);
        at += bytes.len();
    }
    for (n, state) in states.iter().enumerate() {
        let place = if *state >= 6 { b.len() as u64 } else { 0 };
        put(&mut b, BAT_AT + n * 8, &(place | state).to_le_bytes());
        if *state >= 6 {
            b.resize(b.len() + M, n as u8 + 1);
        }
    }
    if let Some(bits) = bitmap {
        let ratio = (sector as usize * (1 << 23)) / M;
        let entry = b.len() as u64 | 6;
        put(&mut b, BAT_AT + ratio * 8, &entry.to_le_bytes());
        b.extend(bits);
        b.resize(b.len().next_multiple_of(M), 0);
    }
    b
}

fn open_bytes(b: Vec<u8>) -> Result<Vhdx> {
    Vhdx::open(Arc::new(Memory::new(b)))
}

#[test]
fn blocks_are_found_by_state() {
    let b = image(512, false, &[6, 6, 0, 1, 2, 3, 5, 6], None);
    assert_eq!(best(&probe(&Memory::new(b.clone())).unwrap()), Format::Vhdx);
    let vhdx = open_bytes(b).unwrap();
    let mib = M as u64;
    assert_eq!(vhdx.map(5, u64::MAX).unwrap(), Mapping::data(0, 4 * mib + 5, 2 * mib - 5));
    assert_eq!(vhdx.map(2 * mib, u64::MAX).unwrap(), Mapping::zero(5 * mib));
    let mut two = [0; 2];
    vhdx.read(mib - 1, &mut two).unwrap();
    assert_eq!(two, [1, 2]);
    assert!(vhdx.backing().is_none() && vhdx.describe().warnings.is_empty() && !vhdx.describe().dirty);
}

#[test]
fn bits_of_a_partly_present_block_are_read_least_significant_first() {
    for sector in [512u32, 4096] {
        // Block 1 begins at bit 1 MiB / sector of the chunk's bitmap.
        let first = M / sector as usize / 8;
        let mut bits = vec![0u8; M];
        bits[first] = 0b0000_1101;
        let vhdx = open_bytes(image(sector, true, &[0, 7, 6], Some(&bits))).unwrap();
        let mut seen = Vec::new();
        let mut at = 0;
        while at < vhdx.size() {
            let m = vhdx.map(at, u64::MAX).unwrap();
            seen.push((m.kind, m.len));
            at += m.len;
        }
        use Kind::{Data, Unallocated};
        let (s, mib) = (u64::from(sector), M as u64);
        // Long runs of bits may be told in pieces.
        seen.dedup_by(|b, a| {
            a.0 == b.0 && {
                a.1 += b.1;
                true
            }
        });
        assert_eq!(
            seen,
            [(Unallocated, mib), (Data, s), (Unallocated, s), (Data, 2 * s), (Unallocated, mib - 4 * s), (Data, mib)]
        );
    }
}

#[test]
fn the_parent_is_named_in_local_words() {
    let vhdx = open_bytes(image(512, true, &[0], None)).unwrap();
    let reference = vhdx.backing().unwrap();
    assert_eq!(reference.names, ["sub/p.vhdx", "p.vhdx", "q.vhdx"]);
    assert_eq!(reference.identity, ParentIdentity::Uuid(PARENT_ID.into()));
    assert_eq!(vhdx.describe().identity.uuid.as_deref(), Some("0a0b0c0d-0000-0000-0000-000000000001"));
}

/// One log entry at byte `at` of the log: each change is a sector or a range of zeros.
fn log_entry(
    b: &mut [u8],
    at: usize,
    tail: usize,
    sequence: u64,
    log: &[u8; 16],
    changes: &[(u64, Option<&[u8]>)],
    zero_len: u64,
) -> usize {
    let data = changes.iter().filter(|c| c.1.is_some()).count();
    let mut e = vec![0u8; 4096 * (1 + data)];
    let len = e.len();
    put(&mut e, 0, b"loge");
    put(&mut e, 8, &(len as u32).to_le_bytes());
    put(&mut e, 12, &(tail as u32).to_le_bytes());
    put(&mut e, 16, &sequence.to_le_bytes());
    put(&mut e, 24, &(changes.len() as u32).to_le_bytes());
    put(&mut e, 32, log);
    let end = b.len() as u64;
    put(&mut e, 48, &end.to_le_bytes());
    put(&mut e, 56, &(end + 4096).to_le_bytes());
    let mut next = 4096;
    for (n, (place, bytes)) in changes.iter().enumerate() {
        let o = 64 + n * 32;
        put(&mut e, o + 16, &place.to_le_bytes());
        put(&mut e, o + 24, &sequence.to_le_bytes());
        match bytes {
            None => {
                put(&mut e, o, b"zero");
                put(&mut e, o + 8, &zero_len.to_le_bytes());
            }
            Some(s) => {
                put(&mut e, o, b"desc");
                put(&mut e, o + 4, &s[4092..]);
                put(&mut e, o + 8, &s[..8]);
                put(&mut e, next, s);
                put(&mut e, next, b"data");
                put(&mut e, next + 4, &((sequence >> 32) as u32).to_le_bytes());
                put(&mut e, next + 4092, &(sequence as u32).to_le_bytes());
                next += 4096;
            }
        }
    }
    seal(&mut e, 0, len);
    for (n, s) in e.chunks(4096).enumerate() {
        put(b, M + (at + n * 4096) % M, s);
    }
    (at + len) % M
}

/// Sets the log GUID in the current header.
fn use_log(b: &mut [u8], log: &[u8; 16]) {
    put(b, (128 << 10) + 48, log);
    seal(b, 128 << 10, 4096);
}

#[test]
fn a_dirty_log_is_replayed_in_memory() {
    let log = id("11111111-2222-3333-4444-555555555555");
    let good = image(512, false, &[6, 2, 6, 2], None);
    let bat: Vec<u8> = good[BAT_AT..BAT_AT + 4096].to_vec();
    // What the log holds: two entries; the first writes nonsense over the BAT, the second zeros it and then writes it. It wraps
    // around the log's end, and old entries of another log lie about.
    let mut b = good.clone();
    put(&mut b, BAT_AT, &[0xff; 4096]);
    let _ = log_entry(&mut b, 0x8000, 0x8000, 99, &id("99999999-2222-3333-4444-555555555555"), &[(0, Some(&[1; 4096]))], 0);
    let stale = log_entry(&mut b, 0x4000, 0x4000, 3, &log, &[(0, Some(&[1; 4096]))], 0);
    assert!(stale < 0x8000);
    let first = M - 8192;
    let next = log_entry(&mut b, first, first, (7 << 32) + 8, &log, &[(BAT_AT as u64, Some(&[0x44; 4096]))], 0);
    assert_eq!(next, 0);
    log_entry(&mut b, next, first, (7 << 32) + 9, &log, &[(BAT_AT as u64, None), (BAT_AT as u64, Some(&bat))], 8192);
    assert!(open_bytes(b.clone()).is_ok_and(|v| v.map(0, 1).is_err()), "the log does not count before the header says so");
    use_log(&mut b, &log);
    let vhdx = open_bytes(b.clone()).unwrap();
    assert!(vhdx.describe().dirty);
    let mut all = vec![9; 4 * M];
    vhdx.read(0, &mut all).unwrap();
    let clean = open_bytes(good).unwrap();
    let mut want = vec![9; 4 * M];
    clean.read(0, &mut want).unwrap();
    assert!(all == want);
    assert_eq!(vhdx.dev.len(), b.len() as u64 + 4096, "as long as the last entry says");
    // A torn last entry: the one before it is the head then.
    let mut torn = b.clone();
    torn[M + 5000] ^= 1;
    assert!(open_bytes(torn).unwrap().map(0, 1).is_err(), "the nonsense of the first entry");
    // Entries that know of a longer file.
    let mut short = b.clone();
    short.truncate(b.len() - 1);
    assert_eq!(open_bytes(short).err().unwrap().kind(), ErrorKind::Truncated);
    // Announced, but nothing written.
    let mut empty = b;
    empty[M..2 * M].fill(0);
    put(&mut empty, BAT_AT, &bat);
    let vhdx = open_bytes(empty).unwrap();
    assert!(vhdx.describe().dirty && vhdx.map(0, 1).is_ok());
}

#[test]
fn damage_is_named() {
    let good = image(512, true, &[6, 6], None);
    let kind = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut b = good.clone();
        change(&mut b);
        open_bytes(b).err().map(|e| e.kind())
    };
    assert_eq!(kind(&|_| {}), None);
    // One header or region table damaged: the other stands in. Both: corrupt.
    assert_eq!(kind(&|b| b[(64 << 10) + 100] ^= 1), None);
    assert_eq!(kind(&|b| b[(128 << 10) + 100] ^= 1), None);
    assert_eq!(kind(&|b| [64, 128].iter().for_each(|k| b[(k << 10) + 100] ^= 1)), Some(ErrorKind::Corrupt));
    assert_eq!(kind(&|b| b[(192 << 10) + 100] ^= 1), None);
    assert_eq!(kind(&|b| [192, 256].iter().for_each(|k| b[(k << 10) + 100] ^= 1)), Some(ErrorKind::Corrupt));
    // Two different headers of one sequence number.
    assert_eq!(
        kind(&|b| {
            b[(64 << 10) + 8] = 2;
            b[(64 << 10) + 20] = 9;
            seal(b, 64 << 10, 4096);
        }),
        Some(ErrorKind::Corrupt)
    );
    let region = |b: &mut Vec<u8>, at: usize, bytes: &[u8]| {
        for table in [192 << 10, 256 << 10] {
            put(b, table + at, bytes);
            seal(b, table, 64 << 10);
        }
    };
    assert_eq!(kind(&|b| region(b, 16, &[7; 16])), Some(ErrorKind::Unsupported), "unknown, required");
    assert_eq!(kind(&|b| region(b, 32, &(3u64 << 20).to_le_bytes())), Some(ErrorKind::Corrupt), "overlapping");
    assert_eq!(kind(&|b| region(b, 32, &(1u64 << 40).to_le_bytes())), Some(ErrorKind::Truncated));
    assert_eq!(kind(&|b| region(b, 32, &12345u64.to_le_bytes())), Some(ErrorKind::Corrupt));
    assert_eq!(kind(&|b| put(b, META_AT + 32, &[7; 16])), Some(ErrorKind::Unsupported), "unknown item");
    assert_eq!(kind(&|b| put(b, META_AT + 32 + 16, &[0xff; 4])), Some(ErrorKind::Corrupt));
    assert_eq!(kind(&|b| put(b, META_AT + (64 << 10), &3u32.to_le_bytes())), Some(ErrorKind::Corrupt), "block size");
    assert_eq!(kind(&|b| put(b, META_AT + (64 << 10) + 8, &[0xff; 8])), Some(ErrorKind::Corrupt), "disk size");
    // Entries of the BAT.
    for (entry, want) in [
        ((2u64 << 20) | 6, ErrorKind::Corrupt),
        (6, ErrorKind::Corrupt),
        (4, ErrorKind::Corrupt),
        ((1 << 40) | 6, ErrorKind::Truncated),
        ((4 << 20) | 7, ErrorKind::Corrupt),
    ] {
        let mut b = good.clone();
        put(&mut b, BAT_AT + 8, &entry.to_le_bytes());
        let vhdx = open_bytes(b).unwrap();
        assert_eq!(vhdx.map(M as u64, 1).unwrap_err().kind(), want, "{entry:#x}");
        assert_eq!(vhdx.map(0, u64::MAX).unwrap().len, M as u64);
    }
}

#[test]
fn cut_short_anywhere_it_is_an_error_or_its_blocks_are() {
    let full = image(512, false, &[6, 6], None);
    let cuts = (0..600).step_by(7).chain((60 << 10..full.len()).step_by(50_021)).chain([full.len() - 1]);
    for len in cuts {
        match open_bytes(full[..len].to_vec()) {
            Err(e) => assert!(matches!(e.kind(), ErrorKind::Truncated | ErrorKind::Format) && len < 4 * M, "{len}: {e}"),
            Ok(vhdx) => assert_eq!(vhdx.map(M as u64, 1).unwrap_err().kind(), ErrorKind::Truncated, "{len}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn flipped_bytes_never_panic(flips in prop::collection::vec((0usize..5, 0usize..400, any::<u8>()), 1..10), logged: bool) {
        let mut b = image(512, true, &[6, 7, 2, 0], Some(&[0x55; M]));
        let log = id("11111111-2222-3333-4444-555555555555");
        let bat = b[BAT_AT..BAT_AT + 4096].to_vec();
        log_entry(&mut b, 0, 0, 5, &log, &[(BAT_AT as u64, Some(&bat)), (1 << 22, None)], 4096);
        if logged { use_log(&mut b, &log); }
        for (place, at, v) in flips {
            let at = [128 << 10, 192 << 10, META_AT, META_AT + (64 << 10), M][place] + at;
            b[at] = v;
        }
        // With right checksums the fields themselves are looked at.
        seal(&mut b, 128 << 10, 4096);
        seal(&mut b, 192 << 10, 64 << 10);
        seal(&mut b, M, 8192);
        if let Ok(vhdx) = open_bytes(b) {
            let size = vhdx.size();
            for at in [0, size / 2, size.saturating_sub(1)] {
                if at < size {
                    if let Ok(m) = vhdx.map(at, size) {
                        prop_assert!(m.len > 0 && m.len <= size - at);
                    }
                    let _ = vhdx.read(at, &mut vec![0; (size - at).min(5000) as usize]);
                }
            }
        }
    }
}

mod writing {
    use super::super::create::write_new;
    use super::super::write::Writer;
    use super::*;
    use crate::engine::format::blocks::BlockWriter;
    use crate::engine::format::testing::{Op, Opened, agrees_with_model, ops, survives_power_cuts};
    use crate::engine::io::fault::Faulty;
    use crate::engine::io::{ReadAt, WriteDevice};

    const OPENED: Opened = Opened { writer: BlockWriter::<Writer>::open, reader: |dev| Ok(Arc::new(Vhdx::open(dev)?)) };
    const MIB: u64 = M as u64;

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Kind {
        Fixed,
        Dynamic,
        Child,
    }
    const KINDS: [Kind; 3] = [Kind::Fixed, Kind::Dynamic, Kind::Child];

    fn new(kind: Kind, size: u64, sector: u64) -> Vec<u8> {
        let m = Metadata {
            block_size: MIB,
            leave_allocated: kind == Kind::Fixed,
            has_parent: kind == Kind::Child,
            size,
            disk_id: None,
            sector,
            physical_sector: 4096,
            parent: vec![("parent_linkage".into(), format!("{{{PARENT_ID}}}")), ("relative_path".into(), ".\\p.vhdx".into())],
        };
        let dev = Arc::new(Memory::default());
        write_new(&(dev.clone() as WriteDevice), &m, MIB, false).unwrap();
        dev.to_vec()
    }

    fn below(kind: Kind, len: u64) -> Option<Vec<u8>> {
        (kind == Kind::Child).then(|| (0..len).map(|i| 0x80 | (i / 512) as u8).collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(6))]
        #[test]
        fn any_changes_agree_with_a_model(kind in prop::sample::select(&KINDS[..]), sector in prop::sample::select(&[512u64, 4096][..]), longer: bool, ops in ops(8, 1_500_000, vec![4096, MIB + 8192, 4 * MIB])) {
            let bytes = agrees_with_model(new(kind, 3 * MIB - 8192, sector), below(kind, if longer { 6 * MIB } else { MIB + 512 }), &OPENED, &ops);
            let vhdx = open_bytes(bytes).unwrap();
            prop_assert_eq!(&vhdx.describe().warnings, &Vec::<String>::new());
            prop_assert!(!vhdx.describe().dirty);
        }

        #[test]
        fn partly_present_blocks_are_filled_up(ops in ops(4, 5000, vec![])) {
            let b = image(512, true, &[6, 7, 2, 0], Some(&[0x55; M]));
            agrees_with_model(b, below(Kind::Child, 5 * MIB), &OPENED, &ops);
        }
    }

    #[test]
    fn a_power_cut_anywhere_leaves_old_or_new() {
        for kind in KINDS {
            let ops = [
                Op::Write(100, 9000, 1),
                Op::Flush,
                Op::Write(120, 5000, 3),
                Op::Zero(600, 9000),
                Op::Flush,
                Op::Resize(3 * MIB),
                Op::Write(950, 3000, 5),
                Op::Flush,
                Op::Resize(MIB + 8192),
                Op::Write(0, 13_000, 6),
            ];
            survives_power_cuts(new(kind, 2 * MIB - 8192, 512), below(kind, 4 * MIB), &OPENED, &ops, &|_, _| {});
        }
    }

    #[test]
    fn a_bat_without_room_moves() {
        // 1 MiB of BAT has room for 131072 entries, some of them for sector bitmaps.
        let size = 131_000 * MIB;
        let dev = Arc::new(Memory::new(new(Kind::Dynamic, size, 512)));
        let writer = BlockWriter::<Writer>::open(dev.clone(), None).unwrap();
        writer.write(5, &[7; 100]).unwrap();
        writer.write(size - 100, &[8; 100]).unwrap();
        writer.resize(140_000 * MIB).unwrap();
        writer.write(139_999 * MIB, &[9; 100]).unwrap();
        writer.finish().unwrap();
        let vhdx = Vhdx::open(dev).unwrap();
        assert!(vhdx.bat_at > 3 * MIB && vhdx.describe().warnings.is_empty());
        for (at, v) in [(5, 7), (size - 100, 8), (139_999 * MIB, 9), (size, 0)] {
            let mut b = [1; 100];
            vhdx.read(at, &mut b).unwrap();
            assert_eq!(b, [v; 100], "{at}");
        }
    }

    #[test]
    fn a_dirty_log_is_written_back_before_anything_else() {
        let log = id("11111111-2222-3333-4444-555555555555");
        let mut b = image(512, false, &[6, 2, 6], None);
        let bat = b[BAT_AT..BAT_AT + 4096].to_vec();
        put(&mut b, BAT_AT, &[0; 4096]);
        log_entry(&mut b, 0, 0, 5, &log, &[(BAT_AT as u64, Some(&bat))], 0);
        use_log(&mut b, &log);
        let mut want = vec![0; 3 * M];
        open_bytes(b.clone()).unwrap().read(0, &mut want).unwrap();
        let dev = Faulty::new(b);
        let _ = BlockWriter::<Writer>::open(dev.clone(), None).unwrap();
        let vhdx = open_bytes(dev.to_vec()).unwrap();
        let mut got = vec![1; 3 * M];
        vhdx.read(0, &mut got).unwrap();
        assert!(got == want && !vhdx.describe().dirty);
    }

    #[test]
    fn what_is_written_is_what_the_specification_says() {
        // The log entry of a commit, taken from the record: a checksum over all of it, the descriptor's sequence number, the data
        // sector's signature and its first and last bytes in the descriptor.
        let dev = Faulty::new(new(Kind::Dynamic, 3 * MIB, 512));
        let writer = BlockWriter::<Writer>::open(dev.clone(), None).unwrap();
        writer.write(0, &[1; 512]).unwrap();
        writer.finish().unwrap();
        let b = dev.to_vec();
        let at = M;
        assert_eq!((&b[at..at + 4], &b[at + 64..at + 68], &b[at + 4096..at + 4100]), (&b"loge"[..], &b"desc"[..], &b"data"[..]));
        let mut e = b[at..at + 8192].to_vec();
        seal(&mut e, 0, 8192);
        assert_eq!(e, b[at..at + 8192]);
        let bat = u64::from_le_bytes(b[at + 80..at + 88].try_into().unwrap()) as usize;
        assert_eq!(&b[at + 72..at + 80], &b[bat..bat + 8], "the first entry of the BAT");
        assert_eq!(b[bat] & 7, 6);
        // Both headers are intact, name no log, and differ by one in their sequence.
        let sequence = |h: usize| u64::from_le_bytes(b[h + 8..h + 16].try_into().unwrap());
        for h in [64 << 10, 128 << 10] {
            let mut copy = b[h..h + 4096].to_vec();
            seal(&mut copy, 0, 4096);
            assert!(copy == b[h..h + 4096] && copy[48..64] == [0; 16]);
        }
        assert_eq!(sequence(64 << 10).abs_diff(sequence(128 << 10)), 1);
        assert_eq!(dev.len() % MIB, 0);
    }
}
