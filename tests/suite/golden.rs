//! A small guest that any cloud would take, made from a folder: tests spoil one thing at a time.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::{run, s};

/// Writes a file below `root`, with the folders above it.
pub fn put(root: &Path, path: &str, content: impl AsRef<[u8]>) {
    let at = root.join(path.trim_start_matches('/'));
    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
    std::fs::write(at, content).unwrap();
}

/// Makes a link below `root`.
pub fn link(root: &Path, target: &str, path: &str) {
    let at = root.join(path.trim_start_matches('/'));
    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
    let _ = std::fs::remove_file(&at);
    std::os::unix::fs::symlink(target, at).unwrap();
}

/// `input` through `program`.
pub fn through(program: &str, args: &[&str], cwd: &Path, input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(args)
        .current_dir(cwd)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("{program}: {e}: tests/run installs it"));
    let mut stdin = child.stdin.take().unwrap();
    let bytes = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&bytes));
    let out = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(out.status.success(), "{program} {args:?}");
    out.stdout
}

/// A cpio archive of empty files called `names`, their folders among them, made by cpio itself.
pub fn cpio(work: &Path, names: &[&str]) -> Vec<u8> {
    let root = work.join(format!("cpio-{}", names.len()));
    let _ = std::fs::remove_dir_all(&root);
    for n in names {
        put(&root, n, format!("module {n}"));
    }
    let list = String::from_utf8(run("find", &[s(&root), "-mindepth", "1", "-printf", "%P\n"]).stdout).unwrap();
    let made = through("cpio", &["-o", "-H", "newc", "--quiet"], &root, list.as_bytes());
    assert!(made.starts_with(b"070701"));
    made
}

/// The modules that a generic initramfs has.
pub const MODULES: &[&str] = &[
    "usr/lib/modules/6.1.0-9-amd64/kernel/drivers/block/virtio_blk.ko.zst",
    "usr/lib/modules/6.1.0-9-amd64/kernel/drivers/virtio/virtio_pci.ko",
    "usr/lib/modules/6.1.0-9-amd64/kernel/drivers/scsi/hv_storvsc.ko",
    "usr/lib/modules/6.1.0-9-amd64/kernel/drivers/hv/hv_vmbus.ko",
    "usr/lib/modules/6.1.0-9-amd64/kernel/drivers/nvme/host/nvme.ko",
    "usr/lib/modules/6.1.0-9-amd64/kernel/drivers/ata/ahci.ko",
    "init",
];

/// The tree of a guest that is ready for any cloud.
pub fn tree(root: &Path, work: &Path) {
    put(root, "/etc/os-release", "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_ID=\"12\"\n");
    put(root, "/etc/hostname", "golden\n");
    put(root, "/etc/fstab", "LABEL=rootfs / ext4 defaults 0 1\n");
    put(root, "/etc/machine-id", "");
    put(
        root,
        "/etc/passwd",
        "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/usr/sbin:/usr/sbin/nologin\nalice:x:1000:1000::/home/alice:/bin/bash\n",
    );
    put(root, "/etc/shadow", "root:*:19000:0:99999:7:::\nalice:!:19000:0:99999:7:::\n");
    put(root, "/etc/cloud/cloud.cfg", "system_info:\n  default_user:\n    name: debian\n    lock_passwd: True\n");
    put(root, "/etc/default/grub", "GRUB_CMDLINE_LINUX=\"console=tty0 console=ttyS0,115200\"\n");
    // The head of an ELF program for x86-64.
    let mut elf = vec![0u8; 64];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf[18] = 0x3e;
    put(root, "/usr/bin/sh", &elf);
    link(root, "usr/bin", "/bin");
    link(root, "usr/sbin", "/sbin");
    link(root, "usr/lib", "/lib");
    for program in
        ["/usr/bin/cloud-init", "/usr/bin/growpart", "/usr/sbin/sshd", "/usr/sbin/qemu-ga", "/usr/sbin/ufw", "/usr/sbin/waagent"]
    {
        put(root, program, "#!/bin/sh\n");
    }
    put(root, "/usr/lib/systemd/systemd", &elf);
    link(root, "/lib/systemd/systemd", "/usr/sbin/init");
    put(root, "/usr/lib/systemd/system/ssh.service", "[Service]\n");
    put(root, "/usr/lib/systemd/system/ufw.service", "[Service]\n");
    put(root, "/etc/ufw/ufw.conf", "ENABLED=no\n");
    link(root, "/lib/systemd/system/ssh.service", "/etc/systemd/system/multi-user.target.wants/ssh.service");
    link(root, "/lib/systemd/system/ufw.service", "/etc/systemd/system/multi-user.target.wants/ufw.service");
    put(root, "/boot/vmlinuz-6.1.0-9-amd64", "kernel");
    put(root, "/usr/lib/modules/6.1.0-9-amd64/modules.builtin", "kernel/drivers/ata/ata_piix.ko\n");
    put(root, "/boot/initrd.img-6.1.0-9-amd64", through("zstd", &["-q"], work, &cpio(work, MODULES)));
    put(root, "/etc/netplan/50-cloud-init.yaml", "network:\n  version: 2\n  ethernets:\n    eth0:\n      dhcp4: true\n");
    put(root, "/etc/ssh/sshd_config", "PasswordAuthentication no\n");
}

/// Runs sfdisk with `script` on a new image of `mib` MiB.
pub fn partitioned(image: &Path, mib: u64, script: &str) {
    let _ = std::fs::remove_file(image);
    run("truncate", &["-s", &format!("{mib}M"), s(image)]);
    through("sfdisk", &["-q", s(image)], Path::new("."), script.as_bytes());
}

/// The ext4 filesystem of `root` in a raw disk at `image`: GPT, a BIOS boot partition, the root behind it to the end.
pub fn disk(root: &Path, image: &Path) -> PathBuf {
    let script = "label: gpt\nstart=2048,size=2048,type=21686148-6449-6E6F-744E-656564454649\nstart=4096,type=linux\n";
    partitioned(image, 24, script);
    let fs = image.with_extension("ext4");
    let _ = std::fs::remove_file(&fs);
    run("mke2fs", &["-q", "-F", "-t", "ext4", "-L", "rootfs", "-d", s(root), s(&fs), "20M"]);
    run(
        "dd",
        &[
            "if=".to_string() + s(&fs),
            "of=".to_string() + s(image),
            "bs=1M".into(),
            "seek=2".into(),
            "conv=notrunc,sparse".into(),
            "status=none".into(),
        ],
    );
    std::fs::remove_file(fs).unwrap();
    image.to_path_buf()
}
