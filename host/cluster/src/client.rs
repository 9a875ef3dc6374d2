//! Two clients for one API server: one for watches, which may be silent, and one for all other requests, which
//! must be answered.

use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::uri::Scheme;
use http::{Request, Response, Uri};
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::{Layer, ServiceBuilder, ServiceExt};

use crate::metrics::{Measure, Requests};

/// A call that has not been answered by then counts as unanswered.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// A list of thousands of pods takes longer.
pub const LIST_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Clone)]
pub struct Clients {
    pub watch: Client,
    pub call: Client,
    /// The namespace that the kubeconfig or the pod's ServiceAccount sets.
    pub namespace: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no Kubernetes API server: {0}. Pass --kubeconfig FILE, or run inside of a cluster")]
    Config(String),
    #[error("the Kubernetes client cannot be made: {0}")]
    Client(#[from] kube::Error),
}

impl Clients {
    /// Reads this kubeconfig; without one, like kubectl, `$KUBECONFIG` or `~/.kube/config`, and then the
    /// ServiceAccount of the pod that this process runs in. `requests` is notified of every request.
    pub async fn connect(
        kubeconfig: Option<&std::path::Path>,
        context: Option<&str>,
        requests: Arc<dyn Requests>,
    ) -> Result<Clients, ClientError> {
        let config = config(kubeconfig, context).await?;
        let namespace = config.default_namespace.clone();
        let measure = Measure::new(&host(&config.cluster_url), requests);
        let client = |config| -> Result<Client, ClientError> {
            Ok(ClientBuilder::try_from(config)?.with_layer(&measure).build())
        };
        let mut watch = config;
        // kube retries POSTs by default (kube#2082); here the core decides about retries.
        watch.default_retry = false;
        watch.connect_timeout = Some(Duration::from_secs(5));
        watch.write_timeout = Some(CALL_TIMEOUT);
        let mut call = watch.clone();
        call.read_timeout = Some(LIST_TIMEOUT);
        call.reset_reader_on_write = true;
        Ok(Clients { watch: client(watch)?, call: client(call)?, namespace })
    }

    /// Uses an existing client for the API server at `host`.
    pub fn over(client: Client, host: &str, requests: Arc<dyn Requests>) -> Clients {
        let namespace = client.default_namespace().to_owned();
        let send = move |request| {
            let client = client.clone();
            async move { client.send(request).await }
        };
        let service = ServiceBuilder::new().layer(Measure::new(host, requests)).service_fn(send);
        let client = Client::new(service, namespace.as_str());
        Clients { watch: client.clone(), call: client, namespace }
    }
}

async fn config(kubeconfig: Option<&std::path::Path>, context: Option<&str>) -> Result<Config, ClientError> {
    let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    Ok(match kubeconfig {
        Some(path) => {
            let wrong = |error: kube::config::KubeconfigError| {
                ClientError::Config(format!("{}: {error}", path.display()))
            };
            let kubeconfig = Kubeconfig::read_from(path).map_err(wrong)?;
            Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(wrong)?
        }
        None if context.is_some() => {
            Config::from_kubeconfig(&options).await.map_err(|error| ClientError::Config(error.to_string()))?
        }
        None => Config::infer().await.map_err(|error| ClientError::Config(error.to_string()))?,
    })
}

/// The bearer token with which this kubeconfig's user logs in, also if a program or a file provides it. `None`: the
/// user has none, but for instance a client certificate.
pub async fn bearer(
    kubeconfig: Option<&std::path::Path>,
    context: Option<&str>,
) -> Result<Option<String>, ClientError> {
    let Some(layer) = config(kubeconfig, context).await?.auth_layer()? else { return Ok(None) };
    // The layer is made to add the header to requests, and shows it to nothing else.
    let header = |request: Request<Body>| async move {
        let header = request.headers().get(AUTHORIZATION).and_then(|header| header.to_str().ok());
        let token = header.and_then(|header| header.strip_prefix("Bearer ")).map(str::to_owned);
        Ok::<_, tower::BoxError>(Response::new(token))
    };
    let answer = layer.layer(tower::service_fn(header)).oneshot(Request::new(Body::empty())).await;
    answer
        .map(Response::into_body)
        .map_err(|error| ClientError::Config(format!("the user cannot log in: {error}")))
}

/// Host and port, also if the URL omits the scheme's default port.
fn host(url: &Uri) -> String {
    let port = if url.scheme() == Some(&Scheme::HTTP) { 80 } else { 443 };
    format!("{}:{}", url.host().unwrap_or_default(), url.port_u16().unwrap_or(port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_has_its_port() {
        for (url, expected) in [
            ("https://10.96.0.1:6443", "10.96.0.1:6443"),
            ("https://kubernetes.default.svc/", "kubernetes.default.svc:443"),
            ("http://127.0.0.1", "127.0.0.1:80"),
            ("https://[fd00::1]:6443/clusters/one", "[fd00::1]:6443"),
        ] {
            assert_eq!(host(&url.parse().expect("a URL")), expected, "{url}");
        }
    }
}
