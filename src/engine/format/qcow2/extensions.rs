//! Header extensions: the list between the header and the backing name. Known ones are read, unknown ones kept byte for byte.
//! Specification: "Header extensions".

use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::io::bytes::{be32, be64, until_nul};
use crate::engine::io::{Device, read_up_to};
use crate::engine::limits::{MAX_BITMAPS, MAX_NAME};

use super::header::Header;

/// End of the list.
pub const END: u32 = 0;
/// Format of the backing file, as text.
pub const BACKING_FORMAT: u32 = 0xe279_2aca;
/// Names of feature bits.
pub const FEATURES: u32 = 0x6803_f857;
/// Where the bitmap directory is.
pub const BITMAPS: u32 = 0x2385_2875;
/// Where the LUKS header is.
pub const CRYPTO: u32 = 0x0537_be77;
/// Name of the external data file.
pub const DATA_FILE: u32 = 0x4441_5441;

/// One extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    /// What it is.
    pub id: u32,
    /// Its bytes, without the padding.
    pub data: Vec<u8>,
}

/// The first cluster behind the fixed header: extensions in their order, and the backing name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extensions {
    /// In the order they stand.
    pub list: Vec<Extension>,
    /// The backing file's name, exactly as stored.
    pub backing: Option<Vec<u8>>,
}

/// The bitmaps extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BitmapsExtension {
    /// How many bitmaps.
    pub count: u32,
    /// Bytes of the directory.
    pub directory_size: u64,
    /// Byte offset of the directory.
    pub directory_offset: u64,
}

/// Reads the header and what follows it in the first cluster.
///
/// Errors: what [`Header::parse`] refuses, an extension that leaves the first cluster, a name that is too long.
pub fn read_head(dev: &Device) -> Result<(Header, Extensions)> {
    read_head_with(dev, Header::parse)
}

/// The same, where `parse` reads the header.
pub fn read_head_with(dev: &Device, parse: fn(&[u8]) -> Result<Header>) -> Result<(Header, Extensions)> {
    // Nearly every image keeps all of it in the first 4 KiB; only then is one read enough.
    let first = read_up_to(dev.as_ref(), 0, 4096)?;
    let header = parse(&first)?;
    match Extensions::parse(&header, &first) {
        Err(e) if e.kind() == ErrorKind::Truncated && header.cluster_size() > 4096 => {
            let all = read_up_to(dev.as_ref(), 0, header.cluster_size() as usize)?;
            let header = parse(&all)?;
            let ext = Extensions::parse(&header, &all)?;
            Ok((header, ext))
        }
        other => Ok((header, other?)),
    }
}

impl Extensions {
    /// Reads them from `cluster`, the beginning of the file.
    pub fn parse(header: &Header, cluster: &[u8]) -> Result<Extensions> {
        let place = |e: Error, at: usize| e.op("read the header extensions").at(at as u64);
        let short = |at| place(Error::new(ErrorKind::Truncated, "the file ends within the header extensions"), at);
        let limit = if header.backing_offset != 0 { header.backing_offset } else { header.cluster_size() } as usize;
        let mut out = Extensions::default();
        let mut at = header.header_length as usize;
        // Each turn moves on by at least 8 bytes within one cluster.
        while at.saturating_add(8) <= limit {
            let id = be32(cluster, at).ok_or_else(|| short(at))?;
            if id == END {
                break;
            }
            let len = be32(cluster, at + 4).ok_or_else(|| short(at))? as usize;
            let end = (at + 8).saturating_add(len);
            if end > limit {
                return Err(place(Error::corrupt(format!("header extension {id:#010x} of {len} bytes is too large")), at));
            }
            let data = cluster.get(at + 8..end).ok_or_else(|| short(at))?.to_vec();
            out.list.push(Extension { id, data });
            at = end.next_multiple_of(8);
        }
        if header.backing_offset != 0 && header.backing_len > 0 {
            let from = header.backing_offset as usize;
            let name = cluster.get(from..from + header.backing_len as usize).ok_or_else(|| short(from))?;
            out.backing = Some(name.to_vec());
        }
        if let Some(long) = out.list.iter().find(|e| matches!(e.id, BACKING_FORMAT | DATA_FILE) && e.data.len() > MAX_NAME) {
            return Err(place(Error::corrupt(format!("header extension {:#010x} holds a name that is too long", long.id)), at));
        }
        Ok(out)
    }

    /// The bytes of the extension `id`.
    pub fn get(&self, id: u32) -> Option<&[u8]> {
        self.list.iter().find(|e| e.id == id).map(|e| e.data.as_slice())
    }

    /// A text extension.
    fn text(&self, id: u32) -> Option<String> {
        self.get(id).map(|b| String::from_utf8_lossy(until_nul(b)).into_owned()).filter(|s| !s.is_empty())
    }

    /// The backing file's name as text.
    pub fn backing_name(&self) -> Option<String> {
        self.backing.as_deref().map(|b| String::from_utf8_lossy(b).into_owned())
    }

    /// The backing file's format.
    pub fn backing_format(&self) -> Option<String> {
        self.text(BACKING_FORMAT)
    }

    /// The external data file's name.
    pub fn data_file(&self) -> Option<String> {
        self.text(DATA_FILE)
    }

    /// The name the image gives to a feature bit (type 0 incompatible, 1 compatible, 2 autoclear).
    pub fn feature_name(&self, kind: u8, bit: u8) -> Option<String> {
        let table = self.get(FEATURES)?;
        let (rows, _) = table.as_chunks::<48>();
        rows.iter().find(|r| r[0] == kind && r[1] == bit).map(|r| String::from_utf8_lossy(until_nul(&r[2..])).into_owned())
    }

    /// Offset and length of the LUKS header in the file.
    pub fn crypto_header(&self) -> Option<(u64, u64)> {
        let b = self.get(CRYPTO)?;
        Some((be64(b, 0)?, be64(b, 8)?))
    }

    /// The bitmaps extension, checked.
    pub fn bitmaps(&self, header: &Header) -> Result<Option<BitmapsExtension>> {
        let Some(b) = self.get(BITMAPS) else { return Ok(None) };
        let bad = |why: &str| Error::corrupt(format!("the bitmaps extension {why}")).op("read the header extensions");
        let (Some(count), Some(directory_size), Some(directory_offset)) = (be32(b, 0), be64(b, 8), be64(b, 16)) else {
            return Err(bad("is cut short"));
        };
        if count == 0 || count > MAX_BITMAPS {
            return Err(bad(&format!("claims {count} bitmaps")));
        }
        if directory_offset & (header.cluster_size() - 1) != 0 {
            return Err(bad(&format!("points to {directory_offset:#x}, which does not begin a cluster")));
        }
        if directory_size < u64::from(count) * 24 || directory_size > u64::from(MAX_BITMAPS) * 1024 {
            return Err(bad(&format!("claims a directory of {directory_size} bytes for {count} bitmaps")));
        }
        Ok(Some(BitmapsExtension { count, directory_size, directory_offset }))
    }

    /// Replaces the extension `id` (`None` removes it), keeping the order of the others.
    pub fn set(&mut self, id: u32, data: Option<Vec<u8>>) {
        match (self.list.iter().position(|e| e.id == id), data) {
            (Some(i), None) => drop(self.list.remove(i)),
            (Some(i), Some(data)) => {
                if let Some(e) = self.list.get_mut(i) {
                    e.data = data;
                }
            }
            (None, Some(data)) => self.list.push(Extension { id, data }),
            (None, None) => {}
        }
    }

    /// The first bytes of the file: `header`, these extensions and the backing name, which is placed behind them (the header's
    /// two fields for it are set). Padded with zeros to a multiple of 8.
    ///
    /// Errors: it does not fit in one cluster.
    pub fn encode(&self, header: &mut Header) -> Result<Vec<u8>> {
        let mut tail = Vec::new();
        for e in &self.list {
            let len = u32::try_from(e.data.len()).map_err(|_| Error::usage("a header extension is too long"))?;
            tail.extend_from_slice(&e.id.to_be_bytes());
            tail.extend_from_slice(&len.to_be_bytes());
            tail.extend_from_slice(&e.data);
            tail.resize(tail.len().next_multiple_of(8), 0);
        }
        tail.extend_from_slice(&[0; 8]);
        header.backing_offset = 0;
        header.backing_len = 0;
        if let Some(name) = &self.backing {
            header.backing_offset = u64::from(header.header_length) + tail.len() as u64;
            header.backing_len = name.len() as u32;
            tail.extend_from_slice(name);
            tail.resize(tail.len().next_multiple_of(8), 0);
        }
        let mut out = header.encode();
        out.extend_from_slice(&tail);
        if out.len() as u64 > header.cluster_size() {
            return Err(Error::usage("the header, its extensions and the backing file's name do not fit in one cluster")
                .hint("use larger clusters or a shorter name"));
        }
        Ok(out)
    }
}
