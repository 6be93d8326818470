//! track() and untrack(): a table becomes provable, and stops being so.

use super::baseline;
use super::baseline_table;
use super::copies;
use super::horizon;
use super::locked_tree::LockedTree;
use super::metadata::MetadataBuilder;
use super::options::{self, Coverage, MadeFor, Options, ROW_TRIGGER, TRUNCATE_TRIGGER};
use super::plan;
use super::primary_key;
use super::trackable::{self, Obstacle};
use crate::ledger::metadata::Member;
use crate::ledger::row_change::{TABLE_TRACKED, TABLE_UNTRACKED};
use crate::ledger::sha256_hex;
use crate::postgres::database;
use crate::postgres::ddl;
use crate::postgres::entries::{self, OwnEntry};
use crate::postgres::errorless;
use crate::postgres::errors::{or_raise, required, Failure};
use crate::postgres::ids;
use crate::postgres::jsonb;
use crate::postgres::local_settings::with_setting;
use crate::postgres::ownership::Object;
use crate::postgres::quoting::{identifier, literal};
use crate::postgres::relation::{self, Regclass, TableColumn};
use crate::postgres::roles::{self, as_ledger_owner};
use crate::postgres::schema;
use crate::postgres::secrets;
use crate::postgres::spi::{self, Argument};
use crate::postgres::tables::Table;
use pgrx::prelude::*;
use pgrx::PgSqlErrorCode;
use serde_json::json;
use std::collections::HashSet;
use std::ffi::CStr;

// Here and in untrack(), types are read and triggers created as the ledger's owner: nothing of the caller's must get
// into that.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn track(
    target: Option<Regclass>,
    keep_image: default!(Option<bool>, "false"),
    with_signature: default!(Option<bool>, "true"),
    columns: default!(Option<Vec<Option<String>>>, "NULL"),
    excluded: default!(Option<Vec<Option<String>>>, "NULL"),
) -> String {
    let coverage = match (columns, excluded) {
        (None, None) => Coverage::All,
        (Some(columns), None) => Coverage::Only(names(columns, "columns")),
        (None, Some(columns)) => Coverage::Except(names(columns, "excluded")),
        (Some(_), Some(_)) => {
            Failure::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "columns and excluded cannot both be given")
                .hint("Name either the columns to record, or those that may change without a record.")
                .raise()
        }
    };
    let wanted = Options {
        table_id: String::new(),
        keep_image: required(keep_image, "keep_image"),
        with_signature: required(with_signature, "with_signature"),
        coverage,
        coverage_since: None,
        made_for: None,
    };
    or_raise(track_table(relation::target(target), wanted))
}

fn names(names: Vec<Option<String>>, parameter: &str) -> Vec<String> {
    let element = format!("an element of {parameter}");
    names.into_iter().map(|name| required(name, &element)).collect()
}

#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn untrack(target: Option<Regclass>) {
    or_raise(untrack_table(relation::target(target)));
}

fn track_table(target: pg_sys::Oid, wanted: Options) -> Result<String, Failure> {
    database::require_preloaded()?;
    database::require_writable(c"track()");
    check_privilege(target, "track")?;
    // A call that changes nothing, as deployments repeat it, waits for no application.
    let seen = LockedTree::to_read(target);
    if let Some(table_id) = planned(&seen, wanted.clone())?.unchanged(&seen) {
        return Ok(table_id);
    }
    seen.unlock();
    let tree = locked_to_change(target, "track")?;
    let change = planned(&tree, wanted)?;
    if let Some(table_id) = change.unchanged(&tree) {
        return Ok(table_id);
    }
    change.make(tree)
}

/// What a call of track() changes.
struct Change {
    /// The options that the table is tracked with.
    before: Option<Options>,
    wanted: Options,
}

impl Change {
    /// The table's id, if it is tracked as it is wanted.
    fn unchanged(&self, tree: &LockedTree) -> Option<String> {
        let is_so = self.before.as_ref() == Some(&self.wanted) && has_sound_triggers(relation::oid(&tree.table));
        is_so.then(|| {
            pgrx::notice!("table {} is tracked already", tree.table.qualified_name());
            self.wanted.table_id.clone()
        })
    }

    /// Makes the triggers of a table that is locked for it; returns the table's id.
    fn make(self, tree: LockedTree) -> Result<String, Failure> {
        let Change { before, wanted } = self;
        let (target, lock) = (relation::oid(&tree.table), tree.lock);
        let is_new = before.is_none();
        if let Some(before) = before.filter(|before| before.settings() != wanted.settings()) {
            tell_of_change(&tree.table, &before);
        }
        // DDL wants the table closed; its lock stays.
        drop(tree);
        make_triggers(target, &wanted, lock);
        let table = Table::open_oid(target, pg_sys::NoLock);
        note(&table, &wanted, TABLE_TRACKED)?;
        if is_new {
            baseline::begin(table, &wanted)?;
        }
        Ok(wanted.table_id)
    }
}

/// Checks that the table can be tracked as it is `wanted`, and adds what the caller does not choose.
fn planned(tree: &LockedTree, mut wanted: Options) -> Result<Change, Failure> {
    let table = &tree.table;
    check_kind(tree)?;
    check_columns(table, &wanted.coverage)?;
    if wanted.with_signature {
        secrets::required_keyring()?;
    }
    // A copy begins as a table that has not been tracked.
    let before = Options::of(table).filter(|options| copies::original_of(table, options).is_none());
    wanted.table_id = before.as_ref().map_or_else(new_table_id, |options| options.table_id.clone());
    wanted.made_for = Some(made_for(table, &wanted.coverage, before.as_ref())?);
    wanted.coverage_since = coverage_since(table, before.as_ref(), &wanted);
    Ok(Change { before, wanted })
}

/// The columns have been checked.
fn made_for(table: &Table, coverage: &Coverage, before: Option<&Options>) -> Result<MadeFor, Failure> {
    let live = relation::live_columns(table);
    let number = |name: &String| live.iter().find(|column| column.name == *name).map(|column| column.number);
    let numbers = coverage.named().iter().filter_map(number).collect();
    Ok(MadeFor::new(table, numbers, &primary_key::key_of(table)?, before))
}

/// Final only if the caller keeps writers out until its transaction ends.
fn coverage_since(table: &Table, current: Option<&Options>, wanted: &Options) -> Option<u64> {
    // Where all columns are covered, each change is recorded.
    let current = current.filter(|_| wanted.coverage != Coverage::All)?;
    let is_left_out = |column: &TableColumn| current.covers(table, column) && !wanted.covers(table, column);
    match relation::live_columns(table).iter().any(is_left_out) {
        true => Some(horizon::next_transaction()),
        false => current.coverage_since,
    }
}

/// Who calls track() to have triggers enabled again, say, may not know that it takes options away, and with `excluded`
/// has recorded what was not to be.
fn tell_of_change(table: &Table, before: &Options) {
    let name = table.qualified_name();
    pgrx::ereport!(
        PgLogLevel::NOTICE,
        PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
        format!("table {name} is now tracked with other options"),
        format!("Before: {}.", before.call(&name))
    );
}

fn untrack_table(target: pg_sys::Oid) -> Result<(), Failure> {
    database::require_preloaded()?;
    database::require_writable(c"untrack()");
    check_privilege(target, "untrack")?;
    let tree = locked_to_change(target, "untrack")?;
    let table = &tree.table;
    let Some(options) = Options::of(table) else {
        pgrx::notice!("table {} is not tracked", table.qualified_name());
        return Ok(());
    };
    // Not all that track() asks for: a table that has lost its primary key can be let go.
    check_partition(table, "untrack")?;
    let is_copy = copies::original_of(table, &options).is_some();
    drop(tree);
    as_ledger_owner(|| {
        drop_row_trigger(target);
        drop_truncate_triggers(target);
    });
    // The ledger knows of the other table only.
    if is_copy {
        return Ok(());
    }
    as_ledger_owner(|| baseline_table::forget(&options.table_id));
    note(&Table::open_oid(target, pg_sys::NoLock), &options, TABLE_UNTRACKED)
}

/// The table and its partitions, locked to change their triggers. While this session waited for the locks, the table
/// may have got another owner: then it is no longer the former one's to track or untrack.
fn locked_to_change(target: pg_sys::Oid, verb: &str) -> Result<LockedTree, Failure> {
    let tree = LockedTree::to_change_triggers(target);
    check_privilege(target, verb)?;
    Ok(tree)
}

/// 64 random bits: a table is tracked anew under another id, as nobody knows what was done to it in between.
fn new_table_id() -> String {
    ids::random().simple().to_string()[..16].to_owned()
}

// ---- what can be tracked, and by whom -------------------------------------------------------------------------------

fn check_privilege(target: pg_sys::Oid, verb: &str) -> Result<(), Failure> {
    let user = errorless::user();
    if Object::Relation(target).is_owned_by(user) || roles::is_member(user, &roles::ADMIN) {
        return Ok(());
    }
    let message = format!("permission denied to {verb} table {}", relation::shown_name(target));
    Err(Failure::new(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, message)
        .detail("Only the owner of a table and members of ledger_admin may start or end its tracking."))
}

fn check_kind(tree: &LockedTree) -> Result<(), Failure> {
    let table = &tree.table;
    if let Some(Obstacle { why, hint }) = trackable::obstacle(table) {
        return Err(refused(table, &format!("It {why}."), hint));
    }
    // SAFETY: looks at the number.
    if unsafe { pg_sys::IsCatalogRelationOid(relation::oid(table)) } {
        return Err(refused(table, "It is a system catalog.", "Track tables of your own."));
    }
    if Some(table.pg_class().relnamespace) == schema::find() {
        return Err(refused(table, "It is the ledger's own.", "Track tables of your own."));
    }
    check_partition(table, "track")?;
    trackable::check_partitions(tree.partitions(), || refusal(table))?;
    primary_key::key_of(table).map(|_| ())
}

fn refusal(table: &Table) -> String {
    format!("cannot track {}", table.qualified_name())
}

fn refused(table: &Table, why: &str, hint: &str) -> Failure {
    Failure::new(PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE, refusal(table)).detail(why.to_owned()).hint(hint.to_owned())
}

/// A partition is tracked with the table that it is part of.
fn check_partition(table: &Table, what: &str) -> Result<(), Failure> {
    for oid in relation::ancestors(table) {
        let ancestor = Table::open_oid(oid, pg_sys::AccessShareLock);
        if Options::of(&ancestor).is_some() {
            let name = ancestor.qualified_name();
            let message = format!("cannot {what} {}", table.qualified_name());
            return Err(Failure::new(PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE, message)
                .detail(format!(
                    "It is a partition of {name}, which is tracked together with the rows of its partitions."
                ))
                .hint(format!("Call the function for {name}.")));
        }
    }
    Ok(())
}

fn check_columns(table: &Table, coverage: &Coverage) -> Result<(), Failure> {
    let (live, key) = (relation::live_columns(table), primary_key::key_of(table)?);
    let mut seen = HashSet::new();
    for name in coverage.named() {
        // Otherwise the list could be longer than anything that reads the triggers' arguments can hold.
        if !seen.insert(name) {
            return Err(Failure::new(
                PgSqlErrorCode::ERRCODE_DUPLICATE_COLUMN,
                format!("column \"{name}\" specified more than once"),
            ));
        }
        let Some(column) = live.iter().find(|column| column.name == *name) else {
            return Err(Failure::new(
                PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
                format!("column \"{name}\" of table {} does not exist", table.qualified_name()),
            ));
        };
        if column.is_virtual && matches!(coverage, Coverage::Only(_)) {
            return Err(Failure::new(
                PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
                format!("column \"{name}\" of table {} cannot be recorded", table.qualified_name()),
            )
            .detail("It is a virtual generated column, which is computed when it is read: nothing of it is stored.")
            .hint("Record the columns that it is computed from."));
        }
    }
    match coverage {
        Coverage::Except(columns) => match columns.iter().find(|name| key.contains(name)) {
            None => Ok(()),
            Some(name) => Err(Failure::new(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("column \"{name}\" cannot be left out: it is part of the primary key"),
            )),
        },
        _ => Ok(()),
    }
}

// ---- triggers -------------------------------------------------------------------------------------------------------

/// Whether the triggers of the table and its partitions are as track() leaves them.
fn has_sound_triggers(target: pg_sys::Oid) -> bool {
    let query = "SELECT state FROM ledger.tracked_tables WHERE table_name = $1::oid";
    let mut states = Vec::new();
    as_ledger_owner(|| {
        spi::for_each_as_of_now(query, &[i64::from(target.to_u32()).into()], |row| states.extend(row.get::<String>(0)));
    });
    !states.is_empty() && states.iter().all(|state| matches!(state.as_str(), "tracked" | "recording baseline"))
}

fn make_triggers(target: pg_sys::Oid, options: &Options, lock: u32) {
    let (name, argument) = (name_of(target), literal(&options.text()));
    let row_trigger = ROW_TRIGGER.to_string_lossy();
    as_ledger_owner(|| {
        drop_row_trigger(target);
        run(&format!(
            "CREATE TRIGGER {row_trigger} AFTER INSERT OR UPDATE OR DELETE ON {name} \
             FOR EACH ROW EXECUTE FUNCTION ledger.record_change({argument})"
        ));
        // ALWAYS: also what a replication role or an apply worker changes.
        run(&format!("ALTER TABLE {name} ENABLE ALWAYS TRIGGER {row_trigger}"));
        make_truncate_triggers(target, options, lock);
    });
}

fn name_of(target: pg_sys::Oid) -> String {
    Table::open_oid(target, pg_sys::NoLock).qualified_name()
}

/// Statement triggers are not cloned to partitions: each has its own.
pub fn make_truncate_triggers(target: pg_sys::Oid, options: &Options, lock: u32) {
    let argument = literal(&options.text());
    for (name, oid) in tree_with_names(target, lock) {
        drop_triggers(&name, oid, options::is_truncate_trigger);
        run(&format!(
            "CREATE TRIGGER {TRUNCATE_TRIGGER} BEFORE TRUNCATE ON {name} \
             FOR EACH STATEMENT EXECUTE FUNCTION ledger.record_truncate({argument})"
        ));
        // Without ONLY, the first minor releases of Postgres 14 look for the trigger in partitions that have none yet.
        run(&format!("ALTER TABLE ONLY {name} ENABLE ALWAYS TRIGGER {TRUNCATE_TRIGGER}"));
    }
}

fn drop_row_trigger(target: pg_sys::Oid) {
    drop_triggers(&name_of(target), target, options::is_row_trigger);
}

pub fn drop_truncate_triggers(target: pg_sys::Oid) {
    for (name, oid) in tree_with_names(target, pg_sys::AccessExclusiveLock) {
        drop_triggers(&name, oid, options::is_truncate_trigger);
    }
}

/// Drops those of one kind that the table has itself, whatever they are called by now.
fn drop_triggers(table: &str, oid: pg_sys::Oid, is_own: unsafe fn(&pg_sys::Trigger) -> bool) {
    // SAFETY: the relation is open as long as its triggers are looked at; a trigger's name ends with a zero byte.
    let names: Vec<String> = unsafe {
        let open = Table::open_oid(oid, pg_sys::NoLock);
        let own = options::triggers_of(open.relation()).iter().filter(|trigger| !trigger.tgisclone && is_own(trigger));
        own.map(|trigger| identifier(CStr::from_ptr(trigger.tgname))).collect()
    };
    for name in names {
        run(&format!("DROP TRIGGER {name} ON {table}"));
    }
}

/// The table and its partitions, and theirs.
fn tree_with_names(target: pg_sys::Oid, lock: u32) -> Vec<(String, pg_sys::Oid)> {
    let tree = relation::tree(&Table::open_oid(target, lock), lock);
    tree.into_iter().map(|oid| (name_of(oid), oid)).collect()
}

fn run(statement: &str) {
    // A trigger that is not there is nothing to be told of.
    with_setting(c"client_min_messages", c"warning", || ddl::run(statement));
}

/// The name of the table, if one has the triggers that record it under this id.
pub fn tracked_as(table_id: &str) -> Option<String> {
    let mut found = None;
    as_ledger_owner(|| {
        let query = "SELECT table_name::text FROM ledger.tracked_tables WHERE table_id = $1";
        spi::for_each(query, &[Argument::text(Some(table_id))], |row| found = row.get::<String>(0));
    });
    found
}

/// Records that a table is not tracked any more which cannot be looked at: it is about to be dropped, or is lost.
pub fn note_untracked(name: &str, table_id: &str, is_lost: bool) -> Result<(), Failure> {
    let data = json!({"table": name, "table_id": table_id}).to_string();
    let data_hash = sha256_hex(jsonb::canonical(&data)?.as_bytes());
    let metadata = MetadataBuilder::default().text(Member::Table, name).text(Member::TableId, table_id);
    let metadata = metadata.text(Member::Reason, if is_lost { "lost" } else { "dropped" }).actor();
    entries::record_own(OwnEntry::now(TABLE_UNTRACKED, data_hash, metadata.finish(), false)).map(|_| ())
}

/// Records that tracking ends with the table.
pub fn note_dropped(table: &Table, options: &Options) -> Result<(), Failure> {
    note_untracked(&table.qualified_name(), &options.table_id, false)
}

/// Records that tracking begins, changes or ends.
fn note(table: &Table, options: &Options, entry_type: &'static str) -> Result<(), Failure> {
    plan::forget_all();
    let name = table.qualified_name();
    let settings = options.settings();
    let data = json!({"table": name, "options": settings}).to_string();
    let data_hash = sha256_hex(jsonb::canonical(&data)?.as_bytes());
    let metadata = MetadataBuilder::default()
        .text(Member::Table, &name)
        .text(Member::TableId, &options.table_id)
        .json(Member::Options, &jsonb::canonical(&settings.to_string())?)
        .actor();
    // Without the secret a table can still be given up.
    let with_signature = options.with_signature && secrets::keyring()?.is_some();
    entries::record_own(OwnEntry::now(entry_type, data_hash, metadata.finish(), with_signature)).map(|_| ())
}
