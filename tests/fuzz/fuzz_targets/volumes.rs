//! One parser each, told by the first byte: partition tables, LVM2 metadata, recognising a volume, opening ext, XFS, btrfs, FAT, ISO.
#![no_main]

#[path = "../hook.rs"]
mod hook;

use std::sync::Arc;

use cowshed::engine::guest::{fs, lvm, partition, recognise};
use cowshed::engine::io::memory::Memory;

/// Signatures of the filesystems, so that the one wanted is recognised: offset, bytes.
const MARKS: &[(usize, &[u8])] = &[(1080, b"\x53\xef"), (0, b"XFSB"), (65600, b"_BHRfS_M"), (510, b"\x55\xaa"), (32769, b"CD001")];

libfuzzer_sys::fuzz_target!(init: hook::quiet(), |data: &[u8]| {
    let Some((which, rest)) = data.split_first() else { return };
    let mut bytes = rest.to_vec();
    if let Some((at, mark)) = usize::from(*which).checked_sub(3).and_then(|n| MARKS.get(n)) {
        bytes.resize(bytes.len().max(at + mark.len() + 4096), 0);
        bytes[*at..*at + mark.len()].copy_from_slice(mark);
    }
    let dev = Memory::new(bytes);
    match which {
        0 => drop(partition::read(&dev)),
        1 => drop(lvm::read(&dev)),
        2 => drop(recognise::recognise(&dev)),
        _ => drop(fs::open(Arc::new(dev)).and_then(|fs| fs.list(fs.root()))),
    }
});
