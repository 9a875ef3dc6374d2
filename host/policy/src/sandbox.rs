//! The engine, and one call in it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fleet::question as q;
use thiserror::Error;
use wasmtime::component::{Component, HasSelf, Instance, InstancePre, Linker};
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store, Trap,
    UpdateDeadline, WasmBacktraceDetails,
};
use wasmtime_wasi::I32Exit;

use crate::bindings::exports::rollcall::policy as exports;
use crate::bindings::rollcall::policy::log::{self, Level};
use crate::builtin::Builtin;
use crate::cache::Cache;
use crate::child::{self, Compiler, Job};
use crate::convert::{self, Complaint, Lent};
use crate::fault::{Fault, InvalidAnswer};
use crate::fence;
use crate::guest_log::{GuestLog, LogLine, printable};
use crate::limits::{
    CORE_INSTANCES, HANDLES, Limits, MEMORIES, MODULE_BYTES, Meter, OUTPUT_BYTES, STACK_BYTES, Stop, TABLES,
};
use crate::module::{self, Checker, Exports, Module, Refusal};
use crate::regular::read_regular;
use crate::settings::{Settings, SettingsProblem};
use crate::ticker::{Budget, Ticker, millis};
use crate::wasi::{self, Wasi};
use crate::world;

/// How a sandbox is set up.
#[derive(Debug)]
pub struct SandboxConfig {
    pub mode: Mode,
    /// Limits of each call.
    pub limits: Limits,
    /// Calls at the same time; further ones wait. Each holds a thread, so more than cores is waste.
    pub calls_max: u32,
    /// Where compiled code is kept between runs.
    pub cache: Option<Cache>,
    /// Who compiles modules that are not built in.
    pub compiler: Compiler,
}

/// Where instances come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engines {
    Pooled,
    OnDemand,
    /// On demand, and without the 4 GiB of addresses that spare each memory its bounds checks.
    Narrow,
}

/// Address space below which 4 GiB for each memory are not to be had.
const ADDRESSES: u64 = 64 << 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// For decisions: pooled instances, CPU time as the budget.
    Serve,
    /// For tests: a deterministic budget, the same on every machine, beside the CPU time.
    Lab { fuel: u64 },
}

impl Default for SandboxConfig {
    fn default() -> Self {
        let (mode, limits, compiler) = (Mode::Serve, Limits::default(), Compiler::default());
        SandboxConfig { mode, limits, calls_max: 4, cache: None, compiler }
    }
}

/// The machine cannot run WebAssembly the way we need it.
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

/// What came of a call.
#[derive(Clone, Debug)]
pub struct Evaluation<A> {
    pub answer: Result<A, Fault>,
    /// What was left out of the answer.
    pub complaints: Vec<Complaint>,
    pub log: Vec<LogLine>,
    pub log_dropped: u64,
    pub cost: Cost,
}

/// What a call used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// From the request to the answer, waiting for a free sandbox included.
    pub wall: Duration,
    /// Making the store and the instance; part of `wall`.
    pub instantiate: Duration,
    /// CPU time of the calling thread.
    pub cpu: Duration,
    /// Linear memory at the end.
    pub memory_bytes: usize,
    /// Only in [`Mode::Lab`].
    pub fuel: Option<u64>,
}

/// The host's side of one instance.
pub(crate) struct Guest {
    meter: Meter,
    budget: Budget,
    log: GuestLog,
    pub(crate) wasi: Option<Box<Wasi>>,
}

impl log::Host for Guest {
    fn log(&mut self, level: Level, message: String) {
        self.log.write(level, &message);
    }
}

/// Facts of a question that a WASI guest sees as its clock and randomness.
#[derive(Clone, Copy)]
struct Moment {
    now_ms: i64,
    seed: u64,
}

impl Sandbox {
    pub fn new(config: SandboxConfig) -> Result<Sandbox, SandboxError> {
        let (mode, limits, calls_max) = (config.mode, config.limits, config.calls_max.max(1));
        let narrow = rustix::process::getrlimit(rustix::process::Resource::As).current;
        let engines =
            if narrow.is_some_and(|most| most < ADDRESSES) { Engines::Narrow } else { Engines::OnDemand };
        let pooled = match mode {
            // Reserves address space for every slot; where there is too little (a 39-bit machine, a
            // `ulimit -v`), this fails and instances are made on demand.
            Mode::Serve => {
                let engine = engine_config(mode, Engines::Pooled);
                Engine::new(engine.clone().allocation_strategy(pool(calls_max, &limits))).ok()
            }
            Mode::Lab { .. } => None,
        };
        match pooled {
            Some(engine) => Sandbox::over(engine, Engines::Pooled, config),
            // Nor may there be enough for a single memory as we like it.
            None if mode == Mode::Serve => Sandbox::on_demand(Engines::Narrow, config),
            None => Sandbox::on_demand(engines, config),
        }
    }

    /// What a process that compiles needs: the same machine code, and one instance.
    pub(crate) fn compiling(job: &Job) -> Result<Sandbox, SandboxError> {
        let config =
            SandboxConfig { mode: job.mode, limits: job.limits, calls_max: 1, ..SandboxConfig::default() };
        // One thread: the limit of CPU time is the process's, and each thread takes memory of its own.
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

    /// Are instances pooled, or is there too little address space for that?
    pub fn is_pooled(&self) -> bool {
        self.shared.engines == Engines::Pooled
    }

    pub fn cache(&self) -> Option<&Cache> {
        self.shared.cache.as_ref()
    }

    /// As [`Sandbox::load`], from a file. Reads no more of it than may be loaded.
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

    /// Checks, compiles and links a component, and asks it what is in it. The configured compiler does the first two.
    pub fn load(&self, bytes: &[u8]) -> Result<Module, Refusal> {
        Ok(self.load_by(&self.shared.compiler, bytes)?.0)
    }

    /// A module that ships with us needs no process of its own.
    pub fn load_builtin(&self, builtin: Builtin) -> Result<Module, Refusal> {
        Ok(self.load_by(&Compiler::Here, builtin.component)?.0)
    }

    /// The machine code of a module that passes everything.
    pub(crate) fn machine_code(&self, bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
        let (module, code) = self.load_by(&Compiler::Here, bytes)?;
        drop(module);
        code.ok_or_else(|| Refusal::Invalid("its machine code cannot be written down".into()))
    }

    /// With the machine code, if it was compiled just now.
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
        // Interpreters take their time to start, and this happens once.
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
    /// When the module has no roll policies: the caller picks the policy from [`Module::policies`].
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
    /// When the module has no classifiers: the caller picks the policy from [`Module::policies`].
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

    /// Only makes an instance and drops it: the sandbox's own price.
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
    /// From the cache where possible; else with the code that goes there.
    fn compile(
        &self,
        compiler: &Compiler,
        bytes: &[u8],
        digest: &str,
    ) -> Result<(Component, Option<Vec<u8>>), Refusal> {
        if let Some(cache) = &self.cache {
            let entry = self.cache_entry(digest);
            if let Some(code) = cache.get(&entry) {
                // SAFETY: the cache returns only bytes that carry its seal, and seals only what this
                // engine's code was when it was kept, in a directory that nobody else can write.
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
                // SAFETY: the code comes out of the pipe of a process that we have started from our own
                // program; why that is enough is said in `child`.
                let component = unsafe { Component::deserialize(&self.engine, &code) }
                    .map_err(|error| Refusal::NoCompiler(chain(&error)))?;
                Ok((component, Some(code)))
            }
        }
    }

    /// Only what passed the checks is kept. What cannot be kept is only slower next time.
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
        // Before the instance is made: a module's start function runs there.
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
            // A guest's own doing ends an instantiation with a trap or with one of our stops.
            return if started { other_fault(error) } else { Fault::Host(chain(error)) };
        };
        match (trap, log.last_error()) {
            (Trap::StackOverflow, _) => Fault::StackOverflow { limit_bytes: STACK_BYTES },
            (Trap::OutOfFuel, _) => match self.mode {
                Mode::Lab { fuel } => Fault::Fuel { budget: fuel },
                Mode::Serve => Fault::Host("out of fuel without fuel".into()),
            },
            // How a Rust panic ends; the SDK's hook has logged its message.
            (Trap::UnreachableCodeReached, Some(message)) => Fault::Panicked(message.into()),
            (trap, _) => Fault::Trapped(trap.to_string()),
        }
    }
}

/// What wasmtime reports with a message only.
fn other_fault(error: &wasmtime::Error) -> Fault {
    let message = chain(error);
    // The error's type is private; a test notices should its words change.
    if message.contains("fuel allocated for hostcalls has been exhausted") {
        return Fault::TooMuchOutput { limit_bytes: OUTPUT_BYTES };
    }
    // Whatever else goes wrong between the instance's start and its answer is the guest not keeping to
    // the contract: pointers outside its memory, text that is no UTF-8, bad tags, too many handles.
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

fn engine_config(mode: Mode, engines: Engines) -> Config {
    let mut config = Config::new();
    if engines == Engines::Narrow {
        config
            .memory_reservation(0)
            .memory_reservation_for_growth(1 << 20)
            .memory_guard_size(64 << 10)
            .memory_may_move(true);
    }
    config
        .wasm_component_model(true)
        // No async functions in the contract: halves the price of a call and leaves out the machinery
        // behind most of 2026's advisories.
        .concurrency_support(false)
        .epoch_interruption(true)
        .consume_fuel(matches!(mode, Mode::Lab { .. }))
        .max_wasm_stack(STACK_BYTES)
        // The same facts give the same answer on every kind of machine.
        .cranelift_nan_canonicalization(true)
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        .wasm_backtrace_details(WasmBacktraceDetails::Enable);
    config
}

/// Slots for `calls` at the same time, generous in what a component may be made of (an interpreter is
/// many core instances) and bounded in memory.
fn pool(calls: u32, limits: &Limits) -> InstanceAllocationStrategy {
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(calls * CORE_INSTANCES)
        .total_core_instances(calls * CORE_INSTANCES)
        .total_memories(calls * MEMORIES)
        .total_tables(calls * TABLES)
        .total_stacks(1)
        .total_gc_heaps(calls)
        .max_core_instances_per_component(CORE_INSTANCES)
        .max_memories_per_component(MEMORIES)
        .max_tables_per_component(TABLES)
        .max_component_instance_size(10 << 20)
        .max_core_instance_size(10 << 20)
        .table_elements(limits.table_elements)
        .max_memory_size(limits.memory_bytes)
        // Pages that are cleared by hand for the next call instead of being given back to the kernel
        // and faulted in again: as much as 10,000 executors take.
        .linear_memory_keep_resident(4 << 20)
        .pagemap_scan(Enabled::Auto)
        .table_keep_resident(64 << 10)
        .max_unused_warm_slots(calls);
    InstanceAllocationStrategy::Pooling(pool)
}

/// Bounds the calls at the same time.
struct Permits {
    state: Mutex<PermitState>,
    freed: Condvar,
}

struct PermitState {
    free: u32,
    /// Waking nobody costs a system call too.
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
