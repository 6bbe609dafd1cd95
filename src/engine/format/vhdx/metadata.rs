//! The VHDX metadata region (MS-VHDX 2.6): block and sector sizes, the disk's size and identity, and the parent locator.

use uuid::{Uuid, uuid};

use super::header::guid;
use super::regions::Region;
use crate::engine::error::{Error, Result};
use crate::engine::format::windows::{add_names, local_names, to_utf16, utf16};
use crate::engine::io::bytes::{le16, le32, le64, put, put_le16, put_le32};
use crate::engine::io::{ReadAt, read_vec, with_path};
use crate::engine::units::{KIB, MIB, TIB};

/// Bytes of the table at the region's start; the items follow.
const TABLE: u64 = 64 * KIB;
const MAX_ENTRIES: u16 = 2047;
/// Bytes of one item, at most.
const MAX_ITEM: u64 = MIB;
/// The largest disk.
pub const MAX_SIZE: u64 = 64 * TIB;

const FILE_PARAMETERS: Uuid = uuid!("caa16737-fa36-4d43-b3b6-33f0aa44e76b");
const DISK_SIZE: Uuid = uuid!("2fa54224-cd1b-4876-b211-5dbed83bf4b8");
const DISK_ID: Uuid = uuid!("beca12ab-b2e6-4523-93ef-c309e000c746");
const LOGICAL_SECTOR: Uuid = uuid!("8141bf1d-a96f-4709-ba47-f233a8faab5f");
const PHYSICAL_SECTOR: Uuid = uuid!("cda348c7-445d-4471-9cc9-e9885251c556");
const PARENT_LOCATOR: Uuid = uuid!("a8d35f2d-b30b-454d-abf7-d3d84834ab0c");
/// The only kind of parent locator there is: keys and values for another VHDX.
const VHDX_PARENT: Uuid = uuid!("b04aefb7-d19e-4a81-b789-25b8e9445913");

/// What the metadata says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Bytes of a payload block, a power of two from 1 to 256 MiB.
    pub block_size: u64,
    /// Blocks stay allocated: a fixed disk.
    pub leave_allocated: bool,
    /// It stands on a parent.
    pub has_parent: bool,
    /// Virtual size in bytes.
    pub size: u64,
    /// Identity of the disk as a guest sees it (SCSI page 83).
    pub disk_id: Option<Uuid>,
    /// Bytes of a logical sector: 512 or 4096.
    pub sector: u64,
    /// Bytes of a physical sector as told to the guest.
    pub physical_sector: u64,
    /// Keys and values of the parent locator, in the order they stand there.
    pub parent: Vec<(String, String)>,
}

impl Metadata {
    /// Reads and checks the region.
    ///
    /// Errors: a missing item, values that are not possible (`Corrupt`); an item that must be understood and is not
    /// (`Unsupported`).
    pub fn read(dev: &dyn ReadAt, region: Region) -> Result<Metadata> {
        let place = |e: Error| with_path(e.op("read VHDX metadata").at(region.at), dev);
        let table = read_vec(dev, region.at, TABLE.min(region.len), TABLE)?;
        let items = items(&table, region).map_err(place)?;
        let find = |id: Uuid, name: &str, bytes: u64| -> Result<Vec<u8>> {
            match items.iter().find(|i| i.id == id) {
                Some(i) if i.len >= bytes => read_vec(dev, region.at + i.at, i.len, MAX_ITEM),
                Some(i) => Err(place(Error::corrupt(format!("its {name} has only {} bytes", i.len)))),
                None => Err(place(Error::corrupt(format!("it has no {name}")))),
            }
        };
        let parameters = find(FILE_PARAMETERS, "file parameters", 8)?;
        let flags = le32(&parameters, 4).unwrap_or_default();
        let has_parent = flags & 2 != 0;
        let parent = if has_parent { locator(&find(PARENT_LOCATOR, "parent locator", 20)?).map_err(place)? } else { Vec::new() };
        let metadata = Metadata {
            block_size: le32(&parameters, 0).unwrap_or_default().into(),
            leave_allocated: flags & 1 != 0,
            has_parent,
            size: le64(&find(DISK_SIZE, "disk size", 8)?, 0).unwrap_or_default(),
            disk_id: find(DISK_ID, "disk id", 16).ok().and_then(|b| guid(&b, 0)),
            sector: le32(&find(LOGICAL_SECTOR, "logical sector size", 4)?, 0).unwrap_or_default().into(),
            physical_sector: find(PHYSICAL_SECTOR, "physical sector size", 4)
                .ok()
                .and_then(|b| le32(&b, 0))
                .unwrap_or(512)
                .into(),
            parent,
        };
        metadata.check().map_err(place)?;
        Ok(metadata)
    }

    fn check(&self) -> Result<()> {
        if !self.block_size.is_power_of_two() || !(MIB..=256 * MIB).contains(&self.block_size) {
            return Err(Error::corrupt(format!("a block size of {} bytes is not possible", self.block_size)));
        }
        if self.sector != 512 && self.sector != 4096 {
            return Err(Error::corrupt(format!("a sector size of {} bytes is not possible", self.sector)));
        }
        if self.size > MAX_SIZE || !self.size.is_multiple_of(self.sector) {
            return Err(Error::corrupt(format!("a disk of {} bytes is not possible", self.size)));
        }
        Ok(())
    }

    /// Payload blocks of the disk.
    pub fn blocks(&self) -> u64 {
        self.size.div_ceil(self.block_size)
    }

    /// Payload blocks that share a sector bitmap block (MS-VHDX 2.5): its 2^23 bits are one per sector.
    pub fn chunk_ratio(&self) -> u64 {
        ((self.sector << 23) / self.block_size.max(1)).max(1)
    }

    /// Entries the BAT needs.
    pub fn bat_entries(&self) -> u64 {
        let (blocks, ratio) = (self.blocks(), self.chunk_ratio());
        if self.has_parent { blocks.div_ceil(ratio) * (ratio + 1) } else { blocks + blocks.saturating_sub(1) / ratio }
    }

    /// The value of the parent locator's `key`.
    fn parent_value(&self, key: &str) -> Option<&str> {
        self.parent.iter().find(|(k, _)| k.eq_ignore_ascii_case(key)).map(|(_, v)| v.as_str())
    }

    /// Data-write GUIDs the parent may have.
    pub fn parent_ids(&self) -> Vec<Uuid> {
        let parse = |v: &str| Uuid::parse_str(v.trim_matches(['{', '}', ' '])).ok();
        ["parent_linkage", "parent_linkage2"]
            .iter()
            .filter_map(|k| parse(self.parent_value(k)?))
            .filter(|u| !u.is_nil())
            .collect()
    }

    /// Every name the parent may be found by here, best first.
    pub fn parent_names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for key in ["relative_path", "volume_path", "absolute_win32_path"] {
            if let Some(path) = self.parent_value(key) {
                add_names(&mut names, local_names(path));
            }
        }
        names
    }

    /// The bytes of a metadata region (its first MiB) saying this.
    pub fn encode(&self) -> Vec<u8> {
        let mut b = vec![0u8; MIB as usize];
        let flags = u32::from(self.leave_allocated) | u32::from(self.has_parent) << 1;
        let mut items: Vec<(Uuid, u32, Vec<u8>)> = vec![
            (FILE_PARAMETERS, 4, [(self.block_size as u32).to_le_bytes(), flags.to_le_bytes()].concat()),
            (DISK_SIZE, 6, self.size.to_le_bytes().to_vec()),
            (DISK_ID, 6, self.disk_id.unwrap_or_default().to_bytes_le().to_vec()),
            (LOGICAL_SECTOR, 6, (self.sector as u32).to_le_bytes().to_vec()),
            (PHYSICAL_SECTOR, 6, (self.physical_sector as u32).to_le_bytes().to_vec()),
        ];
        if self.has_parent {
            items.push((PARENT_LOCATOR, 4, encode_locator(&self.parent)));
        }
        let mut ok = put(&mut b, 0, b"metadata") && put_le16(&mut b, 10, items.len() as u16);
        let mut at = TABLE as usize;
        for (n, (id, flags, bytes)) in items.iter().enumerate() {
            let o = 32 + n * 32;
            ok &= put(&mut b, o, &id.to_bytes_le())
                && put_le32(&mut b, o + 16, at as u32)
                && put_le32(&mut b, o + 20, bytes.len() as u32)
                && put_le32(&mut b, o + 24, *flags)
                && put(&mut b, at, bytes);
            at += bytes.len().next_multiple_of(8);
        }
        debug_assert!(ok, "names of a parent are short enough for one MiB");
        b
    }

    /// Byte, within the region, of the disk size in a region made like this one; found in the table at `dev`.
    pub fn size_at(dev: &dyn ReadAt, region: Region) -> Result<u64> {
        let table = read_vec(dev, region.at, TABLE.min(region.len), TABLE)?;
        let items = items(&table, region)?;
        items.iter().find(|i| i.id == DISK_SIZE).map(|i| i.at).ok_or_else(|| Error::corrupt("it has no disk size"))
    }
}

struct Item {
    id: Uuid,
    at: u64,
    len: u64,
}

/// The entries of the metadata table, each within the region.
fn items(table: &[u8], region: Region) -> Result<Vec<Item>> {
    let short = || Error::corrupt("the metadata table is too short");
    if table.get(..8) != Some(b"metadata") {
        return Err(Error::corrupt("there is no metadata table where the region table says"));
    }
    let count = le16(table, 10).ok_or_else(short)?;
    if count > MAX_ENTRIES {
        return Err(Error::corrupt(format!("{count} metadata items are more than the {MAX_ENTRIES} there can be")));
    }
    let mut all: Vec<Item> = Vec::new();
    for n in 0..usize::from(count) {
        let o = 32 + n * 32;
        let id = guid(table, o).ok_or_else(short)?;
        let at = u64::from(le32(table, o + 16).ok_or_else(short)?);
        let len = u64::from(le32(table, o + 20).ok_or_else(short)?);
        let flags = le32(table, o + 24).ok_or_else(short)?;
        let known = [FILE_PARAMETERS, DISK_SIZE, DISK_ID, LOGICAL_SECTOR, PHYSICAL_SECTOR, PARENT_LOCATOR].contains(&id)
            && flags & 1 == 0;
        if !known && flags & 4 != 0 {
            return Err(Error::unsupported(format!("it needs a metadata item ({id}) that cowshed does not know")));
        }
        if len > MAX_ITEM || (len > 0 && (at < TABLE || at + len > region.len)) {
            return Err(Error::corrupt(format!("metadata item {id} ({len} bytes at {at:#x}) lies outside its region")));
        }
        if known {
            if all.iter().any(|i| i.id == id) {
                return Err(Error::corrupt(format!("metadata item {id} is there twice")));
            }
            all.push(Item { id, at, len });
        }
    }
    Ok(all)
}

/// Keys and values of the parent locator in `b`.
fn locator(b: &[u8]) -> Result<Vec<(String, String)>> {
    let bad = || Error::corrupt("the parent locator is damaged");
    let kind = guid(b, 0).ok_or_else(bad)?;
    if kind != VHDX_PARENT {
        return Err(Error::unsupported(format!("its parent locator is of a kind ({kind}) that cowshed does not know")));
    }
    let count = le16(b, 18).ok_or_else(bad)?;
    // Entries that all point at the same long text must not add up to more than the item itself holds.
    let mut budget = b.len();
    let mut all = Vec::new();
    for n in 0..usize::from(count) {
        let o = 20 + n * 12;
        let (key_at, value_at) = (le32(b, o).ok_or_else(bad)? as usize, le32(b, o + 4).ok_or_else(bad)? as usize);
        let (key_len, value_len) = (usize::from(le16(b, o + 8).ok_or_else(bad)?), usize::from(le16(b, o + 10).ok_or_else(bad)?));
        budget = budget.checked_sub(key_len + value_len).ok_or_else(bad)?;
        let text = |at: usize, len: usize| Some(utf16(b.get(at..at.checked_add(len)?)?, false));
        all.push((text(key_at, key_len).ok_or_else(bad)?, text(value_at, value_len).ok_or_else(bad)?));
    }
    Ok(all)
}

fn encode_locator(pairs: &[(String, String)]) -> Vec<u8> {
    let mut b = vec![0u8; 20 + pairs.len() * 12];
    let mut ok = put(&mut b, 0, &VHDX_PARENT.to_bytes_le()) && put_le16(&mut b, 18, pairs.len() as u16);
    for (n, (key, value)) in pairs.iter().enumerate() {
        let o = 20 + n * 12;
        for (i, text) in [key, value].into_iter().enumerate() {
            let bytes = to_utf16(text, false);
            let at = b.len() as u32;
            ok &= put_le32(&mut b, o + i * 4, at) && put_le16(&mut b, o + 8 + i * 2, bytes.len() as u16);
            b.extend(bytes);
        }
    }
    debug_assert!(ok, "every field was made room for");
    b
}
