//! Output functions of types, looked up once for many values.

use pgrx::pg_sys;
use std::cell::{OnceCell, UnsafeCell};
use std::ffi::CStr;
use std::rc::Rc;

/// Memory for what output functions keep from one call to the next. It lives as long as one of the functions. A session
/// that lives for weeks looks them up again at each change of a table: in memory that lives as long as the session,
/// what earlier ones have kept would pile up.
#[derive(Default)]
pub struct FunctionMemory(OnceCell<pg_sys::MemoryContext>);

impl FunctionMemory {
    /// Made when first needed: most types have no use for it.
    fn context(&self) -> pg_sys::MemoryContext {
        // SAFETY: TopMemoryContext, the parent, lives as long as the process, and the name is a static string.
        *self.0.get_or_init(|| unsafe {
            pg_sys::AllocSetContextCreateInternal(
                pg_sys::TopMemoryContext,
                c"pg_notary output functions".as_ptr(),
                pg_sys::ALLOCSET_SMALL_MINSIZE as pg_sys::Size,
                pg_sys::ALLOCSET_SMALL_INITSIZE as pg_sys::Size,
                pg_sys::ALLOCSET_SMALL_MAXSIZE as pg_sys::Size,
            )
        })
    }
}

impl Drop for FunctionMemory {
    fn drop(&mut self) {
        // SAFETY: made by context(), and the functions that use it were dropped before. When the process exits, its
        // memory goes anyway.
        unsafe {
            if let Some(context) = self.0.get().filter(|_| !pg_sys::proc_exit_inprogress) {
                pg_sys::MemoryContextDelete(*context);
            }
        }
    }
}

/// The output function of a type.
pub struct OutputFunction {
    /// Changed while the function is called, which keeps things in it.
    function: Box<UnsafeCell<pg_sys::FmgrInfo>>,
    /// Dropped after the function.
    _memory: Rc<FunctionMemory>,
}

impl OutputFunction {
    pub fn of(type_oid: pg_sys::Oid, memory: &Rc<FunctionMemory>) -> OutputFunction {
        let mut function = pg_sys::FmgrInfo::default();
        // SAFETY: catalog look-ups inside a transaction; the context lives as long as this.
        unsafe {
            let (mut oid, mut is_varlena) = (pg_sys::InvalidOid, false);
            pg_sys::getTypeOutputInfo(type_oid, &mut oid, &mut is_varlena);
            pg_sys::fmgr_info_cxt(oid, &mut function, memory.context());
        }
        OutputFunction { function: Box::new(UnsafeCell::new(function)), _memory: Rc::clone(memory) }
    }

    /// Gives `read` the text that the function makes of a value.
    ///
    /// # Safety
    /// `value` is a datum that is not null, of the type whose output function this is.
    pub unsafe fn print<T>(&self, value: pg_sys::Datum, read: impl FnOnce(&[u8]) -> T) -> T {
        let text = pg_sys::OutputFunctionCall(self.function.get(), value);
        let result = read(CStr::from_ptr(text).to_bytes());
        pg_sys::pfree(text.cast());
        result
    }
}
