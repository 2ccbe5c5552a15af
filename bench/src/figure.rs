//! A figure and its line.

use crate::cli::About;
use crate::proc;
use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};
use std::io::Write;
use std::process::Command;
use std::time::Duration;

pub const MIB: f64 = 1024.0 * 1024.0;

/// What all figures of a run have in common, and the way they are printed.
pub struct Report {
    subject: String,
    commit: String,
    parameters: Value,
}

/// One measured figure.
#[derive(Debug, Serialize)]
pub struct Figure {
    figure: String,
    value: f64,
    unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    p50: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    samples: Option<usize>,
    #[serde(skip_serializing_if = "Value::is_null")]
    detail: Value,
}

/// A figure with what all lines of a run share, in the order in which people read it.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    figure: Figure,
    machine: Value,
    commit: &'a str,
    subject: &'a str,
    parameters: &'a Value,
}

impl Figure {
    pub fn new(figure: impl Into<String>, value: f64, unit: &'static str) -> Self {
        let value = rounded(value);
        Self { figure: figure.into(), value, unit, p50: None, p99: None, samples: None, detail: Value::Null }
    }

    /// A distribution in seconds; its value is the median.
    pub fn seconds(figure: impl Into<String>, samples: &[Duration]) -> Self {
        Self::distribution(figure, samples.iter().map(Duration::as_secs_f64).collect(), "s")
    }

    /// As [`Self::seconds`], in milliseconds.
    pub fn milliseconds(figure: impl Into<String>, samples: &[Duration]) -> Self {
        Self::distribution(figure, samples.iter().map(|d| d.as_secs_f64() * 1e3).collect(), "ms")
    }

    fn distribution(figure: impl Into<String>, mut samples: Vec<f64>, unit: &'static str) -> Self {
        samples.sort_by(f64::total_cmp);
        let mut made = Self::new(figure, percentile(&samples, 50.0), unit);
        made.p50 = Some(made.value);
        made.p99 = Some(rounded(percentile(&samples, 99.0)));
        made.samples = Some(samples.len());
        made
    }

    pub fn detail(mut self, detail: Value) -> Self {
        self.detail = detail;
        self
    }
}

impl Report {
    /// `subject` is taken where the command line names none.
    pub fn new(about: &About, subject: String, parameters: Value) -> Self {
        Self {
            subject: about.subject.clone().unwrap_or(subject),
            commit: about.commit.clone().unwrap_or_else(commit),
            parameters,
        }
    }

    /// Prints the line of one figure.
    pub fn print(&self, figure: Figure) -> Result<()> {
        let Self { subject, commit, parameters } = self;
        let line = Line { figure, parameters, machine: machine(), commit, subject };
        let line = serde_json::to_string(&line)?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "{line}").and_then(|()| out.flush()).context("print a figure")
    }
}

/// The nearest-rank percentile of sorted samples: a value that occurred. Without samples, not a number.
fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
}

/// Four digits after the point, enough for a tenth of a millisecond.
fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

fn machine() -> Value {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    json!({
        "cpus": std::thread::available_parallelism().map_or(0, usize::from),
        "cpu": proc::cpu_model(),
        "memory_mib": proc::machine_memory().map(|bytes| (bytes as f64 / MIB).round()),
        "kernel": release.trim(),
        "load": load.split(' ').next().and_then(|l| l.parse::<f64>().ok()),
    })
}

fn commit() -> String {
    let described = Command::new("git")
        .args([
            "-C",
            env!("CARGO_MANIFEST_DIR"),
            "describe",
            "--always",
            "--dirty",
            "--abbrev=12",
            "--exclude=*",
        ])
        .output();
    match described {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "unknown".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let samples: Vec<f64> = (1..=30).map(f64::from).collect();
        assert_eq!(percentile(&samples, 50.0), 15.0);
        assert_eq!(percentile(&samples, 99.0), 30.0);
        assert_eq!(percentile(&[7.0], 50.0), 7.0);
        assert!(percentile(&[], 50.0).is_nan());
    }

    #[test]
    fn a_distribution_does_not_need_sorted_samples() {
        let samples = [30, 10, 20].map(Duration::from_millis);
        let figure = serde_json::to_value(Figure::seconds("x", &samples)).unwrap();
        assert_eq!(
            figure,
            json!({"figure": "x", "value": 0.02, "unit": "s", "p50": 0.02, "p99": 0.03, "samples": 3})
        );
    }

    #[test]
    fn a_single_value_has_no_percentiles() {
        let figure = serde_json::to_value(Figure::new("size", 1.5, "MiB")).unwrap();
        assert_eq!(figure, json!({"figure": "size", "value": 1.5, "unit": "MiB"}));
    }
}
