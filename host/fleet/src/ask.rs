//! Questions in flight: which policy is asked, for how long, and what happens if it does not answer.
//!
//! Asking a policy is an asynchronous question, never a call. Each question has a deadline set by the core, so
//! that a host that never answers costs time and nothing else; a later answer is ignored. A question that a
//! policy cannot answer goes to the next policy of its chain. A policy that keeps failing is *quarantined*:
//! skipped for a while, then tried again. The last classifier of the chain is never quarantined, because there
//! is none after it.

use std::collections::BTreeMap;

use crate::event::{Answer, Fault};
use crate::id::{ActionId, ExecutorId};
use crate::question::{Selection, Verdict};
use crate::spec::LAST_CLASSIFIER;
use crate::time::Instant;

pub(crate) mod loss;
pub(crate) mod roll;

/// How long to wait for an answer: a hundred times a policy's CPU budget, so that only a starved host is late.
const ANSWER_MS: u64 = 5_000;
/// Maximum number of open questions: more than the sandbox has slots, few enough to bound the host's queue.
const OPEN_MAX: usize = 64;
/// This many consecutive faults quarantine a policy, for this long.
const FAULTS_MAX: u32 = 5;
const QUARANTINE_MS: u64 = 300_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    Loss(ExecutorId),
    Roll,
}

/// A question in flight.
#[derive(Clone, Debug)]
pub(crate) struct Open {
    pub about: About,
    pub policy: Box<str>,
    /// Its place in the chain.
    pub place: usize,
    deadline: Instant,
}

/// An answer to the question that was asked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answered {
    Loss(ExecutorId, Verdict),
    Roll(Selection),
}

impl Open {
    /// The answer, if it is one to this question.
    pub(crate) fn accept(&self, answer: Result<Answer, Fault>) -> Result<Answered, Fault> {
        match (self.about, answer?) {
            (About::Loss(id), Answer::Loss(verdict)) => Ok(Answered::Loss(id, verdict)),
            (About::Roll, Answer::Roll(selection)) => Ok(Answered::Roll(selection)),
            (About::Loss(_), Answer::Roll(_)) | (About::Roll, Answer::Loss(_)) => {
                Err(Fault::Host("the answer to another question".to_owned()))
            }
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Asker {
    open: BTreeMap<ActionId, Open>,
    records: BTreeMap<Box<str>, Record>,
}

#[derive(Debug, Default)]
struct Record {
    faults_in_a_row: u32,
    faults: u64,
    until: Option<Instant>,
    last: Option<String>,
}

impl Asker {
    /// May another question be asked? Roll questions are few and always allowed.
    pub(crate) fn has_room(&self) -> bool {
        self.open.len() < OPEN_MAX
    }

    /// The first policy of the chain, from `place` on, that may be asked.
    pub(crate) fn next<'a>(
        &self,
        chain: impl IntoIterator<Item = &'a str>,
        place: usize,
        now: Instant,
    ) -> Option<(usize, Box<str>)> {
        let free =
            |name: &str| self.records.get(name).is_none_or(|r| r.until.is_none_or(|until| until <= now));
        let mut rest = chain.into_iter().enumerate().skip(place);
        rest.find(|(_, name)| free(name)).map(|(place, name)| (place, name.into()))
    }

    pub(crate) fn asked(&mut self, id: ActionId, about: About, place: usize, policy: Box<str>, now: Instant) {
        self.open.insert(id, Open { about, policy, place, deadline: now + ANSWER_MS });
    }

    /// The question that this action answers, if it is still open.
    pub(crate) fn close(&mut self, id: ActionId) -> Option<Open> {
        self.open.remove(&id)
    }

    /// A question whose deadline has passed.
    pub(crate) fn next_late(&mut self, now: Instant) -> Option<(ActionId, Open)> {
        let id = *self.open.iter().find(|(_, open)| open.deadline <= now)?.0;
        self.open.remove(&id).map(|open| (id, open))
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.open.values().map(|open| open.deadline).min()
    }

    pub(crate) fn answered(&mut self, policy: &str) {
        if let Some(record) = self.records.get_mut(policy) {
            record.faults_in_a_row = 0;
            record.until = None;
        }
    }

    /// A policy did not answer. Returns whether this quarantines it.
    pub(crate) fn failed(&mut self, policy: &str, fault: &Fault, now: Instant) -> bool {
        let Fault::Policy(message) = fault else { return false };
        let record = self.records.entry(policy.into()).or_default();
        record.faults += 1;
        record.last = Some(message.clone());
        record.faults_in_a_row += 1;
        if record.faults_in_a_row < FAULTS_MAX || policy == LAST_CLASSIFIER {
            return false;
        }
        record.until = Some(now + QUARANTINE_MS);
        true
    }

    /// Quarantined policies, with their last fault.
    pub(crate) fn quarantined(&self, now: Instant) -> impl Iterator<Item = (&str, &str)> {
        let held = move |record: &&Record| record.until.is_some_and(|until| until > now);
        self.records
            .iter()
            .filter(move |(_, record)| held(record))
            .map(|(name, record)| (&**name, record.last.as_deref().unwrap_or("")))
    }

    /// Forget policies that are no longer in use.
    pub(crate) fn retain(&mut self, names: &[&str]) {
        self.records.retain(|name, _| names.contains(&&**name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::world;
    use crate::table::ExecutorTable;

    #[test]
    fn only_an_answer_to_the_question_is_one() {
        let open = Open {
            about: About::Loss(ExecutorId(1)),
            policy: "p".into(),
            place: 0,
            deadline: Instant::START,
        };
        let undetermined = Verdict::Undetermined;
        assert_eq!(
            open.accept(Ok(Answer::Loss(undetermined.clone()))),
            Ok(Answered::Loss(ExecutorId(1), undetermined))
        );
        let other = open.accept(Ok(Answer::Roll(Selection::Abstain)));
        assert!(matches!(other, Err(Fault::Host(_))), "the policy is not to blame");
        let fault = Fault::Policy("trap".to_owned());
        assert_eq!(open.accept(Err(fault.clone())), Err(fault));
    }

    #[test]
    fn a_pick_is_one_of_the_offered() {
        let (world, table) = (world(2), ExecutorTable::default());
        let offered = [ExecutorId(4), ExecutorId(2)];
        assert_eq!(roll::picked(1, &offered, &table, world.env()), Some(ExecutorId(2)));
        assert_eq!(roll::picked(2, &offered, &table, world.env()), None);
    }
}
