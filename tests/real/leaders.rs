//! Several daemons and one Lease: never two act, and whoever stands by takes over in time.

use std::time::{Duration, Instant};

use super::stage::{Daemon, Fleet, PATIENCE, Stage};
use super::tools;

const LEASE: &str = "leaders";
/// What the Lease is good for, what its watchers wait between looks, and a busy machine.
const TAKEOVER: Duration = Duration::from_secs(15 + 3 + 5);

fn holder(stage: &Stage) -> String {
    let holder = stage.admin(&["get", "lease", LEASE, "-o", "jsonpath={.spec.holderIdentity}"], "");
    // Behind the pod's name is what makes it this process.
    holder.split('_').next().unwrap_or_default().to_owned()
}

/// One that would lead, as soon as it may.
fn candidate(stage: &Stage, fleet: &Fleet) -> Daemon {
    stage.daemon(&[fleet], &["--lease", LEASE])
}

/// Somebody deletes an executor, and whoever leads now makes it good.
fn takes_over(stage: &Stage, daemon: &Daemon, fleet: &Fleet, what: &str) -> Duration {
    let begun = Instant::now();
    let (_, pod) = stage.pods(fleet).unwrap().into_iter().next().unwrap();
    stage.admin(&["delete", "pod", "--wait=false", pod["metadata"]["name"].as_str().unwrap()], "");
    stage.until(daemon, "taken over", || {
        let holder = holder(stage);
        if holder == daemon.name { Ok(()) } else { Err(format!("{holder} holds the Lease")) }
    });
    let took = begun.elapsed();
    println!("{what}: taken over after {:.1} s", took.as_secs_f64());
    stage.at_strength(daemon, fleet, what);
    took
}

#[test]
fn one_leads_at_a_time() {
    let Some(tools) = tools() else { return };
    let stage = Stage::shared(&tools);
    let fleet = stage.fleet("leaders", 4, |_| {});
    let first = candidate(&stage, &fleet);
    stage.at_strength(&first, &fleet, "the first leads");

    let mut second = candidate(&stage, &fleet);
    let mut order = vec![first.name.clone(), second.name.clone()];
    drop(first);
    let took = takes_over(&stage, &second, &fleet, "leader killed");
    assert!(took < TAKEOVER, "{took:?}");

    // A leader that stands still past its Lease finds out as it wakes up, and does nothing more.
    let mut third = candidate(&stage, &fleet);
    order.push(third.name.clone());
    second.signal("STOP");
    let took = takes_over(&stage, &third, &fleet, "leader stopped");
    assert!(took < TAKEOVER, "{took:?}");
    second.signal("CONT");
    let ended = second.wait(PATIENCE);
    assert_eq!(ended.code(), Some(1), "it leads no more\n{}", second.log());

    // One that is asked to end hands over.
    let fourth = candidate(&stage, &fleet);
    order.push(fourth.name.clone());
    third.signal("TERM");
    assert!(third.wait(PATIENCE).success(), "{}", third.log());
    let took = takes_over(&stage, &fourth, &fleet, "leader ended in order");
    assert!(took < Duration::from_secs(10), "nobody has to wait for a Lease that was released: {took:?}");

    let tokens: Vec<String> = order.iter().map(|name| stage.token_id(name)).collect();
    let acts = |request: &super::judge::Request| {
        let ledger = request.resource == "configmaps" && request.verb != "get";
        (request.changes_pods() || ledger) && request.code < 300
    };
    let requests = stage.requests();
    let mut acted: Vec<&String> = requests
        .iter()
        .filter(|request| tokens.contains(&request.token) && acts(request))
        .map(|request| &request.token)
        .collect();
    acted.dedup();
    assert_eq!(acted, tokens.iter().collect::<Vec<_>>(), "one after the other, in the order of {order:?}");
    stage.judge(&fleet);
}
