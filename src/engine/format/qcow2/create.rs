//! Making new images: the options of `qemu-img create -o help`, checked against each other, and the first structures.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use crate::engine::error::{Error, Result};
use crate::engine::format::write::{CreateSpec, DiskWriter, NewFiles, OptionKind, OptionSpec, Preallocation};
use crate::engine::io::WriteDevice;
use crate::engine::limits::{MAX_L1_BYTES, MAX_NAME};
use crate::engine::model::{BackingRef, ParentIdentity};
use crate::engine::units::{MIB, SECTOR, round_up};

use super::allocation::Allocator;
use super::describe::{Parts, describe};
use super::extensions::{BACKING_FORMAT, DATA_FILE, Extensions, FEATURES};
use super::header::{
    COMPRESSION, Compression, EXTENDED_L2, EXTERNAL_DATA, FEATURE_NAMES, Header, LAZY_REFCOUNTS, RAW_EXTERNAL, V2_LENGTH,
};
use super::tables::Geometry;
use super::writer::{Shared, State, Writer};
use super::zero::ALL_ZERO;

/// Bytes of a version 3 header with the compression type.
pub(super) const LENGTH: u32 = 112;
/// Bytes of refcount table made at once, at most: a longer one is made when the image grows into it.
const FIRST_TABLE: u64 = MIB / 16;

const fn option(name: &'static str, doc: &'static str, kind: OptionKind, default: &'static str) -> OptionSpec {
    OptionSpec { name, doc, kind, default }
}

/// The options of `create -f qcow2`.
pub static OPTIONS: &[OptionSpec] = &[
    option("backing_file", "File name of a base image", OptionKind::Text, ""),
    option("backing_fmt", "Image format of the base image", OptionKind::Text, ""),
    option("cluster_size", "Bytes of a cluster: 512 to 2M, a power of two", OptionKind::Size, "65536"),
    option("compat", "Compatibility level: v2 (0.10) or v3 (1.1)", OptionKind::Choice(&["0.10", "1.1", "v2", "v3"]), "1.1"),
    option("compression_type", "How clusters are compressed", OptionKind::Choice(&["zlib", "zstd"]), "zlib"),
    option("data_file", "File name of an external data file", OptionKind::Text, ""),
    option("data_file_raw", "The external data file must stay valid as a raw image", OptionKind::Switch, "off"),
    option("extended_l2", "Extended L2 tables: clusters of 32 subclusters", OptionKind::Switch, "off"),
    option("lazy_refcounts", "Postpone refcount updates", OptionKind::Switch, "off"),
    option(
        "preallocation",
        "What is reserved at once: nothing, the tables, space, or space filled with zeros",
        OptionKind::Choice(&["off", "metadata", "falloc", "full"]),
        "off",
    ),
    option("refcount_bits", "Bits of a reference count: 1 to 64, a power of two", OptionKind::Number, "16"),
    option("size", "Virtual disk size", OptionKind::Size, ""),
];

/// A request that was checked.
struct Plan {
    header: Header,
    ext: Extensions,
    preallocation: Preallocation,
}

/// Makes a new image and hands it back open for writing.
///
/// Errors: options that contradict each other, a size the clusters cannot map, and what writing can fail with.
pub fn create(spec: &CreateSpec, files: &dyn NewFiles) -> Result<Arc<dyn DiskWriter>> {
    spec.check(crate::engine::format::Format::Qcow2, OPTIONS)?;
    let Plan { mut header, ext, preallocation } = plan(spec)?;
    let dev = files.image();
    let data = spec.option("data_file").map(|name| files.extra(name)).transpose()?;
    let old_len = dev.len();
    let geometry = Geometry::of(&header);
    let mut alloc = Allocator::create(dev.clone(), &header, table_clusters(&header))?;
    let l1_len = u64::from(header.l1_entries) * 8;
    header.l1_offset = alloc.metadata_run(l1_len.div_ceil(geometry.cluster()).max(1))?;
    dev.write_zeroes(header.l1_offset, l1_len)?;
    let first = ext.encode(&mut header)?;
    let description = Arc::new(describe(Parts {
        header: &header,
        ext: &ext,
        snapshots: Vec::new(),
        bitmaps: Vec::new(),
        encryption: None,
        warnings: Vec::new(),
    }));
    let shared = Shared {
        dev,
        data,
        geometry,
        compression: header.compression,
        below: spec.backing.as_ref().and_then(|b| b.disk.clone()),
        backing: ext.backing_name().map(|name| BackingRef {
            names: vec![name],
            format: ext.backing_format(),
            identity: ParentIdentity::Name,
        }),
        description,
        is_new: true,
        size: AtomicU64::new(header.size),
        state: Mutex::new(State::new(header.clone(), alloc, vec![0; header.l1_entries as usize])),
    };
    shared.begin(first, old_len, preallocation)?;
    Ok(Arc::new(Writer { shared: Arc::new(shared) }))
}

/// Turns options into a header.
fn plan(spec: &CreateSpec) -> Result<Plan> {
    let wrong = |why: &str| Error::usage(why).op("create a qcow2 image");
    let version = if matches!(spec.option("compat"), Some("0.10" | "v2")) { 2 } else { 3 };
    let cluster = spec.bytes("cluster_size", 65536)?;
    if !cluster.is_power_of_two() || !(512..=2 * MIB).contains(&cluster) {
        return Err(wrong("cluster_size is a power of two between 512 and 2M"));
    }
    let bits = spec.option("refcount_bits").map_or(Ok(16), str::parse).unwrap_or(0u32);
    if !bits.is_power_of_two() || bits > 64 {
        return Err(wrong("refcount_bits is a power of two between 1 and 64"));
    }
    let compression = if spec.option("compression_type") == Some("zstd") { Compression::Zstd } else { Compression::Zlib };
    let (lazy, extended, raw) =
        (spec.switch("lazy_refcounts", false)?, spec.switch("extended_l2", false)?, spec.switch("data_file_raw", false)?);
    let external = spec.option("data_file").is_some();
    let needs_v3 = [
        (bits != 16, "refcount_bits other than 16"),
        (lazy, "lazy_refcounts"),
        (extended, "extended_l2"),
        (external, "data_file"),
        (compression != Compression::Zlib, "compression_type=zstd"),
    ];
    if version < 3
        && let Some((_, what)) = needs_v3.iter().find(|(on, _)| *on)
    {
        return Err(wrong(&format!("{what} needs compat=1.1")));
    }
    if extended && cluster < 16384 {
        return Err(wrong("extended_l2 needs a cluster_size of at least 16k"));
    }
    if raw && !external {
        return Err(wrong("data_file_raw needs data_file"));
    }
    if raw && spec.backing.is_some() {
        return Err(wrong("a backing file and data_file_raw cannot go together"));
    }
    let mut preallocation = match spec.option("preallocation") {
        Some("metadata") => Preallocation::Metadata,
        Some("falloc") => Preallocation::Falloc,
        Some("full") => Preallocation::Full,
        _ => Preallocation::Off,
    };
    if preallocation != Preallocation::Off && spec.backing.is_some() && !extended {
        return Err(wrong(
            "a backing file and preallocation go together with extended_l2 only: else what is below would be hidden",
        ));
    }
    if raw {
        preallocation = preallocation.max(Preallocation::Metadata);
    }
    let size = round_up(spec.size, SECTOR).ok_or_else(|| wrong("the size is too large"))?;
    let flag = |on: bool, bit: u64| if on { bit } else { 0 };
    let mut header = Header {
        version,
        backing_offset: 0,
        backing_len: 0,
        cluster_bits: cluster.trailing_zeros(),
        size,
        crypt_method: 0,
        l1_entries: 0,
        l1_offset: 0,
        reftable_offset: 0,
        reftable_clusters: 0,
        snapshots: 0,
        snapshots_offset: 0,
        incompatible: flag(external, EXTERNAL_DATA)
            | flag(compression != Compression::Zlib, COMPRESSION)
            | flag(extended, EXTENDED_L2),
        compatible: flag(lazy, LAZY_REFCOUNTS),
        autoclear: flag(raw, RAW_EXTERNAL),
        refcount_order: bits.trailing_zeros(),
        header_length: if version >= 3 { LENGTH } else { V2_LENGTH },
        compression,
        rest: Vec::new(),
    };
    let entries = size.div_ceil(header.l2_span());
    if entries * 8 > MAX_L1_BYTES {
        return Err(wrong("the disk is larger than clusters of this size allow").hint("use a larger cluster_size"));
    }
    header.l1_entries = entries as u32;
    let ext = extensions(spec, &header)?;
    Ok(Plan { header, ext, preallocation })
}

fn extensions(spec: &CreateSpec, header: &Header) -> Result<Extensions> {
    let mut ext = Extensions::default();
    if let Some(name) = spec.option("data_file") {
        ext.set(DATA_FILE, Some(name.as_bytes().to_vec()));
    }
    if let Some(backing) = &spec.backing {
        if backing.name.is_empty() || backing.name.len() > MAX_NAME {
            return Err(Error::usage(format!("a backing file's name has 1 to {MAX_NAME} bytes")));
        }
        ext.set(BACKING_FORMAT, Some(backing.format.driver().as_bytes().to_vec()));
        ext.backing = Some(backing.name.as_bytes().to_vec());
    }
    Ok(with_feature_names(ext, header))
}

/// `ext` with the names of the feature bits, where the version has them and they fit: they are a courtesy, and in the smallest
/// clusters a long backing name goes before them.
pub(super) fn with_feature_names(ext: Extensions, header: &Header) -> Extensions {
    if header.version < 3 {
        return ext;
    }
    let names = FEATURE_NAMES.iter().flat_map(|(kind, bit, name)| {
        let mut row = vec![*kind, *bit];
        row.extend_from_slice(name.as_bytes());
        row.resize(48, 0);
        row
    });
    let mut with_names = ext.clone();
    with_names.set(FEATURES, Some(names.collect()));
    if with_names.encode(&mut header.clone()).is_ok() { with_names } else { ext }
}

/// Clusters of the first refcount table: enough for the image when it is full, within [`FIRST_TABLE`].
fn table_clusters(header: &Header) -> u64 {
    let cluster = header.cluster_size();
    let guest = if header.external_data() { 0 } else { header.size.div_ceil(cluster) };
    let tables = header.size.div_ceil(header.l2_span()) + (u64::from(header.l1_entries) * 8).div_ceil(cluster);
    let per_block = cluster * 8 / u64::from(header.refcount_bits());
    let blocks = (guest + tables + 4).div_ceil(per_block) + 1;
    let blocks = blocks + blocks.div_ceil(per_block);
    (blocks * 8).div_ceil(cluster).clamp(1, (FIRST_TABLE / cluster).max(1))
}

impl Shared {
    /// Writes the first structures, the header last, and reserves what was asked for.
    fn begin(&self, first: Vec<u8>, old_len: u64, preallocation: Preallocation) -> Result<()> {
        let mut s = self.lock();
        s.alloc.refs.write_unreachable(self.dev.as_ref())?;
        s.alloc.refs.linked();
        self.barrier(&mut s, &self.dev)?;
        s.header.reftable_offset = s.alloc.refs.table_offset;
        s.header.reftable_clusters = s.alloc.refs.table_clusters() as u32;
        let mut cluster = first;
        let mut whole = s.header.encode();
        whole.extend_from_slice(cluster.get(whole.len()..).unwrap_or_default());
        cluster = whole;
        cluster.resize(self.geometry.cluster() as usize, 0);
        self.dev.write_at(0, &cluster)?;
        self.barrier(&mut s, &self.dev)?;
        s.untouched = false;
        if preallocation == Preallocation::Off {
            return Ok(());
        }
        // Subclusters get their place and stay unallocated, so that what is below shows through.
        self.reserve_from(&mut s, 0, old_len, preallocation, 0)?;
        self.flush(&mut s)
    }

    /// Reserves what a disk grew by, from guest byte `from` on: it reads as zeros, and goes on doing so.
    pub fn preallocate(&self, from: u64, how: Preallocation) -> Result<()> {
        if how == Preallocation::Off {
            return Ok(());
        }
        let mut s = self.change()?;
        let (cluster, size) = (self.geometry.cluster(), self.size());
        // The cluster the disk ended in is filled up from what it holds.
        let edge = from.next_multiple_of(cluster).min(size);
        if from < edge && self.data.is_none() {
            self.write_part(&mut s, from, &vec![0; (edge - from) as usize])?;
        }
        let old_len = self.dev.len();
        self.reserve_from(&mut s, edge, old_len, how, ALL_ZERO)?;
        self.flush(&mut s)
    }

    /// Gives every cluster from guest byte `from` on its place; subclusters are as `bitmap` says. What lies in the file before
    /// `old_len` may hold something.
    fn reserve_from(&self, s: &mut State, from: u64, old_len: u64, how: Preallocation, bitmap: u64) -> Result<()> {
        let g = self.geometry;
        let size = self.size();
        if let Some(data) = &self.data {
            return self.reserve_external(s, data, from, how, bitmap);
        }
        let mut at = from;
        while at < size {
            let left = (g.l2_span() - at % g.l2_span()).min((size - at).next_multiple_of(g.cluster())) >> g.cluster_bits;
            // The table first, so that it does not part the run.
            self.table_mut(s, at / g.l2_span())?;
            let (host, clusters) = s.alloc.data_run(left)?;
            let len = clusters << g.cluster_bits;
            reserve(self.dev.as_ref(), host, len, old_len, how)?;
            for i in 0..clusters {
                let step = i << g.cluster_bits;
                self.link(s, at + step, host + step, bitmap)?;
            }
            self.relieve(s)?;
            at += len;
        }
        Ok(())
    }

    fn reserve_external(&self, s: &mut State, data: &WriteDevice, from: u64, how: Preallocation, bitmap: u64) -> Result<()> {
        let size = self.size();
        data.set_len(size)?;
        reserve(data.as_ref(), from, size - from, 0, how)?;
        let bitmap = if s.header.raw_external() { 0xffff_ffff } else { bitmap };
        for at in (from..size).step_by(self.geometry.cluster() as usize) {
            self.link(s, at, at, bitmap)?;
            self.relieve(s)?;
        }
        Ok(())
    }
}

/// Makes `len` bytes at `offset` part of the file, reading as zeros; what lies before `old_len` may hold something.
fn reserve(dev: &dyn crate::engine::io::WriteAt, offset: u64, len: u64, old_len: u64, how: Preallocation) -> Result<()> {
    if offset < old_len {
        dev.write_zeroes(offset, len)?;
    } else if dev.len() < offset + len {
        dev.set_len(offset + len)?;
    }
    match how {
        Preallocation::Off | Preallocation::Metadata => Ok(()),
        Preallocation::Falloc => dev.allocate(offset, len),
        Preallocation::Full => {
            let zeros = vec![0; len.min(MIB) as usize];
            let mut at = 0;
            while at < len {
                let n = (len - at).min(MIB);
                dev.write_at(offset + at, zeros.get(..n as usize).unwrap_or_default())?;
                at += n;
            }
            Ok(())
        }
    }
}
