//! Entries that should have had a line when the file was opened again. In the modes sync and write no transaction
//! commits without its lines, so such an entry was put into the table past the triggers. Its line is appended all the
//! same: the file must say what the database says. But from then on the file vouches for the entry, so the log names
//! it.

use super::catch_up::Appended;
use super::handle::Mirror;
use crate::postgres::errors::Failure;
use crate::postgres::settings;
use pgrx::PgSqlErrorCode;
use std::path::Path;
use std::sync::atomic::Ordering;

/// Notes that the file may lack lines, where it is behind, and that it is behind no more: what is read from now on has
/// what was committed so far. A later commit without a line sets `behind` again.
pub fn take_behind(mirror: &Mirror) {
    // In this order: a commit without lines first sets `behind`, and then counts itself out.
    let is_committing = mirror.slot.committing_behind.load(Ordering::SeqCst) > 0;
    let was_behind = mirror.slot.behind.swap(false, Ordering::SeqCst);
    let mut fields = mirror.lock();
    // In mode async every entry is committed without its line.
    fields.reopening.may_lack |= is_committing || was_behind || fields.is_followed;
}

/// Before it is no longer noted that lines were lost: notes that they are missing. So may be those of any file that is
/// not as this server has left it.
pub fn note_lost(mirror: &Mirror, is_as_left: bool) {
    let mut fields = mirror.lock();
    fields.reopening.may_lack |= fields.reopening.has_lost || !is_as_left;
}

/// Now the file has all lines.
pub fn warn_of(mirror: &Mirror, path: &Path, appended: &Appended) {
    let might_lack = std::mem::replace(&mut mirror.lock().reopening.may_lack, false);
    // Meanwhile, transactions that began in another mode may have committed.
    let might_lack = might_lack || mirror.slot.is_behind();
    if might_lack || appended.count == 0 || !settings::mirror_mode().waits_for_file() {
        return;
    }
    let named: Vec<String> = appended.named.iter().map(ToString::to_string).collect();
    let more = if appended.count > named.len() { ", ..." } else { "" };
    let (count, path) = (appended.count, path.display());
    let message =
        format!("pg_notary appends lines of entries ({count}) to mirror file \"{path}\" that should have had one");
    Failure::new(PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, message)
        .detail(format!(
            "No transaction has committed without its lines since the file was opened before, so somebody has inserted \
             these entries past the triggers: {}{more}.",
            named.join(", ")
        ))
        .hint("Compare them with what the application has recorded. From now on they are in the file like all others.")
        .warn();
}
