//! The periodic line: `statistics key=value …`, all counts since the start but `pps`.

use std::fmt::{Display, Write as _};
use std::sync::Arc;
use std::time::Instant;

use super::model::Model;
use crate::dataplane::counters::Counters;
use crate::dataplane::flow::FlowTable;
use crate::dataplane::port::steering::SteeringCounters;
use crate::dataplane::tables::{MemberId, VipId};
use crate::dataplane::verdict::DropReason;

/// Remembers the last line, for the rate.
#[derive(Debug)]
pub struct Statistics {
    received: u64,
    at: Instant,
}

impl Default for Statistics {
    fn default() -> Self {
        Self { received: 0, at: Instant::now() }
    }
}

impl Statistics {
    /// The line as of now.
    pub fn line(
        &mut self,
        model: &Model,
        workers: &[Arc<Counters>],
        flows: &FlowTable,
        steering: Option<SteeringCounters>,
    ) -> String {
        let sum = |what: &dyn Fn(&Counters) -> u64| workers.iter().map(|one| what(one)).sum::<u64>();
        let mut line = Line(String::from("statistics"));

        let received = sum(&|one| one.received.packets.get());
        let seconds = self.at.elapsed().as_secs_f64().max(0.001);
        line.add("pps", (received.saturating_sub(self.received) as f64 / seconds).round());
        (self.received, self.at) = (received, Instant::now());

        line.add("received", received);
        line.add("transmitted", sum(&|one| one.transmitted.packets.get()));
        line.add("dropped", sum(&Counters::dropped));
        for &reason in DropReason::ALL {
            let count = sum(&|one| one.dropped_for(reason).get());
            if count > 0 {
                line.add(format_args!("drop.{}", reason.name()), count);
            }
        }
        if let Some(steering) = steering {
            line.add("xdp.redirected", steering.redirected);
            line.add("xdp.passed", steering.passed);
            line.add("xdp.unserved", steering.unserved);
            line.add("xdp.no_socket", steering.no_socket);
        }
        for (index, counters) in workers.iter().enumerate() {
            line.add(format_args!("worker.{index}"), counters.received.packets.get());
            line.add(format_args!("worker.{index}.sleeps"), counters.sleeps.get());
        }
        line.add("flows.begun", sum(&|one| one.flows_begun.get()));
        line.add("flows.over_budget", sum(&|one| one.flows_over_budget.get()));
        line.add("flows.without_room", sum(&|one| one.flows_without_room.get()));
        line.add("flows.rebound", sum(&|one| one.flows_rebound.get()));
        line.add("flows.forgotten", sum(&|one| one.flows_forgotten.get()));
        if let Some(templates) = &flows.templates {
            line.add("persistence.clients", templates.clients());
            line.add("persistence.begun", sum(&|one| one.persistence_begun.get()));
            line.add("persistence.followed", sum(&|one| one.persistence_followed.get()));
            line.add("persistence.moved", sum(&|one| one.persistence_moved.get()));
            line.add("persistence.without_room", sum(&|one| one.persistence_without_room.get()));
        }
        line.add("ring.fill_ring_empty", sum(&|one| one.fill_ring_empty.get()));
        line.add("ring.rx_ring_full", sum(&|one| one.rx_ring_full.get()));
        line.add("ring.rx_dropped", sum(&|one| one.rx_dropped.get()));
        line.add("ring.invalid", sum(&|one| one.invalid_descriptors.get()));
        line.add("frames.free", sum(&|one| one.frames_free.get()));
        line.add("frames.held", sum(&|one| one.frames_held.get()));
        line.add("frames.in_kernel", sum(&|one| one.frames_in_kernel.get()));
        let members = model.pools.iter().flat_map(|pool| pool.members.iter().map(move |member| (pool, member)));
        for ((pool, member), id) in members.zip(0..) {
            let packets = sum(&|one| one.member(MemberId(id)).packets.get());
            line.add(format_args!("member.{}/{}", pool.name, member.name), packets);
            let load = flows.loads.of(MemberId(id));
            line.add(format_args!("active.{}/{}", pool.name, member.name), load.active());
            line.add(format_args!("inactive.{}/{}", pool.name, member.name), load.inactive());
        }
        for (vip, id) in model.vips.iter().zip(0..) {
            line.add(format_args!("vip_flows.{}", vip.name), flows.loads.flows_of_vip(VipId(id)));
        }
        line.0
    }
}

struct Line(String);

impl Line {
    fn add(&mut self, key: impl Display, value: impl Display) {
        // Writing to a String cannot fail.
        let _ = write!(self.0, " {key}={value}");
    }
}
