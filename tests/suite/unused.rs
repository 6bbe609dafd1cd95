//! Wiping what a qcow2 file stores where nothing refers to: gone from its bytes, and neither content nor soundness changes for QEMU.

use std::path::Path;
use std::sync::Arc;

use cowshed::engine::format::write::{DiskWriter, WriteSource};
use cowshed::engine::format::{Format, Source};
use cowshed::engine::io::file::FileDevice;
use cowshed::engine::io::gate::Gate;

use crate::common::{dir, noise, qemu_img, qemu_io, run, s};

const CLUSTER: u64 = 65536;

fn open(path: &Path) -> Arc<dyn DiskWriter> {
    let dev = Arc::new(FileDevice::open_rw(path).unwrap());
    let source = Source { dev: dev.clone(), path: path.to_path_buf(), gate: Gate::closed() };
    Format::Qcow2.entry().open_write.unwrap()(WriteSource::alone(dev, source)).unwrap()
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Where the first L2 table of the image is: by the specification, from the L1 table's first entry.
fn l2(bytes: &[u8]) -> usize {
    (be64(bytes, be64(bytes, 40) as usize) & 0x00ff_ffff_ffff_fe00) as usize
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|w| w == part)
}

#[test]
fn between_compressed_units_nothing_old_is_left() {
    let d = dir();
    let (raw, image) = (d.path().join("a.raw"), d.path().join("a.qcow2"));
    // Noise of few values: it shrinks to some 20 KiB a cluster, so that host clusters hold several units.
    let mut disk: Vec<u8> = noise(5, 40 * CLUSTER as usize).iter().map(|b| b & 3).collect();
    std::fs::write(&raw, &disk).unwrap();
    qemu_img(&format!("convert -c -O qcow2 {} {}", s(&raw), s(&image)));
    let bytes = std::fs::read(&image).unwrap();
    // Offset and sectors of each unit: compressed cluster descriptors of 64 KiB clusters.
    let units: Vec<Vec<u8>> = (0..40)
        .map(|i| {
            let entry = be64(&bytes, l2(&bytes) + i * 8);
            assert_ne!(entry >> 62 & 1, 0, "not compressed");
            let (offset, sectors) = ((entry & ((1 << 54) - 1)) as usize, (entry >> 54 & 0xff) as usize);
            bytes[offset + 1024..offset + (sectors - 2) * 512].to_vec()
        })
        .collect();
    let writer = open(&image);
    for i in [3u64, 10, 11, 25] {
        let new = vec![i as u8; CLUSTER as usize];
        writer.write(i * CLUSTER, &new).unwrap();
        disk[(i * CLUSTER) as usize..][..CLUSTER as usize].copy_from_slice(&new);
    }
    writer.finish().unwrap();
    let now = std::fs::read(&image).unwrap();
    assert!([3, 10, 11, 25].iter().any(|i| holds(&now, &units[*i])), "nothing to wipe: the test shows nothing");
    assert!(writer.wipe_unused().unwrap() > 0);
    assert_eq!(writer.wipe_unused().unwrap(), 0, "a second time there is nothing");
    drop(writer);
    let now = std::fs::read(&image).unwrap();
    for (i, unit) in units.iter().enumerate() {
        assert_eq!(holds(&now, unit), ![3, 10, 11, 25].contains(&i), "unit {i}");
    }
    run("qemu-img", &["check", s(&image)]);
    std::fs::write(&raw, &disk).unwrap();
    qemu_img(&format!("compare {} {}", s(&raw), s(&image)));
}

#[test]
fn a_lost_cluster_is_wiped_unless_the_image_is_damaged() {
    let d = dir();
    let image = d.path().join("a.qcow2");
    qemu_img(&format!("create -f qcow2 {} 4M", s(&image)));
    for (i, pattern) in [(0, "0x11"), (1, "0x5a"), (2, "0x33")] {
        qemu_io("qcow2", &image, &[&format!("write -P {pattern} {}k 64k", i * 64)]);
    }
    // The tables let go of the second cluster, and its count stays: what a cut leaves.
    let mut bytes = std::fs::read(&image).unwrap();
    let at = l2(&bytes) + 8;
    bytes[at..at + 8].fill(0);
    std::fs::write(&image, &bytes).unwrap();
    let secret = [0x5a; CLUSTER as usize];
    assert!(holds(&bytes, &secret));
    // Something else is wrong too: nobody knows whose the cluster is.
    let mut damaged = bytes.clone();
    let at = l2(&bytes) + 16;
    let first = be64(&bytes, l2(&bytes));
    damaged[at..at + 8].copy_from_slice(&first.to_be_bytes());
    let other = d.path().join("b.qcow2");
    std::fs::write(&other, &damaged).unwrap();
    assert_eq!(open(&other).wipe_unused().unwrap(), 0);
    assert!(std::fs::read(&other).unwrap() == damaged);
    // Only lost: gone.
    assert_eq!(open(&image).wipe_unused().unwrap(), CLUSTER);
    assert!(!holds(&std::fs::read(&image).unwrap(), &secret[..512]));
    qemu_io("qcow2", &image, &["read -P 0x11 0 64k", "read -P 0 64k 64k", "read -P 0x33 128k 64k"]);
    let said = std::process::Command::new("qemu-img").args(["check", s(&image)]).output().unwrap();
    assert_eq!(said.status.code(), Some(3), "still a leak, which is for a repair to give back");
}

/// A writer that is gone before it said where its blocks are.
#[test]
fn blocks_that_no_table_names_are_wiped_in_every_other_format() {
    const SECRET: u8 = 0x5a;
    let d = dir();
    for (format, kept, lost) in [
        (Format::Vdi, 1 << 20, 5 << 20),
        (Format::Vhd, 2 << 20, 6 << 20),
        (Format::Vhdx, 8 << 20, 40 << 20),
        (Format::Vmdk, 1 << 20, 5 << 20),
    ] {
        let image = d.path().join(format!("a.{}", format.name()));
        let block = noise(9, 70_000);
        let writer = crate::common::create(format, &image, 64 << 20, &[], None);
        writer.write(kept, &block).unwrap();
        writer.finish().unwrap();
        drop(writer);
        let before = crate::common::content(&image);
        // Nobody flushes; then somebody goes on behind it.
        crate::common::open_writer(&image).write(lost, &[SECRET; 65536]).unwrap();
        assert!(holds(&std::fs::read(&image).unwrap(), &[SECRET; 512]), "{format}: nothing is lost: the test shows nothing");
        assert!(crate::common::content(&image) == before, "{format}");
        let writer = crate::common::open_writer(&image);
        assert!(writer.wipe_unused().unwrap() > 0, "{format}");
        assert_eq!(writer.wipe_unused().unwrap(), 0, "{format}: a second time there is nothing");
        writer.write(lost + (4 << 20), &block).unwrap();
        writer.finish().unwrap();
        // Of a VHD's footer, which has moved on, there may be some bytes.
        assert!(writer.wipe_unused().unwrap() < 4096, "{format}: what was just written is used");
        drop(writer);
        assert!(!holds(&std::fs::read(&image).unwrap(), &[SECRET; 64]), "{format}");
        let mut expected = before;
        expected[lost as usize + (4 << 20)..][..block.len()].copy_from_slice(&block);
        assert!(crate::common::content(&image) == expected, "{format}");
        let qemu = if format == Format::Vhd { "vpc" } else { format.name() };
        assert!(crate::common::qemu_content(qemu, &image)[..expected.len()] == expected[..], "{format}: as qemu-img reads it");
    }
}
