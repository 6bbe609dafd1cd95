//! Plain data the engine hands out: facts of an image, snapshots, extents, chain nodes. No behaviour, no I/O.

use std::path::PathBuf;
use std::sync::Arc;

use super::error::Error;
use super::format::Format;

/// What a guest finds in a range of a layer or of a whole chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Bytes stored as they are.
    Data,
    /// Bytes stored compressed.
    Compressed,
    /// Explicitly zero: reads as zeros and hides what lies below.
    Zero,
    /// Held by nobody here: the layer below answers, or zeros at the end of the chain.
    Unallocated,
}

/// One layer's answer about the guest range beginning at the offset asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// What is there.
    pub kind: Kind,
    /// How many bytes, from the offset asked for on, are of that kind and (for data) contiguous in the file. Never 0.
    pub len: u64,
    /// Where the bytes are kept. For `Data` byte `i` of the range is at `place.offset + i`. For `Zero` and `Unallocated` a
    /// place that is reserved but not written may be named. For `Compressed` it is where the compressed unit begins and `len` ends with that unit.
    pub place: Option<Place>,
}

impl Mapping {
    /// Bytes stored plainly, `len` from `offset` of storage file `file` on.
    pub fn data(file: usize, offset: u64, len: u64) -> Self {
        Mapping { kind: Kind::Data, len, place: Some(Place { file, offset }) }
    }
    /// `len` bytes that are explicitly zero.
    pub fn zero(len: u64) -> Self {
        Mapping { kind: Kind::Zero, len, place: None }
    }
    /// `len` bytes this layer does not hold.
    pub fn unallocated(len: u64) -> Self {
        Mapping { kind: Kind::Unallocated, len, place: None }
    }
}

/// A place in the host: which of the image's storage files, and the byte offset in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// Index into [`crate::engine::format::Image::files`]; 0 is the image file itself.
    pub file: usize,
    /// Byte offset in that file.
    pub offset: u64,
}

/// A range of a disk as a whole chain shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Guest byte where it begins.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// What is there. `Unallocated` when no layer of the chain holds it.
    pub kind: Kind,
    /// Which layer answers: 0 is the top. For `Unallocated` the last layer that was asked.
    pub depth: usize,
    /// Where, in that layer's files.
    pub place: Option<Place>,
}

/// A line of an image's facts: what people read in `info` and on the image's page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// What, in the field's own words, e.g. `cluster size`.
    pub label: &'static str,
    /// The value as text, e.g. `64 KiB`. May hold bytes from the image: print it through `units::printable`.
    pub value: String,
}

/// An internal snapshot of a qcow2 image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Identifier, unique in the image (a number as text, as QEMU writes it).
    pub id: String,
    /// Name given by the user.
    pub name: String,
    /// Bytes of saved VM state.
    pub vm_state_size: u64,
    /// Seconds since 1970-01-01 UTC when it was taken.
    pub date_sec: u32,
    /// Nanoseconds of that second.
    pub date_nsec: u32,
    /// Guest clock when it was taken, in nanoseconds.
    pub vm_clock_nsec: u64,
    /// Instruction count of record/replay, if stored.
    pub icount: Option<u64>,
    /// Virtual size in bytes then; the image's own where the snapshot does not say.
    pub disk_size: u64,
}

/// A dirty bitmap kept in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitmap {
    /// Name.
    pub name: String,
    /// Bytes of the guest disk per bit.
    pub granularity: u64,
    /// It was not saved properly; its content cannot be trusted.
    pub in_use: bool,
    /// QEMU loads it and goes on recording.
    pub auto: bool,
}

/// A reference to another file, as an image spells it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BackingRef {
    /// Every spelling of where it is, best first (VHD locators name several). Exactly as stored; hostile.
    pub names: Vec<String>,
    /// Format recorded for it, as a driver name (`qcow2`, `raw`, `vpc`).
    pub format: Option<String>,
    /// What proves that the file found is the right one.
    pub identity: ParentIdentity,
}

/// How a child recognises its parent.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum ParentIdentity {
    /// By the name alone.
    #[default]
    Name,
    /// VMDK: the parent's content id when the child was made.
    Cid(u32),
    /// VDI: the parent's image UUID and its modification UUID, in text.
    VdiUuids {
        /// The parent's image UUID.
        image: String,
        /// The parent's modification UUID when the child was made.
        modification: String,
    },
    /// VHD: the parent's footer UUID. VHDX: the parent's data-write GUID.
    Uuid(String),
    /// VHDX with a second linkage: any of these data-write GUIDs is good.
    AnyUuid(Vec<String>),
    /// COW: the parent's modification time in seconds; a mismatch is only a warning.
    Mtime(i64),
}

/// What an image says it is, for a child that looks for its parent.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Identity {
    /// VMDK content id.
    pub cid: Option<u32>,
    /// Image UUID (VDI image, VHD footer, VHDX data-write GUID), lower-case text with hyphens.
    pub uuid: Option<String>,
    /// VDI modification UUID.
    pub modification: Option<String>,
}

/// Everything an open image says about itself, as plain data.
#[derive(Debug, Clone, Default)]
pub struct Description {
    /// Cluster, grain or block size in bytes, where the format has one.
    pub cluster_size: Option<u64>,
    /// Facts for people, in reading order, beyond size, format and backing.
    pub facts: Vec<Fact>,
    /// `format-specific` of qemu-img's JSON: `{"type": …, "data": …}`. Null when qemu-img prints none.
    pub specific: serde_json::Value,
    /// Internal snapshots.
    pub snapshots: Vec<Snapshot>,
    /// Dirty bitmaps.
    pub bitmaps: Vec<Bitmap>,
    /// Set when the image was not closed properly (qcow2 dirty bit, VHDX log, VDI/VHD flags).
    pub dirty: bool,
    /// Set when the image says it is damaged (qcow2 corrupt bit).
    pub corrupt: bool,
    /// How the content is encrypted (`AES`, `LUKS1`, …); it cannot be read yet.
    pub encrypted: Option<String>,
    /// Some cluster is stored compressed, or the format as a whole is (streamOptimized).
    pub compressed: bool,
    /// What a person should know before trusting it: a tolerated oddity, a mismatch, a feature ignored.
    pub warnings: Vec<String>,
    /// For children that look for their parent.
    pub identity: Identity,
}

/// A file an image consists of besides itself, or that it stands on.
#[derive(Debug, Clone)]
pub struct ChainNode {
    /// Where it is; as resolved, or as best known when it is missing.
    pub path: PathBuf,
    /// How the layer above spells it; `None` for the top.
    pub spelled: Option<String>,
    /// Recognised format.
    pub format: Option<Format>,
    /// Virtual size in bytes.
    pub virtual_size: Option<u64>,
    /// Bytes the file and its extents take on the host.
    pub actual_size: Option<u64>,
    /// Why it could not be opened, for the last node of a broken chain.
    pub error: Option<Error>,
    /// Warnings: the parent changed, its format is not recorded, …
    pub warnings: Vec<String>,
    /// What it says of itself.
    pub description: Arc<Description>,
}
