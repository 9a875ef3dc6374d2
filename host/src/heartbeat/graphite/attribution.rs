//! Attributes a report to a fleet: the sender's address takes precedence over the name.
//!
//! 1. If the fleet's pods are checked (`heartbeat.checkPeer`), the sender's address determines the fleets with pods
//!    there. The report belongs to the one of these fleets whose head the name begins with and whose pod of that
//!    executor has this address. If two heads match, the longer one wins; one that is not followed by an executor id
//!    yields to a shorter one.
//! 2. Otherwise it belongs to a fleet that accepts reports from any address, if that fleet has the executor.
//! 3. Otherwise it is rejected. So a driver that names itself like another fleet, or like a prefix of its names, does
//!    not affect that fleet: the pods of the two have different addresses.
//!
//! A rejected report may still have been a genuine heartbeat. The fleets whose heartbeat reception it impairs
//! ([`Impairment::Unattributed`](fleet::event::Impairment)):
//!
//! | what arrives | from an address of a pod in the view | from another address |
//! |---|---|---|
//! | no line, one too long, a fleet's head without an executor id | fleets with a pod there | none |
//! | a name that matches no fleet | fleets with a pod there | none |
//! | of an executor without a known pod | none: there is no executor to lose | none |
//! | of an executor whose pod has another address | none: the pod's own reports still arrive | none |
//! | of an executor whose pod runs, at an address that is not known yet | none: it comes from another pod | that fleet |
//! | of several fleets that have such names and such a pod there (hostNetwork) | all of these | |
//! | of the driver | none | none |
//!
//! So garbage from one tenant does not impair another, unless the two share an address: pods on the host network of one
//! node cannot be told apart, and a user who may run pods there may send heartbeats for the others. The fifth row lasts
//! about a second: kubelet reports a pod's address before its containers run, and the sink's first report comes one
//! period later.

use std::net::IpAddr;
use std::sync::Arc;

use fleet::id::{ExecutorId, Uid};

use super::line::{Whose, whose};
use crate::heartbeat::Fate;
use crate::heartbeat::directory::{Directory, Fleet};
use crate::heartbeat::notes::{Why, names};

/// What a name and an address together tell about the sender.
#[derive(Debug)]
pub enum Attribution {
    Believed(Believed),
    Refused(Refused),
    /// The name begins with a fleet's head but does not continue with an executor id.
    HeadAlone,
    /// The name matches no fleet.
    Unknown,
}

#[derive(Debug)]
pub struct Believed {
    pub fleet: Arc<Fleet>,
    pub executor: ExecutorId,
    /// The pod, if the address identifies it. This does not protect against spoofing, but tells a pod from its
    /// predecessor.
    pub uid: Option<Uid>,
    /// The length of the head with its dot.
    pub length: usize,
}

#[derive(Debug)]
pub struct Refused {
    pub fate: Fate,
    pub length: usize,
    /// Notes to record for these fleets.
    pub notes: Vec<(Arc<Fleet>, Why)>,
    /// Fleets whose heartbeat reception is impaired.
    pub impairs: Vec<Arc<Fleet>>,
}

impl Refused {
    fn new(fate: Fate, length: usize) -> Refused {
        Refused { fate, length, notes: Vec::new(), impairs: Vec::new() }
    }
}

/// `peer`: canonical. `name`: the complete metric name.
pub fn attribute(directory: &Directory, peer: IpAddr, name: &[u8]) -> Attribution {
    let here = directory.at(peer);
    match of_pods(&here, peer, name) {
        Some(Ok(believed)) => return Attribution::Believed(believed),
        Some(Err(refused)) => return Attribution::Refused(refused),
        None => {}
    }
    let heads = directory.heads_of(name);
    if heads.is_empty() {
        return Attribution::Unknown;
    }
    let understood = |end: usize| whose(&name[end + 1..]).map(|(whose, length)| (whose, end + 1 + length));
    let parsed: Vec<_> = heads
        .iter()
        .filter_map(|(end, fleets)| understood(*end).map(|(whose, length)| (fleets, whose, length)))
        .collect();
    for (fleets, whose, length) in &parsed {
        let Whose::Executor(executor) = *whose else { continue };
        let knows = |fleet: &&Arc<Fleet>| !fleet.entry.check_peer && fleet.executor(executor).is_some();
        if let Some(fleet) = fleets.iter().find(knows) {
            let fleet = Arc::clone(fleet);
            return Attribution::Believed(Believed { fleet, executor, uid: None, length: *length });
        }
    }
    // The longest head with a known executor; else the longest.
    let knows = |(fleets, whose, _): &&(&Arc<[Arc<Fleet>]>, Whose, usize)| match *whose {
        Whose::Executor(executor) => fleets.iter().any(|fleet| fleet.executor(executor).is_some()),
        Whose::Driver => true,
    };
    match parsed.iter().find(knows).or(parsed.first()) {
        Some((fleets, Whose::Executor(executor), length)) => {
            Attribution::Refused(refuse(fleets, *executor, *length, here.is_empty()))
        }
        Some((_, Whose::Driver, length)) => Attribution::Refused(Refused::new(Fate::Ignored, *length)),
        None => Attribution::HeadAlone,
    }
}

/// Of the fleets that have pods at this address, the one with this executor's pod there. `None`: there is none.
fn of_pods(here: &[Arc<Fleet>], peer: IpAddr, name: &[u8]) -> Option<Result<Believed, Refused>> {
    let mut found: Vec<Believed> = Vec::new();
    for fleet in here.iter().filter(|fleet| fleet.entry.check_peer) {
        let rest = name.strip_prefix(&*fleet.head).and_then(|rest| rest.strip_prefix(b"."));
        let Some((Whose::Executor(executor), length)) = rest.and_then(whose) else { continue };
        let Some(pod) = fleet.executor(executor).filter(|pod| pod.address() == Some(peer)) else { continue };
        let length = fleet.head.len() + 1 + length;
        if found.first().is_some_and(|other| length > other.length) {
            found.clear();
        }
        if found.first().is_none_or(|other| length == other.length) {
            found.push(Believed { fleet: Arc::clone(fleet), executor, uid: Some(pod.uid), length });
        }
    }
    if found.len() < 2 {
        return found.pop().map(Ok);
    }
    let fleets = names(found.iter().map(|one| &one.fleet.name));
    let mut refused = Refused::new(Fate::Ambiguous, found[0].length);
    for Believed { fleet, executor, .. } in found {
        let why = Why::SeveralFleets { executor, fleets: fleets.clone() };
        refused.notes.push((Arc::clone(&fleet), why));
        refused.impairs.push(fleet);
    }
    Some(Err(refused))
}

/// No pod of the executor has that address. `stranger`: no pod in the view has it.
fn refuse(fleets: &[Arc<Fleet>], executor: ExecutorId, length: usize, stranger: bool) -> Refused {
    let fleets: Vec<_> = fleets.iter().filter(|fleet| fleet.entry.ids.contains(executor)).collect();
    let pods: Vec<_> = fleets.iter().map(|fleet| (*fleet, fleet.executor(executor))).collect();
    let (mut notes, mut impairs) = (Vec::new(), Vec::new());
    let all = names(fleets.iter().map(|fleet| &fleet.name));
    for (fleet, pod) in &pods {
        let pod_ip = pod.as_ref().map(|pod| pod.pod_ip);
        let why = match pod_ip {
            _ if fleets.len() > 1 => Why::NoFleetsPod { executor, fleets: all.clone() },
            None => Why::UnknownExecutor { executor },
            Some(Some(pod_ip)) => Why::WrongPeer { executor, pod_ip },
            Some(None) => Why::NoAddress { executor },
        };
        notes.push((Arc::clone(fleet), why));
        if stranger && pod.as_ref().is_some_and(|pod| pod.runs && pod.pod_ip.is_none()) {
            impairs.push(Arc::clone(fleet));
        }
    }
    let unknown = fleets.len() == 1 && pods.iter().all(|(_, pod)| pod.is_none());
    let fate = if unknown { Fate::UnknownExecutor } else { Fate::WrongPeer };
    Refused { fate, length, notes, impairs }
}

#[cfg(test)]
mod tests;
