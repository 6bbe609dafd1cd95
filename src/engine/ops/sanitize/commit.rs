//! The commit: what a draft changed goes into the image in one ordered pass.
//!
//! ```text
//!  1  undo file: header and old bytes, flush; first sector, flush; its name, flush     a cut leaves the image untouched
//!  2  the image: data, zeros and stamped logs in ascending order; flush                a cut leaves any mixture, rolled back by 1
//!     what its file holds in places nothing refers to is wiped, with scrub            the same
//!  3  undo file: "done", flush                                                         a cut rolls back a complete commit: all or nothing
//! ```
//!
//! What the undo file does not save (space that was free, journals behind their superblock, stamped sectors of logs, swap) means the
//! same to the filesystem whether its old bytes or its new ones are there.

use super::undo::{State, Undo};
use crate::engine::error::Result;
use crate::engine::format::write::DiskWriter;
use crate::engine::io::ReadAt;
use crate::engine::io::draft::{Changed, Draft};
use crate::engine::job::JobContext;

/// Bytes written at a time.
const PIECE: u64 = 1 << 20;

/// Writes what `draft` changed through `writer`, and with `scrub` wipes what nothing refers to. Returns once it is durable; `undo` then
/// says so.
pub(super) fn commit(draft: &Draft, writer: &dyn DiskWriter, undo: &mut Undo, scrub: bool, job: &JobContext) -> Result<()> {
    for (offset, len, how) in draft.changes() {
        if how == Changed::Zero {
            writer.write_zeroes(offset, len)?;
            continue;
        }
        let mut done = 0;
        while done < len {
            let n = (len - done).min(PIECE);
            let mut bytes = vec![0; n as usize];
            draft.read_at(offset + done, &mut bytes)?;
            writer.write(offset + done, &bytes)?;
            job.progress.add_written(n);
            job.progress.add_done(n);
            done += n;
        }
    }
    writer.finish()?;
    if scrub {
        writer.wipe_unused()?;
    }
    undo.set(State::Done)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use super::super::undo::{Header, Undo, checksum};
    use super::*;
    use crate::engine::format::write::WriteSource;
    use crate::engine::format::{Format, Source};
    use crate::engine::io::fault::{Faulty, Op, power_cuts};
    use crate::engine::io::gate::Gate;
    use crate::engine::io::memory::Memory;
    use crate::engine::io::{Device, WriteAt, WriteDevice};

    fn writer(dev: WriteDevice) -> Arc<dyn DiskWriter> {
        let source = Source { dev: dev.clone(), path: PathBuf::from("disk.raw"), gate: Gate::closed() };
        (Format::Raw.entry().open_write.unwrap())(WriteSource::alone(dev, source)).unwrap()
    }

    /// A device two owners write to, which is all that `Undo` wants of its file.
    struct Shared(Arc<Faulty>);
    impl ReadAt for Shared {
        fn len(&self) -> u64 {
            self.0.len()
        }
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
            self.0.read_at(offset, buf)
        }
    }
    impl WriteAt for Shared {
        fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
            self.0.write_at(offset, buf)
        }
        fn flush(&self) -> Result<()> {
            self.0.flush()
        }
        fn set_len(&self, len: u64) -> Result<()> {
            self.0.set_len(len)
        }
    }

    #[test]
    fn wherever_the_power_is_cut_it_is_done_or_taken_back() {
        let before: Vec<u8> = (0..200_000u32).map(|i| (i * 7 % 253) as u8).collect();
        let disk: Device = Arc::new(Memory::new(before.clone()));
        let draft = Draft::new(disk.clone());
        draft.write_at(5_000, &[1; 9_000]).unwrap();
        draft.write_zeroes(40_960, 20_480).unwrap();
        draft.write_at(150_000, &[2; 700]).unwrap();
        let ranges: Vec<(u64, u64)> = draft.changes().iter().map(|(at, n, _)| (*at, *n)).collect();
        let header = Header {
            image: "disk.raw".into(),
            format: "raw".into(),
            size: before.len() as u64,
            made: "now".into(),
            new: checksum(&draft, &ranges).unwrap(),
            old: 0,
            ranges,
        };
        let (file, image) = (Faulty::new(Vec::new()), Faulty::new(before.clone()));
        let mut undo = Undo::write(Box::new(Shared(file.clone())), header, disk.as_ref()).unwrap();
        let written = file.record();
        assert_eq!(written.last(), Some(&Op::Flush), "durable before the image is touched");
        let complete = file.to_vec();
        commit(&draft, writer(image.clone()).as_ref(), &mut undo, true, &JobContext::detached()).unwrap();
        let after = image.to_vec();
        // While the undo file is written the image is as it was; what is left of the file is nothing, or complete.
        power_cuts(&[], &written, |state, bytes| {
            let found = Undo::read(Box::new(Memory::new(bytes.clone())));
            assert!(!matches!(found, Ok(Some(_))) || bytes == complete, "{state}");
        });
        // While the image is written the undo file says so, and takes any mixture back.
        power_cuts(&before, &image.record(), |state, bytes| {
            let dev: WriteDevice = Arc::new(Memory::new(bytes));
            let undo = Undo::read(Box::new(Memory::new(complete.clone()))).unwrap().unwrap();
            assert_eq!(undo.state, State::Committing);
            undo.restore(writer(dev.clone()).as_ref()).unwrap();
            let mut now = vec![0; before.len()];
            dev.read_at(0, &mut now).unwrap();
            assert!(now == before, "{state}");
        });
        let done = Undo::read(Box::new(Memory::new(file.to_vec()))).unwrap().unwrap();
        assert_eq!((done.state, checksum(&Memory::new(after), &done.header.ranges).unwrap()), (State::Done, done.header.new));
    }

    #[test]
    fn a_damaged_undo_file_is_not_used() {
        let disk = Memory::new(vec![3; 10_000]);
        let file = Faulty::new(Vec::new());
        let header = Header {
            image: "x".into(),
            format: "raw".into(),
            size: 10_000,
            made: String::new(),
            ranges: vec![(0, 5_000)],
            old: 0,
            new: 0,
        };
        Undo::write(Box::new(Shared(file.clone())), header, &disk).unwrap();
        let good = file.to_vec();
        let read = |bytes: Vec<u8>| Undo::read(Box::new(Memory::new(bytes)));
        assert!(read(good.clone()).unwrap().is_some());
        let last = good.len() - 1;
        for (at, v) in [(last, 4), (520, b'#'), (15, 9), (0, b'X')] {
            let mut bad = good.clone();
            bad[at] = v;
            assert!(read(bad).is_err(), "{at}");
        }
        assert!(read(good[..good.len() - 1].to_vec()).is_err());
        assert!(read(vec![0; 4096]).unwrap().is_none());
    }
}
