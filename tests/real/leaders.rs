//! Several daemons and one Lease: never do two of them act, and a standby takes over in time, and is not ready until
//! then unless it can forward (see `failover`).

use std::io::{self, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::control_plane::HOME;
use super::stage::{Daemon, Fleet, PATIENCE, Stage};
use super::tools;

const LEASE: &str = "leaders";
/// The duration of the Lease, the retry period of the candidates, and a margin for a busy machine.
const TAKEOVER: Duration = Duration::from_secs(15 + 3 + 10);

fn holder(stage: &Stage) -> String {
    let holder =
        stage.admin(&["get", "lease", LEASE, "-n", HOME, "-o", "jsonpath={.spec.holderIdentity}"], "");
    // After the pod's name comes the identity of this process.
    holder.split('_').next().unwrap_or_default().to_owned()
}

/// A daemon that tries to become the leader.
fn candidate(stage: &Stage, fleet: &Fleet) -> Daemon {
    stage.daemon(&[fleet], &["--lease", LEASE])
}

/// The answer to a probe: the status line and the body.
fn probe(daemon: &Daemon, path: &str) -> io::Result<String> {
    let answer =
        daemon.http(&format!("GET {path} HTTP/1.1\r\nHost: rollcall\r\nConnection: close\r\n\r\n"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    Ok(format!("{} {}", head.split(' ').nth(1).unwrap(), body.trim_end()))
}

/// While another daemon leads, it is live and not ready.
fn stands_by(stage: &Stage, daemon: &Daemon, leader: &Daemon) {
    stage.until("standing by", || match probe(daemon, "/readyz") {
        Ok(said)
            if said.starts_with(&format!("503 this host stands by and cannot forward: {}_", leader.name))
                && said.ends_with(" leads") =>
        {
            Ok(())
        }
        said => Err(format!("{said:?}")),
    });
    assert_eq!(probe(daemon, "/livez").unwrap(), "200 ok");
    let mut sink = TcpStream::connect(daemon.graphite).unwrap();
    sink.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert!(sink.read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset));
}

fn is_ready(stage: &Stage, daemon: &Daemon) {
    stage.until("ready", || match probe(daemon, "/readyz") {
        Ok(said) if said == "200 ok: this host leads" => Ok(()),
        said => Err(format!("{said:?}")),
    });
}

/// Deletes an executor, which the current leader must replace.
fn takes_over(stage: &Stage, daemon: &Daemon, fleet: &Fleet, what: &str) -> Duration {
    let begun = Instant::now();
    let (_, pod) = stage.pods(fleet).unwrap().into_iter().next().unwrap();
    stage.admin(&["delete", "pod", "--wait=false", pod["metadata"]["name"].as_str().unwrap()], "");
    stage.until("taken over", || {
        let holder = holder(stage);
        if holder == daemon.name { Ok(()) } else { Err(format!("{holder} holds the Lease")) }
    });
    let took = begun.elapsed();
    println!("{what}: taken over after {:.1} s", took.as_secs_f64());
    stage.at_strength(daemon, fleet, what);
    is_ready(stage, daemon);
    took
}

#[test]
fn one_leads_at_a_time() {
    let Some(tools) = tools() else { return };
    let stage = Stage::shared(&tools);
    let fleet = stage.fleet("leaders", 4, |_| {});
    let first = candidate(&stage, &fleet);
    stage.at_strength(&first, &fleet, "the first leads");
    is_ready(&stage, &first);

    let mut second = candidate(&stage, &fleet);
    let mut order = vec![first.name.clone(), second.name.clone()];
    stands_by(&stage, &second, &first);
    drop(first);
    let took = takes_over(&stage, &second, &fleet, "leader killed");
    assert!(took < TAKEOVER, "{took:?}");

    // A leader that is frozen past its Lease notices when it continues, and makes no further call.
    let mut third = candidate(&stage, &fleet);
    order.push(third.name.clone());
    stands_by(&stage, &third, &second);
    second.signal("STOP");
    let took = takes_over(&stage, &third, &fleet, "leader stopped");
    assert!(took < TAKEOVER, "{took:?}");
    second.signal("CONT");
    let ended = second.wait(PATIENCE);
    assert_eq!(ended.code(), Some(1), "it does not lead any more");

    // A daemon that is stopped hands over.
    let fourth = candidate(&stage, &fleet);
    order.push(fourth.name.clone());
    stands_by(&stage, &fourth, &third);
    third.signal("TERM");
    assert!(third.wait(PATIENCE).success());
    let took = takes_over(&stage, &fourth, &fleet, "leader ended in order");
    assert!(took < Duration::from_secs(10), "the takeover waited for a Lease that was released: {took:?}");

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
