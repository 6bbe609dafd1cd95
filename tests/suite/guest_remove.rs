//! Many names removed from a guest's filesystem at once: what stays is whole, what went is gone, and the filesystem's own checker has
//! nothing to say.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use cowshed::engine::error::ErrorKind;
use cowshed::engine::guest::fs::{self, FileType, GuestFs, Node, Removal, Traces};
use cowshed::engine::io::draft::{Changed, Draft};
use cowshed::engine::io::file::FileDevice;
use cowshed::engine::io::memory::Memory;
use cowshed::engine::io::{Device, ReadAt, WriteAt, WriteDevice};

use crate::common::{dir, noise, run, s};
use crate::golden;
use crate::guest_write::{KINDS, complaints, make, tree};

/// A name's folder, the name, what it stands for, and whether that is a folder.
pub type Place = (Node, Vec<u8>, Node, bool);

/// Where every path is.
pub fn places(fs: &dyn GuestFs) -> BTreeMap<String, Place> {
    fn walk(fs: &dyn GuestFs, dir: Node, at: &str, out: &mut BTreeMap<String, Place>) {
        for e in fs.list(dir).unwrap() {
            let path = format!("{at}/{}", String::from_utf8_lossy(&e.name));
            let folder = fs.stat(e.node).unwrap().kind == FileType::Folder;
            if folder {
                walk(fs, e.node, &path, out);
            }
            out.insert(path, (dir, e.name, e.node, folder));
        }
    }
    let mut out = BTreeMap::new();
    walk(fs, fs.root(), "", &mut out);
    out
}

/// The names in `wanted` as removals, folders from the innermost out.
pub fn removals<'a>(places: &'a BTreeMap<String, Place>, wanted: &dyn Fn(&str) -> bool) -> Vec<(&'a str, Removal<'a>)> {
    let mut all: Vec<_> = places.iter().filter(|(p, _)| wanted(p)).collect();
    all.sort_by_key(|(p, _)| std::cmp::Reverse(p.matches('/').count()));
    all.into_iter()
        .map(|(p, (dir, name, node, folder))| (p.as_str(), Removal { dir: *dir, name, node: *node, folder: *folder }))
        .collect()
}

/// Does to `image` what `draft` says.
fn carry_out(draft: &Draft, image: &dyn WriteAt) {
    for (offset, len, how) in draft.changes() {
        let mut bytes = vec![0; len as usize];
        if how != Changed::Zero {
            draft.read_at(offset, &mut bytes).unwrap();
        }
        image.write_at(offset, &bytes).unwrap();
    }
}

/// Removes what is wanted from the filesystem in `image`, wipes what that left, and holds the result against what was asked for.
pub fn removed(image: &Path, kind: &str, what: &str, wanted: &dyn Fn(&str) -> bool, stays: &[&str]) {
    let file = Arc::new(FileDevice::open_rw(image).unwrap());
    let before: Device = file.clone();
    let mut expected = tree(file.clone());
    let places = places(fs::open(file.clone()).unwrap().as_ref());
    let list = removals(&places, wanted);
    assert!(list.len() > 20, "{what}: there is something to remove");
    let draft = Arc::new(Draft::new(file.clone()));
    let dev: WriteDevice = draft.clone();
    let only: Vec<Removal<'_>> = list.iter().map(|(_, r)| *r).collect();
    let gone = fs::remove_all(&dev, &only).unwrap_or_else(|e| panic!("{what}: {e}"));
    let mut traces = Traces::default();
    for ((path, r), gone) in list.iter().zip(gone) {
        assert_eq!(gone, !stays.contains(path), "{what}: {path}");
        if gone {
            expected.remove(*path);
            traces.folders.push(r.dir);
            traces.gone.push(r.node);
        }
    }
    traces.folders.sort_unstable();
    traces.folders.dedup();
    traces.folders.retain(|f| !traces.gone.contains(f));
    assert_eq!(fs::open(draft.clone()).unwrap().check().unwrap(), Vec::<String>::new(), "{what}");
    let done = fs::scrub(&before, &dev, &traces).unwrap();
    done.stamps.iter().for_each(|(at, len)| draft.stamp(*at, at + len));
    let mut free = Vec::new();
    fs::open(draft.clone()).unwrap().free_ranges(&mut |at, len| free.push((at, len))).unwrap();
    free.iter().for_each(|(at, len)| fs::wipe(dev.as_ref(), *at, *len).unwrap());
    carry_out(&draft, file.as_ref());
    assert_eq!(complaints(image, kind), "", "{what}");
    let found = tree(file);
    let names = |t: &crate::guest_write::Tree| t.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected), "{what}");
    assert!(found == expected, "{what}: content");
    // No name that went is left anywhere, and none that stays is lost.
    for marker in ["goes-away", "content that goes"] {
        assert_eq!(occurrences(image, marker), 0, "{what}: '{marker}' is left");
    }
}

/// How often `text` is in the bytes of a file.
fn occurrences(file: &Path, text: &str) -> usize {
    let out = Command::new("grep").args(["-aoF", text, s(file)]).output().unwrap();
    out.stdout.split(|b| *b == b'\n').filter(|l| !l.is_empty()).count()
}

/// Folders and files of every sort, `many` in one folder. What is to be removed says so in its name, or lies in `whole`.
fn sample(root: &Path, many: usize) {
    std::fs::create_dir_all(root.join("many")).unwrap();
    for i in 0..many {
        let kept = if i % 7 == 3 { "stays" } else { "goes-away" };
        std::fs::write(root.join(format!("many/a-file-that-{kept}-{i}")), format!("content that {kept} {i}\n")).unwrap();
    }
    for i in 0..40 {
        let kept = if i % 4 == 1 { "stays" } else { "goes-away" };
        golden::link(root, "short", &format!("many/short-link-that-{kept}-{i}"));
        golden::link(root, &"a-long-way/".repeat(30), &format!("many/long-link-that-{kept}-{i}"));
    }
    for i in 0..60 {
        let kept = if i % 5 == 2 { "stays" } else { "goes-away" };
        let within = root.join(format!("many/folder-that-{kept}-{i}/within"));
        std::fs::create_dir_all(&within).unwrap();
        if i % 3 == 0 {
            std::fs::write(within.join("a-file-goes-away"), noise(i, 9000)).unwrap();
        }
    }
    // One that would go, but for what is in it.
    std::fs::create_dir_all(root.join("many/would-go/too")).unwrap();
    std::fs::write(root.join("many/would-go/too/stays"), "kept\n").unwrap();
    std::fs::write(root.join("many/would-go/too/goes-away"), "not kept\n").unwrap();
    for depth in ["whole/a/b/c/d/e", "whole/x/y", "few"] {
        std::fs::create_dir_all(root.join(depth)).unwrap();
    }
    for i in 0..90 {
        std::fs::write(root.join(format!("whole/a/b/c/file-{i}")), noise(i, 5000 + 300 * i as usize)).unwrap();
    }
    for name in ["one-goes-away", "two", "three-goes-away"] {
        std::fs::write(root.join("few").join(name), name).unwrap();
    }
    std::fs::write(root.join("whole/big"), noise(7, 3_000_000)).unwrap();
}

fn wanted(path: &str) -> bool {
    path.starts_with("/whole") || path.contains("goes-away") || STAY.contains(&path)
}

/// These are wanted gone, and hold something.
const STAY: &[&str] = &["/many/would-go", "/many/would-go/too"];

#[test]
fn thousands_go_out_of_one_folder_and_the_others_stay() {
    let d = dir();
    let root = d.path().join("root");
    sample(&root, 2000);
    // Names that are all of a file's, and one of two.
    for (old, new) in
        [("many/a-file-that-goes-away-0", "many/other-goes-away"), ("many/a-file-that-goes-away-1", "few/other-stays")]
    {
        std::fs::write(root.join(old), "content that stays\n").unwrap();
        std::fs::hard_link(root.join(old), root.join(new)).unwrap();
    }
    let image = d.path().join("x.raw");
    for (kind, options) in KINDS {
        make(&image, options, &root, 48);
        removed(&image, kind, kind, &wanted, STAY);
        if *kind == "xfs" || *kind == "ext2" {
            continue;
        }
        // The same with folders that have an index, which is made by turning all of them over.
        make(&image, options, &root, 48);
        Command::new("e2fsck").args(["-fyD", s(&image)]).output().unwrap();
        let stat = run("debugfs", &["-R", "stat /many", s(&image)]).stdout;
        let flags = String::from_utf8_lossy(&stat).lines().find_map(|l| l.split("Flags: ").nth(1).map(str::to_string)).unwrap();
        let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap();
        assert!(flags & 0x1000 != 0, "{kind}: the folder has an index");
        removed(&image, kind, &format!("{kind}, indexed"), &wanted, STAY);
    }
}

#[test]
fn xfs_of_every_sort_loses_many() {
    let d = dir();
    let root = d.path().join("root");
    sample(&root, 500);
    let image = d.path().join("x.raw");
    make(&image, "", &root, 0);
    let proto = image.with_extension("proto");
    for options in ["rmapbt=0,reflink=0,finobt=0", "rmapbt=1,reflink=0,finobt=1", "rmapbt=0,reflink=1,finobt=1,bigtime=0"] {
        for more in [["-i", "sparse=1"], ["-i", "sparse=0"]] {
            std::fs::remove_file(&image).unwrap();
            run("truncate", &["-s", "320M", s(&image)]);
            run("mkfs.xfs", &["-q", "-m", options, more[0], more[1], "-p", s(&proto), s(&image)]);
            removed(&image, "xfs", &format!("xfs {options} {}", more[1]), &wanted, STAY);
        }
    }
}

/// Attributes: a block of a file's own, one that two share, and values so long that they are inodes.
#[test]
fn attributes_go_with_their_last_file() {
    let d = dir();
    let root = d.path().join("root");
    sample(&root, 100);
    let (image, long, longer) = (d.path().join("x.raw"), d.path().join("long"), d.path().join("longer"));
    let needle = "a value that has an inode of its own ";
    for (options, block) in [
        ("-t ext4 -b 1024 -O ea_inode", 1024),
        ("-t ext4 -b 4096 -O ea_inode,^metadata_csum", 4096),
        ("-t ext3 -b 1024", 1024),
        ("-t ext4 -b 4096", 4096),
    ] {
        make(&image, options, &root, 48);
        // Debugfs takes a block at most. One that needs all of it gets an inode where there is such a thing.
        std::fs::write(&long, "a block's value ".repeat(block / 16 * 2 / 3)).unwrap();
        std::fs::write(&longer, &needle.repeat(block / needle.len() + 1)[..block]).unwrap();
        let mut script = String::new();
        for name in ["one-goes-away", "two", "three-goes-away"] {
            script += &format!("ea_set -f {} /few/{name} user.long\n", s(&long));
        }
        if options.contains("ea_inode") {
            for name in ["a-file-that-goes-away-4", "a-file-that-stays-3"] {
                script += &format!("ea_set -f {} /many/{name} user.longer\n", s(&longer));
            }
        }
        let commands = d.path().join("commands");
        std::fs::write(&commands, script).unwrap();
        let out = run("debugfs", &["-w", "-f", s(&commands), s(&image)]);
        assert!(!String::from_utf8_lossy(&out.stderr).contains("ea_set:"), "{options}: {out:?}");
        let acl = |name: &str| {
            let stat = run("debugfs", &["-R", &format!("stat /few/{name}"), s(&image)]).stdout;
            let text = String::from_utf8_lossy(&stat).into_owned();
            text.split("File ACL: ").nth(1).unwrap().split_whitespace().next().unwrap().to_string()
        };
        let shared = acl("two");
        assert_ne!(shared, "0", "{options}: the attributes are in a block");
        // The third shares the second's block; the counts are left to e2fsck.
        run("debugfs", &["-w", "-R", &format!("set_inode_field /few/three-goes-away file_acl {shared}"), s(&image)]);
        Command::new("e2fsck").args(["-fy", s(&image)]).output().unwrap();
        assert_eq!((acl("three-goes-away"), complaints(&image, "ext4")), (shared.clone(), String::new()), "{options}");
        removed(&image, "ext4", options, &wanted, STAY);
        // What is left of the shared block is the other file's.
        let same = |file: &str, name: &str, value: &Path| {
            let out = image.with_extension("value");
            run("debugfs", &["-R", &format!("ea_get -f {} {file} {name}", s(&out)), s(&image)]);
            std::fs::read(out).unwrap() == std::fs::read(value).unwrap()
        };
        assert_eq!((acl("two"), same("/few/two", "user.long", &long)), (shared, true), "{options}");
        if options.contains("ea_inode") {
            assert!(same("/many/a-file-that-stays-3", "user.longer", &longer), "{options}");
            assert_eq!(occurrences(&image, needle), block / needle.len(), "{options}: one value is gone, one is left");
        }
    }
}

#[test]
fn what_is_asked_for_and_is_not_there_is_an_error() {
    let d = dir();
    let root = d.path().join("root");
    sample(&root, 100);
    let image = d.path().join("x.raw");
    for (kind, options) in KINDS {
        make(&image, options, &root, 48);
        let file: Device = Arc::new(FileDevice::open_rw(&image).unwrap());
        let places = places(fs::open(file.clone()).unwrap().as_ref());
        let (dir, name, node, folder) = &places["/few/two"];
        let good = Removal { dir: *dir, name, node: *node, folder: *folder };
        let ask = |list: &[Removal<'_>]| {
            let dev: WriteDevice = Arc::new(Draft::new(file.clone()));
            fs::remove_all(&dev, list).map_err(|e| e.kind())
        };
        assert_eq!(ask(&[]), Ok(vec![]), "{kind}");
        assert_eq!(ask(&[good]), Ok(vec![true]), "{kind}");
        assert_eq!(ask(&[Removal { name: b"not there", ..good }]), Err(ErrorKind::NotFound), "{kind}");
        for bad in [
            vec![good, good],
            vec![Removal { name: b"..", ..good }],
            vec![Removal { dir: *node, ..good }],
            vec![Removal { folder: true, ..good }],
            vec![Removal { dir: places["/few"].0, name: b"few", node: places["/few"].2, folder: false }],
            vec![Removal { dir: u64::MAX, ..good }],
        ] {
            assert!(ask(&bad).is_err(), "{kind}: {bad:?}");
        }
    }
}

/// Bytes changed where the structures are, without checksums to give that away: an answer in bounded time, and never a panic.
#[test]
fn damage_is_an_answer_and_ends() {
    let d = dir();
    let root = d.path().join("root");
    std::fs::create_dir_all(root.join("many/deeper/deepest")).unwrap();
    for i in 0..120 {
        std::fs::write(root.join(format!("many/a-file-with-a-name-{i}")), noise(i, 3000)).unwrap();
    }
    std::fs::write(root.join("many/deeper/deepest/big"), noise(3, 400_000)).unwrap();
    for options in
        ["-t ext4 -b 1024 -O ^metadata_csum,^64bit", "-t ext2 -b 1024", "-t ext4 -b 1024 -O inline_data,^metadata_csum"]
    {
        let image = d.path().join("x.raw");
        make(&image, options, &root, 4);
        let good = std::fs::read(&image).unwrap();
        let places = places(fs::open(Arc::new(Memory::new(good.clone()))).unwrap().as_ref());
        let list: Vec<_> = removals(&places, &|p| p.starts_with("/many")).into_iter().map(|(_, r)| r).collect();
        let of = |path: &str| {
            let stat = run("debugfs", &["-R", &format!("imap {path}"), s(&image)]).stdout;
            let text = String::from_utf8_lossy(&stat).into_owned();
            let block: usize = text.split("at block ").nth(1).unwrap().split([',', ' ']).next().unwrap().parse().unwrap();
            let at = usize::from_str_radix(text.split("offset 0x").nth(1).unwrap().trim(), 16).unwrap();
            block * 1024 + at
        };
        let blocks = |path: &str| -> Vec<usize> {
            let out = run("debugfs", &["-R", &format!("blocks {path}"), s(&image)]).stdout;
            String::from_utf8_lossy(&out).split_whitespace().filter_map(|w| w.parse().ok()).collect()
        };
        // The folder's inode and a file's, the folder's blocks, and the map of the large file.
        let mut spots: Vec<(usize, usize)> = vec![(of("/many"), 128), (of("/many/deeper/deepest/big"), 128)];
        spots.extend(blocks("/many").iter().take(2).map(|b| (b * 1024, 64)));
        spots.extend(blocks("/many/deeper/deepest/big").iter().take(14).skip(12).map(|b| (b * 1024, 32)));
        let (mut fine, mut refused) = (0, 0);
        let mut seed = 1u64;
        for _ in 0..900 {
            let mut bytes = good.clone();
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (at, len) = spots[(seed >> 33) as usize % spots.len()];
            bytes[at + (seed >> 40) as usize % len] = (seed >> 20) as u8;
            let dev: WriteDevice = Arc::new(Draft::new(Arc::new(Memory::new(bytes))));
            match fs::remove_all(&dev, &list) {
                Ok(_) => fine += 1,
                Err(_) => refused += 1,
            }
        }
        assert!(fine > 50 && refused > 50, "{options}: {fine} and {refused}");
    }
}
