//! What a file may be: every match with its evidence, the formats known by name only, encrypted containers, names that mislead.

use std::path::{Path, PathBuf};
use std::process::Command;

use cowshed::engine::chain::{Chain, OpenOptions};
use cowshed::engine::error::ErrorKind;
use cowshed::engine::format::probe::{Confidence, Match, extension_warning, probe, warnings};
use cowshed::engine::format::{FORMATS, Format};
use cowshed::engine::io::file::FileDevice;
use serde_json::Value;

use crate::common::{cowshed, dir, noise, qemu_img, s};

fn matches(path: &Path) -> Vec<Match> {
    probe(&FileDevice::open(path).unwrap()).unwrap()
}

fn formats(path: &Path) -> Vec<Format> {
    matches(path).iter().map(|m| m.format).collect()
}

fn file(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn every_match_is_told_and_raw_is_always_among_them() {
    let dir = dir();
    // A disk with a GPT, at whose start a guest wrote a qcow2 header, with a disc's descriptor and a VHD footer.
    let mut b = vec![0u8; 1 << 20];
    b[..8].copy_from_slice(b"QFI\xfb\0\0\0\x01");
    b[510..512].copy_from_slice(&[0x55, 0xaa]);
    b[446 + 4] = 0xee;
    b[446 + 12] = 0xff;
    b[512..520].copy_from_slice(b"EFI PART");
    b[0x8000..0x8007].copy_from_slice(b"\x01CD001\x01");
    let end = b.len();
    b[end - 512..end - 508].copy_from_slice(b"koly");
    let path = file(dir.path(), "x.img", &b);
    let all = matches(&path);
    assert_eq!(formats(&path), [Format::Qcow, Format::Iso, Format::Dmg, Format::Raw]);
    assert!(all[3].evidence.contains("GPT"), "{}", all[3].evidence);
    assert_eq!(all[3].confidence, Confidence::Possible);
    let said = warnings(&path, &all).join("\n");
    assert!(said.contains("also of iso") && said.contains("of dmg"), "{said}");
    assert!(said.contains("says raw, its content says qcow") && said.contains("-f raw"), "{said}");
    // The chain carries them to the screen.
    let chain = Chain::open(&file(dir.path(), "y.img", &noise(1, 9000)), &OpenOptions::default()).unwrap();
    assert_eq!(chain.nodes[0].warnings, Vec::<String>::new());
}

#[test]
fn an_empty_or_tiny_file_is_raw() {
    let dir = dir();
    for len in [0, 1, 7, 511, 512, 513] {
        assert_eq!(formats(&file(dir.path(), "x", &vec![0; len])), [Format::Raw], "{len}");
    }
}

#[test]
fn raw_disks_tell_their_partition_table() {
    let dir = dir();
    let path = dir.path().join("disk.raw");
    for (label, told) in [("dos", "MBR"), ("gpt", "GPT")] {
        let _ = std::fs::remove_file(&path);
        std::fs::File::create(&path).unwrap().set_len(8 << 20).unwrap();
        let script = format!("printf 'label: {label}\\nstart=2048\\n' | PATH=$PATH:/usr/sbin:/sbin sfdisk -q {}", s(&path));
        assert!(Command::new("sh").args(["-ec", &script]).status().unwrap().success());
        let chain = Chain::open(&path, &OpenOptions::default()).unwrap();
        let fact = &chain.nodes[0].description.facts[0];
        assert_eq!((fact.label, fact.value.as_str()), ("partition table", told));
    }
}

#[test]
fn extensions_only_warn() {
    let warn = |name: &str, format| extension_warning(Path::new(name), format);
    for (name, format) in [
        ("a.qcow2", Format::Qcow2),
        ("a.img", Format::Raw),
        ("a.img", Format::Ami),
        ("initrd.img", Format::Ari),
        ("a.img", Format::Luks),
        ("a.vhd", Format::Vhd),
        ("a-flat.vmdk", Format::Raw),
        ("a-f001.vmdk", Format::Ami),
        ("a", Format::Vmdk),
        ("a.unknown", Format::Vmdk),
        ("a.QCOW2", Format::Qcow2),
    ] {
        assert_eq!(warn(name, format), None, "{name} {format}");
    }
    for (name, format, words) in [
        ("a.vmdk", Format::Qcow2, "(.vmdk) says vmdk, its content says qcow2"),
        ("a.raw", Format::Qcow2, "open it with -f raw"),
        ("a.vmdk", Format::Raw, "says vmdk, its content says raw"),
        ("a.qcow2", Format::Raw, "says qcow2, its content says raw"),
        ("a.VHD", Format::Vhdx, "says vhd, its content says vhdx"),
    ] {
        let said = warn(name, format).unwrap_or_default();
        assert!(said.contains(words), "{name} {format}: {said}");
    }
}

#[test]
fn named_formats_are_described_and_their_content_refused_with_a_way_out() {
    let dir = dir();
    let mut made = Vec::new();
    // Those the tool can make…
    for format in ["qed", "parallels"] {
        let path = dir.path().join(format);
        qemu_img(&format!("create -q -f {format} {} 16M", s(&path)));
        made.push((path, format));
    }
    let overlay = dir.path().join("over.qed");
    qemu_img(&format!("create -q -f qed -b {} -F qed {} 8M", s(&dir.path().join("qed")), s(&overlay)));
    made.push((overlay, "qed"));
    // … and the others by their specification; the tool reads them.
    let mut old = vec![0; 1024];
    old[..16].copy_from_slice(b"WithoutFreeSpace");
    for (at, v) in [(16, 2u32), (28, 63), (32, 4), (36, 252), (40, 0xdead), (48, 2)] {
        old[at..at + 4].copy_from_slice(&v.to_le_bytes());
    }
    made.push((file(dir.path(), "old", &old), "parallels"));
    let mut bochs = vec![0; 1024];
    bochs[..23].copy_from_slice(b"Bochs Virtual HD Image\0");
    bochs[32..39].copy_from_slice(b"Redolog");
    bochs[48..55].copy_from_slice(b"Growing");
    for (at, v) in [(64, 0x0002_0000u32), (68, 512), (72, 1), (76, 512), (80, 65536), (88, 65536)] {
        bochs[at..at + 4].copy_from_slice(&v.to_le_bytes());
    }
    made.push((file(dir.path(), "bochs", &bochs), "bochs"));
    let script = b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\nexit $?\n";
    let mut cloop = [&script[..], &[0; 512]].concat();
    cloop[128..136].copy_from_slice(&[0, 0, 2, 0, 0, 0, 0, 1]);
    // One block, from byte 152 on, of 8 bytes.
    cloop[136..152].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 152, 0, 0, 0, 0, 0, 0, 0, 160]);
    made.push((file(dir.path(), "cloop", &cloop), "cloop"));
    for (path, format) in &made {
        let best = &matches(path)[0];
        assert_eq!((best.format.name(), best.confidence), (*format, Confidence::Certain));
        let theirs: Value = serde_json::from_str(&qemu_img(&format!("info --output=json -f {format} {}", s(path)))).unwrap();
        let out = cowshed(&["info", "--output", "json", s(path)]);
        assert!(out.status.success(), "{format}: {}", String::from_utf8_lossy(&out.stderr));
        let ours: Value = serde_json::from_slice(&out.stdout).unwrap();
        for key in ["format", "virtual-size", "cluster-size", "actual-size", "backing-filename", "backing-filename-format"] {
            assert_eq!(ours[key], theirs[key], "{format} {key}");
        }
        assert!(cowshed(&["info", s(path)]).status.success());
        let chain = Chain::open(path, &OpenOptions::default()).unwrap();
        let e = chain.disk().map(drop).unwrap_err();
        assert_eq!((e.kind(), e.file()), (ErrorKind::Unsupported, Some(path.as_path())), "{format}");
        assert!(e.advice().is_some_and(|h| h.contains("qemu-img convert -f ") && h.contains(format)), "{e}");
        for verb in ["map", "measure"] {
            assert_eq!(cowshed(&[verb, s(path)]).status.code(), Some(1), "{verb} {format}");
        }
    }
    // A trailer alone, as the tool wants more of it: 40 sectors.
    let mut dmg = noise(1, 4096);
    dmg[3584..3588].copy_from_slice(b"koly");
    dmg[3584 + 492..3584 + 500].copy_from_slice(&40u64.to_be_bytes());
    let path = file(dir.path(), "dmg", &dmg);
    let chain = Chain::open(&path, &OpenOptions::default()).unwrap();
    assert_eq!((chain.nodes[0].format.unwrap().name(), chain.nodes[0].virtual_size), ("dmg", Some(40 * 512)));
    // Cut short, each is an error and no panic.
    for (path, format) in &made {
        let whole = std::fs::read(path).unwrap();
        let short = file(dir.path(), "short", &whole[..whole.len().min(if *format == "cloop" { 130 } else { 40 })]);
        let format = cowshed::engine::format::Format::parse(format).unwrap();
        let options = OpenOptions { format: Some(format), ..OpenOptions::default() };
        assert_eq!(Chain::open(&short, &options).map(drop).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn luks_1_is_described_as_the_tool_describes_it() {
    let dir = dir();
    for (cipher, mode, iv) in [("aes-256", "xts", "plain64"), ("aes-128", "cbc", "essiv"), ("serpent-256", "cbc", "plain64")] {
        let path = dir.path().join(format!("{cipher}-{mode}.luks"));
        let options = format!("key-secret=s,iter-time=10,cipher-alg={cipher},cipher-mode={mode},ivgen-alg={iv}");
        qemu_img(&format!("create --object secret,id=s,data=abc -f luks -o {options} {} 1M", s(&path)));
        let theirs: Value = serde_json::from_str(&qemu_img(&format!("info --output=json {}", s(&path)))).unwrap();
        let chain = Chain::open(&path, &OpenOptions::default()).unwrap();
        let ours = &chain.nodes[0].description;
        assert_eq!(ours.specific, theirs["format-specific"], "{cipher}-{mode}");
        assert_eq!(chain.nodes[0].virtual_size, theirs["virtual-size"].as_u64());
        let ours_json: Value = serde_json::from_slice(&cowshed(&["info", "--output", "json", s(&path)]).stdout).unwrap();
        assert_eq!(ours_json["children"], theirs["children"], "the file is larger than what it holds");
        assert_eq!(ours.encrypted.as_deref(), Some("LUKS1"));
        let e = chain.disk().map(drop).unwrap_err();
        assert!(e.kind() == ErrorKind::Unsupported && e.to_string().contains("LUKS1"), "{e}");
    }
}

#[test]
fn luks_2_is_described_as_cryptsetup_describes_it() {
    let dir = dir();
    let path = file(dir.path(), "x.luks", &[]);
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(32 << 20).unwrap();
    let line = "printf secret | PATH=$PATH:/usr/sbin:/sbin cryptsetup luksFormat -q --type luks2 --label 'A LABEL' \
                --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --sector-size 4096 --key-file - \"$0\"";
    let out = Command::new("sh").args(["-ec", line, s(&path)]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let chain = Chain::open(&path, &OpenOptions::default()).unwrap();
    let ours = &chain.nodes[0].description;
    let fact = |label: &str| ours.facts.iter().find(|f| f.label == label).map(|f| f.value.as_str()).unwrap_or_default();
    let uuid =
        Command::new("sh").args(["-ec", "PATH=$PATH:/usr/sbin:/sbin cryptsetup luksUUID \"$0\"", s(&path)]).output().unwrap();
    assert_eq!(fact("UUID"), String::from_utf8_lossy(&uuid.stdout).trim());
    assert_eq!((fact("cipher"), fact("label"), fact("LUKS version")), ("aes-xts-plain64", "A LABEL", "2"));
    assert_eq!((fact("encryption sector"), fact("key slots")), ("4096 bytes", "1 in use (pbkdf2)"));
    assert_eq!(ours.warnings, Vec::<String>::new());
    assert_eq!(ours.encrypted.as_deref(), Some("LUKS2"));
    assert_eq!(chain.disk().map(drop).unwrap_err().kind(), ErrorKind::Unsupported);
    // One flipped bit in the metadata breaks its checksum.
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[300] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let chain = Chain::open(&path, &OpenOptions::default()).unwrap();
    assert!(chain.nodes[0].description.warnings.iter().any(|w| w.contains("checksum")));
}

#[test]
fn the_guide_says_something_of_every_format() {
    for e in FORMATS {
        for words in [e.guide.what, e.guide.origin, e.guide.used_by, e.guide.choose, e.title] {
            assert!(words.len() >= 3, "{}", e.name);
        }
    }
}
