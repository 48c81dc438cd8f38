//! Any text in `config.toml`: no panic, and every mistake is one in the file.
#![no_main]

use std::path::Path;

use kugetsu_engine::operations::Environment;
use kugetsu_engine::settings::Settings;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(error) = Settings::parse(Path::new("/home/config.toml"), text, &Environment::default()) {
        assert!(error.is_in_file(), "{error}");
    }
});
