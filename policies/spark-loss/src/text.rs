//! How evidence is put into a message.

use rollcall_policy::{Container, ContainerRole, Terminated};

/// Kubernetes' reason and message in brackets, as far as there are any.
pub(crate) fn because(reason: Option<&str>, message: Option<&str>) -> String {
    let parts = [reason, message].into_iter().flatten().map(quote).filter(|part| !part.is_empty());
    let parts: Vec<String> = parts.collect();
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(": ")) }
}

/// "sidecar container istio-proxy".
pub(crate) fn name(container: &Container) -> String {
    let role = match container.role {
        ContainerRole::Executor => "executor",
        ContainerRole::Sidecar => "sidecar",
        ContainerRole::Init => "init",
    };
    format!("{role} container {}", quote(&container.name))
}

/// "init container fetch-jars exited with exit status code 1 (Error)".
pub(crate) fn failed(container: &Container, end: &Terminated) -> String {
    let because = because(end.reason.as_deref(), end.message.as_deref());
    format!("{} exited with exit status code {}{because}", name(container), end.exit_code)
}

/// A text of another's, as part of a sentence.
pub(crate) fn quote(text: &str) -> String {
    bounded(text, 256).trim_end_matches('.').into()
}

/// On one line, without control characters, and in no more than so many bytes.
pub(crate) fn bounded(text: &str, bytes_max: usize) -> String {
    const MORE: &str = "…";
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let mut line = String::new();
    for word in words {
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
        if line.len() > bytes_max {
            line.truncate(line.floor_char_boundary(bytes_max - MORE.len()));
            return line + MORE;
        }
    }
    line
}
