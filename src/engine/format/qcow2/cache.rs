//! A bounded cache of decoded blocks by their place in the file, shared by readers on any thread.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// Blocks by host offset; the least recently used go first.
///
/// The lock is held for a look-up only, never while a block is read or decoded. Two threads that miss at once both load; the
/// blocks are equal.
#[derive(Debug)]
pub struct Cache {
    /// Bytes kept at most (one block always fits).
    capacity: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    blocks: HashMap<u64, (u64, Arc<Vec<u8>>)>,
    /// Keys by when they were last used.
    order: BTreeMap<u64, u64>,
    clock: u64,
    bytes: usize,
}

impl Cache {
    /// An empty cache of `capacity` bytes.
    pub fn new(capacity: usize) -> Self {
        Cache { capacity, state: Mutex::default() }
    }

    /// The block at `key`, if it is there.
    pub fn get(&self, key: u64) -> Option<Arc<Vec<u8>>> {
        let mut guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *guard;
        state.clock += 1;
        let (used, block) = state.blocks.get_mut(&key)?;
        state.order.remove(used);
        *used = state.clock;
        state.order.insert(state.clock, key);
        Some(block.clone())
    }

    /// Puts `block` at `key`, dropping old ones while there are too many bytes.
    pub fn insert(&self, key: u64, block: Arc<Vec<u8>>) {
        let mut guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *guard;
        state.clock += 1;
        state.bytes += block.len();
        state.order.insert(state.clock, key);
        if let Some((used, old)) = state.blocks.insert(key, (state.clock, block)) {
            state.order.remove(&used);
            state.bytes -= old.len();
        }
        while state.bytes > self.capacity && state.blocks.len() > 1 {
            let Some((_, oldest)) = state.order.pop_first() else { return };
            if let Some((_, block)) = state.blocks.remove(&oldest) {
                state.bytes -= block.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes_first() {
        let cache = Cache::new(30);
        for key in 0..3 {
            cache.insert(key, Arc::new(vec![key as u8; 10]));
        }
        assert!(cache.get(0).is_some());
        cache.insert(3, Arc::new(vec![3; 10]));
        assert!(cache.get(1).is_none());
        assert_eq!(cache.get(0).map(|b| b[0]), Some(0));
        cache.insert(9, Arc::new(vec![9; 100]));
        assert_eq!((cache.get(9).map(|b| b.len()), cache.get(0)), (Some(100), None));
    }
}
