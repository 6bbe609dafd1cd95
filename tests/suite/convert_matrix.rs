//! Every format that can be read into every format that can be written: qemu-img, and the engine where qemu-img reads no such
//! image, must see the same disk.

use std::path::{Path, PathBuf};

use cowshed::engine::chain::{Chain, Disk};
use cowshed::engine::format::Format;
use cowshed::engine::job::JobContext;
use cowshed::engine::ops::JobSpec;
use cowshed::engine::ops::compare::{Outcome, compare};
use cowshed::engine::ops::convert::ConvertSpec;

use crate::common::*;

/// No multiple of any unit.
const SIZE: u64 = (48 << 20) + 3 * 512;

/// Every writable format with the options that change how it stores: name of the file, format, options, compressed.
const TARGETS: &[(&str, Format, &str, bool)] = &[
    ("raw", Format::Raw, "", false),
    ("v3.qcow2", Format::Qcow2, "", false),
    ("v2.qcow2", Format::Qcow2, "compat=0.10", false),
    ("small.qcow2", Format::Qcow2, "cluster_size=512", false),
    ("large.qcow2", Format::Qcow2, "cluster_size=2M", false),
    ("l2.qcow2", Format::Qcow2, "extended_l2=on", false),
    ("zlib.qcow2", Format::Qcow2, "", true),
    ("zstd.qcow2", Format::Qcow2, "compression_type=zstd", true),
    ("pre.qcow2", Format::Qcow2, "preallocation=metadata,lazy_refcounts=on", false),
    ("a.qcow", Format::Qcow, "", false),
    ("c.qcow", Format::Qcow, "", true),
    ("a.cow", Format::Cow, "", false),
    ("sparse.vmdk", Format::Vmdk, "", false),
    ("flat.vmdk", Format::Vmdk, "subformat=monolithicFlat", false),
    ("split.vmdk", Format::Vmdk, "subformat=twoGbMaxExtentSparse", false),
    ("splitflat.vmdk", Format::Vmdk, "subformat=twoGbMaxExtentFlat", false),
    ("stream.vmdk", Format::Vmdk, "subformat=streamOptimized", false),
    ("a.vdi", Format::Vdi, "", false),
    ("static.vdi", Format::Vdi, "static=on", false),
    ("a.vhd", Format::Vhd, "", false),
    ("exact.vhd", Format::Vhd, "force_size=on", false),
    ("fixed.vhd", Format::Vhd, "subformat=fixed,force_size=on", false),
    ("a.vhdx", Format::Vhdx, "", false),
    ("fixed.vhdx", Format::Vhdx, "subformat=fixed,block_size=1M", false),
];

/// A raw disk of `size` bytes: data, text, single sectors, zeros that are stored, and a last sector that is not zero.
fn truth(dir: &Path, size: u64) -> PathBuf {
    use std::os::unix::fs::FileExt;
    let path = dir.join("truth.raw");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(size).unwrap();
    let put = |at: u64, data: Vec<u8>| {
        let len = data.len().min(size.saturating_sub(at) as usize);
        file.write_all_at(&data[..len], at).unwrap();
    };
    put(512, noise(1, 300_000));
    put(3 << 20, text(2, 1 << 20));
    put((4 << 20) + 200, vec![0; 500_000]);
    for i in 1..6 {
        put(((i * 7) << 20) + 512 * (2 * i + 1), noise(i, 512));
    }
    put(size - 700, noise(9, 700));
    path
}

fn options(text: &str) -> Vec<(String, String)> {
    let pair = |o: &str| o.split_once('=').map(|(n, v)| (n.to_string(), v.to_string()));
    text.split(',').filter_map(pair).collect()
}

/// Does `spec` in this process, as a job does it.
fn convert(spec: ConvertSpec) {
    let what = spec.title();
    let operation = JobSpec::Convert(spec).operation();
    let done = operation.plan().and_then(|plan| operation.run(&plan, &JobContext::detached()));
    done.unwrap_or_else(|e| panic!("{what}: {e}"));
}

fn disk(path: &Path, format: Format) -> Disk {
    let options = cowshed::engine::chain::OpenOptions { format: Some(format), ..Default::default() };
    Chain::open(path, &options).and_then(|c| c.disk()).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The image `path` holds what the raw file `truth` does, for the engine and for qemu-img. A VHD's disk may be longer.
fn judge(truth: &Path, path: &Path, format: Format, from: &str) {
    let (a, b) = (disk(truth, Format::Raw), disk(path, format));
    let (want, have) = (a.size(), b.size());
    assert!(
        have == want || format == Format::Vhd && have > want || format != Format::Raw && have == want.next_multiple_of(512),
        "{from} to {}: {want} bytes became {have}",
        path.display()
    );
    assert_eq!(compare(&a, &b, false, &|_| ()).unwrap(), Outcome::Same, "{from} to {}", path.display());
    // No qemu-img of today reads a cow.
    if format != Format::Cow {
        qemu_img(&format!("compare -q -f raw -F {} {} {}", format.driver(), s(truth), s(path)));
    }
}

/// Converts `source` to every target and judges each.
fn to_all(truth: &Path, source: ConvertSpec) {
    let folder = truth.parent().unwrap().join("out");
    for (name, format, opts, compress) in TARGETS {
        std::fs::create_dir(&folder).unwrap();
        let target = folder.join(name);
        let options = options(opts);
        let from = format!("{:?} {:?}", source.sources, source.snapshot);
        convert(ConvertSpec { target: target.clone(), format: *format, options, compress: *compress, ..source.clone() });
        judge(truth, &target, *format, &from);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

/// A source that qemu-img makes from `truth` with these arguments.
fn made(truth: &Path, name: &str, args: &str) -> ConvertSpec {
    let path = truth.with_file_name(name);
    qemu_img(&format!("convert -t unsafe -f raw {args} {} {}", s(truth), s(&path)));
    ConvertSpec::new(path, "", Format::Raw)
}

#[test]
fn from_raw_and_first_formats() {
    let dir = dir();
    let truth = truth(dir.path(), SIZE);
    to_all(&truth, ConvertSpec { source_format: Some(Format::Raw), ..ConvertSpec::new(&truth, "", Format::Raw) });
    to_all(&truth, made(&truth, "src.qcow", "-O qcow"));
    // Nothing else makes a cow; that ours reads back right was judged as a target.
    let cow = truth.with_file_name("src.cow");
    convert(ConvertSpec { source_format: Some(Format::Raw), ..ConvertSpec::new(&truth, &cow, Format::Cow) });
    to_all(&truth, ConvertSpec::new(cow, "", Format::Raw));
}

#[test]
fn from_qcow2() {
    let dir = dir();
    let truth = truth(dir.path(), SIZE);
    for (name, args) in [
        ("plain", "-O qcow2"),
        ("zlib", "-O qcow2 -c"),
        ("zstd", "-O qcow2 -c -o compression_type=zstd"),
        ("l2", "-O qcow2 -o extended_l2=on"),
        ("v2", "-O qcow2 -o compat=0.10,cluster_size=4k"),
    ] {
        to_all(&truth, made(&truth, name, args));
    }
}

#[test]
fn from_a_chain_and_a_snapshot() {
    let dir = dir();
    let truth = truth(dir.path(), SIZE);
    let base = dir.path().join("base.qcow2");
    // Other content, and longer than what stands on it.
    qemu_img(&format!("create -f qcow2 {} 60M", s(&base)));
    qemu_io("qcow2", &base, &["write -P 7 1M 4M", "write -P 8 30M 5M", "write -P 9 47M 2M"]);
    to_all(&truth, made(&truth, "top.qcow2", &format!("-O qcow2 -B {} -F qcow2", s(&base))));

    let source = made(&truth, "snap.qcow2", "-O qcow2");
    qemu_img(&format!("snapshot -c before {}", s(&source.sources[0])));
    qemu_io("qcow2", &source.sources[0], &["write -P 1 0 2M", "write -z 3M 64k", "discard 4M 64k"]);
    to_all(&truth, ConvertSpec { snapshot: Some("before".into()), ..source });
}

#[test]
fn from_vmdk() {
    let dir = dir();
    let truth = truth(dir.path(), SIZE);
    for kind in ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized"] {
        to_all(&truth, made(&truth, &format!("{kind}.vmdk"), &format!("-O vmdk -o subformat={kind}")));
    }
}

#[test]
fn from_vdi_vhd_and_vhdx() {
    let dir = dir();
    let truth = truth(dir.path(), SIZE);
    for (name, args) in [
        ("src.vdi", "-O vdi"),
        ("static.vdi", "-O vdi -o static=on"),
        ("src.vhd", "-O vpc -o force_size=on"),
        ("fixed.vhd", "-O vpc -o subformat=fixed,force_size=on"),
        ("src.vhdx", "-O vhdx"),
    ] {
        to_all(&truth, made(&truth, name, args));
    }
}

#[test]
fn of_every_size() {
    let dir = dir();
    for size in [1024, (1 << 20) - 512, (2 << 20) + 512, 1_000_001] {
        let truth = truth(dir.path(), size);
        to_all(&truth, ConvertSpec { source_format: Some(Format::Raw), ..ConvertSpec::new(&truth, "", Format::Raw) });
    }
}

#[test]
fn onto_a_backing_file_of_the_same_format() {
    use std::os::unix::fs::FileExt;
    let dir = dir();
    let base = truth(dir.path(), SIZE);
    let changed = dir.path().join("changed.raw");
    std::fs::copy(&base, &changed).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&changed).unwrap();
    // Within a unit, zeros over data, data over nothing, and the last sector.
    for (at, data) in
        [(1000, noise(5, 70)), (3 << 20, vec![0; 300_000]), (30 << 20, noise(6, 200_000)), (SIZE - 512, vec![0; 512])]
    {
        file.write_all_at(&data, at).unwrap();
    }
    let raw = |from: &Path, to: &Path, format| ConvertSpec {
        source_format: Some(Format::Raw),
        options: options(if format == Format::Vhd { "force_size=on" } else { "" }),
        ..ConvertSpec::new(from, to, format)
    };
    for format in [Format::Qcow2, Format::Qcow, Format::Cow, Format::Vmdk, Format::Vdi, Format::Vhd, Format::Vhdx] {
        let name = format!("base.{format}");
        let (below, top) = (dir.path().join(&name), dir.path().join(format!("top.{format}")));
        convert(raw(&base, &below, format));
        let before = std::fs::read(&below).unwrap();
        convert(ConvertSpec { backing: Some(name), backing_format: Some(format), ..raw(&changed, &top, format) });
        let (a, b) = (disk(&changed, Format::Raw), disk(&top, format));
        assert_eq!(b.layers().len(), 2, "{format}");
        assert_eq!(compare(&a, &b, false, &|_| ()).unwrap(), Outcome::Same, "{format}");
        // What qemu-img reads through; it does not know the parents of the others.
        if matches!(format, Format::Qcow2 | Format::Qcow | Format::Vmdk) {
            qemu_img(&format!("compare -q -f raw -F {format} {} {}", s(&changed), s(&top)));
        }
        assert!(std::fs::read(&below).unwrap() == before, "{format}");
    }
}
