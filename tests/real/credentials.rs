//! A daemon's token is renewed, and it is taken away.

use std::time::Duration;

use serde_json::json;

use super::control_plane::HOME;
use super::stage::{PATIENCE, Stage};
use super::tools;

/// The Roles and the ClusterRole are those of `deploy/`; the account can be deleted without harm to others.
const ACCOUNT: &str = "rollcall-rotated";
/// How old kube lets a token grow that it has read from a file, and some more.
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
        &["create-leases", "--role=rollcall", "-n", HOME],
    ] {
        let name = format!("{ACCOUNT}-{}", binding[0]);
        stage.admin(&[&["create", "rolebinding", &name, &account], &binding[1..]].concat(), "");
    }
    // The admission policy knows the account `rollcall` alone: this one writes its ledger as one who repairs it.
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

    // The kubelet writes another token while the old one is still good.
    stage.plane.new_token(ACCOUNT, ACCOUNT).unwrap();
    let took = renewed(&stage);
    println!("renewed token: in use after {:.0} s", took.as_secs_f64());
    assert!(daemon.ended().is_none());

    // The token is worth nothing any more: no Lease can be renewed with it.
    stage.admin(&["delete", "serviceaccount", ACCOUNT, "-n", HOME], "");
    stage.admin(&["create", "serviceaccount", ACCOUNT, "-n", HOME], "");
    assert_eq!(daemon.wait(PATIENCE).code(), Some(1));
    let log = daemon.log();
    let remedy = "has our token expired, or was its ServiceAccount deleted?";
    assert!(log.contains(remedy), "{log}");
    println!("{}", log.lines().find(|line| line.contains(remedy)).unwrap());

    // Its kubelet starts it again, and has no token for it yet either.
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

/// Waits until it uses the token that is in the file now.
fn renewed(stage: &Stage) -> Duration {
    let token = stage.token_id(ACCOUNT);
    stage.until_within(RENEWAL, "asking with the new token", || {
        let used = stage.requests().iter().any(|request| request.token == token);
        if used { Ok(()) } else { Err("no request has it") }
    })
}
