//! Snapshots compared with each other and with now, against what qemu-img reads of them; and made into images of their own.

use std::path::Path;

use crate::common::{content, cowshed, dir, noise, qemu_content, qemu_img, qemu_io, run, s, text};

/// What the disk was at snapshot `name`, as qemu-img reads it.
fn at_snapshot(image: &Path, name: &str) -> Vec<u8> {
    let raw = image.with_extension("at");
    qemu_img(&format!("convert -l snapshot.name={name} -O raw {} {}", s(image), s(&raw)));
    let bytes = std::fs::read(&raw).unwrap();
    std::fs::remove_file(raw).unwrap();
    bytes
}

fn diff(image: &Path, words: &[&str]) -> serde_json::Value {
    let args: Vec<&str> = ["snapshot", "--output=json", "--diff"].iter().chain(words).copied().chain([s(image)]).collect();
    let out = cowshed(&args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

fn ranges(report: &serde_json::Value) -> Vec<(u64, u64)> {
    let all = report["ranges"].as_array().unwrap();
    all.iter().map(|r| (r["start"].as_u64().unwrap(), r["length"].as_u64().unwrap())).collect()
}

/// Runs of sectors that differ; the shorter is followed by zeros.
fn expected(a: &[u8], b: &[u8]) -> Vec<(u64, u64)> {
    let len = a.len().max(b.len());
    let sector = |x: &[u8], at: usize| {
        let mut part = x.get(at.min(x.len())..(at + 512).min(x.len())).unwrap_or_default().to_vec();
        part.resize(512, 0);
        part
    };
    let mut out: Vec<(u64, u64)> = Vec::new();
    for at in (0..len).step_by(512).filter(|at| sector(a, *at) != sector(b, *at)) {
        let (at, n) = (at as u64, 512.min(len - at) as u64);
        match out.last_mut() {
            Some((start, len)) if *start + *len == at => *len += n,
            _ => out.push((at, n)),
        }
    }
    out
}

#[test]
fn what_differs_is_told_to_the_sector_and_never_too_little_by_the_tables_alone() {
    let d = dir();
    for (n, options) in ["", "-o cluster_size=512", "-o compat=0.10,cluster_size=4k", "-o extended_l2=on", "-o cluster_size=2M"]
        .iter()
        .enumerate()
    {
        let image = d.path().join(format!("{n}.qcow2"));
        qemu_img(&format!("create -q -f qcow2 {options} {} 6M", s(&image)));
        let random = noise(n as u64 + 7, 40 * 4);
        let mut steps = random.chunks(4);
        for snapshot in ["a", "b", "c"] {
            let writes: Vec<String> = steps
                .by_ref()
                .take(6)
                .map(|r| {
                    let (at, len) = (u64::from(r[0]) * 20_480, (u64::from(r[1]) + 1) * 512);
                    if r[2] % 4 == 0 { format!("write -z {at} {len}") } else { format!("write -P {} {at} {len}", r[3]) }
                })
                .collect();
            qemu_io("qcow2", &image, &writes.iter().map(String::as_str).collect::<Vec<_>>());
            qemu_img(&format!("snapshot -c {snapshot} {}", s(&image)));
        }
        // The same bytes once more: other clusters, and nothing changed.
        let first = qemu_content("qcow2", &image)[0];
        qemu_io("qcow2", &image, &[&format!("write -P {first} 0 512"), "write -P 77 3M 1000"]);
        let now = content(&image);
        let then = |name: &str| at_snapshot(&image, name);
        for (words, a, b) in [
            (&["a"][..], then("a"), now.clone()),
            (&["a", "b"], then("a"), then("b")),
            (&["c", "a"], then("c"), then("a")),
            (&["c"], then("c"), now.clone()),
        ] {
            let want = expected(&a, &b);
            let report = diff(&image, words);
            assert_eq!(ranges(&report), want, "{options} {words:?}");
            assert_eq!(report["changed-bytes"], want.iter().map(|r| r.1).sum::<u64>());
            assert_eq!(report["partitions"][0]["changed-bytes"], report["changed-bytes"]);
            let quick = ranges(&diff(&image, &[words, &["--quick"]].concat()));
            let within = |(start, len): &(u64, u64)| quick.iter().any(|(s, l)| s <= start && start + len <= s + l);
            assert!(want.iter().all(within), "{options} {words:?}: {want:?} {quick:?}");
        }
        assert_eq!(ranges(&diff(&image, &["a", "a"])), []);
    }
}

#[test]
fn sizes_bases_and_partitions_count() {
    let d = dir();
    let (base, image) = (d.path().join("base.raw"), d.path().join("x.qcow2"));
    std::fs::write(&base, noise(3, 9 << 20)).unwrap();
    qemu_img(&format!("create -q -f qcow2 -F raw -b {} {} 4M", s(&base), s(&image)));
    qemu_io("qcow2", &image, &["write -P 1 1M 1M"]);
    qemu_img(&format!("snapshot -c small {}", s(&image)));
    qemu_img(&format!("resize -q {} 8M", s(&image)));
    qemu_io("qcow2", &image, &["write -P 1 1M 1M", "write -P 2 5M 4k"]);
    let report = diff(&image, &["small"]);
    assert_eq!((report["from"]["virtual-size"].as_u64(), report["to"]["virtual-size"].as_u64()), (Some(4 << 20), Some(8 << 20)));
    // qemu-img reads a snapshot with the size the disk has now; the guest saw 4 MiB then.
    let then = at_snapshot(&image, "small")[..4 << 20].to_vec();
    assert_eq!(ranges(&report), expected(&then, &content(&image)));

    let disk = d.path().join("parts.raw");
    std::fs::File::create(&disk).unwrap().set_len(16 << 20).unwrap();
    let mut table =
        std::process::Command::new("sfdisk").arg("-q").arg(&disk).stdin(std::process::Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut table.stdin.take().unwrap(), b"label: gpt\nsize=4M\nsize=4M\n").unwrap();
    assert!(table.wait().unwrap().success());
    let image = d.path().join("parts.qcow2");
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", s(&disk), s(&image)]);
    qemu_img(&format!("snapshot -c before {}", s(&image)));
    // The first partition is at 1 MiB, the second at 5 MiB.
    qemu_io("qcow2", &image, &["write -P 5 2M 64k", "write -P 6 4608k 1M", "write -P 7 12M 512"]);
    let report = diff(&image, &["before"]);
    let changed: Vec<_> = report["partitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| (p["name"].as_str().unwrap(), p["changed-bytes"].as_u64().unwrap()))
        .collect();
    assert_eq!(changed, [("p1", (64 << 10) + (512 << 10)), ("p2", 512 << 10), ("outside", 512)]);
    let out = cowshed(&["snapshot", "--diff", "before", s(&image)]);
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(said.contains("1.06 MiB of 16 MiB differ between snapshot 'before' and now, in 3 ranges."), "{said}");
    assert!(said.contains("p2") && said.contains("0xc00000"), "{said}");
}

#[test]
fn snapshots_become_images_of_every_format() {
    let d = dir();
    let image = d.path().join("x.qcow2");
    qemu_img(&format!("create -q -f qcow2 {} 3M", s(&image)));
    qemu_io("qcow2", &image, &["write -P 1 0 1M", "write -P 2 2M 64k"]);
    qemu_img(&format!("snapshot -c then {}", s(&image)));
    qemu_io("qcow2", &image, &["write -P 3 512k 1M"]);
    let want = at_snapshot(&image, "then");
    for (format, qemu) in
        [("qcow2", "qcow2"), ("raw", "raw"), ("vmdk", "vmdk"), ("vdi", "vdi"), ("vhdx", "vhdx"), ("qcow", "qcow")]
    {
        let target = d.path().join(format!("out.{format}"));
        let out = cowshed(&["snapshot", "--export", "then", s(&target), "-O", format, s(&image)]);
        assert!(out.status.success(), "{format}: {}", String::from_utf8_lossy(&out.stderr));
        assert!(qemu_content(qemu, &target) == want, "{format}");
    }
    let plan = cowshed(&["snapshot", "--dry-run", "--export", "then", s(&d.path().join("no")), s(&image)]);
    assert!(plan.status.success() && !d.path().join("no").exists());
    let out = cowshed(&["snapshot", "--export", "never", s(&d.path().join("no")), s(&image)]);
    assert_eq!(out.status.code(), Some(1));
    assert!(!d.path().join("no").exists());
}

#[test]
fn a_branch_stands_where_its_image_stands_and_keeps_its_layout() {
    let d = dir();
    let far = d.path().join("far");
    std::fs::create_dir(&far).unwrap();
    let (base, image) = (d.path().join("base.qcow2"), d.path().join("x.qcow2"));
    qemu_img(&format!("create -q -f qcow2 {} 8M", s(&base)));
    qemu_io("qcow2", &base, &["write -P 9 0 6M"]);
    qemu_img(&format!(
        "create -q -f qcow2 -F qcow2 -b base.qcow2 -o cluster_size=16k,extended_l2=on,refcount_bits=32 {}",
        s(&image)
    ));
    qemu_io("qcow2", &image, &["write -P 1 1M 512k"]);
    qemu_img(&format!("snapshot -c then {}", s(&image)));
    qemu_io("qcow2", &image, &["write -P 2 1M 2M"]);
    let want = at_snapshot(&image, "then");
    for (target, backing) in [(d.path().join("b.qcow2"), "base.qcow2".to_string()), (far.join("b.qcow2"), s(&base).to_string())] {
        let out = cowshed(&["snapshot", "--branch", "then", s(&target), s(&image)]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let info: serde_json::Value =
            serde_json::from_slice(&run("qemu-img", &["info", "--output=json", s(&target)]).stdout).unwrap();
        assert_eq!(info["backing-filename"], backing.as_str());
        assert_eq!(info["cluster-size"], 16384);
        assert_eq!(info["format-specific"]["data"]["extended-l2"], true);
        assert_eq!(info["format-specific"]["data"]["refcount-bits"], 32);
        assert!(qemu_content("qcow2", &target) == want);
        // Only what the snapshot has above the base.
        assert!(std::fs::metadata(&target).unwrap().len() < 2 << 20, "{}", std::fs::metadata(&target).unwrap().len());
    }
    let alone = d.path().join("alone.qcow2");
    let raw = d.path().join("t.raw");
    std::fs::write(&raw, text(1, 1 << 20)).unwrap();
    qemu_img(&format!("convert -f raw -c -O qcow2 -o compression_type=zstd {} {}", s(&raw), s(&alone)));
    qemu_img(&format!("snapshot -c one {}", s(&alone)));
    let target = d.path().join("c.qcow2");
    let out = cowshed(&["snapshot", "--branch", "one", s(&target), s(&alone)]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let info: serde_json::Value =
        serde_json::from_slice(&run("qemu-img", &["info", "--output=json", s(&target)]).stdout).unwrap();
    assert!(info["backing-filename"].is_null() && info["format-specific"]["data"]["compression-type"] == "zstd", "{info:#}");
    assert!(qemu_content("qcow2", &target) == std::fs::read(&raw).unwrap());
    let out = cowshed(&["snapshot", "--branch", "one", s(&target), s(&raw), "-f", "raw"]);
    assert!(String::from_utf8_lossy(&out.stderr).contains("no internal snapshots"));
}
