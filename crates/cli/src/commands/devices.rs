//! The replicas of the group and their names.

use std::collections::HashMap;

use isle::{Replica, SiteId, Status};
use serde_json::json;

use crate::args::{Args, DevicesAction};
use crate::db;
use crate::output::{Cell, Out, printable, write_time};

/// What people call the sites of a group.
#[derive(Debug, Default)]
pub(crate) struct Names {
    known: HashMap<SiteId, String>,
    /// How many sites have a name.
    bearers: HashMap<String, usize>,
}

impl Names {
    pub(crate) fn new(status: &Status) -> Names {
        let mut known = HashMap::from([(status.site, status.device.name.clone())]);
        for site in status.sites.iter().filter(|site| !site.own) {
            // Whoever can write to a remote says what its devices are called.
            known.insert(site.id, site.name.as_deref().map(printable).unwrap_or_default());
        }
        let mut bearers = HashMap::new();
        for name in known.values() {
            *bearers.entry(name.clone()).or_insert(0) += 1;
        }
        Names { known, bearers }
    }

    /// The device's name; with the site's id where that is not enough.
    pub(crate) fn of(&self, site: SiteId) -> String {
        let name = self.known.get(&site).map_or("", String::as_str);
        match (name, self.bearers.get(name)) {
            ("", _) => site.short(),
            (name, Some(1)) => name.to_owned(),
            (name, _) => format!("{name} ({})", site.short()),
        }
    }

    /// The same for an id in text.
    pub(crate) fn of_text(&self, site: &str) -> String {
        site.parse().map_or_else(|_| site.to_owned(), |id| self.of(id))
    }
}

pub(crate) fn run(args: &Args, action: Option<&DevicesAction>, out: &mut Out) -> anyhow::Result<u8> {
    let replica = db::open(args)?;
    match action {
        None => list(&replica.status()?, out)?,
        Some(DevicesAction::Rename { name }) => rename(&replica, name, out)?,
        Some(DevicesAction::Retire { site }) => retire(&replica, site, out)?,
    }
    Ok(0)
}

fn rename(replica: &Replica, name: &str, out: &mut Out) -> anyhow::Result<()> {
    let device = replica.rename_device(name)?;
    if !out.json(&json!({ "id": device.id.to_string(), "name": device.name }))? {
        let mark = out.style.green("✓");
        out.note(format!("{mark} this device is {name}; others see it with its next change"))?;
    }
    Ok(())
}

fn retire(replica: &Replica, site: &str, out: &mut Out) -> anyhow::Result<()> {
    let id = replica.retire(site)?;
    if !out.json(&json!({ "site": id.to_string(), "retired": true }))? {
        let mark = out.style.green("✓");
        let name = Names::new(&replica.status()?).of(id);
        out.note(format!("{mark} {name} is retired: nobody waits for it; others learn of it with the next sync"))?;
        if !replica.keys()?.is_empty() {
            out.note("  it can still read what is in the remotes; if it is lost: `isle key rotate`, then `isle sync`")?;
        }
    }
    Ok(())
}

/// The sites as objects.
pub(crate) fn to_json(status: &Status) -> Vec<serde_json::Value> {
    let names = Names::new(status);
    let object = |site: &isle::Site| {
        json!({
            "site": site.id.to_string(),
            "name": names.of(site.id),
            "version": site.version,
            "last_write": write_time(site.hlc),
            "this": site.own,
            "retired": site.retired,
        })
    };
    status.sites.iter().map(object).collect()
}

/// The sites as a table.
pub(crate) fn list(status: &Status, out: &mut Out) -> anyhow::Result<()> {
    if out.json(&to_json(status))? {
        return Ok(());
    }
    let names = Names::new(status);
    let row = |site: &isle::Site| {
        let name = names.of(site.id);
        let name = match (site.own, site.retired) {
            (true, _) => format!("{name} (this one)"),
            (_, true) => format!("{name} (retired)"),
            _ => name,
        };
        let last = write_time(site.hlc).map_or_else(|| Cell::dim("-"), Cell::text);
        vec![Cell::text(name), Cell::text(site.id.short()), Cell::number(site.version), last]
    };
    out.table(&["DEVICE", "SITE", "VERSION", "LAST WRITE"], status.sites.iter().map(row).collect())
}
