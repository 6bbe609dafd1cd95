//! Inside the guest: what a disk's volumes hold. Everything here works on any [`crate::engine::io::ReadAt`], so on any image
//! format, chain or snapshot, without mounting and without root.

mod firmware;
pub mod free;
pub mod fs;
pub mod identity;
pub mod lvm;
pub mod lvm_grow;
mod lvm_text;
mod names;
pub mod owners;
pub mod partition;
pub mod ready;
pub mod recognise;
pub mod sanitize;
pub mod tree;
pub mod volumes;
pub mod walk;

/// A UUID's sixteen bytes in their order on disk, as lower-case text with hyphens.
pub fn uuid_text(bytes: &[u8; 16]) -> String {
    uuid::Uuid::from_bytes(*bytes).to_string()
}
