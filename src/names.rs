//! Names of keys and commands: lists them, suggests one for a misspelled name, and shortens names for messages.

use serde::Deserializer;
use serde::de::value::Error as NoValue;
use serde::de::{DeserializeOwned, Error, Visitor};

/// The least similarity of a misspelled name and a suggestion; 1 is equal. `bitrat` and `bit_rate` have 0.9 with
/// `bitrate`, `colour` has 0.3; `set-vidoe` has 0.9 with `set-video`, `reboot` 0.4 with `restart`.
const LEAST_SIMILARITY: f64 = 0.6;

/// The longest name, in bytes, for which a suggestion is searched: the longest time zone has 32, the longest key 20,
/// and the time of a comparison grows with both lengths.
const LONGEST_NAME: usize = 64;

/// The names in the `Deserialize` of `T`: the variants of an enum, the fields of a struct.
pub fn of<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut names: &'static [&'static str] = &[];
    // Always fails, as there is no value; it has passed its names before.
    T::deserialize(NameCollector(&mut names)).err();
    names
}

/// The most similar name of `known`, if it is similar enough to `wrong`.
pub fn nearest<'k>(wrong: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    nearest_by(wrong, known, |known| strsim::normalized_damerau_levenshtein(known, wrong))
}

/// The same with a custom `similarity` of each of `known`: from 0 to 1, which is equal.
pub fn nearest_by<K: Copy>(
    wrong: &str,
    known: impl IntoIterator<Item = K>,
    similarity: impl Fn(K) -> f64,
) -> Option<K> {
    if wrong.len() > LONGEST_NAME {
        return None;
    }
    let best = known.into_iter().map(|known| (similarity(known), known)).max_by(|(a, _), (b, _)| a.total_cmp(b));
    best.filter(|(similarity, _)| *similarity >= LEAST_SIMILARITY).map(|(_, known)| known)
}

/// A name, truncated for messages.
pub fn shortened(name: &str) -> String {
    match name.char_indices().nth(LONGEST_NAME) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

struct NameCollector<'k>(&'k mut &'static [&'static str]);

impl<'de> Deserializer<'de> for NameCollector<'_> {
    type Error = NoValue;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, NoValue> {
        *self.0 = fields;
        Err(NoValue::custom("asked for its names only"))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, NoValue> {
        *self.0 = variants;
        Err(NoValue::custom("asked for its names only"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, NoValue> {
        Err(NoValue::custom("this type has no names"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[test]
    fn names_come_from_the_type() {
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case")]
        #[allow(dead_code)]
        struct Table {
            key_frame: u8,
            other: u8,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case")]
        #[allow(dead_code)]
        enum Word {
            SetVideo {},
            Ptz(u8),
        }
        assert_eq!(of::<Table>(), ["key-frame", "other"]);
        assert_eq!(of::<Word>(), ["set-video", "ptz"]);
        assert!(of::<u8>().is_empty());
    }

    #[test]
    fn a_similar_name_is_suggested() {
        let known = ["set-video", "set-audio", "restart"];
        assert_eq!(nearest("set-vidoe", known), Some("set-video"));
        assert_eq!(nearest("reboot", known), None);
        assert_eq!(nearest(&"set-video".repeat(8), known), None);
        assert_eq!(shortened(&"é".repeat(65)), format!("{}…", "é".repeat(64)));
    }
}
