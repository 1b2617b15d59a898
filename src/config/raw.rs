//! Settings as they were typed, each with the place it was typed at.

use std::fs;
use std::path::{Path, PathBuf};

use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};
use toml::Spanned;

use super::Wrong;
use crate::cli;

/// A value as it was typed. Numbers and truth values of the file are text here too, so that a setting is read the same
/// way wherever it comes from.
#[derive(Debug, Clone)]
pub struct Value {
    pub text: String,
    /// Byte of the file it starts at; `None` for one from the command line.
    at: Option<usize>,
}

impl Value {
    pub const fn is_of_file(&self) -> bool {
        self.at.is_some()
    }
}

/// The keys of the configuration file; the command line has some of them as options.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawConfig {
    pub interface: Option<Value>,
    pub bind: Option<Value>,
    #[serde(deserialize_with = "networks")]
    pub allow: Option<List>,
    pub advertise: Option<Value>,
    pub nbd: Option<Value>,
    pub nfs: Option<Value>,
    pub portmap: Option<Value>,
    pub http: Option<Value>,
    pub tftp: Option<Value>,
    pub tftp_single_port: Option<Value>,
    pub dhcp: Option<Value>,
    pub dhcp_range: Option<Value>,
    pub netmask: Option<Value>,
    pub router: Option<Value>,
    pub dns: Option<List>,
    pub lease_time: Option<Value>,
    pub lease_file: Option<Value>,
    pub router_advertisement: Option<Value>,
    pub root: Option<Value>,
    pub copytoram: Option<Value>,
    pub menu_timeout: Option<Value>,
    pub cms_verify: Option<Value>,
    pub kernel_parameters: Option<List>,
    pub uefi: Option<Value>,
    pub ipxe: Option<Value>,
    pub stub: Option<Value>,
    pub status: Option<Value>,
    pub log_format: Option<Value>,
    pub image: Vec<RawImage>,
    pub machine: Vec<RawMachine>,
}

/// One `[[image]]`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawImage {
    pub path: Value,
    #[serde(default)]
    pub name: Option<Value>,
    #[serde(default)]
    pub default: Option<Value>,
    #[serde(default)]
    pub root: Option<Value>,
    #[serde(default)]
    pub copytoram: Option<Value>,
    #[serde(default)]
    pub kernel_parameters: Option<List>,
}

/// One `[[machine]]`.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawMachine {
    pub mac: Option<List>,
    pub architecture: Option<List>,
    pub vendor: Option<Value>,
    pub ignore: Option<Value>,
    pub image: Option<Value>,
    pub root: Option<Value>,
    pub copytoram: Option<Value>,
    pub kernel_parameters: Option<List>,
    pub menu: Option<Value>,
    pub address: Option<Value>,
    pub quirks: Option<List>,
}

/// Several values, or a single one.
#[derive(Debug, Clone, Default)]
pub struct List(pub Vec<Value>);

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Scalar>::deserialize(deserializer)?;
        let at = Some(spanned.span().start);
        Ok(Self { text: spanned.into_inner().0, at })
    }
}

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<OneOrMore>::deserialize(deserializer)?;
        let at = Some(spanned.span().start);
        Ok(Self(match spanned.into_inner() {
            OneOrMore::One(Scalar(text)) => vec![Value { text, at }],
            OneOrMore::More(values) => values,
        }))
    }
}

enum OneOrMore {
    One(Scalar),
    More(Vec<Value>),
}

impl<'de> Deserialize<'de> for OneOrMore {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrMoreVisitor)
    }
}

struct OneOrMoreVisitor;

impl<'de> Visitor<'de> for OneOrMoreVisitor {
    type Value = OneOrMore;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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

/// An empty list would lock everybody out, and read as if it let everybody in.
fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<List>, D::Error> {
    let list = List::deserialize(deserializer)?;
    if list.0.is_empty() {
        return Err(de::Error::custom("nobody could come: name the networks that may, or leave it out"));
    }
    Ok(Some(list))
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

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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
        Err(de::Error::custom("one value is wanted here, not a list"))
    }
}

/// The configuration file, to tell lines from bytes.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    text: String,
}

impl File {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// One line that says what is wrong, and where.
    pub fn read(path: &Path) -> Result<(Self, RawConfig), Wrong> {
        let text = fs::read_to_string(path)
            .map_err(|error| Wrong::new(format!("{}: cannot be read: {error}", path.display())))?;
        Self::parse(path, text)
    }

    /// Reads the text of the configuration file at `path`.
    ///
    /// # Errors
    /// As those of [`read`](Self::read).
    pub fn parse(path: &Path, text: String) -> Result<(Self, RawConfig), Wrong> {
        let file = File { path: path.to_owned(), text };
        let raw = toml::from_str(&file.text).map_err(|error| file.malformed(&error))?;
        Ok((file, raw))
    }

    fn malformed(&self, error: &toml::de::Error) -> Wrong {
        let place =
            error.span().map_or_else(|| self.path.display().to_string(), |span| self.place(span.start));
        // serde lists what it expected, over several lines at times, and repeats what was typed, be it printable or not.
        let is_gap = |c: char| c.is_whitespace() || c.is_control();
        let words = error.message().split(is_gap).filter(|word| !word.is_empty());
        let message = words.collect::<Vec<_>>().join(" ");
        Wrong::new(format!("{place}: {message}"))
    }

    fn place(&self, byte: usize) -> String {
        let before = self.text.bytes().take(byte).filter(|&b| b == b'\n').count();
        format!("{}:{}", self.path.display(), before + 1)
    }

    /// Paths in the file are relative to the directory it is in.
    pub fn resolve(&self, path: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(path)
    }
}

/// Where a value was typed, in words.
pub fn place(key: &str, value: &Value, file: Option<&File>) -> String {
    match (value.at, file) {
        (Some(byte), Some(file)) => format!("{}: {key}", file.place(byte)),
        _ => format!("--{key}"),
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self { text: text.to_owned(), at: None }
    }
}

impl RawConfig {
    /// These settings, and `file`'s where there are none.
    pub fn or(self, file: RawConfig) -> RawConfig {
        RawConfig {
            interface: self.interface.or(file.interface),
            bind: self.bind.or(file.bind),
            allow: self.allow.or(file.allow),
            advertise: self.advertise.or(file.advertise),
            nbd: self.nbd.or(file.nbd),
            nfs: self.nfs.or(file.nfs),
            portmap: self.portmap.or(file.portmap),
            http: self.http.or(file.http),
            tftp: self.tftp.or(file.tftp),
            tftp_single_port: self.tftp_single_port.or(file.tftp_single_port),
            dhcp: self.dhcp.or(file.dhcp),
            dhcp_range: self.dhcp_range.or(file.dhcp_range),
            router_advertisement: self.router_advertisement.or(file.router_advertisement),
            root: self.root.or(file.root),
            copytoram: self.copytoram.or(file.copytoram),
            menu_timeout: self.menu_timeout.or(file.menu_timeout),
            uefi: self.uefi.or(file.uefi),
            ipxe: self.ipxe.or(file.ipxe),
            stub: self.stub.or(file.stub),
            status: self.status.or(file.status),
            log_format: self.log_format.or(file.log_format),
            ..file
        }
    }
}

impl From<&cli::Serve> for RawConfig {
    fn from(serve: &cli::Serve) -> Self {
        let value = |option: &Option<String>| option.as_deref().map(Value::from);
        let values = |options: &[String]| options.iter().map(|option| Value::from(&option[..])).collect();
        RawConfig {
            interface: value(&serve.interface),
            bind: value(&serve.bind),
            allow: (!serve.allow.is_empty()).then(|| List(values(&serve.allow))),
            advertise: value(&serve.advertise),
            nbd: value(&serve.nbd),
            nfs: value(&serve.nfs),
            portmap: value(&serve.portmap),
            http: value(&serve.http),
            tftp: value(&serve.tftp),
            tftp_single_port: serve.tftp_single_port.then(|| Value::from("true")),
            dhcp: value(&serve.dhcp),
            dhcp_range: value(&serve.dhcp_range),
            router_advertisement: serve.router_advertisement.then(|| Value::from("true")),
            root: value(&serve.root),
            copytoram: value(&serve.copytoram),
            menu_timeout: value(&serve.menu_timeout),
            uefi: value(&serve.uefi),
            ipxe: value(&serve.ipxe),
            stub: value(&serve.stub),
            status: value(&serve.status),
            log_format: value(&serve.log_format),
            ..RawConfig::default()
        }
    }
}
