//! The story of a boot: what happened, and when. Pure; time is an argument.

use std::collections::VecDeque;
use std::fmt::{self, Display, Formatter, Write as _};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::ages::Ages;

/// Most events of a boot; a boot has about twenty. Earlier ones are dropped.
const EVENTS_MAX: usize = 32;

/// Longest event in characters: a path and some words.
const TEXT_MAX: usize = 160;

/// The events of one boot.
#[derive(Debug, Default)]
pub(super) struct Story(VecDeque<StoryEvent>);

/// Something that happened to a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoryEvent {
    /// The first time.
    pub at: Instant,
    pub text: Box<str>,
    /// Times that it happened without another event between.
    pub times: u32,
}

/// The same for another process, with its age.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CarriedEvent {
    age: Duration,
    text: String,
    times: u32,
}

impl Story {
    /// Adds an event. One like the last only counts.
    pub(super) fn tell(&mut self, event: impl Display, now: Instant) {
        let mut text = Bounded::default();
        // It takes all that fits.
        let _ = write!(text, "{event}");
        match self.0.back_mut() {
            Some(last) if *last.text == *text.0 => last.times = last.times.saturating_add(1),
            _ => self.push(StoryEvent { at: now, text: text.0.into(), times: 1 }),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &StoryEvent> {
        self.0.iter()
    }

    /// Adds the events of a boot that was recorded under another address.
    pub(super) fn join(&mut self, other: Self) {
        let mut all: Vec<_> = self.0.drain(..).chain(other.0).collect();
        all.sort_by_key(|event| event.at);
        all.into_iter().for_each(|event| self.push(event));
    }

    pub(super) fn carried(&self, ages: Ages) -> Vec<CarriedEvent> {
        let carried = |event: &StoryEvent| CarriedEvent {
            age: ages.of(event.at),
            text: event.text.to_string(),
            times: event.times,
        };
        self.iter().map(carried).collect()
    }

    pub(super) fn of_carried(events: Vec<CarriedEvent>, ages: Ages) -> Self {
        let mut story = Self::default();
        for CarriedEvent { age, text, times } in events {
            story.push(StoryEvent { at: ages.moment(age), text: text.into(), times });
        }
        story
    }

    fn push(&mut self, event: StoryEvent) {
        if self.0.len() >= EVENTS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(event);
    }
}

/// Text of at most [`TEXT_MAX`] characters.
#[derive(Default)]
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let left = TEXT_MAX.saturating_sub(self.0.chars().count());
        self.0.extend(text.chars().take(left));
        Ok(())
    }
}

impl Display for StoryEvent {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.times {
            1 => f.write_str(&self.text),
            times => write!(f, "{} ({times} times)", self.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn story_is_bounded_and_counts_repetitions() {
        let (mut story, now) = (Story::default(), Instant::now());
        for _ in 0..3 {
            story.tell("offered a boot file", now);
        }
        assert_eq!(story.iter().next().unwrap().to_string(), "offered a boot file (3 times)");
        for number in 0..100 {
            story.tell(format_args!("{number} {}", "x".repeat(1000)), now);
        }
        assert_eq!(story.iter().count(), EVENTS_MAX);
        assert!(story.iter().all(|event| event.text.len() == TEXT_MAX));
        let ages = Ages(now + Duration::from_secs(5));
        let again = Story::of_carried(story.carried(ages), ages);
        assert_eq!(again.0, story.0);
    }
}
