//! Takes the samples, engines in turn, and sums them up.

use std::io::IsTerminal;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::engine::{Cx, Engine};
use crate::workload::{Figure, Sample, Workload};

/// A figure of all engines.
#[derive(Debug)]
pub struct FigureResult {
    /// Which figure.
    pub figure: &'static Figure,
    /// One entry per engine, in the order they took their turns; plain is the first.
    pub engines: Vec<EngineResult>,
}

/// A figure of one engine.
#[derive(Debug, Serialize)]
pub struct EngineResult {
    /// The engine's name.
    pub engine: &'static str,
    /// Nothing if the engine does not have this figure.
    #[serde(flatten)]
    pub summary: Option<Summary>,
}

/// What the samples of a figure come to.
#[derive(Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The median.
    pub median: f64,
    /// The median over the median of plain.
    pub ratio: f64,
    /// The smallest ratio within one run.
    pub ratio_min: f64,
    /// The largest ratio within one run.
    pub ratio_max: f64,
    /// All values, in the order of the runs.
    pub samples: Vec<f64>,
}

/// Measures a workload `runs` times on every engine; the engines take turns within each run.
///
/// # Errors
/// When a sample fails its check or an engine fails.
pub fn measure(
    workload: &'static Workload,
    engines: &mut [Box<dyn Engine>],
    cx: &Cx<'_>,
    runs: usize,
) -> Result<Vec<FigureResult>> {
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); engines.len()];
    for run in 1..=runs {
        show_progress(&format!("{} {run}/{runs}", workload.name));
        for (engine, samples) in engines.iter_mut().zip(&mut samples) {
            let sample = (workload.sample)(engine.as_mut(), cx);
            let sample = sample.with_context(|| format!("{} of {}, run {run}", workload.name, engine.name()))?;
            if let Some(sample) = sample {
                ensure!(sample.len() == workload.figures.len(), "{} has the wrong figures", workload.name);
                samples.push(sample);
            }
        }
    }
    show_progress("");
    let results = workload.figures.iter().enumerate().map(|(index, figure)| {
        let baseline = column(&samples[0], figure.baseline).context("plain SQLite has no baseline")?;
        let engines = engines.iter().zip(&samples).map(|(engine, samples)| EngineResult {
            engine: engine.name(),
            summary: column(samples, index).map(|values| summarise(values, &baseline)),
        });
        Ok(FigureResult { figure, engines: engines.collect() })
    });
    results.collect()
}

/// Replaces the line on the terminal, if there is one.
fn show_progress(line: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K{line}");
    }
}

/// The values of one figure, if every sample has one.
fn column(samples: &[Sample], index: usize) -> Option<Vec<f64>> {
    let values: Option<Vec<f64>> = samples.iter().map(|sample| sample[index]).collect();
    values.filter(|values| !values.is_empty())
}

fn summarise(samples: Vec<f64>, baseline: &[f64]) -> Summary {
    let ratios = || samples.iter().zip(baseline).map(|(value, plain)| value / plain);
    let median_value = median(&samples);
    Summary {
        median: median_value,
        ratio: median_value / median(baseline),
        ratio_min: ratios().fold(f64::INFINITY, f64::min),
        ratio_max: ratios().fold(0.0, f64::max),
        samples,
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Dataset;
    use crate::plain::Plain;
    use crate::workload;

    #[test]
    fn ratio_is_of_medians_and_range_of_runs() {
        let summary = summarise(vec![10.0, 40.0, 20.0], &[5.0, 10.0, 10.0]);
        assert_eq!((summary.median, summary.ratio), (20.0, 2.0));
        assert_eq!((summary.ratio_min, summary.ratio_max), (2.0, 4.0));
        assert_eq!(median(&[1.0, 4.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn every_workload_of_every_engine_passes_its_checks() -> Result<()> {
        let data = Dataset::generate(400);
        let cx = Cx::new(&data, None)?;
        let mut engines: Vec<Box<dyn Engine>> = vec![Box::new(Plain)];
        #[cfg(feature = "cr-sqlite")]
        engines.push(Box::new(crate::crsqlite::CrSqlite::new(
            crate::crsqlite::find_extension().expect("run scripts/fetch-cr-sqlite"),
        )));
        engines.push(Box::new(crate::isle::Isle));
        for workload in workload::ALL {
            for result in measure(workload, &mut engines, &cx, 1)? {
                let plain = result.engines[0].summary.as_ref().map(|summary| summary.ratio);
                assert!(plain.is_none_or(|ratio| ratio > 0.0), "{}: {plain:?}", result.figure.name);
            }
        }
        Ok(())
    }
}
