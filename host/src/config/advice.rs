//! Settings of a valid document that are probably mistakes; and the settings that take effect.

use super::document::Mode;
use super::{ExecutorFleet, FleetConfig, Problem, Renamed};

/// The grace period of Kubernetes for a pod without one.
const GRACE_S: i64 = 30;

impl FleetConfig {
    /// Settings that should be reviewed. The document is valid regardless.
    pub fn warnings(&self) -> Vec<Problem> {
        let renamed = |(old, new): &Renamed| {
            let name = new.rsplit('.').next().unwrap_or(new);
            self.problem(old, format!("is called {name} now"))
                .help(format!("write {name}; the old name is still read"))
        };
        let mut warnings: Vec<Problem> = self.old_names.iter().map(renamed).collect();
        // `check` reports errors.
        let Ok(Some(template)) = self.stand_in() else { return warnings };
        warnings.extend(template.advice.iter().map(|remark| self.remarked(remark.clone())));
        let spec = &self.fleet.spec;
        let path = "spec.template.spec.terminationGracePeriodSeconds";
        let roll_grace = spec.roll.as_ref().and_then(|roll| roll.grace);
        let decommission = spec.spark.as_ref().is_some_and(|spark| spark.decommission);
        match (template.grace_s(), &spec.roll) {
            // `check` rejects this.
            (Some(0), Some(_)) if roll_grace.is_none() => {}
            (Some(0), _) => {
                let message =
                    "0 makes each deletion that names no other time a forced one, without a decommission";
                warnings.push(self.problem(path, message).help("leave it out, or write more"));
            }
            (None, _) if decommission && roll_grace.is_none() => {
                let message = format!(
                    "executors that are removed have Kubernetes' {GRACE_S} s to hand over their blocks, and are killed then"
                );
                let help = "write how long a decommission may take, for instance 120; for rolls alone spec.roll.grace";
                warnings.push(self.problem(path, message).help(help));
            }
            (Some(grace_s), Some(roll)) if roll_grace.is_none() => {
                let grace_ms = u64::try_from(grace_s).unwrap_or(0).saturating_mul(1_000);
                if grace_ms >= roll.timeout.0 {
                    let message = format!(
                        "{grace_s} s is not shorter than spec.roll.timeout, {}: a roll that takes all of it is given up",
                        roll.timeout
                    );
                    warnings.push(self.problem(path, message).help("write a longer spec.roll.timeout"));
                }
            }
            (Some(_) | None, _) => {}
        }
        warnings
    }

    /// The document with its defaults, and without settings that have no effect in a pod.
    pub fn effective(&self) -> ExecutorFleet {
        let mut fleet = self.fleet.clone();
        if let (Mode::Own, Some(template)) = (fleet.spec.mode, &mut fleet.spec.template)
            && let Some(metadata) = template.get_mut("metadata").and_then(|metadata| metadata.as_object_mut())
        {
            metadata.retain(|field, _| ["labels", "annotations"].contains(&field.as_str()));
            if let Some(labels) = metadata.get_mut("labels").and_then(|labels| labels.as_object_mut()) {
                labels.retain(|label, _| !cluster::template::RESERVED.contains(&label.as_str()));
            }
        }
        fleet
    }
}
