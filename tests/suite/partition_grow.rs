//! Changing partition tables for another disk size: `sfdisk` makes the tables and judges what became of them; the power is cut at
//! every write.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use cowshed::engine::guest::partition::grow::{grow_last, move_backup};
use cowshed::engine::guest::partition::{PartitionTable, TableKind, read};
use cowshed::engine::io::WriteAt;
use cowshed::engine::io::fault::{Faulty, power_cuts};
use cowshed::engine::io::memory::Memory;

use crate::common::{cowshed_in, dir, qemu_img, run, s};

const MIB: usize = 1 << 20;

/// A disk of `size` bytes with the table that `script` (sfdisk's own language) describes.
fn disk(dir: &Path, size: usize, script: &str) -> Vec<u8> {
    use std::io::Write;
    let path = dir.join("disk.raw");
    std::fs::write(&path, vec![0u8; size]).unwrap();
    let mut child = Command::new("sfdisk")
        .args(["-q", s(&path)])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("sfdisk cannot be run ({e}): tests/run installs it"));
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    std::fs::read(path).unwrap()
}

/// What sfdisk says of the table in `bytes`: that it is sound, and its partitions.
fn judged(dir: &Path, bytes: &[u8]) -> serde_json::Value {
    let path = dir.join("judged.raw");
    std::fs::write(&path, bytes).unwrap();
    let out = run("sfdisk", &["--verify", s(&path)]);
    let told = [out.stdout, out.stderr].map(|b| String::from_utf8_lossy(&b).into_owned()).concat();
    assert!(told.contains("No errors detected"), "{told}");
    serde_json::from_slice(&run("sfdisk", &["-J", s(&path)]).stdout).unwrap()
}

fn table(bytes: Vec<u8>) -> PartitionTable {
    read(&Memory::new(bytes)).unwrap().expect("there is a table")
}

const GPT: &str = "label: gpt\nstart=2048, size=4096, name=boot\nsize=8192, name=root\n";

#[test]
fn the_backup_gpt_moves_to_the_new_end_and_back() {
    let dir = dir();
    let old = disk(dir.path(), 16 * MIB, GPT);
    for size in [16 * MIB + 512, 16 * MIB + 8192, 24 * MIB, 15 * MIB, 16 * MIB - 512] {
        let mut before = old.clone();
        before.resize(size.max(old.len()), 0);
        let dev = Faulty::new(before.clone());
        let edits = move_backup(dev.as_ref(), size as u64).unwrap().expect("it is not at the end");
        edits.apply(dev.as_ref()).unwrap();
        let was = table(old.clone());
        power_cuts(&before, &dev.record(), |state, bytes| {
            let now = table(bytes);
            assert_eq!((now.kind, &now.partitions, &now.id), (TableKind::Gpt, &was.partitions, &was.id), "{size}: {state}");
        });
        let mut after = dev.to_vec();
        after.truncate(size);
        assert_eq!(judged(dir.path(), &after)["partitiontable"]["partitions"].as_array().unwrap().len(), 2);
        let now = table(after.clone());
        assert!(now.problems.is_empty(), "{size}: {:?}", now.problems);
        assert_eq!(now.backup_header, Some(size as u64 / 512 * 512 - 512));
        // Nothing is left to do, and no header that nobody points to is left.
        assert_eq!(move_backup(&Memory::new(after.clone()), size as u64).unwrap(), None);
        assert_eq!(after.chunks(512).filter(|c| c.starts_with(b"EFI PART")).count(), 2, "{size}");
    }
}

#[test]
fn what_cannot_be_moved_is_refused_before_anything_is_written() {
    let dir = dir();
    let old = disk(dir.path(), 16 * MIB, GPT);
    // The second partition ends at 7 MiB; the entries of the backup would lie in it.
    let e = move_backup(&Memory::new(old.clone()), 7 * MIB as u64).unwrap_err();
    assert!(e.why().contains("partition 2 does not fit"), "{e}");
    let mut torn = old.clone();
    torn[512 + 40] ^= 1;
    let e = move_backup(&Memory::new(torn), 24 * MIB as u64).unwrap_err();
    assert!(e.why().contains("primary GPT is damaged"), "{e}");
    assert_eq!(move_backup(&Memory::new(vec![0; MIB]), 24 * MIB as u64).unwrap(), None);
}

#[test]
fn the_last_partition_grows_or_stays_as_it_was() {
    let dir = dir();
    let logical = "label: dos\nstart=2048, size=4096, type=83\nstart=6144, size=14336, type=5\n\
                   start=8192, size=2048, type=83\nstart=12288, size=4096, type=83\n";
    for (name, script, number, start) in [
        ("gpt", GPT, 2, 6144),
        ("mbr", "label: dos\nstart=2048, size=4096, type=83\nstart=8192, size=8192, type=83\n", 2, 8192),
        ("logical", logical, 6, 12288),
    ] {
        let old = disk(dir.path(), 16 * MIB, script);
        let mut before = old.clone();
        before.resize(32 * MIB, 0);
        let dev = Faulty::new(before.clone());
        let grown = grow_last(dev.as_ref(), 32 * MIB as u64).unwrap().expect("there is room");
        assert_eq!((grown.partition.number, grown.partition.start), (number, start * 512), "{name}");
        grown.edits.apply(dev.as_ref()).unwrap();
        let after = dev.to_vec();
        let (was, is) = (table(old), table(after.clone()));
        let end = if name == "gpt" { 31 * MIB } else { 32 * MIB } as u64;
        assert_eq!(is.last().map(|p| (p.number, p.start, p.end())), Some((number, start * 512, end)), "{name}");
        assert_eq!(is.last().unwrap().len, grown.len);
        assert!(is.problems.is_empty(), "{name}: {:?}", is.problems);
        let volumes = |t: &PartitionTable| t.partitions.iter().filter(|p| !p.extended).cloned().collect::<Vec<_>>();
        power_cuts(&before, &dev.record(), |state, bytes| {
            let now = volumes(&table(bytes));
            assert!(now == volumes(&was) || now == volumes(&is), "{name}: {state}: {now:?}");
        });
        let said = judged(dir.path(), &after);
        let parts = said["partitiontable"]["partitions"].as_array().unwrap();
        let last = parts.iter().find(|p| p["start"] == start).expect("sfdisk sees it");
        assert_eq!(last["size"].as_u64().unwrap() * 512, grown.len, "{name}");
        assert_eq!(grow_last(&Memory::new(after), 32 * MIB as u64).unwrap(), None, "{name}");
    }
}

#[test]
fn resize_moves_it_inside_any_format() {
    let dir = dir();
    let cwd = dir.path();
    let raw = disk(cwd, 16 * MIB, GPT);
    for format in ["raw", "qcow2", "vmdk", "vdi", "vhdx"] {
        let image = format!("a.{format}");
        qemu_img(&format!("convert -f raw -O {format} {} {}", s(&cwd.join("disk.raw")), s(&cwd.join(&image))));
        for (to, len) in [("24M", 24 * MIB), ("12M", 12 * MIB)] {
            let plan = cowshed_in(cwd, &["resize", "--dry-run", "--shrink", "-f", format, &image, to]);
            assert!(String::from_utf8_lossy(&plan.stdout).contains("--move-gpt"), "{format} {to}");
            let out = cowshed_in(cwd, &["resize", "--shrink", "--move-gpt", "-f", format, &image, to]);
            assert!(out.status.success(), "{format} {to}: {}", String::from_utf8_lossy(&out.stderr));
            assert_eq!(out.stderr, b"", "{format} {to}");
            let now = crate::common::content(&cwd.join(&image));
            assert_eq!(now.len(), len);
            judged(cwd, &now);
            assert_eq!(table(now).partitions, table(raw.clone()).partitions);
        }
    }
    // Without the flag the table is left as it is, and the person is told.
    let out = cowshed_in(cwd, &["resize", "-f", "qcow2", "a.qcow2", "20M"]);
    assert!(String::from_utf8_lossy(&out.stderr).contains("--move-gpt"));
    let problems = table(crate::common::content(&cwd.join("a.qcow2"))).problems;
    assert!(problems.iter().any(|p| p.contains("not at the end")), "{problems:?}");
}

#[test]
fn edits_reach_a_device_in_their_order() {
    let dir = dir();
    let mut bytes = disk(dir.path(), 16 * MIB, GPT);
    bytes.resize(20 * MIB, 0);
    let edits = move_backup(&Memory::new(bytes.clone()), bytes.len() as u64).unwrap().unwrap();
    let dev: Arc<dyn WriteAt> = Arc::new(Memory::new(bytes));
    edits.apply(dev.as_ref()).unwrap();
    let said: Vec<_> = edits.steps.iter().map(|s| s.what.as_str()).collect();
    assert!(said[0].contains("backup") && said[1].contains("primary") && said.last().unwrap().contains("wiped"), "{said:?}");
}
