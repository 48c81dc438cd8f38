//! Reads the JSON of all versions of opencode: a field that is missing or has an unexpected type is empty, and unknown
//! fields are ignored.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

use kugetsu_api::json::without_lone_surrogates;

/// A type that can be read from any JSON value. Each type accepts the values that have a meaning for it; all others
/// give the default.
pub(super) trait Tolerant: Default {
    fn from_text(_text: &str) -> Self {
        Self::default()
    }

    fn from_string(text: String) -> Self {
        Self::from_text(&text)
    }

    fn from_bool(_value: bool) -> Self {
        Self::default()
    }

    fn from_number(_number: Number) -> Self {
        Self::default()
    }

    fn from_array<'de, A: SeqAccess<'de>>(mut array: A) -> Result<Self, A::Error> {
        while array.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Self::default())
    }

    fn from_object<'de, A: MapAccess<'de>>(mut object: A) -> Result<Self, A::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Self::default())
    }
}

/// For `#[serde(deserialize_with)]`. Fails only on invalid JSON.
pub(super) fn tolerant<'de, D: Deserializer<'de>, T: Tolerant>(deserializer: D) -> Result<T, D::Error> {
    deserializer.deserialize_any(AnyValue(PhantomData))
}

/// Reads a whole JSON document. A lone half of a surrogate pair becomes U+FFFD. A document that nests deeper than 128
/// levels, or that names one known field twice, is not valid.
pub(super) fn from_slice<T: Tolerant>(json: &[u8]) -> serde_json::Result<T> {
    let read = |json: &[u8]| serde_json::from_slice(json).map(|Read(value)| value);
    read(json).or_else(|error| match without_lone_surrogates(json) {
        Some(repaired) => read(&repaired),
        None => Err(error),
    })
}

/// A value that [`tolerant`] has read.
pub(super) struct Read<T>(pub(super) T);

impl<'de, T: Tolerant> Deserialize<'de> for Read<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        tolerant(deserializer).map(Self)
    }
}

struct AnyValue<T>(PhantomData<T>);

impl<'de, T: Tolerant> Visitor<'de> for AnyValue<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_str<E>(self, text: &str) -> Result<T, E> {
        Ok(T::from_text(text))
    }

    fn visit_string<E>(self, text: String) -> Result<T, E> {
        Ok(T::from_string(text))
    }

    fn visit_bool<E>(self, value: bool) -> Result<T, E> {
        Ok(T::from_bool(value))
    }

    fn visit_u64<E>(self, number: u64) -> Result<T, E> {
        Ok(T::from_number(number.into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<T, E> {
        Ok(T::from_number(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<T, E> {
        Ok(Number::from_f64(number).map_or_else(T::default, T::from_number))
    }

    fn visit_unit<E>(self) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, array: A) -> Result<T, A::Error> {
        T::from_array(array)
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<T, A::Error> {
        T::from_object(object)
    }
}

impl Tolerant for Option<String> {
    fn from_text(text: &str) -> Self {
        Some(text.to_owned())
    }

    fn from_string(text: String) -> Self {
        Some(text)
    }
}

impl Tolerant for String {
    fn from_text(text: &str) -> Self {
        text.to_owned()
    }

    fn from_string(text: String) -> Self {
        text
    }
}

impl Tolerant for bool {
    fn from_bool(value: bool) -> Self {
        value
    }
}

impl Tolerant for Option<Number> {
    fn from_number(number: Number) -> Self {
        Some(number)
    }
}

impl<T: Tolerant> Tolerant for Vec<T> {
    fn from_array<'de, A: SeqAccess<'de>>(mut array: A) -> Result<Self, A::Error> {
        let mut values = Self::new();
        while let Some(Read(value)) = array.next_element()? {
            values.push(value);
        }
        Ok(values)
    }
}

/// Implements [`Tolerant`] for structs that derive `Deserialize` with a default for each field. Such a struct is empty
/// unless the value is an object.
macro_rules! tolerant_objects {
    ($($name:ty),+ $(,)?) => {$(
        impl $crate::opencode::tolerant::Tolerant for $name {
            fn from_object<'de, A: serde::de::MapAccess<'de>>(object: A) -> Result<Self, A::Error> {
                serde::Deserialize::deserialize(serde::de::value::MapAccessDeserializer::new(object))
            }
        }
    )+};
}
pub(super) use tolerant_objects;
