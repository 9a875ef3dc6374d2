//! What happened in a run: always as one number, on request as text.
//!
//! The hash is FNV-1a over the bytes of everything that crosses the boundary of the core and everything
//! that the API server applies. Same seed, same hash (D4); two runs that differ anywhere differ here.
//! Rejected: `std`'s hasher, whose algorithm may change with a compiler.

#[derive(Debug)]
pub struct Trace {
    hash: u64,
    timeline: Option<Vec<String>>,
}

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// More lines than any run has that is read by hand.
const LINES_MAX: usize = 200_000;

impl Trace {
    pub fn new(timeline: bool) -> Trace {
        Trace { hash: OFFSET, timeline: timeline.then(Vec::new) }
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn number(&mut self, number: u64) {
        for byte in number.to_le_bytes() {
            self.byte(byte);
        }
    }

    pub fn text(&mut self, text: &str) {
        for byte in text.bytes() {
            self.byte(byte);
        }
        self.byte(0xff);
    }

    fn byte(&mut self, byte: u8) {
        self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(PRIME);
    }

    /// Whether a timeline is kept. Check this before formatting text.
    pub fn spoken(&self) -> bool {
        self.timeline.is_some()
    }

    /// A line of the timeline. The text is formatted only when a timeline is kept.
    pub fn say(&mut self, at_ms: u64, words: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.timeline
            && lines.len() < LINES_MAX
        {
            lines.push(format!("{:>6}.{:03} {}", at_ms / 1000, at_ms % 1000, words()));
        }
    }

    pub fn into_timeline(self) -> Vec<String> {
        self.timeline.unwrap_or_default()
    }
}
