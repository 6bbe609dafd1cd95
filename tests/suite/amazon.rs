//! The Amazon kinds, made by the tools that make them: `mkfs`, `cpio`, the compressors.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cowshed::engine::chain::{Chain, OpenOptions};
use cowshed::engine::format::Format;
use cowshed::engine::format::amazon::peek::{HEAD, peek};
use cowshed::engine::format::probe::{Confidence, Match, best, probe};
use cowshed::engine::io::file::FileDevice;

use crate::common::{dir, noise, text};

fn matches(path: &Path) -> Vec<Match> {
    probe(&FileDevice::open(path).unwrap()).unwrap()
}

fn fact(path: &Path, label: &str) -> Option<String> {
    let chain = Chain::open(path, &OpenOptions::default()).unwrap();
    chain.nodes[0].description.facts.iter().find(|f| f.label == label).map(|f| f.value.clone())
}

/// Runs a shell line in `dir`.
fn sh(dir: &Path, line: &str) {
    let out = Command::new("sh").args(["-ec", line]).current_dir(dir).stdin(Stdio::null()).output().unwrap();
    assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
}

fn file(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn bare_filesystems_are_machine_images() {
    let dir = dir();
    for (kind, size, make) in [
        ("ext2", 1 << 20, "mkfs.ext2 -q -L LABEL -U 12345678-1234-1234-1234-123456789abc fs"),
        ("ext3", 8 << 20, "mkfs.ext3 -q -L LABEL -U 12345678-1234-1234-1234-123456789abc fs"),
        ("ext4", 8 << 20, "mkfs.ext4 -q -L LABEL -U 12345678-1234-1234-1234-123456789abc fs"),
        ("XFS", 320 << 20, "mkfs.xfs -q -L LABEL -m uuid=12345678-1234-1234-1234-123456789abc fs"),
        ("Btrfs", 128 << 20, "mkfs.btrfs -q -L LABEL -U 12345678-1234-1234-1234-123456789abc fs"),
    ] {
        let path = dir.path().join("fs");
        let _ = std::fs::remove_file(&path);
        std::fs::File::create(&path).unwrap().set_len(size).unwrap();
        sh(dir.path(), &format!("PATH=$PATH:/usr/sbin:/sbin {make}"));
        let all = matches(&path);
        assert_eq!((all[0].format, all[0].confidence), (Format::Ami, Confidence::Likely), "{kind}");
        assert_eq!(fact(&path, "filesystem").as_deref(), Some(kind));
        assert_eq!(fact(&path, "label").as_deref(), Some("LABEL"), "{kind}");
        assert_eq!(fact(&path, "UUID").as_deref(), Some("12345678-1234-1234-1234-123456789abc"), "{kind}");
        assert_eq!(fact(&path, "filesystem size"), Some(format!("{size} bytes")), "{kind}");
        assert_eq!(Format::Ami.driver(), "raw");

        // With a partition table in front it is a disk, whatever lies behind.
        sh(dir.path(), "echo 'start=100, type=83' | PATH=$PATH:/usr/sbin:/sbin sfdisk -q --wipe never fs");
        assert_eq!(matches(&path).iter().map(|m| m.format).collect::<Vec<_>>(), [Format::Raw], "{kind}");
    }
}

/// A bzImage's first sectors by the boot protocol.
fn bzimage() -> Vec<u8> {
    let mut b = noise(1, 4096);
    b[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    b[0x202..0x206].copy_from_slice(b"HdrS");
    b[0x206..0x208].copy_from_slice(&0x020fu16.to_le_bytes());
    b[0x20e..0x210].copy_from_slice(&0x400u16.to_le_bytes());
    b[0x600..0x60e].copy_from_slice(b"6.1.0 (us) #1\0");
    b
}

/// An ELF file of 64 bits with one segment to load at `address`, and perhaps an interpreter.
fn elf(address: u64, interpreter: bool) -> Vec<u8> {
    let mut b = vec![0u8; 4096];
    b[..6].copy_from_slice(b"\x7fELF\x02\x01");
    b[16..20].copy_from_slice(&[2, 0, 62, 0]);
    b[32] = 64;
    b[54] = 56;
    b[56] = 2;
    b[64] = 1;
    b[80..88].copy_from_slice(&address.to_le_bytes());
    b[120] = if interpreter { 3 } else { 4 };
    b
}

#[test]
fn kernels_plain_and_compressed() {
    let dir = dir();
    let mut arm = noise(2, 4096);
    arm[0x38..0x3c].copy_from_slice(b"ARM\x64");
    let mut riscv = noise(3, 4096);
    riscv[0x30..0x38].copy_from_slice(b"RISCV\0\0\0");
    riscv[0x38..0x3c].copy_from_slice(b"RSC\x05");
    for (name, bytes, kernel) in [
        ("bzImage", bzimage(), "bzImage (x86)"),
        ("Image", arm, "Image (arm64)"),
        ("riscv", riscv, "Image (RISC-V)"),
        ("vmlinux", elf(0xffff_ffff_8100_0000, false), "vmlinux (x86-64)"),
    ] {
        let path = file(dir.path(), name, &bytes);
        assert_eq!(best(&matches(&path)), Format::Aki, "{name}");
        assert_eq!(fact(&path, "kernel").as_deref(), Some(kernel));
        sh(dir.path(), &format!("gzip -kf {name}; zstd -qf {name}"));
        for (packed, how) in [(format!("{name}.gz"), "gzip"), (format!("{name}.zst"), "zstd")] {
            let path = dir.path().join(packed);
            assert_eq!(best(&matches(&path)), Format::Aki, "{name} in {how}");
            assert_eq!(fact(&path, "compression").as_deref(), Some(how));
        }
    }
    let path = dir.path().join("bzImage");
    assert_eq!(fact(&path, "version").as_deref(), Some("6.1.0 (us) #1"));
    assert_eq!(fact(&path, "boot protocol").as_deref(), Some("2.15"));
    // Programs are no kernels.
    for bytes in
        [elf(0x40_0000, false), elf(0xffff_ffff_8100_0000, true), std::fs::read(std::env::current_exe().unwrap()).unwrap()]
    {
        assert_eq!(best(&matches(&file(dir.path(), "program", &bytes))), Format::Raw);
    }
}

#[test]
fn ramdisks_in_every_archive_and_compression() {
    let dir = dir();
    std::fs::create_dir_all(dir.path().join("root/bin")).unwrap();
    file(dir.path(), "root/init", &text(1, 50_000));
    file(dir.path(), "root/bin/sh", &noise(1, 50_000));
    for (kind, said) in [
        ("newc", "cpio (newc)"),
        ("crc", "cpio (newc with checksums)"),
        ("odc", "cpio (portable ASCII)"),
        ("bin", "cpio (old binary)"),
    ] {
        sh(dir.path(), &format!("cd root; find . | cpio -o --quiet -H {kind} >../initrd"));
        let all = matches(&dir.path().join("initrd"));
        assert_eq!(all[0].format, Format::Ari, "{kind}");
        assert_eq!(all[0].evidence, format!("{said} at byte 0x0"));
    }
    sh(dir.path(), "cd root; find . | cpio -o --quiet -H newc >../initrd");
    for (how, line) in [
        ("gzip", "gzip -c"),
        ("xz", "xz --check=crc32 -c"),
        ("xz", "xz --lzma2=dict=1MiB,lc=0,lp=2,pb=1 -c"),
        ("lzma", "xz --format=lzma -c"),
        ("zstd", "zstd -q -19 -c"),
        ("lz4", "lz4 -q -l -c"),
        ("bzip2", "bzip2 -c"),
    ] {
        sh(dir.path(), &format!("{line} initrd >packed"));
        let path = dir.path().join("packed");
        assert_eq!(matches(&path)[0].format, Format::Ari, "{line}");
        assert_eq!(matches(&path)[0].evidence, format!("{how} of cpio (newc) at byte 0x0"));
        // With the processors' microcode in an archive of its own before it.
        sh(
            dir.path(),
            "mkdir -p early/kernel/x86/microcode; head -c 3000 initrd >early/kernel/x86/microcode/GenuineIntel.bin
             (cd early; find . | cpio -o --quiet -H newc) >both; cat packed >>both",
        );
        let path = dir.path().join("both");
        let all = matches(&path);
        assert_eq!(all[0].format, Format::Ari);
        assert!(
            all[0].evidence.starts_with("cpio (newc) at byte 0x0, then ") && all[0].evidence.contains(how),
            "{}",
            all[0].evidence
        );
        assert_eq!(fact(&path, "early microcode").as_deref(), Some("in the first archive"));
    }
}

#[test]
fn other_compressed_files_are_not_ramdisks() {
    let dir = dir();
    file(dir.path(), "a", &text(1, 100_000));
    sh(
        dir.path(),
        "tar cf a.tar a; gzip -k a.tar; xz -k a.tar; zstd -q a.tar; lz4 -q -l a.tar a.tar.lz4; bzip2 -k a.tar; gzip -k a",
    );
    for name in ["a.tar.gz", "a.tar.xz", "a.tar.zst", "a.tar.lz4", "a.tar.bz2", "a.gz"] {
        assert_eq!(matches(&dir.path().join(name)).iter().map(|m| m.format).collect::<Vec<_>>(), [Format::Raw], "{name}");
    }
    // Two bytes are no proof.
    for start in [&[0xc7, 0x71][..], &[0x71, 0xc7], b"070701", &[0x1f, 0x8b, 8]] {
        let mut bytes = start.to_vec();
        bytes.extend(noise(4, 4096));
        assert_eq!(best(&matches(&file(dir.path(), "b", &bytes))), Format::Raw, "{start:x?}");
    }
}

#[test]
fn heads_of_streams_come_out_right() {
    let dir = dir();
    let mut content = text(9, 5000);
    content.extend(noise(2, 1000));
    content.extend(text(3, 100_000));
    file(dir.path(), "a", &content);
    for line in ["gzip -9", "xz -9e", "xz -0", "xz --lzma2=lc=4,lp=0,pb=0", "xz --format=lzma", "zstd -q", "lz4 -q -l", "bzip2"] {
        sh(dir.path(), &format!("{line} -c a >packed"));
        let packed = FileDevice::open(dir.path().join("packed")).unwrap();
        let head = cowshed::engine::io::read_up_to(&packed, 0, 65536).unwrap();
        let peeked = peek(&head, &packed, 0).unwrap();
        assert_eq!(peeked.head.len(), HEAD, "{line}");
        assert!(content.starts_with(&peeked.head), "{line}");
    }
}
