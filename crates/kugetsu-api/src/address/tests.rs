//! Addresses: every form that is accepted, what is refused, the order.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use crate::{Address, AddressName, RefContext, RefError, RepoRef};
use proptest::prelude::*;

fn context() -> RefContext {
    RefContext {
        default_instance: Some("github.com".to_owned()),
        origin: Some(RepoRef::try_from("git.example.org/team/tool".to_owned()).unwrap()),
    }
}

fn parse(text: &str) -> Result<String, RefError> {
    Address::parse(text, &context()).map(|address| address.to_string())
}

#[test]
fn accepted_forms() {
    let table = [
        ("14", "git.example.org/team/tool#14"),
        ("14/review", "git.example.org/team/tool#14/review"),
        ("#14/Review", "git.example.org/team/tool#14/review"),
        ("14/1.2", "git.example.org/team/tool#14/1.2"),
        ("shoko/kugetsu#14/fix", "github.com/shoko/kugetsu#14/fix"),
        (
            "github.com/shoko/kugetsu#14/verify.2",
            "github.com/shoko/kugetsu#14/verify.2",
        ),
        ("~nightly", "git.example.org/team/tool~nightly"),
        ("shoko/kugetsu~Nightly", "github.com/shoko/kugetsu~nightly"),
        (
            "github.com/shoko/kugetsu~a-b_c.1",
            "github.com/shoko/kugetsu~a-b_c.1",
        ),
        ("git.sr.ht/~user/tool~x", "git.sr.ht/~user/tool~x"),
        ("git.sr.ht/~user/tool#3/x", "git.sr.ht/~user/tool#3/x"),
        ("~user/tool#3", "github.com/~user/tool#3"),
        ("~user/tool~x", "github.com/~user/tool~x"),
        (
            "https://github.com/shoko/kugetsu/issues/14",
            "github.com/shoko/kugetsu#14",
        ),
    ];
    for (text, canonical) in table {
        assert_eq!(parse(text).as_deref(), Ok(canonical), "{text}");
    }
}

#[test]
fn refused_forms() {
    for text in [
        "14/",
        "14/..",
        "14/.",
        "14/-x",
        "14/.x",
        "14/a..b",
        "14/a.json",
        "14/a/b",
        "14/a b",
        "14/a#b",
        "14/ä",
        "~",
        "~-x",
        "~..",
        "~a/b",
        "~a.lock",
        "o/r~",
        "o/r~x~",
        "o/r#",
        "o/r#/x",
        "o/r#0/x",
        "#/x",
    ] {
        assert!(parse(text).is_err(), "{text}: {:?}", parse(text));
    }
    let long = "x".repeat(65);
    assert!(parse(&format!("14/{long}")).is_err());
    assert!(parse(&format!("14/{}", &long[..64])).is_ok());
    assert!(
        AddressName::new("a.json")
            .unwrap_err()
            .to_string()
            .contains("dot")
    );
}

#[test]
fn short_forms_need_the_clone() {
    for text in ["14", "#14", "14/review", "#14/1.2", "~x"] {
        assert!(Address::needs_clone(text), "{text}");
        assert!(Address::parse(text, &RefContext::default()).is_err(), "{text}");
    }
    for text in [
        "o/r#14",
        "o/r~x",
        "github.com/o/r#14/review",
        "~o/r#14",
        "~o/r~x",
        "https://github.com/o/r/issues/14",
    ] {
        assert!(!Address::needs_clone(text), "{text}");
    }
}

#[test]
fn a_repository_lists_issues_with_their_roles_before_names() {
    let mut all: Vec<Address> = [
        "o/r~a", "o/r#15", "o/r#14/b", "o/r#2", "o/r#14", "o/r#14/a", "a/z~x",
    ]
    .map(|text| Address::parse(text, &context()).unwrap())
    .to_vec();
    all.sort();
    let sorted: Vec<_> = all.iter().map(ToString::to_string).collect();
    assert_eq!(
        sorted,
        [
            "a/z~x", "o/r#2", "o/r#14", "o/r#14/a", "o/r#14/b", "o/r#15", "o/r~a"
        ]
        .map(|text| format!("github.com/{text}"))
    );
}

#[test]
fn a_record_has_the_canonical_form() {
    let address: Address = serde_json::from_str("\"github.com/o/r#14/review\"").unwrap();
    assert_eq!(address.role().map(AddressName::as_str), Some("review"));
    assert_eq!(
        serde_json::to_string(&address).unwrap(),
        "\"github.com/o/r#14/review\""
    );
    assert!(serde_json::from_str::<Address>("\"14/review\"").is_err());
    assert!(serde_json::from_str::<Address>("\"github.com/o/r#14/a/b\"").is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_printed_is_read_again(
        text in "(github\\.com/)?[a-z]{1,4}/[a-z]{1,4}(#[1-9][0-9]{0,5}(/[a-zA-Z0-9][a-z0-9_-]{0,6}(\\.[0-9]{1,2})?)?|~[a-zA-Z0-9][a-z0-9_-]{0,6})"
    ) {
        let address = Address::parse(&text, &context()).unwrap();
        prop_assert_eq!(Address::parse(&address.to_string(), &RefContext::default()), Ok(address.clone()));
        prop_assert_eq!(Address::try_from(address.to_string()), Ok(address));
    }

    #[test]
    fn no_text_panics(text in any::<String>()) {
        check(&text);
    }

    #[test]
    fn no_text_that_looks_right_panics(text in "[a-z./]{0,8}[#~]?[0-9]{0,3}[/~#]?[a-zA-Z0-9._-]{0,6}\\PC?") {
        check(&text);
    }
}

fn check(text: &str) {
    for context in [context(), RefContext::default()] {
        match Address::parse(text, &context) {
            Ok(address) => assert_eq!(Address::try_from(address.to_string()), Ok(address)),
            Err(error) => assert!(!error.to_string().chars().any(char::is_control), "{text:?}"),
        }
    }
}
