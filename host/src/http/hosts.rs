//! Checks `Host` and `Origin`, because a browser sends what a foreign page asks for.
//!
//! A foreign page can make its own name resolve to our address (DNS rebinding) and then read answers as its own site.
//! Its requests have this name in `Host`, and the attacker must own the name. An address, `localhost`, a name without a
//! dot, and names that only exist inside a cluster or a local network cannot be owned. Any other name has to be allowed
//! (`--http-host`). `service.namespace` is such a name, because a namespace may have the name of a top-level domain. A
//! cross-site request has an `Origin`, and only our own is accepted.
//!
//! Probes and heartbeats are exempt: probes reveal nothing, and heartbeats nothing without a token, which no page has.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::Response;

use super::error::Error;

/// Names with these suffixes cannot be owned: those of Kubernetes and of mDNS.
const LOCAL: [&str; 4] = [".svc", ".cluster.local", ".local", ".localhost"];

/// Names of the daemon beside those that are always accepted. In lower case.
#[derive(Clone, Debug, Default)]
pub struct Hosts(Arc<[String]>);

impl Hosts {
    pub fn new(names: &[String]) -> Hosts {
        Hosts(names.iter().map(|name| plain(name)).collect())
    }

    /// Returns an error if the request must be rejected.
    fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Error> {
        let mut hosts = headers.get_all(HOST).iter();
        let host = match (hosts.next(), hosts.next()) {
            (None, _) => None,
            (Some(host), None) => Some(host.to_str().map_err(|_| misdirected("with such a name"))?),
            (Some(_), Some(_)) => return Err(misdirected("with two Host headers")),
        };
        // A request line with an absolute URL takes precedence over the header.
        for host in host.into_iter().chain(uri.authority().map(axum::http::uri::Authority::as_str)) {
            if !self.allow(name_of(host)) {
                let message = format!("as {:?}", shown(host));
                return Err(misdirected(&message));
            }
        }
        let Some(origin) = headers.get(ORIGIN) else { return Ok(()) };
        let origin = origin.to_str().unwrap_or("");
        let site = origin.split_once("://").map_or("", |(_, site)| site);
        let own = host.is_some_and(|host| !site.is_empty() && site.eq_ignore_ascii_case(host));
        if own || self.0.contains(&plain(name_of(site))) {
            return Ok(());
        }
        let message = format!(
            "a page of {:?} asks, and only pages of this daemon may; start it with --http-host NAME to allow another name",
            shown(origin)
        );
        Err(Error::new(StatusCode::FORBIDDEN, "foreign-origin", message))
    }

    fn allow(&self, name: &str) -> bool {
        let bracketed = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        if let Some(address) = bracketed {
            return address.parse::<Ipv6Addr>().is_ok();
        }
        let name = plain(name);
        let local = !name.contains('.') || LOCAL.iter().any(|end| name.ends_with(end));
        local || name.parse::<IpAddr>().is_ok() || self.0.contains(&name)
    }
}

pub async fn guard(State(hosts): State<Hosts>, request: Request, next: Next) -> Result<Response, Error> {
    hosts.check(request.uri(), request.headers())?;
    Ok(next.run(request).await)
}

fn misdirected(how: &str) -> Error {
    let message = format!(
        "this daemon is not asked {how}: use its address or the name of its Service, or start it with --http-host NAME"
    );
    Error::new(StatusCode::MISDIRECTED_REQUEST, "foreign-host", message)
}

/// The name without the port.
fn name_of(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => {
            // `::1` is not a name with a port, and not a valid `Host` either.
            if name.contains(':') && !name.starts_with('[') { host } else { name }
        }
        Some(_) | None => host,
    }
}

fn plain(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(host: &[&str], origin: Option<&str>, uri: &str) -> u16 {
        let hosts = Hosts::new(&["Rollcall.example.com".to_owned()]);
        let mut headers = HeaderMap::new();
        for host in host {
            headers.append(HOST, host.parse().unwrap());
        }
        if let Some(origin) = origin {
            headers.insert(ORIGIN, origin.parse().unwrap());
        }
        match hosts.check(&uri.parse().unwrap(), &headers) {
            Ok(()) => 200,
            Err(error) => axum::response::IntoResponse::into_response(error).status().as_u16(),
        }
    }

    #[test]
    fn names_that_a_stranger_can_own_need_to_be_allowed() {
        for host in [
            "10.0.0.7:8080",
            "10.0.0.7",
            "[::1]:8080",
            "[fd00::7]",
            "localhost:8080",
            "LocalHost",
            "app.localhost",
            "rollcall",
            "rollcall:8080",
            "rollcall.spark",
            "rollcall.spark.svc",
            "rollcall.spark.svc:8080",
            "rollcall.spark.svc.cluster.local.",
            "printer.local",
            "rollcall.example.com",
            "ROLLCALL.example.com.:443",
        ] {
            let expected = if host == "rollcall.spark" { 421 } else { 200 };
            assert_eq!(status(&[host], None, "/v1/fleets"), expected, "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8080",
            "10.0.0.7.evil.example",
            "localhost.evil.example",
            "x.svc.evil.example",
            "rollcall.example.com.evil.example",
            "evil.rollcall.example.com",
            "[evil.example]",
            "[::1].evil.example",
            "evil.example:80:80",
            "user@evil.example",
        ] {
            assert_eq!(status(&[host], None, "/"), 421, "{host}");
        }
        assert_eq!(status(&[], None, "/v1/fleets"), 200, "HTTP/1.0 has no Host");
        assert_eq!(status(&["10.0.0.7", "10.0.0.7"], None, "/"), 421, "which of them?");
        assert_eq!(status(&["10.0.0.7"], None, "http://evil.example/v1/fleets"), 421);
        assert_eq!(status(&["10.0.0.7"], None, "http://10.0.0.7/v1/fleets"), 200);
    }

    #[test]
    fn only_our_own_pages_may_ask() {
        for (host, origin, expected) in [
            ("localhost:8080", "http://localhost:8080", 200),
            ("10.0.0.7:8080", "http://10.0.0.7:8080", 200),
            ("rollcall.example.com", "https://rollcall.example.com", 200),
            // Behind a proxy that replaces `Host` by its backend's name.
            ("10.0.0.7:8080", "https://rollcall.example.com", 200),
            ("10.0.0.7:8080", "http://evil.example", 403),
            ("10.0.0.7:8080", "http://6.6.6.6", 403),
            ("localhost:8080", "http://localhost:3000", 403),
            ("localhost:8080", "null", 403),
            ("localhost:8080", "", 403),
            ("localhost:8080", "http://", 403),
            ("evil.example", "http://evil.example", 421),
        ] {
            assert_eq!(status(&[host], Some(origin), "/v1/fleets"), expected, "{host} {origin}");
        }
        assert_eq!(status(&[], Some("http://evil.example"), "/"), 403);
    }
}
