//! Reports where a module's types differ from the contract's, as WIT.
//!
//! The runtime knows *that* types differ and reports it in terms of tuples. An author wants to read "it has
//! `disk-used: list<u64>` where the contract has `disk-used-bytes: list<s64>`". So both are printed as WIT and
//! compared item by item. This is only for messages: the runtime decides whether types match.

use std::collections::BTreeMap;

use wit_component::{DecodedWasm, OutputToString, WitPrinter, decode};
use wit_parser::Resolve;

const CONTRACT: &str = include_str!("../../../wit/1.0.0/policy.wit");
const PACKAGE: &str = "rollcall:policy@1.0.0";

/// The first difference, if the component can be parsed that far.
pub(crate) fn difference(component: &[u8]) -> Option<String> {
    let DecodedWasm::Component(module, _) = decode(component).ok()? else { return None };
    let mut contract = Resolve::default();
    contract.push_str("policy.wit", CONTRACT).ok()?;
    let (module, contract) = (items(&module)?, items(&contract)?);
    module.iter().find_map(|(item, lines)| {
        let Some(ours) = contract.get(item) else {
            return Some(format!("it has {item}, which the contract has not"));
        };
        let at = (0..lines.len().max(ours.len())).find(|&at| lines.get(at) != ours.get(at))?;
        Some(match (lines.get(at), ours.get(at)) {
            (Some(line), Some(our)) => format!("in {item} it has `{line}` where the contract has `{our}`"),
            (Some(line), None) => format!("in {item} it has `{line}`, which the contract has not"),
            (None, our) => format!("in {item} it lacks the contract's `{}`", our.map_or("", |line| line)),
        })
    })
}

/// The lines of each item of the package's interfaces, by the item's heading.
fn items(resolve: &Resolve) -> Option<BTreeMap<String, Vec<String>>> {
    let (package, _) = resolve.packages.iter().find(|(_, package)| package.name.to_string() == PACKAGE)?;
    let mut printer = WitPrinter::<OutputToString>::default();
    printer.emit_docs(false);
    printer.print(resolve, package, &[]).ok()?;
    let text = printer.output.to_string();
    let mut items = BTreeMap::new();
    let (mut interface, mut block) = (String::new(), None);
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let heading = line.strip_suffix('{').map(str::trim);
        match (heading, &block) {
            (Some(heading), _) if heading.starts_with("interface ") => interface = heading.to_string(),
            (Some(heading), _) => {
                let heading = format!("{interface}: {heading}");
                items.insert(heading.clone(), Vec::new());
                block = Some(heading);
            }
            (None, Some(heading)) if line != "}" => {
                let lines: Option<&mut Vec<String>> = items.get_mut(heading);
                lines?.push(line.trim_end_matches(',').to_string());
            }
            (None, Some(_)) => block = None,
            // A function, or an alias of a type.
            (None, None) if line.contains(": func") => {
                let name = line.split(':').next().unwrap_or_default();
                items.insert(format!("{interface}: {name}"), vec![line.trim_end_matches(';').to_string()]);
            }
            (None, None) => {}
        }
    }
    Some(items)
}
