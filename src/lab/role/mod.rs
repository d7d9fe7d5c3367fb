//! What runs inside the namespaces: `pointsman lab <role>`.

mod client;
mod hold;
mod member;
mod pattern;

use std::net::SocketAddr;
use std::process::ExitCode;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{Decapsulation, Layout, Load};

/// Options of the hidden `lab` command.
#[derive(Debug, clap::Args)]
pub struct LabArguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, clap::Subcommand)]
enum Role {
    /// Serve HTTP and answer UDP; prints `ready` once it listens
    Member {
        /// The name to answer with
        #[arg(long)]
        name: String,
        /// Serve HTTP here
        #[arg(long, value_name = "ADDRESS:PORT")]
        listen: Vec<SocketAddr>,
        /// Answer UDP here; a reply comes from this very address
        #[arg(long, value_name = "ADDRESS:PORT")]
        udp: Vec<SocketAddr>,
    },
    /// Send a load and report, as JSON lines
    Client(Load),
    /// Build a lab with members' servers, print `ready`, and hold it until killed
    Hold {
        /// Members
        #[arg(long, default_value_t = 3)]
        members: usize,
        /// How balancer and members are joined
        #[arg(long, value_enum, default_value_t)]
        layout: Layout,
        /// Who decapsulates for the members
        #[arg(long, value_enum, default_value_t)]
        decapsulation: Decapsulation,
    },
}

/// Plays one role of the lab.
pub fn role(arguments: &LabArguments) -> ExitCode {
    let outcome = match &arguments.role {
        Role::Member { name, listen, udp } => member::serve(name, listen, udp),
        Role::Client(load) => client::run(load),
        Role::Hold { members, layout, decapsulation } => hold::hold(*members, *layout, *decapsulation),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Lets this process open at least `wanted` files, or as many as it may.
fn allow_open_files(wanted: u64) -> anyhow::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft >= wanted {
        return Ok(());
    }
    // Only root may raise the hard limit.
    setrlimit(Resource::RLIMIT_NOFILE, wanted, hard.max(wanted))
        .or_else(|_| setrlimit(Resource::RLIMIT_NOFILE, hard, hard))?;
    Ok(())
}
