//! The limits of a call, and the meter that enforces them.
//!
//! Everything that a guest can make the host spend is bounded: time (see [`crate::ticker`]), linear memory in
//! total rather than for each memory, tables, stack, handles, data copied out of the guest, log lines. A
//! refused growth ends the call at once, so that running out of memory has its own fault name, independent of
//! how the guest would have reacted.

use std::time::Duration;

use wasmtime::ResourceLimiter;

use crate::fault::Fault;

/// Limits of one call. The defaults suit policies in Rust, and other languages without an interpreter;
/// JavaScript needs about 128 MiB of memory and Python 384 MiB.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// CPU time of the call: the guest's, and the host's on its behalf. Waiting on a throttled or overloaded
    /// machine does not count.
    pub cpu: Duration,
    /// All linear memories together. A bulk copy runs to its end before the clock is checked, so this is part
    /// of the time limit too: 32 MiB are copied in about 10 ms.
    pub memory_bytes: usize,
    /// All tables together.
    pub table_elements: usize,
}

impl Limits {
    /// Wall time is only the backstop, for a machine that hardly schedules the process.
    pub fn wall(&self) -> Duration {
        self.cpu * 20
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits { cpu: Duration::from_millis(50), memory_bytes: 32 << 20, table_elements: 100_000 }
    }
}

/// Stack of a guest, for every call: part of the engine, not of a call.
pub(crate) const STACK_BYTES: usize = 512 << 10;
/// What a guest may return to the host in one piece: an answer or a log line. 1,000 picks with a reason of
/// 1 KiB each.
pub(crate) const OUTPUT_BYTES: usize = 1 << 20;
/// Live handles to host resources. Only WASI has any.
pub(crate) const HANDLES: usize = 1_024;
/// Core instances, tables and memories of one component: interpreters are many instances.
pub(crate) const CORE_INSTANCES: u32 = 200;
pub(crate) const TABLES: u32 = 20;
pub(crate) const MEMORIES: u32 = 4;
/// Size of a module file. Python components are the largest known: 38 MB.
pub(crate) const MODULE_BYTES: u64 = 64 << 20;

/// Counts the resources of the instances of one call.
#[derive(Debug)]
pub(crate) struct Meter {
    limits: Limits,
    memory_bytes: usize,
    table_elements: usize,
}

/// An error that already carries its fault, while it passes through the guest.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct Stop(#[from] pub(crate) Fault);

impl Meter {
    pub(crate) fn new(limits: Limits) -> Meter {
        Meter { limits, memory_bytes: 0, table_elements: 0 }
    }

    /// Linear memory of the call. Memories never shrink, so this is also the peak.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }
}

impl ResourceLimiter for Meter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _max: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let total = self.memory_bytes.saturating_add(desired.saturating_sub(current));
        if total > self.limits.memory_bytes {
            return Err(Stop(Fault::Memory { limit_bytes: self.limits.memory_bytes }).into());
        }
        self.memory_bytes = total;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _max: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let total = self.table_elements.saturating_add(desired.saturating_sub(current));
        if total > self.limits.table_elements {
            return Err(Stop(Fault::Tables { limit: self.limits.table_elements }).into());
        }
        self.table_elements = total;
        Ok(true)
    }

    // The pool has these limits itself; for instances made on demand, they are enforced here.
    fn instances(&self) -> usize {
        CORE_INSTANCES as usize
    }

    fn tables(&self) -> usize {
        TABLES as usize
    }

    fn memories(&self) -> usize {
        MEMORIES as usize
    }
}
