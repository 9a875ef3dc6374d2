//! What a transition is given, and what it asks for.

use crate::action::{Cause, Reason, Verb};
use crate::backoff::Seed;
use crate::env::Env;
use crate::guardrail::Refusal;
use crate::id::ExecutorId;
use crate::ledger::End;
use crate::question::{DeletionCause, Trigger};
use crate::time::Instant;

/// What a transition may know of the fleet, and the effects that it adds.
pub(crate) struct Context<'a> {
    pub env: Env<'a>,
    pub seed: &'a mut Seed,
    pub id: ExecutorId,
    /// Why Rollcall removes the executor, according to the ledger.
    pub leaving: Option<DeletionCause>,
    /// The number of the ledger write that will hold what this transition records.
    pub mark: u64,
    pub target: u32,
    /// There are more executors than wanted, and the driver removes those that run.
    pub superfluous: bool,
    /// Silence before this moment proves nothing.
    pub excused: Instant,
    pub effects: Vec<Effect>,
}

impl Context<'_> {
    pub(crate) fn now(&self) -> Instant {
        self.env.now.instant
    }

    pub(crate) fn add(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    pub(crate) fn publish(&mut self, reason: Reason, message: String) {
        self.add(Effect::Publish(reason, message));
    }

    pub(crate) fn note(&mut self, text: impl Into<Box<str>>) {
        self.add(Effect::Note(text.into()));
    }
}

/// What has to follow from a transition.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Effect {
    // The executor's own state in the fleet.
    /// Forget the executor.
    Forget,
    /// Its pod exists: count it in the ledger.
    RecordCreated,
    /// Its removal was decided: record that in the ledger with the write of this mark.
    RecordRemoval {
        cause: DeletionCause,
        mark: u64,
    },
    /// Its removal is cancelled. `cause`: why it was to be removed.
    CancelRemoval {
        cause: Option<DeletionCause>,
        why: &'static str,
    },
    /// Count its end, and record it in the ledger with the write of this mark.
    RecordEnd {
        end: End,
        keep: bool,
        mark: u64,
    },
    /// Its pod is no longer kept for debugging.
    KeepNoMore,
    /// Another pod is kept for debugging: there may be too many.
    LimitKept,

    // What it means for others.
    /// It no longer serves: its replacement is due.
    OweReplacement,
    /// It is lost. `released`: its driver released it. `target`: the fleet's, before the loss.
    Lost {
        trigger: Trigger,
        served: bool,
        released: bool,
        target: u32,
    },
    /// It was given up at `lost`, and is heard again.
    HeardAgain {
        lost: Instant,
    },
    /// It became available for the first time.
    Started,
    /// Its start does not count any more.
    StartForgotten,
    /// Its pod is gone: its share of a quota is free.
    QuotaFreed,
    /// Its pod was created.
    CreateSucceeded,
    /// Its pod was created, and cannot be used.
    CreateFailed,
    /// Its create was definitely refused: its id was never used.
    NotCreated {
        after_ms: Option<u64>,
        why: Option<String>,
    },
    /// Its create may have been applied.
    CreateInDoubt(String),
    /// It did not start in time.
    PendingTimeout,

    // What is to be done next.
    /// It is silent for longer than the timeout: give it up, if silence proves anything now.
    Silent,
    /// It had time to start, or (`unheard`) to send its first heartbeat: verify its pod, if that is permitted.
    StartOverdue {
        unheard: bool,
    },

    /// Ask the classifier why it was lost.
    AskWhy,
    /// Send a GET that shows whether its create was applied.
    ConfirmCreate,
    /// Send a GET that shows whether the pod is stuck, or only our view of it.
    VerifyPod,
    /// Send the deletion or the eviction of its pod.
    RequestRemoval {
        cause: Cause,
        verb: Verb,
    },

    // Messages.
    Refused(Refusal),
    Note(Box<str>),
    Publish(Reason, String),
}
