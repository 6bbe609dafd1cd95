//! COW version 2, which no tool reads any more: images are built here byte by byte after the old structure.

use std::path::{Path, PathBuf};

use cowshed::engine::chain::{Chain, OpenOptions};
use cowshed::engine::error::ErrorKind;
use cowshed::engine::format::Format;
use cowshed::engine::io::ReadAt;
use cowshed::engine::model::Kind;

use crate::common::{dir, noise};
use crate::writing;

/// A file as a 64-bit (`wide`) or 32-bit host wrote it, with `sectors` of the disk in it. Returns the file's bytes.
fn build(wide: bool, size: u64, backing: &str, mtime: i32, sectors: &[(u64, u8)]) -> Vec<u8> {
    let mut b = vec![0u8; if wide { 1056 } else { 1048 }];
    b[0..4].copy_from_slice(b"OOOM");
    b[4..8].copy_from_slice(&2u32.to_be_bytes());
    b[8..8 + backing.len()].copy_from_slice(backing.as_bytes());
    b[1032..1036].copy_from_slice(&mtime.to_be_bytes());
    let at = if wide { 1040 } else { 1036 };
    b[at..at + 8].copy_from_slice(&size.to_be_bytes());
    b[at + 8..at + 12].copy_from_slice(&512u32.to_be_bytes());
    let bitmap = b.len();
    b.resize(bitmap + (size / 512).div_ceil(8) as usize, 0);
    let data = b.len().next_multiple_of(512);
    for (sector, fill) in sectors {
        // The lowest bit of a byte is the first sector.
        b[bitmap + *sector as usize / 8] |= 1 << (sector % 8);
        let from = data + *sector as usize * 512;
        if b.len() < from + 512 {
            b.resize(from + 512, 0);
        }
        b[from..from + 512].fill(*fill);
    }
    b
}

fn write(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn read(path: &Path) -> Vec<u8> {
    let disk = Chain::open(path, &OpenOptions::default()).unwrap().disk().unwrap();
    let mut out = vec![0; disk.len() as usize];
    disk.read_at(0, &mut out).unwrap();
    out
}

#[test]
fn both_layouts_read_the_same_over_a_backing_file() {
    let dir = dir();
    let base = noise(5, 40 * 512);
    write(dir.path(), "base.raw", &base);
    let sectors = [(0, 1), (7, 2), (8, 3), (9, 3), (63, 4)];
    let mut expected = base;
    expected.resize(64 * 512, 0);
    for (sector, fill) in sectors {
        expected[sector as usize * 512..][..512].fill(fill);
    }
    for wide in [true, false] {
        let path = write(dir.path(), "top.cow", &build(wide, 64 * 512, "base.raw", 0, &sectors));
        assert!(read(&path) == expected, "wide {wide}");
        let chain = Chain::open(&path, &OpenOptions::default()).unwrap();
        assert_eq!(chain.nodes[0].format, Some(Format::Cow));
        let header = &chain.nodes[0].description.facts[1].value;
        assert_eq!(header, if wide { "1056 bytes" } else { "1048 bytes" });
        // The backing file was not modified in 1970.
        assert!(chain.nodes[1].warnings.iter().any(|w| w.contains("modified after")), "{:?}", chain.nodes[1].warnings);
    }
}

#[test]
fn the_backing_files_time_is_believed_when_it_is_right() {
    use std::os::unix::fs::MetadataExt;
    let dir = dir();
    let base = write(dir.path(), "base.raw", &[9; 512]);
    let mtime = std::fs::metadata(base).unwrap().mtime() as i32;
    let path = write(dir.path(), "top.cow", &build(true, 512, "base.raw", mtime, &[]));
    let chain = Chain::open(&path, &OpenOptions::default()).unwrap();
    assert!(!chain.nodes[1].warnings.iter().any(|w| w.contains("modified")), "{:?}", chain.nodes[1].warnings);
    assert_eq!(read(&path), [9; 512]);
}

#[test]
fn files_are_sized_lazily_and_runs_are_long() {
    let dir = dir();
    // 8 GiB and 512 bytes: the low half of the size looks like a sector size. Only two sectors were ever written.
    let size = (8u64 << 30) + 512;
    let mut b = build(true, size, "", 0, &[]);
    b.truncate(1056 + 4096);
    b[1056 + 100] = 0b0001_1000;
    let path = write(dir.path(), "big.cow", &b);
    let image = Chain::open(&path, &OpenOptions::default()).unwrap().layers[0].clone();
    assert_eq!(image.size(), size);
    let run = |offset| {
        let m = image.map(offset, u64::MAX).unwrap();
        (m.kind, m.len)
    };
    assert_eq!(run(0), (Kind::Unallocated, 803 * 512));
    assert_eq!(run(803 * 512 + 100), (Kind::Data, 1024 - 100));
    let data = (1056 + (size / 512).div_ceil(8)).next_multiple_of(512);
    assert_eq!(image.map(803 * 512, u64::MAX).unwrap().place.unwrap().offset, data + 803 * 512);
    assert_eq!(run(805 * 512), (Kind::Unallocated, size - 805 * 512));
    // Its data lies past the end of the file: zeros.
    let mut sector = [7; 512];
    image.read(803 * 512, &mut sector).unwrap();
    assert_eq!(sector, [0; 512]);
}

#[test]
fn long_runs_cross_the_bitmaps_pages() {
    let dir = dir();
    let sectors: Vec<_> = (3..70_000).map(|s| (s, 1)).collect();
    let path = write(dir.path(), "x.cow", &build(false, 80_000 * 512, "", 0, &sectors));
    let image = Chain::open(&path, &OpenOptions::default()).unwrap().layers[0].clone();
    let runs = [(0, Kind::Unallocated, 3), (3, Kind::Data, 69_997), (70_000, Kind::Unallocated, 10_000)];
    for (at, kind, len) in runs {
        let m = image.map(at * 512, u64::MAX).unwrap();
        assert_eq!((m.kind, m.len / 512), (kind, len), "sector {at}");
    }
}

#[test]
fn other_versions_are_recognised_and_said_so() {
    let dir = dir();
    let mut v3 = build(true, 512, "", 0, &[]);
    v3[7] = 3;
    // Version 1 has the byte order of its host.
    let mut v1 = vec![0; 512];
    v1[..8].copy_from_slice(b"MOOO\x01\0\0\0");
    for (bytes, version) in [(v3, "version 3"), (v1, "version 1")] {
        let path = write(dir.path(), "x.cow", &bytes);
        let e = Chain::open(&path, &OpenOptions::default()).map(drop).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unsupported);
        assert!(e.to_string().contains(version) && e.advice().is_some(), "{e}");
    }
    let path = write(dir.path(), "x.cow", &build(true, 512, "", 0, &[])[..600]);
    assert_eq!(Chain::open(&path, &OpenOptions::default()).map(drop).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn random_writes_read_back() {
    for (size, base) in [((3u64 << 20) + 512, Vec::new()), (2 << 20, noise(7, 1_000_000))] {
        let (bytes, model) = writing::random_writes(Format::Cow, size, &base);
        // By the structure alone, without the reader under test: header, bitmap, data.
        assert_eq!(&bytes[..8], b"OOOM\0\0\0\x02");
        assert_eq!(bytes[1040..1052], [&size.to_be_bytes()[..], &512u32.to_be_bytes()].concat());
        let data = (1056 + (size / 512).div_ceil(8) as usize).next_multiple_of(512);
        let mut expected = base.clone();
        expected.resize(size as usize, 0);
        for sector in 0..size as usize / 512 {
            if bytes[1056 + sector / 8] >> (sector % 8) & 1 == 1 {
                let mut content = [0; 512];
                let stored = bytes.get(data + sector * 512..).unwrap_or_default();
                let n = stored.len().min(512);
                content[..n].copy_from_slice(&stored[..n]);
                expected[sector * 512..][..512].copy_from_slice(&content);
            }
        }
        writing::same(&expected, &model, "by the structure");
    }
}

#[test]
fn a_power_cut_leaves_each_byte_old_or_new() {
    writing::power_cuts_leave_old_or_new(Format::Cow);
}

#[test]
fn a_new_file_knows_its_backing_files_time() {
    use cowshed::engine::format::write::{CreateSpec, NewBacking};
    use std::os::unix::fs::MetadataExt;
    let dir = dir();
    let base = write(dir.path(), "base.raw", &[3; 2048]);
    let backing = NewBacking {
        name: "base.raw".into(),
        path: base.clone(),
        format: Format::Raw,
        size: 2048,
        identity: Default::default(),
        disk: None,
    };
    let spec = CreateSpec { size: 2048, backing: Some(backing), ..CreateSpec::default() };
    let writer = writing::try_create(Format::Cow, &spec).unwrap();
    // Part of a sector needs what lies below, and that was not given.
    assert!(writer.write(5, &[1]).is_err());
    writer.write(512, &[1; 512]).unwrap();
    writer.finish().unwrap();
    match writer.reader().backing().unwrap().identity {
        cowshed::engine::model::ParentIdentity::Mtime(t) => assert_eq!(t, std::fs::metadata(base).unwrap().mtime()),
        other => panic!("{other:?}"),
    }
    let long = CreateSpec { size: 0, ..CreateSpec::default() };
    assert!(writing::try_create(Format::Cow, &long).is_err());
}
