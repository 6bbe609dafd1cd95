//! OpenStack: what the image service (Glance 33, measured) accepts, what its safety inspector checks and misses, what a guest
//! needs to come up in Nova, and the properties to give it.

use super::shared::{self, Wants};
use super::subject::{Firmware, Inside};
use super::{Finding, Readiness, Remedy, Subject, Target, TargetEntry};
use crate::engine::format::Format;
use crate::engine::units::GIB;

pub(super) const ENTRY: TargetEntry = TargetEntry {
    target: Target::OpenStack,
    name: "openstack",
    title: "OpenStack",
    taker: "the image service (Glance) and Nova",
    make: (Format::Qcow2, &[]),
    assess,
};

const WANTS: Wants = Wants {
    drivers: &[("virtio disk", &["virtio_blk", "virtio_scsi"]), ("virtio bus", &["virtio_pci"])],
    drivers_decide: true,
    agent: Some("qemu-guest-agent"),
    cloud: true,
};

/// The service's name for a format, with the container; `None` when it has none.
fn declared(format: Format) -> Option<(&'static str, &'static str)> {
    Some(match format {
        Format::Raw => ("raw", "bare"),
        Format::Qcow2 => ("qcow2", "bare"),
        Format::Vmdk => ("vmdk", "bare"),
        Format::Vdi => ("vdi", "bare"),
        Format::Vhd => ("vhd", "bare"),
        Format::Vhdx => ("vhdx", "bare"),
        Format::Iso => ("iso", "bare"),
        // A container that only raw can carry.
        Format::Luks => ("raw", "bare"),
        Format::Ami => ("ami", "ami"),
        Format::Aki => ("aki", "aki"),
        Format::Ari => ("ari", "ari"),
        _ => return None,
    })
}

fn assess(s: &Subject, out: &mut Readiness) {
    let accepted = service(s, out);
    hidden(s, out);
    let boots = !matches!(s.format, Format::Iso | Format::Aki | Format::Ari);
    if boots {
        shared::guest(s, &WANTS, out);
    }
    if let Some((disk, container)) = accepted {
        out.property("disk_format", disk, "what it would be declared as");
        out.property("container_format", container, "the container that goes with it");
        let gib = s.size.div_ceil(GIB).max(1);
        out.property("min_disk", gib.to_string(), format!("{} bytes of virtual disk, in GiB", s.size));
        if let Some(inside) = s.guest().filter(|_| boots) {
            properties(inside, out);
        }
    }
}

/// Whether the service accepts it, by its own rules.
fn service(s: &Subject, out: &mut Readiness) -> Option<(&'static str, &'static str)> {
    let Some((disk, container)) = declared(s.declared) else {
        out.add(
            Finding::no("disk_format", format!("the service has no name for {}: it answers 400", s.declared))
                .fix(Remedy::Convert),
        );
        return None;
    };
    out.add(Finding::yes("disk_format", format!("{disk}/{container}, one that is allowed by default")));
    if container != "bare" {
        out.add(Finding::yes("inspector", "not run: the service takes any bytes in this container"));
        return Some((disk, container));
    }
    let seen = &s.inspected.formats;
    let pair = seen.len() == 2 && seen.contains(&"iso") && seen.contains(&"gpt");
    if seen.len() > 1 && !pair {
        out.add(
            Finding::no("one format", format!("the service's inspector sees {} at once", seen.join(" and ")))
                .fix(Remedy::Convert),
        );
    }
    // What is declared raw is not compared with what is seen.
    let same = disk == "raw" || seen.contains(&disk);
    let as_seen = seen.join(" and ");
    out.add(if !same {
        let why = if s.format == Format::Vhd && disk == "vhd" {
            "a fixed VHD: the inspector looks for 'conectix' at byte 0 and finds it only at the end".to_string()
        } else {
            format!("declared {disk}, and the inspector sees {as_seen}")
        };
        Finding::no("format match", why).fix(Remedy::Convert)
    } else if disk == "raw" && !seen.iter().all(|f| matches!(*f, "raw" | "gpt" | "luks" | "iso")) {
        let trap = format!(
            "declared raw, it is {as_seen}: accepted silently, with a virtual size of {} bytes that is wrong",
            s.file_size
        );
        Finding::no("format match", trap).by_hand(format!("declare it as {}", s.format))
    } else {
        Finding::yes("format match", format!("the inspector sees {as_seen}"))
    });
    let mut failed = false;
    for c in s.inspected.failures() {
        failed = true;
        let why = c.failure.as_deref().unwrap_or_default();
        out.add(Finding::no("safety check", format!("{} {}: {why}", c.format, c.name)).fix(Remedy::Convert));
    }
    if !failed {
        let names: Vec<_> = s.inspected.checks.iter().map(|c| format!("{} {}", c.format, c.name)).collect();
        out.add(Finding::yes("safety check", format!("passed: {}", names.join(", "))));
    }
    if same && s.inspected.virtual_size != s.size && disk != "raw" {
        let n = s.inspected.virtual_size;
        out.add(Finding::advice("virtual size", format!("the service computes {n} bytes, the disk has {}", s.size)));
    }
    Some((disk, container))
}

/// What the inspector misses.
fn hidden(s: &Subject, out: &mut Readiness) {
    shared::alone(s, out);
    if let Some(how) = &s.description.encrypted
        && s.format != Format::Luks
    {
        out.add(Finding::advice("not encrypted", format!("{how}: it is accepted, and Nova needs the secret")));
    }
    if s.description.dirty {
        out.add(
            Finding::advice("closed properly", "it was not closed properly; the inspector does not look").fix(Remedy::Convert),
        );
    }
    if !s.description.bitmaps.is_empty() {
        out.add(Finding::advice("no bitmaps", format!("{} dirty bitmaps are sent along", s.description.bitmaps.len())));
    }
}

fn properties(inside: &Inside, out: &mut Readiness) {
    let id = &inside.identity;
    let mut from = |name, what: &str| {
        if let Some(f) = id.first(what) {
            out.property(name, f.value.clone(), f.from.clone());
        }
    };
    from("architecture", "architecture");
    from("os_distro", "distribution");
    from("os_version", "version");
    out.property("os_type", "linux", "a Linux root filesystem");
    if let Some((user, from)) = &inside.admin {
        out.property("os_admin_user", user.clone(), from.clone());
    }
    let d = &id.drivers;
    if d.has("virtio_scsi") == Some(true) {
        out.property("hw_disk_bus", "scsi", d.source());
        out.property("hw_scsi_model", "virtio-scsi", d.source());
    } else if d.has("virtio_blk") == Some(true) {
        out.property("hw_disk_bus", "virtio", d.source());
    }
    if d.has("virtio_pci") == Some(true) {
        out.property("hw_vif_model", "virtio", d.source());
    }
    match inside.firmware {
        Firmware::Uefi => {
            out.property("hw_firmware_type", "uefi", "an EFI system partition and nothing for a BIOS");
            out.property("hw_machine_type", "q35", "UEFI guests want it");
        }
        Firmware::Bios => out.property("hw_firmware_type", "bios", "no EFI system partition"),
        Firmware::Both | Firmware::Neither => {}
    }
    if let Some(f) = id.all("agent").find(|f| f.value == "qemu-guest-agent") {
        out.property("hw_qemu_guest_agent", "yes", f.from.clone());
        out.property("os_require_quiesce", "yes", "the agent can freeze its filesystems");
    }
}
