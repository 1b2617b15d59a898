//! Rules for machines, from `[[machine]]`.

use std::net::Ipv4Addr;

use super::files::FilesConfig;
use super::raw::RawValue;
use super::{Checker, ConfigError, Dhcp, MachineOptions, RootServices, value};
use crate::boot::Rules;
use crate::boot::menu::Start;
use crate::boot::rules::{ClientFilter, Rule};
use crate::text::Word;

impl Checker<'_> {
    /// Checks all rules.
    ///
    /// `parameters` is the length of the longest kernel parameters that a machine has without them.
    pub(super) fn rules(
        &self,
        services: &RootServices,
        dhcp: &Dhcp,
        files: Option<&FilesConfig>,
        parameters: usize,
    ) -> Result<Rules, ConfigError> {
        let mut rules: Vec<Rule> = Vec::new();
        for options in &self.options.machine {
            let rule = self.rule(options, services, dhcp, files, parameters)?;
            // The first rule that matches counts, so one behind a wider rule would never be used.
            let before = rules.iter().position(|earlier| earlier.who.covers(&rule.who));
            if let Some(earlier) = before.and_then(|position| self.options.machine.get(position)) {
                return Err(self.never_reached(options, earlier));
            }
            // Two machines with one address would both lose their connections.
            if let Some(value) = &options.address
                && rules.iter().any(|other| other.address == rule.address)
            {
                return Err(self.wrong("address", value, "address of another machine; give each its own"));
            }
            if let Some(value) = &options.name
                && rules.iter().any(|other| other.name == rule.name)
            {
                return Err(self.wrong("name", value, "name of another machine; give each its own"));
            }
            rules.push(rule);
        }
        // Every DHCP message is compared with the rules.
        match self.options.machine.get(Rules::MAX) {
            Some(options) => {
                Err(self.wrong_rule(options, &format!("one too many; at most {} fit", Rules::MAX)))
            }
            None => Ok(Rules::new(rules)),
        }
    }

    fn rule(
        &self,
        options: &MachineOptions,
        services: &RootServices,
        dhcp: &Dhcp,
        files: Option<&FilesConfig>,
        parameters: usize,
    ) -> Result<Rule, ConfigError> {
        let filter = self.filter(options)?;
        let is_ignored = self.read("ignore", &options.ignore, value::truth)?.unwrap_or(false);
        let is_menu = self.read("menu", &options.menu, value::truth)?.unwrap_or(true);
        // A rule that does nothing is most likely unfinished.
        self.require_effect(options, is_ignored)?;
        let choices = (&options.root, &options.copytoram, &options.kernel_parameters);
        let script = self.script(options, &filter, files)?;
        Ok(Rule {
            is_ignored,
            script: script.path,
            is_secret: script.is_secret,
            is_once: self.once(options, &filter)?,
            image: self.read("image", &options.image, value::image_name)?,
            overrides: self.overrides(choices, services, parameters)?,
            start: if is_menu { Start::Menu } else { Start::Straight },
            quirks: self.read_all("quirks", &options.quirks, value::quirk)?.into_iter().collect(),
            address: self.fixed_address(options, &filter, dhcp)?,
            seed: self.seed(&options.ssh_keys, &options.user_data, services)?,
            hostname: self.hostname(options, &filter, services)?,
            name: self.name(options, &filter)?,
            who: filter,
        })
    }

    /// Returns the conditions of a rule, at least one.
    fn filter(&self, options: &MachineOptions) -> Result<ClientFilter, ConfigError> {
        let architectures = self.read_all("architecture", &options.architecture, value::architectures)?;
        let filter = ClientFilter {
            macs: self.read_all("mac", &options.mac, value::mac_prefix)?,
            architectures: architectures.into_iter().flatten().collect(),
            vendor: self.read("vendor", &options.vendor, value::vendor)?.unwrap_or_default(),
        };
        // A rule without conditions would be for all machines, which is what the other keys are
        // for.
        match filter == ClientFilter::default() {
            true => {
                Err(self.wrong_rule(options, "matches no machine; add `mac`, `architecture` or `vendor`"))
            }
            false => Ok(filter),
        }
    }

    /// Refuses a rule that changes nothing, and settings of ignored machines.
    fn require_effect(&self, options: &MachineOptions, is_ignored: bool) -> Result<(), ConfigError> {
        // An ignored machine has a name in `status`.
        let others = options.settings().find(|(key, _)| !matches!(*key, "ignore" | "name"));
        let is_empty = options.settings().all(|(key, _)| key == "ignore");
        match (is_ignored, others) {
            (true, Some((key, value))) => {
                Err(self.wrong(key, value, "has no effect on ignored machines; remove it or `ignore`"))
            }
            (false, None) if is_empty => {
                Err(self.wrong_rule(options, "changes nothing; add a setting, such as `image`"))
            }
            _ => Ok(()),
        }
    }

    /// Returns the address that our DHCP server leases to the machine of a rule.
    fn fixed_address(
        &self,
        options: &MachineOptions,
        filter: &ClientFilter,
        dhcp: &Dhcp,
    ) -> Result<Option<Ipv4Addr>, ConfigError> {
        let Some(address) = self.read("address", &options.address, value::host_address)? else {
            return Ok(None);
        };
        let why = match (filter.one_machine(), dhcp) {
            // Of several machines only one could have the address.
            (None, _) => Some(
                "needs a rule for one machine; give its whole MAC address and no other condition".to_owned(),
            ),
            // In proxy mode the addresses are another server's to give.
            (_, Dhcp::Off | Dhcp::Proxy(_)) => {
                Some("needs a DHCP server; add `dhcp-range` or remove it".to_owned())
            }
            (_, Dhcp::Server(_)) => self
                .allowed()?
                .first_refused(address, address)
                .map(|_| "not in `allow`; change one of them".to_owned()),
        };
        match (why, &options.address) {
            (Some(why), Some(value)) => Err(self.wrong("address", value, &why)),
            _ => Ok(Some(address)),
        }
    }

    /// Returns the name of the machine of a rule.
    fn name(&self, options: &MachineOptions, filter: &ClientFilter) -> Result<Option<Word>, ConfigError> {
        let name = self.read("name", &options.name, value::host_name)?;
        match (&name, &options.name, filter.one_machine()) {
            (Some(_), Some(value), None) => Err(self.wrong(
                "name",
                value,
                "needs a rule for one machine; give its whole MAC address and no other condition",
            )),
            _ => Ok(name),
        }
    }

    /// Returns whether the machines of a rule boot from here once.
    fn once(&self, options: &MachineOptions, filter: &ClientFilter) -> Result<bool, ConfigError> {
        let is_once = self.read("once", &options.once, value::truth)?.unwrap_or(false);
        match &options.once {
            // When a boot is done, only the MAC address is known.
            Some(value) if is_once && !filter.is_by_mac() => {
                Err(self.wrong("once", value, "needs a rule by `mac` alone; remove its other conditions"))
            }
            _ => Ok(is_once),
        }
    }

    fn never_reached(&self, options: &MachineOptions, earlier: &MachineOptions) -> ConfigError {
        let place = earlier.conditions().next().map(|(key, value)| self.place(key, value));
        let place = place.unwrap_or_default();
        self.wrong_rule(
            options,
            &format!(
                "is never reached: the rule at {place} matches the same machines; move it before that one"
            ),
        )
    }

    /// Returns an error about a rule as a whole.
    fn wrong_rule(&self, options: &MachineOptions, why: &str) -> ConfigError {
        match options.conditions().chain(options.settings()).next() {
            Some((key, value)) => {
                ConfigError::new(format!("{}: this [[machine]] {why}", self.place(key, value)))
            }
            // It has no value, so no place of it is known.
            None => ConfigError::new(format!("an empty [[machine]] {why}")),
        }
    }
}

impl MachineOptions {
    /// Returns the keys of conditions that were typed, each with a value.
    fn conditions(&self) -> impl Iterator<Item = (&'static str, &RawValue)> {
        let lists = [("mac", &self.mac), ("architecture", &self.architecture)];
        let lists = lists.into_iter().filter_map(|(key, list)| Some((key, list.as_ref()?.first()?)));
        lists.chain(self.vendor.iter().map(|value| ("vendor", value)))
    }

    /// Returns the keys of settings that were typed, each with a value.
    fn settings(&self) -> impl Iterator<Item = (&'static str, &RawValue)> {
        let values = [
            ("name", &self.name),
            ("ignore", &self.ignore),
            ("image", &self.image),
            ("root", &self.root),
            ("copytoram", &self.copytoram),
            ("menu", &self.menu),
            ("address", &self.address),
            ("hostname", &self.hostname),
            ("user-data", &self.user_data),
            ("script", &self.script),
            ("secret", &self.secret),
            ("once", &self.once),
        ];
        let lists = [
            ("kernel-parameters", &self.kernel_parameters),
            ("quirks", &self.quirks),
            ("ssh-keys", &self.ssh_keys),
        ];
        let lists = lists.into_iter().filter_map(|(key, list)| Some((key, list.as_ref()?.first()?)));
        values.into_iter().filter_map(|(key, value)| Some((key, value.as_ref()?))).chain(lists)
    }
}

#[cfg(test)]
mod tests;
