//! A copy of an exported session with new ids, and with times that are not in the future.
//!
//! opencode's own fork does not help a session whose messages are newer than the clock: it makes new ids and keeps the
//! times (measured on 1.3.2 and 1.18.33). An export that is imported under other ids can have both.

use std::collections::HashMap;

use serde_json::Value;

use super::ids::made_at;
use kugetsu_api::SessionId;

/// A copy of an export, to be imported.
#[derive(Debug)]
pub struct Renumbered {
    /// The copy's session.
    pub session: SessionId,
    /// The new id of each session, message and part of the export.
    pub ids: HashMap<String, String>,
    /// The export of the copy.
    pub export: Value,
}

/// Gives an export new ids, and caps its times at `now_ms` (milliseconds since the epoch). `order` has the ids of its
/// messages in the order in which opencode stored them, which becomes the order of the copy. `None` if the export does
/// not have the expected form.
pub fn renumbered(mut export: Value, order: &[String], now_ms: i64) -> Option<Renumbered> {
    let place: HashMap<&str, usize> = order.iter().map(String::as_str).zip(0..).collect();
    let place_of = |message: &Value| {
        let id = message["info"]["id"].as_str()?;
        place.get(id).copied()
    };
    let old_session = export["info"]["id"].as_str()?.to_owned();
    let messages = export["messages"].as_array_mut()?;
    if messages.iter().any(|message| place_of(message).is_none()) {
        return None;
    }
    messages.sort_by_key(|message| place_of(message));
    let mut ids = HashMap::from([(old_session, made_at("ses", now_ms, 0))]);
    let session = SessionId::new(ids.values().next()?.clone())?;
    let parts: usize = messages
        .iter()
        .map(|message| message["parts"].as_array().map_or(0, Vec::len))
        .sum();
    // All of them are older than what opencode makes from now on.
    let mut count = -i64::try_from(messages.len() + parts).ok()?;
    let mut new_id = |ids: &mut HashMap<String, String>, prefix, old: &Value| {
        if let Some(old) = old.as_str() {
            ids.insert(old.to_owned(), made_at(prefix, now_ms, count));
            count += 1;
        }
    };
    let mut latest = now_ms;
    for message in messages.iter_mut().rev() {
        // Later messages bound the times of earlier ones, whatever the clock said.
        if let Some(created) = message.pointer_mut("/info/time/created") {
            latest = latest.min(created.as_i64().unwrap_or(latest));
            *created = latest.into();
        }
    }
    for message in messages.iter() {
        new_id(&mut ids, "msg", &message["info"]["id"]);
        for part in message["parts"].as_array().into_iter().flatten() {
            new_id(&mut ids, "prt", &part["id"]);
        }
    }
    if let Some(info) = export["info"].as_object_mut() {
        // A share belongs to the original, and what was reverted in it stays there.
        info.remove("share");
    }
    rewrite(&mut export, &ids, now_ms, false);
    Some(Renumbered { session, ids, export })
}

/// Replaces the ids everywhere, and caps the numbers below `time`.
fn rewrite(value: &mut Value, ids: &HashMap<String, String>, now_ms: i64, is_time: bool) {
    match value {
        Value::String(text) => {
            if let Some(new) = ids.get(text.as_str()) {
                text.clone_from(new);
            }
        }
        Value::Number(number) if is_time && number.as_i64().is_some_and(|ms| ms > now_ms) => {
            *value = now_ms.into();
        }
        Value::Array(items) => {
            for item in items {
                rewrite(item, ids, now_ms, is_time);
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                rewrite(field, ids, now_ms, is_time || name == "time");
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::opencode::is_later_than;
    use serde_json::json;

    #[test]
    fn a_copy_keeps_the_order_and_has_nothing_of_the_future() {
        let now = 1_795_929_471_000_i64;
        let later = now + 400 * 86_400_000;
        let part = |id: &str, message: &str| {
            json!({"id": id, "messageID": message, "sessionID": "ses_a", "type": "text",
            "time": {"start": later, "end": later + 5}, "text": "msg_1 is in a text"})
        };
        let message = |id: &str, role: &str, parent: Value, time: i64| {
            json!({
                "info": {"id": id, "sessionID": "ses_a", "role": role, "parentID": parent, "time": {"created": time}},
                "parts": [part(&id.replace("msg", "prt"), id)],
            })
        };
        // The clock was ahead for the first two, and was set right before the third.
        let export = json!({
            "info": {"id": "ses_a", "title": "t", "time": {"created": later, "updated": later}, "share": {"url": "x"}},
            "messages": [
                message("msg_3", "assistant", json!("msg_1"), now - 10),
                message("msg_1", "user", Value::Null, later),
                message("msg_2", "assistant", json!("msg_1"), later + 1),
            ],
        });
        let order: Vec<String> = ["msg_1", "msg_2", "msg_3"].map(str::to_owned).into();
        let copy = renumbered(export.clone(), &order, now).unwrap();
        let messages = copy.export["messages"].as_array().unwrap();
        let mut ids = Vec::new();
        for (message, old) in messages.iter().zip(&order) {
            let info = &message["info"];
            assert_eq!(info["id"], copy.ids[old].as_str());
            assert_eq!(info["sessionID"], copy.session.as_str());
            assert!(info["time"]["created"].as_i64().unwrap() < now);
            assert_eq!(message["parts"][0]["messageID"], info["id"]);
            assert_eq!(message["parts"][0]["text"], "msg_1 is in a text");
            assert_eq!(message["parts"][0]["time"], json!({"start": now, "end": now}));
            let id = info["id"].as_str().unwrap().to_owned();
            assert!(!is_later_than(&id, now), "{id}");
            ids.push(id);
        }
        assert!(ids.is_sorted(), "{ids:?}");
        assert_eq!(messages[1]["info"]["parentID"], ids[0].as_str());
        assert_eq!(messages[2]["info"]["parentID"], ids[0].as_str());
        assert_eq!(
            copy.export["info"]["time"],
            json!({"created": now, "updated": now})
        );
        assert!(copy.export["info"].get("share").is_none());
        assert!(renumbered(export, &order[..2], now).is_none());
    }
}
