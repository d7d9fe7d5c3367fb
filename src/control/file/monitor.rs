//! `[[pool.monitor]]`, and what a pool makes of its monitors.

use std::time::Duration;

use super::super::model::monitor::Probe;
use super::super::reader::{Field, Table};
use super::super::report::Place;
use super::super::value::{Interval, Members, Name, Port, Stretch, Times};
use super::super::word::{Combine, MonitorType, Start};

/// `[[pool.monitor]]`
pub(in crate::control) struct Monitor {
    pub(in crate::control) place: Place,
    pub(in crate::control) interval: Option<Interval>,
    pub(in crate::control) timeout: Option<Field<Interval>>,
    pub(in crate::control) rise: Option<Times>,
    pub(in crate::control) fall: Option<Times>,
    pub(in crate::control) port: Option<Field<Port>>,
    /// Whether there is a port, right or wrong.
    pub(in crate::control) has_port: bool,
    pub(in crate::control) probe: Option<Probe>,
}

impl Monitor {
    pub(super) fn read(table: &mut Table<'_, '_>) -> Monitor {
        let kind = table.required::<MonitorType>("type");
        let mut monitor = Monitor {
            place: table.place().clone(),
            has_port: table.has("port"),
            interval: table.with_default("interval", Interval(Duration::from_secs(5))),
            timeout: table.optional("timeout"),
            rise: table.with_default("rise", Times(2)),
            fall: table.with_default("fall", Times(3)),
            port: None,
            probe: None,
        };
        let Some(Field { value: kind, .. }) = kind else {
            table.ignore_rest();
            return monitor;
        };
        if kind != MonitorType::Ping {
            monitor.port = table.optional("port");
        }
        monitor.probe = Probe::read(kind, table);
        monitor
    }
}

/// How a pool's members are judged, and what it does when they are few.
pub(in crate::control) struct Policy {
    pub(in crate::control) monitors: Vec<Monitor>,
    pub(in crate::control) combine: Option<Field<Combine>>,
    pub(in crate::control) start: Option<Field<Start>>,
    pub(in crate::control) damping: Option<Damping>,
    pub(in crate::control) quorum: Option<Field<Members<1>>>,
    pub(in crate::control) quorum_hysteresis: Option<Field<Members<0>>>,
    /// Whether there is a quorum, right or wrong.
    pub(in crate::control) has_quorum: bool,
    pub(in crate::control) sorry_pool: Option<Field<Name>>,
    pub(in crate::control) slow_start: Option<Field<Stretch>>,
}

impl Policy {
    pub(super) fn read(table: &mut Table<'_, '_>) -> Policy {
        Policy {
            has_quorum: table.has("quorum"),
            monitors: table.tables("monitor", Monitor::read),
            combine: table.optional("monitors"),
            start: table.optional("start"),
            damping: table.inline("damping", "{ downs = 3, within = \"5m\", hold = \"1m\" }", Damping::read),
            quorum: table.optional("quorum"),
            quorum_hysteresis: table.optional("quorum_hysteresis"),
            sorry_pool: table.optional("sorry_pool"),
            slow_start: table.optional("slow_start"),
        }
    }
}

/// A pool's `damping`
pub(in crate::control) struct Damping {
    pub(in crate::control) place: Place,
    pub(in crate::control) downs: Option<Times>,
    pub(in crate::control) within: Option<Stretch>,
    pub(in crate::control) hold: Option<Stretch>,
}

impl Damping {
    fn read(table: &mut Table<'_, '_>) -> Damping {
        Damping {
            place: table.place().clone(),
            downs: table.with_default("downs", Times(3)),
            within: table.with_default("within", Stretch(Duration::from_mins(5))),
            hold: table.with_default("hold", Stretch(Duration::from_mins(1))),
        }
    }
}
