//! From classes and drivers to fleets.

use cluster::watch::Drivers;
use serde_json::{Value, json};

use super::*;
use crate::config::class_from_object;

fn class(name: &str, spec: Value) -> ClassConfig {
    let object = json!({
        "apiVersion": "rollcall.dev/v1alpha1", "kind": "ExecutorFleetClass",
        "metadata": {"name": name}, "spec": spec,
    });
    class_from_object(&object, 1).unwrap()
}

fn driver(pod: &str, annotations: &[(&str, &str)]) -> Driver {
    let pairs = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>()
    };
    let driver = fleet::classes::Driver {
        namespace: "spark".to_owned(),
        pod: pod.to_owned(),
        labels: pairs(&[("team", "etl")]),
        live: true,
    };
    Driver { driver, uid: format!("uid-{pod}"), annotations: pairs(annotations) }
}

fn classes(all: Vec<ClassConfig>, drivers: Vec<Driver>) -> Classes {
    let classes = Classes::new(Documents { fleets: Vec::new(), classes: all }, None);
    classes.take(Drivers::All(drivers), &Some("spark".to_owned()));
    classes
}

fn observe() -> Value {
    json!({
        "namespaces": ["spark"],
        "fleet": {"mode": "Observe", "dryRun": true, "roll": {"policies": ["OUTLIER"], "interval": "1h"}},
    })
}

#[test]
fn a_driver_has_the_fleet_of_its_class_with_what_it_may_override() {
    let mut narrow = observe();
    narrow["overrides"] = json!(["Paused"]);
    narrow["selector"] = json!({"matchLabels": {"team": "etl"}});
    let annotations =
        [("rollcall.dev/paused", "true"), ("rollcall.dev/dry-run", "false"), ("rollcall.dev/mode", "Mine")];
    let all = classes(vec![class("narrow", narrow)], vec![driver("etl-1-driver", &annotations)]);
    let [fleet] = &all.fleets(&[])[..] else { panic!("one fleet") };
    let spec = &fleet.config.fleet.spec;
    assert_eq!(fleet.config.key(), "spark/etl-1-driver");
    assert_eq!((spec.driver.pod_name.as_str(), spec.executors), ("etl-1-driver", 0));
    assert!(spec.paused && spec.dry_run, "only paused may be overridden");
    let refused =
        |name| fleet.remarks.iter().any(|remark| remark.contains(name) && remark.contains("does not allow"));
    assert!(refused("dry-run") && refused("mode"), "{:?}", fleet.remarks);

    let annotations = [
        ("rollcall.dev/dry-run", "no"),
        ("rollcall.dev/mode", "Own"),
        ("rollcall.dev/roll-policies", "ID, ADD_TIME"),
        ("rollcall.dev/roll-interval", "30m"),
    ];
    let all = classes(vec![class("wide", observe())], vec![driver("d", &annotations)]);
    let [fleet] = &all.fleets(&[])[..] else { panic!("one fleet") };
    let roll = fleet.config.fleet.spec.roll.as_ref().unwrap();
    assert_eq!((roll.policies.join(" "), roll.interval.0), ("ID ADD_TIME".to_owned(), 1_800_000));
    assert!(fleet.remarks[0].contains("has no template"), "{:?}", fleet.remarks);
    assert!(fleet.remarks[1].contains("true or false"), "{:?}", fleet.remarks);
    assert_eq!(fleet.remarks.len(), 2);
}

#[test]
fn both_classes_say_which_has_the_driver() {
    let mut team = observe();
    team["selector"] = json!({"matchExpressions": [{"key": "team", "operator": "Exists"}]});
    let all = classes(vec![class("all", observe()), class("team", team)], vec![driver("d", &[])]);
    let [fleet] = &all.fleets(&[])[..] else { panic!("one fleet") };
    assert_eq!((fleet.class.as_str(), fleet.others.clone()), ("team", vec!["all".to_owned()]));
    assert_eq!(
        fleet.remarks,
        ["classes team and all match this driver; team has it, because it requires more of the labels"]
    );
}

#[test]
fn a_driver_that_goes_takes_its_fleet_along() {
    let all = classes(vec![class("all", observe())], vec![driver("a", &[]), driver("b", &[])]);
    let names = || all.fleets(&[]).iter().map(|fleet| fleet.config.key()).collect::<Vec<_>>();
    let scope = Some("spark".to_owned());
    assert_eq!(names(), ["spark/a", "spark/b"]);
    let mut ended = driver("a", &[]);
    ended.driver.live = false;
    all.take(Drivers::Changed(Box::new(ended)), &scope);
    assert_eq!(names(), ["spark/b"]);
    // The deletion of an earlier pod with the name.
    let earlier = Driver { uid: "earlier".to_owned(), ..driver("b", &[]) };
    all.take(Drivers::Gone(Box::new(earlier)), &scope);
    assert_eq!(names(), ["spark/b"]);
    all.take(Drivers::Gone(Box::new(driver("b", &[]))), &scope);
    assert_eq!(names(), [""; 0]);
}
