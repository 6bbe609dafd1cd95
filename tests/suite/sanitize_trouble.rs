//! Sanitising when things go wrong: killed at a write, a disk that is full or fails, no permission, an undo file elsewhere. The image is
//! what it was, or is taken back to it; never something between that nobody knows of.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use cowshed::engine::io::Device;
use cowshed::engine::io::file::FileDevice;

use crate::common::{at_home, cowshed, dir, qemu_img, run, s};
use crate::guest_write::{complaints, make, tree};
use crate::sanitize::{guest, left, report};

/// Runs `cowshed sanitize` on `image` with strace's `inject` (a call of the kernel, and what happens to it).
pub fn injected(image: &Path, inject: &str, more: &[&str]) -> Output {
    at_home("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=pwrite64,fdatasync,fallocate", "-e", &format!("inject={inject}")])
        .args([env!("CARGO_BIN_EXE_cowshed"), "sanitize"])
        .args(more)
        .arg(image)
        .output()
        .expect("strace: tests/run installs it")
}

/// Calls of `name` that a whole sanitising of `image` makes.
pub fn calls(image: &Path, name: &str) -> usize {
    let log = image.with_extension("log");
    let out = at_home("strace")
        .args(["-f", "-qq", "-o", s(&log), "-e", &format!("trace={name}"), env!("CARGO_BIN_EXE_cowshed"), "sanitize", s(image)])
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    std::fs::read_to_string(&log).unwrap().lines().filter(|l| l.contains(name)).count()
}

pub fn undo_of(image: &Path) -> PathBuf {
    PathBuf::from(format!("{}.sanitize-undo", s(image)))
}

/// The image as a plain disk.
fn flat(image: &Path) -> PathBuf {
    let flat = image.with_extension("flat");
    qemu_img(&format!("convert -O raw {} {}", s(image), s(&flat)));
    flat
}

fn files(image: &Path) -> crate::guest_write::Tree {
    let dev: Device = Arc::new(FileDevice::open(flat(image)).unwrap());
    tree(dev)
}

#[test]
fn killed_at_any_write_it_is_whole_or_taken_back() {
    let d = dir();
    let root = d.path().join("root");
    guest(&root);
    let raw = d.path().join("made.raw");
    make(&raw, "-t ext4", &root, 24);
    for format in ["raw", "qcow2"] {
        let made = d.path().join(format!("made.{format}"));
        if format == "qcow2" {
            qemu_img(&format!("convert -f raw -O qcow2 {} {}", s(&raw), s(&made)));
        }
        let image = d.path().join(format!("x.{format}"));
        let fresh = || {
            let _ = std::fs::remove_file(undo_of(&image));
            std::fs::copy(&made, &image).unwrap();
        };
        fresh();
        let before = files(&image);
        for call in ["pwrite64", "fdatasync"] {
            fresh();
            let all = calls(&image, call);
            assert!(all > 3, "{all}");
            let mut moments: Vec<usize> = (0..=7).map(|i| 1 + i * (all - 1) / 7).collect();
            moments.dedup();
            for n in moments {
                fresh();
                let out = injected(&image, &format!("{call}:signal=KILL:when={n}"), &[]);
                assert!(!out.status.success(), "{format}: {call} {n} of {all} did not kill it");
                let what = format!("{format}, killed at {call} {n} of {all}");
                let kept = undo_of(&image).exists();
                let undone = cowshed(&["sanitize", "--undo", s(&image)]);
                if !undone.status.success() {
                    // Nothing to take back: then nothing was written.
                    assert!(std::fs::read(&image).unwrap() == std::fs::read(&made).unwrap(), "{what}: {kept}");
                }
                assert!(files(&image) == before, "{what}");
                assert_eq!(complaints(&flat(&image), "ext4"), "", "{what}");
                assert!(!undo_of(&image).exists(), "{what}");
                // What was lost when it was killed is wiped too: no cluster of the file holds what was removed.
                let (code, again, err) = report(&[s(&image)]);
                assert_eq!((code, left(&image)), (Some(0), Vec::<&str>::new()), "{what}: {err} {again}");
            }
        }
    }
}

#[test]
fn a_full_or_failing_disk_leaves_the_image_as_it_was_or_says_how_to_take_it_back() {
    let d = dir();
    let root = d.path().join("root");
    guest(&root);
    let raw = d.path().join("made.raw");
    make(&raw, "-t ext4", &root, 24);
    let image = d.path().join("x.raw");
    std::fs::copy(&raw, &image).unwrap();
    let before = files(&image);
    // No room for the undo file: nothing has happened, and no half of it stays.
    let out = injected(&image, "pwrite64:error=ENOSPC:when=2+", &[]);
    let err = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.code() == Some(1) && err.contains("space"), "{err}");
    assert!(!undo_of(&image).exists() && std::fs::read(&image).unwrap() == std::fs::read(&raw).unwrap());
    // The disk fails while the image is written.
    let out = injected(&image, "fdatasync:error=EIO:when=3+", &[]);
    let err = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.code() == Some(1) && err.contains("sanitize --undo"), "{err}");
    assert!(cowshed(&["sanitize", "--undo", s(&image)]).status.success());
    assert!(files(&image) == before);
    // The same where nobody wants to take it back: the file stays until the image is whole.
    let out = injected(&image, "fdatasync:error=EIO:when=3+", &["--no-undo"]);
    assert!(out.status.code() == Some(1) && undo_of(&image).exists());
    assert!(cowshed(&["sanitize", "--undo", s(&image)]).status.success());
    assert!(files(&image) == before);
}

#[test]
fn without_permission_nothing_is_written_and_the_reason_is_told() {
    let d = dir();
    let root = d.path().join("root");
    guest(&root);
    let image = d.path().join("x.raw");
    make(&image, "-t ext4", &root, 24);
    let program = d.path().join("cowshed");
    std::fs::copy(env!("CARGO_BIN_EXE_cowshed"), &program).unwrap();
    for path in [d.path(), &program] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    std::fs::set_permissions(&image, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let nobody = |args: &[&str]| {
        let who = ["--reuid=65534", "--regid=65534", "--clear-groups", "--", s(&program), "sanitize"];
        Command::new("setpriv").args(who).args(args).env("HOME", "/nonexistent").output().expect("setpriv")
    };
    if !nobody(&["--list"]).status.success() {
        eprintln!("not root: nobody else can be tried");
        return;
    }
    let before = std::fs::read(&image).unwrap();
    for args in [vec![s(&image)], vec!["--to", "/work/none.raw", s(&image)]] {
        let out = nobody(&args);
        let err = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code() == Some(1) && (err.contains("ermission") || err.contains("no such")), "{args:?}: {err}");
    }
    // Looking needs no permission to write.
    let out = nobody(&["--dry-run", s(&image)]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    // A folder nobody may write to has no room for the undo file, even where the image may be written.
    std::fs::set_permissions(&image, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let out = nobody(&[s(&image)]);
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() == Some(1) && err.contains("undo"), "{err}");
    assert!(std::fs::read(&image).unwrap() == before);
}

#[test]
fn the_undo_file_may_lie_elsewhere() {
    let d = dir();
    let root = d.path().join("root");
    guest(&root);
    let image = d.path().join("x.raw");
    make(&image, "-t ext4", &root, 24);
    let before = files(&image);
    let elsewhere = d.path().join("vault");
    run("mkdir", &[s(&elsewhere)]);
    let file = elsewhere.join("kept");
    let (code, done, err) = report(&["--undo-file", s(&file), s(&image)]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{done}");
    assert!(file.exists() && !undo_of(&image).exists());
    assert_eq!(done["undo"]["path"].as_str(), Some(s(&file)));
    assert_eq!(done["undo"]["bytes"].as_u64(), Some(file.metadata().unwrap().len()));
    let out = cowshed(&["sanitize", "--undo", "--undo-file", s(&file), s(&image)]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(files(&image) == before && !file.exists());
}

#[test]
fn an_undo_file_elsewhere_is_known_to_whoever_opens_the_image() {
    let d = dir();
    let root = d.path().join("root");
    guest(&root);
    let (made, image) = (d.path().join("made.raw"), d.path().join("x.raw"));
    make(&made, "-t ext4", &root, 24);
    let marker = PathBuf::from(format!("{}.sanitize-undo-at", s(&image)));
    let (file, moved) = (d.path().join("vault/kept"), d.path().join("moved"));
    run("mkdir", &[s(file.parent().unwrap())]);
    std::fs::copy(&made, &image).unwrap();
    let before = files(&image);
    let all = calls(&image, "pwrite64");
    std::fs::remove_file(undo_of(&image)).unwrap();
    let mut half_done = 0;
    // One write more: the marker's is made with another call.
    for n in (1..=all).step_by((all / 12).max(1)) {
        std::fs::copy(&made, &image).unwrap();
        let out = injected(&image, &format!("pwrite64:signal=KILL:when={n}"), &["--undo-file", s(&file)]);
        assert!(!out.status.success(), "{n} of {all}");
        let what = format!("killed at {n} of {all}");
        let touched = std::fs::read(&image).unwrap() != std::fs::read(&made).unwrap();
        assert!(marker.exists() || !touched, "{what}");
        if !marker.exists() {
            let _ = std::fs::remove_file(&file);
            continue;
        }
        half_done += 1;
        // Whoever would write it is told, and so is who sanitises it when the file is not where it was.
        let out = cowshed(&["resize", "-f", "raw", s(&image), "+1M"]);
        let err = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code() == Some(1) && err.contains("interrupted") && err.contains("sanitize --undo"), "{what}: {err}");
        std::fs::rename(&file, &moved).unwrap();
        let now = std::fs::read(&image).unwrap();
        for args in
            [vec!["sanitize", s(&image)], vec!["sanitize", "--undo", s(&image)], vec!["resize", "-f", "raw", s(&image), "+1M"]]
        {
            let out = cowshed(&args);
            let err = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(out.status.code() == Some(1) && std::fs::read(&image).unwrap() == now, "{what}: {args:?}: {err}");
            assert!(args[0] == "resize" || err.contains("vault/kept") && err.contains("--undo-file"), "{what}: {err}");
        }
        // Found by itself, named where it is now, or taken back by the next sanitise.
        match half_done % 3 {
            0 => {
                std::fs::rename(&moved, &file).unwrap();
                assert!(cowshed(&["sanitize", "--undo", s(&image)]).status.success(), "{what}");
            }
            1 => assert!(cowshed(&["sanitize", "--undo", "--undo-file", s(&moved), s(&image)]).status.success(), "{what}"),
            _ => {
                std::fs::rename(&moved, &file).unwrap();
                let (code, done, err) = report(&[s(&image)]);
                assert_eq!((code, left(&image)), (Some(0), Vec::<&str>::new()), "{what}: {done} {err}");
                assert!(!marker.exists(), "{what}");
                assert!(cowshed(&["sanitize", "--undo", s(&image)]).status.success(), "{what}");
            }
        }
        assert!(files(&image) == before, "{what}");
        assert!(!marker.exists() && !file.exists() && !moved.exists(), "{what}");
    }
    assert!(half_done > 3, "{half_done} of {all}");
    // Nothing says so any more when it is complete.
    assert_eq!(report(&["--undo-file", s(&file), s(&image)]).0, Some(0));
    assert!(file.exists() && !marker.exists());
}
