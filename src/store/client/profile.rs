//! The files of AWS's own programs, `~/.aws/credentials` and `~/.aws/config`, of which one profile counts.
//! Their form is that of botocore, which reads them with Python's `configparser`:
//! <https://docs.aws.amazon.com/cli/latest/userguide/cli-configure-files.html>.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

use configparser::ini::Ini;
use object_store::aws::AwsCredential;

/// Keys by which other programs get credentials of a profile, from places where isowire does not ask.
const ELSEWHERE: [&str; 5] =
    ["role_arn", "sso_session", "sso_start_url", "credential_process", "web_identity_token_file"];

/// What the files say of the profile in use. It has no `Debug`, since it has secrets.
pub(super) struct Profile {
    /// Errors in it are about these alone.
    pub(super) keys: Result<AwsCredential, ProfileError>,
    pub(super) region: Option<String>,
    /// URL of the store.
    pub(super) endpoint: Option<String>,
}

/// Reason for which the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProfileError {
    #[error("{}: {error}", path.display())]
    Unread { path: PathBuf, error: io::Error },
    #[error("{}: {why}", path.display())]
    Malformed { path: PathBuf, why: String },
    #[error("AWS_PROFILE names `{name}`, which is neither in {} nor in {}", credentials.display(), config.display())]
    Unknown { name: String, credentials: PathBuf, config: PathBuf },
    #[error("{} has no keys of the profile `{name}`", path.display())]
    NoKeys { name: String, path: PathBuf },
    #[error("{} is not there, or cannot be read", .0.display())]
    NoFile(PathBuf),
    #[error("{}: the profile `{name}` has only one of aws_access_key_id and aws_secret_access_key", path.display())]
    HalfKeys { name: String, path: PathBuf },
    #[error(
        "{}: the profile `{name}` gets its keys by `{key}`, which isowire does not do: it needs keys that do not expire",
        path.display()
    )]
    Elsewhere { name: String, path: PathBuf, key: &'static str },
}

/// One of the two files. It is empty if it is not there.
struct ProfileFile {
    path: PathBuf,
    ini: Ini,
    is_read: bool,
}

impl ProfileFile {
    /// Reads the file that the variable names, or else `~/.aws/NAME`, which need not be there.
    fn read(variable: &str, name: &str) -> Result<Self, ProfileError> {
        let named = env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from);
        let is_named = named.is_some();
        let path = named.or_else(|| Some(env::home_dir()?.join(".aws").join(name)));
        let path = path.unwrap_or_else(|| Path::new("~/.aws").join(name));
        match fs::read_to_string(&path) {
            Ok(text) => Self::of(path, text),
            // A unit of systemd may not see the home of its user.
            Err(error) if !is_named && is_out_of_sight(&error) => {
                Ok(Self { path, ini: Ini::new_cs(), is_read: false })
            }
            Err(error) => Err(ProfileError::Unread { path, error }),
        }
    }

    fn of(path: PathBuf, text: String) -> Result<Self, ProfileError> {
        let mut ini = Ini::new_cs();
        ini.set_multiline(true);
        // A secret may have the characters that begin one.
        ini.set_inline_comment_symbols(Some(&[]));
        match ini.read(text) {
            Ok(_) => Ok(Self { path, ini, is_read: true }),
            Err(why) => Err(ProfileError::Malformed { path, why }),
        }
    }
}

fn is_out_of_sight(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | NotADirectory | PermissionDenied)
}

/// A section of one of the files, which may be missing.
#[derive(Clone, Copy)]
struct Section<'a> {
    file: &'a ProfileFile,
    title: Option<&'a str>,
}

impl<'a> Section<'a> {
    /// Finds the section whose title says this, once `kind` and quotes are taken off.
    fn find(file: &'a ProfileFile, kind: &str, name: &str) -> Self {
        let says = |title: &str| {
            let rest = title.strip_prefix(kind).unwrap_or_default();
            (kind.is_empty() || rest.starts_with(char::is_whitespace))
                && rest.trim().trim_matches(['"', '\'']) == name
        };
        let title = file.ini.get_map_ref().keys().map(String::as_str).find(|title| says(title));
        Self { file, title }
    }

    fn get(self, key: &str) -> Option<String> {
        self.file.ini.get(self.title?, key).filter(|value| !value.is_empty())
    }

    /// Returns a value of those that stand indented below a key.
    fn get_below(self, key: &str, name: &str) -> Option<String> {
        let values = self.get(key)?;
        let mut values = values.lines().filter_map(|line| line.split_once('='));
        values.find(|(found, _)| found.trim() == name).map(|(_, value)| value.trim().to_owned())
    }

    fn keys(self, profile: &str) -> Result<Option<AwsCredential>, ProfileError> {
        match (self.get("aws_access_key_id"), self.get("aws_secret_access_key")) {
            (Some(key_id), Some(secret_key)) => {
                Ok(Some(AwsCredential { key_id, secret_key, token: self.get("aws_session_token") }))
            }
            (None, None) => Ok(None),
            _ => Err(ProfileError::HalfKeys { name: profile.to_owned(), path: self.file.path.clone() }),
        }
    }
}

/// Reads both files, and takes what they say of the profile that `AWS_PROFILE` names, or else of
/// `default`.
///
/// # Errors
/// [`ProfileError`]
pub(super) fn read() -> Result<Profile, ProfileError> {
    let credentials = ProfileFile::read("AWS_SHARED_CREDENTIALS_FILE", "credentials")?;
    let config = ProfileFile::read("AWS_CONFIG_FILE", "config")?;
    let name = env::var("AWS_PROFILE").ok().filter(|name| !name.is_empty());
    profile(name.as_deref(), &credentials, &config)
}

fn profile(
    named: Option<&str>,
    credentials: &ProfileFile,
    config: &ProfileFile,
) -> Result<Profile, ProfileError> {
    let name = named.unwrap_or("default");
    let in_credentials = Section::find(credentials, "", name);
    let in_config = match Section::find(config, "profile", name) {
        Section { title: None, .. } if name == "default" => Section::find(config, "", name),
        section => section,
    };
    if named.is_some() && in_credentials.title.is_none() && in_config.title.is_none() {
        let (credentials, config) = (credentials.path.clone(), config.path.clone());
        return Err(ProfileError::Unknown { name: name.to_owned(), credentials, config });
    }
    let services = in_config.get("services").map(|services| Section::find(config, "services", &services));
    let of_s3 = services.and_then(|services| services.get_below("s3", "endpoint_url"));
    Ok(Profile {
        keys: keys(name, in_credentials, in_config),
        region: in_config.get("region"),
        endpoint: of_s3.or_else(|| in_config.get("endpoint_url")),
    })
}

/// Returns the keys of the profile that has these sections.
fn keys(
    name: &str,
    in_credentials: Section<'_>,
    in_config: Section<'_>,
) -> Result<AwsCredential, ProfileError> {
    if let Some(keys) = in_credentials.keys(name)? {
        return Ok(keys);
    }
    if let Some(keys) = in_config.keys(name)? {
        return Ok(keys);
    }
    let (name, path) = (name.to_owned(), in_credentials.file.path.clone());
    match ELSEWHERE.into_iter().find(|key| in_config.get(key).is_some()) {
        Some(key) => Err(ProfileError::Elsewhere { name, path: in_config.file.path.clone(), key }),
        None if in_credentials.file.is_read => Err(ProfileError::NoKeys { name, path }),
        None => Err(ProfileError::NoFile(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: Option<&str>, credentials: &str, config: &str) -> Result<Profile, String> {
        let file = |name: &str, text: &str| ProfileFile::of(name.into(), text.to_owned());
        let files = file("credentials", credentials).and_then(|one| Ok((one, file("config", config)?)));
        files
            .and_then(|(credentials, config)| profile(name, &credentials, &config))
            .map_err(|error| error.to_string())
    }

    fn keys(profile: &Profile) -> Option<(&str, &str, Option<&str>)> {
        let keys = profile.keys.as_ref().ok();
        keys.map(|keys| (&*keys.key_id, &*keys.secret_key, keys.token.as_deref()))
    }

    const CREDENTIALS: &str = "# of the lab
[default]
aws_access_key_id = ME
aws_secret_access_key = a/b+c=#;d:
[lab]
  aws_access_key_id=LAB
  aws_secret_access_key=secret
  aws_session_token=token
";

    #[test]
    fn credentials_are_those_of_the_profile() {
        let default = of(None, CREDENTIALS, "").unwrap();
        assert_eq!(keys(&default), Some(("ME", "a/b+c=#;d:", None)));
        let lab = of(Some("lab"), CREDENTIALS, "").unwrap();
        assert_eq!(keys(&lab), Some(("LAB", "secret", Some("token"))));
        let in_config = of(None, "", "[default]\naws_access_key_id=A\naws_secret_access_key=B\n").unwrap();
        assert_eq!(keys(&in_config), Some(("A", "B", None)));
    }

    #[test]
    fn place_is_that_of_the_profile() {
        let config = "
[default]
region = eu-central-1
s3 =
  region = wrong
[profile \"lab\"]
region = garage
endpoint_url = http://wrong
services = ours
[services ours]
dynamodb =
  endpoint_url = http://wrong
s3 =
  signature = x
  endpoint_url = https://s3.lab:8443/a=b
";
        let default = of(None, "", config).unwrap();
        assert_eq!((default.region.as_deref(), default.endpoint.as_deref()), (Some("eu-central-1"), None));
        let lab = of(Some("lab"), "", config).unwrap();
        assert_eq!(lab.region.as_deref(), Some("garage"));
        assert_eq!(lab.endpoint.as_deref(), Some("https://s3.lab:8443/a=b"));
        let plain =
            of(None, "", "[profile default]\nendpoint_url = http://x\n[default]\nregion=a\n").unwrap();
        assert_eq!((plain.region.as_deref(), plain.endpoint.as_deref()), (None, Some("http://x")));
    }

    #[test]
    fn file_that_cannot_be_used_is_told_without_its_secrets() {
        let error = |name, credentials, config| match of(name, credentials, config) {
            Ok(profile) => profile.keys.err().unwrap().to_string(),
            Err(error) => error,
        };
        let nobody = error(None, "", "[default]\nregion = eu\n");
        assert_eq!(nobody, "credentials has no keys of the profile `default`");
        let unknown = error(Some("lba"), CREDENTIALS, "");
        assert_eq!(unknown, "AWS_PROFILE names `lba`, which is neither in credentials nor in config");
        let half = error(None, "[default]\naws_secret_access_key = secret\n", "");
        assert!(half.starts_with("credentials: the profile `default` has only one of"), "{half}");
        let sso = error(Some("me"), "", "[profile me]\nsso_session = work\n");
        assert!(sso.starts_with("config: the profile `me` gets its keys by `sso_session`"), "{sso}");
        let broken = error(None, "[default\naws_secret_access_key = secret\n", "");
        assert!(broken.starts_with("credentials: line 1: ") && !broken.contains("secret"), "{broken}");
    }
}
