//! Microsoft Azure: page blobs take a fixed VHD of whole MiB; the guest needs Hyper-V drivers and a provisioning agent.

use super::shared::{self, Wants};
use super::subject::Firmware;
use super::{Finding, Readiness, Subject, Target, TargetEntry};
use crate::engine::format::Format;
use crate::engine::units::{GIB, MIB};

pub(super) const ENTRY: TargetEntry = TargetEntry {
    target: Target::Azure,
    name: "azure",
    title: "Azure",
    taker: "page blobs and managed disks",
    make: (Format::Vhd, &[("subformat", "fixed"), ("align", "1M")]),
    assess,
};

const WANTS: Wants = Wants {
    drivers: &[("Hyper-V bus", &["hv_vmbus"]), ("Hyper-V disk", &["hv_storvsc"])],
    drivers_decide: true,
    agent: None,
    cloud: true,
};

/// The largest system disk: 4095 GiB.
const MAX: u64 = 4095 * GIB;

fn assess(s: &Subject, out: &mut Readiness) {
    let fixed = s.fact("disk type") == Some("fixed");
    let good = match (s.format, fixed) {
        (Format::Vhd, true) => Ok("a fixed VHD".into()),
        (Format::Vhd, false) => Err(format!("a {} VHD; only fixed ones are taken", s.fact("disk type").unwrap_or("dynamic"))),
        (other, _) => Err(format!("{other}; only fixed VHDs are taken")),
    };
    shared::format(s, out, good);
    shared::alone(s, out);
    shared::size(s, out, MIB, "MiB", MAX, "4095 GiB");
    if let Some(inside) = s.guest() {
        out.add(match inside.firmware {
            Firmware::Bios | Firmware::Both => {
                Finding::yes("generation", "boots with a BIOS: generation 1").from("partition table")
            }
            Firmware::Uefi => Finding::yes("generation", "boots with UEFI only: generation 2").from("partition table"),
            Firmware::Neither => Finding::no("generation", "there is nothing that a BIOS or UEFI boots").from("partition table"),
        });
        let agent = inside.identity.all("agent").find(|f| f.value == "walinuxagent");
        out.add(match agent {
            Some(f) => Finding::yes("Azure agent", "walinuxagent").from(&f.from),
            None => {
                Finding::advice("Azure agent", "walinuxagent is not installed: cloud-init provisions, extensions do not work")
            }
        });
        if !inside.swap.is_empty() {
            out.add(Finding::advice("no swap", format!("{}: Azure wants swap on the temporary disk", inside.swap.join(", "))));
        }
    }
    shared::guest(s, &WANTS, out);
}
