//! Which programs this machine has.

use std::env;

/// The first of these programs that is not in `PATH`.
pub(crate) fn missing(programs: &[&str]) -> Option<String> {
    let path = env::var_os("PATH").unwrap_or_default();
    let is_there = |program: &str| env::split_paths(&path).any(|directory| directory.join(program).is_file());
    programs.iter().find(|program| !is_there(program)).map(|&program| program.to_owned())
}
