//! Oracle VirtualBox: the formats of its media manager.

use super::shared::{self, Wants};
use super::{Finding, Readiness, Subject, Target, TargetEntry};
use crate::engine::format::Format;
use crate::engine::units::TIB;

pub(super) const ENTRY: TargetEntry = TargetEntry {
    target: Target::VirtualBox,
    name: "virtualbox",
    title: "VirtualBox",
    taker: "the media manager",
    make: (Format::Vdi, &[]),
    assess,
};

const WANTS: Wants = Wants {
    drivers: &[("SATA, IDE or NVMe disk", &["ahci", "ata_piix", "nvme", "virtio_scsi"])],
    drivers_decide: false,
    agent: Some("virtualbox-guest"),
    cloud: false,
};

fn assess(s: &Subject, out: &mut Readiness) {
    let kind = s.specific("create-type").unwrap_or_default();
    let good = match s.format {
        Format::Vdi => Ok("VDI, its own format".into()),
        Format::Vhd => Ok("VHD: read and written".into()),
        Format::Vmdk if matches!(kind, "vmfsSparse" | "seSparse" | "vmfs") => {
            Err(format!("a {kind} VMDK belongs to a VMware datastore"))
        }
        Format::Vmdk => Ok(format!("VMDK ({kind})")),
        Format::Iso => Ok("a disc".into()),
        other => Err(format!("{other} is not among VDI, VMDK and VHD")),
    };
    shared::format(s, out, good);
    if s.stands_on.is_some() {
        out.add(Finding::advice("stands alone", "a differencing image: its parents must be registered first"));
    }
    if kind == "streamOptimized" {
        out.add(Finding::advice(
            "written in place",
            "streamOptimized is for import; VirtualBox copies it when it is to be written",
        ));
    }
    shared::size(s, out, 512, "sectors", 2 * 1024 * TIB, "2 PiB");
    if s.format != Format::Iso {
        shared::guest(s, &WANTS, out);
    }
}
