//! Prints the results.

use anyhow::Result;
use serde_json::json;

use crate::machine::Facts;
use crate::runner::{FigureResult, Summary};
use crate::workload::Unit;

/// Prints what the figures were measured on.
pub fn print_facts(facts: &Facts) {
    println!("cpu      {}, {} cores", facts.cpu, facts.cores);
    println!("system   {}, databases in {}", facts.system, facts.directory.display());
    println!("sqlite   {}", facts.sqlite);
    println!("settings {}", facts.settings);
    println!("rustc    {}", facts.rustc);
    println!("engines  {}", facts.engines.join(", "));
    println!("rows     {}, median of {} runs", facts.rows, facts.runs);
    println!();
}

/// Prints a line per figure: plain's median, then median, ratio and range of ratios of the others.
pub fn print_table(results: &[FigureResult]) {
    let Some(first) = results.first() else { return };
    print!("{:<46} {:>12}", "", first.engines[0].engine);
    for engine in &first.engines[1..] {
        print!(" | {:>12} {:>7} {:>15}", engine.engine, "ratio", "min..max");
    }
    println!();
    for result in results {
        let unit = result.figure.unit;
        let plain = result.engines[0].summary.as_ref();
        print!("{:<46} {:>12}", result.figure.title, plain.map_or_else(dash, |it| value(it.median, unit)));
        for engine in &result.engines[1..] {
            print!(" | {}", columns(engine.summary.as_ref(), unit));
        }
        println!();
    }
}

/// Prints everything, samples included, as one JSON object.
///
/// # Errors
/// When a figure is not a number.
pub fn print_json(facts: &Facts, results: &[FigureResult]) -> Result<()> {
    let figures: Vec<_> = results
        .iter()
        .map(|result| {
            let figure = result.figure;
            json!({
                "name": figure.name,
                "title": figure.title.trim(),
                "unit": figure.unit.name(),
                "engines": result.engines,
            })
        })
        .collect();
    println!("{}", serde_json::to_string_pretty(&json!({ "machine": facts, "figures": figures }))?);
    Ok(())
}

fn columns(summary: Option<&Summary>, unit: Unit) -> String {
    let Some(it) = summary else { return format!("{:>12} {:>7} {:>15}", "-", "-", "-") };
    let range = format!("{:.2}..{:.2}", it.ratio_min, it.ratio_max);
    format!("{:>12} {:>7.2} {range:>15}", value(it.median, unit), it.ratio)
}

fn value(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Milliseconds if value < 1.0 => format!("{value:.4} ms"),
        Unit::Milliseconds => format!("{value:.1} ms"),
        Unit::Bytes => format!("{:.1} KiB", value / 1_024.0),
    }
}

fn dash() -> String {
    "-".to_owned()
}
