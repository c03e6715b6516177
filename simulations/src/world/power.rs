//! Devices that go off, come on again, or are gone for good; and the time at which everything is mended.

use isle_clock::VersionVector;

use super::*;

impl World {
    /// A device goes, with what nobody else has of it.
    pub(super) fn lose(&mut self, n: usize) {
        self.cut_off(n);
        if !self.devices[n].damaged {
            let acks = std::mem::take(&mut self.devices[n].acks);
            let held = self.held_by_others(n);
            self.memory.acks.extend(acks.into_iter().filter(|ack| held.contains(ack.site, ack.version)));
        }
        let device = &mut self.devices[n];
        (device.gone, device.off, device.replica) = (true, false, None);
        device.acks.clear();
        device.unsealed.clear();
        let site = device.seen.map(|(site, _)| site);
        // Nobody waits for it any more.
        for other in self.alive() {
            if let (Some(site), Some(replica)) = (site, self.devices[other].up().cloned())
                && replica.retire(&site.to_string()).is_ok()
            {
                self.log(Some(other), format!("retires d{n}, which is gone"));
                break;
            }
        }
    }

    /// What others have applied, as far as that is certain: of one that is off, or whose disk fails, nothing is.
    pub(super) fn held_by_others(&self, n: usize) -> VersionVector {
        let mut held = VersionVector::new();
        for other in self.alive().into_iter().filter(|of| *of != n && !self.devices[*of].damaged) {
            let vector = self.devices[other].up().and_then(|replica| replica.store().vector().ok());
            held.merge(&vector.unwrap_or_default());
        }
        held
    }

    /// Its work ends, and its connections.
    fn cut_off(&mut self, n: usize) {
        for (_, abort) in self.aborts.iter().filter(|(of, _)| *of == n) {
            abort.abort();
        }
        let now = self.time.now();
        let mut over = Vec::new();
        for (id, link) in &mut self.links {
            if let Some(side) = link.devices.iter().position(|device| *device == n) {
                (link.ends[side], link.gone_at) = (None, Some(now + 1));
                over.push(*id);
            }
        }
        for id in over {
            self.link_due(now + 1, id);
        }
    }

    /// A disk has gone down: so has its device.
    pub(super) fn notice_crashes(&mut self) {
        for n in 0..self.devices.len() {
            if self.devices[n].off || self.devices[n].gone || !self.devices[n].disk.is_down() {
                continue;
            }
            self.devices[n].off = true;
            let (power, down_ms) = self.devices[n].crash;
            self.log(Some(n), if power { "loses power" } else { "is killed" });
            self.cut_off(n);
            let now = self.time.now();
            self.due(now + down_ms, Due::Restart(n));
        }
    }

    pub(crate) fn restart(&mut self, n: usize) -> Checked<()> {
        if !self.devices[n].off || self.devices[n].gone {
            return Ok(());
        }
        if self.devices[n].running > 0 {
            let now = self.time.now();
            self.due(now + 1, Due::Restart(n));
            return Ok(());
        }
        let (power, _) = self.devices[n].crash;
        let opened = self.at(n, |device| {
            device.replica = None;
            device.off = false;
            device.disk.restart(power).map_err(|error| error.to_string())?;
            device.open().map_err(|error| chain(&error))
        });
        if self.devices[n].damaged {
            // It may be beyond use.
            self.log(Some(n), if opened.is_ok() { "is on again" } else { "cannot be opened" });
            return Ok(());
        }
        opened.map_err(|error| self.broken("crash", format!("d{n} cannot be opened after a crash: {error}")))?;
        self.log(Some(n), "is on again");
        self.check_after_crash(n, power)
    }

    /// Waits until no work is under way and no connection stands, and mends everything.
    pub(crate) async fn mend(&mut self) -> Checked<()> {
        self.parted.clear();
        for device in &mut self.devices {
            device.bucket_faults.clear();
            device.plan_faults();
            device.disk.set_full(false);
            device.disk.set_failing(0);
        }
        while let Some(done) = self.running.next().await {
            self.ended(done)?;
            self.notice_crashes();
        }
        for n in self.alive().into_iter().filter(|n| self.devices[*n].damaged).collect::<Vec<_>>() {
            self.log(Some(n), "is damaged, and thrown away");
            self.lose(n);
            if self.alive().is_empty() {
                return Err(self.broken("setup", "nobody is left".to_owned()));
            }
        }
        for (_, mut link) in std::mem::take(&mut self.links) {
            self.hang_up(&mut link, "the connection ends")?;
        }
        self.notice_crashes();
        let restarts: Vec<_> = self
            .queue
            .iter()
            .filter(|(_, due)| matches!(due, Due::Restart(_) | Due::Link(_) | Due::Heal(..)))
            .map(|(key, _)| *key)
            .collect();
        for key in restarts {
            self.queue.remove(&key);
        }
        for n in self.alive() {
            // What was to crash later does not.
            self.restart(n)?;
            if self.devices[n].disk.is_down() {
                self.notice_crashes();
                self.restart(n)?;
            }
            self.devices[n].disk.crash_after(Some(u64::MAX));
            self.devices[n].runtime.set_right();
        }
        Ok(())
    }
}
