use super::*;

fn entry(application: &str, prefix: Option<&str>) -> FleetEntry {
    FleetEntry {
        application_id: application.to_owned(),
        graphite_prefix: prefix.map(str::to_owned),
        ..FleetEntry::default()
    }
}

fn head(directory: &Directory, name: &str) -> Option<(String, usize)> {
    let (end, fleets) = directory.heads_of(name.as_bytes()).into_iter().next()?;
    let names: Vec<&str> = fleets.iter().map(|fleet| &*fleet.name).collect();
    Some((names.join(" "), end))
}

#[test]
fn a_metric_belongs_to_the_fleet_with_the_longest_head() {
    let directory = Directory::default();
    directory.set_fleet("plain", entry("spark-1", None)).unwrap();
    directory.set_fleet("dotted", entry("a.b", Some("team.x"))).unwrap();
    directory.set_fleet("inner", entry("spark-1.7", None)).unwrap();
    assert_eq!(head(&directory, "spark-1.3.executor.runTime"), Some(("plain".to_owned(), 7)));
    assert_eq!(head(&directory, "team.x.a.b.3.executor"), Some(("dotted".to_owned(), 10)));
    assert_eq!(head(&directory, "spark-1.7.3.executor"), Some(("inner".to_owned(), 9)));
    for name in ["a.b.3.executor", "spark-1", "spark-12.3.x", "x.spark-1.3.y", "", ".", "...."] {
        assert_eq!(head(&directory, name), None, "{name}");
    }
    directory.remove_fleet("dotted");
    assert_eq!(head(&directory, "team.x.a.b.3.executor"), None);
}

#[test]
fn executors_outlive_a_new_entry_but_not_a_new_application() {
    let directory = Directory::default();
    let one = ExecutorEntry { uid: Uid::from("u1"), pod_ip: None, runs: false };
    directory.set_fleet("f", entry("spark-1", None)).unwrap();
    directory.set_executor("f", ExecutorId(1), one.clone());
    directory.set_fleet("f", entry("spark-1", Some("p"))).unwrap();
    assert_eq!(directory.fleet("f").unwrap().executor(ExecutorId(1)), Some(one));
    // The deletion of a pod that was replaced under the same id does not affect the new one.
    directory.remove_executor("f", ExecutorId(1), &Uid::from("u0"));
    assert!(directory.applications("spark-1").first().unwrap().executor(ExecutorId(1)).is_some());
    directory.remove_executor("f", ExecutorId(1), &Uid::from("u1"));
    assert_eq!(directory.fleet("f").unwrap().executor(ExecutorId(1)), None);
    let two = ExecutorEntry { uid: Uid::from("u2"), pod_ip: None, runs: false };
    directory.set_executor("f", ExecutorId(2), two);
    directory.set_fleet("f", entry("spark-2", None)).unwrap();
    assert_eq!(directory.fleet("f").unwrap().executor(ExecutorId(2)), None);
    assert!(directory.applications("spark-1").is_empty());
}

#[test]
fn a_bad_entry_is_refused_and_the_old_one_stays() {
    let directory = Directory::default();
    directory.set_fleet("f", entry("spark-1", None)).unwrap();
    for bad in ["", "..", "a/b", "a b", "a\nb", &"x".repeat(NAME_MAX + 1)] {
        assert!(matches!(directory.set_fleet("f", entry(bad, None)), Err(DirectoryError::Name { .. })));
        assert!(directory.set_fleet("f", entry("spark-1", Some(bad))).is_err());
    }
    let many = vec!["jvm.x".to_owned(); EXTRA_COLUMNS_MAX + 1];
    let many = FleetEntry { extra_columns: many, ..entry("spark-1", None) };
    assert_eq!(directory.set_fleet("f", many), Err(DirectoryError::Columns { count: 65 }));
    assert!(!directory.applications("spark-1").is_empty());
}

/// Two namespaces may have the same id, and checked fleets the same head. A real conflict is rejected, and the
/// directory is unchanged.
#[test]
fn what_two_fleets_cannot_both_have_is_contested() {
    let of = |namespace: &str, application: &str, check_peer| FleetEntry {
        pods_namespace: namespace.to_owned(),
        check_peer,
        ..entry(application, None)
    };
    let directory = Directory::default();
    directory.set_fleet("b", of("team-b", "spark-b", true)).unwrap();
    directory.set_fleet("thief", of("team-c", "spark-b", true)).unwrap();
    directory.set_fleet("relayed", of("team-d", "spark-b", false)).unwrap();
    let contested = |name: &str, entry| match directory.set_fleet(name, entry) {
        Err(DirectoryError::Contested(contest)) => contest,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        contested("twin", of("team-b", "spark-b", true)),
        Contest::Application { id: "spark-b".to_owned(), fleet: "b".into() }
    );
    let head = contested("other", of("team-e", "spark-b", false));
    assert_eq!(head, Contest::Head { head: "spark-b".to_owned(), fleet: "relayed".into() });
    assert!(head.to_string().contains("leave heartbeat.checkPeer: true in both"), "{head}");
    assert_eq!(directory.applications("spark-b").len(), 3);
    assert!(directory.fleet("twin").is_none() && directory.fleet("other").is_none());
    directory.remove_fleet("relayed");
    directory.set_fleet("other", of("team-e", "spark-b", false)).unwrap();
}

/// Claims have a total order.
#[test]
fn a_claim_is_better_by_document_then_age_then_uid() {
    let claim = |documented, since_ms, uid: &str| Claim {
        documented,
        since_ms,
        driver: Some(Uid::from(uid)),
        fleet: "f".to_owned(),
    };
    let ranked = [
        claim(true, 1, "b"),
        claim(true, 2, "a"),
        claim(false, 1, "a"),
        claim(false, 1, "b"),
        claim(false, i64::MAX, "a"),
    ];
    for (place, one) in ranked.iter().enumerate() {
        for (other_place, other) in ranked.iter().enumerate() {
            assert_eq!(one.outranks(other), place < other_place, "{one:?} {other:?}");
        }
    }
    let named = Claim { fleet: "a".to_owned(), ..ranked[0].clone() };
    assert!(named.outranks(&ranked[0]) && !ranked[0].outranks(&named));
    assert_eq!(ranked[0].advantage(&ranked[1]), "has the older driver pod");
    assert_eq!(ranked[1].advantage(&ranked[2]), "has the id from its document, and not from a label");
    let directory = Directory::default();
    for (name, claim) in ["e", "d", "c", "b", "a"].into_iter().zip(ranked.into_iter().rev()) {
        let pods_namespace = name.to_owned();
        let entry = FleetEntry { claim, check_peer: true, pods_namespace, ..entry("spark-1", None) };
        directory.set_fleet(name, entry).unwrap();
    }
    let order: Vec<_> =
        directory.applications("spark-1").iter().map(|fleet| fleet.name.to_string()).collect();
    assert_eq!(order, ["a", "b", "c", "d", "e"]);
    assert_eq!(&*directory.applications("spark-1").first().unwrap().name, "a");
}

#[test]
fn an_address_tells_whose_pods_are_there() {
    let directory = Directory::default();
    let ip = |last| IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, last));
    for (name, check_peer) in [("a", true), ("b", true), ("relayed", false)] {
        directory.set_fleet(name, FleetEntry { check_peer, ..entry(name, None) }).unwrap();
    }
    let pod = |fleet: &str, id, pod_ip, runs| {
        let entry = ExecutorEntry { uid: Uid::from("u"), pod_ip, runs };
        directory.set_executor(fleet, ExecutorId(id), entry);
    };
    pod("a", 1, Some(ip(1)), true);
    pod("a", 2, Some(ip(2)), true);
    pod("b", 1, Some("::ffff:10.0.0.2".parse().unwrap()), true);
    let named = |fleets: Vec<Arc<Fleet>>| {
        let mut names: Vec<_> = fleets.iter().map(|fleet| fleet.name.to_string()).collect();
        names.sort_unstable();
        names.join(" ")
    };
    assert_eq!((named(directory.at(ip(1))), named(directory.at(ip(2)))), ("a".into(), "a b".into()));
    assert_eq!(named(directory.concerned(ip(1))), "a", "it is a pod of fleet a");
    assert_eq!(named(directory.concerned(ip(9))), "relayed");
    pod("b", 7, None, false);
    assert_eq!(named(directory.concerned(ip(9))), "relayed", "it does not run yet");
    pod("b", 7, None, true);
    assert_eq!(named(directory.concerned(ip(9))), "b relayed");
    directory.set_fleet("b", FleetEntry { check_peer: true, ..entry("b-2", None) }).unwrap();
    assert_eq!(
        (named(directory.at(ip(2))), named(directory.concerned(ip(9)))),
        ("a".into(), "relayed".into())
    );
    directory.remove_executor("a", ExecutorId(1), &Uid::from("another"));
    assert_eq!(named(directory.at(ip(1))), "a");
    directory.remove_executor("a", ExecutorId(1), &Uid::from("u"));
    directory.remove_fleet("a");
    assert_eq!((named(directory.at(ip(1))), named(directory.at(ip(2)))), (String::new(), String::new()));
}

#[test]
fn a_secret_is_compared_and_not_shown() {
    let secret = Secret::new("s3cret");
    assert!(secret.matches(&Secret::new("s3cret")));
    assert!(!secret.matches(&Secret::new("s3cre")));
    assert_eq!(format!("{secret:?}"), "Secret(..)");
}
