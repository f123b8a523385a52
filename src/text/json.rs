//! JSON that somebody else wrote.
//!
//! Invariant: an object is read from an object alone. What serde derives for a struct also reads a list, by position, so that a
//! list of four texts would be a name, or a target. This does not hold inside enums, and not with serde's `flatten` and
//! `untagged`, which read through a buffer of serde's own: no type that is read here has any of them.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

/// Reads a value that takes all of `json`.
///
/// # Errors
/// Like [`serde_json::from_slice`], and where a list is in place of an object.
pub fn from_slice<'de, T: Deserialize<'de>>(json: &'de [u8]) -> serde_json::Result<T> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let value = T::deserialize(Strict(&mut reader))?;
    reader.end().map(|()| value)
}

/// What is wrong, without the names of this program's types.
pub fn why(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let Some((before, after)) = text.split_once("expected struct ") else { return text };
    let place = after.find(" at line ").map_or("", |at| &after[at..]);
    format!("{before}expected an object{place}")
}

/// Wraps whatever reads or is read, down to the last value that is outside of an enum.
struct Strict<T>(T);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Strict<D> {
    type Error = D::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(Strict(visitor))
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_any(Strict(visitor))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_option(Strict(visitor))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_newtype_struct(name, Strict(visitor))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    // Nothing of it is kept.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_ignored_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Strict<V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(formatter)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<V::Value, E> {
        self.0.visit_bool(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<V::Value, E> {
        self.0.visit_i64(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<V::Value, E> {
        self.0.visit_u64(value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<V::Value, E> {
        self.0.visit_f64(value)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<V::Value, E> {
        self.0.visit_str(value)
    }

    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<V::Value, E> {
        self.0.visit_borrowed_str(value)
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_unit()
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_none()
    }

    fn visit_some<D: Deserializer<'de>>(self, reader: D) -> Result<V::Value, D::Error> {
        self.0.visit_some(Strict(reader))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, reader: D) -> Result<V::Value, D::Error> {
        self.0.visit_newtype_struct(Strict(reader))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<V::Value, A::Error> {
        self.0.visit_seq(Strict(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(Strict(map))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.0.next_element_seed(Strict(seed))
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.0.next_key_seed(seed)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.0.next_value_seed(Strict(seed))
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Strict<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Strict(reader))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Newtype(Option<Inner>);

    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Inner {
        name: String,
        number: Option<u64>,
    }

    #[derive(Debug, Default, PartialEq, serde::Deserialize)]
    #[serde(default)]
    struct Outer {
        list: Vec<Inner>,
        map: BTreeMap<String, Inner>,
        pair: Option<(i64, f64)>,
        within: Option<Newtype>,
        flag: bool,
    }

    const WHOLE: &str = r#"{"list":[{"name":"a","number":7},{"number":null,"name":"\u00e4"}],"map":{"k":{"name":"b"}},
        "pair":[-1,2.5],"within":{"name":"c"},"flag":true,"other":[[{}]]}"#;

    #[test]
    fn an_object_is_read_from_an_object_alone_however_deep_it_is() {
        let read = from_slice::<Outer>(WHOLE.as_bytes()).unwrap();
        assert_eq!(read, serde_json::from_str(WHOLE).unwrap());
        assert_eq!((read.list.len(), read.pair, read.flag), (2, Some((-1, 2.5)), true));
        for (json, place) in [
            (r#"[]"#, "line 1 column 0"),
            (r#"{"list":[["a",7]]}"#, "line 1 column 9"),
            (r#"{"map":{"k":["b",null]}}"#, "line 1 column 12"),
            (r#"{"within":["c",null]}"#, "line 1 column 10"),
        ] {
            assert!(serde_json::from_str::<Outer>(json).is_ok(), "serde takes {json}");
            let error = why(&from_slice::<Outer>(json.as_bytes()).unwrap_err());
            assert_eq!(error, format!("invalid type: sequence, expected an object at {place}"));
        }
        let error = from_slice::<Inner>(br#"{"name":"a"} x"#).unwrap_err().to_string();
        assert_eq!(error, "trailing characters at line 1 column 14");
    }

    proptest! {
        #[test]
        fn of_damaged_json_it_reads_what_serde_reads_or_less(seed: u64) {
            let damaged = testbed::mutate::mutated(WHOLE.as_bytes(), seed);
            if let Ok(read) = from_slice::<Outer>(&damaged) {
                prop_assert_eq!(read, serde_json::from_slice(&damaged).unwrap());
            }
        }
    }
}
