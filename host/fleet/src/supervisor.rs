//! All fleets of one host: which there are, which of them have a core, and what each is told of the cluster.
//!
//! *Intuition.* A fleet's core begins with its driver's pod: the driver's UID owns every executor's pod, its application
//! id labels them, and executors register at its address. So a document alone is no fleet. It says which pod to look
//! for; when that pod is found, a *life* of the fleet begins, with a core of its own; another driver pod is another
//! application, and another life. Everything in flight for an earlier life is discarded by its number.
//!
//! *Rules.* Only a leader looks for drivers and has lives, and it asks its [`Election`] before each step. A document is
//! in force as a whole or not at all: an invalid one changes nothing while an earlier one was valid, and one whose
//! validity is not known yet waits. A list of pods is asked for when the watch has started, because only changes after
//! that are delivered; if the watch starts again while a list is in flight, that list may miss changes, and another
//! follows. A view is fresh when a list was answered and its watch is up at that moment. A driver is looked for until it
//! is found, also while the watch would report it: it may get what it lacks, an address for instance, during a gap of
//! the watch. Of two fleets that claim one name, the better [`Claim`] has it.
//!
//! *Rejected.* A supervisor that translates: what a pod looks like in JSON, how a template becomes a pod, and where
//! heartbeats are accepted is the caller's. It is told what to do by [`Output`]s, in order, and documents are named by
//! their version.

use std::collections::{BTreeMap, BTreeSet};

use crate::action::Verb;
use crate::election::{Election, ElectionEvent, StopCause};
use crate::event::{Command, Event, Relist};
use crate::id::{CommandId, IdRange};
use crate::identity::{Claim, Identity};
use crate::injected_bug::InjectedBug;
use crate::observed::DriverPod;
use crate::spec::ValidatedSpec;
use crate::standstill::Standstill;
use crate::time::{Instant, Now};
use crate::{Fleet, spec};

mod claims;
mod document;
mod leadership;
mod managed;
mod message;
mod queries;
#[cfg(test)]
mod tests;

use claims::{Beaten, Contention, contend, held, lost};
pub use document::{Document, Judged};
use managed::{Followed, Listing, Seeking};
pub use managed::{Life, Managed};
#[cfg(feature = "injected-bugs")]
pub use message::Told;
pub use message::{Input, News, NotCommanded, OWN_LIST, Output};

/// How often a missing driver pod is looked for.
pub const DRIVER_RETRY_MS: u64 = 5_000;
/// Delay before a failed list is retried.
const LIST_RETRY_MS: u64 = 2_000;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Fleet(u64),
    List(u64),
    Seek(String),
}

/// All fleets of one host: which live, and what each is told.
#[derive(Debug)]
pub struct Supervisor {
    now: Now,
    /// `None`: there is no Lease, and this host always leads.
    election: Option<Election>,
    /// Since it leads.
    term: Option<u64>,
    stopped: Option<StopCause>,
    standstill: Standstill,
    fleets: BTreeMap<String, Managed>,
    /// Names of fleets, by the number of their life.
    lives: BTreeMap<u64, String>,
    /// Lives, by namespace, application id and their executors' ids.
    applications: BTreeMap<(String, String, IdRange), u64>,
    timers: BTreeSet<(Instant, Timer)>,
    /// Watched namespaces, and whether the watch is up.
    watches: BTreeMap<String, bool>,
    seed: u64,
    lives_begun: u64,
    /// A fleet asked to have the Lease read.
    doubts: bool,
    out: Vec<Output>,
    #[cfg(feature = "injected-bugs")]
    bug: Option<InjectedBug>,
    #[cfg(feature = "injected-bugs")]
    told: Vec<Told>,
}

impl Supervisor {
    /// Without an election this host leads at once. No other process may use the same seed.
    pub fn new(election: Option<Election>, seed: u64) -> Supervisor {
        Supervisor {
            now: Now::default(),
            election,
            term: None,
            stopped: None,
            standstill: Standstill::new(Instant::START),
            fleets: BTreeMap::new(),
            lives: BTreeMap::new(),
            applications: BTreeMap::new(),
            timers: BTreeSet::new(),
            watches: BTreeMap::new(),
            seed,
            lives_begun: 0,
            doubts: false,
            out: Vec::new(),
            #[cfg(feature = "injected-bugs")]
            bug: None,
            #[cfg(feature = "injected-bugs")]
            told: Vec::new(),
        }
    }

    /// Applies an input and returns what to do now. `now` must not go back.
    pub fn step(&mut self, input: Input, now: Now) -> Vec<Output> {
        self.now = Now { instant: self.now.instant.max(now.instant), ..now };
        // A process that stood still finds out that it leads no more, before it does anything else.
        if self.term.is_some() && !self.leads() {
            self.elect(ElectionEvent::Deadline);
        }
        self.excuse_standstill();
        self.take(input);
        while std::mem::take(&mut self.doubts) {
            self.elect(ElectionEvent::Doubt);
        }
        std::mem::take(&mut self.out)
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Deadline => self.deadline_reached(),
            Input::Election(event) => self.elect(event),
            Input::Documents(judged) => self.documents(judged),
            Input::WatchStarted { namespace } => self.watch_started(namespace),
            Input::WatchBroken { namespace } => self.watch_broken(namespace),
            Input::Driver { namespace, driver } => self.driver_changed(&namespace, &driver),
            Input::DriverFound { fleet, namespace, pod, found } => {
                self.driver_found(&fleet, (&namespace, &pod), found);
            }
            Input::Listed { life, list } => self.listed(life, list),
            Input::Fleet { life, event } => self.tell(life, event),
            Input::Command { fleet, command, verb } => self.command(&fleet, command, verb),
        }
    }

    // ------------------------------------------------------------------------------------ documents --

    fn documents(&mut self, judged: Vec<Judged>) {
        let named: BTreeSet<&str> = judged.iter().map(|judged| &*judged.document.fleet).collect();
        for name in self
            .fleets
            .keys()
            .cloned()
            .collect::<Vec<_>>()
            .into_iter()
            .filter(|name| !named.contains(&**name))
        {
            self.news(&name, News::Removed);
            self.end(&name);
            self.fleets.remove(&name);
        }
        for judged in judged {
            self.document(judged);
        }
        let heartbeats = self.fleets.values().map(|managed| &managed.document.spec.heartbeat);
        self.standstill.follow(heartbeats.filter(|spec| !spec.disabled).map(|spec| spec.timeout_ms).min());
    }

    fn document(&mut self, judged: Judged) {
        let name = judged.document.fleet.clone();
        let bugs = self.bugs();
        let Some(managed) = self.fleets.get_mut(&name) else {
            let version = judged.document.version;
            self.fleets.insert(name.clone(), Managed::new(judged));
            self.news(&name, News::InForce { version });
            return self.seek(&name);
        };
        match managed.follow(judged, bugs) {
            Followed::Nothing => {}
            Followed::Refused(problems) => {
                self.news(&name, News::Refused { problems });
                self.show_refused(&name);
            }
            Followed::InForce { version, moved } => {
                self.news(&name, News::InForce { version });
                if moved {
                    self.end(&name);
                    self.seek(&name);
                } else {
                    self.respec(&name);
                }
            }
        }
    }

    /// Passes a document that the core rejects to the core, whose condition then shows it. A document that is rejected
    /// for another reason is not passed, because the core would accept it.
    fn show_refused(&mut self, name: &str) {
        let Some(managed) = self.fleets.get(name) else { return };
        let (Some(life), Some(refused)) = (&managed.life, &managed.refused) else { return };
        let application_id = refused.document.application_id.as_deref().unwrap_or(&life.application_id);
        let spec = Box::new(refused.document.spec_for(&life.driver, application_id));
        let (number, policies) = (life.number, refused.policies.clone());
        if ValidatedSpec::check((*spec).clone(), &policies).is_err() {
            self.tell(number, Event::SpecChanged { spec, policies });
        }
    }

    /// Another document, or other policies.
    fn respec(&mut self, name: &str) {
        if self.fleets.get(name).is_none_or(|managed| managed.life.is_none()) {
            return self.seek(name);
        }
        self.place(name);
        let Some(managed) = self.fleets.get(name) else { return };
        let Some(life) = &managed.life else { return };
        let spec = Box::new(managed.document.spec_for(&life.driver, &life.application_id));
        self.tell(life.number, Event::SpecChanged { spec, policies: managed.policies.clone() });
    }

    /// Applies the document in force and the driver's pod to how executors are created and where their heartbeats are
    /// accepted.
    fn place(&mut self, name: &str) {
        let Some((managed, life)) = self.alive(name) else { return };
        let number = life.number;
        let claim = managed.document.claim(&life.driver);
        let identity = match managed.document.identity(&life.application_id) {
            Ok(identity) => identity,
            Err(error) => return self.news(name, News::Ambiguous(error)),
        };
        let creates = managed.document.can_create(&life.driver);
        match self.claim(name, &identity, &claim) {
            Ok(beaten) => {
                let Some(managed) = self.fleets.get_mut(name) else { return };
                let Some(life) = &mut managed.life else { return };
                (life.identity, life.claim) = (identity, claim.clone());
                let (version, driver) = (managed.document.version, life.driver.clone());
                let fleet = name.to_owned();
                self.out.push(Output::Place { life: number, fleet, version, driver, claim });
                self.concede(name, beaten);
            }
            Err(lost) => {
                self.end(name);
                return self.give_way(name, lost);
            }
        }
        if let Err(why) = creates {
            // Runs again when the pod has an address.
            self.news(name, News::CreatesAsBefore(why));
        }
    }

    fn alive(&self, name: &str) -> Option<(&Managed, &Life)> {
        let managed = self.fleets.get(name)?;
        Some((managed, managed.life.as_ref()?))
    }

    // -------------------------------------------------------------------------------------- drivers --

    /// Looks for the driver's pod, and watches its namespace.
    fn seek(&mut self, name: &str) {
        let leads = self.leads() || self.has_bug(InjectedBug::StandbyBegins);
        let Some(managed) = self.fleets.get_mut(name) else { return };
        if !leads || managed.life.is_some() || managed.seeking != Seeking::No {
            return;
        }
        managed.seeking = Seeking::Asked;
        let namespace = managed.document.namespace.clone();
        self.find_driver(name);
        if !self.watches.contains_key(&namespace) {
            self.watches.insert(namespace.clone(), false);
            self.out.push(Output::Watch { namespace });
        }
    }

    fn find_driver(&mut self, name: &str) {
        let Some(managed) = self.fleets.get(name) else { return };
        let Document { namespace, driver_pod, .. } = &managed.document;
        let (namespace, pod) = (namespace.clone(), driver_pod.clone());
        self.out.push(Output::FindDriver { fleet: name.to_owned(), namespace, pod });
    }

    fn driver_found(&mut self, name: &str, asked: (&str, &str), found: Result<Option<DriverPod>, String>) {
        if !self.leads() && !self.has_bug(InjectedBug::StandbyBegins) {
            return;
        }
        let Some(managed) = self.fleets.get_mut(name) else { return };
        let document = &managed.document;
        if asked == (&*document.namespace, &*document.driver_pod) {
            let lives = managed.life.is_some();
            match found {
                Ok(Some(driver)) => self.driver_is(name, &driver),
                // A list reports that the driver is gone, with the revision at which it was.
                Ok(None) | Err(_) if lives => {}
                Ok(None) => {
                    managed.looked = true;
                    let (pod, namespace) = (&document.driver_pod, &document.namespace);
                    let why = format!("there is no pod {pod} in namespace {namespace}");
                    self.wait(name, why);
                }
                Err(why) => {
                    let why = format!("driver pod {}: {why}", document.driver_pod);
                    self.wait(name, why);
                }
            }
        }
        self.seek_later(name);
    }

    /// Without a core, the driver's pod is looked for again, also while the watch would report it.
    fn seek_later(&mut self, name: &str) {
        if self.has_bug(InjectedBug::DriverSoughtOnce) {
            return;
        }
        let due = self.now.instant + DRIVER_RETRY_MS;
        let Some(managed) = self.fleets.get_mut(name) else { return };
        if managed.life.is_none() && !matches!(managed.seeking, Seeking::Due(_)) {
            managed.seeking = Seeking::Due(due);
            self.timers.insert((due, Timer::Seek(name.to_owned())));
        }
    }

    fn driver_changed(&mut self, namespace: &str, driver: &DriverPod) {
        let whose = |managed: &&Managed| {
            let document = &managed.document;
            document.namespace == namespace && *document.driver_pod == *driver.name
        };
        let names: Vec<String> =
            self.fleets.values().filter(whose).map(|managed| managed.name().to_owned()).collect();
        for name in names {
            self.driver_is(&name, driver);
            self.seek(&name);
        }
    }

    /// The current driver pod: begins the core of a fleet that has none, and ends that of a fleet whose driver was
    /// replaced.
    fn driver_is(&mut self, name: &str, driver: &DriverPod) {
        if !self.leads() && !self.has_bug(InjectedBug::StandbyBegins) {
            return;
        }
        let bugs = self.bugs();
        let Some(managed) = self.fleets.get_mut(name) else { return };
        if let Some(life) = &mut managed.life {
            if life.driver.uid == driver.uid || bugs.has(InjectedBug::DriversAlike) {
                let (number, revision) = (life.number, driver.revision);
                // The answer may be older than the events that the watch has delivered meanwhile.
                if revision >= life.driver.revision {
                    let moved = driver.address.is_some() && driver.address != life.driver.address;
                    life.driver = driver.clone();
                    if moved && !bugs.has(InjectedBug::MoveUntold) {
                        self.place(name);
                    }
                }
                return self.tell(number, Event::DriverChanged { driver: driver.view(), revision });
            }
            let older = driver.revision < life.driver.revision;
            if !driver.live || older && !bugs.has(InjectedBug::OldDriverBelieved) {
                return;
            }
            self.news(name, News::AnotherDriver);
            self.end(name);
        }
        if driver.live {
            if let Err(why) = self.begin(name, driver) {
                self.wait(name, why);
            }
        } else {
            self.wait(name, format!("driver pod {} has ended or is being deleted", driver.name));
        }
    }

    /// The error says what is missing.
    fn begin(&mut self, name: &str, driver: &DriverPod) -> Result<(), String> {
        let term = if self.has_bug(InjectedBug::StandbyBegins) { Some(1) } else { self.term };
        let (Some(term), Some(managed)) = (term, self.fleets.get(name)) else { return Ok(()) };
        let document = &managed.document;
        let application_id = document.application_id_of(driver)?;
        document.can_create(driver)?;
        let number = self.lives_begun + 1;
        let spec = document.spec_for(driver, &application_id);
        let fleet = Fleet::new(spec, &managed.policies, self.seed ^ self.lives_begun);
        let fleet = fleet
            .map_err(|errors| errors.iter().map(spec::SpecError::to_string).collect::<Vec<_>>().join("; "))?;
        let (identity, claim) = (document.identity(&application_id)?, document.claim(driver));
        let beaten = match self.claim(name, &identity, &claim) {
            Ok(beaten) => beaten,
            Err(lost) => {
                self.give_way(name, lost);
                return Ok(());
            }
        };
        self.lives_begun = number;
        #[cfg(feature = "injected-bugs")]
        let fleet = fleet.with(self.bug);
        let Some(managed) = self.fleets.get_mut(name) else { return Ok(()) };
        (managed.seeking, managed.good, managed.contested) = (Seeking::No, true, false);
        managed.life = Some(Life {
            number,
            fleet,
            driver: driver.clone(),
            application_id: application_id.clone(),
            identity,
            claim: claim.clone(),
            still: false,
            armed: Instant::NEVER,
            listing: Listing::No,
            listed: false,
        });
        let (version, namespace) = (managed.document.version, managed.document.namespace.clone());
        let executors = (namespace.clone(), application_id.clone(), managed.document.spec.ids);
        self.lives.insert(number, name.to_owned());
        self.applications.insert(executors, number);
        self.news(name, News::Began { application_id: application_id.clone() });
        let (fleet, driver) = (name.to_owned(), driver.clone());
        self.out.push(Output::Begin { life: number, fleet, version, application_id, driver, claim });
        self.concede(name, beaten);
        self.tell(number, Event::LeadershipGained { term });
        self.show_refused(name);
        if self.watches.get(&namespace) == Some(&true) {
            self.list(number);
        } else if !self.has_bug(InjectedBug::BeginsFresh) {
            self.tell(number, Event::ViewStale);
        }
        Ok(())
    }

    /// Ends the fleet's core; the pods belong to its driver and end with it.
    fn end(&mut self, name: &str) {
        let Some(managed) = self.fleets.get_mut(name) else { return };
        if let Seeking::Due(at) = managed.seeking {
            self.timers.remove(&(at, Timer::Seek(name.to_owned())));
        }
        managed.seeking = Seeking::No;
        let Some(life) = managed.life.take() else { return };
        if !self.has_bug(InjectedBug::EndedLifeTold) {
            self.lives.remove(&life.number);
        }
        self.applications.retain(|_, number| *number != life.number);
        self.timers
            .retain(|(_, timer)| !matches!(timer, Timer::Fleet(of) | Timer::List(of) if *of == life.number));
        self.out.push(Output::End { life: life.number, fleet: name.to_owned() });
    }

    fn wait(&mut self, name: &str, why: String) {
        let Some(managed) = self.fleets.get_mut(name) else { return };
        managed.contested = false;
        if managed.waits != why {
            managed.waits.clone_from(&why);
            self.news(name, News::Waits(why));
        }
    }

    // --------------------------------------------------------------------------------------- claims --

    /// Ends the fleets that this one outranks, and returns them; or returns the message of this one, which waits.
    fn claim(&mut self, name: &str, identity: &Identity, claim: &Claim) -> Result<Vec<Beaten>, String> {
        let others = self.fleets.values().filter(|managed| managed.name() != name);
        let lives = others.filter_map(|managed| Some((managed.name(), managed.life()?)));
        match contend(identity, claim, lives) {
            Contention::Lost { to, contest, advantage } => {
                self.news(&to, News::Contested(held(name, &contest, advantage)));
                Err(lost(&contest, advantage))
            }
            Contention::Won(beaten) => {
                for Beaten { fleet, .. } in &beaten {
                    self.end(fleet);
                }
                Ok(beaten)
            }
        }
    }

    /// These fleets give way to this one; both report it.
    fn concede(&mut self, name: &str, beaten: Vec<Beaten>) {
        for Beaten { fleet, contest, advantage } in beaten {
            self.news(name, News::Contested(held(&fleet, &contest, advantage)));
            self.give_way(&fleet, lost(&contest.with(name), advantage));
        }
    }

    /// The fleet has no core, because another has the better claim, and retries.
    fn give_way(&mut self, name: &str, why: String) {
        let Some(managed) = self.fleets.get_mut(name) else { return };
        managed.contested = true;
        if managed.waits != why {
            managed.waits.clone_from(&why);
            self.news(name, News::GivesWay(why));
        }
        self.seek_later(name);
    }

    // -------------------------------------------------------------------------------------- watches --

    fn watch_started(&mut self, namespace: String) {
        for life in self.lives_in(&namespace) {
            // The pod of another driver may have been created during the gap.
            if let Some(name) = self.lives.get(&life).cloned() {
                self.find_driver(&name);
            }
            self.list(life);
        }
        self.watches.insert(namespace, true);
    }

    fn watch_broken(&mut self, namespace: String) {
        let told = if self.has_bug(InjectedBug::BreakTellsOne) { 1 } else { usize::MAX };
        for life in self.lives_in(&namespace).into_iter().take(told) {
            self.tell(life, Event::ViewStale);
        }
        self.watches.insert(namespace, false);
    }

    fn lives_in(&self, namespace: &str) -> Vec<u64> {
        let within = self.applications.iter().filter(|((of, ..), _)| of == namespace);
        within.map(|(_, life)| *life).collect()
    }

    /// Lists all pods once the watch that delivers later changes is up.
    fn list(&mut self, number: u64) {
        let Some(life) = self.life_mut(number) else { return };
        if life.listing != Listing::No {
            life.listing = Listing::Asked { again: true };
            return;
        }
        life.listing = Listing::Asked { again: false };
        let known = life.fleet.revision();
        self.out.push(Output::List { life: number, known });
    }

    fn listed(&mut self, number: u64, list: Option<Relist>) {
        let Some(life) = self.life_mut(number) else { return };
        let Listing::Asked { again } = std::mem::replace(&mut life.listing, Listing::No) else { return };
        let Some(list) = list else {
            let due = self.now.instant + LIST_RETRY_MS;
            self.timers.insert((due, Timer::List(number)));
            return;
        };
        life.listed = true;
        self.tell(number, Event::Relisted(list));
        let Some(namespace) = self.fleet_of(number).map(Managed::namespace) else { return };
        let up = self.watches.get(namespace) == Some(&true) || self.has_bug(InjectedBug::BrokenIsFresh);
        if again {
            self.list(number);
        } else if up {
            self.tell(number, Event::ViewFresh);
        }
    }

    // --------------------------------------------------------------------------------------- fleets --

    fn life_mut(&mut self, number: u64) -> Option<&mut Life> {
        self.fleets.get_mut(self.lives.get(&number)?)?.life.as_mut()
    }

    /// One step of a fleet. An event for an earlier life is discarded.
    fn tell(&mut self, number: u64, event: Event) {
        if self.stopped.is_some() {
            return;
        }
        let now = self.now;
        #[cfg(feature = "injected-bugs")]
        self.trace(number, &event);
        let Some(life) = self.life_mut(number) else { return };
        let revision = life.fleet.revision();
        let actions = life.fleet.step(event, now);
        if life.fleet.revision() < revision {
            // The store was restored from a backup: a later driver may have a lower revision.
            life.driver.revision = 0;
        }
        let still = life.fleet.stands_still();
        let changed = std::mem::replace(&mut life.still, still) != still;
        let at = life.fleet.deadline().map_or(Instant::NEVER, |(at, _)| at);
        let before = std::mem::replace(&mut life.armed, at);
        if at != before {
            self.timers.remove(&(before, Timer::Fleet(number)));
            if at < Instant::NEVER {
                self.timers.insert((at, Timer::Fleet(number)));
            }
        }
        if changed {
            self.out.push(Output::Still { life: number, still });
        }
        for action in actions {
            // Only the Lease ends the process: the ledger belongs to one fleet and its tenant.
            if action.verb == Verb::CheckLease {
                self.doubts = true;
            } else {
                self.out.push(Output::Act { life: number, action });
            }
        }
    }

    fn deadline_reached(&mut self) {
        let now = self.now.instant;
        if self.election_deadline().is_some_and(|at| at <= now) {
            self.elect(ElectionEvent::Deadline);
        }
        let mut due = Vec::new();
        while let Some((at, timer)) = self.timers.pop_first() {
            if at > now {
                self.timers.insert((at, timer));
                break;
            }
            due.push(timer);
        }
        for timer in due {
            match timer {
                Timer::Fleet(life) => {
                    // It is registered again with its next deadline.
                    if let Some(life) = self.life_mut(life) {
                        life.armed = Instant::NEVER;
                    }
                    self.tell(life, Event::Deadline);
                }
                Timer::List(life) => self.list(life),
                Timer::Seek(name) => {
                    if let Some(managed) = self.fleets.get_mut(&name) {
                        managed.seeking = Seeking::No;
                        self.seek(&name);
                    }
                }
            }
        }
    }

    fn command(&mut self, fleet: &str, command: CommandId, verb: Command) {
        let why = match self.fleets.get(fleet) {
            None => NotCommanded::NoSuchFleet,
            Some(Managed { life: Some(life), .. }) if self.stopped.is_none() => {
                return self.tell(life.number, Event::Commanded { command, verb });
            }
            Some(_) if self.term.is_none() || self.stopped.is_some() => NotCommanded::NotLeading,
            Some(managed) => NotCommanded::NoDriver(managed.waits.clone()),
        };
        self.out.push(Output::NotCommanded { command, why });
    }

    fn news(&mut self, fleet: &str, news: News) {
        self.out.push(Output::Tell { fleet: fleet.to_owned(), news });
    }
}
