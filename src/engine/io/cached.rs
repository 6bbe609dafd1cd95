//! A device whose recently read blocks stay in memory, for readers that ask for many small things near each other.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Device, HostRange, ReadAt};
use crate::engine::error::Result;

/// Bytes of a block.
const BLOCK: u64 = 32 << 10;
/// Blocks kept, at most: 4 MiB.
const MOST: usize = 128;

/// `inner`, which nobody writes while this is in use.
pub struct Cached {
    inner: Device,
    kept: Mutex<Kept>,
}

/// The blocks in memory. One that was read again since it came stays for another round when room is made.
#[derive(Default)]
struct Kept {
    blocks: HashMap<u64, (Arc<Vec<u8>>, bool)>,
    order: VecDeque<u64>,
    /// Memory of one that had to go, for the next.
    spare: Vec<u8>,
}

impl Kept {
    fn get(&mut self, block: u64) -> Option<Arc<Vec<u8>>> {
        let (bytes, again) = self.blocks.get_mut(&block)?;
        *again = true;
        Some(bytes.clone())
    }
    fn put(&mut self, block: u64, bytes: Arc<Vec<u8>>) {
        while self.blocks.len() >= MOST
            && let Some(oldest) = self.order.pop_front()
        {
            match self.blocks.get_mut(&oldest) {
                Some((_, again)) if *again => {
                    *again = false;
                    self.order.push_back(oldest);
                }
                _ => {
                    let gone = self.blocks.remove(&oldest).and_then(|(bytes, _)| Arc::try_unwrap(bytes).ok());
                    self.spare = gone.unwrap_or_default();
                }
            }
        }
        if self.blocks.insert(block, (bytes, false)).is_none() {
            self.order.push_back(block);
        }
    }
}

impl Cached {
    /// Nothing read yet.
    pub fn new(inner: Device) -> Self {
        Cached { inner, kept: Mutex::default() }
    }

    fn block(&self, block: u64) -> Result<Arc<Vec<u8>>> {
        let mut bytes = {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(bytes) = kept.get(block) {
                return Ok(bytes);
            }
            std::mem::take(&mut kept.spare)
        };
        let start = block * BLOCK;
        bytes.resize(BLOCK.min(self.len().saturating_sub(start)) as usize, 0);
        self.inner.read_at(start, &mut bytes)?;
        let bytes = Arc::new(bytes);
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).put(block, bytes.clone());
        Ok(bytes)
    }
}

impl ReadAt for Cached {
    fn len(&self) -> u64 {
        self.inner.len()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let end = offset.saturating_add(buf.len() as u64);
        // What is large is read once, and what does not lie within the device is an error the device words best.
        if buf.len() as u64 >= BLOCK || end > self.len() {
            return self.inner.read_at(offset, buf);
        }
        let mut at = offset;
        while at < end {
            let (block, stop) = (at / BLOCK, end.min((at / BLOCK + 1) * BLOCK));
            let Some(part) = buf.get_mut((at - offset) as usize..(stop - offset) as usize) else { break };
            match self.block(block) {
                Ok(bytes) => match bytes.get((at % BLOCK) as usize..).and_then(|b| b.get(..part.len())) {
                    Some(bytes) => part.copy_from_slice(bytes),
                    None => self.inner.read_at(at, part)?,
                },
                // Something else in the block cannot be read; what is wanted may be.
                Err(_) => self.inner.read_at(at, part)?,
            }
            at = stop;
        }
        Ok(())
    }
    fn path(&self) -> Option<&Path> {
        self.inner.path()
    }
    fn host_range(&self, offset: u64, max: u64) -> Result<HostRange> {
        self.inner.host_range(offset, max)
    }
    fn allocated(&self) -> u64 {
        self.inner.allocated()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::error::ErrorKind;
    use crate::engine::io::memory::Memory;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reads_what_is_there(len in 0usize..200_000, reads in prop::collection::vec((0usize..200_000, 0usize..80_000), 1..30)) {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 31 % 251) as u8).collect();
            let dev = Cached::new(Arc::new(Memory::new(bytes.clone())));
            for (at, n) in reads {
                let mut buf = vec![0; n];
                let done = dev.read_at(at as u64, &mut buf);
                match bytes.get(at..at + n) {
                    Some(want) => { prop_assert!(done.is_ok()); prop_assert!(buf == want); }
                    None => prop_assert_eq!(done.unwrap_err().kind(), ErrorKind::Truncated),
                }
            }
        }
    }

    #[test]
    fn memory_stays_bounded_and_what_is_wanted_again_stays() {
        let dev = Cached::new(Arc::new(Memory::new(vec![7; (MOST + 50) * BLOCK as usize])));
        let mut buf = [0; 10];
        for block in 0..(MOST + 50) as u64 {
            dev.read_at(block * BLOCK, &mut buf).unwrap();
            dev.read_at(0, &mut buf).unwrap();
        }
        let kept = dev.kept.lock().unwrap();
        assert!(kept.blocks.len() == MOST && kept.order.len() == MOST && kept.blocks.contains_key(&0));
    }

    #[test]
    fn a_bad_place_spoils_only_itself() {
        struct Bad(Memory);
        impl ReadAt for Bad {
            fn len(&self) -> u64 {
                self.0.len()
            }
            fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
                if (offset..offset + buf.len() as u64).contains(&5000) {
                    return Err(crate::engine::error::Error::corrupt("a bad sector"));
                }
                self.0.read_at(offset, buf)
            }
        }
        let dev = Cached::new(Arc::new(Bad(Memory::new(vec![3; 9000]))));
        let mut buf = [0; 100];
        dev.read_at(4000, &mut buf).unwrap();
        assert_eq!(buf, [3; 100]);
        assert!(dev.read_at(4990, &mut buf).is_err());
    }
}
