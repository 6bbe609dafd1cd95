//! When the guest was last used: the newest of what a running system leaves behind.

use super::Identity;
use crate::engine::guest::fs::FileType;
use crate::engine::guest::tree::Guest;
use crate::engine::io::bytes::{le16, le32, le64};

/// Files that a running system writes again and again, or when it starts or stops.
const WRITTEN: &[&str] = &[
    "/var/log/lastlog",
    "/var/lib/lastlog/lastlog2.db",
    "/var/lib/wtmpdb/wtmp.db",
    "/var/log/syslog",
    "/var/log/messages",
    "/var/log/auth.log",
    "/var/log/secure",
    "/var/log/kern.log",
    "/var/log/cron",
    "/var/log/dmesg",
    "/var/log/cloud-init.log",
    "/var/lib/systemd/random-seed",
    "/var/lib/systemd/timesync/clock",
];
/// Logins, starts and stops.
const WTMP: &str = "/var/log/wtmp";
/// Where systemd keeps its journals, in a folder for each machine id.
const JOURNALS: &str = "/var/log/journal";
/// Folders and journals looked at, at most.
const MAX_JOURNALS: usize = 1000;
/// Records of `wtmp` looked at from its end on, until one tells a time.
const MAX_RECORDS: u64 = 64;

pub(super) fn add(g: &Guest, id: &mut Identity) {
    let mut all: Vec<(i64, String)> = Vec::new();
    if let Some((size, mtime)) = file(g, WTMP) {
        // A record is written when something happened; the file may be younger, where it was copied.
        all.push((last_record(g, size, id.get("architecture")).unwrap_or(mtime), WTMP.into()));
    }
    let journals = g.names(JOURNALS).into_iter().take(MAX_JOURNALS).flat_map(|folder| {
        let at = format!("{JOURNALS}/{folder}");
        let journals = g.names(&at).into_iter().filter(|n| n.ends_with(".journal"));
        journals.map(|n| format!("{at}/{n}")).collect::<Vec<_>>()
    });
    let written = WRITTEN.iter().map(|p| (*p).to_string()).chain(journals.take(MAX_JOURNALS));
    all.extend(written.filter_map(|path| Some((file(g, &path)?.1, path))));
    let newest = all.into_iter().filter(|(at, _)| *at > 0).max();
    if let Some((at, from)) = newest
        && let Ok(time) = jiff::Timestamp::from_second(at)
    {
        id.add("last-use", time.to_string(), from);
    }
}

/// Size and last change of the regular file at `path`. An empty one tells nothing: what was in it went with whoever emptied it.
fn file(g: &Guest, path: &str) -> Option<(u64, i64)> {
    let stat = g.stat(g.resolve(path.as_bytes(), true).ok()?).ok()?;
    (stat.kind == FileType::File && stat.size > 0).then_some((stat.size, stat.mtime))
}

/// Seconds since 1970 of the last record of `wtmp` (utmp(5)): its time has 4 bytes on machines that kept it for their 32-bit programs,
/// and 8 on 64-bit ARM. `None` when none tells one, or where that is not known.
fn last_record(g: &Guest, size: u64, architecture: Option<&str>) -> Option<i64> {
    let wide = match architecture? {
        "x86_64" | "i686" | "armv7" | "ppc64le" => false,
        "aarch64" => true,
        _ => return None,
    };
    let (len, at) = if wide { (400, 344) } else { (384, 340) };
    let spot = g.resolve(WTMP.as_bytes(), true).ok()?;
    let count = size / len;
    (count.saturating_sub(MAX_RECORDS)..count).rev().find_map(|n| {
        let mut record = vec![0u8; len as usize];
        if g.read(spot, n * len, &mut record).ok()? < record.len() {
            return None;
        }
        // From "run level" to "process ended"; others tell of no event.
        let known = le16(&record, 0).is_some_and(|kind| (1..=8).contains(&kind));
        let time = if wide { le64(&record, at)? as i64 } else { i64::from(le32(&record, at)?) };
        (known && time > 0).then_some(time)
    })
}
