//! Planted bugs: each switches off one rule of the core, so that the simulator can show that it would
//! notice. None is ever on outside of a simulation.

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
    /// A name that is taken is taken for ours.
    TakenIsOurs,
    /// Pods that are missing from a complete list are kept.
    MissingIsKept,
    /// Executors that are leaving count as available.
    FloorOverLeaving,
    /// Silence counts from before this host's start.
    NoGrace,
    /// The loss of leadership is not heeded.
    DeposedActs,
    /// A pick that was not offered is rolled all the same.
    PicksUnchecked,
    /// Removals of ours count as failures.
    RemovalsAreFailures,
    /// A loss is settled each time that it is reported.
    SettledTwice,
    /// A create in doubt gives up its place at once.
    LateCreateForgotten,
    /// Paused fleets are changed.
    PauseIgnored,
    /// There is no rate limit.
    NoRateLimit,
    /// Lists from the past are believed.
    OldListBelieved,
    /// A create in doubt is sent again under its id.
    CreateRepeated,
    /// What a verdict is acted on before it is recorded.
    ActBeforeRecord,
    /// All leaders sign the ledger alike.
    LeadersAlike,
    /// Only the pod's phase says that an executor has ended.
    EndedUnseen,
    /// An executor whose pod is Pending again stays available.
    PendingAgainUnseen,
    /// A pod that waits for admission is late like any other.
    GatedIsLate,
    /// Executors that their node takes along are failures.
    ReclaimsAreFailures,
    /// Executors that end with the driver's container are failures.
    DriverEndsAreFailures,
    /// Candidates stand in the order of their ids.
    CandidatesUnsorted,
    /// Counters of long ago are good enough to roll by.
    OldCountersBelieved,
    /// Signs of life that may be lost on our side excuse no silence.
    DeafnessIgnored,
    /// A standstill of the host excuses no silence.
    StandstillIgnored,
    /// A loss by silence stands, also when the executor speaks before it is written down.
    SilenceStands,
    /// A fleet whose ledger is refused goes on.
    ParkedActs,
    /// Whatever the ledger says is believed.
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
