//! The whole of sanitising on real guests: `COWSHED_GUESTS` names the folder that `build_guests.sh` filled. Each raw and qcow2 there, and
//! four other formats made of two of them, is sanitised by the program, checked by the filesystem's own checker, searched byte by byte
//! for what was secret, sanitised again (nothing is left to do) and taken back (every file is what it was).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use cowshed::engine::chain::{Chain, OpenOptions};
use cowshed::engine::guest::recognise::FsKind;
use cowshed::engine::guest::tree::Guest;
use cowshed::engine::io::Device;
use serde_json::Value;

use crate::common::{cowshed, dir, qemu_img, run, s};
use crate::guest_write::{Tree, complaints, tree};
use crate::sanitize::report;

/// The volumes of the guest in the plain disk `raw` that can be written, each as a file of its own.
fn volumes(raw: &Path) -> Vec<(PathBuf, &'static str)> {
    let disk: Device = Arc::new(Chain::open(raw, &OpenOptions::default()).unwrap().disk().unwrap());
    let guest = Guest::open(&disk).unwrap();
    let mut out = Vec::new();
    for m in &guest.mounts {
        let volume = &guest.layout.volumes[m.volume];
        let kind = match m.fs.info().kind {
            FsKind::Ext2 | FsKind::Ext3 | FsKind::Ext4 => "ext4",
            FsKind::Xfs => "xfs",
            FsKind::Fat12 | FsKind::Fat16 | FsKind::Fat32 => "fat",
            _ => continue,
        };
        let at = raw.with_extension(format!("volume{}", m.volume));
        let (start, len) = (volume.start.expect("in one piece"), volume.len);
        assert_eq!((start % 4096, len % 4096), (0, 0));
        let (skip, count) = (format!("skip={}", start / 4096), format!("count={}", len / 4096));
        run(
            "dd",
            &[&format!("if={}", s(raw)), &format!("of={}", s(&at)), "bs=4096", "conv=sparse", "status=none", &skip, &count],
        );
        out.push((at, kind));
    }
    assert!(!out.is_empty(), "{}", raw.display());
    out
}

/// Every file of every volume.
fn files(raw: &Path) -> Vec<Tree> {
    let take = |(at, _): (PathBuf, _)| {
        let found = tree(Arc::new(cowshed::engine::io::file::FileDevice::open(&at).unwrap()));
        std::fs::remove_file(at).unwrap();
        found
    };
    volumes(raw).into_iter().map(take).collect()
}

/// The disk of `image` as a plain file.
fn flat(image: &Path) -> PathBuf {
    if image.extension().is_some_and(|e| e == "raw") {
        return image.to_path_buf();
    }
    let flat = image.with_extension("flat.raw");
    qemu_img(&format!("convert -O raw {} {}", s(image), s(&flat)));
    flat
}

fn one(guest: &Path, secrets: &[String]) {
    let name = guest.file_name().unwrap().to_string_lossy().into_owned();
    let d = dir();
    let image = d.path().join(&name);
    run("cp", &["--sparse=always", s(guest), s(&image)]);
    let before = files(&flat(&image));
    let (code, done, err) = report(&[s(&image)]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{name}");
    for id in ["udev-net", "net-hwaddr", "ssh-hostkeys", "machine-id", "random-seed", "logs", "dhcp", "history", "scrub"] {
        let found: Vec<&Value> = done["operations"].as_array().unwrap().iter().filter(|o| o["id"] == id).collect();
        assert_eq!(found[0]["state"], "done", "{name}: {id}");
    }
    let raw = flat(&image);
    for secret in secrets {
        for file in [&image, &raw] {
            let found = Command::new("grep").args(["-aqF", "--", secret, s(file)]).env("LC_ALL", "C").status().unwrap();
            assert!(!found.success(), "{name}: '{secret}' is left in {}", file.display());
        }
    }
    for (volume, kind) in volumes(&raw) {
        assert_eq!(complaints(&volume, kind), "", "{name}: {}", volume.display());
        std::fs::remove_file(volume).unwrap();
    }
    let after = files(&raw);
    for (path, size) in [
        ("/etc/udev/rules.d/70-persistent-net.rules", Some(0)),
        ("/usr/lib/udev/rules.d/75-persistent-net-generator.rules", Some(0)),
        ("/etc/machine-id", Some(0)),
        ("/etc/ssh/ssh_host_rsa_key", None),
        ("/root/.bash_history", None),
    ] {
        assert_eq!(after.iter().find_map(|t| t.get(path)).map(Vec::len), size, "{name}: {path}");
    }
    let (code, again, err) = report(&[s(&image)]);
    assert_eq!((code, again["written"].as_u64(), again["zeroed"].as_u64()), (Some(0), Some(0), Some(0)), "{name}: {err}");
    let out = cowshed(&["sanitize", "--undo", s(&image)]);
    assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
    let raw = flat(&image);
    assert!(files(&raw) == before, "{name}: what was taken back is not what was there");
    for (volume, kind) in volumes(&raw) {
        assert_eq!(complaints(&volume, kind), "", "{name}: after undo");
    }
}

#[test]
fn real_guests_are_sanitised_proved_clean_and_taken_back() {
    let Some(folder) = std::env::var_os("COWSHED_GUESTS").map(PathBuf::from) else {
        eprintln!("COWSHED_GUESTS is not set: no real guests are tried");
        return;
    };
    let secrets: Vec<String> = std::fs::read_dir(folder.join("secrets"))
        .unwrap()
        .map(|e| std::fs::read_to_string(e.unwrap().path()).unwrap().trim_end_matches('\n').to_string())
        .collect();
    assert!(!secrets.is_empty());
    let mut guests: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    guests.retain(|p| p.extension().is_some_and(|e| e == "raw" || e == "qcow2"));
    guests.sort();
    let d = dir();
    for guest in &guests {
        let name = guest.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("btrfs") {
            let image = d.path().join(&name);
            run("cp", &["--sparse=always", s(guest), s(&image)]);
            let (code, _, err) = report(&[s(&image)]);
            assert!(code == Some(1) && err.contains("btrfs is read and reported, and not written"), "{name}: {err}");
            run("cmp", &[s(guest), s(&image)]);
            std::fs::remove_file(&image).unwrap();
            continue;
        }
        one(guest, &secrets);
        let chosen = ["ext4_gpt.raw", "xfs_gpt.raw"].contains(&name.as_str());
        for (ending, format) in [("vmdk", "vmdk"), ("vdi", "vdi"), ("vhd", "vpc"), ("vhdx", "vhdx")].iter().filter(|_| chosen) {
            let made = d.path().join(format!("{}.{ending}", guest.file_stem().unwrap().to_string_lossy()));
            qemu_img(&format!("convert -f raw -O {format} {} {}", s(guest), s(&made)));
            one(&made, &secrets);
            std::fs::remove_file(&made).unwrap();
        }
    }
}
