//! Text in shared memory.

/// Text in shared memory, cut off at `N` bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FixedText<const N: usize> {
    length: usize,
    bytes: [u8; N],
}

impl<const N: usize> FixedText<N> {
    pub const CAPACITY: usize = N;
    pub const EMPTY: Self = FixedText { length: 0, bytes: [0; N] };

    pub fn set(&mut self, text: &str) {
        let mut length = text.len().min(N);
        while !text.is_char_boundary(length) {
            length -= 1;
        }
        self.bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
        self.length = length;
    }

    pub fn get(&self) -> String {
        String::from_utf8_lossy(&self.bytes[..self.length]).into_owned()
    }
}
