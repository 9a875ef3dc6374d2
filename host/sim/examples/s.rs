use fleet::plant::Plant;
use sim::campaign::core;
use sim::run::{Options, run};
use std::collections::BTreeMap;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let plant =
        std::env::var("PLANT").ok().map(|name| Plant::ALL.into_iter().find(|p| p.name() == name).unwrap());
    let make = core(plant);
    if args.len() == 2 {
        let report = run(args[1].parse().unwrap(), &Options { timeline: true, ..Options::default() }, &make);
        println!("{}", report.timeline.join("\n"));
        println!("{:?}\n{:?}\n{:?}", report.swarm, report.draft, report.violation);
        return;
    }
    let (a, b): (u64, u64) = (args[1].parse().unwrap(), args[2].parse().unwrap());
    let mut seen: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut hours = 0.0;
    let mut fired: BTreeMap<String, u64> = BTreeMap::new();
    for seed in a..b {
        let report = match std::panic::catch_unwind(|| run(seed, &Options::default(), &make)) {
            Ok(report) => report,
            Err(e) => {
                let text = e.downcast_ref::<String>().cloned().unwrap_or_default();
                seen.entry(format!("panic {text}").chars().take(60).collect()).or_default().push(seed);
                continue;
            }
        };
        hours += report.fleet_hours;
        for (fault, n) in &report.fired {
            *fired.entry(format!("{fault:?}")).or_default() += n;
        }
        if let Some(v) = report.violation {
            let first = !seen.contains_key(v.checker);
            seen.entry(v.checker.to_owned()).or_default().push(seed);
            if first && plant.is_some() {
                println!("{} at seed {seed}: {}", v.checker, v.message);
            }
        }
    }
    println!("{hours:.0} hours");
    for (k, v) in seen {
        println!("{k}: {} {:?}", v.len(), &v[..v.len().min(12)]);
    }
    println!("zero: {:?}", fired.iter().filter(|(_, n)| **n == 0).map(|(f, _)| f).collect::<Vec<_>>());
}
