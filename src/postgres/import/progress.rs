//! Keeps the progress report of the COPY that feeds an import: creating a partition builds indexes, which report a
//! progress of their own and would replace it.

use pgrx::pg_sys;

/// What this process shows in `pg_stat_progress_copy`.
pub struct CopyProgress {
    command: pg_sys::ProgressCommandType::Type,
    target: pg_sys::Oid,
    parameters: [i64; 20],
}

impl CopyProgress {
    pub fn of_statement() -> Self {
        // SAFETY: this process's own entry, set up before any SQL runs and written by no other process.
        let entry = unsafe { &*pg_sys::MyBEEntry };
        CopyProgress {
            command: entry.st_progress_command,
            target: entry.st_progress_command_target,
            parameters: entry.st_progress_param,
        }
    }

    /// Shows the COPY's progress again, if another report has replaced it.
    pub fn restore(&self) {
        // SAFETY: the entry is this process's own, set up before any SQL runs; the indexes are those of the array.
        unsafe {
            if (*pg_sys::MyBEEntry).st_progress_command == self.command {
                return;
            }
            pg_sys::pgstat_progress_start_command(self.command, self.target);
            for (index, value) in self.parameters.iter().enumerate() {
                pg_sys::pgstat_progress_update_param(index as i32, *value);
            }
        }
    }
}
