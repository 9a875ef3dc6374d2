//! Every executor that ever existed: by the serial of its pod, by application, and by id.

use std::collections::BTreeMap;
use std::ops::Index;

use fleet::id::ExecutorId;

use super::Executor;
use crate::api::Serial;

/// Checkers ask for the executors of one application, or with one id, at nearly every step; a run has hundreds.
#[derive(Debug, Default)]
pub struct Executors {
    /// The place is the serial, because serials count the pods.
    all: Vec<Option<Executor>>,
    /// By application, in the order of their creation.
    apps: BTreeMap<usize, Vec<Serial>>,
    ids: BTreeMap<(usize, ExecutorId), Vec<Serial>>,
}

fn place(serial: Serial) -> usize {
    usize::try_from(serial.0).unwrap_or(usize::MAX)
}

impl Executors {
    pub fn insert(&mut self, executor: Executor) {
        let at = place(executor.serial);
        if self.all.len() <= at {
            self.all.resize(at + 1, None);
        }
        self.apps.entry(executor.app).or_default().push(executor.serial);
        self.ids.entry((executor.app, executor.executor)).or_default().push(executor.serial);
        self.all[at] = Some(executor);
    }

    pub fn get(&self, serial: &Serial) -> Option<&Executor> {
        self.all.get(place(*serial))?.as_ref()
    }

    pub fn get_mut(&mut self, serial: &Serial) -> Option<&mut Executor> {
        self.all.get_mut(place(*serial))?.as_mut()
    }

    pub fn values(&self) -> impl Iterator<Item = &Executor> {
        self.all.iter().flatten()
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut Executor> {
        self.all.iter_mut().flatten()
    }

    /// Those of one application.
    pub fn of(&self, app: usize) -> impl Iterator<Item = &Executor> {
        self.apps.get(&app).into_iter().flatten().filter_map(|serial| self.get(serial))
    }

    /// Those of one application that have, or had, this id.
    pub fn with_id(&self, app: usize, id: ExecutorId) -> impl Iterator<Item = &Executor> {
        self.ids.get(&(app, id)).into_iter().flatten().filter_map(|serial| self.get(serial))
    }
}

impl Index<&Serial> for Executors {
    type Output = Executor;

    fn index(&self, serial: &Serial) -> &Executor {
        self.get(serial).expect("it exists")
    }
}
