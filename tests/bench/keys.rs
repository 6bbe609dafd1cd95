//! From a key to the screen: the whole program in a pseudo-terminal, 10,000 images open, a conversion running. Prints the median and
//! the 99th percentile of the time from writing the key to the last byte of the drawing that answers it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

const IMAGES: usize = 10_000;
const KEYS: usize = 400;
const LARGE_MIB: usize = 8192;
/// Keys that a percentile is taken of, at least.
const ENOUGH: usize = 80;

/// What was drawn, and when it had come.
type Drawn = Receiver<(Instant, Vec<u8>)>;

fn qemu_img(args: &[&str]) {
    assert!(Command::new("qemu-img").args(args).status().expect("qemu-img runs").success());
}

/// 10,000 small images in 100 folders, and one large to convert.
fn library(dir: &Path) {
    let first = dir.join("first.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", "cluster_size=512", first.to_str().unwrap(), "1M"]);
    for i in 0..IMAGES - 2 {
        let folder = dir.join(format!("folder-{:02}", i % 100));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::copy(&first, folder.join(format!("image-{i:05}.qcow2"))).unwrap();
    }
    let large = dir.join("zz-large.img");
    let mut file = File::create(&large).unwrap();
    let block: Vec<u8> = (0..1u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 | 1).collect();
    // Long enough that the copy outlasts enough keys; it is checked below that it does.
    for _ in 0..LARGE_MIB {
        file.write_all(&block).unwrap();
    }
}

/// Waits for the end of a drawing (the end of a synchronized update); when it had come.
fn drawing(drawn: &Drawn, patience: Duration) -> Option<Instant> {
    let until = Instant::now() + patience;
    let mut tail = Vec::new();
    while let Ok((at, bytes)) = drawn.recv_timeout(until.saturating_duration_since(Instant::now())) {
        tail.extend(bytes);
        if tail.windows(8).any(|w| w == b"\x1b[?2026l") {
            return Some(at);
        }
    }
    None
}

fn settle(drawn: &Drawn, quiet: Duration) -> Vec<u8> {
    let mut all = Vec::new();
    while let Ok((_, bytes)) = drawn.recv_timeout(quiet) {
        all.extend(bytes);
    }
    all
}

fn main() {
    let dir = tempfile::tempdir().unwrap();
    library(dir.path());
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let slave = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    tcsetwinsize(&slave, Winsize { ws_row: 36, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    let end = || Stdio::from(OwnedFd::from(slave.try_clone().unwrap()));
    let home = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_cowshed"))
        .arg(dir.path())
        .envs([("HOME", home.path().to_str().unwrap()), ("TERM", "xterm-256color"), ("LC_ALL", "C.UTF-8")])
        .env_remove("XDG_STATE_HOME")
        .env_remove("XDG_CACHE_HOME")
        .env_remove("XDG_CONFIG_HOME")
        .stdin(end())
        .stdout(end())
        .stderr(end())
        .spawn()
        .unwrap();
    drop(slave);
    let mut keyboard = File::from(master);
    let mut screen = keyboard.try_clone().unwrap();
    let (tx, drawn) = channel();
    std::thread::spawn(move || {
        let mut buf = vec![0; 1 << 16];
        while let Ok(n @ 1..) = screen.read(&mut buf) {
            if tx.send((Instant::now(), buf[..n].to_vec())).is_err() {
                return;
            }
        }
    });
    settle(&drawn, Duration::from_secs(3));
    let mut press = |keys: &[u8]| keyboard.write_all(keys).unwrap();
    // As long as `going` says so, that many keys at most.
    let measure = |press: &mut dyn FnMut(&[u8]), keys: usize, going: &dyn Fn() -> bool| -> Vec<Duration> {
        let mut times = Vec::new();
        for i in 0..keys {
            settle(&drawn, Duration::from_millis(1));
            let start = Instant::now();
            press(if i % 40 == 39 { b"g" } else { b"j" });
            let answer = drawing(&drawn, Duration::from_secs(2));
            if !going() {
                break;
            }
            times.extend(answer.map(|at| at - start));
            // As fast as a held key repeats, and never in step with a timer.
            std::thread::sleep(Duration::from_millis(20 + (i as u64 * 7) % 23));
        }
        times.sort_unstable();
        times
    };
    let show = |what: &str, times: &[Duration]| {
        let at =
            |share: f64| times.get(((times.len() as f64 * share) as usize).min(times.len() - 1)).copied().unwrap_or_default();
        let ms = |d: Duration| d.as_secs_f64() * 1000.0;
        println!(
            "{what:<44} p50 {:6.2} ms   p99 {:6.2} ms   worst {:6.2} ms   ({} keys)",
            ms(at(0.5)),
            ms(at(0.99)),
            ms(at(1.0)),
            times.len()
        );
        at(0.99)
    };
    let idle = measure(&mut press, KEYS, &|| true);
    show(&format!("{IMAGES} images"), &idle);
    press(b"/zz-large\r");
    settle(&drawn, Duration::from_secs(1));
    press(b"c");
    settle(&drawn, Duration::from_secs(2));
    // From the format to the name; then the plan, and on.
    press(b"\t\x15");
    press(dir.path().join("copy.raw").to_str().unwrap().as_bytes());
    settle(&drawn, Duration::from_secs(2));
    press(b"\r");
    settle(&drawn, Duration::from_secs(2));
    press(b"\r");
    settle(&drawn, Duration::from_millis(300));
    // Back to the library, without its filter.
    press(b"1");
    settle(&drawn, Duration::from_millis(300));
    press(b"\x1b");
    settle(&drawn, Duration::from_millis(500));
    let copying = || {
        let names = std::fs::read_dir(dir.path()).unwrap().flatten().map(|e| e.file_name().to_string_lossy().into_owned());
        let copies: Vec<String> = names.filter(|n| n.contains("copy.raw")).collect();
        !copies.is_empty() && !copies.contains(&"copy.raw".to_string())
    };
    assert!(copying(), "the conversion began");
    let busy = measure(&mut press, KEYS / 2, &copying);
    assert!(busy.len() >= ENOUGH, "the conversion was over after {} keys", busy.len());
    let p99 = show(&format!("{IMAGES} images, a conversion running"), &busy);
    println!("target: p99 under 16 ms: {}", if p99 < Duration::from_millis(16) { "met" } else { "MISSED" });
    child.kill().unwrap();
    child.wait().unwrap();
}
