//! `spec ...`: changes of the ExecutorFleet document.

use fleet::event::Event;
use fleet::spec::{Amount, ScaleDown};

use super::{World, policies};

impl World {
    pub(super) fn respec(&mut self, words: &[&str]) {
        let mut spec = (**self.fleet.spec()).clone();
        for word in words {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            let number = || value.parse::<u32>().unwrap();
            match key {
                "target" => spec.target = number(),
                "surge" => spec.limits.max_surge = Amount::Count(number()),
                "unavailable" => spec.limits.max_unavailable = Amount::Count(number()),
                "batch" => spec.allocation.batch_size = number(),
                "paused" => spec.paused = value == "true",
                "heartbeats" => spec.heartbeat.disabled = value == "off",
                "dry-run" => spec.dry_run = value == "true",
                "scale-down" => {
                    spec.scale_down = if value == "driver" { ScaleDown::Driver } else { ScaleDown::Rollcall };
                }
                "name" => spec.name = value.to_owned(),
                other => panic!("spec {other}"),
            }
        }
        self.step(Event::SpecChanged { spec: Box::new(spec), policies: policies() });
    }
}
