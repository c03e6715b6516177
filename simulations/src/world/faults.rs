//! What goes wrong around a device.

use super::*;

impl World {
    /// Nothing goes from one device to another for a while.
    pub(super) fn part(&mut self, n: usize, with: usize, one_way: bool, for_ms: u64) {
        let until = self.time.now() + for_ms;
        self.parted.insert((n, with), until);
        if !one_way {
            self.parted.insert((with, n), until);
        }
        self.note(n, "parted", format!("is cut off from d{with} for {} s", for_ms / 1000));
    }

    /// A device's disk, clock, power or bucket is not what it should be.
    pub(super) fn fault(&mut self, n: usize, what: &What) {
        let now = self.time.now();
        self.devices[n].was_troubled = true;
        match *what {
            What::Bucket { fault, permille, for_ms } => {
                self.devices[n].bucket_faults.insert(fault, permille);
                self.devices[n].plan_faults();
                self.due(now + for_ms, Due::Heal(n, Fault::Bucket(fault)));
                self.note(n, "bucket fault", format!("bucket is {fault:?} for {} s", for_ms / 1000));
            }
            What::Crash { power, after, down_ms } if !self.devices[n].off => {
                self.devices[n].crash = (power, down_ms);
                self.devices[n].disk.crash_after(after);
                let kind = if power { "power cut" } else { "kill" };
                let when = after.map_or("now".to_owned(), |after| format!("after {after} operations of the disk"));
                self.note(n, kind, format!("{kind} {when}"));
            }
            What::Full { for_ms } => {
                self.devices[n].disk.set_full(true);
                self.due(now + for_ms, Due::Heal(n, Fault::Disk));
                self.note(n, "disk full", format!("disk is full for {} s", for_ms / 1000));
            }
            What::Failing { permille, for_ms } => {
                self.devices[n].disk.set_failing(permille);
                self.due(now + for_ms, Due::Heal(n, Fault::Disk));
                self.note(n, "disk failing", format!("disk fails for {} s", for_ms / 1000));
            }
            What::Flipping { permille } if self.may_go(n) => {
                self.devices[n].damaged = true;
                self.devices[n].disk.set_flipping(permille);
                self.note(n, "disk flips bits", "disk reads wrong bits".to_owned());
            }
            What::Jump { ms } => {
                self.devices[n].runtime.jump(ms);
                self.note(n, "clock set", format!("clock is set by {ms} ms"));
            }
            _ => {}
        }
    }

    /// A fault is over.
    pub(super) fn heal(&mut self, n: usize, fault: Fault) {
        let device = &mut self.devices[n];
        match fault {
            Fault::Disk => {
                device.disk.set_full(false);
                device.disk.set_failing(0);
            }
            Fault::Bucket(fault) => {
                device.bucket_faults.remove(&fault);
                device.plan_faults();
            }
        }
    }

    /// Somebody copies the bucket.
    pub(super) async fn copy_bucket(&mut self, n: usize) -> Checked<()> {
        let contents = self.bucket.objects.contents().await.map_err(|error| self.broken("setup", error))?;
        self.note(n, "bucket copied", format!("somebody copies the bucket: {} objects", contents.len()));
        self.copy_of_bucket = Some(contents);
        Ok(())
    }

    /// Somebody puts the copy of the bucket back.
    pub(super) async fn roll_bucket_back(&mut self, n: usize) -> Checked<()> {
        let Some(contents) = self.copy_of_bucket.clone() else { return Ok(()) };
        self.devices.iter_mut().for_each(|device| device.was_troubled = true);
        self.bucket.objects.put_back(&contents).await.map_err(|error| self.broken("setup", error))?;
        self.note(n, "bucket rolled back", "somebody puts the copy of the bucket back".to_owned());
        Ok(())
    }

    /// Whether somebody is left when this device goes.
    pub(super) fn may_go(&self, n: usize) -> bool {
        let mut others = self.alive().into_iter().filter(|of| *of != n);
        self.devices[n].up().is_some() && others.any(|of| !self.devices[of].damaged)
    }
}
