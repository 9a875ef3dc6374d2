//! Modules that are compiled in a separate process, including those that would exhaust the machine.
//!
//! This program is also the compiler: started with [`COMPILE`] it is the child.

#![allow(clippy::print_stdout, reason = "it is its own harness")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use policy::{Builtin, Cache, ChildLimits, Compiler, Refusal, Sandbox, SandboxConfig, compile_child};

const COMPILE: &str = "compile";
/// How many mutants are tried. The full count is 50,000.
const MUTANTS: &str = "ROLLCALL_COMPILED_MUTANTS";

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == COMPILE) {
        return compile_child();
    }
    // Like the harness of other tests: `--list`, and names.
    if arguments.iter().any(|argument| argument == "--list") {
        return std::process::ExitCode::SUCCESS;
    }
    let wanted: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let tests: [(&str, fn()); 6] = [
        ("a_child_compiles_what_is_kept", a_child_compiles_what_is_kept),
        ("bombs_are_refused", bombs_are_refused),
        ("what_passes_the_fence_ends_at_a_limit", what_passes_the_fence_ends_at_a_limit),
        ("a_child_that_hangs_is_killed", a_child_that_hangs_is_killed),
        ("a_child_that_is_not_ours_gives_nothing", a_child_that_is_not_ours_gives_nothing),
        ("mutants_end_in_a_refusal_or_a_module", mutants_end_in_a_refusal_or_a_module),
    ];
    for (name, test) in tests {
        if wanted.is_empty() || wanted.iter().any(|wanted| name.contains(wanted.as_str())) {
            println!("test {name} ...");
            let begun = Instant::now();
            test();
            println!("ok, {:?}", begun.elapsed());
        }
    }
    std::process::ExitCode::SUCCESS
}

fn child(limits: ChildLimits) -> Compiler {
    let program = std::env::current_exe().expect("this program");
    Compiler::Child { program, arguments: vec![COMPILE.into()], limits }
}

fn sandbox(compiler: Compiler, cache: Option<Cache>) -> Sandbox {
    Sandbox::new(SandboxConfig { compiler, cache, ..SandboxConfig::default() }).expect("a sandbox")
}

fn ours() -> Sandbox {
    sandbox(child(ChildLimits::default()), None)
}

fn a_child_compiles_what_is_kept() {
    let dir = std::env::temp_dir().join(format!("rollcall-child-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    let cache = || Some(Cache::open(&dir).expect("a cache"));
    let limits = ChildLimits { cpu_s: 60, ..ChildLimits::default() };
    let module = sandbox(child(limits), cache()).load(Builtin::SPARK_ROLL.component).expect("it loads");
    assert_eq!(module.policies.len(), 13);
    let none = Compiler::Child { program: "/nowhere".into(), arguments: Vec::new(), limits };
    let kept = sandbox(none.clone(), cache()).load(Builtin::SPARK_ROLL.component).expect("it is kept");
    assert_eq!(kept.digest, module.digest);
    let other = sandbox(none, cache()).load(Builtin::SPARK_LOSS.component).expect_err("it is not compiled");
    assert!(matches!(&other, Refusal::NoCompiler(why) if why.contains("No such file")), "{other}");
    std::fs::remove_dir_all(&dir).expect("it is there");
}

/// CPU time of the children that have ended.
fn children_cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("a line");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("its end").split_whitespace().collect();
    let ticks: u64 = [13, 14].into_iter().map(|at: usize| fields[at].parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 10)
}

/// The peak memory of this process.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("text");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Tries to load a module; returns the text of the refusal, and the CPU time.
fn try_it(sandbox: &Sandbox, name: &str, bytes: &[u8]) -> (String, Duration) {
    let before = children_cpu();
    let refusal = sandbox.load(bytes).err().map_or("it was loaded".to_owned(), |refusal| refusal.to_string());
    let cpu = children_cpu() - before;
    println!("  {name} ({} bytes): {cpu:?} of CPU: {}", bytes.len(), &refusal[..refusal.len().min(160)]);
    (refusal, cpu)
}

fn component(parts: &str) -> Vec<u8> {
    wat::parse_str(format!("(component {parts})")).expect("WebAssembly text")
}

fn module(parts: &str) -> Vec<u8> {
    component(&format!("(core module {parts})"))
}

fn locals(count: usize) -> String {
    format!("(local {})", "i32 ".repeat(count))
}

fn nested(kind: &str, depth: usize, within: &str) -> String {
    format!("{}{within}{}", format!("({kind} ").repeat(depth), ")".repeat(depth))
}

/// A component with types nested this deeply.
fn deep_types(depth: usize) -> Vec<u8> {
    let mut within = [0x41, 0x01, 0x01].repeat(depth);
    within.extend([0x41, 0x00]);
    let mut bytes = b"\0asm\x0d\x00\x01\x00\x07".to_vec();
    leb(&mut bytes, within.len() + 1);
    bytes.push(1);
    bytes.extend(within);
    bytes
}

fn leb(bytes: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Each is refused by name, before a second of CPU time is used.
fn bombs_are_refused() {
    let sandbox = ours();
    let function = |body: &str| format!("(func {body})");
    let bombs: Vec<(&str, Vec<u8>, &str)> = vec![
        ("locals", module(&function(&locals(50_000)).repeat(100)), "50000 locals"),
        ("loops", module(&function(&(locals(150) + &nested("loop", 300, "")))), "65 loops"),
        (
            "loops of few",
            module(&function(&(locals(250) + &nested("loop", 64, &"nop ".repeat(300)))).repeat(50)),
            "",
        ),
        (
            "br_table",
            module(&format!("(func (param i32) (br_table {} (local.get 0)))", "0 ".repeat(150_000))),
            "branches",
        ),
        ("blocks", module(&function(&nested("block", 50_000, ""))), "blocks within one another"),
        ("results", module(&format!("(type (func (result {})))", "i64 ".repeat(900))), "900 results"),
        ("types", module(&"(type (func (param i64 i32 i64)))".repeat(30_000)), "core types"),
        (
            "elements",
            module(&format!("(table 1 funcref) (func $f) (elem func {})", "$f ".repeat(1_500_000))),
            "elements in segments",
        ),
        ("data", module(&format!("(memory 1) {}", "(data (i32.const 0) \"x\")".repeat(20_000))), "segments"),
        (
            "images",
            component(&"(core module (memory 256) (data (i32.const 16777200) \"x\"))".repeat(100)),
            "bytes of memory",
        ),
        ("tables", component(&"(core module (table 90000 funcref))".repeat(100)), "table elements"),
        ("components", component(&nested("component", 90, "")), "levels of components"),
        ("modules", component(&"(core module)".repeat(5_000)), "modules, components and instances"),
        ("deep types", deep_types(100_000), ""),
        ("globals", module(&"(global i32 (i32.const 0))".repeat(20_000)), "globals"),
    ];
    let before = peak_kib();
    for (name, bytes, says) in bombs {
        let (refusal, cpu) = try_it(&sandbox, name, &bytes);
        assert!(refusal.contains(says) && refusal != "it was loaded", "{name}: {refusal}");
        let second = if says.is_empty() { 10 } else { 1 };
        assert!(cpu <= Duration::from_secs(second), "{name}: {cpu:?}");
    }
    let grown = peak_kib() - before;
    println!("  the parent has grown by {grown} KiB");
    assert!(grown < 32 << 10, "{grown} KiB");
}

/// No part of it is large, and all of it is expensive. The limits end it.
fn what_passes_the_fence_ends_at_a_limit() {
    let function =
        |depth, count| format!("(func {} {})", locals(count), nested("loop", depth, &"nop ".repeat(count)));
    let bomb = module(&function(60, 280).repeat(1_200));
    let short = ChildLimits { cpu_s: 1, ..ChildLimits::default() };
    let (refusal, cpu) = try_it(&sandbox(child(short), None), "a second", &bomb);
    assert!(refusal.contains("took more than 1 s of CPU"), "{refusal}");
    assert!(cpu < Duration::from_secs(3), "{cpu:?}");
    let narrow = ChildLimits { cpu_s: 60, memory_bytes: 6 << 20, ..ChildLimits::default() };
    let (refusal, _) = try_it(&sandbox(child(narrow), None), "6 MiB", Builtin::SPARK_ROLL.component);
    assert!(refusal.contains("took more than 6 MiB of memory"), "{refusal}");
}

fn a_child_that_hangs_is_killed() {
    let limits = ChildLimits { cpu_s: 1, ..ChildLimits::default() };
    let sleeps = Compiler::Child { program: "/bin/sleep".into(), arguments: vec!["600".into()], limits };
    let (refusal, _) = try_it(&sandbox(sleeps, None), "sleep", Builtin::SPARK_ROLL.component);
    assert!(refusal.contains("took more than 6 s"), "{refusal}");
}

fn a_child_that_is_not_ours_gives_nothing() {
    let says = |program: &str, arguments: &[&str]| {
        let arguments = arguments.iter().map(Into::into).collect();
        let limits = ChildLimits::default();
        let liar = Compiler::Child { program: PathBuf::from(program), arguments, limits };
        try_it(&sandbox(liar, None), program, Builtin::SPARK_ROLL.component).0
    };
    for program in ["/bin/true", "/bin/false"] {
        let said = says(program, &[]);
        assert!(said.contains("ended with exit status"), "{said}");
    }
    // It has the form of an answer, but is not machine code from our compiler.
    let said = says("/bin/echo", &["Cnonsense"]);
    assert!(said.contains("no process could be started to compile it"), "{said}");
    let said = says("/bin/cat", &["/dev/zero"]);
    assert!(said.contains("compiling and trying it"), "{said}");
    let said = says("/bin/sh", &["-c", "printf C; cat /dev/zero"]);
    assert!(said.contains("bytes of machine code"), "{said}");
}

/// Mutants of a module that loads: bits flipped, pieces removed, doubled, or moved.
fn mutants_end_in_a_refusal_or_a_module() {
    let count: u64 = std::env::var(MUTANTS).ok().and_then(|count| count.parse().ok()).unwrap_or(12);
    let sandbox = sandbox(child(ChildLimits { cpu_s: 20, ..ChildLimits::default() }), None);
    let good = Builtin::SPARK_ROLL.component;
    let (mut loaded, mut refused) = (0, 0);
    let mut dice = 0x9e37_79b9_7f4a_7c15_u64;
    let mut roll = |below: usize| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        (dice % below as u64) as usize
    };
    for _ in 0..count {
        let mut mutant = good.to_vec();
        let (at, len) = (8 + roll(good.len() - 8), 1 + roll(64));
        let piece: Vec<u8> = mutant[at..(at + len).min(good.len())].to_vec();
        match roll(3) {
            0 => mutant[at] ^= 1 << roll(8),
            1 => drop(mutant.splice(at..at + piece.len(), [])),
            _ => drop(mutant.splice(at..at, piece)),
        }
        match sandbox.load(&mutant) {
            Ok(_) => loaded += 1,
            Err(Refusal::TooDear(why)) if why.contains("ended with") => panic!("{why}"),
            Err(_) => refused += 1,
        }
    }
    println!("  {loaded} loaded, {refused} refused");
    assert!(refused > 0);
}
