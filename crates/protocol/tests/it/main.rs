//! Sessions between replicas of a small model, over links that delay, cut bytes anywhere and break; and hostile peers.
#![allow(clippy::expect_used, clippy::panic, reason = "helpers of tests fail by panicking, as tests do")]

mod hostile;
mod link;
mod model;
mod sync;
