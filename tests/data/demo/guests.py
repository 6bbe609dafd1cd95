"""Guest disks of the demo library: raw files with real partitions and filesystems, made without root and the same each time."""

import os
import subprocess
from pathlib import Path

DATE = 1772445600  # 2026-03-02 10:00 UTC
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def run(*words, **options):
    """Runs a program, which must succeed; what it prints is given back."""
    env = {**os.environ, "E2FSPROGS_FAKE_TIME": str(DATE), "SOURCE_DATE_EPOCH": str(DATE), "TZ": "UTC", "MTOOLS_SKIP_CHECK": "1"}
    env["PATH"] += ":/usr/sbin:/sbin"
    done = subprocess.run([str(w) for w in words], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, words))}: {done.stderr.decode(errors='replace')}")
    return done.stdout


def noise(seed, length):
    """Bytes that do not compress, the same for the same seed."""
    import hashlib

    out = b"".join(hashlib.sha256(f"{seed}/{i}".encode()).digest() for i in range(length // 32 + 1))
    return out[:length]


def text(what, lines):
    """A file as programs write them: many lines that look alike."""
    return "".join(f"2026-03-02 10:{i // 60 % 60:02}:{i % 60:02} {what} line {i}\n" for i in range(lines))


def sparse(path, size):
    """A file of nothing."""
    with open(path, "wb") as f:
        f.truncate(size)
    return path


def stored(f, size):
    """The ranges of an open file that are stored, as the filesystem tells."""
    at = 0
    while at < size:
        try:
            start = os.lseek(f.fileno(), at, os.SEEK_DATA)
        except OSError:
            return
        at = os.lseek(f.fileno(), start, os.SEEK_HOLE)
        yield start, at - start


def place(part, disk, offset):
    """Copies the file `part` into `disk` at `offset`, holes staying holes."""
    size = os.path.getsize(part)
    with open(part, "rb") as src, open(disk, "r+b") as dst:
        for start, length in stored(src, size):
            for at in range(start, start + length, MIB):
                src.seek(at)
                block = src.read(min(MIB, start + length - at))
                if block.count(0) != len(block):
                    dst.seek(offset + at)
                    dst.write(block)


def write_tree(root, files):
    for name, content in files.items():
        path = Path(root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content)
    for path in [Path(root), *Path(root).rglob("*")]:
        os.utime(path, (DATE, DATE))
    return root


def linux(name, version, host, machine_id):
    """The files of a small Linux system, as far as tools look at them."""
    return {
        "etc/os-release": f'PRETTY_NAME="{name} {version}"\nNAME="{name}"\nVERSION_ID="{version}"\nID={name.split()[0].lower()}\n',
        "etc/hostname": f"{host}\n",
        "etc/machine-id": f"{machine_id}\n",
        "etc/passwd": "root:x:0:0:root:/root:/bin/bash\nalice:x:1000:1000:Alice:/home/alice:/bin/bash\n",
        "etc/fstab": "LABEL=root / ext4 defaults 0 1\nLABEL=ESP /boot/efi vfat umask=0077 0 1\n",
        "etc/ssh/ssh_host_ed25519_key.pub": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDemoKeyOfNoWorthAtAllDemoKeyOfNoWorth root@demo\n",
        "home/alice/notes.txt": "Milk, bread, qcow2.\n",
        "root/.bash_history": "apt update\nsystemctl restart nginx\n",
        "boot/vmlinuz-6.1.0": noise(name, 24 * KIB),
        "usr/bin/busybox": noise(name + host, 24 * KIB),
        "var/log/syslog": text("kernel: eth0: link is up", 3000),
        "var/log/auth.log": text("sshd[812]: Accepted publickey for alice", 1500),
    }


def ext4(path, size, tree, label="root", uuid="8d3f1c52-0000-4000-8000-000000000001"):
    sparse(path, size)
    options = f"hash_seed={uuid},lazy_itable_init=1,nodiscard,root_owner=0:0"
    run("mkfs.ext4", "-q", "-F", "-L", label, "-U", uuid, "-E", options, "-J", "size=4", "-N", 2048, "-d", tree, path)
    return path


def fat(path, size, files, label):
    sparse(path, size)
    run("mkfs.vfat", "--invariant", "-i", "c0de2026", "-n", label, path)
    for name, content in files.items():
        source = Path(str(path) + ".file")
        source.write_text(content)
        os.utime(source, (DATE, DATE))
        run("mcopy", "-m", "-i", path, source, f"::{name}")
        source.unlink()
    return path


def gpt(path, size, parts):
    """A disk with a GPT; `parts` are (file, type, name). Returns where each begins."""
    sparse(path, size)
    script = "label: gpt\nlabel-id: 5C1A7C52-0000-4000-8000-0000000000AA\n"
    offsets, at = [], MIB
    for i, (part, kind, name) in enumerate(parts):
        length = os.path.getsize(part)
        script += f"start={at // 512}, size={length // 512}, type={kind}, name={name}, uuid=5C1A7C52-0000-4000-8000-00000000000{i}\n"
        offsets.append(at)
        at += -(-length // MIB) * MIB
    run("sfdisk", "-q", path, input=script.encode())
    for (part, _, _), offset in zip(parts, offsets):
        place(part, path, offset)
    return offsets


def mbr(path, size, part, kind="c"):
    """A disk with an MBR and one partition."""
    sparse(path, size)
    length = os.path.getsize(part)
    run("sfdisk", "-q", path, input=f"label: dos\nlabel-id: 0xc0de2026\nstart=2048, size={length // 512}, type={kind}, bootable\n".encode())
    place(part, path, MIB)
    return path
