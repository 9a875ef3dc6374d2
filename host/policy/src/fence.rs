//! Checks a module before it is compiled: its imports, and what drives the cost of compiling it.
//!
//! The cost is not proportional to the file. Sixteen bytes declare 50,000 locals, and each nested loop carries
//! all of them along; three kilobytes keep the compiler busy for a quarter of a minute. So everything that
//! multiplies the cost is counted first, in one pass over the bytes, and refused beyond limits that an
//! interpreter with its standard library stays well below.
//!
//! *Rejected:* relying on this alone. There is always one more thing to count, so untrusted modules are
//! compiled in a process with limits of its own, see [`crate::child`]; this check is cheap, runs first, and has
//! better messages.

use wasmparser::{
    BinaryReaderError, ComponentTypeRef, CompositeInnerType, ElementItems, FunctionBody, Operator, Parser,
    Payload,
};

use crate::guest_log::printable;
use crate::limits::Limits;
use crate::module;
use crate::refusal::Refusal;

/// Per function. CPython's interpreter loop is the largest known: about 100 KB.
const FUNCTION_BYTES: u64 = 256 << 10;
const FUNCTIONS: u64 = 200_000;
/// Per function. A compiler declares a local only if it is used, which takes at least a byte of code; so there
/// are never more than [`LOCALS_FREE`] and one for each byte.
const LOCALS: u64 = 10_000;
const LOCALS_FREE: u64 = 256;
/// Nested blocks: a `switch` has one for each case. Nested loops: hand-written code does not reach five.
const BLOCK_DEPTH: u64 = 5_000;
const LOOP_DEPTH: u64 = 64;
/// Depth of loops times locals and parameters, in one function: the number of values that may have to be
/// carried at once. A dozen loops with 2,000 locals.
const CARRIED: u64 = 25_000;
/// Targets of all `br_table` of one function, each of which carries values along: as many as the cases of a
/// `switch`.
const BRANCHES: u64 = 20_000;
/// Per core function type, which block types are, too. ABIs pass more than a few in memory.
const PARAMETERS: u64 = 128;
const RESULTS: u64 = 32;
/// Core types of the whole component, and fields in them.
const TYPES: u64 = 20_000;
/// Types, aliases, imports, exports and canonical functions of all components within it.
const ITEMS: u64 = 20_000;
/// Data and element segments of the whole component, and the elements in the latter.
const SEGMENTS: u64 = 10_000;
const ELEMENTS: u64 = 1_000_000;
const GLOBALS: u64 = 10_000;
/// Exports and imports of core modules.
const NAMES: u64 = 400_000;
/// Modules, components and instances, in total; and how deeply they are nested.
const PARTS: u64 = 1_000;
const DEPTH: u64 = 8;
const WASM_PAGE_BYTES: u64 = 64 << 10;

/// The counts so far.
#[derive(Default)]
struct Count {
    functions: u64,
    segments: u64,
    elements: u64,
    globals: u64,
    names: u64,
    types: u64,
    items: u64,
    parts: u64,
    memory_bytes: u64,
    table_elements: u64,
    depth: u64,
}

pub(crate) fn check(bytes: &[u8], limits: &Limits) -> Result<(), Refusal> {
    let mut count = Count::default();
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(invalid)?;
        count.add(&payload, limits)?;
    }
    Ok(())
}

fn invalid(error: BinaryReaderError) -> Refusal {
    Refusal::Invalid(printable(&error.to_string(), 500))
}

fn at_most(what: &str, count: u64, limit: u64) -> Result<(), Refusal> {
    if count > limit {
        return Err(Refusal::NeedsTooMuch { what: format!("{count} {what}"), limit });
    }
    Ok(())
}

impl Count {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the enum is open: later versions may add payloads")]
    fn add(&mut self, payload: &Payload<'_>, limits: &Limits) -> Result<(), Refusal> {
        match payload {
            Payload::TypeSection(section) => {
                for group in section.clone() {
                    for ty in group.map_err(invalid)?.types() {
                        self.core_type(&ty.composite_type.inner)?;
                    }
                }
            }
            Payload::ImportSection(section) => self.names += u64::from(section.count()),
            Payload::ExportSection(section) => self.names += u64::from(section.count()),
            Payload::FunctionSection(section) => self.functions += u64::from(section.count()),
            Payload::CodeSectionEntry(body) => function(body)?,
            Payload::DataSection(section) => self.segments += u64::from(section.count()),
            Payload::ElementSection(section) => {
                self.segments += u64::from(section.count());
                for element in section.clone() {
                    self.elements += u64::from(match element.map_err(invalid)?.items {
                        ElementItems::Functions(items) => items.count(),
                        ElementItems::Expressions(_, items) => items.count(),
                    });
                }
            }
            Payload::GlobalSection(section) => self.globals += u64::from(section.count()),
            Payload::TagSection(section) => self.globals += u64::from(section.count()),
            Payload::MemorySection(section) => {
                // Counted for all modules, also those without an instance: each has an image.
                for memory in section.clone() {
                    let initial = memory.map_err(invalid)?.initial.saturating_mul(WASM_PAGE_BYTES);
                    self.memory_bytes = self.memory_bytes.saturating_add(initial);
                }
            }
            Payload::TableSection(section) => {
                for table in section.clone() {
                    let initial = table.map_err(invalid)?.ty.initial;
                    self.table_elements = self.table_elements.saturating_add(initial);
                }
            }
            Payload::CoreTypeSection(section) => self.types += u64::from(section.count()),
            Payload::InstanceSection(section) => self.parts += u64::from(section.count()),
            Payload::ComponentInstanceSection(section) => self.parts += u64::from(section.count()),
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => {
                self.parts += 1;
                self.depth += 1;
            }
            Payload::End(_) => self.depth = self.depth.saturating_sub(1),
            Payload::ComponentTypeSection(section) => self.items += u64::from(section.count()),
            Payload::ComponentAliasSection(section) => self.items += u64::from(section.count()),
            Payload::ComponentCanonicalSection(section) => self.items += u64::from(section.count()),
            Payload::ComponentExportSection(section) => self.items += u64::from(section.count()),
            Payload::ComponentImportSection(section) => {
                self.items += u64::from(section.count());
                for import in section.clone() {
                    let import = import.map_err(invalid)?;
                    if matches!(import.ty, ComponentTypeRef::Module(_) | ComponentTypeRef::Component(_)) {
                        let message =
                            "it imports a core module or a component, which cannot be bounded".into();
                        return Err(Refusal::WrongWorld(message));
                    }
                    if self.depth == 0 {
                        module::check_import(import.name.name)?;
                    }
                }
            }
            // Everything else is small, or consists of counted parts.
            _ => {}
        }
        at_most("functions", self.functions, FUNCTIONS)?;
        at_most("data and element segments", self.segments, SEGMENTS)?;
        at_most("elements in segments", self.elements, ELEMENTS)?;
        at_most("globals", self.globals, GLOBALS)?;
        at_most("imports and exports of core modules", self.names, NAMES)?;
        at_most("core types", self.types, TYPES)?;
        at_most("types, aliases, imports and exports", self.items, ITEMS)?;
        at_most("modules, components and instances", self.parts, PARTS)?;
        at_most("levels of components", self.depth, DEPTH)?;
        at_most("bytes of memory to start with", self.memory_bytes, limits.memory_bytes as u64)?;
        at_most("table elements to start with", self.table_elements, limits.table_elements as u64)
    }

    fn core_type(&mut self, ty: &CompositeInnerType) -> Result<(), Refusal> {
        self.types += 1;
        match ty {
            CompositeInnerType::Func(ty) => {
                at_most("parameters of one function", ty.params().len() as u64, PARAMETERS)?;
                at_most("results of one function", ty.results().len() as u64, RESULTS)?;
            }
            CompositeInnerType::Struct(ty) => self.types += ty.fields.len() as u64,
            CompositeInnerType::Array(_) | CompositeInnerType::Cont(_) => {}
        }
        at_most("core types", self.types, TYPES)
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a few hundred instructions cost what they look like")]
fn function(body: &FunctionBody<'_>) -> Result<(), Refusal> {
    let range = body.range();
    let size_bytes = (range.end - range.start) as u64;
    at_most("bytes in one function", size_bytes, FUNCTION_BYTES)?;
    let mut locals = 0u64;
    for declared in body.get_locals_reader().map_err(invalid)? {
        let (count, _) = declared.map_err(invalid)?;
        locals += u64::from(count);
    }
    at_most("locals in one function", locals, LOCALS.min(LOCALS_FREE + size_bytes))?;
    let (mut blocks, mut loops, mut loops_most, mut branches) = (Vec::new(), 0u64, 0u64, 0u64);
    let mut operators = body.get_operators_reader().map_err(invalid)?;
    while !operators.eof() {
        match operators.read().map_err(invalid)? {
            Operator::Loop { .. } => {
                loops += 1;
                loops_most = loops_most.max(loops);
                blocks.push(true);
                at_most("loops within one another", loops, LOOP_DEPTH)?;
            }
            Operator::Block { .. } | Operator::If { .. } | Operator::TryTable { .. } => blocks.push(false),
            Operator::End => {
                if blocks.pop() == Some(true) {
                    loops -= 1;
                }
            }
            Operator::BrTable { targets } => branches += u64::from(targets.len()),
            _ => continue,
        }
        at_most("blocks within one another", blocks.len() as u64, BLOCK_DEPTH)?;
        at_most("branches of one function's tables", branches, BRANCHES)?;
    }
    let carried = loops_most * (locals + PARAMETERS);
    at_most("values carried around loops (their depth times the locals)", carried, CARRIED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(module: &str) -> Option<String> {
        let component =
            wat::parse_str(format!("(component (core module {module}))")).expect("WebAssembly text");
        check(&component, &Limits::default()).err().map(|refusal| refusal.to_string())
    }

    #[test]
    fn what_multiplies_is_refused_and_what_compilers_write_is_not() {
        let locals = |count: usize| format!("(local {})", "i32 ".repeat(count));
        let nested =
            |kind: &str, depth: usize| format!("{}{}", format!("({kind} ").repeat(depth), ")".repeat(depth));
        let cases = [
            (format!("(func {})", locals(50_000)), Some("50000 locals in one function")),
            (format!("(func {})", locals(300)), Some("300 locals in one function")),
            (format!("(func {})", locals(200)), None),
            (format!("(func {} {})", locals(300), "(drop (i32.const 0))".repeat(100)), None),
            (format!("(func {} {})", locals(150), nested("loop", 300)), Some("65 loops within one another")),
            (
                format!("(func {} {})", locals(600), nested("loop", 64) + &"nop ".repeat(400)),
                Some("46592 values carried around"),
            ),
            (format!("(func {} {})", locals(150), nested("loop", 8)), None),
            (format!("(func {})", nested("block", 5_001)), Some("5001 blocks within one another")),
            (format!("(func {})", nested("block", 1_000)), None),
            (
                format!("(func (param i32) (br_table {} (local.get 0)))", "0 ".repeat(20_002)),
                Some("20001 branches"),
            ),
            (format!("(func (param i32) (br_table {} (local.get 0)))", "0 ".repeat(300)), None),
            (format!("(type (func (param {})))", "i32 ".repeat(129)), Some("129 parameters")),
            (format!("(type (func (result {})))", "i32 ".repeat(33)), Some("33 results")),
            ("(type (func (param i32)))".repeat(20_001), Some("20001 core types")),
            (format!("(rec {})", "(type (func))".repeat(20_001)), Some("20001 core types")),
            (
                format!("(table 1 funcref) (func $f) (elem func {})", "$f ".repeat(1_000_001)),
                Some("1000001 elements"),
            ),
            ("(memory 600)".to_owned(), Some("39321600 bytes of memory")),
            ("(memory 300)) (core module (memory 300)".to_owned(), Some("39321600 bytes of memory")),
            (
                "(table 60000 funcref)) (core module (table 60000 funcref)".to_owned(),
                Some("120000 table elements"),
            ),
        ];
        for (module, expected) in cases {
            let (said, shown) = (refused(&module), &module[..module.len().min(60)]);
            match expected {
                Some(part) => {
                    assert!(said.as_ref().is_some_and(|said| said.contains(part)), "{shown}: {said:?}")
                }
                None => assert_eq!(said, None, "{shown}"),
            }
        }
    }

    #[test]
    fn imports_and_nesting_are_looked_at_before_anything_else() {
        let check = |text: &str| {
            let component = wat::parse_str(text).expect("WebAssembly text");
            check(&component, &Limits::default()).err().map(|refusal| refusal.to_string()).unwrap_or_default()
        };
        let stranger = r#"(component (import "acme:billing/charge" (instance)) (core module (memory 9999)))"#;
        assert!(
            check(stranger).contains("it imports acme:billing/charge; policies may import"),
            "{}",
            check(stranger)
        );
        let deep = format!("{}{}", "(component ".repeat(10), ")".repeat(10));
        assert!(check(&deep).contains("9 levels of components"), "{}", check(&deep));
        let wide = format!("(component {})", "(core module)".repeat(1_001));
        assert!(check(&wide).contains("1001 modules, components and instances"), "{}", check(&wide));
        let types = format!("(component {})", "(type u8)".repeat(20_001));
        assert!(check(&types).contains("20001 types, aliases"), "{}", check(&types));
    }

    /// Bits are flipped, and pieces removed, doubled and swapped, in modules that load. Every mutant is handled
    /// without a panic, and in a time that is bounded by its size.
    #[test]
    fn mutants_are_looked_at_without_a_crash() {
        let count = std::env::var("ROLLCALL_MUTANTS").ok().and_then(|count| count.parse().ok());
        let (mut dice, mut through) = (0x2545_f491_4f6c_dd1d_u64, 0);
        let mut roll = |below: usize| {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            (dice % below.max(1) as u64) as usize
        };
        let begun = std::time::Instant::now();
        let count = count.unwrap_or(1_000u32);
        for at in 0..count {
            let good = crate::Builtin::ALL[at as usize % 2].component;
            let mut mutant = good.to_vec();
            for _ in 0..=roll(3) {
                let (at, other) = (8 + roll(mutant.len() - 8), 8 + roll(mutant.len() - 8));
                // Most of the interesting bytes are in the first kilobytes: types, imports, section headers.
                let at = if roll(2) == 0 { at % 4_096 + 8 } else { at };
                let len = (1 + roll(100)).min(mutant.len() - at.max(other));
                match roll(5) {
                    0 => mutant[at] ^= 1 << roll(8),
                    1 => mutant[at] = roll(256) as u8,
                    2 => drop(mutant.drain(at..at + len)),
                    3 => {
                        let piece = mutant[other..other + len].to_vec();
                        drop(mutant.splice(at..at, piece));
                    }
                    _ => (0..len).for_each(|step| mutant.swap(at + step, other + step)),
                }
            }
            let started = std::time::Instant::now();
            through += u32::from(check(&mutant, &Limits::default()).is_ok());
            assert!(
                started.elapsed() < std::time::Duration::from_secs(2),
                "mutant {at}: {:?}",
                started.elapsed()
            );
        }
        println!("{through} of {count} passed, {:?}", begun.elapsed());
        assert!(through > 0 && through < count);
    }

    #[test]
    fn our_own_modules_are_far_from_the_fence() {
        for builtin in crate::Builtin::ALL {
            assert_eq!(check(builtin.component, &Limits::default()), Ok(()), "{}", builtin.name);
        }
    }
}
