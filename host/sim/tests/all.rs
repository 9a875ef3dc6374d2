//! The core in the simulator: campaigns, every crash point of short scenarios, planted bugs.

use sim::campaign::{BAITS, Campaign, core, hunt};
use sim::run::{Options, run};
use sim::scenarios;
use sim::world::CrashPoint;

/// A small campaign; `rollcall simulate --seeds 0..20000` is the large one.
#[test]
fn some_hundred_seeds_find_nothing() {
    let mut campaign = Campaign::default();
    for seed in 0..500 {
        campaign.add(&run(seed, &Options::default(), &core(None)));
    }
    assert_eq!(campaign.violations, [].into());
    assert_eq!(campaign.unfired(), []);
}

/// F23 with F1 and F2: of short scenarios every request goes wrong in every way, one at a time.
#[test]
fn every_crash_point_of_every_scenario_is_survived() {
    let mut runs = 0;
    for scenario in scenarios::all() {
        // What happens until the fleet rests is the same up to the request that goes wrong.
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

/// The checkers bite: each rule that is switched off is found missing.
#[test]
fn every_planted_bug_is_found() {
    for bait in &BAITS {
        let caught = hunt(bait);
        let name = bait.plant.name();
        assert!(caught.violation.is_some(), "{name} escaped for {} seeds", bait.seeds_max);
        println!("{name}: {} of {}, {:?}", caught.seeds, bait.seeds_max, caught.violation);
    }
}
