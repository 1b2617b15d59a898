//! Settings of seeds for cloud-init: `ssh-keys`, `user-data` and `hostname`.

use super::raw::RawValue;
use super::{Checker, ConfigError, MachineOptions, RootServices, value};
use crate::boot::rules::ClientFilter;
use crate::boot::seed::{SeedSettings, SshKey, USER_DATA_MAX, UserData};
use crate::text::Word;

/// Largest file of keys in bytes, and most keys of it.
const KEYS_MAX: u64 = 64 << 10;

impl Checker<'_> {
    /// Checks the seed of all machines or of a rule.
    pub(super) fn seed(
        &self,
        keys: &Option<Vec<RawValue>>,
        user_data: &Option<RawValue>,
        services: &RootServices,
    ) -> Result<SeedSettings, ConfigError> {
        let mut settings = SeedSettings::default();
        for value in keys.iter().flatten() {
            self.require_http("ssh-keys", value, services)?;
            settings.ssh_keys.extend(self.ssh_keys(value)?);
        }
        settings.user_data = self.user_data(user_data, services)?;
        Ok(settings)
    }

    /// Checks the user data of all machines, of an image or of a rule.
    pub(super) fn user_data(
        &self,
        value: &Option<RawValue>,
        services: &RootServices,
    ) -> Result<Option<UserData>, ConfigError> {
        let Some(value) = value else { return Ok(None) };
        self.require_http("user-data", value, services)?;
        self.read_user_data(value).map(Some)
    }

    /// Returns the host name in the seed of the machine of a rule.
    pub(super) fn hostname(
        &self,
        options: &MachineOptions,
        filter: &ClientFilter,
        services: &RootServices,
    ) -> Result<Option<Word>, ConfigError> {
        let Some(value) = &options.hostname else { return Ok(None) };
        self.require_http("hostname", value, services)?;
        if filter.one_machine().is_none() {
            let why = "needs a rule for one machine; give its whole MAC address and no other condition";
            return Err(self.wrong("hostname", value, why));
        }
        self.read("hostname", &options.hostname, value::host_name)
    }

    /// cloud-init takes a seed by HTTP only.
    pub(super) fn require_http(
        &self,
        key: &str,
        value: &RawValue,
        services: &RootServices,
    ) -> Result<(), ConfigError> {
        match services.http.is_off() {
            true => Err(self.wrong(key, value, "machines get it by HTTP, which is off; turn on `http`")),
            false => Ok(()),
        }
    }

    /// Reads a key, or a file with one in each line.
    fn ssh_keys(&self, value: &RawValue) -> Result<Vec<SshKey>, ConfigError> {
        let keys = if SshKey::is_typed(&value.text) {
            value
                .text
                .parse()
                .map(|key| vec![key])
                .map_err(|error: crate::boot::seed::SshKeyError| error.to_string())
        } else {
            value::read(&self.path(value), KEYS_MAX).and_then(|bytes| keys_of(&bytes)).map_err(|why| {
                format!("{why}; give a public key, or a file of them such as ~/.ssh/id_ed25519.pub")
            })
        };
        keys.map_err(|why| self.wrong("ssh-keys", value, &why))
    }

    fn read_user_data(&self, value: &RawValue) -> Result<UserData, ConfigError> {
        let text = value::read(&self.path(value), USER_DATA_MAX as u64);
        let text =
            text.and_then(|bytes| String::from_utf8(bytes).map_err(|_| "not a text in UTF-8".to_owned()));
        text.map(UserData::new).map_err(|why| self.wrong("user-data", value, &why))
    }
}

fn keys_of(bytes: &[u8]) -> Result<Vec<SshKey>, String> {
    let lines = String::from_utf8_lossy(bytes);
    let lines = lines
        .lines()
        .map(str::trim)
        .enumerate()
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let keys: Result<Vec<_>, _> =
        lines.map(|(at, line)| line.parse().map_err(|error| format!("line {}: {error}", at + 1))).collect();
    keys.and_then(|keys: Vec<SshKey>| if keys.is_empty() { Err("holds no key".to_owned()) } else { Ok(keys) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, of_text};

    const HEAD: &str = "[[image]]\npath = 'a.iso'\n[[machine]]\nmac = '52:54:00:12:34:56'\n";
    const KEY: &str = "ssh-ed25519 AAAAC3Nza lab";

    fn config(text: &str) -> Result<Config, String> {
        of_text(text).map_err(|error| error.to_string())
    }

    #[test]
    fn rule_has_a_seed() {
        let config =
            config(&format!("ssh-keys = '{KEY}'\n{HEAD}hostname = 'lab1'\nssh-keys = ['{KEY} 2']\n"));
        let config = config.unwrap();
        let rule = config.rules.iter().next().unwrap();
        assert_eq!((config.seed.ssh_keys.len(), rule.seed.ssh_keys.len()), (1, 1));
        assert_eq!(rule.hostname.as_ref().map(Word::as_str), Some("lab1"));
    }

    #[test]
    fn seed_error_has_place_and_cause() {
        for (text, why) in [
            (
                "ssh-keys = 'ssh-ed25519 x y'",
                "ssh-keys: `ssh-ed25519 x y`: not a public key of SSH; expected",
            ),
            ("hostname = 'a_b'", "hostname: `a_b`: invalid host name; expected up to 63"),
            ("hostname = '-a'", "hostname: `-a`: invalid host name"),
        ] {
            let found = config(&format!("{HEAD}{text}\n")).unwrap_err();
            assert!(found.contains(why), "{found}");
        }
        let off = config(&format!("http = 'off'\n{HEAD}hostname = 'lab1'\n")).unwrap_err();
        assert!(off.contains("machines get it by HTTP, which is off; turn on `http`"), "{off}");
        let several = config("[[image]]\npath = 'a.iso'\n[[machine]]\nmac = '52:54'\nhostname = 'lab1'\n");
        assert!(several.unwrap_err().contains("`lab1`: needs a rule for one machine"));
    }

    #[test]
    fn file_of_keys_has_one_in_each_line() {
        let keys = keys_of(format!("# lab\n\n{KEY}\n  {KEY} \r\n").as_bytes()).unwrap();
        assert_eq!((keys.len(), &keys[0]), (2, &keys[1]));
        let bad = keys_of(b"# lab\nssh-ed25519\n").unwrap_err();
        assert!(bad.starts_with("line 2: not a public key"), "{bad}");
        assert_eq!(keys_of(b"# lab\n").unwrap_err(), "holds no key");
    }
}
