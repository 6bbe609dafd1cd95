//! What fills a volume: kind, label and UUID as `blkid` tells them, size and free space as the filesystem's own tools do.

use std::path::Path;

use cowshed::engine::guest::recognise::{FsInfo, FsKind, recognise};
use cowshed::engine::io::file::FileDevice;
use cowshed::engine::io::memory::Memory;

use crate::common::{dir, noise, run, s};

fn info(path: &Path) -> FsInfo {
    recognise(&FileDevice::open(path).unwrap()).unwrap().unwrap_or_else(|| panic!("nothing is recognised in {}", path.display()))
}

fn blkid(path: &Path, tag: &str) -> Option<String> {
    let out = run("blkid", &["-p", "-o", "export", s(path)]);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.lines().find_map(|l| Some(l.strip_prefix(tag)?.strip_prefix('=')?.replace("\\ ", " ")))
}

/// The first number behind `words` in `text`.
fn number(text: &str, words: &str) -> u64 {
    let rest = text.split_once(words).unwrap_or_else(|| panic!("no '{words}' in {text}")).1;
    rest.trim_start().chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

#[test]
fn every_kind_is_told_as_its_own_tools_tell_it() {
    let d = dir();
    let data = d.path().join("data");
    std::fs::write(&data, noise(1, 3_000_000)).unwrap();
    let at = |name: &str| d.path().join(name);
    let kinds: &[(FsKind, &str, &[&str])] = &[
        (FsKind::Ntfs, "mkntfs", &["-Q", "-F", "-q", "-L", "A label"]),
        (FsKind::Udf, "mkudffs", &["-l", "A label"]),
        (FsKind::Swap, "mkswap", &["-q", "-L", "A label"]),
        (FsKind::ExFat, "mkfs.exfat", &["-L", "A label"]),
        (FsKind::F2fs, "mkfs.f2fs", &["-q", "-l", "A label"]),
        (FsKind::Jfs, "mkfs.jfs", &["-q", "-L", "A label"]),
        (FsKind::Reiserfs, "mkreiserfs", &["-q", "-ff", "-l", "A label"]),
        (FsKind::Fat12, "mkfs.vfat", &["-F", "12", "-s", "64", "-n", "A LABEL"]),
        (FsKind::Fat16, "mkfs.vfat", &["-F", "16", "-n", "A LABEL"]),
        (FsKind::Fat32, "mkfs.vfat", &["-F", "32", "-s", "1", "-n", "A LABEL"]),
    ];
    for (kind, program, options) in kinds {
        let image = at("image");
        let _ = std::fs::remove_file(&image);
        run("truncate", &["-s", "64M", s(&image)]);
        run(program, &[options.to_vec(), vec![s(&image)]].concat());
        let f = info(&image);
        assert_eq!(f.kind, *kind);
        assert!(f.label.as_deref().is_some_and(|l| l.eq_ignore_ascii_case("A label")), "{kind:?}: {f:?}");
        assert_eq!(
            (f.label.as_ref(), f.uuid.as_ref()),
            (blkid(&image, "LABEL").as_ref(), blkid(&image, "UUID").as_ref()),
            "{kind:?}"
        );
        let size = f.size.unwrap_or_else(|| panic!("{kind:?} has a size"));
        assert!(size <= 64 << 20 && size > 60 << 20, "{kind:?}: {size}");
        let unit = f.block_size.unwrap();
        match kind {
            FsKind::Ntfs => {
                run("ntfscp", &["-q", "-f", s(&image), s(&data), "file"]);
                let told = String::from_utf8_lossy(&run("ntfsinfo", &["-m", s(&image)]).stdout).into_owned();
                assert_eq!(info(&image).free, Some(number(&told, "Free Clusters:") * unit));
                assert!(info(&image).free < f.free);
            }
            FsKind::ExFat => {
                let told = String::from_utf8_lossy(&run("dump.exfat", &[s(&image)]).stdout).into_owned();
                assert_eq!(f.free, Some(number(&told, "Free Clusters:") * unit));
            }
            FsKind::Fat12 | FsKind::Fat16 | FsKind::Fat32 => {
                run("mcopy", &["-i", s(&image), s(&data), "::file"]);
                let told = String::from_utf8_lossy(&run("fsck.vfat", &["-n", s(&image)]).stdout).into_owned();
                let (used, all) = told.rsplit_once(" files, ").unwrap().1.split_once('/').unwrap();
                let all: u64 = all.split(' ').next().unwrap().parse().unwrap();
                assert_eq!(info(&image).free, Some((all - used.parse::<u64>().unwrap()) * unit), "{kind:?}: {told}");
            }
            _ => {}
        }
    }
    let squash = at("squash");
    run("mksquashfs", &[s(&data), s(&squash), "-quiet", "-no-progress"]);
    let f = info(&squash);
    assert_eq!((f.kind, f.block_size), (FsKind::Squashfs, Some(131_072)));
    assert!(f.size.is_some_and(|n| n <= std::fs::metadata(&squash).unwrap().len() && n > 2_900_000));
}

/// What no tool here makes without a kernel: fields put where the specifications have them.
#[test]
fn parts_of_arrays_and_pools_are_named() {
    let put = |b: &mut [u8], at: usize, bytes: &[u8]| b[at..at + bytes.len()].copy_from_slice(bytes);
    // MD, version 1.2: 4 KiB from the beginning.
    let mut md = vec![0u8; 1 << 20];
    put(&mut md, 4096, &0xa92b_4efc_u32.to_le_bytes());
    put(&mut md, 4100, &1u32.to_le_bytes());
    put(&mut md, 4112, &[7; 16]);
    put(&mut md, 4128, b"host:0");
    put(&mut md, 4096 + 72, &1u32.to_le_bytes());
    put(&mut md, 4096 + 92, &2u32.to_le_bytes());
    put(&mut md, 4096 + 136, &1024u64.to_le_bytes());
    let f = recognise(&Memory::new(md)).unwrap().unwrap();
    assert_eq!((f.kind, f.label.as_deref(), f.size), (FsKind::Md, Some("host:0"), Some(524_288)));
    assert!(f.notes.iter().any(|n| n.contains("raid1 of 2")), "{f:?}");
    // ZFS: an uberblock, and the label's list with a string and a number in XDR.
    let pair = |name: &[u8], kind: u32, value: &[u8]| {
        let mut p = vec![0u8; 8];
        p.extend((name.len() as u32).to_be_bytes());
        p.extend(name);
        p.resize(p.len().next_multiple_of(4), 0);
        p.extend(kind.to_be_bytes());
        p.extend(1u32.to_be_bytes());
        p.extend(value);
        p.resize(p.len().next_multiple_of(4), 0);
        let len = (p.len() as u32).to_be_bytes();
        p[..4].copy_from_slice(&len);
        p
    };
    let mut zfs = vec![0u8; 1 << 20];
    put(&mut zfs, 128 << 10, &0x00ba_b10c_u64.to_le_bytes());
    let mut list = vec![1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    list.extend(pair(b"version", 8, &5000u64.to_be_bytes()));
    list.extend(pair(b"name", 9, &[&4u32.to_be_bytes()[..], b"tank"].concat()));
    list.extend(pair(b"pool_guid", 8, &1234u64.to_be_bytes()));
    put(&mut zfs, 16 << 10, &list);
    let f = recognise(&Memory::new(zfs.clone())).unwrap().unwrap();
    assert_eq!((f.kind, f.label.as_deref(), f.uuid.as_deref()), (FsKind::Zfs, Some("tank"), Some("1234")));
    // A list that lies about its lengths is no worse than none.
    put(&mut zfs, (16 << 10) + 12, &u32::MAX.to_be_bytes());
    assert_eq!(recognise(&Memory::new(zfs)).unwrap().unwrap().kind, FsKind::Zfs);
}

#[test]
fn spoilt_superblocks_are_survived() {
    let d = dir();
    for (program, options) in
        [("mkntfs", &["-Q", "-F", "-q"][..]), ("mkfs.exfat", &[]), ("mkudffs", &[]), ("mkfs.vfat", &["-F", "16", "-s", "1"])]
    {
        let image = d.path().join("image");
        let _ = std::fs::remove_file(&image);
        run("truncate", &["-s", "8M", s(&image)]);
        run(program, &[options.to_vec(), vec![s(&image)]].concat());
        let good = std::fs::read(&image).unwrap();
        let random = noise(5, 4000);
        for r in random.chunks_exact(8) {
            let mut bad = good.clone();
            // In the boot sector, and where the tables begin.
            let places: Vec<usize> = (0..512).chain((0..good.len()).step_by(4096).filter(|i| good[*i] != 0)).collect();
            let at = places[usize::from(u16::from_le_bytes([r[0], r[1]])) % places.len()];
            for (i, v) in r[4..].iter().enumerate() {
                bad[(at + i * usize::from(r[3] % 16 + 1)) % good.len()] = if r[2] & 1 == 0 { *v } else { 0xff };
            }
            if let Some(f) = recognise(&Memory::new(bad)).unwrap() {
                assert!(f.free.is_none_or(|n| n <= f.size.unwrap_or(u64::MAX)), "{f:?}");
            }
        }
    }
}
