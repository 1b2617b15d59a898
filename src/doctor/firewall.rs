//! Rules of nftables, as `nft --json list ruleset` prints them (libnftables-json(5)): does a datagram
//! of a machine reach this host?
//!
//! A rule is evaluated for the first packet of a machine. Some conditions depend on what is not known
//! here, such as its address; then both outcomes are followed.

use std::collections::HashMap;

use serde_json::Value;

/// Deepest jump from chain to chain; the kernel has the same limit (`NFT_JUMP_STACK_SIZE`).
const JUMPS_MAX: u32 = 16;

/// Protocol above IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// Returns its number in an IP header.
    const fn number(self) -> u64 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// First packet of a machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet<'a> {
    pub(super) interface: &'a str,
    pub(super) transport: Transport,
    pub(super) port: u16,
}

/// Fate of a packet, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    Accepted,
    /// It depends on what is not known here.
    Unknown,
    Dropped,
}

impl Fate {
    /// Returns the fate if this one and another are possible.
    fn or(self, other: Self) -> Self {
        if self == other { self } else { Self::Unknown }
    }
}

/// Name of a chain, a set or a map.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) family: String,
    pub(super) table: String,
    pub(super) name: String,
}

/// A chain that the kernel calls for packets to this host.
#[derive(Debug)]
struct BaseChain {
    place: Place,
    policy: Fate,
}

/// Program that manages the rules, so that others would not last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manager {
    Nobody,
    Firewalld,
    Ufw,
}

/// Rules that decide on packets to this host.
#[derive(Debug, Default)]
pub(super) struct Ruleset {
    base_chains: Vec<BaseChain>,
    chains: Vec<Place>,
    /// Expressions of each rule, by the chain.
    rules: HashMap<Place, Vec<Vec<Value>>>,
    /// Elements of sets and maps.
    sets: HashMap<Place, Vec<Value>>,
}

impl Ruleset {
    /// Parses the output of `nft --json list ruleset`.
    ///
    /// # Errors
    /// The error of a text that is not JSON.
    pub(super) fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        let output: Value = serde_json::from_slice(json)?;
        let mut ruleset = Self::default();
        for object in output.get("nftables").and_then(Value::as_array).into_iter().flatten() {
            ruleset.add(object);
        }
        Ok(ruleset)
    }

    fn add(&mut self, object: &Value) {
        let named = |kind: &str, name: &str| {
            let value = object.get(kind)?;
            Some((value, place(value, name)?))
        };
        if let Some((chain, place)) = named("chain", "name") {
            self.base_chains.extend(base_chain(chain, &place));
            self.chains.push(place);
        } else if let Some((rule, place)) = named("rule", "chain") {
            self.rules.entry(place).or_default().push(list(rule, "expr"));
        } else if let Some((set, place)) = named("set", "name").or_else(|| named("map", "name")) {
            self.sets.insert(place, list(set, "elem"));
        }
    }

    /// Returns the fate of a packet, and the chain that drops it or may do so.
    pub(super) fn fate(&self, packet: Packet<'_>) -> (Fate, Option<&Place>) {
        let mut fate = (Fate::Accepted, None);
        // Each of them has to accept the packet.
        for BaseChain { place, policy } in &self.base_chains {
            match self.walk(place, packet, *policy, JUMPS_MAX) {
                Fate::Accepted => {}
                Fate::Dropped => return (Fate::Dropped, Some(place)),
                Fate::Unknown => fate = (Fate::Unknown, Some(place)),
            }
        }
        fate
    }

    pub(super) fn manager(&self) -> Manager {
        if self.chains.iter().any(|chain| chain.table == "firewalld") {
            Manager::Firewalld
        } else if self.chains.iter().any(|chain| chain.name.starts_with("ufw-")) {
            Manager::Ufw
        } else {
            Manager::Nobody
        }
    }

    /// Follows a chain. `end` is the fate of a packet on which it does not decide.
    fn walk(&self, chain: &Place, packet: Packet<'_>, end: Fate, jumps: u32) -> Fate {
        let Some(jumps) = jumps.checked_sub(1) else { return Fate::Unknown };
        let walk = Walk { ruleset: self, chain, packet, end, jumps };
        // From the last rule to the first: each knows the fate of the packets that it passes on.
        let rules = self.rules.get(chain).into_iter().flatten().rev();
        rules.fold(end, |rest, rule| walk.rule(rule, rest))
    }
}

/// One chain, followed for one packet.
struct Walk<'a> {
    ruleset: &'a Ruleset,
    chain: &'a Place,
    packet: Packet<'a>,
    end: Fate,
    jumps: u32,
}

/// Result of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Match {
    Yes,
    No,
    Maybe,
}

/// The part of a packet that a condition is about.
enum Subject<'a> {
    Number(u64),
    Word(&'a str),
    Interface(&'a str),
    Protocol(Transport),
    /// A part that this packet does not have.
    Absent,
    Unknown,
}

impl Walk<'_> {
    /// Returns the fate by this rule. `rest` is that by the rules behind it.
    fn rule(&self, expressions: &[Value], rest: Fate) -> Fate {
        expressions.iter().rev().fold(rest, |fate, expression| self.expression(expression, fate, rest))
    }

    /// Returns the fate by an expression. `fate` is that by the expressions behind it.
    fn expression(&self, expression: &Value, fate: Fate, rest: Fate) -> Fate {
        let Some((kind, value)) = expression.as_object().and_then(|object| object.iter().next()) else {
            return Fate::Unknown;
        };
        match kind.as_str() {
            "match" => decide(self.condition(value), fate, rest),
            "vmap" => self.verdict_map(value, rest),
            // They change nothing about the fate.
            "counter" | "log" | "mangle" | "notrack" | "set" | "ct helper" | "ct timeout" => fate,
            // They match some packets, by their rate or number.
            "limit" | "quota" | "ct count" => fate.or(rest),
            _ => self.verdict(expression, rest).unwrap_or(Fate::Unknown),
        }
    }

    fn verdict(&self, verdict: &Value, rest: Fate) -> Option<Fate> {
        let (kind, value) = verdict.as_object()?.iter().next()?;
        match kind.as_str() {
            "accept" => Some(Fate::Accepted),
            "drop" | "reject" => Some(Fate::Dropped),
            "continue" => Some(rest),
            "return" => Some(self.end),
            "jump" => self.follow(value, rest),
            "goto" => self.follow(value, self.end),
            _ => None,
        }
    }

    fn follow(&self, target: &Value, end: Fate) -> Option<Fate> {
        let chain = self.place(target.get("target")?.as_str()?);
        Some(self.ruleset.walk(&chain, self.packet, end, self.jumps))
    }

    /// Returns the fate by a map from values to verdicts.
    fn verdict_map(&self, map: &Value, rest: Fate) -> Fate {
        let subject = map.get("key").map_or(Subject::Unknown, |key| self.subject(key));
        let Some(entries) = map.get("data").and_then(|data| self.elements(data)) else {
            return Fate::Unknown;
        };
        entries.iter().rev().fold(rest, |fate, entry| {
            let Some((key, verdict)) = entry.get(0).zip(entry.get(1)) else { return Fate::Unknown };
            let verdict = self.verdict(verdict, rest).unwrap_or(Fate::Unknown);
            decide(self.is_in(&subject, key), verdict, fate)
        })
    }

    fn condition(&self, condition: &Value) -> Match {
        let (Some(left), Some(right)) = (condition.get("left"), condition.get("right")) else {
            return Match::Maybe;
        };
        let subject = self.subject(left);
        // A condition on a part that the packet lacks never holds, whatever the comparison.
        if matches!(subject, Subject::Absent) {
            return Match::No;
        }
        match condition.get("op").and_then(Value::as_str) {
            Some("==" | "in") => self.is_in(&subject, right),
            Some("!=") => match self.is_in(&subject, right) {
                Match::Yes => Match::No,
                Match::No => Match::Yes,
                Match::Maybe => Match::Maybe,
            },
            _ => Match::Maybe,
        }
    }

    fn subject(&self, left: &Value) -> Subject<'_> {
        let word = |kind: &str, field: &str| left.get(kind)?.get(field)?.as_str();
        let Packet { interface, transport, port } = self.packet;
        match (word("meta", "key"), word("payload", "protocol"), word("payload", "field")) {
            (Some("iif" | "iifname"), ..) => Subject::Interface(interface),
            (Some("l4proto"), ..) | (_, Some("ip"), Some("protocol")) => Subject::Protocol(transport),
            (Some("protocol"), ..) => Subject::Word("ip"),
            (Some("nfproto"), ..) => Subject::Word("ipv4"),
            (_, Some("th"), Some("dport")) => Subject::Number(port.into()),
            (_, Some(protocol), Some("dport")) if protocol == transport.word() => {
                Subject::Number(port.into())
            }
            (_, Some("th" | "ip" | "ether"), _) => Subject::Unknown,
            (_, Some(protocol), _) if protocol == transport.word() => Subject::Unknown,
            (_, Some(_), _) => Subject::Absent,
            _ if word("ct", "key") == Some("state") => Subject::Word("new"),
            _ => Subject::Unknown,
        }
    }

    /// Returns whether a part of the packet is a value, or one of several.
    fn is_in(&self, subject: &Subject<'_>, right: &Value) -> Match {
        if let Some(elements) = self.elements(right) {
            let matches = elements.iter().map(|element| self.is_in(subject, element));
            return matches.fold(Match::No, any);
        }
        if let Some(value) = right.get("elem").and_then(|element| element.get("val")) {
            return self.is_in(subject, value);
        }
        match (subject, right) {
            (Subject::Number(number), right) => number_is(*number, right),
            (Subject::Protocol(transport), Value::Number(_)) => number_is(transport.number(), right),
            (Subject::Protocol(transport), Value::String(word)) => certain(word == transport.word()),
            (Subject::Word(word), Value::String(value)) => certain(word == value),
            (Subject::Interface(name), Value::String(value)) => certain(match value.strip_suffix('*') {
                Some(beginning) => name.starts_with(beginning),
                None => name == value,
            }),
            (Subject::Absent, _) => Match::No,
            _ => Match::Maybe,
        }
    }

    /// Returns the elements of a list, or of a set or map; `None` for a single value.
    fn elements<'v>(&'v self, value: &'v Value) -> Option<&'v [Value]> {
        match value {
            Value::Array(list) => Some(list),
            Value::Object(object) => object.get("set")?.as_array().map(Vec::as_slice),
            Value::String(name) => {
                let place = self.place(name.strip_prefix('@')?);
                self.ruleset.sets.get(&place).map(Vec::as_slice)
            }
            _ => None,
        }
    }

    fn place(&self, name: &str) -> Place {
        Place { name: name.to_owned(), ..self.chain.clone() }
    }
}

/// Returns the fate of a packet that meets a condition, or does not.
fn decide(condition: Match, met: Fate, not_met: Fate) -> Fate {
    match condition {
        Match::Yes => met,
        Match::No => not_met,
        Match::Maybe => met.or(not_met),
    }
}

fn any(one: Match, other: Match) -> Match {
    match (one, other) {
        (Match::Yes, _) | (_, Match::Yes) => Match::Yes,
        (Match::Maybe, _) | (_, Match::Maybe) => Match::Maybe,
        (Match::No, Match::No) => Match::No,
    }
}

fn certain(is_met: bool) -> Match {
    if is_met { Match::Yes } else { Match::No }
}

fn number_is(number: u64, right: &Value) -> Match {
    if let Some(value) = right.as_u64() {
        return certain(number == value);
    }
    let bound = |position| right.get("range")?.get(position)?.as_u64();
    match (bound(0), bound(1)) {
        (Some(first), Some(last)) => certain((first..=last).contains(&number)),
        // Names of ports, and masks.
        _ => Match::Maybe,
    }
}

/// Returns the chain if the kernel calls it for packets to this host, over IPv4.
fn base_chain(chain: &Value, place: &Place) -> Option<BaseChain> {
    let word = |field| chain.get(field).and_then(Value::as_str);
    let is_called = matches!(word("hook")?, "input" | "prerouting") && word("type")? == "filter";
    let is_ipv4 = matches!(place.family.as_str(), "ip" | "inet");
    let policy = if word("policy") == Some("drop") { Fate::Dropped } else { Fate::Accepted };
    (is_called && is_ipv4).then(|| BaseChain { place: place.clone(), policy })
}

fn place(object: &Value, name: &str) -> Option<Place> {
    let word = |field| Some(object.get(field)?.as_str()?.to_owned());
    Some(Place { family: word("family")?, table: word("table")?, name: word(name)? })
}

fn list(object: &Value, field: &str) -> Vec<Value> {
    object.get(field).and_then(Value::as_array).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Output of nftables 1.0.6 for a table with the policy `drop`.
    const RULESET: &[u8] =
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/nft/ruleset.json"));

    fn fate(json: &[u8], interface: &str, transport: Transport, port: u16) -> Fate {
        Ruleset::parse(json).unwrap().fate(Packet { interface, transport, port }).0
    }

    #[test]
    fn packet_is_followed_through_chains_sets_and_maps() {
        use Fate::{Accepted, Dropped, Unknown};
        use Transport::{Tcp, Udp};
        for (interface, transport, port, expected) in [
            ("eth0", Tcp, 80, Accepted),
            ("eth0", Udp, 80, Dropped),
            ("eth0", Udp, 60500, Accepted),
            ("eth0", Udp, 4011, Accepted),
            ("eth1", Udp, 4011, Dropped),
            ("eth0", Tcp, 2049, Unknown),
            ("eth1", Tcp, 2049, Dropped),
            ("eth0", Tcp, 10809, Dropped),
            ("eth1", Tcp, 10809, Accepted),
            ("wan0", Tcp, 10809, Dropped),
            ("eth0", Tcp, 7, Unknown),
            ("eth0", Tcp, 99, Dropped),
            ("eth0", Udp, 69, Unknown),
        ] {
            assert_eq!(
                fate(RULESET, interface, transport, port),
                expected,
                "{interface} {transport:?} {port}"
            );
        }
    }

    #[test]
    fn host_without_rules_is_open() {
        for json in [r#"{"nftables": [{"metainfo": {"version": "1.0.6"}}]}"#, "{}"] {
            assert_eq!(fate(json.as_bytes(), "eth0", Transport::Udp, 69), Fate::Accepted);
        }
        assert!(Ruleset::parse(b"table inet filter {").is_err());
    }

    #[test]
    fn endless_jumps_end() {
        let json = br#"{"nftables": [
            {"chain": {"family": "ip", "table": "t", "name": "a", "type": "filter", "hook": "input"}},
            {"rule": {"family": "ip", "table": "t", "chain": "a", "expr": [{"jump": {"target": "a"}}]}}]}"#;
        assert_eq!(fate(json, "eth0", Transport::Udp, 69), Fate::Unknown);
    }

    #[test]
    fn manager_is_known_by_its_chains() {
        let manager = |table: &str, name: &str| {
            let chain = format!(
                r#"{{"nftables": [{{"chain": {{"family": "inet", "table": "{table}", "name": "{name}"}}}}]}}"#
            );
            Ruleset::parse(chain.as_bytes()).unwrap().manager()
        };
        assert_eq!(manager("firewalld", "filter_INPUT"), Manager::Firewalld);
        assert_eq!(manager("filter", "ufw-user-input"), Manager::Ufw);
        assert_eq!(manager("filter", "input"), Manager::Nobody);
    }
}
