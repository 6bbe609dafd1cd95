//! The firmware's own partition of a guest whose fstab does not name it: systemd finds it by its type and mounts it when it is wanted
//! (systemd-gpt-auto-generator). The boot loader's files are there.

use std::sync::Arc;

use super::fs::{self, FileType};
use super::recognise::FsKind;
use super::tree::{Guest, Mount};

/// Type of an EFI system partition, and of the partition for kernels beside it.
const ESP: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
const KERNELS: &str = "bc13c2ff-59e6-4262-a352-b275fd6f7172";
/// What mounts it.
const GENERATOR: &str = "/usr/lib/systemd/system-generators/systemd-gpt-auto-generator";

impl Guest {
    /// Mounts it where systemd would, unless something else is there. One that cannot be read is left out, as nothing needs it.
    pub(super) fn mount_firmware(&mut self) {
        let of_type = |wanted: &str| {
            let partitions = self.layout.table.iter().flat_map(|t| &t.partitions);
            partitions.filter(|p| p.code.eq_ignore_ascii_case(wanted)).map(|p| p.number).next()
        };
        let Some(number) = of_type(ESP) else { return };
        let Some(volume) = self.layout.volumes.iter().position(|v| v.partition == Some(number) && !v.logical_volume) else {
            return;
        };
        if self.mounts.iter().any(|m| m.volume == volume) || !self.exists(GENERATOR) {
            return;
        }
        let kernels = of_type(KERNELS).is_some();
        let at = match (self.is_bare("/boot"), self.is_bare("/efi")) {
            (Some(true), _) if !kernels => "/boot",
            (_, None | Some(true)) => "/efi",
            _ => return,
        };
        let fat = |k: FsKind| matches!(k, FsKind::Fat12 | FsKind::Fat16 | FsKind::Fat32);
        let found = self.layout.volumes.get(volume).filter(|v| v.info.as_ref().is_some_and(|i| fat(i.kind)));
        let Some(Ok(fs)) = found.and_then(|v| v.dev.clone()).map(fs::open) else { return };
        let root = fs.root();
        self.mounts.push(Mount { at: at.as_bytes().to_vec(), volume, fs: Arc::from(fs), root });
    }

    /// True for an empty folder that nothing is mounted on; `None` when there is nothing of that name.
    fn is_bare(&self, path: &str) -> Option<bool> {
        let spot = self.resolve(path.as_bytes(), false).ok()?;
        let folder = self.stat(spot).is_ok_and(|s| s.kind == FileType::Folder);
        Some(spot.mount == 0 && folder && self.list(spot).is_ok_and(|names| names.is_empty()))
    }
}
