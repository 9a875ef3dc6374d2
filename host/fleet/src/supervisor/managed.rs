//! A fleet as the supervisor keeps it.

use super::document::{Document, Judged};
use crate::Fleet;
use crate::guardrail::Refusal;
use crate::id::{ExecutorId, Uid};
use crate::identity::{Claim, Identity};
use crate::injected_bug::{Bugs, InjectedBug};
use crate::observed::DriverPod;
use crate::snapshot::Explanation;
use crate::time::Instant;

/// One fleet: its document, and, once its driver's pod is known, its core.
#[derive(Debug)]
pub struct Managed {
    /// In force: the newest document, or the last valid one.
    pub(super) document: Document,
    /// The policies that existed when the document was accepted. One that has been removed since causes a fault on each
    /// call, and is no reason to have no executors.
    pub(super) policies: Vec<String>,
    pub(super) pending: Option<String>,
    /// The document was valid, or a core has begun with it.
    pub(super) good: bool,
    /// The newest document, if it is invalid and an earlier one was valid.
    pub(super) refused: Option<Judged>,
    pub(super) life: Option<Life>,
    /// Why there is no core, if there is none.
    pub(super) waits: String,
    pub(super) contested: bool,
    /// Its driver's pod was looked for, and does not exist.
    pub(super) looked: bool,
    pub(super) seeking: Seeking,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seeking {
    No,
    /// A look-up is in flight.
    Asked,
    /// The next look-up is due at this time.
    Due(Instant),
}

/// What became different.
pub(super) enum Followed {
    Nothing,
    /// The document is invalid, for these reasons; the one in force stays.
    Refused(Vec<String>),
    /// The document is in force. `moved`: the fleet begins again with it.
    InForce {
        version: u64,
        moved: bool,
    },
}

/// A fleet's core, from one driver pod to the next.
#[derive(Debug)]
pub struct Life {
    /// Unique in a process.
    pub(super) number: u64,
    pub(super) fleet: Fleet,
    pub(super) driver: DriverPod,
    pub(super) application_id: String,
    pub(super) identity: Identity,
    pub(super) claim: Claim,
    /// As last reported by [`Output::Still`](super::Output::Still).
    pub(super) still: bool,
    /// The core's deadline, as registered.
    pub(super) armed: Instant,
    pub(super) listing: Listing,
    /// At least one list was received, so the pods are known.
    pub(super) listed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listing {
    No,
    /// `again`: the watch has started since.
    Asked {
        again: bool,
    },
}

impl Managed {
    pub(super) fn new(judged: Judged) -> Managed {
        let Judged { document, problems, pending, policies } = judged;
        Managed {
            document,
            policies,
            pending,
            good: problems.is_empty(),
            refused: None,
            life: None,
            waits: "its driver's pod was not looked up yet".to_owned(),
            contested: false,
            looked: false,
            seeking: Seeking::No,
        }
    }

    /// Follows a newer document, or a newer verdict on the same one.
    pub(super) fn follow(&mut self, judged: Judged, bugs: Bugs) -> Followed {
        let Judged { document, problems, pending, policies } = judged;
        let same = self.document.version == document.version;
        if same && self.good && problems.is_empty() && self.refused.is_none() {
            (self.policies, self.pending) = (policies, pending);
            return Followed::Nothing;
        }
        if self.good && !problems.is_empty() && !bugs.has(InjectedBug::RefusedInForce) {
            self.pending = None;
            let known = self.refused.as_ref();
            if known
                .is_some_and(|known| known.document.version == document.version && known.problems == problems)
            {
                return Followed::Nothing;
            }
            self.refused = Some(Judged { document, problems: problems.clone(), pending, policies });
            return Followed::Refused(problems);
        }
        if let (true, false, Some(why)) = (self.good, same, &pending)
            && !bugs.has(InjectedBug::PendingInForce)
        {
            // A document that may turn out to be invalid must not be in force meanwhile.
            self.pending = Some(format!("the previous document stays in force until it is known: {why}"));
            return Followed::Nothing;
        }
        let before = std::mem::replace(&mut self.document, document);
        (self.policies, self.pending) = (policies, pending);
        (self.good, self.refused) = (problems.is_empty(), None);
        let moved = self.document.is_another_fleet(&before);
        Followed::InForce { version: self.document.version, moved }
    }

    /// `NAMESPACE/NAME` of its document.
    pub fn name(&self) -> &str {
        &self.document.fleet
    }

    /// `metadata.namespace` of its document: where the pods of driver and executors are.
    pub fn namespace(&self) -> &str {
        &self.document.namespace
    }

    /// The version of the document in force.
    pub fn version(&self) -> u64 {
        self.document.version
    }

    /// The version of the newest document, if that is invalid.
    pub fn refused_version(&self) -> Option<u64> {
        self.refused.as_ref().map(|refused| refused.document.version)
    }

    /// Why the newest document is invalid, if it is.
    pub fn problems(&self) -> &[String] {
        self.refused.as_ref().map_or(&[], |refused| &refused.problems)
    }

    /// Why it is not known yet whether the newest document is valid.
    pub fn pending(&self) -> Option<&str> {
        self.pending.as_deref()
    }

    /// Its core, and what belongs to it. `None`: it waits for its driver's pod; see [`Managed::waits`].
    pub fn life(&self) -> Option<&Life> {
        self.life.as_ref()
    }

    /// What is known of an executor. Without a core, no executor of the fleet is known.
    pub fn explain(&self, executor: ExecutorId) -> Explanation {
        let unknown = || Explanation {
            executor,
            stage: None,
            not_rolled: Some(Refusal::UnknownExecutor),
            history: Vec::new(),
        };
        self.life().map_or_else(unknown, |life| life.fleet().explain(executor))
    }

    /// Why it has no life, if it has none; and whether it waits because another fleet has what this one claims.
    pub fn waits(&self) -> (&str, bool) {
        (&self.waits, self.contested)
    }
}

impl Life {
    /// Unique in a process, and in the order in which lives begin.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The fleet's core.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// The driver's pod as last reported; it may have ended.
    pub fn driver(&self) -> &DriverPod {
        &self.driver
    }

    /// Of the driver's pod, or as the document says.
    pub fn application_id(&self) -> &str {
        &self.application_id
    }

    /// A pod of an earlier driver is none of this life's, and may have the same ids.
    pub fn owns(&self, owner: Option<&Uid>) -> bool {
        owner == Some(&self.driver.uid)
    }
}
