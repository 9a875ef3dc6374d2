//! Who may command, by the cluster's own rules (`--authorize`).
//!
//! The bearer's token names a user (TokenReview), and the user may command a fleet if it may `patch` the object
//! `executorfleets.rollcall.dev` of that name (SubjectAccessReview). RBAC needs no such object, so that this works for
//! fleets from files, too.
//!
//! Answers are cached for [`KEPT`], also refusals: a right that is granted or withdrawn takes effect after that. A token
//! may be for the audience [`AUDIENCE`], or for the API server itself. The first is safer: this daemon cannot use it.
//!
//! A client that has shown no good token can cause few reviews: `STRANGERS_MAX` at once, each of which keeps its slot
//! for `PENALTY` if the token is bad, so 16 in a second. Tokens that were good have slots of their own.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use cluster::review::User;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use super::error::Error;
use crate::heartbeat::api::review::BoxFuture;

/// The audience that tokens for this daemon alone are issued for.
pub const AUDIENCE: &str = "rollcall";
pub const KEPT: Duration = Duration::from_secs(10);
/// A good token keeps its privilege for this long.
const KNOWN: Duration = Duration::from_secs(15 * 60);
/// Maximum answers of each kind. A token is a digest here; with its user an entry has some 500 bytes.
const KEPT_MAX: usize = 1_024;
/// Maximum reviews at once: for tokens that were not good lately, and for those that were.
const STRANGERS_MAX: usize = 4;
const KNOWN_MAX: usize = 8;
const PENALTY: Duration = Duration::from_millis(250);
/// Of all questions of one request together: half of what a request may take.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

/// The API server. An error: it gave no answer.
pub trait Judge: Send + Sync {
    /// `None`: the token is not genuine.
    fn user<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<User>, String>>;
    /// May this user patch this ExecutorFleet?
    fn may<'a>(
        &'a self,
        user: &'a User,
        namespace: &'a str,
        fleet: &'a str,
    ) -> BoxFuture<'a, Result<bool, String>>;
}

pub struct Authority {
    judge: Arc<dyn Judge>,
    users: Kept<[u8; 32], Option<Arc<User>>>,
    rights: Kept<([u8; 32], String), bool>,
    known: Kept<[u8; 32], ()>,
    strangers: Arc<Semaphore>,
    friends: Arc<Semaphore>,
}

impl Authority {
    pub fn new(judge: Arc<dyn Judge>) -> Authority {
        let slots = |count| Arc::new(Semaphore::new(count));
        Authority {
            judge,
            users: Kept::new(KEPT),
            rights: Kept::new(KEPT),
            known: Kept::new(KNOWN),
            strangers: slots(STRANGERS_MAX),
            friends: slots(KNOWN_MAX),
        }
    }

    /// The user that this token names.
    pub async fn user(&self, token: &str) -> Result<Arc<User>, Error> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let user = match self.users.get(&digest) {
            Some(user) => user,
            None => self.review(token, digest).await?,
        };
        user.ok_or_else(|| {
            let message = "the API server does not know this token; it may have expired. Get one with: kubectl \
                           create token SERVICE-ACCOUNT --audience=rollcall";
            Error::new(StatusCode::UNAUTHORIZED, "wrong-token", message)
        })
    }

    async fn review(&self, token: &str, digest: [u8; 32]) -> Result<Option<Arc<User>>, Error> {
        let known = self.known.get(&digest).is_some();
        let slots = if known { &self.friends } else { &self.strangers };
        let permit = Arc::clone(slots).try_acquire_owned().map_err(|_| busy())?;
        let user = in_time(self.judge.user(token)).await?.map(Arc::new);
        self.users.put(digest, user.clone());
        if user.is_some() {
            self.known.put(digest, ());
        } else {
            tokio::spawn(async move {
                let _permit = permit;
                sleep(PENALTY).await;
            });
        }
        Ok(user)
    }

    /// Whether this user, whose token this is, may command the fleet.
    pub async fn check(&self, token: &str, user: &User, namespace: &str, fleet: &str) -> Result<(), Error> {
        let key = (Sha256::digest(token).into(), format!("{namespace}/{fleet}"));
        let may = match self.rights.get(&key) {
            Some(may) => may,
            None => {
                let _permit = self.friends.try_acquire().map_err(|_| busy())?;
                let may = in_time(self.judge.may(user, namespace, fleet)).await?;
                self.rights.put(key, may);
                may
            }
        };
        if may { Ok(()) } else { Err(forbidden(&user.name, namespace, fleet)) }
    }
}

fn forbidden(user: &str, namespace: &str, fleet: &str) -> Error {
    let account = user.strip_prefix("system:serviceaccount:");
    let subject = match account {
        Some(account) => format!("--serviceaccount={}", quoted(account)),
        None => format!("--user={}", quoted(user)),
    };
    let message = format!(
        "user {user:?} may not patch executorfleets.rollcall.dev {fleet:?} in the namespace {namespace:?}. To grant it: \
         kubectl create role rollcall-{fleet} -n {namespace} --verb=patch --resource=executorfleets.rollcall.dev \
         --resource-name={fleet} && kubectl create rolebinding rollcall-{fleet} -n {namespace} --role=rollcall-{fleet} \
         {subject}"
    );
    Error::new(StatusCode::FORBIDDEN, "forbidden", message)
}

/// For a shell. Names of users may have any character.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@.:_/-".contains(c);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

fn busy() -> Error {
    let message = "too many tokens are being reviewed; try again";
    Error::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message)
}

async fn in_time<T>(answer: impl Future<Output = Result<T, String>>) -> Result<T, Error> {
    let why = match timeout(ANSWERED_WITHIN, answer).await {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(why)) => why,
        Err(_) => format!("no answer within {} s", ANSWERED_WITHIN.as_secs()),
    };
    tracing::warn!(why, "the API server cannot be asked whether a command is allowed (--authorize)");
    let message = format!("the API server cannot be asked whether you may do this: {why}");
    Err(Error::new(StatusCode::SERVICE_UNAVAILABLE, "authority-unavailable", message))
}

/// Answers, for a while.
struct Kept<K, V> {
    time: Duration,
    answers: Mutex<HashMap<K, (Instant, V)>>,
}

impl<K: Eq + Hash, V: Clone> Kept<K, V> {
    fn new(time: Duration) -> Kept<K, V> {
        Kept { time, answers: Mutex::default() }
    }

    fn get(&self, key: &K) -> Option<V> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.get(key).filter(|(until, _)| Instant::now() < *until).map(|(_, answer)| answer.clone())
    }

    fn put(&self, key: K, answer: V) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if answers.len() >= KEPT_MAX {
            answers.retain(|_, (until, _)| now < *until);
        }
        // It is only asked again.
        if answers.len() >= KEPT_MAX {
            answers.clear();
        }
        answers.insert(key, (now + self.time, answer));
    }
}
