//! Names of metrics as Spark's GraphiteSink writes them: `<prefix>.<namespace>.<executor id>.<source>.<metric>`.
//!
//! Spark joins the parts with dots (`MetricsSystem.buildRegistryName`), and Dropwizard's sender replaces white space
//! before it writes. The parts may contain dots themselves, so a name alone does not show where one ends.

pub use fleet::identity::{NAME_MAX, head, is_name, is_namespace};

use super::graphite::executor_id;

/// The part before the executor id in a name of an unknown application. `None`: it has no executor id.
pub fn unknown_head(name: &[u8]) -> Option<&[u8]> {
    let mut first = None;
    for end in (1..name.len()).filter(|&at| name[at] == b'.') {
        let rest = &name[end + 1..];
        let mut parts = rest.split(|byte| *byte == b'.');
        let id = parts.next().is_some_and(|id| id == b"driver" || executor_id(id).is_some());
        let Some(source) = parts.next().filter(|_| id) else { continue };
        if SOURCES.contains(&source) {
            return Some(&name[..end]);
        }
        first.get_or_insert(end);
    }
    first.map(|end| &name[..end])
}

/// Metric sources of executors. They tell an executor id from a number that is a part of the namespace.
const SOURCES: [&[u8]; 8] = [
    b"BlockManager",
    b"CodeGenerator",
    b"ExecutorMetrics",
    b"HiveExternalCatalog",
    b"JVMCPU",
    b"NettyBlockTransfer",
    b"executor",
    b"jvm",
];

/// Untrusted input, safe to display: at most 120 bytes of it, without terminal control sequences.
pub fn excerpt(bytes: &[u8]) -> String {
    const BYTES_MAX: usize = 120;
    let shown = &bytes[..bytes.len().min(BYTES_MAX)];
    let text = shown.utf8_chunks().fold(String::new(), |mut text, chunk| {
        text.extend(chunk.valid().escape_debug());
        text.extend(chunk.invalid().iter().flat_map(|byte| byte.escape_ascii()).map(char::from));
        text
    });
    if shown.len() < bytes.len() { format!("{text}…") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_written_as_the_sink_writes_it() {
        for (prefix, namespace, written) in [
            // Seen with Spark 4.3.0, the first as ${spark.app.name}.
            (None, "  Daily  import.v2 ä ", "Daily-import.v2-ä-"),
            (Some("team. x"), "my  ns", "team.-x.my-ns"),
            (None, "spark-1", "spark-1"),
            (Some("team.x"), "etl", "team.x.etl"),
            (None, "Daily  import \t of 2026", "Daily-import-of-2026"),
            (None, "  etl ", "etl-"),
            (Some("p"), " etl", "p.-etl"),
            (None, "a.b", "a.b"),
            (None, "Täglich neu", "Täglich-neu"),
            // Java's regular expressions do not count a no-break space as white space.
            (None, "a\u{a0}b", "a\u{a0}b"),
        ] {
            assert_eq!(head(prefix, namespace), written, "{prefix:?} {namespace:?}");
        }
        for bad in ["", " ", "a\nb", &"x".repeat(NAME_MAX + 1)] {
            assert!(!is_namespace(bad), "{bad:?}");
        }
    }

    #[test]
    fn the_head_of_an_unknown_name_ends_where_an_executor_id_begins() {
        for (name, head) in [
            ("etl.3.executor.runTime.count", Some("etl")),
            ("team.etl.driver.jvm.heap.used", Some("team.etl")),
            ("job.2026.etl.3.ExecutorMetrics.JVMHeapMemory", Some("job.2026.etl")),
            ("etl.3.mine.depth", Some("etl")),
            ("etl.3", None),
            ("3.executor.runTime.count", None),
            ("carbon.agents.cpu", None),
            ("", None),
            (".", None),
            ("etl.03.executor.runTime", None),
        ] {
            assert_eq!(unknown_head(name.as_bytes()), head.map(str::as_bytes), "{name}");
        }
    }

    #[test]
    fn an_excerpt_is_short_and_harmless() {
        assert_eq!(excerpt(b"GET / HTTP/1.1\r"), "GET / HTTP/1.1\\r");
        assert_eq!(excerpt(b"\x16\x03\x01\x1b[2J\xc3"), "\\u{16}\\u{3}\\u{1}\\u{1b}[2J\\xc3");
        let long = excerpt(&[0xff; 1_000]);
        assert!(long.len() < 500 && long.ends_with('…'), "{long}");
    }
}
