//! Block devices of the host, as loop devices: read from and written to, never made shorter or longer, and never replaced.
//!
//! Loop devices need root and a kernel that has them. Where there are none, each test says so on standard error and proves nothing:
//! `tests/run` runs as root in continuous integration.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{cowshed, dir, noise, qemu_content, qemu_img, run, s};

/// A loop device over a file.
struct Loop(PathBuf);

impl Loop {
    fn new(file: &Path, flags: &[&str]) -> Option<Loop> {
        let out = Command::new("losetup").args(["-f", "--show"]).args(flags).arg(file).output().ok()?;
        if !out.status.success() {
            eprintln!("NOT TESTED: no loop device here ({})", String::from_utf8_lossy(&out.stderr).trim());
            return None;
        }
        Some(Loop(String::from_utf8(out.stdout).unwrap().trim().into()))
    }
    fn path(&self) -> &str {
        s(&self.0)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

fn ok(args: &[&str]) -> String {
    let out = cowshed(args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn fails(args: &[&str]) -> String {
    let out = cowshed(args);
    assert_eq!(out.status.code(), Some(1), "{args:?}");
    String::from_utf8_lossy(&out.stderr).into_owned()
}

const MIB: usize = 1 << 20;

#[test]
fn a_device_is_a_source_like_any_other() {
    let dir = dir();
    let at = |n: &str| dir.path().join(n);
    let want = noise(1, 4 * MIB);
    std::fs::write(at("disk"), &want).unwrap();
    let Some(dev) = Loop::new(&at("disk"), &["-r"]) else { return };
    ok(&["convert", "-f", "raw", "-O", "qcow2", dev.path(), s(&at("a.qcow2"))]);
    assert!(qemu_content("qcow2", &at("a.qcow2")) == want);
    run("qemu-img", &["compare", "-f", "raw", dev.path(), s(&at("a.qcow2"))]);
    // An image on a device, with what is behind it: recognised, described, checked, read.
    drop(dev);
    let mut room = std::fs::read(at("a.qcow2")).unwrap();
    room.resize(8 * MIB, 0xee);
    std::fs::write(at("lv"), &room).unwrap();
    let Some(dev) = Loop::new(&at("lv"), &["-r"]) else { return };
    let info: serde_json::Value = serde_json::from_str(&ok(&["info", "--output", "json", dev.path()])).unwrap();
    assert_eq!((info["format"].as_str(), info["virtual-size"].as_u64()), (Some("qcow2"), Some(4 * MIB as u64)));
    assert_eq!(info["children"][0]["info"]["format"], "host_device");
    ok(&["convert", "-O", "raw", dev.path(), s(&at("back"))]);
    assert!(std::fs::read(at("back")).unwrap() == want);
}

#[test]
fn a_device_is_a_target_and_keeps_its_size() {
    let dir = dir();
    let at = |n: &str| dir.path().join(n);
    let mut want = noise(2, 2 * MIB);
    // A hole in the source is zeros on the device, whatever was there.
    want[MIB..MIB + MIB / 2].fill(0);
    std::fs::write(at("src"), &want).unwrap();
    for (format, extra) in [("raw", &[][..]), ("qcow2", &[]), ("vmdk", &[]), ("vdi", &[]), ("vhdx", &[]), ("raw", &["-n"])] {
        std::fs::write(at("disk"), vec![0xaa; 16 * MIB]).unwrap();
        let Some(dev) = Loop::new(&at("disk"), &[]) else { return };
        let plan = ok(&[&["convert", "--dry-run", "-f", "raw", "-O", format], extra, &[s(&at("src")), dev.path()]].concat());
        assert!(plan.contains("block device, overwritten") && plan.contains("not possible"), "{plan}");
        ok(&[&["convert", "-f", "raw", "-O", format], extra, &[s(&at("src")), dev.path()]].concat());
        let back = at("back");
        ok(&["convert", "-f", format, "-O", "raw", dev.path(), s(&back)]);
        let got = std::fs::read(&back).unwrap();
        assert!(got[..want.len()] == want, "{format}");
        assert_eq!(got.len(), if format == "raw" { 16 * MIB } else { want.len() }, "{format}");
        // QEMU reads the image on the device as we do.
        qemu_img(&format!("convert -f {format} -O raw {} {}", dev.path(), s(&at("theirs"))));
        assert!(std::fs::read(at("theirs")).unwrap()[..want.len()] == want, "{format}");
        drop(dev);
        let after = std::fs::read(at("disk")).unwrap();
        assert_eq!(after.len(), 16 * MIB, "{format}: the device changed its size");
        if format == "raw" {
            assert!(after[want.len()..].iter().all(|b| *b == 0xaa), "what is behind the disk was touched");
        }
    }
}

#[test]
fn dd_writes_a_piece_onto_a_device_and_leaves_the_rest() {
    let dir = dir();
    let at = |n: &str| dir.path().join(n);
    let mut want = noise(5, 3 * MIB);
    want[MIB / 2..MIB].fill(0);
    std::fs::write(at("src"), &want).unwrap();
    std::fs::write(at("disk"), vec![0xaa; 16 * MIB]).unwrap();
    let Some(dev) = Loop::new(&at("disk"), &[]) else { return };
    let (from, to) = (format!("if={}", s(&at("src"))), format!("of={}", dev.path()));
    let plan = ok(&["dd", "--dry-run", "-f", "raw", "-O", "raw", &from, &to, "bs=1M", "count=2"]);
    assert!(plan.contains("block device, overwritten") && plan.contains("not possible"), "{plan}");
    ok(&["dd", "-f", "raw", "-O", "raw", &from, &to, "bs=1M", "count=2"]);
    let device = std::fs::read(dev.path()).unwrap();
    assert!(device[..2 * MIB] == want[..2 * MIB] && device[2 * MIB..].iter().all(|b| *b == 0xaa));
    ok(&["dd", "-f", "raw", "-O", "qcow2", &from, &to, "bs=1M"]);
    run("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", s(&at("src")), dev.path()]);
}

#[test]
fn a_device_too_small_or_in_use_is_refused_untouched() {
    let dir = dir();
    let at = |n: &str| dir.path().join(n);
    std::fs::write(at("src"), noise(3, 4 * MIB)).unwrap();
    std::fs::write(at("disk"), vec![0xaa; 2 * MIB]).unwrap();
    let Some(dev) = Loop::new(&at("disk"), &[]) else { return };
    for extra in [&[][..], &["-n"]] {
        let told = fails(&[&["convert", "-f", "raw", "-O", "raw"], extra, &[s(&at("src")), dev.path()]].concat());
        assert!(told.contains("bytes") && told.contains(dev.path()), "{told}");
        // Known before anything is done.
        fails(&[&["convert", "--dry-run", "-f", "raw", "-O", "raw"], extra, &[s(&at("src")), dev.path()]].concat());
    }
    let (from, to) = (format!("if={}", s(&at("src"))), format!("of={}", dev.path()));
    for more in [&[][..], &["--dry-run"]] {
        let told = fails(&[&["dd", "-f", "raw", "-O", "raw"], more, &[&from, &to, "bs=1M"]].concat());
        assert!(told.contains("the device has"), "{told}");
    }
    let told = fails(&["resize", "-f", "raw", dev.path(), "8M"]);
    assert!(told.contains("the device has"), "{told}");
    // `--target-is-zero` on a device is a promise: what is not written stays as it is.
    std::fs::write(at("zeros"), vec![0; MIB]).unwrap();
    ok(&["convert", "-n", "--target-is-zero", "-f", "raw", "-O", "raw", s(&at("zeros")), dev.path()]);
    drop(dev);
    assert!(std::fs::read(at("disk")).unwrap().iter().all(|b| *b == 0xaa));
    // Mounted, it belongs to the kernel.
    std::fs::File::create(at("fs")).unwrap().set_len(8 << 20).unwrap();
    run("mkfs.ext4", &["-q", s(&at("fs"))]);
    let Some(dev) = Loop::new(&at("fs"), &[]) else { return };
    std::fs::create_dir(at("mnt")).unwrap();
    if !Command::new("mount").args([dev.path(), s(&at("mnt"))]).status().is_ok_and(|s| s.success()) {
        eprintln!("NOT TESTED: nothing can be mounted here");
        return;
    }
    let told = cowshed(&["convert", "-f", "raw", "-O", "raw", s(&at("zeros")), dev.path()]);
    let _ = Command::new("umount").arg(at("mnt")).status();
    let why = String::from_utf8_lossy(&told.stderr).into_owned();
    assert_eq!(told.status.code(), Some(1), "a mounted filesystem was overwritten");
    assert!(why.contains("mounted") || why.contains("in use") || why.contains("busy"), "{why}");
    run("e2fsck", &["-fn", s(&at("fs"))]);
}
