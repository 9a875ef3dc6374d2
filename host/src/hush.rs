//! Limits log lines that a stranger can cause: one per address and minute, or one per minute if it has no address; the
//! rest is counted.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

const MINUTE: Duration = Duration::from_secs(60);
/// Maximum lines per minute for all addresses. It also bounds the memory.
const LINES_MAX: usize = 20;

/// One kind of line.
#[derive(Debug, Default)]
pub struct Hush(Mutex<Said>);

#[derive(Debug, Default)]
struct Said {
    at: HashMap<Option<IpAddr>, Instant>,
    left_out: u64,
}

impl Hush {
    /// May a line about this address be logged? Returns how many were suppressed since the last one.
    pub fn may_say(&self, peer: impl Into<Option<IpAddr>>) -> Option<u64> {
        let peer = peer.into();
        let now = Instant::now();
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.at.retain(|_, at| now - *at < MINUTE);
        if said.at.contains_key(&peer) || said.at.len() >= LINES_MAX {
            said.left_out += 1;
            return None;
        }
        said.at.insert(peer, now);
        Some(std::mem::take(&mut said.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_address_is_named_once_a_minute_and_a_flood_seldom() {
        let hush = Hush::default();
        let ip = |number: u32| IpAddr::from(std::net::Ipv4Addr::from(number));
        assert_eq!(hush.may_say(ip(1)), Some(0));
        assert_eq!(hush.may_say(ip(1)), None);
        assert_eq!(hush.may_say(ip(2)), Some(1), "what was left out is counted");
        tokio::time::advance(MINUTE).await;
        assert_eq!(hush.may_say(ip(1)), Some(0));
        let said = (2..10_000).filter(|number| hush.may_say(ip(*number)).is_some()).count();
        assert_eq!(said, LINES_MAX - 1);
        assert_eq!(hush.0.lock().unwrap().at.len(), LINES_MAX);
        tokio::time::advance(MINUTE).await;
        assert_eq!(hush.may_say(ip(1)), Some(9_998 - 19));
    }
}
