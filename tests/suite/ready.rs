//! Readiness: the image service's inspector beside the real one, the measured table of a real service, and guests spoilt one
//! thing at a time.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use cowshed::engine::guest::ready::inspector;
use cowshed::engine::io::file::FileDevice;
use serde_json::Value;

use crate::common::{cowshed, dir, noise, qemu_img, run, s, text};
use crate::golden;

/// `cowshed ready --for TARGET …` with its exit code.
fn ready(target: &str, image: &Path, more: &[&str]) -> (i32, Value) {
    let mut args = vec!["ready", "--for", target, "--output", "json"];
    args.extend(more);
    args.push(s(image));
    let out = cowshed(&args);
    let value = serde_json::from_slice(&out.stdout)
        .unwrap_or_else(|e| panic!("{e}: {} {}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)));
    (out.status.code().unwrap(), value)
}

/// `what: evidence` of the findings with this answer.
fn findings(v: &Value, answer: &str) -> Vec<String> {
    let all = v["findings"].as_array().unwrap().iter().filter(|f| f["answer"] == answer);
    all.map(|f| format!("{}: {}", f["what"].as_str().unwrap(), f["evidence"].as_str().unwrap())).collect()
}

/// A Python that has oslo.utils 10.2: tests/run puts it into a virtual environment.
fn oslo() -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/oslo/bin/python3");
    let check = "import oslo_utils.imageutils.format_inspector, importlib.metadata as m; print(m.version('oslo.utils'))";
    let version =
        |p: &Path| Command::new(p).args(["-c", check]).output().ok().map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
    [own, PathBuf::from("python3")].into_iter().find(|p| version(p).is_some_and(|v| v.starts_with("10.2")))
}

const INSPECT: &str = r#"
import json, sys, logging
logging.disable(logging.CRITICAL)
from oslo_utils.imageutils import format_inspector as fi
for name in sys.stdin.read().split('\0'):
    if not name: continue
    with open(name, 'rb') as f:
        w = fi.InspectWrapper(f)
        while w.read(4096): pass
        w.close()
    found, bad, size = [], [], {}
    try: formats = w.formats
    except AttributeError as e: formats, found, bad = [], ['raw'], [['vmdk', 'crash']]
    for i in formats:
        found.append(str(i))
        try: size[str(i)] = i.virtual_size
        except Exception: size[str(i)] = None
        try: i.safety_check()
        except fi.SafetyCheckFailed as e: bad += [[str(i), n] for n in e.failures]
        except fi.ImageFormatError: bad.append([str(i), 'incomplete'])
    print(json.dumps([found, bad, size]))
"#;

/// What the real inspector says of each file: formats, failed checks, virtual sizes.
fn theirs(python: &Path, files: &[PathBuf]) -> Vec<Value> {
    let names: Vec<&str> = files.iter().map(|f| s(f)).collect();
    let out = golden::through(s(python), &["-c", INSPECT], Path::new("."), names.join("\0").as_bytes());
    String::from_utf8(out).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// Every kind of file the image service meets: name, and whether a real one took it under `declared` (peers' table, measured).
fn zoo(at: &Path) -> Vec<(PathBuf, &'static str, Option<bool>)> {
    let f = |n: &str| at.join(n);
    let mut out: Vec<(PathBuf, &'static str, Option<bool>)> = Vec::new();
    let content = f("content.raw");
    std::fs::write(&content, [text(1, 1 << 20), vec![0; 3 << 20]].concat()).unwrap();
    out.push((content.clone(), "raw", Some(true)));
    golden::partitioned(&f("mbr.raw"), 4, "label: dos\ntype=83,bootable\n");
    golden::partitioned(&f("gpt.raw"), 4, "label: gpt\ntype=linux\n");
    out.push((f("mbr.raw"), "raw", Some(true)));
    out.push((f("gpt.raw"), "raw", Some(true)));
    let c = s(&content);
    for (name, line, declared, accepted) in [
        ("v3.qcow2", "-O qcow2", "qcow2", true),
        ("v2.qcow2", "-O qcow2 -o compat=0.10", "qcow2", true),
        ("zstd.qcow2", "-O qcow2 -c -o compression_type=zstd", "qcow2", true),
        ("l2.qcow2", "-O qcow2 -o extended_l2=on", "qcow2", false),
        (
            "luks.qcow2",
            "--object secret,id=s,data=x -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10",
            "qcow2",
            true,
        ),
        ("old.qcow", "-O qcow", "raw", false),
        ("mono.vmdk", "-O vmdk", "vmdk", true),
        ("stream.vmdk", "-O vmdk -o subformat=streamOptimized", "vmdk", true),
        ("flat.vmdk", "-O vmdk -o subformat=monolithicFlat", "vmdk", false),
        ("two.vmdk", "-O vmdk -o subformat=twoGbMaxExtentSparse", "vmdk", false),
        ("dyn.vhd", "-O vpc -o force_size=on", "vhd", true),
        ("fixed.vhd", "-O vpc -o subformat=fixed,force_size=on", "vhd", false),
        ("x.vhdx", "-O vhdx", "vhdx", true),
        ("x.vdi", "-O vdi", "vdi", true),
    ] {
        qemu_img(&format!("convert -f raw {line} {c} {}", s(&f(name))));
        out.push((f(name), declared, Some(accepted)));
    }
    qemu_img(&format!("convert -f raw -O qed {c} {}", s(&f("x.qed"))));
    out.push((f("x.qed"), "raw", None));
    qemu_img(&format!("create -q -f qcow2 -b {} -F qcow2 {}", s(&f("v3.qcow2")), s(&f("over.qcow2"))));
    qemu_img(&format!("create -q -f qcow2 -o compat=0.10 -b {} -F vmdk {}", s(&f("mono.vmdk")), s(&f("over2.qcow2"))));
    qemu_img(&format!("create -q -f qcow2 -o data_file={},data_file_raw=on {} 4M", s(&f("data.raw")), s(&f("data.qcow2"))));
    out.extend(["over.qcow2", "over2.qcow2", "data.qcow2"].map(|n| (f(n), "qcow2", Some(false))));
    out.push((f("two-s001.vmdk"), "vmdk", Some(false)));
    out.push((f("v3.qcow2"), "raw", Some(true)));
    out.push((content.clone(), "qcow2", Some(false)));
    qemu_img(&format!("create -q --object secret,id=s,data=x -f luks -o key-secret=s,iter-time=10 {} 2M", s(&f("one.luks"))));
    out.push((f("one.luks"), "raw", Some(true)));
    // Not in the measured table: only compared with the inspector.
    let mut two = std::fs::read(f("one.luks")).unwrap();
    two[7] = 2;
    std::fs::write(f("two.luks"), two).unwrap();
    std::fs::create_dir_all(f("iso")).unwrap();
    std::fs::write(f("iso/readme"), "x").unwrap();
    run("genisoimage", &["-quiet", "-R", "-o", s(&f("disc.iso")), s(&f("iso"))]);
    let mut hybrid = std::fs::read(f("disc.iso")).unwrap();
    hybrid[446..462].copy_from_slice(&[0x80, 0, 1, 0, 0x17, 0xfe, 0xff, 0xff, 0, 0, 0, 0, 0, 4, 0, 0]);
    hybrid[510..512].copy_from_slice(&[0x55, 0xaa]);
    std::fs::write(f("hybrid.iso"), &hybrid).unwrap();
    let boot = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut b = std::fs::read(f("gpt.raw")).unwrap();
        change(&mut b);
        std::fs::write(f(name), b).unwrap();
        f(name)
    };
    for extra in [
        f("two.luks"),
        f("disc.iso"),
        f("hybrid.iso"),
        boot("chs.raw", &|b| b[448] = 1),
        boot("lba.raw", &|b| b[454] = 2),
        boot("two-entries.raw", &|b| b[466] = 0x83),
        boot("flag.raw", &|b| b[446] = 1),
        boot("empty-table.raw", &|b| b[446..510].fill(0)),
        boot("fat.raw", &|b| (b[0x10], b[0x15]) = (2, 0xf8)),
        boot("qcow-in-gpt.raw", &|b| b[..4].copy_from_slice(b"QFI\xfb")),
        boot("cut.raw", &|b| b.truncate(511)),
        boot("none.raw", &|b| b.truncate(0)),
        boot("text.raw", &|b| *b = text(3, 9000)),
    ] {
        out.push((extra, "raw", None));
    }
    out
}

fn ours(file: &Path) -> (BTreeSet<String>, BTreeSet<(String, String)>, u64) {
    let seen = inspector::inspect(&FileDevice::open(file).unwrap()).unwrap();
    // A file whose structures cannot be followed is one that cannot be checked, there.
    let name = |c: &inspector::Check| if c.name == "null" { "incomplete" } else { c.name };
    let failed = seen.failures().map(|c| (c.format.to_string(), name(c).to_string())).collect();
    (seen.formats.iter().map(|f| (*f).to_string()).collect(), failed, seen.virtual_size)
}

fn compare(python: &Path, files: &[PathBuf], sizes: bool) {
    for (file, theirs) in files.iter().zip(theirs(python, files)) {
        let list = |v: &Value| v.as_array().unwrap().iter().map(|x| x.as_str().unwrap().to_string()).collect::<Vec<_>>();
        let formats: BTreeSet<String> = list(&theirs[0]).into_iter().collect();
        let failed: BTreeSet<(String, String)> =
            theirs[1].as_array().unwrap().iter().map(list).map(|p| (p[0].clone(), p[1].clone())).collect();
        let (our_formats, our_failed, size) = ours(file);
        assert_eq!(our_formats, formats, "{}", s(file));
        assert_eq!(our_failed, failed, "{}", s(file));
        if sizes && formats.len() == 1 && failed.is_empty() {
            let only = formats.first().unwrap();
            assert_eq!(Some(size), theirs[2][only].as_u64(), "{}", s(file));
        }
    }
}

#[test]
fn the_image_services_inspector_is_predicted() {
    let Some(python) = oslo() else {
        eprintln!("NOT COMPARED: oslo.utils 10.2 is not there (tests/run installs it from PyPI when it can)");
        return;
    };
    let d = dir();
    let files: Vec<PathBuf> = zoo(d.path()).into_iter().map(|(p, _, _)| p).collect();
    compare(&python, &files, true);
    // The same with a few bytes changed where the structures are.
    let random = noise(7, 8 * 40 * files.len());
    let mut changed = Vec::new();
    for (n, (file, r)) in files.iter().zip(random.chunks(8 * 40)).enumerate() {
        let bytes = std::fs::read(file).unwrap();
        if bytes.len() < 1024 {
            continue;
        }
        for (m, r) in r.chunks_exact(8).enumerate().take(if std::env::var_os("COWSHED_LONG").is_some() { 40 } else { 6 }) {
            let mut b = bytes[..bytes.len().min(1 << 20)].to_vec();
            let at = usize::from(u16::from_le_bytes([r[0], r[1]])) % [64, 128, 512, 1024][usize::from(r[2] % 4)];
            b[at] = [0, 0xff, r[3], b[at].wrapping_add(1)][usize::from(r[4] % 4)];
            let path = d.path().join(format!("changed-{n}-{m}"));
            std::fs::write(&path, b).unwrap();
            changed.push(path);
        }
    }
    compare(&python, &changed, false);
}

#[test]
fn what_a_real_image_service_took_is_predicted() {
    let d = dir();
    for (file, declared, accepted) in zoo(d.path()) {
        let Some(accepted) = accepted else { continue };
        let (code, v) = ready("openstack", &file, &["--as", declared]);
        let took = v["image-accepted"] == accepted;
        // A qcow2 declared raw is taken, and that is the trap: we say no.
        let trap = declared == "raw" && file.ends_with("v3.qcow2");
        assert!(took || trap, "{} as {declared}: {:?}", s(&file), findings(&v, "no"));
        assert_ne!(code, 0, "{}: there is no guest in it", s(&file));
        if trap {
            assert!(findings(&v, "no").iter().any(|f| f.contains("accepted silently")), "{v}");
        }
    }
}

#[test]
fn a_good_guest_is_ready_and_each_fault_is_named() {
    let d = dir();
    let root = d.path().join("root");
    golden::tree(&root, d.path());
    let raw = golden::disk(&root, &d.path().join("good.raw"));
    let image = d.path().join("good.qcow2");
    qemu_img(&format!("convert -f raw -O qcow2 {} {}", s(&raw), s(&image)));
    let (code, v) = ready("openstack", &image, &[]);
    assert_eq!((code, findings(&v, "no"), findings(&v, "unknown")), (0, vec![], vec![]), "{v:#}");
    assert_eq!(findings(&v, "advice"), Vec::<String>::new());
    let property = |name: &str| {
        let all = v["properties"].as_array().unwrap();
        all.iter().find(|p| p["name"] == name).map(|p| p["value"].as_str().unwrap().to_string()).unwrap_or_default()
    };
    for (name, value) in [
        ("disk_format", "qcow2"),
        ("container_format", "bare"),
        ("min_disk", "1"),
        ("architecture", "x86_64"),
        ("os_distro", "debian"),
        ("os_version", "12"),
        ("os_admin_user", "debian"),
        ("hw_disk_bus", "virtio"),
        ("hw_firmware_type", "bios"),
        ("hw_qemu_guest_agent", "yes"),
    ] {
        assert_eq!(property(name), value, "{name}");
    }
    // The verdict for people names the same.
    let out = cowshed(&["ready", "--for", "openstack", s(&image)]);
    let shown = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(shown.starts_with("ready for OpenStack") && shown.contains("virtio_blk in the initramfs"), "{shown}");

    type Spoil = fn(&Path);
    let faults: &[(&str, &str, Spoil)] = &[
        ("no", "machine id empty", |r| golden::put(r, "/etc/machine-id", "5f1c9ad27be84c3e9d60b7a2c4e8f013\n")),
        ("no", "no host keys", |r| golden::put(r, "/etc/ssh/ssh_host_rsa_key", "key")),
        ("no", "no hardware addresses", |r| golden::put(r, "/etc/netplan/60.yaml", "match:\n  macaddress: 52:54:00:12:34:56\n")),
        ("no", "no hardware addresses", |r| golden::put(r, "/etc/udev/rules.d/70-persistent-net.rules", "rule\n")),
        ("no", "sshd enabled", |r| {
            std::fs::remove_file(r.join("etc/systemd/system/multi-user.target.wants/ssh.service")).unwrap()
        }),
        ("no", "sshd enabled", |r| golden::link(r, "/dev/null", "/etc/systemd/system/ssh.service")),
        ("no", "cloud-init", |r| std::fs::remove_file(r.join("usr/bin/cloud-init")).unwrap()),
        ("no", "virtio disk", |r| {
            let w = r.parent().unwrap();
            golden::put(r, "/boot/initrd.img-6.1.0-9-amd64", golden::cpio(w, &["init", "lib/modules/6.1/virtio_pci.ko"]));
        }),
        ("advice", "firewall off", |r| golden::put(r, "/etc/ufw/ufw.conf", "ENABLED=yes\n")),
        ("advice", "no password logins", |r| golden::put(r, "/etc/shadow", "root::19000::::::\nalice:$6$x$y:19000::::::\n")),
        ("advice", "console on ttyS0", |r| golden::put(r, "/etc/default/grub", "#GRUB_CMDLINE_LINUX=console=ttyS0\n")),
        ("advice", "root can grow", |r| std::fs::remove_file(r.join("usr/bin/growpart")).unwrap()),
        ("advice", "guest agent", |r| std::fs::remove_file(r.join("usr/sbin/qemu-ga")).unwrap()),
    ];
    for (answer, what, spoil) in faults {
        let _ = std::fs::remove_dir_all(&root);
        golden::tree(&root, d.path());
        spoil(&root);
        let raw = golden::disk(&root, &d.path().join("bad.raw"));
        let (code, v) = ready("openstack", &raw, &[]);
        let found = findings(&v, answer);
        assert_eq!(found.len(), 1, "{what}: {found:?}");
        assert!(found[0].starts_with(what), "{what}: {found:?}");
        assert_eq!(code, i32::from(*answer == "no"), "{what}");
    }
}

#[test]
fn every_target_knows_its_formats_and_names_the_way_there() {
    let d = dir();
    let root = d.path().join("root");
    golden::tree(&root, d.path());
    let raw = golden::disk(&root, &d.path().join("good.raw"));
    let r = s(&raw);
    let f = |n: &str| d.path().join(n);
    for (name, line) in [
        ("a.qcow2", "-O qcow2"),
        ("a.vhd", "-O vpc -o subformat=fixed,force_size=on"),
        ("dyn.vhd", "-O vpc -o force_size=on"),
        ("a.vhdx", "-O vhdx"),
        ("a.vdi", "-O vdi"),
        ("mono.vmdk", "-O vmdk"),
        ("a.vmdk", "-O vmdk -o subformat=streamOptimized"),
    ] {
        qemu_img(&format!("convert -f raw {line} {r} {}", s(&f(name))));
    }
    for (target, takes, refuses) in [
        ("azure", vec!["a.vhd"], vec!["dyn.vhd", "a.vhdx", "a.qcow2", "good.raw"]),
        ("ec2", vec!["good.raw", "a.vhd", "a.vhdx", "a.vmdk"], vec!["a.qcow2", "mono.vmdk", "a.vdi"]),
        ("esxi", vec!["a.vmdk"], vec!["mono.vmdk", "a.qcow2", "a.vdi"]),
        ("hyperv", vec!["a.vhdx", "a.vhd"], vec!["a.qcow2", "a.vmdk"]),
        ("virtualbox", vec!["a.vdi", "a.vmdk", "a.vhd"], vec!["a.qcow2", "good.raw"]),
        ("proxmox", vec!["a.qcow2", "good.raw", "a.vmdk"], vec!["a.vdi", "a.vhdx"]),
        ("openstack", vec!["a.qcow2", "good.raw", "a.vmdk", "a.vhdx"], vec!["a.vhd"]),
    ] {
        for name in &takes {
            let (code, v) = ready(target, &f(name), &[]);
            assert_eq!((code, findings(&v, "no")), (0, vec![]), "{target} {name}");
        }
        for name in &refuses {
            let (code, v) = ready(target, &f(name), &[]);
            assert_eq!(code, 1, "{target} {name}");
            // The action it names is a command line that works, and what it makes is taken.
            let words: Vec<String> = v["action"].as_array().unwrap().iter().map(|w| w.as_str().unwrap().to_string()).collect();
            assert_eq!((words[0].as_str(), words[1].as_str()), ("cowshed", "convert"), "{target} {name}");
            let made = PathBuf::from(words.last().unwrap());
            let args: Vec<&str> = words[1..].iter().map(String::as_str).collect();
            let out = cowshed(&args);
            assert!(out.status.success(), "{target} {name}: {}", String::from_utf8_lossy(&out.stderr));
            let (code, v) = ready(target, &made, &[]);
            assert_eq!((code, findings(&v, "no")), (0, vec![]), "{target} {name}");
            std::fs::remove_file(made).unwrap();
        }
    }
    // All at once: a line each, and yes when any takes it.
    let out = cowshed(&["ready", s(&f("a.qcow2"))]);
    let shown = String::from_utf8_lossy(&out.stdout).into_owned();
    assert_eq!((out.status.code(), shown.lines().count()), (Some(0), 8), "{shown}");
}

#[test]
fn sizes_overlays_and_wrong_usage() {
    let d = dir();
    let odd = d.path().join("odd.vhd");
    qemu_img(&format!("create -q -f vpc -o subformat=fixed,force_size=on {} 1049088", s(&odd)));
    let (code, v) = ready("azure", &odd, &[]);
    assert_eq!(code, 1);
    let action: Vec<&str> = v["action"].as_array().unwrap().iter().map(|w| w.as_str().unwrap()).collect();
    assert_eq!(action, ["cowshed", "resize", s(&odd), "2097152"]);
    let base = d.path().join("base.qcow2");
    qemu_img(&format!("create -q -f qcow2 {} 1M", s(&base)));
    let over = d.path().join("over.qcow2");
    qemu_img(&format!("create -q -f qcow2 -b {} -F qcow2 {}", s(&base), s(&over)));
    let (code, v) = ready("proxmox", &over, &[]);
    assert_eq!(code, 1);
    assert!(findings(&v, "no").iter().any(|f| f.starts_with("stands alone: it stands on")), "{v}");
    std::fs::remove_file(&base).unwrap();
    let (code, v) = ready("openstack", &over, &[]);
    assert_eq!((code, findings(&v, "no").iter().any(|f| f.starts_with("whole"))), (1, true), "{v}");
    // An empty disk has no guest: nothing can be told of it.
    let empty = d.path().join("empty.raw");
    run("truncate", &["-s", "1M", s(&empty)]);
    assert_eq!(ready("openstack", &empty, &[]).0, 2);
    for args in
        [vec!["ready", "--for", "moon", s(&empty)], vec!["ready", "--for", "azure"], vec!["ready", "--for", "azure", "/nowhere"]]
    {
        let out = cowshed(&args);
        assert_eq!(out.status.code(), Some(2), "{args:?}");
        assert!(out.stdout.is_empty() && !out.stderr.is_empty(), "{args:?}");
    }
}
