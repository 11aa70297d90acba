//! Latencies of a run: recorded in nanoseconds, told in microseconds.

use hdrhistogram::Histogram;
use serde::Serialize;

const NS_PER_US: f64 = 1_000.0;

/// Longer latencies count as this one.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;

/// How many records took how long, to three digits.
#[derive(Clone, Debug)]
pub(crate) struct Latencies(Histogram<u64>);

/// What a report says of them, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) p9999: f64,
    pub(crate) max: f64,
}

/// A row of the histogram that is drawn: up to this latency, this share of all records.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bar {
    pub(crate) up_to_us: f64,
    pub(crate) share: f64,
}

impl Latencies {
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("bounds that a histogram can have"))
    }

    pub(crate) fn record(&mut self, latency_ns: u64, records: u64) {
        self.0.saturating_record_n(latency_ns, records);
    }

    pub(crate) fn absorb(&mut self, other: &Self) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    /// Nothing, if nothing was recorded.
    pub(crate) fn percentiles(&self) -> Option<Percentiles> {
        let at = |quantile| self.0.value_at_quantile(quantile) as f64 / NS_PER_US;
        (!self.0.is_empty()).then(|| Percentiles {
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: self.0.max() as f64 / NS_PER_US,
        })
    }

    /// The distribution over powers of two, from the first one in use to the last.
    pub(crate) fn bars(&self) -> Vec<Bar> {
        let total = self.0.len() as f64;
        let powers = (0..).map(|power| 1_000 << power).take_while(|&up_to_ns| up_to_ns < 2 * LATENCY_NS_MAX);
        let mut below = 0;
        let bars = powers.map(|up_to_ns: u64| {
            let up_to = if up_to_ns > self.0.max() { self.0.len() } else { self.0.count_between(0, up_to_ns) };
            let share = up_to.saturating_sub(below) as f64 / total;
            below = below.max(up_to);
            Bar { up_to_us: up_to_ns as f64 / NS_PER_US, share }
        });
        let mut bars: Vec<_> = bars.skip_while(|bar| bar.share == 0.0).collect();
        bars.truncate(bars.iter().rposition(|bar| bar.share > 0.0).map_or(0, |last| last + 1));
        bars
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_count_records_not_calls() {
        let mut latencies = Latencies::new();
        assert_eq!(latencies.percentiles(), None);
        latencies.record(100_000, 9_998);
        latencies.record(5_000_000, 2);
        let found = latencies.percentiles().unwrap();
        let close = |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 0.001, "{found} {expected}");
        close(found.p50, 100.0);
        close(found.p999, 100.0);
        close(found.p9999, 5_000.0);
        close(found.max, 5_000.0);
    }

    #[test]
    fn bars_cover_every_record_once() {
        let mut latencies = Latencies::new();
        latencies.record(3_000, 1);
        latencies.record(100_000, 2);
        latencies.record(u64::MAX, 1);
        let bars = latencies.bars();
        assert_eq!(bars[0], Bar { up_to_us: 4.0, share: 0.25 });
        assert_eq!(bars.iter().map(|bar| bar.share).sum::<f64>(), 1.0);
        assert_eq!(bars.iter().filter(|bar| bar.share > 0.0).count(), 3);
        assert_eq!(Latencies::new().bars(), []);
    }
}
