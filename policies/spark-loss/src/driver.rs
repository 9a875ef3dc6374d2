//! Why the driver says that it removed the executor.
//!
//! Spark on Kubernetes writes a structured text, the same from 3.0 to 4.3: a headline with an exit code, the pod's
//! `status.reason` and `status.message`, and an entry for each container. Up to 3.5 the headline has the code of
//! *any* container that ended, so only the entries tell how the executor ended. Other drivers, and Spark of other
//! losses, write a sentence. Either may arrive flattened to one line.

/// The name that Spark gives to the executor's container where the pod template does not.
const SPARKS_NAME: &str = "spark-kubernetes-executor";

/// The keys of a container's entry. A value ends where the line does, or the next key begins.
const KEYS: [&str; 8] = [
    NAME,
    "container image:",
    "container state:",
    "container started at:",
    "container finished at:",
    EXIT_CODE,
    TERMINATION_REASON,
    "pending reason:",
];
const NAME: &str = "container name:";
const EXIT_CODE: &str = "exit code:";
const TERMINATION_REASON: &str = "termination reason:";
const BRIEF_REASON: &str = "the api gave the following brief reason:";
const MESSAGE: &str = "the api gave the following message:";
const STATUSES: &str = "the api gave the following container statuses:";

/// The driver's text, taken to pieces.
pub(crate) struct Told<'a> {
    pub(crate) text: &'a str,
    /// The pod's `status.reason`.
    pub(crate) reason: Option<&'a str>,
    /// The pod's `status.message`.
    pub(crate) message: Option<&'a str>,
    /// What may be searched for phrases: all of a sentence; of a structured text only the pod's message, since the
    /// rest speaks of all containers, and explains every SIGKILL as "possible container OOM".
    pub(crate) words: &'a str,
    /// The exit code of the headline, unless it is -1: Spark's word for "no container has ended".
    code: Option<i32>,
    structured: bool,
    entries: Vec<Entry<'a>>,
    /// As `text`, in lower case: its offsets are those of `text`.
    lower: String,
}

/// What the driver says of one container.
struct Entry<'a> {
    name: &'a str,
    end: Option<(i32, Option<&'a str>)>,
    /// It has at least been started.
    ran: bool,
}

impl<'a> Told<'a> {
    pub(crate) fn parse(text: &'a str) -> Told<'a> {
        let lower = text.to_ascii_lowercase();
        let after = |key: &str| lower.find(key).map(|at| at + key.len());
        let statuses = lower.find(STATUSES).or_else(|| lower.find(NAME)).unwrap_or(text.len());
        // An empty one is followed by the next sentence.
        let reason = after(BRIEF_REASON).and_then(|at| {
            let end = lower[at..].find("the api gave").map_or(text.len(), |next| at + next);
            token(&text[at..end])
        });
        let message = after(MESSAGE).map(|at| text[at..statuses.max(at)].trim());
        let message = message.filter(|message| is_given(message));
        let headline_ends =
            ["the api gave the following", NAME].iter().filter_map(|key| lower.find(key)).min();
        let structured = headline_ends.is_some();
        Told {
            text,
            reason,
            message,
            words: if structured { message.unwrap_or_default() } else { text },
            code: exit_code(&lower[..headline_ends.unwrap_or(text.len())]).filter(|code| *code != -1),
            structured,
            entries: entries(text, &lower),
            lower,
        }
    }

    /// How the executor's container ended: exit code and reason. `executor` is its name and `others` are those of
    /// the pod's other containers, as far as they are known.
    pub(crate) fn exit(&self, executor: Option<&str>, others: &[&str]) -> Option<(i32, Option<&'a str>)> {
        if !self.entries.is_empty() {
            return self.executor(executor, others)?.end;
        }
        let oom = !self.structured && self.text.contains("OOMKilled");
        self.code.map(|code| (code, oom.then_some("OOMKilled")))
    }

    /// Has no container of the pod been started, as far as the driver knows? It says `-1` of such a pod.
    pub(crate) fn nothing_ran(&self) -> bool {
        self.structured && self.code.is_none() && !self.entries.iter().any(|entry| entry.ran)
    }

    /// Does it say one of these, which are in lower case?
    pub(crate) fn says(&self, phrases: &[&str]) -> bool {
        phrases.iter().any(|phrase| self.lower.contains(phrase))
    }

    /// Does it call the loss an OOM? In a structured text the word explains the exit code, and in any text "possible
    /// container OOM" does.
    pub(crate) fn calls_it_oom(&self) -> bool {
        let mut words = self.words.split(|c: char| !c.is_ascii_alphanumeric());
        words.any(|word| word == "OOM") && !self.says(&["possible container oom"])
    }

    /// By its name; else a name that looks like it; else the last, where Spark puts the executor.
    fn executor(&self, name: Option<&str>, others: &[&str]) -> Option<&Entry<'a>> {
        let named = |name: &str| self.entries.iter().find(|entry| entry.name == name);
        let unknown = || self.entries.iter().filter(|entry| !others.contains(&entry.name));
        name.and_then(named)
            .or_else(|| named(SPARKS_NAME))
            .or_else(|| unknown().rfind(|entry| entry.name.contains("executor")))
            .or_else(|| unknown().next_back())
    }
}

fn entries<'a>(text: &'a str, lower: &str) -> Vec<Entry<'a>> {
    let starts: Vec<usize> = lower.match_indices(NAME).map(|(at, _)| at).collect();
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    let entry = |(start, end): (usize, usize)| {
        let (text, lower) = (&text[start..end], &lower[start..end]);
        let value = |key: &str| {
            let start = lower.find(key)? + key.len();
            let ends = KEYS.iter().filter_map(|key| lower[start..].find(key));
            token(&text[start..ends.min().map_or(text.len(), |length| start + length)])
        };
        let code = value(EXIT_CODE).and_then(|code| code.parse().ok());
        Some(Entry {
            name: value(NAME)?,
            end: code.map(|code| (code, value(TERMINATION_REASON))),
            ran: code.is_some() || value("container started at:").is_some(),
        })
    };
    starts.iter().copied().zip(ends).filter_map(entry).collect()
}

/// The first word, which is all that names, codes and Kubernetes' reasons consist of. A backslash ends it, too: some
/// write the line feeds of the text so.
fn token(text: &str) -> Option<&str> {
    let text = text.trim_start();
    let end = text.find(|c: char| c.is_whitespace() || matches!(c, '\\' | ',' | ';')).unwrap_or(text.len());
    Some(text[..end].trim_end_matches('.')).filter(|token| is_given(token))
}

/// Spark and Scala have words for what is missing.
fn is_given(value: &str) -> bool {
    !matches!(value, "" | "N/A" | "null" | "None")
}

/// The exit code in a sentence: "exited with exit code 52(JVM OOM)", "Command exited with code 52", "Exit status: 143".
fn exit_code(lower: &str) -> Option<i32> {
    ["exit code", "exited with code", "exit status", "exited with status"].iter().find_map(|before| {
        lower.match_indices(before).find_map(|(at, _)| {
            let after = lower[at + before.len()..].trim_start_matches([' ', ':', '=']);
            let after = ["code", "is"].iter().find_map(|word| after.strip_prefix(word)).unwrap_or(after);
            let after = after.trim_start_matches([' ', ':', '=']);
            let end = after.find(|c: char| c != '-' && !c.is_ascii_digit()).unwrap_or(after.len());
            after[..end].parse().ok()
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRUCTURED: &str = "
The executor with id 7 exited with exit code 0(success).
The API gave the following brief reason: Evicted
The API gave the following message: The node was low on resource: memory.
It had little.

The API gave the following container statuses:


\t container name: fluentd
\t container image: example/fluentd:1
\t container state: terminated
\t container started at: 2030-01-01T00:00:00Z
\t container finished at: 2030-01-01T00:10:00Z
\t exit code: 0
\t termination reason: Completed

\t container name: main
\t container image: example/spark:4
\t container state: terminated
\t container started at: 2030-01-01T00:00:00Z
\t container finished at: 2030-01-01T00:10:00Z
\t exit code: 52
\t termination reason: Error

\t container name: proxy
\t container image: example/proxy:1
\t container state: waiting
\t pending reason: CrashLoopBackOff
      ";

    #[test]
    fn a_structured_text_comes_apart() {
        for text in [STRUCTURED, &STRUCTURED.replace(['\n', '\t'], " "), &STRUCTURED.replace('\n', "\\n")] {
            let told = Told::parse(text);
            assert_eq!(told.reason, Some("Evicted"));
            let message = told.message.expect("a message");
            assert!(
                message.starts_with("The node was low") && message.contains("It had little."),
                "{message}"
            );
            assert_eq!(told.words, message);
            assert_eq!(told.exit(Some("main"), &[]), Some((52, Some("Error"))));
            assert_eq!(told.exit(Some("fluentd"), &[]), Some((0, Some("Completed"))));
            // The last is the executor, unless it is known not to be.
            assert_eq!(told.exit(None, &[]), None);
            assert_eq!(told.exit(None, &["proxy"]), Some((52, Some("Error"))));
            assert_eq!(told.exit(None, &["proxy", "main", "fluentd"]), None);
            assert!(!told.nothing_ran());
        }
    }

    #[test]
    fn a_name_that_looks_like_the_executors_is_taken_for_it() {
        let text = "exited with exit code 137. container name: my-executor exit code: 52 container name: vector exit code: 137";
        assert_eq!(Told::parse(text).exit(None, &[]), Some((52, None)));
        let text = text.replace("vector", SPARKS_NAME);
        assert_eq!(Told::parse(&text).exit(None, &[]), Some((137, None)));
    }

    #[test]
    fn the_code_of_a_sentence() {
        let code = |text| Told::parse(text).exit(None, &[]).map(|(code, _)| code);
        assert_eq!(code("Command exited with code 52"), Some(52));
        assert_eq!(
            code("The executor with id 7 exited with exit code 137(SIGKILL, possible container OOM)."),
            Some(137)
        );
        assert_eq!(code("Pod p's executor container exited with exit status code 3."), Some(3));
        assert_eq!(
            code("Container marked as failed: c on host: h. Exit status: 143. Diagnostics: …"),
            Some(143)
        );
        assert_eq!(code("Killed by external signal. Exit code is 137"), Some(137));
        assert_eq!(code("no exit code, but exit code 9é"), Some(9));
        for none in ["exit code -1.", "exit code", "exit code ", "exit code 99999999999", "exit code --5", ""]
        {
            assert_eq!(code(none), None, "{none}");
        }
    }

    #[test]
    fn what_is_missing_is_not_there() {
        let told = Told::parse(
            "The executor with id 7 exited with exit code -1.\nThe API gave the following brief reason: N/A\n\
             The API gave the following message: null\nThe API gave the following container statuses:\n\n",
        );
        assert_eq!((told.reason, told.message, told.words), (None, None, ""));
        assert_eq!(told.exit(None, &[]), None);
        assert!(told.nothing_ran());
        assert!(!Told::parse("Executor heartbeat timed out after 1 ms").nothing_ran());
    }
}
