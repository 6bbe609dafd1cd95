//! Repair of qcow2: images broken on purpose in every way the check knows, mended, and judged by `qemu-img check`, by the content
//! that ought to be left, by cut power and by failing writes; and the undo, which must bring back every byte that counts.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use cowshed::engine::error::{Error, Result};
use cowshed::engine::format::Source;
use cowshed::engine::format::check::{Repair, Repaired, Repairing};
use cowshed::engine::format::qcow2::repair::repair;
use cowshed::engine::io::WriteDevice;
use cowshed::engine::io::fault::{Faulty, power_cuts};
use cowshed::engine::io::gate::Gate;

use crate::common::{content, cowshed, every_failure, noise, qemu_content, qemu_img, qemu_io, run, s, text};

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// A folder in memory where there is one: no power is really cut.
fn memory() -> tempfile::TempDir {
    let builder = || tempfile::Builder::new().prefix("cowshed-test").to_owned();
    builder().tempdir_in("/dev/shm").or_else(|_| builder().tempdir()).unwrap()
}

/// Exit code and JSON of `qemu-img check`.
fn theirs(image: &Path, more: &[&str]) -> (i32, serde_json::Value) {
    let out = Command::new("qemu-img").args(["check", "--output=json", "-f", "qcow2"]).args(more).arg(image).output().unwrap();
    (out.status.code().unwrap(), serde_json::from_slice(&out.stdout).unwrap_or_default())
}

fn ours(image: &Path, more: &[&str]) -> (i32, serde_json::Value) {
    let out = cowshed(&[&["check", "--output=json"], more, &[s(image)]].concat());
    (out.status.code().unwrap(), serde_json::from_slice(&out.stdout).unwrap_or_default())
}

fn clean(image: &Path, what: &str) {
    let (code, said) = theirs(image, &[]);
    assert_eq!(code, 0, "{what}: {said:#}");
}

fn word(f: &File, at: u64) -> u64 {
    let mut b = [0; 8];
    f.read_exact_at(&mut b, at).unwrap();
    u64::from_be_bytes(b)
}

/// Where things are in an image.
struct Places {
    cluster: u64,
    l1: u64,
    /// The L2 table of the first megabytes.
    l2: u64,
    reftable: u64,
    block: u64,
    snapshots: u64,
    entry: u64,
    len: u64,
}

impl Places {
    fn of(f: &File) -> Places {
        let extended = word(f, 72) & 16 != 0 && word(f, 0) as u32 >= 3;
        let l1 = word(f, 40);
        Places {
            cluster: 1 << (word(f, 16) as u32),
            l1,
            l2: word(f, l1) & OFFSET,
            reftable: word(f, 48),
            block: word(f, word(f, 48)) & OFFSET,
            snapshots: word(f, 64),
            entry: if extended { 16 } else { 8 },
            len: f.metadata().unwrap().len(),
        }
    }
    /// Where the L2 entry of guest cluster `n` is.
    fn at(&self, n: u64) -> u64 {
        self.l2 + n * self.entry
    }
    /// Sets the refcount (16 bits) of a cluster.
    fn count(&self, f: &File, cluster: u64, n: u16) {
        f.write_all_at(&n.to_be_bytes(), self.block + 2 * cluster).unwrap();
    }
}

fn put(f: &File, at: u64, v: u64) {
    f.write_all_at(&v.to_be_bytes(), at).unwrap();
}

/// 64 KiB clusters, 8 MiB: guest clusters 0 to 47 hold data, 64 to 80 were shared with snapshots.
fn sample(image: &Path, options: &str) {
    let _ = std::fs::remove_file(image);
    qemu_img(&format!("create -q -f qcow2 {options} {} 8M", s(image)));
    qemu_io("qcow2", image, &["write -P 1 0 3M", "write -P 3 4M 1M"]);
    qemu_img(&format!("snapshot -c first {}", s(image)));
    qemu_io("qcow2", image, &["write -P 4 1M 1M"]);
    qemu_img(&format!("snapshot -c second {}", s(image)));
    qemu_io("qcow2", image, &["write -P 5 2M 512k"]);
}

/// One way of breaking an image, and what is to come of it.
struct Case {
    label: &'static str,
    options: &'static str,
    damage: fn(&File, &Places),
    /// Guest clusters (64 KiB) that are zeros afterwards.
    lost: &'static [u64],
    /// `qemu-img check -r all` says the same numbers.
    same: bool,
}

const fn case(label: &'static str, damage: fn(&File, &Places), lost: &'static [u64], same: bool) -> Case {
    Case { label, options: "", damage, lost, same }
}

const EXT: &str = "-o extended_l2=on";

static CASES: &[Case] = &[
    case("counts too low", |f, p| (8..20).for_each(|n| p.count(f, n, 0)), &[], false),
    case("a count too low, but not zero", |f, p| p.count(f, (word(f, p.at(0)) / p.cluster) & 0xffff, 1), &[], true),
    case(
        "leaks",
        |f, p| {
            f.set_len(p.len + 5 * p.cluster).unwrap();
            (0..5).for_each(|n| p.count(f, p.len / p.cluster + n, 1));
        },
        &[],
        true,
    ),
    case("counts too high", |f, p| (8..20).for_each(|n| p.count(f, n, 7)), &[], false),
    case("no COPIED flags", |f, p| (0..128).for_each(|n| put(f, p.at(n), word(f, p.at(n)) & !(1 << 63))), &[], true),
    case(
        "COPIED flags everywhere",
        |f, p| {
            (0..128).filter(|n| word(f, p.at(*n)) != 0).for_each(|n| put(f, p.at(n), word(f, p.at(n)) | 1 << 63));
            put(f, p.l1, word(f, p.l1) | 1 << 63);
        },
        &[],
        true,
    ),
    case("all counts gone", |f, p| f.write_all_at(&vec![0; p.cluster as usize], p.block).unwrap(), &[], false),
    case("all counts nonsense", |f, p| f.write_all_at(&noise(4, p.cluster as usize), p.block).unwrap(), &[], false),
    case("a refcount block between clusters", |f, p| put(f, p.reftable, p.block | 0x200), &[], false),
    case("a refcount block behind the end", |f, p| put(f, p.reftable, 1 << 40), &[], false),
    case("no refcount block", |f, p| put(f, p.reftable, 0), &[], false),
    case("a refcount block on the L1 table", |f, p| put(f, p.reftable, p.l1), &[], false),
    case("a refcount block on data", |f, p| put(f, p.reftable, word(f, p.at(40)) & OFFSET), &[], false),
    case("a refcount table of nonsense", |f, p| f.write_all_at(&noise(5, p.cluster as usize), p.reftable).unwrap(), &[], false),
    case("the refcount table behind the end", |f, _| put(f, 48, 1 << 40), &[], false),
    case("the refcount table on the L1 table", |f, p| put(f, 48, p.l1), &[], false),
    case("the dirty bit", |f, _| put(f, 72, 1), &[], true),
    case(
        "the dirty bit, and old counts",
        |f, p| {
            put(f, 72, 1);
            (8..20).for_each(|n| p.count(f, n, 0));
        },
        &[],
        false,
    ),
    case("the corrupt bit", |f, _| put(f, 72, 2), &[], true),
    case("an L2 entry between clusters", |f, p| put(f, p.at(3), word(f, p.at(3)) | 0x200), &[3], false),
    case("L2 entries behind the end", |f, p| (5..9).for_each(|n| put(f, p.at(n), 1 << 63 | (1 + n) << 40)), &[5, 6, 7, 8], false),
    case("an L1 entry behind the end", |f, p| put(f, p.l1, 1 << 63 | 1 << 40), &[1000], false),
    case("an L1 entry between clusters", |f, p| put(f, p.l1, word(f, p.l1) | 0x400), &[1000], false),
    case("reserved bits of an L2 entry", |f, p| put(f, p.at(4), word(f, p.at(4)) | 1 << 58 | 4), &[], false),
    case("reserved bits of an L1 entry", |f, p| put(f, p.l1, word(f, p.l1) | 1 << 57 | 8), &[], false),
    case("two guest clusters in one place", |f, p| put(f, p.at(44), word(f, p.at(45))), &[], true),
    Case {
        label: "subclusters both data and zero",
        options: EXT,
        damage: |f, p| put(f, p.at(2) + 8, 0xf_ffff_ffff),
        lost: &[],
        same: false,
    },
    Case { label: "subclusters without a place", options: EXT, damage: |f, p| put(f, p.at(2), 0), lost: &[2], same: false },
    Case {
        label: "behind the end, with subclusters",
        options: EXT,
        damage: |f, p| put(f, p.at(2), 1 << 63 | 1 << 44),
        lost: &[2],
        same: false,
    },
    Case {
        label: "version 2, behind the end",
        options: "-o compat=0.10",
        damage: |f, p| put(f, p.at(2), 1 << 63 | 1 << 44),
        lost: &[2],
        same: false,
    },
    Case {
        label: "version 2, no counts",
        options: "-o compat=0.10",
        damage: |f, p| put(f, p.reftable, 0),
        lost: &[],
        same: false,
    },
];

fn without(bytes: &[u8], lost: &[u64]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for n in lost {
        match *n {
            1000 => out.fill(0),
            n => out[(n << 16) as usize..((n + 1) << 16) as usize].fill(0),
        }
    }
    out
}

/// What the image shows at a snapshot.
fn at_snapshot(image: &Path, name: &str) -> Vec<u8> {
    let raw = image.with_extension("at");
    run("qemu-img", &["convert", "-l", &format!("snapshot.name={name}"), "-O", "raw", s(image), s(&raw)]);
    std::fs::read(&raw).unwrap()
}

fn a_dry_run_writes_nothing(image: &Path, broken: &[u8], label: &str) {
    let dry = cowshed(&["check", "-r", "all", "--dry-run", s(image)]);
    assert!(String::from_utf8_lossy(&dry.stdout).contains("undo"), "{label}: {dry:?}");
    assert!(std::fs::read(image).unwrap() == broken && !undo_file(image).exists(), "{label}");
}

fn undo_file(image: &Path) -> std::path::PathBuf {
    let mut name = image.file_name().unwrap().to_os_string();
    name.push(".cowshed-undo");
    image.with_file_name(name)
}

#[test]
fn every_damage_is_mended_to_the_right_content_and_can_be_put_back() {
    let d = memory();
    let (base, image, other) = (d.path().join("base.qcow2"), d.path().join("x.qcow2"), d.path().join("y.qcow2"));
    let mut made = "none";
    for (number, case) in CASES.iter().enumerate() {
        let label = case.label;
        if made != case.options {
            sample(&base, case.options);
            made = case.options;
        }
        let (whole, first, second) = (content(&base), at_snapshot(&base, "first"), at_snapshot(&base, "second"));
        std::fs::copy(&base, &image).unwrap();
        let f = File::options().read(true).write(true).open(&image).unwrap();
        (case.damage)(&f, &Places::of(&f));
        drop(f);
        std::fs::copy(&image, &other).unwrap();
        let broken = std::fs::read(&image).unwrap();
        let (_, before) = ours(&image, &[]);

        if number % 4 == 0 {
            a_dry_run_writes_nothing(&image, &broken, label);
        }

        let (code, report) = ours(&image, &["-r", "all"]);
        assert_eq!(code, 0, "{label}: {report:#}");
        assert_eq!(report["repair"]["left"], serde_json::json!([]), "{label}");
        clean(&image, label);
        assert!(content(&image) == without(&whole, case.lost), "{label}: content");
        assert!(number % 4 != 0 || qemu_content("qcow2", &image) == without(&whole, case.lost), "{label}: content by qemu-img");
        if case.lost != [1000] && number % 2 == 0 {
            assert!(at_snapshot(&image, "second") == second && at_snapshot(&image, "first") == first, "{label}: snapshots");
        }
        let lost: u64 = before["lost"].as_array().unwrap().iter().map(|r| r["length"].as_u64().unwrap()).sum();
        let want = if case.lost == [1000] { 8 << 20 } else { (case.lost.len() as u64) << 16 };
        assert_eq!(lost, want, "{label}: {before:#}");
        let bits = word(&File::open(&image).unwrap(), 72);
        assert!(case.options.contains("0.10") || bits & 3 == 0, "{label}: marks");

        if case.same {
            let (their_code, said) = theirs(&other, &["-r", "all"]);
            assert_eq!(their_code, 0, "{label}");
            for key in ["corruptions-fixed", "leaks-fixed", "corruptions", "leaks", "allocated-clusters", "total-clusters"] {
                assert_eq!(report.get(key), said.get(key), "{label}: {key}\n{report:#}\n{said:#}");
            }
        }
        // And back again.
        let undone = cowshed(&["check", "--undo", s(&image)]);
        assert!(undone.status.success(), "{label}: {}", String::from_utf8_lossy(&undone.stderr));
        let now = std::fs::read(&image).unwrap();
        assert_eq!(now.len(), broken.len(), "{label}");
        let again = ours(&image, &[]).1;
        for key in ["corruptions", "leaks", "lost"] {
            assert_eq!(again[key], before[key], "{label}: {key} after undo");
        }
        let list = |v: &serde_json::Value| -> Vec<(String, u64)> {
            let all = v["findings"].as_array().unwrap().iter();
            all.map(|f| (f["id"].as_str().unwrap().to_string(), f["count"].as_u64().unwrap())).collect()
        };
        assert_eq!(list(&again), list(&before), "{label}: findings after undo");
        std::fs::remove_file(undo_file(&image)).unwrap();
        if number % 3 != 0 {
            continue;
        }
        // The repaired image is written to as any other.
        ours(&image, &["-r", "all"]);
        qemu_io("qcow2", &image, &["write -P 9 0 6M", "discard 1M 1M"]);
        clean(&image, label);
        qemu_img(&format!("snapshot -d first {}", s(&image)));
        clean(&image, label);
        let refused = cowshed(&["check", "--undo", s(&image)]);
        assert_eq!(refused.status.code(), Some(1), "{label}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("changed since"), "{label}: {refused:?}");
        clean(&image, label);
        std::fs::remove_file(undo_file(&image)).unwrap();
    }
}

/// What our check finds, in this process: rules and how often.
fn findings(image: &Path) -> Vec<(&'static str, u64)> {
    let (_, report) = cowshed::engine::ops::check::check(image, None, None).unwrap_or_else(|e| panic!("{e}"));
    let mut all: Vec<(&str, u64)> = report.findings.iter().map(|f| (f.rule.id, f.count)).collect();
    // Whether a count is for a cluster behind the end depends on what was appended.
    let behind = all.iter().position(|(id, _)| *id == "behind-the-end").map_or(0, |i| all.remove(i).1);
    if let Some((_, n)) = all.iter_mut().find(|(id, _)| *id == "leak") {
        *n += behind;
    }
    all
}

fn mend(dev: &WriteDevice, how: Repair, keep: &dyn Fn() -> Result<()>) -> Result<Repaired> {
    repair(&Repairing {
        dev: dev.clone(),
        source: Source { dev: dev.clone(), path: "x".into(), gate: Gate::closed() },
        repair: how,
        keep: &|_| keep(),
        tick: &|_, _| Ok(()),
    })
}

fn broken(case: &Case, base: &Path, image: &Path) -> Vec<u8> {
    std::fs::copy(base, image).unwrap();
    let f = File::options().read(true).write(true).open(image).unwrap();
    (case.damage)(&f, &Places::of(&f));
    std::fs::read(image).unwrap()
}

/// Errors that `qemu-img check` counts; an image it cannot open is the worst.
fn errors(image: &Path) -> u64 {
    let (code, said) = theirs(image, &[]);
    if code == 1 { u64::MAX } else { said["corruptions"].as_u64().unwrap_or(0) + said["leaks"].as_u64().unwrap_or(0) }
}

#[test]
fn cut_power_leaves_the_image_as_it_was_or_repaired() {
    let d = memory();
    let (base, image) = (d.path().join("base.qcow2"), d.path().join("x.qcow2"));
    sample(&base, "");
    let whole = content(&base);
    let labels = [
        "leaks",
        "counts too low",
        "no refcount block",
        "the dirty bit, and old counts",
        "L2 entries behind the end",
        "no COPIED flags",
    ];
    for case in CASES.iter().filter(|c| labels.contains(&c.label)) {
        let before = broken(case, &base, &image);
        let worst = errors(&image);
        let old = findings(&image);
        let dev = Faulty::new(before.clone());
        mend(&(dev.clone() as WriteDevice), Repair::All, &|| Ok(())).unwrap();
        let mut seen = (0, 0);
        power_cuts(&before, &dev.record(), |state, bytes| {
            std::fs::write(&image, bytes).unwrap();
            let now = findings(&image);
            assert!(now == old || now.is_empty(), "{} {state}: {now:?}", case.label);
            if now == old {
                seen.0 += 1
            } else {
                seen.1 += 1
            }
            if now != old {
                clean(&image, state);
                assert!(content(&image) == without(&whole, case.lost), "{} {state}", case.label);
            } else if seen.0 % 5 == 1 {
                assert!(errors(&image) <= worst, "{} {state}", case.label);
            }
        });
        assert!(seen.0 > 3 && seen.1 > 1, "{}: {seen:?}", case.label);
    }
}

#[test]
fn a_failing_write_leaves_the_image_no_worse() {
    let d = memory();
    let (base, image) = (d.path().join("base.qcow2"), d.path().join("x.qcow2"));
    sample(&base, "");
    let whole = content(&base);
    for case in
        CASES.iter().filter(|c| ["leaks", "counts too low", "L2 entries behind the end", "no refcount block"].contains(&c.label))
    {
        let before = broken(case, &base, &image);
        let old = findings(&image);
        // Most failures leave the same bytes: each sort of them is looked at once.
        let mut seen: BTreeMap<Vec<u8>, bool> = BTreeMap::new();
        every_failure(
            &before,
            |dev| mend(&(dev.clone() as WriteDevice), Repair::All, &|| Ok(())),
            |what, done, bytes| {
                let mended = *seen.entry(bytes.to_vec()).or_insert_with(|| {
                    std::fs::write(&image, bytes).unwrap();
                    let now = findings(&image);
                    assert!(now == old || now.is_empty(), "{}: {what}: {now:?}", case.label);
                    if now != old {
                        clean(&image, what);
                        assert!(content(&image) == without(&whole, case.lost), "{}: {what}", case.label);
                    }
                    now != old
                });
                assert!(done.is_err() || mended, "{}: {what}", case.label);
            },
        );
    }
}

#[test]
fn nothing_is_written_before_the_old_metadata_is_safe() {
    let d = memory();
    let (base, image) = (d.path().join("base.qcow2"), d.path().join("x.qcow2"));
    sample(&base, "");
    for case in CASES {
        if !case.options.is_empty() {
            continue;
        }
        let before = broken(case, &base, &image);
        let dev = Faulty::new(before.clone());
        let kept = Mutex::new(0);
        let done = mend(&(dev.clone() as WriteDevice), Repair::All, &|| {
            *kept.lock().unwrap() += 1;
            assert!(dev.record().is_empty(), "{}", case.label);
            Err(Error::usage("the side file cannot be written"))
        });
        assert!(done.is_err() && *kept.lock().unwrap() == 1, "{}", case.label);
        assert!(dev.record().is_empty() && dev.to_vec() == before, "{}", case.label);
    }
    // And on the command line: a folder that cannot be written to.
    let out = cowshed(&["check", "-r", "all", "--undo-file", "/proc/none/x", s(&image)]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
}

#[test]
fn leaks_alone_are_given_back_and_nothing_else_is_touched() {
    use std::os::unix::fs::MetadataExt;
    let d = memory();
    let image = d.path().join("x.qcow2");
    sample(&image, "");
    let whole = content(&image);
    let f = File::options().read(true).write(true).open(&image).unwrap();
    let p = Places::of(&f);
    f.set_len(p.len + (64 << 20)).unwrap();
    f.write_all_at(&noise(8, 32 << 20), p.len).unwrap();
    (0..512).for_each(|n| p.count(&f, p.len / p.cluster + n, 1));
    drop(f);
    let (code, report) = ours(&image, &["-r", "leaks"]);
    assert_eq!((code, &report["leaks-fixed"]), (0, &serde_json::json!(512)), "{report:#}");
    clean(&image, "leaks");
    let meta = std::fs::metadata(&image).unwrap();
    assert!(meta.len() < p.len + (1 << 20) && meta.blocks() * 512 < p.len + (1 << 20), "{} {}", meta.len(), meta.blocks());
    assert!(content(&image) == whole);
    // With damage beside them leaks stay where they may be what is lost.
    sample(&image, "");
    let f = File::options().read(true).write(true).open(&image).unwrap();
    let p = Places::of(&f);
    put(&f, p.l1, 1 << 63 | 1 << 40);
    drop(f);
    let before = std::fs::read(&image).unwrap();
    let (code, report) = ours(&image, &["-r", "leaks"]);
    assert_eq!(code, 2);
    assert!(report["repair"]["left"].as_array().unwrap().len() > 1, "{report:#}");
    assert!(std::fs::read(&image).unwrap() == before);
}

#[test]
fn what_is_lost_over_a_backing_file_is_zeros_and_not_what_lies_below() {
    let d = memory();
    let (base, image) = (d.path().join("base.raw"), d.path().join("x.qcow2"));
    std::fs::write(&base, vec![7; 520 << 20]).unwrap();
    qemu_img(&format!("create -q -f qcow2 -b {} -F raw {}", s(&base), s(&image)));
    qemu_io("qcow2", &image, &["write -P 1 0 1M", "write -P 2 512M 1M"]);
    let f = File::options().read(true).write(true).open(&image).unwrap();
    let p = Places::of(&f);
    put(&f, p.at(2), 1 << 63 | 1 << 44);
    put(&f, p.l1 + 8, 1 << 63 | 1 << 45);
    drop(f);
    let (code, report) = ours(&image, &["-r", "all"]);
    assert_eq!(code, 0, "{report:#}");
    clean(&image, "over a backing file");
    qemu_io(
        "qcow2",
        &image,
        &["read -P 1 0 128k", "read -P 0 128k 64k", "read -P 1 192k 832k", "read -P 7 1M 4M", "read -P 0 512M 8M"],
    );
    qemu_io("qcow2", &image, &["write -P 9 512M 1M", "write -P 9 128k 64k"]);
    clean(&image, "written again");
}

#[test]
fn data_over_a_table_gets_a_place_of_its_own() {
    let d = memory();
    let image = d.path().join("x.qcow2");
    for which in ["L1", "L2", "header", "snapshots"] {
        sample(&image, "");
        let whole = content(&image);
        let f = File::options().read(true).write(true).open(&image).unwrap();
        let p = Places::of(&f);
        let at = match which {
            "L1" => p.l1,
            "L2" => p.l2,
            "header" => 0,
            _ => p.snapshots,
        };
        if at > 0 {
            put(&f, p.at(70), 1 << 63 | at);
            drop(f);
            let (code, report) = ours(&image, &["-r", "all"]);
            assert_eq!(code, 0, "{which}: {report:#}");
            clean(&image, which);
            qemu_io("qcow2", &image, &["write -P 9 4480k 64k"]);
            clean(&image, which);
            let mut want = whole;
            want[70 << 16..71 << 16].fill(9);
            assert!(content(&image) == want, "{which}");
        }
    }
}

#[test]
fn compressed_clusters_behind_the_end_are_named_and_emptied() {
    let d = memory();
    let (raw, image) = (d.path().join("a.raw"), d.path().join("x.qcow2"));
    std::fs::write(&raw, text(1, 8 << 20)).unwrap();
    qemu_img(&format!("convert -c -O qcow2 {} {}", s(&raw), s(&image)));
    let mut want = std::fs::read(&raw).unwrap();
    let f = File::options().read(true).write(true).open(&image).unwrap();
    let p = Places::of(&f);
    put(&f, p.at(6), 1 << 62 | 1 << 40);
    put(&f, p.at(9), word(&f, p.at(9)) | 1 << 63);
    drop(f);
    let (code, report) = ours(&image, &["-r", "all"]);
    assert_eq!(code, 0, "{report:#}");
    want[6 << 16..7 << 16].fill(0);
    clean(&image, "compressed");
    assert!(content(&image) == want);
    assert_eq!(report["repair"]["lost"], serde_json::json!([{ "start": 6 << 16, "length": 65536 }]));
}

#[test]
fn damaged_bitmaps_are_given_up_and_a_lost_snapshot_is_found() {
    let d = memory();
    let image = d.path().join("x.qcow2");
    sample(&image, "");
    qemu_img(&format!("bitmap --add {} b", s(&image)));
    let whole = content(&image);
    let info: serde_json::Value = serde_json::from_slice(&run("qemu-img", &["info", "--output=json", s(&image)]).stdout).unwrap();
    assert!(info["format-specific"]["data"]["bitmaps"].is_array());
    let f = File::options().read(true).write(true).open(&image).unwrap();
    // The extension's three fields follow its eight bytes of head.
    let head = std::fs::read(&image).unwrap()[..4096].to_vec();
    let ext = head.windows(4).position(|w| w == [0x23, 0x85, 0x28, 0x75]).unwrap() as u64;
    put(&f, word(&f, ext + 24), 1 << 40);
    drop(f);
    let (code, report) = ours(&image, &[]);
    assert_eq!(code, 2, "{report:#}");
    let (code, report) = ours(&image, &["-r", "all"]);
    assert_eq!(code, 0, "{report:#}");
    clean(&image, "bitmaps");
    assert!(content(&image) == whole);
    qemu_io("qcow2", &image, &["write -P 1 0 64k"]);
    clean(&image, "bitmaps, written");

    // A snapshot that is not where it is said to be: found by what the counts say.
    sample(&image, "");
    let then = at_snapshot(&image, "first");
    let f = File::options().read(true).write(true).open(&image).unwrap();
    let p = Places::of(&f);
    put(&f, p.snapshots, 1 << 45);
    drop(f);
    let (code, report) = ours(&image, &["-r", "all"]);
    assert_eq!((code, &report["repair"]["left"]), (0, &serde_json::json!([])), "{report:#}");
    clean(&image, "the snapshot is whole again");
    assert!(at_snapshot(&image, "first") == then);
}

#[test]
fn a_dirty_image_is_not_written_to_before_it_is_repaired() {
    let d = memory();
    let image = d.path().join("x.qcow2");
    sample(&image, "-o lazy_refcounts=on");
    let f = File::options().read(true).write(true).open(&image).unwrap();
    put(&f, 72, 1);
    drop(f);
    for args in [vec!["resize", s(&image), "+1M"], vec!["snapshot", "-c", "x", s(&image)]] {
        let out = cowshed(&args);
        assert_eq!(out.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&out.stderr).contains("check -r all"), "{out:?}");
    }
    assert_eq!(ours(&image, &["-r", "all"]).0, 0);
    assert!(cowshed(&["resize", s(&image), "+1M"]).status.success());
    clean(&image, "resized");
}

/// Random bytes of the metadata changed: a repair never panics, and never leaves more wrong than there was.
#[test]
fn random_damage_never_gets_worse() {
    let d = memory();
    let image = d.path().join("x.qcow2");
    let mut specimens = Vec::new();
    for options in [
        "cluster_size=4k",
        "cluster_size=16k,extended_l2=on",
        "cluster_size=512,compat=0.10",
        "refcount_bits=1",
        "refcount_bits=64",
    ] {
        let _ = std::fs::remove_file(&image);
        qemu_img(&format!("create -q -f qcow2 -o {options} {} 1M", s(&image)));
        for n in 0..3 {
            qemu_io("qcow2", &image, &[&format!("write -P {} {n}00k 60k", n + 5)]);
            if !options.ends_with("bits=1") {
                qemu_img(&format!("snapshot -c s{n} {}", s(&image)));
            }
        }
        if !options.contains("0.10") {
            qemu_img(&format!("bitmap --add {} b", s(&image)));
        }
        specimens.push(std::fs::read(&image).unwrap());
    }
    let checked = |dev: &WriteDevice| {
        let source = Source { dev: dev.clone(), path: "x".into(), gate: Gate::closed() };
        cowshed::engine::format::qcow2::check::check(&source).map(|r| {
            use cowshed::engine::format::check::Severity::{Corruption, Unchecked};
            (r.count(Corruption) + r.count(Unchecked), r.findings)
        })
    };
    let (mut whole, mut mended) = (0, 0);
    for (round, r) in noise(99, 12 * 240).chunks(12).enumerate() {
        let mut bytes = specimens[round % specimens.len()].clone();
        let span = [104, 1024, 40_000, bytes.len()][usize::from(r[0]) % 4].min(bytes.len());
        for i in 0..=usize::from(r[1]) % 4 {
            let at = (usize::from(r[2 + i]) * 256 + usize::from(r[3 + i])) * 7 % span;
            bytes[at] ^= 1 << (r[8 + i % 3] % 8);
        }
        let dev = Faulty::new(bytes.clone());
        let device: WriteDevice = dev.clone();
        let how = if r[11] % 3 == 0 { Repair::Leaks } else { Repair::All };
        let Ok((before, found)) = checked(&device) else { continue };
        match mend(&device, how, &|| Ok(())) {
            Err(_) => assert!(dev.to_vec()[..512] == bytes[..512], "round {round}"),
            Ok(done) => {
                let (after, left) = checked(&device).unwrap_or_else(|e| panic!("round {round}: {e} {found:?}"));
                assert!(after <= before, "round {round}: {before} to {after}: {found:?} {left:?} {done:?}");
                whole += usize::from(before == 0);
                mended += usize::from(after < before);
                if how == Repair::All && after == 0 && before > 0 && round % 8 == 0 {
                    std::fs::write(&image, dev.to_vec()).unwrap();
                    clean(&image, &format!("round {round} {found:?}"));
                }
            }
        }
    }
    assert!(whole > 4 && mended > 10, "{whole} {mended}");
}
