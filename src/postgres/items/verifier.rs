//! The verifier behind [`verify_functions`](super::verify_functions) and signing: checks an item against its own text,
//! its stored hash and the ledger, and then everything that it calls.

use super::cache;
use super::entries::{ItemEntries, ItemEntry};
use super::input::{GivenItem, Stored};
use super::pending::AsOf;
use super::rows;
use crate::items::item::Item;
use crate::items::location::check_location;
use crate::items::registration::{ItemName, Pin, Registration};
use crate::items::signature_line::LineFormat;
use crate::items::verifier::{mismatch, no_hash, verify_integrity, verify_registered, Status, Verification, SOLUTION};
use crate::items::{ItemError, ItemType};
use crate::ledger::verifier::KeyCounts;
use crate::postgres::tables::RegisteredSnapshot;
use pgrx::{check_for_interrupts, pg_sys};
use std::collections::{HashMap, HashSet};
use uuid::Uuid;

/// The longest path from an item down to what it calls.
const MAX_DEPTH: usize = 2_000;

/// How many calls the items of such a path may have together. So many take some hundred megabytes.
const MAX_CALLS: usize = 1_000_000;

/// How many items of a path an error names at either end.
const SHOWN: usize = 10;

/// What to do about an item that is registered according to the ledger, but has no row.
pub const ROW_GONE_SOLUTION: &str =
    "Restore the row from a backup of ledger.items. Or review its text again, and register it with SELECT ledger.create_item(...).";

/// What verification found, and of which item.
pub struct Outcome {
    pub verification: Verification,
    /// `ID` of the item that is not valid.
    pub failed_item: Option<String>,
    /// Whether the ledger has an entry about the item. If it is valid as well, then its text is the one that was
    /// recorded.
    pub is_recorded: bool,
}

/// The same for an item alone, without what it calls.
pub struct Alone {
    pub verification: Verification,
    /// What the ledger's entry says of the item, if that is proved.
    pub registration: Option<Registration>,
    pub is_recorded: bool,
}

/// One run over any number of items, all as one snapshot sees them.
pub struct Verifier<'a> {
    entries: ItemEntries<'a>,
    /// Items of the registry that are valid with all that they call, and their hashes.
    valid: HashMap<Uuid, String>,
    /// How many items were found valid, those that others call included.
    pub verified: u64,
    /// How many of these were in the cache.
    pub cached: u64,
    /// What the signatures of the entries about items are worth.
    pub by_key: KeyCounts,
}

/// Runs `work` with a snapshot of what is committed now and what this transaction has done, whatever its isolation
/// level: a transaction that began before an item was revoked must not use it.
pub fn with_latest_snapshot<T>(work: impl FnOnce(Verifier<'_>) -> T) -> T {
    with_snapshot(false, work)
}

/// The same for signing, often of many items in one transaction: what is read of pending entries is kept for the next
/// call.
pub fn with_latest_snapshot_to_sign<T>(work: impl FnOnce(Verifier<'_>) -> T) -> T {
    with_snapshot(true, work)
}

fn with_snapshot<T>(to_sign: bool, work: impl FnOnce(Verifier<'_>) -> T) -> T {
    // SAFETY: inside a transaction.
    unsafe { pg_sys::CommandCounterIncrement() };
    let as_of = if to_sign { AsOf::now() } else { None };
    let snapshot = RegisteredSnapshot::latest();
    snapshot.while_active(|| {
        let (entries, by_key) = (ItemEntries::of_snapshot(&snapshot, as_of), KeyCounts::default());
        work(Verifier { entries, valid: HashMap::new(), verified: 0, cached: 0, by_key })
    })
}

/// An item on the way down, and how far its calls have been verified.
struct Frame {
    name: ItemName,
    integrity: String,
    calls: std::vec::IntoIter<Pin>,
    /// How many there were at first.
    call_count: usize,
    is_registered: bool,
}

impl<'a> Verifier<'a> {
    pub fn entries(&self) -> &ItemEntries<'a> {
        &self.entries
    }

    /// Verifies what the registry has under this name, as if it were at `file_path`.
    pub fn verify_name(&mut self, name: &ItemName, file_path: Option<&str>) -> (Option<GivenItem>, Outcome) {
        let Some(mut row) = rows::find(name) else {
            let is_recorded = self.entries.newest(name).is_some();
            let verification = if is_recorded { row_gone(name) } else { not_found(name) };
            return (None, Outcome { verification, failed_item: Some(name.id.clone()), is_recorded });
        };
        if let Some(file_path) = file_path {
            row.file_path = Some(file_path.to_owned());
        }
        let outcome = self.verify(&row);
        (Some(row), outcome)
    }

    /// Verifies the item and all that it calls.
    pub fn verify(&mut self, given: &GivenItem) -> Outcome {
        let Alone { verification, registration, is_recorded } = self.verify_alone(given);
        if !verification.success() {
            return Outcome { verification, failed_item: Some(given.id.clone()), is_recorded };
        }
        match registration.and_then(|registration| self.verify_calls(registration, given.is_registered())) {
            Some((failed, verification)) => Outcome { verification, failed_item: Some(failed.id), is_recorded },
            None => Outcome { verification, failed_item: None, is_recorded },
        }
    }

    /// Verifies the item, and not what it calls.
    pub fn verify_alone(&mut self, given: &GivenItem) -> Alone {
        check_for_interrupts!();
        let name = match given.name() {
            Ok(name) => name,
            Err(error) => {
                return Alone { verification: Verification::invalid(&error), registration: None, is_recorded: false }
            }
        };
        let entry = self.entries.newest(&name);
        let (verification, registration) = self.verify_against(given, &name, entry.as_ref());
        Alone { verification, registration, is_recorded: entry.is_some() }
    }

    /// Verifies the item against itself and the newest entry about it.
    fn verify_against(
        &mut self,
        given: &GivenItem,
        name: &ItemName,
        entry: Option<&ItemEntry>,
    ) -> (Verification, Option<Registration>) {
        let registered = entry.map(|entry| entry.registration_counted(name, &mut self.by_key));
        let registration = match registered.transpose() {
            Ok(None) if given.is_registered() => return (unrecorded(name), None),
            Ok(registration) => registration,
            Err(problem) => return (unproven(name, entry, &problem), None),
        };
        if let Some(reason) = &given.revoked {
            return (Verification::revoked(reason), registration);
        }
        let key = cache::Key::of(given, entry);
        if let Some(verification) = cache::find(&key) {
            self.verified += u64::from(verification.success());
            self.cached += u64::from(verification.success());
            return (verification, registration);
        }
        if let Some(Err(problem)) = entry.map(|entry| self.entries.check_tree(entry)) {
            return (unproven(name, entry, &problem), None);
        }
        let verification =
            verify_text(given, registration.as_ref()).unwrap_or_else(|error| Verification::invalid(&error));
        cache::remember(key, name.row_id(), &verification);
        self.verified += u64::from(verification.success());
        (verification, registration)
    }

    /// Verifies what the item calls, and what that calls: depth first, each once. Gives the first that fails.
    fn verify_calls(&mut self, root: Registration, is_registered: bool) -> Option<(ItemName, Verification)> {
        let mut call_count = root.depends_on.len();
        let mut path = vec![Frame::of(root, is_registered)];
        let mut on_path: HashSet<Uuid> = path.iter().map(|frame| frame.name.row_id()).collect();
        while let Some(frame) = path.last_mut() {
            let Some(pin) = frame.calls.next() else {
                call_count -= frame.call_count;
                self.leave(&mut path, &mut on_path);
                continue;
            };
            let row_id = pin.name.row_id();
            let found = if on_path.contains(&row_id) {
                Err(by_itself("it calls itself"))
            } else if path.len() >= MAX_DEPTH {
                Err(by_itself(&format!("more than {MAX_DEPTH} items call each other")))
            } else if call_count > MAX_CALLS {
                Err(by_itself(&format!("items that call each other have more than {MAX_CALLS} calls together")))
            } else {
                self.verify_call(&pin)
            };
            match found {
                Err(verification) => return Some(blame(&path, pin.name, *verification)),
                Ok(None) => {}
                Ok(Some(registration)) => {
                    on_path.insert(row_id);
                    call_count += registration.depends_on.len();
                    path.push(Frame::of(registration, true));
                }
            }
        }
        None
    }

    /// Leaves the last item of the path: everything that it calls is valid.
    fn leave(&mut self, path: &mut Vec<Frame>, on_path: &mut HashSet<Uuid>) {
        let Some(frame) = path.pop() else { return };
        let row_id = frame.name.row_id();
        on_path.remove(&row_id);
        if frame.is_registered {
            self.valid.insert(row_id, frame.integrity);
        }
    }

    /// Verifies an item that is called, and gives what it calls; `None` if that has been verified.
    fn verify_call(&mut self, pin: &Pin) -> Result<Option<Registration>, Box<Verification>> {
        if let Some(integrity) = self.valid.get(&pin.name.row_id()) {
            return check_pin(pin, integrity).map(|()| None);
        }
        let row = rows::find(&pin.name).ok_or_else(|| match self.entries.newest(&pin.name) {
            Some(_) => Box::new(row_gone(&pin.name)),
            None => Box::new(not_found(&pin.name)),
        })?;
        let Alone { verification, registration, .. } = self.verify_alone(&row);
        let registration = registration.filter(|_| verification.success()).ok_or_else(|| Box::new(verification))?;
        check_pin(pin, &registration.integrity)?;
        Ok(Some(registration))
    }
}

impl Frame {
    fn of(registration: Registration, is_registered: bool) -> Frame {
        let Registration { name, integrity, depends_on, .. } = registration;
        Frame { name, integrity, call_count: depends_on.len(), calls: depends_on.into_iter(), is_registered }
    }
}

/// Checks that the item is what it was when its caller was signed.
fn check_pin(pin: &Pin, integrity: &str) -> Result<(), Box<Verification>> {
    if pin.integrity == integrity {
        return Ok(());
    }
    let error = mismatch(&pin.name, integrity, &pin.integrity);
    let detail =
        "it was signed again after its caller was signed; sign the callers again, the nearest first".to_owned();
    Err(Box::new(Verification::failed(Status::Mismatch, error, Some(detail))))
}

fn blame(path: &[Frame], failed: ItemName, verification: Verification) -> (ItemName, Verification) {
    let names = path.iter().map(|frame| &frame.name).chain([&failed]);
    let mut names: Vec<String> = names.map(ItemName::to_string).collect();
    if names.len() > 2 * SHOWN {
        let more = format!("({} more)", names.len() - 2 * SHOWN);
        names.splice(SHOWN..names.len() - SHOWN, [more]);
    }
    let error = format!("Dependency {}: {}", names.join(" -> "), verification.error.unwrap_or_default());
    let blamed = Verification::failed(Status::Dependency, error, verification.detail);
    (failed, Verification { solution: verification.solution, ..blamed })
}

fn by_itself(error: &str) -> Box<Verification> {
    Box::new(Verification::failed(Status::Dependency, error.to_owned(), None))
}

fn verify_text(given: &GivenItem, registration: Option<&Registration>) -> Result<Verification, ItemError> {
    let item = given.item()?;
    let outcome = match &given.stored {
        Stored::Elsewhere(None) => verify_integrity(&item, None, &[]),
        Stored::Elsewhere(Some(hash)) => verify_registered(&item, Some(hash), registration),
        Stored::InContent => verify_registered(&item, None, registration),
    }?;
    let is_placed = matches!(outcome.status, Status::Valid | Status::Moved);
    let Some(registration) = registration.filter(|_| is_placed) else { return Ok(outcome) };
    if let Some(differs) = verify_row(given, registration) {
        return Ok(differs);
    }
    match outcome.success() {
        true => Ok(verify_comments(&item, registration)?.unwrap_or(outcome)),
        false => Ok(outcome),
    }
}

/// Checks that the signature line is in the comments of the language that was recorded: what is none in these is a part
/// of the program. `None` if it is.
fn verify_comments(item: &Item<'_>, registration: &Registration) -> Result<Option<Verification>, ItemError> {
    let recorded = Item { language: registration.language.as_deref(), ..*item };
    let is_same = LineFormat::of(item)?.style() == LineFormat::of(&recorded)?.style();
    let detail = "its signature line is in the comments of another language than the one that was recorded";
    Ok((!is_same).then(|| Verification::modified(detail.to_owned())))
}

/// Checks what a row says of its item that is not hashed, against the ledger's entry. `None` if they agree.
fn verify_row(given: &GivenItem, registration: &Registration) -> Option<Verification> {
    let row_location = given.registered_at.as_ref()?;
    let Registration { name, location, language, .. } = registration;
    if given.language != *language {
        return Some(Verification::modified("the language of its row is not the one that was recorded".to_owned()));
    }
    (row_location != location).then(|| row_elsewhere(name.item_type, location, row_location))
}

/// Only somebody who can change the ledger's tables can have moved the row so. The solution is not to move the item
/// from there: that would make the change permanent.
fn row_elsewhere(item_type: ItemType, signed_at: &str, row_location: &str) -> Verification {
    let detail = format!("signed at {signed_at}, and its row in ledger.items is at {row_location}");
    let mut solution = format!("Set location_path in ledger.items back to {signed_at}");
    if check_location(item_type, row_location).is_ok() {
        solution += ", or run ledger.sign_item(...) to sign the item where it is";
    }
    Verification::moved(detail).with_solution(solution)
}

fn not_found(name: &ItemName) -> Verification {
    let detail = format!("{} {name} is not registered", name.item_type.title());
    Verification::failed(Status::Unknown, no_hash(name), Some(detail))
}

/// The row is gone: only somebody who can change the ledger's tables can have deleted it.
fn row_gone(name: &ItemName) -> Verification {
    let detail = format!("{} {name} was registered, and its row in ledger.items is gone", name.item_type.title());
    Verification::failed(Status::Unknown, no_hash(name), Some(detail)).with_solution(ROW_GONE_SOLUTION.to_owned())
}

fn unrecorded(name: &ItemName) -> Verification {
    let detail = "the ledger has no entry about it".to_owned();
    Verification::failed(Status::Unknown, no_hash(name), Some(detail)).with_solution(SOLUTION.to_owned())
}

fn unproven(name: &ItemName, entry: Option<&ItemEntry>, problem: &str) -> Verification {
    let error = format!("The ledger's entry about {name} does not verify");
    let detail = match entry.and_then(ItemEntry::id) {
        Some(id) => format!("entry {id}: {problem}"),
        None => problem.to_owned(),
    };
    Verification::failed(Status::Unproven, error, Some(detail))
}
