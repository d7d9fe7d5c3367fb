//! IPVS's schedulers as naive models, for the tests: every member and every round is walked one at a time, as the
//! kernel does it. Each is named after its file in `net/netfilter/ipvs/`.

/// A real server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) weight: i64,
    pub(super) active: i64,
    pub(super) inactive: i64,
    pub(super) overloaded: bool,
}

/// `ip_vs_rr.c`: the list is walked from behind the last one, once around.
#[derive(Debug, Default)]
pub(super) struct RoundRobin {
    /// One more than the last one's index; 0: the list's head.
    last: usize,
}

impl RoundRobin {
    pub(super) fn schedule(&mut self, servers: &[Server]) -> Option<usize> {
        for step in 0..servers.len() {
            let index = (self.last + step) % servers.len();
            if !servers[index].overloaded && servers[index].weight > 0 {
                self.last = index + 1;
                return Some(index);
            }
        }
        None
    }
}

/// `ip_vs_wrr.c`: `cl`, `cw`, `mw` and `di` are the kernel's.
#[derive(Debug)]
pub(super) struct WeightedRoundRobin {
    /// One more than the current one's index; 0: the list's head.
    cl: usize,
    cw: i64,
    mw: i64,
    di: i64,
}

impl WeightedRoundRobin {
    pub(super) fn new(servers: &[Server]) -> Self {
        let (mw, di) = Self::measure(servers);
        Self { cl: 0, cw: mw, mw, di }
    }

    fn measure(servers: &[Server]) -> (i64, i64) {
        let weights: Vec<i64> = servers.iter().map(|server| server.weight).filter(|weight| *weight > 0).collect();
        let greatest = weights.iter().copied().max().unwrap_or(0);
        let di = (1..=greatest).rev().find(|step| weights.iter().all(|weight| weight % step == 0)).unwrap_or(1);
        (greatest - (di - 1), di)
    }

    /// `ip_vs_wrr_dest_changed`, but for `cl`: the kernel begins at the head again after every change, which favours
    /// the first servers when one of them flaps.
    pub(super) fn changed(&mut self, servers: &[Server]) {
        (self.mw, self.di) = Self::measure(servers);
        if self.cw > self.mw || self.cw == 0 {
            self.cw = self.mw;
        } else if self.di > 1 {
            self.cw = self.cw / self.di * self.di + 1;
        }
    }

    /// Somebody must be there to be found.
    pub(super) fn schedule(&mut self, servers: &[Server]) -> usize {
        let mut at = self.cl;
        loop {
            while at < servers.len() {
                let server = servers[at];
                at += 1;
                if !server.overloaded && server.weight >= self.cw {
                    self.cl = at;
                    return at - 1;
                }
            }
            at = 0;
            self.cw -= self.di;
            if self.cw <= 0 {
                self.cw = self.mw;
            }
        }
    }
}

/// `ip_vs_lc.c`
pub(super) fn lc(servers: &[Server]) -> Option<usize> {
    first_least(servers, |server| (server.active * 256 + server.inactive, 1))
}

/// `ip_vs_wlc.c`
pub(super) fn wlc(servers: &[Server]) -> Option<usize> {
    first_least(servers, |server| (server.active * 256 + server.inactive, server.weight))
}

/// `ip_vs_sed.c`
pub(super) fn sed(servers: &[Server]) -> Option<usize> {
    first_least(servers, |server| (server.active + 1, server.weight))
}

/// `ip_vs_nq.c`
pub(super) fn nq(servers: &[Server]) -> Option<usize> {
    let is_idle = |server: &Server| !server.overloaded && server.weight != 0 && server.active == 0;
    servers.iter().position(is_idle).or_else(|| sed(servers))
}

/// The one whose ratio is below all before it, and not above any after it.
fn first_least(servers: &[Server], ratio: impl Fn(&Server) -> (i64, i64)) -> Option<usize> {
    let usable = |index: &usize| !servers[*index].overloaded && servers[*index].weight > 0;
    let is_above = |a: usize, b: usize| {
        let ((over_a, under_a), (over_b, under_b)) = (ratio(&servers[a]), ratio(&servers[b]));
        i128::from(over_a) * i128::from(under_b) > i128::from(over_b) * i128::from(under_a)
    };
    let all: Vec<usize> = (0..servers.len()).filter(usable).collect();
    all.iter()
        .copied()
        .find(|&one| all.iter().all(|&other| if other < one { is_above(other, one) } else { !is_above(one, other) }))
}
