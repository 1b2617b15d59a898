//! The log, on standard error: a line per event for people, an object per event for programs.

use std::fmt;
use std::io::{self, IsTerminal as _};

use jiff::Timestamp;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::config::LogFormat;

/// Starts the log. `RUST_LOG` selects the events; by default these are the steps of each boot.
///
/// # Panics
/// If it is called twice.
pub fn start(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        // tracing-subscriber would report a failed write on the same stream, and panic there. A
        // closed standard error is not a reason to stop.
        .log_internal_errors(false);
    match format {
        LogFormat::Text => {
            // systemd's journal dates each line itself (systemd.exec(5), JOURNAL_STREAM).
            let clock = std::env::var_os("JOURNAL_STREAM").is_none();
            log.with_ansi(io::stderr().is_terminal()).event_format(TextFormat { clock }).init();
        }
        LogFormat::Json => log.json().flatten_event(true).init(),
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
