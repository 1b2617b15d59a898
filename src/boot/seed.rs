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

/// How cloud-init adds a part to those before it: their values win, and lists have both
/// (cloud-init, doc/rtd/reference/merging.rst).
const MERGE: &str = "dict(recurse_array,no_replace)+list(append)";

/// Fields that cloud-init sends when the system is up (cloud-init,
/// cloudinit/config/cc_phone_home.py).
const UP_FIELDS: &str = "pub_key_ed25519, pub_key_ecdsa, pub_key_rsa, instance_id, hostname, fqdn";

/// Times that cloud-init tries to, three seconds apart.
const UP_TRIES: u32 = 10;

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

/// Public key of SSH: a line of `authorized_keys` without options (sshd(8), AUTHORIZED_KEYS FILE
/// FORMAT).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshKey(String);

/// Error of a line that is not a public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a public key of SSH; expected a line like `ssh-ed25519 AAAA... name`, without options")]
pub struct SshKeyError;

impl SshKey {
    /// Returns the kind and the key, without the comment.
    pub(crate) fn without_comment(&self) -> String {
        self.0.split(' ').take(2).collect::<Vec<_>>().join(" ")
    }

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
    /// cloudinit/handlers/__init__.py, `INCLUSION_TYPES_MAP`). Parts before it win.
    fn mime_head(&self, is_first: bool) -> String {
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
        let merge = if is_first { String::new() } else { format!("Merge-Type: {MERGE}\n") };
        format!(
            "Content-Type: {kind}; charset=\"utf-8\"\nMIME-Version: 1.0\n\
             Content-Transfer-Encoding: 8bit\n{merge}\n"
        )
    }
}

/// The settings that the seed of one machine is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct SeedSources<'a> {
    /// Of all machines.
    pub site: &'a SeedSettings,
    /// User data for those that boot the image.
    pub image: Option<&'a UserData>,
    pub rule: Option<&'a SeedSettings>,
    pub hostname: Option<&'a Word>,
    pub machine: Option<Mac>,
}

impl<'a> SeedSources<'a> {
    /// Returns the seed; `None` if the operator has no settings for the machine.
    pub(super) fn seed(self) -> Option<Seed<'a>> {
        let Self { hostname, machine, .. } = self;
        let seed = Seed { ssh_keys: self.ssh_keys(), user_data: self.user_data(), hostname, machine };
        let is_set = !seed.ssh_keys.is_empty() || !seed.user_data.is_empty() || hostname.is_some();
        is_set.then_some(seed)
    }

    fn ssh_keys(&self) -> Vec<&'a SshKey> {
        let mut keys: Vec<_> = self.site.ssh_keys.iter().collect();
        let of_rule = self.rule.iter().flat_map(|rule| &rule.ssh_keys);
        keys.extend(of_rule.filter(|key| !self.site.ssh_keys.contains(key)));
        keys
    }

    /// Returns the user data, that of the narrower choice first. That of a rule replaces that of
    /// all machines.
    fn user_data(&self) -> Vec<&'a UserData> {
        let of_rule = self.rule.and_then(|rule| rule.user_data.as_ref());
        let of_site = self.site.user_data.as_ref().filter(|_| of_rule.is_none());
        [of_rule, self.image, of_site].into_iter().flatten().collect()
    }
}

/// The seed of one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seed<'a> {
    ssh_keys: Vec<&'a SshKey>,
    /// The first wins where they disagree.
    user_data: Vec<&'a UserData>,
    hostname: Option<&'a Word>,
    machine: Option<Mac>,
}

impl Seed<'_> {
    /// Writes a file of the seed. `now` makes the instance new, and the machine tells `up_url` when
    /// its system is up.
    pub(super) fn write(&self, file: SeedFile, up_url: &str, now: Timestamp) -> String {
        match file {
            SeedFile::MetaData => self.meta_data(now),
            SeedFile::UserData => self.user_data(),
            // User data wins over vendor data, so a `phone_home` of the operator's replaces this
            // one.
            SeedFile::VendorData => format!(
                "#cloud-config\nphone_home:\n  url: {}\n  post: [{UP_FIELDS}]\n  tries: {UP_TRIES}\n",
                quoted(up_url)
            ),
            // archiso configures the network itself. What cloud-init writes would take the card
            // from a root file system that comes over it.
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
        if self.user_data.is_empty() {
            return own;
        }
        let own = UserData::new(own);
        let parts = || self.user_data.iter().copied().chain([&own]);
        let all: String = parts().map(|part| &*part.0).collect();
        let Version(digest) = Version::of_content(all.as_bytes());
        // No text holds its own digest.
        let boundary = format!("isowire-{digest:032x}");
        let mut text =
            format!("Content-Type: multipart/mixed; boundary=\"{boundary}\"\nMIME-Version: 1.0\n\n");
        for (number, part) in parts().enumerate() {
            text += &format!("--{boundary}\n{}{}\n", part.mime_head(number == 0), part.0);
        }
        format!("{text}--{boundary}--\n")
    }

    fn cloud_config(&self) -> String {
        let mut text = "#cloud-config\n".to_owned();
        if let Some(name) = self.hostname {
            text += &format!("hostname: {}\npreserve_hostname: false\n", quoted(name.as_str()));
        }
        if !self.ssh_keys.is_empty() {
            // By default cloud-init makes root's keys print a refusal.
            text += "disable_root: false\nssh_authorized_keys:\n";
            self.ssh_keys.iter().for_each(|SshKey(key)| text += &format!("  - {}\n", quoted(key)));
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

    const UP: &str = "http://10.0.0.1/isowire/52-54-00-12-34-56/up";

    fn settings(user_data: Option<&str>) -> SeedSettings {
        SeedSettings {
            ssh_keys: vec![KEY.parse().unwrap()],
            user_data: user_data.map(|text| UserData::new(text.to_owned())),
        }
    }

    fn sources(site: &SeedSettings) -> SeedSources<'_> {
        let machine = "52:54:00:12:34:56".parse().ok();
        SeedSources { site, image: None, rule: None, hostname: None, machine }
    }

    fn written(settings: &SeedSettings, file: SeedFile) -> String {
        let name = Word::new("lab1");
        let seed = SeedSources { hostname: name.as_ref(), ..sources(settings) }.seed().unwrap();
        seed.write(file, UP, Timestamp::UNIX_EPOCH)
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
        let vendor_data = written(&settings, SeedFile::VendorData);
        assert!(
            vendor_data.starts_with(&format!("#cloud-config\nphone_home:\n  url: \"{UP}\"\n")),
            "{vendor_data}"
        );
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
        let (site, data) = (settings(Some("#!a")), |text: &str| UserData::new(text.to_owned()));
        let image = data("#!i");
        let keys = SeedSettings { ssh_keys: vec!["ssh-rsa AAAAB".parse().unwrap()], user_data: None };
        let seed = |image, rule| SeedSources { image, rule, ..sources(&site) }.seed().unwrap();
        let both = seed(None, Some(&keys));
        assert_eq!((both.ssh_keys.len(), both.user_data), (2, vec![&data("#!a")]));
        let other = settings(Some("#!b"));
        assert_eq!(seed(None, Some(&other)).ssh_keys.len(), 1, "a key is there once");
        // The narrower choice is the first.
        assert_eq!(seed(Some(&image), Some(&other)).user_data, [&data("#!b"), &image]);
        assert_eq!(seed(Some(&image), None).user_data, [&image, &data("#!a")]);
        assert_eq!(sources(&SeedSettings::default()).seed(), None);
    }

    #[test]
    fn parts_behind_the_first_are_merged() {
        let (site, image) =
            (settings(Some("#cloud-config\n{}")), UserData::new("#cloud-config\n{a: 1}".into()));
        let seed = SeedSources { image: Some(&image), ..sources(&site) }.seed().unwrap();
        let text = seed.write(SeedFile::UserData, UP, Timestamp::UNIX_EPOCH);
        let parts: Vec<_> = text.split("\n--isowire-").collect();
        assert_eq!(parts.len(), 5, "{text}");
        assert_eq!([1, 2, 3].map(|part| parts[part].contains("\nMerge-Type: ")), [false, true, true]);
        assert!(parts[1].ends_with("{a: 1}") && parts[2].ends_with("{}"), "{text}");
    }
}
