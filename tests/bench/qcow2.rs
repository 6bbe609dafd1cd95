//! qcow2 managed, beside qemu-img: check and snapshots of an image with much mapped (metadata real, data sparse), and of one with many
//! snapshots. `BENCH_VIRTUAL` and `BENCH_MAPPED` are the sizes of the first in GiB (1024 and 100), `BENCH_SNAPSHOTS` and
//! `BENCH_SNAPSHOT_DISK` the number of snapshots (200) and the GiB mapped (8) of the second.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_lossless)]

mod common;

use std::path::Path;
use std::process::Command;

use common::{Cost, Side, cowshed, dir, duel, prepare, rounds};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// An image of `virtual_size` GiB of which `mapped` are mapped, none of it written.
fn mapped(path: &str, virtual_size: u64, mapped: u64) {
    prepare("qemu-img", &["create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", path, &format!("{mapped}G")]);
    prepare("qemu-img", &["resize", "-q", path, &format!("{}G", virtual_size.max(mapped))]);
}

fn args(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

/// Runs `program` without measuring it; it may fail (the snapshot may not be there).
fn quietly(program: &str, words: &[&str]) {
    let _ = Command::new(program).args(words).output();
}

fn faster(medians: &[Cost]) {
    if let [ours, theirs] = medians {
        println!("{:.1} times as fast, {} MiB at its peak", theirs.wall.as_secs_f64() / ours.wall.as_secs_f64(), ours.peak >> 20);
    }
}

fn main() {
    let dir = dir();
    let file = |name: &str| dir.path().join(name).display().to_string();
    large(&file("ours.qcow2"), &file("theirs.qcow2"));
    many(dir.path());
}

/// The image with much mapped.
fn large(ours: &str, theirs: &str) {
    let (size, used) = (number("BENCH_VIRTUAL", 1024), number("BENCH_MAPPED", 100));
    for image in [ours, theirs] {
        mapped(image, size, used);
    }
    let what = format!("qcow2 of {size} GiB, {used} GiB mapped");
    let sides = [
        Side::new("cowshed check", cowshed(), args(&["check", ours])),
        Side::new("qemu-img check", "qemu-img", args(&["check", ours])),
    ];
    faster(&duel(&format!("check, {what}, warm caches"), rounds(5), &sides));
    for (verb, flag, prepared) in [("create", "-c", false), ("apply", "-a", true), ("delete", "-d", true)] {
        let ready = move |image: &str| {
            quietly("qemu-img", &["snapshot", "-d", "bench", image]);
            if prepared {
                prepare("qemu-img", &["snapshot", "-c", "bench", image]);
            }
        };
        let sides = [
            Side::new("cowshed snapshot", cowshed(), args(&["snapshot", flag, "bench", ours])).before(move || ready(ours)),
            Side::new("qemu-img snapshot", "qemu-img", args(&["snapshot", flag, "bench", theirs])).before(move || ready(theirs)),
        ];
        faster(&duel(&format!("snapshot {verb}, {what}"), rounds(5), &sides));
    }
}

/// The image with many snapshots.
fn many(dir: &Path) {
    let (count, used) = (number("BENCH_SNAPSHOTS", 200), number("BENCH_SNAPSHOT_DISK", 8));
    let file = |name: &str| dir.join(name).display().to_string();
    let base = file("many.qcow2");
    mapped(&base, used, used);
    for n in 0..count {
        prepare(cowshed(), &["snapshot", "-q", "-c", &format!("s{n}"), &base]);
        // Some clusters of every state are its own.
        let at = n * 37 % (used << 10);
        prepare("qemu-io", &["-t", "unsafe", "-c", &format!("write -P 1 {at}M 256k"), &base]);
    }
    let what = format!("{count} snapshots of {used} GiB mapped");
    let sides = [
        Side::new("cowshed check", cowshed(), args(&["check", &base])),
        Side::new("qemu-img check", "qemu-img", args(&["check", &base])),
    ];
    faster(&duel(&format!("check, {what}, warm caches"), rounds(5), &sides));
    let sides = [
        Side::new("cowshed snapshot -l", cowshed(), args(&["snapshot", "-l", &base])),
        Side::new("qemu-img check", "qemu-img", args(&["check", &base])),
    ];
    faster(&duel(&format!("what each of {what} costs, beside one check"), rounds(5), &sides));
    let gone: Vec<String> = (0..count / 4).map(|n| format!("s{}", n * 4)).collect();
    let (ours, theirs) = (file("ours-many.qcow2"), file("theirs-many.qcow2"));
    let copy = |to: &str| prepare("cp", &["--sparse=always", &base, to]);
    let once: Vec<String> =
        args(&["snapshot"]).into_iter().chain(gone.iter().flat_map(|g| ["-d".into(), g.clone()])).chain([ours.clone()]).collect();
    let calls = format!("for s in {}; do qemu-img snapshot -d $s {theirs} || exit 1; done", gone.join(" "));
    let sides = [
        Side::new("cowshed, once", cowshed(), once).before(|| copy(&ours)),
        Side::new("qemu-img, each", "sh", args(&["-c", &calls])).before(|| copy(&theirs)),
    ];
    faster(&duel(&format!("deleting {} of {what}", gone.len()), rounds(3), &sides));
    for image in [&ours, &theirs] {
        prepare("qemu-img", &["check", "-q", image]);
    }
}
