//! The clock that interrupts guests.
//!
//! Compiled guests compare the engine's epoch with their deadline at every loop and call. One thread
//! advances the epoch each millisecond; a guest that reaches its deadline calls [`Budget::check`], which
//! compares the CPU time that the thread has really used and either lets it run for another tick or ends it.
//!
//! An idle daemon should not wake up a thousand times a second, so the thread parks when no call has run for a
//! while. Only *for a while*, because waking it costs a system call, and calls tend to come in sequence. The
//! rejected alternative, a timer task on an async runtime, may fire late and then several times at once, which
//! kills innocent guests.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use wasmtime::{Engine, EngineWeak};

use crate::fault::Fault;
use crate::limits::Limits;

pub(crate) const TICK: Duration = Duration::from_millis(1);
/// Ticks without a call after which the thread parks.
const IDLE_TICKS: u32 = 50;

/// Advances the engine's epoch while calls are running.
pub(crate) struct Ticker {
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    running: AtomicUsize,
    parked: AtomicBool,
    stopped: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
}

/// While one of these exists, the epoch advances.
pub(crate) struct Running<'a>(&'a State);

impl Ticker {
    pub(crate) fn start(engine: &Engine) -> std::io::Result<Ticker> {
        let state = Arc::new(State::default());
        let engine = engine.weak();
        let shared = Arc::clone(&state);
        let thread =
            std::thread::Builder::new().name("policy-ticker".into()).spawn(move || shared.tick(&engine))?;
        Ok(Ticker { state, thread: Some(thread) })
    }

    pub(crate) fn run(&self) -> Running<'_> {
        self.state.running.fetch_add(1, Ordering::SeqCst);
        // SeqCst here and in `park`: either this thread sees `parked`, or the ticker sees the running call.
        if self.state.parked.load(Ordering::SeqCst) {
            self.state.notify();
        }
        Running(&self.state)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        self.state.notify();
        if let Some(thread) = self.thread.take() {
            // It cannot panic, and if it did there would be nothing left to do about it.
            let _ = thread.join();
        }
    }
}

impl State {
    fn tick(&self, engine: &EngineWeak) {
        let mut idle_ticks = 0;
        while !self.stopped.load(Ordering::SeqCst) {
            std::thread::sleep(TICK);
            let Some(engine) = engine.upgrade() else { return };
            engine.increment_epoch();
            let idle = self.running.load(Ordering::SeqCst) == 0;
            idle_ticks = if idle { idle_ticks + 1 } else { 0 };
            if idle_ticks > IDLE_TICKS {
                self.park();
                idle_ticks = 0;
            }
        }
    }

    fn park(&self) {
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.parked.store(true, Ordering::SeqCst);
        while self.running.load(Ordering::SeqCst) == 0 && !self.stopped.load(Ordering::SeqCst) {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.parked.store(false, Ordering::SeqCst);
    }

    fn notify(&self) {
        let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.wake.notify_all();
    }
}

/// How much time a call has, counted from its creation.
pub(crate) struct Budget {
    cpu_start: Duration,
    wall_start: Instant,
    limits: Limits,
}

impl Budget {
    pub(crate) fn start(limits: Limits) -> Budget {
        Budget { cpu_start: thread_cpu_time(), wall_start: Instant::now(), limits }
    }

    pub(crate) fn cpu(&self) -> Duration {
        thread_cpu_time().saturating_sub(self.cpu_start)
    }

    pub(crate) fn wall(&self) -> Duration {
        self.wall_start.elapsed()
    }

    pub(crate) fn check(&self) -> Result<(), Fault> {
        if self.cpu() >= self.limits.cpu {
            return Err(Fault::CpuBudget { budget_ms: millis(self.limits.cpu) });
        }
        if self.wall() >= self.limits.wall() {
            return Err(Fault::WallTime { limit_ms: millis(self.limits.wall()) });
        }
        Ok(())
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn thread_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
