//! Keeps the last lines about each machine, beside the log itself.

use std::fmt::{Debug, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::word;
use crate::recent_lines::{self, Subject};

/// The layer of the log that keeps lines about machines. It sees the lines that are written.
#[derive(Debug)]
pub(super) struct MachineLines;

impl<S: Subscriber> Layer<S> for MachineLines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        if let Some(subject) = line.subject() {
            let text = format!("{}{}{}", word(*event.metadata().level()), line.message, line.fields);
            recent_lines::note(subject, &text, Instant::now());
        }
    }
}

/// A line without its date and level.
#[derive(Default)]
struct Line {
    message: String,
    /// Each as ` name=value`.
    fields: String,
    mac: Option<String>,
    peer: Option<String>,
}

impl Line {
    /// Returns the machine that the line is about. Its MAC address is surer than its address.
    fn subject(&self) -> Option<Subject> {
        let mac = self.mac.as_ref().and_then(|mac| mac.parse().ok()).map(Subject::Mac);
        mac.or_else(|| {
            let peer = self.peer.as_ref()?;
            let address = peer.parse().map(|peer: SocketAddr| peer.ip()).or_else(|_| peer.parse::<IpAddr>());
            Some(Subject::Address(address.ok()?.to_canonical()))
        })
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            // A string takes everything.
            "message" => drop(write!(self.message, "{value:?}")),
            "machine" | "mac" => self.mac = Some(unquoted(value)),
            "peer" => self.peer = Some(unquoted(value)),
            name => drop(write!(self.fields, " {name}={value:?}")),
        }
    }
}

fn unquoted(value: &dyn Debug) -> String {
    let text = format!("{value:?}");
    text.trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use tracing::subscriber::with_default;
    use tracing::{info, warn};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    fn noted(subject: Subject) -> Vec<String> {
        recent_lines::about([subject].into_iter()).into_iter().map(|line| line.text.into()).collect()
    }

    #[test]
    fn line_is_kept_with_the_machine_that_it_is_about() {
        let mac = "02:00:5e:00:53:07";
        let peer: SocketAddr = "198.51.100.7:1234".parse().unwrap();
        let mapped: SocketAddr = "[::ffff:198.51.100.7]:1234".parse().unwrap();
        with_default(tracing_subscriber::registry().with(MachineLines), || {
            info!(machine = %mac, address = 7, "DHCP lease");
            info!(%peer, mac, "system is up");
            warn!(%peer, path = "/a b", "file {} refused", 7);
            info!(%mapped, peer = %mapped, "mapped");
            info!(peer = %peer.ip(), "by its address");
            info!("about nobody");
            info!(machine = "12", "of other hardware");
        });
        let by_mac = noted(Subject::Mac(mac.parse().unwrap()));
        assert_eq!(by_mac, ["DHCP lease address=7", "system is up"]);
        let by_address = noted(Subject::Address(peer.ip()));
        let mapped = format!("mapped mapped={mapped}");
        assert_eq!(by_address, ["warning: file 7 refused path=\"/a b\"", &mapped, "by its address"]);
    }
}
