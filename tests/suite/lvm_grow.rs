//! `resize --grow-guest` on volume groups that LVM's own programs made, and look at again afterwards; what is not certain stays.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use cowshed::engine::guest::{lvm, lvm_grow};
use cowshed::engine::io::fault::{Faulty, power_cuts};
use cowshed::engine::io::memory::Memory;
use cowshed::engine::io::{ReadAt, WriteAt};

use crate::common::{cowshed, dir, run, s};
use crate::guest_write::{complaints, make, tree};

const MIB: u64 = 1 << 20;

/// The file as a block device, until it is dropped.
struct Loop(String);

impl Loop {
    fn of(image: &Path) -> Option<Loop> {
        let out = Command::new("losetup").args(["-f", "--show", s(image)]).output().ok()?;
        out.status.success().then(|| Loop(String::from_utf8_lossy(&out.stdout).trim().to_string()))
    }

    /// One of LVM's programs on it, which sees no other device and activates nothing.
    fn lvm(&self, program: &str, args: &[&str]) -> Option<Output> {
        let config = format!(
            "devices{{filter=[\"a|^{}$|\",\"r|.*|\"] use_devicesfile=0}} activation{{udev_sync=0 udev_rules=0 verify_udev_operations=0}}",
            self.0
        );
        let mut command = Command::new(program);
        command.args(["--driverloaded", "n", "--config", &config]).args(args).env("LVM_SUPPRESS_FD_WARNINGS", "1");
        command.output().ok()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

/// A group `vg` on a disk of `megabytes`, with the volumes named and their sizes in extents of 4 MiB. `None` where LVM cannot be run.
fn group(image: &Path, megabytes: u64, pv: &[&str], volumes: &[(&str, &str)]) -> Option<()> {
    let _ = std::fs::remove_file(image);
    std::fs::File::create(image).unwrap().set_len(megabytes * MIB).unwrap();
    let dev = Loop::of(image)?;
    let run = |program: &str, args: &[&str]| {
        let out = dev.lvm(program, args)?;
        out.status.success().then_some(()).or_else(|| {
            eprintln!("{program}: {}", String::from_utf8_lossy(&out.stderr));
            None
        })
    };
    run("pvcreate", &[&["-q", "-y"], pv, &[&dev.0]].concat())?;
    run("vgcreate", &["-q", "vg", &dev.0])?;
    for (name, extents) in volumes {
        run("lvcreate", &["-q", "-y", "-an", "-Zn", "-Wn", "-n", name, "-l", extents, "vg"])?;
    }
    Some(())
}

/// What the volume `name` holds, as a file: its segments put together.
fn take_out(image: &Path, name: &str) -> PathBuf {
    let disk = Memory::new(std::fs::read(image).unwrap());
    let vg = lvm::read(&disk).unwrap().unwrap();
    let lv = vg.volumes.iter().find(|v| v.name == name).unwrap();
    let out = image.with_extension(name);
    let mut bytes = Vec::new();
    for (_, at, len) in &lv.segments {
        let mut part = vec![0; *len as usize];
        disk.read_at(*at, &mut part).unwrap();
        bytes.extend(part);
    }
    std::fs::write(&out, bytes).unwrap();
    out
}

fn put_in(image: &Path, name: &str, fs: &Path) {
    let disk = Memory::new(std::fs::read(image).unwrap());
    let vg = lvm::read(&disk).unwrap().unwrap();
    let at = vg.volumes.iter().find(|v| v.name == name).unwrap().segments[0].1;
    let of = format!("of={}", s(image));
    run("dd", &[&format!("if={}", s(fs)), &of, "bs=1M", "conv=notrunc,sparse", "status=none", &format!("seek={}", at / MIB)]);
}

#[test]
fn a_group_and_its_root_grow_and_lvm_finds_nothing_wrong() {
    let d = dir();
    let root = d.path().join("root");
    crate::sanitize::guest(&root);
    let image = d.path().join("x.raw");
    // The volume at the end grows in its segment; one with another behind it gets a second.
    for (volumes, options, kind) in [
        (vec![("swap", "4"), ("root", "100%FREE")], "-t ext4", "ext4"),
        (vec![("root", "15"), ("swap", "4"), ("more", "2")], "-t ext4", "ext4"),
        (vec![("swap", "4"), ("root", "100%FREE")], "", "xfs"),
    ] {
        let megabytes = if kind == "xfs" { 400 } else { 101 };
        if group(&image, megabytes, &[], &volumes).is_none() {
            eprintln!("NOT TESTED: LVM cannot be run here");
            return;
        }
        let fs = d.path().join("fs");
        make(&fs, options, &root, 60);
        put_in(&image, "root", &fs);
        let before = tree(Arc::new(cowshed::engine::io::file::FileDevice::open(take_out(&image, "root")).unwrap()));
        let size = format!("{}M", megabytes + 83);
        let bytes = std::fs::read(&image).unwrap();
        let out = cowshed(&["resize", "-f", "raw", "--grow-guest", "--dry-run", s(&image), &size]);
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success() && said.contains("vg/root") && said.contains("volume group's new metadata"), "{said}");
        assert!(std::fs::read(&image).unwrap() == bytes, "a dry run wrote");
        let out = cowshed(&["resize", "-f", "raw", "--grow-guest", s(&image), &size]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let grown = take_out(&image, "root");
        assert_eq!(complaints(&grown, kind), "", "{volumes:?}");
        assert!(tree(Arc::new(cowshed::engine::io::file::FileDevice::open(&grown).unwrap())) == before);
        let dev = Loop::of(&image).unwrap();
        // But for what it says of being asked not to activate anything.
        let warns = |said: &str| said.lines().any(|l| l.to_lowercase().contains("warning") && !l.contains("Activation disabled"));
        for (program, args) in [("pvck", vec![dev.0.as_str()]), ("vgck", vec!["vg"])] {
            let out = dev.lvm(program, &args).unwrap();
            let said = [out.stdout, out.stderr].map(|b| String::from_utf8_lossy(&b).into_owned()).concat();
            assert!(out.status.success() && !warns(&said), "{program}: {said}");
        }
        let told = |program: &str, fields: &str| {
            let out = dev.lvm(program, &["--noheadings", "--units", "b", "--nosuffix", "-o", fields]).unwrap();
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(out.status.success() && !warns(&said), "{program}: {said}");
            String::from_utf8_lossy(&out.stdout).split_whitespace().map(String::from).collect::<Vec<_>>()
        };
        // One MiB before the extents; whole extents of 4 MiB; no metadata is older than what lvcreate had written.
        let room = (megabytes + 83 - 1) / 4 * 4 * MIB;
        assert_eq!(told("pvs", "pv_size,pv_free,dev_size"), [room.to_string(), "0".into(), ((megabytes + 83) * MIB).to_string()]);
        let lvs = told("lvs", "lv_name,lv_size,seg_count,lv_layout");
        let at = lvs.iter().position(|w| w == "root").unwrap();
        assert_eq!(lvs[at + 1], grown.metadata().unwrap().len().to_string());
        // Its filesystem fills it, down to what a group of ext4 or XFS needs.
        let spans = cowshed(&["inspect", "-f", "raw", "--output", "json", s(&image)]);
        let spans: serde_json::Value = serde_json::from_slice(&spans.stdout).unwrap();
        let all = spans.to_string();
        assert!(all.contains("vg/root"), "{all}");
        let from = if kind == "xfs" { 320 * MIB } else { 60 * MIB };
        let now = cowshed::engine::guest::recognise::recognise(&cowshed::engine::io::file::FileDevice::open(&grown).unwrap());
        let now = now.unwrap().unwrap().size.unwrap();
        assert!(now > from && now + 20 * MIB > grown.metadata().unwrap().len(), "{now} of {}", grown.metadata().unwrap().len());
        // LVM goes on from there.
        let out = dev.lvm("lvrename", &["-q", "vg", "swap", "swapped"]).unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        drop(dev);
        // A second time there is nothing to gain.
        let out = cowshed(&["resize", "-f", "raw", "--grow-guest", "--dry-run", s(&image), &size]);
        assert!(!String::from_utf8_lossy(&out.stdout).contains("new metadata"));
    }
}

#[test]
fn at_every_power_cut_the_group_is_the_old_one_or_the_new() {
    let d = dir();
    let image = d.path().join("x.raw");
    if group(&image, 40, &[], &[("root", "3"), ("swap", "2")]).is_none() {
        eprintln!("NOT TESTED: LVM cannot be run here");
        return;
    }
    let mut disk = std::fs::read(&image).unwrap();
    disk.resize(64 * MIB as usize, 0);
    let old = lvm::read(&Memory::new(disk.clone())).unwrap().unwrap();
    let dev = Faulty::new(disk.clone());
    let extended = lvm_grow::extend(dev.as_ref(), "vg/root").unwrap().unwrap();
    assert_eq!((extended.from, extended.to), (12 * MIB, (15 - 2) * 4 * MIB));
    extended.edits.apply(dev.as_ref()).unwrap();
    let new = lvm::read(dev.as_ref()).unwrap().unwrap();
    assert!(old != new && new.volumes.iter().find(|v| v.name == "root").unwrap().segments.len() == 2);
    let (mut olds, mut news) = (0, 0);
    power_cuts(&disk, &dev.record(), |state, bytes| {
        let seen = lvm::read(&Memory::new(bytes)).unwrap_or_else(|e| panic!("{state}: {e}")).unwrap();
        assert!(seen == old || seen == new, "{state}");
        *(if seen == old { &mut olds } else { &mut news }) += 1;
    });
    assert!(olds > 2 && news > 0, "{olds} {news}");
    // The ring goes round: as often as one likes.
    for n in 1..200u64 {
        dev.set_len((64 + 4 * n) * MIB).unwrap();
        let more = lvm_grow::extend(dev.as_ref(), "vg/root").unwrap().unwrap();
        more.edits.apply(dev.as_ref()).unwrap();
        let now = lvm::read(dev.as_ref()).unwrap().unwrap();
        assert_eq!(now.volumes.iter().map(|v| v.size).sum::<u64>(), (15 + n) * 4 * MIB, "{n}");
    }
}

#[test]
fn what_is_not_certain_stays_and_damage_is_told() {
    let d = dir();
    let image = d.path().join("x.raw");
    // Metadata at both ends of the disk: the one at the end would have to move.
    for (pv, volumes, why) in [
        (&["--metadatacopies", "2"][..], vec![("root", "5")], "metadata area"),
        (&[], vec![("a", "5"), ("b", "5")], "none of its volumes"),
    ] {
        if group(&image, 80, pv, &volumes).is_none() {
            eprintln!("NOT TESTED: LVM cannot be run here");
            return;
        }
        let fs = d.path().join("fs");
        if pv.len() == 2 {
            run("mke2fs", &["-q", "-F", s(&fs), "16M"]);
            put_in(&image, "root", &fs);
        }
        let before = std::fs::read(&image).unwrap();
        let out = cowshed(&["resize", "-f", "raw", "--grow-guest", s(&image), "120M"]);
        let said = [out.stdout, out.stderr].map(|b| String::from_utf8_lossy(&b).into_owned()).concat();
        let after = std::fs::read(&image).unwrap();
        assert!(out.status.success() && after[..before.len()] == before[..], "{said}");
        let out = cowshed(&["resize", "-f", "raw", "--grow-guest", "--dry-run", s(&image), "130M"]);
        let said = [out.stdout, out.stderr].map(|b| String::from_utf8_lossy(&b).into_owned()).concat();
        assert!(said.contains(why) && said.contains("pvresize"), "{said}");
    }
    // Any byte of the structures that is damaged is noticed.
    group(&image, 40, &[], &[("root", "3")]).unwrap();
    let mut disk = std::fs::read(&image).unwrap();
    disk.resize(64 * MIB as usize, 0);
    let text = u64::from_le_bytes(disk[4096 + 40..4096 + 48].try_into().unwrap()) as usize + 4096;
    for at in [512 + 30, 512 + 70, 4096 + 42, 4096 + 50, text + 3, text + 200] {
        let mut damaged = disk.clone();
        damaged[at] ^= 0x55;
        assert!(lvm_grow::extend(&Memory::new(damaged), "vg/root").is_err(), "{at}");
    }
}
