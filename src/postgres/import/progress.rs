//! The progress of the COPY that feeds an import: making a partition builds indexes, and that reports a progress of its own.

use pgrx::pg_sys;

/// What this process shows in `pg_stat_progress_copy`.
pub struct CopyProgress {
    command: pg_sys::ProgressCommandType::Type,
    target: pg_sys::Oid,
    parameters: [i64; 20],
}

impl CopyProgress {
    pub fn of_statement() -> Self {
        // SAFETY: this process's own entry, which nobody else writes; set up before any SQL runs.
        let entry = unsafe { &*pg_sys::MyBEEntry };
        CopyProgress {
            command: entry.st_progress_command,
            target: entry.st_progress_command_target,
            parameters: entry.st_progress_param,
        }
    }

    /// Shows it again, if it was taken away.
    pub fn restore(&self) {
        // SAFETY: as in of_statement(); the indexes are those of the array.
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
