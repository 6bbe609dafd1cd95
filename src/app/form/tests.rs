//! Forms as (model, keys, expected).

use std::path::Path;
use std::sync::Arc;

use super::{Form, Page, Part};
use crate::app::fixture::{images, keys, library, model};
use crate::app::key::Key;
use crate::app::layer::Layer;
use crate::app::message::{Level, Message};
use crate::app::update::update;
use crate::app::worker::jobs::{PlanMade, PlanRequest};
use crate::app::{Effect, Model};
use crate::engine::ops::JobSpec;
use crate::engine::ops::plan::{Plan, PlanFile, Undo};
use crate::engine::ops::resize::Change;

fn start() -> Model {
    model((120, 36), library(&images()))
}

fn form(m: &Model) -> &Form {
    match m.layer() {
        Some(Layer::Form(f)) => f,
        other => panic!("no form but {other:?}"),
    }
}

/// The last plan that was asked for.
fn asked(effects: &[Effect]) -> &PlanRequest {
    let last = effects.iter().rev().find_map(|e| match e {
        Effect::Plan(r) => Some(r),
        _ => None,
    });
    last.expect("a plan is asked for")
}

fn answer(m: &mut Model, generation: u64, plan: Plan) {
    update(m, Message::Plan(Box::new(PlanMade { generation, remarks: Vec::new(), plan: Some(Ok(plan)), outlook: None })));
}

/// What the form asks for after these keys.
fn spec(typed: &str) -> JobSpec {
    let mut m = start();
    let effects = keys(&mut m, typed);
    asked(&effects).spec.clone().unwrap_or_else(|| panic!("{typed}: {:?}", form(&m).fields))
}

#[test]
fn every_field_of_a_conversion_gets_into_its_spec_and_its_command() {
    let JobSpec::Convert(s) = spec("j j j c") else { panic!() };
    assert_eq!((s.format.name(), s.target.as_path()), ("raw", Path::new("/srv/images/debian-12-base.raw")));
    // To qcow2 by its letter, which brings its options; compressed with zstd; a limit; clusters of another size.
    let mut m = start();
    let mut effects = keys(&mut m, "j j j c q");
    let go = |m: &mut Model, id: &str, typed: &str| {
        let at = form(m).fields.iter().position(|f| f.id == id).unwrap_or_else(|| panic!("{id}"));
        let down = at as isize - form(m).at as isize;
        let step = if down < 0 { "up " } else { "down " };
        keys(m, &format!("{} {typed}", step.repeat(down.unsigned_abs())))
    };
    for (id, typed) in [
        ("compress", "space"),
        ("compression_type", "right"),
        ("rate", "5 0 M"),
        ("cluster_size", "ctrl-u 1 2 8 k"),
        ("lazy_refcounts", "space"),
        ("verify", "space"),
        ("sparse", "ctrl-u 6 4 k"),
        ("backing", "b . r a w"),
        ("backing-format", "r"),
    ] {
        effects.extend(go(&mut m, id, typed));
    }
    let Some(JobSpec::Convert(s)) = &asked(&effects).spec else { panic!("{:#?}", form(&m).fields) };
    assert_eq!(s.target, Path::new("/srv/images/debian-12-base.1.qcow2"), "the name follows the format, and is free");
    assert_eq!((s.compress, s.verify, s.rate, s.sparse), (true, true, Some(50 << 20), 65536));
    let Some(Effect::Copy(command)) = keys(&mut m, "ctrl-y").pop() else { panic!() };
    assert_eq!(
        command,
        "cowshed convert -O qcow2 -o cluster_size=128k,compression_type=zstd,lazy_refcounts=on -B b.raw -F raw -S 65536 -r \
         52428800 -c --verify /srv/images/debian-12-base.qcow2 /srv/images/debian-12-base.1.qcow2"
    );
    // Back to raw: what qcow2 alone has is gone from the form and from the spec; and it is remembered.
    effects = go(&mut m, "format", "r");
    let Some(JobSpec::Convert(s)) = &asked(&effects).spec else { panic!() };
    assert_eq!((s.options.len(), s.compress, s.backing.clone(), s.rate), (0, false, None, Some(50 << 20)));
    effects = keys(&mut m, "q");
    let Some(JobSpec::Convert(s)) = &asked(&effects).spec else { panic!() };
    assert_eq!((s.options.len(), s.compress, s.backing.as_deref()), (3, true, Some("b.raw")));
}

#[test]
fn wrong_answers_are_told_beside_their_field_and_stop_the_form() {
    let mut m = start();
    keys(&mut m, "j j j c q");
    while form(&m).fields[form(&m).at].id != "cluster_size" {
        keys(&mut m, "down");
    }
    let effects = keys(&mut m, "ctrl-u 1 x");
    assert_eq!(asked(&effects).spec, None);
    let error = form(&m).fields[form(&m).at].error.clone().unwrap();
    assert!(error.contains("suffix"), "{error}");
    // Enter leads to what is wrong, from wherever one is.
    keys(&mut m, "up up up up enter");
    assert_eq!((form(&m).page, form(&m).fields[form(&m).at].id), (Page::Fields, "cluster_size"));
    keys(&mut m, "Y");
    assert!(m.notice.is_none() || m.notice.as_ref().is_some_and(|n| n.level == Level::Warning));
    // What the disk says stops it as well.
    let mut m = start();
    let effects = keys(&mut m, "j j j c");
    let remark = super::Remark { level: Level::Error, text: "the folder is not there".into() };
    let generation = asked(&effects).generation;
    update(
        &mut m,
        Message::Plan(Box::new(PlanMade { generation, remarks: vec![("target", remark)], plan: None, outlook: None })),
    );
    keys(&mut m, "enter");
    assert_eq!((form(&m).page, form(&m).fields[form(&m).at].id), (Page::Fields, "target"));
}

#[test]
fn nothing_starts_without_its_plan_and_esc_goes_back_one_page_at_a_time() {
    let mut m = start();
    let effects = keys(&mut m, "j j j c");
    let generation = asked(&effects).generation;
    assert!(keys(&mut m, "enter enter enter").is_empty(), "no plan yet");
    assert_eq!(form(&m).page, Page::Plan);
    answer(&mut m, generation, Plan::default());
    keys(&mut m, "esc");
    assert_eq!(form(&m).page, Page::Fields);
    keys(&mut m, "esc");
    assert!(m.layers.is_empty());
    let effects = keys(&mut m, "c");
    let generation = asked(&effects).generation;
    answer(&mut m, generation, Plan::default());
    let effects = keys(&mut m, "enter enter");
    assert!(matches!(effects.as_slice(), [Effect::Submit(JobSpec::Convert(_))]), "{effects:?}");
    assert!(m.layers.is_empty());
}

#[test]
fn a_stale_plan_is_dropped() {
    let mut m = start();
    let effects = keys(&mut m, "j j j c tab x");
    let generation = asked(&effects).generation;
    answer(&mut m, generation - 1, Plan::default());
    assert!(form(&m).plan.is_none() && form(&m).waiting);
}

#[test]
fn what_cannot_be_undone_wants_its_name_typed() {
    let mut m = start();
    let effects = keys(&mut m, "j j j R 1 G");
    assert_eq!(asked(&effects).spec, None, "shrinking has to be allowed");
    let effects = keys(&mut m, "down space");
    let Some(JobSpec::Resize(s)) = &asked(&effects).spec else { panic!() };
    assert_eq!((s.change, s.shrink), (Change::To(1 << 30), true));
    let generation = asked(&effects).generation;
    let plan = Plan {
        undo: Undo::Impossible("what lies beyond is lost".into()),
        writes: vec![PlanFile { path: "/srv/images/base.qcow2".into(), what: "changed".into() }],
        ..Plan::default()
    };
    answer(&mut m, generation, plan);
    keys(&mut m, "enter");
    assert_eq!(form(&m).parts(), [Part::Name, Part::Start, Part::Back]);
    // Letters are typed, also those that are commands elsewhere; a wrong name does not start it.
    assert!(keys(&mut m, "q Y k enter enter").is_empty());
    assert!(m.notice.as_ref().is_some_and(|n| n.text.contains("base.qcow2")), "{:?}", m.notice);
    let effects = keys(&mut m, "ctrl-u base.qcow2 enter");
    assert!(matches!(effects.as_slice(), [Effect::Submit(JobSpec::Resize(_))]), "{effects:?}");
}

#[test]
fn new_images_and_overlays() {
    let mut m = start();
    let effects = keys(&mut m, "j j j a");
    assert_eq!(asked(&effects).spec, None, "the size is needed");
    while form(&m).fields[form(&m).at].id != "size" {
        keys(&mut m, "tab");
    }
    let effects = keys(&mut m, "2 0 G");
    let Some(JobSpec::Create(s)) = &asked(&effects).spec else { panic!() };
    assert_eq!((s.size, s.target.as_path(), s.backing.clone()), (Some(20 << 30), Path::new("/srv/images/disk.qcow2"), None));
    // On an image's page: an overlay on it, whose size may be left alone.
    let mut m = start();
    let effects = keys(&mut m, "j j j l enter a");
    let Some(JobSpec::Create(s)) = &asked(&effects).spec else { panic!("{:#?}", form(&m).fields) };
    assert_eq!((s.backing.as_deref(), s.backing_format.map(|f| f.name()), s.size), (Some("web-01.qcow2"), Some("qcow2"), None));
    assert_eq!(s.target, Path::new("/srv/images/web-01-overlay.qcow2"));
    let Some(copied) = keys(&mut m, "Y").pop() else { panic!() };
    let expected = "cowshed create -f qcow2 -b web-01.qcow2 -F qcow2 /srv/images/web-01-overlay.qcow2";
    assert_eq!(copied, Effect::Copy(expected.into()));
}

#[test]
fn sizes_may_be_changes() {
    for (typed, expected) in [("40G", Change::To(40 << 30)), ("+10G", Change::By(10 << 30))] {
        let mut m = start();
        let letters = typed.chars().map(|c| format!("{c} ")).collect::<String>();
        let effects = keys(&mut m, &format!("j j j R {letters}"));
        let Some(JobSpec::Resize(s)) = &asked(&effects).spec else { panic!("{typed}: {:#?}", form(&m).fields) };
        assert_eq!(s.change, expected);
    }
}

#[test]
fn the_guest_grows_when_its_switch_is_on() {
    let go = |typed: &str| {
        let mut m = start();
        keys(&mut m, "j j j R + 2 G");
        while form(&m).fields[form(&m).at].id != "grow-guest" {
            keys(&mut m, "tab");
        }
        let effects = keys(&mut m, typed);
        (m, asked(&effects).spec.clone())
    };
    let (mut m, spec) = go("space");
    let Some(JobSpec::Resize(s)) = spec else { panic!("{:#?}", form(&m).fields) };
    assert!(s.grow_guest && !s.move_gpt && s.change == Change::By(2 << 30));
    // It moves the backup of the table by itself.
    assert!(form(&m).fields.iter().all(|f| f.id != "move-gpt"));
    let Some(Effect::Copy(command)) = keys(&mut m, "Y").pop() else { panic!() };
    assert!(command.starts_with("cowshed resize ") && command.contains(" --grow-guest "), "{command}");
    let (m, _) = go("space space");
    assert!(form(&m).fields.iter().any(|f| f.id == "move-gpt"));
}

/// On the page of `web-02.qcow2`, an overlay nobody holds, whose header and bitmaps were read.
fn on_page() -> Model {
    use crate::app::worker::image::{PageData, PageLoaded};
    use crate::engine::model::{Bitmap, ChainNode, Description};
    let mut m = start();
    let effects = keys(&mut m, "j j j l j j enter");
    let Some(Effect::LoadPage(request)) = effects.first() else { panic!("{effects:?}") };
    let bitmap = |name: &str, auto| Bitmap { name: name.into(), granularity: 65536, in_use: false, auto };
    let description = Description {
        bitmaps: vec![bitmap("monday", true), bitmap("tuesday", false)],
        specific: serde_json::json!({ "type": "qcow2", "data": {
            "compat": "1.1", "lazy-refcounts": false, "refcount-bits": 16, "extended-l2": false } }),
        ..Description::default()
    };
    let node = ChainNode {
        path: request.path.clone(),
        spelled: None,
        format: Some(crate::engine::format::Format::Qcow2),
        virtual_size: Some(40 << 30),
        actual_size: Some(5 << 30),
        error: None,
        warnings: Vec::new(),
        description: description.into(),
    };
    let page = PageData {
        nodes: vec![node],
        matches: Vec::new(),
        problems: Vec::new(),
        health: crate::engine::Health::Ok,
        lock: Default::default(),
        len: 5 << 30,
        modified: 0,
    };
    let loaded = PageLoaded { generation: request.generation, page: Ok(page.into()) };
    update(&mut m, Message::Page(Box::new(loaded)));
    m
}

/// The command of the plan last asked for.
fn command(effects: &[Effect]) -> Option<String> {
    asked(effects).spec.as_ref().map(|s| s.command().join(" "))
}

const WEB: &str = "/srv/images/web-02.qcow2";

#[test]
fn amend_knows_what_there_is_and_asks_only_for_what_changes() {
    let mut m = on_page();
    let effects = keys(&mut m, "A");
    assert_eq!(command(&effects), None);
    assert!(form(&m).obstacle().is_some_and(|o| o.contains("nothing changes")), "{:?}", form(&m).plan);
    // The look at the disk brings no plan, and does not take away why; there is no page to go on to.
    let generation = asked(&effects).generation;
    update(&mut m, Message::Plan(Box::new(PlanMade { generation, remarks: Vec::new(), plan: None, outlook: None })));
    keys(&mut m, "enter");
    assert!(form(&m).obstacle().is_some_and(|o| o.contains("nothing changes")), "{:?}", form(&m).plan);
    assert_eq!(form(&m).page, Page::Fields);
    keys(&mut m, "home");
    let shown: Vec<_> = form(&m).fields.iter().map(|f| (f.id, f.value())).collect();
    assert_eq!(shown, [("compat", "1.1"), ("lazy_refcounts", "off"), ("refcount_bits", "16")]);
    let effects = keys(&mut m, "down space");
    assert_eq!(command(&effects), Some(format!("amend -f qcow2 -o lazy_refcounts=on {WEB}")));
    // What version 2 cannot have is told beside its field.
    let effects = keys(&mut m, "up space");
    assert_eq!(command(&effects), None);
    assert!(form(&m).fields[1].error.as_ref().is_some_and(|e| e.contains("0.10")), "{:?}", form(&m).fields[1]);
    let effects = keys(&mut m, "down space down end");
    assert_eq!(command(&effects), None);
    let effects = keys(&mut m, "1 1");
    assert_eq!(command(&effects), Some(format!("amend -f qcow2 -o compat=0.10 {WEB}")), "16 again");
    // In the library nothing is known: all may stay as it is.
    let mut m = start();
    keys(&mut m, "j j j l j j A");
    assert!(form(&m).fields.iter().all(|f| f.value() == "(as it is)"), "{:#?}", form(&m).fields);
    let effects = keys(&mut m, "0");
    assert_eq!(command(&effects), Some(format!("amend -f qcow2 -o compat=0.10 {WEB}")));
}

#[test]
fn a_rebase_records_the_format_of_its_base() {
    let mut m = start();
    let effects = keys(&mut m, "j j j l j j b");
    assert_eq!(command(&effects), Some(format!("rebase -f qcow2 -b debian-12-base.qcow2 -F qcow2 {WEB}")));
    // Another base that the library knows; one that nobody knows; what a person says of it.
    let effects = keys(&mut m, "ctrl-u w e b - 0 1 . q c o w 2");
    assert_eq!(command(&effects), Some(format!("rebase -f qcow2 -b web-01.qcow2 -F qcow2 {WEB}")));
    let effects = keys(&mut m, "ctrl-u x . i m g");
    assert_eq!(command(&effects), Some(format!("rebase -f qcow2 -b x.img {WEB}")));
    let effects = keys(&mut m, "down r down down space");
    assert_eq!(command(&effects), Some(format!("rebase -f qcow2 -b x.img -F raw -U {WEB}")));
}

#[test]
fn what_is_in_use_is_read_when_a_person_says_so() {
    let mut m = start();
    keys(&mut m, "j j j c");
    go(&mut m, "share");
    let effects = keys(&mut m, "space");
    assert!(command(&effects).is_some_and(|c| c.contains(" -U ")), "{:?}", command(&effects));
    let image = Path::new("/srv/images/a.qcow2");
    let mut form = Form::new(Arc::new(super::ExtractForm::new(image, b"/etc", None, Vec::new())));
    let command = |form: &Form| form.spec().unwrap().unwrap().command().join(" ");
    assert_eq!(command(&form), "extract /srv/images/a.qcow2:/etc /srv/images/etc");
    for key in ["down", "space"] {
        form.key(Key::parse(key).unwrap());
    }
    assert_eq!(command(&form), "extract -U /srv/images/a.qcow2:/etc /srv/images/etc");
}

#[test]
fn a_proposed_name_is_replaced_by_typing_and_a_path_goes_on() {
    let mut m = on_page();
    assert_eq!(command(&keys(&mut m, "B down n e w")), Some(format!("bitmap -f qcow2 --add {WEB} new")));
    let mut m = on_page();
    assert_eq!(command(&keys(&mut m, "B down end 0")), Some(format!("bitmap -f qcow2 --add {WEB} bitmap-10")));
    let mut m = start();
    let effects = keys(&mut m, "j j j c down x");
    let Some(JobSpec::Convert(s)) = &asked(&effects).spec else { panic!() };
    assert_eq!(s.target, Path::new("/srv/images/debian-12-base.rawx"));
}

#[test]
fn bitmaps_are_offered_by_their_names() {
    let mut m = on_page();
    assert_eq!(command(&keys(&mut m, "B")), Some(format!("bitmap -f qcow2 --add {WEB} bitmap-1")));
    assert_eq!(command(&keys(&mut m, "down ctrl-u m o n d a y")), None, "there is one of that name");
    let effects = keys(&mut m, "2 down 3");
    assert_eq!(command(&effects), None);
    assert!(form(&m).fields[2].error.as_ref().is_some_and(|e| e.contains("power of two")));
    let effects = keys(&mut m, "2 k down space");
    assert_eq!(command(&effects), Some(format!("bitmap -f qcow2 -g 32768 --add --disable {WEB} monday2")));
    // What is there: by its name, and a merge from another of them or from another image.
    let mut m = on_page();
    assert_eq!(command(&keys(&mut m, "B c")), Some(format!("bitmap -f qcow2 --clear {WEB} monday")));
    assert_eq!(command(&keys(&mut m, "end down space")), Some(format!("bitmap -f qcow2 --remove {WEB} tuesday")));
    assert_eq!(command(&keys(&mut m, "up m")), Some(format!("bitmap -f qcow2 --merge monday {WEB} tuesday")));
    let effects = keys(&mut m, "down down b . q c o w 2");
    assert_eq!(command(&effects), None, "whose bitmap?");
    let effects = keys(&mut m, "down w");
    assert_eq!(command(&effects), Some(format!("bitmap -f qcow2 -b /srv/images/b.qcow2 --merge w {WEB} tuesday")));
    // In the library their names are typed.
    let mut m = start();
    assert_eq!(command(&keys(&mut m, "j j j l j j B d")), None);
    assert_eq!(command(&keys(&mut m, "down x")), Some(format!("bitmap -f qcow2 --disable {WEB} x")));
}

#[test]
fn a_moved_base_is_found_again_and_space_given_back() {
    let mut m = start();
    // The base of app-data is gone.
    assert_eq!(command(&keys(&mut m, "j L")), None, "where is it?");
    let effects = keys(&mut m, "n e w . q c o w 2");
    let image = "/srv/images/app-data.qcow2";
    assert_eq!(command(&effects), Some("relink -f qcow2 /srv/images/app-data.qcow2 /srv/images/new.qcow2".to_string()));
    let effects = keys(&mut m, "down r down space");
    assert_eq!(command(&effects), Some(format!("relink -f qcow2 -F raw --force {image} /srv/images/new.qcow2")));
    let mut m = start();
    let effects = keys(&mut m, "j j j l j j p");
    assert_eq!(command(&effects), Some(format!("compact -f qcow2 {WEB}")));
    let effects = keys(&mut m, "space");
    assert_eq!(command(&effects), Some(format!("compact -f qcow2 --free-space {WEB}")));
    let effects = keys(&mut m, "down space");
    assert_eq!(command(&effects), Some(format!("compact -f qcow2 --free-space --copy {WEB}")));
    let generation = asked(&effects).generation;
    let _ = keys(&mut m, "enter");
    assert_eq!(form(&m).page, Page::Plan);
    answer(&mut m, generation, Plan::default());
    let effects = keys(&mut m, "enter");
    assert!(matches!(effects.as_slice(), [Effect::Submit(JobSpec::Compact(_))]), "{effects:?}");
}

/// Puts the cursor on the field `id`.
fn go(m: &mut Model, id: &str) {
    let at = form(m).fields.iter().position(|f| f.id == id).unwrap_or_else(|| panic!("{id}: {:#?}", form(m).fields));
    let by = at as isize - form(m).at as isize;
    keys(m, &(if by < 0 { "up " } else { "down " }).repeat(by.unsigned_abs()));
}

fn has(m: &Model, id: &str) -> bool {
    form(m).fields.iter().any(|f| f.id == id)
}

#[test]
fn a_conversion_onto_an_image_that_is_there_asks_for_no_options() {
    let mut m = on_page();
    keys(&mut m, "c q");
    assert!(has(&m, "cluster_size") && has(&m, "checksum") && !has(&m, "target-is-zero"));
    go(&mut m, "existing");
    let effects = keys(&mut m, "space");
    assert_eq!(command(&effects), None, "which?");
    for id in ["cluster_size", "checksum", "backing"] {
        assert!(!has(&m, id), "{id}");
    }
    // The source itself is refused; another takes its own format.
    go(&mut m, "target");
    let effects = keys(&mut m, "w e b - 0 2 . q c o w 2");
    assert_eq!(command(&effects), None);
    go(&mut m, "format");
    keys(&mut m, "backspace");
    go(&mut m, "target");
    let effects = keys(&mut m, "ctrl-u w i n 2 0 2 2 - g o l d . v h d x");
    assert_eq!(command(&effects), Some(format!("convert -O vhdx -n {WEB} /srv/images/win2022-gold.vhdx")));
    go(&mut m, "target-is-zero");
    assert_eq!(
        command(&keys(&mut m, "space")),
        Some(format!("convert -O vhdx -n --target-is-zero {WEB} /srv/images/win2022-gold.vhdx"))
    );
    // Back: a new image again, with its options.
    go(&mut m, "existing");
    keys(&mut m, "space");
    assert!(has(&m, "checksum") && !has(&m, "target-is-zero"));
}

#[test]
fn threads_and_bitmaps_where_there_are_any() {
    let mut m = on_page();
    keys(&mut m, "c");
    assert!(!has(&m, "bitmaps"), "raw holds none");
    keys(&mut m, "q");
    go(&mut m, "bitmaps");
    let target = "/srv/images/web-02.1.qcow2";
    assert_eq!(command(&keys(&mut m, "space")), Some(format!("convert -O qcow2 --bitmaps {WEB} {target}")));
    assert!(!has(&m, "skip-broken"), "all were saved properly");
    go(&mut m, "threads");
    assert_eq!(command(&keys(&mut m, "1 7")), None);
    assert!(form(&m).fields.iter().any(|f| f.id == "threads" && f.error.is_some()));
    assert_eq!(command(&keys(&mut m, "backspace")), Some(format!("convert -O qcow2 -m 1 --bitmaps {WEB} {target}")));
    go(&mut m, "compat");
    keys(&mut m, "0");
    assert!(!has(&m, "bitmaps"), "version 2 holds none");
    // Nobody looked whether there are any: they may be asked for, and broken ones left out.
    let mut m = start();
    keys(&mut m, "j j j l j j c q");
    go(&mut m, "bitmaps");
    keys(&mut m, "space");
    go(&mut m, "skip-broken");
    let effects = keys(&mut m, "space");
    assert!(command(&effects).is_some_and(|c| c.contains("--bitmaps --skip-broken-bitmaps")), "{effects:?}");
}

#[test]
fn raw_files_are_joined_end_to_end() {
    use crate::app::fixture::Made;
    use crate::engine::format::Format;
    let piece = Made { name: "disk.001", format: Some(Format::Raw), size: 1 << 30, snapshots: None, ..Made::default() };
    let mut m = model((120, 36), library(&[piece]));
    keys(&mut m, "j c");
    assert!(has(&m, "join-1") && !has(&m, "join-2") && !has(&m, "bitmaps"));
    go(&mut m, "join-1");
    let effects = keys(&mut m, "d i s k . 0 0 2");
    let all = "/srv/images/disk.001 /srv/images/disk.002";
    assert_eq!(command(&effects), Some(format!("convert -f raw -O qcow2 {all} /srv/images/disk.qcow2")));
    go(&mut m, "join-2");
    let effects = keys(&mut m, "d i s k . 0 0 3");
    assert_eq!(command(&effects), Some(format!("convert -f raw -O qcow2 {all} /srv/images/disk.003 /srv/images/disk.qcow2")));
    assert!(has(&m, "join-3"));
    // None of them may be what is made: the disk is asked about all.
    let looked = asked(&effects).paths.iter().find(|p| p.field == "target").map(|p| p.role.clone());
    let read = ["disk.001", "disk.002", "disk.003"].map(|n| Path::new("/srv/images").join(n)).to_vec();
    assert_eq!(looked, Some(super::Role::New(read)));
}

#[test]
fn what_a_format_or_a_lock_forbids_is_said() {
    let mut m = start();
    let why = |m: &mut Model, typed: &str| {
        assert!(keys(m, typed).is_empty() && m.layers.is_empty(), "{typed}");
        m.notice.take().map(|n| n.text).unwrap_or_default()
    };
    // A VHDX.
    keys(&mut m, "G k");
    assert!(why(&mut m, "A").contains("vhdx images have no options"));
    assert!(why(&mut m, "B").contains("only qcow2 images do"));
    assert!(why(&mut m, "L").contains("stands alone"));
    // In use.
    keys(&mut m, "g j j j l");
    for key in ["A", "B", "L", "p"] {
        assert!(why(&mut m, key).contains("in use by qemu-system-x86"), "{key}");
    }
    m.read_only = true;
    for key in ["A", "B", "L", "p"] {
        assert!(why(&mut m, key).contains("read-only"), "{key}");
    }
}

#[test]
fn the_mouse_focuses_fields_turns_words_and_presses_buttons() {
    use crate::app::hits::{Hit, Hits};
    use crate::app::message::Mouse;
    use ratatui::layout::Rect;
    let mut m = start();
    keys(&mut m, "j j j c");
    let last = form(&m).fields.len();
    m.hits = Hits::default();
    m.hits.add(Rect::new(0, 0, 10, 1), Hit::Word(0, 1));
    m.hits.add(Rect::new(0, 1, 10, 1), Hit::Field(1));
    let effects = update(&mut m, Message::Mouse(Mouse::Press, 3, 0));
    let Some(JobSpec::Convert(s)) = &asked(&effects).spec else { panic!() };
    assert_eq!(s.format.name(), "qcow2");
    update(&mut m, Message::Mouse(Mouse::Press, 3, 1));
    assert_eq!(form(&m).at, 1);
    update(&mut m, Message::Paste("x".into()));
    assert!(form(&m).fields[1].input.text().ends_with('x'));
    m.hits.add(Rect::new(0, 2, 10, 1), Hit::Field(form(&m).fields.len() + 1));
    update(&mut m, Message::Mouse(Mouse::Press, 3, 2));
    assert!(m.layers.is_empty(), "{last}");
}

#[test]
fn what_is_switched_gets_into_the_sanitise_and_its_command() {
    use crate::app::config::OwnProfile;
    use crate::engine::guest::sanitize::operations;
    use crate::engine::ops::sanitize::{Kept, Outlook};
    let open = |m: &mut Model| keys(m, "j j j l j j z");
    let image = "/srv/images/web-02.qcow2";
    let command = |effects: &[Effect]| asked(effects).spec.clone().expect("a spec").command().join(" ");
    let mut m = start();
    let effects = open(&mut m);
    assert_eq!(command(&effects), format!("sanitize --profile clone {image}"));
    assert!(asked(&effects).wonders.is_some(), "it wants to know what there is in the guest");
    // Every operation of the table has its switch, none shares its name with another field, and each says what it does.
    let named: Vec<&str> = form(&m).fields.iter().map(|f| f.id).collect();
    for o in operations::all() {
        assert_eq!(named.iter().filter(|n| **n == o.id).count(), 1, "{}", o.id);
    }
    assert!(form(&m).fields.iter().all(|f| !f.doc.is_empty()));
    let go = |m: &mut Model, id: &str, typed: &str| {
        let at = form(m).fields.iter().position(|f| f.id == id).unwrap_or_else(|| panic!("{id}"));
        let down = at as isize - form(m).at as isize;
        let step = if down < 0 { "up " } else { "down " };
        keys(m, &format!("{} {typed}", step.repeat(down.unsigned_abs())))
    };
    go(&mut m, "passwords", "space");
    go(&mut m, "logs", "space");
    go(&mut m, "undo", "space");
    let effects = go(&mut m, "profile", "o");
    assert_eq!(command(&effects), format!("sanitize --profile openstack --enable passwords --disable logs --no-undo {image}"));
    // What the profile switches on may be switched off.
    let effects = go(&mut m, "firewall-off", "space");
    assert!(command(&effects).contains("--disable firewall-off,logs"), "{}", command(&effects));
    let effects = go(&mut m, "place", "right");
    assert_eq!(
        command(&effects),
        format!(
            "sanitize --profile openstack --enable passwords --disable firewall-off,logs --to /srv/images/web-02-openstack.qcow2 \
             -O qcow2 {image}"
        )
    );
    let effects = go(&mut m, "format", "ctrl-u r");
    assert!(command(&effects).contains("--to /srv/images/web-02-openstack.raw -O raw"), "{}", command(&effects));
    // A profile of one's own is put into words that any machine knows.
    let mut m = start();
    m.config.profiles = vec![OwnProfile { name: "web".into(), enable: vec!["passwords".into()], disable: vec!["logs".into()] }];
    open(&mut m);
    let effects = keys(&mut m, "w");
    assert_eq!(command(&effects), format!("sanitize --enable passwords --disable logs {image}"));
    // What others stand on is not changed under them.
    let mut m = start();
    let effects = keys(&mut m, "j j j z");
    assert!(command(&effects).contains("--to /srv/images/debian-12-base-clone.qcow2"), "{}", command(&effects));
    let effects = go(&mut m, "place", "left");
    assert_eq!(asked(&effects).spec, None);
    let place = form(&m).fields.iter().find(|f| f.id == "place").and_then(|f| f.error.clone()).unwrap();
    assert!(place.contains("web-01.qcow2 and 1 more stand on it"), "{place}");
    // An undo file is in the way of another one.
    let mut m = start();
    let generation = asked(&open(&mut m)).generation;
    let kept = Kept { path: format!("{image}.sanitize-undo").into(), made: "then".into(), bytes: 5, half_done: false };
    let outlook = Some(Outlook { operations: Vec::new(), kept: Some(kept) });
    let made = PlanMade { generation, remarks: Vec::new(), plan: None, outlook };
    let effects = update(&mut m, Message::Plan(Box::new(made)));
    assert_eq!(asked(&effects).spec, None, "it is asked again, and cannot be done");
    assert!(form(&m).fields.iter().any(|f| f.id == "place" && f.error.is_some()));
    // Nothing at all is no sanitise.
    let mut m = start();
    open(&mut m);
    keys(&mut m, "m");
    let on: Vec<&str> = form(&m).fields.iter().filter(|f| f.value() == "on" && f.id != "undo").map(|f| f.id).collect();
    for id in on {
        go(&mut m, id, "space");
    }
    assert!(form(&m).fields.iter().any(|f| f.id == "profile" && f.error.is_some()));
}
