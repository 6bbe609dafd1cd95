//! `cowshed map`: where each range of the disk is kept, as `qemu-img map` prints it.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::out::{Format, Out};
use super::source::Source;
use super::{Failure, Verb, names};
use crate::engine::chain::Chain;
use crate::engine::ops::map::{Entry, Map, file_of};
use crate::engine::units::{parse_size, printable};

/// Show which ranges of a disk are stored, where and in which layer
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cowshed map disk.qcow2\n  \
    cowshed map --output json -s 1G -l 64M disk.qcow2")]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,

    /// Human: ranges that hold data; json: every range
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Format::Human)]
    output: Format,

    /// Begin at this guest byte
    #[arg(short, long, value_name = "OFFSET", default_value = "0", value_parser = size)]
    start_offset: u64,

    /// Show at most so many bytes
    #[arg(short = 'l', long, value_name = "LENGTH", value_parser = size)]
    max_length: Option<u64>,

    /// The image
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
}

fn size(text: &str) -> Result<u64, String> {
    parse_size(text).map_err(|e| e.why().to_string())
}

impl Verb for Args {
    fn run(self, out: &mut Out) -> Result<u8, Failure> {
        let held = self.source.open(&self.image)?;
        let chain = &held.chain;
        let disk = chain.disk()?;
        let map = Map::new(&disk, self.start_offset, self.max_length.unwrap_or(u64::MAX));
        match self.output {
            Format::Json => json(out, map, self.start_offset)?,
            Format::Human => human(out, map, chain, &self.image)?,
        }
        Ok(0)
    }
}

/// One object per line, written as it is found: a map may have millions.
fn json(out: &mut Out, map: Map<'_>, begin: u64) -> Result<(), Failure> {
    let mut before = "[";
    let mut map = map.peekable();
    // Where there is nothing to tell, as beyond the end, qemu-img prints one entry of no bytes.
    let nothing = map.peek().is_none().then(|| Ok(Entry::nothing(begin)));
    for entry in map.chain(nothing) {
        let Entry { start, len, depth, present, zero, data, compressed, offset, .. } = entry?;
        write!(
            out,
            "{before}{{ \"start\": {start}, \"length\": {len}, \"depth\": {depth}, \"present\": {present}, \
             \"zero\": {zero}, \"data\": {data}, \"compressed\": {compressed}"
        )?;
        if let Some(offset) = offset {
            write!(out, ", \"offset\": {offset}")?;
        }
        write!(out, "}}")?;
        before = ",\n";
    }
    out.line("]")?;
    Ok(())
}

fn human(out: &mut Out, map: Map<'_>, chain: &Chain, image: &Path) -> Result<(), Failure> {
    writeln!(out, "{:<16}{:<16}{:<16}File", "Offset", "Length", "Mapped to")?;
    let nodes = names::chain(image, &chain.nodes);
    // Neighbouring lines are mostly of the same file.
    let mut last: Option<((usize, usize), String)> = None;
    for entry in map {
        let e = entry?;
        if !e.data || e.zero {
            continue;
        }
        let place = match e.offset {
            Some(offset) => hex(offset),
            None => "compressed".to_string(),
        };
        if last.as_ref().is_none_or(|(key, _)| *key != (e.depth, e.file)) {
            let path = match (nodes.get(e.depth), chain.nodes.get(e.depth)) {
                (Some(shown), _) if e.file == 0 => shown.clone(),
                (Some(shown), Some(node)) => names::beside(&file_of(chain, e.depth, e.file), &node.path, shown),
                _ => file_of(chain, e.depth, e.file),
            };
            last = Some(((e.depth, e.file), printable(&path.display().to_string())));
        }
        let name = last.as_ref().map_or("", |(_, name)| name);
        writeln!(out, "{:<16}{:<16}{place:<16}{name}", hex(e.start), hex(e.len))?;
    }
    Ok(())
}

/// As C's `%#x` has it: a plain `0`.
fn hex(n: u64) -> String {
    if n == 0 { "0".into() } else { format!("{n:#x}") }
}
