//! What is wrong with the whole, in the log and as events: when it comes, and when it goes.

use tracing::{error, info};

use super::Daemon;

impl Daemon {
    /// These are wrong now with the configuration on this host.
    pub(super) fn say_problems(&mut self, problems: Vec<String>) {
        let before = std::mem::replace(&mut self.problems, problems);
        for problem in self.problems.clone().iter().filter(|problem| !before.contains(problem)) {
            error!("{problem}");
            self.events.add("problem", "", (None, Some("begins".into())), problem.clone());
        }
        for problem in before.iter().filter(|problem| !self.problems.contains(problem)) {
            info!("no longer: {problem}");
            self.events.add("problem", "", (Some("begins".into()), Some("ends".into())), problem.clone());
        }
    }

    /// Whether what rules is saved; the log has had it from who saves.
    pub(super) fn follow_saving(&mut self) {
        let failure = self.store.failure();
        if failure == self.not_saved {
            return;
        }
        let change = |failure: &Option<String>| failure.as_ref().map(|_| "begins".to_owned());
        let to = change(&failure).or_else(|| Some("ends".into()));
        let reason = not_saved(failure.as_deref().or(self.not_saved.as_deref()).unwrap_or_default());
        self.events.add("problem", "", (change(&self.not_saved), to), reason);
        self.not_saved = failure;
    }
}

/// In words.
pub(super) fn not_saved(why: &str) -> String {
    format!("not saved: a restart would lose what was changed at run time: state.json in node.state_dir: {why}")
}
