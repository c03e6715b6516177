//! Time that passes when nothing is left to do, and clocks that tell it wrong.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::{Duration, Instant};

use crate::random::Rng;

/// 2026-06-01, when every simulation begins.
pub(crate) const START_MS: u64 = 1_780_272_000_000;

/// The time of the world: tokio's, which stands still while anything happens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WorldTime(Instant);

impl WorldTime {
    /// Begins now.
    pub(crate) fn begin() -> WorldTime {
        WorldTime(Instant::now())
    }

    /// Milliseconds since the beginning.
    pub(crate) fn now(&self) -> u64 {
        self.0.elapsed().as_millis() as u64
    }

    /// When it will be so many milliseconds since the beginning.
    pub(crate) fn at(&self, ms: u64) -> Instant {
        self.0 + Duration::from_millis(ms)
    }
}

/// A device's clock and its random numbers.
#[derive(Debug)]
pub(crate) struct DeviceRuntime {
    world: WorldTime,
    /// How far its clock is off, in milliseconds.
    skew_ms: AtomicI64,
    /// How much faster it goes, in millionths.
    drift_ppm: i64,
    random: Mutex<Rng>,
    /// Looks at the clock.
    asked: AtomicU64,
}

impl DeviceRuntime {
    /// A clock that is off by so much, and goes faster by so much.
    pub(crate) fn new(world: WorldTime, seed: u64, skew_ms: i64, drift_ppm: i64) -> Arc<DeviceRuntime> {
        let random = Mutex::new(Rng(seed));
        Arc::new(DeviceRuntime { world, skew_ms: AtomicI64::new(skew_ms), drift_ppm, random, asked: AtomicU64::new(0) })
    }

    /// Somebody sets the clock.
    pub(crate) fn jump(&self, ms: i64) {
        self.skew_ms.fetch_add(ms, Ordering::SeqCst);
    }

    /// How far it is off.
    pub(crate) fn skew_ms(&self) -> i64 {
        self.skew_ms.load(Ordering::SeqCst)
    }

    /// The clock is right again.
    pub(crate) fn set_right(&self) {
        self.skew_ms.store(0, Ordering::SeqCst);
    }
}

impl isle_store::Runtime for DeviceRuntime {
    fn now_ms(&self) -> u64 {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let passed = self.world.now() as i64;
        let drifted = passed + passed / 1000 * self.drift_ppm / 1000;
        START_MS.saturating_add_signed(drifted + self.skew_ms())
    }

    fn random(&self) -> [u8; 16] {
        let mut rng = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&rng.next().to_le_bytes());
        bytes[8..].copy_from_slice(&rng.next().to_le_bytes());
        bytes
    }

    fn blocks_in_place(&self) -> bool {
        true
    }
}
