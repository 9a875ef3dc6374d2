//! ExecutorFleet objects: watched as plain JSON, because an object that this version cannot read must be reported and
//! must not break the watch; and their status, written by server-side apply.

use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
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

/// Why a status was not written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotWritten {
    /// The object is gone, or another one has its name.
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
    let (client, resource) = (paced(client), kind.resource());
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, &resource),
        None => Api::all_with(client, &resource),
    };
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
    let patch = serde_json::json!({
        "apiVersion": resource.api_version, "kind": resource.kind,
        "metadata": { "name": object.name, "namespace": object.namespace, "uid": object.uid },
        "status": status,
    });
    let api: Api<DynamicObject> = Api::namespaced_with(client, &object.namespace, &resource);
    // No other writer owns a field of the status.
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let patch = Patch::Apply(&patch);
    let call = api.patch_status(&object.name, &params, &patch);
    match timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(Error::Api(status))) if matches!(status.code, 404 | 409) => Err(NotWritten::Gone),
        Ok(Err(error)) => Err(NotWritten::Failed(describe(&error))),
        Err(_) => Err(NotWritten::Failed("no answer".to_owned())),
    }
}
