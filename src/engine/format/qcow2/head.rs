//! The first cluster written anew: header, extensions and backing name, in an order that a power cut can only leave as the old or
//! as the new image. What decides lies in the first sector, which is written whole; what does not fit there is in place before.
//!
//! ```text
//!  1  first sector: the new header, with the extensions that matter        the new image, without names of feature bits
//!  2  the following sectors: what the final form has there                 the same: the first sector does not lead there
//!  3  first sector: the final form                                         the new image
//! ```
//!
//! A backing name that does not fit in the first sector is written to the end of the cluster before step 1.

use crate::engine::error::{Error, Result};
use crate::engine::io::{ReadAt, WriteAt, read_up_to};
use crate::engine::units::SECTOR;

use super::extensions::{Extensions, FEATURES};
use super::header::Header;

/// Bytes of the fields of a header of version 3 that are always there.
const FIELDS: usize = 104;

/// Writes the fields of `header` (of the same version and length as the file's) over those in the file: one sector, then a flush.
pub fn write_fields(dev: &dyn WriteAt, header: &Header) -> Result<()> {
    let mut sector = read_up_to(dev, 0, SECTOR as usize)?;
    let fields = header.encode();
    for (to, from) in sector.iter_mut().zip(fields.iter().take(FIELDS)) {
        *to = *from;
    }
    dev.write_at(0, &sector)?;
    dev.flush()
}

/// Writes header, extensions and backing name. Sets the header's fields for the backing name.
///
/// Errors: `Unsupported` when what matters cannot be in the first sector (a very long name of a data file), or in one cluster.
pub fn rewrite(dev: &dyn WriteAt, header: &mut Header, ext: &Extensions) -> Result<()> {
    let mut last = header.clone();
    let whole = whole_sectors(ext.encode(&mut last)?);
    let (first, rest) = whole.split_at(whole.len().min(SECTOR as usize));
    if rest.is_empty() || same(dev, SECTOR, rest)? {
        dev.write_at(0, first)?;
        dev.flush()?;
        *header = last;
        return Ok(());
    }
    let mut core = ext.clone();
    core.set(FEATURES, None);
    let mut early = header.clone();
    let mut small = core.encode(&mut early)?;
    if small.len() > SECTOR as usize {
        let at = place_for_name(dev, header, ext, whole.len())?;
        let name = ext.backing.clone().unwrap_or_default();
        dev.write_at(at, &name)?;
        dev.flush()?;
        core.backing = None;
        core.encode(&mut early)?;
        early.backing_offset = at;
        early.backing_len = name.len() as u32;
        // With a name elsewhere the list of extensions is as it is without one.
        let plain = core.encode(&mut header.clone())?;
        small = early.encode();
        small.extend_from_slice(plain.get(small.len()..).unwrap_or_default());
        if small.len() > SECTOR as usize {
            return Err(too_long());
        }
    }
    dev.write_at(0, &whole_sectors(small))?;
    dev.flush()?;
    dev.write_at(SECTOR, rest)?;
    dev.flush()?;
    dev.write_at(0, first)?;
    dev.flush()?;
    *header = last;
    Ok(())
}

fn whole_sectors(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(SECTOR as usize), 0);
    bytes
}

fn same(dev: &dyn ReadAt, offset: u64, bytes: &[u8]) -> Result<bool> {
    Ok(read_up_to(dev, offset, bytes.len())? == bytes)
}

/// Where in the first cluster neither the old nor the new form has anything: whole sectors at its end.
fn place_for_name(dev: &dyn ReadAt, header: &Header, ext: &Extensions, new_end: usize) -> Result<u64> {
    let name = ext.backing.as_ref().map_or(0, |b| b.len() as u64).next_multiple_of(SECTOR);
    let old = Header::parse(&read_up_to(dev, 0, header.cluster_size() as usize)?)?;
    let old_name = if old.backing_offset == 0 { 0 } else { old.backing_offset + u64::from(old.backing_len) };
    let at = header.cluster_size().checked_sub(name).filter(|at| *at >= (new_end as u64).max(old_name).next_multiple_of(SECTOR));
    match at {
        // Extensions of the old form end before its name; without one they end somewhere, and the end of the cluster is free then.
        Some(at) if name > 0 => Ok(at),
        _ => Err(too_long()),
    }
}

fn too_long() -> Error {
    Error::unsupported("the names in its header are too long to be changed in a way that a power cut could not spoil")
        .hint("convert the image instead")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::format::qcow2::extensions::{BACKING_FORMAT, Extension};
    use crate::engine::format::qcow2::header::{COMPRESSION, tests::sample};
    use crate::engine::io::fault::{Faulty, power_cuts};

    fn parsed(bytes: &[u8]) -> (u64, Vec<Extension>, Option<Vec<u8>>) {
        let header = Header::parse(bytes).unwrap();
        let ext = Extensions::parse(&header, bytes).unwrap();
        (header.size, ext.list.into_iter().filter(|e| e.id != FEATURES).collect(), ext.backing)
    }

    #[test]
    fn cut_power_leaves_the_old_or_the_new_head() {
        for (old_name, new_name) in [(10, 20), (0, 300), (600, 5), (700, 900), (1023, 0), (350, 350)] {
            let ext = |len: usize, fmt: &[u8]| Extensions {
                list: vec![
                    Extension { id: BACKING_FORMAT, data: fmt.to_vec() },
                    Extension { id: FEATURES, data: vec![1; 48 * 8] },
                ],
                backing: (len > 0).then(|| vec![b'a' + (len % 20) as u8; len]),
            };
            let mut old = Header { incompatible: COMPRESSION, ..sample() };
            let mut before = ext(old_name, b"raw").encode(&mut old).unwrap();
            before.resize(1 << 16, 0xee);
            let dev = Faulty::new(before.clone());
            let mut new = Header { size: 1 << 29, ..old };
            rewrite(dev.as_ref(), &mut new, &ext(new_name, b"qcow2")).unwrap();
            let (was, is) = (parsed(&before), parsed(&dev.to_vec()));
            assert_eq!(is, (1 << 29, ext(new_name, b"qcow2").list[..1].to_vec(), ext(new_name, b"").backing));
            assert!(Extensions::parse(&new, &dev.to_vec()).unwrap().get(FEATURES).is_some());
            power_cuts(&before, &dev.record(), |state, bytes| {
                let now = parsed(&bytes);
                assert!(now == was || now == is, "{old_name} {new_name}: {state}");
            });
        }
    }
}
