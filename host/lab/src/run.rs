//! One run: a seed in, a report out.
//!
//! Draw which faults there are and what the fleet's spec is; run both for some minutes; heal the world; require
//! that the fleet reaches its target and comes to rest. Safety is checked throughout, liveness at the end:
//! faults that never stop would excuse everything, and faults that always heal by themselves reveal no
//! livelock.

use std::collections::BTreeMap;

use fleet::guardrail::Refusal;
use fleet::spec::FleetSpec;

use crate::app::App;
use crate::check::Violation;
use crate::choices::Choices;
use crate::fault::{Fault, Swarm};
use crate::trace::Trace;
use crate::world::{CrashPoint, Make, World};

pub mod draw;

#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Keep a textual timeline.
    pub timeline: bool,
    /// These numbers instead of the seed's.
    pub choices: Option<Vec<u32>>,
    /// These faults instead of drawn ones.
    pub swarm: Option<Swarm>,
    /// This spec instead of a drawn one. There is one fleet then, unless `fleets` says otherwise.
    pub spec: Option<FleetSpec>,
    /// This many fleets, at most [`FLEETS_MAX`](crate::app::FLEETS_MAX).
    pub fleets: Option<usize>,
    /// Faults last this long, instead of 5 to 15 minutes.
    pub chaos_ms: Option<u64>,
    /// The leader dies at the `n`th request, counted from 1.
    pub crash_at: Option<(u64, CrashPoint)>,
}

#[derive(Clone, Debug)]
pub struct Report {
    pub seed: u64,
    /// Same seed, same hash (D4).
    pub hash: u64,
    pub violation: Option<Violation>,
    /// How often each fault has struck.
    pub fired: Vec<(Fault, u64)>,
    /// How often each guard-rail refused an action.
    pub refusals: BTreeMap<Refusal, u64>,
    /// The faults that were on, in occurrences per thousand.
    pub swarm: Vec<(Fault, u32)>,
    pub fleets: usize,
    /// Of the first fleet.
    pub spec: FleetSpec,
    /// Its target after healing.
    pub last_target: u32,
    /// Simulated time, of each fleet.
    pub fleet_hours: f64,
    /// Requests to the API server, for runs that try a crash at each.
    pub requests: u64,
    /// How many actions changed pods.
    pub mutations: u64,
    pub timeline: Vec<String>,
    /// The drawn numbers, to be replayed or shrunk.
    pub drawn: Vec<u32>,
}

pub fn run(seed: u64, options: &Options, make: &Make<'_>) -> Report {
    let mut choices = options.choices.clone().map_or_else(|| Choices::from_seed(seed), Choices::from_drawn);
    let mut swarm = Swarm::draw(&mut choices);
    let spec = draw::spec(&mut choices, u32::MAX);
    let spec = options.spec.clone().unwrap_or(spec);
    let chaos_ms = 1_000 * choices.between(300, 900);
    let chaos_ms = options.chaos_ms.unwrap_or(chaos_ms);
    let last_target = draw::last_target(&mut choices, &spec, u32::MAX);
    let (hosts, fleets) = draw::size(&mut choices);
    let fleets = options.fleets.unwrap_or(if options.spec.is_some() { 1 } else { fleets });
    let mut apps = vec![App::new(spec.clone(), 0, last_target)];
    if fleets > 1 {
        swarm.draw_for_fellows(&mut choices);
        apps.extend(draw::fellows(&mut choices, fleets - 1));
        draw::documented(&mut choices, &mut apps);
    }
    let swarm = options.swarm.clone().unwrap_or(swarm);
    let trace = Trace::new(options.timeline);
    let mut world = World::new(choices, swarm.clone(), trace, apps, hosts, make);
    world.crash_at = options.crash_at;
    let freezes = swarm.is_on(Fault::FrozenFull) || swarm.is_on(Fault::Freeze);
    world.alone = hosts == 1 && freezes && world.sim.choices.chance(700);
    draw::cluster(&mut world);
    world.run_until(chaos_ms);
    if !world.objects() {
        world.heal();
        world.come_to_rest(draw::bound_ms);
        world.replace_losses(draw::bound_ms);
    }
    let now_ms = world.sim.now_ms;
    let violation = world.violation().cloned();
    if let Some(violation) = &violation {
        world.sim.say(|| format!("{}: {}", violation.checker, violation.message));
    }
    Report {
        seed,
        hash: world.sim.trace.hash(),
        violation,
        fired: world.sim.swarm.fired().collect(),
        refusals: world.refusals(),
        swarm: swarm.on().collect(),
        spec,
        last_target,
        fleets,
        fleet_hours: fleets as f64 * now_ms as f64 / 3_600_000.0,
        requests: world.calls,
        mutations: world.apps.iter().map(|app| app.checks.mutations).sum(),
        drawn: world.sim.choices.drawn().to_vec(),
        timeline: world.sim.trace.into_timeline(),
    }
}

#[cfg(test)]
mod tests;
