//! A daemon's token is renewed, and it is taken away.

use std::time::Duration;

use super::control_plane::NAMESPACE;
use super::stage::{PATIENCE, Stage};
use super::tools;

/// The Role and ClusterRole are those of `deploy/rollcall.yaml`; the account can be deleted without harm to others.
const ACCOUNT: &str = "rollcall-rotated";
/// How old kube lets a token grow that it has read from a file, and some more.
const RENEWAL: Duration = Duration::from_secs(75);

#[test]
fn a_token_is_renewed_and_lost_and_found_again() {
    let Some(tools) = tools() else { return };
    let stage = Stage::shared(&tools);
    let fleet = stage.fleet("rotated", 2, |_| {});
    let account = format!("--serviceaccount={NAMESPACE}:{ACCOUNT}");
    stage.admin(&["create", "serviceaccount", ACCOUNT], "");
    stage.admin(&["create", "rolebinding", ACCOUNT, "--role=rollcall", &account], "");
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
    stage.admin(&["delete", "serviceaccount", ACCOUNT], "");
    stage.admin(&["create", "serviceaccount", ACCOUNT], "");
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
