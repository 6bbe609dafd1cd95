//! `cowshed inspect`: what is on a disk: partitions, volumes, filesystems, and who the guest is.

use std::path::PathBuf;

use serde_json::json;

use super::guest::GuestSource;
use super::out::{Format, Out, Tone, size};
use super::{Failure, Verb};
use crate::engine::error::Context;
use crate::engine::guest::identity::identify;
use crate::engine::guest::tree::Guest;
use crate::engine::units::printable;

/// Look inside: partitions, volumes, filesystems, the guest's identity
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cowshed inspect disk.qcow2\n  \
    cowshed inspect --output json disk.vmdk")]
pub(super) struct Args {
    #[command(flatten)]
    guest: GuestSource,

    /// For people, or for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Format::Human)]
    output: Format,

    /// The image
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
}

impl Verb for Args {
    fn run(self, out: &mut Out) -> Result<u8, Failure> {
        let (_held, disk) = self.guest.disk(&self.image)?;
        let guest = Guest::open(&disk).path(&self.image)?;
        let identity = identify(&guest);
        let problems: Vec<&String> = guest.layout.problems.iter().chain(&guest.problems).collect();
        if self.output == Format::Json {
            let volumes: Vec<_> = guest
                .layout
                .volumes
                .iter()
                .enumerate()
                .map(|(i, v)| {
                    let at: Vec<_> = mounted(&guest, i);
                    json!({ "name": v.name, "partition": v.partition, "start": v.start, "length": v.len, "filesystem": v.info,
                            "mounted": at, "problem": v.problem })
                })
                .collect();
            out.json(&json!({ "table": guest.layout.table, "volumes": volumes, "guest": identity.facts, "problems": problems }))?;
            return Ok(0);
        }
        let table = match &guest.layout.table {
            Some(t) => format!("{:?} partition table, {}", t.kind, t.id).replace("Mbr", "MBR").replace("Gpt", "GPT"),
            None => "no partition table".to_string(),
        };
        out.line(out.paint(Tone::Title, table))?;
        let rows: Vec<Vec<String>> = guest
            .layout
            .volumes
            .iter()
            .enumerate()
            .map(|(i, v)| {
                let info = v.info.as_ref();
                let kind = guest.layout.table.as_ref().and_then(|t| t.partitions.iter().find(|p| Some(p.number) == v.partition));
                let free = info.and_then(|f| f.free).map_or_else(|| "-".into(), size);
                vec![
                    v.name.clone(),
                    v.start.map_or_else(|| "-".into(), size),
                    size(v.len),
                    kind.filter(|_| !v.logical_volume).map_or_else(|| "-".into(), |p| p.kind.clone()),
                    info.map_or_else(|| "-".into(), |f| f.kind.name().to_string()),
                    info.and_then(|f| f.label.clone()).unwrap_or_else(|| "-".into()),
                    free,
                    mounted(&guest, i).join(" "),
                    info.and_then(|f| f.uuid.clone()).unwrap_or_else(|| "-".into()),
                ]
            })
            .collect();
        out.table(&["volume", "start", "size", "type", "holds", "label", "free", "mounted at", "uuid"], &rows, &[1, 2, 6])?;
        for v in guest.layout.volumes.iter() {
            for note in v.info.iter().flat_map(|f| &f.notes).chain(&v.problem) {
                out.line(out.paint(Tone::Warning, format!("{}: {}", v.name, printable(note))))?;
            }
        }
        if !identity.facts.is_empty() {
            out.line("")?;
            out.line(out.paint(Tone::Title, "guest"))?;
            let rows: Vec<Vec<String>> = identity.facts.iter().map(|f| vec![f.what.into(), f.value.clone(), printable(&f.from)]).collect();
            out.table(&["what", "value", "from"], &rows, &[])?;
        }
        for p in problems {
            out.line(out.paint(Tone::Warning, printable(p)))?;
        }
        Ok(0)
    }
}

/// Where volume `i` is mounted.
fn mounted(guest: &Guest, i: usize) -> Vec<String> {
    let at = guest.mounts.iter().filter(|m| m.volume == i);
    at.map(|m| if m.at.is_empty() { "/".to_string() } else { printable(&String::from_utf8_lossy(&m.at)) }).collect()
}
