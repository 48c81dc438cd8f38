//! Amounts of US dollars as people type and read them.

/// Parses an amount.
pub fn parse_usd(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err("expected an amount of US dollars such as 0.50".to_owned()),
    }
}

/// Formats a cost. It is often a fraction of a cent.
pub fn print_usd(usd: f64) -> String {
    if usd == 0.0 {
        "$0".to_owned()
    } else if usd < 0.01 {
        format!("${usd:.6}")
    } else {
        format!("${usd:.2}")
    }
}
