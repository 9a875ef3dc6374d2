//! Reaches the daemon through the cluster: `kubectl port-forward` to its Service, for as long as the command runs.
//!
//! Any replica will do, because one that stands by forwards to the leader. `kubectl` is there, because this is its
//! plugin, and it knows every way to log in to a cluster.
//!
//! Rejected: `Api<Pod>::portforward` of kube. It needs eight more crates for WebSockets, four of them in a second version.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use reqwest::Url;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, copy, sink};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long kubectl may take: it may have to log in first.
const TIME_MAX: Duration = Duration::from_secs(30);
/// Maximum bytes of its first line, or of its error.
const LINE_MAX: u64 = 4 << 10;

/// Where the cluster is, and the daemon in it.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "As kubectl's plugin")]
pub struct Cluster {
    /// Context of the kubeconfig.
    #[arg(long)]
    context: Option<String>,
    /// Kubeconfig file. Default: as for kubectl.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Namespace of the fleet. Default: the fleet's name alone identifies it.
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Namespace of the daemon.
    #[arg(long, value_name = "NAME", default_value = "rollcall")]
    rollcall_namespace: String,
    /// The daemon's Service.
    #[arg(long, value_name = "NAME", default_value = "rollcall")]
    rollcall_service: String,
    /// Give commands as this service account, with a token for the daemon alone. Needed if your kubeconfig has a client
    /// certificate, which the daemon cannot have reviewed. You need the right to create its token.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = account)]
    service_account: Option<(String, String)>,
}

/// An open tunnel. It closes when it is dropped.
pub struct Tunnel {
    pub server: Url,
    _kubectl: Child,
}

impl Cluster {
    /// The options that make sense only with kubectl.
    pub fn is_named(&self) -> bool {
        self.context.is_some() || self.kubeconfig.is_some() || self.service_account.is_some()
    }

    pub async fn open(&self) -> Result<Tunnel> {
        let service = format!("service/{}", self.rollcall_service);
        let place = || format!("cannot reach {service} in the namespace {}", self.rollcall_namespace);
        // `http`: the name of the port.
        let mut kubectl = self.kubectl([
            "port-forward",
            "--address=127.0.0.1",
            "-n",
            &self.rollcall_namespace,
            &service,
            ":http",
        ]);
        let mut kubectl = kubectl.spawn().context("cannot run kubectl: is it on the PATH?")?;
        let (out, mut err) =
            kubectl.stdout.take().zip(kubectl.stderr.take()).context("kubectl has no output")?;
        let mut out = BufReader::new(out);
        let mut line = String::new();
        let first = timeout(TIME_MAX, (&mut out).take(LINE_MAX).read_line(&mut line)).await;
        let first = first.map_err(|_| anyhow!("kubectl port-forward does not answer")).with_context(place)?;
        if first.context("cannot read kubectl's output")? == 0 {
            let mut why = String::new();
            let _ = timeout(TIME_MAX, err.take(LINE_MAX).read_to_string(&mut why)).await;
            return Err(anyhow!(why.trim().to_owned()).context(place()));
        }
        let server = address(&line).with_context(|| format!("kubectl port-forward says {line:?}"))?;
        // It prints a line for each connection, and a pipe without a reader would end it.
        tokio::spawn(async move { copy(&mut out, &mut sink()).await });
        tokio::spawn(async move { copy(&mut err, &mut sink()).await });
        Ok(Tunnel { server, _kubectl: kubectl })
    }

    /// The token for commands.
    pub async fn token(&self) -> Result<String> {
        if let Some((namespace, name)) = &self.service_account {
            let kubectl =
                self.kubectl(["create", "token", name, "-n", namespace, "--audience=rollcall"]).output();
            let made = timeout(TIME_MAX, kubectl).await.context("kubectl create token does not answer")?;
            let made = made.context("cannot run kubectl: is it on the PATH?")?;
            let why = String::from_utf8_lossy(&made.stderr);
            ensure!(made.status.success(), "there is no token of {namespace}/{name}: {}", why.trim());
            return Ok(String::from_utf8(made.stdout)?.trim().to_owned());
        }
        let token = cluster::client::bearer(self.kubeconfig.as_deref(), self.context.as_deref());
        let token = timeout(TIME_MAX, token).await.context("the kubeconfig's login does not answer")??;
        let Some(token) = token else {
            bail!(
                "the kubeconfig has no token (a client certificate, perhaps), and the daemon can have nothing else \
                 reviewed: pass --service-account NAMESPACE/NAME of an account that may patch the fleet, or --token-file"
            );
        };
        Ok(token)
    }

    fn kubectl<const N: usize>(&self, arguments: [&str; N]) -> Command {
        let mut command = Command::new("kubectl");
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let options = [
            ("--context=", self.context.as_ref().map(OsString::from)),
            ("--kubeconfig=", self.kubeconfig.as_ref().map(OsString::from)),
        ];
        for (option, value) in options {
            command
                .args(value.map(|value| [OsString::from(option), value].into_iter().collect::<OsString>()));
        }
        command.kill_on_drop(true);
        command
    }
}

/// `Forwarding from 127.0.0.1:40123 -> 8080`
fn address(line: &str) -> Option<Url> {
    let at = line.strip_prefix("Forwarding from ")?.split(' ').next()?;
    Url::parse(&format!("http://{at}")).ok().filter(|url| url.port().is_some())
}

fn account(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('/').filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty());
    let parts = parts.map(|(namespace, name)| (namespace.to_owned(), name.to_owned()));
    parts.ok_or_else(|| "write it as NAMESPACE/NAME".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_in_kubectls_first_line() {
        let url = |line| address(line).map(|url| url.to_string());
        assert_eq!(
            url("Forwarding from 127.0.0.1:40123 -> 8080"),
            Some("http://127.0.0.1:40123/".to_owned())
        );
        for strange in ["", "Forwarding from ", "Handling connection for 40123", "error: unable to forward"] {
            assert_eq!(url(strange), None, "{strange:?}");
        }
        assert_eq!(account("a/b"), Ok(("a".to_owned(), "b".to_owned())));
        assert!(account("b").is_err() && account("/b").is_err());
    }
}
