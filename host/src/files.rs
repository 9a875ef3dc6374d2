//! The limit of open files, and its distribution. Every connection is an open file.
//!
//! The soft limit is often 1,024, for compatibility with programs that use `select`. Rollcall raises it to the hard
//! limit and derives from it the number of connections that clients may open, so that enough files remain for its own
//! use.

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files for Rollcall's own use: 128 for the API server (two watches for each of 20 namespaces, requests in flight, the
/// Lease), 64 for requests to drivers, 32 for the child process that compiles policies and its files, 16 for documents,
/// logs and listeners, and 16 in reserve.
const OWN: u64 = 256;
/// The minimum for connections of clients. With fewer the daemon would miss too many heartbeats to detect losses.
const STRANGERS_MIN: u64 = 256;

/// Connection limits of the listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Files {
    /// The current soft limit.
    pub limit: u64,
    /// Each listener has a share of what remains after `OWN`. Probes: an eighth, at most 256.
    pub probes: usize,
    /// A quarter, at most 512, because of memory: see [`http::serve`](crate::http::serve()).
    pub http: usize,
    /// For the other replicas, an eighth, at most 256: connections that have not proven yet that they are a replica's, or
    /// on a replica that stands by, forwarded requests.
    pub relay: usize,
    /// What is left, at most 4,096, because of memory: see [`graphite`](crate::heartbeat::graphite). UDP has one socket
    /// for all senders.
    pub graphite: usize,
}

impl Files {
    /// Raises the soft limit to the hard limit.
    pub fn raise() -> Result<Files> {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        if current != maximum {
            let raised = Rlimit { current: maximum, maximum };
            // Some systems have a lower limit of their own. Then the soft limit stays unchanged.
            if let Err(error) = setrlimit(Resource::Nofile, raised) {
                tracing::debug!(%error, "cannot raise the limit of open files");
            }
        }
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let files = Files::of(limit)?;
        let Files { limit, probes, http, relay, graphite } = files;
        tracing::info!(limit, probes, http, relay, graphite, "limit of open files, connections per listener");
        Ok(files)
    }

    fn of(limit: u64) -> Result<Files> {
        if limit < OWN + STRANGERS_MIN {
            bail!(
                "the hard limit of open files is {limit}, but {} are needed: raise it (`ulimit -Hn`, LimitNOFILE of a \
                 systemd unit, the container runtime's default)",
                OWN + STRANGERS_MIN
            );
        }
        let rest = limit - OWN;
        let count =
            |share: u64, most: u64| usize::try_from(share.min(most)).context("number of files out of range");
        let (probes, http) = (count(rest / 8, 256)?, count(rest / 4, 512)?);
        let relay = probes;
        let graphite = count(rest - (probes + http + relay) as u64, 4_096)?;
        Ok(Files { limit, probes, http, relay, graphite })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_may_open_leaves_enough_for_ourselves() {
        for (limit, probes, http, graphite) in [
            (512, 32, 64, 128),
            (1_024, 96, 192, 384),
            (4_096, 256, 512, 2_816),
            (5_376, 256, 512, 4_096),
            (1 << 20, 256, 512, 4_096),
            (u64::MAX, 256, 512, 4_096),
        ] {
            let files = Files::of(limit).unwrap();
            assert_eq!(files, Files { limit, probes, http, relay: probes, graphite });
            assert!((2 * probes + http + graphite) as u64 + OWN <= limit);
        }
        let refused = Files::of(511).unwrap_err().to_string();
        assert!(refused.contains("is 511, but 512 are needed"), "{refused}");
    }

    #[test]
    fn the_limit_is_raised_to_the_hard_one() {
        let files = Files::raise().unwrap();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!(current, maximum);
        assert_eq!(files.limit, maximum.unwrap_or(u64::MAX));
    }
}
