//! The whole daemon against a cluster in memory: kube's own client and watcher, the real loop, queue,
//! election and policies; only the API server, the nodes and the executors are `sim`'s.
//!
//! Most suites run under tokio's paused clock: a minute takes as long as the work in it, and a time limit is
//! met exactly. Where TCP, signals or files are the point, time is real.

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
