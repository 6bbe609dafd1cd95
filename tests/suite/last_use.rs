//! When a guest was last used: known logs with known times, beside what `last`, `utmpdump` and `debugfs` say of the same.

use std::path::Path;

use serde_json::Value;

use crate::common::{cowshed, dir, run, s};
use crate::golden::{self, put, through};
use crate::sanitize::report;

/// The fact, and the file it comes from.
fn told(image: &Path) -> Option<(String, String)> {
    let out = cowshed(&["inspect", "--output", "json", s(image)]);
    let v: Value = serde_json::from_slice(&out.stdout).unwrap();
    let facts: Vec<&Value> = v["guest"].as_array().unwrap().iter().filter(|f| f["what"] == "last-use").collect();
    assert!(facts.len() < 2, "{facts:?}");
    let text = |f: &Value, k: &str| f[k].as_str().unwrap().to_string();
    facts.first().map(|f| (text(f, "value"), text(f, "from")))
}

/// Writes a file and sets its time.
fn at(root: &Path, path: &str, content: impl AsRef<[u8]>, time: &str) {
    put(root, path, content);
    run("touch", &["-d", time, s(&root.join(path.trim_start_matches('/')))]);
}

/// Records of wtmp as `utmpdump` makes them: (type, user, time).
fn wtmp(records: &[(u8, &str, &str)]) -> Vec<u8> {
    let lines: Vec<String> = records
        .iter()
        .map(|(kind, user, time)| {
            format!("[{kind}] [00042] [~~  ] [{user:<8}] [tty1        ] [6.1.0-9-amd64       ] [0.0.0.0        ] [{time},000000+00:00]\n")
        })
        .collect();
    let made = through("utmpdump", &["-r"], Path::new("."), lines.concat().as_bytes());
    assert_eq!(made.len(), records.len() * 384);
    made
}

/// The newest time that `last` shows of a wtmp, as cowshed writes it.
fn newest_by_last(file: &Path) -> String {
    let out = run("last", &["-x", "-f", s(file), "--time-format", "iso"]);
    let shown = String::from_utf8(out.stdout).unwrap();
    let times = shown.lines().flat_map(str::split_whitespace).filter(|w| w.starts_with("20") && w.contains('T'));
    let times = times.map(|t| t.parse::<jiff::Timestamp>().unwrap_or_else(|e| panic!("{t}: {e}")));
    times.max().unwrap_or_else(|| panic!("{shown}")).to_string()
}

fn filesystem(root: &Path, image: &Path, kind: &str) {
    let _ = std::fs::remove_file(image);
    if kind == "btrfs" {
        run("truncate", &["-s", "128M", s(image)]);
        run("mkfs.btrfs", &["-q", "-r", s(root), s(image)]);
    } else {
        run("mke2fs", &["-q", "-F", "-t", kind, "-I", "256", "-d", s(root), s(image), "24M"]);
    }
}

#[test]
fn the_newest_of_what_a_running_system_leaves_is_told() {
    let d = dir();
    let image = d.path().join("x.raw");
    let journal = "/var/log/journal/0123456789abcdef0123456789abcdef/system.journal";
    let root = d.path().join("root");
    golden::tree(&root, d.path());
    filesystem(&root, &image, "ext4");
    assert_eq!(told(&image), None, "nothing was left");
    // Each in turn is the newest there is; a file that says nothing is none.
    let mut expected = None;
    for (path, time) in [
        ("/var/log/cloud-init.log", "2024-01-02T03:04:05Z"),
        ("/var/log/syslog", "2024-02-02T03:04:05Z"),
        ("/var/log/lastlog", "2024-02-02T03:04:06Z"),
        (journal, "2024-03-02T03:04:05Z"),
        ("/var/log/messages", "2024-03-01T00:00:00Z"),
        ("/var/lib/systemd/random-seed", "2024-04-02T03:04:05Z"),
        ("/var/lib/systemd/timesync/clock", "2024-05-02T23:59:59Z"),
    ] {
        at(&root, path, "something", time);
        at(&root, "/var/log/secure", "", "2030-01-01T00:00:00Z");
        at(&root, "/var/log/of-another-program.log", "x", "2030-01-01T00:00:00Z");
        expected = expected.max(Some((time.to_string(), path.to_string())));
        for kind in ["ext4", "ext3", "btrfs"] {
            filesystem(&root, &image, kind);
            assert_eq!(told(&image), expected, "{kind}: {path}");
        }
    }
    // The time in the inode itself, before 2038 and after.
    filesystem(&root, &image, "ext4");
    for (mtime, extra, time) in [("1700000000", "0", "2023-11-14T22:13:20Z"), ("0", "1", "2106-02-07T06:28:16Z")] {
        for (field, value) in [("mtime", format!("@{mtime}")), ("mtime_extra", extra.to_string())] {
            let command = format!("sif /var/lib/systemd/timesync/clock {field} {value}");
            run("debugfs", &["-w", "-R", &command, s(&image)]);
        }
        let found = told(&image).unwrap();
        let newest = time.max("2024-04-02T03:04:05Z");
        assert_eq!(found.0, newest, "{found:?}");
    }
    // Sanitising empties and removes them: it is no use of the guest.
    filesystem(&root, &image, "ext4");
    let (code, _, err) = report(&["--no-undo", s(&image)]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(told(&image).map(|t| t.1), Some("/var/lib/systemd/timesync/clock".into()));
    assert_eq!(told(&image).map(|t| t.0), Some("2024-05-02T23:59:59Z".into()));
    run("debugfs", &["-w", "-R", "rm /var/lib/systemd/timesync/clock", s(&image)]);
    assert_eq!(told(&image), None, "only what was emptied is left");
}

#[test]
fn the_last_record_of_wtmp_counts_more_than_the_files_own_time() {
    let d = dir();
    let (root, image) = (d.path().join("root"), d.path().join("x.raw"));
    golden::tree(&root, d.path());
    let file = root.join("var/log/wtmp");
    at(&root, "/var/log/syslog", "x", "2024-03-01T00:00:00Z");
    let boot = (2, "reboot", "2024-03-05T08:00:00");
    let login = (7, "alice", "2024-03-05T08:10:11");
    let logout = (8, "", "2024-03-05T09:20:30");
    let stop = (1, "shutdown", "2024-03-05T10:00:01");
    for records in [&[boot][..], &[boot, login], &[boot, login, logout], &[boot, login, logout, stop]] {
        at(&root, "/var/log/wtmp", wtmp(records), "2030-01-01T00:00:00Z");
        filesystem(&root, &image, "ext4");
        let last = format!("{}Z", records.last().unwrap().2);
        assert_eq!(told(&image), Some((last.clone(), "/var/log/wtmp".into())), "{records:?}");
        // `last` shows the end of a login by itself only where it is paired; the shutdown it shows.
        assert!(newest_by_last(&file) == last || records.len() == 3, "{records:?}: {}", newest_by_last(&file));
        let dumped = String::from_utf8(run("utmpdump", &[&file]).stdout).unwrap();
        assert!(dumped.trim_end().ends_with(&format!("[{},000000+00:00]", records.last().unwrap().2)), "{dumped}");
    }
    // A log that is younger wins.
    at(&root, "/var/log/syslog", "x", "2024-03-06T00:00:00Z");
    filesystem(&root, &image, "ext4");
    assert_eq!(told(&image), Some(("2024-03-06T00:00:00Z".into(), "/var/log/syslog".into())));
    std::fs::remove_file(root.join("var/log/syslog")).unwrap();
    // Records that tell nothing at the end, or half a one; then nothing but such.
    let good = wtmp(&[boot, login]);
    let mut zeros = good.clone();
    zeros.extend([0; 384]);
    let half = [good.as_slice(), &[7; 100]].concat();
    for (bytes, time) in
        [(zeros, "2024-03-05T08:10:11Z"), (half, "2024-03-05T08:10:11Z"), (vec![0x55; 800], "2025-01-01T00:00:00Z")]
    {
        at(&root, "/var/log/wtmp", bytes, "2025-01-01T00:00:00Z");
        filesystem(&root, &image, "ext4");
        assert_eq!(told(&image), Some((time.into(), "/var/log/wtmp".into())));
    }
}
