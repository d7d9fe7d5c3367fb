//! Which of a pool's members serve, and for how large a part of their share: quorum, backups, the sorry pool, slow
//! start. What was decided before counts (hysteresis, and since when a member is up), so it is remembered here.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::compile::{MemberState, NotReachable};
use super::maglev::PARTS;
use super::model::{Member, Policy, Pool};
use super::neighbor::Unresolved;

/// What is remembered of one pool.
#[derive(Debug, Clone, Default)]
pub(super) struct Standing {
    /// Whether its members that are no backups are enough by themselves; nothing was known before.
    primaries: Option<bool>,
    /// Whether all of them together are.
    everybody: Option<bool>,
    /// By address and port.
    members: HashMap<(Ipv4Addr, Option<u16>), Course>,
}

/// How a member came to be what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    /// It cannot serve.
    Out,
    /// It can, with its full share.
    In,
    /// It can since then, and its share is growing.
    Growing(Instant),
}

/// How a pool does; the worse comes later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PoolState {
    /// It has its quorum of members that are no backups.
    Up,
    /// Its backups serve, too.
    Backup,
    /// It has lost its quorum, and its sorry pool serves.
    Sorry,
    /// It has lost its quorum; those that are left serve on.
    BelowQuorum,
    /// Nobody serves.
    Down,
}

impl PoolState {
    /// The API's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Backup => "backup",
            Self::BelowQuorum => "below_quorum",
            Self::Sorry => "sorry",
            Self::Down => "down",
        }
    }
}

/// How a pool does, and in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolStatus {
    /// In a word.
    pub state: PoolState,
    /// Members that may get new flows, backups included.
    pub usable: u32,
    /// All of its members.
    pub members: usize,
    /// So many must be usable.
    pub quorum: u32,
    /// So many more for a quorum that was lost to be regained.
    pub hysteresis: u32,
    /// The sorry pool, if it serves.
    pub sorry: Option<String>,
}

impl PoolStatus {
    /// `has_slots`: somebody of its own could serve. `sorry`: who serves instead.
    pub(super) fn of(pool: &Pool, serving: &Serving, has_slots: bool, sorry: Option<&str>) -> Self {
        let state = match (sorry, has_slots) {
            (Some(_), _) => PoolState::Sorry,
            (None, false) => PoolState::Down,
            (None, true) if serving.is_sorry => PoolState::BelowQuorum,
            (None, true) if serving.with_backups => PoolState::Backup,
            (None, true) => PoolState::Up,
        };
        let Policy { quorum, quorum_hysteresis: hysteresis, .. } = pool.policy;
        let (usable, members, sorry) = (serving.usable, pool.members.len(), sorry.map(str::to_owned));
        Self { state, usable, members, quorum, hysteresis, sorry }
    }

    /// Why it is not up; the numbers in any case.
    pub fn reason(&self) -> String {
        let Self { usable, members, quorum, hysteresis, .. } = self;
        let around = if *hysteresis > 0 { format!(" ± {hysteresis}") } else { String::new() };
        let numbers = format!("{usable} of {members} members usable, quorum {quorum}{around}");
        match (self.state, &self.sorry) {
            (PoolState::Up, _) => numbers,
            (PoolState::Backup, _) => format!("too few members that are no backups, so backups serve, too ({numbers})"),
            (PoolState::BelowQuorum, _) => format!("quorum lost, those that are left serve on ({numbers})"),
            (PoolState::Sorry, sorry) => {
                format!("quorum lost, sorry pool {} serves ({numbers})", sorry.as_deref().unwrap_or_default())
            }
            (PoolState::Down, _) => format!("no usable member, nobody serves ({numbers})"),
        }
    }
}

/// Who serves a pool's VIPs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Serving {
    /// One per member, of [`PARTS`]: what it may take of its share.
    pub(super) parts: Vec<u32>,
    /// Members that may get new flows, backups included.
    pub(super) usable: u32,
    /// Too few members that are no backups are left: these serve, too.
    pub(super) with_backups: bool,
    /// Too few members are left: the sorry pool serves, if it can.
    pub(super) is_sorry: bool,
    /// When a share next grows.
    pub(super) next: Option<Instant>,
}

impl Standing {
    /// Takes in how the members do now.
    pub(super) fn follow(&mut self, pool: &Pool, states: &[&MemberState], now: Instant) -> Serving {
        let policy = &pool.policy;
        let up = |with_backups: bool| {
            let members = pool.members.iter().zip(states);
            members.filter(|(member, state)| state.is_usable() && (with_backups || !member.backup)).count() as u32
        };
        let usable = up(true);
        let primaries = *self.primaries.insert(is_enough(self.primaries, up(false), policy));
        let everybody = *self.everybody.insert(is_enough(self.everybody, usable, policy));
        self.note_courses(pool, states, now);
        let mut next = None;
        let part = |(member, state): (&Member, &&MemberState)| {
            if !state.is_usable() || (member.backup && primaries) {
                return 0;
            }
            let Some(Course::Growing(since)) = self.members.get(&identity(member)) else { return PARTS };
            let (part, grows) = part(*since, policy.slow_start.unwrap_or_default(), now);
            next = [next, grows].into_iter().flatten().min();
            part
        };
        let parts = pool.members.iter().zip(states).map(part).collect();
        Serving { parts, usable, with_backups: !primaries, is_sorry: !everybody && !primaries, next }
    }

    /// A member that was out and is in now begins small; one that has always been in does not.
    fn note_courses(&mut self, pool: &Pool, states: &[&MemberState], now: Instant) {
        let Some(slow_start) = pool.policy.slow_start else { return self.members.clear() };
        let mut courses = HashMap::with_capacity(pool.members.len());
        for (member, state) in pool.members.iter().zip(states) {
            let before = self.members.get(&identity(member)).copied();
            let course = match (state, before) {
                // It is only being asked for; or it has nothing new to do, and stays warm.
                (
                    MemberState::Unresolved(NotReachable::Unresolved(Unresolved::Resolving))
                    | MemberState::Drain { .. },
                    before,
                ) => before,
                (state, Some(Course::Out)) if state.is_usable() => Some(Course::Growing(now)),
                (state, Some(Course::Growing(since)))
                    if state.is_usable() && now.duration_since(since) < slow_start =>
                {
                    before
                }
                (state, _) if state.is_usable() => Some(Course::In),
                _ => Some(Course::Out),
            };
            courses.extend(course.map(|course| (identity(member), course)));
        }
        self.members = courses;
    }
}

fn identity(member: &Member) -> (Ipv4Addr, Option<u16>) {
    (member.address, member.port)
}

/// keepalived's rule (`update_quorum_state`, check/ipwrapper.c): lost below quorum − hysteresis, or without anybody;
/// regained at quorum + hysteresis.
fn is_enough(before: Option<bool>, up: u32, policy: &Policy) -> bool {
    let Policy { quorum, quorum_hysteresis: hysteresis, .. } = policy;
    match before {
        None => up >= *quorum,
        Some(true) => up > 0 && up >= quorum - hysteresis,
        Some(false) => up >= quorum + hysteresis,
    }
}

/// What a member may take of its share that came up at `since`, and when that is more.
fn part(since: Instant, slow_start: Duration, now: Instant) -> (u32, Option<Instant>) {
    let step = slow_start / PARTS;
    let steps = now.saturating_duration_since(since).as_nanos() / step.as_nanos().max(1);
    let part = u32::try_from(steps).unwrap_or(PARTS).saturating_add(1).min(PARTS);
    (part, (part < PARTS).then(|| since + step * part))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::sync::Arc;

    use super::super::model::{Model, Start};
    use super::*;

    /// A pool of these members, each a backup or not, with these keys.
    fn pool(keys: &str, backups: &[bool]) -> Pool {
        let mut text = format!(
            "[[interface]]\nname = \"eth0\"\n[[vip]]\nname = \"v\"\naddress = \"203.0.113.2\"\nprotocol = \"tcp\"\n\
             port = 80\npool = \"p\"\n[[pool]]\nname = \"p\"\n{keys}\n"
        );
        for (index, backup) in backups.iter().enumerate() {
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "[[pool.member]]\nname = \"m{index}\"\naddress = \"10.0.0.{}\"\nbackup = {backup}\n",
                index + 1
            );
        }
        let model = Model::parse("p.toml", &text).unwrap_or_else(|errors| panic!("{errors:?}"));
        assert_eq!(model.pools[0].policy.start, Start::Up);
        model.pools[0].clone()
    }

    fn states(letters: &str) -> Vec<MemberState> {
        let state = |letter| match letter {
            'U' => MemberState::Up,
            'D' => MemberState::Down { reason: Arc::from("tcp: connection refused") },
            '?' => MemberState::Unresolved(NotReachable::Unresolved(Unresolved::Resolving)),
            _ => MemberState::Disabled,
        };
        letters.chars().map(state).collect()
    }

    #[test]
    fn backups_and_the_sorry_pool_step_in_and_out() {
        // Keys, which members are backups; then states and who serves, step by step: P a member's full share, S sorry.
        type Row = (&'static str, &'static [bool], &'static [(&'static str, &'static str)]);
        let rows: [Row; 5] = [
            (
                "",
                &[false, false, true],
                &[("UUU", "PP."), ("DUU", ".P."), ("DDU", "..P"), ("DDD", "...S"), ("UDU", "P..")],
            ),
            // As HAProxy and keepalived have it by default: only when no other is left.
            ("quorum = 2", &[false, false, true], &[("UUU", "PP."), ("UDU", "P.P"), ("UDD", "P..S"), ("UUD", "PP.")]),
            (
                "quorum = 2\nquorum_hysteresis = 1",
                &[false, false, false],
                &[("UUU", "PPP"), ("UDD", "P.."), ("DDD", "...S"), ("UUD", "PP.S"), ("UUU", "PPP"), ("UDD", "P..")],
            ),
            ("quorum = 3", &[false, false, false], &[("UUx", "PP.S"), ("UUU", "PPP"), ("UUD", "PP.S")]),
            // It begins without quorum.
            (
                "quorum = 2\nquorum_hysteresis = 1",
                &[false, false, false],
                &[("UDD", "P..S"), ("UUD", "PP.S"), ("UUU", "PPP")],
            ),
        ];
        for (keys, backups, steps) in rows {
            let pool = pool(keys, backups);
            let mut standing = Standing::default();
            for (letters, expected) in steps {
                let states = states(letters);
                let serving = standing.follow(&pool, &states.iter().collect::<Vec<_>>(), Instant::now());
                let mut found: String =
                    serving.parts.iter().map(|part| if *part == PARTS { 'P' } else { '.' }).collect();
                if serving.is_sorry {
                    found.push('S');
                }
                assert_eq!(found, *expected, "{keys:?} {backups:?} {letters} in {steps:?}");
            }
        }
    }

    #[test]
    fn a_member_that_came_up_gets_more_and_more() {
        let pool = pool("slow_start = \"32s\"", &[false, false]);
        let mut standing = Standing::default();
        let start = Instant::now();
        let seconds = Duration::from_secs;
        // Second, states, parts, the second at which there is more.
        let steps: [(u64, &str, [u32; 2], Option<u64>); 12] = [
            (0, "?U", [0, 32], None),
            // At the start nobody is small.
            (1, "UU", [32, 32], None),
            (2, "UD", [32, 0], None),
            (10, "UU", [32, 1], Some(11)),
            (11, "UU", [32, 2], Some(12)),
            (20, "UU", [32, 11], Some(21)),
            // Asked for again: it goes on.
            (21, "U?", [32, 0], None),
            (22, "UU", [32, 13], Some(23)),
            (23, "xU", [0, 14], Some(24)),
            (24, "UU", [1, 15], Some(25)),
            (42, "UU", [19, 32], Some(43)),
            (60, "UU", [32, 32], None),
        ];
        for (second, letters, parts, next) in steps {
            let states = states(letters);
            let serving = standing.follow(&pool, &states.iter().collect::<Vec<_>>(), start + seconds(second));
            assert_eq!(serving.parts, parts, "second {second}");
            assert_eq!(serving.next, next.map(|next| start + seconds(next)), "second {second}");
        }
    }
}
