//! Sessions of one device with another.

use super::*;

impl World {
    /// Whether nothing comes from one device to another, and until when.
    pub(super) fn blocked(&self, from: usize, to: usize) -> Option<u64> {
        self.parted.get(&(from, to)).copied().filter(|until| *until > self.time.now())
    }

    pub(super) fn talk(
        &mut self,
        n: usize,
        with: usize,
        seed: u64,
        cut_after: Option<u64>,
        stay_until: u64,
    ) -> Checked<()> {
        let up = |world: &World, n: usize| world.devices[n].up().cloned();
        let (Some(a), Some(b)) = (up(self, n), up(self, with)) else { return Ok(()) };
        let linked = |link: &Link| link.devices == [n, with] || link.devices == [with, n];
        if n == with || self.links.values().any(linked) || self.blocked(n, with).or(self.blocked(with, n)).is_some() {
            return Ok(());
        }
        let keys = [&a, &b].map(|replica| replica.device().map(|device| device.key));
        let [Ok(key_a), Ok(key_b)] = keys else { return Ok(()) };
        let mut ends = Vec::new();
        for (at, replica, key) in [(n, a, key_b), (with, b, key_a)] {
            match self.at(at, |_| replica.peer_session(key)) {
                Ok(end) => ends.push(end),
                Err(error) => {
                    self.coverage.note("session refused");
                    self.log(Some(at), format!("does not talk: {}", chain(&error)));
                    return Ok(());
                }
            }
        }
        let (Some(second), Some(first)) = (ends.pop(), ends.pop()) else { return Ok(()) };
        self.note(n, "session", format!("talks to d{with}"));
        let id = self.next_link;
        self.next_link += 1;
        self.links.insert(id, Link::new([n, with], [first, second], seed, cut_after, stay_until));
        self.link(id)
    }

    /// Something was written on a device: its sessions hear of it.
    pub(super) fn wake_links(&mut self, n: usize) {
        let now = self.time.now();
        let mut of_device = Vec::new();
        for (id, link) in &mut self.links {
            for (side, device) in link.devices.into_iter().enumerate() {
                if device == n
                    && let Some(end) = &mut link.ends[side]
                {
                    // A failure shows when it is asked for output.
                    let _ = end.handle_local();
                    of_device.push(*id);
                }
            }
        }
        for id in of_device {
            self.link_due(now, id);
        }
    }

    /// Takes a connection as far as it can be now.
    pub(super) fn link(&mut self, id: usize) -> Checked<()> {
        let Some(mut link) = self.links.remove(&id) else { return Ok(()) };
        let now = self.time.now();
        link.scheduled.take().map(|key| self.queue.remove(&key));
        if link.gone_at.is_some_and(|at| at <= now) {
            self.coverage.network.broken += 1;
            self.hang_up(&mut link, "the connection is gone")?;
        }
        self.deliver(&mut link, now)?;
        if now >= link.ticked + LINK_TICK_MS {
            link.ticked = now;
            self.tick(&mut link)?;
        }
        let caught_up = link.ends.iter().flatten().all(isle::PeerSession::is_caught_up);
        if caught_up
            && now >= link.stay_until
            && let [Some(first), Some(_)] = &mut link.ends
        {
            first.close();
        }
        self.pump(&mut link, now)?;
        if link.is_over() {
            return Ok(());
        }
        let next = link.queues.iter().filter_map(|queue| queue.front()).map(|(at, _)| *at);
        let next = next.chain(link.gone_at).chain([now + LINK_TICK_MS]).min().unwrap_or(now);
        self.links.insert(id, link);
        self.link_due(next.max(now), id);
        Ok(())
    }

    /// Hands what has come to the ends.
    pub(super) fn deliver(&mut self, link: &mut Link, now: u64) -> Checked<()> {
        for side in 0..2 {
            while link.queues[side].front().is_some_and(|(at, _)| *at <= now) {
                let Some((_, mut bytes)) = link.queues[side].pop_front() else { break };
                let cut = link.cut_after.is_some_and(|left| left < bytes.len() as u64);
                if let Some(left) = &mut link.cut_after {
                    bytes.truncate(*left as usize);
                    *left -= bytes.len() as u64;
                }
                let n = link.devices[side];
                if let Some(end) = &mut link.ends[side]
                    && let Err(error) = self.at(n, |_| end.handle_input(&bytes))
                {
                    self.coverage.note("session failed");
                    self.log(Some(n), format!("session fails: {}", chain(&error)));
                }
                if !self.devices[n].disk.is_down() && self.devices[n].up().is_some() {
                    self.collect(n)?;
                }
                if cut {
                    self.coverage.network.broken += 1;
                    self.hang_up(link, "the connection breaks")?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn tick(&mut self, link: &mut Link) -> Checked<()> {
        for side in 0..2 {
            let n = link.devices[side];
            let now = isle_store::Runtime::now_ms(self.devices[n].runtime.as_ref());
            if let Some(end) = &mut link.ends[side]
                && end.poll_timeout().is_some_and(|at| at <= now)
                && let Err(error) = self.at(n, |_| end.handle_timeout())
            {
                self.coverage.note("session timed out");
                self.log(Some(n), format!("session ends: {}", chain(&error)));
            }
        }
        Ok(())
    }

    /// Sends what the ends have to say, and lets those go that are over.
    pub(super) fn pump(&mut self, link: &mut Link, now: u64) -> Checked<()> {
        for side in 0..2 {
            let (n, other) = (link.devices[side], link.devices[1 - side]);
            let blocked = self.blocked(n, other);
            while let Some(end) = &mut link.ends[side] {
                match self.at(n, |_| end.poll_output()) {
                    Ok(Some(bytes)) => link.send(1 - side, now, bytes, blocked, &mut self.coverage.network),
                    Ok(None) => break,
                    Err(error) => {
                        self.coverage.note("session failed");
                        self.log(Some(n), format!("session fails: {}", chain(&error)));
                    }
                }
            }
            if link.ends[side].as_ref().is_some_and(isle::PeerSession::is_over) {
                self.finish(link, side)?;
                // The other end reads what is still on its way, and then that nobody is there.
                let last = link.queues[1 - side].back().map_or(now, |(at, _)| *at);
                link.gone_at = Some(link.gone_at.unwrap_or(u64::MAX).min(last + 1));
            }
        }
        Ok(())
    }

    pub(super) fn finish(&mut self, link: &mut Link, side: usize) -> Checked<()> {
        let n = link.devices[side];
        let Some(end) = link.ends[side].take() else { return Ok(()) };
        let caught_up = end.is_caught_up();
        match self.at(n, |_| end.finish()) {
            Ok(report) => {
                let how = if caught_up { "caught up" } else { "in the middle" };
                self.log(Some(n), format!("session with d{} over, {how}: {}", link.devices[1 - side], told(&report)));
            }
            Err(error) => self.log(Some(n), format!("session over: {}", chain(&error))),
        }
        if !self.devices[n].disk.is_down() && self.devices[n].up().is_some() {
            self.collect(n)?;
            self.check_held(n)?;
        }
        Ok(())
    }

    pub(super) fn hang_up(&mut self, link: &mut Link, why: &str) -> Checked<()> {
        for side in 0..2 {
            if link.ends[side].is_some() && self.devices[link.devices[side]].up().is_some() {
                self.log(Some(link.devices[side]), why);
                self.finish(link, side)?;
            }
            link.ends[side] = None;
        }
        link.queues = Default::default();
        link.gone_at = None;
        Ok(())
    }
}
