//! `spec ...`: changes of the ExecutorFleet document.

use fleet::event::Event;
use fleet::spec::Amount;

use super::{World, policies};

impl World {
    pub(super) fn respec(&mut self, words: &[&str]) {
        let mut draft = (**self.fleet.spec()).clone();
        for word in words {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            let number = || value.parse::<u32>().unwrap();
            match key {
                "target" => draft.target = number(),
                "surge" => draft.limits.surge = Amount::Count(number()),
                "unavailable" => draft.limits.unavailable = Amount::Count(number()),
                "batch" => draft.allocation.batch_size = number(),
                "paused" => draft.paused = value == "true",
                "heartbeats" => draft.heartbeat.disabled = value == "off",
                "dry-run" => draft.dry_run = value == "true",
                "name" => draft.name = value.to_owned(),
                other => panic!("spec {other}"),
            }
        }
        self.step(Event::SpecChanged { draft: Box::new(draft), policies: policies() });
    }
}
