//! [`Pauses`]: lets the caller in now and then during work that may take long.

/// How many steps to take between two calls: about a millisecond.
const STEPS: u32 = 4096;

/// Calls back once in many steps.
pub struct Pauses<'a> {
    left: u32,
    pause: &'a mut dyn FnMut(),
}

impl<'a> Pauses<'a> {
    /// `pause` may end the work by unwinding.
    pub fn new(pause: &'a mut dyn FnMut()) -> Self {
        Pauses { left: STEPS, pause }
    }

    /// To be called for each step.
    #[inline]
    pub fn step(&mut self) {
        self.left -= 1;
        if self.left == 0 {
            self.left = STEPS;
            (self.pause)();
        }
    }
}
