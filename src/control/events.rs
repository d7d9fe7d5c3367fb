//! What has happened: the last of it is remembered, and whoever follows is told as it comes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::broadcast;

use super::api::shape::Event;
use super::time::rfc3339;

/// Events that are remembered, and that one who follows may be behind before some are lost to them.
const REMEMBERED: usize = 1024;

/// Since 1970. Ids go on from there: after a restart they are above those before it, for there are fewer than a thousand
/// events a second, and who asks for what came after one of those misses nothing.
fn milliseconds() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or_default()
}

/// The last events.
#[derive(Debug)]
pub(super) struct Events {
    last: VecDeque<Arc<Event>>,
    /// The newest one's.
    id: u64,
    followers: broadcast::Sender<Arc<Event>>,
}

impl Default for Events {
    fn default() -> Self {
        Self { last: VecDeque::new(), id: milliseconds(), followers: broadcast::channel(REMEMBERED).0 }
    }
}

impl Events {
    /// Takes in what has just happened to `subject`, a thing of this kind: from what it was, to what it is, and why.
    pub(super) fn add(&mut self, kind: &str, subject: &str, change: (Option<String>, Option<String>), reason: String) {
        self.id += 1;
        let (from, to) = change;
        let time = rfc3339(SystemTime::now());
        let (kind, subject) = (kind.to_owned(), subject.to_owned());
        let event = Arc::new(Event { id: self.id, time, kind, subject, from, to, reason });
        if self.last.len() == REMEMBERED {
            self.last.pop_front();
        }
        self.last.push_back(Arc::clone(&event));
        // Nobody may follow.
        let _ = self.followers.send(event);
    }

    pub(super) fn newest(&self) -> u64 {
        self.id
    }

    /// Those after this one that are remembered, and all that will come.
    pub(super) fn after(&self, id: u64) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let found = self.last.iter().filter(|event| event.id > id).cloned().collect();
        (found, self.followers.subscribe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_are_remembered_and_followers_are_told() {
        let mut events = Events::default();
        let start = events.newest();
        assert!(start > 1_700_000_000_000, "a moment of this century");
        let (none, mut coming) = events.after(0);
        assert!(none.is_empty());
        for _ in 0..REMEMBERED + 5 {
            events.add("member", "a/b", (Some("up".into()), Some("down".into())), String::new());
        }
        let ids: Vec<u64> = events.after(0).0.iter().map(|event| event.id).collect();
        assert_eq!(
            (ids.first(), ids.last(), ids.len()),
            (Some(&(start + 6)), Some(&(start + REMEMBERED as u64 + 5)), REMEMBERED)
        );
        assert_eq!(events.after(start + REMEMBERED as u64 + 4).0.len(), 1);
        assert!(matches!(coming.try_recv(), Err(broadcast::error::TryRecvError::Lagged(5))));
        assert_eq!(coming.try_recv().map(|event| event.id), Ok(start + 6));
    }
}
