//! How many files may be open, and what for: every connection is one.
//!
//! The soft limit is often 1,024 for the sake of programs that use `select`. It is raised to the hard one, and what
//! strangers may open is derived from it, so that there is always a file for what we open ourselves.

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What we open ourselves: 128 for the API server (two watches for each of 20 namespaces, calls under way, the Lease),
/// 64 for drivers that are asked, 32 for the policies' child and their files, 16 for documents, logs and listeners, and
/// 16 in reserve.
const OWN: u64 = 256;
/// Below that a daemon does not listen well enough to judge silence.
const STRANGERS_MIN: u64 = 256;

/// What each listener may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Files {
    /// The soft limit, now.
    pub limit: u64,
    /// Connections. Each has a share, from the rest after `OWN`: an eighth, but 256 are enough.
    pub probes: usize,
    /// A quarter, at most 512: by memory, see [`http::serve`](crate::http::serve()).
    pub http: usize,
    /// What is left, at most 4,096: by memory, see [`graphite`](crate::heartbeat::graphite). UDP has one for all.
    pub graphite: usize,
}

impl Files {
    /// Raises the limit as far as it goes.
    pub fn raise() -> Result<Files> {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        if current != maximum {
            let raised = Rlimit { current: maximum, maximum };
            // Some systems have a lower ceiling of their own: then it stays as it is.
            if let Err(error) = setrlimit(Resource::Nofile, raised) {
                tracing::debug!(%error, "the limit of open files stays as it is");
            }
        }
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let files = Files::of(limit)?;
        let Files { limit, probes, http, graphite } = files;
        tracing::info!(limit, probes, http, graphite, "files that may be open, and connections of each kind");
        Ok(files)
    }

    fn of(limit: u64) -> Result<Files> {
        if limit < OWN + STRANGERS_MIN {
            bail!(
                "the hard limit of open files is {limit}, and {} are needed: raise it (`ulimit -Hn`, LimitNOFILE of a \
                 systemd unit, the container runtime's default)",
                OWN + STRANGERS_MIN
            );
        }
        let rest = limit - OWN;
        let count = |share: u64, most: u64| usize::try_from(share.min(most)).context("a number of files");
        let (probes, http) = (count(rest / 8, 256)?, count(rest / 4, 512)?);
        let graphite = count(rest - (probes + http) as u64, 4_096)?;
        Ok(Files { limit, probes, http, graphite })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_may_open_leaves_enough_for_ourselves() {
        for (limit, probes, http, graphite) in [
            (512, 32, 64, 160),
            (1_024, 96, 192, 480),
            (4_096, 256, 512, 3_072),
            (5_120, 256, 512, 4_096),
            (1 << 20, 256, 512, 4_096),
            (u64::MAX, 256, 512, 4_096),
        ] {
            let files = Files::of(limit).unwrap();
            assert_eq!(files, Files { limit, probes, http, graphite });
            assert!((probes + http + graphite) as u64 + OWN <= limit);
        }
        let refused = Files::of(511).unwrap_err().to_string();
        assert!(refused.contains("is 511, and 512 are needed"), "{refused}");
    }

    #[test]
    fn the_limit_is_raised_to_the_hard_one() {
        let files = Files::raise().unwrap();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!(current, maximum);
        assert_eq!(files.limit, maximum.unwrap_or(u64::MAX));
    }
}
