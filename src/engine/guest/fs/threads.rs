//! Many parts of a filesystem looked at, each apart from the others.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use super::GUARDING;

/// Threads that work at once on one filesystem.
const MOST: usize = 4;

/// Does `work` for each number below `count`, with every processor there is, and answers what came of them in their order. After an error
/// no other is begun; of several, the one with the lowest number is told. A panic goes on in the caller's thread.
pub(in crate::engine) fn side_by_side<T: Send, E: Send>(
    count: usize,
    work: impl Fn(usize) -> std::result::Result<T, E> + Sync,
) -> std::result::Result<Vec<T>, E> {
    let (next, done, guarding) = (AtomicUsize::new(0), Mutex::new(Vec::new()), GUARDING.get());
    let take = || loop {
        let n = next.fetch_add(1, Relaxed);
        if n >= count {
            break;
        }
        let one = work(n);
        if one.is_err() {
            next.store(count, Relaxed);
        }
        done.lock().unwrap_or_else(PoisonError::into_inner).push((n, one));
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MOST).min(count);
    std::thread::scope(|s| {
        let other = || {
            GUARDING.set(guarding);
            take();
        };
        let others: Vec<_> = (1..threads).map(|_| s.spawn(other)).collect();
        take();
        for t in others {
            t.join().unwrap_or_else(|panic| resume_unwind(panic));
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_unstable_by_key(|(n, _)| *n);
    done.into_iter().map(|(_, one)| one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_done_in_order_and_the_first_error_ends_it() {
        assert_eq!(side_by_side(1000, |n| Ok::<_, ()>(n * 2)), Ok((0..1000).map(|n| n * 2).collect()));
        assert_eq!(side_by_side(0, |_| Err::<(), _>("not asked")), Ok(Vec::new()));
        let begun = AtomicUsize::new(0);
        let done = side_by_side(1_000_000, |n| {
            begun.fetch_add(1, Relaxed);
            if n >= 10 { Err(n) } else { Ok(()) }
        });
        assert_eq!(done, Err(10));
        assert!(begun.load(Relaxed) < 1000);
    }

    #[test]
    fn a_panic_in_any_thread_is_one_here() {
        let panics = || side_by_side(100, |n| if n == 57 { std::panic::panic_any("57") } else { Ok::<_, ()>(()) });
        GUARDING.set(true);
        let caught = std::panic::catch_unwind(panics);
        GUARDING.set(false);
        assert!(caught.is_err());
    }
}
