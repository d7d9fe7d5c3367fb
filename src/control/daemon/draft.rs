//! What another configuration comes to, worked out beside the control thread: to lay out a thousand pools takes seconds,
//! and neither checks nor anybody's question are to wait for that.

use std::net::Ipv4Addr;
use std::sync::Arc;

use super::apply::Refused;
use super::{Daemon, Plane};
use crate::control::change::{Change, impact};
use crate::control::compile::Plan;
use crate::control::identity::Assignment;
use crate::control::model::Model;
use crate::control::neighbor::{Network, NextHop};
use crate::dataplane::flow::FlowTable;
use crate::dataplane::tables::Tables;

/// All that is needed for it, as it was at one moment.
#[derive(Debug)]
pub(in crate::control) struct Draft {
    change: Change,
    model: Model,
    ids: Assignment,
    before: Plan,
    network: Arc<Network>,
    interfaces: Vec<String>,
    tables: Option<Arc<Tables>>,
    flows: Arc<FlowTable>,
}

impl Daemon {
    /// What this configuration is to be worked out from; changes nothing. Members that are new are taken for reachable,
    /// and new interfaces for fit: only attaching to them would show it.
    pub(in crate::control) fn draft(&self, model: &Model) -> Result<Draft, Refused> {
        Ok(Draft {
            change: self.prepare(model)?,
            ids: self.identities.assign(model)?,
            model: model.clone(),
            before: self.plan.clone(),
            network: Arc::clone(&self.network),
            interfaces: self.interfaces().to_vec(),
            tables: self.plane.as_ref().map(Plane::shared_tables),
            flows: Arc::clone(&self.shared.flows),
        })
    }
}

impl Draft {
    /// The plan with every pool laid out, for the real one to take over what still holds then.
    pub(super) fn lay_out(&self) -> Plan {
        self.compiled().0
    }

    /// What would change, and what that comes to for flows.
    pub(in crate::control) fn change(self) -> Change {
        let (plan, after) = self.compiled();
        let mut change = self.change;
        if let Some(tables) = &self.tables {
            change.impact = impact((&self.before, tables), (&plan, &after), &self.flows);
        }
        change
    }

    fn compiled(&self) -> (Plan, Tables) {
        let mut plan = Plan::with(self.model.clone(), self.ids.clone(), Some(&self.before));
        let network = as_if_resolved(&self.network, &plan.targets(), &self.interfaces);
        // It is never published.
        let tables = plan.compile(&network, &self.interfaces, 0).tables;
        (plan, tables)
    }
}

/// The network if everybody whom nobody has looked for yet were there, on the first interface.
fn as_if_resolved(network: &Network, targets: &[Ipv4Addr], interfaces: &[String]) -> Network {
    let mut network = network.clone();
    let Some(interface) = interfaces.first() else { return network };
    for &target in targets {
        let somewhere = NextHop {
            interface: interface.clone(),
            mac: [0; 6],
            gateway: None,
            source: Ipv4Addr::LOCALHOST,
            mtu: None,
        };
        network.next_hops.entry(target).or_insert(Ok(somewhere));
    }
    network
}
