//! What a step hands out: numbered actions, replies to operators, and the history for `explain`.
//!
//! It also remembers what an outcome will need: whose pod a call was about, and which executors and replies
//! wait for a ledger write.

use std::collections::{BTreeMap, VecDeque};

use crate::action::{Action, Cause, Notice, Reason, Reply, Verb};
use crate::guardrail::Refusal;
use crate::id::{ActionId, CommandId, ExecutorId};
use crate::log::{Entry, Log};
use crate::time::Now;

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    actions: Vec<Action>,
    numbered: u64,
    /// Pod calls in flight.
    calls: BTreeMap<ActionId, PodCall>,
    /// Executors that wait for a ledger write, ordered by the number of that write.
    recording: VecDeque<(u64, ExecutorId)>,
    /// Replies to commands, sent once the changes that the commands made are written to the ledger.
    replies: VecDeque<(u64, CommandId, Reply)>,
    /// How often each guard-rail refused a change.
    refusals: BTreeMap<Refusal, u64>,
    log: Log,
}

/// A call about an executor's pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PodCall {
    pub executor: ExecutorId,
    pub kind: PodCallKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PodCallKind {
    Create,
    Get,
    /// A deletion or an eviction.
    Remove,
}

impl Outbox {
    pub(crate) fn act(&mut self, cause: Cause, verb: Verb) -> ActionId {
        self.numbered += 1;
        let id = ActionId(self.numbered);
        if let Some(call) = pod_call(&verb) {
            self.calls.insert(id, call);
        }
        self.actions.push(Action { id, cause, verb });
        id
    }

    /// The actions of this step.
    pub(crate) fn take(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// This host no longer leads: nothing that was decided in this step is carried out.
    pub(crate) fn discard(&mut self) {
        self.actions.clear();
    }

    /// The pod call that has finished. `None` if its outcome was reported before.
    pub(crate) fn call_finished(&mut self, action: ActionId) -> Option<PodCall> {
        self.calls.remove(&action)
    }

    /// Add to the history.
    pub(crate) fn note(&mut self, now: Now, executor: Option<ExecutorId>, text: impl Into<Box<str>>) {
        self.log.add(now, executor, text);
    }

    /// Publish a notice about the fleet.
    pub(crate) fn publish(&mut self, now: Now, reason: Reason, message: String) {
        self.publish_about(now, reason, None, None, message);
    }

    /// Publish a notice. `pod`: the name of the executor's pod, where it is known.
    pub(crate) fn publish_about(
        &mut self,
        now: Now,
        reason: Reason,
        executor: Option<ExecutorId>,
        pod: Option<Box<str>>,
        message: String,
    ) {
        self.log.add(now, executor, message.as_str());
        self.act(Cause::Start, Verb::Publish(Notice { reason, executor, pod, message }));
    }

    /// A guard-rail refused a change.
    pub(crate) fn refused(&mut self, refusal: Refusal) {
        self.refused_times(refusal, 1);
    }

    pub(crate) fn refused_times(&mut self, refusal: Refusal, times: u64) {
        *self.refusals.entry(refusal).or_default() += times;
    }

    /// The executor's stage continues once the write of this mark is applied.
    pub(crate) fn await_record(&mut self, mark: u64, executor: ExecutorId) {
        self.recording.push_back((mark, executor));
    }

    /// The next executor that waited for a write up to this number.
    pub(crate) fn next_recorded(&mut self, number: u64) -> Option<ExecutorId> {
        self.recording.pop_front_if(|(mark, _)| *mark <= number).map(|(_, executor)| executor)
    }

    /// Reply to a command once the write of this mark is applied.
    pub(crate) fn reply_after(&mut self, mark: u64, command: CommandId, reply: Reply) {
        self.replies.push_back((mark, command, reply));
    }

    pub(crate) fn reply(&mut self, command: CommandId, reply: Reply) {
        self.act(Cause::Command(command), Verb::Reply { command, reply });
    }

    /// Send the replies that waited for writes up to this number.
    pub(crate) fn send_replies(&mut self, number: u64) {
        while let Some((_, command, reply)) = self.replies.pop_front_if(|(mark, ..)| *mark <= number) {
            self.reply(command, reply);
        }
    }

    pub(crate) fn refusals(&self) -> &BTreeMap<Refusal, u64> {
        &self.refusals
    }

    pub(crate) fn history(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.log.iter()
    }
}

fn pod_call(verb: &Verb) -> Option<PodCall> {
    let (executor, kind) = match verb {
        Verb::CreatePod { executor, .. } => (*executor, PodCallKind::Create),
        Verb::GetPod { executor, .. } => (*executor, PodCallKind::Get),
        Verb::DeletePod { executor, .. } | Verb::EvictPod { executor, .. } => {
            (*executor, PodCallKind::Remove)
        }
        Verb::Relist { .. }
        | Verb::ReadLedger
        | Verb::WriteLedger { .. }
        | Verb::DeleteDriver { .. }
        | Verb::Ask { .. }
        | Verb::CheckLease
        | Verb::Reply { .. }
        | Verb::Publish(_) => return None,
    };
    Some(PodCall { executor, kind })
}
