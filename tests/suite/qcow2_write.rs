//! qcow2 written: new images over the option matrix, random writes against a byte vector, resizes, and power cuts; qemu-img
//! says whether the image is sound and what it holds.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use cowshed::engine::chain::{Chain, Disk, OpenOptions};
use cowshed::engine::error::{ErrorKind, Result};
use cowshed::engine::format::write::{Below, CreateSpec, DiskWriter, NewBacking, NewFiles, WriteSource};
use cowshed::engine::format::{Format, Source};
use cowshed::engine::io::fault::{Faulty, power_cuts};
use cowshed::engine::io::file::FileDevice;
use cowshed::engine::io::gate::Gate;
use cowshed::engine::io::memory::Memory;
use cowshed::engine::io::{Device, ReadAt, WriteDevice};
use cowshed::engine::model::Identity;
use serde_json::Value;

use crate::common::{noise, qemu_io, run, s, text};

const MIB: u64 = 1 << 20;

/// A folder in memory where there is one: these tests flush thousands of times, and no power is really cut.
fn dir() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    let builder = || tempfile::Builder::new().prefix("cowshed-test").to_owned();
    builder().tempdir_in(shm).or_else(|_| builder().tempdir()).unwrap()
}

/// Files of a new image in a folder.
struct InFolder {
    image: WriteDevice,
    dir: PathBuf,
}

impl InFolder {
    fn new(path: &Path) -> Self {
        let _ = std::fs::remove_file(path);
        InFolder { image: Arc::new(FileDevice::create_new(path).unwrap()), dir: path.parent().unwrap().to_path_buf() }
    }
}

impl NewFiles for InFolder {
    fn image(&self) -> WriteDevice {
        self.image.clone()
    }
    fn extra(&self, name: &str) -> Result<WriteDevice> {
        let _ = std::fs::remove_file(self.dir.join(name));
        Ok(Arc::new(FileDevice::create_new(self.dir.join(name))?))
    }
}

/// An image on one device.
struct OnDevice(WriteDevice);

impl NewFiles for OnDevice {
    fn image(&self) -> WriteDevice {
        self.0.clone()
    }
    fn extra(&self, _: &str) -> Result<WriteDevice> {
        unreachable!("no data file was asked for")
    }
}

fn options(text: &str) -> Vec<(String, String)> {
    text.split(',').filter(|o| !o.is_empty()).map(|o| o.split_once('=').map(|(n, v)| (n.into(), v.into())).unwrap()).collect()
}

fn spec(size: u64, opts: &str) -> CreateSpec {
    CreateSpec { size, options: options(opts), ..CreateSpec::default() }
}

fn create(path: &Path, spec: &CreateSpec) -> Result<Arc<dyn DiskWriter>> {
    Format::Qcow2.entry().create.unwrap()(spec, &InFolder::new(path))
}

/// Opens for writing as an operation would: the chain below for reading, the data file beside it.
fn open(path: &Path) -> Result<Arc<dyn DiskWriter>> {
    let chain = Chain::open(path, &OpenOptions::default())?;
    let below = (chain.layers.len() > 1).then(|| Below(Arc::new(Disk::new(chain.layers[1..].to_vec()))));
    Format::Qcow2.entry().open_write.unwrap()(WriteSource {
        dev: Arc::new(FileDevice::open_rw(path)?),
        source: Source { dev: Arc::new(FileDevice::open(path)?), path: path.to_path_buf(), gate: Gate::around(path) },
        below,
        other: Arc::new(|image, name| Ok(Arc::new(FileDevice::open_rw(image.parent().unwrap().join(name))?))),
    })
}

/// Runs qemu-img in the folder of `image`: it looks for data files where it runs.
fn qemu(image: &Path, line: &str) -> std::process::Output {
    let words = line.split(' ').filter(|w| !w.is_empty());
    Command::new("qemu-img").args(words).current_dir(image.parent().unwrap()).output().unwrap()
}

fn qemu_img(image: &Path, line: &str) -> String {
    let out = qemu(image, line);
    assert!(out.status.success(), "qemu-img {line}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// What `qemu-img check` says: 0 clean, 3 leaks.
fn check(path: &Path) -> (i32, String) {
    let out = qemu(path, &format!("check -f qcow2 {}", s(path)));
    (out.status.code().unwrap_or(-1), format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)))
}

fn clean(path: &Path, what: &str) {
    let (code, said) = check(path);
    assert_eq!(code, 0, "{what}: {said}");
}

fn oracle(path: &Path, extra: &str) -> Vec<u8> {
    let raw = path.with_extension("oracle");
    qemu_img(path, &format!("convert {extra} -O raw {} {}", s(path), s(&raw)));
    let bytes = std::fs::read(&raw).unwrap();
    std::fs::remove_file(raw).unwrap();
    bytes
}

fn read_all(dev: &dyn ReadAt) -> Vec<u8> {
    let mut out = vec![0; dev.len() as usize];
    dev.read_at(0, &mut out).unwrap();
    out
}

const MATRIX: &[&str] = &[
    "",
    "compat=0.10",
    "compat=v3,lazy_refcounts=on",
    "cluster_size=512",
    "cluster_size=512,compat=v2",
    "cluster_size=512,refcount_bits=64",
    "cluster_size=4096,refcount_bits=1",
    "cluster_size=2M,refcount_bits=8",
    "refcount_bits=2,compression_type=zstd",
    "extended_l2=on",
    "extended_l2=on,cluster_size=16k,compression_type=zstd",
    "preallocation=metadata",
    "preallocation=falloc,cluster_size=4k",
    "preallocation=full,compat=0.10",
    "preallocation=metadata,extended_l2=on",
    "data_file=ext.raw",
    "data_file=ext.raw,data_file_raw=on",
    "data_file=ext.raw,extended_l2=on",
    "data_file=ext.raw,preallocation=full",
];

#[test]
fn new_images_say_and_hold_what_qemus_do() {
    let dir = dir();
    let (ours, theirs) = (dir.path().join("ours.qcow2"), dir.path().join("theirs.qcow2"));
    for opts in MATRIX {
        for size in [0, 3 * MIB, 5 * MIB + 512] {
            let _ = std::fs::remove_file(dir.path().join("ext.raw"));
            create(&ours, &spec(size, opts)).unwrap().finish().unwrap();
            clean(&ours, opts);
            let info = |p: &Path| serde_json::from_str::<Value>(&qemu_img(p, &format!("info --output=json {}", s(p)))).unwrap();
            let got = info(&ours);
            assert!(oracle(&ours, "") == vec![0; size as usize], "{opts}");
            let data_size = std::fs::metadata(dir.path().join("ext.raw")).map(|m| m.len()).ok();
            let _ = std::fs::remove_file(dir.path().join("ext.raw"));
            let mut args = vec!["create", "-q", "-f", "qcow2"];
            if !opts.is_empty() {
                args.extend(["-o", opts]);
            }
            let size_text = size.to_string();
            args.extend(["theirs.qcow2", &size_text]);
            qemu_img(&theirs, &args.join(" "));
            let want = info(&theirs);
            for key in ["format-specific", "virtual-size", "cluster-size", "dirty-flag"] {
                assert_eq!(got[key], want[key], "{opts}: {key}");
            }
            if opts.contains("preallocation") || opts.contains("raw=on") {
                let map = |p: &Path| serde_json::from_str::<Value>(&qemu_img(p, &format!("map --output=json {}", s(p)))).unwrap();
                let data = |v: &Value| {
                    v.as_array().unwrap().iter().filter(|e| e["data"] == true).map(|e| e["length"].as_u64().unwrap()).sum::<u64>()
                };
                assert_eq!(data(&map(&ours)), data(&map(&theirs)), "{opts}");
                // QEMU's data file ends with a whole cluster; ours where the disk ends, as a raw disk does.
                assert_eq!(data_size.unwrap_or(size), size, "{opts}");
            }
        }
    }
}

#[test]
fn contradicting_options_are_refused_in_words() {
    let dir = dir();
    for (opts, word) in [
        ("compat=0.10,refcount_bits=8", "compat=1.1"),
        ("compat=0.10,lazy_refcounts=on", "compat=1.1"),
        ("compat=0.10,extended_l2=on", "compat=1.1"),
        ("compat=0.10,compression_type=zstd", "compat=1.1"),
        ("compat=0.10,data_file=x", "compat=1.1"),
        ("extended_l2=on,cluster_size=8k", "16k"),
        ("data_file_raw=on", "data_file"),
        ("cluster_size=1000", "power of two"),
        ("cluster_size=4M", "power of two"),
        ("refcount_bits=3", "power of two"),
        ("refcount_bits=128", "power of two"),
        ("colour=red", "colour"),
        ("preallocation=some", "full"),
    ] {
        let e = create(&dir.path().join("x.qcow2"), &spec(MIB, opts)).err().unwrap();
        assert_eq!(e.kind(), ErrorKind::Usage, "{opts}");
        assert!(e.to_string().contains(word), "{opts}: {e}");
    }
    assert!(create(&dir.path().join("x.qcow2"), &spec(1 << 60, "cluster_size=512")).is_err());
}

/// Numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n.max(1)
    }
}

/// Writes at random through `w` and into `model` alike.
fn storm(w: &dyn DiskWriter, model: &mut [u8], dice: &mut Dice, steps: usize, compressed: bool) {
    let (size, unit) = (model.len() as u64, w.unit());
    for step in 0..steps {
        let at = dice.roll(size);
        let max = [600, 5000, 70_000, 400_000][dice.roll(4) as usize];
        let len = 1 + dice.roll(max.min(size - at));
        let range = at as usize..(at + len) as usize;
        match dice.roll(10) {
            0..=4 => {
                let bytes = noise(dice.roll(1 << 30), len as usize);
                w.write(at, &bytes).unwrap();
                model[range].copy_from_slice(&bytes);
            }
            5 | 6 => {
                w.write_zeroes(at, len).unwrap();
                model[range].fill(0);
            }
            7 | 8 if compressed => {
                let start = at / unit * unit;
                let end = (start + unit).min(size);
                let seed = dice.roll(1000);
                // Some do not get smaller by compression.
                let n = (end - start) as usize;
                let bytes = if seed.is_multiple_of(4) { noise(seed, n) } else { text(seed, n) };
                w.write_compressed(start, &bytes).unwrap();
                model[start as usize..end as usize].copy_from_slice(&bytes);
            }
            7 | 8 => {
                // Whole units.
                let start = at / unit * unit;
                let n = (unit * (1 + dice.roll(5))).min(size - start);
                let bytes = text(dice.roll(1000), n as usize);
                w.write(start, &bytes).unwrap();
                model[start as usize..(start + n) as usize].copy_from_slice(&bytes);
            }
            _ => w.flush().unwrap(),
        }
        if step % 40 == 0 {
            assert!(read_writer(w) == model, "step {step}");
        }
    }
}

/// What the writer's own reader sees; only for images that stand on nothing.
fn read_writer(w: &dyn DiskWriter) -> Vec<u8> {
    let r = w.reader();
    if r.backing().is_some() {
        return Vec::new();
    }
    let mut out = vec![0xaa; r.size() as usize];
    r.read(0, &mut out).unwrap();
    out
}

#[test]
fn random_writes_are_what_a_byte_vector_would_hold() {
    let dir = dir();
    let image = dir.path().join("x.qcow2");
    for (n, opts) in MATRIX.iter().enumerate() {
        let size = 2 * MIB + 512 * 3;
        let compressed = !opts.contains("data_file");
        let mut model = vec![0; size as usize];
        let mut dice = Dice(0x1234_5678_9abc_def1 + n as u64);
        let w = create(&image, &spec(size, opts)).unwrap();
        storm(w.as_ref(), &mut model, &mut dice, 120, compressed);
        w.finish().unwrap();
        drop(w);
        clean(&image, opts);
        assert!(oracle(&image, "") == model, "{opts}");
        if opts.contains("data_file_raw") {
            assert!(std::fs::read(dir.path().join("ext.raw")).unwrap() == model, "{opts}: the data file is no raw disk");
        }
        // Opened again, and shared with a snapshot that must not change.
        // Narrow refcounts have no room for a snapshot of clusters used several times already.
        let snapshots = !["data_file", "refcount_bits=1", "refcount_bits=2"].iter().any(|no| opts.contains(no));
        if snapshots {
            qemu_img(&image, &format!("snapshot -c before {}", s(&image)));
        }
        let before = model.clone();
        let w = open(&image).unwrap();
        storm(w.as_ref(), &mut model, &mut dice, 120, compressed);
        w.finish().unwrap();
        drop(w);
        clean(&image, opts);
        assert!(oracle(&image, "") == model, "{opts}: reopened");
        if snapshots {
            assert!(oracle(&image, "-l before") == before, "{opts}: the snapshot changed");
            qemu_img(&image, &format!("snapshot -d before {}", s(&image)));
            clean(&image, opts);
        }
    }
}

#[test]
fn overlays_are_filled_up_from_below() {
    let dir = dir();
    let base = dir.path().join("base.raw");
    // The base is longer than some overlays and shorter than others.
    let below = noise(5, (3 * MIB / 2) as usize + 512);
    std::fs::write(&base, &below).unwrap();
    for (n, opts) in ["", "compat=0.10", "cluster_size=4k", "extended_l2=on", "cluster_size=512,compat=0.10", "cluster_size=2M"]
        .iter()
        .enumerate()
    {
        for size in [MIB + 512 * 5, 2 * MIB] {
            let image = dir.path().join("over.qcow2");
            let disk: Device = Arc::new(FileDevice::open(&base).unwrap());
            let spec = CreateSpec {
                backing: Some(NewBacking {
                    name: "base.raw".into(),
                    path: base.clone(),
                    format: Format::Raw,
                    size: below.len() as u64,
                    identity: Identity::default(),
                    disk: Some(Below(disk)),
                }),
                ..spec(size, opts)
            };
            let mut model = below.clone();
            model.resize(size as usize, 0);
            let mut dice = Dice(77 + n as u64);
            let w = create(&image, &spec).unwrap();
            storm_overlay(w.as_ref(), &mut model, &mut dice);
            w.finish().unwrap();
            clean(&image, opts);
            assert!(oracle(&image, "") == model, "{opts} {size}");
            let w = open(&image).unwrap();
            storm_overlay(w.as_ref(), &mut model, &mut dice);
            // Growing shows zeros where the base goes on.
            w.resize(size + MIB).unwrap();
            model.resize((size + MIB) as usize, 0);
            w.finish().unwrap();
            clean(&image, opts);
            assert!(oracle(&image, "") == model, "{opts} {size}: grown");
        }
    }
}

fn storm_overlay(w: &dyn DiskWriter, model: &mut [u8], dice: &mut Dice) {
    for _ in 0..25 {
        let at = dice.roll(model.len() as u64);
        let len = 1 + dice.roll(90_000.min(model.len() as u64 - at));
        let range = at as usize..(at + len) as usize;
        if dice.roll(3) == 0 {
            w.write_zeroes(at, len).unwrap();
            model[range].fill(0);
        } else {
            let bytes = noise(dice.roll(99), len as usize);
            w.write(at, &bytes).unwrap();
            model[range].copy_from_slice(&bytes);
        }
    }
}

#[test]
fn resizing_keeps_data_snapshots_and_zeros() {
    let dir = dir();
    let image = dir.path().join("x.qcow2");
    for opts in [
        "",
        "compat=0.10",
        "cluster_size=512",
        "extended_l2=on",
        "cluster_size=512,refcount_bits=64",
        "data_file=ext.raw",
        "data_file=ext.raw,data_file_raw=on",
    ] {
        let w = create(&image, &spec(2 * MIB, opts)).unwrap();
        let mut model = noise(3, 2 * MIB as usize);
        w.write(0, &model).unwrap();
        w.finish().unwrap();
        drop(w);
        let snapshot = !opts.contains("data_file") && !opts.contains("0.10");
        if snapshot {
            qemu_img(&image, &format!("snapshot -c small {}", s(&image)));
        }
        let kept = model.clone();
        let w = open(&image).unwrap();
        for size in [8 * MIB, MIB + 512 * 3, 3 * MIB, 512, 40 * MIB] {
            w.resize(size).unwrap();
            model.resize(size as usize, 0);
            assert!(read_writer(w.as_ref()) == model, "{opts} {size}");
            w.write(size - 512, &[9; 512]).unwrap();
            model[size as usize - 512..].fill(9);
        }
        w.finish().unwrap();
        drop(w);
        clean(&image, opts);
        assert!(oracle(&image, "") == model, "{opts}");
        if opts.contains("raw=on") {
            assert!(std::fs::read(dir.path().join("ext.raw")).unwrap() == model);
        }
        if snapshot {
            let chain = Chain::open(&image, &OpenOptions::default()).unwrap();
            assert!(read_all(&chain.snapshot_disk("small").unwrap()) == kept, "{opts}");
        }
    }
    // Version 2 snapshots do not know their size.
    create(&image, &spec(MIB, "compat=0.10")).unwrap().finish().unwrap();
    qemu_img(&image, &format!("snapshot -c s {}", s(&image)));
    let e = open(&image).unwrap().resize(2 * MIB).unwrap_err();
    assert!(e.kind() == ErrorKind::Unsupported && e.advice().unwrap().contains("amend"), "{e}");
}

#[test]
fn refcount_tables_grow_and_move() {
    let dir = dir();
    let image = dir.path().join("x.qcow2");
    // 64 counts to a block, 64 blocks to a table cluster: 2 MiB of file per cluster of table, and the first is made for 1 MiB.
    let w = create(&image, &spec(MIB, "cluster_size=512,refcount_bits=64")).unwrap();
    w.resize(20 * MIB).unwrap();
    let data = noise(1, 20 * MIB as usize);
    for (i, part) in data.chunks(100_000).enumerate() {
        w.write(i as u64 * 100_000, part).unwrap();
        if i % 50 == 7 {
            w.flush().unwrap();
        }
    }
    w.finish().unwrap();
    drop(w);
    clean(&image, "grown");
    assert!(oracle(&image, "") == data);
}

#[test]
fn damaged_dirty_and_encrypted_images_are_not_written() {
    let dir = dir();
    let image = dir.path().join("x.qcow2");
    for (bit, word) in [(1u8, "closed properly"), (2, "damaged")] {
        create(&image, &spec(MIB, "")).unwrap().finish().unwrap();
        let mut bytes = std::fs::read(&image).unwrap();
        bytes[79] |= bit;
        std::fs::write(&image, &bytes).unwrap();
        let e = open(&image).err().unwrap();
        assert!(e.to_string().contains(word) && e.advice().unwrap().contains("check"), "{e}");
    }
    run(
        "qemu-img",
        &[
            "create",
            "-q",
            "--object",
            "secret,id=s,data=x",
            "-f",
            "qcow2",
            "-o",
            "encrypt.format=aes,encrypt.key-secret=s",
            s(&image),
            "1M",
        ],
    );
    assert_eq!(open(&image).err().unwrap().kind(), ErrorKind::Unsupported);
    // Refcounts that call the L1 table free, and an entry that points to the header: nothing is overwritten.
    create(&image, &spec(MIB, "")).unwrap().finish().unwrap();
    qemu_io("qcow2", &image, &["write -P 1 0 64k"]);
    let good = std::fs::read(&image).unwrap();
    let at = |b: &[u8], o: usize| u64::from_be_bytes(b[o..o + 8].try_into().unwrap()) & 0x00ff_ffff_ffff_fe00;
    let l2 = at(&good, at(&good, 40) as usize) as usize;
    let mut bytes = good.clone();
    bytes[l2..l2 + 8].copy_from_slice(&(1u64 << 63 | at(&good, 48)).to_be_bytes());
    std::fs::write(&image, &bytes).unwrap();
    let w = open(&image).unwrap();
    assert_eq!(w.write(0, &[7; 4096]).unwrap_err().kind(), ErrorKind::Corrupt);
    drop(w);
    assert!(std::fs::read(&image).unwrap() == bytes);
    let block = at(&good, at(&good, 48) as usize) as usize;
    let mut bytes = good.clone();
    bytes[block..block + 64].fill(0);
    std::fs::write(&image, &bytes).unwrap();
    let w = open(&image).unwrap();
    assert_eq!(w.write(65536, &[7; 65536]).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn damage_never_crashes_a_writer() {
    let dir = dir();
    let image = dir.path().join("x.qcow2");
    let mut specimens = Vec::new();
    for opts in ["cluster_size=4k", "cluster_size=16k,extended_l2=on", "cluster_size=512,refcount_bits=2"] {
        let w = create(&image, &spec(MIB, opts)).unwrap();
        w.write(0, &noise(1, 200_000)).unwrap();
        w.write_compressed(w.unit() * 20, &text(1, w.unit() as usize)).unwrap();
        w.finish().unwrap();
        qemu_img(&image, &format!("bitmap --add {} b", s(&image)));
        if !opts.contains("refcount_bits=2") {
            qemu_img(&image, &format!("snapshot -c s {}", s(&image)));
        }
        specimens.push(std::fs::read(&image).unwrap());
    }
    let mut dice = Dice(99);
    for round in 0..400 {
        let mut bytes = specimens[round % specimens.len()].clone();
        for _ in 0..1 + dice.roll(3) {
            let span = [104, 1024, 40_000, bytes.len() as u64][dice.roll(4) as usize].min(bytes.len() as u64);
            let at = dice.roll(span) as usize;
            bytes[at] ^= 1 << dice.roll(8);
        }
        let dev: Arc<Memory> = Arc::new(Memory::new(bytes));
        let source = Source { dev: dev.clone(), path: image.clone(), gate: Gate::closed() };
        let Ok(w) = Format::Qcow2.entry().open_write.unwrap()(WriteSource::alone(dev, source)) else { continue };
        for _ in 0..12 {
            let at = dice.roll(w.size());
            let len = dice.roll(60_000.min(w.size() - at));
            let _ = match dice.roll(5) {
                0 => w.write_zeroes(at, len),
                1 => w.write_compressed(at / w.unit() * w.unit(), &text(3, w.unit() as usize)),
                2 => w.flush(),
                3 => w.resize(MIB + dice.roll(100) * 512),
                _ => w.write(at, &noise(4, len as usize)),
            };
        }
        let _ = w.finish();
    }
}

#[test]
fn bitmaps_that_are_not_understood_are_not_trusted_after_a_write() {
    let dir = dir();
    let image = dir.path().join("x.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", s(&image), "4M"]);
    qemu_img(&image, &format!("bitmap --add {} b", s(&image)));
    drop(open(&image).unwrap());
    assert_eq!(std::fs::read(&image).unwrap()[95] & 1, 1, "opening alone changes nothing");
    let write = || {
        let w = open(&image).unwrap();
        w.write(0, &[1; 512]).unwrap();
        w.finish().unwrap();
    };
    write();
    assert_eq!(std::fs::read(&image).unwrap()[95] & 1, 1, "it is recorded");
    // Extra data that nobody here knows and that is not said to be optional: 24 bytes of the entry's name become that.
    let mut bytes = std::fs::read(&image).unwrap();
    let entry = bytes.windows(9).position(|w| w == b"\0\x01\0\0\0\0b\0\0").unwrap() - 18;
    bytes[entry + 18..entry + 24].copy_from_slice(&[0, 1, 0, 0, 0, 7]);
    bytes[entry + 24..entry + 32].copy_from_slice(b"unknownb");
    std::fs::write(&image, bytes).unwrap();
    write();
    assert_eq!(std::fs::read(&image).unwrap()[95] & 1, 0);
}

#[test]
fn bitmaps_live_through_a_resize() {
    let dir = dir();
    let image = dir.path().join("x.qcow2");
    // Small clusters and bits: a table cluster holds 64 entries for 2 MiB each, so that tables grow, move and shrink.
    for sizes in [vec![300 * MIB], vec![3 * MIB], vec![MIB / 2 * 3], vec![200 * MIB, 5 * MIB, 130 * MIB]] {
        qemu_img(dir.path().join("x").as_path(), &format!("create -q -f qcow2 -o cluster_size=512 {} 8M", s(&image)));
        qemu_img(&image, &format!("bitmap --add -g 512 {} fine", s(&image)));
        qemu_img(&image, &format!("bitmap --add -g 1M {} coarse", s(&image)));
        qemu_io("qcow2", &image, &["write -P 1 1M 600k", "write -P 2 7M 300k"]);
        let w = open(&image).unwrap();
        for size in &sizes {
            w.resize(*size).unwrap();
        }
        w.finish().unwrap();
        drop(w);
        clean(&image, "bitmaps");
        // Loading them for writing is what checks their tables against the size; it would drop them otherwise.
        qemu_io("qcow2", &image, &["write -P 3 0 512"]);
        clean(&image, "bitmaps, loaded");
        let info: Value = serde_json::from_str(&qemu_img(&image, &format!("info --output=json {}", s(&image)))).unwrap();
        let names: Vec<_> =
            info["format-specific"]["data"]["bitmaps"].as_array().unwrap().iter().map(|b| (&b["name"], &b["flags"])).collect();
        let auto = serde_json::json!(["auto"]);
        assert_eq!(names, [(&Value::from("fine"), &auto), (&Value::from("coarse"), &auto)], "{sizes:?}");
        assert_eq!(info["virtual-size"], *sizes.last().unwrap());
    }
}

#[test]
fn a_shrunk_image_gives_its_end_back() {
    let dir = dir();
    let image = dir.path().join("x.qcow2");
    let w = create(&image, &spec(16 * MIB, "")).unwrap();
    w.write(0, &noise(1, 16 * MIB as usize)).unwrap();
    w.resize(MIB).unwrap();
    w.finish().unwrap();
    clean(&image, "shrunk");
    assert!(std::fs::metadata(&image).unwrap().len() < 2 * MIB);
    assert!(oracle(&image, "") == noise(1, 16 * MIB as usize)[..MIB as usize]);
}

#[test]
fn threads_write_side_by_side() {
    let dir = dir();
    let image = dir.path().join("x.qcow2");
    let data = noise(9, 8 * MIB as usize);
    for (opts, packed) in [("cluster_size=4k", false), ("", true), ("compression_type=zstd", true)] {
        let w = create(&image, &spec(8 * MIB, opts)).unwrap();
        let next = Mutex::new(0usize);
        let step = if packed { 65536 } else { 10_000 };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    loop {
                        let i = {
                            let mut n = next.lock().unwrap();
                            *n += 1;
                            *n - 1
                        };
                        let Some(part) = data.chunks(step).nth(i) else { return };
                        let at = (i * step) as u64;
                        if packed {
                            // Half of it compresses.
                            let mut part = part.to_vec();
                            part[..step / 2].fill(i as u8);
                            w.write_compressed(at, &part).unwrap();
                        } else {
                            w.write(at, part).unwrap();
                        }
                    }
                });
            }
        });
        w.finish().unwrap();
        clean(&image, opts);
        let mut want = data.clone();
        if packed {
            for (i, part) in want.chunks_mut(step).enumerate() {
                part[..step / 2].fill(i as u8);
            }
            // Several compressed clusters share a host cluster.
            assert!(std::fs::metadata(&image).unwrap().len() < 5 * MIB);
        }
        assert!(oracle(&image, "") == want, "{opts}");
    }
}

/// Cuts the power at every point of `change` on the image made by `prepare`: qemu-img finds it clean or leaking, and the guest
/// finds in each sector what was there before or what was written.
fn cut(
    name: &str,
    opts: &str,
    size: u64,
    prepare: impl Fn(&dyn DiskWriter),
    between: impl Fn(&Path),
    change: impl Fn(&dyn DiskWriter, &mut dyn FnMut()),
) {
    let dir = dir();
    let image = dir.path().join("cut.qcow2");
    let w = create(&image, &spec(size, opts)).unwrap();
    prepare(w.as_ref());
    w.finish().unwrap();
    drop(w);
    between(&image);
    let before = std::fs::read(&image).unwrap();
    let mut versions = vec![oracle(&image, "")];
    let dev = Faulty::new(before.clone());
    let source = Source { dev: dev.clone(), path: image.clone(), gate: Gate::closed() };
    let w = Format::Qcow2.entry().open_write.unwrap()(WriteSource::alone(dev.clone(), source)).unwrap();
    change(w.as_ref(), &mut || versions.push(read_writer(w.as_ref())));
    w.finish().unwrap();
    std::fs::write(&image, dev.to_vec()).unwrap();
    clean(&image, name);
    versions.push(oracle(&image, ""));
    assert!(read_writer(w.as_ref()) == versions[versions.len() - 1], "{name}");
    let mut seen = std::collections::HashSet::new();
    power_cuts(&before, &dev.record(), |state, bytes| {
        if !seen.insert(std::hash::BuildHasher::hash_one(
            &std::hash::BuildHasherDefault::<std::hash::DefaultHasher>::default(),
            &bytes,
        )) {
            return;
        }
        std::fs::write(&image, &bytes).unwrap();
        let (code, said) = check(&image);
        assert!(code == 0 || code == 3, "{name}, {state}: {said}");
        let dev: Device = Arc::new(Memory::new(bytes));
        let open = Format::Qcow2.entry().open;
        let r =
            open(Source { dev, path: image.clone(), gate: Gate::closed() }).unwrap_or_else(|e| panic!("{name}, {state}: {e}"));
        assert!(versions.iter().any(|v| v.len() as u64 == r.size()), "{name}, {state}");
        let mut now = vec![0; r.size() as usize];
        r.read(0, &mut now).unwrap_or_else(|e| panic!("{name}, {state}: {e}"));
        for (i, sector) in now.chunks(512).enumerate() {
            let good = versions.iter().any(|v| v.chunks(512).nth(i).is_none_or(|s| s == sector));
            assert!(good, "{name}, {state}: sector {i} is neither old nor new");
        }
    });
    assert!(seen.len() > 1, "{name}");
}

#[test]
fn a_power_cut_leaves_old_or_new_and_leaks_at_worst() {
    let nothing = |_: &Path| {};
    let snapshot = |p: &Path| drop(qemu_img(p, &format!("snapshot -c s {}", s(p))));
    for opts in
        ["cluster_size=4k", "cluster_size=4k,compat=0.10", "cluster_size=16k,extended_l2=on", "cluster_size=512,refcount_bits=64"]
    {
        let fill = |w: &dyn DiskWriter| w.write(0, &noise(1, 100_000)).unwrap();
        cut("new clusters", opts, 300_032, fill, nothing, |w, keep| {
            w.write(120_000, &noise(2, 60_000)).unwrap();
            w.flush().unwrap();
            keep();
            // In place, and so in whole sectors, which is what a disk writes.
            w.write(1024, &noise(3, 3072)).unwrap();
            w.write(200_000, &noise(4, 9000)).unwrap();
        });
        cut("copied from a snapshot", opts, 300_032, fill, snapshot, |w, _| {
            w.write(5000, &noise(5, 20_000)).unwrap();
            w.write_zeroes(40_000, 30_000).unwrap();
        });
        cut("growing", opts, 60_416, |w| w.write(0, &noise(1, 60_000)).unwrap(), nothing, |w, _| w.resize(3 * MIB).unwrap());
        if opts.contains("0.10") || opts.contains("512") {
            continue;
        }
        cut("zeros", opts, 300_032, fill, nothing, |w, _| {
            w.write_zeroes(3000, 50_000).unwrap();
            w.flush().unwrap();
            // Clusters just freed are used again.
            w.write(200_000, &noise(6, 40_000)).unwrap();
        });
        cut("compressed", opts, 300_032, fill, nothing, |w, keep| {
            let unit = w.unit();
            for i in 0..6 {
                w.write_compressed(unit * i * 2, &text(i, unit as usize)).unwrap();
            }
            w.flush().unwrap();
            keep();
            w.write(unit * 2, &noise(7, 700)).unwrap();
            w.write_compressed(unit * 4, &text(99, unit as usize)).unwrap();
        });
        cut("shrinking", opts, 300_032, fill, nothing, |w, _| w.resize(20_480).unwrap());
    }
}

#[test]
fn a_full_disk_can_be_gone_on_from() {
    use cowshed::engine::io::fault::Failure;
    let dev = Faulty::new(Vec::new());
    let w = Format::Qcow2.entry().create.unwrap()(&spec(MIB, "cluster_size=4k"), &OnDevice(dev.clone())).unwrap();
    let mut model = vec![0; MIB as usize];
    let mut dice = Dice(4711);
    for round in 0..300u64 {
        let at = dice.roll(MIB - 1);
        let len = 1 + dice.roll(30_000.min(MIB - at));
        let bytes = noise(round, len as usize);
        dev.fail(Some(Failure { at: dice.roll(3), once: true, errno: libc_enospc(), reads: false }));
        while let Err(e) = w.write(at, &bytes) {
            assert_eq!(e.kind(), ErrorKind::NoSpace);
        }
        model[at as usize..(at + len) as usize].copy_from_slice(&bytes);
        dev.fail(None);
        if round % 20 == 0 {
            w.flush().unwrap();
        }
    }
    w.finish().unwrap();
    let dir = dir();
    let image = dir.path().join("x.qcow2");
    std::fs::write(&image, dev.to_vec()).unwrap();
    clean(&image, "after a full disk");
    assert!(oracle(&image, "") == model);
}

/// `ENOSPC` on every Unix we run on.
fn libc_enospc() -> i32 {
    28
}

#[test]
fn lazy_refcounts_are_no_hindrance_and_never_needed() {
    let dir = crate::common::dir();
    let path = dir.path().join("lazy.qcow2");
    crate::common::qemu_img(&format!("create -q -f qcow2 -o lazy_refcounts=on {} 8M", s(&path)));
    qemu_io("qcow2", &path, &["write -P 1 0 1M"]);
    let writer = crate::common::open_writer(&path);
    writer.write(512 << 10, &noise(5, 2 << 20)).unwrap();
    writer.flush().unwrap();
    // In the middle of the work: the counts are right, so the dirty bit is not set and needs no repair.
    assert!(crate::common::qemu_img(&format!("check -U {}", s(&path))).contains("No errors"));
    writer.finish().unwrap();
    drop(writer);
    let mut want = vec![1; 512 << 10];
    want.extend(noise(5, 2 << 20));
    assert!(crate::common::qemu_content("qcow2", &path)[..want.len()] == want);
    let info = crate::common::qemu_img(&format!("info {}", s(&path)));
    assert!(info.contains("lazy refcounts: true"), "{info}");
}
