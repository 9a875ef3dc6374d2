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
        /// The namespace whose pods are watched.
        namespace: String,
    },
    /// The watch of a namespace's pods delivers nothing any more, until it starts again.
    WatchBroken {
        /// The namespace whose pods are watched.
        namespace: String,
    },
    /// A driver's pod was created, changed or deleted, according to the watch.
    Driver {
        /// `metadata.namespace` of the pod.
        namespace: String,
        /// Its state; after its deletion, the last one, as not live.
        driver: DriverPod,
    },
    /// The answer to [`Output::FindDriver`].
    DriverFound {
        /// The fleet for which the pod was looked for.
        fleet: String,
        /// The namespace in which it was looked for.
        namespace: String,
        /// The name that was looked for. If the document names another pod by now, the answer is ignored.
        pod: String,
        /// The pod. `Ok(None)`: it does not exist. The error says why there is no answer.
        found: Result<Option<DriverPod>, String>,
    },
    /// The answer to [`Output::List`].
    Listed {
        /// The life for which the list was asked.
        life: u64,
        /// The list. `None`: it failed, and is asked for again after a while.
        list: Option<Relist>,
    },
    /// An event for one life of a fleet.
    Fleet {
        /// The life that the event is for. If it has ended, the event is discarded.
        life: u64,
        /// What its core is told.
        event: Event,
    },
    /// An operator's command. Answered by a reply in [`Output::Act`], or by [`Output::NotCommanded`].
    Command {
        /// The fleet that it is for: `NAMESPACE/NAME`.
        fleet: String,
        /// The host's number for it, which the reply carries.
        command: CommandId,
        /// What the operator requests.
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
        /// The fleet that needs it.
        fleet: String,
        /// `metadata.namespace` of the pod.
        namespace: String,
        /// `metadata.name` of the pod, from `spec.driver.podName`.
        pod: String,
    },
    /// Watch the pods of this namespace from now on.
    Watch {
        /// Each namespace is named once in a process.
        namespace: String,
    },
    /// List the pods of this life's application, and answer with [`Input::Listed`].
    List {
        /// The life that needs the list.
        life: u64,
        /// The newest revision that its core knows. It comes back with the list.
        known: u64,
    },
    /// A life begins: its heartbeats are accepted, and its actions carried out, as the document says.
    Begin {
        /// The life's number, unique in a process.
        life: u64,
        /// The fleet: `NAMESPACE/NAME`.
        fleet: String,
        /// The version of the document in force.
        version: u64,
        /// Spark's application id, from the document or the driver's pod.
        application_id: String,
        /// The driver's pod, with whose UID and address executors are created.
        driver: DriverPod,
        /// The fleet's claim to the names of its heartbeats.
        claim: Claim,
    },
    /// The same life with another document, or with a driver that has another address.
    Place {
        /// The life, which goes on.
        life: u64,
        /// The fleet: `NAMESPACE/NAME`.
        fleet: String,
        /// The version of the document in force.
        version: u64,
        /// The driver's pod as it is now.
        driver: DriverPod,
        /// The fleet's claim to the names of its heartbeats.
        claim: Claim,
    },
    /// The life has ended; what is in flight for it is of no interest.
    End {
        /// The life that has ended.
        life: u64,
        /// The fleet, `NAMESPACE/NAME`; another life of it may follow.
        fleet: String,
    },
    /// From now on, pods of this life must not be changed, also by what was decided before; or they may be changed again.
    Still {
        /// The life whose pods are meant.
        life: u64,
        /// True: no pod may be changed. False: pods may be changed again.
        still: bool,
    },
    /// Carry out an action of a life's core.
    Act {
        /// The life to which its outcome is reported.
        life: u64,
        /// The action. It is never a `CheckLease`: the supervisor asks its election.
        action: Action,
    },
    /// The command could not be given to a fleet.
    NotCommanded {
        /// The command that is answered.
        command: CommandId,
        /// What to tell the operator.
        why: NotCommanded,
    },
    /// This process did nothing for so long; the silence of executors is counted from now.
    StoodStill {
        /// How long the loop did not run.
        stood_ms: u64,
    },
    /// Something to tell people.
    Tell {
        /// The fleet that the news is about.
        fleet: String,
        /// What changed.
        news: News,
    },
}

/// Why a command reached no fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotCommanded {
    /// No document has this name.
    NoSuchFleet,
    /// This host does not lead, and so has no cores.
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
        /// The version of that document.
        version: u64,
    },
    /// Its newest document is invalid, and an earlier one stays in force.
    Refused {
        /// Why it is invalid.
        problems: Vec<String>,
    },
    /// Another driver pod: another application begins.
    AnotherDriver,
    /// A life begins.
    Began {
        /// Spark's application id.
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
    /// The life that was told.
    pub life: u64,
    /// What it was told.
    pub event: Event,
    /// The number of outputs of the same step that came before.
    pub before: usize,
}
