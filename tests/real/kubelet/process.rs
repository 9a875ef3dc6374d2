//! A pod's container: its process, its environment, and its termination.

use std::fs::File;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use kube::ResourceExt;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{Instant, timeout_at};

use super::super::control_plane::Result;
use super::super::process::guarded;
use super::{GRACE_MIN, NODE, Shared, TMPDIR, send};

/// A running container.
pub(super) struct Process {
    pub(super) child: Child,
    /// The guard's input. `Child::wait` would close it.
    _stdin: Option<ChildStdin>,
    pub(super) pid: u32,
    pre_stop: Option<Command>,
}

impl Process {
    pub(super) fn spawn(shared: &Shared, pod: &Pod, address: &str) -> Result<Process> {
        let folder = shared.folder.join(pod.name_any());
        let container =
            pod.spec.as_ref().and_then(|spec| spec.containers.first()).ok_or("it has no container")?;
        let env = environment(shared, pod, container, &folder, address)?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(folder.join("log"))
            .map_err(|error| format!("its log: {error}"))?;
        let (program, arguments) = match container.command.as_deref().and_then(<[_]>::split_first) {
            Some((program, arguments)) => (program.as_str(), arguments),
            None => ("/entrypoint", &[][..]),
        };
        let mut command = Command::from(guarded(shared.resolved(program)));
        command.args(arguments).args(container.args.iter().flatten());
        command.process_group(0).env_clear().envs(env.clone()).current_dir(&folder).kill_on_drop(true);
        command.stdout(log.try_clone().map_err(|error| error.to_string())?).stderr(log);
        let mut child = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
        let pid = child.id().ok_or("it has ended")?;
        let hook =
            container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref()?.exec.as_ref());
        let pre_stop =
            hook.and_then(|hook| hook.command.as_deref()?.split_first()).map(|(program, arguments)| {
                let mut command = Command::new(shared.resolved(program));
                // Inside a container, it would be 1.
                command
                    .args(arguments)
                    .env_clear()
                    .envs(env)
                    .env("CONTAINER_PID", pid.to_string())
                    .current_dir(&folder);
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
                command
            });
        Ok(Process { _stdin: child.stdin.take(), child, pid, pre_stop })
    }

    /// As the kubelet does (`killContainer`): the hook's time is part of the grace period.
    pub(super) async fn terminate(&mut self, grace: Duration) -> std::io::Result<ExitStatus> {
        let deadline = Instant::now() + grace;
        let hook = self.pre_stop.take().filter(|_| !grace.is_zero());
        if let Some(Ok(mut hook)) = hook.map(|mut hook| hook.spawn()) {
            tokio::select! {
                _ = timeout_at(deadline, hook.wait()) => {}
                status = self.child.wait() => return status,
            }
        }
        send("TERM", self.pid.into());
        let deadline = deadline.max(Instant::now() + GRACE_MIN);
        if let Ok(status) = timeout_at(deadline, self.child.wait()).await {
            return status;
        }
        send("KILL", self.pid.into());
        self.child.wait().await
    }
}

impl Shared {
    /// The image's file of that name, if there is one.
    fn resolved(&self, program: &str) -> String {
        let inside = self.image.folder.join(program.trim_start_matches('/'));
        if program.starts_with('/') && inside.is_file() {
            inside.display().to_string()
        } else {
            program.to_owned()
        }
    }
}

/// The image's variables, then the container's. Creates the volumes. A container uses its directory for temporary
/// files.
fn environment(
    shared: &Shared,
    pod: &Pod,
    container: &Container,
    folder: &Path,
    address: &str,
) -> Result<Vec<(String, String)>> {
    let mut mounts = Vec::new();
    std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for mount in container.volume_mounts.iter().flatten() {
        let volume = folder.join("volumes").join(&mount.name);
        std::fs::create_dir_all(&volume).map_err(|error| format!("{}: {error}", volume.display()))?;
        mounts.push((mount.mount_path.clone(), volume.display().to_string()));
    }
    let folder = folder.display().to_string();
    let image = shared.image.env.iter();
    let mut env: Vec<_> = image.map(|(name, value)| (name.clone(), value.replace(TMPDIR, &folder))).collect();
    env.push(("TMPDIR".to_owned(), folder));
    for variable in container.env.iter().flatten() {
        let path = variable.value_from.as_ref().and_then(|source| source.field_ref.as_ref());
        let value = match (path, &variable.value) {
            (Some(field_ref), _) => field(pod, address, &field_ref.field_path)?,
            (None, value) => value.clone().unwrap_or_default(),
        };
        let mount =
            mounts.iter().find_map(|(path, volume)| Some((volume, value.strip_prefix(path.as_str())?)));
        let value = match mount {
            Some((volume, rest)) if rest.is_empty() || rest.starts_with('/') => format!("{volume}{rest}"),
            Some(_) | None => value,
        };
        env.push((variable.name.clone(), value));
    }
    Ok(env)
}

/// The pod fields that a variable can refer to.
fn field(pod: &Pod, address: &str, path: &str) -> Result<String> {
    match path {
        "metadata.name" => Ok(pod.name_any()),
        "metadata.uid" => Ok(pod.uid().unwrap_or_default()),
        "status.podIP" => Ok(address.to_owned()),
        "spec.nodeName" => Ok(NODE.to_owned()),
        other => Err(format!("this kubelet has no field {other}")),
    }
}
