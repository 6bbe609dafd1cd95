//! Guest identity: what is told of guests made here, each fact with the file it comes from.

use std::path::Path;

use serde_json::Value;

use crate::common::{cowshed, dir, run, s};
use crate::golden;

/// Facts of `cowshed inspect`: (what, value, from).
fn facts(image: &Path) -> Vec<(String, String, String)> {
    let out = cowshed(&["inspect", "--output", "json", s(image)]);
    let v: Value =
        serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&out.stderr)));
    let text = |f: &Value, k: &str| f[k].as_str().unwrap().to_string();
    v["guest"].as_array().unwrap().iter().map(|f| (text(f, "what"), text(f, "value"), text(f, "from"))).collect()
}

fn filesystem(root: &Path, image: &Path) {
    let _ = std::fs::remove_file(image);
    run("mke2fs", &["-q", "-F", "-t", "ext4", "-d", s(root), s(image), "24M"]);
}

#[test]
fn every_fact_is_told_with_its_file() {
    let d = dir();
    let root = d.path().join("root");
    golden::tree(&root, d.path());
    golden::put(&root, "/etc/ssh/ssh_host_rsa_key", "key");
    golden::put(&root, "/root/.ssh/authorized_keys", "# mine\nssh-ed25519 AAAA bob\n\nssh-rsa AAAA eve\n");
    golden::put(&root, "/etc/sysconfig/network-scripts/ifcfg-eth0", "DEVICE=eth0\nHWADDR=52:54:00:12:34:56\n");
    golden::put(&root, "/etc/systemd/network/10.link", "[Match]\nMACAddress=52:54:00:12:34:57\nMACAddress=permanent\n");
    golden::put(&root, "/usr/lib/udev/rules.d/75-persistent-net-generator.rules", "rules\n");
    golden::put(&root, "/etc/ufw/ufw.conf", "# ENABLED=no\nENABLED=yes\n");
    let image = golden::disk(&root, &d.path().join("x.raw"));
    let found = facts(&image);
    // What a package manager knows, and where there is no partition table.
    let bare = d.path().join("bare.raw");
    golden::put(
        &root,
        "/var/lib/dpkg/status",
        "Package: cloud\nVersion: 1\n\nPackage: cloud-init\nStatus: install ok installed\nVersion: 22.4.2-1\n",
    );
    filesystem(&root, &bare);
    let told = facts(&bare);
    for (what, value, from) in
        [("cloud-init", "22.4.2-1", "/var/lib/dpkg/status"), ("root", "disk (ext4), fills the whole disk", "superblock")]
    {
        assert!(told.contains(&(what.into(), value.into(), from.into())), "{what}: {told:#?}");
    }
    for (what, value, from) in [
        ("os", "Debian GNU/Linux 12 (bookworm)", "/etc/os-release"),
        ("hostname", "golden", "/etc/hostname"),
        ("architecture", "x86_64", "/bin/sh"),
        ("machine-id", "empty (made at first boot)", "/etc/machine-id"),
        ("kernel", "6.1.0-9-amd64", "/boot/vmlinuz-6.1.0-9-amd64"),
        ("initramfs", "initrd.img-6.1.0-9-amd64", "/boot/initrd.img-6.1.0-9-amd64"),
        ("virtio", "virtio_blk, virtio_pci", "/boot/initrd.img-6.1.0-9-amd64"),
        ("drivers", "hv_vmbus, hv_storvsc, ahci, ata_piix (built in), nvme", "/boot/initrd.img-6.1.0-9-amd64"),
        ("console", "ttyS0", "/etc/default/grub"),
        ("root", "p2 (ext4), in the last partition", "partition table"),
        ("growable", "by growpart", "/usr/bin/growpart"),
        ("init", "systemd", "/usr/lib/systemd/systemd"),
        ("cloud-init", "installed", "/usr/bin/cloud-init"),
        ("agent", "qemu-guest-agent", "/usr/sbin/qemu-ga"),
        ("sshd", "openssh enabled", "/etc/systemd/system/multi-user.target.wants/ssh.service"),
        ("firewall", "ufw enabled", "/etc/systemd/system/multi-user.target.wants/ufw.service"),
        ("mac", "HWADDR=52:54:00:12:34:56", "/etc/sysconfig/network-scripts/ifcfg-eth0:2"),
        ("mac", "MACAddress=52:54:00:12:34:57", "/etc/systemd/network/10.link:2"),
        ("mac", "6 bytes of udev rules for network cards", "/usr/lib/udev/rules.d/75-persistent-net-generator.rules"),
        ("user", "root (uid 0, password locked)", "/etc/passwd, /etc/shadow"),
        ("user", "alice (uid 1000, password locked)", "/etc/passwd, /etc/shadow"),
        ("authorized-keys", "2 of root", "/root/.ssh/authorized_keys"),
        ("host-key", "ssh_host_rsa_key", "/etc/ssh/ssh_host_rsa_key"),
    ] {
        let wanted = (what.to_string(), value.to_string(), from.to_string());
        assert!(found.contains(&wanted), "{wanted:?} is not among {found:#?}");
    }
    assert_eq!(found.iter().filter(|f| f.0 == "mac").count(), 3, "{found:#?}");
    assert_eq!(found.iter().filter(|f| f.0 == "user").count(), 2);
    // For people, the same.
    let shown = String::from_utf8_lossy(&cowshed(&["inspect", s(&image)]).stdout).into_owned();
    assert!(shown.contains("openssh enabled") && shown.contains("virtio_blk, virtio_pci"), "{shown}");
}

#[test]
fn an_initramfs_of_every_compression_is_looked_into() {
    let d = dir();
    let root = d.path().join("root");
    golden::tree(&root, d.path());
    let main = golden::cpio(d.path(), golden::MODULES);
    let early = golden::cpio(d.path(), &["kernel/x86/microcode/GenuineIntel.bin"]);
    let image = d.path().join("x.raw");
    for (name, packed) in [
        ("stored", main.clone()),
        ("gzip", golden::through("gzip", &["-9"], d.path(), &main)),
        ("zstd", golden::through("zstd", &["-q", "-19"], d.path(), &main)),
        ("xz", golden::through("xz", &["--check=crc32"], d.path(), &main)),
        ("lzma", golden::through("xz", &["--format=lzma"], d.path(), &main)),
        ("bzip2", golden::through("bzip2", &[], d.path(), &main)),
        ("lz4", golden::through("lz4", &["-l", "-9"], d.path(), &main)),
    ] {
        // As a file of its own, and behind an early archive with padding, as distributions make it.
        for padded in [packed.clone(), [early.clone(), vec![0; 1024], packed.clone()].concat()] {
            golden::put(&root, "/boot/initrd.img-6.1.0-9-amd64", &padded);
            filesystem(&root, &image);
            let found = facts(&image);
            let virtio = found.iter().find(|f| f.0 == "virtio").unwrap_or_else(|| panic!("{name}: {found:#?}"));
            assert_eq!(virtio.1, "virtio_blk, virtio_pci", "{name}");
        }
        // One that is cut short says so, and does not say that the drivers are not there.
        if name != "lzma" && name != "xz" {
            golden::put(&root, "/boot/initrd.img-6.1.0-9-amd64", &packed[..packed.len() / 4]);
            filesystem(&root, &image);
            let found = facts(&image);
            let virtio = &found.iter().find(|f| f.0 == "virtio").unwrap().1;
            assert!(virtio.starts_with("not known") || virtio.contains("virtio_blk"), "{name}: {virtio}");
        }
    }
    golden::put(&root, "/boot/initrd.img-6.1.0-9-amd64", golden::cpio(d.path(), &["init", "a/b"]));
    filesystem(&root, &image);
    assert!(facts(&image).iter().any(|f| f.0 == "virtio" && f.1 == "not in the initramfs, not built in"));
}

#[test]
fn services_are_enabled_masked_or_off() {
    let d = dir();
    let root = d.path().join("root");
    let image = d.path().join("x.raw");
    let state = |change: &dyn Fn(&Path), what: &str| {
        let _ = std::fs::remove_dir_all(&root);
        golden::tree(&root, d.path());
        change(&root);
        filesystem(&root, &image);
        facts(&image).into_iter().filter(|f| f.0 == what).map(|f| (f.1, f.2)).collect::<Vec<_>>()
    };
    let wants = "etc/systemd/system/multi-user.target.wants";
    let gone = |r: &Path, n: &str| std::fs::remove_file(r.join(wants).join(n)).unwrap();
    let one = |v: &str, f: &str| vec![(v.to_string(), f.to_string())];
    assert_eq!(state(&|r| gone(r, "ssh.service"), "sshd"), one("openssh off", "/usr/sbin/sshd"));
    let masked = one("openssh masked", "/etc/systemd/system/ssh.service");
    assert_eq!(state(&|r| golden::link(r, "/dev/null", "/etc/systemd/system/ssh.service"), "sshd"), masked);
    // A link to a unit that is not there starts nothing.
    let dangling = |r: &Path| std::fs::remove_file(r.join("usr/lib/systemd/system/ssh.service")).unwrap();
    assert_eq!(state(&dangling, "sshd"), one("openssh off", "/usr/sbin/sshd"));
    let sysv = |r: &Path| {
        gone(r, "ssh.service");
        golden::put(r, "/etc/init.d/ssh", "#!/bin/sh\n");
        golden::link(r, "../init.d/ssh", "/etc/rc3.d/S20ssh");
    };
    assert_eq!(state(&sysv, "sshd"), one("openssh enabled", "/etc/rc3.d/S20ssh"));
    let openrc = |r: &Path| {
        gone(r, "ssh.service");
        golden::link(r, "/etc/init.d/sshd", "/etc/runlevels/default/sshd");
    };
    assert_eq!(state(&openrc, "sshd"), one("openssh enabled", "/etc/runlevels/default/sshd"));
    assert_eq!(state(&|_| {}, "firewall"), one("ufw off", "/etc/ufw/ufw.conf"));
    let firewalld = |r: &Path| {
        golden::put(r, "/usr/sbin/firewalld", "x");
        golden::put(r, "/usr/lib/systemd/system/firewalld.service", "[Service]\n");
        golden::link(r, "/usr/lib/systemd/system/firewalld.service", &format!("/{wants}/firewalld.service"));
    };
    let found = state(&firewalld, "firewall");
    assert!(found.contains(&("firewalld enabled".into(), format!("/{wants}/firewalld.service"))), "{found:?}");
}

#[test]
fn people_and_keys_are_found_wherever_they_are_written_down() {
    let d = dir();
    let (root, image) = (d.path().join("root"), d.path().join("x.raw"));
    golden::tree(&root, d.path());
    let passwd = "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/usr/sbin:/usr/sbin/nologin\n\
        open::1001:1001::/home/open:/bin/sh\nold:$1$abc:500:500::/home/old:\nshut:*:1002:1002::/home/shut:/bin/sh\n\
        lost:x:1003:1003::/home/lost:/bin/sh\ngit:x:110:110::/var/lib/git:/usr/sbin/nologin\nnobody:x:65534:65534::/nonexistent:/bin/sh\n";
    golden::put(&root, "/etc/passwd", passwd);
    golden::put(&root, "/etc/shadow", "root:$6$salt$hash:19000:0:99999:7:::\nopen:!:19000::::::\n");
    golden::put(&root, "/root/.ssh/authorized_keys2", "  # a note\nssh-ed25519 AAAA root\n");
    golden::put(&root, "/var/lib/git/.ssh/authorized_keys", "ssh-ed25519 AAAA one\nssh-ed25519 AAAA two\n");
    golden::put(&root, "/home/gone/.ssh/authorized_keys", "ssh-ed25519 AAAA somebody\n");
    golden::put(&root, "/home/lost/.ssh/known_hosts", "host ssh-ed25519 AAAA\n");
    golden::put(&root, "/etc/dropbear/dropbear_ed25519_host_key", "key");
    filesystem(&root, &image);
    let found = facts(&image);
    let all = |what: &str| found.iter().filter(|f| f.0 == what).map(|f| (f.1.as_str(), f.2.as_str())).collect::<Vec<_>>();
    assert_eq!(
        all("user"),
        [
            ("root (uid 0, password set)", "/etc/passwd, /etc/shadow"),
            ("open (uid 1001, EMPTY password)", "/etc/passwd"),
            ("old (uid 500, password set)", "/etc/passwd"),
            ("shut (uid 1002, password locked)", "/etc/passwd"),
            ("lost (uid 1003, no password entry)", "/etc/passwd, /etc/shadow"),
        ]
    );
    assert_eq!(
        all("authorized-keys"),
        [
            ("1 of root", "/root/.ssh/authorized_keys2"),
            ("2 of git", "/var/lib/git/.ssh/authorized_keys"),
            ("1 of 'gone', who is no user here", "/home/gone/.ssh/authorized_keys"),
        ]
    );
    assert_eq!(all("host-key"), [("dropbear_ed25519_host_key", "/etc/dropbear/dropbear_ed25519_host_key")]);
    // Host names, the way each distribution writes them.
    for (path, text, name) in [
        ("/etc/conf.d/hostname", "# Set to the hostname\nhostname=\"from-openrc\"\n", "from-openrc"),
        ("/etc/sysconfig/network", "NETWORKING=yes\nHOSTNAME=from.redhat6\n", "from.redhat6"),
        ("/etc/HOSTNAME", "from.suse\n", "from.suse"),
        ("/etc/hostname", "# a comment\n\nfrom-all-others\n", "from-all-others"),
    ] {
        let _ = std::fs::remove_file(root.join("etc/hostname"));
        golden::put(&root, path, text);
        filesystem(&root, &image);
        let found: Vec<_> = facts(&image).into_iter().filter(|f| f.0 == "hostname").map(|f| (f.1, f.2)).collect();
        assert_eq!(found, [(name.to_string(), path.to_string())]);
    }
}

#[test]
fn a_machine_id_that_is_to_be_made_is_none() {
    let d = dir();
    let (root, image) = (d.path().join("root"), d.path().join("x.raw"));
    golden::tree(&root, d.path());
    for (text, told, kept) in [
        ("", "empty (made at first boot)", true),
        ("uninitialized\n", "uninitialized (made at first boot)", true),
        ("5f1c9ad27be84c3e9d60b7a2c4e8f013\n", "5f1c9ad27be84c3e9d60b7a2c4e8f013", false),
    ] {
        golden::put(&root, "/etc/machine-id", text);
        filesystem(&root, &image);
        let found = facts(&image);
        assert!(found.contains(&("machine-id".into(), told.into(), "/etc/machine-id".into())), "{found:#?}");
        let out = cowshed(&["ready", "--for", "openstack", "--output", "json", s(&image)]);
        let v: Value = serde_json::from_slice(&out.stdout).unwrap();
        let answer =
            v["findings"].as_array().unwrap().iter().find(|f| f["what"] == "machine id empty").unwrap()["answer"].clone();
        assert_eq!(answer, if kept { "yes" } else { "no" }, "{text}");
        // Where it says that it is to be made, sanitising leaves it: emptied, the first start would be none to systemd.
        let (code, _, err) = crate::sanitize::report(&["--no-undo", s(&image)]);
        assert_eq!((code, err.as_str()), (Some(0), ""));
        let after = cowshed(&["cat", &format!("{}:/etc/machine-id", s(&image))]).stdout;
        assert_eq!(String::from_utf8_lossy(&after), if kept { text } else { "" });
    }
}
