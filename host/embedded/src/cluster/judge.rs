//! Watches what is done to executors, and keeps its own account of forbidden states.

use std::collections::BTreeMap;

use fleet::id::{ExecutorId, IdSet};

use super::{Cluster, executor_of, uid};
use crate::server::eviction::is_ready;
use crate::server::{Deletion, Server};

/// Judges the executors of one application. Create it before the first of them.
pub struct Judge {
    server: Server,
    app_id: String,
    ceiling: usize,
    floor: usize,
    seen: u64,
    deletions_seen: u64,
    ids: IdSet,
    /// By UID: is it ready? Only those that have not ended.
    live: BTreeMap<String, bool>,
    above: bool,
}

impl Judge {
    /// Objects to more than `ceiling` live executors, and to the deletion of a healthy one by a client when
    /// that leaves fewer than `floor` ready ones.
    pub fn new(server: Server, app_id: &str, ceiling: usize, floor: usize) -> Judge {
        let (_, deletions_seen) = server.deletions(u64::MAX);
        Judge {
            server,
            app_id: app_id.to_owned(),
            ceiling,
            floor,
            seen: 0,
            deletions_seen,
            ids: IdSet::default(),
            live: BTreeMap::new(),
            above: false,
        }
    }

    /// The violations since the last call, in order. Call it after each [`Cluster::advance`]. Deletions with
    /// `kubectl` are allowed.
    pub fn look(&mut self, cluster: &Cluster) -> Vec<String> {
        let mut wrong = Vec::new();
        let (deletions, deletions_seen) = self.server.deletions(self.deletions_seen);
        if deletions.len() as u64 != deletions_seen - self.deletions_seen {
            wrong.push("some deletions went by unseen: look more often".to_owned());
        }
        self.deletions_seen = deletions_seen;
        let mut deletions = deletions.iter().peekable();
        let (revision, changes) = self.server.changes("pods", self.seen);
        self.seen = revision;
        let Some(changes) = changes else {
            wrong.push("some changes went by unseen: look more often".to_owned());
            // Rebuild from the current state.
            self.live.clear();
            for pod in self.server.list("pods") {
                self.note(&pod, &mut wrong);
            }
            return wrong;
        };
        for change in changes {
            while let Some(deletion) = deletions.next_if(|deletion| deletion.revision < change.revision) {
                self.deletion(deletion, cluster, &mut wrong);
            }
            match (&change.before, &change.after) {
                (None, Some(pod)) => {
                    self.born(pod, &mut wrong);
                    self.note(pod, &mut wrong);
                }
                (_, Some(pod)) => self.note(pod, &mut wrong),
                (Some(pod), None) => drop(self.live.remove(uid(pod))),
                (None, None) => {}
            }
        }
        for deletion in deletions {
            self.deletion(deletion, cluster, &mut wrong);
        }
        wrong
    }

    fn born(&mut self, pod: &serde_json::Value, wrong: &mut Vec<String>) {
        let Some((_, id)) = self.ours(pod) else { return };
        let name = &pod["metadata"]["name"];
        match id.parse() {
            Ok(number) if self.ids.insert(ExecutorId(number)) => {}
            Ok(number) => wrong.push(format!("executor id {number} was used again, by pod {name}")),
            Err(_) => wrong.push(format!("pod {name} has the executor id {id:?}, which is no number")),
        }
    }

    fn note(&mut self, pod: &serde_json::Value, wrong: &mut Vec<String>) {
        if self.ours(pod).is_none() || matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
        {
            self.live.remove(uid(pod));
        } else {
            self.live.insert(uid(pod).to_owned(), is_ready(pod));
        }
        let above = self.live.len() > self.ceiling;
        if above && !self.above {
            wrong.push(format!("{} executors are live; {} are allowed", self.live.len(), self.ceiling));
        }
        self.above = above;
    }

    fn deletion(&self, deletion: &Deletion, cluster: &Cluster, wrong: &mut Vec<String>) {
        let pod = &*deletion.pod;
        if self.ours(pod).is_none() || deletion.agent.starts_with("kubectl") {
            return;
        }
        let name = &pod["metadata"]["name"];
        if deletion.uid_precondition.is_none() {
            wrong.push(format!("pod {name} was deleted without a precondition on its UID"));
        }
        let ready = self.live.values().filter(|ready| **ready).count();
        let left = ready.saturating_sub(1);
        if is_ready(pod) && left < self.floor && cluster.is_well(uid(pod)) == Some(true) {
            let floor = self.floor;
            wrong.push(format!("pod {name} was healthy and deleted; {left} are left, {floor} were needed"));
        }
    }

    fn ours<'a>(&self, pod: &'a serde_json::Value) -> Option<(&'a str, &'a str)> {
        executor_of(pod).filter(|(app, _)| *app == self.app_id)
    }
}
