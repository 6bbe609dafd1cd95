//! VMware ESXi: VMDK in the layouts a host or an OVF import takes.

use super::shared::{self, Wants};
use super::{Finding, Readiness, Subject, Target, TargetEntry};
use crate::engine::format::Format;
use crate::engine::units::TIB;

pub(super) const ENTRY: TargetEntry = TargetEntry {
    target: Target::Esxi,
    name: "esxi",
    title: "VMware ESXi",
    taker: "OVF import, or a datastore",
    make: (Format::Vmdk, &[("subformat", "streamOptimized"), ("adapter_type", "lsilogic")]),
    assess,
};

const WANTS: Wants = Wants {
    drivers: &[("VMware disk", &["vmw_pvscsi", "mptspi", "ahci", "ata_piix", "nvme"])],
    drivers_decide: false,
    agent: Some("open-vm-tools"),
    cloud: false,
};

/// The largest disk: 62 TiB.
const MAX: u64 = 62 * TIB;

fn assess(s: &Subject, out: &mut Readiness) {
    let kind = s.specific("create-type").unwrap_or_default();
    let good = match (s.format, kind) {
        (Format::Vmdk, "streamOptimized") => Ok("streamOptimized: for OVF import (ovftool, the web client)".into()),
        (Format::Vmdk, "vmfs" | "vmfsThin" | "monolithicFlat") => {
            Ok(format!("{kind}: a descriptor with its extent, for a datastore"))
        }
        (Format::Vmdk, "vmfsSparse" | "seSparse") => Ok(format!("{kind}: a delta of a datastore, with its parents")),
        (Format::Vmdk, other) => Err(format!("{other}: a layout of Workstation that a host does not run from")),
        (other, _) => Err(format!("{other}; only VMDK is taken")),
    };
    shared::format(s, out, good);
    if !matches!(kind, "vmfsSparse" | "seSparse") {
        shared::alone(s, out);
    }
    shared::size(s, out, 512, "sectors", MAX, "62 TiB");
    if s.format == Format::Vmdk
        && let Some(adapter) = s.fact("adapter type")
    {
        out.add(if adapter == "ide" {
            Finding::advice("adapter", "ide: a host wants lsilogic or pvscsi for more than two disks, and for speed")
                .from("descriptor")
        } else {
            Finding::yes("adapter", adapter).from("descriptor")
        });
    }
    shared::guest(s, &WANTS, out);
}
