//! Configuration of the engine.

use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig, WasmBacktraceDetails};

use crate::limits::{CORE_INSTANCES, Limits, MEMORIES, STACK_BYTES, TABLES};

/// Where instances come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engines {
    Pooled,
    OnDemand,
    /// On demand, and without the reservation of 4 GiB of addresses that makes bounds checks of a memory
    /// unnecessary.
    Narrow,
}

/// With less address space, 4 GiB for each memory are not available.
pub(crate) const ADDRESSES: u64 = 64 << 30;

/// What a call's budget is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// For decisions: pooled instances, CPU time as the budget.
    Serve,
    /// For tests: a deterministic budget, the same on every machine, beside the CPU time.
    Lab {
        /// The budget of a call in wasmtime's fuel: about one unit for each instruction.
        fuel: u64,
    },
}

pub(crate) fn engine_config(mode: Mode, engines: Engines) -> Config {
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
        // The same facts give the same answer on every type of machine.
        .cranelift_nan_canonicalization(true)
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        .wasm_backtrace_details(WasmBacktraceDetails::Enable);
    config
}

/// Slots for `calls` at the same time, with generous limits for the parts of a component (an interpreter is
/// many core instances) and bounded memory.
pub(crate) fn pool(calls: u32, limits: &Limits) -> InstanceAllocationStrategy {
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
        // Pages that are zeroed for the next call instead of being returned to the kernel and faulted in again:
        // as many as 10,000 executors need.
        .linear_memory_keep_resident(4 << 20)
        .pagemap_scan(Enabled::Auto)
        .table_keep_resident(64 << 10)
        .max_unused_warm_slots(calls);
    InstanceAllocationStrategy::Pooling(pool)
}
