//! A lab that is held until this process is killed: tests look what stays behind.

use crate::lab::{Decapsulation, Lab, Layout, Topology};

/// Builds a lab with members' servers, prints where its namespaces are, then `ready`, and waits for a signal.
pub(super) fn hold(members: usize, layout: Layout, decapsulation: Decapsulation) -> anyhow::Result<()> {
    let lab = Lab::build(&Topology { layout, members, decapsulation, ..Topology::default() })?;
    let servers = lab.spawn_member_servers()?;
    for namespace in lab.namespaces() {
        println!("{} {}", namespace.name(), namespace.path().display());
    }
    println!("directory {}", lab.directory().display());
    for server in &servers {
        println!("server {}", server.pid());
    }
    println!("ready");
    loop {
        std::thread::park();
    }
}
