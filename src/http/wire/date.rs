//! HTTP-date (RFC 9110 §5.6.7).

use std::fmt;

use jiff::Timestamp;
use jiff::fmt::StdFmtWrite;
use jiff::fmt::rfc2822::DateTimePrinter;
use jiff::fmt::strtime::BrokenDownTime;
use jiff::tz::TimeZone;

/// IMF-fixdate, as in `Sun, 06 Nov 1994 08:49:37 GMT`, and the two obsolete forms, which "a
/// recipient MUST accept".
const FIXDATE: &str = "%a, %d %b %Y %H:%M:%S GMT";
const RFC_850: &str = "%A, %d-%b-%y %H:%M:%S GMT";
const ASCTIME: &str = "%a %b %e %H:%M:%S %Y";

/// A date of this form, to the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HttpDate(Timestamp);

impl HttpDate {
    /// Returns the second of `date`; the start of 1970 for an earlier date, which no file of an ISO
    /// has.
    pub(crate) fn new(date: Timestamp) -> Self {
        Self(Timestamp::from_second(date.as_second().max(0)).unwrap_or_default())
    }

    /// Reads any of the three forms; `None` for anything else. `now` tells the century of a year of
    /// two digits.
    pub(crate) fn parse(text: &[u8], now: HttpDate) -> Option<Self> {
        let date = BrokenDownTime::parse(FIXDATE, text)
            .or_else(|_| BrokenDownTime::parse(ASCTIME, text))
            .ok()
            .or_else(|| in_century(BrokenDownTime::parse(RFC_850, text).ok()?, now))?;
        Some(Self(TimeZone::UTC.to_timestamp(date.to_datetime().ok()?).ok()?))
    }
}

/// Completes a year of two digits.
fn in_century(mut date: BrokenDownTime, HttpDate(now): HttpDate) -> Option<BrokenDownTime> {
    let now = TimeZone::UTC.to_datetime(now).year();
    let year = now - now % 100 + date.year()? % 100;
    // RFC 9110 §5.6.7: a date that appears to be more than 50 years in the future means the most
    // recent year in the past with these two digits.
    date.set_year(Some(if year > now + 50 { year - 100 } else { year })).ok()?;
    // The day of the week belongs to a year that was guessed while parsing.
    date.set_weekday(None);
    Some(date)
}

impl fmt::Display for HttpDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        DateTimePrinter::new().print_timestamp_rfc9110(&self.0, StdFmtWrite(f)).map_err(|_| fmt::Error)
    }
}
