//! Locks, in both directions, against live QEMU programs: they are the oracle of their own protocol.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cowshed::engine::error::ErrorKind;
use cowshed::engine::io::file::FileDevice;
use cowshed::engine::io::locks::{LockMode, LockState, lock, state, state_at};

use crate::common::*;

/// A program that holds an image until it is dropped.
struct HolderProcess(Child);

impl HolderProcess {
    fn spawn(program: &str, args: &[&str]) -> Self {
        let child = Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        HolderProcess(child.unwrap_or_else(|e| panic!("{program} cannot be run ({e}): tests/run installs it")))
    }
    /// `qemu-io` that has the image open and sleeps.
    fn qemu_io(args: &[&str]) -> Self {
        let mut me = Self::spawn("qemu-io", args);
        writeln!(me.0.stdin.as_mut().unwrap(), "sleep 60000").unwrap();
        me
    }
    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for HolderProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The state of `path` once it is what `want` accepts; the last one seen after ten seconds.
fn wait_for(path: &Path, want: impl Fn(&LockState) -> bool) -> LockState {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let now = state_at(path);
        if want(&now) || Instant::now() > end {
            return now;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn image(format: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = dir();
    let path = dir.path().join("disk");
    qemu_img(&format!("create -q -f {format} {} 4M", s(&path)));
    (dir, path)
}

/// What `qemu-img` says when it opens the image in the way `args` say.
fn qemu_may(args: &[&str]) -> bool {
    Command::new("qemu-img").args(args).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
}

#[test]
fn a_running_writer_is_seen_named_and_respected() {
    for format in ["qcow2", "raw"] {
        let (_dir, path) = image(format);
        assert_eq!(state_at(&path), LockState::Free);
        let holder = HolderProcess::qemu_io(&["-f", format, s(&path)]);
        let LockState::Writer(who) = wait_for(&path, |s| matches!(s, LockState::Writer(_))) else {
            panic!("{format}: {:?}", state_at(&path))
        };
        assert_eq!((who[0].pid, who[0].name.as_deref()), (Some(holder.pid()), Some("qemu-io")));
        let dev = FileDevice::open_rw(&path).unwrap();
        for mode in [LockMode::Read, LockMode::Write, LockMode::Resize] {
            let e = lock(&dev, mode).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Locked);
            assert!(e.why().contains(&format!("qemu-io (pid {})", holder.pid())), "{e}");
        }
        // As -U does: beside the writer.
        assert!(lock(&dev, LockMode::Shared).is_ok());
        // What we tried and gave up is gone: the holder's own protocol still lets a second -U reader in.
        assert!(qemu_may(&["info", "-U", s(&path)]));
        drop(holder);
        assert_eq!(wait_for(&path, |s| *s == LockState::Free), LockState::Free);
    }
}

#[test]
fn a_running_reader_is_told_from_a_writer() {
    let (_dir, path) = image("qcow2");
    let holder = HolderProcess::qemu_io(&["-r", "-f", "qcow2", s(&path)]);
    let seen = wait_for(&path, |s| matches!(s, LockState::Readers(_)));
    assert_eq!(seen.holders()[0].pid, Some(holder.pid()), "{seen:?}");
    let dev = FileDevice::open_rw(&path).unwrap();
    assert!(lock(&dev, LockMode::Read).is_ok());
    assert_eq!(lock(&dev, LockMode::Write).unwrap_err().kind(), ErrorKind::Locked);
}

#[test]
fn a_storage_daemon_with_a_writable_export_is_a_writer() {
    let (dir, path) = image("qcow2");
    let socket = dir.path().join("nbd.sock");
    let holder = HolderProcess::spawn(
        "qemu-storage-daemon",
        &[
            "--blockdev",
            &format!("driver=file,node-name=f,filename={}", s(&path)),
            "--blockdev",
            "driver=qcow2,node-name=q,file=f",
            "--nbd-server",
            &format!("addr.type=unix,addr.path={}", s(&socket)),
            "--export",
            "type=nbd,id=e,node-name=q,writable=on",
        ],
    );
    let seen = wait_for(&path, |s| matches!(s, LockState::Writer(_)));
    assert!(matches!(seen, LockState::Writer(_)), "{seen:?}");
    assert_eq!(seen.holders()[0].pid, Some(holder.pid()));
    assert!(seen.holders()[0].name.as_deref().is_some_and(|n| n.starts_with("qemu-storage")), "{seen:?}");
}

#[test]
fn qemu_respects_what_we_hold() {
    let (_dir, path) = image("qcow2");
    let dev = FileDevice::open_rw(&path).unwrap();
    let info = ["info", s(&path)];
    let mut guard = lock(&dev, LockMode::Resize).unwrap();
    assert!(!qemu_may(&info), "qemu-img read an image that we write");
    assert!(qemu_may(&["info", "-U", s(&path)]));
    guard.change(&dev, LockMode::Read).unwrap();
    assert!(qemu_may(&info));
    assert!(!qemu_may(&["resize", "-q", s(&path), "8M"]), "qemu-img wrote an image that we read");
    guard.change(&dev, LockMode::Shared).unwrap();
    assert!(qemu_may(&["resize", "-q", s(&path), "8M"]));
    drop(guard);
    let guard = lock(&dev, LockMode::Write).unwrap();
    assert!(!qemu_may(&info));
    drop(guard);
    assert!(qemu_may(&info), "a dropped guard still holds");
}

/// What [`a_killed_cowshed_holds_nothing`] runs in a process of its own, and kills; by itself it has nothing to hold.
#[test]
fn hold_until_killed() {
    let Some(path) = std::env::var_os("COWSHED_TEST_HOLD") else { return };
    let dev = FileDevice::open_rw(Path::new(&path)).unwrap();
    let _guard = lock(&dev, LockMode::Resize).unwrap();
    // A child that outlives us must not keep the lock: descriptors are not inherited.
    let mut child = Command::new("sleep").arg("30").spawn().unwrap();
    std::fs::write(Path::new(&path).with_extension("child"), child.id().to_string()).unwrap();
    child.wait().unwrap();
}

#[test]
fn a_killed_cowshed_holds_nothing() {
    let (_dir, path) = image("qcow2");
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["locks::hold_until_killed", "--exact"])
        .env("COWSHED_TEST_HOLD", &path)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let note = path.with_extension("child");
    let seen = wait_for(&path, |s| matches!(s, LockState::Writer(_)) && note.metadata().is_ok_and(|m| m.len() > 0));
    assert_eq!(seen.holders().first().and_then(|h| h.pid), Some(holder.id()), "{seen:?}");
    assert!(!qemu_may(&["info", s(&path)]));
    holder.kill().unwrap(); // SIGKILL
    holder.wait().unwrap();
    let child = std::fs::read_to_string(&note).unwrap();
    let alive = Path::new("/proc").join(&child).exists();
    let after = state_at(&path);
    let _ = Command::new("kill").arg(&child).status();
    assert!(alive, "the child should still run");
    assert_eq!(after, LockState::Free);
}

#[test]
fn locks_of_other_tools_are_seen_and_refused() {
    let (_dir, path) = image("raw");
    // As cloud-hypervisor and VMware do: a write lock on everything; as crosvm does: flock.
    let posix = "import fcntl,sys,time; f=open(sys.argv[1],'r+b'); fcntl.lockf(f, fcntl.LOCK_EX); time.sleep(60)";
    let ofd = "import fcntl,struct,sys,time; f=open(sys.argv[1],'r+b'); \
               fcntl.fcntl(f, 37, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 0, 0)); time.sleep(60)";
    let flock = "import fcntl,sys,time; f=open(sys.argv[1],'rb'); fcntl.flock(f, fcntl.LOCK_SH); time.sleep(60)";
    for (script, how) in [(posix, "a lock on the whole file"), (ofd, "a lock on the whole file"), (flock, "flock")] {
        let holder = HolderProcess::spawn("python3", &["-c", script, s(&path)]);
        let seen = wait_for(&path, LockState::in_use);
        let LockState::Other(found, who) = &seen else { panic!("{how}: {seen:?}") };
        assert_eq!((found.as_str(), who[0].pid), (how, Some(holder.pid())));
        let dev = FileDevice::open_rw(&path).unwrap();
        let e = lock(&dev, LockMode::Write).unwrap_err();
        assert!(e.kind() == ErrorKind::Locked && e.why().contains(how), "{e}");
        drop(holder);
        assert_eq!(state(&dev), LockState::Free);
    }
}

#[test]
fn a_look_at_an_image_in_use_says_so() {
    let (dir, path) = image("qcow2");
    let holder = HolderProcess::qemu_io(&["-f", "qcow2", s(&path)]);
    wait_for(&path, |s| matches!(s, LockState::Writer(_)));
    let out = dir.path().join("out");
    let of = |out: &Path| (format!("if={}", s(&path)), format!("of={}", s(out)));
    let (input, output) = of(&dir.path().join("dd"));
    let verbs: [&[&str]; 5] = [
        &["convert", "-f", "qcow2", s(&path), s(&out)],
        &["dd", "-f", "qcow2", &input, &output],
        &["check", s(&path)],
        &["map", s(&path)],
        &["measure", "-O", "raw", s(&path)],
    ];
    for verb in verbs {
        let refused = cowshed(verb);
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(1) && told.contains("in use"), "{verb:?}: {told}");
        let looked = cowshed(&[&verb[..1], &["-U"], &verb[1..]].concat());
        let told = String::from_utf8_lossy(&looked.stderr).into_owned();
        assert!(looked.status.success(), "{verb:?}: {told}");
        assert!(told.contains("in use, may be stale") && told.contains(&format!("pid {}", holder.pid())), "{verb:?}: {told}");
    }
    drop(holder);
    wait_for(&path, |s| *s == LockState::Free);
    assert_eq!(cowshed(&["map", "-U", s(&path)]).stderr, b"", "nobody holds it: there is nothing to say");
}

/// Each file an image consists of or stands on, held by QEMU while we are asked to read or write the image.
#[test]
fn every_file_concerned_counts_not_only_the_image() {
    let dir = dir();
    let at = |name: &str| dir.path().join(name);
    qemu_img(&format!("create -q -f vmdk -o subformat=monolithicFlat {} 4M", s(&at("flat.vmdk"))));
    qemu_img(&format!("create -q -f vmdk -o subformat=twoGbMaxExtentSparse {} 4M", s(&at("split.vmdk"))));
    qemu_img(&format!("create -q -f qcow2 -o data_file={} {} 4M", s(&at("data.raw")), s(&at("external.qcow2"))));
    qemu_img(&format!("create -q -f raw {} 4M", s(&at("base.raw"))));
    qemu_img(&format!("create -q -f qcow2 -b base.raw -F raw {}", s(&at("overlay.qcow2"))));
    for (image, part, format) in [
        ("flat.vmdk", "flat-flat.vmdk", "raw"),
        ("split.vmdk", "split-s001.vmdk", "raw"),
        ("external.qcow2", "data.raw", "raw"),
        ("overlay.qcow2", "base.raw", "raw"),
    ] {
        let (image, part) = (at(image), at(part));
        // As a machine's disk it would be held with all permissions; qemu-io shares what it writes raw, so the daemon it is.
        let holder = HolderProcess::spawn(
            "qemu-storage-daemon",
            &[
                "--blockdev",
                &format!("driver=file,node-name=f,filename={}", s(&part)),
                "--blockdev",
                &format!("driver={format},node-name=q,file=f"),
                "--nbd-server",
                &format!("addr.type=unix,addr.path={}", s(&at("nbd.sock"))),
                "--export",
                "type=nbd,id=e,node-name=q,writable=on",
            ],
        );
        let seen = wait_for(&part, |s| matches!(s, LockState::Writer(_)));
        assert!(matches!(seen, LockState::Writer(_)), "{part:?}: {seen:?}");
        let out = at("out");
        for args in [
            &["convert", s(&image), s(&out)][..],
            &["convert", "-n", "-O", "raw", s(&image), s(&image)],
            &["resize", s(&image), "8M"],
            &["resize", "--dry-run", s(&image), "8M"],
            &["map", s(&image)],
        ] {
            let told = cowshed(args);
            let why = String::from_utf8_lossy(&told.stderr).into_owned();
            assert_eq!(told.status.code(), Some(1), "{args:?}");
            assert!(why.contains(&format!("(pid {})", holder.pid())) || args[1] == "-n", "{args:?}: {why}");
        }
        assert!(!out.exists());
        drop(holder);
        wait_for(&part, |s| *s == LockState::Free);
        assert!(cowshed(&["map", s(&image)]).status.success());
        let _ = std::fs::remove_file(at("nbd.sock"));
    }
}

/// And the other way round: what we read and write is held to the end, every file of it.
#[test]
fn qemu_is_kept_off_every_file_while_we_work() {
    let dir = dir();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("in.raw"), noise(1, 4 << 20)).unwrap();
    qemu_img(&format!("convert -f raw -O vmdk -o subformat=monolithicFlat {} {}", s(&at("in.raw")), s(&at("flat.vmdk"))));
    qemu_img(&format!("create -q -f vmdk -o subformat=monolithicFlat {} 4M", s(&at("to.vmdk"))));
    qemu_img(&format!("create -q -f qcow2 -b flat.vmdk -F vmdk {}", s(&at("top.qcow2"))));
    let mut child = Command::new(env!("CARGO_BIN_EXE_cowshed"))
        .args(["convert", "-n", "-r", "1M", "-f", "qcow2", "-O", "vmdk", s(&at("top.qcow2")), s(&at("to.vmdk"))])
        .env("HOME", dir.path())
        .env("XDG_STATE_HOME", at("state"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mine = |s: &LockState| s.holders().iter().any(|h| h.pid == Some(child.id()));
    for name in ["top.qcow2", "flat.vmdk", "flat-flat.vmdk", "to.vmdk", "to-flat.vmdk"] {
        let seen = wait_for(&at(name), mine);
        assert!(mine(&seen), "{name}: {seen:?}");
        let writes = !name.starts_with("top") && name.starts_with("to");
        assert_eq!(matches!(seen, LockState::Writer(_)), writes, "{name}: {seen:?}");
        let format = match name.rsplit_once('.') {
            _ if name.contains("-flat") => "raw",
            Some((_, "qcow2")) => "qcow2",
            _ => "vmdk",
        };
        // `resize` needs what nobody gives it; reading is allowed where we only read.
        assert!(!qemu_may(&["resize", "-q", "-f", format, "--shrink", s(&at(name)), "2M"]), "{name}");
        if name.contains("-flat") {
            assert_eq!(qemu_may(&["convert", "-f", "raw", s(&at(name)), s(&at("copy"))]), !writes, "{name}");
        }
    }
    assert!(child.wait().unwrap().success());
    assert_eq!(content(&at("to.vmdk")), noise(1, 4 << 20));
}

/// Every verb that writes refuses an image that a machine has open, names who holds it, and leaves it as it is; so does every verb that
/// reads, unless it is told to look all the same.
#[test]
fn every_verb_keeps_off_an_image_in_use() {
    let dir = dir();
    let at = |name: &str| dir.path().join(name);
    let (image, base, other, out) = (at("top.qcow2"), at("base.qcow2"), at("other.qcow2"), at("out"));
    let fs = at("fs.raw");
    std::fs::File::create(&fs).unwrap().set_len(8 << 20).unwrap();
    run("mkfs.ext4", &["-q", "-d", "/etc/default", s(&fs)]);
    qemu_img(&format!("convert -f raw -O qcow2 {} {}", s(&fs), s(&base)));
    qemu_img(&format!("create -q -f qcow2 -b base.qcow2 -F qcow2 {}", s(&image)));
    qemu_img(&format!("create -q -f qcow2 {} 8M", s(&other)));
    qemu_img(&format!("snapshot -c old {}", s(&image)));
    let holder = HolderProcess::qemu_io(&["-f", "qcow2", s(&image)]);
    wait_for(&image, |s| matches!(s, LockState::Writer(_)));
    let before = std::fs::read(&image).unwrap();
    let (input, output, path) = (format!("if={}", s(&image)), format!("of={}", s(&image)), format!("{}:/", s(&image)));
    let i = s(&image);
    let writing: [&[&str]; 20] = [
        &["resize", i, "16M"],
        &["snapshot", "-c", "new", i],
        &["snapshot", "-a", "old", i],
        &["snapshot", "-d", "old", i],
        &["snapshot", "--rename", "old", "older", i],
        &["check", "-r", "all", i],
        &["commit", "--force", i],
        &["rebase", "--force", "-b", "", i],
        &["rebase", "-u", "-b", "base.qcow2", "-F", "qcow2", i],
        &["amend", "-o", "lazy_refcounts=on", i],
        &["bitmap", "--add", i, "b"],
        &["flatten", "--force", i],
        &["compact", i],
        &["relink", i, "base.qcow2"],
        &["delete", i],
        &["sanitize", i],
        &["convert", "-O", "qcow2", s(&other), i],
        &["convert", "-n", "-O", "qcow2", s(&other), i],
        &["create", "-f", "qcow2", i, "8M"],
        &["dd", "-O", "qcow2", &format!("if={}", s(&other)), &output],
    ];
    let reading: [&[&str]; 10] = [
        &["map", i],
        &["check", i],
        &["convert", i, s(&out)],
        &["dd", &input, &format!("of={}", s(&out))],
        &["compare", i, s(&other)],
        &["measure", "-O", "raw", i],
        &["snapshot", "-l", i],
        &["inspect", i],
        &["ls", &path],
        &["extract", &path, s(&out)],
    ];
    let holder_is_named = |args: &[&str]| {
        let told = cowshed(args);
        let why = format!("{}{}", String::from_utf8_lossy(&told.stderr), String::from_utf8_lossy(&told.stdout));
        assert!(why.contains(&format!("(pid {})", holder.pid())), "{args:?}: {why}");
        told.status.code()
    };
    for verb in writing {
        for args in [verb.to_vec(), [&verb[..1], &["--dry-run"], &verb[1..]].concat()] {
            assert_eq!(holder_is_named(&args), Some(1), "{args:?}");
        }
        assert!(std::fs::read(&image).unwrap() == before, "{verb:?} changed it");
    }
    for verb in reading {
        assert_ne!(holder_is_named(verb), Some(0), "{verb:?}");
        assert!(!out.exists(), "{verb:?}");
    }
    // A plan reads no more than tables, and says what it would wait for.
    assert_eq!(holder_is_named(&["convert", "--dry-run", i, s(&out)]), Some(0));
}
