//! Internal snapshots: what they cost is what deleting them gives back.

use std::path::Path;

use crate::common::{cowshed, dir, qemu_img, qemu_io, s, text};

/// Clusters with a refcount above zero, read straight from the refcount table (16-bit counts), in bytes.
fn counted(image: &Path) -> u64 {
    let b = std::fs::read(image).unwrap();
    let word = |at: usize| b.get(at..at + 8).map_or(0, |w| u64::from_be_bytes(w.try_into().unwrap()));
    let bits = u32::from_be_bytes(b[20..24].try_into().unwrap());
    let (table, clusters) = (word(48) as usize, u32::from_be_bytes(b[56..60].try_into().unwrap()) as usize);
    let mut n = 0;
    for i in 0..(clusters << bits) / 8 {
        let block = word(table + i * 8) as usize;
        if block != 0 {
            n += b[block..block + (1 << bits)].chunks(2).filter(|c| **c != [0, 0]).count() as u64;
        }
    }
    n << bits
}

fn shares(image: &Path) -> Vec<(String, u64)> {
    let out = cowshed(&["info", "--output=json", s(image)]);
    let v: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let list = v["snapshots"].as_array().unwrap();
    list.iter().map(|s| (s["name"].as_str().unwrap().to_string(), s["exclusive-size"].as_u64().unwrap())).collect()
}

fn sample(image: &Path, options: &str) {
    qemu_img(&format!("create -q -f qcow2 {options} {} 128M", s(image)));
    qemu_io("qcow2", image, &["write -P 1 0 8M", "write -P 1 70M 3M"]);
    for (n, write) in ["write -P 2 1M 2M", "write -P 3 2M 4M", "write -P 4 100M 1M", "discard 0 1M"].iter().enumerate() {
        qemu_img(&format!("snapshot -c s{n} {}", s(image)));
        qemu_io("qcow2", image, &[write]);
    }
}

#[test]
fn what_a_snapshot_holds_alone_is_what_deleting_it_frees() {
    let d = dir();
    for options in ["", "-o cluster_size=4k", "-o compat=0.10", "-o extended_l2=on"] {
        let image = d.path().join("x.qcow2");
        let _ = std::fs::remove_file(&image);
        sample(&image, options);
        for (name, promised) in shares(&image) {
            let copy = d.path().join("copy.qcow2");
            std::fs::copy(&image, &copy).unwrap();
            qemu_img(&format!("snapshot -d {name} {}", s(&copy)));
            assert_eq!(counted(&image) - counted(&copy), promised, "{options}: {name}");
        }
    }
}

#[test]
fn a_set_frees_more_than_its_members_alone() {
    let d = dir();
    let image = d.path().join("x.qcow2");
    sample(&image, "");
    let alone: Vec<u64> = shares(&image).iter().map(|(_, n)| *n).collect();
    for set in [vec![1, 2], vec![0, 1, 2, 3], vec![0, 3]] {
        let together = cowshed::engine::ops::snapshot::freed_by(&image, &set).unwrap();
        let copy = d.path().join("copy.qcow2");
        std::fs::copy(&image, &copy).unwrap();
        for n in &set {
            qemu_img(&format!("snapshot -d s{n} {}", s(&copy)));
        }
        assert_eq!(counted(&image) - counted(&copy), together, "{set:?}");
        assert!(together >= set.iter().map(|n| alone[*n]).sum::<u64>());
    }
}

#[test]
fn compressed_clusters_that_share_a_host_cluster_are_freed_together() {
    let d = dir();
    let (raw, image) = (d.path().join("a.raw"), d.path().join("x.qcow2"));
    std::fs::write(&raw, text(1, 16 << 20)).unwrap();
    qemu_img(&format!("convert -c -O qcow2 {} {}", s(&raw), s(&image)));
    qemu_img(&format!("snapshot -c packed {}", s(&image)));
    qemu_io("qcow2", &image, &["write -P 9 0 10M"]);
    let (name, promised) = shares(&image).remove(0);
    let copy = d.path().join("copy.qcow2");
    std::fs::copy(&image, &copy).unwrap();
    qemu_img(&format!("snapshot -d {name} {}", s(&copy)));
    assert_eq!(counted(&image) - counted(&copy), promised);
    assert!(promised > 0);
}
