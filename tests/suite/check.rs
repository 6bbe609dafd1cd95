//! Checking: what `qemu-img check` says, number by number where it says it, and what was broken on purpose.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use crate::common::{cowshed, dir, noise, qemu_img, qemu_io, s};

/// Exit code and JSON of a check by qemu-img.
fn theirs(image: &Path) -> (Option<i32>, serde_json::Value) {
    let out =
        Command::new("qemu-img").args(["check", "--output=json", s(image)]).output().expect("qemu-img: tests/run installs it");
    (out.status.code(), serde_json::from_slice(&out.stdout).unwrap_or_default())
}

fn ours(image: &Path) -> (Option<i32>, serde_json::Value) {
    let out = cowshed(&["check", "--output=json", s(image)]);
    let text = String::from_utf8_lossy(&out.stdout);
    (
        out.status.code(),
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text} {}", String::from_utf8_lossy(&out.stderr))),
    )
}

/// Every key qemu-img prints has the same value in ours.
fn agree(image: &Path, label: &str) -> serde_json::Value {
    let ((code, want), (our_code, have)) = (theirs(image), ours(image));
    for (key, value) in want.as_object().unwrap() {
        assert_eq!(&have[key], value, "{label}: {key}\n{want:#}\n{have:#}");
    }
    for key in ["corruptions", "leaks"] {
        assert_eq!(have.get(key), want.get(key), "{label}: {key}\n{have:#}");
    }
    assert_eq!(our_code, code, "{label}");
    have
}

fn ids(report: &serde_json::Value) -> Vec<&str> {
    report["findings"].as_array().unwrap().iter().map(|f| f["id"].as_str().unwrap()).collect()
}

/// A qcow2 image with a bit of everything that `options` allow.
fn sample(image: &Path, options: &str) {
    qemu_img(&format!("create -q -f qcow2 {options} {} 64M", s(image)));
    qemu_io("qcow2", image, &["write -P 1 0 3M", "write -P 2 20M 100k", "write -z 30M 2M", "write -P 3 50M 1M"]);
    if !options.contains("data_file") && !options.contains("refcount_bits=1,") && !options.ends_with("refcount_bits=1") {
        qemu_img(&format!("snapshot -c first {}", s(image)));
        qemu_io("qcow2", image, &["write -P 4 1M 1M", "discard 50M 512k"]);
        qemu_img(&format!("snapshot -c second {}", s(image)));
        qemu_io("qcow2", image, &["write -P 5 21M 1M"]);
    }
}

#[test]
fn clean_images_of_every_sort_agree_with_qemu_img() {
    let d = dir();
    for (n, options) in [
        "",
        "-o compat=0.10",
        "-o cluster_size=512",
        "-o cluster_size=2M",
        "-o refcount_bits=1",
        "-o refcount_bits=8",
        "-o refcount_bits=64",
        "-o extended_l2=on",
        "-o extended_l2=on,cluster_size=16k",
        "-o preallocation=metadata",
        "-o lazy_refcounts=on",
    ]
    .iter()
    .enumerate()
    {
        let image = d.path().join(format!("{n}.qcow2"));
        sample(&image, options);
        agree(&image, options);
    }
    let data = d.path().join("data.raw");
    let image = d.path().join("ext.qcow2");
    sample(&image, &format!("-o data_file={}", s(&data)));
    agree(&image, "data file");
    // Compressed, from incompressible and compressible content.
    let raw = d.path().join("c.raw");
    let mut bytes = noise(1, 1 << 20);
    bytes.extend(crate::common::text(2, 3 << 20));
    std::fs::write(&raw, bytes).unwrap();
    for kind in ["zlib", "zstd"] {
        let image = d.path().join(format!("{kind}.qcow2"));
        qemu_img(&format!("convert -c -O qcow2 -o compression_type={kind} {} {}", s(&raw), s(&image)));
        agree(&image, kind);
    }
    let image = d.path().join("bitmap.qcow2");
    sample(&image, "");
    qemu_img(&format!("bitmap --add {} b0", s(&image)));
    qemu_io("qcow2", &image, &["write -P 9 5M 1M"]);
    agree(&image, "bitmap");
}

fn read_u64(f: &std::fs::File, at: u64) -> u64 {
    let mut b = [0; 8];
    f.read_exact_at(&mut b, at).unwrap();
    u64::from_be_bytes(b)
}

/// Where the image's tables are: L1, first L2, refcount table, first refcount block.
struct Places {
    l1: u64,
    l2: u64,
    reftable: u64,
    block: u64,
}

fn places(f: &std::fs::File) -> Places {
    const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
    let (l1, reftable) = (read_u64(f, 40), read_u64(f, 48));
    Places { l1, l2: read_u64(f, l1) & OFFSET, reftable, block: read_u64(f, reftable) & OFFSET }
}

#[test]
fn what_is_broken_on_purpose_is_told_for_what_it_is() {
    let d = dir();
    let base = d.path().join("base.qcow2");
    sample(&base, "");
    type Break = fn(&std::fs::File, &Places);
    let cases: &[(&str, &str, bool, Break)] = &[
        ("a refcount too low", "refcount-too-low", true, |f, p| f.write_all_at(&0u16.to_be_bytes(), p.block + 2 * 6).unwrap()),
        ("a leak", "leak", true, |f, p| {
            f.set_len(f.metadata().unwrap().len() + (1 << 16)).unwrap();
            let last = (f.metadata().unwrap().len() >> 16) - 1;
            f.write_all_at(&1u16.to_be_bytes(), p.block + 2 * last).unwrap();
        }),
        ("a COPIED flag missing", "copied-flag", true, |f, p| {
            let i = (0..8192).find(|i| read_u64(f, p.l2 + i * 8) >> 63 == 1).unwrap();
            f.write_all_at(&(read_u64(f, p.l2 + i * 8) & !(1 << 63)).to_be_bytes(), p.l2 + i * 8).unwrap();
        }),
        ("an L2 entry between clusters", "misaligned", false, |f, p| {
            f.write_all_at(&(read_u64(f, p.l2) | 0x200).to_be_bytes(), p.l2).unwrap();
        }),
        ("an L2 entry beyond the end", "outside", false, |f, p| {
            f.write_all_at(&(1u64 << 63 | 1 << 40).to_be_bytes(), p.l2).unwrap()
        }),
        ("data over the L1 table", "overlap", false, |f, p| f.write_all_at(&(1u64 << 63 | p.l1).to_be_bytes(), p.l2).unwrap()),
        ("reserved bits of an L2 entry", "reserved-bits", false, |f, p| {
            f.write_all_at(&(read_u64(f, p.l2) | 1 << 58).to_be_bytes(), p.l2).unwrap();
        }),
        ("reserved bits of an L1 entry", "reserved-bits", false, |f, p| {
            f.write_all_at(&(read_u64(f, p.l1) | 1 << 57).to_be_bytes(), p.l1).unwrap();
        }),
        ("the corrupt bit", "corrupt-bit", true, |f, _| f.write_all_at(&2u64.to_be_bytes(), 72).unwrap()),
        ("a refcount block between clusters", "table", false, |f, p| {
            f.write_all_at(&(p.block | 0x200).to_be_bytes(), p.reftable).unwrap()
        }),
        ("the dirty bit", "dirty", true, |f, _| f.write_all_at(&1u64.to_be_bytes(), 72).unwrap()),
    ];
    for (label, id, same, damage) in cases {
        let image = d.path().join("x.qcow2");
        std::fs::copy(&base, &image).unwrap();
        let f = std::fs::File::options().read(true).write(true).open(&image).unwrap();
        damage(&f, &places(&f));
        drop(f);
        let (code, report) = ours(&image);
        assert!(ids(&report).contains(id), "{label}: {report:#}");
        let want = match *id {
            "leak" => 3,
            "dirty" | "corrupt-bit" => 0,
            _ => 2,
        };
        assert_eq!(code, Some(want), "{label}");
        if *same {
            agree(&image, label);
        }
    }
}

#[test]
fn formats_without_a_check_and_files_that_are_none_have_their_exit_codes() {
    let d = dir();
    let raw = d.path().join("x.raw");
    std::fs::write(&raw, vec![0; 4096]).unwrap();
    assert_eq!(cowshed(&["check", s(&raw)]).status.code(), Some(63));
    assert_eq!(cowshed(&["check", s(&d.path().join("none"))]).status.code(), Some(1));
    let image = d.path().join("cut.qcow2");
    sample(&image, "");
    std::fs::File::options().write(true).open(&image).unwrap().set_len(200_000).unwrap();
    let out = cowshed(&["check", s(&image)]);
    assert!(matches!(out.status.code(), Some(1 | 2)), "{out:?}");
}
