//! VDI against qemu-img; with a parent, which qemu-img refuses, against the specification.

use cowshed::engine::chain::{Chain, OpenOptions};
use cowshed::engine::format::Format;
use cowshed::engine::format::probe::{Confidence, best, probe};
use cowshed::engine::io::file::FileDevice;

use crate::common::{change_at_random, content, create, dir, noise, open_writer, qemu_content, qemu_img, qemu_io, s};

#[test]
fn whatever_qemu_img_makes_reads_as_it_reads_it() {
    let dir = dir();
    for (name, options, size) in [
        ("dynamic", "", 5 << 20),
        ("static", "-o static=on", 3 << 20),
        ("odd", "", (2 << 20) + 512 * 3),
        ("small", "", 512),
        ("empty", "", 0),
    ] {
        let path = dir.path().join(format!("{name}.vdi"));
        qemu_img(&format!("create -q -f vdi {options} {} {size}", s(&path)));
        if size > 4 << 20 {
            qemu_io("vdi", &path, &["write -P 5 3M 64k", "write -P 6 1000k 100k", "write -z 4M 1M", "write -P 7 100k 512"]);
        }
        let dev = FileDevice::open(&path).unwrap();
        let found = probe(&dev).unwrap();
        assert_eq!((best(&found), found[0].confidence), (Format::Vdi, Confidence::Certain), "{name}");
        assert!(content(&path) == qemu_content("vdi", &path), "{name}");
    }
    // Content written by convert, in scattered order of blocks.
    let raw = dir.path().join("raw");
    std::fs::write(&raw, noise(3, (3 << 20) + 1536)).unwrap();
    for options in ["", "-o static=on"] {
        let path = dir.path().join("converted.vdi");
        qemu_img(&format!("convert -f raw -O vdi {options} {} {}", s(&raw), s(&path)));
        assert!(content(&path) == std::fs::read(&raw).unwrap(), "convert {options}");
    }
}

/// qemu-img makes both; the child's type, link and one "zero" entry are set by hand where the specification has them.
#[test]
fn a_child_is_read_over_its_parent() {
    let dir = dir();
    let (parent, child) = (dir.path().join("parent.vdi"), dir.path().join("child.vdi"));
    qemu_img(&format!("create -q -f vdi {} 4M", s(&parent)));
    qemu_img(&format!("create -q -f vdi {} 4M", s(&child)));
    qemu_io("vdi", &parent, &["write -P 1 0 3M"]);
    qemu_io("vdi", &child, &["write -P 2 1M 1M"]);
    let of_parent = std::fs::read(&parent).unwrap();
    let mut b = std::fs::read(&child).unwrap();
    b[0x4c] = 4;
    b[0x1a8..0x1b8].copy_from_slice(&of_parent[0x188..0x198]);
    b[0x1b8..0x1c8].copy_from_slice(&of_parent[0x198..0x1a8]);
    b[0x208..0x20c].copy_from_slice(&0xffff_fffeu32.to_le_bytes());
    std::fs::write(&child, &b).unwrap();
    // The folder holds other files too: one is the child's own copy, one no image at all.
    std::fs::copy(&child, dir.path().join("a-copy.vdi")).unwrap();
    std::fs::write(dir.path().join("notes"), b"x").unwrap();
    let all = content(&child);
    let want: Vec<u8> = [1u8, 2, 0, 0].into_iter().flat_map(|v| vec![v; 1 << 20]).collect();
    assert!(all == want);
    // A parent that was written to afterwards is not silently believed.
    let mut changed = of_parent;
    changed[0x198] ^= 1;
    std::fs::write(&parent, changed).unwrap();
    assert!(Chain::open(&child, &OpenOptions::default()).unwrap().disk().is_err());
}

#[test]
fn what_cowshed_writes_qemu_img_finds_clean_and_reads_alike() {
    let dir = dir();
    for (name, options) in [("dynamic", vec![]), ("static", vec![("static", "on")])] {
        let path = dir.path().join(format!("{name}.vdi"));
        create(Format::Vdi, &path, 6_000_000, &options, None).finish().unwrap();
        qemu_img(&format!("check -q {}", s(&path)));
        change_at_random(&path, 7, 40, &[3 << 20, 9 << 20, 4_000_256], &|model| {
            qemu_img(&format!("check -q {}", s(&path)));
            assert!(qemu_content("vdi", &path) == model, "{name}");
        });
    }
    // An image of qemu-img's own.
    let path = dir.path().join("theirs.vdi");
    qemu_img(&format!("create -q -f vdi {} 128M", s(&path)));
    qemu_io("vdi", &path, &["write -P 5 3M 64k"]);
    let writer = open_writer(&path);
    writer.resize(1 << 40).unwrap();
    writer.write((1 << 40) - 512, &[7; 512]).unwrap();
    writer.finish().unwrap();
    qemu_img(&format!("check -q {}", s(&path)));
    qemu_io("vdi", &path, &["read -P 5 3M 64k", "read -P 7 1099511627264 512", "read -P 0 64M 1M"]);
}

#[test]
fn a_new_child_hides_its_parent_only_where_it_was_written() {
    let dir = dir();
    let (parent, child) = (dir.path().join("parent.vdi"), dir.path().join("child.vdi"));
    let writer = create(Format::Vdi, &parent, 5 << 20, &[], None);
    writer.write(0, &noise(1, 4 << 20)).unwrap();
    writer.finish().unwrap();
    let base = content(&parent);
    create(Format::Vdi, &child, 5 << 20, &[], Some(&parent)).finish().unwrap();
    assert!(content(&child) == base);
    change_at_random(&child, 9, 30, &[3 << 20, 7 << 20], &|_| {});
    assert!(content(&parent) == base);
}
