//! The devices that sync with each other directly.

use isle::{Peer, Replica};
use serde_json::{Value, json};

use crate::args::{Args, PeersAction};
use crate::confirm;
use crate::db;
use crate::output::{Cell, Out, bytes, printable, time};

pub(crate) fn run(args: &Args, action: Option<&PeersAction>, out: &mut Out) -> anyhow::Result<u8> {
    let replica = db::open(args)?;
    match action {
        None => list(&replica, out)?,
        Some(PeersAction::Add { device, address }) => {
            let peer = replica.add_peer_address(device, address)?;
            done(&peer, format!("{} is looked for at {address} first", printable(&peer.name)), out)?;
        }
        Some(PeersAction::Forget { device }) => {
            let peer = replica.forget_peer_addresses(device)?;
            done(&peer, format!("{} is not called any more; it may still call", printable(&peer.name)), out)?;
        }
        Some(PeersAction::Revoke { device, yes }) => {
            let name = printable(&replica.peer(device)?.name);
            if !yes {
                confirm::ask(
                    format!("nobody will talk to {name} any more, and what it writes from now on does not count"),
                    out,
                )?;
            }
            let peer = replica.revoke(device)?;
            done(&peer, format!("{name} is put out of the group; others learn of it with the next sync"), out)?;
        }
    }
    Ok(0)
}

fn done(peer: &Peer, words: String, out: &mut Out) -> anyhow::Result<()> {
    if !out.json(&to_json(peer))? {
        let mark = out.style.green("✓");
        out.note(format!("{mark} {words}"))?;
    }
    Ok(())
}

fn to_json(peer: &Peer) -> Value {
    json!(peer)
}

fn list(replica: &Replica, out: &mut Out) -> anyhow::Result<()> {
    let peers = replica.peers()?;
    if out.json(&peers.iter().map(to_json).collect::<Vec<_>>())? {
        return Ok(());
    }
    if peers.is_empty() {
        return out.note("no device was ever invited to this group: `isle invite` lets one in");
    }
    let row = |peer: &Peer| {
        let name = printable(&peer.name);
        let name = match (peer.own, peer.revoked) {
            (true, _) => format!("{name} (this one)"),
            (_, true) => format!("{name} (put out)"),
            _ => name,
        };
        let addresses: Vec<String> = peer.addresses.iter().take(2).map(|address| printable(address)).collect();
        let place = if addresses.is_empty() { Cell::dim("-") } else { Cell::text(addresses.join(" ")) };
        let seen = peer.last_seen_ms.map_or_else(|| Cell::dim("-"), |ms| Cell::text(time(ms)));
        let traffic = match peer.sent_bytes + peer.received_bytes {
            0 => Cell::dim("-"),
            _ => Cell::text(format!("{} up, {} down", bytes(peer.sent_bytes), bytes(peer.received_bytes))),
        };
        let behind = match (peer.behind, peer.ahead) {
            (Some(0), Some(0)) => Cell::text("-"),
            (Some(behind), Some(0)) => Cell::text(format!("lacks {behind}")),
            (Some(0), Some(ahead)) => Cell::text(format!("has {ahead} more")),
            (Some(behind), Some(ahead)) => Cell::text(format!("lacks {behind}, has {ahead} more")),
            _ => Cell::dim(""),
        };
        let trouble = peer.last_error.as_deref().map_or_else(|| Cell::dim(""), |error| Cell::text(printable(error)));
        vec![Cell::text(name), Cell::text(peer.key.short()), place, seen, behind, traffic, trouble]
    };
    out.table(&["DEVICE", "KEY", "ADDRESS", "LAST SEEN", "CHANGES", "TRAFFIC", ""], peers.iter().map(row).collect())
}
