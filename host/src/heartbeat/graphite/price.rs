//! What lines cost. A connection, and over UDP an address, pays from a token bucket.

use super::batch::Heard;

/// The cost of a new batch, in lines: it takes locks, allocates, and ends as a message. So one connection makes at most
/// 100 heartbeats a second on average.
const BATCH_LINES: u32 = 20;
/// For a relay, which reports for many executors (`heartbeat.checkPeer: false`), this many lines cost as much as one,
/// and so does a new batch: 40,000 lines a second, about 3,000 executors that report every 10 s.
const RELAY_LINES: u32 = 20;

/// What lines cost.
#[derive(Debug, Default)]
pub struct Price {
    relayed_lines: u32,
}

impl Price {
    /// `relayed`: the batch belongs to a fleet that accepts lines from any address.
    pub fn of(&mut self, heard: Heard, relayed: bool) -> u32 {
        match heard {
            Heard::First if relayed => 1,
            Heard::First | Heard::Refused => BATCH_LINES,
            Heard::More if relayed => {
                self.relayed_lines = (self.relayed_lines + 1) % RELAY_LINES;
                u32::from(self.relayed_lines == 0)
            }
            Heard::More | Heard::Nothing => 1,
        }
    }
}
