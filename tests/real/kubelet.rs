//! A kubelet whose containers are processes of this machine.
//!
//! It creates a node, binds every pod of its namespace without a node to it, runs the command of the pod's first
//! container, and reports through the status subresource what a kubelet reports: running, with an address; then the
//! exit code, or 128 plus the number of the signal that ended it. A deleted pod gets its preStop hook, SIGTERM and, at
//! the end of its grace period, SIGKILL; then it is removed.
//!
//! Of a container it supports command, args, env (values and the fields of `process::field`), volumes and the preStop
//! hook. A volume is an empty directory, regardless of its kind. Nothing is mounted: if the value of a variable is the
//! path of a mount, it is replaced by the path of the directory. An [`Image`] is a directory too: its files replace the
//! absolute paths of a command. All of it ends when the `Kubelet` is dropped, and also when the tests end without
//! dropping it.

use std::collections::HashMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use futures_util::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep};

use self::process::Process;
use super::control_plane::{Result, client};

mod process;

/// The name of its node.
pub const NODE: &str = "process-kubelet";
/// The minimum grace period after the hook, or without one (kubelet: `minimumGracePeriodInSeconds`).
const GRACE_MIN: Duration = Duration::from_secs(2);
/// How long the API server may take to accept a report. A test may stop it on purpose.
const REPORT_MAX: Duration = Duration::from_secs(60);
const REPORT_INTERVAL: Duration = Duration::from_millis(500);

/// In a variable's value in an image: the container's directory.
pub const TMPDIR: &str = "$(TMPDIR)";

/// The files that containers are started from.
#[derive(Clone, Debug)]
pub struct Image {
    /// A container without a command runs the file `entrypoint` in it.
    pub folder: PathBuf,
    pub env: Vec<(String, String)>,
}

pub struct Kubelet {
    shared: Arc<Shared>,
    thread: Option<(oneshot::Sender<()>, thread::JoinHandle<()>)>,
}

struct Shared {
    pods: Api<Pod>,
    folder: PathBuf,
    image: Image,
    /// The second number of its pods' IP addresses.
    network: u32,
    addresses: AtomicU32,
    /// Running processes and their addresses, by pod.
    running: Mutex<HashMap<String, (u32, String)>>,
    /// Why the next pod will not start.
    held: Mutex<Option<String>>,
}

/// The API server's state of a pod.
#[derive(Clone)]
enum Seen {
    Is(Box<Pod>),
    Gone,
}

impl Kubelet {
    /// Logs and volumes are in `folder`, which is created.
    pub fn start(kubeconfig: &Path, namespace: &str, folder: &Path, image: Image) -> Result<Kubelet> {
        let wrong = |error: &dyn std::fmt::Display| format!("kubelet: {error}");
        std::fs::create_dir_all(folder).map_err(|error| wrong(&error))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| wrong(&error))?;
        let client = runtime.block_on(async {
            let client = client(kubeconfig).await?;
            register(&client).await.map_err(|error| wrong(&error))?;
            Ok::<_, String>(client)
        })?;
        let shared = Arc::new(Shared {
            pods: Api::namespaced(client, namespace),
            folder: folder.to_path_buf(),
            image,
            network: network(),
            addresses: AtomicU32::new(0),
            running: Mutex::default(),
            held: Mutex::default(),
        });
        let (stop, stopped) = oneshot::channel();
        let of_thread = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            // Dropping the runtime drops the pods' tasks, and these drop their processes.
            runtime.block_on(async {
                tokio::select! { () = serve(of_thread) => {}, _ = stopped => {} }
            });
        });
        Ok(Kubelet { shared, thread: Some((stop, thread)) })
    }

    /// Does the pod's process run?
    pub fn runs(&self, pod: &str) -> bool {
        lock(&self.shared.running).contains_key(pod)
    }

    /// `status.podIP` of a running pod.
    pub fn address(&self, pod: &str) -> Option<String> {
        lock(&self.shared.running).get(pod).map(|(_, address)| address.clone())
    }

    /// Sends a signal to a pod's process, as an operator on the node would.
    pub fn signal(&self, pod: &str, signal: &str) -> Result<()> {
        let (pid, _) = lock(&self.shared.running).get(pod).cloned().ok_or(format!("{pod} does not run"))?;
        if send(signal, pid.into()) { Ok(()) } else { Err(format!("{pod} took no SIG{signal}")) }
    }

    /// The next pod does not start: its container waits for this reason, for instance `ErrImagePull`.
    pub fn hold_next(&self, reason: &str) {
        *lock(&self.shared.held) = Some(reason.to_owned());
    }

    /// The working directory of a pod's process. Its output is in the file `log`.
    pub fn folder(&self, pod: &str) -> PathBuf {
        self.shared.folder.join(pod)
    }
}

/// Each kubelet has its own network, because pods have the ports that Spark gives them. Several test processes begin at
/// different ones, and kwok's is 10.
fn network() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    20 + std::process::id().wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 200
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.thread.take() {
            let _ = stop.send(());
            let _ = thread.join();
        }
    }
}

/// Creates the node, ready.
async fn register(client: &Client) -> kube::Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let node = json!({"metadata": {"name": NODE}});
    match nodes.create(&PostParams::default(), &from_json(node)).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        other => drop(other?),
    }
    let status = json!({"status": {
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
            "lastHeartbeatTime": now(), "lastTransitionTime": now()}],
        "allocatable": {"cpu": "64", "memory": "64Gi", "pods": "1000"},
    }});
    nodes.patch_status(NODE, &PatchParams::default(), &Patch::Merge(status)).await?;
    Ok(())
}

/// Starts a task for each pod, and passes on the pod's changes.
async fn serve(shared: Arc<Shared>) {
    let mut tasks: HashMap<String, watch::Sender<Seen>> = HashMap::new();
    let mut listed: Vec<String> = Vec::new();
    let events = watcher(shared.pods.clone(), watcher::Config::default()).default_backoff();
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(pod)) => {
                listed.push(pod.uid().unwrap_or_default());
                applied(&shared, &mut tasks, pod);
            }
            Ok(watcher::Event::Apply(pod)) => applied(&shared, &mut tasks, pod),
            Ok(watcher::Event::InitDone) => tasks.retain(|uid, task| {
                let there = listed.contains(uid);
                if !there {
                    task.send_replace(Seen::Gone);
                }
                there
            }),
            Ok(watcher::Event::Delete(pod)) => {
                if let Some(task) = tasks.remove(&pod.uid().unwrap_or_default()) {
                    task.send_replace(Seen::Gone);
                }
            }
            // It lists again after a delay.
            Err(_) => {}
        }
    }
}

fn applied(shared: &Arc<Shared>, tasks: &mut HashMap<String, watch::Sender<Seen>>, pod: Pod) {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    if node.is_some_and(|node| node != NODE) {
        return;
    }
    if let Some(task) = tasks.get(&pod.uid().unwrap_or_default()) {
        task.send_replace(Seen::Is(Box::new(pod)));
        return;
    }
    let (task, seen) = watch::channel(Seen::Is(Box::new(pod.clone())));
    tasks.insert(pod.uid().unwrap_or_default(), task);
    tokio::spawn(live(Arc::clone(shared), pod, seen));
}

/// A pod from its binding to its end.
async fn live(shared: Arc<Shared>, pod: Pod, mut seen: watch::Receiver<Seen>) {
    let name = pod.name_any();
    if pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_none()) {
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": &name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": NODE}});

        let bound: kube::Result<Value> =
            shared.pods.create_subresource("binding", &name, &PostParams::default(), &binding).await;
        if let Err(error) = bound {
            println!("kubelet: {name} is not bound: {error}");
            return;
        }
    }
    let held = lock(&shared.held).take();
    if let Some(reason) = held {
        let container = json!({"waiting": {"reason": reason, "message": "the test wants it so"}});
        report(&shared, &pod, "Pending", container, None).await;
        while matches!(&*seen.borrow_and_update(), Seen::Is(pod) if pod.metadata.deletion_timestamp.is_none())
        {
            if seen.changed().await.is_err() {
                return;
            }
        }
        remove(&shared, &pod).await;
        return;
    }
    let address = shared.addresses.fetch_add(1, Ordering::Relaxed);
    let address = format!("127.{}.{}.{}", shared.network, address / 250, address % 250 + 1);
    let mut process = match Process::spawn(&shared, &pod, &address) {
        Ok(process) => process,
        Err(error) => {
            let container =
                json!({"terminated": {"exitCode": 128, "reason": "StartError", "message": error}});
            return report(&shared, &pod, "Failed", container, None).await;
        }
    };
    lock(&shared.running).insert(name.clone(), (process.pid, address.clone()));
    let container = json!({"running": {"startedAt": now()}});
    report(&shared, &pod, "Running", container, Some(&address)).await;
    let started = now();

    let status = tokio::select! {
        status = process.child.wait() => status,
        grace = deleted(&mut seen) => process.terminate(grace).await,
    };
    lock(&shared.running).remove(&name);
    // No process of a container outlives the first one.
    send("KILL", -i64::from(process.pid));
    let status = status.expect("it is our child");
    let code = exit_code(status);
    let container = json!({"terminated": {"exitCode": code, "reason": if code == 0 { "Completed" } else { "Error" },
        "startedAt": started, "finishedAt": now()}});
    let phase = if code == 0 { "Succeeded" } else { "Failed" };
    if matches!(&*seen.borrow(), Seen::Gone) {
        return;
    }
    report(&shared, &pod, phase, container, Some(&address)).await;
    deleted(&mut seen).await;
    remove(&shared, &pod).await;
}

/// Waits until the pod is deleted, and returns its grace period.
async fn deleted(seen: &mut watch::Receiver<Seen>) -> Duration {
    loop {
        match &*seen.borrow_and_update() {
            Seen::Is(pod) if pod.metadata.deletion_timestamp.is_some() => {
                let seconds = pod.metadata.deletion_grace_period_seconds.unwrap_or_default();
                return Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
            }
            Seen::Is(_) => {}
            Seen::Gone => return Duration::ZERO,
        }
        if seen.changed().await.is_err() {
            return Duration::ZERO;
        }
    }
}

/// Writes the pod's status; retries until the API server has accepted it, or the pod is gone.
async fn report(shared: &Shared, pod: &Pod, phase: &str, container: Value, address: Option<&str>) {
    let ready = if phase == "Running" { "True" } else { "False" };
    let containers = pod.spec.as_ref().map(|spec| &spec.containers);
    let containers: Vec<Value> = containers.into_iter().flatten().take(1).map(|it| {
        json!({"name": it.name, "image": it.image.as_deref().unwrap_or("none"), "imageID": "", "restartCount": 0,
            "ready": phase == "Running", "started": phase == "Running", "state": container})
    }).collect();
    let mut status = json!({"phase": phase, "containerStatuses": containers, "hostIP": "127.0.0.1", "conditions": [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": now()},
        {"type": "Ready", "status": ready, "lastTransitionTime": now()},
        {"type": "ContainersReady", "status": ready, "lastTransitionTime": now()},
    ]});
    if let Some(address) = address {
        status["podIP"] = json!(address);
        status["podIPs"] = json!([{"ip": address}]);
    }
    // The UID makes it a conflict if another pod has the name by now.
    let patch = Patch::Merge(json!({"metadata": {"uid": pod.uid()}, "status": status}));
    insist(&pod.name_any(), || async {
        shared.pods.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await.map(drop)
    })
    .await;
}

/// Its containers have ended: the API server may remove it.
async fn remove(shared: &Shared, pod: &Pod) {
    let preconditions = Preconditions { uid: pod.uid(), resource_version: None };
    let parameters = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(preconditions),
        ..DeleteParams::default()
    };
    insist(&pod.name_any(), || async { shared.pods.delete(&pod.name_any(), &parameters).await.map(drop) })
        .await;
}

async fn insist<F: Future<Output = kube::Result<()>>>(pod: &str, mut ask: impl FnMut() -> F) {
    let deadline = Instant::now() + REPORT_MAX;
    while let Err(error) = ask().await {
        let final_answer =
            matches!(&error, kube::Error::Api(status) if matches!(status.code, 404 | 409 | 422));
        if final_answer || Instant::now() > deadline {
            let gone = matches!(&error, kube::Error::Api(status) if status.code == 404);
            if !gone {
                println!("kubelet: about {pod}: {error}");
            }
            return;
        }
        sleep(REPORT_INTERVAL).await;
    }
}

/// The exit code that a kubelet reports, as in a shell.
fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// Signals a process, or, if `to` is negative, its group. Returns whether it existed.
fn send(signal: &str, to: i64) -> bool {
    let mut kill = std::process::Command::new("kill");
    let kill = kill.args(["-s", signal, "--", &to.to_string()]).stderr(Stdio::null()).status();
    kill.is_ok_and(|status| status.success())
}

fn from_json<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("it is written above")
}

fn now() -> String {
    // In whole seconds, as Kubernetes writes times.
    format!("{:.0}", Timestamp::now())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
