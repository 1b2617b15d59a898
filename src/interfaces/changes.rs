//! News of the kernel that links or addresses changed (rtnetlink(7)).
//!
//! The messages are not parsed: after any of them the list is read again, so that a lost message
//! does no harm. The crate `rtnetlink` is not used, since it is a decoder of these messages.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use tokio::io::unix::AsyncFd;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::debug;

use crate::sys;

/// Groups of messages: links, and addresses of both families.
const GROUPS: [libc::c_int; 3] = [libc::RTMGRP_LINK, libc::RTMGRP_IPV4_IFADDR, libc::RTMGRP_IPV6_IFADDR];

/// Shortest time between two reports. A host that starts containers has many changes in a moment.
const PACE: Duration = Duration::from_millis(50);

/// Time between two reports if the kernel sends no messages.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Source of the news that links or addresses of this host changed.
#[derive(Debug)]
pub(crate) struct InterfaceChanges {
    /// `None` if the kernel or a sandbox refuses it.
    messages: Option<AsyncFd<OwnedFd>>,
    pace: Interval,
}

impl InterfaceChanges {
    /// Begins to listen. A list that is read afterwards misses no change. Where the kernel refuses
    /// the socket, changes are reported at intervals, whether there are any or not.
    pub(crate) fn listen() -> Self {
        let messages = open().inspect_err(|error| {
            debug!("no news of network interfaces, looking every {LOOK_EVERY:?} instead: {error}");
        });
        Self::of(messages.ok())
    }

    fn of(messages: Option<AsyncFd<OwnedFd>>) -> Self {
        let mut pace = interval(if messages.is_some() { PACE } else { LOOK_EVERY });
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { messages, pace }
    }

    /// Waits for a change. One report may stand for many changes.
    pub(crate) async fn next(&mut self) {
        self.pace.tick().await;
        let Some(messages) = &self.messages else { return };
        // It fails only if the runtime shuts down.
        let Ok(mut ready) = messages.readable().await else { return };
        while ready.try_io(|socket| discard(socket.get_ref())).is_ok_and(|discarded| discarded.is_ok()) {}
    }
}

fn open() -> io::Result<AsyncFd<OwnedFd>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // Protocol 0 is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    let groups = GROUPS.into_iter().fold(0, |groups, group| groups | group.cast_unsigned());
    // Port 0: the kernel chooses one (netlink(7)).
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    sys::readable(socket)
}

/// Takes one message, whatever it says.
fn discard(socket: &OwnedFd) -> io::Result<()> {
    // The rest of a longer message is dropped.
    match recv(socket, &mut [0; 16], RecvFlags::empty()) {
        // netlink(7): messages were lost, for lack of memory. They stand for changes as well.
        Ok(_) | Err(Errno::NOBUFS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    #[tokio::test]
    async fn unchanged_host_is_silent_unless_it_sends_no_messages() {
        let (first, last) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::DGRAM,
            SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let mut changes = InterfaceChanges::of(Some(sys::readable(first).unwrap()));
        assert!(timeout(PACE * 3, changes.next()).await.is_err());
        for _ in 0..3 {
            rustix::net::send(&last, &[7; 1000], rustix::net::SendFlags::empty()).unwrap();
        }
        changes.next().await;
        assert!(timeout(PACE * 3, changes.next()).await.is_err(), "one report for all that is there");
    }

    #[tokio::test(start_paused = true)]
    async fn host_without_messages_is_looked_at() {
        let (mut changes, start) = (InterfaceChanges::of(None), Instant::now());
        changes.next().await;
        changes.next().await;
        assert_eq!(start.elapsed(), LOOK_EVERY);
    }
}
