//! Journals that the kernel left: a filesystem is mounted, written, and shut down as if the power went. `sanitize --replay` must bring
//! back what e2fsck's replay does, and leave nothing for it to mend.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use cowshed::engine::io::file::FileDevice;

use crate::common::{cowshed, dir, noise, run, s};
use crate::guest_write::{Tree, complaints, make, tree};
use crate::sanitize::{SECRETS, guest, left, report};

/// Leaves a dirty journal in `image`, with changes in several transactions, revoked blocks, and files deleted while open. False where
/// nothing can be mounted.
fn crash(image: &Path, at: &Path) -> bool {
    let mounted = Command::new("mount").args(["-o", "loop,commit=300", s(image), s(at)]).output().unwrap();
    if !mounted.status.success() {
        eprintln!("nothing can be mounted here: {}", String::from_utf8_lossy(&mounted.stderr));
        return false;
    }
    let sync = || run("sync", &["-f", s(at)]);
    let busy = at.join("busy");
    std::fs::create_dir(&busy).unwrap();
    for i in 0..150 {
        std::fs::write(busy.join(format!("f{i}")), noise(i, 700)).unwrap();
    }
    std::fs::OpenOptions::new()
        .append(true)
        .open(at.join("root/.bash_history"))
        .unwrap()
        .write_all(b"one command more\n")
        .unwrap();
    sync();
    // Folders that go, and files in their place: their blocks are revoked.
    std::fs::create_dir(busy.join("inner")).unwrap();
    for i in 0..100 {
        std::fs::rename(
            busy.join(format!("f{i}")),
            busy.join("inner").join(format!("a long name, so that the folder has blocks {i}")),
        )
        .unwrap();
    }
    sync();
    std::fs::remove_dir_all(busy.join("inner")).unwrap();
    for i in 0..30 {
        std::fs::write(busy.join(format!("g{i}")), noise(i + 500, 6000)).unwrap();
    }
    // Deleted while open: they wait for being removed.
    let held: Vec<std::fs::File> = [10_000, 400_000, 0]
        .iter()
        .enumerate()
        .map(|(i, len)| {
            let path = busy.join(format!("held{i}"));
            std::fs::write(&path, noise(9, *len)).unwrap();
            let file = std::fs::File::open(&path).unwrap();
            file.sync_all().unwrap();
            std::fs::remove_file(&path).unwrap();
            file
        })
        .collect();
    sync();
    run("xfs_io", &["-x", "-c", "shutdown -f", s(at)]);
    drop(held);
    // Another test's child, being born, holds a copy of what is open here for a moment.
    let gone = (0..100).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        Command::new("umount").arg(at).output().unwrap().status.success()
    });
    assert!(gone, "it cannot be unmounted");
    true
}

fn files(image: &Path) -> Tree {
    tree(Arc::new(FileDevice::open(image).unwrap()))
}

#[test]
fn a_journal_the_kernel_left_is_replayed_as_e2fsck_does() {
    let d = dir();
    let (root, at) = (d.path().join("root"), d.path().join("at"));
    guest(&root);
    std::fs::create_dir(&at).unwrap();
    for (i, options) in [
        "-t ext4 -O metadata_csum,64bit,^orphan_file",
        "-t ext4 -O metadata_csum,orphan_file",
        "-t ext4 -O ^metadata_csum,^64bit",
        "-t ext4 -b 1024 -O metadata_csum,orphan_file,metadata_csum_seed",
        "-t ext3",
    ]
    .iter()
    .enumerate()
    {
        let (image, checked) = (d.path().join(format!("{i}.raw")), d.path().join("checked.raw"));
        make(&image, options, &root, 48);
        if !crash(&image, &at) {
            return;
        }
        std::fs::copy(&image, &checked).unwrap();
        let said = Command::new("e2fsck").args(["-fy", s(&checked)]).output().unwrap();
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.contains("recovering journal") || said.contains("ecover"), "{options}: it was not dirty: {said}");
        let right = files(&checked);
        assert!(right.keys().any(|p| p == "/busy/g29") && !right.keys().any(|p| p.contains("inner") || p.contains("held")));
        // Not without being asked, and then nothing is written.
        let bytes = std::fs::read(&image).unwrap();
        let (code, _, err) = report(&[s(&image)]);
        assert!(code == Some(1) && err.contains("--replay"), "{options}: {err}");
        let (code, done, err) = report(&["--replay", "--dry-run", s(&image)]);
        assert_eq!(code, Some(0), "{options}: {err} {done}");
        assert!(std::fs::read(&image).unwrap() == bytes, "{options}");
        let (code, done, err) = report(&["--replay", s(&image)]);
        assert_eq!(code, Some(0), "{options}: {err} {done}");
        assert_eq!(complaints(&image, "ext4"), "", "{options}");
        assert_eq!(left(&image), Vec::<&str>::new(), "{options}");
        // Taken back it is what the replay makes of it: the journal itself does not come back.
        assert!(cowshed(&["sanitize", "--undo", s(&image)]).status.success(), "{options}");
        assert_eq!(complaints(&image, "ext4"), "", "{options}: after undo");
        let undone = files(&image);
        let differ: Vec<&String> = right.keys().chain(undone.keys()).filter(|p| right.get(*p) != undone.get(*p)).collect();
        assert!(differ.is_empty(), "{options}: {differ:?}");
        assert!(left(&image).len() + 1 >= SECRETS.len(), "{options}");
    }
}

#[test]
fn fast_commits_are_refused_and_nothing_is_written() {
    let d = dir();
    let (root, at) = (d.path().join("root"), d.path().join("at"));
    guest(&root);
    std::fs::create_dir(&at).unwrap();
    let image = d.path().join("x.raw");
    make(&image, "-t ext4 -O fast_commit", &root, 48);
    if !crash(&image, &at) {
        return;
    }
    let bytes = std::fs::read(&image).unwrap();
    let (code, _, err) = report(&["--replay", s(&image)]);
    assert!(code == Some(1) && err.contains("journal") && err.contains("e2fsck"), "{err}");
    assert!(std::fs::read(&image).unwrap() == bytes);
}
