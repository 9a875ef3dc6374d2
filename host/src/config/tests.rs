//! Documents through the whole configuration module: files in, fleets or problems out.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fleet::id::{ExecutorId, IdRange};
use fleet::spec::{Amount as CoreAmount, FleetSpec, Mode as CoreMode, RollSpec};
use fleet::window::{Window, Zone};
use serde_json::{Value, json};

use super::schema::RENAMED;
use super::*;

mod allocator;
mod classes;
mod pods;

/// The shortest document. Line 8 is the first free one.
const MINIMAL: &str = "apiVersion: rollcall.dev/v1alpha1
kind: ExecutorFleet
metadata: {name: a}
spec:
  mode: Observe
  executors: 10
  driver: {podName: d}
";

/// A directory that is deleted with the test.
struct Dir(PathBuf);

impl Dir {
    fn new(test: &str) -> Dir {
        let dir = std::env::temp_dir().join(format!("rollcall-config-{}-{test}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Dir(dir)
    }

    fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// The errors of `load`, or else of `check`, about a file, without the name of the directory.
    fn problems(&self, name: &str, text: impl AsRef<[u8]>) -> Vec<String> {
        let file = self.file(name, text);
        let policies = ["OUTLIER".to_owned(), "SPARK".to_owned()];
        let problems = match load(&[file]) {
            Ok(documents) => documents.fleets.iter().flat_map(|config| config.check(&policies)).collect(),
            Err(problems) => problems,
        };
        let dir = format!("{}/", self.0.display());
        problems.iter().map(|problem| problem.to_string().replace(&dir, "")).collect()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn one(dir: &Dir, text: &str) -> FleetConfig {
    load(&[dir.file("one.yaml", text)]).unwrap().fleets.remove(0)
}

#[test]
fn what_is_wrong_is_told_with_its_place_and_remedy() {
    let dir = Dir::new("wrong");
    let with = |line: &str| format!("{MINIMAL}  {line}\n");
    let instead = |old: &str, new: &str| MINIMAL.replacen(old, new, 1);
    let cases = [
        (
            with("heartbeat: {timout: 5s}"),
            "f.yaml:8:15: document 1: spec.heartbeat.timout: unknown field
  help: did you mean `spec.heartbeat.timeout`?",
        ),
        (
            with("heartbeatTimeout: 5s"),
            "f.yaml:8:3: document 1: spec.heartbeatTimeout: unknown field
  help: did you mean `spec.heartbeat.timeout`?",
        ),
        (
            instead("executors", "replicas"),
            "f.yaml:6:3: document 1: spec.replicas: unknown field
  help: did you mean `spec.executors`?",
        ),
        (
            instead("podName: d", "podName: d, colour: red"),
            "f.yaml:7:24: document 1: spec.driver.colour: unknown field
  help: known here: podName, restPort, restInterval, startTimeout, allowLoopback, restTls, restTokenFile",
        ),
        (
            with("heartbeat: {token: abc}"),
            "f.yaml:8:15: document 1: spec.heartbeat.token: unknown field
  help: a secret does not belong into a document: write it to a file and give `tokenFile`",
        ),
        (
            instead("{podName: d}", "{}"),
            "f.yaml:7:11: document 1: spec.driver.podName: is required",
        ),
        (instead("v1alpha1", "v1"), "f.yaml:1:13: document 1: apiVersion: must be rollcall.dev/v1alpha1"),
        (instead("Observe", "own"), "f.yaml:5:9: document 1: spec.mode: must be Own or Observe"),
        (
            instead("10", "many"),
            "f.yaml:6:14: document 1: spec.executors: must be a whole number from 0 to 4294967295",
        ),
        (
            instead("10", "4294967296"),
            "f.yaml:6:14: document 1: spec.executors: must be a whole number from 0 to 4294967295",
        ),
        (
            instead("podName: d", "podName: d, restPort: 0"),
            "f.yaml:7:24: document 1: spec.driver.restPort: must be a whole number from 1 to 65535",
        ),
        (with("paused: yes"), "f.yaml:8:11: document 1: spec.paused: must be true or false"),
        (with("limits:"), "f.yaml:8:9: document 1: spec.limits: must be a mapping of fields"),
        (
            with("policies: {OUTLIER: 5}"),
            "f.yaml:8:23: document 1: spec.policies.OUTLIER: must be a mapping of fields",
        ),
        (
            with("heartbeat: {timeout: 120}"),
            "f.yaml:8:24: document 1: spec.heartbeat.timeout: \"120\" has no unit: write 120s, 120m or 120h",
        ),
        (
            with("heartbeat: {timeout: [120s]}"),
            "f.yaml:8:15: document 1: spec.heartbeat.timeout: invalid type: sequence, expected a duration such as 120s",
        ),
        (with("limits: {maxSurge: -1}"), "f.yaml:8:22: document 1: spec.limits.maxSurge: -1 is negative"),
        (
            with("roll: {policies: [OUTLIER], windows: [{start: 24:00, duration: 1h}]}"),
            "f.yaml:8:49: document 1: spec.roll.windows[0].start: \"24:00\" is not a time of day: write 00:00 to 23:59",
        ),
        (
            with("roll: {policies: [OUTLIER], windows: [{start: 02:00, duration: 90s}]}"),
            "f.yaml: document 1: spec.roll.windows[0].duration: 1m30s is not a number of whole minutes
  help: write for instance 90m",
        ),
        (
            with("roll: {policies: [OUTLIER], windows: [{start: 02:00, duration: 25h}]}"),
            "f.yaml: document 1: spec.roll.windows: a window needs a day, a start within it, and a length of \
             1 minute to 24 hours",
        ),
        // Errors of the core.
        (
            with("heartbeat: {timeout: 5s}"),
            "f.yaml: document 1: spec.heartbeat.timeout: 5000 ms is shorter than two intervals of 10000 ms: an \
             executor would be lost with one late heartbeat",
        ),
        (
            with("limits: {maxExecutors: 9}"),
            "f.yaml: document 1: spec.executors: 10 is more than limits.maxExecutors, 9",
        ),
        (
            with("limits: {minAvailable: 11}"),
            "f.yaml: document 1: spec.limits.minAvailable: 11 can never be available of a target of 10",
        ),
        (
            with("recovery: {policies: [SPRK]}"),
            "f.yaml: document 1: spec.recovery.policies: no policy is called \"SPRK\"; there are OUTLIER, SPARK",
        ),
        (
            with("policies: {OUTLER: {}}"),
            "f.yaml: document 1: spec.policies.OUTLER: no policy is called \"OUTLER\"; there are OUTLIER, SPARK
  help: did you mean `OUTLIER`?",
        ),
        // Fields that need each other.
        (
            instead("Observe", "Own"),
            "f.yaml: document 1: spec.template: is required
  help: with mode Own Rollcall creates the pods, and needs a PodTemplateSpec to make them from",
        ),
        (
            instead("Observe", "Own") + "  template: {spec: {containers: []}}\n",
            "f.yaml: document 1: spec.template.spec.containers: there is no container
  help: write a PodTemplateSpec with the container that runs the executor",
        ),
        (
            instead("Observe", "Own") + "  template: {spec: {restartPolicy: Always, containers: [{name: c}]}}\n",
            "f.yaml: document 1: spec.template.spec.restartPolicy: must be Never, or left out
  help: an executor that ended is replaced by one with another id",
        ),
        (
            instead("Observe", "Own")
                + "  template: {spec: {containers: [{name: c}]}}\n  spark: {javaOptions: [-Xss4m, -Xmx1g]}\n",
            "f.yaml: document 1: spec.spark.javaOptions[1]: \"-Xmx1g\" sets the heap
  help: that is spec.spark.executorMemory",
        ),
        (
            with("template: {}"),
            "f.yaml: document 1: spec.template: has no use
  help: with mode Observe the driver creates the pods: leave it out, or use mode Own",
        ),
        // Fleets whose reports could not be told apart.
        (
            with("heartbeat: {graphitePrefix: a/b}"),
            "f.yaml: document 1: spec.heartbeat.graphitePrefix: \"a/b\" is not what names of metrics begin with
  help: 1 to 253 of A-Z, a-z, 0-9, ., _ and -, and not only dots",
        ),
        (
            with("heartbeat: {metricsNamespace: '${spark.app.name}'}"),
            "f.yaml: document 1: spec.heartbeat.metricsNamespace: \"${spark.app.name}\" has a variable that only Spark knows
  help: write what it stands for, for instance the application's name for ${spark.app.name}; for ${spark.app.id} leave it out",
        ),
        (
            with("heartbeat: {metricsNamespace: ''}"),
            "f.yaml: document 1: spec.heartbeat.metricsNamespace: \"\" cannot stand in a metric's name
  help: 1 to 253 bytes without control characters; where spark.metrics.namespace is not set, leave it out",
        ),
        (
            instead("{podName: d}", "{podName: d, restTls: {caFile: /ca.pem, serverName: 10.0.0.7}}"),
            "f.yaml: document 1: spec.driver.restTls.serverName: \"10.0.0.7\" is not a DNS name
  help: write a name that the driver's certificate is for; for its pod's IP address leave it out",
        ),
        (
            instead("{podName: d}", "{podName: d, restTls: {}}"),
            "f.yaml:7:33: document 1: spec.driver.restTls.caFile: is required",
        ),
        (
            with("heartbeat: {columns: [jvm.total.used, 'a b']}"),
            "f.yaml: document 1: spec.heartbeat.columns[1]: \"a b\" is not the name of a metric
  help: 1 to 253 of A-Z, a-z, 0-9, ., _ and -, and not only dots",
        ),
        // Errors of YAML itself.
        (with("\tpaused: true"), "f.yaml:8:4: document 1: spec: while parsing a block mapping, did not find expected key"),
        (
            with("paused: true\n  paused: true"),
            "f.yaml:9:3: document 1: spec: duplicate mapping key `paused` is not allowed here",
        ),
        (with("template: *x"), "f.yaml:8:13: document 1: spec: reference to unknown value"),
        ("hello\n".to_owned(), "f.yaml:1:1: document 1: must be a mapping of fields"),
        (
            "# nothing\n---\n\n--- # still nothing\n".to_owned(),
            "f.yaml: has no document
  help: a fleet begins with `apiVersion: rollcall.dev/v1alpha1`",
        ),
    ];
    for (text, problem) in cases {
        assert_eq!(dir.problems("f.yaml", &text), [problem], "{text}");
    }
    assert_eq!(dir.problems("f.yaml", b"\xff"), ["f.yaml: is not UTF-8 text"]);
    assert!(dir.problems("f.yaml", MINIMAL).is_empty());
    // Unlike a label, a part of a pod's name may have more than 63 letters.
    let long = format!("podName: {}", "d".repeat(64));
    assert!(dir.problems("f.yaml", instead("podName: d", &long)).is_empty());
}

#[test]
fn every_document_is_told_about_by_its_number_and_its_lines() {
    let dir = Dir::new("several");
    let bad = MINIMAL.replace("10", "x");
    let text = format!(
        "# first\n---\n{MINIMAL}---\n# empty\n---  # second\n{bad}--- # third\n{MINIMAL}...\n---\n{bad}"
    );
    assert_eq!(
        dir.problems("f.yaml", text),
        [
            "f.yaml:18:14: document 2: spec.executors: must be a whole number from 0 to 4294967295",
            "f.yaml:35:14: document 4: spec.executors: must be a whole number from 0 to 4294967295",
            "f.yaml: document 3: metadata.name: the fleet default/a is there already: f.yaml, document 1
  help: give it another name",
        ]
    );
    let elsewhere = MINIMAL.replace("{name: a}", "{name: a, namespace: b}");
    let problems = dir.problems("f.yaml", format!("{MINIMAL}---\n{elsewhere}"));
    assert!(problems.is_empty(), "a name is unique in its namespace alone: {problems:?}");
}

#[test]
fn json_is_read_value_by_value() {
    let dir = Dir::new("json");
    let document = |name: &str, executors: Value| {
        json!({
            "apiVersion": "rollcall.dev/v1alpha1", "kind": "ExecutorFleet",
            "metadata": {"name": name, "annotations": {"note": "\u{1f600} \u{7} // \"quoted\""}},
            "spec": {"mode": "Observe", "executors": executors, "driver": {"podName": "d"}},
        })
    };
    let (a, b) = (document("a", json!(10)), document("b", json!(10)));
    assert!(dir.problems("f.json", format!("{a}\n\n{b:#}")).is_empty());
    assert_eq!(
        dir.problems("f.json", format!("{a}\n{:#}", document("b", json!("x")))),
        ["f.json:15:18: document 2: spec.executors: must be a whole number from 0 to 4294967295"]
    );
    assert_eq!(
        dir.problems("f.json", format!("{a}\n{{\"kind\": }}")),
        ["f.json:2:10: is not JSON: expected value"]
    );
}

#[test]
fn bombs_are_refused_quickly() {
    let dir = Dir::new("bombs");
    let rows = |first: &str| {
        let row = |name: &str, of: &str| format!("    {name}: &{name} [{}]\n", [of; 9].join(", "));
        let rows = [("b", "*a"), ("c", "*b"), ("d", "*c"), ("e", "*d"), ("f", "*e"), ("g", "*f")];
        let rows: String = rows.map(|(name, of)| row(name, of)).concat();
        format!("{MINIMAL}  template:\n    a: &a {first}\n{rows}")
    };
    let nested: String = (0..200).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    for (text, problem) in [
        (rows("[1, 2]"), "is too large"),
        (rows(&"x".repeat(500_000)), "is too large"),
        (
            format!("{MINIMAL}  template: {}1{}", "[".repeat(100_000), "]".repeat(100_000)),
            "recursion limit exceeded",
        ),
        (format!("{MINIMAL}  template:\n{}", nested.replace("a:", "    a:")), "is too large"),
        (format!("{MINIMAL}  template: {}", "{a: ".repeat(100_000)), "is too large"),
        (format!("{MINIMAL}  template: [{}]", "1, ".repeat(100_000)), "is too large"),
        ("a: 1\n---\n".repeat(1_001), "f.yaml: more than 1000 documents in all"),
        ("#".repeat((1 << 20) + 1), "f.yaml: has more than 1048576 bytes"),
    ] {
        let start = Instant::now();
        let problems = dir.problems("f.yaml", &text);
        assert!(problems.len() == 1 && problems[0].contains(problem), "{problems:?}");
        assert!(problems[0].len() < 1_000, "{problems:?}");
        assert!(start.elapsed() < Duration::from_secs(2), "{problem}: {:?}", start.elapsed());
    }
    // Messages are printable.
    let problems = dir.problems("f.yaml", format!("{MINIMAL}  \"\\e[31m{}\": 1", "x".repeat(900)));
    assert!(problems[0].contains("spec.\u{fffd}[31mxxx") && problems[0].contains('…'), "{problems:?}");
}

#[test]
fn directories_are_read_in_order_and_as_kubernetes_mounts_them() {
    let dir = Dir::new("directory");
    let named = |name: &str| MINIMAL.replace("{name: a}", &format!("{{name: {name}}}"));
    let swapped = dir.0.join("..2026_01_01");
    fs::create_dir(&swapped).unwrap();
    fs::write(swapped.join("b.yaml"), named("b")).unwrap();
    std::os::unix::fs::symlink("..2026_01_01", dir.0.join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/b.yaml", dir.0.join("b.yaml")).unwrap();
    dir.file("c.yml", named("c"));
    dir.file("a.json", serde_json::to_string(&one(&dir, &named("a")).fleet).unwrap());
    fs::remove_file(dir.0.join("one.yaml")).unwrap();
    dir.file("README.md", "not ours");
    dir.file("..x.yaml", "not ours");
    let fleets = load(std::slice::from_ref(&dir.0)).unwrap().fleets;
    let names: Vec<&str> = fleets.iter().map(|config| config.fleet.metadata.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);

    let empty = Dir::new("empty");
    let says = |path: &Path| load(&[path.to_owned()]).unwrap_err().remove(0).message;
    assert_eq!(says(&empty.0), "this directory has no configuration");
    assert!(says(&empty.0.join("none.yaml")).starts_with("cannot be read: "));
    assert_eq!(says(Path::new("/dev/zero")), "is neither a file nor a directory");
}

#[test]
fn the_defaults_are_the_cores() {
    let dir = Dir::new("defaults");
    let minimal = one(&dir, MINIMAL);
    let mut core = FleetSpec::new("a", "spark-1", CoreMode::Observe, "uid".into(), 10);
    // Only a daemon can find out whether a driver answers: a core by itself does not wait for it.
    core.driver_start_ms = 60_000;
    assert_eq!(minimal.fleet_spec("uid".into(), "spark-1"), core);
    let rolling = one(&dir, &format!("{MINIMAL}  roll: {{policies: [OUTLIER]}}"));
    let core = FleetSpec { roll: Some(RollSpec::new("OUTLIER")), ..core };
    assert_eq!(rolling.fleet_spec("uid".into(), "spark-1"), core);
    // And the effective document says the same.
    let effective = one(&dir, &yaml(&rolling.fleet).unwrap());
    assert_eq!(effective.fleet_spec("uid".into(), "spark-1"), core);
}

#[test]
fn fleets_with_the_same_names_of_metrics_need_their_pods_addresses() {
    let dir = Dir::new("sharing");
    let document = |name: &str, heartbeat: &str| {
        let text = MINIMAL.replace("{name: a}", &format!("{{name: {name}}}"));
        format!("---\n{text}  heartbeat: {{{heartbeat}}}\n")
    };
    let both = |one: &str, two: &str| dir.problems("f.yaml", document("a", one) + &document("b", two));
    let named = "metricsNamespace: Daily import";
    let relayed = "metricsNamespace: Daily import, checkPeer: false";
    assert_eq!(both(named, named), [""; 0]);
    let shared = "f.yaml: document 2: spec.heartbeat.metricsNamespace: metrics of fleet a (f.yaml, document 1) begin with \
                  \"Daily-import\" as well, and one of the two takes them from any address
  help: leave heartbeat.checkPeer: true in both, so that their pods' addresses tell them apart, or give one application \
                  another spark.metrics.namespace or sink prefix";
    assert_eq!(both(named, relayed), [shared]);
    assert_eq!(both(relayed, named), [shared]);
    // As the sink writes it.
    assert_eq!(both(relayed, "metricsNamespace: Daily-import"), [shared]);
    assert_eq!(both(relayed, "metricsNamespace: Daily import, graphitePrefix: b"), [""; 0]);
    // Metrics are accepted even if heartbeats are not expected.
    assert_eq!(both(relayed, "metricsNamespace: Daily import, disabled: true"), [shared]);
    assert_eq!(both(relayed, "checkPeer: false"), [""; 0], "the id is not known yet");
}

#[test]
fn every_field_of_the_core_can_be_set() {
    let dir = Dir::new("fields");
    let minimal = MINIMAL.replace("{podName: d}", "{podName: d, startTimeout: 10s}");
    let text = format!(
        "{minimal}
  paused: true
  dryRun: true
  firstExecutorId: 3000001
  heartbeat: {{timeout: 1m, interval: 1s, disabled: true}}
  recovery: {{policies: [P], maxChecks: 1, checkInterval: 2s, maxKeptPods: 3, keptPodsFor: 4s, maxExecutorFailures: 5,
    failuresValidityInterval: 6s, failedDeletesDriver: true}}
  allocation: {{batchSize: 1, batchDelay: 2s, pendingTimeout: 3s, maxPendingPods: 4, maxStartFailures: 5,
    initialBackoff: 6s, maxBackoff: 7s, maxNodeLosses: 8, nodeWindow: 9s, maxAvoidedNodes: 10%}}
  limits: {{maxSurge: 1, maxUnavailable: 2%, minAvailable: 3%, maxTerminating: 4, maxExecutors: 55, massLoss: 6%,
    massLossWindow: 7s}}
  roll: {{policies: [Q], interval: 1m, maxPicks: 2, maxPerHour: 3, minTasks: 4, minAge: 5s, coolDown: 6s, grace: 7s,
    timeout: 8m, windows: [{{days: [Mon, Sun], start: '22:30', duration: 1h30m}}]}}
"
    );
    let expected = FleetSpec {
        name: "a".to_owned(),
        application_id: "spark-1".to_owned(),
        mode: CoreMode::Observe,
        ids: IdRange { first: ExecutorId(3_000_001), last: ExecutorId(4_000_000) },
        driver: "uid".into(),
        driver_start_ms: 10_000,
        driver_report_ms: 10_000,
        target: 10,
        scale_down: fleet::spec::ScaleDown::Rollcall,
        paused: true,
        dry_run: true,
        heartbeat: fleet::spec::HeartbeatSpec { timeout_ms: 60_000, interval_ms: 1_000, disabled: true },
        recovery: fleet::spec::RecoverySpec {
            policies: vec!["P".to_owned()],
            max_checks: 1,
            check_interval_ms: 2_000,
            max_kept_pods: 3,
            kept_pods_ms: 4_000,
            max_executor_failures: Some(5),
            failures_validity_interval_ms: 6_000,
            failed_deletes_driver: true,
        },
        allocation: fleet::spec::AllocationSpec {
            batch_size: 1,
            batch_delay_ms: 2_000,
            pending_timeout_ms: 3_000,
            max_pending_pods: 4,
            max_start_failures: 5,
            initial_backoff_ms: 6_000,
            max_backoff_ms: 7_000,
            max_node_losses: 8,
            node_window_ms: 9_000,
            max_avoided_nodes: CoreAmount::Percent(10),
        },
        limits: fleet::spec::Limits {
            max_surge: CoreAmount::Count(1),
            max_unavailable: CoreAmount::Percent(2),
            min_available: CoreAmount::Percent(3),
            max_terminating: CoreAmount::Count(4),
            max_executors: 55,
            mass_loss: CoreAmount::Percent(6),
            mass_loss_window_ms: 7_000,
        },
        roll: Some(RollSpec {
            policies: vec!["Q".to_owned()],
            interval_ms: 60_000,
            max_picks: 2,
            max_per_hour: 3,
            min_tasks: 4,
            min_age_ms: 5_000,
            cool_down_ms: 6_000,
            grace_ms: Some(7_000),
            timeout_ms: 480_000,
            windows: vec![Window {
                days: [true, false, false, false, false, false, true],
                start_minute: 22 * 60 + 30,
                length_minutes: 90,
                zone: Zone::utc(),
            }],
        }),
    };
    assert_eq!(one(&dir, &text).fleet_spec("uid".into(), "spark-1"), expected);
}

#[test]
fn the_effective_document_reads_back_as_the_same() {
    let dir = Dir::new("effective");
    let awkward = json!({
        "yes": "yes", "no": "02:00", "octal": "0755", "float": "1e3", "null": "null", "~": "", "spaces": " a  ",
        "lines": "a\n b\n\n", "tabs": "\ta\r\n", "long": "a b ".repeat(60), "colon: #": "- x: &y *z !t %", "bell": "\u{7}",
        "numbers": [0, -1, 1.5, 1e300, u64::MAX], "empty": [{}, [], ""], "unicode": "\u{1f600}\u{2028}", "1": 1,
        "---": "---\n...\n", "<<": "merge",
        "spec": {"containers": [{"name": "c", "env": [{"name": "A", "value": "true"}]}]},
    });
    let mut own = one(&dir, MINIMAL);
    own.fleet.spec.mode = document::Mode::Own;
    own.fleet.spec.template = Some(awkward);
    own.fleet.metadata.labels.insert("a.b/c".to_owned(), "1".to_owned());
    own.fleet.spec.roll = Some(document::Roll { policies: vec!["OUTLIER".to_owned()], ..Default::default() });
    let fleets = load(&[example("own.yaml"), example("observe.yaml")]).unwrap().fleets;
    for config in fleets.into_iter().chain([own]) {
        let mut read = one(&dir, &yaml(&config.fleet).unwrap()).fleet;
        // Filled in when it was loaded.
        let expected = config.fleet;
        if expected.spec.spark.is_none() && expected.spec.mode == document::Mode::Own {
            assert_eq!(read.spec.spark.take(), Some(document::Spark::default()));
        }
        assert_eq!(read, expected);
        let read = load(&[dir.file("one.json", serde_json::to_string(&read).unwrap())]);
        assert_eq!(read.map(|read| read.fleets.len()).ok(), Some(1));
    }
}

#[test]
fn the_core_names_fields_that_the_document_has() {
    let fields: Vec<String> = schema::fields().collect();
    let mut spec = FleetSpec::new("-", "", CoreMode::Own, "".into(), u32::MAX);
    spec.heartbeat.timeout_ms = 0;
    spec.heartbeat.interval_ms = 0;
    spec.recovery.check_interval_ms = 0;
    spec.recovery.failures_validity_interval_ms = 0;
    spec.recovery.max_checks = u32::MAX;
    spec.recovery.max_kept_pods = u32::MAX;
    spec.recovery.policies = vec!["X".to_owned()];
    spec.allocation.batch_size = 0;
    spec.allocation.batch_delay_ms = 0;
    spec.allocation.pending_timeout_ms = 0;
    spec.allocation.max_pending_pods = 0;
    spec.allocation.max_start_failures = 0;
    spec.allocation.initial_backoff_ms = 0;
    spec.allocation.max_node_losses = 0;
    spec.allocation.node_window_ms = 0;
    spec.allocation.max_avoided_nodes = CoreAmount::Percent(u32::MAX);
    spec.limits.max_surge = CoreAmount::Percent(u32::MAX);
    spec.limits.max_unavailable = CoreAmount::Percent(u32::MAX);
    spec.limits.min_available = CoreAmount::Percent(u32::MAX);
    spec.limits.max_terminating = CoreAmount::Percent(u32::MAX);
    spec.limits.mass_loss = CoreAmount::Percent(u32::MAX);
    spec.limits.max_executors = u32::MAX - 1;
    spec.limits.mass_loss_window_ms = 0;
    let windows = vec![Window { days: [false; 7], start_minute: 0, length_minutes: 0, zone: Zone::utc() }];
    let roll = RollSpec {
        interval_ms: 0,
        max_picks: 0,
        max_per_hour: 0,
        timeout_ms: 0,
        windows,
        ..RollSpec::new("X")
    };
    spec.roll = Some(RollSpec { grace_ms: Some(1), ..roll });
    let mut backwards = FleetSpec::new("a", "b", CoreMode::Own, "u".into(), 1);
    backwards.allocation.max_backoff_ms = 1;
    let mut errors = fleet::spec::ValidatedSpec::check(spec, &[]).unwrap_err();
    errors.extend(fleet::spec::ValidatedSpec::check(backwards, &[]).unwrap_err());
    let paths: std::collections::BTreeSet<_> = errors.iter().map(|error| error.path).collect();
    assert!(paths.len() >= 34, "{}: {paths:?}", paths.len());
    for path in paths {
        assert!(fields.iter().any(|field| field == path), "{path} is not in the document");
    }
}

#[test]
fn old_names_of_fields_are_read_and_told() {
    let dir = Dir::new("renamed");
    let with = |old: bool| {
        let mut document: Value = serde_saphyr::from_str(MINIMAL).unwrap();
        for (before, now) in RENAMED {
            let path: Vec<&str> = if old { before } else { now }.split('.').collect();
            let value = match path[2] {
                name if name.to_lowercase().contains("backoff") || name.ends_with("Interval") => json!("7m"),
                "failuresWindow" | "ageMin" | "minAge" => json!("7m"),
                _ => json!(3),
            };
            document[path[0]][path[1]][path[2]] = value;
        }
        document["spec"]["roll"]["policies"] = json!(["OUTLIER"]);
        one(&dir, &document.to_string())
    };
    let (old, new) = (with(true), with(false));
    assert_eq!(old.fleet, new.fleet);
    assert_eq!((old.old_names.len(), new.old_names.len()), (RENAMED.len(), 0));
    let told: Vec<String> = old.warnings().iter().map(ToString::to_string).collect();
    let surge = "one.yaml: document 1: spec.limits.surge: is called maxSurge now";
    assert!(told.len() >= RENAMED.len() && told[0].contains(surge), "{told:?}");
    let both = format!("{MINIMAL}  limits: {{surge: 1, maxSurge: 2}}\n");
    let refused = load(&[dir.file("both.yaml", &both)]).unwrap_err();
    assert!(refused[0].to_string().contains("maxSurge"), "{refused:?}");
}

#[test]
fn the_schema_takes_what_is_read_and_refuses_what_is_not() {
    let schema = schema();
    assert_eq!(
        schema["properties"]["spec"]["properties"]["heartbeat"]["properties"]["timeout"]["default"],
        "2m"
    );
    let fields =
        schema["properties"]["spec"]["properties"]["limits"]["properties"]["maxSurge"].as_object().unwrap();
    assert!(
        fields["description"].as_str().is_some_and(|text| text.starts_with("Live pods beyond the target."))
    );
    assert!(!schema.to_string().contains("$ref"));
    let validator = jsonschema::validator_for(&schema).unwrap();
    let mut documents = Vec::new();
    for name in ["own.yaml", "observe.yaml"] {
        let text = fs::read_to_string(example(name)).unwrap();
        documents.push(serde_saphyr::from_str::<Value>(&text).unwrap());
        documents.push(serde_json::to_value(&load(&[example(name)]).unwrap().fleets[0].fleet).unwrap());
    }
    for document in &documents {
        let errors: Vec<String> = validator.iter_errors(document).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?}");
    }
    for (path, wrong) in [
        ("/spec/mode", json!("own")),
        ("/spec/executors", json!("10")),
        ("/spec/heartbeat/timeout", json!(120)),
        ("/spec/limits/maxSurge", json!("3")),
        ("/spec/roll/policies", json!([])),
        ("/spec/spark/executorMemory", json!("1gb")),
        ("/spec/spark/executorCores", json!(0)),
        ("/spec/driver/restPort", json!(65_536)),
        ("/spec/driver", json!({"podName": "d", "host": "x"})),
        ("/spec/template", json!("x")),
    ] {
        let mut document = documents[1].clone();
        *document.pointer_mut(path).unwrap() = wrong.clone();
        assert!(!validator.is_valid(&document), "{path}: {wrong}");
    }
}

#[test]
fn the_examples_are_right() {
    let policies = ["OUTLIER", "TOTAL_DURATION"].map(str::to_owned);
    for name in ["own.yaml", "observe.yaml"] {
        let fleets = load(&[example(name)]).unwrap().fleets;
        let problems: Vec<Problem> = fleets.iter().flat_map(|config| config.check(&policies)).collect();
        assert!(fleets.len() == 1 && problems.is_empty(), "{problems:?}");
    }
}

#[test]
fn a_change_is_seen_once() {
    let dir = Dir::new("watch");
    let file = dir.file("a.yaml", MINIMAL);
    let mut watcher = Watcher::new(vec![dir.0.clone()]);
    assert!(!watcher.changed());
    dir.file("README.md", "not read");
    assert!(!watcher.changed());
    fs::write(&file, MINIMAL.replace("10", "11")).unwrap();
    assert!(watcher.changed() && !watcher.changed());
    dir.file("b.yaml", "");
    assert!(watcher.changed() && !watcher.changed(), "a file more");
    fs::rename(&file, dir.0.join("c.yaml")).unwrap();
    assert!(watcher.changed() && !watcher.changed(), "the same bytes under another name");
    fs::remove_dir_all(&dir.0).unwrap();
    assert!(watcher.changed() && !watcher.changed(), "gone");
    // Where one file ends and the next begins matters.
    let (x, y) = (Dir::new("watch-x"), Dir::new("watch-y"));
    let of = |dir: &Dir, one: &str, two: &str| digest(&[dir.file("1", one), dir.file("2", two)]);
    assert_ne!(of(&x, "ab", "c"), of(&x, "a", "bc"));
    assert_ne!(of(&x, "", ""), of(&y, "", ""), "other names");
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name)
}
