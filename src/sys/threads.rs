//! Helper threads, if the caller allows them. They are started for one call and have ended when the
//! call returns.

use parking_lot::Mutex;

/// Blocks all signals in this thread until the value is dropped. A thread that is started meanwhile
/// inherits the mask.
struct BlockedSignals(libc::sigset_t);

impl BlockedSignals {
    fn new() -> Self {
        // SAFETY: both sets are ours.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, &raw mut before);
            Self(before)
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: the set is the earlier mask of this thread.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut());
        }
    }
}

/// Calls `work` with each part, in this thread and in up to `helpers` more threads. If the host
/// refuses a thread, fewer threads do the work. The helper threads handle no signals.
pub(crate) fn share<T: Send>(helpers: usize, parts: Vec<T>, work: impl Fn(T) + Sync) {
    let helpers = helpers.min(parts.len().saturating_sub(1));
    let queue = Mutex::new(parts);
    let run = || {
        loop {
            let next = queue.lock().pop();
            let Some(part) = next else { break };
            work(part);
        }
    };
    std::thread::scope(|scope| {
        let mut started = Vec::new();
        {
            let _blocked = BlockedSignals::new();
            for _ in 0..helpers {
                let helper = std::thread::Builder::new()
                    .name("vmstore-helper".into())
                    .stack_size(64 << 10);
                match helper.spawn_scoped(scope, run) {
                    Ok(helper) => started.push(helper),
                    Err(_) => break,
                }
            }
        }
        run();
        for helper in started {
            if let Err(panic) = helper.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::share;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn every_part_is_done_once() {
        for helpers in [0, 1, 3] {
            for count in [0, 1, 2, 100] {
                let done: Vec<AtomicU64> = (0..count).map(|_| AtomicU64::new(0)).collect();
                share(helpers, (0..count).collect(), |part: usize| {
                    done[part].fetch_add(1, Ordering::Relaxed);
                });
                assert!(done.iter().all(|n| n.load(Ordering::Relaxed) == 1));
            }
        }
    }
}
