//! Whose token is it? The API server knows (TokenReview), and is asked as seldom as may be.
//!
//! A token that a pod was given for this audience proves which pod it is of. The answer is remembered
//! under the token's digest: a minute for a good one, so a pod that beats every ten seconds costs a review
//! in six, and ten seconds for a bad one. That a token was revoked may go unnoticed for that minute; that
//! its pod is gone does not, because the directory is asked about the pod with every beat.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fleet::id::Uid;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::heartbeat::directory::Secret;

/// What tokens have to be made for: `audience` of the projected `serviceAccountToken` volume.
pub const AUDIENCE: &str = "rollcall-heartbeat";

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// `authentication.k8s.io/v1` TokenReview.
pub trait TokenReviewer: Send + Sync {
    /// With `spec.audiences` of just this one.
    fn review<'a>(
        &'a self,
        token: &'a str,
        audience: &'a str,
    ) -> BoxFuture<'a, Result<Reviewed, ReviewError>>;
}

/// The `status` of a review that is `authenticated`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reviewed {
    /// Empty where the API server knows no audiences: such a token was made for the API server itself.
    pub audiences: Vec<String>,
    /// `user.extra["authentication.kubernetes.io/pod-uid"]`: the pod that the token is bound to.
    pub pod_uid: Option<String>,
    /// `user.extra["authentication.kubernetes.io/pod-name"]`.
    pub pod_name: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReviewError {
    /// The API server says that the token is not good.
    #[error("the token was rejected: {0}")]
    Rejected(String),
    /// The API server did not say.
    #[error("the token could not be reviewed: {0}")]
    Unavailable(String),
}

/// Why it is not known whose token it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Nobody's: not good, for another audience, or not bound to a pod.
    Nobody,
    /// Too many others are being reviewed.
    Busy,
    /// The reviewer failed.
    Unavailable,
}

/// A good answer, and a bad one, are remembered for so long.
const GOOD: Duration = Duration::from_secs(60);
const BAD: Duration = Duration::from_secs(10);
/// Answers that are remembered: 4,096 of about 100 bytes.
const ANSWERS_MAX: usize = 4_096;
/// Reviews under way. At 10 ms each that is 1,600 a second, more than the API server should have to do.
const REVIEWS_MAX: usize = 16;
const REVIEW_TIMEOUT: Duration = Duration::from_secs(5);

pub struct Reviews {
    reviewer: Arc<dyn TokenReviewer>,
    answers: Mutex<HashMap<[u8; 32], Answer>>,
    permits: Semaphore,
}

struct Answer {
    until: Instant,
    pod: Option<Uid>,
}

impl Reviews {
    pub fn new(reviewer: Arc<dyn TokenReviewer>) -> Reviews {
        Reviews { reviewer, answers: Mutex::default(), permits: Semaphore::new(REVIEWS_MAX) }
    }

    /// The UID of the pod that was given this token.
    pub async fn pod(&self, token: &str, secret: &Secret) -> Result<Uid, Denied> {
        let digest = secret.digest();
        if let Some(answer) = self.remembered(&digest) {
            return answer.ok_or(Denied::Nobody);
        }
        let _permit = self.permits.try_acquire().map_err(|_| Denied::Busy)?;
        let review = timeout(REVIEW_TIMEOUT, self.reviewer.review(token, AUDIENCE)).await;
        let pod = match review {
            Ok(Ok(reviewed)) => owner(reviewed),
            Ok(Err(ReviewError::Rejected(why))) => {
                tracing::debug!(why, "a heartbeat's token was rejected");
                None
            }
            Ok(Err(ReviewError::Unavailable(why))) => {
                tracing::warn!(why, "a heartbeat's token could not be reviewed");
                return Err(Denied::Unavailable);
            }
            Err(_) => {
                tracing::warn!("a heartbeat's token was not reviewed within {REVIEW_TIMEOUT:?}");
                return Err(Denied::Unavailable);
            }
        };
        self.remember(digest, pod.clone());
        pod.ok_or(Denied::Nobody)
    }

    fn remembered(&self, digest: &[u8; 32]) -> Option<Option<Uid>> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.get(digest).filter(|answer| Instant::now() < answer.until).map(|answer| answer.pod.clone())
    }

    fn remember(&self, digest: [u8; 32], pod: Option<Uid>) {
        let now = Instant::now();
        let until = now + if pod.is_some() { GOOD } else { BAD };
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= ANSWERS_MAX {
            answers.retain(|_, answer| now < answer.until);
        }
        // A flood of bad tokens pushes out bad answers first: they are soonest over.
        if answers.len() >= ANSWERS_MAX
            && let Some(soonest) = answers.iter().min_by_key(|(_, answer)| answer.until)
        {
            let soonest = *soonest.0;
            answers.remove(&soonest);
        }
        answers.insert(digest, Answer { until, pod });
    }
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

    /// Knows tokens `<audience>/<pod UID>`.
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
        reviews.pod(token, &Secret::new(token)).await
    }

    #[tokio::test(start_paused = true)]
    async fn answers_are_remembered_and_forgotten() {
        let (fake, reviews) = reviews();
        for (token, answer, kept_s) in
            [("rollcall-heartbeat/u1", Ok(Uid::from("u1")), 60), ("bad", Err(Denied::Nobody), 10)]
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
            assert_eq!(pod(&reviews, token).await, Err(Denied::Nobody), "{token}");
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
        let reviews = Arc::new(reviews);
        let waiting: Vec<_> = (0..REVIEWS_MAX)
            .map(|index| {
                let reviews = Arc::clone(&reviews);
                tokio::spawn(async move { pod(&reviews, &format!("{index}/slow")).await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert_eq!(pod(&reviews, "rollcall-heartbeat/u1").await, Err(Denied::Busy));
        for one in waiting {
            assert_eq!(one.await.unwrap(), Err(Denied::Unavailable));
        }
        assert_eq!(pod(&reviews, "rollcall-heartbeat/u1").await, Ok(Uid::from("u1")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_bad_tokens_pushes_no_good_one_out() {
        let (fake, reviews) = reviews();
        assert!(pod(&reviews, "rollcall-heartbeat/u1").await.is_ok());
        for index in 0..ANSWERS_MAX + 10 {
            assert!(pod(&reviews, &format!("bad{index}")).await.is_err());
        }
        assert_eq!(reviews.answers.lock().unwrap().len(), ANSWERS_MAX);
        let before = fake.asked.load(Ordering::Relaxed);
        assert!(pod(&reviews, "rollcall-heartbeat/u1").await.is_ok());
        assert_eq!(fake.asked.load(Ordering::Relaxed), before);
    }
}
