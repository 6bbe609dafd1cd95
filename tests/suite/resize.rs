//! `resize`: sizes as qemu-img takes them, content kept, and what a guest would lose said before.

use std::path::Path;

use serde_json::Value;

use crate::common::{cowshed, cowshed_in, dir, qemu_img, qemu_io, run, s, text};

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
    let out = cowshed_in(cwd, &["resize", "-f", "raw", "--preallocation", "metadata", "a.raw", "8M"]);
    assert_eq!(out.status.code(), Some(1), "a raw image has no tables");
}

#[test]
fn a_qcow2_reserves_as_qemu_img_does() {
    use std::os::unix::fs::MetadataExt;
    let dir = dir();
    let cwd = dir.path();
    let base = text(9, 6 << 20);
    std::fs::write(cwd.join("base.raw"), &base).unwrap();
    let backed = format!("-b {} -F raw", s(&cwd.join("base.raw")));
    for options in ["", "-o extended_l2=on", "-o compat=0.10", "-o cluster_size=4k", &backed, "-o data_file=DIR/data"] {
        let options = options.replace("DIR", s(cwd));
        for mode in ["metadata", "falloc", "full"] {
            let case = format!("{options} {mode}");
            let (ours, theirs) = (cwd.join("ours.qcow2"), cwd.join("theirs.qcow2"));
            for path in [&ours, &theirs] {
                let options = options.replace("/data", if path == &ours { "/data-ours" } else { "/data-theirs" });
                crate::common::qemu_img(&format!("create -q -f qcow2 {options} {} 1000k", s(path)));
                // The cluster the disk ends in is half full, and clusters before it were freed and hold something old.
                qemu_io("qcow2", path, &["write -P 7 0 900k", "discard 0 512k", "write -P 5 990k 10k"]);
            }
            crate::common::qemu_img(&format!("resize -q --preallocation={mode} {} 5M", s(&theirs)));
            let out = cowshed_in(cwd, &["resize", "-f", "qcow2", "--preallocation", mode, "ours.qcow2", "5M"]);
            assert!(out.status.success(), "{case}: {}", String::from_utf8_lossy(&out.stderr));
            run("qemu-img", &["check", "-q", s(&ours)]);
            crate::common::qemu_img(&format!("compare {} {}", s(&ours), s(&theirs)));
            // What is reserved is mapped, so that a guest's write needs no table.
            let map = crate::common::qemu_img(&format!("map --output=json {}", s(&ours)));
            let map: Value = serde_json::from_str(&map).unwrap();
            let mapped: u64 = map
                .as_array()
                .unwrap()
                .iter()
                .filter(|e| e["depth"] == 0 && e["offset"].is_u64())
                .map(|e| (e["start"].as_u64().unwrap(), e["length"].as_u64().unwrap()))
                .map(|(start, len)| (start + len).saturating_sub(start.max(1 << 20)))
                .sum();
            assert_eq!(mapped, 4 << 20, "{case}: {map}");
            let held = if options.contains("data_file") { cwd.join("data-ours") } else { ours.clone() };
            let held = std::fs::metadata(held).unwrap();
            assert_eq!(held.blocks() * 512 >= 4 << 20, mode != "metadata", "{case}");
            let _ = std::fs::remove_file(cwd.join("data-ours"));
            let _ = std::fs::remove_file(cwd.join("data-theirs"));
        }
    }
}

#[test]
fn formats_that_cannot_reserve_say_so_and_stay() {
    let dir = dir();
    let cwd = dir.path();
    crate::common::qemu_img(&format!("create -q -f vdi {} 4M", s(&cwd.join("a.vdi"))));
    let before = std::fs::read(cwd.join("a.vdi")).unwrap();
    let out = cowshed_in(cwd, &["resize", "-f", "vdi", "--preallocation", "falloc", "a.vdi", "8M"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("nothing can be reserved"), "{out:?}");
    assert!(std::fs::read(cwd.join("a.vdi")).unwrap() == before);
}

#[test]
fn overlays_are_named_and_kept_whole() {
    let dir = dir();
    let cwd = dir.path();
    let img = |line: &str| crate::common::qemu_img(line);
    img(&format!("create -q -f qcow2 {} 8M", s(&cwd.join("base.qcow2"))));
    for (name, size) in [("small", "2M"), ("large", "6M")] {
        let path = cwd.join(name);
        img(&format!("create -q -f qcow2 -b base.qcow2 -F qcow2 {} {size}", s(&path)));
    }
    let resize = |image: &str, to: &str| cowshed_in(cwd, &["resize", "--shrink", image, to]);
    // Growing takes nothing from anybody; who stands on it is said.
    let out = resize("base.qcow2", "16M");
    let told = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success() && told.contains("large") && told.contains("small") && told.contains("stand on it"), "{told}");
    let out = resize("base.qcow2", "6M");
    assert!(out.status.success(), "{out:?}");
    let out = resize("base.qcow2", "5M");
    let told = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() == Some(1) && told.contains("large") && told.contains("lose"), "{told}");
    assert_eq!(size(cwd, "qcow2", "base.qcow2"), 6 << 20);
    std::fs::remove_file(cwd.join("large")).unwrap();
    assert!(resize("base.qcow2", "5M").status.success());
    // A child that knows its parent by its content would refuse it afterwards.
    img(&format!("create -q -f vmdk {} 8M", s(&cwd.join("base.vmdk"))));
    img(&format!("create -q -f vmdk -b base.vmdk -F vmdk {} 8M", s(&cwd.join("child.vmdk"))));
    let out = resize("base.vmdk", "16M");
    let told = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() == Some(1) && told.contains("child.vmdk"), "{told}");
    assert!(resize("child.vmdk", "16M").status.success());
}

#[test]
fn the_plan_names_what_is_inside() {
    let dir = dir();
    let cwd = dir.path();
    let path = cwd.join("fs.raw");
    std::fs::File::create(&path).unwrap().set_len(8 << 20).unwrap();
    run("mkfs.ext4", &["-q", "-L", "data", s(&path)]);
    let plan = |to: &str| {
        let out = cowshed_in(cwd, &["resize", "--dry-run", "--shrink", "-f", "raw", "fs.raw", to]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    let grown = plan("16M");
    assert!(grown.contains("disk (8 MiB, ext4 \"data\")") && grown.contains("can grow to the new end"), "{grown}");
    let cut = plan("4M");
    assert!(cut.contains("its last 4 MiB is lost") && cut.contains("ext4 beyond the new end is cut"), "{cut}");
}

#[test]
fn a_plan_refuses_what_the_format_would_refuse() {
    let dir = dir();
    let at = |n: &str| dir.path().join(n);
    qemu_img(&format!("create -q -f qcow2 -o compat=0.10 {} 8M", s(&at("v2.qcow2"))));
    qemu_img(&format!("snapshot -c s {}", s(&at("v2.qcow2"))));
    for format in ["qcow", "cow", "vmdk", "vdi", "vhd", "vhdx"] {
        let out = cowshed(&["create", "-q", "-f", format, s(&at(format)), "8M"]);
        assert!(out.status.success(), "{out:?}");
    }
    for (format, name, flags, word) in [
        ("qcow2", "v2.qcow2", &[][..], "compat=1.1"),
        ("qcow", "qcow", &[], "cannot be resized"),
        ("cow", "cow", &[], "cannot be resized"),
        ("vmdk", "vmdk", &["--preallocation=full"], "reserved"),
        ("vdi", "vdi", &["--preallocation=falloc"], "reserved"),
        ("vhd", "vhd", &["--preallocation=metadata"], "reserved"),
        ("vhdx", "vhdx", &["--preallocation=full"], "reserved"),
    ] {
        let image = at(name);
        let before = std::fs::read(&image).unwrap();
        for more in [&["--dry-run"][..], &[]] {
            let args = [&["resize", "-f", format], more, flags, &[s(&image), "16M"]].concat();
            let out = cowshed(&args);
            let told = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(out.status.code() == Some(1) && told.contains(word), "{args:?}: {told}");
            assert!(std::fs::read(&image).unwrap() == before, "{args:?} changed it");
        }
    }
}
