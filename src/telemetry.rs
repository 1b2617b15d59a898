//! The log, on standard error: a line per event for people, an object per event for programs.

mod machine_lines;
mod repeats;

use std::fmt;
use std::io::{self, IsTerminal as _};
use std::num::NonZeroU32;
use std::time::Instant;

use jiff::Timestamp;
use tracing::{Event, Level, Subscriber, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use self::machine_lines::MachineLines;
use self::repeats::{Repeats, RepeatsLayer};
use crate::config::LogFormat;
use crate::{output, panics};

/// The log, until its end.
#[derive(Debug)]
pub struct Log {
    repeats: Option<&'static Repeats>,
}

/// Error that keeps the log from starting.
#[derive(Debug, thiserror::Error)]
#[error("no thread can be started for the log: {0}; raise `TasksMax=` of the unit, or `ulimit -u`")]
pub struct LogError(#[from] io::Error);

/// Starts the log, which also tells of panics. `RUST_LOG` selects the events; by default these are
/// the steps of each boot. Of the lines of one kind about one peer, `repeats` are written before
/// the others are counted; `None` means all.
///
/// # Errors
/// [`LogError`] if the system refuses a thread.
///
/// # Panics
/// If it is called twice.
pub fn start(format: LogFormat, repeats: Option<NonZeroU32>) -> Result<Log, LogError> {
    // It lives as long as the log, which is never taken out of use.
    let repeats: Option<&Repeats> = repeats.map(|burst| &*Box::leak(Box::new(Repeats::new(burst))));
    output::start(move |dropped| {
        if dropped > 0 {
            warn!(lines = dropped, "log lines dropped: they were not read in time");
        }
        repeats.is_some_and(|repeats| repeats.report(Instant::now(), false))
    })?;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Line)
        // tracing-subscriber would report a failed write on standard error, and panic there.
        .log_internal_errors(false);
    let limit = repeats.map(RepeatsLayer);
    match format {
        LogFormat::Text => {
            // systemd's journal dates each line itself (systemd.exec(5), JOURNAL_STREAM).
            let clock = std::env::var_os("JOURNAL_STREAM").is_none();
            let log = log.with_ansi(io::stderr().is_terminal()).event_format(TextFormat { clock });
            log.finish().with(MachineLines).with(limit).init();
        }
        LogFormat::Json => log.json().flatten_event(true).finish().with(MachineLines).with(limit).init(),
    }
    panics::log_all();
    Ok(Log { repeats })
}

impl Log {
    /// Writes a line without date and level: the error that ends the program.
    pub fn write_last(&self, line: &str) {
        output::log(format!("{line}\n").as_bytes());
    }
}

/// Writes what is left, unless nobody reads it.
impl Drop for Log {
    fn drop(&mut self) {
        self.repeats.map(|repeats| repeats.report(Instant::now(), true));
        output::flush();
    }
}

/// Events that are logged without RUST_LOG. `object_store` logs each repetition of a request, and the
/// verifier of its TLS each wrong certificate; isowire's own line tells the cause once.
const DEFAULT_FILTER: &str = "info,object_store=off,rustls_platform_verifier=off";

/// Writer of one line, which gets it as a whole.
struct Line;

impl io::Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        output::log(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The text format: `2026-11-01T12:00:00Z warning: message key=value`, without a level for `INFO`.
struct TextFormat {
    clock: bool,
}

impl<S, N> FormatEvent<S, N> for TextFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.clock {
            let now = Timestamp::now().as_second();
            write!(writer, "{} ", Timestamp::from_second(now).map_err(|_| fmt::Error)?)?;
        }
        writer.write_str(word(*event.metadata().level()))?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

const fn word(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error: ",
        Level::WARN => "warning: ",
        Level::INFO => "",
        Level::DEBUG => "debug: ",
        Level::TRACE => "trace: ",
    }
}
