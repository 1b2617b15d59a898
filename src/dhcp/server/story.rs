//! The log of DHCP: a machine's way to its address and its boot file, one line a step.

use std::io;
use std::time::{Duration, Instant};

use tracing::field::display;
use tracing::{debug, info, warn};

use super::FAILURE_PAUSE;
use crate::boot::Refusal;
use crate::dhcp::session::{DhcpPort, NoReply, Outcome, Request};
use crate::dhcp::wire::{MessageType, Reply};

/// A warning that anybody can cause is written at most this often.
const QUIET: Duration = Duration::from_secs(60);

/// Writes the log; remembers when it last warned.
#[derive(Debug, Default)]
pub(super) struct Story {
    pool_exhausted: Quiet,
    failed: Quiet,
    unsent: Quiet,
}

impl Story {
    /// One step of one machine.
    pub(super) fn tell(&mut self, request: &Request, answer: &Outcome) {
        match answer {
            Outcome::Send { reply, boot: Some(Err(why)), .. } => {
                tell_reply(request, reply, None);
                tell_no_boot(request, why);
            }
            Outcome::Send { reply, boot, .. } => {
                let boot = boot.as_ref().and_then(|boot| boot.as_ref().ok());
                tell_reply(request, reply, boot.map(|boot| boot.platform.to_string()));
            }
            Outcome::NoReply(silence) => self.tell_silence(request, silence),
        }
    }

    fn tell_silence(&mut self, request: &Request, silence: &NoReply) {
        let machine = request.message.header.hardware();
        match silence {
            NoReply::NoBootFile(why) => tell_no_boot(request, why),
            NoReply::TakesAddress { address, server } => {
                info!(%machine, %address, %server, "takes its address from another DHCP server");
            }
            NoReply::Released(address) => info!(%machine, %address, "gave its address back"),
            NoReply::Declined(address) => {
                warn!(%machine, %address, "found its address in use by somebody else: it rests for ten minutes");
            }
            NoReply::PoolExhausted if self.pool_exhausted.is_over() => {
                warn!(%machine, "gets no address: every address of the DHCP range is taken");
            }
            _ => debug!(%machine, kind = ?request.message.kind, "DHCP message not answered: {silence}"),
        }
    }

    /// A socket failed; the caller goes on after a pause.
    pub(super) async fn failed(&mut self, what: &str, error: &io::Error) {
        if self.failed.is_over() {
            warn!("cannot {what} DHCP messages for now: {error}");
        }
        tokio::time::sleep(FAILURE_PAUSE).await;
    }

    /// A reply did not leave.
    pub(super) fn unsent(&mut self, error: &io::Error) {
        if self.unsent.is_over() {
            warn!("cannot send a DHCP reply: {error}");
        }
    }
}

fn tell_reply(request: &Request, reply: &Reply, architecture: Option<String>) {
    let message = &request.message;
    let machine = message.header.hardware();
    // Refused, or another server's to give.
    let requested = message.requested.filter(|_| reply.kind != MessageType::Offer);
    let addresses = [Some(reply.header.yiaddr), requested, Some(message.header.ciaddr)];
    let address = addresses.into_iter().flatten().find(|address| !address.is_unspecified()).map(display);
    let file = reply.boot_file().map(display);
    let step = match (request.port, reply.kind) {
        (DhcpPort::BootServer, _) => "PXE boot server reply",
        (DhcpPort::Dhcp, MessageType::Offer) => "DHCP offer",
        (DhcpPort::Dhcp, MessageType::Nak) => "DHCP refusal: it may not have this address",
        (DhcpPort::Dhcp, _) if message.kind == MessageType::Inform => "DHCP information",
        (DhcpPort::Dhcp, _) if reply.header.yiaddr.is_unspecified() => {
            "boot file beside the address of another DHCP server"
        }
        (DhcpPort::Dhcp, _) => "DHCP lease",
    };
    info!(%machine, address, architecture, file, "{step}");
}

fn tell_no_boot(request: &Request, why: &Refusal) {
    let machine = request.message.header.hardware();
    info!(%machine, "no boot file: {why}");
}

/// Time since something was last said.
#[derive(Debug, Default)]
struct Quiet(Option<Instant>);

impl Quiet {
    /// True when it may be said again.
    fn is_over(&mut self) -> bool {
        let is_over = self.0.is_none_or(|last| last.elapsed() >= QUIET);
        if is_over {
            self.0 = Some(Instant::now());
        }
        is_over
    }
}
