//! Optical discs made by `genisoimage`, `xorriso` and `mkudffs`.

use std::path::{Path, PathBuf};
use std::process::Command;

use cowshed::engine::chain::{Chain, OpenOptions};
use cowshed::engine::format::Format;
use cowshed::engine::format::probe::{Match, probe};
use cowshed::engine::io::ReadAt;
use cowshed::engine::io::file::FileDevice;

use crate::common::{dir, noise, run, s};

/// A folder with something to put on a disc.
fn files(dir: &Path) -> PathBuf {
    let tree = dir.join("tree");
    std::fs::create_dir_all(&tree).unwrap();
    std::fs::write(tree.join("a rather long name.text"), noise(1, 5000)).unwrap();
    std::fs::write(tree.join("boot.bin"), noise(2, 2048)).unwrap();
    tree
}

fn fact(path: &Path, label: &str) -> Option<String> {
    let chain = Chain::open(path, &OpenOptions::default()).unwrap();
    assert_eq!(chain.nodes[0].format, Some(Format::Iso));
    chain.nodes[0].description.facts.iter().find(|f| f.label == label).map(|f| f.value.clone())
}

fn matches(path: &Path) -> Vec<Match> {
    probe(&FileDevice::open(path).unwrap()).unwrap()
}

#[test]
fn the_name_systems_and_the_boot_catalog_are_told() {
    let dir = dir();
    let tree = files(dir.path());
    let iso = dir.path().join("x.iso");
    let words = "-quiet -V A_VOLUME -publisher THE_PUBLISHER -p PREPARER -A APP -J -R -b boot.bin -no-emul-boot -c boot.cat -o";
    let mut args: Vec<&str> = words.split(' ').collect();
    args.extend([s(&iso), s(&tree)]);
    run("genisoimage", &args);
    assert_eq!(fact(&iso, "content").as_deref(), Some("ISO 9660, Joliet level 3, Rock Ridge, El Torito"));
    assert_eq!(fact(&iso, "volume id").as_deref(), Some("A_VOLUME"));
    assert_eq!(fact(&iso, "publisher").as_deref(), Some("THE_PUBLISHER"));
    assert_eq!(fact(&iso, "preparer").as_deref(), Some("PREPARER"));
    assert_eq!(fact(&iso, "application").as_deref(), Some("APP"));
    assert!(fact(&iso, "boot image").unwrap().starts_with("BIOS, no emulation, bootable, 4 sectors of 512 at sector "));
    // isoinfo is the independent reader.
    let info = String::from_utf8(run("isoinfo", &["-d", "-i", s(&iso)]).stdout).unwrap();
    let line = |what: &str| info.lines().find_map(|l| l.strip_prefix(what)).unwrap().trim().to_string();
    let size = fact(&iso, "volume size").unwrap();
    assert!(size.contains(&format!("({} blocks of 2048)", line("Volume size is: "))), "{size}");
    let catalog = info.lines().find_map(|l| l.strip_prefix("El Torito VD version 1 found, boot catalog is in sector ")).unwrap();
    assert_eq!(fact(&iso, "boot catalog"), Some(format!("sector {}", catalog.trim())));
    assert_eq!(line("Volume id: "), "A_VOLUME");

    // The content is the file.
    let disk = Chain::open(&iso, &OpenOptions::default()).unwrap().disk().unwrap();
    let mut whole = vec![0; disk.len() as usize];
    disk.read_at(0, &mut whole).unwrap();
    assert!(whole == std::fs::read(&iso).unwrap());

    // Cut short.
    std::fs::OpenOptions::new().write(true).open(&iso).unwrap().set_len(100 << 10).unwrap();
    let chain = Chain::open(&iso, &OpenOptions::default()).unwrap();
    assert!(chain.nodes[0].description.warnings.iter().any(|w| w.contains("cut short")));
}

#[test]
fn plain_discs_are_not_said_to_be_more() {
    let dir = dir();
    let tree = files(dir.path());
    let iso = dir.path().join("x.iso");
    run("genisoimage", &["-quiet", "-o", s(&iso), s(&tree)]);
    assert_eq!(fact(&iso, "content").as_deref(), Some("ISO 9660"));
    assert_eq!((fact(&iso, "boot catalog"), fact(&iso, "partition table")), (None, None));
}

#[test]
fn bridge_discs_are_both() {
    let dir = dir();
    let tree = files(dir.path());
    let iso = dir.path().join("x.iso");
    run("genisoimage", &["-quiet", "-udf", "-V", "BRIDGE", "-o", s(&iso), s(&tree)]);
    assert_eq!(fact(&iso, "content").as_deref(), Some("ISO 9660, UDF 1.02"));
    assert_eq!(fact(&iso, "UDF volume id").as_deref(), Some("BRIDGE"));
    let evidence = &matches(&iso)[0].evidence;
    assert!(evidence.contains("'CD001' at byte 0x8000") && evidence.contains("'NSR02'"), "{evidence}");
}

#[test]
fn pure_udf_is_a_disc_at_every_block_size() {
    let dir = dir();
    for (block, revision) in [("2048", "1.02"), ("2048", "2.01"), ("512", "2.01"), ("4096", "2.01")] {
        let iso = dir.path().join(format!("{block}-{revision}.udf"));
        std::fs::File::create(&iso).unwrap().set_len(8 << 20).unwrap();
        let udfrev = if revision == "1.02" { "0x0102" } else { "0x0201" };
        run("mkudffs", &["-b", block, "-r", udfrev, "--label=Ünïcode", s(&iso)]);
        assert_eq!(fact(&iso, "content"), Some(format!("UDF {revision}")), "{block}");
        assert_eq!(fact(&iso, "volume id").as_deref(), Some("Ünïcode"), "{block}");
        assert_eq!(fact(&iso, "UDF block size"), Some(format!("{block} bytes")));
    }
}

#[test]
fn hybrids_say_all_they_are() {
    let dir = dir();
    let tree = files(dir.path());
    let (iso, mbr) = (dir.path().join("x.iso"), dir.path().join("mbr.bin"));
    std::fs::write(&mbr, noise(3, 432)).unwrap();
    std::fs::write(tree.join("efi.img"), noise(4, 4096)).unwrap();
    let status = Command::new("xorriso")
        .args(["-as", "mkisofs", "-quiet", "-V", "HYBRID", "-o", s(&iso), "-isohybrid-mbr", s(&mbr)])
        .args(["-b", "boot.bin", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table"])
        .args(["-eltorito-alt-boot", "-e", "efi.img", "-no-emul-boot", "-isohybrid-gpt-basdat", s(&tree)])
        .output()
        .unwrap();
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    let content = fact(&iso, "content").unwrap();
    assert_eq!(content, "ISO 9660, Rock Ridge, El Torito, hybrid with MBR and GPT (hybrid)", "{content}");
    let all = matches(&iso);
    assert_eq!(all.iter().map(|m| m.format).collect::<Vec<_>>(), [Format::Iso, Format::Raw]);
    assert!(all[0].evidence.contains("hybrid: MBR and GPT"), "{}", all[0].evidence);
    assert!(all[1].evidence.contains("partition table is in front"), "{}", all[1].evidence);
    let chain = Chain::open(&iso, &OpenOptions::default()).unwrap();
    let boots: Vec<_> = chain.nodes[0].description.facts.iter().filter(|f| f.label == "boot image").map(|f| &f.value).collect();
    assert!(boots.len() == 2 && boots[0].starts_with("BIOS") && boots[1].starts_with("EFI"), "{boots:?}");
}
