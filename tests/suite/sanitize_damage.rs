//! Sanitising damaged guests on XFS: each structure with a lie in it, told by checksums or with right ones. Either the damage is seen,
//! told, and nothing is written; or it is let through, and the filesystem's own checker finds nothing that it did not find before.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{dir, run, s};
use crate::guest_write::{complaints, make_xfs};
use crate::hostile_guest::bounded;
use crate::sanitize::guest;

/// What came of sanitising a damaged image.
pub struct Fate {
    /// It was refused; nothing was written.
    pub refused: bool,
    /// What was told.
    pub told: String,
}

/// Everything beside `image`, and `image` itself.
fn beside(image: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(image.parent().unwrap()).unwrap().map(|e| e.unwrap().path()).collect();
    all.sort();
    all
}

/// A copy that takes no more room.
pub fn copy(from: &Path, to: &Path) {
    run("cp", &["--sparse=always", s(from), s(to)]);
}

/// Sanitises `image` for a look and in earnest, within 20 s and 3 GiB: refused with what, where and what next, and not a byte or a
/// file changed; or done.
pub fn sanitised(image: &Path, what: &str) -> Fate {
    let kept = image.with_extension("kept");
    copy(image, &kept);
    let there = beside(image);
    let name = image.file_name().unwrap().to_str().unwrap();
    let mut fate = Fate { refused: true, told: String::new() };
    for more in [&["--dry-run"][..], &[]] {
        let out = bounded(&[&["sanitize"], more, &[s(image)]].concat(), what);
        let told = String::from_utf8_lossy(&out.stderr).into_owned();
        match out.status.code() {
            Some(0) => fate.refused = false,
            Some(1) => {
                assert!(told.starts_with("cowshed: ") && told.contains(name) && told.contains("hint: "), "{what}: {told}");
                assert!(!told.contains("report this") && !told.contains("gave up"), "{what}: taken for a defect of ours: {told}");
            }
            code => panic!("{what}: ended with {code:?}: {told}"),
        }
        if more.is_empty() && out.status.code() == Some(0) {
            let undo = PathBuf::from(format!("{}.sanitize-undo", s(image)));
            std::fs::remove_file(undo).unwrap_or_else(|e| panic!("{what}: no undo file: {e}"));
        } else {
            let same = Command::new("cmp").args(["-s", s(image), s(&kept)]).status().unwrap().success();
            assert!(same, "{what}: it was written: {told}");
        }
        assert_eq!(beside(image), there, "{what}: {told}");
        fate.told = told;
    }
    fate
}

/// A guest on XFS with small folders and one of many blocks, reverse mappings and shared extents known.
fn xfs(d: &Path) -> PathBuf {
    let root = d.join("root");
    guest(&root);
    for i in 0..300 {
        let log = root.join(format!("var/log/many/a-log-with-a-name-{i}"));
        std::fs::create_dir_all(log.parent().unwrap()).unwrap();
        std::fs::write(log, format!("{i}\n")).unwrap();
    }
    let image = d.join("good.xfs");
    make_xfs(&image, &["-m", "rmapbt=1,reflink=1", "-d", "agcount=2"], 40, &root);
    image
}

/// A guest on XFS that has a file in a tree of extents, and what mkfs makes without reverse mappings.
fn torn(d: &Path) -> PathBuf {
    let root = d.join("root");
    guest(&root);
    std::fs::write(root.join("var/log/syslog"), "Nov 23 host sshd: SECRET-syslog-1618033988749894\n".repeat(7000)).unwrap();
    let image = d.join("good.xfs");
    make_xfs(&image, &["-m", "rmapbt=0,reflink=0", "-d", "agcount=2"], 40, &root);
    tree(&image, "/var/log/syslog");
    image
}

/// A number that xfs_db prints for `field` after `at`.
fn number(image: &Path, at: &[&str], field: &str) -> u64 {
    let print = format!("p {field}");
    let words: Vec<&str> = at.iter().copied().chain([print.as_str()]).flat_map(|c| ["-c", c]).chain([s(image)]).collect();
    let out = run("xfs_db", &words);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let last = text.trim().rsplit(['=', ' ']).next().unwrap().trim().to_string();
    let value = last.strip_prefix("0x").map_or_else(|| last.parse(), |hex| u64::from_str_radix(hex, 16));
    value.unwrap_or_else(|_| panic!("{at:?} {field}: {text}"))
}

/// Runs xfs_db's commands on `image`; `write -d` sets right checksums, `write -c` leaves wrong ones.
fn db(image: &Path, commands: &[&str]) {
    let words: Vec<&str> = commands.iter().flat_map(|c| ["-c", c]).chain([s(image)]).collect();
    let out = run("xfs_db", &[&["-x"][..], &words].concat());
    let told = String::from_utf8_lossy(&out.stderr);
    assert!(!told.contains("unknown") && !told.contains("unable"), "{commands:?}: {told}");
}

/// What `xfs_repair` says, without the addresses in its own memory.
fn lines(said: &str) -> Vec<String> {
    said.lines()
        .map(|l| l.split(' ').filter(|w| !w.starts_with("0x5") && !w.starts_with("0x7")).collect::<Vec<_>>().join(" "))
        .collect()
}

/// Sanitises a copy of `good` with each damage; `through` names those that do no harm and are let through: `xfs_repair -n` must
/// find nothing afterwards that it did not find before.
fn each(good: &Path, damages: &[(&str, &[&str])], through: &[&str]) {
    let image = good.with_file_name("x.raw");
    assert_eq!(complaints(good, "xfs"), "", "before any damage");
    copy(good, &image);
    assert!(!sanitised(&image, "whole").refused);
    for (what, commands) in damages {
        copy(good, &image);
        db(&image, commands);
        let same = Command::new("cmp").args(["-s", s(&image), s(good)]).status().unwrap().success();
        assert!(!same, "{what}: changed nothing");
        let before = complaints(&image, "xfs");
        let fate = sanitised(&image, what);
        assert_eq!(fate.refused, !through.contains(what), "{what}: {}", fate.told);
        if !fate.refused {
            let (known, now) = (lines(&before), lines(&complaints(&image, "xfs")));
            let new: Vec<&String> = now.iter().filter(|l| !known.contains(l)).collect();
            assert!(new.is_empty(), "{what}: made worse: {new:?}");
        }
    }
}

/// Puts the only extent of `path` into a tree: thirty records in a block of its own, which is the file's last (so that all counts stay).
/// No tool makes a file as torn as that without mounting.
fn tree(image: &Path, path: &str) {
    const BLOCK: u64 = 4096;
    let at = [format!("path {path}")];
    let at = [at[0].as_str()];
    let text = run("xfs_db", &["-c", at[0], "-c", "p u3.bmx", s(image)]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    let first = text.split("0:[").nth(1).unwrap_or_else(|| panic!("{text}"));
    let parts: Vec<u64> = first.split([',', ']']).take(3).map(|w| w.parse().unwrap()).collect();
    let (start, blocks) = (parts[1], parts[2] - 1);
    let (ino, inode) = (number(image, &at, "v3.inumber"), {
        let out = run("xfs_db", &["-c", at[0], "-c", "daddr", s(image)]);
        String::from_utf8_lossy(&out.stdout).trim().rsplit(' ').next().unwrap().parse::<u64>().unwrap() * 512
    });
    let (agblocks, agblklog) = (number(image, &["sb 0"], "agblocks"), number(image, &["sb 0"], "agblklog"));
    let place = |fsblock: u64| ((fsblock >> agblklog) * agblocks + (fsblock & ((1 << agblklog) - 1))) * BLOCK;
    let file = std::fs::File::options().read(true).write(true).open(image).unwrap();
    let mut core = [0u8; 512];
    file.read_exact_at(&mut core, inode).unwrap();
    assert_eq!(&core[..2], b"IN");
    let own = start + blocks;
    // The block: head of 72 bytes, then the records of 16 (a flag, 54 bits of file block, 52 of place, 21 of length).
    let mut leaf = vec![0u8; BLOCK as usize];
    leaf[..4].copy_from_slice(b"BMA3");
    leaf[6..8].copy_from_slice(&30u16.to_be_bytes());
    leaf[8..24].fill(0xff);
    leaf[24..32].copy_from_slice(&(place(own) / 512).to_be_bytes());
    leaf[40..56].copy_from_slice(&core[160..176]);
    leaf[56..64].copy_from_slice(&ino.to_be_bytes());
    let each = blocks / 30;
    for i in 0..30 {
        let (from, len) = (i * each, if i == 29 { blocks - 29 * each } else { each });
        let record = u128::from(from) << 73 | u128::from(start + from) << 21 | u128::from(len);
        leaf[72 + i as usize * 16..88 + i as usize * 16].copy_from_slice(&record.to_be_bytes());
    }
    let sum = crc32c::crc32c(&leaf);
    leaf[64..68].copy_from_slice(&sum.to_le_bytes());
    file.write_all_at(&leaf, place(own)).unwrap();
    // The inode: a tree of one level with one key and one place; a block less in size.
    core[5] = 3;
    core[56..64].copy_from_slice(&(blocks * BLOCK).to_be_bytes());
    core[76..80].copy_from_slice(&30u32.to_be_bytes());
    let fork = &mut core[176..];
    fork.fill(0);
    fork[..4].copy_from_slice(&[0, 1, 0, 1]);
    let most = (512 - 176 - 4) / 16;
    fork[4 + most * 8..12 + most * 8].copy_from_slice(&own.to_be_bytes());
    core[100..104].fill(0);
    let sum = crc32c::crc32c(&core);
    core[100..104].copy_from_slice(&sum.to_le_bytes());
    file.write_all_at(&core, inode).unwrap();
}

#[test]
fn a_superblock_that_lies_is_told() {
    let d = dir();
    each(
        &xfs(d.path()),
        &[
            ("no magic", &["sb 0", "write -d magicnum 0"]),
            ("checksum", &["sb 0", "write -c crc 1"]),
            ("blocks of no size", &["sb 0", "write -d blocksize 0"]),
            ("blocks of 3 bytes", &["sb 0", "write -d blocksize 3"]),
            ("blocks of 2 GiB", &["sb 0", "write -d blocksize 0x80000000"]),
            ("sectors of no size", &["sb 0", "write -d sectsize 0"]),
            ("inodes of 4 bytes", &["sb 0", "write -d inodesize 4"]),
            ("a thousand inodes in a block", &["sb 0", "write -d inopblock 1000"]),
            ("more blocks than there are", &["sb 0", "write -d dblocks 0x7fffffffffff"]),
            ("no blocks", &["sb 0", "write -d dblocks 0"]),
            ("groups of no blocks", &["sb 0", "write -d agblocks 0"]),
            ("groups of 2^31 blocks", &["sb 0", "write -d agblocks 0x7fffffff"]),
            ("no groups", &["sb 0", "write -d agcount 0"]),
            ("2^31 groups", &["sb 0", "write -d agcount 0x7fffffff"]),
            ("a root beyond the end", &["sb 0", "write -d rootino 0x7fffffffff"]),
            ("a root that is a file", &["sb 0", "write -d rootino 131"]),
            ("a log beyond the end", &["sb 0", "write -d logstart 0x7fffffff"]),
            ("a log in an inode chunk", &["sb 0", "write -d logstart 16"]),
            ("a log of 2^31 blocks", &["sb 0", "write -d logblocks 0x7fffffff"]),
            ("unknown incompatible features", &["sb 0", "write -d features_incompat 0x80000003"]),
            ("unknown read-only features", &["sb 0", "write -d features_ro_compat 0x8000000f"]),
            ("more free blocks than there are", &["sb 0", "write -d fdblocks 0x7fffffff"]),
            ("more inodes than there are", &["sb 0", "write -d icount 0x7fffffff"]),
            ("a copy that differs", &["sb 1", "write -d dblocks 5"]),
            ("folder blocks of 2^40 bytes", &["sb 0", "write -d dirblklog 28"]),
        ],
        &[],
    );
}

#[test]
fn heads_of_groups_that_lie_are_told() {
    let d = dir();
    each(
        &xfs(d.path()),
        &[
            ("AGF: no magic", &["agf 1", "write -d magicnum 0"]),
            ("AGF: checksum", &["agf 1", "write -c crc 1"]),
            ("AGF: of another group", &["agf 1", "write -d seqno 2"]),
            ("AGF: a group of 2^31 blocks", &["agf 1", "write -d length 0x7fffffff"]),
            ("AGF: a tree beyond the end", &["agf 1", "write -d bnoroot 0x7fffffff"]),
            ("AGF: a tree that is another", &["agf 1", "write -d bnoroot 3"]),
            ("AGF: a tree of 200 levels", &["agf 1", "write -d cntlevel 200"]),
            ("AGF: a tree of no level", &["agf 1", "write -d rmaplevel 0"]),
            ("AGF: shared extents nowhere", &["agf 1", "write -d refcntroot 0x7fffffff"]),
            ("AGF: a list that begins outside", &["agf 1", "write -d flfirst 4000000"]),
            ("AGF: a list that ends outside", &["agf 1", "write -d fllast 4000000"]),
            ("AGF: a list of another length", &["agf 1", "write -d flcount 3"]),
            ("AGF: other free blocks", &["agf 0", "write -d freeblks 7"]),
            ("AGF: another longest extent", &["agf 0", "write -d longest 7"]),
            ("AGFL: no magic", &["agfl 1", "write -d magicnum 0"]),
            ("AGFL: checksum", &["agfl 1", "write -c crc 1"]),
            ("AGFL: a block beyond the end", &["agfl 1", "write -d bno[5] 0x7fffffff"]),
            ("AGFL: a block of inodes", &["agfl 0", "write -d bno[5] 16"]),
            ("AGFL: a block twice", &["agfl 0", "write -d bno[5] 9"]),
            ("AGI: no magic", &["agi 1", "write -d magicnum 0"]),
            ("AGI: checksum", &["agi 1", "write -c crc 1"]),
            ("AGI: a tree beyond the end", &["agi 1", "write -d root 0x7fffffff"]),
            ("AGI: a tree that is another", &["agi 1", "write -d free_root 1"]),
            ("AGI: a tree of 200 levels", &["agi 1", "write -d level 200"]),
            ("AGI: other inodes", &["agi 1", "write -d count 128"]),
            ("AGI: other free inodes", &["agi 1", "write -d freecount 1"]),
            ("AGI: a file that is gone and open", &["agi 1", "write -d unlinked[3] 131"]),
        ],
        &[],
    );
}

#[test]
fn inodes_that_lie_are_told() {
    let d = dir();
    let log = "path /var/log/syslog";
    each(
        &xfs(d.path()),
        &[
            ("no magic", &[log, "write -d core.magic 0"]),
            ("checksum", &[log, "write -c v3.crc 1"]),
            ("of version 9", &[log, "write -d core.version 9"]),
            ("of another number", &[log, "write -d v3.inumber 128"]),
            ("of another filesystem", &[log, "write -d v3.uuid 11111111-2222-3333-4444-555555555555"]),
            ("a file of format 7", &[log, "write -d core.format 7"]),
            ("a file of 2^62 bytes", &[log, "write -d core.size 0x4000000000000000"]),
            ("a file of -1 bytes", &[log, "write -d core.size 0xffffffffffffffff"]),
            ("a file of other blocks", &[log, "write -d core.nblocks 99"]),
            ("a file of 2^31 extents", &[log, "write -d core.nextents 0x7fffffff"]),
            ("a file of 2 extents", &[log, "write -d core.nextents 2"]),
            ("an extent beyond the end", &[log, "write -d u3.bmx[0].startblock 0x7fffffffffff"]),
            ("an extent of 2^20 blocks", &[log, "write -d u3.bmx[0].blockcount 0xfffff"]),
            ("an extent of no blocks", &[log, "write -d u3.bmx[0].blockcount 0"]),
            ("an extent on a group's head", &[log, "write -d u3.bmx[0].startblock 0"]),
            ("an extent on the free space", &[log, "write -d u3.bmx[0].startblock 4000"]),
            ("an extent on the inodes", &[log, "write -d u3.bmx[0].startblock 16"]),
            ("attributes beyond the inode", &[log, "write -d core.forkoff 255"]),
            ("attributes that are not there", &[log, "write -d core.forkoff 30", "write -d core.aformat 1"]),
            ("no names", &[log, "write -d core.nlinkv2 0"]),
            ("2^31 names", &[log, "write -d core.nlinkv2 0x7fffffff"]),
            ("a file that is a folder", &[log, "write -d core.mode 040755"]),
            ("a file of the realtime section", &[log, "write -d core.realtime 1"]),
            ("a file with shared extents that has none", &[log, "write -d v3.reflink 1"]),
            ("a file that is gone", &[log, "write -d core.mode 0"]),
            ("a folder that is a file", &["path /var/log", "write -d core.mode 0100644"]),
            ("a folder that is a link", &["path /var/log", "write -d core.mode 0120777"]),
            ("the root is a file", &["inode 128", "write -d core.mode 0100644"]),
            ("a link of 2^31 bytes", &["path /etc/machine-id-link", "write -d core.size 0x7fffffff"]),
            ("a link of no bytes", &["path /etc/machine-id-link", "write -d core.size 0"]),
        ],
        &["a file of 2^62 bytes", "a file of -1 bytes", "a file with shared extents that has none"],
    );
}

#[test]
fn folders_that_lie_are_told() {
    let d = dir();
    let (many, small) = ("path /var/log/many", "path /var/log");
    each(
        &xfs(d.path()),
        &[
            ("no magic", &[many, "dblock 0", "write -d dhdr.hdr.magic 0"]),
            ("checksum", &[many, "dblock 0", "write -c dhdr.hdr.crc 1"]),
            ("of another folder", &[many, "dblock 1", "write -d dhdr.hdr.owner 128"]),
            ("of another place", &[many, "dblock 1", "write -d dhdr.hdr.bno 8"]),
            ("a name of no bytes", &[many, "dblock 0", "write -d du[5].namelen 0"]),
            ("a name of 255 bytes", &[many, "dblock 0", "write -d du[5].namelen 255"]),
            ("an entry to nowhere", &[many, "dblock 0", "write -d du[5].inumber 0x7fffffffff"]),
            ("an entry to an inode that is free", &[many, "dblock 0", "write -d du[5].inumber 190"]),
            ("an entry to the root", &[many, "dblock 0", "write -d du[5].inumber 128"]),
            ("an entry of another kind", &[many, "dblock 0", "write -d du[5].filetype 2"]),
            ("an entry with another tag", &[many, "dblock 0", "write -d du[5].tag 8"]),
            ("a parent that is another", &[many, "dblock 0", "write -d du[1].inumber 128"]),
            ("a gap of another length", &[many, "dblock 2", "write -d dhdr.bestfree[0].length 16"]),
            ("an index without magic", &[many, "dblock 8388608", "write -d lhdr.info.hdr.magic 0"]),
            ("an index: checksum", &[many, "dblock 8388608", "write -c lhdr.info.crc 1"]),
            ("an index of 60000 entries", &[many, "dblock 8388608", "write -d lhdr.count 60000"]),
            ("an index that is shorter", &[many, "dblock 8388608", "write -d lhdr.count 100"]),
            ("an index with another hash", &[many, "dblock 8388608", "write -d lents[7].hashval 1"]),
            ("an index that leads elsewhere", &[many, "dblock 8388608", "write -d lents[7].address 0x7fffffff"]),
            ("a small one with a name of 255 bytes", &[small, "write -d u3.sfdir3.list[0].namelen 255"]),
            ("a small one with 200 entries", &[small, "write -d u3.sfdir3.hdr.count 200"]),
            ("a small one with no entries", &[small, "write -d u3.sfdir3.hdr.count 0"]),
            ("a small one with wide numbers", &[small, "write -d u3.sfdir3.hdr.i8count 2"]),
            ("a small one in itself", &["path /var", "write -d u3.sfdir3.list[0].inumber.i4 128"]),
            ("a small one to nowhere", &[small, "write -d u3.sfdir3.list[0].inumber.i4 0x7ffffff0"]),
            ("a small one with another parent", &[small, "write -d u3.sfdir3.hdr.parent.i4 131"]),
            ("a small one of 2^31 bytes", &[small, "write -d core.size 0x7fffffff"]),
            ("a small one of 3 bytes", &[small, "write -d core.size 3"]),
        ],
        &["a gap of another length"],
    );
}

#[test]
fn trees_that_lie_are_told() {
    let d = dir();
    each(
        &xfs(d.path()),
        &[
            ("free space by place: no magic", &["agf 0", "addr bnoroot", "write -d magic 0"]),
            ("free space by place: checksum", &["agf 0", "addr bnoroot", "write -c crc 1"]),
            ("free space by place: a level more", &["agf 0", "addr bnoroot", "write -d level 1"]),
            ("free space by place: 60000 records", &["agf 0", "addr bnoroot", "write -d numrecs 60000"]),
            ("free space by place: no records", &["agf 0", "addr bnoroot", "write -d numrecs 0"]),
            ("free space by place: beside itself", &["agf 0", "addr bnoroot", "write -d rightsib 1"]),
            ("free space by place: of another group", &["agf 0", "addr bnoroot", "write -d owner 1"]),
            ("free space by place: beyond the end", &["agf 0", "addr bnoroot", "write -d recs[1].startblock 0x7fffffff"]),
            ("free space by place: too long", &["agf 0", "addr bnoroot", "write -d recs[1].blockcount 0x7fffffff"]),
            ("free space by place: on the inodes", &["agf 0", "addr bnoroot", "write -d recs[1].startblock 16"]),
            ("free space by place: on a group's head", &["agf 0", "addr bnoroot", "write -d recs[1].startblock 0"]),
            ("free space by size: no magic", &["agf 0", "addr cntroot", "write -d magic 0"]),
            ("free space by size: another place", &["agf 0", "addr cntroot", "write -d recs[1].startblock 11"]),
            ("free space by size: another length", &["agf 0", "addr cntroot", "write -d recs[1].blockcount 1"]),
            ("owners: no magic", &["agf 0", "addr rmaproot", "write -d magic 0"]),
            ("owners: another owner", &["agf 0", "addr rmaproot", "addr ptrs[1]", "write -d recs[5].owner 77"]),
            ("owners: too long", &["agf 0", "addr rmaproot", "addr ptrs[1]", "write -d recs[3].blockcount 0x7fffffff"]),
            ("owners: another offset", &["agf 0", "addr rmaproot", "addr ptrs[1]", "write -d recs[6].offset 0x7fffffff"]),
            ("shared extents: no magic", &["agf 0", "addr refcntroot", "write -d magic 0"]),
            ("shared extents: one that is not", &["agf 0", "addr refcntroot", "write -d numrecs 1"]),
            ("inodes: no magic", &["agi 0", "addr root", "write -d magic 0"]),
            ("inodes: checksum", &["agi 0", "addr root", "write -c crc 1"]),
            ("inodes: a chunk beyond the end", &["agi 0", "addr root", "write -d recs[1].startino 0x7fffffc0"]),
            ("inodes: a chunk elsewhere", &["agi 0", "addr root", "write -d recs[1].startino 256"]),
            ("inodes: more free than there are", &["agi 0", "addr root", "write -d recs[1].freecount 100"]),
            ("inodes: others free", &["agi 0", "addr root", "write -d recs[6].free 0"]),
            ("inodes: half of them nowhere", &["agi 0", "addr root", "write -d recs[1].holemask 0xff"]),
            ("free inodes: no magic", &["agi 0", "addr free_root", "write -d magic 0"]),
            ("free inodes: others", &["agi 0", "addr free_root", "write -d recs[1].free 1"]),
        ],
        &[],
    );
}

#[test]
fn a_tree_of_extents_that_lies_is_told() {
    let d = dir();
    let log = "path /var/log/syslog";
    each(
        &torn(d.path()),
        &[
            ("no level", &[log, "write -d u3.bmbt.level 0"]),
            ("200 levels", &[log, "write -d u3.bmbt.level 200"]),
            ("no places", &[log, "write -d u3.bmbt.numrecs 0"]),
            ("60000 places", &[log, "write -d u3.bmbt.numrecs 60000"]),
            ("a block beyond the end", &[log, "write -d u3.bmbt.ptrs[1] 0x7fffffff"]),
            ("a block of the inodes", &[log, "write -d u3.bmbt.ptrs[1] 16"]),
            ("no magic", &[log, "addr u3.bmbt.ptrs[1]", "write -d magic 0"]),
            ("checksum", &[log, "addr u3.bmbt.ptrs[1]", "write -c crc 1"]),
            ("of another file", &[log, "addr u3.bmbt.ptrs[1]", "write -d owner 128"]),
            ("of another place", &[log, "addr u3.bmbt.ptrs[1]", "write -d bno 8"]),
            ("60000 records", &[log, "addr u3.bmbt.ptrs[1]", "write -d numrecs 60000"]),
            ("fewer records", &[log, "addr u3.bmbt.ptrs[1]", "write -d numrecs 20"]),
            ("a level more", &[log, "addr u3.bmbt.ptrs[1]", "write -d level 1"]),
            ("beside itself", &[log, "addr u3.bmbt.ptrs[1]", "write -d rightsib 16"]),
            ("an extent beyond the end", &[log, "addr u3.bmbt.ptrs[1]", "write -d recs[3].startblock 0x7fffffffffff"]),
            ("an extent in another's place", &[log, "addr u3.bmbt.ptrs[1]", "write -d recs[3].startblock 16"]),
            ("an extent too long", &[log, "addr u3.bmbt.ptrs[1]", "write -d recs[3].blockcount 0xfffff"]),
            ("extents out of order", &[log, "addr u3.bmbt.ptrs[1]", "write -d recs[3].startoff 0x7fffffff"]),
        ],
        &[],
    );
}

/// The kernel goes along a tree by what its blocks name as their neighbours; `xfs_repair` does not look at that.
#[test]
fn trees_that_were_laid_out_again_can_be_walked_along() {
    let d = dir();
    xfs(d.path());
    let (root, image) = (d.path().join("root"), d.path().join("x.raw"));
    let kept = root.join("var/lib/kept");
    std::fs::create_dir_all(&kept).unwrap();
    (0..900).for_each(|i| std::fs::write(kept.join(format!("a-file-that-stays-{i}")), "x").unwrap());
    make_xfs(&image, &["-m", "rmapbt=1,reflink=1", "-d", "agcount=2"], 40, &root);
    assert!(!sanitised(&image, "whole").refused);
    let ask = |at: &[&str], field: &str| -> String {
        let print = format!("p {field}");
        let words: Vec<&str> = at.iter().copied().chain([print.as_str()]).flat_map(|c| ["-c", c]).chain([s(&image)]).collect();
        String::from_utf8_lossy(&run("xfs_db", &words).stdout).trim().to_string()
    };
    let mut several = 0;
    for ag in ["agf 0", "agf 1"] {
        for root in ["addr bnoroot", "addr cntroot", "addr rmaproot"] {
            if ask(&[ag, root], "level") != "level = 1" {
                continue;
            }
            several += 1;
            // `ptrs[1-3] = 1:5 2:7 3:9`
            let ptrs = ask(&[ag, root], "ptrs");
            let blocks: Vec<&str> = ptrs.split(' ').filter_map(|w| w.split_once(':').map(|(_, block)| block)).collect();
            for (i, block) in blocks.iter().enumerate() {
                let child = format!("addr ptrs[{}]", i + 1);
                let name = |at: Option<usize>| at.and_then(|i| blocks.get(i)).unwrap_or(&"null").to_string();
                for (field, want) in [("leftsib", name(i.checked_sub(1))), ("rightsib", name(Some(i + 1)))] {
                    assert_eq!(ask(&[ag, root, &child], field), format!("{field} = {want}"), "{ag} {root} {block}");
                }
            }
        }
    }
    assert!(several > 0, "no tree has several blocks: the test shows nothing");
    // Used by the kernel, where tests may mount: it stays whole.
    let (to, at) = (d.path().join("mnt"), d.path().join("more"));
    std::fs::create_dir(&to).unwrap();
    let mounted = Command::new("mount").args(["-t", "xfs", "-o", "loop,nouuid", s(&image), s(&to)]).output();
    if !mounted.is_ok_and(|o| o.status.success()) {
        eprintln!("not allowed to mount: the kernel is not asked");
        return;
    }
    std::fs::create_dir(&at).unwrap();
    (0..800).for_each(|i| std::fs::write(at.join(format!("a-file-{i}")), vec![7; 5000]).unwrap());
    let filled = Command::new("sh").args(["-c", &format!("rm -rf {0}/var {0}/usr; cp -r {1} {0}/", s(&to), s(&at))]).status();
    run("umount", &[s(&to)]);
    assert!(filled.unwrap().success());
    assert_eq!(complaints(&image, "xfs"), "");
}
