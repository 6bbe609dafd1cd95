//! Sanitising in place in every other format than raw and qcow2, killed at writes and flushes: the next one completes it or takes it back,
//! the image is sound, and what was lost when it was killed holds nothing of what is removed.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{content, cowshed, dir, qemu_img, s};
use crate::guest_write::{Tree, complaints, make, tree};
use crate::sanitize::{guest, left, report};
use crate::sanitize_trouble::{calls, injected, undo_of};

/// Formats, and whether `qemu-img check` knows them.
const FORMATS: &[(&str, bool)] = &[("vmdk", true), ("vdi", true), ("vpc", false), ("vhdx", true)];

/// The disk as our own reader shows it, as a file.
fn flat(image: &Path) -> PathBuf {
    let flat = image.with_extension("flat");
    let mut bytes = content(image);
    // A VHD's size is one of whole cylinders: what is behind the filesystem is nothing to its checker.
    bytes.truncate(24 << 20);
    std::fs::write(&flat, bytes).unwrap();
    flat
}

fn files(image: &Path) -> Tree {
    tree(std::sync::Arc::new(cowshed::engine::io::file::FileDevice::open(flat(image)).unwrap()))
}

/// Kills a sanitise of copies of `made` at several calls of each kind. `known`: qemu-img can check it.
fn killed(made: &Path, known: bool) {
    let format = made.file_stem().unwrap().to_str().unwrap().to_string();
    let image = made.with_file_name(format!("x.{format}"));
    let fresh = || {
        let _ = std::fs::remove_file(undo_of(&image));
        std::fs::copy(made, &image).unwrap();
    };
    fresh();
    let before = files(&image);
    let mut half = 0;
    for (call, moments) in [("pwrite64", 8), ("fdatasync", 4)] {
        fresh();
        let all = calls(&image, call);
        let mut at: Vec<usize> = (0..moments).map(|i| 1 + i * (all - 1) / (moments - 1)).collect();
        at.dedup();
        for (i, n) in at.into_iter().enumerate() {
            fresh();
            let what = format!("{format}, killed at {call} {n} of {all}");
            let out = injected(&image, &format!("{call}:signal=KILL:when={n}"), &[]);
            assert!(!out.status.success(), "{what}: it was not killed");
            half += usize::from(std::fs::read(&image).unwrap() != std::fs::read(made).unwrap());
            // Taken back by hand, or by the next sanitise.
            if i % 2 == 0 {
                let undone = cowshed(&["sanitize", "--undo", s(&image)]);
                assert!(undone.status.success() || std::fs::read(&image).unwrap() == std::fs::read(made).unwrap(), "{what}");
                assert!(files(&image) == before, "{what}");
            }
            let (code, again, err) = report(&[s(&image)]);
            assert_eq!((code, left(&image)), (Some(0), Vec::<&str>::new()), "{what}: {err} {again}");
            let at = flat(&image);
            assert_eq!((complaints(&at, "ext4"), left(&at)), (String::new(), Vec::new()), "{what}");
            let checked = cowshed(&["check", s(&image)]);
            assert!(matches!(checked.status.code(), Some(0 | 3)), "{what}: {}", String::from_utf8_lossy(&checked.stdout));
            if known {
                let checked = Command::new("qemu-img").args(["check", s(&image)]).output().unwrap();
                assert!(matches!(checked.status.code(), Some(0 | 3)), "{what}: {}", String::from_utf8_lossy(&checked.stdout));
            }
            assert!(cowshed(&["sanitize", "--undo", s(&image)]).status.success(), "{what}");
            assert!(files(&image) == before, "{what}: taken back");
        }
    }
    assert!(half > 2, "{format}: hardly ever half done");
}

#[test]
fn alone_it_is_whole_or_taken_back_and_nothing_is_left() {
    let d = dir();
    let root = d.path().join("root");
    guest(&root);
    let raw = d.path().join("made.raw");
    make(&raw, "-t ext4", &root, 24);
    for (format, known) in FORMATS {
        let made = d.path().join(format!("{format}.made"));
        qemu_img(&format!("convert -f raw -O {format} {} {}", s(&raw), s(&made)));
        killed(&made, *known);
    }
}

#[test]
fn on_a_parent_nothing_of_it_is_left_in_what_was_lost() {
    let d = dir();
    let root = d.path().join("root");
    guest(&root);
    let raw = d.path().join("made.raw");
    make(&raw, "-t ext4", &root, 24);
    for (format, _) in FORMATS {
        let (base, made) = (d.path().join(format!("base.{format}")), d.path().join(format!("{format}.made")));
        qemu_img(&format!("convert -f raw -O {format} {} {}", s(&raw), s(&base)));
        let out = cowshed(&["create", "-f", format, "-b", s(&base), "-F", format, s(&made)]);
        assert!(out.status.success(), "{format}: {}", String::from_utf8_lossy(&out.stderr));
        killed(&made, false);
    }
}
