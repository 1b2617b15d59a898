//! Rules for machines. Only the first rule that matches a machine applies.

use std::net::Ipv4Addr;
use std::sync::Arc;

use super::generated::{Recipient, RuleNumber};
use super::menu::{Overrides, Start};
use super::next::{NextBoot, NextBoots, TooManyError, UpcomingBoot};
use super::seed::SeedSettings;
use super::{Architecture, Client, Quirks};
use crate::mac::{Mac, MacPrefix};
use crate::text::{PlainPath, Word};

/// The machines that a rule is for: those that match every field.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ClientFilter {
    /// Empty for all.
    pub macs: Vec<MacPrefix>,
    /// Empty for all.
    pub architectures: Vec<Architecture>,
    /// Start of the vendor class; empty for all.
    pub vendor: String,
}

impl ClientFilter {
    /// Returns true if the filter matches a machine.
    pub(crate) fn fits(&self, client: &Client<'_>) -> bool {
        let mac = client.mac.is_some_and(|mac| self.macs.iter().any(|prefix| prefix.fits(mac)));
        let architecture = client.architecture.is_some_and(|own| self.architectures.contains(&own));
        (self.macs.is_empty() || mac)
            && (self.architectures.is_empty() || architecture)
            && client.vendor_class.starts_with(self.vendor.as_bytes())
    }

    /// Returns true if only MAC addresses count.
    pub(crate) fn is_by_mac(&self) -> bool {
        !self.macs.is_empty() && self.architectures.is_empty() && self.vendor.is_empty()
    }

    /// Returns the MAC address of the machine, if the filter matches only one.
    pub(crate) fn one_machine(&self) -> Option<Mac> {
        match (self.macs.as_slice(), self.architectures.as_slice(), self.vendor.as_str()) {
            // A shorter MAC address is a prefix, which several machines share.
            ([mac], [], "") => mac.whole(),
            _ => None,
        }
    }

    /// Returns true if the filter matches every machine that `other` matches.
    pub(crate) fn covers(&self, other: &ClientFilter) -> bool {
        covers_list(&self.macs, &other.macs, MacPrefix::covers)
            && covers_list(&self.architectures, &other.architectures, Architecture::eq)
            && other.vendor.starts_with(&self.vendor)
    }
}

/// Returns true if each of `theirs` is covered by one of `ours`. An empty list stands for all.
fn covers_list<T>(ours: &[T], theirs: &[T], covers: impl Fn(&T, &T) -> bool) -> bool {
    ours.is_empty()
        || (!theirs.is_empty() && theirs.iter().all(|theirs| ours.iter().any(|ours| covers(ours, theirs))))
}

/// The operator's choices for some machines.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Rule {
    pub who: ClientFilter,
    /// DHCP does not reply.
    pub is_ignored: bool,
    /// Name of the image that comes first.
    pub image: Option<Word>,
    pub overrides: Overrides,
    pub start: Start,
    pub quirks: Quirks,
    pub seed: SeedSettings,
    /// Host name in the seed of the one machine that this rule is for; `None` means its name.
    pub hostname: Option<Word>,
    /// The script that archiso fetches and runs, by its path among the operator's files.
    pub script: Option<PlainPath>,
    /// The script is for the one machine of this rule, once in each boot.
    pub is_secret: bool,
    /// Its machines boot from here once, and then from their local disk.
    pub is_once: bool,
    /// Name of the one machine that this rule is for: a host name.
    pub name: Option<Word>,
    /// Fixed address for the one machine that this rule is for.
    pub address: Option<Ipv4Addr>,
}

/// The rule that applies to a client, and the recipient of files generated for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Selection<'a> {
    pub rule: Option<&'a Rule>,
    pub recipient: Recipient,
}

impl Selection<'_> {
    /// Returns true for a client that gets no reply by DHCP.
    pub(crate) fn is_ignored(&self) -> bool {
        self.rule.is_some_and(|rule| rule.is_ignored)
    }
}

/// All rules, in the operator's order, and what machines boot next.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    rules: Vec<Rule>,
    /// A rule is for one boot.
    has_once: bool,
    /// The same in all copies.
    next: Arc<NextBoots>,
}

/// Compares the rules.
impl PartialEq for Rules {
    fn eq(&self, other: &Self) -> bool {
        self.rules == other.rules
    }
}

impl Eq for Rules {}

impl Rules {
    /// Most rules: every DHCP message may be matched against all of them.
    pub(crate) const MAX: usize = 4096;

    /// Creates a list of the first [`Rules::MAX`] rules.
    pub(crate) fn new(mut rules: Vec<Rule>) -> Self {
        rules.truncate(Self::MAX);
        Self { has_once: rules.iter().any(|rule| rule.is_once), rules, next: Arc::default() }
    }

    pub(crate) fn next(&self) -> &NextBoots {
        &self.next
    }

    /// Returns whether boots that are done change what machines boot next.
    pub(crate) fn depend_on_boots(&self) -> bool {
        self.has_once || !self.next.is_empty()
    }

    /// Notes what a machine boots next. Boots for which it asked before `now` do not count.
    ///
    /// # Errors
    /// [`TooManyError`]
    pub(crate) fn tell(&self, machine: Mac, boot: NextBoot, now: i64) -> Result<(), TooManyError> {
        self.next.tell(machine, boot, now, self.is_once(machine))
    }

    /// Notes that a boot is done for which a machine asked at this time. Returns true if it boots
    /// from its local disk from now on, and did not before.
    ///
    /// # Errors
    /// [`TooManyError`]
    pub(crate) fn finished(&self, machine: Mac, asked: i64) -> Result<bool, TooManyError> {
        self.next.finished(machine, asked, self.is_once(machine))
    }

    fn is_once(&self, machine: Mac) -> bool {
        self.has_once && self.find(&Client::with_mac(Some(machine))).is_some_and(|rule| rule.is_once)
    }

    /// Returns what a machine boots next, if that is another than always.
    pub(crate) fn upcoming(&self, machine: Mac) -> Option<UpcomingBoot> {
        let once = |image: Option<&Word>| UpcomingBoot::Once { image: image.map(Word::to_string) };
        match self.next.of(Some(machine)) {
            Some(NextBoot::Local) => Some(UpcomingBoot::LocalDisk),
            Some(NextBoot::Image(image)) => Some(once(Some(&image))),
            Some(NextBoot::Rule) | None if self.has_once => {
                let rule = self.find(&Client::with_mac(Some(machine)))?;
                rule.is_once.then(|| once(rule.image.as_ref()))
            }
            Some(NextBoot::Rule) | None => None,
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter()
    }

    /// Returns the rule for a client.
    pub(crate) fn find(&self, client: &Client<'_>) -> Option<&Rule> {
        self.rules.get(self.position(client)?)
    }

    /// Selects the rule for a client, and the recipient by which generated paths lead back to it.
    ///
    /// A path names the rule only where the MAC address alone would select another one.
    pub(crate) fn select(&self, client: &Client<'_>) -> Selection<'_> {
        let position = self.position(client);
        let by_mac = self.position(&Client::with_mac(client.mac));
        let named = position.filter(|_| position != by_mac);
        Selection {
            rule: position.and_then(|position| self.rules.get(position)),
            // At most MAX, so the cast keeps the value.
            recipient: Recipient {
                machine: client.mac,
                rule: named.map(|rule| RuleNumber(rule as u16)),
                image: None,
            },
        }
    }

    /// Returns the rule for the recipient of a generated file.
    pub(crate) fn for_recipient(&self, recipient: Recipient) -> Option<&Rule> {
        let by_number = recipient.rule.and_then(|RuleNumber(rule)| self.rules.get(usize::from(rule)));
        by_number.or_else(|| self.find(&Client::with_mac(recipient.machine)))
    }

    /// Returns the rule for a machine that asks for a file of the operator's. A number in the path
    /// counts only if the rule is for this MAC address.
    pub(crate) fn for_machine(&self, recipient: Recipient, mac: Option<Mac>) -> Option<&Rule> {
        let by_number = self.for_recipient(Recipient { machine: None, ..recipient });
        let fits = |rule: &&Rule| {
            rule.who.macs.is_empty()
                || rule.who.macs.iter().any(|prefix| mac.is_some_and(|mac| prefix.fits(mac)))
        };
        let named = by_number.filter(|_| recipient.rule.is_some()).filter(fits);
        named.or_else(|| self.find(&Client::with_mac(mac)))
    }

    /// Iterates over the machines that alone may have a file of the operator's; there are none for
    /// a file that is no secret.
    pub(crate) fn holders_of<'a>(&'a self, path: &'a str) -> impl Iterator<Item = Mac> + 'a {
        let secrets = self.iter().filter(|rule| rule.is_secret);
        let of_path =
            secrets.filter(move |rule| rule.script.as_ref().is_some_and(|own| own.as_str() == path));
        of_path.filter_map(|rule| rule.who.macs.first()?.whole())
    }

    /// Iterates over the names of single machines.
    pub(crate) fn names(&self) -> impl Iterator<Item = (Mac, &Word)> {
        self.iter().filter_map(|rule| Some((rule.who.macs.first()?.whole()?, rule.name.as_ref()?)))
    }

    /// Iterates over the fixed addresses of single machines.
    pub(crate) fn fixed_addresses(&self) -> impl Iterator<Item = (Mac, Ipv4Addr)> {
        self.iter().filter_map(|rule| Some((rule.who.macs.first()?.whole()?, rule.address?)))
    }

    fn position(&self, client: &Client<'_>) -> Option<usize> {
        self.rules.iter().position(|rule| rule.who.fits(client))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(macs: &[&str], architectures: &[u16], vendor: &str) -> ClientFilter {
        ClientFilter {
            macs: macs.iter().map(|mac| mac.parse().unwrap()).collect(),
            architectures: architectures.iter().map(|&number| Architecture(number)).collect(),
            vendor: vendor.into(),
        }
    }

    fn client(mac: &str, architecture: u16) -> Client<'static> {
        let architecture = Some(Architecture(architecture));
        let vendor_class = b"PXEClient:Arch:00007:UNDI:003001";
        Client { mac: mac.parse().ok(), architecture, vendor_class, ..Client::default() }
    }

    #[test]
    fn filter_needs_all_its_conditions() {
        let machine = client("52:54:00:12:34:56", 7);
        for fits in [
            who(&[], &[], ""),
            who(&["52:54:00:12:34:56"], &[], ""),
            who(&["00:11:22", "52:54"], &[0, 7], "PXEClient:Arch:00007"),
        ] {
            assert!(fits.fits(&machine), "{fits:?}");
        }
        for other in [
            who(&["52:54:00:12:34:57"], &[], ""),
            who(&["52:54"], &[0], ""),
            who(&["52:54"], &[7], "HTTPClient"),
        ] {
            assert!(!other.fits(&machine), "{other:?}");
        }
        assert!(!who(&["52:54"], &[], "").fits(&Client { mac: None, ..machine }));
    }

    #[test]
    fn secret_has_its_holders() {
        let secret = |mac: &str| Rule {
            who: who(&[mac], &[], ""),
            script: PlainPath::new("a.sh"),
            is_secret: true,
            ..Rule::default()
        };
        let open = Rule { is_secret: false, ..secret("52:54:00:00:00:03") };
        let rules = Rules::new(vec![secret("52:54:00:00:00:01"), secret("52:54:00:00:00:02"), open]);
        let holders: Vec<_> = rules.holders_of("a.sh").map(|mac| mac.to_string()).collect();
        assert_eq!(holders, ["52:54:00:00:00:01", "52:54:00:00:00:02"]);
        assert_eq!(rules.holders_of("b.sh").count(), 0);
    }

    #[test]
    fn upcoming_boot_is_another_than_always() {
        let mac = |mac: &str| mac.parse::<Mac>().unwrap();
        let (one, other) = (mac("52:54:00:00:00:01"), mac("52:54:00:00:00:02"));
        let image = Word::new("arch");
        let rules = Rules::new(vec![
            Rule { who: who(&["52:54:00:00:00:01"], &[], ""), is_once: true, image, ..Rule::default() },
            Rule { who: who(&["52:54:00:00:00:02"], &[], ""), ..Rule::default() },
        ]);
        let words = |mac| rules.upcoming(mac).map(|next| next.to_string());
        assert_eq!((words(one).as_deref(), words(other)), (Some("arch, once"), None));
        rules.finished(one, 100).unwrap();
        rules.tell(other, NextBoot::Image(Word::new("rescue").unwrap()), 100).unwrap();
        assert_eq!([words(one), words(other)].map(Option::unwrap), ["local disk", "rescue, once"]);
        rules.tell(one, NextBoot::Rule, 200).unwrap();
        rules.tell(other, NextBoot::Rule, 200).unwrap();
        assert_eq!((words(one).as_deref(), words(other)), (Some("arch, once"), None));
    }

    #[test]
    fn rule_in_the_path_of_another_machine_does_not_count() {
        let rule = |who| Rule { who, ..Rule::default() };
        let rules = Rules::new(vec![
            rule(who(&["52:54:00:00:00:01"], &[], "")),
            rule(who(&[], &[7], "")),
            rule(who(&["52:54"], &[], "")),
        ]);
        let found = |number, mac: &str| {
            let recipient = Recipient { rule: Some(RuleNumber(number)), ..Recipient::default() };
            rules.for_machine(recipient, mac.parse().ok()).map(|rule| rule.who.clone())
        };
        assert_eq!(found(0, "52:54:00:00:00:02"), Some(who(&["52:54"], &[], "")));
        assert_eq!(found(0, "52:54:00:00:00:01"), Some(who(&["52:54:00:00:00:01"], &[], "")));
        assert_eq!(found(1, "52:54:00:00:00:02"), Some(who(&[], &[7], "")), "by its architecture");
        assert_eq!(found(9, "00:11:22:00:00:02"), None);
    }

    #[test]
    fn filter_covers_narrower_filters() {
        let (site, one) = (who(&["52:54"], &[], ""), who(&["52:54:00:12:34:56"], &[], ""));
        assert!(site.covers(&one) && site.covers(&site) && !one.covers(&site));
        assert!(ClientFilter::default().covers(&site) && !site.covers(&ClientFilter::default()));
        let uefi = who(&["52:54"], &[7, 9], "");
        assert!(site.covers(&uefi) && !uefi.covers(&one));
        assert!(uefi.covers(&who(&["52:54:01"], &[9], "PXE")));
        assert!(!who(&[], &[], "PXE").covers(&who(&[], &[], "HTTP")));
    }

    #[test]
    fn first_matching_rule_counts() {
        let rule = |who| Rule { who, ..Rule::default() };
        let rules = Rules::new(vec![
            rule(who(&["52:54:00:00:00:01"], &[], "")),
            rule(who(&[], &[7], "")),
            rule(who(&["52:54"], &[], "")),
        ]);
        let found = |client: &Client<'_>| rules.position(client);
        let (first, uefi, bios) =
            (client("52:54:00:00:00:01", 7), client("52:54:00:00:00:02", 7), client("52:54:00:00:00:02", 0));
        assert_eq!([&first, &uefi, &bios].map(found), [Some(0), Some(1), Some(2)]);
        assert_eq!(found(&client("00:54:00:00:00:02", 0)), None);
        // Only what the MAC address does not tell is in the path, and there it says the same.
        assert_eq!(rules.select(&first).recipient.rule, None);
        assert_eq!(rules.select(&bios).recipient.rule, None);
        assert_eq!(rules.select(&uefi).recipient.rule, Some(RuleNumber(1)));
        for client in [&first, &uefi, &bios] {
            assert_eq!(rules.for_recipient(rules.select(client).recipient), rules.find(client));
        }
        let gone = Recipient { rule: Some(RuleNumber(9)), ..rules.select(&bios).recipient };
        assert_eq!(rules.for_recipient(gone), rules.find(&bios));
    }
}
