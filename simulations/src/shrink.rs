//! Making a failing scenario small.

use crate::run::run;
use crate::scenario::{Scenario, What};
use crate::trace::Violation;

/// Leaves out whatever the same promise is broken without: halves first, then smaller parts, then single steps (delta debugging, after Zeller
/// and Hildebrandt, 2002). Runs the scenario at most so often; tells how many steps are left.
pub fn shrink(scenario: &Scenario, violation: &Violation, runs: usize, mut tell: impl FnMut(usize)) -> Scenario {
    let breaks = |candidate: &Scenario| run(candidate).violation.is_some_and(|found| found.promise == violation.promise);
    let mut best = scenario.clone();
    // What comes after it plays no part. The quiet point at which it was noticed does.
    let beyond = best.steps.iter().position(|step| step.at_ms > violation.at_ms && step.what != What::Quiet);
    let mut left = runs;
    if let Some(beyond) = beyond {
        let mut candidate = best.clone();
        candidate.steps.truncate(beyond);
        left = left.saturating_sub(1);
        if breaks(&candidate) {
            best = candidate;
        }
    }
    let mut size = best.steps.len().div_ceil(2);
    while size > 0 && left > 0 {
        let (mut at, mut smaller) = (0, false);
        while at < best.steps.len() && left > 0 {
            let mut candidate = best.clone();
            let end = (at + size).min(candidate.steps.len());
            candidate.steps.drain(at..end);
            left -= 1;
            if breaks(&candidate) {
                best = candidate;
                smaller = true;
                tell(best.steps.len());
            } else {
                at = end;
            }
        }
        if !smaller || size > best.steps.len() {
            size = if size == 1 && !smaller { 0 } else { (size / 2).max(usize::from(smaller)) };
        }
    }
    // Fewer devices, if the others are not needed.
    while best.devices > 2 && left > 0 {
        let mut candidate = best.clone();
        candidate.devices -= 1;
        left -= 1;
        if !breaks(&candidate) {
            break;
        }
        best = candidate;
    }
    best
}
