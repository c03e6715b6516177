//! Finding devices on the local network by multicast DNS.

use std::net::{IpAddr, SocketAddr};

use mdns_sd::{ServiceDaemon, ServiceEvent, ServiceInfo};

use crate::TransportError;

const SERVICE: &str = "_isle._udp.local.";
/// The longest beacon that is looked at.
const BEACON_BYTES_MAX: usize = 64;
/// Addresses of one device that are looked at.
const ADDRESSES_MAX: usize = 8;

/// A device that announced itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its beacon.
    pub beacon: String,
    /// Where it says that it listens.
    pub addresses: Vec<SocketAddr>,
}

/// Announces this device, if it listens, and looks for others, until it is dropped.
pub struct Discovery {
    daemon: ServiceDaemon,
    events: mdns_sd::Receiver<ServiceEvent>,
}

impl std::fmt::Debug for Discovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Discovery").finish_non_exhaustive()
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        // It says goodbye to the network if it can.
        let _ = self.daemon.shutdown();
    }
}

fn failed(error: mdns_sd::Error) -> TransportError {
    TransportError::Discovery { reason: error.to_string() }
}

impl Discovery {
    /// Begins to look; with `announce`, a beacon and the port at which this device listens, it is found by others too.
    ///
    /// # Errors
    /// [`TransportError::Discovery`] when the machine has no multicast, say.
    pub fn start(announce: Option<(&str, u16)>) -> Result<Discovery, TransportError> {
        let daemon = ServiceDaemon::new().map_err(failed)?;
        if let Some((beacon, port)) = announce {
            let host = format!("{beacon}.local.");
            let service = ServiceInfo::new(SERVICE, beacon, &host, "", port, None).map_err(failed)?;
            daemon.register(service.enable_addr_auto()).map_err(failed)?;
        }
        let events = daemon.browse(SERVICE).map_err(failed)?;
        Ok(Discovery { daemon, events })
    }

    /// The next device that is found; `None` once nothing is looked for any more.
    pub async fn next(&self) -> Option<Found> {
        loop {
            let event = self.events.recv_async().await.ok()?;
            let ServiceEvent::ServiceResolved(service) = event else { continue };
            let Some(beacon) = service.get_fullname().strip_suffix(&format!(".{SERVICE}")) else { continue };
            if beacon.len() > BEACON_BYTES_MAX {
                continue;
            }
            let port = service.get_port();
            let usable = |ip: &IpAddr| match ip {
                // What a link-local address means depends on who reads it.
                IpAddr::V6(ip) => !ip.is_unicast_link_local(),
                IpAddr::V4(_) => true,
            };
            let addresses = service.get_addresses().iter().map(|address| address.to_ip_addr()).filter(usable);
            let addresses = addresses.take(ADDRESSES_MAX).map(|ip| SocketAddr::new(ip, port)).collect();
            return Some(Found { beacon: beacon.to_owned(), addresses });
        }
    }
}
