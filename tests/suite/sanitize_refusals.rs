//! What sanitising refuses and what it warns of, one real image for each rule. Refused: the reason is told, and nothing is written.

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use cowshed::engine::io::locks::LockState;

use crate::common::{at_home, cowshed, dir, qemu_img, run, s};
use crate::guest_write::{complaints, make};
use crate::physical_volume::physical_volume;
use crate::sanitize::{disk, guest, left, report};

/// Sanitising `image` is refused because of `why`, planned or run, and writes nothing.
fn refused(image: &Path, more: &[&str], why: &str) {
    let before = std::fs::read(image).unwrap();
    for dry in [true, false] {
        let args: Vec<&str> = more.iter().copied().chain(dry.then_some("--dry-run")).chain([s(image)]).collect();
        let (code, _, err) = report(&args);
        assert!(code == Some(1) && err.contains(why), "{why}: {code:?} {err}");
    }
    assert!(std::fs::read(image).unwrap() == before, "{why}: it was written");
    let undo = format!("{}.sanitize-undo", s(image));
    assert!(!Path::new(&undo).exists(), "{why}: an undo file was made");
}

/// A small guest on ext4.
fn ext4(d: &Path, options: &str) -> std::path::PathBuf {
    let root = d.join("root");
    if !root.exists() {
        guest(&root);
    }
    let image = d.join("x.raw");
    make(&image, format!("-t ext4 {options}").trim_end(), &root, 24);
    image
}

#[test]
fn an_image_that_another_program_writes_is_refused() {
    let d = dir();
    let raw = ext4(d.path(), "");
    let image = d.path().join("x.qcow2");
    qemu_img(&format!("convert -O qcow2 {} {}", s(&raw), s(&image)));
    let mut holder = Command::new("qemu-io")
        .args(["-f", "qcow2", s(&image)])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("tests/run installs qemu-io");
    writeln!(holder.stdin.as_mut().unwrap(), "sleep 60000").unwrap();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !matches!(cowshed::engine::io::locks::state_at(&image), LockState::Writer(_)) && std::time::Instant::now() < end {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    refused(&image, &[], "qemu-io");
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(report(&[s(&image)]).0, Some(0), "let go, it is sanitised");
}

#[test]
fn a_journal_that_was_not_replayed_is_refused_until_that_is_allowed() {
    let d = dir();
    // With a journal that debugfs can write, and a block that the journal replaces.
    let image = ext4(d.path(), "-O ^metadata_csum,^64bit");
    let script = d.path().join("script");
    let block = d.path().join("block");
    std::fs::write(&block, [0x5a; 1024]).unwrap();
    let said = run("debugfs", &["-R", "bmap /usr/big 3", s(&image)]);
    let place = String::from_utf8_lossy(&said.stdout).trim().to_string();
    std::fs::write(&script, format!("jo\njw -b {place} {}\njc\n", s(&block))).unwrap();
    run("debugfs", &["-w", "-f", s(&script), s(&image)]);
    let super_block = run("dumpe2fs", &["-h", s(&image)]);
    assert!(String::from_utf8_lossy(&super_block.stdout).contains("needs_recovery"), "the journal is dirty");
    refused(&image, &[], "journal was not replayed");
    let (code, done, err) = report(&["--replay", s(&image)]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{done}");
    assert_eq!((left(&image), complaints(&image, "ext4")), (Vec::new(), String::new()));
    let out = cowshed(&["cat", &format!("{}:/usr/big", s(&image))]);
    assert_eq!(out.stdout.get(3 * 1024..4 * 1024), Some(&[0x5a; 1024][..]), "what the journal held is there");
}

#[test]
fn a_dirty_xfs_log_is_refused() {
    let d = dir();
    let root = d.path().join("root");
    guest(&root);
    let image = d.path().join("x.raw");
    make(&image, "", &root, 0);
    // Changes through the log, and no clean end: as when the power went. Our own writing leaves the log alone, so by the crate's.
    let xfs = fs_xfs::Filesystem::mount_rw(Arc::new(fs_core::FileDevice::open_rw(&image).unwrap())).unwrap();
    xfs.create_file(xfs.root_inode().unwrap().ino, b"made last", 0o644).unwrap();
    drop(xfs);
    let said = Command::new("xfs_repair").args(["-n", s(&image)]).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert!(said.contains("valuable metadata changes in a log"), "xfs_repair takes it for dirty: {said}");
    refused(&image, &[], "log is dirty");
}

#[test]
fn features_that_are_not_known_are_refused() {
    let d = dir();
    let image = ext4(d.path(), "-O ^metadata_csum,^64bit");
    let file = std::fs::File::options().read(true).write(true).open(&image).unwrap();
    let mut word = [0; 4];
    file.read_exact_at(&mut word, 1024 + 0x60).unwrap();
    file.write_all_at(&(u32::from_le_bytes(word) | 0x0800_0000).to_le_bytes(), 1024 + 0x60).unwrap();
    refused(&image, &[], "0x08000000");
}

#[test]
fn a_filesystem_that_ends_behind_its_partition_is_refused() {
    let d = dir();
    let fs = ext4(d.path(), "");
    let cut = d.path().join("cut");
    std::fs::write(&cut, &std::fs::read(&fs).unwrap()[..20 << 20]).unwrap();
    let image = d.path().join("disk.raw");
    disk(&image, 40, "label: gpt\nsize=20M,type=linux\n", &[(1 << 20, &cut)]);
    refused(&image, &[], "larger than the");
}

#[test]
fn encrypted_volumes_and_parts_of_arrays_are_refused() {
    let d = dir();
    let luks = d.path().join("luks");
    run("truncate", &["-s", "20M", s(&luks)]);
    let key = d.path().join("key");
    std::fs::write(&key, "a passphrase").unwrap();
    let quick = ["luksFormat", "-q", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
    run("cryptsetup", &[&quick[..], &["--key-file", s(&key), s(&luks)]].concat());
    let image = d.path().join("disk.raw");
    disk(&image, 24, "label: gpt\nsize=20M,type=linux\n", &[(1 << 20, &luks)]);
    refused(&image, &[], "LUKS");
    // A member of an array, superblock 1.2 at 4 KiB: magic, major version 1, a UUID, a name.
    let member = d.path().join("member");
    let mut bytes = vec![0u8; 4 << 20];
    bytes[4096..4100].copy_from_slice(&0xa92b_4efc_u32.to_le_bytes());
    bytes[4100..4104].copy_from_slice(&1u32.to_le_bytes());
    bytes[4112..4128].fill(7);
    bytes[4128..4135].copy_from_slice(b"host:md");
    std::fs::write(&member, bytes).unwrap();
    disk(&image, 24, "label: gpt\nsize=4M,type=raid\n", &[(1 << 20, &member)]);
    refused(&image, &[], "MD RAID");
}

#[test]
fn logical_volumes_that_are_not_linear_are_refused() {
    let d = dir();
    let fs = ext4(d.path(), "");
    let (pv, image) = (d.path().join("pv"), d.path().join("disk.raw"));
    // As LVM2 writes them: a volume beside the root, and a snapshot of the root itself.
    for (what, text) in [
        ("thin", r#"type = "thin" thin_pool = "pool" transaction_id = 0 device_id = 1"#),
        ("striped over several disks", r#"type = "striped" stripe_count = 2 stripe_size = 128 stripes = [ "pv0", 5, "pv0", 6 ]"#),
        ("snapshot", r#"type = "snapshot" chunk_size = 8 origin = "root" cow_store = "s""#),
    ] {
        let more = format!(r#"var {{ id = "v" segment_count = 1 segment1 {{ start_extent = 0 extent_count = 1 {text} }} }}"#);
        physical_volume(&pv, &fs, &more);
        disk(&image, 48, "label: gpt\ntype=lvm\n", &[(1 << 20, &pv)]);
        refused(&image, &[], what);
    }
}

#[test]
fn windows_suspended_or_not_is_refused() {
    let d = dir();
    let ntfs = d.path().join("ntfs");
    run("truncate", &["-s", "8M", s(&ntfs)]);
    run("mkntfs", &["-q", "-F", s(&ntfs)]);
    let image = d.path().join("disk.raw");
    disk(&image, 12, "label: dos\ntype=7\n", &[(1 << 20, &ntfs)]);
    refused(&image, &[], "NTFS");
}

#[test]
fn btrfs_is_refused_with_the_reason() {
    let d = dir();
    let root = d.path().join("root");
    guest(&root);
    let image = d.path().join("x.raw");
    run("truncate", &["-s", "128M", s(&image)]);
    run("mkfs.btrfs", &["-q", "-r", s(&root), s(&image)]);
    refused(&image, &[], "btrfs is read and reported, and not written");
}

#[test]
fn keys_that_nothing_makes_again_are_warned_of() {
    let d = dir();
    let image = ext4(d.path(), "");
    let (_, plan, _) = report(&["--dry-run", s(&image)]);
    assert!(plan["operations"].to_string().contains("nothing was found that makes new host keys"), "{plan}");
    let made = d.path().join("root/usr/bin/cloud-init");
    std::fs::create_dir_all(made.parent().unwrap()).unwrap();
    std::fs::write(made, "").unwrap();
    let (_, plan, _) = report(&["--dry-run", s(&ext4(d.path(), ""))]);
    assert!(!plan["operations"].to_string().contains("nothing was found that makes new host keys"), "{plan}");
}

#[test]
fn a_guest_whose_etc_leads_to_the_host_changes_nothing_there() {
    let d = dir();
    let root = d.path().join("root");
    guest(&root);
    std::fs::remove_dir_all(root.join("etc")).unwrap();
    std::os::unix::fs::symlink("/proc/self/root/etc", root.join("etc")).unwrap();
    // Names that a terminal or a careless path would take for something else.
    std::fs::write(root.join("tmp/esc\x1b[31m"), "x").unwrap();
    std::fs::write(root.join("tmp/new\nline"), "x").unwrap();
    // In a folder of its own: images that stand on it are looked for in its folder.
    let image = d.path().join("disk/x.raw");
    std::fs::create_dir(d.path().join("disk")).unwrap();
    make(&image, "-t ext4 -O ^metadata_csum", &root, 24);
    let mut bytes = std::fs::read(&image).unwrap();
    let name = b"\x07\x02left";
    let at = bytes.windows(name.len()).position(|w| &w[2..] == b"left" && w[0] == 4).expect("the folder's name");
    bytes[at + 2..at + 6].copy_from_slice(b"../r");
    std::fs::write(&image, &bytes).unwrap();
    let trace = d.path().join("trace");
    let out = at_home("strace")
        .args(["-f", "-e", "trace=open,openat,openat2,readlink,unlink,unlinkat,rename", "-o", s(&trace)])
        .args([env!("CARGO_BIN_EXE_cowshed"), "sanitize", "--output", "json", s(&image)])
        .output()
        .expect("strace: tests/run installs it");
    assert!(!out.stdout.contains(&0x1b), "an escape is printed");
    let calls = std::fs::read_to_string(&trace).unwrap();
    for host in ["/etc/machine-id", "/etc/ssh", "/etc/hostname", "proc/self/root", "/tmp/esc"] {
        assert!(!calls.contains(host), "{host} of the host was touched");
    }
    let told = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.code() == Some(1) && told.contains("'../r' is no name"), "{told}");
    assert!(std::fs::read(&image).unwrap() == bytes, "refused, but written: {told}");
}

/// Damage anywhere in the structures: either it is seen, told and nothing is written, or it does no harm.
#[test]
fn damaged_structures_are_told_and_nothing_is_written() {
    let d = dir();
    let image = ext4(d.path(), "-O ^metadata_csum,^64bit,^dir_index");
    let good = std::fs::read(&image).unwrap();
    let number = |what: &str| -> u64 {
        let out = run("debugfs", &["-R", what, s(&image)]);
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        text.trim().parse().unwrap_or_else(|_| panic!("{what}: {text}"))
    };
    let imap = |path: &str| -> usize {
        let out = run("debugfs", &["-R", &format!("imap {path}"), s(&image)]);
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let tail = text.split("located at block ").nth(1).unwrap_or_else(|| panic!("{text}"));
        let (block, offset) = tail.trim().split_once(", offset 0x").unwrap();
        block.parse::<usize>().unwrap() * 1024 + usize::from_str_radix(offset.trim(), 16).unwrap()
    };
    let (syslog, log, key, kept) =
        (imap("/var/log/syslog"), imap("/var/log"), imap("/etc/ssh/ssh_host_rsa_key"), number("bmap /usr/big 0"));
    let tmp = number("bmap /tmp 0") as usize * 1024;
    let word = |at: usize, v: u32| (at, v.to_le_bytes().to_vec());
    for (what, changes) in [
        ("no magic in an extent tree", vec![word(syslog + 40, 0)]),
        ("an extent past the end", vec![word(syslog + 40 + 12 + 8, 0x7fff_ffff)]),
        ("an extent of a log in the inode table", vec![word(syslog + 40 + 12 + 8, 60)]),
        ("an extent of a key where another file lies", vec![word(key + 40 + 12 + 8, kept as u32)]),
        ("a folder that is a file", vec![(log, vec![0xa4, 0x81])]),
        ("a folder of 2^40 bytes", vec![word(log + 4, 0), word(log + 108, 256)]),
        ("a file of 2^60 bytes", vec![word(syslog + 4, 0), word(syslog + 108, 1 << 28)]),
        ("an inode that points at itself", vec![word(tmp + 24, 2)]),
        ("an entry of no length", vec![(tmp + 28, vec![0, 0])]),
        ("a link count too high", vec![(syslog + 26, vec![9, 0])]),
    ] {
        let mut bytes = good.clone();
        for (at, new) in &changes {
            bytes[*at..at + new.len()].copy_from_slice(new);
        }
        std::fs::write(&image, &bytes).unwrap();
        let out = at_home("timeout")
            .args(["20", "prlimit", "--as=3221225472", "--", env!("CARGO_BIN_EXE_cowshed"), "sanitize", s(&image)])
            .output()
            .expect("timeout and prlimit are there");
        let told = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.code() == Some(1) && told.contains("x.raw"), "{what}: {:?} {told}", out.status);
        assert!(!told.contains("panicked") && !told.contains("report this"), "{what}: {told}");
        assert!(std::fs::read(&image).unwrap() == bytes, "{what}: it was written");
    }
}

/// Folders within folders: what lies far below goes like anything else; where it is too far, that is said.
#[test]
fn what_lies_deep_goes_too_and_what_lies_too_deep_is_told() {
    let d = dir();
    let root = d.path().join("root");
    guest(&root);
    let (deep, image) = (|n: usize| root.join("tmp").join("d/".repeat(n)), d.path().join("x.raw"));
    let secret = "a secret that lies far below";
    for n in [60, 230] {
        std::fs::create_dir_all(deep(n)).unwrap();
        std::fs::write(deep(n).join("file"), format!("{secret}\n")).unwrap();
        make(&image, "-t ext4", &root, 24);
        if n > 200 {
            refused(&image, &[], "folders more than 200 deep");
            let (code, _, err) = report(&["--disable", "tmp", s(&image)]);
            assert_eq!(code, Some(0), "{err}");
            continue;
        }
        let (code, made, err) = report(&["--no-undo", s(&image)]);
        assert!(code == Some(0) && made["scan"]["found"] == serde_json::json!([]), "{err} {}", made["scan"]);
        assert!(complaints(&image, "ext4").is_empty());
        let bytes = std::fs::read(&image).unwrap();
        assert!(!bytes.windows(secret.len()).any(|b| b == secret.as_bytes()), "it is still there");
    }
}
