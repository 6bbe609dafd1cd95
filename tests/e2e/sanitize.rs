//! A guest prepared for OpenStack from the workbench in a real terminal: what stands in the way, the form, the plan, the report, and
//! taking it all back.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::tmux::{Tmux, qemu_img};

const KEY: &str = "SECRET-hostkey-3141592653589793";

/// A small system that was lived in, in an ext4 of 24 MiB.
fn guest(dir: &Path, image: &Path) {
    let root = dir.join("root");
    let put = |path: &str, text: &str| {
        let at = root.join(path);
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        std::fs::write(at, text).unwrap();
    };
    put("usr/lib/os-release", "PRETTY_NAME=\"Test 1\"\nID=test\n");
    put("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n");
    put("etc/udev/rules.d/70-persistent-net.rules", "ATTR{address}==\"52:54:00:12:34:56\", NAME=\"eth0\"\n");
    put("etc/sysconfig/network-scripts/ifcfg-eth0", "DEVICE=eth0\nHWADDR=52:54:00:12:34:56\nONBOOT=yes\n");
    put("etc/ssh/ssh_host_rsa_key", &format!("-----BEGIN-----\n{KEY}\n-----END-----\n"));
    put("etc/machine-id", "5f1c9ad27be84c3e9d60b7a2c4e8f013\n");
    put("root/.bash_history", "mysql -psecret\n");
    put("var/log/syslog", &"Nov 23 host sshd: something\n".repeat(400));
    put("usr/sbin/sshd", "an SSH server\n");
    put("usr/bin/cloud-init", "#!/bin/sh\n");
    put("lib/systemd/system/ssh.service", "[Unit]\n");
    put("etc/systemd/system/multi-user.target.wants/ufw.service", "");
    put("etc/ufw/ufw.conf", "ENABLED=yes\n");
    let link = root.join("etc/systemd/system/multi-user.target.wants/ssh.service");
    std::os::unix::fs::symlink("/lib/systemd/system/ssh.service", link).unwrap();
    let made = Command::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(&root).arg(image).arg("24M").status();
    assert!(made.expect("mke2fs cannot be run: tests/run installs it").success());
}

fn ready(image: &Path) -> (Option<i32>, String) {
    let out =
        Command::new(env!("CARGO_BIN_EXE_cowshed")).args(["ready", "--for", "openstack", "--as", "raw"]).arg(image).output();
    let out = out.unwrap();
    (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Whatever `e2fsck` has to say.
fn complaints(image: &Path) -> String {
    let out = Command::new("e2fsck").args(["-fn"]).arg(image).output().expect("e2fsck cannot be run: tests/run installs it");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let clean = |l: &&str| !l.starts_with("Pass ") && !l.contains("files (") && !l.starts_with(image.to_str().unwrap());
    text.lines().filter(clean).collect::<Vec<_>>().join("\n")
}

/// The guest's tree as the filesystem's own tools see it: every path with its content.
fn tree(dir: &Path, image: &Path, name: &str) -> Vec<(String, Vec<u8>)> {
    let to = dir.join(name);
    std::fs::create_dir(&to).unwrap();
    let dump = Command::new("debugfs").args(["-R", &format!("rdump / {}", to.display())]).arg(image).output().unwrap();
    assert!(dump.status.success());
    let mut out = Vec::new();
    let mut todo = vec![to.clone()];
    while let Some(folder) = todo.pop() {
        for e in std::fs::read_dir(&folder).unwrap() {
            let path = e.unwrap().path();
            let name = path.strip_prefix(&to).unwrap().display().to_string();
            let kind = path.symlink_metadata().unwrap().file_type();
            if kind.is_symlink() {
                out.push((name, std::fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()));
            } else if kind.is_dir() {
                out.push((name, Vec::new()));
                todo.push(path);
            } else {
                out.push((name, std::fs::read(&path).unwrap()));
            }
        }
    }
    out.sort();
    out
}

#[test]
fn an_image_is_prepared_for_openstack_and_that_is_taken_back() {
    let (dir, work) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let raw = work.path().join("golden.raw");
    guest(work.path(), &raw);
    let before = tree(work.path(), &raw, "before");
    let image = dir.path().join("golden.qcow2");
    qemu_img(&["convert", "-O", "qcow2", raw.to_str().unwrap(), image.to_str().unwrap()]);
    let bytes = |name: &str| {
        let out = work.path().join(name);
        qemu_img(&["convert", "-O", "raw", image.to_str().unwrap(), out.to_str().unwrap()]);
        out
    };
    let (code, text) = ready(&bytes("first.raw"));
    assert_eq!(code, Some(1), "{text}");
    for part in ["no host keys", "machine id empty", "cowshed sanitize --profile openstack --enable"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let mut t = Tmux::start(120, 36, dir.path(), &[]);
    t.wait_for("1 image");
    let begun = Instant::now();
    t.keys(&["j", "W"]);
    t.wait_for("no host keys");
    t.wait_for("sanitise it (ssh-hostkeys)");
    t.keys(&["Enter"]);
    t.wait_for("[openstack]");
    t.wait_for("to wipe");
    t.keys(&["Enter"]);
    t.wait_for("-HWADDR=52:54:00:12:34:56");
    t.wait_for("undo file");
    t.keys(&["Enter"]);
    t.wait_for("none is left");
    assert!(begun.elapsed() < Duration::from_secs(60), "it took {:?}", begun.elapsed());
    t.wait_for("golden.qcow2.sanitize-undo");
    t.wait_for("--destroy-undo");
    let after = bytes("after.raw");
    assert_eq!(complaints(&after), "");
    let (_, text) = ready(&after);
    let refused: Vec<&str> = text.lines().filter(|l| l.starts_with("  no ")).collect();
    assert_eq!(refused, Vec::<&str>::new(), "{text}");
    let seen = tree(work.path(), &after, "after");
    let content = |path: &str| seen.iter().find(|(p, _)| p == path).map(|(_, c)| String::from_utf8_lossy(c).into_owned());
    assert_eq!(content("etc/sysconfig/network-scripts/ifcfg-eth0").as_deref(), Some("DEVICE=eth0\nONBOOT=yes\n"));
    assert_eq!(content("etc/udev/rules.d/70-persistent-net.rules").as_deref(), Some(""), "it is emptied, not deleted");
    assert_eq!(content("etc/ssh/ssh_host_rsa_key"), None);
    let holds = |file: &Path| std::fs::read(file).unwrap().windows(KEY.len()).any(|w| w == KEY.as_bytes());
    let undo = dir.path().join("golden.qcow2.sanitize-undo");
    assert!(!holds(&image) && holds(&undo), "the key is in the undo file and nowhere else");
    // The verdict is looked at again by itself; the report is found again from the jobs.
    t.keys(&["W"]);
    t.wait_for("OpenStack: ready");
    t.keys(&["4"]);
    t.wait_for("Enter report");
    t.keys(&["Enter"]);
    t.wait_for("byte scan");
    t.keys(&["u"]);
    t.wait_for("every file becomes what it was");
    t.keys(&["Enter"]);
    t.wait_for("was taken back");
    assert_eq!(tree(work.path(), &bytes("undone.raw"), "undone"), before);
    assert!(!undo.exists());
    t.keys(&["q"]);
    t.wait_for("left with 0");
}
