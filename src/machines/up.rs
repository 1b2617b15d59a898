//! The report of a machine whose system is up: cloud-init's `phone_home`, or a script.

use std::time::Instant;

use super::Mac;
use crate::boot::seed::SshKey;
use crate::guid::Guid;

/// Longest host name that is kept, in characters (RFC 1123 §2.1: 255 octets with their lengths).
const NAME_MAX: usize = 253;

/// Most host keys that are kept: sshd has one of each of three kinds.
const KEYS_MAX: usize = 8;

/// Host names of images: archiso's, those of systems without one, and the kernel's.
const COMMON_NAMES: [&str; 4] = ["archiso", "localhost", "archlinux", "(none)"];

/// The fields of cloud-init with host keys (cloud-init, cloudinit/config/cc_phone_home.py).
const KEY_FIELD: &str = "pub_key_";

/// The report of a system that is up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct UpReport {
    /// A host name of letters, digits, `-` and `.`, unless it is that of an image.
    pub host_name: Option<String>,
    pub host_keys: Vec<HostKey>,
}

/// Host key of SSH, as in `known_hosts`: its kind and its value in base64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostKey(String);

impl HostKey {
    /// Creates a host key of a line of a public key file; `None` for any other text.
    pub(crate) fn new(line: &str) -> Option<Self> {
        line.trim().parse().ok().map(|key: SshKey| Self(key.without_comment()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the kind, such as `ssh-ed25519`.
    pub(crate) fn kind(&self) -> &str {
        self.0.split(' ').next().unwrap_or_default()
    }
}

impl UpReport {
    /// Creates a report of the fields of cloud-init. A field that is no host name and no key is
    /// left out: any machine can send any text.
    pub(crate) fn of_fields(fields: impl Iterator<Item = (String, String)>) -> Self {
        let mut report = Self::default();
        for (name, value) in fields {
            match (name.as_str(), HostKey::new(&value)) {
                ("hostname", _) => {
                    report.host_name = Some(value).filter(|name| is_host_name(name) && !is_common_name(name));
                }
                (name, Some(key)) if name.starts_with(KEY_FIELD) => report.add(key),
                _ => {}
            }
        }
        report
    }

    fn add(&mut self, key: HostKey) {
        if self.host_keys.len() < KEYS_MAX && !self.host_keys.contains(&key) {
            self.host_keys.push(key);
        }
    }
}

/// Returns true for a host name of one or more labels.
pub(crate) fn is_host_name(text: &str) -> bool {
    (1..=NAME_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte))
        && text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
}

/// Returns true for a host name that images have by default, which tells no machine from another.
pub(crate) fn is_common_name(name: &str) -> bool {
    let label = name.split('.').next().unwrap_or_default();
    COMMON_NAMES.contains(&label)
}

/// A machine, as much as decides which files it may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KnownMachine {
    pub mac: Option<Mac>,
    /// Host name that it sent.
    pub host_name: Option<String>,
    /// UUID that it sent by DHCP.
    pub uuid: Option<Guid>,
    /// Name of the image that it boots.
    pub image: Option<String>,
    /// It got an address by DHCP, or loaded a kernel from here in its last boot.
    pub boots_from_here: bool,
}

/// A boot that is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FinishedBoot {
    pub machine: Mac,
    /// Time at which the machine asked what to boot, as [`Registry::seconds`] tells it.
    pub asked: i64,
    /// The system said itself that it is up; else it read all of its root and let it go.
    pub by_call: bool,
}

/// A system that said that it is up.
#[derive(Debug)]
pub(super) struct SystemUp {
    /// The first time in this boot.
    pub since: Instant,
    pub host_keys: Vec<HostKey>,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::machines) const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJx";

    fn report(fields: &[(&str, &str)]) -> UpReport {
        UpReport::of_fields(fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn report_keeps_names_and_keys() {
        let line = format!("{KEY} root@lab1\n");
        let all = report(&[
            ("hostname", "lab1.example"),
            ("pub_key_ed25519", &line),
            ("pub_key_rsa", "N/A"),
            ("pub_key_ecdsa", KEY),
            ("instance_id", "i-1"),
        ]);
        assert_eq!(all.host_name.as_deref(), Some("lab1.example"));
        assert_eq!(all.host_keys, [HostKey(KEY.to_owned())]);
        assert_eq!(all.host_keys[0].kind(), "ssh-ed25519");
    }

    #[test]
    fn report_takes_no_other_text() {
        for name in
            ["archiso", "localhost.localdomain", "", "-a", ".", "a b", "a\nb", "a,b", "é", &"a".repeat(254)]
        {
            assert_eq!(report(&[("hostname", name)]).host_name, None, "{name:?}");
        }
        let keys: Vec<_> = (0..100).map(|number| format!("ssh-rsa AAAA{number}")).collect();
        let fields: Vec<_> = keys.iter().map(|key| ("pub_key_rsa", &**key)).collect();
        assert_eq!(report(&fields).host_keys.len(), KEYS_MAX);
        for key in ["ssh-rsa AAAA\nx ssh-rsa AAAA", "ssh-rsa", "@cert-authority ssh-rsa AAAA"] {
            assert_eq!(report(&[("pub_key_rsa", key)]).host_keys, [], "{key:?}");
        }
    }
}
