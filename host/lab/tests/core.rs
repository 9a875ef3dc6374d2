//! The core in the simulator: campaigns, every crash point of short scenarios, injected bugs.

use fleet::event::Event;
use fleet::supervisor::{Input, Output, Supervisor};
use fleet::time::Now;
use lab::campaign::{Campaign, KNOWN_BUGS, core, hunt};
use lab::run::{Options, run};
use lab::scenarios;
use lab::world::{Core, CrashPoint};

/// A small campaign; `rollcall-lab simulate --seeds 0..20000` is the large one.
#[test]
fn a_thousand_seeds_find_nothing() {
    let mut campaign = Campaign::default();
    for seed in 0..1_000 {
        campaign.add(&run(seed, &Options::default(), &core(None)));
    }
    assert_eq!(campaign.violations, [].into());
    assert_eq!(campaign.unfired(), []);
}

/// F23 with F1 and F2: in short scenarios every request fails in every way, one at a time.
#[test]
fn every_crash_point_of_every_scenario_is_survived() {
    let mut runs = 0;
    for scenario in scenarios::all() {
        // Up to the request that fails, the run is the same until the fleet rests.
        let calm = run(1, &scenario.options, &core(None));
        assert_eq!(calm.violation, None, "{} by itself", scenario.name);
        assert!(calm.requests > 3, "{}: {} requests", scenario.name, calm.requests);
        for request in 1..=calm.requests {
            for point in CrashPoint::ALL {
                let options = Options { crash_at: Some((request, point)), ..scenario.options.clone() };
                let violation = run(1, &options, &core(None)).violation;
                assert_eq!(violation, None, "{}: request {request}, {point:?}", scenario.name);
                runs += 1;
            }
        }
    }
    println!("{runs} runs");
    assert!(runs > 1_000, "{runs}");
}

/// A core whose fleets receive every event twice, except operators' commands: two kills are two kills.
struct Twice(Supervisor);

impl Core for Twice {
    fn step(&mut self, input: Input, now: Now) -> Vec<Output> {
        let again = if let Input::Fleet { life, event } = &input
            && !matches!(event, Event::Commanded { .. })
        {
            Some(Input::Fleet { life: *life, event: event.clone() })
        } else {
            None
        };
        let mut outputs = self.0.step(input, now);
        outputs.extend(again.into_iter().flat_map(|again| self.0.step(again, now)));
        outputs
    }

    fn supervisor(&mut self) -> &mut Supervisor {
        &mut self.0
    }

    fn view(&self) -> &Supervisor {
        &self.0
    }
}

/// D5 and D6: a repeated event changes nothing.
#[test]
fn events_that_come_twice_change_nothing() {
    let make = |election, seed| Box::new(Twice(Supervisor::new(election, seed))) as Box<dyn Core>;
    for seed in 0..200 {
        let violation = run(seed, &Options::default(), &make).violation;
        assert_eq!(violation, None, "seed {seed}");
    }
}

/// The checkers work: each rule that is switched off is detected. Those that need many seeds are left to
/// `rollcall-lab simulate --bugs`.
#[test]
fn injected_bugs_are_found() {
    for known in KNOWN_BUGS.iter().filter(|known| known.seeds_max <= 3_000) {
        let caught = hunt(known);
        let name = known.bug.name();
        assert!(caught.violation.is_some(), "{name} escaped for {} seeds", known.seeds_max);
        println!("{name}: {} of {}, {:?}", caught.seeds, known.seeds_max, caught.violation);
    }
}
