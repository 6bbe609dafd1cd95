//! Looking into real guests and sanitising them, warm, fsync included. `BENCH_GUESTS` names the folder that
//! `build_guests.sh` filled (raw and qcow2 side by side); where virt-sysprep can run, it runs beside ours on the same image.
//!
//! `BENCH_GUESTS=DIR cargo bench --bench guest -- [WORD…]` takes the guests whose names contain one of the words.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_lossless)]

mod common;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Side, cowshed, dir, duel, prepare, rounds};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    if words.is_empty() || words.iter().any(|w| w == "delete") {
        delete_many("ext4", 10_000);
        delete_many("xfs", 10_000);
    }
    let Some(folder) = std::env::var_os("BENCH_GUESTS") else {
        println!("set BENCH_GUESTS to a folder of guests made by build_guests.sh");
        return;
    };
    let mut guests: Vec<PathBuf> = std::fs::read_dir(folder).expect("the guests").flatten().map(|e| e.path()).collect();
    guests.retain(|p| p.extension().is_some_and(|e| e == "raw" || e == "qcow2"));
    guests.retain(|p| words.is_empty() || words.iter().any(|w| p.to_string_lossy().contains(w.as_str())));
    guests.sort();
    let sysprep = Command::new("virt-sysprep").arg("--version").output().is_ok_and(|o| o.status.success());
    for guest in guests {
        let name = guest.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = guest.display().to_string();
        duel(&format!("inspect {name}"), rounds(11), &[Side::new("cowshed inspect", cowshed(), vec!["inspect".into(), text])]);
        // btrfs is reported and not written.
        if !name.contains("btrfs") {
            sanitise(&guest, sysprep);
        }
    }
}

/// The whole of it on a fresh copy: looking, the edits, the undo file, wiping what is free, the scan for what was removed.
fn sanitise(guest: &Path, sysprep: bool) {
    let dir = dir();
    let copy = dir.path().join("guest").with_extension(guest.extension().unwrap_or_default());
    let text = copy.display().to_string();
    let fresh = || {
        for entry in std::fs::read_dir(dir.path()).expect("the folder").flatten() {
            let _ = std::fs::remove_file(entry.path());
        }
        prepare("cp", &["--sparse=always", &guest.display().to_string(), &text]);
        prepare("sync", &[&text]);
    };
    let words = |all: &[&str]| all.iter().map(|w| (*w).to_string()).collect::<Vec<_>>();
    let mut sides = vec![
        Side::new("cowshed sanitize", cowshed(), words(&["sanitize", "-q", &text])).before(fresh),
        Side::new("… without undo", cowshed(), words(&["sanitize", "-q", "--no-undo", &text])).before(fresh),
    ];
    if sysprep {
        sides.push(Side::new("virt-sysprep", "virt-sysprep", words(&["-q", "-a", &text])).before(fresh));
    }
    let name = guest.file_name().unwrap_or_default().to_string_lossy().into_owned();
    duel(&format!("sanitize {name}, fsync included"), rounds(5), &sides);
}

/// Bytes of the blocks of `after` that differ from those of `before`. Blocks that were wiped are not written but given back.
///
/// Read in pieces: what a bench has in memory counts for the programs it starts, too.
fn touched(before: &Path, after: &Path) -> usize {
    let (mut before, mut after) =
        (std::fs::File::open(before).expect("the image"), std::fs::File::open(after).expect("the image"));
    let (mut b, mut a, mut differ) = (vec![0; 1 << 20], vec![0; 1 << 20], 0);
    while before.read_exact(&mut b).is_ok() {
        after.read_exact(&mut a).expect("as long as the other");
        differ += b.chunks(4096).zip(a.chunks(4096)).filter(|(b, a)| b != a && a.iter().any(|x| *x != 0)).count();
    }
    differ * 4096
}

/// A guest with `count` files to delete. What is written into the image is held against the blocks that differ afterwards.
fn delete_many(kind: &str, count: usize) {
    let dir = dir();
    let (root, image, made) = (dir.path().join("root"), dir.path().join("guest.raw"), dir.path().join("made.raw"));
    for folder in ["etc", "usr/lib"] {
        std::fs::create_dir_all(root.join(folder)).expect("a folder");
    }
    std::fs::write(root.join("usr/lib/os-release"), "ID=test\n").expect("a file");
    std::fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").expect("a file");
    let (made_text, text) = (made.display().to_string(), image.display().to_string());
    let names = (0..count).map(|i| format!("a-file-of-middling-name-{i}"));
    if kind == "xfs" {
        let (proto, passwd) = (dir.path().join("proto"), root.join("etc/passwd").display().to_string());
        let release = root.join("usr/lib/os-release").display().to_string();
        let mut list = format!("/dev/null\n0 0\nd--755 0 0\netc d--755 0 0\npasswd ---644 0 0 {passwd}\n$\n");
        list += &format!("usr d--755 0 0\nlib d--755 0 0\nos-release ---644 0 0 {release}\n$\n$\ntmp d--777 0 0\n");
        names.for_each(|n| list += &format!("{n} ---644 0 0 {passwd}\n"));
        std::fs::write(&proto, list + "$\n$\n").expect("the list");
        prepare("truncate", &["-s", "512M", &made_text]);
        prepare("mkfs.xfs", &["-q", "-p", &proto.display().to_string(), &made_text]);
    } else {
        std::fs::create_dir_all(root.join("tmp")).expect("a folder");
        names.for_each(|n| std::fs::write(root.join("tmp").join(n), "something temporary\n").expect("a file"));
        prepare("mke2fs", &["-q", "-F", "-t", "ext4", "-b", "4096", "-d", &root.display().to_string(), &made_text, "512M"]);
    }
    let fresh = || {
        let _ = std::fs::remove_file(format!("{text}.sanitize-undo"));
        prepare("cp", &["--sparse=always", &made_text, &text]);
        prepare("sync", &[&text]);
    };
    let args = ["sanitize", "-q", &text].map(str::to_string).to_vec();
    let costs = duel(
        &format!("delete {count} files of a guest on {kind}, fsync included"),
        rounds(3),
        &[Side::new("cowshed sanitize", cowshed(), args).before(fresh)],
    );
    fresh();
    let out = Command::new(cowshed()).args(["sanitize", "--output", "json", &text]).output().expect("cowshed runs");
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).expect("a report");
    let touched = touched(&made, &image);
    let written = report["written"].as_u64().unwrap_or(u64::MAX);
    println!("written into the image: {written} bytes, {:.2} times the {touched} that differ", written as f64 / touched as f64);
    let seconds = costs.first().map_or(f64::MAX, |c| c.wall.as_secs_f64());
    if written as f64 > 2.0 * touched as f64 || seconds >= 2.0 {
        println!("MISSED: the target is 2 s, and twice what is touched");
    }
}
