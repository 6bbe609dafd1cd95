//! Repair of VHD, VDI, VHDX and VMDK: broken on purpose in each way that can be mended for certain, mended, and judged by the check,
//! by qemu-img where it has one, by the content, by cut power, and by the undo.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use cowshed::engine::chain::Chain;
use cowshed::engine::error::Result;
use cowshed::engine::format::check::{CheckReport, Repair, Repaired, Repairing, Severity};
use cowshed::engine::format::vhdx::{header, log};
use cowshed::engine::format::{Format, Source};
use cowshed::engine::io::WriteDevice;
use cowshed::engine::io::fault::{Faulty, power_cuts};
use cowshed::engine::io::gate::Gate;
use cowshed::engine::io::memory::Memory;
use cowshed::engine::ops::check::tools;

use crate::common::{content, cowshed, create, dir, every_failure, noise, qemu_img, qemu_io, s};

fn le32(f: &File, at: u64) -> u32 {
    let mut b = [0; 4];
    f.read_exact_at(&mut b, at).unwrap();
    u32::from_le_bytes(b)
}

pub fn put(f: &File, at: u64, bytes: &[u8]) {
    f.write_all_at(bytes, at).unwrap();
}

pub fn len(f: &File) -> u64 {
    f.metadata().unwrap().len()
}

/// An image of 4 MiB with data here and there, by our own writer.
fn sample(path: &Path, format: Format, options: &[(&str, &str)]) {
    let w = create(format, path, 4 << 20, options, None);
    for (n, at) in [0, 1 << 20, (2 << 20) + 4096].into_iter().enumerate() {
        w.write(at, &noise(n as u64 + 1, 70_000)).unwrap();
    }
    w.finish().unwrap();
}

/// Puts a log entry into a VHDX that writes the BAT as it is, and damages the BAT itself: only the log has it.
fn waiting(f: &File) {
    let read = |at: u64, n: usize| {
        let mut b = vec![0; n];
        f.read_exact_at(&mut b, at).unwrap();
        b
    };
    let whole = Memory::new(read(0, len(f) as usize));
    let found = header::find(&whole).unwrap();
    let mut h = found.header.clone();
    let bat = u64::from(le32(f, (192 << 10) + 32));
    h.log = uuid::Uuid::from_u128(7);
    h.sequence += 1;
    put(f, h.log_at, &log::entry(h.log, 1, &[(bat, read(bat, 4096))], len(f)));
    put(f, header::AT[1 - found.slot], &h.encode());
    put(f, bat, &[0xff; 64]);
}

/// The VMDK fields that lead to its tables.
fn at(f: &File, field: u64) -> u64 {
    u64::from(le32(f, field)) * 512
}

struct Case {
    label: &'static str,
    format: Format,
    options: &'static [(&'static str, &'static str)],
    damage: fn(&File),
    repair: Repair,
}

const fn case(label: &'static str, format: Format, damage: fn(&File)) -> Case {
    Case { label, format, options: &[], damage, repair: Repair::All }
}

const fn vhdx(label: &'static str, damage: fn(&File)) -> Case {
    Case { label, format: Format::Vhdx, options: &[("block_size", "1M")], damage, repair: Repair::All }
}

static CASES: &[Case] = &[
    case("vhd: no footer", Format::Vhd, |f| f.set_len(len(f) - 512).unwrap()),
    case("vhd: zeros where the footer was", Format::Vhd, |f| put(f, len(f) - 512, &[0; 512])),
    case("vhd: a damaged footer", Format::Vhd, |f| put(f, len(f) - 460, &[1, 2, 3])),
    case("vhd: a damaged copy", Format::Vhd, |f| put(f, 50, &[1, 2, 3])),
    case("vhd: a copy overwritten", Format::Vhd, |f| put(f, 0, &[0xaa; 512])),
    case("vhd: the header's checksum", Format::Vhd, |f| put(f, 512 + 36, &[1, 2, 3, 4])),
    case("vhd: header and copy", Format::Vhd, |f| {
        put(f, 512 + 36, &[1, 2, 3, 4]);
        put(f, 50, &[1]);
    }),
    Case {
        label: "vhd: the only footer's checksum",
        format: Format::Vhd,
        options: &[("subformat", "fixed")],
        damage: |f| put(f, len(f) - 512 + 64, &[1, 2, 3, 4]),
        repair: Repair::All,
    },
    case("vdi: a count too low", Format::Vdi, |f| put(f, 0x184, &[0])),
    case("vdi: a count too high", Format::Vdi, |f| put(f, 0x184, &[4])),
    case("vdi: a hole and blocks behind the count", Format::Vdi, |f| {
        // The first block's place is given up, and its content moved behind the others.
        let map = u64::from(le32(f, 0x154));
        let data = u64::from(le32(f, 0x158));
        let mut block = vec![0; 1 << 20];
        f.read_exact_at(&mut block, data).unwrap();
        put(f, data + (3 << 20), &block);
        put(f, data, &vec![0xee; 1 << 20]);
        put(f, map, &3u32.to_le_bytes());
    }),
    Case {
        label: "vdi: blocks at the end that nobody names",
        format: Format::Vdi,
        options: &[],
        damage: |f| f.set_len(len(f) + (1 << 20)).unwrap(),
        repair: Repair::Leaks,
    },
    vhdx("vhdx: the first header", |f| put(f, (64 << 10) + 20, &[1, 2, 3])),
    vhdx("vhdx: the second header", |f| put(f, (128 << 10) + 20, &[1, 2, 3])),
    vhdx("vhdx: the first region table", |f| put(f, (192 << 10) + 100, &[1])),
    vhdx("vhdx: the second region table", |f| put(f, (256 << 10) + 100, &[1])),
    vhdx("vhdx: a log that waits", waiting),
    vhdx("vhdx: a log that waits, and a region table", |f| {
        waiting(f);
        put(f, (256 << 10) + 100, &[1]);
    }),
    case("vmdk: a redundant entry", Format::Vmdk, |f| put(f, at(f, at(f, 48)), &[9, 9, 0, 0])),
    case("vmdk: a redundant table of nonsense", Format::Vmdk, |f| put(f, at(f, at(f, 48)), &noise(3, 256))),
    case("vmdk: no redundant table", Format::Vmdk, |f| put(f, at(f, 48), &[0; 4])),
    case("vmdk: a redundant table outside", Format::Vmdk, |f| put(f, at(f, 48), &[0xff; 4])),
    case("vmdk: a table outside", Format::Vmdk, |f| put(f, at(f, 56), &[0xff; 4])),
    case("vmdk: a directory outside", Format::Vmdk, |f| put(f, 56, &0x00ff_ffffu64.to_le_bytes())),
];

fn check(format: Format, bytes: Vec<u8>) -> Result<CheckReport> {
    let dev = std::sync::Arc::new(Memory::new(bytes));
    (tools(format).unwrap().check)(&Source { dev, path: "image".into(), gate: Gate::closed() })
}

/// Damage, and lost space.
pub fn errors(format: Format, bytes: Vec<u8>) -> u64 {
    // A fixed disk with a wrong checksum only is one fault.
    check(format, bytes).map_or(u64::MAX, |r| r.count(Severity::Corruption) + r.count(Severity::Leak))
}

pub fn mend(format: Format, dev: &WriteDevice, repair: Repair) -> Result<Repaired> {
    let source = Source { dev: dev.clone(), path: "image".into(), gate: Gate::closed() };
    (tools(format).unwrap().repair.unwrap())(&Repairing {
        dev: dev.clone(),
        source,
        repair,
        keep: &|_| Ok(()),
        tick: &|_, _| Ok(()),
    })
}

#[test]
fn what_can_be_mended_is_mended_and_can_be_undone() {
    let d = dir();
    for case in CASES {
        let image = d.path().join(format!("x.{}", case.format));
        let undo = d.path().join(format!("x.{}.cowshed-undo", case.format));
        let _ = std::fs::remove_file(&undo);
        sample(&image, case.format, case.options);
        let whole = content(&image);
        let f = File::options().read(true).write(true).open(&image).unwrap();
        (case.damage)(&f);
        let broken = std::fs::read(&image).unwrap();
        assert!(errors(case.format, broken.clone()) > 0, "{}", case.label);
        let format = case.format.name();
        let kind = if case.repair == Repair::All { "all" } else { "leaks" };
        let plan = cowshed(&["check", "--dry-run", "-f", format, "-r", kind, s(&image)]);
        assert!(String::from_utf8_lossy(&plan.stdout).contains("undo"), "{}: {plan:?}", case.label);
        assert!(std::fs::read(&image).unwrap() == broken, "{}: a plan writes nothing", case.label);
        let out = cowshed(&["check", "-f", format, "-r", kind, s(&image)]);
        let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert_eq!(out.status.code(), Some(0), "{}: {said}", case.label);
        assert!(said.contains("found and repaired"), "{}: {said}", case.label);
        assert!(content(&image) == whole, "{}", case.label);
        if matches!(case.format, Format::Vdi | Format::Vmdk | Format::Vhdx) {
            let theirs = Command::new("qemu-img").args(["check", "-f", case.format.driver(), s(&image)]).output().unwrap();
            assert!(theirs.status.success(), "{}: {theirs:?}", case.label);
        }
        // It is an image that can be written to again.
        let copy = d.path().join(format!("copy.{}", case.format));
        std::fs::copy(&image, &copy).unwrap();
        let w = crate::common::open_writer(&copy);
        w.write((3 << 20) + 512, &noise(9, 3000)).unwrap();
        w.finish().unwrap();
        drop(w);
        assert_eq!(cowshed(&["check", s(&copy)]).status.code(), Some(0), "{}", case.label);
        let out = cowshed(&["check", "--undo", "-f", format, s(&image)]);
        assert!(out.status.success(), "{}: {}", case.label, String::from_utf8_lossy(&out.stderr));
        let back = std::fs::read(&image).unwrap();
        if case.format == Format::Vdi {
            // What no map entry named is not kept.
            assert_eq!(errors(case.format, back), errors(case.format, broken), "{}", case.label);
            assert!(content(&image) == whole, "{}", case.label);
        } else {
            assert!(back == broken, "{}", case.label);
        }
    }
}

#[test]
fn cut_power_and_failing_writes_leave_an_image_that_is_no_worse() {
    let d = dir();
    for case in CASES {
        let image = d.path().join(format!("x.{}", case.format));
        sample(&image, case.format, case.options);
        let whole = content(&image);
        (case.damage)(&File::options().read(true).write(true).open(&image).unwrap());
        let before = std::fs::read(&image).unwrap();
        let worst = errors(case.format, before.clone());
        let dev = Faulty::new(before.clone());
        dev.fail(None);
        let done = mend(case.format, &(dev.clone() as WriteDevice), case.repair).unwrap();
        assert!(done.corruptions + done.leaks > 0 && done.left.is_empty(), "{}: {done:?}", case.label);
        assert_eq!(errors(case.format, dev.to_vec()), 0, "{}", case.label);
        let look = |state: &str, bytes: Vec<u8>| {
            let n = errors(case.format, bytes.clone());
            assert!(n <= worst, "{} {state}: {n} faults, {worst} before", case.label);
            std::fs::write(&image, bytes).unwrap();
            // What a wrong checksum kept from being read may still be so.
            if Chain::open(&image, &Default::default()).and_then(|c| c.disk()).is_ok() {
                assert!(content(&image) == whole, "{} {state}", case.label);
            }
        };
        power_cuts(&before, &dev.record(), look);
        every_failure(
            &before,
            |dev| mend(case.format, &(dev.clone() as WriteDevice), case.repair),
            |what, done, bytes| {
                assert!(done.is_err(), "{}: {what}", case.label);
                let n = errors(case.format, bytes.to_vec());
                assert!(n <= worst, "{}: {what}: {n} faults, {worst} before", case.label);
            },
        );
    }
}

#[test]
fn what_cannot_be_told_is_left_alone() {
    let d = dir();
    type Damage = fn(&File);
    let cases: &[(Format, &str, Damage)] = &[
        (Format::Vdi, "a block named twice, and a wrong count", |f| {
            let map = u64::from(le32(f, 0x154));
            put(f, map + 4, &[0; 4]);
            put(f, 0x184, &[9]);
        }),
        (Format::Vmdk, "tables that differ where one is damaged", |f| {
            put(f, at(f, at(f, 56)), &0x00ff_ffffu32.to_le_bytes());
            put(f, at(f, at(f, 48)), &0x00ff_ffffu32.to_le_bytes());
            put(f, at(f, at(f, 48)) + 4, &[1; 4]);
        }),
        (Format::Vhd, "a file cut short", |f| f.set_len(len(f) - (1 << 20)).unwrap()),
    ];
    for (format, what, damage) in cases {
        let image = d.path().join(format!("x.{format}"));
        sample(&image, *format, &[]);
        damage(&File::options().read(true).write(true).open(&image).unwrap());
        let before = std::fs::read(&image).unwrap();
        let out = cowshed(&["check", "-r", "all", s(&image)]);
        assert_eq!(out.status.code(), Some(2), "{what}: {out:?}");
        assert!(String::from_utf8_lossy(&out.stderr).contains("not mended"), "{what}: {out:?}");
        assert!(std::fs::read(&image).unwrap() == before, "{what}");
    }
}

#[test]
fn the_extents_of_a_split_disk_are_mended_one_by_one() {
    let d = dir();
    let (disk, extent) = (d.path().join("s.vmdk"), d.path().join("s-s002.vmdk"));
    qemu_img(&format!("create -q -f vmdk -o subformat=twoGbMaxExtentSparse {} 3G", s(&disk)));
    qemu_io("vmdk", &disk, &["write -P 1 0 1M", "write -P 2 2500M 1M"]);
    let f = File::options().read(true).write(true).open(&extent).unwrap();
    put(&f, at(&f, at(&f, 48)) + 64, &[1, 2, 3, 0]);
    let out = cowshed(&["check", "-r", "all", s(&disk)]);
    assert_eq!(out.status.code(), Some(2), "{out:?}");
    assert!(String::from_utf8_lossy(&out.stderr).contains("on that file"), "{out:?}");
    let out = cowshed(&["check", "-r", "all", s(&extent)]);
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    let out = cowshed(&["check", s(&disk)]);
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && !said.contains("content id"), "{said}");
}

#[test]
fn whatever_is_damaged_a_repair_never_makes_it_worse() {
    let d = dir();
    for (n, case) in CASES.iter().enumerate().filter(|(n, _)| n % 5 == 0) {
        let image = d.path().join(format!("x.{}", case.format));
        sample(&image, case.format, case.options);
        (case.damage)(&File::options().read(true).write(true).open(&image).unwrap());
        let base = std::fs::read(&image).unwrap();
        // Where numbers are: what is not zero at both ends of the file.
        let (head, tail) = (base.len().min(400_000), base.len().saturating_sub(1024));
        let filled: Vec<usize> = (0..head).chain(tail..base.len()).filter(|i| base[*i] != 0).take(20_000).collect();
        for flips in noise(n as u64 + 3, 12 * 60).chunks(12) {
            let mut bytes = base.clone();
            for flip in flips.chunks(4).take(1 + usize::from(flips[0] % 3)) {
                let at = usize::from(flip[0]) << 8 | usize::from(flip[1]);
                bytes[filled[at % filled.len()]] ^= 1 << (flip[2] % 8);
            }
            let before = check(case.format, bytes.clone()).map(|r| r.count(Severity::Corruption));
            let dev: WriteDevice = std::sync::Arc::new(Memory::new(bytes.clone()));
            let _ = mend(case.format, &dev, Repair::All);
            let mut after = vec![0; dev.len() as usize];
            dev.read_at(0, &mut after).unwrap();
            match before {
                Ok(before) => {
                    let now = check(case.format, after).map_or(u64::MAX, |r| r.count(Severity::Corruption));
                    assert!(now <= before, "{}: {flips:?}: {now} faults, {before} before", case.label);
                }
                Err(_) => assert!(after == bytes, "{}: {flips:?}: what cannot be checked is not written", case.label),
            }
        }
    }
}
