//! Block hashes that were noted elsewhere, where an attacker who can write the file cannot change them. A file that was
//! made anew has other hashes.

use pg_notary::ledger::parse_hash;
use pg_notary::ledger::verifier::{FileBlock, Findings, Problem, ProblemKind, Source};
use std::collections::BTreeMap;
use std::str::FromStr;

/// A noted block, given as `NUMBER:HASH`.
#[derive(Debug, Clone)]
pub struct NotedBlock {
    number: i64,
    /// In lower case, as in the file.
    hash: String,
}

impl FromStr for NotedBlock {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let usage =
            "write it as NUMBER:HASH, as in 12:4a26101870eff965b6d66beef11c63e9820615a550dd4ad211c46b0490d66ff2";
        let (number, hash) = text.split_once(':').ok_or(usage)?;
        let number = number.parse().ok().filter(|number| *number > 0).ok_or(usage)?;
        // Other programs print the same hash in upper case.
        let hash = hash.to_ascii_lowercase();
        parse_hash(&hash).ok_or(usage)?;
        Ok(NotedBlock { number, hash })
    }
}

/// The noted blocks that have not been seen in the file yet, and the problems with those that have.
pub struct NotedBlocks {
    expected: BTreeMap<i64, Vec<String>>,
    findings: Findings<'static>,
}

impl NotedBlocks {
    pub fn new(noted: &[NotedBlock]) -> NotedBlocks {
        let mut expected: BTreeMap<i64, Vec<String>> = BTreeMap::new();
        for NotedBlock { number, hash } in noted {
            expected.entry(*number).or_default().push(hash.clone());
        }
        NotedBlocks { expected, findings: Findings::new() }
    }

    pub fn see(&mut self, block: &FileBlock) {
        let header = &block.header;
        for noted in self.expected.remove(&header.block_number).into_iter().flatten() {
            if noted != header.block_hash {
                let detail = format!("its hash is {}, but {noted} was noted", header.block_hash);
                let problem = Problem::new(Source::File, ProblemKind::NotedHashMismatch, detail);
                self.findings.report(problem.in_block(header.block_number).on_line(block.line_number));
            }
        }
    }

    /// Called at the end of the file: reports the noted blocks that it does not have.
    pub fn finish(mut self) -> Findings<'static> {
        for number in self.expected.keys() {
            let detail = "a hash was noted for this block, but the file does not have the block".to_owned();
            self.findings.report(Problem::new(Source::File, ProblemKind::NotedHashMismatch, detail).in_block(*number));
        }
        self.findings
    }
}
