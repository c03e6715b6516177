//! Exchanging changes with remotes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use isle::{CheckReport, Direction, Phase, Progress, RemoteInfo, SyncOptions, SyncReport};
use serde_json::json;

use super::library::{self, Contents};
use super::{Names, live, look, remotes, watch};
use crate::args::{Args, Prefer, Sync, Way};
use crate::bar::Bar;
use crate::confirm;
use crate::db;
use crate::failure::{self, Failure, Kind};
use crate::output::{Out, bytes, count, printable, seconds, thousands, time};

/// Changesets that wait or were refused that are shown to people, of each kind.
const DETAILS_MAX: usize = 10;

/// What one round over the remotes gave.
pub(crate) struct Round {
    pub(crate) reports: Vec<SyncReport>,
    /// Remotes that failed.
    pub(crate) failed: Vec<(String, isle::Error)>,
    /// Peers that could not be reached: a device is often off.
    pub(crate) away: Vec<(String, isle::Error)>,
}

pub(crate) fn run(args: &Args, sync: &Sync, out: &mut Out) -> anyhow::Result<u8> {
    let runtime = runtime()?;
    let code = runtime.block_on(async {
        if sync.live {
            return live::sync_live(args, sync, out).await;
        }
        let remotes = selected(args, sync)?;
        if sync.check {
            return check(args, &remotes, sync, out).await;
        }
        if sync.prefer == Prefer::Remote {
            if !sync.yes {
                may_give_way(args, &remotes, sync, out).await?;
            }
            // What gives way is in the journal too; this has all of it at once.
            db::open(args)?.back_up_before("sync")?;
        }
        if sync.watch {
            return watch::run(args, sync, out).await;
        }
        let round = round(args, &remotes, sync).await?;
        let wants_files = !sync.no_files && !round.reports.is_empty();
        let pulls = sync.way == Some(Way::Pull);
        let contents = if wants_files { library::push_after_sync(args, pulls).await? } else { Contents::Nothing };
        let mut object = to_json(&round);
        contents.add_to(&mut object);
        if !out.json(&object)? {
            show(args, &round, round.reports.len() + round.failed.len() + round.away.len() > 1, out)?;
        }
        contents.show(out)?;
        let blocked = |report: &SyncReport| report.pending.iter().any(|pending| pending.state == "blocked");
        let code = match &round.reports {
            reports if reports.iter().any(|report| !report.refused.is_empty()) => Kind::Failed.code(),
            reports if reports.iter().any(blocked) => Kind::Decision.code(),
            _ => 0,
        };
        let several = round.reports.len() + round.failed.len() + round.away.len() > 1;
        let failed =
            if round.reports.is_empty() { round.failed.into_iter().chain(round.away).collect() } else { round.failed };
        ended(failed, several, code, out)
    });
    // A merge that Ctrl-C left behind is a transaction: SQLite undoes it.
    runtime.shutdown_timeout(Duration::from_secs(2));
    code
}

/// A runtime for syncs.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the async runtime")
}

/// The remotes that are meant.
pub(crate) fn selected(args: &Args, sync: &Sync) -> anyhow::Result<Vec<RemoteInfo>> {
    let replica = db::open(args)?;
    let mut remotes = replica.remotes()?;
    let asks_for_remotes = sync.check || sync.way.is_some() || sync.remote.is_some();
    if remotes.is_empty() && !asks_for_remotes && !replica.has_peers()? {
        let peers = replica.peers()?;
        let others: Vec<String> =
            peers.iter().filter(|peer| !peer.own && !peer.revoked).map(|peer| printable(&peer.name)).collect();
        if !others.is_empty() {
            let message = format!("it is not known where {} can be reached", others.join(", "));
            return Err(Failure::new(Kind::Failed, message)
                .hint("`isle serve` here lets others call; or say where one is: `isle peers add DEVICE HOST:PORT`")
                .into());
        }
    }
    if remotes.is_empty() && (asks_for_remotes || !replica.has_peers()?) {
        return Err(isle::Error::NoRemote.into());
    }
    if let Some(name) = &sync.remote {
        remotes.retain(|remote| remote.name == *name);
        if remotes.is_empty() {
            return Err(isle::Error::NoSuchRemote { name: name.clone() }.into());
        }
    }
    Ok(remotes)
}

/// Syncs with each remote; one that fails does not keep the others from it.
pub(crate) async fn round(args: &Args, remotes: &[RemoteInfo], sync: &Sync) -> anyhow::Result<Round> {
    let prefer = match sync.prefer {
        Prefer::Merge => isle::Prefer::Merge,
        Prefer::Local => isle::Prefer::Local,
        Prefer::Remote => isle::Prefer::Remote,
    };
    let direction = match sync.way {
        None => Direction::Both,
        Some(Way::Pull) => Direction::Pull,
        Some(Way::Push) => Direction::Push,
    };
    let mut round = Round { reports: Vec::new(), failed: Vec::new(), away: Vec::new() };
    for remote in remotes {
        let replica = remotes::open(args, remotes::allows_http(&remote.url), &sync.patience)?;
        let bar = Arc::new(Bar::new());
        let progress = Some(callback(&bar));
        let options = SyncOptions { remote: Some(remote.name.clone()), direction, prefer, progress };
        match bar.beside(replica.sync_with(&options)).await {
            Ok(reports) => round.reports.extend(reports),
            Err(error) => round.failed.push((remote.name.clone(), error)),
        }
    }
    if direction == Direction::Both && sync.remote.is_none() {
        let bar = Bar::new();
        for outcome in bar.beside(db::open(args)?.sync_peers()).await? {
            match outcome.result {
                Ok(report) => round.reports.push(report),
                Err(error @ isle::Error::Peer { .. }) => round.away.push((outcome.remote, error)),
                Err(error) => round.failed.push((outcome.remote, error)),
            }
        }
    }
    Ok(round)
}

/// Asks before own values that nobody else has may give way to a remote's.
async fn may_give_way(args: &Args, remotes: &[RemoteInfo], sync: &Sync, out: &Out) -> anyhow::Result<()> {
    for remote in remotes {
        let replica = remotes::open(args, remotes::allows_http(&remote.url), &sync.patience)?;
        let options = SyncOptions { remote: Some(remote.name.clone()), ..SyncOptions::default() };
        // A remote that cannot be looked at cannot be synced with either: the sync says why.
        let Ok(reports) = replica.check_remotes(&options).await else { continue };
        for report in reports.iter().filter(|report| report.diverged) {
            let unsent = count(report.ahead + report.queued, "change");
            let question =
                format!("{unsent} of this replica, not sent yet, may give way to what {} has", report.remote);
            confirm::ask(question, out)?;
        }
    }
    Ok(())
}

/// The exit code. What failed goes to standard error: the only remote's error is the command's own, of several each is named.
fn ended(failed: Vec<(String, isle::Error)>, several: bool, code: u8, out: &mut Out) -> anyhow::Result<u8> {
    let mut failed = failed.into_iter().map(|(_, error)| anyhow::Error::new(error));
    if !several {
        return failed.next().map_or(Ok(code), Err);
    }
    out.flush()?;
    // One kind of failure keeps its code.
    let mut codes = Vec::new();
    for error in failed {
        // With --json standard output has them all, with their kinds.
        if !out.json {
            failure::report(&error, "sync", false);
        }
        codes.push(Kind::of(&error).code());
    }
    Ok(match codes.first() {
        None => code,
        Some(first) if codes.iter().all(|other| other == first) => *first,
        Some(_) => Kind::Failed.code(),
    })
}

pub(crate) fn to_json(round: &Round) -> serde_json::Value {
    json!({ "remotes": round.reports, "failed": failed_json(&round.failed), "away": failed_json(&round.away) })
}

fn failed_json(failed: &[(String, isle::Error)]) -> Vec<serde_json::Value> {
    let object = |(name, error): &(String, isle::Error)| {
        let mut object = json!({ "remote": name, "kind": Kind::of_isle(error).as_str(), "message": message(error) });
        if let (Some(hint), Some(fields)) = (failure::hint_of_isle(error), object.as_object_mut()) {
            fields.insert("hint".to_owned(), hint.into());
        }
        object
    };
    failed.iter().map(object).collect()
}

/// An error and its causes on one line.
pub(crate) fn message(error: &isle::Error) -> String {
    let chain = std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| error.source());
    failure::messages(chain).join(": ")
}

/// The summaries, for people.
pub(crate) fn show(args: &Args, round: &Round, named: bool, out: &mut Out) -> anyhow::Result<()> {
    let status = db::open(args)?.status()?;
    let names = Names::new(&status);
    for report in &round.reports {
        let prefix = if named { format!("{}: ", report.remote) } else { String::new() };
        out.note(format!("{prefix}{}", summary(report)))?;
        for line in details(report, &names) {
            let line = out.style.yellow(line);
            out.note(format!("  {line}"))?;
        }
    }
    for (name, _) in round.away.iter().filter(|_| !round.reports.is_empty()) {
        let words = out.style.dim(format!("{} could not be reached", printable(name)));
        out.note(words)?;
    }
    if let Some(warning) = look::clock_warning(&status).map(|warning| out.style.yellow(warning)) {
        out.note(format!("  {warning}"))?;
    }
    Ok(())
}

/// What a sync did, in one line.
pub(crate) fn summary(report: &SyncReport) -> String {
    let pulled = report.pulled_versions > 0;
    let did = match (pulled, report.pushed_versions) {
        (false, 0) => "nothing new".to_owned(),
        (false, pushed) => format!("pushed {}", count(pushed, "change")),
        (true, pushed) => format!(
            "pulled {} ({}), pushed {}",
            count(report.pulled_versions, "change"),
            count(report.pulled_rows, "row"),
            thousands(pushed)
        ),
    };
    let schema = match (report.pulled_operations, report.pushed_operations) {
        (0, 0) => String::new(),
        (pulled, 0) => format!(", took {} of the schema", count(pulled, "change")),
        (0, pushed) => format!(", sent {} of the schema", count(pushed, "change")),
        (pulled, pushed) => format!(", took {} of the schema and sent {pushed}", count(pulled, "change")),
    };
    let did = match did.as_str() {
        "nothing new" if !schema.is_empty() => schema.trim_start_matches(", ").to_owned(),
        _ => did + &schema,
    };
    // Between devices there are none.
    let requests = match report.requests {
        0 if report.uploaded_bytes > 0 => String::new(),
        requests => format!("{}, ", count(requests, "request")),
    };
    format!(
        "{did} · {requests}{} up, {} down · {}",
        bytes(report.uploaded_bytes),
        bytes(report.downloaded_bytes),
        seconds(report.duration_ms)
    )
}

/// What a person should know or do.
pub(crate) fn details(report: &SyncReport, names: &Names) -> Vec<String> {
    let mut lines = Vec::new();
    if report.held_back {
        lines.push(
            "nothing of this replica was sent: it is new here and has to catch up with the others first".to_owned(),
        );
    }
    if report.restamped_versions > 0 {
        let changes = count(report.restamped_versions, "unsent change");
        lines.push(format!("this device's clock had run ahead: {changes} now count as of today"));
    }
    if report.snapshot_joined {
        lines.push("took in a snapshot: the changes before it are not kept one by one any more".to_owned());
    }
    if report.snapshot_published {
        lines.push("put a snapshot in the place of this replica's old changes".to_owned());
    }
    if report.conflicts > 0 {
        let lost = count(report.conflicts, "value");
        lines.push(format!("{lost} lost against concurrent writes and wait in the journal: `isle conflicts`"));
    }
    if !report.standing_still.is_empty() {
        let tables = report.standing_still.join(", ");
        lines.push(format!("{tables}: changed past isle, and does not travel: `isle schema status` says why"));
    }
    if report.hidden > 0 && report.pulled_rows > 0 {
        let rows = count(report.hidden, "row");
        lines.push(format!(
            "{rows} in all not shown as merged, for a UNIQUE index or a foreign key: `isle conflicts hidden`"
        ));
    }
    if report.put_back > 0 {
        let values = count(report.put_back, "value");
        lines.push(format!("{values} of them written again, as --prefer says"));
    }
    for (site, version, reason) in report.waiting.iter().take(DETAILS_MAX) {
        let site = names.of_text(site);
        lines.push(format!("waits: version {version} of {site}, because {reason}; a later sync takes it up"));
    }
    if let more @ 1.. = report.waiting.len().saturating_sub(DETAILS_MAX) {
        lines.push(format!("{} more wait; `isle sync --json` lists them", thousands(more as u64)));
    }
    // Those that only follow one that is named need not be.
    let named = report.pending.iter().filter(|pending| pending.state != "follows");
    for pending in named.take(DETAILS_MAX) {
        let id = pending.operation.get(..8).unwrap_or(&pending.operation);
        lines.push(format!(
            "schema operation {id} cannot be applied here yet: {}; what needs it is kept, the rest was taken: `isle schema status`",
            pending.reason
        ));
    }
    for site in report.turned_away.iter().take(DETAILS_MAX) {
        let site = names.of_text(site);
        lines.push(format!(
            "turned away: {site}, which is new here and has an old key of the group; if it belongs to it: `isle key export` here, and `isle key import` there"
        ));
    }
    for reason in report.refused.iter().take(DETAILS_MAX) {
        lines.push(format!("refused: {reason}; what depends on it waits, the rest was taken"));
    }
    if let more @ 1.. = report.refused.len().saturating_sub(DETAILS_MAX) {
        lines.push(format!("{} more refused; `isle sync --json` lists them", thousands(more as u64)));
    }
    if let Some(site) = &report.new_site {
        let short = site.get(..8).unwrap_or(site);
        let why = if report.was_retired {
            "others had retired this replica"
        } else {
            "this file is a copy or an older state"
        };
        lines.push(format!("{why}: it goes on as site {short}, nothing to do"));
    }
    for site in &report.stale {
        let site = names.of_text(site);
        lines.push(format!(
            "the remote shows an older state of {site} than before: it was rolled back; sync on {site} again"
        ));
    }
    lines
}

async fn check(args: &Args, remotes: &[RemoteInfo], sync: &Sync, out: &mut Out) -> anyhow::Result<u8> {
    let (mut reports, mut failed) = (Vec::new(), Vec::new());
    for remote in remotes {
        let replica = remotes::open(args, remotes::allows_http(&remote.url), &sync.patience)?;
        let options = SyncOptions { remote: Some(remote.name.clone()), ..SyncOptions::default() };
        match replica.check_remotes(&options).await {
            Ok(checked) => reports.extend(checked),
            Err(error) => failed.push((remote.name.clone(), error)),
        }
    }
    if !out.json(&json!({ "remotes": reports, "failed": failed_json(&failed) }))? {
        for report in &reports {
            out.line(compare(report))?;
        }
    }
    ended(failed, remotes.len() > 1, 0, out)
}

/// How a replica and a remote compare, in a line or two.
fn compare(report: &CheckReport) -> String {
    let name = &report.remote;
    let rows = format!("{} of other programs", count(report.queued, "row"));
    let push = match (report.ahead, report.queued) {
        (ahead, 0) => format!("push {}", count(ahead, "change")),
        (0, _) => format!("push {rows}"),
        (ahead, _) => format!("push {} and {rows}", count(ahead, "change")),
    };
    let state = match (report.exists, report.ahead + report.queued, report.behind) {
        (false, ..) if report.last_sync_ms.is_some() => {
            "holds nothing any more: it was emptied, or is not mounted; a sync would push nothing".to_owned()
        }
        (false, ..) => format!("is empty; a sync would {push}"),
        (true, 0, 0) => "has what is here; nothing to do".to_owned(),
        (true, _, 0) => format!("lacks something; a sync would {push}"),
        (true, 0, behind) => format!("is ahead; a sync would pull {}", count(behind, "change")),
        (true, _, behind) => format!("and this file differ; a sync would pull {} and {push}", count(behind, "change")),
    };
    let last = report.last_sync_ms.map_or_else(String::new, |ms| format!("\n  last sync {}", time(ms)));
    format!("{name} {state}{last}")
}

/// Tells a bar how far a sync is.
pub(super) fn callback(bar: &Arc<Bar>) -> Arc<dyn Fn(Progress) + Send + std::marker::Sync> {
    let bar = Arc::clone(bar);
    Arc::new(move |progress: Progress| {
        let what = match progress.phase {
            Phase::Download => "receiving",
            Phase::Merge => "merging",
            Phase::Upload => "sending",
        };
        bar.set(what, progress.done_bytes, progress.total_bytes);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remote_full_of_strangers_does_not_fill_the_screen() {
        let names = Names::default();
        let report = SyncReport {
            waiting: (1..=2_012).map(|n| (format!("{n:032x}"), 1, "its author had seen more".to_owned())).collect(),
            refused: (1..=12).map(|n| format!("changeset {n}")).collect(),
            ..SyncReport::default()
        };
        let lines = details(&report, &names);
        assert_eq!(lines.len(), 22);
        assert!(lines[10].starts_with("2,002 more wait") && lines[21].starts_with("2 more refused"), "{lines:?}");
    }

    #[test]
    fn a_summary_is_one_line() {
        let report = SyncReport {
            pulled_versions: 3,
            pulled_rows: 12,
            pushed_versions: 1,
            requests: 2,
            uploaded_bytes: 4_100,
            downloaded_bytes: 1_200,
            duration_ms: 104,
            ..SyncReport::default()
        };
        assert_eq!(
            summary(&report),
            "pulled 3 changes (12 rows), pushed 1 · 2 requests, 4.1 KB up, 1.2 KB down · 0.1 s"
        );
        assert_eq!(summary(&SyncReport::default()), "nothing new · 0 requests, 0 B up, 0 B down · 0 ms");
    }
}
