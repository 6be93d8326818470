//! Errors for users: one shape, always with an SQLSTATE, and a detail and a hint where they help.

use pgrx::pg_sys::panic::{CaughtError, ErrorReport, ErrorReportWithLevel};
use pgrx::{PgLogLevel, PgSqlErrorCode, PgTryBuilder};
use std::panic::{self, AssertUnwindSafe};

/// What went wrong, ready to be raised as a Postgres ERROR.
#[derive(Debug, Clone)]
pub struct Failure {
    code: PgSqlErrorCode,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
    for_log: Option<String>,
}

impl Failure {
    pub fn new(code: PgSqlErrorCode, message: impl Into<String>) -> Self {
        Failure { code, message: message.into(), detail: None, hint: None, for_log: None }
    }

    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Appends a sentence to the detail.
    pub fn and_detail(self, more: &str) -> Self {
        let detail = self.detail.iter().map(String::as_str).chain([more]).collect::<Vec<_>>().join(" ");
        self.detail(detail)
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A text for the server's log that no client sees.
    pub fn log_beside(mut self, text: impl Into<String>) -> Self {
        self.for_log = Some(text.into());
        self
    }

    /// The failure that Postgres, or our own code, has raised.
    pub fn caught(error: &CaughtError) -> Self {
        let report = match error {
            CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => report,
            CaughtError::RustPanic { ereport, .. } => ereport,
        };
        Failure {
            code: report.sql_error_code(),
            message: report.message().to_owned(),
            detail: report.detail().map(str::to_owned),
            hint: report.hint().map(str::to_owned),
            for_log: None,
        }
    }

    pub fn code(&self) -> PgSqlErrorCode {
        self.code
    }

    /// Message and detail on one line.
    pub fn text(&self) -> String {
        match &self.detail {
            Some(detail) => format!("{}: {detail}", self.message),
            None => self.message.clone(),
        }
    }

    /// Raises this failure as an ERROR.
    pub fn raise(self) -> ! {
        self.report(PgLogLevel::ERROR);
        unreachable!("an ERROR does not return")
    }

    /// Reports this failure as a WARNING.
    pub fn warn(self) {
        self.report(PgLogLevel::WARNING);
    }

    /// This failure, with `message` in place of message and detail.
    pub fn restated(self, message: String) -> Self {
        Failure { message, detail: None, ..self }
    }

    /// Logs what a process without a client could not do and will try again by itself.
    pub fn log_retried(&self, what: &str) {
        let message = format!("{what}: {}; it tries again by itself", self.message);
        Failure { message, ..self.clone() }.report(PgLogLevel::LOG);
    }

    fn report(self, level: PgLogLevel) {
        if let Some(text) = self.for_log {
            ErrorReport::new(self.code, text, "pg_notary").report(PgLogLevel::LOG_SERVER_ONLY);
        }
        let mut report = ErrorReport::new(self.code, self.message, "pg_notary");
        if let Some(detail) = self.detail {
            report = report.set_detail(detail);
        }
        if let Some(hint) = self.hint {
            report = report.set_hint(hint);
        }
        report.report(level);
    }
}

/// Whether an ERROR is unwinding the stack. Ending a scan may read on (in Postgres 18) and meet the same ERROR again.
/// Within a destructor that would end the process, and with it all sessions. So such destructors do nothing, and the
/// end of the transaction releases what is left open.
pub fn is_unwinding() -> bool {
    std::thread::panicking()
}

/// With RUST_BACKTRACE in the server's environment, pgrx adds a backtrace to the DETAIL of each error that passes
/// through Rust, because errors pass as panics. Only real panics should have one.
pub fn init() {
    let of_pgrx = panic::take_hook();
    panic::set_hook(Box::new(move |panicked| {
        let is_error = panicked.payload().is::<CaughtError>() || panicked.payload().is::<ErrorReportWithLevel>();
        if !is_error {
            of_pgrx(panicked);
        }
    }));
}

/// Whether an error is about what was done. Otherwise the statement was cancelled, the process is to end, or another
/// transaction is in the way.
pub fn is_about_work(error: &CaughtError) -> bool {
    let Some(code) = code_of(error) else { return false };
    let class = class_of(code);
    class != class_of(PgSqlErrorCode::ERRCODE_OPERATOR_INTERVENTION)
        && class != class_of(PgSqlErrorCode::ERRCODE_TRANSACTION_ROLLBACK)
        && code != PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE
}

/// Whether `lock_timeout` has ended the wait for a lock.
pub fn is_about_lock(error: &CaughtError) -> bool {
    code_of(error) == Some(PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE)
}

fn code_of(error: &CaughtError) -> Option<PgSqlErrorCode> {
    match error {
        CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => Some(report.sql_error_code()),
        CaughtError::RustPanic { .. } => None,
    }
}

/// The first two characters of an SQLSTATE: ERRCODE_TO_CATEGORY() in utils/elog.h.
fn class_of(code: PgSqlErrorCode) -> i32 {
    code as i32 & ((1 << 12) - 1)
}

/// Runs `work`. What it fails with gets one more sentence of detail, if there is one to say.
pub fn with_place<T>(work: impl FnOnce() -> Result<T, Failure>, place: impl Fn() -> Option<String>) -> T {
    let place = AssertUnwindSafe(place);
    let raised = |error: CaughtError| {
        // All of it, so that it is the assertion that is captured.
        let AssertUnwindSafe(place) = &place;
        match place().filter(|_| is_about_work(&error)) {
            Some(place) => Failure::caught(&error).and_detail(&place).raise(),
            None => error.rethrow(),
        }
    };
    PgTryBuilder::new(AssertUnwindSafe(|| or_raise(work()))).catch_others(raised).execute()
}

/// Unwraps a result whose error is a [`Failure`] by raising it.
pub fn or_raise<T>(result: Result<T, Failure>) -> T {
    result.unwrap_or_else(|failure| failure.raise())
}

/// The text of an I/O error, without the number that Rust appends.
pub fn cause(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error ").next().unwrap_or_default().to_owned()
}

/// Turns a text that can stand within a line into a sentence, which a DETAIL must be.
pub fn sentence(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(char::to_uppercase);
    format!("{}.", first.into_iter().flatten().chain(characters).collect::<String>())
}

/// The argument `name` of a call must not be null.
pub fn required<T>(value: Option<T>, name: &str) -> T {
    value.unwrap_or_else(|| {
        Failure::new(PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED, format!("{name} must not be null")).raise()
    })
}
