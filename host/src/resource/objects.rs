//! The ExecutorFleet objects as they are known: each with its document, or with the reason why it has none.
//!
//! An object that cannot be read changes nothing: the document of its last readable state stays. An object that is
//! created again under the same name is another one, and inherits nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cluster::resource::{Kind, Object, Told};
use tokio::sync::{mpsc, watch};

use crate::config::{self, FleetConfig};

pub const KIND: Kind =
    Kind { group: "rollcall.dev", version: "v1alpha1", kind: "ExecutorFleet", plural: "executorfleets" };
/// Messages of the watch that wait.
const TOLD_MAX: usize = 64;

/// Shared by the watch, the task that judges documents, and the one that writes statuses.
#[derive(Debug)]
pub struct Objects {
    known: Mutex<BTreeMap<String, Known>>,
    changes: watch::Sender<u64>,
}

/// An object, and what was read from it.
#[derive(Clone, Debug)]
pub struct Known {
    pub object: Object,
    /// Of its newest readable state.
    pub config: Option<FleetConfig>,
    /// Why its newest state cannot be read.
    pub problems: Vec<String>,
}

impl Default for Objects {
    fn default() -> Objects {
        Objects { known: Mutex::default(), changes: watch::Sender::new(0) }
    }
}

impl Objects {
    /// The documents, in the order of their namespaces and names.
    pub fn documents(&self) -> Vec<FleetConfig> {
        self.lock().values().filter_map(|known| known.config.clone()).collect()
    }

    pub fn all(&self) -> Vec<Known> {
        self.lock().values().cloned().collect()
    }

    /// Notifies about changes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// `within`: the namespace of the watch; `None`: all.
    fn take(&self, told: Told, within: Option<&str>) {
        let mut known = self.lock();
        match told {
            Told::All(objects) => {
                let of_another =
                    |known: &Known| within.is_some_and(|namespace| known.object.namespace != namespace);
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
                tracing::warn!(
                    why,
                    "ExecutorFleet objects cannot be watched: the last known ones stay in force"
                );
                return;
            }
        }
        drop(known);
        self.changes.send_modify(|count| *count += 1);
    }

    // The map is consistent after every statement, so a panic elsewhere does not corrupt it.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn insert(known: &mut BTreeMap<String, Known>, object: Object) {
    let key = object.key();
    let before = known.remove(&key).filter(|before| before.object.uid == object.uid);
    // A change of the status alone, for instance our own.
    if let Some(before) = &before
        && before.object.generation == object.generation
    {
        known.insert(key, Known { object, ..before.clone() });
        return;
    }
    let (config, problems) = match config::from_object(&object.value, object.generation) {
        Ok(config) => (Some(config), Vec::new()),
        Err(problems) => {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            for problem in &problems {
                tracing::error!(
                    fleet = key,
                    problem,
                    "the object is refused; its last valid state stays in force"
                );
            }
            (before.and_then(|before| before.config), problems)
        }
    };
    known.insert(key, Known { object, config, problems });
}

/// Follows the objects of these namespaces, or of all; until it is aborted.
pub async fn follow(client: cluster::Client, namespaces: Vec<String>, objects: Arc<Objects>) {
    let within = if namespaces.is_empty() { vec![None] } else { namespaces.into_iter().map(Some).collect() };
    let watches = within.into_iter().map(|namespace: Option<String>| {
        let (sender, mut told) = mpsc::channel(TOLD_MAX);
        let (client, objects, of) = (client.clone(), Arc::clone(&objects), namespace.clone());
        let reading = async move {
            while let Some(message) = told.recv().await {
                objects.take(message, of.as_deref());
            }
        };
        async move {
            tokio::join!(cluster::resource::watch(client, KIND, namespace.as_deref(), sender), reading);
        }
    });
    futures_util::future::join_all(watches).await;
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

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
        let objects = Objects::default();
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
            let objects = Objects::default();
            objects.take(Told::Changed(Box::new(object("u1", 1, spec))), None);
            let problems = &objects.all()[0].problems;
            assert!(problems[0].contains(&format!("spec.{section}.{field}")), "{problems:?}");
            assert!(objects.documents().is_empty());
        }
    }
}
