//! The served resources, and the discovery documents.

use serde_json::{Value, json};

/// A resource under one group and version.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// Empty for the core group.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub short: &'static [&'static str],
    pub namespaced: bool,
    /// It has `/status`, and `status` is written only there.
    pub status: bool,
    /// Fields besides `metadata.name` and `metadata.namespace` that a field selector may name.
    pub fields: &'static [&'static str],
}

impl Kind {
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.into() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `leases.coordination.k8s.io`, as messages name it.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.into() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// Events are stored once and are served under two groups; those of `events.k8s.io` have other field names.
    pub fn is_renamed_event(&self) -> bool {
        self.group == "events.k8s.io"
    }

    /// `metadata.generation` counts the changes of its spec.
    pub fn counts_generations(&self) -> bool {
        ["pods", "poddisruptionbudgets"].contains(&self.plural)
    }

    /// Reviews are created and answered, but not stored.
    pub fn is_review(&self) -> bool {
        self.plural == "tokenreviews"
    }
}

const EVENT_FIELDS: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

const fn core(kind: &'static str, plural: &'static str, singular: &'static str) -> Kind {
    Kind {
        group: "",
        version: "v1",
        kind,
        plural,
        singular,
        short: &[],
        namespaced: true,
        status: false,
        fields: &[],
    }
}

pub static PODS: Kind = Kind {
    short: &["po"],
    status: true,
    fields: &[
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "status.phase",
        "status.podIP",
    ],
    ..core("Pod", "pods", "pod")
};
pub static NODES: Kind =
    Kind { short: &["no"], namespaced: false, status: true, ..core("Node", "nodes", "node") };
pub static NAMESPACES: Kind = Kind {
    short: &["ns"],
    namespaced: false,
    status: true,
    fields: &["status.phase"],
    ..core("Namespace", "namespaces", "namespace")
};
pub static CONFIG_MAPS: Kind = Kind { short: &["cm"], ..core("ConfigMap", "configmaps", "configmap") };
pub static EVENTS: Kind = Kind { short: &["ev"], fields: EVENT_FIELDS, ..core("Event", "events", "event") };
pub static SERVICES: Kind = Kind { short: &["svc"], status: true, ..core("Service", "services", "service") };
pub static QUOTAS: Kind =
    Kind { short: &["quota"], status: true, ..core("ResourceQuota", "resourcequotas", "resourcequota") };
static NEW_EVENTS: Kind =
    Kind { group: "events.k8s.io", short: &["ev"], fields: EVENT_FIELDS, ..core("Event", "events", "event") };
pub static LEASES: Kind = Kind { group: "coordination.k8s.io", ..core("Lease", "leases", "lease") };
pub static BUDGETS: Kind = Kind {
    group: "policy",
    short: &["pdb"],
    status: true,
    ..core("PodDisruptionBudget", "poddisruptionbudgets", "poddisruptionbudget")
};
static TOKEN_REVIEWS: Kind = Kind {
    group: "authentication.k8s.io",
    namespaced: false,
    ..core("TokenReview", "tokenreviews", "tokenreview")
};

pub static KINDS: [&Kind; 11] = [
    &PODS,
    &NODES,
    &NAMESPACES,
    &CONFIG_MAPS,
    &EVENTS,
    &SERVICES,
    &QUOTAS,
    &NEW_EVENTS,
    &LEASES,
    &BUDGETS,
    &TOKEN_REVIEWS,
];

pub(super) fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    KINDS.into_iter().find(|kind| kind.group == group && kind.version == version && kind.plural == plural)
}

/// Content of `/version`, `/api`, `/apis` and the lists of resources below them. `None`: no such path.
pub(super) fn discovery(path: &[&str]) -> Option<Value> {
    match path {
        ["version"] => Some(json!({
            "major": "1", "minor": "34", "gitVersion": "v1.34.0", "gitCommit": "", "gitTreeState": "clean",
            "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "", "platform": "linux/amd64",
        })),
        ["livez" | "readyz" | "healthz"] => Some(json!("ok")),
        ["api"] => Some(json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{ "clientCIDR": "0.0.0.0/0", "serverAddress": "localhost" }],
        })),
        ["apis"] => {
            let groups: Vec<Value> = groups().into_iter().map(group).collect();
            Some(json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups }))
        }
        ["api", version] => resources("", version),
        ["apis", name] => groups().contains(name).then(|| {
            let mut group = group(name);
            group["kind"] = "APIGroup".into();
            group["apiVersion"] = "v1".into();
            group
        }),
        ["apis", name, version] if !name.is_empty() => resources(name, version),
        _ => None,
    }
}

fn groups() -> Vec<&'static str> {
    let mut groups: Vec<&str> = KINDS.iter().map(|kind| kind.group).filter(|name| !name.is_empty()).collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// Every group here has only the version v1.
fn group(name: &str) -> Value {
    let version = json!({ "groupVersion": format!("{name}/v1"), "version": "v1" });
    json!({ "name": name, "versions": [version], "preferredVersion": version })
}

fn resources(group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    for kind in KINDS.iter().filter(|kind| kind.group == group && kind.version == version) {
        let mut verbs =
            vec!["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
        if kind.is_review() {
            verbs = vec!["create"];
        }
        resources.push(json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced,
            "kind": kind.kind, "verbs": verbs, "shortNames": kind.short,
        }));
        let mut below = |name: &str, shown: &str, group: &str, verbs: &[&str]| {
            let mut resource = json!({
                "name": format!("{}/{name}", kind.plural), "singularName": "",
                "namespaced": kind.namespaced, "kind": shown, "verbs": verbs,
            });
            if !group.is_empty() {
                resource["group"] = group.into();
                resource["version"] = "v1".into();
            }
            resources.push(resource);
        };
        if kind.status {
            below("status", kind.kind, "", &["get", "patch", "update"]);
        }
        if *kind == &PODS {
            below("eviction", "Eviction", "policy", &["create"]);
            below("binding", "Binding", "", &["create"]);
        }
    }
    (!resources.is_empty()).then(|| {
        let version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        json!({
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources,
        })
    })
}
