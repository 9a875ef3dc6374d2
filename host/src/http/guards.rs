//! Middleware: authorization of commands, concurrency, timeouts, and security headers for browsers.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use super::error::{Error, Path};
use super::serve::Peer;
use super::{AT_ONCE_MAX, App, REQUEST_MAX};
use crate::handle::{NoFleet, Overview};

/// The user who gives a command, as an extension of the request. `None`: the bearer of the daemon's token.
#[derive(Clone, Debug)]
pub struct Author(pub Option<String>);

/// Runs before anything else, in particular before the body is read.
pub async fn authorize(
    State(app): State<App>,
    Path(fleet): Path<String>,
    mut request: Request,
    next: Next,
) -> Result<Response, Error> {
    if app.token.is_none() && app.authority.is_none() {
        let message =
            "this daemon takes no commands: start it with --token-file or --authorize to enable them";
        return Err(Error::new(StatusCode::FORBIDDEN, "commands-disabled", message));
    }
    let Some(given) = bearer(request.headers()) else {
        let whose = if app.authority.is_some() { "your" } else { "the daemon's" };
        let message = format!("commands need {whose} token: Authorization: Bearer <token>");
        return Err(Error::new(StatusCode::UNAUTHORIZED, "no-token", message));
    };
    let peer = request.extensions().get::<Peer>().cloned();
    // The time of the comparison reveals the token's length, and nothing else.
    let author = if app.token.as_ref().is_some_and(|token| bool::from(given.ct_eq(token))) {
        peer.iter().for_each(Peer::prove);
        Author(None)
    } else {
        let user = user(&app, given, peer.as_ref(), &fleet).await;
        Author(Some(user.inspect_err(|_| refused(&app, &request, peer.as_ref()))?))
    };
    request.extensions_mut().insert(author);
    Ok(next.run(request).await)
}

/// The user whom this token names, if that user may command this fleet.
async fn user(app: &App, token: &[u8], peer: Option<&Peer>, called: &str) -> Result<String, Error> {
    let wrong = || Error::new(StatusCode::UNAUTHORIZED, "wrong-token", "this is not the daemon's token");
    let authority = app.authority.as_ref().ok_or_else(wrong)?;
    let token =
        str::from_utf8(token).ok().map(str::trim).filter(|token| !token.is_empty()).ok_or_else(wrong)?;
    let user = authority.user(token).await?;
    peer.into_iter().for_each(Peer::prove);
    let mut fleets: Vec<_> = app.handle.overview().await?;
    fleets.retain(|fleet| fleet.is_called(called));
    match &fleets[..] {
        [] => Err(Error::no_fleet(called, &NoFleet::Unknown)),
        [fleet] => {
            authority.check(token, &user, &fleet.namespace, &fleet.fleet).await?;
            Ok(user.name.clone())
        }
        several => {
            let all = several.iter().map(Overview::key).collect();
            Err(Error::no_fleet(called, &NoFleet::Ambiguous(all)))
        }
    }
}

/// Logs that a command was refused.
fn refused(app: &App, request: &Request, peer: Option<&Peer>) {
    let peer = peer.map_or(IpAddr::from([0, 0, 0, 0]), Peer::ip);
    if let Some(left_out) = app.wrong_tokens.may_say(peer) {
        // The last part is one of the verbs. The part before it is untrusted.
        let verb = request.uri().path().rsplit('/').next().unwrap_or("");
        tracing::warn!(verb, %peer, left_out, "a command was refused: its token gives no right to it");
    }
}

pub async fn few_at_once(State(app): State<App>, request: Request, next: Next) -> Result<Response, Error> {
    let Ok(_permit) = app.requests.try_acquire() else {
        let message = format!("{AT_ONCE_MAX} requests are in progress; try again");
        return Err(Error::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message));
    };
    Ok(next.run(request).await)
}

/// Limits concurrent lists, and counts an answer until it is read.
pub async fn few_lists(State(app): State<App>, request: Request, next: Next) -> Response {
    // The semaphore is never closed, so this is a permit.
    let _turn = app.lists.acquire().await;
    let peer = request.extensions().get::<Peer>().cloned();
    let answer = next.run(request).await;
    app.answers.hold(peer, answer).await
}

/// A handler waits half as long for the loop, so a request that takes longer is one whose body does not arrive.
pub async fn in_time(request: Request, next: Next) -> Response {
    let in_time = tokio::time::timeout(REQUEST_MAX, next.run(request)).await;
    in_time.unwrap_or_else(|_| {
        let message = format!("the request was not finished after {} s", REQUEST_MAX.as_secs());
        Error::new(StatusCode::REQUEST_TIMEOUT, "timeout", message).into_response()
    })
}

/// Answers are data for programs: browsers must not execute, frame, sniff or cache them. A page overrides this with its
/// own headers.
pub async fn harden(mut response: Response) -> Response {
    for (name, value) in [
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// The credentials of RFC 6750; the scheme's case does not matter.
pub fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}
