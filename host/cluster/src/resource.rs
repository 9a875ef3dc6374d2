//! ExecutorFleet objects: watched as plain JSON, because an object that this version cannot read must be reported and
//! must not break the watch; and their status, written by server-side apply.

use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::watcher::Event;
use kube::{Api, Client, Error};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::FIELD_MANAGER;
use crate::call::describe;
use crate::client::CALL_TIMEOUT;
use crate::watch::{config, paced};

/// A kind of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
}

/// An object as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub generation: i64,
    /// The whole object, without `managedFields`.
    pub value: Value,
}

/// A message of the watch.
#[derive(Debug)]
pub enum Told {
    /// All objects that exist. What was told before and is not among them is gone.
    All(Vec<Object>),
    Changed(Box<Object>),
    Gone(Box<Object>),
    Broken(String),
}

/// Why nothing was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotWritten {
    /// The object is gone, has changed meanwhile, or another one has its name.
    Gone,
    Failed(String),
}

impl Object {
    /// `NAMESPACE/NAME`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

impl Kind {
    fn resource(self) -> ApiResource {
        ApiResource {
            group: self.group.to_owned(),
            version: self.version.to_owned(),
            api_version: format!("{}/{}", self.group, self.version),
            kind: self.kind.to_owned(),
            plural: self.plural.to_owned(),
        }
    }
}

/// Watches the objects of a namespace, or of all namespaces, until the receiver is dropped.
pub async fn watch(client: Client, kind: Kind, namespace: Option<&str>, told: mpsc::Sender<Told>) {
    let api = api(paced(client), kind, namespace.unwrap_or_default());
    let mut listed = Vec::new();
    let mut map = |event| {
        let message = match event {
            Event::Init => {
                listed.clear();
                None
            }
            Event::InitApply(object) => {
                listed.push(read(object));
                None
            }
            Event::InitDone => Some(Told::All(std::mem::take(&mut listed))),
            Event::Apply(object) => Some(Told::Changed(Box::new(read(object)))),
            Event::Delete(object) => Some(Told::Gone(Box::new(read(object)))),
        };
        message.into_iter()
    };
    crate::watch::watch(api, config(), &mut map, &Told::Broken, &told).await;
}

/// Without a namespace: all, or a kind that has none.
fn api(client: Client, kind: Kind, namespace: &str) -> Api<DynamicObject> {
    let resource = kind.resource();
    if namespace.is_empty() {
        Api::all_with(client, &resource)
    } else {
        Api::namespaced_with(client, namespace, &resource)
    }
}

fn read(mut object: DynamicObject) -> Object {
    object.metadata.managed_fields = None;
    let meta = &object.metadata;
    Object {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        generation: meta.generation.unwrap_or_default(),
        value: serde_json::to_value(&object).unwrap_or_default(),
    }
}

/// Writes the status of the object with this UID.
pub async fn write_status(
    client: Client,
    kind: Kind,
    object: &Object,
    status: &Value,
) -> Result<(), NotWritten> {
    let resource = kind.resource();
    let mut metadata = serde_json::json!({ "name": object.name, "uid": object.uid });
    if !object.namespace.is_empty() {
        metadata["namespace"] = object.namespace.as_str().into();
    }
    let patch = serde_json::json!({
        "apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata, "status": status,
    });
    let api = api(client, kind, &object.namespace);
    // No other writer owns a field of the status.
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let patch = Patch::Apply(&patch);
    written(api.patch_status(&object.name, &params, &patch)).await
}

/// A change of an object itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The object is created as it is here.
    Create(Value),
    /// It replaces the object with its `metadata.resourceVersion`.
    Replace(Value),
    /// The object with this UID is deleted.
    Delete { name: String, uid: String },
}

/// Changes an object. One that has changed meanwhile is not changed.
pub async fn change(client: Client, kind: Kind, namespace: &str, change: &Change) -> Result<(), NotWritten> {
    let api = api(client, kind, namespace);
    let object = |value: &Value| {
        let read: Result<DynamicObject, _> = serde_json::from_value(value.clone());
        read.map_err(|error| NotWritten::Failed(error.to_string()))
    };
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    match change {
        Change::Create(value) => written(api.create(&params, &object(value)?)).await,
        Change::Replace(value) => {
            let object = object(value)?;
            written(api.replace(object.metadata.name.as_deref().unwrap_or_default(), &params, &object)).await
        }
        Change::Delete { name, uid } => {
            let preconditions = Preconditions { uid: Some(uid.clone()), resource_version: None };
            let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            written(api.delete(name, &params)).await
        }
    }
}

async fn written<T>(call: impl Future<Output = kube::Result<T>>) -> Result<(), NotWritten> {
    match timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(Error::Api(status))) if matches!(status.code, 404 | 409) => Err(NotWritten::Gone),
        Ok(Err(error)) => Err(NotWritten::Failed(describe(&error))),
        Err(_) => Err(NotWritten::Failed("no answer".to_owned())),
    }
}
