//! The life cycle of fleets: they begin and end with their documents and with their drivers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cluster::call::{Calls, find_driver};
use cluster::pod::DriverSeen;
use cluster::queue::Still;
use cluster::watch;
use fleet::event::{Event, Outcome};
use fleet::spec::Spec;
use fleet::time::Instant;
use tokio::time::Instant as Clock;

use super::managed::{Life, Managed};
use super::policies::Judged;
use super::{Change, Daemon, News};
use crate::config::FleetConfig;
use crate::heartbeat::Directory;
use crate::heartbeat::directory::{Contest, DirectoryError, FleetEntry};

/// How often a missing driver pod is looked for.
const DRIVER_RETRY: Duration = Duration::from_secs(5);

impl Daemon {
    pub(super) fn change(&mut self, change: Change) {
        match change {
            Change::Fleets(fleets) => self.configure(fleets),
        }
    }

    /// Replaces the set of fleets.
    pub(super) fn configure(&mut self, fleets: Vec<Judged>) {
        let names: BTreeSet<&str> = fleets.iter().map(|judged| &*judged.config.fleet.metadata.name).collect();
        let gone: Vec<String> =
            self.fleets.keys().filter(|name| !names.contains(name.as_str())).cloned().collect();
        for name in gone {
            tracing::info!(fleet = name, "the fleet is no longer configured: its pods are left alone");
            self.end(&name);
            self.fleets.remove(&name);
        }
        for judged in fleets {
            let name = judged.config.fleet.metadata.name.clone();
            let Some(managed) = self.fleets.get_mut(&name) else {
                self.fleets.insert(name.clone(), Managed::new(judged));
                self.seek(&name);
                continue;
            };
            if managed.follows(&judged) {
                (managed.policies, managed.pending) = (judged.names, judged.pending);
                continue;
            }
            if managed.good && !judged.problems.is_empty() {
                managed.pending = None;
                if managed.refused.as_ref() == Some(&judged.config) && managed.wrong == judged.problems {
                    continue;
                }
                for problem in &judged.problems {
                    tracing::error!(fleet = name, %problem, "the document is refused; the last good one stays");
                }
                (managed.refused, managed.wrong) = (Some(judged.config), judged.problems);
                self.show_refused(&name);
                continue;
            }
            if let (true, Some(why)) = (managed.good, &judged.pending)
                && managed.config.fleet != judged.config.fleet
            {
                // A document that may turn out to be invalid must not be in force meanwhile.
                managed.pending =
                    Some(format!("the previous document stays in force until it is known: {why}"));
                continue;
            }
            let before = managed.take(judged);
            let (old, new) = (&before.fleet, &managed.config.fleet);
            let moved = old.metadata.namespace != new.metadata.namespace
                || old.spec.driver.pod_name != new.spec.driver.pod_name
                || old.spec.application_id != new.spec.application_id
                || old.spec.mode != new.spec.mode;
            if moved {
                self.end(&name);
                self.seek(&name);
            } else {
                self.respec(&name);
            }
        }
    }

    /// Passes a document that the core rejects to the core, whose condition then shows it. A document that is rejected
    /// for another reason is not passed, because the core would accept it.
    fn show_refused(&mut self, name: &str) {
        let Some(managed) = self.fleets.get(name) else { return };
        let (Some(life), Some(refused)) = (&managed.life, &managed.refused) else { return };
        let application_id = refused.fleet.spec.application_id.as_ref().unwrap_or(&life.application_id);
        let (number, draft) = (life.number, refused.draft(life.driver.uid.clone(), application_id));
        let policies = self.policies.names();
        if Spec::check(draft.clone(), &policies).is_err() {
            self.step(number, Event::SpecChanged { draft: Box::new(draft), policies });
        }
    }

    /// Applies a changed document or changed policies.
    fn respec(&mut self, name: &str) {
        let Some(managed) = self.fleets.get_mut(name) else { return };
        let Some(life) = &mut managed.life else { return self.seek(name) };
        life.settings = settings(&managed.config);
        let signs = std::mem::replace(&mut life.signs, managed.config.signs());
        let other_signs = signs != life.signs;
        let (number, policies) = (life.number, managed.policies.clone());
        let draft = managed.config.draft(life.driver.uid.clone(), &life.application_id);
        self.place(name);
        self.step(number, Event::SpecChanged { draft: Box::new(draft), policies });
        if other_signs {
            self.show_nodes(number, &self.nodes.values().cloned().collect::<Vec<_>>());
        }
    }

    /// Applies the current document and driver pod to how executors are created and where their heartbeats are
    /// accepted.
    fn place(&mut self, name: &str) {
        let Some(managed) = self.fleets.get(name) else { return };
        let Some(life) = &managed.life else { return };
        let number = life.number;
        let entry = managed.entry(number, &life.driver, &life.application_id);
        match self.claim(name, entry) {
            Ok(()) => {}
            Err(Claimed::Lost(why)) => {
                self.end(name);
                return self.give_way(name, why);
            }
            Err(Claimed::Wrong(error)) => {
                tracing::error!(fleet = name, error, "its heartbeats cannot be told apart");
            }
        }
        let Some(managed) = self.fleets.get(name) else { return };
        let Some(life) = &managed.life else { return };
        match managed.place(&life.driver, &life.application_id) {
            Ok(place) => {
                let calls = Calls::new(self.clients.call.clone(), Arc::new(place));
                if let Some(life) = self.life(number) {
                    life.calls = calls;
                }
            }
            // Runs again when the pod has one.
            Err(error) => tracing::warn!(fleet = name, error, "executors are created as before"),
        }
    }

    /// Looks for the driver's pod, and watches its namespace.
    pub(super) fn seek(&mut self, name: &str) {
        let Some(managed) = self.fleets.get_mut(name) else { return };
        if self.leading.is_none() || managed.life.is_some() || std::mem::replace(&mut managed.seeking, true) {
            return;
        }
        let namespace: Arc<str> = managed.namespace().into();
        self.look(name);
        if !self.watched.contains_key(&namespace) {
            self.watched.insert(Arc::clone(&namespace), false);
            let (client, news) = (self.clients.watch.clone(), self.news.clone());
            tokio::spawn(async move {
                let within = Arc::clone(&namespace);
                let wrap = move |told| News::Watched { namespace: Arc::clone(&namespace), told };
                watch::pods(client, &within, news, wrap).await;
            });
        }
    }

    /// Reads the driver's pod.
    pub(super) fn look(&self, name: &str) {
        let Some(managed) = self.fleets.get(name) else { return };
        let (namespace, driver) = (managed.namespace().to_owned(), managed.driver_name().to_owned());
        let (client, news, fleet) = (self.clients.call.clone(), self.news.clone(), name.to_owned());
        tokio::spawn(async move {
            let found = find_driver(client, &namespace, &driver).await;
            let _ = news.send(News::Driver { fleet, sought: (namespace, driver), found }).await;
        });
    }

    pub(super) fn found(
        &mut self,
        name: &str,
        sought: &(String, String),
        found: Result<Option<DriverSeen>, Outcome>,
    ) {
        let Some(managed) = self.fleets.get_mut(name) else { return };
        let lives = managed.life.is_some();
        match found {
            // The document names another driver by now.
            _ if (&*sought.0, &*sought.1) != (managed.namespace(), managed.driver_name()) => {}
            Ok(Some(driver)) => self.driver_is(name, driver),
            // A list reports that the driver is gone, with the revision at which it was.
            Ok(None) | Err(_) if lives => {}
            Ok(None) => {
                let (driver, namespace) = (managed.driver_name(), managed.namespace());
                let why = format!("there is no pod {driver} in namespace {namespace}");
                managed.looked = true;
                managed.wait(why);
            }
            Err(outcome) => {
                let why = format!("driver pod {}: {outcome}", managed.driver_name());
                managed.wait(why);
            }
        }
        let Some(managed) = self.fleets.get_mut(name) else { return };
        if managed.life.is_none() {
            managed.seeking = true;
            self.later(DRIVER_RETRY, News::Seek(name.to_owned()));
            self.check_synced();
        }
    }

    /// Retries the look-up of the driver's pod.
    pub(super) fn seek_again(&mut self, name: &str) {
        if let Some(managed) = self.fleets.get_mut(name) {
            managed.seeking = false;
            self.seek(name);
        }
    }

    pub(super) fn later(&self, after: Duration, news: News) {
        let sender = self.news.clone();
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            let _ = sender.send(news).await;
        });
    }

    /// Handles the current driver pod: begins the core of a fleet that has none, and ends that of a fleet whose driver
    /// was replaced.
    pub(super) fn driver_is(&mut self, name: &str, driver: DriverSeen) {
        let Some(managed) = self.fleets.get_mut(name) else { return };
        if let Some(life) = &mut managed.life {
            if life.driver.uid == driver.uid {
                let view = driver.view();
                let (number, revision) = (life.number, driver.revision);
                // The answer may be older than the events that the watch has delivered meanwhile.
                if revision >= life.driver.revision {
                    let moved = driver.address.is_some() && driver.address != life.driver.address;
                    life.driver = driver;
                    if moved {
                        self.place(name);
                    }
                }
                return self.step(number, Event::DriverChanged { driver: view, revision });
            }
            if !driver.live || driver.revision < life.driver.revision {
                return;
            }
            tracing::info!(fleet = name, "another driver pod: another application begins");
            self.end(name);
        }
        if driver.live {
            self.begin(name, driver);
        } else if let Some(managed) = self.fleets.get_mut(name) {
            managed.wait(format!("driver pod {} has ended or is being deleted", driver.name));
        }
    }

    fn begin(&mut self, name: &str, driver: DriverSeen) {
        let (Some(term), Some(managed)) = (self.leading, self.fleets.get(name)) else { return };
        let begun = self.bring_to_life(managed, driver);
        let (life, entry) = match begun {
            Ok(begun) => begun,
            Err(why) => return self.wait(name, why),
        };
        match self.claim(name, entry) {
            Ok(()) => {}
            Err(Claimed::Lost(why)) => {
                if let Some(managed) = self.fleets.get_mut(name) {
                    managed.give_way(why);
                }
                return;
            }
            Err(Claimed::Wrong(why)) => return self.wait(name, why),
        }
        let Some(managed) = self.fleets.get_mut(name) else { return };
        let number = life.number;
        self.lives = number;
        self.names.insert(number, name.to_owned());
        tracing::info!(fleet = name, application = life.application_id, "the fleet begins");
        let key = (managed.namespace().into(), life.application_id.as_str().into());
        managed.life = Some(life);
        managed.seeking = false;
        managed.good = true;
        self.applications.insert(key, number);
        self.step(number, Event::LeadershipGained { term });
        self.show_refused(name);
        self.show_nodes(number, &self.nodes.values().cloned().collect::<Vec<_>>());
        if self.is_watched(number) {
            self.list(number);
        } else {
            self.step(number, Event::ViewStale);
        }
    }

    fn wait(&mut self, name: &str, why: String) {
        if let Some(managed) = self.fleets.get_mut(name) {
            managed.wait(why);
        }
    }

    fn bring_to_life(&self, managed: &Managed, driver: DriverSeen) -> Result<(Life, FleetEntry), String> {
        let application_id = managed.application_id(&driver)?;
        let place = managed.place(&driver, &application_id)?;
        let draft = managed.config.draft(driver.uid.clone(), &application_id);
        #[allow(clippy::cast_possible_truncation, reason = "any bits will do")]
        let seed = self.random as u64 ^ self.lives;
        let fleet = fleet::Fleet::new(draft, &managed.policies, seed)
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
        let number = self.lives + 1;
        let entry = managed.entry(number, &driver, &application_id);
        let life = Life {
            number,
            fleet,
            calls: Calls::new(self.clients.call.clone(), Arc::new(place)),
            still: Still::default(),
            driver,
            application_id,
            settings: settings(&managed.config),
            guessed: false,
            signs: managed.config.signs(),
            armed: Instant::NEVER,
            listing: false,
            list_again: false,
            listed: false,
            unheard: None,
        };
        Ok((life, entry))
    }

    /// Enters the fleet into the directory, if it has the best claim. Other fleets with the same claim give way then,
    /// even running ones: their cores end as they do when the driver is replaced, and their executors stay. So the same
    /// fleet wins, regardless of the order of arrival, also after a restart.
    ///
    /// Both fleets report it: the one that waits, and on each retry the one that has the names.
    fn claim(&mut self, name: &str, entry: FleetEntry) -> Result<(), Claimed> {
        let wrong = |error: DirectoryError| Claimed::Wrong(error.to_string());
        // Check it before other fleets give way to it.
        Directory::check(&entry).map_err(wrong)?;
        let now = Clock::now();
        let claim = entry.claim.clone();
        let rivals = self.directory.rivals(name, &entry);
        let better = rivals.iter().find(|(rival, _)| !claim.outranks(&rival.entry.claim));
        if let Some((rival, contest)) = better {
            let advantage = rival.entry.claim.advantage(&claim);
            rival.notes.contested(held(name, contest, advantage), now);
            return Err(Claimed::Lost(lost(contest, advantage)));
        }
        for (rival, _) in &rivals {
            self.end(&rival.name);
        }
        self.directory.set_fleet(name, entry).map_err(wrong)?;
        for (rival, contest) in rivals {
            let advantage = claim.advantage(&rival.entry.claim);
            if let Some(fleet) = self.directory.fleet(name) {
                fleet.notes.contested(held(&rival.name, &contest, advantage), now);
            }
            self.give_way(&rival.name, lost(&contest.with(name), advantage));
        }
        Ok(())
    }

    /// The fleet loses its names to another fleet, and retries.
    fn give_way(&mut self, name: &str, why: String) {
        if let Some(managed) = self.fleets.get_mut(name) {
            managed.give_way(why);
            managed.seeking = true;
            self.later(DRIVER_RETRY, News::Seek(name.to_owned()));
        }
    }

    /// Ends the fleet's core; the pods belong to its driver and end with it.
    pub(super) fn end(&mut self, name: &str) {
        let Some(life) = self.fleets.get_mut(name).and_then(|managed| managed.life.take()) else { return };
        // Invalidates in-flight requests of this fleet instance.
        life.still.set(true);
        self.names.remove(&life.number);
        self.applications.retain(|_, number| *number != life.number);
        self.deadlines.remove(&(life.armed, life.number));
        self.replies.retain(|(number, _), _| *number != life.number);
        self.directory.remove_fleet(name);
    }

    pub(super) fn life(&mut self, number: u64) -> Option<&mut Life> {
        let name = self.names.get(&number)?;
        self.fleets.get_mut(name)?.life.as_mut()
    }
}

/// The message of the fleet that waits.
fn lost(contest: &Contest, advantage: &str) -> String {
    format!("{contest}. That one has it, because it {advantage}")
}

/// The message of the fleet that has what another claims.
fn held(other: &str, contest: &Contest, advantage: &str) -> String {
    format!("fleet {other} claims {} as well, and waits, because this one {advantage}", contest.what())
}

/// Why a fleet was not entered.
enum Claimed {
    /// Another fleet has what it claims.
    Lost(String),
    Wrong(String),
}

fn settings(config: &FleetConfig) -> Arc<BTreeMap<String, serde_json::Value>> {
    let all = &config.fleet.spec.policies;
    Arc::new(all.iter().map(|(name, settings)| (name.clone(), settings.clone().into())).collect())
}
