//! Templates in the language of Jinja (docs.rs/minijinja).

use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, UndefinedBehavior, context};

use super::folder::{FILE_MAX, FolderError};

/// Instructions that a template may take; the longest ones take thousands.
const FUEL: u64 = 1_000_000;

/// The values of a template; empty where nothing is known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Facts {
    pub mac: String,
    pub name: String,
    pub hostname: String,
    pub address: String,
    pub serial: String,
    pub uuid: String,
    pub server: String,
    pub image: String,
}

/// Renders a template as a whole.
///
/// # Errors
/// [`FolderError::Template`] with file and line.
pub(super) fn render(file: &Path, source: &[u8], facts: &Facts) -> Result<String, FolderError> {
    let Facts { mac, name, hostname, address, serial, uuid, server, image } = facts;
    let values = context! { mac, name, hostname, address, serial, uuid, server, image };
    let environment = environment();
    let rendered =
        environment.render_str(text(file, source)?, values).map_err(|error| wrong(file, &error))?;
    match rendered.len() as u64 > FILE_MAX {
        true => Err(FolderError::TooLarge(file.to_owned())),
        false => Ok(rendered),
    }
}

/// Checks that a file is a template. Which names it uses shows when it is rendered.
///
/// # Errors
/// [`FolderError::Template`] with file and line.
pub(super) fn check(file: &Path, source: &[u8]) -> Result<(), FolderError> {
    let checked = environment().template_from_str(text(file, source)?).map(drop);
    checked.map_err(|error| wrong(file, &error))
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    // A name that does not exist is most likely mistyped.
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    // The files are scripts and settings, not pages.
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    // Without it the last line of a script would have no end.
    if let Ok(syntax) = SyntaxConfig::builder().keep_trailing_newline(true).build() {
        environment.set_syntax(syntax);
    }
    environment
}

fn text<'a>(file: &Path, source: &'a [u8]) -> Result<&'a str, FolderError> {
    str::from_utf8(source)
        .map_err(|_| FolderError::Template(format!("{}: not a text in UTF-8", file.display())))
}

fn wrong(file: &Path, error: &Error) -> FolderError {
    let line = error.line().map_or(String::new(), |line| format!(":{line}"));
    let detail = error.detail().map_or(String::new(), |detail| format!(": {detail}"));
    // A detail may repeat the template.
    let why = format!("{}{detail}", error.kind()).escape_debug().to_string();
    FolderError::Template(format!("{}{line}: {why}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(source: &str) -> Result<String, String> {
        let facts = Facts { name: "lab1".into(), mac: "52:54:00:12:34:56".into(), ..Facts::default() };
        render(Path::new("/srv/x.j2"), source.as_bytes(), &facts).map_err(|error| error.to_string())
    }

    #[test]
    fn template_has_the_values_of_its_machine() {
        let source =
            "#!/bin/sh\nhost={{ name }} <{{ mac|replace(':', '-') }}>\n{% if serial %}s{% endif %}\n";
        assert_eq!(rendered(source).unwrap(), "#!/bin/sh\nhost=lab1 <52-54-00-12-34-56>\n\n");
        assert_eq!(rendered("{{ uuid }}{{ image }}").unwrap(), "");
    }

    #[test]
    fn template_error_has_file_and_line() {
        for (source, why) in [
            ("\n{{ nam }}", "/srv/x.j2:2: undefined value"),
            ("\n\n{% if nam %}{% endif %}", "/srv/x.j2:3: undefined value"),
            ("a\n{{ name", "/srv/x.j2:2: syntax error"),
            ("{% for x in range(9999) %}{% for x in range(9999) %}{% endfor %}{% endfor %}", "/srv/x.j2"),
            ("{% for x in range(9999) %}{{ 'x' * 100 }}{% endfor %}", "/srv/x.j2: larger than"),
        ] {
            let found = rendered(source).unwrap_err();
            assert!(found.starts_with(why) && !found.contains('\n'), "{found}");
        }
        assert!(check(Path::new("/srv/x.j2"), b"{{ nam }}").is_ok(), "known when it is rendered");
        assert!(check(Path::new("/srv/x.j2"), b"{% if %}").is_err());
        assert!(
            check(Path::new("/srv/x.j2"), b"\xff").unwrap_err().to_string().contains("not a text in UTF-8")
        );
    }
}
