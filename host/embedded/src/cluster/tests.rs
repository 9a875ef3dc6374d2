use std::collections::BTreeSet;

use bytes::Bytes;

use super::*;

const APP: &str = "spark-0123456789abcdef";

/// A cluster, and a controller that keeps the number of executors.
struct World {
    cluster: Cluster,
    server: Server,
    driver: String,
    next_id: u64,
    now_ms: u64,
    heard: Vec<Signal>,
}

impl World {
    fn new(seed: u64, chaos: Chaos) -> World {
        let server = Server::new(seed);
        let mut cluster = Cluster::new(server.clone(), Options { seed, chaos, ..Options::default() });
        let driver = cluster.start_driver("spark", "etl-driver", APP).unwrap();
        World { cluster, server, driver, next_id: 1, now_ms: 0, heard: Vec::new() }
    }

    fn create(&mut self, id: u64) -> String {
        let name = format!("etl-exec-{}", self.next_id);
        self.next_id += 1;
        let pod = json!({
            "metadata": {
                "name": name,
                "labels": { "spark-role": "executor", "spark-app-selector": APP, "spark-exec-id": id.to_string() },
                "ownerReferences": [{
                    "apiVersion": "v1", "kind": "Pod", "name": "etl-driver", "uid": self.driver, "controller": true,
                }],
            },
            "spec": {
                "restartPolicy": "Never",
                "containers": [{ "name": "spark-kubernetes-executor", "image": "apache/spark:4.3.0" }],
            },
        });
        self.server.create("pods", "spark", pod).unwrap();
        name
    }

    fn run(&mut self, for_ms: u64) {
        let end_ms = self.now_ms + for_ms;
        while self.now_ms < end_ms {
            self.now_ms += 100;
            self.heard.extend(self.cluster.advance(self.now_ms));
        }
    }

    /// Keeps that many executors under all faults. Deletes those that have ended, and those that are stuck or
    /// silent for long.
    fn keep(&mut self, executors: usize, for_ms: u64) {
        for _ in 0..for_ms / 1000 {
            self.run(1000);
            for pod in self.pods() {
                let name = pod["metadata"]["name"].as_str().unwrap();
                if matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded")) {
                    self.server.delete("pods", "spark", name, None).unwrap();
                }
            }
            for _ in self.cluster.truth().live..executors {
                self.create(self.next_id);
            }
        }
    }

    fn pods(&self) -> Vec<Arc<Value>> {
        let pods = self.server.list("pods");
        pods.into_iter().filter(|pod| executor_of(pod).is_some()).collect()
    }

    fn pod(&self, name: &str) -> Option<Arc<Value>> {
        self.server.get("pods", "spark", name)
    }

    fn patch(&self, uri: &str, body: Value) -> u16 {
        let request = http::Request::builder().method("PATCH").uri(uri);
        let request = request.header("content-type", "application/merge-patch+json");
        self.server.call(request.body(body.to_string().into()).unwrap()).status().as_u16()
    }

    fn request(&self, method: &str, uri: &str, agent: &str, body: Value) -> u16 {
        let request = http::Request::builder().method(method).uri(uri).header("user-agent", agent);
        let body: Bytes = body.to_string().into();
        self.server.call(request.body(body).unwrap()).status().as_u16()
    }

    fn faults(&self) -> Vec<&'static str> {
        let told = |signal: &Signal| match signal {
            Signal::Fault { what, .. } => Some(*what),
            Signal::Graphite { .. } => None,
        };
        self.heard.iter().filter_map(told).collect()
    }
}

#[test]
fn twelve_pods_become_running_and_beat() {
    let mut world = World::new(1, Chaos::None);
    let names: Vec<String> = (1..=12).map(|id| world.create(id)).collect();
    world.run(12_000);
    let nodes: BTreeSet<String> = world.pods().iter().map(|pod| text(&pod["spec"]["nodeName"])).collect();
    assert_eq!(nodes.len(), 6, "they are spread");
    for name in &names {
        let pod = world.pod(name).unwrap();
        let status = &pod["status"]["containerStatuses"][0];
        assert_eq!((&pod["status"]["phase"], &status["ready"]), (&json!("Running"), &json!(true)));
        assert_eq!(status["name"], "spark-kubernetes-executor");
        assert!(crate::server::eviction::is_ready(&pod));
        let beats =
            world.heard.iter().filter(|signal| matches!(signal, Signal::Graphite { pod, .. } if pod == name));
        // It starts within 1.7 s, reports within another, and then every 5 s.
        assert!((2..=3).contains(&beats.count()), "{name}");
    }
    let truth = world.cluster.truth();
    assert_eq!((truth.created, truth.live, truth.available, truth.ids_reused), (12, 12, 12, 0));
    let rows = world.cluster.allexecutors(APP);
    let rows = rows.as_array().unwrap();
    assert_eq!((rows.len(), &rows[12]["id"]), (13, &json!("driver")));
    assert!(rows[..12].iter().all(|row| row["isActive"] == true && row["totalTasks"].as_u64() > Some(0)));
}

#[test]
fn a_gated_pod_waits_for_its_queue() {
    let mut world = World::new(1, Chaos::None);
    let gated = |name: &str, id: u64| {
        json!({
            "metadata": {
                "name": name,
                "labels": { "spark-role": "executor", "spark-app-selector": APP, "spark-exec-id": id.to_string() },
            },
            "spec": {
                "restartPolicy": "Never",
                "schedulingGates": [{ "name": "kueue.x-k8s.io/admission" }],
                "containers": [{ "name": "spark-kubernetes-executor", "image": "apache/spark:4.3.0" }],
            },
        })
    };
    for (name, id) in [("first", 1), ("second", 2)] {
        world.server.create("pods", "spark", gated(name, id)).unwrap();
    }
    world.run(60_000);
    for pod in world.pods() {
        assert_eq!((pod["spec"].get("nodeName"), &pod["status"]["phase"]), (None, &json!("Pending")));
        let conditions = pod["status"]["conditions"].as_array().unwrap();
        assert_eq!((conditions.len(), &conditions[0]["reason"]), (1, &json!("SchedulingGated")));
    }
    let truth = world.cluster.truth();
    assert_eq!((truth.live, truth.available), (2, 0));
    let open = json!({ "spec": { "schedulingGates": null } });
    let uri = "/api/v1/namespaces/spark/pods/first";
    assert_eq!(world.patch(uri, open), 200);
    world.run(5_000);
    assert_eq!(world.pod("first").unwrap()["status"]["phase"], "Running");
    assert_eq!(world.pod("second").unwrap()["status"]["phase"], "Pending");
    // It is on no node, so no kubelet delays the deletion.
    world.server.delete("pods", "spark", "second", None).unwrap();
    assert_eq!(world.pod("second"), None);
    world.run(100);
    let truth = world.cluster.truth();
    assert_eq!((truth.live, truth.available), (1, 1));
}

#[test]
fn a_deletion_is_a_decommission() {
    let mut world = World::new(2, Chaos::None);
    let (name, other) = (world.create(1), world.create(2));
    world.run(5_000);
    world.server.delete("pods", "spark", &name, None).unwrap();
    world.run(100);
    assert!(world.pod(&name).unwrap()["metadata"].get("deletionTimestamp").is_some(), "not at once");
    world.run(2_000);
    assert_eq!(world.pod(&name), None);
    let rows = world.cluster.allexecutors(APP);
    let row = &rows[0];
    assert_eq!((&row["id"], &row["isActive"]), (&json!("1"), &json!(false)));
    assert_eq!(row["removeReason"], "Executor decommission: Executor 1 is decommissioned.");
    // Executors end together with their driver.
    world.server.delete("pods", "spark", "etl-driver", Some(0)).unwrap();
    world.run(3_000);
    assert_eq!(world.pod(&other), None);
}

#[test]
fn every_fault_strikes_and_the_first_one_soon() {
    let mut all = BTreeSet::new();
    for seed in 1..=4 {
        let mut world = World::new(seed, Chaos::Heavy);
        (1..=12).for_each(|id| drop(world.create(id)));
        world.run(10_000);
        assert!(!world.faults().is_empty(), "seed {seed}: 8 s after the first has started");
        world.keep(12, 120_000);
        let struck = world.faults().len();
        assert!((20..90).contains(&struck), "seed {seed}: {struck} faults in 120 s");
        all.extend(world.faults());
        world.cluster.heal();
        let before = world.faults().len();
        world.keep(12, 20_000);
        assert_eq!(world.faults().len(), before, "seed {seed}: it is healed");
        assert_eq!(world.server.list("nodes").len(), 6, "seed {seed}: nodes came back");
    }
    // Five exits, and eight other faults.
    assert_eq!(all.len(), 13, "{all:?}");
}

#[test]
fn a_seed_is_a_run() {
    let run = |seed| {
        let mut world = World::new(seed, Chaos::Heavy);
        (1..=12).for_each(|id| drop(world.create(id)));
        world.keep(12, 30_000);
        (world.heard, world.server.list("pods"))
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5).0, run(6).0);
}

#[test]
fn an_executor_that_is_stopped_is_killed_when_its_time_is_over() {
    let mut world = World::new(3, Chaos::None);
    let name = world.create(1);
    world.run(4_000);
    for life in world.cluster.lives.values_mut() {
        life.process.as_mut().into_iter().for_each(|process| process.silent = true);
    }
    let (beats, truth) = (world.heard.len(), world.cluster.truth());
    assert_eq!((truth.available, truth.silent), (0, 1));
    world.run(20_000);
    assert_eq!(world.heard.len(), beats);
    assert_eq!(world.pod(&name).unwrap()["status"]["phase"], "Running", "the API server does not know");
    world.server.delete("pods", "spark", &name, Some(10)).unwrap();
    world.run(9_000);
    assert!(world.pod(&name).is_some());
    world.run(2_000);
    assert!(world.pod(&name).is_none());
}

#[test]
fn a_judge_sees_what_must_never_be() {
    let mut world = World::new(4, Chaos::None);
    let mut judge = Judge::new(world.server.clone(), APP, 3, 2);
    let names: Vec<String> = (1..=3).map(|id| world.create(id)).collect();
    world.run(4_000);
    assert_eq!(judge.look(&world.cluster), [""; 0]);
    let delete = |world: &World, name: &str, agent: &str, uid: bool| {
        let uid = uid.then(|| world.pod(name).unwrap()["metadata"]["uid"].clone());
        let uri = format!("/api/v1/namespaces/spark/pods/{name}");
        assert_eq!(world.request("DELETE", &uri, agent, json!({ "preconditions": { "uid": uid } })), 200);
    };
    delete(&world, &names[0], "rollcall/0.1", true);
    world.run(3_000);
    assert_eq!(judge.look(&world.cluster), [""; 0], "two are left");
    delete(&world, &names[1], "rollcall/0.1", false);
    world.run(3_000);
    let wrong = judge.look(&world.cluster);
    assert!(
        wrong.len() == 2 && wrong[0].contains("precondition") && wrong[1].contains("1 are left"),
        "{wrong:?}"
    );
    delete(&world, &names[2], "kubectl/v1.32", false);
    assert_eq!(judge.look(&world.cluster), [""; 0], "people may");
    world.create(1);
    let wrong = judge.look(&world.cluster);
    assert!(wrong.len() == 1 && wrong[0].contains("id 1 was used again"), "{wrong:?}");
    (5..=8).for_each(|id| drop(world.create(id)));
    let wrong = judge.look(&world.cluster);
    assert!(wrong.len() == 1 && wrong[0].contains("3 are allowed"), "{wrong:?}");
    world.run(100);
    assert_eq!(world.cluster.truth().ids_reused, 1);
}
