//! Microsoft Hyper-V: VHDX, or VHD for generation 1.

use super::shared::{self, Wants};
use super::subject::Firmware;
use super::{Finding, Readiness, Remedy, Subject, Target, TargetEntry};
use crate::engine::format::Format;
use crate::engine::units::{GIB, TIB};

pub(super) const ENTRY: TargetEntry = TargetEntry {
    target: Target::HyperV,
    name: "hyperv",
    title: "Hyper-V",
    taker: "a virtual machine of generation 1 or 2",
    make: (Format::Vhdx, &[]),
    assess,
};

const WANTS: Wants = Wants {
    drivers: &[("Hyper-V bus", &["hv_vmbus"]), ("Hyper-V disk", &["hv_storvsc"])],
    drivers_decide: false,
    agent: Some("hyperv-daemons"),
    cloud: false,
};

fn assess(s: &Subject, out: &mut Readiness) {
    let good = match s.format {
        Format::Vhdx => Ok("VHDX: generation 1 and 2".into()),
        Format::Vhd => Ok("VHD: generation 1 only".into()),
        other => Err(format!("{other}; VHDX and VHD are taken")),
    };
    shared::format(s, out, good);
    if s.stands_on.is_some() {
        out.add(Finding::advice("stands alone", "a differencing disk: its parents must come along"));
    }
    let (max, name) = if s.format == Format::Vhd { (2040 * GIB, "2040 GiB") } else { (64 * TIB, "64 TiB") };
    shared::size(s, out, 512, "sectors", max, name);
    if s.format == Format::Vhdx && s.description.dirty {
        out.add(Finding::advice("log empty", "its log has entries to replay; Hyper-V does that when it opens it"));
    }
    if let Some(inside) = s.guest() {
        out.add(match (inside.firmware, s.format) {
            (Firmware::Uefi, Format::Vhd) => {
                let why = "the guest boots with UEFI only, which generation 1 has not, and a VHD goes no further";
                Finding::no("generation", why).from("partition table").fix(Remedy::Convert)
            }
            (Firmware::Uefi, _) => Finding::yes("generation", "boots with UEFI only: generation 2").from("partition table"),
            (Firmware::Neither, _) => {
                Finding::advice("generation", "there is nothing that a BIOS or UEFI boots").from("partition table")
            }
            _ => Finding::yes("generation", "boots with a BIOS: generation 1").from("partition table"),
        });
    }
    shared::guest(s, &WANTS, out);
}
