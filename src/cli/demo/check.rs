//! One thing that must hold for a demo to have gone well.

/// One thing that must hold.
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) holds: bool,
    pub(super) detail: String,
}

impl Check {
    /// For people.
    pub(super) fn line(&self, colours: bool) -> String {
        let mark = match (self.holds, colours) {
            (true, false) => "ok    ",
            (true, true) => "\x1b[32mok\x1b[0m    ",
            (false, false) => "FAILED",
            (false, true) => "\x1b[31mFAILED\x1b[0m",
        };
        format!("  {mark} {}: {}\n", self.name, self.detail)
    }
}
