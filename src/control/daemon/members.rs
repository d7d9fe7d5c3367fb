//! What is said of members: a line per change, not per look, and one line for many that have one cause.

use std::collections::HashMap;
use std::time::SystemTime;

use tracing::{debug, info, warn};

use super::{Daemon, view};
use crate::control::compile::{MemberState, MemberStatus, NotReachable};
use crate::control::neighbor::Unresolved;

/// Lines about members that came to the same state at once, each for its own reasons as far as anybody can tell. More
/// than these bury the rest of the log.
const LINES_AT_ONCE: usize = 20;

/// Names that a line about several members has; the rest is counted.
const MOST_NAMED: usize = 5;

/// What was last said of a member, and when.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) state: MemberState,
    pub(super) since: SystemTime,
}

impl Daemon {
    /// Says what has become of those whose state is not the one that was said last.
    pub(super) fn say_members(&mut self, members: &[MemberStatus]) {
        let is_said =
            |member: &MemberStatus| self.said.get(&member.name).is_some_and(|said| said.state == member.state);
        let news: Vec<&MemberStatus> = members.iter().filter(|member| !is_said(member)).collect();
        // An interface that is replaced goes down, away, and comes back down: for its members that is one fact.
        let is_without_its_link =
            |member: &MemberStatus| self.said.get(&member.name).is_some_and(|said| is_without_link(&said.state));
        let (same, new): (Vec<&MemberStatus>, Vec<&MemberStatus>) =
            news.iter().partition(|member| is_without_link(&member.state) && is_without_its_link(member));
        for (_, line) in lines(&same) {
            debug!("{line}");
        }
        for (is_wrong, line) in lines(&new) {
            if is_wrong {
                warn!("{line}");
            } else {
                info!("{line}");
            }
        }
        for MemberStatus { name, state, .. } in news {
            let word = |state: &MemberState| view::state_of(state).0.to_owned();
            let before = self.said.get(name).map(|said| word(&said.state));
            let reason = view::state_of(state).1.unwrap_or_default();
            self.events.add("member", name, (before, Some(word(state))), reason);
            self.said.insert(name.clone(), Said { state: state.clone(), since: SystemTime::now() });
        }
    }
}

/// The lines, in the members' order, and whether each tells of something wrong.
fn lines(news: &[&MemberStatus]) -> Vec<(bool, String)> {
    let mut groups: Vec<(String, Vec<&MemberStatus>)> = Vec::new();
    let mut of_words: HashMap<String, usize> = HashMap::new();
    for &member in news {
        let words = member.state.to_string();
        let group = *of_words.entry(words).or_insert_with_key(|words| {
            groups.push((words.clone(), Vec::new()));
            groups.len() - 1
        });
        groups[group].1.push(member);
    }
    let mut lines = Vec::new();
    for (words, members) in groups {
        let is_wrong = is_wrong(&members[0].state);
        if members.len() > most_apart(&members[0].state) {
            lines.push((is_wrong, together(&words, &members)));
        } else {
            lines.extend(members.iter().map(|member| (is_wrong, format!("member {} {words}", member.name))));
        }
    }
    lines
}

/// How many in the same state get a line each: what keeps several from being reached is one thing, what their own checks
/// found is not.
fn most_apart(state: &MemberState) -> usize {
    if matches!(state, MemberState::Unresolved(_)) { 1 } else { LINES_AT_ONCE }
}

fn is_without_link(state: &MemberState) -> bool {
    let MemberState::Unresolved(NotReachable::Unresolved(reason)) = state else { return false };
    matches!(reason, Unresolved::LinkDown { .. } | Unresolved::LinkMissing { .. })
}

fn is_wrong(state: &MemberState) -> bool {
    matches!(state, MemberState::Unresolved(_) | MemberState::Down { .. }) && !is_asked_for(state)
}

/// Nothing is wrong yet while the kernel is asking.
pub(super) fn is_asked_for(state: &MemberState) -> bool {
    *state == MemberState::Unresolved(NotReachable::Unresolved(Unresolved::Resolving))
}

fn together(words: &str, members: &[&MemberStatus]) -> String {
    let names: Vec<&str> = members.iter().take(MOST_NAMED).map(|member| member.name.as_str()).collect();
    let rest = members.len() - names.len();
    let more = if rest == 0 { String::new() } else { format!(" and {rest} more") };
    format!("{} members {words} ({}{more})", members.len(), names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Members with news, the lines that tell them, and whether each line tells of something wrong.
    type Row<'a> = (Vec<MemberStatus>, &'a [(bool, &'a str)]);

    fn members(count: usize, state: &MemberState) -> Vec<MemberStatus> {
        (1..=count).map(|one| MemberStatus { name: format!("web/web{one}"), state: state.clone(), part: 0 }).collect()
    }

    fn said(members: &[MemberStatus]) -> Vec<(bool, String)> {
        lines(&members.iter().collect::<Vec<_>>())
    }

    #[test]
    fn what_has_one_cause_is_one_line() {
        let unresolved = |reason| MemberState::Unresolved(NotReachable::Unresolved(reason));
        let gone = || unresolved(Unresolved::LinkMissing { interface: "eth1".into() });
        let refused = MemberState::Down { reason: "tcp: connection refused".into() };
        let rows: [Row<'_>; 6] = [
            (members(1, &gone()), &[(true, "member web/web1 unresolved: eth1 does not exist")]),
            (members(2, &gone()), &[(true, "2 members unresolved: eth1 does not exist (web/web1, web/web2)")]),
            (
                members(9000, &gone()),
                &[(
                    true,
                    "9000 members unresolved: eth1 does not exist (web/web1, web/web2, web/web3, web/web4, web/web5 and \
                     8995 more)",
                )],
            ),
            (
                members(2, &unresolved(Unresolved::Resolving)),
                &[(false, "2 members unresolved: resolving (web/web1, web/web2)")],
            ),
            (
                [members(1, &gone()), members(2, &refused), members(1, &unresolved(Unresolved::NoRoute))].concat(),
                &[
                    (true, "member web/web1 unresolved: eth1 does not exist"),
                    (true, "member web/web1 down: tcp: connection refused"),
                    (true, "member web/web2 down: tcp: connection refused"),
                    (true, "member web/web1 unresolved: no route to host"),
                ],
            ),
            (
                members(21, &MemberState::Up),
                &[(false, "21 members up (web/web1, web/web2, web/web3, web/web4, web/web5 and 16 more)")],
            ),
        ];
        for (members, expected) in rows {
            let expected: Vec<_> = expected.iter().map(|&(is_wrong, line)| (is_wrong, line.to_owned())).collect();
            assert_eq!(said(&members), expected);
        }
        assert_eq!(said(&members(20, &MemberState::Up)).len(), 20);
    }
}
