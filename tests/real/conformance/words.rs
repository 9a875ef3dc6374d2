//! Answers as text that is the same on every machine and in every run.
//!
//! UIDs, versions and times are numbered in the order in which they appear. Of an object only the fields that clients
//! depend on are shown; messages are for people and are omitted. The revision of a list or a bookmark is shown as the
//! newest known version that it is not older than, because on a real server other clients write too.

use std::collections::BTreeMap;

use serde_json::Value;

#[derive(Default)]
pub struct Words {
    uids: Vec<String>,
    versions: Vec<u64>,
    /// By UID, the first reported deletion time of the object, in seconds since 1970.
    deletions: BTreeMap<String, i64>,
    /// Of the last list: its revision, and its continue token.
    list: String,
    token: String,
}

/// The fields that describe an object, beside its name and versions, and their labels.
const SHOWN: [(&str, &str); 12] = [
    ("labels", "/metadata/labels"),
    ("finalizers", "/metadata/finalizers"),
    ("node", "/spec/nodeName"),
    ("phase", "/status/phase"),
    ("holder", "/spec/holderIdentity"),
    ("transitions", "/spec/leaseTransitions"),
    ("data", "/data"),
    ("reason", "/reason"),
    ("count", "/count"),
    ("healthy", "/status/currentHealthy"),
    ("allowed", "/status/disruptionsAllowed"),
    ("container", "/status/containerStatuses/0/name"),
];

impl Words {
    /// A step's text in which `$` and a name is replaced by the value of that name.
    pub fn fill(&self, text: &str, namespace: &str) -> Result<String, String> {
        let mut parts = text.split('$');
        let mut filled = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            let end = part.find(|c| !plain(c)).unwrap_or(part.len());
            let (name, rest) = part.split_at(end);
            let number = |prefix| name.strip_prefix(prefix)?.parse::<usize>().ok()?.checked_sub(1);
            let value = match name {
                "ns" => namespace.to_owned(),
                "list" => self.list.clone(),
                "token" => self.token.clone(),
                "spec" => r#"{"containers": [{"name": "c", "image": "i"}]}"#.to_owned(),
                "node" => r#"{"kind": "Node", "name": "node-1"}"#.to_owned(),
                _ => (number("uid-").and_then(|at| self.uids.get(at).cloned()))
                    .or_else(|| Some(self.versions.get(number("rv-")?)?.to_string()))
                    .ok_or_else(|| format!("nothing has been named ${name}"))?,
            };
            filled.push_str(&value);
            filled.push_str(rest);
        }
        Ok(filled)
    }

    /// An answer: its code, its `Retry-After`, and the rest of it.
    pub fn answer(
        &mut self,
        code: u16,
        retry_after: Option<&str>,
        body: &Value,
        shown: &[String],
    ) -> Vec<String> {
        let wait = retry_after.map(|seconds| format!(" retry-after={seconds}")).unwrap_or_default();
        if body["kind"] == "Status" {
            return vec![format!("{}{wait}", self.status(Some(code), body))];
        }
        let Some(items) = body["items"].as_array() else {
            return vec![format!("{code} {}{wait}", self.object(body, shown))];
        };
        let meta = &body["metadata"];
        let said: Vec<String> = items.iter().map(|item| self.object(item, shown)).collect();
        let mut head = format!("{code} {}", body["kind"].as_str().unwrap_or_default());
        head.push_str(&self.at(&meta["resourceVersion"]));
        self.list = text(&meta["resourceVersion"]);
        self.token = text(&meta["continue"]);
        if !self.token.is_empty() {
            head.push_str(" token");
        }
        if let Some(count) = meta["remainingItemCount"].as_u64() {
            head.push_str(&format!(" remaining={count}"));
        }
        std::iter::once(head).chain(said).collect()
    }

    /// An event of a watch.
    pub fn event(&mut self, event: &Value, shown: &[String]) -> String {
        let (kind, object) = (text(&event["type"]), &event["object"]);
        match kind.as_str() {
            "ERROR" => format!("ERROR {}", self.status(None, object)),
            "BOOKMARK" => {
                let end = object.pointer("/metadata/annotations/k8s.io~1initial-events-end");
                let end = end.map(|_| " initial-events-end").unwrap_or_default();
                let at = self.at(&object["metadata"]["resourceVersion"]);
                format!("BOOKMARK {}{at}{end}", text(&object["kind"]))
            }
            _ => format!("{kind} {}", self.object(object, shown)),
        }
    }

    /// A `Status`, and the HTTP code if that is different.
    fn status(&mut self, code: Option<u16>, body: &Value) -> String {
        let own = body["code"].as_u64().unwrap_or_default();
        let code = code.map_or(own, u64::from);
        let mut said = format!("{code} {}", text(&body["status"]));
        if own != 0 && own != code {
            said.push_str(&format!(" code={own}"));
        }
        let details = &body["details"];
        for value in [&body["reason"], &details["kind"], &details["group"], &details["name"]] {
            if !text(value).is_empty() {
                said.push_str(&format!(" {}", text(value)));
            }
        }
        if !text(&details["uid"]).is_empty() {
            said.push_str(&format!(" {}", self.uid(&details["uid"])));
        }
        if let Some(token) = body["metadata"]["continue"].as_str().filter(|token| !token.is_empty()) {
            self.token = token.to_owned();
            said.push_str(" token");
        }
        let mut causes: Vec<String> = Vec::new();
        for cause in details["causes"].as_array().into_iter().flatten() {
            causes
                .push(format!(" [{} {}]", text(&cause["reason"]), text(&cause["field"])).replace(" ]", "]"));
        }
        // The real server repeats some of them.
        causes.dedup();
        said + &causes.concat()
    }

    fn object(&mut self, object: &Value, shown: &[String]) -> String {
        let meta = &object["metadata"];
        let mut said = format!("{} {}", text(&object["kind"]), text(&meta["name"])).trim_start().to_owned();
        said.push_str(&format!(" {}", self.uid(&meta["uid"])));
        said.push_str(&format!(" {}", self.version(&meta["resourceVersion"])));
        if let Some(grace_s) = meta["deletionGracePeriodSeconds"].as_i64() {
            said.push_str(&self.grace(meta, grace_s));
        } else if meta.get("deletionTimestamp").is_some() {
            said.push_str(" deleting");
        }
        if shown.iter().any(|what| what == "managers") {
            said.push_str(&format!(" managers={:?}", managers(meta)));
        }
        let more = shown.iter().map(|pointer| (pointer.as_str(), pointer.as_str()));
        for (name, pointer) in SHOWN.into_iter().chain(more) {
            if let Some(value) = object.pointer(pointer) {
                said.push_str(&format!(" {name}={}", bare(value)));
            }
        }
        for condition in object["status"]["conditions"].as_array().into_iter().flatten() {
            let word = |name: &str| text(&condition[name]);
            said.push_str(
                &format!(" {}={}({})", word("type"), word("status"), word("reason")).replace("()", ""),
            );
        }
        if let Some(pods) = object["status"]["disruptedPods"].as_object() {
            said.push_str(&format!(" disrupted={:?}", pods.keys().collect::<Vec<_>>()));
        }
        said
    }

    /// The grace period of a deletion, and the start of the deletion if it has changed.
    fn grace(&mut self, meta: &Value, grace_s: i64) -> String {
        let end = text(&meta["deletionTimestamp"]);
        let end: jiff::Timestamp = end.parse().unwrap_or_else(|error| panic!("{end:?}: {error}"));
        let since = end.as_second() - grace_s;
        // Timestamps are truncated to seconds.
        match *self.deletions.entry(text(&meta["uid"])).or_insert(since) {
            first if first.abs_diff(since) <= 1 => format!(" deleting grace={grace_s}"),
            _ => format!(" deleting grace={grace_s} since another time"),
        }
    }

    fn uid(&mut self, value: &Value) -> String {
        let uid = text(value);
        if uid.is_empty() {
            return "no-uid".to_owned();
        }
        if !self.uids.contains(&uid) {
            self.uids.push(uid.clone());
        }
        format!("uid-{}", self.uids.iter().position(|other| *other == uid).map_or(0, |at| at + 1))
    }

    /// A version that is older than other known ones is marked.
    fn version(&mut self, value: &Value) -> String {
        let Ok(version) = text(value).parse::<u64>() else { return "no-rv".to_owned() };
        if let Some(at) = self.versions.iter().position(|other| *other == version) {
            return format!("rv-{}", at + 1);
        }
        let next = self.versions.iter().filter(|other| **other > version).min();
        let next = next.and_then(|next| self.versions.iter().position(|other| other == next));
        self.versions.push(version);
        let older = next.map(|at| format!("(before rv-{})", at + 1)).unwrap_or_default();
        format!("rv-{}{older}", self.versions.len())
    }

    fn at(&self, value: &Value) -> String {
        let Ok(version) = text(value).parse::<u64>() else { return format!(" at {value}") };
        let before = self.versions.iter().enumerate().filter(|(_, other)| **other <= version);
        before
            .max_by_key(|(_, other)| **other)
            .map(|(at, _)| format!(" at rv-{}", at + 1))
            .unwrap_or_default()
    }
}

/// The field managers of a ConfigMap's data.
fn managers(meta: &Value) -> Vec<String> {
    let manager = |entry: &Value| {
        let fields = entry.pointer("/fieldsV1/f:data").and_then(Value::as_object);
        let fields = fields.into_iter().flatten().map(|(field, _)| field.as_str());
        let fields: Vec<&str> = fields.filter_map(|field| field.strip_prefix("f:")).collect();
        let below = text(&entry["subresource"]);
        format!("{} {} {below}{}", text(&entry["manager"]), text(&entry["operation"]), fields.join(","))
    };
    let mut managers: Vec<String> =
        meta["managedFields"].as_array().into_iter().flatten().map(manager).collect();
    managers.sort();
    managers
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Without quotes, and with ordered fields.
fn bare(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let fields: BTreeMap<_, _> = fields.iter().collect();
            let fields: Vec<String> =
                fields.iter().map(|(name, value)| format!("{name}:{}", bare(value))).collect();
            format!("{{{}}}", fields.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(bare).collect::<Vec<_>>().join(",")),
        Value::String(text) => text.clone(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}
