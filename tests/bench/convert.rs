//! Conversions of a 4 GiB image that holds a real filesystem tree, beside qemu-img as typed and at its best, and beside the disk
//! itself. Durable at the end on every side: `qemu-img` is followed by `sync FILE`, cowshed flushes by itself.
//!
//! `cargo bench --bench convert -- [LINE…]` runs the lines whose names contain one of the words; `BENCH_WARM=1` keeps the caches.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_lossless, clippy::type_complexity)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Cost, Side, cowshed, dir, drop_caches, duel, prepare, rounds};

/// Files made once and kept below `target/bench-data`.
struct Data(PathBuf);

impl Data {
    /// The file `name`, made by `make` when it is not there yet.
    fn file(&self, name: &str, make: impl Fn(&str)) -> String {
        let path = self.0.join(name);
        if !path.exists() {
            eprintln!("making {name}");
            let partial = self.0.join("making");
            let _ = std::fs::remove_file(&partial);
            make(&partial.display().to_string());
            std::fs::rename(&partial, &path).expect("rename");
        }
        path.display().to_string()
    }

    /// A 4 GiB raw disk with an ext4 filesystem full of what `/usr` holds.
    fn raw(&self) -> String {
        self.file("raw.img", |out| {
            // It stops when it is full, which is what is wanted; a tree that is too small would show in the size below.
            let status = Command::new("mke2fs").args(["-q", "-t", "ext4", "-d", "/usr", out, "4G"]).status().expect("mke2fs");
            let used = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(out).expect("the image")) * 512;
            assert!(status.success() || used > 3 << 30, "mke2fs made only {used} bytes");
        })
    }

    /// The same disk in another format, made by qemu-img.
    fn image(&self, name: &str, args: &[&str]) -> String {
        let raw = self.raw();
        self.file(name, |out| prepare("qemu-img", &[&["convert", "-f", "raw"], args, &[&raw, out]].concat()))
    }

    /// A 1 TiB sparse disk with 100 MiB of data in a hundred places.
    fn sparse(&self) -> String {
        let raw = self.raw();
        self.file("sparse.img", |out| {
            prepare("truncate", &["-s", "1T", out]);
            for i in 0..100u64 {
                let (skip, seek) = (format!("skip={}", i * 20), format!("seek={}", i * 10_000));
                let (from, to) = (format!("if={raw}"), format!("of={out}"));
                prepare("dd", &[&from, &to, "bs=1M", "count=1", &skip, &seek, "conv=notrunc", "status=none"]);
            }
        })
    }
}

struct Line {
    name: &'static str,
    /// What is converted.
    source: String,
    /// Arguments for both programs, source format and target format among them.
    args: &'static [&'static str],
}

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench-data");
    std::fs::create_dir_all(&root).expect("the folder for data");
    let data = Data(root);
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let wanted = |name: &str| words.is_empty() || words.iter().any(|w| name.contains(w.as_str()));
    let all: [(&str, &dyn Fn() -> String, &[&str]); 10] = [
        ("qcow2-raw", &|| data.image("plain.qcow2", &["-O", "qcow2"]), &["-f", "qcow2", "-O", "raw"]),
        ("zlib-raw", &|| data.image("zlib.qcow2", &["-c", "-W", "-m", "4", "-O", "qcow2"]), &["-f", "qcow2", "-O", "raw"]),
        ("raw-qcow2", &|| data.raw(), &["-f", "raw", "-O", "qcow2"]),
        ("vmdk-qcow2", &|| data.image("plain.vmdk", &["-O", "vmdk"]), &["-f", "vmdk", "-O", "qcow2"]),
        ("vhdx-qcow2", &|| data.image("plain.vhdx", &["-O", "vhdx"]), &["-f", "vhdx", "-O", "qcow2"]),
        ("qcow2-zlib", &|| data.image("plain.qcow2", &["-O", "qcow2"]), &["-f", "qcow2", "-c", "-O", "qcow2"]),
        (
            "qcow2-zstd",
            &|| data.image("plain.qcow2", &["-O", "qcow2"]),
            &["-f", "qcow2", "-c", "-O", "qcow2", "-o", "compression_type=zstd"],
        ),
        ("sparse-raw", &|| data.sparse(), &["-f", "raw", "-O", "raw"]),
        ("sparse-qcow2", &|| data.sparse(), &["-f", "raw", "-O", "qcow2"]),
        ("raw-raw", &|| data.raw(), &["-f", "raw", "-O", "raw"]),
    ];
    for (name, source, args) in all {
        if wanted(name) {
            line(&Line { name, source: source(), args });
        }
    }
}

fn line(line: &Line) {
    let warm = std::env::var_os("BENCH_WARM").is_some();
    let dir = dir();
    let out = dir.path().join("out").display().to_string();
    let args = |more: &[&str]| -> Vec<String> {
        let files = [line.source.as_str(), out.as_str()];
        let words = ["convert"].iter().chain(line.args).chain(more).chain(&files);
        words.map(|w| (*w).to_string()).collect()
    };
    let sizes = std::cell::RefCell::new(Vec::new());
    let before = || {
        if let Ok(meta) = std::fs::metadata(&out) {
            sizes.borrow_mut().push(std::os::unix::fs::MetadataExt::blocks(&meta) * 512);
        }
        let _ = std::fs::remove_file(&out);
        if !warm {
            drop_caches();
        }
    };
    let sync = || prepare("sync", &[&out]);
    let limit =
        vec![format!("if={}", line.source), format!("of={out}"), "bs=4M".into(), "iflag=direct".into(), "oflag=direct".into()];
    let best = ["-W", "-m", "16", "-T", "none", "-t", "none"];
    let mut sides = vec![
        Side::new("cowshed", cowshed(), args(&[])).before(before),
        Side::new("qemu-img typed", "qemu-img", args(&[])).before(before).after(sync),
        Side::new("qemu-img best", "qemu-img", args(&best)).before(before).after(sync),
    ];
    // Reading all of the source and writing as much: what the disk can do. Meaningless where the source is mostly a hole.
    if !line.name.contains("sparse") {
        sides.push(Side::new("dd, direct", "dd", limit).before(before).after(sync));
    }
    let title = format!("{}, {} caches", line.name, if warm { "warm" } else { "cold" });
    let medians = duel(&title, rounds(3), &sides);
    if let [ours, typed, best, ..] = medians[..] {
        let seconds = |c: Cost| c.wall.as_secs_f64();
        println!(
            "{:.2} times as fast as the faster of both, {:.2} of the typed one's CPU time; outputs {} MiB",
            seconds(typed).min(seconds(best)) / seconds(ours),
            ours.cpu.as_secs_f64() / typed.cpu.as_secs_f64(),
            sizes.borrow().iter().map(|s| (s >> 20).to_string()).collect::<Vec<_>>().join(" "),
        );
    }
}
