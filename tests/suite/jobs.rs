//! The job engine through its public face: states, pause, cancel, per-image locking, panics, the journal.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cowshed::engine::format::Format;
use cowshed::engine::job::{JobEdge, JobId, JobState, Journal, Runner, RunnerOptions, SubmitOptions};
use cowshed::engine::ops::JobSpec;
use cowshed::engine::ops::convert::ConvertSpec;

use crate::common::*;

type Edges = Arc<Mutex<Vec<JobEdge>>>;

fn runner(options: RunnerOptions) -> (Runner, Edges) {
    let edges: Edges = Arc::default();
    let seen = edges.clone();
    (Runner::new(options, move |e| seen.lock().unwrap().push(e)), edges)
}

fn states(edges: &Edges, id: JobId) -> Vec<JobState> {
    edges.lock().unwrap().iter().filter(|e| e.id == id).map(|e| e.state).collect()
}

fn convert(source: &Path, target: &Path, rate: Option<u64>) -> JobSpec {
    let mut spec = ConvertSpec::new(source, target, Format::Raw);
    spec.source_format = Some(Format::Raw);
    spec.rate = rate;
    JobSpec::Convert(spec)
}

fn until(what: &str, mut is: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
    start.elapsed()
}

fn state(runner: &Runner, id: JobId) -> JobState {
    runner.view(id).unwrap().state
}

const WAIT: Duration = Duration::from_secs(30);

#[test]
fn from_queued_to_done() {
    let dir = dir();
    let (src, out) = (dir.path().join("src"), dir.path().join("out"));
    std::fs::write(&src, noise(1, 5 << 20)).unwrap();
    let (runner, edges) = runner(RunnerOptions::default());
    let id = runner.submit(convert(&src, &out, None), SubmitOptions::default());
    let view = runner.wait(id, WAIT).unwrap();
    assert_eq!((view.state, view.progress.percent), (JobState::Done, 100.0));
    assert_eq!(view.progress.read, 5 << 20);
    use JobState::*;
    assert_eq!(states(&edges, id), [Queued, Running, Finishing, Done]);
    assert_eq!(view.plan.unwrap().read_bytes, 5 << 20);
    assert!(!runner.log(id).is_empty());
}

#[test]
fn pauses_within_a_second_and_goes_on() {
    let dir = dir();
    let (src, out) = (dir.path().join("src"), dir.path().join("out"));
    let bytes = noise(1, 24 << 20);
    std::fs::write(&src, &bytes).unwrap();
    let (runner, edges) = runner(RunnerOptions::default());
    let id = runner.submit(convert(&src, &out, Some(16 << 20)), SubmitOptions::default());
    until("some progress", || runner.view(id).unwrap().progress.written > 0);
    runner.pause(id);
    let took = until("paused", || state(&runner, id) == JobState::Paused);
    assert!(took < Duration::from_secs(1), "{took:?}");
    std::thread::sleep(Duration::from_millis(600));
    let before = runner.view(id).unwrap().progress;
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(runner.view(id).unwrap().progress.written, before.written, "it goes on while paused");
    assert!(!out.exists());
    runner.set_limit(id, 0);
    runner.resume(id);
    assert_eq!(runner.wait(id, WAIT).unwrap().state, JobState::Done);
    assert!(std::fs::read(&out).unwrap() == bytes);
    use JobState::*;
    assert_eq!(states(&edges, id), [Queued, Running, Paused, Running, Finishing, Done]);
}

#[test]
fn cancelled_it_leaves_nothing() {
    let dir = dir();
    let (src, out) = (dir.path().join("src"), dir.path().join("out"));
    std::fs::write(&src, noise(1, 24 << 20)).unwrap();
    let (runner, edges) = runner(RunnerOptions::default());
    let id = runner.submit(convert(&src, &out, Some(8 << 20)), SubmitOptions::default());
    until("some progress", || runner.view(id).unwrap().progress.written > 0);
    assert!(runner.cancel(id));
    assert_eq!(runner.wait(id, WAIT).unwrap().state, JobState::Cancelled);
    use JobState::*;
    assert_eq!(states(&edges, id), [Queued, Running, Cancelling, Cancelled]);
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["src"]);
    assert!(!runner.cancel(id), "it is over");
}

#[test]
fn a_writer_excludes_others_and_the_waiting_job_says_so() {
    let dir = dir();
    let (src, out, third) = (dir.path().join("src"), dir.path().join("out"), dir.path().join("third"));
    std::fs::write(&src, noise(1, 16 << 20)).unwrap();
    std::fs::write(&out, b"old").unwrap();
    let (runner, _) = runner(RunnerOptions { parallel: 4, ..RunnerOptions::default() });
    let first = runner.submit(convert(&src, &out, Some(8 << 20)), SubmitOptions::default());
    until("running", || state(&runner, first) == JobState::Running);
    let second = runner.submit(convert(&out, &third, None), SubmitOptions::default());
    let reader = runner.submit(convert(&src, &dir.path().join("fourth"), None), SubmitOptions::default());
    until("a reason", || runner.view(second).unwrap().why.is_some());
    let why = runner.view(second).unwrap().why.unwrap();
    assert!(why.contains(&format!("waits for job {first}")) && why.contains("writes"), "{why}");
    // Readers share.
    assert_eq!(runner.wait(reader, WAIT).unwrap().state, JobState::Done);
    assert!(!state(&runner, first).is_over() && state(&runner, second) == JobState::Queued);
    runner.set_limit(first, 0);
    assert_eq!(runner.wait(second, WAIT).unwrap().state, JobState::Done);
    assert!(std::fs::read(&third).unwrap() == std::fs::read(&src).unwrap());
}

#[test]
fn higher_priority_goes_first_and_held_ones_wait() {
    let dir = dir();
    let src = dir.path().join("src");
    std::fs::write(&src, noise(1, 8 << 20)).unwrap();
    let (runner, edges) = runner(RunnerOptions { parallel: 1, ..RunnerOptions::default() });
    let job = |name: &str, rate, options| runner.submit(convert(&src, &dir.path().join(name), rate), options);
    let blocker = job("a", Some(8 << 20), SubmitOptions::default());
    until("running", || state(&runner, blocker) == JobState::Running);
    let low = job("b", None, SubmitOptions::default());
    let high = job("c", None, SubmitOptions { priority: 5, held: false });
    let held = job("d", None, SubmitOptions { priority: 9, held: true });
    assert_eq!(runner.wait(low, WAIT).unwrap().state, JobState::Done);
    assert_eq!(state(&runner, held), JobState::Paused);
    let order: Vec<_> = edges.lock().unwrap().iter().filter(|e| e.state == JobState::Running).map(|e| e.id).collect();
    assert_eq!(order, [blocker, high, low]);
    runner.resume(held);
    assert_eq!(runner.wait(held, WAIT).unwrap().state, JobState::Done);
}

#[test]
fn a_failure_is_told_with_its_place_and_can_be_retried() {
    let dir = dir();
    let (src, out) = (dir.path().join("src"), dir.path().join("out"));
    let (runner, edges) = runner(RunnerOptions::default());
    let id = runner.submit(convert(&src, &out, None), SubmitOptions::default());
    let view = runner.wait(id, WAIT).unwrap();
    assert_eq!(view.error.unwrap().file(), Some(src.as_path()));
    assert_eq!(states(&edges, id), [JobState::Queued, JobState::Failed]);
    std::fs::write(&src, noise(1, 1 << 20)).unwrap();
    let again = runner.retry(id).unwrap();
    assert_eq!(runner.wait(again, WAIT).unwrap().state, JobState::Done);
}

#[test]
fn left_to_be_resumed_it_goes_on_to_an_identical_result() {
    let dir = dir();
    let (src, out) = (dir.path().join("src"), dir.path().join("out"));
    let bytes = noise(1, 32 << 20);
    std::fs::write(&src, &bytes).unwrap();
    let options = || RunnerOptions { state_dir: Some(dir.path().join("state")), ..RunnerOptions::default() };
    let (first, _) = runner(options());
    let id = first.submit(convert(&src, &out, Some(16 << 20)), SubmitOptions::default());
    until("some progress", || first.view(id).unwrap().progress.written > 8 << 20);
    // Parked, everything written is made durable.
    first.pause(id);
    until("durable", || first.view(id).unwrap().progress.durable >= 4 << 20);
    first.shut_down(true);
    assert!(!out.exists() && dir.path().join(".out.cowshed-partial").exists());

    let record = Journal::new(dir.path().join("state/jobs")).unfinished().pop().unwrap();
    assert!(!record.alive && record.durable >= 4 << 20);
    let (second, _) = runner(options());
    let mut spec = record.spec;
    let JobSpec::Convert(c) = &mut spec else { panic!("a conversion") };
    c.resume = true;
    c.rate = None;
    let id = second.submit(spec, SubmitOptions::default());
    let view = second.wait(id, WAIT).unwrap();
    assert_eq!(view.state, JobState::Done, "{:?}", view.error);
    assert!(view.progress.read <= (32 << 20) - record.durable, "it read {} again", view.progress.read);
    assert!(std::fs::read(&out).unwrap() == bytes);
    assert!(Journal::new(dir.path().join("state/jobs")).unfinished().is_empty());
}

#[test]
fn a_changed_source_is_not_gone_on_with() {
    let dir = dir();
    let (src, out) = (dir.path().join("src"), dir.path().join("out"));
    std::fs::write(&src, noise(1, 16 << 20)).unwrap();
    let options = || RunnerOptions { state_dir: Some(dir.path().join("state")), ..RunnerOptions::default() };
    let (first, _) = runner(options());
    let id = first.submit(convert(&src, &out, Some(8 << 20)), SubmitOptions::default());
    until("some progress", || first.view(id).unwrap().progress.written > 4 << 20);
    first.pause(id);
    until("durable", || first.view(id).unwrap().progress.durable > 0);
    first.shut_down(true);
    let new = noise(2, 16 << 20);
    std::fs::write(&src, &new).unwrap();
    let (second, _) = runner(options());
    let JobSpec::Convert(mut spec) = convert(&src, &out, None) else { panic!("a conversion") };
    spec.resume = true;
    let id = second.submit(JobSpec::Convert(spec), SubmitOptions::default());
    assert_eq!(second.wait(id, WAIT).unwrap().state, JobState::Done);
    let log = second.log(id);
    assert!(log.iter().any(|l| l.text.contains("begins anew") && l.text.contains("has changed")), "{log:?}");
    assert!(std::fs::read(&out).unwrap() == new);
}

#[test]
fn a_resume_says_where_it_goes_on_or_why_it_cannot() {
    let dir = dir();
    let (src, out) = (dir.path().join("src"), dir.path().join("out"));
    std::fs::write(&src, noise(1, 4 << 20)).unwrap();
    let mut resume = program(dir.path());
    let told = resume.args(["convert", "--resume", "-f", "raw", "-O", "qcow2", s(&src), s(&out)]).output().unwrap();
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.starts_with("cowshed: begins anew: ") && told.contains("no earlier run"), "{told}");
    let mut other = program(dir.path());
    let told = other.args(["convert", "-f", "raw", "-O", "qcow2", s(&src), s(&out)]).output().unwrap();
    assert!(told.status.success() && told.stderr.is_empty(), "{told:?}");
}

/// The program with state and runtime folders of its own below `dir`.
fn program(dir: &Path) -> std::process::Command {
    let mut c = std::process::Command::new(env!("CARGO_BIN_EXE_cowshed"));
    c.current_dir(dir).env("HOME", dir).env("XDG_STATE_HOME", dir.join("s")).env("XDG_RUNTIME_DIR", dir.join("r"));
    c
}

fn told(command: &mut std::process::Command) -> String {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn listed(dir: &Path) -> Vec<serde_json::Value> {
    serde_json::from_str(&told(program(dir).args(["jobs", "--output", "json"]))).unwrap()
}

#[test]
fn paused_from_outside_killed_and_resumed_to_an_identical_result() {
    let dir = dir();
    let bytes = noise(1, 24 << 20);
    std::fs::write(dir.path().join("src"), &bytes).unwrap();
    let mut child = program(dir.path()).args(["convert", "-f", "raw", "-r", "8M", "src", "out"]).spawn().unwrap();
    until("it is listed with some progress", || {
        listed(dir.path()).first().is_some_and(|j| j["state"] == "running" && j["percent"].as_f64() > Some(30.0))
    });
    let key = listed(dir.path())[0]["id"].as_str().unwrap().to_string();
    told(program(dir.path()).args(["jobs", "pause", &key]));
    until("paused", || listed(dir.path())[0]["state"] == "paused");
    let journal = Journal::new(dir.path().join("s/cowshed/jobs"));
    until("durable", || journal.load(&key).is_some_and(|r| r.durable >= 4 << 20));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!dir.path().join("out").exists());

    let left = listed(dir.path());
    assert_eq!((left.len(), left[0]["id"].as_str(), &left[0]["pid"]), (1, Some(key.as_str()), &serde_json::Value::Null));
    // From another folder: the record means the same there, and it goes on instead of beginning anew.
    let out = program(dir.path()).current_dir("/").args(["jobs", "resume", &key]).output().unwrap();
    let log = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && log.contains("goes on at"), "{log}");
    assert!(std::fs::read(dir.path().join("out")).unwrap() == bytes);
    assert!(listed(dir.path()).is_empty());
    assert!(told(program(dir.path()).args(["jobs", "history"])).contains("convert src to out"));
}

#[test]
fn cancelled_after_its_process_is_gone() {
    let dir = dir();
    std::fs::write(dir.path().join("src"), noise(1, 8 << 20)).unwrap();
    let mut child = program(dir.path()).args(["convert", "-f", "raw", "-r", "2M", "src", "out"]).spawn().unwrap();
    let journal = Journal::new(dir.path().join("s/cowshed/jobs"));
    until("noted", || !journal.unfinished().is_empty() && dir.path().join(".out.cowshed-partial").exists());
    child.kill().unwrap();
    child.wait().unwrap();
    let key = listed(dir.path())[0]["id"].as_str().unwrap().to_string();
    told(program(dir.path()).args(["jobs", "cancel", &key]));
    assert!(listed(dir.path()).is_empty() && !dir.path().join(".out.cowshed-partial").exists());
}

#[test]
fn a_full_disk_fails_a_script_and_resumes_after_space_is_made() {
    let dir = dir();
    std::fs::write(dir.path().join("src"), noise(1, 24 << 20)).unwrap();
    // A small filesystem in a mount namespace of its own.
    let script = r#"set -e
        mkdir small; mount -t tmpfs -o size=32m none small
        head -c 16M /dev/zero > small/filler
        # One worker, so that what is durable when the disk is full does not depend on which thread was quicker.
        ! "$0" convert -m 1 -f raw -O raw src small/out 2> message
        test ! -e small/out
        rm small/filler
        "$0" convert --resume --progress json -f raw -O raw src small/out > progress
        cmp src small/out"#;
    let mut unshare = std::process::Command::new("unshare");
    unshare.args(["-rm", "sh", "-c", script, env!("CARGO_BIN_EXE_cowshed")]);
    unshare.current_dir(dir.path()).env("HOME", dir.path()).env("XDG_STATE_HOME", dir.path().join("s"));
    told(&mut unshare);
    let message = std::fs::read_to_string(dir.path().join("message")).unwrap();
    assert!(message.contains("No space left") && message.contains("--resume"), "{message}");
    let progress = std::fs::read_to_string(dir.path().join("progress")).unwrap();
    let last: serde_json::Value = serde_json::from_str(progress.lines().last().unwrap()).unwrap();
    assert!(last["read"].as_u64().unwrap() < 20 << 20, "it began anew: {last}");
}

/// At a terminal there is a person who can make space: the job waits for that, says so, and goes on by itself.
#[test]
fn a_full_disk_pauses_a_job_at_a_terminal_until_space_is_made() {
    // The second frees less than is waited for where much is left to do; little is.
    for (format, size, filler) in [("raw", "128m", "96M"), ("qcow2", "60m", "20M")] {
        let dir = dir();
        std::fs::write(dir.path().join("src"), noise(1, 48 << 20)).unwrap();
        let script = r#"set -e
            mkdir small; mount -t tmpfs -o size=SIZE none small
            head -c FILLER /dev/zero > small/filler
            timeout 60 python3 -c 'import pty, sys, os; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))' \
                "$0" convert -f raw -O FORMAT src small/out > message &
            job=$!
            for i in $(seq 600); do grep -q paused message && break; sleep 0.05; done
            grep -q paused message
            test ! -e small/out
            rm small/filler
            wait $job
            test ! -e small/.out.cowshed-partial
            qemu-img compare -f raw -F FORMAT src small/out"#
            .replace("FORMAT", format)
            .replace("SIZE", size)
            .replace("FILLER", filler);
        let mut unshare = std::process::Command::new("unshare");
        unshare.args(["-rm", "sh", "-c", &script, env!("CARGO_BIN_EXE_cowshed")]);
        unshare.current_dir(dir.path()).env("HOME", dir.path()).env("XDG_STATE_HOME", dir.path().join("s"));
        told(&mut unshare);
        let message = std::fs::read_to_string(dir.path().join("message")).unwrap();
        assert!(message.contains("no space left for") && message.contains("goes on by itself"), "{message}");
    }
}

#[test]
fn a_plan_says_how_long_and_why() {
    let dir = dir();
    std::fs::write(dir.path().join("src"), noise(1, 20 << 20)).unwrap();
    let dry = |extra: &[&str]| {
        let args = [&["convert", "--dry-run", "-f", "raw", "-O", "qcow2"], extra, &["src", "out"]].concat();
        told(program(dir.path()).args(args))
    };
    assert!(!dry(&[]).contains("takes"), "nothing is known, and nothing is said");
    let limited = dry(&["-r", "2M"]);
    assert!(limited.contains("about 10 s (its limit is 2 MiB a second)"), "{limited}");
    told(program(dir.path()).args(["convert", "-f", "raw", "-O", "qcow2", "src", "out"]));
    let known = dry(&[]);
    assert!(known.contains("takes") && known.contains("one earlier job of this sort"), "{known}");
    assert!(!told(program(dir.path()).args(["convert", "--dry-run", "-f", "raw", "-O", "vmdk", "src", "out"])).contains("takes"));
}

#[test]
fn the_limit_is_what_binds_when_it_does() {
    let dir = dir();
    std::fs::write(dir.path().join("src"), noise(1, 8 << 20)).unwrap();
    let lines = told(program(dir.path()).args(["convert", "--progress", "json", "-f", "raw", "-r", "3M", "src", "out"]));
    let bound: Vec<_> =
        lines.lines().filter_map(|l| Some(serde_json::from_str::<serde_json::Value>(l).ok()?["bound-by"].clone())).collect();
    assert!(bound.iter().any(|b| b == "limit"), "{bound:?}");
}
