//! The whole daemon against an in-memory cluster: kube's own client and watcher, the real loop, queue, election and
//! policies; only the API server, the nodes and the executors are those of `embedded`.
//!
//! Most suites run under tokio's paused clock: a minute takes only as long as the work in it, and time limits are
//! exact. Tests of TCP, signals or files use real time.

mod changes;
mod contest;
mod ears;
mod faults;
mod field;
mod hostile;
mod judge;
mod ledgers;
mod process;
mod real;
mod replay;
mod restarts;
mod rolls;
mod scrape;
mod standstill;
mod support;
mod world;
