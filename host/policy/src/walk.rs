//! A look through a module before it is compiled.
//!
//! Compiling cannot be interrupted, and its cost is not in proportion to the file: it grows faster than
//! the size of a function and than the number of data segments. So what drives it is counted first, in
//! one pass over the bytes, and refused beyond limits that an interpreter with its standard library
//! stays well below.

use wasmparser::{ComponentTypeRef, Parser, Payload};

use crate::guest_log::printable;
use crate::limits::Limits;
use crate::module::Refusal;

/// Of one function. CPython's interpreter loop is the largest known: about 100 KB.
const FUNCTION_BYTES: u64 = 256 << 10;
const FUNCTIONS: u64 = 200_000;
/// Data and element segments of the whole component.
const SEGMENTS: u64 = 10_000;
const GLOBALS: u64 = 10_000;
/// Modules, components and instances, in all.
const PARTS: u64 = 1_000;
const WASM_PAGE_BYTES: u64 = 64 << 10;

#[expect(clippy::wildcard_enum_match_arm, reason = "the enum is open: later versions may add payloads")]
pub(crate) fn check(bytes: &[u8], limits: &Limits) -> Result<(), Refusal> {
    let invalid = |error: wasmparser::BinaryReaderError| Refusal::Invalid(printable(&error.to_string(), 500));
    let at_most = |what: &str, count: u64, limit: u64| {
        if count > limit {
            Err(Refusal::NeedsTooMuch { what: format!("{count} {what}"), limit })
        } else {
            Ok(())
        }
    };
    let (mut functions, mut segments, mut globals, mut parts) = (0u64, 0u64, 0u64, 0u64);
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(invalid)?;
        match &payload {
            Payload::FunctionSection(section) => functions += u64::from(section.count()),
            Payload::CodeSectionEntry(body) => {
                let range = body.range();
                at_most("bytes in one function", range.end - range.start, FUNCTION_BYTES)?;
            }
            Payload::DataSection(section) => segments += u64::from(section.count()),
            Payload::ElementSection(section) => segments += u64::from(section.count()),
            Payload::GlobalSection(section) => globals += u64::from(section.count()),
            Payload::MemorySection(section) => {
                for memory in section.clone() {
                    let bytes = memory.map_err(invalid)?.initial.saturating_mul(WASM_PAGE_BYTES);
                    at_most("bytes of memory to start with", bytes, limits.memory_bytes as u64)?;
                }
            }
            Payload::TableSection(section) => {
                for table in section.clone() {
                    let elements = table.map_err(invalid)?.ty.initial;
                    at_most("table elements to start with", elements, limits.table_elements as u64)?;
                }
            }
            Payload::InstanceSection(section) => parts += u64::from(section.count()),
            Payload::ComponentInstanceSection(section) => parts += u64::from(section.count()),
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => parts += 1,
            Payload::ComponentImportSection(section) => {
                for import in section.clone() {
                    let ty = import.map_err(invalid)?.ty;
                    if matches!(ty, ComponentTypeRef::Module(_) | ComponentTypeRef::Component(_)) {
                        let message =
                            "it imports a core module or a component, which cannot be bounded".into();
                        return Err(Refusal::WrongWorld(message));
                    }
                }
            }
            // Everything else is small, or is made of what is counted.
            _ => {}
        }
        at_most("functions", functions, FUNCTIONS)?;
        at_most("data and element segments", segments, SEGMENTS)?;
        at_most("globals", globals, GLOBALS)?;
        at_most("modules, components and instances", parts, PARTS)?;
    }
    Ok(())
}
