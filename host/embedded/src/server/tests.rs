//! Tests that talk to the server as a client would.

mod watches;

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::{Body, Server, TokenInfo, Verdict};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as _;
use serde_json::{Value, json};
use tower_service::Service;

/// The body of an answer that is complete.
fn whole(response: Response<Body>) -> Value {
    let Poll::Ready(Some(Ok(bytes))) = read(&mut response.into_body()) else { panic!("it is not complete") };
    serde_json::from_slice(&bytes).unwrap()
}

fn read(body: &mut Body) -> Poll<Option<std::io::Result<Bytes>>> {
    let poll = Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()));
    poll.map(|frame| frame.map(|frame| frame.map(|frame| frame.into_data().unwrap())))
}

fn send(server: &Server, method: &str, uri: &str, content_type: &str, body: Value) -> Response<Body> {
    let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
    let request = Request::builder().method(method).uri(uri).header("content-type", content_type);
    server.call(request.header("user-agent", "rollcall/0.1").body(body).unwrap())
}

/// The code of an answer and its body.
fn ask(server: &Server, method: &str, uri: &str, body: Value) -> (u16, Value) {
    let content_type = match method {
        "PATCH" => "application/merge-patch+json",
        _ => "application/json",
    };
    let response = send(server, method, uri, content_type, body);
    (response.status().as_u16(), whole(response))
}

fn ok(server: &Server, method: &str, uri: &str, body: Value) -> Value {
    let (code, answer) = ask(server, method, uri, body);
    assert!(code < 300, "{method} {uri}: {code} {answer}");
    answer
}

fn reason(server: &Server, method: &str, uri: &str, body: Value) -> (u16, String) {
    let (code, answer) = ask(server, method, uri, body);
    assert_eq!(
        (&answer["kind"], &answer["status"], &answer["code"]),
        (&json!("Status"), &json!("Failure"), &json!(code))
    );
    (code, answer["reason"].as_str().unwrap().to_owned())
}

const PODS: &str = "/api/v1/namespaces/default/pods";

fn pod(name: &str, labels: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": labels },
        "spec": { "containers": [{ "name": "c", "image": "i" }] },
    })
}

fn with_pods(names: &[&str]) -> Server {
    let server = Server::new(1);
    for name in names {
        ok(&server, "POST", PODS, pod(name, json!({ "app": "a" })));
    }
    server
}

/// Binds the pod and sets it running.
fn run(server: &Server, name: &str) {
    let binding = json!({ "metadata": { "name": name }, "target": { "name": "node-1" } });
    ok(server, "POST", &format!("{PODS}/{name}/binding"), binding);
    let status = json!({ "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] });
    ok(server, "PATCH", &format!("{PODS}/{name}/status"), json!({ "status": status }));
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap().iter();
    items.map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

#[test]
fn an_object_is_created_once_and_the_system_owns_its_metadata() {
    let server = Server::new(1);
    server.set_wall_clock(1_795_254_309_000);
    let made = ok(&server, "POST", PODS, pod("a", json!({})));
    assert_eq!(made["metadata"]["creationTimestamp"], "2026-11-21T09:45:09Z");
    assert_eq!((&made["metadata"]["generation"], &made["status"]["phase"]), (&json!(1), &json!("Pending")));
    assert_eq!(made["metadata"]["uid"].as_str().unwrap().len(), 36);
    let (code, status) = ask(&server, "POST", PODS, pod("a", json!({})));
    assert_eq!((code, &status["reason"]), (409, &json!("AlreadyExists")));
    assert_eq!(status["message"], "pods \"a\" already exists");
    assert_eq!(status["details"], json!({ "name": "a", "kind": "pods" }));
    let mut nameless = pod("", json!({}));
    nameless["metadata"] = json!({ "generateName": "x-" });
    let name = ok(&server, "POST", PODS, nameless)["metadata"]["name"].as_str().unwrap().to_owned();
    assert!(name.starts_with("x-") && name.len() == 7, "{name}");
    ok(&server, "POST", &format!("{PODS}?dryRun=All"), pod("dry", json!({})));
    assert_eq!(reason(&server, "GET", &format!("{PODS}/dry"), Value::Null), (404, "NotFound".into()));
}

#[test]
fn bad_input_gets_an_error_that_says_where() {
    let server = Server::new(1);
    for (body, code, says) in [
        (json!([]), 400, "has to be an object"),
        (json!({ "metadata": 5 }), 400, "metadata has to be an object"),
        (json!({ "metadata": { "labels": { "a": 1 } } }), 400, "metadata.labels has to be a map of strings"),
        (json!({ "kind": "Node" }), 400, "kind in the data"),
        (json!({ "metadata": { "name": "a", "namespace": "b" } }), 400, "does not match the namespace"),
        (json!({ "metadata": {} }), 422, "name or generateName is required"),
        (pod("A_b", json!({})), 422, "metadata.name"),
        (json!({ "metadata": { "name": "a" } }), 422, "spec.containers: Required value"),
        (
            json!({ "metadata": { "name": "a" }, "spec": { "containers": [{}] } }),
            422,
            "spec.containers[0].name",
        ),
    ] {
        let (got, status) = ask(&server, "POST", PODS, body);
        assert_eq!(got, code, "{status}");
        assert!(status["message"].as_str().unwrap().contains(says), "{status}");
    }
    let garbage = Request::builder().method("POST").uri(PODS).body("}".into()).unwrap();
    assert_eq!(server.call(garbage).status(), 400);
    let binary = send(&server, "POST", PODS, "application/vnd.kubernetes.protobuf", json!({}));
    assert_eq!(binary.status(), 415);
    let long = Request::builder().method("POST").uri(PODS).body(vec![b' '; (3 << 20) + 1].into()).unwrap();
    assert_eq!(server.call(long).status(), 413);
    let elsewhere = "/api/v1/namespaces/nowhere/pods";
    assert_eq!(reason(&server, "POST", elsewhere, pod("a", json!({}))), (404, "NotFound".into()));
}

#[test]
fn lists_are_selected_and_come_in_pages_of_one_revision() {
    let server = with_pods(&["a", "b", "c", "d", "e"]);
    ok(&server, "PATCH", &format!("{PODS}/b"), json!({ "metadata": { "labels": { "app": "other" } } }));
    let list = |query: &str| ok(&server, "GET", &format!("{PODS}?{query}"), Value::Null);
    assert_eq!(names(&list("labelSelector=app%3Da")), ["a", "c", "d", "e"]);
    assert_eq!(names(&list("labelSelector=app+notin+(a)")), ["b"]);
    assert_eq!(names(&list("fieldSelector=metadata.name%3Dc,status.phase%3DPending")), ["c"]);
    assert_eq!(reason(&server, "GET", &format!("{PODS}?fieldSelector=x%3Dc"), Value::Null).0, 400);

    let first = list("limit=2");
    assert_eq!((names(&first), &first["metadata"]["remainingItemCount"]), (vec!["a", "b"], &json!(3)));
    // Changes made meanwhile are not in the later pages.
    ok(&server, "DELETE", &format!("{PODS}/c"), Value::Null);
    ok(&server, "POST", PODS, pod("cc", json!({})));
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = list(&format!("limit=2&continue={token}"));
    assert_eq!(names(&second), ["c", "d"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let token = second["metadata"]["continue"].as_str().unwrap();
    let last = list(&format!("limit=2&continue={token}"));
    assert_eq!((names(&last), last["metadata"].get("continue")), (vec!["e"], None));
    server.compact();
    let uri = format!("{PODS}?limit=2&continue={token}");
    assert_eq!(reason(&server, "GET", &uri, Value::Null), (410, "Expired".into()));
    assert_eq!(reason(&server, "GET", &format!("{PODS}?continue=junk"), Value::Null).0, 400);
    let ahead = format!("{PODS}?resourceVersion=99999&resourceVersionMatch=NotOlderThan");
    assert_eq!(reason(&server, "GET", &ahead, Value::Null), (504, "Timeout".into()));
}

#[test]
fn an_update_holds_to_its_preconditions_and_a_patch_merges() {
    let server = Server::new(1);
    let maps = "/api/v1/namespaces/default/configmaps";
    let uri = format!("{maps}/m");
    let first = ok(&server, "POST", maps, json!({ "metadata": { "name": "m" }, "data": { "a": "1" } }));
    let mut second = first.clone();
    second["data"]["a"] = "2".into();
    let second = ok(&server, "PUT", &uri, second);
    assert_eq!(reason(&server, "PUT", &uri, first.clone()), (409, "Conflict".into()));
    // Without a version the last write wins; with another UID the write fails.
    let blind = json!({ "metadata": { "name": "m" }, "data": { "a": "3" } });
    let third = ok(&server, "PUT", &uri, blind.clone());
    assert_eq!(third["metadata"]["uid"], first["metadata"]["uid"]);
    let same = ok(&server, "PUT", &uri, blind);
    assert_eq!(same["metadata"]["resourceVersion"], third["metadata"]["resourceVersion"], "nothing changed");
    let stranger = json!({ "metadata": { "name": "m", "uid": "x" } });
    assert_eq!(reason(&server, "PUT", &uri, stranger), (409, "Conflict".into()));
    let old = json!({ "metadata": { "resourceVersion": second["metadata"]["resourceVersion"] }, "data": { "a": "4" } });
    assert_eq!(reason(&server, "PATCH", &uri, old), (409, "Conflict".into()));
    let merged = ok(&server, "PATCH", &uri, json!({ "data": { "a": null, "b": "1" } }));
    assert_eq!(merged["data"], json!({ "b": "1" }));
    let managers = merged["metadata"]["managedFields"].as_array().unwrap();
    assert!(managers.len() == 1 && managers[0]["manager"] == "rollcall", "{managers:?}");

    let operations = json!([{ "op": "test", "path": "/data/b", "value": "1" }, { "op": "add", "path": "/data/c", "value": "2" }]);
    let response = send(
        &server,
        "PATCH",
        &format!("{uri}?fieldManager=kubectl-edit"),
        "application/json-patch+json",
        operations,
    );
    let patched = whole(response);
    assert_eq!(patched["data"], json!({ "b": "1", "c": "2" }));
    let managers = patched["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!((managers.len(), &managers[1]["manager"]), (2, &json!("kubectl-edit")));
    let apply = |data: Value| {
        send(
            &server,
            "PATCH",
            &format!("{maps}/n?fieldManager=x&force=true"),
            "application/apply-patch+yaml",
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "data": data }),
        )
    };
    assert_eq!(apply(json!({ "a": "1" })).status(), 201);
    let applied = apply(json!({ "b": "2" }));
    assert_eq!(applied.status(), 200);
    assert_eq!(whole(applied)["data"], json!({ "a": "1", "b": "2" }));
    assert_eq!(send(&server, "PATCH", &uri, "text/plain", json!({})).status(), 415);
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    ok(&server, "POST", leases, json!({ "metadata": { "name": "l" }, "spec": {} }));
    let unconditional = json!({ "metadata": { "name": "l" }, "spec": { "holderIdentity": "x" } });
    assert_eq!(reason(&server, "PUT", &format!("{leases}/l"), unconditional), (422, "Invalid".into()));
}

#[test]
fn the_status_is_changed_by_its_subresource_alone() {
    let server = with_pods(&["a"]);
    let uri = format!("{PODS}/a");
    let labels = json!({ "metadata": { "labels": { "x": "1" } }, "status": { "phase": "Failed" } });
    let main = ok(&server, "PATCH", &uri, labels.clone());
    assert_eq!(
        (&main["status"]["phase"], &main["metadata"]["labels"]["x"]),
        (&json!("Pending"), &json!("1"))
    );
    // A status update also changes labels.
    let status = json!({ "metadata": { "labels": { "x": "2" } }, "spec": { "nodeName": "elsewhere" }, "status": { "phase": "Failed" } });
    let below = ok(&server, "PATCH", &format!("{uri}/status"), status);
    assert_eq!(
        (&below["status"]["phase"], &below["metadata"]["labels"]["x"]),
        (&json!("Failed"), &json!("2"))
    );
    assert_eq!(below["spec"], main["spec"]);
    let spec = json!({ "spec": { "nodeName": "elsewhere" } });
    assert_eq!(reason(&server, "PATCH", &uri, spec), (422, "Invalid".into()));
}

#[test]
fn a_pod_dies_twice() {
    let server = with_pods(&["a", "b", "c"]);
    let (a, b) = (format!("{PODS}/a"), format!("{PODS}/b"));
    let other = json!({ "preconditions": { "uid": "another" } });
    assert_eq!(reason(&server, "DELETE", &a, other), (409, "Conflict".into()));
    let stale = json!({ "preconditions": { "resourceVersion": "1" } });
    assert_eq!(reason(&server, "DELETE", &a, stale), (409, "Conflict".into()));
    // On no node: removed at once.
    ok(&server, "DELETE", &a, Value::Null);
    assert_eq!(reason(&server, "DELETE", &a, Value::Null), (404, "NotFound".into()));
    run(&server, "b");
    server.advance(1_000);
    let going = ok(&server, "DELETE", &b, json!({ "gracePeriodSeconds": 60 }));
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 60);
    assert_eq!(going["metadata"]["deletionTimestamp"], "2026-01-01T00:01:01Z");
    // A longer grace period is ignored, a shorter one counts from the first deletion.
    let same = ok(&server, "DELETE", &format!("{b}?gracePeriodSeconds=90"), Value::Null);
    assert_eq!(same["metadata"], going["metadata"]);
    server.advance(5_000);
    let sooner = ok(&server, "DELETE", &b, json!({ "gracePeriodSeconds": 10 }));
    assert_eq!(sooner["metadata"]["deletionTimestamp"], "2026-01-01T00:00:11Z");
    ok(&server, "DELETE", &b, json!({ "gracePeriodSeconds": 0 }));
    assert_eq!(reason(&server, "GET", &b, Value::Null).0, 404);
    // A pod that has ended is removed at once.
    run(&server, "c");
    ok(&server, "PATCH", &format!("{PODS}/c/status"), json!({ "status": { "phase": "Failed" } }));
    ok(&server, "DELETE", &format!("{PODS}/c"), Value::Null);
    assert_eq!(reason(&server, "GET", &format!("{PODS}/c"), Value::Null).0, 404);
    let (deletions, seen) = server.deletions(0);
    assert_eq!((deletions.len(), seen), (6, 6), "what was refused is not among them");
    assert!(deletions.iter().all(|it| it.uid_precondition.is_none() && it.agent == "rollcall"));
}

#[test]
fn a_gated_pod_says_so_and_cannot_be_bound() {
    let server = Server::new(1);
    let mut gated = pod("a", json!({}));
    gated["spec"]["schedulingGates"] = json!([{ "name": "x" }]);
    let made = ok(&server, "POST", PODS, gated);
    assert_eq!(made["status"]["conditions"][0]["reason"], "SchedulingGated");
    let shown = || {
        let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
        let request = Request::builder().uri(format!("{PODS}/a")).header("accept", accept);
        whole(server.call(request.body(Bytes::new()).unwrap()))["rows"][0]["cells"][2].clone()
    };
    assert_eq!(shown(), "SchedulingGated", "kubectl get pods");
    let binding = json!({ "metadata": { "name": "a" }, "target": { "name": "node-1" } });
    let (code, refusal) = ask(&server, "POST", &format!("{PODS}/a/binding"), binding.clone());
    let message = refusal["message"].as_str().unwrap();
    assert!(code == 409 && message.ends_with("pod a has non-empty .spec.schedulingGates"), "{refusal}");
    ok(&server, "PATCH", &format!("{PODS}/a"), json!({ "spec": { "schedulingGates": null } }));
    assert_eq!(shown(), "SchedulingGated", "until a scheduler says otherwise");
    ok(&server, "POST", &format!("{PODS}/a/binding"), binding);
    assert_eq!(shown(), "Pending");
}

#[test]
fn a_finalizer_holds_what_is_over() {
    let server = with_pods(&["a"]);
    let uri = format!("{PODS}/a");
    ok(&server, "PATCH", &uri, json!({ "metadata": { "finalizers": ["x/y"] } }));
    let held = ok(&server, "DELETE", &uri, Value::Null);
    assert_eq!(held["metadata"]["deletionGracePeriodSeconds"], 0);
    ok(&server, "GET", &uri, Value::Null);
    ok(&server, "PATCH", &uri, json!({ "metadata": { "finalizers": null } }));
    assert_eq!(reason(&server, "GET", &uri, Value::Null).0, 404);
}

#[test]
fn dependents_go_with_their_owner_and_namespaces_with_all_that_is_in_them() {
    let server = with_pods(&["owner", "other"]);
    let uid =
        |name: &str| ok(&server, "GET", &format!("{PODS}/{name}"), Value::Null)["metadata"]["uid"].clone();
    let owned = |name: &str, owners: &[&str]| {
        let mut pod = pod(name, json!({}));
        let references: Vec<Value> = owners
            .iter()
            .map(|owner| json!({ "apiVersion": "v1", "kind": "Pod", "name": owner, "uid": uid(owner) }))
            .collect();
        pod["metadata"]["ownerReferences"] = references.into();
        ok(&server, "POST", PODS, pod)
    };
    owned("one", &["owner"]);
    owned("both", &["owner", "other"]);
    owned("orphan", &["other"]);
    ok(&server, "DELETE", &format!("{PODS}/owner"), Value::Null);
    server.advance(1);
    let list = || ok(&server, "GET", PODS, Value::Null);
    assert_eq!(names(&list()), ["both", "orphan", "other"]);
    let both = ok(&server, "GET", &format!("{PODS}/both"), Value::Null);
    assert_eq!(both["metadata"]["ownerReferences"].as_array().map(Vec::len), Some(1));
    ok(&server, "DELETE", &format!("{PODS}/other?propagationPolicy=Orphan"), Value::Null);
    server.advance(2);
    assert_eq!(names(&list()), ["both", "orphan"]);
    run(&server, "both");
    let going = ok(&server, "DELETE", "/api/v1/namespaces/default", Value::Null);
    assert_eq!(going["status"]["phase"], "Terminating");
    let (code, status) = ask(&server, "POST", PODS, pod("late", json!({})));
    assert_eq!((code, &status["details"]["causes"][0]["reason"]), (403, &json!("NamespaceTerminating")));
    server.advance(3);
    assert_eq!(names(&list()), ["both"], "its kubelet has not ended it yet");
    ok(&server, "DELETE", &format!("{PODS}/both?gracePeriodSeconds=0"), Value::Null);
    server.advance(4);
    assert_eq!(reason(&server, "GET", "/api/v1/namespaces/default", Value::Null).0, 404);
}

#[test]
fn a_collection_is_deleted_by_selector() {
    let server = with_pods(&["a", "b", "c"]);
    ok(&server, "DELETE", &format!("{PODS}?fieldSelector=metadata.name%21%3Db"), Value::Null);
    assert_eq!(names(&ok(&server, "GET", PODS, Value::Null)), ["b"]);
}

#[test]
fn a_budget_refuses_an_eviction_of_what_is_up() {
    let server = with_pods(&["a", "b", "pending"]);
    run(&server, "a");
    run(&server, "b");
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = |name: &str, least: Value| json!({ "metadata": { "name": name }, "spec": { "minAvailable": least, "selector": { "matchLabels": { "app": "a" } } } });
    ok(&server, "POST", budgets, budget("one", json!(2)));
    let evict = |name: &str, options: Value| {
        let body = json!({ "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": name }, "deleteOptions": options });
        send(&server, "POST", &format!("{PODS}/{name}/eviction"), "application/json", body)
    };
    let refused = evict("a", Value::Null);
    assert_eq!((refused.status().as_u16(), refused.headers().get("retry-after")), (429, None));
    let status = whole(refused);
    assert_eq!(status["reason"], "TooManyRequests");
    assert_eq!(status["details"]["causes"][0]["reason"], "DisruptionBudget");
    assert_eq!(evict("pending", Value::Null).status(), 201, "pending is not up");
    let other = json!({ "preconditions": { "uid": "another" } });
    assert_eq!(evict("a", other.clone()).status(), 429, "the budget is asked first");
    ok(&server, "PATCH", &format!("{budgets}/one"), json!({ "spec": { "minAvailable": "50%" } }));
    assert_eq!(evict("a", other).status(), 409);
    let allowed = evict("a", json!({ "gracePeriodSeconds": 5 }));
    assert_eq!(allowed.status(), 201);
    assert_eq!(whole(allowed)["status"], "Success");
    let a = ok(&server, "GET", &format!("{PODS}/a"), Value::Null);
    assert_eq!(a["metadata"]["deletionGracePeriodSeconds"], 5);
    let conditions = a["status"]["conditions"].as_array().unwrap();
    assert!(
        conditions
            .iter()
            .any(|it| it["type"] == "DisruptionTarget" && it["reason"] == "EvictionByEvictionAPI")
    );
    assert_eq!(evict("b", Value::Null).status(), 429, "the last one");
    // A misspelt field is ignored, as in the real server: no precondition applies.
    let misspelt =
        json!({ "metadata": { "name": "a" }, "delete_options": { "preconditions": { "uid": "another" } } });
    let uri = format!("{PODS}/a/eviction");
    ok(&server, "POST", &uri, misspelt);
    ok(&server, "POST", budgets, budget("two", json!(0)));
    assert_eq!(evict("b", Value::Null).status(), 500, "two budgets");
    assert_eq!(evict("gone", Value::Null).status(), 404);
    assert!(server.deletions(0).0.iter().all(|deletion| deletion.evicted));
}

#[test]
fn a_quota_counts_what_has_not_ended() {
    let server = with_pods(&["a"]);
    let quota = json!({ "metadata": { "name": "q" }, "spec": { "hard": { "pods": "1" } } });
    ok(&server, "POST", "/api/v1/namespaces/default/resourcequotas", quota);
    let (code, status) = ask(&server, "POST", PODS, pod("b", json!({})));
    assert!(code == 403 && status["message"].as_str().unwrap().contains("exceeded quota: q"), "{status}");
    ok(&server, "PATCH", &format!("{PODS}/a/status"), json!({ "status": { "phase": "Succeeded" } }));
    ok(&server, "POST", PODS, pod("b", json!({})));
}

#[test]
fn tokens_are_reviewed() {
    let server = Server::new(1);
    let info = TokenInfo {
        username: "system:serviceaccount:default:spark".into(),
        audiences: vec!["rollcall".into()],
        extra: [("authentication.kubernetes.io/pod-name".to_owned(), vec!["etl-exec-1".to_owned()])].into(),
        ..TokenInfo::default()
    };
    server.set_token("secret", info);
    let review = |token: &str, audience: &str| {
        let body = json!({ "spec": { "token": token, "audiences": [audience] } });
        ok(&server, "POST", "/apis/authentication.k8s.io/v1/tokenreviews", body)["status"].take()
    };
    let good = review("secret", "rollcall");
    assert_eq!((&good["authenticated"], &good["audiences"]), (&json!(true), &json!(["rollcall"])));
    assert_eq!(good["user"]["extra"]["authentication.kubernetes.io/pod-name"], json!(["etl-exec-1"]));
    for (token, audience) in [("secret", "others"), ("unknown", "rollcall")] {
        assert_eq!(review(token, audience).get("authenticated"), None);
    }
}

#[test]
fn clients_discover_what_there_is() {
    let server = Server::new(1);
    let get = |uri: &str| ok(&server, "GET", uri, Value::Null);
    assert_eq!(get("/api")["versions"], json!(["v1"]));
    let groups = get("/apis");
    let groups: Vec<&str> =
        groups["groups"].as_array().unwrap().iter().map(|group| group["name"].as_str().unwrap()).collect();
    assert_eq!(groups, ["authentication.k8s.io", "coordination.k8s.io", "events.k8s.io", "policy"]);
    let core = get("/api/v1");
    let resource =
        |name: &str| core["resources"].as_array().unwrap().iter().find(|it| it["name"] == name).cloned();
    assert_eq!(resource("pods").unwrap()["shortNames"], json!(["po"]));
    assert_eq!(resource("pods/eviction").unwrap()["group"], "policy");
    assert_eq!(get("/apis/policy/v1")["groupVersion"], "policy/v1");
    assert!(get("/version")["gitVersion"].as_str().unwrap().starts_with("v1."));
    assert_eq!(reason(&server, "GET", "/openapi/v3", Value::Null), (404, "NotFound".into()));
}
