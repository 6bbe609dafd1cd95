//! VHD against qemu-img; where it is wrong (sector bitmaps, differencing disks, probing fixed ones), against the specification.

use std::path::Path;

use cowshed::engine::chain::{Chain, OpenOptions};
use cowshed::engine::error::ErrorKind;
use cowshed::engine::format::Format;
use cowshed::engine::format::probe::{Confidence, best, probe};
use cowshed::engine::io::file::FileDevice;

use crate::common::{change_at_random, content, create, dir, noise, open_writer, qemu_content, qemu_img, qemu_io, s};

#[test]
fn whatever_qemu_img_makes_reads_as_it_reads_it() {
    let dir = dir();
    let raw = dir.path().join("raw");
    std::fs::write(&raw, noise(3, (5 << 20) + 1536)).unwrap();
    for options in ["", "-o subformat=fixed", "-o force_size=on", "-o subformat=fixed,force_size=on"] {
        let path = dir.path().join("d.vhd");
        for size in ["5M", "300k", "1G"] {
            if size == "1G" && options.contains("fixed") {
                continue;
            }
            qemu_img(&format!("create -q -f vpc {options} {} {size}", s(&path)));
            qemu_io("vpc", &path, &["write -P 6 100k 100k", "write -z 10k 30k", "write -P 7 200k 512"]);
            if size == "1G" {
                qemu_io("vpc", &path, &["write -P 1 900M 100k", "write -P 2 400M 1M"]);
                assert!(qemu_img(&format!("map -f vpc --output=json {}", s(&path))).len() > 10);
                compare_ends(&path);
                continue;
            }
            let found = probe(&FileDevice::open(&path).unwrap()).unwrap();
            assert_eq!((best(&found), found[0].confidence), (Format::Vhd, Confidence::Certain), "{options} {size}");
            assert!(content(&path) == qemu_content("vpc", &path), "{options} {size}");
        }
        qemu_img(&format!("convert -f raw -O vpc {options} {} {}", s(&raw), s(&path)));
        assert!(content(&path) == qemu_content("vpc", &path), "convert {options}");
    }
}

/// A large sparse disk is compared where it was written, and its size.
fn compare_ends(path: &Path) {
    use cowshed::engine::io::ReadAt;
    let disk = Chain::open(path, &OpenOptions::default()).unwrap().disk().unwrap();
    let info = qemu_img(&format!("info -f vpc --output=json {}", s(path)));
    assert!(info.contains(&format!("\"virtual-size\": {}", disk.len())), "{info}");
    for (at, value) in [(900 << 20, 1u8), (400 << 20, 2), (100 << 10, 6), (10 << 10, 0), (800 << 20, 0)] {
        let mut b = [9; 512];
        disk.read_at(at, &mut b).unwrap();
        assert_eq!(b, [value; 512], "{at}");
    }
}

fn checksum(b: &mut [u8], at: usize) {
    b[at..at + 4].fill(0);
    let sum = !b.iter().map(|x| u32::from(*x)).sum::<u32>();
    b[at..at + 4].copy_from_slice(&sum.to_be_bytes());
}

/// Turns the dynamic VHD at `child` into a child of `parent`, by the specification: type 4, the parent's UUID and two locators,
/// placed behind the block table, where qemu-img leaves nothing.
fn make_child(child: &Path, parent: &Path, relative: &str) {
    let uuid = std::fs::read(parent).unwrap()[68..84].to_vec();
    let mut b = std::fs::read(child).unwrap();
    let end = b.len() - 512;
    let utf16 = |t: &str| t.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
    let absolute = utf16("C:\\nowhere\\other.vhd");
    let relative = utf16(relative);
    b[552..568].copy_from_slice(&uuid);
    // Behind the old end: the locators' text, then the footer again.
    let mut locator = |slot: usize, code: &[u8], text: &[u8]| {
        let at = b.len() as u64;
        let o = 512 + 576 + slot * 24;
        b[o..o + 4].copy_from_slice(code);
        b[o + 4..o + 8].copy_from_slice(&512u32.to_be_bytes());
        b[o + 8..o + 12].copy_from_slice(&(text.len() as u32).to_be_bytes());
        b[o + 16..o + 24].copy_from_slice(&at.to_be_bytes());
        b.extend(text);
        b.resize(b.len().next_multiple_of(512), 0);
    };
    locator(0, b"W2ku", &absolute);
    locator(1, b"W2ru", &relative);
    checksum(&mut b[512..1536], 36);
    b[63] = 4;
    checksum(&mut b[..512], 64);
    let footer = b[..512].to_vec();
    b[end..end + 512].fill(0);
    b.extend(footer);
    std::fs::write(child, b).unwrap();
}

#[test]
fn a_child_shows_its_parent_sector_by_sector() {
    let dir = dir();
    std::fs::create_dir(dir.path().join("bases")).unwrap();
    let (parent, child) = (dir.path().join("bases/base.vhd"), dir.path().join("child.vhd"));
    for p in [&parent, &child] {
        qemu_img(&format!("create -q -f vpc -o force_size=on {} 8M", s(p)));
    }
    qemu_io("vpc", &parent, &["write -P 1 0 8M"]);
    qemu_io("vpc", &child, &["write -P 2 2M 2M"]);
    make_child(&child, &parent, ".\\bases\\base.vhd");
    // The child's one block follows the table (1536 + 512): bits 0, 2, 3 and 9 are its own.
    let mut b = std::fs::read(&child).unwrap();
    let entry = u32::from_be_bytes(b[1540..1544].try_into().unwrap()) as usize * 512;
    b[entry..entry + 512].fill(0);
    b[entry] = 0b1011_0000;
    b[entry + 1] = 0b0100_0000;
    std::fs::write(&child, b).unwrap();
    let mut want = vec![1u8; 8 << 20];
    for sector in [0, 2, 3, 9] {
        want[(2 << 20) + sector * 512..][..512].fill(2);
    }
    let got = content(&child);
    assert_eq!(got.len(), want.len());
    assert!(got == want);
    // A parent of another identity is refused, a missing one named.
    let mut other = std::fs::read(&parent).unwrap();
    let end = other.len() - 512;
    for at in [0, end] {
        other[at + 70] ^= 1;
        checksum(&mut other[at..at + 512], 64);
    }
    std::fs::write(&parent, other).unwrap();
    let chain = Chain::open(&child, &OpenOptions::default()).unwrap();
    assert_eq!(chain.error().unwrap().kind(), ErrorKind::ParentChanged);
    std::fs::remove_file(&parent).unwrap();
    let chain = Chain::open(&child, &OpenOptions::default()).unwrap();
    let e = chain.error().unwrap();
    assert_eq!(
        (e.kind(), e.file()),
        (ErrorKind::MissingReference, Some(parent.canonicalize().unwrap_or(parent.clone())).as_deref())
    );
}

#[test]
fn clear_bits_of_a_dynamic_disk_are_zeros() {
    let dir = dir();
    let path = dir.path().join("d.vhd");
    qemu_img(&format!("create -q -f vpc -o force_size=on {} 4M", s(&path)));
    qemu_io("vpc", &path, &["write -P 3 0 2M"]);
    let mut b = std::fs::read(&path).unwrap();
    b[2048] = 0b0111_1111;
    std::fs::write(&path, b).unwrap();
    let got = content(&path);
    assert!(got[..512].iter().all(|x| *x == 0) && got[512..2 << 20].iter().all(|x| *x == 3));
}

#[test]
fn what_cowshed_writes_qemu_img_reads_alike() {
    let dir = dir();
    for (name, options) in [("dynamic", vec![]), ("fixed", vec![("subformat", "fixed")])] {
        let path = dir.path().join(format!("{name}.vhd"));
        create(Format::Vhd, &path, 6_000_128, &options, None).finish().unwrap();
        assert_eq!(content(&path).len(), 6_000_128, "the size is exact");
        change_at_random(&path, 7, 40, &[3 << 20, 9 << 20, 4_000_256], &|model| {
            assert!(qemu_content("vpc", &path) == model, "{name}");
        });
    }
    // An image of qemu-img's own, counted by geometry, grows past its table.
    let path = dir.path().join("theirs.vhd");
    qemu_img(&format!("create -q -f vpc {} 128M", s(&path)));
    qemu_io("vpc", &path, &["write -P 5 3M 64k"]);
    let writer = open_writer(&path);
    writer.resize(1 << 40).unwrap();
    writer.write((1 << 40) - 512, &[7; 512]).unwrap();
    writer.finish().unwrap();
    qemu_io("vpc", &path, &["read -P 5 3M 64k", "read -P 7 1099511627264 512", "read -P 0 64M 1M"]);
}

#[test]
fn sizes_are_exact_aligned_or_by_geometry() {
    let dir = dir();
    let path = dir.path().join("d.vhd");
    for subformat in ["dynamic", "fixed"] {
        let size = |options: &[(&str, &str)], size: u64| {
            let all = [options, &[("subformat", subformat)]].concat();
            let writer = create(Format::Vhd, &path, size, &all, None);
            writer.finish().unwrap();
            let said = qemu_img(&format!("info -f vpc --output=json {}", s(&path)));
            assert!(said.contains(&format!("\"virtual-size\": {},", writer.size())), "{said}");
            writer.size()
        };
        assert_eq!(size(&[], 100 << 20), 100 << 20);
        assert_eq!(size(&[("align", "1M")], (100 << 20) + 1), 101 << 20);
        for mib in [1u64, 20, 100, 127, 1000] {
            let theirs = dir.path().join("theirs.vhd");
            qemu_img(&format!("create -q -f vpc -o subformat=dynamic {} {mib}M", s(&theirs)));
            let said = qemu_img(&format!("info --output=json {}", s(&theirs)));
            let ours = size(&[("force_size", "off")], mib << 20);
            assert!(said.contains(&format!("\"virtual-size\": {ours},")), "{mib} MiB: {ours}, {said}");
        }
        if subformat == "fixed" {
            // Whole MiB and a footer: what Azure takes.
            size(&[("align", "1M")], 5_000_000);
            assert_eq!(std::fs::metadata(&path).unwrap().len() % (1 << 20), 512);
        }
    }
}

#[test]
fn a_new_child_hides_its_parent_only_where_it_was_written() {
    let dir = dir();
    let (parent, child) = (dir.path().join("parent.vhd"), dir.path().join("child.vhd"));
    let writer = create(Format::Vhd, &parent, 7 << 20, &[], None);
    writer.write(0, &noise(1, 4 << 20)).unwrap();
    writer.finish().unwrap();
    let base = content(&parent);
    create(Format::Vhd, &child, 7 << 20, &[], Some(&parent)).finish().unwrap();
    assert!(content(&child) == base);
    change_at_random(&child, 9, 30, &[3 << 20, 9 << 20], &|_| {});
    assert!(content(&parent) == base);
}
