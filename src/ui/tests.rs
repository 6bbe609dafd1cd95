//! The views as text at several sizes, against files in `tests/data/screens`; `COWSHED_BLESS=1` renews them, and a person looks at the
//! difference.

use std::sync::Arc;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::style::Modifier;

use super::theme::Depth;
use super::{Look, draw};
use crate::app::fixture::{images, keys, library, model};
use crate::app::hits::Hits;
use crate::app::message::Message;
use crate::app::state::map::Colour;
use crate::app::update::{drawn, update};
use crate::app::worker::guest::{FileRow, FilesLoaded, Look as Seen, LookLoaded, News, VolumeRow, Want};
use crate::app::worker::image::{CursorLoaded, FreeHere, GridLoaded, InsideLoaded, MapLayer, PageData, PageLoaded, SharesLoaded};
use crate::app::{Effect, Model};
use crate::engine::extents::{Cell, Cells, Totals};
use crate::engine::format::Format;
use crate::engine::format::probe::{Confidence, Match};
use crate::engine::guest::fs::{FileType, Stat};
use crate::engine::guest::identity::GuestFact;
use crate::engine::guest::owners::Owners;
use crate::engine::guest::ready::{Answer, Finding, Part, Property, Readiness, Remedy, TARGETS};
use crate::engine::model::{ChainNode, Description, Extent, Fact, Kind, Place, Snapshot};
use crate::engine::spans::Set;
use crate::engine::units::{GIB, MIB};

const SIZES: [(u16, u16); 4] = [(80, 24), (120, 36), (200, 60), (60, 15)];

fn look(depth: Depth, unicode: bool) -> Look {
    Look::new("terminal", depth, unicode, &|_| Err(std::io::ErrorKind::NotFound.into())).0
}

/// Draws twice, as the loop does: the first drawing says how much room there is.
fn render(m: &mut Model, look: &Look) -> (Buffer, Hits, Vec<Effect>) {
    let mut terminal = Terminal::new(TestBackend::new(m.size.0, m.size.1)).unwrap();
    let mut hits = Hits::default();
    let mut effects = Vec::new();
    for _ in 0..2 {
        terminal.draw(|f| hits = draw(m, look, f)).unwrap();
        effects.extend(drawn(m, hits.clone()));
    }
    (terminal.backend().buffer().clone(), hits, effects)
}

fn text(buffer: &Buffer) -> String {
    let mut out = String::new();
    for y in 0..buffer.area.height {
        let mut skip = 0;
        let mut line = String::new();
        for x in 0..buffer.area.width {
            let symbol = buffer[(x, y)].symbol();
            if skip == 0 {
                line.push_str(symbol);
                skip = super::text::width(symbol).saturating_sub(1);
            } else {
                skip -= 1;
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn golden(name: &str, shown: &str) {
    let path = format!("{}/tests/data/screens/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("COWSHED_BLESS").is_some() {
        std::fs::write(&path, shown).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(expected == shown, "{name} is drawn differently (COWSHED_BLESS=1 renews it):\n{shown}");
}

fn start(size: (u16, u16)) -> Model {
    model(size, library(&images()))
}

#[test]
fn the_library_at_every_size() {
    for (w, h) in SIZES {
        let mut m = start((w, h));
        keys(&mut m, "j j j");
        let (buffer, ..) = render(&mut m, &look(Depth::Ansi, true));
        golden(&format!("library-{w}x{h}"), &text(&buffer));
    }
}

#[test]
fn what_is_wrong_is_told_in_full() {
    let mut m = start((120, 36));
    keys(&mut m, "j");
    let (buffer, ..) = render(&mut m, &look(Depth::Ansi, true));
    golden("library-broken", &text(&buffer));
}

#[test]
fn a_filter_and_its_count() {
    let mut m = start((100, 30));
    keys(&mut m, "/ web");
    let (buffer, ..) = render(&mut m, &look(Depth::Ansi, true));
    golden("library-filter", &text(&buffer));
}

#[test]
fn an_empty_library_says_what_to_do() {
    let mut m = model((80, 24), library(&[]));
    let (buffer, ..) = render(&mut m, &look(Depth::Ansi, true));
    golden("library-empty", &text(&buffer));
}

#[test]
fn ascii_is_ascii() {
    let mut m = start((120, 36));
    // The one image whose name is not ASCII is not ours to spell.
    keys(&mut m, "/ web enter");
    let (buffer, ..) = render(&mut m, &look(Depth::Mono, false));
    let shown = text(&buffer);
    assert!(shown.is_ascii(), "{shown}");
    golden("library-ascii", &shown);
}

#[test]
fn help_palette_and_guide() {
    for (name, typed) in [("help", "?"), ("help-search", "? fold"), ("palette", ":"), ("guide", "5 j"), ("jobs-empty", "4")] {
        let mut m = start((100, 30));
        keys(&mut m, typed);
        let (buffer, ..) = render(&mut m, &look(Depth::Ansi, true));
        golden(name, &text(&buffer));
    }
}

/// A form with an answer from the disk and a plan, on its first page or its last.
fn formed(size: (u16, u16), typed: &str, plan: bool) -> Model {
    use crate::app::form::Remark;
    use crate::app::message::Level;
    use crate::app::worker::jobs::PlanMade;
    use crate::engine::ops::plan::{Estimate, Plan, PlanFile, Space, Undo};
    let mut m = start(size);
    keys(&mut m, typed);
    let remark = Remark { level: Level::Warning, text: "it is there already and will be replaced".into() };
    let path: std::path::PathBuf = "/srv/images/debian-12-base.1.qcow2".into();
    let made = Plan {
        title: "convert debian-12-base.qcow2 to debian-12-base.1.qcow2 (qcow2, compressed)".into(),
        reads: vec![PlanFile { path: "/srv/images/debian-12-base.qcow2".into(), what: "qcow2 image".into() }],
        writes: vec![PlanFile { path, what: "new qcow2 image".into() }],
        read_bytes: 2252 * MIB,
        write_bytes: Estimate { likely: 1130 * MIB, worst: 2280 * MIB },
        space: Some(Space {
            on: "/srv/images".into(),
            needed: Estimate { likely: 1130 * MIB, worst: 2280 * MIB },
            free: 212 * GIB,
        }),
        losses: vec!["/srv/images/debian-12-base.qcow2 has 2 internal snapshots: not copied".into()],
        undo: Undo::Impossible("the file that has the target's name now is replaced".into()),
        ..Plan::default()
    };
    let generation = m.jobs.plan_generation;
    let made = PlanMade { generation, remarks: vec![("target", remark)], plan: Some(Ok(made)), outlook: None };
    update(&mut m, Message::Plan(Box::new(made)));
    if plan {
        keys(&mut m, "enter");
    }
    m
}

#[test]
fn forms_and_their_plans_at_every_size() {
    for (w, h) in SIZES {
        let mut m = formed((w, h), "j j j c q down down", false);
        let (buffer, ..) = render(&mut m, &look(Depth::Ansi, true));
        golden(&format!("form-convert-{w}x{h}"), &text(&buffer));
        let mut m = formed((w, h), "j j j c q", true);
        let (buffer, ..) = render(&mut m, &look(Depth::Ansi, true));
        golden(&format!("form-plan-{w}x{h}"), &text(&buffer));
    }
    for (name, typed) in [
        ("create", "j j j a tab tab tab 2 0"),
        ("resize", "j j j R 1 x enter"),
        ("relink", "j L n e w tab"),
        ("amend", "j j j l j j A"),
        ("bitmap", "j j j l j j B m down w tab b . q c o w 2"),
    ] {
        let mut m = start((100, 30));
        keys(&mut m, typed);
        let (buffer, ..) = render(&mut m, &look(Depth::Mono, false));
        let shown = text(&buffer);
        golden(&format!("form-{name}-ascii"), &shown);
    }
}

/// Jobs in every state, one of them interrupted.
fn working(size: (u16, u16)) -> Model {
    use crate::app::state::jobs::JobRow;
    use crate::app::update::tests::{interrupted, past};
    use crate::engine::error::Error;
    use crate::engine::job::{Bound, Eta, JobId, JobState, JobView, LogLine, ProgressSnapshot, Sample};
    use crate::engine::ops::plan::{Layout, Plan};
    use crate::engine::ops::{JobSpec, Outcome, convert::ConvertSpec};
    use std::time::{Duration, UNIX_EPOCH};
    let mut m = start(size);
    let at = UNIX_EPOCH + Duration::from_secs(crate::app::fixture::NOW as u64);
    let mut layout = Layout::new(40 * GIB);
    layout.add(0, 12 * GIB);
    layout.add(15 * GIB, 20 * GIB);
    let row = |n: u64, state: JobState, done: u64| {
        let spec = ConvertSpec::new(format!("/srv/images/disk-{n}.vmdk"), format!("/srv/images/disk-{n}.qcow2"), Format::Qcow2);
        let spec = JobSpec::Convert(spec);
        let total = 17 * GIB;
        let live = !state.is_over() && state != JobState::Queued;
        let progress = ProgressSnapshot {
            phase: "copying".into(),
            total,
            done: done * GIB,
            read: done * GIB,
            written: done * GIB / 2,
            skipped: 3 * GIB,
            durable: done * GIB - GIB.min(done * GIB),
            reached: done * GIB,
            read_rate: live.then_some(412 * MIB),
            write_rate: live.then_some(171 * MIB),
            percent: if state == JobState::Done { 100.0 } else { done as f32 / 17.0 * 100.0 },
            eta: live.then_some(Eta { left: Duration::from_secs(461), spread: Duration::from_secs(40) }),
            bound: live.then_some(Bound::Cpu),
            elapsed: Duration::from_secs(502),
        };
        let view = JobView {
            id: JobId(n),
            title: spec.title(),
            spec,
            state,
            why: (state == JobState::Queued).then(|| "waits for its turn".to_string()),
            key: live.then(|| "91ab77c0".to_string()),
            priority: i32::from(state == JobState::Queued),
            limit: if n == 5 { 50 * MIB } else { 0 },
            plan: Some(Arc::new(Plan { title: "x".into(), layout: Some(layout.clone()), ..Plan::default() })),
            progress,
            outcome: (state == JobState::Done).then(|| Outcome { summary: "disk-2.qcow2 is complete".into(), made: Vec::new() }),
            error: (state == JobState::Failed).then(|| Error::corrupt("3 clusters are damaged").op("convert").hint("--salvage")),
            submitted: at,
            ended: state.is_over().then_some(at),
        };
        let sample = |i: u64| Sample {
            read: (i * 37 % 100) * 4 * MIB,
            written: (i * 37 % 100) * 2 * MIB,
            work: 0,
            source: 0.1,
            target: 0.2,
            cpu: 0.7,
            limit: 0.0,
            busy: (i * 13 % 20) as f32 / 10.0,
        };
        let log = vec![LogLine { at, text: "begins".into() }, LogLine { at, text: "a\x1b[31mname".into() }];
        JobRow { view, samples: if live { (0..80).map(sample).collect() } else { Vec::new() }, log }
    };
    let rows = vec![
        row(5, JobState::Running, 11),
        row(4, JobState::Paused, 4),
        row(3, JobState::Queued, 0),
        row(2, JobState::Done, 17),
        row(1, JobState::Failed, 2),
    ];
    update(&mut m, Message::Jobs(rows));
    update(&mut m, Message::Left(vec![interrupted("/srv/images/fin-db.raw", None)]));
    update(&mut m, Message::Past(past()));
    m.notice = None;
    m
}

#[test]
fn the_jobs_at_every_size() {
    for (w, h) in SIZES {
        let mut m = working((w, h));
        keys(&mut m, "4");
        let (buffer, ..) = render(&mut m, &look(Depth::Ansi, true));
        golden(&format!("jobs-{w}x{h}"), &text(&buffer));
    }
    for (name, typed) in [
        ("interrupted", "4 j j j j j"),
        ("past", "4 G k k"),
        ("clear", "4 G D"),
        ("cancel", "4 x"),
        ("quit", "4 q"),
        ("log", "4 L"),
    ] {
        let mut m = working((100, 30));
        keys(&mut m, typed);
        let (buffer, ..) = render(&mut m, &look(Depth::Mono, false));
        let shown = text(&buffer);
        assert!(shown.is_ascii(), "{shown}");
        golden(&format!("jobs-{name}-ascii"), &shown);
    }
}

/// A disk of 40 GiB over two layers, with everything a map can show.
fn mapped(size: (u16, u16)) -> Model {
    let mut m = start(size);
    keys(&mut m, "j j j 3");
    let (_, _, effects) = render(&mut m, &look(Depth::Ansi, true));
    let request = effects.into_iter().rev().find_map(|e| match e {
        Effect::LoadGrid(r) => Some(r),
        _ => None,
    });
    let request = request.expect("drawing the map asks for its cells");
    let size = 40 * GIB;
    let mut cells = Cells { start: 0, end: size, cells: vec![Cell::default(); request.cells], total: Cell::default() };
    for i in 0..cells.cells.len() {
        let (from, to) = cells.range(i);
        let n = to - from;
        let (totals, by_depth) = match i * 16 / cells.cells.len() {
            0..=3 => (Totals { data: n, ..Totals::default() }, vec![n]),
            4 | 5 => (Totals { data: n / 4, unallocated: n - n / 4, ..Totals::default() }, vec![0, n / 4]),
            6 => (Totals { compressed: n, ..Totals::default() }, vec![0, n]),
            7 | 8 => (Totals { zero: n, ..Totals::default() }, vec![n]),
            _ => (Totals { unallocated: n, ..Totals::default() }, vec![]),
        };
        cells.cells[i] = Cell { totals, by_depth };
    }
    cells.total.totals = Totals { data: 11 * GIB, compressed: 2 * GIB, zero: 5 * GIB, unallocated: 22 * GIB };
    let layer = |name: &str| MapLayer { path: format!("/srv/images/{name}").into(), format: Some(Format::Qcow2), size };
    let layers = vec![layer("web-01.qcow2"), layer("debian-12-base.qcow2")];
    update(&mut m, Message::Grid(Box::new(GridLoaded { generation: request.generation, grid: Ok((layers, size, cells)) })));
    let extent = Extent { offset: 0, len: 64 * MIB, kind: Kind::Data, depth: 0, place: Some(Place { file: 0, offset: 0x50000 }) };
    let under = Ok((extent, Some("/srv/images/web-01.qcow2".into())));
    let generation = m.map.cursor_generation;
    update(&mut m, Message::Cursor(Box::new(CursorLoaded { generation, owner: Some("p3 ext4 'root'".into()), under })));
    let free = FreeHere {
        free: Set::of([(6 * GIB, 10 * GIB), (30 * GIB, 40 * GIB)]),
        stored: Set::of([(6 * GIB, 7 * GIB + 300 * MIB), (9 * GIB, 9 * GIB + 200 * MIB)]),
        given: GIB + 400 * MIB,
    };
    let owners = Some(Ok(Arc::new(Owners::sample(b"/var/lib/mysql/ibdata1", 131_204, 0, GIB))));
    let generation = m.map.inside_generation;
    update(&mut m, Message::MapInside(Box::new(InsideLoaded { generation, free: Ok(Arc::new(free)), owners })));
    m
}

#[test]
fn the_map_reads_without_colour() {
    for (w, h) in SIZES {
        let mut m = mapped((w, h));
        let (buffer, ..) = render(&mut m, &look(Depth::Mono, true));
        golden(&format!("map-{w}x{h}"), &text(&buffer));
    }
    let mut m = mapped((120, 36));
    keys(&mut m, "f");
    m.map.cursor = 9 * GIB;
    let (buffer, ..) = render(&mut m, &look(Depth::Mono, true));
    golden("map-free-space", &text(&buffer));
    let mut m = mapped((100, 30));
    m.map.colour = Colour::Depth;
    let (buffer, ..) = render(&mut m, &look(Depth::Mono, false));
    golden("map-ascii-layers", &text(&buffer));
}

/// The page of an overlay over a base, with snapshots.
fn paged(size: (u16, u16)) -> Model {
    let mut m = start(size);
    let effects = keys(&mut m, "j j j l enter");
    let Some(Effect::LoadPage(request)) = effects.into_iter().next() else { panic!("no page was asked for") };
    let node = |name: &str, on_disk: u64, description: Description| ChainNode {
        path: format!("/srv/images/{name}").into(),
        spelled: None,
        format: Some(Format::Qcow2),
        virtual_size: Some(40 * GIB),
        actual_size: Some(on_disk * MIB),
        error: None,
        warnings: Vec::new(),
        description: Arc::new(description),
    };
    let snapshot = |id: &str, name: &str, state: u64| Snapshot {
        id: id.into(),
        name: name.into(),
        vm_state_size: state,
        date_sec: 1_795_000_000,
        date_nsec: 0,
        vm_clock_nsec: 3_723_000_000_000,
        icount: None,
        disk_size: 40 * GIB,
    };
    let top = Description {
        cluster_size: Some(65536),
        facts: vec![
            Fact { label: "version", value: "3 (compat 1.1)".into() },
            Fact { label: "cluster size", value: "64 KiB".into() },
        ],
        snapshots: vec![snapshot("1", "fresh-install", 0), snapshot("2", "a\x1b[31mname", 512 * MIB)],
        ..Description::default()
    };
    let matches = vec![Match { format: Format::Qcow2, evidence: "QFI\\xfb at byte 0".into(), confidence: Confidence::Certain }];
    let page = PageData {
        nodes: vec![node("web-01.qcow2", 6553, top), node("debian-12-base.qcow2", 2150, Description::default())],
        matches,
        problems: vec!["it was not closed properly".into()],
        health: crate::engine::Health::Warning,
        lock: Default::default(),
        len: 7 * GIB,
        modified: crate::app::fixture::NOW - 7200,
    };
    let generation = request.generation;
    update(&mut m, Message::Page(Box::new(PageLoaded { generation, page: Ok(Arc::new(page)) })));
    let mut cells = Cells { start: 0, end: 40 * GIB, cells: Vec::new(), total: Cell::default() };
    for i in 0..64u64 {
        let n = 40 * GIB / 64;
        let cell = match i {
            0..8 => Cell { totals: Totals { data: n, ..Totals::default() }, by_depth: vec![n] },
            8..20 => Cell { totals: Totals { data: n, ..Totals::default() }, by_depth: vec![0, n] },
            _ => Cell { totals: Totals { unallocated: n, ..Totals::default() }, by_depth: Vec::new() },
        };
        cells.total.merge(&cell);
        cells.cells.push(cell);
    }
    update(&mut m, Message::Shares(Box::new(SharesLoaded { generation, shares: Ok(Arc::new(cells)) })));
    m
}

#[test]
fn the_image_page_at_every_size() {
    for (w, h) in SIZES {
        let mut m = paged((w, h));
        let (buffer, ..) = render(&mut m, &look(Depth::Ansi, true));
        golden(&format!("image-{w}x{h}"), &text(&buffer));
    }
}

/// What changed between two snapshots of a disk with two partitions.
fn changed() -> crate::engine::ops::snapshot::diff::Diff {
    use crate::engine::ops::snapshot::diff::{Diff, Region, Side};
    let side = |id: &str| Side { id: Some(id.into()), name: None, size: 40 * GIB };
    let region = |name: &str, kind: &str, start, len, changed| Region {
        name: name.into(),
        partition: None,
        kind: kind.into(),
        start,
        len,
        changed,
    };
    let ranges = vec![(GIB, MIB), (10 * GIB, 2 * GIB), (20 * GIB, 100 * MIB), (30 * GIB, 512), (39 * GIB, GIB)];
    let regions = vec![
        region("p1", "EFI system", MIB, 512 * MIB, 0),
        region("p2", "Linux filesystem", 513 * MIB, 39 * GIB, 3 * GIB),
        region("outside", "", 0, 40 * GIB, 0),
    ];
    Diff { from: side("1"), to: side("3"), quick: false, changed: 3 * GIB + 101 * MIB + 512, ranges, unit: 512, regions }
}

#[test]
fn the_snapshots_at_every_size() {
    use crate::app::fixture::list_snapshots;
    use crate::app::worker::snapshots::{DiffLoaded, FreedLoaded};
    for (w, h) in SIZES {
        let mut m = start((w, h));
        keys(&mut m, "j j j l s");
        list_snapshots(&mut m);
        keys(&mut m, "g j space j space k");
        let generation = m.snaps.freed_generation;
        update(&mut m, Message::Freed(Box::new(FreedLoaded { generation, freed: Ok(2453 * MIB) })));
        let (buffer, ..) = render(&mut m, &look(Depth::Ansi, true));
        golden(&format!("snapshots-{w}x{h}"), &text(&buffer));
        keys(&mut m, "D");
        let generation = m.snaps.diff_generation;
        update(&mut m, Message::Diff(Box::new(DiffLoaded { generation, diff: Ok(Arc::new(changed())) })));
        let (buffer, ..) = render(&mut m, &look(Depth::Ansi, true));
        golden(&format!("snapshots-diff-{w}x{h}"), &text(&buffer));
    }
    let mut m = start((100, 30));
    keys(&mut m, "j j j l s");
    list_snapshots(&mut m);
    let (buffer, ..) = render(&mut m, &look(Depth::Mono, false));
    let shown = text(&buffer);
    assert!(shown.is_ascii(), "{shown}");
    golden("snapshots-ascii", &shown);
}

#[test]
fn a_report_at_every_size() {
    for (w, h) in SIZES {
        let mut m = start((w, h));
        keys(&mut m, "j j j l K");
        let checked = crate::app::fixture::checked(&m);
        update(&mut m, Message::Checked(checked));
        let (buffer, ..) = render(&mut m, &look(Depth::Ansi, true));
        golden(&format!("check-{w}x{h}"), &text(&buffer));
    }
    // The library tells the verdict of what was checked.
    let mut m = start((120, 36));
    keys(&mut m, "j j j l K");
    let checked = crate::app::fixture::checked(&m);
    update(&mut m, Message::Checked(checked));
    keys(&mut m, "esc");
    let (buffer, ..) = render(&mut m, &look(Depth::Ansi, true));
    let shown = text(&buffer);
    assert!(shown.lines().any(|l| l.contains("web-01.qcow2") && l.contains("1 damaged")), "{shown}");
}

#[test]
fn what_is_not_known_yet_is_a_dash() {
    use crate::app::fixture::listing;
    use crate::app::worker::snapshots::{News, SnapshotsLoaded};
    let mut m = start((120, 36));
    keys(&mut m, "j j j l s");
    let generation = m.snaps.generation;
    let news = News::Listing(Ok(Arc::new(listing().0)));
    update(&mut m, Message::Snapshots(Box::new(SnapshotsLoaded { generation, news })));
    let (buffer, ..) = render(&mut m, &look(Depth::Ansi, true));
    let shown = text(&buffer);
    let line = shown.lines().find(|l| l.contains("drivers-ok")).unwrap();
    assert!(line.contains("—") && !line.contains(" 0"), "{line}");
    golden("snapshots-counting", &shown);
}

#[test]
fn the_cursor_s_line_is_marked_in_colour_and_without() {
    for depth in [Depth::Mono, Depth::Ansi] {
        let mut m = start((80, 24));
        keys(&mut m, "j");
        let (buffer, ..) = render(&mut m, &look(depth, true));
        let row = (0..24).find(|y| (0..80).map(|x| buffer[(x, *y)].symbol()).collect::<String>().contains("app-data")).unwrap();
        let (here, other) = (buffer[(10, row)].style(), buffer[(10, row + 1)].style());
        assert_ne!(here, other);
        if depth == Depth::Mono {
            assert!(here.add_modifier.contains(Modifier::REVERSED), "{here:?}");
        }
    }
}

#[test]
fn every_screen_survives_every_size() {
    let look = look(Depth::Ansi, true);
    let screens = [
        "",
        "j",
        "j j j 2",
        "j j j 3",
        "4",
        "5",
        "?",
        ":",
        "j j j c",
        "j j j c q enter",
        "j j j a",
        "j j j R 1 G",
        "/ x",
        "j j j 3 o",
        "j j j l s",
        "j j j l s g j j D",
        "j j j l K",
    ];
    for typed in screens {
        for (w, h) in (1..24)
            .map(|n| (n, n))
            .chain((1..130).step_by(7).map(|w| (w, 16)))
            .chain((1..60).step_by(5).map(|h| (61, h)))
            .chain([(400, 100), (1, 60), (300, 1)])
        {
            let mut m = start((w, h));
            keys(&mut m, typed);
            if m.screen == crate::app::model::Screen::Snapshots {
                crate::app::fixture::list_snapshots(&mut m);
            }
            if m.screen == crate::app::model::Screen::Check {
                let checked = crate::app::fixture::checked(&m);
                update(&mut m, Message::Checked(checked));
            }
            render(&mut m, &look);
        }
    }
}

#[test]
fn footer_hints_can_be_clicked() {
    let mut m = start((120, 36));
    let (buffer, hits, _) = render(&mut m, &look(Depth::Ansi, true));
    let y = 34;
    let line: Vec<&str> = (0..120).map(|x| buffer[(x, y)].symbol()).collect();
    let x = line.windows(4).position(|w| w.concat() == "help").unwrap() as u16;
    m.hits = hits;
    update(&mut m, Message::Mouse(crate::app::message::Mouse::Press, x, y));
    assert!(matches!(m.layer(), Some(crate::app::layer::Layer::Help(_))));
}

/// The inside of a guest: volumes, facts, a folder, verdicts.
fn inside(size: (u16, u16), screen: &str) -> Model {
    let mut m = start(size);
    let effects = keys(&mut m, &format!("j j j l {screen}"));
    let look = effects.iter().find_map(|e| if let Effect::Look(r) = e { Some(r.generation) } else { None });
    let volume = |name: &str, start: u64, len: u64, holds: &str, free: Option<u64>, at: &str| VolumeRow {
        name: name.into(),
        partition: Some(1),
        start: Some(start),
        len,
        kind: "Linux".into(),
        holds: holds.into(),
        free,
        at: at.into(),
        ..VolumeRow::default()
    };
    let fact = |what: &'static str, value: &str, from: &str| GuestFact { what, value: value.into(), from: from.into() };
    let finding = |part, what, answer, evidence: &str, from: &str, fix| Finding {
        part,
        what,
        answer,
        evidence: evidence.into(),
        from: from.into(),
        fix,
    };
    let verdict = |target, answer| Readiness {
        target,
        as_format: Format::Qcow2,
        findings: vec![
            finding(Part::Image, "whole", Answer::Yes, "it opens, with all it stands on", "", None),
            finding(Part::Image, "format", answer, "qcow2; only fixed VHDs are taken", "", Some(Remedy::Convert)),
            finding(
                Part::Guest,
                "machine id empty",
                answer,
                "5f1c9ad27be84c3e",
                "/etc/machine-id",
                Some(Remedy::Sanitize("machine-id")),
            ),
            finding(Part::Guest, "firewall off", Answer::Advice, "ufw starts with\x1b[31m the guest", "/etc/ufw/ufw.conf", None),
        ],
        properties: vec![Property { name: "min_disk", value: "40".into(), why: "bytes of virtual disk, in GiB".into() }],
    };
    let seen = Seen {
        size: 40 * GIB,
        table: "GPT".into(),
        volumes: vec![
            volume("p1", MIB, GIB, "fat32", Some(GIB - 6 * MIB), "/boot/efi"),
            volume("p2", 2 * GIB, 30 * GIB, "ext4", Some(20 * GIB), "/"),
            volume("vg/data", 33 * GIB, 6 * GIB, "", None, ""),
        ],
        facts: vec![
            fact("os", "Debian GNU/Linux 12 (bookworm)", "/etc/os-release"),
            fact("sshd", "openssh enabled", "/etc/systemd/system/multi-user.target.wants/ssh.service"),
            fact("host-key", "ssh_host_rsa_key", "/etc/ssh/ssh_host_rsa_key"),
        ],
        found: true,
        problems: vec!["the backup GPT header is missing".into()],
        error: None,
        readiness: TARGETS
            .iter()
            .enumerate()
            .map(|(i, t)| verdict(t.target, [Answer::No, Answer::Yes, Answer::Unknown][i % 3]))
            .collect(),
    };
    let generation = look.expect("nobody looks inside");
    update(&mut m, Message::Look(Box::new(LookLoaded { generation, look: Ok(Arc::new(seen)) })));
    m
}

fn listed(m: &mut Model, path: &str, names: &[(&str, FileType)]) {
    let stat = |kind, i: usize| Stat {
        node: i as u64,
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        size: 1500 * i as u64,
        links: 1,
        mtime: 1_795_000_000,
    };
    let rows = names.iter().enumerate().map(|(i, (n, kind))| FileRow {
        name: n.as_bytes().to_vec(),
        stat: stat(*kind, i),
        target: (*kind == FileType::Link).then(|| b"os-release".to_vec()),
    });
    let news = Ok(News::Folder(path.as_bytes().to_vec(), rows.collect()));
    let generation = m.inside.files_generation;
    update(m, Message::Files(Box::new(FilesLoaded { generation, news })));
}

const ROOT: &[(&str, FileType)] = &[
    ("etc", FileType::Folder),
    ("home", FileType::Folder),
    ("link", FileType::Link),
    ("a\x1b[31mname", FileType::File),
    ("swapfile", FileType::File),
];

#[test]
fn the_inside_at_every_size() {
    for (w, h) in SIZES {
        let mut m = inside((w, h), "i");
        listed(&mut m, "/", ROOT);
        let (buffer, ..) = render(&mut m, &look(Depth::Ansi, true));
        golden(&format!("inside-{w}x{h}"), &text(&buffer));
        let mut m = inside((w, h), "W");
        let (buffer, ..) = render(&mut m, &look(Depth::Ansi, true));
        golden(&format!("ready-{w}x{h}"), &text(&buffer));
    }
    let mut m = inside((100, 30), "W");
    let (buffer, ..) = render(&mut m, &look(Depth::Mono, false));
    golden("ready-ascii", &text(&buffer));
}

#[test]
fn a_guests_folders_are_gone_through() {
    let mut m = inside((120, 36), "i");
    listed(&mut m, "/", ROOT);
    let wanted = |effects: &[Effect]| {
        effects.iter().find_map(|e| if let Effect::Files(r) = e { Some((r.want.clone(), r.volume)) } else { None })
    };
    assert_eq!(wanted(&keys(&mut m, "enter")), Some((Want::Open(b"/etc".to_vec()), None)));
    listed(&mut m, "/etc", &[("ssh", FileType::Folder), ("passwd", FileType::File)]);
    assert_eq!(wanted(&keys(&mut m, "j enter")), Some((Want::Open(b"/etc/passwd".to_vec()), None)));
    let news = Ok(News::Text("passwd".into(), vec!["root:x".into()]));
    let generation = m.inside.files_generation;
    update(&mut m, Message::Files(Box::new(FilesLoaded { generation, news })));
    let (buffer, ..) = render(&mut m, &look(Depth::Ansi, true));
    assert!(text(&buffer).contains("root:x"));
    // Esc closes what is read; up, and the cursor is on the folder that was left.
    keys(&mut m, "esc");
    assert_eq!(wanted(&keys(&mut m, "h")), Some((Want::Open(b"/".to_vec()), None)));
    listed(&mut m, "/", &[("bin", FileType::Folder), ("etc", FileType::Folder)]);
    assert_eq!(m.inside.files.at, 1);
    assert_eq!(wanted(&keys(&mut m, "h")), None, "there is nothing above the root");
    // A search, and back from it.
    assert_eq!(wanted(&keys(&mut m, "/ k e y enter")), Some((Want::Search(b"/".to_vec(), "key".into()), None)));
    let news = Ok(News::Found(Vec::new(), false));
    let generation = m.inside.files_generation;
    update(&mut m, Message::Files(Box::new(FilesLoaded { generation, news })));
    let (buffer, ..) = render(&mut m, &look(Depth::Ansi, true));
    assert!(text(&buffer).contains("nothing of that name"));
    assert_eq!(wanted(&keys(&mut m, "esc")), Some((Want::Open(b"/".to_vec()), None)));
    listed(&mut m, "/", ROOT);
    // Extract asks where to; the command line is that of the file under the cursor.
    let effects = keys(&mut m, "x");
    let spec = effects.iter().find_map(|e| if let Effect::Plan(r) = e { r.spec.clone() } else { None });
    assert!(spec.is_some_and(|s| s.title().starts_with("extract /etc of")), "{effects:?}");
    keys(&mut m, "esc");
    let Some(Effect::Copy(line)) = keys(&mut m, "Y").pop() else { panic!("nothing was copied") };
    assert!(line.starts_with("cowshed ls ") && line.ends_with(":/etc"), "{line}");
    // A volume alone.
    let effects = keys(&mut m, "tab j j enter");
    assert_eq!(wanted(&effects), Some((Want::Open(b"/".to_vec()), Some(2))));
}

#[test]
fn the_one_action_of_a_verdict_opens_its_form() {
    let mut m = inside((120, 36), "W");
    let effects = keys(&mut m, "enter");
    let spec = effects.iter().find_map(|e| if let Effect::Plan(r) = e { r.spec.clone() } else { None });
    // What the format and what the guest have in the way is mended by one copy; somebody stands on the image as it is.
    let command = spec.expect("a sanitise").command().join(" ");
    let image = "/srv/images/web-01";
    assert_eq!(
        command,
        format!("sanitize --profile openstack --to {image}-openstack.qcow2 -O qcow2 {image}.qcow2"),
        "{effects:?}"
    );
    keys(&mut m, "esc j");
    assert!(keys(&mut m, "enter").is_empty(), "a target that is ready needs nothing");
    let Some(Effect::Copy(line)) = keys(&mut m, "Y").pop() else { panic!("nothing was copied") };
    assert!(line.starts_with("cowshed ready --for azure "), "{line}");
    m.read_only = true;
    assert!(keys(&mut m, "k enter").is_empty());
}

/// The form of sanitising `web-02.qcow2`, which nobody stands on, with what there is in its guest and its plan.
fn sanitising(size: (u16, u16), typed: &str) -> Model {
    use crate::app::fixture::sanitized;
    use crate::app::worker::jobs::PlanMade;
    use crate::engine::guest::sanitize::{Change, Edit, Found, operations};
    use crate::engine::ops::plan::{Plan, PlanFile, Undo};
    use crate::engine::ops::sanitize::Outlook;
    let image = "/srv/images/web-02.qcow2";
    let mut m = start(size);
    keys(&mut m, "j j j l j j z");
    let change = Change { path: b"/etc/x".to_vec(), edit: Edit::Empty, reason: "why" };
    let found = |o: &crate::engine::guest::sanitize::Operation| {
        let told = if o.reports_only { vec!["ufw is switched\x1b on".to_string()] } else { Vec::new() };
        Found { changes: vec![change.clone(); o.id.len() % 3], notes: told, warnings: Vec::new() }
    };
    let outlook = Outlook { operations: operations::all().map(|o| (o.id, found(o))).collect(), kept: None };
    let generation = m.jobs.plan_generation;
    let said = |outlook, plan| Message::Plan(Box::new(PlanMade { generation, remarks: Vec::new(), plan, outlook }));
    let more = update(&mut m, said(Some(outlook), None));
    assert!(more.is_empty(), "what was learned asks for nothing else: {more:?}");
    let made = Plan {
        title: "sanitize".into(),
        writes: vec![PlanFile { path: image.into(), what: "image, changed in place".into() }],
        undo: Undo::Possible("cowshed sanitize --undo".into()),
        report: Some(Arc::new(sanitized(image, false))),
        ..Plan::default()
    };
    update(&mut m, said(None, Some(Ok(made))));
    keys(&mut m, typed);
    m
}

#[test]
fn sanitising_at_every_size() {
    use crate::app::fixture::{kept, sanitized};
    use crate::app::worker::guest::KeptLoaded;
    let image = "/srv/images/web-02.qcow2";
    for (w, h) in SIZES {
        let mut m = sanitising((w, h), "down down down down down");
        let (buffer, ..) = render(&mut m, &look(Depth::Ansi, true));
        golden(&format!("form-sanitise-{w}x{h}"), &text(&buffer));
        keys(&mut m, "enter");
        let (buffer, ..) = render(&mut m, &look(Depth::Ansi, true));
        golden(&format!("form-sanitise-plan-{w}x{h}"), &text(&buffer));
        keys(&mut m, "esc esc Z");
        update(&mut m, Message::Sanitized(Arc::new(sanitized(image, true))));
        let generation = m.sanitize.generation;
        update(&mut m, Message::Kept(Box::new(KeptLoaded { generation, kept: Ok(Some(kept(image))) })));
        let (buffer, ..) = render(&mut m, &look(Depth::Ansi, true));
        golden(&format!("sanitised-{w}x{h}"), &text(&buffer));
    }
    // Without colours and without Unicode the signs alone tell what goes and what comes.
    let mut m = sanitising((100, 30), "enter");
    let (buffer, ..) = render(&mut m, &look(Depth::Mono, false));
    let shown = text(&buffer);
    assert!(shown.is_ascii() && shown.contains("-HWADDR=52") && shown.contains("+  a: b"), "{shown}");
    golden("form-sanitise-plan-ascii", &shown);
}

#[test]
fn a_sanitising_is_started_reported_taken_back_and_destroyed() {
    use crate::app::fixture::kept;
    use crate::app::model::Screen;
    use crate::app::worker::guest::KeptLoaded;
    use crate::engine::ops::JobSpec;
    use crate::engine::ops::sanitize::Action;
    let image = "/srv/images/web-02.qcow2";
    let mut m = sanitising((120, 36), "enter");
    let effects = keys(&mut m, "enter");
    assert!(matches!(effects.first(), Some(Effect::Submit(JobSpec::Sanitize(s))) if s.image.as_os_str() == image), "{effects:?}");
    assert!(effects.iter().any(|e| matches!(e, Effect::LookKept(r) if r.path.as_os_str() == image)), "{effects:?}");
    assert_eq!(m.screen, Screen::Sanitize, "the page shows what it does");
    // There is nothing to take back before the undo file is seen.
    assert!(keys(&mut m, "u").is_empty() && m.layers.is_empty());
    let generation = m.sanitize.generation;
    update(&mut m, Message::Kept(Box::new(KeptLoaded { generation, kept: Ok(Some(kept(image))) })));
    for (key, action) in [("u", Action::Undo), ("x", Action::DestroyUndo)] {
        let effects = keys(&mut m, key);
        let spec = effects.iter().find_map(|e| if let Effect::Plan(r) = e { r.spec.clone() } else { None });
        assert!(matches!(spec, Some(JobSpec::Sanitize(s)) if s.action == action && s.image.as_os_str() == image), "{effects:?}");
        keys(&mut m, "esc");
    }
    m.read_only = true;
    assert!(keys(&mut m, "u").is_empty() && keys(&mut m, "z").is_empty() && m.layers.is_empty());
}

#[test]
fn the_palette_does_from_a_page_what_can_be_done_with_its_image() {
    let mut m = inside((120, 36), "i");
    keys(&mut m, ":");
    for c in "snapshots".chars() {
        keys(&mut m, &c.to_string());
    }
    let Some(crate::app::layer::Layer::Palette(p)) = m.layer() else { panic!("no palette") };
    let rows = p.rows(&m);
    let (first, state) = &rows[0];
    assert_eq!((first.title, state), ("snapshots", &Ok(())));
    assert_eq!(rows.iter().filter(|(c, _)| c.title == "snapshots").count(), 1, "each once");
    keys(&mut m, "enter");
    assert_eq!(m.screen, crate::app::model::Screen::Snapshots);
}

#[test]
fn a_reason_is_told_in_full_and_goes_with_its_screen() {
    let mut m = start((80, 24));
    let why = "revert: an overlay reads through to the disk as it is now, and what it reads would change under it";
    m.tell(why, crate::app::message::Level::Warning);
    let (buffer, ..) = render(&mut m, &look(Depth::Ansi, true));
    let words = text(&buffer).replace(['│', '├', '┤', '─', '▲', '\n'], " ");
    let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains(why), "{words}");
    keys(&mut m, "4");
    assert!(m.notice.is_none(), "{:?}", m.notice);
}
