//! Settings as they were typed, each with the place it was typed at.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};
use toml::Spanned;

/// A value as it was typed. Numbers and truth values of the file are text here too, so that a setting
/// is read the same way wherever it comes from.
#[derive(Debug, Clone)]
pub(super) struct RawValue {
    pub text: String,
    pub origin: Origin,
}

/// The source of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    CommandLine,
    /// The configuration file, at this byte.
    File(usize),
}

/// An argument of the command line.
impl From<String> for RawValue {
    fn from(text: String) -> Self {
        Self { text, origin: Origin::CommandLine }
    }
}

impl<'de> Deserialize<'de> for RawValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Scalar>::deserialize(deserializer)?;
        let origin = Origin::File(spanned.span().start);
        Ok(Self { text: spanned.into_inner().0, origin })
    }
}

/// Reads a list, or a single value as a list of one.
pub(super) fn one_or_more<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<RawValue>>, D::Error> {
    let spanned = Spanned::<OneOrMore>::deserialize(deserializer)?;
    let origin = Origin::File(spanned.span().start);
    Ok(Some(match spanned.into_inner() {
        OneOrMore::One(Scalar(text)) => vec![RawValue { text, origin }],
        OneOrMore::More(values) => values,
    }))
}

/// Reads the networks of `allow`. An empty list would lock everybody out, and read as if it let
/// everybody in.
pub(super) fn networks<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<RawValue>>, D::Error> {
    let list = one_or_more(deserializer)?;
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

/// A string, a number or a truth value, as text.
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
        Err(de::Error::custom("unexpected list; expected a single value"))
    }
}
