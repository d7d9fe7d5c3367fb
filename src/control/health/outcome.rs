//! What one check found, and how long it may take.

use std::io;
use std::time::Duration;

use nix::errno::Errno;
use tokio::time::{Instant, timeout_at};

use crate::control::value::spelt;

/// A member is well, or why not.
pub(super) type Outcome = Result<Good, Bad>;

/// A member is well.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Good {
    /// A script says what it is worth.
    pub(super) weight: Option<u16>,
}

/// Why a check has not found a member well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Bad {
    /// It is not.
    Failed(String),
    /// This host could not look: that says nothing about the member.
    Skipped(String),
}

impl Bad {
    pub(super) fn failed<T>(why: impl Into<String>) -> Result<T, Bad> {
        Err(Bad::Failed(why.into()))
    }
}

impl From<io::Error> for Bad {
    fn from(error: io::Error) -> Bad {
        let Some(number) = error.raw_os_error().map(Errno::from_raw) else {
            return Bad::Failed(error.to_string());
        };
        match number {
            // The last two: this host's own way out is gone. Whether that is so for packets, too, is the neighbours' affair.
            Errno::EMFILE
            | Errno::ENFILE
            | Errno::ENOBUFS
            | Errno::ENOMEM
            | Errno::EADDRNOTAVAIL
            | Errno::EAGAIN
            | Errno::ENETUNREACH
            | Errno::ENETDOWN => Bad::Skipped(number.desc().to_lowercase()),
            Errno::EHOSTUNREACH => Bad::Failed("no route to host".to_owned()),
            _ => Bad::Failed(number.desc().to_lowercase()),
        }
    }
}

/// When a check must be over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    at: Instant,
    allowed: Duration,
}

impl Deadline {
    /// From now on.
    pub(super) fn after(allowed: Duration) -> Deadline {
        Deadline { at: Instant::now() + allowed, allowed }
    }

    /// `work` if it is done in time, else what took too long: `doing` ("in TLS handshake").
    pub(super) async fn keep<T>(&self, doing: &str, work: impl Future<Output = T>) -> Result<T, Bad> {
        match timeout_at(self.at, work).await {
            Ok(done) => Ok(done),
            Err(_) => Bad::failed(self.missed(doing)),
        }
    }

    /// In words.
    pub(super) fn missed(&self, doing: &str) -> String {
        format!("timed out after {} {doing}", spelt(self.allowed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_host_lacks_says_nothing_about_the_member() {
        let rows = [
            (libc::ECONNREFUSED, Bad::Failed("connection refused".to_owned())),
            (libc::EHOSTUNREACH, Bad::Failed("no route to host".to_owned())),
            (libc::ECONNRESET, Bad::Failed("connection reset by peer".to_owned())),
            (libc::EMFILE, Bad::Skipped("too many open files".to_owned())),
            (libc::EADDRNOTAVAIL, Bad::Skipped("cannot assign requested address".to_owned())),
            (libc::ENETUNREACH, Bad::Skipped("network is unreachable".to_owned())),
            (libc::ENETDOWN, Bad::Skipped("network is down".to_owned())),
        ];
        for (number, expected) in rows {
            assert_eq!(Bad::from(io::Error::from_raw_os_error(number)), expected);
        }
    }
}
