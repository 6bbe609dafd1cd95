//! Amazon EC2: what VM Import takes, and what a guest needs on instances whose disks are NVMe and whose network is ENA.

use super::shared::{self, Wants};
use super::{Readiness, Subject, Target, TargetEntry};
use crate::engine::format::Format;
use crate::engine::units::TIB;

pub(super) const ENTRY: TargetEntry = TargetEntry {
    target: Target::Ec2,
    name: "ec2",
    title: "Amazon EC2",
    taker: "VM Import (import-image, import-snapshot)",
    make: (Format::Raw, &[]),
    assess,
};

const WANTS: Wants =
    Wants { drivers: &[("NVMe or Xen disk", &["nvme", "xen-blkfront"])], drivers_decide: true, agent: None, cloud: true };

/// The largest disk: 16 TiB.
const MAX: u64 = 16 * TIB;

fn assess(s: &Subject, out: &mut Readiness) {
    let kind = s.specific("create-type").unwrap_or_default();
    let good = match s.format {
        Format::Raw | Format::Ami => Ok("raw bytes".into()),
        Format::Vhd => Ok(format!("a {} VHD", s.fact("disk type").unwrap_or("fixed or dynamic"))),
        Format::Vhdx => Ok("a VHDX".into()),
        Format::Vmdk if kind == "streamOptimized" => Ok("a streamOptimized VMDK".into()),
        Format::Vmdk => Err(format!("a {kind} VMDK; of VMDK only streamOptimized is taken")),
        other => Err(format!("{other}; raw, VHD, VHDX and streamOptimized VMDK are taken")),
    };
    shared::format(s, out, good);
    shared::alone(s, out);
    shared::size(s, out, 1, "", MAX, "16 TiB");
    shared::guest(s, &WANTS, out);
}
