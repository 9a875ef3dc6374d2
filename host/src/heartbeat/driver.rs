//! Drivers are asked: Spark's REST API, `GET /api/v1/applications/<id>/allexecutors`.
//!
//! The slowest witness, and the only one that knows task counts and why the driver removed an executor. A
//! driver is user code: it may be anything that answers HTTP, or does not. So each is asked on its own
//! time, one that fails is asked ever more rarely, and nothing it does can hold up another for long, reach
//! another address, or take more than its share of memory: 32 requests at once, of which 4 read a body of
//! at most 32 MiB.
//!
//! Rejected: following redirects, as Spark's history server would like. An address that the driver names is
//! not one that was checked.

use std::collections::HashMap;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, StatusCode, Url, redirect};
use tokio::sync::Semaphore;
use tokio::task::{Id, JoinSet, spawn_blocking};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use self::report::Report;
use super::directory::{DriverEntry, Fleet};
use super::{Fate, Intake, Sign, Source};
use crate::spark::Notes;

mod address;
pub(crate) mod report;

/// How long a driver may take to answer, all in all.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// A driver that has never answered is starting, and somebody waits for it: no longer than this between two tries...
const START_INTERVAL: Duration = Duration::from_secs(1);
/// ... for so many tries.
const START_TRIES: u32 = 60;
/// How often it is looked whose turn it is.
const TICK: Duration = Duration::from_millis(100);
/// Bytes of an answer: 10,000 executors of 2 KB, and dead ones.
const BODY_MAX: usize = 32 * 1024 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Drivers that are asked at once.
const REQUESTS_MAX: usize = 32;
/// Of these, bodies that are read at once.
const BODIES_MAX: usize = 4;
/// One that answered and fails is asked again after one interval, then two, four and eight.
const DOUBLINGS_MAX: u32 = 3;

pub struct Poller {
    intake: Intake,
    client: Client,
    timeout: Duration,
    bodies: Semaphore,
}

impl Poller {
    /// Fails where the system does not let a client be made.
    pub fn new(intake: Intake, timeout: Duration) -> Result<Poller, reqwest::Error> {
        let client = Client::builder()
            // Drivers are neighbours: no proxy of the environment is between.
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(1)
            .user_agent("rollcall")
            .build()?;
        Ok(Poller { intake, client, timeout, bodies: Semaphore::new(BODIES_MAX) })
    }

    /// Asks the drivers in the directory until it is dropped, and every request with it.
    pub async fn run(self) {
        let poller = Arc::new(self);
        let mut turns: HashMap<Arc<str>, Turn> = HashMap::new();
        let mut requests = JoinSet::new();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    let fleets = poller.intake.directory.fleets();
                    turns.retain(|name, turn| {
                        turn.fleet = None;
                        fleets.iter().any(|fleet| fleet.name == *name)
                    });
                    for fleet in fleets {
                        let Some(driver) = fleet.entry.driver else { continue };
                        let turn = turns.entry(Arc::clone(&fleet.name)).or_insert_with(Turn::new);
                        if turn.asks != Some(driver) || turn.life != fleet.entry.life {
                            // Another driver: what the one before did says nothing of it.
                            *turn = Turn { asks: Some(driver), life: fleet.entry.life, ..Turn::new() };
                        }
                        turn.interval = Duration::from_millis(driver.interval_ms);
                        turn.fleet = Some(fleet);
                    }
                }
                Some(done) = requests.join_next_with_id() => {
                    let (id, result) = match done {
                        Ok((id, result)) => (id, result),
                        Err(error) => (error.id(), Err(PollError::Task(error))),
                    };
                    if let Some((name, turn)) = turns.iter_mut().find(|(_, turn)| turn.asked == Some(id)) {
                        turn.end(name, result.as_ref());
                    }
                }
            }
            let now = Instant::now();
            let waiting = turns.values_mut().filter(|turn| turn.asked.is_none() && turn.next_at <= now);
            let mut waiting: Vec<_> = waiting.collect();
            waiting.sort_unstable_by_key(|turn| turn.next_at);
            for turn in waiting {
                if requests.len() >= REQUESTS_MAX {
                    break;
                }
                // Told anew with the next tick, so that one whose driver is gone is asked no more.
                if let Some(fleet) = turn.fleet.take() {
                    let poller = Arc::clone(&poller);
                    turn.asked = Some(requests.spawn(async move { poller.poll(&fleet).await }).id());
                    turn.next_at = now;
                }
            }
        }
    }

    /// What of its answer was left out.
    async fn poll(&self, fleet: &Fleet) -> Result<Notes, PollError> {
        let limit = self.timeout;
        let asked = timeout(limit, self.ask(fleet)).await.unwrap_or(Err(PollError::Timeout(limit)));
        let counters = &self.intake.counters;
        match asked {
            Ok(Report { rows, notes }) => {
                counters.add_many(Source::Driver, Fate::Malformed, notes.strangers);
                // A full queue was counted; the next report makes up for it.
                let _ = self.intake.send(Source::Driver, Sign::Driver { life: fleet.entry.life, rows });
                Ok(notes)
            }
            Err(error) => {
                counters.add(Source::Driver, error.fate());
                Err(error)
            }
        }
    }

    async fn ask(&self, fleet: &Fleet) -> Result<Report, PollError> {
        let Some(driver) = fleet.entry.driver else { return Err(PollError::Address("unknown")) };
        if let Some(why) = address::refused(driver.address.ip(), driver.loopback) {
            return Err(PollError::Address(why));
        }
        let url = url(driver.address, &fleet.entry.application_id);
        let mut response = self.client.get(url).send().await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(PollError::NotFound),
            status => return Err(PollError::Status(status)),
        }
        let _permit = self.bodies.acquire().await.expect("it is never closed");
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await? {
            if body.len() + piece.len() > BODY_MAX {
                return Err(PollError::Oversized);
            }
            body.extend_from_slice(&piece);
        }
        // 20 MB take a tenth of a second, in which nobody would be heard here.
        let parsed = spawn_blocking(move || report::parse(&body)).await.map_err(PollError::Task)?;
        parsed.map_err(PollError::Malformed)
    }
}

/// When a driver is asked next.
struct Turn {
    fleet: Option<Arc<Fleet>>,
    /// Whose it is.
    asks: Option<DriverEntry>,
    life: u64,
    interval: Duration,
    asked: Option<Id>,
    next_at: Instant,
    answered: bool,
    /// Something of its last answer was left out.
    noted: bool,
    failures: u32,
}

impl Turn {
    fn new() -> Turn {
        Turn {
            fleet: None,
            asks: None,
            life: 0,
            interval: TICK,
            asked: None,
            next_at: Instant::now(),
            answered: false,
            noted: false,
            failures: 0,
        }
    }

    fn end(&mut self, name: &str, result: Result<&Notes, &PollError>) {
        match result {
            Err(error) => {
                // Said once, and not with every try.
                let error = chain(error);
                if self.failures == if self.answered { 0 } else { START_TRIES } {
                    tracing::warn!(fleet = name, error, "the driver cannot be asked");
                } else if self.failures == 0 {
                    tracing::info!(fleet = name, error, "the driver does not answer yet");
                }
                self.failures = self.failures.saturating_add(1);
            }
            Ok(notes) => {
                if self.failures > 0 {
                    let news = if self.answered { "the driver answers again" } else { "the driver answers" };
                    tracing::info!(fleet = name, "{news}");
                }
                if !notes.is_empty() && !self.noted {
                    tracing::warn!(fleet = name, "of the driver's answer is left out: {notes}");
                }
                self.failures = 0;
                self.answered = true;
                self.noted = !notes.is_empty();
            }
        }
        let pause = self.interval * (1 << self.failures.saturating_sub(1).min(DOUBLINGS_MAX));
        let starts = !self.answered && self.failures <= START_TRIES;
        self.next_at += if starts { pause.min(START_INTERVAL) } else { pause };
        self.asked = None;
    }
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
enum PollError {
    #[error("its address is not asked: {0}")]
    Address(&'static str),
    #[error("it does not know the application: is it the id of this driver's, and has it started?")]
    NotFound,
    #[error("it answered {0}; redirects are not followed")]
    Status(StatusCode),
    #[error("its answer is longer than {BODY_MAX} bytes")]
    Oversized,
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("no answer")]
    Http(#[from] reqwest::Error),
    #[error("its answer is not what Spark's /allexecutors answers: {0}")]
    Malformed(String),
    #[error("the request did not end as it should")]
    Task(#[source] tokio::task::JoinError),
}

impl PollError {
    fn fate(&self) -> Fate {
        match self {
            PollError::Address(_) => Fate::ForbiddenAddress,
            PollError::NotFound => Fate::NotFound,
            PollError::Oversized => Fate::Oversized,
            PollError::Malformed(_) => Fate::Malformed,
            PollError::Status(_) | PollError::Timeout(_) | PollError::Http(_) | PollError::Task(_) => {
                Fate::Failed
            }
        }
    }
}

/// From an address and never from a name: nothing can resolve to something else meanwhile.
fn url(driver: SocketAddr, application_id: &str) -> Url {
    let url = format!("http://{driver}/api/v1/applications/{application_id}/allexecutors");
    // `Directory::set_fleet` took no other characters than `A-Z a-z 0-9 . _ -`, and not only dots.
    Url::parse(&url).expect("an address and plain characters are a URL")
}

fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests;
