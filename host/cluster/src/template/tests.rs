use std::collections::BTreeMap;

use serde_json::json;

use super::*;

fn environment(container: &k8s::Container) -> BTreeMap<&str, Option<&str>> {
    let variables = container.env.iter().flatten();
    variables.map(|variable| (&*variable.name, variable.value.as_deref())).collect()
}

fn spark() -> Spark {
    Spark {
        driver_url: "spark://CoarseGrainedScheduler@10.0.0.1:7078".to_owned(),
        cores: 2,
        memory: "4g".to_owned(),
        user: Some("ann".to_owned()),
        conf_dir: "/opt/spark/conf".to_owned(),
        java_options: vec!["-Dx=y".to_owned(), "--add-opens=a/b=ALL-UNNAMED".to_owned()],
        resource_profile_id: 0,
        decommission: true,
        local_dirs_tmpfs: false,
        app_name: Some("etl-1".to_owned()),
        version: Some("4.3.0".to_owned()),
    }
}

fn owner() -> OwnerReference {
    OwnerReference { uid: "driver-uid".to_owned(), controller: Some(true), ..OwnerReference::default() }
}

fn made(template: Value, avoid: &[Box<str>]) -> k8s::Pod {
    let template = Template::new(&template, &spark(), None).unwrap();
    template.pod("spark-1", ExecutorId(7), "f-exec-7", owner(), avoid)
}

/// Everything that an executor's pod needs, in the order of Spark's own code.
#[test]
fn a_pod_has_what_spark_needs() {
    let pod = made(
        json!({"spec": {"containers": [{"name": "spark-kubernetes-executor", "image": "spark:4"}]}}),
        &[],
    );
    let labels = pod.metadata.labels.as_ref().unwrap();
    let expected = [
        ("spark-app-selector", "spark-1"),
        ("spark-role", "executor"),
        ("spark-exec-id", "7"),
        ("spark-exec-resourceprofile-id", "0"),
        ("spark-app-name", "etl-1"),
        ("spark-version", "4.3.0"),
    ];
    assert_eq!(*labels, expected.map(|(label, value)| (label.to_owned(), value.to_owned())).into());
    assert_eq!(pod.metadata.name.as_deref(), Some("f-exec-7"));
    assert_eq!(pod.metadata.owner_references, Some(vec![owner()]));
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!(spec.restart_policy.as_deref(), Some("Never"));
    let container = &spec.containers[0];
    assert_eq!(container.args, Some(vec!["executor".to_owned()]));
    let hook = container.lifecycle.as_ref().unwrap().pre_stop.as_ref().unwrap().exec.as_ref().unwrap();
    assert_eq!(hook.command, Some(vec!["/opt/decom.sh".to_owned()]));
    assert_eq!(container.ports.as_ref().unwrap()[0].container_port, 7_079);
    let env = environment(container);
    for (name, value) in [
        ("SPARK_DRIVER_URL", "spark://CoarseGrainedScheduler@10.0.0.1:7078"),
        ("SPARK_EXECUTOR_CORES", "2"),
        ("SPARK_EXECUTOR_MEMORY", "4g"),
        ("SPARK_APPLICATION_ID", "spark-1"),
        ("SPARK_CONF_DIR", "/opt/spark/conf"),
        ("SPARK_EXECUTOR_ID", "7"),
        ("SPARK_RESOURCE_PROFILE_ID", "0"),
        ("SPARK_USER", "ann"),
        ("SPARK_JAVA_OPT_0", "-Dx=y"),
        ("SPARK_JAVA_OPT_1", "--add-opens=a/b=ALL-UNNAMED"),
        ("SPARK_LOCAL_DIRS", LOCAL_PATH),
    ] {
        assert_eq!(env.get(name), Some(&Some(value)), "{name}");
    }
    let path = |name: &str| {
        let variable = container.env.iter().flatten().find(|variable| variable.name == name).unwrap();
        variable.value_from.as_ref().unwrap().field_ref.as_ref().unwrap().field_path.clone()
    };
    assert_eq!(path("SPARK_EXECUTOR_POD_IP"), "status.podIP");
    assert_eq!(path("SPARK_EXECUTOR_POD_NAME"), "metadata.name");
    assert_eq!(spec.volumes.as_ref().unwrap()[0].name, container.volume_mounts.as_ref().unwrap()[0].name);
}

#[test]
fn a_template_keeps_its_word_but_not_another_identity() {
    let pod = made(
        json!({
            "metadata": {
                "name": "mine", "labels": {"team": "a", "spark-exec-id": "99"}, "finalizers": ["x/y"],
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "z", "uid": "z"}]
            },
            "spec": {"containers": [
                {"name": "proxy"},
                {"name": "spark-kubernetes-executor", "command": ["/run"],
                 "env": [{"name": "SPARK_EXECUTOR_ID", "value": "99"}, {"name": "SPARK_USER", "value": "bob"},
                         {"name": "SPARK_LOCAL_DIRS", "value": "/scratch"}],
                 "lifecycle": {"preStop": {"exec": {"command": ["/mine"]}}}}
            ]}
        }),
        &[],
    );
    let labels = pod.metadata.labels.as_ref().unwrap();
    assert_eq!((labels["team"].as_str(), labels[EXECUTOR_ID].as_str()), ("a", "7"));
    assert_eq!((pod.metadata.finalizers.as_ref(), pod.metadata.name.as_deref()), (None, Some("f-exec-7")));
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!((spec.containers[0].env.as_ref(), spec.volumes.as_ref()), (None, None), "the proxy is theirs");
    let container = &spec.containers[1];
    let env = environment(container);
    assert_eq!((env["SPARK_EXECUTOR_ID"], env["SPARK_USER"]), (Some("7"), Some("bob")));
    assert_eq!((container.args.as_ref(), env["SPARK_LOCAL_DIRS"]), (None, Some("/scratch")));
    let hook = container.lifecycle.as_ref().unwrap().pre_stop.as_ref().unwrap().exec.as_ref().unwrap();
    assert_eq!(hook.command, Some(vec!["/mine".to_owned()]));
}

#[test]
fn avoided_nodes_are_avoided_in_every_alternative() {
    let expression = |key: &str| json!({"matchExpressions": [{"key": key, "operator": "Exists"}]});
    let template = json!({"spec": {
        "containers": [{"name": "x"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [expression("a"), expression("b")]}}}
    }});
    for (template, terms) in [(template, 2), (json!({"spec": {"containers": [{"name": "x"}]}}), 1)] {
        let pod = made(template, &["n1".into(), "n2".into()]);
        let affinity = pod.spec.unwrap().affinity.unwrap().node_affinity.unwrap();
        let all = affinity.required_during_scheduling_ignored_during_execution.unwrap().node_selector_terms;
        assert_eq!(all.len(), terms);
        for term in all {
            let fields = term.match_fields.unwrap();
            let one = |field: &k8s::NodeSelectorRequirement| {
                (field.key.clone(), field.operator.clone(), field.values.clone().unwrap())
            };
            let not = |node: &str| ("metadata.name".to_owned(), "NotIn".to_owned(), vec![node.to_owned()]);
            assert_eq!(fields.iter().map(one).collect::<Vec<_>>(), [not("n1"), not("n2")]);
        }
    }
}

/// The errors of a template, `path: message`.
fn wrong(template: Value) -> Vec<String> {
    let remarks = Template::new(&template, &spark(), None).unwrap_err();
    remarks.into_iter().map(|remark| format!("{}: {}", remark.path, remark.message)).collect()
}

#[test]
fn a_template_that_cannot_work_is_refused_with_its_path() {
    let with = |field: &str, value: Value| {
        let mut spec = json!({"containers": [{"name": "x"}, {"name": "y", "args": ["executor"]}]});
        spec[field] = value;
        json!({"spec": spec})
    };
    let two = |change: Value| with("containers", json!([{"name": "x"}, change]));
    for (template, expected) in [
        (json!({}), "spec.template.spec: is required"),
        (json!("x"), "spec.template: invalid type: string \"x\", expected PodTemplateSpec"),
        (
            with("containers", json!([])),
            "spec.template.spec.containers: a template needs the executor's container",
        ),
        (
            with("containers", json!("x")),
            "spec.template.spec.containers: invalid type: string \"x\", expected a sequence",
        ),
        (
            with("restartPolicy", json!("Always")),
            "spec.template.spec.restartPolicy: must be Never: a restarted container would come back under an id that is used up",
        ),
        (
            two(json!({"name": "y", "args": ["executor"], "restartPolicy": "OnFailure"})),
            "spec.template.spec.containers[1].restartPolicy: must be Never: a restarted container would come back under an id that is used up",
        ),
        (
            with("terminationGracePeriodSeconds", json!(-1)),
            "spec.template.spec.terminationGracePeriodSeconds: must not be negative",
        ),
        (two(json!({"image": "y"})), "spec.template.spec.containers[1].name: is required"),
        (two(json!({"name": "x"})), "spec.template.spec.containers[1].name: two containers are called \"x\""),
        (
            with("initContainers", json!([{"name": "y"}])),
            "spec.template.spec.containers[1].name: two containers are called \"y\"",
        ),
        (
            two(json!({"name": "y", "image": 7})),
            "spec.template.spec.containers[1].image: invalid type: integer `7`, expected a string",
        ),
        (
            two(json!({"name": "y", "resources": {"limits": {"memory": "4GB"}}})),
            "spec.template.spec.containers[1].resources.limits.memory: \"4GB\" is no quantity: write for instance \
             500m, 2, 512Mi or 4Gi",
        ),
        (
            two(
                json!({"name": "y", "resources": {"limits": {"memory": "4Gi"}, "requests": {"memory": "4097Mi"}}}),
            ),
            "spec.template.spec.containers[1].resources.requests.memory: 4097Mi is more than the limit, 4Gi",
        ),
    ] {
        assert_eq!(wrong(template), [expected]);
    }
    // A sidecar may be restarted.
    let sidecar = json!([{"name": "x", "restartPolicy": "Always"}, {"name": "y", "args": ["executor"]}]);
    assert!(Template::new(&with("containers", sidecar), &spark(), None).is_ok());
}

#[test]
fn what_kubernetes_does_not_know_is_refused_wherever_it_stands() {
    let template = json!({
        "kind": "Pod",
        "metadata": {"label": {"a": "b"}, "annotations": {"any.thing/goes": "here"}},
        "spec": {
            "nodeselector": {"disktype": "ssd"},
            "nodeSelector": {"anyThing": "goes"},
            "securityContext": {"capabilities": {"drop": ["ALL"]}, "runAsUser": 185},
            "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "zone", "labelSelecter": {}}]}},
            "containers": [
                {"name": "a"},
                {"name": "spark-kubernetes-executor",
                 "tolerations": [],
                 "resources": {"limits": {"cpu": 1, "example.com/gpu": "1"}, "request": {}},
                 "livenessProbe": {"httpGet": {"port": "http", "route": "/"}},
                 "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "keys": "k"}}}, {"nam": "B"}]},
            ],
            "volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": {
                "storageClass": "fast", "resources": {"requests": {"storage": "1Gi"}}}}}}],
        },
    });
    let remarks = Template::new(&template, &spark(), None).unwrap_err();
    let mut paths: Vec<&str> = remarks.iter().map(|remark| &*remark.path).collect();
    paths.sort_unstable();
    assert_eq!(
        paths,
        [
            "spec.template.kind",
            "spec.template.metadata.label",
            "spec.template.spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].labelSelecter",
            "spec.template.spec.containers[1].env[0].valueFrom.secretKeyRef.keys",
            "spec.template.spec.containers[1].env[1].nam",
            "spec.template.spec.containers[1].livenessProbe.httpGet.route",
            "spec.template.spec.containers[1].resources.request",
            "spec.template.spec.containers[1].tolerations",
            "spec.template.spec.nodeselector",
            "spec.template.spec.securityContext.capabilities",
            "spec.template.spec.volumes[0].ephemeral.volumeClaimTemplate.spec.storageClass",
        ]
    );
    let of = |name: &str| remarks.iter().find(|remark| remark.path.ends_with(name)).unwrap();
    assert_eq!(of(".nodeselector").message, "unknown field: Kubernetes 1.37 has none of this name here");
    assert!(of(".nodeselector").known.contains(&"nodeSelector"));
    assert!(of(".storageClass").known.contains(&"storageClassName"));
    for (name, help) in [
        (".capabilities", "it belongs to `spec.template.spec.containers[].securityContext.capabilities`"),
        ("[1].tolerations", "it belongs to `spec.template.spec.tolerations`"),
        (".kind", "leave it out: a PodTemplateSpec has metadata and spec"),
    ] {
        assert_eq!(of(name).help.as_deref(), Some(help));
    }
}

#[test]
fn wrong_values_are_told_together_and_beside_unknown_fields() {
    let template = json!({"spec": {
        "hostNetwork": "yes",
        "nodeSelector": {"a": true},
        "containers": [{"name": "x", "env": [{"name": "A", "value": 8080}, {"name": "B", "valu": ""}]}],
    }});
    let remarks = Template::new(&template, &spark(), None).unwrap_err();
    let told: Vec<(&str, Option<&str>)> =
        remarks.iter().map(|remark| (&*remark.path, remark.help.as_deref())).collect();
    assert_eq!(
        told,
        [
            ("spec.template.spec.containers[0].env[0].value", Some("put it in quotes: \"8080\"")),
            ("spec.template.spec.hostNetwork", None),
            ("spec.template.spec.nodeSelector.a", Some("put it in quotes: \"true\"")),
            ("spec.template.spec.containers[0].env[1].valu", None),
        ]
    );
}

/// Each of Kubernetes' own types of values, and those that are written as numbers.
#[test]
fn what_kubernetes_knows_is_taken() {
    let pod = made(
        json!({"metadata": null, "spec": {
            "schedulingGates": [{"name": "kueue.x-k8s.io/admission"}],
            "overhead": {"cpu": 0.5},
            "resources": {"limits": {"memory": "8Gi"}},
            "containers": [{"name": "x", "env": null, "resources": {"limits": {"cpu": 2, "memory": 4294967296_u64}},
                "readinessProbe": {"tcpSocket": {"port": 7079}}, "startupProbe": {"httpGet": {"port": "http"}}}],
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1.5Gi"}}, {"name": "d", "downwardAPI": {"items": [
                {"path": "x", "mode": 420, "fieldRef": {"fieldPath": "metadata.name"}}]}}],
        }}),
        &[],
    );
    let spec = pod.spec.unwrap();
    assert_eq!(spec.scheduling_gates.unwrap()[0].name, "kueue.x-k8s.io/admission");
    let limits = spec.containers[0].resources.as_ref().unwrap().limits.as_ref().unwrap();
    assert_eq!((&*limits["cpu"].0, &*limits["memory"].0), ("2", "4294967296"));
    assert_eq!(spec.volumes.unwrap().len(), 3, "and the one for local dirs");
}

#[test]
fn mounts_for_local_dirs_are_sparks() {
    let dirs = |container: Value, volumes: Value, tmpfs: bool| {
        let template = json!({"spec": {"containers": [container], "volumes": volumes}});
        let spark = Spark { local_dirs_tmpfs: tmpfs, ..spark() };
        let template = Template::new(&template, &spark, None).unwrap();
        let spec = template.pod("spark-1", ExecutorId(7), "f-exec-7", owner(), &[]).spec.unwrap();
        let env = environment(&spec.containers[0])["SPARK_LOCAL_DIRS"].map(str::to_owned);
        (env, spec.volumes.unwrap_or_default())
    };
    let claim = json!({"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOncePod"]}}});
    let two = json!([{"name": "spark-local-dir-b", "ephemeral": claim}, {"name": "spark-local-dir-a", "emptyDir": {}}]);
    let mounts = json!([
        {"name": "spark-local-dir-b", "mountPath": "/fast"}, {"name": "other", "mountPath": "/other"},
        {"name": "spark-local-dir-a", "mountPath": "/data"},
    ]);
    let (env, volumes) = dirs(json!({"name": "x", "volumeMounts": mounts.clone()}), two.clone(), true);
    assert_eq!((env.as_deref(), volumes.len()), (Some("/fast,/data"), 2), "in the order of the mounts");
    assert!(volumes[0].ephemeral.as_ref().unwrap().volume_claim_template.is_some());
    // The environment's own setting.
    let own = json!([{"name": "SPARK_LOCAL_DIRS", "value": "/mine"}]);
    let (env, volumes) = dirs(json!({"name": "x", "env": own, "volumeMounts": mounts}), two, false);
    assert_eq!((env.as_deref(), volumes.len()), (Some("/mine"), 2));
    // None are mounted: a volume is added, or an existing one is used.
    for (tmpfs, medium) in [(false, None), (true, Some("Memory"))] {
        let (env, volumes) = dirs(json!({"name": "x"}), json!([]), tmpfs);
        assert_eq!((env.as_deref(), volumes.len()), (Some(LOCAL_PATH), 1));
        assert_eq!(volumes[0].empty_dir.as_ref().unwrap().medium.as_deref(), medium);
    }
    let there = json!([{"name": "spark-local-dir-1", "hostPath": {"path": "/ssd"}}]);
    let (env, volumes) = dirs(json!({"name": "x"}), there, false);
    assert_eq!((env.as_deref(), volumes.len()), (Some(LOCAL_PATH), 1));
    assert!(volumes[0].host_path.is_some());
}

#[test]
fn placeholders_are_substituted_where_spark_does_so() {
    let options = vec!["-Xlog:gc:/logs/{{APP_ID}}/{{EXECUTOR_ID}}.log".to_owned()];
    let spark = Spark { java_options: options, ..spark() };
    let template = json!({
        "metadata": {"labels": {"id": "e-{{EXECUTOR_ID}}"}, "annotations": {"logs": "{{APP_ID}}/{{EXECUTOR_ID}}"}},
        "spec": {"containers": [{"name": "x", "env": [
            {"name": "SPARK_JAVA_OPT_7", "value": "-Did={{EXECUTOR_ID}}"},
            {"name": "SPARK_EXECUTOR_DIRS", "value": "/d/SPARK_APPLICATION_ID/SPARK_EXECUTOR_ID"},
            {"name": "OTHER", "value": "{{EXECUTOR_ID}} of $(SPARK_EXECUTOR_ID)"},
        ]}]},
    });
    let template = Template::new(&template, &spark, None).unwrap();
    let pod = template.pod("spark-1", ExecutorId(7), "f-exec-7", owner(), &[]);
    let (labels, annotations) = (pod.metadata.labels.unwrap(), pod.metadata.annotations.unwrap());
    assert_eq!((&*labels["id"], &*annotations["logs"]), ("e-7", "spark-1/7"));
    let spec = pod.spec.unwrap();
    let env = environment(&spec.containers[0]);
    assert_eq!(env["SPARK_JAVA_OPT_0"], Some("-Xlog:gc:/logs/spark-1/7.log"));
    assert_eq!(env["SPARK_JAVA_OPT_7"], Some("-Did=7"));
    assert_eq!(env["SPARK_EXECUTOR_DIRS"], Some("/d/spark-1/7"));
    assert_eq!(env["OTHER"], Some("{{EXECUTOR_ID}} of $(SPARK_EXECUTOR_ID)"));
    // Kubernetes expands only variables that were defined before.
    let names: Vec<&str> = spec.containers[0].env.iter().flatten().map(|env| &*env.name).collect();
    let identity =
        ["SPARK_APPLICATION_ID", "SPARK_EXECUTOR_ID", "SPARK_EXECUTOR_POD_IP", "SPARK_EXECUTOR_POD_NAME"];
    assert_eq!(names[..4], identity);
}

#[test]
fn the_executors_container_is_found_as_spark_finds_it() {
    let sidecar = json!({"name": "fluentd"});
    let told = json!({"name": "b", "env": [{"name": "SPARK_EXECUTOR_ID", "value": "?"}]});
    let runs = json!({"name": "c", "args": ["executor"]});
    let called = json!({"name": "spark-kubernetes-executor"});
    for (containers, setting, expected, guessed) in [
        (vec![&sidecar], None, "fluentd", false),
        (vec![&sidecar, &called], None, "spark-kubernetes-executor", false),
        (vec![&sidecar, &called, &runs], None, "c", false),
        (vec![&called, &runs, &told], None, "c", false),
        (vec![&told, &called], None, "spark-kubernetes-executor", false),
        (vec![&sidecar, &told], None, "b", false),
        (vec![&called, &runs, &told], Some("spark-kubernetes-executor"), "spark-kubernetes-executor", false),
        (vec![&sidecar, &json!({"name": "spark-kubernetes-executors"})], None, "fluentd", true),
        (
            vec![&sidecar, &json!({"name": "spark-kubernetes-executors"})],
            Some("spark-kubernetes-executors"),
            "spark-kubernetes-executors",
            false,
        ),
        (
            vec![&sidecar, &json!({"image": "spark", "args": ["executor"]})],
            None,
            "spark-kubernetes-executor",
            false,
        ),
    ] {
        let template =
            Template::new(&json!({"spec": {"containers": containers}}), &spark(), setting).unwrap();
        assert_eq!(template.advice.iter().any(|advice| advice.message.starts_with("which of")), guessed);
        let spec = template.pod("a", ExecutorId(7), "p", owner(), &[]).spec.unwrap();
        let is_executor =
            |container: &&k8s::Container| environment(container).get("SPARK_EXECUTOR_ID") == Some(&Some("7"));
        let executors: Vec<&str> = spec.containers.iter().filter(is_executor).map(|one| &*one.name).collect();
        assert_eq!(executors, [expected], "{containers:?}, {setting:?}");
    }
    let error =
        Template::new(&json!({"spec": {"containers": [sidecar]}}), &spark(), Some("spark")).unwrap_err();
    assert_eq!(
        (&*error[0].path, &*error[0].message, error[0].help.as_deref()),
        (
            "spec.executorContainer",
            "no container of the template is called \"spark\"",
            Some("there are fluentd")
        )
    );
}

/// The paths of the advice for an executor's container and a pod.
fn advised(container: Value, pod: Value) -> Vec<String> {
    let mut template = json!({"spec": {"containers": [{"name": "x", "image": "spark",
        "resources": {"limits": {"memory": "8Gi"}}}]}});
    let merge = |to: &mut Value, from: Value| {
        for (field, value) in from.as_object().unwrap() {
            to[field] = value.clone();
        }
    };
    merge(&mut template["spec"]["containers"][0], container);
    merge(&mut template, pod);
    let template = Template::new(&template, &spark(), None).unwrap();
    template
        .advice
        .into_iter()
        .map(|advice| advice.path.trim_start_matches("spec.template.").to_owned())
        .collect()
}

/// With 4g of heap, Spark requests 4505Mi for a pod.
#[test]
fn memory_that_cannot_be_enough_is_told() {
    let container = "spec.containers[0].resources";
    let memory = |limits: Value, requests: Value| {
        let resources = json!({"resources": {"limits": limits, "requests": requests}});
        advised(resources, json!({}))
    };
    let (limit, request) = (&*format!("{container}.limits.memory"), &*format!("{container}.requests.memory"));
    assert_eq!(memory(json!({"memory": "4504Mi"}), json!({})), [limit]);
    assert_eq!(memory(json!({"memory": "4G"}), json!({"memory": "4G"})), [limit, request]);
    assert_eq!(memory(json!({"memory": "4505Mi"}), json!({"memory": "1Gi"})), [request]);
    assert_eq!(memory(json!({"memory": "4505Mi"}), json!({})), [""; 0]);
    assert_eq!(memory(json!({"cpu": 1}), json!({"cpu": 1})), [request]);
    // The container's own heap setting is what the JVM gets: 1g and at least 384Mi.
    let env = |memory: &str, limit: &str| {
        let env = json!([{"name": "SPARK_EXECUTOR_MEMORY", "value": memory}]);
        advised(json!({"env": env, "resources": {"limits": {"memory": limit}}}), json!({}))
    };
    assert_eq!(env("1g", "1407Mi"), [limit]);
    assert_eq!(env("1g", "1408Mi"), [""; 0]);
    assert_eq!(env("what", "1Mi"), [""; 0], "not known");
    // Resources of the whole pod.
    let pod = json!({"spec": {"containers": [{"name": "x", "image": "spark"}], "resources": {"limits": {"memory": "1Gi"}}}});
    assert_eq!(advised(json!({"resources": null}), pod), ["spec.resources.limits.memory"]);
}

#[test]
fn what_spark_would_understand_and_kubernetes_does_not_is_told() {
    let volumes = json!([
        {"name": "a", "persistentVolumeClaim": {"claimName": "OnDemand"}},
        {"name": "b", "persistentVolumeClaim": {"claimName": "data-SPARK_EXECUTOR_ID"}},
        {"name": "c", "persistentVolumeClaim": {"claimName": "data-{{EXECUTOR_ID}}"}},
        {"name": "d", "persistentVolumeClaim": {"claimName": "data"}},
        {"name": "spark-local-dir", "emptyDir": {}},
    ]);
    let resources = json!({"limits": {"memory": "8Gi"}});
    let pod = json!({
        "metadata": {"name": "n", "labels": {"spark-exec-id": "1", "spark-exec-inactive": "true", "a": "{{APP_ID}}"}},
        "spec": {"volumes": volumes, "containers": [{"name": "x", "image": "spark", "resources": resources, "args": ["--id={{EXECUTOR_ID}}"],
            "env": [{"name": "A", "value": "{{APP_ID}}"}, {"name": "SPARK_JAVA_OPT_0", "value": "{{APP_ID}}"}],
            "volumeMounts": [{"name": "a", "mountPath": "/a"}, {"name": "gone", "mountPath": "/b"},
                             {"name": "spark-local-dir", "mountPath": "/c"}]}]},
    });
    let template = Template::new(&pod, &spark(), None).unwrap();
    let told: Vec<&str> = template.advice.iter().map(|advice| &*advice.path).collect();
    assert_eq!(
        told,
        [
            "spec.template.spec.containers[0].volumeMounts[1].name",
            "spec.template.spec.containers[0].volumeMounts[2].name",
            "spec.template.spec.volumes[0].persistentVolumeClaim.claimName",
            "spec.template.spec.volumes[1].persistentVolumeClaim.claimName",
            "spec.template.spec.volumes[2].persistentVolumeClaim.claimName",
            "spec.template.metadata.name",
            "spec.template.metadata.labels.spark-exec-id",
            "spec.template.metadata.labels.spark-exec-inactive",
            "spec.template.spec.containers[0].args[0]",
            "spec.template.spec.containers[0].env[0].value",
        ]
    );
    let labels = template.pod("spark-1", ExecutorId(7), "p", owner(), &[]).metadata.labels.unwrap();
    assert_eq!(
        (&*labels["spark-exec-id"], &*labels["a"], labels.get("spark-exec-inactive")),
        ("7", "spark-1", None)
    );
    assert_eq!(advised(json!({}), json!({})), [""; 0]);
}
