//! Seeds of cloud-init: the four files of its data source NoCloud (cloud-init, doc/rtd/reference/
//! datasources/nocloud.rst), made for each machine. archiso's releng images start cloud-init.

use std::sync::Arc;

use jiff::Timestamp;

use super::file::Version;
use crate::mac::Mac;
use crate::text::Word;

/// Directory of a seed's files.
pub(super) const DIRECTORY: &str = "seed";

/// Longest user data in bytes: as much as a connection of HTTP queues at once.
pub(crate) const USER_DATA_MAX: usize = 64 << 10;

/// How cloud-init adds our configuration to the operator's: the operator's values win, and lists
/// have both (cloud-init, doc/rtd/reference/merging.rst).
const MERGE: &str = "dict(recurse_array,no_replace)+list(append)";

/// A file of a seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SeedFile {
    MetaData,
    UserData,
    VendorData,
    NetworkConfig,
}

impl SeedFile {
    pub(super) const ALL: [SeedFile; 4] =
        [SeedFile::MetaData, SeedFile::UserData, SeedFile::VendorData, SeedFile::NetworkConfig];

    /// Returns the name of the file with its directory.
    pub(super) const fn name(self) -> &'static str {
        match self {
            SeedFile::MetaData => "seed/meta-data",
            SeedFile::UserData => "seed/user-data",
            SeedFile::VendorData => "seed/vendor-data",
            SeedFile::NetworkConfig => "seed/network-config",
        }
    }
}

/// The operator's settings of seeds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SeedSettings {
    /// Keys that may log in as root.
    pub ssh_keys: Vec<SshKey>,
    pub user_data: Option<UserData>,
}

impl SeedSettings {
    /// Returns these settings with those of a rule: its keys are added, and its user data replaces
    /// the other.
    #[must_use]
    pub(super) fn with(mut self, other: &SeedSettings) -> Self {
        let new: Vec<_> = other.ssh_keys.iter().filter(|key| !self.ssh_keys.contains(key)).cloned().collect();
        self.ssh_keys.extend(new);
        self.user_data = other.user_data.clone().or(self.user_data);
        self
    }

    fn is_empty(&self) -> bool {
        self.ssh_keys.is_empty() && self.user_data.is_none()
    }
}

/// Public key of SSH: a line of `authorized_keys` without options (sshd(8), AUTHORIZED_KEYS FILE
/// FORMAT).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshKey(String);

/// Error of a line that is not a public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a public key of SSH; expected a line like `ssh-ed25519 AAAA... name`, without options")]
pub struct SshKeyError;

impl SshKey {
    /// Longest line in bytes. A key of RSA with 16384 bits has 2,800.
    const MAX: usize = 4096;

    /// Returns true for a text that begins as a key does, and is not the path of a file.
    pub(crate) fn is_typed(text: &str) -> bool {
        ["ssh-", "ecdsa-", "sk-"].iter().any(|kind| text.starts_with(kind)) && text.contains(' ')
    }
}

impl std::str::FromStr for SshKey {
    type Err = SshKeyError;

    fn from_str(line: &str) -> Result<Self, SshKeyError> {
        let mut words = line.split(' ');
        let (kind, key) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        // The key repeats its kind, whose length comes first in four bytes: `AAAA` in base64.
        let is_key = key.starts_with("AAAA")
            && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte));
        let is_line = line.len() <= Self::MAX && line.chars().all(|letter| !letter.is_control());
        match Self::is_typed(&format!("{kind} ")) && is_key && is_line {
            true => Ok(Self(line.to_owned())),
            false => Err(SshKeyError),
        }
    }
}

/// User data of the operator, in any form that cloud-init knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserData(Arc<str>);

impl UserData {
    /// Creates user data of a text.
    pub(crate) fn new(text: String) -> Self {
        Self(text.into())
    }

    /// Returns the head of its MIME part; empty if the text has one itself (cloud-init,
    /// cloudinit/handlers/__init__.py, `INCLUSION_TYPES_MAP`).
    fn mime_head(&self) -> String {
        const TYPES: [(&str, &str); 8] = [
            ("#cloud-config-archive", "text/cloud-config-archive"),
            ("#cloud-config-jsonp", "text/cloud-config-jsonp"),
            ("#cloud-config", "text/cloud-config"),
            ("#cloud-boothook", "text/cloud-boothook"),
            ("#include-once", "text/x-include-once-url"),
            ("#include", "text/x-include-url"),
            ("## template: jinja", "text/jinja2"),
            ("#!", "text/x-shellscript"),
        ];
        let has_head = ["content-type:", "mime-version:"]
            .iter()
            .any(|field| self.0.get(..field.len()).is_some_and(|start| start.eq_ignore_ascii_case(field)));
        if has_head {
            return String::new();
        }
        let known = TYPES.iter().find(|(start, _)| self.0.starts_with(start));
        let kind = known.map_or("text/cloud-config", |(_, kind)| kind);
        format!(
            "Content-Type: {kind}; charset=\"utf-8\"\nMIME-Version: 1.0\nContent-Transfer-Encoding: 8bit\n\n"
        )
    }
}

/// The seed of one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seed<'a> {
    settings: SeedSettings,
    hostname: Option<&'a Word>,
    machine: Option<Mac>,
}

impl<'a> Seed<'a> {
    /// Returns the seed of a machine; `None` if the operator has no settings for it.
    pub(super) fn of(
        settings: SeedSettings,
        hostname: Option<&'a Word>,
        machine: Option<Mac>,
    ) -> Option<Self> {
        let is_set = !settings.is_empty() || hostname.is_some();
        is_set.then_some(Self { settings, hostname, machine })
    }

    /// Writes a file of the seed. `now` makes the instance new.
    pub(super) fn write(&self, file: SeedFile, now: Timestamp) -> String {
        match file {
            SeedFile::MetaData => self.meta_data(now),
            SeedFile::UserData => self.user_data(),
            SeedFile::VendorData => "#cloud-config\n{}\n".to_owned(),
            // archiso configures the network itself. What cloud-init writes would take the card from
            // a root file system that comes over it.
            SeedFile::NetworkConfig => "config: disabled\n".to_owned(),
        }
    }

    fn meta_data(&self, now: Timestamp) -> String {
        // With an id that it knows, cloud-init would do nothing.
        let machine = self.machine.map_or_else(|| "any".to_owned(), Mac::dashed);
        let hostname = self.hostname.map(|name| format!("local-hostname: {}\n", quoted(name.as_str())));
        format!("instance-id: isowire-{machine}-{}\n{}", now.as_millisecond(), hostname.unwrap_or_default())
    }

    fn user_data(&self) -> String {
        let own = self.cloud_config();
        let Some(theirs) = &self.settings.user_data else { return own };
        let Version(digest) = Version::of_content(&[theirs.0.as_bytes(), own.as_bytes()].concat());
        // No text holds its own digest.
        let boundary = format!("isowire-{digest:032x}");
        format!(
            "Content-Type: multipart/mixed; boundary=\"{boundary}\"\nMIME-Version: 1.0\n\n\
             --{boundary}\n{}{}\n\
             --{boundary}\nContent-Type: text/cloud-config; charset=\"utf-8\"\nMIME-Version: 1.0\n\
             Content-Transfer-Encoding: 8bit\nMerge-Type: {MERGE}\n\n{own}\n--{boundary}--\n",
            theirs.mime_head(),
            theirs.0
        )
    }

    fn cloud_config(&self) -> String {
        let mut text = "#cloud-config\n".to_owned();
        if let Some(name) = self.hostname {
            text += &format!("hostname: {}\npreserve_hostname: false\n", quoted(name.as_str()));
        }
        if !self.settings.ssh_keys.is_empty() {
            // By default cloud-init makes root's keys print a refusal.
            text += "disable_root: false\nssh_authorized_keys:\n";
            self.settings.ssh_keys.iter().for_each(|SshKey(key)| text += &format!("  - {}\n", quoted(key)));
        }
        text
    }
}

/// Returns a string of YAML (YAML 1.2 §5.7: in double quotes only `"` and `\` are special).
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJx lab \"a\\b\"";

    fn settings(user_data: Option<&str>) -> SeedSettings {
        SeedSettings {
            ssh_keys: vec![KEY.parse().unwrap()],
            user_data: user_data.map(|text| UserData::new(text.to_owned())),
        }
    }

    fn written(settings: &SeedSettings, file: SeedFile) -> String {
        let (name, machine) = (Word::new("lab1"), "52:54:00:12:34:56".parse().ok());
        let seed = Seed::of(settings.clone(), name.as_ref(), machine).unwrap();
        seed.write(file, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn seed_lets_keys_in_as_root() {
        let settings = settings(None);
        assert_eq!(
            written(&settings, SeedFile::UserData),
            "#cloud-config\nhostname: \"lab1\"\npreserve_hostname: false\ndisable_root: false\n\
             ssh_authorized_keys:\n  - \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJx lab \\\"a\\\\b\\\"\"\n"
        );
        assert_eq!(
            written(&settings, SeedFile::MetaData),
            "instance-id: isowire-52-54-00-12-34-56-0\nlocal-hostname: \"lab1\"\n"
        );
        assert_eq!(written(&settings, SeedFile::NetworkConfig), "config: disabled\n");
    }

    #[test]
    fn user_data_of_the_operator_comes_first() {
        for (text, head) in [
            ("#cloud-config\npackages: [vim]", "Content-Type: text/cloud-config; "),
            ("#!/bin/sh\ntrue", "Content-Type: text/x-shellscript; "),
            ("#include\nhttp://10.0.0.1/x", "Content-Type: text/x-include-url; "),
            ("MIME-version: 1.0\nContent-Type: text/plain\n\nx", "MIME-version: 1.0\n"),
        ] {
            let written = written(&settings(Some(text)), SeedFile::UserData);
            let parts: Vec<_> = written.split("\n--isowire-").collect();
            assert_eq!(parts.len(), 4, "{written}");
            let (_, first) = parts[1].split_once('\n').unwrap();
            assert!(first.starts_with(head) && first.ends_with(text), "{first}");
            assert!(parts[2].contains("\nMerge-Type: ") && parts[2].contains("\ndisable_root: false\n"));
        }
    }

    #[test]
    fn key_is_one_line_without_options() {
        assert!(KEY.parse::<SshKey>().is_ok());
        for bad in [
            "",
            "ssh-ed25519",
            "ssh-ed25519 lab",
            "from=\"10.0.0.1\" ssh-ed25519 AAAA",
            "ssh-ed25519 AAAA\nssh-rsa AAAA",
            "-----BEGIN OPENSSH PRIVATE KEY-----",
        ] {
            assert_eq!(bad.parse::<SshKey>(), Err(SshKeyError), "{bad:?}");
        }
    }

    #[test]
    fn settings_of_a_machine_add_keys_and_replace_user_data() {
        let other = SeedSettings { ssh_keys: vec!["ssh-rsa AAAAB".parse().unwrap()], user_data: None };
        let (both, site) = (settings(Some("#!a")).with(&other), settings(Some("#!a")));
        assert_eq!((both.ssh_keys.len(), &both.user_data), (2, &site.user_data));
        assert_eq!(site.clone().with(&settings(Some("#!b"))).user_data, settings(Some("#!b")).user_data);
        assert_eq!(site.clone().with(&site), site, "a key is there once");
        assert_eq!(Seed::of(SeedSettings::default(), None, None), None);
    }
}
