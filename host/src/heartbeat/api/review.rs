//! Finds out which pod a token is bound to. The API server knows (TokenReview) and is asked as rarely as possible.
//!
//! A service account token for this audience proves which pod sent it. The result is cached under the token's digest:
//! one minute if the token is valid, so a pod that beats every ten seconds costs one review per six beats, and ten
//! seconds if it is not. The revocation of a token may go unnoticed for that minute; the deletion of its pod does not,
//! because every beat looks the pod up in the directory.
//!
//! A sender that has not shown a valid token yet can cause only a limited number of reviews: see `shares`. A token that
//! was valid a while ago is reviewed in slots that no other sender can take.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fleet::id::Uid;
use tokio::time::{Instant, timeout};

use self::shares::{Shares, Ticket};
use crate::heartbeat::directory::Secret;
use crate::hush::Hush;

mod shares;

/// The audience that tokens must be issued for: `audience` of the projected `serviceAccountToken` volume.
pub const AUDIENCE: &str = "rollcall-heartbeat";

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// `authentication.k8s.io/v1` TokenReview.
pub trait TokenReviewer: Send + Sync {
    /// With `spec.audiences` of just this audience.
    fn review<'a>(
        &'a self,
        token: &'a str,
        audience: &'a str,
    ) -> BoxFuture<'a, Result<Reviewed, ReviewError>>;
}

/// The `status` of a review that is `authenticated`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reviewed {
    /// Empty if the API server knows no audiences: such a token was issued for the API server itself.
    pub audiences: Vec<String>,
    /// `user.extra["authentication.kubernetes.io/pod-uid"]`: the pod that the token is bound to.
    pub pod_uid: Option<String>,
    /// `user.extra["authentication.kubernetes.io/pod-name"]`.
    pub pod_name: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReviewError {
    /// The API server rejected the token.
    #[error("the token was rejected: {0}")]
    Rejected(String),
    /// The API server gave no verdict.
    #[error("the token could not be reviewed: {0}")]
    Unavailable(String),
}

/// Why the pod of a token is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// No pod: the token is invalid, for another audience, or not bound to a pod.
    Invalid,
    /// Too many other tokens are under review.
    Busy,
    /// The reviewer failed.
    Unavailable,
}

/// How long valid and invalid results are cached.
const GOOD: Duration = Duration::from_secs(60);
const BAD: Duration = Duration::from_secs(10);
/// How long it is remembered that a token was valid, so that a pod that beats once in ten minutes is known.
const WAS_GOOD: Duration = Duration::from_secs(15 * 60);
/// Maximum cached results of each kind. 10,000 executors with a token each, twice during a replacement, at 150 bytes: 3
/// MB. Invalid results are bounded by the shares: a few hundred in 10 s.
const GOOD_MAX: usize = 20_000;
const BAD_MAX: usize = 4_096;
const REVIEW_TIMEOUT: Duration = Duration::from_secs(5);

pub struct Reviews {
    reviewer: Arc<dyn TokenReviewer>,
    answers: Mutex<Answers>,
    shares: Arc<Shares>,
    hush: Hush,
}

/// The sender that asks for a review.
#[derive(Clone, Debug)]
pub struct Asker {
    pub ip: IpAddr,
    /// The fleet that has a pod at this address, if any.
    pub fleet: Option<Arc<str>>,
}

/// What is cached about a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    Good(Uid),
    Bad,
    Unknown,
}

#[derive(Default)]
struct Answers {
    good: HashMap<[u8; 32], Good>,
    /// The latest token of each pod. A sender that can obtain many tokens for one pod takes the slot of one.
    of_pods: HashMap<Box<str>, [u8; 32]>,
    bad: HashMap<[u8; 32], Instant>,
}

struct Good {
    until: Instant,
    pod: Uid,
}

impl Reviews {
    pub fn new(reviewer: Arc<dyn TokenReviewer>) -> Reviews {
        Reviews { reviewer, answers: Mutex::default(), shares: Arc::default(), hush: Hush::default() }
    }

    /// The result, if no review is needed.
    pub fn known(&self, secret: &Secret) -> Known {
        let now = Instant::now();
        let answers = self.lock();
        let digest = secret.digest();
        match (answers.good.get(&digest), answers.bad.get(&digest)) {
            (Some(good), _) if now < good.until => Known::Good(good.pod.clone()),
            (_, Some(until)) if now < *until => Known::Bad,
            (Some(_) | None, Some(_) | None) => Known::Unknown,
        }
    }

    /// The UID of the pod that this token is bound to.
    pub async fn pod(&self, token: &str, secret: &Secret, asker: &Asker) -> Result<Uid, Denied> {
        match self.known(secret) {
            Known::Good(pod) => return Ok(pod),
            Known::Bad => return Err(Denied::Invalid),
            Known::Unknown => {}
        }
        let was_good = self.lock().was_good(&secret.digest(), Instant::now());
        let ticket = self.shares.enter(asker, was_good).ok_or(Denied::Busy)?;
        let review = timeout(REVIEW_TIMEOUT, self.reviewer.review(token, AUDIENCE));
        let review = tokio::select! {
            review = review => review,
            () = ticket.leave() => return Err(Denied::Busy),
        };
        let pod = match review {
            Ok(Ok(reviewed)) => owner(reviewed),
            Ok(Err(ReviewError::Rejected(why))) => {
                tracing::debug!(why, "a heartbeat's token was rejected");
                None
            }
            Ok(Err(ReviewError::Unavailable(why))) => {
                if let Some(left_out) = self.hush.may_say(asker.ip) {
                    tracing::warn!(why, left_out, peer = %asker.ip, "a heartbeat's token could not be reviewed");
                }
                return Err(Denied::Unavailable);
            }
            Err(_) => {
                if let Some(left_out) = self.hush.may_say(asker.ip) {
                    let peer = asker.ip;
                    tracing::warn!(
                        %peer, left_out, "a heartbeat's token was not reviewed within {REVIEW_TIMEOUT:?}"
                    );
                }
                return Err(Denied::Unavailable);
            }
        };
        self.remember(secret.digest(), pod.as_ref(), ticket);
        pod.ok_or(Denied::Invalid)
    }

    fn remember(&self, digest: [u8; 32], pod: Option<&Uid>, ticket: Ticket) {
        let now = Instant::now();
        let mut answers = self.lock();
        let Some(pod) = pod else {
            answers.good.remove(&digest);
            make_room(&mut answers.bad, BAD_MAX, |until| *until, now);
            answers.bad.insert(digest, now + BAD);
            return;
        };
        let before = answers.of_pods.insert(Box::from(&*pod.0), digest).filter(|before| *before != digest);
        let another = before.and_then(|before| answers.good.remove(&before));
        // A second token for a pod whose first token is still valid counts as an invalid one: their number is
        // unlimited.
        if another.is_none_or(|another| another.until <= now) {
            ticket.was_good();
        }
        if answers.good.len() >= GOOD_MAX {
            let Answers { good, of_pods, .. } = &mut *answers;
            make_room(good, GOOD_MAX, |good| good.until + WAS_GOOD, now);
            of_pods.retain(|_, digest| good.contains_key(digest));
        }
        answers.good.insert(digest, Good { until: now + GOOD, pod: pod.clone() });
        answers.of_pods.insert(Box::from(&*pod.0), digest);
    }

    // The maps are consistent after every statement, so a panic elsewhere does not corrupt them.
    fn lock(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answers {
    fn was_good(&self, digest: &[u8; 32], now: Instant) -> bool {
        self.good.get(digest).is_some_and(|good| now < good.until + WAS_GOOD)
    }
}

/// Drops expired entries, and if that is not enough, the eighth that expires first. Runs rarely, because it scans all
/// entries.
fn make_room<T>(map: &mut HashMap<[u8; 32], T>, most: usize, until: impl Fn(&T) -> Instant, now: Instant) {
    if map.len() < most {
        return;
    }
    map.retain(|_, one| now < until(one));
    if map.len() < most {
        return;
    }
    let mut all: Vec<Instant> = map.values().map(&until).collect();
    let (_, bound, _) = all.select_nth_unstable(most / 8);
    let bound = *bound;
    let mut left = most / 8 + 1;
    map.retain(|_, one| {
        let goes = left > 0 && until(one) <= bound;
        left -= usize::from(goes);
        !goes
    });
}

fn owner(reviewed: Reviewed) -> Option<Uid> {
    let Reviewed { audiences, pod_uid, pod_name } = reviewed;
    if !audiences.iter().any(|audience| audience == AUDIENCE) {
        tracing::debug!(?audiences, ?pod_name, "a heartbeat's token is for another audience");
        return None;
    }
    pod_uid.filter(|uid| !uid.is_empty()).map(|uid| Uid(uid.into()))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Accepts tokens `<audience>/<pod UID>`.
    #[derive(Default)]
    struct Fake {
        asked: AtomicUsize,
    }

    impl TokenReviewer for Fake {
        fn review<'a>(
            &'a self,
            token: &'a str,
            audience: &'a str,
        ) -> BoxFuture<'a, Result<Reviewed, ReviewError>> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            assert_eq!(audience, AUDIENCE);
            Box::pin(async move {
                match token.split_once('/') {
                    Some((_, "slow")) => std::future::pending().await,
                    Some((_, "down")) => Err(ReviewError::Unavailable("503".to_owned())),
                    Some((audience, uid)) => Ok(Reviewed {
                        audiences: audience.split_whitespace().map(str::to_owned).collect(),
                        pod_uid: Some(uid.to_owned()),
                        pod_name: None,
                    }),
                    None => Err(ReviewError::Rejected("expired".to_owned())),
                }
            })
        }
    }

    fn reviews() -> (Arc<Fake>, Reviews) {
        let fake = Arc::new(Fake::default());
        (Arc::clone(&fake), Reviews::new(fake))
    }

    async fn pod(reviews: &Reviews, token: &str) -> Result<Uid, Denied> {
        pod_at(reviews, token, 1, None).await
    }

    async fn pod_at(reviews: &Reviews, token: &str, ip: u32, fleet: Option<&str>) -> Result<Uid, Denied> {
        let ip = std::net::Ipv4Addr::from(ip).into();
        let asker = Asker { ip, fleet: fleet.map(Arc::from) };
        reviews.pod(token, &Secret::new(token), &asker).await
    }

    #[tokio::test(start_paused = true)]
    async fn answers_are_remembered_and_forgotten() {
        let (fake, reviews) = reviews();
        for (token, answer, kept_s) in
            [("rollcall-heartbeat/u1", Ok(Uid::from("u1")), 60), ("bad", Err(Denied::Invalid), 10)]
        {
            let before = fake.asked.load(Ordering::Relaxed);
            assert_eq!(pod(&reviews, token).await, answer);
            tokio::time::advance(Duration::from_millis(kept_s * 1_000 - 1)).await;
            assert_eq!(pod(&reviews, token).await, answer);
            assert_eq!(fake.asked.load(Ordering::Relaxed), before + 1);
            tokio::time::advance(Duration::from_millis(1)).await;
            assert_eq!(pod(&reviews, token).await, answer);
            assert_eq!(fake.asked.load(Ordering::Relaxed), before + 2);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_our_audience_and_a_pod_will_do() {
        let (_, reviews) = reviews();
        for token in ["/u1", "kubernetes/u1", "rollcall-heartbeat-2/u1", "rollcall-heartbeat/"] {
            assert_eq!(pod(&reviews, token).await, Err(Denied::Invalid), "{token}");
        }
        assert_eq!(pod(&reviews, "kubernetes rollcall-heartbeat/u1").await, Ok(Uid::from("u1")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_reviewer_is_not_remembered_and_not_waited_for() {
        let (fake, reviews) = reviews();
        assert_eq!(pod(&reviews, "a/down").await, Err(Denied::Unavailable));
        assert_eq!(pod(&reviews, "a/down").await, Err(Denied::Unavailable));
        assert_eq!(fake.asked.load(Ordering::Relaxed), 2);
        assert_eq!(pod(&reviews, "a/slow").await, Err(Denied::Unavailable));
    }

    #[tokio::test(start_paused = true)]
    async fn bogus_tokens_of_one_address_cost_few_reviews_and_no_one_else() {
        let (fake, reviews) = reviews();
        assert!(pod_at(&reviews, "rollcall-heartbeat/u1", 7, None).await.is_ok());
        for index in 0..1_600 {
            tokio::time::advance(Duration::from_millis(6)).await;
            assert!(pod_at(&reviews, &format!("bad{index}"), 7, None).await.is_err());
        }
        let asked = fake.asked.load(Ordering::Relaxed);
        assert!(asked < 30, "{asked} in 10 s");
        assert!(pod_at(&reviews, "rollcall-heartbeat/u1", 7, None).await.is_ok(), "it is known");
        tokio::time::advance(GOOD).await;
        for index in 0..100 {
            assert!(pod_at(&reviews, &format!("bad again{index}"), 7, None).await.is_err());
        }
        let good = pod_at(&reviews, "rollcall-heartbeat/u1", 7, None).await;
        assert!(good.is_ok(), "it was good: it has places of its own, also at this address");
        assert_eq!(pod_at(&reviews, "rollcall-heartbeat/u2", 7, None).await, Err(Denied::Busy));
        assert!(pod_at(&reviews, "rollcall-heartbeat/u2", 8, None).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn many_hostile_addresses_and_a_hostile_fleet_leave_pods_of_others_their_share() {
        let (fake, reviews) = reviews();
        for index in 0..20_000_u32 {
            tokio::time::advance(Duration::from_millis(1)).await;
            let (ip, fleet) = (1_000 + index % 2_000, (index % 2 == 0).then_some("hostile"));
            assert!(pod_at(&reviews, &format!("bad{index}"), ip, fleet).await.is_err());
            if index % 100 == 0 {
                let token = format!("rollcall-heartbeat/healthy{index}");
                assert!(pod_at(&reviews, &token, 10, Some("healthy")).await.is_ok(), "at {index}");
            }
        }
        let asked = fake.asked.load(Ordering::Relaxed);
        assert!(asked < 200 + 500, "{asked} in 20 s");
        assert!(reviews.lock().bad.len() <= BAD_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reviewer_that_hangs_is_shared_between_fleets() {
        let (_, reviews) = reviews();
        let reviews = Arc::new(reviews);
        let spawn = |token: String, ip: u32, fleet: Option<&'static str>| {
            let reviews = Arc::clone(&reviews);
            tokio::spawn(async move { pod_at(&reviews, &token, ip, fleet).await })
        };
        let mut hostile = Vec::new();
        for index in 0..60 {
            hostile.push(spawn(format!("h{index}/slow"), 100 + index, Some("hostile")));
            hostile.push(spawn(format!("s{index}/slow"), 200 + index, None));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        let own = pod_at(&reviews, "rollcall-heartbeat/u1", 1, Some("healthy")).await;
        assert_eq!(own, Ok(Uid::from("u1")), "one of the greediest makes room");
        let mut unavailable = 0;
        for one in hostile {
            unavailable += usize::from(one.await.unwrap() == Err(Denied::Unavailable));
        }
        assert!(unavailable > 20, "{unavailable}: what has a place keeps it to the end");
        assert!(pod_at(&reviews, "rollcall-heartbeat/u2", 300, None).await.is_ok(), "and gives it back");
    }

    #[tokio::test(start_paused = true)]
    async fn many_tokens_of_one_pod_are_one() {
        let (fake, reviews) = reviews();
        for index in 0..1_000 {
            // Added spaces make different tokens for the same pod.
            let _ = pod(&reviews, &format!("rollcall-heartbeat{}/u1", " ".repeat(index))).await;
        }
        let answers = reviews.lock();
        assert_eq!((answers.good.len(), answers.of_pods.len()), (1, 1));
        assert!(fake.asked.load(Ordering::Relaxed) < 30);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (_, reviews) = reviews();
        for index in 0..2 * GOOD_MAX {
            let digest = Secret::new(&index.to_string()).digest();
            let asker = Asker { ip: IpAddr::from([10, 0, 0, 1]), fleet: None };
            let ticket = reviews.shares.enter(&asker, true).unwrap();
            let pod = Uid::from(&*format!("u{index}"));
            reviews.remember(digest, (index % 2 == 0).then_some(&pod), ticket);
        }
        let answers = reviews.lock();
        assert!(answers.good.len() <= GOOD_MAX && answers.of_pods.len() <= GOOD_MAX);
        assert!(answers.bad.len() <= BAD_MAX);
    }
}
