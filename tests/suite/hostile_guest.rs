//! Hostile guests: filesystems and partition tables with bytes changed where their structures are, trees that lead nowhere good,
//! absurd sizes. Each is looked at by the program itself under a limit of memory and time: an error or a report is a good answer,
//! a crash, a hang or a touch of the host is not.

use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::{cowshed, dir, noise, run, s};
use crate::golden;

/// Runs cowshed with 3 GiB of address space and 20 s, and proves that it ended by itself.
pub fn bounded(args: &[&str], what: &str) -> Output {
    let home = std::env::temp_dir().join(format!("cowshed-home-{}", std::process::id()));
    let out = Command::new("timeout")
        .args(["20", "prlimit", "--as=3221225472", "--", env!("CARGO_BIN_EXE_cowshed")])
        .args(args)
        .env("HOME", &home)
        .env("XDG_CONFIG_HOME", home.join("config"))
        .output()
        .expect("timeout and prlimit are there");
    let err = String::from_utf8_lossy(&out.stderr);
    assert!(
        out.status.signal().is_none() && matches!(out.status.code(), Some(0..=3)),
        "{what}: {args:?}: {:?}\n{err}",
        out.status
    );
    assert!(!err.contains("panicked"), "{what}: {args:?}\n{err}");
    assert!(!out.stdout.contains(&0x1b), "{what}: an escape byte is printed");
    out
}

/// Looks at an image in every way that reads its guest.
fn look(image: &Path, what: &str) {
    bounded(&["inspect", "--output", "json", s(image)], what);
    bounded(&["ls", "-R", &format!("{}:/", s(image))], what);
}

/// A folder with what a filesystem has.
fn sample(root: &Path) {
    for d in ["etc", "usr/bin", "deep/er/and/deeper"] {
        std::fs::create_dir_all(root.join(d)).unwrap();
    }
    std::fs::write(root.join("etc/os-release"), "ID=debian\nPRETTY_NAME=\"Debian\"\n").unwrap();
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
    std::fs::write(root.join("deep/big"), noise(1, 300_000)).unwrap();
    for i in 0..150 {
        std::fs::write(root.join(format!("deep/a-name-that-is-long-enough-to-fill-blocks-{i}")), format!("{i}")).unwrap();
    }
    golden::link(root, "os-release", "/etc/link");
}

/// Filesystems, each by its own tool.
fn filesystems(d: &Path, root: &Path) -> Vec<(&'static str, PathBuf)> {
    let mut out = Vec::new();
    for (name, options) in [
        ("ext4", "-t ext4 -O ^metadata_csum,^64bit"),
        ("ext4-csum", "-t ext4"),
        ("ext4-inline", "-t ext4 -b 1024 -O inline_data,^metadata_csum"),
        ("ext2", "-t ext2 -b 1024"),
    ] {
        let image = d.join(format!("{name}.raw"));
        let mut args = vec!["-q", "-F", "-d", s(root)];
        args.extend(options.split(' '));
        args.extend([s(&image), "8M"]);
        run("mke2fs", &args);
        out.push((name, image));
    }
    let proto = d.join("proto");
    let big = root.join("deep/big");
    let mut text = "/dev/null\n0 0\nd--755 0 0\netc d--755 0 0\n".to_string();
    for i in 0..150 {
        text += &format!("a-name-that-is-long-enough-{i} ---644 0 0 {}\n", s(&root.join("etc/passwd")));
    }
    text += &format!("$\nusr d--755 0 0\n$\nbig ---644 0 0 {}\nlink l--777 0 0 etc\n$\n", s(&big));
    std::fs::write(&proto, text).unwrap();
    for (name, options) in [("xfs-v5", vec![]), ("xfs-v4", vec!["-m", "crc=0,finobt=0,rmapbt=0,reflink=0", "-i", "sparse=0"])] {
        let image = d.join(format!("{name}.raw"));
        run("truncate", &["-s", "320M", s(&image)]);
        let mut args = vec!["-q"];
        args.extend(options);
        args.extend(["-p", s(&proto), s(&image)]);
        run("mkfs.xfs", &args);
        out.push((name, image));
    }
    let image = d.join("btrfs.raw");
    run("truncate", &["-s", "128M", s(&image)]);
    run("mkfs.btrfs", &["-q", "-r", s(root), s(&image)]);
    out.push(("btrfs", image));
    for fat in ["12", "16", "32"] {
        let image = d.join(format!("fat{fat}.raw"));
        run("truncate", &["-s", if fat == "32" { "40M" } else { "4M" }, s(&image)]);
        run("mkfs.vfat", &["-F", fat, "-s", if fat == "12" { "4" } else { "1" }, s(&image)]);
        run("mcopy", &["-i", s(&image), "-s", s(&root.join("deep")), "::"]);
        out.push(("fat", image));
    }
    let image = d.join("disc.iso");
    run("genisoimage", &["-quiet", "-R", "-J", "-o", s(&image), s(root)]);
    out.push(("iso", image));
    let image = d.join("gpt.raw");
    golden::partitioned(&image, 8, "label: gpt\nsize=1M,type=uefi\ntype=linux\n");
    out.push(("gpt", image));
    let image = d.join("mbr.raw");
    golden::partitioned(&image, 16, "label: dos\nsize=1M,type=83\ntype=5\nsize=2M,type=83\nsize=2M,type=8e\n");
    out.push(("mbr", image));
    out
}

/// Blocks of 512 bytes that hold structures: not zero, and not the noise of the large file.
fn structures(image: &Path) -> Vec<u64> {
    let bytes = std::fs::read(image).unwrap();
    let file = noise(1, 300_000);
    let of_file: std::collections::HashSet<&[u8]> = file.chunks_exact(512).collect();
    let blocks = bytes.chunks_exact(512).enumerate().filter(|(_, b)| b.iter().any(|x| *x != 0) && !of_file.contains(b));
    blocks.map(|(n, _)| n as u64 * 512).collect()
}

#[test]
fn changed_bytes_anywhere_end_in_a_report() {
    let d = dir();
    let root = d.path().join("root");
    sample(&root);
    let rounds = if std::env::var_os("COWSHED_LONG").is_some() { 120 } else { 8 };
    for (name, image) in filesystems(d.path(), &root) {
        look(&image, name);
        let places = structures(&image);
        let file = std::fs::File::options().read(true).write(true).open(&image).unwrap();
        let random = noise(name.len() as u64 * 31 + 5, rounds * 16);
        for (round, r) in random.chunks_exact(16).enumerate() {
            let number = |i: usize| u64::from(u16::from_le_bytes([r[i], r[i + 1]]));
            // The first structures (superblocks, groups, tables) are hit more often than the rest.
            let reach = if r[0] & 1 == 0 { places.len().min(24) } else { places.len() };
            let at = places[(number(2) as usize) % reach] + number(4) % 508;
            let mut old = [0u8; 4];
            file.read_exact_at(&mut old, at).unwrap();
            let new: [u8; 4] = match r[6] % 6 {
                0 => [0xff; 4],
                1 => [0; 4],
                2 => [0, 0, 0, 0x80],
                3 => [r[7], r[8], r[9], r[10]],
                4 => [old[0].wrapping_add(1), old[1], old[2], old[3]],
                _ => [old[0], old[1], old[2], old[3] ^ 0x40],
            };
            file.write_all_at(&new, at).unwrap();
            let what = format!("{name} round {round}: {old:02x?} -> {new:02x?} at {at:#x}");
            look(&image, &what);
            if name.starts_with("ext") || name.starts_with("xfs") {
                let told = bounded(&["sanitize", "--dry-run", s(&image)], &what).stderr;
                let told = String::from_utf8_lossy(&told);
                assert!(!told.contains("report this"), "{what}: damage is taken for a defect of ours: {told}");
            }
            file.write_all_at(&old, at).unwrap();
        }
    }
}

#[test]
fn chosen_lies_of_a_superblock_are_told() {
    let d = dir();
    let root = d.path().join("root");
    sample(&root);
    let image = d.path().join("x.raw");
    run("mke2fs", &["-q", "-F", "-t", "ext4", "-O", "^metadata_csum,^64bit", "-d", s(&root), s(&image), "8M"]);
    let good = std::fs::read(&image).unwrap();
    // Offset in the superblock, and what stands there: blocks per group, inodes per group, block size, blocks, inode size, …
    for (at, value) in [
        (0x20, 0u32),
        (0x20, u32::MAX),
        (0x28, 0),
        (0x28, u32::MAX),
        (0x18, 31),
        (0x18, 6),
        (0x04, u32::MAX),
        (0x04, 0),
        (0x58, 0),
        (0x58, 0xffff),
        (0x00, u32::MAX),
        (0x14, u32::MAX),
        (0x60, u32::MAX),
    ] {
        let mut bytes = good.clone();
        bytes[1024 + at..1028 + at].copy_from_slice(&value.to_le_bytes());
        std::fs::write(&image, bytes).unwrap();
        look(&image, &format!("superblock field {at:#x} = {value:#x}"));
    }
    // Larger than its volume: told, and read as far as it goes.
    let mut bytes = good.clone();
    bytes.truncate(6 << 20);
    std::fs::write(&image, bytes).unwrap();
    let shown = bounded(&["inspect", s(&image)], "cut");
    assert!(String::from_utf8_lossy(&shown.stdout).contains("larger than"), "{}", String::from_utf8_lossy(&shown.stdout));
    // The same inside a partition.
    let disk = d.path().join("disk.raw");
    golden::partitioned(&disk, 8, "label: gpt\ntype=linux,size=4M\n");
    let file = std::fs::File::options().write(true).open(&disk).unwrap();
    file.write_all_at(&good[..4 << 20], 1 << 20).unwrap();
    look(&disk, "a filesystem larger than its partition");
}

/// The number of the inode of `path`, by debugfs.
fn debugfs(image: &Path, commands: &str) -> String {
    let script = image.with_extension("debugfs");
    std::fs::write(&script, commands).unwrap();
    let out = run("debugfs", &["-w", "-f", s(&script), s(image)]);
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
fn folders_that_contain_themselves_and_odd_names_are_walked_once() {
    let d = dir();
    let root = d.path().join("root");
    sample(&root);
    std::fs::write(root.join("etc/esc\x1b[31m"), "x").unwrap();
    std::fs::write(root.join("etc/new\nline"), "x").unwrap();
    std::fs::hard_link(root.join("etc/passwd"), root.join("etc/passwd2")).unwrap();
    let image = d.path().join("x.raw");
    run("mke2fs", &["-q", "-F", "-t", "ext4", "-O", "^metadata_csum,^dir_index", "-d", s(&root), s(&image), "8M"]);
    // A folder linked into itself, one into its parent's place, and a name with a slash written over a good one.
    debugfs(&image, "link /deep /deep/er/loop\nlink /deep/er /deep/er/self\n");
    let mut bytes = std::fs::read(&image).unwrap();
    let name = b"a-name-that-is-long-enough-to-fill-blocks-77";
    let mut changed = 0;
    for i in 0..bytes.len() - name.len() {
        if &bytes[i..i + name.len()] == name {
            bytes[i..i + 10].copy_from_slice(b"../../evil");
            changed += 1;
        }
    }
    assert!(changed > 0);
    std::fs::write(&image, bytes).unwrap();
    look(&image, "loops");
    let listed = bounded(&["ls", "-R", &format!("{}:/", s(&image))], "loops");
    let (shown, told) =
        (String::from_utf8_lossy(&listed.stdout).into_owned(), String::from_utf8_lossy(&listed.stderr).into_owned());
    assert!(told.contains("a folder that is met twice"), "{told}");
    assert!(shown.lines().count() < 400, "{}", shown.lines().count());
    assert!(shown.contains("esc\\x1b[31m") && shown.contains("new\\x0aline") && shown.contains("passwd2"), "{shown}");
    // Extracted, nothing leaves the folder.
    let out = d.path().join("out");
    let done = cowshed(&["extract", &format!("{}:/", s(&image)), s(&out)]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(out.join("etc/passwd2").exists() && out.join("deep/big").metadata().unwrap().len() == 300_000);
    let evil: Vec<_> = ["evil", "../evil", "deep/evil"].iter().filter(|p| out.join(p).exists()).collect();
    assert!(evil.is_empty(), "{evil:?}");
    assert!(!d.path().join("evil").exists());
}

/// Found by fuzzing: block by block, a file that says so much of itself was looked through for minutes.
#[test]
fn a_file_of_block_lists_that_claims_terabytes_is_looked_through_at_once() {
    let d = dir();
    let root = d.path().join("root");
    sample(&root);
    let image = d.path().join("x.raw");
    run("mke2fs", &["-q", "-F", "-t", "ext2", "-b", "4096", "-d", s(&root), s(&image), "8M"]);
    debugfs(&image, "sif /deep/big size 4000000000000\nsif /deep/big blocks 4294967295\n");
    let dev: cowshed::engine::io::Device = std::sync::Arc::new(cowshed::engine::io::file::FileDevice::open(&image).unwrap());
    let fs = cowshed::engine::guest::fs::open(dev).unwrap();
    let deep = fs.lookup(fs.root(), b"deep").unwrap().unwrap();
    let big = fs.lookup(deep, b"big").unwrap().unwrap();
    assert_eq!(fs.stat(big).unwrap().size, 4_000_000_000_000);
    let begun = std::time::Instant::now();
    let stored: u64 = fs.extents(big).unwrap().iter().map(|e| e.len).sum();
    assert_eq!(stored, 300_000u64.next_multiple_of(4096));
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
}

/// Every index node of a tree names the next one as often as it can: 84 to the fourth leaves, were they gone through.
#[test]
fn a_tree_of_extents_that_names_its_nodes_many_times_ends() {
    let d = dir();
    let root = d.path().join("root");
    sample(&root);
    let image = d.path().join("x.raw");
    run("mke2fs", &["-q", "-F", "-t", "ext4", "-b", "1024", "-O", "^metadata_csum,^64bit", "-d", s(&root), s(&image), "8M"]);
    let good = std::fs::read(&image).unwrap();
    let node = |depth: u16, child: u32| {
        let mut out = vec![0x0a, 0xf3, 84, 0, 84, 0];
        out.extend(depth.to_le_bytes());
        out.resize(12, 0);
        for i in 0..84u32 {
            // A leaf's extent, or an index entry.
            let (a, b) = if depth == 0 { (1, child) } else { (child, 0) };
            [i, a, b].iter().for_each(|w| out.extend(w.to_le_bytes()));
        }
        out.resize(1024, 0);
        out
    };
    // The last blocks are free.
    for path in ["/deep", "/deep/big"] {
        let mut bytes = good.clone();
        let last = bytes.len() as u32 / 1024 - 1;
        for depth in 0..4u16 {
            let at = (last - u32::from(depth)) as usize * 1024;
            bytes[at..at + 1024].copy_from_slice(&node(depth, if depth == 0 { 500 } else { last - u32::from(depth) + 1 }));
        }
        std::fs::write(&image, bytes).unwrap();
        // The root in the inode: depth 4, four entries, all to the highest node.
        let words = |w: u32| format!("{w:#x}");
        let mut script = format!("sif {path} block[0] {}\nsif {path} block[1] {}\n", words(0x0004_f30a), words(0x0004_0004));
        for i in 0..4 {
            for (word, value) in [i, last - 3, 0].into_iter().enumerate() {
                script += &format!("sif {path} block[{}] {value}\n", 3 + 3 * i + word as u32);
            }
        }
        debugfs(&image, &script);
        look(&image, path);
        let told = bounded(&["sanitize", "--dry-run", s(&image)], path);
        let told = String::from_utf8_lossy(&told.stderr).into_owned();
        assert!(told.contains("its check finds"), "{path}: {told}");
    }
}

#[test]
fn a_guest_whose_etc_leads_to_the_host_shows_nothing_of_it() {
    let d = dir();
    let root = d.path().join("root");
    sample(&root);
    std::fs::remove_dir_all(root.join("etc")).unwrap();
    golden::link(&root, "/proc/self/root/etc", "/etc");
    golden::link(&root, "/proc/self/root/etc/hostname", "/usr/name");
    let image = d.path().join("x.raw");
    run("mke2fs", &["-q", "-F", "-t", "ext4", "-d", s(&root), s(&image), "8M"]);
    let trace = d.path().join("trace");
    let out = Command::new("strace")
        .args(["-f", "-e", "trace=open,openat,openat2,readlink,readlinkat,stat,newfstatat,statx", "-o", s(&trace)])
        .args([env!("CARGO_BIN_EXE_cowshed"), "inspect", "--output", "json", s(&image)])
        .output()
        .expect("strace: tests/run installs it");
    assert!(out.status.success());
    let v: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(!v["guest"].as_array().unwrap().iter().any(|f| f["what"] == "hostname" || f["what"] == "user"), "{v}");
    let calls = std::fs::read_to_string(&trace).unwrap();
    for host in ["/etc/hostname", "/etc/os-release", "/etc/passwd", "/etc/shadow", "proc/self/root"] {
        assert!(!calls.contains(host), "{host} of the host was touched");
    }
    // Extracted, the link is a link and nothing was written through it.
    let out = d.path().join("out");
    assert!(cowshed(&["extract", &format!("{}:/", s(&image)), s(&out)]).status.success());
    assert_eq!(std::fs::read_link(out.join("etc")).unwrap(), Path::new("/proc/self/root/etc"));
}

#[test]
fn hostile_initramfs_and_settings_are_bounded() {
    let d = dir();
    let root = d.path().join("root");
    golden::tree(&root, d.path());
    let image = d.path().join("x.raw");
    let zeros = golden::through("zstd", &["-q"], d.path(), &vec![0u8; 64 << 20]);
    let header = golden::cpio(d.path(), &["a"]);
    let mut claims = header.clone();
    claims[54..62].copy_from_slice(b"ffffffff");
    let mut long = header.clone();
    long[94..102].copy_from_slice(b"ffffffff");
    for (what, bytes) in [
        ("a bomb", zeros),
        ("a file of 4 GiB", claims),
        ("a name of 4 GiB", long),
        ("noise", noise(4, 100_000)),
        ("the same archive many times", header.repeat(300)),
        ("an xz header alone", b"\xfd7zXZ\0\0\x04".to_vec()),
    ] {
        golden::put(&root, "/boot/initrd.img-6.1.0-9-amd64", bytes);
        golden::put(&root, "/etc/passwd", "root:x:0:0:::/bin/sh\n".repeat(50_000));
        golden::put(&root, "/etc/fstab", "/dev/vda1 /x ext4 defaults 0 0\n".repeat(5_000));
        let _ = std::fs::remove_file(&image);
        run("mke2fs", &["-q", "-F", "-t", "ext4", "-d", s(&root), s(&image), "24M"]);
        let out = bounded(&["inspect", "--output", "json", s(&image)], what);
        assert!(out.stdout.len() < 1 << 20, "{what}: {} bytes told", out.stdout.len());
    }
}
