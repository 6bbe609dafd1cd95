"""Images that no tool at hand makes, put together byte by byte from their specifications: differencing VHD, VHDX and VDI, a VHDX
whose log was not replayed, ESX's sparse extents, the old COW format, and headers of formats that are only recognised."""

import struct
from pathlib import Path

from guests import KIB, MIB

SECTOR = 512


def le32(v):
    return struct.pack("<I", v)


def le64(v):
    return struct.pack("<Q", v)


def patch(b, at, data):
    b[at : at + len(data)] = data


def crc32c(data):
    table = []
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ (0x82F63B78 if n & 1 else 0)
        table.append(n)
    crc = 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


# --- VHD


def vhd_checksum(b, start, length, at):
    b[start + at : start + at + 4] = bytes(4)
    total = ~sum(b[start : start + length]) & 0xFFFFFFFF
    patch(b, start + at, struct.pack(">I", total))


def vhd_child(child, parent, relative):
    """Turns the dynamic VHD at `child` into a child of `parent`: type 4, the parent's UUID, a relative locator."""
    b, of_parent = bytearray(Path(child).read_bytes()), Path(parent).read_bytes()
    footer = len(b) - SECTOR
    where = relative.encode("utf-16-le")
    patch(b, SECTOR + 40, of_parent[68:84])
    at = len(b) - SECTOR
    slot = SECTOR + 576
    b[slot : slot + 24] = b"W2ru" + struct.pack(">IIIQ", SECTOR, len(where), 0, at)
    vhd_checksum(b, SECTOR, 1024, 36)
    b[63] = 4
    vhd_checksum(b, 0, SECTOR, 64)
    last = bytes(b[:SECTOR])
    del b[footer:]
    b += where.ljust(-(-len(where) // SECTOR) * SECTOR, b"\0") + last
    Path(child).write_bytes(b)


# --- VHDX


def vhdx_seal(b, at, length):
    b[at + 4 : at + 8] = bytes(4)
    patch(b, at + 4, le32(crc32c(b[at : at + length])))


def vhdx_regions(b):
    """Where the BAT and the metadata of an image of qemu-img's are."""
    return struct.unpack_from("<I", b, 192 * KIB + 32)[0], struct.unpack_from("<I", b, 192 * KIB + 64)[0]


def vhdx_child(child, parent, relative):
    """Turns the dynamic VHDX at `child` into a child of `parent` whose blocks are whole or not there."""
    g = Path(parent).read_bytes()[128 * KIB + 32 : 128 * KIB + 48]
    first = struct.unpack("<IHH", g[:8])
    linkage = "{%08x-%04x-%04x-%s-%s}" % (*first, g[8:10].hex(), g[10:].hex())
    b = bytearray(Path(child).read_bytes())
    bat, meta = vhdx_regions(b)
    entries, texts = b"", b""
    for key, value in (("parent_linkage", linkage), ("relative_path", relative)):
        k, v = key.encode("utf-16-le"), value.encode("utf-16-le")
        at = 44 + len(texts)
        entries += struct.pack("<IIHH", at, at + len(k), len(k), len(v))
        texts += k + v
    kind = bytes.fromhex("b7ef4ab09ed1814ab78925b8e9445913")
    locator = kind + struct.pack("<HH", 0, 2) + entries + texts
    count = b[meta + 10]
    b[meta + 10] = count + 1
    item = meta + 32 + count * 32
    patch(b, item, bytes.fromhex("2d5fd3a80bb34d45abf7d3d84834ab0c") + struct.pack("<III", 0x11000, len(locator), 4))
    patch(b, meta + 0x11000, locator)
    b[meta + 0x10004] |= 2
    # What the child does not hold is the parent's: state 0, where qemu-img writes explicit zeros.
    for at in range(bat, bat + MIB, 8):
        if struct.unpack_from("<Q", b, at)[0] & 7 == 2:
            patch(b, at, le64(0))
    Path(child).write_bytes(b)


def vhdx_dirty(path):
    """Moves the first sector of the BAT into the log, as a crash leaves it. Nothing is lost; it must be replayed."""
    b = bytearray(Path(path).read_bytes())
    bat, _ = vhdx_regions(b)
    sector = bytes(b[bat : bat + 4096])
    b[bat : bat + 4096] = bytes(4096)
    length, log = struct.unpack_from("<II", b, 128 * KIB + 68)
    b[log : log + length] = bytes(length)
    guid = b"\x77" * 16
    head = b"loge" + bytes(4) + struct.pack("<IIQII", 8192, 0, 7, 1, 0) + guid + struct.pack("<QQ", len(b), len(b))
    head += b"desc" + sector[4092:] + sector[:8] + struct.pack("<QQ", bat, 7)
    patch(b, log, head)
    data = bytearray(sector)
    data[:8], data[4092:] = b"data" + le32(0), le32(7)
    patch(b, log + 4096, data)
    vhdx_seal(b, log, 8192)
    for at in (64 * KIB, 128 * KIB):
        patch(b, at + 48, guid)
        vhdx_seal(b, at, 4096)
    Path(path).write_bytes(b)


# --- VDI


def vdi_child(child, parent):
    """Turns the dynamic VDI at `child` into a child of `parent`, which it names by UUID alone. Blocks that are not there are the
    parent's."""
    b, p = bytearray(Path(child).read_bytes()), Path(parent).read_bytes()
    patch(b, 0x4C, le32(4))
    patch(b, 0x1A8, p[0x188:0x198])
    patch(b, 0x1B8, p[0x198:0x1A8])
    Path(child).write_bytes(b)


def vdi_uuids(path, image, modification):
    """qemu-img draws new UUIDs each time; these stay."""
    b = bytearray(Path(path).read_bytes())
    patch(b, 0x188, image)
    patch(b, 0x198, modification)
    Path(path).write_bytes(b)


# --- VMDK


def descriptor(kind, extents, parent=None, cid=0xC0DE2026, parent_cid=0xFFFFFFFF):
    hint = f'parentFileNameHint="{parent}"\n' if parent else ""
    return (
        f'# Disk DescriptorFile\nversion=1\nCID={cid:08x}\nparentCID={parent_cid:08x}\ncreateType="{kind}"\n{hint}'
        "\n# Extent description\n" + "".join(e + "\n" for e in extents) + "\n# The Disk Data Base\n#DDB\n\n"
        'ddb.virtualHWVersion = "8"\nddb.adapterType = "lsilogic"\n'
    )


def cowd(sectors, grains):
    """An ESX copy-on-write extent (COWD): grains of one sector, {sector: 512 bytes}."""
    tables = -(-sectors // 4096)
    directory = -(-tables * 4 // SECTOR)
    used = sorted({s // 4096 for s in grains})
    first = 4 + directory
    data = first + 32 * len(used)
    b = bytearray((data + len(grains)) * SECTOR)
    patch(b, 0, b"COWD" + struct.pack("<IIIIIII", 1, 3, sectors, 1, 4, tables, data + len(grains)))
    for i, table in enumerate(used):
        patch(b, 4 * SECTOR + table * 4, le32(first + 32 * i))
    for i, (sector, content) in enumerate(sorted(grains.items())):
        table = used.index(sector // 4096)
        patch(b, (first + 32 * table) * SECTOR + sector % 4096 * 4, le32(data + i))
        patch(b, (data + i) * SECTOR, content)
    return bytes(b)


def sesparse(sectors, grains):
    """An ESX seSparse extent: grains of 4 KiB, tables of 4096 entries, {grain: 4096 bytes}."""
    tables = -(-sectors // (8 * 4096))
    start, data = 16, -(-(16 + 64 * tables) // 8) * 8
    b = bytearray(data * SECTOR + 4096 * len(grains))
    fields = {0: 0xCAFEBABE, 8: 0x200000001, 16: sectors, 24: 8, 32: 64, 80: 1, 88: 1, 96: 2, 104: 1}
    places = [3, 1, 8, 8, start, 64 * tables, 2, 1, 2, 1, data, 8 * len(grains)]
    for at, value in {**fields, **{112 + 8 * i: v for i, v in enumerate(places)}, 512: 0xCAFECAFE}.items():
        patch(b, at, le64(value))
    for table in range(tables):
        patch(b, 8 * SECTOR + table * 8, le64(1 << 60 | table))
    for i, (grain, content) in enumerate(sorted(grains.items())):
        # The index is kept rotated: its low twelve bits lie above the high 48.
        entry = 3 << 60 | (i & 0xFFF) << 48 | i >> 12
        patch(b, (start + 64 * (grain // 4096)) * SECTOR + grain % 4096 * 8, le64(entry))
        patch(b, data * SECTOR + 4096 * i, content)
    return bytes(b)


# --- COW


def cow(size, backing, mtime, sectors):
    """COW version 2 as a 64-bit host wrote it, {sector: 512 bytes}."""
    b = bytearray(1056)
    patch(b, 0, b"OOOM" + struct.pack(">I", 2) + backing.encode())
    patch(b, 1032, struct.pack(">i", mtime))
    patch(b, 1040, struct.pack(">QI", size, SECTOR))
    bitmap = bytearray(-(-size // SECTOR // 8))
    data = -(-(len(b) + len(bitmap)) // SECTOR) * SECTOR
    b = b + bitmap
    b += bytes(data + (max(sectors) + 1) * SECTOR - len(b))
    for sector, content in sectors.items():
        b[1056 + sector // 8] |= 1 << sector % 8
        patch(b, data + sector * SECTOR, content)
    return bytes(b)


# --- recognised by name only


def cloop():
    script = b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n"
    return script.ljust(128, b"\0") + struct.pack(">II", 65536, 0)


def bochs():
    names = b"Bochs Virtual HD Image".ljust(32, b"\0") + b"Redolog".ljust(16, b"\0") + b"Growing".ljust(16, b"\0")
    return (names + struct.pack("<IIIIIIQ", 0x20000, 512, 256, 512, 4096, 0, 10 * MIB)).ljust(2048, b"\0")


def dmg():
    return bytes(4096) + b"koly" + struct.pack(">II", 4, 512) + bytes(500)
