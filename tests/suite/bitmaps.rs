//! Dirty bitmaps carried along by `convert --bitmaps`: QEMU makes them, converts them too, and shows every bit of both.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cowshed::engine::format::Format;
use cowshed::engine::format::write::{CreateSpec, DiskWriter, NewFiles};
use cowshed::engine::io::fault::{Faulty, power_cuts};
use cowshed::engine::io::memory::Memory;
use cowshed::engine::io::{Device, WriteDevice};
use cowshed::engine::model::Bitmap;
use serde_json::Value;

use crate::common::{cowshed, dir, noise, qemu_img, qemu_io, run, s};

/// What bitmap `name` of `image` says, as an NBD client of QEMU's sees it: start, length, dirty.
fn bits(image: &Path, name: &str) -> Vec<(u64, u64, bool)> {
    struct Server(Child);
    impl Drop for Server {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let socket = image.with_extension("sock");
    let _ = std::fs::remove_file(&socket);
    let _server = Server(
        Command::new("qemu-nbd")
            .args(["-r", "-t", "-f", "qcow2", "-B", name, "-k", s(&socket), s(image)])
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("qemu-nbd cannot be run ({e}): tests/run installs it")),
    );
    let end = Instant::now() + Duration::from_secs(10);
    while !socket.exists() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    let opts = format!("driver=nbd,server.type=unix,server.path={},x-dirty-bitmap=qemu:dirty-bitmap:{name}", s(&socket));
    let out = run("qemu-img", &["map", "--output=json", "--image-opts", &opts]);
    let map: Value = serde_json::from_slice(&out.stdout).unwrap();
    // With this option, "data" is false where the bitmap is set.
    let all = map.as_array().unwrap().iter();
    all.map(|e| (e["start"].as_u64().unwrap(), e["length"].as_u64().unwrap(), !e["data"].as_bool().unwrap())).collect()
}

/// Bitmaps as `info` has them.
fn listed(image: &Path) -> Value {
    let info: Value = serde_json::from_str(&qemu_img(&format!("info --output=json {}", s(image)))).unwrap();
    info["format-specific"]["data"]["bitmaps"].clone()
}

#[test]
fn they_come_along_bit_for_bit() {
    let dir = dir();
    let at = |n: &str| dir.path().join(n);
    let from = at("from.qcow2");
    qemu_img(&format!("create -q -f qcow2 {} 65537k", s(&from)));
    qemu_img(&format!("bitmap --add {} coarse", s(&from)));
    qemu_img(&format!("bitmap --add -g 512 {} fine", s(&from)));
    qemu_io("qcow2", &from, &["write -P 1 1M 3M", "write -P 2 33000k 1k", "write -P 3 65536k 1k"]);
    qemu_img(&format!("bitmap --disable {} fine", s(&from)));
    qemu_img(&format!("bitmap --add -g 4k {} all", s(&from)));
    qemu_io("qcow2", &from, &["write -z 0 65537k", "write -P 9 40M 1M"]);
    qemu_img(&format!("bitmap --add {} none", s(&from)));
    for (case, options) in [("plain", &[][..]), ("small", &["-o", "cluster_size=4k,refcount_bits=1"]), ("packed", &["-c"])] {
        let to = at(case);
        let out = cowshed(&[&["convert", "--bitmaps", "-O", "qcow2"], options, &[s(&from), s(&to)]].concat());
        assert!(out.status.success(), "{case}: {}", String::from_utf8_lossy(&out.stderr));
        assert_eq!(out.stderr, b"", "{case}: nothing is lost");
        run("qemu-img", &["check", "-q", s(&to)]);
        run("qemu-img", &["compare", s(&from), s(&to)]);
        assert_eq!(listed(&to), listed(&from), "{case}");
        for name in ["coarse", "fine", "all", "none"] {
            let want = bits(&from, name);
            assert_eq!(bits(&to, name), want, "{case} {name}");
            assert_eq!(want.iter().any(|b| b.2), name != "none", "{name}: {want:?}");
        }
    }
    // What QEMU writes afterwards is tracked in what we made, and merges with it.
    let to = at("plain");
    qemu_io("qcow2", &to, &["write -P 4 60M 64k"]);
    let set =
        |name: &str| bits(&to, name).iter().any(|(start, len, dirty)| *dirty && *start <= 60 << 20 && start + len > 60 << 20);
    assert!(set("coarse") && set("none"));
    assert!(!bits(&to, "fine").iter().any(|(start, len, dirty)| *dirty && *start <= 50 << 20 && start + len > 50 << 20));
    qemu_img(&format!("bitmap --merge coarse {} none", s(&to)));
    assert_eq!(bits(&to, "none"), bits(&to, "coarse"));
}

#[test]
fn what_cannot_be_copied_is_never_left_out_in_silence() {
    let dir = dir();
    let at = |n: &str| dir.path().join(n);
    let (from, out) = (at("from.qcow2"), at("out"));
    std::fs::write(at("in.raw"), noise(3, 1 << 20)).unwrap();
    qemu_img(&format!("convert -f raw -O qcow2 {} {}", s(&at("in.raw")), s(&from)));
    let convert = |args: &[&str]| {
        let got = cowshed(&[&["convert"], args].concat());
        (got.status.code(), String::from_utf8_lossy(&got.stderr).into_owned())
    };
    // None there: nothing is left out.
    assert_eq!(convert(&["--bitmaps", "-O", "qcow2", s(&from), s(&out)]).0, Some(0));
    std::fs::remove_file(&out).unwrap();
    qemu_img(&format!("bitmap --add {} today", s(&from)));
    for (args, word) in [
        (&["--bitmaps", "-O", "raw", s(&from), s(&out)][..], "hold no bitmaps"),
        (&["--bitmaps", "-O", "qcow2", "-f", "raw", s(&at("in.raw")), s(&out)], "has no bitmaps"),
        (&["--bitmaps", "-O", "qcow2", s(&from), s(&from), s(&out)], "single source"),
        (&["--bitmaps", "-O", "qcow2", "-o", "compat=0.10", s(&from), s(&out)], "version 2"),
    ] {
        let (code, told) = convert(args);
        assert!(code == Some(1) && told.contains(word) && told.contains("hint:"), "{args:?}: {told}");
        assert!(!out.exists());
    }
    let plan = cowshed(&["convert", "--dry-run", "-O", "qcow2", s(&from), s(&out)]);
    assert!(String::from_utf8_lossy(&plan.stdout).contains("1 bitmap(s), which are not copied"));
    // Killed while it had the image open for writing, QEMU leaves a bitmap that is not consistent.
    let mut holder =
        Command::new("qemu-io").args(["-f", "qcow2", s(&from)]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut [0; 8]).unwrap();
    std::io::Write::write_all(holder.stdin.as_mut().unwrap(), b"write 0 64k\n").unwrap();
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut [0; 8]).unwrap();
    holder.kill().unwrap();
    holder.wait().unwrap();
    qemu_img(&format!("bitmap --add {} good", s(&from)));
    let (code, told) = convert(&["--bitmaps", "-O", "qcow2", s(&from), s(&out)]);
    assert!(code == Some(1) && told.contains("inconsistent") && told.contains("--skip-broken-bitmaps"), "{told}");
    let (code, told) = convert(&["--bitmaps", "--skip-broken-bitmaps", "-O", "qcow2", s(&from), s(&out)]);
    assert!(code == Some(0) && told.contains("1 inconsistent bitmap(s), which are not copied"), "{told}");
    let names: Vec<_> = listed(&out).as_array().unwrap().iter().map(|b| b["name"].clone()).collect();
    assert_eq!(names, ["good"]);
}

#[test]
fn an_existing_target_gets_them_or_gives_its_own_up_with_a_word() {
    let dir = dir();
    let at = |n: &str| dir.path().join(n);
    let (from, to) = (at("from.qcow2"), at("to.qcow2"));
    qemu_img(&format!("create -q -f qcow2 {} 4M", s(&from)));
    qemu_img(&format!("bitmap --add {} b", s(&from)));
    qemu_io("qcow2", &from, &["write -P 1 1M 1M"]);
    qemu_img(&format!("create -q -f qcow2 {} 4M", s(&to)));
    let convert = |flags: &[&str]| cowshed(&[&["convert", "-n", "-O", "qcow2"], flags, &[s(&from), s(&to)]].concat());
    assert!(convert(&["--bitmaps"]).status.success());
    assert_eq!(bits(&to, "b"), bits(&from, "b"));
    run("qemu-img", &["check", "-q", s(&to)]);
    let out = convert(&["--bitmaps"]);
    assert!(out.status.code() == Some(1) && String::from_utf8_lossy(&out.stderr).contains("bitmaps of its own"), "{out:?}");
    // Written without tracking: the specification wants the bitmaps distrusted, and QEMU does.
    let out = convert(&[]);
    assert!(out.status.success() && String::from_utf8_lossy(&out.stderr).contains("given up"), "{out:?}");
    assert_eq!(listed(&to), Value::Null);
}

#[test]
fn a_power_cut_leaves_them_all_or_none() {
    struct One(WriteDevice);
    impl NewFiles for One {
        fn image(&self) -> WriteDevice {
            self.0.clone()
        }
        fn extra(&self, _: &str) -> cowshed::engine::error::Result<WriteDevice> {
            unreachable!("one file")
        }
    }
    let dir = dir();
    let path = dir.path().join("cut.qcow2");
    let spec = CreateSpec { size: 1 << 20, options: vec![("cluster_size".into(), "4k".into())], ..CreateSpec::default() };
    let memory = Arc::new(Memory::default());
    let create = Format::Qcow2.entry().create.unwrap();
    let new = create(&spec, &One(memory.clone())).unwrap();
    new.write(0, &noise(1, 65536)).unwrap();
    new.finish().unwrap();
    // Opened again, so that it is an image others may rely on.
    let before = memory.to_vec();
    let dev = Faulty::new(before.clone());
    let source =
        cowshed::engine::format::Source { dev: dev.clone(), path: path.clone(), gate: cowshed::engine::io::gate::Gate::closed() };
    let open = Format::Qcow2.entry().open_write.unwrap();
    let writer: Arc<dyn DiskWriter> = open(cowshed::engine::format::write::WriteSource::alone(dev.clone(), source)).unwrap();
    let bits: Device = Arc::new(Memory::new([0x5a; 256].to_vec()));
    let bitmap = Bitmap { name: "b".into(), granularity: 512, in_use: false, auto: true };
    writer.add_bitmaps(&[(bitmap, bits.clone())]).unwrap();
    let mut seen = [0, 0];
    power_cuts(&before, &dev.record(), |state, bytes| {
        let image = (Format::Qcow2.entry().open)(cowshed::engine::format::Source {
            dev: Arc::new(Memory::new(bytes.clone())),
            path: path.clone(),
            gate: cowshed::engine::io::gate::Gate::closed(),
        })
        .unwrap_or_else(|e| panic!("{state}: {e}"));
        let has = !image.describe().bitmaps.is_empty();
        seen[usize::from(has)] += 1;
        if has {
            let now = image.bitmap("b").unwrap();
            let (mut a, mut b) = (vec![0; 256], vec![0; 256]);
            now.read_at(0, &mut a).unwrap();
            bits.read_at(0, &mut b).unwrap();
            assert_eq!(a, b, "{state}");
        }
        std::fs::write(&path, bytes).unwrap();
        let check = Command::new("qemu-img").args(["check", "-q", s(&path)]).status().unwrap();
        assert!(matches!(check.code(), Some(0 | 3)), "{state}: {check}");
    });
    assert!(seen.iter().all(|n| *n > 0), "{seen:?}");
}
