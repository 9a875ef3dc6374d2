//! Writes the fleets of classes that are objects: an ExecutorFleet for each driver, owned by the driver's pod.
//!
//! Each round compares the objects that there should be with those that there are, and writes what differs. Nothing is
//! remembered, so a write that failed or came too late is found again, and an object that was deleted is made again. An
//! object keeps its `executors` when its class is edited, because its scale may have been set by others. It ends with its
//! driver's pod, by Kubernetes' garbage collection; before that only if no class has the driver any more.

use std::collections::BTreeMap;
use std::sync::Arc;

use cluster::resource::{Change, NotWritten, change, write_status};
use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{Duration, sleep, timeout};

use super::{Classes, Fleet, class_of};
use crate::config::class::CLASS_LABEL;
use crate::config::{ClassConfig, FleetConfig};
use crate::handle::Handle;
use crate::resource::{ClassStatus, Condition, Known, Objects, Read, files_removed};

/// Between rounds if nothing changes, and the least time between two.
const ROUND: Duration = Duration::from_secs(1);
const LEAST: Duration = Duration::from_millis(100);
/// Objects written in one round, and at the same time.
const WRITES_MAX: usize = 100;
const AT_ONCE: usize = 8;
/// After a round in which a write failed.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// Until it is aborted. `within`: the namespaces of fleets; all, if there are none.
pub async fn apply(
    client: cluster::Client,
    handle: Handle,
    within: Vec<String>,
    classes: Arc<Classes>,
    fleets: Arc<Objects<FleetConfig>>,
) {
    let Some(of_objects) = classes.objects.clone() else { return };
    let (mut drivers, mut objects, mut edits) = (classes.changes(), fleets.changes(), of_objects.changes());
    loop {
        // A change shortly before a round is part of it.
        let changed = async {
            tokio::select! {
                _ = drivers.changed() => (),
                _ = objects.changed() => (),
                _ = edits.changed() => (),
            }
        };
        let _ = timeout(ROUND, changed).await;
        sleep(LEAST).await;
        let known = fleets.is_listed(&within) && of_objects.is_listed(&[]) && classes.is_listed(&within);
        if !known || !handle.pulse().is_leading() {
            continue;
        }
        let there = fleets.all();
        let made = classes.fleets(&there);
        let made: Vec<&Fleet> = made.iter().filter(|fleet| fleet.of_object).collect();
        let mut changes = changes(&classes, &made, &there);
        changes.truncate(WRITES_MAX);
        let writes = changes.into_iter().map(|(key, namespace, one)| {
            let client = client.clone();
            async move { (key, change(client, FleetConfig::KIND, &namespace, &one).await) }
        });
        let results = stream::iter(writes).buffer_unordered(AT_ONCE).collect::<Vec<_>>().await;
        let statuses = of_objects.all().into_iter().filter_map(|known| {
            let status = status(&known, &made);
            (known.object.value["status"] != status).then(|| {
                let client = client.clone();
                async move {
                    (
                        known.object.key(),
                        write_status(client, ClassConfig::KIND, &known.object, &status).await,
                    )
                }
            })
        });
        let told = stream::iter(statuses).buffer_unordered(AT_ONCE).collect::<Vec<_>>().await;
        let mut failed = false;
        for (object, result) in results.into_iter().chain(told) {
            if let Err(NotWritten::Failed(why)) = result {
                tracing::warn!(object, why, "an object of a class cannot be written; it is tried again");
                failed = true;
            }
        }
        if failed {
            sleep(AFTER_FAILURE).await;
        }
    }
}

/// The changes that make the objects those of the classes: key, namespace and change of each.
fn changes(
    classes: &Classes,
    made: &[&Fleet],
    there: &[Arc<Known<FleetConfig>>],
) -> Vec<(String, String, Change)> {
    let by_key: BTreeMap<String, &Arc<Known<FleetConfig>>> =
        there.iter().map(|known| (known.object.key(), known)).collect();
    let mut changes = Vec::new();
    let mut wanted = Vec::new();
    for fleet in made {
        let key = fleet.config.key();
        let change = match by_key.get(&key) {
            None => Some(Change::Create(object(fleet))),
            Some(known) => replacement(fleet, known).map(Change::Replace),
        };
        changes.extend(change.map(|change| (key.clone(), fleet.driver.driver.namespace.clone(), change)));
        wanted.push(key);
    }
    for known in there.iter().filter(|known| class_of(known).is_some()) {
        let key = known.object.key();
        // Of a driver that has ended the object stays while there is its class: it shows how the application went.
        let pod = known.object.value["spec"]["driver"]["podName"].as_str().unwrap_or_default();
        let is_over = !classes.lives(&known.object.namespace, pod) && classes.has(class_of(known));
        if !wanted.contains(&key) && !is_over {
            let (name, uid) = (known.object.name.clone(), known.object.uid.clone());
            changes.push((key, known.object.namespace.clone(), Change::Delete { name, uid }));
        }
    }
    changes
}

impl Classes {
    /// Is there an object with this class?
    fn has(&self, class: Option<&str>) -> bool {
        self.all().iter().any(|config| config.fleet.generation.is_some() && Some(config.name()) == class)
    }

    fn lives(&self, namespace: &str, pod: &str) -> bool {
        let drivers = crate::resource::lock(&self.drivers);
        drivers.get(&(namespace.to_owned(), pod.to_owned())).is_some_and(|driver| driver.driver.live)
    }
}

/// The object of a driver's fleet.
fn object(fleet: &Fleet) -> Value {
    let config = &fleet.config.fleet;
    let mut spec = serde_json::to_value(&config.spec).expect("a spec is JSON");
    files_removed(&mut spec);
    without_nulls(&mut spec);
    json!({
        "apiVersion": "rollcall.dev/v1alpha1", "kind": "ExecutorFleet",
        "metadata": {
            "name": config.metadata.name, "namespace": config.metadata.namespace,
            "labels": { CLASS_LABEL: fleet.class },
            "ownerReferences": [owner(fleet)],
        },
        "spec": spec,
    })
}

fn owner(fleet: &Fleet) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "name": fleet.driver.driver.pod, "uid": fleet.driver.uid,
        "controller": false, "blockOwnerDeletion": false,
    })
}

fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The object as it should be, if it is not.
fn replacement(fleet: &Fleet, known: &Known<FleetConfig>) -> Option<Value> {
    let mut spec = fleet.config.fleet.spec.clone();
    if let Some(executors) = known.object.value["spec"]["executors"].as_u64() {
        spec.executors = u32::try_from(executors).unwrap_or(spec.executors);
    }
    let metadata = &known.object.value["metadata"];
    let owned = metadata["ownerReferences"]
        .as_array()
        .is_some_and(|owners| owners.iter().any(|one| one["uid"].as_str() == Some(&fleet.driver.uid)));
    let is =
        known.problems.is_empty() && known.config.as_ref().is_some_and(|config| config.fleet.spec == spec);
    if owned && is && class_of(known) == Some(&fleet.class) {
        return None;
    }
    let mut wanted = object(fleet);
    wanted["spec"]["executors"] = spec.executors.into();
    let mut replaced = known.object.value.clone();
    replaced["spec"] = wanted["spec"].take();
    replaced["metadata"]["ownerReferences"] = wanted["metadata"]["ownerReferences"].take();
    replaced["metadata"]["labels"][CLASS_LABEL] = fleet.class.as_str().into();
    Some(replaced)
}

/// The status of a class. It has no clock: a condition keeps its time while its status is the same.
fn status(known: &Known<ClassConfig>, made: &[&Fleet]) -> Value {
    let before: ClassStatus =
        serde_json::from_value(known.object.value["status"].clone()).unwrap_or_default();
    let observed = Some(known.object.generation);
    let name = &known.object.name;
    let refused = known.problems.join("; ");
    let overlap = made.iter().find_map(|fleet| {
        let here = fleet.class == *name && !fleet.others.is_empty() || fleet.others.contains(name);
        let remark = || fleet.remarks.iter().find(|remark| remark.starts_with("classes ")).cloned();
        here.then(remark).flatten().map(|remark| format!("driver {}: {remark}", fleet.driver.driver.pod))
    });
    let condition = |kind: &str, holds: bool, reason: &str, message: String| {
        let status = if holds { "True" } else { "False" };
        let old = before.conditions.iter().find(|old| old.kind == kind && old.status == status);
        let since = old.map(|old| old.last_transition_time.clone());
        Condition {
            kind: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message,
            last_transition_time: since.unwrap_or_else(|| format!("{:.0}", Timestamp::now())),
            observed_generation: observed,
        }
    };
    let accepted = if refused.is_empty() {
        condition("Accepted", true, "Valid", "the class is in force".to_owned())
    } else {
        condition("Accepted", false, "Invalid", refused)
    };
    let overlapping = match overlap {
        Some(message) => condition("Overlapping", true, "SeveralClassesMatch", message),
        None => condition("Overlapping", false, "NoOther", String::new()),
    };
    let fleets = made.iter().filter(|fleet| fleet.class == *name).count();
    let status = ClassStatus {
        observed_generation: observed,
        fleets: u32::try_from(fleets).unwrap_or(u32::MAX),
        conditions: vec![accepted, overlapping],
    };
    serde_json::to_value(status).expect("a status is JSON")
}

#[cfg(test)]
mod tests {
    use cluster::resource::{Object, Told};
    use cluster::watch::{Driver, Drivers};

    use super::*;
    use crate::config::{Documents, class_from_object, from_object};

    struct World {
        classes: Classes,
        there: Vec<Arc<Known<FleetConfig>>>,
    }

    fn class(interval: &str) -> ClassConfig {
        let object = json!({
            "apiVersion": "rollcall.dev/v1alpha1", "kind": "ExecutorFleetClass", "metadata": {"name": "c"},
            "spec": {"namespaces": ["spark"], "fleet": {
                "mode": "Observe", "executors": 3, "roll": {"policies": ["ID"], "interval": interval},
            }},
        });
        class_from_object(&object, 1).expect("a class")
    }

    impl World {
        fn new(class: ClassConfig, uid: &str, live: bool) -> World {
            let documents = Documents { fleets: Vec::new(), classes: vec![class] };
            let classes = Classes::new(documents, None);
            let (namespace, pod) = ("spark".to_owned(), "d".to_owned());
            let driver = fleet::classes::Driver { namespace, pod, labels: BTreeMap::new(), live };
            let driver = Driver { driver, uid: uid.to_owned(), annotations: BTreeMap::new() };
            classes.take(Drivers::All(vec![driver]), &Some("spark".to_owned()));
            World { classes, there: Vec::new() }
        }

        fn changes(&self) -> Vec<Change> {
            let made = self.classes.fleets(&self.there);
            let made: Vec<&Fleet> = made.iter().collect();
            changes(&self.classes, &made, &self.there).into_iter().map(|(.., change)| change).collect()
        }

        /// The API server has this object.
        fn has(&mut self, value: &Value) {
            let mut value = value.clone();
            value["metadata"]["uid"] = "u".into();
            let config = from_object(&value, 1).expect("a fleet");
            let text = |field: &str| value["metadata"][field].as_str().unwrap_or_default().to_owned();
            let (namespace, name, uid) = (text("namespace"), text("name"), text("uid"));
            let object = Object { namespace, name, uid, generation: 1, value };
            self.there = vec![Arc::new(Known { object, config: Some(config), problems: Vec::new() })];
        }
    }

    fn created(world: &World) -> Value {
        match &world.changes()[..] {
            [Change::Create(object)] => object.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_object_is_made_once_and_follows_its_class_and_driver() {
        let mut world = World::new(class("1h"), "u1", true);
        let object = created(&world);
        assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], "u1");
        assert_eq!(object["metadata"]["labels"]["rollcall.dev/class"], "c");
        world.has(&object);
        assert_eq!(world.changes(), [], "it is as it should be");

        // Its scale was set by others, and the class is edited.
        let mut scaled = object.clone();
        scaled["spec"]["executors"] = 7.into();
        let mut edited = World::new(class("2h"), "u1", true);
        edited.has(&scaled);
        let [Change::Replace(replaced)] = &edited.changes()[..] else { panic!("{:?}", edited.changes()) };
        assert_eq!(
            (&replaced["spec"]["executors"], &replaced["spec"]["roll"]["interval"]),
            (&json!(7), &json!("2h"))
        );
        assert_eq!(replaced["metadata"]["uid"], "u", "the object that was read");

        // Another driver's pod has the name.
        let mut another = World::new(class("1h"), "u2", true);
        another.has(&object);
        let [Change::Replace(replaced)] = &another.changes()[..] else { panic!("{:?}", another.changes()) };
        assert_eq!(replaced["metadata"]["ownerReferences"][0]["uid"], "u2");
    }

    #[test]
    fn an_object_outlives_its_driver_and_not_its_class() {
        let object = created(&World::new(class("1h"), "u1", true));
        let mut gone = World::new(class("1h"), "u1", true);
        gone.classes.set_filed(Documents::default());
        gone.has(&object);
        let deleted = Change::Delete { name: "d".to_owned(), uid: "u".to_owned() };
        assert_eq!(gone.changes(), [deleted], "no class has the driver");
        // A user has taken the fleet over.
        let mut taken = object.clone();
        taken["metadata"]["labels"] = json!({});
        gone.has(&taken);
        assert_eq!(gone.changes(), []);

        let objects = Objects::<ClassConfig>::default();
        let ended = World::new(class("1h"), "u1", false);
        let mut ended =
            World { classes: Classes { objects: Some(Arc::new(objects)), ..ended.classes }, ..ended };
        ended.classes.set_filed(Documents::default());
        let value = json!({
            "apiVersion": "rollcall.dev/v1alpha1", "kind": "ExecutorFleetClass", "metadata": {"name": "c"},
            "spec": {"fleet": {"mode": "Observe"}},
        });
        let (namespace, name, uid) = (String::new(), "c".to_owned(), "uc".to_owned());
        let class = Object { namespace, name, uid, generation: 1, value };
        if let Some(objects) = &ended.classes.objects {
            objects.take(Told::All(vec![class]), None);
        }
        ended.has(&object);
        assert_eq!(ended.changes(), [], "it shows how the application went");
    }
}
