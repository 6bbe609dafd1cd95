//! The image under assessment: all that targets ask about, looked at once.

use std::path::PathBuf;
use std::sync::Arc;

use super::inspector::{self, Inspected};
use crate::engine::error::Result;
use crate::engine::format::Format;
use crate::engine::guest::identity::{Identity, UNSET_ID, identify};
use crate::engine::guest::partition::TableKind;
use crate::engine::guest::recognise::FsKind;
use crate::engine::guest::tree::Guest;
use crate::engine::io::Device;
use crate::engine::io::locks::LockState;
use crate::engine::model::Description;
use crate::engine::ops::inspect::{Health, Inspection};

/// How the disk can be booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// It has an EFI system partition and nothing for a BIOS.
    Uefi,
    /// An MBR, or GPT with a BIOS boot partition, and no EFI system partition.
    Bios,
    /// Both.
    Both,
    /// Neither: no partition table, or none that boots.
    Neither,
}

/// What was seen inside.
pub struct Inside {
    /// The guest itself.
    pub guest: Guest,
    /// Who the guest is; empty when no root filesystem was found.
    pub identity: Identity,
    /// A root filesystem was found.
    pub found: bool,
    /// How the disk boots.
    pub firmware: Firmware,
    /// Volumes that hold something, in words: `p2 NTFS`.
    pub volumes: Vec<String>,
    /// Volumes of swap.
    pub swap: Vec<String>,
    /// Volumes whose content is encrypted.
    pub encrypted: Vec<String>,
    /// What is wrong with the partition table or the volumes.
    pub problems: Vec<String>,
    /// Name of the account that cloud-init makes, and its file.
    pub admin: Option<(String, String)>,
    /// `/etc/machine-id`: `Some(true)` when it is empty, or says that it is to be made.
    pub machine_id_empty: Option<bool>,
    /// Private host keys.
    pub host_keys: Vec<String>,
}

/// The image under assessment.
pub struct Subject {
    /// The image.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// The format it would be declared as.
    pub declared: Format,
    /// What it says of itself.
    pub description: Arc<Description>,
    /// Layers of its chain.
    pub layers: usize,
    /// The file's name of what it stands on, if anything.
    pub stands_on: Option<String>,
    /// Virtual size in bytes.
    pub size: u64,
    /// Bytes of the image file.
    pub file_size: u64,
    /// How it is, and why.
    pub health: Health,
    /// What is wrong or odd.
    pub problems: Vec<String>,
    /// Who holds it, when someone does.
    pub held: Option<String>,
    /// What an image service's inspector sees in the file.
    pub inspected: Inspected,
    /// What was seen inside; the error when its content cannot be read.
    pub inside: Result<Inside>,
}

impl Subject {
    /// Looks at the image of `inspection` as if it were declared as `declared` (its own format when `None`).
    ///
    /// Errors: the file cannot be read at all.
    pub fn of(inspection: &Inspection, declared: Option<Format>) -> Result<Subject> {
        let chain = &inspection.chain;
        let node = chain.nodes.first();
        let top = chain.layers.first();
        let format = node.and_then(|n| n.format).unwrap_or(Format::Raw);
        let file = top.and_then(|l| l.files().into_iter().next());
        let inspected = match &file {
            Some(dev) => inspector::inspect(dev.as_ref())?,
            None => Inspected::default(),
        };
        let stands_on = top.and_then(|l| l.backing()).map(|b| b.names.first().cloned().unwrap_or_else(|| "a parent".into()));
        let disk = chain.disk().map(|d| Arc::new(d) as Device);
        Ok(Subject {
            path: node.map(|n| n.path.clone()).unwrap_or_default(),
            format,
            declared: declared.unwrap_or(format),
            description: node.map(|n| n.description.clone()).unwrap_or_default(),
            layers: chain.nodes.len(),
            stands_on,
            size: top.map_or(0, |l| l.size()),
            file_size: file.as_ref().map_or(0, |f| f.len()),
            health: inspection.health,
            problems: inspection.problems.clone(),
            held: matches!(inspection.lock, LockState::Writer(_) | LockState::Other(..)).then(|| inspection.lock.to_string()),
            inspected,
            inside: disk.and_then(|d| Inside::of(&d)),
        })
    }

    /// `createType` of a VMDK, `type` of a VHD, from what qemu-img calls format-specific.
    pub fn specific(&self, key: &str) -> Option<&str> {
        self.description.specific.get("data")?.get(key)?.as_str()
    }

    /// The value of a fact of the image.
    pub fn fact(&self, label: &str) -> Option<&str> {
        self.description.facts.iter().find(|f| f.label == label).map(|f| f.value.as_str())
    }

    /// A guest with a root filesystem that could be read.
    pub fn guest(&self) -> Option<&Inside> {
        self.inside.as_ref().ok().filter(|i| i.found)
    }
}

impl Inside {
    fn of(disk: &Device) -> Result<Inside> {
        let guest = Guest::open(disk)?;
        let identity = identify(&guest);
        let layout = &guest.layout;
        let named = |want: fn(FsKind) -> bool| {
            let matching = layout.volumes.iter().filter(move |v| v.info.as_ref().is_some_and(|i| want(i.kind)));
            matching.map(|v| format!("{} {}", v.name, v.info.as_ref().map_or("", |i| i.kind.name()))).collect::<Vec<_>>()
        };
        let admin = ["/etc/cloud/cloud.cfg"].into_iter().find_map(|from| {
            let text = guest.read_text(from).ok()?;
            let user = text.lines().skip_while(|l| l.trim() != "default_user:").find_map(|l| l.trim().strip_prefix("name:"))?;
            Some((user.trim().to_string(), from.to_string()))
        });
        let firmware = match &layout.table {
            None => Firmware::Neither,
            Some(t) => {
                let has = |word: &str| t.partitions.iter().any(|p| p.kind.contains(word));
                match (has("EFI"), t.kind != TableKind::Gpt || has("BIOS boot")) {
                    (true, true) => Firmware::Both,
                    (true, false) => Firmware::Uefi,
                    (false, true) => Firmware::Bios,
                    (false, false) => Firmware::Neither,
                }
            }
        };
        Ok(Inside {
            found: !guest.mounts.is_empty(),
            firmware,
            volumes: named(|_| true),
            swap: named(|k| matches!(k, FsKind::Swap | FsKind::Hibernated)),
            encrypted: named(|k| matches!(k, FsKind::Luks | FsKind::BitLocker)),
            problems: layout.problems.iter().chain(&guest.problems).cloned().collect(),
            admin,
            machine_id_empty: guest.read_text("/etc/machine-id").ok().map(|t| ["", UNSET_ID].contains(&t.trim())),
            host_keys: identity.all("host-key").map(|f| f.from.clone()).collect(),
            identity,
            guest,
        })
    }
}
