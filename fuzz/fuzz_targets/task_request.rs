//! Any body of a request for a task: no panic, and what the queue would keep is the same after it is written and read
//! again.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use kugetsu_api::{TaskRequest, TaskSpec};
use kugetsu_daemon::spec_of_request;
use kugetsu_engine::operations::Environment;
use kugetsu_engine::settings::Settings;
use libfuzzer_sys::fuzz_target;

static SETTINGS: LazyLock<Settings> = LazyLock::new(|| {
    let text = "instance = \"github.com\"";
    Settings::parse(Path::new("/home/config.toml"), text, &Environment::default()).expect("valid settings")
});

fuzz_target!(|data: &[u8]| {
    let Ok(request) = serde_json::from_slice::<TaskRequest>(data) else { return };
    for key in [None, Some("a key")] {
        let Some(spec) = spec_of_request(request.clone(), key, &SETTINGS) else { continue };
        assert!(!spec.prompt.trim().is_empty());
        assert_eq!(spec.prompt, request.prompt);
        let text = serde_json::to_string(&spec).expect("what was read can be written");
        assert_eq!(serde_json::from_str::<TaskSpec>(&text).ok(), Some(spec));
    }
});
