//! Filesystems grown without mounting: their own checkers have nothing to say, their own growing tools come to the same sizes, and
//! where a loop device can be had the kernel writes into the new space.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use cowshed::engine::guest::fs::{self, Grown};
use cowshed::engine::io::WriteDevice;
use cowshed::engine::io::file::FileDevice;

use crate::common::{cowshed_in, dir, noise, qemu_img, run, s};
use crate::guest_write::complaints;

/// Grows the filesystem that fills the file.
fn grow(image: &Path) -> cowshed::engine::error::Result<Option<Grown>> {
    let dev: WriteDevice = Arc::new(FileDevice::open_rw(image).unwrap());
    fs::grow(&dev)
}

fn set_len(image: &Path, len: u64) {
    std::fs::File::options().write(true).create(true).truncate(false).open(image).unwrap().set_len(len).unwrap();
}

/// Values of `dumpe2fs -h`, by name.
fn facts(image: &Path) -> std::collections::BTreeMap<String, String> {
    let out = run("dumpe2fs", &["-h", s(image)]);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.lines().filter_map(|l| l.split_once(':')).map(|(k, v)| (k.to_string(), v.trim().to_string())).collect()
}

/// Mounts the image, writes `megabytes` into it and reads them back from a fresh mount. False where nothing can be mounted.
fn written_into(image: &Path, at: &Path, megabytes: usize) -> bool {
    std::fs::create_dir_all(at).unwrap();
    let mount = || Command::new("mount").args(["-o", "loop", s(image), s(at)]).output().unwrap();
    let first = mount();
    if !first.status.success() {
        let said = String::from_utf8_lossy(&first.stderr);
        assert!(!said.contains("wrong fs type") && !said.contains("uperblock"), "{said}");
        eprintln!("NOT TESTED: nothing can be mounted here ({})", said.trim());
        return false;
    }
    let piece = noise(11, 1 << 20);
    for i in 0..megabytes {
        std::fs::write(at.join(format!("piece{i}")), &piece).unwrap_or_else(|e| panic!("piece {i}: {e}"));
    }
    run("umount", &[at]);
    assert!(mount().status.success());
    let same = (0..megabytes).all(|i| std::fs::read(at.join(format!("piece{i}"))).unwrap() == piece);
    run("umount", &[at]);
    assert!(same);
    true
}

/// Options of mke2fs, MiB before and after.
const EXT: &[(&str, u64, u64)] = &[
    ("-t ext4", 64, 65),
    ("-t ext4", 64, 200),
    ("-t ext4", 300, 3000),
    ("-t ext4 -b 1024", 17, 18),
    ("-t ext4 -b 1024", 20, 333),
    ("-t ext4 -b 1024 -O ^64bit,^metadata_csum,uninit_bg", 20, 200),
    ("-t ext4 -b 1024 -O ^resize_inode", 16, 60),
    ("-t ext4 -O ^flex_bg,^64bit", 200, 900),
    ("-t ext4 -O metadata_csum_seed,orphan_file,64bit", 100, 2500),
    ("-t ext4 -b 4096 -O sparse_super2,^resize_inode", 400, 1500),
    ("-t ext4 -O ^sparse_super,^resize_inode -b 4096", 200, 1200),
    ("-t ext4 -O ^metadata_csum,^uninit_bg", 100, 700),
    ("-t ext4 -O meta_bg,^resize_inode", 100, 9000),
    ("-t ext4 -b 1024 -O meta_bg,^resize_inode,^64bit", 20, 1111),
    ("-t ext4 -N 1000 -I 512", 100, 400),
    ("-t ext4 -b 2048 -g 4096", 30, 500),
    ("-t ext3", 100, 1000),
    ("-t ext2 -b 1024", 10, 100),
    ("-t ext2 -b 1024 -I 128 -r 1 -E resize=200000", 10, 180),
    ("-t ext4 -b 1024", 30, 3000),
];

#[test]
fn ext_grows_as_its_own_tool_grows_it() {
    let dir = dir();
    let (ours, theirs) = (dir.path().join("ours.img"), dir.path().join("theirs.img"));
    let root = dir.path().join("root");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("file"), noise(3, 3 << 20)).unwrap();
    for (options, from, to) in EXT {
        let case = format!("{options}, {from} MiB to {to}");
        let _ = std::fs::remove_file(&ours);
        let mut args = vec!["-q", "-F", "-d", s(&root)];
        args.extend(options.split(' '));
        let size = format!("{from}M");
        args.extend([s(&ours), &size]);
        run("mke2fs", &args);
        set_len(&ours, to << 20);
        run("cp", &["--sparse=always", s(&ours), s(&theirs)]);
        run("e2fsck", &["-fp", s(&theirs)]);
        run("resize2fs", &[s(&theirs)]);
        let grown = grow(&ours).unwrap_or_else(|e| panic!("{case}: {e}")).unwrap_or_else(|| panic!("{case}: nothing"));
        assert_eq!(complaints(&ours, "ext"), "", "{case}");
        let (mine, tool) = (facts(&ours), facts(&theirs));
        for name in [
            "Block count",
            "Inode count",
            "Reserved block count",
            "Overhead clusters",
            "Filesystem features",
            "Reserved GDT blocks",
        ] {
            assert_eq!(mine.get(name), tool.get(name), "{case}: {name}");
        }
        let number = |f: &std::collections::BTreeMap<String, String>, name: &str| f[name].parse::<u64>().unwrap();
        assert_eq!(number(&mine, "Free inodes"), number(&tool, "Free inodes"), "{case}");
        assert_eq!(number(&mine, "Free blocks"), number(&tool, "Free blocks"), "{case}");
        assert_eq!(grown.to, number(&mine, "Block count") * number(&mine, "Block size"), "{case}");
        assert_eq!(grow(&ours).unwrap(), None, "{case}: nothing is left to gain");
        let add = (to - from).min(100) as usize / 2;
        if written_into(&ours, &dir.path().join("mnt"), add) {
            assert_eq!(complaints(&ours, "ext"), "", "{case}, after writing into it");
        }
        // A copy of the superblock is as good as the first one, for whoever needs it.
        let block = &mine["Block size"];
        let per_group: u64 = number(&mine, "Blocks per group");
        let first = number(&mine, "First block");
        let out = run(
            "dumpe2fs",
            &["-h", "-o", &format!("superblock={}", per_group + first), "-o", &format!("blocksize={block}"), s(&ours)],
        );
        let copy = String::from_utf8_lossy(&out.stdout).into_owned();
        if !options.contains("sparse_super2") {
            assert!(
                copy.lines().any(|l| l.split_whitespace().collect::<Vec<_>>() == ["Block", "count:", &mine["Block count"]]),
                "{case}: {copy}"
            );
        }
    }
}

/// The outcome of a command: whether it went well, and what it said.
fn told(cwd: &Path, args: &[&str]) -> (bool, String) {
    let out = cowshed_in(cwd, args);
    (out.status.success(), [out.stdout, out.stderr].map(|b| String::from_utf8_lossy(&b).into_owned()).concat())
}

/// A raw disk of `megabytes` with the table that `script` (sfdisk's own language) describes.
fn divided(disk: &Path, megabytes: u64, script: &str) {
    use std::io::Write;
    set_len(disk, megabytes << 20);
    let mut child = Command::new("sfdisk").args(["-q", s(disk)]).stdin(std::process::Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

/// An ext4 of `size` on `disk`, from byte `at` on.
fn mkfs_at(disk: &Path, at: u64, size: &str, options: &[&str]) {
    let offset = format!("offset={at}");
    run("mke2fs", &[&["-q", "-F", "-t", "ext4", "-L", "root", "-E", &offset], options, &[s(disk), size]].concat());
}

/// Cuts `len` bytes from `at` on out of `disk` into a file beside it.
fn piece(disk: &Path, at: u64, len: u64) -> std::path::PathBuf {
    let out = disk.with_extension("piece");
    let (skip, count) = (format!("skip={}", at >> 20), format!("count={}", len >> 20));
    run("dd", &[&format!("if={}", s(disk)), &format!("of={}", s(&out)), "bs=1M", "conv=sparse", "status=none", &skip, &count]);
    out
}

const TABLES: &[(&str, &str, u64)] = &[
    ("gpt", "label: gpt\nstart=2048, size=4096, name=boot\nsize=122880, name=root\n", 3),
    ("mbr", "label: dos\nstart=2048, size=4096, type=83\nstart=6144, size=122880, type=83\n", 3),
    ("logical", "label: dos\nstart=2048, size=126976, type=5\nstart=6144, size=122880, type=83\n", 3),
    ("none", "", 0),
];

#[test]
fn a_guest_grows_with_its_disk_in_any_format() {
    let dir = dir();
    let cwd = dir.path();
    for (i, (table, script, at)) in TABLES.iter().enumerate() {
        let disk = cwd.join("disk.raw");
        let _ = std::fs::remove_file(&disk);
        set_len(&disk, 64 << 20);
        if !script.is_empty() {
            divided(&disk, 64, script);
        }
        mkfs_at(&disk, at << 20, if *at > 0 { "60M" } else { "64M" }, &[]);
        for format in ["raw", "qcow2", "vmdk", "vdi", "vhdx", "vpc"].iter().skip(if i == 0 { 0 } else { 4 - i }).take(6 - i) {
            let (case, image) = (format!("{table} {format}"), format!("a.{format}"));
            let _ = std::fs::remove_file(cwd.join(&image));
            let options = if *format == "vpc" { "-o force_size=on" } else { "" };
            qemu_img(&format!("convert -f raw -O {format} {options} {} {}", s(&disk), s(&cwd.join(&image))));
            let ours = if *format == "vpc" { "vhd" } else { format };
            let (ok, plan) = told(cwd, &["resize", "--dry-run", "--grow-guest", "-f", ours, &image, "160M"]);
            assert!(ok && plan.contains("and its ext4 from"), "{case}: {plan}");
            let (ok, said) = told(cwd, &["resize", "--grow-guest", "-f", ours, &image, "160M"]);
            assert!(ok, "{case}: {said}");
            let now = cwd.join("now.raw");
            qemu_img(&format!("convert -f {format} -O raw {} {}", s(&cwd.join(&image)), s(&now)));
            let end = if *table == "gpt" { 159 } else { 160 };
            if *table != "none" {
                let out = run("sfdisk", &["--verify", s(&now)]);
                let text = [out.stdout, out.stderr].map(|b| String::from_utf8_lossy(&b).into_owned()).concat();
                assert!(text.contains("No errors detected"), "{case}: {text}");
                let parts = run("sfdisk", &["-J", s(&now)]).stdout;
                let parts: serde_json::Value = serde_json::from_slice(&parts).unwrap();
                let last = parts["partitiontable"]["partitions"].as_array().unwrap().last().unwrap().clone();
                assert_eq!(last["size"].as_u64().unwrap() * 512, (end - at) << 20, "{case}");
            }
            let fs = piece(&now, at << 20, (end - at) << 20);
            assert_eq!(complaints(&fs, "ext"), "", "{case}");
            assert_eq!(
                facts(&fs)["Block count"].parse::<u64>().unwrap() * facts(&fs)["Block size"].parse::<u64>().unwrap(),
                (end - at) << 20
            );
            assert!(!cwd.join(format!("{image}.resize-undo")).exists(), "{case}");
            // Once more, with nothing to gain.
            let (ok, said) = told(cwd, &["resize", "--dry-run", "--grow-guest", "-f", ours, &image, "160M"]);
            assert!(ok && said.contains("fills it already"), "{case}: {said}");
        }
    }
}

#[test]
fn what_cannot_grow_is_refused_and_nothing_is_changed() {
    let dir = dir();
    let cwd = dir.path();
    let disk = cwd.join("disk.raw");
    let script = TABLES[0].1;
    type Spoil = fn(&Path);
    let cases: &[(&str, &[&str], &str, Spoil)] = &[
        ("dirty journal", &[], "journal was not replayed", |d| {
            run("debugfs", &["-w", "-R", "feature needs_recovery", &format!("{}?offset=3145728", s(d))]);
        }),
        ("errors", &[], "errors", |d| {
            run("debugfs", &["-w", "-R", "ssv state 2", &format!("{}?offset=3145728", s(d))]);
        }),
        ("bigalloc", &["-O", "bigalloc"], "bigalloc", |_| {}),
        ("no room for descriptors", &["-b", "1024", "-O", "^resize_inode"], "descriptors are needed", |_| {}),
        ("larger than its partition", &[], "spans", |_| {}),
        ("descriptor", &[], "descriptor checksum", |d| {
            use std::os::unix::fs::FileExt;
            let f = std::fs::File::options().write(true).open(d).unwrap();
            f.write_at(&[0xff; 8], (3 << 20) + 2048 + 16).unwrap();
            f.write_at(&[0xff; 8], (3 << 20) + 4096 + 16).unwrap();
        }),
    ];
    for (case, options, word, spoil) in cases {
        let _ = std::fs::remove_file(&disk);
        let script = if case.starts_with("larger") { script.replace("122880", "61440") } else { script.to_string() };
        divided(&disk, 64, &script);
        mkfs_at(&disk, 3 << 20, "60M", options);
        spoil(&disk);
        let before = std::fs::read(&disk).unwrap();
        for args in [&["--dry-run"][..], &[]] {
            let (ok, said) = told(cwd, &[&["resize", "--grow-guest", "-f", "raw", "disk.raw", "2G"][..], args].concat());
            assert!(!ok && said.contains(word) && said.contains("without --grow-guest"), "{case}: {said}");
            assert!(std::fs::read(&disk).unwrap() == before, "{case}");
        }
        // Without the switch the disk grows, and who else grows the partition is said.
        let (ok, said) = told(cwd, &["resize", "--dry-run", "-f", "raw", "disk.raw", "2G"]);
        assert!(ok && said.contains("no guest was found"), "{case}: {said}");
    }
    let (ok, said) = told(cwd, &["resize", "--grow-guest", "--shrink", "-f", "raw", "disk.raw", "32M"]);
    assert!(!ok && said.contains("becomes smaller"), "{said}");
}

#[test]
fn who_grows_the_root_at_boot_is_said() {
    let dir = dir();
    let cwd = dir.path();
    let root = cwd.join("root");
    for name in ["etc", "usr/bin", "bin", "sbin", "var", "home"] {
        std::fs::create_dir_all(root.join(name)).unwrap();
    }
    std::fs::write(root.join("etc/os-release"), "ID=debian\nNAME=Debian\n").unwrap();
    std::fs::write(root.join("etc/fstab"), "").unwrap();
    for (files, words) in [
        (&[][..], "neither growpart nor cloud-init"),
        (&["usr/bin/growpart"][..], "growpart is in the guest, but no cloud-init"),
        (&["usr/bin/growpart", "usr/bin/cloud-init"][..], "cloud-init grows it by growpart at first boot"),
    ] {
        for f in files {
            std::fs::write(root.join(f), "#!/bin/sh\n").unwrap();
        }
        let disk = cwd.join("disk.raw");
        let _ = std::fs::remove_file(&disk);
        divided(&disk, 64, TABLES[0].1);
        mkfs_at(&disk, 3 << 20, "60M", &["-d", s(&root)]);
        let (ok, said) = told(cwd, &["resize", "--dry-run", "-f", "raw", "disk.raw", "2G"]);
        assert!(ok && said.contains(words) && said.contains("--grow-guest grows it and its ext4 now"), "{said}");
    }
}

/// Makes an XFS, also a small one, which its own tool makes only for its own tests.
fn mkfs_xfs(image: &Path, options: &str) {
    let small = [("TEST_DIR", "x"), ("TEST_DEV", "x"), ("QA_CHECK_FS", "x")];
    let out =
        Command::new("mkfs.xfs").envs(small).args(["-q", "-f"]).args(options.split_whitespace()).arg(image).output().unwrap();
    assert!(out.status.success(), "{options}: {}", String::from_utf8_lossy(&out.stderr));
}

/// Values of a superblock of XFS, by name; `ag`'s copy.
fn xfs_facts(image: &Path, ag: u64) -> std::collections::BTreeMap<String, String> {
    let out = run("xfs_db", &["-r", "-c", &format!("sb {ag}"), "-c", "p", s(image)]);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.lines().filter_map(|l| l.split_once(" = ")).map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

/// Calls `act` with the image mounted at `at`; false where nothing can be mounted.
fn mounted(image: &Path, at: &Path, act: impl FnOnce()) -> bool {
    std::fs::create_dir_all(at).unwrap();
    let out = Command::new("mount").args(["-o", "loop", s(image), s(at)]).output().unwrap();
    if out.status.success() {
        act();
        run("umount", &[at]);
    }
    out.status.success()
}

/// Options of mkfs.xfs, MiB before and after, whether its free space is to be in many pieces.
const XFS: &[(&str, u64, u64, bool)] = &[
    ("", 320, 321, false),
    ("", 320, 1000, false),
    ("-m rmapbt=1,reflink=1", 320, 2500, false),
    ("-m finobt=0,reflink=0,inobtcount=0 -i sparse=0", 320, 800, false),
    ("-m rmapbt=1,reflink=0,bigtime=0", 320, 500, false),
    ("-s size=4096", 320, 777, false),
    ("-b size=1024 -m rmapbt=1", 320, 900, false),
    ("-b size=2048 -i size=1024,nrext64=1", 320, 900, false),
    ("-d agsize=16m -b size=1024 -m rmapbt=1", 24, 25, true),
    ("-d agsize=16m -b size=1024", 24, 100, true),
    ("-d agsize=32m", 40, 60, true),
    ("-d agsize=16m", 32, 48, true),
    ("-d agcount=4", 320, 40_000, false),
];

#[test]
fn xfs_grows_as_its_own_tool_grows_it() {
    let dir = dir();
    let (ours, theirs, at) = (dir.path().join("ours.img"), dir.path().join("theirs.img"), dir.path().join("mnt"));
    for (options, from, to, pieces) in XFS {
        let case = format!("{options}, {from} MiB to {to}{}", if *pieces { ", in pieces" } else { "" });
        let _ = std::fs::remove_file(&ours);
        set_len(&ours, from << 20);
        mkfs_xfs(&ours, options);
        if *pieces {
            // Every second of many small files goes, until the whole of it was used.
            mounted(&ours, &at, || {
                let name = |i: usize| at.join(format!("f{i}"));
                let mut n = 0;
                while std::fs::write(name(n), [7; 3000]).is_ok() {
                    n += 1;
                }
                (0..n).step_by(2).for_each(|i| std::fs::remove_file(name(i)).unwrap());
            });
        }
        set_len(&ours, to << 20);
        run("cp", &["--sparse=always", s(&ours), s(&theirs)]);
        let before = xfs_facts(&ours, 0);
        let grown = grow(&ours).unwrap_or_else(|e| panic!("{case}: {e}")).unwrap_or_else(|| panic!("{case}: nothing"));
        assert_eq!(complaints(&ours, "xfs"), "", "{case}");
        let mine = xfs_facts(&ours, 0);
        let number = |name: &str| mine[name].parse::<u64>().unwrap();
        assert_eq!(grown.to, number("dblocks") * number("blocksize"), "{case}");
        assert_ne!(before["dblocks"], mine["dblocks"], "{case}");
        for ag in [1, number("agcount") - 1] {
            let copy = xfs_facts(&ours, ag);
            assert!(["dblocks", "agcount", "uuid"].iter().all(|n| copy[*n] == mine[*n]), "{case}: copy {ag}");
        }
        if mounted(&theirs, &at, || drop(run("xfs_growfs", &[&at]))) {
            let tool = xfs_facts(&theirs, 0);
            for name in ["dblocks", "agcount", "fdblocks", "icount", "ifree", "versionnum", "features_incompat"] {
                assert_eq!(mine[name], tool[name], "{case}: {name}");
            }
            // Free space is the same, extent for extent, but for the free lists that the kernel filled when it mounted.
            let total = |image: &Path| {
                let text = run("xfs_db", &["-r", "-c", "freesp -s", s(image)]).stdout;
                let text = String::from_utf8_lossy(&text).into_owned();
                let line = text.lines().find_map(|l| l.strip_prefix("total free blocks ")).unwrap().to_string();
                line.trim().parse::<u64>().unwrap()
            };
            let groups = number("agcount");
            assert!(total(&ours).abs_diff(total(&theirs)) <= groups * 16, "{case}: {} {}", total(&ours), total(&theirs));
        }
        assert_eq!(grow(&ours).unwrap(), None, "{case}: nothing is left to gain");
        let add = (to - from).min(100) as usize / 2;
        if written_into(&ours, &at, add) {
            assert_eq!(complaints(&ours, "xfs"), "", "{case}, after writing into it");
        }
    }
}

/// The filesystem with random bytes of its structures changed: an error or a grown filesystem, in bounded time, and no panic.
#[test]
fn damage_is_an_error_and_never_a_crash() {
    use cowshed::engine::io::memory::Memory;
    let dir = dir();
    for (kind, options, size) in [
        ("ext", "-b 1024 -g 1024", 3u64 << 20),
        ("ext", "-b 1024 -g 1024 -O ^metadata_csum,^uninit_bg", 3 << 20),
        ("ext", "-b 1024 -g 1024 -O meta_bg,^resize_inode,^metadata_csum", 3 << 20),
        ("xfs", "-d agcount=2 -m rmapbt=1", 32 << 20),
    ] {
        let image = dir.path().join("fs");
        let _ = std::fs::remove_file(&image);
        set_len(&image, size);
        if kind == "xfs" {
            mkfs_xfs(&image, options);
        } else {
            run("mke2fs", &[&["-q", "-F", "-t", "ext4"], &options.split(' ').collect::<Vec<_>>()[..], &[s(&image)]].concat());
        }
        let bytes = std::fs::read(&image).unwrap();
        let used: Vec<usize> = (0..bytes.len() / 512).filter(|i| bytes[i * 512..][..512].iter().any(|b| *b != 0)).collect();
        let (mut refused, begin) = (0, std::time::Instant::now());
        for round in 0..if kind == "xfs" { 25u64 } else { 120 } {
            let mut bad = bytes.clone();
            bad.resize(size as usize * 3, 0);
            let dice = noise(round + 1, 64);
            for d in dice.chunks_exact(8).take(1 + round as usize % 4) {
                // Mostly where the superblock and the first descriptors are.
                let among = if d[0] % 2 == 0 { 10.min(used.len()) } else { used.len() };
                let sector = used[u32::from_le_bytes(d[1..5].try_into().unwrap()) as usize % among];
                bad[sector * 512 + usize::from(u16::from_le_bytes([d[5], d[6]])) % 512] = d[7];
            }
            let dev: WriteDevice = Arc::new(Memory::new(bad));
            refused += u32::from(fs::grow(&dev).is_err());
            assert!(dev.len() == size * 3 && dev.flush().is_ok(), "{options} {round}");
        }
        assert!(refused > 5, "{options}: {refused}");
        assert!(begin.elapsed().as_secs() < 240, "{options}: {:?}", begin.elapsed());
    }
}

/// A filesystem that lies in an overlay, or in a disk of several files, which gets more of them.
#[test]
fn guests_in_overlays_and_in_split_disks_grow() {
    let d = dir();
    let at = |name: &str| d.path().join(name);
    set_len(&at("base.raw"), 40 << 20);
    run("mke2fs", &["-q", "-F", "-t", "ext4", s(&at("base.raw"))]);
    qemu_img(&format!("convert -f raw -O qcow2 {} {}", s(&at("base.raw")), s(&at("base.qcow2"))));
    let base = std::fs::read(at("base.qcow2")).unwrap();
    qemu_img(&format!("create -f qcow2 -b {} -F qcow2 {}", s(&at("base.qcow2")), s(&at("over.qcow2"))));
    qemu_img(&format!(
        "convert -f raw -O vmdk -o subformat=twoGbMaxExtentSparse {} {}",
        s(&at("base.raw")),
        s(&at("split.vmdk"))
    ));
    for (image, megabytes) in [("over.qcow2", 100u64), ("split.vmdk", 3000)] {
        let size = format!("{megabytes}M");
        let out = cowshed_in(d.path(), &["resize", "--grow-guest", image, &size]);
        assert!(out.status.success(), "{image}: {}", String::from_utf8_lossy(&out.stderr));
        let flat = at("flat");
        qemu_img(&format!("convert -O raw {} {}", s(&at(image)), s(&flat)));
        assert_eq!(complaints(&flat, "ext4"), "", "{image}");
        let facts = facts(&flat);
        let spans = facts["Block count"].parse::<u64>().unwrap() * facts["Block size"].parse::<u64>().unwrap();
        assert_eq!(spans, megabytes << 20, "{image}");
    }
    assert!(std::fs::read(at("base.qcow2")).unwrap() == base, "what it stands on is as it was");
    assert!(at("split-s002.vmdk").exists());
}
