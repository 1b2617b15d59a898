//! Values as they were typed, each with the place where it was typed.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};
use toml::Spanned;

/// A value as it was typed. Numbers and booleans of the file are kept as text, so that one parser
/// reads a setting wherever it comes from.
#[derive(Debug, Clone)]
pub(super) struct RawValue {
    pub text: String,
    pub origin: ValueOrigin,
}

/// Source of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ValueOrigin {
    CommandLine,
    /// Configuration file, with the byte where the value starts.
    File(usize),
}

/// Takes an argument of the command line.
impl From<String> for RawValue {
    fn from(text: String) -> Self {
        Self { text, origin: ValueOrigin::CommandLine }
    }
}

impl<'de> Deserialize<'de> for RawValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // toml fills `Spanned` with byte positions; any other way to deserialize loses them.
        let spanned = Spanned::<Scalar>::deserialize(deserializer)?;
        let origin = ValueOrigin::File(spanned.span().start);
        Ok(Self { text: spanned.into_inner().0, origin })
    }
}

/// Reads a list, or a single value as a list of one.
pub(super) fn one_or_more<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<RawValue>>, D::Error> {
    let spanned = Spanned::<OneOrMore>::deserialize(deserializer)?;
    let origin = ValueOrigin::File(spanned.span().start);
    Ok(Some(match spanned.into_inner() {
        // A single value needs no brackets: `dns = "1.1.1.1"`.
        OneOrMore::One(Scalar(text)) => vec![RawValue { text, origin }],
        OneOrMore::More(values) => values,
    }))
}

/// Reads the networks of `allow`.
pub(super) fn networks<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<RawValue>>, D::Error> {
    let list = one_or_more(deserializer)?;
    // It would refuse all clients, though it reads as if it had no limit.
    if list.as_ref().is_some_and(Vec::is_empty) {
        return Err(de::Error::custom("allow: empty list admits nobody; name networks or remove the key"));
    }
    Ok(list)
}

enum OneOrMore {
    One(Scalar),
    More(Vec<RawValue>),
}

impl<'de> Deserialize<'de> for OneOrMore {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrMoreVisitor)
    }
}

struct OneOrMoreVisitor;

impl<'de> Visitor<'de> for OneOrMoreVisitor {
    type Value = OneOrMore;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list, a string, a number, true or false")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<OneOrMore, E> {
        ScalarVisitor.visit_str(text).map(OneOrMore::One)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<OneOrMore, E> {
        ScalarVisitor.visit_i64(number).map(OneOrMore::One)
    }

    fn visit_bool<E: de::Error>(self, truth: bool) -> Result<OneOrMore, E> {
        ScalarVisitor.visit_bool(truth).map(OneOrMore::One)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<OneOrMore, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element()? {
            values.push(value);
        }
        Ok(OneOrMore::More(values))
    }
}

/// A string, an integer or a boolean, as text.
struct Scalar(String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a number, true or false")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar(text.to_owned()))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Scalar, E> {
        Ok(Scalar(number.to_string()))
    }

    fn visit_bool<E: de::Error>(self, truth: bool) -> Result<Scalar, E> {
        Ok(Scalar(truth.to_string()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Scalar, A::Error> {
        // serde's own message would be "invalid type: sequence".
        Err(de::Error::custom("unexpected list; expected a single value"))
    }
}
