//! Read access: fleets, their executors, and explanations of an executor's state.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use fleet::id::ExecutorId;

use super::App;
use super::error::{Error, Path};
use super::wire::{Executors, Explained, Fleet, Fleets};
use crate::handle::{NoFleet, Overview};

pub async fn list(State(app): State<App>) -> Result<Json<Fleets>, Error> {
    let fleets = app.handle.overview().await?;
    Ok(Json(Fleets { fleets: fleets.into_iter().map(Fleet::from).collect() }))
}

pub async fn one(State(app): State<App>, Path(name): Path<String>) -> Result<Json<Fleet>, Error> {
    let fleets = app.handle.overview().await?.into_iter();
    let mut fleets: Vec<_> = fleets.filter(|fleet| fleet.is_called(&name)).collect();
    match fleets.len() {
        0 => Err(Error::no_fleet(&name, &NoFleet::Unknown)),
        1 => Ok(Json(fleets.remove(0).into())),
        _ => {
            let all = fleets.iter().map(Overview::key).collect();
            Err(Error::no_fleet(&name, &NoFleet::Ambiguous(all)))
        }
    }
}

pub async fn executors(State(app): State<App>, Path(fleet): Path<String>) -> Result<Json<Executors>, Error> {
    let snapshot = app.handle.snapshot(&fleet).await?.map_err(|why| Error::no_fleet(&fleet, &why))?;
    Ok(Json(snapshot.into()))
}

/// An executor that is gone can be explained for as long as its history is kept.
pub async fn explain(
    State(app): State<App>,
    Path((fleet, executor)): Path<(String, u64)>,
) -> Result<Json<Explained>, Error> {
    let explanation = app.handle.explain(&fleet, ExecutorId(executor)).await?;
    let explanation = explanation.map_err(|why| Error::no_fleet(&fleet, &why))?;
    if explanation.stage.is_none() && explanation.history.is_empty() {
        let here = if app.handle.pulse().is_leading() { "" } else { "; this host does not lead" };
        let message = format!("fleet {fleet:?} has no executor {executor}, and remembers none{here}");
        return Err(Error::new(StatusCode::NOT_FOUND, "unknown-executor", message));
    }
    Ok(Json(explanation.into()))
}
