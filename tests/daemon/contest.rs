//! Two fleets claim one application id. There is no kubelet: the test writes the status of each pod.

use std::time::Duration;

use embedded::server::Server;
use fleet::action::Reply;
use fleet::event::Command;
use rollcall::config::FleetConfig;
use rollcall::handle::{Commanded, NoFleet, Overview};
use rollcall::heartbeat::{Directory, intake};
use serde_json::json;
use tokio::time::sleep;

use super::replay::cluster;
use super::support::{APPLICATION, DRIVER, Daemon, How, NAMESPACE, document, policies};

/// A fleet named after its driver, whose document may have the id.
fn fleet(namespace: &str, name: &str, driver: &str, documented: bool) -> FleetConfig {
    document(1, |document| {
        document["metadata"] = json!({ "name": name, "namespace": namespace });
        let spec = &mut document["spec"];
        spec["driver"]["podName"] = driver.into();
        spec["heartbeat"] = json!({ "disabled": true });
        spec["allocation"] = json!({ "pendingTimeout": "24h", "maxStartFailures": 100 });
        if documented {
            spec["applicationId"] = APPLICATION.into();
        }
    })
}

/// A younger pod of another driver with the same application label.
async fn another_driver(server: &Server, namespace: &str) {
    sleep(Duration::from_secs(2)).await;
    let labels = json!({ "spark-role": "driver", "spark-app-selector": APPLICATION });
    let pod = json!({
        "metadata": { "name": "driver-2", "labels": labels },
        "spec": { "containers": [{ "name": "spark-kubernetes-driver", "image": "apache/spark:4.3.0" }] },
    });
    server.create("pods", namespace, pod).expect("the name is free");
    server.change("pods", namespace, "driver-2", |pod| {
        pod["status"] = json!({ "phase": "Running", "podIP": "127.0.0.2" });
    });
}

async fn overviews(daemon: &Daemon) -> Vec<Overview> {
    daemon.handle.overview().await.expect("it answers")
}

fn contested(overview: &Overview) -> Option<&str> {
    let condition = overview.conditions.iter().find(|condition| condition.name == "IdentityContested");
    condition.map(|condition| &*condition.message)
}

/// First one fleet, then both; and the same after a restart.
#[tokio::test(start_paused = true)]
async fn the_same_fleet_has_the_id_in_whatever_order_they_come() {
    for (documented, winner, advantage) in [
        ("neither", "older", "has the older driver pod"),
        ("older", "older", "has the id from its document"),
        ("younger", "younger", "has the id from its document"),
        ("both", "older", "has the older driver pod"),
    ] {
        for first in ["older", "younger"] {
            let (server, _) = cluster();
            another_driver(&server, NAMESPACE).await;
            let config = |name: &str| {
                let driver = if name == "older" { DRIVER } else { "driver-2" };
                fleet(NAMESPACE, name, driver, documented == name || documented == "both")
            };
            for start in ["started", "restarted"] {
                let client = cluster::Client::new(server.clone(), NAMESPACE);
                let how = How { config: config(first), client, lease: false, number: 1 };
                let (_ear, signs) = intake::channel();
                let daemon = Daemon::with(how, policies(), Directory::default().into(), signs);
                if start == "started" {
                    sleep(Duration::from_secs(10)).await;
                    let alone = overviews(&daemon).await;
                    assert!(
                        alone[0].phase != "awaiting-driver" && contested(&alone[0]).is_none(),
                        "{alone:#?}"
                    );
                }
                let both = vec![config("older"), config("younger")];
                daemon.give(&policies(), &both).await;
                sleep(Duration::from_secs(20)).await;
                let fleets = overviews(&daemon).await;
                for overview in &fleets {
                    let said = contested(overview).unwrap_or_default();
                    let context = format!("{documented} first {first} {start}: {fleets:#?}");
                    let waits = overview.phase == "awaiting-driver";
                    assert_eq!(waits, overview.fleet != winner, "{context}");
                    let other = if overview.fleet == "older" { "younger" } else { "older" };
                    assert!(said.contains(other) && said.contains(advantage), "{context}");
                }
                assert_eq!(fleets.len(), 2);
                daemon.kill().await;
            }
        }
    }
}

/// A driver in another namespace has the same name: both fleets run, and there is no conflict.
#[tokio::test(start_paused = true)]
async fn another_namespace_may_have_the_same_id() {
    let (server, _) = cluster();
    server.create("namespaces", "", json!({ "metadata": { "name": "team-c" } })).expect("a namespace");
    another_driver(&server, "team-c").await;
    let client = cluster::Client::new(server.clone(), NAMESPACE);
    let thief = fleet("team-c", "thief", "driver-2", true);
    let how = How { config: thief.clone(), client, lease: false, number: 1 };
    let (_ear, signs) = intake::channel();
    let daemon = Daemon::with(how, policies(), Directory::default().into(), signs);
    sleep(Duration::from_secs(10)).await;
    let both = vec![thief, fleet(NAMESPACE, "honest", DRIVER, false)];
    daemon.give(&policies(), &both).await;
    sleep(Duration::from_secs(20)).await;
    let fleets = overviews(&daemon).await;
    assert_eq!(fleets.len(), 2);
    for overview in &fleets {
        let context = format!("{fleets:#?}");
        assert!(contested(overview).is_none(), "{context}");
        assert!(overview.phase != "awaiting-driver", "{context}");
    }
    daemon.kill().await;
}

/// Fleets of two namespaces have the same name: both run, and a command names the namespace as well.
#[tokio::test(start_paused = true)]
async fn another_namespace_may_have_the_same_name() {
    let (server, _) = cluster();
    server.create("namespaces", "", json!({ "metadata": { "name": "team-c" } })).expect("a namespace");
    another_driver(&server, "team-c").await;
    let client = cluster::Client::new(server.clone(), NAMESPACE);
    let theirs = fleet("team-c", "etl", "driver-2", false);
    let how = How { config: theirs.clone(), client, lease: false, number: 1 };
    let (_ear, signs) = intake::channel();
    let daemon = Daemon::with(how, policies(), Directory::default().into(), signs);
    let both = vec![theirs, fleet(NAMESPACE, "etl", DRIVER, false)];
    daemon.give(&policies(), &both).await;
    sleep(Duration::from_secs(20)).await;
    let fleets = overviews(&daemon).await;
    assert_eq!(fleets.iter().filter(|fleet| fleet.phase != "awaiting-driver").count(), 2, "{fleets:#?}");
    let ours = format!("{NAMESPACE}/etl");
    let several = NoFleet::Ambiguous(vec![ours.clone(), "team-c/etl".to_owned()]);
    let pause = |called: &str| {
        let (handle, called) = (daemon.handle.clone(), called.to_owned());
        async move { handle.command(&called, Command::Pause, None).await.expect("it answers") }
    };
    assert_eq!(pause("etl").await, Commanded::NoFleet(several));
    assert_eq!(pause("team-d/etl").await, Commanded::NoFleet(NoFleet::Unknown));
    assert_eq!(pause("team-c/etl").await, Commanded::Replied(Reply::Done));
    let paused = |fleets: &[Overview]| -> Vec<String> {
        let is = |fleet: &&Overview| fleet.conditions.iter().any(|condition| condition.name == "Paused");
        fleets.iter().filter(is).map(Overview::key).collect()
    };
    assert_eq!(paused(&overviews(&daemon).await), ["team-c/etl"]);
    assert!(daemon.handle.snapshot(&ours).await.expect("it answers").is_ok());
    daemon.kill().await;
}
