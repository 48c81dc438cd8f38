//! Durations as people type and read them.

use std::time::Duration;

/// Parses a duration: `90s`, `10m`, `1h 30m`, `30d`, or a number of seconds. The maximum is 10 years, so that the sum
/// of two never overflows.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_hours(24 * 3660);
    let wrong = || "expected a duration such as 90s, 10m, 1h30m or 7d".to_owned();
    let text = text.trim();
    // A day is 24 hours here. jiff rightly does not assume that, so days are parsed separately.
    let (days, rest) = match text.split_once('d') {
        Some((days, rest)) if days.bytes().all(|byte| byte.is_ascii_digit()) => {
            (days.parse::<u32>().map_err(|_| wrong())?, rest.trim())
        }
        _ => (0, text),
    };
    let rest = match rest.parse::<f64>() {
        _ if rest.is_empty() && days > 0 => Duration::ZERO,
        Ok(seconds) if days == 0 => Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?,
        _ => {
            let signed: jiff::SignedDuration = rest.parse().map_err(|_| wrong())?;
            Duration::try_from(signed).map_err(|_| wrong())?
        }
    };
    let duration = Duration::from_hours(24 * u64::from(days)).saturating_add(rest);
    if duration > LONGEST {
        return Err("must be at most ten years".to_owned());
    }
    Ok(duration)
}

/// Parses the limit of something that takes time: a duration above zero.
pub fn parse_time_limit(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => {
            Err("a limit of zero would end it at once; for hardly any limit, write 30d".to_owned())
        }
        limit => Ok(limit),
    }
}

/// Formats a duration for people, to the second: `1h30m`, `45s`, `0.3s`.
pub fn print_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds < 10 {
        let text = format!("{:.1}", duration.as_secs_f64());
        return format!("{}s", text.strip_suffix(".0").unwrap_or(&text));
    }
    let mut text = String::new();
    for (unit, size) in [("d", 86400), ("h", 3600), ("m", 60), ("s", 1)] {
        let count = match unit {
            "d" => seconds / size,
            "h" => seconds % 86400 / size,
            "m" => seconds % 3600 / size,
            _ => seconds % 60,
        };
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
        }
    }
    text
}
