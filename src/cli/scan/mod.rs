//! `cowshed scan`: the library as a tree, for people and for programs.

mod human;
mod json;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use super::out::{Format, Out};
use super::{Failure, Verb};
use crate::engine::library::{Entry, Health, Library, Link, ScanEvent, ScanOptions, scan};

/// Show the images below folders as a tree: chains, orphans, sizes, health, locks
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cowshed scan .\n  \
    cowshed scan /var/lib/libvirt/images ~/VirtualBox\\ VMs\n  \
    cowshed scan --output json /srv/images")]
pub(super) struct Args {
    /// For people, or for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Format::Human)]
    output: Format,

    /// Read every file, also those that did not change since the last scan
    #[arg(long)]
    no_cache: bool,

    /// Folders, images, block devices
    #[arg(value_name = "ROOT", required = true)]
    roots: Vec<PathBuf>,
}

impl Verb for Args {
    fn run(self, out: &mut Out) -> Result<u8, Failure> {
        let mut options = options(self.roots);
        if self.no_cache {
            options.cache = None;
        }
        let mut library = Library::new();
        scan(&options, &AtomicBool::new(false), |event| {
            if let ScanEvent::Done { cache_error: Some(e), .. } = &event {
                eprintln!("cowshed: {e}");
            }
            library.apply(event);
        })?;
        library.relink();
        match self.output {
            Format::Human => human::print(out, &library)?,
            Format::Json => out.json(&json::library(&library))?,
        }
        // The program ends: giving back the memory of ten thousand entries one by one would take longer than printing them.
        std::mem::forget(library);
        Ok(0)
    }
}

/// How the program scans: with its cache, and with libvirt's domains where there are any.
fn options(roots: Vec<PathBuf>) -> ScanOptions {
    let base = directories::BaseDirs::new();
    let mut domain_folders = vec![PathBuf::from("/etc/libvirt/qemu")];
    domain_folders.extend(base.as_ref().map(|d| d.config_dir().join("libvirt/qemu")));
    let mut running_folders = vec![PathBuf::from("/run/libvirt/qemu")];
    running_folders.extend(base.as_ref().and_then(|d| Some(d.runtime_dir()?.join("libvirt/qemu/run"))));
    let cache = directories::ProjectDirs::from("", "", "cowshed").map(|d| d.cache_dir().join("library"));
    ScanOptions { roots, cache, domain_folders, running_folders, threads: 0 }
}

/// What is wrong with an entry, in sentences without its own path; the first is the gravest.
fn problems(e: &Entry) -> Vec<String> {
    match &e.health {
        Health::Ok => Vec::new(),
        Health::Warning(all) => all.clone(),
        Health::Broken(error) => {
            let own = error.file() == Some(e.path.as_path());
            let place = if own { String::new() } else { error.file().map(|p| format!("{}: ", p.display())).unwrap_or_default() };
            vec![format!("{place}{}", error.why())]
        }
    }
}

/// One word for an entry's health.
fn health(e: &Entry) -> &'static str {
    match e.health {
        Health::Ok => "ok",
        Health::Warning(_) => "warning",
        Health::Broken(_) => "broken",
    }
}

/// One word for where an entry's backing reference leads.
fn link(link: &Link) -> &'static str {
    match link {
        Link::Pending => "pending",
        Link::Entry(_) => "ok",
        Link::Loop(..) => "loop",
        Link::Changed(..) => "changed",
        Link::Missing(..) => "missing",
        Link::Gated(_) => "gated",
        Link::Failed(_) => "failed",
    }
}
