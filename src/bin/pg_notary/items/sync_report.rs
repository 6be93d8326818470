//! How files and registry differ, for people and for programs.

use super::report::{short_error, short_id, Record, State};
use crate::output::{printable, short_path};
use crate::{INVALID, VALID};
use pg_notary::items::comparison::SyncStatus;
use pg_notary::items::registration::ItemName;
use pg_notary::items::ItemType;
use semver::Version;
use serde_json::{json, Map, Value};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// How a file and the registry differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// By what the registry says.
    Status(SyncStatus),
    /// Only the registry has it, and a file has a newer version. It takes all files to tell.
    Superseded,
}

impl Outcome {
    fn all() -> impl Iterator<Item = Outcome> {
        SyncStatus::ALL.into_iter().map(Outcome::Status).chain([Outcome::Superseded])
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Status(status) => status.as_str(),
            Outcome::Superseded => "superseded",
        }
    }
}

/// One item, in the files, in the registry or in both.
pub struct Comparison {
    /// The file, as the user would name it.
    pub shown: Option<PathBuf>,
    pub name: ItemName,
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
        use SyncStatus::*;
        match self.outcome {
            Outcome::Status(Match) | Outcome::Superseded => false,
            Outcome::Status(Revoked) => self.shown.is_some(),
            Outcome::Status(Differs | Moved | MissingLocally | MissingHere) => true,
        }
    }

    /// `STATUS PATH ID@VERSION: DETAIL`, with the type and location for an item that is in no file.
    fn line(&self) -> String {
        let ItemName { item_type, id, version } = &self.name;
        let place = match (&self.shown, &self.registry_path) {
            (Some(path), _) => short_path(path),
            (None, Some(location)) => short_path(&Path::new(item_type.base()).join(location)),
            (None, None) => item_type.as_str().to_owned(),
        };
        let mut line = format!("{:<15} {place}  {}", self.outcome.as_str(), short_id(id, version));
        if let Some(detail) = &self.detail {
            line += &format!(": {}", short_error(detail));
        }
        printable(&line) + "\n"
    }

    fn to_json(&self) -> Value {
        json!({
            "path": self.shown.as_ref().map(|path| path.to_string_lossy()),
            "item_type": self.name.item_type.as_str(),
            "item_id": self.name.id,
            "version": self.name.version,
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
        let compared = Outcome::all()
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
    for ItemName { item_type, id, version } in
        compared.iter().filter(|item| item.shown.is_some()).map(|file| &file.name)
    {
        let Ok(version) = Version::parse(version) else { continue };
        let newest = newest.entry((*item_type, id.clone())).or_insert_with(|| version.clone());
        if version.cmp_precedence(newest).is_gt() {
            *newest = version;
        }
    }
    let missing = Outcome::Status(SyncStatus::MissingLocally);
    for item in compared.iter_mut().filter(|item| item.outcome == missing) {
        let newest = newest.get(&(item.name.item_type, item.name.id.clone()));
        let version = Version::parse(&item.name.version).ok();
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
    use SyncStatus::*;

    impl From<SyncStatus> for Outcome {
        fn from(status: SyncStatus) -> Self {
            Outcome::Status(status)
        }
    }

    fn name(version: &str) -> ItemName {
        ItemName { item_type: ItemType::Tool, id: "a".to_owned(), version: version.to_owned() }
    }

    fn compared(outcome: impl Into<Outcome>) -> Comparison {
        let outcome = outcome.into();
        let is_in_no_file = matches!(outcome, Outcome::Status(MissingLocally) | Outcome::Superseded);
        Comparison {
            shown: (!is_in_no_file).then(|| "demo/a.py".into()),
            name: name("1.0.0"),
            outcome,
            local_path: None,
            registry_path: Some("core/a.py".to_owned()),
            local_hash: None,
            registry_hash: None,
            detail: (outcome != Outcome::Status(Match)).then(|| "why".to_owned()),
        }
    }

    fn other(state: State) -> Record {
        Record::new("b.py".into(), ItemType::Tool).in_state(state, "because".to_owned())
    }

    #[test]
    fn what_no_file_has_is_superseded_if_one_has_a_newer_version() {
        let of = |status: SyncStatus, version: &str| Comparison { name: name(version), ..compared(status) };
        for (file, registered, is_superseded) in [
            ("1.1.0", "1.0.0", true),
            ("1.10.0", "1.9.0", true),
            ("1.0.0", "1.0.0-rc.1", true),
            ("1.0.0", "1.1.0", false),
            ("1.0.0+b", "1.0.0+a", false),
        ] {
            let oldest = of(Differs, "0.1.0");
            let items = vec![oldest, of(Match, file), of(MissingLocally, registered)];
            let outcome = SyncReport::new(items, vec![]).compared[2].outcome;
            assert_eq!(outcome == Outcome::Superseded, is_superseded, "{registered} besides {file}");
        }
        let mut other = of(Match, "2.0.0");
        other.name.id = "b".to_owned();
        let mut directive = of(Match, "2.0.0");
        directive.name.item_type = ItemType::Directive;
        let report = SyncReport::new(vec![other, directive, of(MissingLocally, "1.0.0")], vec![]);
        assert_eq!(report.exit_status(), INVALID);
    }

    /// Otherwise a registry would never be in sync again once it has two versions, or a revoked one.
    #[test]
    fn old_and_revoked_versions_that_no_file_has_are_no_problem() {
        let gone = Comparison { shown: None, name: name("0.9.0"), ..compared(Revoked) };
        let old = Comparison { name: name("0.1.0"), ..compared(MissingLocally) };
        let report = SyncReport::new(vec![compared(Match), gone, old], vec![]);
        assert_eq!(report.describe(), "3 items: 1 match, 1 revoked, 1 superseded\n\nIN SYNC\n");
        let json = report.to_json();
        assert_eq!((&json["in_sync"], &json["items"][2]["status"]), (&true.into(), &"superseded".into()));
        assert_eq!(json["items"][2]["detail"], "a file has version 1.0.0");
        assert_eq!(report.exit_status(), VALID);
    }

    #[test]
    fn only_matches_and_what_is_superseded_exit_with_0() {
        assert_eq!(SyncReport::new(vec![], vec![]).exit_status(), VALID);
        for outcome in Outcome::all() {
            let report = SyncReport::new(vec![compared(Match), compared(outcome)], vec![other(State::Skipped)]);
            let is_good = matches!(outcome, Outcome::Status(Match) | Outcome::Superseded);
            assert_eq!(report.exit_status() == VALID, is_good, "{outcome:?}");
            assert_eq!(report.to_json()["in_sync"], is_good);
        }
        for (state, status) in [(State::Invalid, INVALID), (State::Refused, INVALID), (State::Failed, UNREADABLE)] {
            assert_eq!(SyncReport::new(vec![compared(Differs)], vec![other(state)]).exit_status(), status);
        }
    }

    #[test]
    fn people_are_told_of_what_differs() {
        let items = vec![compared(Match), compared(Moved), compared(MissingLocally)];
        let expected = "\
moved           demo/a.py  a@1.0.0: why
missing_locally .ai/tools/core/a.py  a@1.0.0: why
invalid         b.py: because

4 items: 1 match, 1 moved, 1 missing_locally, 1 invalid

NOT IN SYNC
";
        assert_eq!(SyncReport::new(items, vec![other(State::Invalid), other(State::Skipped)]).describe(), expected);
        assert_eq!(SyncReport::new(vec![compared(Match)], vec![]).describe(), "1 item: 1 match\n\nIN SYNC\n");
    }
}
