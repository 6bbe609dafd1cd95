//! `cowshed ls`: names in a guest's folder.

use jiff::Timestamp;

use super::guest::{GuestSource, image_and_path};
use super::out::{Format, Out};
use super::{Failure, Verb};
use crate::engine::error::Context;
use crate::engine::guest::fs::{FileType, Stat};
use crate::engine::guest::tree::{Guest, Spot};
use crate::engine::guest::walk::{Step, walk};
use crate::engine::units::printable_bytes;

/// List files inside a guest's filesystem
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cowshed ls disk.qcow2:/etc\n  \
    cowshed ls --partition 2 disk.vmdk:/EFI\n  \
    cowshed ls -l before-upgrade disk.qcow2:/boot\n  \
    cowshed ls -R disk.qcow2:/etc\n  \
    cowshed ls --find authorized_keys disk.qcow2:/")]
pub(super) struct Args {
    #[command(flatten)]
    guest: GuestSource,

    /// Also list what is in the folders below, as paths
    #[arg(short = 'R', long)]
    recursive: bool,

    /// List only what has this in its name, in all folders below
    #[arg(long, value_name = "TEXT")]
    find: Option<String>,

    /// For people, or for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Format::Human)]
    output: Format,

    /// The image, and the path inside it
    #[arg(value_name = "IMAGE:PATH")]
    what: String,
}

/// A line of the listing.
struct Row {
    name: Vec<u8>,
    stat: Stat,
    target: Option<Vec<u8>>,
}

impl Verb for Args {
    fn run(self, out: &mut Out) -> Result<u8, Failure> {
        let (image, path) = image_and_path(&self.what)?;
        let (_held, guest) = self.guest.open(&image)?;
        let spot = guest.resolve(path.as_bytes(), true).op("look inside").path(&image)?;
        let stat = guest.stat(spot)?;
        let mut rows = Vec::new();
        if stat.kind == FileType::Folder && (self.recursive || self.find.is_some()) {
            let wanted = self.find.as_deref().unwrap_or_default().as_bytes();
            let problems = walk(&guest, path.as_bytes(), &mut |met| {
                let name = met.path.rsplit(|c| *c == b'/').next().unwrap_or_default();
                if wanted.is_empty() || name.windows(wanted.len()).any(|w| w.eq_ignore_ascii_case(wanted)) {
                    let target = (met.stat.kind == FileType::Link).then(|| guest.read_link(met.spot)).transpose()?;
                    rows.push(Row { name: met.path.to_vec(), stat: met.stat.clone(), target });
                }
                Ok(Step::On)
            })?;
            for p in problems {
                eprintln!("cowshed: warning, {p}");
            }
        } else if stat.kind == FileType::Folder {
            for e in guest.list(spot)? {
                rows.push(row(&guest, Spot { mount: spot.mount, node: e.node }, e.name)?);
            }
            rows.sort_by(|a, b| a.name.cmp(&b.name));
        } else {
            rows.push(row(&guest, spot, path.into_bytes())?);
        }
        match self.output {
            Format::Json => {
                let all: Vec<_> = rows
                    .iter()
                    .map(|r| {
                        let mut v = serde_json::json!({
                            "name": String::from_utf8_lossy(&r.name), "type": r.stat.kind, "size": r.stat.size,
                            "mode": format!("{:04o}", r.stat.mode), "uid": r.stat.uid, "gid": r.stat.gid, "mtime": r.stat.mtime,
                        });
                        if let Some(t) = &r.target {
                            v["target"] = String::from_utf8_lossy(t).into();
                        }
                        v
                    })
                    .collect();
                out.json(&all)?;
            }
            Format::Human => {
                let lines: Vec<Vec<String>> = rows
                    .iter()
                    .map(|r| {
                        let arrow = r.target.as_ref().map(|t| format!(" -> {}", printable_bytes(t))).unwrap_or_default();
                        vec![
                            mode(&r.stat),
                            format!("{}:{}", r.stat.uid, r.stat.gid),
                            r.stat.size.to_string(),
                            Timestamp::from_second(r.stat.mtime).map(|t| t.strftime("%Y-%m-%d %H:%M").to_string()).unwrap_or_default(),
                            format!("{}{arrow}", printable_bytes(&r.name)),
                        ]
                    })
                    .collect();
                out.table(&["mode", "owner", "size", "changed (UTC)", "name"], &lines, &[2])?;
            }
        }
        Ok(0)
    }
}

fn row(guest: &Guest, spot: Spot, name: Vec<u8>) -> Result<Row, Failure> {
    let stat = guest.stat(spot)?;
    let target = (stat.kind == FileType::Link).then(|| guest.read_link(spot)).transpose()?;
    Ok(Row { name, stat, target })
}

/// `drwxr-xr-x`.
fn mode(s: &Stat) -> String {
    let mut text = String::from(match s.kind {
        FileType::File => "-",
        FileType::Folder => "d",
        FileType::Link => "l",
        FileType::Special => "s",
    });
    for (i, c) in "rwxrwxrwx".chars().enumerate() {
        text.push(if s.mode & (0o400 >> i) != 0 { c } else { '-' });
    }
    text
}
