//! TokenReview: the owner of a bearer token, and its audiences.

use k8s_openapi::api::authentication::v1 as k8s;
use kube::api::PostParams;
use kube::{Api, Client};

use crate::client::CALL_TIMEOUT;
use crate::outcome::within;

/// The API server's answer about a genuine token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reviewed {
    /// The requested audiences for which the token is valid. Empty: it is valid only for the API server, and so
    /// not for us.
    pub audiences: Vec<String>,
    pub pod_uid: Option<String>,
    pub pod_name: Option<String>,
}

/// `Ok(None)`: the token is not genuine.
pub async fn review(client: Client, token: &str, audience: &str) -> Result<Option<Reviewed>, String> {
    let request = k8s::TokenReview {
        spec: k8s::TokenReviewSpec { token: token.to_owned(), audiences: Some(vec![audience.to_owned()]) },
        ..k8s::TokenReview::default()
    };
    let api: Api<k8s::TokenReview> = Api::all(client);
    let answer = within(CALL_TIMEOUT, api.create(&PostParams::default(), &request)).await;
    let status = answer.map_err(|outcome| outcome.to_string())?.status.unwrap_or_default();
    if status.authenticated != Some(true) {
        return Ok(None);
    }
    let mut extra = status.user.and_then(|user| user.extra).unwrap_or_default();
    let mut first = |key: &str| extra.remove(key).and_then(|values| values.into_iter().next());
    Ok(Some(Reviewed {
        audiences: status.audiences.unwrap_or_default(),
        pod_uid: first("authentication.kubernetes.io/pod-uid"),
        pod_name: first("authentication.kubernetes.io/pod-name"),
    }))
}
