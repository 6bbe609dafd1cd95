//! Conversion against qemu-img: equal content, sparse results, nothing half-written.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::*;

/// A raw disk with data, zeros inside allocated ranges, a hole, and an odd tail.
fn sample(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("sample.raw");
    let mut bytes = noise(1, 3 << 20);
    bytes.resize(5 << 20, 0);
    bytes.extend(text(2, 1 << 20));
    bytes.resize(7 << 20, 0);
    bytes.extend(noise(3, 70_000));
    bytes.resize(16 << 20, 0);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn ok(args: &[&str]) -> String {
    let out = cowshed(args);
    assert!(out.status.success(), "cowshed {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn fails(args: &[&str]) -> String {
    let out = cowshed(args);
    assert_eq!(out.status.code(), Some(1), "cowshed {} should fail", args.join(" "));
    String::from_utf8_lossy(&out.stderr).into_owned()
}

fn names(dir: &Path) -> Vec<String> {
    let mut all: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    all.sort();
    all
}

fn same(a: &Path, b: &Path) {
    assert!(std::fs::read(a).unwrap() == std::fs::read(b).unwrap(), "{} and {} differ", a.display(), b.display());
}

#[test]
fn qcow2_of_every_kind_reads_as_qemu_img_reads_it() {
    let dir = dir();
    let raw = sample(dir.path());
    for (i, options) in ["", "-c", "-c -o compression_type=zstd", "-o cluster_size=4k", "-o extended_l2=on"].iter().enumerate() {
        let image = dir.path().join(format!("{i}.qcow2"));
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        qemu_img(&format!("convert -O qcow2 {options} {} {}", s(&raw), s(&image)));
        qemu_img(&format!("convert -O raw {} {}", s(&image), s(&a)));
        ok(&["convert", "-O", "raw", s(&image), s(&b)]);
        same(&a, &b);
        use std::os::unix::fs::MetadataExt;
        let blocks = |p: &Path| std::fs::metadata(p).unwrap().blocks();
        assert!(blocks(&b) <= blocks(&a) + 128, "{options}: {} blocks, the reference has {}", blocks(&b), blocks(&a));
    }
}

#[test]
fn a_chain_is_flattened_and_a_snapshot_read() {
    let dir = dir();
    let raw = sample(dir.path());
    let (base, top) = (dir.path().join("base.qcow2"), dir.path().join("top.qcow2"));
    qemu_img(&format!("convert -O qcow2 {} {}", s(&raw), s(&base)));
    qemu_img(&format!("create -f qcow2 -b {} -F qcow2 {} 20M", s(&base), s(&top)));
    qemu_io("qcow2", &top, &["write -P 1 1M 100k"]);
    qemu_img(&format!("snapshot -c before {}", s(&top)));
    qemu_io("qcow2", &top, &["write -P 2 1M 50k", "write -z 2M 64k"]);
    for (ours, theirs) in [(vec![], ""), (vec!["-l", "before"], "-l before")] {
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        qemu_img(&format!("convert {theirs} -O raw {} {}", s(&top), s(&a)));
        ok(&[&["convert"], &ours[..], &[s(&top), s(&b)]].concat());
        same(&a, &b);
    }
}

#[test]
fn several_sources_are_joined() {
    let dir = dir();
    let (a, b, out) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("out"));
    std::fs::write(&a, noise(1, 3 * 512)).unwrap();
    std::fs::write(&b, noise(2, (2 << 20) + 512)).unwrap();
    ok(&["convert", "-f", "raw", s(&a), s(&b), s(&out)]);
    assert!(std::fs::read(&out).unwrap() == [std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap()].concat());
}

#[test]
fn sparse_size_is_heeded() {
    use std::os::unix::fs::MetadataExt;
    let dir = dir();
    let (src, out) = (dir.path().join("src"), dir.path().join("out"));
    // 4 KiB of data in each 16 KiB.
    let bytes: Vec<u8> = (0..64).flat_map(|i| [noise(i, 4096), vec![0; 12 << 10]].concat()).collect();
    std::fs::write(&src, &bytes).unwrap();
    for (size, low, high) in [("4k", 256, 300), ("16k", 1000, 1024), ("0", 1024, 1024)] {
        ok(&["convert", "-f", "raw", "-S", size, s(&src), s(&out)]);
        let kib = std::fs::metadata(&out).unwrap().blocks() / 2;
        assert!((low..=high).contains(&kib), "-S {size}: {kib} KiB");
        same(&src, &out);
    }
}

#[test]
fn refuses_what_would_destroy_the_source() {
    let dir = dir();
    let raw = sample(dir.path());
    let (base, top, link) = (dir.path().join("base.qcow2"), dir.path().join("top.qcow2"), dir.path().join("link"));
    qemu_img(&format!("convert -O qcow2 {} {}", s(&raw), s(&base)));
    qemu_img(&format!("create -f qcow2 -b {} -F qcow2 {}", s(&base), s(&top)));
    std::fs::hard_link(&base, &link).unwrap();
    let before = std::fs::read(&base).unwrap();
    for target in [&top, &base, &link] {
        let message = fails(&["convert", "-O", "raw", s(&top), s(target)]);
        assert!(message.contains("same file"), "{message}");
    }
    assert!(std::fs::read(&base).unwrap() == before);
}

#[test]
fn an_existing_target_is_replaced_only_when_complete() {
    let dir = dir();
    let raw = sample(dir.path());
    let (image, out) = (dir.path().join("a.qcow2"), dir.path().join("out"));
    qemu_img(&format!("convert -O qcow2 {} {}", s(&raw), s(&image)));
    std::fs::write(&out, b"precious").unwrap();
    // The last data cluster is beyond the end now: the content cannot be read as it was.
    let bytes = std::fs::read(&image).unwrap();
    let mut broken = bytes.clone();
    broken[40..48].copy_from_slice(&u64::to_be_bytes(0xdead_0000));
    std::fs::write(&image, broken).unwrap();
    fails(&["convert", "-f", "qcow2", "-O", "raw", s(&image), s(&out)]);
    assert_eq!(std::fs::read(&out).unwrap(), b"precious");
    assert!(!names(dir.path()).iter().any(|n| n.contains("partial")), "{:?}", names(dir.path()));
    std::fs::write(&image, bytes).unwrap();
    ok(&["convert", "-f", "qcow2", "-O", "raw", s(&image), s(&out)]);
    same(&raw, &out);
}

/// Starts a slow conversion and waits until its partial file is there.
fn slow(dir: &Path, raw: &Path, out: &Path) -> std::process::Child {
    let home = dir.join("home");
    let child = Command::new(env!("CARGO_BIN_EXE_cowshed"))
        .args(["convert", "-f", "raw", "-O", "raw", "-r", "4M", s(raw), s(out)])
        .env("HOME", &home)
        .env("XDG_STATE_HOME", home.join("state"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let partial = dir.join(format!(".{}.cowshed-partial", out.file_name().unwrap().to_str().unwrap()));
    for _ in 0..500 {
        if partial.exists() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(partial.exists(), "no partial file");
    child
}

#[test]
fn interrupted_it_leaves_nothing_and_killed_nothing_under_the_name() {
    let dir = dir();
    let raw = sample(dir.path());
    let out = dir.path().join("out");
    let mut child = slow(dir.path(), &raw, &out);
    run("kill", &["-INT", &child.id().to_string()]);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(names(dir.path()), ["home", "sample.raw"]);

    let mut child = slow(dir.path(), &raw, &out);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(names(dir.path()), [".out.cowshed-partial", "home", "sample.raw"]);
    // The next attempt is not in its way.
    ok(&["convert", "-f", "raw", s(&raw), s(&out)]);
    same(&raw, &out);
    assert_eq!(names(dir.path()), ["home", "out", "sample.raw"]);
}

#[test]
fn a_source_that_shrinks_is_told() {
    let dir = dir();
    let raw = sample(dir.path());
    let out = dir.path().join("out");
    let child = slow(dir.path(), &raw, &out);
    let file = std::fs::OpenOptions::new().write(true).open(&raw).unwrap();
    file.set_len(5 << 20).unwrap();
    let status = child.wait_with_output().unwrap().status;
    assert_eq!(status.code(), Some(1));
    assert_eq!(names(dir.path()), ["home", "sample.raw"]);
}

#[test]
fn dry_run_prints_the_plan_and_writes_nothing() {
    let dir = dir();
    let raw = sample(dir.path());
    let out = dir.path().join("out");
    let plan = ok(&["convert", "--dry-run", "-f", "raw", s(&raw), s(&out)]);
    for word in ["convert sample.raw to out (raw)", "reads", "to write", "needed", "free on"] {
        assert!(plan.contains(word), "{word} is not in\n{plan}");
    }
    assert_eq!(names(dir.path()), ["sample.raw"]);
}

#[test]
fn progress_is_told_and_ends_at_a_hundred() {
    let dir = dir();
    let raw = sample(dir.path());
    let out = dir.path().join("out");
    let lines = ok(&["convert", "--progress", "json", "-f", "raw", s(&raw), s(&out)]);
    let last: serde_json::Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!((last["percent"].as_f64(), last["state"].as_str()), (Some(100.0), Some("done")));
    assert!(ok(&["convert", "-p", "-f", "raw", s(&raw), s(&out)]).contains("(100.00/100%)"));
}

#[test]
fn verified_and_with_a_checksum() {
    let dir = dir();
    let raw = sample(dir.path());
    ok(&["convert", "--verify", "--checksum", "-f", "raw", s(&raw), s(&dir.path().join("out"))]);
    let check = Command::new("sha256sum").args(["-c", "out.sha256"]).current_dir(dir.path()).output().unwrap();
    assert!(check.status.success());
}

#[test]
fn into_an_existing_target() {
    let dir = dir();
    let raw = sample(dir.path());
    let out = dir.path().join("out");
    std::fs::write(&out, vec![0xff; 17 << 20]).unwrap();
    ok(&["convert", "-n", "-f", "raw", "-O", "raw", s(&raw), s(&out)]);
    let (a, b) = (std::fs::read(&raw).unwrap(), std::fs::read(&out).unwrap());
    assert!(b[..a.len()] == a[..] && b[a.len()..].iter().all(|&x| x == 0xff));
    std::fs::write(&out, b"short").unwrap();
    assert!(fails(&["convert", "-n", "-f", "raw", "-O", "raw", s(&raw), s(&out)]).contains("resize"));
}

#[test]
fn every_flag_of_the_reference_tool_is_taken() {
    let dir = dir();
    let raw = sample(dir.path());
    let out = dir.path().join("out");
    ok(&[
        "convert",
        "-f",
        "raw",
        "-O",
        "raw",
        "-t",
        "none",
        "-T",
        "none",
        "-m",
        "16",
        "-W",
        "-q",
        "-U",
        "-C",
        "--salvage",
        s(&raw),
        s(&out),
    ]);
    same(&raw, &out);
    fails(&["convert", "-m", "17", s(&raw), s(&out)]);
    fails(&["convert", "-t", "sometimes", s(&raw), s(&out)]);
    fails(&["convert", s(&raw)]);
    assert!(fails(&["convert", "-O", "raw", "-c", s(&raw), s(&out)]).contains("compress"));
}

/// Bytes the file takes on the disk.
fn stored(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).unwrap().blocks() * 512
}

fn identical(raw: &Path, format: &str, image: &Path) {
    qemu_img(&format!("compare -q -f raw -F {format} {} {}", s(raw), s(image)));
}

#[test]
fn an_overlay_stores_only_what_differs_from_its_backing_file() {
    let dir = dir();
    let base = sample(dir.path());
    let (raw, out) = (dir.path().join("changed.raw"), dir.path().join("top.qcow2"));
    let mut bytes = std::fs::read(&base).unwrap();
    // Changed, made zeros, no longer zeros, and beyond the end of the base.
    bytes[1 << 20..(1 << 20) + 100_000].fill(5);
    bytes[2 << 20..(2 << 20) + 200_000].fill(0);
    bytes[9 << 20..(9 << 20) + 50_000].fill(6);
    bytes.extend(noise(4, 70_000));
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    std::fs::write(&raw, &bytes).unwrap();
    for (format, extra) in
        [("qcow2", ""), ("qcow2", "-c"), ("qcow2", "-o compat=0.10"), ("qcow2", "-o extended_l2=on"), ("qcow", "")]
    {
        let args = format!("convert -f raw -O {format} {extra} --verify -B sample.raw -F raw {} {}", s(&raw), s(&out));
        ok(&args.split_whitespace().collect::<Vec<_>>());
        identical(&raw, format, &out);
        // What was copied of the 7 MiB of data is about 420 kB, in clusters of 64 KiB.
        assert!(stored(&out) < 1_400_000, "{format} {extra}: {} bytes", stored(&out));
        let info: serde_json::Value =
            serde_json::from_str(&qemu_img(&format!("info --output json -f {format} {}", s(&out)))).unwrap();
        assert_eq!(info["backing-filename"], "sample.raw");
    }
    // A source that stands on the same base: what comes from there is not even read.
    let (base, top) = (dir.path().join("base.qcow2"), dir.path().join("a.qcow2"));
    qemu_img(&format!("convert -O qcow2 -f raw {} {}", s(&dir.path().join("sample.raw")), s(&base)));
    qemu_img(&format!("create -q -f qcow2 -b base.qcow2 -F qcow2 {}", s(&top)));
    qemu_io("qcow2", &top, &["write -P 1 100k 10k", "write -z 2M 1M"]);
    ok(&["convert", "-O", "qcow2", "-B", "base.qcow2", "-F", "qcow2", s(&top), s(&out)]);
    qemu_img(&format!("compare -q {} {}", s(&top), s(&out)));
    assert!(stored(&out) < 600_000, "{} bytes", stored(&out));
}

#[test]
fn a_backing_file_is_not_replaced_nor_guessed_at() {
    let dir = dir();
    let raw = sample(dir.path());
    let (base, out) = (dir.path().join("base.qcow2"), dir.path().join("out"));
    qemu_img(&format!("convert -O qcow2 -f raw {} {}", s(&raw), s(&base)));
    let before = std::fs::read(&base).unwrap();
    let with = |extra: &[&str], target: &Path| fails(&[&["convert", "-f", "raw"], extra, &[s(&raw), s(target)]].concat());
    assert!(with(&["-O", "qcow2", "-B", "base.qcow2", "-F", "qcow2"], &base).contains("same file"));
    assert!(with(&["-O", "qcow2", "-B", "base.qcow2"], &out).contains("-F qcow2"));
    assert!(with(&["-O", "raw", "-B", "base.qcow2", "-F", "qcow2"], &out).contains("cannot stand on another"));
    assert!(with(&["-O", "qcow2", "-B", "none.qcow2", "-F", "qcow2"], &out).contains("none.qcow2"));
    let zero = ["-n", "--target-is-zero", "-O", "qcow2", "-B", "base.qcow2", "-F", "qcow2"];
    assert!(with(&zero, &out).contains("--target-is-zero"));
    assert!(std::fs::read(&base).unwrap() == before && !out.exists());
}

#[test]
fn compressed_it_is_smaller_and_reads_the_same() {
    let dir = dir();
    let raw = dir.path().join("a.raw");
    let mut bytes = text(1, 5_000_000);
    bytes.extend(noise(2, 300_000));
    std::fs::write(&raw, &bytes).unwrap();
    let packed = |what: &str| {
        let out = dir.path().join("out");
        let args = format!("convert -f raw -c --verify {what} {} {}", s(&raw), s(&out));
        ok(&args.split_whitespace().collect::<Vec<_>>());
        identical(&raw, what.split_whitespace().nth(1).unwrap(), &out);
        stored(&out)
    };
    let sizes: Vec<_> =
        ["-O qcow2", "-O qcow2 -o compression_type=zstd", "-O qcow", "-O vmdk -o subformat=streamOptimized"].map(packed).into();
    assert!(sizes.iter().all(|&n| n > 300_000 && n < 3_000_000), "{sizes:?}");
    // Into a larger one that is there: its last cluster but not the target's.
    let out = dir.path().join("there.qcow2");
    qemu_img(&format!("create -q -f qcow2 {} 10M", s(&out)));
    ok(&["convert", "-n", "-c", "-f", "raw", "-O", "qcow2", s(&raw), s(&out)]);
    identical(&raw, "qcow2", &out);
}

#[test]
fn joined_sources_of_several_formats() {
    let dir = dir();
    let raw = sample(dir.path());
    let (a, b, all, out) =
        (dir.path().join("a.qcow2"), dir.path().join("b.vmdk"), dir.path().join("all"), dir.path().join("out.vdi"));
    qemu_img(&format!("convert -f raw -O qcow2 -c {} {}", s(&raw), s(&a)));
    qemu_img(&format!("convert -f raw -O vmdk {} {}", s(&raw), s(&b)));
    qemu_img(&format!("convert -O raw {} {} {}", s(&a), s(&b), s(&all)));
    ok(&["convert", "-O", "vdi", s(&a), s(&b), s(&out)]);
    identical(&all, "vdi", &out);
    assert!(fails(&["convert", "-l", "x", s(&a), s(&b), s(&out)]).contains("snapshot"));
}

#[test]
fn an_existing_image_is_made_zero_where_the_source_is() {
    let dir = dir();
    let raw = sample(dir.path());
    let out = dir.path().join("out.qcow2");
    qemu_img(&format!("create -q -f qcow2 {} 20M", s(&out)));
    qemu_io("qcow2", &out, &["write -P 9 0 20M"]);
    ok(&["convert", "-n", "-f", "raw", "-O", "qcow2", s(&raw), s(&out)]);
    let have = qemu_content("qcow2", &out);
    let want = std::fs::read(&raw).unwrap();
    assert!(have[..want.len()] == want[..] && have[want.len()..].iter().all(|&b| b == 9) && have.len() == 20 << 20);
    // Told that it is zeros, it is believed: nothing is written there.
    qemu_img(&format!("create -q -f qcow2 {} 20M", s(&out)));
    ok(&["convert", "-n", "--target-is-zero", "-f", "raw", "-O", "qcow2", s(&raw), s(&out)]);
    identical(&raw, "qcow2", &out);
    assert!(stored(&out) < 6 << 20, "{} bytes", stored(&out));
    qemu_io("qcow2", &out, &["write -P 9 6M 512"]);
    ok(&["convert", "-n", "--target-is-zero", "-f", "raw", "-O", "qcow2", s(&raw), s(&out)]);
    assert_eq!(qemu_content("qcow2", &out)[6 << 20], 9);
}

#[test]
fn what_can_be_read_of_a_damaged_source_is_salvaged() {
    let dir = dir();
    let raw = sample(dir.path());
    let (image, out) = (dir.path().join("a.qcow2"), dir.path().join("out"));
    qemu_img(&format!("convert -f raw -O qcow2 -c {} {}", s(&raw), s(&image)));
    let want = std::fs::read(&raw).unwrap();
    let mut bytes = std::fs::read(&image).unwrap();
    // The compressed text cluster at 5 MiB, found as the format lays it out: its deflate stream is made nonsense.
    let be = |b: &[u8], at: u64| u64::from_be_bytes(b[at as usize..at as usize + 8].try_into().unwrap());
    let mask = 0x00ff_ffff_ffff_fe00;
    let l2 = be(&bytes, be(&bytes, 40)) & mask;
    let entry = be(&bytes, l2 + 8 * (5 << 4));
    assert!(entry >> 62 & 1 == 1, "not compressed");
    let at = (entry & ((1 << 54) - 1)) as usize;
    bytes[at..at + 16].fill(0xff);
    std::fs::write(&image, &bytes).unwrap();
    fails(&["convert", "-O", "raw", s(&image), s(&out)]);
    assert!(!out.exists());
    let said = cowshed(&["convert", "--salvage", "-O", "raw", s(&image), s(&out)]);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let mut left = want.clone();
    left[5 << 20..(5 << 20) + 65536].fill(0);
    assert!(std::fs::read(&out).unwrap() == left);

    // A whole table lost: all it tells of is zeros, the rest is there.
    qemu_img(&format!("convert -f raw -O qcow2 -o cluster_size=4k {} {}", s(&raw), s(&image)));
    let mut bytes = std::fs::read(&image).unwrap();
    // A table of 4 KiB covers 2 MiB; the second one lies beyond the end now.
    let second = be(&bytes, 40) as usize + 8;
    bytes[second..second + 8].copy_from_slice(&u64::to_be_bytes(1 << 63 | 1 << 40));
    std::fs::write(&image, &bytes).unwrap();
    fails(&["convert", "-O", "raw", s(&image), s(&out)]);
    ok(&["convert", "--salvage", "-O", "raw", s(&image), s(&out)]);
    let mut left = want;
    left[2 << 20..4 << 20].fill(0);
    assert!(std::fs::read(&out).unwrap() == left);
}

#[test]
fn a_target_in_use_is_not_replaced() {
    let dir = dir();
    let raw = sample(dir.path());
    let out = dir.path().join("out.qcow2");
    qemu_img(&format!("create -q -f qcow2 {} 16M", s(&out)));
    let before = std::fs::read(&out).unwrap();
    let mut holder = Command::new("qemu-io")
        .args(["-f", "qcow2", s(&out)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("qemu-io is installed by tests/run");
    // Its prompt comes when it has the image.
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut [0; 8]).unwrap();
    for extra in [&["--dry-run"][..], &[], &["-n"]] {
        let said = fails(&[&["convert", "-f", "raw", "-O", "qcow2"], extra, &[s(&raw), s(&out)]].concat());
        assert!(said.contains("in use") || said.contains("held") || said.contains("lock"), "{said}");
    }
    drop(holder.stdin.take());
    holder.wait().unwrap();
    assert!(std::fs::read(&out).unwrap() == before);
    ok(&["convert", "-f", "raw", "-O", "qcow2", s(&raw), s(&out)]);
    identical(&raw, "qcow2", &out);
}

#[test]
fn whoever_stands_on_a_target_that_is_replaced_is_named() {
    let dir = dir();
    let at = |n: &str| dir.path().join(n);
    std::fs::write(at("in.raw"), noise(1, 1 << 20)).unwrap();
    qemu_img(&format!("create -q -f qcow2 {} 1M", s(&at("base.qcow2"))));
    qemu_img(&format!("snapshot -c old {}", s(&at("base.qcow2"))));
    qemu_img(&format!("create -q -f qcow2 -b base.qcow2 -F qcow2 {}", s(&at("over.qcow2"))));
    let base = at("base.qcow2");
    let (from, to) = (format!("if={}", s(&at("in.raw"))), format!("of={}", s(&base)));
    for args in [
        &["snapshot", "-a", "old", s(&base)][..],
        &["convert", "-f", "raw", "-O", "qcow2", s(&at("in.raw")), s(&base)],
        &["convert", "-n", "-f", "raw", "-O", "qcow2", s(&at("in.raw")), s(&base)],
        &["create", "-q", "-f", "qcow2", s(&base), "1M"],
        &["dd", "-f", "raw", "-O", "qcow2", &from, &to],
    ] {
        let verb = [&args[..1], &["--dry-run"], &args[1..]].concat();
        let plan = cowshed(&verb);
        assert!(plan.status.success() && String::from_utf8_lossy(&plan.stdout).contains("over.qcow2 stands on"), "{plan:?}");
        let out = cowshed(&args.iter().filter(|a| **a != "-q").copied().collect::<Vec<_>>());
        assert!(out.status.success() && String::from_utf8_lossy(&out.stderr).contains("over.qcow2 stands on"), "{out:?}");
    }
    // Nobody stands on the overlay itself.
    let out = cowshed(&["convert", "-f", "raw", "-O", "qcow2", s(&at("in.raw")), s(&at("over.qcow2"))]);
    assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
}
