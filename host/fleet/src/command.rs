//! The commands of operators: Spark's `ExecutorAllocationClient`, and Rollcall's own commands.

use crate::action::{Cause, Reply, Verb};
use crate::event::Command;
use crate::executor::Stage;
use crate::fleet::{Fleet, Phase};
use crate::guardrail::Refusal;
use crate::id::{CommandId, ExecutorId};
use crate::ledger::Requested;
use crate::pace::Pace;
use crate::question::{DeletionCause, Trigger};

impl Fleet {
    pub(crate) fn command(&mut self, command: CommandId, verb: Command) {
        if verb == Command::ResetLedger {
            return self.reset_ledger(command);
        }
        let reply = if self.parked().is_some() {
            Reply::Refused(Refusal::LedgerRefused)
        } else if self.is_active() {
            self.obey(verb)
        } else {
            Reply::Refused(Refusal::NotLeading)
        };
        match &reply {
            Reply::Done => {}
            Reply::Refused(refusal) => self.refused(*refusal),
            Reply::Executors(each) => {
                let refused: Vec<Refusal> = each.iter().filter_map(|(_, result)| result.err()).collect();
                refused.into_iter().for_each(|refusal| self.refused(refusal));
            }
        }
        // A change that was confirmed to an operator must survive this host.
        let mark = self.book.mark();
        if self.book.is_confirmed(mark) || matches!(reply, Reply::Refused(_)) {
            self.act(Cause::Command(command), Verb::Reply { command, reply });
        } else {
            self.replies.push_back((mark, command, reply));
        }
    }

    fn obey(&mut self, verb: Command) -> Reply {
        let done = |result: Result<(), Refusal>| result.map_or_else(Reply::Refused, |()| Reply::Done);
        match verb {
            Command::RequestTotalExecutors(total) => done(self.request_total(total)),
            Command::Kill { executors, replace, force } => self.kill(&executors, replace, force),
            Command::Roll(executor) => done(self.roll_by_hand(executor)),
            Command::Pause => {
                self.book.edit().paused = true;
                Reply::Done
            }
            Command::Resume => {
                self.book.edit().paused = false;
                self.wake_all();
                Reply::Done
            }
            Command::ResetBreaker => {
                let ledger = self.book.edit();
                ledger.failed = false;
                ledger.failures.clear();
                self.breaker.reset();
                self.pace = Pace::new(&self.spec.allocation);
                Reply::Done
            }
            Command::ResetLedger => Reply::Refused(Refusal::LedgerInOrder),
        }
    }

    /// The Lease is read first: another leader's record must not be overwritten. If this host holds the Lease,
    /// the ledger is read for its version, and written; then the operator gets the reply.
    fn reset_ledger(&mut self, command: CommandId) {
        let refusal = match self.phase {
            Phase::AwaitingLeadership | Phase::Deposed => Some(Refusal::NotLeading),
            Phase::AwaitingLedger | Phase::AwaitingClaim | Phase::AwaitingRelist | Phase::Active => {
                (!self.may_reset_ledger()).then_some(Refusal::LedgerInOrder)
            }
        };
        if let Some(refusal) = refusal {
            self.refused(refusal);
            self.act(Cause::Command(command), Verb::Reply { command, reply: Reply::Refused(refusal) });
            return;
        }
        self.resets_ledger = true;
        self.replies.push_back((self.book.next_write(), command, Reply::Done));
        self.act(Cause::Command(command), Verb::CheckLease);
    }

    fn request_total(&mut self, total: u32) -> Result<(), Refusal> {
        if !self.owns() {
            return Err(Refusal::ObserveMode);
        }
        if total > self.spec.limits.executors_max {
            return Err(Refusal::AboveMaximum);
        }
        let spec_target = self.spec.target;
        self.book.edit().requested = Some(Requested { total, spec_target });
        Ok(())
    }

    /// Spark's `killExecutors`: unknown executors are skipped, terminating ones are not killed twice, and busy
    /// ones are spared unless forced.
    fn kill(&mut self, executors: &[ExecutorId], replace: bool, force: bool) -> Reply {
        if let Err(refusal) = self.may_change_pods() {
            return Reply::Refused(refusal);
        }
        let mut results = Vec::new();
        for &id in executors {
            let result = self.may_kill(id, force);
            if result.is_ok() {
                self.book.edit().leaving.insert(id, DeletionCause::Kill);
                self.lose(id, Trigger::OperatorKill);
            }
            results.push((id, result));
        }
        let killed = results.iter().filter(|(_, result)| result.is_ok()).count();
        if !replace && killed > 0 && self.owns() {
            let total = self.target().saturating_sub(u32::try_from(killed).unwrap_or(u32::MAX));
            let spec_target = self.spec.target;
            self.book.edit().requested = Some(Requested { total, spec_target });
        }
        Reply::Executors(results)
    }

    fn may_kill(&self, id: ExecutorId, force: bool) -> Result<(), Refusal> {
        let executor = self.roster.get(id).ok_or(Refusal::UnknownExecutor)?;
        match executor.stage {
            Stage::AwaitingStart | Stage::AwaitingRegistration | Stage::Available => {}
            // The pod does not exist yet: the outcome of its create is not known.
            Stage::AwaitingCreate(_) | Stage::AwaitingConfirmation(_) | Stage::AwaitingLateCreate => {
                return Err(Refusal::UnknownExecutor);
            }
            Stage::AwaitingAnnouncement { .. }
            | Stage::AwaitingExit { .. }
            | Stage::AwaitingReason(_)
            | Stage::AwaitingRecord { .. }
            | Stage::AwaitingRemoval(_)
            | Stage::Kept => return Err(Refusal::AlreadyLeaving),
        }
        let counters = executor.facts.as_ref().and_then(|facts| facts.counters.as_ref());
        if !force && counters.is_some_and(|counters| counters.active_tasks > 0) {
            return Err(Refusal::Busy);
        }
        Ok(())
    }
}
