//! How many datagrams the kernel dropped because they were not read in time: a column of `/proc/net/udp`, in the row of
//! our socket. If the file cannot be read, no drops are reported.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;

use tokio::net::UdpSocket;

/// Maximum sockets that are searched; a row is about 130 bytes.
const ROWS_MAX: usize = 10_000;

pub struct Drops {
    inode: Option<u64>,
    table: &'static str,
    before: u64,
}

impl Drops {
    pub fn of(socket: &UdpSocket) -> Drops {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).ok();
        let inode = link.and_then(|link| link.to_str().and_then(inode));
        let v6 = socket.local_addr().is_ok_and(|address| address.is_ipv6());
        let mut drops =
            Drops { inode, table: if v6 { "/proc/net/udp6" } else { "/proc/net/udp" }, before: 0 };
        drops.more();
        drops
    }

    /// The increase since the last call.
    pub fn more(&mut self) -> u64 {
        let Some(inode) = self.inode else { return 0 };
        let Ok(table) = File::open(self.table) else { return 0 };
        let rows = BufReader::new(table).lines().take(ROWS_MAX).map_while(Result::ok);
        let Some(now) = rows.filter_map(|row| dropped(&row, inode)).next() else { return 0 };
        now.saturating_sub(std::mem::replace(&mut self.before, now))
    }
}

fn inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// The last column, if the tenth is this inode.
fn dropped(row: &str, inode: u64) -> Option<u64> {
    let columns: Vec<&str> = row.split_whitespace().collect();
    let ours = columns.get(9)?.parse() == Ok(inode);
    ours.then(|| columns.last()?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_found_by_its_inode() {
        let row = " 1234: 0100007F:07D3 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 98765 2 \
                   0000000000000000 42";
        assert_eq!(dropped(row, 98765), Some(42));
        assert_eq!(dropped(row, 9876), None);
        assert_eq!(dropped("  sl  local_address rem_address   st tx_queue rx_queue tr", 1), None);
        assert_eq!(inode("socket:[98765]"), Some(98765));
        assert_eq!(inode("pipe:[98765]"), None);
    }

    /// 16 MB into a socket that is not read.
    #[tokio::test]
    async fn what_the_kernel_throws_away_is_counted() {
        let deaf = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut drops = Drops::of(&deaf);
        if drops.inode.is_none() {
            return;
        }
        assert_eq!(drops.more(), 0);
        let sender = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let to = deaf.local_addr().unwrap();
        for _ in 0..16_000 {
            sender.send_to(&[0; 1_000], to).await.unwrap();
        }
        assert!(drops.more() > 0);
        assert_eq!(drops.more(), 0);
    }
}
