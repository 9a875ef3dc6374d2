//! A daemon's token is renewed, and then revoked.

use std::time::Duration;

use serde_json::json;

use super::control_plane::HOME;
use super::stage::{PATIENCE, Stage};
use super::tools;

/// The Roles and the ClusterRole are those of `deploy/`; the account can be deleted without affecting other tests.
const ACCOUNT: &str = "rollcall-rotated";
/// How long kube uses a token that it has read from a file, plus a margin.
const RENEWAL: Duration = Duration::from_secs(75);

#[test]
fn a_token_is_renewed_and_lost_and_found_again() {
    let Some(tools) = tools() else { return };
    let stage = Stage::shared(&tools);
    let fleet = stage.fleet("rotated", 2, |_| {});
    let account = format!("--serviceaccount={HOME}:{ACCOUNT}");
    stage.admin(&["create", "serviceaccount", ACCOUNT, "-n", HOME], "");
    for binding in [
        &["rollcall", "--role=rollcall"][..],
        &["leases", "--role=leases", "-n", HOME],
        &["create-leases", "--role=rollcall-leader-election", "-n", HOME],
    ] {
        let name = format!("{ACCOUNT}-{}", binding[0]);
        stage.admin(&[&["create", "rolebinding", &name, &account], &binding[1..]].concat(), "");
    }
    // The admission policy only knows the account `rollcall`: this one writes its ledger as an administrator who
    // repairs it.
    stage.create(&json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": ACCOUNT},
        "rules": [{"apiGroups": ["rollcall.dev"], "resources": ["ledgers"], "verbs": ["repair"]}],
    }));
    stage.admin(
        &[
            "create",
            "clusterrolebinding",
            &format!("{ACCOUNT}-repairs"),
            &format!("--clusterrole={ACCOUNT}"),
            &account,
        ],
        "",
    );
    stage.admin(&["create", "clusterrolebinding", ACCOUNT, "--clusterrole=rollcall", &account], "");
    stage.plane.credentials(ACCOUNT, ACCOUNT).unwrap();
    let start = || stage.daemon_as(ACCOUNT, &[&fleet], &["--lease", ACCOUNT]);
    let mut daemon = start();
    stage.at_strength(&daemon, &fleet, "started");

    // The kubelet writes another token while the old one is still valid.
    stage.plane.new_token(ACCOUNT, ACCOUNT).unwrap();
    let took = renewed(&stage);
    println!("renewed token: in use after {:.0} s", took.as_secs_f64());
    assert!(daemon.ended().is_none());

    // The token is invalid now: no Lease can be renewed with it.
    stage.admin(&["delete", "serviceaccount", ACCOUNT, "-n", HOME], "");
    stage.admin(&["create", "serviceaccount", ACCOUNT, "-n", HOME], "");
    assert_eq!(daemon.wait(PATIENCE).code(), Some(1));
    let log = daemon.log();
    let remedy = "has our token expired, or was its ServiceAccount deleted?";
    assert!(log.contains(remedy), "{log}");
    println!("{}", log.lines().find(|line| line.contains(remedy)).unwrap());

    // Its kubelet restarts it, and has no token for it yet either.
    daemon = start();
    stage.until("refused again", || {
        let said = daemon.log().matches(remedy).count() > log.matches(remedy).count();
        if said { Ok(()) } else { Err("it does not say so") }
    });
    stage.plane.new_token(ACCOUNT, ACCOUNT).unwrap();
    let took = renewed(&stage);
    println!("valid token again: in use after {:.0} s", took.as_secs_f64());
    stage.at_strength(&daemon, &fleet, "with a token again");
    assert!(daemon.ended().is_none());
    stage.judge(&fleet);
}

/// Waits until it uses the current token in the file.
fn renewed(stage: &Stage) -> Duration {
    let token = stage.token_id(ACCOUNT);
    stage.until_within(RENEWAL, "asking with the new token", || {
        let used = stage.requests().iter().any(|request| request.token == token);
        if used { Ok(()) } else { Err("no request has it") }
    })
}
