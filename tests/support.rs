//! Shared by all suites.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use policy::{Builtin, Limits, Module, Sandbox, SandboxConfig};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("host/ is in the repository").to_path_buf()
}

/// A sandbox for all tests without special requirements. Tests run in parallel on few cores, and unoptimised: the
/// budget is generous.
pub fn sandbox() -> &'static Sandbox {
    static SANDBOX: OnceLock<Sandbox> = OnceLock::new();
    SANDBOX.get_or_init(|| {
        let limits = Limits { cpu: std::time::Duration::from_secs(2), ..Limits::default() };
        Sandbox::new(SandboxConfig { limits, calls_max: 16, ..SandboxConfig::default() }).expect("a sandbox")
    })
}

/// Spark's roll policies. With `ROLLCALL_POLICIES` set, those that another toolchain built into that directory: they
/// must give the same answers.
pub fn spark_roll() -> &'static Module {
    static MODULE: OnceLock<Module> = OnceLock::new();
    MODULE.get_or_init(|| load(Builtin::SPARK_ROLL))
}

pub fn spark_loss() -> &'static Module {
    static MODULE: OnceLock<Module> = OnceLock::new();
    MODULE.get_or_init(|| load(Builtin::SPARK_LOSS))
}

fn load(builtin: Builtin) -> Module {
    match std::env::var_os("ROLLCALL_POLICIES") {
        None => sandbox().load(builtin.component),
        Some(directory) => sandbox().load_file(&Path::new(&directory).join(format!("{}.wasm", builtin.name))),
    }
    .expect("a built-in module loads")
}

/// A roll policy written in WebAssembly text: a core module that exports the contract's functions by their canonical
/// names, encoded as a component. `imports` adds to the world's imports, in WIT.
pub fn guest(core: &str, imports: &str) -> Vec<u8> {
    let contract = std::fs::read_to_string(root().join("wit/1.0.0/policy.wit")).expect("the contract");
    guest_of(&contract, core, imports)
}

/// As [`guest`], made for another contract.
pub fn guest_of(contract: &str, core: &str, imports: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    resolve.push_str("policy.wit", contract).expect("the contract");
    for package in WASI.split("\n\n").filter(|text| !text.trim().is_empty()) {
        resolve.push_str("wasi.wit", package).expect("a package of WASI");
    }
    let world = format!(
        "package test:guest;\nworld guest {{ {imports} include rollcall:policy/roll-policy@1.0.0; }}"
    );
    let package = resolve.push_str("guest.wit", &world).expect("the world");
    let world = resolve.select_world(&[package], Some("guest")).expect("the world");
    let mut module = wat::parse_str(core).expect("WebAssembly text");
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).expect("metadata");
    ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .expect("a module")
        .encode()
        .expect("a component")
}

/// The part of WASI that the hostile guests import.
const WASI: &str = "
package wasi:io@0.2.6;
interface poll {
    resource pollable { block: func(); ready: func() -> bool; }
    poll: func(in: list<borrow<pollable>>) -> list<u32>;
}

package wasi:clocks@0.2.6;
interface monotonic-clock {
    use wasi:io/poll@0.2.6.{pollable};
    now: func() -> u64;
    subscribe-duration: func(when: u64) -> pollable;
}

package wasi:cli@0.2.6;
interface exit { exit: func(status: result); }

package wasi:random@0.2.6;
interface random { get-random-u64: func() -> u64; }

package wasi:sockets@0.2.6;
interface instance-network { resource network; instance-network: func() -> network; }
";

/// The parts that every guest of [`guest`] needs: one policy named BAD without settings. `select` is the body of the
/// function: it may use `$args`, the address of the parameters, and the local `$i`.
pub fn roll_policy(imports: &str, globals: &str, select: &str) -> String {
    format!(
        r#"(module
  {imports}
  (memory (export "memory") 1)
  (global $next (mut i32) (i32.const 8192))
  {globals}
  ;; The module: name, version, and one policy, its schema a plain object.
  (data (i32.const 16) "bad")
  (data (i32.const 64) "BAD")
  (data (i32.const 72) "{{\"type\":\"object\"}}")
  (func $realloc (export "cabi_realloc") (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
    (local $place i32)
    (local.set $place (i32.and (i32.add (global.get $next) (i32.const 15)) (i32.const -16)))
    (global.set $next (i32.add (local.get $place) (local.get $size)))
    (if (i32.gt_u (global.get $next) (i32.mul (memory.size) (i32.const 65536)))
      (then (drop (memory.grow (i32.add (i32.div_u (local.get $size) (i32.const 65536)) (i32.const 1))))))
    (local.get $place))
  (func (export "rollcall:policy/describe@1.0.0#describe") (result i32)
    ;; record module at 128: name, version, policies
    (i32.store (i32.const 128) (i32.const 16)) (i32.store (i32.const 132) (i32.const 3))
    (i32.store (i32.const 136) (i32.const 16)) (i32.store (i32.const 140) (i32.const 3))
    (i32.store (i32.const 144) (i32.const 160)) (i32.store (i32.const 148) (i32.const 1))
    ;; record policy at 160: name, question = roll, docs, schema
    (i32.store (i32.const 160) (i32.const 64)) (i32.store (i32.const 164) (i32.const 3))
    (i32.store8 (i32.const 168) (i32.const 0))
    (i32.store (i32.const 172) (i32.const 16)) (i32.store (i32.const 176) (i32.const 3))
    (i32.store (i32.const 180) (i32.const 72)) (i32.store (i32.const 184) (i32.const 17))
    (i32.const 128))
  (func (export "rollcall:policy/describe@1.0.0#check-settings") (param i32 i32 i32 i32) (result i32)
    (i32.store8 (i32.const 256) (i32.const 0))
    (i32.const 256))
  (func $select (export "rollcall:policy/roll@1.0.0#select") (param $args i32) (result i32)
    (local $i i32)
    {select})
)"#
    )
}

/// Instructions that return an answer with these picks: `(index, score)`.
pub fn answer(picks: &[(u32, &str)]) -> String {
    let mut code = String::new();
    for (at, (index, score)) in picks.iter().enumerate() {
        // record pick of 24 bytes at 1024: index, score, reason
        let pick = 1024 + at * 24;
        code += &format!(
            "(i32.store (i32.const {pick}) (i32.const {index})) (f64.store (i32.const {}) (f64.const {score}))
             (i32.store (i32.const {}) (i32.const 16)) (i32.store (i32.const {}) (i32.const 3))\n",
            pick + 8,
            pick + 16,
            pick + 20
        );
    }
    // result at 512: ok, then the variant roll, then the list
    code + &format!(
        "(i32.store8 (i32.const 512) (i32.const 0)) (i32.store8 (i32.const 516) (i32.const 0))
             (i32.store (i32.const 520) (i32.const 1024)) (i32.store (i32.const 524) (i32.const {}))
             (i32.const 512)",
        picks.len()
    )
}
