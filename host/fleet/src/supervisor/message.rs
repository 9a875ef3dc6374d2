//! What a host and its supervisor say to each other.

use super::document::Judged;
use crate::action::Action;
use crate::election::{ElectionAction, ElectionEvent};
use crate::event::{Command, Event, Relist};
use crate::id::{ActionId, CommandId};
use crate::identity::Claim;
use crate::observed::DriverPod;

/// The action number of the supervisor's own lists, for hosts that send them as actions. A core counts from 1.
pub const OWN_LIST: ActionId = ActionId(0);

/// What a host tells its supervisor. Like [`Event`], an input may come late, twice, or never.
#[derive(Debug)]
pub enum Input {
    /// [`Supervisor::deadline`](super::Supervisor::deadline) has come, or the loop ran once.
    Deadline,
    /// A request about the Lease was answered, or this host shuts down.
    Election(ElectionEvent),
    /// All documents.
    Documents(Vec<Judged>),
    /// The watch of a namespace's pods delivers all changes from now on.
    WatchStarted {
        namespace: String,
    },
    WatchBroken {
        namespace: String,
    },
    /// A driver's pod was created, changed or deleted, according to the watch.
    Driver {
        namespace: String,
        driver: DriverPod,
    },
    /// The answer to [`Output::FindDriver`]; the error says why there is no answer.
    DriverFound {
        fleet: String,
        namespace: String,
        pod: String,
        found: Result<Option<DriverPod>, String>,
    },
    /// The answer to [`Output::List`]; `None`: it failed.
    Listed {
        life: u64,
        list: Option<Relist>,
    },
    /// An event for one life of a fleet.
    Fleet {
        life: u64,
        event: Event,
    },
    Command {
        fleet: String,
        command: CommandId,
        verb: Command,
    },
}

/// What a host does, in this order.
#[derive(Debug, PartialEq)]
pub enum Output {
    /// Send this request about the Lease, or begin or stop to lead.
    Election(ElectionAction),
    /// Read this pod, and answer with [`Input::DriverFound`].
    FindDriver {
        fleet: String,
        namespace: String,
        pod: String,
    },
    /// Watch the pods of this namespace from now on.
    Watch {
        namespace: String,
    },
    /// List the pods of this life's application, and answer with [`Input::Listed`].
    List {
        life: u64,
        known: u64,
    },
    /// A life begins: its heartbeats are accepted, and its actions carried out, as the document says.
    Begin {
        life: u64,
        fleet: String,
        version: u64,
        application_id: String,
        driver: DriverPod,
        claim: Claim,
    },
    /// The same life with another document, or with a driver that has another address.
    Place {
        life: u64,
        fleet: String,
        version: u64,
        driver: DriverPod,
        claim: Claim,
    },
    /// The life has ended; what is in flight for it is of no interest.
    End {
        life: u64,
        fleet: String,
    },
    /// From now on, pods of this life must not be changed, also by what was decided before; or they may be changed again.
    Still {
        life: u64,
        still: bool,
    },
    Act {
        life: u64,
        action: Action,
    },
    /// The command could not be given to a fleet.
    NotCommanded {
        command: CommandId,
        why: NotCommanded,
    },
    /// This process did nothing for so long; the silence of executors is counted from now.
    StoodStill {
        stood_ms: u64,
    },
    /// Something to tell people.
    Tell {
        fleet: String,
        news: News,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotCommanded {
    NoSuchFleet,
    NotLeading,
    /// There is no core yet, for this reason.
    NoDriver(String),
}

/// Changes of a fleet's life, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// No document names it any more.
    Removed,
    /// Another document is in force, or its first one.
    InForce {
        version: u64,
    },
    /// Its newest document is invalid, and an earlier one stays in force.
    Refused {
        problems: Vec<String>,
    },
    /// Another driver pod: another application begins.
    AnotherDriver,
    Began {
        application_id: String,
    },
    /// There is no core, for this reason.
    Waits(String),
    /// Another fleet has what this one claims.
    GivesWay(String),
    /// This one has what another fleet claims.
    Contested(String),
    /// The new document or driver cannot be used to create executors; they are created as before.
    CreatesAsBefore(String),
    /// Its heartbeats cannot be attributed.
    Ambiguous(String),
}

/// An event that a fleet was told, for the simulator's checkers.
#[cfg(feature = "injected-bugs")]
#[derive(Clone, Debug)]
pub struct Told {
    pub life: u64,
    pub event: Event,
    /// The number of outputs of the same step that came before.
    pub before: usize,
}
