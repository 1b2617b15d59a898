//! Latencies, in buckets that are 1/32 of their value wide.

use std::time::Duration;

/// Buckets of each power of two.
const STEPS: u32 = 5;

/// Counts of latencies, by nanoseconds.
#[derive(Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; 64 << STEPS], total: 0 }
    }
}

impl Histogram {
    pub fn add(&mut self, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(ns)] += 1;
        self.total += 1;
    }

    /// Returns the latency in microseconds that a part (0 to 1) of all latencies does not exceed.
    pub fn quantile(&self, part: f64) -> f64 {
        let rank = (self.total as f64 * part).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank.max(1) {
                return upper(bucket) as f64 / 1000.0;
            }
        }
        0.0
    }
}

fn bucket(ns: u64) -> usize {
    let log = 63 - (ns | 1).leading_zeros();
    if log < STEPS {
        return ns as usize;
    }
    let step = (ns >> (log - STEPS)) & ((1 << STEPS) - 1);
    (((log - STEPS + 1) << STEPS) as u64 + step) as usize
}

/// Returns the largest value of a bucket.
fn upper(bucket: usize) -> u64 {
    let (octave, step) = ((bucket >> STEPS) as u32, (bucket & ((1 << STEPS) - 1)) as u64);
    if octave == 0 { step } else { (((1 << STEPS) + step + 1) << (octave - 1)) - 1 }
}
