//! TokenReview: the owner of a bearer token, and its audiences. SubjectAccessReview: what that user may do.

use std::collections::BTreeMap;

use k8s_openapi::api::authentication::v1 as k8s;
use k8s_openapi::api::authorization::v1 as authorization;
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

/// The user that a token names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: Option<String>,
    pub groups: Vec<String>,
    /// Facts that authorizers other than RBAC may want.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// The user that a token names, if it is for one of these audiences; without any, for the API server itself. `Ok(None)`:
/// it is not.
pub async fn user(client: Client, token: &str, audiences: &[&str]) -> Result<Option<User>, String> {
    let audiences: Vec<String> = audiences.iter().map(|&audience| audience.to_owned()).collect();
    let request = k8s::TokenReview {
        spec: k8s::TokenReviewSpec {
            token: token.to_owned(),
            audiences: Some(audiences.clone()).filter(|audiences| !audiences.is_empty()),
        },
        ..k8s::TokenReview::default()
    };
    let api: Api<k8s::TokenReview> = Api::all(client);
    let answer = within(CALL_TIMEOUT, api.create(&PostParams::default(), &request)).await;
    let status = answer.map_err(|outcome| outcome.to_string())?.status.unwrap_or_default();
    // An authenticator that knows no audiences answers with none, about a token for the API server.
    let meant = status.audiences.unwrap_or_default().iter().any(|audience| audiences.contains(audience));
    if status.authenticated != Some(true) || !(meant || audiences.is_empty()) {
        return Ok(None);
    }
    let user = status.user.unwrap_or_default();
    Ok(user.username.filter(|name| !name.is_empty()).map(|name| User {
        name,
        uid: user.uid,
        groups: user.groups.unwrap_or_default(),
        extra: user.extra.unwrap_or_default(),
    }))
}

/// May this user patch this ExecutorFleet? SubjectAccessReview.
pub async fn may_patch(client: Client, user: &User, namespace: &str, fleet: &str) -> Result<bool, String> {
    let attributes = authorization::ResourceAttributes {
        group: Some("rollcall.dev".to_owned()),
        resource: Some("executorfleets".to_owned()),
        verb: Some("patch".to_owned()),
        namespace: Some(namespace.to_owned()),
        name: Some(fleet.to_owned()),
        ..authorization::ResourceAttributes::default()
    };
    let request = authorization::SubjectAccessReview {
        spec: authorization::SubjectAccessReviewSpec {
            user: Some(user.name.clone()),
            uid: user.uid.clone(),
            groups: Some(user.groups.clone()),
            extra: Some(user.extra.clone()),
            resource_attributes: Some(attributes),
            ..authorization::SubjectAccessReviewSpec::default()
        },
        ..authorization::SubjectAccessReview::default()
    };
    let api: Api<authorization::SubjectAccessReview> = Api::all(client);
    let answer = within(CALL_TIMEOUT, api.create(&PostParams::default(), &request)).await;
    let status = answer.map_err(|outcome| outcome.to_string())?.status.unwrap_or_default();
    Ok(status.allowed && status.denied != Some(true))
}
