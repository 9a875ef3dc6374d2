//! Diagnostics for failed tests: while something runs, the commands that show its state are registered here. If a
//! thread panics, their output follows the panic message, and directories are kept from then on.
//!
//! All of it happens in the panic hook: nothing has been torn down yet, and tests need no code for it.

use std::ffi::{OsStr, OsString};
use std::panic;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::thread::{self, ThreadId};

static FAILED: AtomicBool = AtomicBool::new(false);
static SHOWN: Mutex<Vec<Item>> = Mutex::new(Vec::new());

#[derive(Clone)]
struct Item {
    number: u64,
    /// The thread of the test that it belongs to; shared resources belong to all.
    thread: Option<ThreadId>,
    command: Vec<OsString>,
}

/// The command is registered for the lifetime of this value.
#[must_use]
pub struct Shown(u64);

/// If this thread panics, the output of this command is printed; it has to end by itself.
pub fn show<S: AsRef<OsStr>>(command: impl IntoIterator<Item = S>) -> Shown {
    keep(Some(thread::current().id()), command)
}

/// The same for a panic of any thread.
pub fn show_everybody<S: AsRef<OsStr>>(command: impl IntoIterator<Item = S>) -> Shown {
    keep(None, command)
}

/// The end of a log.
pub fn show_tail(log: impl AsRef<OsStr>) -> Shown {
    show([OsStr::new("tail"), OsStr::new("-n60"), log.as_ref()])
}

/// Some test has failed: no directory is deleted any more.
pub fn anybody_failed() -> bool {
    FAILED.load(Ordering::Relaxed)
}

fn keep<S: AsRef<OsStr>>(thread: Option<ThreadId>, command: impl IntoIterator<Item = S>) -> Shown {
    static HOOK: Once = Once::new();
    static NEXT: AtomicU64 = AtomicU64::new(0);
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            FAILED.store(true, Ordering::Relaxed);
            before(panic);
            tell();
        }));
    });
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let command = command.into_iter().map(|word| word.as_ref().to_owned()).collect();
    SHOWN.lock().unwrap_or_else(PoisonError::into_inner).push(Item { number, thread, command });
    Shown(number)
}

/// Nothing may panic in a hook.
fn tell() {
    let here = thread::current().id();
    let items = SHOWN.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for item in items.iter().filter(|item| item.thread.is_none_or(|thread| thread == here)) {
        let words: Vec<_> = item.command.iter().map(|word| word.to_string_lossy()).collect();
        let [program, arguments @ ..] = &item.command[..] else { continue };
        let said = Command::new(program).args(arguments).output();
        let said = said.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
        println!("\n$ {}\n{}", words.join(" "), String::from_utf8_lossy(&said));
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        SHOWN.lock().unwrap_or_else(PoisonError::into_inner).retain(|item| item.number != self.0);
    }
}
