//! How files and registry differ, for people and for programs.

use super::report::{printable, Record, State};
use crate::{INVALID, VALID};
use pg_notary::items::ItemType;
use serde_json::{json, Map, Value};
use std::path::PathBuf;

/// How a file and the registry differ, by the names that `ledger.registry_sync` gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Match,
    Differs,
    Moved,
    Revoked,
    /// Only the registry has it.
    MissingLocally,
    /// Only the files have it.
    MissingHere,
}

impl Outcome {
    const ALL: [Outcome; 6] = [
        Outcome::Match,
        Outcome::Differs,
        Outcome::Moved,
        Outcome::Revoked,
        Outcome::MissingLocally,
        Outcome::MissingHere,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Match => "match",
            Outcome::Differs => "differs",
            Outcome::Moved => "moved",
            Outcome::Revoked => "revoked",
            Outcome::MissingLocally => "missing_locally",
            Outcome::MissingHere => "missing_here",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.as_str() == text)
    }
}

/// One item, in the files, in the registry or in both.
pub struct Comparison {
    /// The file, as the user would name it.
    pub shown: Option<PathBuf>,
    pub item_type: ItemType,
    pub id: String,
    pub version: String,
    pub outcome: Outcome,
    pub local_path: Option<String>,
    pub registry_path: Option<String>,
    pub local_hash: Option<String>,
    pub registry_hash: Option<String>,
    pub detail: Option<String>,
}

impl Comparison {
    /// `STATUS PATH ID@VERSION: DETAIL`, with the type and location for what is in no file.
    fn line(&self) -> String {
        let place = match (&self.shown, &self.registry_path) {
            (Some(path), _) => path.display().to_string(),
            (None, Some(location)) => format!("{}/{location}", self.item_type.base()),
            (None, None) => self.item_type.as_str().to_owned(),
        };
        let mut line = format!("{:<15} {place}  {}@{}", self.outcome.as_str(), self.id, self.version);
        if let Some(detail) = &self.detail {
            line += &format!(": {detail}");
        }
        printable(&line) + "\n"
    }

    fn to_json(&self) -> Value {
        json!({
            "path": self.shown.as_ref().map(|path| path.to_string_lossy()),
            "item_type": self.item_type.as_str(),
            "item_id": self.id,
            "version": self.version,
            "status": self.outcome.as_str(),
            "local_path": self.local_path,
            "registry_path": self.registry_path,
            "local_hash": self.local_hash,
            "registry_hash": self.registry_hash,
            "detail": self.detail,
        })
    }
}

/// All items, and the files that were not compared.
pub struct SyncReport {
    compared: Vec<Comparison>,
    problems: Vec<Record>,
    skipped: Vec<Record>,
}

impl SyncReport {
    pub fn new(compared: Vec<Comparison>, others: Vec<Record>) -> Self {
        let (skipped, problems) = others.into_iter().partition(|record| record.state == State::Skipped);
        SyncReport { compared, problems, skipped }
    }

    /// The worst of what was found.
    pub fn exit_status(&self) -> u8 {
        let differs = self.compared.iter().any(|item| item.outcome != Outcome::Match);
        let compared = if differs { INVALID } else { VALID };
        self.problems.iter().map(|record| record.state.exit_status()).fold(compared, u8::max)
    }

    /// How many there are in each state: of what was compared, and of what could not be.
    fn counts(&self) -> Vec<(&'static str, usize)> {
        let compared = Outcome::ALL
            .into_iter()
            .map(|outcome| (outcome.as_str(), self.compared.iter().filter(|item| item.outcome == outcome).count()));
        let problems = [State::Invalid, State::Refused, State::Failed]
            .into_iter()
            .map(|state| (state.as_str(), self.problems.iter().filter(|record| record.state == state).count()));
        compared.chain(problems).collect()
    }

    /// The report for people: what differs, and the counts.
    pub fn describe(&self) -> String {
        let mut text: String =
            self.compared.iter().filter(|item| item.outcome != Outcome::Match).map(Comparison::line).collect();
        text.extend(self.problems.iter().map(problem_line));
        if !text.is_empty() {
            text.push('\n');
        }
        let items = self.compared.len() + self.problems.len();
        let counts: Vec<String> = self
            .counts()
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| format!("{count} {name}"))
            .collect();
        text += &format!("{items} item{}", if items == 1 { "" } else { "s" });
        if !counts.is_empty() {
            text += &format!(": {}", counts.join(", "));
        }
        text + if self.exit_status() == VALID { "\n\nIN SYNC\n" } else { "\n\nNOT IN SYNC\n" }
    }

    /// `{in_sync, item_count, counts: {STATUS: n}, items: [...], problems: [...], skipped: [{path, reason}]}`.
    pub fn to_json(&self) -> Value {
        let counts: Map<String, Value> =
            self.counts().into_iter().map(|(name, count)| (name.to_owned(), count.into())).collect();
        let problem = |record: &Record| {
            json!({
                "path": record.path.to_string_lossy(),
                "item_type": record.item_type.as_str(),
                "state": record.state.as_str(),
                "error": record.error(),
            })
        };
        let skipped = |record: &Record| json!({"path": record.path.to_string_lossy(), "reason": record.error()});
        json!({
            "in_sync": self.exit_status() == VALID,
            "item_count": self.compared.len() + self.problems.len(),
            "counts": counts,
            "items": self.compared.iter().map(Comparison::to_json).collect::<Vec<_>>(),
            "problems": self.problems.iter().map(problem).collect::<Vec<_>>(),
            "skipped": self.skipped.iter().map(skipped).collect::<Vec<_>>(),
        })
    }
}

fn problem_line(record: &Record) -> String {
    let line = format!("{:<15} {}", record.state.as_str(), record.path.display());
    printable(&format!("{line}: {}", record.error().unwrap_or_default())) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::UNREADABLE;

    fn compared(outcome: Outcome) -> Comparison {
        Comparison {
            shown: (outcome != Outcome::MissingLocally).then(|| "demo/a.py".into()),
            item_type: ItemType::Tool,
            id: "a".to_owned(),
            version: "1.0.0".to_owned(),
            outcome,
            local_path: None,
            registry_path: Some("core/a.py".to_owned()),
            local_hash: None,
            registry_hash: None,
            detail: (outcome != Outcome::Match).then(|| "why".to_owned()),
        }
    }

    fn other(state: State) -> Record {
        Record::new("b.py".into(), ItemType::Tool).in_state(state, "because".to_owned())
    }

    #[test]
    fn every_status_of_the_registry_is_known_and_no_other() {
        for outcome in Outcome::ALL {
            assert_eq!(Outcome::parse(outcome.as_str()), Some(outcome));
        }
        assert_eq!(Outcome::parse("matches"), None);
    }

    #[test]
    fn only_matches_exit_with_0() {
        assert_eq!(SyncReport::new(vec![], vec![]).exit_status(), VALID);
        for outcome in Outcome::ALL {
            let report =
                SyncReport::new(vec![compared(Outcome::Match), compared(outcome)], vec![other(State::Skipped)]);
            assert_eq!(report.exit_status() == VALID, outcome == Outcome::Match, "{outcome:?}");
            assert_eq!(report.to_json()["in_sync"], outcome == Outcome::Match);
        }
        for (state, status) in [(State::Invalid, INVALID), (State::Refused, INVALID), (State::Failed, UNREADABLE)] {
            assert_eq!(SyncReport::new(vec![compared(Outcome::Differs)], vec![other(state)]).exit_status(), status);
        }
    }

    #[test]
    fn people_are_told_of_what_differs() {
        let items = vec![compared(Outcome::Match), compared(Outcome::Moved), compared(Outcome::MissingLocally)];
        let expected = "\
moved           demo/a.py  a@1.0.0: why
missing_locally .ai/tools/core/a.py  a@1.0.0: why
invalid         b.py: because

4 items: 1 match, 1 moved, 1 missing_locally, 1 invalid

NOT IN SYNC
";
        assert_eq!(SyncReport::new(items, vec![other(State::Invalid), other(State::Skipped)]).describe(), expected);
        assert_eq!(SyncReport::new(vec![compared(Outcome::Match)], vec![]).describe(), "1 item: 1 match\n\nIN SYNC\n");
    }
}
