//! A tenant writes its own fleet's ledger, and no other fleet is affected.
//!
//! Two fleets in one daemon. There is no kubelet: an executor exists when its pod does.

use std::sync::Arc;
use std::time::Duration;

use embedded::server::Server;
use fleet::action::Reply;
use fleet::event::Command;
use fleet::guardrail::Refusal;
use rollcall::config::FleetConfig;
use rollcall::handle::{Commanded, Overview};
use rollcall::heartbeat::intake;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::replay::{cluster, runs};
use super::support::{APPLICATION, Daemon, How, NAMESPACE, document, policies};

const TARGET: usize = 3;
const LIMIT: Duration = Duration::from_secs(30);
/// The tenant's fleet.
const OTHER: &str = "web";
const OTHER_DRIVER: &str = "web-driver";
const OTHER_APPLICATION: &str = "spark-web";

/// A fleet of executors that never start, which makes no difference here.
fn fleet(change: impl FnOnce(&mut Value)) -> FleetConfig {
    document(3, |document| {
        document["spec"]["heartbeat"] = json!({ "disabled": true });
        document["spec"]["allocation"] = json!({ "pendingTimeout": "24h", "maxStartFailures": 100 });
        change(document);
    })
}

struct Town {
    server: Server,
    daemon: Daemon,
    /// How often an executor of the other tenant was deleted.
    deleted: usize,
}

impl Town {
    async fn start(lease: bool) -> Town {
        let (server, _) = cluster();
        let labels = json!({ "spark-role": "driver", "spark-app-selector": OTHER_APPLICATION });
        let driver = json!({
            "metadata": { "name": OTHER_DRIVER, "labels": labels },
            "spec": { "containers": [{ "name": "spark-kubernetes-driver", "image": "apache/spark:4.3.0" }] },
        });
        server.create("pods", NAMESPACE, driver).expect("the name is free");
        runs(&server, OTHER_DRIVER);
        let (neighbour, tenant) = (
            fleet(|_| {}),
            fleet(|document| {
                document["metadata"]["name"] = OTHER.into();
                document["spec"]["driver"]["podName"] = OTHER_DRIVER.into();
            }),
        );
        let client = cluster::Client::new(server.clone(), NAMESPACE);
        let how = How { config: neighbour.clone(), client, lease, number: 1 };
        let (_, signs) = intake::channel();
        let daemon = Daemon::with(how, policies(), Arc::default(), signs);
        daemon.give(&policies(), &[neighbour, tenant]).await;
        let town = Town { server, daemon, deleted: 0 };
        town.strong(APPLICATION).await;
        town.strong(OTHER_APPLICATION).await;
        town
    }

    fn executors(&self, application: &str) -> Vec<String> {
        let pods = self.server.list("pods");
        let of = pods.iter().filter(|pod| {
            let labels = &pod["metadata"]["labels"];
            labels["spark-role"] == "executor" && labels["spark-app-selector"] == application
        });
        of.filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect()
    }

    async fn strong(&self, application: &str) {
        self.until(&format!("{application} is at strength"), || self.executors(application).len() == TARGET)
            .await;
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let begun = Instant::now();
        while !holds() {
            assert!(!self.daemon.has_ended(), "the daemon has ended");
            assert!(begun.elapsed() < LIMIT, "not so after {LIMIT:?}: {what}; {:#?}", self.tenant().await);
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn delete_one(&self, application: &str) {
        let name = self.executors(application).remove(0);
        self.server.delete("pods", NAMESPACE, &name, Some(0)).expect("it is there");
    }

    /// Both fleets lose an executor, and the other tenant's is replaced as always.
    async fn both_lose_one(&mut self) {
        self.delete_one(OTHER_APPLICATION);
        self.delete_one(APPLICATION);
        self.deleted += 1;
        self.strong(APPLICATION).await;
    }

    async fn tenant(&self) -> Option<Overview> {
        let all = self.daemon.handle.overview().await.ok()?;
        all.into_iter().find(|overview| overview.fleet == OTHER)
    }

    fn ledger(&self) -> Option<Arc<Value>> {
        let mut maps = self.server.list("configmaps");
        maps.retain(|map| {
            map["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("rollcall-web-"))
        });
        maps.pop()
    }

    /// The tenant changes its fleet's ledger. Returns the ConfigMap's name.
    fn patch(&self, change: impl FnOnce(&mut Value)) -> String {
        let map = self.ledger().expect("a ledger");
        let name = map["metadata"]["name"].as_str().expect("a name").to_owned();
        self.server
            .change("configmaps", NAMESPACE, &name, |map| {
                let text = map["data"]["ledger"].as_str().expect("a record");
                let mut ledger = serde_json::from_str(text).expect("JSON");
                change(&mut ledger);
                map["data"]["ledger"] = ledger.to_string().into();
            })
            .expect("it is there");
        name
    }

    /// The fleet reports why it is parked, and where to look. Returns the message.
    async fn parked(&self, name: &str) -> String {
        let begun = Instant::now();
        loop {
            let tenant = self.tenant().await.expect("it answers");
            if let Some(refused) =
                tenant.conditions.iter().find(|condition| condition.name == "LedgerRefused")
            {
                assert_eq!(tenant.phase, "parked");
                assert!(refused.message.contains(name), "{}", refused.message);
                assert!(refused.message.contains("rollcall reset-ledger web"), "{}", refused.message);
                return refused.message.clone();
            }
            assert!(begun.elapsed() < LIMIT, "not parked: {tenant:#?}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// No event and no command makes it act. (The ids that it had reserved before it was parked were used.)
    async fn stands_still(&self) {
        self.delete_one(OTHER_APPLICATION);
        let before = self.executors(OTHER_APPLICATION);
        assert!(before.len() < TARGET);
        let roll = self.daemon.handle.command(OTHER, Command::Roll(None), None).await;
        assert_eq!(roll, Ok(Commanded::Replied(Reply::Refused(Refusal::LedgerRefused))));
        sleep(Duration::from_secs(60)).await;
        assert_eq!(self.executors(OTHER_APPLICATION), before);
        assert!(!self.daemon.has_ended() && self.daemon.leads());
    }

    async fn reset(&self) {
        let begun = Instant::now();
        let reset = self.daemon.handle.command(OTHER, Command::ResetLedger, None).await;
        assert_eq!(reset, Ok(Commanded::Replied(Reply::Done)), "after {:?}", begun.elapsed());
        self.strong(OTHER_APPLICATION).await;
        let tenant = self.tenant().await.expect("it answers");
        let refused = tenant.conditions.iter().any(|condition| condition.name == "LedgerRefused");
        assert!(tenant.phase == "active" && !refused, "{tenant:?}");
    }

    /// No name was ever given to two pods.
    fn no_id_was_used_twice(&self) {
        let (_, changes) = self.server.changes("pods", 0);
        let created = changes.expect("all of them").into_iter().filter(|change| change.before.is_none());
        let mut names: Vec<String> = created
            .filter_map(|change| Some(change.after?["metadata"]["name"].as_str()?.to_owned()))
            .collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(count > 2 * TARGET + self.deleted, "{count} pods were created");
    }
}

async fn absurd(lease: bool) {
    let mut town = Town::start(lease).await;
    type Patch = fn(&mut Value);
    let patches: [(&str, Patch); 4] = [
        ("`born`", |ledger| ledger["born"] = "1-2147483647".into()),
        ("`created`", |ledger| ledger["created"] = u64::MAX.into()),
        ("`reserved`", |ledger| ledger["reserved"] = u64::MAX.into()),
        ("JSON", |ledger| *ledger = "[".into()),
    ];
    for (field, patch) in patches {
        let name = town.patch(patch);
        town.both_lose_one().await;
        let message = town.parked(&name).await;
        assert!(message.contains(field), "{message}");
        town.stands_still().await;
        town.reset().await;
    }
    town.no_id_was_used_twice();
}

#[tokio::test(start_paused = true)]
async fn an_absurd_ledger_parks_its_own_fleet_alone() {
    absurd(true).await;
    absurd(false).await;
}

async fn usurped(lease: bool) {
    let mut town = Town::start(lease).await;
    for round in 1..=5 {
        let name = town.patch(|ledger| {
            ledger["epoch"] = (ledger["epoch"].as_u64().expect("a number") + 99).into();
            ledger["leader"] = format!("{round:016x}").into();
        });
        town.both_lose_one().await;
        let message = town.parked(&name).await;
        assert!(message.contains("epoch"), "{message}");
        if round == 1 {
            town.stands_still().await;
        }
        town.reset().await;
    }
    town.no_id_was_used_twice();
}

#[tokio::test(start_paused = true)]
async fn another_epoch_in_a_ledger_ends_no_daemon() {
    usurped(true).await;
    usurped(false).await;
}

/// No command is needed: the ConfigMap was deleted or restored.
#[tokio::test(start_paused = true)]
async fn a_ledger_that_is_good_again_is_gone_on_from() {
    let mut town = Town::start(true).await;
    let before = town.ledger().expect("a ledger")["data"].clone();
    let name = town.patch(|ledger| ledger["created"] = 1_000_000.into());
    town.both_lose_one().await;
    town.parked(&name).await;
    town.stands_still().await;
    town.server.change("configmaps", NAMESPACE, &name, |map| map["data"] = before).expect("it is there");
    town.strong(OTHER_APPLICATION).await;
    town.patch(|ledger| ledger["created"] = 1_000_000.into());
    town.both_lose_one().await;
    town.parked(&name).await;
    town.stands_still().await;
    town.server.delete("configmaps", NAMESPACE, &name, None).expect("it is there");
    town.strong(OTHER_APPLICATION).await;
    let in_order = town.daemon.handle.command(OTHER, Command::ResetLedger, None).await;
    assert_eq!(in_order, Ok(Commanded::Replied(Reply::Refused(Refusal::LedgerInOrder))));
    town.no_id_was_used_twice();
}
