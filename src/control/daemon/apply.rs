//! Another configuration, while packets are forwarded: it is compared with the one that runs, and only the difference
//! is made.

use std::collections::{BTreeSet, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use thiserror::Error;
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::{Level, debug, enabled, error, info, warn};

use super::{Daemon, DaemonError, FIRST_RESOLUTION, view};
use crate::control::api::desk::{Order, Reply, Wish};
use crate::control::api::problem::Problem;
use crate::control::api::routes::no_such;
use crate::control::change::{Change, Setting};
use crate::control::compile::{self, Plan};
use crate::control::fit::Unfit;
use crate::control::identity::NoIds;
use crate::control::model::Model;
use crate::control::plane;
use crate::control::reload::Loaded;
use crate::control::state::{Edit, Edits, RETRY, Running};
use crate::dataplane::flow::Sizes;
use crate::dataplane::port::nic;

/// Why another configuration is not taken; the one that runs has not been touched.
#[derive(Debug, Error)]
pub enum Refused {
    /// It changes what only a start can.
    #[error(
        "{} {} a restart (the rest does not)",
        list(.0),
        if .0.len() == 1 { "needs" } else { "need" }
    )]
    NeedsRestart(Vec<Setting>),
    /// It does not fit this host.
    #[error("{}", .0.join("; "))]
    Host(Vec<String>),
    /// It has too many VIPs or members.
    #[error(transparent)]
    NoIds(#[from] NoIds),
    /// There is no memory for what it asks for.
    #[error("memory for a persistence table of {clients} clients (dataplane.persistence_v4): {source}")]
    Memory {
        /// How many clients it was to remember.
        clients: usize,
        /// What the kernel said.
        source: std::io::Error,
    },
}

fn list(settings: &[Setting]) -> String {
    settings.iter().map(|setting| setting.key.to_string()).collect::<Vec<_>>().join(", ")
}

/// A configuration that is about to be applied: when its new members' next hops are known, or it has waited enough.
#[derive(Debug)]
pub(super) struct Proposal {
    next: Running,
    model: Model,
    /// Addresses of its new members.
    new: Vec<Ipv4Addr>,
    until: Instant,
    origin: Origin,
    preparation: Preparation,
}

/// The pools of what is proposed are laid out while control does other things.
#[derive(Debug)]
enum Preparation {
    Running(JoinHandle<Plan>),
    /// `None`: it has failed, and is done when it is applied.
    Done(Option<Box<Plan>>),
}

impl Proposal {
    /// Returns when its pools have been laid out; if they have been already, never.
    pub(super) async fn prepared(&mut self) {
        match &mut self.preparation {
            Preparation::Running(job) => self.preparation = Preparation::Done(job.await.ok().map(Box::new)),
            Preparation::Done(_) => std::future::pending().await,
        }
    }

    fn is_prepared(&self) -> bool {
        matches!(self.preparation, Preparation::Done(_))
    }
}

/// Where another configuration comes from.
#[derive(Debug)]
pub(super) enum Origin {
    /// The startup file, read again.
    File,
    /// The API; whoever waits for what becomes of it.
    Order(Reply),
}

impl Daemon {
    /// Has this configuration rule, at once: workers have the one or the other, and what does not differ is not touched.
    /// Members whose next hop is not known yet get nothing until it is; [`Daemon::propose`] waits for that first.
    ///
    /// # Errors
    ///
    /// The outer one is the data plane's and ends the daemon; with the inner one nothing has changed.
    pub(super) fn apply(
        &mut self,
        model: Model,
        prepared: Option<&Plan>,
    ) -> Result<Result<Change, Refused>, DaemonError> {
        let change = match self.prepare(&model).and_then(|change| self.try_interfaces(&model).map(|()| change)) {
            Ok(change) => change,
            Err(refused) => return Ok(Err(refused)),
        };
        if change.is_empty() {
            return Ok(Ok(change));
        }
        let shared = self.shared_addresses();
        if let Err(refused) = self.adopt(model, prepared) {
            return Ok(Err(refused));
        }
        self.follow_interfaces();
        self.serve()?;
        if let Some(plane) = &self.plane {
            let (loads, limits) = (&self.shared.flows.loads, &plane.tables().limits);
            self.plan.members().for_each(|(_, _, id)| loads.settle(id, limits));
        }
        self.say_shared_addresses(&shared);
        Ok(Ok(change))
    }

    /// Has this configuration rule as soon as its new members can be reached, at most a second from now.
    pub(super) fn propose(&mut self, next: Running, origin: Origin) -> Result<(), (Refused, Origin)> {
        let model = next.model();
        let preparation = self.prepare(&model).and_then(|change| {
            if is_quick(&change, &model) {
                return Ok(Preparation::Done(None));
            }
            let draft = self.draft(&model)?;
            Ok(Preparation::Running(spawn_blocking(move || draft.lay_out())))
        });
        let preparation = match preparation {
            Ok(preparation) => preparation,
            Err(refused) => return Err((refused, origin)),
        };
        let wanted = [&self.plan.model, &model];
        let members = wanted.iter().flat_map(|model| &model.pools).flat_map(|pool| &pool.members);
        self.watcher.watch(members.map(|member| member.address).collect::<BTreeSet<_>>());
        let known: HashSet<Ipv4Addr> = self.plan.targets().into_iter().collect();
        let members = model.pools.iter().flat_map(|pool| &pool.members);
        let new = members.map(|member| member.address).filter(|address| !known.contains(address)).collect();
        self.watcher.list(wanted.iter().flat_map(|model| &model.interfaces).map(|interface| interface.name.clone()));
        let until = Instant::now() + FIRST_RESOLUTION;
        self.proposal = Some(Proposal { next, model, new, until, origin, preparation });
        Ok(())
    }

    /// Applies what was proposed if it is time to, and says what came of it.
    pub(super) fn settle(&mut self) -> Result<Option<String>, DaemonError> {
        let network = &self.network;
        let is_due = |proposal: &mut Proposal| {
            let are_settled = proposal.new.iter().all(|&target| network.is_settled(target));
            let mut interfaces = proposal.model.interfaces.iter().map(|interface| &interface.name);
            let are_known = interfaces.all(|name| network.links.contains_key(name) || !nic::exists(name));
            proposal.is_prepared() && ((are_settled && are_known) || Instant::now() >= proposal.until)
        };
        let Some(proposal) = self.proposal.take_if(is_due) else { return Ok(None) };
        let Proposal { next, model, origin, preparation, .. } = proposal;
        let Preparation::Done(prepared) = preparation else { return Ok(None) };
        let started = Instant::now();
        let result = self.apply(model, prepared.as_deref())?;
        if result.is_err() {
            self.watch();
        }
        debug!("applied in {:.1?}", started.elapsed());
        Ok(self.conclude(next, origin, result))
    }

    /// When what was proposed and prepared is applied at the latest.
    pub(super) fn proposal_due(&self) -> Option<Instant> {
        self.proposal.as_ref().filter(|proposal| proposal.is_prepared()).map(|proposal| proposal.until)
    }

    /// Takes in a file that was read again. `None`: it is to be applied, and that takes a moment.
    pub(super) fn take_in(&mut self, loaded: Loaded) -> Option<String> {
        let next = match loaded {
            Ok(next) => next,
            Err(errors) => {
                for error in &errors {
                    error!("{error}");
                }
                let plural = if errors.len() == 1 { "" } else { "s" };
                let words = format!("not reloaded: {} error{plural} in the file; nothing has changed", errors.len());
                error!("{words}");
                let first = errors.first().map_or_else(String::new, |error| format!(" ({error})"));
                self.say_config(&format!("{words}{first}"));
                return Some(words);
            }
        };
        // As at a start: whoever has not touched the file does not mean it.
        if next.startup == self.running.startup
            && let Some(changes) = self.running.changes()
        {
            let words = format!("reloaded: the file has not changed; what was changed at run time goes on: {changes}");
            info!("{words}");
            self.say_config(&words);
            return Some(words);
        }
        if enabled!(Level::DEBUG)
            && let Ok(draft) = self.draft(&next.model())
        {
            spawn_blocking(move || debug!("the plan:\n{}", draft.change()));
        }
        match self.propose(next, Origin::File) {
            Ok(()) => None,
            Err((refused, origin)) => self.conclude(self.running.clone(), origin, Err(refused)),
        }
    }

    fn say_config(&mut self, words: &str) {
        let revision = self.running.revision;
        self.events.add("config", "", (None, None), format!("revision {revision}: {words}"));
    }

    /// The edits that another configuration ends.
    pub(in crate::control) fn edits_that_end(&self) -> Vec<String> {
        self.running.edits_ended(&Running { edits: Edits::new(), ..self.running.clone() })
    }

    /// What an order comes to is proposed; what cannot be is refused at once.
    pub(super) fn take_order(&mut self, order: Order) {
        let Order { wish, revision, reply } = order;
        let now = self.running.revision;
        if let Some(wanted) = revision.filter(|wanted| *wanted != now) {
            let words = format!("revision {now} rules, not {wanted}: somebody else has changed something; look again");
            let _ = reply.send(Err(Problem::new(412, words).about("If-Match")));
            return;
        }
        let next = match self.next(wish) {
            Ok(next) => next,
            Err(problem) => {
                let _ = reply.send(Err(*problem));
                return;
            }
        };
        if let Err((refused, Origin::Order(reply))) = self.propose(next, Origin::Order(reply)) {
            self.conclude(self.running.clone(), Origin::Order(reply), Err(refused));
        }
    }

    /// The running configuration with this wish fulfilled.
    fn next(&self, wish: Wish) -> Result<Running, Box<Problem>> {
        let next = self.running.clone();
        match wish {
            Wish::Apply { model, text } => {
                // The startup file's own text is nothing that a start would not find there.
                let applied = (*text != *next.file).then_some(text);
                Ok(Running { base: Arc::new(*model), applied, edits: Edits::new(), ..next })
            }
            Wish::Edit { pool, member, patch } => {
                let mut members = next.base.pools.iter().filter(|one| one.name == pool).flat_map(|one| &one.members);
                let Some(base) = members.find(|one| one.name == member) else {
                    let names: Vec<String> =
                        self.plan.members().map(|(pool, member, _)| format!("{}/{}", pool.name, member.name)).collect();
                    return Err(Box::new(no_such("member", &format!("{pool}/{member}"), &names)));
                };
                let (weight, enabled) = (base.weight, base.enabled);
                let mut next = self.running.clone();
                let edit = next.edits.entry(format!("{pool}/{member}")).or_default();
                edit.weight = patch.weight.or(edit.weight).filter(|one| *one != weight);
                edit.enabled = patch.enabled.or(edit.enabled).filter(|one| *one != enabled);
                edit.drain = patch.drain.unwrap_or(edit.drain);
                next.edits.retain(|_, edit| *edit != Edit::default());
                Ok(next)
            }
        }
    }

    /// Takes down what rules now, and says what came of it: by what is returned, or to whom has asked.
    fn conclude(&mut self, next: Running, origin: Origin, mut result: Result<Change, Refused>) -> Option<String> {
        let is_file = matches!(origin, Origin::File);
        let (mut saved, mut dropped, mut is_news) = (None, None, true);
        if let Ok(change) = &mut result {
            if !Arc::ptr_eq(&next.base, &self.running.base) {
                change.edits_ended = self.running.edits_ended(&next);
                dropped = self.running.changes().filter(|_| is_file);
            }
            // The same model may have come from another text.
            let changes = u64::from(!change.is_empty() || next.edits != self.running.edits);
            let next = Running { revision: self.running.revision + changes, ..next };
            is_news = !next.is_as(&self.running);
            self.running = next;
            // Who asks again for what is not saved yet waits for that.
            saved = (is_news || self.store.failure().is_some()).then(|| self.store.save(&self.running));
        }
        let revision = self.running.revision;
        let (words, result) = say(if is_file { "reloaded" } else { "applied" }, result);
        if is_news {
            self.say_config(&words);
        }
        if let Some(dropped) = dropped {
            let words = format!("{} has changed: what was changed at run time is dropped: {dropped}", self.file);
            warn!("{words}");
            self.say_config(&words);
        }
        let Origin::Order(reply) = origin else { return Some(words) };
        tokio::spawn(async move {
            let answer = match (result, saved) {
                (Err(refused), _) => Err(Problem::new(422, refused.to_string())),
                (Ok(change), None) => Ok((change, revision)),
                (Ok(change), Some(saved)) => match saved.await {
                    Ok(Ok(())) => Ok((change, revision)),
                    Ok(Err(error)) => Err(not_saved(&error.to_string())),
                    Err(_) => Err(not_saved("the daemon is stopping")),
                },
            };
            let _ = reply.send(answer);
        });
        None
    }

    fn compare(&self, model: &Model) -> Change {
        Change::between(&self.plan.model, model, self.shared.flows.templates.get().is_some())
    }

    /// Compares, and says what stands against it.
    pub(super) fn prepare(&self, model: &Model) -> Result<Change, Refused> {
        let change = self.compare(model);
        let needs_restart: Vec<Setting> = change.needs_restart().cloned().collect();
        if !needs_restart.is_empty() {
            return Err(Refused::NeedsRestart(needs_restart));
        }
        let problems = compile::problems(model, &self.network);
        let new: Vec<String> = problems.into_iter().filter(|problem| !self.problems.contains(problem)).collect();
        if !new.is_empty() {
            return Err(Refused::Host(new));
        }
        if !model.interfaces.iter().any(|interface| nic::exists(&interface.name)) {
            let names = model.interfaces.iter().map(|interface| interface.name.clone()).collect();
            return Err(Refused::Host(vec![DaemonError::NoInterface(names).to_string()]));
        }
        self.identities.assign(model)?;
        Ok(change)
    }

    /// As at the start: one that is missing may come later, but one that is there and does not fit is a mistake.
    fn try_interfaces(&self, model: &Model) -> Result<(), Refused> {
        if model.interfaces == self.plan.model.interfaces {
            return Ok(());
        }
        let listed = self.listed();
        let is_new = |name: &str| !listed.iter().any(|one| one == name);
        let fit = self.fit(model, &self.network);
        let misfits = fit.unfit.iter().filter(|(name, why)| is_new(name) && **why != Unfit::Missing);
        let mut failures: Vec<String> = misfits.map(|(name, why)| format!("{name}: {why}")).collect();
        for place in fit.places.iter().filter(|place| is_new(place.name)) {
            failures.extend(plane::try_out(model, *place).err().map(|error| error.to_string()));
        }
        if failures.is_empty() { Ok(()) } else { Err(Refused::Host(failures)) }
    }

    fn adopt(&mut self, model: Model, prepared: Option<&Plan>) -> Result<(), Refused> {
        let ids = self.identities.assign(&model)?;
        let plan = Plan::with_prepared(model, ids, Some(&self.plan), prepared);
        let Sizes { persistence_v4, .. } = plan.sizes();
        if let Some(clients) = persistence_v4 {
            let taken = self.shared.flows.remember_clients(&mut self.hands, clients);
            taken.map_err(|source| Refused::Memory { clients, source })?;
        }
        // The next tables are the first without those that go.
        let reused = self.identities.adopt(&plan.model, plan.ids(), self.generation + 1);
        self.shared.forget(&reused);
        self.plan = plan;
        self.checker.follow(&self.plan.model);
        self.watch();
        self.forget_what_is_gone();
        Ok(())
    }

    /// Has the kernel's state followed for what the plan names.
    fn watch(&self) {
        self.watcher.watch(self.plan.targets());
        self.watcher.list(self.listed());
    }

    /// Says that they are gone. What was said of them is said again should they come back.
    fn forget_what_is_gone(&mut self) {
        let members: HashSet<String> =
            self.plan.members().map(|(pool, member, _)| format!("{}/{}", pool.name, member.name)).collect();
        let mut gone = Vec::new();
        for (name, said) in self.said.extract_if(|name, _| !members.contains(name)) {
            gone.push(("member", name, view::state_of(&said.state).0));
        }
        let pools: HashSet<&String> = self.plan.model.pools.iter().map(|pool| &pool.name).collect();
        for (name, said) in self.said_of_pools.extract_if(|name, _| !pools.contains(name)) {
            gone.push(("pool", name, said.state.name()));
        }
        let vips: HashSet<&String> = self.plan.model.vips.iter().map(|vip| &vip.name).collect();
        for (name, state) in self.said_of_vips.extract_if(|name, _| !vips.contains(name)) {
            gone.push(("vip", name, state));
        }
        gone.sort_unstable();
        for (kind, name, state) in gone {
            self.events.add(kind, &name, (Some(state.to_owned()), Some("removed".into())), String::new());
        }
        let interfaces = self.listed();
        self.unfit.retain(|name, _| interfaces.contains(name));
        self.refusals.retain(|name, _| interfaces.contains(name));
        self.ever_served.retain(|name| interfaces.contains(name));
    }
}

/// Whether it is made sooner than handed over: some small pools to be laid out take a millisecond each.
fn is_quick(change: &Change, model: &Model) -> bool {
    const PARTS: usize = 8;
    const MEMBERS: usize = 100;
    change.pools.len() + change.members.len() + change.monitors.len() <= PARTS
        && model.pools.iter().all(|pool| pool.members.len() <= MEMBERS)
}

fn not_saved(why: &str) -> Problem {
    Problem::new(
        500,
        format!(
            "the change is in force, but a restart would lose it: it could not be saved: {why} (tried again every {RETRY:?})"
        ),
    )
}

/// Says what came of it, in words that whoever asked for it is told, too.
fn say(verb: &str, result: Result<Change, Refused>) -> (String, Result<Change, Refused>) {
    let words = match &result {
        Ok(change) => format!("{verb}: {}", change.summary()),
        Err(refused) => format!("not {verb}: {refused}; nothing has changed"),
    };
    let Ok(change) = &result else {
        error!("{words}");
        return (words, result);
    };
    info!("{words}");
    if change.reseeds() {
        warn!(
            "node.hash_seed is another: new flows are spread anew, and so are those that the connection table does not \
             hold (of n members' flows one in n goes where it went before); all nodes that share VIPs need the same one"
        );
    }
    (words, result)
}
