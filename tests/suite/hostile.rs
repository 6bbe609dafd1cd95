//! Bad input: images cut short, bits flipped, lengths at their extremes, names that lead elsewhere, files that are none. Each
//! must give an answer or a clear error in bounded time and memory, and open nothing outside the allowed folders.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cowshed::engine::chain::{Chain, OpenOptions};
use cowshed::engine::error::ErrorKind;
use cowshed::engine::exercise;
use cowshed::engine::format::Format;
use cowshed::engine::io::ReadAt;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::common::{cowshed, dir, noise, qemu_img, run, s, text};

/// Time one image may take here, unoptimised and on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// A good image to be damaged.
struct Sample {
    name: String,
    format: Format,
    bytes: Vec<u8>,
}

/// One of every format and of the main ways to lay it out, small.
fn samples(dir: &Path) -> Vec<Sample> {
    let raw = dir.join("in.raw");
    let mut content = noise(1, 20_000);
    content.extend(text(2, 60_000));
    content.resize(160_000, 0);
    content.extend(noise(3, 3840));
    std::fs::write(&raw, &content).unwrap();
    let mut out = Vec::new();
    let mut add = |name: &str, format: Format, path: &Path| {
        out.push(Sample { name: name.into(), format, bytes: std::fs::read(path).unwrap() });
    };
    for (name, format, words) in [
        ("qcow2 v2", Format::Qcow2, "-O qcow2 -o compat=0.10,cluster_size=4k"),
        ("qcow2 v3", Format::Qcow2, "-O qcow2 -o cluster_size=4k,refcount_bits=1"),
        ("qcow2 zlib", Format::Qcow2, "-c -O qcow2 -o cluster_size=4k"),
        ("qcow2 zstd", Format::Qcow2, "-c -O qcow2 -o cluster_size=4k,compression_type=zstd"),
        ("qcow2 extended", Format::Qcow2, "-O qcow2 -o cluster_size=16k,extended_l2=on"),
        ("qcow", Format::Qcow, "-O qcow"),
        ("vmdk", Format::Vmdk, "-O vmdk"),
        ("vmdk stream", Format::Vmdk, "-O vmdk -o subformat=streamOptimized"),
        ("vdi", Format::Vdi, "-O vdi"),
        ("vhd", Format::Vhd, "-O vpc -o force_size=on"),
        ("vhd fixed", Format::Vhd, "-O vpc -o subformat=fixed,force_size=on"),
        ("vhdx", Format::Vhdx, "-O vhdx -o block_size=1M"),
    ] {
        let path = dir.join("sample");
        let _ = std::fs::remove_file(&path);
        qemu_img(&format!("convert -f raw {words} {} {}", s(&raw), s(&path)));
        if name == "qcow2 v3" {
            qemu_img(&format!("bitmap --add {} bits", s(&path)));
        }
        if name == "qcow2 v2" {
            qemu_img(&format!("snapshot -c one {}", s(&path)));
        }
        add(name, format, &path);
    }
    let path = dir.join("sample.luks");
    qemu_img(&format!("create --object secret,id=s,data=a -f luks -o key-secret=s,iter-time=10 {} 64k", s(&path)));
    add("luks", Format::Luks, &path);
    let tree = dir.join("tree");
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("boot"), noise(1, 2048)).unwrap();
    let iso = dir.join("sample.iso");
    let words = "-quiet -J -R -udf -b boot -no-emul-boot -c boot.cat -o";
    run("genisoimage", &words.split(' ').chain([s(&iso), s(&tree)]).collect::<Vec<_>>());
    add("iso", Format::Iso, &iso);
    let mut cow = vec![0; 1056 + 64];
    cow[..8].copy_from_slice(b"OOOM\0\0\0\x02");
    cow[1040..1048].copy_from_slice(&(512u64 * 500).to_be_bytes());
    cow[1048..1052].copy_from_slice(&512u32.to_be_bytes());
    cow[1056..1100].fill(0x5a);
    cow.resize(100_000, 7);
    out.push(Sample { name: "cow".into(), format: Format::Cow, bytes: cow });
    let mut cpio = Vec::new();
    for name in [&b"kernel/x86/microcode/x.bin"[..], b"init", b"TRAILER!!!"] {
        let start = cpio.len();
        cpio.extend_from_slice(b"070701");
        for field in 0..13 {
            let value = if field == 11 { name.len() + 1 } else { 0 };
            cpio.extend(format!("{value:08x}").bytes());
        }
        cpio.extend_from_slice(name);
        cpio.push(0);
        let len = (cpio.len() - start).next_multiple_of(4);
        cpio.resize(start + len, 0);
    }
    out.push(Sample { name: "ari".into(), format: Format::Ari, bytes: cpio });
    let mut raw = noise(9, 70_000);
    raw[510..520].copy_from_slice(b"\x55\xaaEFI PART");
    out.push(Sample { name: "raw".into(), format: Format::Raw, bytes: raw });
    // A large file costs a copy for every try; what follows the metadata is not needed.
    for s in out.iter_mut().filter(|s| s.bytes.len() > 9 << 20) {
        s.bytes.truncate(9 << 20);
    }
    out
}

/// Tries damaged bytes as their format and as whatever they look like; says which when it takes too long.
fn attempt(format: Format, bytes: &[u8], what: &dyn Fn() -> String) {
    let start = Instant::now();
    let outcome = std::panic::catch_unwind(|| {
        let _ = exercise::bytes(Some(format), bytes);
    });
    assert!(outcome.is_ok(), "panicked: {}", what());
    assert!(start.elapsed() < PATIENCE, "took {:?}: {}", start.elapsed(), what());
}

/// How many tries a sample of `len` bytes is worth: as many in a second for each.
fn budget(len: usize) -> usize {
    let long = if std::env::var_os("COWSHED_LONG").is_some() { 20 } else { 1 };
    (60_000_000 / len.max(100_000)).clamp(6, 500) * long
}

#[test]
fn cut_short_anywhere() {
    let dir = dir();
    for sample in samples(dir.path()) {
        let len = sample.bytes.len();
        let mut cuts: Vec<usize> =
            vec![0, 1, 3, 4, 7, 8, 47, 48, 63, 64, 71, 72, 103, 104, 111, 112, 511, 512, 513, 591, 592, 1023, 1024];
        cuts.extend([1047, 1048, 1055, 1056, 1057, 4095, 4096, len / 3, len / 2]);
        cuts.extend([1024, 513, 512, 511, 1].iter().filter_map(|n| len.checked_sub(*n)));
        let step = (len / budget(len)).max(1);
        cuts.extend((0..len).step_by(step));
        for cut in cuts.into_iter().filter(|c| *c < len) {
            attempt(sample.format, &sample.bytes[..cut], &|| format!("{} cut to {cut}", sample.name));
        }
    }
}

#[test]
fn lengths_and_counts_at_their_extremes() {
    let dir = dir();
    let values: [&[u8]; 8] = [
        &[0xff; 4],
        &[0xff; 8],
        &[0; 4],
        &[0, 0, 0, 1],
        &[0x7f, 0xff, 0xff, 0xff],
        &[0xff, 0xff, 0xff, 0x7f],
        &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f],
    ];
    for mut sample in samples(dir.path()) {
        // Where numbers are: the headers, and whatever is not zero in the first 64 KiB.
        let places: Vec<usize> = (0..sample.bytes.len().min(65_536))
            .step_by(4)
            .filter(|at| *at < 128 || sample.bytes[*at..].iter().take(8).any(|b| *b != 0))
            .collect();
        let tries = budget(sample.bytes.len()) * 2;
        let mut rng = 1u64;
        for n in 0..tries {
            rng = rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // All of the first 128 bytes in turn, then anywhere.
            let at = if n % 2 == 0 { (n / 2 % 32) * 4 } else { places[(rng >> 33) as usize % places.len()] };
            let value = values[(rng >> 20) as usize % values.len()];
            let end = (at + value.len()).min(sample.bytes.len());
            let before = sample.bytes[at..end].to_vec();
            sample.bytes[at..end].copy_from_slice(&value[..end - at]);
            attempt(sample.format, &sample.bytes, &|| format!("{} with {value:x?} at {at:#x}", sample.name));
            sample.bytes[at..end].copy_from_slice(&before);
        }
    }
}

#[test]
fn random_bits_flipped() {
    let dir = dir();
    for sample in samples(dir.path()) {
        let filled: Vec<usize> = (0..sample.bytes.len()).filter(|i| sample.bytes[*i] != 0).take(30_000).collect();
        let config =
            Config { cases: (budget(sample.bytes.len()) / 2).max(6) as u32, failure_persistence: None, ..Config::default() };
        let flips = prop::collection::vec((0..filled.len(), 0u8..8), 1..12);
        let outcome = TestRunner::new(config).run(&flips, |flips| {
            let mut bytes = sample.bytes.clone();
            for (i, bit) in &flips {
                bytes[filled[*i]] ^= 1 << bit;
            }
            attempt(sample.format, &bytes, &|| format!("{} with {flips:?}", sample.name));
            Ok(())
        });
        assert!(outcome.is_ok(), "{}: {}", sample.name, outcome.unwrap_err());
    }
}

#[test]
fn noise_behind_every_magic() {
    let magics: [&[u8]; 16] = [
        b"QFI\xfb\0\0\0\x01",
        b"QFI\xfb\0\0\0\x02",
        b"QFI\xfb\0\0\0\x03",
        b"OOOM\0\0\0\x02",
        b"KDMV\x01\0\0\0",
        b"COWD\x01\0\0\0",
        b"\xbe\xba\xfe\xca\0\0\0\0",
        b"# Disk DescriptorFile\nversion=1\n",
        b"conectix",
        b"vhdxfile",
        b"LUKS\xba\xbe\0\x01",
        b"LUKS\xba\xbe\0\x02",
        b"070701",
        b"\xfd7zXZ\0",
        b"\x5d\0\0\x80\0",
        b"\x7fELF\x02\x01",
    ];
    let bytes = (0..magics.len(), prop::collection::vec(any::<u8>(), 0..3000), any::<bool>());
    let cases = if std::env::var_os("COWSHED_LONG").is_some() { 20_000 } else { 400 };
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&bytes, |(magic, rest, sparse)| {
        let mut b = magics[magic].to_vec();
        // Numbers are small more often than not.
        b.extend(rest.iter().enumerate().map(|(i, x)| if sparse && i % 4 != 3 { 0 } else { *x }));
        let start = Instant::now();
        let _ = exercise::bytes(None, &b);
        prop_assert!(start.elapsed() < PATIENCE);
        Ok(())
    });
    assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
}

#[test]
fn what_is_no_image_is_refused_at_once() {
    let dir = dir();
    let fifo = dir.path().join("fifo");
    run("mkfifo", &[s(&fifo)]);
    for (path, words) in [(fifo.as_path(), "FIFO"), (dir.path(), "folder"), (Path::new("/dev/null"), "character device")] {
        let e = Chain::open(path, &OpenOptions::default()).map(drop).unwrap_err();
        assert!(e.kind() == ErrorKind::Usage && e.to_string().contains(words), "{e}");
        let out = cowshed(&["info", s(path)]);
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.code() == Some(1) && said.starts_with("cowshed: ") && said.contains(words), "{said}");
    }
    let gone = Chain::open(dir.path().join("gone").as_path(), &OpenOptions::default()).map(drop).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    // An image that stands on one of them.
    for backing in ["fifo", ".", "/dev/zero"] {
        let top = dir.path().join("top.qcow2");
        qemu_img(&format!("create -u -f qcow2 -F raw -b {backing} {} 1M", s(&top)));
        let chain = Chain::open(&top, &OpenOptions::default()).unwrap();
        assert!(chain.error().is_some() && chain.disk().is_err(), "{backing}");
    }
}

#[test]
fn an_unreadable_file_says_so() {
    let dir = dir();
    let path = dir.path().join("x.raw");
    std::fs::write(&path, [0; 512]).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    // Root may read anything, so the program runs as nobody, from where nobody may run it.
    let program = dir.path().join("cowshed");
    std::fs::copy(env!("CARGO_BIN_EXE_cowshed"), &program).unwrap();
    let mut command = Command::new(&program);
    command.args(["info", s(&path)]).env("HOME", dir.path()).current_dir(dir.path());
    if std::fs::File::open(&path).is_ok() {
        command.uid(65534);
    }
    let out = command.output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.code() == Some(1) && said.contains("x.raw") && said.contains("ermission denied"), "{said}");
}

#[test]
fn a_file_that_shrinks_while_read_is_an_error() {
    let dir = dir();
    let raw = dir.path().join("in.raw");
    std::fs::write(&raw, noise(1, 1 << 20)).unwrap();
    for driver in ["raw", "qcow2", "qcow", "vmdk", "vdi", "vpc", "vhdx"] {
        let path = dir.path().join(driver);
        qemu_img(&format!("convert -f raw -O {driver} {} {}", s(&raw), s(&path)));
        let options = OpenOptions { format: Some(Format::parse(driver).unwrap()), ..OpenOptions::default() };
        let disk = Chain::open(&path, &options).unwrap().disk().unwrap();
        let mut whole = vec![0; 1 << 20];
        disk.read_at(0, &mut whole).unwrap();
        let len = std::fs::metadata(&path).unwrap().len();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(len / 2).unwrap();
        // Never old bytes nor a hang; a format whose files end early may read zeros.
        match disk.read_at(0, &mut whole) {
            Ok(()) => assert!(whole.ends_with(&[0; 4096]), "{driver}"),
            Err(e) => assert!(matches!(e.kind(), ErrorKind::Truncated | ErrorKind::Corrupt | ErrorKind::Io), "{driver}: {e}"),
        }
    }
}

/// A qcow version 1 image with the backing name `name`.
fn qcow_over(path: &Path, name: &[u8]) {
    let mut b = vec![0u8; 2048];
    b[..8].copy_from_slice(b"QFI\xfb\0\0\0\x01");
    b[8..16].copy_from_slice(&1024u64.to_be_bytes());
    b[16..20].copy_from_slice(&(name.len() as u32).to_be_bytes());
    b[24..32].copy_from_slice(&(1u64 << 20).to_be_bytes());
    b[32..34].copy_from_slice(&[12, 9]);
    b[40..48].copy_from_slice(&48u64.to_be_bytes());
    b[1024..1024 + name.len()].copy_from_slice(name);
    std::fs::write(path, b).unwrap();
}

#[test]
fn names_never_steer_the_terminal() {
    let dir = dir();
    let top = dir.path().join("top.qcow");
    qcow_over(&top, b"\x1b]0;owned\x07\x1b[2J\x9b31m\xe2\x80\xae.raw\n");
    let chain = Chain::open(&top, &OpenOptions::default()).unwrap();
    let error = chain.error().unwrap().to_string();
    let facts: String = chain.nodes.iter().flat_map(|n| n.description.facts.iter()).map(|f| f.value.as_str()).collect();
    assert!(!(error + &facts).chars().any(|c| c.is_control() || c == '\u{202e}'));
    for args in [&["info", "--backing-chain", s(&top)][..], &["info", "--output", "json", s(&top)], &["map", s(&top)]] {
        let out = cowshed(args);
        for stream in [out.stdout, out.stderr] {
            let odd = stream.iter().find(|b| (**b < 32 && **b != b'\n') || **b == 127);
            assert!(odd.is_none(), "{args:?}: {}", String::from_utf8_lossy(&stream).escape_debug());
        }
    }
}

#[test]
fn chains_that_come_back_to_themselves_end() {
    let dir = dir();
    let (a, b) = (dir.path().join("a.qcow2"), dir.path().join("b.qcow2"));
    qemu_img(&format!("create -u -f qcow2 -F qcow2 -b b.qcow2 {} 1M", s(&a)));
    qemu_img(&format!("create -u -f qcow2 -F qcow2 -b a.qcow2 {} 1M", s(&b)));
    let own = dir.path().join("own.qcow");
    qcow_over(&own, b"own.qcow");
    for path in [&a, &b, &own] {
        let chain = Chain::open(path, &OpenOptions::default()).unwrap();
        assert_eq!(chain.error().map(|e| e.kind()), Some(ErrorKind::Loop), "{}", path.display());
        assert!(chain.disk().is_err());
        assert_eq!(cowshed(&["info", "--backing-chain", s(path)]).status.code(), Some(1));
    }
}

/// Hostile images in `inside`, each naming the file `secret` (outside) in its own way.
fn escapes(inside: &Path, secret: &Path) -> Vec<PathBuf> {
    std::os::unix::fs::symlink(secret, inside.join("link")).unwrap();
    std::os::unix::fs::symlink(secret.parent().unwrap(), inside.join("folder")).unwrap();
    let relative = format!("../{}/secret", secret.parent().unwrap().file_name().unwrap().to_str().unwrap());
    let json = format!("json:{{\"driver\":\"raw\",\"file.filename\":\"{}\"}}", s(secret));
    let mut out = Vec::new();
    let names = [
        s(secret),
        &relative,
        &format!("./x/../{relative}"),
        "link",
        "folder/secret",
        &format!("file:{}", s(secret)),
        &json,
        "/etc/passwd",
        "nbd:127.0.0.1:1",
        "nbd://127.0.0.1:1/x",
        "ssh://127.0.0.1/x",
        "http://127.0.0.1:1/x",
        "/proc/self/mem",
        "/dev/zero",
    ];
    for (i, name) in names.iter().enumerate() {
        let path = inside.join(format!("{i}.qcow"));
        qcow_over(&path, name.as_bytes());
        out.push(path);
        let path = inside.join(format!("{i}.vmdk"));
        let text = format!(
            "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 8 FLAT \"{name}\" 0\n"
        );
        std::fs::write(&path, text).unwrap();
        out.push(path);
        let path = inside.join(format!("{i}.cow"));
        let mut b = vec![0; 2048];
        b[..8].copy_from_slice(b"OOOM\0\0\0\x02");
        b[8..8 + name.len()].copy_from_slice(name.as_bytes());
        b[1046..1052].copy_from_slice(&[8, 0, 0, 0, 2, 0]);
        std::fs::write(&path, b).unwrap();
        out.push(path);
    }
    for (i, name) in [s(secret), &relative, "link", "/etc/passwd"].iter().enumerate() {
        let path = inside.join(format!("{i}.qcow2"));
        qemu_img(&format!("create -u -q -f qcow2 -F raw -b {name} {} 1M", s(&path)));
        out.push(path);
    }
    // An external data file elsewhere.
    let path = inside.join("data.qcow2");
    qemu_img(&format!("create -q -f qcow2 -o data_file={} {} 4k", s(secret), s(&path)));
    out.push(path);
    out
}

#[test]
fn nothing_outside_the_allowed_folders_is_opened() {
    let probe = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
    if !probe.is_ok_and(|o| o.status.success()) {
        println!("skipped: strace cannot trace here");
        return;
    }
    let (inside, outside) = (dir(), dir());
    let secret = outside.path().join("secret");
    std::fs::write(&secret, [7; 4096]).unwrap();
    let home = dir();
    let log = home.path().join("strace");
    let allowed = [inside.path(), home.path()];
    let system = ["/lib", "/usr", "/etc/ld.so", "/proc", "/sys", "/dev/null", "/dev/tty"];
    for image in escapes(inside.path(), &secret) {
        let start = Instant::now();
        let out = Command::new("strace")
            .args(["-f", "-y", "-s", "4096", "-e", "trace=open,openat,openat2,creat,connect", "-o", s(&log)])
            .args([env!("CARGO_BIN_EXE_cowshed"), "info", "--backing-chain", s(&image)])
            .env_clear()
            .env("HOME", home.path())
            .current_dir(home.path())
            .output()
            .unwrap();
        assert!(start.elapsed() < PATIENCE, "{}", image.display());
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.code().is_some(), "{}: {said}", image.display());
        for line in std::fs::read_to_string(&log).unwrap().lines() {
            let Some(call) = line.split_once(' ').map(|(_, c)| c.trim_start()).filter(|c| c.contains('(')) else { continue };
            assert!(!call.starts_with("connect("), "{}: {call}", image.display());
            let opens = ["open(", "openat(", "openat2(", "creat("].iter().any(|f| call.starts_with(f));
            let failed = call.contains(" = -1 ");
            if !opens || failed && !call.contains("secret") {
                continue;
            }
            // With -y the descriptor that was opened is followed by its real path.
            let opened = call.rsplit_once('<').map(|(_, p)| p.trim_end_matches('>')).unwrap_or_default();
            let fine = allowed.iter().any(|d| Path::new(opened).starts_with(d)) || system.iter().any(|p| opened.starts_with(p));
            assert!(fine, "{} led to: {call}", image.display());
            assert!(!opened.starts_with("/proc/self/mem") && !opened.ends_with("/mem"), "{call}");
        }
        // It is told, not hidden: a broken chain is a failure with a reason, an extent that is not opened a warning.
        let told = if out.status.success() { String::from_utf8_lossy(&out.stdout).into_owned() } else { said.into_owned() };
        let words = [
            "outside the allowed folders",
            "is not there",
            "address and not a file",
            "not a disk image",
            "cannot be read",
            "understood",
        ];
        assert!(words.iter().any(|w| told.contains(w)), "{}: {told}", image.display());
    }
}

#[test]
fn memory_is_bounded_by_the_file_not_by_what_it_claims() {
    let dir = dir();
    // Tables and counts as large as their fields allow, in files that are sparse and look long enough for them.
    let qcow = dir.path().join("a.qcow");
    qcow_over(&qcow, b"");
    let qcow2 = dir.path().join("a.qcow2");
    qemu_img(&format!("create -q -f qcow2 {} 1M", s(&qcow2)));
    let patches: [(&Path, u64, &[u8]); 5] = [
        (&qcow, 24, &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        (&qcow, 16, &[0xff; 4]),
        (&qcow2, 36, &[0xff; 4]),
        (&qcow2, 56, &[0xff; 4]),
        (&qcow2, 60, &[0xff; 4]),
    ];
    for (path, at, bytes) in patches {
        let mut b = std::fs::read(path).unwrap();
        b.truncate(1 << 20);
        b[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        let bad = dir.path().join("bad");
        std::fs::write(&bad, b).unwrap();
        std::fs::OpenOptions::new().write(true).open(&bad).unwrap().set_len(8 << 40).unwrap();
        let start = Instant::now();
        let line = "ulimit -v 1500000; exec \"$0\" info \"$1\"";
        let out = Command::new("sh")
            .args(["-c", line, env!("CARGO_BIN_EXE_cowshed"), s(&bad)])
            .env("HOME", dir.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(matches!(out.status.code(), Some(0 | 1)) && !said.contains("memory allocation"), "{at}: {said}");
        assert!(start.elapsed() < PATIENCE, "{at}: {:?}", start.elapsed());
    }
}
