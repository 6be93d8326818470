//! What an administrator asks of the worker, which holds the file: to catch it up, or to begin a new one.

use super::advice;
use super::cause::CauseKind;
use super::fixed_text::FixedText;
use super::handle::Mirror;
use super::refused::Refused;
use super::shared::{LockedMirror, MirrorState, Request, ANSWER_BYTES};
use crate::postgres::database;
use crate::postgres::errors::{or_raise, Failure};
use crate::postgres::settings::{self, MirrorMode};
use crate::postgres::timeout::Timeout;
use crate::postgres::transaction;
use crate::postgres::wait_events;
use pgrx::prelude::*;
use pgrx::{PgSqlErrorCode, PgTryBuilder};
use std::cell::Cell;
use std::ffi::CStr;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

thread_local! {
    /// What this process waits for: the number of requests that were answered before its own.
    static ASKED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// How long the worker may be missing before a session stops waiting for it.
const WORKER_DEADLINE: Duration = Duration::from_secs(30);

#[pg_extern(volatile, parallel_unsafe)]
fn mirror_catch_up() -> String {
    or_raise(ask(Request::CatchUp, c"mirror_catch_up()"))
}

#[pg_extern(volatile, parallel_unsafe)]
fn mirror_restart() -> Option<String> {
    Some(or_raise(ask(Request::Restart, c"mirror_restart()"))).filter(|kept| !kept.is_empty())
}

/// Has the worker do what is asked, and waits for its answer.
fn ask(request: Request, function: &CStr) -> Result<String, Failure> {
    let mirror = database::mirror()?;
    database::require_writable(function);
    check_may_ask()?;
    let entered = enter(&mut mirror.lock(), request);
    let done_before = entered.ok_or_else(|| {
        Failure::new(PgSqlErrorCode::ERRCODE_OBJECT_IN_USE, "the worker is already working on the mirror file")
            .detail("Another session has called mirror_catch_up() or mirror_restart().")
            .hint("View ledger.mirror_status shows its progress.")
    })?;
    let waiting = AssertUnwindSafe(|| wait_for_answer(&mirror, request, done_before));
    PgTryBuilder::new(waiting)
        .catch_when(PgSqlErrorCode::ERRCODE_QUERY_CANCELED, |error| {
            if give_up() == Left::ToWorker {
                warn_of_what_is_done(function);
            }
            error.rethrow()
        })
        .execute()
}

/// Tells a session that leaves before the answer that there will be one, and where.
fn warn_of_what_is_done(function: &CStr) {
    let function = function.to_string_lossy();
    Failure::new(
        PgSqlErrorCode::ERRCODE_WARNING,
        format!("the worker has begun {function}, and will finish it although the statement ends"),
    )
    .hint("The server's log will contain the result; view ledger.mirror_status shows the progress.")
    .warn();
}

/// What becomes of a request when its session stops waiting.
#[derive(Debug, PartialEq, Eq)]
pub enum Left {
    /// It has been answered, or the worker has not begun and will not.
    Nothing,
    /// The worker is doing it, and will finish.
    ToWorker,
}

/// Withdraws a request that has not been answered, if the worker has not begun. Cannot fail.
fn take_back(mirror: &Mirror, done_before: u64) -> Left {
    ASKED.set(None);
    let mut fields = mirror.lock();
    if fields.requests_done != done_before || fields.request == Request::None {
        return Left::Nothing;
    }
    if fields.request_begun {
        fields.request_given_up = true;
        return Left::ToWorker;
    }
    fields.end_request();
    Left::Nothing
}

/// Gives up the answer that this process waits for, as an error ends its transaction or it is told to end. Cannot fail.
pub fn give_up() -> Left {
    // A process that has asked nothing must not take a slot in shared memory.
    let Some(done_before) = ASKED.get() else { return Left::Nothing };
    database::mirror().map_or(Left::Nothing, |mirror| take_back(&mirror, done_before))
}

/// Enters the request, unless another one is under way. Returns how many were answered before.
fn enter(fields: &mut LockedMirror<'_>, request: Request) -> Option<u64> {
    if fields.request != Request::None {
        return None;
    }
    fields.request = request;
    ASKED.set(Some(fields.requests_done));
    Some(fields.requests_done)
}

fn check_may_ask() -> Result<(), Failure> {
    let refused = |message: &str, hint: &str| {
        Err(Failure::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message).hint(hint))
    };
    if settings::mirror_mode() == MirrorMode::Off {
        return refused("the mirror is off", "Set ledger.mirror_mode to sync, write or async first.");
    }
    if transaction::has_part() {
        return refused(
            "this transaction has recorded or sealed entries, so the worker would wait for it",
            "Call the function in a transaction of its own.",
        );
    }
    Ok(())
}

/// The worker's answer, as it stands in shared memory.
struct Answer {
    text: FixedText<ANSWER_BYTES>,
    is_refused: bool,
    kind: CauseKind,
    has_kept: bool,
}

impl Answer {
    /// `None` until more requests are answered than before.
    fn of(fields: &LockedMirror<'_>, done_before: u64) -> Option<Answer> {
        (fields.requests_done > done_before).then(|| Answer {
            text: fields.request_answer,
            is_refused: fields.request_failed,
            kind: fields.request_cause,
            has_kept: fields.request_has_kept,
        })
    }

    fn outcome(&self, request: Request) -> Result<String, Failure> {
        if !self.is_refused {
            return Ok(self.text.get());
        }
        let (message, hint) = match request {
            Request::Restart if self.has_kept => ("could not begin a new mirror file", advice::call_again(self.kind)),
            Request::Restart => {
                ("could not begin a new mirror file", format!("Nothing was renamed. {}", advice::call_again(self.kind)))
            }
            Request::CatchUp | Request::None => {
                ("could not catch up the mirror file", advice::after_catch_up(self.kind))
            }
        };
        Err(Failure::new(self.kind.sqlstate(), message).detail(self.text.get()).hint(hint))
    }
}

fn wait_for_answer(mirror: &Mirror, request: Request, done_before: u64) -> Result<String, Failure> {
    let mut missing = None;
    loop {
        let answer = Answer::of(&mirror.lock(), done_before);
        if let Some(answer) = answer {
            ASKED.set(None);
            MirrorState::stop_sleeping();
            return answer.outcome(request);
        }
        if mirror.slot.worker.pid() != 0 {
            missing = None;
        } else if missing.get_or_insert_with(|| Timeout::after(WORKER_DEADLINE)).is_over() {
            take_back(mirror, done_before);
            return Err(Failure::new(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "the worker of this database does not run",
            )
            .hint("See view ledger.workers and the server's log for the reason."));
        }
        mirror.slot.worker.wake();
        mirror.shared.launcher.wake();
        mirror.slot.mirror.sleep(1000, wait_events::mirror_request());
    }
}

/// What the worker is asked to do now.
pub fn pending(mirror: &Mirror) -> Request {
    mirror.lock().request
}

/// As [`pending`]; also marks the request as begun, so that the session can no longer withdraw it.
pub fn begin(mirror: &Mirror) -> Request {
    let mut fields = mirror.lock();
    fields.request_begun = fields.request != Request::None;
    fields.request
}

/// Answers the request: with a text, or with what went wrong.
pub fn answer(mirror: &Mirror, outcome: &Result<String, Refused>) {
    let text = match outcome {
        Ok(text) => text.clone(),
        Err(refused) => refused.failure.text(),
    };
    let mut fields = mirror.lock();
    let (request, is_given_up) = (fields.request, fields.request_given_up);
    fields.end_request();
    fields.requests_done += 1;
    fields.request_answer.set(&text);
    fields.request_failed = outcome.is_err();
    if let Err(refused) = outcome {
        (fields.request_cause, fields.request_has_kept) = (refused.kind, refused.has_kept);
    }
    drop(fields);
    mirror.slot.mirror.broadcast();
    if is_given_up {
        log_answer(request, outcome);
    }
}

/// For a session that has left before the answer came.
fn log_answer(request: Request, outcome: &Result<String, Refused>) {
    match (request, outcome) {
        (Request::Restart, Ok(kept)) if kept.is_empty() => {
            pgrx::log!("pg_notary has begun a mirror file, as mirror_restart() asked; there was none before");
        }
        (Request::Restart, Ok(kept)) => {
            pgrx::log!(
                "pg_notary has begun a new mirror file, as mirror_restart() asked; the old file is kept as \"{kept}\""
            );
        }
        (_, Ok(length)) => {
            pgrx::log!("pg_notary has caught up the mirror file, as mirror_catch_up() asked: it has {length}");
        }
        (_, Err(refused)) => pgrx::log!(
            "pg_notary could not do what mirror_catch_up() or mirror_restart() asked: {}",
            refused.failure.text()
        ),
    }
}
