//! The lease file, one event a line: easy to append, to read, and to mend by hand.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use super::{Leases, UnixTime};
use crate::dhcp::wire::HardwareAddress;

/// What happened to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Leased { address: Ipv4Addr, machine: HardwareAddress, until: UnixTime },
    Freed { address: Ipv4Addr },
    Declined { address: Ipv4Addr, until: UnixTime },
}

impl Event {
    /// The address it happened to.
    pub(crate) const fn address(&self) -> Ipv4Addr {
        match *self {
            Event::Leased { address, .. } | Event::Freed { address } | Event::Declined { address, .. } => {
                address
            }
        }
    }
}

/// `lease 10.0.0.7 52:54:00:12:34:56 until 1700000000`, `free 10.0.0.7`, `declined 10.0.0.7 until 1700000000`.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Leased { address, machine, until } => {
                write!(f, "lease {address} {machine} until {}", until.0)
            }
            Event::Freed { address } => write!(f, "free {address}"),
            Event::Declined { address, until } => write!(f, "declined {address} until {}", until.0),
        }
    }
}

/// The line is no event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoEvent;

impl FromStr for Event {
    type Err = NoEvent;

    fn from_str(line: &str) -> Result<Self, NoEvent> {
        let words: Vec<&str> = line.split_ascii_whitespace().take(6).collect();
        match *words.as_slice() {
            ["lease", address, machine, "until", until] => {
                Ok(Event::Leased { address: word(address)?, machine: word(machine)?, until: time(until)? })
            }
            ["free", address] => Ok(Event::Freed { address: word(address)? }),
            ["declined", address, "until", until] => {
                Ok(Event::Declined { address: word(address)?, until: time(until)? })
            }
            _ => Err(NoEvent),
        }
    }
}

fn word<T: FromStr>(word: &str) -> Result<T, NoEvent> {
    word.parse().map_err(|_| NoEvent)
}

fn time(digits: &str) -> Result<UnixTime, NoEvent> {
    word(digits).map(UnixTime)
}

impl Leases {
    /// Applies the text of a lease file and returns the number of lines that are neither events nor comments. A last
    /// line without its end was torn by a crash, and is passed over.
    pub(crate) fn replay_text(&mut self, text: &str, now: UnixTime) -> usize {
        let mut unreadable = 0;
        let whole = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        for line in whole.map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            match line.parse() {
                Ok(event) => self.replay(event, now),
                Err(NoEvent) => unreadable += 1,
            }
        }
        unreadable
    }
}
