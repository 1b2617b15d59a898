//! The gate between those who send blocks and those who evict them.
//!
//! A sender enters, sees that its blocks are there, hands the mapping to the kernel, and leaves. An
//! evictor marks a block absent, waits until all senders that entered before have left, and only
//! then gives the block's space away. So no sender sends a hole. Senders pay for it with two additions
//! to a counter that they share with few others (as in sleepable RCU of Linux).

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::thread;
use std::time::Duration;

use crate::locked::locked;

/// Sets of counters: more than a host has processors, in most cases.
const SHARDS: usize = 16;

/// Looks at a counter after each of which other threads run, before the first pause. A sender is
/// inside for one system call that does not wait.
const LOOKS: u32 = 50;

/// Pause between later looks.
const PAUSE: Duration = Duration::from_micros(100);

/// Number of the next thread that enters a gate.
static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static OWN: usize = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
}

/// Counters of some threads. The alignment is that of two cache lines, which processors fetch
/// together.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    /// Senders that are inside, by the side through which they entered.
    inside: [AtomicUsize; 2],
}

#[derive(Debug, Default)]
pub(super) struct Gate {
    shards: [Shard; SHARDS],
    /// Its lowest bit is the side that is open now.
    side: AtomicUsize,
    /// One evictor waits at a time.
    waiting: Mutex<()>,
}

/// Presence of a sender inside the gate.
#[derive(Debug)]
pub(crate) struct Pass<'a>(&'a AtomicUsize);

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

impl Gate {
    /// Enters. What is found to be there from now on stays there until the pass is dropped. Nobody
    /// waits for an evictor inside.
    pub(super) fn enter(&self) -> Option<Pass<'_>> {
        let own = OWN.try_with(|own| *own).unwrap_or(0);
        let side = self.side.load(Ordering::Relaxed) & 1;
        let inside = self.shards.get(own)?.inside.get(side)?;
        inside.fetch_add(1, Ordering::SeqCst);
        // The states of blocks are read after this, for all who look: a processor may not do it
        // before.
        fence(Ordering::SeqCst);
        Some(Pass(inside))
    }

    /// Waits until all have left that may have seen what the caller changed before.
    pub(super) fn wait(&self) {
        let _alone = locked(&self.waiting);
        fence(Ordering::SeqCst);
        // Twice: a sender may have looked which side is open, and entered after the last change of
        // it.
        for _ in 0..2 {
            let left = self.side.fetch_add(1, Ordering::SeqCst) & 1;
            let counters = self.shards.iter().filter_map(|shard| shard.inside.get(left));
            counters.for_each(wait_for_none);
        }
    }
}

fn wait_for_none(counter: &AtomicUsize) {
    let mut looks = 0;
    while counter.load(Ordering::SeqCst) > 0 {
        looks += 1;
        if looks < LOOKS { thread::yield_now() } else { thread::sleep(PAUSE) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::time::Instant;

    use super::*;

    #[test]
    fn evictor_waits_for_those_inside() {
        let gate = Arc::new(Gate::default());
        let pass = gate.enter().unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let evictor = thread::spawn({
            let (gate, is_over) = (Arc::clone(&gate), Arc::clone(&is_over));
            move || {
                gate.wait();
                is_over.store(true, Ordering::SeqCst);
            }
        });
        thread::sleep(Duration::from_millis(50));
        // Others come and go meanwhile, through the side that is open now.
        (0..10).for_each(|_| drop(gate.enter()));
        assert!(!is_over.load(Ordering::SeqCst));
        drop(pass);
        evictor.join().unwrap();
        gate.wait();
    }

    #[test]
    fn evictor_does_not_wait_for_ever_where_many_send() {
        let gate = Arc::new(Gate::default());
        let is_over = Arc::new(AtomicBool::new(false));
        let senders: Vec<_> = (0..4)
            .map(|_| {
                let (gate, is_over) = (Arc::clone(&gate), Arc::clone(&is_over));
                thread::spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        drop(gate.enter());
                    }
                })
            })
            .collect();
        let began = Instant::now();
        (0..100).for_each(|_| gate.wait());
        is_over.store(true, Ordering::Relaxed);
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        assert!(began.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn block_that_a_sender_found_stays_until_it_left() {
        let gate = Arc::new(Gate::default());
        // A block that is there or not, and its content.
        let [is_there, content] = [(); 2].map(|()| Arc::new(AtomicBool::new(true)));
        let is_over = Arc::new(AtomicBool::new(false));
        let senders: Vec<_> = (0..3)
            .map(|_| {
                let (gate, is_over) = (Arc::clone(&gate), Arc::clone(&is_over));
                let (is_there, content) = (Arc::clone(&is_there), Arc::clone(&content));
                thread::spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        let _pass = gate.enter();
                        if is_there.load(Ordering::SeqCst) {
                            assert!(content.load(Ordering::SeqCst), "a hole was sent");
                        }
                    }
                })
            })
            .collect();
        for _ in 0..2000 {
            is_there.store(false, Ordering::SeqCst);
            gate.wait();
            content.store(false, Ordering::SeqCst);
            content.store(true, Ordering::SeqCst);
            is_there.store(true, Ordering::SeqCst);
        }
        is_over.store(true, Ordering::Relaxed);
        senders.into_iter().for_each(|sender| sender.join().unwrap());
    }
}
