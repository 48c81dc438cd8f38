//! Permission rules: short form, presets, opencode's matching, both written forms, explanation.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::path::Path;

use crate::opencode::parse_agent_rules;
use crate::permission::wildcard::matches;
use crate::permission::{
    Action, CLASSES, Explained, OTHER_TOOLS, Policy, Preset, Rule, RuleError, Source, env_json, evaluate,
    explain, rules_to_json,
};
use proptest::prelude::*;
use serde::Deserialize;

fn rule(text: &str) -> Rule {
    text.parse().unwrap()
}

fn rules(texts: &[&str]) -> Vec<Rule> {
    texts.iter().map(|text| rule(text)).collect()
}

fn own(texts: &[&str]) -> Policy {
    Policy {
        preset: Preset::Headless,
        rules: rules(texts),
    }
}

fn action(rules: &[Rule], class: &str, input: &str) -> Action {
    evaluate(rules, class, input).map_or(Action::Ask, |rule| rule.action)
}

// ---- short form

#[test]
fn rules_are_read_and_printed_in_short_form() {
    let all = rule("edit=deny");
    assert_eq!(
        (all.permission.as_str(), all.pattern.as_str(), all.action),
        ("edit", "*", Action::Deny)
    );
    assert_eq!(all.to_string(), "edit=deny");
    assert_eq!(rule("edit:*=deny"), all);

    let push = rule("bash:git push *=deny");
    assert_eq!(
        (push.permission.as_str(), push.pattern.as_str()),
        ("bash", "git push *")
    );
    assert_eq!(push.to_string(), "bash:git push *=deny");

    // The class ends at the first colon, and the action starts after the last equals sign.
    let colons = rule("bash:A=b curl http://x:80 *=ask");
    assert_eq!(
        (colons.pattern.as_str(), colons.action),
        ("A=b curl http://x:80 *", Action::Ask)
    );
    assert_eq!(rule("github_*=allow").permission, "github_*");
}

#[test]
fn an_invalid_rule_is_refused_with_the_right_form() {
    for (text, expected) in [
        ("", "write `permission[:pattern]=action`"),
        ("edit", "write `permission[:pattern]=action`"),
        (
            "edit=maybe",
            "`maybe` in the rule `edit=maybe` is not an action: it is `allow`, `deny` or `ask`",
        ),
        ("edit=", "is not an action"),
        ("=deny", "is not a valid permission class"),
        (":x=deny", "is not a valid permission class"),
        ("ba?h=deny", "is not a valid permission class"),
        ("7=deny", "is not a valid permission class"),
        ("b sh=deny", "is not a valid permission class"),
        ("bash:=deny", "an empty pattern"),
        ("bash:a\0b=deny", "a control character"),
        ("bash:a\nb=deny", "a control character"),
    ] {
        let error = text.parse::<Rule>().unwrap_err().to_string();
        assert!(error.contains(expected), "{text:?}: {error}");
        assert!(error.lines().count() <= 3 && !error.contains('\0'), "{error:?}");
    }
    let long = format!("bash:{}=deny", "x".repeat(5000));
    assert!(matches!(long.parse::<Rule>(), Err(RuleError::Pattern { .. })));
    assert!(long.parse::<Rule>().unwrap_err().to_string().len() < 400);
}

#[test]
fn presets_have_names() {
    for preset in Preset::ALL {
        assert_eq!(preset.to_string().parse(), Ok(preset));
        assert_eq!(serde_json::to_value(preset).unwrap(), preset.to_string());
    }
    let error = "yolo".parse::<Preset>().unwrap_err().to_string();
    assert_eq!(
        error,
        "`yolo` is not a permission preset: it is `headless`, `read-only`, `stranger` or `full`"
    );
    assert_eq!(Preset::default(), Preset::Headless);
}

#[test]
fn a_home_at_the_beginning_is_expanded_as_in_opencodes_configuration() {
    let home = Path::new("/home/dev");
    for (written, expanded) in [
        ("~", "/home/dev"),
        ("~/x/*", "/home/dev/x/*"),
        ("$HOME/x", "/home/dev/x"),
        ("~other/x", "~other/x"),
        ("/a/~/b", "/a/~/b"),
    ] {
        let mut rule = rule(&format!("external_directory:{written}=allow"));
        rule.expand_home(home);
        assert_eq!(rule.pattern, expanded);
    }
}

// ---- matching

#[test]
fn opencodes_wildcards() {
    for (input, pattern) in [
        ("git", "git *"),
        ("git push --force", "git *"),
        ("a/b/c", "a/*"),
        ("two\nlines", "two*"),
        ("a\\b", "a/b"),
        ("a/b", "a\\b"),
        ("x.env", "*.env"),
        ("", "*"),
        ("", " *"),
        ("a.b", "a.b"),
        ("ab", "a?"),
        ("😀", "??"),
    ] {
        assert!(matches(input, pattern), "{pattern:?} should match {input:?}");
    }
    for (input, pattern) in [
        ("gitk", "git *"),
        ("axb", "a.b"),
        ("Git", "git"),
        ("ab", "b"),
        ("a", "a?"),
        ("😀", "?"),
        ("(a)", "[(]a[)]"),
    ] {
        assert!(!matches(input, pattern), "{pattern:?} should not match {input:?}");
    }
    // Many stars do not take exponential time.
    assert!(!matches(&"a".repeat(5000), &format!("{}b", "a*".repeat(500))));
}

/// The definition of the match, by exhaustive search.
fn naive(input: &[u16], pattern: &[u16]) -> bool {
    match pattern.split_first() {
        None => input.is_empty(),
        Some((&star, rest)) if star == u16::from(b'*') => {
            (0..=input.len()).any(|skipped| naive(&input[skipped..], rest))
        }
        Some((&unit, rest)) => input
            .split_first()
            .is_some_and(|(&first, input)| (unit == first || unit == u16::from(b'?')) && naive(input, rest)),
    }
}

fn naive_matches(input: &str, pattern: &str) -> bool {
    let units = |text: &str| text.replace('\\', "/").encode_utf16().collect::<Vec<_>>();
    let whole = naive(&units(input), &units(pattern));
    whole
        || pattern
            .strip_suffix(" *")
            .is_some_and(|stem| naive(&units(input), &units(stem)))
}

fn short_text() -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop::sample::select(vec!['a', 'b', ' ', '*', '?', '/', '\\', '.', '\n', '😀']),
        0..8,
    )
    .prop_map(String::from_iter)
}

// ---- rules in general

fn literal_class() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["bash", "edit", "read", "mcp_a", "mcp_b", "question"])
}

fn any_class() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        literal_class(),
        prop::sample::select(vec!["*", "**", "*_*", "mcp_*"])
    ]
}

fn plain_pattern() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["*", "a*", "*a", "ab", "git *", "git", "?b", "a b *"])
}

fn any_pattern() -> impl Strategy<Value = &'static str> {
    prop_oneof![3 => plain_pattern(), 1 => prop::sample::select(vec!["7", "12", "0", "7 *", "7*", "07"])]
}

fn input() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "ab", "a", "ba", "git", "git x", "bb", "", "a b", "7", "12", "0", "07", "7 x",
    ])
}

fn any_action() -> impl Strategy<Value = Action> {
    prop::sample::select(vec![Action::Allow, Action::Deny, Action::Ask])
}

fn rule_of(
    class: impl Strategy<Value = &'static str>,
    pattern: impl Strategy<Value = &'static str>,
) -> impl Strategy<Value = Rule> {
    (class, pattern, any_action()).prop_map(|(permission, pattern, action)| Rule {
        permission: permission.to_owned(),
        pattern: pattern.to_owned(),
        action,
    })
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let preset = prop::sample::select(Preset::ALL.to_vec());
    (
        preset,
        prop::collection::vec(rule_of(any_class(), any_pattern()), 0..8),
    )
        .prop_map(|(preset, rules)| Policy { preset, rules })
}

// ---- the object form

/// A JSON object as JavaScript reads it: keys in order, index-like keys first, a repeated key in its first place with
/// its last value.
struct Object<V>(Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Object<V> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<V>(std::marker::PhantomData<V>);
        impl<'de, V: Deserialize<'de>> serde::de::Visitor<'de> for Visitor<V> {
            type Value = Object<V>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Object<V>, A::Error> {
                let mut entries: Vec<(String, V)> = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, V>()? {
                    match entries.iter_mut().find(|(earlier, _)| *earlier == key) {
                        Some(entry) => entry.1 = value,
                        None => entries.push((key, value)),
                    }
                }
                let index = |key: &str| key.parse::<u32>().ok().filter(|n| n.to_string() == key);
                entries.sort_by_key(|(key, _)| index(key).map_or((1, 0), |index| (0, index)));
                Ok(Object(entries))
            }
        }
        deserializer.deserialize_map(Visitor(std::marker::PhantomData))
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Patterns {
    All(Action),
    Each(Object<Action>),
}

/// The list that opencode builds from the object (`Permission.fromConfig`).
fn from_config(json: &str) -> Vec<Rule> {
    let object: Object<Patterns> = serde_json::from_str(json).unwrap();
    let mut rules = Vec::new();
    for (class, patterns) in object.0 {
        let patterns = match patterns {
            Patterns::All(action) => vec![("*".to_owned(), action)],
            Patterns::Each(patterns) => patterns.0,
        };
        for (pattern, action) in patterns {
            rules.push(Rule {
                permission: class.clone(),
                pattern,
                action,
            });
        }
    }
    rules
}

#[test]
fn the_object_form_is_what_opencode_json_takes() {
    let json = env_json(&own(&["bash:rm *=deny", "bash:git *=allow", "edit=ask"]).rules());
    assert!(json.contains(r#""question":"deny""#), "{json}");
    assert!(
        json.contains(r#""external_directory":{"*":"deny","/tmp/*":"allow""#),
        "{json}"
    );
    assert!(
        json.contains(r#""bash":{"rm *":"deny","git *":"allow"},"edit":"ask","#),
        "{json}"
    );
    assert!(
        json.ends_with(r#""bash *":{"rm *":"deny","git *":"allow"},"edit *":"ask"}"#),
        "{json}"
    );
}

#[test]
fn the_object_overrules_the_users_configuration() {
    // opencode's merge: the user's keys keep their place, maps are merged, everything else is replaced.
    let user = r#"{"bash":{"*":"ask","rm *":"allow"},"question":"allow","*":"ask"}"#;
    let mut merged: serde_json::Map<String, serde_json::Value> = serde_json::Map::new();
    let mut order: Vec<String> = Vec::new();
    for json in [
        user.to_owned(),
        env_json(&own(&["bash:git *=deny", "bash:rm *=deny"]).rules()),
    ] {
        let object: Object<serde_json::Value> = serde_json::from_str(&json).unwrap();
        for (key, value) in object.0 {
            if !order.contains(&key) {
                order.push(key.clone());
            }
            match (merged.get_mut(&key), value) {
                (Some(serde_json::Value::Object(old)), serde_json::Value::Object(new)) => old.extend(new),
                (_, value) => _ = merged.insert(key, value),
            }
        }
    }
    let keys: Vec<String> = order
        .iter()
        .map(|key| format!("{}:{}", serde_json::json!(key), merged[key]))
        .collect();
    let effective = from_config(&format!("{{{}}}", keys.join(",")));
    assert_eq!(action(&effective, "question", "*"), Action::Deny);
    assert_eq!(action(&effective, "doom_loop", "*"), Action::Deny);
    assert_eq!(action(&effective, "bash", "rm x"), Action::Deny);
    assert_eq!(action(&effective, "bash", "git x"), Action::Deny);
}

#[test]
fn a_class_that_comes_twice_keeps_its_meaning() {
    // `*` between two rules of one class overrules the first and not the second.
    let policy = own(&[
        "bash:a*=deny",
        "*:ab=allow",
        "bash:abc=deny",
        "*:x=deny",
        "mcp_*=allow",
        "*:y=deny",
    ]);
    let object = from_config(&env_json(&policy.rules()));
    for (class, input, expected) in [
        ("bash", "ab", Action::Allow),
        ("bash", "ac", Action::Deny),
        ("bash", "abc", Action::Deny),
        ("mcp_a", "x", Action::Allow),
        ("mcp_a", "y", Action::Deny),
        ("other", "y", Action::Deny),
    ] {
        assert_eq!(action(&policy.rules(), class, input), expected);
        assert_eq!(
            action(&object, class, input),
            expected,
            "{}",
            env_json(&policy.rules())
        );
    }
}

#[test]
fn a_pattern_that_javascript_would_put_first_never_loosens() {
    let policy = own(&["bash=allow", "bash:7=deny", "edit=deny", "edit:7=allow"]);
    let object = from_config(&env_json(&policy.rules()));
    assert_eq!(action(&object, "bash", "7"), Action::Deny);
    assert_eq!(action(&object, "bash", "8"), Action::Allow);
    assert_eq!(action(&object, "edit", "7"), Action::Deny);
}

// ---- presets

#[test]
fn nothing_waits_for_a_person_under_any_preset() {
    for version in ["1.3.2", "1.18.33"] {
        let agent = agent_rules(version);
        // Without a policy, the agent would ask, or offers a tool that is a question.
        assert_eq!(action(&agent, "doom_loop", "x"), Action::Ask);
        assert_eq!(action(&agent, "external_directory", "/etc/*"), Action::Ask);
        assert_eq!(action(&agent, "read", "a/.env"), Action::Ask);
        assert_eq!(action(&agent, "question", "*"), Action::Allow);
        for preset in Preset::ALL {
            let policy = Policy {
                preset,
                rules: Vec::new(),
            };
            let lines = explain(&policy, Some(&agent));
            let asking: Vec<_> = lines.iter().filter(|line| line.could_ask).collect();
            assert!(asking.is_empty(), "{version} {preset}: {asking:?}");
            for class in ["question", "plan_enter", "plan_exit"] {
                let all = [agent.clone(), policy.rules()].concat();
                assert_eq!(
                    action(&all, class, "*"),
                    Action::Deny,
                    "{version} {preset} {class}"
                );
            }
        }
    }
}

#[test]
fn headless_lets_work_through_and_keeps_secrets() {
    let all = [agent_rules("1.18.33"), Policy::default().rules()].concat();
    for (class, input, expected) in [
        ("bash", "cargo test", Action::Allow),
        ("edit", "src/main.rs", Action::Allow),
        ("read", "src/main.rs", Action::Allow),
        ("read", "app/.env", Action::Deny),
        ("read", ".env.local", Action::Deny),
        ("read", ".env.example", Action::Allow),
        ("external_directory", "/etc/*", Action::Deny),
        ("external_directory", "/tmp/*", Action::Allow),
        ("external_directory", "/tmp/a/*", Action::Allow),
        (
            "external_directory",
            "/home/dev/.local/share/opencode/tool-output/*",
            Action::Allow,
        ),
        ("github_get_issue", "*", Action::Allow),
    ] {
        assert_eq!(action(&all, class, input), expected, "{class} {input}");
    }
}

#[test]
fn read_only_changes_nothing() {
    let policy = Policy {
        preset: Preset::ReadOnly,
        rules: Vec::new(),
    };
    let all = [agent_rules("1.3.2"), policy.rules()].concat();
    for class in [
        "edit",
        "bash",
        "task",
        "github_create_issue",
        "question",
        "doom_loop",
    ] {
        assert_eq!(action(&all, class, "anything"), Action::Deny, "{class}");
        // The tool is not offered to the model either: the last rule of the class denies everything.
        let last = all.iter().rfind(|rule| matches(class, &rule.permission)).unwrap();
        assert_eq!(
            (last.pattern.as_str(), last.action),
            ("*", Action::Deny),
            "{class}"
        );
    }
    assert_eq!(action(&all, "read", "src/main.rs"), Action::Allow);
    assert_eq!(action(&all, "grep", "x"), Action::Allow);
    assert_eq!(action(&all, "external_directory", "/tmp/*"), Action::Allow);
}

#[test]
fn the_presets_by_list_deny_what_they_do_not_name() {
    for (preset, edits) in [
        (Preset::ReadOnly, Action::Deny),
        (Preset::Stranger, Action::Allow),
    ] {
        let policy = Policy {
            preset,
            rules: Vec::new(),
        };
        for version in ["1.3.2", "1.18.33"] {
            let all = [agent_rules(version), policy.rules()].concat();
            for class in [
                "webfetch",
                "websearch",
                "codesearch",
                "skill",
                "task",
                "lsp",
                "a_tool_of_tomorrow",
                "tomorrow",
            ] {
                let last = all.iter().rfind(|rule| matches(class, &rule.permission)).unwrap();
                assert_eq!(
                    (last.pattern.as_str(), last.action),
                    ("*", Action::Deny),
                    "{preset} {class}"
                );
            }
            for class in ["edit", "bash"] {
                assert_eq!(action(&all, class, "anything"), edits, "{preset} {class}");
            }
            for class in ["read", "glob", "grep", "list", "todowrite"] {
                assert_eq!(
                    action(&all, class, "src/main.rs"),
                    Action::Allow,
                    "{preset} {class}"
                );
            }
            assert_eq!(action(&all, "read", "a/.env"), Action::Deny);
            assert_eq!(action(&all, "external_directory", "/home/a/.ssh/*"), Action::Deny);
        }
    }
    let stranger = Policy {
        preset: Preset::Stranger,
        rules: Vec::new(),
    };
    assert_eq!(
        action(&stranger.rules(), "external_directory", "/tmp/*"),
        Action::Deny
    );
    // Nobody is asked, even if somebody could answer.
    assert_eq!(stranger.asking_rules(), stranger.rules());
    assert!(Preset::Stranger.requires_sandbox() && !Preset::ReadOnly.requires_sandbox());
}

#[test]
fn own_rules_come_after_the_preset() {
    let policy = own(&["external_directory:/data/*=allow"]);
    assert_eq!(
        action(&policy.rules(), "external_directory", "/data/x"),
        Action::Allow
    );
    let json: Vec<Rule> = serde_json::from_str(&rules_to_json(&policy.rules())).unwrap();
    assert_eq!(json, policy.rules());
    assert!(
        rules_to_json(&policy.rules())
            .starts_with(r#"[{"permission":"question","pattern":"*","action":"deny"},"#)
    );
}

// ---- explanation

fn agent_rules(version: &str) -> Vec<Rule> {
    let path = format!("{}/fixtures/agent/{version}.json", env!("CARGO_MANIFEST_DIR"));
    parse_agent_rules(&std::fs::read(path).unwrap()).unwrap()
}

fn lines<'a>(explained: &'a [Explained], class: &str) -> Vec<&'a Explained> {
    explained.iter().filter(|line| line.permission == class).collect()
}

#[test]
fn the_explanation_names_every_class_and_where_its_answer_comes_from() {
    let explained = explain(&own(&["bash:git push *=ask", "webfetch=deny"]), None);
    for class in CLASSES.into_iter().chain([OTHER_TOOLS]) {
        let first = lines(&explained, class)[0];
        assert_eq!(first.pattern, "*", "{class}");
    }
    let bash = lines(&explained, "bash");
    assert_eq!(
        (bash[0].action, bash[0].source, bash[0].could_ask),
        (Action::Allow, Source::Default, false)
    );
    assert_eq!(bash[1].pattern, "git push *");
    assert_eq!(
        (bash[1].action, bash[1].source, bash[1].could_ask),
        (Action::Ask, Source::SessionRule, true)
    );
    assert_eq!(bash.len(), 2);
    let web = lines(&explained, "webfetch");
    assert_eq!(
        (web[0].action, web[0].source, web.len()),
        (Action::Deny, Source::SessionRule, 1)
    );
    let read = lines(&explained, "read");
    let read: Vec<_> = read
        .iter()
        .map(|line| (line.pattern.as_str(), line.action, line.source))
        .collect();
    let preset = Source::Session(Preset::Headless);
    assert_eq!(
        read,
        [
            ("*", Action::Allow, Source::Default),
            ("*.env", Action::Deny, preset),
            ("*.env.*", Action::Deny, preset),
            ("*.env.example", Action::Allow, preset),
        ]
    );
}

#[test]
fn the_users_configuration_is_distinguished_from_opencodes_defaults() {
    let mut agent = agent_rules("1.18.33");
    agent.push(rule("bash=ask"));
    let explained = explain(&Policy::default(), Some(&agent));
    let bash = lines(&explained, "bash");
    assert_eq!(
        (bash[0].action, bash[0].source, bash[0].could_ask),
        (Action::Ask, Source::Agent, true)
    );
    assert_eq!(lines(&explained, "edit")[0].source, Source::Default);
}

#[test]
fn agents_are_read_whatever_stands_before_them() {
    let mut noisy = b"Performing one time database migration {1}\n".to_vec();
    noisy.extend_from_slice(
        br#"{"name":"build","permission":[{"permission":"*","action":"allow","pattern":"*"}]}"#,
    );
    assert_eq!(parse_agent_rules(&noisy).unwrap(), [rule("*=allow")]);
    for nothing in [
        &b""[..],
        b"Error: no",
        b"{\"name\":\"build\"}",
        b"{\"permission\":[{\"permission\":1}]}",
        b"{",
    ] {
        assert!(parse_agent_rules(nothing).is_err());
    }
}

proptest! {
    #[test]
    fn matching_is_as_defined(input in short_text(), pattern in short_text()) {
        prop_assert_eq!(matches(&input, &pattern), naive_matches(&input, &pattern));
    }

    #[test]
    fn short_forms_come_back(class in "[a-z*][a-z_*.-]{0,12}", pattern in "[^\\p{Cc}]{1,20}", action in any_action()) {
        let rule = Rule { permission: class, pattern, action };
        prop_assert_eq!(rule.to_string().parse::<Rule>(), Ok(rule));
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in any::<String>()) {
        if let Ok(rule) = text.parse::<Rule>() {
            prop_assert_eq!(rule.to_string().parse::<Rule>(), Ok(rule));
        }
    }

    #[test]
    fn the_object_decides_as_the_list_does(
        rules in prop::collection::vec(rule_of(any_class(), plain_pattern()), 0..10),
        class in prop_oneof![literal_class(), Just("glob"), Just("x_y")],
        input in input(),
    ) {
        let policy = Policy { preset: Preset::Full, rules };
        let object = from_config(&env_json(&policy.rules()));
        prop_assert_eq!(
            action(&object, class, input), action(&policy.rules(), class, input), "{}", env_json(&policy.rules())
        );
    }

    #[test]
    fn the_object_never_allows_what_the_list_does_not(
        rules in prop::collection::vec(
            rule_of(prop_oneof![any_class(), prop::sample::select(vec!["ba?h", "m?p_?"])], any_pattern()), 0..10),
        class in prop_oneof![literal_class(), Just("glob")],
        input in input(),
    ) {
        let policy = Policy { preset: Preset::Headless, rules };
        let object = from_config(&env_json(&policy.rules()));
        if evaluate(&object, class, input).is_some_and(|rule| rule.action == Action::Allow) {
            let listed = evaluate(&policy.rules(), class, input).map(|rule| rule.action);
            prop_assert_eq!(listed, Some(Action::Allow), "{}", env_json(&policy.rules()));
        }
    }

    #[test]
    fn the_explanation_decides_as_opencode_does(
        policy in any_policy(),
        class in literal_class(),
        input in input(),
        with_agent in any::<bool>(),
    ) {
        let agent = agent_rules("1.3.2");
        let explained = explain(&policy, with_agent.then_some(&agent[..]));
        let explained = lines(&explained, class).into_iter().rfind(|line| matches(input, &line.pattern)).cloned();
        let all = [agent, policy.rules()].concat();
        // A class that no rule names appears under `*` or under a wildcard of the policy.
        if let Some(explained) = explained {
            prop_assert_eq!(explained.action, action(&all, class, input));
            prop_assert_eq!(explained.could_ask, explained.action == Action::Ask);
        } else {
            prop_assert!(!CLASSES.contains(&class));
        }
    }
}
