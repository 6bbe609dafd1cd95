//! What every subject needs: a folder of its own, the oracles, the program under test.
#![allow(dead_code, unreachable_pub)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cowshed::engine::guest::fs::{FileType, GuestFs, Node};

/// A folder that goes away with the test.
pub fn dir() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("cowshed-test").tempdir().expect("a temporary folder")
}

/// Runs `program` and fails the test, with its error output, when it does not succeed.
pub fn run<S: AsRef<std::ffi::OsStr>>(program: &str, args: &[S]) -> Output {
    let out = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{program} cannot be run ({e}): tests/run installs it"));
    let shown: Vec<_> = args.iter().map(|a| a.as_ref().to_string_lossy().into_owned()).collect();
    assert!(out.status.success(), "{program} {}: {}", shown.join(" "), String::from_utf8_lossy(&out.stderr));
    out
}

/// Runs `qemu-img` with words split at spaces; for paths with spaces use [`run`].
pub fn qemu_img(line: &str) -> String {
    String::from_utf8_lossy(&run("qemu-img", &line.split(' ').filter(|w| !w.is_empty()).collect::<Vec<_>>()).stdout).into_owned()
}

/// Runs `qemu-io -f FORMAT FILE -c COMMAND…`. Nothing is synced to the disk: that would be most of a test's time.
pub fn qemu_io(format: &str, file: &Path, commands: &[&str]) {
    let mut args = ["-t", "unsafe", "-f", format].map(String::from).to_vec();
    for c in commands {
        args.extend(["-c".to_string(), (*c).to_string()]);
    }
    args.push(file.display().to_string());
    run("qemu-io", &args);
}

/// The program under test, with a home of its own so that no configuration of the person running it counts.
pub fn cowshed(args: &[&str]) -> Output {
    cowshed_in(Path::new("."), args)
}

/// The same, run in the folder `cwd`.
pub fn cowshed_in(cwd: &Path, args: &[&str]) -> Output {
    at_home(env!("CARGO_BIN_EXE_cowshed")).args(args).current_dir(cwd).output().expect("the cowshed binary runs")
}

/// `program`, which is ours or runs it, with that home.
pub fn at_home(program: &str) -> Command {
    let home = std::env::temp_dir().join(format!("cowshed-home-{}", std::process::id()));
    let mut command = Command::new(program);
    command.env("HOME", &home);
    for (name, folder) in [("CONFIG_HOME", "config"), ("STATE_HOME", "state"), ("CACHE_HOME", "cache"), ("RUNTIME_DIR", "run")] {
        command.env(format!("XDG_{name}"), home.join(folder));
    }
    command
}

/// A path as text.
pub fn s(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

/// Pseudo-random bytes, the same for the same seed; compresses badly.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        out.extend_from_slice(&x.to_le_bytes());
    }
    out.truncate(len);
    out
}

/// Bytes that compress well but are no run: repeating text with a counter.
pub fn text(seed: u64, len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len + 64);
    let mut n = seed;
    while out.len() < len {
        out.extend_from_slice(format!("line {n:08} of a guest's log file, quite ordinary\n").as_bytes());
        n += 1;
    }
    out.truncate(len);
    out
}

/// Where the files under `tests/data` are.
pub fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// All bytes of the disk that the image at `path` and its chain show, as cowshed reads them.
pub fn content(path: &Path) -> Vec<u8> {
    use cowshed::engine::io::ReadAt;
    let options = cowshed::engine::chain::OpenOptions::default();
    let disk = cowshed::engine::chain::Chain::open(path, &options).and_then(|c| c.disk()).unwrap_or_else(|e| panic!("{e}"));
    let mut all = vec![0; disk.len() as usize];
    disk.read_at(0, &mut all).unwrap_or_else(|e| panic!("{e}"));
    all
}

/// The same as `qemu-img convert -f FORMAT -O raw` reads them.
pub fn qemu_content(format: &str, path: &Path) -> Vec<u8> {
    let raw = path.with_extension("qemu-raw");
    qemu_img(&format!("convert -f {format} -O raw {} {}", s(path), s(&raw)));
    let all = std::fs::read(&raw).expect("qemu-img has written it");
    std::fs::remove_file(raw).expect("it can be removed");
    all
}

/// Makes a new image in one file with the engine's own writer, on `parent` (its chain) if there is one.
pub fn create(
    format: cowshed::engine::format::Format,
    path: &Path,
    size: u64,
    options: &[(&str, &str)],
    parent: Option<&Path>,
) -> std::sync::Arc<dyn cowshed::engine::format::write::DiskWriter> {
    use cowshed::engine::format::write::{Below, CreateSpec, NewBacking, NewFiles};
    use cowshed::engine::io::{WriteDevice, file::FileDevice};
    struct OneFile(WriteDevice);
    impl NewFiles for OneFile {
        fn image(&self) -> WriteDevice {
            self.0.clone()
        }
        fn extra(&self, name: &str) -> cowshed::engine::error::Result<WriteDevice> {
            panic!("an image in one file asked for {name}")
        }
    }
    let backing = parent.map(|p| {
        let chain = cowshed::engine::chain::Chain::open(p, &Default::default()).unwrap_or_else(|e| panic!("{e}"));
        let disk = std::sync::Arc::new(chain.disk().unwrap_or_else(|e| panic!("{e}")));
        NewBacking {
            name: p.file_name().expect("a file").to_string_lossy().into_owned(),
            path: p.to_path_buf(),
            format: chain.nodes[0].format.expect("it was opened"),
            size: cowshed::engine::io::ReadAt::len(disk.as_ref()),
            identity: chain.nodes[0].description.identity.clone(),
            disk: Some(Below(disk)),
        }
    });
    let spec = CreateSpec {
        size,
        options: options.iter().map(|(k, v)| ((*k).to_string(), (*v).to_string())).collect(),
        backing,
        file_name: path.file_name().expect("a file").to_string_lossy().into_owned(),
    };
    let _ = std::fs::remove_file(path);
    let file = OneFile(std::sync::Arc::new(FileDevice::create_new(path).unwrap_or_else(|e| panic!("{e}"))));
    format.entry().create.expect("the format can be created")(&spec, &file).unwrap_or_else(|e| panic!("{e}"))
}

/// Opens an image in one file for writing with the engine's own writer; one with a parent finds it in its chain.
pub fn open_writer(path: &Path) -> std::sync::Arc<dyn cowshed::engine::format::write::DiskWriter> {
    use cowshed::engine::chain::{Chain, Disk};
    use cowshed::engine::format::{Source, write::WriteSource};
    use cowshed::engine::io::{file::FileDevice, gate::Gate};
    let chain = Chain::open(path, &Default::default()).unwrap_or_else(|e| panic!("{e}"));
    let dev = std::sync::Arc::new(FileDevice::open_rw(path).unwrap_or_else(|e| panic!("{e}")));
    let source = Source { dev: dev.clone(), path: path.to_path_buf(), gate: Gate::around(path) };
    let open = chain.nodes[0].format.and_then(|f| f.entry().open_write).expect("the format can be written");
    let writer = open(WriteSource::alone(dev, source)).unwrap_or_else(|e| panic!("{e}"));
    if chain.layers.len() > 1 {
        writer.set_below(std::sync::Arc::new(Disk::new(chain.layers[1..].to_vec())));
    }
    writer
}

/// Random changes to the image at `path` (resizes to `sizes` among them), made by the engine's writer and kept in a model; calls
/// `check` every few changes with what the disk must hold.
pub fn change_at_random(path: &Path, seed: u64, count: usize, sizes: &[u64], check: &dyn Fn(&[u8])) {
    let mut model = content(path);
    let random = noise(seed, count * 8);
    for (round, chunk) in random.chunks(40).enumerate() {
        let writer = open_writer(path);
        for r in chunk.chunks_exact(8) {
            let size = model.len() as u64;
            let at = size * u64::from(u16::from_le_bytes([r[0], r[1]])) / 65536;
            let len = (u64::from(u16::from_le_bytes([r[2], r[3]])) * if r[4] & 1 == 0 { 1 } else { 40 }).min(size - at);
            let range = at as usize..(at + len) as usize;
            match r[5] % 8 {
                0..=3 => {
                    let data = noise(u64::from(r[6]) + 1, len as usize);
                    writer.write(at, &data).unwrap_or_else(|e| panic!("{e}"));
                    model[range].copy_from_slice(&data);
                }
                4 | 5 => {
                    writer.write_zeroes(at, len).unwrap_or_else(|e| panic!("{e}"));
                    model[range].fill(0);
                }
                6 if !sizes.is_empty() => {
                    let size = sizes[usize::from(r[7]) % sizes.len()];
                    writer.resize(size).unwrap_or_else(|e| panic!("{e}"));
                    model.resize(size as usize, 0);
                }
                _ => writer.flush().unwrap_or_else(|e| panic!("{e}")),
            }
        }
        writer.finish().unwrap_or_else(|e| panic!("{e}"));
        drop(writer);
        assert!(content(path) == model, "round {round}");
        check(&model);
    }
}

/// Lets each write, flush and change of length that `run` makes on a device holding `before` fail in turn, with EIO and with ENOSPC,
/// once and for ever. An error must be of the kind that failed. `judge` gets a name for the case, what came of it, and the bytes.
pub fn every_failure<T>(
    before: &[u8],
    run: impl Fn(&std::sync::Arc<cowshed::engine::io::fault::Faulty>) -> cowshed::engine::error::Result<T>,
    mut judge: impl FnMut(&str, &cowshed::engine::error::Result<T>, &[u8]),
) {
    use cowshed::engine::error::ErrorKind;
    use cowshed::engine::io::fault::{Failure, Faulty};
    let device = |failure| {
        let dev = Faulty::new(before.to_vec());
        dev.fail(failure);
        dev
    };
    let count = device(None);
    run(&count).unwrap_or_else(|e| panic!("{e}"));
    assert!(count.operations() > 0, "nothing is written that could fail");
    for at in 0..count.operations() {
        for (errno, kind) in [(libc::EIO, ErrorKind::Io), (libc::ENOSPC, ErrorKind::NoSpace)] {
            for once in [true, false] {
                let dev = device(Some(Failure { at, once, errno, reads: false }));
                let done = run(&dev);
                let what = format!("{kind:?} at operation {at}, {}", if once { "once" } else { "for ever" });
                if let Err(e) = &done {
                    assert_eq!((e.kind(), e.errno()), (kind, Some(errno)), "{what}: {e}");
                }
                judge(&what, &done, &dev.to_vec());
            }
        }
    }
}

/// Who goes through all inodes of `fs` meets what a walk from its root meets, and each folder's names whichever way they are asked for.
pub fn stored_as_walked(fs: &dyn GuestFs) {
    let mut stored = BTreeMap::new();
    fs.each_stored(&mut |s| {
        let known = stored.insert(s.node, (s.kind, s.size, s.places.to_vec()));
        assert!(known.is_none(), "inode {} is met twice", s.node);
    })
    .unwrap();
    let (mut todo, mut seen) = (vec![fs.root()], BTreeSet::new());
    while let Some(node) = todo.pop().filter(|_| seen.len() < 1_000_000) {
        if !seen.insert(node) {
            continue;
        }
        let stat = fs.stat(node).unwrap();
        let (kind, size, places) = stored.get(&node).unwrap_or_else(|| panic!("inode {node} is not met"));
        assert_eq!(*kind, stat.kind, "inode {node}");
        if stat.kind == FileType::File {
            assert_eq!((*size, places), (stat.size, &fs.extents(node).unwrap_or_default()), "inode {node}");
        } else if stat.kind == FileType::Folder {
            let listed: BTreeSet<(Vec<u8>, Node)> = fs.list(node).unwrap().into_iter().map(|e| (e.name, e.node)).collect();
            let mut named = BTreeSet::new();
            fs.each_name(node, &mut |name, to| named.extend([(name.to_vec(), to)])).unwrap();
            assert_eq!(named, listed, "folder {node}");
            todo.extend(listed.iter().map(|(_, node)| *node));
        }
    }
    // The list of orphans (ext) and what describes a realtime section (XFS, two) have no names.
    let nameless = stored.keys().filter(|node| !seen.contains(node)).count();
    assert!(nameless <= 2, "{nameless} inodes without a name are met");
}
