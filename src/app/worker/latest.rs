//! A thread that works on the newest request only: an older one that has not begun is dropped, one that runs is told to stop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The sender's end. Dropping it ends the thread after what it does.
pub struct Latest<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    next: Mutex<Next<T>>,
    wake: Condvar,
    /// A newer request waits, or the end: what runs should stop.
    stale: AtomicBool,
}

struct Next<T> {
    request: Option<T>,
    ended: bool,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Send + 'static> Latest<T> {
    /// Starts a thread called `name` that hands each request to `work`, with a question that says when to stop early.
    ///
    /// Errors: the system gives no thread.
    pub fn spawn(name: &str, mut work: impl FnMut(T, &dyn Fn() -> bool) + Send + 'static) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            next: Mutex::new(Next { request: None, ended: false }),
            wake: Condvar::new(),
            stale: AtomicBool::new(false),
        });
        let theirs = shared.clone();
        std::thread::Builder::new().name(name.into()).spawn(move || {
            loop {
                let request = {
                    let mut next = lock(&theirs.next);
                    loop {
                        if let Some(request) = next.request.take() {
                            theirs.stale.store(false, Ordering::Relaxed);
                            break request;
                        }
                        if next.ended {
                            return;
                        }
                        next = theirs.wake.wait(next).unwrap_or_else(PoisonError::into_inner);
                    }
                };
                work(request, &|| theirs.stale.load(Ordering::Relaxed));
            }
        })?;
        Ok(Latest { shared })
    }

    /// Asks for `request` in place of whatever was asked before.
    pub fn ask(&self, request: T) {
        let mut next = lock(&self.shared.next);
        next.request = Some(request);
        // Under the lock: else the thread could take this request and then be told that it is stale.
        self.shared.stale.store(true, Ordering::Relaxed);
        self.shared.wake.notify_one();
    }
}

impl<T> Drop for Latest<T> {
    fn drop(&mut self) {
        let mut next = lock(&self.shared.next);
        next.ended = true;
        self.shared.stale.store(true, Ordering::Relaxed);
        self.shared.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn only_the_newest_is_worked_on() {
        let (started, has_started) = mpsc::channel();
        let (done, results) = mpsc::channel();
        let worker = Latest::spawn("test", move |n: u32, stop: &dyn Fn() -> bool| {
            if n == 1 {
                started.send(()).unwrap();
                while !stop() {
                    std::thread::yield_now();
                }
            }
            done.send((n, stop())).unwrap();
        })
        .unwrap();
        worker.ask(1);
        has_started.recv().unwrap();
        // While 1 runs both wait; 2 is never begun, unless the thread took it before 3 came.
        {
            let mut next = lock(&worker.shared.next);
            next.request = Some(2);
            next.request = Some(3);
            worker.shared.stale.store(true, Ordering::Relaxed);
        }
        assert_eq!(results.recv().unwrap(), (1, true));
        assert_eq!(results.recv().unwrap(), (3, false));
        drop(worker);
        assert!(results.recv().is_err());
    }
}
