//! Opens, checks, maps and reads arbitrary bytes as ari.
#![no_main]

use cowshed::engine::exercise;
use cowshed::engine::format::Format;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = exercise::bytes(Some(Format::Ari), data);
});
