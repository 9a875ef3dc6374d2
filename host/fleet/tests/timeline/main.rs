//! Timelines: a test is one text, with events and, below each event, what the core wants done.
//!
//! ```text
//! 0s lead
//!     > 0s create 1
//!     > 0s create 2
//! 1s start 1 2
//! # The roll interval ends before the next event.
//!     > 60s ask OUTLIER whom to roll of [2, 1]
//! 60s picks 1
//!     > 60s create 3
//! ```
//!
//! `check(spec, text)` passes the events to one `Fleet` and compares the whole text. `spec(n)` is a fleet
//! of `n` in mode Own; `rolling(n)` also rolls with the policy `OUTLIER` every minute. Change the fields of
//! the spec for other settings. The words are implemented in `support/`: `mod.rs` (events and output),
//! `pods.rs`, `answers.rs` (the driver and policies), `specs.rs`.
//!
//! # Lines
//!
//! - A line without `>` is an **event**: a time and words. A time is a number of seconds since the start,
//!   with up to three decimals: `12s`, `1.5s`. It must not be lower than that of the event before.
//! - A line with `>` is **output**: the time at which it came, and what came. Milliseconds have three digits:
//!   `2.477s`.
//! - A line that starts with `#` is a comment. Indentation, comments and empty lines do not count.
//!
//! # Time
//!
//! Deadlines up to the time of an event fire *before* the event. So the output of a deadline stands above the
//! event that moves time past it, as `> 60s ask` above. Nothing happens after the last event; `90s wait`
//! moves time. The wall clock starts at 2026-11-02 00:00 UTC, a Monday.
//!
//! # What is compared
//!
//! All output, as text and in order: a line too many is as wrong as a line that is missing. These are left
//! out:
//!
//! - the first list after `lead`, which is answered at once, except after `lead unlisted`;
//! - reads and writes of the ledger, which the test keeps and answers at once, until `show ledger`;
//! - notices, until `show REASON`;
//! - of an action: its number, its cause (except the executor that is replaced), its grace period, the
//!   evidence and the facts in a question.
//!
//! `Fleet::audit` runs after every step. The test also fails if the core does not come to rest within one
//! instant, or makes a call for a pod while the same call is open.
//!
//! # What the cluster does by itself
//!
//! Nothing, but for the ledger and the first list. Every other action is open until an event gives its
//! outcome. Executors named by `beating` send a heartbeat every 10 s. In fleets that roll, the driver reports
//! at the same times, with a row for each executor that was heard and still has a pod.
//!
//! # Events
//!
//! Leadership:
//!
//! - `lead`, `lead unlisted`: gained, with and without an answer to the first list. `depose`: lost. `affirm`:
//!   confirmed, the answer to `check lease`.
//! - `restart`: a new `Fleet` with the same spec. Pods and the ledger stay; open calls are forgotten. It
//!   needs `lead`.
//!
//! Outcomes of calls:
//!
//! - `create 1 OUTCOME`, also `get`, `delete`, `evict`: the outcome of the open call. `ok`, `exists`,
//!   `conflict`, `notfound`, `throttled`, `throttled 5s`, `budget`, `forbidden`, `invalid`, `unknown`.
//!   `delete 0` is the deletion of the driver.
//! - `create 1 ok WORDS`: as `pod 1 WORDS`, what admission made of it. `get 1 foreign`: a pod whose owner is
//!   not the driver.
//! - `start 1 2`: for each, the open create succeeds, the pod runs, and one heartbeat arrives.
//!
//! Pods:
//!
//! - `pod 1 WORDS`: the pod changes, or appears. `pending`, `running`, `succeeded`, `failed` set its phase;
//!   `exit=137` ends the executor's container; `terminating`, `disrupted`, `terminating-target`,
//!   `gated=NAME`, `admitted` (no gates), `do-not-roll`, `orphaned` (no owner), `unlabelled`, `node=NAME`,
//!   `uid=UID`.
//! - `unseen 1 WORDS`: the same, and the watch does not report it. `again 1`: the last state is reported once
//!   more.
//! - `gone 1`, `gone 1 WORDS`: the pod is deleted, after a last change. `vanish 1`: the same without a
//!   report.
//! - `list`: a complete list. `revision=5`: of that revision. `driver=gone`: without the driver. `taken`: as
//!   it was when the list was requested.
//! - `stale`, `fresh`: the watch is broken, is up again.
//! - `node NAME`: a node that is ready. `leaving`: its end is announced. `spot`.
//!
//! Heartbeats:
//!
//! - `beat 1 2`: now. `beat 1 uid=u9`: from that pod. `beating 1 2`: now and every 10 s, these and no others.
//! - `deaf refused`: heartbeats may have been lost: `refused`, `dropped`, `unattributed`, `paused`.
//!
//! The driver:
//!
//! - `driver gone`: its pod is gone. `driver restarts`: its container has ended, and restarts.
//! - `driver answers`: a report without rows. `driver mute`, `driver speaks`: the regular reports stop,
//!   resume.
//! - `driver 1 WORDS`: a report of this executor: `tasks=3` (total), `active=1`, `removed`, `uncounted`
//!   (without counters). `driver counts 1 2`: a report of these, with counters of 0.
//!
//! Policies:
//!
//! - `lost 1 VERDICT`: the classifier's answer. `undetermined`, `abstain`, `trap`, or a kind: `released`,
//!   `deleted`, `exit-status`, `heartbeat-lost`, `node-lost`, `start-failed`, `evicted`, `preempted`,
//!   `not-admitted`, `killed`, `driver-connection`, `out-of-memory`, `app-failure`. After a kind `app` blames
//!   the application, and `keep` keeps the pod.
//! - `picks 3 1`: the roll policy's answer. An id that was not offered becomes an invalid pick.
//! - `no-picks nothing`, `no-picks abstain`: other answers. `no-picks WORD`: a fault of the policy.
//!
//! The ledger:
//!
//! - `ledger forbidden`, `ledger unknown`: the outcome of every call from now on. `ledger ok`: calls succeed
//!   again.
//! - `older`, `deleted`, `garbage`, `good`, `patched FIELD`: another client replaces it with an empty one,
//!   deletes it, makes it unreadable, makes it readable, changes one number of it (`reserved`, `created`,
//!   `epoch`, `writes`, `revision`).
//! - `usurped`: another leader claims it. `twin`: another leader of the same epoch is faster with the next
//!   write.
//!
//! Operators:
//!
//! - `spec WORDS`: a new spec: `target=3`, `surge=1`, `unavailable=1`, `batch=2`, `paused=true`,
//!   `dry-run=true`, `heartbeats=off`, `scale-down=driver`, `name=g`.
//! - `total 5`, `kill 1 2`, `kill 1 replace force`, `roll`, `roll 1`, `pause`, `resume`, `reset` (the
//!   breaker), `reset-ledger`.
//!
//! Questions of the test:
//!
//! - `show WORDS`: from now on also print notices with these reasons (`RollStarted`), `ledger` calls, and in
//!   questions about losses the `silences` and `registrations`.
//! - `explain 1`, `explain 1 history`: print its stage and what holds its roll back; the last line of its
//!   history.
//! - `counts`, `conditions`, `conditions NAMES`: print the sums, the names of the conditions, the messages of
//!   these.
//!
//! # Output
//!
//! | line | what it is |
//! |---|---|
//! | `create 4 for 1 avoiding a b` | create a pod; `for` the lost executor that it replaces, `avoiding` nodes |
//! | `get 1`, `delete 1 uid u1`, `evict 1 uid u1` | the other calls for a pod. The first pod of executor 1 has UID `u1` |
//! | `delete the driver`, `relist`, `check lease` | `Verb::DeleteDriver`, `Relist`, `CheckLease` |
//! | `read ledger`, `write ledger` | after `show ledger` |
//! | `ask SPARK why 1 was lost: PodFailed, check 0` | with the trigger, and the number of undetermined answers so far |
//! | `… , never registered, silent for 120.001s` | after `show registrations silences` |
//! | `ask OUTLIER whom to roll of [2, 1]` | with the candidates |
//! | `reply done`, `reply refused CODE`, `reply 1 ok, 2 busy` | the reply to an operator's command |
//! | `RollStarted 1: MESSAGE` | a notice, after `show RollStarted` |
//! | `1 is available: not-picked` | after `explain 1`: the stage, and the code of a refusal or `nothing in the way` |
//! | `created 2 = live 1 + …`, `conditions BreakerOpen` | after `counts`, `conditions` |
//!
//! # Writing and blessing
//!
//! To write a timeline, list the events and run
//!
//! ```console
//! $ cargo bless
//! ```
//!
//! That is `UPDATE_TIMELINES=1 cargo test -p fleet --test timeline`, and takes the name of a test. It writes
//! the output that came into each timeline that differs (`support/bless.rs`). Tests pass then, so the output
//! is only as good as its review: read `git diff`, and check that each line is right and is due at that time.
//! What fails in another way (an outcome without its call, a failed audit) is not written; correct the events
//! first. The text has to be a plain string literal among the arguments of `check`.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "what goes wrong in a test panics")]

mod support;

mod allocation;
mod commands;
mod field;
mod ledger;
mod losses;
mod rolls;
mod sar;
mod scaling;
mod silence;
mod specs;
