//! The library against folders made by `qemu-img`: what is found, how it hangs together, what is read again and what is not.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use cowshed::engine::chain::{Chain, OpenOptions, ParentFinder};
use cowshed::engine::error::ErrorKind;
use cowshed::engine::format::Format;
use cowshed::engine::io::gate::Gate;
use cowshed::engine::io::locks::LockState;
use cowshed::engine::library::*;

use crate::common::*;

fn options(root: &Path) -> ScanOptions {
    ScanOptions { roots: vec![root.to_path_buf()], ..ScanOptions::default() }
}

/// Scans into `library`, as the workbench does.
fn scan_into(library: &mut Library, options: &ScanOptions) {
    scan(options, &AtomicBool::new(false), |event| library.apply(event)).expect("the scan");
    library.relink();
}

fn scanned(options: &ScanOptions) -> Library {
    let mut library = Library::new();
    scan_into(&mut library, options);
    library
}

fn entry<'a>(library: &'a Library, name: &str) -> &'a Entry {
    library.iter().find(|e| e.name == name).unwrap_or_else(|| panic!("{name} is not in the library"))
}

fn create(dir: &Path, name: &str, format: &str, backing: Option<(&str, &str)>) -> PathBuf {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut args = vec!["create", "-q", "-f", format];
    if let Some((base, base_format)) = backing {
        args.extend(["-b", base, "-F", base_format]);
    }
    args.push(s(&path));
    if backing.is_none() {
        args.push("4M");
    }
    run("qemu-img", &args);
    path
}

/// A folder and its real path (the temporary folder may be a link).
fn folder() -> (tempfile::TempDir, PathBuf) {
    let dir = dir();
    let real = std::fs::canonicalize(dir.path()).unwrap();
    (dir, real)
}

/// The forest as indented names.
fn drawn(library: &Library, grouping: Grouping) -> Vec<String> {
    let forest = forest(library, grouping);
    let text = |n: &Node| match &n.kind {
        NodeKind::Root(_) => "root".to_string(),
        NodeKind::Folder(p) => format!("{}/", p.file_name().unwrap().to_string_lossy()),
        NodeKind::Format(f) => f.map_or("?".into(), |f| f.name().to_string()),
        NodeKind::Entry(id) => library.get(*id).unwrap().name.clone(),
    };
    forest.walk().map(|n| format!("{}{}", " ".repeat(n.depth), text(n))).collect()
}

#[test]
fn overlays_stand_below_their_bases_across_formats_and_folders() {
    let (_dir, root) = folder();
    create(&root, "pool/base.raw", "raw", None);
    create(&root, "vms/web.qcow2", "qcow2", Some(("../pool/base.raw", "raw")));
    create(&root, "vms/web-test.qcow2", "qcow2", Some(("web.qcow2", "qcow2")));
    create(&root, "vms/db.vmdk", "vmdk", None);
    std::fs::write(root.join("notes.txt"), "not an image").unwrap();
    let library = scanned(&options(&root));
    assert_eq!(library.len(), 4);
    assert_eq!(drawn(&library, Grouping::Chain), ["root", " base.raw", "  web.qcow2", "   web-test.qcow2", " db.vmdk"]);
    let folders = ["root", " pool/", "  base.raw", " vms/", "  db.vmdk", "  web-test.qcow2", "  web.qcow2"];
    assert_eq!(drawn(&library, Grouping::Folder), folders);
    assert_eq!(
        drawn(&library, Grouping::Format),
        ["raw", " base.raw", "qcow2", " web-test.qcow2", " web.qcow2", "vmdk", " db.vmdk"]
    );
    let web = entry(&library, "web.qcow2");
    assert!(matches!(web.health, Health::Ok), "{:?}", web.health);
    assert_eq!((web.format(), web.virtual_size(), web.lock.clone()), (Some(Format::Qcow2), Some(4 << 20), LockState::Free));
    use std::os::unix::fs::MetadataExt;
    assert_eq!(web.actual_size, std::fs::metadata(&web.path).unwrap().blocks() * 512);
}

#[test]
fn an_unchanged_file_is_not_read_and_a_changed_one_is() {
    let (_dir, root) = folder();
    let lib = root.join("lib");
    for i in 0..20 {
        create(&lib, &format!("disk-{i:02}.qcow2"), "qcow2", None);
    }
    create(&lib, "disk.vmdk", "vmdk", None);
    std::fs::write(lib.join("README.txt"), "no image either way").unwrap();
    // Nothing that was just written is kept: it may change again within the clock's tick.
    std::thread::sleep(std::time::Duration::from_millis(150));
    let options = ScanOptions { cache: Some(root.join("cache/library")), ..options(&lib) };
    let mut library = scanned(&options);
    assert_eq!((library.len(), library.progress.cached), (21, 0));
    let ids: Vec<EntryId> = library.iter().map(|e| e.id).collect();

    // Without permission to read, only a cache can answer; root may read anything, so the kernel's own record is asked as well.
    let opened = opened_by_rescan(&options);
    assert!(opened.iter().all(|p| !p.starts_with(s(&lib)) || Path::new(p).is_dir()), "read again: {opened:?}");

    // One changed, one new, one gone.
    std::thread::sleep(std::time::Duration::from_millis(20));
    qemu_img(&format!("resize -q {} 8M", s(&lib.join("disk-03.qcow2"))));
    create(&lib, "new.qcow2", "qcow2", None);
    std::fs::remove_file(lib.join("disk-04.qcow2")).unwrap();
    scan_into(&mut library, &options);
    assert_eq!(entry(&library, "disk-03.qcow2").virtual_size(), Some(8 << 20));
    assert!(library.iter().any(|e| e.name == "new.qcow2") && !library.iter().any(|e| e.name == "disk-04.qcow2"));
    assert_eq!((library.len(), library.progress.cached), (21, 20), "19 old disks and the text file");
    assert!(library.iter().filter(|e| e.name != "new.qcow2").all(|e| ids.contains(&e.id)), "a file keeps its id");
}

/// The files a rescan opens, as the kernel sees it: this test binary again, under strace.
fn opened_by_rescan(options: &ScanOptions) -> Vec<String> {
    let log = options.cache.as_ref().unwrap().with_file_name("strace");
    let out = Command::new("strace")
        .args(["-f", "-qq", "-s", "4096", "-e", "trace=open,openat,openat2", "-o", s(&log)])
        .arg(std::env::current_exe().unwrap())
        .args(["library::rescan_for_strace", "--exact"])
        .env("COWSHED_TEST_SCAN", &options.roots[0])
        .env("COWSHED_TEST_CACHE", options.cache.as_ref().unwrap())
        .stdout(Stdio::piped())
        .output()
        .expect("strace cannot be run: tests/run installs it");
    assert!(String::from_utf8_lossy(&out.stdout).contains("1 passed"), "{}", String::from_utf8_lossy(&out.stdout));
    let log = std::fs::read_to_string(&log).unwrap();
    let paths: Vec<String> =
        log.lines().filter(|l| !l.contains("ENOENT")).filter_map(|l| Some(l.split('"').nth(1)?.to_string())).collect();
    assert!(paths.iter().any(|p| p == s(options.cache.as_ref().unwrap())), "strace did not see the cache being read");
    paths
}

/// What [`opened_by_rescan`] runs under strace; by itself it has nothing to scan.
#[test]
fn rescan_for_strace() {
    let Some(root) = std::env::var_os("COWSHED_TEST_SCAN") else { return };
    let cache = std::env::var_os("COWSHED_TEST_CACHE").map(PathBuf::from);
    let library = scanned(&ScanOptions { cache, ..options(Path::new(&root)) });
    assert!(!library.is_empty());
}

#[test]
fn nothing_outside_the_roots_is_opened() {
    let (_dir, root) = folder();
    let lib = root.join("lib");
    let secret = create(&root, "outside/secret.qcow2", "qcow2", None);
    create(&lib, "ok.qcow2", "qcow2", None);
    for (name, backing) in [
        ("passwd.qcow2", "/etc/passwd"),
        ("up.qcow2", "../outside/secret.qcow2"),
        ("json.qcow2", "json:{\"driver\":\"file\",\"filename\":\"/etc/passwd\"}"),
        ("nbd.qcow2", "nbd://localhost:1/x"),
        ("escape.qcow2", "\u{1b}]0;owned\u{7}/etc/hostname"),
    ] {
        let path = create(&lib, name, "qcow2", None);
        run("qemu-img", &["rebase", "-u", "-f", "qcow2", "-b", backing, "-F", "qcow2", s(&path)]);
    }
    std::os::unix::fs::symlink(&secret, lib.join("link.qcow2")).unwrap();
    std::os::unix::fs::symlink(root.join("outside"), lib.join("linked-folder")).unwrap();
    std::os::unix::fs::symlink(&lib, lib.join("loop")).unwrap();
    run("mkfifo", &[s(&lib.join("pipe.qcow2"))]);
    let options = ScanOptions { cache: Some(root.join("cache/library")), ..options(&lib) };
    let library = scanned(&options);
    for name in ["passwd.qcow2", "up.qcow2", "json.qcow2", "nbd.qcow2", "link.qcow2"] {
        let Health::Broken(e) = &entry(&library, name).health else { panic!("{name}") };
        assert_eq!(e.kind(), ErrorKind::Gated, "{name}: {e}");
    }
    let Health::Broken(e) = &entry(&library, "escape.qcow2").health else { panic!() };
    assert!(!e.to_string().contains('\u{1b}'));
    let Health::Broken(e) = &entry(&library, "pipe.qcow2").health else { panic!() };
    assert_eq!(e.why(), "it is a FIFO, not a disk image");
    assert_eq!(library.len(), 8);
    std::fs::remove_file(options.cache.as_ref().unwrap()).unwrap();
    // The folder above must not be looked into either: the cache is read from beside it, so it lies outside too.
    let opened = opened_by_rescan_fresh(&options);
    for bad in ["/etc/passwd", "/etc/hostname", s(&secret)] {
        assert!(!opened.iter().any(|p| p == bad || p.contains("outside")), "opened {bad}: {opened:?}");
    }
}

/// The same as [`opened_by_rescan`], where nothing is cached yet.
fn opened_by_rescan_fresh(options: &ScanOptions) -> Vec<String> {
    std::fs::write(options.cache.as_ref().unwrap(), "no cache").unwrap();
    opened_by_rescan(options)
}

#[test]
fn a_chain_is_followed_from_an_image_given_as_root() {
    let (_dir, root) = folder();
    create(&root, "deep/bottom", "raw", None);
    create(&root, "base.qcow2", "qcow2", Some(("deep/bottom", "raw")));
    let top = create(&root, "top.qcow2", "qcow2", Some(("base.qcow2", "qcow2")));
    create(&root, "unrelated.qcow2", "qcow2", None);
    let library = scanned(&options(&top));
    assert_eq!(drawn(&library, Grouping::Chain), ["root", " bottom", "  base.qcow2", "   top.qcow2"]);
}

#[test]
fn loops_missing_and_moved_bases_are_told_with_evidence() {
    let (_dir, root) = folder();
    create(&root, "a.qcow2", "qcow2", None);
    create(&root, "b.qcow2", "qcow2", Some((s(&root.join("a.qcow2")), "qcow2")));
    run("qemu-img", &["rebase", "-u", "-f", "qcow2", "-b", "b.qcow2", "-F", "qcow2", s(&root.join("a.qcow2"))]);
    create(&root, "c.qcow2", "qcow2", None);
    run("qemu-img", &["rebase", "-u", "-f", "qcow2", "-b", "b.qcow2", "-F", "qcow2", s(&root.join("c.qcow2"))]);
    create(&root, "old/base.qcow2", "qcow2", None);
    create(&root, "vm.qcow2", "qcow2", Some((s(&root.join("old/base.qcow2")), "qcow2")));
    create(&root, "other-size.qcow2", "qcow2", None);
    qemu_img(&format!("resize -q {} 16M", s(&root.join("other-size.qcow2"))));
    std::fs::create_dir(root.join("new")).unwrap();
    std::fs::rename(root.join("old/base.qcow2"), root.join("new/base.qcow2")).unwrap();
    let library = scanned(&options(&root));
    for name in ["a.qcow2", "b.qcow2"] {
        assert!(matches!(entry(&library, name).backing.as_ref().unwrap().link, Link::Loop(..)), "{name}");
    }
    let Health::Broken(e) = &entry(&library, "c.qcow2").health else { panic!("what stands on a loop cannot be read") };
    assert_eq!(e.kind(), ErrorKind::Loop);
    let vm = entry(&library, "vm.qcow2");
    let Link::Missing(e, candidates) = &vm.backing.as_ref().unwrap().link else { panic!("{:?}", vm.backing) };
    assert_eq!((e.kind(), e.file()), (ErrorKind::MissingReference, Some(root.join("old/base.qcow2").as_path())));
    let best = library.get(candidates[0].id).unwrap();
    assert_eq!(best.path, root.join("new/base.qcow2"));
    assert!(candidates[0].evidence.iter().any(|e| e.contains("same name")) && !candidates[0].proven, "{candidates:?}");
    assert!(!candidates.iter().any(|c| ["vm.qcow2", "other-size.qcow2"].contains(&library.get(c.id).unwrap().name.as_str())));
    let found = orphans(&library);
    assert_eq!(found.iter().map(|o| (o.id, o.reason)).collect::<Vec<_>>(), [(vm.id, OrphanReason::BaseGone)]);
    // Every image is drawn exactly once, loops too.
    let mut names = drawn(&library, Grouping::Chain);
    names.retain(|n| n != "root");
    assert_eq!(names.len(), library.len());
}

#[test]
fn extents_and_data_files_are_members() {
    let (_dir, root) = folder();
    run("qemu-img", &["create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", s(&root.join("flat.vmdk")), "1M"]);
    let data = root.join("data.img");
    run(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "-o", &format!("data_file={}", s(&data)), s(&root.join("with-data.qcow2")), "1M"],
    );
    // An overlay of a member is still shown.
    create(&root, "over.qcow2", "qcow2", Some(("data.img", "raw")));
    let library = scanned(&options(&root));
    assert_eq!(drawn(&library, Grouping::Chain), ["root", " flat.vmdk", " over.qcow2", " with-data.qcow2"]);
    assert_eq!(entry(&library, "flat-flat.vmdk").part_of, Some(entry(&library, "flat.vmdk").id));
    assert_eq!(entry(&library, "data.img").part_of, Some(entry(&library, "with-data.qcow2").id));
}

#[test]
fn unreadable_and_broken_things_are_nodes_of_their_own() {
    let (_dir, root) = folder();
    create(&root, "ok.qcow2", "qcow2", None);
    let whole = std::fs::read(create(&root, "cut.qcow2", "qcow2", None)).unwrap();
    std::fs::write(root.join("cut.qcow2"), &whole[..60]).unwrap();
    std::fs::write(root.join("empty.vhdx"), b"").unwrap();
    std::os::unix::fs::symlink("nowhere", root.join("dangling.vdi")).unwrap();
    let library = scanned(&options(&root));
    assert_eq!(library.len(), 4);
    for name in ["cut.qcow2", "empty.vhdx", "dangling.vdi"] {
        assert!(matches!(entry(&library, name).health, Health::Broken(_)), "{name}: {:?}", entry(&library, name).health);
    }
    assert!(matches!(entry(&library, "ok.qcow2").health, Health::Ok));
    let gone = ScanOptions { roots: vec![root.join("gone"), root.clone()], ..ScanOptions::default() };
    let library = scanned(&gone);
    assert_eq!((library.roots[0].error.as_ref().map(|e| e.kind()), library.len()), (Some(ErrorKind::NotFound), 4));
    let none = ScanOptions { roots: vec![root.join("gone")], ..ScanOptions::default() };
    assert_eq!(scan(&none, &AtomicBool::new(false), |_| {}).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn what_is_still_being_made_is_no_image_yet() {
    let (_dir, root) = folder();
    create(&root, "disk.vdi", "vdi", None);
    std::fs::copy(root.join("disk.vdi"), root.join(".copy.vdi.cowshed-partial")).unwrap();
    let library = scanned(&options(&root));
    assert_eq!(library.iter().map(|e| e.name.as_str()).collect::<Vec<_>>(), ["disk.vdi"]);
}

#[test]
fn roots_within_roots_and_bind_mounts_show_a_file_once() {
    let (_dir, root) = folder();
    create(&root, "sub/a.qcow2", "qcow2", None);
    let library =
        scanned(&ScanOptions { roots: vec![root.join("sub"), root.clone(), root.join("sub/a.qcow2")], ..ScanOptions::default() });
    assert_eq!((library.roots.len(), library.len()), (1, 1));
}

#[test]
fn a_cancelled_scan_forgets_nothing() {
    let (_dir, root) = folder();
    for i in 0..3 {
        create(&root, &format!("{i}/disk.qcow2"), "qcow2", None);
    }
    let mut library = scanned(&options(&root));
    let cancel = AtomicBool::new(true);
    scan(&options(&root), &cancel, |event| library.apply(event)).unwrap();
    library.relink();
    assert_eq!(library.len(), 3);
    cancel.store(false, Ordering::Relaxed);
    assert_eq!(duplicates(&library).len(), 1, "three files of the same name");
    assert_eq!(duplicates(&library)[0].ids.len(), 3);
}

#[test]
fn domains_use_disks_and_what_they_stand_on() {
    let (_dir, root) = folder();
    create(&root, "base.qcow2", "qcow2", None);
    let web = create(&root, "web.qcow2", "qcow2", Some(("base.qcow2", "qcow2")));
    create(&root, "left.qcow2", "qcow2", Some(("base.qcow2", "qcow2")));
    let defs = root.join("defs");
    std::fs::create_dir(&defs).unwrap();
    let disk = format!("<disk type='file'><source file='{}'/><target dev='vda'/></disk>", s(&web));
    std::fs::write(defs.join("web.xml"), format!("<domain><name>web</name><devices>{disk}</devices></domain>")).unwrap();
    let library = scanned(&ScanOptions { domain_folders: vec![defs], ..options(&root) });
    let by = |name: &str| entry(&library, name).users.iter().map(|u| (u.domain.clone(), u.target.clone())).collect::<Vec<_>>();
    assert_eq!(by("web.qcow2"), [("web".to_string(), Some("vda".to_string()))]);
    assert_eq!(by("base.qcow2"), [("web".to_string(), None)]);
    let orphans = orphans(&library);
    assert_eq!(
        orphans.iter().map(|o| (o.id, o.reason)).collect::<Vec<_>>(),
        [(entry(&library, "left.qcow2").id, OrphanReason::Unused)]
    );
    assert!(orphans[0].evidence[0].contains("none of the 1 known domains"), "{orphans:?}");
}

#[test]
fn a_disk_in_use_is_shown_as_such() {
    let (_dir, root) = folder();
    let path = create(&root, "busy.qcow2", "qcow2", None);
    create(&root, "idle.qcow2", "qcow2", None);
    let mut holder =
        Command::new("qemu-io").args(["-f", "qcow2", s(&path)]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut library = Library::new();
    for _ in 0..200 {
        scan_into(&mut library, &options(&root));
        if entry(&library, "busy.qcow2").lock.in_use() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let seen = entry(&library, "busy.qcow2").lock.clone();
    holder.kill().unwrap();
    let pid = holder.id();
    holder.wait().unwrap();
    assert!(matches!(&seen, LockState::Writer(h) if h[0].pid == Some(pid)), "{seen:?}");
    assert_eq!(entry(&library, "idle.qcow2").lock, LockState::Free);
}

#[test]
fn guest_data_is_counted_as_qemu_counts_it() {
    let (_dir, root) = folder();
    let path = create(&root, "disk.qcow2", "qcow2", None);
    qemu_io("qcow2", &path, &["write -P 7 0 64k", "write -P 8 1M 200k", "write -z 2M 64k"]);
    let map: serde_json::Value = serde_json::from_str(&qemu_img(&format!("map --output=json {}", s(&path)))).unwrap();
    let stored = |m: &&serde_json::Value| m["data"] == true && m["depth"] == 0;
    let want: u64 = map.as_array().unwrap().iter().filter(stored).map(|m| m["length"].as_u64().unwrap()).sum();
    let mut library = scanned(&options(&root));
    let id = entry(&library, "disk.qcow2").id;
    assert_eq!(library.get(id).unwrap().share(), None);
    let bytes = allocated(&path, &Gate::around(&path), &AtomicBool::new(false)).unwrap();
    assert_eq!(bytes, want);
    library.set_allocated(id, bytes);
    assert_eq!(library.get(id).unwrap().share(), Some(want as f64 / (4u64 << 20) as f64));
    scan_into(&mut library, &options(&root));
    assert_eq!(library.get(id).unwrap().allocated, Some(want), "an unchanged file keeps what was counted");
}

/// A VDI child names its parent by UUID alone; built by hand from two of `qemu-img`'s, as it makes no differencing ones.
#[test]
fn a_vdi_parent_is_found_by_its_uuid_wherever_it_is() {
    let (_dir, root) = folder();
    let parent = create(&root, "one/parent.vdi", "vdi", None);
    let child = create(&root, "two/child.vdi", "vdi", None);
    let bytes = std::fs::read(&parent).unwrap();
    let mut c = std::fs::read(&child).unwrap();
    // Header fields (VDI 1.1): image type at 0x4c, image UUID 0x188, modification 0x198, link 0x1a8, parent modification 0x1b8.
    c[0x4c..0x50].copy_from_slice(&4u32.to_le_bytes());
    c[0x1a8..0x1b8].copy_from_slice(&bytes[0x188..0x198]);
    c[0x1b8..0x1c8].copy_from_slice(&bytes[0x198..0x1a8]);
    std::fs::write(&child, c).unwrap();
    let library = scanned(&options(&root));
    assert_eq!(drawn(&library, Grouping::Chain), ["root", " parent.vdi", "  child.vdi"]);
    let finder = Finder::new(&library);
    let reference = entry(&library, "child.vdi").facts.backing.clone().unwrap();
    assert_eq!(finder.find(&child, &reference), std::slice::from_ref(&parent));
    let gate = Gate::closed().allow(&root);
    let open = OpenOptions { gate: Some(gate), finder: Some(std::sync::Arc::new(finder)), ..OpenOptions::default() };
    let chain = Chain::open(&child, &open).unwrap();
    assert!(chain.error().is_none() && chain.nodes[1].path == parent, "{:?}", chain.nodes);
}

/// What the guest of an image sees, as `tests/data/demo/pack.py` sums it up: the size, and every MiB that is not all zeros.
fn digest(disk: &cowshed::engine::chain::Disk) -> String {
    use cowshed::engine::io::ReadAt;
    use cowshed::engine::model::Kind;
    use sha2::Digest;
    const MIB: u64 = 1 << 20;
    let mut sha = sha2::Sha256::new();
    sha.update(disk.len().to_le_bytes());
    let (mut at, mut next) = (0, 0);
    while at < disk.len() {
        let e = disk.extent(at, disk.len() - at).expect("the map");
        at = e.offset + e.len;
        if matches!(e.kind, Kind::Zero | Kind::Unallocated) {
            continue;
        }
        for n in (e.offset / MIB).max(next)..at.div_ceil(MIB) {
            let mut block = vec![0; (disk.len() - n * MIB).min(MIB) as usize];
            disk.read_at(n * MIB, &mut block).expect("the content");
            if block.iter().any(|b| *b != 0) {
                sha.update(n.to_le_bytes());
                sha.update(&block);
            }
            next = n + 1;
        }
    }
    sha.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn the_demo_library_holds_every_format_and_each_reads_as_its_recipe_says() {
    use cowshed::engine::format::FORMATS;
    let (_dir, root) = folder();
    let demo = root.join("demo");
    let out = cowshed(&["demo", "--no-tui", s(&demo)]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(String::from_utf8_lossy(&out.stdout), format!("demo library: {}\n", s(&demo)));
    let library = scanned(&options(&demo));
    for f in FORMATS {
        assert!(library.iter().any(|e| e.part_of.is_none() && e.format() == Some(f.format)), "no image of format {}", f.name);
    }
    let finder = std::sync::Arc::new(Finder::new(&library));
    let open = OpenOptions { gate: Some(Gate::closed().allow(&demo)), finder: Some(finder), ..OpenOptions::default() };
    let sums = std::fs::read_to_string(data("demo/sums")).unwrap();
    assert!(sums.lines().count() > 40);
    for line in sums.lines() {
        let (sum, name) = line.split_once("  ").unwrap();
        let chain = Chain::open(&demo.join(name), &open).unwrap_or_else(|e| panic!("{name}: {e}"));
        let disk = chain.disk().unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(digest(&disk), sum, "{name}");
        assert!(!matches!(library.at(&demo.join(name)).unwrap().health, Health::Broken(_)), "{name}");
    }
    // What went wrong, and how it is told.
    let kind = |name: &str| match &entry(&library, name).health {
        Health::Broken(e) => e.kind(),
        other => panic!("{name}: {other:?}"),
    };
    for (name, want) in [
        ("app-data.qcow2", ErrorKind::MissingReference),
        ("loop-a.qcow2", ErrorKind::Loop),
        ("loop-b.qcow2", ErrorKind::Loop),
        ("half-copied.vmdk", ErrorKind::Truncated),
        ("empty.vhdx", ErrorKind::Truncated),
        ("evil-passwd.qcow2", ErrorKind::Gated),
        ("evil-json.qcow2", ErrorKind::Gated),
        ("evil-nbd.qcow2", ErrorKind::Gated),
        ("evil-up.qcow2", ErrorKind::Gated),
        ("evil-extent.vmdk", ErrorKind::Gated),
    ] {
        assert_eq!(kind(name), want, "{name}: {:?}", entry(&library, name).health);
    }
    let guest = &entry(&library, "guest-wrote-a-header.img").health;
    assert!(matches!(guest, Health::Warning(w) if w.iter().any(|w| w.contains("perhaps a raw disk"))), "{guest:?}");
    for name in ["fedora-14.qed", "power-cut.qcow2", "broken-2019.qcow2"] {
        assert!(matches!(entry(&library, name).health, Health::Warning(_)), "{name}");
    }
    let Link::Missing(_, candidates) = &entry(&library, "app-data.qcow2").backing.as_ref().unwrap().link else { panic!() };
    assert!(library.get(candidates[0].id).unwrap().path.ends_with("images/old-bases/app-base.qcow2"));
    // Sparse: the disks of gibibytes take little room.
    let taken: u64 = library.iter().map(|e| e.actual_size).sum();
    assert!(taken < 200 << 20, "{taken} bytes on disk");
    // Twice is once, and other people's folders are left alone.
    let again = cowshed(&["demo", "--no-tui", s(&demo)]);
    assert_eq!(String::from_utf8_lossy(&again.stdout), format!("demo library, kept as it was: {}\n", s(&demo)));
    std::fs::write(root.join("mine.txt"), "mine").unwrap();
    let refused = cowshed(&["demo", "--no-tui", s(&root)]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("hint: name a folder that does not exist yet"));
}

#[test]
fn scan_prints_the_tree_and_never_an_images_control_bytes() {
    let (_dir, root) = folder();
    create(&root, "base.qcow2", "qcow2", None);
    create(&root, "web\u{1b}[31m.qcow2", "qcow2", Some(("base.qcow2", "qcow2")));
    let evil = create(&root, "evil.qcow2", "qcow2", None);
    run("qemu-img", &["rebase", "-u", "-f", "qcow2", "-b", "\u{1b}]0;owned\u{7}", "-F", "qcow2", s(&evil)]);
    let out = cowshed(&["scan", s(&root)]);
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success() && !text.contains(['\u{1b}', '\u{7}']), "{text:?}");
    let tree: Vec<&str> = text.lines().map(|l| l.split("  qcow2").next().unwrap().trim_end()).collect();
    assert_eq!(tree[1..5], [s(&root), "├── base.qcow2", "│   └── web\\x1b[31m.qcow2", "└── evil.qcow2"], "{text}");
    assert!(text.contains("broken: ") && text.contains("3 images, 1 broken"), "{text}");
    let out = cowshed(&["scan", "--output", "json", s(&root), s(&root.join("gone"))]);
    assert!(out.status.success() && !out.stdout.contains(&0x1b));
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let images = json["images"].as_array().unwrap();
    assert_eq!(images.iter().map(|i| i["depth"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 0]);
    assert_eq!((&images[1]["backing-state"], &images[2]["backing-state"]), (&"ok".into(), &"missing".into()));
    assert_eq!(images[1]["full-backing-filename"], s(&root.join("base.qcow2")));
    assert_eq!((&json["totals"]["images"], &json["orphans"][0]["reason"]), (&3.into(), &"base-gone".into()));
    assert!(json["roots"][1]["error"]["why"].as_str().unwrap().contains("No such file"));
    let none = cowshed(&["scan", s(&root.join("gone"))]);
    assert_eq!(none.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&none.stderr).starts_with("cowshed: scan, "));
}
