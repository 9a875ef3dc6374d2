//! Losses caused by the cluster, with default limits: afterwards the fleet is at strength, and reports the cause.

use std::time::Duration;

use embedded::Chaos;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::support::{Daemon, How, Wire, balanced, calm, document, strong};
use super::world::World;

const AT_STRENGTH: Duration = Duration::from_secs(600);

/// With the default of every limit.
fn how(world: &World, executors: u32) -> How {
    let config = document(executors, |document| {
        for section in ["recovery", "allocation"] {
            document["spec"][section] = json!({});
        }
    });
    How { config, client: Wire::new(1, 5).client(&world.server), lease: false, number: 1 }
}

/// The messages of the Events with this reason.
fn said(world: &World, reason: &str) -> Vec<String> {
    let text = |event: &Value| event["message"].as_str().unwrap_or_default().to_owned();
    let events = world.server.list("events");
    events.iter().filter(|event| event["reason"] == reason).map(|event| text(event)).collect()
}

async fn ends_well(world: &World, daemon: &Daemon, lost: &str, count: u64) {
    let overview = daemon.overview().await.expect("the daemon answers");
    let conditions: Vec<_> = overview.conditions.iter().map(|condition| condition.name).collect();
    assert!(!conditions.contains(&"Failed"), "{conditions:?}");
    let all: u64 = overview.counts.lost.values().sum();
    let of_kind = overview.counts.lost.iter().find(|(kind, _)| kind.name() == lost).map(|(_, count)| *count);
    assert_eq!((of_kind, all), (Some(count), count), "{:?}", overview.counts.lost);
    balanced(world, daemon, 0).await;
    assert_eq!(said(world, "FleetFailed"), Vec::<String>::new());
    // Events are sent slowly.
    sleep(Duration::from_secs(30)).await;
    let lost: Vec<String> =
        said(world, "ExecutorLost").into_iter().filter(|note| note.contains(lost)).collect();
    assert!(!lost.is_empty(), "no Event says why: {:?}", said(world, "ExecutorLost"));
}

#[tokio::test(start_paused = true)]
async fn twelve_containers_lost_in_reboots_leave_four_executors() {
    let world = World::start(1, Chaos::None, 4);
    let daemon = Daemon::start(&world, how(&world, 4));
    strong(&world, &daemon, AT_STRENGTH).await;
    for _ in 0..3 {
        for node in world.busy_nodes() {
            world.happen(|cluster| cluster.reboot_node(&node));
        }
        sleep(Duration::from_secs(1)).await;
        calm(&world, &daemon, AT_STRENGTH).await;
    }
    ends_well(&world, &daemon, "node-lost", 12).await;
    assert!(said(&world, "ExecutorLost").iter().any(|note| note.contains("255")));
}

#[tokio::test(start_paused = true)]
async fn announced_reclaims_leave_two_executors() {
    let world = World::start(2, Chaos::None, 2);
    let daemon = Daemon::start(&world, how(&world, 2));
    strong(&world, &daemon, AT_STRENGTH).await;
    for _ in 0..4 {
        for node in world.busy_nodes() {
            world.happen(|cluster| cluster.announce_node(&node));
            sleep(Duration::from_secs(5)).await;
            world.happen(|cluster| cluster.take_node(&node));
        }
        sleep(Duration::from_secs(1)).await;
        calm(&world, &daemon, AT_STRENGTH).await;
    }
    ends_well(&world, &daemon, "node-lost", 8).await;
    assert!(said(&world, "ExecutorLost").iter().any(|note| note.contains("spot-itn")));
}
