//! Commands: Spark's `ExecutorAllocationClient`, and Rollcall's own verbs.
//!
//! | verb | body | Spark |
//! |---|---|---|
//! | roll | `{"executor": 7}`, or `{}`: the policy picks | `decommissionExecutor` |
//! | kill | `{"executors": [7], "replace": true, "force": false}` | `killExecutors` |
//! | scale | `{"executors": 20}` | `requestTotalExecutors` |
//! | pause, resume, reset-breaker, reset-ledger | `{}` | |
//!
//! 200 means that the command was accepted and survives a change of leader, not that it is finished. 409 means that a
//! guard-rail rejected it; the body has its code and message.

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use fleet::action::Reply;
use fleet::event::Command;
use fleet::id::ExecutorId;

use super::App;
use super::error::{Body, Error, Path};
use super::guards::Author;
use super::wire::{Accepted, ExecutorResult, Kill, Nothing, Roll, Scale};
use crate::handle::Commanded;

type Answer = Result<Json<Accepted>, Error>;

pub async fn roll(
    State(app): State<App>,
    by: Extension<Author>,
    Path(fleet): Path<String>,
    Body(roll): Body<Roll>,
) -> Answer {
    command(&app, &fleet, by, Command::Roll(roll.executor.map(ExecutorId))).await
}

pub async fn kill(
    State(app): State<App>,
    by: Extension<Author>,
    Path(fleet): Path<String>,
    Body(kill): Body<Kill>,
) -> Answer {
    let Kill { executors, replace, force } = kill;
    if executors.is_empty() {
        let message = "executors: name at least one";
        return Err(Error::new(StatusCode::UNPROCESSABLE_ENTITY, "wrong-fields", message));
    }
    let executors = executors.into_iter().map(ExecutorId).collect();
    command(&app, &fleet, by, Command::Kill { executors, replace, force }).await
}

pub async fn scale(
    State(app): State<App>,
    by: Extension<Author>,
    Path(fleet): Path<String>,
    Body(scale): Body<Scale>,
) -> Answer {
    command(&app, &fleet, by, Command::RequestTotalExecutors(scale.executors)).await
}

pub async fn pause(
    State(app): State<App>,
    by: Extension<Author>,
    Path(fleet): Path<String>,
    Body(Nothing {}): Body<Nothing>,
) -> Answer {
    command(&app, &fleet, by, Command::Pause).await
}

pub async fn resume(
    State(app): State<App>,
    by: Extension<Author>,
    Path(fleet): Path<String>,
    Body(Nothing {}): Body<Nothing>,
) -> Answer {
    command(&app, &fleet, by, Command::Resume).await
}

pub async fn reset_breaker(
    State(app): State<App>,
    by: Extension<Author>,
    Path(fleet): Path<String>,
    Body(Nothing {}): Body<Nothing>,
) -> Answer {
    command(&app, &fleet, by, Command::ResetBreaker).await
}

pub async fn reset_ledger(
    State(app): State<App>,
    by: Extension<Author>,
    Path(fleet): Path<String>,
    Body(Nothing {}): Body<Nothing>,
) -> Answer {
    command(&app, &fleet, by, Command::ResetLedger).await
}

async fn command(app: &App, fleet: &str, Extension(Author(by)): Extension<Author>, verb: Command) -> Answer {
    let asked = format!("{verb:?}");
    let reply = match app.handle.command(fleet, verb, by.clone()).await? {
        Commanded::Replied(reply) => reply,
        Commanded::NoFleet(why) => return Err(Error::no_fleet(fleet, &why)),
        Commanded::NoDriver(why) => return Err(Error::no_driver(&why)),
    };
    tracing::info!(fleet, command = asked, user = by, reply = ?reply, "commanded over HTTP");
    match reply {
        Reply::Done => Ok(Json(Accepted::default())),
        Reply::Refused(refusal) => Err(Error::refused(refusal, Vec::new())),
        Reply::Executors(each) => {
            // It is an error only if all of it was rejected; partial acceptance is an answer.
            let first = each.first().and_then(|(_, result)| result.err());
            let none = each.iter().all(|(_, result)| result.is_err());
            let executors = each.into_iter().map(ExecutorResult::from).collect();
            match first {
                Some(refusal) if none => Err(Error::refused(refusal, executors)),
                _ => Ok(Json(Accepted { executors })),
            }
        }
    }
}
