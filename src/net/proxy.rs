//! Which requests go through a proxy, the same for all three clients.
//!
//! Invariant: plain requests to the loopback interface, and all requests to link-local addresses, where clouds hand out
//! credentials, never go through a proxy, whatever the environment says. Clear text for this machine never leaves it.

use std::env;
use std::net::Ipv6Addr;

use anyhow::Context;
use url::{Host, Url};

/// The loopback interface, in `NO_PROXY`'s syntax.
const LOOPBACK: &str = "localhost,127.0.0.0/8,::1";
/// Addresses that routers do not forward, and AWS's for the same purpose, in `NO_PROXY`'s syntax.
const LINK_LOCAL: &str = "169.254.0.0/16,fe80::/10,fd00:ec2::/32";

/// Whether the URL's host is this machine.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Whether requests to this address never go through a proxy.
pub fn is_direct(url: &Url) -> bool {
    let link_local = match url.host() {
        Some(Host::Ipv4(address)) => address.is_link_local(),
        Some(Host::Ipv6(address)) => address.is_unicast_link_local() || is_aws_link_local(address),
        Some(Host::Domain(_)) | None => false,
    };
    link_local || url.scheme() == "http" && is_loopback(url)
}

/// `fd00:ec2::/32`: instance metadata and pod identities by IPv6.
fn is_aws_link_local(address: Ipv6Addr) -> bool {
    address.segments()[..2] == [0xfd00, 0x0ec2]
}

/// The environment's proxies for GraphQL and Git; the first variable that is set counts.
pub fn from_env() -> anyhow::Result<Vec<reqwest::Proxy>> {
    let first = |names: [&str; 4]| {
        let set = names.into_iter().filter_map(|name| Some((name.to_owned(), env::var(name).ok()?)));
        set.into_iter().find(|(_, value)| !value.trim().is_empty())
    };
    let no_proxy = ["NO_PROXY", "no_proxy"].into_iter().find_map(|name| env::var(name).ok()).unwrap_or_default();
    let except = |hosts: &str| reqwest::NoProxy::from_string(&format!("{no_proxy},{hosts}"));
    let mut proxies = vec![];
    if let Some((name, proxy)) = first(["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]) {
        let proxy = reqwest::Proxy::https(proxy.trim()).map_err(|_| NotAnAddress).context(name)?;
        proxies.push(proxy.no_proxy(except(LINK_LOCAL)));
    }
    if let Some((name, proxy)) = first(["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]) {
        let proxy = reqwest::Proxy::http(proxy.trim()).map_err(|_| NotAnAddress).context(name)?;
        proxies.push(proxy.no_proxy(except(&format!("{LOOPBACK},{LINK_LOCAL}"))));
    }
    Ok(proxies)
}

/// The value may hold a password, so it is not repeated.
#[derive(Debug, thiserror::Error)]
#[error("not the address of a proxy: write http://HOST:PORT")]
struct NotAnAddress;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn plain_loopback_and_link_local_addresses_are_reached_directly() {
        let direct = |url: &str| is_direct(&url.parse().unwrap());
        for url in [
            "http://localhost:8080/graphql",
            "http://git.localhost",
            "http://127.0.0.1:9000",
            "http://127.9.9.9",
            "http://[::1]:80/",
            "http://169.254.169.254/latest/meta-data",
            "http://169.254.170.2/v2/credentials",
            "https://169.254.170.23/v1/credentials",
            "http://[fd00:ec2::254]/latest/meta-data",
            "http://[fd00:ec2::23]/v1/credentials",
            "http://[fe80::1]/",
        ] {
            assert!(direct(url), "{url}");
        }
        for url in
            ["https://127.0.0.1", "https://localhost", "http://10.0.0.1", "http://localhost.test", "http://[fd00::1]"]
        {
            assert!(!direct(url), "{url}");
        }
    }
}
