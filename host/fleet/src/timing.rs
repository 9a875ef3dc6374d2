//! Time limits of the API server and of nodes.

/// A request that was sent longer ago than this can no longer be applied: the API server gives a request at
/// most a minute.
pub(crate) const LATE_REQUEST_MS: u64 = 60_000;
/// How long to wait for the end of a pod whose deletion was accepted before it is verified: longer than any usual
/// grace period.
pub(crate) const VERIFY_AFTER_MS: u64 = 60_000;
