//! VHDX against qemu-img; where it is wrong (dirty logs read-only, differencing disks), against the specification.

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
    std::fs::write(&raw, noise(3, (3 << 20) + 1536)).unwrap();
    for options in [
        "",
        "-o subformat=fixed",
        "-o block_size=1M",
        "-o block_size=2M,log_size=3M",
        "-o block_size=256M,block_state_zero=off",
        "-o subformat=fixed,block_size=4M",
    ] {
        let path = dir.path().join("d.vhdx");
        for size in ["5M", "512k"] {
            qemu_img(&format!("create -q -f vhdx {options} {} {size}", s(&path)));
            qemu_io("vhdx", &path, &["write -P 6 100k 100k", "write -P 7 200k 512"]);
            if size == "5M" {
                qemu_io("vhdx", &path, &["write -P 1 4M 100k", "write -P 2 1000k 100k"]);
            }
            let found = probe(&FileDevice::open(&path).unwrap()).unwrap();
            assert_eq!((best(&found), found[0].confidence), (Format::Vhdx, Confidence::Certain), "{options} {size}");
            assert!(content(&path) == qemu_content("vhdx", &path), "{options} {size}");
        }
        if !options.contains("block_state_zero=off") {
            qemu_img(&format!("convert -f raw -O vhdx {options} {} {}", s(&raw), s(&path)));
            assert!(content(&path) == qemu_content("vhdx", &path), "convert {options}");
        }
    }
}

fn put(b: &mut [u8], at: usize, bytes: &[u8]) {
    b[at..at + bytes.len()].copy_from_slice(bytes);
}

fn seal(b: &mut [u8], at: usize, len: usize) {
    put(b, at + 4, &[0; 4]);
    let sum = crc32c::crc32c(&b[at..at + len]);
    put(b, at + 4, &sum.to_le_bytes());
}

fn le32(b: &[u8], at: usize) -> usize {
    u32::from_le_bytes(b[at..at + 4].try_into().unwrap()) as usize
}

/// The regions' places in an image of qemu-img's: BAT and metadata.
fn regions(b: &[u8]) -> (usize, usize) {
    (le32(b, (192 << 10) + 32), le32(b, (192 << 10) + 64))
}

/// The BAT's changes are put into the log and taken out of the BAT, as a crash would leave it; qemu-img replays it with write
/// access (`check -r all`), which says what is right.
#[test]
fn a_dirty_log_reads_as_qemu_img_reads_it_after_its_own_replay() {
    let dir = dir();
    let (path, mended) = (dir.path().join("dirty.vhdx"), dir.path().join("mended.vhdx"));
    qemu_img(&format!("create -q -f vhdx -o block_size=1M {} 8M", s(&path)));
    qemu_io("vhdx", &path, &["write -P 5 1M 2M", "write -P 6 6M 64k"]);
    let clean = qemu_content("vhdx", &path);
    let mut b = std::fs::read(&path).unwrap();
    let (bat, _) = regions(&b);
    let sector: Vec<u8> = b[bat..bat + 4096].to_vec();
    put(&mut b, bat, &[0; 4096]);
    let (log_len, log) = (le32(&b, (128 << 10) + 68), le32(&b, (128 << 10) + 72));
    b[log..log + log_len].fill(0);
    let end = b.len() as u64;
    put(&mut b, log, b"loge");
    put(&mut b, log + 8, &8192u32.to_le_bytes());
    put(&mut b, log + 16, &7u64.to_le_bytes());
    put(&mut b, log + 24, &1u32.to_le_bytes());
    put(&mut b, log + 32, &[0x77; 16]);
    put(&mut b, log + 48, &end.to_le_bytes());
    put(&mut b, log + 56, &end.to_le_bytes());
    put(&mut b, log + 64, b"desc");
    put(&mut b, log + 68, &sector[4092..]);
    put(&mut b, log + 72, &sector[..8]);
    put(&mut b, log + 80, &(bat as u64).to_le_bytes());
    put(&mut b, log + 88, &7u64.to_le_bytes());
    put(&mut b, log + 4096, &sector);
    put(&mut b, log + 4096, b"data");
    put(&mut b, log + 4100, &0u32.to_le_bytes());
    put(&mut b, log + 8188, &7u32.to_le_bytes());
    seal(&mut b, log, 8192);
    for at in [64 << 10, 128 << 10] {
        put(&mut b, at + 48, &[0x77; 16]);
        seal(&mut b, at, 4096);
    }
    std::fs::write(&path, &b).unwrap();
    std::fs::write(&mended, &b).unwrap();
    qemu_img(&format!("check -q -r all {}", s(&mended)));
    assert!(qemu_content("vhdx", &mended) == clean, "the image built here is one that qemu-img replays");
    let chain = Chain::open(&path, &OpenOptions::default()).unwrap();
    assert!(chain.nodes[0].description.dirty);
    assert!(content(&path) == clean);
    assert!(std::fs::read(&path).unwrap() == b, "reading writes nothing");
}

/// Turns the dynamic VHDX at `child` into a child of `parent`, by the specification.
fn make_child(child: &Path, parent: &Path, relative: &str) {
    let of_parent = std::fs::read(parent).unwrap();
    let g = &of_parent[(128 << 10) + 32..(128 << 10) + 48];
    let linkage = format!(
        "{{{:02x}{:02x}{:02x}{:02x}-{:02x}{:02x}-{:02x}{:02x}-{:02x}{:02x}-{:02x}{:02x}{:02x}{:02x}{:02x}{:02x}}}",
        g[3], g[2], g[1], g[0], g[5], g[4], g[7], g[6], g[8], g[9], g[10], g[11], g[12], g[13], g[14], g[15]
    );
    let mut b = std::fs::read(child).unwrap();
    let (_, meta) = regions(&b);
    let utf16 = |t: &str| t.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
    let mut locator =
        vec![0xb7, 0xef, 0x4a, 0xb0, 0x9e, 0xd1, 0x81, 0x4a, 0xb7, 0x89, 0x25, 0xb8, 0xe9, 0x44, 0x59, 0x13, 0, 0, 2, 0];
    let mut texts = Vec::new();
    for (key, value) in [("parent_linkage", linkage.as_str()), ("relative_path", relative)] {
        let (k, v) = (utf16(key), utf16(value));
        let at = 44 + texts.len();
        locator.extend((at as u32).to_le_bytes());
        locator.extend(((at + k.len()) as u32).to_le_bytes());
        locator.extend((k.len() as u16).to_le_bytes());
        locator.extend((v.len() as u16).to_le_bytes());
        texts.extend([k, v].concat());
    }
    locator.extend(texts);
    // A sixth item behind qemu-img's five.
    assert_eq!(b[meta + 10], 5);
    b[meta + 10] = 6;
    let o = meta + 32 + 5 * 32;
    put(&mut b, o, &[0x2d, 0x5f, 0xd3, 0xa8, 0x0b, 0xb3, 0x4d, 0x45, 0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c]);
    put(&mut b, o + 16, &0x1_1000u32.to_le_bytes());
    put(&mut b, o + 20, &(locator.len() as u32).to_le_bytes());
    put(&mut b, o + 24, &4u32.to_le_bytes());
    put(&mut b, meta + 0x1_1000, &locator);
    b[meta + 0x1_0004] |= 2;
    std::fs::write(child, b).unwrap();
}

#[test]
fn a_child_shows_its_parent_sector_by_sector() {
    let dir = dir();
    std::fs::create_dir(dir.path().join("bases")).unwrap();
    let (parent, child) = (dir.path().join("bases/base.vhdx"), dir.path().join("child.vhdx"));
    for p in [&parent, &child] {
        qemu_img(&format!("create -q -f vhdx -o block_size=1M,block_state_zero=off {} 4M", s(p)));
    }
    qemu_io("vhdx", &parent, &["write -P 1 0 4M"]);
    qemu_io("vhdx", &child, &["write -P 2 1M 2M"]);
    make_child(&child, &parent, "bases\\base.vhdx");
    // Block 1 whole, block 2 partly, block 3 zeros.
    let mut b = std::fs::read(&child).unwrap();
    let (bat, _) = regions(&b);
    b[bat + 16] |= 7;
    b[bat + 24] = 2;
    let ratio = 512 * (1 << 23) / (1 << 20);
    let at = b.len().next_multiple_of(1 << 20);
    b.resize(at + (1 << 20), 0);
    put(&mut b, bat + ratio * 8, &(at as u64 | 6).to_le_bytes());
    // Sectors 0, 2, 3 and 9 of block 2.
    b[at + 2 * 2048 / 8] = 0b0000_1101;
    b[at + 2 * 2048 / 8 + 1] = 0b0000_0010;
    std::fs::write(&child, b).unwrap();
    let mut want = [vec![1u8; 1 << 20], vec![2; 1 << 20], vec![1; 1 << 20], vec![0; 1 << 20]].concat();
    for sector in [0, 2, 3, 9] {
        want[(2 << 20) + sector * 512..][..512].fill(2);
    }
    assert!(content(&child) == want);
    // A write to the parent changes its data-write GUID.
    qemu_io("vhdx", &parent, &["write -P 9 0 512"]);
    let chain = Chain::open(&child, &OpenOptions::default()).unwrap();
    assert_eq!(chain.error().unwrap().kind(), ErrorKind::ParentChanged);
}

#[test]
fn what_cowshed_writes_qemu_img_finds_clean_and_reads_alike() {
    let dir = dir();
    for (name, options) in [
        ("dynamic", vec![("block_size", "1M")]),
        ("absent", vec![("block_state_zero", "off"), ("log_size", "2M")]),
        ("fixed", vec![("subformat", "fixed"), ("block_size", "2M")]),
    ] {
        let path = dir.path().join(format!("{name}.vhdx"));
        create(Format::Vhdx, &path, 6_000_128, &options, None).finish().unwrap();
        qemu_img(&format!("check -q {}", s(&path)));
        change_at_random(&path, 7, 25, &[3 << 20, 9 << 20, 4_000_256], &|model| {
            qemu_img(&format!("check -q {}", s(&path)));
            assert!(qemu_content("vhdx", &path) == model, "{name}");
        });
    }
    // Sectors of 4096 bytes, which qemu-img does not read.
    let path = dir.path().join("4k.vhdx");
    create(Format::Vhdx, &path, 6 << 20, &[("logical_sector_size", "4096")], None).finish().unwrap();
    change_at_random(&path, 5, 20, &[3 << 20, 9 << 20], &|_| {});
    // An image of qemu-img's own.
    let path = dir.path().join("theirs.vhdx");
    qemu_img(&format!("create -q -f vhdx {} 128M", s(&path)));
    qemu_io("vhdx", &path, &["write -P 5 3M 64k"]);
    let writer = open_writer(&path);
    writer.resize(1 << 42).unwrap();
    writer.write((1 << 42) - 512, &[7; 512]).unwrap();
    writer.finish().unwrap();
    qemu_img(&format!("check -q {}", s(&path)));
    qemu_io("vhdx", &path, &["read -P 5 3M 64k", "read -P 7 4398046510592 512", "read -P 0 64M 1M"]);
}

#[test]
fn a_new_child_hides_its_parent_only_where_it_was_written() {
    let dir = dir();
    let (parent, child) = (dir.path().join("parent.vhdx"), dir.path().join("child.vhdx"));
    let writer = create(Format::Vhdx, &parent, 7 << 20, &[], None);
    writer.write(0, &noise(1, 4 << 20)).unwrap();
    writer.finish().unwrap();
    let base = content(&parent);
    create(Format::Vhdx, &child, 7 << 20, &[], Some(&parent)).finish().unwrap();
    assert!(content(&child) == base);
    change_at_random(&child, 9, 25, &[3 << 20, 9 << 20], &|_| {});
    assert!(content(&parent) == base);
}
