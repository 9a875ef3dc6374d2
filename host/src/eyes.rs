//! Watches files: documents, policies, and the tokens that documents name.
//!
//! There are two tasks, so that a policy that takes long to load does not delay documents. Reading, parsing, compiling
//! and calls of policies happen on blocking threads; the main loop receives only validated documents ([`Judge`]).

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use policy::{printable, read_regular};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use crate::classes::Classes;
use crate::config::{self, FleetConfig, Watcher};
use crate::daemon::{Change, Judge, Judged, Policies};
use crate::heartbeat::directory::Secret;
use crate::resource::Objects;

const POLL: Duration = Duration::from_millis(config::POLL_MS);
const SETTLE: Duration = Duration::from_millis(100);
/// Maximum size of a token file.
pub const TOKEN_BYTES_MAX: u64 = 64 << 10;

/// Watches the documents and their token files.
pub struct Eyes {
    watcher: Watcher,
    paths: Vec<PathBuf>,
    /// The documents from objects.
    objects: Option<Arc<Objects<FleetConfig>>>,
    classes: Arc<Classes>,
    /// All of them, in the order of `tokens`.
    fleets: Vec<FleetConfig>,
    judge: Judge,
    tokens: Vec<Result<Option<Secret>, String>>,
    /// Some documents wait for a policy that is not ready.
    pending: bool,
}

impl Eyes {
    /// Watches `paths`. `classes` has the documents that were loaded from them.
    pub fn new(
        paths: Vec<PathBuf>,
        objects: Option<Arc<Objects<FleetConfig>>>,
        classes: Arc<Classes>,
        policies: Arc<Policies>,
    ) -> Eyes {
        let (watcher, judge) = (Watcher::new(paths.clone()), Judge::new(policies));
        let (fleets, tokens) = (Vec::new(), Vec::new());
        Eyes { watcher, paths, objects, classes, fleets, judge, tokens, pending: false }
    }

    /// Validates all documents. Blocks.
    pub fn judge(&mut self) -> Vec<Judged> {
        self.fleets = self.documents();
        self.tokens = tokens(&self.fleets);
        let mut judged = self.judge.judge(&self.fleets);
        for (judged, token) in judged.iter_mut().zip(&self.tokens) {
            judged.token = token.clone().unwrap_or_default();
        }
        self.pending = judged.iter().any(|judged| judged.pending.is_some());
        judged
    }

    /// Those from files come first: an object that names the same fleet as a file is not used. Then those that drivers
    /// have by a class from files; those by a class that is an object are objects themselves.
    fn documents(&self) -> Vec<FleetConfig> {
        let mut all = self.classes.filed();
        let filed: BTreeSet<String> = all.iter().map(FleetConfig::key).collect();
        let known = self.objects.as_ref().map(|objects| objects.all()).unwrap_or_default();
        let made = self.classes.fleets(&known);
        let made = made.into_iter().filter(|fleet| !fleet.of_object).map(|fleet| fleet.config);
        let made: BTreeMap<String, FleetConfig> = made.map(|config| (config.key(), config)).collect();
        let objects = known.iter().filter_map(|known| known.config.clone());
        let objects = objects.filter(|config| {
            let key = config.key();
            !filed.contains(&key) && !made.contains_key(&key)
        });
        all.extend(objects);
        all.extend(made.into_values());
        all
    }

    /// Returns the validated documents if anything about them has changed. Invalid documents change nothing: the last
    /// valid ones stay in force, and are validated with the current policies.
    fn look(&mut self, told: bool) -> Option<Vec<Judged>> {
        let mut again = told || self.pending;
        if self.watcher.changed() {
            match config::load(&self.paths) {
                Ok(documents) => {
                    self.classes.set_filed(documents);
                    again = true;
                }
                Err(problems) => {
                    for problem in problems {
                        tracing::error!(%problem, "the new configuration is refused; the last valid one stays");
                    }
                }
            }
        }
        let tokens = tokens(&self.fleets);
        for (config, (token, before)) in self.fleets.iter().zip(tokens.iter().zip(&self.tokens)) {
            if let (Err(error), true) = (token, token != before) {
                let fleet = config.key();
                tracing::warn!(fleet, error, "cannot read the heartbeat token: no static token is accepted");
            }
        }
        again |= tokens != self.tokens;
        again.then(|| self.judge())
    }
}

/// The token of each document, in the order of the documents.
fn tokens(fleets: &[FleetConfig]) -> Vec<Result<Option<Secret>, String>> {
    let token = |config: &FleetConfig| {
        let Some(file) = &config.fleet.spec.heartbeat.token_file else { return Ok(None) };
        let unreadable = |why: String| format!("{}: {why}", printable(&file.to_string_lossy(), 500));
        let bytes = read_regular(file, TOKEN_BYTES_MAX).map_err(|error| unreadable(error.to_string()))?;
        let text = str::from_utf8(&bytes).map_err(|_| unreadable("it is not text".to_owned()))?.trim();
        Ok((!text.is_empty()).then(|| Secret::new(text)))
    };
    fleets.iter().map(token).collect()
}

/// Checks the documents periodically, and when policies or objects have changed.
pub async fn documents(eyes: Eyes, mut policies: watch::Receiver<u64>, change: mpsc::Sender<Change>) {
    let mut objects = eyes.objects.as_ref().map_or_else(|| policies.clone(), |objects| objects.changes());
    let mut classes = eyes.classes.changes();
    let mut eyes = Some(eyes);
    loop {
        let changed = tokio::select! {
            () = sleep(POLL) => false,
            _ = policies.changed() => true,
            _ = objects.changed() => true,
            _ = classes.changed() => true,
        };
        if changed {
            // Treats changes in quick succession as one.
            sleep(SETTLE).await;
            policies.mark_unchanged();
            objects.mark_unchanged();
            classes.mark_unchanged();
        }
        let Some(mut these) = eyes.take() else { return };
        let looked = tokio::task::spawn_blocking(move || {
            // A panic is a bug in Rollcall that these files trigger; later versions of the files may not.
            let told = catch_unwind(AssertUnwindSafe(|| these.look(changed)));
            (these, told)
        });
        // The join fails when the runtime shuts down.
        let Ok((these, told)) = looked.await else { return };
        eyes = Some(these);
        let told = told.unwrap_or_else(|_| {
            tracing::error!(
                "checking the documents panicked, which is a bug in Rollcall; the last valid ones stay in force"
            );
            None
        });
        if let Some(fleets) = told
            && change.send(Change::Fleets(fleets)).await.is_err()
        {
            return;
        }
    }
}

/// Checks the directory of policies immediately, and then periodically.
pub async fn policies(policies: Arc<Policies>) {
    while policies.has_directory() {
        let these = Arc::clone(&policies);
        let looked = tokio::task::spawn_blocking(move || catch_unwind(AssertUnwindSafe(|| these.refresh())));
        match looked.await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => {
                tracing::error!(
                    "checking the policies panicked, which is a bug in Rollcall; the loaded ones stay active"
                );
            }
            Err(_) => return,
        }
        sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use policy::Compiler;

    use super::*;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Dir {
            let path = std::env::temp_dir().join(format!("rollcall-eyes-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).expect("a directory");
            Dir(path)
        }

        fn write(&self, extra: &str) {
            let document = format!(
                "apiVersion: rollcall.dev/v1alpha1\nkind: ExecutorFleet\nmetadata: {{name: etl, namespace: spark}}\n\
                 spec:\n  mode: Observe\n  executors: 3\n  driver: {{podName: d}}\n{extra}"
            );
            fs::write(self.0.join("etl.yaml"), document).expect("a file");
        }

        fn eyes(&self) -> Eyes {
            let paths = vec![self.0.clone()];
            let documents = config::load(&paths).expect("a valid document");
            let policies = Policies::load(None, Compiler::Here).expect("the built-in policies");
            Eyes::new(paths, None, Arc::new(Classes::new(documents, None)), Arc::new(policies))
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_document_that_is_refused_swallows_no_change_of_policies() {
        let dir = Dir::new("swallow");
        dir.write("");
        let mut eyes = dir.eyes();
        assert_eq!(eyes.judge().len(), 1);
        assert!(eyes.look(false).is_none(), "nothing has changed");
        dir.write("  executers: 4\n");
        let judged = eyes.look(true).expect("the policies have changed");
        assert_eq!((judged.len(), judged[0].config.fleet.spec.executors), (1, 3), "the last valid document");
        dir.write("  paused: true\n");
        assert!(eyes.look(false).expect("a new document")[0].config.fleet.spec.paused);
    }

    #[test]
    fn tokens_are_read_from_files_alone_and_read_again_when_they_change() {
        let dir = Dir::new("tokens");
        let token = dir.0.join("token");
        dir.write(&format!("  heartbeat: {{tokenFile: {}}}\n", token.display()));
        let mut eyes = dir.eyes();
        assert!(Command::new("mkfifo").arg(&token).status().expect("mkfifo runs").success());
        assert_eq!(eyes.judge()[0].token, None, "a pipe must not block");
        fs::remove_file(&token).expect("the pipe");
        std::os::unix::fs::symlink("/dev/zero", &token).expect("a link");
        assert_eq!(eyes.judge()[0].token, None, "a device is not a regular file");
        fs::remove_file(&token).expect("the link");
        fs::write(&token, "x".repeat(1 << 20)).expect("a file");
        assert_eq!(eyes.judge()[0].token, None, "it is too large");
        fs::write(&token, "secret\n").expect("a file");
        let judged = eyes.look(false).expect("there is a token now");
        assert_eq!(judged[0].token, Some(Secret::new("secret")));
        assert!(eyes.look(false).is_none());
        fs::write(&token, "another").expect("a file");
        assert_eq!(eyes.look(false).expect("another token")[0].token, Some(Secret::new("another")));
    }
}
