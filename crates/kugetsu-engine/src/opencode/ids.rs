//! opencode's ids of sessions, messages and parts: a prefix, the time as twelve hexadecimal digits, and fourteen random
//! letters and digits.
//!
//! The digits are the lower 48 bits of the milliseconds since the epoch times 4096, plus a counter (measured on 1.3.2
//! and 1.18.33). They begin again every 795 days, last on 2026-08-14, so that ids tell the order only between two
//! such days. Those of sessions are inverted, so that the newest session comes first.

use uuid::Uuid;

/// How much the digits of an id grow in a millisecond.
const PER_MS: u64 = 4096;

/// The digits of an id that opencode would make at this time, in milliseconds since the epoch, for the `count`th id of
/// the millisecond. A negative count is before that time.
fn digits(ms: i64, count: i64) -> u64 {
    let time = ms.cast_unsigned().wrapping_mul(PER_MS).wrapping_add_signed(count);
    time & 0xffff_ffff_ffff
}

/// Whether an id is greater than one that opencode would make at this time.
pub(crate) fn is_later_than(id: &str, ms: i64) -> bool {
    let own = id.split_once('_').and_then(|(_, rest)| rest.get(..12));
    let own = own.and_then(|hex| u64::from_str_radix(hex, 16).ok());
    own.is_some_and(|own| own > digits(ms, 0))
}

/// An id as opencode makes it.
pub(super) fn made_at(prefix: &str, ms: i64, count: i64) -> String {
    let digits = match prefix {
        "ses" => !digits(ms, count) & 0xffff_ffff_ffff,
        _ => digits(ms, count),
    };
    let random = Uuid::new_v4().simple().to_string();
    format!("{prefix}_{digits:012x}{}", &random[..14])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_tells_whether_it_is_of_later() {
        let now = 1_795_929_471_000;
        for prefix in ["msg", "prt"] {
            assert!(!is_later_than(&made_at(prefix, now, -1), now));
            assert!(is_later_than(&made_at(prefix, now, 1), now));
            assert!(is_later_than(&made_at(prefix, now + 86_400_000, 0), now));
        }
        assert_eq!(made_at("msg", now, 0).len(), 30);
        for other in ["", "msg", "msg_short", "msg_zzzzzzzzzzzzzz"] {
            assert!(!is_later_than(other, now), "{other}");
        }
    }

    #[test]
    fn the_digits_begin_again() {
        let again = 26 << 36;
        let before = made_at("msg", again - 1000, 0);
        assert!(before.starts_with("msg_fff"), "{before}");
        assert!(is_later_than(&before, again + 1000));
    }
}
