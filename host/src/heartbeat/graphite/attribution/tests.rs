use std::net::Ipv4Addr;

use super::*;
use crate::heartbeat::directory::{ExecutorEntry, FleetEntry};

const NODE: u8 = 100;

fn ip(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, last).into()
}

fn fleet(directory: &Directory, name: &str, application: &str, check_peer: bool, pods: &[(u64, Option<u8>)]) {
    let entry = FleetEntry {
        pods_namespace: name.to_owned(),
        application_id: application.to_owned(),
        check_peer,
        ..FleetEntry::default()
    };
    directory.set_fleet(name, entry).unwrap();
    for (id, last) in pods {
        let pod =
            ExecutorEntry { uid: Uid::from(&*format!("{name}-{id}")), pod_ip: last.map(ip), runs: true };
        directory.set_executor(name, ExecutorId(*id), pod);
    }
}

/// `true 7 of b (b-7)`, or the rejection and the fleets that it impairs.
fn says(directory: &Directory, last: u8, name: &str) -> String {
    match attribute(directory, ip(last), name.as_bytes()) {
        Attribution::Believed(Believed { fleet, executor, uid, length }) => {
            let uid = uid.map_or("any".to_owned(), |uid| uid.to_string());
            format!("{executor} of {} ({uid}), then {}", fleet.name, &name[length..])
        }
        Attribution::Refused(refused) => {
            let impairs: Vec<&str> = refused.impairs.iter().map(|fleet| &*fleet.name).collect();
            format!("{} {}", refused.fate, impairs.join(" ")).trim_end().to_owned()
        }
        Attribution::HeadAlone => "head alone".to_owned(),
        Attribution::Unknown => "unknown".to_owned(),
    }
}

/// The attacks of the review: a driver names itself like a prefix of another fleet's names, and like the other fleet.
#[test]
fn a_name_takes_nothing_from_who_has_a_pod() {
    let honest = |directory: &Directory| {
        assert_eq!(
            says(directory, 1, "spark-b.1.executor.runTime.count"),
            "1 of b (b-1), then executor.runTime.count"
        );
        assert_eq!(says(directory, 2, "spark-b.2.jvm.heap.used"), "2 of b (b-2), then jvm.heap.used");
    };
    let names = ["spark-b.1", "spark-b", "spark-b.1.executor", "spark-b.2", "spark", "spark-b.1.2"];
    for check_peer in [true, false] {
        for theirs in names {
            // In both orders of arrival.
            for first in [true, false] {
                let directory = Directory::default();
                let thief = |directory: &Directory| {
                    let pods = [(1, Some(51)), (2, Some(52)), (7, None)];
                    fleet(directory, "thief", theirs, check_peer, &pods);
                };
                if first {
                    thief(&directory);
                }
                fleet(&directory, "b", "spark-b", true, &[(1, Some(1)), (2, Some(2))]);
                if !first {
                    thief(&directory);
                }
                honest(&directory);
                // The impostor cannot report for it either.
                for id in [1, 2] {
                    let said = says(&directory, 51, &format!("spark-b.{id}.executor.runTime.count"));
                    assert!(!said.contains("of b "), "{theirs} {check_peer}: {said}");
                    assert!(!said.ends_with(" b"), "{theirs} {check_peer}: {said} impairs b");
                }
            }
        }
    }
}

#[test]
fn what_is_not_believed_impairs_only_those_it_may_be_of() {
    let directory = Directory::default();
    fleet(&directory, "b", "spark-b", true, &[(1, Some(1)), (2, Some(2)), (3, None)]);
    fleet(&directory, "other", "spark-o", true, &[(1, Some(11))]);
    fleet(&directory, "relayed", "spark-r", false, &[(1, Some(21)), (2, None)]);
    let waits = ExecutorEntry { uid: Uid::from("p"), pod_ip: None, runs: false };
    directory.set_executor("b", ExecutorId(4), waits);
    for (last, name, said) in [
        (1, "spark-b.1.x", "1 of b (b-1), then x"),
        (2, "spark-b.1.x", "wrong-peer"),
        (99, "spark-b.1.x", "wrong-peer"),
        (11, "spark-b.1.x", "wrong-peer"),
        // Its address is unknown: no sender is accepted, and only an unknown address can be its own.
        (99, "spark-b.3.x", "wrong-peer b"),
        (1, "spark-b.3.x", "wrong-peer"),
        (11, "spark-b.3.x", "wrong-peer"),
        // The same for a pod that does not run yet.
        (99, "spark-b.4.x", "wrong-peer"),
        (1, "spark-b.9.x", "unknown-executor"),
        (99, "spark-b.9.x", "unknown-executor"),
        (1, "spark-b.driver.x", "ignored"),
        (1, "spark-b.x.y", "head alone"),
        (1, "spark-b", "unknown"),
        (1, "spark-c.1.x", "unknown"),
        (99, "spark-r.1.x", "1 of relayed (any), then x"),
        (99, "spark-r.2.x", "2 of relayed (any), then x"),
        (11, "spark-r.1.x", "1 of relayed (any), then x"),
        (99, "spark-r.3.x", "unknown-executor"),
    ] {
        assert_eq!(says(&directory, last, name), said, "{name} from {last}");
    }
}

/// One node, host network: several fleets at one address.
#[test]
fn fleets_at_one_address_are_told_apart_by_names() {
    let directory = Directory::default();
    fleet(&directory, "b", "etl", true, &[(1, Some(NODE)), (7, Some(NODE))]);
    fleet(&directory, "c", "web", true, &[(1, Some(NODE))]);
    fleet(&directory, "long", "etl.7", true, &[(1, Some(NODE))]);
    fleet(&directory, "twin", "etl", true, &[(1, Some(NODE)), (2, Some(5))]);
    for (last, name, said) in [
        (NODE, "web.1.x", "1 of c (c-1), then x"),
        (NODE, "etl.7.executor.x", "7 of b (b-7), then executor.x"),
        (NODE, "etl.7.1.x", "1 of long (long-1), then x"),
        (NODE, "etl.1.x", "ambiguous b twin"),
        (5, "etl.2.x", "2 of twin (twin-2), then x"),
        (5, "etl.7.x", "wrong-peer"),
    ] {
        let said_now = says(&directory, last, name);
        let mut words: Vec<&str> = said_now.split(' ').collect();
        if words[0] == "ambiguous" {
            words[1..].sort_unstable();
        }
        assert_eq!(words.join(" "), said, "{name} from {last}");
    }
}
