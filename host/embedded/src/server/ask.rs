//! A parsed request: verb, resource, name, and the parameters.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, header};
use serde_json::Value;

use super::kinds::{self, Kind};
use super::status::Status;
use super::view::{Form, View};

/// kube-apiserver's limit: 3 MiB.
pub(super) const BODY_MAX: usize = 3 << 20;

/// As audit logs and RBAC name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

impl Verb {
    pub fn name(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub verb: Verb,
    pub kind: &'static Kind,
    /// Empty: all namespaces, or the resource has none.
    pub namespace: String,
    /// Empty where the path ends with the resource.
    pub name: String,
    /// For instance `status`, or empty.
    pub subresource: String,
    pub query: BTreeMap<String, String>,
    pub content_type: String,
    pub view: View,
    /// `fieldManager`, or the first word of the User-Agent.
    pub manager: String,
}

impl Ask {
    /// Parses a request to a path below `/api` or `/apis`.
    pub fn parse(parts: &Parts) -> Result<Ask, Status> {
        let path: Vec<String> = segments(parts.uri.path());
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let (group, version, rest) = match path.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] if !group.is_empty() => (*group, *version, rest),
            _ => return Err(Status::no_such_path()),
        };
        let find = |plural: &str| kinds::find(group, version, plural);
        let (kind, namespace, rest) = match rest {
            ["namespaces", namespace, plural, rest @ ..] if find(plural).is_some_and(|it| it.namespaced) => {
                (find(plural), *namespace, rest)
            }
            [plural, rest @ ..] => (find(plural), "", rest),
            [] => return Err(Status::no_such_path()),
        };
        let kind = kind.ok_or_else(Status::no_such_path)?;
        let (name, subresource) = match rest {
            [] => ("", ""),
            [name] => (*name, ""),
            [name, subresource] => (*name, *subresource),
            _ => return Err(Status::no_such_path()),
        };
        if kind.namespaced && namespace.is_empty() && !name.is_empty() {
            return Err(Status::no_such_path());
        }
        let query = pairs(parts.uri.query().unwrap_or_default());
        let watch = matches!(query.get("watch").map(String::as_str), Some("true" | "1"));
        let verb = match (&parts.method, name.is_empty()) {
            (&Method::GET, true) if watch => Verb::Watch,
            (&Method::GET, true) => Verb::List,
            (&Method::GET, false) => Verb::Get,
            (&Method::POST, true) if !(kind.namespaced && namespace.is_empty()) => Verb::Create,
            (&Method::POST, false) if !subresource.is_empty() => Verb::Create,
            (&Method::PUT, false) => Verb::Update,
            (&Method::PATCH, false) => Verb::Patch,
            (&Method::DELETE, false) if subresource.is_empty() => Verb::Delete,
            (&Method::DELETE, true) => Verb::DeleteCollection,
            _ => return Err(not_allowed()),
        };
        if (kind.is_review() || ["eviction", "binding"].contains(&subresource)) && verb != Verb::Create {
            return Err(not_allowed());
        }
        let text = |name| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let agent = text(header::USER_AGENT).split(['/', ' ']).next().unwrap_or_default();
        let agent = if agent.is_empty() { "unknown" } else { agent };
        let manager = query.get("fieldManager").map_or(agent, String::as_str).to_owned();
        let include = query.get("includeObject").map_or("", String::as_str);
        let form = Form::negotiate(text(header::ACCEPT), include);
        Ok(Ask {
            verb,
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
            content_type: text(header::CONTENT_TYPE).split(';').next().unwrap_or_default().trim().to_owned(),
            view: View { kind, form },
            manager,
            query,
        })
    }

    /// Checks the parameters of a list or a watch, as far as they depend on each other.
    pub fn check_options(&self) -> Result<(), Status> {
        const NOT: &str = "Forbidden: resourceVersionMatch is forbidden";
        let matching = self.parameter("resourceVersionMatch");
        let (version, streaming) = (self.parameter("resourceVersion"), self.parameter("sendInitialEvents"));
        let is_watch = self.verb == Verb::Watch;
        let given = !matching.is_empty();
        let known = matching == "NotOlderThan" || (matching == "Exact" && !is_watch);
        let unsupported = format!("Unsupported value: {matching:?}");
        let rules = [
            (is_watch && !streaming.is_empty() && matching != "NotOlderThan", "resourceVersionMatch", NOT),
            (is_watch && given && streaming.is_empty(), "resourceVersionMatch", NOT),
            (!is_watch && given && version.is_empty(), "resourceVersionMatch", NOT),
            (given && !self.parameter("continue").is_empty(), "resourceVersionMatch", NOT),
            (given && !known, "resourceVersionMatch", &*unsupported),
            (!is_watch && matching == "Exact" && version == "0", "resourceVersionMatch", NOT),
            (!is_watch && !streaming.is_empty(), "sendInitialEvents", "Forbidden: it is for watches"),
        ];
        let broken: Vec<_> =
            rules.iter().filter(|(is, ..)| *is).map(|(_, field, why)| (*field, *why)).collect();
        if broken.is_empty() { Ok(()) } else { Err(Status::options("ListOptions", &broken)) }
    }

    /// A parameter; empty when it was not given.
    pub fn parameter(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    /// A parameter that is a whole number.
    pub fn number(&self, name: &str) -> Result<Option<u64>, Status> {
        match self.parameter(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                Status::bad_request(format!(
                    "invalid value for parameter {name}: {text:?}: a whole number is needed"
                ))
            }),
        }
    }

    pub fn is_true(&self, name: &str) -> bool {
        matches!(self.parameter(name), "true" | "1")
    }

    pub fn dry_run(&self) -> bool {
        self.parameter("dryRun") == "All"
    }

    /// The body as JSON; `null` when there is none.
    pub fn json(&self, body: &Bytes) -> Result<Value, Status> {
        if body.len() > BODY_MAX {
            let message = format!("Request entity too large: limit is {BODY_MAX}");
            return Err(Status::new(413, "RequestEntityTooLarge", message));
        }
        if body.is_empty() {
            return Ok(Value::Null);
        }
        let given = &self.content_type;
        if ["protobuf", "cbor", "application/yaml"].iter().any(|other| given.contains(other)) {
            let message = format!(
                "the body of the request was in an unknown format {given:?}: this server takes application/json \
                 only; kubectl sends that with `create --validate=false -f`"
            );
            return Err(Status::new(415, "UnsupportedMediaType", message));
        }
        if self.verb == Verb::Create && !["", "application/json"].contains(&&**given) {
            let message = format!("the body of the request was in an unknown format {given:?}");
            return Err(Status::new(415, "UnsupportedMediaType", message));
        }
        serde_json::from_slice(body).map_err(|error| {
            let message = "the body of the request is not JSON, which it has to be here";
            Status::bad_request(format!("{message}: {error}"))
        })
    }

    /// `pods/eviction`.
    pub fn resource(&self) -> String {
        let slash = if self.subresource.is_empty() { "" } else { "/" };
        format!("{}{slash}{}", self.kind.plural, self.subresource)
    }
}

fn not_allowed() -> Status {
    Status::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
}

pub(super) fn segments(path: &str) -> Vec<String> {
    path.split('/').filter(|part| !part.is_empty()).map(|part| decode(part, false)).collect()
}

fn pairs(query: &str) -> BTreeMap<String, String> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name, true), decode(value, true))
    };
    query.split('&').filter(|part| !part.is_empty()).map(pair).collect()
}

/// Decodes percent-encoding, and `+` as a space where that applies. Invalid encodings stay as they are.
fn decode(text: &str, plus: bool) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        let digit = |at: usize| tail.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &tail[2..];
            }
            (b'+', ..) if plus => bytes.push(b' '),
            _ => bytes.push(*first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: &str, uri: &str) -> Result<Ask, Status> {
        Ask::parse(&http::Request::builder().method(method).uri(uri).body(()).unwrap().into_parts().0)
    }

    #[test]
    fn a_path_is_a_verb_and_a_resource() {
        for (method, uri, verb, resource, namespace, name) in [
            ("GET", "/api/v1/pods", "list", "pods", "", ""),
            ("GET", "/api/v1/pods?&watch=true", "watch", "pods", "", ""),
            ("GET", "/api/v1/namespaces/a/pods?", "list", "pods", "a", ""),
            ("GET", "/api/v1/namespaces/a", "get", "namespaces", "", "a"),
            ("PUT", "/api/v1/namespaces/a/status", "update", "namespaces/status", "", "a"),
            ("PATCH", "/api/v1/namespaces/a/pods/x/status", "patch", "pods/status", "a", "x"),
            ("POST", "/api/v1/namespaces/a/pods/x/eviction?", "create", "pods/eviction", "a", "x"),
            ("DELETE", "/api/v1/namespaces/a/pods", "deletecollection", "pods", "a", ""),
            ("GET", "/apis/coordination.k8s.io/v1/namespaces/a/leases/l", "get", "leases", "a", "l"),
            ("POST", "/apis/authentication.k8s.io/v1/tokenreviews", "create", "tokenreviews", "", ""),
        ] {
            let ask = ask(method, uri).unwrap();
            let (got_verb, got_resource) = (ask.verb.name(), ask.resource());
            assert_eq!(
                (got_verb, &*got_resource, &*ask.namespace, &*ask.name),
                (verb, resource, namespace, name)
            );
        }
        for (method, uri, code) in [
            ("GET", "/api/v1/gadgets", 404),
            ("GET", "/api/v2/pods", 404),
            ("GET", "/api/v1/pods/x", 404),
            ("GET", "/api/v1/namespaces/a/nodes/x", 404),
            ("GET", "/api", 404),
            ("PUT", "/api/v1/namespaces/a/pods", 405),
            ("GET", "/apis/authentication.k8s.io/v1/tokenreviews", 405),
        ] {
            assert_eq!(ask(method, uri).map(|_| ()).map_err(|refusal| refusal.code), Err(code), "{uri}");
        }
    }

    #[test]
    fn parameters_are_decoded() {
        let ask = ask("GET", "/api/v1/pods?labelSelector=a%3Db%2Cc+in+(d)&limit=5&x=%zz").unwrap();
        assert_eq!(ask.parameter("labelSelector"), "a=b,c in (d)");
        assert_eq!((ask.number("limit").unwrap(), ask.parameter("x")), (Some(5), "%zz"));
        assert_eq!(ask.number("labelSelector").map_err(|refusal| refusal.code), Err(400));
    }
}
