//! A bar on a terminal beside work that takes long and says how far it is.

use std::io::IsTerminal as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// What takes no longer shows no bar.
const BAR_AFTER: Duration = Duration::from_secs(1);
/// How often the bar moves.
const DRAW_EVERY: Duration = Duration::from_millis(200);

/// How far something is.
struct State {
    what: String,
    done_bytes: u64,
    total_bytes: u64,
}

/// A bar on a terminal, once the work takes long.
pub(crate) struct Bar {
    begun: Instant,
    terminal: bool,
    state: Mutex<Option<State>>,
}

impl Bar {
    pub(crate) fn new() -> Bar {
        Bar { begun: Instant::now(), terminal: std::io::stderr().is_terminal(), state: Mutex::default() }
    }

    /// Says how far the work is; nobody knows how much there is to do where `total_bytes` is 0.
    pub(crate) fn set(&self, what: impl Into<String>, done_bytes: u64, total_bytes: u64) {
        let state = State { what: what.into(), done_bytes, total_bytes };
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = Some(state);
    }

    /// Waits for the work and draws meanwhile.
    pub(crate) async fn beside<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        let (mut ticks, mut bar) = (tokio::time::interval(DRAW_EVERY), None);
        loop {
            tokio::select! {
                biased;
                result = &mut work => {
                    bar.iter().for_each(ProgressBar::finish_and_clear);
                    return result;
                }
                _ = ticks.tick(), if self.terminal => {
                    if self.begun.elapsed() >= BAR_AFTER {
                        self.draw(bar.get_or_insert_with(|| ProgressBar::new(0).with_elapsed(BAR_AFTER)));
                    }
                }
            }
        }
    }

    fn draw(&self, bar: &ProgressBar) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(state) = state.as_ref() else { return };
        // What has just begun does not know yet how much there is to do.
        let template = match state.total_bytes {
            0 => "{msg:<9} {spinner} {elapsed}",
            _ => "{msg:<9} [{bar:30}] {bytes} of {total_bytes}",
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("=> "));
        bar.set_message(state.what.clone());
        bar.set_length(state.total_bytes.max(state.done_bytes));
        bar.set_position(state.done_bytes);
        bar.tick();
    }
}
