//! JSON with decimal numbers: `0.0000104`, never `1.04e-5`, which shells, `awk` and people cannot compare.

use std::io::{Result, Write};

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::{Formatter, PrettyFormatter};

/// Writes a number as a decimal with at least one digit after the point.
pub fn write_decimal<W: ?Sized + Write>(writer: &mut W, value: f64) -> Result<()> {
    let text = value.to_string();
    writer.write_all(text.as_bytes())?;
    if text.contains('.') {
        Ok(())
    } else {
        writer.write_all(b".0")
    }
}

/// Everything on one line.
struct Compact;

impl Formatter for Compact {
    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> Result<()> {
        write_decimal(writer, value)
    }
}

/// [`PrettyFormatter`] with decimal numbers.
#[derive(Default)]
struct Pretty(PrettyFormatter<'static>);

macro_rules! delegate {
    ($($name:ident($($argument:ident: $type:ty)?);)*) => {
        $(fn $name<W: ?Sized + Write>(&mut self, writer: &mut W $(, $argument: $type)?) -> Result<()> {
            self.0.$name(writer $(, $argument)?)
        })*
    };
}

impl Formatter for Pretty {
    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> Result<()> {
        write_decimal(writer, value)
    }

    delegate! {
        begin_array();
        end_array();
        begin_array_value(first: bool);
        end_array_value();
        begin_object();
        end_object();
        begin_object_key(first: bool);
        begin_object_value();
        end_object_value();
    }
}

/// Appends the value to the bytes, on one line.
pub fn append<T: ?Sized + Serialize>(bytes: &mut Vec<u8>, value: &T) -> serde_json::Result<()> {
    value.serialize(&mut Serializer::with_formatter(bytes, Compact))
}

/// The value on one line.
pub fn to_vec<T: ?Sized + Serialize>(value: &T) -> serde_json::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    append(&mut bytes, value)?;
    Ok(bytes)
}

/// The value on one line, as text.
pub fn to_string<T: ?Sized + Serialize>(value: &T) -> serde_json::Result<String> {
    // The serializer writes UTF-8 only.
    Ok(String::from_utf8_lossy(&to_vec(value)?).into_owned())
}

/// The value on indented lines.
pub fn to_vec_pretty<T: ?Sized + Serialize>(value: &T) -> serde_json::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut bytes, Pretty::default()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn small_and_large_amounts_are_decimals() {
        let value = json!({"a": [0.000_000_104, 0.0, 3.0, 1e21, 0.1 + 0.2], "b": {}});
        assert_eq!(
            to_string(&value).unwrap(),
            r#"{"a":[0.000000104,0.0,3.0,1000000000000000000000.0,0.30000000000000004],"b":{}}"#
        );
    }

    proptest! {
        #[test]
        fn every_number_stays_itself(number in any::<f64>().prop_filter("JSON has no others", |n| n.is_finite())) {
            let value = json!({"list": [number, {"text": "e-5"}]});
            let text = to_string(&value).unwrap();
            let digits = text.split([',', '[']).nth(1).unwrap();
            prop_assert!(digits.chars().all(|c| c.is_ascii_digit() || c == '-' || c == '.'), "{}", text);
            prop_assert_eq!(digits.parse(), Ok(number));
            prop_assert!(serde_json::from_str::<Value>(&text).is_ok());
            let pretty = to_vec_pretty(&value).unwrap();
            let pretty = String::from_utf8(pretty).unwrap();
            prop_assert!(pretty.contains(&format!("\n    {digits},")), "{}", pretty);
        }
    }
}
