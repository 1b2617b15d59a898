//! Metrics as text for Prometheus: its own format (version 0.0.4), and OpenMetrics 1.0.
//!
//! Labels are bounded: no machine, address or path is one. Images are those of the operator, and
//! their names have only letters, digits, `.`, `_` and `-`, so no label needs an escape.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Write as _};

use crate::image::FaultKind;
use crate::machines::diagnosis::Diagnosis;
use crate::machines::{RefusedBy, Stage, StatusReport};
use crate::metrics::process::ProcessFigures;
use crate::metrics::{self, BUCKETS, Door, Event, Gauge, Histogram, Tally};

/// Format of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// <https://prometheus.io/docs/instrumenting/exposition_formats/>
    Text,
    /// <https://prometheus.io/docs/specs/om/open_metrics_spec/>
    OpenMetrics,
}

impl Format {
    pub(super) const fn media_type(self) -> &'static str {
        match self {
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Writes all metrics.
pub(super) fn exposition(report: &StatusReport, process: Option<ProcessFigures>, format: Format) -> String {
    let mut out = Exposition { text: String::new(), format };
    let version = format!("version=\"{}\"", report.isowire);
    out.gauge("isowire_build_info", "Version of isowire.", [(version, 1)]);
    write_machines(&mut out, report);
    write_doors(&mut out);
    write_reads(&mut out);
    write_store(&mut out, metrics::value(Gauge::CacheLimit));
    write_images(&mut out, report);
    write_site(&mut out, report);
    process.iter().for_each(|process| write_process(&mut out, process));
    if format == Format::OpenMetrics {
        out.text.push_str("# EOF\n");
    }
    out.text
}

fn write_machines(out: &mut Exposition, report: &StatusReport) {
    let count = |stage| report.machines.iter().filter(|machine| machine.stage == stage).count();
    let stages = Stage::ALL.map(|stage| (format!("stage=\"{}\"", stage.name()), count(stage)));
    out.gauge("isowire_machines", "Machines by the stage of their last boot.", stages);
    write_stuck(out, report);
    let roots: u64 = report.machines.iter().map(|machine| u64::from(machine.root_connections)).sum();
    out.gauge("isowire_root_connections", "Open connections to root file systems.", [unlabelled(roots)]);
    let boots: u64 = report.machines.iter().map(|machine| u64::from(machine.boots)).sum();
    out.gauge("isowire_known_boots", "Boots of the machines that are known.", [unlabelled(boots)]);
    let help = "Machines dropped because the table was full.";
    out.counter("isowire_machines_forgotten", help, [unlabelled(report.forgotten)]);
}

fn write_stuck(out: &mut Exposition, report: &StatusReport) {
    let mut kinds = BTreeMap::from(Diagnosis::KINDS.map(|kind| (kind, 0)));
    let mut refused = BTreeMap::from(RefusedBy::ALL.map(|by| (by.name(), 0)));
    for diagnosis in report.machines.iter().filter_map(|machine| machine.diagnosis.as_ref()) {
        *kinds.entry(diagnosis.kind()).or_default() += 1;
        if let Diagnosis::Refused { by, .. } = diagnosis {
            *refused.entry(by.name()).or_default() += 1;
        }
    }
    let kinds = kinds.into_iter().map(|(kind, count)| (format!("diagnosis=\"{kind}\""), count));
    out.gauge("isowire_machines_stuck", "Machines that do not get on, by the reason.", kinds);
    let refused = refused.into_iter().map(|(by, count)| (format!("reason=\"{by}\""), count));
    let help = "Machines whose last request was refused, by the reason.";
    out.gauge("isowire_machines_refused", help, refused);
}

fn write_doors(out: &mut Exposition) {
    let of = |tally| Door::ALL.map(|door| (label(door), metrics::total(door, tally)));
    let open = Door::ALL.map(|door| {
        let [opened, closed] = [Tally::Opened, Tally::Closed].map(|tally| metrics::total(door, tally));
        // Counted by other threads meanwhile.
        (label(door), opened.saturating_sub(closed))
    });
    out.gauge("isowire_connections", "Open connections, and transfers of TFTP.", open);
    out.counter("isowire_connections_opened", "Connections, and transfers of TFTP.", of(Tally::Opened));
    let help = "READs of NBD and NFS, requests of HTTP and TFTP, messages of DHCP.";
    out.counter("isowire_requests", help, of(Tally::Requests));
    out.counter("isowire_sent_bytes", "Bytes of images sent.", of(Tally::Bytes));
    let causes = [("peer", Tally::PeerErrors), ("image", Tally::ImageErrors)];
    let errors = causes.into_iter().flat_map(|(cause, tally)| {
        Door::ALL.map(|door| (format!("{},cause=\"{cause}\"", label(door)), metrics::total(door, tally)))
    });
    out.counter("isowire_errors", "Connections that broke and requests that were refused.", errors);
    let times = Door::ALL.map(|door| (label(door), metrics::replies(door)));
    let help = "Time from taking requests off a connection until their replies have left; of a whole transfer for TFTP.";
    out.histogram("isowire_reply_seconds", help, times);
    let help = "Looks at the page cache that found the range.";
    out.counter("isowire_page_cache_hits", help, of(Tally::CacheHits));
    let help = "Looks at the page cache after which the range had to be read.";
    out.counter("isowire_page_cache_misses", help, of(Tally::CacheMisses));
}

fn write_reads(out: &mut Exposition) {
    let cold = [(String::new(), metrics::cold_reads())];
    out.histogram("isowire_cold_read_seconds", "Time that a range took to come from the disk.", cold);
    for (name, help, event) in [
        ("isowire_reads_failed", "Reads of images that failed. They are repeated.", Event::ReadFailed),
        ("isowire_reads_hung", "Reads of images without an answer for five seconds.", Event::ReadHung),
        ("isowire_reads_given_up", "Reads that lasted longer than stall-timeout.", Event::ReadGivenUp),
    ] {
        out.counter(name, help, [unlabelled(metrics::events(event))]);
    }
}

/// Writes what a server with images in an object store has.
fn write_store(out: &mut Exposition, limit: u64) {
    if limit == 0 {
        return;
    }
    let (times, bytes) = metrics::fetches();
    let help = "Time that a request to an object store took.";
    out.histogram("isowire_fetch_seconds", help, [(String::new(), times)]);
    out.counter("isowire_fetched_bytes", "Bytes that came from object stores.", [unlabelled(bytes)]);
    let failed = [unlabelled(metrics::events(Event::FetchFailed))];
    let help = "Requests to object stores that failed. They are repeated.";
    out.counter("isowire_fetches_failed", help, failed);
    let used = [unlabelled(metrics::value(Gauge::CacheUsed))];
    out.gauge("isowire_cache_used_bytes", "Bytes of objects in the cache folder.", used);
    out.gauge("isowire_cache_limit_bytes", "Bytes that the cache folder may take.", [unlabelled(limit)]);
}

fn write_images(out: &mut Exposition, report: &StatusReport) {
    let current = report.images.iter().map(|image| &*image.name);
    // A replaced image may have the name of another.
    let names: BTreeSet<_> = current.chain(report.faults.iter().map(|fault| &*fault.image)).collect();
    let faults = names.into_iter().flat_map(|name| {
        FaultKind::ALL.map(|kind| {
            let faults = report.faults.iter().filter(|fault| fault.image == name && fault.kind == kind);
            (format!("image=\"{name}\",fault=\"{}\"", kind.name()), faults.count())
        })
    });
    out.gauge("isowire_image_faults", "Images that cannot be read at present, by what is wrong.", faults);
    let states = ["waiting", "verifying", "verified", "failed"].map(|state| {
        let count = report.verifications.iter().filter(|verification| verification.state == state).count();
        (format!("state=\"{state}\""), count)
    });
    let help = "Verifications of images; one that failed is not offered.";
    out.gauge("isowire_image_verifications", help, states);
}

fn write_site(out: &mut Exposition, report: &StatusReport) {
    for (name, help, gauge) in [
        ("isowire_dhcp_pool_addresses", "Addresses of all DHCP ranges.", Gauge::PoolAddresses),
        ("isowire_dhcp_used_addresses", "Addresses leased, offered or in quarantine.", Gauge::UsedAddresses),
        ("isowire_images", "Images that are served.", Gauge::Images),
        ("isowire_images_retained", "Replaced images that clients may still use.", Gauge::RetainedImages),
        ("isowire_taken_over", "1 if this process took over from another one.", Gauge::TakenOver),
    ] {
        out.gauge(name, help, [unlabelled(metrics::value(gauge))]);
    }
    let leased = [unlabelled(metrics::events(Event::Leased))];
    out.counter("isowire_dhcp_leases", "DHCP leases granted and renewed.", leased);
    out.counter("isowire_panics", "Faults of isowire itself.", [unlabelled(report.panics)]);
}

fn write_process(out: &mut Exposition, process: &ProcessFigures) {
    let cpu = [unlabelled(process.cpu_seconds)];
    out.counter("process_cpu_seconds", "User and system CPU time.", cpu);
    for (name, help, value) in [
        ("process_resident_memory_bytes", "Resident memory.", Some(process.resident_bytes)),
        ("process_virtual_memory_bytes", "Virtual memory.", Some(process.virtual_bytes)),
        ("process_threads", "Threads.", Some(process.threads)),
        ("process_open_fds", "Open file descriptors.", process.open_files),
        ("process_max_fds", "Limit of open file descriptors.", process.open_files_max),
    ] {
        out.gauge(name, help, value.map(unlabelled));
    }
    let start = [unlabelled(process.start_time)];
    out.gauge("process_start_time_seconds", "Start of the server since 1970-01-01 UTC.", start);
}

fn label(door: Door) -> String {
    format!("door=\"{}\"", door.name())
}

const fn unlabelled<V>(value: V) -> (String, V) {
    (String::new(), value)
}

/// The text while it is written. Writing to memory cannot fail, so results are dropped.
struct Exposition {
    text: String,
    format: Format,
}

impl Exposition {
    fn gauge<V: Display>(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = (String, V)>) {
        self.head(name, "gauge", help);
        samples.into_iter().for_each(|(labels, value)| self.sample(name, &labels, value));
    }

    /// Writes a counter; `name` is without `_total`.
    fn counter<V: Display>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (String, V)>,
    ) {
        let sample = format!("{name}_total");
        // OpenMetrics names the family without the suffix, the older format knows samples only.
        let family = if self.format == Format::OpenMetrics { name } else { &sample };
        self.head(family, "counter", help);
        samples.into_iter().for_each(|(labels, value)| self.sample(&sample, &labels, value));
    }

    fn histogram(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = (String, Histogram)>) {
        self.head(name, "histogram", help);
        for (labels, Histogram { buckets, micros }) in samples {
            let comma = if labels.is_empty() { "" } else { "," };
            let mut count = 0u64;
            for (number, bucket) in buckets.into_iter().enumerate() {
                count = count.wrapping_add(bucket);
                let bound = BUCKETS.get(number).map(|micros| format!("{:?}", *micros as f64 / 1e6));
                let le = bound.as_deref().unwrap_or("+Inf");
                self.sample(&format!("{name}_bucket"), &format!("{labels}{comma}le=\"{le}\""), count);
            }
            self.sample(&format!("{name}_sum"), &labels, micros as f64 / 1e6);
            self.sample(&format!("{name}_count"), &labels, count);
        }
    }

    fn head(&mut self, family: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {family} {help}\n# TYPE {family} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = match labels {
            "" => writeln!(self.text, "{name} {value}"),
            labels => writeln!(self.text, "{name}{{{labels}}} {value}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use jiff::Timestamp;

    use super::*;
    use crate::machines::Registry;
    use crate::machines::status::FaultStatus;

    fn text(format: Format) -> String {
        let (registry, now) = (Registry::new(Instant::now()), Instant::now());
        let mac = "52:54:00:00:00:01".parse().unwrap();
        registry.refused(mac, RefusedBy::Pool, "every address is in use", now);
        let mut report = registry.status(now, Timestamp::UNIX_EPOCH);
        for kind in [FaultKind::Changed, FaultKind::Changed, FaultKind::Hanging] {
            let (image, fault) = ("arch".to_owned(), "it is so".to_owned());
            report.faults.push(FaultStatus { image, kind, fault, since: 0 });
        }
        exposition(&report, Some(ProcessFigures::default()), format)
    }

    #[test]
    fn samples_are_counted_by_their_labels() {
        let text = text(Format::Text);
        for line in [
            "isowire_machines{stage=\"seen\"} 1",
            "isowire_machines{stage=\"attached\"} 0",
            "isowire_machines_stuck{diagnosis=\"refused\"} 1",
            "isowire_machines_stuck{diagnosis=\"offer-ignored\"} 0",
            "isowire_machines_refused{reason=\"pool\"} 1",
            "isowire_machines_refused{reason=\"image\"} 0",
            "isowire_image_faults{image=\"arch\",fault=\"changed\"} 2",
            "isowire_image_faults{image=\"arch\",fault=\"hanging\"} 1",
            "isowire_image_faults{image=\"arch\",fault=\"failing\"} 0",
            "# TYPE isowire_requests_total counter",
            "isowire_errors_total{door=\"nbd\",cause=\"peer\"}",
            "isowire_reply_seconds_bucket{door=\"nbd\",le=\"0.0001\"}",
            "isowire_reply_seconds_bucket{door=\"nbd\",le=\"+Inf\"}",
            "isowire_cold_read_seconds_bucket{le=\"1.0\"}",
        ] {
            assert_eq!(
                text.lines().filter(|written| written.starts_with(line)).count(),
                1,
                "{line}:\n{text}"
            );
        }
        assert!(!text.contains("52:54"), "no machine is a label");
    }

    #[test]
    fn object_store_is_shown_where_there_is_one() {
        let mut out = Exposition { text: String::new(), format: Format::Text };
        write_store(&mut out, 0);
        assert_eq!(out.text, "");
        metrics::observe_fetch(std::time::Duration::from_millis(3), 5);
        write_store(&mut out, 1000);
        let text = out.text;
        for line in ["isowire_fetch_seconds_bucket{le=\"0.005\"} ", "isowire_cache_limit_bytes 1000"] {
            assert!(text.contains(line), "{line}:\n{text}");
        }
    }

    #[test]
    fn openmetrics_names_families_without_suffix_and_has_an_end() {
        let text = text(Format::OpenMetrics);
        assert!(
            text.contains("\n# TYPE isowire_requests counter\nisowire_requests_total{door=\"nbd\"} "),
            "{text}"
        );
        assert!(text.ends_with("\n# EOF\n"), "{text}");
    }
}
