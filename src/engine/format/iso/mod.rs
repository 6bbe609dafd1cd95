//! Optical discs: ISO 9660 with Joliet, Rock Ridge and El Torito; UDF; both at once (bridge); hybrids that are disks as well.
//! The content is the file's bytes.
//!
//! Owns the format's row, its probe and the facts told of a disc. The descriptors are read by [`volume`], [`boot`],
//! [`rockridge`] and [`udf`].

pub mod boot;
pub mod rockridge;
pub mod udf;
pub mod volume;

use std::sync::Arc;

use super::front::Front;
use super::probe::{Match, Probe};
use super::raw::Raw;
use super::{Caps, Format, FormatEntry, Guide, Image, Source};
use crate::engine::error::{Context, Result};
use crate::engine::io::{ReadAt, read_up_to};
use crate::engine::limits::PROBE_HEAD;
use crate::engine::model::{Description, Fact};
use volume::Descriptors;

/// Its row in the table of formats.
pub static ENTRY: FormatEntry = FormatEntry {
    format: Format::Iso,
    name: "iso",
    driver: "raw",
    title: "optical disc (ISO 9660, UDF)",
    extensions: &["iso", "udf"],
    caps: Caps { read: true, ..Caps::NONE },
    guide: Guide {
        what: "A CD, DVD or Blu-ray as one file. A hybrid also carries a partition table, so that it boots from a USB stick.",
        origin: "ECMA-119 (ISO 9660, 1988) and ECMA-167 (UDF); Joliet and Rock Ridge add long names, El Torito boots.",
        used_by: "Installers and live systems everywhere; attach it to a virtual CD drive.",
        choose: "To install from. It is read-only: for a disk that a guest writes to, make a qcow2 or raw image.",
    },
    probe,
    open,
    options: &[],
    create: None,
    open_write: None,
};

fn probe(p: &Probe<'_>) -> Option<Match> {
    let d = Descriptors::of(p.head);
    let mut seen = Vec::new();
    if let Some(at) = d.iso_at {
        seen.push(format!("ISO 9660 ('CD001' at byte {at:#x})"));
    }
    if let Some(nsr) = d.udf {
        seen.push(format!("UDF ('{nsr}' among the volume descriptors)"));
    }
    if seen.is_empty() {
        return None;
    }
    seen.extend(d.joliet.map(|_| "Joliet".to_string()));
    seen.extend(d.boot_catalog.map(|_| "El Torito".to_string()));
    seen.extend(Front::of(p.head).words().map(|t| format!("hybrid: {t} in front")));
    Match::certain(Format::Iso, seen.join(", "))
}

fn open(source: Source) -> Result<Arc<dyn Image>> {
    let description = describe(source.dev.as_ref())?;
    Ok(Arc::new(Raw::with(vec![source.dev], Format::Iso, description)))
}

/// Reads all that is told of a disc. What is damaged beyond the first descriptors becomes a warning: the bytes can still be read.
fn describe(dev: &dyn ReadAt) -> Result<Description> {
    let head = read_up_to(dev, 0, PROBE_HEAD).op("read volume descriptors")?;
    let d = Descriptors::of(&head);
    let mut facts = Vec::new();
    let mut warnings = Vec::new();
    let mut content = Vec::new();
    if d.iso_at.is_some() {
        content.push("ISO 9660".to_string());
    }
    content.extend(d.joliet.map(|level| format!("Joliet level {level}")));
    if let Some(primary) = &d.primary {
        if rockridge::seen(dev, primary) {
            content.push("Rock Ridge".into());
        }
        primary.tell(dev.len(), &mut facts, &mut warnings);
    } else if d.iso_at.is_some() {
        warnings.push("there is no primary volume descriptor".into());
    }
    if let Some(nsr) = d.udf {
        match udf::Volume::read(dev) {
            Ok(v) => {
                content.push(v.revision.as_ref().map_or("UDF".into(), |r| format!("UDF {r}")));
                v.tell(dev.len(), d.primary.is_none(), &mut facts, &mut warnings);
            }
            Err(e) => {
                content.push("UDF".into());
                warnings.push(format!("{nsr} promises UDF, but its volume cannot be read: {e}"));
            }
        }
    }
    if let Some(sector) = d.boot_catalog {
        content.push("El Torito".into());
        facts.push(Fact { label: "boot catalog", value: format!("sector {sector}") });
        match boot::entries(dev, sector) {
            Ok(entries) => facts.extend(entries.into_iter().map(|e| Fact { label: "boot image", value: e.to_string() })),
            Err(e) => warnings.push(format!("the boot catalog cannot be read: {e}")),
        }
    }
    if let Some(table) = Front::of(&head).words() {
        content.push(format!("hybrid with {table}"));
        facts.push(Fact { label: "partition table", value: table });
    }
    facts.insert(0, Fact { label: "content", value: content.join(", ") });
    Ok(Description { facts, warnings, ..Description::default() })
}
