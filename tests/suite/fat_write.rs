//! FAT changed without mounting: `fsck.fat` has nothing to say, mtools read what was asked for, and nothing of what went is in the bytes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use cowshed::engine::guest::fs::{self, Node, Owner, Removal, Traces};
use cowshed::engine::io::file::FileDevice;
use cowshed::engine::io::{Device, WriteDevice};

use crate::common::{dir, noise, run, s, text};
use crate::guest_write::{Tree, tree};

/// What `fsck.fat -n` says of `image` beyond its own name and its count of files.
pub fn fat_complaints(image: &Path) -> String {
    let out = Command::new("fsck.fat").args(["-n", s(image)]).output().expect("tests/run installs fsck.fat");
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let said: Vec<&str> = said.lines().filter(|l| !l.starts_with("fsck.fat ") && !l.contains(" files, ")).collect();
    let said = said.join("\n");
    if out.status.success() || !said.is_empty() { said } else { format!("fsck.fat ended with {}", out.status) }
}

/// Kinds, how many tables, sectors in a cluster, bytes in a sector, MiB.
pub const FATS: &[(&str, &str, &str, &str, u64)] = &[
    ("12", "2", "1", "512", 1),
    ("12", "1", "4", "512", 4),
    ("12", "2", "8", "1024", 16),
    ("16", "2", "1", "512", 8),
    ("16", "1", "4", "512", 16),
    ("16", "2", "2", "2048", 64),
    ("32", "2", "1", "512", 40),
    ("32", "1", "1", "512", 40),
    ("32", "2", "1", "4096", 300),
];

/// An empty one.
pub fn make_fat(image: &Path, (bits, tables, per, sector, megabytes): (&str, &str, &str, &str, u64)) {
    run("truncate", &["-s", "0", s(image)]);
    run("truncate", &["-s", &format!("{megabytes}M"), s(image)]);
    run("mkfs.vfat", &["-n", "ESP", "-F", bits, "-f", tables, "-s", per, "-S", sector, s(image)]);
}

/// Copies into it by mtools.
pub fn put(image: &Path, from: &Path, to: &str) {
    run("mcopy", &["-s", "-i", s(image), s(from), &format!("::{to}")]);
}

/// Every file, as mtools see it.
fn mtools_tree(image: &Path, to: &Path) -> Tree {
    fn walk(at: &Path, path: &str, out: &mut Tree) {
        for e in std::fs::read_dir(at).unwrap().map(Result::unwrap) {
            let path = format!("{path}/{}", e.file_name().to_str().unwrap());
            if e.file_type().unwrap().is_dir() {
                walk(&e.path(), &path, out);
                out.insert(path, b"dir".to_vec());
            } else {
                out.insert(path, std::fs::read(e.path()).unwrap());
            }
        }
    }
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir(to).unwrap();
    let env = [("LC_ALL", "C.UTF-8")];
    let out = Command::new("mcopy").args(["-s", "-i", s(image), "::*", s(to)]).envs(env).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let mut found = Tree::new();
    walk(to, "", &mut found);
    found
}

/// The same as the kernel sees it, where it may be mounted here.
fn kernel_tree(image: &Path, at: &Path) -> Option<Vec<String>> {
    std::fs::create_dir_all(at).unwrap();
    let out = Command::new("mount").args(["-t", "vfat", "-o", "loop,utf8,ro", s(image), s(at)]).output().unwrap();
    if !out.status.success() {
        eprintln!("NOT TESTED: no FAT can be mounted here ({})", String::from_utf8_lossy(&out.stderr).trim());
        return None;
    }
    let out = run("find", &[s(at), "-mindepth", "1", "-printf", "/%P\n"]);
    run("umount", &[at]);
    let mut names: Vec<String> = String::from_utf8(out.stdout).unwrap().lines().map(String::from).collect();
    names.sort();
    Some(names)
}

fn open(image: &Path) -> WriteDevice {
    Arc::new(FileDevice::open_rw(image).unwrap())
}

fn spot(dev: &WriteDevice, path: &str) -> (Node, Vec<u8>, Node) {
    let read: Device = dev.clone();
    let fs = fs::open(read).unwrap();
    let (folder, name) = path.rsplit_once('/').unwrap();
    let dir = folder.split('/').filter(|p| !p.is_empty()).fold(fs.root(), |d, n| fs.lookup(d, n.as_bytes()).unwrap().unwrap());
    let node = fs.lookup(dir, name.as_bytes()).unwrap().unwrap_or_else(|| panic!("{path}"));
    (dir, name.as_bytes().to_vec(), node)
}

/// Bytes without blocks of zeros.
pub fn stored(bytes: &[u8]) -> Vec<u8> {
    bytes.chunks(4096).filter(|c| c.iter().any(|b| *b != 0)).flatten().copied().collect()
}

/// True when `what` is in it.
pub fn has(stored: &[u8], what: &[u8]) -> bool {
    let first = what[0];
    stored.iter().enumerate().any(|(i, b)| *b == first && stored[i..].starts_with(what))
}

fn wide(name: &str) -> Vec<u8> {
    name.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// Fills it so that files are in many pieces and long names go across clusters.
fn lived_in(d: &Path, image: &Path) {
    let root = d.join("root");
    let _ = std::fs::remove_dir_all(&root);
    std::fs::create_dir_all(root.join("loader/entries")).unwrap();
    std::fs::create_dir_all(root.join("EFI/BOOT")).unwrap();
    std::fs::create_dir_all(root.join("going/on/in a folder with a name")).unwrap();
    for i in 0..40 {
        std::fs::write(root.join(format!("loader/entries/filler {i}.conf")), text(i, 700)).unwrap();
    }
    std::fs::write(root.join("EFI/BOOT/BOOTX64.EFI"), noise(3, 30_000)).unwrap();
    std::fs::write(root.join("going/on/in a folder with a name/file"), "x").unwrap();
    put(image, &root.join("loader"), "");
    put(image, &root.join("EFI"), "");
    put(image, &root.join("going"), "");
    // Every second file goes, and larger ones come into the gaps.
    for i in (0..40).step_by(2) {
        run("mdel", &["-i", s(image), &format!("::loader/entries/filler {i}.conf")]);
    }
    let big = [
        ("a-quite-long-name-that-spans-a-few-entries-of-its-folder-and-so-clusters-too.secret", noise(21, 60_000)),
        ("random-seed", noise(22, 9_000)),
        ("SHORT.BIN", noise(23, 11_000)),
        ("shrinks.conf", text(90, 20_000)),
        ("emptied.log", noise(24, 13_000)),
        ("none", Vec::new()),
        ("kept ünïcode.bin", noise(25, 17_000)),
    ];
    for (name, content) in &big {
        let file = d.join(name);
        std::fs::write(&file, content).unwrap();
        let env = [("LC_ALL", "C.UTF-8")];
        let out = Command::new("mcopy").args(["-i", s(image), s(&file), "::loader/entries"]).envs(env).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
}

#[test]
fn what_goes_from_a_fat_is_gone_and_its_own_checker_has_nothing_to_say() {
    let d = dir();
    let image = d.path().join("x.raw");
    let mut mounted = 0;
    for fat in FATS {
        make_fat(&image, *fat);
        lived_in(d.path(), &image);
        assert_eq!(fat_complaints(&image), "", "{fat:?}: as made");
        let before: Device = Arc::new(cowshed::engine::io::memory::Memory::new(std::fs::read(&image).unwrap()));
        let mut expected = tree(before.clone());
        assert_eq!(mtools_tree(&image, &d.path().join("seen")), expected, "{fat:?}: as made");
        let full_of = stored(&std::fs::read(&image).unwrap());
        let dev = open(&image);
        let entries = |name: &str| format!("/loader/entries/{name}");
        // Content changed in place.
        let w = fs::open_rw(dev.clone()).unwrap();
        let (dir, name, _) = spot(&dev, &entries("shrinks.conf"));
        let new = text(91, 1_000);
        w.replace(dir, &name, &new).unwrap();
        let full = format!("{:?}", w.replace(dir, &name, &noise(1, 200_000)).unwrap_err());
        assert!(full.contains("clusters"), "{full}");
        w.empty(dir, b"emptied.log").unwrap();
        w.empty(dir, b"none").unwrap();
        assert!(w.empty(dir, b"is not there").is_err());
        assert!(w.symlink(dir, b"link", b"to").is_err() && w.create(dir, b"new", Owner::default()).is_err());
        assert!(w.remove_folder(w.root(), b"loader").is_err(), "something is in it");
        assert!(w.remove(w.root(), b"loader").is_err(), "a folder is no file");
        w.finish().unwrap();
        expected.insert(entries("shrinks.conf"), new);
        expected.insert(entries("emptied.log"), Vec::new());
        // Names removed, a folder that becomes empty among them, and one that does not.
        let long = "a-quite-long-name-that-spans-a-few-entries-of-its-folder-and-so-clusters-too.secret";
        let mut gone: Vec<(String, bool)> = [long, "random-seed", "SHORT.BIN"].iter().map(|n| (entries(n), false)).collect();
        gone.push(("/going/on/in a folder with a name/file".into(), false));
        gone.push(("/going/on/in a folder with a name".into(), true));
        gone.push(("/loader".into(), true));
        let spots: Vec<_> = gone.iter().map(|(path, folder)| (spot(&dev, path), *folder)).collect();
        let wanted: Vec<_> =
            spots.iter().map(|((dir, name, node), folder)| Removal { dir: *dir, name, node: *node, folder: *folder }).collect();
        assert_eq!(fs::remove_all(&dev, &wanted).unwrap(), [true, true, true, true, true, false], "{fat:?}");
        assert!(fs::remove_all(&dev, &wanted[..1]).is_err(), "it is gone already");
        for (path, _) in gone.iter().take(5) {
            expected.remove(path).unwrap();
        }
        let mut folders: Vec<Node> = wanted.iter().take(5).map(|w| w.dir).collect();
        folders.retain(|f| *f != wanted[4].node);
        fs::scrub(&before, &dev, &Traces { folders, gone: Vec::new() }).unwrap();
        let fs = fs::open(dev.clone() as Device).unwrap();
        assert_eq!(fs.check().unwrap(), Vec::<String>::new(), "{fat:?}");
        let mut free = Vec::new();
        fs.free_ranges(&mut |at, len| free.push((at, len))).unwrap();
        for (at, len) in free {
            fs::wipe(dev.as_ref(), at, len).unwrap();
        }
        assert_eq!(fat_complaints(&image), "", "{fat:?}");
        assert!(tree(dev.clone() as Device) == expected, "{fat:?}");
        assert_eq!(mtools_tree(&image, &d.path().join("seen")), expected, "{fat:?}");
        if let Some(names) = kernel_tree(&image, &d.path().join("mounted")) {
            assert_eq!(names, expected.keys().cloned().collect::<Vec<_>>(), "{fat:?}");
            mounted += 1;
        }
        // No piece of a content, and no letter of a name, of those that went before neither.
        let left = stored(&std::fs::read(&image).unwrap());
        for (seed, len) in [(21, 60_000), (22, 9_000), (23, 11_000), (24, 13_000)] {
            let content = noise(seed, len);
            let found = (0..len - 64).step_by(2048).filter(|at| has(&left, &content[*at..at + 64])).count();
            assert_eq!(found, 0, "{fat:?}: content {seed}");
        }
        assert!(!has(&left, &text(90, 20_000)[1_000..1_100]), "{fat:?}: the slack of what shrank");
        for name in [wide("a-qui"), wide("rando"), b"SHORT   BIN".to_vec(), b"RANDOM~1".to_vec(), b"\xe5ILLE".to_vec()] {
            let found = (has(&full_of, &name), has(&left, &name));
            assert_eq!(found, (true, false), "{fat:?}: {}", String::from_utf8_lossy(&name));
        }
    }
    assert!(mounted == 0 || mounted == FATS.len());
}

#[test]
fn a_long_name_that_belongs_to_another_file_is_not_taken_for_its_name() {
    let d = dir();
    let image: PathBuf = d.path().join("x.raw");
    make_fat(&image, FATS[0]);
    let file = d.path().join("a name that is long");
    std::fs::write(&file, "content").unwrap();
    put(&image, &file, "");
    // A system that knows only short names renames it.
    let mut bytes = std::fs::read(&image).unwrap();
    let at = bytes.windows(11).position(|w| w == b"ANAMET~1   ").unwrap();
    bytes[at..at + 11].copy_from_slice(b"OTHER   TXT");
    std::fs::write(&image, &bytes).unwrap();
    let dev = open(&image);
    assert_eq!(tree(dev.clone() as Device).keys().collect::<Vec<_>>(), ["/OTHER.TXT"]);
    // With the file go the parts that nobody's name they are any more.
    let (dir, name, node) = spot(&dev, "/OTHER.TXT");
    fs::remove_all(&dev, &[Removal { dir, name: &name, node, folder: false }]).unwrap();
    assert_eq!((tree(dev as Device), fat_complaints(&image)), (Tree::new(), String::new()));
    assert!(!has(&stored(&std::fs::read(&image).unwrap()), &wide("a nam")));
}
