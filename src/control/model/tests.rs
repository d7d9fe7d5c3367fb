//! Every check, with the exact text of what it says.

use super::*;

mod accepted;
mod addresses;
mod anything;
mod keys;
mod limits;
mod monitors;
mod names;
mod not_built;
mod syntax;
mod values;

const INTERFACE: &str = r#"[[interface]]
name = "eth0"
"#;

const VIP: &str = r#"[[vip]]
name = "web"
address = "203.0.113.2"
protocol = "tcp"
port = 80
pool = "web"
"#;

const POOL: &str = r#"[[pool]]
name = "web"

"#;

const MEMBERS: &str = r#"[[pool.member]]
name = "web1"
address = "203.0.113.4"

[[pool.member]]
name = "web2"
address = "203.0.113.5"
"#;

/// A configuration that is wrong: what is, the text of the good one (which stands there once) that is replaced, its
/// replacement, and every line that is said.
type Row = (&'static str, &'static str, &'static str, &'static [&'static str]);

fn good() -> String {
    [INTERFACE, VIP, POOL].join("\n") + MEMBERS
}

fn errors_of(text: &str) -> Vec<String> {
    Model::parse("web.toml", text).err().unwrap_or_default().iter().map(ConfigError::to_string).collect()
}

#[test]
fn refused() {
    let tables = [
        syntax::SYNTAX,
        keys::KEYS,
        keys::TYPES,
        values::API,
        values::NUMBERS,
        values::WORDS,
        values::TUNNEL_SOURCES,
        values::TIMEOUTS,
        limits::LIMITS,
        not_built::NOT_BUILT,
        names::NAMES,
        names::DUPLICATES,
        values::CORES,
        keys::ABSENCES,
        addresses::ADDRESSES,
        addresses::PORTS_UNDER_DR,
    ];
    for (what, from, to, errors) in tables.into_iter().flatten() {
        assert_eq!(good().matches(from).count(), 1, "{what}: what is replaced stands there once");
        assert_eq!(errors_of(&good().replace(from, to)), *errors, "{what}");
    }
}

#[test]
fn a_pool_reference_lists_what_exists() {
    let pools = |names: &[&str]| {
        let pool = |name: &&str| format!("[[pool]]\nname = \"{name}\"\n{MEMBERS}\n");
        [INTERFACE.to_owned(), VIP.replace("pool = \"web\"", "pool = \"nine\"")].join("\n")
            + &names.iter().map(pool).collect::<String>()
    };
    let few = errors_of(&pools(&["a1", "b2"]));
    assert_eq!(few, [r#"web.toml:9:8: vip[0].pool: "nine" is no pool (allowed: "a1", "b2")"#]);
    let many = errors_of(&pools(&["a1", "b2", "c3", "d4", "e5", "f6", "g7", "h8", "i9", "j10", "k11", "nien"]));
    assert_eq!(
        many,
        [concat!(
            r#"web.toml:9:8: vip[0].pool: "nine" is no pool (allowed: "a1", "b2", "c3", "d4", "e5", "f6", "g7", "h8", "#,
            r#""i9", "j10", and 2 more; did you mean "nien"?)"#
        )]
    );
}

#[test]
fn everything_wrong_is_said_at_once_and_in_order() {
    let text = include_str!("../../../tests/fixtures/config/errors.toml");
    let expected = include_str!("../../../tests/fixtures/config/errors.expected");
    let errors = Model::parse("errors.toml", text).expect_err("nineteen errors");
    let lines: Vec<String> = errors.iter().map(ConfigError::to_string).collect();
    assert_eq!(lines, expected.lines().collect::<Vec<_>>());
}
