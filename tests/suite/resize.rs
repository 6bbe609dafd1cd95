//! `resize`: sizes as qemu-img takes them, content kept, and what a guest would lose said before.

use std::path::Path;

use serde_json::Value;

use crate::common::{cowshed_in, dir, qemu_io, run, s, text};

fn size(cwd: &Path, format: &str, image: &str) -> u64 {
    let out = run("qemu-img", &["info", "--output=json", "-f", format, s(&cwd.join(image))]);
    serde_json::from_slice::<Value>(&out.stdout).unwrap()["virtual-size"].as_u64().unwrap()
}

fn content(cwd: &Path, format: &str, image: &str) -> Vec<u8> {
    run("qemu-img", &["convert", "-f", format, "-O", "raw", s(&cwd.join(image)), s(&cwd.join("content"))]);
    std::fs::read(cwd.join("content")).unwrap()
}

#[test]
fn sizes_as_people_type_them() {
    let dir = dir();
    let cwd = dir.path();
    for format in ["raw", "qcow2"] {
        let mut want = text(1, 1 << 20);
        want.resize(4 << 20, 0);
        std::fs::write(cwd.join("in"), &want).unwrap();
        run("qemu-img", &["convert", "-f", "raw", "-O", format, s(&cwd.join("in")), s(&cwd.join("a"))]);
        for (args, new) in [
            (&["a", "+1M"][..], 5u64 << 20),
            (&["a", "6M"], 6 << 20),
            (&["--shrink", "a", "-1M"], 5 << 20),
            (&["a", "-1M", "--shrink"], 4 << 20),
            (&["--shrink", "a", "512k"], 512 << 10),
            (&["a", "2097152"], 2 << 20),
            (&["a", "2097153"], (2 << 20) + 512),
            (&["a", "2M", "--shrink"], 2 << 20),
        ] {
            let args = [&["resize", "-f", format], args].concat();
            let out = cowshed_in(cwd, &args);
            assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
            assert_eq!(out.stdout, b"Image resized.\n");
            assert_eq!(size(cwd, format, "a"), new, "{args:?}");
            want.resize(new as usize, 0);
            assert!(content(cwd, format, "a") == want, "{args:?}");
        }
        for (args, word) in [
            (&["a", "1M"][..], "--shrink"),
            (&["a", "-1M"], "--shrink"),
            (&["--shrink", "a", "-1G"], "below zero"),
            (&["a", "much"], "much"),
            (&["gone", "1M"], "gone"),
        ] {
            let out = cowshed_in(cwd, &[&["resize"], args].concat());
            let told = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(out.status.code() == Some(1) && told.contains(word), "{args:?}: {told}");
        }
        assert!(content(cwd, format, "a") == want);
    }
}

#[test]
fn growing_an_overlay_shows_nothing_old() {
    let dir = dir();
    let cwd = dir.path();
    std::fs::write(cwd.join("base"), text(1, 4 << 20)).unwrap();
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", s(&cwd.join("base")), "-F", "raw", s(&cwd.join("a")), "1M"]);
    qemu_io("qcow2", &cwd.join("a"), &["write -P 3 1000k 24k"]);
    assert!(cowshed_in(cwd, &["resize", "a", "+2M"]).status.success());
    let mut want = text(1, 1 << 20);
    want[1000 << 10..].fill(3);
    want.resize(3 << 20, 0);
    assert!(content(cwd, "qcow2", "a") == want);
    run("qemu-img", &["check", "-q", s(&cwd.join("a"))]);
}

#[test]
fn the_plan_says_which_partitions_are_cut() {
    let dir = dir();
    let cwd = dir.path();
    // An MBR by its specification: two Linux partitions, at 1 MiB and 3 MiB, of 2 MiB and 4 MiB.
    let mut mbr = vec![0u8; 8 << 20];
    for (i, (start, sectors)) in [(2048u32, 4096u32), (6144, 8192)].into_iter().enumerate() {
        let at = 446 + i * 16;
        mbr[at + 4] = 0x83;
        mbr[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        mbr[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
    }
    mbr[510..512].copy_from_slice(&[0x55, 0xaa]);
    std::fs::write(cwd.join("a.raw"), &mbr).unwrap();
    let plan = |to: &str| {
        let out = cowshed_in(cwd, &["resize", "--dry-run", "--shrink", "-f", "raw", "a.raw", to]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    assert!(plan("7M").lines().all(|l| !l.contains("lost  ")), "{}", plan("7M"));
    let cut = plan("4M");
    assert!(cut.contains("the last 3145728 bytes of partition 2") && !cut.contains("partition 1"), "{cut}");
    let cut = plan("2M");
    assert!(
        cut.contains("the last 1048576 bytes of partition 1") && cut.contains("partition 2") && cut.contains("as a whole"),
        "{cut}"
    );
    assert!(plan("9M").contains("partition 2 can grow"));
    // Nothing was written.
    assert_eq!(std::fs::read(cwd.join("a.raw")).unwrap(), mbr);
}

#[test]
fn reserved_space_is_really_there() {
    use std::os::unix::fs::MetadataExt;
    let dir = dir();
    let cwd = dir.path();
    for mode in ["off", "falloc", "full"] {
        std::fs::write(cwd.join("a.raw"), [1; 4096]).unwrap();
        let out = cowshed_in(cwd, &["resize", "-f", "raw", "--preallocation", mode, "a.raw", "4M"]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let meta = std::fs::metadata(cwd.join("a.raw")).unwrap();
        assert_eq!(meta.len(), 4 << 20);
        assert_eq!(meta.blocks() * 512 >= 4 << 20, mode != "off", "{mode}");
    }
}
