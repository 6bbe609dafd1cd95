//! Rehearsals: a format makes a new image, or changes an old one, in memory first, so that a plan already knows what would be refused
//! (options that contradict each other, sizes it cannot hold, names that are not there). No file is touched.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::engine::error::Result;
use crate::engine::format::Format;
use crate::engine::format::write::{CreateSpec, NewFiles};
use crate::engine::io::memory::Memory;
use crate::engine::io::overlay::{Overlay, PIECE};
use crate::engine::io::{Device, HostRange, ReadAt, WriteAt, WriteDevice};

/// Bytes of the disk that is made in place of one that would be filled: what the options say of it does not hang on its size.
const SMALL: u64 = 4 << 20;
/// Bytes of the largest disk that is made: above it tables become too large for a rehearsal.
const LARGE: u64 = 4 << 40;

/// Tries whether `format` would make the image of `spec`.
///
/// Errors: what it would refuse.
pub fn rehearse(format: Format, spec: &CreateSpec) -> Result<()> {
    let Some(create) = format.entry().create else { return Ok(()) };
    let filled = spec.option("preallocation").is_some_and(|p| p != "off")
        || spec.option("subformat").is_some_and(|s| s == "fixed" || s.ends_with("Flat"))
        || spec.switch("static", false).unwrap_or(false);
    let most = if filled { SMALL } else { LARGE };
    let size = if spec.size > most && (filled || spec.size > LARGE) { most } else { spec.size };
    create(&CreateSpec { size, ..spec.clone() }, &Files::default()).map(drop)
}

/// The same for options alone, without a backing file: a form asks this after every key.
///
/// Errors: what the format would refuse, with the name of the option without which it would not, if there is such a one.
pub fn options(format: Format, given: &[(String, String)]) -> Result<(), (Option<String>, crate::engine::error::Error)> {
    let spec =
        |options: Vec<(String, String)>| CreateSpec { size: SMALL, options, file_name: "disk".into(), ..CreateSpec::default() };
    let Err(error) = rehearse(format, &spec(given.to_vec())) else { return Ok(()) };
    let without = |name: &String| given.iter().filter(|(n, _)| n != name).cloned().collect();
    let culprit = given.iter().map(|(n, _)| n).find(|n| rehearse(format, &spec(without(n))).is_ok());
    Err((culprit.cloned(), error))
}

/// `dev` with all changes kept in memory: for rehearsing what is done to an image that is there.
pub fn over(dev: Device) -> WriteDevice {
    Arc::new(Sparse(Mutex::new(Overlay::new(dev))))
}

/// Files in memory that remember only what is not zero.
#[derive(Default)]
struct Files {
    image: Arc<Sparse>,
}

impl NewFiles for Files {
    fn image(&self) -> WriteDevice {
        self.image.clone()
    }
    fn extra(&self, _: &str) -> Result<WriteDevice> {
        Ok(Arc::new(Sparse::default()))
    }
}

struct Sparse(Mutex<Overlay>);

impl Default for Sparse {
    fn default() -> Self {
        Sparse(Mutex::new(Overlay::new(Arc::new(Memory::default()))))
    }
}

impl Sparse {
    fn get(&self) -> MutexGuard<'_, Overlay> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReadAt for Sparse {
    fn len(&self) -> u64 {
        self.get().len()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.get().read_at(offset, buf)
    }
    fn host_range(&self, offset: u64, max: u64) -> Result<HostRange> {
        Ok(HostRange { len: max.min(self.len().saturating_sub(offset)).max(1), hole: false })
    }
}

impl WriteAt for Sparse {
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        let mut content = self.get();
        content.grow(offset.saturating_add(buf.len() as u64));
        content.edit(offset, buf)
    }
    fn flush(&self) -> Result<()> {
        Ok(())
    }
    fn set_len(&self, len: u64) -> Result<()> {
        // What is cut off at the end decides nothing.
        self.get().grow(len);
        Ok(())
    }
    fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        let end = offset.saturating_add(len);
        let (from, to) =
            (offset.next_multiple_of(PIECE).min(end), (end / PIECE * PIECE).max(offset.next_multiple_of(PIECE).min(end)));
        let mut content = self.get();
        content.grow(end);
        let zeros = [0u8; PIECE as usize];
        content.edit(offset, zeros.get(..(from - offset) as usize).unwrap_or_default())?;
        content.zero(from, to);
        content.edit(to, zeros.get(..(end - to) as usize).unwrap_or_default())
    }
    fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        self.get().grow(offset.saturating_add(len));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::format::FORMATS;
    use crate::engine::units::{GIB, TIB};

    #[test]
    fn every_format_is_rehearsed_quickly_at_any_size() {
        for e in FORMATS.iter().filter(|e| e.create.is_some()) {
            for size in [512, SMALL + 512, 10 * GIB, TIB] {
                let begin = std::time::Instant::now();
                let spec = CreateSpec { size, file_name: "disk".into(), ..CreateSpec::default() };
                rehearse(e.format, &spec).unwrap_or_else(|e2| panic!("{} {size}: {e2}", e.name));
                assert!(begin.elapsed().as_secs() < 2, "{} {size}: {:?}", e.name, begin.elapsed());
            }
        }
    }

    #[test]
    fn options_that_are_refused_are_named() {
        let culprit = |format, given: &[(&str, &str)]| {
            let given: Vec<_> = given.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
            options(format, &given).map_err(|(name, _)| name.unwrap_or_default())
        };
        for (given, expected) in [
            (&[][..], Ok(())),
            (&[("cluster_size", "128k"), ("preallocation", "full")], Ok(())),
            (&[("cluster_size", "3000"), ("lazy_refcounts", "on")], Err("cluster_size")),
            (&[("refcount_bits", "7")], Err("refcount_bits")),
            (&[("data_file_raw", "on")], Err("data_file_raw")),
            (&[("data_file", "d"), ("data_file_raw", "on")], Ok(())),
        ] {
            assert_eq!(culprit(Format::Qcow2, given), expected.map_err(str::to_string), "{given:?}");
        }
        for sub in ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized"] {
            assert_eq!(culprit(Format::Vmdk, &[("subformat", sub)]), Ok(()), "{sub}");
        }
        assert_eq!(culprit(Format::Vhdx, &[("subformat", "fixed"), ("block_size", "256M")]), Ok(()));
        assert_eq!(culprit(Format::Vhdx, &[("block_size", "3M")]), Err("block_size".into()));
        assert_eq!(culprit(Format::Vhd, &[("subformat", "fixed"), ("align", "1M")]), Ok(()));
        assert_eq!(culprit(Format::Vdi, &[("static", "on")]), Ok(()));
        let large = CreateSpec { size: 3 * TIB, file_name: "disk".into(), ..CreateSpec::default() };
        assert!(rehearse(Format::Vhd, &large).is_err(), "a VHD ends at 2040 GiB");
    }
}
