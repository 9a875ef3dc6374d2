//! The checks on facts: environments that real drivers of Spark 3.5.9 and 4.3.0 answered, and objects of Kubernetes.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};

use super::checks::{ALL, needed_rights};
use super::facts::{Checked, Facts, Fleet, Known, Labels, Namespace, Warning};
use super::report::Report;
use super::settings::Settings;
use super::write::{self, Write};
use crate::config;

const BAD_3: &str = include_str!("../../../tests/fixtures/doctor/bad-3.5.9.json");
const BAD_4: &str = include_str!("../../../tests/fixtures/doctor/bad-4.3.0.json");
const GOOD_3: &str = include_str!("../../../tests/fixtures/doctor/good-3.5.9.json");
const GOOD_4: &str = include_str!("../../../tests/fixtures/doctor/good-4.3.0.json");

fn unknown<T>() -> Known<T> {
    Err("not in this test".to_owned())
}

/// A fleet in mode Observe without a document, and with these settings alone.
fn facts(settings: Known<Settings>) -> Facts {
    let namespace = |name: &str| Namespace { name: name.to_owned(), labels: unknown(), policies: unknown() };
    Facts {
        driver_name: "etl-driver".to_owned(),
        driver: unknown(),
        executors: unknown(),
        settings,
        rest: unknown(),
        fleet: fleet(json!({})),
        warnings: unknown(),
        rights: unknown(),
        namespace: namespace("spark"),
        home: namespace("rollcall"),
        account: "rollcall".to_owned(),
        daemons: unknown(),
        services: unknown(),
    }
}

fn fleet(more: Value) -> Fleet {
    let mut spec = json!({"mode": "Observe", "executors": 4, "driver": {"podName": "etl-driver"}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Fleet {
        spec: serde_json::from_value(spec).unwrap(),
        document: Some("etl.yaml".to_owned()),
        object: false,
    }
}

/// This answer, with these properties replaced; those without a value are removed.
fn changed(answer: &str, changes: &[(&str, &str)]) -> Facts {
    let mut answer: Value = serde_json::from_str(answer).unwrap();
    let mut change = |list: &str, key: &str, value: &str| {
        let list = answer[list].as_array_mut().unwrap();
        list.retain(|pair| pair[0] != key);
        if !value.is_empty() {
            list.push(json!([key, value]));
        }
    };
    for (key, value) in changes {
        change("sparkProperties", key, value);
        if let Some(metric) = key.strip_prefix("spark.metrics.conf.") {
            change("metricsProperties", metric, value);
        }
    }
    facts(Settings::from_environment(answer))
}

fn pod(value: Value) -> Pod {
    serde_json::from_value(value).unwrap()
}

fn driver() -> Value {
    json!({
        "metadata": {"name": "etl-driver", "uid": "u", "labels": {"spark-role": "driver", "spark-app-selector": "spark-1"}},
        "spec": {"containers": [{"name": "spark-kubernetes-driver"}]}, "status": {"phase": "Running"},
    })
}

fn executor() -> Value {
    json!({
        "metadata": {
            "name": "etl-exec-1", "labels": {"spark-role": "executor", "spark-exec-id": "1"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "etl-driver", "uid": "u", "controller": true}],
        },
        "spec": {"terminationGracePeriodSeconds": 120, "containers": [
            {"name": "spark-kubernetes-executor", "lifecycle": {"preStop": {"exec": {"command": ["/opt/decom.sh"]}}}},
        ]},
    })
}

fn check(name: &str, facts: &Facts) -> Checked {
    ALL.iter().find(|(check, _)| *check == name).unwrap().1(facts)
}

/// The codes of all findings; warnings in brackets, advice in braces.
fn codes(facts: &Facts) -> Vec<String> {
    let findings = Report::new(facts).findings;
    let code = |finding: super::facts::Finding| {
        assert!(!finding.set.is_empty() && !finding.source.is_empty(), "{finding:?}");
        match finding.severity {
            super::facts::Severity::Error => finding.code.to_owned(),
            super::facts::Severity::Warning => format!("[{}]", finding.code),
            super::facts::Severity::Advice => format!("{{{}}}", finding.code),
        }
    };
    findings.into_iter().map(code).collect()
}

fn found(name: &str, facts: &Facts) -> Vec<&'static str> {
    check(name, facts).unwrap().into_iter().map(|finding| finding.code).collect()
}

#[test]
fn a_badly_configured_application_is_told_all_at_once() {
    let both = [
        "decommission-disabled",
        "rest-port-differs",
        "graphite-sink-elsewhere",
        "metrics-namespace-differs",
        "[storage-decommission-disabled]",
        "[executor-roll-plugin-on]",
        "[executor-heartbeat-interval-long]",
        "[short-termination-grace]",
        "[force-kill-before-grace]",
    ];
    assert_eq!(codes(&changed(BAD_4, &[])), both);
    let mut old = both.map(str::to_owned).to_vec();
    old.insert(5, "[decommission-fetch-failures-count]".to_owned());
    assert_eq!(codes(&changed(BAD_3, &[])), old, "the default is another one before Spark 4.0");
}

#[test]
fn a_well_configured_one_lacks_only_time() {
    for (answer, line) in [
        (GOOD_4, "spark.kubernetes.executor.terminationGracePeriodSeconds=120s"),
        (
            GOOD_3,
            "in the pod template of spark.kubernetes.executor.podTemplateFile: spec.terminationGracePeriodSeconds: 120",
        ),
    ] {
        let mut facts = changed(answer, &[]);
        assert_eq!(codes(&facts), ["[short-termination-grace]"]);
        assert_eq!(check("termination-grace", &facts).unwrap()[0].set[0], line);
        facts.executors = Ok(vec![pod(executor())]);
        assert_eq!(codes(&facts), Vec::<String>::new());
    }
}

/// What is not known is not all right.
#[test]
fn a_check_that_could_not_run_is_not_ok() {
    let report = serde_json::to_value(Report::new(&facts(unknown()))).unwrap();
    for ran in report["checks"].as_array().unwrap() {
        assert_eq!((&ran["result"], ran["why"].is_string()), (&json!("not-checked"), true), "{ran}");
    }
    assert_eq!(report["findings"], json!([]));
}

#[test]
fn settings_of_spark() {
    const PLUGIN: &str = "org.apache.spark.scheduler.cluster.k8s.ExecutorRollPlugin";
    const REDACTED: &str = "*********(redacted)";
    for (name, change, codes) in [
        ("decommission", ("spark.decommission.enabled", " TRUE "), &[][..]),
        ("decommission", ("spark.decommission.enabled", "false"), &["decommission-disabled"]),
        (
            "storage-decommission",
            ("spark.storage.decommission.rddBlocks.enabled", "false"),
            &["rdd-blocks-not-migrated"],
        ),
        (
            "storage-decommission",
            ("spark.storage.decommission.shuffleBlocks.enabled", "false"),
            &["shuffle-blocks-not-migrated"],
        ),
        (
            "fallback-storage",
            ("spark.storage.decommission.fallbackStorage.path", ""),
            &["fallback-storage-unset"],
        ),
        (
            "fetch-failures",
            ("spark.stage.ignoreDecommissionFetchFailure", "false"),
            &["decommission-fetch-failures-count"],
        ),
        ("executor-roll-plugin", ("spark.plugins", PLUGIN), &["executor-roll-plugin-idle"]),
        ("executor-instances", ("spark.executor.instances", "5"), &["executors-differ"]),
        ("executor-instances", ("spark.executor.instances", ""), &["executors-differ"]),
        ("executor-instances", ("spark.executor.instances", "0"), &["no-executors-created"]),
        ("executor-instances", ("spark.dynamicAllocation.enabled", "true"), &["executors-differ"]),
        ("own-mode-settings", ("spark.kubernetes.executor.deleteOnTermination", "true"), &[]),
        ("rest-settings", ("spark.ui.port", "0"), &["rest-port-random"]),
        ("rest-settings", ("spark.ssl.enabled", "true"), &["rest-port-differs", "rest-needs-tls"]),
        ("rest-settings", ("spark.ui.filters", "org.apache.spark.ui.JWSFilter"), &["rest-filtered"]),
        ("rest-api", ("spark.ui.enabled", "false"), &["ui-disabled"]),
        ("heartbeat-timeout", ("spark.network.timeout", "2min"), &[]),
        ("heartbeat-timeout", ("spark.network.timeout", "300"), &["heartbeat-timeout-differs"]),
        (
            "heartbeat-timeout",
            ("spark.storage.blockManagerHeartbeatTimeoutMs", "60000"),
            &["heartbeat-timeout-differs"],
        ),
        ("executor-heartbeat-interval", ("spark.executor.heartbeatInterval", "60000"), &[]),
        (
            "executor-heartbeat-interval",
            ("spark.executor.heartbeatInterval", "61s"),
            &["executor-heartbeat-interval-long"],
        ),
        ("decommission-timeouts", ("spark.executor.decommission.forceKillTimeout", "30"), &[]),
        (
            "decommission-timeouts",
            ("spark.executor.decommission.forceKillTimeout", "29s"),
            &["force-kill-before-grace"],
        ),
        (
            "decommission-timeouts",
            ("spark.executor.decommission.killInterval", "1m"),
            &["kill-interval-exceeds-grace"],
        ),
        ("termination-grace", ("spark.kubernetes.executor.terminationGracePeriodSeconds", "60s"), &[]),
    ] {
        assert_eq!(found(name, &changed(GOOD_4, &[change])), codes, "{name}, {change:?}");
    }
    for (name, change) in [
        ("decommission", ("spark.decommission.enabled", REDACTED)),
        ("decommission", ("spark.decommission.enabled", "yes")),
        ("heartbeat-timeout", ("spark.network.timeout", "2 minutes")),
        ("metrics-namespace", ("spark.metrics.namespace", "${env:TEAM}")),
        ("termination-grace", ("spark.kubernetes.executor.podTemplateFile", "/template.yaml")),
    ] {
        assert!(check(name, &changed(GOOD_4, &[change])).is_err(), "{name}, {change:?}");
    }
    let finding = &check("executor-roll-plugin", &changed(BAD_4, &[])).unwrap()[0];
    assert_eq!(finding.set, ["spark.plugins=org.apache.spark.deploy.DriverTimeoutPlugin"], "the others stay");
    // Without a version the default is not known.
    let mut facts = changed(BAD_3, &[]);
    facts.settings.as_mut().unwrap().version = None;
    assert!(check("fetch-failures", &facts).is_err());
}

#[test]
fn graphite_sinks() {
    const SINK: &str = "spark.metrics.conf.executor.sink.graphite.";
    for (property, value, codes) in [
        ("class", "", &["no-graphite-sink"][..]),
        ("host", "ROLLCALL.rollcall.svc.cluster.local.", &[]),
        ("host", "rollcall.rollcall.svc", &[]),
        ("host", "rollcall", &["graphite-sink-elsewhere"]),
        ("host", "rollcall.rollcaller", &["graphite-sink-elsewhere"]),
        ("port", "2004", &["graphite-port"]),
        ("port", "", &["graphite-port"]),
        ("period", "60", &["graphite-period-differs"]),
        ("period", "61", &["graphite-period-too-long"]),
        ("unit", "milliseconds", &["graphite-period-differs"]),
        ("unit", "minutes", &["graphite-period-too-long"]),
        ("unit", "weeks", &["graphite-period-invalid"]),
        ("prefix", "team", &["graphite-prefix-differs"]),
        ("protocol", "UDP", &["graphite-over-udp"]),
        ("protocol", "tcp", &[]),
        ("regex", "jvm.*", &["graphite-regex"]),
    ] {
        let key = format!("{SINK}{property}");
        assert_eq!(found("graphite-sink", &changed(GOOD_4, &[(&key, value)])), codes, "{property}={value}");
    }
    let elsewhere = [(&*format!("{SINK}host"), "10.9.9.9")];
    let mut facts = changed(GOOD_4, &elsewhere);
    facts.fleet = fleet(json!({"heartbeat": {"checkPeer": false}}));
    assert!(check("graphite-sink", &facts).unwrap_err().contains("relay"));
    facts.fleet = fleet(json!({"heartbeat": {"disabled": true}}));
    assert_eq!(found("graphite-sink", &facts), [""; 0], "no heartbeats are expected");
    // By its Service's address, and its Service's port.
    facts.fleet = fleet(json!({}));
    let service = json!({
        "metadata": {"name": "heard"},
        "spec": {"clusterIP": "10.9.9.9", "ports": [{"name": "graphite", "port": 12003}]},
    });
    facts.services = Ok(vec![serde_json::from_value(service).unwrap()]);
    let finding = check("graphite-sink", &facts).unwrap().remove(0);
    assert_eq!((finding.code, &*finding.set[0]), ("graphite-port", &*format!("{SINK}port=12003")));
    // Whether another name in Rollcall's namespace is its Service's is not known without them.
    facts.services = unknown();
    assert!(check("graphite-sink", &facts).unwrap_err().contains("10.9.9.9"));
    let named = |host: &str| check("graphite-sink", &changed(GOOD_4, &[(&format!("{SINK}host"), host)]));
    assert!(named("heard.rollcall").is_err());
    assert_eq!(named("heard.monitoring").unwrap()[0].code, "graphite-sink-elsewhere");
    // In the document's words.
    let mut facts = changed(
        GOOD_4,
        &[(&format!("{SINK}prefix"), "team"), ("spark.metrics.namespace", "${spark.app.name}")],
    );
    facts.fleet = fleet(json!({"heartbeat": {"graphitePrefix": "team", "metricsNamespace": "nightly etl"}}));
    assert_eq!(codes(&facts), ["[short-termination-grace]"]);
}

#[test]
fn a_sink_from_a_file_may_be_another_one_for_executors() {
    let mut answer: Value = serde_json::from_str(GOOD_4).unwrap();
    let conf = |pair: &Value| pair[0].as_str().unwrap().starts_with("spark.metrics.conf.");
    answer["sparkProperties"].as_array_mut().unwrap().retain(|pair| !conf(pair));
    let facts = facts(Settings::from_environment(answer));
    assert_eq!(found("graphite-sink", &facts), ["graphite-sink-from-file"]);
}

#[test]
fn mode_own() {
    let own = |changes: &[(&str, &str)]| {
        let mut facts = changed(GOOD_4, changes);
        facts.fleet =
            fleet(json!({"mode": "Own", "template": {"spec": {"terminationGracePeriodSeconds": 120}}}));
        facts
    };
    assert_eq!(
        codes(&own(&[])),
        [
            "executor-instances-not-zero",
            "driver-gives-up",
            "[driver-deletes-executors]",
            "[driver-deletes-pending]"
        ]
    );
    let right = [
        ("spark.executor.instances", "0"),
        ("spark.kubernetes.executor.deleteOnTermination", "false"),
        ("spark.executor.maxNumFailures", "1000000"),
        ("spark.dynamicAllocation.executorIdleTimeout", "30d"),
    ];
    assert_eq!(codes(&own(&right)), [""; 0]);
    assert_eq!(
        found("executor-instances", &own(&[("spark.dynamicAllocation.enabled", "true")])),
        ["dynamic-allocation-on"]
    );
    for class in ["com.example.Allocator", "dev.rollcall.spark.RollcallPodsAllocator"] {
        let allocator = [("spark.kubernetes.allocation.pods.allocator", class)];
        assert_eq!(codes(&own(&allocator)), [""; 0], "the allocator decides that");
    }
    let mut facts = own(&right);
    facts.fleet.spec.template = None;
    assert!(check("termination-grace", &facts).is_err());
}

#[test]
fn pods_and_their_events() {
    let with = |change: &dyn Fn(&mut Value, &mut Value)| {
        let (mut driver, mut executor) = (driver(), executor());
        change(&mut driver, &mut executor);
        let mut facts = changed(GOOD_4, &[]);
        facts.driver_name = driver["metadata"]["name"].as_str().unwrap().to_owned();
        (facts.driver, facts.executors) = (Ok(pod(driver)), Ok(vec![pod(executor)]));
        codes(&facts)
    };
    let none = &mut [""; 0][..];
    assert_eq!(with(&|_, _| {}), *none);
    assert_eq!(
        with(&|driver, _| driver["metadata"]["labels"]["spark-role"] = json!("executor")),
        ["driver-role-label-missing"]
    );
    assert_eq!(
        with(&|driver, _| driver["metadata"]["labels"] = json!({"spark-role": "driver"})),
        ["application-id-unknown"]
    );
    assert_eq!(
        with(&|driver, _| driver["metadata"]["name"] = json!("other-driver")),
        ["driver-name-differs"]
    );
    assert_eq!(with(&|driver, _| driver["status"]["phase"] = json!("Pending")), ["[driver-not-running]"]);
    assert_eq!(
        with(&|_, executor| executor["metadata"]["ownerReferences"][0]["uid"] = json!("another")),
        ["executor-not-owned"]
    );
    assert_eq!(
        with(&|_, executor| executor["metadata"]["labels"]["spark-exec-id"] = json!("EXECID")),
        ["executor-id-unknown"]
    );
    assert_eq!(
        with(&|_, executor| executor["spec"]["containers"] = json!([{"name": "a"}, {"name": "b"}])),
        ["no-pre-stop-hook", "[executor-container-unknown]"]
    );
    assert_eq!(
        with(&|_, executor| executor["spec"]["terminationGracePeriodSeconds"] = json!(30)),
        ["[short-termination-grace]"]
    );

    let mut facts = changed(GOOD_4, &[]);
    let mut generated = driver();
    generated["metadata"]["name"] = json!("etl-5ad0769f1e2b3c4d-driver");
    facts.driver_name = "etl-5ad0769f1e2b3c4d-driver".to_owned();
    facts.driver = Ok(pod(generated));
    facts.fleet.spec.driver.pod_name = facts.driver_name.clone();
    assert_eq!(found("driver-pod", &facts), ["driver-name-generated"]);

    let event = |reason: &str| -> Warning {
        let event = json!({"metadata": {}, "involvedObject": {"name": "etl-exec-1"}, "reason": reason, "message": "m", "count": 3});
        serde_json::from_value(event).unwrap()
    };
    facts.warnings = Ok(vec![event("BackOff"), event("FailedPreStopHook"), event("BackOff")]);
    let findings = check("warning-events", &facts).unwrap();
    assert_eq!(findings[0].what, "6 × BackOff, for instance etl-exec-1: m");
    assert_eq!(findings[1].code, "pre-stop-hook-fails");
}

#[test]
fn grace_and_the_times_of_rolls() {
    let with = |roll: Value, grace_s: u64| {
        let mut facts = changed(GOOD_4, &[("spark.executor.decommission.forceKillTimeout", "5min")]);
        facts.fleet = fleet(json!({"roll": roll}));
        let mut executor = executor();
        executor["spec"]["terminationGracePeriodSeconds"] = json!(grace_s);
        facts.executors = Ok(vec![pod(executor)]);
        codes(&facts)
    };
    let roll = |grace: Value| json!({"policies": ["OUTLIER"], "grace": grace});
    assert_eq!(with(roll(Value::Null), 120), [""; 0]);
    assert_eq!(with(roll(Value::Null), 30), ["[short-termination-grace]"]);
    assert_eq!(with(roll(json!("5m")), 30), ["{short-termination-grace}"], "rolls have their own");
    assert_eq!(with(roll(json!("301s")), 120), ["[force-kill-before-grace]"]);
    assert_eq!(with(roll(Value::Null), 900), ["[grace-exceeds-roll-timeout]", "[force-kill-before-grace]"]);
}

#[test]
fn permissions_are_told_by_the_manifest_that_grants_them() {
    let mut facts = changed(GOOD_4, &[]);
    let mut rights = needed_rights(false, true);
    facts.rights = Ok(rights.clone());
    let findings = check("permissions", &facts).unwrap();
    let codes: Vec<&str> = findings.iter().map(|finding| finding.code).collect();
    let kinds = ["fleet", "event", "lease", "node", "object"];
    assert_eq!(codes, kinds.map(|kind| format!("{kind}-permissions-missing")));
    assert_eq!(
        findings[0].what,
        "service account rollcall/rollcall may not get, list, watch, delete pods; create pods/eviction; \
         get, create, update configmaps in namespace spark"
    );
    rights.iter_mut().for_each(|right| right.allowed = true);
    facts.rights = Ok(rights);
    assert_eq!(found("permissions", &facts), [""; 0]);
    assert!(
        needed_rights(true, false).iter().any(|right| (right.resource, right.verb) == ("pods", "create"))
    );
}

/// The policy that comes with Rollcall.
fn shipped() -> NetworkPolicy {
    let text = include_str!("../../../deploy/rollcall.yaml");
    let document = text.split("---\n").find(|document| document.contains("kind: NetworkPolicy")).unwrap();
    serde_json::from_value(serde_saphyr::from_str(document).unwrap()).unwrap()
}

#[test]
fn the_shipped_network_policy_needs_a_label_of_the_namespace() {
    let (to_rollcall, to_driver) = ("network-to-rollcall", "network-to-driver");
    let mut facts = changed(GOOD_4, &[]);
    (facts.home.policies, facts.home.labels) = (Ok(vec![shipped()]), Ok(Labels::new()));
    (facts.namespace.policies, facts.namespace.labels) = (Ok(Vec::new()), Ok(Labels::new()));
    for name in [to_rollcall, to_driver] {
        let findings = check(name, &facts).unwrap();
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].set, ["kubectl label namespace spark rollcall.dev/fleets=true"]);
    }
    facts.namespace.labels = Ok(Labels::from([("rollcall.dev/fleets".to_owned(), "true".to_owned())]));
    assert_eq!((found(to_rollcall, &facts), found(to_driver, &facts)), (vec![], vec![]));
    facts.fleet = fleet(json!({"driver": {"podName": "etl-driver", "restPort": 4041}}));
    let what = &check(to_driver, &facts).unwrap()[0].what;
    assert_eq!(what, "NetworkPolicy rollcall/rollcall blocks Rollcall to the driver, port 4041 (egress)");

    // A policy of the application's namespace.
    let deny = json!({"metadata": {"name": "deny"}, "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}});
    facts.namespace.policies = Ok(vec![serde_json::from_value(deny).unwrap()]);
    facts.fleet = fleet(json!({}));
    let finding = check(to_rollcall, &facts).unwrap().remove(0);
    assert_eq!(finding.what, "NetworkPolicy spark/deny blocks executors to Rollcall, port 2003 (egress)");
    assert_eq!(
        finding.set,
        [
            "in a NetworkPolicy of spark: egress: [{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: rollcall}}, \
          podSelector: {matchLabels: {app.kubernetes.io/instance: rollcall, app.kubernetes.io/name: rollcall}}}], ports: [{port: 2003}]}]"
        ]
    );
    assert_eq!(found(to_driver, &facts), ["network-blocks-rest-api"]);
    let mut on_host = executor();
    on_host["spec"]["hostNetwork"] = json!(true);
    facts.executors = Ok(vec![pod(on_host)]);
    assert!(check(to_rollcall, &facts).is_err());
    facts.namespace.labels = unknown();
    assert!(check(to_driver, &facts).is_err(), "labels that are not known do not match, nor not match");
}

#[test]
fn what_is_written_is_a_document_that_has_no_more_to_find() {
    const SINK: &str = "spark.metrics.conf.executor.sink.graphite.";
    let changes = [
        (&*format!("{SINK}prefix"), "team"),
        (&*format!("{SINK}period"), "90"),
        ("spark.metrics.namespace", "${spark.app.name}"),
        ("spark.ui.port", "4045"),
        ("spark.network.timeout", "160s"),
        ("spark.dynamicAllocation.enabled", "true"),
    ];
    for (answer, changes) in [(GOOD_3, &[][..]), (GOOD_4, &changes)] {
        let mut facts = changed(answer, changes);
        let fleet = write::document(&facts, Write::Fleet).unwrap();
        let config = config::from_object(&fleet, 1).unwrap();
        assert_eq!(config.check(&["OUTLIER".to_owned()]), []);
        assert!(config.fleet.spec.dry_run);
        facts.fleet.spec = config.fleet.spec;
        let left = codes(&facts);
        // The timeout of 160 s is shorter than two periods.
        let expected: &[&str] = if changes.is_empty() { &[] } else { &["[heartbeat-timeout-differs]"] };
        let expected = expected.iter().copied().chain(["{short-termination-grace}"]);
        assert_eq!(left, expected.collect::<Vec<_>>());

        facts.driver = Ok(pod(driver()));
        let class = write::document(&facts, Write::Class).unwrap();
        assert_eq!(class["spec"]["selector"], json!({"matchLabels": {"spark-role": "driver"}}));
        assert_eq!(class["spec"]["namespaces"], json!(["spark"]));
        let mut spec = class["spec"]["fleet"].clone();
        assert_eq!(spec["driver"]["podName"], Value::Null);
        spec["driver"]["podName"] = json!("etl-driver");
        assert_eq!(spec, fleet["spec"]);
    }
    for (key, value, remedy) in [
        ("spark.executor.instances", "0", "examples/own.yaml"),
        ("spark.kubernetes.allocation.pods.allocator", "dev.rollcall.spark.RollcallPodsAllocator", "itself"),
    ] {
        let refused = write::document(&changed(GOOD_4, &[(key, value)]), Write::Fleet).unwrap_err();
        assert!(refused.to_string().contains(remedy), "{refused}");
    }
}
