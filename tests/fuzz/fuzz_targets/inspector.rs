//! Looks at arbitrary bytes as an image service's safety inspector does.
#![no_main]

use cowshed::engine::guest::ready::inspector::inspect;
use cowshed::engine::io::memory::Memory;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let seen = inspect(&Memory::new(data.to_vec()));
    assert!(seen.is_ok_and(|s| !s.formats.is_empty()), "raw is always possible");
});
