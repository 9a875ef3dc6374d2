//! Policies' log lines in the daemon's log: at the level that the policy chose, with the decision that they are about.
//!
//! A call writes few lines (see `policy::LogLine`), but there may be thousands of calls when a fleet is lost. So each
//! policy has a quota per minute; lines beyond that are logged at debug level.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use fleet::id::ActionId;
use policy::{LogLevel, LogLine};

const LINES_MAX: u32 = 100;
const LINES_IN: Duration = Duration::from_secs(60);

/// The source of the question: the fleet, and the number of its action.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    pub fleet: &'a str,
    pub decision: ActionId,
}

/// Quotas by policy. Only existing policies are evaluated, so there are few.
#[derive(Debug, Default)]
pub struct Said(Mutex<BTreeMap<String, Quota>>);

#[derive(Debug)]
struct Quota {
    since: Instant,
    lines: u32,
}

#[derive(Debug, PartialEq, Eq)]
enum Leave {
    Granted,
    /// The first line of a minute beyond the quota.
    JustSpent,
    Spent,
}

impl Quota {
    fn take(&mut self, now: Instant) -> Leave {
        if now.duration_since(self.since) >= LINES_IN {
            *self = Quota { since: now, lines: 0 };
        }
        self.lines = self.lines.saturating_add(1);
        match self.lines {
            0..=LINES_MAX => Leave::Granted,
            lines if lines == LINES_MAX + 1 => Leave::JustSpent,
            _ => Leave::Spent,
        }
    }
}

impl Said {
    /// `dropped`: the number of lines beyond what the sandbox keeps of one call.
    pub fn log(&self, policy: &str, asker: Asker<'_>, lines: &[LogLine], dropped: u64) {
        let Asker { fleet, decision: ActionId(decision) } = asker;
        for line in lines {
            let (message, leave) = (&*line.message, self.leave(policy, line.level));
            if leave == Leave::JustSpent {
                tracing::warn!(
                    policy,
                    fleet,
                    decision,
                    "the policy has logged more than {LINES_MAX} lines within a minute; until the minute is over, further lines are logged as debug"
                );
            }
            let level = if leave == Leave::Granted { line.level } else { LogLevel::Debug };
            match level {
                LogLevel::Debug => tracing::debug!(policy, fleet, decision, "the policy says: {message}"),
                LogLevel::Info => tracing::info!(policy, fleet, decision, "the policy says: {message}"),
                LogLevel::Warn => tracing::warn!(policy, fleet, decision, "the policy says: {message}"),
                LogLevel::Error => tracing::error!(policy, fleet, decision, "the policy says: {message}"),
            }
        }
        if dropped > 0 {
            tracing::debug!(
                policy,
                fleet,
                decision,
                dropped,
                "the policy logged more lines than are kept of one call"
            );
        }
    }

    fn leave(&self, policy: &str, level: LogLevel) -> Leave {
        if level == LogLevel::Debug {
            return Leave::Granted;
        }
        let now = Instant::now();
        // The quotas are still valid if a thread panicked while it updated them.
        let mut quotas = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match quotas.get_mut(policy) {
            Some(quota) => quota.take(now),
            None => {
                quotas.insert(policy.to_owned(), Quota { since: now, lines: 1 });
                Leave::Granted
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_has_its_quota_each_minute_and_its_end_is_told_once() {
        let start = Instant::now();
        let mut quota = Quota { since: start, lines: 0 };
        let late = start + LINES_IN - Duration::from_millis(1);
        let granted = (0..LINES_MAX).filter(|_| quota.take(late) == Leave::Granted).count();
        assert_eq!(granted, LINES_MAX as usize);
        assert_eq!([quota.take(late), quota.take(late)], [Leave::JustSpent, Leave::Spent]);
        assert_eq!(quota.take(start + LINES_IN), Leave::Granted, "another minute");
        let said = Said::default();
        let spent = (0..3 * LINES_MAX).filter(|_| said.leave("A", LogLevel::Warn) != Leave::Granted).count();
        assert_eq!(spent, 2 * LINES_MAX as usize);
        assert_eq!(said.leave("B", LogLevel::Error), Leave::Granted, "another policy");
        assert_eq!(said.leave("A", LogLevel::Debug), Leave::Granted, "debug costs no quota");
    }
}
