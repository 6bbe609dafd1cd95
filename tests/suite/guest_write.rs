//! Guest filesystems changed without mounting: their own checkers have nothing to say, and the content is what was asked for.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use cowshed::engine::guest::fs::{self, FileType, GuestFs, GuestWrite, Node, Owner};
use cowshed::engine::io::WriteDevice;
use cowshed::engine::io::draft::{Changed, Draft};
use cowshed::engine::io::file::FileDevice;
use cowshed::engine::io::{ReadAt, WriteAt};

use crate::common::{dir, noise, run, s, text};

/// What a checker says of the filesystem in `image`, when it is not "clean".
pub fn complaints(image: &Path, kind: &str) -> String {
    if kind == "fat" {
        return crate::fat_write::fat_complaints(image);
    }
    let (program, args): (&str, &[&str]) = if kind == "xfs" { ("xfs_repair", &["-n"]) } else { ("e2fsck", &["-fn"]) };
    let out = std::process::Command::new(program).args(args).arg(image).output().expect("tests/run installs the checkers");
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let expected = |l: &str| match kind {
        "xfs" => {
            // What it says of the host where the image lies is not about the image.
            let about_host =
                ["Cannot get host filesystem geometry", "Repair may fail if there is a sector size", "the image and the host"];
            about_host.iter().chain(&["Phase ", "        - ", "No modify flag set"]).any(|b| l.starts_with(b))
                || l.trim().is_empty()
        }
        _ => l.starts_with("Pass ") || l.starts_with("e2fsck ") || l.contains(" files (") || l.trim().is_empty(),
    };
    let said: Vec<&str> = text.lines().filter(|l| !expected(l)).collect();
    let said = said.join("\n");
    if out.status.success() || !said.is_empty() { said } else { format!("{program} ended with {}", out.status) }
}

/// The filesystems tried: a name, and what makes one from a folder.
pub const KINDS: &[(&str, &str)] = &[
    ("ext4", "-t ext4"),
    ("ext4 1k inline", "-t ext4 -b 1024 -O inline_data,^metadata_csum,^64bit"),
    ("ext4 ubuntu", "-t ext4 -O metadata_csum,64bit,orphan_file,metadata_csum_seed"),
    ("ext4 without extents", "-t ext4 -O ^extents,^64bit"),
    ("ext3", "-t ext3"),
    ("ext2", "-t ext2 -b 1024"),
    ("xfs", ""),
];

/// Makes a filesystem of the folder `root`.
pub fn make(image: &Path, options: &str, root: &Path, megabytes: u64) {
    let _ = std::fs::remove_file(image);
    if options.is_empty() {
        return make_xfs(image, &["-m", "rmapbt=1,reflink=1"], 320, root);
    }
    let mut args: Vec<&str> = vec!["-q", "-F", "-d", s(root)];
    args.extend(options.split(' '));
    let size = format!("{megabytes}M");
    args.extend([s(image), size.as_str()]);
    run("mke2fs", &args);
}

/// The same with XFS and mkfs's further `options`.
pub fn make_xfs(image: &Path, options: &[&str], megabytes: u64, root: &Path) {
    let _ = std::fs::remove_file(image);
    let proto = image.with_extension("proto");
    std::fs::write(&proto, proto_of(root)).unwrap();
    run("truncate", &["-s", &format!("{megabytes}M"), s(image)]);
    let out = std::process::Command::new("mkfs.xfs")
        .arg("-q")
        .args(options)
        .args(["-p", s(&proto), s(image)])
        // What its own test suite sets: less than 300 MB are taken.
        .envs(["TEST_DIR", "TEST_DEV", "QA_CHECK_FS"].map(|name| (name, "1")))
        .output()
        .expect("tests/run installs mkfs.xfs");
    assert!(out.status.success(), "mkfs.xfs: {}", String::from_utf8_lossy(&out.stderr));
}

/// `mkfs.xfs -p` wants a list.
fn proto_of(root: &Path) -> String {
    fn folder(at: &Path, out: &mut String) {
        let mut names: Vec<_> = std::fs::read_dir(at).unwrap().map(|e| e.unwrap()).collect();
        names.sort_by_key(|e| e.file_name());
        for e in names {
            let (name, path) = (e.file_name().into_string().unwrap(), e.path());
            let kind = e.file_type().unwrap();
            if kind.is_symlink() {
                *out += &format!("{name} l--777 0 0 {}\n", std::fs::read_link(&path).unwrap().display());
            } else if kind.is_dir() {
                *out += &format!("{name} d--755 0 0\n");
                folder(&path, out);
                *out += "$\n";
            } else {
                *out += &format!("{name} ---644 0 0 {}\n", path.display());
            }
        }
    }
    let mut out = "/dev/null\n0 0\nd--755 0 0\n".to_string();
    folder(root, &mut out);
    out + "$\n"
}

pub type Tree = BTreeMap<String, Vec<u8>>;

fn walk(fs: &dyn GuestFs, node: Node, at: &str, out: &mut Tree) {
    for e in fs.list(node).unwrap() {
        let path = format!("{at}/{}", String::from_utf8_lossy(&e.name));
        let stat = fs.stat(e.node).unwrap();
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

/// Every file of the filesystem on `dev`.
pub fn tree(dev: cowshed::engine::io::Device) -> Tree {
    let fs = fs::open(dev).unwrap();
    let mut out = Tree::new();
    walk(fs.as_ref(), fs.root(), "", &mut out);
    out.remove("/lost+found");
    out
}

fn at(fs: &dyn GuestWrite, path: &str) -> (Node, Vec<u8>) {
    let (folder, name) = path.rsplit_once('/').unwrap();
    let dir = folder.split('/').filter(|p| !p.is_empty()).fold(fs.root(), |d, n| fs.lookup(d, n.as_bytes()).unwrap().unwrap());
    (dir, name.as_bytes().to_vec())
}

#[test]
fn edits_of_every_sort_leave_a_filesystem_that_its_own_checker_calls_clean() {
    let d = dir();
    let root = d.path().join("root");
    std::fs::create_dir_all(root.join("etc/deep/er")).unwrap();
    std::fs::create_dir_all(root.join("gone/er")).unwrap();
    std::fs::create_dir_all(root.join("many")).unwrap();
    std::fs::write(root.join("etc/small"), "fifty bytes or fewer\n").unwrap();
    std::fs::write(root.join("etc/deep/er/big.bin"), noise(1, 700_000)).unwrap();
    std::fs::write(root.join("etc/deep/er/other.bin"), noise(5, 900_000)).unwrap();
    std::fs::write(root.join("etc/text.log"), text(1, 300_000)).unwrap();
    std::fs::write(root.join("etc/replaced"), text(2, 10_000)).unwrap();
    std::fs::write(root.join("gone/er/file"), "x").unwrap();
    std::os::unix::fs::symlink("small", root.join("etc/link")).unwrap();
    for i in 0..300 {
        std::fs::write(root.join(format!("many/some-fairly-long-file-name-{i}")), format!("{i}")).unwrap();
    }
    for (kind, options) in KINDS {
        let image = d.path().join("x.raw");
        make(&image, options, &root, 32);
        let file = Arc::new(FileDevice::open_rw(&image).unwrap());
        let mut expected = tree(file.clone());
        let draft = Arc::new(Draft::new(file.clone()));
        let w = fs::open_rw(draft.clone() as WriteDevice).unwrap();
        let mut empty = |path: &str| {
            let (dir, name) = at(w.as_ref(), path);
            w.empty(dir, &name).unwrap_or_else(|e| panic!("{kind}: {path}: {e}"));
            expected.insert(path.into(), Vec::new());
        };
        empty("/etc/small");
        empty("/etc/deep/er/big.bin");
        empty("/etc/text.log");
        let (dir, name) = at(w.as_ref(), "/etc/replaced");
        let new = text(3, 5_000);
        w.replace(dir, &name, &new).unwrap();
        expected.insert("/etc/replaced".into(), new);
        for path in ["/etc/deep/er/other.bin", "/etc/link", "/gone/er/file"] {
            let (dir, name) = at(w.as_ref(), path);
            w.remove(dir, &name).unwrap_or_else(|e| panic!("{kind}: {path}: {e}"));
            expected.remove(path);
        }
        for path in ["/gone/er", "/gone"] {
            let (dir, name) = at(w.as_ref(), path);
            w.remove_folder(dir, &name).unwrap_or_else(|e| panic!("{kind}: {path}: {e}"));
            expected.remove(path);
        }
        for i in (0..300).step_by(3) {
            let path = format!("/many/some-fairly-long-file-name-{i}");
            let (dir, name) = at(w.as_ref(), &path);
            w.remove(dir, &name).unwrap();
            expected.remove(&path);
        }
        let owner = Owner { uid: 7, gid: 8, mode: 0o640 };
        let root = w.root();
        let folder = w.make_folder(root, b"new", Owner { mode: 0o755, ..owner }).unwrap();
        let made = w.create(folder, b"file", owner).unwrap();
        w.replace(folder, b"file", b"made\n").unwrap();
        w.symlink(folder, b"link", b"/etc/small").unwrap();
        w.set_mode(made, 0o600).unwrap();
        expected.insert("/new".into(), b"dir".to_vec());
        expected.insert("/new/file".into(), b"made\n".to_vec());
        expected.insert("/new/link".into(), b"-> /etc/small".to_vec());
        w.finish().unwrap();
        // Nothing of the file has changed yet; then what the draft says is done to it.
        let fs = fs::open(draft.clone()).unwrap();
        assert_eq!(fs.check().unwrap(), Vec::<String>::new(), "{kind}");
        let stat = fs.stat(fs.lookup(fs.lookup(fs.root(), b"new").unwrap().unwrap(), b"file").unwrap().unwrap()).unwrap();
        assert_eq!((stat.uid, stat.gid, stat.mode), (7, 8, 0o600), "{kind}");
        for (offset, len, how) in draft.changes() {
            let mut bytes = vec![0; len as usize];
            if how == Changed::Data {
                draft.read_at(offset, &mut bytes).unwrap();
            }
            file.write_at(offset, &bytes).unwrap();
        }
        let found = tree(file.clone());
        let names = |t: &Tree| t.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&found), names(&expected), "{kind}");
        assert!(found == expected, "{kind}: content");
        assert_eq!(complaints(&image, kind), "", "{kind}");
    }
}
