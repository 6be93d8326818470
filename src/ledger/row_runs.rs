//! Decides which runs of places are merged, and when. (A place says where an entry about a row stands in the log.)
//!
//! A sealing pass writes the places of its entries as one run, sorted by row. So it appends; an index on rows would
//! take every entry to a page of its own. Several runs of about one size are merged into one. So a look-up has few runs
//! to look into: their number grows with the logarithm of the ledger, and so does the number of times that an entry is
//! written.
//!
//! No pass takes long. Short runs are merged at once. Where long ones are due, a run without places becomes their
//! target, and from then on steps move places there, the lowest rows first. At any time a place stands in one of the
//! two. So a look-up need not know which runs are sources and which are targets, and the list of runs holds all that is
//! known of a merge. Sealing pays for the steps: there are so many for so many sealed places, which is more than the
//! merges of all sizes take together.

use std::collections::BTreeSet;

/// This many runs of about one size are merged into one.
const FAN: usize = 8;

/// A run of places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// From 1. A new run has a greater number than all others.
    pub number: i64,
    pub length: i64,
    /// The run that its places are being moved to.
    pub target: Option<i64>,
    /// Places of rows whose upper half is below this have been moved.
    pub from: u64,
}

impl Run {
    /// How many numbers a run is stored as.
    pub const NUMBERS: usize = 4;

    pub fn new(number: i64, length: i64) -> Run {
        Run { number, length, target: None, from: 0 }
    }

    pub fn from_numbers([number, length, target, from]: [i64; Self::NUMBERS]) -> Run {
        Run { number, length, target: (target != 0).then_some(target), from: from.cast_unsigned() }
    }

    pub fn numbers(&self) -> [i64; Self::NUMBERS] {
        [self.number, self.length, self.target.unwrap_or(0), self.from.cast_signed()]
    }

    /// The lowest row that it can have a place for.
    pub fn first_row(&self) -> u128 {
        u128::from(self.from) << 64
    }
}

/// The number for a new run.
pub fn next_number(runs: &[Run]) -> i64 {
    runs.iter().map(|run| run.number).max().unwrap_or(0) + 1
}

/// What a step has taken from a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// The source's number.
    pub source: i64,
    pub places: i64,
    /// The row of the first place that is left, if any is left.
    pub rest: Option<u128>,
}

/// Notes what a step has moved to `target`.
pub fn note_step(runs: &mut Vec<Run>, target: i64, taken: &[Taken]) {
    runs.retain_mut(|run| {
        let Some(taken) = taken.iter().find(|taken| taken.source == run.number) else { return true };
        let Some(row) = taken.rest else { return false };
        run.length -= taken.places;
        run.from = (row >> 64) as u64;
        true
    });
    if let Some(target) = runs.iter_mut().find(|run| run.number == target) {
        target.length += taken.iter().map(|taken| taken.places).sum::<i64>();
    }
}

/// A merge in steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merge {
    pub target: Run,
    pub sources: Vec<Run>,
}

impl Merge {
    fn length(&self) -> i64 {
        self.target.length + self.sources.iter().map(|run| run.length).sum::<i64>()
    }
}

/// The merges that are under way, the shortest first: the next one of its size waits for it.
pub fn under_way(runs: &[Run]) -> Vec<Merge> {
    let sources_of = |target: &Run| runs.iter().filter(|run| run.target == Some(target.number)).copied().collect();
    let merge_into = |target: &Run| Merge { target: *target, sources: sources_of(target) };
    let mut merges: Vec<Merge> = runs.iter().map(merge_into).filter(|merge| !merge.sources.is_empty()).collect();
    merges.sort_by_key(Merge::length);
    merges
}

/// The sizes that decide what is merged, and when.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Runs from this length on are merged in steps, and have a filter.
    pub long: i64,
    /// There is one step for this many places that are sealed.
    pub period: i64,
    /// How many rows a filter is for.
    pub filter_rows: usize,
}

impl Sizes {
    /// A filter takes a bit less than a page. A step moves enough places to fill ten filters.
    pub const STANDARD: Sizes = Sizes { long: 1 << 15, period: 8_000, filter_rows: 6_400 };
    /// For tests: even a small ledger has runs of all kinds.
    pub const SMALL: Sizes = Sizes { long: 64, period: 25, filter_rows: 16 };

    pub fn has_filter(&self, length: i64) -> bool {
        length >= self.long
    }

    /// Takes those runs off the list that are merged at once with a new one of `length` places.
    pub fn take_due(&self, runs: &mut Vec<Run>, length: i64) -> Vec<Run> {
        let targets = targets(runs);
        let (mut due, mut length) = (Vec::new(), length);
        while length < self.long {
            let class = size_class(length);
            let is_alike =
                |run: &Run| run.length < self.long && size_class(run.length) <= class && is_free(run, &targets);
            if runs.iter().filter(|run| is_alike(run)).count() + 1 < FAN {
                break;
            }
            let alike: Vec<Run> = runs.extract_if(.., |run| is_alike(run)).collect();
            length += alike.iter().map(|run| run.length).sum::<i64>();
            due.extend(alike);
        }
        due
    }

    /// How many places a pass that adds `length` of them may move in steps.
    pub fn places_to_move(&self, runs: &[Run], length: i64) -> i64 {
        let all: i64 = runs.iter().map(|run| run.length).sum();
        let steps = (all + length) / self.period - all / self.period;
        steps * self.period * FAN as i64
    }

    /// Marks the long runs that are due: from now on they are merged in steps.
    pub fn begin_merges(&self, runs: &mut Vec<Run>) {
        let targets = targets(runs);
        let class_of = |run: &Run| (run.length >= self.long && is_free(run, &targets)).then(|| size_class(run.length));
        let classes: BTreeSet<u32> = runs.iter().filter_map(class_of).collect();
        for class in classes {
            if runs.iter().filter(|run| class_of(run) == Some(class)).count() < FAN {
                continue;
            }
            let number = next_number(runs);
            runs.iter_mut().filter(|run| class_of(run) == Some(class)).for_each(|run| run.target = Some(number));
            runs.push(Run::new(number, 0));
        }
    }
}

fn targets(runs: &[Run]) -> BTreeSet<i64> {
    runs.iter().filter_map(|run| run.target).collect()
}

/// Whether no merge moves places from the run, or to it.
fn is_free(run: &Run, targets: &BTreeSet<i64>) -> bool {
    run.target.is_none() && !targets.contains(&run.number)
}

fn size_class(length: i64) -> u32 {
    length.max(1).ilog(FAN as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What came of adding runs.
    #[derive(Default)]
    struct Grown {
        runs: Vec<Run>,
        /// Places that were added, and those that were written, merging included.
        all: i64,
        written: i64,
        most_runs: usize,
        most_written_by_a_pass: i64,
    }

    impl Grown {
        fn of(sizes: Sizes, lengths: impl Iterator<Item = i64>) -> Grown {
            let mut grown = Grown::default();
            lengths.for_each(|length| grown.add(sizes, length));
            assert_eq!(grown.runs.iter().map(|run| run.length).sum::<i64>(), grown.all);
            grown
        }

        /// As a pass does. A step takes of each source in proportion to what it has, which is what hashes lead to.
        fn add(&mut self, sizes: Sizes, length: i64) {
            let runs = &mut self.runs;
            let (mut budget, merges) = (sizes.places_to_move(runs, length), under_way(runs));
            let number = next_number(runs);
            let due = sizes.take_due(runs, length);
            let merged = length + due.iter().map(|run| run.length).sum::<i64>();
            runs.push(Run::new(number, merged));
            let mut written = merged;
            for merge in merges {
                let moved = step(runs, &merge, budget);
                (budget, written) = (budget - moved, written + moved);
            }
            sizes.begin_merges(runs);
            self.all += length;
            self.written += written;
            self.most_runs = self.most_runs.max(runs.len());
            self.most_written_by_a_pass = self.most_written_by_a_pass.max(written);
        }

        fn times(&self) -> f64 {
            self.written as f64 / self.all as f64
        }
    }

    fn step(runs: &mut Vec<Run>, merge: &Merge, limit: i64) -> i64 {
        let (all, mut left) = (merge.sources.iter().map(|run| run.length).sum::<i64>(), limit);
        let taken: Vec<Taken> = merge
            .sources
            .iter()
            .map(|source| {
                let places = left.min(source.length).min(limit.min(all) * source.length / all + 1);
                left -= places;
                let rest = (places < source.length).then_some(u128::from(source.from + 1) << 64);
                Taken { source: source.number, places, rest }
            })
            .collect();
        note_step(runs, merge.target.number, &taken);
        taken.iter().map(|taken| taken.places).sum()
    }

    /// Runs, times that a place is written, and places that one pass writes, at most.
    #[track_caller]
    fn assert_grown(grown: &Grown, runs: usize, times: f64, places: i64) {
        let (found, most) = (grown.times(), grown.most_written_by_a_pass);
        let said = format!("{} runs, {found} times, {most} places a pass", grown.most_runs);
        assert!(grown.most_runs <= runs && found <= times && most <= places, "{said}");
    }

    #[test]
    fn there_are_few_runs_each_place_is_written_a_few_times_and_no_pass_takes_long() {
        let sizes = Sizes::STANDARD;
        // Backlogs of a million entries to a thousand million, the longest passes there are, small ones, and all in
        // turn.
        for (passes, runs, times) in [(61, 13, 2.0), (3052, 30, 4.0), (61_036, 45, 5.5)] {
            assert_grown(&Grown::of(sizes, std::iter::repeat_n(16_384, passes)), runs, times, 330_000);
        }
        assert_grown(&Grown::of(sizes, std::iter::repeat_n(32_768, 3052)), 35, 4.0, 400_000);
        assert_grown(&Grown::of(sizes, std::iter::repeat_n(100, 40_000)), 45, 5.5, 120_000);
        let mixed = (0..10_000).map(|pass| [9000, 16_384, 1 + pass % 200, 1, 32_768][pass as usize % 5]);
        assert_grown(&Grown::of(sizes, mixed), 45, 4.5, 400_000);
    }

    #[test]
    fn the_number_of_runs_grows_with_the_logarithm_of_the_ledger() {
        let most = |passes| Grown::of(Sizes::SMALL, (0..passes).map(|pass| 1 + pass % 40)).most_runs;
        let by_size = [100, 800, 6_400, 51_200].map(most);
        assert!(by_size.windows(2).all(|pair| pair[1] <= pair[0] + FAN + 5), "{by_size:?}");
    }

    #[test]
    fn merging_keeps_up_after_a_time_in_which_it_did_not() {
        let mut runs: Vec<Run> = (1..=300).map(|number| Run::new(number, 100_000)).collect();
        let all = runs.iter().map(|run| run.length).sum();
        Sizes::STANDARD.begin_merges(&mut runs);
        let mut grown = Grown { runs, all, ..Grown::default() };
        (0..600).for_each(|_| grown.add(Sizes::STANDARD, 16_384));
        assert!(grown.runs.len() < 40, "{} runs", grown.runs.len());
    }

    #[test]
    fn a_run_that_takes_part_in_a_merge_takes_part_in_no_other() {
        let sizes = Sizes::SMALL;
        let mut runs: Vec<Run> = (1..=8).map(|number| Run::new(number, 100)).collect();
        sizes.begin_merges(&mut runs);
        assert_eq!(runs[8], Run::new(9, 0));
        assert!(runs[..8].iter().all(|run| run.target == Some(9)));
        let before = runs.clone();
        // Nor when little is left of it, or little is there yet.
        runs.iter_mut().for_each(|run| run.length = run.length.min(3));
        assert_eq!(sizes.take_due(&mut runs, 5), []);
        sizes.begin_merges(&mut runs);
        assert_eq!(runs.len(), before.len());
        assert_eq!(under_way(&before), [Merge { target: before[8], sources: before[..8].to_vec() }]);
    }

    #[test]
    fn a_step_that_leaves_nothing_of_the_sources_ends_the_merge() {
        let mut runs: Vec<Run> = (1..=8).map(|number| Run::new(number, 100)).collect();
        Sizes::SMALL.begin_merges(&mut runs);
        let rest = |source| (source > 2).then_some((7 << 64) + 5);
        let taken = |source| Taken { source, places: if source > 2 { 40 } else { 100 }, rest: rest(source) };
        note_step(&mut runs, 9, &(1..=8).map(taken).collect::<Vec<_>>());
        assert_eq!(runs.last(), Some(&Run::new(9, 440)));
        assert_eq!(runs[..6], [3, 4, 5, 6, 7, 8].map(|number| Run { number, length: 60, target: Some(9), from: 7 }));
        note_step(&mut runs, 9, &(3..=8).map(|source| Taken { source, places: 60, rest: None }).collect::<Vec<_>>());
        assert_eq!(runs, [Run::new(9, 800)]);
        assert_eq!(under_way(&runs), []);
    }

    #[test]
    fn the_numbers_of_a_run_give_it_back() {
        let run = Run { number: 5, length: 1 << 40, target: Some(9), from: u64::MAX - 3 };
        for run in [run, Run::new(1, 0)] {
            assert_eq!(Run::from_numbers(run.numbers()), run);
        }
        assert_eq!(run.first_row(), u128::from(u64::MAX - 3) << 64);
    }
}
