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

/// JSON of another program in which a `\ud800` stands alone, with `\ufffd` in its place; `None` if there is no such
/// escape. JavaScript writes half of a pair so, and no text in Rust can hold it.
pub fn without_lone_surrogates(json: &[u8]) -> Option<Vec<u8>> {
    let mut repaired = None;
    let mut at = 0;
    while let Some(escape) = json.get(at..).filter(|rest| !rest.is_empty()) {
        let Some(skip) = escape.iter().position(|byte| *byte == b'\\') else {
            break;
        };
        at += skip;
        match surrogate(&json[at..]) {
            Some(0xd800..=0xdbff) if matches!(surrogate(&json[at + 6..]), Some(0xdc00..=0xdfff)) => at += 12,
            Some(_) => {
                let repaired = repaired.get_or_insert_with(|| json.to_vec());
                repaired[at..at + 6].copy_from_slice(b"\\ufffd");
                at += 6;
            }
            None => at += 2,
        }
    }
    repaired
}

/// The half of a pair that the escape at the beginning stands for.
fn surrogate(json: &[u8]) -> Option<u16> {
    let digits = json.strip_prefix(b"\\u")?.get(..4)?;
    let digits = std::str::from_utf8(digits).ok()?;
    let unit = u16::from_str_radix(digits, 16).ok()?;
    (0xd800..=0xdfff).contains(&unit).then_some(unit)
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

    #[test]
    fn only_a_lone_half_of_a_pair_is_replaced() {
        for (json, repaired) in [
            (r#""\ud83d\ude00 \\ud800 \\\ud83d\ude00""#, None),
            (r#""\ud800""#, Some(r#""\ufffd""#)),
            (r#""\ude00\ud83d""#, Some(r#""\ufffd\ufffd""#)),
            (r#""\ud83d\ud83d\uDE00""#, Some(r#""\ufffd\ud83d\uDE00""#)),
            (r#""\ud83dx \u12"#, Some(r#""\ufffdx \u12"#)),
            ("\"\\", None),
        ] {
            let expected = repaired.map(|text| text.as_bytes().to_vec());
            assert_eq!(without_lone_surrogates(json.as_bytes()), expected, "{json}");
        }
    }

    proptest! {
        /// What JavaScript writes of any string, whole or not, can be read after the repair.
        #[test]
        fn any_string_of_javascript_can_be_read(units in proptest::collection::vec(0xd7f0_u16..0xe010, 0..9)) {
            let escaped: Vec<_> = units.iter().map(|unit| format!("\\u{unit:04x}")).collect();
            let json = format!("\"{}\"", escaped.concat()).into_bytes();
            let repaired = without_lone_surrogates(&json).unwrap_or(json);
            let read: String = serde_json::from_slice(&repaired).unwrap();
            prop_assert_eq!(read, String::from_utf16_lossy(&units));
        }

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
