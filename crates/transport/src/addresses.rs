//! Where a device can be reached.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::TransportError;

/// The UDP port at which a device listens if nothing else is said.
pub const DEFAULT_PORT: u16 = 4753;

/// The addresses of this machine's interfaces with a port: those that others may reach first, and this machine's own only if there are no
/// others. Link-local ones are left out: what they mean depends on who reads them.
pub fn own_addresses(port: u16) -> Vec<SocketAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_else(|error| {
        tracing::warn!(%error, "the addresses of this machine cannot be listed");
        Vec::new()
    });
    let usable = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local() && !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local() && !ip.is_unspecified(),
    };
    let mut addresses: Vec<IpAddr> = interfaces.iter().map(|interface| interface.ip()).filter(usable).collect();
    addresses.sort_unstable_by_key(|ip| (ip.is_ipv6(), *ip));
    addresses.dedup();
    if addresses.is_empty() {
        addresses.push(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()
}

/// The addresses of `host:port`, `host`, `[v6]:port` or an address; without a port, [`DEFAULT_PORT`].
///
/// # Errors
/// [`TransportError::Address`] for a name that is not known, or what is no address at all.
pub async fn resolve(text: &str) -> Result<Vec<SocketAddr>, TransportError> {
    let failed = |source| TransportError::Address { address: text.to_owned(), source };
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(vec![address]);
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, DEFAULT_PORT)]);
    }
    let with_port = if text.contains(':') { text.to_owned() } else { format!("{text}:{DEFAULT_PORT}") };
    let found: Vec<SocketAddr> = tokio::net::lookup_host(with_port).await.map_err(failed)?.collect();
    if found.is_empty() {
        return Err(failed(std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address")));
    }
    Ok(found)
}
