//! The verbs against qemu-img: every key it prints must be in ours with the same value, over the option matrix; exit codes and
//! the shape of errors.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::common::{cowshed, cowshed_in, dir, qemu_io, run, s, text};

fn qemu(cwd: &Path, args: &[&str]) -> Output {
    Command::new("qemu-img").args(args).current_dir(cwd).output().expect("qemu-img is installed by tests/run")
}

fn qemu_ok(cwd: &Path, args: &[&str]) {
    let out = qemu(cwd, args);
    assert!(out.status.success(), "qemu-img {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

fn json(out: &Output) -> Value {
    serde_json::from_slice(&out.stdout)
        .unwrap_or_else(|e| panic!("{e}: {} {}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)))
}

/// What `theirs` has and `ours` has not, or otherwise; keys of ours alone do not count.
fn missing(theirs: &Value, ours: &Value, at: &str, out: &mut Vec<String>) {
    match (theirs, ours) {
        (Value::Object(t), Value::Object(o)) => {
            for (key, value) in t {
                match o.get(key) {
                    Some(mine) => missing(value, mine, &format!("{at}.{key}"), out),
                    None => out.push(format!("{at}.{key} is missing, theirs is {value}")),
                }
            }
        }
        (Value::Array(t), Value::Array(o)) if t.len() == o.len() => {
            for (i, (value, mine)) in t.iter().zip(o).enumerate() {
                missing(value, mine, &format!("{at}[{i}]"), out);
            }
        }
        _ if theirs == ours => {}
        _ => out.push(format!("{at}: theirs {theirs}, ours {ours}")),
    }
}

/// Runs both with the same arguments and compares exit code and JSON.
#[track_caller]
fn same_json(cwd: &Path, args: &[&str]) {
    let (theirs, ours) = (qemu(cwd, args), cowshed_in(cwd, args));
    assert_eq!(theirs.status.code(), ours.status.code(), "{args:?}: {}", String::from_utf8_lossy(&ours.stderr));
    if theirs.status.success() {
        let mut differences = Vec::new();
        missing(&json(&theirs), &json(&ours), "", &mut differences);
        assert!(differences.is_empty(), "{args:?}:\n{}", differences.join("\n"));
    }
}

/// The images of the option matrix that qemu-img can make, with what it says about them being right.
const MATRIX: &[(&str, &str)] = &[
    ("raw", ""),
    ("qcow2", ""),
    ("qcow2", "compat=0.10"),
    ("qcow2", "cluster_size=512"),
    ("qcow2", "cluster_size=2M,refcount_bits=1"),
    ("qcow2", "refcount_bits=64,lazy_refcounts=on"),
    ("qcow2", "compression_type=zstd"),
    ("qcow2", "extended_l2=on"),
    ("qcow2", "preallocation=metadata"),
    ("qcow2", "preallocation=full,cluster_size=4k"),
    ("qcow", ""),
    ("vmdk", "subformat=monolithicSparse"),
    ("vmdk", "subformat=monolithicFlat"),
    ("vmdk", "subformat=twoGbMaxExtentSparse"),
    ("vmdk", "subformat=twoGbMaxExtentFlat"),
    ("vmdk", "subformat=streamOptimized"),
    ("vdi", ""),
    ("vdi", "static=on"),
    ("vpc", ""),
    ("vpc", "force_size=on"),
];

#[test]
fn json_is_qemu_imgs_over_the_option_matrix() {
    let dir = dir();
    let cwd = dir.path();
    // Text, a hole, text again, a ragged tail: every kind of cluster comes about.
    let mut content = text(1, 300_000);
    content.resize(3 << 20, 0);
    content.extend(text(2, 100_000));
    content.resize(4 << 20, 0);
    std::fs::write(cwd.join("fs.raw"), content).unwrap();
    for (n, (format, options)) in MATRIX.iter().enumerate() {
        let name = |what: &str| format!("{what}{n}.{format}");
        let options: Vec<&str> = if options.is_empty() { vec![] } else { vec!["-o", options] };
        let (empty, full, packed, top) = (name("e"), name("c"), name("k"), name("b"));
        qemu_ok(cwd, &[&["create", "-q", "-f", format], &options[..], &[&empty, "16M"]].concat());
        qemu_ok(cwd, &[&["convert", "-O", format], &options[..], &["fs.raw", &full]].concat());
        let mut images = vec![empty, full.clone()];
        // Not every subformat compresses or takes a backing file.
        let compress = [&["convert", "-c", "-O", format], &options[..], &["fs.raw", &packed]].concat();
        if ["qcow2", "qcow", "vmdk"].contains(format) && qemu(cwd, &compress).status.success() {
            images.push(packed);
        }
        let overlay = [&["create", "-q", "-f", format], &options[..], &["-b", &full, "-F", format, &top]].concat();
        if ["qcow2", "qcow", "vmdk"].contains(format) && qemu(cwd, &overlay).status.success() {
            let mut writes = vec!["write -P 5 100k 3k", "write -P 6 1M 130k"];
            if *format == "qcow2" {
                writes.push("write -z 2M 300k");
            }
            if qemu_io_works(format, &cwd.join(&top), &writes) {
                images.push(top);
            }
        }
        for image in &images {
            same_json(cwd, &["info", "--output=json", image]);
            same_json(cwd, &["info", "--output", "json", "--backing-chain", "-f", format, image]);
            same_json(cwd, &["map", "--output=json", image]);
            if *format == "qcow2" {
                same_json(cwd, &["map", "--output=json", "-s", "5000", "-l", "3M", image]);
            }
            same_json(cwd, &["measure", "--output=json", "-O", "qcow2", image]);
            if image == &full {
                same_json(cwd, &["measure", "--output=json", "-O", "raw", image]);
            }
            let compare = ["compare", image, "fs.raw"];
            let (theirs, ours) = (qemu(cwd, &compare), cowshed_in(cwd, &compare));
            assert_eq!((theirs.status.code(), theirs.stdout), (ours.status.code(), ours.stdout), "{compare:?}");
        }
    }
}

fn qemu_io_works(format: &str, file: &Path, writes: &[&str]) -> bool {
    let mut command = Command::new("qemu-io");
    command.args(["-t", "unsafe", "-f", format]);
    for w in writes {
        command.args(["-c", w]);
    }
    command.arg(file).output().expect("qemu-io is installed by tests/run").status.success()
}

#[test]
fn map_text_is_byte_for_byte_qemu_imgs() {
    let dir = dir();
    let cwd = dir.path();
    std::fs::write(cwd.join("base.raw"), [text(1, 69_632), vec![0; 1 << 20]].concat()).unwrap();
    qemu_ok(cwd, &["create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "top.qcow2", "4M"]);
    qemu_io("qcow2", &cwd.join("top.qcow2"), &["write -P 1 512k 4k", "write -z 640k 64k", "write -P 2 3M 200k"]);
    for args in
        [&["map", "top.qcow2"][..], &["map", "--output=json", "top.qcow2"], &["map", "-l", "1M", "-s", "4096", "top.qcow2"]]
    {
        let (theirs, ours) = (qemu(cwd, args), cowshed_in(cwd, args));
        assert_eq!(String::from_utf8_lossy(&theirs.stdout), String::from_utf8_lossy(&ours.stdout), "{args:?}");
    }
}

#[test]
fn snapshots_and_bitmaps_are_told_and_measured() {
    let dir = dir();
    let cwd = dir.path();
    qemu_ok(cwd, &["create", "-q", "-f", "qcow2", "a.qcow2", "64M"]);
    qemu_io("qcow2", &cwd.join("a.qcow2"), &["write -P 1 0 1M"]);
    qemu_ok(cwd, &["snapshot", "-c", "before it grew", "a.qcow2"]);
    qemu_ok(cwd, &["bitmap", "--add", "-g", "32k", "a.qcow2", "backup-0"]);
    qemu_ok(cwd, &["bitmap", "--add", "a.qcow2", "a-second-bitmap"]);
    qemu_io("qcow2", &cwd.join("a.qcow2"), &["write -P 2 2M 5M"]);
    same_json(cwd, &["info", "--output=json", "a.qcow2"]);
    for target in [&["-O", "raw"][..], &["-O", "qcow2"], &["-O", "qcow2", "-o", "cluster_size=4k,refcount_bits=1"]] {
        same_json(cwd, &[&["measure", "--output=json"], target, &["a.qcow2"]].concat());
        same_json(cwd, &[&["measure", "--output=json", "-l", "before it grew"], target, &["a.qcow2"]].concat());
    }
    let out = cowshed_in(cwd, &["info", "a.qcow2"]);
    assert!(String::from_utf8_lossy(&out.stdout).contains("before it grew"));
}

#[test]
fn measure_of_sizes_is_qemu_imgs() {
    let dir = dir();
    for options in [
        "cluster_size=64k",
        "cluster_size=512",
        "cluster_size=2M,refcount_bits=1",
        "cluster_size=2M,refcount_bits=64",
        "cluster_size=16k,extended_l2=on",
        "preallocation=full",
        "preallocation=metadata,compat=0.10",
        "cluster_size=3k",
        "cluster_size=4k,extended_l2=on",
    ] {
        for size in ["0", "700", "1.5G", "64T", "-1", "9E"] {
            let size = format!("--size={size}");
            same_json(dir.path(), &["measure", "--output=json", "-O", "qcow2", "-o", options, &size]);
        }
    }
    for size in ["0", "1", "700", "1M", "1.5G", "8E"] {
        same_json(dir.path(), &["measure", "--output=json", "-O", "raw", "--size", size]);
    }
}

#[test]
fn compare_says_and_exits_as_qemu_img_does() {
    let dir = dir();
    let cwd = dir.path();
    let mut bytes = text(3, 3 << 20);
    std::fs::write(cwd.join("a"), &bytes).unwrap();
    qemu_ok(cwd, &["convert", "-c", "-O", "qcow2", "a", "a.qcow2"]);
    bytes[1_234_567] ^= 1;
    std::fs::write(cwd.join("b"), &bytes).unwrap();
    bytes[1_234_567] ^= 1;
    bytes.resize(4 << 20, 0);
    std::fs::write(cwd.join("longer"), &bytes).unwrap();
    bytes[(7 << 19) + 3] = 1;
    std::fs::write(cwd.join("more"), &bytes).unwrap();
    for args in [
        &["a", "a"][..],
        &["a", "a.qcow2"],
        &["a.qcow2", "b"],
        &["-s", "a", "a"],
        &["-q", "a", "b"],
        &["a", "longer"],
        &["longer", "a"],
        &["-s", "a", "longer"],
        &["more", "a"],
        &["a", "more"],
        &["b", "more"],
        &["-f", "raw", "-F", "raw", "a", "a.qcow2"],
        &["-f", "qcow2", "a", "a"],
        &["-T", "none", "a", "b"],
        &["-T", "bogus", "a", "b"],
        &["-f", "nonsense", "a", "b"],
        &["a", "gone"],
        &["-U", "a", "a"],
    ] {
        let args = [&["compare"], args].concat();
        let (theirs, ours) = (qemu(cwd, &args), cowshed_in(cwd, &args));
        assert_eq!(theirs.status.code(), ours.status.code(), "{args:?}: {}", String::from_utf8_lossy(&ours.stderr));
        assert_eq!(String::from_utf8_lossy(&theirs.stdout), String::from_utf8_lossy(&ours.stdout), "{args:?}");
    }
    // A wrong command line is 2 here, as cli.md has it.
    assert_eq!(cowshed_in(cwd, &["compare", "a"]).status.code(), Some(2));
}

#[test]
fn errors_are_one_line_with_a_hint() {
    let dir = dir();
    let cwd = dir.path();
    std::fs::write(cwd.join("a.raw"), [0; 512]).unwrap();
    for (args, word) in [
        (&["info", "gone"][..], "gone"),
        (&["info", "."], "folder"),
        (&["info", "--nonsense", "a.raw"], "--nonsense"),
        (&["info"], "IMAGE"),
        (&["map", "--output", "xml", "a.raw"], "xml"),
        (&["map", "-f", "nonsense", "a.raw"], "nonsense"),
        (&["info", "--image-opts", "driver=raw"], "--image-opts"),
        (&["measure", "--size", "1G", "a.raw"], "--size"),
        (&["info", "--object", "secret,id=s,data=abc", "a.raw"], "--object"),
    ] {
        let out = cowshed_in(cwd, args);
        let told = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(1), "{args:?}: {told}");
        assert!(out.stdout.is_empty(), "{args:?}");
        let lines: Vec<_> = told.lines().collect();
        assert!(lines[0].starts_with("cowshed: ") && lines[0].contains(word), "{args:?}: {told}");
        assert!(lines.len() == 1 || (lines.len() == 2 && lines[1].starts_with("hint: ")), "{args:?}: {told}");
    }
}

#[test]
fn flags_are_taken_as_people_spell_them() {
    let dir = dir();
    let cwd = dir.path();
    qemu_ok(cwd, &["create", "-q", "-f", "qcow2", "a.qcow2", "1M"]);
    // Before the verb, abbreviated as getopt allows, and every long name that qemu-img has.
    for args in [
        &["-q", "info", "a.qcow2"][..],
        &["--color", "never", "check", "a.qcow2"],
        &["info", "--back", "--force", "a.qcow2"],
        &["check", "--cache", "none", "a.qcow2"],
        &["amend", "--cache", "none", "--options", "lazy_refcounts=on", "a.qcow2"],
        &["create", "-q", "b.raw", ".5M"],
        &["create", "-q", "c.raw", "512b"],
        &["help"],
        &["help", "convert"],
    ] {
        let out = cowshed_in(cwd, args);
        assert_eq!(out.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    }
    assert_eq!(std::fs::metadata(cwd.join("b.raw")).unwrap().len(), 512 << 10);
    // A writer's image is not repaired; and what is the workbench's does not pass in silence before a verb.
    for args in
        [&["check", "-U", "-r", "all", "a.qcow2"][..], &["--read-only", "resize", "a.qcow2", "2M"], &[".", "info", "a.qcow2"]]
    {
        let out = cowshed_in(cwd, args);
        assert_eq!(out.status.code(), Some(1), "{args:?}: {}", String::from_utf8_lossy(&out.stdout));
    }
    assert_eq!(json(&cowshed_in(cwd, &["info", "--output=json", "a.qcow2"]))["virtual-size"], 1 << 20);
    // What every new image has is in the list of each format's options.
    for (format, names) in [("raw", &["size"][..]), ("vmdk", &["size", "backing_file", "backing_fmt", "subformat"])] {
        let told = String::from_utf8(cowshed_in(cwd, &["create", "-f", format, "-o", "help"]).stdout).unwrap();
        assert!(names.iter().all(|n| told.contains(&format!("  {n}="))), "{format}: {told}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let dir = dir();
    // A map of many lines: every other 4 KiB of a raw file.
    let file = std::fs::File::create(dir.path().join("holes.raw")).unwrap();
    for i in 0..2000u64 {
        std::os::unix::fs::FileExt::write_all_at(&file, &[1; 4096], i * 8192).unwrap();
    }
    let line = format!("{} map --output=json holes.raw | head -n 1; echo ${{PIPESTATUS[0]}}", env!("CARGO_BIN_EXE_cowshed"));
    let out = Command::new("bash").args(["-c", &line]).current_dir(dir.path()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stderr), "");
    assert!(out.stdout.ends_with(b"\n0\n"), "{}", String::from_utf8_lossy(&out.stdout));
}

#[test]
fn names_from_images_carry_no_control_bytes() {
    let dir = dir();
    let cwd = dir.path();
    let evil = "\x1b]0;owned\x07.raw";
    qemu_ok(cwd, &["create", "-q", "-u", "-f", "qcow2", "-b", evil, "-F", "raw", "a.qcow2", "1M"]);
    for args in [&["info", "a.qcow2"][..], &["map", "a.qcow2"], &["info", "--backing-chain", "a.qcow2"]] {
        let out = cowshed_in(cwd, args);
        let all = [out.stdout, out.stderr].concat();
        assert!(!all.iter().any(|b| *b == 0x1b || *b == 7), "{args:?}: {}", String::from_utf8_lossy(&all));
    }
    // For programs the name is whole, escaped as JSON escapes.
    let value = json(&cowshed_in(cwd, &["info", "--output=json", "a.qcow2"]));
    assert_eq!(value["backing-filename"], evil);
}

#[test]
fn an_image_in_use_is_named_and_not_relied_on() {
    let dir = dir();
    let cwd = dir.path();
    qemu_ok(cwd, &["create", "-q", "-f", "qcow2", "a.qcow2", "1M"]);
    let mut holder = Command::new("qemu-io")
        .args(["-f", "qcow2", s(&cwd.join("a.qcow2"))])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let held = || json(&cowshed_in(cwd, &["info", "--output=json", "a.qcow2"]))["in-use-by"].clone();
    let start = std::time::Instant::now();
    while held() == Value::Array(vec![]) {
        assert!(start.elapsed().as_secs() < 20, "qemu-io does not hold the image");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(held()[0]["pid"], holder.id());
    assert_eq!(held()[0]["name"], "qemu-io");
    for args in [&["map", "a.qcow2"][..], &["measure", "a.qcow2"]] {
        let out = cowshed_in(cwd, args);
        let told = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(1), "{args:?}");
        assert!(told.contains("qemu-io") && told.contains("-U"), "{told}");
        assert!(!told.contains("cowshed ("), "it names itself: {told}");
        let shared = cowshed_in(cwd, &[args, &["-U"]].concat());
        assert!(shared.status.success(), "{}", String::from_utf8_lossy(&shared.stderr));
        assert!(String::from_utf8_lossy(&shared.stderr).contains("stale"));
    }
    drop(holder.stdin.take());
    holder.wait().unwrap();
    assert!(cowshed_in(cwd, &["map", "a.qcow2"]).status.success());
    assert_eq!(held(), Value::Array(vec![]));
}

#[test]
fn formats_are_all_in_the_table() {
    let value = json(&cowshed_in(Path::new("."), &["formats", "--output=json"]));
    let names: Vec<_> = value.as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap()).collect();
    for name in ["raw", "qcow2", "qcow", "cow", "vmdk", "vdi", "vhd", "vhdx", "iso", "ami", "aki", "ari"] {
        assert!(names.contains(&name), "{name}");
    }
    let text = run(env!("CARGO_BIN_EXE_cowshed"), &["formats"]).stdout;
    assert!(names.iter().all(|n| String::from_utf8_lossy(&text).lines().any(|l| l.starts_with(n))));
}

#[test]
fn what_is_no_file_is_never_replaced_by_an_image() {
    let d = dir();
    let (raw, fifo) = (d.path().join("a.raw"), d.path().join("fifo"));
    std::fs::write(&raw, vec![1; 4096]).unwrap();
    crate::common::run("mkfifo", &[s(&fifo)]);
    let out = cowshed(&["convert", "-O", "raw", s(&raw), s(&fifo)]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    assert!(String::from_utf8_lossy(&out.stderr).contains("no regular file"), "{out:?}");
    assert!(std::os::unix::fs::FileTypeExt::is_fifo(&std::fs::symlink_metadata(&fifo).unwrap().file_type()));
    let out = cowshed(&["convert", "-O", "raw", s(&raw), s(&d.path().join("none/b.raw"))]);
    assert!(String::from_utf8_lossy(&out.stderr).contains("should lie in is not there"), "{out:?}");
}

#[test]
fn an_empty_file_and_a_verb_that_is_none_are_told() {
    let d = dir();
    let empty = d.path().join("empty.qcow2");
    std::fs::write(&empty, "").unwrap();
    for verb in ["info", "map"] {
        let out = cowshed(&[verb, s(&empty)]);
        assert_eq!(out.status.code(), Some(1), "{verb}");
        assert!(String::from_utf8_lossy(&out.stderr).contains("the file is empty"), "{verb}: {out:?}");
    }
    let out = cowshed(&["covnert", s(&empty)]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("no verb of that name"), "{out:?}");
}
