//! Caps on what untrusted bytes may make us do. Where QEMU has a cap of its own, ours is the same.

use super::units::{KIB, MIB};

/// Layers in a chain, at most.
pub const MAX_CHAIN: usize = 200;
/// Bytes of a name found inside an image (QEMU: 1023 for backing files).
pub const MAX_NAME: usize = 1023;
/// Bytes of a qcow2 L1 table (QEMU: block/qcow2.h).
pub const MAX_L1_BYTES: u64 = 32 * MIB;
/// Bytes of a qcow2 refcount table (QEMU: block/qcow2.h).
pub const MAX_REFTABLE_BYTES: u64 = 8 * MIB;
/// Internal snapshots of a qcow2 image (QEMU: block/qcow2.h).
pub const MAX_SNAPSHOTS: u32 = 65536;
/// Bytes of a qcow2 snapshot table (QEMU: block/qcow2.h).
pub const MAX_SNAPSHOT_TABLE: u64 = 64 * MIB;
/// Dirty bitmaps of a qcow2 image (QEMU: block/qcow2.h).
pub const MAX_BITMAPS: u32 = 65535;
/// Bytes of a text descriptor (VMDK); QEMU reads 20 sectors, ESXi's with hundreds of extents are longer.
pub const MAX_DESCRIPTOR: u64 = 4 * MIB;
/// Bytes of one table kept in memory as a whole (block maps, grain directories), besides the length of the file itself.
pub const MAX_TABLE_BYTES: u64 = 512 * MIB;
/// Bytes of the buffer a bulk copy works with.
pub const COPY_CHUNK: usize = (2 * MIB) as usize;
/// Bytes looked at from the start of a file when probing.
pub const PROBE_HEAD: usize = (72 * KIB) as usize;
