//! Making a failing scenario small.

use crate::run::run;
use crate::scenario::Scenario;
use crate::trace::Violation;

/// Leaves out of a scenario whatever the same promise is broken without. Runs it at most so often.
pub fn shrink(scenario: &Scenario, violation: &Violation, runs: usize) -> Scenario {
    smallest(scenario, runs, |candidate| {
        run(candidate).violation.is_some_and(|found| found.promise == violation.promise)
    })
}

/// Halves first, then smaller parts, then single steps, then devices (delta debugging, after Zeller and Hildebrandt, 2002).
fn smallest(scenario: &Scenario, runs: usize, mut breaks: impl FnMut(&Scenario) -> bool) -> Scenario {
    let (mut best, mut left) = (scenario.clone(), runs);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Profile, What};

    #[test]
    fn what_matters_is_left_and_nothing_else() {
        let scenario = Scenario::generate(3, Profile::Chaos, Some(4));
        let syncs = |scenario: &Scenario| scenario.steps.iter().filter(|step| step.what == What::Sync).count();
        let quiet = |scenario: &Scenario| scenario.steps.iter().any(|step| step.what == What::Quiet);
        assert!(syncs(&scenario) > 3 && quiet(&scenario), "{scenario:?}");
        let mut runs = 0;
        let small = smallest(&scenario, 1_000, |candidate| {
            runs += 1;
            syncs(candidate) >= 2 && quiet(candidate) && candidate.devices >= 3
        });
        assert_eq!((small.steps.len(), small.devices), (3, 3), "{small:?}");
        assert!(runs < 1_000);
        let mut runs = 0;
        smallest(&scenario, 5, |_| {
            runs += 1;
            false
        });
        assert!(runs <= 5, "it goes on for ever");
    }
}
