//! What a table is tracked with. It stands in the argument of the table's triggers, so that it is part of the table: it
//! is dumped and restored with it, cloned to its partitions, and read without looking anything up.

use crate::ledger::row_shape;
use crate::postgres::errors::Failure;
use crate::postgres::log_state;
use crate::postgres::quoting::literal;
use crate::postgres::relation::{self, TableColumn};
use crate::postgres::schema;
use crate::postgres::tables::Table;
use pgrx::{pg_sys, PgSqlErrorCode};
use serde_json::{json, Value};
use std::ffi::CStr;
use uuid::Uuid;

/// The name of the row trigger of every tracked table.
pub const ROW_TRIGGER: &CStr = c"ledger_record_change";
/// The name of its statement trigger.
pub const TRUNCATE_TRIGGER: &str = "ledger_record_truncate";
/// The functions of the two, in the ledger's schema.
pub const ROW_FUNCTION: &CStr = c"record_change";
pub const TRUNCATE_FUNCTION: &CStr = c"record_truncate";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// 16 hex digits, made when the table was tracked. Names and oids change, this does not.
    pub table_id: String,
    pub keep_image: bool,
    pub with_signature: bool,
    pub coverage: Coverage,
    /// Row versions of transactions before this one may have entries that cover columns which have been left out since.
    /// A change of those is recorded of such a row, and once: else the row would not be what its newest entry says.
    pub coverage_since: Option<u64>,
    /// The table they were given for: one that was restored from a dump has them too.
    pub made_for: Option<MadeFor>,
}

/// A table of one database: in another one the same oid can be that of its copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeFor {
    oid: u32,
    cluster: u64,
    /// That of the extension, which a copy of the whole database has too.
    installation: Option<Uuid>,
    /// The numbers of the columns that the coverage names, as they were then.
    numbers: Vec<i16>,
    /// The options before were given for another table, or that one had been restored already.
    is_restored: bool,
    /// The columns of a key of several, in the order in which their values name a row.
    key: Vec<KeyColumn>,
}

/// A column of the primary key, as it was then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyColumn {
    number: i16,
    name: String,
}

impl MadeFor {
    /// `before` are the options that the table had, if it was tracked; `key` names the columns of its primary key.
    pub fn new(table: &Table, numbers: Vec<i16>, key: &[String], before: Option<&Options>) -> MadeFor {
        let is_restored = before.is_some_and(|before| before.table_since(table) != row_shape::TableIdentity::Same);
        let (oid, installation) = (relation::oid(table).to_u32(), log_state::installation());
        let live = relation::live_columns(table);
        let before = before.and_then(|before| before.made_for.as_ref());
        let columns = key_columns(before, table, &live, key).into_iter();
        let mut key: Vec<_> =
            columns.map(|column| KeyColumn { number: column.number, name: column.name.clone() }).collect();
        if key.len() < 2 {
            key.clear();
        }
        let made_for = MadeFor { oid, cluster: own_cluster(), installation, numbers, is_restored, key };
        // After pg_upgrade the cluster is another, and nothing is to be changed for that.
        before.filter(|before| before.is(table) && before.says_as(&made_for)).cloned().unwrap_or(made_for)
    }

    /// Whether they say the same of the table.
    fn says_as(&self, other: &MadeFor) -> bool {
        (&self.numbers, self.is_restored, &self.key) == (&other.numbers, other.is_restored, &other.key)
    }

    /// Whether the table is known to be the one that it was when it was first tracked.
    fn is_since_first(&self, table: &Table) -> bool {
        self.is(table) && !self.is_restored
    }

    /// Those of a table that may have been restored, in the order that they had; `None` if the key has other columns
    /// now. In the table that this was made for they have the same numbers, whatever they are called.
    fn key_in_order<'a>(&self, table: &Table, key: &[&'a TableColumn]) -> Option<Vec<&'a TableColumn>> {
        let has_numbers = self.is(table);
        let is_same = |before: &KeyColumn, now: &TableColumn| match has_numbers {
            true => before.number == now.number,
            false => before.name == now.name,
        };
        let now = |before: &KeyColumn| key.iter().copied().find(|now| is_same(before, now));
        let ordered: Vec<_> = self.key.iter().map(now).collect::<Option<_>>()?;
        (ordered.len() == key.len()).then_some(ordered)
    }

    fn is(&self, table: &Table) -> bool {
        self.is_oid(relation::oid(table))
    }

    fn is_oid(&self, table: pg_sys::Oid) -> bool {
        self.oid == table.to_u32() && self.is_of_here()
    }

    /// Whether its oid is one of this database. pg_upgrade keeps oids, and gives the cluster another identifier; the
    /// extension has another installation if it was dropped and created again, and the triggers were put back.
    fn is_of_here(&self) -> bool {
        self.cluster == own_cluster() || (self.installation.is_some() && self.installation == log_state::installation())
    }
}

/// The columns of the primary key among those of the table, in the order of the numbers that they had when the table
/// was first tracked: in a restored table they can have others, and in another order.
fn key_columns<'a>(
    made_for: Option<&MadeFor>,
    table: &Table,
    live: &'a [TableColumn],
    key: &[String],
) -> Vec<&'a TableColumn> {
    let by_number: Vec<_> = live.iter().filter(|column| key.contains(&column.name)).collect();
    let restored = made_for.filter(|made_for| !made_for.is_since_first(table));
    restored.and_then(|made_for| made_for.key_in_order(table, &by_number)).unwrap_or(by_number)
}

fn own_cluster() -> u64 {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::GetSystemIdentifier() }
}

/// Which columns are recorded, besides those of the primary key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Coverage {
    All,
    Only(Vec<String>),
    Except(Vec<String>),
}

impl Coverage {
    pub fn covers(&self, column: &str) -> bool {
        match self {
            Coverage::All => true,
            Coverage::Only(columns) => columns.iter().any(|name| name == column),
            Coverage::Except(columns) => columns.iter().all(|name| name != column),
        }
    }

    pub fn named(&self) -> &[String] {
        match self {
            Coverage::All => &[],
            Coverage::Only(columns) | Coverage::Except(columns) => columns,
        }
    }
}

impl Options {
    /// Whether the column of this table is recorded: by what it was when the options were given, whatever it is called
    /// now.
    pub fn covers(&self, table: &Table, column: &TableColumn) -> bool {
        let Some(numbers) = self.named_columns_of(table) else {
            return self.coverage.covers(&column.name);
        };
        numbers.contains(&column.number) == matches!(self.coverage, Coverage::Only(_))
    }

    /// The numbers of the columns that the coverage names, where they are known to be those of this table.
    pub fn named_columns_of(&self, table: &Table) -> Option<&[i16]> {
        self.made_for.as_ref().filter(|made_for| made_for.is(table)).map(|made_for| &made_for.numbers[..])
    }

    /// Whether the table is known to be the one that it was when it was first tracked. Columns of a restored one may
    /// have other numbers than in the entries of before.
    pub fn table_since(&self, table: &Table) -> row_shape::TableIdentity {
        match &self.made_for {
            Some(made_for) if made_for.is_since_first(table) => row_shape::TableIdentity::Same,
            _ if relation::inherits(table) => row_shape::TableIdentity::PerhapsReordered,
            _ => row_shape::TableIdentity::PerhapsRestored,
        }
    }

    /// The columns of the primary key with these names, in the order in which their values name a row.
    pub fn key_columns<'a>(&self, table: &Table, live: &'a [TableColumn], key: &[String]) -> Vec<&'a TableColumn> {
        key_columns(self.made_for.as_ref(), table, live, key)
    }

    /// Whether they were given for this table, of this database.
    pub fn is_made_for(&self, table: pg_sys::Oid) -> bool {
        self.made_for.as_ref().is_some_and(|made_for| made_for.is_oid(table))
    }

    /// As the trigger's argument.
    pub fn text(&self) -> String {
        let mut value = self.settings();
        if let Some(since) = self.coverage_since {
            value["coverage_since"] = json!(since);
        }
        if let Some(MadeFor { oid, cluster, installation, numbers, is_restored, key }) = &self.made_for {
            let installation = installation.map(|id| id.to_string());
            value["made_for"] =
                json!({"table": oid, "cluster": cluster, "installation": installation, "numbers": numbers});
            if *is_restored {
                value["made_for"]["restored"] = true.into();
            }
            if !key.is_empty() {
                value["made_for"]["key"] = key.iter().map(|column| json!([column.number, column.name])).collect();
            }
        }
        value.to_string()
    }

    /// What the table's owner has chosen, and the id.
    pub fn settings(&self) -> Value {
        let mut value = json!({
            "table_id": self.table_id,
            "keep_image": self.keep_image,
            "with_signature": self.with_signature,
        });
        match &self.coverage {
            Coverage::All => {}
            Coverage::Only(columns) => value["columns"] = json!(columns),
            Coverage::Except(columns) => value["excluded"] = json!(columns),
        }
        value
    }

    /// The call that has this table tracked with these options, for a hint that can be pasted: those that a call leaves
    /// out have their defaults.
    pub fn call(&self, table: &str) -> String {
        let mut arguments = vec![literal(table)];
        if self.keep_image {
            arguments.push("keep_image => true".to_owned());
        }
        if !self.with_signature {
            arguments.push("with_signature => false".to_owned());
        }
        match &self.coverage {
            Coverage::All => {}
            Coverage::Only(columns) => arguments.push(format!("columns => {}", array_of(columns))),
            Coverage::Except(columns) => arguments.push(format!("excluded => {}", array_of(columns))),
        }
        format!("SELECT ledger.track({})", arguments.join(", "))
    }

    pub fn parse(text: &str) -> Option<Options> {
        Options::of_json(&serde_json::from_str(text).ok()?)
    }

    fn of_json(value: &Value) -> Option<Options> {
        let names = |member: &str| -> Option<Vec<String>> {
            value[member].as_array()?.iter().map(|name| Some(name.as_str()?.to_owned())).collect()
        };
        Some(Options {
            table_id: value["table_id"].as_str()?.to_owned(),
            keep_image: value["keep_image"].as_bool()?,
            with_signature: value["with_signature"].as_bool()?,
            coverage: match (names("columns"), names("excluded")) {
                (Some(columns), None) => Coverage::Only(columns),
                (None, Some(columns)) => Coverage::Except(columns),
                _ => Coverage::All,
            },
            coverage_since: value["coverage_since"].as_u64(),
            made_for: MadeFor::of_json(&value["made_for"]),
        })
    }

    /// The options in the arguments of a trigger.
    ///
    /// # Safety
    /// `trigger` is one of a relation, or of a trigger call.
    pub unsafe fn of_trigger(trigger: &pg_sys::Trigger) -> Result<Options, Failure> {
        let text = (trigger.tgnargs == 1).then(|| CStr::from_ptr(*trigger.tgargs).to_string_lossy());
        text.and_then(|text| Options::parse(&text)).ok_or_else(not_made_by_track)
    }

    /// The options of a table, if it is tracked.
    pub fn of(table: &Table) -> Option<Options> {
        // SAFETY: a `Table` keeps its relation open as long as it lives, and the trigger is one of it.
        unsafe {
            let own = triggers_of(table.relation()).iter().find(|trigger| is_row_trigger(trigger))?;
            Options::of_trigger(own).ok()
        }
    }
}

impl MadeFor {
    fn of_json(value: &Value) -> Option<MadeFor> {
        let number = |number: &Value| number.as_i64()?.try_into().ok();
        Some(MadeFor {
            oid: value["table"].as_u64()?.try_into().ok()?,
            cluster: value["cluster"].as_u64()?,
            installation: value["installation"].as_str().and_then(|id| Uuid::try_parse(id).ok()),
            numbers: value["numbers"].as_array()?.iter().map(number).collect::<Option<_>>()?,
            is_restored: value["restored"].as_bool().unwrap_or_default(),
            // Triggers that were made by an earlier version do not have it.
            key: value["key"]
                .as_array()
                .map_or(Some(Vec::new()), |key| key.iter().map(KeyColumn::of_json).collect())?,
        })
    }
}

impl KeyColumn {
    fn of_json(value: &Value) -> Option<KeyColumn> {
        Some(KeyColumn { number: value[0].as_i64()?.try_into().ok()?, name: value[1].as_str()?.to_owned() })
    }
}

fn array_of(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| literal(name)).collect();
    format!("ARRAY[{}]::text[]", names.join(", "))
}

pub(super) fn not_made_by_track() -> Failure {
    Failure::new(
        PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
        "this trigger was not made by ledger.track()",
    )
    .hint(
        "If view ledger.tracked_tables shows the table, call ledger.track() again with the same options: it replaces the \
         table's triggers, whatever their names. Otherwise drop this trigger.",
    )
}

/// The triggers of a relation, copied: anything that is looked up meanwhile can make Postgres free its own.
///
/// # Safety
/// The relation is open. The triggers are good as long as the current memory context.
pub unsafe fn triggers_of<'a>(relation: pg_sys::Relation) -> &'a [pg_sys::Trigger] {
    let copy = pg_sys::CopyTriggerDesc((*relation).trigdesc);
    match copy.is_null() {
        true => &[],
        false => std::slice::from_raw_parts((*copy).triggers, (*copy).numtriggers as usize),
    }
}

/// Whether it is the row trigger of a tracked table, also where somebody has renamed it. Anyone can give its name to a
/// trigger of their own, with an argument that says the table were another one.
///
/// # Safety
/// `trigger` is one of a relation.
pub unsafe fn is_row_trigger(trigger: &pg_sys::Trigger) -> bool {
    is_function(trigger.tgfoid, ROW_FUNCTION)
}

/// The same for the statement trigger.
///
/// # Safety
/// As for [`is_row_trigger`].
pub unsafe fn is_truncate_trigger(trigger: &pg_sys::Trigger) -> bool {
    is_function(trigger.tgfoid, TRUNCATE_FUNCTION)
}

/// Whether the table has the statement trigger.
pub fn has_truncate_trigger(table: &Table) -> bool {
    // SAFETY: a `Table` keeps its relation open as long as it lives, and the triggers are those of it.
    unsafe { triggers_of(table.relation()).iter().any(|trigger| is_truncate_trigger(trigger)) }
}

/// Whether it is this function of the ledger. Nobody but track() makes triggers with it: see
/// [`own_triggers`](super::own_triggers).
///
/// # Safety
/// Inside a transaction.
pub unsafe fn is_function(function: pg_sys::Oid, name: &CStr) -> bool {
    let called = pg_sys::get_func_name(function);
    let is_ours = schema::find() == Some(pg_sys::get_func_namespace(function));
    is_ours && !called.is_null() && CStr::from_ptr(called) == name
}

/// The table that was tracked, if this is a partition of it.
pub fn tracked_root(table: &Table, options: &Options) -> Option<Table> {
    let ancestors = relation::ancestors(table).into_iter().rev();
    ancestors
        .map(|oid| Table::open_oid(oid, pg_sys::AccessShareLock))
        .find(|ancestor| Options::of(ancestor).is_some_and(|other| other.table_id == options.table_id))
}
