//! Fixes the settings that decide how types' output functions print a value. Otherwise the hash of a row would depend
//! on the session's settings.

use crate::postgres::quoting::PlainQuotes;
use pgrx::pg_sys;
use std::cell::Cell;

// A variable of Postgres that pgrx does not declare.
extern "C" {
    static mut bytea_output: i32;
}

/// Gives the settings that change what output functions print fixed values, until it is dropped. Writes the variables
/// directly: the settings' own machinery costs more than everything else about a row.
pub struct FixedSettings {
    date_style: i32,
    date_order: i32,
    interval_style: i32,
    float_digits: i32,
    bytea: i32,
    _quotes: PlainQuotes,
    time_zone: *mut pg_sys::pg_tz,
}

impl FixedSettings {
    pub fn set() -> FixedSettings {
        // SAFETY: plain globals of this process; Postgres keeps time zones for ever once they are loaded.
        unsafe {
            let saved = FixedSettings {
                date_style: pg_sys::DateStyle,
                date_order: pg_sys::DateOrder,
                interval_style: pg_sys::IntervalStyle,
                float_digits: pg_sys::extra_float_digits,
                bytea: bytea_output,
                _quotes: PlainQuotes::set(),
                time_zone: pg_sys::session_timezone,
            };
            pg_sys::DateStyle = pg_sys::USE_ISO_DATES as i32;
            pg_sys::DateOrder = pg_sys::DATEORDER_MDY as i32;
            pg_sys::IntervalStyle = pg_sys::INTSTYLE_POSTGRES as i32;
            pg_sys::extra_float_digits = 1;
            // BYTEA_OUTPUT_HEX, the second of its enum.
            bytea_output = 1;
            pg_sys::session_timezone = gmt();
            saved
        }
    }
}

fn gmt() -> *mut pg_sys::pg_tz {
    thread_local!(static GMT: Cell<*mut pg_sys::pg_tz> = const { Cell::new(std::ptr::null_mut()) });
    if GMT.get().is_null() {
        // SAFETY: a NUL-terminated name; what it returns is never freed.
        GMT.set(unsafe { pg_sys::pg_tzset(c"GMT".as_ptr()) });
    }
    GMT.get()
}

impl Drop for FixedSettings {
    fn drop(&mut self) {
        // SAFETY: plain globals of this process, which get back values that they had. An error of an output function
        // unwinds through here.
        unsafe {
            pg_sys::DateStyle = self.date_style;
            pg_sys::DateOrder = self.date_order;
            pg_sys::IntervalStyle = self.interval_style;
            pg_sys::extra_float_digits = self.float_digits;
            bytea_output = self.bytea;
            pg_sys::session_timezone = self.time_zone;
        }
    }
}
