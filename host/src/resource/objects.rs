//! The objects of the API server as they are known: each with its document, or with the reason why it has none.
//!
//! An object that cannot be read changes nothing: the document of its last readable state stays. An object that is
//! created again under the same name is another one, and inherits nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cluster::resource::{Kind, Object, Told};
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use crate::config::{self, ClassConfig, FleetConfig, Problem};

/// A kind of objects that is read as `Self`.
pub trait Read: Clone + std::fmt::Debug + PartialEq + Send + 'static {
    const KIND: Kind;
    fn read(object: &Value, generation: i64) -> Result<Self, Vec<Problem>>;
}

impl Read for FleetConfig {
    const KIND: Kind =
        Kind { group: "rollcall.dev", version: "v1alpha1", kind: "ExecutorFleet", plural: "executorfleets" };

    fn read(object: &Value, generation: i64) -> Result<FleetConfig, Vec<Problem>> {
        config::from_object(object, generation)
    }
}

impl Read for ClassConfig {
    const KIND: Kind = Kind {
        group: "rollcall.dev",
        version: "v1alpha1",
        kind: "ExecutorFleetClass",
        plural: "executorfleetclasses",
    };

    fn read(object: &Value, generation: i64) -> Result<ClassConfig, Vec<Problem>> {
        config::class_from_object(object, generation)
    }
}

/// Messages of the watch that wait.
const TOLD_MAX: usize = 64;

/// Shared by the watch, the task that judges documents, and the one that writes statuses.
#[derive(Debug)]
pub struct Objects<T> {
    known: Mutex<BTreeMap<String, Arc<Known<T>>>>,
    /// Scopes of the watch whose first list was received.
    listed: Mutex<BTreeSet<Option<String>>>,
    changes: watch::Sender<u64>,
}

/// An object, and what was read from it.
#[derive(Clone, Debug)]
pub struct Known<T> {
    pub object: Object,
    /// Of its newest readable state.
    pub config: Option<T>,
    /// Why its newest state cannot be read.
    pub problems: Vec<String>,
}

impl<T> Default for Objects<T> {
    fn default() -> Objects<T> {
        Objects { known: Mutex::default(), listed: Mutex::default(), changes: watch::Sender::new(0) }
    }
}

impl<T: Read> Objects<T> {
    /// The documents, in the order of their namespaces and names.
    pub fn documents(&self) -> Vec<T> {
        lock(&self.known).values().filter_map(|known| known.config.clone()).collect()
    }

    /// Have all objects of these namespaces, or of all, been listed once?
    pub fn is_listed(&self, namespaces: &[String]) -> bool {
        scopes(namespaces).iter().all(|scope| lock(&self.listed).contains(scope))
    }

    pub fn all(&self) -> Vec<Arc<Known<T>>> {
        lock(&self.known).values().cloned().collect()
    }

    /// Notifies about changes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// `within`: the namespace of the watch; `None`: all.
    pub fn take(&self, told: Told, within: Option<&str>) {
        let mut known = lock(&self.known);
        match told {
            Told::All(objects) => {
                lock(&self.listed).insert(within.map(str::to_owned));
                let of_another =
                    |known: &Known<T>| within.is_some_and(|namespace| known.object.namespace != namespace);
                let keys: Vec<String> = objects.iter().map(Object::key).collect();
                known.retain(|key, known| keys.contains(key) || of_another(known));
                for object in objects {
                    insert(&mut known, object);
                }
            }
            Told::Changed(object) => insert(&mut known, *object),
            Told::Gone(object) => {
                known.remove(&object.key());
            }
            Told::Broken(why) => {
                let kind = T::KIND.kind;
                tracing::warn!(kind, why, "objects cannot be watched: the last known ones stay in force");
                return;
            }
        }
        drop(known);
        self.changes.send_modify(|count| *count += 1);
    }
}

// The maps are consistent after every statement, so a panic elsewhere does not corrupt them.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The watches for these namespaces; one for all, if there are none.
fn scopes(namespaces: &[String]) -> Vec<Option<String>> {
    if namespaces.is_empty() { vec![None] } else { namespaces.iter().cloned().map(Some).collect() }
}

fn insert<T: Read>(known: &mut BTreeMap<String, Arc<Known<T>>>, object: Object) {
    let key = object.key();
    let before = known.remove(&key).filter(|before| before.object.uid == object.uid);
    // A change of the status alone, for instance our own.
    if let Some(before) = &before
        && before.object.generation == object.generation
    {
        known.insert(key, Arc::new(Known { object, ..Known::clone(before) }));
        return;
    }
    let (config, problems) = match T::read(&object.value, object.generation) {
        Ok(config) => (Some(config), Vec::new()),
        Err(problems) => {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            for problem in &problems {
                let kind = T::KIND.kind;
                tracing::error!(
                    kind,
                    object = key,
                    problem,
                    "the object is refused; its last valid state stays in force"
                );
            }
            (before.and_then(|before| before.config.clone()), problems)
        }
    };
    known.insert(key, Arc::new(Known { object, config, problems }));
}

/// Follows the objects of these namespaces, or of all; until it is aborted.
pub async fn follow<T: Read>(client: cluster::Client, namespaces: Vec<String>, objects: Arc<Objects<T>>) {
    let watches = scopes(&namespaces).into_iter().map(|namespace: Option<String>| {
        let (sender, mut told) = mpsc::channel(TOLD_MAX);
        let (client, objects, of) = (client.clone(), Arc::clone(&objects), namespace.clone());
        let reading = async move {
            while let Some(message) = told.recv().await {
                objects.take(message, of.as_deref());
            }
        };
        async move {
            tokio::join!(cluster::resource::watch(client, T::KIND, namespace.as_deref(), sender), reading);
        }
    });
    futures_util::future::join_all(watches).await;
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(uid: &str, generation: i64, spec: Value) -> Object {
        Object {
            namespace: "spark".to_owned(),
            name: "etl".to_owned(),
            uid: uid.to_owned(),
            generation,
            value: json!({
                "apiVersion": "rollcall.dev/v1alpha1", "kind": "ExecutorFleet",
                "metadata": {"name": "etl", "namespace": "spark", "uid": uid, "generation": generation},
                "spec": spec, "status": {"phase": "active"},
            }),
        }
    }

    fn spec(executors: u32) -> Value {
        json!({"mode": "Observe", "executors": executors, "driver": {"podName": "d"}})
    }

    #[test]
    fn an_object_that_cannot_be_read_keeps_its_last_document() {
        let objects = Objects::<FleetConfig>::default();
        let change = |object| objects.take(Told::Changed(Box::new(object)), None);
        let targets =
            || objects.documents().iter().map(|config| config.fleet.spec.executors).collect::<Vec<_>>();
        change(object("u1", 1, spec(3)));
        assert_eq!(targets(), [3]);
        change(object("u1", 2, json!({"mode": "Neither"})));
        assert_eq!(targets(), [3]);
        assert_eq!(objects.all()[0].problems.len(), 1, "{:?}", objects.all());
        change(object("u2", 1, json!({"mode": "Neither"})));
        assert_eq!(targets(), [0; 0], "another object with its name");
        change(object("u2", 2, spec(4)));
        assert_eq!(targets(), [4]);
        objects.take(Told::All(Vec::new()), Some("other"));
        assert_eq!(targets(), [4], "the list of another namespace");
        objects.take(Told::All(Vec::new()), Some("spark"));
        assert_eq!(targets(), [0; 0]);
    }

    #[test]
    fn an_object_names_no_file_of_the_daemon() {
        for (section, field, value) in [
            ("driver", "restTokenFile", json!("/var/run/secrets/kubernetes.io/serviceaccount/token")),
            ("driver", "restTls", json!({"caFile": "/etc/passwd"})),
            ("driver", "allowLoopback", json!(true)),
            ("heartbeat", "tokenFile", json!("/etc/passwd")),
        ] {
            let mut spec = spec(1);
            spec[section][field] = value;
            let objects = Objects::<FleetConfig>::default();
            objects.take(Told::Changed(Box::new(object("u1", 1, spec))), None);
            let problems = &objects.all()[0].problems;
            assert!(problems[0].contains(&format!("spec.{section}.{field}")), "{problems:?}");
            assert!(objects.documents().is_empty());
        }
    }
}
