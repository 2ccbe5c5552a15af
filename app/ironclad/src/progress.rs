//! A line a step, for people or for programs.

use crate::cli::Output;
use serde_json::{Map, Value, json};
use std::io::Write;
use std::time::Instant;

/// Tells how far a long task is, on standard output.
pub struct Progress {
    output: Output,
    started: Instant,
}

impl Progress {
    pub fn new(output: Output) -> Self {
        Self { output, started: Instant::now() }
    }

    /// One finished step.
    pub fn step(&self, text: &str) {
        let seconds = self.started.elapsed().as_secs_f64();
        match self.output {
            Output::Text => print(&format!("{seconds:7.3}s  {text}")),
            Output::Json => self.event("step", json!({"text": text})),
        }
    }

    /// A machine-readable event with fields of its own; nothing in text mode.
    pub fn event(&self, kind: &str, fields: Value) {
        if self.output == Output::Text {
            return;
        }
        let mut line = Map::new();
        line.insert("event".into(), kind.into());
        line.insert(
            "seconds".into(),
            json!((self.started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0),
        );
        if let Value::Object(fields) = fields {
            line.extend(fields);
        }
        print(&Value::Object(line).to_string());
    }

    /// Text without a clock; nothing in JSON mode.
    pub fn say(&self, text: &str) {
        if self.output == Output::Text {
            print(text);
        }
    }
}

/// A reader that went away is no reason to stop a cluster.
fn print(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}
