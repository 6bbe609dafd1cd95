"""The archive of the demo library, and what its guests see.

The archive is one zstd stream: a line of JSON, `{"files": [{"path", "size", "mtime", "data": [[offset, length], …]}, …]}`, then the data of
all files in that order. Ranges of zeros are left out and become holes again."""

import hashlib
import json
import os
import subprocess
from pathlib import Path

from guests import MIB, stored

BLOCK = 4096


def ranges(path):
    """The ranges of a file that hold anything but zeros, in blocks of 4 KiB."""
    out, size = [], os.path.getsize(path)
    with open(path, "rb") as f:
        for start, length in stored(f, size):
            for at in range(start, start + length, BLOCK):
                f.seek(at)
                block = f.read(min(BLOCK, start + length - at))
                if block.count(0) == len(block):
                    continue
                if out and out[-1][0] + out[-1][1] == at:
                    out[-1][1] += len(block)
                else:
                    out.append([at, len(block)])
    return out


def pack(root, archive, mtimes):
    index, data = [], []
    for path in sorted(p for p in Path(root).rglob("*") if p.is_file()):
        name = str(path.relative_to(root))
        entry = {"path": name, "size": path.stat().st_size, "mtime": mtimes(name), "data": ranges(path)}
        index.append(entry)
        with open(path, "rb") as f:
            for at, length in entry["data"]:
                f.seek(at)
                data.append(f.read(length))
    plain = json.dumps({"files": index}, separators=(",", ":")).encode() + b"\n" + b"".join(data)
    done = subprocess.run(["zstd", "-q", "--ultra", "-22", "--long=27", "-c"], input=plain, stdout=subprocess.PIPE, check=True)
    Path(archive).write_bytes(done.stdout)
    return len(plain), len(done.stdout)


def digest(raw):
    """What a guest sees, as one number: SHA-256 of the disk's size and of every MiB that is not all zeros, each with its place."""
    size = os.path.getsize(raw)
    sha = hashlib.sha256(size.to_bytes(8, "little"))
    with open(raw, "rb") as f:
        seen = -1
        for start, length in stored(f, size):
            for n in range(start // MIB, -(-(start + length) // MIB)):
                if n <= seen:
                    continue
                seen = n
                f.seek(n * MIB)
                block = f.read(MIB)
                if block.count(0) != len(block):
                    sha.update(n.to_bytes(8, "little") + block)
    return sha.hexdigest()
