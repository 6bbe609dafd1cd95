//! The qcow2 header: fields, feature bits, geometry limits; read from and written to bytes. Knows nothing of what the fields
//! point to. Specification: "Header".

use crate::engine::error::{Error, Result};
use crate::engine::io::bytes::{be32, be64, put, put_be32, put_be64};
use crate::engine::limits::{MAX_L1_BYTES, MAX_NAME, MAX_REFTABLE_BYTES, MAX_SNAPSHOTS};

/// `QFI\xfb`, shared with qcow version 1.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Bytes of a version 2 header.
pub const V2_LENGTH: u32 = 72;
/// Bytes of the shortest version 3 header.
pub const V3_LENGTH: u32 = 104;

/// Incompatible feature: refcounts may be stale.
pub const DIRTY: u64 = 1;
/// Incompatible feature: structures are damaged.
pub const CORRUPT: u64 = 1 << 1;
/// Incompatible feature: guest data is in another file.
pub const EXTERNAL_DATA: u64 = 1 << 2;
/// Incompatible feature: the compression type field counts.
pub const COMPRESSION: u64 = 1 << 3;
/// Incompatible feature: L2 entries of 16 bytes with subclusters.
pub const EXTENDED_L2: u64 = 1 << 4;
/// Every incompatible feature cowshed knows.
pub const KNOWN_INCOMPATIBLE: u64 = DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION | EXTENDED_L2;
/// Compatible feature: refcounts are brought up to date late.
pub const LAZY_REFCOUNTS: u64 = 1;
/// Autoclear feature: the bitmaps extension is consistent.
pub const BITMAPS: u64 = 1;
/// Autoclear feature: the external data file is a raw disk by itself.
pub const RAW_EXTERNAL: u64 = 1 << 1;

/// How clusters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Raw deflate.
    #[default]
    Zlib,
    /// Zstandard frames.
    Zstd,
}

impl Compression {
    /// As `-o compression_type` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Compression::Zlib => "zlib",
            Compression::Zstd => "zstd",
        }
    }
}

/// The fields of a header, in either version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// Byte offset of the backing name; 0 is none.
    pub backing_offset: u64,
    /// Bytes of the backing name.
    pub backing_len: u32,
    /// Bytes of a cluster, as a power of two; 9 to 21.
    pub cluster_bits: u32,
    /// Virtual size in bytes.
    pub size: u64,
    /// 0 none, 1 AES, 2 LUKS.
    pub crypt_method: u32,
    /// Entries of the active L1 table.
    pub l1_entries: u32,
    /// Byte offset of the active L1 table.
    pub l1_offset: u64,
    /// Byte offset of the refcount table.
    pub reftable_offset: u64,
    /// Clusters of the refcount table.
    pub reftable_clusters: u32,
    /// Internal snapshots.
    pub snapshots: u32,
    /// Byte offset of the snapshot table.
    pub snapshots_offset: u64,
    /// Features a reader must know.
    pub incompatible: u64,
    /// Features a reader may ignore.
    pub compatible: u64,
    /// Features a writer that does not know them must clear.
    pub autoclear: u64,
    /// Bits of a refcount, as a power of two; 0 to 6.
    pub refcount_order: u32,
    /// Bytes of the header.
    pub header_length: u32,
    /// How clusters are compressed.
    pub compression: Compression,
    /// Header bytes past those known here (from 112 on), kept when the header is written again.
    pub rest: Vec<u8>,
}

impl Header {
    /// Reads a header from the first bytes of a file and checks every field that stands for itself.
    ///
    /// Errors: not qcow2, cut short, or a field out of its range. Unknown incompatible features are not refused here: their
    /// names are in an extension.
    pub fn parse(b: &[u8]) -> Result<Header> {
        let h = Header::parse_damaged(b)?;
        h.check_snapshots()?;
        Ok(h)
    }

    /// The same, but a snapshot table may be anywhere, and of any length: for a check, which tells what there is of it.
    pub fn parse_damaged(b: &[u8]) -> Result<Header> {
        let bad = |at: u64, why: String| Err(Error::corrupt(why).op("read the qcow2 header").at(at));
        if b.get(..4) != Some(&MAGIC[..]) {
            return bad(0, "it does not begin with QFI\\xfb".into());
        }
        let version = word(b, 4)?;
        if version != 2 && version != 3 {
            return Err(Error::unsupported(format!("qcow2 version {version} is not known")).op("read the qcow2 header").at(4));
        }
        let mut h = Header {
            version,
            backing_offset: long(b, 8)?,
            backing_len: word(b, 16)?,
            cluster_bits: word(b, 20)?,
            size: long(b, 24)?,
            crypt_method: word(b, 32)?,
            l1_entries: word(b, 36)?,
            l1_offset: long(b, 40)?,
            reftable_offset: long(b, 48)?,
            reftable_clusters: word(b, 56)?,
            snapshots: word(b, 60)?,
            snapshots_offset: long(b, 64)?,
            incompatible: 0,
            compatible: 0,
            autoclear: 0,
            refcount_order: 4,
            header_length: V2_LENGTH,
            compression: Compression::Zlib,
            rest: Vec::new(),
        };
        if !(9..=21).contains(&h.cluster_bits) {
            return bad(20, format!("cluster_bits is {}, and it must be 9 to 21", h.cluster_bits));
        }
        if version >= 3 {
            h.incompatible = long(b, 72)?;
            h.compatible = long(b, 80)?;
            h.autoclear = long(b, 88)?;
            h.refcount_order = word(b, 96)?;
            h.header_length = word(b, 100)?;
            if h.header_length < V3_LENGTH || u64::from(h.header_length) > h.cluster_size() {
                return bad(100, format!("header_length is {}, outside {V3_LENGTH} to one cluster", h.header_length));
            }
            h.parse_additional(b)?;
        }
        h.check()?;
        Ok(h)
    }

    /// The fields after byte 104, which may be there or not.
    fn parse_additional(&mut self, b: &[u8]) -> Result<()> {
        let end = self.header_length as usize;
        let kind = if end > 104 { *b.get(104).ok_or_else(short)? } else { 0 };
        self.compression = match kind {
            0 => Compression::Zlib,
            1 => Compression::Zstd,
            n => {
                return Err(Error::unsupported(format!("compression type {n} is not known"))
                    .op("read the qcow2 header")
                    .at(104)
                    .hint("a newer QEMU made it; convert it there to zlib or zstd"));
            }
        };
        if (self.incompatible & COMPRESSION != 0) != (self.compression != Compression::Zlib) {
            return Err(Error::corrupt("the compression type and its feature bit contradict each other")
                .op("read the qcow2 header")
                .at(104));
        }
        if end > 112 {
            self.rest = b.get(112..end).ok_or_else(short)?.to_vec();
        }
        Ok(())
    }

    /// Ranges of fields, as the specification and QEMU's caps have them.
    fn check(&self) -> Result<()> {
        let bad = |at: u64, why: String| Err(Error::corrupt(why).op("read the qcow2 header").at(at));
        if self.refcount_order > 6 {
            return bad(96, format!("refcount_order is {}, and it must be 0 to 6", self.refcount_order));
        }
        if self.incompatible & EXTENDED_L2 != 0 && self.cluster_bits < 14 {
            return bad(20, "extended L2 entries need clusters of at least 16 KiB".into());
        }
        if self.crypt_method > 2 {
            return Err(Error::unsupported(format!("encryption method {} is not known", self.crypt_method))
                .op("read the qcow2 header")
                .at(32));
        }
        if self.backing_offset != 0 {
            let end = self.backing_offset.saturating_add(u64::from(self.backing_len));
            if self.backing_len as usize > MAX_NAME || end > self.cluster_size() {
                return bad(8, "the backing file's name does not lie in the first cluster, or is longer than 1023 bytes".into());
            }
        }
        if u64::from(self.l1_entries) * 8 > MAX_L1_BYTES {
            return bad(36, format!("the L1 table has {} entries, more than 32 MiB", self.l1_entries));
        }
        if u64::from(self.reftable_clusters) << self.cluster_bits > MAX_REFTABLE_BYTES {
            return bad(56, format!("the refcount table has {} clusters, more than 8 MiB", self.reftable_clusters));
        }
        let needed = self.size.div_ceil(self.l2_span());
        if needed > u64::from(self.l1_entries) {
            return bad(36, format!("the L1 table has {} entries, and the size needs {needed}", self.l1_entries));
        }
        for (at, offset, what, used) in
            [(40, self.l1_offset, "L1 table", self.l1_entries > 0), (48, self.reftable_offset, "refcount table", true)]
        {
            if used && offset & (self.cluster_size() - 1) != 0 {
                return bad(at, format!("the {what} at {offset:#x} does not begin on a cluster"));
            }
        }
        Ok(())
    }

    /// The fields of the snapshot table.
    fn check_snapshots(&self) -> Result<()> {
        let bad = |at: u64, why: String| Err(Error::corrupt(why).op("read the qcow2 header").at(at));
        if self.snapshots > MAX_SNAPSHOTS {
            return bad(60, format!("{} snapshots are claimed, more than {MAX_SNAPSHOTS}", self.snapshots));
        }
        let offset = self.snapshots_offset;
        if self.snapshots > 0 && offset & (self.cluster_size() - 1) != 0 {
            return bad(64, format!("the snapshot table at {offset:#x} does not begin on a cluster"));
        }
        Ok(())
    }

    /// Bytes of a cluster.
    pub fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }
    /// True with subclusters.
    pub fn extended_l2(&self) -> bool {
        self.incompatible & EXTENDED_L2 != 0
    }
    /// True when guest data is in another file.
    pub fn external_data(&self) -> bool {
        self.incompatible & EXTERNAL_DATA != 0
    }
    /// True when the external data file must stay a raw disk by itself.
    pub fn raw_external(&self) -> bool {
        self.external_data() && self.autoclear & RAW_EXTERNAL != 0
    }
    /// Bits of a refcount.
    pub fn refcount_bits(&self) -> u32 {
        1 << self.refcount_order
    }
    /// Guest bytes one L2 table covers.
    pub fn l2_span(&self) -> u64 {
        let entry_bits = if self.extended_l2() { 4 } else { 3 };
        1 << (2 * self.cluster_bits - entry_bits)
    }

    /// The header as bytes, `header_length` long (unknown fields kept as they were).
    pub fn encode(&self) -> Vec<u8> {
        let mut b = vec![0u8; self.header_length.max(V2_LENGTH) as usize];
        let mut ok = put(&mut b, 0, &MAGIC);
        for (at, v) in [
            (4, self.version),
            (16, self.backing_len),
            (20, self.cluster_bits),
            (32, self.crypt_method),
            (36, self.l1_entries),
            (56, self.reftable_clusters),
            (60, self.snapshots),
        ] {
            ok &= put_be32(&mut b, at, v);
        }
        for (at, v) in [
            (8, self.backing_offset),
            (24, self.size),
            (40, self.l1_offset),
            (48, self.reftable_offset),
            (64, self.snapshots_offset),
        ] {
            ok &= put_be64(&mut b, at, v);
        }
        if self.version >= 3 {
            ok &= put_be64(&mut b, 72, self.incompatible)
                & put_be64(&mut b, 80, self.compatible)
                & put_be64(&mut b, 88, self.autoclear)
                & put_be32(&mut b, 96, self.refcount_order)
                & put_be32(&mut b, 100, self.header_length);
            if let Some(kind) = b.get_mut(104) {
                *kind = self.compression as u8;
            }
            ok &= self.rest.is_empty() || put(&mut b, 112, &self.rest);
        }
        debug_assert!(ok, "the buffer is at least as long as the fields");
        b
    }
}

fn short() -> Error {
    Error::new(crate::engine::error::ErrorKind::Truncated, "the file ends within the header").op("read the qcow2 header")
}
fn word(b: &[u8], at: usize) -> Result<u32> {
    be32(b, at).ok_or_else(short)
}
fn long(b: &[u8], at: usize) -> Result<u64> {
    be64(b, at).ok_or_else(short)
}

/// Names of the features cowshed knows, as QEMU spells them in its table: type (0 incompatible, 1 compatible, 2 autoclear), bit.
pub const FEATURE_NAMES: &[(u8, u8, &str)] = &[
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
];

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample() -> Header {
        Header {
            version: 3,
            backing_offset: 0x200,
            backing_len: 7,
            cluster_bits: 16,
            size: 1 << 30,
            crypt_method: 0,
            l1_entries: 2,
            l1_offset: 0x30000,
            reftable_offset: 0x10000,
            reftable_clusters: 1,
            snapshots: 0,
            snapshots_offset: 0,
            incompatible: COMPRESSION,
            compatible: LAZY_REFCOUNTS,
            autoclear: 1 << 40,
            refcount_order: 6,
            header_length: 120,
            compression: Compression::Zstd,
            rest: vec![1, 2, 3, 4, 5, 6, 7, 8],
        }
    }

    #[test]
    fn what_is_written_is_read_again_unknown_fields_included() {
        let h = sample();
        assert_eq!(Header::parse(&h.encode()).unwrap(), h);
        let v2 = Header {
            version: 2,
            incompatible: 0,
            compatible: 0,
            autoclear: 0,
            refcount_order: 4,
            header_length: 72,
            compression: Compression::Zlib,
            rest: Vec::new(),
            ..h
        };
        assert_eq!(Header::parse(&v2.encode()).unwrap(), v2);
    }

    #[test]
    fn every_length_is_an_error_or_the_header() {
        let whole = sample().encode();
        for n in 0..whole.len() {
            assert!(Header::parse(&whole[..n]).is_err(), "{n}");
        }
    }

    #[test]
    fn fields_out_of_range_are_named_with_their_place() {
        for (at, bytes, word) in [
            (20, &[0, 0, 0, 8][..], "cluster_bits"),
            (20, &[0, 0, 0, 22], "cluster_bits"),
            (20, &[0xff, 0xff, 0xff, 0xff], "cluster_bits"),
            (96, &[0, 0, 0, 7], "refcount_order"),
            (100, &[0, 0, 0, 80], "header_length"),
            (100, &[0xff, 0, 0, 0], "header_length"),
            (36, &[0, 0, 0, 1], "L1 table"),
            (36, &[0xff, 0xff, 0xff, 0xff], "L1 table"),
            (56, &[0xff, 0xff, 0xff, 0xff], "refcount table"),
            (60, &[0xff, 0xff, 0xff, 0xff], "snapshots"),
            (40, &[0, 0, 0, 0, 0, 3, 0, 1], "L1 table"),
            (24, &[0xff; 8], "L1 table"),
            (8, &[0, 0, 0, 0, 0xff, 0, 0, 0], "backing"),
            (104, &[0], "compression"),
        ] {
            let mut b = sample().encode();
            b[at..at + bytes.len()].copy_from_slice(bytes);
            let e = Header::parse(&b).unwrap_err();
            assert!(e.to_string().contains(word) && e.offset().is_some(), "{e}");
        }
    }
}
