//! Labelled families that cost one short lock and no allocation once a series exists.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt::Write as _;

/// `# HELP` and `# TYPE`.
pub(crate) fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// Counts by bucket, of values in seconds or bytes.
#[derive(Clone, Debug)]
pub(crate) struct Buckets<const N: usize> {
    counts: [u64; N],
    count: u64,
    sum: f64,
}

impl<const N: usize> Default for Buckets<N> {
    fn default() -> Self {
        Self { counts: [0; N], count: 0, sum: 0.0 }
    }
}

impl<const N: usize> Buckets<N> {
    pub fn note(&mut self, bounds: &[f64; N], value: f64) {
        self.count += 1;
        self.sum += value;
        if let Some(at) = bounds.iter().position(|bound| value <= *bound) {
            self.counts[at] += 1;
        }
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn render(&self, bounds: &[f64; N], out: &mut String, name: &str, labels: &str) {
        let mut sum = 0;
        for (bound, count) in bounds.iter().zip(self.counts) {
            sum += count;
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {sum}");
        }
        let _ = writeln!(
            out,
            "{name}_bucket{{{labels},le=\"+Inf\"}} {c}\n{name}_sum{{{labels}}} {s}\n{name}_count{{{labels}}} {c}",
            c = self.count,
            s = self.sum
        );
    }
}

/// Histograms by label set. The caller hashes its labels and spells them out only for a series that is new.
pub(crate) struct Histograms<const N: usize> {
    name: &'static str,
    help: &'static str,
    bounds: &'static [f64; N],
    series: Mutex<HashMap<u64, (String, Buckets<N>)>>,
}

impl<const N: usize> Histograms<N> {
    pub fn new(name: &'static str, help: &'static str, bounds: &'static [f64; N]) -> Self {
        Self { name, help, bounds, series: Mutex::default() }
    }

    pub fn note(&self, hash: u64, labels: impl FnOnce() -> String, value: f64) {
        let mut series = self.series.lock();
        let (_, buckets) = series.entry(hash).or_insert_with(|| (labels(), Buckets::default()));
        buckets.note(self.bounds, value);
    }

    pub fn render(&self, out: &mut String) {
        head(out, self.name, "histogram", self.help);
        for (labels, buckets) in self.series.lock().values() {
            buckets.render(self.bounds, out, self.name, labels);
        }
    }
}

/// Counters by label set, likewise.
pub(crate) struct Counters {
    name: &'static str,
    help: &'static str,
    series: Mutex<HashMap<u64, (String, u64)>>,
}

impl Counters {
    pub fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, help, series: Mutex::default() }
    }

    pub fn note(&self, hash: u64, labels: impl FnOnce() -> String) {
        self.series.lock().entry(hash).or_insert_with(|| (labels(), 0)).1 += 1;
    }

    pub fn render(&self, out: &mut String) {
        head(out, self.name, "counter", self.help);
        for (labels, count) in self.series.lock().values() {
            let _ = writeln!(out, "{}{{{labels}}} {count}", self.name);
        }
    }
}
