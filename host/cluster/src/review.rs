//! A bearer token, reviewed by the API server: whose is it, and for which audience?

use k8s_openapi::api::authentication::v1 as k8s;
use kube::api::PostParams;
use kube::{Api, Client};

use crate::client::CALL_TIMEOUT;
use crate::outcome::within;

/// What the API server says of a token that it takes for genuine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reviewed {
    /// For which of the audiences that were asked about it is. Empty: for the API server only, and so not
    /// for us.
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
