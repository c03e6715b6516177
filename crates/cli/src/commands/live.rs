//! Letting devices in, joining, and staying connected.

use std::io::{IsTerminal as _, Read as _};
use std::time::Duration;

use anyhow::Context as _;
use isle::{DeviceKey, InviteOptions, Live, LiveEvent, LiveOptions, Replica, Ticket};
use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::{Names, engines, remotes, sync, watch};
use crate::args::{Args, Invite, Join, Listen, Patience, Serve, Sync};
use crate::db;
use crate::failure::{Failure, Kind};
use crate::output::{Out, count, printable, time};

/// How often it is looked whether a device has joined through another process.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// How long a device that has joined and was cut off is waited for.
const COMES_BACK: Duration = Duration::from_secs(20);
/// The longest ticket that is read from standard input.
const TICKET_BYTES_MAX: u64 = 1 << 16;

/// Opens for callers: at the usual port, or any other if that is taken and none was asked for.
async fn listen(replica: &Replica, listen: &Listen, remotes: Option<Duration>) -> anyhow::Result<Live> {
    let options = |port| LiveOptions {
        listen: listen.listen,
        port: Some(port),
        addresses: listen.addresses.clone(),
        discover: !listen.no_discovery,
        remotes,
    };
    let usual = replica.go_live(&options(listen.port.unwrap_or(Replica::DEFAULT_PORT))).await;
    match usual {
        Err(isle::Error::Transport { .. }) if listen.port.is_none() && listen.listen.is_none() => {
            Ok(replica.go_live(&options(0)).await?)
        }
        other => Ok(other?),
    }
}

pub(crate) fn invite(args: &Args, invite: &Invite, out: &mut Out) -> anyhow::Result<u8> {
    let replica = db::open(args)?;
    let runtime = sync::runtime()?;
    let code = runtime.block_on(async {
        let elsewhere = replica.listening_elsewhere()?;
        if !elsewhere.is_empty() {
            return invite_beside(&replica, elsewhere, invite, out).await;
        }
        let live = listen(&replica, &invite.listen, None).await?;
        let mut events = live.events();
        let options = InviteOptions { expires: invite.expires, addresses: live.addresses().to_vec() };
        let ticket = replica.invite(&options)?;
        show_ticket(&ticket, invite, out)?;
        let joined = tokio::select! {
            stopped = watch::stopped() => stopped.map(|()| None),
            () = tokio::time::sleep(invite.expires) => Ok(None),
            joined = wait_for_one(&mut events, out) => joined.map(Some),
        }?;
        live.stop().await?;
        match joined {
            Some(name) => {
                let mark = out.style.green("✓");
                if !out.json {
                    out.note(format!(
                        "{mark} {name} has joined and has everything; `isle serve` stays for the next sync"
                    ))?;
                }
                Ok(0)
            }
            None => Err(nobody()),
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(2));
    code
}

/// Invites while another process of this device listens: that one answers.
async fn invite_beside(
    replica: &Replica,
    addresses: Vec<String>,
    invite: &Invite,
    out: &mut Out,
) -> anyhow::Result<u8> {
    let before: Vec<DeviceKey> = replica.peers()?.iter().filter(|peer| !peer.revoked).map(|peer| peer.key).collect();
    let ticket = replica.invite(&InviteOptions { expires: invite.expires, addresses })?;
    show_ticket(&ticket, invite, out)?;
    let until = tokio::time::Instant::now() + invite.expires;
    let stopped = watch::stopped();
    tokio::pin!(stopped);
    while tokio::time::Instant::now() < until {
        tokio::select! {
            stopped = &mut stopped => {
                stopped?;
                break;
            }
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let peers = replica.peers()?;
        if let Some(new) = peers.iter().find(|peer| !peer.revoked && !before.contains(&peer.key)) {
            let name = printable(&new.name);
            if out.json {
                out.json_line(&json!({ "event": "joined", "device": new.key.to_string(), "name": new.name }))?;
            } else {
                let mark = out.style.green("✓");
                out.note(format!("{mark} {name} has joined"))?;
            }
            return Ok(0);
        }
    }
    Err(nobody())
}

fn nobody() -> anyhow::Error {
    Failure::new(Kind::Failed, "nobody joined").hint("`isle invite` makes a new ticket").into()
}

fn show_ticket(ticket: &Ticket, invite: &Invite, out: &mut Out) -> anyhow::Result<()> {
    let shown = json!({ "ticket": ticket.to_string(), "expires_ms": ticket.expires_ms, "addresses": ticket.addresses });
    if out.json {
        out.json_line(&shown)?;
        return out.flush();
    }
    if !invite.no_qr && std::io::stdout().is_terminal() {
        out.note(qr_code(&ticket.to_qr_text())?)?;
    }
    out.note("On the other device:\n")?;
    out.line(format!("isle join {ticket}"))?;
    out.note(format!(
        "\nThe ticket lets one device in, until {}. Whoever has it can join: send it by a way you trust.\nwaiting at {}; Ctrl-C ends it",
        time(ticket.expires_ms),
        ticket.addresses.join(", ")
    ))?;
    out.flush()
}

fn qr_code(text: &str) -> anyhow::Result<String> {
    use qrcode::render::unicode::Dense1x2;
    let code =
        qrcode::QrCode::with_error_correction_level(text, qrcode::EcLevel::L).context("cannot draw the QR code")?;
    // Most terminals are dark: what is to be dark in the code is what is not drawn.
    Ok(code.render::<Dense1x2>().dark_color(Dense1x2::Dark).light_color(Dense1x2::Light).build())
}

/// Waits until a device has joined and its first session has ended.
async fn wait_for_one(events: &mut Receiver<LiveEvent>, out: &mut Out) -> anyhow::Result<String> {
    let mut joined: Option<(DeviceKey, String)> = None;
    let mut gone = None;
    loop {
        let event = match gone {
            None => events.recv().await,
            Some(until) => match tokio::time::timeout_at(until, events.recv()).await {
                Ok(event) => event,
                Err(_) => {
                    let name = joined.map(|(_, name)| name).unwrap_or_default();
                    let message = format!("{name} has joined, and was cut off before it had everything");
                    return Err(Failure::new(Kind::Failed, message)
                        .hint("`isle serve` here and `isle sync` there go on where it stopped")
                        .into());
                }
            },
        };
        match event {
            Ok(LiveEvent::Joined { key, name }) => {
                if out.json {
                    out.json_line(&json!({ "event": "joined", "device": key.to_string(), "name": name }))?;
                    out.flush()?;
                }
                joined = Some((key, printable(&name)));
            }
            Ok(LiveEvent::Disconnected { key, reason, .. }) => match joined.take_if(|(of, _)| *of == key) {
                Some((_, name)) if reason.is_none() => return Ok(name),
                // It may come back at once, under another site id.
                Some(cut_off) => (joined, gone) = (Some(cut_off), Some(tokio::time::Instant::now() + COMES_BACK)),
                None => {}
            },
            Ok(LiveEvent::TurnedAway { address, reason }) if !out.json => {
                let line = out.style.yellow(format!("turned away {}: {}", printable(&address), printable(&reason)));
                out.note(line)?;
                out.flush()?;
            }
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return Err(anyhow::anyhow!("the sessions have ended")),
        }
    }
}

pub(crate) fn join(args: &Args, join: &Join, out: &mut Out) -> anyhow::Result<u8> {
    let text = match join.ticket.as_str() {
        "-" => {
            let mut text = String::new();
            std::io::stdin().take(TICKET_BYTES_MAX).read_to_string(&mut text).context("cannot read the ticket")?;
            text
        }
        text => text.to_owned(),
    };
    let ticket: Ticket = text.parse().map_err(isle::Error::Ticket)?;
    let path = match join.file.as_ref().or(args.db.as_ref()) {
        Some(path) => path.clone(),
        None => db::path(args).map_err(|_| {
            Failure::new(Kind::Invalid, "which file is to join?")
                .hint("`isle join TICKET notes.db` makes it, or takes the one that is there")
        })?,
    };
    if path.is_dir() {
        return Err(db::is_folder(&path).into());
    }
    if path.is_file() {
        db::must_be_sqlite(&path)?;
        if Replica::open(&path).is_err() {
            engines::ask(&path)?;
        }
    }
    let existed = path.exists();
    let replica = Replica::builder(&path).init()?;
    let runtime = sync::runtime()?;
    let report = runtime.block_on(replica.join(&ticket));
    runtime.shutdown_timeout(Duration::from_secs(2));
    let report = match report {
        Err(error) if !existed && replica.status()?.group != ticket.group => {
            // It was made for this, and has nothing in it.
            drop(replica);
            for ending in ["", "-wal", "-shm"] {
                let mut file = path.clone().into_os_string();
                file.push(ending);
                let _ = std::fs::remove_file(file);
            }
            return Err(error.into());
        }
        report => report?,
    };
    let inviter = replica.peers()?.into_iter().find(|peer| peer.key == ticket.inviter);
    let inviter = inviter.map_or_else(|| ticket.inviter.short(), |peer| printable(&peer.name));
    if out.json(&json!({ "file": path.to_string_lossy(), "group": ticket.group.to_string(), "inviter": inviter, "sync": report }))? {
        return Ok(0);
    }
    let mark = out.style.green("✓");
    out.note(format!("{mark} {} belongs to the group of {inviter} now; {}", path.display(), sync::summary(&report)))?;
    for line in sync::details(&report, &Names::new(&replica.status()?)) {
        let line = out.style.yellow(line);
        out.note(format!("  {line}"))?;
    }
    out.note(
        "`isle sync` exchanges changes with it, `isle sync --live` stays connected, `isle serve` lets others call",
    )?;
    Ok(0)
}

pub(crate) fn serve(args: &Args, serve: &Serve, out: &mut Out) -> anyhow::Result<u8> {
    let runtime = sync::runtime()?;
    let code = runtime.block_on(async {
        let replica = remotes::open(args, allows_http(args)?, &Patience::default())?;
        let live = listen(&replica, &serve.listen, Some(serve.interval)).await?;
        if out.json {
            out.json_line(&json!({ "event": "listening", "addresses": live.addresses() }))?;
        } else {
            out.note(format!("listening at {}; Ctrl-C ends it", live.addresses().join(", ")))?;
        }
        stay(live, out).await
    });
    runtime.shutdown_timeout(Duration::from_secs(2));
    code
}

/// `isle sync --live`.
pub(crate) async fn sync_live(args: &Args, sync: &Sync, out: &mut Out) -> anyhow::Result<u8> {
    let replica = remotes::open(args, allows_http(args)?, &sync.patience)?;
    let remotes = Some(sync.interval);
    // Whoever stays connected can be called as well: two that run this find each other.
    let place = Listen { port: None, listen: None, addresses: Vec::new(), no_discovery: sync.no_discovery };
    let live = listen(&replica, &place, remotes).await?;
    if !out.json {
        out.note("connecting; Ctrl-C ends it")?;
    }
    stay(live, out).await
}

/// Shows what happens until Ctrl-C.
async fn stay(live: Live, out: &mut Out) -> anyhow::Result<u8> {
    out.flush()?;
    let mut events = live.events();
    // One for all rounds: a signal that comes between two is not lost.
    let stopped = watch::stopped();
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            stopped = &mut stopped => {
                stopped?;
                break;
            }
            event = events.recv() => match event {
                Ok(event) => show(&event, out)?,
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => break,
            },
        }
    }
    live.stop().await?;
    Ok(0)
}

/// Whether a remote without TLS was allowed when it was added.
fn allows_http(args: &Args) -> anyhow::Result<bool> {
    Ok(db::open(args)?.remotes()?.iter().any(|remote| remotes::allows_http(&remote.url)))
}

fn tell(words: &str, object: &Value, out: &mut Out) -> anyhow::Result<()> {
    if out.json {
        out.json_line(object)?;
    } else {
        let now = jiff::Timestamp::now().as_millisecond().unsigned_abs();
        let stamp = out.style.dim(time(now));
        out.note(format!("{stamp} {words}"))?;
    }
    out.flush()
}

fn show(event: &LiveEvent, out: &mut Out) -> anyhow::Result<()> {
    let (words, object) = match event {
        LiveEvent::Connected { key, name, address } => (
            format!("{} is connected ({})", printable(name), printable(address)),
            json!({ "event": "connected", "device": key.to_string(), "name": name, "address": address }),
        ),
        LiveEvent::CaughtUp { key, name } => (
            format!("{} and this replica have the same", printable(name)),
            json!({ "event": "caught_up", "device": key.to_string(), "name": name }),
        ),
        LiveEvent::Exchanged { key, name, received, sent } => (
            format!("{}: received {}, sent {sent}", printable(name), count(*received, "change")),
            json!({ "event": "exchanged", "device": key.to_string(), "name": name, "received": received, "sent": sent }),
        ),
        LiveEvent::Disconnected { key, name, reason } => (
            match reason {
                Some(reason) => format!("{} is gone: {}", printable(name), printable(reason)),
                None => format!("{} is gone", printable(name)),
            },
            json!({ "event": "disconnected", "device": key.to_string(), "name": name, "reason": reason }),
        ),
        LiveEvent::Joined { key, name } => (
            format!("{} has joined the group", printable(name)),
            json!({ "event": "joined", "device": key.to_string(), "name": name }),
        ),
        LiveEvent::Synced { report } if out.json || report.pulled_versions + report.pushed_versions > 0 => {
            (format!("{}: {}", report.remote, sync::summary(report)), json!({ "event": "synced", "report": report }))
        }
        LiveEvent::FilesPushed { remote, pushed } => (
            format!("{remote}: {} of the library put there", count(pushed.files, "file")),
            json!({ "event": "files_pushed", "remote": remote, "pushed": pushed }),
        ),
        LiveEvent::SyncFailed { remote, reason } => (
            format!("{remote}: {}", printable(reason)),
            json!({ "event": "sync_failed", "remote": remote, "reason": reason }),
        ),
        LiveEvent::Refused { key, name, reason } => (
            format!("{}: refused: {}", printable(name), printable(reason)),
            json!({ "event": "refused", "device": key.to_string(), "name": name, "reason": reason }),
        ),
        LiveEvent::Forked { site, version, name } => (
            format!(
                "{} has another version {version} of site {}: `isle doctor` says what to do",
                printable(name),
                site.short()
            ),
            json!({ "event": "forked", "site": site.to_string(), "version": version, "name": name }),
        ),
        LiveEvent::TurnedAway { address, reason } => (
            format!("turned away {}: {}", printable(address), printable(reason)),
            json!({ "event": "turned_away", "address": address, "reason": reason }),
        ),
        _ => return Ok(()),
    };
    tell(&words, &object, out)
}
