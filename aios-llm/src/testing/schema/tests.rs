use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    net::{Ipv4Addr, Ipv6Addr},
    num::NonZeroU8,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;

use super::*;
use crate::schema::schema_of;

/// Checks that a value is generated that the schema accepts, also its formats.
#[track_caller]
fn valid(schema: &Value) -> Value {
    let value = example("the test", schema).unwrap();
    let validator = jsonschema::options().should_validate_formats(true).build(schema).unwrap();
    assert!(validator.is_valid(&value), "{value} for {schema}");
    value
}

/// Checks that a value is generated that can be decoded as the type.
#[track_caller]
fn decodes<T: DeserializeOwned + JsonSchema + Debug>() -> T {
    let value = valid(&schema_of::<T>());
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{value}: {error}"))
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Nested {
    name: String,
    kind: Kind,
    score: f64,
    count: u32,
    inner: Vec<Inner>,
    maybe: Option<Inner>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Inner {
    flag: bool,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Large { size: u8 },
    Small,
}

/// The first variant contains itself.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
enum Expression {
    Not(Box<Self>),
    Both(Box<Self>, Box<Self>),
    Number(f64),
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Flat {
    id: u8,
    #[serde(flatten)]
    kind: Tagged,
    #[serde(flatten)]
    expression: Option<Expression>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type")]
enum Tagged {
    Circle { radius: NonZeroU8 },
    Square { side: i64 },
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Untagged {
    Pair(u8, String),
    One { pair: (bool, [i8; 3]) },
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Limited {
    #[schemars(range(max = -5))]
    below: i32,
    #[schemars(range(min = 0.25, max = 0.5))]
    share: f64,
    #[schemars(extend("multipleOf" = 0.1, "exclusiveMinimum" = 0.2))]
    tenths: f64,
    #[schemars(extend("multipleOf" = 7), range(min = 8))]
    sevens: u64,
    #[schemars(length(max = 0))]
    empty: String,
    #[schemars(length(min = 2000))]
    long: String,
    #[schemars(regex(pattern = "^[A-Z]{2}-\\d{3,}(x|y)?$"))]
    code: String,
    #[schemars(length(min = 150))]
    many: Vec<u8>,
    #[schemars(length(min = 3))]
    set: BTreeSet<String>,
    #[schemars(length(min = 2), extend("uniqueItems" = true))]
    flags: Vec<bool>,
    #[schemars(extend("minProperties" = 2))]
    map: BTreeMap<String, u8>,
    four: Ipv4Addr,
    six: Ipv6Addr,
    letter: char,
}

#[test]
fn should_generate_values_that_decode() {
    decodes::<Nested>();
    decodes::<Expression>();
    decodes::<Vec<Expression>>();
    decodes::<Flat>();
    decodes::<Untagged>();
    decodes::<(u8, String, Option<bool>)>();
    decodes::<BTreeMap<u8, Kind>>();
    decodes::<Option<NonZeroU8>>();
    let limited = decodes::<Limited>();
    assert_eq!((limited.below, limited.sevens, limited.many.len()), (-5, 14, 150));
    assert_eq!((limited.empty.as_str(), limited.set.len()), ("", 3));
}

#[test]
fn should_generate_values_of_any_ordinary_schema() {
    for schema in [
        json!({"type": "integer", "exclusiveMaximum": -3}),
        json!({"type": "integer", "exclusiveMinimum": 1.5, "maximum": 2}),
        json!({"type": "integer", "minimum": u64::MAX}),
        json!({"type": "integer", "multipleOf": 2.5, "minimum": 1}),
        json!({"type": "number", "maximum": -0.5}),
        json!({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.01}),
        json!({"type": "number", "exclusiveMaximum": 0}),
        json!({"type": "string", "maxLength": 0}),
        json!({"type": "string", "pattern": "^(?:GET|POST) /[^/ ]+$", "minLength": 20}),
        json!({"type": "string", "pattern": "[0-9]", "minLength": 5}),
        json!({"type": "string", "pattern": "^\\S?\\.[\\w-]{2}$", "maxLength": 3}),
        json!({"type": "array", "prefixItems": [{"type": "string"}, {"const": 1}], "minItems": 3,
            "items": {"type": "boolean"}}),
        json!({"type": "array", "contains": {"type": "integer"}}),
        json!({"type": "array", "items": {"enum": ["a", "b", "c"]}, "uniqueItems": true, "minItems": 3}),
        json!({"type": "array", "minItems": 30, "uniqueItems": true, "items": {
            "type": "object", "properties": {"id": {"type": "integer"}, "on": {"type": "boolean"}},
            "required": ["id", "on"]}}),
        json!({"type": "object", "minProperties": 3, "propertyNames": {"maxLength": 2},
            "additionalProperties": {"type": "integer"}}),
        json!({"type": "object", "minProperties": 2, "additionalProperties": false,
            "patternProperties": {"^x[a-z]+$": {"type": "null"}}}),
        json!({"properties": {"id": {"type": "integer"}}, "required": ["id"],
            "oneOf": [{"required": ["a"]}, {"required": ["b"], "properties": {"b": {"const": 2}}}]}),
        json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "allOf": [
            {"properties": {"a": {"minimum": 5}}}, {"$ref": "#/$defs/b"}],
            "$defs": {"b": {"properties": {"b": {"type": "string"}}, "required": ["b"]}}}),
        json!({"anyOf": [{"$ref": "#/$defs/none"}, {"type": "array", "items": {"$ref": "#"},
            "maxItems": 1}], "$defs": {"none": {"type": "object", "required": ["x"],
            "properties": {"x": false}}}}),
        json!({"anyOf": [{"type": "string"}, {"type": "null"}], "default": null}),
        json!({"type": ["null", "integer"], "not": {"type": "null"}}),
        json!({}),
    ] {
        valid(&schema);
    }
    for format in [
        "date-time",
        "date",
        "time",
        "duration",
        "uuid",
        "email",
        "hostname",
        "ipv4",
        "ipv6",
        "uri",
        "uri-reference",
        "iri",
        "json-pointer",
    ] {
        let texts = valid(&json!({"type": "array", "items": {"type": "string", "format": format},
            "minItems": 5, "uniqueItems": true}));
        assert!(texts[0].as_str().unwrap().len() > 1, "{texts}");
    }
}

#[tokio::test]
async fn should_name_a_schema_that_it_finds_no_value_for() {
    let mut request = ModelRequest::new("go");
    for schema in [
        json!({"type": "string", "pattern": "^(?=x)y"}),
        json!({"type": "object", "required": ["self"], "properties": {"self": {"$ref": "#"}}}),
        json!({"type": "integer", "minimum": 2, "maximum": 1}),
    ] {
        request.output = Some(crate::model::OutputSchema { name: "Odd".to_owned(), schema });
        let error = SchemaModel::new().complete(&request).await.unwrap_err();
        assert_eq!(error.kind(), ModelErrorKind::UnexpectedRequest);
        assert!(error.to_string().contains("output \"Odd\""), "{error}");
    }
}
