//! From options to a running workbench: configuration, session, terminal, threads; and back again in order.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use directories::{BaseDirs, ProjectDirs};
use tokio::sync::mpsc::unbounded_channel;

use super::background::{self, Background, Late};
use super::caps::{Env, detect};
use super::{input, tty};
use crate::app::config::{AUTO, Colors, Config, Glyphs};
use crate::app::key::Keymap;
use crate::app::layer::Layer;
use crate::app::message::Level;
use crate::app::runtime::{self, Workers};
use crate::app::session::{self, Session};
use crate::app::worker::guest::GuestWorkers;
use crate::app::worker::image::ImageWorkers;
use crate::app::worker::jobs::JobWorkers;
use crate::app::worker::library::LibraryWorker;
use crate::app::worker::snapshots::SnapshotWorkers;
use crate::app::{Model, Options};
use crate::engine::error::{Context as _, Error, Result};
use crate::engine::library::ScanOptions;
use crate::ui::Look;
use crate::ui::theme::Depth;

/// Opens the workbench and stays until it is quit. The exit code: 0, or 128 and the signal that ended it.
///
/// Errors: there is no terminal, or it went away.
pub fn run(options: Options) -> Result<u8> {
    if !std::io::stdout().is_terminal() {
        return Err(Error::usage("the workbench needs a terminal")
            .hint("in scripts use scan, info, map and the other verbs: cowshed --help"));
    }
    let env = |name: &str| std::env::var(name).ok();
    let dirs = ProjectDirs::from("", "", "cowshed");
    let config_path = options.config.clone().or_else(|| Some(dirs.as_ref()?.config_dir().join("config.toml")));
    let (config, mut wrong) = read_config(config_path.as_deref(), options.config.is_some())?;
    let mut model = Model {
        roots: roots(&options, &config),
        read_only: options.read_only || config.read_only,
        trash: BaseDirs::new().map(|d| d.data_dir().join("Trash")),
        mouse: config.mouse,
        keymap: Keymap::new(&config.keys),
        focused: true,
        config_path,
        ..Model::default()
    };
    model.library.loading = true;
    let look = look(&env, &options, &config, &mut wrong);
    match wrong.as_slice() {
        [] => {}
        [one] => model.tell(format!("configuration: {one}"), Level::Warning),
        _ => model.layers.push(Layer::Text("What is wrong in the configuration".into(), wrong.clone(), 0)),
    }

    let session_file = dirs.as_ref().and_then(|d| Some(d.state_dir()?.join("session.json")));
    let mut session = session_file.as_deref().map(read_session).unwrap_or_default();
    if let Some(place) = session.place(&model.roots).cloned() {
        session::take_up(&mut model, place);
    }

    let (outbox, inbox) = unbounded_channel();
    let scan = ScanOptions {
        roots: model.roots.clone(),
        cache: dirs.as_ref().map(|d| d.cache_dir().join("library")),
        domain_folders: domain_folders(),
        running_folders: vec![PathBuf::from("/run/libvirt/qemu")],
        ..ScanOptions::default()
    };
    let every = Duration::from_secs(config.watch);
    model.config = config;
    let mut tty = tty::Tty::take(look.0, look.1, model.mouse).op("set the terminal up")?;
    let mut workers = Workers {
        library: LibraryWorker::spawn(scan, every, outbox.clone())?,
        images: ImageWorkers::spawn(&outbox)?,
        guest: GuestWorkers::spawn(&outbox)?,
        snapshots: SnapshotWorkers::spawn(&outbox)?,
        jobs: JobWorkers::spawn(super::dirs::state_dir(), super::dirs::runtime_dir(), &outbox)?,
    };
    input::spawn(outbox, Late::new(look.2.late))?;
    let ended = runtime::run(model, &mut tty, inbox, &mut workers);
    // A job that can be resumed is left so when a signal ends us; when a person said quit, it was said what becomes of them.
    workers.jobs.shut_down(ended.as_ref().map_or(true, |m| m.signal.is_some() || m.leave_jobs));
    drop(tty);
    let model = ended.op("draw on the terminal")?;
    if let Some(file) = session_file {
        session.remember(session::leave(&model));
        // What cannot be kept is not worth an error on the way out.
        let _ = write_session(&file, &session);
    }
    Ok(model.signal.map_or(0, |s| u8::try_from(128 + s).unwrap_or(255)))
}

fn look(env: Env<'_>, options: &Options, config: &Config, wrong: &mut Vec<String>) -> (Look, super::caps::Caps, Background) {
    let colors = match options.color.as_deref() {
        Some("never") => Colors::Never,
        Some("always") if config.colors == Colors::Never => Colors::Ansi,
        _ => config.colors,
    };
    let glyphs = if options.ascii { Glyphs::Ascii } else { config.glyphs };
    let caps = detect(env, colors, glyphs);
    // Only where it matters: without colours, or with a theme that was chosen, the terminal is not asked.
    let asked = match (config.theme.as_str(), caps.depth) {
        (AUTO, depth) if depth != Depth::Mono => background::ask(env),
        _ => Background::default(),
    };
    let theme = match config.theme.as_str() {
        AUTO if asked.light == Some(true) => "paper",
        AUTO => "terminal",
        chosen => chosen,
    };
    let (look, problem) = Look::new(theme, caps.depth, caps.unicode, &|path| std::fs::read_to_string(path));
    wrong.extend(problem);
    (look, caps, asked)
}

/// What was named, else what is configured, else the current folder. Without links, so that a session finds its place again.
fn roots(options: &Options, config: &Config) -> Vec<PathBuf> {
    let home = BaseDirs::new().map(|d| d.home_dir().to_path_buf());
    let mut roots = options.roots.clone();
    if roots.is_empty() {
        let expand = |p: &PathBuf| match (p.strip_prefix("~"), &home) {
            (Ok(rest), Some(home)) => home.join(rest),
            _ => p.clone(),
        };
        roots = config.roots.iter().map(expand).collect();
    }
    if roots.is_empty() {
        roots.push(PathBuf::from("."));
    }
    roots.into_iter().map(|r| std::fs::canonicalize(&r).unwrap_or(r)).collect()
}

/// Where libvirt keeps the definitions of domains: the system's and the user's own.
fn domain_folders() -> Vec<PathBuf> {
    let mut all = vec![PathBuf::from("/etc/libvirt/qemu")];
    all.extend(BaseDirs::new().map(|d| d.config_dir().join("libvirt/qemu")));
    all
}

fn read_config(path: Option<&Path>, named: bool) -> Result<(Config, Vec<String>)> {
    let Some(path) = path else { return Ok(Default::default()) };
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Config::parse(&text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !named => Ok(Default::default()),
        Err(e) if named => Err(e).op("read the configuration").path(path),
        Err(e) => Ok((Config::default(), vec![format!("{}: {e}", path.display())])),
    }
}

fn read_session(file: &Path) -> Session {
    std::fs::read(file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// Written beside and renamed, so that a crash leaves the old one.
fn write_session(file: &Path, session: &Session) -> std::io::Result<()> {
    let dir = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir)?;
    let part = file.with_extension("json.part");
    std::fs::write(&part, serde_json::to_vec_pretty(session)?)?;
    std::fs::rename(part, file)
}
