//! Scanning 10,000 small images of mixed formats, warm: everything read, and again with the cache, beside one `qemu-img info` per
//! image. The reference tool is timed on a sample of 200 spread over all, and its time scaled to 10,000.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_lossless)]

mod common;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Side, cowshed, dir, duel, prepare, rounds};

const IMAGES: usize = 10_000;
const SAMPLE: usize = 200;

fn main() {
    let dir = dir();
    let templates = templates(&dir.path().join("templates"));
    let library = dir.path().join("library");
    let images: Vec<PathBuf> = (0..IMAGES).map(|i| templates[i % templates.len()].copy(&library, i)).collect();
    println!("{IMAGES} images of {} kinds", templates.len());
    let list = dir.path().join("sample");
    let sample: Vec<String> = images.iter().step_by(IMAGES / SAMPLE).map(|p| p.display().to_string()).collect();
    std::fs::write(&list, sample.join("\n")).expect("the sample");

    let scan = |cached: bool| {
        let (library, cache) = (&library, dir.path().join("cache"));
        move || {
            let mut c = Command::new(cowshed());
            c.arg("scan").args((!cached).then_some("--no-cache")).arg(library).env("XDG_CACHE_HOME", &cache);
            c
        }
    };
    let found = scan(true)().output().expect("cowshed runs").stdout;
    let total = String::from_utf8_lossy(&found).lines().last().unwrap_or_default().to_string();
    assert!(total.starts_with(&format!("{IMAGES} images;")), "{total}");

    println!(
        "cached, the engine alone (median of 21): {:.1} ms",
        rescan(&library, &dir.path().join("cache/cowshed/library")) * 1e3
    );

    let nothing = || Box::new(|| ()) as Box<dyn Fn()>;
    let sides = [
        Side { name: "cowshed scan, all read", command: Box::new(scan(false)), before: nothing(), after: nothing() },
        Side { name: "cowshed scan, cached", command: Box::new(scan(true)), before: nothing(), after: nothing() },
        Side::new(
            "200 x qemu-img info",
            "xargs",
            ["-a", &list.display().to_string(), "-n1", "qemu-img", "info"].map(String::from).to_vec(),
        ),
    ];
    let medians = duel("scan of 10,000 small images of mixed formats, warm caches", rounds(5), &sides);
    if let [read, cached, theirs] = medians[..] {
        let scaled = theirs.wall.as_secs_f64() * (IMAGES / SAMPLE) as f64;
        println!("qemu-img info for all {IMAGES}, scaled from the sample: {scaled:.1} s");
        println!("all read: {:.0} times as fast", scaled / read.wall.as_secs_f64());
        println!("cached: {:.1} ms, {:.0} times as fast", cached.wall.as_secs_f64() * 1e3, scaled / cached.wall.as_secs_f64());
    }
}

/// Seconds that a rescan takes in the engine, from reading the cache to a joined library, as the workbench does it.
fn rescan(root: &Path, cache: &Path) -> f64 {
    use cowshed::engine::library::{Library, ScanOptions, scan};
    let options = ScanOptions { roots: vec![root.to_path_buf()], cache: Some(cache.to_path_buf()), ..ScanOptions::default() };
    let mut library = Library::new();
    let once = |library: &mut Library| {
        let start = std::time::Instant::now();
        scan(&options, &std::sync::atomic::AtomicBool::new(false), |event| library.apply(event)).expect("the scan");
        library.relink();
        start.elapsed().as_secs_f64()
    };
    let mut times: Vec<f64> = (0..21).map(|_| once(&mut library)).collect();
    assert_eq!(library.progress.cached, IMAGES as u64, "every image comes from the cache");
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// An image to copy: its name, its length, and the blocks of it that are not all zeros.
struct Template {
    name: &'static str,
    len: u64,
    blocks: Vec<(u64, Vec<u8>)>,
}

/// One image of each kind, as qemu-img makes them.
fn templates(dir: &Path) -> Vec<Template> {
    std::fs::create_dir_all(dir).expect("a folder");
    let kinds: &[(&str, &str, &[&str])] = &[
        ("a.qcow2", "qcow2", &[]),
        ("b.qcow2", "qcow2", &["-o", "compat=0.10"]),
        ("c.qcow2", "qcow2", &["-o", "extended_l2=on"]),
        ("d.qcow", "qcow", &[]),
        ("e.vmdk", "vmdk", &[]),
        ("f.vmdk", "vmdk", &["-o", "subformat=streamOptimized"]),
        ("g.vdi", "vdi", &[]),
        ("h.vhd", "vpc", &[]),
        ("i.vhd", "vpc", &["-o", "subformat=fixed"]),
        ("j.vhdx", "vhdx", &[]),
        ("k.raw", "raw", &[]),
        ("l.qed", "qed", &[]),
    ];
    let make = |(name, format, options): &(&'static str, &str, &[&str])| {
        let path = dir.join(name).display().to_string();
        prepare("qemu-img", &[&["create", "-q", "-f", format], *options, &[&path, "64M"]].concat());
        let bytes = std::fs::read(&path).expect("a template");
        let blocks = bytes.chunks(4096).enumerate().filter(|(_, b)| b.iter().any(|x| *x != 0));
        Template { name, len: bytes.len() as u64, blocks: blocks.map(|(n, b)| (n as u64 * 4096, b.to_vec())).collect() }
    };
    kinds.iter().map(make).collect()
}

impl Template {
    /// A copy whose zeros are holes, a hundred images to a folder. What is read is the same; the disk is not filled.
    fn copy(&self, library: &Path, i: usize) -> PathBuf {
        let folder = library.join(format!("{:03}", i / 100));
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join(format!("{i:05}-{}", self.name));
        let file = std::fs::File::create(&path).expect("a copy");
        file.set_len(self.len).expect("its length");
        for (offset, block) in &self.blocks {
            file.write_all_at(block, *offset).expect("its bytes");
        }
        path
    }
}
