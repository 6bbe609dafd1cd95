//! What every bench needs: commands run in turns, medians of wall time, processor time and peak memory, and their ratios.
//!
//! A bench is a program of its own (`harness = false`): `cargo bench --bench map`. It includes this file with `mod common;`.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::zombie_processes,
    clippy::cast_lossless
)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What one run took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// From start to end.
    pub wall: Duration,
    /// Processor time, user and system, of the process and the children it waited for.
    pub cpu: Duration,
    /// Largest resident set in bytes.
    pub peak: u64,
}

/// One side of a comparison.
pub struct Side<'a> {
    /// As the table calls it.
    pub name: &'a str,
    /// Makes the command for a round.
    pub command: Box<dyn Fn() -> Command + 'a>,
    /// Done before each round, unmeasured: removing the last output, emptying caches.
    pub before: Box<dyn Fn() + 'a>,
    /// Done after the command and measured as wall time with it, such as a sync.
    pub after: Box<dyn Fn() + 'a>,
}

impl<'a> Side<'a> {
    /// A side that is one command, standard output thrown away.
    pub fn new(name: &'a str, program: &'a str, args: Vec<String>) -> Self {
        let command = move || {
            let mut c = Command::new(program);
            c.args(&args);
            c
        };
        Side { name, command: Box::new(command), before: Box::new(|| ()), after: Box::new(|| ()) }
    }
    /// With something to do before each round.
    pub fn before(mut self, f: impl Fn() + 'a) -> Self {
        self.before = Box::new(f);
        self
    }
    /// With something to do after each round that counts.
    pub fn after(mut self, f: impl Fn() + 'a) -> Self {
        self.after = Box::new(f);
        self
    }
}

/// The cowshed built for this bench.
pub fn cowshed() -> &'static str {
    env!("CARGO_BIN_EXE_cowshed")
}

/// How many rounds: `BENCH_ROUNDS`, else `default`.
pub fn rounds(default: usize) -> usize {
    std::env::var("BENCH_ROUNDS").ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// Runs the sides in turns, `rounds` times each after one unmeasured round, prints a table with the ratios of every side to the
/// first, and gives back the medians.
pub fn duel(title: &str, rounds: usize, sides: &[Side<'_>]) -> Vec<Cost> {
    let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); sides.len()];
    for round in 0..=rounds {
        let mut order: Vec<_> = sides.iter().zip(&mut costs).collect();
        // Back and forth: a side that always came after the same other one would inherit what that one did to the disk's quota.
        if round % 2 == 1 {
            order.reverse();
        }
        for (side, costs) in order {
            (side.before)();
            let cost = run(&mut (side.command)(), &side.after);
            if round > 0 {
                costs.push(cost);
            }
        }
    }
    let medians: Vec<Cost> = costs.iter().map(|c| median(c)).collect();
    let first = medians.first().copied().unwrap_or_default();
    println!("\n{title} (medians of {rounds})");
    println!("{:<24}{:>12}{:>8}{:>12}{:>8}{:>12}{:>8}", "", "wall", "ratio", "cpu", "ratio", "peak", "ratio");
    for (side, m) in sides.iter().zip(&medians) {
        let ratio = |x: f64, y: f64| format!("{:.2}", x / y.max(1e-9));
        println!(
            "{:<24}{:>12}{:>8}{:>12}{:>8}{:>12}{:>8}",
            side.name,
            format!("{:.4} s", m.wall.as_secs_f64()),
            ratio(m.wall.as_secs_f64(), first.wall.as_secs_f64()),
            format!("{:.4} s", m.cpu.as_secs_f64()),
            ratio(m.cpu.as_secs_f64(), first.cpu.as_secs_f64()),
            format!("{:.1} MiB", m.peak as f64 / (1 << 20) as f64),
            ratio(m.peak as f64, first.peak as f64),
        );
    }
    medians
}

/// Field by field.
pub fn median(costs: &[Cost]) -> Cost {
    fn middle<T: Ord + Copy + Default>(mut all: Vec<T>) -> T {
        all.sort_unstable();
        all.get(all.len() / 2).copied().unwrap_or_default()
    }
    Cost {
        wall: middle(costs.iter().map(|c| c.wall).collect()),
        cpu: middle(costs.iter().map(|c| c.cpu).collect()),
        peak: middle(costs.iter().map(|c| c.peak).collect()),
    }
}

/// Runs `command`, which must succeed, and says what it took.
pub fn run(command: &mut Command, after: &dyn Fn()) -> Cost {
    let start = Instant::now();
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("the command runs");
    let (status, usage) = wait(child.id());
    assert_eq!(status, 0, "{command:?} failed");
    after();
    let wall = start.elapsed();
    let time = |t: libc::timeval| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1000);
    Cost { wall, cpu: time(usage.ru_utime) + time(usage.ru_stime), peak: usage.ru_maxrss as u64 * 1024 }
}

/// Waits for a child of ours with what it used; the standard library does not tell.
#[allow(unsafe_code)]
fn wait(pid: u32) -> (i32, libc::rusage) {
    let mut status = 0;
    // SAFETY: rusage is plain integers, for which all zeros is a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid for one value each; pid is a child nobody else waits for.
    let got = unsafe { libc::wait4(pid as libc::pid_t, &raw mut status, 0, &raw mut usage) };
    assert_eq!(got, pid as libc::pid_t, "wait4: {}", std::io::Error::last_os_error());
    (status, usage)
}

/// Empties the page cache, so that the next read comes from the disk. Needs root; says so once where it cannot.
pub fn drop_caches() {
    static TOLD: std::sync::Once = std::sync::Once::new();
    let _ = Command::new("sync").status();
    if std::fs::write("/proc/sys/vm/drop_caches", "3").is_err() {
        TOLD.call_once(|| eprintln!("caches cannot be emptied here (not root): the numbers are for warm caches"));
    }
}

/// Runs `program`, which must succeed, to prepare something.
pub fn prepare(program: &str, args: &[&str]) {
    let out = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// A folder for large files that goes away: `BENCH_DIR`, else below `target`, which is on a real disk and not in memory.
pub fn dir() -> tempfile::TempDir {
    let base = std::env::var_os("BENCH_DIR").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), Into::into);
    tempfile::Builder::new().prefix("bench").tempdir_in(base).expect("a folder for the bench")
}
