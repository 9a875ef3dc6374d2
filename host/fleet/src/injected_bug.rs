//! Injected bugs: each switches off one rule of the core, so that the simulator can prove that it detects the
//! bug. None is ever enabled outside of a simulation.

macro_rules! injected_bugs {
    ($($bug:ident = $name:literal: $rule:literal,)*) => {
        /// A rule that is switched off.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum InjectedBug {
            $(#[doc = $rule] $bug,)*
        }

        impl InjectedBug {
            /// All of them.
            pub const ALL: [InjectedBug; [$($name),*].len()] = [$(InjectedBug::$bug),*];

            /// The name on the command line.
            pub fn name(self) -> &'static str {
                match self {
                    $(InjectedBug::$bug => $name,)*
                }
            }
        }
    };
}

injected_bugs! {
    NoUid = "no-uid": "Deletions name no UID.",
    IdsInMemory = "ids-in-memory": "Reserved ids are not read back from the ledger.",
    CreateBeforeReserve = "create-before-reserve": "Ids are used before their reservation is written.",
    NoExpectations = "no-expectations": "Creates that were sent do not count until they are seen.",
    TakenIsOurs = "taken-is-ours": "A pod with a taken name is treated as ours.",
    MissingIsKept = "missing-is-kept": "Pods that are missing from a complete list are kept.",
    FloorOverLeaving = "floor-over-leaving": "Executors that are leaving count as available.",
    NoGrace = "no-grace": "Silence counts from before this host's start.",
    DeposedActs = "deposed-acts": "The loss of leadership is ignored.",
    PicksUnchecked = "picks-unchecked": "A pick that was not offered is rolled anyway.",
    RemovalsAreFailures = "removals-are-failures": "Removals by Rollcall count as failures.",
    SettledTwice = "settled-twice": "A loss is settled each time it is reported.",
    LateCreateForgotten = "late-create-forgotten": "An unknown create gives up its place at once.",
    PauseIgnored = "pause-ignored": "Paused fleets are changed.",
    NoRateLimit = "no-rate-limit": "There is no rate limit.",
    OldListBelieved = "old-list-believed": "Lists that are older than the known state are accepted.",
    CreateRepeated = "create-repeated": "A create with unknown outcome is sent again under its id.",
    ActBeforeRecord = "act-before-record": "A verdict is acted on before it is recorded.",
    LeadersAlike = "leaders-alike": "All leaders use the same writer number in the ledger.",
    EndedUnseen = "ended-unseen": "Only the pod's phase says that an executor has ended.",
    PendingAgainUnseen = "pending-again-unseen": "An executor whose pod is Pending again stays available.",
    GatedIsLate = "gated-is-late": "A gated pod times out like any other.",
    ReclaimsAreFailures = "reclaims-are-failures": "Executors that are killed with their node are failures.",
    DriverEndsAreFailures = "driver-ends-are-failures": "Executors that end with the driver are failures.",
    CandidatesUnsorted = "candidates-unsorted": "Candidates are ordered by id.",
    OldCountersBelieved = "old-counters-believed": "Outdated counters are accepted for roll decisions.",
    DeafnessIgnored = "deafness-ignored": "Heartbeats that may be lost on our side excuse no silence.",
    StandstillIgnored = "standstill-ignored": "A standstill of the host excuses no silence.",
    SilenceStands = "silence-stands": "A loss by silence is final, even if a heartbeat arrives in time.",
    ParkedActs = "parked-acts": "A fleet whose ledger is refused continues.",
    LedgerUnchecked = "ledger-unchecked": "Every stored ledger is accepted.",
    BrokenIsFresh = "broken-is-fresh": "A view is fresh when a list is answered, even without a watch.",
    BeginsFresh = "begins-fresh": "A fleet that begins while its watch is down is not told so.",
    DriverSoughtOnce = "driver-sought-once": "A driver that was not found is not looked for again.",
    StandbyBegins = "standby-begins": "Fleets begin on a host that does not lead.",
    EndedLifeTold = "ended-life-told": "What was meant for an ended life is told to the fleet's next life.",
    NamespacesAlike = "namespaces-alike": "An application id means the same application in every namespace.",
    BreakTellsOne = "break-tells-one": "Only one fleet of a namespace is told that the watch is broken.",
    MoveUntold = "move-untold": "New executors are told the address that the driver had first.",
    DriversAlike = "drivers-alike": "Another driver pod under the same name is taken for the same one.",
    OldDriverBelieved = "old-driver-believed": "An answer about an earlier driver pod replaces the later.",
    RefusedInForce = "refused-in-force": "An invalid document replaces a valid one.",
    PendingInForce = "pending-in-force": "A document is in force before it is known whether it is valid.",
}

/// The bug that is switched on, if any. What ships is built without the feature, and has none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bugs {
    #[cfg(feature = "injected-bugs")]
    on: Option<InjectedBug>,
}

impl Bugs {
    #[cfg(feature = "injected-bugs")]
    pub(crate) fn only(bug: InjectedBug) -> Bugs {
        Bugs { on: Some(bug) }
    }

    #[cfg(feature = "injected-bugs")]
    pub(crate) fn has(self, bug: InjectedBug) -> bool {
        self.on == Some(bug)
    }

    #[cfg(not(feature = "injected-bugs"))]
    pub(crate) const fn has(self, _: InjectedBug) -> bool {
        false
    }
}
