//! What the verifier gives to a reader that drives it line by line.

use super::*;
use crate::ledger::log_tree::STORED_LEVEL;
use crate::ledger::record::Record;
use crate::ledger::Hash;
use std::borrow::Cow;
use std::collections::HashMap;

#[test]
fn a_reader_who_drives_the_verifier_gets_all_that_a_rebuilt_ledger_stores() {
    let lines = ledger(9, 300, 40);
    let keyring = keyring();
    let mut verifier = FileVerifier::new(Some(Cow::Borrowed(&keyring)), Findings::new());
    verifier.collect_nodes();
    let mut seen: HashMap<Uuid, Hash> = HashMap::new();
    let (mut expected, mut expected_nodes, mut nodes) = (LogTree::new(), Vec::new(), Vec::new());
    for raw in &lines {
        let see = |record: &Record<'_>| {
            if let Record::Entry(entry) = record {
                seen.insert(entry.entry_id, leaf_hash(&entry.to_entry().line()));
            }
        };
        let Some(block) = verifier.line_seen(raw, see) else { continue };
        for entry in &block.entries {
            expected.push(seen[&entry.entry_id], |level, index, hash| {
                if level >= STORED_LEVEL {
                    expected_nodes.push((level, index, hash));
                }
            });
        }
        nodes.append(&mut verifier.take_nodes());
    }
    assert_eq!(verifier.line_number(), lines.len() as u64);
    assert_eq!(verifier.tree(), Some(&expected));
    assert!(nodes == expected_nodes && nodes.len() > 2, "{} leaves", expected.size());
    assert!(verifier.finish(0).valid());
}

#[test]
fn the_tree_is_not_known_after_a_block_that_is_not_what_it_says() {
    let mut lines = ledger(10, 1, 5);
    let of_block = lines.iter().position(|line| line.starts_with(b"{\"block_hash\"")).unwrap();
    let Ok(Record::Block(block)) = Record::parse(&lines[of_block]) else { panic!("a block line") };
    let id = block.entry_ids[0].to_string();
    let of_entry = lines.iter().position(|line| String::from_utf8_lossy(line).contains(&id)).unwrap();
    lines.remove(of_entry);
    let mut verifier = FileVerifier::new(None, Findings::new());
    lines[..of_block].iter().for_each(|line| drop(verifier.line(line)));
    assert_eq!(verifier.tree(), None);
}
