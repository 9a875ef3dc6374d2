//! The view of the cluster: which revision is known, which lists are believed, and what is kept of pods and nodes
//! beside the table of executors.
//!
//! Everything here is level-triggered. State that is older than the known state is dropped, by revision. A pod is
//! concluded to be missing only from a complete list that is at least as new as that pod.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::backoff::{Backoff, Seed};
use crate::driver::STRANGER_AHEAD_MAX;
use crate::env::Env;
use crate::event::Relist;
use crate::executor::Executor;
use crate::id::{ActionId, ExecutorId, IdSet, Uid};
use crate::injected_bug::InjectedBug;
use crate::ledger::{Ledger, RESERVED_MAX};
use crate::observed::{NodeView, PodView};
use crate::table::ExecutorTable;
use crate::time::Instant;

/// Maximum number of pods kept before the first list: 5 KB each, 50 MB. Beyond that another list is needed.
const EARLY_MAX: usize = 10_000;
/// More pods than are deleted while one list is in flight. A deletion that does not fit is detected by the next list.
const BURIED_MAX: usize = 1_000;
/// How many missing executors of the ledger are classified at a time: 1 KB each, 1 MB.
const ABSENT_AT_ONCE: u32 = 1_000;
/// An API server replica does not lag for longer than this: a list that is still older means that the store was
/// restored from a backup.
const RESTORED_MS: u64 = 600_000;
/// Pods and the ledger may be in different stores, whose revisions cannot be compared; that is rare, and a
/// replica that lags for longer than this is rarer.
const OTHER_STORE_MS: u64 = 90_000;
/// A replica of the API server may lag for a few seconds; lists that stay older than the known state for longer
/// than this are reported.
const PAST_TOLD_MS: u64 = 15_000;

#[derive(Debug)]
pub(crate) struct ClusterView {
    pub fresh: bool,
    /// The newest revision seen.
    revision: u64,
    /// That of the last list that was used.
    listed: u64,
    /// Pods that were reported before the first list, by UID, each with whether it is gone.
    early: BTreeMap<Uid, (PodView, bool)>,
    /// The latest deleted pods, with the revisions of their deletion: a list in flight may be older.
    buried: VecDeque<(Uid, u64)>,
    relist: Relisting,
    /// The highest id seen before the ledger was claimed.
    witness: ExecutorId,
    /// Executors of the ledger that the first list did not contain, and that were not processed yet.
    absent: IdSet,
    nodes: BTreeMap<Box<str>, NodeView>,
}

#[derive(Debug)]
struct Relisting {
    action: Option<ActionId>,
    due: Option<Instant>,
    backoff: Backoff,
    /// Since when every list has been older than the known state.
    past_since: Option<Instant>,
    /// The revision of the last such list, once it was reported to users.
    past_told: Option<u64>,
}

/// Whether a list may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Belief {
    pub believed: bool,
    /// The store was restored from a backup: revisions that were seen mean nothing any more.
    pub restored: bool,
}

impl ClusterView {
    pub(crate) fn new() -> ClusterView {
        ClusterView {
            fresh: true,
            revision: 0,
            listed: 0,
            early: BTreeMap::new(),
            buried: VecDeque::new(),
            relist: Relisting {
                action: None,
                due: None,
                backoff: Backoff::new(500, 30_000),
                past_since: None,
                past_told: None,
            },
            witness: ExecutorId(0),
            absent: IdSet::default(),
            nodes: BTreeMap::new(),
        }
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn saw(&mut self, revision: u64) {
        self.revision = self.revision.max(revision);
    }

    /// The store was restored, or the record that named the revision is discarded.
    pub(crate) fn forget_revisions(&mut self) {
        (self.revision, self.listed) = (0, 0);
        self.buried.clear();
    }

    // -------------------------------------------------------------------------------------- lists --

    /// May the list be used? `claimed`: the revision of the ledger's claim, if this is the first list.
    pub(crate) fn believes(&mut self, list: &Relist, claimed: Option<u64>, env: Env<'_>) -> Belief {
        let trusting = env.has_bug(InjectedBug::OldListBelieved);
        let mut restored = false;
        // Two lists may be in flight. A pod that the newer one showed to be foreign is not remembered, so the older one
        // must not be used after it.
        let known = list.known.max(self.listed);
        if list.revision < self.revision.min(known) && !trusting {
            // From a replica that lags: the list shows an earlier state.
            if !self.believes_past(RESTORED_MS, env.instant()) {
                return Belief { believed: false, restored };
            }
            restored = true;
        }
        // Pods of earlier leaders were created before our claim: a list that is older than the claim may lack them.
        let older = claimed.is_some_and(|claimed| list.revision < claimed) && !trusting;
        let believed = !older || self.believes_past(OTHER_STORE_MS, env.instant());
        if believed {
            self.listed = list.revision;
        }
        Belief { believed, restored }
    }

    /// May a list that is older than the known state be trusted? Not if a replica merely lags. But if no newer
    /// list arrives for this long, the store was restored from a backup.
    fn believes_past(&mut self, after_ms: u64, now: Instant) -> bool {
        let since = *self.relist.past_since.get_or_insert(now);
        now.since_ms(since) > after_ms
    }

    /// Request a list now.
    pub(crate) fn relist_now(&mut self, now: Instant) {
        self.relist.due = Some(now);
    }

    pub(crate) fn relist_again(&mut self, now: Instant, seed: &mut Seed) {
        self.relist.action = None;
        self.relist.due = Some(now + self.relist.backoff.failed_ms(seed));
    }

    pub(crate) fn relist_done(&mut self) {
        (self.relist.past_since, self.relist.past_told) = (None, None);
        self.relist.action = None;
        self.relist.due = None;
        self.relist.backoff.reset();
    }

    /// Is a list due? Then it has to be requested.
    pub(crate) fn take_due(&mut self, now: Instant) -> bool {
        self.relist.due.take_if(|due| *due <= now).is_some()
    }

    pub(crate) fn relist_requested(&mut self, action: ActionId) {
        self.relist.action = Some(action);
    }

    pub(crate) fn awaits(&self, action: ActionId) -> bool {
        self.relist.action == Some(action)
    }

    pub(crate) fn relist_due(&self) -> Option<Instant> {
        self.relist.due
    }

    /// Have all lists been older than the known state for a while?
    pub(crate) fn sees_past(&self) -> bool {
        self.relist.past_since.is_some()
    }

    /// A first list is older than the known state: the ledger may be newer than the cluster. Returns whether that
    /// has to be reported.
    pub(crate) fn first_list_past(&mut self, revision: u64, now: Instant) -> bool {
        let since_ms = self.relist.past_since.map_or(0, |since| now.since_ms(since));
        since_ms > PAST_TOLD_MS && self.relist.past_told.replace(revision).is_none()
    }

    /// The revision of the last list that was older than the known state, once that was reported.
    pub(crate) fn past_told(&self) -> Option<u64> {
        self.relist.past_told
    }

    // --------------------------------------------------------------------------------------- pods --

    /// A pod reported before the first list. Also kept if it is not ours, because that may change.
    pub(crate) fn early(&mut self, pod: PodView, gone: bool) {
        self.saw(pod.revision);
        let known = self.early.get(&pod.uid).map_or(0, |(known, _)| known.revision);
        if known < pod.revision && self.early.len() < EARLY_MAX {
            self.early.insert(pod.uid.clone(), (pod, gone));
        }
    }

    /// The early pods that are newer than the first list, and whether some did not fit.
    pub(crate) fn take_early(&mut self, revision: u64) -> (Vec<(PodView, bool)>, bool) {
        let early = std::mem::take(&mut self.early);
        let overflowed = early.len() >= EARLY_MAX;
        (early.into_values().filter(|(pod, _)| pod.revision > revision).collect(), overflowed)
    }

    /// A pod was deleted.
    pub(crate) fn bury(&mut self, pod: &PodView) {
        if self.buried.len() == BURIED_MAX {
            self.buried.pop_front();
        }
        self.buried.push_back((pod.uid.clone(), pod.revision));
    }

    /// Was the pod deleted after this state of it?
    pub(crate) fn is_buried(&self, pod: &PodView) -> bool {
        self.buried.iter().any(|(uid, revision)| *uid == pod.uid && *revision >= pod.revision)
    }

    /// The highest id in use. Counts every pod that matches the naming pattern of executor pods, regardless of
    /// its owner.
    pub(crate) fn highest_named(pods: &[PodView], reserved: ExecutorId, env: Env<'_>) -> ExecutorId {
        // A pod of another owner must not use up the ids with its name.
        let near = reserved.0.saturating_add(STRANGER_AHEAD_MAX);
        let named = pods.iter().filter(|pod| {
            let known = pod.executor.0 <= near || env.is_ours(pod) && pod.executor.0 <= RESERVED_MAX;
            env.owns() && known && env.spec.is_pod_name(&pod.name, pod.executor)
        });
        named.map(|pod| pod.executor).max().unwrap_or_default()
    }

    /// Executors were seen before the ledger was claimed: their ids are taken.
    pub(crate) fn witnessed(&mut self, highest: ExecutorId) {
        self.witness = self.witness.max(highest);
    }

    pub(crate) fn witness(&self) -> ExecutorId {
        self.witness
    }

    // ------------------------------------------------------------------------------------- absent --

    /// Finds executors that are in the ledger but not in the first list: they ended while no host was watching.
    pub(crate) fn find_absent(&mut self, listed: &[ExecutorId], ledger: &Ledger, table: &ExecutorTable) {
        let mut absent = ledger.born.clone();
        for id in listed.iter().copied().chain(table.iter().map(|(id, _)| id)) {
            absent.remove(id);
        }
        self.absent = absent;
    }

    /// A missing executor to process, if there is room for it: a record may name many more than ever existed.
    pub(crate) fn next_absent(&mut self, table: &ExecutorTable) -> Option<ExecutorId> {
        if self.has_absent(table) { self.absent.pop_first() } else { None }
    }

    /// Is there a missing executor to classify, and room for it?
    pub(crate) fn has_absent(&self, table: &ExecutorTable) -> bool {
        !self.absent.is_empty() && table.tally().reason_pending < ABSENT_AT_ONCE
    }

    pub(crate) fn absent_len(&self) -> u64 {
        self.absent.len()
    }

    pub(crate) fn not_absent(&mut self, id: ExecutorId) {
        self.absent.remove(id);
    }

    // -------------------------------------------------------------------------------------- nodes --

    /// A node that is gone is kept as long as an executor on it may be classified as lost with it.
    pub(crate) fn node_changed(&mut self, node: NodeView, active: bool, table: &ExecutorTable) {
        let gone = node.state.gone && active;
        if gone && !table.iter().any(|(_, executor)| executor.node() == Some(&node.state.name)) {
            self.nodes.remove(&*node.state.name);
        } else {
            self.nodes.insert(node.state.name.as_str().into(), node);
        }
    }

    /// Forgets nodes that are gone with all of their executors.
    pub(crate) fn prune_nodes(&mut self, table: &ExecutorTable) {
        if self.nodes.values().any(|node| node.state.gone) {
            let used: BTreeSet<&str> = table.iter().filter_map(|(_, executor)| executor.node()).collect();
            self.nodes.retain(|name, node| !node.state.gone || used.contains(&**name));
        }
    }

    pub(crate) fn node(&self, name: &str) -> Option<&NodeView> {
        self.nodes.get(name)
    }

    /// The executor's node.
    pub(crate) fn node_of(&self, executor: &Executor) -> Option<&NodeView> {
        executor.node().and_then(|node| self.nodes.get(node))
    }

    /// Number of nodes that are not gone.
    pub(crate) fn nodes_len(&self) -> usize {
        self.nodes.values().filter(|node| !node.state.gone).count()
    }
}

/// Known executors whose pods the list should contain, and does not. `listed`: the ids in it, sorted.
pub(crate) fn missing(revision: u64, listed: &[ExecutorId], table: &ExecutorTable) -> Vec<ExecutorId> {
    let missing = |(id, executor): (ExecutorId, &Executor)| {
        let known = executor.pod.as_ref().filter(|_| !executor.gone)?;
        (known.revision <= revision && listed.binary_search(&id).is_err()).then_some(id)
    };
    table.iter().filter_map(missing).collect()
}
