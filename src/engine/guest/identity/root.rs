//! Where the root filesystem lies on its disk, and what makes it grow when the disk does.

use super::Identity;
use crate::engine::guest::tree::Guest;

/// The root filesystem's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootPlace {
    /// Name of its volume: `p3`, `vg/root`, `disk`.
    pub volume: String,
    /// It is a logical volume.
    pub logical: bool,
    /// Nothing lies behind its partition.
    pub last: bool,
    /// Bytes behind its partition that belong to no other.
    pub free_behind: u64,
    /// What makes it grow at boot: in words, and its file.
    pub grower: Option<(&'static str, String)>,
}

/// Programs and settings that grow the root's partition at boot.
const GROWERS: &[(&str, &str)] = &[
    ("growpart", "/usr/bin/growpart"),
    ("growpart", "/usr/sbin/growpart"),
    ("dracut growroot", "/usr/lib/dracut/modules.d/50growroot/module-setup.sh"),
    ("initramfs growroot", "/usr/share/initramfs-tools/hooks/growroot"),
    ("systemd-repart", "/usr/lib/repart.d/50-root.conf"),
    ("systemd-repart", "/etc/repart.d/50-root.conf"),
];

/// Where the root lies; `None` when the guest has none.
pub fn root_place(g: &Guest) -> Option<RootPlace> {
    let volume = g.layout.volumes.get(g.mounts.first()?.volume)?;
    let grower = GROWERS.iter().find(|(_, p)| g.exists(p)).map(|(how, p)| (*how, (*p).to_string()));
    let mut place = RootPlace { volume: volume.name.clone(), logical: volume.logical_volume, last: true, free_behind: 0, grower };
    if let Some(table) = &g.layout.table {
        let own = table.partitions.iter().find(|p| Some(p.number) == volume.partition)?;
        place.last = table.last().is_some_and(|l| l.number == own.number);
        if place.last {
            place.free_behind = table.usable.1.saturating_sub(own.end());
        }
    }
    Some(place)
}

pub(super) fn add(g: &Guest, id: &mut Identity) {
    let Some(place) = root_place(g) else { return };
    let kind = g.mounts.first().map_or("", |m| m.fs.info().kind.name());
    let sits = match (g.layout.table.is_some(), place.last) {
        (false, _) => "fills the whole disk",
        (true, true) => "in the last partition",
        (true, false) => "another partition lies behind it",
    };
    let from = if g.layout.table.is_some() { "partition table" } else { "superblock" };
    id.add("root", format!("{} ({kind}), {sits}", place.volume), from);
    if let Some((how, from)) = &place.grower {
        id.add("growable", format!("by {how}"), from);
    }
    id.root = Some(place);
}
