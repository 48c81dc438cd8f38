//! Changes to the settings in `config.toml`.

use std::path::PathBuf;

use super::{Engine, EngineError};
use crate::environment::Environment;
use crate::settings::{Settings, SettingsError, change, read_text};

impl Engine {
    /// The text of `config.toml`; `None` if there is none.
    pub fn settings_text(&self) -> Result<Option<String>, EngineError> {
        let path = self.settings_path();
        match read_text(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(SettingsError::Read { path, source }.into()),
        }
    }

    /// Sets a setting in `config.toml`. An invalid value changes nothing.
    pub fn set_setting(&self, name: &str, values: &[String]) -> Result<(), EngineError> {
        let was_valid = |before: &str| self.check_settings(before).is_ok();
        self.change_settings(
            |text, path| change::set(text, path, name, values),
            |error, before| error.about_given(name, values, was_valid(before)),
        )
    }

    /// Removes a setting from `config.toml`.
    pub fn unset_setting(&self, name: &str) -> Result<(), EngineError> {
        self.change_settings(|text, path| change::unset(text, path, name), |error, _| error)
    }

    /// Replaces the text of `config.toml` if it still is `before`. An invalid text changes nothing.
    pub fn replace_settings(&self, before: Option<&str>, text: &str) -> Result<(), EngineError> {
        self.check_settings(text)?;
        let _lock = self.store.settings_lock()?;
        if self.settings_text()?.as_deref() != before {
            return Err(EngineError::Usage {
                problem: format!(
                    "{} was changed by someone else in the meantime",
                    self.settings_path().display()
                ),
                hint: "bring both texts together: kugetsu config edit".to_owned(),
            });
        }
        self.write_settings(text)
    }

    /// Whether this text of `config.toml` would be valid, apart from the environment.
    pub fn check_settings(&self, text: &str) -> Result<(), EngineError> {
        Settings::parse(&self.settings_path(), text, &Environment::default())?;
        Ok(())
    }

    fn change_settings(
        &self,
        change: impl FnOnce(&str, &std::path::Path) -> Result<String, SettingsError>,
        explain: impl FnOnce(SettingsError, &str) -> SettingsError,
    ) -> Result<(), EngineError> {
        // Before the lock, which makes the home.
        let path = self.settings_path();
        let _lock = self.store.settings_lock()?;
        let before = self.settings_text()?;
        let old = before.as_deref().unwrap_or_default();
        let text = change(old, &path)?;
        Settings::parse(&path, &text, &Environment::default()).map_err(|error| explain(error, old))?;
        if before.as_deref() == Some(text.as_str()) {
            return Ok(());
        }
        self.write_settings(&text)
    }

    /// Writes the file, or the file that a link in its place leads to: many people keep their settings elsewhere.
    fn write_settings(&self, text: &str) -> Result<(), EngineError> {
        let path = self.settings_path();
        let target: PathBuf = std::fs::canonicalize(&path).unwrap_or(path);
        Ok(self.store.write_settings(&target, text.as_bytes())?)
    }
}
