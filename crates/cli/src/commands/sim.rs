//! Simulated fleets.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use isle_simulations::{
    Coverage, Outcome, Profile, Scenario, Violation, run as simulate, run_in as simulate_in, shrink,
};
use serde_json::json;

use crate::args::{SimAction, SimRun};
use crate::failure::{Failure, Kind};
use crate::output::{Out, count};
use crate::spinner;

/// Of the machine, and no promise of isle's.
const SETUP: &str = "setup";

/// Runs of a failing scenario while it is made small.
const SHRINK_RUNS: usize = 400;

pub(crate) fn run(action: &SimAction, out: &mut Out) -> anyhow::Result<u8> {
    match action {
        SimAction::Run(wanted) => seeds(wanted, out),
        SimAction::Replay { file, timeline, files } => replay(file, *timeline, files.as_deref(), out),
    }
}

fn replay(file: &Path, timeline: bool, files: Option<&Path>, out: &mut Out) -> anyhow::Result<u8> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read the scenario {}", file.display()))?;
    let scenario: Scenario = serde_json::from_str(&text).map_err(|error| {
        Failure::new(Kind::Invalid, format!("{} is no scenario of a simulation: {error}", file.display()))
    })?;
    if let Some(fault) = scenario.fault() {
        return Err(Failure::new(Kind::Invalid, format!("{} cannot be run: {fault}", file.display())).into());
    }
    let outcome = simulate_in(&scenario, files);
    if let Some(files) = files {
        out.note(format!("the devices' files are in {}", files.display()))?;
    }
    shown(&scenario, &outcome, timeline, out)
}

fn shown(scenario: &Scenario, outcome: &Outcome, timeline: bool, out: &mut Out) -> anyhow::Result<u8> {
    let broken = outcome.violation.as_ref();
    if let Some(found) = broken.filter(|found| found.promise == SETUP) {
        anyhow::bail!("the simulation itself fails: {}", found.text);
    }
    let code = u8::from(broken.is_some());
    let events: Vec<String> = outcome.events.iter().map(ToString::to_string).collect();
    let result = json!({
        "seed": scenario.seed,
        "devices": scenario.devices,
        "schema": scenario.schema,
        "steps": scenario.steps.len(),
        "hash": outcome.hash,
        "device_hours": outcome.device_ms / 3_600_000,
        "violation": broken.map(|found| json!({ "promise": found.promise, "text": found.text, "at_ms": found.at_ms })),
        "events": timeline.then_some(&events),
    });
    if out.json(&result)? {
        return Ok(code);
    }
    if timeline {
        for event in &events {
            out.line(crate::output::printable(event))?;
        }
    }
    match broken {
        Some(found) => {
            out.line(format!("✗ seed {}: {}", scenario.seed, crate::output::printable(&found.to_string())))?
        }
        None => out.note(format!(
            "✓ seed {}: {} on {} with the schema {}, {} hours of devices, trace {}",
            scenario.seed,
            count(scenario.steps.len() as u64, "step"),
            count(u64::from(scenario.devices), "device"),
            scenario.schema,
            outcome.device_ms / 3_600_000,
            outcome.hash
        ))?,
    }
    Ok(code)
}

/// What the runs of many seeds have in common.
#[derive(Default)]
struct Sum {
    runs: u64,
    device_ms: u64,
    coverage: Coverage,
    failure: Option<(Scenario, Violation)>,
}

fn seeds(wanted: &SimRun, out: &mut Out) -> anyhow::Result<u8> {
    let profile = Profile::parse(&wanted.profile).unwrap_or(Profile::Default);
    let scenario = |seed| {
        let scenario = Scenario::generate(seed, profile, wanted.devices);
        match wanted.engine.as_str() {
            "native" => scenario,
            engine => scenario.with_cr_sqlite(engine == "mixed"),
        }
    };
    anyhow::ensure!(wanted.keep.is_dir(), "{} is no folder to keep a failure in", wanted.keep.display());
    let began = Instant::now();
    if wanted.count == 1 {
        let scenario = scenario(wanted.seed);
        let outcome = simulate(&scenario);
        let code = shown(&scenario, &outcome, wanted.timeline, out)?;
        if let Some(violation) = outcome.violation {
            keep(wanted, &scenario, &violation, out)?;
        }
        return Ok(code);
    }
    let until = wanted.within.map(|seconds| began + Duration::from_secs(seconds));
    let (next, sum) = (AtomicU64::new(0), Mutex::new(Sum::default()));
    let jobs = wanted.jobs.map(|jobs| jobs as usize);
    let jobs = jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    spinner::beside("simulating", || {
        std::thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| {
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= wanted.count || until.is_some_and(|until| Instant::now() >= until) {
                            return;
                        }
                        let scenario = scenario(wanted.seed.wrapping_add(n));
                        let outcome = simulate(&scenario);
                        let mut sum = sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                        sum.runs += 1;
                        sum.device_ms += outcome.device_ms;
                        sum.coverage.add(&outcome.coverage);
                        if let Some(violation) = outcome.violation {
                            // Of several the first, so that two runs tell the same.
                            if sum.failure.as_ref().is_none_or(|(known, _)| known.seed > scenario.seed) {
                                sum.failure = Some((scenario, violation));
                            }
                            next.store(u64::MAX / 2, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
    });
    let sum = sum.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let took = began.elapsed();
    let hours = sum.device_ms / 3_600_000;
    let per_minute = sum.device_ms as f64 / 3_600_000.0 / (took.as_secs_f64() / 60.0).max(0.001);
    let counts = sum.coverage.counts();
    let failure = sum.failure.as_ref();
    let result = json!({
        "seeds": sum.runs,
        "first_seed": wanted.seed,
        "profile": wanted.profile,
        "seconds": took.as_secs_f64(),
        "device_hours": hours,
        "device_hours_per_minute": per_minute,
        "counts": counts.iter().map(|(name, count)| json!({ "what": name, "count": count })).collect::<Vec<_>>(),
        "violation": failure.map(|(scenario, found)| json!({
            "seed": scenario.seed,
            "promise": found.promise,
            "text": found.text,
            "file": kept_in(wanted, scenario),
        })),
    });
    if !out.json(&result)? {
        for (name, count) in &counts {
            out.note(format!("{count:>12}  {name}"))?;
        }
        out.note(format!(
            "{} of profile {} in {:.1} s: {hours} hours of devices, {per_minute:.0} in a minute",
            count(sum.runs, "seed"),
            wanted.profile,
            took.as_secs_f64()
        ))?;
    }
    let Some((scenario, violation)) = failure else { return Ok(0) };
    if violation.promise == SETUP {
        anyhow::bail!("the simulation itself fails: {}", violation.text);
    }
    if !out.json {
        out.line(format!("✗ seed {}: {}", scenario.seed, crate::output::printable(&violation.to_string())))?;
    }
    keep(wanted, scenario, violation, out)?;
    Ok(1)
}

fn kept_in(wanted: &SimRun, scenario: &Scenario) -> PathBuf {
    wanted.keep.join(format!("failed-{}.json", scenario.seed))
}

/// Makes the scenario of a failure small and puts it into a file.
fn keep(wanted: &SimRun, scenario: &Scenario, violation: &Violation, out: &mut Out) -> anyhow::Result<()> {
    let mut small = scenario.clone();
    if !wanted.no_shrink {
        small = spinner::beside("making it small", || shrink(scenario, violation, SHRINK_RUNS));
    }
    small.note = violation.to_string();
    let path = kept_in(wanted, scenario);
    let text = serde_json::to_string_pretty(&small)?;
    std::fs::write(&path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    out.note(format!(
        "{} in {}: isle sim replay {0} --timeline",
        path.display(),
        count(small.steps.len() as u64, "step")
    ))?;
    Ok(())
}
