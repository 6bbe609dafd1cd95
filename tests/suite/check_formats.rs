//! Checking the formats that keep no counts: clean images of every sort are clean here and for qemu-img where it checks them, and
//! what was broken on purpose is told by name.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use cowshed::engine::format::Format;

use crate::common::{change_at_random, cowshed, create, dir, noise, qemu_img, qemu_io, s};

/// Exit code and report of our check.
fn ours(image: &Path) -> (i32, serde_json::Value) {
    let out = cowshed(&["check", "--output=json", s(image)]);
    let text = String::from_utf8_lossy(&out.stdout);
    let report = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text} {}", String::from_utf8_lossy(&out.stderr)));
    (out.status.code().unwrap(), report)
}

/// Exit code and report of qemu-img's.
fn theirs(format: &str, image: &Path) -> (i32, serde_json::Value) {
    let out = Command::new("qemu-img").args(["check", "-f", format, "--output=json", s(image)]).output().unwrap();
    (out.status.code().unwrap(), serde_json::from_slice(&out.stdout).unwrap_or_default())
}

fn ids(report: &serde_json::Value) -> Vec<(&str, u64)> {
    let all = report["findings"].as_array().unwrap();
    all.iter().map(|f| (f["id"].as_str().unwrap(), f["count"].as_u64().unwrap())).collect()
}

/// Nothing is found, and where qemu-img checks the format it agrees.
fn clean(driver: &str, image: &Path, what: &str) {
    let (code, report) = ours(image);
    let worse = report["findings"].as_array().unwrap().iter().filter(|f| f["severity"] != "note").count();
    assert!(code == 0 && worse == 0, "{what}: {report:#}");
    if matches!(driver, "vmdk" | "vdi" | "vhdx") {
        let (code, theirs) = theirs(driver, image);
        assert_eq!(code, 0, "{what}: {theirs:#}");
        for (key, value) in theirs.as_object().unwrap() {
            assert_eq!(&report[key], value, "{what}: {key}");
        }
    }
}

#[test]
fn images_of_every_sort_that_qemu_makes_are_clean() {
    let d = dir();
    let raw = d.path().join("in.raw");
    let mut bytes = noise(1, 3 << 20);
    bytes.resize(9 << 20, 0);
    bytes.extend(noise(2, 70_000));
    bytes.resize(20 << 20, 0);
    std::fs::write(&raw, &bytes).unwrap();
    for (driver, options) in [
        ("qcow", ""),
        ("qcow", "-c"),
        ("vdi", ""),
        ("vdi", "-o static=on"),
        ("vpc", ""),
        ("vpc", "-o force_size=on"),
        ("vpc", "-o subformat=fixed"),
        ("vpc", "-o subformat=fixed,force_size=on"),
        ("vhdx", ""),
        ("vhdx", "-o block_size=1M"),
        ("vhdx", "-o subformat=fixed"),
        ("vhdx", "-o block_state_zero=off"),
        ("vmdk", ""),
        ("vmdk", "-o adapter_type=lsilogic,hwversion=6"),
        ("vmdk", "-o zeroed_grain=on"),
        ("vmdk", "-o subformat=monolithicFlat"),
        ("vmdk", "-o subformat=twoGbMaxExtentSparse"),
        ("vmdk", "-o subformat=twoGbMaxExtentFlat"),
        ("vmdk", "-o subformat=streamOptimized"),
    ] {
        let what = format!("{driver} {options}");
        let image = d.path().join(format!("x.{}", what.replace([' ', '=', ','], "-")));
        qemu_img(&format!("create -q -f {driver} {} {} 64M", options.replace("-c", ""), s(&image)));
        clean(driver, &image, &format!("empty {what}"));
        let line = format!("convert -f raw -O {driver} {options} {} {}", s(&raw), s(&image));
        let done = Command::new("qemu-img").args(line.split(' ').filter(|w| !w.is_empty())).status().unwrap();
        // With -c qemu-img 10.0.2 writes a whole qcow image and yet exits with 1, silently.
        assert!(done.success() || options == "-c", "{what}");
        clean(driver, &image, &what);
        if !options.contains("stream") && options != "-c" {
            qemu_io(driver, &image, &["write -P 7 5M 200k", "write -P 8 18M 1M"]);
            clean(driver, &image, &format!("{what}, written to"));
            qemu_io(driver, &image, &["write -z 1M 1M"]);
            if options.contains("zeroed_grain") {
                // QEMU writes zero grains then, and forgets where the grains were.
                assert_eq!(ids(&ours(&image).1), [("unused", 16)], "{what}");
            } else {
                clean(driver, &image, &format!("{what}, zeroed"));
            }
        }
    }
}

#[test]
fn images_that_cowshed_makes_and_changes_are_clean() {
    let d = dir();
    for (format, options) in [
        (Format::Qcow, &[][..]),
        (Format::Cow, &[]),
        (Format::Vdi, &[]),
        (Format::Vdi, &[("static", "on")]),
        (Format::Vhd, &[]),
        (Format::Vhd, &[("subformat", "fixed")]),
        (Format::Vhdx, &[("block_size", "1M")]),
        (Format::Vmdk, &[]),
        (Format::Vmdk, &[("zeroed_grain", "on")]),
    ] {
        let image = d.path().join(format!("x.{format}"));
        let parent = d.path().join(format!("base.{format}"));
        let resizes = format.entry().caps.resize;
        for below in [None, Some(parent.as_path())] {
            if below.is_some() && (options.iter().any(|(k, _)| *k == "static" || *k == "subformat")) {
                continue;
            }
            if let Some(parent) = below {
                let w = create(format, parent, 6 << 20, options, None);
                w.write(1 << 20, &noise(5, 1 << 20)).unwrap();
                w.finish().unwrap();
            }
            let w = create(format, &image, 6 << 20, options, below);
            w.write(4096, &noise(1, 300_000)).unwrap();
            w.write(5 << 20, &noise(2, 5000)).unwrap();
            w.finish().unwrap();
            drop(w);
            let what = format!("{format} {options:?} below {}", below.is_some());
            let check = || {
                let (code, report) = ours(&image);
                let found: Vec<_> =
                    ids(&report).into_iter().map(|(id, _)| id).filter(|id| !["sector-bitmap", "free"].contains(id)).collect();
                // A disk that became smaller and larger again may have left a block behind.
                assert!((code == 0 || code == 3) && found.iter().all(|id| *id == "unused"), "{what}: {report:#}");
                code
            };
            assert_eq!(check(), 0, "{what}");
            let sizes: &[u64] = if resizes { &[3 << 20, 6 << 20, 9 << 20] } else { &[] };
            change_at_random(&image, 11, 12, sizes, &|_| {
                check();
            });
        }
    }
}

fn le32(f: &File, at: u64) -> u32 {
    let mut b = [0; 4];
    f.read_exact_at(&mut b, at).unwrap();
    u32::from_le_bytes(b)
}

fn be32(f: &File, at: u64) -> u32 {
    le32(f, at).swap_bytes()
}

fn put(f: &File, at: u64, bytes: &[u8]) {
    f.write_all_at(bytes, at).unwrap();
}

/// One way to break an image: what, the finding's id, its severity's exit code, how.
type Case = (&'static str, &'static str, i32, fn(&File));

/// Breaks a copy of `base` in each way.
fn broken(base: &Path, cases: &[Case]) {
    let image = base.with_extension("broken");
    for (what, id, code, damage) in cases {
        std::fs::copy(base, &image).unwrap();
        let f = File::options().read(true).write(true).open(&image).unwrap();
        damage(&f);
        drop(f);
        let (ours, report) = ours(&image);
        assert!(ids(&report).iter().any(|(found, _)| found == id), "{what}: {report:#}");
        assert_eq!(ours, *code, "{what}: {report:#}");
        let finding = report["findings"].as_array().unwrap().iter().find(|f| f["id"] == *id).unwrap();
        assert!(["means", "repair", "title"].iter().all(|k| finding[k].as_str().unwrap().len() > 15), "{finding:#}");
    }
}

/// A disk of 20 MiB with data in several places, converted by qemu-img.
fn sample(dir: &Path, driver: &str, options: &str) -> std::path::PathBuf {
    let raw = dir.join("sample.raw");
    let mut bytes = noise(1, 3 << 20);
    bytes.resize(9 << 20, 0);
    bytes.extend(noise(2, 70_000));
    bytes.resize(20 << 20, 0);
    std::fs::write(&raw, &bytes).unwrap();
    let image = dir.join(format!("sample.{driver}"));
    qemu_img(&format!("convert -f raw -O {driver} {options} {} {}", s(&raw), s(&image)));
    image
}

#[test]
fn vdi_broken_on_purpose() {
    let d = dir();
    let base = sample(d.path(), "vdi", "");
    fn map(f: &File) -> u64 {
        u64::from(le32(f, 0x154))
    }
    broken(
        &base,
        &[
            ("two guest blocks in one place", "overlap", 2, |f| put(f, map(f) + 4, &0u32.to_le_bytes())),
            ("a block that cannot be", "nonsense", 2, |f| put(f, map(f), &0x7fff_ffffu32.to_le_bytes())),
            ("a block behind the end", "outside", 2, |f| put(f, map(f), &15u32.to_le_bytes())),
            ("a count too low", "block-count", 2, |f| put(f, 0x184, &1u32.to_le_bytes())),
            ("a count too high", "block-count", 2, |f| put(f, 0x184, &9u32.to_le_bytes())),
            ("a block nobody names", "unused", 3, |f| {
                put(f, map(f) + 9 * 4, &u32::MAX.to_le_bytes());
                put(f, 0x184, &3u32.to_le_bytes());
            }),
            ("a gap below the last block", "beyond-count", 2, |f| {
                put(f, map(f), &u32::MAX.to_le_bytes());
                put(f, 0x184, &3u32.to_le_bytes());
            }),
            ("a file cut short", "outside", 2, |f| f.set_len(f.metadata().unwrap().len() - (1 << 20)).unwrap()),
        ],
    );
    // Number by number as qemu-img counts them.
    let image = d.path().join("both.vdi");
    std::fs::copy(&base, &image).unwrap();
    let f = File::options().read(true).write(true).open(&image).unwrap();
    put(&f, map(&f) + 4, &0u32.to_le_bytes());
    put(&f, map(&f) + 8, &0u32.to_le_bytes());
    put(&f, map(&f) + 40, &0x7fff_ffffu32.to_le_bytes());
    let ((ours_code, ours), (code, theirs)) = (ours(&image), theirs("vdi", &image));
    assert_eq!((ours_code, &ours["corruptions"]), (code, &theirs["corruptions"]), "{ours:#} {theirs:#}");
}

#[test]
fn vhd_broken_on_purpose() {
    let d = dir();
    let base = sample(d.path(), "vpc", "-o force_size=on");
    fn table(f: &File) -> u64 {
        u64::from(be32(f, 512 + 20))
    }
    fn end(f: &File) -> u64 {
        f.metadata().unwrap().len() - 512
    }
    broken(
        &base,
        &[
            ("no footer", "footer", 2, |f| f.set_len(end(f)).unwrap()),
            ("a damaged footer", "footer", 2, |f| put(f, end(f) + 50, &[1])),
            ("a damaged copy", "footer-copy", 2, |f| put(f, 50, &[1])),
            ("a copy that says something else", "footers-differ", 2, |f| {
                let mut copy = [0u8; 512];
                f.read_exact_at(&mut copy, 0).unwrap();
                copy[24] ^= 1;
                copy[64..68].fill(0);
                let sum = !copy.iter().map(|b| u32::from(*b)).sum::<u32>();
                copy[64..68].copy_from_slice(&sum.to_be_bytes());
                put(f, 0, &copy);
            }),
            ("the dynamic header's checksum", "checksum", 2, |f| put(f, 512 + 36, &[1, 2, 3, 4])),
            ("no dynamic header", "header", 2, |f| put(f, 512, b"nonsense")),
            ("a table too short", "header", 2, |f| put(f, 512 + 28, &1u32.to_be_bytes())),
            ("a block behind the end", "outside", 2, |f| put(f, table(f), &0x00ff_ffffu32.to_be_bytes())),
            ("two blocks in one place", "overlap", 2, |f| put(f, table(f), &be32(f, table(f) + 4).to_be_bytes())),
            ("a block over the table", "overlap", 2, |f| put(f, table(f), &(be32(f, table(f)) - 1).to_be_bytes())),
            ("a block nobody names", "unused", 3, |f| put(f, table(f), &u32::MAX.to_be_bytes())),
            ("sectors left out of a bitmap", "sector-bitmap", 0, |f| {
                put(f, u64::from(be32(f, table(f))) * 512 + 3, &[0xef]);
            }),
            ("a parent's name outside", "parent-locator", 2, |f| {
                put(f, 512 + 576, b"W2ru\0\0\x02\0\0\0\0\x10\0\0\0\0\0\0\0\0\x7f\0\0\0");
            }),
        ],
    );
    let base = sample(d.path(), "vpc", "-o subformat=fixed,force_size=on");
    broken(
        &base,
        &[
            ("the only footer's checksum", "checksum", 2, |f| put(f, end(f) + 64, &[1, 2, 3, 4])),
            ("bytes in the middle lost", "outside", 2, |f| {
                let mut footer = [0u8; 512];
                f.read_exact_at(&mut footer, end(f)).unwrap();
                f.set_len(10 << 20).unwrap();
                put(f, 10 << 20, &footer);
            }),
        ],
    );
    let image = d.path().join("lost.vpc");
    std::fs::copy(&base, &image).unwrap();
    put(&File::options().write(true).open(&image).unwrap(), (20 << 20) + 48, &[1]);
    assert_eq!(cowshed(&["check", s(&image)]).status.code(), Some(1), "a size that the file does not bear out");
}

#[test]
fn vhdx_broken_on_purpose() {
    let d = dir();
    let base = sample(d.path(), "vhdx", "-o block_size=1M");
    /// Byte of the BAT: the first entry of the region table is qemu-img's BAT.
    fn bat(f: &File) -> u64 {
        u64::from(le32(f, (192 << 10) + 32))
    }
    fn set(f: &File, n: u64, mib: u64, state: u64) {
        put(f, bat(f) + n * 8, &(mib << 20 | state).to_le_bytes());
    }
    broken(
        &base,
        &[
            ("the first header", "header-copy", 2, |f| put(f, (64 << 10) + 20, &[1, 2, 3])),
            ("the second header", "header-copy", 2, |f| put(f, (128 << 10) + 20, &[1, 2, 3])),
            ("the first region table", "region-table-copy", 2, |f| put(f, (192 << 10) + 100, &[1])),
            ("the second region table", "region-table-copy", 2, |f| put(f, (256 << 10) + 100, &[1])),
            ("both region tables", "regions", 2, |f| {
                put(f, (192 << 10) + 100, &[1]);
                put(f, (256 << 10) + 100, &[1]);
            }),
            ("the metadata", "regions", 2, |f| put(f, u64::from(le32(f, (192 << 10) + 64)), b"nonsense")),
            ("a block behind the end", "outside", 2, |f| set(f, 0, 5000, 6)),
            ("two blocks in one place", "overlap", 2, |f| {
                let first = le32(f, bat(f)) & !0xfffff;
                set(f, 1, u64::from(first >> 20), 6);
            }),
            ("a block over the BAT", "overlap", 2, |f| set(f, 0, bat(f) >> 20, 6)),
            ("a state that cannot be", "nonsense", 2, |f| set(f, 3, 0, 4)),
            ("partly stored without a parent", "nonsense", 2, |f| set(f, 0, 8, 7)),
            ("reserved bits", "reserved-bits", 2, |f| {
                let entry = le32(f, bat(f));
                put(f, bat(f), &(entry | 0x100).to_le_bytes());
            }),
            ("a block nobody names", "free", 0, |f| set(f, 0, 0, 0)),
            ("a file cut short", "outside", 2, |f| f.set_len(f.metadata().unwrap().len() - (2 << 20)).unwrap()),
        ],
    );
}

#[test]
fn vmdk_broken_on_purpose() {
    let d = dir();
    let base = sample(d.path(), "vmdk", "");
    fn at(f: &File, field: u64) -> u64 {
        u64::from(le32(f, field)) * 512
    }
    fn gd(f: &File) -> u64 {
        at(f, 56)
    }
    fn rgd(f: &File) -> u64 {
        at(f, 48)
    }
    fn gt(f: &File) -> u64 {
        at(f, gd(f))
    }
    broken(
        &base,
        &[
            ("a grain behind the end", "outside", 2, |f| {
                put(f, gt(f), &0x00ff_ffffu32.to_le_bytes());
                put(f, at(f, rgd(f)), &0x00ff_ffffu32.to_le_bytes());
            }),
            ("two grains in one place", "overlap", 2, |f| {
                let grain = le32(f, gt(f)).to_le_bytes();
                put(f, gt(f) + 4, &grain);
                put(f, at(f, rgd(f)) + 4, &grain);
            }),
            ("a grain over a table", "overlap", 2, |f| {
                let table = le32(f, gd(f)).to_le_bytes();
                put(f, gt(f), &table);
                put(f, at(f, rgd(f)), &table);
            }),
            ("tables that differ", "redundant-tables", 2, |f| put(f, at(f, rgd(f)), &0u32.to_le_bytes())),
            ("a table in one directory only", "redundant-tables", 2, |f| put(f, rgd(f), &0u32.to_le_bytes())),
            ("a table outside", "grain-directory", 2, |f| put(f, gd(f), &0x00ff_ffffu32.to_le_bytes())),
            ("a directory outside", "grain-directory", 2, |f| put(f, 56, &0x00ff_ffffu32.to_le_bytes())),
            ("both tables outside", "outside", 2, |f| {
                put(f, gd(f), &0x00ff_ffffu32.to_le_bytes());
                put(f, rgd(f), &0x00ff_ffffu32.to_le_bytes());
            }),
            ("not closed", "unclean", 0, |f| put(f, 72, &[1])),
            ("a transfer in text mode", "text-mode", 2, |f| put(f, 73, b"\r\n \n")),
            ("no content id", "cid", 0, |f| {
                let mut text = vec![0; 2048];
                f.read_exact_at(&mut text, 512).unwrap();
                let cid = text.windows(5).position(|w| w == b"\nCID=").unwrap() as u64;
                put(f, 512 + cid + 1, b"#ID");
            }),
            ("a grain nobody names", "unused", 3, |f| {
                put(f, gt(f), &0u32.to_le_bytes());
                put(f, at(f, rgd(f)), &0u32.to_le_bytes());
            }),
        ],
    );
    let stream = sample(d.path(), "vmdk", "-o subformat=streamOptimized");
    broken(
        &stream,
        &[
            ("a marker of another grain", "marker", 2, |f| put(f, u64::from(le32(f, gt(f))) * 512, &[9])),
            ("a marker of no bytes", "marker", 2, |f| put(f, u64::from(le32(f, gt(f))) * 512 + 8, &[0; 4])),
            ("a grain larger than the file", "outside", 2, |f| put(f, u64::from(le32(f, gt(f))) * 512 + 8, &[0, 0, 0, 0x7f])),
        ],
    );
    // VMware's layout, with markers before the tables and the directory named by the footer: our own writer makes it.
    let raw = d.path().join("sample.raw");
    let vmware = d.path().join("ours.vmdk");
    let out = cowshed(&["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", s(&raw), s(&vmware)]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    clean("vmdk", &vmware, "our own stream");
    broken(
        &vmware,
        &[("a table without its marker", "marker", 2, |f| {
            let footer = f.metadata().unwrap().len() - 1024;
            let table = at(f, at(f, footer + 56));
            put(f, table - 512 + 12, &[9]);
        })],
    );
    // An extent that is gone, one that is too short.
    let split = d.path().join("split.vmdk");
    qemu_img(&format!("create -q -f vmdk -o subformat=monolithicFlat {} 4M", s(&split)));
    let flat = d.path().join("split-flat.vmdk");
    File::options().write(true).open(&flat).unwrap().set_len(1 << 20).unwrap();
    let (code, report) = ours(&split);
    assert_eq!((code, ids(&report)), (2, vec![("outside", 1)]), "{report:#}");
    std::fs::remove_file(flat).unwrap();
    let (code, report) = ours(&split);
    assert_eq!((code, ids(&report)), (1, vec![("extent", 1)]), "{report:#}");
}

#[test]
fn qcow_and_cow_broken_on_purpose() {
    let d = dir();
    let base = sample(d.path(), "qcow", "");
    fn be64(f: &File, at: u64) -> u64 {
        u64::from(be32(f, at)) << 32 | u64::from(be32(f, at + 4))
    }
    fn l2(f: &File) -> u64 {
        be64(f, be64(f, 40))
    }
    broken(
        &base,
        &[
            ("an L2 table behind the end", "outside", 2, |f| put(f, be64(f, 40), &(1u64 << 40).to_be_bytes())),
            ("a cluster behind the end", "outside", 2, |f| put(f, l2(f), &(1u64 << 40).to_be_bytes())),
            ("two clusters in one place", "overlap", 2, |f| put(f, l2(f), &be64(f, l2(f) + 8).to_be_bytes())),
            ("a cluster over the L1 table", "overlap", 2, |f| put(f, l2(f), &be64(f, 40).to_be_bytes())),
            ("an L2 table over the L1 table", "no-table", 2, |f| put(f, be64(f, 40) + 8, &be64(f, 40).to_be_bytes())),
            ("an L2 table twice", "tables-overlap", 2, |f| put(f, be64(f, 40) + 8, &l2(f).to_be_bytes())),
            ("a compressed cluster of no bytes", "nonsense", 2, |f| put(f, l2(f), &(1u64 << 63 | 512).to_be_bytes())),
            ("a cluster nobody names", "unused", 3, |f| put(f, l2(f), &0u64.to_be_bytes())),
        ],
    );
    let cow = d.path().join("x.cow");
    let w = create(Format::Cow, &cow, 1 << 20, &[], None);
    w.write(0, &noise(1, 100_000)).unwrap();
    w.finish().unwrap();
    drop(w);
    assert_eq!(ours(&cow).0, 0);
    broken(
        &cow,
        &[
            ("a file cut short", "outside", 2, |f| f.set_len(50_000).unwrap()),
            ("a bit without its sector", "outside", 2, |f| put(f, 1056 + 200, &[0xff])),
            ("a bitmap cut short", "bitmap-short", 2, |f| f.set_len(1060).unwrap()),
        ],
    );
}

#[test]
fn a_log_that_waits_is_told_and_what_it_brings_is_what_is_checked() {
    let d = dir();
    // Made by cowshed: the log is written but not applied, as a power cut would leave it.
    let image = d.path().join("x.vhdx");
    let w = create(Format::Vhdx, &image, 8 << 20, &[("block_size", "1M")], None);
    w.write(0, &noise(1, 1 << 20)).unwrap();
    w.finish().unwrap();
    drop(w);
    assert_eq!(ours(&image).0, 0);
    let f = File::options().read(true).write(true).open(&image).unwrap();
    // A log entry that puts the BAT's first sector where it is already, and a header that names the log.
    use cowshed::engine::format::vhdx::{header, log};
    let found = header::find(&cowshed::engine::io::file::FileDevice::open(&image).unwrap()).unwrap();
    let mut h = found.header.clone();
    let bat = u64::from(le32(&f, (192 << 10) + 32));
    let mut sector = vec![0u8; 4096];
    f.read_exact_at(&mut sector, bat).unwrap();
    h.log = uuid::Uuid::from_u128(7);
    h.sequence += 1;
    put(&f, h.log_at, &log::entry(h.log, 1, &[(bat, sector.clone())], f.metadata().unwrap().len()));
    put(&f, header::AT[1 - found.slot], &h.encode());
    let (code, report) = ours(&image);
    assert_eq!((code, ids(&report)), (2, vec![("log", 1)]), "{report:#}");
    // The table in the file is damaged, the log has it right: nothing else is wrong.
    put(&f, bat, &[0xff; 64]);
    assert_eq!(ids(&ours(&image).1), [("log", 1)]);
    // A file shorter than the log knows it to have been.
    f.set_len(f.metadata().unwrap().len() - (1 << 20)).unwrap();
    let (code, report) = ours(&image);
    assert_eq!((code, ids(&report)), (2, vec![("log-damage", 1)]), "{report:#}");
}

#[test]
fn a_parent_that_was_changed_is_damage() {
    let d = dir();
    for format in [Format::Vmdk, Format::Vdi, Format::Vhdx] {
        let (base, child) = (d.path().join(format!("base.{format}")), d.path().join(format!("child.{format}")));
        create(format, &base, 4 << 20, &[], None).finish().unwrap();
        let w = create(format, &child, 4 << 20, &[], Some(&base));
        w.write(0, &noise(1, 5000)).unwrap();
        w.finish().unwrap();
        drop(w);
        assert_eq!(ours(&child).0, 0, "{format}");
        // Another session writes to the parent: its content id, its modification or data-write UUID changes.
        let w = crate::common::open_writer(&base);
        w.write(2 << 20, &noise(2, 5000)).unwrap();
        w.finish().unwrap();
        drop(w);
        let (code, report) = ours(&child);
        assert!(code == 2 && ids(&report).iter().any(|(id, _)| *id == "parent-changed"), "{format}: {report:#}");
        std::fs::remove_file(&base).unwrap();
        assert_eq!(ours(&child).0, 0, "{format}: a parent that is missing says nothing of this image");
    }
}
