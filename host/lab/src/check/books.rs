//! The ledger as it is written: S8 each executor once and the counts balanced, S10 only real failures are
//! counted, S13 who may write; and S9, the totals that a snapshot shows.
//!
//! Versions are compared with the one before, unless an operator wrote that one: then the expected successor is
//! undefined.

use fleet::ledger::Ledger;

use super::{CoreId, Parked, REACH_MS, rolls_under_way};
use crate::api::records::Stored;
use crate::cluster::Maker;
use crate::world::World;

impl World<'_> {
    /// A host's write was applied.
    pub(crate) fn check_ledger(&mut self, app: usize, core: CoreId, before: Option<&Stored>) {
        let now_ms = self.sim.now_ms;
        let Some(stored) = self.api.ledger(app) else { return };
        let new = std::sync::Arc::clone(&stored.ledger);
        self.sim.trace.number(new.epoch << 32 | new.writes);
        let existed = self.api.ledgers(app).len() > 1;
        let patched = before.is_some_and(|before| before.patched);
        let mut tampered = before.map_or(existed, |before| before.tampered || before.late);
        let tampers = self.api.tampers(app);
        let checks = &mut self.apps[app].checks;
        let writer = checks.writer.replace(core);
        let Some(life) = checks.lives.get_mut(&core) else { return };
        let claims = life.epoch.is_none();
        if claims {
            let old = before.map(|before| Ledger::clone(&before.ledger)).unwrap_or_default();
            life.epoch = Some(new.epoch);
            life.tampers = tampers;
            // An overwritten record counts for nothing: new ids have to be greater than all that were ever
            // reserved, unless it was lost before and no list has shown that since.
            life.base = match patched {
                true if checks.unsure => old.reserved.0.min(checks.reserved),
                true => checks.reserved,
                false => old.reserved.0,
            };
            life.claimed_born = !old.born.is_empty();
            life.may_roll.extend(rolls_under_way(&old.leaving));
            life.carried = life.carried.max(rolls_under_way(&old.leaving).count());
            checks.newest = Some(core);
            // What a leader knew but had not written yet is lost with it.
            checks.unsure |= tampered || checks.aware.take().is_some();
            tampered |= patched;
            if new.epoch <= old.epoch && !tampered {
                checks.object("S13", now_ms, || format!("epoch {} after {}", new.epoch, old.epoch));
            }
            if !patched && old.others.iter().any(|field| !new.others.contains(field)) {
                checks.object("S8", now_ms, || "unknown fields of the ledger are lost".to_owned());
            }
        }
        checks.reserved = checks.reserved.max(new.reserved.0);
        if let Some(life) = checks.lives.get_mut(&core) {
            // An operator declared the other leader's record invalid.
            tampered |= life.parked.take() == Some(Parked::Usurped);
            life.wrote = Some(new.epoch);
            // Since the manual change, another host may have claimed a record that this leader takes for an
            // older one of its own: that cannot be told from a restored backup.
            tampered |= !claims && writer != Some(core) && life.tampers < tampers;
            life.reserved = life.reserved.max(new.reserved.0);
            if new.reserved.0 > life.base {
                checks.aware.take_if(|aware| *aware == core);
            }
            life.requested = new.requested.map(|requested| requested.total);
        }
        if let Some(requested) = &new.requested {
            checks.requested_in_force(now_ms, requested.total);
        }
        if tampered && !claims && checks.newest != Some(core) {
            // A deposed leader's record was restored: until that leader learns of its deposition, nothing
            // fences it.
            checks.amnesty_until_ms = now_ms + REACH_MS;
        }
        tampered |= patched;
        if tampered {
            // Records of the same epoch may have been claimed twice: the restore undid the first claim.
            checks.epochs.split_off(&new.epoch);
            checks.epochs.insert(new.epoch, core);
        } else {
            let owner = *checks.epochs.entry(new.epoch).or_insert(core);
            if owner != core {
                checks.object("S13", now_ms, || {
                    format!("host {} writes in host {}'s epoch", core.host, owner.host)
                });
            }
        }
        self.balanced(app, &new);
        if let Some(before) = before.filter(|_| !tampered) {
            self.follows(app, &before.ledger, &new, core);
        }
        let checks = &mut self.apps[app].checks;
        checks.ever_leaving.extend(new.leaving.keys().map(|executor| executor.0));
        checks.ever_settled.extend(new.settled.iter().map(|executor| executor.0));
    }

    fn balanced(&mut self, app: usize, new: &Ledger) {
        let now_ms = self.sim.now_ms;
        if let Err(flaw) = new.check() {
            self.apps[app]
                .checks
                .object("S8", now_ms, || format!("what was written would be refused: {flaw}"));
        }
        let (created, born, ended) = (new.created, new.born.len(), new.ended());
        if created != born + ended || new.settled.len() != ended {
            let settled = new.settled.len();
            self.apps[app].checks.object("S8", now_ms, || {
                format!("created {created}, born {born}, settled {settled}, ended {ended}: the books do not balance")
            });
        }
        if new.born.iter().any(|executor| new.settled.contains(executor))
            || new.leaving.keys().any(|executor| !new.born.contains(*executor))
            || new.kept.iter().any(|executor| !new.settled.contains(executor))
        {
            self.apps[app]
                .checks
                .object("S8", now_ms, || "an executor is in two places, or in none".to_owned());
        }
    }

    /// Compares one version with its predecessor, and checks its writer.
    fn follows(&mut self, app: usize, old: &Ledger, new: &Ledger, writer: CoreId) {
        let now_ms = self.sim.now_ms;
        if new.epoch < old.epoch || new.reserved < old.reserved || new.created < old.created {
            self.apps[app].checks.object("S13", now_ms, || {
                format!(
                    "epoch {} over {}, reserved {} over {}, created {} over {}",
                    new.epoch, old.epoch, new.reserved, old.reserved, new.created, old.created
                )
            });
        }
        if old.settled.iter().any(|executor| !new.settled.contains(executor))
            || old.lost.iter().any(|(kind, count)| new.lost.get(kind).is_none_or(|now| now < count))
            || old.removed.iter().any(|(cause, count)| new.removed.get(cause).is_none_or(|now| now < count))
        {
            self.apps[app].checks.object("S8", now_ms, || "what was settled is settled no more".to_owned());
        }
        // Entries expire, which can only hide some: new failures must come from newly settled executors.
        let charged = failures(new).saturating_sub(failures(old));
        let fair = self.apps[app].checks.lives.get(&writer).map(|life| &life.fair);
        let chargeable = self.cluster.executors.of(app).filter(|truth| {
            let ended = new.settled.contains(truth.executor) && !old.settled.contains(truth.executor);
            // An executor that was settled before, and is live again because of an old backup, may end in any
            // way.
            let again = self.apps[app].checks.ever_settled.contains(&truth.executor.0);
            let fair = fair.is_some_and(|fair| fair.contains(&truth.executor.0));
            ended && truth.maker != Maker::Operator && (again || fair)
        });
        let chargeable = chargeable.count() as u64;
        if charged > chargeable {
            self.apps[app].checks.object("S10", now_ms, || {
                format!(
                    "{charged} failures are recorded, and {chargeable} executors ended in a way that is one"
                )
            });
        }
    }

    /// S9, in the read model of every leading host.
    pub(crate) fn check_snapshots(&mut self, app: usize) {
        let now_ms = self.sim.now_ms;
        for host in &self.hosts {
            let snapshot = host.snapshot(app, now_ms).filter(|_| host.leading && !host.is_frozen());
            let Some(snapshot) = snapshot else { continue };
            let checks = &mut self.apps[app].checks;
            let life = checks.current.get(&host.index).and_then(|core| checks.lives.get(core));
            let twins = |id| self.cluster.executors.with_id(app, id).count();
            let down = snapshot.executors.iter().find(|row| {
                let told = life.is_some_and(|life| life.shown_as.is_down(row.executor.0));
                row.stage == "available" && told && twins(row.executor) == 1
            });
            if let Some(id) = down.map(|row| row.executor) {
                checks
                    .object("S18", now_ms, || format!("{id} is available, and no executor runs in its pod"));
            }
            let counts = &snapshot.counts;
            let ended: u64 = counts.lost.values().sum::<u64>() + counts.removed.values().sum::<u64>();
            let sum = counts.live + counts.terminating + counts.reason_pending + ended;
            if counts.created != sum || counts.available > counts.live {
                checks.object("S9", now_ms, || {
                    let rows: Vec<_> =
                        snapshot.executors.iter().map(|row| (row.executor.0, row.stage)).collect();
                    format!("the counts do not add up: {counts:?} {rows:?}")
                });
            }
        }
    }
}

fn failures(ledger: &Ledger) -> u64 {
    ledger.failures.iter().map(|(_, count)| u64::from(*count)).sum()
}
