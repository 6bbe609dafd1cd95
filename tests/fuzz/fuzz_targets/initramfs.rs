//! Goes through arbitrary bytes as an initramfs.
#![no_main]

use cowshed::engine::format::amazon::members::members;
use cowshed::engine::io::memory::Memory;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut names = 0u64;
    let _ = members(&Memory::new(data.to_vec()), &mut |_| names += 1);
});
