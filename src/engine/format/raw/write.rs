//! Writing raw images: the bytes go where they belong, and zeros become holes.
//!
//! There are no structures, so there is no order to keep: a crash leaves each write done or not.

use std::sync::Arc;

use super::Raw;
use crate::engine::error::{Error, Result};
use crate::engine::format::write::{CreateSpec, DiskWriter, NewFiles, OptionKind, OptionSpec, Preallocation, WriteSource};
use crate::engine::format::{Format, Image};
use crate::engine::io::WriteDevice;

/// Options of `create -f raw -o`.
pub(super) const OPTIONS: &[OptionSpec] = &[OptionSpec {
    name: "preallocation",
    doc: "reserve the space (falloc) or fill it with zeros (full)",
    kind: OptionKind::Choice(&["off", "falloc", "full"]),
    default: "off",
}];

/// Makes a raw image that reads as zeros.
pub(super) fn create(spec: &CreateSpec, files: &dyn NewFiles) -> Result<Arc<dyn DiskWriter>> {
    spec.check(Format::Raw, OPTIONS)?;
    if spec.backing.is_some() {
        return Err(Error::usage("a raw image cannot have a backing file").hint("qcow2 can"));
    }
    let dev = files.image();
    dev.set_len(spec.size)?;
    match spec.option("preallocation") {
        Some("falloc") => dev.allocate(0, spec.size)?,
        Some("full") => write_all_zeros(&dev, 0, spec.size)?,
        _ => {}
    }
    Ok(Arc::new(RawWriter { dev, size: spec.size.into() }))
}

/// Opens a raw image for writing.
pub(super) fn open_write(WriteSource { dev, .. }: WriteSource) -> Result<Arc<dyn DiskWriter>> {
    let size = dev.len().into();
    Ok(Arc::new(RawWriter { dev, size }))
}

/// Real zeros, no holes: that is what was asked for.
fn write_all_zeros(dev: &WriteDevice, from: u64, size: u64) -> Result<()> {
    let zeros = crate::engine::io::direct::Buffer::new(1 << 20);
    let mut at = from;
    while at < size {
        let n = (size - at).min(zeros.len() as u64);
        dev.write_at(at, zeros.get(..n as usize).unwrap_or_default())?;
        at += n;
    }
    Ok(())
}

struct RawWriter {
    dev: WriteDevice,
    size: std::sync::atomic::AtomicU64,
}

impl RawWriter {
    fn within(&self, offset: u64, len: u64) -> Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.size() => Ok(()),
            _ => Err(Error::usage(format!("{len} bytes at {offset} do not lie within the disk of {} bytes", self.size()))),
        }
    }
}

impl DiskWriter for RawWriter {
    fn size(&self) -> u64 {
        self.size.load(std::sync::atomic::Ordering::SeqCst)
    }
    fn unit(&self) -> u64 {
        4096
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.within(offset, data.len() as u64)?;
        self.dev.write_at(offset, data)
    }
    fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        self.within(offset, len)?;
        self.dev.write_zeroes(offset, len)
    }
    fn flush(&self) -> Result<()> {
        self.dev.flush()
    }
    fn resize(&self, size: u64) -> Result<()> {
        self.dev.set_len(size)?;
        self.size.store(size, std::sync::atomic::Ordering::SeqCst);
        Ok(())
    }
    fn preallocate(&self, from: u64, how: Preallocation) -> Result<()> {
        match how {
            Preallocation::Off => Ok(()),
            Preallocation::Metadata => {
                Err(Error::unsupported("a raw image has no tables to reserve").hint("falloc reserves its space"))
            }
            Preallocation::Falloc => self.dev.allocate(from, self.size().saturating_sub(from)),
            Preallocation::Full => write_all_zeros(&self.dev, from, self.size()),
        }
    }
    fn reader(&self) -> Arc<dyn Image> {
        Arc::new(Raw::new(vec![self.dev.clone()]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::io::ReadAt;
    use crate::engine::io::memory::Memory;

    struct One(Arc<Memory>);
    impl NewFiles for One {
        fn image(&self) -> WriteDevice {
            self.0.clone()
        }
        fn extra(&self, _: &str) -> Result<WriteDevice> {
            Err(Error::usage("raw has one file"))
        }
    }

    #[test]
    fn keeps_its_size_and_its_bytes() {
        let memory = Arc::new(Memory::default());
        let w = create(&CreateSpec { size: 1000, ..CreateSpec::default() }, &One(memory.clone())).unwrap();
        w.write(900, &[7; 100]).unwrap();
        assert!(w.write(901, &[7; 100]).is_err());
        w.write_zeroes(950, 10).unwrap();
        let mut expect = vec![0; 1000];
        expect[900..].fill(7);
        expect[950..960].fill(0);
        assert_eq!(memory.to_vec(), expect);
        w.resize(2000).unwrap();
        assert_eq!((w.size(), memory.len(), w.reader().size()), (2000, 2000, 2000));
    }
}
