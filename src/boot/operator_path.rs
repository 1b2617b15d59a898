//! Paths of the operator's own files: for one machine, or for any that asks.
//!
//! ```text
//! /isowire/files/install.sh                       for the machine that asks
//! /isowire/52-54-00-12-34-56/files/install.sh     for this machine
//! ```

use super::generated::{DIRECTORY, Recipient, names};

/// Directory of the operator's files below that of generated ones.
pub(super) const FILES: &str = "files";

/// End of the name of a template. The file that it makes has the name without it.
pub(crate) const TEMPLATE: &str = ".j2";

/// Most names in a path.
pub(crate) const NAMES_MAX: usize = 16;

/// The path of a file of the operator's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OperatorPath<'a> {
    pub recipient: Recipient,
    /// At least one. None begins with a dot.
    pub names: Vec<&'a str>,
}

impl<'a> OperatorPath<'a> {
    /// Parses a path; `None` for any other, and for names that are not served.
    pub(crate) fn parse(path: &'a [u8]) -> Option<Self> {
        // A recipient has three names at most.
        let names: Vec<_> =
            names(path).take(NAMES_MAX + 6).map(str::from_utf8).collect::<Result<_, _>>().ok()?;
        let [DIRECTORY, below @ ..] = &names[..] else { return None };
        let (recipient, [FILES, names @ ..]) = Recipient::split(below)? else { return None };
        let is_path = (1..=NAMES_MAX).contains(&names.len()) && names.iter().all(|name| is_served(name));
        let is_template = names.last().is_some_and(|name| name.ends_with(TEMPLATE));
        (is_path && !is_template).then(|| Self { recipient, names: names.to_vec() })
    }
}

/// Returns true for the name of a file or a folder that is served. Names with a dot in front are
/// not meant for others: `.git`, `.install.sh.swp`.
pub(crate) fn is_served(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_of_an_operators_file_is_below_its_directory() {
        let parse = |path: &'static str| OperatorPath::parse(path.as_bytes());
        let path = parse("/isowire/52-54-00-12-34-56/rule-2/files/sub//./install.sh").unwrap();
        assert_eq!(path.names, ["sub", "install.sh"]);
        assert_eq!(path.recipient.to_string(), "isowire/52-54-00-12-34-56/rule-2/");
        assert_eq!(parse("isowire/files/a").unwrap().recipient, Recipient::default());
        for other in [
            "isowire/files",
            "isowire/files/",
            "files/a",
            "isowire/files/../a",
            "isowire/files/.git/config",
            "isowire/files/a.j2",
            "isowire/52-54-00-12-34/files/a",
            "isowire/rule-x/files/a",
            "other/files/a",
            "isowire/files/a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/q",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
        assert_eq!(OperatorPath::parse(b"isowire/files/\xff"), None);
    }
}
