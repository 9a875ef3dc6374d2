//! An independent watch on the same pods, which measures all claims about time.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::sync::oneshot;

use super::control_plane::client;

/// A change of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Appeared,
    Runs,
    /// It has failed, or is deleted.
    Ended,
}

/// How pods are ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Their processes are killed, and their kubelet reports it.
    Killed,
    /// They are deleted without a report of how they ended, as after the loss of a node.
    Vanished,
}

pub struct Observer {
    sights: mpsc::Receiver<(Instant, Seen, String)>,
    /// Running pods, as far as the watch was read.
    running: BTreeSet<String>,
    live: Arc<Mutex<BTreeSet<String>>>,
    runtime: tokio::runtime::Runtime,
    pods: Api<Pod>,
    _stop: oneshot::Sender<()>,
}

impl Observer {
    /// Watches the executors of an application.
    pub fn start(kubeconfig: &Path, namespace: &str, application: &str) -> Observer {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let pods: Api<Pod> = Api::namespaced(runtime.block_on(client(kubeconfig)).unwrap(), namespace);
        let selector = format!("spark-role=executor,spark-app-selector={application}");
        let config = watcher::Config::default().labels(&selector);
        let (send, sights) = mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let watched = pods.clone();
        let live = Arc::new(Mutex::new(BTreeSet::new()));
        let of_watch = Arc::clone(&live);
        let watch = async move {
            let (mut appeared, mut ran, mut ended) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
            let mut events = std::pin::pin!(watcher(watched, config).default_backoff());
            while let Some(event) = events.next().await {
                let now = Instant::now();
                let (pod, gone) = match event {
                    Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) => (pod, false),
                    Ok(watcher::Event::Delete(pod)) => (pod, true),
                    Ok(watcher::Event::Init | watcher::Event::InitDone) | Err(_) => continue,
                };
                let name = pod.name_any();
                let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
                let (runs, gone) = (phase == Some("Running"), gone || phase == Some("Failed"));
                if appeared.insert(name.clone()) {
                    let _ = send.send((now, Seen::Appeared, name.clone()));
                }
                if gone && ended.insert(name.clone()) {
                    of_watch.lock().unwrap().remove(&name);
                    let _ = send.send((now, Seen::Ended, name));
                } else if runs && ran.insert(name.clone()) {
                    of_watch.lock().unwrap().insert(name.clone());
                    let _ = send.send((now, Seen::Runs, name));
                }
            }
        };
        runtime.spawn(async move {
            tokio::select! { () = watch => {}, _ = stopped => {} }
        });
        Observer { sights, running: BTreeSet::new(), live, runtime, pods, _stop: stop }
    }

    /// The next change, within this time.
    pub fn next(&mut self, within: Duration) -> Option<(Instant, Seen, String)> {
        let sight = self.sights.recv_timeout(within).ok()?;
        match sight.1 {
            Seen::Appeared => {}
            Seen::Runs => drop(self.running.insert(sight.2.clone())),
            Seen::Ended => drop(self.running.remove(&sight.2)),
        }
        Some(sight)
    }

    /// The running pods, for the thread that sends their heartbeats.
    pub fn live(&self) -> Arc<Mutex<BTreeSet<String>>> {
        Arc::clone(&self.live)
    }

    /// Waits until at least this many run, and returns the moment when they did.
    pub fn until_running(&mut self, count: usize, within: Duration) -> Instant {
        let begun = Instant::now();
        let mut at = begun;
        while self.running.len() < count {
            let left = within.checked_sub(begun.elapsed());
            let left =
                left.unwrap_or_else(|| panic!("{} of {count} run after {within:?}", self.running.len()));
            if let Some((seen, ..)) = self.next(left) {
                at = seen;
            }
        }
        at
    }

    fn end(&self, pods: &[String], how: End) {
        let delete = DeleteParams::default().grace_period(0);
        let killed = json!({"status": {"phase": "Failed", "containerStatuses": [{
            "name": "spark-kubernetes-executor", "image": "spark", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 137, "reason": "Error"}},
        }]}});
        let killed = Patch::Merge(killed);
        let end = async |pod: &String| match how {
            End::Killed => self.pods.patch_status(pod, &PatchParams::default(), &killed).await.map(drop),
            End::Vanished => self.pods.delete(pod, &delete).await.map(drop),
        };
        for ended in self.runtime.block_on(join_all(pods.iter().map(end))) {
            ended.unwrap();
        }
    }

    /// Waits until there are no changes any more, with at most this many running: Spark's allocator may request more
    /// executors than are missing, and would then not replace the next.
    pub fn settle(&mut self, count: usize) {
        const QUIET: Duration = Duration::from_secs(1);
        const SETTLED_MAX: Duration = Duration::from_secs(60);
        let begun = Instant::now();
        while begun.elapsed() < SETTLED_MAX {
            if self.next(QUIET).is_some() {
                continue;
            }
            let surplus: Vec<String> = self.running.iter().skip(count).cloned().collect();
            if surplus.is_empty() {
                return;
            }
            self.end(&surplus, End::Killed);
        }
        panic!("{} run, and no more than {count} should, for {SETTLED_MAX:?}", self.running.len());
    }

    /// Ends this many, and returns how long after each of them another appeared, matched in order.
    pub fn replaced(&mut self, count: usize, how: End, within: Duration) -> Vec<Duration> {
        let victims: Vec<String> = self.running.iter().take(count).cloned().collect();
        self.end(&victims, how);
        let (mut gone, mut appeared) = (Vec::new(), Vec::new());
        let begun = Instant::now();
        while gone.len() < count || appeared.len() < count {
            let left = within.checked_sub(begun.elapsed());
            let left =
                left.unwrap_or_else(|| panic!("{} of {count} were replaced in {within:?}", appeared.len()));
            match self.next(left) {
                Some((at, Seen::Ended, _)) => gone.push(at),
                Some((at, Seen::Appeared, _)) => appeared.push(at),
                Some((_, Seen::Runs, _)) | None => {}
            }
        }
        gone.iter().zip(&appeared).map(|(gone, appeared)| appeared.saturating_duration_since(*gone)).collect()
    }
}
