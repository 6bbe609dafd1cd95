//! `compact --copy`: as much comes back as in place, in another file, which has the image's name only when it is whole.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use cowshed::engine::ops::edit;

use crate::common::{dir, qemu_content, qemu_img, qemu_io, run, s};
use crate::compact::{all_states, fails, full_of_holes, ok};

/// The names in `folder`, without the folder that the program's own files lie in.
fn names(folder: &Path) -> Vec<String> {
    let mut all: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    all.retain(|n| n != "home");
    all.sort();
    all
}

fn info(image: &Path) -> serde_json::Value {
    let mut info: serde_json::Value = serde_json::from_str(&qemu_img(&format!("info --output=json {}", s(image)))).unwrap();
    info["actual-size"].take();
    info["children"].take();
    info
}

#[test]
fn a_copy_has_all_that_the_image_had_and_is_smaller() {
    let d = dir();
    let cwd = d.path();
    let image = cwd.join("a.qcow2");
    for (options, cluster) in [("cluster_size=4k", 4096), ("cluster_size=64k,compat=0.10", 65536)] {
        full_of_holes(&image, options, cluster);
        std::fs::set_permissions(&image, PermissionsExt::from_mode(0o640)).unwrap();
        // Whoever runs this may not be allowed to; then the owner stays another way.
        let _ = chown(&image, Some(12345), Some(54321));
        let before = std::fs::metadata(&image).unwrap();
        let (bytes, want, told) = (std::fs::read(&image).unwrap(), all_states(&image), info(&image));
        let beside = names(cwd);
        let plan = ok(cwd, &["compact", "--dry-run", "--copy", "a.qcow2"]);
        for words in ["compact a.qcow2 by copy", "needed", "free on", "copied beside it", "its owner, mode, ACLs and attributes"]
        {
            assert!(plan.contains(words), "{words} is not in\n{plan}");
        }
        assert!(std::fs::read(&image).unwrap() == bytes && names(cwd) == beside);
        ok(cwd, &["compact", "--copy", "a.qcow2"]);
        run("qemu-img", &["check", "-q", s(&image)]);
        assert!(all_states(&image) == want, "{options}");
        assert_eq!((info(&image), names(cwd)), (told, beside), "{options}");
        let after = std::fs::metadata(&image).unwrap();
        assert_eq!((after.mode(), after.uid(), after.gid()), (before.mode(), before.uid(), before.gid()));
        assert!(after.ino() != before.ino(), "it was done in place");
        assert!(after.len() < before.len(), "{options}: {} bytes, then {}", before.len(), after.len());
        // What it does is what is done in place.
        let other = cwd.join("other");
        std::fs::write(&other, &bytes).unwrap();
        ok(cwd, &["compact", "other"]);
        assert!(std::fs::read(&other).unwrap() == std::fs::read(&image).unwrap(), "{options}");
        std::fs::remove_file(&other).unwrap();
    }
}

#[test]
fn an_overlay_its_base_and_a_link_stay_what_they_are() {
    let d = dir();
    let cwd = d.path();
    let (base, top, link) = (cwd.join("base.qcow2"), cwd.join("top.qcow2"), cwd.join("link"));
    full_of_holes(&base, "cluster_size=4k", 4096);
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", s(&base), "-o", "cluster_size=4k", s(&top)]);
    qemu_img(&format!("rebase -u -f qcow2 -F qcow2 -b base.qcow2 {}", s(&top)));
    qemu_io("qcow2", &top, &["write -P 77 0 256k", "write -P 78 512k 128k", "discard 64k 128k"]);
    symlink("top.qcow2", &link).unwrap();
    let want = qemu_content("qcow2", &top);
    ok(cwd, &["compact", "--copy", "base.qcow2"]);
    assert!(qemu_content("qcow2", &top) == want, "what stands on it sees something else");
    ok(cwd, &["compact", "--copy", "link"]);
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(qemu_content("qcow2", &top) == want);
    assert_eq!(info(&top)["backing-filename"], "base.qcow2");
    run("qemu-img", &["check", "-q", s(&top)]);
}

/// Runs a line of Python, which knows extended attributes without a tool that may not be there.
fn python(line: &str, path: &Path) -> String {
    let out =
        Command::new("python3").args(["-c", &format!("import os, sys; p = sys.argv[1]; {line}")]).arg(path).output().unwrap();
    assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn acls_and_attributes_come_along_and_those_of_the_folder_do_not() {
    let d = dir();
    let cwd = d.path();
    let image = cwd.join("a.qcow2");
    full_of_holes(&image, "cluster_size=4k", 4096);
    std::fs::set_permissions(&image, PermissionsExt::from_mode(0o640)).unwrap();
    let all = || python("print([(n, os.getxattr(p, n)) for n in sorted(os.listxattr(p))])", &image);
    let mode = || std::fs::metadata(&image).unwrap().mode() & 0o7777;
    // An ACL as the kernel keeps it (version 2, then tag, permissions and id of each entry): one user and one mask more.
    let acl = "import struct; acl = struct.pack('<I', 2) + b''.join(struct.pack('<HHI', *e) for e in [(1, 6, 2**32 - 1), \
               (2, 4, 12345), (4, 4, 2**32 - 1), (16, 4, 2**32 - 1), (32, 0, 2**32 - 1)])";
    // The folder gives it to what is made in it, which the copy is.
    python(&format!("{acl}; os.setxattr(p, 'system.posix_acl_default', acl)"), cwd);
    let (before, bits) = (all(), mode());
    ok(cwd, &["compact", "--copy", "a.qcow2"]);
    assert_eq!((all(), mode()), (before, bits), "the folder's");
    python(&format!("{acl}; os.setxattr(p, 'user.note', b'kept'); os.setxattr(p, 'system.posix_acl_access', acl)"), &image);
    let (before, bits) = (all(), mode());
    assert!(before.contains("posix_acl_access") && before.contains("user.note"), "{before}");
    let ino = std::fs::metadata(&image).unwrap().ino();
    ok(cwd, &["compact", "--copy", "a.qcow2"]);
    assert!(std::fs::metadata(&image).unwrap().ino() != ino);
    assert_eq!((all(), mode()), (before, bits), "its own");
}

/// Runs `cowshed compact --copy a.qcow2` in `cwd` with strace's `inject`.
fn injected(cwd: &Path, inject: &str) -> std::process::Output {
    let calls = "trace=pwrite64,fdatasync,rename";
    Command::new("strace")
        .args(["-f", "-qq", "-o", "log", "-e", calls, "-e", &format!("inject={inject}")])
        .args([env!("CARGO_BIN_EXE_cowshed"), "compact", "--copy", "a.qcow2"])
        .env("HOME", cwd.join("home"))
        .env("XDG_STATE_HOME", cwd.join("home"))
        .current_dir(cwd)
        .output()
        .expect("strace: tests/run installs it")
}

#[test]
fn killed_at_any_moment_or_out_of_space_the_old_file_or_the_new_is_there_whole() {
    let d = dir();
    let cwd = d.path();
    let (image, partial) = (cwd.join("a.qcow2"), cwd.join(".a.qcow2.cowshed-partial"));
    full_of_holes(&image, "cluster_size=4k", 4096);
    let (bytes, want) = (std::fs::read(&image).unwrap(), all_states(&image));
    let mut left_over = 0;
    for call in ["pwrite64", "fdatasync", "rename"] {
        std::fs::write(&image, &bytes).unwrap();
        assert!(injected(cwd, &format!("{call}:signal=KILL:when=60000")).status.success());
        let log = std::fs::read_to_string(cwd.join("log")).unwrap();
        // Each thread has a count of its own.
        let mut all = std::collections::BTreeMap::new();
        for line in log.lines().filter(|l| l.contains(&format!("{call}("))) {
            *all.entry(line.split(' ').next()).or_insert(0) += 1;
        }
        let all = all.into_values().max().unwrap();
        let mut moments: Vec<usize> = (0..=4).map(|i| 1 + i * (all - 1) / 4).collect();
        moments.dedup();
        for n in moments {
            std::fs::write(&image, &bytes).unwrap();
            let out = injected(cwd, &format!("{call}:signal=KILL:when={n}"));
            assert!(!out.status.success(), "{call} {n} of {all} did not kill it");
            let now = std::fs::read(&image).unwrap();
            assert!(now == bytes || call == "rename" && !partial.exists(), "{call} {n} of {all}: the image was written to");
            assert!(all_states(&image) == want, "{call} {n} of {all}");
            left_over += usize::from(partial.exists());
            // The next attempt is not in its way.
            ok(cwd, &["compact", "--copy", "a.qcow2"]);
            assert!(!partial.exists() && all_states(&image) == want, "{call} {n} of {all}");
            assert!(std::fs::read(&image).unwrap().len() < bytes.len());
        }
    }
    assert!(left_over > 4, "{left_over}: it was never killed at work");
    for inject in ["pwrite64:error=ENOSPC:when=1+", "pwrite64:error=ENOSPC:when=9+", "fdatasync:error=EIO:when=1+"] {
        std::fs::write(&image, &bytes).unwrap();
        let out = injected(cwd, inject);
        assert_eq!(out.status.code(), Some(1), "{inject}: {}", String::from_utf8_lossy(&out.stderr));
        assert!(std::fs::read(&image).unwrap() == bytes && !partial.exists(), "{inject}");
    }
}

#[test]
fn what_one_file_cannot_replace_is_refused_and_nothing_changes() {
    let d = dir();
    let cwd = d.path();
    let refused = |name: &str, words: &[&str]| {
        let (before, beside) = (std::fs::read(cwd.join(name)).unwrap(), names(cwd));
        for args in [&["compact", "--copy", "--dry-run", name][..], &["compact", "--copy", name]] {
            fails(cwd, args, words);
        }
        assert!(std::fs::read(cwd.join(name)).unwrap() == before && names(cwd) == beside);
    };
    let image = cwd.join("a.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", s(&image), "4M"]);
    qemu_io("qcow2", &image, &["write -P 1 0 2M"]);
    std::fs::hard_link(&image, cwd.join("b.qcow2")).unwrap();
    refused("a.qcow2", &["2 names", "without --copy"]);
    std::fs::remove_file(cwd.join("b.qcow2")).unwrap();
    run("qemu-img", &["create", "-q", "-f", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", s(&cwd.join("split.vmdk")), "4M"]);
    refused("split.vmdk", &["several files", "split-s001.vmdk", "without --copy"]);
    run(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "-o", &format!("data_file={}", s(&cwd.join("d.raw"))), s(&cwd.join("ext.qcow2")), "4M"],
    );
    refused("ext.qcow2", &["several files", "d.raw", "without --copy"]);
    ok(cwd, &["compact", "ext.qcow2"]);
    let held = edit::hold(&image).unwrap();
    refused("a.qcow2", &["in use"]);
    drop(held);
    ok(cwd, &["compact", "--copy", "a.qcow2"]);
}
