//! What is served and what was, and how the one comes from the other. Nothing here is opened or waited for.

use std::sync::Arc;
use std::time::Instant;

use tracing::{info, warn};

use super::retirement::{self, Retiree};
use super::shelf::Volume;
use crate::images::{ImageSet, Listed};

/// The images of a moment.
#[derive(Debug, Clone)]
pub struct Stand {
    /// Those that are served, the default first.
    pub shelf: Vec<Volume>,
    retired: Vec<Retired>,
}

/// An image that was replaced or removed, and when.
#[derive(Debug, Clone)]
struct Retired {
    volume: Volume,
    since: Instant,
}

/// What happened to an image.
#[derive(Debug)]
pub enum Event {
    Added(Volume),
    Replaced(Volume),
    /// The file that an image was in has another content: who lives on it reads that now.
    Overwritten(Volume),
    Gone(Volume),
    /// It is not found any more by those who knew it.
    LetGo(Volume),
    /// It is now what is meant where no image is named.
    Default(Volume),
}

impl Stand {
    pub const fn new(shelf: Vec<Volume>) -> Self {
        Self { shelf, retired: Vec::new() }
    }

    /// Every image of the moment as clients find it; `None` where there is none.
    pub fn images(&self) -> Option<ImageSet> {
        let listed = |volume: &Volume| Arc::clone(&volume.listed);
        let (default, others) = self.shelf.split_first()?;
        let others: Vec<Arc<Listed>> = others.iter().map(listed).collect();
        let retired = self.retired.iter().map(|retired| listed(&retired.volume)).collect();
        Some(ImageSet::with_retired(listed(default), others, retired))
    }

    /// Those that were served, and still are for whoever knows them.
    pub fn retired(&self) -> impl Iterator<Item = &Volume> {
        self.retired.iter().map(|retired| &retired.volume)
    }

    /// Asks of each image whether somebody came for it by NFS meanwhile.
    pub fn look(&mut self, now: Instant) {
        let retired = self.retired.iter_mut().map(|retired| &mut retired.volume);
        self.shelf.iter_mut().chain(retired).for_each(|volume| volume.look(now));
    }

    /// The images when these are served from now on, and what became of which.
    pub fn next(&self, shelf: Vec<Volume>, now: Instant) -> (Self, Vec<Event>) {
        let mut events = Vec::new();
        let is_served = |volume: &Volume| shelf.iter().any(|other| other.is(volume));
        let mut retired = self.retired.clone();
        retired.retain(|retired| !is_served(&retired.volume));
        for old in self.shelf.iter().filter(|&old| !is_served(old)) {
            match shelf.iter().find(|new| new.path == old.path) {
                Some(new) if old.was_overwritten_by(new) => {
                    events.push(Event::Overwritten(new.clone()));
                    continue;
                }
                Some(new) => events.push(Event::Replaced(new.clone())),
                None => events.push(Event::Gone(old.clone())),
            }
            retired.push(Retired { volume: old.clone(), since: now });
        }
        let is_new = |new: &&Volume| self.shelf.iter().all(|old| !old.is(new) && old.path != new.path);
        events.extend(shelf.iter().filter(is_new).cloned().map(Event::Added));
        if let (Some(old), Some(new)) = (self.shelf.first(), shelf.first())
            && !old.is(new)
        {
            events.push(Event::Default(new.clone()));
        }
        let mut next = Self { shelf, retired };
        events.extend(next.let_go(now));
        (next, events)
    }

    /// Forgets those that nobody can come back for.
    pub fn let_go(&mut self, now: Instant) -> Vec<Event> {
        let retiree = |Retired { volume, since }: &Retired| Retiree {
            since: *since,
            last_call: volume.last_call,
            is_held: volume.listed.is_held(),
        };
        let retirees: Vec<_> = self.retired.iter().map(retiree).collect();
        let mut positions = retirement::to_let_go(&retirees, now);
        positions.sort_unstable_by(|a, b| b.cmp(a));
        positions.into_iter().map(|position| Event::LetGo(self.retired.remove(position).volume)).collect()
    }

    /// Whether the same images are served in the same order.
    pub fn serves_as(&self, other: &Self) -> bool {
        let same = |(a, b): (&Volume, &Volume)| a.is(b);
        self.shelf.len() == other.shelf.len() && self.shelf.iter().zip(&other.shelf).all(same)
    }
}

impl Event {
    /// The story, for the log.
    pub fn tell(&self) {
        let (Self::Added(volume)
        | Self::Replaced(volume)
        | Self::Overwritten(volume)
        | Self::Gone(volume)
        | Self::LetGo(volume)
        | Self::Default(volume)) = self;
        let (image, path) = (volume.served().versioned_name(), volume.path.display());
        match self {
            Self::Added(_) => info!(image, %path, "image added"),
            Self::Replaced(_) => info!(image, %path, "image replaced: who has the old one keeps it"),
            Self::Overwritten(_) => warn!(
                image, %path,
                "image written over in place: who lives on the old one reads wrong bytes; copy to another name and rename"
            ),
            Self::Gone(_) => info!(image, %path, "image gone: who has it keeps it"),
            Self::LetGo(_) => info!(image, %path, "old image let go: nobody came for it any more"),
            Self::Default(_) => info!(image, %path, "this is the default image now"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::shelf::tests::{volume, written_over};
    use super::*;
    use crate::image::Identity;

    fn story(events: &[Event]) -> Vec<String> {
        let name = |event: &Event| match event {
            Event::Added(volume) => format!("added {}", volume.served().name),
            Event::Replaced(volume) => format!("replaced {}", volume.served().name),
            Event::Overwritten(volume) => format!("overwritten {}", volume.served().name),
            Event::Gone(volume) => format!("gone {}", volume.served().name),
            Event::LetGo(volume) => format!("let go {}", volume.served().name),
            Event::Default(volume) => format!("default {}", volume.served().name),
        };
        events.iter().map(name).collect()
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn what_was_served_is_found_until_it_is_let_go() {
        let now = Instant::now();
        let (one, two, other) = (volume("a.iso", 1), volume("b.iso", 2), volume("a.iso", 3));
        let identity = |volume: &Volume| volume.served().image.identity;
        let first = Stand::new(vec![one.clone(), two.clone()]);
        let (second, events) = first.next(vec![other.clone()], now);
        assert_eq!(story(&events), ["replaced a", "gone b", "default a"]);
        assert!(!first.serves_as(&second) && first.serves_as(&first));
        let images = second.images().unwrap();
        for old in [&one, &two] {
            assert!(images.identified(identity(old)).is_some());
            assert!(images.image(old.served().versioned_name().as_bytes()).is_some());
        }
        assert_eq!(images.image(b"a").map(|found| found.image.identity), Some(identity(&other)));
        assert!(images.image(b"b").is_none() && images.names().all(|name| name != "b"));
        let (third, events) = second.next(vec![two.clone(), other.clone()], now + MINUTE);
        assert_eq!(story(&events), ["added b", "default b"], "the same as before");
        assert_eq!(third.retired().count(), 1);
        // Somebody used a handle above.
        let mut last = third.clone();
        last.look(now + MINUTE);
        assert_eq!(story(&last.let_go(now + 60 * MINUTE)), [""; 0]);
        let events = last.let_go(now + 7 * 24 * 60 * MINUTE + MINUTE);
        assert_eq!(story(&events), ["let go a"]);
        assert!(last.images().unwrap().identified(identity(&one)).is_none());
    }

    #[test]
    fn what_was_written_over_in_place_is_not_found_any_more() {
        let now = Instant::now();
        let old = volume("a.iso", 1);
        let new = written_over(volume("a.iso", 2), &old);
        let (stand, events) = Stand::new(vec![old.clone()]).next(vec![new], now);
        assert_eq!(story(&events), ["overwritten a", "default a"]);
        assert!(stand.images().unwrap().identified(old.served().image.identity).is_none());
    }

    #[test]
    fn who_holds_an_image_keeps_it() {
        let now = Instant::now();
        let (one, two) = (volume("a.iso", 1), volume("a.iso", 2));
        let client = Arc::clone(&one.served().image);
        let (mut stand, _) = Stand::new(vec![one]).next(vec![two], now);
        assert_eq!(story(&stand.let_go(now + 60 * MINUTE)), [""; 0]);
        drop(client);
        assert_eq!(story(&stand.let_go(now + 60 * MINUTE)), ["let go a"]);
        assert!(stand.images().unwrap().identified(Identity(7)).is_none());
    }
}
