//! All integration tests, as one binary: linking the runtime once is slow enough.

mod builtin;
mod cli;
mod hostile;
mod sandbox;
mod support;
mod tidy;
