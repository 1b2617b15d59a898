//! Metrics as text for Prometheus: its own format (version 0.0.4), and OpenMetrics 1.0.
//!
//! Labels are bounded: no machine, address or path is one.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

use crate::machines::diagnosis::Diagnosis;
use crate::machines::{Stage, StatusReport};
use crate::metrics::process::ProcessFigures;
use crate::metrics::{self, BUCKETS, Door, Gauge, Histogram, Tally};

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
    let mut kinds: BTreeMap<_, usize> = Diagnosis::KINDS.into_iter().map(|kind| (kind, 0)).collect();
    for diagnosis in report.machines.iter().filter_map(|machine| machine.diagnosis.as_ref()) {
        *kinds.entry(diagnosis.kind()).or_default() += 1;
    }
    let kinds = kinds.into_iter().map(|(kind, count)| (format!("diagnosis=\"{kind}\""), count));
    out.gauge("isowire_machines_stuck", "Machines that do not get on, by the reason.", kinds);
    let roots: u64 = report.machines.iter().map(|machine| u64::from(machine.root_connections)).sum();
    out.gauge("isowire_root_connections", "Open connections to root file systems.", [unlabelled(roots)]);
    let boots: u64 = report.machines.iter().map(|machine| u64::from(machine.boots)).sum();
    out.gauge("isowire_known_boots", "Boots of the machines that are known.", [unlabelled(boots)]);
    let help = "Machines dropped because the table was full.";
    out.counter("isowire_machines_forgotten", help, [unlabelled(report.forgotten)]);
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
    let cold = [(String::new(), metrics::cold_reads())];
    out.histogram("isowire_cold_read_seconds", "Time that a range took to come from the disk.", cold);
    out.counter("isowire_page_cache_hits", "Ranges that were in the page cache.", of(Tally::CacheHits));
    out.counter("isowire_page_cache_misses", "Ranges that were not.", of(Tally::CacheMisses));
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
    let faults = report.faults.len() as u64;
    out.gauge("isowire_image_faults", "Images that cannot be read at present.", [unlabelled(faults)]);
    let failed = report.verifications.iter().filter(|verification| verification.error.is_some()).count();
    out.gauge("isowire_image_verifications_failed", "Images not offered.", [unlabelled(failed as u64)]);
    out.counter("isowire_panics", "Faults of isowire itself.", [unlabelled(report.panics)]);
}

fn write_process(out: &mut Exposition, process: &ProcessFigures) {
    let cpu = [unlabelled(process.cpu_seconds)];
    out.counter("process_cpu_seconds", "User and system CPU time.", cpu);
    for (name, help, value) in [
        ("process_resident_memory_bytes", "Resident memory.", Some(process.resident_bytes)),
        ("process_virtual_memory_bytes", "Virtual memory.", Some(process.virtual_bytes)),
        ("process_threads", "Threads.", Some(process.threads)),
        ("process_open_fds", "Open file descriptors.", Some(process.open_files)),
        ("process_max_fds", "Limit of open file descriptors.", process.open_files_max),
    ] {
        out.gauge(name, help, value.map(unlabelled));
    }
    let start = [unlabelled(process.start_time)];
    out.gauge("process_start_time_seconds", "Start of the process since 1970-01-01 UTC.", start);
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
    use crate::machines::{RefusedBy, Registry};

    fn text(format: Format) -> String {
        let (registry, now) = (Registry::new(Instant::now()), Instant::now());
        let mac = "52:54:00:00:00:01".parse().unwrap();
        registry.refused(mac, RefusedBy::Pool, "every address is in use", now);
        exposition(&registry.status(now, Timestamp::UNIX_EPOCH), Some(ProcessFigures::default()), format)
    }

    #[test]
    fn machines_are_counted_by_stage_and_reason() {
        let text = text(Format::Text);
        for line in [
            "isowire_machines{stage=\"seen\"} 1",
            "isowire_machines{stage=\"attached\"} 0",
            "isowire_machines_stuck{diagnosis=\"refused\"} 1",
            "isowire_machines_stuck{diagnosis=\"offer-ignored\"} 0",
            "# TYPE isowire_requests_total counter",
            "isowire_errors_total{door=\"nbd\",cause=\"peer\"}",
            "isowire_reply_seconds_bucket{door=\"nbd\",le=\"0.0001\"}",
            "isowire_reply_seconds_bucket{door=\"nbd\",le=\"+Inf\"}",
            "isowire_cold_read_seconds_bucket{le=\"1.0\"}",
        ] {
            assert!(text.lines().any(|written| written.starts_with(line)), "{line}:\n{text}");
        }
        assert!(!text.contains("52:54"), "no machine is a label");
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
