//! The configuration file: its text, its lines, and keys that it may not have.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::value::Error as NoValue;
use serde::de::{Deserializer, Error as _, Visitor};
use serde::forward_to_deserialize_any;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::raw::{Origin, RawValue};
use super::{ConfigError, ImageOptions, MachineOptions, ServeOptions};

/// How alike two keys are, from 0 to 1, for one to be suggested in place of the other; as in clap.
const ALIKE: f64 = 0.7;

/// The text of the configuration file, to tell lines from bytes.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    text: String,
}

impl File {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// One line that says what is wrong, and where.
    pub(super) fn read(path: &Path) -> Result<(Self, ServeOptions), ConfigError> {
        let text = fs::read_to_string(path)
            .map_err(|error| ConfigError::new(format!("{}: cannot be read: {error}", path.display())))?;
        Self::parse(path, text)
    }

    /// Parses `text`, the content of the configuration file at `path`.
    ///
    /// # Errors
    /// Those of [`read`](Self::read).
    pub(super) fn parse(path: &Path, text: String) -> Result<(Self, ServeOptions), ConfigError> {
        let file = Self { path: path.to_owned(), text };
        let options = file.options()?;
        Ok((file, options))
    }

    fn options(&self) -> Result<ServeOptions, ConfigError> {
        let table = DeTable::parse(&self.text).map_err(|error| self.malformed(&error))?;
        self.check_keys(table.get_ref())?;
        ServeOptions::deserialize(toml::Deserializer::from(table)).map_err(|error| self.malformed(&error))
    }

    fn check_keys(&self, top: &DeTable<'_>) -> Result<(), ConfigError> {
        self.check_table(Table::Top, top)?;
        for (key, value) in top {
            let table = Table::ALL.into_iter().find(|table| table.key() == key.get_ref());
            let (Some(table), DeValue::Array(entries)) = (table, value.get_ref()) else { continue };
            for entry in entries {
                if let DeValue::Table(entry) = entry.get_ref() {
                    self.check_table(table, entry)?;
                }
            }
        }
        Ok(())
    }

    fn check_table(&self, table: Table, entries: &DeTable<'_>) -> Result<(), ConfigError> {
        let known = table.keys();
        match entries.keys().find(|key| !known.iter().any(|known| *known == key.get_ref().as_ref())) {
            Some(unknown) => Err(self.unknown(table, unknown)),
            None => Ok(()),
        }
    }

    fn unknown(&self, table: Table, key: &Spanned<impl AsRef<str>>) -> ConfigError {
        let place = self.place(key.span().start);
        let key = key.get_ref().as_ref();
        let advice = advice(table, key);
        ConfigError::new(format!("{place}: {}: unknown key{}; {advice}", key.escape_debug(), table.of()))
    }

    fn malformed(&self, error: &toml::de::Error) -> ConfigError {
        let place =
            error.span().map_or_else(|| self.path.display().to_string(), |span| self.place(span.start));
        // serde lists what it expected, over several lines at times, and repeats unprintable input.
        let words = error.message().split(|c: char| c.is_whitespace() || c.is_control());
        let message = words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
        ConfigError::new(format!("{place}: {message}"))
    }

    fn place(&self, byte: usize) -> String {
        let before = self.text.bytes().take(byte).filter(|&b| b == b'\n').count();
        format!("{}:{}", self.path.display(), before + 1)
    }

    /// Resolves a path of the file, which is relative to the file's directory.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(path)
    }
}

/// Says where a value was typed.
pub(super) fn place(key: &str, value: &RawValue, file: Option<&File>) -> String {
    match (value.origin, file) {
        (Origin::File(byte), Some(file)) => format!("{}: {key}", file.place(byte)),
        _ => format!("--{key}"),
    }
}

/// A kind of table in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    /// Keys before the first header.
    Top,
    Image,
    Machine,
}

impl Table {
    pub(super) const ALL: [Self; 3] = [Self::Top, Self::Image, Self::Machine];

    /// Returns the key of its header.
    pub(super) const fn key(self) -> &'static str {
        match self {
            Self::Top => "",
            Self::Image => "image",
            Self::Machine => "machine",
        }
    }

    /// Returns the keys that serde knows in it.
    pub(super) fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Top => field_names::<ServeOptions>(),
            Self::Image => field_names::<ImageOptions>(),
            Self::Machine => field_names::<MachineOptions>(),
        }
    }

    fn of(self) -> String {
        match self {
            Self::Top => String::new(),
            Self::Image | Self::Machine => format!(" in [[{}]]", self.key()),
        }
    }
}

/// Says what to write instead of an unknown key of a table.
fn advice(table: Table, key: &str) -> String {
    let similarity = |known: &&&str| strsim::jaro_winkler(key, known);
    let nearest = table.keys().iter().max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
    let elsewhere = Table::ALL.into_iter().find(|other| other.keys().contains(&key));
    match (nearest, elsewhere) {
        // TOML gives all keys after a header to the table of that header.
        (_, Some(Table::Top)) => "move it before the first [[...]]".to_owned(),
        (_, Some(other)) => format!("move it below [[{}]]", other.key()),
        (Some(nearest), None) if similarity(&nearest) > ALIKE => format!("did you mean `{nearest}`?"),
        _ => "see config.example.toml for all keys".to_owned(),
    }
}

/// Returns the fields of a struct by the names that its `Deserialize` takes them by.
fn field_names<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut names: &'static [&'static str] = &[];
    // It fails as soon as it has the names.
    let _ = T::deserialize(FieldNames(&mut names));
    names
}

/// A deserializer without a value: it only takes the names of the fields that it is asked for.
struct FieldNames<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for FieldNames<'_> {
    type Error = NoValue;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, NoValue> {
        *self.0 = fields;
        Err(NoValue::custom("no value"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, NoValue> {
        Err(NoValue::custom("not a struct"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
