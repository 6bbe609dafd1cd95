//! Guest filesystems: what their own tools made is read back file by file.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use cowshed::engine::guest::fs::{self, FileType, GuestFs, Node};
use cowshed::engine::guest::tree::Guest;
use cowshed::engine::io::Device;
use cowshed::engine::io::file::FileDevice;

use crate::common::{dir, noise, run, s, stored_as_walked, text};

/// Path -> what is there: `dir`, `-> target`, or the content.
type Tree = BTreeMap<String, Vec<u8>>;

fn walk(fs: &dyn GuestFs, node: Node, at: &str, out: &mut Tree) {
    for e in fs.list(node).unwrap() {
        let path = format!("{at}/{}", String::from_utf8_lossy(&e.name));
        let stat = fs.stat(e.node).unwrap();
        assert_eq!(fs.lookup(node, &e.name).unwrap(), Some(e.node), "{path}");
        let what = match stat.kind {
            FileType::Folder => {
                walk(fs, e.node, &path, out);
                b"dir".to_vec()
            }
            FileType::Link => [b"-> ", fs.read_link(e.node).unwrap().as_slice()].concat(),
            _ => {
                let mut content = vec![0; stat.size as usize];
                assert_eq!(fs.read(e.node, 0, &mut content).unwrap(), content.len(), "{path}");
                content
            }
        };
        out.insert(path, what);
    }
}

fn tree(image: &Path) -> Tree {
    let fs = fs::open(Arc::new(FileDevice::open(image).unwrap())).unwrap();
    stored_as_walked(fs.as_ref());
    let mut out = Tree::new();
    walk(fs.as_ref(), fs.root(), "", &mut out);
    out.remove("/lost+found");
    out
}

fn host(at: &Path, prefix: &str, out: &mut Tree) {
    for e in std::fs::read_dir(at).unwrap() {
        let e = e.unwrap();
        let path = format!("{prefix}/{}", e.file_name().to_string_lossy());
        let kind = e.file_type().unwrap();
        let what = if kind.is_dir() {
            host(&e.path(), &path, out);
            b"dir".to_vec()
        } else if kind.is_symlink() {
            [b"-> ", std::fs::read_link(e.path()).unwrap().to_str().unwrap().as_bytes()].concat()
        } else {
            std::fs::read(e.path()).unwrap()
        };
        out.insert(path, what);
    }
}

/// A folder with everything a filesystem must cope with: small and large files, holes, long and short links, a large folder.
fn sample(at: &Path, links: bool) -> Tree {
    std::fs::create_dir_all(at.join("etc/deep/er")).unwrap();
    std::fs::create_dir_all(at.join("many")).unwrap();
    std::fs::write(at.join("etc/hostname"), "golden\n").unwrap();
    std::fs::write(at.join("empty"), "").unwrap();
    std::fs::write(at.join("etc/deep/er/big.bin"), noise(1, 700_000)).unwrap();
    std::fs::write(at.join("etc/text.log"), text(1, 300_000)).unwrap();
    for i in 0..400 {
        std::fs::write(at.join(format!("many/some-fairly-long-file-name-{i}")), format!("{i}")).unwrap();
    }
    if links {
        std::os::unix::fs::symlink("hostname", at.join("etc/link")).unwrap();
        std::os::unix::fs::symlink(format!("/{}end", "long/".repeat(30)), at.join("etc/longlink")).unwrap();
        let hole = std::fs::File::create(at.join("sparse")).unwrap();
        hole.set_len(3 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&hole, &noise(2, 5000), (3 << 20) - 5000).unwrap(); // mke2fs -d loses a hole at the end
    }
    let mut out = Tree::new();
    host(at, "", &mut out);
    out
}

fn same(label: &str, found: &Tree, expected: &Tree) {
    let names: Vec<_> =
        expected.keys().filter(|k| !found.contains_key(*k)).chain(found.keys().filter(|k| !expected.contains_key(*k))).collect();
    assert!(names.is_empty(), "{label}: only on one side: {names:?}");
    for (path, content) in expected {
        assert!(&found[path] == content, "{label}: {path} differs");
    }
}

#[test]
fn ext_of_every_common_feature_set_is_read() {
    let d = dir();
    let root = d.path().join("root");
    let expected = sample(&root, true);
    for (n, options) in [
        "-t ext4",
        "-t ext4 -b 1024 -O inline_data,^metadata_csum,^64bit",
        "-t ext4 -O metadata_csum_seed,orphan_file",
        "-t ext4 -O ^extents,^64bit",
        "-t ext3",
        "-t ext2 -b 1024",
    ]
    .iter()
    .enumerate()
    {
        let image = d.path().join(format!("{n}.raw"));
        let mut args: Vec<&str> = vec!["-q", "-F", "-d", s(&root)];
        args.extend(options.split(' '));
        args.extend([s(&image), "24M"]);
        run("mke2fs", &args);
        same(options, &tree(&image), &expected);
    }
}

#[test]
fn free_space_and_file_places_of_ext_are_those_of_its_own_tools() {
    let d = dir();
    let root = d.path().join("root");
    sample(&root, true);
    for options in ["-t ext4", "-t ext3"] {
        let image = d.path().join("x.raw");
        let _ = std::fs::remove_file(&image);
        let mut args: Vec<&str> = vec!["-q", "-F", "-b", "4096", "-d", s(&root)];
        args.extend(options.split(' '));
        args.extend([s(&image), "24M"]);
        run("mke2fs", &args);
        let fs = fs::open(Arc::new(FileDevice::open(&image).unwrap())).unwrap();
        let mut free = 0;
        fs.free_ranges(&mut |_, len| free += len).unwrap();
        assert_eq!(Some(free), fs.info().free, "{options}");
        let etc = fs.lookup(fs.root(), b"etc").unwrap().unwrap();
        let log = fs.lookup(etc, b"text.log").unwrap().unwrap();
        let bytes = std::fs::read(&image).unwrap();
        let mut content = vec![0; 300_000usize.next_multiple_of(4096)];
        for e in fs.extents(log).unwrap() {
            let (from, to) = (e.place as usize, e.offset as usize);
            content[to..to + e.len as usize].copy_from_slice(&bytes[from..from + e.len as usize]);
        }
        assert!(content[..300_000] == text(1, 300_000), "{options}");
    }
}

#[test]
fn btrfs_made_from_a_folder_is_read() {
    let d = dir();
    let root = d.path().join("root");
    let expected = sample(&root, true);
    let image = d.path().join("b.raw");
    run("truncate", &["-s", "128M", s(&image)]);
    run("mkfs.btrfs", &["-q", "-r", s(&root), s(&image)]);
    same("btrfs", &tree(&image), &expected);
}

#[test]
fn xfs_made_from_a_list_is_read() {
    let d = dir();
    let root = d.path().join("root");
    std::fs::create_dir_all(&root).unwrap();
    std::fs::write(root.join("big"), noise(3, 200_000)).unwrap();
    std::fs::write(root.join("small"), "small\n").unwrap();
    let mut proto = "/dev/null\n0 0\nd--755 0 0\n".to_string();
    let mut expected = Tree::new();
    for (name, from) in [("big", "big"), ("small", "small")] {
        proto += &format!("{name} ---644 0 0 {}\n", s(&root.join(from)));
        expected.insert(format!("/{name}"), std::fs::read(root.join(from)).unwrap());
    }
    proto += "link l--777 0 0 small\nmany d--755 0 0\n";
    expected.insert("/link".into(), b"-> small".to_vec());
    for i in 0..300 {
        proto += &format!("a-fairly-long-name-{i} ---644 0 0 {}\n", s(&root.join("small")));
        expected.insert(format!("/many/a-fairly-long-name-{i}"), b"small\n".to_vec());
    }
    proto += "$\n$\n";
    expected.insert("/many".into(), b"dir".to_vec());
    std::fs::write(d.path().join("proto"), proto).unwrap();
    let image = d.path().join("x.raw");
    run("truncate", &["-s", "320M", s(&image)]);
    run("mkfs.xfs", &["-q", "-p", s(&d.path().join("proto")), s(&image)]);
    same("xfs", &tree(&image), &expected);
}

#[test]
fn fat_filled_by_mtools_is_read() {
    let d = dir();
    let root = d.path().join("root");
    let expected = sample(&root, false);
    for (fat, size, per) in [("12", "4M", "4"), ("16", "20M", "1"), ("32", "64M", "1")] {
        let image = d.path().join(format!("fat{fat}.raw"));
        run("truncate", &["-s", size, s(&image)]);
        run("mkfs.vfat", &["-F", fat, "-s", per, s(&image)]);
        for top in ["etc", "many", "empty"] {
            run("mcopy", &["-i", s(&image), "-s", s(&root.join(top)), "::"]);
        }
        same(fat, &tree(&image), &expected);
    }
}

/// However often a folder was looked into: what is in it is found in any case on a FAT, and in its own elsewhere.
#[test]
fn names_are_found_as_their_filesystem_compares_them() {
    let d = dir();
    let root = d.path().join("root");
    std::fs::create_dir_all(root.join("etc")).unwrap();
    std::fs::write(root.join("etc/Hosts"), "here\n").unwrap();
    let (fat, ext) = (d.path().join("fat.raw"), d.path().join("ext.raw"));
    run("truncate", &["-s", "64M", s(&fat), s(&ext)]);
    run("mkfs.vfat", &[s(&fat)]);
    run("mcopy", &["-i", s(&fat), "-s", s(&root.join("etc")), "::"]);
    run("mke2fs", &["-q", "-F", "-t", "ext4", "-d", s(&root), s(&ext)]);
    for (image, minds) in [(fat, false), (ext, true)] {
        let disk: Device = Arc::new(FileDevice::open(&image).unwrap());
        let guest = Guest::open_partition(&disk, None).unwrap();
        for _ in 0..10 {
            assert!(guest.resolve(b"/etc/Hosts", true).is_ok());
            assert_eq!(guest.resolve(b"/ETC/hosts", true).is_ok(), !minds);
            assert!(guest.resolve(b"/etc/nothing", true).is_err());
        }
    }
}

#[test]
fn discs_are_read_with_rock_ridge_and_joliet_names() {
    let d = dir();
    let root = d.path().join("root");
    let expected = sample(&root, true);
    let deep = root.join("a/b/c/d/e/f/g/h/i/j");
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("bottom"), "x").unwrap();
    let mut all = expected.clone();
    host(&root, "", &mut all);
    let rr = d.path().join("rr.iso");
    run("genisoimage", &["-quiet", "-R", "-o", s(&rr), s(&root)]);
    let mut found = tree(&rr);
    found.remove("/rr_moved");
    same("rock ridge", &found, &all);
    let plain = d.path().join("plain");
    let expected = sample(&plain, false);
    let joliet = d.path().join("j.iso");
    run("genisoimage", &["-quiet", "-J", "-joliet-long", "-o", s(&joliet), s(&plain)]);
    same("joliet", &tree(&joliet), &expected);
}

/// What `sfdisk -J` says of a disk: (number, start, size in sectors, type) sorted.
fn sfdisk(image: &Path) -> Vec<(u64, u64, u64, String)> {
    let out: serde_json::Value = serde_json::from_slice(&run("sfdisk", &["-J", s(image)]).stdout).unwrap();
    let table = &out["partitiontable"];
    let unit = table["sectorsize"].as_u64().unwrap_or(512);
    let number = |node: &str| node.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap();
    let mut all: Vec<_> = table["partitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| {
            let (start, size) = (p["start"].as_u64().unwrap() * unit, p["size"].as_u64().unwrap() * unit);
            (number(p["node"].as_str().unwrap()), start, size, p["type"].as_str().unwrap().to_lowercase())
        })
        .collect();
    all.sort();
    all
}

fn ours(image: &Path) -> (cowshed::engine::guest::partition::PartitionTable, Vec<(u64, u64, u64, String)>) {
    let dev = FileDevice::open(image).unwrap();
    let table = cowshed::engine::guest::partition::read(&dev).unwrap().unwrap();
    let mut all: Vec<_> = table
        .partitions
        .iter()
        .map(|p| (u64::from(p.number), p.start, p.len, p.code.trim_start_matches("0x").trim_start_matches('0').to_string()))
        .collect();
    all.sort();
    (table, all)
}

fn partitioned(image: &Path, script: &str) {
    use std::io::Write;
    let _ = std::fs::remove_file(image);
    run("truncate", &["-s", "64M", s(image)]);
    let mut child = std::process::Command::new("sfdisk")
        .args(["-q", s(image)])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("sfdisk: tests/run installs it");
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn partition_tables_are_those_sfdisk_sees() {
    let d = dir();
    let image = d.path().join("disk.raw");
    for script in [
        "label: dos\nsize=8M,type=83,bootable\nsize=8M,type=82\ntype=5\nsize=4M,type=83\nsize=4M,type=8e\n",
        "label: gpt\nsize=4M,type=21686148-6449-6E6F-744E-656564454649\nsize=16M,type=uefi,name=\"ESP\"\ntype=linux\n",
        // numbers that do not follow the disk
        "label: gpt\n7 : start=40960,size=8M,type=linux\n2 : start=2048,size=8M,type=swap\n",
    ] {
        partitioned(&image, script);
        let (table, found) = ours(&image);
        let theirs: Vec<_> =
            sfdisk(&image).into_iter().map(|(n, a, b, t)| (n, a, b, t.trim_start_matches('0').to_string())).collect();
        assert_eq!(found, theirs, "{script}");
        assert_eq!(table.problems, Vec::<String>::new(), "{script}");
    }
}

#[test]
fn damaged_and_moved_tables_are_told() {
    use std::os::unix::fs::FileExt;
    let d = dir();
    let image = d.path().join("disk.raw");
    partitioned(&image, "label: gpt\nsize=16M,type=linux\ntype=linux\n");
    let (_, before) = ours(&image);
    let file = std::fs::File::options().read(true).write(true).open(&image).unwrap();
    // A byte of the disk's id, which is another each time.
    let mut byte = [0];
    file.read_exact_at(&mut byte, 512 + 60).unwrap();
    file.write_all_at(&[!byte[0]], 512 + 60).unwrap();
    let (table, found) = ours(&image);
    assert_eq!(found, before, "the backup answers");
    assert!(table.problems.iter().any(|p| p.contains("primary GPT: its header's checksum is wrong")), "{:?}", table.problems);
    partitioned(&image, "label: gpt\nsize=16M,type=linux\ntype=linux\n");
    file.set_len(0).unwrap();
    partitioned(&image, "label: gpt\nsize=16M,type=linux\ntype=linux\n");
    std::fs::File::options().write(true).open(&image).unwrap().set_len(96 << 20).unwrap();
    let (table, _) = ours(&image);
    assert!(table.problems.iter().any(|p| p.contains("the disk has grown")), "{:?}", table.problems);
    // An extended partition whose chain loops.
    partitioned(&image, "label: dos\ntype=5\nsize=4M,type=83\nsize=4M,type=83\n");
    let first = sfdisk(&image).iter().find(|p| p.0 == 1).unwrap().1;
    let file = std::fs::File::options().read(true).write(true).open(&image).unwrap();
    let mut entry = [0u8; 16];
    file.read_exact_at(&mut entry, first + 462).unwrap();
    entry[8..12].fill(0);
    file.write_all_at(&entry, first + 462).unwrap();
    let (table, _) = ours(&image);
    assert!(table.problems.iter().any(|p| p.contains("comes back to itself")), "{:?}", table.problems);
}

#[test]
fn links_lead_somewhere_in_the_guest_and_nowhere_else() {
    use std::os::unix::fs::symlink;
    let d = dir();
    let root = d.path().join("root");
    std::fs::create_dir_all(root.join("real/etc")).unwrap();
    std::fs::create_dir_all(root.join("usr/bin")).unwrap();
    std::fs::write(root.join("real/etc/hostname"), "inside\n").unwrap();
    std::fs::write(root.join("real/etc/passwd"), "of the guest\n").unwrap();
    symlink("real/etc", root.join("etc")).unwrap();
    symlink("/proc/self/root/etc", root.join("trap")).unwrap();
    symlink("loop2", root.join("loop1")).unwrap();
    symlink("loop1", root.join("loop2")).unwrap();
    symlink("/etc/../../../../etc/hostname", root.join("up")).unwrap();
    let image = d.path().join("x.raw");
    run("mke2fs", &["-q", "-F", "-t", "ext4", "-d", s(&root), s(&image), "8M"]);
    let read = |path: &str| {
        let out = crate::common::cowshed(&["cat", &format!("{}:{path}", s(&image))]);
        (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    assert_eq!(read("/etc/hostname").1, "inside\n");
    assert_eq!(read("/up").1, "inside\n");
    assert_eq!(read("/../../etc/passwd").1, "of the guest\n");
    for (path, why) in [
        ("/trap/passwd", "there is no"),
        ("/loop1", "too many links"),
        ("/etc/hostname/x", "no folder"),
        ("/etc", "no regular file"),
    ] {
        let (code, out, err) = read(path);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{path}");
        assert!(err.contains(why), "{path}: {err}");
    }
}
