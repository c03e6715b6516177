//! What a user, an app or somebody with access to the files does on a device.

use std::future::poll_fn;
use std::sync::Arc;

use super::*;

impl World {
    /// Writes, and remembers what was acknowledged.
    pub(super) fn write(&mut self, n: usize, way: Way, seed: u64, bulk: Option<(u32, bool)>) -> Checked<()> {
        // What is written, published and dropped while somebody compacts, nobody could compare with anything.
        if self.devices[n].up().is_none() || self.devices[n].drops_at_once {
            return Ok(());
        }
        let mut next_token = self.next_token;
        let focus = (self.scenario.seed, self.scenario.focus);
        let wrote = self.at(n, |device| write(device, way, seed, bulk, focus, &mut next_token));
        self.next_token = next_token;
        match wrote {
            Ok(Wrote { statements, refused, shown, foreign }) => {
                // What SQLite itself refuses is the workload's doing.
                let known =
                    ["UNIQUE", "FOREIGN KEY", "CHECK", "NOT NULL"].map(|name| format!("{name} constraint failed"));
                if let Some(odd) = refused.iter().find(|reason| !known.iter().any(|known| reason.contains(known))) {
                    return Err(self.broken("write", format!("d{n}: a statement is refused: {odd}")));
                }
                self.coverage.note(if foreign { "foreign write" } else { "write" });
                self.log(Some(n), format!("{way:?}: {}", summary(&statements, &refused)));
                let device = &mut self.devices[n];
                if foreign || device.disk.is_down() {
                    device.unsealed.extend(shown);
                } else {
                    self.collect(n)?;
                    let device = &mut self.devices[n];
                    if let Some((site, version)) = device.seen {
                        let version = device.ack_version(site, version);
                        device.acks.extend(shown.into_iter().map(|token| Ack { token, site, version }));
                    }
                }
            }
            Err(reason) => {
                self.coverage.note("write failed");
                self.log(Some(n), format!("{way:?}: {reason}"));
                // A key of another type: SQLite's own word as well.
                if !self.devices[n].disk.is_troubled() && !reason.contains("datatype mismatch") {
                    return Err(self.broken("write", format!("d{n} refuses a write though nothing is wrong: {reason}")));
                }
            }
        }
        self.wake_links(n);
        Ok(())
    }

    pub(super) fn work(
        &mut self,
        n: usize,
        what: &'static str,
        work: impl Future<Output = Result<SyncReport, Error>> + 'static,
    ) {
        let (abort, registration) = AbortHandle::new_pair();
        let mut work = Box::pin(Abortable::new(work, registration));
        let runtime = Arc::clone(&self.devices[n].runtime);
        // What SQL takes for the present is this device's, whenever it goes on.
        let at_home = poll_fn(move |context| {
            disk::set_sql_time(Some(isle_store::Runtime::now_ms(runtime.as_ref())));
            work.as_mut().poll(context)
        });
        let device = &mut self.devices[n];
        device.was_troubled &= device.running > 0;
        device.was_troubled |= device.disk.is_troubled() || !device.bucket_faults.is_empty();
        device.running += 1;
        self.aborts.push((n, abort));
        self.running.push(Box::pin(async move { Done { device: n, what, result: at_home.await } }));
    }

    pub(super) fn sync(&mut self, n: usize) {
        let Some(replica) = self.devices[n].up().cloned() else { return };
        self.log(Some(n), "begins to sync");
        self.work(n, "sync", async move { Ok(replica.sync().await?.pop().unwrap_or_default()) });
    }

    pub(super) fn compact(&mut self, n: usize, keep_ms: u64) -> Checked<()> {
        let Some(replica) = self.devices[n].up().cloned().filter(|_| !self.devices[n].moves) else { return Ok(()) };
        if replica.seal().is_err() {
            return Ok(());
        }
        self.remember(n)?;
        self.put_by(n)?;
        self.devices[n].drops_at_once |= keep_ms < 3_600_000;
        let options = CompactOptions { keep: Duration::from_millis(keep_ms), ..CompactOptions::default() };
        self.log(Some(n), format!("begins to compact, but for the last {} s", keep_ms / 1000));
        self.work(n, "compact", async move {
            replica.compact(&options).await?;
            Ok(SyncReport::default())
        });
        Ok(())
    }

    pub(super) fn ended(&mut self, done: Done) -> Checked<()> {
        let Done { device: n, what, result } = done;
        self.devices[n].running -= 1;
        let mut ended = self.aborts.iter().position(|(of, abort)| *of == n && !abort.is_aborted());
        if result.is_err() {
            ended = self.aborts.iter().position(|(of, abort)| *of == n && abort.is_aborted());
        }
        if let Some(at) = ended {
            self.aborts.remove(at);
        }
        match result {
            Err(Aborted) => self.log(Some(n), format!("{what} dies")),
            Ok(Err(error)) => {
                self.coverage.note(match what {
                    "sync" => "sync failed",
                    "compact" => "compaction failed",
                    _ => "movement of files failed",
                });
                self.log(Some(n), format!("{what} fails: {}", chain(&error)));
                let device = &self.devices[n];
                if !device.damaged && !device.was_troubled && !device.disk.is_troubled() {
                    return Err(
                        self.broken("sync", format!("d{n}: {what} fails though nothing is wrong: {}", chain(&error)))
                    );
                }
            }
            Ok(Ok(report)) => {
                self.coverage.note(match what {
                    "sync" => "sync",
                    "compact" => "compaction",
                    _ => "movement of files",
                });
                if report.snapshot_joined {
                    self.coverage.note("snapshot joined");
                }
                if report.snapshot_published {
                    self.coverage.note("snapshot published");
                }
                if report.new_site.is_some() {
                    self.coverage.note("new site id");
                }
                self.log(Some(n), format!("{what}: {}", told(&report)));
            }
        }
        self.check_held(n)?;
        self.devices[n].drops_at_once &= self.devices[n].running > 0;
        self.devices[n].moves &= what == "sync" || what == "compact";
        self.collect_if_up(n)?;
        self.wake_links(n);
        Ok(())
    }

    pub(super) fn copy_file(&mut self, n: usize) -> Checked<()> {
        if self.devices[n].up().is_none() || self.devices.len() >= 8 {
            return Ok(());
        }
        let copied = self.at(n, copy_of);
        let Some(kept) = copied else { return Ok(()) };
        let new = self.devices.len();
        let device = Device::new(&self.root, new, &self.scenario, self.time, &self.bucket);
        let mut device = device.map_err(|error| self.broken("setup", error.to_string()))?;
        let written = std::fs::copy(&kept.backup.path, device.path());
        written.map_err(|error| self.broken("setup", error.to_string()))?;
        device.damaged = self.devices[n].damaged;
        if let Some(replica) = self.devices[n].up() {
            let key = device.take_key_of(replica);
            key.map_err(|error| self.broken("copy", chain(&error)))?;
        }
        let opened = device.open();
        device.plan_faults();
        if device.damaged && opened.is_err() {
            return Ok(());
        }
        self.devices.push(device);
        opened.map_err(|error| self.broken("copy", format!("a copied file cannot be opened: {}", chain(&error))))?;
        let founder = self.alive().into_iter().find_map(|n| self.devices[n].up().cloned());
        let newcomer = self.replica(new)?;
        if let Some(founder) = founder {
            // Whoever copies a file to a new device lets that in.
            if let Err(error) = founder.let_in(&newcomer) {
                self.log(Some(new), format!("is not let in: {}", chain(&error)));
            }
        }
        self.note(n, "file copied", format!("file is copied to d{new}"));
        Ok(())
    }

    pub(super) fn back_up(&mut self, n: usize) -> Checked<()> {
        if self.devices[n].up().is_none() {
            return Ok(());
        }
        if let Some(kept) = self.at(n, copy_of) {
            self.note(n, "backup", format!("backup at version {}", kept.version));
            self.devices[n].kept = Some(kept);
        }
        Ok(())
    }

    pub(super) fn restore(&mut self, n: usize, by_hand: bool) -> Checked<()> {
        // There is nothing to go back to yet.
        let Some(kept) = self.devices[n].kept.clone() else { return self.back_up(n) };
        let busy = self.devices[n].running > 0 || self.links.values().any(|link| link.devices.contains(&n));
        if self.devices[n].up().is_none() || busy || self.devices[n].disk.is_troubled() {
            return Ok(());
        }
        let restored = self.at(n, |device| restore(device, &kept, by_hand));
        if self.devices[n].damaged {
            return Ok(());
        }
        // Where it died meanwhile, it may have gone back or not.
        if let Err(error) = restored
            && !self.devices[n].disk.is_down()
        {
            return Err(self.broken("restore", format!("d{n}: {error}")));
        }
        let held = self.held_by_others(n);
        let device = &mut self.devices[n];
        device.unsealed.clear();
        // What was on its way to others may have come to nobody whole.
        device.acks.retain(|ack| {
            (ack.site == kept.site && ack.version <= kept.version) || held.contains(ack.site, ack.version)
        });
        (device.seen, device.went_back) = (None, Some(kept.site));
        // What another device had lost in the same way, and this one still had, may be nowhere now.
        let held = self.held_by_others(usize::MAX);
        for other in self.devices.iter_mut().filter(|other| other.went_back.is_some()) {
            other.acks.retain(|ack| held.contains(ack.site, ack.version));
        }
        self.memory.acks.retain(|ack| held.contains(ack.site, ack.version));
        let how = if by_hand { "by hand" } else { "by isle" };
        self.note(n, "restore", format!("backup of version {} is restored {how}", kept.version));
        self.collect(n)
    }

    pub(super) fn tamper(&mut self, n: usize) -> Checked<()> {
        let tampered = self.at(n, |device| {
            let conn = device.plain().map_err(|error| error.to_string())?;
            let tables = device.shapes(&conn)?;
            let has_rows =
                |name: &str| conn.query_row(&format!("SELECT 1 FROM {name} LIMIT 1"), [], |_| Ok(())).is_ok();
            let mut names = tables.iter().filter(|shape| shape.plain).map(|shape| crate::workload::quoted(&shape.name));
            let name = names.find(|name| has_rows(name)).ok_or("no table has rows")?;
            let sql = format!("DELETE FROM {name}; DELETE FROM isle_queue");
            conn.execute_batch(&sql).map_err(|error| error.to_string())
        });
        tampered.map_err(|error| self.broken("setup", error))?;
        self.note(n, "tampered", "rows go behind isle's back".to_owned());
        Ok(())
    }

    pub(super) fn retire(&mut self, n: usize, whom: usize) -> Checked<()> {
        let Some((site, _)) = self.devices[whom].seen.filter(|_| n != whom) else { return Ok(()) };
        let Some(replica) = self.devices[n].up().cloned() else { return Ok(()) };
        match self.at(n, |_| replica.retire(&site.to_string())) {
            Ok(_) => self.note(n, "retired", format!("retires d{whom}")),
            Err(error) => self.log(Some(n), format!("does not retire d{whom}: {}", chain(&error))),
        }
        Ok(())
    }

    pub(super) fn migrate(&mut self, n: usize, change: u32) -> Checked<()> {
        let Some(replica) = self.devices[n].up().cloned() else { return Ok(()) };
        let name = self.scenario.schema.clone();
        let result = self.at(n, |device| {
            let conn = device.plain().map_err(|error| error.to_string())?;
            let mut changes = schemas::changes_in(&conn, replica.store());
            drop(conn);
            changes.insert(change);
            let definition = schemas::definition(&name, &changes).unwrap_or_default();
            replica.apply_schema(definition.as_str()).map_err(|error| chain(&error))
        });
        match result {
            Ok(plan) => self.note(n, "schema changed", format!("schema change {change}: {} steps", plan.changes.len())),
            Err(error) => {
                self.coverage.note("schema change refused");
                self.log(Some(n), format!("schema change {change} is refused: {error}"));
            }
        }
        self.collect_if_up(n)
    }

    pub(super) fn run_app(&mut self, n: usize, version: u32) -> Checked<()> {
        let busy = self.devices[n].running > 0 || self.links.values().any(|link| link.devices.contains(&n));
        if self.devices[n].up().is_none() || busy || self.devices[n].disk.is_troubled() {
            return Ok(());
        }
        let opened = self.at(n, |device| {
            device.replica = None;
            device.app_version = version;
            device.open()
        });
        if self.devices[n].disk.is_down() || self.devices[n].damaged {
            // It has crashed while it started, and starts again.
            return Ok(());
        }
        let failed =
            |error| self.broken("version", format!("d{n}: app {version}.0.0 cannot open its file: {}", chain(&error)));
        opened.map_err(failed)?;
        self.note(n, "app", format!("runs app {version}.0.0"));
        Ok(())
    }

    pub(crate) fn collect_if_up(&mut self, n: usize) -> Checked<()> {
        if self.devices[n].disk.is_down() || self.devices[n].up().is_none() { Ok(()) } else { self.collect(n) }
    }
}

/// What a write did.
struct Wrote {
    statements: Vec<String>,
    /// Statements that were refused, and why.
    refused: Vec<String>,
    /// Values that show now.
    shown: Vec<Token>,
    foreign: bool,
}

fn write(
    device: &mut Device,
    way: Way,
    seed: u64,
    bulk: Option<(u32, bool)>,
    focus: (u64, u32),
    next_token: &mut u64,
) -> Result<Wrote, String> {
    let text = |error: rusqlite::Error| error.to_string();
    let conn = device.plain().map_err(text)?;
    let shapes = device.shapes(&conn)?;
    let n = device.n;
    let hot = hot(&shapes, focus.0, focus.1);
    let mut writer =
        Writer { conn: &conn, shapes: &shapes, rng: Rng(seed), next_token, device: n, hot, tokens: Vec::new() };
    let statements = match bulk {
        Some((rows, long)) => writer.bulk(rows, long),
        None => writer.transaction(),
    };
    let tokens: Vec<Token> = writer
        .tokens
        .into_iter()
        .filter(|token| shapes.iter().any(|shape| shape.name == token.table && shape.tracked))
        .collect();
    // What this device overwrites may be sealed anew without it, as long as nobody else counts it.
    let standing: Vec<Token> =
        device.acks.iter().map(|ack| &ack.token).filter(|token| !Device::is_gone(&conn, token)).cloned().collect();
    let mut refused = Vec::new();
    let ran = run(device, &conn, way, &statements, &mut refused);
    // Of statements each by itself some may have had their effect before one failed.
    device.unsealed.retain(|token| !Device::is_gone(&conn, token));
    let gone: Vec<Token> = standing.into_iter().filter(|token| Device::is_gone(&conn, token)).collect();
    device.acks.retain(|ack| !gone.contains(&ack.token));
    ran?;
    let shown = tokens.into_iter().filter(|token| Device::shows(&conn, token)).collect();
    Ok(Wrote { statements, refused, shown, foreign: way != Way::Isle })
}

fn run(
    device: &Device,
    conn: &rusqlite::Connection,
    way: Way,
    statements: &[String],
    refused: &mut Vec<String>,
) -> Result<(), String> {
    let text = |error: rusqlite::Error| error.to_string();
    if way == Way::Isle {
        let Some(replica) = device.up() else { return Err("is off".to_owned()) };
        let result = replica.write(|tx| {
            for sql in statements {
                match tx.execute(sql, &[]) {
                    Ok(_) => {}
                    Err(Error::Store(error)) if error.is_constraint() => refused.push(error.to_string()),
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        });
        return result.map_err(|error| chain(&error));
    }
    let mut each = || -> Result<(), String> {
        for sql in statements {
            match conn.execute(sql, []) {
                Ok(_) => {}
                Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) => {
                    refused.push(error.to_string());
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    };
    if way == Way::Autocommit {
        return each();
    }
    conn.execute_batch("BEGIN IMMEDIATE").map_err(text)?;
    let done = each().and_then(|()| conn.execute_batch("COMMIT").map_err(text));
    if !conn.is_autocommit() {
        // What cannot be rolled back is when the connection goes.
        drop(conn.execute_batch("ROLLBACK"));
    }
    done
}

/// A copy of a device's database, with its version; none while the disk fails.
fn copy_of(device: &mut Device) -> Option<Kept> {
    let replica = device.up()?;
    let (status, folder) = (replica.store().status().ok()?, device.path().with_file_name("backups"));
    match replica.back_up(&folder, "simulation", None).ok()? {
        BackedUp::Done(backup) => Some(Kept { site: status.site, version: status.version, backup }),
        BackedUp::SkippedEmpty => None,
    }
}

fn restore(device: &mut Device, kept: &Kept, by_hand: bool) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    if by_hand {
        device.replica = None;
        for end in ["app.db-wal", "app.db-shm"] {
            let beside = device.path().with_file_name(end);
            if beside.exists() {
                std::fs::remove_file(beside).map_err(text)?;
            }
        }
        std::fs::copy(&kept.backup.path, device.path()).map_err(text)?;
        device.disk.settle();
        return device.open().map_err(|error| chain(&error));
    }
    let replica = device.replica.clone().ok_or("is off")?;
    let folder = device.path().with_file_name("backups");
    replica.restore(&kept.backup, &folder).map_err(|error| chain(&error))?;
    Ok(())
}

/// An error with all that it says.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

pub(super) fn told(report: &SyncReport) -> String {
    let mut parts = Vec::new();
    for (count, what) in [
        (report.pulled_versions, "pulled"),
        (report.pushed_versions, "pushed"),
        (report.pulled_operations, "operations pulled"),
        (report.pushed_operations, "operations pushed"),
        (report.conflicts, "conflicts"),
        (report.restamped_versions, "restamped"),
        (report.waiting.len() as u64, "waiting"),
        (report.refused.len() as u64, "refused"),
        (report.stale.len() as u64, "stale"),
        (report.pending.len() as u64, "pending"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    }
    if report.snapshot_joined {
        parts.push("snapshot joined".to_owned());
    }
    if report.snapshot_published {
        parts.push("snapshot published".to_owned());
    }
    if let Some(site) = &report.new_site {
        parts.push(format!("new site {}", &site[..8.min(site.len())]));
    }
    if parts.is_empty() { "nothing new".to_owned() } else { parts.join(", ") }
}

fn summary(statements: &[String], refused: &[String]) -> String {
    let short = |sql: &String| match sql.char_indices().nth(400) {
        Some((end, _)) => format!("{}…", &sql[..end]),
        None => sql.clone(),
    };
    let mut text = statements.iter().take(6).map(short).collect::<Vec<_>>().join("; ");
    if statements.len() > 6 {
        text += &format!("; … {} in all", statements.len());
    }
    if let Some(first) = refused.first() {
        text += &format!(" ({} refused: {first})", refused.len());
    }
    text
}
