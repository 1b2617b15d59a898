//! `[[machine]]`: rules for some machines.

use std::net::Ipv4Addr;

use super::raw::{RawMachine, Value};
use super::{Checker, Dhcp, RootDoors, Wrong, value};
use crate::boot::menu::Start;
use crate::boot::rules::{ClientFilter, Rule};
use crate::boot::{Mac, Rules};

impl Checker<'_> {
    /// All rules. None of them can stand behind one that leaves it no machine.
    ///
    /// `parameters` is the length of the longest kernel parameters that an image has anyway.
    pub(super) fn rules(&self, doors: &RootDoors, dhcp: &Dhcp, parameters: usize) -> Result<Rules, Wrong> {
        let mut rules: Vec<Rule> = Vec::new();
        for raw in &self.raw.machine {
            let rule = self.rule(raw, doors, dhcp, parameters)?;
            let before = rules.iter().position(|earlier| earlier.who.covers(&rule.who));
            if let Some(earlier) = before.and_then(|position| self.raw.machine.get(position)) {
                return Err(self.never_reached(raw, earlier));
            }
            if let Some(value) = &raw.address
                && rules.iter().any(|other| other.address == rule.address)
            {
                return Err(self.wrong("address", value, "is another machine's already: give each its own"));
            }
            rules.push(rule);
        }
        match self.raw.machine.get(Rules::MAX) {
            Some(raw) => Err(self.wrong_rule(raw, &format!("is one too many: {} fit", Rules::MAX))),
            None => Ok(Rules::new(rules)),
        }
    }

    fn rule(
        &self,
        raw: &RawMachine,
        doors: &RootDoors,
        dhcp: &Dhcp,
        parameters: usize,
    ) -> Result<Rule, Wrong> {
        let who = self.who(raw)?;
        let truth = |key, value| self.read(key, value, value::truth);
        let is_ignored = truth("ignore", &raw.ignore)?.unwrap_or(false);
        let is_menu = truth("menu", &raw.menu)?.unwrap_or(true);
        self.says_something(raw, is_ignored)?;
        let choices = (&raw.root, &raw.copytoram, &raw.kernel_parameters);
        Ok(Rule {
            is_ignored,
            image: self.read("image", &raw.image, value::image_name)?,
            overrides: self.overrides(choices, doors, parameters)?,
            start: if is_menu { Start::Menu } else { Start::Straight },
            quirks: self.read_all("quirks", &raw.quirks, value::quirk)?.into_iter().collect(),
            address: self.fixed_address(raw, &who, dhcp)?,
            who,
        })
    }

    fn who(&self, raw: &RawMachine) -> Result<ClientFilter, Wrong> {
        let architectures = self.read_all("architecture", &raw.architecture, value::architectures)?;
        let who = ClientFilter {
            macs: self.read_all("mac", &raw.mac, value::mac_prefix)?,
            architectures: architectures.into_iter().flatten().collect(),
            vendor: self.read("vendor", &raw.vendor, value::vendor)?.unwrap_or_default(),
        };
        match who == ClientFilter::default() {
            true => Err(self.wrong_rule(raw, "is for no machine: add `mac`, `architecture` or `vendor`")),
            false => Ok(who),
        }
    }

    fn says_something(&self, raw: &RawMachine, is_ignored: bool) -> Result<(), Wrong> {
        let others = raw.settings().find(|(key, _)| *key != "ignore");
        match (is_ignored, others) {
            (true, Some((key, value))) => {
                Err(self.wrong(key, value, "is for machines that are answered: leave out it, or `ignore`"))
            }
            (false, None) => {
                Err(self.wrong_rule(raw, "changes nothing: add what is to be otherwise for it, as `image`"))
            }
            _ => Ok(()),
        }
    }

    /// An address is leased to one machine, by our own DHCP server.
    fn fixed_address(
        &self,
        raw: &RawMachine,
        who: &ClientFilter,
        dhcp: &Dhcp,
    ) -> Result<Option<Ipv4Addr>, Wrong> {
        let Some(address) = self.read("address", &raw.address, value::host_address)? else { return Ok(None) };
        let why = match (one_machine(who), dhcp) {
            (None, _) => Some("is for one machine: name its whole MAC address, and nothing else".to_owned()),
            (_, Dhcp::Off | Dhcp::Proxy(_)) => {
                Some("needs a DHCP server: add `dhcp-range`, or leave it out".to_owned())
            }
            (_, Dhcp::Server(_)) => self
                .allowed()?
                .first_refused(address, address)
                .map(|_| "is not in `allow`: change one of them".to_owned()),
        };
        match (why, &raw.address) {
            (Some(why), Some(value)) => Err(self.wrong("address", value, &why)),
            _ => Ok(Some(address)),
        }
    }

    fn never_reached(&self, raw: &RawMachine, earlier: &RawMachine) -> Wrong {
        let place = earlier.conditions().next().map(|(key, value)| self.place(key, value));
        let place = place.unwrap_or_default();
        self.wrong_rule(
            raw,
            &format!("is never looked at: the rule at {place} has its machines: put it before that"),
        )
    }

    /// Something is wrong with a rule as a whole.
    fn wrong_rule(&self, raw: &RawMachine, why: &str) -> Wrong {
        match raw.conditions().chain(raw.settings()).next() {
            Some((key, value)) => Wrong::new(format!("{}: this [[machine]] {why}", self.place(key, value))),
            None => Wrong::new(format!("an empty [[machine]] {why}")),
        }
    }
}

/// The only machine that a rule is for.
fn one_machine(who: &ClientFilter) -> Option<Mac> {
    match (&who.macs[..], &who.architectures[..], &who.vendor[..]) {
        ([mac], [], "") => mac.whole(),
        _ => None,
    }
}

impl RawMachine {
    /// What tells its machines from others.
    fn conditions(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        let lists = [("mac", &self.mac), ("architecture", &self.architecture)];
        let lists = lists.into_iter().filter_map(|(key, list)| Some((key, list.as_ref()?.0.first()?)));
        lists.chain(self.vendor.iter().map(|value| ("vendor", value)))
    }

    /// What is otherwise for them.
    fn settings(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        let values = [
            ("ignore", &self.ignore),
            ("image", &self.image),
            ("root", &self.root),
            ("copytoram", &self.copytoram),
            ("menu", &self.menu),
            ("address", &self.address),
        ];
        let lists = [("kernel-parameters", &self.kernel_parameters), ("quirks", &self.quirks)];
        let lists = lists.into_iter().filter_map(|(key, list)| Some((key, list.as_ref()?.0.first()?)));
        values.into_iter().filter_map(|(key, value)| Some((key, value.as_ref()?))).chain(lists)
    }
}

#[cfg(test)]
mod tests;
