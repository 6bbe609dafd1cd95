//! `delete`: all files of an image together, to the trash as the desktop's specification has it, or for good.

use std::path::Path;

use crate::common::{cowshed_in, dir, run, s};

fn told(cwd: &Path, args: &[&str], code: i32) -> String {
    let out = cowshed_in(cwd, args);
    let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    assert_eq!(out.status.code(), Some(code), "{args:?}: {text}");
    text
}

fn names(dir: &Path) -> Vec<String> {
    let mut all: Vec<String> =
        std::fs::read_dir(dir).map(|d| d.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()).unwrap_or_default();
    all.sort();
    all
}

#[test]
fn an_image_goes_with_all_its_files() {
    let dir = dir();
    let cwd = dir.path();
    for (format, options, files) in [
        ("vmdk", "subformat=twoGbMaxExtentFlat", &["disk", "disk-f001.vmdk"][..]),
        ("vmdk", "subformat=monolithicFlat", &["disk", "disk-flat.vmdk"]),
        ("qcow2", "data_file=disk.data", &["disk", "disk.data"]),
        ("raw", "", &["disk"]),
    ] {
        let mut args = vec!["create", "-q", "-f", format];
        if !options.is_empty() {
            args.extend(["-o", options]);
        }
        let out = std::process::Command::new("qemu-img").args(args).args(["disk", "1M"]).current_dir(cwd).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let there = names(cwd);
        assert_eq!(there.len(), files.len(), "{there:?}");
        let plan = told(cwd, &["delete", "--forever", "--dry-run", "disk"], 0);
        assert!(there.iter().all(|f| plan.contains(f.as_str())) && plan.contains("not possible"), "{plan}");
        assert_eq!(names(cwd), there);
        told(cwd, &["delete", "--forever", "disk"], 0);
        assert!(names(cwd).is_empty(), "{format} {options}: {:?}", names(cwd));
    }
    told(cwd, &["delete", "--forever", "disk"], 1);
}

#[test]
fn the_trash_has_it_with_a_note_of_where_it_was() {
    let dir = dir();
    let (cwd, trash) = (dir.path(), dir.path().join("data/Trash"));
    let delete = |name: &str| {
        let out = std::process::Command::new(env!("CARGO_BIN_EXE_cowshed"))
            .args(["delete", name])
            .current_dir(cwd)
            .env("HOME", cwd.join("home"))
            .env("XDG_DATA_HOME", cwd.join("data"))
            .env("XDG_STATE_HOME", cwd.join("state"))
            .env("XDG_RUNTIME_DIR", cwd.join("run"))
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    };
    for round in 0..3 {
        std::fs::write(cwd.join("my disk%ü.raw"), format!("content {round}")).unwrap();
        delete("my disk%ü.raw");
    }
    assert_eq!(names(&trash.join("files")), ["my disk%ü.raw", "my disk%ü.raw.1", "my disk%ü.raw.2"]);
    assert_eq!(std::fs::read(trash.join("files/my disk%ü.raw.1")).unwrap(), b"content 1");
    let note = std::fs::read_to_string(trash.join("info/my disk%ü.raw.1.trashinfo")).unwrap();
    let lines: Vec<&str> = note.lines().collect();
    let real = std::fs::canonicalize(cwd).unwrap();
    assert_eq!(lines[0], "[Trash Info]");
    assert_eq!(lines[1], format!("Path={}/my%20disk%25%C3%BC.raw", real.display()));
    let date = lines[2].strip_prefix("DeletionDate=").unwrap();
    let shape: String = date.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
    assert_eq!(shape, "9999-99-99T99:99:99");
    assert!(!date.starts_with("0000"));
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&trash).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn what_others_stand_on_stays() {
    let dir = dir();
    let cwd = dir.path();
    run("qemu-img", &["create", "-q", "-f", "qcow2", s(&cwd.join("base.qcow2")), "1M"]);
    for name in ["a.qcow2", "b.qcow2"] {
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", s(&cwd.join(name))]);
    }
    let text = told(cwd, &["delete", "--forever", "base.qcow2"], 1);
    assert!(text.contains("a.qcow2") && text.contains("b.qcow2") && text.contains("--force"), "{text}");
    // Those that go along are no reason to stay.
    let text = told(cwd, &["delete", "--forever", "base.qcow2", "a.qcow2"], 1);
    assert!(!text.contains("a.qcow2,") && text.contains("b.qcow2"), "{text}");
    assert_eq!(names(cwd).len(), 3);
    told(cwd, &["delete", "--forever", "base.qcow2", "a.qcow2", "b.qcow2"], 0);
    assert!(names(cwd).is_empty());
}

#[test]
fn an_image_that_another_merely_names_is_not_taken_along() {
    let dir = dir();
    let cwd = dir.path();
    run("qemu-img", &["create", "-q", "-f", "qcow2", s(&cwd.join("precious.qcow2")), "1M"]);
    let text = "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\
                RW 128 FLAT \"precious.qcow2\" 0\n";
    std::fs::write(cwd.join("evil.vmdk"), text).unwrap();
    let told = told(cwd, &["delete", "--forever", "--dry-run", "evil.vmdk"], 0);
    assert!(told.contains("precious.qcow2 is named by it") && told.contains("stays"), "{told}");
    assert!(cowshed_in(cwd, &["delete", "--forever", "evil.vmdk"]).status.success());
    assert_eq!(names(cwd), ["precious.qcow2"]);
}
