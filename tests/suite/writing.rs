//! What the tests of writers share: images in memory that records every write, random changes against a model of plain bytes, and
//! the power cut between any two of them.

use std::sync::Arc;

use cowshed::engine::error::{Error, Result};
use cowshed::engine::format::write::{Below, CreateSpec, DiskWriter, NewBacking, NewFiles, WriteSource};
use cowshed::engine::format::{Format, Image, Source};
use cowshed::engine::io::WriteDevice;
use cowshed::engine::io::fault::{Faulty, power_cuts};
use cowshed::engine::io::gate::Gate;
use cowshed::engine::io::memory::Memory;
use cowshed::engine::model::{Identity, Kind};

use crate::common::{noise, text};

/// Fails with the first difference instead of printing megabytes.
pub fn same(a: &[u8], b: &[u8], what: &str) {
    let at = a.iter().zip(b).position(|(x, y)| x != y);
    assert!(a.len() == b.len() && at.is_none(), "{what}: {} and {} bytes, first difference at {at:x?}", a.len(), b.len());
}

/// The files of a new image, in memory that records.
struct One(Arc<Faulty>);

impl NewFiles for One {
    fn image(&self) -> WriteDevice {
        self.0.clone()
    }
    fn extra(&self, name: &str) -> Result<WriteDevice> {
        Err(Error::usage(format!("{name}: one file is all there is")))
    }
}

/// What creating an image in memory gives.
pub fn try_create(format: Format, spec: &CreateSpec) -> Result<Arc<dyn DiskWriter>> {
    format.entry().create.unwrap()(spec, &One(Faulty::new(Vec::new())))
}

/// A new image of `size` bytes, perhaps over `below`, and the memory it lies in.
pub fn create(format: Format, size: u64, below: Option<&[u8]>) -> (Arc<Faulty>, Arc<dyn DiskWriter>) {
    let backing = below.map(|content| NewBacking {
        name: "base.raw".into(),
        path: "base.raw".into(),
        format: Format::Raw,
        size: content.len() as u64,
        identity: Identity::default(),
        disk: Some(Below(Arc::new(Memory::new(content.to_vec())))),
    });
    let dev = Faulty::new(Vec::new());
    let spec = CreateSpec { size, backing, ..CreateSpec::default() };
    let writer = format.entry().create.unwrap()(&spec, &One(dev.clone())).unwrap();
    writer.flush().unwrap();
    (dev, writer)
}

/// Opens the image in `dev` for writing.
pub fn open_write(format: Format, dev: &Arc<Faulty>, below: Option<&[u8]>) -> Arc<dyn DiskWriter> {
    let source = Source { dev: dev.clone(), path: "x".into(), gate: Gate::closed() };
    let mut source = WriteSource::alone(dev.clone(), source);
    source.below = below.map(|b| Below(Arc::new(Memory::new(b.to_vec()))));
    format.entry().open_write.unwrap()(source).unwrap()
}

/// Opens an image in memory for reading.
pub fn open(format: Format, bytes: Vec<u8>) -> Result<Arc<dyn Image>> {
    (format.entry().open)(Source { dev: Arc::new(Memory::new(bytes)), path: "x".into(), gate: Gate::closed() })
}

/// A change of the disk, made to the image and to the model.
pub fn change(n: u64, size: u64, writer: &dyn DiskWriter, model: &mut [u8]) {
    let r = noise(n + 1, 24);
    let word = |i: usize| u64::from_le_bytes(r[i * 8..i * 8 + 8].try_into().unwrap());
    let offset = word(0) % size;
    let len = (1 + word(1) % if n.is_multiple_of(5) { 200_000 } else { 6000 }).min(size - offset);
    let range = offset as usize..(offset + len) as usize;
    match word(2) % 5 {
        0 => {
            writer.write_zeroes(offset, len).unwrap();
            model[range].fill(0);
        }
        1 if writer.reader().format().entry().caps.compression => {
            let (from, unit) = (offset / writer.unit() * writer.unit(), writer.unit());
            let data = text(n, unit.min(size - from) as usize);
            writer.write_compressed(from, &data).unwrap();
            model[from as usize..from as usize + data.len()].copy_from_slice(&data);
        }
        _ => {
            let data = noise(n, len as usize);
            writer.write(offset, &data).unwrap();
            model[range].copy_from_slice(&data);
        }
    }
}

/// The disk of `image` over `below`.
pub fn whole(image: &dyn Image, below: &[u8]) -> Vec<u8> {
    let mut out = below.to_vec();
    out.resize(image.size() as usize, 0);
    let mut at = 0;
    while at < image.size() {
        let m = image.map(at, u64::MAX).unwrap();
        if m.kind != Kind::Unallocated {
            image.read(at, &mut out[at as usize..(at + m.len) as usize]).unwrap();
        }
        at += m.len;
    }
    out
}

/// Many random changes, read back before and after the image was closed and opened again. Returns the image and the model.
pub fn random_writes(format: Format, size: u64, base: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let steps = if std::env::var_os("COWSHED_LONG").is_some() { 2000 } else { 120 };
    let below = (!base.is_empty()).then_some(base);
    let (dev, mut writer) = create(format, size, below);
    let mut model = base.to_vec();
    model.resize(size as usize, 0);
    for n in 0..steps {
        change(n, size, writer.as_ref(), &mut model);
        if n % 40 == 39 {
            same(&whole(writer.reader().as_ref(), base), &model, "reader");
            writer.flush().unwrap();
            writer = open_write(format, &dev, below);
            same(&whole(writer.reader().as_ref(), base), &model, "opened again");
        }
    }
    writer.finish().unwrap();
    (dev.to_vec(), model)
}

/// Cuts the power everywhere between two flushes: each byte is then as it was before or as it was made.
pub fn power_cuts_leave_old_or_new(format: Format) {
    for base in [Vec::new(), noise(5, 200_000)] {
        let size = 300_000u64 / 512 * 512;
        let (dev, writer) = create(format, size, (!base.is_empty()).then_some(base.as_slice()));
        let mut model = base.clone();
        model.resize(size as usize, 0);
        for n in 0..6 {
            change(n, size, writer.as_ref(), &mut model);
        }
        writer.flush().unwrap();
        let (before, start) = (dev.to_vec(), dev.record().len());
        // Every version of the disk there was: a byte may be changed twice in the round.
        let mut versions = vec![model.clone()];
        // One round of changes, then the flush that makes them durable.
        for n in 100..104 {
            change(n, size, writer.as_ref(), &mut model);
            versions.push(model.clone());
        }
        let middle = model.clone();
        writer.flush().unwrap();
        let flushed = dev.record().len() - start;
        let record = &dev.record()[start..];
        let mut states = 0;
        power_cuts(&before, record, |state, bytes| {
            let image = open(format, bytes).unwrap_or_else(|e| panic!("{state}: {e}"));
            let now = whole(image.as_ref(), &base);
            let unknown = (0..now.len()).find(|i| versions.iter().all(|v| v[*i] != now[*i]));
            assert!(unknown.is_none(), "{state}: byte {unknown:x?} is neither old nor new");
            states += 1;
        });
        assert!(states > 10 && flushed > 3, "{states} states");
        // After the flush all of it is there.
        let image = open(format, dev.to_vec()).unwrap();
        same(&whole(image.as_ref(), &base), &middle, "after the flush");
    }
}
