//! What the state of the fleet as a whole permits.

use crate::driver::DriverState;
use crate::env::Env;
use crate::executors::Executors;
use crate::guardrail::{Permits, Refusal, unless_dry};
use crate::injected_bug::InjectedBug;
use crate::phase::Phase;
use crate::plan::allocate::Limits;
use crate::view::ClusterView;

/// The state from which permits follow.
#[derive(Clone, Copy)]
pub(crate) struct Situation<'a> {
    pub phase: Phase,
    pub executors: &'a Executors,
    pub view: &'a ClusterView,
    pub driver: &'a DriverState,
    pub env: Env<'a>,
}

impl<'a> Situation<'a> {
    /// May the fleet change pods at all?
    pub(crate) fn may_change_pods(&self) -> Result<(), Refusal> {
        let ledger = &self.executors.ledger;
        if self.phase != Phase::Active {
            Err(Refusal::NotLeading)
        } else if ledger.refused().is_some() && !self.env.has_bug(InjectedBug::ParkedActs) {
            Err(Refusal::LedgerRefused)
        } else if self.env.has_bug(InjectedBug::PauseIgnored) {
            Ok(())
        } else if self.env.spec.paused || ledger.get().paused {
            Err(Refusal::Paused)
        } else if self.env.spec.dry_run {
            Err(Refusal::DryRun)
        } else {
            Ok(())
        }
    }

    pub(crate) fn permits(&self) -> Permits {
        let losses = &self.executors.losses;
        let change = self.may_change_pods();
        let shrink = unless_dry(change, || {
            if !self.view.fresh {
                Err(Refusal::ViewStale)
            } else if self.driver.gone(self.env) {
                Err(Refusal::DriverGone)
            } else {
                Ok(())
            }
        });
        let disrupt = unless_dry(shrink, || {
            if self.executors.ledger.get().failed {
                Err(Refusal::FleetFailed)
            } else if losses.breaker.is_open() {
                Err(Refusal::BreakerOpen)
            } else if losses.mass_loss().is_on(self.env.instant()) {
                Err(Refusal::MassLoss)
            } else {
                Ok(())
            }
        });
        Permits { change, shrink, disrupt }
    }

    /// Everything that limits creates.
    pub(crate) fn create_limits(&self) -> Limits<'a> {
        let may = self.may_change_pods().and_then(|()| {
            if self.executors.ledger.get().failed {
                Err(Refusal::FleetFailed)
            } else if self.driver.gone(self.env) {
                Err(Refusal::DriverGone)
            } else if self.driver.starts_until(self.env).is_some() {
                Err(Refusal::DriverStarting)
            } else {
                Ok(())
            }
        });
        Limits {
            tally: *self.executors.table.tally(),
            bounds: self.executors.bounds(self.env),
            fleet: may,
            rates: self.executors.rates(),
        }
    }
}
