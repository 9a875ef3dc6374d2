//! Why a file is not a usable policy module.

use std::path::PathBuf;

use thiserror::Error;

use crate::fault::Fault;

/// Why a file is not a usable policy module: what is wrong and what would be right.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum Refusal {
    /// It is not a regular file, or the operating system refuses to read it.
    #[error("cannot read {path}: {message}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        message: String,
    },
    /// The file is larger than any policy module that is known.
    #[error("it has {size_bytes} bytes, more than the limit of {limit_bytes}")]
    TooLarge {
        /// Size of the file.
        size_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// Output of `wasmtime compile`: to load it is to run it.
    #[error(
        "it is already compiled to machine code, which cannot be checked; give the .wasm component instead"
    )]
    Precompiled,
    /// What a compiler makes before it is encoded as a component.
    #[error(
        "it is a core WebAssembly module, not a component; build it with `rollcall policy build`, or encode it \
         with `wasm-tools component new`"
    )]
    CoreModule,
    /// Its first bytes are not `\0asm`. With what is wrong instead.
    #[error("it is not WebAssembly: {0}")]
    NotWasm(String),
    /// The validator or the compiler refuses it. With wasmtime's message.
    #[error("it is damaged or invalid WebAssembly: {0}")]
    Invalid(String),
    /// It imports what no policy may have, lacks an export, or its types differ from the contract's. With the first
    /// difference, in WIT where possible.
    #[error("it does not fit the contract rollcall:policy@1.0.0: {0}")]
    WrongWorld(String),
    /// An instance of it, or compiling it, would need too much of something that can be counted beforehand.
    #[error("it needs {what}, more than the limit of {limit}")]
    NeedsTooMuch {
        /// How much of what.
        what: String,
        /// The limit, in the unit of `what`.
        limit: u64,
    },
    /// What `describe` returned is no valid list of policies: a name, a schema, the number of them. With what is
    /// wrong.
    #[error("its description is not usable: {0}")]
    Description(String),
    /// It was asked for its description and gave no answer.
    #[error("it fails while it is being loaded")]
    Fault(#[from] Fault),
    /// The refusal that the compiling process returned; one of the others, as text.
    #[error("{0}")]
    Found(String),
    /// The compiling process reached one of its [`ChildLimits`](crate::ChildLimits), or died. With which, or how.
    #[error(
        "compiling and trying it {0}; the limits are what a module of its size may take: build it with optimisation, \
         and with smaller functions"
    )]
    TooDear(String),
    /// The host's fault, not the module's. With the operating system's error, or what the process printed.
    #[error("no process could be started to compile it: {0}")]
    NoCompiler(String),
}
