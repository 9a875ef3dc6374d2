//! Which addresses may be polled. A driver's address comes from a pod's status, which the kubelet's operator can write:
//! without this check, a poll could make Rollcall call the cloud's metadata service.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why this address cannot be a driver's; `None`: it can.
pub fn refused(ip: IpAddr, loopback: bool) -> Option<&'static str> {
    match ip.to_canonical() {
        IpAddr::V4(ip) => refused_v4(ip, loopback),
        IpAddr::V6(ip) => refused_v6(ip, loopback),
    }
}

/// Metadata services that are not link-local: Azure, Alibaba, Oracle.
const METADATA: [Ipv4Addr; 3] =
    [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192)];
/// The metadata service of EC2.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

fn refused_v4(ip: Ipv4Addr, loopback: bool) -> Option<&'static str> {
    if ip.octets()[0] == 0 {
        Some("unspecified")
    } else if ip.is_loopback() {
        (!loopback).then_some("loopback")
    } else if ip.is_link_local() {
        Some("link-local")
    } else if ip.is_multicast() {
        Some("multicast")
    } else if ip.octets()[0] >= 240 {
        Some("reserved")
    } else if METADATA.contains(&ip) {
        Some("a metadata service")
    } else {
        None
    }
}

fn refused_v6(ip: Ipv6Addr, loopback: bool) -> Option<&'static str> {
    let inner = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        refused_v4(Ipv4Addr::new(a, b, c, d), false)
    };
    match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some("unspecified"),
        [0, 0, 0, 0, 0, 0, 0, 1] => (!loopback).then_some("loopback"),
        [first, ..] if first & 0xffc0 == 0xfe80 => Some("link-local"),
        [first, ..] if first & 0xff00 == 0xff00 => Some("multicast"),
        _ if ip == METADATA_V6 => Some("a metadata service"),
        // IPv4 embedded in IPv6: compatible, NAT64, 6to4.
        [0, 0, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => inner(high, low),
        [0x2002, high, low, ..] => inner(high, low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_a_pod_is_asked() {
        for ip in ["10.0.0.7", "192.168.1.1", "172.16.0.1", "100.64.0.1", "8.8.8.8", "fd00::1", "2001:db8::1"]
        {
            assert_eq!(refused(ip.parse().unwrap(), false), None, "{ip}");
        }
        for (ip, why) in [
            ("0.0.0.0", "unspecified"),
            ("0.1.2.3", "unspecified"),
            ("127.0.0.1", "loopback"),
            ("127.8.8.8", "loopback"),
            ("169.254.169.254", "link-local"),
            ("169.254.170.2", "link-local"),
            ("224.0.0.1", "multicast"),
            ("255.255.255.255", "reserved"),
            ("240.0.0.1", "reserved"),
            ("168.63.129.16", "a metadata service"),
            ("100.100.100.200", "a metadata service"),
            ("192.0.0.192", "a metadata service"),
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("fe80::1", "link-local"),
            ("febf::1", "link-local"),
            ("ff02::1", "multicast"),
            ("fd00:ec2::254", "a metadata service"),
            ("::ffff:169.254.169.254", "link-local"),
            ("::ffff:127.0.0.1", "loopback"),
            ("::169.254.169.254", "link-local"),
            ("64:ff9b::169.254.169.254", "link-local"),
            ("64:ff9b::127.0.0.1", "loopback"),
            ("2002:a9fe:a9fe::1", "link-local"),
        ] {
            assert_eq!(refused(ip.parse().unwrap(), false), Some(why), "{ip}");
            let loopback = why == "loopback" && !ip.starts_with("64:");
            assert_eq!(refused(ip.parse().unwrap(), true).is_none(), loopback, "{ip}");
        }
    }
}
