//! Jobs of the workbench in a real terminal: steered from outside, killed, and resumed by the next one.

use std::path::Path;
use std::process::Command;

use super::tmux::{Tmux, qemu_img, qemu_io};

/// `cowshed jobs …` beside the workbench that has this home.
fn jobs(home: &Path, args: &[&str]) -> String {
    let mut c = Command::new(env!("CARGO_BIN_EXE_cowshed"));
    c.arg("jobs").args(args).env("HOME", home).env("XDG_RUNTIME_DIR", home);
    for unset in ["XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"] {
        c.env_remove(unset);
    }
    let out = c.output().unwrap();
    assert!(out.status.success(), "jobs {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
fn a_conversion_that_was_paused_and_killed_is_resumed_to_the_same_result() {
    let (dir, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let at = |name: &str| dir.path().join(name).display().to_string();
    qemu_img(&["create", "-q", "-f", "qcow2", &at("disk.qcow2"), "256M"]);
    let writes: Vec<String> = (0..24).map(|i| format!("write -P {} {}M 2M", i + 1, i * 10)).collect();
    qemu_io(&at("disk.qcow2"), &writes.iter().map(String::as_str).collect::<Vec<_>>());
    let env = [("HOME", home.path().to_str().unwrap()), ("XDG_RUNTIME_DIR", home.path().to_str().unwrap())];
    let mut t = Tmux::start(120, 36, dir.path(), &env);
    t.wait_for("1 image");
    // Slow enough to be caught: the fields are format, path, onto existing, verify, checksum, rate.
    t.keys(&["j", "c", "Tab", "Tab", "Tab", "Tab", "Tab"]);
    t.text("8M");
    t.wait_for("to read");
    t.keys(&["Enter"]);
    t.wait_for("undo");
    t.keys(&["Enter", "4"]);
    t.wait_for("its rate limit");
    t.keys(&["Space"]);
    t.wait_for("durable up to");
    t.wait_for("paused");
    // From outside it is seen, and let go on.
    let list: serde_json::Value = serde_json::from_str(&jobs(home.path(), &["--output", "json"])).unwrap();
    let (key, state) = (list[0]["id"].as_str().unwrap().to_string(), list[0]["state"].as_str().unwrap());
    assert_eq!(state, "paused", "{list}");
    jobs(home.path(), &["resume", &key]);
    t.wait_for_not("paused");
    t.keys(&["Space"]);
    t.wait_for("paused");
    t.wait_for("durable up to");
    t.kill();
    drop(t);
    assert!(!dir.path().join("disk.raw").exists(), "half an image under its final name");

    let mut t = Tmux::start(120, 36, dir.path(), &env);
    t.wait_for("1 interrupted job");
    t.keys(&["4"]);
    t.wait_for("resumable from");
    t.keys(&["R"]);
    t.wait_for("goes on at");
    t.wait_for("done: convert");
    t.wait_for("100%");
    assert!(!t.screen().contains("interrupted"), "{}", t.screen());
    t.keys(&["q"]);
    t.wait_for("left with 0");
    qemu_img(&["convert", "-O", "raw", &at("disk.qcow2"), &at("expected")]);
    assert!(Command::new("cmp").args([at("disk.raw"), at("expected")]).status().unwrap().success(), "it differs from qemu-img's");
    assert!(jobs(home.path(), &[]).contains("No unfinished jobs"));
}

#[test]
fn what_cannot_be_gone_on_with_says_why_and_can_be_discarded() {
    let (dir, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let at = |name: &str| dir.path().join(name).display().to_string();
    qemu_img(&["create", "-q", "-f", "qcow2", &at("disk.qcow2"), "256M"]);
    qemu_io(&at("disk.qcow2"), &["write -P 1 0 40M"]);
    let env = [("HOME", home.path().to_str().unwrap()), ("XDG_RUNTIME_DIR", home.path().to_str().unwrap())];
    let mut t = Tmux::start(120, 36, dir.path(), &env);
    t.wait_for("1 image");
    t.keys(&["j", "c", "Tab", "Tab", "Tab", "Tab", "Tab"]);
    t.text("2M");
    t.wait_for("to read");
    t.keys(&["Enter"]);
    t.wait_for("undo");
    t.keys(&["Enter", "4"]);
    t.wait_for("its rate limit");
    t.wait_for("written ");
    t.wait_for_not("written 0 bytes");
    // Quitting asks; leaving it keeps what is durable.
    t.keys(&["q"]);
    t.wait_for("Quit?");
    t.keys(&["j", "Enter"]);
    t.wait_for("left with 0");
    drop(t);
    qemu_io(&at("disk.qcow2"), &["write -P 2 60M 1M"]);
    let partial = dir.path().join(".disk.raw.cowshed-partial");
    assert!(partial.exists());
    let mut t = Tmux::start(120, 36, dir.path(), &env);
    t.wait_for("1 interrupted job");
    t.keys(&["4"]);
    t.wait_for("has changed since");
    t.keys(&["R"]);
    t.wait_for("Begin anew?");
    t.keys(&["Escape", "x"]);
    t.wait_for("Discard");
    t.keys(&["Tab", "Enter"]);
    // The line of what can be resumed goes; that there was one stays in the history.
    t.wait_for_not("interrupted");
    t.wait_for("Earlier job");
    assert!(!partial.exists(), "what it had written is still there");
}
