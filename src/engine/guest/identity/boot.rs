//! How the guest boots: kernels, what its initramfs holds, the drivers at hand before the root is mounted, the console.

use std::collections::BTreeSet;

use super::Identity;
use crate::engine::error::{Error, Result};
use crate::engine::format::amazon::members::members;
use crate::engine::guest::tree::{Guest, Spot};
use crate::engine::io::ReadAt;

/// Drivers that decide whether a guest finds its disk and network on a platform.
pub const DRIVERS: &[&str] = &[
    "virtio_blk",
    "virtio_scsi",
    "virtio_pci",
    "virtio_net",
    "hv_vmbus",
    "hv_storvsc",
    "hv_netvsc",
    "vmw_pvscsi",
    "vmxnet3",
    "mptspi",
    "ahci",
    "ata_piix",
    "nvme",
    "ena",
    "xen-blkfront",
    "e1000",
];

/// The drivers a guest has before its root is mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drivers {
    /// Names of [`DRIVERS`] in the initramfs.
    pub packed: BTreeSet<&'static str>,
    /// Names of [`DRIVERS`] built into the kernel.
    pub builtin: BTreeSet<&'static str>,
    /// The initramfs that was read.
    pub initramfs: Option<String>,
    /// The list of what is built in.
    pub builtin_list: Option<String>,
    /// Why the initramfs could not be read to its end.
    pub problem: Option<String>,
}

impl Drivers {
    /// Whether `name` is at hand; `None` when nothing was found that could tell.
    pub fn has(&self, name: &str) -> Option<bool> {
        if self.packed.contains(name) || self.builtin.contains(name) {
            return Some(true);
        }
        (self.initramfs.is_some() && self.problem.is_none()).then_some(false)
    }
    /// The file that shows it.
    pub fn source(&self) -> String {
        self.initramfs.clone().or(self.builtin_list.clone()).unwrap_or_default()
    }
}

/// Where the kernel writes its messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Console {
    /// A boot configuration with `console=ttyS0`.
    pub serial: Option<String>,
    /// The boot configuration that was found, with or without it.
    pub looked: Option<String>,
}

/// A file of the guest as a device.
struct GuestFile<'a> {
    guest: &'a Guest,
    spot: Spot,
    len: u64,
}

impl ReadAt for GuestFile<'_> {
    fn len(&self) -> u64 {
        self.len
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|r| !r.is_empty()) {
            match self.guest.read(self.spot, offset + done as u64, rest)? {
                0 => return Err(Error::corrupt("a file ends before its size says").at(offset)),
                n => done += n,
            }
        }
        Ok(())
    }
}

/// The module in a path of an archive: `…/virtio_blk.ko.zst` is `virtio_blk`.
fn driver(path: &[u8]) -> Option<&'static str> {
    let file = path.rsplit(|c| *c == b'/').next()?;
    let at = file.windows(3).position(|w| w == b".ko")?;
    let name = file.get(..at)?;
    // The kernel takes - and _ for the same.
    let same = |d: &&&str| {
        d.len() == name.len()
            && d.bytes().zip(name).all(|(a, b)| a == *b || (a == b'-' || a == b'_') && (*b == b'-' || *b == b'_'))
    };
    DRIVERS.iter().find(same).copied()
}

/// The version in the name of a kernel or an initramfs: `initrd.img-6.1.0-9-amd64` is `6.1.0-9-amd64`.
fn version(name: &str) -> &str {
    let rest = name.split_once('-').map_or("", |(_, v)| v);
    rest.strip_suffix(".img").unwrap_or(rest)
}

/// A version as numbers and words, so that 6.10 comes after 6.9.
fn ordered(version: &str) -> Vec<(u64, String)> {
    version.split(['.', '-', '_', '+']).take(16).map(|p| (p.parse().unwrap_or(0), p.to_string())).collect()
}

/// The initramfs of the newest kernel, and that kernel's version.
fn newest_initramfs(g: &Guest) -> Option<(String, String)> {
    let names = g.names("/boot");
    let usual = |n: &&String| {
        (n.starts_with("initrd") || n.starts_with("initramfs"))
            && !["rescue", "kdump", "fallback", ".old", ".bak"].iter().any(|w| n.contains(w))
    };
    let name = names.iter().filter(usual).max_by_key(|n| ordered(version(n)))?;
    Some((format!("/boot/{name}"), version(name).to_string()))
}

/// The drivers at hand before the root is mounted: those in the newest kernel's initramfs, and those built in.
///
/// Unpacks the initramfs as a stream; time and memory are bounded, whatever it claims.
pub fn drivers(g: &Guest) -> Drivers {
    let mut out = Drivers::default();
    let newest = newest_initramfs(g);
    let versions = g.names("/lib/modules");
    let wanted = newest.as_ref().map(|(_, v)| v).filter(|v| versions.contains(v)).or(versions.iter().max_by_key(|v| ordered(v)));
    if let Some(version) = wanted {
        let list = format!("/lib/modules/{version}/modules.builtin");
        if let Ok(text) = g.read_text(&list) {
            out.builtin.extend(text.lines().filter_map(|l| driver(l.as_bytes())));
            out.builtin_list = Some(list);
        }
    }
    if let Some((path, _)) = newest {
        let file = g.resolve(path.as_bytes(), true).and_then(|spot| {
            let len = g.stat(spot)?.size;
            Ok(GuestFile { guest: g, spot, len })
        });
        let read = file.and_then(|f| {
            members(&f, &mut |name| {
                out.packed.extend(driver(name));
            })
        });
        out.problem = read.err().map(|e| e.to_string());
        out.initramfs = Some(path);
    }
    out
}

/// Where boot loaders keep the kernel's command line.
const BOOT_CONFIGS: &[&str] = &[
    "/boot/grub/grub.cfg",
    "/boot/grub2/grub.cfg",
    "/boot/grub2/grubenv",
    "/etc/default/grub",
    "/etc/kernel/cmdline",
    "/boot/extlinux/extlinux.conf",
    "/boot/extlinux.conf",
    "/boot/syslinux/syslinux.cfg",
    "/boot/grub/menu.lst",
];

/// Whether the kernel is told to use the first serial port.
pub fn console(g: &Guest) -> Console {
    let mut out = Console::default();
    let mut files: Vec<String> = Vec::new();
    for folder in ["/boot/loader/entries", "/etc/default/grub.d"] {
        files.extend(g.names(folder).iter().take(64).map(|n| format!("{folder}/{n}")));
    }
    files.extend(BOOT_CONFIGS.iter().map(|s| (*s).to_string()));
    for path in files {
        let Ok(text) = g.read_text(&path) else { continue };
        let told = text.lines().any(|l| !l.trim_start().starts_with('#') && l.contains("console=ttyS0"));
        if told {
            out.serial = Some(path.clone());
        }
        out.looked.get_or_insert(path);
        if out.serial.is_some() {
            break;
        }
    }
    out
}

pub(super) fn add(g: &Guest, id: &mut Identity) {
    let boot = g.names("/boot");
    for name in boot.iter().filter(|n| n.starts_with("vmlinuz-") || n.starts_with("vmlinux-") || n.starts_with("Image-")) {
        id.add("kernel", version(name), format!("/boot/{name}"));
    }
    for name in boot.iter().filter(|n| n.starts_with("initrd") || n.starts_with("initramfs")) {
        id.add("initramfs", name, format!("/boot/{name}"));
    }
    let d = drivers(g);
    let (virtio, others): (Vec<&str>, Vec<&str>) =
        DRIVERS.iter().filter(|n| d.has(n) == Some(true)).partition(|n| n.starts_with("virtio"));
    if d.initramfs.is_some() || d.builtin_list.is_some() {
        let place = |names: Vec<&str>| {
            let all = names.iter().map(|n| if d.builtin.contains(n) { format!("{n} (built in)") } else { (*n).to_string() });
            all.collect::<Vec<_>>().join(", ")
        };
        let none = match &d.problem {
            Some(why) => format!("not known: {why}"),
            None if d.initramfs.is_none() => String::new(),
            None => "not in the initramfs, not built in".into(),
        };
        let told = if virtio.is_empty() { none } else { place(virtio) };
        id.add("virtio", told, d.source());
        id.add("drivers", place(others), d.source());
    }
    id.drivers = d;
    id.console = console(g);
    if let Some(from) = id.console.serial.clone() {
        id.add("console", "ttyS0", from);
    } else if let Some(from) = id.console.looked.clone() {
        id.add("console", "not on ttyS0", from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_are_found_by_the_names_of_their_modules() {
        assert_eq!(driver(b"usr/lib/modules/6.1/kernel/drivers/block/virtio_blk.ko.zst"), Some("virtio_blk"));
        assert_eq!(driver(b"kernel/drivers/block/xen_blkfront.ko"), Some("xen-blkfront"));
        assert_eq!(driver(b"kernel/drivers/block/not_virtio_blk.ko"), None);
        assert_eq!(driver(b"etc/virtio_blk"), None);
    }

    #[test]
    fn the_newest_kernel_is_the_one_with_the_highest_number() {
        assert!(ordered("6.10.0-1-amd64") > ordered("6.9.0-30-amd64"));
        assert_eq!(version("initramfs-5.14.0-70.el9.x86_64.img"), "5.14.0-70.el9.x86_64");
    }
}
