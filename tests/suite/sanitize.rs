//! Sanitising whole guests through the program: checked by the filesystems' own tools, by the bytes of the image, and taken back.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cowshed::engine::io::Device;
use cowshed::engine::io::file::FileDevice;
use serde_json::Value;

use crate::common::{at_home, cowshed, dir, noise, qemu_img, run, s};
use crate::guest_write::{complaints, make, tree};
use crate::physical_volume::physical_volume;

pub const SECRETS: &[&str] = &[
    "SECRET-hostkey-3141592653589793",
    "SECRET-history-2718281828459045",
    "SECRET-syslog-1618033988749894",
    "SECRET-lease-1414213562373095",
    "5f1c9ad27be84c3e9d60b7a2c4e8f013",
    "SECRET-udev70-1732050807568877",
];

/// A small system that was lived in.
pub fn guest(root: &Path) {
    let put = |path: &str, text: &str| {
        let at = root.join(path);
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        std::fs::write(at, text).unwrap();
    };
    put("usr/lib/os-release", "PRETTY_NAME=\"Test 1\"\nID=test\n");
    put("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n");
    put("etc/udev/rules.d/70-persistent-net.rules", &format!("ATTR{{address}}==\"52:54:00:12:34:56\" # {}\n", SECRETS[5]));
    put("usr/lib/udev/rules.d/75-persistent-net-generator.rules", "IMPORT{program}=\"write_net_rules and so on\"\n");
    put("etc/sysconfig/network-scripts/ifcfg-eth0", "DEVICE=eth0\nHWADDR=52:54:00:12:34:56\nONBOOT=yes\n");
    put("etc/ssh/ssh_host_rsa_key", &format!("-----BEGIN-----\n{}\n-----END-----\n", SECRETS[0]));
    put("etc/ssh/sshd_config", "Port 22\n");
    put("etc/machine-id", &format!("{}\n", SECRETS[4]));
    put("root/.bash_history", &format!("mysql -p{}\n", SECRETS[1]));
    put("home/ann/.bash_history", &format!("mysql -p{}\n", SECRETS[1]));
    put("var/log/syslog", &format!("Nov 23 host sshd: {}\n", SECRETS[2]).repeat(400));
    put("var/log/syslog.1", &format!("Nov 22 host sshd: {}\n", SECRETS[2]));
    put("var/lib/dhcp/dhclient.leases", &format!("lease {{ # {}\n}}\n", SECRETS[3]));
    put("tmp/left/over", "something temporary\n");
    put("usr/sbin/sshd", "an SSH server\n");
    put("etc/systemd/system/multi-user.target.wants/ufw.service", "");
    put("etc/ufw/ufw.conf", "ENABLED=yes\nLOGLEVEL=low\n");
    put("lib/systemd/system/ssh.service", "[Unit]\n");
    put("kept", "this stays as it is\n");
    std::fs::write(root.join("usr/big"), noise(7, 900_000)).unwrap();
    std::os::unix::fs::symlink(
        "/lib/systemd/system/ssh.service",
        root.join("etc/systemd/system/multi-user.target.wants/ssh.service"),
    )
    .unwrap();
    std::os::unix::fs::symlink("/etc/machine-id", root.join("etc/machine-id-link")).unwrap();
}

/// Secrets found in the file's bytes.
pub fn left(image: &Path) -> Vec<&'static str> {
    let found = |n: &&&str| {
        let out = std::process::Command::new("grep").args(["-aqF", "--", n, s(image)]).env("LC_ALL", "C").status().unwrap();
        out.success()
    };
    SECRETS.iter().filter(found).copied().collect()
}

pub fn report(args: &[&str]) -> (Option<i32>, Value, String) {
    let out = cowshed(&[&["sanitize", "--output", "json"], args].concat());
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    (out.status.code(), serde_json::from_str(&text).unwrap_or(Value::Null), String::from_utf8_lossy(&out.stderr).into_owned())
}

fn state<'a>(report: &'a Value, id: &str) -> &'a str {
    report["operations"].as_array().unwrap().iter().find(|o| o["id"] == id).unwrap()["state"].as_str().unwrap()
}

fn open(image: &Path) -> Device {
    Arc::new(FileDevice::open(image).unwrap())
}

#[test]
fn a_guest_is_sanitised_proved_clean_and_taken_back() {
    let d = dir();
    let root = d.path().join("root");
    guest(&root);
    for (kind, options, check) in [
        ("ext4", "-t ext4", "ext4"),
        ("inline", "-t ext4 -b 1024 -O inline_data,^metadata_csum,^64bit", "ext4"),
        ("ext3", "-t ext3", "ext3"),
        ("ext2", "-t ext2", "ext2"),
        ("xfs", "", "xfs"),
    ] {
        let image = d.path().join(format!("{kind}.raw"));
        make(&image, options, &root, 24);
        let before = tree(open(&image));
        let bytes = std::fs::read(&image).unwrap();
        // Content kept in an inode may be in two pieces, and a secret with it.
        assert!(left(&image).len() + usize::from(kind == "inline") >= SECRETS.len(), "{kind}");
        let (code, plan, err) = report(&["--dry-run", s(&image)]);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{kind}");
        assert_eq!(state(&plan, "ssh-hostkeys"), "planned");
        assert!(
            std::fs::read(&image).unwrap() == bytes && !image.with_extension("raw.sanitize-undo").exists(),
            "{kind}: a dry run wrote"
        );
        let (code, done, err) = report(&["--enable", "firewall-off", s(&image)]);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{kind}: {done}");
        for id in
            ["udev-net", "net-hwaddr", "ssh-hostkeys", "machine-id", "logs", "dhcp", "history", "tmp", "firewall-off", "scrub"]
        {
            assert_eq!(state(&done, id), "done", "{kind}: {id}");
        }
        assert_eq!((state(&done, "sshd-check"), state(&done, "mail")), ("reported", "nothing-to-do"));
        assert_eq!(done["scan"]["found"].as_array().unwrap().len(), 0, "{kind}: {}", done["scan"]);
        assert_eq!(left(&image), Vec::<&str>::new(), "{kind}");
        assert_eq!(complaints(&image, check), "", "{kind}");
        let after = tree(open(&image));
        for empty in [
            "/etc/udev/rules.d/70-persistent-net.rules",
            "/usr/lib/udev/rules.d/75-persistent-net-generator.rules",
            "/etc/machine-id",
            "/var/log/syslog",
        ] {
            assert_eq!(after.get(empty).map(Vec::len), Some(0), "{kind}: {empty} is there and empty");
        }
        assert_eq!(after["/etc/sysconfig/network-scripts/ifcfg-eth0"], b"DEVICE=eth0\nONBOOT=yes\n");
        assert_eq!(after["/etc/ufw/ufw.conf"], b"ENABLED=no\nLOGLEVEL=low\n");
        for gone in
            ["/etc/ssh/ssh_host_rsa_key", "/var/log/syslog.1", "/root/.bash_history", "/home/ann/.bash_history", "/tmp/left"]
        {
            assert!(!after.contains_key(gone), "{kind}: {gone}");
        }
        let touched = ["/etc", "/var", "/tmp", "/root", "/home", "/usr/lib/udev"];
        let same = before.iter().filter(|(p, _)| !touched.iter().any(|t| p.starts_with(t)));
        assert!(same.into_iter().all(|(p, c)| after.get(p) == Some(c)), "{kind}: something else changed");
        let undo = PathBuf::from(format!("{}.sanitize-undo", s(&image)));
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&undo).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        // A second time there is nothing to do.
        let (code, again, err) = report(&["--enable", "firewall-off", s(&image)]);
        assert_eq!((code, again["written"].as_u64(), again["zeroed"].as_u64()), (Some(0), Some(0), Some(0)), "{kind}: {err}");
        let out = cowshed(&["sanitize", "--undo", s(&image)]);
        assert!(out.status.success(), "{kind}: {}", String::from_utf8_lossy(&out.stderr));
        assert!(tree(open(&image)) == before && !undo.exists(), "{kind}: undo");
        assert_eq!(complaints(&image, check), "", "{kind}: after undo");
    }
}

#[test]
fn an_interrupted_commit_is_refused_by_others_and_rolled_back_by_the_next() {
    let d = dir();
    let root = d.path().join("root");
    guest(&root);
    let image = d.path().join("x.raw");
    make(&image, "-t ext4", &root, 24);
    let original = std::fs::read(&image).unwrap();
    let before = tree(open(&image));
    assert_eq!(report(&[s(&image)]).0, Some(0));
    let done = std::fs::read(&image).unwrap();
    // Half of the commit never reached the disk, and the undo file says that it was under way.
    let undo = PathBuf::from(format!("{}.sanitize-undo", s(&image)));
    let mut half = original.clone();
    let middle = half.len() / 2 / 512 * 512;
    half[middle..].copy_from_slice(&done[middle..]);
    std::fs::write(&image, &half).unwrap();
    let file = std::fs::File::options().write(true).open(&undo).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[1], 15).unwrap();
    let out = cowshed(&["resize", "-f", "raw", s(&image), "+1M"]);
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && err.contains("interrupted") && err.contains("sanitize --undo"), "{err}");
    let out = cowshed(&["sanitize", "--destroy-undo", s(&image)]);
    assert!(!out.status.success(), "the only way back is not destroyed");
    // The next sanitise rolls it back and begins anew; what was wiped of free space stays wiped.
    let (code, again, err) = report(&[s(&image)]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{again}");
    assert_eq!((left(&image), complaints(&image, "ext4")), (Vec::new(), String::new()));
    assert!(cowshed(&["sanitize", "--undo", s(&image)]).status.success());
    assert!(tree(open(&image)) == before);
    // Taken back once, there is nothing to take back.
    assert!(!cowshed(&["sanitize", "--undo", s(&image)]).status.success());
}

#[test]
fn an_undo_no_longer_fits_an_image_that_was_changed() {
    let d = dir();
    let root = d.path().join("root");
    guest(&root);
    let image = d.path().join("x.raw");
    make(&image, "-t ext4", &root, 24);
    assert_eq!(report(&[s(&image)]).0, Some(0));
    run("tune2fs", &["-L", "changed", s(&image)]);
    let out = cowshed(&["sanitize", "--undo", s(&image)]);
    assert!(String::from_utf8_lossy(&out.stderr).contains("was changed after it was sanitised"));
    assert!(cowshed(&["sanitize", "--destroy-undo", s(&image)]).status.success());
    assert!(!d.path().join("x.raw.sanitize-undo").exists());
    // Without an undo file from the start.
    make(&image, "-t ext4", &root, 24);
    assert_eq!(report(&["--no-undo", s(&image)]).0, Some(0));
    assert!(!d.path().join("x.raw.sanitize-undo").exists());
    assert_eq!(left(&image), Vec::<&str>::new());
}

#[test]
fn every_format_is_sanitised_in_place_and_while_copying() {
    let d = dir();
    let root = d.path().join("root");
    guest(&root);
    let raw = d.path().join("x.raw");
    make(&raw, "-t ext4", &root, 24);
    for (name, format, options) in [
        ("a.qcow2", "qcow2", ""),
        ("c.qcow2", "qcow2", "-c"),
        ("b.vmdk", "vmdk", ""),
        ("b.vdi", "vdi", ""),
        ("b.vhd", "vpc", ""),
        ("b.vhdx", "vhdx", ""),
    ] {
        let image = d.path().join(name);
        qemu_img(&format!("convert -f raw -O {format} {options} {} {}", s(&raw), s(&image)));
        let source = std::fs::read(&image).unwrap();
        let copy = d.path().join(format!("copy-of-{name}"));
        let (code, done, err) = report(&["--to", s(&copy), "-O", "qcow2", s(&image)]);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{name}: {done}");
        assert!(std::fs::read(&image).unwrap() == source, "{name}: the source stays");
        assert_eq!(left(&copy), Vec::<&str>::new(), "{name}: the copy");
        let (code, done, err) = report(&[s(&image)]);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{name}: {done}");
        assert_eq!(left(&image), Vec::<&str>::new(), "{name}");
        for result in [&copy, &image] {
            let flat = d.path().join("flat.raw");
            qemu_img(&format!("convert -O raw {} {}", s(result), s(&flat)));
            let text = complaints(&flat, "ext4");
            // A fixed size of another format may leave room behind the filesystem.
            assert_eq!(text, "", "{name}");
            assert_eq!(left(&flat), Vec::<&str>::new(), "{name}: read by qemu-img");
            assert!(tree(open(&flat))["/etc/machine-id"].is_empty());
        }
        if format == "qcow2" {
            qemu_img(&format!("check -q {}", s(&image)));
        }
        // Zeros within a cluster are stored, and are no reason to do it again.
        let bytes = std::fs::read(&image).unwrap();
        let (code, again, err) = report(&[s(&image)]);
        assert_eq!((code, again["written"].as_u64(), again["zeroed"].as_u64()), (Some(0), Some(0), Some(0)), "{name}: {err}");
        assert!(std::fs::read(&image).unwrap() == bytes, "{name}: written for nothing");
    }
}

#[test]
fn what_keeps_the_old_data_is_named() {
    let d = dir();
    let root = d.path().join("root");
    guest(&root);
    let (raw, base, over) = (d.path().join("x.raw"), d.path().join("base.qcow2"), d.path().join("over.qcow2"));
    make(&raw, "-t ext4", &root, 24);
    qemu_img(&format!("convert -f raw -O qcow2 {} {}", s(&raw), s(&base)));
    qemu_img(&format!("create -q -f qcow2 -b {} -F qcow2 {}", s(&base), s(&over)));
    qemu_img(&format!("snapshot -c before {}", s(&over)));
    let before = std::fs::read(&base).unwrap();
    let (code, done, err) = report(&[s(&over)]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{done}");
    let warnings = done["warnings"].to_string();
    assert!(warnings.contains("internal snapshot") && warnings.contains("base.qcow2"), "{warnings}");
    assert!(std::fs::read(&base).unwrap() == before, "the base is not written");
    let flat = d.path().join("flat.raw");
    qemu_img(&format!("convert -O raw {} {}", s(&over), s(&flat)));
    assert_eq!((left(&flat), complaints(&flat, "ext4")), (Vec::new(), String::new()), "zeros hide what the base still holds");
}

/// A disk with a partition table: `script` for sfdisk, and what goes into which partition.
pub fn disk(image: &Path, megabytes: u64, script: &str, parts: &[(u64, &Path)]) {
    use std::io::Write;
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(image).unwrap();
    file.set_len(megabytes << 20).unwrap();
    let mut child =
        std::process::Command::new("sfdisk").args(["-q", s(image)]).stdin(std::process::Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    let file = std::fs::File::options().write(true).open(image).unwrap();
    for (at, content) in parts {
        file.write_all_at(&std::fs::read(content).unwrap(), *at).unwrap();
    }
}

#[test]
fn partitions_torn_logical_volumes_and_swap_are_reached() {
    let d = dir();
    let root = d.path().join("root");
    guest(&root);
    let (fs, pv, swap, image) = (d.path().join("fs"), d.path().join("pv"), d.path().join("swap"), d.path().join("x.raw"));
    make(&fs, "-t ext4", &root, 24);
    physical_volume(&pv, &fs, "");
    run("truncate", &["-s", "4M", s(&swap)]);
    run("mkswap", &["-q", s(&swap)]);
    let mut bytes = std::fs::read(&swap).unwrap();
    bytes[3_000_000..3_000_000 + SECRETS[0].len()].copy_from_slice(SECRETS[0].as_bytes());
    std::fs::write(&swap, &bytes).unwrap();
    disk(&image, 48, "label: gpt\nsize=4M,type=swap\ntype=lvm\n", &[(1 << 20, &swap), (5 << 20, &pv)]);
    let (code, done, err) = report(&[s(&image)]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{done}");
    assert_eq!(left(&image), Vec::<&str>::new());
    let all = std::fs::read(&image).unwrap();
    assert_eq!(&all[(1 << 20) + 4086..(1 << 20) + 4096], b"SWAPSPACE2", "the header of the swap stays");
    let out = cowshed(&["cat", &format!("{}:/kept", s(&image))]);
    assert_eq!(out.stdout, b"this stays as it is\n");
    // Put together again it is what its own checker calls clean.
    let (pv, extents) = (&all[5 << 20..], 6usize);
    let place = |e: usize| (1 << 20) + e * (4 << 20);
    let joined = [&pv[place(3)..place(6)], &pv[place(0)..place(3)]].concat();
    std::fs::write(&fs, &joined[..extents * (4 << 20)]).unwrap();
    assert_eq!(complaints(&fs, "ext4"), "");
}

#[test]
fn a_boot_partition_apart_and_the_firmware_are_reached() {
    const SEED: &str = "SECRET-loader-2236067977499789";
    let d = dir();
    let (root, boot) = (d.path().join("root"), d.path().join("boot"));
    guest(&root);
    std::fs::write(
        root.join("etc/fstab"),
        "/dev/mapper/vg-root / ext4 defaults 0 1\nLABEL=boot /boot ext4 defaults 0 2\nLABEL=ESP /boot/efi vfat umask=077 0 1\n",
    )
    .unwrap();
    std::fs::create_dir_all(root.join("boot")).unwrap();
    for folder in ["loader", "efi"] {
        std::fs::create_dir_all(boot.join(folder)).unwrap();
    }
    std::fs::write(boot.join("loader/random-seed"), SEED).unwrap();
    let initramfs = noise(11, 200_000);
    std::fs::write(boot.join("initrd.img-6.1"), &initramfs).unwrap();
    let file = |name: &str| d.path().join(name);
    let (fs, pv, bootfs, esp, image) = (file("fs"), file("pv"), file("bootfs"), file("esp"), file("x.raw"));
    for (kind, options) in [("ext4", "-t ext4 -L boot"), ("xfs", "")] {
        make(&fs, "-t ext4", &root, 24);
        physical_volume(&pv, &fs, "");
        if kind == "xfs" {
            crate::guest_write::make_xfs(&bootfs, &["-L", "boot", "-d", "agcount=2"], 40, &boot);
        } else {
            make(&bootfs, options, &boot, 40);
        }
        // What was removed there before.
        let bytes = std::fs::read(&bootfs).unwrap();
        let free = bytes.len() - (3 << 20);
        assert!(bytes[free..free + 4096].iter().all(|b| *b == 0));
        std::os::unix::fs::FileExt::write_all_at(
            &std::fs::File::options().write(true).open(&bootfs).unwrap(),
            SECRETS[1].as_bytes(),
            free as u64,
        )
        .unwrap();
        run("truncate", &["-s", "0", s(&esp)]);
        run("truncate", &["-s", "4M", s(&esp)]);
        run("mkfs.vfat", &["-n", "ESP", s(&esp)]);
        run("mmd", &["-i", s(&esp), "::loader"]);
        run("mcopy", &["-i", s(&esp), s(&boot.join("loader/random-seed")), "::loader/random-seed"]);
        let script = "label: gpt\nsize=4M,type=uefi\nsize=40M,type=linux\ntype=lvm\n";
        disk(&image, 80, script, &[(1 << 20, &esp), (5 << 20, &bootfs), (45 << 20, &pv)]);
        let (code, done, err) = report(&[s(&image)]);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{kind}: {done}");
        assert!(done["operations"].to_string().contains("/boot/loader/random-seed"), "{kind}: {done}");
        // The firmware's own partition, too.
        assert!(done["operations"].to_string().contains("/boot/efi/loader/random-seed"), "{kind}: {done}");
        assert_eq!(left(&image), Vec::<&str>::new(), "{kind}");
        let all = std::fs::read(&image).unwrap();
        assert!(!all.windows(SEED.len()).any(|w| w == SEED.as_bytes()), "{kind}: the loader's seed");
        let read = |path: &str| cowshed(&["cat", &format!("{}:{path}", s(&image))]).stdout;
        assert!(read("/boot/initrd.img-6.1") == initramfs, "{kind}: the initramfs stays");
        std::fs::write(&bootfs, &all[5 << 20..45 << 20]).unwrap();
        assert_eq!(complaints(&bootfs, kind), "", "{kind}");
        std::fs::remove_file(format!("{}.sanitize-undo", s(&image))).unwrap();
    }
}

#[test]
fn each_refusal_names_its_reason_and_writes_nothing() {
    let d = dir();
    let root = d.path().join("root");
    guest(&root);
    let image = d.path().join("x.raw");
    let refused = |name: &str, why: &str| {
        let before = std::fs::read(&image).unwrap();
        for dry in [true, false] {
            let args: &[&str] = if dry { &["--dry-run", s(&image)] } else { &[s(&image)] };
            let (code, _, err) = report(args);
            assert!(code == Some(1) && err.contains(why), "{name}: {code:?} {err}");
        }
        assert!(std::fs::read(&image).unwrap() == before, "{name}: it was written");
        assert!(!d.path().join("x.raw.sanitize-undo").exists(), "{name}");
    };
    for (options, why) in [
        ("-t ext4 -O bigalloc", "bigalloc"),
        ("-t ext4 -O casefold", "casefold"),
        ("-t ext4 -O encrypt", "encryption"),
        ("-t ext4 -O verity", "verity"),
        ("-t ext4 -O quota", "quota"),
        ("-t ext4 -O mmp", "multi-mount protection"),
    ] {
        make(&image, options, &root, 24);
        refused(options, why);
    }
    for (change, why) in [
        ("ssv state 2", "marked as having errors"),
        ("feature needs_recovery", "journal was not replayed"),
        ("sif /kept links_count 5", "check finds"),
    ] {
        make(&image, "-t ext4", &root, 24);
        run("debugfs", &["-w", "-R", change, s(&image)]);
        refused(change, why);
    }
    make(&image, "-t ext4", &root, 24);
    std::fs::File::options().write(true).open(&image).unwrap().set_len(20 << 20).unwrap();
    refused("cut", "larger than the");
    // No system on it at all, an encrypted one, a suspended one.
    run("truncate", &["-s", "0", s(&image)]);
    run("truncate", &["-s", "8M", s(&image)]);
    run("mke2fs", &["-q", "-F", "-t", "ext4", s(&image)]);
    refused("empty", "no root filesystem");
    std::fs::write(&image, [b"LUKS\xba\xbe\x00\x01".as_slice(), &[0; 1 << 20]].concat()).unwrap();
    let out = cowshed(&["sanitize", "-f", "raw", s(&image)]);
    assert!(String::from_utf8_lossy(&out.stderr).contains("LUKS"), "{}", String::from_utf8_lossy(&out.stderr));
    let (fs, swap) = (d.path().join("fs"), d.path().join("swap"));
    make(&fs, "-t ext4", &root, 24);
    run("truncate", &["-s", "2M", s(&swap)]);
    run("mkswap", &["-q", s(&swap)]);
    let mut bytes = std::fs::read(&swap).unwrap();
    bytes[4086..4096].copy_from_slice(b"S1SUSPEND\0");
    std::fs::write(&swap, bytes).unwrap();
    disk(&image, 40, "label: gpt\nsize=2M,type=swap\ntype=linux\n", &[(1 << 20, &swap), (3 << 20, &fs)]);
    refused("hibernated", "suspended");
    // Version 4 of XFS, where mkfs still makes it.
    let four = d.path().join("four");
    run("truncate", &["-s", "320M", s(&four)]);
    if std::process::Command::new("mkfs.xfs").args(["-q", "-m", "crc=0", s(&four)]).output().is_ok_and(|o| o.status.success()) {
        let dev: Device = Arc::new(FileDevice::open(&four).unwrap());
        let info = cowshed::engine::guest::recognise::recognise(dev.as_ref()).unwrap().unwrap();
        let why = cowshed::engine::guest::fs::refusal(&dev, &info, false).unwrap();
        assert!(why.is_some_and(|w| w.contains("version 4")));
    }
}

#[test]
fn paths_stay_in_the_guest_and_names_of_one_file_are_warned_of() {
    use std::os::unix::fs::symlink;
    let d = dir();
    let root = d.path().join("root");
    guest(&root);
    // /var/log leads out of the guest, or so it thinks; a log has a second name.
    std::fs::rename(root.join("var/log"), root.join("var/real-log")).unwrap();
    symlink("/proc/self/root/var/log", root.join("var/log")).unwrap();
    std::fs::hard_link(root.join("etc/ssh/ssh_host_rsa_key"), root.join("kept-key")).unwrap();
    let image = d.path().join("x.raw");
    make(&image, "-t ext4", &root, 24);
    let (code, done, err) = report(&["--dry-run", s(&image)]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(state(&done, "logs"), "nothing-to-do");
    assert!(done["operations"].to_string().contains("its content stays under the others"), "{done}");
}

#[test]
fn a_profile_of_ones_own_is_used_and_what_contradicts_itself_is_told() {
    let d = dir();
    let root = d.path().join("root");
    guest(&root);
    let image = d.path().join("x.raw");
    make(&image, "-t ext4", &root, 24);
    std::fs::create_dir(d.path().join("cowshed")).unwrap();
    let config = d.path().join("cowshed/config.toml");
    let run = |text: &str, args: &[&str]| {
        std::fs::write(&config, text).unwrap();
        let out = at_home(env!("CARGO_BIN_EXE_cowshed"))
            .args(["sanitize", "--output", "json"])
            .args(args)
            .env("XDG_CONFIG_HOME", d.path())
            .output()
            .unwrap();
        let json: Value = serde_json::from_slice(&out.stdout).unwrap_or(Value::Null);
        (out.status.code(), json, String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let ids =
        |v: &Value| v["operations"].as_array().unwrap().iter().map(|o| o["id"].as_str().unwrap().to_string()).collect::<Vec<_>>();
    let web = "[sanitize.web]\nenable = [\"passwords\"]\ndisable = [\"logs\", \"history\"]\n";
    let dry = ["--dry-run", s(&image)];
    let (code, plan, err) = run(web, &[&["--profile", "web", "--enable", "history"][..], &dry].concat());
    let has = |id: &str| ids(&plan).iter().any(|i| i == id);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    // By hand wins over the profile.
    assert_eq!([has("passwords"), has("logs"), has("history"), has("udev-net")], [true, false, true, true], "{plan}");
    let (_, list, _) = run(web, &["--list"]);
    assert!(list["profiles"].as_array().unwrap().iter().any(|p| p["name"] == "web" && p["enable"][0] == "passwords"), "{list}");
    for (text, args, told) in [
        (web, &["--profile", "wub"][..], "there are: openstack, clone, minimal, web"),
        (web, &["--enable", "logs,tmp", "--disable", "tmp"], "'tmp' is to be done and to be left out"),
        (web, &["--disable", "nonsense"], "no operation 'nonsense'"),
        ("[sanitize.web]\nenable = \"logs\"\n", &["--profile", "web"], "a list of operations is wanted"),
        ("[sanitize.web]\nenable = [\"lugs\"]\n", &["--profile", "web"], "no operation 'lugs'"),
    ] {
        let (code, _, err) = run(text, &[args, &dry].concat());
        assert!(code == Some(1) && err.contains(told), "{args:?}: {code:?} {err}");
    }
    let (code, _, err) = run("[sanitize.minimal]\nenable = [\"logs\"]\n", &[&["--profile", "minimal"][..], &dry].concat());
    assert!(code == Some(0) && err.contains("sanitize.minimal: cowshed has a profile of that name"), "{err}");
}

#[test]
fn operations_and_profiles_are_listed_and_wrong_ones_named() {
    let out = cowshed(&["sanitize", "--list"]);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success() && text.contains("udev-net") && text.contains("profile openstack"), "{text}");
    let d = dir();
    let image = d.path().join("x.raw");
    std::fs::write(&image, [0; 512]).unwrap();
    let (code, _, err) = report(&["--enable", "nonsense", s(&image)]);
    assert!(code == Some(1) && err.contains("no operation 'nonsense'"), "{err}");
    let (code, _, err) = report(&["--profile", "nonsense", s(&image)]);
    assert!(code == Some(1) && err.contains("there are: openstack, clone, minimal"), "{err}");
}
