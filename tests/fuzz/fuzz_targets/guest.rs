//! Opens arbitrary bytes as the disk of a guest: partitions, LVM, whatever filesystem is recognised, every file, identity.
#![no_main]

#[path = "../hook.rs"]
mod hook;

use std::sync::Arc;

use cowshed::engine::exercise;
use cowshed::engine::io::memory::Memory;

libfuzzer_sys::fuzz_target!(init: hook::quiet(), |data: &[u8]| {
    let _ = exercise::guest(Arc::new(Memory::new(data.to_vec())));
});
