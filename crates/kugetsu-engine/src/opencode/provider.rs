//! What a sandboxed opencode needs to reach its model: the provider's host and key, from opencode's own files.
//!
//! opencode finds the address of a provider in three places: `provider.NAME.options.baseURL` of its configuration, `api` in
//! its list of models (`models.json`), and the package of the provider. The addresses in packages are listed here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::jsonc;
use crate::environment::Environment;
use crate::fsx;

/// The longest file of opencode that is read. Its list of models has about 2 MB.
const MAX_FILE: u64 = 32 << 20;

/// The hosts of providers whose address is in their package (`api` is missing in `models.json`), by the provider's id.
const HOSTS: [(&str, &str); 13] = [
    ("anthropic", "api.anthropic.com"),
    ("cerebras", "api.cerebras.ai"),
    ("cohere", "api.cohere.com"),
    ("deepinfra", "api.deepinfra.com"),
    ("github-copilot", "api.githubcopilot.com"),
    ("google", "generativelanguage.googleapis.com"),
    ("groq", "api.groq.com"),
    ("mistral", "api.mistral.ai"),
    ("openai", "api.openai.com"),
    ("opencode", "opencode.ai"),
    ("perplexity", "api.perplexity.ai"),
    ("togetherai", "api.together.xyz"),
    ("xai", "api.x.ai"),
];

/// What opencode needs to reach the models that it uses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProviderAccess {
    /// The providers.
    pub names: BTreeSet<String>,
    /// Hosts and ports.
    pub hosts: BTreeSet<(String, u16)>,
    /// Those of the hosts that may be in a private network, because the user's configuration names them as a provider.
    pub private: BTreeSet<(String, u16)>,
    /// Ports of this machine's loopback.
    pub loopback: BTreeSet<u16>,
    /// Variables that hold keys.
    pub variables: BTreeSet<String>,
    /// Files that hold keys.
    pub files: BTreeSet<PathBuf>,
    /// The part of `auth.json` for these providers.
    pub auth: Map<String, Value>,
    /// Whether a configuration chooses opencode's shell.
    pub chooses_shell: bool,
    /// Providers whose login renews itself and therefore cannot be used by two databases.
    pub renewed: BTreeSet<String>,
}

impl ProviderAccess {
    /// Adds a host, or a port of this machine's loopback.
    pub(crate) fn add_host(&mut self, host: &str, port: u16) {
        let local = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if local {
            self.loopback.insert(port);
        } else {
            self.hosts.insert((host.to_ascii_lowercase(), port));
        }
    }
}

/// Where the opencode of a user keeps its files (measured on 1.3.2 and 1.18.33).
#[derive(Clone, Debug)]
pub struct UserFiles {
    /// The folder of its configuration.
    pub config: PathBuf,
    /// The folder of its data.
    pub data: PathBuf,
    /// The folder of its cache.
    pub cache: PathBuf,
}

impl UserFiles {
    /// The files in this environment.
    pub fn of(environment: &Environment) -> Self {
        let folder = |name: &str, default: &str| {
            let base = environment.get(name).map(PathBuf::from);
            base.unwrap_or_else(|| environment.home().join(default))
                .join("opencode")
        };
        Self {
            config: folder("XDG_CONFIG_HOME", ".config"),
            data: folder("XDG_DATA_HOME", ".local/share"),
            cache: folder("XDG_CACHE_HOME", ".cache"),
        }
    }

    /// Files and folders outside `config` that hold configuration as well.
    pub fn further_config(environment: &Environment) -> Vec<PathBuf> {
        ["OPENCODE_CONFIG", "OPENCODE_CONFIG_DIR", "OPENCODE_MODELS_PATH"]
            .iter()
            .filter_map(|name| environment.get(name).map(PathBuf::from))
            .filter(|path| path.is_absolute())
            .collect()
    }
}

/// Whether a configuration of the user, or of the project in this folder, chooses the shell of opencode's tools, or might.
pub fn chooses_shell(environment: &Environment, project: &Path) -> bool {
    let files = UserFiles::of(environment);
    let chooses = |config: &Value| config.get("shell").is_some();
    // A relative path means another file in the folder of a server.
    let is_relative = |name| {
        environment
            .get(name)
            .is_some_and(|path| Path::new(path).is_relative())
    };
    if ["OPENCODE_CONFIG", "OPENCODE_CONFIG_DIR"]
        .into_iter()
        .any(is_relative)
    {
        return true;
    }
    let mut folders = vec![files.config, environment.home().join(".opencode")];
    folders.extend(environment.get("OPENCODE_CONFIG_DIR").map(PathBuf::from));
    let own = folders
        .into_iter()
        .flat_map(|folder| ["config.json", "opencode.json", "opencode.jsonc"].map(|name| folder.join(name)));
    let of_project = project
        .ancestors()
        .flat_map(|folder| ["", ".opencode"].map(|inner| folder.join(inner)))
        .flat_map(|folder| ["opencode.json", "opencode.jsonc"].map(|name| folder.join(name)));
    let named = environment.get("OPENCODE_CONFIG").map(PathBuf::from);
    let mut texts = own
        .into_iter()
        .chain(named)
        .chain(of_project)
        .filter_map(|path| read(&path));
    let content = environment.get("OPENCODE_CONFIG_CONTENT");
    let content = content.map(|text| text.to_string_lossy().into_owned());
    texts.any(|text| jsonc::value(&text).as_ref().is_some_and(chooses))
        || content.is_some_and(|text| jsonc::value(&text).as_ref().is_some_and(chooses))
}

/// What opencode needs for a turn with this model. `project` is the folder of a project whose configuration opencode reads.
pub fn provider_access(
    environment: &Environment,
    model: Option<&str>,
    project: Option<&Path>,
) -> ProviderAccess {
    let files = UserFiles::of(environment);
    let mut access = ProviderAccess::default();
    let mut configs = Vec::new();
    let mut paths: Vec<PathBuf> = ["config.json", "opencode.json", "opencode.jsonc"]
        .iter()
        .map(|name| files.config.join(name))
        .collect();
    paths.extend(environment.get("OPENCODE_CONFIG").map(PathBuf::from));
    paths.extend(
        project
            .into_iter()
            .flat_map(|folder| ["opencode.json", "opencode.jsonc"].map(|name| folder.join(name))),
    );
    for path in &paths {
        if let Some(text) = read(path) {
            substitutions(
                &text,
                path.parent().unwrap_or(Path::new("/")),
                environment.home(),
                &mut access,
            );
            configs.extend(jsonc::value(&text));
        }
    }
    if let Some(text) = environment.get("OPENCODE_CONFIG_CONTENT") {
        configs.extend(jsonc::value(&text.to_string_lossy()));
    }
    access.chooses_shell = configs.iter().any(|config| config.get("shell").is_some());
    let auth: Map<String, Value> = read(&files.data.join("auth.json"))
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default();
    access.names = names(model, &configs);
    if access.names.is_empty() && auth.len() == 1 {
        access.names.extend(auth.keys().cloned());
    }
    let mut models: Option<Value> = None;
    for name in access.names.clone() {
        let configured = configs.iter().rev().find_map(|config| {
            config
                .pointer(&format!("/provider/{}/options/baseURL", pointer(&name)))?
                .as_str()
        });
        if let Some(url) = configured {
            let before = access.hosts.clone();
            add_url(url, &mut access);
            access.private.extend(access.hosts.difference(&before).cloned());
        } else if let Some((_, host)) = HOSTS.iter().find(|(provider, _)| *provider == name) {
            access.hosts.insert(((*host).to_owned(), 443));
        } else {
            let models = models.get_or_insert_with(|| models_list(environment, &files));
            if let Some(url) = models
                .pointer(&format!("/{}/api", pointer(&name)))
                .and_then(Value::as_str)
            {
                add_url(url, &mut access);
            }
        }
        // Most providers name their variable so; others are listed in `sandbox_env`.
        access
            .variables
            .insert(format!("{}_API_KEY", name.to_ascii_uppercase().replace('-', "_")));
        match auth.get(&name) {
            Some(entry) if entry.get("type").and_then(Value::as_str) == Some("oauth") => {
                access.renewed.insert(name);
            }
            Some(entry) => {
                access.auth.insert(name, entry.clone());
            }
            None => {}
        }
    }
    access
}

fn read(path: &Path) -> Option<String> {
    String::from_utf8(fsx::read_bounded(path, MAX_FILE).ok()?).ok()
}

fn models_list(environment: &Environment, files: &UserFiles) -> Value {
    let path = environment
        .get("OPENCODE_MODELS_PATH")
        .map_or_else(|| files.cache.join("models.json"), PathBuf::from);
    read(&path)
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default()
}

/// The providers of every model that the configurations name, and of this model.
fn names(model: Option<&str>, configs: &[Value]) -> BTreeSet<String> {
    let mut models: Vec<&str> = model.into_iter().collect();
    for config in configs {
        models.extend(
            ["model", "small_model"]
                .iter()
                .filter_map(|key| config.get(key)?.as_str()),
        );
        for kind in ["agent", "mode", "command"] {
            let entries = config.get(kind).and_then(Value::as_object);
            models.extend(
                entries
                    .into_iter()
                    .flatten()
                    .filter_map(|(_, entry)| entry.get("model")?.as_str()),
            );
        }
    }
    models
        .into_iter()
        .filter_map(|model| model.split_once('/'))
        .map(|(provider, _)| provider.to_owned())
        .collect()
}

/// Collects what `{env:NAME}` and `{file:PATH}` in a configuration refer to.
fn substitutions(text: &str, folder: &Path, home: &Path, access: &mut ProviderAccess) {
    for (begin, end) in text
        .match_indices('{')
        .filter_map(|(at, _)| Some((at, at + text[at..].find('}')?)))
    {
        match text[begin + 1..end].split_once(':') {
            Some(("env", name)) => {
                access.variables.insert(name.trim().to_owned());
            }
            Some(("file", path)) => {
                let path = path.trim();
                access.files.insert(match path.strip_prefix("~/") {
                    Some(rest) => home.join(rest),
                    None => folder.join(path),
                });
            }
            _ => {}
        }
    }
}

fn add_url(url: &str, access: &mut ProviderAccess) {
    let Ok(url) = reqwest::Url::parse(url) else { return };
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
        return;
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    access.add_host(host, port);
}

/// A key as a part of a JSON pointer (RFC 6901).
fn pointer(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests make their own files")]
mod tests {
    use super::*;

    #[test]
    fn the_provider_of_a_model_is_found_with_its_host_and_key() {
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name);
        std::fs::create_dir_all(path(".config/opencode")).unwrap();
        std::fs::create_dir_all(path(".local/share/opencode")).unwrap();
        std::fs::create_dir_all(path(".cache/opencode")).unwrap();
        std::fs::write(
            path(".config/opencode/opencode.jsonc"),
            r#"{ // a comment
                "small_model": "local/m",
                "provider": {"local": {"options": {"baseURL": "http://localhost:11434/v1", "apiKey": "{env:LOCAL}"}},
                             "own": {"options": {"baseURL": "https://llm.example.com/v1", "apiKey": "{file:key}"}}},
            }"#,
        )
        .unwrap();
        std::fs::write(
            path(".local/share/opencode/auth.json"),
            r#"{"anthropic": {"type": "api", "key": "a"}, "other": {"type": "api", "key": "b"},
                "openai": {"type": "oauth"}}"#,
        )
        .unwrap();
        std::fs::write(
            path(".cache/opencode/models.json"),
            r#"{"zai": {"api": "https://api.z.ai/v4"}}"#,
        )
        .unwrap();
        let environment = Environment::new([], home.path().to_owned(), "kugetsu".into());
        let access = |model| provider_access(&environment, Some(model), None);

        let anthropic = access("anthropic/claude");
        assert_eq!(
            anthropic.hosts,
            BTreeSet::from([("api.anthropic.com".to_owned(), 443)])
        );
        assert_eq!(anthropic.loopback, BTreeSet::from([11434]));
        assert_eq!(anthropic.auth.keys().collect::<Vec<_>>(), ["anthropic"]);
        assert!(anthropic.variables.contains("ANTHROPIC_API_KEY") && anthropic.variables.contains("LOCAL"));
        assert!(anthropic.files.contains(&path(".config/opencode/key")));
        let own = BTreeSet::from([("llm.example.com".to_owned(), 443)]);
        let found = access("own/x");
        assert_eq!((&found.hosts, &found.private), (&own, &own));
        let listed = access("zai/x");
        assert_eq!(listed.hosts, BTreeSet::from([("api.z.ai".to_owned(), 443)]));
        assert!(listed.private.is_empty(), "{listed:?}");
        let renewed = access("openai/x");
        assert_eq!((renewed.renewed.len(), renewed.auth.len()), (1, 0));
    }
}
