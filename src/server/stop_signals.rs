//! What ends a server from outside.

use std::io::{self, IsTerminal as _};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT (Ctrl-C), SIGTERM, and the SIGHUP of a terminal that is closed.
pub(super) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    terminal: Terminal,
}

/// The terminal that isowire was started from. Its end is a SIGHUP as well; any other SIGHUP is a
/// request to look for images.
struct Terminal {
    hangup: Signal,
    was_there: bool,
}

impl Terminal {
    async fn closed(&mut self) {
        loop {
            let signal = self.hangup.recv().await;
            // Without a terminal, as under systemd, every SIGHUP is a request.
            if signal.is_some() && self.was_there && !io::stdin().is_terminal() {
                return;
            }
        }
    }
}

impl StopSignals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            terminal: Terminal {
                hangup: signal(SignalKind::hangup())?,
                was_there: io::stdin().is_terminal(),
            },
        })
    }

    /// Waits for one of them, and returns what to call it.
    pub(super) async fn received(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT received",
            _ = self.terminate.recv() => "SIGTERM received",
            () = self.terminal.closed() => "terminal closed",
        }
    }
}
