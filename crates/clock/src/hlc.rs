//! Hybrid logical clocks, after Kulkarni, Demirbas, Madappa, Avva and Leone, "Logical Physical Clocks
//! and Consistent Snapshots in Globally Distributed Databases" (2014): wall time where it is useful, a
//! counter where it is not.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::SiteId;

/// A hybrid logical timestamp: 48 bits of milliseconds since 1970 (UTC), then a 16-bit counter.
///
/// The largest valid one is [`Hlc::MAX`], so that a timestamp also fits SQLite's signed 64-bit integer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hlc(u64);

const _: () = assert!(size_of::<Hlc>() == 8);

impl Hlc {
    /// The timestamp below every real one; cells of adopted rows carry it.
    pub const ZERO: Hlc = Hlc(0);
    /// The largest timestamp that is accepted anywhere (in the year 6429).
    pub const MAX: Hlc = Hlc(i64::MAX as u64);

    /// A timestamp of `ms` milliseconds since 1970 and a counter; `None` beyond [`Hlc::MAX`].
    pub const fn new(ms: u64, counter: u16) -> Option<Hlc> {
        if ms >= 1 << 47 {
            return None;
        }
        Some(Hlc(ms << 16 | counter as u64))
    }

    /// The timestamp with exactly these bits; `None` beyond [`Hlc::MAX`].
    pub const fn from_bits(bits: u64) -> Option<Hlc> {
        if bits > Hlc::MAX.0 {
            return None;
        }
        Some(Hlc(bits))
    }

    /// The 64 bits: milliseconds in the upper 48, the counter in the lower 16.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Milliseconds since 1970.
    pub const fn ms(self) -> u64 {
        self.0 >> 16
    }

    /// The counter within the millisecond.
    pub const fn counter(self) -> u16 {
        self.0 as u16
    }
}

impl fmt::Debug for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.ms(), self.counter())
    }
}

impl fmt::Display for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.ms(), self.counter())
    }
}

/// When and where a cell was written. The larger stamp wins: larger time, then larger site id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// The time of the transaction.
    pub hlc: Hlc,
    /// The site that wrote.
    pub site: SiteId,
}

/// Why a timestamp was not issued or not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClockError {
    /// A timestamp from elsewhere is further ahead of this device's clock than the drift bound.
    #[error(
        "timestamp {hlc} is {ahead_ms} ms ahead of this device's clock (bound {bound_ms} ms): check both clocks, it is retried as time passes"
    )]
    Drift {
        /// The timestamp.
        hlc: Hlc,
        /// How far ahead it is, in milliseconds.
        ahead_ms: u64,
        /// The bound, in milliseconds.
        bound_ms: u64,
    },
    /// No larger timestamp exists.
    #[error("the clock stands at its largest timestamp {hlc}: no later write can be stamped")]
    Exhausted {
        /// The largest timestamp seen.
        hlc: Hlc,
    },
}

/// A hybrid logical clock. Time is an argument; the state is one timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    last: Hlc,
}

impl Clock {
    /// How far another device's timestamp may be ahead of this one's wall clock, by default: five minutes.
    pub const DRIFT: Duration = Duration::from_secs(5 * 60);

    /// A clock that has issued or seen `last` and nothing later.
    pub const fn resume(last: Hlc) -> Clock {
        Clock { last }
    }

    /// The largest timestamp issued or seen.
    pub const fn last(&self) -> Hlc {
        self.last
    }

    /// The next timestamp: the wall time if it is ahead of everything seen, else the smallest larger one.
    ///
    /// # Errors
    /// [`ClockError::Exhausted`] at the end of time.
    pub fn tick(&mut self, now_ms: u64) -> Result<Hlc, ClockError> {
        let wall = Hlc::new(now_ms, 0).unwrap_or(Hlc::ZERO);
        let next = Hlc::from_bits(self.last.0 + 1).ok_or(ClockError::Exhausted { hlc: self.last })?;
        self.last = wall.max(next);
        Ok(self.last)
    }

    /// Takes note of a timestamp from elsewhere, so that every later tick is larger.
    pub fn observe(&mut self, hlc: Hlc) {
        self.last = self.last.max(hlc);
    }

    /// How far beyond the build date a timestamp may be while the wall clock is unset: ten years. Without any bound one
    /// changeset could take the clock to the end of time.
    pub const UNSET_DRIFT: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

    /// Whether `hlc` may be accepted at `now_ms`. A wall clock before `unset_before_ms` (the build date, say)
    /// counts as unset, and then [`Clock::UNSET_DRIFT`] after that date is the bound.
    ///
    /// # Errors
    /// [`ClockError::Drift`] when the timestamp is more than `bound` ahead.
    pub fn check_drift(hlc: Hlc, now_ms: u64, unset_before_ms: u64, bound: Duration) -> Result<(), ClockError> {
        let unset = now_ms < unset_before_ms;
        let bound = if unset { Clock::UNSET_DRIFT } else { bound };
        let bound_ms = u64::try_from(bound.as_millis()).unwrap_or(u64::MAX);
        let ahead_ms = hlc.ms().saturating_sub(now_ms.max(unset_before_ms));
        if ahead_ms <= bound_ms {
            return Ok(());
        }
        Err(ClockError::Drift { hlc, ahead_ms, bound_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ticks_rise_whatever_the_wall_clock_and_the_peers_do(
            steps in prop::collection::vec((0u64..1 << 47, prop::option::of(0u64..1 << 60), any::<bool>()), 1..200)
        ) {
            let mut clock = Clock::resume(Hlc::ZERO);
            let mut last = Hlc::ZERO;
            for (now, seen, restart) in steps {
                if let Some(hlc) = seen.and_then(Hlc::from_bits) {
                    clock.observe(hlc);
                    last = last.max(hlc);
                }
                if restart {
                    clock = Clock::resume(clock.last());
                }
                let next = clock.tick(now).expect("far from the end of time");
                prop_assert!(next > last);
                prop_assert!(next.ms() >= now);
                last = next;
            }
        }

        #[test]
        fn bits_and_parts_agree(ms in 0u64..1 << 47, counter: u16) {
            let hlc = Hlc::new(ms, counter).expect("in range");
            prop_assert_eq!((hlc.ms(), hlc.counter()), (ms, counter));
            prop_assert_eq!(Hlc::from_bits(hlc.bits()), Some(hlc));
            prop_assert!(hlc.bits() <= i64::MAX as u64);
        }
    }

    #[test]
    fn a_full_counter_runs_over_into_the_next_millisecond() {
        let mut clock = Clock::resume(Hlc::new(7, u16::MAX).expect("valid"));
        assert_eq!(clock.tick(7), Ok(Hlc::new(8, 0).expect("valid")));
    }

    #[test]
    fn the_end_of_time_is_an_error_and_not_a_wrap() {
        let mut clock = Clock::resume(Hlc::MAX);
        assert_eq!(clock.tick(1), Err(ClockError::Exhausted { hlc: Hlc::MAX }));
        assert_eq!(Hlc::from_bits(u64::MAX), None);
    }

    #[test]
    fn drift_is_bounded_unless_the_wall_clock_is_unset() {
        let bound = Duration::from_millis(100);
        let at = |ms| Hlc::new(ms, 0).expect("valid");
        assert_eq!(Clock::check_drift(at(1_100), 1_000, 0, bound), Ok(()));
        assert_eq!(
            Clock::check_drift(at(1_101), 1_000, 0, bound),
            Err(ClockError::Drift { hlc: at(1_101), ahead_ms: 101, bound_ms: 100 })
        );
        assert_eq!(Clock::check_drift(at(1_101), 1_000, 1_001, bound), Ok(()));
        assert!(Clock::check_drift(Hlc::MAX, 1_000, 1_001, bound).is_err());
    }

    #[test]
    fn stamps_of_one_time_are_ordered_by_site() {
        let stamp = |ms, site| Stamp { hlc: Hlc::new(ms, 0).expect("valid"), site: SiteId::from_bytes([site; 16]) };
        assert!(stamp(2, 1) > stamp(1, 9));
        assert!(stamp(2, 2) > stamp(2, 1));
    }
}
