//! Polls drivers: Spark's REST API, `GET /api/v1/applications/<id>/allexecutors`.
//!
//! This is the slowest source, and the only one that knows task counts and why the driver removed an executor. A driver
//! is user code: anything that answers HTTP, or does not. So each driver has a schedule of its own, one that fails is
//! polled less and less often, and it can neither delay another poll for long, nor redirect the poller to another
//! address, nor take more than its share of memory.
//!
//! Each fleet has at most one request in flight. Up to 512 fleets are polled at once; beyond that, drivers whose last
//! answer failed or took longer than a second share 384 of these slots and wait for each other. Memory: 512 connections
//! with buffers of 16 KiB are 8 MiB. Bodies have 40 MiB together (`bodies`), of which a body about 10,000 executors
//! takes 20. The limits for the length of a body and for its number of rows follow from the fleet's number of pods: 2
//! MiB and 1,004 rows with one executor. At most two bodies are parsed at a time, and at most one report of each fleet
//! waits for the loop.
//!
//! Rejected: following redirects, as Spark's history server would need. An address from a driver's answer has not been
//! checked.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderName, LOCATION};
use serde::de::IgnoredAny;
use tokio::sync::Semaphore;
use tokio::task::{Id, JoinSet, spawn_blocking};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use self::ask::{Answer, Credentials};
use self::bodies::{Bodies, Ended};
use self::report::Report;
use self::trouble::{PollError, chain};
use super::directory::{DriverEntry, Fleet};
use super::names::excerpt;
use super::notes::DriverTrouble;
use super::{Fate, Intake, Sign, Source};
use crate::spark::Notes;

mod address;
mod ask;
mod bodies;
pub(crate) mod report;
mod trouble;

/// Total timeout of a request.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum interval between tries while a driver has never answered: it is starting, and a user waits for it...
const START_INTERVAL: Duration = Duration::from_secs(1);
/// ... for this many tries.
const START_TRIES: u32 = 60;
/// How often the schedule is checked.
const TICK: Duration = Duration::from_millis(100);
/// Maximum bytes of an answer: a base for dead executors, some with a stack trace, plus for each pod of the fleet twice
/// what Spark reports about an executor.
const BODY_BASE: usize = 2 * 1024 * 1024;
const BODY_PER_POD: usize = 4 * 1024;
/// The maximum regardless of the number of pods.
const BODY_MAX: usize = 32 * 1024 * 1024;
/// Maximum bytes of all answers that are being read.
const BODIES_BYTES: usize = 40 * 1024 * 1024;
/// Maximum rows of an answer: by default Spark keeps 100 dead executors.
const ROWS_BASE: usize = 1_000;
const ROWS_PER_POD: usize = 4;
/// Maximum answers that are parsed at once: 20 MB take a tenth of a second.
const PARSES_MAX: usize = 2;
/// Maximum concurrent requests.
const REQUESTS_MAX: usize = 512;
/// Of these, requests to slow drivers.
const SLOW_MAX: usize = 384;
/// A driver is slow if its last answer took longer than this.
const SLOW: Duration = Duration::from_secs(1);
/// A driver that has answered before and fails now is retried after one interval, then two, four and eight.
const DOUBLINGS_MAX: u32 = 3;

pub struct Poller {
    intake: Intake,
    timeout: Duration,
    bodies: Arc<Bodies>,
    parses: Semaphore,
}

impl Poller {
    pub fn new(intake: Intake, timeout: Duration) -> Poller {
        Poller { intake, timeout, bodies: Bodies::new(BODIES_BYTES), parses: Semaphore::new(PARSES_MAX) }
    }

    /// Polls the drivers in the directory until it is dropped, together with every request.
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
                        let Some(driver) = &fleet.entry.driver else { continue };
                        let turn = turns.entry(Arc::clone(&fleet.name)).or_insert_with(Turn::new);
                        if turn.asks.as_ref() != Some(driver) || turn.life != fleet.entry.life {
                            // Another driver: the notes about the previous one do not apply.
                            fleet.notes.driver(None);
                            *turn = Turn { asks: Some(driver.clone()), life: fleet.entry.life, ..Turn::new() };
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
                        let fleet = poller.intake.directory.fleet(name);
                        turn.end(name, fleet.as_deref(), result.as_ref());
                    }
                }
            }
            let now = Instant::now();
            let mut slow = turns.values().filter(|turn| turn.asked.is_some() && turn.slow).count();
            let waiting = turns.values_mut().filter(|turn| turn.asked.is_none() && turn.next_at <= now);
            let mut waiting: Vec<_> = waiting.collect();
            waiting.sort_unstable_by_key(|turn| turn.next_at);
            for turn in waiting {
                if requests.len() >= REQUESTS_MAX {
                    break;
                }
                if turn.slow && slow >= SLOW_MAX {
                    continue;
                }
                // The next tick sets it again, so that a deleted driver is not polled any more.
                if let Some(fleet) = turn.fleet.take() {
                    let poller = Arc::clone(&poller);
                    turn.asked = Some(requests.spawn(async move { poller.poll(&fleet).await }).id());
                    turn.next_at = now;
                    slow += usize::from(turn.slow);
                }
            }
        }
    }

    /// Returns what was left out of the answer.
    async fn poll(&self, fleet: &Fleet) -> Result<Notes, PollError> {
        let limit = self.timeout;
        let asked = timeout(limit, self.ask(fleet)).await.unwrap_or(Err(PollError::Timeout(limit)));
        let counters = &self.intake.counters;
        match asked {
            Ok(Report { rows, notes, .. }) => {
                counters.add_many(Source::Driver, Fate::Malformed, notes.strangers);
                // If the daemon has ended, that has been counted.
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
        let Some(driver) = fleet.entry.driver.clone() else { return Err(PollError::Address("unknown")) };
        if let Some(why) = address::refused(driver.address.ip(), driver.loopback) {
            return Err(PollError::Address(why));
        }
        let credentials = if driver.tls.is_some() || driver.token_file.is_some() {
            let driver = driver.clone();
            spawn_blocking(move || Credentials::read(&driver)).await.map_err(PollError::Task)??
        } else {
            Credentials::default()
        };
        let mut answer = ask::get(&driver, &fleet.entry.application_id, credentials).await?;
        match answer.response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(PollError::NotFound),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                return Err(PollError::Denied(status));
            }
            status if status.is_redirection() => {
                return Err(PollError::Redirect { status, location: said(&answer, LOCATION, "nowhere") });
            }
            status => return Err(PollError::Status(status)),
        }
        let kind = said(&answer, CONTENT_TYPE, "of no type");
        let pods = fleet.pods();
        let body_max = BODY_MAX.min(BODY_BASE + pods * BODY_PER_POD);
        let mut body = self.bodies.begin(pods, body_max);
        let lost = body.lost();
        let read = async {
            while let Some(piece) = answer.chunk().await? {
                body.extend(&piece).map_err(|ended| match ended {
                    Ended::Oversized => PollError::Oversized(body_max),
                    Ended::Crowded => PollError::Crowded,
                })?;
            }
            Ok(self.parses.acquire().await.expect("it is never closed"))
        };
        let _permit = tokio::select! {
            read = read => read?,
            () = lost => return Err(PollError::Crowded),
        };
        let rows_max = ROWS_BASE + ROWS_PER_POD * pods;
        // Not on this thread: heartbeats would not be received meanwhile.
        let parsed = spawn_blocking(move || {
            let bytes = body.bytes();
            report::parse(bytes, rows_max).map_err(|error| {
                if serde_json::from_slice::<IgnoredAny>(bytes).is_ok() {
                    PollError::Content(error)
                } else {
                    PollError::NotJson { kind, begins: excerpt(bytes) }
                }
            })
        });
        let report = parsed.await.map_err(PollError::Task)??;
        if report.beyond > 0 { Err(PollError::TooManyRows(rows_max)) } else { Ok(report) }
    }
}

/// A header of the answer, safe to display.
fn said(answer: &Answer, header: HeaderName, otherwise: &str) -> String {
    let value = answer.response.headers().get(header);
    value.map_or_else(|| otherwise.to_owned(), |value| excerpt(value.as_bytes()))
}

/// When a driver is polled next.
struct Turn {
    fleet: Option<Arc<Fleet>>,
    /// The driver that this schedule belongs to.
    asks: Option<DriverEntry>,
    life: u64,
    interval: Duration,
    asked: Option<Id>,
    next_at: Instant,
    answered: bool,
    /// A part of its last answer was left out.
    noted: bool,
    failures: u32,
    /// Its last answer was slow, or did not arrive.
    slow: bool,
    /// The code of the last failure.
    code: Option<&'static str>,
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
            slow: false,
            code: None,
        }
    }

    fn end(&mut self, name: &str, fleet: Option<&Fleet>, result: Result<&Notes, &PollError>) {
        self.slow = result.is_err() || self.next_at.elapsed() > SLOW;
        match result {
            Err(error) => {
                let trouble = self.trouble(fleet, error);
                // Logged once and not with every retry; again when the trouble changes.
                let known = self.code.replace(trouble.code) == Some(trouble.code);
                let starting = trouble.may_be_starting && self.failures < START_TRIES;
                let overdue = trouble.may_be_starting && self.failures == START_TRIES;
                let why = &*trouble.message;
                if starting && !known {
                    tracing::info!(fleet = name, why, "the driver does not answer yet");
                } else if overdue || !(starting || known) {
                    tracing::warn!(fleet = name, why, "the driver cannot be polled");
                }
                self.failures = self.failures.saturating_add(1);
                if let Some(fleet) = fleet.filter(|fleet| fleet.entry.life == self.life) {
                    fleet.notes.driver(Some(trouble));
                }
            }
            Ok(notes) => {
                if self.failures > 0 {
                    let news = if self.answered { "the driver answers again" } else { "the driver answers" };
                    tracing::info!(fleet = name, "{news}");
                }
                if !notes.is_empty() && !self.noted {
                    tracing::warn!(fleet = name, "rows of the driver's answer cannot be used: {notes}");
                }
                self.failures = 0;
                self.answered = true;
                self.noted = !notes.is_empty();
                self.code = None;
                if let Some(fleet) = fleet.filter(|fleet| fleet.entry.life == self.life) {
                    fleet.notes.driver(None);
                }
            }
        }
        let pause = self.interval * (1 << self.failures.saturating_sub(1).min(DOUBLINGS_MAX));
        let starts = !self.answered && self.failures <= START_TRIES;
        self.next_at += if starts { pause.min(START_INTERVAL) } else { pause };
        self.asked = None;
    }

    fn trouble(&self, fleet: Option<&Fleet>, error: &PollError) -> DriverTrouble {
        let what = chain(error);
        let message = match (&self.asks, fleet) {
            (Some(driver), Some(fleet)) => {
                let url = ask::url(driver, &fleet.entry.application_id);
                format!("{url}: {what}; {}", error.remedy(driver))
            }
            (Some(_), None) | (None, _) => what,
        };
        DriverTrouble {
            code: error.code(),
            message,
            since: Instant::now(),
            may_be_starting: !self.answered && error.may_be_starting(),
        }
    }
}

#[cfg(test)]
mod tests;
