//! What the sandbox costs: each built-in policy in it, and as native code, on the same questions.
//! `cargo bench -p rollcall --bench policy`
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints, and may panic")]

#[path = "policy/native.rs"]
mod native;

use std::time::{Duration, Instant};

use policy::{Builtin, Policy, Question, Sandbox, SandboxConfig};
use rollcall::policy::bench::{evidence, question};
use serde_json::json;

const SAMPLES: usize = 1_000;

fn main() {
    let sandbox = Sandbox::new(SandboxConfig::default()).unwrap();
    println!("{:<24}  {:>9}  {:>12}  {:>12}  ratio", "policy", "executors", "sandbox us", "native us");
    for builtin in Builtin::ALL {
        let module = sandbox.load_builtin(builtin).unwrap();
        for Policy { name, question: kind, .. } in &module.policies {
            let sizes: &[u32] = if *kind == Question::Roll { &[100, 1_000, 10_000] } else { &[1] };
            for &size in sizes {
                let (fleet, evidence) = (question(size), evidence());
                let settings = module.settings(name, &json!({})).unwrap();
                let sandboxed = median(|| match kind {
                    Question::Roll => drop(sandbox.select(&module, name, &settings, &fleet).answer.unwrap()),
                    Question::Loss => {
                        drop(sandbox.classify(&module, name, &settings, &evidence).answer.unwrap());
                    }
                });
                let native = native::policy(name, &fleet, &evidence).unwrap();
                let natively = median(native);
                let us = |time: Duration| time.as_secs_f64() * 1e6;
                let ratio = us(sandboxed) / us(natively);
                println!(
                    "{name:<24}  {size:>9}  {:>12.1}  {:>12.1}  {ratio:.1}",
                    us(sandboxed),
                    us(natively)
                );
            }
        }
    }
}

/// The median, after some calls that warm caches and the pool.
fn median(call: impl Fn()) -> Duration {
    let mut samples = Vec::with_capacity(SAMPLES);
    for round in 0..SAMPLES + SAMPLES / 10 {
        let start = Instant::now();
        call();
        if round >= SAMPLES / 10 {
            samples.push(start.elapsed());
        }
    }
    samples.sort_unstable();
    samples[SAMPLES / 2]
}
