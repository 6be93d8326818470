//! The metadata of an entry about a row: which row, and who has changed it.

use super::plan::Plan;
use super::row_key::RowKey;
use crate::ledger::ascii_text;
use crate::ledger::canonical_json::write_string;
use crate::postgres::errors::Failure;
use pgrx::{direct_function_call, pg_guard, pg_sys, Inet};
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString};
use std::ops::Range;

/// Metadata being put together. Members can come in any order.
pub struct Metadata {
    /// Their values, canonical JSON one after another.
    values: Vec<u8>,
    members: Vec<(&'static str, Range<usize>)>,
    keep_image: bool,
}

impl Metadata {
    /// Who does it, and to which table.
    pub fn of(plan: &Plan) -> Result<Metadata, Failure> {
        plan.ensure_shape()?;
        Ok(Metadata::of_table(plan).actor())
    }

    pub fn of_table(plan: &Plan) -> Metadata {
        let metadata = Metadata { keep_image: plan.options.keep_image, ..Metadata::empty() };
        let metadata = metadata.text("table", &plan.table).text("table_id", &plan.options.table_id);
        metadata.text("shape", &plan.shape.id)
    }

    pub fn empty() -> Metadata {
        Metadata { values: Vec::with_capacity(512), members: Vec::with_capacity(16), keep_image: false }
    }

    pub fn actor(self) -> Metadata {
        // SAFETY: a plain global of this process.
        self.actor_as(unsafe { pg_sys::GetUserId() })
    }

    /// The same where the work is not done as the user who has called for it.
    pub fn actor_as(self, current_user: pg_sys::Oid) -> Metadata {
        // SAFETY: inside a transaction that writes.
        let transaction_id = unsafe { pg_sys::GetTopFullTransactionId().value };
        with_actor(current_user, |actor| {
            actor.members.iter().fold(self, |metadata, (name, value)| metadata.key(name, value))
        })
        .key("transaction_id", &transaction_id.to_string())
    }

    /// A member that is canonical JSON already.
    pub fn key(mut self, name: &'static str, json: &str) -> Metadata {
        let start = self.values.len();
        self.values.extend_from_slice(json.as_bytes());
        self.members.push((name, start..self.values.len()));
        self
    }

    pub fn text(mut self, name: &'static str, value: &str) -> Metadata {
        let start = self.values.len();
        write_string(&mut self.values, value);
        self.members.push((name, start..self.values.len()));
        self
    }

    /// Which row it is about.
    pub fn row_key(self, key: &RowKey) -> Metadata {
        self.key("key", &key.json).text("row_id", &key.digits())
    }

    /// Which row it has taken the place of.
    pub fn old_row_key(self, key: &RowKey) -> Metadata {
        self.key("old_key", &key.json).text("old_row_id", &key.digits())
    }

    pub fn precedes_baseline(self, precedes: bool) -> Metadata {
        match precedes {
            true => self.key("precedes_baseline", "true"),
            false => self,
        }
    }

    pub fn image(self, name: &'static str, json: &str) -> Metadata {
        match self.keep_image {
            true => self.key(name, json),
            false => self,
        }
    }

    /// As canonical JSON. The names need no escapes.
    pub fn finish(mut self) -> String {
        self.members.sort_unstable_by_key(|(name, _)| *name);
        let mut out = Vec::with_capacity(self.values.len() + 24 * self.members.len());
        out.push(b'{');
        for (index, (name, value)) in self.members.into_iter().enumerate() {
            if index > 0 {
                out.extend_from_slice(b", ");
            }
            out.push(b'"');
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\": ");
            out.extend_from_slice(&self.values[value]);
        }
        out.push(b'}');
        ascii_text(out)
    }
}

/// Who acts, as members of the metadata: the same for most of a session.
struct Actor {
    session_user: pg_sys::Oid,
    current_user: pg_sys::Oid,
    application_name: CString,
    members: Vec<(&'static str, String)>,
}

thread_local! {
    static ACTOR: RefCell<Option<Actor>> = const { RefCell::new(None) };
    static IS_LISTENING: Cell<bool> = const { Cell::new(false) };
    /// A role was renamed, perhaps.
    static IS_STALE: Cell<bool> = const { Cell::new(false) };
}

fn with_actor<T>(current_user: pg_sys::Oid, use_it: impl FnOnce(&Actor) -> T) -> T {
    listen();
    let is_stale = IS_STALE.take();
    ACTOR.with_borrow_mut(|known| {
        known.take_if(|actor| is_stale || !actor.is_now(current_user));
        use_it(known.get_or_insert_with(|| Actor::look_up(current_user)))
    })
}

fn listen() {
    if !IS_LISTENING.replace(true) {
        let roles = pg_sys::SysCacheIdentifier::AUTHOID as i32;
        // SAFETY: registered once a process.
        unsafe { pg_sys::CacheRegisterSyscacheCallback(roles, Some(forget), pg_sys::Datum::null()) };
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn forget(_arg: pg_sys::Datum, _cache: i32, _hash: pg_sys::uint32) {
    IS_STALE.set(true);
}

impl Actor {
    fn is_now(&self, current_user: pg_sys::Oid) -> bool {
        // SAFETY: a plain global of this process.
        let session_user = unsafe { pg_sys::GetSessionUserId() };
        self.session_user == session_user
            && self.current_user == current_user
            && self.application_name.as_c_str() == application_name()
    }

    fn look_up(current_user: pg_sys::Oid) -> Actor {
        // SAFETY: a plain global of this process.
        let session_user = unsafe { pg_sys::GetSessionUserId() };
        let application_name = application_name();
        let application = (!application_name.is_empty()).then(|| application_name.to_string_lossy().into_owned());
        let members = [
            ("session_user", Some(user_name(session_user))),
            ("current_user", Some(user_name(current_user))),
            ("application_name", application),
            ("client_address", client_address()),
        ];
        let members = members.into_iter().filter_map(|(name, value)| Some((name, json_string(&value?))));
        Actor { session_user, current_user, application_name: application_name.to_owned(), members: members.collect() }
    }
}

fn application_name<'a>() -> &'a CStr {
    // SAFETY: a setting of the session, which nothing changes while it is looked at here.
    unsafe {
        match pg_sys::application_name.is_null() {
            true => c"",
            false => CStr::from_ptr(pg_sys::application_name),
        }
    }
}

fn json_string(text: &str) -> String {
    let mut json = Vec::new();
    write_string(&mut json, text);
    ascii_text(json)
}

/// Empty for a role that was dropped meanwhile.
fn user_name(user: pg_sys::Oid) -> String {
    // SAFETY: a catalog look-up; the result is a palloc'd copy, or null.
    unsafe {
        let name = pg_sys::GetUserNameFromId(user, true);
        if name.is_null() {
            String::new()
        } else {
            CStr::from_ptr(name).to_string_lossy().into_owned()
        }
    }
}

/// Where the client is, unless it is on this machine and came by a socket.
fn client_address() -> Option<String> {
    // SAFETY: what inet_client_addr() calls; null in background workers and on sockets.
    unsafe { direct_function_call::<Inet>(pg_sys::inet_client_addr, &[]) }.map(|address| address.0)
}
