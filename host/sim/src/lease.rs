//! Who leads: a Lease object, taken and kept by compare and swap.
//!
//! Nobody compares clocks across machines. A host that does not hold the lease watches it change, and
//! takes it once it has not changed for the lease's length *on its own clock*; the holder renews, and
//! gives up well before anybody else could take it. Hosts that stand still break the second half, which
//! is why the ledger fences and not the lease.
//!
//! This is the whole of election in the simulator; the daemon's own machine can take its place.

use fleet::time::Instant;

/// `coordination.k8s.io/v1` Lease, as far as anybody looks at it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    pub holder: Option<u64>,
    pub version: u64,
}

pub const LEASE_MS: u64 = 15_000;
pub const RENEW_MS: u64 = 2_000;
/// Who could not renew for this long stops.
pub const RENEW_DEADLINE_MS: u64 = 10_000;

/// One host's side of it.
#[derive(Debug)]
pub struct Elector {
    me: u64,
    seen: Option<Lease>,
    changed: Instant,
    /// Since when the lease is known to be ours.
    renewed: Option<Instant>,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    Wait,
    /// Write ourselves over this version, and say how it went.
    Write(u64),
    /// We led, and do not any more.
    Lost,
}

impl Elector {
    pub fn new(me: u64) -> Elector {
        Elector { me, seen: None, changed: Instant::START, renewed: None }
    }

    pub fn leads(&self) -> bool {
        self.renewed.is_some()
    }

    /// Every [`RENEW_MS`], with the lease as it was read, if it could be.
    pub fn poll(&mut self, lease: Option<Lease>, now: Instant) -> Intent {
        if let Some(renewed) = self.renewed {
            let theirs = lease.is_some_and(|lease| lease.holder != Some(self.me));
            if theirs || now.since_ms(renewed) >= RENEW_DEADLINE_MS {
                return Intent::Lost;
            }
        }
        let Some(lease) = lease else { return Intent::Wait };
        if self.seen != Some(lease) {
            self.seen = Some(lease);
            self.changed = now;
        }
        let expired = now.since_ms(self.changed) >= LEASE_MS;
        if self.renewed.is_some() || lease.holder.is_none() || expired {
            Intent::Write(lease.version)
        } else {
            Intent::Wait
        }
    }

    /// The lease was written and is ours. Whether that is new.
    pub fn written(&mut self, lease: Lease, now: Instant) -> bool {
        self.seen = Some(lease);
        self.changed = now;
        self.renewed.replace(now).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_taken_when_it_stands_still_and_lost_when_it_cannot_be_renewed() {
        let at = Instant::from_ms;
        let mut second = Elector::new(2);
        let held = Lease { holder: Some(1), version: 5 };
        assert_eq!(second.poll(Some(held), at(1_000)), Intent::Wait);
        assert_eq!(second.poll(Some(held), at(15_999)), Intent::Wait);
        let renewed = Lease { version: 6, ..held };
        assert_eq!(second.poll(Some(renewed), at(16_000)), Intent::Wait, "it has changed");
        assert_eq!(second.poll(Some(renewed), at(31_000)), Intent::Write(6));
        let ours = Lease { holder: Some(2), version: 7 };
        assert!(second.written(ours, at(31_000)) && second.leads());
        assert_eq!(second.poll(None, at(40_999)), Intent::Wait);
        assert_eq!(second.poll(None, at(41_000)), Intent::Lost);
        assert_eq!(second.poll(Some(held), at(32_000)), Intent::Lost);
    }
}
