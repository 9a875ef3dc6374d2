//! The host's side of one instance.

use crate::bindings::rollcall::policy::log::{self, Level};
use crate::guest_log::GuestLog;
use crate::limits::Meter;
use crate::ticker::Budget;

pub(crate) mod wasi;

use wasi::Wasi;

pub(crate) struct Guest {
    pub(crate) meter: Meter,
    pub(crate) budget: Budget,
    pub(crate) log: GuestLog,
    pub(crate) wasi: Option<Box<Wasi>>,
}

impl log::Host for Guest {
    fn log(&mut self, level: Level, message: String) {
        self.log.write(level, &message);
    }
}
