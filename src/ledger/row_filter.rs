//! Tells which rows a stretch of a run is not about: a Bloom filter. It is a thirtieth of the size of the places that a
//! look-up then need not read.

/// Bits for each row, and how many of them are set. With these, the filter wrongly answers "perhaps" for one in a
/// hundred rows that are not there.
const BITS: usize = 10;
const SET: u32 = 5;

/// The filter for rows, which are ids made by hashing.
pub fn of(rows: &[u128]) -> Vec<u8> {
    let mut filter = vec![0; (rows.len() * BITS).div_ceil(8)];
    for row in rows {
        for (byte, bit) in bits_of(*row, filter.len()) {
            filter[byte] |= bit;
        }
    }
    filter
}

/// False only if the row is not one of those that the filter was made for.
pub fn may_contain(filter: &[u8], row: u128) -> bool {
    filter.is_empty() || bits_of(row, filter.len()).all(|(byte, bit)| filter[byte] & bit != 0)
}

/// Uses the lower bits of the row: rows of one stretch have the upper ones in common.
fn bits_of(row: u128, bytes: usize) -> impl Iterator<Item = (usize, u8)> {
    let (start, step) = (row as u32, (row >> 32) as u32 | 1);
    (0..SET).map(move |at| {
        let hash = u64::from(start.wrapping_add(step.wrapping_mul(at)));
        let bit = ((hash * (bytes as u64 * 8)) >> 32) as usize;
        (bit / 8, 1 << (bit % 8))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::sha256;

    fn row(number: u32) -> u128 {
        let hash = sha256(&number.to_be_bytes());
        u128::from_be_bytes(hash[..16].try_into().unwrap())
    }

    #[test]
    fn a_row_that_is_there_is_never_overlooked() {
        for count in [0, 1, 2, 7, 100, 6400] {
            let rows: Vec<u128> = (0..count).map(row).collect();
            let filter = of(&rows);
            assert!(rows.iter().all(|row| may_contain(&filter, *row)), "{count}");
            // Nor is one of a stretch of rows that begin alike.
            let alike: Vec<u128> = rows.iter().map(|row| row >> 64).collect();
            let filter = of(&alike);
            assert!(alike.iter().all(|row| may_contain(&filter, *row)), "{count}");
        }
    }

    #[test]
    fn of_a_hundred_rows_that_are_not_there_one_is_looked_for() {
        let filter = of(&(0..6400).map(row).collect::<Vec<_>>());
        assert_eq!(filter.len(), 8000);
        let found = (6400..106_400).filter(|number| may_contain(&filter, row(*number))).count();
        assert!((500..1500).contains(&found), "{found} of 100,000");
    }

    #[test]
    fn no_filter_rules_out_nothing() {
        assert!(may_contain(&[], 0) && may_contain(&[], row(1)));
    }
}
