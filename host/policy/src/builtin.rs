//! The policies that ship inside the binary, as the components that `policies/built` holds.

/// A module that ships with Rollcall.
#[derive(Clone, Copy, Debug)]
pub struct Builtin {
    /// Name of its crate in `policies/`.
    pub name: &'static str,
    /// The component's bytes, as in `policies/built/<name>.wasm`.
    pub component: &'static [u8],
}

impl Builtin {
    /// The roll policies of Spark's `ExecutorRollPlugin`.
    pub const SPARK_ROLL: Builtin =
        Builtin { name: "spark-roll", component: include_bytes!("../../../policies/built/spark-roll.wasm") };
    /// The loss classifier for Spark on Kubernetes.
    pub const SPARK_LOSS: Builtin =
        Builtin { name: "spark-loss", component: include_bytes!("../../../policies/built/spark-loss.wasm") };
    /// All of them.
    pub const ALL: [Builtin; 2] = [Builtin::SPARK_ROLL, Builtin::SPARK_LOSS];
}
