//! Time as the model knows it: set by the runtime before each batch of messages, so that updating and drawing ask no clock.

/// Now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// Milliseconds since the workbench started.
    pub ms: u64,
    /// Seconds since 1970-01-01 UTC.
    pub unix: i64,
}

impl Now {
    /// Which frame of a spinner of `n` frames is shown, eight a second.
    pub fn frame(self, n: usize) -> usize {
        (self.ms / 125) as usize % n.max(1)
    }
}
