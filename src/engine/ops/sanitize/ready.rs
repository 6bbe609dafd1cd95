//! What was prepared for the plan serves the run, which follows at once, as long as no file it was made from has changed.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::SanitizeSpec;
use super::prepare::Prepared;
use crate::engine::chain::{Chain, Disk};
use crate::engine::error::Result;
use crate::engine::io::WriteDevice;
use crate::engine::io::file::FileId;
use crate::engine::io::locks::Guard;
use crate::engine::job::JobContext;

/// Older than this, a file's times tell every later write: clocks of filesystems tick in milliseconds.
const SETTLED: Duration = Duration::from_millis(20);

/// A sanitising prepared, with what it was prepared from.
pub(super) struct Ready {
    pub(super) chain: Chain,
    pub(super) disk: Arc<Disk>,
    pub(super) prepared: Prepared,
    /// The image, held for writing: a run in place follows.
    pub(super) held: Option<(WriteDevice, Guard)>,
    stamps: Option<Vec<Stamp>>,
}

/// A host file as it was: which, its length, when its content and its inode were changed last.
type Stamp = (FileId, u64, (i64, i64), (i64, i64));

impl Ready {
    /// Prepares what `spec` says, and completes its report with what image and chain have to do with it. With `scan` the image is
    /// scanned meanwhile: a run follows.
    pub(super) fn make(spec: &SanitizeSpec, scan: bool, job: &JobContext) -> Result<Ready> {
        let chain = spec.chain()?;
        let disk = Arc::new(chain.disk()?);
        // Before it is read: what is written from then on must show.
        let stamps = stamps(&disk);
        let mut prepared = spec.prepare(&disk, scan, job)?;
        spec.finish_report(&chain, &disk, &mut prepared);
        Ok(Ready { chain, disk, prepared, held: None, stamps })
    }

    /// True when no file has changed since. Asked by who holds them against others.
    pub(super) fn holds(&self) -> bool {
        self.stamps.is_some() && self.stamps == stamps(&self.disk)
    }
}

/// The state of every file of `disk`. `None` where it would not tell a change: on a block device, or when one was written just now.
fn stamps(disk: &Disk) -> Option<Vec<Stamp>> {
    let files = (0..disk.layers().len()).flat_map(|layer| disk.files(layer));
    files
        .map(|dev| {
            let file = dev.as_file().filter(|f| !f.is_block_device())?;
            // By its name too: it may be another file by now.
            let (meta, named) = (file.file().metadata().ok()?, std::fs::metadata(dev.path()?).ok()?);
            let changed = meta.modified().ok()?;
            let settled = SystemTime::now().duration_since(changed).is_ok_and(|age| age > SETTLED);
            let id = FileId::of(&meta);
            (settled && id == FileId::of(&named))
                .then(|| (id, meta.len(), (meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec())))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::chain::{Chain, OpenOptions};

    #[test]
    fn whatever_is_done_to_a_file_shows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.raw");
        std::fs::write(&path, [1; 8192]).unwrap();
        let disk = Chain::open(&path, &OpenOptions::default()).unwrap().disk().unwrap();
        assert!(stamps(&disk).is_none(), "written just now");
        std::thread::sleep(2 * SETTLED);
        let before = stamps(&disk);
        assert!(before.is_some() && before == stamps(&disk));
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[2], 5).unwrap();
        std::thread::sleep(2 * SETTLED);
        assert_ne!(stamps(&disk), before);
        std::fs::rename(&path, dir.path().join("b.raw")).unwrap();
        std::fs::write(&path, [1; 8192]).unwrap();
        std::thread::sleep(2 * SETTLED);
        assert!(stamps(&disk).is_none(), "another file has its name");
    }
}
