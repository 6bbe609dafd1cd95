//! The one model: everything the screen shows and every choice a person made. No I/O; the clock is a field.

use std::path::PathBuf;

use super::clock::Now;
use super::config::Config;
use super::hits::Hits;
use super::key::Keymap;
use super::layer::Layer;
use super::message::Level;
use super::state::check::CheckState;
use super::state::guide::GuideState;
use super::state::inside::InsideState;
use super::state::jobs::{JobRow, JobsState};
use super::state::library::LibraryState;
use super::state::map::MapState;
use super::state::page::PageState;
use super::state::sanitize::SanitizeState;
use super::state::scroll::Scroll;
use super::state::snapshots::SnapshotsState;
use super::worker::library::Watch;
use crate::engine::error::Error;
use crate::engine::library::{Entry, Health};
use crate::engine::ops::JobSpec;

/// A screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Screen {
    /// The tree of images.
    #[default]
    Library,
    /// One image.
    Image,
    /// Its allocation map.
    Map,
    /// The jobs.
    Jobs,
    /// The format guide.
    Guide,
    /// What an image's snapshots and overlays cost.
    Snapshots,
    /// What a check of an image found.
    Check,
    /// What is inside an image: volumes, guest, files.
    Inside,
    /// Where an image would be taken.
    Ready,
    /// What sanitising an image did, and keeps.
    Sanitize,
}

impl Screen {
    /// Those with a tab of their own, in the order of their digits.
    pub const TABS: [Screen; 5] = [Screen::Library, Screen::Image, Screen::Map, Screen::Jobs, Screen::Guide];
    /// All.
    pub const ALL: [Screen; 10] = [
        Screen::Library,
        Screen::Image,
        Screen::Map,
        Screen::Jobs,
        Screen::Guide,
        Screen::Snapshots,
        Screen::Check,
        Screen::Inside,
        Screen::Ready,
        Screen::Sanitize,
    ];
    /// Its name on the tab.
    pub fn title(self) -> &'static str {
        match self {
            Screen::Library => "Library",
            Screen::Image => "Image",
            Screen::Map => "Map",
            Screen::Jobs => "Jobs",
            Screen::Guide => "Formats",
            Screen::Snapshots => "Snapshots",
            Screen::Check => "Check",
            Screen::Inside => "Inside",
            Screen::Ready => "Ready?",
            Screen::Sanitize => "Sanitised",
        }
    }
    /// The tab it is under.
    pub fn tab(self) -> Screen {
        match self {
            Screen::Snapshots | Screen::Check | Screen::Inside | Screen::Ready | Screen::Sanitize => Screen::Image,
            other => other,
        }
    }
}

/// A part of a screen that can have the focus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // Named as on the screen.
pub enum Pane {
    Tree,
    Detail,
    Facts,
    Chain,
    Snapshots,
    Grid,
    JobList,
    JobLog,
    FormatList,
    FormatText,
    States,
    State,
    Report,
    Files,
    Volumes,
    Identity,
    Targets,
    Findings,
    Sanitized,
}

impl Pane {
    /// The panes of a screen, in the order of Tab.
    pub fn of(screen: Screen) -> &'static [Pane] {
        match screen {
            Screen::Library => &[Pane::Tree, Pane::Detail],
            Screen::Image => &[Pane::Facts, Pane::Chain, Pane::Snapshots],
            Screen::Map => &[Pane::Grid],
            Screen::Jobs => &[Pane::JobList, Pane::JobLog],
            Screen::Guide => &[Pane::FormatList, Pane::FormatText],
            Screen::Snapshots => &[Pane::States, Pane::State],
            Screen::Check => &[Pane::Report],
            Screen::Inside => &[Pane::Files, Pane::Volumes, Pane::Identity],
            Screen::Ready => &[Pane::Targets, Pane::Findings],
            Screen::Sanitize => &[Pane::Sanitized],
        }
    }
    /// The screen it belongs to.
    pub fn screen(self) -> Screen {
        Screen::ALL.into_iter().find(|s| Pane::of(*s).contains(&self)).unwrap_or_default()
    }
}

/// Something told at the bottom of the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What.
    pub text: String,
    /// How grave.
    pub level: Level,
    /// When it goes away.
    pub until: u64,
}

/// Everything.
#[derive(Debug, Default)]
pub struct Model {
    /// Now.
    pub now: Now,
    /// Columns and rows.
    pub size: (u16, u16),
    /// What is shown.
    pub screen: Screen,
    /// Where Esc goes.
    pub back: Vec<Screen>,
    /// Which pane of each screen had the focus last.
    pub focus: [usize; Screen::ALL.len()],
    /// What lies on top, the topmost last.
    pub layers: Vec<Layer>,
    /// The library.
    pub library: LibraryState,
    /// An image's page.
    pub page: PageState,
    /// Its map.
    pub map: MapState,
    /// What is inside it.
    pub inside: InsideState,
    /// Its snapshots.
    pub snaps: SnapshotsState,
    /// What sanitising did.
    pub sanitize: SanitizeState,
    /// What checks found.
    pub check: CheckState,
    /// The jobs.
    pub jobs: JobsState,
    /// The format guide.
    pub guide: GuideState,
    /// Told at the bottom.
    pub notice: Option<Notice>,
    /// Keys.
    pub keymap: Keymap,
    /// Choices of the configuration.
    pub config: Config,
    /// Where the configuration is, or would be.
    pub config_path: Option<PathBuf>,
    /// The mouse is ours.
    pub mouse: bool,
    /// Nothing may be written.
    pub read_only: bool,
    /// Where the home trash is, if there is a home.
    pub trash: Option<PathBuf>,
    /// The terminal window has the focus.
    pub focused: bool,
    /// Areas of the last drawing.
    pub hits: Hits,
    /// The last click: column, row, when; for double clicks.
    pub clicked: Option<(u16, u16, u64)>,
    /// What the library's thread was told to watch.
    pub watched: Watch,
    /// The roots as they were given.
    pub roots: Vec<PathBuf>,
    /// What a session remembered and the library has not shown yet.
    pub pending: Option<super::session::Place>,
    /// The loop ends.
    pub done: bool,
    /// Something visible changed since the last drawing.
    pub dirty: bool,
    /// Something changed behind the scenes, to be drawn by then, or with the next key. If it were drawn at once, a key right after
    /// it would have to wait for the next frame.
    pub later: Option<u64>,
    /// Jobs that still run are left so that they can be resumed.
    pub leave_jobs: bool,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

impl Model {
    /// The pane that has the focus.
    pub fn pane(&self) -> Pane {
        let panes = Pane::of(self.screen);
        let at = self.focus.get(self.screen as usize).copied().unwrap_or(0);
        panes.get(at.min(panes.len() - 1)).copied().unwrap_or(Pane::Tree)
    }
    /// Gives a pane the focus.
    pub fn set_pane(&mut self, pane: Pane) {
        let screen = pane.screen();
        let at = Pane::of(screen).iter().position(|p| *p == pane).unwrap_or(0);
        if let Some(f) = self.focus.get_mut(screen as usize) {
            *f = at;
        }
    }
    /// The topmost layer.
    pub fn layer(&self) -> Option<&Layer> {
        self.layers.last()
    }
    /// The image that commands are about.
    pub fn subject(&self) -> Option<PathBuf> {
        match self.screen {
            Screen::Image => match (self.pane(), self.page.loaded()) {
                // A layer under the cursor of the chain is what is meant there.
                (Pane::Chain, Some(d)) => d.nodes.get(self.page.chain.at).map(|n| n.path.clone()),
                _ => self.page.path.clone(),
            },
            Screen::Map => self.map.path.clone(),
            Screen::Check => self.check.path.clone(),
            Screen::Sanitize => self.sanitize.path.clone(),
            Screen::Inside | Screen::Ready => self.inside.path.clone(),
            Screen::Snapshots => match self.snaps.image_at_cursor() {
                Some(id) => self.library.data.get(id).map(|e| e.path.clone()),
                None => self.snaps.path.clone(),
            },
            _ => self.library.selected().map(|e| e.path.clone()),
        }
    }
    /// What the library knows of the subject.
    pub fn subject_entry(&self) -> Option<&Entry> {
        match self.screen {
            Screen::Image
            | Screen::Map
            | Screen::Snapshots
            | Screen::Check
            | Screen::Inside
            | Screen::Ready
            | Screen::Sanitize => self.library.data.at(&self.subject()?),
            _ => self.library.selected(),
        }
    }
    /// Why the subject's content cannot be read, if so.
    pub fn subject_error(&self) -> Option<Error> {
        if self.screen == Screen::Image && self.pane() != Pane::Chain {
            match &self.page.data {
                Some(Err(e)) => return Some(e.clone()),
                Some(Ok(d)) => return d.nodes.last().and_then(|n| n.error.clone()),
                None => {}
            }
        }
        match &self.subject_entry()?.health {
            Health::Broken(e) => Some(e.clone()),
            _ => None,
        }
    }
    /// The error or warnings that are shown, in full.
    pub fn error_text(&self) -> Option<String> {
        let full = |e: &Error| match e.advice() {
            Some(hint) => format!("{e}\nhint: {hint}"),
            None => e.to_string(),
        };
        if self.screen == Screen::Map
            && let Some(e) = &self.map.error
        {
            return Some(full(e));
        }
        if let Some(e) = self.subject_error() {
            return Some(full(&e));
        }
        match &self.subject_entry()?.health {
            Health::Warning(all) => Some(all.join("\n")),
            _ => None,
        }
    }
    /// The job under the cursor.
    pub fn selected_job(&self) -> Option<&JobRow> {
        self.jobs.rows.get(self.jobs.scroll.at)
    }
    /// A check of the image shown on its page has not ended.
    pub fn checking(&self) -> bool {
        let of_it = |j: &&JobRow| matches!(&j.view.spec, JobSpec::Check(s) if Some(&s.image) == self.check.path.as_ref());
        self.jobs.rows.iter().find(of_it).is_some_and(JobRow::live)
    }
    /// The last job that sanitised the image shown on its page, or took that back.
    pub fn sanitizing(&self) -> Option<&JobRow> {
        let path = self.sanitize.path.as_ref()?;
        let of_it = |j: &&JobRow| match &j.view.spec {
            JobSpec::Sanitize(s) => s.target.as_ref().unwrap_or(&s.image) == path,
            _ => false,
        };
        self.jobs.rows.iter().find(of_it)
    }
    /// Jobs that have not ended.
    pub fn live_jobs(&self) -> usize {
        self.jobs.rows.iter().filter(|j| j.live()).count()
    }
    /// Something on the screen moves by itself: a spinner, a gauge.
    pub fn moving(&self) -> bool {
        let planning = matches!(self.layer(), Some(Layer::Form(f)) if f.waiting);
        self.library.data.scanning || self.library.loading || self.waiting() || planning
    }
    /// The screen shown waits for a thread.
    fn waiting(&self) -> bool {
        match self.screen {
            Screen::Image => self.page.path.is_some() && (self.page.data.is_none() || self.page.shares.is_none()),
            Screen::Map => self.map.loading,
            Screen::Snapshots => self.snaps.loading(),
            Screen::Check => self.checking(),
            Screen::Sanitize => self.sanitizing().is_some_and(JobRow::live),
            Screen::Inside => self.inside.loading(),
            Screen::Ready => self.inside.path.is_some() && self.inside.look.is_none(),
            _ => false,
        }
    }
    /// When time must pass on, in milliseconds of the model's clock; `None` while nothing moves.
    pub fn wake(&self) -> Option<u64> {
        let notice = self.notice.as_ref().map(|n| n.until);
        let frame = self.moving().then(|| (self.now.ms / 125 + 1) * 125);
        let jobs = (self.live_jobs() > 0).then(|| (self.now.ms / 250 + 1) * 250);
        [notice, frame, jobs, self.later].into_iter().flatten().min()
    }
    /// Notes that something changed behind the scenes.
    pub fn changed_behind(&mut self) {
        self.later.get_or_insert(self.now.ms + 60);
    }
    /// Tells something at the bottom of the screen.
    pub fn tell(&mut self, text: impl Into<String>, level: Level) {
        let text = text.into();
        // Long enough to read: errors stay longer.
        let stay = if level == Level::Info { 4_000 } else { 12_000 };
        self.notice = Some(Notice { text, level, until: self.now.ms + stay });
        self.dirty = true;
    }
    /// The list under a pane, with its length.
    pub fn scroll_of(&mut self, pane: Pane) -> (&mut Scroll, usize) {
        fn text(s: &mut Scroll) -> (&mut Scroll, usize) {
            let len = s.len;
            (s, len)
        }
        match pane {
            Pane::Tree => {
                let len = self.library.rows.len();
                (&mut self.library.scroll, len)
            }
            Pane::Detail => text(&mut self.library.detail),
            Pane::Facts => text(&mut self.page.facts),
            Pane::Chain => {
                let len = self.page.loaded().map_or(0, |d| d.nodes.len());
                (&mut self.page.chain, len)
            }
            Pane::Snapshots => {
                let len = self.page.loaded().and_then(|d| d.nodes.first()).map_or(0, |n| n.description.snapshots.len());
                (&mut self.page.snapshots, len)
            }
            Pane::Grid => text(&mut self.guide.text),
            Pane::JobList => {
                let len = self.jobs.len();
                (&mut self.jobs.scroll, len)
            }
            Pane::JobLog => text(&mut self.jobs.log),
            Pane::FormatList => (&mut self.guide.list, crate::engine::format::FORMATS.len()),
            Pane::FormatText => text(&mut self.guide.text),
            Pane::States => {
                let len = self.snaps.rows.len();
                (&mut self.snaps.scroll, len)
            }
            Pane::State => text(&mut self.snaps.detail),
            Pane::Report => text(&mut self.check.scroll),
            Pane::Sanitized => text(&mut self.sanitize.scroll),
            Pane::Files => {
                let len = self.inside.list().len();
                (&mut self.inside.files, len)
            }
            Pane::Volumes => {
                let len = self.inside.seen().map_or(0, |l| l.volumes.len());
                (&mut self.inside.volumes, len)
            }
            Pane::Identity => text(&mut self.inside.identity),
            Pane::Targets => (&mut self.inside.targets, crate::engine::guest::ready::TARGETS.len()),
            Pane::Findings => text(&mut self.inside.findings),
        }
    }
}
