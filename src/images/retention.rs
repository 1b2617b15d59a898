//! The retention rule: how long a replaced image is still found by its versioned name and its
//! handles.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ServedImage;

/// Longest time of a boot: after that, a machine that began to boot has attached its root or given
/// up.
const BOOT: Duration = Duration::from_secs(600);

/// Time for which an NFS client may come back. Linux closes an idle connection, and needs no new
/// one as long as what it reads is in its memory.
const NFS: Duration = Duration::from_secs(7 * 86_400);

/// Most retained images that no client uses: each costs an open file and its index.
const UNUSED_MAX: usize = 16;

/// An image that was replaced or removed, and when.
#[derive(Debug, Clone)]
pub(super) struct Retained {
    pub(super) image: Arc<ServedImage>,
    pub(super) since: Instant,
}

impl Retained {
    fn has_expired(&self, now: Instant) -> bool {
        // NBD sessions and transfers hold the image itself; an NFS client has only handles.
        let last_call = self.image.last_call();
        !self.image.is_in_use()
            && now.saturating_duration_since(self.since) >= BOOT
            && last_call.is_none_or(|call| now.saturating_duration_since(call) >= NFS)
    }
}

/// Takes out the images for which no client can come back, and the oldest ones if there are too
/// many.
pub(super) fn expire(retained: &mut Vec<Retained>, now: Instant) -> Vec<Arc<ServedImage>> {
    let mut expired: Vec<_> = retained.extract_if(.., |old| old.has_expired(now)).collect();
    // Images in use do not count: to close one would take the root from a machine.
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
    fn image_expires_without_possible_clients() {
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
    fn oldest_of_many_images_expire() {
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
