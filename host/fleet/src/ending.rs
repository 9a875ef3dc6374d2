//! How a failed application is ended.

use crate::backoff::Backoff;
use crate::id::ActionId;
use crate::time::Instant;

/// The deletion of a failed fleet's driver.
#[derive(Debug)]
pub(crate) struct Ending {
    pub call: Option<ActionId>,
    pub due: Instant,
    pub backoff: Backoff,
}

impl Ending {
    pub(crate) fn new() -> Ending {
        Ending { call: None, due: Instant::START, backoff: Backoff::new(10_000, 360_000) }
    }
}
