//! Probes arbitrary bytes, and tries them as what they look like.
#![no_main]

use cowshed::engine::exercise;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = exercise::bytes(None, data);
});
