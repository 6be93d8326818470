//! The metadata of an entry about a row: which row, and which user changed it.

use super::plan::Plan;
use super::row_key::RowKey;
use crate::ledger::canonical_json;
use crate::ledger::metadata::{self, Member, Members};
use crate::postgres::errorless;
use crate::postgres::errors::Failure;
use pgrx::{direct_function_call, pg_guard, pg_sys, Inet};
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString};

/// Metadata being put together. Members can come in any order.
#[derive(Default)]
pub struct MetadataBuilder {
    members: Members,
    keep_image: bool,
}

impl MetadataBuilder {
    /// Names the table, and the user who acts.
    pub fn of(plan: &Plan) -> Result<MetadataBuilder, Failure> {
        plan.ensure_shape()?;
        Ok(MetadataBuilder::of_table(plan).actor())
    }

    pub fn of_table(plan: &Plan) -> MetadataBuilder {
        let mut metadata = MetadataBuilder { keep_image: plan.options.keep_image, ..MetadataBuilder::default() };
        plan.names.iter().for_each(|(member, json)| metadata.members.set_json(*member, json));
        metadata
    }

    pub fn actor(self) -> MetadataBuilder {
        self.actor_as(errorless::user())
    }

    /// As [`MetadataBuilder::actor`], where the work runs as another role than the user who called for it.
    pub fn actor_as(mut self, current_user: pg_sys::Oid) -> MetadataBuilder {
        // SAFETY: inside a transaction that writes.
        let transaction_id = unsafe { pg_sys::GetTopFullTransactionId().value };
        with_actor(current_user, |actor| {
            actor.members.iter().for_each(|(member, json)| self.members.set_json(*member, json));
        });
        self.members.set_number(Member::TransactionId, transaction_id);
        self
    }

    /// Sets a member to text that is canonical JSON already.
    pub fn json(mut self, member: Member, json: &str) -> MetadataBuilder {
        self.members.set_json(member, json);
        self
    }

    pub fn text(mut self, member: Member, value: &str) -> MetadataBuilder {
        self.members.set_text(member, value);
        self
    }

    /// Names the row that the entry is about.
    pub fn row_key(self, key: &RowKey) -> MetadataBuilder {
        self.json(Member::Key, &key.json).text(Member::RowId, key.digits(&mut RowKey::buffer()))
    }

    /// Names the row that it has taken the place of: the one under the old key.
    pub fn old_row_key(self, key: &RowKey) -> MetadataBuilder {
        self.json(Member::OldKey, &key.json).text(Member::OldRowId, key.digits(&mut RowKey::buffer()))
    }

    pub fn precedes_baseline(self, precedes: bool) -> MetadataBuilder {
        match precedes {
            true => self.json(Member::PrecedesBaseline, "true"),
            false => self,
        }
    }

    pub fn image(self, member: Member, json: &str) -> MetadataBuilder {
        match self.keep_image {
            true => self.json(member, json),
            false => self,
        }
    }

    pub fn finish(self) -> metadata::Metadata {
        self.members.finish()
    }
}

/// The user who acts, as members of the metadata. Kept, because it is the same for most of a session.
struct Actor {
    session_user: pg_sys::Oid,
    current_user: pg_sys::Oid,
    application_name: CString,
    members: Vec<(Member, String)>,
}

thread_local! {
    static ACTOR: RefCell<Option<Actor>> = const { RefCell::new(None) };
    static IS_LISTENING: Cell<bool> = const { Cell::new(false) };
    /// A role may have been renamed: ACTOR must be looked up again.
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
        // SAFETY: registered once per process, with a function that is never unloaded.
        unsafe { pg_sys::CacheRegisterSyscacheCallback(roles, Some(forget), pg_sys::Datum::null()) };
    }
}

/// A row of pg_authid has changed.
///
/// # Safety
/// Called by Postgres, as registered in listen(). Cannot fail.
#[pg_guard]
unsafe extern "C-unwind" fn forget(_arg: pg_sys::Datum, _cache: i32, _hash: pg_sys::uint32) {
    IS_STALE.set(true);
}

impl Actor {
    fn is_now(&self, current_user: pg_sys::Oid) -> bool {
        self.session_user == errorless::session_user()
            && self.current_user == current_user
            && self.application_name.as_c_str() == application_name()
    }

    fn look_up(current_user: pg_sys::Oid) -> Actor {
        let session_user = errorless::session_user();
        let application_name = application_name();
        let application = (!application_name.is_empty()).then(|| application_name.to_string_lossy().into_owned());
        let members = [
            (Member::SessionUser, Some(user_name(session_user))),
            (Member::CurrentUser, Some(user_name(current_user))),
            (Member::ApplicationName, application),
            (Member::ClientAddress, client_address()),
        ];
        let members = members.into_iter().filter_map(|(member, value)| Some((member, canonical_json::string(&value?))));
        Actor { session_user, current_user, application_name: application_name.to_owned(), members: members.collect() }
    }
}

fn application_name<'a>() -> &'a CStr {
    // SAFETY: null or a NUL-terminated string. Callers use it at once, and nothing that they call changes the setting.
    unsafe {
        match pg_sys::application_name.is_null() {
            true => c"",
            false => CStr::from_ptr(pg_sys::application_name),
        }
    }
}

/// The user's name; empty for a role that was dropped meanwhile.
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

/// The address of the client; `None` if it is on this machine and came by a socket.
fn client_address() -> Option<String> {
    // SAFETY: what inet_client_addr() calls; null in background workers and on sockets.
    unsafe { direct_function_call::<Inet>(pg_sys::inet_client_addr, &[]) }.map(|address| address.0)
}
