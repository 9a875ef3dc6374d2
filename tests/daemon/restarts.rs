//! Daemons that die at any moment, and others that take over.
//!
//! A daemon's state dies with it; a call in flight may or may not have been applied, and no daemon ever gets the
//! answer. The next one starts from the ledger and a list. In every case, no id is used twice, no pod is left behind or
//! duplicated, and the ledger balances.

use std::sync::Arc;
use std::time::Duration;

use embedded::Chaos;
use embedded::server::Verdict;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use rollcall::daemon::Ended;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::support::{
    APPLICATION, DRIVER, Daemon, How, NAMESPACE, Unseen, Wire, balanced, calm, document, strong,
};
use super::world::World;

const TARGET: u32 = 12;
const LATENCY_MS: u64 = 30;
/// client-go's lease of 15 s, a retry period of 2 s and its jitter, and some requests.
const TAKES_OVER: Duration = Duration::from_secs(20);
/// Executors that went silent while there was no leader are found all at once, and so are not declared lost at first: a
/// pause of 60 s (`guardrail::CALM_MS`) after each five of them, and there may be ten. Then the usual minute.
const RECOVERS: Duration = Duration::from_secs(20 + 2 * 60 + 60);

struct Host {
    daemon: Daemon,
    wire: Arc<Wire>,
}

impl Host {
    fn start(world: &World, number: u64, lease: bool) -> Host {
        let config = document(TARGET, |document| {
            document["spec"]["roll"] = json!({
                "policies": ["OUTLIER"], "interval": "12s", "minTasks": 1, "minAge": "5s", "timeout": "30s",
            });
        });
        let wire = Wire::new(number, LATENCY_MS);
        let client = wire.client(&world.server);
        Host { daemon: Daemon::start(world, How { config, client, lease, number }), wire }
    }

    async fn kill(self) {
        self.wire.cut();
        self.daemon.kill().await;
    }

    async fn leads(&self, limit: Duration, why: &str) -> Duration {
        let begun = Instant::now();
        while !self.daemon.leads() {
            assert!(begun.elapsed() < limit, "does not lead after {limit:?}: {why}");
            sleep(Duration::from_millis(50)).await;
        }
        begun.elapsed()
    }
}

/// Waits until another pod was created, up to this limit.
async fn created(world: &World, limit: Duration) {
    let (begun, before) = (Instant::now(), world.truth().created);
    while world.truth().created == before && begun.elapsed() < limit {
        sleep(Duration::from_millis(5)).await;
    }
}

/// Fifty daemons, each killed early; then one that may run on.
async fn fifty_lives(seed: u64, lease: bool) {
    let world = World::start(seed, Chaos::Heavy, TARGET);
    let mut dice = ChaCha8Rng::seed_from_u64(seed);
    let mut unseen = Unseen::default();
    for life in 1..=50 {
        let host = Host::start(&world, life, lease);
        // Most have to wait for the lease of the previous one; some die while they wait.
        if lease && dice.random_bool(0.8) {
            host.leads(TAKES_OVER, &format!("seed {seed}, life {life}")).await;
        }
        unseen.look(&world, host.daemon.leads());
        if dice.random_bool(0.4) {
            created(&world, Duration::from_secs(5)).await;
            sleep(Duration::from_millis(dice.random_range(0..2 * LATENCY_MS))).await;
        } else {
            sleep(Duration::from_millis(dice.random_range(50..5_000))).await;
        }
        assert!(!host.daemon.has_ended(), "seed {seed}, life {life} ended by itself");
        unseen.look(&world, host.daemon.leads());
        host.kill().await;
        unseen.look(&world, false);
    }
    world.heal();
    let last = Host::start(&world, 51, lease);
    strong(&world, &last.daemon, RECOVERS).await;
    calm(&world, &last.daemon, Duration::from_secs(60)).await;
    unseen.look(&world, true);
    balanced(&world, &last.daemon, unseen.count).await;
    let executors = world.pods().len();
    assert_eq!(executors, TARGET as usize, "seed {seed}");
    assert!(world.truth().created > 2 * u64::from(TARGET), "there was something to do: {:?}", world.truth());
}

#[tokio::test(start_paused = true)]
async fn fifty_daemons_die_and_nothing_is_lost_or_doubled() {
    for seed in 1..=3 {
        fifty_lives(seed, false).await;
    }
}

#[tokio::test(start_paused = true)]
async fn fifty_leaders_die_and_nothing_is_lost_or_doubled() {
    fifty_lives(4, true).await;
}

#[tokio::test(start_paused = true)]
#[ignore = "takes a minute or two: a hunt for seeds that fail"]
async fn fifty_die_many_times() {
    for seed in 100..120 {
        fifty_lives(seed, false).await;
        fifty_lives(seed, true).await;
    }
}

/// Two replicas side by side; from now on they are checked every 50 ms.
async fn leader_and_other(hosts: [Host; 2]) -> (Host, Host) {
    let begun = Instant::now();
    let [one, two] = hosts;
    loop {
        match (one.daemon.leads(), two.daemon.leads()) {
            (true, false) => return (one, two),
            (false, true) => return (two, one),
            (true, true) => panic!("both lead"),
            (false, false) => {}
        }
        assert!(begun.elapsed() < TAKES_OVER, "no leader after {TAKES_OVER:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Only the first one leads, for this long.
async fn stays(leader: &Host, other: &Host, how_long: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < how_long {
        assert!(leader.daemon.leads() && !other.daemon.leads());
        assert_eq!(other.wire.acted_at(), None, "a standby must do nothing");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_daemons_one_leads_and_the_other_takes_over() {
    let world = World::start(7, Chaos::Some, TARGET);
    let hosts = [Host::start(&world, 1, true), Host::start(&world, 2, true)];
    let (leader, other) = leader_and_other(hosts).await;
    strong(&world, &leader.daemon, Duration::from_secs(60)).await;
    stays(&leader, &other, Duration::from_secs(60)).await;

    // It is killed.
    let mut unseen = Unseen::default();
    unseen.look(&world, true);
    let (dead, died) = (Arc::clone(&leader.wire), Instant::now());
    leader.kill().await;
    unseen.look(&world, false);
    let took = other.leads(TAKES_OVER, "its leader died").await;
    unseen.look(&world, true);
    assert!(
        took > Duration::from_secs(10),
        "a lease of 15 s that was renewed 2 s ago is over after {took:?}"
    );
    assert!(dead.acted_at().is_none_or(|at| at <= died), "it acted after its death");
    strong(&world, &other.daemon, Duration::from_secs(60)).await;

    // It is stopped.
    let (leader, other) = (other, Host::start(&world, 3, true));
    stays(&leader, &other, Duration::from_secs(10)).await;
    let (wire, asked) = (Arc::clone(&leader.wire), Instant::now());
    unseen.look(&world, true);
    unseen.look(&world, false);
    let (ended, took) = tokio::join!(leader.daemon.stop(), other.leads(TAKES_OVER, "its leader went"));
    unseen.look(&world, true);
    assert_eq!(ended, Ended::Stopped);
    assert!(took < Duration::from_secs(5), "handed over after {took:?}");
    let last = wire.acted_at().expect("it had something to do");
    let grace = Duration::from_millis(2 * LATENCY_MS);
    assert!(last <= asked + grace, "it acted {:?} after it was told to stop", last - asked);

    world.heal();
    strong(&world, &other.daemon, Duration::from_secs(60)).await;
    calm(&world, &other.daemon, Duration::from_secs(60)).await;
    balanced(&world, &other.daemon, unseen.count).await;
}

/// A recreated driver is another application, with its own pods and ledger, whether a watch event reports it or, if
/// every watch is refused, only the next look-up.
#[tokio::test(start_paused = true)]
async fn another_driver_is_another_application() {
    for blind in [false, true] {
        let world = World::start(9, Chaos::None, TARGET);
        let watch = move |request: &axum::http::request::Parts| {
            let watches = request.uri.query().is_some_and(|query| query.contains("watch=true"));
            let refused = Verdict::Respond { status: 500, retry_after: None, message: String::new() };
            if blind && watches { refused } else { Verdict::Pass }
        };
        world.server.set_interceptor(Some(Box::new(watch)));
        let config = document(TARGET, |document| document["spec"]["heartbeat"] = json!({ "disabled": true }));
        let client = Wire::new(1, LATENCY_MS).client(&world.server);
        let daemon = Daemon::start(&world, How { config, client, lease: false, number: 1 });
        let of = |application: &str| {
            let pods = world.pods();
            let theirs = |pod: &&Arc<serde_json::Value>| {
                pod["metadata"]["labels"]["spark-app-selector"] == application
                    && pod["status"]["phase"] == "Running"
            };
            (pods.iter().filter(theirs).count(), pods.len())
        };
        let all = (TARGET as usize, TARGET as usize);
        until(Duration::from_secs(120), || of(APPLICATION) == all, || format!("{:?}", of(APPLICATION))).await;
        world.server.delete("pods", NAMESPACE, DRIVER, Some(0)).expect("it is there");
        let driver = json!({
            "metadata": { "name": DRIVER, "labels": { "spark-role": "driver", "spark-app-selector": "spark-2" } },
            "spec": { "containers": [{ "name": "driver", "image": "spark" }] },
        });
        world.server.create("pods", NAMESPACE, driver).expect("the name is free");
        until(
            Duration::from_secs(180),
            || of("spark-2") == all,
            || format!("blind {blind}: {:?}", of("spark-2")),
        )
        .await;
        let ledgers = world.server.list("configmaps").len();
        assert_eq!(ledgers, 1, "the first application's ledger went with its driver");
        assert_eq!(daemon.stop().await, Ended::Stopped);
    }
}

async fn until(limit: Duration, holds: impl Fn() -> bool, state: impl Fn() -> String) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < limit, "not within {limit:?}: {}", state());
        sleep(Duration::from_millis(100)).await;
    }
}
