//! `compact --free-space`: what a filesystem calls free is given back, reads as zeros, and nothing else changes.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use cowshed::engine::chain::{Chain, Disk};
use cowshed::engine::format::Format;
use cowshed::engine::guest::fs;
use cowshed::engine::guest::owners::{Owner, Owners};
use cowshed::engine::io::file::FileDevice;
use cowshed::engine::io::{Device, WriteDevice};

use crate::common::{cowshed, create, dir, noise, qemu_content, qemu_img, run, s, text};
use crate::guest_write::{KINDS, complaints, make, tree};

const JUNK: usize = 12 << 20;

fn taken(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().blocks() * 512
}

fn compact(args: &[&str]) -> Result<String, String> {
    let out = cowshed(&[&["compact", "--free-space"], args].concat());
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    if out.status.success() { Ok(text(&out.stdout)) } else { Err(text(&out.stderr)) }
}

/// A filesystem that a large file was removed from, whose bytes are all still there; made as `image`.
fn used(d: &Path, options: &str, image: &Path) {
    let root = d.join("root");
    if !root.exists() {
        std::fs::create_dir_all(root.join("etc/deep")).unwrap();
        std::fs::write(root.join("etc/deep/kept"), noise(4, 900_000)).unwrap();
        std::fs::write(root.join("etc/small"), "kept too\n").unwrap();
        std::fs::write(root.join("etc/log"), text(3, 200_000)).unwrap();
        std::fs::write(root.join("junk"), noise(9, JUNK)).unwrap();
        std::os::unix::fs::symlink("etc/small", root.join("link")).unwrap();
    }
    make(image, options, &root, 40);
    let file: WriteDevice = Arc::new(FileDevice::open_rw(image).unwrap());
    let w = fs::open_rw(file).unwrap();
    w.remove(w.root(), b"junk").unwrap();
    w.finish().unwrap();
}

/// The disk of the image at `path` with its chain.
fn disk(path: &Path) -> Arc<Disk> {
    Arc::new(Chain::open(path, &Default::default()).and_then(|c| c.disk()).unwrap())
}

/// Every byte that the filesystem on `dev` calls free, and whether they are all zeros.
fn free_is_zero(dev: Device) -> bool {
    let fs = fs::open(dev.clone()).unwrap();
    let mut clean = true;
    fs.free_ranges(&mut |at, len| {
        let mut bytes = vec![0; len as usize];
        dev.read_at(at, &mut bytes).unwrap();
        clean &= bytes.iter().all(|b| *b == 0);
    })
    .unwrap();
    clean
}

#[test]
fn free_space_of_every_filesystem_goes_back_and_its_checker_has_nothing_to_say() {
    let d = dir();
    for (kind, options) in KINDS {
        let raw = d.path().join("x.raw");
        used(d.path(), options, &raw);
        let check = if options.is_empty() { "xfs" } else { "ext4" };
        let qcow2 = d.path().join("x.qcow2");
        qemu_img(&format!("convert -f raw -O qcow2 {} {}", s(&raw), s(&qcow2)));
        let want = tree(disk(&raw));
        for image in [&raw, &qcow2] {
            assert!(!free_is_zero(disk(image)), "{kind}: there is something to give back");
            let before = taken(image);
            let plan = compact(&["--dry-run", s(image)]).unwrap_or_else(|e| panic!("{kind}: {e}"));
            assert!(plan.contains("disk (") && plan.contains("are stored"), "{kind}: {plan}");
            assert_eq!(taken(image), before, "{kind}: a dry run wrote");
            compact(&[s(image)]).unwrap_or_else(|e| panic!("{kind}: {e}"));
            assert!(taken(image) + (JUNK as u64 * 9 / 10) < before, "{kind}: {before} then {}", taken(image));
            assert!(free_is_zero(disk(image)), "{kind}");
            assert!(tree(disk(image)) == want, "{kind}");
            let plan = compact(&["--dry-run", s(image)]).unwrap();
            assert!(plan.contains("free 0 B are stored"), "{kind}: {plan}");
        }
        run("qemu-img", &["check", "-q", s(&qcow2)]);
        assert_eq!(complaints(&raw, check), "", "{kind}");
        std::fs::write(&raw, qemu_content("qcow2", &qcow2)).unwrap();
        assert_eq!(complaints(&raw, check), "", "{kind} in qcow2");
    }
}

#[test]
fn every_format_gives_free_space_back() {
    let d = dir();
    let raw = d.path().join("x.raw");
    used(d.path(), "-t ext4", &raw);
    let (want, bytes) = (tree(disk(&raw)), std::fs::read(&raw).unwrap());
    let all = [Format::Vmdk, Format::Vdi, Format::Vhd, Format::Vhdx, Format::Qcow, Format::Cow, Format::Qcow2];
    let by_copy = [(Format::Vdi, &["--copy"][..]), (Format::Qcow2, &["--copy"])];
    for (format, how) in all.map(|f| (f, &[][..])).into_iter().chain(by_copy) {
        let image = d.path().join(format!("x{}.{format}", how.concat()));
        let w = create(format, &image, bytes.len() as u64, &[], None);
        w.write(0, &bytes).unwrap();
        w.finish().unwrap();
        drop(w);
        let before = taken(&image);
        compact(&[how, &["-f", format.name(), s(&image)]].concat()).unwrap_or_else(|e| panic!("{format}: {e}"));
        assert!(taken(&image) + (JUNK as u64 * 9 / 10) < before, "{format}: {before} then {}", taken(&image));
        assert!(free_is_zero(disk(&image)) && tree(disk(&image)) == want, "{format}");
        if format != Format::Cow {
            std::fs::write(&raw, qemu_content(format.driver(), &image)).unwrap();
            assert_eq!(complaints(&raw, "ext4"), "", "{format} as QEMU reads it");
        }
    }
}

#[test]
fn an_overlay_hides_what_its_base_has_there_and_compressed_units_go_whole() {
    let d = dir();
    let (raw, base, top) = (d.path().join("x.raw"), d.path().join("base.qcow2"), d.path().join("top.qcow2"));
    used(d.path(), "-t ext4", &raw);
    let want = tree(disk(&raw));
    // The base has noise everywhere; the overlay stores the filesystem's disk.
    let w = create(Format::Qcow2, &base, 40 << 20, &[], None);
    w.write(0, &noise(2, 40 << 20)).unwrap();
    w.finish().unwrap();
    drop(w);
    let w = create(Format::Qcow2, &top, 40 << 20, &[], Some(&base));
    w.write(0, &std::fs::read(&raw).unwrap()).unwrap();
    w.finish().unwrap();
    drop(w);
    let before = taken(&top);
    let told = compact(&["--dry-run", s(&top)]).unwrap();
    assert!(told.contains("what it stands on keeps its free space"), "{told}");
    compact(&[s(&top)]).unwrap();
    assert!(taken(&top) + (JUNK as u64 * 9 / 10) < before);
    assert!(free_is_zero(disk(&top)) && tree(disk(&top)) == want, "nothing of the base shines through");
    run("qemu-img", &["check", "-q", s(&top)]);
    std::fs::write(&raw, qemu_content("qcow2", &top)).unwrap();
    assert_eq!(complaints(&raw, "ext4"), "");
    let packed = d.path().join("packed.qcow2");
    used(d.path(), "-t ext4", &raw);
    qemu_img(&format!("convert -c -f raw -O qcow2 {} {}", s(&raw), s(&packed)));
    let before = taken(&packed);
    compact(&[s(&packed)]).unwrap();
    assert!(taken(&packed) + (JUNK as u64 * 8 / 10) < before);
    assert!(tree(disk(&packed)) == want);
    run("qemu-img", &["check", "-q", s(&packed)]);
}

#[test]
fn what_a_snapshot_has_stays_as_it_was_then() {
    let d = dir();
    let (raw, image) = (d.path().join("x.raw"), d.path().join("x.qcow2"));
    used(d.path(), "-t ext4", &raw);
    qemu_img(&format!("convert -f raw -O qcow2 {} {}", s(&raw), s(&image)));
    let want = tree(disk(&raw));
    run("qemu-img", &["snapshot", "-c", "then", s(&image)]);
    let told = compact(&["--dry-run", s(&image)]).unwrap();
    assert!(told.contains("its internal snapshots share"), "{told}");
    compact(&[s(&image)]).unwrap();
    run("qemu-img", &["check", "-q", s(&image)]);
    assert!(tree(disk(&image)) == want);
    let then = d.path().join("then.raw");
    run("qemu-img", &["convert", "-l", "then", "-f", "qcow2", "-O", "raw", s(&image), s(&then)]);
    assert!(std::fs::read(&then).unwrap() == std::fs::read(&raw).unwrap());
}

#[test]
fn what_was_not_closed_or_cannot_be_told_is_refused_and_nothing_changes() {
    let d = dir();
    let raw = d.path().join("x.raw");
    let refused = |words: &str| {
        let before = std::fs::read(&raw).unwrap();
        for dry in [true, false] {
            let args = if dry { vec!["--dry-run", "-f", "raw", s(&raw)] } else { vec!["-f", "raw", s(&raw)] };
            let told = compact(&args).expect_err(words);
            assert!(told.contains(words), "{told}");
        }
        assert!(std::fs::read(&raw).unwrap() == before, "{words}");
    };
    used(d.path(), "-t ext4", &raw);
    run("debugfs", &["-w", "-R", "feature needs_recovery", s(&raw)]);
    refused("journal was not replayed");
    // A filesystem whose bitmap calls the blocks of a file free.
    used(d.path(), "-t ext4 -O ^metadata_csum", &raw);
    let blocks = run("debugfs", &["-R", "blocks /etc/deep/kept", s(&raw)]);
    let first = String::from_utf8_lossy(&blocks.stdout).split_whitespace().next().unwrap().to_string();
    run("debugfs", &["-w", "-R", &format!("freeb {first} 1"), s(&raw)]);
    let told = compact(&["--dry-run", "-f", "raw", s(&raw)]).expect_err("a block that is a file's");
    assert!(told.contains("its check finds") || told.contains("lies in what it calls free"), "{told}");
    // No filesystem at all, and one whose free space is not told.
    std::fs::write(&raw, vec![0; 1 << 20]).unwrap();
    refused("no filesystem whose free space can be told");
    run("truncate", &["-s", "32M", s(&raw)]);
    run("mkswap", &["-q", s(&raw)]);
    refused("no filesystem whose free space can be told");
}

#[test]
fn the_owner_of_a_byte_is_the_file_whose_content_lies_there() {
    let d = dir();
    let root = d.path().join("owned");
    std::fs::create_dir_all(root.join("etc/deep")).unwrap();
    let files = [("/etc/deep/one", noise(4, 900_000)), ("/two", noise(5, 300_000))];
    for (path, content) in &files {
        std::fs::write(root.join(&path[1..]), content).unwrap();
    }
    let fat: &[(&str, &str)] = &[("fat16", "fat"), ("fat32", "fat")];
    for (kind, options) in KINDS.iter().chain(fat) {
        let raw = d.path().join("x.raw");
        if *options == "fat" {
            let _ = std::fs::remove_file(&raw);
            run("truncate", &["-s", "40M", s(&raw)]);
            let sectors = if *kind == "fat16" { "4" } else { "1" };
            run("mkfs.vfat", &["-F", &kind[3..], "-s", sectors, s(&raw)]);
            run("mcopy", &["-s", "-i", s(&raw), s(&root.join("etc")), s(&root.join("two")), "::"]);
        } else {
            make(&raw, options, &root, 40);
        }
        let bytes = std::fs::read(&raw).unwrap();
        let dev: Device = disk(&raw);
        let owners = Owners::of(&dev, &|| false).unwrap();
        assert!(!owners.partial, "{kind}");
        // Where the files' content lies, by the image's own bytes.
        let places: HashMap<&[u8], u64> = bytes.chunks(512).enumerate().map(|(i, c)| (c, i as u64 * 512)).collect();
        let fs = fs::open(dev.clone()).unwrap();
        for (path, content) in &files {
            let node =
                path.split('/').filter(|p| !p.is_empty()).fold(fs.root(), |at, n| fs.lookup(at, n.as_bytes()).unwrap().unwrap());
            let inode = Some(node).filter(|_| *options != "fat");
            let mut seen = 0;
            for at in content.chunks_exact(512).filter_map(|c| places.get(c)) {
                let owner = owners.at(at + 77);
                assert_eq!(owner, Some(Owner::File { path: path.as_bytes().to_vec(), inode }), "{kind} at {at}");
                seen += 1;
            }
            assert_eq!(seen, content.len() / 512, "{kind}: {path} was looked for");
        }
        let mut free = Vec::new();
        fs.free_ranges(&mut |at, len| free.push((at, len))).unwrap();
        assert!(
            !free.is_empty() && free.iter().all(|(at, len)| owners.at(*at).is_none() && owners.at(at + len - 1).is_none()),
            "{kind}"
        );
        let first = if options.starts_with("-t") {
            "superblock"
        } else {
            ["boot sector", "allocation group header"][usize::from(options.is_empty())]
        };
        assert_eq!(owners.at(if options.starts_with("-t") { 1030 } else { 5 }), Some(Owner::Own(first)), "{kind}");
    }
    // Asked to stop, it stops.
    let dev: Device = disk(&d.path().join("x.raw"));
    assert!(Owners::of(&dev, &|| true).is_err());
}
