use sim::campaign::{BAITS, Campaign, core, hunt};
use sim::run::{Options, run};
fn main() {
    let a: Vec<u64> = std::env::args().skip(1).map(|x| x.parse().unwrap()).collect();
    if a.len() == 3 {
        let report = run(a[0], &Options { timeline: true, ..Options::default() }, &core(None));
        for l in report.timeline {
            println!("{l:?}");
        }
        println!("{:?}", report.violation);
        return;
    }
    if a.len() == 1 {
        for bait in BAITS.iter().skip(a[0] as usize) {
            let c = hunt(bait);
            println!(
                "{} {} of {} {:?}",
                bait.plant.name(),
                c.seeds,
                bait.seeds_max,
                c.violation.map(|v| (v.checker, v.message))
            );
        }
        return;
    }
    let mid = (a[0] + a[1]) / 2;
    let go = |r: std::ops::Range<u64>| {
        std::thread::spawn(move || {
            let mut c = Campaign::default();
            for s in r {
                c.add(&run(s, &Options::default(), &core(None)));
            }
            c
        })
    };
    let (x, y) = (go(a[0]..mid), go(mid..a[1]));
    let mut c = x.join().unwrap();
    c.merge(y.join().unwrap());
    for (s, v) in &c.violations {
        println!("seed {s}: {} {}", v.checker, v.message);
    }
    println!(
        "{} runs hash {:016x} violations {} unfired {:?} silent {:?}",
        c.runs,
        c.hash(),
        c.violations.len(),
        c.unfired(),
        c.unrefused()
    );
    println!("{:?}", c.fired);
}
