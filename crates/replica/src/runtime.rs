//! The real world: the system's clock and random numbers.

use std::time::{SystemTime, UNIX_EPOCH};

use isle_store::Runtime;

/// Time and randomness of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRuntime;

impl Runtime for SystemRuntime {
    fn now_ms(&self) -> u64 {
        // A clock before 1970 counts as unset, like any before the year of the build.
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
    }

    fn random(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        if let Err(error) = getrandom::fill(&mut bytes) {
            // Ids of two devices must differ; time, process and address do, if the system has no entropy at all.
            tracing::error!(%error, "the system gives no random numbers");
            let place = &raw const bytes as usize as u64;
            let unique = self.now_ms() ^ u64::from(std::process::id()) << 40 ^ place.rotate_left(17);
            bytes[..8].copy_from_slice(&unique.to_le_bytes());
            bytes[8..].copy_from_slice(&unique.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        }
        bytes
    }
}
