//! Plans the sanitising of small guests on ext4 and XFS, and of one with an ESP whose seed goes, with bytes changed where their structures
//! are (of the last: in its FAT), and right checksums. Nothing is written by the program; the input says which guest, and then what changes: place (2 bytes), offset (2), length (1), bytes.
#![no_main]

#[path = "../hook.rs"]
mod hook;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use cowshed::engine::ops::sanitize::{SanitizeSpec, preview};

struct Base {
    path: PathBuf,
    file: std::fs::File,
    /// Sectors that hold anything.
    places: Vec<u64>,
}

static BASES: OnceLock<Vec<Base>> = OnceLock::new();

fn run(command: &mut Command) {
    assert!(command.status().expect("mkfs of ext4 and XFS are there").success());
}

fn bases() -> Vec<Base> {
    let dir = Path::new("/dev/shm").join(format!("cowshed-fuzz-{}", std::process::id()));
    let root = dir.join("root");
    let files = [
        ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
        ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
        ("etc/ssh/ssh_host_rsa_key", "-----BEGIN-----\n"),
        ("usr/bin/x", "x"),
        ("var/log/syslog", "a line of a log\n"),
        ("root/.bash_history", "a line of history\n"),
    ];
    let mut proto = String::from("/dev/null\n0 0\nd--755 0 0\n");
    for (path, text) in files {
        let at = root.join(path);
        std::fs::create_dir_all(at.parent().unwrap_or(&root)).expect("a folder");
        std::fs::write(&at, text.repeat(if path.contains("log") { 2000 } else { 1 })).expect("a file");
    }
    for folder in ["etc", "usr", "var/log", "root"] {
        for part in folder.split('/') {
            proto += &format!("{part} d--755 0 0\n");
        }
        for e in std::fs::read_dir(root.join(folder)).expect("a folder").flatten().filter(|e| e.path().is_file()) {
            proto += &format!("{} ---644 0 0 {}\n", e.file_name().to_string_lossy(), e.path().display());
        }
        proto += &"$\n".repeat(folder.split('/').count());
    }
    for i in 0..100 {
        std::fs::write(root.join(format!("var/log/a-log-with-a-name-{i}")), "x").expect("a file");
    }
    // What mounts an ESP; nothing needs it to be a program.
    let generators = root.join("usr/lib/systemd/system-generators");
    std::fs::create_dir_all(&generators).expect("a folder");
    std::fs::write(generators.join("systemd-gpt-auto-generator"), "x").expect("a file");
    std::fs::create_dir_all(root.join("efi")).expect("a folder");
    std::fs::write(dir.join("proto"), proto + "$\n").expect("a file");
    let (ext, xfs) = (dir.join("ext4"), dir.join("xfs"));
    run(Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-b", "1024", "-O", "^metadata_csum", "-d"]).args([&root, &ext]).arg("3M"));
    std::fs::File::create(&xfs).and_then(|f| f.set_len(20 << 20)).expect("a file");
    run(Command::new("mkfs.xfs")
        .args(["-q", "-m", "rmapbt=1,reflink=1", "-d", "agcount=1", "-p"])
        .args([&dir.join("proto"), &xfs])
        .envs(["TEST_DIR", "TEST_DEV", "QA_CHECK_FS"].map(|n| (n, "1"))));
    let esp = with_esp(&dir, &ext);
    [(ext, 0..u64::MAX), (xfs, 0..u64::MAX), (esp, MIB..3 * MIB)]
        .map(|(path, within)| {
            let bytes = std::fs::read(&path).expect("it was made");
            let used = (0..).zip(bytes.chunks(512)).filter(|(_, b)| b.iter().any(|x| *x != 0)).map(|(n, _)| n * 512);
            let places = used.filter(|at| within.contains(at)).collect();
            let file = std::fs::File::options().read(true).write(true).open(&path).expect("it was made");
            let base = Base { path, file, places };
            let plan = preview(&SanitizeSpec::new(&base.path)).expect("the whole one can be sanitised");
            let seeds = plan.operations.iter().flat_map(|o| &o.changes).filter(|c| c.path.ends_with("random-seed")).count();
            assert_eq!(seeds, usize::from(within.start > 0), "the seed on the ESP goes");
            base
        })
        .into()
}

const MIB: u64 = 1 << 20;

/// A disk with an ESP, on which a boot loader keeps its seed, and the root filesystem `ext`.
fn with_esp(dir: &Path, ext: &Path) -> PathBuf {
    let (disk, esp, seed) = (dir.join("disk"), dir.join("esp"), dir.join("random-seed"));
    std::fs::write(&seed, [0xa5; 3000]).expect("a file");
    run(Command::new("mkfs.vfat").args(["-C", "-F", "12", "-s", "1"]).arg(&esp).arg("2048").stdout(std::process::Stdio::null()));
    run(Command::new("mmd").arg("-i").arg(&esp).arg("::loader"));
    run(Command::new("mcopy").arg("-i").arg(&esp).arg(&seed).arg("::loader/random-seed"));
    let file = std::fs::File::create(&disk).expect("a file");
    let root = std::fs::read(ext).expect("it was made");
    file.set_len(3 * MIB + root.len() as u64 + MIB).expect("a length");
    let script = dir.join("table");
    std::fs::write(&script, "label: gpt\nsize=2M,type=uefi\ntype=linux\n").expect("a file");
    let table = std::fs::File::open(&script).expect("it was made");
    run(Command::new("sfdisk").arg("-q").arg(&disk).stdin(table));
    file.write_all_at(&std::fs::read(&esp).expect("it was made"), MIB).expect("room");
    file.write_all_at(&root, 3 * MIB).expect("room");
    disk
}

/// Puts the right checksum on the XFS structure that byte `at` lies in.
fn seal(file: &std::fs::File, at: u64) {
    let mut block = [0u8; 4096];
    for (len, marks) in [
        (512u64, &[("XFSB", 224), ("XAGF", 216), ("XAGI", 312), ("XAFL", 32), ("IN", 100)][..]),
        (4096, &[("AB3B", 52), ("AB3C", 52), ("IAB3", 52), ("FIB3", 52), ("RMB3", 52), ("R3FC", 52), ("XDB3", 4), ("XDD3", 4)]),
    ] {
        let start = at / len * len;
        let block = &mut block[..len as usize];
        if file.read_exact_at(block, start).is_err() {
            continue;
        }
        if let Some((_, crc)) = marks.iter().find(|(mark, _)| block.starts_with(mark.as_bytes())) {
            block[*crc..crc + 4].fill(0);
            let sum = crc32c::crc32c(block);
            let _ = file.write_all_at(&sum.to_le_bytes(), start + *crc as u64);
        }
    }
}

libfuzzer_sys::fuzz_target!(init: {
    hook::quiet();
    let _ = BASES.set(bases());
}, |data: &[u8]| {
    let Some((which, mut rest)) = data.split_first() else { return };
    let bases = BASES.get().expect("made before");
    let base = &bases[usize::from(*which) % bases.len()];
    let mut undo: Vec<(u64, Vec<u8>)> = Vec::new();
    while let [p0, p1, o0, o1, len, tail @ ..] = rest {
        let place = base.places[usize::from(u16::from_le_bytes([*p0, *p1])) % base.places.len()];
        let at = place + u64::from(u16::from_le_bytes([*o0, *o1])) % 512;
        let (bytes, next) = tail.split_at(usize::from(*len % 9).min(tail.len()));
        rest = next;
        // The block around it, with its checksum, comes back afterwards.
        let block = at / 4096 * 4096;
        let mut old = vec![0; 4096 + 512];
        if undo.len() > 7 || base.file.read_exact_at(&mut old, block).is_err() || base.file.write_all_at(bytes, at).is_err() {
            break;
        }
        undo.push((block, old));
        if *which & 2 == 0 {
            seal(&base.file, at);
        }
    }
    let _ = preview(&SanitizeSpec::new(&base.path));
    for (at, old) in undo.into_iter().rev() {
        base.file.write_all_at(&old, at).expect("it can be written");
    }
});
