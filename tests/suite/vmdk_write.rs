//! Writing VMDK: what is created and written here, `qemu-img` opens, checks and compares; random writes agree with a byte vector;
//! a power cut at any moment leaves the old or the new content.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use cowshed::engine::chain::{Chain, OpenOptions};
use cowshed::engine::error::{ErrorKind, Result};
use cowshed::engine::format::write::{Below, CreateSpec, DiskWriter, NewBacking, NewFiles, WriteSource};
use cowshed::engine::format::{Format, Source};
use cowshed::engine::io::fault::{Failure, Faulty, Op, power_cuts};
use cowshed::engine::io::file::FileDevice;
use cowshed::engine::io::gate::Gate;
use cowshed::engine::io::memory::Memory;
use cowshed::engine::io::{Device, WriteDevice};
use cowshed::engine::model::Kind;

use crate::common::{content, cowshed, dir, noise, qemu_content, qemu_img, qemu_io, s, text};

const SUBFORMATS: [&str; 5] =
    ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized"];
const GRAIN: usize = 65536;

/// New files straight under their final names.
struct Folder(PathBuf, String);

impl NewFiles for Folder {
    fn image(&self) -> WriteDevice {
        let path = self.0.join(&self.1);
        Arc::new(FileDevice::create_new(&path).or_else(|_| FileDevice::open_rw(&path)).unwrap())
    }
    fn extra(&self, name: &str) -> Result<WriteDevice> {
        Ok(Arc::new(FileDevice::create_new(self.0.join(name))?))
    }
}

fn spec(size: u64, name: &str, options: &str) -> CreateSpec {
    CreateSpec {
        size,
        options: options.split(',').filter_map(|o| o.split_once('=')).map(|(n, v)| (n.into(), v.into())).collect(),
        backing: None,
        file_name: name.into(),
    }
}

fn create(folder: &Path, spec: &CreateSpec) -> Result<Arc<dyn DiskWriter>> {
    (Format::Vmdk.entry().create.unwrap())(spec, &Folder(folder.into(), spec.file_name.clone()))
}

fn reopen(path: &Path, below: Option<Below>) -> Result<Arc<dyn DiskWriter>> {
    let dev: WriteDevice = Arc::new(FileDevice::open_rw(path)?);
    let source = Source { dev: dev.clone(), path: path.into(), gate: Gate::around(path) };
    let other = Arc::new(|p: &Path, name: &str| Ok(Arc::new(FileDevice::open_rw(p.with_file_name(name))?) as WriteDevice));
    (Format::Vmdk.entry().open_write.unwrap())(WriteSource { dev, source, below, other })
}

fn cid(path: &Path) -> u32 {
    Chain::open(path, &OpenOptions::default()).unwrap().nodes[0].description.identity.cid.unwrap()
}

/// Both tools see exactly `want`, and neither finds anything wrong.
#[track_caller]
fn agree(path: &Path, want: &[u8]) {
    assert!(content(path) == want, "cowshed reads something else");
    assert!(qemu_content("vmdk", path) == want, "qemu-img reads something else");
    qemu_img(&format!("check -f vmdk {}", s(path)));
}

#[test]
fn what_is_created_is_what_qemu_img_creates() {
    let d = dir();
    for subformat in SUBFORMATS {
        for (i, more) in
            ["", "adapter_type=lsilogic,hwversion=13,toolsversion=7", "compat6=on", "zeroed_grain=on"].iter().enumerate()
        {
            if more.contains("zeroed") && subformat.ends_with("Flat") {
                continue;
            }
            let (ours, theirs) = (d.path().join(format!("o{i}{subformat}")), d.path().join(format!("t{i}{subformat}")));
            std::fs::create_dir(&ours).unwrap();
            std::fs::create_dir(&theirs).unwrap();
            let options = format!("subformat={subformat},{more}");
            create(&ours, &spec((5 << 30) + 512, "a.b.vmdk", &options)).unwrap().finish().unwrap();
            qemu_img(&format!(
                "create -q -f vmdk -o {} {} {}",
                options.trim_end_matches(','),
                s(&theirs.join("a.b.vmdk")),
                (5u64 << 30) + 512
            ));
            let info = |folder: &Path| {
                let text = qemu_img(&format!("info -f vmdk --output=json {}", s(&folder.join("a.b.vmdk"))));
                let mut v: serde_json::Value = serde_json::from_str(&text.replace(s(folder), "")).unwrap();
                v["format-specific"]["data"]["cid"] = 0.into();
                for key in ["actual-size", "children"] {
                    v[key] = 0.into();
                }
                v
            };
            assert_eq!(info(&ours), info(&theirs));
            let facts = |folder: &Path| {
                let node =
                    &Chain::open(&folder.join("a.b.vmdk"), &OpenOptions::default()).unwrap().nodes[0].description.facts.clone();
                node.iter()
                    .filter(|f| !["CID", "encoding", "sparse version"].contains(&f.label))
                    .map(|f| f.value.clone())
                    .collect::<Vec<_>>()
            };
            if subformat != "streamOptimized" {
                assert_eq!(facts(&ours), facts(&theirs));
            }
            let files = |folder: &Path| {
                let mut v: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name()).collect();
                v.sort();
                v
            };
            assert_eq!(files(&ours), files(&theirs));
            qemu_img(&format!("compare {} {}", s(&ours.join("a.b.vmdk")), s(&theirs.join("a.b.vmdk"))));
        }
    }
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let d = dir();
    let mut flat_child = spec(1 << 20, "a.vmdk", "subformat=monolithicFlat");
    flat_child.backing = Some(parent(Path::new("base.vmdk"), 1, None));
    let mut foreign = spec(1 << 20, "a.vmdk", "");
    foreign.backing = Some(NewBacking { format: Format::Raw, ..parent(Path::new("base.raw"), 1, None) });
    for bad in [
        spec(1 << 20, "a.vmdk", "subformat=vmfs"),
        spec(1 << 20, "a.vmdk", "adapter_type=foo"),
        spec(1 << 20, "a.vmdk", "compat6=on,hwversion=7"),
        spec(1 << 20, "a.vmdk", "subformat=monolithicFlat,zeroed_grain=on"),
        spec(1 << 20, "a\"b.vmdk", ""),
        spec(1 << 50, "a.vmdk", "subformat=twoGbMaxExtentSparse"),
        spec(1 << 62, "a.vmdk", ""),
        flat_child,
        foreign,
    ] {
        let e = create(d.path(), &bad).err().unwrap_or_else(|| panic!("{bad:?} was made"));
        assert_eq!(e.kind(), ErrorKind::Usage, "{e}");
        for file in std::fs::read_dir(d.path()).unwrap() {
            std::fs::remove_file(file.unwrap().path()).unwrap();
        }
    }
}

fn random(x: &mut u64, below: u64) -> u64 {
    *x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*x >> 24) % below
}

/// Random writes and zeroing through `writer` and on `model` alike.
fn scribble(writer: &dyn DiskWriter, model: &mut [u8], seed: u64, rounds: usize) {
    let mut x = seed;
    for i in 0..rounds {
        let at = random(&mut x, model.len() as u64) as usize;
        let len = (1 + random(&mut x, if i % 4 == 0 { 300_000 } else { 9000 }) as usize).min(model.len() - at);
        // Some are whole grains.
        let (at, len) =
            if i % 5 == 0 && at / GRAIN * GRAIN + GRAIN <= model.len() { (at / GRAIN * GRAIN, GRAIN) } else { (at, len) };
        if i % 3 == 2 {
            writer.write_zeroes(at as u64, len as u64).unwrap();
            model[at..at + len].fill(0);
        } else {
            let data = noise(seed + i as u64, len);
            writer.write(at as u64, &data).unwrap();
            model[at..at + len].copy_from_slice(&data);
        }
        if i % 16 == 7 {
            writer.flush().unwrap();
        }
        if i % 8 == 3 {
            let mut seen = vec![1; len];
            writer.reader().read(at as u64, &mut seen).unwrap();
            assert!(seen == model[at..at + len], "round {i}");
        }
    }
}

#[test]
fn random_writes_agree_with_a_vector_and_with_qemu_img() {
    for subformat in &SUBFORMATS[..4] {
        for more in ["", "zeroed_grain=on"] {
            if !more.is_empty() && subformat.ends_with("Flat") {
                continue;
            }
            let d = dir();
            let path = d.path().join("a.vmdk");
            let mut model = vec![0u8; (35 << 20) + 1536];
            let writer = create(d.path(), &spec(model.len() as u64, "a.vmdk", &format!("subformat={subformat},{more}"))).unwrap();
            let before = cid(&path);
            scribble(writer.as_ref(), &mut model, 11, 60);
            writer.finish().unwrap();
            drop(writer);
            agree(&path, &model);
            assert_eq!(cid(&path), before, "nobody has seen the first content id before");
            // Another session, on an image that qemu-io wrote to as well.
            qemu_io("vmdk", &path, &["write -P 7 1M 100k"]);
            model[1 << 20..(1 << 20) + 102_400].fill(7);
            let before = cid(&path);
            let writer = reopen(&path, None).unwrap();
            assert_eq!(cid(&path), before, "opening alone changes nothing");
            scribble(writer.as_ref(), &mut model, 23, 40);
            writer.finish().unwrap();
            agree(&path, &model);
            assert_ne!(cid(&path), before, "content changed");
        }
    }
}

#[test]
fn threads_may_write_at_once() {
    let d = dir();
    let path = d.path().join("a.vmdk");
    let size = 16 << 20;
    let writer = create(d.path(), &spec(size as u64, "a.vmdk", "")).unwrap();
    let want = noise(5, size);
    // Pieces that share grains, from four threads.
    std::thread::scope(|scope| {
        for t in 0..4 {
            let (writer, want) = (&writer, &want);
            scope.spawn(move || {
                for at in (t * 40_000..size).step_by(160_000) {
                    let n = 40_000.min(size - at);
                    writer.write(at as u64, &want[at..at + n]).unwrap();
                    if at % 7 == 0 {
                        writer.flush().unwrap();
                    }
                }
            });
        }
    });
    writer.finish().unwrap();
    agree(&path, &want);
}

/// The primary and the redundant tables of a one-file sparse disk, entry by entry.
fn both_tables(path: &Path) -> [Vec<u32>; 2] {
    let b = std::fs::read(path).unwrap();
    let le32 = |at: usize| u32::from_le_bytes(b[at..at + 4].try_into().unwrap());
    let le64 = |at: usize| u64::from_le_bytes(b[at..at + 8].try_into().unwrap());
    let tables = le64(12).div_ceil(128 * 512) as usize;
    [56, 48].map(|field| {
        let directory = le64(field) as usize * 512;
        (0..tables)
            .flat_map(|t| (0..512).map(move |e| (t, e)))
            .map(|(t, e)| le32(le32(directory + t * 4) as usize * 512 + e * 4))
            .collect()
    })
}

#[test]
fn both_copies_of_the_tables_are_kept() {
    let d = dir();
    let path = d.path().join("a.vmdk");
    let writer = create(d.path(), &spec(100 << 20, "a.vmdk", "zeroed_grain=on")).unwrap();
    scribble(writer.as_ref(), &mut vec![0; 100 << 20], 3, 50);
    writer.finish().unwrap();
    let [first, second] = both_tables(&path);
    assert_eq!(first, second);
    assert!(first.iter().any(|&e| e > 1));
}

fn parent(path: &Path, cid: u32, disk: Option<Below>) -> NewBacking {
    NewBacking {
        name: path.file_name().unwrap().to_str().unwrap().into(),
        path: path.into(),
        format: Format::Vmdk,
        size: 0,
        identity: cowshed::engine::model::Identity { cid: Some(cid), ..Default::default() },
        disk,
    }
}

fn below(path: &Path) -> Below {
    Below(Arc::new(Chain::open(path, &OpenOptions::default()).unwrap().disk().unwrap()))
}

#[test]
fn children_take_the_rest_of_a_grain_from_their_parent() {
    for more in ["", "zeroed_grain=on", "subformat=twoGbMaxExtentSparse", "subformat=streamOptimized"] {
        let d = dir();
        let (base, path) = (d.path().join("base.vmdk"), d.path().join("a.vmdk"));
        qemu_img(&format!("create -q -f vmdk {} 8M", s(&base)));
        qemu_io("vmdk", &base, &["write -P 3 0 5M"]);
        let mut model = content(&base);
        let mut child = spec(8 << 20, "a.vmdk", more);
        child.backing = Some(parent(&base, cid(&base), Some(below(&base))));
        let writer = create(d.path(), &child).unwrap();
        if more.contains("stream") {
            writer.write(100_000, &[9; 70_000]).unwrap();
            writer.write_zeroes(400_000, 1 << 20).unwrap();
            model[100_000..170_000].fill(9);
            model[400_000..400_000 + (1 << 20)].fill(0);
        } else {
            scribble(writer.as_ref(), &mut model, 9, 30);
        }
        writer.finish().unwrap();
        drop(writer);
        agree(&path, &model);
        if !more.contains("stream") {
            let writer = reopen(&path, Some(below(&base))).unwrap();
            scribble(writer.as_ref(), &mut model, 31, 20);
            writer.finish().unwrap();
            agree(&path, &model);
            // Without the parent a part of an unallocated grain cannot be written, and nothing is made up.
            let fresh = d.path().join("b.vmdk");
            child.file_name = "b.vmdk".into();
            child.backing = Some(parent(&base, cid(&base), None));
            let writer = create(d.path(), &child).unwrap();
            assert_eq!(writer.write(5, &[1]).unwrap_err().kind(), ErrorKind::Usage);
            writer.write(0, &[1; GRAIN]).unwrap();
            writer.finish().unwrap();
            assert_eq!(content(&fresh)[GRAIN - 1..GRAIN + 1], [1, 3]);
        }
    }
}

#[test]
fn streams_are_laid_out_as_vmware_does() {
    let d = dir();
    let path = d.path().join("a.vmdk");
    let mut model = vec![0u8; (70 << 20) + 512];
    model[..200_000].copy_from_slice(&text(1, 200_000));
    model[(33 << 20) + 5..][..100_000].copy_from_slice(&noise(2, 100_000));
    let end = model.len();
    model[end - 600..].copy_from_slice(&noise(3, 600));
    let writer = create(d.path(), &spec(end as u64, "a.vmdk", "subformat=streamOptimized")).unwrap();
    assert!(writer.sequential());
    // Until it is finished nobody takes it for a disk.
    assert!(writer.reader().readable().is_err());
    let packed = writer.pack(&model[..GRAIN]).unwrap();
    writer.write_packed(0, &packed).unwrap();
    writer.write_compressed(GRAIN as u64, &model[GRAIN..2 * GRAIN]).unwrap();
    for (i, piece) in model[2 * GRAIN..].chunks(50_000).enumerate() {
        writer.write((2 * GRAIN + i * 50_000) as u64, piece).unwrap();
    }
    assert_eq!(writer.write(0, &[1]).unwrap_err().kind(), ErrorKind::Usage);
    writer.finish().unwrap();
    assert!(writer.write((end - 1) as u64, &[1]).and_then(|()| writer.finish()).is_err() || content(&path) == model);
    assert!(writer.reader().readable().is_ok());
    agree(&path, &model);

    // The walk that an importer makes from front to end: every marker in its place, grains ascending, tables after their grains.
    let b = std::fs::read(&path).unwrap();
    let le32 = |at: usize| u32::from_le_bytes(b[at..at + 4].try_into().unwrap());
    let le64 = |at: usize| u64::from_le_bytes(b[at..at + 8].try_into().unwrap());
    assert_eq!((&b[..4], le32(4), le64(56), le64(64)), (&b"KDMV"[..], 3, u64::MAX, 128));
    let (mut at, mut seen, mut last) = (128 * 512, String::new(), None);
    loop {
        let (value, size) = (le64(at), le32(at + 8) as usize);
        if size > 0 {
            assert!(last.is_none_or(|l| value > l) && value % 128 == 0);
            last = Some(value);
            seen.push('g');
            at = (at + 12 + size).next_multiple_of(512);
            continue;
        }
        let kind = le32(at + 12);
        seen.push(['E', 'T', 'D', 'F'][kind as usize]);
        at += 512 + value as usize * 512;
        if kind == 0 {
            break;
        }
    }
    let mut want = String::new();
    for table in model.chunks(512 * GRAIN) {
        let stored = table.chunks(GRAIN).filter(|g| g.iter().any(|&x| x != 0)).count();
        want.push_str(&"g".repeat(stored));
        want.push_str(if stored > 0 { "T" } else { "" });
    }
    assert_eq!((at, seen), (b.len(), want + "DFE"));
    assert_eq!(
        le64(b.len() - 1024 + 56) * 512 + 1024 + 512 + 512,
        b.len() as u64,
        "the directory is right before the footer's marker"
    );
}

#[test]
fn streams_are_not_changed_in_place() {
    let d = dir();
    let path = d.path().join("a.vmdk");
    create(d.path(), &spec(1 << 20, "a.vmdk", "subformat=streamOptimized")).unwrap().finish().unwrap();
    let e = reopen(&path, None).err().unwrap();
    assert_eq!((e.kind(), e.advice().is_some()), (ErrorKind::Unsupported, true));
}

#[test]
fn one_file_disks_grow_and_shrink_in_place() {
    for options in ["", "zeroed_grain=on", "subformat=monolithicFlat"] {
        let d = dir();
        let path = d.path().join("a.vmdk");
        let mut model = vec![0u8; (3 << 20) + 1024];
        let writer = create(d.path(), &spec(model.len() as u64, "a.vmdk", options)).unwrap();
        scribble(writer.as_ref(), &mut model, 1, 20);
        let mut x = 5;
        for (i, size) in [34 << 20, 1 << 20, (2 << 20) + 512, 40 << 20, 33 << 20, 66 << 20].into_iter().enumerate() {
            writer.resize(size as u64).unwrap();
            assert_eq!(writer.size(), size as u64);
            model.resize(size, 0);
            scribble(writer.as_ref(), &mut model, random(&mut x, 1000), 12);
            writer.flush().unwrap();
            assert!(content(&path) == model, "{options} {i}: cowshed reads something else after {size}");
            if i == 3 || i == 5 {
                agree(&path, &model);
            }
        }
        if !options.contains("Flat") {
            let [first, second] = both_tables(&path);
            assert_eq!(first, second);
        }
    }
}

#[test]
fn growing_a_child_reveals_nothing_of_a_longer_parent() {
    for options in ["", "zeroed_grain=on"] {
        let d = dir();
        let (base, path) = (d.path().join("base.vmdk"), d.path().join("a.vmdk"));
        qemu_img(&format!("create -q -f vmdk {} 8M", s(&base)));
        qemu_io("vmdk", &base, &["write -P 3 0 8M"]);
        let mut child = spec((1 << 20) + 512, "a.vmdk", options);
        child.backing = Some(parent(&base, cid(&base), Some(below(&base))));
        let writer = create(d.path(), &child).unwrap();
        writer.resize(12 << 20).unwrap();
        writer.finish().unwrap();
        let mut want = vec![3u8; (1 << 20) + 512];
        want.resize(12 << 20, 0);
        agree(&path, &want);
        drop(writer);
        let alone = reopen(&path, None).unwrap();
        assert_eq!(alone.resize(20 << 20).unwrap_err().kind(), ErrorKind::Usage);
    }
}

#[test]
fn split_and_foreign_disks_say_why_they_are_not_changed() {
    let d = dir();
    let writer = create(d.path(), &spec(3 << 30, "a.vmdk", "subformat=twoGbMaxExtentSparse")).unwrap();
    // Other files are needed for that, and the writer alone cannot make them.
    assert_eq!(writer.resize(4 << 30).unwrap_err().kind(), ErrorKind::Unsupported);
    drop(writer);
    std::fs::write(d.path().join("f.bin"), [5; 1024]).unwrap();
    let path = d.path().join("c.vmdk");
    std::fs::write(
        &path,
        "# Disk DescriptorFile\nversion=1\nCID=00000001\nRW 1 ZERO\nRDONLY 1 FLAT \"f.bin\" 0\nRW 1 FLAT \"f.bin\" 1\n",
    )
    .unwrap();
    let writer = reopen(&path, None).unwrap();
    assert!(writer.write(0, &[1]).is_err() && writer.write(512, &[1]).is_err());
    writer.write(1024, &[1]).unwrap();
    writer.flush().unwrap();
    let mut want = vec![0; 512];
    want.extend([5; 1024]);
    want[1024] = 1;
    assert_eq!(content(&path), want);
}

/// New files in memory that record what is done to them.
struct Recorded(Arc<Faulty>);

impl NewFiles for Recorded {
    fn image(&self) -> WriteDevice {
        self.0.clone()
    }
    fn extra(&self, name: &str) -> Result<WriteDevice> {
        panic!("{name} is not needed")
    }
}

fn open_memory(dev: WriteDevice) -> Result<Arc<dyn DiskWriter>> {
    let source = Source { dev: dev.clone(), path: "a.vmdk".into(), gate: Gate::closed() };
    (Format::Vmdk.entry().open_write.unwrap())(WriteSource::alone(dev, source))
}

fn read_memory(bytes: Vec<u8>) -> Result<Vec<u8>> {
    let source = Source { dev: Arc::new(Memory::new(bytes)), path: "a.vmdk".into(), gate: Gate::closed() };
    let image = (Format::Vmdk.entry().open)(source)?;
    let mut out = vec![0; image.size() as usize];
    image.read(0, &mut out)?;
    Ok(out)
}

/// A small disk with some content, in memory.
fn small(options: &str, size: u64) -> (Vec<u8>, Vec<u8>) {
    let dev = Faulty::new(Vec::new());
    let writer = (Format::Vmdk.entry().create.unwrap())(&spec(size, "a.vmdk", options), &Recorded(dev.clone())).unwrap();
    let mut model = vec![0u8; size as usize];
    for (at, len) in [(0usize, 3000usize), (5 * GRAIN + 9, GRAIN)] {
        let data = noise(at as u64 + 1, len);
        writer.write(at as u64, &data).unwrap();
        model[at..at + len].copy_from_slice(&data);
    }
    writer.finish().unwrap();
    (dev.to_vec(), model)
}

#[test]
fn a_power_cut_while_writing_leaves_each_sector_old_or_new() {
    let (before, old) = small("", 1 << 20);
    let dev = Faulty::new(before.clone());
    let writer = open_memory(dev.clone()).unwrap();
    let mut new = old.clone();
    let mut change = |at: usize, data: Option<&[u8]>, len: usize| match data {
        Some(data) => {
            writer.write(at as u64, data).unwrap();
            new[at..at + len].copy_from_slice(data);
        }
        None => {
            writer.write_zeroes(at as u64, len as u64).unwrap();
            new[at..at + len].fill(0);
        }
    };
    change(2 * GRAIN + 512, Some(&noise(7, 2 * GRAIN)), 2 * GRAIN);
    change(0, Some(&noise(8, 1024)), 1024);
    change(5 * GRAIN, None, GRAIN);
    writer.flush().unwrap();
    let mut change = |at: usize, data: &[u8]| {
        writer.write(at as u64, data).unwrap();
        new[at..at + data.len()].copy_from_slice(data);
    };
    change(9 * GRAIN, &noise(9, GRAIN));
    writer.finish().unwrap();
    assert!(read_memory(dev.to_vec()).unwrap() == new);
    let states = Mutex::new(0);
    power_cuts(&before, &dev.record(), |what, bytes| {
        *states.lock().unwrap() += 1;
        let got = read_memory(bytes.clone()).unwrap_or_else(|e| panic!("{what}: {e}"));
        for (i, sector) in got.chunks(512).enumerate() {
            let range = i * 512..i * 512 + sector.len();
            assert!(sector == &old[range.clone()] || sector == &new[range], "{what}: sector {i} is neither old nor new");
        }
        // Changed content goes with a changed content id.
        let id = |b: &[u8]| {
            b[512..1536].windows(5).position(|w| w == b"\nCID=").map(|p| b[512 + p + 5..512 + p + 13].to_vec()).unwrap()
        };
        assert!(got == old || id(&bytes) != id(&before), "{what}: the content changed under the old content id");
    });
    assert!(*states.lock().unwrap() > 20);
}

#[test]
fn a_power_cut_while_a_child_grows_never_shows_its_longer_parent() {
    for options in ["", "zeroed_grain=on"] {
        let under: Device = Arc::new(Memory::new(vec![3; 4 << 20]));
        let mut child = spec((1 << 20) + 512, "a.vmdk", options);
        child.backing = Some(parent(Path::new("base.vmdk"), 7, Some(Below(under.clone()))));
        let made = Faulty::new(Vec::new());
        let writer = (Format::Vmdk.entry().create.unwrap())(&child, &Recorded(made.clone())).unwrap();
        writer.write(5 * GRAIN as u64, &noise(1, 3000)).unwrap();
        writer.finish().unwrap();
        let before = made.to_vec();
        // What a guest sees: the child's own bytes, the parent's where it has none.
        let seen = |bytes: Vec<u8>| {
            let source = Source { dev: Arc::new(Memory::new(bytes)), path: "a.vmdk".into(), gate: Gate::closed() };
            let top = (Format::Vmdk.entry().open)(source).unwrap();
            let below = Source { dev: under.clone(), path: "base".into(), gate: Gate::closed() };
            let disk = cowshed::engine::chain::Disk::new(vec![top, (Format::Raw.entry().open)(below).unwrap()]);
            let mut out = vec![0; disk.size() as usize];
            cowshed::engine::io::ReadAt::read_at(&disk, 0, &mut out).unwrap();
            out
        };
        let old = seen(before.clone());
        let mut new = old.clone();
        new.resize(6 << 20, 0);
        let dev = Faulty::new(before.clone());
        let source = Source { dev: dev.clone(), path: "a.vmdk".into(), gate: Gate::closed() };
        let from = WriteSource { below: Some(Below(under.clone())), ..WriteSource::alone(dev.clone(), source) };
        let writer = (Format::Vmdk.entry().open_write.unwrap())(from).unwrap();
        writer.resize(6 << 20).unwrap();
        assert!(seen(dev.to_vec()) == new, "{options}");
        power_cuts(&before, &dev.record(), |what, bytes| {
            let got = seen(bytes);
            assert!(got == old || got == new, "{options} {what}: {} bytes", got.len());
        });
    }
}

#[test]
fn a_power_cut_while_resizing_leaves_the_old_size_or_the_new() {
    for (from, to) in [(1u64 << 20, 40u64 << 20), (40 << 20, 1 << 20), ((1 << 20) + 512, 3 << 20)] {
        let (before, old) = small("", from);
        let dev = Faulty::new(before.clone());
        let writer = open_memory(dev.clone()).unwrap();
        writer.resize(to).unwrap();
        let mut new = old.clone();
        new.resize(to as usize, 0);
        power_cuts(&before, &dev.record(), |what, bytes| {
            let got = read_memory(bytes).unwrap_or_else(|e| panic!("{what}: {e}"));
            // While shrinking, what is cut off may go before the new size is seen by nobody: only the common part counts.
            let common = old.len().min(new.len());
            assert!(got.len() == old.len() || got.len() == new.len(), "{what}: {}", got.len());
            assert!(got[..common] == old[..common], "{what}");
            assert!(
                got.get(common..).unwrap_or_default() == if got.len() == old.len() { &old[common..] } else { &new[common..] },
                "{what}"
            );
        });
    }
}

#[test]
fn a_cut_stream_is_never_taken_for_a_disk() {
    let dev = Faulty::new(Vec::new());
    let writer =
        (Format::Vmdk.entry().create.unwrap())(&spec(1 << 20, "a.vmdk", "subformat=streamOptimized"), &Recorded(dev.clone()))
            .unwrap();
    let want = noise(1, 1 << 20);
    writer.write(0, &want).unwrap();
    writer.finish().unwrap();
    let done = dev.to_vec();
    power_cuts(&[], &dev.record(), |what, bytes| {
        if let Ok(got) = read_memory(bytes.clone()) {
            assert!(got == want && bytes.len() == done.len() || bytes.is_empty(), "{what}");
        }
    });
}

#[test]
fn failing_writes_and_flushes_are_errors_and_leave_old_or_new() {
    let (before, old) = small("zeroed_grain=on", 1 << 20);
    let run = |failure: Option<Failure>| {
        let dev = Faulty::new(before.clone());
        dev.fail(failure);
        let done = open_memory(dev.clone()).and_then(|w| {
            w.write(2 * GRAIN as u64, &noise(3, 100_000))?;
            w.write_zeroes(5 * GRAIN as u64, GRAIN as u64)?;
            w.finish()?;
            w.resize(3 << 20)
        });
        (dev.operations(), done, dev.to_vec())
    };
    let (operations, done, bytes) = run(None);
    done.unwrap();
    let new = read_memory(bytes).unwrap();
    assert!(operations > 8);
    for at in 0..operations {
        for once in [true, false] {
            for errno in [libc_eio(), libc_enospc()] {
                let (_, done, bytes) = run(Some(Failure { at, once, errno, reads: false }));
                assert!(done.is_err(), "operation {at} failed and nobody noticed");
                let got = read_memory(bytes).unwrap();
                assert!(got.len() == old.len() || got.len() == new.len());
                for (i, sector) in got.chunks(512).enumerate() {
                    let range = i * 512..i * 512 + sector.len();
                    assert!(
                        old.get(range.clone()).is_some_and(|o| o == sector) || sector == &new[range],
                        "operation {at}, sector {i}"
                    );
                }
            }
        }
    }
}

fn libc_eio() -> i32 {
    5
}

fn libc_enospc() -> i32 {
    28
}

#[test]
fn zeroed_grains_take_no_space() {
    let d = dir();
    let base = d.path().join("base.vmdk");
    qemu_img(&format!("create -q -f vmdk {} 4M", s(&base)));
    qemu_io("vmdk", &base, &["write -P 3 0 4M"]);
    let mut child = spec(4 << 20, "a.vmdk", "zeroed_grain=on");
    child.backing = Some(parent(&base, cid(&base), Some(below(&base))));
    let writer = create(d.path(), &child).unwrap();
    writer.write_zeroes(1 << 20, 2 << 20).unwrap();
    writer.finish().unwrap();
    let m = writer.reader().map(1 << 20, u64::MAX).unwrap();
    assert_eq!((m.kind, m.len), (Kind::Zero, 2 << 20));
    assert_eq!(std::fs::metadata(d.path().join("a.vmdk")).unwrap().len(), 65536);
}

#[test]
fn records_hold_what_was_done() {
    // The tests above stand on this: a session that writes renews the content id before anything else, and makes it durable.
    let (before, _) = small("", 1 << 20);
    let dev = Faulty::new(before);
    let writer = open_memory(dev.clone()).unwrap();
    writer.write(9 * GRAIN as u64, &[1; GRAIN]).unwrap();
    let record = dev.record();
    assert!(matches!(record.as_slice(), [Op::Write(at, digits), Op::Flush, ..] if *at < 1024 && digits.len() == 8), "{record:?}");
}

#[test]
fn conversions_to_every_subformat_agree_with_qemu_img() {
    let d = dir();
    let raw = d.path().join("guest.raw");
    let mut bytes = vec![0u8; (34 << 20) + 1536];
    bytes[..3 << 20].copy_from_slice(&text(1, 3 << 20));
    bytes[(5 << 20) + 512..][..2 << 20].copy_from_slice(&noise(2, 2 << 20));
    let end = bytes.len();
    bytes[end - 600..].copy_from_slice(&noise(3, 600));
    std::fs::write(&raw, &bytes).unwrap();
    for subformat in SUBFORMATS {
        // 100k is no multiple of a grain: what is left out and what is compressed then overlap.
        for more in [&[][..], &["-S", "100k"], &["-S", "0"]] {
            let path = d.path().join(format!("{subformat}{}.vmdk", more.concat()));
            let options = format!("subformat={subformat}");
            let mut args = vec!["convert", "-f", "raw", "-O", "vmdk", "-o", &options];
            args.extend(more);
            args.extend([s(&raw), s(&path)]);
            let out = cowshed(&args);
            assert!(out.status.success(), "{subformat}: {}", String::from_utf8_lossy(&out.stderr));
            agree(&path, &bytes);
        }
    }
}

/// A file of a disk that consists of several, writing down what is done to any of them in one order.
struct Noted {
    dev: FileDevice,
    file: usize,
    log: Arc<Mutex<Vec<(usize, Op)>>>,
}

impl Noted {
    fn note(&self, op: Op) {
        self.log.lock().unwrap().push((self.file, op));
    }
}

impl cowshed::engine::io::ReadAt for Noted {
    fn len(&self) -> u64 {
        self.dev.len()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.dev.read_at(offset, buf)
    }
    fn path(&self) -> Option<&Path> {
        self.dev.path()
    }
}

impl cowshed::engine::io::WriteAt for Noted {
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.note(Op::Write(offset, buf.to_vec()));
        self.dev.write_at(offset, buf)
    }
    fn flush(&self) -> Result<()> {
        self.note(Op::Flush);
        Ok(())
    }
    fn set_len(&self, len: u64) -> Result<()> {
        self.note(Op::SetLen(len));
        self.dev.set_len(len)
    }
    fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        self.note(Op::Zero(offset, len));
        self.dev.write_zeroes(offset, len)
    }
}

/// Every state of the files `before` that a power cut may leave: each prefix of what was done, also with its last write torn, and
/// each prefix without one of the writes that its file had not flushed yet.
fn cut_everywhere(before: &[Vec<u8>], log: &[(usize, Op)], mut visit: impl FnMut(&str, &[Vec<u8>])) {
    let state = |ops: &mut dyn Iterator<Item = &(usize, Op)>| {
        let mut files = before.to_vec();
        for (file, op) in ops {
            let bytes = &mut files[*file];
            let mut put = |at: u64, data: &[u8]| {
                let end = at as usize + data.len();
                bytes.resize(bytes.len().max(end), 0);
                bytes[at as usize..end].copy_from_slice(data);
            };
            match op {
                Op::Write(at, data) => put(*at, data),
                Op::Zero(at, len) => put(*at, &vec![0; *len as usize]),
                Op::SetLen(len) => bytes.resize(*len as usize, 0),
                Op::Flush => {}
            }
        }
        files
    };
    for n in 0..=log.len() {
        visit(&format!("after {n}"), &state(&mut log.iter().take(n)));
        if let Some((file, Op::Write(at, data))) = log.get(n)
            && data.len() > 512
        {
            let torn =
                (*file, Op::Write(*at, data[..((at + data.len() as u64 / 2).next_multiple_of(512) - at) as usize].to_vec()));
            visit(&format!("{n} torn"), &state(&mut log.iter().take(n).chain([&torn])));
        }
        for lost in 0..n {
            let (file, op) = &log[lost];
            let flushed = log[lost..n].iter().any(|(f, o)| f == file && *o == Op::Flush);
            if *op != Op::Flush && !flushed {
                let mut ops = log.iter().take(n).enumerate().filter(|(i, _)| *i != lost).map(|(_, o)| o);
                visit(&format!("after {n} without {lost}"), &state(&mut ops));
            }
        }
    }
}

/// What was done to which file, in order.
type Log = Arc<Mutex<Vec<(usize, Op)>>>;

/// Opens the disk of `names` (the descriptor first) in `folder` for writing, noting what is done.
fn open_noted(folder: &Path, names: &[&str]) -> (Arc<dyn DiskWriter>, Log) {
    let log = Log::default();
    let all: Vec<String> = names.iter().map(|n| (*n).to_string()).collect();
    let (folder, noted) = (folder.to_path_buf(), log.clone());
    let open = move |name: &str| -> WriteDevice {
        let file = all.iter().position(|n| n == name).unwrap();
        Arc::new(Noted { dev: FileDevice::open_rw(folder.join(name)).unwrap(), file, log: noted.clone() })
    };
    let path = open(names[0]).path().unwrap().to_path_buf();
    let dev = open(names[0]);
    let source = Source { dev: dev.clone(), path: path.clone(), gate: Gate::around(&path) };
    let other = Arc::new(move |_: &Path, name: &str| Ok(open(name)));
    let writer = (Format::Vmdk.entry().open_write.unwrap())(WriteSource { dev, source, below: None, other }).unwrap();
    (writer, log)
}

#[test]
fn a_power_cut_leaves_a_flat_disk_old_or_new() {
    let dir = dir();
    let names = ["a.vmdk", "a-flat.vmdk"];
    let read = || names.map(|n| std::fs::read(dir.path().join(n)).unwrap()).to_vec();
    let old = noise(1, 256 << 10);
    let writer = create(dir.path(), &spec(old.len() as u64, "a.vmdk", "subformat=monolithicFlat")).unwrap();
    writer.write(0, &old).unwrap();
    writer.finish().unwrap();
    drop(writer);
    let cut = dir.path().join("cut");
    std::fs::create_dir(&cut).unwrap();
    let reopened = |files: &[Vec<u8>]| {
        for (name, bytes) in names.iter().zip(files) {
            std::fs::write(cut.join(name), bytes).unwrap();
        }
        content(&cut.join("a.vmdk"))
    };
    let cid = |files: &[Vec<u8>]| String::from_utf8_lossy(&files[0]).lines().find(|l| l.starts_with("CID=")).unwrap().to_string();

    // Guest writes: every sector old or new, and nothing new under the old content id.
    let before = read();
    let (writer, log) = open_noted(dir.path(), &names);
    let mut new = old.clone();
    for (at, len, seed) in [(1000usize, 5000usize, 2u64), (128 << 10, 64 << 10, 3)] {
        let data = noise(seed, len);
        writer.write(at as u64, &data).unwrap();
        new[at..at + len].copy_from_slice(&data);
    }
    writer.write_zeroes(200 << 10, 8192).unwrap();
    new[200 << 10..][..8192].fill(0);
    writer.finish().unwrap();
    drop(writer);
    let record = log.lock().unwrap().clone();
    assert!(content(&dir.path().join("a.vmdk")) == new);
    let mut states = 0;
    cut_everywhere(&before, &record, |what, files| {
        states += 1;
        let got = reopened(files);
        for (i, sector) in got.chunks(512).enumerate() {
            let range = i * 512..i * 512 + sector.len();
            // A write that begins or ends within a sector is not torn within it.
            assert!(sector == &old[range.clone()] || sector == &new[range], "{what}: sector {i}");
        }
        assert!(got == old || cid(files) != cid(&before), "{what}: new content under the old content id");
    });
    assert!(states > 10, "{states}");

    // Resizes: the old size or the new one, the content in common whole, what is new zero.
    for to in [512usize << 10, 100 << 10, 256 << 10] {
        let before = read();
        let was = content(&dir.path().join("a.vmdk"));
        let (writer, log) = open_noted(dir.path(), &names);
        writer.resize(to as u64).unwrap();
        writer.finish().unwrap();
        drop(writer);
        let record = log.lock().unwrap().clone();
        let mut sizes = std::collections::BTreeSet::new();
        cut_everywhere(&before, &record, |what, files| {
            let got = reopened(files);
            let common = was.len().min(to);
            sizes.insert(got.len());
            assert!(got.len() == was.len() || got.len() == to, "{to}: {what}: {}", got.len());
            assert!(got[..common] == was[..common], "{to}: {what}");
            assert!(
                got.len() < was.len()
                    || got.len() == was.len() && to < was.len() && got == was
                    || got[common..].iter().all(|b| *b == 0),
                "{to}: {what}"
            );
        });
        assert_eq!(sizes.len(), 2, "{to}: both were seen");
    }
}

#[test]
fn a_stream_is_resized_by_writing_it_anew() {
    let dir = dir();
    let cwd = dir.path();
    let path = cwd.join("a.vmdk");
    let mut want = text(5, 3 << 20);
    want.resize(5 << 20, 0);
    std::fs::write(cwd.join("in"), &want).unwrap();
    let options = "subformat=streamOptimized,adapter_type=lsilogic,hwversion=7";
    let out = cowshed(&["convert", "-f", "raw", "-O", "vmdk", "-o", options, s(&cwd.join("in")), s(&path)]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let describe = || {
        let bytes = std::fs::read(&path).unwrap();
        String::from_utf8_lossy(&bytes[512..512 * 21]).into_owned()
    };
    let plan = cowshed(&["resize", "--dry-run", "-f", "vmdk", s(&path), "8M"]);
    assert!(String::from_utf8_lossy(&plan.stdout).contains("written anew"), "{plan:?}");
    for to in [8usize << 20, 2 << 20, (2 << 20) + 512] {
        let out = cowshed(&["resize", "--shrink", "-f", "vmdk", s(&path), &to.to_string()]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        want.resize(to, 0);
        assert!(content(&path) == want, "{to}");
        assert!(qemu_content("vmdk", &path) == want, "{to}");
        let text = describe();
        assert!(
            text.contains("streamOptimized") && text.contains("lsilogic") && text.contains("virtualHWVersion = \"7\""),
            "{text}"
        );
    }
    let left: Vec<_> = std::fs::read_dir(cwd).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    let out = cowshed(&["resize", "--move-gpt", "-f", "vmdk", s(&path), "9M"]);
    assert!(out.status.code() == Some(1) && String::from_utf8_lossy(&out.stderr).contains("hint:"), "{out:?}");
}

#[test]
fn split_disks_grow_and_shrink_in_their_files() {
    const GIB: u64 = 1 << 30;
    for (subformat, letter) in [("twoGbMaxExtentSparse", 's'), ("twoGbMaxExtentFlat", 'f')] {
        let d = dir();
        let path = d.path().join("a.vmdk");
        let writer = create(d.path(), &spec(GIB, "a.vmdk", &format!("subformat={subformat}"))).unwrap();
        let mark = |writer: &dyn DiskWriter, at: u64| writer.write(at, &noise(at | 1, 4096)).unwrap();
        for at in [0, GIB - 4096] {
            mark(writer.as_ref(), at);
        }
        writer.finish().unwrap();
        drop(writer);
        let files = || {
            let mut all: Vec<_> =
                std::fs::read_dir(d.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            all.sort();
            all
        };
        let names = |n: usize| {
            let mut all: Vec<_> = (1..=n).map(|i| format!("a-{letter}{i:03}.vmdk")).collect();
            all.push("a.vmdk".into());
            all
        };
        // What was written stays, what is new is zero: as cowshed reads it and as qemu-img compares it with a raw model.
        let model =
            std::fs::File::options().create(true).truncate(true).read(true).write(true).open(d.path().join("model")).unwrap();
        use std::os::unix::fs::FileExt;
        let mut marks = vec![0, GIB - 4096];
        marks.iter().for_each(|at| model.write_all_at(&noise(at | 1, 4096), *at).unwrap());
        let mut id = cid(&path);
        for (to, extents) in
            [(GIB + 512, 1), (5 * GIB, 3), (3 * GIB, 2), (3 * GIB + 65536, 2), (GIB / 2, 1), (2 * GIB, 1), (4 * GIB + 512, 3)]
        {
            let out = cowshed(&["resize", "--shrink", "-f", "vmdk", s(&path), &to.to_string()]);
            assert!(out.status.success(), "{subformat} {to}: {}", String::from_utf8_lossy(&out.stderr));
            let there: Vec<_> = files().into_iter().filter(|f| f != "model").collect();
            assert_eq!(there, names(extents), "{subformat} {to}");
            model.set_len(to).unwrap();
            marks.retain(|at| at + 4096 <= to);
            qemu_img(&format!("compare -q -f raw -F vmdk {} {}", s(&d.path().join("model")), s(&path)));
            let chain = cowshed::engine::chain::Chain::open(&path, &Default::default()).unwrap();
            let disk = chain.disk().unwrap();
            assert_eq!(disk.size(), to);
            for at in &marks {
                let mut got = vec![0; 4096];
                cowshed::engine::io::ReadAt::read_at(&disk, *at, &mut got).unwrap();
                let mut want = vec![0; 4096];
                model.read_exact_at(&mut want, *at).unwrap();
                assert!(got == want, "{subformat} {to}: the mark at {at}");
            }
            assert_ne!(std::mem::replace(&mut id, cid(&path)), id, "the content id is a new one");
            // The end is written, so that what a shrink leaves behind would be seen by the next growth.
            let writer = reopen(&path, None).unwrap();
            let at = to - 4096;
            mark(writer.as_ref(), at);
            writer.finish().unwrap();
            model.write_all_at(&noise(at | 1, 4096), at).unwrap();
            marks.push(at);
            id = cid(&path);
        }
    }
}

#[test]
fn a_split_disk_cut_short_while_it_changed_is_tidied() {
    let d = dir();
    let path = d.path().join("a.vmdk");
    let writer = create(d.path(), &spec(3 << 20, "a.vmdk", "subformat=twoGbMaxExtentSparse")).unwrap();
    writer.write(0, &noise(1, 3 << 20)).unwrap();
    writer.finish().unwrap();
    drop(writer);
    // Two extents, the second of which holds more than its line says: as a cut between the new descriptor and the tidying leaves it.
    std::fs::copy(d.path().join("a-s001.vmdk"), d.path().join("a-s002.vmdk")).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let line = text.lines().find(|l| l.starts_with("RW")).unwrap();
    let second = line.replace("s001", "s002").replace("6144", "2048");
    std::fs::write(&path, text.replace(line, &format!("{line}\n{second}"))).unwrap();
    let mut want = noise(1, 3 << 20);
    want.extend(&noise(1, 3 << 20)[..1 << 20]);
    assert!(content(&path) == want);
    let out = cowshed(&["resize", "-f", "vmdk", s(&path), "6M"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    want.resize(6 << 20, 0);
    assert!(content(&path) == want && qemu_content("vmdk", &path) == want, "what was cut off shows again");
}

/// A parent of 5 GiB with marks all over, and a child of it, a little over 1 GiB long.
fn child_of_a_longer_parent(cwd: &Path, options: &str) -> (std::path::PathBuf, std::path::PathBuf) {
    const GIB: u64 = 1 << 30;
    let (base, path, model) = (cwd.join("base.vmdk"), cwd.join("a.vmdk"), cwd.join("model"));
    qemu_img(&format!("create -q -f vmdk {} 5G", s(&base)));
    let marks = [0, GIB - 65536, GIB, GIB + 65536, 2 * GIB - 65536, 2 * GIB, 3 * GIB, 4 * GIB, 5 * GIB - 65536];
    let writes: Vec<_> = marks.iter().map(|at| format!("write -P 3 {at} 64k")).collect();
    qemu_io("vmdk", &base, &writes.iter().map(String::as_str).collect::<Vec<_>>());
    let size = (GIB + 512).to_string();
    let out = cowshed(&["create", "-f", "vmdk", "-o", options, "-b", "base.vmdk", "-F", "vmdk", s(&path), &size]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    // What the guest sees of it: the parent's bytes up to its own end.
    qemu_img(&format!("convert -f vmdk -O raw {} {}", s(&base), s(&model)));
    std::fs::File::options().write(true).open(&model).unwrap().set_len(GIB + 512).unwrap();
    (path, model)
}

fn same_as_model(path: &Path, model: &Path, len: u64) {
    std::fs::File::options().write(true).open(model).unwrap().set_len(len).unwrap();
    qemu_img(&format!("compare -q -f raw -F vmdk {} {}", s(model), s(path)));
    let out = cowshed(&["compare", "-f", "raw", "-F", "vmdk", s(model), s(path)]);
    assert!(out.status.success(), "{len}: {out:?}");
}

#[test]
fn a_split_child_grows_and_reveals_nothing_of_a_longer_parent() {
    const GIB: u64 = 1 << 30;
    for options in ["subformat=twoGbMaxExtentSparse", "subformat=twoGbMaxExtentSparse,zeroed_grain=on"] {
        let d = dir();
        let (path, model) = child_of_a_longer_parent(d.path(), options);
        same_as_model(&path, &model, GIB + 512);
        for to in [GIB + 100 * 1024, 2 * GIB + 65536, 9 * GIB / 2, GIB, 6 * GIB] {
            let out = cowshed(&["resize", "--shrink", "-f", "vmdk", s(&path), &to.to_string()]);
            assert!(out.status.success(), "{options} {to}: {}", String::from_utf8_lossy(&out.stderr));
            same_as_model(&path, &model, to);
        }
        // Nothing but the tables was written to hide the parent.
        let last = std::fs::metadata(d.path().join("a-s003.vmdk")).unwrap();
        assert!(std::os::unix::fs::MetadataExt::blocks(&last) < 4096, "{options}");
    }
}

#[test]
fn a_stream_with_a_parent_is_resized_and_goes_on_standing_on_it() {
    const GIB: u64 = 1 << 30;
    let d = dir();
    let (path, model) = child_of_a_longer_parent(d.path(), "subformat=streamOptimized");
    let out = cowshed(&["resize", "-f", "vmdk", s(&path), &(GIB + 100 * 1024).to_string()]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    same_as_model(&path, &model, GIB + 100 * 1024);
    // With content of its own: a stream made by copying onto the same parent, other data at its end.
    let raw = std::fs::File::options().write(true).open(&model).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&raw, &noise(9, 70_000), GIB - 4096).unwrap();
    std::fs::remove_file(&path).unwrap();
    let onto = ["convert", "-q", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", "-B", "base.vmdk", "-F", "vmdk"];
    let out = cowshed(&[&onto[..], &[s(&model), s(&path)]].concat());
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    for to in [GIB + (1 << 20), 9 * GIB / 2, GIB - 512, 6 * GIB] {
        let out = cowshed(&["resize", "--shrink", "-f", "vmdk", s(&path), &to.to_string()]);
        assert!(out.status.success(), "{to}: {}", String::from_utf8_lossy(&out.stderr));
        same_as_model(&path, &model, to);
        let info = cowshed(&["info", "--output", "json", s(&path)]);
        assert!(String::from_utf8_lossy(&info.stdout).contains("\"backing-filename\": \"base.vmdk\""), "{info:?}");
    }
    assert!(std::fs::metadata(&path).unwrap().len() < 2 << 20, "what the parent has, or does not have, was copied");
}
