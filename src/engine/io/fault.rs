//! Devices that misbehave on purpose: they fail a chosen operation, or record every write so that a test can cut the power after
//! any of them. For tests; kept in the library so that every test crate uses the same ones.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::memory::Memory;
use super::{ReadAt, WriteAt};
use crate::engine::error::Result;

/// One change of a device, in the order it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Bytes written at an offset.
    Write(u64, Vec<u8>),
    /// Zeros written (or a hole punched): offset and length.
    Zero(u64, u64),
    /// A new length.
    SetLen(u64),
    /// Everything before is durable.
    Flush,
}

/// What a failing device does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// Count of the operation (reads, writes, flushes counted together, from 0) that fails first.
    pub at: u64,
    /// Fail only that one, or every one from then on.
    pub once: bool,
    /// The system's error number, e.g. `libc::EIO`.
    pub errno: i32,
    /// Count and fail reads too.
    pub reads: bool,
}

/// A device over memory that records, and fails on request.
#[derive(Debug, Default)]
pub struct Faulty {
    inner: Memory,
    log: Mutex<Vec<Op>>,
    count: AtomicU64,
    failure: Mutex<Option<Failure>>,
}

impl Faulty {
    /// A device holding `bytes`, with an empty record.
    pub fn new(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Faulty { inner: Memory::new(bytes), ..Faulty::default() })
    }
    /// From now on, fail as said (counting begins anew); `None` heals it.
    pub fn fail(&self, failure: Option<Failure>) {
        self.count.store(0, Ordering::Relaxed);
        *lock(&self.failure) = failure;
    }
    /// Operations counted since `fail` was last called.
    pub fn operations(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
    /// What was done so far.
    pub fn record(&self) -> Vec<Op> {
        lock(&self.log).clone()
    }
    /// The bytes now.
    pub fn to_vec(&self) -> Vec<u8> {
        self.inner.to_vec()
    }

    fn pass(&self, read: bool) -> Result<()> {
        let failure = *lock(&self.failure);
        if read && !failure.is_some_and(|f| f.reads) {
            return Ok(());
        }
        let n = self.count.fetch_add(1, Ordering::Relaxed);
        match failure {
            Some(f) if n == f.at || (n > f.at && !f.once) => Err(std::io::Error::from_raw_os_error(f.errno).into()),
            _ => Ok(()),
        }
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ReadAt for Faulty {
    fn len(&self) -> u64 {
        self.inner.len()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.pass(true)?;
        self.inner.read_at(offset, buf)
    }
    fn path(&self) -> Option<&Path> {
        None
    }
}

impl WriteAt for Faulty {
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.pass(false)?;
        lock(&self.log).push(Op::Write(offset, buf.to_vec()));
        self.inner.write_at(offset, buf)
    }
    fn flush(&self) -> Result<()> {
        self.pass(false)?;
        lock(&self.log).push(Op::Flush);
        Ok(())
    }
    fn set_len(&self, len: u64) -> Result<()> {
        self.pass(false)?;
        lock(&self.log).push(Op::SetLen(len));
        self.inner.set_len(len)
    }
    fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        self.pass(false)?;
        lock(&self.log).push(Op::Zero(offset, len));
        apply(&self.inner, &Op::Zero(offset, len))
    }
}

fn apply(dev: &Memory, op: &Op) -> Result<()> {
    match op {
        Op::Write(offset, bytes) => dev.write_at(*offset, bytes),
        Op::Zero(offset, len) => {
            let zeros = vec![0u8; *len as usize];
            dev.write_at(*offset, &zeros)
        }
        Op::SetLen(len) => dev.set_len(*len),
        Op::Flush => Ok(()),
    }
}

/// Every state a power cut may leave of `before` while `record` was being written.
///
/// Writes between two flushes may reach the disk in any combination; tried are: each prefix, each prefix whose last write is torn
/// at a sector boundary (either part alone), and each group of unflushed writes with one of them missing. `visit` gets a name for the state and the
/// bytes, and panics (in a test) when it is not acceptable.
pub fn power_cuts(before: &[u8], record: &[Op], mut visit: impl FnMut(&str, Vec<u8>)) {
    let state = |ops: &mut dyn Iterator<Item = &Op>| {
        let dev = Memory::new(before.to_vec());
        for op in ops {
            let _ = apply(&dev, op);
        }
        dev.to_vec()
    };
    visit("nothing written", before.to_vec());
    for n in 1..=record.len() {
        visit(&format!("after operation {n} of {}", record.len()), state(&mut record.iter().take(n)));
        let Some(last) = record.get(n - 1) else { continue };
        if let Op::Write(offset, bytes) = last
            && bytes.len() > 512
        {
            // Sectors land in any order: the front alone, or the rest alone.
            let half = (bytes.len() / 2).next_multiple_of(512);
            let (front, rest) = bytes.split_at(half.min(bytes.len()));
            for (what, torn) in [
                ("torn", Op::Write(*offset, front.to_vec())),
                ("torn, its front lost", Op::Write(*offset + front.len() as u64, rest.to_vec())),
            ] {
                visit(&format!("operation {n} {what}"), state(&mut record.iter().take(n - 1).chain([&torn])));
            }
        }
        // Writes since the last flush, one of them lost.
        let group = record.iter().take(n).rposition(|o| *o == Op::Flush).map_or(0, |p| p + 1);
        if *last != Op::Flush && (record.len() == n || record.get(n) == Some(&Op::Flush)) {
            for lost in group..n.saturating_sub(1) {
                let mut ops = record.iter().take(n).enumerate().filter(|(i, _)| *i != lost).map(|(_, o)| o);
                visit(&format!("operation {} lost before the flush after {n}", lost + 1), state(&mut ops));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::error::ErrorKind;

    #[test]
    fn fails_once_or_for_ever() {
        let dev = Faulty::new(vec![0; 8]);
        dev.fail(Some(Failure { at: 1, once: true, errno: libc::ENOSPC, reads: false }));
        assert!(dev.write_at(0, &[1]).is_ok());
        assert_eq!(dev.write_at(1, &[1]).unwrap_err().kind(), ErrorKind::NoSpace);
        assert!(dev.write_at(2, &[1]).is_ok());
        assert_eq!(dev.to_vec(), [1, 0, 1, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn cuts_the_power_everywhere() {
        let dev = Faulty::new(vec![0; 2]);
        dev.write_at(0, &[1]).unwrap();
        dev.write_at(1, &[2]).unwrap();
        dev.flush().unwrap();
        let mut seen = Vec::new();
        power_cuts(&[0, 0], &dev.record(), |_, bytes| seen.push(bytes));
        assert!(
            seen.contains(&vec![0, 0]) && seen.contains(&vec![1, 0]) && seen.contains(&vec![0, 2]) && seen.contains(&vec![1, 2])
        );
    }
}
