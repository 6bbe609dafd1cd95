//! How large a new image would be: before converting (from a disk) or creating (from a size).

use super::map::Map;
use crate::engine::chain::Disk;
use crate::engine::error::{Error, Result};
use crate::engine::format::Format;
use crate::engine::format::write::CreateSpec;
use crate::engine::limits::MAX_L1_BYTES;
use crate::engine::model::Description;
use crate::engine::units::{KIB, SECTOR, round_up};

/// Sizes in bytes of an image that is not there yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// With the data there is now.
    pub required: u64,
    /// With every byte of the disk written.
    pub fully_allocated: u64,
    /// For the source's dirty bitmaps, where both sides can hold them.
    pub bitmaps: Option<u64>,
}

/// What is measured: a disk with what its image says of itself, or a size in bytes.
pub enum Subject<'a> {
    /// An image to convert.
    Disk(&'a Disk, &'a Description),
    /// A new, empty disk.
    Size(u64),
}

impl Subject<'_> {
    fn size(&self) -> u64 {
        match self {
            Subject::Disk(disk, _) => disk.size(),
            Subject::Size(size) => *size,
        }
    }
}

/// Measures an image of `format` with the options in `spec` (the others of its fields do not count).
///
/// Errors: a format other than raw and qcow2, options that do not go together, a size the format cannot have.
pub fn measure(subject: &Subject<'_>, format: Format, spec: &CreateSpec) -> Result<Measured> {
    match format {
        Format::Raw => {
            let size = round_up(subject.size(), SECTOR).ok_or_else(too_large)?;
            Ok(Measured { required: size, fully_allocated: size, bitmaps: None })
        }
        Format::Qcow2 => qcow2(subject, spec),
        other => Err(Error::unsupported(format!("the size of {other} images cannot be measured")).hint("raw and qcow2 can")),
    }
}

fn too_large() -> Error {
    Error::usage("the disk is too large for the image format").hint("try a larger cluster size")
}

/// The layout that decides how much metadata a qcow2 image needs.
struct Layout {
    cluster: u64,
    refcount_bits: u64,
    l2_entry: u64,
}

impl Layout {
    fn of(spec: &CreateSpec) -> Result<Self> {
        let cluster = spec.bytes("cluster_size", 64 * KIB)?;
        if !cluster.is_power_of_two() || !(512..=2048 * KIB).contains(&cluster) {
            return Err(Error::usage("cluster_size must be a power of two between 512 and 2M"));
        }
        let refcount_bits = spec.bytes("refcount_bits", 16)?;
        if !refcount_bits.is_power_of_two() || refcount_bits > 64 {
            return Err(Error::usage("refcount_bits must be 1, 2, 4, 8, 16, 32 or 64"));
        }
        let extended = spec.switch("extended_l2", false)?;
        if extended && cluster < 16 * KIB {
            return Err(Error::usage("extended_l2 needs clusters of at least 16k"));
        }
        Ok(Layout { cluster, refcount_bits, l2_entry: if extended { 16 } else { 8 } })
    }

    /// Bytes of an image with all of a disk of `size` bytes (whole clusters) allocated, without snapshots.
    fn full(&self, size: u64) -> Option<u64> {
        let c = self.cluster;
        let l2 = round_up((size / c).checked_mul(self.l2_entry)?, c)?;
        let l1 = round_up((l2 / c).checked_mul(8)?, c)?;
        if l1 > MAX_L1_BYTES {
            return None;
        }
        let counted = c.checked_add(l2)?.checked_add(l1)?.checked_add(size)?;
        // Refcount blocks and their table count themselves: add until nothing more is needed.
        let per_block = c * 8 / self.refcount_bits;
        let mut own = 0;
        loop {
            let blocks = (counted / c).checked_add(own)?.div_ceil(per_block);
            let needed = blocks.checked_add(blocks.div_ceil(c / 8))?;
            if needed <= own {
                return counted.checked_add(own.checked_mul(c)?);
            }
            own = needed;
        }
    }
}

fn qcow2(subject: &Subject<'_>, spec: &CreateSpec) -> Result<Measured> {
    let layout = Layout::of(spec)?;
    let size = round_up(subject.size(), layout.cluster).ok_or_else(too_large)?;
    let full = layout.full(size).ok_or_else(too_large)?;
    let allocated = matches!(spec.option("preallocation"), Some("falloc" | "full"));
    let data = match subject {
        // What of it the backing file will have nobody can tell.
        Subject::Disk(..) if allocated || spec.option("backing_file").is_some() => size,
        Subject::Disk(disk, _) => clusters_with_data(disk, layout.cluster)?,
        Subject::Size(_) if allocated => size,
        Subject::Size(_) => 0,
    };
    let bitmaps = match subject {
        Subject::Disk(_, description) if spec.option("compat").is_none_or(|c| !matches!(c, "0.10" | "v2")) => {
            bitmaps(description, subject.size(), layout.cluster)
        }
        _ => None,
    };
    // The tables of the full image are there in any case: a small overestimate, as QEMU's.
    Ok(Measured { required: full - size + data, fully_allocated: full, bitmaps })
}

/// Bytes of the clusters of `cluster` bytes that hold something other than zeros.
fn clusters_with_data(disk: &Disk, cluster: u64) -> Result<u64> {
    let (mut bytes, mut counted_to) = (0, 0);
    for entry in Map::new(disk, 0, u64::MAX) {
        let entry = entry?;
        if entry.zero || !entry.data {
            continue;
        }
        let start = (entry.start - entry.start % cluster).max(counted_to);
        let end = (entry.start + entry.len).next_multiple_of(cluster);
        bytes += end.saturating_sub(start);
        counted_to = counted_to.max(end);
    }
    Ok(bytes)
}

/// Bytes the bitmaps of a qcow2 version 3 image need in clusters of `cluster` bytes; `None` for other images.
fn bitmaps(description: &Description, size: u64, cluster: u64) -> Option<u64> {
    let version = description.specific.get("data")?.get("compat")?.as_str()?;
    if version == "0.10" {
        return None;
    }
    let (mut bytes, mut directory) = (0u64, 0u64);
    for bitmap in description.bitmaps.iter().filter(|b| !b.in_use && b.granularity > 0) {
        let clusters = size.div_ceil(bitmap.granularity).div_ceil(8).div_ceil(cluster);
        bytes = bytes.checked_add(clusters.checked_mul(cluster)?)?.checked_add(round_up(clusters * 8, cluster)?)?;
        // An entry of the directory: 24 bytes and the name, padded to 8.
        directory += (24 + bitmap.name.len() as u64).next_multiple_of(8);
    }
    bytes.checked_add(round_up(directory, cluster)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::units::{GIB, TIB};

    #[test]
    fn sizes_are_those_the_reference_tool_printed() {
        // qemu-img 10.0.2 measure --size …; the suite runs it over the option matrix.
        let of = |size, options: &[(&str, &str)]| {
            let options = options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
            let spec = CreateSpec { options, ..CreateSpec::default() };
            let m = measure(&Subject::Size(size), Format::Qcow2, &spec).unwrap();
            (m.required, m.fully_allocated)
        };
        assert_eq!(of(GIB, &[]), (393_216, 1_074_135_040));
        assert_eq!(of(700, &[]), (327_680, 393_216));
        assert_eq!(of(TIB, &[("cluster_size", "16k"), ("extended_l2", "on")]), (1_208_745_984, 1_100_720_373_760));
        assert_eq!(of(GIB, &[("preallocation", "full")]), (1_074_135_040, 1_074_135_040));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let spec = |k: &str, v: &str| CreateSpec { options: vec![(k.into(), v.into())], ..CreateSpec::default() };
        for (k, v) in [("cluster_size", "3k"), ("cluster_size", "4M"), ("refcount_bits", "7"), ("refcount_bits", "128")] {
            assert!(measure(&Subject::Size(GIB), Format::Qcow2, &spec(k, v)).is_err(), "{k}={v}");
        }
        assert!(measure(&Subject::Size(i64::MAX as u64), Format::Qcow2, &CreateSpec::default()).is_err());
    }
}
