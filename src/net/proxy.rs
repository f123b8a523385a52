//! Which requests go through a proxy, the same for all three clients. The rules are those of Go's `net/http`
//! (golang.org/x/net/http/httpproxy), which Kubernetes and most tools beside it follow; `ALL_PROXY` is in addition.
//!
//! Invariant: requests to the loopback interface, and to link-local addresses, where clouds hand out credentials, never go
//! through a proxy, whatever the environment says. No message shows a proxy's login.

use std::env;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::LazyLock;

use anyhow::{Context, ensure};
use ipnet::IpNet;
use percent_encoding::percent_decode_str;
use url::{Host, Url};

use crate::text::hide;

/// The environment's proxies. It is read once: it does not change.
static OF_ENVIRONMENT: LazyLock<Result<Proxies, String>> = LazyLock::new(|| {
    // A variable that is not UTF-8 is not an address.
    let read = |name: &str| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    Proxies::new(&read).map_err(|error| format!("{error:#}"))
});

/// A proxy. `Display` gives its address without a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy(Url);

impl Proxy {
    /// The address, with the login if there is one.
    pub fn url(&self) -> &Url {
        &self.0
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.origin().ascii_serialization().as_str())
    }
}

/// Fails if a variable does not hold the address of a proxy.
pub fn check() -> anyhow::Result<()> {
    OF_ENVIRONMENT.as_ref().map(drop).map_err(|error| anyhow::anyhow!("{error}"))
}

/// The proxy for requests to this address.
pub fn for_url(url: &Url) -> Option<&'static Proxy> {
    OF_ENVIRONMENT.as_ref().ok()?.for_url(url)
}

/// The proxy for requests of this scheme, unless their address is an exception.
pub fn for_scheme(scheme: &str) -> Option<&'static Proxy> {
    OF_ENVIRONMENT.as_ref().ok()?.for_scheme(scheme)
}

/// Whether the URL's host is this machine.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.to_canonical().is_loopback(),
        None => false,
    }
}

fn is_link_local(url: &Url) -> bool {
    let address = match url.host() {
        Some(Host::Ipv4(address)) => IpAddr::V4(address),
        Some(Host::Ipv6(address)) => address.to_canonical(),
        Some(Host::Domain(_)) | None => return false,
    };
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local() || is_aws_link_local(address),
    }
}

/// `fd00:ec2::/32`: instance metadata and pod identities by IPv6.
fn is_aws_link_local(address: Ipv6Addr) -> bool {
    address.segments()[..2] == [0xfd00, 0x0ec2]
}

/// What the environment says.
#[derive(Debug, Default)]
struct Proxies {
    https: Option<Proxy>,
    http: Option<Proxy>,
    except: Vec<Exception>,
}

/// An entry of `NO_PROXY`.
#[derive(Debug, PartialEq, Eq)]
enum Exception {
    Everything,
    Net(IpNet),
    Address(IpAddr, Option<u16>),
    /// The name with a dot in front, and whether the name itself counts, too.
    Domain {
        suffix: String,
        itself: bool,
        port: Option<u16>,
    },
}

impl Proxies {
    /// Of several variables, the first that is not empty counts.
    fn new(environment: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        let first = |names: &[&'static str]| {
            let set = names.iter().filter_map(|name| Some((*name, environment(name)?.trim().to_owned())));
            set.into_iter().find(|(_, value)| !value.is_empty())
        };
        let proxy = |names| {
            let Some((name, value)) = first(names) else { return Ok(None) };
            proxy(&value).map(Some).context(name)
        };
        let http = proxy(&["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])?;
        if environment("REQUEST_METHOD").is_some_and(|method| !method.is_empty()) {
            // A CGI program gets the header `Proxy` of a request in this variable.
            ensure!(
                http.is_none(),
                "HTTP_PROXY: not used while REQUEST_METHOD is set, as for a CGI program: unset one"
            );
        }
        let except = first(&["NO_PROXY", "no_proxy"]).map(|(_, list)| list.split(',').filter_map(exception).collect());
        Ok(Self {
            https: proxy(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])?,
            http,
            except: except.unwrap_or_default(),
        })
    }

    fn for_scheme(&self, scheme: &str) -> Option<&Proxy> {
        match scheme {
            "https" => self.https.as_ref(),
            "http" => self.http.as_ref(),
            _ => None,
        }
    }

    fn for_url(&self, url: &Url) -> Option<&Proxy> {
        if is_loopback(url) || is_link_local(url) || self.except.iter().any(|exception| exception.matches(url)) {
            return None;
        }
        self.for_scheme(url.scheme())
    }
}

impl Exception {
    fn matches(&self, url: &Url) -> bool {
        let (address, name) = match url.host() {
            Some(Host::Ipv4(address)) => (Some(IpAddr::V4(address)), ""),
            Some(Host::Ipv6(address)) => (Some(address.to_canonical()), ""),
            Some(Host::Domain(name)) => (None, name),
            None => return false,
        };
        let at = |port: &Option<u16>| port.is_none() || *port == url.port_or_known_default();
        match self {
            Self::Everything => true,
            Self::Net(net) => address.is_some_and(|address| net.contains(&address)),
            Self::Address(excepted, port) => address == Some(*excepted) && at(port),
            Self::Domain { suffix, itself, port } => {
                (name.ends_with(suffix) || *itself && name == &suffix[1..]) && at(port)
            }
        }
    }
}

/// `*`, `ADDRESS/BITS`, `ADDRESS[:PORT]`, `DOMAIN[:PORT]` for it and all below it, `.DOMAIN` or `*.DOMAIN` for all below it.
fn exception(entry: &str) -> Option<Exception> {
    let entry = entry.trim();
    if entry == "*" {
        return Some(Exception::Everything);
    }
    if let Ok(net) = entry.parse() {
        return Some(Exception::Net(net));
    }
    let (host, port) = match entry.rsplit_once(':') {
        // An IPv6 address without a port has several colons.
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port.parse().ok()?)),
        Some(_) | None => (entry, None),
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Ok(address) = host.parse::<IpAddr>() {
        return Some(Exception::Address(address.to_canonical(), port));
    }
    let host = host.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(host);
    let below = host.strip_prefix('.');
    // In lower case, and as names outside of ASCII are sent.
    let Ok(Host::Domain(name)) = Host::parse(below.unwrap_or(host)) else { return None };
    Some(Exception::Domain { suffix: format!(".{name}"), itself: below.is_none(), port })
}

/// The value may hold a password, so that no message repeats it.
fn proxy(value: &str) -> anyhow::Result<Proxy> {
    const HOW: &str = "not the address of a proxy: write http://HOST:PORT";
    // `host:3128` would look like a scheme and a path.
    let url = if value.contains("://") { Url::parse(value) } else { Url::parse(&format!("http://{value}")) };
    let url = url.ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host()).context(HOW)?;
    if let Some(password) = url.password() {
        hide(&percent_decode_str(password).decode_utf8_lossy());
        hide(&format!("{}:{password}", url.username()));
    }
    Ok(Proxy(url))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> anyhow::Result<Proxies> {
        Proxies::new(&|name| variables.iter().find(|(it, _)| *it == name).map(|(_, value)| (*value).to_owned()))
    }

    /// The proxy's address for this URL; empty for none.
    fn found(variables: &[(&str, &str)], url: &str) -> String {
        proxies(variables).unwrap().for_url(&url.parse().unwrap()).map(ToString::to_string).unwrap_or_default()
    }

    #[test]
    fn variables_are_read_as_go_does() {
        const A: &str = "http://a:1";
        const B: &str = "http://b:2";
        const TO: &str = "https://x.test/";
        for (variables, url, proxy) in [
            (&[][..], TO, ""),
            (&[("HTTPS_PROXY", A)], TO, A),
            (&[("https_proxy", A)], TO, A),
            (&[("HTTPS_PROXY", A), ("https_proxy", B)], TO, A),
            (&[("HTTPS_PROXY", ""), ("https_proxy", B)], TO, B),
            (&[("HTTPS_PROXY", "http://a:1\n")], TO, A),
            (&[("HTTPS_PROXY", "\n"), ("https_proxy", B)], TO, B),
            (&[("HTTPS_PROXY", "a:1")], TO, A),
            (&[("HTTPS_PROXY", "10.0.0.1:3128")], TO, "http://10.0.0.1:3128"),
            (&[("HTTPS_PROXY", "https://a")], TO, "https://a"),
            (&[("HTTPS_PROXY", "http://u:secret@a:1/path")], TO, A),
            (&[("HTTP_PROXY", A)], TO, ""),
            (&[("HTTP_PROXY", A)], "http://x.test/", A),
            (&[("HTTPS_PROXY", A)], "http://x.test/", ""),
            (&[("ALL_PROXY", A)], TO, A),
            (&[("all_proxy", A)], "http://x.test/", A),
            (&[("HTTPS_PROXY", A), ("ALL_PROXY", B)], TO, A),
            (&[("HTTPS_PROXY", A), ("NO_PROXY", ""), ("no_proxy", "x.test")], TO, ""),
            (&[("HTTPS_PROXY", A), ("NO_PROXY", "y.test"), ("no_proxy", "x.test")], TO, A),
            (&[("HTTPS_PROXY", A), ("NO_PROXY", "x.test\n")], TO, ""),
            (&[("HTTPS_PROXY", A), ("REQUEST_METHOD", "GET")], TO, A),
        ] {
            assert_eq!(found(variables, url), proxy, "{variables:?} {url}");
        }
    }

    #[test]
    fn what_is_not_the_address_of_a_proxy_is_refused_without_its_value() {
        for value in
            ["http://user:secret@:bad:", "socks5://user:secret@a:1", "ftp://secret", "http://", "secret secret"]
        {
            let error = format!("{:#}", proxies(&[("https_proxy", value)]).unwrap_err());
            assert!(error.contains("https_proxy") && !error.contains("secret"), "{error}");
        }
        let error = proxies(&[("http_proxy", "http://a:1"), ("REQUEST_METHOD", "GET")]).unwrap_err();
        assert!(error.to_string().contains("REQUEST_METHOD"), "{error}");
    }

    #[test]
    fn exceptions_are_read_as_go_does() {
        for (no_proxy, direct, proxied) in [
            ("*", &["https://x.test", "https://10.0.0.1"][..], &[][..]),
            ("x.test", &["https://x.test", "https://a.x.test", "https://X.Test:8443"], &["https://ax.test"]),
            (".x.test", &["https://a.x.test", "https://b.a.x.test"], &["https://x.test"]),
            ("*.x.test", &["https://a.x.test"], &["https://x.test"]),
            ("X.TEST", &["https://x.test"], &[]),
            ("x.test:443", &["https://x.test", "https://a.x.test:443"], &["https://x.test:8443"]),
            (".x.test:8443", &["https://a.x.test:8443"], &["https://a.x.test"]),
            ("10.0.0.0/8", &["https://10.1.2.3", "https://10.0.0.1:1"], &["https://11.0.0.1", "https://ten.test"]),
            ("10.0.0.7/8", &["https://10.1.2.3"], &[]),
            ("10.0.0.1", &["https://10.0.0.1"], &["https://10.0.0.2"]),
            ("10.0.0.1:443", &["https://10.0.0.1"], &["https://10.0.0.1:444"]),
            ("fd00::/8", &["https://[fd12::1]"], &["https://[fc00::1]"]),
            ("fd00::1", &["https://[fd00::1]"], &["https://[fd00::2]"]),
            ("[fd00::1]", &["https://[fd00::1]"], &[]),
            ("[fd00::1]:8443", &["https://[fd00::1]:8443"], &["https://[fd00::1]"]),
            ("10.0.0.1", &["https://[::ffff:10.0.0.1]"], &[]),
            ("a.test, b.test ,,\tc.test", &["https://a.test", "https://b.test", "https://c.test"], &["https://d.test"]),
            ("bücher.test", &["https://bücher.test", "https://xn--bcher-kva.test"], &[]),
            (":443, ., *.", &[], &["https://x.test"]),
            ("x.test:", &[], &["https://x.test"]),
        ] {
            let variables = [("HTTPS_PROXY", "http://a:1"), ("NO_PROXY", no_proxy)];
            for url in direct {
                assert_eq!(found(&variables, url), "", "{no_proxy} {url}");
            }
            for url in proxied {
                assert_eq!(found(&variables, url), "http://a:1", "{no_proxy} {url}");
            }
        }
    }

    #[test]
    fn loopback_and_link_local_addresses_are_reached_directly() {
        let variables = [("ALL_PROXY", "http://a:1")];
        for url in [
            "http://localhost:8080/graphql",
            "https://localhost",
            "http://git.localhost",
            "http://127.0.0.1:9000",
            "https://127.9.9.9",
            "http://[::1]:80/",
            "https://[::ffff:127.0.0.1]/",
            "http://169.254.169.254/latest/meta-data",
            "http://169.254.170.2/v2/credentials",
            "https://169.254.170.23/v1/credentials",
            "http://[fd00:ec2::254]/latest/meta-data",
            "http://[fd00:ec2::23]/v1/credentials",
            "http://[fe80::1]/",
        ] {
            assert_eq!(found(&variables, url), "", "{url}");
        }
        for url in ["http://10.0.0.1", "http://localhost.test", "https://[fd00::1]"] {
            assert_eq!(found(&variables, url), "http://a:1", "{url}");
        }
    }
}
