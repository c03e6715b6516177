//! Syncing until Ctrl-C.

use std::io::Write as _;
use std::time::Duration;

use tokio::time::Instant;

use super::Names;
use super::library::{self, Contents};
use super::sync::{self, Round};
use crate::args::{Args, Sync, Way};
use crate::db;
use crate::output::{Out, seconds, time};

/// How often local changes are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// The longest wait after failures.
const BACK_OFF_MAX: Duration = Duration::from_secs(300);

/// How far this file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Point {
    version: u64,
    published: u64,
    /// Rows of other programs that wait.
    queued: u64,
}

impl Point {
    fn is_unsent(self) -> bool {
        self.version > self.published || self.queued > 0
    }
}

pub(crate) async fn run(args: &Args, sync: &Sync, out: &mut Out) -> anyhow::Result<u8> {
    out.note(format!("syncing every {}; Ctrl-C ends it", human(sync.interval)))?;
    out.flush()?;
    tokio::select! {
        stopped = stopped() => stopped.map(|()| 0),
        failed = go_on(args, sync, out) => failed.map(|()| 0),
    }
}

pub(super) async fn stopped() -> anyhow::Result<()> {
    #[cfg(unix)]
    {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            result = tokio::signal::ctrl_c() => result?,
            _ = terminate.recv() => {}
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await?;
    Ok(())
}

/// Ends only when the output does.
async fn go_on(args: &Args, sync: &Sync, out: &mut Out) -> anyhow::Result<()> {
    let (mut failures, mut last_error, mut first) = (0u32, None, true);
    loop {
        let before = point(args);
        let result = round(args, sync).await;
        let error = match &result {
            Ok(round) if round.failed.is_empty() => None,
            Ok(round) => {
                let failed: Vec<String> = round.failed.iter().map(|(_, error)| sync::message(error)).collect();
                Some(failed.join("\nerror: "))
            }
            Err(error) => Some(format!("{error:#}")),
        };
        failures = if error.is_some() { failures + 1 } else { 0 };
        let pause = pause(sync.interval, failures);
        if let Ok(round) = &result {
            let moved = round.reports.iter().any(|report| report.pulled_versions + report.pushed_versions > 0);
            let contents = match round.failed.is_empty() && !sync.no_files && (first || moved) {
                true => library::push_after_sync(args, sync.way == Some(Way::Pull)).await.unwrap_or_else(|error| {
                    // Nobody reads stderr: the work goes on.
                    let _ = writeln!(std::io::stderr(), "warning: contents of files: {error:#}");
                    Contents::Nothing
                }),
                false => Contents::Nothing,
            };
            show(args, round, (first, &contents), out)?;
        }
        if let Some(error) = error.as_ref().filter(|error| last_error.as_ref() != Some(*error)) {
            // Nobody reads stderr: the work goes on.
            let _ = writeln!(std::io::stderr(), "error: {error}\ntrying again in {}", human(pause));
        }
        (last_error, first) = (error, false);
        wait(args, pause, before.filter(|_| failures == 0)).await;
    }
}

async fn round(args: &Args, sync: &Sync) -> anyhow::Result<Round> {
    let remotes = sync::selected(args, sync)?;
    sync::round(args, &remotes, sync).await
}

/// Something that happened is shown; that nothing did is not, after the first time.
fn show(args: &Args, round: &Round, (first, contents): (bool, &Contents), out: &mut Out) -> anyhow::Result<()> {
    if out.json {
        let mut object = sync::to_json(round);
        contents.add_to(&mut object);
        return out.json_line(&object);
    }
    let names = Names::new(&db::open(args)?.status()?);
    for report in &round.reports {
        let details = sync::details(report, &names);
        if !first && details.is_empty() && report.pulled_versions + report.pushed_versions == 0 {
            continue;
        }
        let now = jiff::Timestamp::now().as_millisecond().unsigned_abs();
        let (stamp, name) = (out.style.dim(time(now)), &report.remote);
        out.note(format!("{stamp} {name}: {}", sync::summary(report)))?;
        for line in details {
            let line = out.style.yellow(line);
            out.note(format!("  {line}"))?;
        }
    }
    contents.show(out)?;
    out.flush()
}

/// The interval, or more after failures.
fn pause(interval: Duration, failures: u32) -> Duration {
    if failures == 0 {
        return interval;
    }
    let back_off = Duration::from_secs(1).saturating_mul(1u32 << failures.min(12));
    back_off.min(BACK_OFF_MAX).max(interval)
}

/// Waits; ends early when something was written here since `before`, the point at which the last sync began.
async fn wait(args: &Args, pause: Duration, before: Option<Point>) {
    let until = Instant::now() + pause;
    while Instant::now() < until {
        tokio::time::sleep(LOOK_EVERY.min(until - Instant::now())).await;
        // What that sync left as it was, the next one would leave too.
        if before.is_some() && point(args).is_some_and(|now| now.is_unsent() && Some(now) != before) {
            return;
        }
    }
}

/// A file that cannot be read now is looked at again with the next sync, which says why.
fn point(args: &Args) -> Option<Point> {
    let status = db::open(args).ok()?.status().ok()?;
    Some(Point { version: status.version, published: status.published, queued: status.queued })
}

fn human(duration: Duration) -> String {
    match duration.as_millis() {
        ms if ms % 1000 == 0 => format!("{} s", ms / 1000),
        ms => seconds(u64::try_from(ms).unwrap_or(u64::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_make_the_pause_longer_up_to_a_bound() {
        let interval = Duration::from_secs(5);
        assert_eq!(pause(interval, 0), interval);
        assert_eq!(pause(interval, 1), interval);
        assert_eq!(pause(interval, 4), Duration::from_secs(16));
        assert_eq!(pause(interval, 40), BACK_OFF_MAX);
        assert_eq!(pause(Duration::from_secs(3600), 40), Duration::from_secs(3600));
    }
}
