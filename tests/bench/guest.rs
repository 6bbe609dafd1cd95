//! Looking into real guests and sanitising them, warm, fsync included. `BENCH_GUESTS` names the folder that
//! `build_guests.sh` filled (raw and qcow2 side by side); where virt-sysprep can run, it runs beside ours on the same image.
//!
//! `BENCH_GUESTS=DIR cargo bench --bench guest -- [WORD…]` takes the guests whose names contain one of the words.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_lossless)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Side, cowshed, dir, duel, prepare, rounds};

fn main() {
    let Some(folder) = std::env::var_os("BENCH_GUESTS") else {
        println!("set BENCH_GUESTS to a folder of guests made by build_guests.sh");
        return;
    };
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
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
