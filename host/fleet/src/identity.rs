//! Which application a heartbeat names, and which fleet may have that name.
//!
//! Heartbeats carry names only: an application id, or the head of a Graphite metric. Any user may give a driver's pod
//! the label of another application, so two fleets can claim one name, and only one can have it. The better [`Claim`]
//! wins. Its order is the same after every restart and does not depend on the order of arrival.

use std::fmt;

use crate::id::{IdRange, Uid};

/// Maximum bytes of an application id, a namespace, a prefix or a column's name.
pub const NAME_MAX: usize = 253;

/// Is this a valid application id, prefix or column name?
pub fn is_name(value: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    // Dots alone would be a parent directory in a URL.
    let dots = value.bytes().all(|byte| byte == b'.');
    !dots && value.len() <= NAME_MAX && value.bytes().all(plain)
}

/// Is this a valid `spark.metrics.namespace`? Application names are used for it, and they are free text.
pub fn is_namespace(value: &str) -> bool {
    value.len() <= NAME_MAX && !value.trim().is_empty() && !value.chars().any(char::is_control)
}

/// The head of a fleet's metric names, before the dot and the executor id, as Spark's GraphiteSink writes it.
pub fn head(prefix: Option<&str>, namespace: &str) -> String {
    let joined = match prefix {
        Some(prefix) => format!("{prefix}.{namespace}"),
        None => namespace.to_owned(),
    };
    // `GraphiteSanitize`: trimmed, and one dash for each run of white space. Trimmed only at the front, because the
    // name continues after it.
    let mut head = String::with_capacity(joined.len());
    let mut space = false;
    for c in joined.trim_start_matches(|c: char| c <= ' ').chars() {
        let is_space = matches!(c, ' ' | '\t' | '\n' | '\u{b}' | '\u{c}' | '\r');
        if !is_space {
            head.push(c);
        } else if !space {
            head.push('-');
        }
        space = is_space;
    }
    head
}

/// The names of a fleet's heartbeats.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The Kubernetes namespace of its pods. Application ids are unique within a namespace.
    pub namespace: String,
    /// Spark's application id. Another namespace may have the same.
    pub application_id: String,
    /// The ids of its executors. Another fleet of the application may have others.
    pub ids: IdRange,
    /// [`head`] of its metric names.
    pub head: String,
    /// Metrics are accepted only from the addresses of the fleet's pods.
    pub check_peer: bool,
}

impl Identity {
    /// What only one of the two fleets can have; `other` is the fleet of that name. The application's executor ids are
    /// unique in its namespace, because labels with them identify the executors' pods. A head is unique only among fleets that accept
    /// metrics from any address: all others are distinguished by their pods' addresses.
    pub fn contest(&self, fleet: &str, other: &Identity) -> Option<Contest> {
        if (&other.namespace, &other.application_id) == (&self.namespace, &self.application_id) {
            let contest = || Contest::Application { id: self.application_id.clone(), fleet: fleet.into() };
            return self.ids.overlaps(other.ids).then(contest);
        }
        let shared = other.head == self.head && !other.check_peer && !self.check_peer;
        shared.then(|| Contest::Head { head: self.head.clone(), fleet: fleet.into() })
    }
}

/// How strong a fleet's claim to its names is: an id from a document takes precedence over one from a label, and an
/// older driver pod over a younger one. A fleet that is already registered has no advantage, because after a restart no
/// fleet is. Pods of the same age are ordered by UID, and two documents that name one driver by the names of their
/// fleets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// The id comes from `spec.applicationId` and not from the label of the driver's pod.
    pub documented: bool,
    /// When the driver's pod was created.
    pub since_ms: i64,
    /// UID of the driver's pod. `None`: not known; it precedes every UID.
    pub driver: Option<Uid>,
    /// Two documents may name the same driver.
    pub fleet: String,
}

impl Claim {
    /// Is this claim better than the other? Of two equal claims neither is.
    pub fn outranks(&self, other: &Claim) -> bool {
        self.rank() < other.rank()
    }

    /// The smallest is the best claim.
    pub fn rank(&self) -> (bool, i64, Option<&Uid>, &str) {
        (!self.documented, self.since_ms, self.driver.as_ref(), &self.fleet)
    }

    /// What this claim has that the other lacks.
    pub fn advantage(&self, other: &Claim) -> &'static str {
        if self.documented != other.documented {
            "has the id from its document, and not from a label"
        } else if self.since_ms != other.since_ms {
            "has the older driver pod"
        } else if self.driver == other.driver {
            "has the same driver, and the name that comes first"
        } else {
            "has the driver pod with the lesser UID"
        }
    }
}

/// What only one of two fleets can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contest {
    /// An application id, within one namespace.
    Application {
        /// The id that both claim.
        id: String,
        /// The other fleet.
        fleet: Box<str>,
    },
    /// The beginning of metric names, as both accept metrics from any address.
    Head {
        /// [`head`] of both fleets' metric names.
        head: String,
        /// The other fleet.
        fleet: Box<str>,
    },
}

impl Contest {
    /// The same conflict, seen from the other fleet.
    pub fn with(self, name: &str) -> Contest {
        let fleet = name.into();
        match self {
            Contest::Application { id, .. } => Contest::Application { id, fleet },
            Contest::Head { head, .. } => Contest::Head { head, fleet },
        }
    }

    pub(crate) fn what(&self) -> String {
        match self {
            Contest::Application { id, .. } => format!("application id {id:?}"),
            Contest::Head { head, .. } => format!("metrics that begin with {head:?}"),
        }
    }
}

impl fmt::Display for Contest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Contest::Application { id, fleet } => write!(
                f,
                "application id {id:?} is also that of fleet {fleet} in the same namespace; an application has one \
                 fleet, or fleets whose executor ids differ (spec.firstExecutorId)"
            ),
            Contest::Head { head, fleet } => write!(
                f,
                "metrics of fleet {fleet} begin with {head:?} as well, and both take them from any address: \
                 {SHARED_REMEDY}"
            ),
        }
    }
}

/// The remedy if two fleets have the same names.
pub const SHARED_REMEDY: &str = "leave heartbeat.checkPeer: true in both, so that their pods' addresses tell them \
                                 apart, or give one application another spark.metrics.namespace or sink prefix";
