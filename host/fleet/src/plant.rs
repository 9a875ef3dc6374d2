//! Planted bugs: each switches off one rule of the core, so that the simulator can prove that it detects the
//! bug. None is ever enabled outside of a simulation.

/// A rule that is switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plant {
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
}

impl Plant {
    pub const ALL: [Plant; 31] = [
        Plant::NoUid,
        Plant::IdsInMemory,
        Plant::CreateBeforeReserve,
        Plant::NoExpectations,
        Plant::TakenIsOurs,
        Plant::MissingIsKept,
        Plant::FloorOverLeaving,
        Plant::NoGrace,
        Plant::DeposedActs,
        Plant::PicksUnchecked,
        Plant::RemovalsAreFailures,
        Plant::SettledTwice,
        Plant::LateCreateForgotten,
        Plant::PauseIgnored,
        Plant::NoRateLimit,
        Plant::OldListBelieved,
        Plant::CreateRepeated,
        Plant::ActBeforeRecord,
        Plant::LeadersAlike,
        Plant::EndedUnseen,
        Plant::PendingAgainUnseen,
        Plant::GatedIsLate,
        Plant::ReclaimsAreFailures,
        Plant::DriverEndsAreFailures,
        Plant::CandidatesUnsorted,
        Plant::OldCountersBelieved,
        Plant::DeafnessIgnored,
        Plant::StandstillIgnored,
        Plant::SilenceStands,
        Plant::ParkedActs,
        Plant::LedgerUnchecked,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Plant::NoUid => "no-uid",
            Plant::IdsInMemory => "ids-in-memory",
            Plant::CreateBeforeReserve => "create-before-reserve",
            Plant::NoExpectations => "no-expectations",
            Plant::TakenIsOurs => "taken-is-ours",
            Plant::MissingIsKept => "missing-is-kept",
            Plant::FloorOverLeaving => "floor-over-leaving",
            Plant::NoGrace => "no-grace",
            Plant::DeposedActs => "deposed-acts",
            Plant::PicksUnchecked => "picks-unchecked",
            Plant::RemovalsAreFailures => "removals-are-failures",
            Plant::SettledTwice => "settled-twice",
            Plant::LateCreateForgotten => "late-create-forgotten",
            Plant::PauseIgnored => "pause-ignored",
            Plant::NoRateLimit => "no-rate-limit",
            Plant::OldListBelieved => "old-list-believed",
            Plant::CreateRepeated => "create-repeated",
            Plant::ActBeforeRecord => "act-before-record",
            Plant::LeadersAlike => "leaders-alike",
            Plant::EndedUnseen => "ended-unseen",
            Plant::PendingAgainUnseen => "pending-again-unseen",
            Plant::GatedIsLate => "gated-is-late",
            Plant::ReclaimsAreFailures => "reclaims-are-failures",
            Plant::DriverEndsAreFailures => "driver-ends-are-failures",
            Plant::CandidatesUnsorted => "candidates-unsorted",
            Plant::OldCountersBelieved => "old-counters-believed",
            Plant::DeafnessIgnored => "deafness-ignored",
            Plant::StandstillIgnored => "standstill-ignored",
            Plant::SilenceStands => "silence-stands",
            Plant::ParkedActs => "parked-acts",
            Plant::LedgerUnchecked => "ledger-unchecked",
        }
    }
}
