//! The next boots of machines, where they are not as the rules say: told by the operator, or the
//! local disk since a boot that was to happen once is done.
//!
//! The table is kept over a restart as text, one machine in each line:
//!
//! ```text
//! # isowire next boots 1
//! 52:54:00:12:34:56 1796000000 image archlinux
//! 52:54:00:12:34:57 1796000000 local
//! ```

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::{Mutex, MutexGuard};

use serde::{Deserialize, Serialize};

use crate::locked::locked;
use crate::mac::Mac;
use crate::text::Word;

/// First line of the text, with the version of its format.
const HEAD: &str = "# isowire next boots 1";

/// Most machines in the table.
const MACHINES_MAX: usize = 4096;

/// Longest text of a table, in bytes: the address, the time and the name of an image take 120.
pub(crate) const TEXT_MAX: u64 = 1 << 20;

/// The next boot of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NextBoot {
    /// This image, without a menu; from then on the local disk.
    Image(Word),
    /// As its rule says.
    Rule,
    /// The local disk, until the operator says otherwise.
    Local,
}

impl NextBoot {
    /// Returns the image that comes first.
    pub(crate) const fn image(&self) -> Option<&Word> {
        match self {
            NextBoot::Image(image) => Some(image),
            NextBoot::Rule | NextBoot::Local => None,
        }
    }
}

/// The next boot of a machine where it is another than always.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub(crate) enum UpcomingBoot {
    LocalDisk,
    /// An image, and from then on the local disk.
    Once {
        /// `null` for the one that comes first in its menu.
        image: Option<String>,
    },
    /// One of a newer server.
    #[serde(other)]
    Other,
}

impl fmt::Display for UpcomingBoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UpcomingBoot::LocalDisk => f.write_str("local disk"),
            UpcomingBoot::Once { image: Some(image) } => write!(f, "{image}, once"),
            UpcomingBoot::Once { image: None } => f.write_str("from here, once"),
            UpcomingBoot::Other => f.write_str("another than always"),
        }
    }
}

/// A next boot, and the time from which on it holds, in seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    boot: NextBoot,
    since: i64,
}

/// The next boots by machine.
#[derive(Debug, Default)]
pub(crate) struct NextBoots(Mutex<BTreeMap<Mac, Told>>);

/// Error of a table that is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{MACHINES_MAX} machines have a next boot of their own; tell `rule` to some whose rule has no `once`"
)]
pub(crate) struct TooManyError;

/// Error of a text that is not a table: the number of its first bad line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {0} is not of this version of isowire")]
pub(crate) struct NextBootsError(usize);

impl NextBoots {
    pub(crate) fn is_empty(&self) -> bool {
        self.table().is_empty()
    }

    /// Notes what a machine boots next. `is_once` is its rule's.
    ///
    /// # Errors
    /// [`TooManyError`]
    pub(super) fn tell(
        &self,
        machine: Mac,
        boot: NextBoot,
        now: i64,
        is_once: bool,
    ) -> Result<(), TooManyError> {
        let mut table = self.table();
        if boot == NextBoot::Rule && !is_once {
            table.remove(&machine);
            return Ok(());
        }
        if table.len() >= MACHINES_MAX && !table.contains_key(&machine) {
            return Err(TooManyError);
        }
        table.insert(machine, Told { boot, since: now });
        Ok(())
    }

    /// Returns what a machine boots next; `None` if that is as its rule says.
    pub(crate) fn of(&self, machine: Option<Mac>) -> Option<NextBoot> {
        let boot = self.table().get(&machine?)?.boot.clone();
        Some(boot).filter(|boot| *boot != NextBoot::Rule)
    }

    /// Notes that a boot is done for which a machine asked at this time. `is_once` is its rule's.
    /// Returns true if the machine boots from its local disk from now on, and did not before.
    ///
    /// # Errors
    /// [`TooManyError`]
    pub(super) fn finished(&self, machine: Mac, asked: i64, is_once: bool) -> Result<bool, TooManyError> {
        let mut table = self.table();
        let is_over = match table.get(&machine) {
            None if is_once && table.len() >= MACHINES_MAX => return Err(TooManyError),
            None => is_once,
            Some(Told { boot: NextBoot::Local, .. }) => false,
            // A boot before it was told is not the one that was meant.
            Some(Told { boot: NextBoot::Image(_), since }) => asked >= *since,
            Some(Told { boot: NextBoot::Rule, since }) => is_once && asked >= *since,
        };
        if is_over {
            table.insert(machine, Told { boot: NextBoot::Local, since: asked });
        }
        Ok(is_over)
    }

    /// Replaces the table by that of a text. What it says of the time after `now` is of a clock that was
    /// wrong.
    ///
    /// # Errors
    /// [`NextBootsError`]
    pub(crate) fn restore(&self, text: &str, now: i64) -> Result<(), NextBootsError> {
        let mut lines = (1..).zip(text.lines());
        if lines.next().is_none_or(|(_, head)| head != HEAD) {
            return Err(NextBootsError(1));
        }
        let told = lines.map(|(number, line)| {
            let (machine, Told { boot, since }) = parse(line).ok_or(NextBootsError(number))?;
            Ok((machine, Told { boot, since: since.min(now) }))
        });
        *self.table() = told.take(MACHINES_MAX).collect::<Result<_, _>>()?;
        Ok(())
    }

    /// Returns the table as text. `ahead` is by how many seconds the system's clock is ahead of the one of
    /// this table.
    pub(crate) fn text(&self, ahead: i64) -> String {
        let mut text = format!("{HEAD}\n");
        for (machine, Told { boot, since }) in self.table().iter() {
            let since = since.saturating_add(ahead);
            // Writing to a string cannot fail.
            let _ = match boot {
                NextBoot::Image(image) => writeln!(text, "{machine} {since} image {image}"),
                NextBoot::Rule => writeln!(text, "{machine} {since} rule"),
                NextBoot::Local => writeln!(text, "{machine} {since} local"),
            };
        }
        text
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<Mac, Told>> {
        // A panic while the lock is held leaves complete entries.
        locked(&self.0)
    }
}

fn parse(line: &str) -> Option<(Mac, Told)> {
    let words: Vec<_> = line.split(' ').take(5).collect();
    let (machine, since, boot) = match words[..] {
        [machine, since, "image", image] => (machine, since, NextBoot::Image(Word::new(image)?)),
        [machine, since, "rule"] => (machine, since, NextBoot::Rule),
        [machine, since, "local"] => (machine, since, NextBoot::Local),
        _ => return None,
    };
    Some((machine.parse().ok()?, Told { boot, since: since.parse().ok()? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(n: u8) -> Mac {
        Mac::new(&[2, 0, 0, 0, 0, n]).unwrap()
    }

    fn image() -> NextBoot {
        NextBoot::Image(Word::new("arch").unwrap())
    }

    #[test]
    fn image_is_booted_once() {
        let next = NextBoots::default();
        next.tell(mac(1), image(), 100, false).unwrap();
        assert_eq!(next.of(Some(mac(1))), Some(image()));
        assert_eq!(next.finished(mac(1), 99, false), Ok(false), "the boot before it was told");
        assert_eq!(next.finished(mac(1), 100, false), Ok(true));
        assert_eq!(next.of(Some(mac(1))), Some(NextBoot::Local));
        assert_eq!(next.finished(mac(1), 200, true), Ok(false), "told already");
        next.tell(mac(1), NextBoot::Rule, 300, false).unwrap();
        assert_eq!(next.of(Some(mac(1))), None);
    }

    #[test]
    fn rule_with_once_ends_at_the_local_disk() {
        let next = NextBoots::default();
        assert_eq!(next.finished(mac(1), 100, false), Ok(false), "its rule does not say so");
        assert_eq!(next.finished(mac(1), 100, true), Ok(true));
        assert_eq!(
            [next.of(Some(mac(1))), next.of(Some(mac(2))), next.of(None)],
            [Some(NextBoot::Local), None, None]
        );
        next.tell(mac(1), NextBoot::Rule, 200, true).unwrap();
        assert_eq!(next.finished(mac(1), 100, true), Ok(false));
        assert_eq!(next.finished(mac(1), 200, true), Ok(true));
    }

    #[test]
    fn table_round_trips_as_text() {
        let (next, again) = (NextBoots::default(), NextBoots::default());
        next.tell(mac(1), image(), 1, false).unwrap();
        next.tell(mac(2), NextBoot::Local, 2, false).unwrap();
        next.tell(mac(3), NextBoot::Rule, 3, true).unwrap();
        let text = next.text(0);
        assert_eq!(text.lines().nth(1), Some("02:00:00:00:00:01 1 image arch"));
        again.restore(&text, 3).unwrap();
        assert_eq!(again.text(0), text);
        for (bad, line) in [
            ("", 1),
            ("# isowire next boots 2\n", 1),
            ("# isowire next boots 1\n\n", 2),
            ("# isowire next boots 1\n02:00:00:00:00:01 1 local\n02:00:00:00:00:01 x local\n", 3),
            ("# isowire next boots 1\n02:00:00:00:00:01 1 image a b\n", 2),
        ] {
            assert_eq!(again.restore(bad, 3), Err(NextBootsError(line)), "{bad:?}");
        }
        assert_eq!(again.text(0), text, "unchanged");
        // The system's clock was set after the start.
        assert_eq!(again.text(100).lines().nth(1), Some("02:00:00:00:00:01 101 image arch"));
        again.restore(&again.text(100), 50).unwrap();
        assert_eq!(again.text(0).lines().nth(1), Some("02:00:00:00:00:01 50 image arch"));
    }

    #[test]
    fn table_is_bounded() {
        let next = NextBoots::default();
        for n in 0..MACHINES_MAX {
            let mac = Mac::new(&[2, 0, 0, 1, (n >> 8) as u8, n as u8]).unwrap();
            next.tell(mac, NextBoot::Local, 0, false).unwrap();
        }
        assert_eq!(next.tell(mac(1), NextBoot::Local, 0, false), Err(TooManyError));
        assert_eq!(next.finished(mac(1), 1, true), Err(TooManyError));
        assert!((next.text(0).len() as u64) < TEXT_MAX);
        let told = Mac::new(&[2, 0, 0, 1, 0, 0]).unwrap();
        next.tell(told, NextBoot::Rule, 0, false).unwrap();
        assert_eq!(next.finished(mac(1), 1, true), Ok(true), "it is as if the other was never told");
    }
}
