//! No text makes the parser panic, and no address that it accepts has a path outside the sessions folder.
#![no_main]

use std::path::{Component, Path};

use kugetsu_api::{Address, RefContext, RepoRef};
use kugetsu_engine::store::{RecordKey, Store};
use libfuzzer_sys::fuzz_target;

fn check(store: &Store, key: &RecordKey) {
    for (path, root) in [
        (store.record_path(key), "/home/sessions"),
        (store.folder(key), "/home/sessions"),
        (store.run_path(key, ".lease"), "/home/run"),
    ] {
        let below = path.strip_prefix(root).expect("a path outside the store");
        assert!(below.components().all(|part| matches!(part, Component::Normal(_))), "{}", path.display());
        assert!(below.components().count() > 2);
    }
    assert_eq!(RecordKey::of_record(&key.record()).as_ref(), Some(key));
}

fuzz_target!(|text: &str| {
    let store = Store::open(Path::new("/home").into());
    let origin = RepoRef::try_from("git.example.org/team/tool".to_owned()).ok();
    let full = RefContext { default_instance: Some("github.com".to_owned()), origin };
    for context in [RefContext::default(), full] {
        match Address::parse(text, &context) {
            Ok(address) => {
                check(&store, &(&address).into());
                assert_eq!(Address::try_from(address.to_string()), Ok(address));
            }
            Err(error) => assert!(!error.to_string().chars().any(char::is_control)),
        }
        if let Ok(repo) = RepoRef::parse(text, &context) {
            check(&store, &(&repo).into());
            assert_eq!(RepoRef::try_from(repo.to_string()), Ok(repo));
        }
    }
    if let Ok(repo) = RepoRef::from_remote_url(text) {
        check(&store, &(&repo).into());
    }
});
