//! Sanitising guests on LVM whose label or metadata is damaged, or whose filesystem is: told, with the volume's name, and nothing written.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::common::{cowshed, dir, run, s};
use crate::guest_write::{complaints, make, make_xfs};
use crate::physical_volume::{AREA, DATA, EXTENT, LABEL, TEXT, physical_volume, seal, set_text};
use crate::sanitize::{disk, guest, left};
use crate::sanitize_damage::{copy, sanitised};

/// What is done to the first MiB of a physical volume.
type Change<'a> = Box<dyn Fn(&mut Vec<u8>) + 'a>;

/// Where the physical volume is on the disk.
const AT: u64 = 1 << 20;

/// A disk with one partition that holds `fs` on LVM; `more` volumes.
fn on_lvm(image: &Path, fs: &Path, more: &str) {
    let pv = image.with_extension("pv");
    physical_volume(&pv, fs, more);
    let megabytes = (std::fs::metadata(&pv).unwrap().len() >> 20) + 3;
    let script = format!("label: gpt\nsize={}M,type=lvm\n", std::fs::metadata(&pv).unwrap().len() >> 20);
    disk(image, megabytes, &script, &[]);
    run("dd", &[&format!("if={}", s(&pv)), &format!("of={}", s(image)), "bs=1M", "seek=1", "conv=notrunc,sparse", "status=none"]);
    std::fs::remove_file(pv).unwrap();
}

/// Changes the first MiB of the physical volume of `image`.
fn head(image: &Path, change: &dyn Fn(&mut Vec<u8>)) {
    let file = std::fs::File::options().read(true).write(true).open(image).unwrap();
    let mut bytes = vec![0; DATA];
    file.read_exact_at(&mut bytes, AT).unwrap();
    change(&mut bytes);
    file.write_all_at(&bytes, AT).unwrap();
}

fn text(head: &[u8]) -> String {
    let len = u64::from_le_bytes(head[AREA + 48..AREA + 56].try_into().unwrap()) as usize;
    String::from_utf8(head[TEXT..TEXT + len - 1].to_vec()).unwrap()
}

/// The metadata with one text for another, and right checksums.
fn retold<'a>(from: &'a str, to: &'a str) -> Change<'a> {
    Box::new(move |head| {
        let old = text(head);
        assert!(old.contains(from), "{from}: {old}");
        set_text(head, &old.replacen(from, to, 1));
        seal(head);
    })
}

fn ext4(d: &Path) -> PathBuf {
    let root = d.join("root");
    guest(&root);
    let fs = d.join("fs");
    make(&fs, "-t ext4 -O ^metadata_csum", &root, 24);
    fs
}

#[test]
fn a_damaged_label_or_metadata_is_told_and_what_can_be_read_still_is() {
    let d = dir();
    let (good, image) = (d.path().join("good.raw"), d.path().join("x.raw"));
    let other = r#"home { id = "h" segment_count = 1 segment1 { start_extent = 0 extent_count = 1 type = "striped" stripe_count = 1 stripes = [ "pv0", 6 ] } }"#;
    on_lvm(&good, &ext4(d.path()), other);
    let put = |at: usize, new: &'static [u8]| -> Change<'_> { Box::new(move |h| h[at..at + new.len()].copy_from_slice(new)) };
    let sealed = |at: usize, new: &'static [u8]| -> Change<'_> {
        Box::new(move |h| {
            h[at..at + new.len()].copy_from_slice(new);
            seal(h);
        })
    };
    let (root, gone) = ("root {", "no root filesystem");
    let damages: Vec<(&str, Change<'_>, &str)> = vec![
        ("the label is gone", put(LABEL, b"LABELTWO"), gone),
        ("the label's checksum", put(LABEL + 16, b"\x01\x02\x03\x04"), "checksum of the label"),
        ("the label is of another sector", put(LABEL + 8, b"\x07"), "checksum of the label"),
        ("the label points outside", sealed(LABEL + 20, b"\xff\xff\xff\x7f"), gone),
        ("the label has no metadata area", sealed(LABEL + 104, &[0; 16]), "LVM2"),
        ("the metadata area is beyond the end", sealed(LABEL + 104, b"\0\0\0\0\0\0\0\x40"), "read LVM2 metadata"),
        ("the area's checksum", put(AREA, b"\x01\x02\x03\x04"), "checksum of the metadata area"),
        ("the area's magic", put(AREA + 4, b"nothing of LVM"), "no metadata area could be read"),
        ("the text begins outside its area", sealed(AREA + 40, b"\0\0\0\0\x01"), "outside its area"),
        ("the text's checksum", put(AREA + 56, b"\x01\x02\x03\x04"), "checksum of the metadata"),
        ("a letter of the text", put(TEXT + 11, b"y"), "checksum of the metadata"),
        (
            "the text is cut short",
            Box::new(|h| {
                let short = text(h)[..150].to_string();
                set_text(h, &short);
                seal(h);
            }),
            "read LVM2 metadata",
        ),
        ("a length of 16 EiB", put(AREA + 48, &[0xff; 8]), "outside its area"),
        ("extents of no size", retold("extent_size = 8192", "extent_size = 0"), "no root filesystem"),
        ("extents of 2^64 bytes", retold("extent_size = 8192", "extent_size = 18446744073709551615"), "LVM2"),
        ("a segment beyond the end", retold("\"pv0\", 0 ]", "\"pv0\", 70 ]"), "outside its physical volume"),
        ("a segment past 2^64", retold("\"pv0\", 0 ]", "\"pv0\", 18446744073709551615 ]"), "2^64"),
        (
            "a segment of 2^40 extents",
            retold("start_extent = 3 extent_count = 3", "start_extent = 3 extent_count = 1099511627776"),
            "outside",
        ),
        ("segments with a gap", retold("start_extent = 3", "start_extent = 4"), "leave a gap"),
        ("segments that overlap", retold("\"pv0\", 0 ]", "\"pv0\", 4 ]"), "overlaps root"),
        ("volumes that overlap", retold("\"pv0\", 6 ]", "\"pv0\", 5 ]"), "overlaps root"),
        ("a volume on the metadata", retold("pe_start = 2048", "pe_start = 0"), "keeps the metadata"),
        ("a volume on another disk", retold("\"pv0\", 0 ]", "\"pv9\", 0 ]"), "another disk"),
        ("a volume twice", retold("home {", root), "stands twice"),
        ("an unknown segment", retold("type = \"striped\"", "type = \"writecache\""), "writecache"),
        (
            "sections without end",
            retold("logical_volumes {", "a { a { a { a { a { a { a { a { a { logical_volumes {"),
            "nested too deeply",
        ),
    ];
    for (what, change, why) in &damages {
        copy(&good, &image);
        head(&image, change.as_ref());
        let fate = sanitised(&image, what);
        assert!(fate.refused && fate.told.contains(why), "{what}: {}", fate.told);
    }
    // A wrong checksum does not keep anybody from looking: it is shown, and said.
    copy(&good, &image);
    head(&image, &*put(AREA + 56, b"\x01\x02\x03\x04"));
    let out = cowshed(&["inspect", s(&image)]);
    let shown = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success() && shown.contains("vg/root") && shown.contains("checksum of the metadata"), "{shown}");
    let out = cowshed(&["cat", &format!("{}:/kept", s(&image))]);
    assert_eq!(out.stdout, b"this stays as it is\n");
    // And the good one is sanitised, the other volume left alone.
    copy(&good, &image);
    let home = AT + (DATA + 6 * EXTENT) as u64;
    std::fs::File::options().write(true).open(&image).unwrap().write_all_at(b"of another volume", home).unwrap();
    assert!(!sanitised(&image, "whole").refused);
    let mut kept = [0; 17];
    std::fs::File::open(&image).unwrap().read_exact_at(&mut kept, home).unwrap();
    assert_eq!((&kept, left(&image)), (b"of another volume", Vec::new()));
}

#[test]
fn partitions_that_overlap_are_told() {
    let d = dir();
    let (fs, image) = (ext4(d.path()), d.path().join("x.raw"));
    disk(&image, 48, "label: dos\nstart=2048,size=24M,type=83\nstart=53248,size=16M,type=83\n", &[(1 << 20, &fs)]);
    assert!(!sanitised(&image, "beside each other").refused);
    // The second begins where the first has its last sectors: its entry in the table says so.
    disk(&image, 48, "label: dos\nstart=2048,size=24M,type=83\nstart=53248,size=16M,type=83\n", &[(1 << 20, &fs)]);
    let table = std::fs::File::options().write(true).open(&image).unwrap();
    table.write_all_at(&40_000u32.to_le_bytes(), 446 + 16 + 8).unwrap();
    let fate = sanitised(&image, "overlapping");
    assert!(fate.refused && fate.told.contains("p1 and p2 overlap"), "{}", fate.told);
}

/// Damage of the filesystem itself, reached through a volume in two pieces.
#[test]
fn a_damaged_filesystem_on_lvm_is_told_with_its_volume() {
    let d = dir();
    let image = d.path().join("x.raw");
    let fs = ext4(d.path());
    let debugfs = |command: &str| run("debugfs", &["-w", "-R", command, s(&fs)]);
    let whole = std::fs::read(&fs).unwrap();
    for (what, command) in [
        ("a link count", "sif /kept links_count 5"),
        ("a block in use twice", "sif /kept block[5] 40"),
        ("free blocks", "ssv free_blocks_count 7"),
        ("a bitmap", "set_bg 0 block_bitmap 3"),
        ("an inode table", "set_bg 0 inode_table 90000000"),
        ("the size of an inode", "ssv inode_size 5"),
    ] {
        std::fs::write(&fs, &whole).unwrap();
        debugfs(command);
        on_lvm(&image, &fs, "");
        let fate = sanitised(&image, what);
        assert!(fate.refused && fate.told.contains("vg/root"), "{what}: {}", fate.told);
    }
    let xfs = d.path().join("xfs");
    make_xfs(&xfs, &["-m", "rmapbt=1,reflink=1", "-d", "agcount=2"], 40, &d.path().join("root"));
    let whole = d.path().join("whole");
    copy(&xfs, &whole);
    on_lvm(&image, &xfs, "");
    assert!(!sanitised(&image, "whole").refused);
    for (what, commands) in [
        ("superblock", ["sb 0", "write -d fdblocks 7"]),
        ("AGF", ["agf 1", "write -d longest 7"]),
        ("AGI", ["agi 1", "write -d count 128"]),
        ("AGFL", ["agfl 1", "write -d bno[5] 0x7fffffff"]),
        ("inode", ["path /var/log/syslog", "write -d u3.bmx[0].startblock 16"]),
        ("folder", ["path /var/log", "write -d u3.sfdir3.hdr.count 200"]),
    ] {
        copy(&whole, &xfs);
        run("xfs_db", &["-x", "-c", commands[0], "-c", commands[1], s(&xfs)]);
        assert_ne!(complaints(&xfs, "xfs"), "", "{what}");
        on_lvm(&image, &xfs, "");
        let fate = sanitised(&image, what);
        assert!(fate.refused && fate.told.contains("vg/root"), "{what}: {}", fate.told);
    }
}
