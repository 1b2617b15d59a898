//! The configuration file: its text, positions in it, and its unknown keys.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::value::Error as NoValue;
use serde::de::{Deserializer, Error as _, Visitor};
use serde::forward_to_deserialize_any;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::raw::{RawValue, ValueOrigin};
use super::{ConfigError, ImageOptions, MachineOptions, ServeOptions, ServerOptions, SubnetOptions, value};

/// Largest configuration file that is read, in bytes: a hundred for each of ten thousand machines.
const FILE_MAX: u64 = 1 << 20;

/// Similarity from which a key is suggested instead of an unknown one; clap uses the same.
const ALIKE: f64 = 0.7;

/// Text of the configuration file, which turns byte positions into lines.
#[derive(Debug)]
pub(super) struct ConfigFile {
    path: PathBuf,
    text: String,
}

impl ConfigFile {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// One line that says what is wrong, and where.
    pub(super) fn read(path: &Path) -> Result<(Self, ServeOptions), ConfigError> {
        let bytes = value::read(path, FILE_MAX);
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).map_err(|_| "not UTF-8 text".to_owned()));
        let text = text.map_err(|why| {
            let path = path.display().to_string();
            ConfigError::new(format!(
                "--config: `{}`: {why}; give a file like config.example.toml",
                path.escape_debug()
            ))
        })?;
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
        // Before serde, whose error lists every key there is and suggests none.
        self.check_keys(table.get_ref())?;
        ServeOptions::deserialize(toml::Deserializer::from(table)).map_err(|error| self.malformed(&error))
    }

    fn check_keys(&self, top: &DeTable<'_>) -> Result<(), ConfigError> {
        self.check_table(FileTable::Top, top)?;
        for (key, value) in top {
            let table = FileTable::ALL.into_iter().find(|table| table.key() == key.get_ref());
            // TOML 1.0, "Array of Tables": [[image]] adds a table to the array `image`.
            let (Some(table), DeValue::Array(entries)) = (table, value.get_ref()) else { continue };
            for entry in entries {
                if let DeValue::Table(entry) = entry.get_ref() {
                    self.check_table(table, entry)?;
                }
            }
        }
        Ok(())
    }

    fn check_table(&self, table: FileTable, entries: &DeTable<'_>) -> Result<(), ConfigError> {
        let keys = table.keys();
        match entries.keys().find(|key| !keys.contains(&key.get_ref().as_ref())) {
            Some(unknown) => Err(self.unknown(table, unknown)),
            None => Ok(()),
        }
    }

    fn unknown(&self, table: FileTable, key: &Spanned<impl AsRef<str>>) -> ConfigError {
        let place = self.place(key.span().start);
        let key = key.get_ref().as_ref();
        let advice = advice(table, key);
        ConfigError::new(format!("{place}: {}: unknown key{}; {advice}", key.escape_debug(), table.of()))
    }

    fn malformed(&self, error: &toml::de::Error) -> ConfigError {
        let place =
            error.span().map_or_else(|| self.path.display().to_string(), |span| self.place(span.start));
        // The message may have several lines and repeat unprintable input.
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

/// Returns the place where a value was typed: a line of the file, or an option.
pub(super) fn place(key: &str, value: &RawValue, file: Option<&ConfigFile>) -> String {
    match (value.origin, file) {
        (ValueOrigin::File(byte), Some(file)) => format!("{}: {key}", file.place(byte)),
        _ => format!("--{key}"),
    }
}

/// A kind of table in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileTable {
    /// Keys before the first header.
    Top,
    Subnet,
    Server,
    Image,
    Machine,
}

impl FileTable {
    pub(super) const ALL: [Self; 5] = [Self::Top, Self::Subnet, Self::Server, Self::Image, Self::Machine];

    /// Returns the key of its header.
    pub(super) const fn key(self) -> &'static str {
        match self {
            Self::Top => "",
            Self::Subnet => "subnet",
            Self::Server => "server",
            Self::Image => "image",
            Self::Machine => "machine",
        }
    }

    /// Returns its keys.
    pub(super) fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Top => field_names::<ServeOptions>(),
            Self::Subnet => field_names::<SubnetOptions>(),
            Self::Server => field_names::<ServerOptions>(),
            Self::Image => field_names::<ImageOptions>(),
            Self::Machine => field_names::<MachineOptions>(),
        }
    }

    fn of(self) -> String {
        match self {
            Self::Top => String::new(),
            Self::Subnet | Self::Server | Self::Image | Self::Machine => format!(" in [[{}]]", self.key()),
        }
    }
}

/// Returns advice on an unknown key of a table.
fn advice(table: FileTable, key: &str) -> String {
    let elsewhere = FileTable::ALL.into_iter().find(|other| other.keys().contains(&key));
    let ranked = table.keys().iter().map(|known| (strsim::jaro_winkler(key, known), known));
    let nearest = ranked.max_by(|(one, _), (other, _)| one.total_cmp(other));
    match (elsewhere, nearest) {
        // TOML gives all keys after a header to the table of that header.
        (Some(FileTable::Top), _) => "move it before the first [[...]]".to_owned(),
        (Some(other), _) => format!("move it below [[{}]]", other.key()),
        (None, Some((similarity, nearest))) if similarity > ALIKE => format!("did you mean `{nearest}`?"),
        (None, _) => "see config.example.toml for all keys".to_owned(),
    }
}

/// Returns the names of a struct's fields as serde knows them, so that no list repeats them.
fn field_names<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut names: &'static [&'static str] = &[];
    // The derived implementation passes the names to `deserialize_struct`, which stops there.
    let _ = T::deserialize(FieldNames(&mut names));
    names
}

/// A deserializer without a value, which stores the names of the requested fields.
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
