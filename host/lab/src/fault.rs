//! Every fault, by name.
//!
//! Each kind has a number from the fault catalogue, a word, and a *place* where it is drawn: at every request,
//! every second, every pod start. A run first draws its *swarm*: which kinds are on, and how strong. Rejected:
//! all faults at once with small probabilities. They mask each other, and a failure that needs three of the
//! same kind in a row and none of another never occurs.
//!
//! Not here, because at the boundary of the core they have no separate form:
//! - F16 a pod that was created and removed unseen needs no fault of its own: F9, F10 and F11 lead to it.
//! - F52 out of fuel, F54 refused memory and F55 garbage reach the core as the policy's fault, so F51
//!   stands for them; the sandbox's own tests tell them apart.
//! - F60 a missing policy at the start of a host is F59 plus F23.
//!
//! F68 to F74 are not in the catalogue: they come from other people's bug reports. F75 to F78 are not in it
//! either: they come from attacks on the daemon. F79 to F85 are what can happen to one fleet of several.
//!
//! F67 is not in the catalogue; it comes from the real API server. That tries a deletion first on the pod in
//! its watch cache. A pod that is not bound there needs no grace period, and that stays in the options when the
//! deletion is retried on the stored pod.

use crate::choices::Choices;

/// Where a fault is drawn, which determines the meaning of its strength.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At each request to the API server.
    Request,
    /// Each simulated second.
    Second,
    /// At each delivery of a watch.
    Watch,
    /// At each heartbeat.
    Beat,
    /// At each start of a pod.
    Pod,
    /// At each question to a policy.
    Ask,
}

macro_rules! faults {
    ($($kind:ident $number:literal $name:literal $place:ident $says:literal;)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault {
            $(#[doc = concat!($number, ": ", $says)] $kind,)*
        }

        impl Fault {
            pub const ALL: &[Fault] = &[$(Fault::$kind,)*];

            /// Its number in the catalogue.
            pub fn number(self) -> &'static str {
                match self { $(Fault::$kind => $number,)* }
            }

            pub fn name(self) -> &'static str {
                match self { $(Fault::$kind => $name,)* }
            }

            pub fn place(self) -> Place {
                match self { $(Fault::$kind => Place::$place,)* }
            }
        }
    };
}

faults! {
    RequestLost "F1" "request-lost" Request "never reaches the API server";
    Partitioned "F1" "partitioned" Second "a host reaches nothing for up to 40 s";
    AnswerLost "F2" "answer-lost" Request "applied, and the answer is lost";
    AnswerLate "F3" "answer-late" Request "applied, and the answer takes up to 20 s";
    AppliedLate "F3" "applied-late" Request "applied up to 60 s later";
    Reordered "F4" "reordered" Request "takes up to 5 s, so that later ones overtake it";
    Throttled "F5" "throttled" Request "429, with or without Retry-After";
    ServerError "F5" "server-error" Request "500, 503 or 504, applied or not";
    PermissionCut "F5" "permission-cut" Request "401 or 403";
    QuotaExceeded "F5" "quota-exceeded" Second "a quota below the target, for a while";
    WebhookRefuses "F5" "webhook-refuses" Request "422 from an admission webhook";
    SpuriousConflict "F5" "spurious-conflict" Request "409 to an eviction, because the pod changed under it again and again";
    LabelsStripped "F6" "labels-stripped" Request "a webhook takes a new pod's labels away";
    OwnerStripped "F6" "owner-stripped" Request "a webhook takes a new pod's owner away";
    SidecarInjected "F6" "sidecar-injected" Request "a webhook adds a container";
    NamespaceTerminating "F7" "namespace-terminating" Second "no pod can be created for a while";
    BudgetRefuses "F8" "budget-refuses" Second "a PodDisruptionBudget allows nothing for a while";
    BudgetsOverlap "F8" "budgets-overlap" Second "two PodDisruptionBudgets match: evictions answer 500";
    WatchCloses "F9" "watch-closes" Watch "the watch ends and starts again where it was";
    WatchHangs "F10" "watch-hangs" Watch "the watch says nothing any more";
    WatchExpires "F11" "watch-expires" Watch "410: everything is listed again";
    WatchErrors "F12" "watch-errors" Watch "an ERROR event that is not a 410";
    EventCut "F13" "event-cut" Watch "an event is cut in the middle of its JSON, and the events before it are delivered";
    EventDuplicated "F14" "event-duplicated" Watch "an event comes twice, the second time late";
    EventsCoalesced "F15" "events-coalesced" Watch "intermediate states are never seen";
    DeletionOutdated "F17" "deletion-outdated" Watch "DELETED carries an older state than was seen";
    ListExpires "F20" "list-expires" Request "a list expires between two of its pages";
    WatchRefused "F22" "watch-refused" Watch "a role may list for a while, and not watch";
    ListStale "F18" "list-stale" Watch "a watch starts again from a cache that lags";
    RelistBack "F19" "relist-back" Request "a complete list goes back in time";
    WatchLags "F21" "watch-lags" Second "what the watch tells is up to 60 s old";
    CrashBetween "F23" "crash-between" Request "the host dies before the request is sent";
    CrashAwaiting "F24" "crash-awaiting" Request "the host dies after the request is sent";
    CrashLoop "F25" "crash-loop" Second "the host dies at every few requests";
    Freeze "F26" "freeze" Second "the host stands still for longer than its lease";
    TwoLeaders "F27" "two-leaders" Second "another host takes the lease too early";
    LeaseDeleted "F27" "lease-deleted" Second "an operator deletes the lease";
    WallJumps "F28" "wall-jumps" Second "the wall clock jumps by up to two hours";
    TicksLate "F29" "ticks-late" Second "the host notices deadlines late for a while";
    LedgerConflict "F30" "ledger-conflict" Request "a write of the ledger is lost or conflicts";
    LedgerRestored "F31" "ledger-restored" Second "an operator restores an older ledger";
    LedgerDeleted "F31" "ledger-deleted" Second "an operator deletes the ledger";
    LedgerEdited "F32" "ledger-edited" Second "a newer version has added fields to the ledger";
    LedgerPatched "F75" "ledger-patched" Second "a tenant changes the ledger, and an operator resets it later";
    Unschedulable "F33" "unschedulable" Pod "Pending without end";
    ImageError "F34" "image-error" Pod "ImagePullBackOff without end";
    CrashAtStart "F35" "crash-at-start" Pod "exits within two seconds";
    OomKilled "F36" "oom-killed" Second "an executor exits with 137, OOMKilled";
    Exits "F36" "exits" Second "an executor exits with 1, 50, 52, 56, 134 or 0";
    Silent "F37" "silent" Pod "runs, and never sends a heartbeat";
    FallsSilent "F37" "falls-silent" Second "an executor sends no more heartbeats";
    Zombie "F39" "zombie" Second "an executor's pod is gone, and it still sends";
    NodeNotReady "F40" "node-not-ready" Second "a node is lost: taint eviction, then PodGC";
    NodePressure "F40" "node-pressure" Second "a kubelet evicts an executor";
    SpotReclaim "F41" "spot-reclaim" Second "30 % of the nodes' executors go at once";
    ZoneLost "F42" "zone-lost" Second "all nodes of a zone are lost";
    GraceLost "F67" "grace-lost" Request "a deletion of a pod that was just bound has no grace";
    SidecarOutlives "F68" "sidecar-outlives" Second "an executor ends, and a sidecar keeps its pod Running";
    PendingAgain "F69" "pending-again" Second "a pod that ran is Pending for a while";
    Gated "F70" "gated" Pod "a scheduling gate holds it for longer than a pod may be pending";
    NodeAnnounced "F71" "node-announced" Second "a node is announced to go, and goes with a SIGKILL, or stays after all";
    DriverRestarts "F72" "driver-restarts" Second "the driver's container ends and starts again; its executors exit";
    DriverMute "F73" "driver-mute" Second "the driver's REST API does not answer for a while";
    ReportPartial "F74" "report-partial" Second "the driver's REST API leaves out rows and counters for a while";
    TerminatingForever "F43" "terminating-forever" Pod "a finalizer that is never removed";
    DeletedByHuman "F44" "deleted-by-human" Second "kubectl delete pod";
    LabelsEdited "F45" "labels-edited" Second "a user removes an executor's labels";
    OwnerEdited "F45" "owner-edited" Second "a user removes an executor's owner";
    ForeignLabel "F46" "foreign-label" Second "a pod with our labels that is not ours";
    ForeignName "F46" "foreign-name" Second "a pod with the name of our next executor";
    DriverDies "F47" "driver-dies" Second "the driver's pod ends; everything it owns is collected";
    BlackHoleNode "F48" "black-hole-node" Second "a node on which every executor dies at once";
    BeatLost "F49" "beat-lost" Beat "a heartbeat is lost";
    BeatLate "F49" "beat-late" Beat "a heartbeat is late";
    BeatDuplicated "F49" "beat-duplicated" Beat "a heartbeat comes twice";
    BeatForged "F49" "beat-forged" Beat "a heartbeat of an executor that never was";
    DeafListener "F76" "deaf-listener" Second "every beat at a host's door is refused for a while, and the host knows";
    PartlyDeaf "F77" "partly-deaf" Second "the beats of some executors are turned away for a while, and the host knows that some are";
    FrozenFull "F78" "frozen-full" Second "the host stands still, and its sockets hold only some of the beats";
    BeatOutdated "F49" "beat-outdated" Beat "a heartbeat under the id and another UID";
    Herd "F50" "herd" Second "after a start of the host no heartbeat comes for a while";
    PolicyTraps "F51" "policy-traps" Ask "the policy traps, or exceeds its budget";
    PolicyLate "F53" "policy-late" Ask "the answer comes after the core's own deadline";
    PolicyForeign "F56" "policy-foreign" Ask "picks that were not offered, or twice";
    PolicyRollsAll "F57" "policy-rolls-all" Ask "roll everything";
    PolicyFlipFlops "F58" "policy-flip-flops" Ask "a verdict that changes each time, and is wrong";
    PolicyAbstains "F58" "policy-abstains" Ask "abstains, or stays undetermined";
    PolicyHostFault "F53" "policy-host-fault" Ask "no sandbox was free";
    PolicyRemoved "F59" "policy-removed" Second "the policies change under a running fleet";
    TargetChanges "F61" "target-changes" Second "the target changes";
    TargetToZero "F62" "target-to-zero" Second "the target goes to 0, and back";
    SpecContradicts "F63" "spec-contradicts" Second "a spec that contradicts itself";
    TemplateInvalid "F64" "template-invalid" Second "422 to every creation for a while";
    Paused "F66" "paused" Second "an operator pauses, and resumes";
    OperatorKills "F66" "operator-kills" Second "an operator kills executors";
    OperatorRolls "F66" "operator-rolls" Second "an operator asks for a roll";
    FleetRecreated "F65" "fleet-recreated" Second "a fleet's document is deleted and created again, and its driver perhaps too";
    DriverReplaced "F79" "driver-replaced" Second "a driver's pod ends, and another one gets its name";
    DriverMoves "F80" "driver-moves" Second "a driver's pod restarts with another address";
    DocumentRefused "F81" "document-refused" Second "a document is invalid for a reason that the core does not know";
    DocumentPending "F82" "document-pending" Second "of a document it is not known for a while whether it is valid";
    FleetHopeless "F83" "fleet-hopeless" Second "one fleet fails, and stays so when the faults are over";
    ClassEdited "F84" "class-edited" Second "a class is edited, and a driver that it matches is replaced at that moment";
    DriversLate "F85" "drivers-late" Second "hosts learn up to a minute late that a driver came or went";
}

impl Fault {
    fn index(self) -> usize {
        self as usize
    }

    /// Drawn in worlds with several fleets only, where they are about one fleet beside others.
    pub fn needs_fellows(self) -> bool {
        matches!(
            self,
            Fault::FleetRecreated
                | Fault::DriverReplaced
                | Fault::DriverMoves
                | Fault::DocumentRefused
                | Fault::DocumentPending
                | Fault::FleetHopeless
                | Fault::ClassEdited
                | Fault::DriversLate
        )
    }

    /// The possible strengths, in occurrences per thousand draws at its place. Seconds are many, and so are
    /// heartbeats; a run has some hundred requests.
    pub fn strengths(self) -> [u32; 3] {
        // Once is enough: it ends the fleet.
        if self == Fault::DriverDies {
            return [1, 1, 1];
        }
        // Each makes a new application.
        if matches!(self, Fault::FleetRecreated | Fault::DriverReplaced | Fault::ClassEdited) {
            return [1, 3, 10];
        }
        // Lists are rare.
        if matches!(self, Fault::ListStale | Fault::RelistBack) {
            return [100, 300, 600];
        }
        match self.place() {
            Place::Request => [20, 60, 200],
            Place::Second => [3, 10, 30],
            Place::Watch => [5, 20, 60],
            Place::Beat => [20, 100, 400],
            Place::Pod => [30, 100, 300],
            Place::Ask => [50, 200, 600],
        }
    }
}

/// How often each of the faults is on that need several fleets.
const FELLOWS_PERMILLE: u32 = 300;

/// Which faults are on, how strong, and how often each has fired.
#[derive(Clone, Debug)]
pub struct Swarm {
    permille: Vec<u32>,
    fired: Vec<u64>,
}

impl Swarm {
    /// No faults at all.
    pub fn calm() -> Swarm {
        Swarm { permille: vec![0; Fault::ALL.len()], fired: vec![0; Fault::ALL.len()] }
    }

    /// Each run has its own mixture: few kinds, some, or many.
    pub fn draw(choices: &mut Choices) -> Swarm {
        let mut swarm = Swarm::calm();
        let on_permille = [0, 60, 150, 300][usize::try_from(choices.below(4)).expect("below 4")];
        for fault in Fault::ALL.iter().filter(|fault| !fault.needs_fellows()) {
            swarm.draw_one(*fault, on_permille, choices);
        }
        swarm
    }

    /// The world has several fleets.
    pub fn draw_for_fellows(&mut self, choices: &mut Choices) {
        for fault in Fault::ALL.iter().filter(|fault| fault.needs_fellows()) {
            self.draw_one(*fault, FELLOWS_PERMILLE, choices);
        }
    }

    fn draw_one(&mut self, fault: Fault, on_permille: u32, choices: &mut Choices) {
        if choices.chance(on_permille) {
            let strengths = fault.strengths();
            self.permille[fault.index()] = *choices.pick(&strengths).expect("three strengths");
        }
    }

    /// Only these faults, for the whole run.
    pub fn only(faults: &[(Fault, u32)]) -> Swarm {
        let mut swarm = Swarm::calm();
        for (fault, permille) in faults {
            swarm.permille[fault.index()] = *permille;
        }
        swarm
    }

    pub fn heal(&mut self) {
        self.permille.fill(0);
    }

    pub fn is_on(&self, fault: Fault) -> bool {
        self.permille[fault.index()] > 0
    }

    /// The faults that are on, for reports.
    pub fn on(&self) -> impl Iterator<Item = (Fault, u32)> {
        Fault::ALL.iter().map(|fault| (*fault, self.permille[fault.index()])).filter(|(_, on)| *on > 0)
    }

    /// Does the fault happen now? Counts it if so.
    pub fn strikes(&mut self, fault: Fault, choices: &mut Choices) -> bool {
        let strikes = choices.chance(self.permille[fault.index()]);
        self.fired[fault.index()] += u64::from(strikes);
        strikes
    }

    pub fn fired(&self) -> impl Iterator<Item = (Fault, u64)> {
        Fault::ALL.iter().map(|fault| (*fault, self.fired[fault.index()]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_named_once_and_a_zero_tape_is_calm() {
        let mut names: Vec<_> = Fault::ALL.iter().map(|fault| fault.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Fault::ALL.len());
        assert!(Fault::ALL.iter().enumerate().all(|(at, fault)| fault.index() == at));
        assert_eq!(Swarm::draw(&mut Choices::from_bytes(&[])).on().count(), 0);
    }
}
