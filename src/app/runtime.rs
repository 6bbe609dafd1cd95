//! The loop: waits for messages, signals and the clock, lets [`update`] work on them, carries its effects out, and draws at most once
//! per 16 ms and only when something changed; the answer to a key does not wait for a frame that was drawn for anything else. The one
//! asynchronous file.

use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::UnboundedReceiver;

use super::clock::Now;
use super::effect::Effect;
use super::hits::Hits;
use super::message::{Level, Message};
use super::model::Model;
use super::update::{drawn, update};
use super::worker::guest::GuestWorkers;
use super::worker::image::ImageWorkers;
use super::worker::jobs::JobWorkers;
use super::worker::library::LibraryWorker;
use super::worker::snapshots::SnapshotWorkers;

/// What the loop needs of the terminal.
pub trait Terminal {
    /// Draws the model; says what lies where.
    fn draw(&mut self, m: &Model) -> io::Result<Hits>;
    /// Forgets what is on the screen, so that the next drawing sends every cell.
    fn repaint(&mut self) -> io::Result<()>;
    /// Gives the terminal back, stops the process, and takes the terminal again when it goes on.
    fn suspend(&mut self) -> io::Result<()>;
    /// Takes the terminal, whatever state it is in.
    fn resume(&mut self) -> io::Result<()>;
    /// Text to the clipboard.
    fn copy(&mut self, text: &str) -> io::Result<()>;
    /// Asks for mouse events, or no longer.
    fn mouse(&mut self, on: bool) -> io::Result<()>;
    /// A desktop notification.
    fn notify(&mut self, text: &str) -> io::Result<()>;
    /// Columns and rows.
    fn size(&self) -> io::Result<(u16, u16)>;
}

/// The threads behind the model.
pub struct Workers {
    /// The library's.
    pub library: LibraryWorker,
    /// Those that read single images.
    pub images: ImageWorkers,
    /// Those that look inside guests.
    pub guest: GuestWorkers,
    /// Those of the snapshots' screen.
    pub snapshots: SnapshotWorkers,
    /// The jobs.
    pub jobs: JobWorkers,
}

/// Least time from one drawing to the next.
const FRAME: Duration = Duration::from_millis(16);
/// Milliseconds from one look at the jobs to the next.
const SAMPLE: u64 = 240;
/// Messages taken in before drawing, at most: a flood must not freeze the screen.
const BATCH: usize = 512;

/// Runs the workbench until it is done, and gives the model back for its session.
///
/// Errors: the terminal cannot be written to any more.
pub fn run(
    mut m: Model,
    terminal: &mut dyn Terminal,
    inbox: UnboundedReceiver<Message>,
    workers: &mut Workers,
) -> io::Result<Model> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(turn(&mut m, terminal, inbox, workers))?;
    Ok(m)
}

/// The signals we take.
struct Signals {
    terminate: Signal,
    hangup: Signal,
    interrupt: Signal,
    stop: Signal,
    go_on: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            stop: signal(SignalKind::from_raw(libc::SIGTSTP))?,
            go_on: signal(SignalKind::from_raw(libc::SIGCONT))?,
        })
    }
    async fn next(&mut self) -> Message {
        tokio::select! {
            _ = self.terminate.recv() => Message::Terminate(libc::SIGTERM),
            _ = self.hangup.recv() => Message::Terminate(libc::SIGHUP),
            _ = self.interrupt.recv() => Message::Terminate(libc::SIGINT),
            _ = self.stop.recv() => Message::Stop,
            _ = self.go_on.recv() => Message::Continue,
        }
    }
}

async fn turn(
    m: &mut Model,
    terminal: &mut dyn Terminal,
    mut inbox: UnboundedReceiver<Message>,
    workers: &mut Workers,
) -> io::Result<()> {
    let start = Instant::now();
    let mut signals = Signals::new()?;
    // When something was drawn last, and when something that answers a key was.
    let (mut last, mut answered): (Option<Instant>, Option<Instant>) = (None, None);
    let mut answering = false;
    let mut sampled = 0;
    m.size = terminal.size()?;
    m.dirty = true;
    loop {
        m.now = now(start);
        for _ in 0..BATCH {
            let Ok(message) = inbox.try_recv() else { break };
            answering |= message.is_input();
            take(m, message, terminal, workers)?;
        }
        if m.done {
            return Ok(());
        }
        // A key that changed nothing needs no answer.
        answering &= m.dirty;
        let before = if answering { answered } else { last };
        let due = before.map(|t| t + FRAME).filter(|t| *t > Instant::now());
        if m.dirty && due.is_none() {
            last = Some(Instant::now());
            if std::mem::take(&mut answering) {
                answered = last;
            }
            let hits = terminal.draw(m)?;
            let effects = drawn(m, hits);
            carry_out(m, effects, terminal, workers)?;
            continue;
        }
        let wake = m.wake().map(|ms| start + Duration::from_millis(ms));
        let until = if m.dirty { due } else { wake };
        tokio::select! {
            message = inbox.recv() => match message {
                Some(message) => {
                    m.now = now(start);
                    answering |= message.is_input();
                    take(m, message, terminal, workers)?;
                }
                None => return Ok(()),
            },
            message = signals.next() => take(m, message, terminal, workers)?,
            () = sleep(until), if until.is_some() => {
                m.now = now(start);
                take(m, Message::Tick, terminal, workers)?;
                if m.live_jobs() > 0 && m.now.ms >= sampled + SAMPLE {
                    sampled = m.now.ms;
                    take(m, Message::Jobs(workers.jobs.sample()), terminal, workers)?;
                }
            }
        }
    }
}

async fn sleep(until: Option<Instant>) {
    if let Some(t) = until {
        tokio::time::sleep_until(t.into()).await;
    }
}

fn now(start: Instant) -> Now {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    Now { ms: u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX), unix: i64::try_from(unix).unwrap_or(i64::MAX) }
}

fn take(m: &mut Model, message: Message, terminal: &mut dyn Terminal, workers: &mut Workers) -> io::Result<()> {
    let effects = update(m, message);
    carry_out(m, effects, terminal, workers)
}

fn carry_out(m: &mut Model, effects: Vec<Effect>, terminal: &mut dyn Terminal, workers: &mut Workers) -> io::Result<()> {
    for effect in effects {
        match effect {
            Effect::Quit => m.done = true,
            Effect::Suspend => {
                terminal.suspend()?;
                m.size = terminal.size()?;
                m.dirty = true;
            }
            Effect::Resume => {
                terminal.resume()?;
                m.size = terminal.size()?;
                m.dirty = true;
            }
            Effect::Repaint => terminal.repaint()?,
            Effect::Copy(text) => terminal.copy(&text)?,
            Effect::Mouse(on) => terminal.mouse(on)?,
            Effect::Notify(text) => terminal.notify(&text)?,
            Effect::Rescan => workers.library.rescan(),
            Effect::Watch(watch) => workers.library.watch(watch),
            Effect::LoadPage(request) => workers.images.page.ask(request),
            Effect::LoadGrid(request) => workers.images.grid.ask(request),
            Effect::LoadCursor(request) => workers.images.cursor.ask(request),
            Effect::LoadInside(request) => workers.images.inside.ask(request),
            Effect::Look(request) => workers.guest.look.ask(request),
            Effect::Files(request) => workers.guest.files.ask(request),
            Effect::LoadSnapshots(request) => workers.snapshots.list.ask(request),
            Effect::LoadDiff(request) => workers.snapshots.diff.ask(request),
            Effect::CountFreed(request) => workers.snapshots.freed.ask(request),
            Effect::Plan(request) => workers.jobs.plan.ask(request),
            Effect::Submit(spec) => {
                workers.jobs.submit(spec);
                take(m, Message::Jobs(workers.jobs.sample()), terminal, workers)?;
            }
            Effect::SampleJobs => take(m, Message::Jobs(workers.jobs.sample()), terminal, workers)?,
            Effect::AskFound(id) => {
                if let Some(found) = workers.jobs.found(id) {
                    take(m, Message::Checked(found), terminal, workers)?;
                }
            }
            Effect::AskReport(id) => {
                if let Some(report) = workers.jobs.report(id) {
                    take(m, Message::Sanitized(report), terminal, workers)?;
                }
            }
            Effect::LookKept(request) => workers.guest.kept.ask(request),
            Effect::CancelJob(id) => workers.jobs.cancel(id),
            Effect::PauseJob(id, pause) => workers.jobs.pause(id, pause),
            Effect::ForgetJobs => {
                workers.jobs.forget();
                take(m, Message::Jobs(workers.jobs.sample()), terminal, workers)?;
            }
            Effect::ForgetPast => workers.jobs.forget_past(),
            Effect::RetryJob(id) => workers.jobs.retry(id),
            Effect::LimitJob(id, bytes) => {
                workers.jobs.limit(id, bytes);
                take(m, Message::Jobs(workers.jobs.sample()), terminal, workers)?;
            }
            Effect::RankJob(id, priority) => {
                workers.jobs.rank(id, priority);
                take(m, Message::Jobs(workers.jobs.sample()), terminal, workers)?;
            }
            Effect::LookLeft => workers.jobs.look_left(),
            Effect::ResumeLeft(key) => workers.jobs.resume_left(&key),
            Effect::DiscardLeft(key) => workers.jobs.discard_left(key),
            Effect::WriteConfig(path) => match write_config(&path) {
                Ok(()) => m.tell(format!("wrote {}", path.display()), Level::Info),
                Err(e) => m.tell(format!("{}: {e}", path.display()), Level::Error),
            },
        }
    }
    Ok(())
}

/// Writes the commented default where there is no configuration yet.
fn write_config(path: &std::path::Path) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let mut file = std::fs::File::create_new(path)?;
    io::Write::write_all(&mut file, super::config::Config::commented().as_bytes())
}
