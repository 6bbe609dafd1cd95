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

use crate::common::{cowshed, dir, noise, qemu_content, qemu_img, qemu_io, run, s};

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
fn an_existing_target_gets_them_or_records_in_its_own() {
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
    // Written over: what changed is recorded in its own, as qemu-img has it recorded.
    let (theirs, other) = (at("theirs.qcow2"), at("other.qcow2"));
    std::fs::copy(&to, &theirs).unwrap();
    qemu_img(&format!("create -q -f qcow2 {} 4M", s(&other)));
    qemu_io("qcow2", &other, &["write -P 7 3M 100k"]);
    let out = cowshed(&["convert", "-n", "-O", "qcow2", s(&other), s(&to)]);
    assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
    qemu_img(&format!("convert -n -O qcow2 {} {}", s(&other), s(&theirs)));
    assert_eq!(listed(&to), listed(&theirs));
    assert_eq!(bits(&to, "b"), bits(&theirs, "b"));
    run("qemu-img", &["check", "-q", s(&to)]);
    run("qemu-img", &["compare", s(&other), s(&to)]);
}

/// The image on `dev`, open for writing.
/// Breaks the compressed cluster that a fresh image with clusters of 64 KiB holds at guest byte `at`, below 512 MiB.
fn break_compressed(image: &Path, at: u64) {
    let mut bytes = std::fs::read(image).unwrap();
    let be = |b: &[u8], at: usize| u64::from_be_bytes(b[at..at + 8].try_into().unwrap());
    let l2 = be(&bytes, be(&bytes, 40) as usize) & 0x00ff_ffff_ffff_fe00;
    let entry = be(&bytes, l2 as usize + (at >> 16) as usize * 8);
    assert!(entry >> 62 & 1 == 1, "no compressed cluster there");
    let place = (entry & ((1 << 54) - 1)) as usize;
    bytes[place..place + 16].fill(0xff);
    std::fs::write(image, bytes).unwrap();
}

#[test]
fn what_fails_midway_leaves_them_with_what_was_written() {
    let dir = dir();
    let at = |n: &str| dir.path().join(n);
    let (base, over) = (at("base.qcow2"), at("over.qcow2"));
    for verb in ["commit", "convert"] {
        qemu_img(&format!("create -q -f qcow2 {} 64M", s(&base)));
        qemu_img(&format!("bitmap --add {} records", s(&base)));
        match verb {
            "commit" => qemu_img(&format!("create -q -f qcow2 -b {} -F qcow2 {}", s(&base), s(&over))),
            _ => qemu_img(&format!("create -q -f qcow2 {} 64M", s(&over))),
        };
        qemu_io("qcow2", &over, &["write -P 7 1M 30M", "write -c 60M 64k"]);
        break_compressed(&over, 60 << 20);
        let out = match verb {
            "commit" => cowshed(&["commit", "-q", s(&over)]),
            _ => cowshed(&["convert", "-q", "-n", "-O", "qcow2", s(&over), s(&base)]),
        };
        assert_eq!(out.status.code(), Some(1), "{verb}: {}", String::from_utf8_lossy(&out.stderr));
        let flags = listed(&base)[0]["flags"].clone();
        assert_eq!(flags, serde_json::json!(["auto"]), "{verb}: {}", String::from_utf8_lossy(&out.stderr));
        // What changed in the base is dirty, and some of it did.
        let dirty = bits(&base, "records");
        let now = qemu_content("qcow2", &base);
        let changed: Vec<u64> = (0..64).filter(|m| now[*m << 20] == 7).map(|m| (m as u64) << 20).collect();
        let on = |byte: &u64| dirty.iter().any(|(start, len, on)| *on && (*start..start + len).contains(byte));
        assert!(!changed.is_empty() && changed.iter().all(on) && !on(&(63 << 20)), "{verb}: {changed:?} {dirty:?}");
        qemu_img(&format!("check -q {}", s(&base)));
    }
}

fn writer(dev: WriteDevice) -> Arc<dyn DiskWriter> {
    use cowshed::engine::format::{Source, write::WriteSource};
    let source = Source { dev: dev.clone(), path: "image".into(), gate: cowshed::engine::io::gate::Gate::closed() };
    (Format::Qcow2.entry().open_write.unwrap())(WriteSource::alone(dev, source)).unwrap()
}

#[test]
fn what_is_written_is_recorded_as_qemu_records_it() {
    let dir = dir();
    let at = |n: &str| dir.path().join(n);
    for (case, options) in [("plain", ""), ("small", "-o cluster_size=4k,refcount_bits=1"), ("sub", "-o extended_l2=on")] {
        let (ours, theirs) = (at(&format!("{case}.qcow2")), at(&format!("{case}-theirs.qcow2")));
        // 300 MiB at 512 bytes need several clusters of bits; the last granule of each is cut short by the end of the disk.
        qemu_img(&format!("create -q -f qcow2 {options} {} {}", s(&ours), (300 << 20) + 1536));
        for (name, granularity) in [("coarse", "1M"), ("fine", "512"), ("off", "64k"), ("all", "64k")] {
            qemu_img(&format!("bitmap --add -g {granularity} {} {name}", s(&ours)));
        }
        qemu_io("qcow2", &ours, &["write -P 1 1M 3M"]);
        qemu_img(&format!("bitmap --disable {} off", s(&ours)));
        qemu_io("qcow2", &ours, &["write -P 1 100M 64k"]);
        std::fs::copy(&ours, &theirs).unwrap();
        let end = (300 << 20) + 1536;
        let writes: [(u64, u64); 7] = [
            (0, 512),
            (1024, 70_000 / 512 * 512),
            (5 << 20, 64 << 10),
            (130 << 20, 1 << 20),
            (255 << 20, 2 << 20),
            (end - 1024, 1024),
            (1 << 20, 512),
        ];
        let zeroes: [(u64, u64); 2] = [(64 << 20, 3 << 20), ((200 << 20) + 512, 1024)];
        let writer = writer(Arc::new(cowshed::engine::io::direct::Direct::for_writing(
            cowshed::engine::io::file::FileDevice::open_rw(&ours).unwrap(),
        )));
        let mut commands: Vec<String> = Vec::new();
        for (i, (at, len)) in writes.iter().enumerate() {
            writer.write(*at, &vec![0x40 + i as u8; *len as usize]).unwrap();
            commands.push(format!("write -P {} {at} {len}", 0x40 + i));
        }
        for (at, len) in zeroes {
            writer.write_zeroes(at, len).unwrap();
            commands.push(format!("write -z {at} {len}"));
        }
        writer.flush().unwrap();
        // Not closed yet: nobody takes them for true.
        let flags = |image: &Path| listed(image).as_array().unwrap().iter().map(|b| b["flags"].to_string()).collect::<Vec<_>>();
        assert_eq!(flags(&ours).iter().filter(|f| f.contains("in-use")).count(), 3, "{case}");
        writer.finish().unwrap();
        drop(writer);
        qemu_io("qcow2", &theirs, &commands.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(listed(&ours), listed(&theirs), "{case}");
        for name in ["coarse", "fine", "off", "all"] {
            assert_eq!(bits(&ours, name), bits(&theirs, name), "{case} {name}");
        }
        run("qemu-img", &["check", "-q", s(&ours)]);
        run("qemu-img", &["compare", s(&ours), s(&theirs)]);
        // A change of size between, and a longer disk afterwards.
        let out = cowshed(&["resize", "-f", "qcow2", s(&ours), "+10M"]);
        assert!(out.status.success(), "{out:?}");
        qemu_img(&format!("resize -q -f qcow2 {} +10M", s(&theirs)));
        for name in ["coarse", "fine", "off", "all"] {
            assert_eq!(bits(&ours, name), bits(&theirs, name), "{case} {name} resized");
        }
        run("qemu-img", &["check", "-q", s(&ours)]);
    }
}

#[test]
fn a_power_cut_while_recording_leaves_them_true_or_distrusted() {
    let dir = dir();
    let path = dir.path().join("cut.qcow2");
    qemu_img(&format!("create -q -f qcow2 -o cluster_size=4k {} 1M", s(&path)));
    qemu_img(&format!("bitmap --add -g 512 {} b", s(&path)));
    qemu_io("qcow2", &path, &["write -P 1 100k 8k"]);
    let before = std::fs::read(&path).unwrap();
    let dev = Faulty::new(before.clone());
    let open = writer(dev.clone());
    open.write(512, &noise(3, 5 << 10)).unwrap();
    open.finish().unwrap();
    open.write_zeroes(500 << 10, 4096).unwrap();
    open.finish().unwrap();
    drop(open);
    let bits = |image: &dyn cowshed::engine::format::Image| {
        let mut out = vec![0u8; 256];
        image.bitmap("b").unwrap().read_at(0, &mut out).unwrap();
        out
    };
    let open = |bytes: Vec<u8>| {
        (Format::Qcow2.entry().open)(cowshed::engine::format::Source {
            dev: Arc::new(Memory::new(bytes)),
            path: path.clone(),
            gate: cowshed::engine::io::gate::Gate::closed(),
        })
        .unwrap()
    };
    let guest = |bytes: Vec<u8>| {
        let mut out = vec![0u8; 1 << 20];
        cowshed::engine::chain::Disk::new(vec![open(bytes)]).read_at(0, &mut out).unwrap();
        out
    };
    use cowshed::engine::io::ReadAt;
    let (old, old_bits) = (guest(before.clone()), bits(open(before.clone()).as_ref()));
    let (mut trusted, mut distrusted, mut checked) = (0, 0, std::collections::HashSet::new());
    power_cuts(&before, &dev.record(), |state, bytes| {
        let image = open(bytes.clone());
        let bitmap = image.describe().bitmaps.first().cloned().unwrap_or_else(|| panic!("{state}: it is gone"));
        if bitmap.in_use {
            distrusted += 1;
        } else {
            trusted += 1;
            // Whatever differs from the beginning is in the bitmap.
            let (now, set) = (guest(bytes.clone()), bits(image.as_ref()));
            for granule in 0..2048 {
                let range = granule * 512..(granule + 1) * 512;
                let marked = |b: &[u8]| b[granule / 8] >> (granule % 8) & 1 == 1;
                assert!(now[range.clone()] == old[range] || marked(&set), "{state}: granule {granule} changed unseen");
                assert!(!marked(&old_bits) || marked(&set), "{state}: granule {granule} was forgotten");
            }
        }
        if checked.insert(digest(&bytes)) {
            std::fs::write(&path, bytes).unwrap();
            let check = Command::new("qemu-img").args(["check", "-q", s(&path)]).status().unwrap();
            assert!(matches!(check.code(), Some(0 | 3)), "{state}: {check}");
        }
    });
    assert!(trusted > 1 && distrusted > 1, "{trusted} {distrusted}");
}

/// Tells states of a file apart.
fn digest(bytes: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut h = DefaultHasher::new();
    bytes.hash(&mut h);
    h.finish()
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
