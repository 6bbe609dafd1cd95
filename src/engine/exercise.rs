//! Opens, describes, maps, reads and checks hostile bytes within bounds, and proves the promises of [`Image`]. Shared by the fuzz targets
//! and the property tests, so that both try the same; no part of the program uses it.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::chain::{Chain, OpenOptions};
use super::error::Result;
use super::format::probe::{best, probe, warnings};
use super::format::qcow2::diff::Pointers;
use super::format::{Format, Image, Source};
use super::guest::free::free_space;
use super::guest::fs::FileType;
use super::guest::identity::identify;
use super::guest::owners::Owners;
use super::guest::tree::Guest;
use super::guest::walk::{Step, walk};
use super::io::gate::Gate;
use super::io::memory::Memory;
use super::io::{Device, ReadAt};
use super::model::Kind;
use super::ops::check::tools;

/// Extents walked through.
const STEPS: usize = 512;
/// Bytes read at one place.
const READ: usize = 200_000;

/// Tries `bytes` as an image of `format`, or as what probing takes them for. An error is a good answer; a panic is not.
pub fn bytes(format: Option<Format>, bytes: &[u8]) -> Result<()> {
    let dev: Device = Arc::new(Memory::new(bytes.to_vec()));
    let matches = probe(dev.as_ref())?;
    assert!(matches.iter().any(|m| m.format == Format::Raw), "raw is always possible");
    let _ = warnings(Path::new("image.vmdk"), &matches);
    let format = format.unwrap_or_else(|| best(&matches));
    let source = Source { dev, path: PathBuf::from("image"), gate: Gate::closed() };
    if let Some(tools) = tools(format) {
        let _ = (tools.check)(&source);
    }
    let image = (format.entry().open)(source.clone())?;
    self::image(image.as_ref())?;
    for snapshot in image.describe().snapshots.iter().take(4) {
        if let Ok(s) = image.snapshot(&snapshot.id) {
            let _ = self::image(s.as_ref());
        }
        if let Ok(pointers) = Pointers::open(&source, Some(&snapshot.id), None) {
            let _ = pointers.each(pointers.from.size.max(pointers.to.size), &mut |_| Ok(()));
        }
    }
    Ok(())
}

/// Tries an open image.
pub fn image(image: &dyn Image) -> Result<()> {
    let description = image.describe();
    let shown: String = description.facts.iter().map(|f| f.value.as_str()).collect();
    assert!(shown.len() < 16 << 20, "facts are not bounded");
    let _ = image.backing();
    let size = image.size();
    if size == 0 || image.readable().is_err() {
        return Ok(());
    }
    let files = image.files();
    let mut offset = 0;
    for _ in 0..STEPS {
        let max = (size - offset).min(1 << 40);
        let m = image.map(offset, max)?;
        assert!(m.len >= 1 && m.len <= max, "a mapping of {} bytes where {max} were asked for", m.len);
        if m.kind == Kind::Data {
            let place = m.place.filter(|p| p.file < files.len());
            assert!(place.is_some_and(|p| p.offset.checked_add(m.len).is_some()), "data without a place: {m:?}");
        }
        if m.kind == Kind::Compressed {
            let mut unit = vec![0; m.len.min(READ as u64) as usize];
            let _ = image.read(offset, &mut unit);
        }
        offset += m.len;
        if offset >= size {
            break;
        }
    }
    let mut buf = vec![0; (READ as u64).min(size) as usize];
    let last = size - buf.len() as u64;
    for at in [0, size / 2, last] {
        let _ = image.read(at.min(last), &mut buf);
    }
    Ok(())
}

/// Tries `dev` as the disk of a guest: its partitions, volumes and filesystems, every file as far as bounds allow, and who it is.
pub fn guest(dev: Device) -> Result<()> {
    let guest = Guest::open_for(&dev, None)?;
    let id = identify(&guest);
    let told: usize = id.facts.iter().map(|f| f.value.len() + f.from.len()).sum();
    assert!(told < 64 << 20, "facts are not bounded");
    let steps = Cell::new(STEPS);
    let stop = || steps.replace(steps.get().saturating_sub(1)) == 0;
    let _ = free_space(&dev, true, &stop);
    steps.set(STEPS);
    if let Ok(owners) = Owners::of(&dev, &stop) {
        for at in (0..64).map(|i| dev.len() / 64 * i) {
            let _ = owners.at(at);
        }
    }
    let mut buf = vec![0; READ];
    let mut left = STEPS;
    for (i, volume) in guest.layout.volumes.iter().enumerate() {
        assert!(volume.start.is_none_or(|s| s.checked_add(volume.len).is_some()), "a volume past the end of numbers");
        let Ok(alone) = Guest::open_alone(&dev, i) else { continue };
        let root = alone.mounts.first().map(|m| m.fs.clone());
        let _ = walk(&alone, b"/", &mut |met| {
            left = left.saturating_sub(1);
            let _ = match met.stat.kind {
                FileType::File => alone.read(met.spot, met.stat.size.saturating_sub(5000), &mut buf).map(|_| ()),
                FileType::Link => alone.read_link(met.spot).map(|_| ()),
                _ => Ok(()),
            };
            let _ = root.as_ref().map(|fs| fs.extents(met.spot.node));
            Ok(if left == 0 { Step::Stop } else { Step::On })
        });
        let mut ranges = 0u64;
        let _ = root.map(|fs| fs.free_ranges(&mut |_, _| ranges += 1));
    }
    Ok(())
}

/// Tries the chain of the image at `path`.
pub fn chain(path: &Path) -> Result<()> {
    let chain = Chain::open(path, &OpenOptions::default())?;
    assert_eq!(chain.layers.len() + usize::from(chain.error().is_some()), chain.nodes.len());
    let disk = chain.disk()?;
    let mut buf = vec![0; (READ as u64).min(disk.len()) as usize];
    disk.read_at(0, &mut buf)?;
    disk.read_at(disk.len() - buf.len() as u64, &mut buf)
}
