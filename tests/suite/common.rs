//! What every subject needs: a folder of its own, the oracles, the program under test.
#![allow(dead_code, unreachable_pub)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

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

/// Runs `qemu-io -f FORMAT FILE -c COMMAND…`.
pub fn qemu_io(format: &str, file: &Path, commands: &[&str]) {
    let mut args = vec!["-f".to_string(), format.to_string()];
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
    let home = std::env::temp_dir().join(format!("cowshed-home-{}", std::process::id()));
    Command::new(env!("CARGO_BIN_EXE_cowshed"))
        .args(args)
        .current_dir(cwd)
        .env("HOME", &home)
        .env("XDG_CONFIG_HOME", home.join("config"))
        .env("XDG_STATE_HOME", home.join("state"))
        .env("XDG_CACHE_HOME", home.join("cache"))
        .env("XDG_RUNTIME_DIR", home.join("run"))
        .output()
        .expect("the cowshed binary runs")
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
