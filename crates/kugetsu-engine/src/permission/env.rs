//! Converts a list of rules to the object form for `OPENCODE_PERMISSION`.
//!
//! The list is `[rule, rule, ...]`. The object is `{class: {pattern: action}}`, which opencode reads back as a list in
//! the order of its keys. The two forms differ in three ways, each of which is handled here:
//!
//! - A key occurs once, whereas a list may repeat a class with others in between. A class without a wildcard
//!   only decides about itself, so each one is written once, behind all wildcard classes. The wildcard rules
//!   that overrule some of its own rules are repeated in it. A wildcard class that occurs twice is written
//!   with one more `*`, which means the same.
//! - JavaScript puts keys that look like array indices (`7`) first. If such a pattern must come later, it is
//!   widened to `7 *`, which also covers `7 ...`, if it denies or asks, and left out if it allows.
//! - A wildcard class without `*` has no second spelling: only its last group may allow.
//!
//! The last two can only make the object stricter than the list.
//!
//! opencode merges the object into the user's configuration, key by key. A class that the configuration names keeps its
//! place and its other patterns there, so the user's rules would land between or after these. Every class is therefore
//! written a second time under a key that nobody uses: a trailing ` *` may match nothing, so `bash *` is another
//! spelling of `bash`. Those keys come last and decide. The plain keys remain for an opencode that does not support
//! that ending. (Measured on 1.3.2 and 1.18.33.)

use std::collections::BTreeSet;

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::{Action, Rule, wildcard};

/// Patterns and actions of one key, in order.
type Group = Vec<(String, Action)>;

pub(super) fn to_object(rules: &[Rule]) -> String {
    let rules = without_overruled(rules);
    let mut object: Vec<(String, Group)> = Vec::new();
    let mut keys: BTreeSet<String> = rules.iter().map(|rule| rule.permission.clone()).collect();

    let wild: Vec<&Rule> = rules
        .iter()
        .copied()
        .filter(|rule| is_wild(&rule.permission))
        .collect();
    let runs: Vec<&[&Rule]> = wild.chunk_by(|a, b| a.permission == b.permission).collect();
    for (at, run) in runs.iter().enumerate() {
        let class = &run[0].permission;
        let mut group: Group = run
            .iter()
            .map(|rule| (rule.pattern.clone(), rule.action))
            .collect();
        let again = runs[at + 1..].iter().any(|later| later[0].permission == *class);
        let before = runs[..at]
            .iter()
            .filter(|earlier| earlier[0].permission == *class);
        let key = if class.contains('*') {
            if before.count() == 0 {
                class.clone()
            } else {
                respelled(class, &mut keys)
            }
        } else if again {
            continue;
        } else {
            let strict = before
                .copied()
                .flatten()
                .filter(|rule| rule.action != Action::Allow);
            group.splice(0..0, strict.map(|rule| (rule.pattern.clone(), rule.action)));
            class.clone()
        };
        object.push((key, group));
    }

    let mut written = BTreeSet::new();
    for (at, rule) in rules.iter().enumerate() {
        let class = &rule.permission;
        if is_wild(class) || !written.insert(class) {
            continue;
        }
        let group = rules[at..]
            .iter()
            .filter(|rule| wildcard::matches(class, &rule.permission))
            .map(|rule| (rule.pattern.clone(), rule.action))
            .collect();
        object.push((class.clone(), group));
    }

    let last: Vec<_> = object
        .iter()
        .map(|(key, group)| (format!("{key} *"), group.clone()))
        .collect();
    object.extend(last);
    let object: Vec<_> = object
        .into_iter()
        .map(|(key, group)| (key, Patterns(in_key_order(group))))
        .collect();
    serde_json::to_string(&Ordered(&object)).expect("strings as keys and values are always JSON")
}

fn is_wild(class: &str) -> bool {
    class.contains(['*', '?'])
}

/// The class with as many extra `*` as it needs to become a new key.
fn respelled(class: &str, keys: &mut BTreeSet<String>) -> String {
    let mut key = class.to_owned();
    while !keys.insert(key.clone()) {
        key = key.replacen('*', "**", 1);
    }
    key
}

/// Leaves out every rule that a later rule with the same class and pattern overrules.
fn without_overruled(rules: &[Rule]) -> Vec<&Rule> {
    let mut seen = BTreeSet::new();
    let mut unique: Vec<&Rule> = rules
        .iter()
        .rev()
        .filter(|rule| seen.insert((&rule.permission, &rule.pattern)))
        .collect();
    unique.reverse();
    unique
}

/// The group without repeated patterns, and with the index-like patterns first, as JavaScript orders them.
fn in_key_order(group: Group) -> Group {
    let mut unique: Group = Vec::new();
    for (pattern, action) in group {
        unique.retain(|(earlier, _)| *earlier != pattern);
        unique.push((pattern, action));
    }
    let mut front: Vec<(u32, Action)> = Vec::new();
    let mut rest: Group = Vec::new();
    for (pattern, action) in unique {
        let Some(index) = array_index(&pattern) else {
            rest.push((pattern, action));
            continue;
        };
        let decided = rest
            .iter()
            .rev()
            .find(|(earlier, _)| wildcard::matches(&pattern, earlier));
        match (decided, action) {
            (None, _) => front.push((index, action)),
            (Some((_, same)), _) if *same == action => {}
            (Some(_), Action::Allow) => {}
            (Some(_), Action::Deny | Action::Ask) => rest.push((format!("{pattern} *"), action)),
        }
    }
    front.sort_unstable_by_key(|(index, _)| *index);
    let mut ordered: Group = front
        .into_iter()
        .map(|(index, action)| (index.to_string(), action))
        .collect();
    for (pattern, action) in rest {
        ordered.retain(|(earlier, _)| *earlier != pattern);
        ordered.push((pattern, action));
    }
    ordered
}

/// The number of a key that JavaScript treats as an array index.
fn array_index(key: &str) -> Option<u32> {
    let index: u32 = key.parse().ok()?;
    (index < u32::MAX && index.to_string() == key).then_some(index)
}

/// A JSON object whose keys stay in the given order.
struct Ordered<'a, V>(&'a [(String, V)]);

impl<V: Serialize> Serialize for Ordered<'_, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

/// The value of a class. A lone `*` is written as the bare action, so that the merge replaces the user's configuration
/// of the class instead of adding to it.
struct Patterns(Group);

impl Serialize for Patterns {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [(pattern, action)] if pattern == "*" => action.serialize(serializer),
            group => Ordered(group).serialize(serializer),
        }
    }
}
