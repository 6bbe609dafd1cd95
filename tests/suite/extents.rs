//! Extents and cells of real images: against what qemu-img maps, and in bounded time and memory for the largest disks.

use std::path::Path;
use std::time::Instant;

use cowshed::engine::chain::{Chain, Disk, OpenOptions};
use cowshed::engine::extents::downsample;
use cowshed::engine::model::Kind;
use serde_json::Value;

use crate::common::{dir, noise, qemu_img, qemu_io, run, s};

fn disk(path: &Path) -> Disk {
    Chain::open(path, &OpenOptions::default()).unwrap().disk().unwrap()
}

/// (start, length, depth, present, zero, data, compressed) of each line of qemu-img's map.
fn qemu_map(path: &Path) -> Vec<(u64, u64, u64, bool, bool, bool, bool)> {
    let out = run("qemu-img", &["map", "--output=json", s(path)]);
    let all: Vec<Value> = serde_json::from_slice(&out.stdout).unwrap();
    let n = |v: &Value, k: &str| v[k].as_u64().unwrap();
    let b = |v: &Value, k: &str| v[k].as_bool().unwrap();
    all.iter()
        .map(|v| {
            let flags = (b(v, "present"), b(v, "zero"), b(v, "data"), b(v, "compressed"));
            (n(v, "start"), n(v, "length"), n(v, "depth"), flags.0, flags.1, flags.2, flags.3)
        })
        .collect()
}

/// An overlay of three kinds of clusters over a compressed base.
fn chain(cwd: &Path) -> std::path::PathBuf {
    std::fs::write(cwd.join("content.raw"), [noise(1, 1 << 20), vec![0; 1 << 20], vec![7; 1 << 20]].concat()).unwrap();
    let (base, top) = (cwd.join("base.qcow2"), cwd.join("top.qcow2"));
    run("qemu-img", &["convert", "-c", "-O", "qcow2", s(&cwd.join("content.raw")), s(&base)]);
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", s(&top), "8M"]);
    qemu_io("qcow2", &top, &["write -P 9 100k 300k", "write -z 2M 128k", "write -P 9 6M 1M"]);
    top
}

#[test]
fn cells_add_up_to_qemu_imgs_map() {
    let dir = dir();
    let top = chain(dir.path());
    let disk = disk(&top);
    let map = qemu_map(&top);
    for (start, end) in [(0, u64::MAX), (70_000, 2_500_000), (7 << 20, 8 << 20)] {
        for count in [1, 7, 80, 1000] {
            let cells = downsample(&disk, start, end, count, &|| false).unwrap();
            assert_eq!(cells.cells.len(), count);
            for (i, cell) in cells.cells.iter().enumerate() {
                let (from, to) = cells.range(i);
                // What of qemu-img's line `m` lies in the cell, if it is of the kind asked for.
                let count = |is: &dyn Fn(bool, bool, bool, bool) -> bool| -> u64 {
                    let part = |m: &&(u64, u64, u64, bool, bool, bool, bool)| is(m.3, m.4, m.5, m.6);
                    map.iter().filter(part).map(|m| (m.0 + m.1).min(to).saturating_sub(m.0.max(from))).sum()
                };
                assert_eq!(cell.totals.data, count(&|_, _, data, packed| data && !packed), "cell {i}");
                assert_eq!(cell.totals.compressed, count(&|_, _, _, packed| packed));
                assert_eq!(cell.totals.zero, count(&|present, zero, data, _| present && zero && !data));
                assert_eq!(cell.totals.unallocated, count(&|present, _, _, _| !present));
                for depth in 0..2 {
                    let theirs: u64 = map
                        .iter()
                        .filter(|m| m.2 == depth && (m.5 || m.6))
                        .map(|m| (m.0 + m.1).min(to).saturating_sub(m.0.max(from)))
                        .sum();
                    assert_eq!(cell.by_depth.get(depth as usize).copied().unwrap_or(0), theirs, "depth {depth}");
                }
            }
        }
    }
}

#[test]
fn a_64_tib_disk_is_seen_at_once() {
    let dir = dir();
    let path = dir.path().join("huge.qcow2");
    qemu_img(&format!("create -q -f qcow2 -o cluster_size=2M {} 64T", path.display()));
    qemu_io("qcow2", &path, &["write -P 1 0 64k", "write -P 1 32T 4M", "write -z 63T 1G"]);
    let raw = dir.path().join("huge.raw");
    // As large as this filesystem lets a file be, up to 8 TiB.
    let size =
        [8u64 << 40, 1 << 40, 1 << 34].into_iter().find(|&n| std::fs::File::create(&raw).unwrap().set_len(n).is_ok()).unwrap();
    let start = Instant::now();
    let map = downsample(&disk(&path), 0, u64::MAX, 4000, &|| false).unwrap();
    assert_eq!((map.end, map.total.totals.all(), map.cells.len()), (64 << 40, 64 << 40, 4000));
    assert_eq!((map.total.totals.data, map.total.totals.zero), ((2 << 20) + (4 << 20), 1 << 30));
    assert_eq!(map.cells[2000].totals.data, 4 << 20);
    // A window of it.
    let window = downsample(&disk(&path), 32 << 40, (32 << 40) + (8 << 20), 8, &|| false).unwrap();
    let kinds: Vec<_> = window.cells.iter().map(|c| c.totals.data > 0).collect();
    assert_eq!(kinds, [true, true, true, true, false, false, false, false]);
    let raw = downsample(&disk(&raw), 0, u64::MAX, 4000, &|| false).unwrap();
    assert_eq!((raw.total.totals.zero, raw.total.totals.data), (size, 0));
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}

#[test]
fn merged_extents_lie_side_by_side_and_say_where_bytes_are() {
    let dir = dir();
    let top = chain(dir.path());
    let disk = disk(&top);
    let mut at = 0;
    let mut last = None;
    for extent in disk.extents(0, u64::MAX) {
        let extent = extent.unwrap();
        assert_eq!(extent.offset, at);
        at += extent.len;
        let sort = (extent.kind, extent.depth, extent.place.is_some());
        assert!(extent.kind == Kind::Compressed || extent.kind == Kind::Data || last != Some(sort), "{extent:?} was not merged");
        last = Some(sort);
        if let (Kind::Data, Some(place)) = (extent.kind, extent.place) {
            let mut bytes = vec![0; 512];
            disk.files(extent.depth)[place.file].read_at(place.offset, &mut bytes).unwrap();
            let mut shown = vec![0; 512];
            disk.read_extent(&extent, extent.offset, &mut shown).unwrap();
            assert_eq!(bytes, shown);
        }
    }
    assert_eq!(at, 8 << 20);
}

#[test]
fn beyond_the_end_there_is_one_entry_of_nothing() {
    let dir = crate::common::dir();
    for (name, size) in [("a", "1M"), ("empty", "0")] {
        let path = dir.path().join(name);
        crate::common::qemu_img(&format!("create -q -f qcow2 {} {size}", crate::common::s(&path)));
        for start in ["0", "1M", "2M"] {
            let args = ["map", "--output=json", "-s", start, crate::common::s(&path)];
            let theirs = crate::common::run("qemu-img", &args).stdout;
            let theirs: serde_json::Value = serde_json::from_slice(&theirs).unwrap();
            let ours: serde_json::Value = serde_json::from_slice(&crate::common::cowshed(&args).stdout).unwrap();
            assert_eq!(ours, theirs, "{name} {start}");
        }
    }
}
