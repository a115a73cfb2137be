//! The table.

use std::fmt::Write as _;

use crate::bench::{Compared, Sample};
use crate::data::MIB;

/// One row of the table.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    measured: String,
    baseline: String,
    ratio: String,
    target: String,
    missed: Vec<String>,
    requests: u64,
    network: f64,
    peak: u64,
    limit: u64,
    cpu: f64,
}

/// Which bytes count as network traffic: those that carry the data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    Read,
    Write,
}

impl Report {
    /// A row without any target yet. Of several samples the worst counts.
    pub(crate) fn new(samples: &[Sample], direction: Direction, useful: u64, limit: u64) -> Report {
        let worst = |of: &dyn Fn(&Sample) -> f64| samples.iter().map(of).fold(0.0, f64::max);
        let network = worst(&|sample| match direction {
            Direction::Read => sample.counts.bytes_out as f64,
            Direction::Write => sample.counts.bytes_in as f64,
        });
        let peak = worst(&|sample| sample.peak as f64) as u64;
        let mut missed = Vec::new();
        if peak > limit {
            missed.push("memory".to_owned());
        }
        let cpu = samples.iter().map(|sample| sample.cpu.0.total().as_secs_f64()).sum::<f64>();
        Report {
            measured: String::new(),
            baseline: String::new(),
            ratio: String::new(),
            target: String::new(),
            missed,
            requests: worst(&|sample| sample.counts.total() as f64) as u64,
            network: if useful == 0 { 0.0 } else { network / useful as f64 },
            peak,
            limit,
            cpu: cpu / samples.len() as f64,
        }
    }

    /// Shows two rates in `unit`.
    pub(crate) fn rates(mut self, compared: &Compared, unit: &str) -> Report {
        self.measured = format!("{:.0} {unit}", compared.measured);
        self.baseline = format!("{:.0} {unit}", compared.baseline);
        self.ratio = format!("{:.2}", compared.ratio);
        self
    }

    /// Shows the daemon's CPU on the other side too, where that is a mount.
    pub(crate) fn against(mut self, others: &[Sample]) -> Report {
        let cpu = others.iter().map(|sample| sample.cpu.0.total().as_secs_f64()).sum::<f64>();
        let _ = write!(self.baseline, ", {:.2} s", cpu / others.len() as f64);
        self
    }

    /// Shows anything else.
    pub(crate) fn shown(mut self, measured: String, baseline: String) -> Report {
        (self.measured, self.baseline) = (measured, baseline);
        self
    }

    /// The ratio should be at least `least`.
    pub(crate) fn ratio_at_least(self, ratio: f64, least: f64) -> Report {
        self.target(ratio >= least, "ratio", format!("ratio ≥ {least}"))
    }

    /// Network bytes should be at most `most` times the useful ones.
    pub(crate) fn network_at_most(self, most: f64) -> Report {
        let met = self.network <= most;
        self.target(met, "network", format!("network ≤ {most}"))
    }

    /// One more target.
    pub(crate) fn target(mut self, met: bool, name: &str, words: String) -> Report {
        let comma = if self.target.is_empty() { "" } else { ", " };
        let _ = write!(self.target, "{comma}{words}");
        if !met {
            self.missed.push(name.to_owned());
        }
        self
    }

    fn cells(&self, name: &str) -> [String; 10] {
        let verdict = if self.missed.is_empty() {
            "reached".to_owned()
        } else {
            format!("NOT REACHED: {}", self.missed.join(", "))
        };
        let network =
            if self.network == 0.0 { "-".to_owned() } else { format!("{:.3}", self.network) };
        [
            name.to_owned(),
            self.measured.clone(),
            self.baseline.clone(),
            self.ratio.clone(),
            self.target.clone(),
            verdict,
            self.requests.to_string(),
            network,
            format!("{}/{} MiB", self.peak.div_ceil(MIB), self.limit / MIB),
            format!("{:.2} s", self.cpu),
        ]
    }
}

const HEADS: [&str; 10] = [
    "row",
    "mount",
    "client",
    "ratio",
    "target",
    "verdict",
    "requests",
    "network/useful",
    "peak RSS/limit",
    "daemon CPU",
];

/// One row on a line of its own.
pub(crate) fn line(name: &str, report: &Report) -> String {
    let cells = report.cells(name);
    let named = HEADS.iter().zip(&cells).skip(1).filter(|(_, cell)| !cell.is_empty());
    let words: Vec<String> = named.map(|(head, cell)| format!("{head} {cell}")).collect();
    format!("  {}", words.join("; "))
}

/// All rows.
pub(crate) fn table(reports: &[(&str, Report)]) -> String {
    let rows: Vec<[String; 10]> = reports.iter().map(|(name, report)| report.cells(name)).collect();
    let mut widths = HEADS.map(|head| head.chars().count());
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut add = |cells: &[String; 10]| {
        let padded: Vec<String> =
            cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "{}", padded.join("  ").trim_end());
    };
    add(&HEADS.map(str::to_owned));
    add(&widths.map(|width| "-".repeat(width)));
    rows.iter().for_each(&mut add);
    text
}
