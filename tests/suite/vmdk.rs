//! VMDK: every sub-format against `qemu-img`, and against bytes built here from the specification where `qemu-img` cannot make an
//! image or reads it wrongly (see formats.md, "Where the reference tool is wrong").

use std::path::{Path, PathBuf};

use cowshed::engine::chain::{Chain, OpenOptions};
use cowshed::engine::error::ErrorKind;
use cowshed::engine::format::Format;
use cowshed::engine::format::probe::{best, probe};
use cowshed::engine::io::ReadAt;
use cowshed::engine::io::file::FileDevice;
use cowshed::engine::model::Kind;

use crate::common::{content, dir, noise, qemu_content, qemu_img, qemu_io, s, text};

const SUBFORMATS: [&str; 5] =
    ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized"];
const GRAIN: usize = 65536;

fn open(path: &Path) -> Chain {
    Chain::open(path, &OpenOptions::default()).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn read_range(chain: &Chain, offset: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0xaa; len];
    chain.disk().unwrap().read_at(offset, &mut out).unwrap();
    out
}

/// What `qemu-img convert` makes of it.
fn oracle(path: &Path) -> Vec<u8> {
    qemu_content("vmdk", path)
}

#[track_caller]
fn same(got: &[u8], want: &[u8]) {
    assert_eq!(got.len(), want.len(), "sizes");
    if got == want {
        return;
    }
    if let Some(i) = got.iter().zip(want).position(|(a, b)| a != b) {
        panic!("byte {i:#x} is {:#x} and should be {:#x}", got[i], want[i]);
    }
}

/// A raw file with data, runs of zeros and text, of an awkward length.
fn guest(folder: &Path, len: usize) -> PathBuf {
    let mut bytes = vec![0u8; len];
    let mut put = |at: usize, part: &[u8]| {
        if at < len {
            let n = part.len().min(len - at);
            bytes[at..at + n].copy_from_slice(&part[..n]);
        }
    };
    put(0, &text(1, 3 * GRAIN));
    put(5 * GRAIN + 512, &noise(2, GRAIN + 700));
    put(33 << 20, &noise(3, 200_000));
    put(len - 1536, &noise(4, 1536));
    let path = folder.join("guest.raw");
    std::fs::write(&path, bytes).unwrap();
    path
}

/// `info` of the same file, as qemu-img's JSON has it.
fn qemu_info(path: &Path) -> serde_json::Value {
    serde_json::from_str(&qemu_img(&format!("info -f vmdk --output=json {}", s(path)))).unwrap()
}

#[track_caller]
fn same_info(path: &Path) {
    let (want, chain) = (qemu_info(path), open(path));
    let node = &chain.nodes[0];
    assert_eq!(node.description.specific, want["format-specific"]);
    assert_eq!(node.virtual_size, want["virtual-size"].as_u64());
    assert_eq!(node.description.cluster_size, want["cluster-size"].as_u64());
    assert_eq!(node.actual_size, want["actual-size"].as_u64());
    assert_eq!(node.description.warnings, [""; 0], "no warning for a sound image");
    let backing = chain.layers[0].backing();
    assert_eq!(backing.as_ref().and_then(|b| b.names.first().map(String::as_str)), want["backing-filename"].as_str());
    assert_eq!(backing.and_then(|b| b.format).as_deref(), want["backing-filename-format"].as_str());
}

#[test]
fn every_subformat_reads_as_qemu_img_reads_it() {
    let d = dir();
    let raw = guest(d.path(), (34 << 20) + 1536);
    for subformat in SUBFORMATS {
        for more in ["", ",zeroed_grain=on,adapter_type=lsilogic,hwversion=13", ",compat6=on"] {
            if subformat.ends_with("Flat") && more.contains("zeroed_grain") {
                continue;
            }
            let path = d.path().join("disk.vmdk");
            qemu_img(&format!("convert -O vmdk -o subformat={subformat}{more} {} {}", s(&raw), s(&path)));
            same(&content(&path), &oracle(&path));
            same_info(&path);
        }
    }
}

#[test]
fn split_disks_join_their_extents() {
    let d = dir();
    for subformat in ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let path = d.path().join(format!("{subformat}.vmdk"));
        qemu_img(&format!("create -q -f vmdk -o subformat={subformat} {} 5G", s(&path)));
        qemu_io("vmdk", &path, &["write -P 1 0x7fff0000 128k", "write -P 2 0xffffff00 512", "write -P 3 5368643584 64k"]);
        same_info(&path);
        let chain = open(&path);
        assert_eq!(chain.layers[0].files().len(), 4);
        let at = |offset: u64| read_range(&chain, offset, 2)[..2].to_vec();
        assert_eq!([at(0x7fff_ffff), at(0x8000_ffff), at(0xffff_feff)], [[1, 1], [1, 0], [0, 2]]);
        assert_eq!([at(0xffff_ffff), at((5 << 30) - 2), at(0)], [[2, 2], [3, 3], [0, 0]]);
    }
}

#[test]
fn reads_at_any_place_agree() {
    let d = dir();
    let raw = guest(d.path(), (36 << 20) + 512);
    let want = std::fs::read(&raw).unwrap();
    for subformat in ["monolithicSparse", "streamOptimized", "monolithicFlat"] {
        let path = d.path().join("disk.vmdk");
        qemu_img(&format!("convert -O vmdk -o subformat={subformat} {} {}", s(&raw), s(&path)));
        let chain = open(&path);
        let disk = chain.disk().unwrap();
        let mut x = 7u64;
        for _ in 0..300 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (x >> 20) as usize % want.len();
            let len = ((x >> 8) as usize % 200_000).min(want.len() - at);
            let mut buf = vec![0xee; len];
            disk.read_at(at as u64, &mut buf).unwrap();
            assert!(buf == want[at..at + len], "{subformat} {at} {len}");
        }
    }
}

#[test]
fn children_read_through_and_a_changed_parent_is_refused() {
    let d = dir();
    let (base, top) = (d.path().join("base.vmdk"), d.path().join("top.vmdk"));
    qemu_img(&format!("create -q -f vmdk {} 8M", s(&base)));
    qemu_io("vmdk", &base, &["write -P 1 0 1M", "write -P 2 3M 100k"]);
    qemu_img(&format!("create -q -f vmdk -o zeroed_grain=on -b base.vmdk -F vmdk {}", s(&top)));
    qemu_io("vmdk", &top, &["write -P 9 64k 1000", "write -z 3M 64k"]);
    same(&content(&top), &oracle(&top));
    same_info(&top);
    let chain = open(&top);
    assert_eq!((chain.nodes.len(), chain.disk().unwrap().extent(3 << 20, 1 << 20).unwrap().kind), (2, Kind::Zero));
    // A new session writes to the base: its CID changes, and the child must not be read on top of it.
    qemu_io("vmdk", &base, &["write -P 5 5M 1M"]);
    let chain = open(&top);
    assert_eq!(chain.error().map(|e| e.kind()), Some(ErrorKind::ParentChanged));
    // The base gone: the image itself is still described.
    std::fs::remove_file(&base).unwrap();
    let chain = open(&top);
    assert_eq!((chain.nodes.len(), chain.error().map(|e| e.kind())), (2, Some(ErrorKind::MissingReference)));
}

#[test]
fn a_parent_named_by_a_foreign_path_is_found_beside_the_child() {
    let d = dir();
    let (base, top) = (d.path().join("base.vmdk"), d.path().join("top.vmdk"));
    qemu_img(&format!("create -q -f vmdk {} 1M", s(&base)));
    qemu_io("vmdk", &base, &["write -P 1 0 1M"]);
    qemu_img(&format!("create -q -f vmdk -o subformat=twoGbMaxExtentSparse -b base.vmdk -F vmdk {}", s(&top)));
    for hint in ["C:\\VMs\\old\\base.vmdk", "/vmfs/volumes/datastore1/vm/base.vmdk"] {
        let text = std::fs::read_to_string(&top).unwrap();
        let was = open(&top).layers[0].backing().unwrap().names[0].clone();
        std::fs::write(&top, text.replace(&was, hint)).unwrap();
        assert_eq!(content(&top), vec![1; 1 << 20]);
    }
}

#[test]
fn renamed_images_and_lone_extents_still_open() {
    let d = dir();
    let raw = guest(d.path(), 4 << 20);
    let want = std::fs::read(&raw).unwrap();
    for subformat in ["monolithicSparse", "streamOptimized"] {
        let (path, renamed) = (d.path().join("a.vmdk"), d.path().join("renamed by hand.img"));
        qemu_img(&format!("convert -O vmdk -o subformat={subformat} {} {}", s(&raw), s(&path)));
        std::fs::rename(&path, &renamed).unwrap();
        same(&content(&renamed), &want);
    }
    let path = d.path().join("split.vmdk");
    qemu_img(&format!("create -q -f vmdk -o subformat=twoGbMaxExtentSparse {} 3G", s(&path)));
    qemu_io("vmdk", &path, &["write -P 4 2G 1M"]);
    let lone = open(&d.path().join("split-s002.vmdk"));
    assert_eq!(lone.nodes[0].virtual_size, Some(1 << 30));
    assert_eq!(read_range(&lone, 0, (1 << 20) + 1)[(1 << 20) - 1..], [4, 0]);
    assert!(lone.nodes[0].description.warnings[0].contains("one extent of a split disk"));
    // One of the set is missing: described, not read.
    std::fs::remove_file(d.path().join("split-s001.vmdk")).unwrap();
    let chain = open(&path);
    assert_eq!(chain.nodes[0].virtual_size, Some(3 << 30));
    assert!(chain.nodes[0].description.warnings[0].contains("split-s001.vmdk"));
    assert_eq!(chain.disk().err().unwrap().kind(), ErrorKind::MissingReference);
}

#[test]
fn extents_outside_are_not_opened() {
    let d = dir();
    let inside = d.path().join("in");
    std::fs::create_dir(&inside).unwrap();
    std::fs::write(d.path().join("secret"), vec![7; 512]).unwrap();
    for name in ["/etc/passwd", "../secret", "/dev/zero", "..\\secret", "\\\\.\\PhysicalDrive0", "nbd:localhost:1", "json:{}"] {
        let path = inside.join("x.vmdk");
        std::fs::write(
            &path,
            format!("# Disk DescriptorFile\nversion=1\nCID=1\ncreateType=\"monolithicFlat\"\nRW 1 FLAT \"{name}\" 0\n"),
        )
        .unwrap();
        let chain = open(&path);
        assert_eq!(chain.layers[0].files().len(), 1, "{name}");
        assert_eq!(chain.disk().err().unwrap().kind(), ErrorKind::Gated, "{name}");
    }
}

fn le32(b: &mut [u8], at: usize, v: u32) {
    b[at..at + 4].copy_from_slice(&v.to_le_bytes());
}

fn le64(b: &mut [u8], at: usize, v: u64) {
    b[at..at + 8].copy_from_slice(&v.to_le_bytes());
}

/// A hosted sparse header: capacity 1024 sectors, grains of 16, 8 entries to a table (so 8 tables), one text descriptor sector.
fn hosted(version: u32, flags: u32, rgd: u64, gd: u64) -> Vec<u8> {
    let mut b = vec![0u8; 1024];
    b[..4].copy_from_slice(b"KDMV");
    le32(&mut b, 4, version);
    le32(&mut b, 8, flags | 1);
    le64(&mut b, 12, 1024);
    le64(&mut b, 20, 16);
    le64(&mut b, 28, 1);
    le64(&mut b, 36, 1);
    le32(&mut b, 44, 8);
    le64(&mut b, 48, rgd);
    le64(&mut b, 56, gd);
    le64(&mut b, 64, 8);
    b[73..77].copy_from_slice(b"\n \r\n");
    let text = b"# Disk DescriptorFile\nversion=1\nCID=0badcafe\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"\nRW 1024 SPARSE \"x\"\n";
    b[512..512 + text.len()].copy_from_slice(text);
    b
}

/// The same, plain, with two directories: redundant at sector 2 with its table at 4, primary at 3 with its table at 5; grains 1
/// and 2 of the disk at sectors 8 and 24, grain 4 an entry of 1.
fn plain(flags: u32) -> (Vec<u8>, Vec<u8>) {
    let mut b = hosted(2, flags | 2, 2, 3);
    b.resize(40 * 512, 0);
    for (directory, table) in [(2usize, 4u32), (3, 5)] {
        le32(&mut b, directory * 512 + 4 * 4, table);
        for (entry, sector) in [(1usize, 8u32), (2, 24), (4, 1)] {
            le32(&mut b, table as usize * 512 + entry * 4, sector);
        }
    }
    b[8 * 512..].copy_from_slice(&noise(5, 32 * 512));
    let mut want = vec![0u8; 1024 * 512];
    let at = (4 * 8 + 1) * 16 * 512;
    want[at..at + 32 * 512].copy_from_slice(&noise(5, 32 * 512));
    (b, want)
}

#[test]
fn zeroed_grains_and_runs_map_as_what_they_are() {
    let d = dir();
    let path = d.path().join("a.vmdk");
    let (bytes, want) = plain(4);
    std::fs::write(&path, bytes).unwrap();
    same(&content(&path), &want);
    let chain = open(&path);
    let layer = &chain.layers[0];
    let runs: Vec<_> = std::iter::successors(Some((0, layer.map(0, u64::MAX).unwrap())), |(at, m)| {
        let next = at + m.len;
        (next < layer.size()).then(|| (next, layer.map(next, u64::MAX).unwrap()))
    })
    .map(|(at, m)| (at / 8192, m.len / 8192, m.kind, m.place.map(|p| p.offset / 512)))
    .collect();
    assert_eq!(
        runs,
        [
            (0, 33, Kind::Unallocated, None),
            (33, 2, Kind::Data, Some(8)),
            (35, 1, Kind::Unallocated, None),
            (36, 1, Kind::Zero, None),
            (37, 27, Kind::Unallocated, None),
        ]
    );
    assert_eq!(layer.describe().identity.cid, Some(0x0bad_cafe));
}

#[test]
fn the_redundant_directory_answers_where_the_first_one_leads_nowhere() {
    let d = dir();
    let path = d.path().join("a.vmdk");
    let (good, want) = plain(4);
    type Damage = fn(&mut [u8]);
    let damages: [(&str, Damage); 4] = [
        ("directory outside the file", |b| le64(b, 56, 1 << 40)),
        ("directory entry outside", |b| le32(b, 3 * 512 + 16, 0x7fff_ffff)),
        ("grain outside", |b| le32(b, 5 * 512 + 4, 0xffff_0000)),
        ("table overwritten with text", |b| b[5 * 512 + 4..5 * 512 + 12].copy_from_slice(b"ddb.uuid")),
    ];
    for (what, damage) in damages {
        let mut bytes = good.clone();
        damage(&mut bytes);
        std::fs::write(&path, &bytes).unwrap();
        assert!(content(&path) == want, "{what}");
        // Without the flag that vouches for the copy there is nothing to fall back to.
        le32(&mut bytes, 8, 5);
        std::fs::write(&path, &bytes).unwrap();
        let failed = Chain::open(&path, &OpenOptions::default())
            .and_then(|c| c.disk()?.read_at(33 * 8192, &mut [0; 16384]))
            .expect_err(what);
        assert!(matches!(failed.kind(), ErrorKind::Corrupt | ErrorKind::Truncated), "{what}: {failed}");
    }
}

fn zlib(data: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut e = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    e.write_all(data).unwrap();
    e.finish().unwrap()
}

fn marker(value: u64, kind: u32) -> Vec<u8> {
    let mut b = vec![0u8; 512];
    le64(&mut b, 0, value);
    le32(&mut b, 12, kind);
    b
}

/// VMware's stream: header without directory, grains with markers, table, directory, footer, end.
fn stream(grains: &[(u64, Vec<u8>)]) -> (Vec<u8>, Vec<u8>) {
    let mut want = vec![0u8; 1024 * 512];
    let mut b = hosted(3, 1 << 16 | 1 << 17, 0, u64::MAX);
    b[77] = 1;
    let mut tables = vec![vec![0u8; 512]; 8];
    for (grain, data) in grains {
        want[*grain as usize * 8192..][..data.len()].copy_from_slice(data);
        le32(&mut tables[*grain as usize / 8], *grain as usize % 8 * 4, (b.len() / 512) as u32);
        let packed = zlib(data);
        b.extend((grain * 16).to_le_bytes());
        b.extend((packed.len() as u32).to_le_bytes());
        b.extend(&packed);
        b.resize(b.len().next_multiple_of(512), 0);
    }
    let mut directory = vec![0u8; 512];
    for (i, table) in tables.iter().enumerate().filter(|(_, t)| t.iter().any(|&x| x != 0)) {
        b.extend(marker(1, 1));
        le32(&mut directory, i * 4, (b.len() / 512) as u32);
        b.extend(table);
    }
    b.extend(marker(1, 2));
    let at = b.len() as u64 / 512;
    b.extend(directory);
    b.extend(marker(1, 3));
    let mut footer = hosted(3, 1 << 16 | 1 << 17, 0, at);
    footer[77] = 1;
    b.extend(&footer[..512]);
    b.extend(marker(0, 0));
    (b, want)
}

#[test]
fn vmwares_stream_layout_with_its_footer_reads() {
    let d = dir();
    let path = d.path().join("a.vmdk");
    let grains = [(0, text(1, 8192)), (7, noise(2, 8192)), (8, text(3, 8192)), (63, noise(4, 8192))];
    let (bytes, want) = stream(&grains);
    std::fs::write(&path, &bytes).unwrap();
    same(&content(&path), &want);
    same(&content(&path), &oracle(&path));
    let chain = open(&path);
    assert_eq!(chain.layers[0].map(0, u64::MAX).unwrap().kind, Kind::Compressed);
    assert!(chain.nodes[0].description.compressed);
    // Padded afterwards, as archives do.
    let mut padded = bytes.clone();
    padded.resize(bytes.len().next_multiple_of(10240), 0);
    std::fs::write(&path, padded).unwrap();
    same(&content(&path), &want);
    // Cut short: the footer is gone, and that is what is said.
    std::fs::write(&path, &bytes[..bytes.len() - 1024]).unwrap();
    let e = Chain::open(&path, &OpenOptions::default()).err().unwrap();
    assert_eq!(e.kind(), ErrorKind::Truncated);
    assert!(e.to_string().contains("footer"), "{e}");
    // Footers that go on for ever are refused.
    let mut looped = bytes.clone();
    let at = looped.len() - 1024 + 56;
    le64(&mut looped, at, u64::MAX);
    std::fs::write(&path, looped).unwrap();
    assert_eq!(Chain::open(&path, &OpenOptions::default()).err().unwrap().kind(), ErrorKind::Corrupt);
    // A grain whose stream is damaged, and one that claims too much.
    for (at, value) in [(1024 + 12 + 20, 0xff), (1024 + 11, 0x7f)] {
        let mut bad = bytes.clone();
        bad[at] ^= value;
        std::fs::write(&path, bad).unwrap();
        let chain = open(&path);
        let e = chain.disk().unwrap().read_at(0, &mut [0; 8192]).unwrap_err();
        assert!(matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Truncated), "{e}");
        same(&read_range(&chain, 7 * 8192, 8192), &noise(2, 8192));
    }
}

#[test]
fn version_3_without_compression_and_compressed_without_markers() {
    let d = dir();
    let path = d.path().join("a.vmdk");
    let (mut bytes, want) = plain(4);
    le32(&mut bytes, 4, 3);
    std::fs::write(&path, &bytes).unwrap();
    same(&content(&path), &want);
    le32(&mut bytes, 4, 4);
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(Chain::open(&path, &OpenOptions::default()).err().unwrap().kind(), ErrorKind::Unsupported);
    let mut b = hosted(3, 1 << 16, 0, 2);
    b[77] = 1;
    b.resize(4 * 512, 0);
    le32(&mut b, 2 * 512, 3);
    le32(&mut b, 3 * 512 + 4, 4);
    b.extend(zlib(&text(9, 8192)));
    std::fs::write(&path, &b).unwrap();
    same(&content(&path)[8192..16384], &text(9, 8192));
}

#[test]
fn zero_read_only_and_barred_extents_keep_their_places() {
    let d = dir();
    let path = d.path().join("custom.vmdk");
    std::fs::write(d.path().join("a.bin"), noise(1, 4096)).unwrap();
    std::fs::write(d.path().join("b.bin"), noise(2, 4096)).unwrap();
    let (sparse, inner) = plain(4);
    std::fs::write(d.path().join("c.vmdk"), sparse).unwrap();
    std::fs::write(
        &path,
        "# Disk DescriptorFile\r\nversion=1\r\nCID=1\r\nparentCID=ffffffff\r\ncreateType=\"custom\"\r\n\r\nRW 2 FLAT \"a.bin\" 1\r\n\
         RW 3 ZERO\r\nRDONLY 4 FLAT \"b.bin\" 0\r\nNOACCESS 2 FLAT \"/etc/shadow\" 0\r\nRDONLY 1024 SPARSE \"c.vmdk\"\r\n\
         RW 1 VMFS \"b.bin\"\r\nRW 1 FLAT \"a.bin\" 0 uuid device\r\n",
    )
    .unwrap();
    let mut want = noise(1, 4096)[512..1536].to_vec();
    want.extend([0; 3 * 512]);
    want.extend(&noise(2, 4096)[..2048]);
    want.extend([0; 1024]);
    want.extend(inner);
    want.extend(&noise(2, 4096)[..512]);
    want.extend(&noise(1, 4096)[..512]);
    same(&content(&path), &want);
    let chain = open(&path);
    assert_eq!(chain.layers[0].files().len(), 4, "each file is opened once, the barred one never");
    assert!(chain.nodes[0].description.warnings.iter().any(|w| w.contains("NOACCESS")));
    let extents = &chain.nodes[0].description.specific["data"]["extents"];
    assert_eq!(extents.as_array().unwrap().len(), 7);
    assert_eq!((extents[1]["format"].as_str(), extents[1]["virtual-size"].as_u64()), (Some("ZERO"), Some(1536)));
    // A flat file that is too short is said to be, and what is there is read.
    std::fs::write(d.path().join("b.bin"), noise(2, 1024)).unwrap();
    let chain = open(&path);
    assert!(chain.nodes[0].description.warnings.iter().any(|w| w.contains("shorter")));
    let disk = chain.disk().unwrap();
    assert_eq!(disk.read_at(5 * 512, &mut [0; 2048]).unwrap_err().kind(), ErrorKind::Truncated);
    assert!(disk.read_at(5 * 512, &mut [0; 1024]).is_ok());
}

#[test]
fn a_header_without_grains_may_carry_the_descriptor_of_others() {
    let d = dir();
    let path = d.path().join("a.vmdk");
    std::fs::write(d.path().join("a-flat.vmdk"), noise(1, 2048)).unwrap();
    let mut b = hosted(1, 0, 0, 0);
    le64(&mut b, 12, 0);
    let text = b"# Disk DescriptorFile\nversion=1\nCID=2\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 4 FLAT \"a-flat.vmdk\" 0\n\0";
    b[512..512 + text.len()].copy_from_slice(text);
    std::fs::write(&path, b).unwrap();
    same(&content(&path), &noise(1, 2048));
    same(&content(&path), &oracle(&path));
}

/// A COWD extent: capacity 8192 sectors of one sector per grain, directory at sector 4, one table at 5 (32 sectors) of the two.
fn cowd() -> (Vec<u8>, Vec<u8>) {
    let mut b = vec![0u8; 2048];
    b[..4].copy_from_slice(b"COWD");
    for (i, v) in [1u32, 3, 8192, 1, 4, 2, 39].into_iter().enumerate() {
        le32(&mut b, 4 + i * 4, v);
    }
    b.resize(39 * 512, 0);
    le32(&mut b, 2048 + 4, 5);
    for (entry, sector) in [(0usize, 37u32), (1, 38), (4095, 37)] {
        le32(&mut b, 5 * 512 + entry * 4, sector);
    }
    b[37 * 512..].copy_from_slice(&noise(8, 1024));
    let mut want = vec![0u8; 8192 * 512];
    want[4096 * 512..][..1024].copy_from_slice(&noise(8, 1024));
    want[8191 * 512..].copy_from_slice(&noise(8, 1024)[..512]);
    (b, want)
}

#[test]
fn esx_copy_on_write_extents_read_alone_and_through_their_descriptor() {
    let d = dir();
    let (lone, path) = (d.path().join("x-delta.vmdk"), d.path().join("x.vmdk"));
    let (bytes, want) = cowd();
    std::fs::write(&lone, bytes).unwrap();
    std::fs::write(
        &path,
        "# Disk DescriptorFile\nversion=1\nCID=00000007\nparentCID=ffffffff\ncreateType=\"vmfsSparse\"\nRW 8192 VMFSSPARSE \"x-delta.vmdk\"\n",
    )
    .unwrap();
    for p in [&lone, &path] {
        same(&content(p), &want);
    }
    same(&content(&path), &oracle(&path));
    same_info(&path);
}

/// A seSparse extent of 4096 + 1 grains: directory at sector 8, tables from 16 on (the second one first), grains from 256 on.
fn sesparse() -> (Vec<u8>, Vec<u8>) {
    let mut b = vec![0u8; 256 * 512 + 3 * 4096];
    let sectors = 4097 * 8;
    for (at, v) in [(0, 0xcafe_babe), (8, 0x2_0000_0001), (16, sectors), (24, 8), (32, 64), (80, 1), (88, 1), (96, 2), (104, 1)] {
        le64(&mut b, at, v);
    }
    // Journal, directory, tables, free bitmap, back map, grains: place and length each.
    for (i, v) in [3u64, 1, 8, 1, 16, 128, 200, 1, 210, 1, 256, 24].into_iter().enumerate() {
        le64(&mut b, 112 + i * 8, v);
    }
    le64(&mut b, 512, 0xcafe_cafe);
    le64(&mut b, 8 * 512, 1 << 60 | 1);
    le64(&mut b, 8 * 512 + 8, 1 << 60);
    let (first, second) = ((16 + 64) * 512, 16 * 512);
    le64(&mut b, first + 5 * 8, 3 << 60 | 2 << 48);
    le64(&mut b, first + 6 * 8, 2 << 60);
    le64(&mut b, first + 7 * 8, 1 << 60);
    le64(&mut b, first + 4095 * 8, 3 << 60);
    le64(&mut b, second, 3 << 60 | 1 << 48);
    b[256 * 512..].copy_from_slice(&noise(6, 3 * 4096));
    let grain = |n: usize| noise(6, 3 * 4096)[n * 4096..][..4096].to_vec();
    let mut want = vec![0u8; sectors as usize * 512];
    for (at, n) in [(5, 2), (4095, 0), (4096, 1)] {
        want[at * 4096..][..4096].copy_from_slice(&grain(n));
    }
    (b, want)
}

#[test]
fn sesparse_extents_read_alone_and_through_their_descriptor() {
    let d = dir();
    let (lone, path) = (d.path().join("x-sesparse.vmdk"), d.path().join("x.vmdk"));
    let (mut bytes, want) = sesparse();
    std::fs::write(&lone, &bytes).unwrap();
    std::fs::write(
        &path,
        "# Disk DescriptorFile\nversion=4\nCID=00000007\nparentCID=ffffffff\ncreateType=\"seSparse\"\nRW 32776 SESPARSE \"x-sesparse.vmdk\"\n",
    )
    .unwrap();
    for p in [&lone, &path] {
        same(&content(p), &want);
    }
    same(&content(&path), &oracle(&path));
    same_info(&path);
    let chain = open(&path);
    assert_eq!(chain.layers[0].map(6 * 4096, u64::MAX).unwrap().kind, Kind::Zero);
    assert_eq!(chain.layers[0].map(6 * 4096, u64::MAX).unwrap().len, 8192);
    // A journal to be replayed: not to be trusted.
    le64(&mut bytes, 512 + 24, 1);
    std::fs::write(&lone, &bytes).unwrap();
    assert_eq!(Chain::open(&lone, &OpenOptions::default()).err().unwrap().kind(), ErrorKind::Unsupported);
}

#[test]
fn probing_says_what_it_saw() {
    let d = dir();
    let path = d.path().join("a");
    for (bytes, word) in [
        (plain(4).0, "KDMV"),
        (cowd().0, "COWD"),
        (sesparse().0, "cafebabe"),
        (b"\n# comment\r\nversion=1\r\nCID=1\r\n".to_vec(), "descriptor"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let found = probe(&FileDevice::open(&path).unwrap()).unwrap();
        assert_eq!(best(&found), Format::Vmdk);
        assert!(found[0].evidence.contains(word), "{}", found[0].evidence);
    }
}

/// Opens and reads all of whatever it is: errors are fine, panics and lies about bounds are not.
fn survives(path: &Path) -> bool {
    let Ok(chain) = Chain::open(path, &OpenOptions::default()) else { return false };
    let Ok(disk) = chain.disk() else { return false };
    let mut at = 0;
    let mut whole = true;
    let mut steps = 0;
    while at < disk.len() && steps < 200 {
        steps += 1;
        match disk.extent(at, u64::MAX) {
            Ok(e) => {
                assert!(e.len > 0 && e.offset == at);
                whole &= disk.read_extent(&e, at, &mut vec![0; e.len.min(65536) as usize]).is_ok();
                at += e.len;
            }
            Err(_) => {
                whole = false;
                at += 4096;
            }
        }
    }
    whole
}

#[test]
fn truncation_at_every_structure_is_an_error_not_a_panic_and_not_silent() {
    let d = dir();
    let path = d.path().join("a.vmdk");
    let (streamed, _) = stream(&[(0, text(1, 8192)), (63, noise(4, 8192))]);
    for (name, bytes) in [("plain", plain(4).0), ("cowd", cowd().0), ("sesparse", sesparse().0), ("stream", streamed)] {
        std::fs::write(&path, &bytes).unwrap();
        assert!(survives(&path), "{name} is sound to begin with");
        let step = (bytes.len() / 64).max(1) / 512 * 512;
        for cut in (0..bytes.len()).step_by(step.max(512)).chain([1, 3, 4, 8, 80, 511, 513, bytes.len() - 1]) {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            // Only a signature that is itself cut off makes it something else (raw).
            if cut >= 8 {
                assert!(!survives(&path), "{name} cut at {cut} reads as if nothing were missing");
            }
        }
    }
}

#[test]
fn flipped_bytes_and_extreme_numbers_never_panic() {
    let d = dir();
    let path = d.path().join("a.vmdk");
    let (streamed, _) = stream(&[(0, text(1, 8192)), (9, text(2, 8192)), (63, noise(4, 8192))]);
    let mut x = 99u64;
    for bytes in [plain(4).0, cowd().0, sesparse().0, streamed] {
        for round in 0..400 {
            let mut bad = bytes.clone();
            for _ in 0..1 + round % 3 {
                x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                // Half of the damage goes into the header, where numbers are.
                let span = if x & 1 == 0 { 208 } else { bad.len() };
                let at = (x >> 24) as usize % span;
                if x & 6 == 0 && at + 8 <= bad.len() {
                    bad[at..at + 8].copy_from_slice(&[u64::MAX, 1 << 63, 1 << 40, 0][(x >> 4) as usize % 4].to_le_bytes());
                } else {
                    bad[at] ^= 1 << (x >> 8 & 7);
                }
            }
            std::fs::write(&path, bad).unwrap();
            survives(&path);
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_descriptor_text_is_read_or_refused(tail in "(?s).{0,200}", lines in proptest::collection::vec("(RW|RDONLY|NOACCESS|CID=|parentCID=|createType=|#) ?[0-9a-f]{0,20} (FLAT|SPARSE|ZERO|X) \"?[a-z./\\\\]{0,12}\"? ?[0-9]{0,20}", 0..6)) {
        let d = dir();
        let path = d.path().join("a.vmdk");
        std::fs::write(&path, format!("# Disk DescriptorFile\n{}\n{tail}", lines.join("\n"))).unwrap();
        survives(&path);
    }
}
