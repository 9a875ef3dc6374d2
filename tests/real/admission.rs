//! The admission policies of `deploy/`: what the API server denies to Rollcall's account, and to others to protect Rollcall.
//!
//! All other suites show that no legitimate request is denied: the policies are in force in all of them.

use serde_json::{Value, json};

use super::control_plane::{ACCOUNT, HOME, NAMESPACE, Role};
use super::stage::Stage;
use super::tools;

const OWNER: &str = "admission-driver";
const ACCOUNTS: &str = "rollcall.dev/executor-service-accounts";

/// An executor's pod as Rollcall creates it.
fn executor(stage: &Stage) -> Value {
    let uid = stage.admin(&["get", "pod", OWNER, "-o", "jsonpath={.metadata.uid}"], "");
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "admission-exec-1", "namespace": NAMESPACE,
            "labels": {"spark-role": "executor", "spark-app-selector": "spark-admission", "spark-exec-id": "1"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": OWNER, "uid": uid, "controller": true}],
        },
        "spec": {"containers": [{"name": "spark-kubernetes-executor", "image": "spark"}]},
    })
}

fn ledger(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": NAMESPACE},
        "data": {"ledger": "{}"},
    })
}

/// The API server's answer to this account, which has the RBAC permissions; a dry run.
fn says(stage: &Stage, account: Option<&str>, verb: &str, object: &Value) -> Result<String, String> {
    let (verb, dry_run, object) = ([verb, "-f", "-"], "--dry-run=server", object.to_string());
    let Some(account) = account else {
        return stage.plane.kubectl(Role::Driver, &[&verb[..], &[dry_run]].concat(), &object);
    };
    let who = format!("--as={account}");
    stage.plane.kubectl(Role::Admin, &[&verb[..], &[dry_run, &who]].concat(), &object)
}

#[test]
fn rollcall_writes_executors_and_ledgers_and_others_write_neither_ledger() {
    let Some(tools) = tools() else { return };
    let stage = Stage::shared(&tools);
    stage.driver(NAMESPACE, "admission", "spark-admission");
    let good = executor(&stage);
    let rollcall = format!("system:serviceaccount:{HOME}:{ACCOUNT}");
    let ours = Some(rollcall.as_str());
    let with = |pointer: &str, value: Value| {
        let mut pod = good.clone();
        *pod.pointer_mut(pointer).unwrap() = value;
        pod
    };
    let refused = |who: Option<&str>, verb: &str, object: &Value, why: &str| {
        // A policy is enforced a moment after it is created.
        stage.until(&format!("refused: {verb} of {object} by {who:?}"), || {
            match says(&stage, who, verb, object) {
                Err(error) if error.contains(why) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    };
    for (pointer, value, why) in [
        ("/metadata/labels/spark-role", json!("driver"), "has no such label spark-role"),
        ("/metadata/labels", json!({}), "has no such label spark-role"),
        ("/metadata/labels/spark-exec-id", json!("x1"), "its name ends with -exec-ID"),
        ("/metadata/labels/spark-exec-id", json!("2"), "its name ends with -exec-ID"),
        ("/metadata/name", json!("shell"), "its name ends with -exec-ID"),
        ("/metadata/ownerReferences", json!([]), "is owned by its driver's pod"),
        ("/metadata/ownerReferences/0/controller", json!(false), "is owned by its driver's pod"),
        ("/metadata/ownerReferences/0/kind", json!("Node"), "is owned by its driver's pod"),
    ] {
        refused(ours, "create", &with(pointer, value), why);
    }
    says(&stage, ours, "create", &good).expect("an executor as it should be");
    // Without the annotation, the template determines the executor's service account.
    let mut accounted = good.clone();
    accounted["spec"]["serviceAccountName"] = "cluster-admin".into();
    says(&stage, ours, "create", &accounted).expect("the namespace names no accounts");
    stage.admin(&["annotate", "namespace", NAMESPACE, &format!("{ACCOUNTS}=default, executor")], "");
    refused(ours, "create", &accounted, "does not list the executor's service account");
    accounted["spec"]["serviceAccountName"] = "executor".into();
    says(&stage, ours, "create", &accounted).expect("it is on the list");
    stage.admin(&["annotate", "namespace", NAMESPACE, &format!("{ACCOUNTS}-")], "");

    // Pods of other applications, without Spark's labels.
    let other = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "admission-other", "namespace": NAMESPACE},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    });
    stage.create(&other);
    refused(ours, "delete", &other, "has no such label spark-role");
    stage.admin(&["delete", "pod", "admission-other", "--wait=false"], "");

    // Ledgers. The tenants' driver account may write every ConfigMap of the namespace.
    let (theirs, record) = (ledger("rollcall-admission-0123abcd"), ledger("settings"));
    refused(ours, "create", &record, "and no other ConfigMap");
    says(&stage, ours, "create", &theirs).expect("a ledger");
    says(&stage, None, "create", &record).expect("a driver's own ConfigMap");
    refused(None, "create", &theirs, "only Rollcall writes its ledgers");
    stage.create(&theirs);
    let mut patched = theirs.clone();
    patched["data"]["ledger"] = json!("{\"epoch\": 99}");
    refused(None, "replace", &patched, "only Rollcall writes its ledgers");
    refused(None, "delete", &theirs, "only Rollcall writes its ledgers");
    says(&stage, ours, "replace", &patched).expect("Rollcall writes it");
    let collector = "system:serviceaccount:kube-system:generic-garbage-collector";
    stage.admin(&["create", "clusterrole", "collector", "--verb=get,delete", "--resource=configmaps"], "");
    stage.admin(
        &[
            "create",
            "clusterrolebinding",
            "collector",
            "--clusterrole=collector",
            &format!("--user={collector}"),
        ],
        "",
    );
    stage.until("collected", || says(&stage, Some(collector), "delete", &theirs).map(drop));
    // An administrator repairs it.
    stage.admin(&["delete", "configmap", "rollcall-admission-0123abcd"], "");
}
