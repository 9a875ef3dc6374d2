//! The permissions of Rollcall's service account.

use crate::doctor::facts::{Checked, Facts, Finding, Right, Scope};

const SOURCE: &str = "Kubernetes: RBAC, SubjectAccessReview";

/// What Rollcall asks for, with `deploy/` as the list. Mode Observe creates no pods.
pub fn needed(own: bool, objects: bool) -> Vec<Right> {
    let mut rights = Vec::new();
    let mut add = |scope, group, resource, verbs: &[&'static str]| {
        let right = |verb: &&'static str| Right { scope, group, resource, verb, allowed: false };
        rights.extend(verbs.iter().map(right));
    };
    add(Scope::Fleet, "", "pods", &["get", "list", "watch", "delete"]);
    if own {
        add(Scope::Fleet, "", "pods", &["create"]);
    }
    add(Scope::Fleet, "", "pods/eviction", &["create"]);
    add(Scope::Fleet, "", "configmaps", &["get", "create", "update"]);
    add(Scope::Events, "events.k8s.io", "events", &["create", "patch"]);
    add(Scope::Lease, "coordination.k8s.io", "leases", &["create", "get", "update"]);
    add(Scope::Nodes, "", "nodes", &["list", "watch"]);
    if objects {
        add(Scope::Objects, "rollcall.dev", "executorfleets", &["list", "watch"]);
        add(Scope::Objects, "rollcall.dev", "executorfleets/status", &["patch"]);
    }
    rights
}

pub fn all(facts: &Facts) -> Checked {
    let rights = facts.rights.as_ref().map_err(Clone::clone)?;
    let (namespace, home, account) = (&facts.namespace.name, &facts.home.name, &facts.account);
    let mut findings = Vec::new();
    for scope in [Scope::Fleet, Scope::Events, Scope::Lease, Scope::Nodes, Scope::Objects] {
        let missing: Vec<&Right> =
            rights.iter().filter(|right| right.scope == scope && !right.allowed).collect();
        if missing.is_empty() {
            continue;
        }
        let place = match scope {
            Scope::Fleet | Scope::Events => format!("in namespace {namespace}"),
            Scope::Lease => format!("in namespace {home}"),
            Scope::Nodes | Scope::Objects => "in the cluster".to_owned(),
        };
        let what = format!("service account {home}/{account} may not {} {place}", listed(&missing));
        findings.push(match scope {
            Scope::Fleet => {
                Finding::error("fleet-permissions-missing", what, "Rollcall cannot manage this application")
                    .set(format!("kubectl apply -n {namespace} -f deploy/fleets.yaml"))
            }
            Scope::Events => Finding::warning(
                "event-permissions-missing",
                what,
                "Rollcall's decisions do not appear as Events of the driver's pod",
            )
            .set(format!("kubectl apply -n {namespace} -f deploy/fleets.yaml")),
            Scope::Lease => {
                Finding::error("lease-permissions-missing", what, "no replica of Rollcall can lead")
                    .set("kubectl apply -f deploy/rollcall.yaml, or run it with --no-leader-election")
            }
            Scope::Nodes => {
                Finding::warning("node-permissions-missing", what, "a lost node looks like lost executors")
                    .set("kubectl apply -f deploy/rollcall.yaml, or run it with --no-nodes")
            }
            Scope::Objects => Finding::error(
                "object-permissions-missing",
                what,
                "Rollcall does not see this fleet's object",
            )
            .set("kubectl apply -f deploy/rollcall.yaml"),
        });
    }
    Ok(findings.into_iter().map(|finding| finding.source(SOURCE)).collect())
}

/// `get, list pods; create pods/eviction`.
fn listed(rights: &[&Right]) -> String {
    let mut out = String::new();
    let mut last = None;
    let mut rights = rights.iter().peekable();
    while let Some(right) = rights.next() {
        if last.is_some() {
            out += if last == Some(right.resource) { ", " } else { "; " };
        }
        out += right.verb;
        if rights.peek().is_none_or(|next| next.resource != right.resource) {
            out += " ";
            out += right.resource;
        }
        last = Some(right.resource);
    }
    out
}
