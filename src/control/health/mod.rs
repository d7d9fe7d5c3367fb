//! Whether members are well: checks emit facts, and [`Health`] is what they come to. Nothing here touches a table.
//!
//! - `outcome`: what one check found, its reason, and how long it may take
//! - `probe`: a monitor made ready: patterns compiled, authorities read; by type `ping`, `tcp`, `tls`, `http`, `udp`,
//!   `dns`, `script` (`tls_words`: what is wrong with a handshake, for people)
//! - `schedule`: when each of thousands of checks is due, spread over the interval
//! - `count`: successes and failures in a row; `damping`: members that go up and down
//! - `check`: one monitor's checks of one member; `subject`: one member and what its checks come to
//! - `checker`: starts, keeps and stops checks, and takes in what they report
//! - `status`, `pace`: what people and scripts may want to know, of each and of all together
//!
//! Everything runs on the control thread: a check is a task that waits most of its time.

mod check;
mod checker;
mod count;
mod damping;
mod dns;
mod http;
mod outcome;
mod pace;
mod ping;
mod probe;
mod schedule;
mod script;
mod status;
mod subject;
mod tcp;
mod tls;
mod tls_words;
mod udp;

use std::collections::HashMap;
use std::sync::Arc;

use super::model::Start;

pub use checker::Checker;
pub use pace::{OfType, Pace, Times};
pub use status::{Condition, MonitorStatus};

/// What the monitors have found, member by member. Members without monitors are not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// By pool and member. A copy costs little: pools are shared until they change.
    findings: HashMap<String, Arc<HashMap<String, Finding>>>,
}

/// What the monitors have found of one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Its checks have not come to anything yet; it counts as this until they have.
    Starting(Start),
    /// It is well. A script may have given it another weight than the configuration.
    Up {
        /// That weight.
        weight: Option<u16>,
    },
    /// It is not, and why not.
    Down(Arc<str>),
}

impl Finding {
    /// Whether the member may get new flows, and by which other weight.
    fn serves(&self) -> (bool, Option<u16>) {
        match self {
            Finding::Up { weight } => (true, *weight),
            Finding::Starting(start) => (*start == Start::Up, None),
            Finding::Down(_) => (false, None),
        }
    }
}

impl Health {
    /// What is known of a member; nothing if nobody looks.
    pub fn of(&self, pool: &str, member: &str) -> Option<&Finding> {
        self.findings.get(pool)?.get(member)
    }

    /// Takes in what was found of a member.
    pub fn set(&mut self, pool: &str, member: &str, finding: Finding) {
        match self.findings.get_mut(pool) {
            Some(members) => _ = Arc::make_mut(members).insert(member.to_owned(), finding),
            None => _ = self.findings.insert(pool.to_owned(), Arc::new([(member.to_owned(), finding)].into())),
        }
    }
}
