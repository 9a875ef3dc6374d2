//! Two clients for one API server: one for watches, which are silent by nature, and one for everything
//! else, which must answer.

use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// A call that has not been answered by then never will be, as far as we are concerned.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// A list of thousands of pods takes its time.
pub const LIST_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Clone)]
pub struct Clients {
    pub watch: Client,
    pub call: Client,
    /// The namespace that the kubeconfig or the pod's account names.
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
    /// From this kubeconfig; else, as kubectl does it, from `$KUBECONFIG` or `~/.kube/config`; else from the
    /// service account of the pod that this runs in.
    pub async fn connect(
        kubeconfig: Option<&std::path::Path>,
        context: Option<&str>,
    ) -> Result<Clients, ClientError> {
        let options =
            KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
        let config = match kubeconfig {
            Some(path) => {
                let wrong = |error: kube::config::KubeconfigError| {
                    ClientError::Config(format!("{}: {error}", path.display()))
                };
                let kubeconfig = Kubeconfig::read_from(path).map_err(wrong)?;
                Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(wrong)?
            }
            None if context.is_some() => Config::from_kubeconfig(&options)
                .await
                .map_err(|error| ClientError::Config(error.to_string()))?,
            None => Config::infer().await.map_err(|error| ClientError::Config(error.to_string()))?,
        };
        let namespace = config.default_namespace.clone();
        let mut watch = config;
        // kube repeats POSTs by default (kube#2082): here the core decides what is repeated.
        watch.default_retry = false;
        watch.connect_timeout = Some(Duration::from_secs(5));
        watch.write_timeout = Some(CALL_TIMEOUT);
        let mut call = watch.clone();
        call.read_timeout = Some(LIST_TIMEOUT);
        call.reset_reader_on_write = true;
        Ok(Clients { watch: Client::try_from(watch)?, call: Client::try_from(call)?, namespace })
    }

    /// Over a client that is there already.
    pub fn over(client: Client) -> Clients {
        let namespace = client.default_namespace().to_owned();
        Clients { watch: client.clone(), call: client, namespace }
    }
}
