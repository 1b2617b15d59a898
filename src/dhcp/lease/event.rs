//! Text of the lease file, one event per line: easy to append, to read and to repair by hand.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use super::UnixTime;
use crate::dhcp::wire::HardwareAddress;

/// Change of an address that must survive a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Leased {
        address: Ipv4Addr,
        machine: HardwareAddress,
        until: UnixTime,
        /// True if the machine booted from here: its address is kept for it after the lease.
        known: bool,
    },
    Freed {
        address: Ipv4Addr,
    },
    Declined {
        address: Ipv4Addr,
        until: UnixTime,
    },
}

impl Event {
    /// Returns the address that changed.
    pub(crate) const fn address(&self) -> Ipv4Addr {
        match *self {
            Event::Leased { address, .. } | Event::Freed { address } | Event::Declined { address, .. } => {
                address
            }
        }
    }

    /// Returns the end of the lease or of the quarantine; `None` for an address that is free.
    pub(crate) const fn until(&self) -> Option<UnixTime> {
        match *self {
            Event::Leased { until, .. } | Event::Declined { until, .. } => Some(until),
            Event::Freed { .. } => None,
        }
    }
}

/// Writes `lease 10.0.0.7 52:54:00:12:34:56 until 1700000000`, with ` known` behind it if the
/// machine is; `free 10.0.0.7`; or `declined 10.0.0.7 until 1700000000`.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Leased { address, machine, until, known } => {
                let known = if *known { " known" } else { "" };
                write!(f, "lease {address} {machine} until {}{known}", until.0)
            }
            Event::Freed { address } => write!(f, "free {address}"),
            Event::Declined { address, until } => write!(f, "declined {address} until {}", until.0),
        }
    }
}

/// Error of a line that is not an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventError;

impl FromStr for Event {
    type Err = EventError;

    fn from_str(line: &str) -> Result<Self, EventError> {
        // One word more than the longest event has: a longer line then matches no pattern.
        let words: Vec<&str> = line.split_ascii_whitespace().take(7).collect();
        match *words.as_slice() {
            ["lease", address, machine, "until", until, ref rest @ ..] if matches!(rest, [] | ["known"]) => {
                let (address, machine, known) = (parse(address)?, parse(machine)?, !rest.is_empty());
                Ok(Event::Leased { address, machine, until: parse_time(until)?, known })
            }
            ["free", address] => Ok(Event::Freed { address: parse(address)? }),
            ["declined", address, "until", until] => {
                Ok(Event::Declined { address: parse(address)?, until: parse_time(until)? })
            }
            _ => Err(EventError),
        }
    }
}

fn parse<T: FromStr>(word: &str) -> Result<T, EventError> {
    word.parse().map_err(|_| EventError)
}

fn parse_time(digits: &str) -> Result<UnixTime, EventError> {
    parse(digits).map(UnixTime)
}

/// Reads the lines of a lease file that are not comments.
pub(crate) fn events_of(text: &str) -> impl Iterator<Item = Result<Event, EventError>> {
    // A last line without its end was torn by a crash: `10.0.0.1` may be half of `10.0.0.17`.
    let whole = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(str::trim);
    whole.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::parse)
}
