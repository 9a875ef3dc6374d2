//! One call.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fleet::question as q;
use thiserror::Error;
use wasmtime::component::{Component, HasSelf, Instance, InstancePre, Linker};
use wasmtime::{Engine, Store, Trap, UpdateDeadline};
use wasmtime_wasi::I32Exit;

use crate::bindings::exports::rollcall::policy as exports;
use crate::bindings::rollcall::policy::log::{self, Level};
use crate::builtin::Builtin;
use crate::cache::Cache;
use crate::child::{self, Compiler, Job};
use crate::convert::{self, Complaint, Lent};
use crate::engine::{ADDRESSES, Engines, Mode, engine_config, pool};
use crate::fault::{Fault, InvalidAnswer};
use crate::fence;
use crate::guest::Guest;
use crate::guest::wasi::{self, Wasi};
use crate::guest_log::{GuestLog, LogLine, printable};
use crate::limits::{HANDLES, Limits, MODULE_BYTES, Meter, OUTPUT_BYTES, STACK_BYTES, Stop};
use crate::module::{self, Checker, Exports, Module};
use crate::refusal::Refusal;
use crate::regular::read_regular;
use crate::settings::{Settings, SettingsProblem};
use crate::ticker::{Budget, Ticker, millis};
use crate::world;

/// How a sandbox is set up.
#[derive(Debug)]
pub struct SandboxConfig {
    /// How calls are limited: by CPU time, or in tests also by fuel.
    pub mode: Mode,
    /// Limits of each call.
    pub limits: Limits,
    /// Concurrent calls; further ones wait. Each uses a thread, so more than the number of cores is useless.
    pub calls_max: u32,
    /// Where compiled code is kept between runs.
    pub cache: Option<Cache>,
    /// Compiler of modules that are not built in.
    pub compiler: Compiler,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        let (mode, limits, compiler) = (Mode::Serve, Limits::default(), Compiler::default());
        SandboxConfig { mode, limits, calls_max: 4, cache: None, compiler }
    }
}

/// The machine cannot run WebAssembly as required.
#[derive(Debug, Error)]
#[error("cannot set up the policy sandbox: {0}")]
pub struct SandboxError(String);

/// Runs policies. Cheap to share: calls take `&self`.
pub struct Sandbox {
    shared: Arc<Shared>,
}

struct Shared {
    engine: Engine,
    linker: Linker<Guest>,
    linker_with_wasi: Linker<Guest>,
    ticker: Ticker,
    permits: Permits,
    mode: Mode,
    limits: Limits,
    cache: Option<Cache>,
    compiler: Compiler,
    /// One at a time: each may take hundreds of megabytes.
    compiling: Mutex<()>,
    engines: Engines,
}

/// Result of a call.
#[derive(Clone, Debug)]
pub struct Evaluation<A> {
    /// The answer, whose form was checked; or why there is none.
    pub answer: Result<A, Fault>,
    /// Parts of the answer that were ignored.
    pub complaints: Vec<Complaint>,
    /// What the policy logged, also in a call that failed: at most 100 lines.
    pub log: Vec<LogLine>,
    /// How many further lines it logged.
    pub log_dropped: u64,
    /// What the call cost, also if it failed.
    pub cost: Cost,
}

/// The resources that a call used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// From the request to the answer, including the wait for a free sandbox.
    pub wall: Duration,
    /// Time to create the store and the instance; part of `wall`.
    pub instantiate: Duration,
    /// CPU time of the calling thread.
    pub cpu: Duration,
    /// Linear memory at the end.
    pub memory_bytes: usize,
    /// Only in [`Mode::Lab`].
    pub fuel: Option<u64>,
}

/// Facts of a question that a WASI guest sees as its clock and randomness.
#[derive(Clone, Copy)]
struct Moment {
    now_ms: i64,
    seed: u64,
}

impl Sandbox {
    /// Prepares the engine and starts its clock, a thread that lives as long as the sandbox.
    ///
    /// # Errors
    ///
    /// If this machine cannot run WebAssembly, or the thread cannot be started. With too little address space for a
    /// pool, instances are created on demand: that is no error.
    pub fn new(config: SandboxConfig) -> Result<Sandbox, SandboxError> {
        let (mode, limits, calls_max) = (config.mode, config.limits, config.calls_max.max(1));
        let narrow = rustix::process::getrlimit(rustix::process::Resource::As).current;
        let engines =
            if narrow.is_some_and(|most| most < ADDRESSES) { Engines::Narrow } else { Engines::OnDemand };
        let pooled = match mode {
            // Reserves address space for every slot; if there is too little (a 39-bit machine, a `ulimit -v`),
            // this fails and instances are created on demand.
            Mode::Serve => {
                let engine = engine_config(mode, Engines::Pooled);
                Engine::new(engine.clone().allocation_strategy(pool(calls_max, &limits))).ok()
            }
            Mode::Lab { .. } => None,
        };
        match pooled {
            Some(engine) => Sandbox::over(engine, Engines::Pooled, config),
            // There may not even be enough for a single memory with its full reservation.
            None if mode == Mode::Serve => Sandbox::on_demand(Engines::Narrow, config),
            None => Sandbox::on_demand(engines, config),
        }
    }

    /// The sandbox of a process that compiles: the same machine code, and one instance.
    pub(crate) fn compiling(job: &Job) -> Result<Sandbox, SandboxError> {
        let config =
            SandboxConfig { mode: job.mode, limits: job.limits, calls_max: 1, ..SandboxConfig::default() };
        // One thread: the limit of CPU time applies to the process, and each thread takes memory of its own.
        let mut engine = engine_config(job.mode, job.engines);
        engine.parallel_compilation(false);
        Sandbox::over(Engine::new(&engine).map_err(failed)?, job.engines, config)
    }

    fn on_demand(engines: Engines, config: SandboxConfig) -> Result<Sandbox, SandboxError> {
        Sandbox::over(Engine::new(&engine_config(config.mode, engines)).map_err(failed)?, engines, config)
    }

    fn over(engine: Engine, engines: Engines, config: SandboxConfig) -> Result<Sandbox, SandboxError> {
        let SandboxConfig { mode, limits, calls_max, cache, compiler } = config;
        let mut linker = Linker::new(&engine);
        log::add_to_linker::<Guest, HasSelf<Guest>>(&mut linker, |guest| guest).map_err(failed)?;
        let mut linker_with_wasi = linker.clone();
        wasi::add_to_linker(&mut linker_with_wasi).map_err(failed)?;
        let ticker = Ticker::start(&engine)
            .map_err(|error| SandboxError(format!("cannot start the ticker thread: {error}")))?;
        let shared = Shared {
            engine,
            linker,
            linker_with_wasi,
            ticker,
            permits: Permits::new(calls_max.max(1)),
            mode,
            limits,
            cache,
            compiler,
            compiling: Mutex::default(),
            engines,
        };
        Ok(Sandbox { shared: Arc::new(shared) })
    }

    /// Are instances pooled? If not, there is too little address space for that.
    pub fn is_pooled(&self) -> bool {
        self.shared.engines == Engines::Pooled
    }

    /// The cache of compiled code, if there is one.
    pub fn cache(&self) -> Option<&Cache> {
        self.shared.cache.as_ref()
    }

    /// Like [`Sandbox::load`], but from a file. Reads at most the maximum size of a module.
    ///
    /// # Errors
    ///
    /// Those of [`Sandbox::load`], and [`Refusal::Unreadable`].
    pub fn load_file(&self, path: &Path) -> Result<Module, Refusal> {
        let refusal = |error: std::io::Error| {
            if error.kind() == ErrorKind::FileTooLarge {
                let size_bytes = std::fs::metadata(path).map_or(MODULE_BYTES + 1, |meta| meta.len());
                return Refusal::TooLarge { size_bytes, limit_bytes: MODULE_BYTES };
            }
            Refusal::Unreadable { path: path.into(), message: error.to_string() }
        };
        let bytes = read_regular(path, MODULE_BYTES).map_err(refusal)?;
        self.load(&bytes)
    }

    /// Checks, compiles and links a component, and asks it for its description. The configured compiler does
    /// the first two.
    ///
    /// # Errors
    ///
    /// What is wrong with the module; only [`Refusal::NoCompiler`] is the host's fault.
    pub fn load(&self, bytes: &[u8]) -> Result<Module, Refusal> {
        Ok(self.load_by(&self.shared.compiler, bytes)?.0)
    }

    /// A built-in module needs no process of its own.
    pub fn load_builtin(&self, builtin: Builtin) -> Result<Module, Refusal> {
        Ok(self.load_by(&Compiler::Here, builtin.component)?.0)
    }

    /// The machine code of a module that passes all checks.
    pub(crate) fn machine_code(&self, bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
        let (module, code) = self.load_by(&Compiler::Here, bytes)?;
        drop(module);
        code.ok_or_else(|| Refusal::Invalid("its machine code cannot be written down".into()))
    }

    /// Also returns the machine code, if the module was compiled just now.
    fn load_by(&self, compiler: &Compiler, bytes: &[u8]) -> Result<(Module, Option<Vec<u8>>), Refusal> {
        let shared = &self.shared;
        let digest = module::check_bytes(bytes)?;
        let (component, code) = shared.compile(compiler, bytes, &digest)?;
        let checked = module::check_component(component, bytes, digest)?;
        if let Some(code) = &code {
            shared.keep(code, &checked.digest);
        }
        let linker = if checked.wasi { &shared.linker_with_wasi } else { &shared.linker };
        let misfit = |error: wasmtime::Error| {
            Refusal::WrongWorld(
                world::difference(bytes).map_or_else(|| chain(&error), |text| printable(&text, 500)),
            )
        };
        let pre = linker.instantiate_pre(&checked.component).map_err(misfit)?;
        let exports = Exports {
            describe: exports::describe::GuestIndices::new(&pre).map_err(misfit)?,
            roll: checked.roll.then(|| exports::roll::GuestIndices::new(&pre)).transpose().map_err(misfit)?,
            loss: checked.loss.then(|| exports::loss::GuestIndices::new(&pre)).transpose().map_err(misfit)?,
        };
        let moment = Moment { now_ms: 0, seed: 0 };
        // Interpreters start slowly, and this happens once.
        let limits = Limits { cpu: shared.limits.cpu * 10, ..shared.limits };
        let mut types_fit = Ok(());
        let described = shared.call(&pre, checked.wasi, limits, moment, |store, instance| {
            types_fit = fit(&exports, store, instance);
            match types_fit {
                Ok(()) => exports.describe.load(&mut *store, instance)?.call_describe(store),
                Err(_) => Err(wasmtime::Error::msg("the types do not fit")),
            }
        });
        types_fit.map_err(misfit)?;
        Ok((module::describe(checked, pre, exports, self.checker(), described.answer?)?, code))
    }

    /// Asks a roll policy of the module.
    ///
    /// # Panics
    ///
    /// If the module has no roll policies: the caller picks the policy from [`Module::policies`].
    pub fn select(
        &self,
        module: &Module,
        policy: &str,
        settings: &Settings,
        question: &q::RollQuestion,
    ) -> Evaluation<q::Selection> {
        let roll = module.exports.roll.as_ref().expect("a roll policy is in a module that exports roll");
        let lent = Lent::of(question);
        let fleet = convert::fleet(question, &lent);
        let moment = Moment { now_ms: question.now_ms, seed: question.seed };
        let limits = self.shared.limits;
        let called = self.shared.call(&module.pre, module.wasi, limits, moment, |store, instance| {
            roll.load(&mut *store, instance)?.call_select(store, policy, settings.as_json(), fleet)
        });
        called.and_then(|answer| {
            let answer = answer.map_err(|error| Fault::PolicyError(printable(&error.message, 1 << 10)))?;
            convert::selection(answer, question)
        })
    }

    /// Asks a loss classifier of the module.
    ///
    /// # Panics
    ///
    /// If the module has no classifiers: the caller picks the policy from [`Module::policies`].
    pub fn classify(
        &self,
        module: &Module,
        policy: &str,
        settings: &Settings,
        evidence: &q::Evidence,
    ) -> Evaluation<q::Verdict> {
        let loss = module.exports.loss.as_ref().expect("a classifier is in a module that exports loss");
        let moment = Moment { now_ms: evidence.now_ms, seed: evidence.executor_id };
        let limits = self.shared.limits;
        let called = convert::with_evidence(evidence, |evidence| {
            self.shared.call(&module.pre, module.wasi, limits, moment, |store, instance| {
                loss.load(&mut *store, instance)?.call_classify(store, policy, settings.as_json(), evidence)
            })
        });
        called.and_then(|answer| {
            let answer = answer.map_err(|error| Fault::PolicyError(printable(&error.message, 1 << 10)))?;
            Ok((convert::verdict(answer)?, Vec::new()))
        })
    }

    /// Only creates an instance and drops it: measures the sandbox's own cost.
    pub fn instantiate(&self, module: &Module) -> Evaluation<()> {
        let moment = Moment { now_ms: 0, seed: 0 };
        self.shared.call(&module.pre, module.wasi, self.shared.limits, moment, |_, _| Ok(()))
    }

    fn checker(&self) -> Checker {
        let shared = Arc::clone(&self.shared);
        Box::new(move |module, policy, settings| {
            let moment = Moment { now_ms: 0, seed: 0 };
            let limits = Limits { cpu: shared.limits.cpu * 10, ..shared.limits };
            let called = shared.call(&module.pre, module.wasi, limits, moment, |store, instance| {
                let describe = module.exports.describe.load(&mut *store, instance)?;
                describe.call_check_settings(store, policy, settings)
            });
            let checked = called.answer?;
            Ok(checked.map_err(|problems| {
                let problem = |p: &crate::bindings::rollcall::policy::types::SettingsError| SettingsProblem {
                    path: printable(&p.path, 200),
                    message: printable(&p.message, 500),
                };
                problems.iter().take(20).map(problem).collect()
            }))
        })
    }
}

/// Do the exported functions have the contract's types?
fn fit(exports: &Exports, store: &mut Store<Guest>, instance: &Instance) -> wasmtime::Result<()> {
    exports.describe.load(&mut *store, instance)?;
    if let Some(roll) = &exports.roll {
        roll.load(&mut *store, instance)?;
    }
    if let Some(loss) = &exports.loss {
        loss.load(&mut *store, instance)?;
    }
    Ok(())
}

impl Shared {
    /// From the cache if possible; otherwise also returns the code to be cached.
    fn compile(
        &self,
        compiler: &Compiler,
        bytes: &[u8],
        digest: &str,
    ) -> Result<(Component, Option<Vec<u8>>), Refusal> {
        if let Some(cache) = &self.cache {
            let entry = self.cache_entry(digest);
            if let Some(code) = cache.get(&entry) {
                // SAFETY: the cache returns only bytes with its seal, and seals only code of this engine, in a
                // directory that no other user can write.
                match unsafe { Component::deserialize(&self.engine, &code) } {
                    Ok(component) => return Ok((component, None)),
                    Err(_) => cache.remove(&entry),
                }
            }
        }
        match compiler {
            Compiler::Here => {
                fence::check(bytes, &self.limits)?;
                let component =
                    Component::new(&self.engine, bytes).map_err(|error| Refusal::Invalid(chain(&error)))?;
                let code = component.serialize().ok();
                Ok((component, code))
            }
            Compiler::Child { program, arguments, limits } => {
                let job = Job { mode: self.mode, engines: self.engines, limits: self.limits };
                let _turn = self.compiling.lock().unwrap_or_else(PoisonError::into_inner);
                let code = child::compile((program, arguments, limits), &job, bytes)?;
                // SAFETY: the code comes from the pipe of a process that was started from our own program;
                // `child` explains why that is enough.
                let component = unsafe { Component::deserialize(&self.engine, &code) }
                    .map_err(|error| Refusal::NoCompiler(chain(&error)))?;
                Ok((component, Some(code)))
            }
        }
    }

    /// Only modules that passed the checks are cached. If caching fails, the next load is only slower.
    fn keep(&self, code: &[u8], digest: &str) {
        if let Some(cache) = &self.cache {
            let _ = cache.put(&self.cache_entry(digest), code);
        }
    }

    fn cache_entry(&self, digest: &str) -> String {
        let mut hasher = DefaultHasher::new();
        self.engine.precompile_compatibility_hash().hash(&mut hasher);
        format!("{digest}-{:016x}", hasher.finish())
    }

    /// One call in a fresh instance.
    fn call<R>(
        &self,
        pre: &InstancePre<Guest>,
        wasi: bool,
        limits: Limits,
        moment: Moment,
        run: impl FnOnce(&mut Store<Guest>, &Instance) -> wasmtime::Result<R>,
    ) -> Evaluation<R> {
        let start = Instant::now();
        let Some(_permit) = self.permits.take(limits.wall()) else {
            let waited_ms = millis(start.elapsed());
            let cost = Cost { wall: start.elapsed(), ..Cost::default() };
            let answer = Err(Fault::Busy { waited_ms });
            return Evaluation { answer, complaints: Vec::new(), log: Vec::new(), log_dropped: 0, cost };
        };
        let _running = self.ticker.run();
        let guest = Guest {
            meter: Meter::new(limits),
            budget: Budget::start(limits),
            log: GuestLog::default(),
            wasi: wasi.then(|| Box::new(Wasi::new(moment.now_ms, moment.seed))),
        };
        let mut store = Store::new(&self.engine, guest);
        store.limiter(|guest| &mut guest.meter);
        store.set_hostcall_fuel(OUTPUT_BYTES);
        store.set_max_component_handles(HANDLES);
        // Before the instance is created: a module's start function runs there.
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|context| match context.data().budget.check() {
            Ok(()) => Ok(UpdateDeadline::Continue(1)),
            Err(fault) => Err(Stop(fault).into()),
        });
        if let Mode::Lab { fuel } = self.mode {
            store.set_fuel(fuel).expect("the lab's engine counts fuel");
        }
        let made = Instant::now();
        let instance = pre.instantiate(&mut store);
        let instantiate = made.elapsed();
        let started = instance.is_ok();
        let result = instance.and_then(|instance| run(&mut store, &instance));
        let fuel = match self.mode {
            Mode::Lab { fuel } => store.get_fuel().ok().map(|left| fuel - left),
            Mode::Serve => None,
        };
        let guest = store.into_data();
        let cost = Cost {
            wall: start.elapsed(),
            instantiate,
            cpu: guest.budget.cpu(),
            memory_bytes: guest.meter.memory_bytes(),
            fuel,
        };
        let log = with_output(guest.log, guest.wasi.as_deref());
        let answer = result.map_err(|error| self.fault(&error, started, &log));
        let (log, log_dropped) = log.into_lines();
        Evaluation { answer, complaints: Vec::new(), log, log_dropped, cost }
    }

    fn fault(&self, error: &wasmtime::Error, started: bool, log: &GuestLog) -> Fault {
        if let Some(Stop(fault)) = error.downcast_ref::<Stop>() {
            return fault.clone();
        }
        if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
            return Fault::Exited(*code);
        }
        let Some(trap) = error.downcast_ref::<Trap>() else {
            // An instantiation that the guest itself fails ends with a trap or with one of the host's stops.
            return if started { other_fault(error) } else { Fault::Host(chain(error)) };
        };
        match (trap, log.last_error()) {
            (Trap::StackOverflow, _) => Fault::StackOverflow { limit_bytes: STACK_BYTES },
            (Trap::OutOfFuel, _) => match self.mode {
                Mode::Lab { fuel } => Fault::Fuel { budget: fuel },
                Mode::Serve => Fault::Host("out of fuel without fuel".into()),
            },
            // A Rust panic ends like this; the SDK's hook has logged its message.
            (Trap::UnreachableCodeReached, Some(message)) => Fault::Panicked(message.into()),
            (trap, _) => Fault::Trapped(trap.to_string()),
        }
    }
}

/// Errors that wasmtime reports only as a message.
fn other_fault(error: &wasmtime::Error) -> Fault {
    let message = chain(error);
    // The error's type is private; a test detects a change of its text.
    if message.contains("fuel allocated for hostcalls has been exhausted") {
        return Fault::TooMuchOutput { limit_bytes: OUTPUT_BYTES };
    }
    // Everything else that fails between the instance's start and its answer is a violation of the contract by
    // the guest: pointers outside its memory, text that is not UTF-8, invalid tags, too many handles.
    Fault::InvalidAnswer(InvalidAnswer::Malformed(message))
}

/// The error with its causes on one line, without the backtrace.
fn chain(error: &wasmtime::Error) -> String {
    let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
    printable(&causes.join(": "), 1_000)
}

fn with_output(mut log: GuestLog, wasi: Option<&Wasi>) -> GuestLog {
    if let Some(wasi) = wasi {
        for line in String::from_utf8_lossy(&wasi.output()).lines() {
            log.write(Level::Info, line);
        }
    }
    log
}

impl<A> Evaluation<A> {
    fn and_then<B>(self, check: impl FnOnce(A) -> Result<(B, Vec<Complaint>), Fault>) -> Evaluation<B> {
        let Evaluation { answer, log, log_dropped, cost, .. } = self;
        let (answer, complaints) = match answer.and_then(check) {
            Ok((answer, complaints)) => (Ok(answer), complaints),
            Err(fault) => (Err(fault), Vec::new()),
        };
        Evaluation { answer, complaints, log, log_dropped, cost }
    }
}

fn failed(error: wasmtime::Error) -> SandboxError {
    SandboxError(format!("{error:#}"))
}

/// Bounds the number of concurrent calls.
struct Permits {
    state: Mutex<PermitState>,
    freed: Condvar,
}

struct PermitState {
    free: u32,
    /// A wake-up costs a system call even without waiters.
    waiting: u32,
}

struct Permit<'a>(&'a Permits);

impl Permits {
    fn new(count: u32) -> Permits {
        Permits { state: Mutex::new(PermitState { free: count, waiting: 0 }), freed: Condvar::new() }
    }

    fn take(&self, wait_max: Duration) -> Option<Permit<'_>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.free == 0 {
            state.waiting += 1;
            let wait = self.freed.wait_timeout_while(state, wait_max, |state| state.free == 0);
            (state, _) = wait.unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
        (state.free > 0).then(|| {
            state.free -= 1;
            Permit(self)
        })
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.free += 1;
        if state.waiting > 0 {
            self.0.freed.notify_one();
        }
    }
}
