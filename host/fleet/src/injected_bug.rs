//! Injected bugs: each switches off one rule of the core, so that the simulator can prove that it detects the
//! bug. None is ever enabled outside of a simulation.

/// A rule that is switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum InjectedBug {
    /// Deletions name no UID.
    NoUid,
    /// Reserved ids are not read back from the ledger.
    IdsInMemory,
    /// Ids are used before their reservation is written.
    CreateBeforeReserve,
    /// Creates that were sent do not count until they are seen.
    NoExpectations,
    /// A pod with a taken name is treated as ours.
    TakenIsOurs,
    /// Pods that are missing from a complete list are kept.
    MissingIsKept,
    /// Executors that are leaving count as available.
    FloorOverLeaving,
    /// Silence counts from before this host's start.
    NoGrace,
    /// The loss of leadership is ignored.
    DeposedActs,
    /// A pick that was not offered is rolled anyway.
    PicksUnchecked,
    /// Removals by Rollcall count as failures.
    RemovalsAreFailures,
    /// A loss is settled each time it is reported.
    SettledTwice,
    /// A create with unknown outcome gives up its place at once.
    LateCreateForgotten,
    /// Paused fleets are changed.
    PauseIgnored,
    /// There is no rate limit.
    NoRateLimit,
    /// Lists that are older than the known state are accepted.
    OldListBelieved,
    /// A create with unknown outcome is sent again under its id.
    CreateRepeated,
    /// A verdict is acted on before it is recorded.
    ActBeforeRecord,
    /// All leaders use the same writer number in the ledger.
    LeadersAlike,
    /// Only the pod's phase says that an executor has ended.
    EndedUnseen,
    /// An executor whose pod is Pending again stays available.
    PendingAgainUnseen,
    /// A gated pod times out like any other.
    GatedIsLate,
    /// Executors that are killed with their node are failures.
    ReclaimsAreFailures,
    /// Executors that end with the driver's container are failures.
    DriverEndsAreFailures,
    /// Candidates are ordered by id.
    CandidatesUnsorted,
    /// Outdated counters are accepted for roll decisions.
    OldCountersBelieved,
    /// Heartbeats that may be lost on our side excuse no silence.
    DeafnessIgnored,
    /// A standstill of the host excuses no silence.
    StandstillIgnored,
    /// A loss by silence is final, even if the executor is heard before it is recorded.
    SilenceStands,
    /// A fleet whose ledger is refused continues.
    ParkedActs,
    /// Every stored ledger is accepted.
    LedgerUnchecked,
    /// A view is fresh when a list is answered, even while its watch is broken.
    BrokenIsFresh,
    /// A fleet that begins while its watch is down is not told so.
    BeginsFresh,
    /// A driver that was not found is not looked for again.
    DriverSoughtOnce,
    /// Fleets begin on a host that does not lead.
    StandbyBegins,
    /// What was meant for a life that has ended is told to the fleet's next life.
    EndedLifeTold,
    /// An application id means the same application in every namespace.
    NamespacesAlike,
    /// Only one fleet of a namespace is told that the watch is broken.
    BreakTellsOne,
    /// New executors are told the address that the driver had first.
    MoveUntold,
    /// Another driver pod under the same name is taken for the same one.
    DriversAlike,
    /// An answer about an earlier driver pod replaces the later one.
    OldDriverBelieved,
    /// An invalid document replaces a valid one.
    RefusedInForce,
    /// A document is in force before it is known whether it is valid.
    PendingInForce,
}

impl InjectedBug {
    /// All variants, in the order of their declaration.
    pub const ALL: [InjectedBug; 43] = [
        InjectedBug::NoUid,
        InjectedBug::IdsInMemory,
        InjectedBug::CreateBeforeReserve,
        InjectedBug::NoExpectations,
        InjectedBug::TakenIsOurs,
        InjectedBug::MissingIsKept,
        InjectedBug::FloorOverLeaving,
        InjectedBug::NoGrace,
        InjectedBug::DeposedActs,
        InjectedBug::PicksUnchecked,
        InjectedBug::RemovalsAreFailures,
        InjectedBug::SettledTwice,
        InjectedBug::LateCreateForgotten,
        InjectedBug::PauseIgnored,
        InjectedBug::NoRateLimit,
        InjectedBug::OldListBelieved,
        InjectedBug::CreateRepeated,
        InjectedBug::ActBeforeRecord,
        InjectedBug::LeadersAlike,
        InjectedBug::EndedUnseen,
        InjectedBug::PendingAgainUnseen,
        InjectedBug::GatedIsLate,
        InjectedBug::ReclaimsAreFailures,
        InjectedBug::DriverEndsAreFailures,
        InjectedBug::CandidatesUnsorted,
        InjectedBug::OldCountersBelieved,
        InjectedBug::DeafnessIgnored,
        InjectedBug::StandstillIgnored,
        InjectedBug::SilenceStands,
        InjectedBug::ParkedActs,
        InjectedBug::LedgerUnchecked,
        InjectedBug::BrokenIsFresh,
        InjectedBug::BeginsFresh,
        InjectedBug::DriverSoughtOnce,
        InjectedBug::StandbyBegins,
        InjectedBug::EndedLifeTold,
        InjectedBug::NamespacesAlike,
        InjectedBug::BreakTellsOne,
        InjectedBug::MoveUntold,
        InjectedBug::DriversAlike,
        InjectedBug::OldDriverBelieved,
        InjectedBug::RefusedInForce,
        InjectedBug::PendingInForce,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            InjectedBug::NoUid => "no-uid",
            InjectedBug::IdsInMemory => "ids-in-memory",
            InjectedBug::CreateBeforeReserve => "create-before-reserve",
            InjectedBug::NoExpectations => "no-expectations",
            InjectedBug::TakenIsOurs => "taken-is-ours",
            InjectedBug::MissingIsKept => "missing-is-kept",
            InjectedBug::FloorOverLeaving => "floor-over-leaving",
            InjectedBug::NoGrace => "no-grace",
            InjectedBug::DeposedActs => "deposed-acts",
            InjectedBug::PicksUnchecked => "picks-unchecked",
            InjectedBug::RemovalsAreFailures => "removals-are-failures",
            InjectedBug::SettledTwice => "settled-twice",
            InjectedBug::LateCreateForgotten => "late-create-forgotten",
            InjectedBug::PauseIgnored => "pause-ignored",
            InjectedBug::NoRateLimit => "no-rate-limit",
            InjectedBug::OldListBelieved => "old-list-believed",
            InjectedBug::CreateRepeated => "create-repeated",
            InjectedBug::ActBeforeRecord => "act-before-record",
            InjectedBug::LeadersAlike => "leaders-alike",
            InjectedBug::EndedUnseen => "ended-unseen",
            InjectedBug::PendingAgainUnseen => "pending-again-unseen",
            InjectedBug::GatedIsLate => "gated-is-late",
            InjectedBug::ReclaimsAreFailures => "reclaims-are-failures",
            InjectedBug::DriverEndsAreFailures => "driver-ends-are-failures",
            InjectedBug::CandidatesUnsorted => "candidates-unsorted",
            InjectedBug::OldCountersBelieved => "old-counters-believed",
            InjectedBug::DeafnessIgnored => "deafness-ignored",
            InjectedBug::StandstillIgnored => "standstill-ignored",
            InjectedBug::SilenceStands => "silence-stands",
            InjectedBug::ParkedActs => "parked-acts",
            InjectedBug::LedgerUnchecked => "ledger-unchecked",
            InjectedBug::BrokenIsFresh => "broken-is-fresh",
            InjectedBug::BeginsFresh => "begins-fresh",
            InjectedBug::DriverSoughtOnce => "driver-sought-once",
            InjectedBug::StandbyBegins => "standby-begins",
            InjectedBug::EndedLifeTold => "ended-life-told",
            InjectedBug::NamespacesAlike => "namespaces-alike",
            InjectedBug::BreakTellsOne => "break-tells-one",
            InjectedBug::MoveUntold => "move-untold",
            InjectedBug::DriversAlike => "drivers-alike",
            InjectedBug::OldDriverBelieved => "old-driver-believed",
            InjectedBug::RefusedInForce => "refused-in-force",
            InjectedBug::PendingInForce => "pending-in-force",
        }
    }
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
