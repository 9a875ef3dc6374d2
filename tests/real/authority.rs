//! Commands by the cluster's own rules (`--authorize`), and `kubectl rollcall`, against the real API server.
//!
//! In the first test `kubectl` is a script that answers `port-forward` as kubectl does, with the daemon's own address,
//! records what it was asked, and leaves everything else to the real one. In the second all of it is real: kubectl, the
//! API server, and kwok as the kubelet, which forwards the port of a pod to the daemon.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Output};

use cluster::review::{User, may_patch};
use serde_json::{Value, json};

use super::control_plane::{HOME, NAMESPACE, Role, STAGES, client};
use super::stage::{Daemon, Fleet, NODE, Stage, binary};
use super::tools;

const OTHER: &str = "authority-other";

/// Status, code and message of a command with this token.
pub fn pause(daemon: &Daemon, fleet: &str, token: &str) -> (u16, String, String) {
    let path = fleet.replace('/', "%2F");
    let request = format!(
        "POST /v1/fleets/{path}/pause HTTP/1.1\r\nHost: rollcall\r\nConnection: close\r\n\
         Content-Type: application/json\r\nAuthorization: Bearer {token}\r\nContent-Length: 2\r\n\r\n{{}}"
    );
    let answer = daemon.http(&request).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let error = serde_json::from_str::<Value>(body).unwrap()["error"].take();
    let text = |field: &str| error[field].as_str().unwrap_or_default().to_owned();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), text("code"), text("message"))
}

fn token(stage: &Stage, flags: &[&str]) -> String {
    let create = ["create", "token", "authority-operator", "-n", NAMESPACE];
    stage.admin(&[&create, flags].concat(), "").trim().to_owned()
}

/// Runs the commands that a refusal names.
fn grant(stage: &Stage, refusal: &str) {
    let (_, commands) = refusal.split_once("To grant it: ").unwrap();
    for command in commands.split(" && ") {
        stage.admin(&command.split(' ').skip(1).collect::<Vec<_>>(), "");
    }
}

/// A directory with `kubectl-rollcall`, and the kubectl that it finds.
struct Plugin {
    folder: PathBuf,
}

impl Plugin {
    fn new(stage: &Stage, daemon: &Daemon, tools: &std::path::Path) -> Plugin {
        let folder = stage.plane.directory().join("plugin");
        fs::create_dir_all(&folder).unwrap();
        symlink(binary(), folder.join("kubectl-rollcall")).unwrap();
        let script = format!(
            "#!/bin/sh\necho \"$@\" >> {folder}/asked\nif [ \"$1\" = port-forward ]; then\n  \
             echo 'Forwarding from {http} -> 8080'\n  exec sleep 60\nfi\nexec {kubectl} \"$@\"\n",
            folder = folder.display(),
            http = daemon.http,
            kubectl = tools.join("kubectl").display(),
        );
        fs::write(folder.join("kubectl"), script).unwrap();
        fs::set_permissions(folder.join("kubectl"), fs::Permissions::from_mode(0o755)).unwrap();
        Plugin { folder }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let path = format!("{}:{}", self.folder.display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(self.folder.join("kubectl-rollcall"));
        command.args(arguments).env("PATH", path).env_remove("ROLLCALL_TOKEN").env_remove("ROLLCALL_SERVER");
        command.output().unwrap()
    }

    /// What kubectl was asked for last.
    fn asked(&self) -> String {
        fs::read_to_string(self.folder.join("asked")).unwrap().lines().last().unwrap().to_owned()
    }
}

fn events(stage: &Stage, fleet: &Fleet) -> Vec<String> {
    let selector = format!("reason=Commanded,involvedObject.name={}-driver", fleet.name);
    let get = ["get", "events", "-n", NAMESPACE, "--field-selector", &selector, "-o", "json"];
    let list: Value = serde_json::from_str(&stage.admin(&get, "")).unwrap();
    let text = |event: &Value| {
        format!("{} {}: {}", event["related"]["kind"], event["related"]["name"], event["message"])
            .replace('"', "")
    };
    list["items"].as_array().unwrap().iter().map(text).collect()
}

#[test]
fn users_command_what_they_may_patch_and_kubectl_knows_who_they_are() {
    let Some(tools) = tools() else { return };
    let stage = Stage::shared(&tools);
    let may_ask =
        ["create", "clusterrolebinding", "authority-reviews", "--clusterrole=system:auth-delegator"];
    stage.admin(&[&may_ask[..], &[&format!("--serviceaccount={HOME}:rollcall")]].concat(), "");
    stage.admin(&["create", "serviceaccount", "authority-operator", "-n", NAMESPACE], "");
    let fleet = stage.fleet("authority", 1, |_| {});
    let other = stage.fleet("authority2", 1, |_| {});
    let daemon = stage.daemon(&[&fleet, &other], &["--authorize", "--no-leader-election"]);
    stage.at_strength(&daemon, &fleet, "started");

    let [for_us, for_any, foreign] = [&["--audience=rollcall"][..], &[], &["--audience=rollcall-heartbeat"]]
        .map(|flags| token(&stage, flags));
    let key = format!("{NAMESPACE}/authority");
    for (token, fleet, expected) in [
        (&*for_us, &*key, (403, "forbidden")),
        (&for_any, &key, (403, "forbidden")),
        (&foreign, &key, (401, "wrong-token")),
        ("no.such.token", &key, (401, "wrong-token")),
        ("operators", &key, (200, "")),
        ("admin", &key, (200, "")),
        (&for_us, "authority-none", (404, "unknown-fleet")),
    ] {
        let (status, code, message) = pause(&daemon, fleet, token);
        assert_eq!((status, &*code), expected, "{fleet} {message}");
    }
    let (.., refusal) = pause(&daemon, &key, &for_us);
    let account = format!("system:serviceaccount:{NAMESPACE}:authority-operator");
    assert!(refusal.contains(&account), "{refusal}");
    grant(&stage, &refusal);
    assert_eq!(pause(&daemon, &key, &for_us).0, 403, "the refusal is kept for a while");
    stage.until("allowed", || match pause(&daemon, &key, &for_us) {
        (200, ..) => Ok(()),
        refused => Err(format!("{refused:?}")),
    });
    assert_eq!(pause(&daemon, &format!("{NAMESPACE}/authority2"), &for_us).0, 403, "another fleet");
    // A right in one namespace is none in another.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let may = |namespace: &str| {
        runtime.block_on(async {
            let client = client(&stage.plane.kubeconfig(Role::Admin)).await.unwrap();
            let user = User { name: account.clone(), ..User::default() };
            may_patch(client, &user, namespace, "authority").await.unwrap()
        })
    };
    assert!(may(NAMESPACE) && !may(OTHER), "the right is for one namespace");

    stage.until("recorded", || {
        let events = events(&stage, &fleet);
        let said = format!("User {account}: fleet authority: user {account}: pause: accepted");
        if events.contains(&said) { Ok(()) } else { Err(format!("{events:?}")) }
    });
    assert!(daemon.log().contains(&format!("user=\"{account}\"")), "and in the log");

    let plugin = Plugin::new(&stage, &daemon, &tools);
    let kubeconfig = stage.plane.kubeconfig(Role::Admin);
    let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
    let ok = |arguments: &[&str]| {
        let output = plugin.run(&[arguments, &[&kubeconfig]].concat());
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    // The token of the kubeconfig.
    assert!(ok(&["resume", "authority", "-n", NAMESPACE]).contains("resumed"));
    let asked = format!("port-forward --address=127.0.0.1 -n rollcall service/rollcall :http {kubeconfig}");
    assert_eq!(plugin.asked(), asked);
    let list: Value = serde_json::from_str(&ok(&["status", "-n", NAMESPACE, "-o", "json"])).unwrap();
    assert_eq!(list["fleets"].as_array().unwrap().len(), 2);
    let none: Value = serde_json::from_str(&ok(&["status", "-n", OTHER, "-o", "json"])).unwrap();
    assert_eq!(none, json!({"fleets": []}));
    // A token that is made for this.
    let as_account = format!("--service-account={NAMESPACE}/authority-operator");
    assert!(ok(&["pause", "authority", &as_account]).contains("paused"));
    let refused = plugin.run(&["pause", "authority2", &as_account, &kubeconfig]);
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(2) && error.contains("may not patch"), "{error}");
    // A client certificate is no token.
    let config = fs::read_to_string(stage.plane.kubeconfig(Role::Admin)).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["users"][0]["user"] = json!({"client-certificate": "/nowhere", "client-key": "/nowhere"});
    let certificate = plugin.folder.join("certificate.kubeconfig");
    fs::write(&certificate, config.to_string()).unwrap();
    let output = plugin.run(&["pause", "authority", "--kubeconfig", certificate.to_str().unwrap()]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && error.contains("--service-account"), "{error}");
    stage.judge(&other);
}

#[test]
fn kubectl_forwards_a_port_to_the_daemon() {
    let Some(tools) = tools() else { return };
    let mut stage = Stage::start(&tools);
    let fleet = stage.fleet("forwarded", 1, |_| {});
    let daemon = stage.daemon(&[&fleet], &["--no-leader-election"]);
    stage.at_strength(&daemon, &fleet, "started");
    let forward = json!({
        "apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": "ClusterPortForward", "metadata": {"name": "rollcall"},
        "spec": {"forwards": [{"ports": [8080], "target": {"address": "127.0.0.1", "port": daemon.http.port()}}]},
    });
    stage.plane.start_kwok(&format!("{STAGES}\n---\n{forward}\n")).unwrap();
    let port = json!({"kubeletEndpoint": {"Port": stage.plane.kubelet_port}});
    stage.patch_status(&format!("node/{NODE}"), &json!({"daemonEndpoints": port}));
    // The Service is that of deploy/.
    let labels = json!({"app.kubernetes.io/name": "rollcall", "app.kubernetes.io/instance": "rollcall"});
    // The namespace takes only what the Pod Security standard `restricted` allows.
    let container = json!({
        "name": "rollcall", "image": "rollcall", "ports": [{"name": "http", "containerPort": 8080}],
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
    });
    let restricted = json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
    stage.create(&json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "rollcall-0", "namespace": HOME, "labels": labels},
        "spec": {"nodeName": NODE, "containers": [container], "securityContext": restricted},
    }));
    let folder = stage.plane.directory().join("real-plugin");
    fs::create_dir_all(&folder).unwrap();
    symlink(binary(), folder.join("kubectl-rollcall")).unwrap();
    let path = format!("{}:{}:{}", folder.display(), tools.display(), std::env::var("PATH").unwrap());
    let kubeconfig = stage.plane.kubeconfig(Role::Admin);
    stage.until("forwarded", || {
        // kubectl itself finds the plugin.
        let mut command = Command::new(tools.join("kubectl"));
        command.args(["rollcall", "status", "-o", "json", "--kubeconfig"]).arg(&kubeconfig);
        command.env("PATH", &path).env_remove("ROLLCALL_TOKEN").env_remove("ROLLCALL_SERVER");
        let output = command.output().unwrap();
        let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if status["fleets"][0]["fleet"] == "forwarded" { Ok(()) } else { Err(format!("{output:?}")) }
    });
}
