//! A program in a tmux of its own: a server per test, so that nothing of the person running them is touched.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long to wait for something to be on the screen: long, as test machines are busy.
const PATIENCE: Duration = Duration::from_secs(40);

/// A terminal with cowshed in it.
pub(crate) struct Tmux {
    socket: String,
    dir: PathBuf,
    home: tempfile::TempDir,
}

impl Tmux {
    /// Opens cowshed on `dir`, and says how it left.
    pub(crate) fn start(columns: u16, rows: u16, dir: &Path, env: &[(&str, &str)]) -> Self {
        let script = format!(
            "{} {}; echo left with $?; stty -a | grep -q -- -icanon && echo icanon off || echo icanon on; exec sleep 1000",
            env!("CARGO_BIN_EXE_cowshed"),
            dir.display()
        );
        Self::new(columns, rows, dir, env, &["sh", "-c", &script])
    }

    /// Opens an interactive shell in `dir`.
    pub(crate) fn shell(columns: u16, rows: u16, dir: &Path) -> Self {
        Self::new(columns, rows, dir, &[("PS1", "$ ")], &["bash", "--norc", "-i"])
    }

    fn new(columns: u16, rows: u16, dir: &Path, env: &[(&str, &str)], command: &[&str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let socket = format!("cowshed-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let home = tempfile::tempdir().unwrap();
        let t = Tmux { socket, dir: dir.to_path_buf(), home };
        let mut all = vec![
            ("HOME", t.home.path().to_str().unwrap()),
            ("LANG", "C.UTF-8"),
            ("LC_ALL", "C.UTF-8"),
            ("TERM", "tmux-256color"),
        ];
        all.extend_from_slice(env);
        let env: Vec<String> = all.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let (w, h) = (columns.to_string(), rows.to_string());
        let mut args = vec!["new-session", "-d", "-x", &w, "-y", &h, "-c", dir.to_str().unwrap(), "env", "-u", "NO_COLOR"];
        args.extend(["-u", "XDG_STATE_HOME", "-u", "XDG_CONFIG_HOME", "-u", "XDG_CACHE_HOME"]);
        args.extend(env.iter().map(String::as_str));
        args.extend_from_slice(command);
        t.tmux(&args);
        t.tmux(&["set-option", "-g", "window-size", "manual"]);
        t.tmux(&["set-option", "-g", "escape-time", "0"]);
        t
    }

    fn tmux(&self, args: &[&str]) -> String {
        let out = Command::new("tmux").args(["-u", "-f", "/dev/null", "-L", &self.socket]).args(args).output();
        let out = out.expect("tmux cannot be run: tests/run installs it");
        assert!(out.status.success(), "tmux {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// Presses keys, by tmux's names.
    pub(crate) fn keys(&mut self, keys: &[&str]) {
        for k in keys {
            self.tmux(&["send-keys", k]);
            // An escape right before another key would be that key with Alt.
            std::thread::sleep(Duration::from_millis(if *k == "Escape" { 150 } else { 30 }));
        }
    }
    /// Types text.
    pub(crate) fn text(&mut self, text: &str) {
        self.tmux(&["send-keys", "-l", "--", text]);
        std::thread::sleep(Duration::from_millis(50));
    }
    /// What is on the screen.
    pub(crate) fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }
    /// The same with its escape sequences.
    pub(crate) fn styled(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-e"])
    }
    /// Waits until `text` is on the screen.
    pub(crate) fn wait_for(&mut self, text: &str) {
        self.wait(text, true);
    }
    /// Waits until `text` is not on the screen.
    pub(crate) fn wait_for_not(&mut self, text: &str) {
        self.wait(text, false);
    }
    fn wait(&self, text: &str, there: bool) {
        let start = Instant::now();
        while self.screen().contains(text) != there {
            assert!(
                start.elapsed() < PATIENCE,
                "'{text}' {} seen:\n{}",
                if there { "is not" } else { "is still" },
                self.screen()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    /// Another background, which it tells who asks.
    pub(crate) fn background(&mut self, colour: &str) {
        self.tmux(&["set-option", "-g", "window-style", &format!("bg={colour}")]);
    }
    /// A flag of the pane.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.tmux(&["display-message", "-p", &format!("#{{{name}}}")]).trim() == "1"
    }
    /// Another size.
    pub(crate) fn resize(&mut self, columns: u16, rows: u16) {
        self.tmux(&["resize-window", "-x", &columns.to_string(), "-y", &rows.to_string()]);
    }
    /// Writes everything drawn from now on into a file.
    pub(crate) fn record(&mut self) -> PathBuf {
        let file = self.home.path().join("drawn");
        std::fs::write(&file, b"").unwrap();
        self.tmux(&["pipe-pane", &format!("cat >> {}", file.display())]);
        file
    }
    /// The process of cowshed.
    fn pid(&self) -> u32 {
        let shell: u32 = self.tmux(&["display-message", "-p", "#{pane_pid}"]).trim().parse().unwrap();
        let children = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap();
        children.split_whitespace().next().expect("cowshed runs").parse().unwrap()
    }
    /// Sends it a signal.
    pub(crate) fn signal(&mut self, name: &str) {
        let ok = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().unwrap();
        assert!(ok.success());
    }
    /// Kills it, and waits until it is gone: the screen stays as it was.
    pub(crate) fn kill(&mut self) {
        let pid = self.pid();
        self.signal("KILL");
        let start = Instant::now();
        while Path::new(&format!("/proc/{pid}")).exists() {
            assert!(start.elapsed() < PATIENCE, "it lives on");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    /// Processor time so far, in ticks of 10 ms.
    pub(crate) fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }
    /// Its home, kept for another run.
    pub(crate) fn home(&self) -> PathBuf {
        let copy = self.dir.join(".home");
        assert!(Command::new("cp").arg("-a").args([self.home.path(), &copy]).status().unwrap().success());
        copy
    }
    /// qemu-img's map of an image.
    pub(crate) fn qemu_map(&self, name: &str) -> serde_json::Value {
        let out = qemu_img(&["map", "--output=json", self.dir.join(name).to_str().unwrap()]);
        serde_json::from_slice(&out.stdout).unwrap()
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = Command::new("tmux").args(["-L", &self.socket, "kill-server"]).output();
    }
}

/// Runs `qemu-img`.
pub(crate) fn qemu_img(args: &[&str]) -> Output {
    let out = Command::new("qemu-img").args(args).output().expect("qemu-img cannot be run: tests/run installs it");
    assert!(out.status.success(), "qemu-img {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    out
}

/// Runs commands of `qemu-io` on a qcow2 image.
pub(crate) fn qemu_io(file: &str, commands: &[&str]) {
    let mut c = Command::new("qemu-io");
    c.args(["-t", "unsafe", "-f", "qcow2", file]);
    commands.iter().for_each(|x| {
        c.args(["-c", x]);
    });
    let out = c.output().expect("qemu-io cannot be run: tests/run installs it");
    assert!(out.status.success(), "qemu-io: {}", String::from_utf8_lossy(&out.stderr));
}
