//! JSON Schemas, and serde implementations that cannot be derived, for types whose JSON form is a single string.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::permission::{Preset, Source};
use crate::{Address, IssueRef, RepoRef, SessionState};

/// Implements the schema of a type that is a string in JSON, with a description and an example.
macro_rules! string_schema {
    ($kind:ty, $name:literal, $description:literal) => {
        impl JsonSchema for $kind {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string", "description": $description})
            }
        }
    };
}

string_schema!(
    Address,
    "Address",
    "What names a session, in canonical form: `REPO#NUMBER`, `REPO#NUMBER/ROLE` or `REPO~NAME`, where REPO is `instance/owner[/group...]/repo`."
);
string_schema!(
    IssueRef,
    "IssueRef",
    "An issue in canonical form: `instance/owner[/group...]/repo#number`."
);
string_schema!(
    RepoRef,
    "RepoRef",
    "A repository in canonical form: `instance/owner[/group...]/repo`."
);

/// Implements the schema of a type that is one of several strings in JSON.
macro_rules! string_enum_schema {
    ($kind:ty, $name:literal, $description:literal, $names:expr) => {
        impl JsonSchema for $kind {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string", "description": $description, "enum": $names})
            }
        }

        impl Serialize for $kind {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let name = Cow::<'de, str>::deserialize(deserializer)?;
                name.parse().map_err(de::Error::custom)
            }
        }
    };
}

string_enum_schema!(
    SessionState,
    "SessionState",
    "What a session is doing, or how its last turn ended.",
    SessionState::all().map(SessionState::as_str).collect::<Vec<_>>()
);
string_enum_schema!(
    Source,
    "Source",
    "Where the answer about a permission comes from.",
    Preset::ALL
        .into_iter()
        .map(Source::Session)
        .chain([Source::SessionRule, Source::Agent, Source::Default])
        .map(|source| source.to_string())
        .collect::<Vec<_>>()
);
