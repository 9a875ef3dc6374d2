//! Identifies the Spark container of a pod.
//!
//! Spark keeps the name that a pod template gives to the executor's container (`BasicExecutorFeatureStep`) and
//! puts that container last (`ExecutorPodsAllocator` appends it), so neither the name nor the position is
//! reliable. What is reliable: the environment and the argument that tell Spark's entry point what to run. The
//! fallbacks are, in this order, the fleet's setting, Spark's own name, and the only container of the pod. With
//! several containers and none of these, the last one is a guess.

use k8s_openapi::api::core::v1 as k8s;

/// Spark's name for the executor's container.
pub const EXECUTOR_CONTAINER: &str = "spark-kubernetes-executor";

/// Spark's name for the driver's container, if Spark creates it itself.
const DRIVER: &str = "spark-kubernetes-driver";

/// How the executor's container was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// By the process that it runs.
    ByProcess,
    /// By the fleet's setting or Spark's own name, or because it is the only container.
    ByName,
    /// There are several containers, and nothing distinguishes them.
    Guessed,
}

/// The name of the executor's container; `named` is the fleet's setting.
pub fn executor<'a>(pod: &'a k8s::Pod, named: Option<&str>) -> Option<(&'a str, Found)> {
    let all = || pod.spec.iter().flat_map(|spec| &spec.containers);
    // A log shipper may have it too, but from the pod's label: only Spark and Rollcall write the number as a
    // literal.
    let has_id = |one: &&k8s::Container| {
        let mut variables = one.env.iter().flatten();
        variables.any(|variable| variable.name == "SPARK_EXECUTOR_ID" && variable.value.is_some())
    };
    let runs = |one: &&k8s::Container| words(one).any(|argument| argument == "executor");
    let called = |name: &str| all().find(|one| one.name == name);
    if let Some(one) = only(all().filter(has_id)).or_else(|| only(all().filter(runs))) {
        return Some((&one.name, Found::ByProcess));
    }
    let one = named.and_then(called).or_else(|| called(EXECUTOR_CONTAINER));
    let last = all().last()?;
    Some(match one {
        Some(one) => (&one.name, Found::ByName),
        None if all().count() == 1 => (&last.name, Found::ByName),
        None => (&last.name, Found::Guessed),
    })
}

/// The only element, if there is exactly one.
fn only<T>(mut found: impl Iterator<Item = T>) -> Option<T> {
    found.next().filter(|_| found.next().is_none())
}

/// The container's command and arguments.
pub(crate) fn words(container: &k8s::Container) -> impl Iterator<Item = &String> {
    container.command.iter().flatten().chain(container.args.iter().flatten())
}

/// How often the driver's container in a driver's pod has ended. Sidecars do not count.
pub fn driver_ends(pod: &k8s::Pod) -> u32 {
    let all = || pod.spec.iter().flat_map(|spec| &spec.containers);
    let runs = |one: &&k8s::Container| words(one).any(|argument| argument == "driver");
    let driver = all().find(|one| one.name == DRIVER).or_else(|| all().find(runs)).or_else(|| only(all()));
    let statuses = pod.status.iter().filter_map(|status| status.container_statuses.as_ref()).flatten();
    let status = driver.and_then(|driver| statuses.into_iter().find(|one| one.name == driver.name));
    let Some(status) = status else { return 0 };
    let ended =
        |state: &Option<k8s::ContainerState>| state.as_ref().is_some_and(|state| state.terminated.is_some());
    let runs = status.state.as_ref().is_some_and(|state| state.running.is_some());
    // `restartCount` increases when the container is restarted, not when it ends.
    let down = !runs && (ended(&status.state) || ended(&status.last_state));
    u32::try_from(status.restart_count).unwrap_or_default() + u32::from(down)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(value: Value) -> k8s::Pod {
        serde_json::from_value(value).expect("a pod")
    }

    #[test]
    fn the_executor_is_known_by_what_it_runs_then_by_name_then_by_place() {
        let sidecar = json!({"name": "fluentd", "args": ["-c", "/executor"]});
        let of = |containers: Value, named: Option<&str>| {
            let pod = pod(json!({"spec": {"containers": containers}}));
            executor(&pod, named).map(|(name, found)| (name.to_owned(), found))
        };
        let with_id = json!({"name": "main", "env": [{"name": "SPARK_EXECUTOR_ID", "value": "7"}]});
        let with_argument = json!({"name": "work", "args": ["executor"]});
        let by_command = json!({"name": "own", "command": ["/opt/entrypoint.sh", "executor"]});
        let label = json!({"fieldRef": {"fieldPath": "metadata.labels['spark-exec-id']"}});
        let shipper = json!({"name": "shipper", "env": [{"name": "SPARK_EXECUTOR_ID", "valueFrom": label}]});
        let sparks = json!({"name": "spark-kubernetes-executor"});
        let plain = json!({"name": "plain"});
        let is = |name: &str, found| Some((name.to_owned(), found));
        assert_eq!(of(json!([sparks, with_id]), Some("plain")), is("main", Found::ByProcess));
        assert_eq!(of(json!([sparks, sidecar, with_argument]), None), is("work", Found::ByProcess));
        assert_eq!(of(json!([shipper, by_command]), None), is("own", Found::ByProcess));
        assert_eq!(of(json!([shipper, sparks]), None), is("spark-kubernetes-executor", Found::ByName));
        assert_eq!(of(json!([with_id, with_id, plain]), Some("plain")), is("plain", Found::ByName));
        assert_eq!(of(json!([sparks, sidecar, plain]), Some("plain")), is("plain", Found::ByName));
        assert_eq!(
            of(json!([sparks, sidecar]), Some("absent")),
            is("spark-kubernetes-executor", Found::ByName)
        );
        assert_eq!(of(json!([sidecar]), None), is("fluentd", Found::ByName), "the only one");
        assert_eq!(of(json!([sidecar, plain]), None), is("plain", Found::Guessed), "Spark appends its own");
        assert_eq!(of(json!([]), None), None);
    }

    #[test]
    fn the_ends_of_a_drivers_container_only_rise() {
        let ends = |status: Value| {
            let mut status = status;
            (status["name"], status["image"], status["imageID"], status["ready"]) =
                ("main".into(), "".into(), "".into(), true.into());
            let sidecar =
                json!({"name": "proxy", "image": "", "imageID": "", "ready": true, "restartCount": 9});
            driver_ends(&pod(json!({
                "spec": {"containers": [{"name": "proxy"}, {"name": "main", "args": ["driver"]}]},
                "status": {"containerStatuses": [sidecar, status]}
            })))
        };
        let ended = json!({"terminated": {"exitCode": 1}});
        let life = [
            (json!({"restartCount": 0, "state": {"waiting": {"reason": "ContainerCreating"}}}), 0),
            (json!({"restartCount": 0, "state": {"running": {}}}), 0),
            (json!({"restartCount": 0, "state": ended}), 1),
            (
                json!({"restartCount": 0, "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": ended}),
                1,
            ),
            (json!({"restartCount": 1, "state": {"running": {}}, "lastState": ended}), 1),
            (json!({"restartCount": 1, "state": ended, "lastState": ended}), 2),
        ];
        for (status, expected) in life {
            assert_eq!(ends(status.clone()), expected, "{status}");
        }
        assert_eq!(driver_ends(&pod(json!({}))), 0);
    }
}
