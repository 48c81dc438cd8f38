//! Times as microseconds since the epoch: the form in which the queue keeps and compares them.

use jiff::Timestamp;

/// A time, in microseconds since the epoch.
pub(super) type Micros = i64;

/// The last microsecond that has begun at this time.
pub(super) fn floor(time: Timestamp) -> Micros {
    within_range(time.as_nanosecond().div_euclid(1000))
}

/// The first microsecond that is not before this time. Nothing that waits for a time may begin a part of a microsecond
/// too early.
pub(super) fn ceil(time: Timestamp) -> Micros {
    within_range(-(-time.as_nanosecond()).div_euclid(1000))
}

/// Rounding must not leave the times that can be read back. jiff makes no timestamp of the microseconds in the last
/// second.
fn within_range(micros: i128) -> Micros {
    let limit = |time: Timestamp| i128::from(time.as_second()) * 1_000_000;
    micros.clamp(limit(Timestamp::MIN), limit(Timestamp::MAX)) as Micros
}

/// The time as others see it. `None` if no timestamp can have it, which only a damaged record asks for.
pub(super) fn timestamp(micros: Micros) -> Option<Timestamp> {
    Timestamp::from_microsecond(micros).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nanos(nanos: i128) -> Timestamp {
        Timestamp::from_nanosecond(nanos).unwrap()
    }

    #[test]
    fn rounding_goes_down_for_the_past_and_up_for_the_future() {
        assert_eq!((floor(nanos(1_500)), ceil(nanos(1_500))), (1, 2));
        assert_eq!((floor(nanos(2_000)), ceil(nanos(2_000))), (2, 2));
        assert_eq!((floor(nanos(-1_500)), ceil(nanos(-1_500))), (-2, -1));
    }

    #[test]
    fn the_first_and_the_last_time_can_be_kept() {
        for time in [Timestamp::MIN, Timestamp::MAX] {
            assert!(timestamp(floor(time)).is_some() && timestamp(ceil(time)).is_some());
        }
    }
}
