//! The reserve of file descriptors. The kernel gives the lowest free number (open(2)), so the number
//! of a new descriptor tells how many are in use at least.

use std::os::fd::RawFd;

use rustix::process::{Resource, getrlimit};

/// Part of the open files that new clients do not get: images that are opened, the lease file,
/// the next process, and machines that connect to their root again.
const RESERVE_PART: u64 = 8;

/// Bounds of the reserve: enough for a handover, and no more than a thousand machines take.
const RESERVE: std::ops::RangeInclusive<u64> = 32..=1024;

/// Numbers of descriptors from which on there are only those of the reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptors {
    /// The reserve begins here.
    for_new: u64,
    /// Here begins the half of it that no client gets.
    for_all: u64,
}

impl Descriptors {
    /// Returns those of this process.
    pub(crate) fn of_process() -> Self {
        getrlimit(Resource::Nofile).current.map_or_else(Self::unlimited, Self::of)
    }

    pub(super) fn of(open_files: u64) -> Self {
        let reserve = (open_files / RESERVE_PART).clamp(*RESERVE.start(), *RESERVE.end());
        let below = |reserve| open_files.saturating_sub(reserve);
        Self { for_new: below(reserve), for_all: below(reserve / 2) }
    }

    pub(crate) const fn unlimited() -> Self {
        Self { for_new: u64::MAX, for_all: u64::MAX }
    }

    /// Returns the descriptors that new clients may have.
    pub(super) fn for_all(&self) -> usize {
        self.for_new.try_into().unwrap_or(usize::MAX)
    }

    /// Returns `true` if a client that has this descriptor takes one of the reserve.
    pub(crate) fn is_above_for_new(&self, descriptor: RawFd) -> bool {
        u64::try_from(descriptor).is_ok_and(|descriptor| descriptor >= self.for_new)
    }

    /// Returns `true` if no client may have this descriptor.
    pub(super) fn is_above_all(&self, descriptor: RawFd) -> bool {
        u64::try_from(descriptor).is_ok_and(|descriptor| descriptor >= self.for_all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserve_is_a_part_of_open_files() {
        let reserved = |open_files| {
            let Descriptors { for_new, for_all } = Descriptors::of(open_files);
            (open_files - for_new, open_files - for_all)
        };
        assert_eq!([reserved(64), reserved(1024), reserved(1 << 20)], [(32, 16), (128, 64), (1024, 512)]);
        let descriptors = Descriptors::of(1024);
        assert!(!descriptors.is_above_for_new(895) && descriptors.is_above_for_new(896));
        assert!(!descriptors.is_above_all(959) && descriptors.is_above_all(960));
        assert!(!Descriptors::unlimited().is_above_for_new(i32::MAX));
    }
}
