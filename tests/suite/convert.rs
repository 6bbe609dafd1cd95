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
