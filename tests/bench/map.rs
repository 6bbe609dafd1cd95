//! The allocation map of a 1 TiB qcow2 image, all of it allocated but none of it written: `map --output json` beside qemu-img's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_lossless)]

mod common;

use common::{Side, cowshed, dir, duel, prepare, rounds};

fn main() {
    let dir = dir();
    let image = dir.path().join("full.qcow2").display().to_string();
    prepare("qemu-img", &["create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", &image, "1T"]);
    let args = || ["map", "--output", "json", &image].map(String::from).to_vec();
    let sides = [Side::new("cowshed map", cowshed(), args()), Side::new("qemu-img map", "qemu-img", args())];
    let medians = duel("map of a fully allocated 1 TiB qcow2, warm caches", rounds(5), &sides);
    if let [ours, theirs] = medians[..] {
        println!("{:.1} times as fast", theirs.wall.as_secs_f64() / ours.wall.as_secs_f64());
    }
}
