//! How files and registry differ, for people and for programs.

use super::report::{short_error, short_id, Record, State};
use crate::output::{printable, short_path};
use crate::{INVALID, VALID};
use pg_notary::items::ItemType;
use semver::Version;
use serde_json::{json, Map, Value};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// How a file and the registry differ, by the names that `ledger.registry_sync` gives it. Only the last one is not from
/// there: it takes all files to tell.
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
    /// Only the registry has it, and a file has a newer version.
    Superseded,
}

impl Outcome {
    const ALL: [Outcome; 7] = [
        Outcome::Match,
        Outcome::Differs,
        Outcome::Moved,
        Outcome::Revoked,
        Outcome::MissingLocally,
        Outcome::MissingHere,
        Outcome::Superseded,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Match => "match",
            Outcome::Differs => "differs",
            Outcome::Moved => "moved",
            Outcome::Revoked => "revoked",
            Outcome::MissingLocally => "missing_locally",
            Outcome::MissingHere => "missing_here",
            Outcome::Superseded => "superseded",
        }
    }

    /// Reads a status of `ledger.registry_sync`.
    pub fn parse(text: &str) -> Option<Self> {
        let known = Self::ALL.into_iter().find(|outcome| outcome.as_str() == text);
        known.filter(|outcome| *outcome != Outcome::Superseded)
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
    /// Whether files and registry are not as they should be. The registry keeps all versions, and revoked ones: it is
    /// no problem that no file has them.
    fn is_problem(&self) -> bool {
        match self.outcome {
            Outcome::Match | Outcome::Superseded => false,
            Outcome::Revoked => self.shown.is_some(),
            Outcome::Differs | Outcome::Moved | Outcome::MissingLocally | Outcome::MissingHere => true,
        }
    }

    /// `STATUS PATH ID@VERSION: DETAIL`, with the type and location for an item that is in no file.
    fn line(&self) -> String {
        let place = match (&self.shown, &self.registry_path) {
            (Some(path), _) => short_path(path),
            (None, Some(location)) => short_path(&Path::new(self.item_type.base()).join(location)),
            (None, None) => self.item_type.as_str().to_owned(),
        };
        let mut line = format!("{:<15} {place}  {}", self.outcome.as_str(), short_id(&self.id, &self.version));
        if let Some(detail) = &self.detail {
            line += &format!(": {}", short_error(detail));
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
    pub fn new(mut compared: Vec<Comparison>, others: Vec<Record>) -> Self {
        mark_superseded(&mut compared);
        let (skipped, problems) = others.into_iter().partition(|record| record.state == State::Skipped);
        SyncReport { compared, problems, skipped }
    }

    /// The worst of what was found.
    pub fn exit_status(&self) -> u8 {
        let differs = self.compared.iter().any(Comparison::is_problem);
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
        let mut text: String = self.compared.iter().filter(|item| item.is_problem()).map(Comparison::line).collect();
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

/// Marks versions that no file has as superseded, not as missing, if a file has a newer version.
fn mark_superseded(compared: &mut [Comparison]) {
    let mut newest: HashMap<(ItemType, String), Version> = HashMap::new();
    for file in compared.iter().filter(|item| item.shown.is_some()) {
        let Ok(version) = Version::parse(&file.version) else { continue };
        let newest = newest.entry((file.item_type, file.id.clone())).or_insert_with(|| version.clone());
        if version.cmp_precedence(newest).is_gt() {
            *newest = version;
        }
    }
    for item in compared.iter_mut().filter(|item| item.outcome == Outcome::MissingLocally) {
        let newest = newest.get(&(item.item_type, item.id.clone()));
        let version = Version::parse(&item.version).ok();
        if let Some((newest, _)) = newest.zip(version).filter(|(newest, own)| newest.cmp_precedence(own).is_gt()) {
            item.outcome = Outcome::Superseded;
            item.detail = Some(format!("a file has version {newest}"));
        }
    }
}

fn problem_line(record: &Record) -> String {
    let line = format!("{:<15} {}", record.state.as_str(), short_path(&record.path));
    printable(&format!("{line}: {}", short_error(record.error().unwrap_or_default()))) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::UNREADABLE;

    fn compared(outcome: Outcome) -> Comparison {
        Comparison {
            shown: (!matches!(outcome, Outcome::MissingLocally | Outcome::Superseded)).then(|| "demo/a.py".into()),
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
            let known = Some(outcome).filter(|outcome| *outcome != Outcome::Superseded);
            assert_eq!(Outcome::parse(outcome.as_str()), known);
        }
        assert_eq!(Outcome::parse("matches"), None);
    }

    #[test]
    fn what_no_file_has_is_superseded_if_one_has_a_newer_version() {
        let of = |outcome, version: &str| Comparison { version: version.to_owned(), ..compared(outcome) };
        for (file, registered, is_superseded) in [
            ("1.1.0", "1.0.0", true),
            ("1.10.0", "1.9.0", true),
            ("1.0.0", "1.0.0-rc.1", true),
            ("1.0.0", "1.1.0", false),
            ("1.0.0+b", "1.0.0+a", false),
        ] {
            let oldest = of(Outcome::Differs, "0.1.0");
            let items = vec![oldest, of(Outcome::Match, file), of(Outcome::MissingLocally, registered)];
            let outcome = SyncReport::new(items, vec![]).compared[2].outcome;
            assert_eq!(outcome == Outcome::Superseded, is_superseded, "{registered} besides {file}");
        }
        let other = Comparison { id: "b".to_owned(), ..of(Outcome::Match, "2.0.0") };
        let directive = Comparison { item_type: ItemType::Directive, ..of(Outcome::Match, "2.0.0") };
        let report = SyncReport::new(vec![other, directive, of(Outcome::MissingLocally, "1.0.0")], vec![]);
        assert_eq!(report.exit_status(), INVALID);
    }

    /// Otherwise a registry would never be in sync again once it has two versions, or a revoked one.
    #[test]
    fn old_and_revoked_versions_that_no_file_has_are_no_problem() {
        let gone = Comparison { shown: None, version: "0.9.0".to_owned(), ..compared(Outcome::Revoked) };
        let old = Comparison { version: "0.1.0".to_owned(), ..compared(Outcome::MissingLocally) };
        let report = SyncReport::new(vec![compared(Outcome::Match), gone, old], vec![]);
        assert_eq!(report.describe(), "3 items: 1 match, 1 revoked, 1 superseded\n\nIN SYNC\n");
        let json = report.to_json();
        assert_eq!((&json["in_sync"], &json["items"][2]["status"]), (&true.into(), &"superseded".into()));
        assert_eq!(json["items"][2]["detail"], "a file has version 1.0.0");
        assert_eq!(report.exit_status(), VALID);
    }

    #[test]
    fn only_matches_and_what_is_superseded_exit_with_0() {
        assert_eq!(SyncReport::new(vec![], vec![]).exit_status(), VALID);
        for outcome in Outcome::ALL {
            let report =
                SyncReport::new(vec![compared(Outcome::Match), compared(outcome)], vec![other(State::Skipped)]);
            let is_good = matches!(outcome, Outcome::Match | Outcome::Superseded);
            assert_eq!(report.exit_status() == VALID, is_good, "{outcome:?}");
            assert_eq!(report.to_json()["in_sync"], is_good);
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
