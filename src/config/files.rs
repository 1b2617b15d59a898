//! The operator's own files: `files`, and `script` and `secret` of a rule.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Checker, ConfigError, MachineOptions, RootServices, value};
use crate::boot::operator_path::{TEMPLATE, is_served};
use crate::boot::rules::ClientFilter;
use crate::provision::Folder;
use crate::text::PlainPath;

/// The folder of the operator's files, opened and checked.
#[derive(Debug, Clone)]
pub(crate) struct FilesConfig {
    pub folder: Arc<Folder>,
    /// The files that were in it.
    pub found: Vec<PathBuf>,
}

/// The script of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Script {
    pub path: Option<PlainPath>,
    pub is_secret: bool,
}

impl Checker<'_> {
    /// Opens the folder of the operator's files, and checks what is in it.
    pub(super) fn files(&self, services: &RootServices) -> Result<Option<FilesConfig>, ConfigError> {
        let Some(value) = &self.options.files else { return Ok(None) };
        self.require_http("files", value, services)?;
        let folder = Folder::open(&self.path(value)).map_err(|error| {
            self.wrong("files", value, &format!("{error}; give a folder that isowire can read"))
        })?;
        let found = folder.check().map_err(|error| self.wrong("files", value, &error.to_string()))?;
        Ok(Some(FilesConfig { folder: Arc::new(folder), found }))
    }

    /// Returns the script of a rule.
    pub(super) fn script(
        &self,
        options: &MachineOptions,
        filter: &ClientFilter,
        files: Option<&FilesConfig>,
    ) -> Result<Script, ConfigError> {
        let path = self.read("script", &options.script, script_path)?;
        let is_secret = self.read("secret", &options.secret, value::truth)?.unwrap_or(false);
        if let (Some(value), Some(path)) = (&options.script, &path) {
            let why = match files {
                None => Some("needs `files`, the folder that it is in".to_owned()),
                Some(FilesConfig { folder, .. }) if folder.has(path.as_str()) => None,
                Some(FilesConfig { folder, .. }) => {
                    Some(format!("not in {}; put it there, or `{path}{TEMPLATE}`", folder.path().display()))
                }
            };
            if let Some(why) = why {
                return Err(self.wrong("script", value, &why));
            }
        }
        match &options.secret {
            Some(value) if is_secret && path.is_none() => {
                Err(self.wrong("secret", value, "has no effect without `script`; add that or remove it"))
            }
            // Several machines could each say that they are the one.
            Some(value) if is_secret && filter.one_machine().is_none() => Err(self.wrong(
                "secret",
                value,
                "needs a rule for one machine; give its whole MAC address and no other condition",
            )),
            _ => Ok(Script { path, is_secret }),
        }
    }
}

/// Parses the path of a script, which becomes a part of a URL.
fn script_path(text: &str) -> Result<PlainPath, String> {
    let is_fine = text.split('/').all(is_served) && !text.ends_with(TEMPLATE);
    PlainPath::new(text).filter(|_| is_fine).ok_or_else(|| {
        format!(
            "invalid path of a script; expected one from `files`, of letters, digits and `._/+@~-`, without a \
             name that begins with a dot, and of a template without `{TEMPLATE}`"
        )
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::config::Config;
    use crate::config::file::ConfigFile;

    /// Checks a configuration beside a folder `files`.
    fn config(dir: &Path, text: &str) -> Result<Config, String> {
        let text = format!("{text}[[image]]\npath = 'a.iso'\n");
        let parsed = ConfigFile::parse(&dir.join("isowire.toml"), text);
        let (file, options) = parsed.map_err(|error| error.to_string())?;
        let checker = Checker { file: Some(&file), options: &options, variables: &|_| None };
        checker.checked().map_err(|error| error.to_string())
    }

    const RULE: &str = "files = 'files'\n[[machine]]\nmac = '52:54:00:12:34:56'\n";

    #[test]
    fn script_is_in_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("files")).unwrap();
        fs::write(dir.path().join("files/a.sh.j2"), "{{ name }}").unwrap();
        let found = config(dir.path(), &format!("{RULE}script = 'a.sh'\nsecret = true\n")).unwrap();
        let rule = found.rules.iter().next().unwrap();
        assert_eq!((rule.script.as_ref().map(PlainPath::as_str), rule.is_secret), (Some("a.sh"), true));
        assert_eq!(found.files.unwrap().found, [dir.path().join("files/a.sh.j2")]);
    }

    #[test]
    fn files_error_has_place_and_cause() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("files")).unwrap();
        fs::write(dir.path().join("files/a.sh"), "").unwrap();
        for (text, why) in [
            ("files = 'none'\n".to_owned(), ":1: files: `none`: No such file or directory"),
            ("files = 'isowire.toml'\n".to_owned(), "give a folder that isowire can read"),
            ("http = 'off'\nfiles = 'files'\n".to_owned(), "HTTP, which is off"),
            (format!("{RULE}script = 'b.sh'\n"), "script: `b.sh`: not in "),
            (format!("{RULE}script = '../a.sh'\n"), "invalid path of a script"),
            (format!("{RULE}script = '.a.sh'\n"), "invalid path of a script"),
            (format!("{RULE}script = 'a.sh.j2'\n"), "invalid path of a script"),
            (format!("{RULE}secret = true\n"), "has no effect without `script`"),
            ("[[machine]]\nmac = '52'\nscript = 'a.sh'\n".to_owned(), "needs `files`"),
            (
                "files = 'files'\n[[machine]]\nmac = '52'\nscript = 'a.sh'\nsecret = true\n".to_owned(),
                "needs a rule for one machine",
            ),
        ] {
            let found = config(dir.path(), &text).unwrap_err();
            assert!(found.contains(why) && !found.contains('\n'), "{found}");
        }
        fs::write(dir.path().join("files/bad.j2"), "\n{% if %}").unwrap();
        let found = config(dir.path(), "files = 'files'\n").unwrap_err();
        assert!(found.contains("bad.j2:2: syntax error"), "{found}");
    }
}
