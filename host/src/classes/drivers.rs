//! Follows the drivers of the namespaces that classes name.

use std::collections::BTreeMap;
use std::sync::Arc;

use cluster::watch::{Driver, Drivers};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Duration, sleep};

use super::Classes;
use crate::resource::lock;

/// Messages of a watch that wait.
const TOLD_MAX: usize = 64;
/// How often the classes are looked at for namespaces.
const LOOK: Duration = Duration::from_millis(500);

/// A namespace; `None`: all.
type Scope = Option<String>;

/// Ends a watch when it is dropped.
struct Watch(AbortHandle);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Watches the drivers of all namespaces in which a class looks for them; until it is aborted. `within`: only those of
/// these namespaces, if there are any.
pub async fn follow(client: cluster::Client, within: Vec<String>, classes: Arc<Classes>) {
    let mut watches: BTreeMap<Scope, Watch> = BTreeMap::new();
    loop {
        let scopes = classes.scopes(&within);
        let before = watches.len();
        watches.retain(|scope, _| scopes.contains(scope));
        if watches.len() < before {
            classes.forget(&scopes);
        }
        for scope in scopes {
            watches.entry(scope.clone()).or_insert_with(|| {
                let task = tokio::spawn(one(client.clone(), scope, Arc::clone(&classes)));
                Watch(task.abort_handle())
            });
        }
        sleep(LOOK).await;
    }
}

async fn one(client: cluster::Client, scope: Scope, classes: Arc<Classes>) {
    let (sender, mut told) = mpsc::channel(TOLD_MAX);
    let of = scope.clone();
    let reading = async {
        while let Some(message) = told.recv().await {
            classes.take(message, &of);
        }
    };
    tokio::join!(cluster::watch::drivers(client, scope.as_deref(), sender), reading);
}

impl Classes {
    /// The namespaces in which classes look for drivers.
    pub(super) fn scopes(&self, within: &[String]) -> Vec<Scope> {
        let all = self.all();
        let everywhere = all.iter().any(|config| config.class.namespaces.is_empty());
        if everywhere && within.is_empty() {
            return vec![None];
        }
        let mut named: Vec<String> = if everywhere {
            within.to_vec()
        } else {
            all.into_iter().flat_map(|config| config.class.namespaces).collect()
        };
        named.retain(|namespace| within.is_empty() || within.contains(namespace));
        named.sort();
        named.dedup();
        named.into_iter().map(Some).collect()
    }

    /// Have the drivers of all these namespaces been listed once?
    pub(super) fn is_listed(&self, within: &[String]) -> bool {
        let listed = lock(&self.listed);
        self.scopes(within).iter().all(|scope| listed.contains(scope))
    }

    /// Only these namespaces are watched from now on.
    fn forget(&self, scopes: &[Scope]) {
        lock(&self.listed).retain(|scope| scopes.contains(scope));
        let everywhere = scopes.contains(&None);
        lock(&self.drivers)
            .retain(|(namespace, _), _| everywhere || scopes.contains(&Some(namespace.clone())));
        self.changed();
    }

    pub(super) fn take(&self, told: Drivers, scope: &Scope) {
        let key = |driver: &Driver| (driver.driver.namespace.clone(), driver.driver.pod.clone());
        let mut drivers = lock(&self.drivers);
        match told {
            Drivers::All(all) => {
                drivers.retain(|(namespace, _), _| scope.as_ref().is_some_and(|of| of != namespace));
                drivers.extend(all.into_iter().map(|driver| (key(&driver), driver)));
                lock(&self.listed).insert(scope.clone());
            }
            Drivers::Changed(driver) => {
                if drivers.get(&key(&driver)) == Some(&*driver) {
                    return;
                }
                drivers.insert(key(&driver), *driver);
            }
            Drivers::Gone(driver) => {
                let same = |known: &Driver| known.uid == driver.uid;
                if drivers.get(&key(&driver)).is_some_and(same) {
                    drivers.remove(&key(&driver));
                }
            }
            Drivers::Broken(why) => {
                let namespace = scope.as_deref().unwrap_or("all");
                tracing::warn!(namespace, why, "drivers cannot be watched: the last known ones stay");
                return;
            }
        }
        drop(drivers);
        self.changed();
    }
}
