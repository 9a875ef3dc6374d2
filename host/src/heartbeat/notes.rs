//! Notes of the heartbeat sources, for people: whose heartbeats arrive, which are rejected, and what is wrong with a
//! driver.
//!
//! Any host may send anything, so all notes are bounded: the last trouble of each kind for each fleet, one unknown name
//! for all senders together, and a log that names a sender once.

use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fleet::id::ExecutorId;
use tokio::time::Instant;

/// Notes about one fleet, from one driver's pod to the next.
#[derive(Debug, Default)]
pub struct Notes(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    heard_at: Option<Instant>,
    troubles: [Option<Trouble>; KINDS],
    driver: Option<DriverTrouble>,
    contested: Option<(Box<str>, Instant)>,
}

/// Why a message is not a heartbeat of the fleet.
#[derive(Clone, Debug, PartialEq)]
pub struct Trouble {
    pub why: Why,
    pub peer: IpAddr,
    pub at: Instant,
}

/// Ordered by how well they explain silence.
#[derive(Clone, Debug, PartialEq)]
pub enum Why {
    /// Names begin with this head instead of the fleet's. From an address of one of its pods.
    UnknownApplication(Head),
    /// The executor's pod has another address.
    WrongPeer { executor: ExecutorId, pod_ip: IpAddr },
    /// The executor's pod has no address yet that could identify it.
    NoAddress { executor: ExecutorId },
    /// Several fleets have such names, and none of them has a pod of this executor with that address.
    NoFleetsPod { executor: ExecutorId, fleets: Box<str> },
    /// Several fleets have such names, and more than one has a pod of this executor with that address.
    SeveralFleets { executor: ExecutorId, fleets: Box<str> },
    /// The fleet has no pod for this executor.
    UnknownExecutor { executor: ExecutorId },
    /// Malformed Graphite lines from an address of one of its pods.
    Malformed { line: Box<str>, why: Box<str> },
    /// Connections from an address of one of its pods were rejected.
    TooManyConnections,
}

const KINDS: usize = 8;

impl Why {
    /// Can it resolve itself once the pods' state is known? The first lines sometimes arrive earlier.
    pub fn passes(&self) -> bool {
        match self {
            Why::NoAddress { .. }
            | Why::NoFleetsPod { .. }
            | Why::UnknownExecutor { .. }
            | Why::TooManyConnections => true,
            Why::UnknownApplication(_)
            | Why::WrongPeer { .. }
            | Why::SeveralFleets { .. }
            | Why::Malformed { .. } => false,
        }
    }

    fn names_executor(&self) -> bool {
        match self {
            Why::UnknownApplication(head) => head.executor,
            Why::WrongPeer { .. }
            | Why::NoAddress { .. }
            | Why::NoFleetsPod { .. }
            | Why::SeveralFleets { .. }
            | Why::UnknownExecutor { .. } => true,
            Why::Malformed { .. } | Why::TooManyConnections => false,
        }
    }

    fn place(&self) -> usize {
        match self {
            Why::UnknownApplication(_) => 0,
            Why::WrongPeer { .. } => 1,
            Why::NoAddress { .. } => 2,
            Why::NoFleetsPod { .. } => 3,
            Why::SeveralFleets { .. } => 4,
            Why::UnknownExecutor { .. } => 5,
            Why::Malformed { .. } => 6,
            Why::TooManyConnections => 7,
        }
    }
}

/// How long an unknown name with an executor id is kept instead of one without.
const REPORT_KEPT: Duration = Duration::from_secs(60);

/// The beginning of an unknown name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The part before the executor id, or if there is none, before the first dot.
    pub head: Box<str>,
    /// It has an executor id.
    pub executor: bool,
    /// The name, or its beginning.
    pub name: Box<str>,
}

/// Why the driver's REST API is unusable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverTrouble {
    /// CamelCase, for instance `NotFound`.
    pub code: &'static str,
    /// With the URL and the remedy.
    pub message: String,
    pub since: Instant,
    /// A starting driver fails in this way, too.
    pub may_be_starting: bool,
}

impl Notes {
    /// A heartbeat of an executor of the fleet arrived.
    pub fn heard(&self, now: Instant) {
        self.lock().heard_at = Some(now);
    }

    pub fn heard_at(&self) -> Option<Instant> {
        self.lock().heard_at
    }

    pub(super) fn trouble(&self, why: Why, peer: IpAddr, at: Instant) {
        let place = &mut self.lock().troubles[why.place()];
        // A report of Spark's explains more than other input from pods.
        let known = |trouble: &Trouble| trouble.why.names_executor() && at - trouble.at < REPORT_KEPT;
        if why.names_executor() || !place.as_ref().is_some_and(known) {
            *place = Some(Trouble { why, peer, at });
        }
    }

    /// The best explanation, among the notes since then, of why no heartbeats arrive.
    pub fn worst_since(&self, since: Instant) -> Option<Trouble> {
        self.lock().troubles.iter().flatten().find(|trouble| trouble.at >= since).cloned()
    }

    /// The start of the trouble is kept as long as the code stays the same.
    pub(super) fn driver(&self, trouble: Option<DriverTrouble>) {
        let mut inner = self.lock();
        let before = inner.driver.take();
        inner.driver = trouble.map(|trouble| match before {
            Some(before) if before.code == trouble.code => DriverTrouble { since: before.since, ..trouble },
            Some(_) | None => trouble,
        });
    }

    pub fn driver_trouble(&self) -> Option<DriverTrouble> {
        self.lock().driver.clone()
    }

    /// Another fleet claims what this one has, and waits: it repeats this note on every retry.
    pub fn contested(&self, message: String, now: Instant) {
        self.lock().contested = Some((message.into(), now));
    }

    /// The last such claim, if it was made since then.
    pub fn contested_since(&self, since: Instant) -> Option<Box<str>> {
        self.lock().contested.as_ref().filter(|(_, at)| *at >= since).map(|(message, _)| message.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.0)
    }
}

/// Notes about all senders together.
#[derive(Debug, Default)]
pub struct Overheard(Mutex<Heard>);

#[derive(Debug, Default)]
struct Heard {
    line_at: Option<Instant>,
    unknown: Option<(Head, IpAddr, Instant)>,
    log: Log,
}

impl Overheard {
    /// A Graphite line arrived, from any sender.
    pub(super) fn line(&self, now: Instant) {
        lock(&self.0).line_at = Some(now);
    }

    pub fn line_at(&self) -> Option<Instant> {
        lock(&self.0).line_at
    }

    pub(super) fn unknown(&self, head: Head, peer: IpAddr, now: Instant) {
        lock(&self.0).unknown = Some((head, peer, now));
    }

    /// The last name since then that matches no fleet and came from no fleet's pod.
    pub fn unknown_since(&self, since: Instant) -> Option<(Head, IpAddr)> {
        let heard = lock(&self.0);
        heard.unknown.as_ref().filter(|(.., at)| *at >= since).map(|(head, peer, _)| (head.clone(), *peer))
    }

    /// May this be logged about this sender?
    pub(super) fn may_log(&self, about: About, peer: IpAddr, now: Instant) -> bool {
        lock(&self.0).log.may(about, peer, now)
    }
}

/// The subject of a log line about a sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum About {
    Malformed,
    UnknownApplication,
}

/// Maximum senders that the log remembers. A forgotten sender may be logged again.
const LOGGED_MAX: usize = 1_024;
/// Lines at once, and then one per interval: floods from changing addresses do not fill the log.
const LOG_BURST: u32 = 20;
const LOG_PAUSE: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
struct Log {
    named: HashSet<(About, IpAddr)>,
    order: VecDeque<(About, IpAddr)>,
    /// When the burst is full again.
    full_at: Option<Instant>,
}

impl Log {
    fn may(&mut self, about: About, peer: IpAddr, now: Instant) -> bool {
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + LOG_PAUSE;
        if self.named.contains(&(about, peer)) || full_at - now > LOG_PAUSE * LOG_BURST {
            return false;
        }
        self.full_at = Some(full_at);
        self.named.insert((about, peer));
        self.order.push_back((about, peer));
        if self.order.len() > LOGGED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.named.remove(&oldest);
        }
        true
    }
}

/// Names of fleets, for people.
pub(super) fn names<'a>(fleets: impl Iterator<Item = &'a Arc<str>>) -> Box<str> {
    const SHOWN_MAX: usize = 5;
    let mut names: Vec<&str> = fleets.take(SHOWN_MAX + 1).map(|name| &**name).collect();
    if names.len() > SHOWN_MAX {
        names[SHOWN_MAX] = "…";
    }
    names.join(", ").into()
}

// The data behind these locks is consistent after every statement, so a panic elsewhere does not corrupt it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from(number).into()
    }

    #[test]
    fn the_log_names_a_sender_once_and_a_flood_slowly() {
        let mut log = Log::default();
        let start = Instant::now();
        assert!(log.may(About::Malformed, address(1), start));
        assert!(!log.may(About::Malformed, address(1), start));
        assert!(log.may(About::UnknownApplication, address(1), start), "another thing to say");
        let said = (2..10_000).filter(|peer| log.may(About::Malformed, address(*peer), start)).count();
        assert_eq!(said, LOG_BURST as usize - 2);
        assert!(!log.may(About::Malformed, address(10_000), start + LOG_PAUSE - Duration::from_millis(1)));
        assert!(log.may(About::Malformed, address(10_000), start + LOG_PAUSE), "it was not forgotten");
        let hours = (0..10_000_u32).map(|peer| (peer + 20_000, start + LOG_PAUSE * (peer + 2)));
        assert_eq!(hours.filter(|(peer, at)| log.may(About::Malformed, address(*peer), *at)).count(), 10_000);
        assert_eq!((log.named.len(), log.order.len()), (LOGGED_MAX, LOGGED_MAX));
    }

    #[test]
    fn the_best_explanation_is_the_freshest_of_the_first_kind() {
        let notes = Notes::default();
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        assert_eq!(notes.worst_since(start), None);
        notes.trouble(Why::TooManyConnections, address(1), at(5));
        let wrong = Why::WrongPeer { executor: ExecutorId(1), pod_ip: address(2) };
        notes.trouble(wrong.clone(), address(3), at(3));
        assert_eq!(notes.worst_since(at(3)).map(|trouble| trouble.why), Some(wrong));
        assert_eq!(notes.worst_since(at(4)).map(|trouble| trouble.why), Some(Why::TooManyConnections));
        assert_eq!(notes.worst_since(at(6)), None);
        let unknown = |name: &str, executor| {
            Why::UnknownApplication(Head { head: name.into(), executor, name: name.into() })
        };
        let shown = |why, s| {
            notes.trouble(why, address(1), at(s));
            match notes.worst_since(at(10)).map(|trouble| trouble.why) {
                Some(Why::UnknownApplication(head)) => head.head,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(&*shown(unknown("carbon", false), 10), "carbon");
        assert_eq!(&*shown(unknown("etl", true), 11), "etl");
        assert_eq!(&*shown(unknown("carbon", false), 12), "etl", "Spark's report says more");
        assert_eq!(&*shown(unknown("carbon", false), 71), "carbon");
    }
}
