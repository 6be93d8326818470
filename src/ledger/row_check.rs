//! Checks that the [runs](super::row_runs) hold the place of each entry about a row, once, and nothing else, and that a
//! look-up finds it there.
//!
//! Entries come in the order of the log, places in that of rows, and neither fits into memory. So both are added up: of
//! each place, a hash. The key of the hash is made anew for each check, so nobody can choose other places with the same
//! sum.

use super::row_index::{self, LogPosition};
use super::row_runs::Run;
use std::hash::{BuildHasher, RandomState};

/// The places that the entries give, and those that the runs hold.
#[derive(Default)]
pub struct PlaceCheck {
    keys: RandomState,
    of_entries: Sum,
    of_runs: Sum,
}

/// Places, added up in any order.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sum {
    count: u64,
    hashes: u64,
}

impl Sum {
    fn add(&mut self, place: &LogPosition, keys: &RandomState) {
        self.count += 1;
        self.hashes = self.hashes.wrapping_add(keys.hash_one(place));
    }
}

impl PlaceCheck {
    /// Takes the place of an entry.
    pub fn entry(&mut self, place: &LogPosition) {
        self.of_entries.add(place, &self.keys);
    }

    /// Begins with a run.
    pub fn run<'a>(&'a mut self, run: &'a Run) -> RunCheck<'a> {
        RunCheck { places: self, run, length: 0, last: None, fault: None }
    }

    /// What the runs have to do with the entries, if that is not what it should be. All entries and runs must have been
    /// taken.
    pub fn difference(&self) -> Option<String> {
        if self.of_entries == self.of_runs {
            return None;
        }
        let (entries, runs) = (self.of_entries.count, self.of_runs.count);
        Some(match entries == runs {
            true => "it does not lead to the entries about rows and items, though it has as many places".to_owned(),
            false => format!("it has {runs} places of entries about rows and items, and the entries give {entries}"),
        })
    }
}

/// The check of one run, chunk by chunk.
pub struct RunCheck<'a> {
    places: &'a mut PlaceCheck,
    run: &'a Run,
    length: i64,
    last: Option<LogPosition>,
    /// What is wrong first.
    fault: Option<&'static str>,
}

impl RunCheck<'_> {
    /// Takes the next chunk, which is stored under `first_row`. `is_looked_for` tells whether a look-up of the row
    /// would read the run; it is asked for rows in ascending order, unless the run is not.
    pub fn chunk(&mut self, first_row: u128, chunk: &[u8], mut is_looked_for: impl FnMut(u128) -> bool) {
        let is_whole = !chunk.is_empty() && chunk.len().is_multiple_of(LogPosition::BYTES);
        self.require(is_whole, "a chunk is damaged");
        for (at, place) in row_index::places_of(chunk).enumerate() {
            self.places.of_runs.add(&place, &self.places.keys);
            self.length += 1;
            self.require(at > 0 || place.row == first_row, "a chunk is not stored under its first row");
            let is_new_row = self.last.is_none_or(|last| last.row != place.row);
            self.require(!is_new_row || is_looked_for(place.row), "a filter hides a row that the run has a place for");
            self.require(self.last.is_none_or(|last| last <= place), "the places are not in their order");
            self.last = Some(place);
        }
    }

    fn require(&mut self, holds: bool, fault: &'static str) {
        if !holds {
            self.fault.get_or_insert(fault);
        }
    }

    /// What is wrong with the run, if anything is.
    pub fn finish(self) -> Option<String> {
        let Run { number, length, .. } = self.run;
        if let Some(fault) = self.fault {
            return Some(format!("run {number}: {fault}"));
        }
        let found = self.length;
        (found != *length).then(|| format!("run {number}: it has {found} places, and ledger.log_state says {length}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::record::Timestamp;

    /// Two rows with several entries each, in the order of the log.
    fn log() -> Vec<LogPosition> {
        let place = |at: i64| LogPosition {
            row: u128::from(at as u64 % 3 + 5),
            created_at: Timestamp::from_micros(at).unwrap(),
            leaf_index: at,
            block_number: at / 4 + 1,
        };
        (0..12).map(place).collect()
    }

    fn sorted(mut places: Vec<LogPosition>) -> Vec<LogPosition> {
        places.sort();
        places
    }

    fn bytes(places: &[LogPosition]) -> Vec<u8> {
        let mut chunk = Vec::new();
        places.iter().for_each(|place| place.write(&mut chunk));
        chunk
    }

    /// Chunks of three places.
    fn take(check: &mut PlaceCheck, run: &Run, places: &[LogPosition]) -> Option<String> {
        let mut run = check.run(run);
        places.chunks(3).for_each(|chunk| run.chunk(chunk[0].row, &bytes(chunk), |_| true));
        run.finish()
    }

    fn of_entries() -> PlaceCheck {
        let mut check = PlaceCheck::default();
        log().iter().for_each(|place| check.entry(place));
        check
    }

    fn run(length: usize) -> Run {
        Run::new(7, length as i64)
    }

    #[test]
    fn runs_that_hold_each_place_once_are_right_however_places_are_spread_over_them() {
        for split in 0..=12 {
            let (mut check, mut log) = (of_entries(), log());
            let second = sorted(log.split_off(split));
            let first = sorted(log);
            assert_eq!(take(&mut check, &run(first.len()), &first), None);
            assert_eq!(take(&mut check, &run(second.len()), &second), None);
            assert_eq!(check.difference(), None);
        }
        assert_eq!(PlaceCheck::default().difference(), None);
    }

    #[test]
    fn a_place_that_is_lacking_repeated_or_invented_is_found_wherever_it_is() {
        for at in 0..12 {
            let changed = |change: &dyn Fn(&mut Vec<LogPosition>)| {
                let (mut check, mut places) = (of_entries(), sorted(log()));
                change(&mut places);
                let places = sorted(places);
                assert_eq!(take(&mut check, &run(places.len()), &places), None, "the run is sound by itself");
                check.difference().expect("the places are other ones")
            };
            assert_eq!(
                changed(&|places| {
                    places.remove(at);
                }),
                "it has 11 places of entries about rows and items, and the entries give 12"
            );
            changed(&|places| places.push(places[at]));
            changed(&|places| places.push(LogPosition { leaf_index: 99, ..places[at] }));
            // As many as before.
            let as_many = "it does not lead to the entries about rows and items, though it has as many places";
            assert_eq!(changed(&|places| places[at].row += 1), as_many);
            assert_eq!(changed(&|places| places[at].leaf_index += 1), as_many);
            assert_eq!(changed(&|places| places[at].block_number += 1), as_many);
            assert_eq!(changed(&|places| places[at].created_at = Timestamp::from_micros(99).unwrap()), as_many);
            assert_eq!(changed(&|places| places[at] = places[(at + 1) % 12]), as_many);
        }
    }

    #[test]
    fn a_run_in_which_a_look_up_would_not_find_its_places_is_named() {
        let places = sorted(log());
        let fault = |change: &dyn Fn(&mut RunCheck)| {
            let (mut check, listed) = (of_entries(), run(places.len()));
            let mut run = check.run(&listed);
            change(&mut run);
            run.finish()
        };
        let whole = bytes(&places);
        assert_eq!(fault(&|run| run.chunk(5, &whole, |_| true)), None);
        let said = |text: &str| Some(format!("run 7: {text}"));
        let swapped = bytes(&places.iter().rev().copied().collect::<Vec<_>>());
        assert_eq!(fault(&|run| run.chunk(7, &swapped, |_| true)), said("the places are not in their order"));
        let halves = |run: &mut RunCheck| {
            run.chunk(places[6].row, &bytes(&places[6..]), |_| true);
            run.chunk(places[0].row, &bytes(&places[..6]), |_| true);
        };
        assert_eq!(fault(&halves), said("the places are not in their order"));
        assert_eq!(fault(&|run| run.chunk(4, &whole, |_| true)), said("a chunk is not stored under its first row"));
        let hidden = said("a filter hides a row that the run has a place for");
        assert_eq!(fault(&|run| run.chunk(5, &whole, |row| row != 6)), hidden);
        let damaged = said("a chunk is damaged");
        assert_eq!(fault(&|run| run.chunk(5, &whole[..479], |_| true)), damaged);
        assert_eq!(fault(&|run| run.chunk(5, &[], |_| true)), damaged);
        assert_eq!(
            fault(&|run| run.chunk(5, &whole[..440], |_| true)),
            said("it has 11 places, and ledger.log_state says 12")
        );
        assert_eq!(fault(&|_| ()), said("it has 0 places, and ledger.log_state says 12"));
    }
}
