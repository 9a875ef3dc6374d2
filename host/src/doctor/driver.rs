//! The driver's settings: from its REST API, or else from what it was submitted with.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use cluster::pod::{APP, SPARK_VERSION};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::ResourceExt;

use super::ask::{Api, Route};
use super::facts::{Known, ips};
use super::settings::{self, Settings};
use crate::config::document::Driver;
use crate::heartbeat::names::is_name;

const DEFAULT_PORT: u16 = 4040;
/// Spark's volume with the properties of the submission.
const VOLUME: &str = "spark-conf-volume-driver";

/// The settings, and whether the REST API answers. `told`: what the document says about it.
pub async fn settings(api: &Known<Api>, pod: &Pod, told: Option<&Driver>) -> (Known<Settings>, Known<()>) {
    let version = pod.labels().get(SPARK_VERSION).and_then(|version| settings::version(version));
    let told = match api {
        Ok(api) => environment(api, pod, told).await,
        Err(why) => Err(why.clone()),
    };
    let (settings, rest) = match told {
        Ok(settings) => (Ok(settings), Ok(())),
        Err(why) => (submitted(api, pod).await.ok_or_else(|| why.clone()), Err(why)),
    };
    (settings.map(|settings| settings.or_version(version)), rest)
}

/// From the REST API, at the document's port or at the one that Spark declares in its pod.
async fn environment(api: &Api, pod: &Pod, told: Option<&Driver>) -> Known<Settings> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut declared = containers.flat_map(|one| one.ports.iter().flatten());
    let declared = declared.find(|port| port.name.as_deref() == Some("spark-ui"));
    let declared = declared.and_then(|port| u16::try_from(port.container_port).ok());
    let mut ports: Vec<u16> = told.map(|driver| driver.rest_port.get()).into_iter().collect();
    ports.push(declared.unwrap_or(DEFAULT_PORT));
    ports.dedup();
    let tls = told.is_some_and(|driver| driver.rest_tls.is_some());
    let (namespace, name) = (&pod.namespace().unwrap_or_default(), &pod.name_any());
    let mut failures = Vec::new();
    for port in ports {
        let direct = ips(pod).first().map(|ip| Route::Direct { address: SocketAddr::new(*ip, port) });
        let proxy = Route::Proxy { api, namespace, pod: name, port, tls };
        for route in [Some(proxy), direct.filter(|_| !tls)].into_iter().flatten() {
            match environment_by(&route, pod).await {
                Ok(settings) => return Ok(settings),
                Err(why) => failures.push(why),
            }
        }
    }
    Err(format!(
        "the driver's REST API did not answer ({}); save its /environment, and pass --environment FILE",
        failures.join("; ")
    ))
}

/// Of the pod's application, if the driver names several.
async fn environment_by(route: &Route<'_>, pod: &Pod) -> Known<Settings> {
    let applications = route.get("/api/v1/applications").await?;
    let ids = applications.as_array().into_iter().flatten().filter_map(|one| one["id"].as_str());
    // It becomes a part of a path, and the driver is user code.
    let ids: Vec<&str> = ids.filter(|id| is_name(id)).collect();
    let labelled = pod.labels().get(APP).map(String::as_str);
    let id = ids.iter().find(|id| Some(**id) == labelled).or(ids.first());
    let id = id.ok_or("the driver names no application")?;
    let environment = route.get(&format!("/api/v1/applications/{id}/environment")).await?;
    let settings = Settings::from_environment(environment)?;
    if settings.version.is_some() {
        return Ok(settings);
    }
    let version = route.get("/api/v1/version").await.unwrap_or_default();
    Ok(settings.or_version(version["spark"].as_str().and_then(settings::version)))
}

/// From Spark's ConfigMap, and from the command of the pod.
async fn submitted(api: &Known<Api>, pod: &Pod) -> Option<Settings> {
    let spec = pod.spec.as_ref()?;
    let mut values = BTreeMap::new();
    let volumes = spec.volumes.iter().flatten().filter(|volume| volume.name == VOLUME);
    for map in volumes.filter_map(|volume| volume.config_map.as_ref()) {
        let Ok(api) = api else { continue };
        let path = format!("/api/v1/namespaces/{}/configmaps/{}", pod.namespace()?, map.name);
        let map: Option<ConfigMap> = api.get(&path).await.ok();
        let text = map.and_then(|map| map.data?.remove("spark.properties"));
        values.extend(text.iter().flat_map(|text| settings::properties(text)));
    }
    for container in &spec.containers {
        let words = container.command.iter().flatten().chain(container.args.iter().flatten());
        values.extend(settings::command_settings(words.map(String::as_str)));
    }
    (!values.is_empty()).then(|| Settings::submitted(values))
}
