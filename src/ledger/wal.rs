//! Places in the WAL of a Postgres server. They tell whether a database was put back to an older state.

/// A place in the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalPosition {
    pub timeline: u32,
    pub location: u64,
}

impl WalPosition {
    /// As Postgres writes it.
    pub fn text(self) -> String {
        format!("{:X}/{:X} on timeline {}", self.location >> 32, self.location & 0xffff_ffff, self.timeline)
    }
}

/// The timeline of a cluster that was never recovered to a point in time and is no promoted standby.
const FIRST_TIMELINE: u32 = 1;

/// Whether the WAL that leads to `now` goes through `then`. `history` is the history file of the timeline of `now`:
/// lines of a parent timeline and the location at which it was left; `None` if it cannot be read. `None` if that cannot
/// be told.
pub fn contains(now: WalPosition, history: Option<&str>, then: WalPosition) -> Option<bool> {
    if now.timeline == then.timeline {
        return Some(now.location >= then.location);
    }
    // The first timeline has no parent, and no history file.
    let history = if now.timeline == FIRST_TIMELINE { "" } else { history? };
    for line in history.lines() {
        let mut words = line.split_whitespace();
        let (Some(timeline), Some(location)) = (words.next(), words.next()) else { continue };
        if timeline.parse() == Ok(then.timeline) {
            let (high, low) = location.split_once('/')?;
            let left_at = (u64::from_str_radix(high, 16).ok()? << 32) | u64::from_str_radix(low, 16).ok()?;
            return Some(left_at >= then.location);
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HISTORY: &str = "1\t0/3000000\tno recovery target specified\n\n2\t1/A0\tbefore 2026-01-01\n";

    fn at(timeline: u32, location: u64) -> WalPosition {
        WalPosition { timeline, location }
    }

    #[test]
    fn a_database_behind_the_file_is_told_by_its_wal() {
        let history = Some(HISTORY);
        for (now, history, then, expected) in [
            (at(1, 100), None, at(1, 100), Some(true)),
            (at(1, 99), None, at(1, 100), Some(false)),
            (at(3, 0x2_0000_0000), history, at(1, 0x300_0000), Some(true)),
            (at(3, 0x2_0000_0000), history, at(1, 0x300_0001), Some(false)),
            (at(3, 0x2_0000_0000), history, at(2, 0x1_0000_00A0), Some(true)),
            (at(3, 0x2_0000_0000), history, at(2, 0x1_0000_00A1), Some(false)),
            (at(3, 0x2_0000_0000), history, at(4, 0), Some(false)),
            (at(3, 0x2_0000_0000), None, at(1, 0), None),
            // A server that returns after another one was promoted.
            (at(1, 100), None, at(2, 90), Some(false)),
        ] {
            assert_eq!(contains(now, history, then), expected, "{now:?} {then:?}");
        }
    }
}
