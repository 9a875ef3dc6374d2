//! Documents about pods and nodes.

use cluster::node::{Pattern, Place, Sign, Signs};

use super::*;

/// A document of mode Own, with this in its spec and in the spec of its template.
fn own(spec: &str, pod: &str) -> String {
    let own = MINIMAL.replace("Observe", "Own");
    format!(
        "{own}{spec}  template:\n    spec:\n{pod}      containers: [{{name: c, image: i, resources: {{limits: {{memory: 2Gi}}}}}}]\n"
    )
}

fn warnings(dir: &Dir, text: &str) -> Vec<String> {
    let warnings = one(dir, text).warnings();
    warnings.into_iter().map(|warning| format!("{}: {}", warning.path, warning.message)).collect()
}

#[test]
fn a_template_is_refused_with_its_places_and_remedies() {
    let dir = Dir::new("template");
    let pod = "      nodeselector: {a: b}\n      toleration: []\n      securityContext: {capabilities: {drop: [ALL]}}\n      quux: 1\n";
    let unknown = "unknown field: Kubernetes 1.37 has none of this name here";
    let problems = dir.problems("f.yaml", own("", pod));
    assert_eq!(
        problems[..3],
        [
            format!(
                "f.yaml: document 1: spec.template.spec.nodeselector: {unknown}\n  help: did you mean `nodeSelector`?"
            ),
            format!(
                "f.yaml: document 1: spec.template.spec.quux: {unknown}\n  help: known here: {}",
                problems[1].split_once("known here: ").map_or("", |(_, known)| known)
            ),
            format!(
                "f.yaml: document 1: spec.template.spec.toleration: {unknown}\n  help: did you mean `tolerations`?"
            ),
        ]
    );
    assert!(problems[1].contains("activeDeadlineSeconds, affinity, "), "{}", problems[1]);
    assert_eq!(
        problems[3..],
        [format!(
            "f.yaml: document 1: spec.template.spec.securityContext.capabilities: {unknown}\n  help: it belongs to \
             `spec.template.spec.containers[].securityContext.capabilities`"
        )]
    );
    for (spec, problem) in [
        (
            "  executorContainer: spark\n",
            "f.yaml: document 1: spec.executorContainer: no container of the template is called \"spark\"\n  help: there are c",
        ),
        (
            "  executorContainer: Spark\n",
            "f.yaml: document 1: spec.executorContainer: \"Spark\" is not a container's name\n  help: 1 to 63 of a-z, 0-9 \
             and -, with a letter or digit at both ends",
        ),
    ] {
        assert_eq!(dir.problems("f.yaml", own(spec, "")), [problem]);
    }
    assert!(dir.problems("f.yaml", own("  executorContainer: c\n", "")).is_empty());
}

#[test]
fn a_roll_needs_time_for_a_decommission() {
    let dir = Dir::new("grace");
    let zero = "      terminationGracePeriodSeconds: 0\n";
    let roll = |more: &str| format!("  roll: {{policies: [OUTLIER]{more}}}\n");
    assert_eq!(
        dir.problems("f.yaml", own(&roll(""), zero)),
        [
            "f.yaml: document 1: spec.template.spec.terminationGracePeriodSeconds: 0 would make each roll a forced deletion, \
             without a decommission\n  help: leave it out for Kubernetes' 30, write more, or set spec.roll.grace"
        ]
    );
    let path = "spec.template.spec.terminationGracePeriodSeconds";
    let forced = format!(
        "{path}: 0 makes each deletion that names no other time a forced one, without a decommission"
    );
    let short = format!(
        "{path}: executors that are removed have Kubernetes' 30 s to hand over their blocks, and are killed then"
    );
    let long = format!(
        "{path}: 900 s is not shorter than spec.roll.timeout, 15m: a roll that takes all of it is given up"
    );
    let seconds = |seconds: &str| format!("      terminationGracePeriodSeconds: {seconds}\n");
    for (spec, pod, expected) in [
        (roll(", grace: 1m"), seconds("0"), Some(&forced)),
        (String::new(), seconds("0"), Some(&forced)),
        (String::new(), String::new(), Some(&short)),
        (roll(""), String::new(), Some(&short)),
        (roll(", grace: 1m"), String::new(), None),
        ("  spark: {decommission: false}\n".to_owned(), String::new(), None),
        (roll(""), seconds("900"), Some(&long)),
        (roll(""), seconds("899"), None),
        (roll(", grace: 1m"), seconds("900"), None),
    ] {
        let text = own(&spec, &pod);
        assert!(dir.problems("f.yaml", &text).is_empty(), "{text}");
        assert_eq!(warnings(&dir, &text), Vec::from_iter(expected.cloned()), "{text}");
    }
    assert_eq!(warnings(&dir, MINIMAL), [""; 0], "the driver makes the pods");
}

#[test]
fn signs_of_nodes_are_the_clusters_until_they_are_replaced() {
    let dir = Dir::new("nodes");
    let minimal = one(&dir, MINIMAL);
    assert_eq!(minimal.signs(), Signs::default());
    let effective = yaml(&minimal.effective()).unwrap();
    for sign in ["karpenter.sh/capacity-type=spot", "taint: aws-node-termination-handler/*", "cordon: true"] {
        assert!(effective.contains(sign), "{effective}");
    }
    let nodes = "  nodes: {spotLabels: [pool=cheap, 'x.y/*'], departures: [{label: going, kind: Reclaimed}, {taint: a/b=c, kind: Drained}], cordon: false}\n";
    let pattern = |text: &str| text.parse::<Pattern>().unwrap();
    let sign = |place, text, kind| Sign { place, pattern: pattern(text), kind };
    let expected = Signs {
        spot: vec![pattern("pool=cheap"), pattern("x.y/*")],
        departures: vec![
            sign(Place::Label, "going", fleet::question::DepartureKind::Reclaimed),
            sign(Place::Taint, "a/b=c", fleet::question::DepartureKind::Drained),
        ],
        cordon: false,
    };
    let text = format!("{MINIMAL}{nodes}");
    assert_eq!(one(&dir, &text).signs(), expected);
    assert_eq!(one(&dir, &yaml(&one(&dir, &text).fleet).unwrap()).signs(), expected, "written as it is read");
    // An omitted list has its default.
    let one_list = one(&dir, &format!("{MINIMAL}  nodes: {{spotLabels: []}}\n")).signs();
    assert_eq!(one_list, Signs { spot: Vec::new(), ..Signs::default() });
    for (nodes, problem) in [
        (
            "{spotLabels: [a, 'a b']}",
            "f.yaml:8:27: document 1: spec.nodes.spotLabels[1]: \"a b\" is no KEY, KEY=VALUE or PREFIX*, such as \
             karpenter.sh/disrupted",
        ),
        (
            "{departures: [{kind: Drained}]}",
            "f.yaml: document 1: spec.nodes.departures[0]: needs either a taint or a label\n  help: write for instance \
             {taint: karpenter.sh/disrupted, kind: Drained}",
        ),
        (
            "{departures: [{taint: a, label: b, kind: Drained}]}",
            "f.yaml: document 1: spec.nodes.departures[0]: needs either a taint or a label\n  help: write for instance \
             {taint: karpenter.sh/disrupted, kind: Drained}",
        ),
        (
            "{departures: [{taint: a, kind: Cordoned}]}",
            "f.yaml:8:41: document 1: spec.nodes.departures[0].kind: must be Reclaimed or Drained",
        ),
        (
            "{spotLabel: [a]}",
            "f.yaml:8:11: document 1: spec.nodes.spotLabel: unknown field\n  help: did you mean `spec.nodes.spotLabels`?",
        ),
    ] {
        assert_eq!(dir.problems("f.yaml", format!("{MINIMAL}  nodes: {nodes}\n")), [problem]);
    }
    let many = ["a"; 65].join(", ");
    assert_eq!(dir.problems("f.yaml", format!("{MINIMAL}  nodes: {{spotLabels: [{many}]}}\n")).len(), 1);
}

#[test]
fn the_effective_document_has_nothing_that_a_pod_will_not_have() {
    let dir = Dir::new("pruned");
    let text = own("", "").replace(
        "  template:\n",
        "  template:\n    metadata: {name: x, finalizers: [a/b], labels: {team: a, spark-exec-id: '1'}, annotations: {b: c}}\n",
    );
    let config = one(&dir, &text);
    let metadata = json!({"labels": {"team": "a"}, "annotations": {"b": "c"}});
    assert_eq!(config.effective().spec.template.unwrap()["metadata"], metadata);
    let told = warnings(&dir, &text).join("\n");
    for path in ["metadata.name", "metadata.finalizers", "metadata.labels.spark-exec-id"] {
        assert!(told.contains(&format!("spec.template.{path}: has no effect")), "{told}");
    }
}
