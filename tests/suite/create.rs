//! `create` and `dd`: what we make, the tool that owns the format opens; and the command line follows qemu-img.

use std::path::Path;
use std::process::Command;

use cowshed::engine::chain::{Chain, OpenOptions};
use cowshed::engine::format::FORMATS;
use cowshed::engine::io::ReadAt;
use serde_json::Value;

use crate::common::{cowshed_in, dir, noise, qemu_io, run, s, text};

fn made(cwd: &Path, args: &[&str]) -> String {
    let out = cowshed_in(cwd, args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn refused(cwd: &Path, args: &[&str]) -> String {
    let out = cowshed_in(cwd, args);
    assert_eq!(out.status.code(), Some(1), "{args:?}: {}", String::from_utf8_lossy(&out.stdout));
    String::from_utf8(out.stderr).unwrap()
}

fn qemu_info(cwd: &Path, format: &str, image: &str) -> Value {
    let image = cwd.join(image);
    serde_json::from_slice(&run("qemu-img", &["info", "--output=json", "-f", format, s(&image)]).stdout).unwrap()
}

#[test]
fn every_format_that_can_be_made_is_what_its_owner_expects() {
    let dir = dir();
    let cwd = dir.path();
    let mut tried = 0;
    for entry in FORMATS.iter().filter(|e| e.create.is_some()) {
        let image = format!("disk.{}", entry.name);
        let told = made(cwd, &["create", "-f", entry.name, &image, "8M"]);
        assert!(told.starts_with(&format!("Formatting '{image}', fmt={} size=8388608", entry.driver)), "{told}");
        let disk = Chain::open(&cwd.join(&image), &OpenOptions { format: Some(entry.format), ..OpenOptions::default() }).unwrap();
        let disk = disk.disk().unwrap();
        let mut bytes = vec![1; disk.len() as usize];
        disk.read_at(0, &mut bytes).unwrap();
        assert!(bytes.iter().all(|b| *b == 0), "{}", entry.name);
        assert_eq!(disk.len(), 8 << 20, "{}", entry.name);
        // QEMU reads no COW any more.
        if entry.name != "cow" {
            assert_eq!(qemu_info(cwd, entry.driver, &image)["virtual-size"], 8 << 20, "{}", entry.name);
        }
        assert!(std::fs::read_dir(cwd).unwrap().all(|e| !e.unwrap().file_name().to_string_lossy().contains("partial")));
        tried += 1;
    }
    assert!(tried >= 2, "{tried}");
}

#[test]
fn overlays_record_what_they_stand_on() {
    let dir = dir();
    let cwd = dir.path();
    std::fs::create_dir(cwd.join("sub")).unwrap();
    std::fs::write(cwd.join("base.raw"), text(1, 1 << 20)).unwrap();
    made(cwd, &["create", "-q", "-f", "qcow2", "-b", "../base.raw", "-F", "raw", "sub/a.qcow2"]);
    made(cwd, &["create", "-q", "-f", "qcow2", "-o", "backing_file=a.qcow2,backing_fmt=qcow2,size=2M", "sub/b.qcow2"]);
    let info = qemu_info(cwd, "qcow2", "sub/b.qcow2");
    assert_eq!((&info["backing-filename"], &info["backing-filename-format"]), (&"a.qcow2".into(), &"qcow2".into()));
    assert_eq!(info["virtual-size"], 2 << 20);
    assert_eq!(qemu_info(cwd, "qcow2", "sub/a.qcow2")["virtual-size"], 1 << 20);
    qemu_io("qcow2", &cwd.join("sub/b.qcow2"), &["write -P 9 100k 10k"]);
    run("qemu-img", &["check", "-q", s(&cwd.join("sub/b.qcow2"))]);
    run("qemu-img", &["convert", "-O", "raw", s(&cwd.join("sub/b.qcow2")), s(&cwd.join("out"))]);
    let mut want = text(1, 1 << 20);
    want[100 << 10..110 << 10].fill(9);
    want.resize(2 << 20, 0);
    assert!(std::fs::read(cwd.join("out")).unwrap() == want);
    // A format that is not given is not guessed, as it would be believed ever after.
    let told = refused(cwd, &["create", "-f", "qcow2", "-b", "base.raw", "c.qcow2"]);
    assert!(told.contains("hint: ") && told.contains("-F raw"), "{told}");
    assert!(!cwd.join("c.qcow2").exists());
    // -u takes what is not there.
    made(cwd, &["create", "-q", "-u", "-f", "qcow2", "-b", "gone", "-F", "raw", "c.qcow2", "1M"]);
    assert_eq!(qemu_info(cwd, "qcow2", "c.qcow2")["backing-filename"], "gone");
}

#[test]
fn nothing_is_made_of_a_wrong_request() {
    let dir = dir();
    let cwd = dir.path();
    std::fs::write(cwd.join("base.raw"), noise(1, 1 << 20)).unwrap();
    for (args, word) in [
        (&["create", "-f", "qcow2", "a"][..], "size"),
        (&["create", "-f", "nonsense", "a", "1M"], "nonsense"),
        (&["create", "-f", "qcow2", "-o", "nonsense=1", "a", "1M"], "nonsense"),
        (&["create", "-f", "qcow2", "-o", "cluster_size=3k", "a", "1M"], "cluster_size"),
        (&["create", "-f", "raw", "-b", "base.raw", "-F", "raw", "a"], "stand"),
        (&["create", "-f", "qcow2", "-b", "gone", "-F", "raw", "a"], "gone"),
        (&["create", "-f", "qcow2", "-F", "raw", "a", "1M"], "-F"),
        (&["create", "-f", "qcow2", "a", "9E"], "9E"),
        (&["create", "-f", "qcow2", "no/such/a", "1M"], "no/such"),
        // Itself.
        (&["create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "base.raw"], "base.raw"),
    ] {
        let told = refused(cwd, args);
        assert!(told.starts_with("cowshed: ") && told.contains(word), "{args:?}: {told}");
    }
    assert_eq!(std::fs::read(cwd.join("base.raw")).unwrap(), noise(1, 1 << 20));
    let told = made(cwd, &["create", "--dry-run", "-f", "qcow2", "a", "1G"]);
    assert!(told.contains("create qcow2 image a"), "{told}");
    let names: Vec<_> = std::fs::read_dir(cwd).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["base.raw"]);
    let help = made(cwd, &["create", "-f", "qcow2", "-o", "help"]);
    assert!(help.contains("cluster_size=") && help.contains("extended_l2="), "{help}");
}

#[test]
fn an_image_in_use_is_not_replaced_or_resized() {
    let dir = dir();
    let cwd = dir.path();
    made(cwd, &["create", "-q", "-f", "qcow2", "a.qcow2", "1M"]);
    let before = std::fs::read(cwd.join("a.qcow2")).unwrap();
    let mut holder = Command::new("qemu-io")
        .args(["-r", "-f", "qcow2", s(&cwd.join("a.qcow2"))])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let start = std::time::Instant::now();
    let in_use = || {
        let out = cowshed_in(cwd, &["info", "--output=json", "a.qcow2"]);
        serde_json::from_slice::<Value>(&out.stdout).unwrap()["in-use-by"] != Value::Array(vec![])
    };
    while !in_use() {
        assert!(start.elapsed().as_secs() < 20, "qemu-io does not hold the image");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    for args in [
        &["create", "-f", "qcow2", "a.qcow2", "2M"][..],
        &["resize", "a.qcow2", "2M"],
        &["dd", "-O", "qcow2", "if=/dev/null", "of=a.qcow2"],
    ] {
        let told = refused(cwd, args);
        assert!(told.contains("qemu-io") || args[0] == "dd", "{args:?}: {told}");
    }
    assert_eq!(std::fs::read(cwd.join("a.qcow2")).unwrap(), before);
    drop(holder.stdin.take());
    holder.wait().unwrap();
    made(cwd, &["resize", "-q", "a.qcow2", "2M"]);
}

#[test]
fn dd_copies_what_qemu_imgs_does() {
    let dir = dir();
    let cwd = dir.path();
    let bytes = [text(1, 300_000 / 512 * 512), vec![0; 700 << 10], noise(2, 100 << 10), vec![0; 512]].concat();
    std::fs::write(cwd.join("in.raw"), &bytes).unwrap();
    run("qemu-img", &["convert", "-c", "-O", "qcow2", s(&cwd.join("in.raw")), s(&cwd.join("in.qcow2"))]);
    for (operands, formats) in [
        (&["bs=512"][..], &["-O", "raw"][..]),
        (&["bs=1M", "count=1"], &["-f", "qcow2", "-O", "raw"]),
        (&["bs=64k", "skip=3"], &["-O", "raw"]),
        (&["bs=4k", "skip=3", "count=77"], &["-O", "raw"]),
        (&["bs=1M", "count=100"], &["-O", "qcow2"]),
        (&["count=5"], &["-O", "qcow2"]),
    ] {
        for out in ["theirs", "ours"] {
            let target = format!("of={out}");
            let args = [&["dd"], formats, &["if=in.qcow2", &target], operands].concat();
            if out == "ours" {
                made(cwd, &args);
            } else {
                let done = Command::new("qemu-img").args(&args).current_dir(cwd).output().unwrap();
                assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
            }
        }
        run("qemu-img", &["compare", "-q", s(&cwd.join("theirs")), s(&cwd.join("ours"))]);
        let size = |name: &str| qemu_info(cwd, formats[formats.len() - 1], name)["virtual-size"].clone();
        assert_eq!(size("theirs"), size("ours"), "{operands:?}");
    }
    for args in [&["dd", "if=in.raw"][..], &["dd", "if=in.raw", "of=in.raw"], &["dd", "if=in.raw", "of=x", "nonsense=1"]] {
        refused(cwd, args);
    }
    assert_eq!(std::fs::read(cwd.join("in.raw")).unwrap(), bytes);
}
