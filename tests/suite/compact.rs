//! `compact`, `relink` and `chain`: space really given back, links proven before they are changed, layers taken out and put in.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::common::{at_home, content, cowshed_in, create, dir, noise, qemu_content, qemu_img, qemu_io, run, s, text};
use std::sync::Arc;

use cowshed::engine::chain::{Chain, Disk, OpenOptions};
use cowshed::engine::error::Error;
use cowshed::engine::format::check::Severity;
use cowshed::engine::format::qcow2::edit::Editor;
use cowshed::engine::format::ranges::Ranges;
use cowshed::engine::format::{Format, Image, Source};
use cowshed::engine::io::ReadAt;
use cowshed::engine::io::fault::{Failure, Faulty, power_cuts};
use cowshed::engine::io::gate::Gate;
use cowshed::engine::io::memory::Memory;
use cowshed::engine::job::JobContext;
use cowshed::engine::ops::JobSpec;
use cowshed::engine::ops::compact::CompactSpec;

pub fn ok(cwd: &Path, args: &[&str]) -> String {
    let out = cowshed_in(cwd, args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

pub fn fails(cwd: &Path, args: &[&str], words: &[&str]) {
    let out = cowshed_in(cwd, args);
    let told = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1), "{args:?}: {told}");
    assert!(words.iter().all(|w| told.contains(w)), "{args:?}: {told}");
}

fn taken(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().blocks() * 512
}

#[test]
fn a_qcow2_gives_back_its_leaks_zeros_and_tail() {
    let dir = dir();
    let cwd = dir.path();
    for options in ["cluster_size=4k", "cluster_size=64k,compat=0.10", "cluster_size=16k,extended_l2=on"] {
        let image = cwd.join("a.qcow2");
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", options, s(&image), "8M"]);
        qemu_io("qcow2", &image, &["write -P 1 0 2M", "write -P 0 2M 2M", "write -P 3 4M 1M", "write -P 4 6M 2M"]);
        // What is let go of in the front makes holes that only moving fills.
        qemu_io("qcow2", &image, &["discard 0 1M", "discard 4M 512k"]);
        let (want, len, before) = (content(&image), std::fs::metadata(&image).unwrap().len(), taken(&image));
        let told = ok(cwd, &["compact", "--dry-run", "a.qcow2"]);
        assert!(told.contains("the file is cut"), "{told}");
        assert_eq!(std::fs::metadata(&image).unwrap().len(), len);
        ok(cwd, &["compact", "a.qcow2"]);
        run("qemu-img", &["check", "-q", s(&image)]);
        assert!(content(&image) == want && qemu_content("qcow2", &image) == want, "{options}");
        let (after, short) = (taken(&image), std::fs::metadata(&image).unwrap().len());
        assert!(after <= before && short < len, "{options}: {before} then {after}, {len} then {short}");
        // Half of what was written was zeros or discarded; tables are little.
        let data = want.chunks(4096).filter(|c| c.iter().any(|b| *b != 0)).count() as u64 * 4096;
        assert!(short < data + (1 << 20), "{options}: {short} bytes for {data} of data");
    }
}

#[test]
fn snapshots_keep_what_is_theirs_when_compacted() {
    let dir = dir();
    let cwd = dir.path();
    let image = cwd.join("a.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", s(&image), "4M"]);
    qemu_io("qcow2", &image, &["write -P 1 0 1M", "write -P 2 1M 1M"]);
    run("qemu-img", &["snapshot", "-c", "s", s(&image)]);
    qemu_io("qcow2", &image, &["write -P 3 0 512k", "write -P 0 2M 1M", "discard 1M 512k"]);
    let then = |d: &Path| {
        run("qemu-img", &["convert", "-l", "s", "-f", "qcow2", "-O", "raw", s(&image), s(&d.join("then"))]);
        std::fs::read(d.join("then")).unwrap()
    };
    let (want, old) = (content(&image), then(cwd));
    ok(cwd, &["compact", "a.qcow2"]);
    run("qemu-img", &["check", "-q", s(&image)]);
    assert!(content(&image) == want && then(cwd) == old);
}

#[test]
fn compressed_clusters_do_not_go_where_others_have_just_left() {
    let dir = dir();
    let image = dir.path().join("a.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", s(&image), "1M"]);
    // Room in front, plain clusters that move there, and behind them compressed ones: the run that these get begins in what is left
    // of the room, and must end before what the plain ones leave, which the file still uses.
    qemu_io("qcow2", &image, &["write -P 1 0 64k", "write -P 2 64k 32k"]);
    let packed: Vec<String> = (0..8).map(|i| format!("write -c -P {} {}k 4k", 10 + i, 96 + 4 * i)).collect();
    qemu_io("qcow2", &image, &packed.iter().map(String::as_str).collect::<Vec<_>>());
    qemu_io("qcow2", &image, &["discard 0 64k"]);
    let want = qemu_content("qcow2", &image);
    ok(dir.path(), &["compact", "a.qcow2"]);
    run("qemu-img", &["check", "-q", s(&image)]);
    assert!(qemu_content("qcow2", &image) == want && content(&image) == want);
}

#[test]
fn zeros_that_snapshots_share_are_given_back_too() {
    let dir = dir();
    let cwd = dir.path();
    let image = cwd.join("a.qcow2");
    std::fs::write(cwd.join("base.raw"), text(3, 6 << 20)).unwrap();
    let plain = ["cluster_size=4k", "cluster_size=64k,compat=0.10", "cluster_size=16k,extended_l2=on", "cluster_size=2M"];
    for (options, on_base) in plain.into_iter().flat_map(|options| [(options, false), (options, true)]) {
        let base: &[&str] = if on_base { &["-b", "base.raw", "-F", "raw"] } else { &[] };
        run("qemu-img", &[&["create", "-q", "-f", "qcow2", "-o", options], base, &[s(&image), "16M"]].concat());
        // Zeros in both, in the snapshot alone, in the disk alone; data the disk took over; zeros kept at their place.
        qemu_io("qcow2", &image, &["write -P 1 0 2M", "write -P 0 2M 4M", "write -P 2 8M 2M", "write -P 4 14M 2M"]);
        run("qemu-img", &["snapshot", "-c", "middle", s(&image)]);
        qemu_io("qcow2", &image, &["write -P 5 2M 1M", "write -P 0 10M 4M", "write -z 8M 1M", "write -z 14M 1M"]);
        run("qemu-img", &["snapshot", "-c", "late", s(&image)]);
        qemu_io("qcow2", &image, &["write -P 6 15M 64k"]);
        let (want, before) = (all_states(&image), taken(&image));
        ok(cwd, &["compact", "a.qcow2"]);
        run("qemu-img", &["check", "-q", s(&image)]);
        let (_, report) = cowshed::engine::ops::check::check(&image, None, None).unwrap();
        assert!(report.findings.is_empty(), "{options}: {:?}", report.findings);
        assert!(all_states(&image) == want, "{options}, on a base {on_base}");
        let fewer = before - taken(&image);
        assert!(fewer >= 7 << 20, "{options}, on a base {on_base}: {fewer} bytes fewer of {before}");
        // What is left is data, and each state can be written to as before.
        qemu_io("qcow2", &image, &["write -P 9 2M 2M"]);
        run("qemu-img", &["snapshot", "-a", "middle", s(&image)]);
        assert!(qemu_content("qcow2", &image) == want[1], "{options}, on a base {on_base}");
        run("qemu-img", &["check", "-q", s(&image)]);
    }
    // Compressed zeros, of a tool that does not look.
    std::fs::write(cwd.join("zeros.raw"), vec![0; 4 << 20]).unwrap();
    for options in ["compression_type=zlib", "compression_type=zstd,extended_l2=on,cluster_size=128k", "compat=0.10"] {
        run("qemu-img", &["convert", "-c", "-S", "0", "-O", "qcow2", "-o", options, s(&cwd.join("zeros.raw")), s(&image)]);
        run("qemu-img", &["snapshot", "-c", "middle", s(&image)]);
        run("qemu-img", &["snapshot", "-c", "late", s(&image)]);
        let packed = || {
            let check: serde_json::Value =
                serde_json::from_str(&qemu_img(&format!("check --output=json {}", s(&image)))).unwrap();
            check["compressed-clusters"].as_u64().unwrap_or(0)
        };
        assert!(packed() > 0, "{options}");
        ok(cwd, &["compact", "a.qcow2"]);
        assert_eq!(packed(), 0, "{options}");
        assert!(all_states(&image).iter().all(|state| state.iter().all(|b| *b == 0)), "{options}");
    }
}

#[test]
fn tables_longer_than_what_is_in_them_are_cut() {
    let dir = dir();
    let cwd = dir.path();
    let image = cwd.join("a.qcow2");
    let word = |at: usize| {
        let bytes = std::fs::read(&image).unwrap();
        u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
    };
    for options in ["cluster_size=512,refcount_bits=64", "cluster_size=512,compat=0.10", "cluster_size=512,refcount_bits=32"] {
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", options, s(&image), "10M"]);
        qemu_io("qcow2", &image, &["write -P 1 0 10M"]);
        qemu_io("qcow2", &image, &["discard 0 8M", "discard 9M 1M"]);
        if !options.contains("0.10") {
            run("qemu-img", &["resize", "-q", "--shrink", s(&image), "9M"]);
        }
        run("qemu-img", &["snapshot", "-c", "middle", s(&image)]);
        run("qemu-img", &["snapshot", "-c", "late", s(&image)]);
        let (want, l1) = (all_states(&image), word(32) as u32);
        let table = (word(56) >> 32) as u32;
        ok(cwd, &["compact", "a.qcow2"]);
        run("qemu-img", &["check", "-q", s(&image)]);
        assert!(all_states(&image) == want, "{options}");
        let after = (word(56) >> 32) as u32;
        assert!(after < table, "{options}: {table} clusters of the refcount table, now {after}");
        assert!(options.contains("0.10") || word(32) as u32 - 1 < l1, "{options}: {l1} entries of the L1 table stay");
        // The blocks that are left count something.
        let bytes = std::fs::read(&image).unwrap();
        let cluster = 1usize << (word(16) & 0xffff_ffff);
        let (at, len) = (word(48) as usize, after as usize * cluster);
        for block in bytes[at..at + len].chunks(8).map(|b| u64::from_be_bytes(b.try_into().unwrap()) as usize).filter(|b| *b > 0)
        {
            assert!(bytes[block..block + cluster].iter().any(|b| *b != 0), "{options}: the block at {block} counts nothing");
        }
        // And it grows again.
        qemu_io("qcow2", &image, &["write -P 7 0 6M"]);
        if !options.contains("0.10") {
            run("qemu-img", &["resize", "-q", s(&image), "12M"]);
        }
        run("qemu-img", &["check", "-q", s(&image)]);
        // A tool shows a snapshot as long as the disk is now.
        let same = |(now, then): (&Vec<u8>, &Vec<u8>)| now[..then.len()] == then[..];
        assert!(all_states(&image).iter().zip(&want).skip(1).all(same), "{options}");
    }
}

#[test]
fn what_was_gained_is_told_as_it_is() {
    let dir = dir();
    let image = dir.path().join("a.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", s(&image), "4M"]);
    qemu_io("qcow2", &image, &["write -P 1 0 1M", "write -P 0 1M 1M"]);
    let summary = || {
        let compact = JobSpec::Compact(CompactSpec::new(&image)).operation();
        compact.run(&compact.plan().unwrap(), &JobContext::detached()).unwrap().summary
    };
    let before = std::fs::metadata(&image).unwrap();
    let told = summary();
    let after = std::fs::metadata(&image).unwrap();
    let fewer = (before.blocks() - after.blocks()) * 512;
    assert!(fewer >= 1 << 20);
    for words in [format!("takes {} bytes on the host, {fewer} fewer", after.blocks() * 512), "bytes shorter; ".into()] {
        assert!(told.contains(&words), "{words}: {told}");
    }
    // A hole at the end takes nothing.
    let longer = after.len() + (1 << 30);
    std::fs::File::options().write(true).open(&image).unwrap().set_len(longer).unwrap();
    let told = summary();
    let shorter = longer - std::fs::metadata(&image).unwrap().len();
    assert!(told.contains(&format!("as many as before; the file is {shorter} bytes shorter; nothing was moved")), "{told}");
    assert!(summary().ends_with("as many as before; nothing was moved"));
}

/// An image with compressed clusters that share host clusters, snapshots that share clusters with the disk and with each other, a
/// bitmap, and holes all over: what was compressed, stored and kept only by a snapshot is gone here and there.
pub fn full_of_holes(image: &Path, options: &str, cluster: u64) {
    let raw = image.with_extension("raw");
    let size = 256 * cluster;
    let packed = size / 2;
    std::fs::write(&raw, text(cluster, packed as usize)).unwrap();
    run("qemu-img", &["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, s(&raw), s(image)]);
    if options.contains("0.10") {
        run("qemu-img", &["resize", "-q", s(image), &size.to_string()]);
    } else {
        run("qemu-img", &["bitmap", "--add", s(image), "b"]);
        run("qemu-img", &["resize", "-q", s(image), &size.to_string()]);
    }
    let write = |p: u64, at: u64, n: u64| format!("write -P {p} {} {}", at * cluster, n * cluster);
    let io = |commands: &[String]| qemu_io("qcow2", image, &commands.iter().map(String::as_str).collect::<Vec<_>>());
    let snapshot = |how: &str, name: &str| _ = run("qemu-img", &["snapshot", how, name, s(image)]);
    io(&[write(1, 128, 20)]);
    snapshot("-c", "early");
    io(&[write(2, 100, 10), write(3, 150, 50), write(4, 130, 5), write(0, 170, 12)]);
    snapshot("-c", "middle");
    io(&[write(5, 0, 30), write(6, 128, 10), write(7, 220, 36), write(8, 155, 3)]);
    snapshot("-c", "late");
    io(&[write(9, 10, 40), write(10, 240, 3)]);
    snapshot("-d", "early");
    io(&[format!("discard {} {}", 60 * cluster, 20 * cluster), format!("discard {} {}", 222 * cluster, 8 * cluster)]);
}

/// The disk and each of its snapshots, by QEMU.
pub fn all_states(image: &Path) -> Vec<Vec<u8>> {
    let raw = image.with_extension("state");
    let at = |name: &&str| {
        run("qemu-img", &["convert", "-l", name, "-f", "qcow2", "-O", "raw", s(image), s(&raw)]);
        std::fs::read(&raw).unwrap()
    };
    std::iter::once(qemu_content("qcow2", image)).chain(["middle", "late"].iter().map(at)).collect()
}

/// (options, cluster size).
const HOLED: &[(&str, u64)] = &[
    ("cluster_size=4k", 4096),
    ("cluster_size=64k,compat=0.10", 65536),
    ("cluster_size=16k,extended_l2=on", 16384),
    ("cluster_size=512", 512),
    ("cluster_size=8k,refcount_bits=8", 8192),
    ("cluster_size=4k,refcount_bits=64,compression_type=zstd", 4096),
];

#[test]
fn what_is_shared_and_what_is_compressed_moves_too() {
    let dir = dir();
    let cwd = dir.path();
    let image = cwd.join("a.qcow2");
    for (options, cluster) in HOLED {
        full_of_holes(&image, options, *cluster);
        let (want, len) = (all_states(&image), std::fs::metadata(&image).unwrap().len());
        let bitmaps = |image: &Path| {
            let info: serde_json::Value =
                serde_json::from_slice(&run("qemu-img", &["info", "--output=json", s(image)]).stdout).unwrap();
            info["format-specific"]["data"]["bitmaps"].clone()
        };
        let marked = bitmaps(&image);
        let used = |image: &Path| {
            let (_, report) = cowshed::engine::ops::check::check(image, None, None).unwrap();
            assert!(report.findings.is_empty(), "{options}: {:?}", report.findings);
            run("qemu-img", &["check", "-q", s(image)]);
            std::fs::metadata(image).unwrap().len()
        };
        let told = ok(cwd, &["compact", "a.qcow2"]);
        let short = used(&image);
        assert!(all_states(&image) == want, "{options}");
        assert_eq!(bitmaps(&image), marked, "{options}");
        assert!(short < len, "{options}: {len} then {short}");
        // What a copy of the same takes: nothing lies idle but what compressed clusters leave of theirs, and a few tables.
        let idle = idle_clusters(&image);
        assert!(idle * 20 <= short / cluster + 60, "{options}: {idle} clusters of {} are idle", short / cluster);
        // Again: there is little left to do, and it never grows.
        ok(cwd, &["compact", "a.qcow2"]);
        assert!(used(&image) <= short && all_states(&image) == want, "{options}, {told}");
    }
}

/// Clusters of the file that nothing uses, by the refcounts.
fn idle_clusters(image: &Path) -> u64 {
    use std::os::unix::fs::FileExt;
    let f = std::fs::File::open(image).unwrap();
    let word = |at: u64| {
        let mut b = [0; 8];
        f.read_exact_at(&mut b, at).unwrap();
        u64::from_be_bytes(b)
    };
    let version = word(0) as u32;
    let (table, cluster) = (word(48), 1u64 << (word(16) & 0xffff_ffff));
    let bits = if version == 2 { 16 } else { 1u64 << (word(96) >> 32) };
    let per = cluster * 8 / bits;
    let clusters = f.metadata().unwrap().len().div_ceil(cluster);
    (0..clusters)
        .filter(|n| {
            let block = word(table + n / per * 8);
            let mut b = [0u8; 8];
            let at = n % per * bits;
            block == 0 || {
                f.read_exact_at(&mut b[..(bits.div_ceil(8)) as usize], block + at / 8).unwrap();
                if bits < 8 { b[0] >> (at % 8) & ((1 << bits) - 1) == 0 } else { b.iter().all(|b| *b == 0) }
            }
        })
        .count() as u64
}

/// Clusters of data that hold nothing but zeros.
fn zero_clusters(dev: &Arc<Faulty>, editor: &Editor, cluster: u64) -> Ranges {
    let bytes = dev.to_vec();
    let mut zeros = Ranges::default();
    for n in editor.data_clusters(&|| Ok(())).unwrap().iter().flatten() {
        if bytes[(n * cluster) as usize..].iter().take(cluster as usize).all(|b| *b == 0) {
            zeros.insert(n..n + 1);
        }
    }
    zeros
}

/// The disk and its snapshots in `bytes`, by us; nothing may be wrong with the image, by our check.
fn states_of(bytes: Vec<u8>, what: &str) -> Vec<Vec<u8>> {
    let source = Source { dev: Arc::new(Memory::new(bytes)), path: "x".into(), gate: Gate::closed() };
    let report =
        (cowshed::engine::ops::check::tools(Format::Qcow2).unwrap().check)(&source).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(report.findings.is_empty(), "{what}: {:?}", report.findings);
    let image = (Format::Qcow2.entry().open)(source).unwrap_or_else(|e| panic!("{what}: {e}"));
    let ids: Vec<String> = image.describe().snapshots.iter().map(|s| s.id.clone()).collect();
    let then = ids.iter().map(|id| image.snapshot(id).unwrap());
    let all: Vec<Arc<dyn Image>> = std::iter::once(image.clone()).chain(then).collect();
    all.into_iter()
        .map(|image| {
            let disk = Disk::new(vec![image]);
            let mut all = vec![0; disk.size() as usize];
            disk.read_at(0, &mut all).unwrap();
            all
        })
        .collect()
}

#[test]
fn moving_what_is_shared_survives_cut_power_and_failing_writes() {
    let dir = dir();
    let image = dir.path().join("a.qcow2");
    for (options, cluster) in [("cluster_size=512", 512), ("cluster_size=1k,refcount_bits=32", 1024)] {
        full_of_holes(&image, options, cluster);
        let before = std::fs::read(&image).unwrap();
        let want = states_of(before.clone(), options);
        let compact = |dev: &Arc<Faulty>| {
            let source = Source { dev: dev.clone(), path: "x".into(), gate: Gate::closed() };
            let mut editor = Editor::open_any(dev.clone(), source)?;
            let freed = editor.drop_zeros(&zero_clusters(dev, &editor, cluster), &|| Ok(()))?;
            Ok((freed, editor.compact(&|| Ok(()))?))
        };
        let dev = Faulty::new(before.clone());
        dev.fail(None);
        let (freed, moved) = compact(&dev).unwrap_or_else(|e: Error| panic!("{options}: {e}"));
        assert!(freed == 12 && moved > 10, "{options}: {freed}, {moved}");
        assert!(dev.to_vec().len() < before.len());
        let operations = dev.operations();
        power_cuts(&before, &dev.record(), |what, bytes| assert!(states_of(bytes, what) == want, "{options} {what}"));
        for at in 0..operations {
            for (once, errno) in [(true, 5), (false, 5), (true, 28), (false, 28)] {
                let dev = Faulty::new(before.clone());
                dev.fail(Some(Failure { at, once, errno, reads: false }));
                let done = compact(&dev);
                assert!(states_of(dev.to_vec(), "a failure") == want, "{options} operation {at}: {done:?}");
            }
        }
    }
}

#[test]
fn every_format_gives_stored_zeros_back() {
    let dir = dir();
    let cwd = dir.path();
    let mut want = noise(1, 6 << 20);
    want[1 << 20..5 << 20].fill(0);
    let all = [Format::Raw, Format::Vmdk, Format::Vdi, Format::Vhd, Format::Vhdx, Format::Qcow, Format::Cow, Format::Qcow2];
    for (format, how) in all.into_iter().flat_map(|f| [(f, &[][..]), (f, &["--copy"])]) {
        let image = cwd.join(format!("a{}.{format}", how.concat()));
        let w = create(format, &image, 6 << 20, &[], None);
        w.write(0, &noise(1, 6 << 20)).unwrap();
        w.write(1 << 20, &vec![0; 4 << 20]).unwrap();
        w.finish().unwrap();
        drop(w);
        let before = std::fs::metadata(&image).unwrap();
        ok(cwd, &[&["compact"], how, &["-f", format.name(), s(&image)]].concat());
        assert_eq!(std::fs::metadata(&image).unwrap().ino() == before.ino(), how.is_empty(), "{format}");
        assert!(content(&image) == want, "{format}");
        assert!(taken(&image) + (3 << 20) < before.blocks() * 512, "{format}: {} now", taken(&image));
        if format != Format::Cow {
            assert!(qemu_content(format.driver(), &image) == want, "{format} as QEMU reads it");
        }
    }
}

#[test]
fn a_moved_base_is_found_and_proven() {
    let dir = dir();
    let cwd = dir.path();
    std::fs::create_dir(cwd.join("moved")).unwrap();
    for format in [Format::Qcow2, Format::Qcow, Format::Cow, Format::Vmdk, Format::Vhd, Format::Vhdx] {
        let parent = if matches!(format, Format::Qcow2 | Format::Qcow | Format::Cow) { Format::Raw } else { format };
        let (base, top) = (cwd.join("base.img"), cwd.join(format!("top.{format}")));
        let w = create(parent, &base, 3 << 20, &[], None);
        w.write(0, &noise(2, 3 << 20)).unwrap();
        w.finish().unwrap();
        drop(w);
        let w = create(format, &top, 3 << 20, &[], Some(&base));
        w.write(512 << 10, &noise(3, 100_000)).unwrap();
        w.finish().unwrap();
        drop(w);
        let want = content(&top);
        let to = cwd.join(format!("moved/new-{format}.img"));
        std::fs::rename(&base, &to).unwrap();
        fails(cwd, &["map", s(&top)], &["base.img"]);
        ok(cwd, &["relink", "-F", parent.name(), s(&top), s(&to)]);
        assert!(content(&top) == want, "{format}");
        // And back into the folder, under its old name elsewhere: found by itself.
        let again = cwd.join("moved/base.img");
        let named = cwd.join("base.img");
        std::fs::rename(&to, &named).unwrap();
        ok(cwd, &["relink", "-F", parent.name(), s(&top), s(&named)]);
        std::fs::rename(&named, &again).unwrap();
        let told = ok(cwd, &["relink", "--find", "-F", parent.name(), s(&top)]);
        assert!(told.contains("moved/base.img"), "{format}: {told}");
        assert!(content(&top) == want, "{format} found");
        // Another image is not the one.
        let other = cwd.join("other.img");
        let w = create(parent, &other, 5 << 20, &[], None);
        w.finish().unwrap();
        drop(w);
        fails(cwd, &["relink", "-F", parent.name(), s(&top), s(&other)], &["--force"]);
        assert!(content(&top) == want, "{format} refused");
        ok(cwd, &["relink", "--force", "-F", parent.name(), s(&top), s(&other)]);
        assert!(content(&top) != want, "{format} forced");
        std::fs::remove_file(&again).unwrap();
        std::fs::remove_file(&other).unwrap();
        std::fs::remove_file(&top).unwrap();
    }
}

#[test]
fn a_parent_that_was_written_to_is_taken_again_only_by_force() {
    let dir = dir();
    let cwd = dir.path();
    for format in [Format::Vmdk, Format::Vdi, Format::Vhdx] {
        let (base, top) = (cwd.join(format!("base.{format}")), cwd.join(format!("top.{format}")));
        create(format, &base, 3 << 20, &[], None).finish().unwrap();
        create(format, &top, 3 << 20, &[], Some(&base)).finish().unwrap();
        let w = crate::common::open_writer(&base);
        w.write(0, &noise(4, 4096)).unwrap();
        w.finish().unwrap();
        drop(w);
        fails(cwd, &["map", s(&top)], &["not the parent"]);
        fails(cwd, &["relink", s(&top), s(&base)], &["not the parent", "--force"]);
        ok(cwd, &["relink", "--force", s(&top), s(&base)]);
        assert!(content(&top) == content(&base), "{format}");
    }
}

#[test]
fn layers_are_taken_out_and_put_in() {
    let dir = dir();
    let cwd = dir.path();
    std::fs::write(cwd.join("base.raw"), text(1, 1 << 20)).unwrap();
    let qcow2 = |base: &str, format: &str, name: &str, size: &str, writes: &[&str]| {
        run(
            "qemu-img",
            &["create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", "-b", base, "-F", format, s(&cwd.join(name)), size],
        );
        qemu_io("qcow2", &cwd.join(name), writes);
    };
    qcow2("base.raw", "raw", "mid.qcow2", "1M", &["write -P 5 100k 50k", "write -z 200k 64k"]);
    qcow2("mid.qcow2", "qcow2", "one.qcow2", "1M", &["write -P 6 120k 10k"]);
    qcow2("mid.qcow2", "qcow2", "two.qcow2", "2M", &["write -P 7 0 10k"]);
    let want = ["one.qcow2", "two.qcow2"].map(|n| content(&cwd.join(n)));
    fails(cwd, &["chain", "remove", "one.qcow2"], &["nothing that was found stands on it"]);
    let told = ok(cwd, &["chain", "remove", "--dry-run", "--forever", "mid.qcow2"]);
    assert!(told.contains("one.qcow2 is rebased onto base.raw") && told.contains("two.qcow2"), "{told}");
    ok(cwd, &["chain", "remove", "--forever", "mid.qcow2"]);
    assert!(!cwd.join("mid.qcow2").exists());
    for (name, want) in ["one.qcow2", "two.qcow2"].iter().zip(&want) {
        assert!(content(&cwd.join(name)) == *want && qemu_content("qcow2", &cwd.join(name)) == *want, "{name}");
        run("qemu-img", &["check", "-q", s(&cwd.join(name))]);
    }
    ok(cwd, &["chain", "insert", "new.qcow2", "one.qcow2"]);
    let info = ok(cwd, &["info", "--backing-chain", "one.qcow2"]);
    assert!(info.contains("new.qcow2") && info.contains("base.raw"), "{info}");
    assert!(content(&cwd.join("one.qcow2")) == want[0] && qemu_content("qcow2", &cwd.join("one.qcow2")) == want[0]);
    fails(cwd, &["chain", "insert", "new.qcow2", "one.qcow2"], &["already"]);
    // The base itself: those above it stand alone then.
    ok(cwd, &["chain", "remove", "--forever", "new.qcow2"]);
    ok(cwd, &["chain", "remove", "--forever", "base.raw"]);
    for (name, want) in ["one.qcow2", "two.qcow2"].iter().zip(&want) {
        assert!(content(&cwd.join(name)) == *want, "{name} alone");
    }
    for format in [Format::Vmdk, Format::Vhd, Format::Vhdx] {
        let at = |n: &str| cwd.join(format!("{n}.{format}"));
        create(format, &at("base"), 3 << 20, &[], None).write(0, &noise(1, 1 << 20)).unwrap();
        let w = create(format, &at("base"), 3 << 20, &[], None);
        w.write(0, &noise(1, 1 << 20)).unwrap();
        w.finish().unwrap();
        drop(w);
        let w = create(format, &at("top"), 3 << 20, &[], Some(&at("base")));
        w.write(600_000, &noise(2, 4096)).unwrap();
        w.finish().unwrap();
        drop(w);
        let want = content(&at("top"));
        ok(cwd, &["chain", "insert", s(&at("new")), s(&at("top"))]);
        assert!(content(&at("top")) == want, "{format} with a layer more");
        ok(cwd, &["chain", "remove", "--forever", s(&at("new"))]);
        assert!(content(&at("top")) == want, "{format} with it taken out again");
    }
}

/// The system calls by which the program changes files, and the ways in which one of them ends: each error once and from then on, and
/// the end of the process.
const CHANGES: [&str; 7] =
    ["pwrite64", "fdatasync", "fsync", "ftruncate", "fallocate", "unlink", "rename,renameat,renameat2,linkat"];
const ENDS: [&str; 5] = ["error=EIO:when=", "error=EIO:when=+", "error=ENOSPC:when=", "error=ENOSPC:when=+", "signal=KILL:when="];

/// Runs the program with each call that changes a file ending in each way, in a folder made by `make`, and shows the folder to `look`.
fn every_end(make: impl Fn(&Path), args: &[&str], look: impl Fn(&Path, &str)) {
    let strace = |cwd: &Path, options: &[&str]| {
        let out = at_home("strace")
            .args(["-f", "-qq", "-o", "trace.log"])
            .args(options)
            .arg(env!("CARGO_BIN_EXE_cowshed"))
            .args(args)
            .current_dir(cwd)
            .output()
            .expect("strace cannot be run: tests/run installs it");
        (out, std::fs::read_to_string(cwd.join("trace.log")).unwrap())
    };
    let mut ends = 0;
    for calls in CHANGES {
        let folder = dir();
        make(folder.path());
        let (out, log) = strace(folder.path(), &["-e", &format!("trace={calls}")]);
        assert!(out.status.success(), "{args:?}: {out:?}");
        look(folder.path(), "undisturbed");
        // Counted by thread, as strace does.
        let mut most = std::collections::BTreeMap::<&str, u64>::new();
        log.lines().filter(|l| l.contains('(')).for_each(|l| *most.entry(l.split(' ').next().unwrap()).or_default() += 1);
        for at in 1..=most.values().copied().max().unwrap_or(0) {
            for end in ENDS {
                let end = match end.strip_suffix('+') {
                    Some(for_ever) => format!("{calls}:{for_ever}{at}+"),
                    None => format!("{calls}:{end}{at}"),
                };
                let folder = dir();
                make(folder.path());
                let (out, _) = strace(folder.path(), &["-e", &format!("inject={end}")]);
                ends += 1;
                look(folder.path(), &format!("{args:?} {end}: {out:?}"));
            }
        }
    }
    assert!(ends > 30, "{args:?}: only {ends} ends were tried");
}

#[test]
fn a_layer_goes_in_or_out_whole_whatever_fails() {
    let names = ["one.qcow2", "two.qcow2"];
    let model = dir();
    let cwd = model.path();
    std::fs::write(cwd.join("base.raw"), text(1, 256 << 10)).unwrap();
    let overlay = |base: &str, format: &str, name: &str, writes: &[&str]| {
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", base, "-F", format, s(&cwd.join(name)), "256k"]);
        qemu_io("qcow2", &cwd.join(name), writes);
    };
    overlay("base.raw", "raw", "mid.qcow2", &["write -P 5 60k 70k"]);
    overlay("mid.qcow2", "qcow2", names[0], &["write -P 6 100k 10k"]);
    overlay("mid.qcow2", "qcow2", names[1], &["write -P 7 0 10k"]);
    let want = names.map(|n| content(&cwd.join(n)));
    let make = |to: &Path| {
        for name in ["base.raw", "mid.qcow2", names[0], names[1]] {
            std::fs::copy(cwd.join(name), to.join(name)).unwrap();
        }
    };
    let same = |at: &Path, what: &str| {
        for (name, want) in names.iter().zip(&want) {
            assert!(content(&at.join(name)) == *want, "{name} shows something else, {what}");
            // Leaks at worst.
            let (_, report) = cowshed::engine::ops::check::check(&at.join(name), None, None).unwrap();
            assert_eq!(report.count(Severity::Corruption), 0, "{name}: {:?}, {what}", report.findings);
        }
    };
    let base = |at: &Path, name: &str| {
        let chain = Chain::open(&at.join(name), &OpenOptions::default()).unwrap();
        chain.layers[0].backing().unwrap().names[0].clone()
    };
    every_end(make, &["chain", "remove", "--forever", "mid.qcow2"], |at, what| {
        same(at, what);
        if !at.join("mid.qcow2").exists() {
            let left = names.map(|n| base(at, n));
            assert!(left.iter().all(|base| base == "base.raw"), "{left:?}, {what}");
        }
    });
    every_end(make, &["chain", "insert", "new.qcow2", "one.qcow2"], |at, what| {
        same(at, what);
        let base = base(at, "one.qcow2");
        assert!(base == "mid.qcow2" || base == "new.qcow2" && at.join(&base).exists(), "{base}, {what}");
    });
}
