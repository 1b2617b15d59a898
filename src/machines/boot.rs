//! One boot of a machine: its steps, its root, and what was sent to it. Pure; time is an argument.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::rate::Rate;
use super::requests::Requests;
use super::story::Story;
use super::transfer_stats::{Coverage, TransferStats};
use super::up::{HostKey, SystemUp};
use super::{Loss, Protocol, RootEnd, Running, Stage, Step, UpReport};
use crate::boot::Firmware;

/// Most counters per boot, but for those of connections that are open. A machine that was known by
/// several IP addresses before its MAC address has more than one.
pub(super) const TRAFFIC_MAX: usize = 4;

/// Longest time from the last file of the boot to the root file system. Slow machines take half of
/// it to start the kernel.
pub(super) const ROOT_LIMIT: Duration = Duration::from_secs(60);

/// The last boot of a machine.
#[derive(Debug)]
pub(super) struct MachineBoot {
    pub began: Instant,
    /// The firmware that asked first.
    pub(super) began_as: Option<Firmware>,
    pub step: Step,
    /// First time of each step; `None` if a later step came before it.
    pub reached: [Option<Instant>; Step::ALL.len()],
    pub image: Option<Arc<str>>,
    pub root: Option<RootState>,
    /// Boot files that were offered.
    pub offers: u32,
    /// The last of them.
    pub offered_file: Option<Box<str>>,
    /// Time at which the last initramfs had been sent whole.
    pub(super) loaded: Option<Instant>,
    /// Time at which the last composed boot program had been sent whole.
    pub(super) program_sent: Option<Instant>,
    /// The kernel was heard of while it had no root: true if it is up, false if it gave its address
    /// back.
    pub(super) is_up: Option<bool>,
    /// Its system said that it is up.
    pub(super) system: Option<SystemUp>,
    /// Last time before a kernel at which it got a boot program or a menu.
    pub(super) asked: Option<Instant>,
    /// Its script was handed out, which is a secret.
    pub(super) secret_taken: bool,
    pub(super) last_event: Instant,
    pub requests: Requests,
    pub story: Story,
    pub rate: Rate,
    /// One or more counters; new connections add to the first.
    pub traffic: Vec<Arc<TransferStats>>,
}

/// The state of a machine's connections to its root file system.
#[derive(Debug, Clone, Copy)]
pub(super) struct RootState {
    /// Protocol of the last connection.
    pub protocol: Protocol,
    pub connections: u32,
    /// Stage after the last connection ended.
    pub(super) end: Stage,
    /// Reason why the last connection broke.
    pub loss: Option<Loss>,
}

impl MachineBoot {
    pub(super) fn new(epoch: Instant, now: Instant) -> Self {
        let mut boot = Self {
            began: now,
            began_as: None,
            step: Step::Seen,
            reached: Default::default(),
            image: None,
            root: None,
            offers: 0,
            offered_file: None,
            loaded: None,
            program_sent: None,
            is_up: None,
            system: None,
            asked: None,
            secret_taken: false,
            last_event: now,
            requests: Requests::default(),
            story: Story::default(),
            rate: Rate::default(),
            traffic: vec![Arc::new(TransferStats::new(epoch))],
        };
        boot.reach(Step::Seen, now);
        boot
    }

    /// Returns true while the machine has a connection to its root.
    pub(super) fn is_on_root(&self) -> bool {
        self.root.is_some_and(|root| root.connections > 0)
    }

    /// Returns true if a whole boot program was sent a while ago, and no root followed.
    pub(super) fn is_silent_after_program(&self, now: Instant) -> bool {
        let silence = self.program_sent.map(|sent| now.saturating_duration_since(sent));
        self.step < Step::Root && silence.is_some_and(|silence| silence > ROOT_LIMIT)
    }

    /// Returns true if the machine was sent all that it loads before its root.
    pub(super) fn is_loaded(&self) -> bool {
        self.loaded.or(self.program_sent).is_some()
    }

    pub(super) fn ended_with_program(&self) -> bool {
        self.program_sent.is_some() && self.step < Step::Root
    }

    /// Returns the bytes of images sent by all protocols.
    pub(super) fn all_bytes_sent(&self) -> u64 {
        Protocol::ALL.into_iter().map(|protocol| self.bytes_sent(protocol)).fold(0, u64::saturating_add)
    }

    /// Returns the progress on the root. Of several counters, the one that covers most counts.
    pub(super) fn coverage(&self) -> Option<&Coverage> {
        self.traffic.iter().filter_map(|traffic| traffic.root()).max_by_key(|root| root.covered())
    }

    /// Records that a connection to the root ended.
    pub(super) fn released(&mut self, end: RootEnd, now: Instant) {
        self.last_event = now;
        self.is_up = None;
        let is_whole = self.traffic.iter().filter_map(|traffic| traffic.root()).any(|root| root.is_whole());
        let Some(root) = &mut self.root else { return };
        root.connections = root.connections.saturating_sub(1);
        root.loss = end.loss();
        root.end = match (root.protocol, is_whole, end) {
            // archiso's HTTP hook downloads the image to memory, so any end after all of it is
            // fine.
            (Protocol::Http, true, _) | (_, true, RootEnd::Released) => Stage::Copied,
            (_, _, RootEnd::Released) => Stage::Released,
            (_, _, RootEnd::Lost(_)) => Stage::Lost,
        };
        let (protocol, stage) = (root.protocol, root.end);
        match end.loss().filter(|_| stage == Stage::Lost) {
            Some(loss) => self.story.tell(format_args!("root over {protocol} lost: {loss}"), now),
            None => self.story.tell(format_args!("root over {protocol} let go ({stage})"), now),
        }
    }

    /// Records a message of the system that was booted: it renews its address, or gives it back.
    pub(super) fn heard(&mut self, is_up: bool, now: Instant) {
        self.last_event = now;
        // Firmware and loaders ask as PXE clients, so this is a kernel.
        if self.step < Step::Kernel || self.is_on_root() || self.is_up == Some(is_up) {
            return;
        }
        self.is_up = Some(is_up);
        let event = match (is_up, self.step) {
            (true, Step::Root) => "its system asked for an address: it is up",
            (true, _) => "its kernel runs, and asked for an address",
            (false, _) => "address given back: it was shut down",
        };
        self.story.tell(event, now);
    }

    /// Records that the system says that it is up.
    pub(super) fn phoned_home(&mut self, report: UpReport, now: Instant) {
        let UpReport { host_name, host_keys } = report;
        self.last_event = now;
        self.is_up = Some(true);
        let name = host_name.as_deref().unwrap_or("unknown");
        let kinds: Vec<_> = host_keys.iter().map(HostKey::kind).collect();
        let kinds = if kinds.is_empty() { "unknown".to_owned() } else { kinds.join(" ") };
        self.story.tell(format_args!("its system is up: host name {name}, SSH keys {kinds}"), now);
        let since = self.system.take().map_or(now, |before| before.since);
        self.system = Some(SystemUp { since, host_keys });
    }

    /// Returns when the machine asked what to boot if the boot is done, and true if the system said so
    /// itself, false if it read all of its root and let it go.
    pub(super) fn done(&self) -> Option<(Instant, bool)> {
        let by_call = self.system.is_some();
        (by_call || self.stage() == Stage::Copied).then_some((self.asked(), by_call))
    }

    /// Returns when the machine got its menu, or whatever else says what it boots. That may be long after
    /// the boot began: firmware that gets no answer asks for hours, and a menu may be loaded again.
    fn asked(&self) -> Instant {
        let [.., loader, menu, kernel, initramfs, root] = self.reached;
        // After a take-over the last time is not known.
        let first = [menu, loader, kernel, initramfs, root].into_iter().flatten().next();
        self.asked.or(first).unwrap_or(self.began)
    }

    /// Returns true if the system said that it is up, and nothing else was seen since.
    pub(super) fn says_it_is_up(&self) -> bool {
        self.system.is_some() && self.is_up == Some(true)
    }

    /// Tells whether the booted system runs; `None` before it has its root, unless it said so.
    pub(super) fn running(&self) -> Option<Running> {
        if self.says_it_is_up() {
            return Some(Running::Up);
        }
        let root = self.root.filter(|_| self.step == Step::Root)?;
        Some(match (self.is_up, root.end) {
            _ if root.connections > 0 => Running::Up,
            (Some(true), _) => Running::Up,
            (Some(false), _) => Running::Off,
            // nbd-client disconnects when its system shuts down. Linux closes an NFS connection
            // that is idle for five minutes.
            (None, Stage::Released) if root.protocol == Protocol::Nbd => Running::Off,
            (None, _) => Running::UpOrOff,
        })
    }

    /// Returns the bytes of images sent by `protocol`.
    pub(super) fn bytes_sent(&self, protocol: Protocol) -> u64 {
        self.traffic.iter().map(|stats| stats.bytes(protocol)).fold(0, u64::saturating_add)
    }

    pub(super) fn stage(&self) -> Stage {
        let root = self.root.map(|root| if root.connections > 0 { Stage::Attached } else { root.end });
        Stage::new(self.step, root)
    }

    pub(super) fn reach(&mut self, step: Step, now: Instant) {
        self.last_event = now;
        self.requests.went_on();
        if matches!(step, Step::Loader | Step::Menu) && self.step <= Step::Menu {
            self.asked = Some(now);
        }
        if step < self.step {
            return;
        }
        self.step = step;
        if let Some(reached) = self.reached.get_mut(step as usize) {
            reached.get_or_insert(now);
        }
    }

    /// Records a step, and the image that it is of if that is known.
    pub(super) fn reach_with_image(&mut self, step: Step, image: Option<&Arc<str>>, now: Instant) {
        self.reach(step, now);
        if let Some(image) = image {
            self.image = Some(Arc::clone(image));
        }
    }

    /// Returns whether these counters are of this boot.
    pub(super) fn has(&self, traffic: &Arc<TransferStats>) -> bool {
        self.traffic.iter().any(|of_boot| Arc::ptr_eq(of_boot, traffic))
    }

    /// Returns true if a request of `firmware` for a boot file ends this boot. iPXE that was loaded
    /// as a boot program sends one more request in the same boot.
    pub(super) fn is_over_for(&self, firmware: Firmware) -> bool {
        let is_loaded_ipxe = firmware == Firmware::Ipxe && self.began_as != Some(Firmware::Ipxe);
        self.step > Step::Leased && !(is_loaded_ipxe && self.step <= Step::Menu)
    }

    /// Returns true if `step` on a new connection ends this boot: a running kernel loads no boot
    /// program. With our own DHCP server the request for a boot file has already ended the boot.
    pub(super) fn is_over(&self, step: Step) -> bool {
        match step {
            // nbd-client and Linux's NFS client connect again within a boot.
            Step::Seen | Step::Offered | Step::Leased | Step::Root => false,
            // PXELINUX and iPXE load menus and modules on many connections before a kernel.
            Step::Loader | Step::Menu => self.step >= Step::Kernel,
            Step::Kernel | Step::Initramfs => self.step == Step::Root && !self.is_on_root(),
        }
    }

    /// Returns the seconds from the start of the boot to `then`, in whole milliseconds.
    pub(super) fn seconds_until(&self, then: Instant) -> f64 {
        then.saturating_duration_since(self.began).as_millis() as f64 / 1000.0
    }

    /// Merges a boot that was recorded under another address.
    pub(super) fn join(&mut self, other: MachineBoot) {
        self.step = self.step.max(other.step);
        self.last_event = self.last_event.max(other.last_event);
        self.offers = self.offers.saturating_add(other.offers);
        self.offered_file = self.offered_file.take().or(other.offered_file);
        self.requests.join(other.requests);
        self.story.join(other.story);
        self.loaded = self.loaded.max(other.loaded);
        self.program_sent = self.program_sent.max(other.program_sent);
        self.asked = self.asked.max(other.asked);
        self.system = self.system.take().or(other.system);
        self.secret_taken |= other.secret_taken;
        for (mine, its) in self.reached.iter_mut().zip(other.reached) {
            *mine = [*mine, its].into_iter().flatten().min();
        }
        self.image = other.image.or(self.image.take());
        self.root = match (self.root, other.root) {
            (Some(mine), Some(its)) => {
                Some(RootState { connections: mine.connections + its.connections, ..its })
            }
            (mine, its) => its.or(mine),
        };
        self.traffic.extend(other.traffic);
        self.drop_unused_traffic();
    }

    /// Drops counters above [`TRAFFIC_MAX`] that no connection has any more, the last ones first.
    fn drop_unused_traffic(&mut self) {
        for at in (0..self.traffic.len()).rev() {
            // The end of a connection is found by its counters.
            let is_unused = self.traffic.get(at).is_some_and(|traffic| Arc::strong_count(traffic) == 1);
            if is_unused && self.traffic.len() > TRAFFIC_MAX {
                self.traffic.remove(at);
            }
        }
    }
}
