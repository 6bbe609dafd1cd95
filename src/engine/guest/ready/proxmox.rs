//! Proxmox VE: what its import takes, and what a template's guest should have.

use super::shared::{self, Wants};
use super::{Finding, Readiness, Remedy, Subject, Target, TargetEntry};
use crate::engine::format::Format;
use crate::engine::units::TIB;

pub(super) const ENTRY: TargetEntry = TargetEntry {
    target: Target::Proxmox,
    name: "proxmox",
    title: "Proxmox VE",
    taker: "disk import (qm disk import, the import storage)",
    make: (Format::Qcow2, &[]),
    assess,
};

const WANTS: Wants = Wants {
    drivers: &[("virtio disk", &["virtio_scsi", "virtio_blk"]), ("virtio bus", &["virtio_pci"])],
    drivers_decide: false,
    agent: Some("qemu-guest-agent"),
    cloud: false,
};

fn assess(s: &Subject, out: &mut Readiness) {
    let kind = s.specific("create-type").unwrap_or_default();
    let good = match s.format {
        Format::Qcow2 | Format::Raw | Format::Ami => Ok(format!("{}: imported as it is", s.format)),
        Format::Vmdk if matches!(kind, "monolithicSparse" | "streamOptimized") => {
            Ok(format!("VMDK ({kind}): converted by the import"))
        }
        Format::Vmdk => Err(format!("a {kind} VMDK is more than one file: the import takes one")),
        Format::Iso => Ok("a disc, for an ISO storage".into()),
        other => Err(format!("{other}; the import takes qcow2, raw and VMDK")),
    };
    shared::format(s, out, good);
    shared::alone(s, out);
    if s.specific("data-file").is_some() {
        out.add(Finding::no("one file", "the import refuses images with a data file of their own").fix(Remedy::Convert));
    }
    shared::size(s, out, 512, "sectors", 128 * TIB, "128 TiB");
    if s.format == Format::Iso {
        return;
    }
    shared::guest(s, &WANTS, out);
    if let Some(inside) = s.guest() {
        out.add(match inside.identity.first("cloud-init") {
            Some(f) => Finding::yes("cloud-init", f.value.as_str()).from(&f.from),
            None => Finding::advice("cloud-init", "not installed: a template cannot be set up from outside"),
        });
        if inside.machine_id_empty == Some(false) {
            out.add(Finding::advice("machine id empty", "clones of a template would share it").from("/etc/machine-id"));
        }
    }
}
