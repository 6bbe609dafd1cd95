//! The workbench as (model, keys, expected).

use crate::app::fixture::{images, keys, library, model};
use crate::app::layer::Layer;
use crate::app::message::{Message, Mouse};
use crate::app::model::{Pane, Screen};
use crate::app::tree::Column;
use crate::app::update::update;
use crate::app::{Effect, Model, hits::Hit, hits::Hits};
use crate::engine::library::Grouping;

fn start() -> Model {
    model((120, 36), library(&images()))
}

/// The name under the library's cursor.
fn on(m: &Model) -> String {
    m.library.selected().map_or_else(|| format!("{:?}", m.library.selected_kind()), |e| e.name.clone())
}

fn shown(m: &Model) -> Vec<String> {
    m.library.rows.iter().filter_map(|r| m.library.entry(r)).map(|e| e.name.clone()).collect()
}

#[test]
fn moving_goes_where_it_says() {
    for (typed, expected) in [
        ("j", "app-data.qcow2"),
        ("down down", "broken-2019.qcow2"),
        ("j j j", "debian-12-base.qcow2"),
        ("G", "日本語の円盤.qcow2"),
        ("G k", "win2022-gold.vhdx"),
        ("G g j", "app-data.qcow2"),
        ("end home j", "app-data.qcow2"),
        // On a base: right goes to the first below, left back up.
        ("j j j l", "web-01.qcow2"),
        ("j j j l h h", "debian-12-base.qcow2"),
    ] {
        let mut m = start();
        keys(&mut m, typed);
        assert_eq!(on(&m), expected, "{typed}");
    }
}

#[test]
fn folding_hides_what_is_below_and_left_goes_up() {
    let mut m = start();
    let all = shown(&m).len();
    keys(&mut m, "j j j h");
    assert_eq!(on(&m), "debian-12-base.qcow2");
    assert_eq!(shown(&m).len(), all - 3);
    keys(&mut m, "space");
    assert_eq!(shown(&m).len(), all);
    keys(&mut m, "C");
    assert!(!shown(&m).contains(&"web-01.qcow2".to_string()));
    keys(&mut m, "E");
    assert_eq!(shown(&m).len(), all);
}

#[test]
fn the_filter_counts_live_and_esc_goes_back_exactly_one_level() {
    let mut m = start();
    keys(&mut m, "/ w e b");
    assert!(matches!(m.layer(), Some(Layer::Filter)));
    assert_eq!((m.library.matched, on(&m).as_str()), (3, "web-01.qcow2"));
    keys(&mut m, "enter n");
    assert_eq!(on(&m), "web-01.before-upgrade.qcow2");
    keys(&mut m, "n n");
    assert_eq!(on(&m), "web-01.qcow2", "round");
    keys(&mut m, "N");
    assert_eq!(on(&m), "web-02.qcow2");
    let effects = keys(&mut m, "enter");
    assert!(matches!(effects.as_slice(), [Effect::LoadPage(r), Effect::Look(_)] if r.path.ends_with("web-02.qcow2")));
    assert_eq!(m.screen, Screen::Image);
    keys(&mut m, "esc");
    assert_eq!((m.screen, m.library.matched), (Screen::Library, 3), "the filter stays");
    keys(&mut m, "esc");
    assert_eq!(m.library.matched, 8);
    keys(&mut m, "esc");
    assert!(!m.done, "Esc never quits");
}

#[test]
fn esc_while_typing_clears_the_filter() {
    let mut m = start();
    keys(&mut m, "/ zzz");
    assert_eq!(m.library.matched, 0);
    keys(&mut m, "esc");
    assert_eq!((m.library.matched, m.layers.len()), (8, 0));
}

#[test]
fn letters_typed_into_a_filter_are_no_commands() {
    let mut m = start();
    let effects = keys(&mut m, "/ q?:1M");
    assert!(effects.is_empty() && !m.done && m.layers.len() == 1);
    assert_eq!(m.library.filter.text(), "q?:1M");
    keys(&mut m, "ctrl-c");
    assert!(m.done, "Ctrl-c works also while typing");
}

#[test]
fn grouping_and_sorting_keep_the_cursor_on_its_image() {
    let mut m = start();
    keys(&mut m, "j j j");
    keys(&mut m, "t");
    assert_eq!((m.library.grouping, on(&m).as_str()), (Grouping::Folder, "debian-12-base.qcow2"));
    keys(&mut m, "t");
    assert_eq!((m.library.grouping, on(&m).as_str()), (Grouping::Format, "debian-12-base.qcow2"));
    keys(&mut m, "> > >");
    assert_eq!(m.library.sort, (Column::OnDisk, true));
    assert_eq!((on(&m).as_str(), shown(&m)[0].as_str()), ("debian-12-base.qcow2", "app-data.qcow2"));
    keys(&mut m, "S");
    assert_eq!(shown(&m)[0], "日本語の円盤.qcow2");
}

#[test]
fn what_cannot_be_done_says_why() {
    let mut m = start();
    keys(&mut m, "j c");
    assert!(m.layers.is_empty());
    let notice = m.notice.clone().unwrap().text;
    assert!(notice.starts_with("convert: the image cannot be read"), "{notice}");
    let mut m = start();
    m.read_only = true;
    keys(&mut m, "j j j c");
    assert_eq!(m.notice.unwrap().text, "convert: read-only mode: nothing is written");
}

#[test]
fn copies_what_it_says() {
    let mut m = start();
    assert_eq!(keys(&mut m, "j j j y"), [Effect::Copy("/srv/images/debian-12-base.qcow2".into())]);
    assert_eq!(keys(&mut m, "Y"), [Effect::Copy("cowshed info --backing-chain /srv/images/debian-12-base.qcow2".into())]);
    let effects = keys(&mut m, "k e");
    let [Effect::Copy(text)] = effects.as_slice() else { panic!("{effects:?}") };
    assert!(text.contains("read L1 table") && text.contains("hint: restore it"), "{text}");
}

#[test]
fn digits_and_esc_go_through_the_screens() {
    let mut m = start();
    keys(&mut m, "j j j 5");
    assert_eq!(m.screen, Screen::Guide);
    keys(&mut m, "4 5 4");
    assert_eq!(m.screen, Screen::Jobs);
    keys(&mut m, "esc esc");
    assert_eq!(m.screen, Screen::Library, "no circles");
    keys(&mut m, "3");
    assert_eq!(m.screen, Screen::Map);
    keys(&mut m, "esc");
    assert_eq!(m.screen, Screen::Library);
}

#[test]
fn the_palette_runs_commands_and_shows_why_others_do_not() {
    let mut m = start();
    keys(&mut m, ": group enter");
    assert_eq!((m.library.grouping, m.layers.len()), (Grouping::Folder, 0));
    keys(&mut m, ": zoom");
    let Some(Layer::Palette(p)) = m.layer() else { panic!() };
    let rows = p.rows(&m);
    assert!(rows.iter().any(|(c, state)| c.id == "map.zoom-in" && state.is_err()));
    // By what it is for: the words as they are typed, not their letters anywhere in a sentence.
    let mut m = start();
    keys(&mut m, "j j j :");
    keys(&mut m, "o p e n s t a c k");
    let Some(Layer::Palette(p)) = m.layer() else { panic!() };
    let ids: Vec<_> = p.rows(&m).iter().map(|(c, _)| c.id).collect();
    assert_eq!(ids, ["library.ready"]);
}

#[test]
fn a_click_selects_a_second_opens_and_the_wheel_scrolls() {
    use ratatui::layout::Rect;
    let mut m = start();
    let area = Rect::new(0, 5, 100, 1);
    m.hits = Hits::default();
    m.hits.add(Rect::new(0, 0, 100, 20), Hit::Pane(Pane::Tree));
    m.hits.add(area, Hit::Row(Pane::Tree, 3));
    update(&mut m, Message::Mouse(Mouse::Press, 10, 5));
    assert_eq!(on(&m), "debian-12-base.qcow2");
    m.now.ms += 100;
    let effects = update(&mut m, Message::Mouse(Mouse::Press, 10, 5));
    assert!(matches!(effects.as_slice(), [Effect::LoadPage(_), Effect::Look(_)]), "{effects:?}");
    assert_eq!(m.screen, Screen::Image);
    let mut m = start();
    m.library.scroll.height = 3;
    m.hits = Hits::default();
    m.hits.add(Rect::new(0, 0, 100, 20), Hit::Pane(Pane::Tree));
    update(&mut m, Message::Mouse(Mouse::WheelDown, 10, 5));
    assert_eq!((m.library.scroll.top, m.library.scroll.at), (3, 3));
}

#[test]
fn images_that_come_and_go_leave_the_cursor_where_it_is() {
    use crate::app::worker::library::Snapshot;
    let mut m = start();
    keys(&mut m, "G k");
    assert_eq!(on(&m), "win2022-gold.vhdx");
    // Another scan, with one image fewer: ids are given anew by a fresh library, so hand it the same one without the first.
    let mut lib = m.library.data.clone();
    let root = lib.roots.clone();
    let kept: Vec<_> = images().into_iter().filter(|i| i.name != "app-data.qcow2").collect();
    lib.apply(crate::engine::library::ScanEvent::Roots(root));
    let again = library(&kept);
    let found = again.iter().map(|e| crate::engine::library::Found {
        path: e.path.clone(),
        root: e.root,
        kind: e.kind,
        stamp: e.stamp,
        actual_size: e.actual_size,
        facts: e.facts.clone(),
        allocated: e.allocated,
        lock: e.lock.clone(),
    });
    lib.apply(crate::engine::library::ScanEvent::Found(found.collect()));
    lib.apply(crate::engine::library::ScanEvent::Done { complete: true, cache_error: None });
    lib.relink();
    let forest = (Grouping::Chain, crate::engine::library::forest(&lib, Grouping::Chain));
    update(&mut m, Message::Library(Box::new(Snapshot { library: lib, forest, orphans: Vec::new(), duplicates: Vec::new() })));
    assert_eq!((on(&m).as_str(), m.library.totals.images), ("win2022-gold.vhdx", 7));
    assert!(!shown(&m).contains(&"app-data.qcow2".to_string()));
}

#[test]
fn nothing_moves_when_nothing_happens() {
    let mut m = start();
    m.notice = None;
    assert_eq!(m.wake(), None, "no timer while idle");
    // News from behind are drawn a little later, or with the next key.
    update(&mut m, Message::Locks(Vec::new()));
    m.dirty = false;
    assert_eq!(m.wake(), Some(m.now.ms + 60));
    m.now.ms += 60;
    update(&mut m, Message::Tick);
    assert!(m.dirty);
    crate::app::update::drawn(&mut m, Hits::default());
    assert_eq!(m.wake(), None);
    m.dirty = false;
    update(&mut m, Message::Tick);
    assert!(!m.dirty);
}

#[test]
fn any_keys_in_any_order_are_survived() {
    // A walk over every key of every command, from a seed: no panic, and the cursor stays within the rows.
    let all: Vec<_> = crate::app::command::COMMANDS
        .iter()
        .flat_map(|c| c.keys)
        .filter(|k| !matches!(**k, "q" | "ctrl-c"))
        .chain(["x", "backspace", "z"].iter())
        .collect();
    let mut m = start();
    let mut x = 0x9e37_79b9_u64;
    for _ in 0..20_000 {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        keys(&mut m, all[(x % all.len() as u64) as usize]);
        assert!(m.library.scroll.at <= m.library.rows.len());
        m.layers.truncate(4);
    }
}

#[test]
fn a_session_is_taken_up_where_it_was_left() {
    use crate::app::session::{Session, leave, take_up};
    let mut m = start();
    keys(&mut m, "j j j h > > > t G");
    let (place, selected) = (leave(&m), on(&m));
    let mut session = Session::default();
    session.remember(place.clone());
    let text = serde_json::to_string(&session).unwrap();
    let back: Session = serde_json::from_str(&text).unwrap();
    assert_eq!(back.place(&m.roots), Some(&place));
    let mut fresh = Model { roots: m.roots.clone(), ..Model::default() };
    take_up(&mut fresh, place);
    let lib = library(&images());
    let forest = (fresh.library.grouping, crate::engine::library::forest(&lib, fresh.library.grouping));
    update(
        &mut fresh,
        Message::Library(Box::new(crate::app::worker::library::Snapshot {
            library: lib,
            forest,
            orphans: Vec::new(),
            duplicates: Vec::new(),
        })),
    );
    assert_eq!((on(&fresh), fresh.library.sort, fresh.library.grouping), (selected, m.library.sort, m.library.grouping));
    assert_eq!(shown(&fresh), shown(&m));
}

/// A job in a state, as the runner would show it.
fn job(m: &mut Model, state: crate::engine::job::JobState) {
    use crate::engine::job::{JobId, JobView};
    use crate::engine::ops::{JobSpec, convert::ConvertSpec};
    let spec = JobSpec::Convert(ConvertSpec::new("/a.qcow2", "/a.raw", crate::engine::format::Format::Raw));
    let view = JobView {
        id: JobId(1),
        title: spec.title(),
        spec,
        state,
        why: None,
        key: None,
        priority: 0,
        limit: 0,
        plan: None,
        progress: Default::default(),
        outcome: None,
        error: None,
        submitted: std::time::UNIX_EPOCH,
        ended: None,
    };
    update(m, Message::Jobs(vec![crate::app::state::jobs::JobRow { view, samples: Vec::new(), log: Vec::new() }]));
}

#[test]
fn quitting_with_live_jobs_asks() {
    use crate::engine::job::JobState;
    for (typed, done, leave) in [
        ("q", false, false),
        ("q esc", false, false),
        ("q enter", false, false),
        ("q j enter", true, true),
        ("q j j enter", true, false),
        ("q j j j enter", false, false),
        ("q enter q esc", false, false),
        ("ctrl-c ctrl-c", true, true),
        ("/ x ctrl-c ctrl-c", true, true),
    ] {
        let mut m = start();
        job(&mut m, JobState::Running);
        keys(&mut m, typed);
        assert_eq!((m.done, m.leave_jobs), (done, leave), "{typed}");
    }
    // Waiting ends when the last job does.
    let mut m = start();
    job(&mut m, JobState::Running);
    keys(&mut m, "q enter");
    job(&mut m, JobState::Done);
    assert!(m.done);
    // Asked again, one may stay after all.
    let mut m = start();
    job(&mut m, JobState::Running);
    keys(&mut m, "q enter q esc");
    job(&mut m, JobState::Done);
    assert!(!m.done);
    // Nothing is asked when nothing runs.
    let mut m = start();
    job(&mut m, JobState::Done);
    keys(&mut m, "q");
    assert!(m.done);
}

#[test]
fn a_job_is_steered_from_its_panel() {
    use crate::engine::job::{JobId, JobState};
    let id = JobId(1);
    let mut m = start();
    job(&mut m, JobState::Running);
    assert_eq!(keys(&mut m, "4 space"), [Effect::PauseJob(id, true)]);
    // Cancelling asks, and no is under the cursor.
    assert_eq!(keys(&mut m, "x enter"), []);
    assert_eq!(keys(&mut m, "x esc"), []);
    assert_eq!(keys(&mut m, "x tab enter"), [Effect::CancelJob(id)]);
    assert!(m.layers.is_empty());
    assert_eq!(keys(&mut m, "-"), [Effect::LimitJob(id, 1 << 20)]);
    assert_eq!(keys(&mut m, "Y"), [Effect::Copy("cowshed convert -O raw /a.qcow2 /a.raw".into())]);
    assert_eq!(keys(&mut m, "R P"), []);
    job(&mut m, JobState::Paused);
    assert_eq!(keys(&mut m, "space"), [Effect::PauseJob(id, false)]);
    job(&mut m, JobState::Queued);
    assert_eq!(keys(&mut m, "P x"), [Effect::RankJob(id, 1), Effect::CancelJob(id)]);
    job(&mut m, JobState::Failed);
    assert_eq!(keys(&mut m, "R"), [Effect::RetryJob(id)]);
    job(&mut m, JobState::Done);
    assert_eq!(keys(&mut m, "x R D"), [Effect::ForgetJobs]);
    job(&mut m, JobState::Done);
    keys(&mut m, "x");
    assert_eq!(m.notice.unwrap().text, "cancel: this job has ended");
}

/// An interrupted job, as the journal has it.
pub(crate) fn interrupted(target: &str, why_not: Option<&str>) -> crate::app::state::jobs::LeftRow {
    use crate::engine::ops::{JobSpec, convert::ConvertSpec};
    let spec = JobSpec::Convert(ConvertSpec::new("/a.qcow2", target, crate::engine::format::Format::Raw));
    let record = serde_json::json!({
        "version": 1, "key": "1f0c33ab", "title": spec.title(), "spec": spec, "durable": 201u64 << 30, "state": null,
        "pid": 4121, "updated": 1_795_400_000u64,
    });
    crate::app::state::jobs::LeftRow {
        record: serde_json::from_value(record).expect("a record"),
        why_not: why_not.map(str::to_string),
    }
}

/// Jobs of earlier sessions, the latest first: one that was done with its log, one that failed, one of before logs were kept.
pub(crate) fn past() -> Vec<std::sync::Arc<crate::engine::job::Finished>> {
    use crate::engine::job::{Finished, JobState};
    let now = crate::app::fixture::NOW as u64;
    let job = |title: &str, ago: u64, state| Finished {
        title: title.into(),
        verb: "convert".into(),
        sort: "convert".into(),
        state,
        error: None,
        ended: now - ago,
        seconds: 502.0,
        read: 17 << 30,
        written: 9 << 30,
        summary: None,
        command: Vec::new(),
        log: Vec::new(),
        by: (4_000_000_000, ago),
    };
    let done = Finished {
        summary: Some("/srv/images/web.qcow2 is complete".into()),
        command: ["convert", "-O", "qcow2", "/srv/images/web 1.vmdk", "/srv/images/web.qcow2"].map(str::to_string).to_vec(),
        log: vec![(now - 4100, "begins".into()), (now - 3600, "a\x1b[31mname".into())],
        ..job("convert web 1.vmdk to web.qcow2 (qcow2)", 3600, JobState::Done)
    };
    let failed = Finished {
        error: Some("convert, /srv/images/old.vmdk, at byte 0x30000: 3 grains are damaged".into()),
        seconds: 1.25,
        ..job("convert old.vmdk to old.qcow2 (qcow2)", 90_000, JobState::Failed)
    };
    let all = [done, failed, job("check /srv/images/base.qcow2", 40 * 86_400, JobState::Cancelled)];
    all.into_iter().map(std::sync::Arc::new).collect()
}

#[test]
fn earlier_sessions_are_listed_below_and_only_cleared_when_asked() {
    use crate::engine::job::{Finished, JobId, JobState};
    let mut m = start();
    update(&mut m, Message::Past(past()));
    // A job that is started is what one sees first.
    job(&mut m, JobState::Running);
    keys(&mut m, "4");
    assert!(m.selected_job().is_some());
    assert_eq!(keys(&mut m, "D"), []);
    assert!(m.notice.as_ref().is_some_and(|n| n.text.contains("on a line of the history")), "{:?}", m.notice);
    // Nothing is done with what is over, but reading of it.
    keys(&mut m, "j");
    assert!(m.jobs.selected_past().is_some_and(|p| p.state == JobState::Done));
    assert_eq!(keys(&mut m, "space x R P -"), []);
    let copied = "cowshed convert -O qcow2 '/srv/images/web 1.vmdk' /srv/images/web.qcow2";
    assert_eq!(keys(&mut m, "Y"), [Effect::Copy(copied.into())]);
    keys(&mut m, "L");
    assert!(matches!(m.layer(), Some(Layer::Text(_, lines, _)) if *lines == ["begins", "a\\x1b[31mname"]), "{:?}", m.layer());
    // The cursor stays on its line when others come.
    keys(&mut m, "esc");
    job(&mut m, JobState::Paused);
    assert_eq!(m.jobs.selected_past().map(|p| p.seconds), Some(502.0));
    keys(&mut m, "j L");
    assert!(m.layers.is_empty() && m.notice.as_ref().is_some_and(|n| n.text.contains("no log")), "{:?}", m.notice);
    assert_eq!(keys(&mut m, "Y"), []);
    // Clearing asks; no is under the cursor.
    assert_eq!(keys(&mut m, "D enter"), []);
    assert_eq!(keys(&mut m, "D tab enter"), [Effect::ForgetPast]);
    // What ended in this session has its own line until that is cleared.
    let own = Finished { by: (std::process::id(), 1), ..(*past()[0]).clone() };
    let all: Vec<_> = std::iter::once(std::sync::Arc::new(own)).chain(past()).collect();
    job(&mut m, JobState::Done);
    update(&mut m, Message::Past(all));
    assert_eq!((m.jobs.rows.len(), m.jobs.past.len()), (1, 3));
    keys(&mut m, "g");
    assert_eq!(m.selected_job().map(|j| j.view.id), Some(JobId(1)));
    assert_eq!(keys(&mut m, "D"), [Effect::ForgetJobs]);
    update(&mut m, Message::Jobs(Vec::new()));
    assert_eq!(m.jobs.past.len(), 4);
}

#[test]
fn interrupted_jobs_are_told_of_resumed_and_discarded() {
    use crate::engine::job::JobState;
    let mut m = start();
    update(&mut m, Message::Left(vec![interrupted("/b.raw", None)]));
    assert!(m.notice.as_ref().is_some_and(|n| n.text.starts_with("1 interrupted job")), "{:?}", m.notice);
    // Below the jobs of this process.
    job(&mut m, JobState::Running);
    assert_eq!(keys(&mut m, "4 j R"), [Effect::ResumeLeft("1f0c33ab".into())]);
    assert_eq!(keys(&mut m, "space"), [Effect::ResumeLeft("1f0c33ab".into())]);
    assert_eq!(keys(&mut m, "x enter"), []);
    assert_eq!(keys(&mut m, "x right enter"), [Effect::DiscardLeft("1f0c33ab".into())]);
    // One that would begin anew says why, and asks.
    update(&mut m, Message::Left(vec![interrupted("/b.raw", Some("/a.qcow2 has changed since"))]));
    assert_eq!(keys(&mut m, "R"), []);
    assert!(matches!(m.layer(), Some(Layer::Confirm(c)) if c.text.contains("has changed since")));
    assert_eq!(keys(&mut m, "l enter"), [Effect::ResumeLeft("1f0c33ab".into())]);
    // What a job of this process already goes on with is not shown twice.
    update(&mut m, Message::Left(vec![interrupted("/a.raw", None)]));
    assert_eq!(m.jobs.len(), 1);
    // When one comes the cursor stays where it is.
    update(&mut m, Message::Left(vec![interrupted("/b.raw", None)]));
    keys(&mut m, "G");
    m.jobs.rows.clear();
    m.jobs.scroll.at = 0;
    job(&mut m, JobState::Running);
    assert!(m.jobs.selected_left().is_some());
    m.read_only = true;
    assert_eq!(keys(&mut m, "R"), []);
}

#[test]
fn all_that_ended_is_looked_for_in_the_journal_again() {
    use crate::engine::job::{JobEdge, JobId, JobState};
    let mut m = start();
    job(&mut m, JobState::Running);
    let edge = JobEdge { id: JobId(1), state: JobState::Cancelled, why: Some("left to be resumed".into()) };
    assert_eq!(update(&mut m, Message::Edge(edge)), [Effect::SampleJobs, Effect::LookLeft]);
}

#[test]
fn nobody_is_notified_unless_it_took_long_and_nobody_looked() {
    use crate::engine::job::{JobEdge, JobId, JobState};
    for (seconds, focused, told) in [(60, false, true), (60, true, false), (3, false, false)] {
        let mut m = start();
        job(&mut m, JobState::Running);
        m.jobs.rows[0].view.progress.elapsed = std::time::Duration::from_secs(seconds);
        m.config.notify = true;
        m.focused = focused;
        let edge = JobEdge { id: JobId(1), state: JobState::Done, why: Some("2 snapshots deleted, 3 MiB given back".into()) };
        let effects = update(&mut m, Message::Edge(edge));
        assert!(m.notice.as_ref().is_some_and(|n| n.text.ends_with(": 2 snapshots deleted, 3 MiB given back")), "{:?}", m.notice);
        assert_eq!(effects.iter().any(|e| matches!(e, Effect::Notify(_))), told, "{seconds} s, focused {focused}");
    }
}

#[test]
fn snapshots_are_marked_counted_and_left() {
    use crate::app::fixture::list_snapshots;
    use crate::app::state::snapshots::What;
    use crate::app::worker::snapshots::FreedLoaded;
    let mut m = start();
    let effects = keys(&mut m, "j j j l s");
    assert!(matches!(effects.as_slice(), [Effect::LoadSnapshots(r)] if r.path.ends_with("web-01.qcow2")), "{effects:?}");
    assert!(m.moving(), "something is being read");
    list_snapshots(&mut m);
    let kinds: Vec<What> = m.snaps.rows.iter().map(|r| r.what.clone()).collect();
    assert!(matches!(
        kinds.as_slice(),
        [What::Base(_), What::Snapshot(0), What::Snapshot(1), What::Snapshot(2), What::Snapshot(3), What::Live, What::Overlay(_)]
    ));
    assert_eq!(m.snaps.at_cursor(), Some(&What::Live), "one begins at the disk as it is now");
    // The live state is no snapshot.
    assert!(keys(&mut m, "space").is_empty());
    assert!(m.notice.take().unwrap().text.contains("as it is now"));
    let effects = keys(&mut m, "g j j j space");
    let Some(Effect::CountFreed(request)) = effects.last() else { panic!("{effects:?}") };
    assert_eq!((request.set.as_slice(), m.snaps.at_cursor()), (&[2][..], Some(&What::Snapshot(3))));
    let first = request.generation;
    keys(&mut m, "space");
    // An answer for another set is dropped.
    update(&mut m, Message::Freed(Box::new(FreedLoaded { generation: first, freed: Ok(1) })));
    assert!(m.snaps.freed.is_none() && m.moving());
    let generation = m.snaps.freed_generation;
    update(&mut m, Message::Freed(Box::new(FreedLoaded { generation, freed: Ok(2946 << 20) })));
    assert_eq!(m.snaps.freed.as_ref().map(|f| f.as_ref().ok().copied()), Some(Some(2946 << 20)));
    assert!(!m.moving());
    keys(&mut m, "u");
    assert!(m.snaps.marked.is_empty());
    // Enter on the overlay shows its snapshots; Esc comes back, then leaves.
    let effects = keys(&mut m, "G enter");
    assert!(matches!(effects.as_slice(), [Effect::LoadSnapshots(r)] if r.path.ends_with("web-01.before-upgrade.qcow2")));
    let effects = keys(&mut m, "esc");
    assert!(matches!(effects.as_slice(), [Effect::LoadSnapshots(r)] if r.path.ends_with("web-01.qcow2")));
    keys(&mut m, "esc");
    assert_eq!(m.screen, Screen::Library);
}

#[test]
fn marks_stay_on_what_they_were_on() {
    use crate::app::fixture::{list_snapshots, listing};
    use crate::app::worker::snapshots::{News, SnapshotsLoaded};
    let mut m = start();
    keys(&mut m, "j j j l s");
    list_snapshots(&mut m);
    keys(&mut m, "g j j j space space");
    assert_eq!(m.snaps.marked.iter().copied().collect::<Vec<_>>(), [2, 3]);
    // Somebody deleted the first: the others moved up in the table.
    let (mut list, ..) = listing();
    list.snapshots.remove(0);
    let generation = m.snaps.generation;
    update(&mut m, Message::Snapshots(Box::new(SnapshotsLoaded { generation, news: News::Listing(Ok(list.into())) })));
    assert_eq!(m.snaps.marked.iter().copied().collect::<Vec<_>>(), [1, 2]);
    assert!(m.snaps.usage.is_none(), "what was counted belongs to another table");
}

#[test]
fn a_filter_starts_fresh() {
    let mut m = start();
    keys(&mut m, "/ web enter");
    assert_eq!(m.library.matched, 3);
    keys(&mut m, "/");
    assert_eq!((m.library.filter.text(), m.library.matched), ("", 8));
}

/// The form on top, and the plan it asks for.
fn asked(effects: &[Effect]) -> (u64, crate::engine::ops::JobSpec) {
    match effects.last() {
        Some(Effect::Plan(r)) => (r.generation, r.spec.clone().expect("a spec")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn snapshots_are_changed_by_forms_with_their_plan() {
    use crate::app::fixture::list_snapshots;
    use crate::engine::ops::JobSpec;
    use crate::engine::ops::snapshot::Action as Do;
    // On an image nobody stands on and nobody holds.
    let open = || {
        let mut m = start();
        keys(&mut m, "j j j l s");
        m.snaps.path = Some("/srv/images/web-02.qcow2".into());
        list_snapshots(&mut m);
        keys(&mut m, "g j j");
        m
    };
    let action = |typed: &str| {
        let mut m = open();
        match asked(&keys(&mut m, typed)).1 {
            JobSpec::Snapshot(s) => s.action,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(action("n"), Do::Create("snapshot-5".into()));
    assert_eq!(action("n ctrl-u b e f o r e"), Do::Create("before".into()));
    // A safety snapshot first, unless it is switched off.
    assert_eq!(action("r"), Do::Apply { name: "drivers-ok".into(), keep: true });
    assert_eq!(action("r space"), Do::Apply { name: "drivers-ok".into(), keep: false });
    assert_eq!(action("R ctrl-u x"), Do::Rename { from: "drivers-ok".into(), to: "x".into() });
    assert_eq!(action("d"), Do::Delete(vec!["drivers-ok".into()]));
    assert_eq!(action("space space d"), Do::Delete(vec!["drivers-ok".into(), "mysql8\x1b[31m-broken".into()]));
    // Deleting cannot be undone: the image's name is typed before.
    let mut m = open();
    let (generation, spec) = asked(&keys(&mut m, "d"));
    let plan = crate::engine::ops::plan::Plan {
        writes: vec![crate::engine::ops::plan::PlanFile { path: "/srv/images/web-02.qcow2".into(), what: String::new() }],
        undo: crate::engine::ops::plan::Undo::Impossible("it is gone".into()),
        ..Default::default()
    };
    let made = crate::app::worker::jobs::PlanMade { generation, remarks: Vec::new(), plan: Some(Ok(plan)), outlook: None };
    update(&mut m, Message::Plan(Box::new(made)));
    assert!(keys(&mut m, "enter enter enter").is_empty());
    let effects = keys(&mut m, "w e b - 0 2 . q c o w 2 enter");
    assert_eq!(effects, [Effect::Submit(spec)]);
    // Export is a conversion from that snapshot.
    let mut m = open();
    let JobSpec::Convert(spec) = asked(&keys(&mut m, "e")).1 else { panic!() };
    assert_eq!(spec.snapshot.as_deref(), Some("drivers-ok"));
    assert!(spec.target.ends_with("web-02-drivers-ok.raw"), "{:?}", spec.target);
}

#[test]
fn what_would_break_overlays_or_guests_is_disabled_with_the_reason() {
    use crate::app::fixture::{list_snapshots, listing};
    use crate::app::worker::snapshots::{News, SnapshotsLoaded};
    use crate::engine::io::locks::{Holder, LockState};
    let why = |m: &mut Model, typed: &str| {
        m.notice = None;
        assert!(keys(m, typed).is_empty() && m.layers.is_empty(), "{typed}");
        m.notice.take().map(|n| n.text).unwrap_or_default()
    };
    let mut m = start();
    keys(&mut m, "j j j l s");
    list_snapshots(&mut m);
    assert!(why(&mut m, "d").contains("as it is now"), "the live state is no snapshot");
    keys(&mut m, "g j j");
    assert!(why(&mut m, "r").contains("an overlay reads through"));
    // In use: nothing inside can be changed.
    let (mut list, ..) = listing();
    list.lock = LockState::Writer(vec![Holder { pid: Some(7), name: Some("qemu".into()) }]);
    let generation = m.snaps.generation;
    update(&mut m, Message::Snapshots(Box::new(SnapshotsLoaded { generation, news: News::Listing(Ok(list.into())) })));
    for key in ["n", "d", "R"] {
        assert!(why(&mut m, key).contains("in use by"), "{key}");
    }
    m.read_only = true;
    for key in ["n", "d", "e", "b"] {
        assert!(why(&mut m, key).contains("read-only"), "{key}");
    }
}

#[test]
fn two_states_are_compared() {
    use crate::app::fixture::list_snapshots;
    let mut m = start();
    keys(&mut m, "j j j l s");
    list_snapshots(&mut m);
    let pair = |m: &mut Model, typed: &str| match keys(m, typed).pop() {
        Some(Effect::LoadDiff(r)) => (r.from, r.to),
        other => panic!("{typed}: {other:?}"),
    };
    assert_eq!(pair(&mut m, "g j j D"), ("2".into(), None), "since then");
    assert!(m.moving() && m.snaps.diff.is_some());
    keys(&mut m, "D");
    assert!(m.snaps.diff.is_none(), "again closes it");
    // Marking goes on to the next line.
    assert_eq!(pair(&mut m, "space D"), ("2".into(), Some("3".into())));
    assert_eq!(pair(&mut m, "g j space G D"), ("1".into(), Some("2".into())));
}

#[test]
fn a_check_is_a_job_whose_report_leads_to_repair() {
    use crate::engine::job::{JobEdge, JobId, JobState};
    use crate::engine::ops::JobSpec;
    let mut m = start();
    let effects = keys(&mut m, "j j j l K");
    let [Effect::Submit(JobSpec::Check(spec))] = effects.as_slice() else { panic!("{effects:?}") };
    assert_eq!((m.screen, spec.image.ends_with("web-01.qcow2")), (Screen::Check, true));
    // While it runs nothing can be repaired, nor checked again.
    job(&mut m, JobState::Running);
    m.jobs.rows[0].view.spec = JobSpec::Check(spec.clone());
    assert!(m.moving() && keys(&mut m, "r K").is_empty());
    m.jobs.rows[0].view.state = JobState::Done;
    let edge = JobEdge { id: JobId(1), state: JobState::Done, why: None };
    let effects = update(&mut m, Message::Edge(edge));
    assert!(effects.contains(&Effect::AskFound(JobId(1))), "{effects:?}");
    assert!(keys(&mut m, "r").is_empty() && m.notice.take().unwrap().text.contains("check it first"));
    let checked = crate::app::fixture::checked(&m);
    update(&mut m, Message::Checked(checked));
    let effects = keys(&mut m, "r");
    let JobSpec::Repair(repair) = asked(&effects).1 else { panic!("{effects:?}") };
    assert_eq!(repair.command(), ["check", "-r", "all", "/srv/images/web-01.qcow2"]);
    // Written to since: the report is of another image.
    keys(&mut m, "esc");
    let mut old = (*crate::app::fixture::checked(&m)).clone();
    old.stamp.mtime_ns -= 1;
    old.stamp.ctime_ns -= 1;
    update(&mut m, Message::Checked(old.into()));
    assert!(keys(&mut m, "r").is_empty() && m.notice.take().unwrap().text.contains("written to since"));
    keys(&mut m, "esc");
    assert_eq!(m.screen, Screen::Library);
    // Raw images have nothing to check.
    keys(&mut m, "G k K");
    assert_eq!(m.screen, if crate::engine::format::Format::Vhdx.entry().caps.check { Screen::Check } else { Screen::Library });
}

#[test]
fn chains_are_changed_by_forms_and_dependents_are_named() {
    use crate::engine::ops::JobSpec;
    let spec = |typed: &str| {
        let mut m = start();
        m.trash = Some("/home/me/.local/share/Trash".into());
        // Somebody holds web-01 in the fixture; web-02 is free.
        let effects = keys(&mut m, &format!("j j j l j j {typed}"));
        asked(&effects).1
    };
    let command = |typed: &str| spec(typed).command().join(" ");
    let image = "/srv/images/web-02.qcow2";
    assert_eq!(command("f"), format!("rebase -f qcow2 -b  {image}"));
    assert_eq!(command("f space"), format!("rebase -f qcow2 -b  -c {image}"));
    assert!(command("b").starts_with("rebase -f qcow2 -b debian-12-base.qcow2 -F qcow2 /"), "{}", command("b"));
    assert!(command("w").starts_with("commit -f qcow2 "), "{}", command("w"));
    let JobSpec::Delete(d) = spec("d") else { panic!() };
    assert_eq!((d.trash.is_some(), d.force), (true, false));
    let JobSpec::Delete(d) = spec("d right") else { panic!() };
    assert!(d.trash.is_none());
    // What others stand on stays, and they are named with the ways out.
    let mut m = start();
    assert!(keys(&mut m, "j j j d").is_empty() && m.layers.is_empty());
    let why = m.notice.take().unwrap().text;
    assert!(why.contains("web-01.qcow2 and web-02.qcow2 stand on it; flatten (f) or rebase (b)"), "{why}");
    assert!(keys(&mut m, "f").is_empty() && m.notice.take().unwrap().text.contains("stands alone"));
    keys(&mut m, "l");
    assert!(keys(&mut m, "f").is_empty() && m.notice.take().unwrap().text.contains("in use by"));
    // A base that is not there: only its name is to be mended.
    let mut m = start();
    let effects = keys(&mut m, "j b n e w . q c o w 2");
    let JobSpec::Rebase(r) = asked(&effects).1 else { panic!("{effects:?}") };
    assert_eq!((r.base.as_deref(), r.unchecked), (Some("new.qcow2"), true));
}
