//! Opens arbitrary bytes as a chain of two files in a folder: the first two bytes say where the first ends, and the files are
//! called `a` and `b`, so that a name of one byte makes a link or a loop.
#![no_main]

use cowshed::engine::exercise;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some(([low, high], rest)) = data.split_first_chunk() else { return };
    let (first, second) = rest.split_at(usize::from(u16::from_le_bytes([*low, *high])).min(rest.len()));
    let Ok(dir) = tempfile::tempdir() else { return };
    let top = dir.path().join("a");
    if std::fs::write(&top, first).is_ok() && std::fs::write(dir.path().join("b"), second).is_ok() {
        let _ = exercise::chain(&top);
    }
});
