//! Extract, recursive listing and search: what comes out is what was put in.

use std::os::unix::fs::MetadataExt;

use crate::common::{cowshed, dir, noise, qemu_img, run, s};
use crate::golden;

#[test]
fn what_comes_out_is_what_was_put_in() {
    let d = dir();
    let root = d.path().join("root");
    golden::tree(&root, d.path());
    std::fs::write(root.join("boot/big.bin"), noise(3, 1_500_000)).unwrap();
    let hole = std::fs::File::create(root.join("boot/sparse")).unwrap();
    hole.set_len(8 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&hole, b"end", (8 << 20) - 3).unwrap();
    let raw = golden::disk(&root, &d.path().join("x.raw"));
    let image = d.path().join("x.qcow2");
    qemu_img(&format!("convert -f raw -O qcow2 -c {} {}", s(&raw), s(&image)));
    let out = d.path().join("out");
    let done = cowshed(&["extract", &format!("{}:/", s(&image)), s(&out)]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let _ = std::fs::remove_dir(out.join("lost+found"));
    run("diff", &["-r", "--no-dereference", s(&root), s(&out)]);
    let sparse = std::fs::metadata(out.join("boot/sparse")).unwrap();
    assert!(sparse.len() == 8 << 20 && sparse.blocks() * 512 < 1 << 20, "the hole is kept: {} blocks", sparse.blocks());
    assert_eq!(std::fs::metadata(out.join("boot")).unwrap().mode() & 0o777, 0o755);
    // One file, and a folder into a folder that is there, under its own name.
    let there = d.path().join("there");
    std::fs::create_dir(&there).unwrap();
    for what in ["/etc/hostname", "/etc/cloud"] {
        assert!(cowshed(&["extract", &format!("{}:{what}", s(&image)), s(&there)]).status.success(), "{what}");
    }
    assert_eq!(std::fs::read_to_string(there.join("hostname")).unwrap(), "golden\n");
    assert!(there.join("cloud/cloud.cfg").exists());
    // Nothing is replaced, nothing is left of a failure, a dry run makes nothing.
    let again = cowshed(&["extract", &format!("{}:/etc/hostname", s(&image)), s(&there)]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("nothing is replaced"));
    let plan = cowshed(&["extract", "--dry-run", &format!("{}:/boot", s(&image)), s(&d.path().join("no"))]);
    assert!(plan.status.success() && String::from_utf8_lossy(&plan.stdout).contains("files in"));
    let names: Vec<_> = std::fs::read_dir(d.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!names.iter().any(|n| n == "no" || n.contains("partial")), "{names:?}");
}

#[test]
fn listing_goes_below_and_search_finds_by_name() {
    let d = dir();
    let root = d.path().join("root");
    golden::tree(&root, d.path());
    let image = golden::disk(&root, &d.path().join("x.raw"));
    let lines = |args: &[&str]| {
        let out = cowshed(args);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let v: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        v.as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap().to_string()).collect::<Vec<_>>()
    };
    let mut all = lines(&["ls", "-R", "--output", "json", &format!("{}:/", s(&image))]);
    let found = run("find", &[s(&root), "-mindepth", "1", "-printf", "%P\n"]).stdout;
    let mut host: Vec<String> = String::from_utf8(found).unwrap().lines().map(str::to_string).collect();
    all.retain(|n| n != "lost+found");
    all.sort();
    host.sort();
    assert_eq!(all, host);
    let keys = lines(&["ls", "--find", "SSH", "--output", "json", &format!("{}:/", s(&image))]);
    assert_eq!(keys.len(), host.iter().filter(|p| p.rsplit('/').next().unwrap().to_lowercase().contains("ssh")).count());
    assert!(keys.contains(&"etc/ssh/sshd_config".to_string()), "{keys:?}");
}
