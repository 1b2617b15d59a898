//! How long an image goes on being found by its versioned name and its handles after its name has come to mean another one, or
//! nothing: as long as machines may come back for it.

use std::time::{Duration, Instant};

/// A boot that has begun is over by then, or has got hold of its root.
const BOOT: Duration = Duration::from_secs(600);

/// A machine that lives on NFS closes its connection when it is idle, and asks for nothing as long as it has in memory what
/// it needs.
const NFS: Duration = Duration::from_secs(7 * 86_400);

/// Images that are kept though nobody holds them: each costs an open file and its index.
const KEPT_MAX: usize = 16;

/// An image that was replaced or removed.
#[derive(Debug, Clone, Copy)]
pub struct Retiree {
    /// When that was.
    pub since: Instant,
    /// When somebody last came for it by NFS.
    pub last_call: Option<Instant>,
    /// Whether a client has it right now.
    pub is_held: bool,
}

impl Retiree {
    fn is_over(&self, now: Instant) -> bool {
        let within = |since: Instant, time| now.saturating_duration_since(since) < time;
        !self.is_held && !within(self.since, BOOT) && !self.last_call.is_some_and(|call| within(call, NFS))
    }
}

/// Which of these can go, by their positions.
pub fn to_let_go(retirees: &[Retiree], now: Instant) -> Vec<usize> {
    let is_over = |position: &usize| retirees.get(*position).is_some_and(|retiree| retiree.is_over(now));
    let (mut over, mut kept): (Vec<usize>, Vec<usize>) = (0..retirees.len()).partition(is_over);
    kept.retain(|&position| retirees.get(position).is_some_and(|retiree| !retiree.is_held));
    kept.sort_by_key(|&position| retirees.get(position).map(|retiree| retiree.since));
    let surplus = kept.len().saturating_sub(KEPT_MAX);
    over.extend(kept.into_iter().take(surplus));
    over
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn an_image_goes_when_nobody_can_come_back_for_it() {
        let start = Instant::now();
        let free = Retiree { since: start, last_call: None, is_held: false };
        let goes = |retiree: Retiree, after| to_let_go(&[retiree], start + after) == [0];
        assert!(!goes(free, 9 * MINUTE) && goes(free, 10 * MINUTE));
        let called = Retiree { last_call: Some(start + DAY), ..free };
        assert!(!goes(called, 7 * DAY) && goes(called, 8 * DAY));
        let before = Retiree { since: start + DAY, last_call: Some(start), ..free };
        assert!(!goes(before, DAY + MINUTE) && goes(before, 7 * DAY), "the call counts, not the replacement");
        let held = Retiree { is_held: true, ..called };
        assert!(!goes(held, 365 * DAY));
    }

    #[test]
    fn the_oldest_go_when_there_are_many() {
        let start = Instant::now();
        let retiree = |n: u32| Retiree {
            since: start + n * MINUTE,
            last_call: Some(start + 60 * MINUTE),
            is_held: n.is_multiple_of(10),
        };
        // The newest first; three of them are held.
        let retirees: Vec<_> = (0..23).rev().map(retiree).collect();
        let gone = to_let_go(&retirees, start + 60 * MINUTE);
        let gone: Vec<_> = gone.into_iter().map(|position| 22 - position).collect();
        assert_eq!(gone, [1, 2, 3, 4], "twenty are not held");
        assert!(to_let_go(&retirees[..17], start + 60 * MINUTE).is_empty());
    }
}
