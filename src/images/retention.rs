//! The retention rule: how long a replaced image is still found by its versioned name and its
//! handles.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ServedImage;

/// Longest time of a boot: after that, a machine that began to boot has attached its root or given
/// up.
const BOOT: Duration = Duration::from_secs(600);

/// Time for which an NFS client may come back. Linux closes an idle connection, and needs no other
/// one as long as it has in memory what it reads.
const NFS: Duration = Duration::from_secs(7 * 86_400);

/// Most images retained that no client uses: each costs an open file and its index.
const UNUSED_MAX: usize = 16;

/// An image that was replaced or removed, and when.
#[derive(Debug, Clone)]
pub(super) struct Retained {
    pub(super) image: Arc<ServedImage>,
    pub(super) since: Instant,
}

impl Retained {
    fn has_expired(&self, now: Instant) -> bool {
        let last_call = self.image.last_call();
        !self.image.is_in_use()
            && now.saturating_duration_since(self.since) >= BOOT
            && last_call.is_none_or(|call| now.saturating_duration_since(call) >= NFS)
    }
}

/// Takes out the images that no client can come back for, and the oldest ones where there are too
/// many.
pub(super) fn expire(retained: &mut Vec<Retained>, now: Instant) -> Vec<Arc<ServedImage>> {
    let mut expired: Vec<_> = retained.extract_if(.., |old| old.has_expired(now)).collect();
    let unused = retained.iter().filter(|old| !old.image.is_in_use()).count();
    for _ in UNUSED_MAX..unused {
        let unused = retained.iter().enumerate().filter(|(_, old)| !old.image.is_in_use());
        let Some((oldest, _)) = unused.min_by_key(|(_, old)| old.since) else { break };
        expired.push(retained.remove(oldest));
    }
    expired.into_iter().map(|old| old.image).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::served;
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn image_expires_when_no_client_can_come_back() {
        let start = Instant::now();
        let expires = |since: Duration, call: Option<Duration>, is_in_use: bool, after: Duration| {
            let image = served("a.iso", 1);
            let _client = is_in_use.then(|| Arc::clone(&image.image));
            if let Some(call) = call {
                image.note_call();
                image.date_calls(start + call);
            }
            let mut retained = vec![Retained { image, since: start + since }];
            expire(&mut retained, start + after).len() == 1 && retained.is_empty()
        };
        let zero = Duration::ZERO;
        let unused = |after| expires(zero, None, false, after);
        assert!(!unused(9 * MINUTE) && unused(10 * MINUTE));
        let called = |after| expires(zero, Some(DAY), false, after);
        assert!(!called(7 * DAY) && called(8 * DAY));
        let called_before = |after| expires(DAY, Some(zero), false, after);
        assert!(
            !called_before(DAY + MINUTE) && called_before(7 * DAY),
            "the call counts, not the replacement"
        );
        assert!(!expires(zero, Some(DAY), true, 365 * DAY));
    }

    #[test]
    fn oldest_expire_when_there_are_many() {
        let start = Instant::now();
        // The newest first; every tenth is in use.
        let images: Vec<_> = (0..23).map(|n| served(&format!("{n}.iso"), n)).collect();
        let clients: Vec<_> = images.iter().step_by(10).map(|image| Arc::clone(&image.image)).collect();
        let retained = |n: usize| {
            let image = Arc::clone(&images[n]);
            image.note_call();
            image.date_calls(start + 60 * MINUTE);
            Retained { image, since: start + n as u32 * MINUTE }
        };
        let mut many: Vec<_> = (0..23).rev().map(retained).collect();
        let mut few = many[..17].to_vec();
        let expired = expire(&mut many, start + 60 * MINUTE);
        let names: Vec<_> = expired.iter().map(|image| image.name.as_str()).collect();
        assert_eq!((names, clients.len()), (vec!["1", "2", "3", "4"], 3), "twenty are not in use");
        assert_eq!(many.len(), 19);
        assert!(expire(&mut few, start + 60 * MINUTE).is_empty());
    }
}
