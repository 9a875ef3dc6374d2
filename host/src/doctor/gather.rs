//! From the API server, the driver and files to facts. What cannot be had is noted, and does not end the command.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use cluster::Clients;
use cluster::pod::{APP, ROLE};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::ask::Api;
use super::checks::{self, Creates};
use super::facts::{Facts, Fleet, Known, Namespace, ROLLCALL_LABEL, Right, Scope, Warning};
use super::settings::Settings;
use super::{Args, driver};
use crate::config::{self, FleetConfig};
use crate::heartbeat::names::is_name;
use crate::metrics::Metrics;

/// How many pods and Events are looked at.
const SAMPLE: usize = 500;
/// Maximum size of a file with an answer of the driver's or with a pod.
const FILE_BYTES_MAX: u64 = 16 << 20;

pub async fn facts(args: &Args) -> Result<Facts> {
    let given = args.file.as_deref().map(|file| document(file, args)).transpose()?;
    let (api, context_namespace) = connect(args).await?;
    let namespace = args.namespace.clone().or_else(|| Some(given.as_ref()?.fleet.metadata.namespace.clone()));
    let namespace = namespace.unwrap_or(context_namespace);
    let given = match (&args.fleet, &api) {
        (Some(name), Ok(api)) => Some(object(api, &namespace, name).await?),
        (Some(_), Err(why)) => bail!("--fleet needs the API server: {why}"),
        (None, _) => given,
    };
    let ask = Ask { api: &api, namespace: &namespace, args };
    let saved =
        args.environment.as_deref().map(|file| read(file, "JSON").and_then(Settings::from_environment));
    let told =
        || saved.as_ref()?.as_ref().ok()?.text("spark.kubernetes.driver.pod.name").ok()?.map(str::to_owned);
    let named = args.driver.clone().or_else(|| Some(given.as_ref()?.fleet.spec.driver.pod_name.clone()));
    let named = named.or_else(told);
    let (driver_name, driver_pod) = ask.driver(named).await?;
    let (settings, rest) = match (saved, &driver_pod) {
        (Some(settings), _) => {
            (settings, Err("the driver's REST API was not asked, because of --environment".to_owned()))
        }
        (None, Ok(pod)) => {
            driver::settings(&api, pod, given.as_ref().map(|config| &config.fleet.spec.driver)).await
        }
        (None, Err(why)) => (Err(why.clone()), Err(why.clone())),
    };
    if let (Err(why), Err(_)) = (&settings, &driver_pod) {
        bail!("nothing is known of {namespace}/{driver_name}: {why}");
    }
    let fleet = fleet(given, &driver_name, settings.as_ref().ok())?;
    let executors = ask.executors(&driver_pod, settings.as_ref().ok(), &fleet).await;
    let own = fleet.spec.mode == config::document::Mode::Own;
    let (key, value) = ROLLCALL_LABEL;
    let home = &args.rollcall_namespace;
    Ok(Facts {
        rights: ask.rights(own, fleet.object).await,
        warnings: ask.warnings(&driver_name, &executors).await,
        namespace: ask.namespace(&namespace).await,
        home: ask.namespace(home).await,
        daemons: live(
            ask.list(&format!("/api/v1/namespaces/{home}/pods?labelSelector={key}%3D{value}")).await,
        ),
        services: ask.list(&format!("/api/v1/namespaces/{home}/services?limit={SAMPLE}")).await,
        account: args.service_account.clone(),
        driver_name,
        driver: driver_pod,
        executors,
        settings,
        rest,
        fleet,
    })
}

/// The API server, or why there is none; and the namespace of the kubeconfig.
async fn connect(args: &Args) -> Result<(Known<Api>, String)> {
    if args.offline {
        return Ok((Err("--offline: the API server was not asked".to_owned()), "default".to_owned()));
    }
    let requests = Arc::new(Metrics::new(None));
    let clients = Clients::connect(args.kubeconfig.as_deref(), args.context.as_deref(), requests).await;
    let clients = clients.context("with --offline only files are read")?;
    Ok((Ok(Api(clients.call)), clients.namespace))
}

/// The fleet of the file that is meant.
fn document(file: &Path, args: &Args) -> Result<FleetConfig> {
    let documents = config::load(&[file.to_owned()]).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow!("the document is invalid\n{}", lines.join("\n"))
    })?;
    let fleets = documents.fleets;
    let meant = |config: &FleetConfig| {
        let driver = &config.fleet.spec.driver.pod_name;
        args.driver.as_ref().is_none_or(|name| name == driver)
            && args.namespace.as_ref().is_none_or(|name| *name == config.fleet.metadata.namespace)
    };
    let count = fleets.len();
    let mut fits: Vec<FleetConfig> =
        if count == 1 { fleets } else { fleets.into_iter().filter(meant).collect() };
    match (fits.pop(), fits.is_empty()) {
        (Some(one), true) => Ok(one),
        (one, _) => {
            let how_many = if one.is_some() { "several" } else { "none" };
            bail!(
                "{}: of {count} ExecutorFleet documents, {how_many} fits: name the driver's pod, and the namespace with -n",
                file.display()
            )
        }
    }
}

async fn object(api: &Api, namespace: &str, name: &str) -> Result<FleetConfig> {
    let path = format!("/apis/rollcall.dev/v1alpha1/namespaces/{namespace}/executorfleets/{name}");
    let object: Value = api.get(&path).await.map_err(|why| anyhow!("no fleet {namespace}/{name}: {why}"))?;
    config::from_object(&object, 0).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow!("the object is invalid\n{}", lines.join("\n"))
    })
}

fn fleet(given: Option<FleetConfig>, driver: &str, settings: Option<&Settings>) -> Result<Fleet> {
    if let Some(config) = given {
        let object = config.generation.is_some();
        return Ok(Fleet {
            document: Some(config.file.display().to_string()),
            object,
            spec: config.fleet.spec,
        });
    }
    let (mode, executors) = match settings.and_then(|settings| checks::creates(settings).ok()) {
        Some(Creates::Fixed(0) | Creates::RollcallsAllocator) => ("Own", 0),
        Some(Creates::Fixed(count)) => ("Observe", count),
        Some(Creates::Dynamic | Creates::OtherAllocator) | None => ("Observe", 0),
    };
    let spec = json!({"mode": mode, "executors": executors, "driver": {"podName": driver}});
    Ok(Fleet { document: None, object: false, spec: serde_json::from_value(spec)? })
}

fn read<T: DeserializeOwned>(file: &Path, what: &str) -> Known<T> {
    let place = file.display();
    let bytes = policy::read_regular(file, FILE_BYTES_MAX).map_err(|error| format!("{place}: {error}"))?;
    serde_json::from_slice(&bytes).map_err(|error| format!("{place} is not {what}: {error}"))
}

fn live(pods: Known<Vec<Pod>>) -> Known<Vec<Pod>> {
    let ended = |pod: &Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed")) || pod.metadata.deletion_timestamp.is_some()
    };
    Ok(pods?.into_iter().filter(|pod| !ended(pod)).collect())
}

struct Ask<'a> {
    api: &'a Known<Api>,
    namespace: &'a str,
    args: &'a Args,
}

impl Ask<'_> {
    fn api(&self) -> Known<&Api> {
        self.api.as_ref().map_err(Clone::clone)
    }

    async fn list<T: DeserializeOwned + Clone>(&self, path: &str) -> Known<Vec<T>> {
        self.api()?.list(path).await
    }

    async fn driver(&self, named: Option<String>) -> Result<(String, Known<Pod>)> {
        if let Some(file) = &self.args.pod {
            let pod: Pod = read(file, "a pod").map_err(|why| anyhow!(why))?;
            return Ok((named.unwrap_or_else(|| pod.name_any()), Ok(pod)));
        }
        let pods = format!("/api/v1/namespaces/{}/pods", self.namespace);
        if let Some(name) = named {
            let pod = match self.api() {
                Ok(api) => api.get(&format!("{pods}/{name}")).await,
                Err(why) => Err(why),
            };
            return Ok((name, pod));
        }
        let found = live(self.list(&format!("{pods}?labelSelector={ROLE}%3Ddriver&limit={SAMPLE}")).await);
        let mut found = found.map_err(|why| anyhow!("which driver? {why}; name its pod"))?;
        match (found.pop(), found.is_empty()) {
            (Some(pod), true) => Ok((pod.name_any(), Ok(pod))),
            (None, _) => bail!(
                "namespace {} has no pod with the label {ROLE}=driver: name the driver's pod",
                self.namespace
            ),
            (Some(pod), false) => {
                let names: Vec<String> =
                    found.iter().chain([&pod]).take(10).map(ResourceExt::name_any).collect();
                bail!(
                    "namespace {} has several drivers, for instance {}: name one",
                    self.namespace,
                    names.join(", ")
                )
            }
        }
    }

    async fn executors(
        &self,
        driver: &Known<Pod>,
        settings: Option<&Settings>,
        fleet: &Fleet,
    ) -> Known<Vec<Pod>> {
        let labelled = driver.as_ref().ok().and_then(|pod| pod.labels().get(APP).cloned());
        let told = || settings.and_then(|settings| settings.text("spark.app.id").ok()?.map(str::to_owned));
        let id = fleet.spec.application_id.clone().or(labelled).or_else(told);
        let id = id.ok_or("the application's id is not known")?;
        if !is_name(&id) {
            return Err(format!("{id:?} is not an application id"));
        }
        let selector = format!("{ROLE}%3Dexecutor,{APP}%3D{id}");
        live(
            self.list(&format!(
                "/api/v1/namespaces/{}/pods?labelSelector={selector}&limit={SAMPLE}",
                self.namespace
            ))
            .await,
        )
    }

    /// Warnings about the driver and its executors, also those that are gone.
    async fn warnings(&self, driver: &str, executors: &Known<Vec<Pod>>) -> Known<Vec<Warning>> {
        let path = format!(
            "/api/v1/namespaces/{}/events?fieldSelector=type%3DWarning&limit={SAMPLE}",
            self.namespace
        );
        let events: Vec<Warning> = self.list(&path).await?;
        let prefix =
            |pod: &Pod| pod.name_any().rsplit_once("-exec-").map(|(prefix, _)| format!("{prefix}-exec-"));
        let prefix = executors.as_ref().ok().and_then(|pods| prefix(pods.first()?));
        let ours =
            |name: &str| name == driver || prefix.as_ref().is_some_and(|prefix| name.starts_with(prefix));
        Ok(events.into_iter().filter(|event| ours(&event.involved_object.name)).collect())
    }

    async fn namespace(&self, name: &str) -> Namespace {
        let labels = match self.api() {
            Ok(api) => api.get::<Value>(&format!("/api/v1/namespaces/{name}")).await,
            Err(why) => Err(why),
        };
        Namespace {
            name: name.to_owned(),
            labels: labels.map(|namespace| {
                serde_json::from_value(namespace["metadata"]["labels"].clone()).unwrap_or_default()
            }),
            policies: self
                .list(&format!("/apis/networking.k8s.io/v1/namespaces/{name}/networkpolicies?limit={SAMPLE}"))
                .await,
        }
    }

    /// A pod of Rollcall's may ask about itself. To ask about others needs a right of its own.
    async fn rights(&self, own: bool, objects: bool) -> Known<Vec<Right>> {
        let api = self.api()?;
        let (home, account) = (&self.args.rollcall_namespace, &self.args.service_account);
        let user = format!("system:serviceaccount:{home}:{account}");
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
        let me = api.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &review).await;
        let is_me = me.is_ok_and(|me| me["status"]["userInfo"]["username"] == user.as_str());
        let kind = if is_me { "SelfSubjectAccessReview" } else { "SubjectAccessReview" };
        let path = format!("/apis/authorization.k8s.io/v1/{}s", kind.to_lowercase());
        let mut rights = checks::needed_rights(own, objects);
        for right in &mut rights {
            let mut review = json!({
                "apiVersion": "authorization.k8s.io/v1", "kind": kind,
                "spec": {"resourceAttributes": self.attributes(right)},
            });
            if !is_me {
                review["spec"]["user"] = json!(user);
                let groups = [
                    "system:serviceaccounts",
                    &format!("system:serviceaccounts:{home}"),
                    "system:authenticated",
                ];
                review["spec"]["groups"] = json!(groups);
            }
            right.allowed = api.post(&path, &review).await?["status"]["allowed"] == true;
        }
        Ok(rights)
    }

    fn attributes(&self, right: &Right) -> Value {
        let (resource, subresource) = right.resource.split_once('/').unwrap_or((right.resource, ""));
        let mut attributes = json!({"group": right.group, "resource": resource, "subresource": subresource, "verb": right.verb});
        match right.scope {
            Scope::Fleet | Scope::Events => attributes["namespace"] = json!(self.namespace),
            Scope::Lease => {
                attributes["namespace"] = json!(self.args.rollcall_namespace);
                // The name is not known when `create` is checked.
                if right.verb != "create" {
                    attributes["name"] = json!("rollcall");
                }
            }
            Scope::Nodes | Scope::Objects => {}
        }
        attributes
    }
}
