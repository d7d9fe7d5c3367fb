//! Why a lab could not be built or used.

use std::io;
use std::process::ExitStatus;

use nix::errno::Errno;

use crate::realserver::decapsulate::DecapsulateError;

/// Why a lab could not be built or used.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The process lacks the capabilities.
    #[error("network namespaces need CAP_SYS_ADMIN and CAP_NET_ADMIN ({0}): run this as root")]
    NotPermitted(Errno),
    /// A program that the lab calls is not installed.
    #[error("the program `{program}` is not installed: on Debian, `apt-get install {package}`")]
    ProgramMissing {
        /// What was to be run.
        program: String,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// The topology asks for something that the lab's address plan has no room for.
    #[error("{key}: {found} is outside {allowed}")]
    Topology {
        /// Which field of the topology.
        key: &'static str,
        /// What it was.
        found: String,
        /// What it may be.
        allowed: String,
    },
    /// A command inside a namespace failed.
    #[error("`{command}` in the lab's {namespace} failed ({status}): {stderr}")]
    Command {
        /// Where it ran.
        namespace: String,
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        stderr: String,
    },
    /// The kernel refused something.
    #[error("{what}: {source}")]
    System {
        /// What was asked.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A member cannot be made the end of a tunnel.
    #[error("in the lab's {namespace}: {source}")]
    Decapsulate {
        /// The member.
        namespace: String,
        /// What was not to be.
        source: DecapsulateError,
    },
    /// A process of the lab did not print `ready`.
    #[error("{process} was not ready within {seconds} s ({status}); it said:\n{log}")]
    NotReady {
        /// Which process.
        process: String,
        /// How long it was given.
        seconds: u64,
        /// Still running, or how it ended.
        status: String,
        /// Its exit code, if it has ended with one.
        exit_code: Option<i32>,
        /// Its standard error.
        log: String,
    },
    /// The load generator did not report.
    #[error("the client ended without a report ({status}): {stderr}")]
    NoReport {
        /// How it ended.
        status: ExitStatus,
        /// Its standard error.
        stderr: String,
    },
}

impl LabError {
    /// A closure for `map_err` that says what was being done.
    pub(super) fn system<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |error| Self::System { what: what.into(), source: error.into() }
    }

    /// Whether it is this machine that cannot hold a lab: no rights, a program or a kernel feature missing.
    pub fn cannot_run_here(&self) -> bool {
        match self {
            Self::NotPermitted(_)
            | Self::ProgramMissing { .. }
            | Self::Command { .. }
            | Self::System { .. }
            | Self::Decapsulate { .. } => true,
            Self::Topology { .. } | Self::NotReady { .. } | Self::NoReport { .. } => false,
        }
    }
}
