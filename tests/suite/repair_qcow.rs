//! Repair of qcow (version 1) and cow: broken on purpose, mended, and judged by what the guest could read before (as qemu-img reads
//! it afterwards), by cut power, by failing writes, and by the undo.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use cowshed::engine::chain::{Chain, OpenOptions};
use cowshed::engine::format::Format;
use cowshed::engine::format::check::Repair;
use cowshed::engine::io::fault::{Faulty, power_cuts};
use cowshed::engine::io::{ReadAt, WriteDevice};

use crate::common::{content, cowshed, create, dir, every_failure, noise, qemu_content, s, text};
use crate::repair_formats::{errors, len, mend, put};

const SIZE: u64 = 4 << 20;

fn be64(f: &File, at: u64) -> u64 {
    let mut b = [0; 8];
    f.read_exact_at(&mut b, at).unwrap();
    u64::from_be_bytes(b)
}

fn set(f: &File, at: u64, v: u64) {
    put(f, at, &v.to_be_bytes());
}

/// Where the L1 table is, and the first L2 table.
fn l1(f: &File) -> u64 {
    be64(f, 40)
}
fn l2(f: &File) -> u64 {
    be64(f, l1(f))
}

/// What a guest can read of the image, over its backing file; zeros where reading fails.
fn readable(image: &Path, format: Format) -> Vec<u8> {
    let options = OpenOptions { format: Some(format), ..OpenOptions::default() };
    let disk = Chain::open(image, &options).and_then(|c| c.disk()).unwrap_or_else(|e| panic!("{e}"));
    let mut all = vec![0; disk.len() as usize];
    for (n, part) in all.chunks_mut(64 << 10).enumerate() {
        let at = n as u64 * (64 << 10);
        if disk.read_at(at, part).is_err() {
            for (k, sector) in part.chunks_mut(512).enumerate() {
                if disk.read_at(at + k as u64 * 512, sector).is_err() {
                    sector.fill(0);
                }
            }
        }
    }
    all
}

/// Compressed and plain clusters, over a backing file or alone.
fn sample(image: &Path, format: Format, parent: Option<&Path>) {
    let w = create(format, image, SIZE, &[], parent);
    for (n, at) in [0, 1 << 20, (2 << 20) + 4096].into_iter().enumerate() {
        w.write(at, &noise(n as u64 + 1, 20_000)).unwrap();
    }
    if format == Format::Qcow {
        let packed = text(9, 8192);
        for (n, part) in packed.chunks(w.unit() as usize).enumerate() {
            w.write_compressed((64 << 10) + n as u64 * w.unit(), part).unwrap();
        }
    }
    w.finish().unwrap();
}

struct Case {
    label: &'static str,
    format: Format,
    damage: fn(&File),
    repair: Repair,
}

const fn case(label: &'static str, damage: fn(&File)) -> Case {
    Case { label, format: Format::Qcow, damage, repair: Repair::All }
}

/// The cluster size of the image, and the entry of the first compressed cluster.
fn packed(f: &File) -> u64 {
    let bits = u64::from(be64(f, 32).to_be_bytes()[0]);
    l2(f) + ((64 << 10) >> bits) * 8
}

static CASES: &[Case] = &[
    case("an L2 table behind the end", |f| set(f, l1(f), 1 << 40)),
    case("an L2 table over the L1 table", |f| set(f, l1(f) + 8, l1(f))),
    case("an L2 table over the header", |f| set(f, l1(f) + 8, 8)),
    case("clusters behind the end", |f| (1..4).for_each(|n| set(f, l2(f) + n * 8, (40 + n) << 30))),
    case("two clusters in one place", |f| set(f, l2(f), be64(f, l2(f) + 8))),
    case("a cluster over the L1 table", |f| set(f, l2(f), l1(f))),
    case("a cluster over the header", |f| set(f, l2(f) + 16, 4)),
    case("a cluster over its own table", |f| set(f, l2(f) + 8, l2(f))),
    case("a cluster over another table", |f| set(f, l2(f) + 8, be64(f, l1(f) + 8))),
    case("two compressed clusters in one place", |f| set(f, packed(f), be64(f, packed(f) + 8))),
    case("a compressed cluster over data", |f| set(f, packed(f), 1 << 63 | 1 << 58 | be64(f, l2(f)))),
    case("a compressed cluster of no bytes", |f| set(f, packed(f), 1 << 63 | 512)),
    Case {
        label: "an end nobody uses",
        format: Format::Qcow,
        damage: |f| f.set_len(len(f) + (1 << 20)).unwrap(),
        repair: Repair::Leaks,
    },
    Case {
        label: "cow: a file cut short",
        format: Format::Cow,
        damage: |f| f.set_len((1 << 20) + 10_000).unwrap(),
        repair: Repair::All,
    },
    Case {
        label: "cow: bits without their sectors",
        format: Format::Cow,
        damage: |f| put(f, 1056 + 800, &[0xff, 0, 1]),
        repair: Repair::All,
    },
];

/// What is to be read afterwards: an entry that led to no table showed the guest whatever lay there.
fn wanted(case: &Case, before: &[u8]) -> Vec<u8> {
    let mut want = before.to_vec();
    if case.label.starts_with("an L2 table over") {
        want[2 << 20..].fill(0);
    }
    want
}

/// Damage alone: what lay under a lost entry may be used by nothing now.
fn damage(format: Format, bytes: Vec<u8>) -> u64 {
    use cowshed::engine::format::Source;
    use cowshed::engine::format::check::Severity;
    use cowshed::engine::io::{gate::Gate, memory::Memory};
    let dev = std::sync::Arc::new(Memory::new(bytes));
    let check = cowshed::engine::ops::check::tools(format).unwrap().check;
    let report = check(&Source { dev, path: "image".into(), gate: Gate::closed() }).unwrap();
    report.count(Severity::Corruption)
}

#[test]
fn what_the_guest_could_read_stays_and_the_rest_is_zeros() {
    let d = dir();
    let base = d.path().join("base.raw");
    std::fs::write(&base, text(4, 3 << 20)).unwrap();
    for (parent, case) in [None, Some(base.as_path())].into_iter().flat_map(|p| CASES.iter().map(move |c| (p, c))) {
        let label = format!("{} {parent:?}", case.label);
        let image = d.path().join(format!("x.{}", case.format));
        let undo = d.path().join(format!("x.{}.cowshed-undo", case.format));
        let _ = std::fs::remove_file(&undo);
        sample(&image, case.format, parent);
        (case.damage)(&File::options().read(true).write(true).open(&image).unwrap());
        let broken = std::fs::read(&image).unwrap();
        let before = damage(case.format, broken.clone());
        assert!(before > 0 || case.repair == Repair::Leaks, "{label}");
        let want = wanted(case, &readable(&image, case.format));
        let kind = if case.repair == Repair::All { "all" } else { "leaks" };
        let format = case.format.name();
        let plan = cowshed(&["check", "--dry-run", "-f", format, "-r", kind, s(&image)]);
        assert!(String::from_utf8_lossy(&plan.stdout).contains("undo"), "{label}: {plan:?}");
        assert!(std::fs::read(&image).unwrap() == broken, "{label}: a plan writes nothing");
        let out = cowshed(&["check", "--output=json", "-f", format, "-r", kind, s(&image)]);
        let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("{label}: {out:?}"));
        assert!(matches!(out.status.code(), Some(0 | 3)), "{label}: {report:#}");
        assert_eq!(report["repair"]["left"], serde_json::json!([]), "{label}");
        assert!(content(&image) == want, "{label}");
        if case.format == Format::Qcow {
            assert!(qemu_content("qcow", &image) == want, "{label}, as qemu-img reads it");
        }
        // It can be written again, and no entry shares its place with another.
        let copy = d.path().join(format!("copy.{format}"));
        std::fs::copy(&image, &copy).unwrap();
        let mut model = want.clone();
        let w = crate::common::open_writer(&copy);
        for at in [0, 70_000, (2 << 20) + 512] {
            let data = noise(at as u64 + 7, 9000);
            w.write(at as u64, &data).unwrap();
            model[at..at + 9000].copy_from_slice(&data);
        }
        w.finish().unwrap();
        drop(w);
        assert!(content(&copy) == model, "{label}: written");
        let out = cowshed(&["check", "--undo", "-f", format, s(&image)]);
        assert!(out.status.success(), "{label}: {}", String::from_utf8_lossy(&out.stderr));
        assert!(std::fs::read(&image).unwrap() == broken, "{label}: undone");
    }
}

#[test]
fn cut_power_and_failing_writes_never_take_what_could_be_read() {
    let d = dir();
    let base = d.path().join("base.raw");
    std::fs::write(&base, text(4, 3 << 20)).unwrap();
    for (parent, case) in [None, Some(base.as_path())].into_iter().flat_map(|p| CASES.iter().map(move |c| (p, c))) {
        let label = format!("{} {parent:?}", case.label);
        let image = d.path().join(format!("x.{}", case.format));
        sample(&image, case.format, parent);
        (case.damage)(&File::options().read(true).write(true).open(&image).unwrap());
        let before = std::fs::read(&image).unwrap();
        let (worst, old) = (damage(case.format, before.clone()), readable(&image, case.format));
        let want = wanted(case, &old);
        let dev = Faulty::new(before.clone());
        dev.fail(None);
        let done = mend(case.format, &(dev.clone() as WriteDevice), case.repair).unwrap();
        assert!(done.corruptions + done.leaks > 0 && done.left.is_empty(), "{label}: {done:?}");
        assert_eq!(damage(case.format, dev.to_vec()), 0, "{label}");
        let look = |state: &str, bytes: Vec<u8>| {
            assert!(damage(case.format, bytes.clone()) <= worst, "{label} {state}");
            std::fs::write(&image, bytes).unwrap();
            let now = readable(&image, case.format);
            assert!(now == want || now == old, "{label} {state}");
        };
        power_cuts(&before, &dev.record(), look);
        every_failure(
            &before,
            |dev| mend(case.format, &(dev.clone() as WriteDevice), case.repair),
            |what, done, bytes| {
                assert!(done.is_err(), "{label}: {what}");
                look(what, bytes.to_vec());
            },
        );
    }
}

#[test]
fn two_tables_in_one_place_are_named_and_left_alone() {
    let d = dir();
    let image = d.path().join("x.qcow");
    sample(&image, Format::Qcow, None);
    let f = File::options().read(true).write(true).open(&image).unwrap();
    set(&f, l1(&f) + 8, l2(&f));
    let before = std::fs::read(&image).unwrap();
    let out = cowshed(&["check", "-r", "all", s(&image)]);
    assert_eq!(out.status.code(), Some(2), "{out:?}");
    assert!(String::from_utf8_lossy(&out.stderr).contains("not mended"), "{out:?}");
    assert!(std::fs::read(&image).unwrap() == before);
}

#[test]
fn random_damage_of_a_qcow_never_gets_worse() {
    let d = dir();
    let image = d.path().join("x.qcow");
    sample(&image, Format::Qcow, None);
    let whole = std::fs::read(&image).unwrap();
    let f = File::open(&image).unwrap();
    let words = std::iter::once((l1(&f), 16)).chain([l2(&f), be64(&f, l1(&f) + 8)].map(|at| (at, 4096)));
    let tables: Vec<u64> = words.flat_map(|(at, n)| at..at + n).filter(|at| be64(&f, at & !7) != 0).collect();
    let mut mended = 0;
    for flips in noise(3, 12 * 200).chunks(12) {
        let mut bytes = whole.clone();
        for flip in flips.chunks(4) {
            let at = (usize::from(flip[0]) << 8 | usize::from(flip[1])) % tables.len();
            bytes[tables[at] as usize] ^= 1 << (flip[2] % 8);
        }
        let before = errors(Format::Qcow, bytes.clone());
        if before == u64::MAX {
            continue;
        }
        let worst = damage(Format::Qcow, bytes.clone());
        let dev = Faulty::new(bytes);
        let done = mend(Format::Qcow, &(dev.clone() as WriteDevice), Repair::All).unwrap();
        let now = damage(Format::Qcow, dev.to_vec());
        assert!(now <= worst && (now == 0 || !done.left.is_empty()), "{flips:?}: {now} faults, {worst} before, {done:?}");
        mended += usize::from(done.corruptions > 0);
    }
    assert!(mended > 5, "{mended}");
}
