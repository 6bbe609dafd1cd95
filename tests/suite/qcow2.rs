//! qcow2 read against qemu-img: content bit for bit, `format-specific` key for key, snapshots, damage.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cowshed::engine::chain::{Chain, OpenOptions};
use cowshed::engine::error::ErrorKind;
use cowshed::engine::format::{Format, Image, Source};
use cowshed::engine::io::ReadAt;
use cowshed::engine::io::gate::Gate;
use cowshed::engine::io::memory::Memory;
use cowshed::engine::model::Kind;
use serde_json::Value;

use crate::common::{dir, noise, qemu_img, qemu_io, run, s, text};

const MIB: usize = 1 << 20;

/// A raw disk with text, noise, holes and odd edges.
fn sample(path: &Path, len: usize) -> Vec<u8> {
    let mut disk = vec![0u8; len];
    let mut fill = |at: usize, bytes: Vec<u8>| {
        let n = bytes.len().min(len.saturating_sub(at));
        disk[at..at + n].copy_from_slice(&bytes[..n]);
    };
    fill(0, text(1, 300_000));
    fill(600_000, noise(2, 200_000));
    fill(1_500_000, text(3, 70_000));
    fill(1_700_001, vec![7; 3]);
    fill(len - 1000, text(4, 1000));
    std::fs::write(path, &disk).unwrap();
    disk
}

fn chain(path: &Path) -> Chain {
    Chain::open(path, &OpenOptions::default()).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The whole disk, read in pieces of `step` bytes.
fn content(disk: &dyn ReadAt, step: usize) -> Vec<u8> {
    let mut out = vec![0xaa; disk.len() as usize];
    for (i, part) in out.chunks_mut(step).enumerate() {
        disk.read_at((i * step) as u64, part).unwrap();
    }
    out
}

/// What qemu-img reads.
fn oracle(path: &Path, extra: &str) -> Vec<u8> {
    let raw = path.with_extension("oracle");
    qemu_img(&format!("convert {extra} -O raw {} {}", s(path), s(&raw)));
    let bytes = std::fs::read(&raw).unwrap();
    std::fs::remove_file(raw).unwrap();
    bytes
}

/// Our content equals qemu-img's, in large and small steps, and every extent tells the truth about its bytes.
fn same_content(path: &Path) {
    let want = oracle(path, "");
    let c = chain(path);
    let disk = c.disk().unwrap();
    assert_eq!(disk.len(), want.len() as u64, "{}", path.display());
    assert!(content(&disk, MIB) == want, "{}: content differs", path.display());
    assert!(content(&disk, 50_021) == want, "{}: content differs in odd steps", path.display());
    let mut at = 0;
    while at < disk.len() {
        let e = disk.extent(at, u64::MAX).unwrap();
        assert!(e.len > 0 && e.offset == at);
        if matches!(e.kind, Kind::Zero | Kind::Unallocated) {
            assert!(want[at as usize..(at + e.len) as usize].iter().all(|&b| b == 0), "{} at {at}: {e:?}", path.display());
        }
        at += e.len;
    }
    assert_eq!(at, disk.len());
}

fn info(path: &Path) -> Value {
    serde_json::from_str(&qemu_img(&format!("info --output=json {}", s(path)))).unwrap()
}

/// What we say of the image equals what qemu-img says.
fn same_info(path: &Path) {
    let want = info(path);
    let c = chain(path);
    let d = &c.nodes[0].description;
    assert_eq!(d.specific, want["format-specific"], "{}", path.display());
    assert_eq!(Some(c.layers[0].size()), want["virtual-size"].as_u64());
    assert_eq!(d.cluster_size, want["cluster-size"].as_u64());
    assert_eq!(d.dirty, want["dirty-flag"].as_bool().unwrap());
    assert_eq!(d.encrypted.is_some(), want["encrypted"].as_bool().unwrap_or(false));
    let empty = Vec::new();
    let snapshots = want["snapshots"].as_array().unwrap_or(&empty);
    assert_eq!(d.snapshots.len(), snapshots.len());
    for (ours, theirs) in d.snapshots.iter().zip(snapshots) {
        assert_eq!(ours.id, theirs["id"]);
        assert_eq!(ours.name, theirs["name"]);
        assert_eq!(ours.date_sec, theirs["date-sec"]);
        assert_eq!(ours.date_nsec, theirs["date-nsec"]);
        assert_eq!(ours.vm_state_size, theirs["vm-state-size"]);
        assert_eq!(ours.icount, theirs["icount"].as_u64());
    }
}

fn convert(source: &Path, target: &Path, options: &str) {
    qemu_img(&format!("convert -f raw -O qcow2 {options} {} {}", s(source), s(target)));
}

#[test]
fn every_way_of_storing_reads_as_qemu_reads_it() {
    let dir = dir();
    let raw = dir.path().join("disk.raw");
    let want = sample(&raw, 3 * MIB + 512);
    for (n, options) in [
        "",
        "-o compat=0.10",
        "-o cluster_size=512",
        "-o cluster_size=4096,refcount_bits=1",
        "-o cluster_size=2M,refcount_bits=64",
        "-o refcount_bits=8,lazy_refcounts=on",
        "-o extended_l2=on",
        "-o extended_l2=on,cluster_size=16k",
        "-o preallocation=metadata",
        "-o preallocation=full,compat=0.10",
        "-c",
        "-c -o compat=0.10,cluster_size=512",
        "-c -o cluster_size=2M",
        "-c -o compression_type=zstd",
        "-c -o compression_type=zstd,cluster_size=4k",
        "-c -o extended_l2=on,cluster_size=128k",
        "-S 0",
    ]
    .iter()
    .enumerate()
    {
        let image = dir.path().join(format!("{n}.qcow2"));
        convert(&raw, &image, options);
        assert!(oracle(&image, "") == want);
        same_content(&image);
        same_info(&image);
    }
}

#[test]
fn external_data_files_are_found_and_may_be_missing() {
    let dir = dir();
    let raw = dir.path().join("disk.raw");
    sample(&raw, 2 * MIB);
    for (name, options) in [("a", ""), ("b", ",data_file_raw=on"), ("c", ",cluster_size=4k"), ("d", ",extended_l2=on")] {
        let image = dir.path().join(format!("{name}.qcow2"));
        let data = dir.path().join(format!("{name}.data"));
        // The name is recorded as it is given: make it relative to the image.
        let opts = format!("data_file={}{options}", s(&data));
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &opts, s(&image), "2M"]);
        qemu_img(&format!("convert -n -f raw -O qcow2 {} {}", s(&raw), s(&image)));
        same_content(&image);
        same_info(&image);
        let c = chain(&image);
        assert_eq!(c.layers[0].files().len(), 2);
        assert!(
            c.nodes[0].actual_size.unwrap() >= std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&data).unwrap()) * 512
        );
        std::fs::remove_file(&data).unwrap();
        let c = chain(&image);
        assert_eq!(c.nodes[0].description.specific["data"]["data-file"], s(&data));
        assert_eq!(c.disk().err().unwrap().kind(), ErrorKind::MissingReference);
        assert!(c.layers[0].read(0, &mut [0; 512]).is_err());
        assert!(c.nodes[0].description.warnings[0].contains("not there"));
    }
    // Outside the allowed folders it is not opened, and still described.
    let outside = crate::common::dir();
    let image = dir.path().join("hostile.qcow2");
    let opts = format!("data_file={}", s(&outside.path().join("x")));
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &opts, s(&image), "2M"]);
    let c = chain(&image);
    assert_eq!(c.disk().err().unwrap().kind(), ErrorKind::Gated);
    assert_eq!(c.layers[0].size(), 2 << 20);
}

#[test]
fn chains_and_zero_clusters_read_through() {
    let dir = dir();
    let p = |name: &str| dir.path().join(name);
    let raw = p("base.raw");
    sample(&raw, 2 * MIB);
    for (n, options) in ["", ",cluster_size=4k", ",extended_l2=on", ",compat=0.10"].iter().enumerate() {
        let mid = p(&format!("mid{n}.qcow2"));
        let top = p(&format!("top{n}.qcow2"));
        run(
            "qemu-img",
            &["create", "-q", "-f", "qcow2", "-o", &format!("backing_file=base.raw,backing_fmt=raw{options}"), s(&mid), "3M"],
        );
        let mid_name = format!("mid{n}.qcow2");
        run(
            "qemu-img",
            &["create", "-q", "-f", "qcow2", "-o", &format!("backing_file={mid_name},backing_fmt=qcow2{options}"), s(&top), "4M"],
        );
        qemu_io("qcow2", &mid, &["write -P 1 64k 100k", "write -z 300k 80k", "write -P 9 2900k 100k"]);
        qemu_io(
            "qcow2",
            &top,
            &["write -P 2 100k 3k", "write -z -u 128k 64k", "discard 640k 128k", "write -P 3 3600k 7k", "write -z 2950k 20k"],
        );
        same_content(&mid);
        same_content(&top);
        same_info(&top);
        let c = chain(&top);
        assert_eq!(c.nodes.len(), 3);
        let reference = c.layers[0].backing().unwrap();
        assert_eq!((reference.names, reference.format), (vec![mid_name], Some("qcow2".into())));
    }
}

#[test]
fn snapshots_read_as_disks_of_their_own() {
    let dir = dir();
    for options in ["", ",compat=0.10", ",cluster_size=4k", ",extended_l2=on"] {
        let image = dir.path().join("a.qcow2");
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &format!("refcount_bits=16{options}"), s(&image), "4M"]);
        qemu_io("qcow2", &image, &["write -P 1 0 1M", "write -z 2M 256k"]);
        qemu_img(&format!("snapshot -c first {}", s(&image)));
        qemu_io("qcow2", &image, &["write -P 2 512k 1M", "discard 0 64k"]);
        qemu_img(&format!("snapshot -c 1 {}", s(&image)));
        qemu_io("qcow2", &image, &["write -P 3 0 4M"]);
        same_content(&image);
        same_info(&image);
        let c = chain(&image);
        // QEMU takes an id before a name: `1` is the snapshot `first`, though another one is named so.
        for which in ["first", "1", "2"] {
            let want = oracle(&image, &format!("-l {which}"));
            assert!(content(&c.snapshot_disk(which).unwrap(), MIB) == want, "{options} {which}");
        }
        let e = c.snapshot_disk("none").err().unwrap();
        assert_eq!((e.kind(), e.advice()), (ErrorKind::Usage, Some("it has: first, 1")));
    }
    // A snapshot of another size keeps its own.
    let image = dir.path().join("b.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", s(&image), "1M"]);
    qemu_io("qcow2", &image, &["write -P 5 0 1M"]);
    qemu_img(&format!("snapshot -c small {}", s(&image)));
    qemu_img(&format!("resize -q {} 3M", s(&image)));
    let disk = chain(&image).snapshot_disk("small").unwrap();
    assert!(content(&disk, MIB) == vec![5; MIB]);
}

#[test]
fn bitmaps_encryption_and_flags_are_described_as_qemu_does() {
    let dir = dir();
    let image = dir.path().join("a.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", s(&image), "10M"]);
    qemu_img(&format!("bitmap --add {} b1", s(&image)));
    qemu_img(&format!("bitmap --add -g 32k --disable {} b2", s(&image)));
    same_info(&image);
    let d = chain(&image).nodes[0].description.clone();
    assert_eq!(
        d.bitmaps.iter().map(|b| (b.name.as_str(), b.granularity, b.auto)).collect::<Vec<_>>(),
        [("b1", 65536, true), ("b2", 32768, false)]
    );
    // Written by a program that does not know bitmaps: the autoclear bit is gone.
    let mut bytes = std::fs::read(&image).unwrap();
    bytes[95] &= !1;
    std::fs::write(&image, &bytes).unwrap();
    let d = chain(&image).nodes[0].description.clone();
    assert!(d.bitmaps.is_empty() && d.warnings.iter().any(|w| w.contains("bitmaps")), "{:?}", d.warnings);

    for (n, how) in [
        "encrypt.format=luks,encrypt.iter-time=10",
        "encrypt.format=aes",
        "encrypt.format=aes,compat=0.10",
        "encrypt.format=luks,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,encrypt.ivgen-hash-alg=sha256,encrypt.iter-time=10",
    ]
    .iter()
    .enumerate()
    {
        let image = dir.path().join(format!("secret{n}.qcow2"));
        let opts = format!("encrypt.key-secret=s,{how}");
        run("qemu-img", &["create", "-q", "--object", "secret,id=s,data=geheim", "-f", "qcow2", "-o", &opts, s(&image), "2M"]);
        same_info(&image);
        let c = chain(&image);
        assert_eq!(c.disk().err().unwrap().kind(), ErrorKind::Unsupported);
        assert!(c.nodes[0].description.facts.iter().any(|f| f.label == "encryption"));
    }

    for (byte, bit) in [(79, 1), (79, 2)] {
        let image = dir.path().join("flag.qcow2");
        run("qemu-img", &["create", "-q", "-f", "qcow2", s(&image), "1M"]);
        let mut bytes = std::fs::read(&image).unwrap();
        bytes[byte] |= bit;
        std::fs::write(&image, &bytes).unwrap();
        same_info(&image);
        let d = chain(&image).nodes[0].description.clone();
        assert_eq!((d.dirty, d.corrupt), (bit == 1, bit == 2));
        assert!(!d.warnings.is_empty());
    }
}

#[test]
fn unknown_features_are_refused_by_the_name_the_image_gives_them() {
    let dir = dir();
    let image = dir.path().join("a.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", s(&image), "1M"]);
    let mut bytes = std::fs::read(&image).unwrap();
    // Incompatible bit 4 ("extended L2 entries" in QEMU's table) becomes bit 9 with a name of its own, both set.
    bytes[78] = 2;
    let at = bytes.windows(19).position(|w| w == b"extended L2 entries").unwrap();
    bytes[at - 1] = 9;
    bytes[at..at + 19].copy_from_slice(&b"quantum\x1b[31m clusters\0"[..19]);
    std::fs::write(&image, &bytes).unwrap();
    let e = Chain::open(&image, &OpenOptions::default()).err().unwrap();
    assert_eq!(e.kind(), ErrorKind::Unsupported);
    assert!(e.to_string().contains("quantum\\x1b[31m cl") && e.to_string().contains("bit 9"), "{e}");
}

/// Opens bytes as qcow2, describes them and reads all of a small disk; errors are fine, panics and endless work are not.
fn survive(bytes: Vec<u8>) -> Result<(), cowshed::engine::error::Error> {
    let source = Source { dev: Arc::new(Memory::new(bytes)), path: PathBuf::from("/nowhere/x.qcow2"), gate: Gate::closed() };
    let image: Arc<dyn Image> = (Format::Qcow2.entry().open)(source)?;
    let _ = image.describe();
    for which in image.describe().snapshots.iter().take(4) {
        let _ = read_some(image.snapshot(&which.id)?.as_ref());
    }
    read_some(image.as_ref())
}

fn read_some(image: &dyn Image) -> Result<(), cowshed::engine::error::Error> {
    let mut at = 0;
    for _ in 0..3000 {
        if at >= image.size() {
            break;
        }
        let m = image.map(at, u64::MAX)?;
        assert!(m.len > 0 && m.len <= image.size() - at);
        let mut buf = vec![0; m.len.min(70_000) as usize];
        image.read(at, &mut buf)?;
        at += m.len;
    }
    Ok(())
}

/// Small images with every structure in them.
fn specimens(dir: &Path) -> Vec<Vec<u8>> {
    let raw = dir.join("disk.raw");
    sample(&raw, 2 * MIB);
    let mut out = Vec::new();
    for options in [
        "-o cluster_size=4k",
        "-c -o cluster_size=4k",
        "-c -o cluster_size=8k,compression_type=zstd",
        "-o extended_l2=on,cluster_size=16k",
    ] {
        let image = dir.join("x.qcow2");
        convert(&raw, &image, options);
        qemu_img(&format!("snapshot -c snap {}", s(&image)));
        qemu_img(&format!("bitmap --add {} bits", s(&image)));
        qemu_io("qcow2", &image, &["write -P 7 0 9k", "write -z 64k 32k"]);
        out.push(std::fs::read(&image).unwrap());
    }
    out
}

#[test]
fn cut_anywhere_it_is_an_error_and_never_zeros() {
    let dir = dir();
    for bytes in specimens(dir.path()) {
        survive(bytes.clone()).unwrap();
        let mut cuts: Vec<usize> = (0..600).collect();
        cuts.extend((600..bytes.len() - 4096).step_by(4096 - 8));
        for n in cuts {
            let e = survive(bytes[..n].to_vec()).expect_err(&format!("cut at {n} of {}", bytes.len()));
            assert!(matches!(e.kind(), ErrorKind::Truncated | ErrorKind::Corrupt), "{n}: {e}");
        }
    }
}

#[test]
fn flipped_bits_never_crash() {
    let dir = dir();
    let specimens = specimens(dir.path());
    let mut x = 88_172_645_463_325_252u64;
    let mut random = move |n: usize| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x % n as u64) as usize
    };
    for round in 0..600 {
        let mut bytes = specimens[round % specimens.len()].clone();
        // Metadata lies at the front and at the end; hit the header most.
        for _ in 0..1 + random(4) {
            let span = [112, 4096, 65536, bytes.len()][random(4)];
            let at = random(span.min(bytes.len()));
            bytes[at] ^= 1 << random(8);
        }
        let _ = survive(bytes);
    }
}
