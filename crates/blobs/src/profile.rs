//! The usual AWS files, which `object_store` does not read: `~/.aws/credentials` and `~/.aws/config`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::options::{Credentials, Secret};

/// The largest file that is read.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

type Variables = dyn Fn(&str) -> Option<String>;

/// What the process has around it. Tests bring their own.
pub(crate) struct Surroundings {
    pub(crate) variable: Box<Variables>,
    pub(crate) home: Option<PathBuf>,
}

impl Surroundings {
    pub(crate) fn of_process() -> Surroundings {
        Surroundings { variable: Box::new(|name| std::env::var(name).ok()), home: std::env::home_dir() }
    }

    /// A variable that is set and not empty.
    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        (self.variable)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }
}

/// What a profile says.
#[derive(Debug, Default)]
pub(crate) struct Profile {
    pub(crate) name: String,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) region: Option<String>,
    pub(crate) endpoint: Option<String>,
    /// A way to credentials that is not followed: single sign-on, an assumed role, a program.
    pub(crate) unsupported: Option<String>,
    /// The files that were looked into, for the message.
    pub(crate) looked: Vec<PathBuf>,
}

/// Reads the profile from both files; absent files are empty ones.
///
/// # Errors
/// A sentence for a file that cannot be read, is too large, or when a profile that was asked for does not exist.
pub(crate) fn read(around: &Surroundings, wanted: Option<&str>) -> Result<Profile, String> {
    let asked = wanted.map(str::to_owned).or_else(|| around.variable("AWS_PROFILE"));
    let name = asked.clone().unwrap_or_else(|| "default".to_owned());
    let file = |variable: &str, usual: &str| {
        let named = around.variable(variable).map(PathBuf::from);
        named.or_else(|| around.home.as_ref().map(|home| home.join(".aws").join(usual)))
    };
    let mut values = BTreeMap::new();
    let mut found = false;
    let mut looked = Vec::new();
    // The credentials file wins over the configuration file, so it comes last.
    for (variable, usual, section) in [
        ("AWS_CONFIG_FILE", "config", if name == "default" { name.clone() } else { format!("profile {name}") }),
        ("AWS_SHARED_CREDENTIALS_FILE", "credentials", name.clone()),
    ] {
        let Some(path) = file(variable, usual) else { continue };
        if let Some(section) = section_of(&read_bounded(&path)?, &section) {
            found = true;
            values.extend(section);
        }
        looked.push(path);
    }
    if asked.is_some() && !found {
        return Err(format!("profile {name:?} is in none of {}", listed(&looked)));
    }
    let mut take = |key: &str| values.remove(key).filter(|value| !value.is_empty());
    let credentials = match (take("aws_access_key_id"), take("aws_secret_access_key")) {
        (Some(access_key), Some(secret_key)) => Some(Credentials {
            access_key: access_key.into(),
            secret_key: secret_key.into(),
            session_token: take("aws_session_token").map(Secret::from),
        }),
        _ => None,
    };
    let (region, endpoint) = (take("region"), take("endpoint_url"));
    let ways = ["sso_session", "sso_start_url", "role_arn", "credential_process", "login_session"];
    let unsupported = ways.into_iter().find(|way| values.contains_key(*way)).map(str::to_owned);
    Ok(Profile { name, credentials, region, endpoint, unsupported, looked })
}

/// Paths as a list for people.
pub(crate) fn listed(paths: &[PathBuf]) -> String {
    let texts: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    texts.join(", ")
}

fn read_bounded(path: &Path) -> Result<String, String> {
    use std::io::Read;
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(format!("{} cannot be opened: {error}", path.display())),
    };
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut text)
        .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("{} is larger than {FILE_BYTES_MAX} bytes", path.display()));
    }
    String::from_utf8(text).map_err(|_| format!("{} is not UTF-8", path.display()))
}

/// The values of one section; `None` when it is absent. Indented lines (nested settings) are skipped, as are comments.
fn section_of(text: &str, wanted: &str) -> Option<BTreeMap<String, String>> {
    let mut values: Option<BTreeMap<String, String>> = None;
    let mut inside = false;
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if let Some(rest) = trimmed.strip_prefix('[') {
            let title = rest.split(']').next().unwrap_or_default();
            inside = title.split_whitespace().eq(wanted.split_whitespace());
            if inside {
                values.get_or_insert_default();
            }
            continue;
        }
        if line.starts_with([' ', '\t']) || !inside {
            continue;
        }
        if let (Some((key, value)), Some(values)) = (trimmed.split_once('='), values.as_mut()) {
            // A comment may follow after white space; a secret may hold '#' within.
            let value = value.split(" #").next().unwrap_or_default().split(" ;").next().unwrap_or_default();
            values.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(variables: &'static [(&'static str, &'static str)], home: &Path) -> Surroundings {
        let variable =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Surroundings { variable: Box::new(variable), home: Some(home.to_owned()) }
    }

    fn home_with(credentials: &str, config: &str) -> tempfile::TempDir {
        let home = tempfile::tempdir().expect("temporary folder");
        std::fs::create_dir(home.path().join(".aws")).expect("folder");
        std::fs::write(home.path().join(".aws/credentials"), credentials).expect("file");
        std::fs::write(home.path().join(".aws/config"), config).expect("file");
        home
    }

    const CREDENTIALS: &str = "# mine\n[default]\naws_access_key_id = AK1\naws_secret_access_key=S#1 # old\r\n\n[ other ]\n\
        aws_access_key_id=AK2\nAWS_SECRET_ACCESS_KEY = s2=\naws_session_token = t2\n";
    const CONFIG: &str = "[default]\nregion = eu-north-1\ns3 =\n  region = nested\n[profile other]\nregion=r2\n\
        endpoint_url = https://o.example\n[profile sso]\nsso_session = x\n";

    #[test]
    fn both_files_are_read_for_the_default_and_for_a_named_profile() {
        let home = home_with(CREDENTIALS, CONFIG);
        let profile = read(&around(&[], home.path()), None).expect("readable");
        assert_eq!(profile.credentials, Some(Credentials::new("AK1", "S#1")));
        assert_eq!((profile.region.as_deref(), profile.endpoint), (Some("eu-north-1"), None));

        let profile = read(&around(&[("AWS_PROFILE", "other")], home.path()), None).expect("readable");
        let credentials = profile.credentials.expect("present");
        assert_eq!(credentials.secret_key.expose(), "s2=");
        assert_eq!(credentials.session_token.expect("present").expose(), "t2");
        assert_eq!((profile.region.as_deref(), profile.endpoint.as_deref()), (Some("r2"), Some("https://o.example")));
    }

    #[test]
    fn an_absent_profile_is_an_error_only_when_it_was_asked_for() {
        let home = home_with("", "");
        assert!(read(&around(&[], home.path()), None).expect("readable").credentials.is_none());
        let error = read(&around(&[], home.path()), Some("nobody")).expect_err("refused");
        assert!(error.contains("profile \"nobody\" is in none of"), "{error}");
    }

    #[test]
    fn other_ways_to_credentials_are_named() {
        let home = home_with("", CONFIG);
        let profile = read(&around(&[], home.path()), Some("sso")).expect("readable");
        assert_eq!(profile.unsupported.as_deref(), Some("sso_session"));
    }

    #[test]
    fn huge_and_binary_files_are_refused() {
        let home = home_with(&"#".repeat(FILE_BYTES_MAX as usize + 1), "");
        assert!(read(&around(&[], home.path()), None).expect_err("refused").contains("larger than"));
        std::fs::write(home.path().join(".aws/credentials"), b"\xff\xfe").expect("file");
        assert!(read(&around(&[], home.path()), None).expect_err("refused").contains("not UTF-8"));
    }
}
