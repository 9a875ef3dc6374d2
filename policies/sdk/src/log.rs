//! Lines for the operator's log: `log::info(format!("looked at {n} executors"))`.

use crate::bindings::base::rollcall::policy::log::{Level, log};

/// For the policy's author.
pub fn debug(message: impl AsRef<str>) {
    write(Level::Debug, message.as_ref());
}

/// Worth knowing.
pub fn info(message: impl AsRef<str>) {
    write(Level::Info, message.as_ref());
}

/// Something is odd, the answer stands.
pub fn warn(message: impl AsRef<str>) {
    write(Level::Warn, message.as_ref());
}

/// The answer suffers.
pub fn error(message: impl AsRef<str>) {
    write(Level::Error, message.as_ref());
}

#[cfg(target_arch = "wasm32")]
fn write(level: Level, message: &str) {
    log(level, message);
}

/// Natively, as in `cargo test`, there is no host to write to.
#[cfg(not(target_arch = "wasm32"))]
fn write(level: Level, message: &str) {
    let _the_host_function: fn(Level, &str) = log;
    eprintln!("{level:?}: {message}");
}
