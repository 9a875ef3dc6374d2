//! Classes of fleets, as people write them.

use super::*;

/// A whole namespace under observation, in ten lines.
const OBSERVE: &str = "apiVersion: rollcall.dev/v1alpha1
kind: ExecutorFleetClass
metadata: {name: everything}
spec:
  namespaces: [spark]
  fleet:
    mode: Observe
    dryRun: true
    limits: {maxUnavailable: 1}
    roll: {policies: [OUTLIER], interval: 1h}
";

#[test]
fn a_class_is_read_beside_fleets() {
    let dir = Dir::new("class");
    let file = dir.file("both.yaml", format!("{MINIMAL}---\n{OBSERVE}"));
    let Documents { fleets, classes } = load(&[file]).unwrap();
    assert_eq!((fleets.len(), classes.len()), (1, 1));
    let class = &classes[0];
    assert_eq!((class.name(), class.fleet.document), ("everything", 2));
    assert_eq!(class.fleet.fleet.spec.executors, 0);
    // The effective document is read as the same class.
    let again = dir.file("again.yaml", yaml(&class.effective()).unwrap());
    let again = load(&[again]).unwrap().classes.remove(0);
    assert_eq!(again.fleet.fleet, class.fleet.fleet);
    assert_eq!(again.class, class.class);
}

#[test]
fn what_is_wrong_in_a_class_is_told_with_its_place_and_remedy() {
    let dir = Dir::new("wrong-class");
    let instead = |old: &str, new: &str| {
        let text = OBSERVE.replacen(old, new, 1);
        assert_ne!(text, OBSERVE, "{old}");
        text
    };
    for (text, expected) in [
        (
            instead("dryRun: true", "dryrun: true"),
            "f.yaml: document 1: spec.fleet.dryrun: unknown field
  help: did you mean `spec.fleet.dryRun`?",
        ),
        (
            instead("interval: 1h", "interval: 1"),
            "f.yaml: document 1: spec.fleet.roll.interval: \"1\" has no unit: write 1s, 1m or 1h",
        ),
        (
            instead("    dryRun: true", "    driver: {podName: d}"),
            "f.yaml: document 1: spec.fleet.driver.podName: is each driver's own: a class has none
  help: leave it out, or write an ExecutorFleet for this one driver",
        ),
        (
            instead("    dryRun: true", "    applicationId: spark-1"),
            "f.yaml: document 1: spec.fleet.applicationId: is each driver's own: a class has none
  help: leave it out, or write an ExecutorFleet for this one driver",
        ),
        (
            instead("mode: Observe", "mode: Own"),
            "f.yaml: document 1: spec.fleet.template: is required
  help: with mode Own Rollcall creates the pods, and needs a PodTemplateSpec to make them from",
        ),
        (
            instead("namespaces: [spark]", "namespaces: [Spark]"),
            "f.yaml: document 1: spec.namespaces[0]: \"Spark\" is not a namespace
  help: 1 to 63 of a-z, 0-9 and -, with a letter or digit at both ends",
        ),
        (
            instead(
                "namespaces: [spark]",
                "selector: {matchExpressions: [{key: team, operator: In}, {key: 'a b', operator: Exists}]}",
            ),
            "f.yaml: document 1: spec.selector.matchExpressions[0].values: needs values
  help: as in a Deployment's selector
f.yaml: document 1: spec.selector: \"a b\" is not the key of a label
  help: write it as on the driver's pod",
        ),
        (
            instead("namespaces: [spark]", "overrides: [Executors]"),
            "f.yaml:5:15: document 1: spec.overrides[0]: must be Mode or RollPolicies or RollInterval or Paused or DryRun",
        ),
        (
            format!("{OBSERVE}---\n{OBSERVE}"),
            "f.yaml: document 2: metadata.name: the class everything is there already: f.yaml, document 1
  help: give it another name",
        ),
    ] {
        assert_eq!(dir.problems("f.yaml", &text).join("\n"), expected, "{text}");
    }
}
