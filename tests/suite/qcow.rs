//! qcow version 1 against `qemu-img`.

use std::path::Path;
use std::process::Command;

use cowshed::engine::chain::{Chain, OpenOptions};
use cowshed::engine::error::ErrorKind;
use cowshed::engine::format::Format;
use cowshed::engine::format::write::CreateSpec;
use cowshed::engine::io::ReadAt;
use cowshed::engine::io::fault::{Failure, Faulty};
use cowshed::engine::model::Kind;

use crate::common::{dir, noise, qemu_img, qemu_io, s, text};
use crate::writing::{self, same, whole};

/// The whole disk as cowshed reads it, in pieces of an odd size so that cluster edges are crossed.
fn ours(path: &Path) -> Vec<u8> {
    let disk = Chain::open(path, &OpenOptions::default()).unwrap().disk().unwrap();
    let mut out = vec![0; disk.len() as usize];
    for (i, part) in out.chunks_mut(77_777).enumerate() {
        disk.read_at(i as u64 * 77_777, part).unwrap();
    }
    out
}

/// The whole disk as `qemu-img` reads it.
fn theirs(path: &Path) -> Vec<u8> {
    let raw = path.with_extension("oracle");
    qemu_img(&format!("convert -O raw {} {}", s(path), s(&raw)));
    std::fs::read(raw).unwrap()
}

/// Makes `image` of `raw`. With `-c` qemu-img 10.0.2 writes a whole image and yet exits with 1, silently: its own comparison is the
/// proof that the image is good.
fn convert(raw: &Path, flag: &str, image: &Path) {
    let words = ["convert", "-f", "raw", "-O", "qcow", flag, s(raw), s(image)];
    let _ = Command::new("qemu-img").args(words.iter().filter(|w| !w.is_empty())).output().unwrap();
    qemu_img(&format!("compare -f raw -F qcow {} {}", s(raw), s(image)));
}

#[test]
fn reads_what_the_tool_wrote_plain_and_compressed() {
    let dir = dir();
    let mut content = noise(1, 300_000);
    content.resize(1 << 20, 0);
    content.extend(text(2, 500_000));
    content.resize((3 << 20) + 512, 0);
    let raw = dir.path().join("in.raw");
    std::fs::write(&raw, &content).unwrap();
    for (name, flag) in [("plain.qcow", ""), ("packed.qcow", "-c")] {
        let image = dir.path().join(name);
        convert(&raw, flag, &image);
        let got = ours(&image);
        same(&got, &content, name);
        same(&got, &theirs(&image), name);
        let chain = Chain::open(&image, &OpenOptions::default()).unwrap();
        assert_eq!(chain.nodes[0].format, Some(Format::Qcow));
        assert_eq!(chain.nodes[0].description.cluster_size, Some(4096));
        let kind = chain.layers[0].map(1 << 20, 1 << 20).unwrap().kind;
        assert_eq!(kind, if flag.is_empty() { Kind::Data } else { Kind::Compressed }, "{name}");
    }
}

#[test]
fn stands_on_backing_files() {
    let dir = dir();
    let (base, top) = (dir.path().join("base.qcow"), dir.path().join("top.qcow"));
    qemu_img(&format!("create -f qcow {} 5M", s(&base)));
    qemu_io("qcow", &base, &["write -P 1 0 5M"]);
    qemu_img(&format!("create -f qcow -b {} -F qcow {} 6M", s(&base), s(&top)));
    qemu_io("qcow", &top, &["write -P 2 1M 70000", "write -P 3 4194304 512", "write -P 4 6290944 512"]);
    // The tool probes the backing file here, as the header has no field for its format; so do we, and say so.
    same(&ours(&top), &theirs(&top), "overlay");
    let chain = Chain::open(&top, &OpenOptions::default()).unwrap();
    assert_eq!(chain.nodes.len(), 2);
    assert!(chain.nodes[1].warnings.iter().any(|w| w.contains("not recorded")), "{:?}", chain.nodes[1].warnings);
    assert_eq!(chain.nodes[0].description.cluster_size, Some(512));
}

#[test]
fn sizes_are_cut_to_whole_sectors_as_the_tool_cuts_them() {
    let dir = dir();
    let image = dir.path().join("odd.qcow");
    qemu_img(&format!("create -f qcow {} 1M", s(&image)));
    let mut bytes = std::fs::read(&image).unwrap();
    bytes[24..32].copy_from_slice(&(1_000_001u64).to_be_bytes());
    std::fs::write(&image, &bytes).unwrap();
    let info: serde_json::Value = serde_json::from_str(&qemu_img(&format!("info --output=json {}", s(&image)))).unwrap();
    let chain = Chain::open(&image, &OpenOptions::default()).unwrap();
    assert_eq!(Some(chain.layers[0].size()), info["virtual-size"].as_u64());
}

#[test]
fn encrypted_images_are_described_and_refused() {
    let dir = dir();
    let image = dir.path().join("aes.qcow");
    qemu_img(&format!(
        "create -f qcow --object secret,id=s,data=abc -o encrypt.format=aes,encrypt.key-secret=s {} 1M",
        s(&image)
    ));
    let chain = Chain::open(&image, &OpenOptions::default()).unwrap();
    assert_eq!(chain.nodes[0].description.encrypted.as_deref(), Some("AES"));
    let refused = chain.disk().map(drop).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    assert!(refused.to_string().contains("encrypted"), "{refused}");
}

#[test]
fn a_big_empty_image_is_one_extent() {
    let dir = dir();
    let image = dir.path().join("big.qcow");
    qemu_img(&format!("create -f qcow {} 1T", s(&image)));
    let chain = Chain::open(&image, &OpenOptions::default()).unwrap();
    let (mut at, mut calls) = (0, 0);
    while at < 1 << 40 {
        let m = chain.layers[0].map(at, u64::MAX).unwrap();
        assert_eq!(m.kind, Kind::Unallocated);
        (at, calls) = (at + m.len, calls + 1);
    }
    assert!(calls <= 8, "{calls} calls");
}

#[test]
fn clusters_that_are_not_there_and_broken_streams_are_told() {
    let dir = dir();
    let (raw, image) = (dir.path().join("in.raw"), dir.path().join("x.qcow"));
    std::fs::write(&raw, text(3, 1 << 20)).unwrap();
    convert(&raw, "", &image);
    let len = std::fs::metadata(&image).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&image).unwrap().set_len(len - 4096).unwrap();
    let disk = Chain::open(&image, &OpenOptions::default()).unwrap().disk().unwrap();
    let mut whole = vec![0; disk.len() as usize];
    assert_eq!(disk.read_at(0, &mut whole).unwrap_err().kind(), ErrorKind::Truncated);

    std::fs::remove_file(&image).unwrap();
    convert(&raw, "-c", &image);
    let mut bytes = std::fs::read(&image).unwrap();
    let end = bytes.len();
    bytes[end / 2..].fill(0xff);
    std::fs::write(&image, &bytes).unwrap();
    let disk = Chain::open(&image, &OpenOptions::default()).unwrap().disk().unwrap();
    let e = disk.read_at(0, &mut whole).unwrap_err();
    assert!(matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Truncated), "{e}");
}

#[test]
fn random_writes_read_back_here_and_by_the_tool() {
    let dir = dir();
    for (size, base) in [((5u64 << 20) + 1536, Vec::new()), (3 << 20, noise(77, 2_000_000))] {
        let (bytes, model) = writing::random_writes(Format::Qcow, size, &base);
        let (image, raw) = (dir.path().join("x.qcow"), dir.path().join("model.raw"));
        std::fs::write(dir.path().join("base.raw"), &base).unwrap();
        std::fs::write(&image, bytes).unwrap();
        std::fs::write(&raw, &model).unwrap();
        qemu_img(&format!("compare -f qcow -F raw {} {}", s(&image), s(&raw)));
    }
}

#[test]
fn what_is_created_is_what_the_tool_creates() {
    let dir = dir();
    for (size, backing) in [(512u64, false), (10 << 20, false), (1 << 40, false), (10 << 20, true)] {
        let theirs = dir.path().join("theirs");
        std::fs::write(dir.path().join("base.raw"), [0; 512]).unwrap();
        let over = if backing { "-F raw -b base.raw " } else { "" };
        qemu_img(&format!("create -f qcow {over}{} {size}", s(&theirs)));
        let (dev, _writer) = writing::create(Format::Qcow, size, backing.then_some(&[0; 512][..]));
        same(&dev.to_vec(), &std::fs::read(&theirs).unwrap(), &format!("{size} {backing}"));
    }
    let none = CreateSpec::default();
    assert_eq!(writing::try_create(Format::Qcow, &none).map(drop).unwrap_err().kind(), ErrorKind::Usage);
}

#[test]
fn a_power_cut_leaves_each_byte_old_or_new() {
    writing::power_cuts_leave_old_or_new(Format::Qcow);
}

#[test]
fn a_full_disk_is_an_error_and_can_be_gone_on_from() {
    let (dev, writer) = writing::create(Format::Qcow, 1 << 20, None);
    let mut model = vec![0; 1 << 20];
    for n in 0..20 {
        dev.fail(Some(Failure { at: n % 4, once: true, errno: libc::ENOSPC, reads: false }));
        let data = noise(n, 30_000);
        let at = (n * 40_000) as usize;
        for _ in 0..6 {
            if writer.write(at as u64, &data).and_then(|()| writer.flush()).is_ok() {
                break;
            }
        }
        dev.fail(None);
        writer.flush().unwrap();
        model[at..at + data.len()].copy_from_slice(&data);
    }
    let image = writing::open(Format::Qcow, dev.to_vec()).unwrap();
    same(&whole(image.as_ref(), &[]), &model, "after failures");
}

#[test]
fn writing_never_follows_an_entry_into_the_header() {
    let (dev, writer) = writing::create(Format::Qcow, 1 << 20, None);
    writer.write(0, &[1; 4096]).unwrap();
    writer.flush().unwrap();
    drop(writer);
    let mut bytes = dev.to_vec();
    let table = u64::from_be_bytes(bytes[48..56].try_into().unwrap()) as usize;
    bytes[table..table + 8].copy_from_slice(&16u64.to_be_bytes());
    let dev = Faulty::new(bytes.clone());
    let writer = writing::open_write(Format::Qcow, &dev, None);
    assert_eq!(writer.write(0, &[2; 512]).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(writer.write_zeroes(0, 512).unwrap_err().kind(), ErrorKind::Corrupt);
    same(&dev.to_vec(), &bytes, "untouched");
}

#[test]
fn a_source_of_odd_size_ends_in_a_short_cluster() {
    // As a compressing copy does it: the source ends within a sector, the image is rounded up to a whole one.
    let source = text(4, 10_000);
    let (_dev, writer) = writing::create(Format::Qcow, source.len() as u64, None);
    for (i, part) in source.chunks(writer.unit() as usize).enumerate() {
        writer.write_compressed(i as u64 * writer.unit(), part).unwrap();
    }
    let mut expected = source;
    expected.resize(10_240, 0);
    let image = writer.reader();
    same(&whole(image.as_ref(), &[]), &expected, "padded with zeros");
    assert_eq!(image.map(8192, u64::MAX).unwrap().kind, Kind::Compressed);
    assert_eq!(writer.write_compressed(512, &[0; 512]).unwrap_err().kind(), ErrorKind::Usage);
}
