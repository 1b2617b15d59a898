//! What a boot reads of an image, learned from the first machine that boots it and lives on it. Pure;
//! time is an argument.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::image::Extent;
use crate::image::boot_list::BLOCKS_MAX;
use crate::locked::locked;
use crate::store::ledger::BLOCK;

/// Time without a new block after which a machine with a root is up. The longest such time in the
/// boots that were recorded was 2.7 s.
const IDLE: Duration = Duration::from_secs(15);

/// Time from its root until a machine is up at the latest.
const LONGEST: Duration = Duration::from_secs(180);

/// Time without a new block after which a machine without a root is not followed any more.
const ROOT_LIMIT: Duration = Duration::from_secs(120);

/// Fewest blocks of a root that a boot reads.
const BLOCKS_MIN: usize = 8;

/// No machine is followed.
const NOBODY: u64 = 0;

/// The search for what a boot reads of one image.
#[derive(Debug, Default)]
pub(super) struct Learner {
    /// Number of the boot that is followed. Other connections only look at it.
    followed: AtomicU64,
    lesson: Mutex<Option<Lesson>>,
}

/// Blocks that a machine has read.
#[derive(Debug)]
struct Lesson {
    boot: u64,
    /// In the order of their first reads.
    blocks: Vec<u32>,
    seen: HashSet<u32>,
    /// Time of the last new block.
    last: Instant,
    rooted: Option<Rooted>,
}

/// The moment in which a machine had its root.
#[derive(Debug)]
struct Rooted {
    since: Instant,
    /// Number of blocks read before.
    before: usize,
}

impl Learner {
    /// Notes that a machine loads its kernel from the image. The first one is followed.
    pub(super) fn began(&self, boot: u64, now: Instant) {
        let mut lesson = locked(&self.lesson);
        if lesson.is_none() {
            *lesson =
                Some(Lesson { boot, blocks: Vec::new(), seen: HashSet::new(), last: now, rooted: None });
            self.followed.store(boot, Relaxed);
        }
    }

    /// Notes that a machine has its root in the image.
    pub(super) fn rooted(&self, boot: u64, now: Instant) {
        // It may have loaded its kernel elsewhere.
        self.began(boot, now);
        if let Some(lesson) = locked(&self.lesson).as_mut().filter(|lesson| lesson.boot == boot) {
            let before = lesson.blocks.len();
            lesson.last = now;
            lesson.rooted.get_or_insert(Rooted { since: now, before });
        }
    }

    /// Notes that a machine lost its root, or let it go: it has not lived on it for long.
    pub(super) fn released(&self, boot: u64) {
        if self.follows(boot) {
            self.forget(&mut locked(&self.lesson));
        }
    }

    /// Returns `true` if this boot is followed. Costs a look at a number that is seldom written.
    pub(super) fn follows(&self, boot: u64) -> bool {
        self.followed.load(Relaxed) == boot
    }

    /// Notes what was sent to a machine.
    pub(super) fn note(&self, boot: u64, extent: Extent, now: Instant) {
        let mut lesson = locked(&self.lesson);
        let Some(followed) = lesson.as_mut().filter(|lesson| lesson.boot == boot) else { return };
        if !followed.note(extent, now) {
            self.forget(&mut lesson);
        }
    }

    /// Takes what was learned, once the machine is up.
    pub(super) fn take(&self, now: Instant) -> Option<Vec<u32>> {
        let mut lesson = locked(&self.lesson);
        match lesson.as_ref()?.outcome(now) {
            Outcome::Open => None,
            Outcome::Nothing => {
                self.forget(&mut lesson);
                None
            }
            Outcome::Learned => {
                let learned = lesson.take();
                self.forget(&mut lesson);
                learned.map(|lesson| lesson.blocks)
            }
        }
    }

    fn forget(&self, lesson: &mut Option<Lesson>) {
        *lesson = None;
        self.followed.store(NOBODY, Relaxed);
    }
}

enum Outcome {
    Open,
    Learned,
    /// The machine did not come far.
    Nothing,
}

impl Lesson {
    /// Returns `false` if the machine reads too much: it copies its root, and in order.
    fn note(&mut self, extent: Extent, now: Instant) -> bool {
        let blocks = extent.offset / BLOCK..extent.end().div_ceil(BLOCK);
        // An image has less than 2^32 blocks.
        for block in blocks.map(|block| block as u32) {
            if self.seen.insert(block) {
                self.last = now;
                self.blocks.push(block);
            }
        }
        self.blocks.len() <= BLOCKS_MAX
    }

    fn outcome(&self, now: Instant) -> Outcome {
        let silence = now.saturating_duration_since(self.last);
        match &self.rooted {
            None if silence > ROOT_LIMIT => Outcome::Nothing,
            None => Outcome::Open,
            Some(Rooted { since, .. })
                if silence < IDLE && now.saturating_duration_since(*since) < LONGEST =>
            {
                Outcome::Open
            }
            Some(Rooted { before, .. }) if self.blocks.len() < before + BLOCKS_MIN => Outcome::Nothing,
            Some(_) => Outcome::Learned,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    const fn block(block: u64) -> Extent {
        Extent { offset: block * BLOCK + 7, len: 4096 }
    }

    /// A boot that has read these blocks of its root.
    fn rooted(learner: &Learner, boot: u64, blocks: impl Iterator<Item = u64>, now: Instant) {
        learner.rooted(boot, now);
        blocks.for_each(|number| learner.note(boot, block(number), now));
    }

    #[test]
    fn first_machine_is_followed_until_it_is_up() {
        let (learner, now) = (Learner::default(), Instant::now());
        assert!(!learner.follows(1) && learner.take(now).is_none());
        learner.began(1, now);
        learner.began(2, now);
        assert!(learner.follows(1) && !learner.follows(2));
        learner.note(1, Extent { offset: 5 * BLOCK - 1, len: 2 }, now);
        learner.note(2, block(90), now);
        assert!(learner.take(now + 100 * SECOND).is_none(), "it may be slow to find its root");
        let now = now + 100 * SECOND;
        rooted(&learner, 1, [30, 4, 10, 11, 12, 13, 10, 9, 8, 7].into_iter(), now);
        rooted(&learner, 2, 50..70, now);
        assert!(learner.take(now + 14 * SECOND).is_none());
        learner.note(1, block(30), now + 14 * SECOND);
        let learned = learner.take(now + IDLE).unwrap();
        assert_eq!(learned, [4, 5, 30, 10, 11, 12, 13, 9, 8, 7], "in the order of the first reads");
        assert!(!learner.follows(1) && learner.take(now + 2 * IDLE).is_none());
    }

    #[test]
    fn machine_that_reads_on_is_up_at_last() {
        let (learner, now) = (Learner::default(), Instant::now());
        learner.rooted(1, now);
        for second in 0..180 {
            learner.note(1, block(second), now + SECOND * second as u32);
            assert!(learner.take(now + SECOND * second as u32).is_none());
        }
        assert_eq!(learner.take(now + LONGEST).unwrap().len(), 180);
    }

    #[test]
    fn machine_that_does_not_come_far_teaches_nothing() {
        let (learner, now) = (Learner::default(), Instant::now());
        // It has no root, reads little of it, or loses it.
        learner.began(1, now);
        assert!(learner.take(now + ROOT_LIMIT + SECOND).is_none() && !learner.follows(1));
        rooted(&learner, 2, 0..7, now);
        assert!(learner.take(now + IDLE).is_none() && !learner.follows(2));
        rooted(&learner, 3, 0..100, now);
        learner.released(9);
        assert!(learner.follows(3));
        learner.released(3);
        assert!(learner.take(now + IDLE).is_none());
        rooted(&learner, 4, 0..9, now);
        assert_eq!(learner.take(now + IDLE).unwrap().len(), 9);
    }

    #[test]
    fn machine_that_copies_its_root_teaches_nothing() {
        let (learner, now) = (Learner::default(), Instant::now());
        rooted(&learner, 1, 0..BLOCKS_MAX as u64, now);
        assert!(learner.follows(1));
        learner.note(1, block(BLOCKS_MAX as u64), now);
        assert!(!learner.follows(1) && learner.take(now + IDLE).is_none());
        learner.note(1, block(3), now);
        assert!(learner.take(now + IDLE).is_none());
    }
}
