//! The whole program in a real pseudo-terminal (tmux), driven by keys and read from the screen.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod forms;
mod jobs;
mod sanitize;
mod tmux;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tmux::{Tmux, qemu_img, qemu_io};

/// A chain of three, a broken overlay, and a raw disk.
fn images(dir: &Path) {
    let at = |name: &str| dir.join(name).display().to_string();
    qemu_img(&["create", "-q", "-f", "qcow2", &at("base.qcow2"), "1G"]);
    qemu_io(&at("base.qcow2"), &["write -P 1 0 4M", "write -P 2 512M 2M"]);
    qemu_img(&["create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", &at("web.qcow2")]);
    qemu_io(&at("web.qcow2"), &["write -P 3 1M 1M", "write -P 4 700M 3M"]);
    qemu_img(&["create", "-q", "-f", "qcow2", "-b", "web.qcow2", "-F", "qcow2", &at("web-next.qcow2")]);
    qemu_img(&["create", "-q", "-u", "-f", "qcow2", "-b", "gone.qcow2", "-F", "qcow2", &at("lost.qcow2"), "1G"]);
    qemu_img(&["create", "-q", "-f", "raw", &at("plain.img"), "64M"]);
}

fn opened(columns: u16, rows: u16) -> (tempfile::TempDir, Tmux) {
    let dir = tempfile::tempdir().unwrap();
    images(dir.path());
    let mut t = Tmux::start(columns, rows, dir.path(), &[]);
    t.wait_for("5 images");
    (dir, t)
}

#[test]
fn opens_navigates_filters_and_quits_leaving_the_terminal_as_it_was() {
    let (_dir, mut t) = opened(120, 36);
    let screen = t.screen();
    for part in ["base.qcow2", "├", "web-next.qcow2", "base gone", "? help", "q quit"] {
        assert!(screen.contains(part), "{part} in\n{screen}");
    }
    assert_eq!((t.flag("alternate_on"), t.flag("mouse_any_flag")), (true, true));
    t.keys(&["/"]);
    t.text("next");
    t.wait_for("1 of 5");
    t.keys(&["Escape"]);
    t.wait_for("5 images");
    t.keys(&["?"]);
    t.wait_for("Help — Library");
    t.keys(&["Escape", ":"]);
    t.wait_for("Commands");
    t.keys(&["Escape", "q"]);
    t.wait_for("left with 0");
    assert_eq!((t.flag("alternate_on"), t.flag("mouse_any_flag"), t.flag("cursor_flag")), (false, false, true));
    assert!(t.screen().contains("icanon on"), "the terminal is cooked again:\n{}", t.screen());
}

#[test]
fn shows_an_image_and_its_map() {
    let (_dir, mut t) = opened(120, 36);
    t.keys(&["/"]);
    t.text("web.qcow2");
    t.keys(&["Enter", "Enter"]);
    t.wait_for("2 layers");
    t.wait_for("(stored by none: zeros)");
    t.keys(&["m"]);
    t.wait_for("1 cell =");
    t.wait_for("host byte");
    let screen = t.screen();
    assert!(screen.contains("base.qcow2") && screen.contains("█"), "{screen}");
    t.keys(&["+"]);
    t.wait_for("zoom 1/");
    t.keys(&["Escape", "Escape", "Escape"]);
    t.wait_for("group:");
    // What the cursor says is what qemu-img says of that byte.
    let map = t.qemu_map("web.qcow2");
    let first = map.as_array().unwrap().iter().find(|e| e["start"] == 0).unwrap()["offset"].as_u64().unwrap();
    assert!(screen.contains(&format!("{first:#x}")), "{first:#x} in\n{screen}");
}

#[test]
fn converts_to_raw_in_the_background() {
    let (dir, mut t) = opened(120, 36);
    t.keys(&["/"]);
    t.text("web-next");
    t.keys(&["Enter", "c"]);
    t.wait_for("to read");
    t.keys(&["Enter"]);
    t.wait_for("undo");
    t.keys(&["Enter"]);
    t.wait_for("done: convert");
    t.keys(&["4"]);
    t.wait_for("100%");
    // The new image shows up in the library by itself.
    t.keys(&["1", "Escape"]);
    t.wait_for("web-next.raw");
    let (ours, theirs) = (dir.path().join("web-next.raw"), dir.path().join("expected"));
    qemu_img(&["convert", "-O", "raw", dir.path().join("web-next.qcow2").to_str().unwrap(), theirs.to_str().unwrap()]);
    let same = Command::new("cmp").args([&ours, &theirs]).status().unwrap();
    assert!(same.success(), "the conversion differs from qemu-img's");
    t.keys(&["q"]);
    t.wait_for("left with 0");
}

#[test]
fn notices_files_that_come_and_go() {
    let (dir, mut t) = opened(100, 30);
    qemu_img(&["create", "-q", "-f", "qcow2", dir.path().join("newcomer.qcow2").to_str().unwrap(), "1G"]);
    t.wait_for("newcomer.qcow2");
    std::fs::remove_file(dir.path().join("newcomer.qcow2")).unwrap();
    t.wait_for_not("newcomer.qcow2");
}

#[test]
fn signals_end_it_with_the_terminal_restored() {
    for (signal, code) in [("TERM", 143), ("HUP", 129), ("INT", 130)] {
        let (_dir, mut t) = opened(100, 30);
        t.signal(signal);
        t.wait_for(&format!("left with {code}"));
        assert_eq!((t.flag("alternate_on"), t.flag("mouse_any_flag")), (false, false), "{signal}");
        assert!(t.screen().contains("icanon on"), "{signal}");
    }
}

#[test]
fn ctrl_z_gives_the_shell_back_and_fg_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    images(dir.path());
    let mut t = Tmux::shell(100, 30, dir.path());
    t.text(&format!("{} .", env!("CARGO_BIN_EXE_cowshed")));
    t.keys(&["Enter"]);
    t.wait_for("5 images");
    t.keys(&["C-z"]);
    t.wait_for("Stopped");
    assert!(!t.flag("alternate_on"));
    t.text("fg");
    t.keys(&["Enter"]);
    t.wait_for("5 images");
    assert!(t.flag("alternate_on"));
    t.keys(&["C-l"]);
    t.wait_for("5 images");
    t.keys(&["j", "q"]);
    t.wait_for("$");
    assert!(!t.flag("alternate_on"));
}

#[test]
fn survives_every_size_and_comes_back() {
    let (_dir, mut t) = opened(120, 36);
    for (w, h) in [(80, 24), (59, 14), (20, 5), (1, 1), (3, 40), (200, 60)] {
        t.resize(w, h);
        std::thread::sleep(Duration::from_millis(150));
        t.keys(&["j", "3", "Escape", "?", "Escape"]);
    }
    t.resize(50, 12);
    t.wait_for("needs 60×15");
    t.resize(120, 36);
    t.wait_for("5 images");
}

#[test]
fn draws_nothing_and_costs_nothing_while_idle() {
    let (_dir, mut t) = opened(120, 36);
    t.keys(&["j"]);
    std::thread::sleep(Duration::from_secs(4));
    let drawn = t.record();
    let before = t.cpu_ticks();
    std::thread::sleep(Duration::from_secs(4));
    let (bytes, ticks) = (std::fs::read(&drawn).unwrap().len(), t.cpu_ticks() - before);
    assert_eq!(bytes, 0, "drawn while idle");
    // One tick is 10 ms: a quarter of a percent of four seconds.
    assert!(ticks <= 1, "{ticks} ticks of processor time while idle");
}

#[test]
fn is_there_again_where_it_was_left() {
    let (dir, mut t) = opened(120, 36);
    t.keys(&["t", ">", "q"]);
    t.wait_for("left with 0");
    let home = t.home();
    let mut t = Tmux::start(120, 36, dir.path(), &[("HOME", home.to_str().unwrap())]);
    t.wait_for("5 images");
    assert!(t.screen().contains("sort: fmt"), "{}", t.screen());
}

#[test]
fn ascii_and_no_color_are_honoured() {
    let dir = tempfile::tempdir().unwrap();
    images(dir.path());
    let mut t = Tmux::start(100, 30, dir.path(), &[("LC_ALL", "C"), ("NO_COLOR", "1")]);
    t.wait_for("5 images");
    let screen = t.screen();
    assert!(screen.is_ascii(), "{screen}");
    // 30 to 38, 40 to 48 and 90 to 107 set colours; 39 and 49 take them away.
    let styled = t.styled();
    let codes = styled.split("\x1b[").skip(1).filter_map(|s| s.split_once('m')).flat_map(|(codes, _)| codes.split(';'));
    let coloured: Vec<&str> = codes.filter(|c| c.parse().is_ok_and(|n: u32| matches!(n, 30..=38 | 40..=48 | 90..=107))).collect();
    assert!(coloured.is_empty(), "colours {coloured:?}");
    assert!(styled.contains("\x1b[1m"), "but bold is there");
}

#[test]
fn a_light_terminal_gets_the_light_theme() {
    let dir = tempfile::tempdir().unwrap();
    images(dir.path());
    let mut t = Tmux::shell(100, 30, dir.path());
    // The theme for light terminals has colours of its own, the other one has the terminal's 16.
    let many = |t: &Tmux| {
        let styled = t.styled();
        styled.split("8;5;").skip(1).filter_map(|s| s.split(['m', ';']).next()?.parse().ok()).any(|n: u32| n >= 16)
    };
    for (colour, light) in [("#fdf6e3", true), ("#1e1e2e", false), ("default", false)] {
        t.background(colour);
        t.text(&format!("clear; {} .", env!("CARGO_BIN_EXE_cowshed")));
        t.keys(&["Enter"]);
        t.wait_for("5 images");
        assert_eq!(many(&t), light, "{colour}: {}", t.styled());
        // Nothing of the terminal's answer was taken for a key: no notice, no dialog, no other screen or order.
        let screen = t.screen();
        assert!(screen.contains("sort: name") && !screen.contains('▲') && screen.contains("Enter open"), "{screen}");
        t.keys(&["q"]);
        t.wait_for_not("5 images");
    }
}

/// Bytes that files take on the host.
fn on_disk(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(path).unwrap()) * 512
}

/// A size as the screen writes it: `190.1 MiB`.
fn bytes(words: &str) -> f64 {
    let (number, unit) = words.trim().split_once(' ').unwrap();
    let unit = match unit {
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        other => panic!("{other}"),
    };
    number.parse::<f64>().unwrap() * unit
}

#[test]
fn finds_the_snapshot_that_eats_the_disk_deletes_it_and_gets_the_promised_space_back() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("web.qcow2");
    let at = image.display().to_string();
    qemu_img(&["create", "-q", "-f", "qcow2", &at, "1G"]);
    for (write, name) in [
        ("write -P 1 0 4M", "fresh-install"),
        ("write -P 2 64M 40M", "big-upgrade"),
        ("write -P 3 64M 40M", "after-upgrade"),
        ("write -P 4 1M 1M", "yesterday"),
    ] {
        qemu_io(&at, &[write]);
        qemu_img(&["snapshot", "-c", name, &at]);
    }
    let before = on_disk(&image);
    let mut t = Tmux::start(120, 36, dir.path(), &[]);
    t.wait_for("1 image");
    t.keys(&["j", "s"]);
    t.wait_for("inferred from shared clusters");
    t.wait_for("big-upgrade 40.");
    // It is the second line of the tree; the live state has the cursor at first.
    t.keys(&["g", "j", "Space"]);
    t.wait_for("1 marked, deleting it frees");
    let screen = t.screen();
    let line = screen.lines().find(|l| l.contains("deleting it frees")).unwrap();
    let promised = bytes(line.split("frees ").nth(1).unwrap().trim_end_matches('│').split("  ").next().unwrap());
    t.keys(&["d"]);
    t.wait_for("undo");
    t.wait_for("not possible");
    // One bare key does not do it, nor does Enter: the name is typed, and is the answer.
    t.keys(&["Enter"]);
    t.wait_for("type 'web.qcow2' first");
    t.text("web.qcow2");
    t.keys(&["Enter"]);
    t.wait_for("done: delete snapshot");
    t.wait_for("3 snapshots");
    let freed = (before - on_disk(&image)) as f64;
    // What the screen promised, as far as it is written there: to a tenth of a MiB.
    assert!((freed - promised).abs() <= 0.06 * 1024.0 * 1024.0 + 64.0 * 1024.0, "{promised} promised, {freed} came back");
    assert!(freed > 39.0 * 1024.0 * 1024.0, "{freed}");
    let check = qemu_img(&["check", &at]);
    assert!(String::from_utf8_lossy(&check.stdout).contains("No errors"));
    t.keys(&["q"]);
    t.wait_for("left with 0");
}

#[test]
fn looks_inside_a_guest_and_says_where_it_is_ready_for() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    for (path, text) in [
        ("etc/os-release", "ID=debian\nPRETTY_NAME=\"Debian of the test\"\n"),
        ("etc/machine-id", "5f1c9ad27be84c3e9d60b7a2c4e8f013\n"),
        ("usr/bin/env", "x"),
    ] {
        std::fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
        std::fs::write(root.join(path), text).unwrap();
    }
    let images = dir.path().join("images");
    std::fs::create_dir(&images).unwrap();
    let image = images.join("guest.img");
    let made = Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-d"]).arg(&root).arg(&image).arg("8M").status();
    assert!(made.expect("mke2fs: tests/run installs it").success());
    let mut t = Tmux::start(120, 36, &images, &[]);
    t.wait_for("1 image");
    t.keys(&["j", "i"]);
    t.wait_for("Debian of the test");
    t.wait_for("lost+found");
    t.keys(&["Enter"]);
    t.wait_for("os-release");
    t.keys(&["G", "Enter"]);
    t.wait_for("ID=debian");
    t.keys(&["Escape", "W"]);
    t.wait_for("OpenStack: not ready");
    t.wait_for("machine id empty");
    t.keys(&["q"]);
    t.wait_for("left with 0");
}
