//! Somebody else who watches the same pods: what anybody claims about time is measured here.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Config, ResourceExt};
use tokio::sync::oneshot;

/// What is seen of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Appeared,
    Runs,
    Gone,
}

pub struct Observer {
    sights: mpsc::Receiver<(Instant, Seen, String)>,
    /// Those that run, as far as it was read.
    running: BTreeSet<String>,
    runtime: tokio::runtime::Runtime,
    pods: Api<Pod>,
    _stop: oneshot::Sender<()>,
}

impl Observer {
    /// Of the executors of an application.
    pub fn start(kubeconfig: &Path, namespace: &str, application: &str) -> Observer {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
        let client = runtime.block_on(async {
            let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
            Client::try_from(config.unwrap()).unwrap()
        });
        let pods: Api<Pod> = Api::namespaced(client, namespace);
        let selector = format!("spark-role=executor,spark-app-selector={application}");
        let config = watcher::Config::default().labels(&selector);
        let (send, sights) = mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let watched = pods.clone();
        let watch = async move {
            let (mut appeared, mut ran) = (BTreeSet::new(), BTreeSet::new());
            let mut events = std::pin::pin!(watcher(watched, config).default_backoff());
            while let Some(event) = events.next().await {
                let now = Instant::now();
                let (pod, gone) = match event {
                    Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) => (pod, false),
                    Ok(watcher::Event::Delete(pod)) => (pod, true),
                    Ok(watcher::Event::Init | watcher::Event::InitDone) | Err(_) => continue,
                };
                let name = pod.name_any();
                let runs =
                    pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"));
                if appeared.insert(name.clone()) {
                    let _ = send.send((now, Seen::Appeared, name.clone()));
                }
                if gone {
                    let _ = send.send((now, Seen::Gone, name));
                } else if runs && ran.insert(name.clone()) {
                    let _ = send.send((now, Seen::Runs, name));
                }
            }
        };
        runtime.spawn(async move {
            tokio::select! { () = watch => {}, _ = stopped => {} }
        });
        Observer { sights, running: BTreeSet::new(), runtime, pods, _stop: stop }
    }

    /// What is seen next, within a time.
    pub fn next(&mut self, within: Duration) -> Option<(Instant, Seen, String)> {
        let sight = self.sights.recv_timeout(within).ok()?;
        match sight.1 {
            Seen::Appeared => {}
            Seen::Runs => drop(self.running.insert(sight.2.clone())),
            Seen::Gone => drop(self.running.remove(&sight.2)),
        }
        Some(sight)
    }

    pub fn running(&self) -> &BTreeSet<String> {
        &self.running
    }

    /// Waits until so many run. The moment when they did.
    pub fn until_running(&mut self, count: usize, within: Duration) -> Instant {
        let begun = Instant::now();
        let mut at = begun;
        while self.running.len() != count {
            let left = within.checked_sub(begun.elapsed());
            let left =
                left.unwrap_or_else(|| panic!("{} of {count} run after {within:?}", self.running.len()));
            if let Some((seen, ..)) = self.next(left) {
                at = seen;
            }
        }
        at
    }

    /// These are gone at once, with no grace, as with their nodes.
    pub fn end(&self, pods: &[String]) {
        let parameters = DeleteParams::default().grace_period(0);
        let ended =
            self.runtime.block_on(join_all(pods.iter().map(|pod| self.pods.delete(pod, &parameters))));
        for end in ended {
            end.unwrap();
        }
    }

    /// Ends so many, and says how long after each of them another appeared, the first after the first.
    pub fn replaced(&mut self, count: usize, within: Duration) -> Vec<Duration> {
        let victims: Vec<String> = self.running.iter().take(count).cloned().collect();
        self.end(&victims);
        let (mut gone, mut appeared) = (Vec::new(), Vec::new());
        let begun = Instant::now();
        while gone.len() < count || appeared.len() < count {
            let left = within.checked_sub(begun.elapsed());
            let left =
                left.unwrap_or_else(|| panic!("{} of {count} were replaced in {within:?}", appeared.len()));
            match self.next(left) {
                Some((at, Seen::Gone, _)) => gone.push(at),
                Some((at, Seen::Appeared, _)) => appeared.push(at),
                Some((_, Seen::Runs, _)) | None => {}
            }
        }
        gone.iter().zip(&appeared).map(|(gone, appeared)| appeared.saturating_duration_since(*gone)).collect()
    }
}
