//! Sanitising guests whose ESP keeps the boot loader's random seed: it goes from FAT as from any other filesystem, or is refused and
//! nothing is written; an ESP that nothing goes from is not even looked at.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::common::{cowshed, dir, noise, run, s};
use crate::fat_write::{FATS, fat_complaints, has, make_fat, put, stored};
use crate::guest_write::make;
use crate::sanitize::{disk, guest, report};
use crate::sanitize_damage::sanitised;

/// Where the ESP begins.
const ESP: usize = 1 << 20;

/// A boot loader's files on a fresh ESP; a seed of 40 clusters and a bit where clusters are small.
fn fill(d: &Path, esp: &Path, seed: Option<&[u8]>) {
    let loader = d.join("loader");
    let _ = std::fs::remove_dir_all(&loader);
    std::fs::create_dir_all(loader.join("entries")).unwrap();
    std::fs::write(loader.join("loader.conf"), "timeout 3\n").unwrap();
    if let Some(seed) = seed {
        std::fs::write(loader.join("random-seed"), seed).unwrap();
    }
    put(esp, &loader, "");
    let boot = d.join("a boot loader.efi");
    std::fs::write(&boot, noise(31, 40_000)).unwrap();
    put(esp, &boot, "");
}

/// A disk of an ESP and the root filesystem in `fs`.
fn assemble(d: &Path, fs: &Path, esp: &Path) -> PathBuf {
    let image = d.join("x.raw");
    let megabytes = std::fs::metadata(esp).unwrap().len() >> 20;
    let script = format!("label: gpt\nsize={megabytes}M,type=uefi\ntype=linux\n");
    disk(&image, megabytes + 26, &script, &[(ESP as u64, esp), ((megabytes + 1) << 20, fs)]);
    image
}

/// The system on the disk.
fn root(d: &Path) -> PathBuf {
    let (root, fs) = (d.join("root"), d.join("fs"));
    guest(&root);
    std::fs::create_dir_all(root.join("boot/efi")).unwrap();
    std::fs::write(root.join("etc/fstab"), "LABEL=ESP /boot/efi vfat umask=077 0 1\n").unwrap();
    make(&fs, "-t ext4", &root, 24);
    fs
}

fn esp_of(image: &Path, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    std::fs::File::open(image).unwrap().read_exact_at(&mut bytes, ESP as u64).unwrap();
    bytes
}

#[test]
fn the_seed_on_an_esp_goes_and_comes_back_with_an_undo() {
    let d = dir();
    let (fs, esp, out) = (root(d.path()), d.path().join("esp"), d.path().join("out"));
    let seed = noise(77, 21_000);
    for fat in FATS.iter().filter(|f| f.4 <= 40) {
        make_fat(&esp, *fat);
        fill(d.path(), &esp, Some(&seed));
        let before = std::fs::read(&esp).unwrap();
        let image = assemble(d.path(), &fs, &esp);
        let (code, plan, err) = report(&["--dry-run", s(&image)]);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{fat:?}");
        assert!(plan["operations"].to_string().contains("/boot/efi/loader/random-seed"), "{plan}");
        assert!(esp_of(&image, before.len()) == before, "{fat:?}: a dry run wrote");
        let (code, done, err) = report(&[s(&image)]);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{fat:?}: {done}");
        assert_eq!(done["scan"]["found"].as_array().unwrap().len(), 0, "{fat:?}: {}", done["scan"]);
        assert!(!done["warnings"].to_string().contains("efi"), "{fat:?}: {}", done["warnings"]);
        let volumes = done["volumes"].to_string();
        assert!(volumes.contains(&format!("p1: fat{}, checked before and after", fat.0)), "{fat:?}: {volumes}");
        let after = esp_of(&image, before.len());
        std::fs::write(&out, &after).unwrap();
        assert_eq!(fat_complaints(&out), "", "{fat:?}");
        let (then, now) = (stored(&before), stored(&after));
        assert!((0..seed.len() - 64).step_by(2048).all(|at| !has(&now, &seed[at..at + 64])), "{fat:?}: the seed");
        let name: Vec<u8> = "rando".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(has(&then, &name) && !has(&now, &name) && !has(&now, b"RANDOM~1"), "{fat:?}: the name");
        let listed = cowshed(&["ls", &format!("{}:/boot/efi/loader", s(&image))]).stdout;
        assert_eq!(String::from_utf8_lossy(&listed).split_whitespace().filter(|w| w.contains("seed")).count(), 0);
        let boot = run("mcopy", &["-i", s(&out), "::a boot loader.efi", "-"]).stdout;
        assert!(boot == noise(31, 40_000), "{fat:?}: what stays");
        let (code, again, err) = report(&[s(&image)]);
        assert_eq!((code, again["written"].as_u64(), again["zeroed"].as_u64()), (Some(0), Some(0), Some(0)), "{fat:?}: {err}");
        assert!(cowshed(&["sanitize", "--undo", s(&image)]).status.success());
        // There was nothing in its free space: it is the same byte for byte.
        assert!(esp_of(&image, before.len()) == before, "{fat:?}: undo");
    }
}

#[test]
fn an_esp_that_only_systemd_finds_is_reached_where_it_mounts_it() {
    let d = dir();
    let (esp, out, folder) = (d.path().join("esp"), d.path().join("out"), d.path().join("root"));
    let generator = folder.join("usr/lib/systemd/system-generators/systemd-gpt-auto-generator");
    make_fat(&esp, FATS[3]);
    fill(d.path(), &esp, Some(&noise(77, 21_000)));
    let before = std::fs::read(&esp).unwrap();
    for (boot, efi, kernels, seed) in [
        // Nothing in /boot; a kernel there; a partition for kernels; something in /efi; neither folder.
        (Some(false), None, false, "/boot/loader/random-seed"),
        (Some(true), None, false, "/efi/loader/random-seed"),
        (Some(false), Some(false), true, "/efi/loader/random-seed"),
        (None, Some(true), false, ""),
        (None, None, false, "/efi/loader/random-seed"),
    ] {
        let _ = std::fs::remove_dir_all(&folder);
        guest(&folder);
        std::fs::create_dir_all(generator.parent().unwrap()).unwrap();
        std::fs::write(&generator, "").unwrap();
        for (name, filled) in [("boot", boot), ("efi", efi)].into_iter().filter_map(|(name, f)| Some((name, f?))) {
            std::fs::create_dir(folder.join(name)).unwrap();
            if filled {
                std::fs::write(folder.join(name).join("vmlinuz-6.1"), "a kernel").unwrap();
            }
        }
        let fs = d.path().join("fs");
        make(&fs, "-t ext4", &folder, 24);
        let image = d.path().join("x.raw");
        let more = if kernels { "size=1M,type=bc13c2ff-59e6-4262-a352-b275fd6f7172\n" } else { "" };
        let script = format!("label: gpt\nstart=2048,size=8M,type=uefi\nstart=18432,size=25M,type=linux\n{more}");
        disk(&image, 40, &script, &[(ESP as u64, &esp), (9 << 20, &fs)]);
        let (code, done, err) = report(&["--no-undo", s(&image)]);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{done}");
        let found = done["operations"].as_array().unwrap().iter().find(|o| o["id"] == "random-seed").unwrap();
        let paths: Vec<&str> = found["changes"].as_array().unwrap().iter().map(|c| c["path"].as_str().unwrap()).collect();
        let after = esp_of(&image, before.len());
        std::fs::write(&out, &after).unwrap();
        assert_eq!(fat_complaints(&out), "");
        if seed.is_empty() {
            assert!(paths.is_empty() && after == before, "{paths:?}");
        } else {
            assert!(paths == [seed] && !has(&stored(&after), &noise(77, 64)), "{seed}: {paths:?}");
        }
    }
}

#[test]
fn an_esp_that_nothing_goes_from_stays_as_it_is_damaged_or_not() {
    let d = dir();
    let (fs, esp) = (root(d.path()), d.path().join("esp"));
    for damaged in [false, true] {
        make_fat(&esp, FATS[3]);
        fill(d.path(), &esp, None);
        // What somebody removed earlier.
        let file = std::fs::File::options().write(true).open(&esp).unwrap();
        file.write_all_at(b"left in free space", (7 << 20) + 4096).unwrap();
        if damaged {
            file.write_all_at(&[1], 37).unwrap();
        }
        let before = std::fs::read(&esp).unwrap();
        let image = assemble(d.path(), &fs, &esp);
        let (code, done, err) = report(&[s(&image)]);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{done}");
        assert!(esp_of(&image, before.len()) == before && !done["volumes"].to_string().contains("p1"), "{done}");
        std::fs::remove_file(d.path().join("x.raw.sanitize-undo")).unwrap();
    }
}

/// A FAT's bytes, and where what is in them; by the specification, apart from the engine.
struct Bytes {
    bits: usize,
    b: Vec<u8>,
    tables: Vec<usize>,
    root: Option<usize>,
    data: usize,
    cluster: usize,
}

impl Bytes {
    fn read(esp: &Path, bits: &str) -> Bytes {
        let b = std::fs::read(esp).unwrap();
        let word = |at: usize| usize::from(u16::from_le_bytes([b[at], b[at + 1]]));
        let bits: usize = bits.parse().unwrap();
        let (sector, reserved, count) = (word(11), word(14), usize::from(b[16]));
        let fat = if bits == 32 { word(36) } else { word(22) } * sector;
        let end = reserved * sector + count * fat;
        let tables = (0..count).map(|i| reserved * sector + i * fat).collect();
        let cluster = usize::from(b[13]) * sector;
        let root = (bits != 32).then_some(end);
        Bytes { bits, tables, root, data: end + word(17) * 32, cluster, b }
    }
    fn get(&self, n: usize) -> usize {
        let at = self.tables[0] + n * self.bits / 8;
        let v = usize::from(u16::from_le_bytes([self.b[at], self.b[at + 1]]));
        match self.bits {
            12 => (v >> (n % 2 * 4)) & 0xfff,
            16 => v,
            _ => v | (usize::from(self.b[at + 2]) << 16) | (usize::from(self.b[at + 3]) << 24),
        }
    }
    fn set(&mut self, copies: &[usize], n: usize, v: usize) {
        for copy in copies {
            let at = self.tables[*copy] + n * self.bits / 8;
            let old = u32::from_le_bytes(self.b[at..at + 4].try_into().unwrap());
            let (shift, mask) = match self.bits {
                12 => (n % 2 * 4, 0xfff_u32),
                16 => (0, 0xffff),
                _ => (0, 0xffff_ffff),
            };
            let new = old & !(mask << shift) | (v as u32) << shift;
            self.b[at..at + 4].copy_from_slice(&new.to_le_bytes());
        }
    }
    /// The entry with the short name `name`.
    fn entry(&self, name: &[u8]) -> usize {
        let from = self.root.unwrap_or(self.data);
        (from..self.b.len()).step_by(32).find(|at| self.b[*at..].starts_with(name)).unwrap()
    }
    fn first(&self, entry: usize) -> usize {
        usize::from(u16::from_le_bytes([self.b[entry + 26], self.b[entry + 27]]))
    }
    fn set_first(&mut self, entry: usize, n: usize) {
        self.b[entry + 26..entry + 28].copy_from_slice(&(n as u16).to_le_bytes());
    }
}

type Damage = fn(&mut Bytes);

/// What is done to it, what is said, and whether `fsck.fat -n` sees it too.
const DAMAGE: &[(&str, Damage, &str, bool)] = &[
    ("in use", |f| f.b[if f.bits == 32 { 65 } else { 37 }] |= 1, "not unmounted cleanly", true),
    ("errors seen", |f| f.b[if f.bits == 32 { 65 } else { 37 }] |= 2, "marked as having errors", false),
    (
        "copies differ",
        |f| {
            let seed = f.first(f.entry(b"RANDOM~1"));
            f.set(&[1], seed, 0);
        },
        "do not agree",
        true,
    ),
    (
        "a chain that breaks off",
        |f| {
            let seed = f.first(f.entry(b"RANDOM~1"));
            f.set(&[0, 1], seed, 0);
        },
        "which is free",
        true,
    ),
    (
        "a loop",
        |f| {
            let seed = f.first(f.entry(b"RANDOM~1"));
            f.set(&[0, 1], f.get(seed), seed);
        },
        "in a chain already",
        true,
    ),
    (
        "two files in one cluster",
        |f| {
            let (seed, boot) = (f.first(f.entry(b"RANDOM~1")), f.first(f.entry(b"ABOOTL~1")));
            f.set(&[0, 1], seed, f.get(boot));
        },
        "in a chain already",
        true,
    ),
    (
        "out of range",
        |f| {
            let seed = f.first(f.entry(b"RANDOM~1"));
            f.set(&[0, 1], seed, (1 << f.bits.min(28)) - 32);
        },
        "which is not there",
        true,
    ),
    (
        "a bad cluster",
        |f| {
            let seed = f.first(f.entry(b"RANDOM~1"));
            f.set(&[0, 1], seed, (1 << f.bits.min(28)) - 9);
        },
        "marked as bad",
        true,
    ),
    (
        "longer than its chain",
        |f| {
            let e = f.entry(b"RANDOM~1");
            f.b[e + 30] += 1;
        },
        "would do",
        true,
    ),
    (
        "shorter than its chain",
        |f| {
            let e = f.entry(b"RANDOM~1");
            f.b[e + 28..e + 32].copy_from_slice(&1u32.to_le_bytes());
        },
        "would do",
        true,
    ),
    (
        "no first cluster",
        |f| {
            let e = f.entry(b"RANDOM~1");
            f.set_first(e, 0);
        },
        "would do",
        true,
    ),
    (
        "another file's chain",
        |f| {
            let boot = f.first(f.entry(b"ABOOTL~1"));
            f.set(&[0, 1], boot, boot);
        },
        "in a chain already",
        true,
    ),
    (
        "a folder that is its parent",
        |f| {
            let (e, parent) = (f.entry(b"ENTRIES "), f.first(f.entry(b"LOADER  ")));
            f.set_first(e, parent);
        },
        "in a chain already",
        true,
    ),
    (
        "a folder without a cluster",
        |f| {
            let e = f.entry(b"ENTRIES ");
            f.set_first(e, 0);
        },
        "without a cluster",
        true,
    ),
    (
        "a folder that goes on behind its end",
        |f| {
            let e = f.entry(b"RANDOM~1");
            let at = f.data + (f.first(f.entry(b"ENTRIES ")) - 2) * f.cluster + 3 * 32;
            f.b.copy_within(e..e + 32, at);
        },
        "behind its end",
        true,
    ),
];

/// What only FAT16 and FAT32 have.
const DAMAGE_MARKS: &[(&str, Damage, &str, bool)] = &[
    (
        "in use, as Windows marks it",
        |f| {
            let v = f.get(1);
            f.set(&[0, 1], 1, v & !(1 << (f.bits.min(28) - 1)));
        },
        "not unmounted cleanly",
        false,
    ),
    (
        "errors, as Windows marks them",
        |f| {
            let v = f.get(1);
            f.set(&[0, 1], 1, v & !(1 << (f.bits.min(28) - 2)));
        },
        "marked as having errors",
        false,
    ),
];

/// What only FAT32 has.
const DAMAGE_32: &[(&str, Damage, &str, bool)] = &[
    ("no mirroring", |f| f.b[40] |= 0x80, "mirroring", false),
    ("another version", |f| f.b[42] = 1, "version", false),
    ("a wrong count", |f| f.b[512 + 488] ^= 1, "free clusters where there are", true),
];

#[test]
fn a_damaged_esp_that_something_goes_from_is_refused_and_nothing_is_written() {
    let d = dir();
    let (fs, esp, seed) = (root(d.path()), d.path().join("esp"), noise(77, 21_000));
    for bits in ["12", "16", "32"] {
        let fat = FATS.iter().find(|f| f.0 == bits && f.1 == "2").unwrap();
        make_fat(&esp, *fat);
        fill(d.path(), &esp, Some(&seed));
        let image = assemble(d.path(), &fs, &esp);
        let good = std::fs::read(&esp).unwrap();
        let marks = DAMAGE_MARKS.iter().filter(|_| bits != "12");
        for (what, damage, why, seen) in DAMAGE.iter().chain(marks).chain(DAMAGE_32.iter().filter(|_| bits == "32")) {
            std::fs::write(&esp, &good).unwrap();
            let mut bytes = Bytes::read(&esp, bits);
            damage(&mut bytes);
            std::fs::write(&esp, &bytes.b).unwrap();
            assert!(bytes.b != good && (!seen || !fat_complaints(&esp).is_empty()), "FAT{bits}, {what}: it is no damage");
            let file = std::fs::File::options().write(true).open(&image).unwrap();
            file.write_all_at(&bytes.b, ESP as u64).unwrap();
            let fate = sanitised(&image, &format!("FAT{bits}, {what}"));
            assert!(fate.refused && fate.told.contains(why), "FAT{bits}, {what}: {}", fate.told);
            assert!(fate.told.contains("fsck.fat"), "FAT{bits}, {what}: {}", fate.told);
        }
        // Left alone, it stops nobody.
        let damaged = std::fs::read(&esp).unwrap();
        let (code, done, err) = report(&["--no-undo", "--disable", "random-seed", s(&image)]);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{done}");
        assert!(esp_of(&image, damaged.len()) == damaged, "FAT{bits}");
    }
}

#[test]
fn random_damage_of_an_esp_is_refused_or_not_made_worse() {
    let d = dir();
    let (fs, esp, out, seed) = (root(d.path()), d.path().join("esp"), d.path().join("out"), noise(77, 21_000));
    let rounds = if std::env::var_os("COWSHED_LONG").is_some() { 400 } else { 12 };
    let mut fates = [0, 0];
    for bits in ["12", "16", "32"] {
        let fat = FATS.iter().find(|f| f.0 == bits && f.1 == "2").unwrap();
        make_fat(&esp, *fat);
        fill(d.path(), &esp, Some(&seed));
        let image = assemble(d.path(), &fs, &esp);
        let (good, whole) = (std::fs::read(&esp).unwrap(), std::fs::read(&image).unwrap());
        let of_files: Vec<Vec<u8>> =
            [&seed, &noise(31, 40_000)].map(|c| c.chunks(512).map(<[u8]>::to_vec).collect::<Vec<_>>()).concat();
        let structures: Vec<usize> = (0..good.len() / 512)
            .filter(|i| {
                let block = &good[i * 512..(i + 1) * 512];
                block.iter().any(|b| *b != 0) && !of_files.iter().any(|f| block.starts_with(f))
            })
            .collect();
        for r in noise(bits.len() as u64 + good.len() as u64, rounds * 8).chunks_exact(8) {
            let mut bytes = good.clone();
            let block = structures[usize::from(r[0]) % structures.len()];
            // Mostly where something stands.
            let used: Vec<usize> = (block * 512..(block + 1) * 512).filter(|at| good[*at] != 0 || r[1] < 40).collect();
            let at = used[usize::from(u16::from_le_bytes([r[2], r[3]])) % used.len()];
            bytes[at] ^= if r[4] < 128 { 1 << (r[5] % 8) } else { r[5] | 1 };
            std::fs::write(&esp, &bytes).unwrap();
            std::fs::write(&image, &whole).unwrap();
            std::fs::File::options().write(true).open(&image).unwrap().write_all_at(&bytes, ESP as u64).unwrap();
            let what = format!("FAT{bits}, byte {at}: {:#x} -> {:#x}", good[at], bytes[at]);
            let fate = sanitised(&image, &what);
            fates[usize::from(fate.refused)] += 1;
            if fate.refused {
                continue;
            }
            std::fs::write(&out, esp_of(&image, good.len())).unwrap();
            // Clusters that are free became more.
            let said = |esp: &Path| fat_complaints(esp).replace(|c: char| c.is_ascii_digit(), "#");
            let (before, after) = (said(&esp), said(&out));
            let new: Vec<&str> = after.lines().filter(|l| !before.contains(l)).collect();
            assert!(new.is_empty(), "{what}: before:\n{before}\nafter:\n{after}");
        }
    }
    assert!(fates.iter().all(|n| *n > 5), "done and refused: {fates:?}");
}
