//! Who makes the last partition grow when cowshed does not: what the guest itself has for that, said plainly.

use crate::engine::guest::identity::root::root_place;
use crate::engine::guest::tree::Guest;
use crate::engine::io::Device;

/// Programs that run growpart at first boot.
const CLOUD_INIT: &[&str] = &["/usr/bin/cloud-init", "/usr/sbin/cloud-init", "/usr/local/bin/cloud-init"];

/// What grows partition `number` (`None`: the whole disk) of `disk` at boot, or that nothing does.
pub(super) fn grower(disk: &Device, number: Option<u32>) -> String {
    let Some((guest, place)) = Guest::open(disk).ok().and_then(|g| root_place(&g).map(|p| (g, p))) else {
        return "no guest was found on it that would grow anything at boot".into();
    };
    let root = guest.mounts.first().and_then(|m| guest.layout.volumes.get(m.volume)).and_then(|v| v.partition);
    let cloud_init = CLOUD_INIT.iter().any(|p| guest.exists(p));
    if root != number {
        return format!("what grows at boot is the root ({}), and this is not it", place.volume);
    }
    match (&place.grower, cloud_init, number) {
        (_, true, None) => "cloud-init grows the filesystem at first boot (it is in the guest)".into(),
        (_, false, None) => "nothing in the guest grows it at boot (it has no cloud-init)".into(),
        (Some(("growpart", from)), true, _) => {
            format!("cloud-init grows it by growpart at first boot (both are in the guest: {from})")
        }
        (Some(("growpart", _)), false, Some(n)) => {
            format!("growpart is in the guest, but no cloud-init that would run it: growpart /dev/vda {n} there")
        }
        (Some((how, from)), _, _) => format!("{how} grows it at boot (in the guest: {from})"),
        (None, true, _) => {
            "cloud-init is in the guest, but no growpart for it to run: nothing grows the partition at boot".into()
        }
        (None, false, _) => "nothing in the guest grows it at boot: it has neither growpart nor cloud-init".into(),
    }
}
