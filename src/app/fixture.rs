//! A model with a library made by hand, for the tests of updating and drawing: the same on every machine and at every time.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::clock::Now;
use super::key::Key;
use super::message::Message;
use super::model::Model;
use super::state::scroll::Scroll;
use super::update::{drawn, update};
use super::worker::library::Snapshot as Scanned;
use super::worker::snapshots::{Listing, News, SnapshotsLoaded};
use super::{Effect, hits::Hits};
use crate::engine::error::Error;
use crate::engine::format::Format;
use crate::engine::format::probe::{Confidence, Match};
use crate::engine::format::qcow2::lineage::{Kin, Lineage};
use crate::engine::format::qcow2::usage::{Share, Usage};
use crate::engine::guest::sanitize::operations;
use crate::engine::io::locks::{Holder, LockState};
use crate::engine::library::{
    Domain, DomainState, EntryKind, Facts, Found, Grouping, Library, Root, ScanEvent, Stamp, duplicates, forest, orphans,
};
use crate::engine::model::{BackingRef, ParentIdentity, Snapshot};
use crate::engine::ops::checking::Checked;
use crate::engine::ops::sanitize::{
    Entry as SanitizeEntry, Kept, Report as SanitizeReport, Residue, Scanned as ByteScan, Shown, State as SanitizeState, UndoFile,
};
use crate::engine::units::{GIB, MIB};

/// When it is: 2026-11-23 12:00 UTC.
pub(crate) const NOW: i64 = 1_795_435_200;
const ROOT: &str = "/srv/images";

/// An image of the fixture.
#[derive(Default)]
pub(crate) struct Made {
    pub(crate) name: &'static str,
    pub(crate) format: Option<Format>,
    pub(crate) size: u64,
    pub(crate) on_disk: u64,
    pub(crate) allocated: Option<u64>,
    pub(crate) snapshots: Option<u32>,
    pub(crate) base: Option<&'static str>,
    pub(crate) lock: LockState,
    pub(crate) error: Option<Error>,
    pub(crate) warnings: Vec<String>,
}

fn found(i: u64, m: &Made) -> Found {
    let facts = Facts {
        format: m.format,
        matches: m
            .format
            .map(|f| Match { format: f, evidence: "by hand".into(), confidence: Confidence::Certain })
            .into_iter()
            .collect(),
        virtual_size: m.error.is_none().then_some(m.size),
        cluster_size: (m.format == Some(Format::Qcow2)).then_some(65536),
        snapshots: m.snapshots,
        backing: m.base.map(|b| BackingRef {
            names: vec![b.into()],
            format: Some("qcow2".into()),
            identity: ParentIdentity::Name,
        }),
        warnings: m.warnings.clone(),
        error: m.error.clone(),
        ..Facts::default()
    };
    let ns = (NOW - 3600 * i as i64) * 1_000_000_000;
    Found {
        path: Path::new(ROOT).join(m.name),
        root: 0,
        kind: EntryKind::Image,
        stamp: Stamp { dev: 1, ino: 100 + i, len: m.on_disk, mtime_ns: ns, ctime_ns: ns },
        actual_size: m.on_disk,
        facts: Arc::new(facts),
        allocated: m.allocated,
        lock: m.lock.clone(),
    }
}

/// The library of the images given.
pub(crate) fn library(images: &[Made]) -> Library {
    let mut lib = Library::new();
    let root = Root { path: PathBuf::from(ROOT), real: PathBuf::from(ROOT), error: None, free: Some(212 * GIB) };
    lib.apply(ScanEvent::Roots(vec![root]));
    lib.apply(ScanEvent::Domains(vec![Domain {
        name: "web-01".into(),
        state: DomainState::Running,
        disks: vec![(Path::new(ROOT).join("web-01.qcow2"), "vda".into())],
    }]));
    lib.apply(ScanEvent::Found((0u64..).zip(images).map(|(i, m)| found(i, m)).collect()));
    lib.apply(ScanEvent::Done { complete: true, cache_error: None });
    lib.relink();
    lib
}

/// A chain of three, one that is broken, one of another format, one in a folder, one with a wide name.
pub(crate) fn images() -> Vec<Made> {
    let qcow2 = Some(Format::Qcow2);
    let made = |name, size, on_disk, allocated: u64, base| Made {
        name,
        format: qcow2,
        size: size * GIB,
        on_disk: on_disk * MIB,
        allocated: Some(allocated * MIB),
        snapshots: Some(0),
        base,
        lock: LockState::Free,
        ..Made::default()
    };
    let holder = Holder { pid: Some(4121), name: Some("qemu-system-x86".into()) };
    vec![
        made("debian-12-base.qcow2", 20, 2150, 2252, None),
        Made {
            snapshots: Some(4),
            lock: LockState::Writer(vec![holder]),
            ..made("web-01.qcow2", 40, 6553, 6553, Some("debian-12-base.qcow2"))
        },
        made("web-01.before-upgrade.qcow2", 40, 900, 819, Some("web-01.qcow2")),
        made("web-02.qcow2", 40, 5120, 4915, Some("debian-12-base.qcow2")),
        made("app-data.qcow2", 500, 122_880, 122_880, Some("/old/pool/app-base.qcow2")),
        Made { format: Some(Format::Vhdx), snapshots: None, allocated: None, ..made("win2022-gold.vhdx", 127, 19_251, 0, None) },
        Made {
            error: Some(
                Error::corrupt("the L1 table lies past the end of the file")
                    .op("read L1 table")
                    .at(0x30000)
                    .hint("restore it from a copy"),
            ),
            ..made("old/broken-2019.qcow2", 10, 3379, 0, None)
        },
        Made { warnings: vec!["it was not closed properly".into()], ..made("日本語の円盤.qcow2", 5, 10, 5, None) },
    ]
}

/// The snapshots of `web-01.qcow2`: a line with a branch, and what each costs.
pub(crate) fn listing() -> (Listing, Usage, Lineage) {
    let snapshot = |id: usize, name: &str, state: u64| Snapshot {
        id: id.to_string(),
        name: name.into(),
        vm_state_size: state,
        date_sec: 1_794_000_000 + id as u32 * 86_400,
        date_nsec: 0,
        vm_clock_nsec: 0,
        icount: None,
        disk_size: 40 * GIB,
    };
    let snapshots = vec![
        snapshot(1, "fresh-install", 0),
        snapshot(2, "drivers-ok", 0),
        snapshot(3, "mysql8\x1b[31m-broken", 512 * MIB),
        snapshot(4, "before-upgrade", 0),
    ];
    let listing = Listing {
        format: Format::Qcow2,
        virtual_size: 40 * GIB,
        on_disk: 6553 * MIB,
        len: 7 * GIB,
        modified: NOW - 3600,
        snapshots,
        lock: LockState::Free,
        broken: false,
        branch: Err(Error::usage("a fixture has no file")),
    };
    let share = |exclusive: u64, referred: u64| Share { exclusive: exclusive * MIB, referred: referred * MIB };
    let usage =
        Usage { live: share(412, 3200), snapshots: vec![share(96, 1200), share(12, 1400), share(1945, 3900), share(1, 2800)] };
    let kin = |parent, shared, own| Kin { parent, shared, own };
    let lineage = Lineage {
        snapshots: vec![
            kin(None, 0, 19_200),
            kin(Some(0), 17_664, 22_400),
            kin(Some(1), 22_000, 62_400),
            kin(Some(1), 22_208, 44_800),
        ],
        live: kin(Some(3), 44_000, 51_200),
        sampled: false,
    };
    (listing, usage, lineage)
}

/// Answers for the snapshots' screen, as its thread would.
pub(crate) fn list_snapshots(m: &mut Model) {
    let (listing, usage, lineage) = listing();
    for news in [News::Listing(Ok(Arc::new(listing))), News::Usage(Ok(Some(usage))), News::Lineage(Ok(lineage))] {
        let generation = m.snaps.generation;
        update(m, Message::Snapshots(Box::new(SnapshotsLoaded { generation, news })));
    }
}

/// What a check of the image under the cursor found: damage, and lost space.
pub(crate) fn checked(m: &Model) -> Arc<Checked> {
    use crate::engine::format::check::{CheckReport, Mend, Rule, Severity, Spot};
    static RULES: [Rule; 2] = [
        Rule {
            id: "overlap",
            severity: Severity::Corruption,
            title: "clusters that two places use",
            means: "a write to the one changes the other: what the guest finds there may be anything",
            mend: Mend::All,
            repair: "gives each its own copy",
        },
        Rule {
            id: "leak",
            severity: Severity::Leak,
            title: "clusters that nothing uses",
            means: "the guest's data is not concerned; the space is lost until it is given back",
            mend: Mend::Leaks,
            repair: "gives the space back",
        },
    ];
    let mut report = CheckReport { total: 655_360, allocated: 104_857, fragmented: 2_097, ..CheckReport::default() };
    report.image_end = Some(6 * GIB);
    let [overlap, leak] = &RULES;
    for n in 0..9u64 {
        let at = Some(0x50000 + n * 0x10000);
        report.note(leak, Spot { offset: at, guest: None, detail: "refcount 1, used 0 times".into() });
    }
    report.note(overlap, Spot { offset: Some(0x30000), guest: Some((GIB, 65536)), detail: "a\x1b[31mname".into() });
    let entry = m.subject_entry().expect("an image");
    Arc::new(Checked { image: entry.path.clone(), format: Format::Qcow2, stamp: entry.stamp, report })
}

/// What sanitising the image at `path` would do, or did: files edited, removed, wiped; and every state there is.
pub(crate) fn sanitized(path: &str, done: bool) -> SanitizeReport {
    let change = |path: &str, what, reason, before, diff: &[&str]| Shown {
        path: path.into(),
        what,
        reason,
        before,
        diff: diff.iter().map(ToString::to_string).collect(),
    };
    let entry = |id: &str, state, changes: Vec<Shown>, notes: &[&str], warnings: &[&str]| {
        let o = operations::all().find(|o| o.id == id).expect("an operation");
        let own = |all: &[&str]| all.iter().map(ToString::to_string).collect();
        let (notes, warnings) = (own(notes), own(warnings));
        SanitizeEntry { id: o.id, title: o.title, state, changes, notes, warnings, verified: o.verified }
    };
    let state = if done { SanitizeState::Done } else { SanitizeState::Planned };
    let tied = "ties the interface to the hardware address of the machine it was made on";
    let key = "every clone would have the same key, and whoever has one has them all";
    let find = |from: &str, place: &str, residue| Residue {
        from: from.into(),
        offset: 0x5000,
        count: 1,
        file: path.into(),
        place: place.into(),
        residue,
    };
    SanitizeReport {
        image: path.into(),
        operations: vec![
            entry("udev-net", SanitizeState::NothingToDo, Vec::new(), &[], &[]),
            entry(
                "net-hwaddr",
                state,
                vec![
                    change("/etc/sysconfig/network-scripts/ifcfg-eth0", "edit", tied, 148, &["-HWADDR=52:54:00:12:34:56"]),
                    change(
                        "/etc/netplan/50-cloud-init.yaml",
                        "edit",
                        tied,
                        135,
                        &["-  macaddress: 52:54:00:12:34:56", "+  a: b"],
                    ),
                ],
                &[],
                &[],
            ),
            entry("sshd-check", SanitizeState::Reported, Vec::new(), &["SSH server: /usr/sbin/sshd"], &[]),
            entry("firewall", SanitizeState::Reported, Vec::new(), &[], &["ufw is switched on; firewall-off disables it"]),
            entry(
                "ssh-hostkeys",
                state,
                vec![
                    change("/etc/ssh/ssh_host_rsa_key", "remove", key, 2602, &[]),
                    change("/etc/ssh/ssh_host_\\x1b[31m_key", "remove", key, 565, &[]),
                ],
                &[],
                &[],
            ),
            entry("hostname", SanitizeState::Refused, Vec::new(), &["it lies on a filesystem that is not written"], &[]),
            entry("mail", SanitizeState::NothingToDo, Vec::new(), &[], &[]),
            entry("scrub", state, Vec::new(), &[], &[]),
        ],
        volumes: vec!["p3: ext4, checked before and after".into()],
        written: 196 << 10,
        zeroed: 28 * MIB,
        undo: Some(UndoFile { path: Some(format!("{path}.sanitize-undo").into()), bytes: 8 * MIB }),
        warnings: vec![
            "2 internal snapshots of it with the old data: fresh, before; delete them, or make a new image of it".into(),
        ],
        scan: done.then(|| ByteScan {
            needles: 412,
            bytes: 2 * GIB,
            found: vec![find("/etc/ssh/ssh_host_rsa_key", "the file /root/notes", false)],
        }),
    }
}

/// What its undo file says.
pub(crate) fn kept(path: &str) -> Kept {
    Kept {
        path: format!("{path}.sanitize-undo").into(),
        made: "2026-11-23T11:58:00.612025813Z".into(),
        bytes: 8 * MIB,
        half_done: false,
    }
}

/// A model of a screen of that size, with that library.
pub(crate) fn model(size: (u16, u16), library: Library) -> Model {
    let mut m = Model {
        size,
        focused: true,
        mouse: true,
        roots: vec![ROOT.into()],
        now: Now { ms: 1000, unix: NOW },
        ..Model::default()
    };
    m.library.loading = true;
    let forest = (Grouping::Chain, forest(&library, Grouping::Chain));
    let (orphans, duplicates) = (orphans(&library), duplicates(&library));
    update(&mut m, Message::Library(Box::new(Scanned { library, forest, orphans, duplicates })));
    m.library.scroll = Scroll { height: usize::from(size.1), ..Scroll::default() };
    drawn(&mut m, Hits::default());
    m
}

/// Types keys, separated by blanks; a word that is no key is typed letter by letter. Gives every effect asked for.
pub(crate) fn keys(m: &mut Model, keys: &str) -> Vec<Effect> {
    let mut effects = Vec::new();
    for word in keys.split(' ').filter(|w| !w.is_empty()) {
        match Key::parse(word) {
            Some(key) => effects.extend(update(m, Message::Key(key))),
            None => {
                for c in word.chars() {
                    let key = Key::parse(&c.to_string()).expect("a letter is a key");
                    effects.extend(update(m, Message::Key(key)));
                }
            }
        }
    }
    effects
}
