//! Why a file is not a usable policy module.

use std::path::PathBuf;

use thiserror::Error;

use crate::fault::Fault;

/// Why a file is not a usable policy module: what is wrong and what would be right.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum Refusal {
    #[error("cannot read {path}: {message}")]
    Unreadable { path: PathBuf, message: String },
    #[error("it has {size_bytes} bytes, more than the limit of {limit_bytes}")]
    TooLarge { size_bytes: u64, limit_bytes: u64 },
    #[error(
        "it is already compiled to machine code, which cannot be checked; give the .wasm component instead"
    )]
    Precompiled,
    #[error(
        "it is a core WebAssembly module, not a component; build it with `rollcall policy build`, or encode it \
         with `wasm-tools component new`"
    )]
    CoreModule,
    #[error("it is not WebAssembly: {0}")]
    NotWasm(String),
    #[error("it is damaged or invalid WebAssembly: {0}")]
    Invalid(String),
    #[error("it does not fit the contract rollcall:policy@1.0.0: {0}")]
    WrongWorld(String),
    #[error("it needs {what}, more than the limit of {limit}")]
    NeedsTooMuch { what: String, limit: u64 },
    #[error("its description is not usable: {0}")]
    Description(String),
    #[error("it fails while it is being loaded")]
    Fault(#[from] Fault),
    /// The refusal that the compiling process returned; one of the others, as text.
    #[error("{0}")]
    Found(String),
    #[error(
        "compiling and trying it {0}; the limits are what a module of its size may take: build it with optimisation, \
         and with smaller functions"
    )]
    TooDear(String),
    #[error("no process could be started to compile it: {0}")]
    NoCompiler(String),
}
